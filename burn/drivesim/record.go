package drivesim

import (
	"os"
	"time"
)

// recording is the part of a burn that lives in the drive and is lost when it
// is switched off or the tray opens.
type recording struct {
	started bool // something was written since the disc was loaded, and its track is open
	once    bool // at once: what it was announced with has to come, without a pause
	track   int  // index of the (first) track that it goes into
	end     int64

	// buf holds the bytes from filed to received; the first recorded-filed of
	// them are on the medium already and only not yet in the image file, which
	// is written in pieces of chunk bytes. All of them are bytes of the disc,
	// LBA times the block size; what lies before LBA 0 goes nowhere.
	buf      []byte
	head     int // of the valid part of buf
	filed    int64
	recorded int64
	received int64

	credit   int64 // thousandths of a byte that time allows to record
	filled   bool  // the buffer was half full once: from then on the laser is kept busy
	underrun bool
}

// plan is what was announced for a recording at once, by RESERVE TRACK or SEND
// CUE SHEET. It leaves the disc as it was until the first write.
type plan struct {
	first  int64 // LBA of the first block that has to come
	end    int64 // LBA behind the last
	tracks []track
}

const (
	chunk        = 1 << 20 // bytes written to the image file at a time
	transferRate = 100_000 // kB/s on the bus
	opcTime      = 5 * time.Second
	syncTime     = 2 * time.Second
	closeTime    = 30 * time.Second
	formatTime   = 20 * time.Second
)

// startRecording opens track i, or, when it is no track yet, makes it. The disc
// is marked as not blank, durably, before anything is recorded on it.
func (d *Drive) startRecording(i int) error {
	disc := &d.st.Disc
	rec := recording{started: true, track: i, once: d.once()}
	switch {
	case rec.once:
		disc.Tracks = append(disc.Tracks, d.plan.tracks...)
		rec.recorded, rec.end = d.plan.first*blockSize, d.plan.end*blockSize
	case i == len(disc.Tracks):
		disc.Tracks = append(disc.Tracks, track{Session: disc.Sessions + 1, Start: d.following()})
		fallthrough
	default:
		t := disc.Tracks[i]
		rec.recorded, rec.end = int64(t.Start+t.Recorded)*blockSize, int64(d.capacity())*blockSize
		if t.Reserved > 0 {
			rec.end = int64(t.Start+t.Reserved) * blockSize
		}
	}
	rec.filed, rec.received = rec.recorded, rec.recorded
	disc.Recording = i + 1
	if disc.FirstWrite == "" {
		disc.FirstWrite = d.now.UTC().Format("20060102150405")
	}
	if err := d.save(); err != nil {
		return err
	}
	if err := d.makeImage(); err != nil {
		return err
	}
	// Twice what it ever holds: the buffer is moved down seldom.
	room := int64(d.st.Drive.Buffer + chunk)
	rec.buf = make([]byte, 0, 2*min(room, rec.end-rec.recorded+int64(d.kind().unit)*blockSize))
	d.rec, d.plan = rec, nil
	return nil
}

// makeImage makes the image file unless it is there.
func (d *Drive) makeImage() error {
	if d.img == nil {
		img, err := os.OpenFile(d.files.image, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		d.img = img
	}
	return d.files.sync()
}

// buffer takes data into the drive's buffer.
func (rec *recording) buffer(data []byte) []byte {
	if len(rec.buf)+len(data) > cap(rec.buf) && rec.head > 0 {
		rec.buf = rec.buf[:copy(rec.buf, rec.buf[rec.head:])]
		rec.head = 0
	}
	at := len(rec.buf)
	rec.buf = append(rec.buf, data...)
	rec.received += int64(len(data))
	return rec.buf[at:]
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
	unit := int64(d.kind().unit) * blockSize
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
	if d.rec.once && d.page[2]&0x40 == 0 && t > 10*time.Millisecond && d.rec.received < d.rec.end {
		d.rec.underrun = true
	}
}

// file writes recorded data to the image file once there are atLeast bytes of
// it.
func (d *Drive) file(atLeast int64) error {
	rec := &d.rec
	n := rec.recorded - rec.filed
	if n == 0 || n < atLeast {
		return nil
	}
	data, at := rec.buf[rec.head:rec.head+int(n)], rec.filed
	if at < 0 { // the pause before a CD's first track
		skip := min(n, -at)
		data, at = data[skip:], at+skip
	}
	if _, err := d.img.WriteAt(data, max(at, 0)); err != nil {
		return err
	}
	rec.filed += n
	if rec.head += int(n); rec.head == len(rec.buf) {
		rec.buf, rec.head = rec.buf[:0], 0
	}
	return nil
}

// keep writes down how far the recording has come.
func (d *Drive) keep() {
	if d.rec.started {
		for i := d.rec.track; i < len(d.st.Disc.Tracks); i++ {
			d.st.Disc.Tracks[i].Recorded = d.recordedIn(i)
		}
	}
}

// interrupt ends a burn that was not finished: what is recorded stays, what is
// in the buffer is lost, and a disc at once can't be continued.
func (d *Drive) interrupt() {
	if d.rec.started {
		d.fail(d.file(0))
		d.keep()
		d.cutOff()
		d.fail(d.save())
	}
	d.rec, d.plan = recording{}, nil
}

// cutOff marks what a recording that wasn't ended leaves behind.
func (d *Drive) cutOff() {
	disc, k := &d.st.Disc, d.kind()
	if disc.Recording == 0 {
		return
	}
	for i := disc.Recording - 1; i < len(disc.Tracks); i++ {
		if t := &disc.Tracks[i]; !t.Closed && (t.Once || k.fragile) {
			t.Damaged = true
		} else if !t.Closed {
			t.Recorded = t.Recorded / k.unit * k.unit
		}
	}
	disc.Recording = 0
}

// flush records all that is in the buffer, durably. What isn't written at once
// ends in a whole ECC block, padded with zeros.
func (d *Drive) flush() error {
	rec := &d.rec
	if !rec.started {
		return nil
	}
	if unit := int64(d.kind().unit) * blockSize; !rec.once && rec.received%unit != 0 {
		rec.buffer(make([]byte, min(unit-rec.received%unit, rec.end-rec.received)))
	}
	rec.recorded, rec.credit = rec.received, 0
	if err := d.file(0); err != nil {
		return err
	}
	if err := d.img.Sync(); err != nil {
		return err
	}
	d.keep()
	return nil
}

// endRecording ends the recording after a flush.
func (d *Drive) endRecording() {
	d.keep()
	d.rec, d.st.Disc.Recording = recording{}, 0
}
