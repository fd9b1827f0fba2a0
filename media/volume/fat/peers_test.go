package fat

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// run calls a stock tool; without it the test fails.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		name = path
	} else if _, err := os.Stat("/usr/sbin/" + name); err == nil {
		name = "/usr/sbin/" + name
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC", "MTOOLSRC=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}

// listTree has one line for each file and directory of a tree: path, size in bytes, SHA-256 and time of change, as `find` in a guest can print it. The root's line has neither time nor size; directories have no size.
func listTree(fsys fs.FS) ([]string, error) {
	var out []string
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		when := info.ModTime().Unix() &^ 1
		if d.IsDir() {
			out = append(out, fmt.Sprintf("%q dir %d", path, when))
			return nil
		}
		f, err := fsys.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		n, err := io.Copy(h, f)
		if err != nil {
			return err
		}
		if n != info.Size() {
			return fmt.Errorf("%q: %d bytes of %d", path, n, info.Size())
		}
		out = append(out, fmt.Sprintf("%q %d %x %d", path, n, h.Sum(nil), when))
		return nil
	})
	slices.Sort(out)
	return out, err
}

// sourceTree writes a tree with names and sizes that matter to FAT. mtools writes no surrogates and composes what is decomposed, so names have neither.
func sourceTree(t *testing.T, cluster, files int) string {
	t.Helper()
	dir := t.TempDir()
	rng := rand.NewChaCha8([32]byte{1})
	when := time.Date(2024, 2, 29, 23, 59, 58, 0, time.UTC)
	put := func(name string, size int) {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, size)
		rng.Read(b)
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
		when = when.Add(12345 * time.Second)
		if err := os.Chtimes(p, when, when); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{
		"UPPER.TXT", "lower.txt", "Mixed.Txt", "lower.TXT2", "UPPER.low", "no_extension", "two.dots.tar.gz", "a name with spaces.txt",
		".hidden", "ä ö ü ß.txt", "日本語の名前.txt", strings.Repeat("n", 200) + ".long", strings.Repeat("ж", 120),
		"sub/file", "sub/deeper/and deeper/still/file.txt", "ends exactly13",
	} {
		put(name, []int{0, 1, cluster - 1, cluster, cluster + 1, 3*cluster + 7}[i%6])
	}
	for i := range files {
		put(fmt.Sprintf("many/file number %04d.dat", i), i%5)
	}
	return dir
}

// TestMtools has mtools write a tree, fsck.fat approve of it, and mtools read it back: we read the same.
func TestMtools(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		size    string
		cluster int
		files   int
		args    []string
	}{
		{"FAT12", "1440K", 512, 30, []string{"-F", "12"}},
		{"FAT12", "15M", 4096, 30, []string{"-F", "12", "-s", "8"}},
		{"FAT16", "16M", 2048, 300, []string{"-F", "16", "-s", "4", "-r", "512"}},
		{"FAT16", "300M", 32768, 30, []string{"-F", "16", "-s", "64"}},
		{"FAT32", "40M", 512, 400, []string{"-F", "32", "-s", "1"}},
		{"FAT32", "300M", 4096, 30, []string{"-F", "32", "-S", "4096", "-s", "1"}},
		{"FAT32", "40M", 512, 30, []string{"-F", "32", "-s", "1", "-f", "1"}},
	} {
		image := filepath.Join(t.TempDir(), "image")
		run(t, "truncate", "-s", c.size, image)
		run(t, "mkfs.fat", slices.Concat(c.args, []string{"-n", "LABEL", "--invariant", image})...)
		dir := sourceTree(t, c.cluster, c.files)
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		// A file that is removed again breaks up what comes after it.
		hole := filepath.Join(t.TempDir(), "hole")
		if err := os.WriteFile(hole, make([]byte, 5*c.cluster), 0o644); err != nil {
			t.Fatal(err)
		}
		run(t, "mcopy", "-i", image, hole, "::/HOLE1")
		args := []string{"-s", "-m", "-i", image}
		for _, e := range entries[:3] {
			args = append(args, filepath.Join(dir, e.Name()))
		}
		run(t, "mcopy", append(args, "::")...)
		run(t, "mdel", "-i", image, "::/HOLE1")
		args = args[:4]
		for _, e := range entries[3:] {
			args = append(args, filepath.Join(dir, e.Name()))
		}
		run(t, "mcopy", append(args, "::")...)
		run(t, "fsck.fat", "-n", image)
		back := t.TempDir()
		run(t, "mcopy", "-s", "-m", "-n", "-i", image, "::/*", back)

		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		fsys, err := Open(f, info.Size())
		if err != nil {
			t.Errorf("%v: %v", c.args, err)
			continue
		}
		if fsys.Name() != c.name || fsys.Label() != "LABEL" {
			t.Errorf("%v: %s with label %q", c.args, fsys.Name(), fsys.Label())
		}
		got, err := listTree(fsys)
		if err != nil {
			t.Errorf("%v: %v", c.args, err)
			continue
		}
		if len(got) < c.files+15 {
			t.Errorf("%v: only %d entries", c.args, len(got))
		}
		for what, d := range map[string]string{"source": dir, "mtools": back} {
			want, err := listTree(os.DirFS(d))
			if err != nil {
				t.Fatal(err)
			}
			// Neither keeps a directory's time.
			if diff := difference(withoutDirTimes(want), withoutDirTimes(got)); diff != "" {
				t.Errorf("%v, %s: %s", c.args, what, diff)
			}
		}
		// mkfs.fat rounds down to a track, and one FAT is what it was told.
		for _, x := range fsys.Findings() {
			if x.Code != "volume-slack" && !(x.Code == "fat-copies" && slices.Contains(c.args, "-f")) {
				t.Errorf("%v: %v", c.args, x)
			}
		}
	}
}

func withoutDirTimes(lines []string) []string {
	out := slices.Clone(lines)
	for i, l := range out {
		if p, _, ok := strings.Cut(l, " dir "); ok {
			out[i] = p + " dir"
		}
	}
	return out
}

func difference(want, got []string) string {
	var b bytes.Buffer
	for _, l := range want {
		if !slices.Contains(got, l) {
			fmt.Fprintf(&b, "\n- %s", l)
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			fmt.Fprintf(&b, "\n+ %s", l)
		}
	}
	return b.String()
}

// TestMkfsSizes opens what mkfs.fat makes at sizes around the borders between kinds: blkid and we call them the same.
func TestMkfsSizes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ size, args string }{
		{"64K", ""}, {"360K", ""}, {"1440K", ""}, {"2880K", ""}, {"4M", ""}, {"8M", ""}, {"2086K", "-s 1"}, {"2088K", "-s 1"}, {"16M", ""}, {"128M", ""}, {"513M", ""},
		{"33M", "-F 32 -s 1"}, {"8G", ""}, {"64G", ""},
	} {
		image := filepath.Join(t.TempDir(), "image")
		run(t, "truncate", "-s", c.size, image)
		run(t, "mkfs.fat", append(strings.Fields(c.args), image)...)
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		fsys, err := Open(f, info.Size())
		if err != nil {
			t.Errorf("%s %s: %v", c.size, c.args, err)
			f.Close()
			continue
		}
		want := strings.TrimSpace(run(t, "blkid", "-p", "-o", "value", "-s", "VERSION", image))
		if fsys.Name() != want {
			t.Errorf("%s %s: %s, blkid: %s", c.size, c.args, fsys.Name(), want)
		}
		for _, x := range fsys.Findings() {
			if x.Code != "volume-slack" && x.Code != "fat-sampled" {
				t.Errorf("%s: %v", c.size, x)
			}
		}
		f.Close()
	}
}
