package ext

import (
	"bytes"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"
)

// patch changes a volume: each 5 bytes say where (3, little-endian) and to what (2).
func patch(b, patches []byte) {
	for ; len(patches) >= 5; patches = patches[5:] {
		at := int(patches[0]) | int(patches[1])<<8 | int(patches[2])<<16
		copy(b[at%len(b):], patches[3:5])
	}
}

// repair makes the checksums of the superblock, the group, the inodes and what they have right, so that the fuzzer comes
// behind them. The layout is that of before.
func (v vol) repair() {
	v.sealGroup()
	v.sealSuper()
	for _, path := range []string{".", "sub", "sub/deep", "other", "hello.txt", "empty", "ninety", "other.txt", "sub/b.txt", "sub/deep/c.txt", "fast", "slow", "holes", "wide"} {
		i := v.node(path)
		if i.mode.IsDir() && i.flags&flagInline == 0 {
			v.sealBlock(path, v.place(path, 0))
		}
		if i.flags&flagExtents != 0 && le.Uint16(i.block[6:]) > 0 {
			v.sealNode(path, v.child(path))
		}
		v.sealInode(path)
	}
}

func FuzzOpen(f *testing.F) {
	kinds := [][]string{plain, checked, uncheckd, inlined}
	for kind, args := range kinds {
		v := sample(f, args)
		at := func(off int64, to ...byte) []byte {
			return append([]byte{byte(off), byte(off >> 8), byte(off >> 16)}, to...)
		}
		root, holes := v.node("."), v.node("holes")
		off, _ := v.entry("other")
		for _, p := range [][]byte{
			nil, at(off, 2, 0), at(off, byte(v.node("sub").number), 0), at(off+4, 0, 0), at(root.off+4, 0, 9), at(holes.off+40, 3, 1), at(holes.off+56, 3, 0),
			at(superPlace+24, 6, 0), at(superPlace+96, 0xff, 0xff), at(superPlace+4, 0, 0), at(superPlace+32, 1, 0), at(2048+8, 1, 0),
			bytes.Join([][]byte{at(holes.off+4, 0xff, 0xff), at(holes.off+108, 0xff, 0x7f), at(root.off+32, 0, 8)}, nil),
		} {
			f.Add(byte(kind), p, false)
			f.Add(byte(kind), p, true)
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, patches []byte, fix bool) {
		v := sample(t, kinds[int(kind)%len(kinds)])
		patch(v.b, patches)
		if fix {
			v.repair()
		}
		start := time.Now()
		fsys, err := v.open()
		if err != nil {
			if !isDamage(err) {
				t.Error(err)
			}
			return
		}
		if !Probe(v.b) {
			t.Error("opened and not recognised")
		}
		walk(t, fsys)
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

// walk goes over all of a hostile volume's tree, and reads of each file what is stored at its start and its end.
func walk(t *testing.T, fsys *FS) {
	entries := 0
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if entries++; entries > volSize {
			t.Fatalf("%d entries", entries)
		}
		if strings.Contains(path, "//") {
			t.Errorf("path %q", path)
		}
		if err != nil {
			if !isDamage(err) {
				t.Errorf("%q: %v", path, err)
			}
			return nil
		}
		if d.Type()&fs.ModeSymlink != 0 {
			if to, err := fsys.ReadLink(path); err != nil && !isDamage(err) || len(to) > maxTarget {
				t.Errorf("%q: %d bytes, %v", path, len(to), err)
			}
		}
		if !d.Type().IsRegular() {
			return nil
		}
		r, err := fsys.Open(path)
		if err != nil {
			if !isDamage(err) {
				t.Errorf("%q: %v", path, err)
			}
			return nil
		}
		defer r.Close()
		info, err := d.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
		if err == nil && n != min(info.Size(), 1<<20) {
			t.Errorf("%q has %d of %d bytes", path, n, info.Size())
		}
		if err != nil && !isDamage(err) {
			t.Errorf("%q: %v", path, err)
		}
		if end := info.Size() - 100; end > 0 {
			if n, err := r.(io.ReaderAt).ReadAt(make([]byte, 200), end); n != 100 && !isDamage(err) {
				t.Errorf("%q: %d bytes, %v", path, n, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for _, x := range fsys.Findings() {
		if x.Code == "" || x.Detail == "" {
			t.Errorf("finding %v", x)
		}
	}
}
