package bundle

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOutput: an image appears under its name, or takes the place of another, in one step; one that is given up leaves
// nothing; and while it is made nothing has a name, or, where the file system wants one, a hidden one.
func TestOutput(t *testing.T) {
	const size = 3 * BlockSize
	made := bytes.Repeat([]byte("new."), size/4)
	for _, unnamed := range []bool{true, false} {
		for _, replace := range []bool{true, false} {
			for _, keep := range []bool{true, false} {
				t.Run(fmt.Sprintf("unnamed %t, replace %t, keep %t", unnamed, replace, keep), func(t *testing.T) {
					dir := t.TempDir()
					path := filepath.Join(dir, "image.iso")
					var before []byte
					if replace {
						before = []byte("old")
						if err := os.WriteFile(path, before, 0o600); err != nil {
							t.Fatal(err)
						}
					}
					want := fileNames(t, dir)
					open := createImage
					if !unnamed {
						open = createNamed
					}
					img, err := open(path, size)
					if err != nil {
						t.Fatal(err)
					}
					if got := fileNames(t, dir); unnamed && canTmpfile(t, dir) && len(got) != len(want) || !unnamed && len(got) != len(want)+1 {
						t.Errorf("in the making: %q", got)
					}
					if _, err := img.file.WriteAt(made, 0); err != nil {
						t.Fatal(err)
					}
					if keep {
						if err := img.commit(); err != nil {
							t.Fatal(err)
						}
						want, before = []string{"image.iso"}, made
					}
					img.discard()
					if got := fileNames(t, dir); fmt.Sprint(got) != fmt.Sprint(want) {
						t.Errorf("left: %q, want %q", got, want)
					}
					if got, _ := os.ReadFile(path); !bytes.Equal(got, before) {
						t.Errorf("the image begins with %.12q", got)
					}
				})
			}
		}
	}
}

// createNamed is createImage on a file system that has no files without names.
func createNamed(path string, size int64) (*image, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	img := &image{path: path, dir: dir}
	if err := img.openNamed(); err != nil {
		return nil, err
	}
	return img, img.reserve(size)
}

func canTmpfile(t *testing.T, dir string) bool {
	fd, err := unix.Open(dir, unix.O_RDWR|unix.O_TMPFILE, 0o600)
	if err != nil {
		t.Logf("%s has no files without names: %v", dir, err)
		return false
	}
	unix.Close(fd)
	return true
}

func fileNames(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = e.Name()
	}
	return names
}
