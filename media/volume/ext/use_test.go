package ext

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
)

// TestFS has the rules of fs.FS kept.
func TestFS(t *testing.T) {
	for _, args := range [][]string{plain, checked, uncheckd, inlined} {
		v := sample(t, args)
		sub, err := fs.Sub(v.f, "sub") // where no links are, which TestFS would open
		if err != nil {
			t.Fatal(err)
		}
		if err := fstest.TestFS(sub, "b.txt", "deep/c.txt"); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// TestAtOnce has several readers of one volume, which all get the same.
func TestAtOnce(t *testing.T) {
	v := sample(t, checked)
	want, _ := contents(v.f)
	fsys, err := v.open()
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			if got, bad := contents(fsys); !maps.Equal(got, want) || len(bad) != 0 {
				t.Errorf("%q, %v", got, bad)
			}
		})
	}
	wait.Wait()
}

// TestOpenOther opens what is no file, and asks for what isn't there.
func TestOpenOther(t *testing.T) {
	v := sample(t, checked)
	for name, want := range map[string]error{"fast": fs.ErrInvalid, "no": fs.ErrNotExist, "hello.txt/no": fs.ErrNotExist, "/": fs.ErrInvalid, "sub/../empty": fs.ErrInvalid} {
		if _, err := v.f.Open(name); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := v.f.ReadLink("empty"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if _, err := v.f.ReadDir("empty"); err == nil {
		t.Error("a file was listed")
	}
	f, err := v.f.Open("hello.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		off    int64
		whence int
		want   int64
	}{{2, io.SeekStart, 2}, {1, io.SeekCurrent, 3}, {-1, io.SeekEnd, 5}, {-9, io.SeekEnd, -1}, {0, 9, -1}} {
		if got, err := f.(io.Seeker).Seek(c.off, c.whence); err == nil && got != c.want || (err != nil) != (c.want < 0) {
			t.Errorf("%+v: %d, %v", c, got, err)
		}
	}
	if b, err := io.ReadAll(f); string(b) != "\n" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// failing fails from a number of reads on.
type failing struct {
	r    io.ReaderAt
	left int
}

var errPulled = errors.New("pulled out")

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if f.left--; f.left < 0 {
		return 0, errPulled
	}
	return f.r.ReadAt(p, off)
}

// TestMediumFails has the medium fail at each of the reads that a walk takes: no error of it is taken for damage.
func TestMediumFails(t *testing.T) {
	v := sample(t, checked)
	for n := 0; ; n++ {
		r := &failing{bytes.NewReader(v.b), n}
		fsys, err := Open(r, volSize)
		bad := map[string]error{}
		if err != nil {
			bad["."] = err
		} else {
			_, bad = contents(fsys)
			if c := codes(fsys); c != "" {
				t.Fatalf("%d reads: findings %s", n, c)
			}
		}
		for path, err := range bad {
			var damage *FormatError
			if !errors.Is(err, errPulled) || errors.As(err, &damage) {
				t.Fatalf("%d reads: %q: %v", n, path, err)
			}
		}
		if len(bad) == 0 {
			if n < 20 {
				t.Errorf("%d reads are enough", n)
			}
			return
		}
	}
}

// TestFarBlocks has a file with blocks of each level of block numbers, and one that extents tell of.
func TestFarBlocks(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "far"))
	if err != nil {
		t.Fatal(err)
	}
	places := []int64{0, 11 << 10, 12 << 10, 267 << 10, 268 << 10, (12+256+65536)<<10 - 1024, (12 + 256 + 65536) << 10, 1 << 30}
	for i, at := range places {
		if _, err := fmt.Fprintf(io.NewOffsetWriter(f, at), "block %d", i); err != nil {
			t.Fatal(err)
		}
	}
	info, err := f.Stat()
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"ext2", "ext4"} {
		image := filepath.Join(t.TempDir(), "image")
		tool(t, "mke2fs", "-q", "-F", "-t", kind, "-b", "1024", "-d", dir, image, "8M")
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fsys, err := Open(f, 8<<20)
		if err != nil {
			t.Fatal(err)
		}
		file, err := fsys.Open("far")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := file.Stat(); err != nil || got.Size() != info.Size() {
			t.Errorf("%s: %v, %v", kind, got, err)
		}
		for i, at := range places {
			b := make([]byte, 5000)
			want := append(make([]byte, 100), fmt.Sprintf("block %d", i)...)
			if i == 0 {
				want, at = want[100:], 100
			}
			n, err := file.(io.ReaderAt).ReadAt(b, at-100)
			if err != nil && err != io.EOF || !bytes.HasPrefix(b[:n], want) {
				t.Errorf("%s at %d: %q, %v", kind, at, b[:120], err)
			}
		}
		if got := codes(fsys); got != "sparse" {
			t.Errorf("%s: %v", kind, fsys.Findings())
		}
	}
}

// counting notes what is read.
type counting struct {
	r     io.ReaderAt
	reads []extent
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	c.reads = append(c.reads, extent{off, int64(len(p))})
	return c.r.ReadAt(p, off)
}

// TestTruncated has a volume that ends before one of its files does: that one is refused, and the others can be read.
func TestTruncated(t *testing.T) {
	v := sample(t, checked)
	last, end := "", int64(0)
	for _, name := range []string{"hello.txt", "holes", "other.txt", "sub/b.txt", "sub/deep/c.txt", "wide"} {
		if at := v.place(name, 0); at > end {
			last, end = name, at
		}
	}
	want, _ := contents(v.f)
	delete(want, last)
	fsys, err := Open(bytes.NewReader(v.b[:end+512]), end+512)
	if err != nil {
		t.Fatal(err)
	}
	got, bad := contents(fsys)
	var damage *FormatError
	if err := bad[last]; !errors.As(err, &damage) || damage.Path != last || !strings.Contains(damage.Msg, "its blocks from") || !maps.Equal(got, want) || len(bad) != 1 {
		t.Errorf("%s: %v, %q", last, bad, got)
	}
	if codes(fsys) != "past-end" {
		t.Errorf("%v", fsys.Findings())
	}
}

// TestInodePiece reads no more of large blocks of inodes than is needed (F1).
func TestInodePiece(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	tool(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "65536", "-O", "^has_journal", image, "8M")
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := &counting{r: f}
	fsys, err := Open(c, 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fsys.Stat("lost+found"); err != nil {
		t.Fatal(err)
	}
	table, err := fsys.table(0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range c.reads {
		if e.at >= table*65536 && e.at < (table+fsys.tableLength())*65536 {
			if n++; e.size > 4096 {
				t.Errorf("%d bytes of inodes were read", e.size)
			}
		}
	}
	if n == 0 {
		t.Error("no inodes were read")
	}
}

// TestTooManyDirectories remembers where directories stand up to a bound.
func TestTooManyDirectories(t *testing.T) {
	v := sample(t, checked)
	fsys, err := v.open()
	if err != nil {
		t.Fatal(err)
	}
	for n := range uint32(maxDirs) {
		fsys.owner[n+1000] = rootInode
	}
	off, _ := v.entry("sub/deep")
	_, err = fsys.ReadDir("sub/deep")
	refused(t, "one more", err, "sub/deep", off, "more than the 400000 directories")
	if codes(fsys) != "too-many-directories" {
		t.Errorf("%v", fsys.Findings())
	}
}

// TestDeepLookup needs only the directory that a file is in if that was found just now, however much those above it take (F1).
func TestDeepLookup(t *testing.T) {
	v := sample(t, checked)
	if _, err := v.f.Stat("sub/deep/c.txt"); err != nil {
		t.Fatal(err)
	}
	v.f.dirs = dirCache{}
	if _, err := v.f.Stat("sub/deep/c.txt"); err != nil {
		t.Fatal(err)
	}
	if len(v.f.dirs.order) != 1 {
		t.Errorf("%d directories were read", len(v.f.dirs.order))
	}
}

// TestShared has many inodes with one tree of extents, which no checksum ties to one of them: one is followed (F1).
func TestShared(t *testing.T) {
	v := sample(t, uncheckd)
	from := v.inode("holes")
	names := []string{"empty", "hello.txt", "other.txt", "wide"}
	for _, name := range names {
		copy(v.inode(name)[40:100], from[40:100])
		copy(v.inode(name)[4:8], from[4:8])
	}
	fsys, err := v.open()
	if err != nil {
		t.Fatal(err)
	}
	_, bad := contents(fsys)
	for i, name := range append(names, "holes") {
		if (bad[name] == nil) != (i == 0) {
			t.Errorf("%s: %v", name, bad[name])
		}
	}
}
