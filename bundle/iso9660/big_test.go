package iso9660

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A markedFile is a long file of zeros with a mark at certain places: 16 bytes that say where they are.
type markedFile struct{ size int64 }

const markSpace = 64 << 20

// marks are at each 64 MiB, on both sides of each extent's end, and at the end.
func (m markedFile) marks() []int64 {
	var out []int64
	for at := int64(0); at+16 <= m.size; at += markSpace {
		out = append(out, at)
	}
	for at := int64(maxExtent); at+16 <= m.size; at += maxExtent {
		out = append(out, at-16, at+16)
	}
	return append(out, m.size-16)
}

func (m markedFile) ReadAt(p []byte, off int64) (int, error) {
	if off >= m.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), m.size-off))
	clear(p[:n])
	for _, at := range m.marks() {
		if at+16 > off && at < off+int64(n) {
			var mark [16]byte
			binary.BigEndian.PutUint64(mark[:], uint64(at))
			copy(mark[8:], "<- there")
			for i, c := range mark {
				if k := at + int64(i) - off; k >= 0 && k < int64(n) {
					p[k] = c
				}
			}
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// A sparseWriter writes to a file and leaves holes for zeros.
type sparseWriter struct {
	f   *os.File
	off int64
}

var zeros [64 << 10]byte

func (w *sparseWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := min(len(p)-done, len(zeros))
		b := p[done:][:n]
		if !bytes.Equal(b, zeros[:n]) {
			if _, err := w.f.WriteAt(b, w.off); err != nil {
				return done, err
			}
		}
		done += n
		w.off += int64(n)
	}
	return len(p), nil
}

// compareMarked reads r to its end and compares it with the file.
func compareMarked(r io.Reader, m markedFile) error {
	got, want := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; {
		n, err := io.ReadFull(r, got)
		if k, _ := m.ReadAt(want[:n], off); k != n || !bytes.Equal(got[:n], want[:n]) {
			return fmt.Errorf("data differ in the %d bytes at %d", n, off)
		}
		off += int64(n)
		switch {
		case (err == io.EOF || err == io.ErrUnexpectedEOF) && off != m.size:
			return fmt.Errorf("ends after %d bytes", off)
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// TestMultiExtent has a file of 5 GiB: two extents, read whole by bsdtar, around its marks by xorriso and by us; with a long name, so that both records have continuation areas.
func TestMultiExtent(t *testing.T) {
	t.Parallel()
	m := markedFile{5<<30 + 4321}
	name := "big-" + string(bytes.Repeat([]byte("x"), 200))
	entries := []Entry{newTree().entries[0], {Path: "after", Mode: 0o644, Size: 5}, {Path: "before", Mode: 0o644, Size: 6}, {Path: name, Mode: 0o640, ModTime: 1_000_000_000, Size: m.size}, {Path: "behind", Mode: 0o644, Size: 6}, {Path: "exact", Mode: 0o644, Size: maxExtent}}
	l, err := NewLayout(testVolume, entries)
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "big.iso")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w := l.NewWriter(&sparseWriter{f: f})
	for i, r := range []io.Reader{nil, bytes.NewReader([]byte("after")), bytes.NewReader([]byte("before")), io.NewSectionReader(m, 0, m.size), bytes.NewReader([]byte("behind")), io.NewSectionReader(markedFile{maxExtent}, 0, maxExtent)} {
		if r == nil {
			continue
		}
		if err := w.WriteFile(i, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(l.Blocks() * BlockSize); err != nil {
		t.Fatal(err)
	}
	t.Run("ours", func(t *testing.T) {
		t.Parallel()
		fsys, err := Open(f, l.Blocks()*BlockSize)
		if err != nil {
			t.Fatal(err)
		}
		info, err := fsys.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if x := info.Sys().(*Stat).Extents; info.Size() != m.size || len(x) != 2 || x[0].Size != maxExtent {
			t.Errorf("%d bytes in %v", info.Size(), x)
		}
		if x, err := fsys.Stat("exact"); err != nil || x.Size() != maxExtent || len(x.Sys().(*Stat).Extents) != 1 {
			t.Errorf("a file of one full extent: %v", err)
		}
		r, err := fsys.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got, want := make([]byte, 100), make([]byte, 100)
		for _, at := range m.marks() {
			at = max(0, min(at-30, m.size-100))
			if _, err := r.(io.ReaderAt).ReadAt(got, at); err != nil {
				t.Fatal(err)
			}
			if m.ReadAt(want, at); !bytes.Equal(got, want) {
				t.Fatalf("data differ at %d", at)
			}
		}
		if b, err := io.ReadAll(must(fsys.Open("behind"))); err != nil || string(b) != "behind" {
			t.Errorf("the file behind: %q, %v", b, err)
		}
		s := l.ReaderAt(func(int) (io.ReaderAt, error) { return m, nil })
		lba, _ := l.Extent(3)
		for _, at := range m.marks() {
			at = max(0, min(at-30, m.size-100))
			if _, err := s.ReadAt(got, lba*BlockSize+at); err != nil {
				t.Fatal(err)
			}
			if m.ReadAt(want, at); !bytes.Equal(got, want) {
				t.Fatalf("Source differs at %d", at)
			}
		}
	})
	t.Run("bsdtar", func(t *testing.T) {
		t.Parallel()
		path, err := exec.LookPath("bsdtar")
		if err != nil {
			t.Fatalf("peer tool is missing: %v", err)
		}
		cmd := exec.CommandContext(t.Context(), path, "-xOf", image, name)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := compareMarked(out, m); err != nil {
			t.Error(err)
		}
		io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	t.Run("xorriso", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		args := []string{"-report_about", "WARNING", "-return_with", "SORRY", "32", "-osirrox", "on", "-indev", "stdio:" + image, "-extract", "/behind", filepath.Join(dir, "behind")}
		starts := m.marks()
		for i, at := range starts {
			starts[i] = max(0, min(at-BlockSize, m.size-2*BlockSize))
			args = append(args, "-extract_cut", "/"+name, fmt.Sprint(starts[i]), fmt.Sprint(2*BlockSize), filepath.Join(dir, fmt.Sprint(i)))
		}
		tool(t, 2*minute, "xorriso", args...)
		for i, at := range starts {
			got, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(i)))
			if err != nil {
				t.Fatal(err)
			}
			want := make([]byte, 2*BlockSize)
			if m.ReadAt(want, at); !bytes.Equal(got, want) {
				t.Errorf("data differ at %d", at)
			}
		}
		if b, err := os.ReadFile(filepath.Join(dir, "behind")); err != nil || string(b) != "behind" {
			t.Errorf("the file behind: %q, %v", b, err)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
