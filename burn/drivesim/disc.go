package drivesim

import (
	"sallyport/burn/mmc"
)

// What a disc can be.
const (
	blank      = "blank"
	incomplete = "incomplete"
	complete   = "complete"
)

// discState is the medium as it is recorded in the state file.
type discState struct {
	Profile      mmc.Profile `json:"profile"`
	Capacity     uint32      `json:"capacity"` // blocks
	Manufacturer string      `json:"manufacturer"`
	Random       uint16      `json:"random"`      // of the unique identifier
	FirstWrite   string      `json:"first_write"` // of the unique identifier, YYYYMMDDhhmmss
	Formatted    bool        `json:"formatted"`   // BD-R: Spare blocks are set aside
	Spare        uint32      `json:"spare"`
	Overwrite    bool        `json:"overwrite"` // BD-R: pseudo-overwrite
	Tracks       []track     `json:"tracks"`
	Sessions     int         `json:"sessions"`  // closed ones
	Finalised    bool        `json:"finalised"` // no session can follow
	Recording    int         `json:"recording"` // number of the first track in which a recording goes on, 0: none
	Absent       bool        `json:"absent"`    // not in the tray
}

// track is a track that something was recorded in, or that was reserved.
type track struct {
	Session  int    `json:"session"`
	Start    uint32 `json:"start"`    // LBA
	Reserved uint32 `json:"reserved"` // blocks; 0: as many as come
	Recorded uint32 `json:"recorded"` // blocks
	Once     bool   `json:"once"`     // disc or session at once
	Closed   bool   `json:"closed"`
	Damaged  bool   `json:"damaged"` // its recording was cut off and can't be gone on with
}

// status is the disc status of READ DISC INFORMATION in a word.
func (s *discState) status() string {
	switch {
	case s.Finalised:
		return complete
	case len(s.Tracks) == 0:
		return blank
	}
	return incomplete
}

// last returns the last track, nil when there is none.
func (s *discState) last() *track {
	if len(s.Tracks) == 0 {
		return nil
	}
	return &s.Tracks[len(s.Tracks)-1]
}

// sessionOpen reports whether a session was begun and not closed.
func (s *discState) sessionOpen() bool {
	t := s.last()
	return t != nil && t.Session > s.Sessions
}

// damaged reports whether the open session can't be gone on with.
func (s *discState) damaged() bool {
	for i := range s.Tracks {
		if t := &s.Tracks[i]; t.Damaged && t.Session > s.Sessions {
			return true
		}
	}
	return false
}

// openEnded reports whether the last track takes whatever comes.
func (t *track) openEnded() bool { return t.Reserved == 0 && !t.Closed }

// size is the length of a track that is closed or reserved.
func (t *track) size(k *kind) uint32 {
	switch {
	case t.Reserved > 0:
		return t.Reserved
	case t.Closed:
		return t.Recorded + k.runOut
	}
	return t.Recorded
}

func (d *Drive) kind() *kind { return kindOf(d.st.Disc.Profile) }

// capacity is what the disc holds now, in blocks.
func (d *Drive) capacity() uint32 { return d.st.Disc.Capacity - d.st.Disc.Spare }

// recordedIn returns how many blocks of a track are recorded.
func (d *Drive) recordedIn(i int) uint32 { return d.reached(i, d.rec.recorded) }

// receivedIn returns how many blocks of a track were written, be they recorded
// or in the buffer.
func (d *Drive) receivedIn(i int) uint32 { return d.reached(i, d.rec.received) }

// reached says how far into track i the recording that goes on has come, at is
// a byte of the disc.
func (d *Drive) reached(i int, at int64) uint32 {
	t := &d.st.Disc.Tracks[i]
	if !d.rec.started || i < d.rec.track || i > d.rec.track && !t.Once || t.Closed {
		return t.Recorded
	}
	n := max(0, at/blockSize-int64(t.Start))
	if t.Reserved > 0 {
		n = min(n, int64(t.Reserved))
	}
	return uint32(n)
}

// following returns where the track behind all others begins, were one begun.
func (d *Drive) following() uint32 {
	s, k := &d.st.Disc, d.kind()
	t := s.last()
	if t == nil {
		return 0
	}
	end, gap := t.Start+t.size(k), k.pregap
	if t.openEnded() {
		end = t.Start + d.receivedIn(len(s.Tracks)-1)
	}
	switch {
	case t.Session > s.Sessions:
	case s.Sessions == 1:
		gap = k.firstGap
	default:
		gap = k.nextGap
	}
	return k.align(end + gap)
}

// view is a track as the drive tells of it: those that are recorded or
// reserved, and, unless the disc is finalised, the invisible one that can be
// written next.
type view struct {
	number, session int
	start, size     uint32
	recorded        uint32 // blocks
	next, free      uint32 // next writable LBA and how many; valid when writable
	writable        bool
	reserved        bool
	invisible       bool
	incremental     bool
	damaged         bool
}

// views lists all tracks.
func (d *Drive) views() []view {
	s := &d.st.Disc
	var list []view
	for i := range s.Tracks {
		list = append(list, d.viewOf(i))
	}
	if n := d.mediumFault(Sessions); n > uint32(len(list)) && len(list) > 0 && s.Finalised {
		for len(list) < int(n) {
			list = append(list, view{number: len(list) + 1, session: len(list) + 1, start: d.recordedEnd(), incremental: true})
		}
	}
	if t := s.last(); s.Finalised || t != nil && t.openEnded() {
		return list
	}
	v := view{number: len(list) + 1, session: s.Sessions + 1, start: d.following(), invisible: true, incremental: !d.once()}
	switch p := d.plan; {
	case s.damaged():
	case p != nil: // reserved for a disc at once, and nothing written yet
		v.reserved, v.incremental, v.invisible = true, false, false
		v.start = p.tracks[0].Start
		v.size = p.tracks[0].Reserved
		v.writable, v.next, v.free = true, v.start, v.size
	case v.start < d.capacity():
		v.writable, v.next, v.free = true, v.start, d.capacity()-v.start
		v.size = v.free
	}
	return append(list, v)
}

func (d *Drive) viewOf(i int) view {
	t, k := &d.st.Disc.Tracks[i], d.kind()
	v := view{number: i + 1, session: t.Session, start: t.Start, size: t.size(k), recorded: d.recordedIn(i),
		reserved: t.Reserved > 0 && !t.Closed, incremental: !t.Once, damaged: t.Damaged}
	if t.Closed || t.Damaged {
		return v
	}
	v.next = t.Start + d.receivedIn(i)
	end := d.capacity()
	if t.Reserved > 0 {
		end = t.Start + t.Reserved
	}
	if v.next < end {
		v.writable, v.free = true, end-v.next
	}
	if t.Reserved == 0 {
		v.size = v.next - v.start + v.free
	}
	return v
}

// sessions counts the sessions that READ DISC INFORMATION tells: the closed
// ones, and one that is open or could be opened.
func (d *Drive) sessions() int {
	n := max(d.st.Disc.Sessions, 1)
	if d.st.Disc.Finalised {
		return max(n, int(d.mediumFault(Sessions)))
	}
	if len(d.st.Disc.Tracks) > 0 {
		n = d.st.Disc.Sessions + 1
	}
	return n
}

// recordedEnd is the LBA behind the last track that has something in it.
func (d *Drive) recordedEnd() uint32 {
	end := uint32(0)
	for i := range d.st.Disc.Tracks {
		if n := d.recordedIn(i); n > 0 {
			t := &d.st.Disc.Tracks[i]
			if t.Closed && t.Reserved == 0 {
				n = t.size(d.kind())
			}
			end = max(end, t.Start+n)
		}
	}
	return end
}

// readable returns the capacity as READ CAPACITY tells it, in blocks.
func (d *Drive) readable() uint32 {
	n := d.recordedEnd()
	if d.st.Disc.Finalised {
		n += d.mediumFault(Padding) + d.mediumFault(Surplus) + d.mediumFault(RunOut)
	}
	return n
}
