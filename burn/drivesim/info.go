package drivesim

import "sallyport/burn/mmc"

// The replies here and in the files beside are laid out by hand, not with
// package mmc's codec, so that a mistake in one doesn't hide in the other.

func (d *Drive) readDiscInformation(r *request) (int, error) {
	if r.cdb[1]&7 != 0 {
		return 0, sense(0x52400)
	}
	disc := &d.st.Disc
	b := make([]byte, 34)
	b[1] = 32
	b[3] = 1
	views := d.views()
	sessions := d.sessions()
	first, last := 1, max(1, len(views))
	for _, v := range views {
		if v.session == sessions {
			first = v.number
			break
		}
	}
	switch disc.status() {
	case complete:
		b[2] = mmc.SessionComplete<<2 | mmc.DiscComplete
	case incomplete:
		b[2] = mmc.SessionEmpty<<2 | mmc.DiscIncomplete
		if disc.sessionOpen() {
			b[2] = mmc.SessionIncomplete<<2 | mmc.DiscIncomplete
		}
	}
	b[4], b[9] = byte(sessions), byte(sessions>>8)
	b[5], b[10] = byte(first), byte(first>>8)
	b[6], b[11] = byte(last), byte(last>>8)
	b[7] = 0x20 // unrestricted use
	if d.kind().isCD() {
		d.cdAddresses(b)
	}
	return r.reply(b, r.u16(7))
}

// cdAddresses puts in where a CD's next session begins and where the last one
// may end, in minutes, seconds and frames.
func (d *Drive) cdAddresses(b []byte) {
	disc := &d.st.Disc
	if disc.Finalised {
		copy(b[16:24], "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF")
		return
	}
	start := d.leadInStart()
	if disc.Sessions > 0 {
		start = msf(int64(d.following()) - 150 - 4500)
	}
	copy(b[17:20], start[:])
	end := msf(d.leadOut())
	copy(b[21:24], end[:])
}

func (d *Drive) readTrackInformation(r *request) (int, error) {
	v, err := d.find(r.cdb[1]&3, r.u32(2))
	if err != nil {
		return 0, err
	}
	b := make([]byte, 36)
	b[1] = 34
	b[2], b[32] = byte(v.number), byte(v.number>>8)
	b[3], b[33] = byte(v.session), byte(v.session>>8)
	b[5], b[6] = 4, 1
	if v.incremental && d.kind().profile == mmc.DVDR {
		b[5] = 5
		put32(b[20:], d.kind().unit)
	}
	if v.damaged {
		b[5] |= 0x20
	}
	if v.invisible {
		b[6] |= 0x40
	}
	if v.reserved {
		b[6] |= 0x80
	}
	if v.incremental && d.kind().incremental {
		b[6] |= 0x20
	}
	if d.kind().profile == mmc.DVDPlusR && !v.invisible { // what others call reserved is set for all
		b[6] |= 0x80
		if v.reserved && v.recorded == 0 {
			b[6] |= 0x40
		}
	}
	put32(b[8:], v.start)
	if v.writable {
		b[7] |= 1
		put32(b[12:], v.next)
		put32(b[16:], v.free)
	}
	put32(b[24:], v.size)
	if v.recorded > 0 {
		b[7] |= 2
		put32(b[28:], v.start+v.recorded-1)
	}
	return r.reply(b, r.u16(7))
}

// find finds the track that an LBA (kind 0) lies in, that has a number (1), or
// that is the first of a session (2).
func (d *Drive) find(kind byte, address uint32) (view, error) {
	views := d.views()
	if kind == 1 && address == 0xFF && len(views) > 0 { // the one that can be written
		if v := views[len(views)-1]; v.writable || v.invisible {
			return v, nil
		}
		return view{}, sense(0x52400)
	}
	if kind == 0 && address > d.st.Disc.Capacity {
		return view{}, sense(0x52100)
	}
	for i := len(views) - 1; i >= 0; i-- {
		v := views[i]
		switch {
		case kind == 0 && (address >= v.start || i == 0),
			kind == 1 && address == uint32(v.number),
			kind == 2 && address == uint32(v.session) && (i == 0 || views[i-1].session != v.session):
			return v, nil
		}
	}
	return view{}, sense(0x52400)
}

func (d *Drive) mechanismStatus(r *request) (int, error) {
	return r.reply(make([]byte, 8), r.u16(8))
}
