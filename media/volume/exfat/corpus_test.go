package exfat

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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

// corpus is what is wrong with each image: how many files and directories there are with the root, how many of them can't be read, and the codes of what is found. Each is made to have fsck.exfat find something.
var corpus = map[string]struct {
	files, bad int
	codes      string
}{
	"bad_bitmap":              {12, 0, "not-allocated"},
	"bad_bitmap_size":         {1, 0, "bitmap"},
	"bad_dentries":            {41, 3, "bad-entry-set dirty entry-checksum name-characters name-hash orphan-entry unknown-entry"},
	"bad_dentries2":           {12, 0, "bad-entry-set behind-end orphan-entry vendor-data"},
	"bad_file_size":           {12, 1, "chain-slack"},
	"bad_first_clu":           {8, 2, "entry-checksum"},
	"bad_num_chain":           {12, 2, ""},
	"bad_root":                {91, 1, "bad-entry-set entry-checksum not-allocated"},
	"bs_bad_csum":             {0, 0, "boot region's checksum is wrong; that of its copy is right"},
	"de_bad_csum":             {5, 1, "dirty entry-checksum"},
	"duplicate_clu":           {12, 1, ""},
	"duplicated_name":         {4, 0, "duplicate-name"},
	"file_invalid_clus":       {13, 4, "chain-end entry-checksum"},
	"invalid_name":            {40, 0, "bad-name name-characters"},
	"large_file_invalid_clus": {2, 1, ""},
	"loop_chain":              {12, 1, "chain-slack"},
	"unused-dentries":         {468, 0, "behind-end"},
}

// TestCorpus reads every exFAT image of the corpus within 10 seconds and 256 MB (F1), and tells what is wrong with it.
func TestCorpus(t *testing.T) {
	root := os.Getenv("SALLYPORT_CORPUS")
	if root == "" {
		fmt.Fprintln(os.Stderr, "*** NOT RUN: SALLYPORT_CORPUS is not set, so no exFAT image of other projects was read ***")
		t.Skip("SALLYPORT_CORPUS is not set: NO IMAGE OF THE CORPUS WAS READ")
	}
	n := 0
	err := filepath.WalkDir(filepath.Join(root, "exfat"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		image, size := unpack(t, path)
		defer image.Close()
		n++
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		fsys, err := Open(image, size)
		var files map[string]string
		var bad map[string]error
		if err == nil {
			files, bad = contents(fsys)
		}
		runtime.ReadMemStats(&after)
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("%s: took %v", path, d)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 256<<20 {
			t.Errorf("%s: allocated %d MB", path, n>>20)
		}
		name, _, _ := strings.Cut(d.Name(), "--")
		want, ok := corpus[name]
		switch {
		case !ok:
			t.Errorf("%s isn't known here", path)
		case err != nil:
			if want.files != 0 || !strings.Contains(err.Error(), want.codes) {
				t.Errorf("%s: %v", name, err)
			}
		case len(files)+len(bad) != want.files || len(bad) != want.bad || codes(fsys) != want.codes:
			t.Errorf("%s: %d files and %d that can't be read, want %d and %d: %v, findings %v", name, len(files), len(bad), want.files-want.bad, want.bad, bad, fsys.Findings())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n != len(corpus) {
		t.Errorf("%d images were read", n)
	}
}
