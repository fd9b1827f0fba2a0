package drivesim

import (
	"slices"

	"sallyport/burn/mmc"
)

// structure makes one disc structure without its 4 bytes of header; nil when
// this disc has none.
type structure func(*Drive) []byte

// structures are the disc structures of the media by format (MMC-5 6.23.3).
var structures = map[mmc.Profile]map[byte]structure{
	mmc.DVDR: {0x00: physicalFormat(0x25), 0x01: zeros(4), 0x04: zeros(2048), 0x0E: preRecorded, 0x0F: uniqueID,
		0x10: physicalFormat(0x00), 0xC0: zeros(4)},
	mmc.DVDPlusR: {0x00: physicalFormat(0xA1), 0x01: zeros(4), 0x04: zeros(2048), 0x11: adip, 0xC0: zeros(4)},
	mmc.BDR:      {0x00: discInformation, 0x0A: spareAreas, 0xC0: zeros(4)},
}

// pressedDVD are those of a DVD that can't be written.
var pressedDVD = map[byte]structure{0x00: physicalFormat(0x01), 0x01: zeros(4), 0x04: zeros(2048)}

func zeros(n int) structure { return func(*Drive) []byte { return make([]byte, n) } }

func (d *Drive) readDiscStructure(r *request) (int, error) {
	k := d.kind()
	list := structures[k.profile]
	if list == nil && k.isDVD() {
		list = pressedDVD
	}
	blu := r.cdb[1]&0x0F == 1
	var s []byte
	switch format := r.cdb[7]; {
	case k.isCD() || blu != k.isBD() && format < 0x80:
		return 0, sense(0x53002)
	case format == 0xFF:
		s = capabilities(list)
	case list[format] != nil:
		s = list[format](d)
	}
	if s == nil {
		return 0, sense(0x52400)
	}
	b := append([]byte{0, 0, 0, 0}, s...)
	put16(b, uint16(len(b)-2))
	return r.reply(b, r.u16(8))
}

// capabilities lists the structures that there are (format FFh).
func capabilities(list map[byte]structure) []byte {
	formats := make([]byte, 0, len(list))
	for f := range list {
		formats = append(formats, f)
	}
	slices.Sort(formats)
	b := []byte{}
	for _, f := range formats {
		b = append(b, f, 0x40, 0x08, 0x04)
	}
	return b
}

// physicalFormat is format 00h: book type and where the data lies, in physical
// sectors. With book 0 it is format 10h, what the disc would have room for.
func physicalFormat(book byte) structure {
	return func(d *Drive) []byte {
		b := make([]byte, 2048)
		b[0], b[1], b[2] = book, 0x0F, 0x01
		if book>>4 == 0xA {
			b[2] = 0x02 // write-once tracks
		}
		put32(b[4:], 0x30000)
		last := d.st.Disc.Capacity - 1
		if end := d.recordedEnd(); book != 0 && d.st.Disc.Finalised {
			last = max(end, 1) - 1
		}
		put32(b[8:], 0x30000+last)
		if book>>4 == 0xA {
			plusIdentity(b, d)
		}
		return b
	}
}

// adip is format 11h of DVD+R: what the groove says (ECMA-349 14.4.2).
func adip(d *Drive) []byte { return physicalFormat(0xA1)(d)[:256] }

func plusIdentity(b []byte, d *Drive) {
	id := pad(d.st.Disc.Manufacturer, 11)
	copy(b[19:27], id[:8])
	copy(b[27:30], id[8:])
	b[30] = 1
}

// preRecorded is format 0Eh of DVD-R: the pre-pits in the lead-in, 8 bytes a
// field (ECMA-359).
func preRecorded(d *Drive) []byte {
	s := make([]byte, 40)
	id := pad(d.st.Disc.Manufacturer, 12)
	for field := 1; field <= 5; field++ {
		s[8*(field-1)] = byte(field)
	}
	copy(s[17:23], id[:6])
	copy(s[25:31], id[6:])
	return s
}

// uniqueID is format 0Fh of DVD-R.
func uniqueID(d *Drive) []byte {
	s := make([]byte, 18)
	if d.st.Disc.FirstWrite != "" {
		put16(s[2:], d.st.Disc.Random)
		copy(s[4:], d.st.Disc.FirstWrite)
	}
	return s
}

// discInformation is format 00h of BD: the disc information of the groove, one
// unit of 112 bytes.
func discInformation(d *Drive) []byte {
	b := make([]byte, 4096)
	copy(b, "DI")
	b[2], b[6] = 1, 98
	copy(b[8:], "BDR")
	b[11], b[12] = 1, 0x14 // 120 mm, one layer
	id := pad(d.st.Disc.Manufacturer, 9)
	copy(b[100:106], id[:6])
	copy(b[106:109], id[6:])
	return b
}

// spareAreas is format 0Ah of BD.
func spareAreas(d *Drive) []byte {
	b := make([]byte, 12)
	put32(b[4:], d.st.Disc.Spare)
	put32(b[8:], d.st.Disc.Spare)
	return b
}
