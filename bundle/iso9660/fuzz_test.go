package iso9660

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzOpen reads whatever it is given, in every view: no panic, no hang, names that are valid only, and never more files than there is room for. Its input is an image, or, when it is shorter than any, changes to one that is good.
func FuzzOpen(f *testing.F) {
	small := newTree()
	small.dir("a")
	small.file("a/"+strings.Repeat("n", 200), "x")
	small.link("l", "a/b/c")
	bases := [][]byte{small.image(f), hostileTree().image(f), foreignImage(f, "-R"), foreignImage(f, "-J")}
	for i := range bases {
		f.Add([]byte{byte(i)})
		f.Add([]byte{byte(i), 0, 0, 0x9C, 40, 1, 2, 0, 0x90, 17, 2, 0, 0xA0, 9})
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		if len(b) < (descriptorLBA+2)*BlockSize {
			b = applyChanges(bytes.Clone(bases[int(b[0])%len(bases)]), b[1:])
		}
		for _, view := range []View{ViewAuto, ViewJoliet, ViewISO9660} {
			if fsys, err := OpenView(memImage(b), int64(len(b)), view); err == nil {
				readAll(t, fsys, len(b))
			}
		}
		Strict(t.Context(), memImage(b), int64(len(b)))
	})
}

func readAll(t *testing.T, fsys *FS, size int) {
	n := 0
	fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if n++; n > size/minRecord+1 {
			t.Fatalf("more files than %d bytes can hold", size)
		}
		if !fs.ValidPath(path) {
			t.Fatalf("path %q", path)
		}
		if d.Type().IsRegular() && n < 100 {
			r, err := fsys.Open(path)
			if err != nil {
				return nil
			}
			r.Read(make([]byte, 5000))
			r.Close()
		}
		return nil
	})
}

// applyChanges changes an image from the descriptors on, by four bytes each time: what to do, where, and with what.
func applyChanges(image, changes []byte) []byte {
	b := image[descriptorLBA*BlockSize:]
	for ; len(changes) >= 4; changes = changes[4:] {
		at := (int(changes[1])<<8 | int(changes[2])) % (len(b) - 16)
		switch v := changes[3]; changes[0] % 4 {
		case 0:
			b[at] = v
		case 1:
			put733(b[at:], uint32(v))
		case 2: // the next system use entry or record field from somewhere else
			copy(b[at:at+16], b[int(v)*(len(b)-16)/256:])
		case 3:
			b[at] ^= 1 << (v % 8)
		}
	}
	return image
}

// foreignImage is a relocated tree of genisoimage's.
func foreignImage(f *testing.F, view string) []byte {
	dir := f.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "1/2/3/4/5/6/7/8/9"), 0o755); err != nil {
		f.Fatal(err)
	}
	image := filepath.Join(f.TempDir(), "seed.iso")
	tool(f, minute, "genisoimage", "-quiet", view, "-no-pad", "-o", image, dir)
	b, err := os.ReadFile(image)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// FuzzLayout lays out arbitrary entries: an error, or an image that our reader reads back the same and that Strict accepts.
func FuzzLayout(f *testing.F) {
	f.Add([]byte("\x00a\x00\x01b\x00\x02c\x00"))
	f.Add([]byte("\x01dir\x00\x00dir/file.name\x00\x02dir/link\x00../x/y\x00\x00dir/FILE.name\x00"))
	f.Add([]byte("\x02l\x00" + strings.Repeat("./", 90) + strings.Repeat("a/", 100) + strings.Repeat("b", 240) + "\x00\x00" + strings.Repeat("é", 120) + "\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		tr := fuzzTree(b)
		l, err := NewLayout(testVolume, tr.entries)
		if err != nil {
			return
		}
		image, err := writeImage(l, tr.data)
		if err != nil {
			t.Fatal(err)
		}
		fsys, err := Open(memImage(image), int64(len(image)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ours(fsys)
		if err != nil {
			t.Fatal(err)
		}
		compareTrees(t, "tree", tr.seen(), "ours", got, whole)
		if err := Strict(t.Context(), memImage(image), int64(len(image))); err != nil {
			t.Fatal(err)
		}
	})
}

// fuzzTree makes entries of bytes: a kind, a path and, for a link, a target, each ended by NUL.
func fuzzTree(b []byte) *testTree {
	tr := newTree()
	field := func() string {
		s, rest, _ := bytes.Cut(b, []byte{0})
		b = rest
		return string(s)
	}
	for len(b) > 0 {
		kind := b[0]
		b = b[1:]
		path := field()
		mtime := int64(binary.LittleEndian.Uint32(append([]byte(path), 0, 0, 0, 0)))
		switch kind & 3 {
		case 1:
			tr.dirMode(path, fs.FileMode(kind)&0o777, mtime)
		case 2:
			tr.link(path, field())
		default:
			tr.fileMode(path, strings.Repeat(path, int(kind>>2)), 0o600, -mtime/2)
		}
	}
	return tr
}
