package iso9660

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/iotest"
	"time"
)

// TestWriterSizes has files that are not as long as they were listed.
func TestWriterSizes(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 1, BlockSize - 1, BlockSize, BlockSize + 1, writeBuffer, writeBuffer - systemArea, 3*writeBuffer + 1} {
		for _, delta := range []int64{-size, -1, 0, 1, BlockSize, writeBuffer} {
			if size+delta < 0 {
				continue
			}
			entries := []Entry{newTree().entries[0], {Path: "f", Mode: 0o644, Size: size}}
			l, err := NewLayout(testVolume, entries)
			if err != nil {
				t.Fatal(err)
			}
			for name, wrap := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "halves": iotest.HalfReader, "early EOF": iotest.DataErrReader} {
				w := l.NewWriter(io.Discard)
				err := w.WriteFile(1, wrap(bytes.NewReader(make([]byte, size+delta))))
				var se *SizeError
				switch {
				case delta == 0:
					if err == nil {
						err = w.Close()
					}
					if err != nil {
						t.Errorf("%s: %d bytes: %v", name, size, err)
					}
				case !errors.As(err, &se) || se.Path != "f" || se.Want != size || (se.Got > size) != (delta > 0) || delta < 0 && se.Got != size+delta:
					t.Errorf("%s: %d bytes for %d: error %v", name, size+delta, size, err)
				default:
					if w.Close() == nil {
						t.Errorf("%s: Close after %v", name, err)
					}
				}
			}
		}
	}
}

// TestWriterOrder has files that are left out, written twice or too early, and writers and readers that fail.
func TestWriterOrder(t *testing.T) {
	t.Parallel()
	tr := newTree()
	tr.dir("d")
	tr.file("d/a", "a")
	tr.link("d/l", "a")
	tr.file("d/b", "")
	tr.file("d/c", "c")
	l, err := NewLayout(testVolume, tr.entries)
	if err != nil {
		t.Fatal(err)
	}
	one := func() io.Reader { return strings.NewReader("a") }
	none := func() io.Reader { return strings.NewReader("") }
	for name, steps := range map[string]func(w *Writer) error{
		"left out":       func(w *Writer) error { return errors.Join(w.WriteFile(2, one()), w.Close()) },
		"empty left out": func(w *Writer) error { return errors.Join(w.WriteFile(2, one()), w.WriteFile(5, one())) },
		"twice":          func(w *Writer) error { return errors.Join(w.WriteFile(2, one()), w.WriteFile(2, one())) },
		"a directory":    func(w *Writer) error { return w.WriteFile(1, none()) },
		"a link":         func(w *Writer) error { return errors.Join(w.WriteFile(2, one()), w.WriteFile(3, none())) },
		"one too many": func(w *Writer) error {
			return errors.Join(w.WriteFile(2, one()), w.WriteFile(4, none()), w.WriteFile(5, one()), w.WriteFile(6, none()))
		},
		"nothing written": func(w *Writer) error { return w.Close() },
		"failing reader":  func(w *Writer) error { return w.WriteFile(2, iotest.ErrReader(errors.New("broken"))) },
		"stuck reader":    func(w *Writer) error { return w.WriteFile(2, stuck{}) },
	} {
		w := l.NewWriter(io.Discard)
		err := steps(w)
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if w.Close() == nil {
			t.Errorf("%s: Close says that all is well", name)
		}
	}
	full := errors.New("disk full")
	for limit := 0; limit < 3; limit++ {
		big := []Entry{tr.entries[0], {Path: "f", Mode: 0o644, Size: 2 * writeBuffer}}
		l, err := NewLayout(testVolume, big)
		if err != nil {
			t.Fatal(err)
		}
		w := l.NewWriter(&limited{limit, full})
		err = w.WriteFile(1, bytes.NewReader(make([]byte, 2*writeBuffer)))
		if err = errors.Join(err, w.Close()); !errors.Is(err, full) {
			t.Errorf("after %d writes: %v", limit, err)
		}
	}
	if err := l.WriteDirectoryArea(&limited{0, full}); !errors.Is(err, full) {
		t.Error(err)
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

type limited struct {
	left int
	err  error
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left--; l.left < 0 {
		return 0, l.err
	}
	return len(p), nil
}

// TestWriterBytes compares the three ways to an image: written, as a Source, and the directory area by itself, which comes out the same each time.
func TestWriterBytes(t *testing.T) {
	t.Parallel()
	tr := richTree(t)
	l, err := NewLayout(testVolume, tr.entries)
	if err != nil {
		t.Fatal(err)
	}
	area := bytes.Repeat([]byte("system area "), 200)
	if err := l.SetSystemArea(area); err != nil {
		t.Fatal(err)
	}
	image, err := writeImage(l, tr.data)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(image, area) || bytes.Count(image[len(area):systemArea], []byte{0}) != systemArea-len(area) {
		t.Error("the system area is not as it was set")
	}
	for range 2 {
		var b bytes.Buffer
		if err := l.WriteDirectoryArea(&b); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.Bytes(), image[systemArea:l.DataStart()*BlockSize]) {
			t.Error("WriteDirectoryArea and the image differ")
		}
	}
	open, most := 0, 0
	s := l.ReaderAt(func(i int) (io.ReaderAt, error) {
		open++
		most = max(most, open)
		return &counted{bytes.NewReader(tr.data[l.entries[i].Path]), &open}, nil
	})
	if err := iotest.TestReader(io.NewSectionReader(s, 0, s.Size()), image); err != nil {
		t.Error(err)
	}
	for _, n := range []int{1, 7, 2047, 2049, 70000} {
		for off := 0; off < len(image); off += 31 * n {
			p := make([]byte, n)
			k, err := s.ReadAt(p, int64(off))
			if want := image[off:min(len(image), off+n)]; !bytes.Equal(p[:k], want) || (err == io.EOF) != (len(want) < n) {
				t.Fatalf("ReadAt %d bytes at %d: %d, %v", n, off, k, err)
			}
		}
	}
	if err := s.Close(); err != nil || open != 0 || most > openSources {
		t.Errorf("Close: %v, %d files are open, %d were", err, open, most)
	}
	if _, err := s.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("a negative offset is read")
	}
}

type counted struct {
	io.ReaderAt
	open *int
}

func (c *counted) Close() error {
	*c.open--
	return nil
}

// TestSourceErrors has sources that don't open, fail, or are shorter than they were, used by several goroutines.
func TestSourceErrors(t *testing.T) {
	t.Parallel()
	var entries []Entry
	entries = append(entries, newTree().entries[0])
	for i := range 40 {
		entries = append(entries, Entry{Path: fmt.Sprintf("f%02d", i), Mode: 0o644, Size: 3000})
	}
	l, err := NewLayout(testVolume, entries)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	s := l.ReaderAt(func(i int) (io.ReaderAt, error) {
		switch i {
		case 5:
			return nil, broken
		case 6:
			return bytes.NewReader(make([]byte, 2999)), nil
		}
		return bytes.NewReader(make([]byte, 3000)), nil
	})
	var wg sync.WaitGroup
	for i := 1; i <= 40; i++ {
		wg.Go(func() {
			lba, _ := l.Extent(i)
			_, err := s.ReadAt(make([]byte, 4096), lba*BlockSize)
			var se *SizeError
			if i == 5 && !errors.Is(err, broken) || i == 6 && (!errors.As(err, &se) || se.Got != 2999) || i > 6 && err != nil {
				t.Errorf("file %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

// TestWriteTree writes directories of the disk and of memory, and files that change meanwhile.
func TestWriteTree(t *testing.T) {
	t.Parallel()
	dir, want := sourceDir(t, true)
	for _, name := range []string{"abs-link", "wide-link"} { // not to be recorded: they leave the tree
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		delete(want, name)
	}
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	root := want["."]
	root.mtime = info.ModTime().Unix()
	want["."] = root
	var b, again bytes.Buffer
	if err := Write(t.Context(), &b, os.DirFS(dir), testVolume); err != nil {
		t.Fatal(err)
	}
	got, err := ours(openImage(t, b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	compareTrees(t, "directory", want, "image", got, func(_ string, s seen) seen {
		if s.kind == "link" {
			s.mtime = 0
		}
		return s
	})
	if err := Write(t.Context(), &again, os.DirFS(dir), testVolume); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Errorf("the second image differs (%v)", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Write(ctx, io.Discard, os.DirFS(dir), testVolume); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := Write(t.Context(), io.Discard, os.DirFS(filepath.Join(dir, "none")), testVolume); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if err := Write(t.Context(), io.Discard, fstest.MapFS{"dev": {Mode: fs.ModeDevice}}, testVolume); err == nil {
		t.Error("a device is written")
	}
}

// TestWriteChanged changes a file between listing and reading: size, time or kind.
func TestWriteChanged(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 5)
	for name, change := range map[string]func(f *fstest.MapFile){
		"longer":     func(f *fstest.MapFile) { f.Data = []byte("more data") },
		"shorter":    func(f *fstest.MapFile) { f.Data = nil },
		"nanosecond": func(f *fstest.MapFile) { f.ModTime = at.Add(1) },
		"mode":       func(f *fstest.MapFile) { f.Mode = 0o600 },
	} {
		for _, when := range []int{1, 2} { // at the first look when it is open, and after it was read
			m := fstest.MapFS{"file": {Data: []byte("data"), ModTime: at, Mode: 0o644}}
			err := Write(t.Context(), io.Discard, &changing{m, func() { change(m["file"]) }, when}, testVolume)
			var se *SizeError
			var ce *ChangedError
			if !errors.As(err, &se) && !errors.As(err, &ce) {
				t.Errorf("%s, look %d: error %v", name, when, err)
			}
		}
		if err := Write(t.Context(), io.Discard, fstest.MapFS{"file": {Data: []byte("data"), ModTime: at}}, testVolume); err != nil {
			t.Errorf("unchanged: %v", err)
		}
	}
}

// changing changes a file when it is looked at for the nth time after it was opened.
type changing struct {
	fstest.MapFS
	change func()
	when   int
}

func (c *changing) Open(name string) (fs.File, error) {
	f, err := c.MapFS.Open(name)
	if err != nil || name != "file" {
		return f, err
	}
	return &changingFile{f, c, 0}, nil
}

type changingFile struct {
	fs.File
	c     *changing
	looks int
}

func (f *changingFile) Stat() (fs.FileInfo, error) {
	if f.looks++; f.looks == f.c.when {
		f.c.change()
		fresh, err := f.c.MapFS.Open("file")
		if err != nil {
			return nil, err
		}
		defer fresh.Close()
		return fresh.Stat()
	}
	return f.File.Stat()
}
