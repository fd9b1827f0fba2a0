package drivesim

import "encoding/binary"

// Format types of BD-R (MMC-6 6.24.3.4, table 472).
const (
	formatFull     = 0x00
	formatBDSpares = 0x32 // with spare areas; the subtype says whether blocks can be overwritten
)

// spares lists how many blocks can be set aside on a BD-R, the default first:
// in the proportion of a disc of 25 GB.
func (d *Drive) spares() []uint32 {
	const full = 12219392
	share := func(blocks uint64) uint32 { return uint32(uint64(d.st.Disc.Capacity)*blocks/full) &^ 31 }
	return []uint32{share(393216), share(131072)}
}

func (d *Drive) readFormatCapacities(r *request) (int, error) {
	b := make([]byte, 12)
	put32(b[8:], blockSize)
	disc := &d.st.Disc
	switch blocks := d.readable(); {
	case !d.present() || !d.spun:
		b[8] = 3
	case disc.status() == blank && !disc.Formatted:
		b[8] = 1
		put32(b[4:], disc.Capacity)
	case disc.status() == blank:
		b[8] = 2
		put32(b[4:], d.capacity())
	default:
		b[8] = 2
		put32(b[4:], blocks)
	}
	if d.present() && d.spun && d.formattable() {
		add := func(spare uint32, kind byte) {
			f := make([]byte, 8)
			put32(f, disc.Capacity-spare)
			f[4] = kind << 2
			b = append(b, f...)
		}
		add(d.spares()[0], formatFull)
		for _, spare := range d.spares() {
			add(spare, formatBDSpares)
		}
	}
	b[3] = byte(len(b) - 4)
	return r.reply(b, r.u16(7))
}

// formattable reports whether FORMAT UNIT does something with the disc: only a
// BD-R that nothing is recorded on takes it.
func (d *Drive) formattable() bool {
	return d.kind().isBD() && d.kind().writable() && d.st.Disc.status() == blank && !d.st.Disc.Formatted
}

// formatUnit sets spare areas aside on a BD-R (MMC-6 6.4), with the subtype
// 00b it lets recorded blocks be overwritten.
func (d *Drive) formatUnit(r *request) (int, error) {
	list := r.data.Out
	if r.cdb[1]&0x1F != 0x11 {
		return 0, sense(0x52400)
	}
	if !d.formattable() {
		return 0, sense(0x53006)
	}
	if len(list) != 12 || list[2] != 0 || list[3] != 8 {
		return 0, sense(0x52600)
	}
	blocks, kind, subtype := binary.BigEndian.Uint32(list[4:]), list[8]>>2, list[8]&3
	disc := &d.st.Disc
	if kind != formatFull && kind != formatBDSpares || subtype > 1 || blocks == 0 || blocks > disc.Capacity || blocks%32 != 0 {
		return 0, sense(0x52600)
	}
	return len(list), d.long(r, formatTime, list[1]&2 != 0, 0x20404, func() error {
		disc.Formatted, disc.Spare, disc.Overwrite = true, disc.Capacity-blocks, subtype == 0
		return d.save()
	})
}
