package drivesim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// recording is the part of a burn that lives in the drive and is lost when it
// is switched off or the tray opens.
type recording struct {
	reserved uint32 // blocks, by RESERVE TRACK
	started  bool   // something was written since the disc was loaded
	opc      bool

	// buf holds the bytes from filed to received; the first recorded-filed of
	// them are on the medium already and only not yet in disc.img, which is
	// written in pieces of chunk bytes.
	buf      []byte
	head     int   // of the valid part of buf
	filed    int64 // byte of the track up to which disc.img is written
	recorded int64 // byte up to which the medium is recorded
	received int64 // byte up to which the host has written

	credit   int64 // thousandths of a byte that time allows to record
	underrun bool
}

const (
	chunk        = 1 << 20 // bytes written to disc.img at a time
	transferRate = 100_000 // kB/s on the bus
	opcTime      = 5 * time.Second
	syncTime     = 2 * time.Second
	closeTime    = 30 * time.Second
)

// recorded returns the blocks recorded in the track.
func (d *Drive) recorded() uint32 {
	if d.rec.started {
		return uint32(d.rec.recorded / blockSize)
	}
	return d.st.Disc.Recorded
}

func (d *Drive) nextWritable() uint32 {
	if d.rec.started {
		return uint32(d.rec.received / blockSize)
	}
	return d.st.Disc.Recorded
}

// readable returns the capacity as READ CAPACITY tells it, in blocks.
func (d *Drive) readable() uint32 {
	n := d.recorded()
	if d.st.Disc.Status == complete {
		n += d.mediumFault(Padding) + d.mediumFault(Surplus) + d.mediumFault(RunOut)
	}
	return n
}

// recordable are the media that can be written.
var recordable = []mmc.Profile{mmc.DVDR, mmc.DVDPlusR, mmc.CDR, mmc.BDR}

// paged reports whether mode page 05h says how the medium is written.
func (d *Drive) paged() bool {
	return d.st.Disc.Profile == mmc.DVDR || d.st.Disc.Profile == mmc.CDR
}

func (d *Drive) dao() bool {
	return d.st.Disc.Profile == mmc.DVDR && d.page[2]&0x0F == mmc.WriteSAO
}

func (d *Drive) sendOPC(r *request) (int, error) {
	if r.cdb[1]&1 == 0 || r.u16(7) != 0 {
		return 0, sense(0x52400)
	}
	if err := d.writable(); err != nil {
		return 0, err
	}
	d.rec.opc = true
	return 0, d.spend(r, opcTime)
}

// writable refuses what can't be written at all.
func (d *Drive) writable() error {
	switch {
	case !slices.Contains(recordable, d.st.Disc.Profile):
		return sense(0x53005)
	case d.st.Disc.Status == complete || d.st.Disc.TrackClosed:
		return sense(0x53005)
	case d.st.Disc.Damaged:
		return sense(0x56300)
	}
	return nil
}

func (d *Drive) reserveTrack(r *request) (int, error) {
	if err := d.writable(); err != nil {
		return 0, err
	}
	blocks := r.u32(5)
	switch {
	case d.st.Disc.Profile != mmc.DVDR:
		return 0, sense(0x52000)
	case d.st.Disc.Status != blank || d.rec.reserved > 0 || !d.pageSet:
		return 0, sense(0x52C00)
	case !d.dao():
		return 0, sense(0x56400) // one incremental track on a disc is all that is simulated
	case blocks == 0:
		return 0, sense(0x52400)
	case blocks > d.st.Disc.Capacity:
		return 0, sense(0x52100)
	}
	d.rec.reserved = blocks
	return 0, nil
}

func (d *Drive) write(r *request) (int, error) {
	lba, n := r.u32(2), r.u16(7)
	if len(r.data.Out) != n*blockSize {
		return 0, &scsi.TransportError{Err: fmt.Errorf("%d bytes for %d blocks", len(r.data.Out), n)}
	}
	if err := d.mayWrite(lba, uint32(n)); err != nil || n == 0 {
		return 0, err
	}
	rec := &d.rec
	if free := d.st.Drive.Buffer - int(rec.received-rec.recorded); len(r.data.Out) > free && rec.received > rec.recorded {
		return 0, d.longWrite()
	}
	if !rec.started {
		if err := d.startRecording(); err != nil {
			d.fail(err)
			return 0, nil // Do reports what is broken
		}
	}
	d.buffer(r)
	return len(r.data.Out), d.spend(r, rate(int64(len(r.data.Out)), transferRate))
}

// rate returns how long n bytes take at so many kB/s.
func rate(n int64, kbs int) time.Duration {
	return time.Duration(n * int64(time.Millisecond) / int64(kbs))
}

// mayWrite refuses a write that a drive refuses.
func (d *Drive) mayWrite(lba, n uint32) error {
	if err := d.writable(); err != nil {
		return err
	}
	end := uint64(lba) + uint64(n)
	switch {
	case d.paged() && !d.pageSet:
		return sense(0x56400)
	case d.dao() && d.rec.reserved == 0:
		return sense(0x52C00)
	case end > uint64(d.st.Disc.Capacity):
		return sense(0x52100)
	case lba != d.nextWritable():
		return sense(0x52102)
	case d.dao() && end > uint64(d.rec.reserved):
		return sense(0x56300)
	case d.rec.underrun:
		return sense(0x30C09)
	}
	return nil
}

// startRecording marks the disc as not blank, durably, before anything is
// recorded on it.
func (d *Drive) startRecording() error {
	disc := &d.st.Disc
	disc.Status, disc.DAO = incomplete, d.dao()
	if disc.FirstWrite == "" {
		disc.FirstWrite = d.now.UTC().Format("20060102150405")
	}
	if err := d.save(); err != nil {
		return err
	}
	if d.img == nil {
		img, err := os.OpenFile(filepath.Join(d.dir, imageFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		d.img = img
	}
	if err := syncDir(d.dir); err != nil {
		return err
	}
	at := int64(disc.Recorded) * blockSize
	d.rec.started, d.rec.filed, d.rec.recorded, d.rec.received = true, at, at, at
	// Twice what it ever holds: the buffer is moved down seldom.
	room := int64(d.st.Drive.Buffer + chunk)
	d.rec.buf = make([]byte, 0, 2*min(room, int64(disc.Capacity)*blockSize))
	return nil
}

// buffer takes the data of a write into the drive's buffer, as it will be on
// the disc: with the bytes that faults change.
func (d *Drive) buffer(r *request) {
	rec := &d.rec
	if len(rec.buf)+len(r.data.Out) > cap(rec.buf) && rec.head > 0 {
		rec.buf = rec.buf[:copy(rec.buf, rec.buf[rec.head:])]
		rec.head = 0
	}
	at := len(rec.buf)
	rec.buf = append(rec.buf, r.data.Out...)
	rec.received += int64(len(r.data.Out))
	for _, f := range r.flips {
		f.eachBlock(r, func(lba uint32, off int) {
			if _, known := d.cache[lba]; !known {
				d.cache[lba] = bytes.Clone(r.data.Out[off : off+blockSize])
			}
			rec.buf[at+off+f.N] ^= 1
		})
	}
}

// eachBlock calls do for each block of the command that the fault is about,
// with the block's offset in the data.
func (f *armed) eachBlock(r *request, do func(lba uint32, off int)) {
	lba, n, _ := r.blocks()
	for i := range n {
		if f.Blocks == 0 || lba+i >= f.LBA && lba+i-f.LBA < f.Blocks {
			do(lba+i, int(i)*blockSize)
		}
	}
}

// drain records what the drive gets recorded in t.
func (d *Drive) drain(t time.Duration) error {
	rec := &d.rec
	if !rec.started || rec.recorded == rec.received && rec.credit == 0 {
		if rec.started {
			d.idle(t)
		}
		return nil
	}
	// A day is more than any disc takes, and keeps the product in range.
	rec.credit += int64(min(t, 24*time.Hour)/time.Microsecond) * int64(d.writeSpeed)
	const unit = eccBlocks * blockSize
	n := rec.credit / 1000 / unit * unit
	n = min(n, (rec.received-rec.recorded)/unit*unit)
	rec.credit = min(rec.credit-n*1000, unit*1000)
	rec.recorded += n
	if rec.recorded == rec.received {
		rec.credit = 0
	}
	return d.file(chunk)
}

// idle notices when the laser has nothing to write: without protection against
// it a disc at once is lost then.
func (d *Drive) idle(t time.Duration) {
	if d.dao() && d.page[2]&0x40 == 0 && t > 10*time.Millisecond && d.rec.received < int64(d.rec.reserved)*blockSize {
		d.rec.underrun = true
	}
}

// file writes recorded data to disc.img once there are atLeast bytes of it.
func (d *Drive) file(atLeast int64) error {
	rec := &d.rec
	n := rec.recorded - rec.filed
	if n == 0 || n < atLeast {
		return nil
	}
	if _, err := d.img.WriteAt(rec.buf[rec.head:rec.head+int(n)], rec.filed); err != nil {
		return err
	}
	rec.filed += n
	if rec.head += int(n); rec.head == len(rec.buf) {
		rec.buf, rec.head = rec.buf[:0], 0
	}
	return nil
}

// interrupt ends a burn that was not finished: what is recorded stays, what is
// in the buffer is lost, and a disc at once can't be continued.
func (d *Drive) interrupt() {
	if d.rec.started {
		d.fail(d.file(0))
		d.st.Disc.Recorded = uint32(d.rec.recorded / blockSize)
		d.st.Disc.Damaged = d.st.Disc.DAO
		d.fail(d.save())
	}
	d.rec = recording{}
}

// flush records all that is in the buffer, durably.
func (d *Drive) flush() error {
	if !d.rec.started {
		return nil
	}
	d.rec.recorded, d.rec.credit = d.rec.received, 0
	if err := d.file(0); err != nil {
		return err
	}
	if err := d.img.Sync(); err != nil {
		return err
	}
	d.st.Disc.Recorded = uint32(d.rec.recorded / blockSize)
	return nil
}

func (d *Drive) synchronizeCache(r *request) (int, error) {
	if !d.rec.started {
		return 0, nil
	}
	t := syncTime + rate(d.rec.received-d.rec.recorded, d.writeSpeed)
	last := d.st.Disc.DAO && d.rec.received == int64(d.rec.reserved)*blockSize
	if last {
		t += closeTime
	}
	return 0, d.long(r, t, r.cdb[1]&2 != 0, func() error {
		if err := d.flush(); err != nil {
			return err
		}
		if last { // a disc at once closes itself
			return d.finish(d.page[3]>>6 == 0)
		}
		return d.save()
	})
}

// finish closes the session, and the disc when nothing may follow.
func (d *Drive) finish(last bool) error {
	d.st.Disc.TrackClosed = true
	if last {
		d.st.Disc.Status = complete
	} else {
		d.st.Disc.Appendable = true
	}
	d.rec = recording{}
	return d.save()
}

func (d *Drive) closeTrackSession(r *request) (int, error) {
	disc := &d.st.Disc
	immed := r.cdb[1]&1 != 0
	if disc.Status == complete || disc.Appendable && r.cdb[2]&7 < 5 {
		return 0, nil
	}
	switch r.cdb[2] & 7 {
	case mmc.CloseTrack:
		switch {
		case r.u16(4) != 1:
			return 0, sense(0x52400)
		case disc.Status == blank || disc.DAO:
			return 0, sense(0x52C00)
		case disc.TrackClosed:
			return 0, nil
		}
		t := syncTime + rate(d.rec.received-d.rec.recorded, d.writeSpeed)
		return 0, d.long(r, t, immed, func() error {
			if err := d.flush(); err != nil {
				return err
			}
			disc.TrackClosed = true
			d.rec = recording{}
			return d.save()
		})
	case mmc.CloseSession:
		if !disc.TrackClosed {
			return 0, sense(0x57203)
		}
		last := d.paged() && d.page[3]>>6 == 0
		return 0, d.long(r, closeTime, immed, func() error { return d.finish(last) })
	case 5, 6: // finalise
		if d.paged() || disc.Profile == mmc.BDR && r.cdb[2]&7 == 5 {
			return 0, sense(0x52400)
		}
		if !disc.TrackClosed {
			return 0, sense(0x57203)
		}
		return 0, d.long(r, closeTime, immed, func() error { return d.finish(true) })
	}
	return 0, sense(0x52400)
}

func (d *Drive) readBufferCapacity(r *request) (int, error) {
	if r.cdb[1]&1 != 0 {
		return 0, sense(0x52400) // bytes only
	}
	b := make([]byte, 12)
	b[1] = 10
	binary.BigEndian.PutUint32(b[4:], uint32(d.st.Drive.Buffer))
	free := max(0, int64(d.st.Drive.Buffer)-(d.rec.received-d.rec.recorded))
	binary.BigEndian.PutUint32(b[8:], uint32(free))
	return r.reply(b, r.u16(7))
}

func (d *Drive) read(r *request) (int, error) {
	lba, n := r.u32(2), uint32(r.u16(7))
	if len(r.data.In) < int(n)*blockSize {
		return 0, &scsi.TransportError{Err: fmt.Errorf("room for %d bytes, %d blocks asked", len(r.data.In), n)}
	}
	if d.rec.started && d.rec.recorded < d.rec.received {
		return 0, d.longWrite()
	}
	if uint64(lba)+uint64(n) > uint64(d.readable()) {
		return 0, sense(0x52100)
	}
	if err := d.spend(r, rate(int64(n)*blockSize, d.readSpeed)); err != nil {
		return 0, err
	}
	d.fail(d.file(0))
	if d.broken != nil {
		return 0, nil // Do reports it
	}
	p := r.data.In[:int(n)*blockSize]
	if err := d.readBlocks(p, lba); err != nil {
		return 0, err
	}
	for _, f := range r.flips {
		f.eachBlock(r, func(_ uint32, off int) { p[off+f.N] ^= 1 })
	}
	return len(p), nil
}

// readBlocks reads what the host gets to see from lba on: the track, the
// drive's cache over it, and what faults put behind it.
func (d *Drive) readBlocks(p []byte, lba uint32) error {
	recorded := d.recorded()
	inTrack := min(len(p), int(max(0, int64(recorded)-int64(lba)))*blockSize)
	if inTrack > 0 {
		if n, err := d.img.ReadAt(p[:inTrack], int64(lba)*blockSize); n < inTrack {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			d.fail(err)
			return nil // Do reports it
		}
	}
	if len(d.cache) > 0 {
		for i := 0; i < len(p)/blockSize; i++ {
			if b, ok := d.cache[lba+uint32(i)]; ok {
				copy(p[i*blockSize:], b)
			}
		}
	}
	for off := inTrack; off < len(p); off += blockSize {
		at := lba + uint32(off/blockSize)
		switch block := p[off : off+blockSize]; d.behind(at - recorded) {
		case Padding:
			clear(block)
		case Surplus:
			copy(block, bytes.Repeat([]byte{0x5A}, blockSize))
		default:
			return parsed(fixedSense(0x70, 0x31100, &at))
		}
	}
	return nil
}
