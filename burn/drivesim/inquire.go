package drivesim

import (
	"encoding/binary"
	"strings"
	"time"

	"sallyport/burn/mmc"
)

// The replies here are laid out by hand, not with package mmc's codec, so that
// a mistake in one doesn't hide in the other.

func (d *Drive) nothing(*request) (int, error) { return 0, nil }

func (d *Drive) requestSense(r *request) (int, error) {
	b := fixedSense(0x70, 0, nil)
	switch {
	case d.deferred != nil:
		b, d.deferred = d.deferred, nil
	case len(d.attention) > 0:
		b, d.attention = fixedSense(0x70, d.attention[0], nil), d.attention[1:]
	}
	return r.reply(b, int(r.cdb[4]))
}

// Identification of the simulated drive.
const (
	Vendor   = "SALLYPRT"
	Product  = "DVD-R SIMULATOR"
	Revision = "1.0"
)

func (d *Drive) inquiry(r *request) (int, error) {
	if r.cdb[1]&1 != 0 {
		return 0, sense(0x52400) // no vital product data
	}
	b := make([]byte, 36)
	b[0], b[1], b[2], b[3], b[4] = mmc.TypeMMC, 0x80, 0x05, 0x02, 31
	copy(b[8:], pad(Vendor, 8)+pad(Product, 16)+pad(Revision, 4))
	return r.reply(b, r.u16(3))
}

func pad(s string, n int) string { return (s + strings.Repeat(" ", n))[:n] }

func (d *Drive) getConfiguration(r *request) (int, error) {
	var profile mmc.Profile
	if d.present() && d.spun {
		profile = d.st.Disc.Profile
	}
	writable := func(p mmc.Profile) bool { return p == profile && d.st.Disc.Status == blank }
	rt, starting := r.cdb[1]&3, uint16(r.u16(2))
	b := make([]byte, 8)
	add := func(code uint16, flags byte, current bool, data ...byte) {
		if current {
			flags |= 1
		}
		if code < starting || rt == 2 && code != starting || rt == 1 && !current {
			return
		}
		b = append(b, byte(code>>8), byte(code), flags, byte(len(data)))
		b = append(b, data...)
	}
	is := func(p mmc.Profile) byte {
		if p == profile {
			return 1
		}
		return 0
	}
	add(0x0000, 0x02, true, 0, 0x41, is(0x41), 0, 0, 0x40, is(0x40), 0, 0, 0x1B, is(0x1B), 0, 0, 0x11, is(0x11), 0,
		0, 0x10, is(0x10), 0, 0, 0x09, is(0x09), 0, 0, 0x08, is(0x08), 0)
	add(0x0001, 0x0A, true, 0, 0, 0, 7, 0, 0, 0, 0) // core: ATAPI
	mechanism := byte(0x29)                         // tray, eject, lock
	if !d.st.Drive.NoLoad {
		mechanism |= 0x10
	}
	add(0x0003, 0x06, true, mechanism, 0, 0, 0)
	add(0x001F, 0x00, profile != 0)
	add(0x0021, 0x0C, writable(mmc.DVDR) || writable(mmc.CDR), 0, 0, 0, 1, 7, 0, 0, 0)
	add(0x002B, 0x00, profile == mmc.DVDPlusR, 1, 0, 0, 0)
	add(0x002D, 0x08, writable(mmc.CDR), 0x40, 0, 0, 0)
	if !d.st.Drive.NoDAO {
		add(0x002F, 0x08, writable(mmc.DVDR), 0x40, 0, 0, 0)
	}
	add(0x0041, 0x00, writable(mmc.BDR), 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0)
	serial := d.st.Drive.Serial
	add(0x0108, 0x03, true, []byte(pad(serial, (len(serial)+3)/4*4))...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	binary.BigEndian.PutUint16(b[6:], uint16(profile))
	return r.reply(b, r.u16(7))
}

func (d *Drive) getEventStatus(r *request) (int, error) {
	if r.cdb[1]&1 == 0 || r.cdb[4]&0x10 == 0 {
		return 0, sense(0x52400) // polled and media events only
	}
	b := []byte{0, 6, 4, 0x10, 0, 0, 0, 0}
	if d.trayOpen {
		b[5] |= 1
	}
	if d.present() {
		b[5] |= 2
	}
	return r.reply(b, r.u16(7))
}

func (d *Drive) readDiscInformation(r *request) (int, error) {
	if r.cdb[1]&7 != 0 {
		return 0, sense(0x52400)
	}
	b := make([]byte, 34)
	b[1] = 32
	b[3] = 1
	sessions := max(1, d.mediumFault(Sessions))
	switch {
	case d.st.Disc.Status == blank:
	case d.st.Disc.Status == complete:
		b[2] = mmc.SessionComplete<<2 | mmc.DiscComplete
	case d.st.Disc.Appendable:
		b[2] = mmc.SessionEmpty<<2 | mmc.DiscIncomplete
		sessions++
	default:
		b[2] = mmc.SessionIncomplete<<2 | mmc.DiscIncomplete
	}
	b[4], b[9] = byte(sessions), byte(sessions>>8)
	b[5], b[10] = b[4], b[9] // a track in each
	b[6], b[11] = b[4], b[9]
	b[7] = 0x20 // unrestricted use
	return r.reply(b, r.u16(7))
}

func (d *Drive) readTrackInformation(r *request) (int, error) {
	address := r.u32(2)
	switch kind := r.cdb[1] & 3; {
	case kind == 0 && address <= d.st.Disc.Capacity:
	case kind == 1 && (address == 1 || address == 0xFF && d.st.Disc.Status != complete):
	case kind == 1 && address <= d.mediumFault(Sessions) && address > 0:
	case kind == 2 && address == 1:
	default:
		return 0, sense(0x52400)
	}
	b := make([]byte, 36)
	b[1] = 34
	b[2], b[3] = 1, 1
	b[5] = 0x05
	b[6] = 0x01
	recorded, free := d.nextWritable(), uint32(0)
	switch disc := &d.st.Disc; {
	case disc.Status == blank && d.rec.reserved == 0:
		b[6] |= 0x40
		free = disc.Capacity
	case d.rec.reserved > 0:
		b[6] |= 0x80
		free = d.rec.reserved - recorded
	case disc.Status == incomplete && !disc.TrackClosed && !disc.Damaged:
		free = disc.Capacity - recorded
	}
	if !d.st.Disc.DAO {
		b[6] |= 0x20
		binary.BigEndian.PutUint32(b[20:], eccBlocks)
	}
	if d.st.Disc.Damaged {
		b[5] |= 0x20
	} else if free > 0 {
		b[7] |= 1
		binary.BigEndian.PutUint32(b[12:], recorded)
	}
	if recorded > 0 {
		b[7] |= 2
		binary.BigEndian.PutUint32(b[28:], recorded-1)
	}
	binary.BigEndian.PutUint32(b[16:], free)
	binary.BigEndian.PutUint32(b[24:], recorded+free)
	return r.reply(b, r.u16(7))
}

func (d *Drive) readFormatCapacities(r *request) (int, error) {
	b := make([]byte, 12)
	b[3] = 8
	binary.BigEndian.PutUint32(b[8:], blockSize)
	switch {
	case !d.present() || !d.spun:
		b[8] = 3
	case d.st.Disc.Status == blank:
		b[8] = 1
		binary.BigEndian.PutUint32(b[4:], d.st.Disc.Capacity)
	default:
		b[8] = 2
		binary.BigEndian.PutUint32(b[4:], d.readable())
	}
	return r.reply(b, r.u16(7))
}

func (d *Drive) readCapacity(r *request) (int, error) {
	b := make([]byte, 8)
	if n := d.readable(); n > 0 {
		binary.BigEndian.PutUint32(b, n-1)
	}
	binary.BigEndian.PutUint32(b[4:], blockSize)
	return r.reply(b, len(b))
}

func (d *Drive) readTOC(r *request) (int, error) {
	if d.st.Disc.Status == blank {
		return 0, sense(0x52400)
	}
	last := byte(max(1, d.mediumFault(Sessions)))
	b := []byte{0, 0, 1, last, 0, 0x14, 1, 0, 0, 0, 0, 0}
	switch r.cdb[2] & 0x0F {
	case 0:
		for n := byte(2); n <= last; n++ {
			b = append(b, 0, 0x14, n, 0, 0, 0, 0, 0)
			binary.BigEndian.PutUint32(b[len(b)-4:], d.recorded())
		}
		b = append(b, 0, 0x14, 0xAA, 0, 0, 0, 0, 0)
		binary.BigEndian.PutUint32(b[len(b)-4:], d.readable())
	case 1:
	default:
		return 0, sense(0x52400)
	}
	binary.BigEndian.PutUint16(b, uint16(len(b)-2))
	return r.reply(b, r.u16(7))
}

func (d *Drive) readDiscStructure(r *request) (int, error) {
	var s []byte
	switch r.cdb[7] {
	case 0x00:
		s = make([]byte, 2048)
		s[0], s[1], s[2] = 0x25, 0x0F, 0x01
		binary.BigEndian.PutUint32(s[4:], 0x30000)
		binary.BigEndian.PutUint32(s[8:], 0x30000+d.st.Disc.Capacity-1)
	case 0x0E:
		s = make([]byte, 40)
		id := pad(d.st.Disc.Manufacturer, 12)
		for field := 1; field <= 5; field++ {
			s[8*(field-1)] = byte(field)
		}
		copy(s[17:23], id[:6])
		copy(s[25:31], id[6:])
	case 0x0F:
		s = make([]byte, 18)
		if d.st.Disc.FirstWrite != "" {
			binary.BigEndian.PutUint16(s[2:], d.st.Disc.Random)
			copy(s[4:], d.st.Disc.FirstWrite)
		}
	default:
		return 0, sense(0x52400)
	}
	b := append([]byte{0, 0, 0, 0}, s...)
	binary.BigEndian.PutUint16(b, uint16(len(b)-2))
	return r.reply(b, r.u16(8))
}

func (d *Drive) modeSense(r *request) (int, error) {
	var page []byte
	switch r.cdb[2] & 0x3F {
	case 0x05:
		page = d.page[:]
	case 0x2A:
		page = make([]byte, 32)
		page[0], page[1], page[2], page[3] = 0x2A, 30, 0x1B, 0x10
		binary.BigEndian.PutUint16(page[8:], kbs(d.st.Drive.Speed))
		binary.BigEndian.PutUint16(page[12:], uint16(d.st.Drive.Buffer>>10))
		binary.BigEndian.PutUint16(page[14:], kbs(d.readSpeed))
		binary.BigEndian.PutUint16(page[18:], kbs(d.st.Drive.Speed))
		binary.BigEndian.PutUint16(page[28:], kbs(d.writeSpeed))
	default:
		return 0, sense(0x52400)
	}
	b := append(make([]byte, 8), page...)
	binary.BigEndian.PutUint16(b, uint16(len(b)-2))
	return r.reply(b, r.u16(7))
}

func kbs(speed int) uint16 { return uint16(min(speed, 0xFFFF)) }

func (d *Drive) modeSelect(r *request) (int, error) {
	list := r.data.Out
	if r.cdb[1]&0x10 == 0 || r.u16(7) != len(list) || len(list) < 8+len(d.page) {
		return 0, sense(0x51A00)
	}
	page := list[8:]
	if binary.BigEndian.Uint16(list[6:]) != 0 || page[0] != 0x05 || page[1] != 50 || len(page) != len(d.page) {
		return 0, sense(0x52600)
	}
	kind, block := page[2]&0x0F, page[4]&0x0F
	test := page[2]&0x10 != 0
	dvd := kind == mmc.WriteIncremental || kind == mmc.WriteSAO && !d.st.Drive.NoDAO
	cd := kind == mmc.WriteTAO
	if d.st.Disc.Profile == mmc.CDR && !cd || d.st.Disc.Profile != mmc.CDR && !dvd || block != 8 || test {
		return 0, sense(0x52602)
	}
	if d.rec.started {
		return 0, sense(0x52C00)
	}
	copy(d.page[:], page)
	d.pageSet = true
	return len(list), nil
}

func (d *Drive) setStreaming(r *request) (int, error) {
	p := r.data.Out
	if len(p) != 28 || r.u16(9) != 28 {
		return 0, sense(0x51A00)
	}
	if p[0]&4 != 0 {
		d.readSpeed, d.writeSpeed = d.st.Drive.Speed, d.st.Drive.Speed
		return len(p), nil
	}
	rate := func(off int) int {
		size, ms := binary.BigEndian.Uint32(p[off:]), binary.BigEndian.Uint32(p[off+4:])
		return int(min(uint64(size)*1000/uint64(max(ms, 1)), maxSpeed))
	}
	d.setSpeed(rate(12), rate(20))
	return len(p), nil
}

func (d *Drive) setCDSpeed(r *request) (int, error) {
	d.setSpeed(r.u16(2), r.u16(4))
	return 0, nil
}

// setSpeed takes the nearest speed between 1× and the drive's fastest.
func (d *Drive) setSpeed(read, write int) {
	d.readSpeed = min(max(read, oneX), d.st.Drive.Speed)
	d.writeSpeed = min(max(write, oneX), d.st.Drive.Speed)
}

func (d *Drive) preventAllow(r *request) (int, error) {
	d.locked = r.cdb[4]&1 != 0
	return 0, nil
}

const trayTime = 2 * time.Second

func (d *Drive) startStop(r *request) (int, error) {
	immed, eject, start := r.cdb[1]&1 != 0, r.cdb[4]&2 != 0, r.cdb[4]&1 != 0
	switch {
	case eject && !start:
		if d.locked {
			return 0, sense(0x55302)
		}
		if !d.trayOpen {
			d.openTray()
			return 0, d.spend(r, trayTime)
		}
	case eject && start:
		if d.st.Drive.NoLoad {
			return 0, sense(0x52400)
		}
		if d.trayOpen {
			d.closeTray()
			if !immed {
				return 0, d.spend(r, trayTime+d.spinUpTime())
			}
			return 0, d.spend(r, commandTime)
		}
	}
	return 0, nil
}
