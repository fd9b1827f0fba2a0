package fat

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// unpack makes a sparse file of an image of the corpus, by other programs: under the race detector Go needs a minute.
func unpack(t *testing.T, path string) (*os.File, int64) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "image")
	if out, err := exec.Command("bash", "-ec", `set -o pipefail; gzip -dc "$1" | cp --sparse=always /dev/stdin "$2"`, "-", path, to).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", path, err, out)
	}
	f, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return f, info.Size()
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
		image, size := unpack(t, path)
		defer image.Close()
		n++
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		fsys, err := Open(image, size)
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
