package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/burn"
	"sallyport/burn/drivesim"
	"sallyport/media/scsi"
)

// rig is a recorder whose discs a test changes, and a terminal with somebody before it.
type rig struct {
	t       *testing.T
	drives  map[string]*drivesim.Drive // by the recorder's name
	dirs    map[string]string
	keys    *os.File // what is typed
	said    bytes.Buffer
	prompts int
	answers []func() string // to each prompt: do something, and type this
}

// Write is the terminal's: at a prompt the next answer is given.
func (r *rig) Write(p []byte) (int, error) {
	r.said.Write(p)
	if !strings.HasSuffix(r.said.String(), "press Enter: ") {
		return len(p), nil
	}
	if r.prompts == len(r.answers) {
		r.t.Errorf("one prompt too many: %s", r.said.String())
		r.keys.WriteString(ctrlD)
		return len(p), nil
	}
	r.prompts++
	_, err := r.keys.WriteString(r.answers[r.prompts-1]())
	return len(p), err
}

// insert puts a new disc into a recorder, with faults of its own.
func (r *rig) insert(name string, c drivesim.Config, faults string) {
	r.t.Helper()
	dir := filepath.Join(r.t.TempDir(), "disc")
	c.Capacity = 4096
	d, err := drivesim.New(dir, c)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { d.Close() })
	list, err := drivesim.ParseFaults(strings.NewReader(faults))
	if err != nil {
		r.t.Fatal(err)
	}
	d.Inject(list...)
	r.drives[name], r.dirs[name] = d, dir
}

// carry puts a copy of one recorder's disc into another.
func (r *rig) carry(from, to string, change func(image []byte)) {
	r.t.Helper()
	dir := filepath.Join(r.t.TempDir(), "disc")
	if err := os.CopyFS(dir, os.DirFS(r.dirs[from])); err != nil {
		r.t.Fatal(err)
	}
	if change != nil {
		b, err := os.ReadFile(filepath.Join(dir, "disc.img"))
		if err == nil {
			change(b)
			err = os.WriteFile(filepath.Join(dir, "disc.img"), b, 0o644)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	d, err := drivesim.Open(dir)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { d.Close() })
	r.drives[to], r.dirs[to] = d, dir
}

// slot is a recorder by name: it has the disc that was put in last.
type slot struct {
	r    *rig
	name string
}

func (s slot) Do(ctx context.Context, cdb []byte, d scsi.Data) (int, error) {
	return s.r.drives[s.name].Do(ctx, cdb, d)
}
func (s slot) Now() time.Time { return s.r.drives[s.name].Now() }
func (s slot) Wait(ctx context.Context, d time.Duration) error {
	return s.r.drives[s.name].Wait(ctx, d)
}
func (s slot) Close() error { return nil }

// TestHands answers the prompts of a burn on a terminal.
func TestHands(t *testing.T) {
	const sr0, sr1 = "/dev/sr0", "/dev/sr1"
	image := bytes.Repeat([]byte("sallyport"), 320*2048/9+1)[:320*2048]
	for _, tt := range []struct {
		name    string
		cmd     burnCmd
		first   func(r *rig)
		answers []func(r *rig) string
		numbers string // of the discs; s: spoiled
		says    []string
		fails   string
	}{
		{
			name: "two copies", cmd: burnCmd{Copies: 2},
			answers: []func(*rig) string{func(r *rig) string { r.insert(sr0, drivesim.Config{}, ""); return "\n" }},
			numbers: "1 2", says: []string{"disc 1 is good, 1 of 2: take it out and write its number on it, and put a blank one in, and press Enter: "},
		}, {
			name: "a spoiled one", cmd: burnCmd{Copies: 1, Number: 8},
			first:   func(r *rig) { r.insert(sr0, drivesim.Config{}, "write lba 64 sense 3/0c/00") },
			answers: []func(*rig) string{func(r *rig) string { r.insert(sr0, drivesim.Config{}, ""); return "\n" }},
			numbers: "8s 9", says: []string{"disc 8: writing, LBA 64: ", "the disc is spoiled: mark it, and burn another one; put a blank one in, and press Enter: "},
		}, {
			name: "none in, then a used one", cmd: burnCmd{Copies: 1},
			first: func(r *rig) { r.insert(sr0, drivesim.Config{Empty: true}, "") },
			answers: []func(*rig) string{func(r *rig) string {
				r.insert(sr0, drivesim.Config{}, "")
				if _, err := burn.Disc(t.Context(), r.drives[sr0], burn.Image{Source: bytes.NewReader(image), Blocks: 32}, burn.Options{}); err != nil {
					t.Error(err)
				}
				return "\n"
			}, func(r *rig) string { r.insert(sr0, drivesim.Config{}, ""); return "\n" }},
			numbers: "1", says: []string{"no-medium: no disc is in the drive; a blank CD-R, DVD+R, DVD-R or BD-R for 320 blocks (1 MB) is needed", "put another one in, and press Enter: ", "medium-not-blank: the disc is written and closed"},
		}, {
			name: "a tray that is pushed in", cmd: burnCmd{Copies: 1},
			first:   func(r *rig) { r.insert(sr0, drivesim.Config{NoLoad: true}, "") },
			answers: []func(*rig) string{func(r *rig) string { r.drives[sr0].Load(); return "\n" }},
			numbers: "1", says: []string{"put the same disc back and close the tray: it is read back now, and press Enter: "},
		}, {
			name: "a second drive", cmd: burnCmd{Copies: 1, VerifyIn: sr1},
			answers: []func(*rig) string{func(r *rig) string { r.carry(sr0, sr1, nil); return "\n" }},
			numbers: "1", says: []string{"disc 1 reads well here: take it out of /dev/sr0, put it into /dev/sr1, and press Enter: "},
		}, {
			name: "a second drive that reads something else", cmd: burnCmd{Copies: 1, VerifyIn: sr1},
			answers: []func(*rig) string{
				func(r *rig) string { r.carry(sr0, sr1, func(b []byte) { b[9] ^= 1 }); return "\n" },
				func(r *rig) string { r.insert(sr0, drivesim.Config{}, ""); return "\n" },
				func(r *rig) string { r.carry(sr0, sr1, nil); return "\n" },
			},
			numbers: "1s 2", says: []string{"disc 1: reading back in the second drive, LBA 0: the disc differs from the image at LBA 0"},
		}, {
			name: "nobody answers", cmd: burnCmd{Copies: 2},
			answers: []func(*rig) string{func(*rig) string { return ctrlD }},
			numbers: "1", fails: "nobody answers",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &rig{t: t, drives: map[string]*drivesim.Drive{}, dirs: map[string]string{}}
			for _, answer := range tt.answers {
				r.answers = append(r.answers, func() string { return answer(r) })
			}
			r.insert(sr0, drivesim.Config{}, "")
			r.insert(sr1, drivesim.Config{Empty: true}, "")
			if tt.first != nil {
				tt.first(r)
			}
			var tty *os.File
			r.keys, tty = pty(t)
			e := &env{ctx: t.Context(), stdin: tty, stderr: r, quiet: true}
			tt.cmd.Drive, tt.cmd.Number = sr0, max(tt.cmd.Number, 1)
			h := &hands{e: e, c: &tt.cmd, bar: e.progress(), name: sr0, open: func(name string) (recorder, error) {
				return slot{r, name}, nil
			}}
			res, err := h.burn(burn.Copies{Count: tt.cmd.Copies, Image: burn.Image{Source: bytes.NewReader(image), Blocks: 320}})
			if tt.fails == "" && err != nil || tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails)) {
				t.Errorf("got %v, want %q", err, tt.fails)
			}
			if res == nil {
				t.Fatalf("no result; said: %s", r.said.String())
			}
			records := res.Records
			if records == nil {
				records = []*burn.Record{res.Record}
			}
			var numbers []string
			for _, rec := range records {
				n := fmt.Sprint(rec.DiscNumber)
				if rec.Spoiled {
					n += "s"
				}
				numbers = append(numbers, n)
			}
			if got := strings.Join(numbers, " "); got != tt.numbers {
				t.Errorf("discs %s, want %s", got, tt.numbers)
			}
			for _, s := range tt.says {
				if !strings.Contains(r.said.String(), s) {
					t.Errorf("%q is not said: %s", s, r.said.String())
				}
			}
			if r.prompts != len(tt.answers) {
				t.Errorf("%d prompts, want %d", r.prompts, len(tt.answers))
			}
		})
	}
}

// pty makes a pseudo-terminal: what is written to keys is typed on tty.
func pty(t *testing.T) (keys, tty *os.File) {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keys.Close() })
	n, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return keys, tty
}
