package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/media"
	"sallyport/media/enrol"
	"sallyport/media/wipe"
	"sallyport/qemu-tests/usbredir"
)

// testStick is a stick without USB.
type testStick struct {
	usbredir.Medium
	block int
	fail  func(op string, off int64) error

	station *state // that has it enrolled
	use     enrol.Use
	dir     string // the station's
}

// enrol has a station take the stick for one of its own.
func (s *testStick) enrol(t *testing.T, dir string, st *state, use enrol.Use, kind string) {
	t.Helper()
	s.station, s.use, s.dir = st, use, filepath.Join(dir, enrolDir)
	key, err := (&formatCmd{State: dir}).stationKey(st)
	if err != nil {
		t.Fatal(err)
	}
	rec := &enrol.Record{Capacity: "quick", Medium: targetOf(s).identity, Station: "kiosk", Use: use, Volume: &enrol.Volume{Kind: kind, Label: "KEY", Serial: "0000-0000"}}
	if err := enrol.Add(s.dir, rec, nil, nil, key); err != nil {
		t.Fatal(err)
	}
}

// enrolled says whether the station has the stick still.
func (s *testStick) enrolled() bool {
	_, err := enrol.Find(s.dir, targetOf(s).identity, s.use, s.station.station)
	return err == nil
}

func (s *testStick) BlockSize() int             { return s.block }
func (s *testStick) Discard(off, n int64) error { return errors.ErrUnsupported }
func (s *testStick) Gone(err error) bool        { return errors.Is(err, io.ErrClosedPipe) }

func (s *testStick) WriteAt(p []byte, off int64) (int, error) {
	if s.fail != nil {
		if err := s.fail("write", off); err != nil {
			return 0, err
		}
	}
	return s.Medium.WriteAt(p, off)
}

func (s *testStick) ReadAt(p []byte, off int64) (int, error) {
	if s.fail != nil {
		if err := s.fail("read", off); err != nil {
			return 0, err
		}
	}
	return s.Medium.ReadAt(p, off)
}

// station is an opened state directory of the fixture's kiosk.
func station(t *testing.T) (dir string, st *state) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "state")
	root, err := loadTrust(filepath.Join(fixture(t), "trust.json"))
	if err != nil {
		t.Fatal(err)
	}
	e := &env{ctx: t.Context(), now: time.Now}
	if st, err = e.openOrMakeState(dir, filepath.Join(fixture(t), "kiosk.key"), root); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return dir, st
}

func targetOf(s *testStick) *target {
	return &target{
		targetMedium: s, node: "/dev/sg9", disk: media.Disk{Generic: "/dev/sg9", Vendor: "Example", Model: "Flash Disk", Serial: "0042"},
		identity: enrol.Identity{BlockSize: s.block, Size: s.Size(), Vendor: "Example", Product: "Flash Disk", Serial: "0042", Revision: "1.00"},
	}
}

// memoryStick keeps its blocks in a sparse file, for stock tools to look at.
func memoryStick(t *testing.T, size int64, block int) (*testStick, string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "stick")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	m, err := usbredir.NewFile(f, size)
	if err != nil {
		t.Fatal(err)
	}
	return &testStick{Medium: m, block: block}, name
}

func TestFormat(t *testing.T) {
	for _, tt := range []struct {
		name  string
		c     formatCmd
		block int
		check []string // a stock tool; the stick's partition is its last argument
	}{
		{"carrier", formatCmd{Use: "carrier"}, 512, nil},
		{"carrier, thrice", formatCmd{Use: "carrier", Method: "value-complement-random"}, 512, nil},
		{"delivery", formatCmd{Use: "delivery", FS: "fat32", Label: "OUT", Quick: true}, 512, []string{"fsck.fat", "-n"}},
		{"blocks of 4096", formatCmd{Use: "delivery", FS: "fat32", Quick: true}, 4096, []string{"fsck.fat", "-n"}},
		{"exfat", formatCmd{Use: "delivery", FS: "exfat", Label: "OUT", Quick: true}, 512, []string{"fsck.exfat", "-n"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const size = 96 << 20
			dir, st := station(t)
			s, file := memoryStick(t, size, tt.block)
			c := tt.c
			c.State, c.NoReplug, c.Operator, c.Record, c.Device = dir, true, "Olga", filepath.Join(t.TempDir(), "record"), "/dev/sg9"
			e := &env{ctx: t.Context(), stdin: strings.NewReader(""), stderr: io.Discard, quiet: true, now: func() time.Time { return time.Unix(1_800_000_000, 0) }}
			if err := c.check(targetOf(s)); err != nil {
				t.Fatal(err)
			}
			r, err := c.format(e, st, targetOf(s))
			if err != nil {
				t.Fatal(err)
			}
			got, err := enrol.Find(filepath.Join(dir, enrolDir), targetOf(s).identity, enrol.Use(c.Use), st.station)
			if err != nil || got.Created != 1_800_000_000 || got.Capacity != map[bool]string{true: "quick", false: "strict"}[c.Quick] {
				t.Fatalf("%+v, %v", got, err)
			}
			if r.Erasure.Result != wipe.ResultDone || r.Erasure.Operator != "Olga" || r.Erasure.Medium.Serial != "0042" || r.Erasure.Station != "kiosk" {
				t.Errorf("%+v", r.Erasure)
			}
			for _, name := range append(r.Files, c.Record, c.Record+".html") {
				if text, err := os.ReadFile(name); err != nil || len(text) == 0 {
					t.Errorf("%s: %v", name, err)
				}
			}
			logged := ""
			for entry, err := range st.log.Entries(t.Context(), 0) {
				if err != nil {
					t.Fatal(err)
				}
				logged += entryLine(entry)
			}
			if !strings.Contains(logged, "enrol      "+c.Use+" stick Example Flash Disk, serial 0042, ") {
				t.Errorf("the log has %q", logged)
			}
			var text strings.Builder
			r.text(&text)
			if !strings.Contains(text.String(), "as a "+c.Use+" stick by kiosk") {
				t.Errorf("%s", text.String())
			}
			if tt.check == nil {
				if n := r.Erasure.Passes[len(r.Erasure.Passes)-1]; n.Written != size || n.Read != size || n.Pattern != "random" {
					t.Errorf("%+v", n)
				}
				return
			}
			part := filepath.Join(t.TempDir(), "part")
			if out, err := exec.Command("dd", "if="+file, "of="+part, "bs=1M", "skip=1", "count=94", "status=none").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if out, err := exec.Command(tt.check[0], append(tt.check[1:], part)...).CombinedOutput(); err != nil {
				t.Errorf("%v: %v\n%s", tt.check, err, out)
			}
			blkid, err := exec.Command("blkid", "-p", "-o", "export", part).CombinedOutput()
			if err != nil || !strings.Contains(string(blkid), "UUID="+got.Volume.Serial+"\n") {
				t.Errorf("%+v, blkid says %s, %v", got.Volume, blkid, err)
			}
		})
	}
}

// TestFormatFails: a stick that lies or fails is enrolled for nothing, not even for what it was before.
func TestFormatFails(t *testing.T) {
	const size = 64 << 20
	gone := io.ErrClosedPipe
	for _, tt := range []struct {
		name   string
		quick  bool
		medium func(t *testing.T) *testStick
		code   string // of the refusal; "" for a fault
		result string // of the erasure record; "" for none
	}{
		{"limbo, every block", false, func(t *testing.T) *testStick {
			return &testStick{Medium: &usbredir.Fake{Medium: usbredir.NewMemory(7<<20 + 512), Claim: size}, block: 512}
		}, "fake-capacity", wipe.ResultFailed},
		{"wraparound, samples", true, func(t *testing.T) *testStick {
			return &testStick{Medium: &usbredir.Fake{Medium: usbredir.NewMemory(7 << 20), Claim: size, Lie: usbredir.Wraparound}, block: 512}
		}, "fake-capacity", ""},
		{"gone in the midst", false, func(t *testing.T) *testStick {
			return &testStick{Medium: usbredir.NewMemory(size), block: 512, fail: func(op string, off int64) error {
				if off > size/2 {
					return gone
				}
				return nil
			}}
		}, "", wipe.ResultFailed},
		{"gone when it is read back", false, func(t *testing.T) *testStick {
			return &testStick{Medium: usbredir.NewMemory(size), block: 512, fail: func(op string, off int64) error {
				if op == "read" && off > size/2 {
					return gone
				}
				return nil
			}}
		}, "", wipe.ResultFailed},
		{"one sector that doesn't keep", false, func(t *testing.T) *testStick {
			return &testStick{Medium: &usbredir.Changing{Medium: usbredir.NewMemory(size), Offset: 12345 * 512, Length: 1, From: 1}, block: 512}
		}, "", wipe.ResultFailed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, st := station(t)
			key, err := (&formatCmd{State: dir}).stationKey(st)
			if err != nil {
				t.Fatal(err)
			}
			target := targetOf(tt.medium(t))
			before := &enrol.Record{Capacity: "strict", Medium: target.identity, Station: "kiosk", Use: enrol.Carrier}
			if err := enrol.Add(filepath.Join(dir, enrolDir), before, nil, nil, key); err != nil {
				t.Fatal(err)
			}
			c := formatCmd{Use: "carrier", State: dir, NoReplug: true, Quick: tt.quick, Record: filepath.Join(t.TempDir(), "record"), Device: "/dev/sg9"}
			e := &env{ctx: t.Context(), stdin: strings.NewReader(""), stderr: io.Discard, quiet: true, now: time.Now}
			r, err := c.format(e, st, target)
			var refused interface{ RefusalCode() string }
			code := ""
			if errors.As(err, &refused) {
				code = refused.RefusalCode()
			}
			if err == nil || tt.code != "" && code != tt.code || r.Enrolment != nil {
				t.Errorf("%v, code %q, %+v", err, code, r.Enrolment)
			}
			if _, err := enrol.Find(filepath.Join(dir, enrolDir), target.identity, enrol.Carrier, st.station); err == nil {
				t.Error("it is enrolled")
			}
			for entry := range st.log.Entries(t.Context(), 0) {
				t.Errorf("logged: %s", entryLine(entry))
			}
			text, err := os.ReadFile(c.Record)
			if tt.result == "" {
				if err == nil {
					t.Errorf("a record of what was never begun: %s", text)
				}
				return
			}
			var rec wipe.Record
			if err := json.Unmarshal(text, &rec); err != nil || rec.Result != tt.result || rec.Failure == nil {
				t.Errorf("%s, %v", text, err)
			}
		})
	}
	t.Run("stopped", func(t *testing.T) {
		dir, st := station(t)
		ctx, stop := context.WithCancel(t.Context())
		s := &testStick{Medium: usbredir.NewMemory(size), block: 512, fail: func(op string, off int64) error {
			if op == "read" {
				stop()
			}
			return nil
		}}
		c := formatCmd{Use: "carrier", State: dir, NoReplug: true, Device: "/dev/sg9"}
		r, err := c.format(&env{ctx: ctx, stderr: io.Discard, quiet: true, now: time.Now}, st, targetOf(s))
		if !errors.Is(err, context.Canceled) || r.Enrolment != nil || r.Erasure.Result != wipe.ResultCancelled {
			t.Errorf("%v, %+v", err, r)
		}
	})
}

// TestFormatReads: what was made is read once more by what will read it later, and has to be what it was to be.
func TestFormatReads(t *testing.T) {
	const size = 64 << 20
	dir, st := station(t)
	s := &testStick{Medium: usbredir.NewMemory(size), block: 512}
	s.fail = func(op string, off int64) error {
		if op == "write" && off == 1<<20 { // of the file system: a wipe's writes are at multiples of 4 MiB
			_, err := s.Medium.WriteAt([]byte("X"), 40<<10) // before the partition, where nothing is compared
			return err
		}
		return nil
	}
	c := formatCmd{Use: "delivery", FS: "fat32", Label: "OUT", Quick: true, State: dir, NoReplug: true, Device: "/dev/sg9"}
	r, err := c.format(&env{ctx: t.Context(), stderr: io.Discard, quiet: true, now: time.Now}, st, targetOf(s))
	if err == nil || !strings.Contains(err.Error(), "is read as something else") || r.Enrolment != nil {
		t.Errorf("%v, %+v", err, r.Enrolment)
	}
}

// TestFormatRefuses what can't work before anything is lost.
func TestFormatRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		c     formatCmd
		size  int64
		block int
		says  string
	}{
		{"carrier with blocks of 4096", formatCmd{Use: "carrier"}, 1 << 30, 4096, "carrier-block-size"},
		{"carrier with a label", formatCmd{Use: "carrier", Label: "X"}, 1 << 30, 512, "no file system"},
		{"label", formatCmd{Use: "key", FS: "fat32", Label: "small letters"}, 1 << 30, 512, "label"},
		{"too small", formatCmd{Use: "delivery", FS: "fat32"}, 1 << 20, 512, "from 64 MiB"},
		{"too large", formatCmd{Use: "delivery", FS: "fat32"}, 1 << 40, 512, "to 256 GiB"},
		{"exfat with blocks of 4096", formatCmd{Use: "delivery", FS: "exfat"}, 1 << 30, 4096, "--fs fat32"},
	} {
		err := tt.c.check(targetOf(&testStick{Medium: usbredir.NewMemory(tt.size), block: tt.block}))
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, err := (&formatCmd{Use: "key", Method: "random"}).wipeMethod(); err == nil {
		t.Error("a key stick of random blocks")
	}
}
