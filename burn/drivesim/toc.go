package drivesim

// firstLeadIn is where the lead-in of the simulated CD-R begins, as its groove
// tells it: 97:15:17, which also says who made the disc.
var firstLeadIn = [3]byte{97, 15, 17}

func (d *Drive) leadInStart() [3]byte { return firstLeadIn }

// leadOut is the last LBA at which a CD's lead-out may begin.
func (d *Drive) leadOut() int64 { return int64(d.st.Disc.Capacity + d.kind().runOut) }

// readTOC is READ TOC/PMA/ATIP (MMC-5 6.26).
func (d *Drive) readTOC(r *request) (int, error) {
	format := r.cdb[2] & 0x0F
	if format == 0 {
		format = r.cdb[9] >> 6 // where it stood before MMC-2
	}
	asMSF := r.cdb[1]&2 != 0
	var b []byte
	switch format {
	case 0, 1, 2:
		listed := d.listed()
		if len(listed) == 0 {
			return 0, sense(0x52400)
		}
		switch format {
		case 0:
			b = d.tracksTOC(listed, r.cdb[6], asMSF)
		case 1:
			b = d.sessionsTOC(listed, asMSF)
		case 2:
			b = d.fullTOC(listed, r.cdb[6])
		}
	case 3:
		b = []byte{0, 0, 0, 0}
	case 4:
		b = d.atip()
	}
	if b == nil {
		return 0, sense(0x52400)
	}
	put16(b, uint16(len(b)-2))
	return r.reply(b, r.u16(7))
}

// listed is what the table of contents knows: on CD the closed sessions, else
// whatever is recorded.
func (d *Drive) listed() []view {
	var list []view
	for _, v := range d.views() {
		if v.invisible || d.kind().unfabricated && v.session > d.st.Disc.Sessions || v.recorded == 0 && v.session <= 1 {
			continue
		}
		list = append(list, v)
	}
	return list
}

// address writes an LBA, or minutes, seconds and frames.
func address(b []byte, lba int64, asMSF bool) {
	put32(b, uint32(lba))
	if asMSF {
		m := msf(lba)
		b[0] = 0
		copy(b[1:], m[:])
	}
}

func (d *Drive) tracksTOC(listed []view, from byte, asMSF bool) []byte {
	last := listed[len(listed)-1]
	if from > byte(last.number) && from != leadOutTrack {
		return nil
	}
	b := []byte{0, 0, byte(listed[0].number), byte(last.number)}
	add := func(number byte, lba uint32) {
		if number >= from {
			b = append(b, 0, 0x14, number, 0, 0, 0, 0, 0)
			address(b[len(b)-4:], int64(lba), asMSF)
		}
	}
	for _, v := range listed {
		add(byte(v.number), v.start)
	}
	add(leadOutTrack, d.endOf(last))
	return b
}

// endOf is where the lead-out behind a session's last track begins.
func (d *Drive) endOf(v view) uint32 {
	if behind := d.readable(); v.session >= d.st.Disc.Sessions {
		return behind
	}
	return v.start + v.size
}

func (d *Drive) sessionsTOC(listed []view, asMSF bool) []byte {
	last := listed[len(listed)-1]
	first := last
	for i := len(listed) - 1; i >= 0 && listed[i].session == last.session; i-- {
		first = listed[i]
	}
	b := []byte{0, 0, 1, byte(last.session), 0, 0x14, byte(first.number), 0, 0, 0, 0, 0}
	address(b[8:], int64(first.start), asMSF)
	return b
}

// fullTOC is the raw table of contents (MMC-5 6.26.3.4), session by session.
func (d *Drive) fullTOC(listed []view, from byte) []byte {
	last := listed[len(listed)-1].session
	b := []byte{0, 0, byte(listed[0].session), byte(last)}
	entry := func(session int, point byte, at [3]byte) {
		b = append(b, byte(session), 0x14, 0, point, 0, 0, 0, 0, at[0], at[1], at[2])
	}
	for i := 0; i < len(listed); {
		j := i
		for j < len(listed) && listed[j].session == listed[i].session {
			j++
		}
		session, tracks := listed[i].session, listed[i:j]
		i = j
		if session < int(from) {
			continue
		}
		end := tracks[len(tracks)-1]
		entry(session, 0xA0, [3]byte{byte(tracks[0].number), 0, 0})
		entry(session, 0xA1, [3]byte{byte(end.number), 0, 0})
		entry(session, 0xA2, msf(int64(d.endOf(end))))
		for _, v := range tracks {
			entry(session, byte(v.number), msf(int64(v.start)))
		}
		next := int64(d.following())
		if i < len(listed) {
			next = int64(listed[i].start)
		}
		d.openPointers(&b, session, next, session == last)
	}
	return b
}

// openPointers adds what a CD's lead-in says when another session may follow:
// where that begins, and where the lead-out may begin at last.
func (d *Drive) openPointers(b *[]byte, session int, following int64, last bool) {
	if !d.kind().isCD() || last && d.st.Disc.Finalised {
		return
	}
	next, end := msf(following-150), msf(d.leadOut())
	*b = append(*b, byte(session), 0x54, 0, 0xB0, next[0], next[1], next[2], 2, end[0], end[1], end[2])
	if session == 1 {
		in := d.leadInStart()
		*b = append(*b, byte(session), 0x54, 0, 0xC0, 0, 0, 0, 0, in[0], in[1], in[2])
	}
}

// atip is the absolute time in the pre-groove (MMC-5 6.26.3.6).
func (d *Drive) atip() []byte {
	if !d.kind().isCD() || !d.kind().writable() {
		return nil
	}
	b := make([]byte, 4+24)
	b[4], b[5], b[6] = 0x80|4<<4, 0x40, 0x80 // CD-R, unrestricted use
	in, out := d.leadInStart(), msf(d.leadOut())
	copy(b[8:], in[:])
	copy(b[12:], out[:])
	return b
}
