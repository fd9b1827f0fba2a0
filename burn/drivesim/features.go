package drivesim

import (
	"encoding/binary"

	"sallyport/burn/mmc"
)

// profileList is what the drive can handle, in the order of feature 0000h.
var profileList = []mmc.Profile{mmc.BDR, mmc.BDROM, mmc.DVDPlusR, mmc.DVDR, mmc.DVDROM, mmc.CDR, mmc.CDROM}

// feature is one feature descriptor (MMC-6 5.3).
type feature struct {
	code    uint16
	flags   byte // version << 2 | persistent << 1
	current bool
	data    []byte
}

// features lists what the drive can do, and what of it with the medium that is
// in.
func (d *Drive) features() []feature {
	disc := &d.st.Disc
	k := kindOf(mmc.NoProfile)
	loaded := d.present() && d.spun
	if loaded {
		k = d.kind()
	}
	status := disc.status()
	writes := func(p mmc.Profile) bool {
		return k.profile == p && status != complete && !disc.damaged()
	}
	blanks := func(p mmc.Profile) bool { return k.profile == p && status == blank }
	cd, dvd, bd := loaded && k.isCD(), loaded && k.isDVD(), loaded && k.isBD()
	mechanism := byte(0x29) // tray, eject, lock
	if !d.st.Drive.NoLoad {
		mechanism |= 0x10
	}
	list := []feature{
		{0x0000, 0x02, true, d.profiles(k.profile)},
		{0x0001, 0x0A, true, []byte{0, 0, 0, 7, 1, 0, 0, 0}},                                 // core: serial ATA
		{0x0002, 0x06, true, []byte{0x02, 0, 0, 0}},                                          // morphing: polled
		{0x0003, 0x06, true, []byte{mechanism, 0, 0, 0}},                                     // removable medium
		{0x0010, 0x00, loaded && status != blank, []byte{0, 0, 8, 0, 0, byte(k.unit), 1, 0}}, // random readable
		{0x001D, 0x00, cd, nil},                                                              // multi-read
		{0x001E, 0x08, cd, []byte{0, 0, 0, 0}},                                               // CD read
		{0x001F, 0x04, dvd, []byte{1, 0, 1, 0}},                                              // DVD read
		// Incremental streaming: data of 2,048 bytes, protected against
		// underrun, one link size.
		{0x0021, 0x0C, writes(mmc.DVDR), []byte{1, 0, 1, 1, 7, 0, 0, 0}},
		{0x002B, 0x00, k.profile == mmc.DVDPlusR, []byte{1, 0, 0, 0}},
		{0x002D, 0x08, writes(mmc.CDR), []byte{0x40, 0, 1, 0}}, // CD, track at once
	}
	if !d.st.Drive.NoDAO {
		list = append(list,
			feature{0x002E, 0x00, writes(mmc.CDR), []byte{0x60, 0, 0x0C, 0x60}}, // CD, session at once; cue sheets of 3,168 bytes
			feature{0x002F, 0x08, blanks(mmc.DVDR), []byte{0x40, 0, 0, 0}})
	}
	serial := d.st.Drive.Serial
	return append(list,
		feature{0x0038, 0x00, bd && disc.Overwrite, []byte{0, 0, 0, 0}},
		feature{0x0040, 0x00, bd, bitmaps(28, 20, 24)},          // BD read: BD-R, BD-ROM
		feature{0x0041, 0x00, writes(mmc.BDR), bitmaps(20, 12)}, // BD write: BD-R
		feature{0x0100, 0x03, true, nil},                        // power management
		feature{0x0105, 0x07, true, []byte{0, 0, 0, 0}},         // time-out
		feature{0x0107, 0x0C, loaded, []byte{0x1F, 0, 0, 0}},    // real-time streaming: all of it
		feature{0x0108, 0x03, true, []byte(pad(serial, (len(serial)+3)/4*4))})
}

// bitmaps is n bytes with the first version bit of the classes at some places
// set.
func bitmaps(n int, places ...int) []byte {
	b := make([]byte, n)
	for _, p := range places {
		b[p-4+1] = 0x02
	}
	return b
}

func (d *Drive) profiles(current mmc.Profile) []byte {
	var b []byte
	for _, p := range profileList {
		is := byte(0)
		if p == current {
			is = 1
		}
		b = append(b, byte(p>>8), byte(p), is, 0)
	}
	return b
}

// getConfiguration is GET CONFIGURATION (MMC-5 6.6).
func (d *Drive) getConfiguration(r *request) (int, error) {
	rt, starting := r.cdb[1]&3, uint16(r.u16(2))
	if rt == 3 {
		return 0, sense(0x52400)
	}
	b := make([]byte, 8)
	for _, f := range d.features() {
		if f.code < starting || rt == 2 && f.code != starting || rt == 1 && !f.current {
			continue
		}
		if f.current {
			f.flags |= 1
		}
		b = append(b, byte(f.code>>8), byte(f.code), f.flags, byte(len(f.data)))
		b = append(b, f.data...)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	if d.present() && d.spun {
		put16(b[6:], uint16(d.st.Disc.Profile))
	}
	return r.reply(b, r.u16(7))
}
