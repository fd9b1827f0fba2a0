package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/bundle"
	"sallyport/media/enrol"
	"sallyport/media/format"
	"sallyport/qemu-tests/usbredir"
)

// delivery is a station that let something in, and the release.
type delivery struct {
	dir     string
	st      *state
	release string
}

// letIn makes a payload a release, after change has made it what it is to be.
func letIn(t *testing.T, change func(payload string)) *delivery {
	t.Helper()
	dir := room(t)
	if err := os.Remove(filepath.Join(dir, "payload/sub/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "payload/many"), 0o755); err != nil {
		t.Fatal(err)
	}
	change(filepath.Join(dir, "payload"))
	must(t, dir, "prepare", "payload", "-o", "out.iso", "--channel", "news", "--trust", "trust.json", "--medium", "file")
	for _, key := range []string{"alice.key", "bob.key"} {
		must(t, dir, "sign", "out.iso", "--key", key, "--yes")
	}
	must(t, dir, "import", "out.iso", "--trust", "trust.json", "--spool", "spool", "--state", "state", "--station-key", "kiosk.key")
	list, err := filepath.Glob(filepath.Join(dir, "spool/news/*"))
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	root, err := loadTrust(filepath.Join(dir, "trust.json"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := quietly(t).openState(filepath.Join(dir, "state"), root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return &delivery{dir, st, list[0]}
}

func quietly(t *testing.T) *env {
	return &env{ctx: t.Context(), stdin: strings.NewReader(""), stderr: io.Discard, quiet: true, now: func() time.Time { return time.Unix(1_800_000_000, 0) }}
}

func (d *delivery) to(e *env, s *testStick, kind format.Kind) (*deliverResult, error) {
	c := &deliverCmd{Release: d.release, Device: "/dev/sg9", State: filepath.Join(d.dir, "state"), NoReplug: true}
	r, err := c.deliver(e, d.st, targetOf(s), &enrol.Volume{Kind: string(kind), Label: "OUT"})
	got, _ := r.(*deliverResult)
	return got, err
}

// logged is what the log shows of deliveries.
func (d *delivery) logged(t *testing.T) (lines []string) {
	t.Helper()
	for entry, err := range d.st.log.Entries(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if entry.Deliver != nil {
			lines = append(lines, entryLine(entry))
		}
	}
	return lines
}

// TestDeliver: a release arrives whole, to strangers' programs too, and nothing is left of what was on the stick.
func TestDeliver(t *testing.T) {
	t.Parallel()
	plain := letIn(t, func(payload string) {
		for i := range 40 {
			touch(t, filepath.Join(payload, fmt.Sprintf("many/a longer name of number %d", i)))
		}
		if err := os.WriteFile(filepath.Join(payload, "large"), bytes.Repeat([]byte("0123456789"), 700_001), 0o600); err != nil {
			t.Fatal(err)
		}
		old := time.Unix(1, 0) // as all of a Guix store
		if err := os.Chtimes(filepath.Join(payload, "empty"), old, old); err != nil {
			t.Fatal(err)
		}
	})
	linked := letIn(t, func(payload string) {
		if err := errors.Join(os.Symlink("../hello.txt", filepath.Join(payload, "sub/link")), os.Chmod(filepath.Join(payload, "hello.txt"), 0o751)); err != nil {
			t.Fatal(err)
		}
	})
	for _, tt := range []struct {
		d     *delivery
		kind  format.Kind
		block int
		check []string
	}{
		{plain, format.FAT32, 512, []string{"fsck.fat", "-n"}},
		{plain, format.FAT32, 4096, []string{"fsck.fat", "-n"}},
		{plain, format.ExFAT, 512, []string{"fsck.exfat", "-n"}},
		{linked, format.Ext4, 512, []string{"e2fsck", "-fn"}},
		{linked, format.Ext4, 4096, []string{"e2fsck", "-fn"}},
	} {
		t.Run(fmt.Sprintf("%s of %d", tt.kind, tt.block), func(t *testing.T) {
			const size = 96 << 20
			s, file := memoryStick(t, size, tt.block)
			marker := bytes.Repeat([]byte("what was here before"), 205)[:4096]
			for _, at := range []int64{0, 1 << 20, 30<<20 + 4096, 77<<20 + 8192, size - 4096} {
				if _, err := s.Medium.WriteAt(marker, at); err != nil {
					t.Fatal(err)
				}
			}
			r, err := tt.d.to(quietly(t), s, tt.kind)
			if err != nil {
				t.Fatal(err)
			}
			if rec := r.Record; !rec.Verified || rec.Files < 5 || rec.Volume.Serial == "" || rec.Write.Medium.Serial != "0042" {
				t.Errorf("%+v", r.Record)
			}
			var text strings.Builder
			r.text(&text)
			if !strings.Contains(text.String(), "every file equal; it was not pulled out") {
				t.Error(text.String())
			}
			lines := tt.d.logged(t)
			if want := "deliver    " + r.Release + " to stick Example Flash Disk, serial 0042, 100.7 MB, read back equal"; len(lines) == 0 || !strings.HasSuffix(lines[len(lines)-1], want) {
				t.Errorf("the log has %q, want %q", lines, want)
			}
			all, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if at := bytes.Index(all, []byte("what was here")); at >= 0 {
				t.Errorf("at %d there is what was there before", at)
			}
			part := filepath.Join(t.TempDir(), "part")
			if err := os.WriteFile(part, all[1<<20:95<<20], 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(tt.check[0], append(tt.check[1:], part)...).CombinedOutput(); err != nil {
				t.Errorf("%v: %v\n%s", tt.check, err, out)
			}
			if tt.kind == format.Ext4 {
				out, err := exec.Command("debugfs", "-R", "stat sub/link", part).CombinedOutput()
				if err != nil || !strings.Contains(string(out), `Fast link dest: "../hello.txt"`) {
					t.Errorf("debugfs says %s, %v", out, err)
				}
			}
		})
	}
}

// TestDeliverRefuses: nothing is written when the release isn't what was let in, or can't be on the stick.
func TestDeliverRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		kind   format.Kind
		change func(d *delivery) error
		says   string
	}{
		{"a byte", format.FAT32, func(d *delivery) error {
			name := filepath.Join(d.release, "hello.txt")
			info, err := os.Stat(name)
			return errors.Join(err, os.WriteFile(name, []byte("hellO\n"), 0o644), os.Chtimes(name, info.ModTime(), info.ModTime()))
		}, "release-changed"},
		{"a mode", format.FAT32, func(d *delivery) error { return os.Chmod(filepath.Join(d.release, "hello.txt"), 0o777) }, "release-changed"},
		{"a file more", format.FAT32, func(d *delivery) error { return os.WriteFile(filepath.Join(d.release, "more"), nil, 0o644) }, "release-changed"},
		{"a file less", format.FAT32, func(d *delivery) error { return os.Remove(filepath.Join(d.release, "empty")) }, "release-changed"},
		{"never let in", format.FAT32, func(d *delivery) error {
			other := filepath.Join(filepath.Dir(d.release), "9-"+strings.Repeat("0", 64))
			defer func() { d.release = other }()
			return os.Rename(d.release, other)
		}, "not-released"},
		{"a link", format.ExFAT, func(*delivery) error { return nil }, `delivery-unfit: exfat can't hold "link": a symbolic link`},
		{"no room", format.Ext4, func(*delivery) error { return nil }, "delivery-full"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := letIn(t, func(payload string) {
				switch tt.name {
				case "a link":
					if err := os.Symlink("hello.txt", filepath.Join(payload, "link")); err != nil {
						t.Fatal(err)
					}
				case "no room":
					if err := os.Truncate(touch(t, filepath.Join(payload, "large")), 70<<20); err != nil {
						t.Fatal(err)
					}
				}
			})
			if err := tt.change(d); err != nil {
				t.Fatal(err)
			}
			s := &testStick{Medium: usbredir.NewMemory(64 << 20), block: 512, fail: func(op string, off int64) error {
				t.Errorf("%s at %d", op, off)
				return nil
			}}
			r, err := d.to(quietly(t), s, tt.kind)
			if err == nil || !strings.Contains(err.Error(), tt.says) || r != nil && r.Record != nil || len(d.logged(t)) > 0 {
				t.Errorf("%v, %+v, want %q", err, r, tt.says)
			}
			if _, refusal := classify(t.Context(), err); refusal == nil || refusal.Advice == "" || !errors.As(err, new(*leavingError)) {
				t.Errorf("%v is no refusal: %+v", err, refusal)
			}
			if (tt.name == "a link") != (r != nil && len(r.Problems) == 1) {
				t.Errorf("problems: %+v", r)
			}
		})
	}
}

// TestDeliverFails: a stick that was pulled out, lies or changes is told, and logged; one that was stopped has no file system.
func TestDeliverFails(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	for _, tt := range []struct {
		name  string
		stick func(t *testing.T, stop context.CancelFunc) *testStick
		says  string
		empty bool // the stick is no file system
	}{
		{"pulled out", func(t *testing.T, _ context.CancelFunc) *testStick {
			return &testStick{Medium: usbredir.NewMemory(size), block: 512, fail: func(op string, off int64) error {
				if op == "write" && off > 4<<20 && off < size-4<<20 {
					return io.ErrClosedPipe
				}
				return nil
			}}
		}, "closed pipe", true},
		{"stopped", func(t *testing.T, stop context.CancelFunc) *testStick {
			return &testStick{Medium: usbredir.NewMemory(size), block: 512, fail: func(op string, off int64) error {
				if op == "read" && off > size/2 {
					stop()
				}
				return nil
			}}
		}, "canceled", true},
		{"a block of it is lost", func(t *testing.T, _ context.CancelFunc) *testStick {
			m := usbredir.NewMemory(size)
			s := &testStick{Medium: m, block: 512}
			s.fail = func(op string, off int64) error {
				if op == "read" && off == 0 { // before it is read back
					_, err := m.WriteAt(make([]byte, 512), 1<<20)
					return err
				}
				return nil
			}
			return s
		}, "byte 1048576 is not what was written there", false},
		{"other bytes when it is read by files", func(t *testing.T, _ context.CancelFunc) *testStick {
			return &testStick{Medium: &usbredir.Changing{Medium: usbredir.NewMemory(size), Offset: 6 << 20, Length: 5, From: 2}, block: 512}
		}, `"large", read back, has other bytes`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := letIn(t, func(payload string) {
				if err := os.WriteFile(filepath.Join(payload, "large"), bytes.Repeat([]byte("0123456789"), 700_001), 0o600); err != nil {
					t.Fatal(err)
				}
			})
			e := quietly(t)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			e.ctx = ctx
			s := tt.stick(t, stop)
			s.enrol(t, filepath.Join(d.dir, "state"), d.st, enrol.Delivery, "fat32")
			r, err := d.to(e, s, format.FAT32)
			if err == nil || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "not proven: deliver it anew") || r.Record.Verified || r.Record.Failure == "" {
				t.Fatalf("%v, %+v, want %q", err, r, tt.says)
			}
			if lies := !tt.empty; s.enrolled() == lies {
				t.Errorf("enrolled: %t", !lies)
			}
			if lines := d.logged(t); len(lines) != 1 || !strings.HasSuffix(lines[0], ", failed") {
				t.Errorf("the log has %q", lines)
			}
			head := make([]byte, 1<<20+64<<10) // tables and the boot sector
			if _, err := s.Medium.ReadAt(head, 0); err != nil {
				t.Fatal(err)
			}
			if blank := len(bytes.Trim(head, "\x00")) == 0; tt.empty && !blank {
				t.Error("the stick begins with something")
			}
		})
	}
}

// TestReadTree: what is on a stick is compared with what was to be there, file by file.
func TestReadTree(t *testing.T) {
	t.Parallel()
	d := letIn(t, func(payload string) {
		if err := os.Symlink("hello.txt", filepath.Join(payload, "link")); err != nil {
			t.Fatal(err)
		}
	})
	e := quietly(t)
	s := &testStick{Medium: usbredir.NewMemory(64 << 20), block: 512}
	if _, err := d.to(e, s, format.Ext4); err != nil {
		t.Fatal(err)
	}
	src, err := bundle.OpenDir(d.release)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	seal, _, err := released(e, d.st.log, "news/"+filepath.Base(d.release))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(entries []bundle.Entry) []bundle.Entry
		says   string
	}{
		{"as it is", func(entries []bundle.Entry) []bundle.Entry { return entries }, ""},
		{"a digest", func(entries []bundle.Entry) []bundle.Entry { find(entries, "hello.txt").SHA256[31]++; return entries }, `"hello.txt", read back, has other bytes`},
		{"a size", func(entries []bundle.Entry) []bundle.Entry { find(entries, "hello.txt").Size++; return entries }, "other bytes"},
		{"a time", func(entries []bundle.Entry) []bundle.Entry { find(entries, "hello.txt").MTime++; return entries }, "has the time"},
		{"a mode", func(entries []bundle.Entry) []bundle.Entry { find(entries, "hello.txt").Mode ^= 1; return entries }, "has the mode"},
		{"a target", func(entries []bundle.Entry) []bundle.Entry { find(entries, "link").Target = "x"; return entries }, `points to "hello.txt"`},
		{"a kind", func(entries []bundle.Entry) []bundle.Entry { find(entries, "link").Type = bundle.File; return entries }, "of another kind"},
		{"one more there", func(entries []bundle.Entry) []bundle.Entry { return entries[:len(entries)-1] }, "was never to be there"},
		{"one less there", func(entries []bundle.Entry) []bundle.Entry {
			return append(entries, bundle.Entry{Path: "z", Type: bundle.File})
		}, `"z", read back, isn't there`},
	} {
		entries, err := asSealed(e, src, seal)
		if err != nil {
			t.Fatal(err)
		}
		err = e.readTree(targetOf(s), format.Ext4, tt.change(entries))
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.says)
		}
	}
}

func find(entries []bundle.Entry, path string) *bundle.Entry {
	for i := range entries {
		if entries[i].Path == path {
			return &entries[i]
		}
	}
	return nil
}
