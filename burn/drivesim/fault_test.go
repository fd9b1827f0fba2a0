package drivesim

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

func TestParseFaults(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want []Fault
		err  string
	}{
		{in: "", want: nil},
		{in: "# a comment\n\n  \nread sense 3/11/00 # another", want: []Fault{{Command: "read", Sense: 0x31100}}},
		{in: "after write lba 70 sense 3/0C/02", want: []Fault{{Command: "write", After: true, LBA: 70, Blocks: 1, Sense: 0x30C02}}},
		{in: "before any nth 17 gone", want: []Fault{{Nth: 17, Action: Gone}}},
		{in: "read lba 64-127 from 2 flip 2047", want: []Fault{{Command: "read", LBA: 64, Blocks: 64, Nth: 2, On: true, Action: Flip, N: 2047}}},
		{in: "read always slow 1m", want: []Fault{{Command: "read", On: true, Action: Slow, Delay: time.Minute}}},
		{in: "close-track-session deferred 5/72/03\nwrite timeout", want: []Fault{
			{Command: "close-track-session", Action: Deferred, Sense: 0x57203}, {Command: "write", Action: Timeout}}},
		{in: "medium surplus 32\nmedium sessions 2", want: []Fault{{Action: Surplus, N: 32}, {Action: Sessions, N: 2}}},
		{in: "any nth 3 tray\nwrite reset", want: []Fault{{Nth: 3, Action: Tray}, {Command: "write", Action: Reset}}},
		{in: "write status 08", want: []Fault{{Command: "write", Action: BadStatus, N: 8}}},
		{in: "after send-cue-sheet busy 2/04/07 1m", want: []Fault{{Command: "send-cue-sheet", After: true, Action: Busy, Sense: 0x20407, Delay: time.Minute}}},
		{in: "read-capacity always reply 3 ffFF", want: []Fault{{Command: "read-capacity", On: true, Action: Reply, N: 3, Data: "\xFF\xFF"}}},
		{in: "inquiry short 4", want: []Fault{{Command: "inquiry", Action: Short, N: 4}}},
		{in: "write status 02", err: "bad status"},
		{in: "write status 00", err: "bad status"},
		{in: "write status 100", err: "bad status"},
		{in: "write busy 2/04/07", err: "invalid duration"},
		{in: "write busy 1m", err: "bad sense"},
		{in: "inquiry reply 3", err: "want reply OFFSET HEX"},
		{in: "inquiry reply -1 00", err: `bad number "-1"`},
		{in: "inquiry reply 0 0", err: "bad bytes"},
		{in: "inquiry short", err: `bad number ""`},
		{in: "inquiry tray 1", err: "tray takes no argument"},
		{in: "before", err: "line 1: no command"},
		{in: "\nread", err: "line 2: no action"},
		{in: "rewind sense 3/11/00", err: `unknown command "rewind"`},
		{in: "read lba x sense 3/11/00", err: `bad lba "x"`},
		{in: "read lba 9-3 sense 3/11/00", err: `bad lba "9-3"`},
		{in: "read lba 0-4294967295 gone", err: "bad lba"},
		{in: "read lba 5000000000 gone", err: "bad lba"},
		{in: "read nth 0 gone", err: `bad count "0"`},
		{in: "read nth -1 gone", err: `bad count "-1"`},
		{in: "read sense 3/11", err: `bad sense "3/11"`},
		{in: "read sense 10/11/00", err: "bad sense"},
		{in: "read sense 3/11/000", err: "bad sense"},
		{in: "read slow soon", err: "invalid duration"},
		{in: "read slow -1s", err: "bad duration"},
		{in: "inquiry flip 3", err: "bad flip"},
		{in: "read flip 2048", err: "bad flip"},
		{in: "read gone away", err: "gone takes no argument"},
		{in: "read explode", err: `unknown action "explode"`},
		{in: "medium surplus", err: "want medium KIND N"},
		{in: "medium hole 3", err: `"hole"`},
		{in: "medium sessions 100", err: `bad number "100"`},
		{in: strings.Repeat("read gone\n", maxFaults+1), err: "more than 10000 faults"},
	} {
		got, err := ParseFaults(strings.NewReader(tt.in))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%.40q: got %v, want %q in it", tt.in, err, tt.err)
			}
		} else if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: got %+v, %v, want %+v", tt.in, got, err, tt.want)
		}
	}
}

func FuzzParseFaults(f *testing.F) {
	f.Add("after write lba 70 sense 3/0C/02\nmedium surplus 3")
	f.Add("read lba 64-127 from 2 flip 2047 # x")
	f.Add("before any nth 17 slow 3h")
	f.Add("write-and-verify status 08\nany from 3 tray\nread-cd short 3")
	f.Add("after send-cue-sheet busy 2/04/07 1m\nget-performance reply 3 FFFF")
	f.Fuzz(func(t *testing.T, s string) {
		faults, err := ParseFaults(strings.NewReader(s))
		if err != nil {
			return
		}
		for _, f := range faults {
			if f.N < 0 || f.N > maxCapacity || len(f.Data) > 4096 || f.Action == BadStatus && (f.N == 0 || f.N == 2 || f.N > 0xFF) || f.Sense > 0xFFFFF || f.Delay < 0 || f.Action == Flip && f.N >= blockSize {
				t.Fatalf("%q: %+v", s, f)
			}
		}
	})
}

// burned is a drive with p on a closed disc.
func burned(t *testing.T, p []byte, faults ...Fault) (*Drive, string) {
	t.Helper()
	d, dir := newDrive(t, Config{Capacity: 4096, SpinUp: time.Second})
	settle(t, d)
	setup(t, d, mmc.WriteIncremental, 0, true)
	d.Inject(faults...)
	if got := write(d, 0, p); got != "" {
		t.Fatal(got)
	}
	for _, c := range []mmc.CloseTrackSession{{Function: mmc.CloseTrack, Track: 1}, {Function: mmc.CloseSession}} {
		if err := c.Send(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	return d, dir
}

// A bit that is wrong on the disc stays hidden by the cache until the tray was
// open.
func TestFlipOnDisc(t *testing.T) {
	p := payload(64)
	d, dir := burned(t, p, Fault{Command: "write", LBA: 33, Blocks: 1, Action: Flip, N: 100})
	if b, got := read(d, 0, 64); got != "" || !bytes.Equal(b, p) {
		t.Errorf("the cache doesn't hide it: %q", got)
	}
	d.Eject()
	d.Load()
	settle(t, d)
	p[33*blockSize+100] ^= 1
	if b, got := read(d, 0, 64); got != "" || !bytes.Equal(b, p) {
		t.Errorf("after reloading not exactly this bit differs: %q", got)
	}
	if img, err := os.ReadFile(filepath.Join(dir, imageFile)); err != nil || !bytes.Equal(img, p) {
		t.Errorf("disc.img is not what the disc has: %v", err)
	}
}

func TestFlipInReading(t *testing.T) {
	p := payload(64)
	d, _ := burned(t, p)
	d.Inject(Fault{Command: "read", LBA: 33, Blocks: 1, Nth: 2, Action: Flip, N: 0})
	for i, same := range []bool{true, false, true} {
		if b, got := read(d, 32, 16); got != "" || bytes.Equal(b, p[32*blockSize:48*blockSize]) != same {
			t.Errorf("reading %d: %q, equal %v", i+1, got, !same)
		}
	}
}

func TestMediumFaults(t *testing.T) {
	p := payload(32)
	d, _ := burned(t, p)
	d.Inject(Fault{Action: Padding, N: 2}, Fault{Action: Surplus, N: 1}, Fault{Action: RunOut, N: 3}, Fault{Action: Sessions, N: 2})
	c, err := mmc.ReadCapacity{}.Send(t.Context(), d)
	if err != nil || c.LastLBA != 37 {
		t.Errorf("capacity %+v, %v", c, err)
	}
	b, got := read(d, 31, 4)
	want := append(bytes.Clone(p[31*blockSize:]), make([]byte, 2*blockSize)...)
	if got != "" || !bytes.Equal(b[:3*blockSize], want) || bytes.Equal(b[3*blockSize:], make([]byte, blockSize)) {
		t.Errorf("behind the track: %q", got)
	}
	_, err = d.Do(t.Context(), []byte{0x28, 0, 0, 0, 0, 34, 0, 0, 2, 0}, scsi.Data{In: make([]byte, 2*blockSize)})
	var s *scsi.SenseError
	if !errors.As(err, &s) || s.Code() != 0x3_11_00 || s.Info != 35 {
		t.Errorf("run-out: %v", err)
	}
	if _, got := read(d, 37, 2); got != "5/21/00" {
		t.Errorf("behind the capacity: %q", got)
	}
	disc, err := mmc.ReadDiscInformation{}.Send(t.Context(), d)
	if err != nil || disc.Sessions != 2 || disc.LastLast != 2 {
		t.Errorf("%+v, %v", disc, err)
	}
	toc, err := mmc.ReadTOC{}.Send(t.Context(), d)
	if err != nil || toc.Last != 2 || len(toc.Tracks) != 3 {
		t.Errorf("%+v, %v", toc, err)
	}
}

// Each kind of failure, before and after the effect of a write.
func TestBeforeAndAfter(t *testing.T) {
	p := payload(32)
	for _, tt := range []struct {
		fault       Fault
		first, next string // what the write answers, and the command behind it
	}{
		{Fault{Sense: 0x30C00}, "3/0c/00", ""},
		{Fault{Action: Deferred, Sense: 0x30C00}, "", "deferred 3/0c/00"},
		{Fault{Action: Timeout}, "WRITE(10): transport: no answer within the time limit", "6/29/00"},
		{Fault{Action: Gone}, "WRITE(10): transport: device is gone from the bus", "transport: device is gone from the bus"},
	} {
		for _, after := range []bool{false, true} {
			d, _ := newDrive(t, small)
			settle(t, d)
			setup(t, d, mmc.WriteIncremental, 0, true)
			f := tt.fault
			f.Command, f.After = "write", after
			d.Inject(f)
			if got := write(d, 0, p); got != tt.first {
				t.Errorf("%+v: the write answers %q, want %q", f, got, tt.first)
			}
			if got := do(t, d, tur, scsi.Data{}); got != tt.next {
				t.Errorf("%+v: the next command answers %q, want %q", f, got, tt.next)
			}
			if st := d.Status(); (st.Disc == blank) == after {
				t.Errorf("%+v: the disc is %s", f, st.Disc)
			}
		}
	}
}

func TestGoneAndBack(t *testing.T) {
	p := payload(32)
	d, _ := newDrive(t, small)
	settle(t, d)
	setup(t, d, mmc.WriteSAO, 0, true)
	do(t, d, "53 00 00 00 00 00000080 00", scsi.Data{})
	write(d, 0, p)
	d.Inject(Fault{Action: Gone})
	do(t, d, tur, scsi.Data{})
	d.Replug()
	settle(t, d)
	if got := write(d, 32, p); got != "5/63/00" {
		t.Errorf("a disc at once goes on after the power was off: %q", got)
	}
	if st := d.Status(); st.Disc != incomplete {
		t.Errorf("%+v", st)
	}
}

// The file is read when the drive is opened.
func TestFaultsFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sim")
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	if err := os.WriteFile(filepath.Join(dir, "faults"), []byte("# test\ntest-unit-ready nth 2 sense 4/44/00\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	do(t, d, tur, scsi.Data{})
	if got := do(t, d, tur, scsi.Data{}); got != "4/44/00" {
		t.Errorf("got %q", got)
	}
	d.Close()
	if err := os.WriteFile(filepath.Join(dir, "faults"), []byte("nonsense\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "faults: line 1: unknown command") {
		t.Errorf("got %v", err)
	}
}

// The actions that aren't about a command's end.
func TestActions(t *testing.T) {
	inquiry := func(d *Drive) string { return reply(t, d, "12 00 00 00 08 00", 8) }
	d, _ := newDrive(t, small)
	settle(t, d)
	good := inquiry(d)
	d.Inject(Fault{Command: "inquiry", Action: Short, N: 3}, Fault{Command: "inquiry", Action: Reply, Nth: 2, N: 7, Data: "\xAA\xBB"},
		Fault{Command: "inquiry", Action: Reply, Nth: 3, N: 8, Data: "\xAA"}, Fault{Command: "inquiry", Action: BadStatus, N: 8, Nth: 4})
	for i, want := range []string{good[:6], good[:14] + "aa", good, "status 08h (busy)", good} {
		if got := inquiry(d); got != want {
			t.Errorf("inquiry %d: %s, want %s", i+1, got, want)
		}
	}
	d.Inject(Fault{Command: "seek", After: true, Action: Busy, Sense: 0x20407, Delay: time.Minute})
	if got := do(t, d, "2b 00 00000000 00 0000 00", scsi.Data{}); got != "" {
		t.Error(got)
	}
	for _, want := range []string{"2/04/07", "2/04/07", "2/04/07", ""} {
		if got := do(t, d, tur, scsi.Data{}); got != want {
			t.Errorf("during a minute: %q, want %q", got, want)
		}
		d.Wait(t.Context(), 25*time.Second)
	}
	do(t, d, "1e 00 00 00 01 00", scsi.Data{})
	d.Inject(Fault{Command: "seek", Action: Reset}, Fault{Command: "seek", Nth: 2, Action: Tray})
	for _, want := range []string{"6/29/00", "2/3a/02"} {
		if got := do(t, d, "2b 00 00000000 00 0000 00", scsi.Data{}); got != want {
			t.Errorf("seek: %q, want %q", got, want)
		}
	}
	// A fault of write strikes all commands that write, with its LBA.
	d, _ = newDrive(t, Config{Profile: mmc.DVDPlusR, Capacity: 256})
	settle(t, d)
	d.Inject(Fault{Command: "write", LBA: 20, Blocks: 1, On: true, Sense: 0x30C00})
	p := payload(16)
	for cdb, want := range map[string]string{"aa 00 00000000 00000010 00 00": "", "2e 00 00000010 00 0010 00": "3/0c/00", "aa 00 00000010 00000010 00 00": "3/0c/00"} {
		if got := do(t, d, cdb, scsi.Data{Out: p}); got != want && want != "" {
			t.Errorf("%s: %q, want %q", cdb, got, want)
		}
	}
}
