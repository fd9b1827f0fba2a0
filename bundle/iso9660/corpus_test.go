package iso9660

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// corpusImages unpacks the corpus's images; without the corpus the test says so loudly and is skipped.
func corpusImages(t *testing.T) map[string]string {
	root := os.Getenv("SALLYPORT_CORPUS")
	if root == "" {
		fmt.Fprintln(os.Stderr, "*** NOT RUN: SALLYPORT_CORPUS is not set, so no ISO image of other projects was read ***")
		t.Skip("SALLYPORT_CORPUS is not set: NO IMAGE OF THE CORPUS WAS READ")
	}
	out := map[string]string{}
	dir := t.TempDir()
	base := filepath.Join(root, "iso")
	err := filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(base, path)
		if err != nil {
			return err
		}
		dst := filepath.Join(dir, strings.ReplaceAll(strings.TrimSuffix(name, ".gz"), "/", "_"))
		out[name] = dst
		return unpack(path, dst)
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func unpack(path, dst string) error {
	unzip := "cat"
	if strings.HasSuffix(path, ".gz") {
		unzip = "gzip -dc"
	}
	out, err := exec.Command("bash", "-ec", unzip+` "$1" > "$2"`, "-", path, dst).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, out)
	}
	return nil
}

// TestCorpus reads every image of the corpus within 10 seconds and 256 MB (F1). Where two stock tools agree on a tree, so do we: on paths, kinds, sizes and contents when bsdtar and xorriso do, on paths when isoinfo and one of them do.
func TestCorpus(t *testing.T) {
	t.Parallel()
	images := corpusImages(t)
	kernel := kernelCounts(t)
	full, names := 0, 0
	for _, name := range slices.Sorted(mapsKeys(images)) {
		image := images[name]
		tree, view, err := readBounded(t, name, image)
		if n, ok := kernel["iso/"+name]; !ok {
			t.Errorf("%s: nothing about Linux in the corpus's list", name)
		} else if err == nil && n != len(tree) {
			t.Errorf("%s: Linux sees %d files, we %d", name, n, len(tree))
		}
		hangs := strings.Contains(name, "rockridge_ce_loop")
		if hangs {
			if err == nil {
				t.Errorf("%s: a loop of continuation areas was read", name)
			}
			continue // bsdtar and xorriso hang on it, isoinfo crashes
		}
		bt, berr := bsdtarTree(t, image)
		xt, xerr := xorrisoTree(t, image)
		args := map[View][]string{ViewRockRidge: {"-R"}, ViewJoliet: {"-J"}}[view]
		in, ierr := isoinfoNames(t, image, args...)
		if view == ViewISO9660 {
			for i := range in {
				in[i] = strings.TrimSuffix(strings.TrimSuffix(in[i], ";1"), ".")
			}
			slices.Sort(in)
		}
		switch {
		case berr == nil && xerr == nil && sameContents(bt, xt):
			full++
			if err != nil && !onlyCompressed(err) {
				t.Errorf("%s: bsdtar and xorriso agree on it, we: %v", name, err)
				continue
			}
			compareTrees(t, name+": bsdtar", bt, "ours", tree, func(path string, s seen) seen {
				s = contents(path, s)
				if onlyCompressed(err) {
					s = seen{kind: s.kind} // they uncompress, we refuse to open
				}
				return s
			})
		case berr == nil && xerr == nil && slices.Equal(paths(bt), paths(xt)),
			berr == nil && ierr == nil && slices.Equal(paths(bt), in):
			names++
			if !slices.Equal(paths(bt), paths(tree)) {
				t.Errorf("%s: two tools have %q, we %q (%v)", name, paths(bt), paths(tree), err)
			}
		case xerr == nil && ierr == nil && slices.Equal(paths(xt), in):
			names++
			if !slices.Equal(paths(xt), paths(tree)) {
				t.Errorf("%s: two tools have %q, we %q (%v)", name, paths(xt), paths(tree), err)
			}
		default:
			t.Logf("%s: the tools disagree: bsdtar %d %v, xorriso %d %v, isoinfo %d %v; ours %d %v", name, len(bt), berr, len(xt), xerr, len(in), ierr, len(tree), err)
		}
	}
	t.Logf("%d images; two tools agree on the contents of %d and on the names of %d more", len(images), full, names)
	if full < 15 || full+names < 24 || len(images) < 30 {
		t.Errorf("only %d and %d of %d images were compared", full, names, len(images))
	}
}

func mapsKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// kernelCounts returns how many files Linux found in each image that it mounted, the root included, -1 for one that it didn't mount.
func kernelCounts(t *testing.T) map[string]int {
	b, err := os.ReadFile(filepath.Join(os.Getenv("SALLYPORT_CORPUS"), "MANIFEST.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for line := range strings.Lines(string(b)) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		n := -1
		for f := range strings.SplitSeq(fields[len(fields)-1], ",") {
			if v, ok := strings.CutPrefix(f, "files="); ok && v != "-" {
				if n, err = strconv.Atoi(v); err != nil {
					t.Fatalf("%s: %v", fields[0], err)
				}
			}
		}
		out[fields[0]] = n
	}
	return out
}

// contents leaves out what a tool that extracts can't show.
func contents(path string, s seen) seen {
	s.mode, s.mtime = 0, 0
	return s
}

func sameContents(a, b map[string]seen) bool {
	if len(a) != len(b) {
		return false
	}
	for p := range a {
		if contents(p, a[p]) != contents(p, b[p]) {
			return false
		}
	}
	return true
}

func onlyCompressed(err error) bool {
	var f *FormatError
	return errors.As(err, &f) && f.Msg == badCompressed.String()
}

// readBounded reads a whole image and fails the test when that takes too long or too much memory. The tree holds what could be read.
func readBounded(t *testing.T, name, image string) (tree map[string]seen, view View, err error) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	fsys, err := Open(f, info.Size())
	if err == nil {
		view = fsys.View()
		tree, err = list(fsys)
	}
	strict := Strict(t.Context(), f, info.Size())
	runtime.ReadMemStats(&after)
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("%s: took %v", name, d)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 256<<20 {
		t.Errorf("%s: allocated %d MB", name, n>>20)
	}
	t.Logf("%s: %v, %d entries, %v; strict: %v", name, view, len(tree), err, strict)
	return tree, view, err
}

// list is ours, but goes on behind what can't be read and returns the first error.
func list(fsys fs.FS) (map[string]seen, error) {
	out := map[string]seen{}
	var first error
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			first = cmpErr(first, err)
			return nil
		}
		s := seen{kind: "dir"}
		switch info, err := d.Info(); {
		case err != nil:
			return err
		case info.Mode().Type() == fs.ModeSymlink:
			s.kind = "link"
			s.target, err = fs.ReadLink(fsys, path)
			first = cmpErr(first, err)
		case info.Mode().IsRegular():
			s.kind, s.size = "file", info.Size()
			s.sha, err = hashFile(fsys, path)
			first = cmpErr(first, err)
		}
		out[path] = s
		return nil
	})
	return out, cmpErr(first, err)
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
