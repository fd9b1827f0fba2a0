package format

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// someTree makes a tree of what is hard for a file system: names of all lengths, short ones that others could get, many in
// the root and in a directory, files around a cluster's end, empty ones, holes.
func someTree(t *testing.T, links bool) string {
	t.Helper()
	dir := t.TempDir()
	at := time.Date(2026, 11, 22, 13, 14, 16, 0, time.UTC)
	put := func(name string, data []byte) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o640); err != nil {
			t.Fatal(err)
		}
		at = at.Add(2 * time.Second)
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 700 {
		put(fmt.Sprintf("a name that is too long for eight %d", i), []byte(strings.Repeat("x", i)))
		put(fmt.Sprintf("many/Other name %d.text", i), []byte{byte(i)})
	}
	for _, name := range []string{"short/ABCDEF~1.TXT", "short/abcdefgh.txt", "A.TXT", "b", "C", "D.E.F", ".hidden", "no-extension.", "d/e/f/g/h", strings.Repeat("long", 37), "größer", "🛂 pass", "sp ace", "plus+comma,[x]=;.y"} {
		put(strings.TrimSuffix(name, "."), []byte("this is "+name))
	}
	for _, n := range []int{0, 1, 511, 512, 513, 4095, 4096, 4097, 32768, 32769, 131072, 131073, 3<<20 + 5} {
		put("sizes/"+strconv.Itoa(n), bytes.Repeat([]byte("sallyport"), n/9+1)[:n])
	}
	hole := make([]byte, 5<<20)
	hole[0], hole[3<<20], hole[len(hole)-1] = 1, 2, 3
	put("sizes/hole", hole)
	put("sizes/zeros", make([]byte, 2<<20))
	if err := os.MkdirAll(filepath.Join(dir, "empty", "emptier"), 0o755); err != nil {
		t.Fatal(err)
	}
	if links {
		for target, name := range map[string]string{"../many": "empty/link", strings.Repeat("far/", 40): "empty/long link"} {
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// listed says a line of each file of a directory: kind, size, digest or target.
func listed(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	if err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			out[rel] = "directory"
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(name)
			out[rel] = "link to " + target
			return err
		default:
			b, err := os.ReadFile(name)
			out[rel] = fmt.Sprintf("file of %d, %x", len(b), sha256.Sum256(b))
			return err
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// recovered is the tree in a partition as strangers' programs have it.
func recovered(t *testing.T, kind Kind, part string) map[string]string {
	t.Helper()
	out := t.TempDir()
	if kind == Ext4 {
		run(t, "debugfs", "-R", "rdump / "+out, part)
		tree := listed(t, out)
		delete(tree, "lost+found")
		return tree
	}
	run(t, "tsk_recover", "-a", part, out)
	return listed(t, out)
}

// TestFill: what is in a file system is what was to be in it, to fsck and to The Sleuth Kit or debugfs.
func TestFill(t *testing.T) {
	for _, test := range []struct {
		kind  Kind
		block int
		size  int64
		fsck  []string
	}{
		{FAT32, 512, 128 << 20, []string{"fsck.fat", "-n"}},
		{FAT32, 4096, 512 << 20, []string{"fsck.fat", "-n"}},
		{FAT32, 512, 40 << 30, []string{"fsck.fat", "-n"}},
		{ExFAT, 512, 128 << 20, []string{"fsck.exfat", "-n"}},
		{ExFAT, 512, 40 << 30, []string{"fsck.exfat", "-n"}},
		{Ext4, 512, 128 << 20, []string{"e2fsck", "-fn"}},
		{Ext4, 4096, 40 << 30, []string{"e2fsck", "-fn"}},
	} {
		t.Run(fmt.Sprintf("%s %d MiB of %d", test.kind, test.size>>20, test.block), func(t *testing.T) {
			t.Parallel()
			dir := someTree(t, test.kind == Ext4)
			f, err := os.Create(filepath.Join(t.TempDir(), "stick"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := Build(t.Context(), f, test.size, test.block, Volume{test.kind, "OUT", id}, Tree{os.DirFS(dir), dir}); err != nil {
				t.Fatal(err)
			}
			part := partition(t, f, test.size, test.block)
			out := run(t, test.fsck[0], append(test.fsck[1:], part)...)
			for _, word := range []string{"WARNING", "warning", "differ", "ERROR", "Fix", "corrupt", "wrong", "ninitialized", "suspicious", "Bad"} {
				if strings.Contains(out, word) {
					t.Errorf("%s says %q\n%s", test.fsck[0], word, out)
				}
			}
			if test.size > 1<<30 { // The Sleuth Kit takes a minute for it
				return
			}
			got, want := recovered(t, test.kind, part), listed(t, dir)
			for name, line := range want {
				if left := got[name] == "" && test.kind != Ext4; left && (line == "directory" || strings.HasPrefix(line, "file of 0,")) {
					continue // tsk_recover makes none of these; fls has them
				}
				if got[name] != line {
					t.Errorf("%q is %q, want %q", name, got[name], line)
				}
			}
			for name := range got {
				if want[name] == "" && !strings.HasPrefix(name, "$") {
					t.Errorf("%q is there", name)
				}
			}
			if test.kind != Ext4 {
				times(t, part, dir)
			}
		})
	}
}

// times compares what fls has for names, sizes and times.
func times(t *testing.T, part, dir string) {
	t.Helper()
	seen := map[string]bool{}
	for line := range strings.Lines(run(t, "fls", "-r", "-p", "-m", "", part)) {
		field := strings.Split(strings.TrimSpace(line), "|")
		name := strings.TrimPrefix(field[1], "/")
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || seen[name] {
			if !strings.HasPrefix(name, "$") && !strings.HasPrefix(name, "OUT ") {
				t.Errorf("%q is there", name)
			}
			continue
		}
		seen[name] = true
		if size := fmt.Sprint(info.Size()); !info.IsDir() && field[6] != size {
			t.Errorf("%s has %s bytes, want %s", name, field[6], size)
		}
		if want := fmt.Sprint(info.ModTime().Unix() / 2 * 2); !info.IsDir() && field[8] != want {
			t.Errorf("%s has time %s, want %s", name, field[8], want)
		}
	}
	for name := range listed(t, dir) {
		if name != "." && !seen[name] {
			t.Errorf("%q isn't there", name)
		}
	}
}

// TestLongestName: names of all lengths, of which The Sleuth Kit loses the ends above 190.
func TestLongestName(t *testing.T) {
	tree := fstest.MapFS{}
	for n := 1; n <= 255; n++ {
		tree[fmt.Sprintf("%s%03d", strings.Repeat("l", n), n)[:n]] = &fstest.MapFile{ModTime: time.Unix(1e9, 0)}
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "stick"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Build(t.Context(), f, MinSize, 512, Volume{FAT32, "OUT", id}, Tree{FS: tree}); err != nil {
		t.Fatal(err)
	}
	part := partition(t, f, MinSize, 512)
	run(t, "fsck.fat", "-n", part)
	shown := map[string]bool{}
	for name := range strings.Lines(run(t, "mdir", "-b", "-i", part, "::/")) {
		shown[strings.TrimPrefix(strings.TrimSuffix(name, "\n"), "::/")] = true
	}
	for name := range tree {
		if !shown[name] {
			t.Errorf("%q isn't there", name)
		}
	}
}

// TestUnfit: all that a file system can't hold is told before anything is made.
func TestUnfit(t *testing.T) {
	file := func() *fstest.MapFile { return &fstest.MapFile{Mode: 0o644, ModTime: time.Unix(1e9, 0)} }
	bad := []string{"a:b", "con", "COM1.txt", "x.", "y ", " z", "q?", "Case", "cASE", "tab\t", "nul .x", strings.Repeat("ü", 256), "lpt².log"}
	tree := fstest.MapFS{"good": file(), strings.Repeat("ü", 255): file(), "link": {Mode: fs.ModeSymlink | 0o777, Data: []byte("good")}, "pipe": {Mode: fs.ModeNamedPipe}, "late": {ModTime: time.Date(2108, 1, 1, 0, 0, 0, 0, time.UTC)}}
	for _, name := range bad {
		tree["dir/"+name] = file()
	}
	for _, kind := range []Kind{FAT32, ExFAT} {
		err := Tree{FS: tree}.Fits(t.Context(), kind)
		unfit, ok := errors.AsType[*UnfitError](err)
		if !ok {
			t.Fatalf("%s: %v", kind, err)
		}
		var paths []string
		for _, p := range unfit.Problems {
			paths = append(paths, p.Path)
			if p.Path == "link" && p.Why != "a symbolic link" {
				t.Errorf("a link: %s", p.Why)
			}
		}
		want := []string{"late", "link", "pipe"}
		for _, name := range bad {
			if name != "Case" { // the other one of the two is told
				want = append(want, "dir/"+name)
			}
		}
		slices.Sort(want)
		slices.Sort(paths)
		if !slices.Equal(paths, want) {
			t.Errorf("%s can't hold %q, want %q", kind, paths, want)
		}
		f, err := os.Create(filepath.Join(t.TempDir(), "stick"))
		if err != nil {
			t.Fatal(err)
		}
		if err := Build(t.Context(), f, MinSize, 512, Volume{Kind: kind}, Tree{FS: tree}); !errors.As(err, &unfit) {
			t.Errorf("%s is built: %v", kind, err)
		}
		f.Close()
	}
	large := &largeFile{MapFS: fstest.MapFS{"large": file()}, size: 1 << 32}
	if err := (Tree{FS: large}).Fits(t.Context(), FAT32); err == nil || !strings.Contains(err.Error(), "4294967296 bytes, at most 4294967295") {
		t.Errorf("4 GiB on FAT32: %v", err)
	}
	if err := (Tree{FS: large}).Fits(t.Context(), ExFAT); err != nil {
		t.Errorf("4 GiB on exFAT: %v", err)
	}
	for name, mtime := range map[string]time.Time{"lost+found": time.Unix(1, 0), "late": time.Unix(1<<31, 0)} {
		if err := (Tree{FS: fstest.MapFS{name: {ModTime: mtime}}, Dir: "/"}).Fits(t.Context(), Ext4); err == nil || !strings.Contains(err.Error(), "can't hold \""+name) {
			t.Errorf("%s on ext4: %v", name, err)
		}
	}
	many := fstest.MapFS{}
	for i := range 16000 {
		many[fmt.Sprintf("many/%d a name of three entries", i)] = file()
	}
	if err := (Tree{FS: many}).Fits(t.Context(), FAT32); err != nil {
		t.Error(err)
	}
	for i := range 800 {
		many[fmt.Sprintf("many/%d a name of three entries", i+16000)] = file()
	}
	if err := (Tree{FS: many}).Fits(t.Context(), FAT32); err == nil || !strings.Contains(err.Error(), "so many names") {
		t.Errorf("66,202 entries: %v", err)
	}
}

// largeFile says that its files are of a size.
type largeFile struct {
	fstest.MapFS
	size int64
}

func (l *largeFile) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := l.MapFS.ReadDir(name)
	for i := range entries {
		entries[i] = sized{entries[i], l.size}
	}
	return entries, err
}

type sized struct {
	fs.DirEntry
	size int64
}

func (s sized) Info() (fs.FileInfo, error) {
	info, err := s.DirEntry.Info()
	return sizedInfo{info, s.size}, err
}

type sizedInfo struct {
	fs.FileInfo
	size int64
}

func (s sizedInfo) Size() int64 { return s.size }

// TestFull: what has no room is refused with the numbers, and a file that isn't what it was planned as is an error.
func TestFull(t *testing.T) {
	for _, kind := range Kinds {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "large"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, "large"), MinSize); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filepath.Join(t.TempDir(), "stick"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		err = Build(t.Context(), f, MinSize, 512, Volume{Kind: kind}, Tree{os.DirFS(dir), dir})
		if full, ok := errors.AsType[*FullError](err); !ok || full.Need < MinSize || full.Have > MinSize || full.Have < MinSize/2 {
			t.Errorf("%s: %v", kind, err)
		}
		if kind == Ext4 {
			continue
		}
		for _, size := range []int64{0, 2} { // the file has one byte
			changed := &largeFile{MapFS: fstest.MapFS{"x": {Data: []byte("1")}}, size: size}
			if err := f.Truncate(0); err != nil {
				t.Fatal(err)
			}
			if err := Build(t.Context(), f, MinSize, 512, Volume{Kind: kind}, Tree{FS: changed}); err == nil || !strings.Contains(err.Error(), "has changed") {
				t.Errorf("%s: a file of another size: %v", kind, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := Build(ctx, f, MinSize, 512, Volume{Kind: kind}, Tree{os.DirFS(dir), dir}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: cancelled: %v", kind, err)
		}
	}
}
