package exfat

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
	"strconv"
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
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}

// listTree has one line for each file and directory of a tree: path, size in bytes, SHA-256 and time of change, as `find` in a guest can print it; times are rounded down to a number of seconds. The root's line has neither time nor size; directories have no size.
func listTree(fsys fs.FS, seconds int64) ([]string, error) {
	var out []string
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		when := info.ModTime().Unix() / seconds * seconds
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

// sourceTree writes a tree with names and sizes that matter to exFAT. Every file ends in zeros.
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
		rng.Read(b[:size*2/3])
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
		when = when.Add(12345 * time.Second)
		if err := os.Chtimes(p, when, when); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{
		"UPPER.TXT", "lower.txt", "Mixed.Txt", "no_extension", "two.dots.tar.gz", "a name with spaces.txt", ".hidden", "ä ö ü ß.txt", "e\u0301 decomposed",
		"日本語の名前.txt", "ends with a dot.", "😀😀", strings.Repeat("n", 200) + ".long", strings.Repeat("ж", 120), strings.Repeat("a", 15), strings.Repeat("b", 30),
		"sub/file", "sub/deeper/and deeper/still/file.txt", "ends exactly13",
	} {
		put(name, []int{0, 1, cluster - 1, cluster, cluster + 1, 3*cluster + 7, 9 * cluster}[i%7])
	}
	for i := range files {
		put(fmt.Sprintf("many/file number %04d.dat", i), i%5)
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chtimes(path, when, when)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// sleuthTree is the tree of an image as fls and icat have it, in listTree's lines. fls has files of its own, in the root and with a dollar sign.
func sleuthTree(t *testing.T, image string) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(run(t, "fls", "-r", "-p", "-u", "-m", "", image)) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 11 {
			t.Fatalf("fls: %q", line)
		}
		name := strings.TrimPrefix(f[1], "/")
		if strings.HasPrefix(name, "$") || strings.Contains(name, "(Volume Label Entry)") {
			continue
		}
		when, err := strconv.ParseInt(f[8], 10, 64) // of its last change
		if err != nil {
			t.Fatalf("fls: %q", line)
		}
		if strings.HasPrefix(f[3], "d/") {
			out = append(out, fmt.Sprintf("%q dir %d", name, when))
			continue
		}
		b := run(t, "icat", image, f[2])
		out = append(out, fmt.Sprintf("%q %d %x %d", name, len(b), sha256.Sum256([]byte(b)), when))
	}
	slices.Sort(out)
	return out
}

// TestPeers fills volumes of mkfs.exfat: fsck.exfat approves of what was written, and the source, The Sleuth Kit and we have the same tree.
func TestPeers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		size    string
		cluster int
		files   int
		short   bool // some files weren't written to their end
	}{{"16M", 4096, 40, false}, {"16M", 4096, 300, true}, {"8M", 512, 40, false}, {"8M", 512, 40, true}, {"64M", 32768, 5, false}, {"128M", 131072, 5, true}} {
		image := filepath.Join(t.TempDir(), "image")
		run(t, "truncate", "-s", c.size, image)
		run(t, "mkfs.exfat", "-c", strconv.Itoa(c.cluster), "-L", "Läbel 😀", image)
		dir := sourceTree(t, c.cluster, c.files)
		w := newFiller(t, image)
		w.short = c.short
		w.fill(dir)
		run(t, "fsck.exfat", "-n", image)

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
			t.Errorf("clusters of %d: %v", c.cluster, err)
			continue
		}
		if fsys.Label() != "Läbel 😀" {
			t.Errorf("clusters of %d: label %q", c.cluster, fsys.Label())
		}
		got, err := listTree(fsys, 1)
		if err != nil {
			t.Errorf("clusters of %d: %v", c.cluster, err)
			continue
		}
		if len(got) != c.files+19+6 {
			t.Errorf("clusters of %d: %d entries", c.cluster, len(got))
		}
		source, err := listTree(os.DirFS(dir), 1)
		if err != nil {
			t.Fatal(err)
		}
		if diff := difference(source, got); diff != "" {
			t.Errorf("clusters of %d, source: %s", c.cluster, diff)
		}
		if x := fsys.Findings(); len(x) != 0 {
			t.Errorf("clusters of %d: %v", c.cluster, x)
		}
		if c.short { // icat shows what the medium has where nothing was written
			continue
		}
		// The Sleuth Kit leaves out the hundredths of seconds, of which there are up to 199.
		even, err := listTree(fsys, 2)
		if err != nil {
			t.Errorf("clusters of %d: %v", c.cluster, err)
		}
		if diff := difference(sleuthTree(t, image), even); diff != "" {
			t.Errorf("clusters of %d, The Sleuth Kit: %s", c.cluster, diff)
		}
	}
}

// TestSampleIsGood has fsck.exfat approve of the volume that the other tests damage.
func TestSampleIsGood(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, sample().b, 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "fsck.exfat", "-n", image)
}

// TestSectors has a volume of a device with sectors of 4,096 bytes, which mkfs.exfat makes of nothing else.
func TestSectors(t *testing.T) {
	t.Parallel()
	for _, sector := range []int{1024, 2048, 4096} {
		image := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(image, bigVol(sector, 600).b, 0o644); err != nil {
			t.Fatal(err)
		}
		dir := sourceTree(t, 1500, 40)
		newFiller(t, image).fill(dir)
		run(t, "fsck.exfat", "-n", image)
		want, err := listTree(os.DirFS(dir), 2)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		fsys, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Errorf("sectors of %d: %v", sector, err)
			continue
		}
		got, err := listTree(fsys, 2)
		if err != nil || len(fsys.Findings()) != 0 {
			t.Errorf("sectors of %d: %v, findings %v", sector, err, fsys.Findings())
		}
		if diff := difference(want, got); diff != "" {
			t.Errorf("sectors of %d, source: %s", sector, diff)
		}
		if diff := difference(sleuthTree(t, image), got); diff != "" {
			t.Errorf("sectors of %d, The Sleuth Kit: %s", sector, diff)
		}
	}
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

// TestMkfsSizes opens what mkfs.exfat makes of many sizes, without a finding: dump.exfat, blkid and we call it the same.
func TestMkfsSizes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ size, args string }{
		{"7M", ""}, {"8M", ""}, {"128M", ""}, {"256M", ""}, {"257M", ""}, {"1000M", ""}, {"4G", ""}, {"33G", ""}, {"256G", ""}, {"2T", ""}, {"300M", "-b 4K"}, {"300M", "-c 32M"}, {"8G", "-c 4K"}, {"200M", "-c 512"},
	} {
		image := filepath.Join(t.TempDir(), "image")
		run(t, "truncate", "-s", c.size, image)
		run(t, "mkfs.exfat", append(strings.Fields(c.args), "-L", "STICK", image)...)
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
		if entries, err := fsys.ReadDir("."); err != nil || len(entries) != 0 {
			t.Errorf("%s %s: %v, %v", c.size, c.args, entries, err)
		}
		got := fmt.Sprintf("%s %s", strings.ToLower(fsys.Name()), fsys.Label())
		want := strings.TrimSpace(run(t, "blkid", "-p", "-o", "value", "-s", "TYPE", image)) + " " + strings.TrimSpace(run(t, "blkid", "-p", "-o", "value", "-s", "LABEL", image))
		if got != want {
			t.Errorf("%s %s: %s, blkid: %s", c.size, c.args, got, want)
		}
		dump := strings.Fields(run(t, "dump.exfat", image))
		for what, n := range map[string]uint32{"Count:": fsys.clusters, "size:": uint32(fsys.cluster), "offset):": fsys.rootCluster} {
			if i := lastIndex(dump, what); i < 0 || dump[i+1] != strconv.Itoa(int(n)) {
				t.Errorf("%s %s: we have %d, dump.exfat: %q", c.size, c.args, n, dump)
			}
		}
		if x := fsys.Findings(); len(x) != 0 {
			t.Errorf("%s %s: %v", c.size, c.args, x)
		}
		f.Close()
	}
}

func lastIndex(words []string, word string) int {
	for i := len(words) - 2; i >= 0; i-- {
		if words[i] == word {
			return i
		}
	}
	return -1
}
