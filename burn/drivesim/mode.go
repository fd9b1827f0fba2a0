package drivesim

import (
	"encoding/binary"
	"slices"

	"sallyport/burn/mmc"
)

// Mode pages but 05h and 2Ah, which the drive keeps as they are set: what they
// hold after power-on, and which bits can be changed (MMC-5 7).
var keptPages = map[byte]struct{ initial, mask []byte }{
	0x01: {[]byte{0x01, 10, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{0x01, 10, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0}},
	0x08: {[]byte{0x08, 10, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{0x08, 10, 0x05, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
	0x0D: {[]byte{0x0D, 6, 0, 0x0D, 0, 60, 0, 75}, []byte{0x0D, 6, 0, 0x0F, 0, 0, 0, 0}},
	0x1A: {[]byte{0x1A, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{0x1A, 10, 0, 3, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}},
	0x1D: {[]byte{0x1D, 10, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0}, []byte{0x1D, 10, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0}},
}

// allPages are the mode pages in the order in which 3Fh asks for them.
var allPages = []byte{0x01, 0x05, 0x08, 0x0D, 0x1A, 0x1D, 0x2A}

// resetPages sets all mode pages as after power-on.
func (d *Drive) resetPages() {
	d.page = [52]byte{0: 0x05, 1: 50, 2: 0x40, 3: 0x05, 4: 0x08}
	if d.kind().isCD() {
		d.page[2], d.page[3] = 0x40|mmc.WriteTAO, 0x04
	}
	d.pageSet = false
	d.pages = map[byte][]byte{}
	for code, p := range keptPages {
		d.pages[code] = slices.Clone(p.initial)
	}
}

// modePage returns a page: its current values (control 0), what can be changed
// of it (1), or what it is after power-on (2).
func (d *Drive) modePage(code, control byte) []byte {
	switch {
	case code == 0x05 && control == 1:
		mask := make([]byte, len(d.page))
		mask[0], mask[1], mask[2], mask[3], mask[4] = 0x05, 50, 0x6F, 0xFF, 0x0F
		copy(mask[5:], []byte{0xFF, 0, 0x3F, 0xFF, 0, 0xFF, 0xFF, 0xFF, 0xFF})
		return mask
	case code == 0x05:
		return d.page[:]
	case code == 0x2A && control == 1:
		return append([]byte{0x2A, 30}, make([]byte, 30)...)
	case code == 0x2A:
		return d.capabilitiesPage()
	case control == 1:
		return keptPages[code].mask
	case control == 2:
		return keptPages[code].initial
	}
	return d.pages[code]
}

// capabilitiesPage is mode page 2Ah (MMC-3 5.5.10).
func (d *Drive) capabilitiesPage() []byte {
	p := make([]byte, 32)
	p[0], p[2], p[3], p[4] = 0x2A, 0x1B, 0x11, 0xC0 // reads and writes CD-R and DVD-R, multi-session, underrun protection
	p[6] = 0x29                                     // tray, eject, lock
	if d.locked {
		p[6] |= 2
	}
	put16(p[8:], kbs(d.st.Drive.Speed))
	put16(p[12:], uint16(min(d.st.Drive.Buffer>>10, 0xFFFF)))
	put16(p[14:], kbs(d.readSpeed))
	put16(p[18:], kbs(d.st.Drive.Speed))
	put16(p[20:], kbs(d.writeSpeed))
	put16(p[22:], 1)
	put16(p[28:], kbs(d.writeSpeed))
	speeds := d.writeSpeeds()
	put16(p[30:], uint16(len(speeds)))
	for _, s := range speeds {
		p = append(p, 0, 0, byte(kbs(s)>>8), byte(kbs(s)))
	}
	p[1] = byte(len(p) - 2)
	return p
}

func kbs(speed int) uint16 { return uint16(min(speed, 0xFFFF)) }

// modeSense is MODE SENSE (6) and (10), SPC-3 6.9 and 6.10.
func (d *Drive) modeSense(r *request) (int, error) {
	control, code := r.cdb[2]>>6, r.cdb[2]&0x3F
	if control == 3 {
		return 0, sense(0x53900)
	}
	if r.cdb[3] != 0 && r.cdb[3] != 0xFF {
		return 0, sense(0x52400)
	}
	var pages []byte
	for _, c := range allPages {
		if c == code || code == 0x3F {
			pages = append(pages, d.modePage(c, control)...)
		}
	}
	if pages == nil {
		return 0, sense(0x52400)
	}
	if r.cdb[0] == 0x1A {
		b := append([]byte{0, 0, 0, 0}, pages...)
		b[0] = byte(min(len(b)-1, 0xFF))
		return r.reply(b, int(r.cdb[4]))
	}
	b := append(make([]byte, 8), pages...)
	put16(b, uint16(len(b)-2))
	return r.reply(b, r.u16(7))
}

// modeSelect is MODE SELECT (6) and (10), SPC-3 6.7 and 6.8.
func (d *Drive) modeSelect(r *request) (int, error) {
	list, head, length := r.data.Out, 8, r.u16(min(7, len(r.cdb)-2))
	if r.cdb[0] == 0x15 {
		head, length = 4, int(r.cdb[4])
	}
	if r.cdb[1]&0x10 == 0 || length != len(list) {
		return 0, sense(0x51A00)
	}
	if len(list) == 0 {
		return 0, nil
	}
	if len(list) < head {
		return 0, sense(0x51A00)
	}
	block := int(list[head-1])
	if head == 8 {
		block = int(binary.BigEndian.Uint16(list[6:]))
	}
	if block != 0 && block != 8 || len(list) < head+block {
		return 0, sense(0x52600)
	}
	if block == 8 { // blocks of 2,048 bytes, or as they are
		if size := list[head+5 : head+8]; size[0] != 0 || size[2] != 0 || size[1] != 0 && size[1] != 8 {
			return 0, sense(0x52600)
		}
	}
	pages := list[head+block:]
	for rest := pages; len(rest) > 0; {
		if len(rest) < 2 || len(rest) < 2+int(rest[1]) {
			return 0, sense(0x51A00)
		}
		n := 2 + int(rest[1])
		if err := d.selectPage(rest[:n]); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(list), nil
}

// selectPage sets one page.
func (d *Drive) selectPage(page []byte) error {
	if kept, ok := keptPages[page[0]]; ok && len(page) == len(kept.mask) {
		for i := 2; i < len(page); i++ {
			d.pages[page[0]][i] = page[i]&kept.mask[i] | kept.initial[i]&^kept.mask[i]
		}
		return nil
	}
	if page[0] != 0x05 || len(page) != len(d.page) {
		return sense(0x52600)
	}
	modes := d.kind().modes
	if modes == nil { // the page isn't about this medium: take what any takes
		modes = []byte{mmc.WriteIncremental, mmc.WriteTAO, mmc.WriteSAO}
	}
	mode, block, test := page[2]&0x0F, page[4]&0x0F, page[2]&0x10 != 0
	if mode == mmc.WriteSAO && d.kind().isCD() {
		block = 8 // the cue sheet says what blocks are
	}
	if !slices.Contains(modes, mode) || mode == mmc.WriteSAO && d.st.Drive.NoDAO || block != 8 || test {
		return sense(0x52602)
	}
	if d.rec.started {
		return sense(0x52C00)
	}
	if d.plan != nil && mode != mmc.WriteSAO {
		d.plan = nil
	}
	copy(d.page[:], page)
	d.pageSet = true
	return nil
}
