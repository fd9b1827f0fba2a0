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

	"sallyport/media/enrol"
	"sallyport/qemu-tests/usbredir"
)

// safeKey makes alice's key with a password, "right".
func safeKey(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pw"), []byte("right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "alice.key")
	if out, err := exec.Command(plainProgram(t), "key", "generate", "--password-file", filepath.Join(dir, "pw"), strings.TrimSuffix(name, ".key")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	made := time.Unix(1_700_000_001, 0)
	if err := os.Chtimes(name, made, made); err != nil {
		t.Fatal(err)
	}
	return name
}

// storing stores a key on a stick that is enrolled for use, with a file system of a kind.
func storing(t *testing.T, e *env, s *testStick, file string, use enrol.Use, kind string) (*keyStoreResult, error) {
	t.Helper()
	dir, st := station(t)
	if use != "" {
		s.enrol(t, dir, st, use, kind)
	}
	key, err := readKeyToStore(file)
	if err != nil {
		t.Fatal(err)
	}
	c := &keyStoreCmd{File: file, Device: "/dev/sg9", State: dir, NoReplug: true, Yes: true}
	r, err := c.store(e, st, targetOf(s), key)
	got, _ := r.(*keyStoreResult)
	return got, err
}

// raw is a stick as one that is read only.
func raw(s *testStick) *rawMedium {
	return &rawMedium{ReaderAt: s, size: s.Size(), block: s.block}
}

// TestKeyStore: a key arrives, strangers' programs read it, and nothing is left of what was on the stick.
func TestKeyStore(t *testing.T) {
	file := safeKey(t)
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		kind  string
		block int
		fsck  string
	}{{"fat32", 512, "fsck.fat"}, {"fat32", 4096, "fsck.fat"}, {"exfat", 512, "fsck.exfat"}} {
		t.Run(fmt.Sprintf("%s of %d", tt.kind, tt.block), func(t *testing.T) {
			const size = 96 << 20
			s, stick := memoryStick(t, size, tt.block)
			old := bytes.Repeat([]byte("another key was here"), 205)[:4096]
			for _, at := range []int64{0, 1 << 20, 3<<20 + 4096, 77<<20 + 8192, size - 4096} {
				if _, err := s.Medium.WriteAt(old, at); err != nil {
					t.Fatal(err)
				}
			}
			fixture(t)
			if tt.kind != "exfat" { // which mkfs.exfat makes there, but without the key
				t.Setenv("TMPDIR", "/nonexistent") // nothing of it goes to a disk
			}
			r, err := storing(t, quietly(t), s, file, enrol.Key, tt.kind)
			if err != nil {
				t.Fatal(err)
			}
			if !r.Verified || r.Key != "alice.key" || r.Bytes != int64(len(want)) || r.Volume.Kind != tt.kind || r.Volume.Label != "KEY" || !r.Write.Verified {
				t.Errorf("%+v, %+v, %+v", r, r.Volume, r.Write)
			}
			var text strings.Builder
			if r.text(&text); !strings.Contains(text.String(), "alice.key, 262 bytes, and nothing else\nread back    equal; it was not pulled out") {
				t.Error(text.String())
			}
			got, called, err := quietly(t).keyOn(raw(s))
			if err != nil || !bytes.Equal(got, want) || called != `"alice.key"` {
				t.Errorf("read back as %s: %q, %v", called, got, err)
			}
			all, err := os.ReadFile(stick)
			if err != nil {
				t.Fatal(err)
			}
			if at := bytes.Index(all, []byte("another key")); at >= 0 {
				t.Errorf("at %d there is what was there before", at)
			}
			if n := bytes.Count(all, want[40:]); n != 1 {
				t.Errorf("the key is there %d times", n)
			}
			part := filepath.Join(t.TempDir(), "part")
			if err := os.WriteFile(part, all[1<<20:95<<20], 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(tt.fsck, "-n", part).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", tt.fsck, err, out)
			}
			if blkid, err := exec.Command("blkid", "-p", "-o", "export", part).CombinedOutput(); err != nil || !strings.Contains(string(blkid), "UUID="+r.Volume.Serial+"\n") || !strings.Contains(string(blkid), "LABEL=KEY\n") {
				t.Errorf("%+v, blkid says %s, %v", r.Volume, blkid, err)
			}
			if tt.fsck == "fsck.fat" && tt.block == 512 { // all that mtools reads
				if out, err := exec.Command("mdir", "-b", "-i", part, "::").CombinedOutput(); err != nil || string(out) != "::/alice.key\n" {
					t.Errorf("mdir: %s, %v", out, err)
				}
				if out, err := exec.Command("mtype", "-i", part, "::alice.key").Output(); err != nil || !bytes.Equal(out, want) {
					t.Errorf("mtype: %q, %v", out, err)
				}
			}
		})
	}
}

// TestKeyStoreRefuses: only what this station has made a key stick is written to, and only when somebody says so.
func TestKeyStoreRefuses(t *testing.T) {
	file := safeKey(t)
	device := filepath.Join(filepath.Dir(file), "CON.key")
	if err := os.Link(file, device); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, file string
		use        enrol.Use
		kind, says string
		code       int
	}{
		{"not enrolled", file, "", "", "has not enrolled the stick", 1},
		{"a delivery stick", file, enrol.Delivery, "fat32", "enrolled as a delivery stick, not as a key stick", 1},
		{"ext4", file, enrol.Key, "ext4", "format it anew with --fs fat32 or exfat", 2},
		{"a device's name", device, enrol.Key, "fat32", "can't be called so on a stick: a name that Windows has for a device", 2},
	} {
		s := &testStick{Medium: usbredir.NewMemory(64 << 20), block: 512, fail: func(op string, off int64) error {
			t.Errorf("%s: %s at %d", tt.name, op, off)
			return nil
		}}
		r, err := storing(t, quietly(t), s, tt.file, tt.use, tt.kind)
		if code, _ := classify(t.Context(), err); err == nil || code != tt.code || !strings.Contains(err.Error(), tt.says) || r != nil {
			t.Errorf("%s: %v (%d), %+v, want %q (%d)", tt.name, err, code, r, tt.says, tt.code)
		}
	}
	if _, err := (&keyStoreCmd{File: file, Device: "/dev/sg9"}).run(quietly(t)); err == nil {
		t.Error("without a trust root")
	}
}

// TestKeyStoreAsks: what is on the stick is lost only when somebody said so.
func TestKeyStoreAsks(t *testing.T) {
	dir, st := station(t)
	signer, err := (&formatCmd{State: dir}).stationKey(st)
	if err != nil {
		t.Fatal(err)
	}
	s := &testStick{Medium: usbredir.NewMemory(64 << 20), block: 512, fail: func(op string, off int64) error {
		t.Errorf("%s at %d", op, off)
		return nil
	}}
	rec := &enrol.Record{Capacity: "quick", Medium: targetOf(s).identity, Station: "kiosk", Use: enrol.Key, Volume: &enrol.Volume{Kind: "fat32", Label: "KEY", Serial: "0000-0000"}}
	if err := enrol.Add(filepath.Join(dir, enrolDir), rec, nil, nil, signer); err != nil {
		t.Fatal(err)
	}
	c := &keyStoreCmd{File: "alice.key", Device: "/dev/sg9", State: dir, NoReplug: true}
	if r, err := c.store(quietly(t), st, targetOf(s), &keyTree{name: "alice.key"}); r != nil || err == nil || !strings.Contains(err.Error(), "all that is on /dev/sg9 is lost") {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestKeyStoreFails: a stick that was pulled out, lies or changes is told; one that was stopped has no file system.
func TestKeyStoreFails(t *testing.T) {
	const size = 64 << 20
	file := safeKey(t)
	for _, tt := range []struct {
		name  string
		stick func(stop context.CancelFunc) *testStick
		says  string
		empty bool // the stick is no file system
	}{
		{"pulled out", func(context.CancelFunc) *testStick {
			return &testStick{Medium: usbredir.NewMemory(size), block: 512, fail: func(op string, off int64) error {
				if op == "read" && off > size/2 {
					return io.ErrClosedPipe
				}
				return nil
			}}
		}, "closed pipe", true},
		{"stopped", func(stop context.CancelFunc) *testStick {
			return &testStick{Medium: usbredir.NewMemory(size), block: 512, fail: func(op string, off int64) error {
				if op == "read" && off > size/2 {
					stop()
				}
				return nil
			}}
		}, "canceled", true},
		{"a block of it is lost", func(context.CancelFunc) *testStick {
			m := usbredir.NewMemory(size)
			return &testStick{Medium: m, block: 512, fail: func(op string, off int64) error {
				if op == "read" && off == 0 { // before it is read back
					_, err := m.WriteAt(make([]byte, 512), 1<<20)
					return err
				}
				return nil
			}}
		}, "byte 1048576 is not what was written there", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := quietly(t)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			e.ctx = ctx
			s := tt.stick(stop)
			r, err := storing(t, e, s, file, enrol.Key, "fat32")
			if err == nil || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "not proven: store the key anew") || r == nil || r.Verified {
				t.Fatalf("%v, %+v, want %q", err, r, tt.says)
			}
			if lies := !tt.empty; s.enrolled() == lies {
				t.Errorf("enrolled: %t", !lies)
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
	t.Run("other bytes when it is read as a file", func(t *testing.T) {
		key, err := readKeyToStore(file)
		if err != nil {
			t.Fatal(err)
		}
		s := &testStick{Medium: usbredir.NewMemory(size), block: 512}
		if _, err := storing(t, quietly(t), s, file, enrol.Key, "fat32"); err != nil {
			t.Fatal(err)
		}
		all := make([]byte, 16<<20)
		if _, err := s.Medium.ReadAt(all, 0); err != nil {
			t.Fatal(err)
		}
		at := int64(bytes.Index(all, key.data))
		fickle := &testStick{Medium: &usbredir.Changing{Medium: usbredir.NewMemory(size), Offset: at, Length: 1, From: 2}, block: 512}
		r, err := storing(t, quietly(t), fickle, file, enrol.Key, "fat32")
		if err == nil || !strings.Contains(err.Error(), `"alice.key", read back, has other bytes`) || r.Verified || fickle.enrolled() {
			t.Errorf("%v, %+v", err, r)
		}
	})
}

// TestReadKeyToStore: what goes on no stick.
func TestReadKeyToStore(t *testing.T) {
	t.Parallel()
	file := safeKey(t)
	dir := filepath.Dir(file)
	put := func(name string, data []byte) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	longest := strings.Repeat("a", 60) + ".key"
	for _, tt := range []struct{ file, says string }{
		{file, ""},
		{put(longest, good), ""},
		{put("A-z_0.9.key", good), ""},
		{put("a"+longest, good), "NAME.key"},
		{put("alice.key.old", good), "NAME.key"},
		{put(".key", good), "NAME.key"},
		{put("a b.key", good), "NAME.key"},
		{put("ä.key", good), "NAME.key"},
		{filepath.Join(fixture(t), "alice.key"), "the key has no password"},
		{put("public.key", []byte("untrusted comment: minisign public key\nRWQ\n")), "parse secret key file"},
		{put("twice.key", append(bytes.Clone(good), good...)), "parse secret key file"},
		{put("large.key", make([]byte, maxKeyOnStick+1)), "more than 65536 bytes"},
		{put("zeros.key", make([]byte, maxKeyOnStick)), "parse secret key file"},
		{filepath.Join(dir, "nosuch.key"), "no such file"},
	} {
		key, err := readKeyToStore(tt.file)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) || err == nil && (key.name != filepath.Base(tt.file) || !bytes.Equal(key.data, good)) {
			t.Errorf("%s: %v, want %q", tt.file, err, tt.says)
		}
		if code, _ := classify(t.Context(), err); err != nil && code != exitUsage {
			t.Errorf("%s: %v has exit status %d", tt.file, err, code)
		}
	}
}

// TestKeyOn finds the key on sticks that stock tools made.
func TestKeyOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, size := range map[string]int64{"alice.key": 300, "ALICE.KEY": 301, "bob.key": 302, "most.key": maxKeyOnStick, "large.key": maxKeyOnStick + 1, "note.txt": 3} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte{'k'}, int(size)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	made := 0
	stick := func(steps ...[]string) string {
		t.Helper()
		made++
		image := filepath.Join(dir, fmt.Sprintf("image%d", made))
		if err := os.WriteFile(image, make([]byte, 4<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, step := range steps {
			var args []string
			for _, arg := range step[1:] {
				args = append(args, strings.ReplaceAll(arg, "IMAGE", image))
			}
			cmd := exec.Command(step[0], args...)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %v: %s", step, err, out)
			}
		}
		return image
	}
	mkfs := []string{"mkfs.fat", "IMAGE"}
	copied := func(names ...string) []string {
		return append(append([]string{"mcopy", "-i", "IMAGE"}, names...), "::")
	}
	for _, tt := range []struct {
		name, image string
		size        int // of the key
		called      string
		says        string
	}{
		{"one", stick(mkfs, copied("alice.key")), 300, `"alice.key"`, ""},
		{"in capitals", stick(mkfs, copied("ALICE.KEY")), 301, `"ALICE.KEY"`, ""},
		{"beside others", stick(mkfs, copied("alice.key", "note.txt")), 300, `"alice.key"`, ""},
		{"the largest", stick(mkfs, copied("most.key")), maxKeyOnStick, `"most.key"`, ""},
		{"too large", stick(mkfs, copied("large.key")), 0, "", `"large.key" is a file of 65537 bytes`},
		{"two", stick(mkfs, copied("alice.key", "bob.key")), 0, "", `at the root there are "alice.key", "bob.key"`},
		{"none", stick(mkfs, copied("note.txt")), 0, "", `there is no file NAME.key at the root, but "note.txt"`},
		{"empty", stick(mkfs), 0, "", "at the root, but nothing"},
		{"a directory", stick(mkfs, []string{"mmd", "-i", "IMAGE", "::x.key"}), 0, "", `"x.key" is a directory`},
		{"not at the root", stick(mkfs, []string{"mmd", "-i", "IMAGE", "::d"}, []string{"mcopy", "-i", "IMAGE", "alice.key", "::d"}), 0, "", `but "d"`},
		{"two file systems", stick(
			[]string{"sh", "-c", "printf '2048,2048,1\\n4096,2048,1\\n' | sfdisk -q IMAGE"},
			[]string{"mkfs.fat", "--offset", "2048", "IMAGE", "1024"}, []string{"mkfs.fat", "--offset", "4096", "IMAGE", "1024"},
			[]string{"mcopy", "-i", "IMAGE@@1M", "alice.key", "::"},
		), 0, "", "on this one there is FAT12 of 1.0 MB, FAT12 of 1.0 MB"},
		{"damaged", stick(mkfs, copied("most.key"), []string{"dd", "if=/dev/zero", "of=IMAGE", "bs=1", "seek=515", "count=9", "conv=notrunc"}), 0, "", `read "most.key": open most.key: reading a FAT volume: `},
		{"zeros", stick(), 0, "", "on this one there is "},
		{"ext4", stick([]string{"mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "IMAGE"}), 0, "", `"lost+found"`},
		{"unread", stick([]string{"mkswap", "IMAGE"}), 0, "", "on this one there is "},
	} {
		f, err := os.Open(tt.image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		data, called, err := quietly(t).keyOn(&rawMedium{ReaderAt: f, size: 4 << 20, block: 512})
		if tt.says == "" {
			if err != nil || len(data) != tt.size || len(bytes.Trim(data, "k")) > 0 || called != tt.called {
				t.Errorf("%s: %d bytes, %s, %v", tt.name, len(data), called, err)
			}
			continue
		}
		code, refusal := classify(t.Context(), err)
		if err == nil || code != exitRefused || refusal.Code != "no-key-stick" || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v (%d), want %q", tt.name, err, code, tt.says)
		}
	}

	pulled := &testStick{Medium: usbredir.NewMemory(4 << 20), block: 512, fail: func(string, int64) error { return io.ErrClosedPipe }}
	if _, _, err := quietly(t).keyOn(raw(pulled)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("pulled out: %v", err)
	}
}
