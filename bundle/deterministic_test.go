package bundle

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"
)

func init() {
	children["prepare"] = func(t *testing.T) {
		mask, err := strconv.ParseInt(os.Getenv("BUNDLE_TEST_UMASK"), 8, 32)
		must(t, err)
		syscall.Umask(int(mask))
		must(t, os.Chdir(os.Getenv("BUNDLE_TEST_CWD")))
		d := openDir(t, os.Getenv("BUNDLE_TEST_FOLDER"))
		fmt.Printf("piped %x\n", sha256.Sum256(prepare(t, d, withRoots(2))))
		path := filepath.Join(t.TempDir(), "image")
		_, err = plan(t, d, withRoots(2)).WriteFile(t.Context(), path, nil)
		must(t, err)
		img, err := os.ReadFile(path)
		must(t, err)
		fmt.Printf("filed %x\n", sha256.Sum256(img))
	}
}

// TestDeterministic prepares the same payload from two folders that were made differently, in processes with another
// working folder, umask, time zone, locale, number of processors and folder for temporary files.
func TestDeterministic(t *testing.T) {
	m := hosted()
	want := fmt.Sprintf("%x", sha256.Sum256(prepare(t, m, withRoots(2))))
	first := hostFolder(t, m)
	second := filepath.Join(t.TempDir(), "another, deeper", "folder")
	must(t, os.MkdirAll(filepath.Dir(second), 0o755))
	must(t, copyBackwards(m, second))
	setTimes(t, m, second)
	for _, c := range []struct{ folder, cwd, umask, tz, locale, procs string }{
		{first, "/", "022", "UTC", "C", "1"},
		{second, second, "000", "Asia/Kathmandu", "tr_TR.UTF-8", "2"},
		{first, first, "077", "America/St_Johns", "de_DE.UTF-8", "7"},
	} {
		out := child(t, "prepare", "BUNDLE_TEST_FOLDER="+c.folder, "BUNDLE_TEST_CWD="+c.cwd, "BUNDLE_TEST_UMASK="+c.umask,
			"TZ="+c.tz, "LC_ALL="+c.locale, "LANG="+c.locale, "GOMAXPROCS="+c.procs, "TMPDIR="+t.TempDir(), "USER=nobody", "HOSTNAME=x", "SOURCE_DATE_EPOCH=1")
		for _, how := range []string{"piped", "filed"} {
			if !strings.Contains(out, how+" "+want+"\n") {
				t.Errorf("%+v: %s, want %s %s", c, out, how, want)
			}
		}
	}
}

// copyBackwards makes the tree with the last name first.
func copyBackwards(m fstest.MapFS, base string) error {
	var paths []string
	for path := range m {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	slices.Reverse(paths)
	for _, path := range paths {
		name, f := filepath.Join(base, path), m[path]
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		var err error
		switch f.Mode.Type() {
		case fs.ModeDir:
			err = os.MkdirAll(name, 0o755)
		case fs.ModeSymlink:
			err = os.Symlink(string(f.Data), name)
		default:
			err = os.WriteFile(name, f.Data, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// TestOrderAndClock: neither the order in which folders are listed nor the clock nor the number of processors shows.
func TestOrderAndClock(t *testing.T) {
	want := prepare(t, rich(), withRoots(2))
	for i := range uint64(5) {
		rnd := rand.New(rand.NewPCG(i, 0))
		if got := prepare(t, shuffled{rich(), rnd}, withRoots(2)); !bytes.Equal(got, want) {
			t.Errorf("shuffled, the image differs at byte %d", firstDifference(got, want))
		}
	}
	synctest.Test(t, func(t *testing.T) { // its clock begins in the year 2000
		opt := withRoots(2)
		opt.Epoch = nil
		early := prepare(t, rich(), opt)
		time.Sleep(200 * 365 * 24 * time.Hour)
		if got := prepare(t, rich(), opt); !bytes.Equal(got, early) {
			t.Errorf("200 years later, the image differs at byte %d", firstDifference(got, early))
		}
		if got := prepare(t, rich(), withRoots(2)); !bytes.Equal(got, want) {
			t.Errorf("by another clock, the image differs at byte %d", firstDifference(got, want))
		}
	})
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, n := range []int{1, 3, 8} {
		runtime.GOMAXPROCS(n)
		if got := prepare(t, rich(), withRoots(2)); !bytes.Equal(got, want) {
			t.Errorf("%d processors: the image differs at byte %d", n, firstDifference(got, want))
		}
	}
}

type shuffled struct {
	fstest.MapFS
	rnd *rand.Rand
}

func (s shuffled) ReadDir(path string) ([]fs.DirEntry, error) {
	list, err := s.MapFS.ReadDir(path)
	s.rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list, err
}

// TestGolden: the bytes of profile 1 never change. Whoever must change this file makes profile 2.
func TestGolden(t *testing.T) {
	var got strings.Builder
	for _, c := range []struct {
		name  string
		fsys  fs.FS
		roots int
	}{{"tiny", tiny(), 0}, {"tiny", tiny(), 24}, {"rich", rich(), 0}, {"rich", rich(), 2}, {"rich", rich(), 24}} {
		img := prepare(t, c.fsys, withRoots(c.roots))
		fmt.Fprintf(&got, "%s, %d roots: image %x, seal %x, signed image", c.name, c.roots, sha256.Sum256(img), Digest(messageOf(t, img)))
		fmt.Fprintf(&got, " %x\n", sha256.Sum256(sign(t, img, "alice", "bob", "carol")))
	}
	want, err := os.ReadFile("testdata/golden.txt")
	must(t, err)
	if got.String() != string(want) {
		t.Errorf("the images are\n%sand were\n%s", got.String(), want)
	}
}
