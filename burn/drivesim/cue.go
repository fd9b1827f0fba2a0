package drivesim

import "encoding/binary"

// cueLine is one line of a cue sheet (MMC-5 6.33.3).
type cueLine struct {
	control byte // and ADR
	track   byte // 0: lead-in, AAh: lead-out
	index   byte
	form    byte // of the data
	lba     int64
}

const leadOutTrack = 0xAA

// Data forms of mode 1 tracks: what the host sends of a block.
const (
	formMode1      = 0x10 // 2,048 bytes
	formMode1Drive = 0x14 // nothing, the drive makes it up
)

// sendCueSheet announces a session at once on CD (MMC-5 6.33).
func (d *Drive) sendCueSheet(r *request) (int, error) {
	list := r.data.Out
	if n := int(r.cdb[6])<<16 | r.u16(7); n != len(list) || len(list)%8 != 0 || len(list) > 8*3*maxTracks {
		return 0, sense(0x51A00)
	}
	if !d.kind().isCD() || d.st.Drive.NoDAO {
		return 0, sense(0x52000)
	}
	if err := d.writable(); err != nil {
		return 0, err
	}
	switch {
	case !d.pageSet || !d.once():
		return 0, sense(0x56400)
	case d.st.Disc.sessionOpen() || d.rec.started:
		return 0, sense(0x52C00)
	}
	lines := make([]cueLine, len(list)/8)
	for i := range lines {
		l := list[8*i:]
		lines[i] = cueLine{l[0], l[1], l[2], l[3], frames(l[5:8]) - 150}
	}
	p := d.planOf(lines)
	if p == nil {
		return 0, sense(0x52600)
	}
	if p.end > int64(d.capacity()+d.kind().runOut) {
		return 0, sense(0x52100)
	}
	d.plan = p
	return len(list), nil
}

// planOf makes a plan of a cue sheet, nil when it is none that the drive
// writes: a lead-in, tracks of mode 1 with user data only, each with an index
// 1 and the first with a pause of two seconds at most, a lead-out.
func (d *Drive) planOf(lines []cueLine) *plan {
	if len(lines) < 3 || lines[0].track != 0 || lines[len(lines)-1].track != leadOutTrack {
		return nil
	}
	start := int64(d.following())
	p := &plan{first: start, end: lines[len(lines)-1].lba}
	at := start - 150
	for _, l := range lines[1 : len(lines)-1] {
		if l.control&0x0F != 1 { // catalogue numbers, not positions
			continue
		}
		number := len(p.tracks) + len(d.st.Disc.Tracks)
		switch {
		case l.control&0xD0 != 0x40, l.form != formMode1, l.lba < at:
			return nil
		case int(l.track) == number+1 && l.index == 0:
			if len(p.tracks) == 0 {
				p.first = l.lba
			}
		case int(l.track) == number+1 && l.index == 1 && l.lba >= start:
			if n := len(p.tracks); n > 0 {
				p.tracks[n-1].Reserved = uint32(l.lba) - p.tracks[n-1].Start
			}
			p.tracks = append(p.tracks, track{Session: d.st.Disc.Sessions + 1, Start: uint32(l.lba), Once: true})
		case int(l.track) == number && l.index > 1:
		default:
			return nil
		}
		at = l.lba
	}
	n := len(p.tracks)
	if n == 0 || p.end <= int64(p.tracks[n-1].Start) || p.tracks[0].Start != uint32(start) {
		return nil
	}
	p.tracks[n-1].Reserved = uint32(p.end) - p.tracks[n-1].Start
	return p
}

// frames reads minutes, seconds and frames in binary.
func frames(b []byte) int64 { return (int64(b[0])*60+int64(b[1]))*75 + int64(b[2]) }

// msf writes an LBA as minutes, seconds and frames; addresses from -45,150 to
// -151 lie in the lead-in, above 90 minutes (MMC-5 table 588).
func msf(lba int64) [3]byte {
	n := lba + 150
	if n < 0 {
		n += 450_000
	}
	return [3]byte{byte(n / 4500), byte(n / 75 % 60), byte(n % 75)}
}

func put16(b []byte, n uint16) { binary.BigEndian.PutUint16(b, n) }
func put32(b []byte, n uint32) { binary.BigEndian.PutUint32(b, n) }
