package fat

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sparseImage keeps the blocks of an image that aren't zero.
type sparseImage struct {
	size   int64
	blocks map[int64][]byte
}

const sparseBlock = 16 << 10

func (s *sparseImage) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		at := off + int64(n)
		if at >= s.size {
			return n, io.EOF
		}
		k := min(int64(len(p)-n), sparseBlock-at%sparseBlock, s.size-at)
		if b, ok := s.blocks[at/sparseBlock]; ok {
			copy(p[n:n+int(k)], b[at%sparseBlock:])
		} else {
			clear(p[n : n+int(k)])
		}
		n += int(k)
	}
	return n, nil
}

func unpack(path string) (*sparseImage, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	s := &sparseImage{blocks: map[int64][]byte{}}
	buf, zero := make([]byte, sparseBlock), make([]byte, sparseBlock)
	for {
		n, err := io.ReadFull(z, buf)
		if !bytes.Equal(buf[:n], zero[:n]) {
			s.blocks[s.size/sparseBlock] = bytes.Clone(buf[:n])
		}
		s.size += int64(n)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return s, nil
		case err != nil:
			return nil, err
		}
	}
}

// kernelCounts returns how many files Linux found in each image that it mounted, the root included.
func kernelCounts(t *testing.T, root string) map[string]int {
	b, err := os.ReadFile(filepath.Join(root, "MANIFEST.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for line := range strings.Lines(string(b)) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		for f := range strings.SplitSeq(fields[len(fields)-1], ",") {
			if v, ok := strings.CutPrefix(f, "files="); ok && v != "-" {
				n, err := strconv.Atoi(v)
				if err != nil {
					t.Fatalf("%s: %v", fields[0], err)
				}
				out[fields[0]] = n
			}
		}
	}
	return out
}

// TestCorpus reads every FAT image of the corpus within 10 seconds and 256 MB (F1), and has as many files as Linux has. All of them are clean to fsck.fat, or have a flag or label that it minds, so all files must be read.
func TestCorpus(t *testing.T) {
	root := os.Getenv("SALLYPORT_CORPUS")
	if root == "" {
		fmt.Fprintln(os.Stderr, "*** NOT RUN: SALLYPORT_CORPUS is not set, so no FAT image of other projects was read ***")
		t.Skip("SALLYPORT_CORPUS is not set: NO IMAGE OF THE CORPUS WAS READ")
	}
	t.Parallel()
	kernel := kernelCounts(t, root)
	n := 0
	err := filepath.WalkDir(filepath.Join(root, "fat"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		image, err := unpack(path)
		if err != nil {
			return err
		}
		n++
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		fsys, err := Open(image, image.size)
		if err != nil {
			t.Errorf("%s: %v", rel, err)
			return nil
		}
		files, bad := contents(fsys)
		runtime.ReadMemStats(&after)
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("%s: took %v", rel, d)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 256<<20 {
			t.Errorf("%s: allocated %d MB", rel, n>>20)
		}
		// What can't be read is listed all the same; what was left out has a finding.
		left := 0
		for _, f := range fsys.Findings() {
			if f.Code == "duplicate-name" || f.Code == "bad-name" {
				left++
			}
		}
		if want, ok := kernel[rel]; !ok || want != len(files)+len(bad)+left {
			t.Errorf("%s: Linux has %d files, we %d, %d that can't be read and %d left out: %v", rel, want, len(files), len(bad), left, fsys.Findings())
		}
		if len(bad) > 0 {
			t.Errorf("%s: %v", rel, bad)
		}
		t.Logf("%s: %s %q, %d files, errors %v, findings %v", d.Name(), fsys.Name(), fsys.Label(), len(files), bad, fsys.Findings())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < 50 {
		t.Errorf("only %d images were read", n)
	}
}
