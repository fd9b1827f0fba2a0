package burn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"sallyport/burn/drivesim"
	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// outcome is what a burn on a drive with faults came to.
type outcome struct {
	rec      *Record
	err      error
	commands int
	took     time.Duration // of the drive's time
}

// burnWith burns image on a new drive with faults, and checks what must hold
// whatever the faults are:
//   - a burn that succeeds leaves exactly the image on a closed disc;
//   - a burn that fails is never recorded as verified, and a disc that isn't
//     blank any more is always called spoiled;
//   - a disc that isn't blank is refused by the next burn;
//   - commands and time are bounded.
func burnWith(t *testing.T, c drivesim.Config, image Image, want []byte, faults ...drivesim.Fault) outcome {
	t.Helper()
	d, dir := newDrive(t, c)
	defer d.Close()
	d.Inject(faults...)
	begun := d.Now()
	o := outcome{}
	o.rec, o.err = Disc(t.Context(), d, image, Options{Load: func(string) error { d.Load(); return nil }})
	o.commands, o.took = d.Commands(), d.Now().Sub(begun)
	st := d.Status()
	var spoiled *SpoiledError
	var refused *RefusedError
	switch isSpoiled := errors.As(o.err, &spoiled); {
	case o.err == nil:
		// Zeros behind the image, which a short track needs, may be fewer after a fault.
		got, size := recorded(t, dir), int(image.Blocks)*BlockSize
		equal := len(got) >= size && bytes.HasPrefix(want, got)
		if st.Disc != "complete" || !equal || !o.rec.Verified || o.rec.Spoiled {
			t.Errorf("success, and the disc is %s, equal %v, record %+v", st.Disc, equal, o.rec)
		}
	case o.rec != nil && (o.rec.Verified || o.rec.Spoiled != isSpoiled):
		t.Errorf("error %v, and the record says %+v", o.err, o.rec)
	case st.Disc != "blank" && !isSpoiled:
		t.Errorf("the disc is %s with %d blocks, and the error doesn't say so: %v", st.Disc, st.Recorded, o.err)
	case isSpoiled && errors.As(o.err, &refused) && spoiled.Phase == PhaseCheck:
		t.Errorf("refused and spoiled: %v", o.err)
	case isSpoiled && d.Commands(0x2A, 0x53) == 0:
		t.Errorf("spoiled without a write: %v", o.err)
	}
	if o.commands > 2000 {
		t.Errorf("%d commands for %d blocks: %v", o.commands, image.Blocks, o.err)
	}
	if o.took > 3*time.Hour {
		t.Errorf("took %v of the drive's time: %v", o.took, o.err)
	}
	d.ClearFaults()
	if st.Disc != "blank" {
		d.Replug()
		d.Load()
		_, err := Disc(t.Context(), d, image, Options{})
		if !errors.As(err, &refused) || refused.Code != CodeNotBlank {
			t.Errorf("a used disc (%s) is not refused: %v", st.Disc, err)
		}
	}
	return o
}

// deadline fails the test when f hangs: nothing here waits by the wall clock.
func deadline(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s hangs", what)
	}
}

// A fault at every command of a burn in turn, before and after its effect:
// the result is a good disc or an error that tells the truth about the disc.
func TestFaultAtEveryCommand(t *testing.T) {
	kinds := []drivesim.Fault{
		{Action: drivesim.Sense, Sense: 0x10C00},
		{Action: drivesim.Sense, Sense: 0x20401},
		{Action: drivesim.Sense, Sense: 0x20407},
		{Action: drivesim.Sense, Sense: 0x20408},
		{Action: drivesim.Sense, Sense: 0x23A00},
		{Action: drivesim.Sense, Sense: 0x30C00},
		{Action: drivesim.Sense, Sense: 0x31100},
		{Action: drivesim.Sense, Sense: 0x44400},
		{Action: drivesim.Sense, Sense: 0x52000},
		{Action: drivesim.Sense, Sense: 0x52102},
		{Action: drivesim.Sense, Sense: 0x52C00},
		{Action: drivesim.Sense, Sense: 0x57203},
		{Action: drivesim.Sense, Sense: 0x62800},
		{Action: drivesim.Sense, Sense: 0x62900},
		{Action: drivesim.Sense, Sense: 0xB4700},
		{Action: drivesim.Deferred, Sense: 0x30C00},
		{Action: drivesim.Deferred, Sense: 0x11700},
		{Action: drivesim.Timeout},
		{Action: drivesim.Gone},
		{Action: drivesim.Slow, Delay: 40 * time.Second},
	}
	image, data := testImage(96)
	for which, c := range []drivesim.Config{
		{},
		{NoDAO: true, NoLoad: true},
		{Profile: mmc.CDR},
		{Profile: mmc.DVDPlusR},
		{Profile: mmc.BDR},
	} {
		c.Capacity, c.Buffer, c.SpinUp = 512, 64<<10, time.Second
		want := padded(c.Profile, data)
		clean := burnWith(t, c, image, want)
		if clean.err != nil {
			t.Fatal(clean.err)
		}
		good, failed := 0, 0
		for at := 1; at <= clean.commands; at++ {
			for i, f := range kinds {
				if which == 1 && i%3 != 1 || which > 1 && i%5 != which-1 {
					continue // some of them will do for the other ways of writing
				}
				for _, f.After = range []bool{false, true} {
					f.Nth = at
					name := fmt.Sprintf("%v, no dao %v, command %d, %+v", c.Profile, c.NoDAO, at, f)
					ok := t.Run("", func(t *testing.T) {
						deadline(t, name, func() {
							if burnWith(t, c, image, want, f).err == nil {
								good++
							} else {
								failed++
							}
						})
					})
					if !ok {
						t.Logf("that was: %s", name)
					}
				}
			}
		}
		t.Logf("%v, no dao %v: %d commands in a clean burn; %d good discs, %d errors", c.Profile, c.NoDAO, clean.commands, good, failed)
		if good == 0 || failed == 0 {
			t.Error("the faults don't do anything, or everything fails")
		}
	}
}

// The rows of the table of drive errors, each before and after the effect.
func TestDriveErrors(t *testing.T) {
	image, want := testImage(640)
	type check func(*testing.T, outcome)
	good := func(minRetries int) check {
		return func(t *testing.T, o outcome) {
			if o.err != nil {
				t.Fatalf("the burn failed: %v", o.err)
			}
			if o.rec.Retries < minRetries {
				t.Errorf("%d retries in the record, want %d", o.rec.Retries, minRetries)
			}
		}
	}
	spoiledAt := func(phase Phase, lba uint32, says ...string) check {
		return func(t *testing.T, o outcome) {
			var s *SpoiledError
			if !errors.As(o.err, &s) || s.Phase != phase || s.LBA != lba {
				t.Fatalf("got %v, want a disc spoiled while %s at LBA %d", o.err, phase, lba)
			}
			for _, w := range says {
				if !strings.Contains(o.err.Error(), w) {
					t.Errorf("%q doesn't say %q", o.err, w)
				}
			}
		}
	}
	// unspoiled: an error that costs no disc.
	unspoiled := func(says ...string) check {
		return func(t *testing.T, o outcome) {
			var s *SpoiledError
			if o.err == nil || errors.As(o.err, &s) {
				t.Fatalf("got %v, want an error that leaves the disc blank", o.err)
			}
			for _, w := range says {
				if !strings.Contains(o.err.Error(), w) {
					t.Errorf("%q doesn't say %q", o.err, w)
				}
			}
		}
	}
	warned := func(says string) check {
		return func(t *testing.T, o outcome) {
			good(0)(t, o)
			if o.err == nil && !strings.Contains(strings.Join(o.rec.Warnings, "\n"), says) {
				t.Errorf("warnings %q don't say %q", o.rec.Warnings, says)
			}
		}
	}
	for _, tt := range []struct {
		id     string
		faults string
		config drivesim.Config
		check  check
	}{
		{"O1 becoming ready", "before test-unit-ready from 5 sense 2/04/01", drivesim.Config{}, unspoiled("not ready after 5m0s")},
		{"O1 becoming ready, for a while", "test-unit-ready nth 30 sense 2/04/01", drivesim.Config{}, good(0)},
		{"O2 buffer full, before", "before write lba 64 sense 2/04/08", drivesim.Config{}, good(1)},
		{"O2 buffer full, after", "after write lba 64 sense 2/04/08", drivesim.Config{}, spoiledAt(PhaseWrite, 64, "5/21/02")},
		{"O2 buffer full for ever", "before write lba 64 always sense 2/04/08", drivesim.Config{}, spoiledAt(PhaseWrite, 64, "no progress in 3m20s")},
		{"O2 a drive that tells nothing of its buffer", "read-buffer-capacity always sense 5/20/00", drivesim.Config{Buffer: 64 << 10}, good(1)},
		{"O2 a buffer that never empties", "read-buffer-capacity from 2 sense 2/04/08", drivesim.Config{Buffer: 64 << 10}, spoiledAt(PhaseWrite, 32, "buffer took nothing in 3m20s")},
		{"O3 operation in progress, before", "before write lba 64 sense 2/04/07", drivesim.Config{}, good(1)},
		{"O3 sequence error, before", "before write lba 64 sense 5/2c/00", drivesim.Config{}, good(1)},
		{"O3 sequence error, after", "after write lba 64 sense 5/2c/00", drivesim.Config{}, spoiledAt(PhaseWrite, 64)},
		{"O3 sequence error for ever", "before write lba 64 always sense 5/2c/00", drivesim.Config{}, spoiledAt(PhaseWrite, 64, "5/2c/00")},
		{"O4 medium changed, before", "before write lba 64 sense 6/28/00", drivesim.Config{}, spoiledAt(PhaseWrite, 64, "its disc changed during the burn", "6/28/00")},
		{"O4 medium changed, after", "after write lba 64 sense 6/28/00", drivesim.Config{}, spoiledAt(PhaseWrite, 64, "6/28/00")},
		{"O4 reset, before", "before write lba 64 sense 6/29/00", drivesim.Config{}, spoiledAt(PhaseWrite, 64, "was reset", "6/29/00")},
		{"O4 reset, after", "after write lba 64 sense 6/29/00", drivesim.Config{}, spoiledAt(PhaseWrite, 64, "6/29/00")},
		{"O4 reset, seen at another command", "read-buffer-capacity nth 2 sense 6/29/00", drivesim.Config{Buffer: 64 << 10}, spoiledAt(PhaseWrite, 32, "was reset")},
		{"O5 write error, before", "before write lba 70 sense 3/0c/00", drivesim.Config{}, spoiledAt(PhaseWrite, 70, "3/0c/00")},
		{"O5 write error, after", "after write lba 70 sense 3/0c/00", drivesim.Config{}, spoiledAt(PhaseWrite, 70, "3/0c/00")},
		{"O5 deferred, before", "before write lba 70 deferred 3/0c/02", drivesim.Config{}, spoiledAt(PhaseWrite, 70, "deferred sense 3/0c/02")},
		{"O5 deferred, after", "after write lba 70 deferred 3/0c/02", drivesim.Config{}, spoiledAt(PhaseWrite, 70, "deferred sense 3/0c/02")},
		{"O5 deferred, of the last block", "after write lba 639 deferred 3/0c/00", drivesim.Config{}, spoiledAt(PhaseClose, 639, "deferred sense 3/0c/00")},
		{"O5 deferred as if busy", "after write lba 70 deferred 2/04/08", drivesim.Config{}, spoiledAt(PhaseWrite, 96, "deferred sense 2/04/08")},
		{"O5 at flushing", "synchronize-cache sense 3/0c/00", drivesim.Config{}, spoiledAt(PhaseClose, 640, "flushing")},
		{"O6 calibration failed, before", "before send-opc-information sense 3/73/03", drivesim.Config{}, unspoiled("calibrating", "nothing has been written", "3/73/03")},
		{"O6 calibration failed, after", "after send-opc-information sense 3/73/03", drivesim.Config{}, unspoiled("calibrating", "3/73/03")},
		{"O6 calibration area almost full", "after send-opc-information sense 1/73/01", drivesim.Config{}, warned("1/73/01")},
		{"O6 no calibration command", "before send-opc-information sense 5/20/00", drivesim.Config{}, good(0)},
		{"O7 close of the track, before", "before close-track-session sense 5/72/03", drivesim.Config{NoDAO: true}, spoiledAt(PhaseClose, 640, "closing the track", "5/72/03")},
		{"O7 close of the track, after", "after close-track-session sense 5/72/03", drivesim.Config{NoDAO: true}, spoiledAt(PhaseClose, 640, "5/72/03")},
		{"O7 close of the disc, before", "before close-track-session nth 2 sense 5/72/04", drivesim.Config{NoDAO: true}, spoiledAt(PhaseClose, 640, "closing the disc", "5/72/04")},
		{"O7 close of the disc, after", "after close-track-session nth 2 sense 5/72/04", drivesim.Config{NoDAO: true}, spoiledAt(PhaseClose, 640, "5/72/04")},
		{"O7 disc at once, before", "before synchronize-cache sense 5/72/03", drivesim.Config{}, spoiledAt(PhaseClose, 640, "5/72/03")},
		{"O7 disc at once, after", "after synchronize-cache sense 5/72/03", drivesim.Config{}, spoiledAt(PhaseClose, 640, "5/72/03")},
		{"O7 the drive lies about closing", "before close-track-session always deferred 0/00/00", drivesim.Config{NoDAO: true}, spoiledAt(PhaseClose, 640, "not complete")},
		{"O8 read error, once", "read lba 100 sense 3/11/00", drivesim.Config{}, good(1)},
		{"O8 read error, until the disc turns slowly", "read lba 100 sense 3/11/00; read lba 100 nth 2 sense 3/11/00; read lba 100 nth 3 sense 3/11/00", drivesim.Config{}, good(1)},
		{"O8 read error for good", "read lba 100 always sense 3/11/05", drivesim.Config{}, spoiledAt(PhaseReadBack, 100, "3/11/05")},
		{"O8 read error with data, after", "after read lba 100 always sense 3/11/00", drivesim.Config{}, spoiledAt(PhaseReadBack, 100)},
		{"O9 incompatible medium", "read-track-information sense 5/30/02", drivesim.Config{}, unspoiled("wrong-medium", "5/30/02", "a blank CD-R, DVD+R, DVD-R or BD-R for 640 blocks")},
		{"O9 invalid address for the first write", "before write sense 5/21/02", drivesim.Config{}, unspoiled("5/21/02")},
		{"O9 invalid address, after", "after write sense 5/21/02", drivesim.Config{}, spoiledAt(PhaseWrite, 0, "5/21/02")},
		{"O10 too small", "", drivesim.Config{Capacity: 624}, unspoiled("medium-too-small", "holds 624 blocks (2 MB), the image has 640 (2 MB)")},
		{"O11 gone, before", "before write lba 64 gone", drivesim.Config{}, spoiledAt(PhaseWrite, 64, "gone from the bus")},
		{"O11 gone, after", "after write lba 64 gone", drivesim.Config{}, spoiledAt(PhaseWrite, 64, "gone from the bus")},
		{"O11 gone while reading", "before read lba 320 gone", drivesim.Config{}, spoiledAt(PhaseReadBack, 640, "gone from the bus")},
		{"O11 gone before the first write", "mode-select gone", drivesim.Config{}, unspoiled("gone from the bus")},
		{"O11 internal failure, before", "before write lba 64 sense 4/44/00", drivesim.Config{}, spoiledAt(PhaseWrite, 64, "4/44/00")},
		{"O11 internal failure, after", "after write lba 64 sense 4/44/00", drivesim.Config{}, spoiledAt(PhaseWrite, 64, "4/44/00")},
		{"O11 internal failure while reading", "read lba 320 sense 4/44/00", drivesim.Config{}, spoiledAt(PhaseReadBack, 640, "4/44/00")},
		{"O11 no answer, before", "before write lba 64 timeout", drivesim.Config{}, spoiledAt(PhaseWrite, 64, "no answer within the time limit")},
		{"O11 no answer, after", "after write lba 64 timeout", drivesim.Config{}, spoiledAt(PhaseWrite, 64, "no answer within the time limit")},
		{"O11 no answer ever again", "write lba 64 timeout; any from 60 timeout", drivesim.Config{}, spoiledAt(PhaseWrite, 64)},
		{"O12 one bit on the disc", "write lba 333 flip 1024", drivesim.Config{}, spoiledAt(PhaseReadBack, 333, "differs from the image at LBA 333: byte 1024")},
		{"O12 one bit on the disc, last block", "write lba 639 flip 2047", drivesim.Config{NoDAO: true}, spoiledAt(PhaseReadBack, 639, "LBA 639: byte 2047")},
		{"O12 one bit in one reading", "read lba 333 flip 0", drivesim.Config{}, spoiledAt(PhaseReadBack, 640, "reads differently each time")},
		{"T9 data behind the image", "medium surplus 16", drivesim.Config{}, spoiledAt(PhaseReadBack, 640, "behind the image and is not zero")},
		{"T9 data behind run-out", "medium runout 40; medium surplus 1", drivesim.Config{}, spoiledAt(PhaseReadBack, 680, "not zero")},
		{"T9 data behind zeros", "medium padding 70; medium surplus 1", drivesim.Config{}, spoiledAt(PhaseReadBack, 710, "not zero")},
		{"T9 endless zeros", "medium padding 70000", drivesim.Config{}, spoiledAt(PhaseReadBack, 640, "70000 blocks are readable behind the image")},
		{"T9 a second session", "medium sessions 2", drivesim.Config{NoDAO: true}, spoiledAt(PhaseClose, 640, "2 sessions")},
		{"run-out and zeros behind the image", "medium padding 20; medium runout 12", drivesim.Config{}, good(0)},
		{"T11 a sector a minute, reading", "read always slow 1m", drivesim.Config{}, spoiledAt(PhaseReadBack, 640, "no answer within the time limit")},
		{"T11 a packet in 25 s, reading", "read always slow 800ms", drivesim.Config{}, spoiledAt(PhaseReadBack, 640, "too little progress")},
		{"T11 a packet in 25 s, writing", "write always slow 800ms", drivesim.Config{}, spoiledAt(PhaseWrite, 384, "too little progress")},
		{"T11 a sector a minute, writing", "write always slow 1m", drivesim.Config{}, spoiledAt(PhaseWrite, 0, "no answer within the time limit")},
	} {
		t.Run(tt.id, func(t *testing.T) {
			if tt.config.Capacity == 0 {
				tt.config.Capacity = 8192
			}
			faults, err := drivesim.ParseFaults(strings.NewReader(strings.ReplaceAll(tt.faults, ";", "\n")))
			if err != nil {
				t.Fatal(err)
			}
			deadline(t, tt.id, func() {
				o := burnWith(t, tt.config, image, want, faults...)
				if o.rec != nil || tt.id[:2] == "O9" || tt.id[:2] == "O1" {
					tt.check(t, o)
				} else {
					t.Errorf("no record: %v", o.err)
				}
			})
		})
	}
}

// A write error is never written over: after it no write reaches the drive
// (O5), nor after a change of medium (O4).
func TestNeverResumed(t *testing.T) {
	image, _ := testImage(640)
	for _, fault := range []string{
		"after write nth 3 sense 3/0c/00", "after write nth 3 deferred 3/0c/00", "before write nth 3 sense 6/28/00",
		"before write nth 3 sense 6/29/00", "before write nth 3 sense 3/03/00", "write nth 3 timeout",
	} {
		d, _ := newDrive(t, drivesim.Config{})
		inject(t, d, fault)
		if _, err := Disc(t.Context(), d, image, Options{}); err == nil {
			t.Errorf("%s: the burn went through", fault)
		}
		if n := d.Commands(0x2A); n != 3 && !(n == 4 && strings.Contains(fault, "deferred")) {
			t.Errorf("%s: %d writes were sent", fault, n)
		}
	}
}

// Power is cut while the disc is being burnt: whatever came before, the disc
// is never blank again, nor taken for a good one (C6).
func TestPowerCut(t *testing.T) {
	image, _ := testImage(640)
	for _, mode := range []bool{false, true} {
		config := drivesim.Config{NoDAO: mode, Capacity: 1024, Buffer: 256 << 10, SpinUp: time.Second}
		d, _ := newDrive(t, config)
		if _, err := Disc(t.Context(), d, image, Options{}); err != nil {
			t.Fatal(err)
		}
		for at := 1; at <= d.Commands(); at++ {
			d, dir := newDrive(t, config)
			ctx, cancel := context.WithCancel(t.Context())
			cut := &counting{Drive: d, at: at, then: func() { d.Close(); cancel() }}
			rec, err := Disc(ctx, cut, image, Options{})
			cancel()
			wrote := d.Commands(0x2A) > 0
			var spoiled *SpoiledError
			if err == nil || rec != nil && rec.Verified {
				if at < d.Commands()-1 { // the last command unlocks the tray
					t.Errorf("cut at command %d: success", at)
				}
				continue
			}
			if errors.As(err, &spoiled) != wrote {
				t.Errorf("cut at command %d, written %v: %v", at, wrote, err)
			}
			again, err := drivesim.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			if st := again.Status(); wrote == (st.Disc == "blank") {
				t.Errorf("cut at command %d, written %v: the disc is %s", at, wrote, st.Disc)
			}
			_, err = Disc(t.Context(), again, image, Options{})
			var refused *RefusedError
			if wrote && (!errors.As(err, &refused) || refused.Code != CodeNotBlank) || !wrote && err != nil {
				t.Errorf("cut at command %d, written %v: the next burn says %v", at, wrote, err)
			}
			again.Close()
		}
	}
}

// O8: re-reads are slower, and there are few of them.
func TestSlowerRereads(t *testing.T) {
	image, b := testImage(640)
	d, _ := newDrive(t, drivesim.Config{})
	if _, err := Disc(t.Context(), d, image, Options{}); err != nil {
		t.Fatal(err)
	}
	inject(t, d, "read lba 100 sense 3/11/00; read lba 100 nth 2 sense 3/11/00; read lba 100 nth 3 sense 3/11/00; read lba 100 nth 4 sense 3/11/00")
	var speeds []int
	watch := &watching{Drive: d, see: func(op byte) {
		if op == 0x28 {
			speeds = append(speeds, d.Status().ReadSpeed)
		}
	}}
	r, err := OpenDisc(t.Context(), watch, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := make([]byte, 64*BlockSize)
	if n, err := r.ReadAt(got, 64*BlockSize); n != len(got) || err != nil || !bytes.Equal(got, b[64*BlockSize:128*BlockSize]) {
		t.Errorf("read %d bytes: %v", n, err)
	}
	if fmt.Sprint(speeds) != "[22160 22160 22160 5540 2770 1385]" {
		t.Errorf("reads went out at %v kB/s", speeds)
	}
	if d.Status().ReadSpeed != 22160 {
		t.Errorf("speed afterwards is %d kB/s", d.Status().ReadSpeed)
	}
}

// watching shows every command before it goes out.
type watching struct {
	Drive
	see func(op byte)
	cdb func(cdb []byte)
}

func (w *watching) Do(ctx context.Context, cdb []byte, d scsi.Data) (int, error) {
	if w.see != nil {
		w.see(cdb[0])
	}
	if w.cdb != nil {
		w.cdb(cdb)
	}
	return w.Drive.Do(ctx, cdb, d)
}
