package drivesim

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// paged reports whether mode page 05h says how the medium is written.
func (d *Drive) paged() bool { return d.kind().modes != nil }

// once reports whether the next recording is one at once.
func (d *Drive) once() bool { return d.paged() && d.page[2]&0x0F == mmc.WriteSAO }

// writable refuses what can't be written at all.
func (d *Drive) writable() error {
	switch disc := &d.st.Disc; {
	case !d.kind().writable(), disc.Finalised:
		return sense(0x53005)
	case disc.damaged():
		return sense(0x56300)
	}
	return nil
}

func (d *Drive) sendOPC(r *request) (int, error) {
	if r.cdb[1]&1 == 0 || r.u16(7) != 0 {
		return 0, sense(0x52400)
	}
	if err := d.writable(); err != nil {
		return 0, err
	}
	return 0, d.spend(r, opcTime)
}

// rate returns how long n bytes take at so many kB/s.
func rate(n int64, kbs int) time.Duration {
	return time.Duration(n * int64(time.Millisecond) / int64(kbs))
}

func (d *Drive) write(r *request) (int, error) {
	lba, n, _ := r.blocks()
	if uint64(len(r.data.Out)) != uint64(n)*blockSize {
		return 0, &scsi.TransportError{Err: fmt.Errorf("%d bytes for %d blocks", len(r.data.Out), n)}
	}
	at := int64(lba)
	if d.kind().isCD() {
		at = int64(int32(lba)) // the pause before the first track has negative addresses
	}
	target, err := d.mayWrite(at, int64(n))
	if err != nil || n == 0 {
		return 0, err
	}
	rec := &d.rec
	if free := d.st.Drive.Buffer - int(rec.received-rec.recorded); len(r.data.Out) > free && rec.received > rec.recorded {
		return 0, d.longWrite()
	}
	if target == overwriting {
		return d.overwrite(r, at)
	}
	if rec.started && rec.track != target { // another track: this one gets linked
		if err := d.flush(); err != nil {
			d.fail(err)
			return 0, nil // Do reports what is broken
		}
		d.endRecording()
	}
	if !rec.started {
		if err := d.startRecording(target); err != nil {
			d.fail(err)
			return 0, nil
		}
	}
	d.take(r, lba)
	return len(r.data.Out), d.spend(r, rate(int64(len(r.data.Out)), transferRate))
}

// overwriting is the target of a write over what is recorded.
const overwriting = -1

// mayWrite refuses a write that a drive refuses. It returns the index of the
// track that is written: that behind the last, when one begins.
func (d *Drive) mayWrite(lba, n int64) (target int, err error) {
	if err := d.writable(); err != nil {
		return 0, err
	}
	end, capacity := lba+n, int64(d.capacity())
	if d.once() {
		capacity += int64(d.kind().runOut)
	}
	switch {
	case d.paged() && !d.pageSet:
		return 0, sense(0x56400)
	case d.once() && d.plan == nil && !d.rec.once:
		return 0, sense(0x52C00)
	case end > capacity:
		return 0, sense(0x52100)
	case d.once() != d.rec.once && d.rec.started:
		return 0, sense(0x52C00)
	}
	if d.once() {
		next, last := d.rec.received/blockSize, d.rec.end/blockSize
		if target = d.rec.track; !d.rec.started {
			next, last, target = d.plan.first, d.plan.end, len(d.st.Disc.Tracks)
		}
		switch {
		case lba != next:
			return 0, sense(0x52102)
		case end > last:
			return 0, sense(0x56300)
		case d.rec.underrun:
			return 0, sense(0x30C09)
		}
		return target, nil
	}
	if d.st.Disc.Overwrite && end <= int64(d.recordedEnd()) {
		return overwriting, nil
	}
	for i, v := range d.views() {
		if v.writable && int64(v.next) == lba {
			if n > int64(v.free) {
				return 0, sense(0x56300)
			}
			return i, nil
		}
	}
	return 0, sense(0x52102)
}

// take takes the data of a write into the drive's buffer, as it will be on the
// disc: with the bytes that faults change.
func (d *Drive) take(r *request, lba uint32) {
	rec := &d.rec
	if rec.filled && rec.recorded == rec.received {
		d.underruns++
	}
	into := rec.buffer(r.data.Out)
	rec.filled = rec.filled || rec.received-rec.recorded >= int64(d.st.Drive.Buffer)/2
	for _, f := range r.flips {
		f.eachBlock(r, func(lba uint32, off int) {
			if _, known := d.cache[lba]; !known {
				d.cache[lba] = bytes.Clone(r.data.Out[off : off+blockSize])
			}
			into[off+f.N] ^= 1
		})
	}
}

// overwrite replaces recorded blocks: pseudo-overwrite, MMC-6 4.5.3.5.5.
func (d *Drive) overwrite(r *request, lba int64) (int, error) {
	if err := d.flush(); err != nil {
		d.fail(err)
		return 0, nil
	}
	data := bytes.Clone(r.data.Out)
	for _, f := range r.flips {
		f.eachBlock(r, func(_ uint32, off int) { data[off+f.N] ^= 1 })
	}
	if _, err := d.img.WriteAt(data, lba*blockSize); err != nil {
		d.fail(err)
		return 0, nil
	}
	for i := range data[:len(data)/blockSize] {
		delete(d.cache, uint32(lba)+uint32(i))
	}
	return len(data), d.spend(r, rate(int64(len(data)), d.writeSpeed))
}

func (d *Drive) reserveTrack(r *request) (int, error) {
	disc, k := &d.st.Disc, d.kind()
	if !k.reserve || d.st.Drive.NoReserve {
		return 0, sense(0x52000)
	}
	if err := d.writable(); err != nil {
		return 0, err
	}
	blocks := r.u32(5)
	start := d.following()
	switch {
	case d.paged() && !d.pageSet, d.plan != nil, d.once() && disc.status() != blank, d.rec.started:
		return 0, sense(0x52C00)
	case disc.last() != nil && disc.last().openEnded():
		return 0, sense(0x52C00)
	case len(disc.Tracks) >= maxTracks:
		return 0, sense(0x57205)
	case blocks == 0 || r.cdb[1]&7 != 0:
		return 0, sense(0x52400)
	case uint64(start)+uint64(blocks) > uint64(d.capacity()):
		return 0, sense(0x52100)
	}
	t := track{Session: disc.Sessions + 1, Start: start, Reserved: blocks}
	if d.once() {
		t.Once = true
		d.plan = &plan{first: int64(start), end: int64(start + blocks), tracks: []track{t}}
		return 0, nil
	}
	t.Reserved = min(k.align(blocks), d.capacity()-start)
	disc.Tracks = append(disc.Tracks, t)
	if err := d.save(); err != nil {
		d.fail(err)
		return 0, nil
	}
	d.fail(d.makeImage())
	return 0, d.spend(r, syncTime)
}

func (d *Drive) synchronizeCache(r *request) (int, error) {
	if !d.rec.started {
		return 0, nil
	}
	t := syncTime + rate(d.rec.received-d.rec.recorded, d.writeSpeed)
	last := d.rec.once && d.rec.received == d.rec.end
	if last {
		t += closeTime
	}
	return 0, d.long(r, t, r.cdb[1]&2 != 0, 0x20408, func() error {
		if err := d.flush(); err != nil {
			return err
		}
		if last { // what is written at once closes itself
			return d.sealSession(d.page[3]>>6 == 0)
		}
		return d.save()
	})
}

// sealSession closes the session, and the disc when it is the last.
func (d *Drive) sealSession(last bool) error {
	d.endRecording()
	disc := &d.st.Disc
	if disc.sessionOpen() {
		disc.Sessions++
	}
	for i := range disc.Tracks {
		disc.Tracks[i].Closed = true
	}
	disc.Finalised = last
	return d.save()
}

// sealTrack closes track i: what was reserved and not written is zero.
func (d *Drive) sealTrack(i int) error {
	if d.rec.started {
		if err := d.flush(); err != nil {
			return err
		}
		d.endRecording()
	}
	t := &d.st.Disc.Tracks[i]
	if t.Recorded < t.Reserved {
		t.Recorded = t.Reserved
		fi, err := d.img.Stat()
		if err != nil {
			return err
		}
		if end := int64(t.Start+t.Recorded) * blockSize; fi.Size() < end {
			if err := d.img.Truncate(end); err != nil {
				return err
			}
		}
	}
	t.Closed = true
	return d.save()
}

func (d *Drive) closeTrackSession(r *request) (int, error) {
	disc, k, immed := &d.st.Disc, d.kind(), r.cdb[1]&1 != 0
	what := k.close[r.cdb[2]&7]
	if !k.writable() {
		return 0, sense(0x53005)
	}
	if what == sealNothing {
		return 0, sense(0x52400)
	}
	if disc.Finalised || what != sealDisc && disc.status() == incomplete && !disc.sessionOpen() {
		return 0, nil
	}
	if what == sealTrack {
		i, err := d.trackToClose(r.u16(4))
		if err != nil || disc.Tracks[i].Closed {
			return 0, err
		}
		t := syncTime + rate(d.rec.received-d.rec.recorded, d.writeSpeed)
		return 0, d.long(r, t, immed, 0x20407, func() error { return d.sealTrack(i) })
	}
	open := slices.IndexFunc(disc.Tracks, func(t track) bool { return !t.Closed })
	// A CD's track at once ends with its data, whether it is closed or not.
	ends := open >= 0 && k.fragile && !disc.Tracks[open].Once && !disc.Tracks[open].Damaged
	if len(disc.Tracks) == 0 || open >= 0 && !ends {
		return 0, sense(0x57203)
	}
	last := what == sealDisc || d.paged() && d.page[3]>>6 == 0
	t := closeTime + rate(d.rec.received-d.rec.recorded, d.writeSpeed)
	return 0, d.long(r, t, immed, 0x20407, func() error {
		if ends {
			if err := d.sealTrack(open); err != nil {
				return err
			}
		}
		return d.sealSession(last)
	})
}

// trackToClose finds the track that CLOSE TRACK means. On CD the number is
// ignored, there is no more than one open track.
func (d *Drive) trackToClose(number int) (int, error) {
	disc := &d.st.Disc
	if d.kind().isCD() && disc.last() != nil {
		number = len(disc.Tracks)
	}
	switch {
	case number == len(disc.Tracks)+1:
		return 0, sense(0x52C00) // nothing is written in it
	case number < 1 || number > len(disc.Tracks):
		return 0, sense(0x52400)
	case disc.Tracks[number-1].Once && !disc.Tracks[number-1].Closed:
		return 0, sense(0x52C00)
	}
	return number - 1, nil
}

func (d *Drive) readBufferCapacity(r *request) (int, error) {
	if r.cdb[1]&1 != 0 {
		return 0, sense(0x52400) // bytes only
	}
	b := make([]byte, 12)
	b[1] = 10
	put32(b[4:], uint32(d.st.Drive.Buffer))
	put32(b[8:], uint32(max(0, int64(d.st.Drive.Buffer)-(d.rec.received-d.rec.recorded))))
	return r.reply(b, r.u16(7))
}
