package ext

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDamageDirectories(t *testing.T) {
	// inEntry changes an entry and makes the checksum of its directory's block right; what is found is at byte at of it.
	inEntry := func(name string, at int64, change func(b []byte)) func(v vol) int64 {
		return func(v vol) int64 {
			off, b := v.entry(name)
			change(b)
			v.sealBlock(path.Dir(name), off)
			return off + at
		}
	}
	first := func(dir string, at int64, change func(b []byte)) func(v vol) int64 {
		return func(v vol) int64 {
			off := v.place(dir, 0)
			change(v.b[off:])
			v.sealBlock(dir, off)
			return off + at
		}
	}
	link := func(name string, to uint32) func(v vol) int64 {
		return func(v vol) int64 { return v.link(name, to) }
	}
	to := func(name, other string) func(v vol) int64 {
		return func(v vol) int64 { return v.link(name, v.node(other).number) }
	}
	rename := func(name string) func(b []byte) { return func(b []byte) { copy(b[8:], name) } }
	noTypes := []string{"-t", "ext2", "-O", "^resize_inode,^ext_attr,^filetype"}
	for _, c := range []damage{
		{"checksum", checked, func(v vol) int64 { off := v.place("sub", 0); v.b[off+8]++; return off + 1020 }, "sub", "checksum of a block of the directory", ""},
		{"no checksum", checked, func(v vol) int64 { off := v.place("sub", 0); v.b[off+1019]++; return off }, "sub", "has no checksum", ""},
		{"entry of 0 bytes", uncheckd, inEntry("sub/b.txt", 0, func(b []byte) { le.PutUint16(b[4:], 0) }), "sub", "entry has 0 bytes", ""},
		{"entry of 8 bytes", uncheckd, inEntry("sub/b.txt", 0, func(b []byte) { le.PutUint16(b[4:], 8) }), "sub", "entry has 8 bytes", ""},
		{"entry of 18 bytes", uncheckd, inEntry("sub/b.txt", 0, func(b []byte) { le.PutUint16(b[4:], 18) }), "sub", "entry has 18 bytes", ""},
		{"entry over the end", uncheckd, inEntry("sub/b.txt", 0, func(b []byte) { le.PutUint16(b[4:], 1024) }), "sub", "entry has 1024 bytes of", ""},
		{"entry of 64 KiB", uncheckd, inEntry("sub/b.txt", 0, func(b []byte) { le.PutUint16(b[4:], 0xFFFF) }), "sub", "entry has 65535 bytes of", ""},
		{"end within an entry", uncheckd, first("lost+found", 1016, func(b []byte) { le.PutUint16(b[16:], 1004) }), "lost+found", "ends within an entry", ""},
		{"name longer than its entry", checked, inEntry("sub/b.txt", 0, func(b []byte) { b[6] = byte(le.Uint16(b[4:])) - 7 }), "sub", "has a name of", ""},
		{"name longer than they can be", noTypes, inEntry("sub/deep", 0, func(b []byte) { le.PutUint16(b[6:], 256) }), "sub", "has a name of 256", ""},
		{"dot of another", checked, first("sub", 0, func(b []byte) { b[0]++ }), "sub", `the entry "." isn't`, ""},
		{"dot twice", checked, first("sub", 12, func(b []byte) { copy(b[12:16], b); b[18] = 1 }), "sub", `the entry "." isn't`, ""},
		{"no dot", checked, func(v vol) int64 { first("sub", 0, func(b []byte) { clear(b[:4]) })(v); return v.node("sub").off }, "sub", "lacks . or ..", ""},
		{"no dots", checked, func(v vol) int64 { first("sub", 0, func(b []byte) { clear(b[12:16]) })(v); return v.node("sub").off }, "sub", "lacks . or ..", ""},
		{"inode of the volume's own", checked, link("empty", 7), "empty", "inode 7 is none", "bad-inode"},
		{"inode behind the last", checked, link("empty", 65), "empty", "inode 65 is none", "bad-inode"},
		{"inode far behind the last", checked, link("empty", 1<<32-1), "empty", "inode 4294967295 is none", "bad-inode"},
		{"inode that isn't used", uncheckd, func(v vol) int64 {
			v.link("empty", 64)
			return v.node("hello.txt").off/256*256 + int64(64-v.node("hello.txt").number)*256 + 26
		}, "empty", "was deleted", "bad-inode"},
		{"inode of 0", uncheckd, func(v vol) int64 { v.link("empty", 0); return -1 }, "-", "", ""},
		{"type", checked, inEntry("empty", 0, func(b []byte) { b[7] = 2 }), "", "of the type 2, and it is -rw", "type-differs"},
		{"a type that isn't known", checked, inEntry("empty", 0, func(b []byte) { b[7] = 99 }), "", "of the type 99", "type-differs"},
		{"no type", checked, func(v vol) int64 { inEntry("empty", 0, func(b []byte) { b[7] = 0 })(v); return -1 }, "", "", ""},
		{"a name twice", checked, inEntry("other", 0, rename("empty")), "-", "has this name twice", "duplicate-name"},
		{"slash in a name", checked, inEntry("other", 0, rename("a/b..")), "-", `the name "a/b.." can't be shown`, "bad-name"},
		{"NUL in a name", checked, inEntry("other", 0, rename("a\x00b")), "-", "can't be shown", "bad-name"},
		{"no UTF-8", checked, inEntry("other", 0, rename("\xff")), "-", "can't be shown", "bad-name"},
		{"no name", checked, inEntry("other", 0, func(b []byte) { b[6] = 0 }), "-", "can't be shown", "bad-name"},
		{"the root directory below itself", checked, link("other", rootInode), "other", "stands in two places", "directory-twice"},
		{"the root directory below another", checked, link("sub/deep", rootInode), "sub/deep", "stands in two places", "directory-twice"},
		{"a directory below itself", checked, to("sub/deep", "sub"), "sub/deep", "stands in two places", "directory-twice"},
		{"a directory in two others", checked, to("sub/deep", "other"), "sub/deep", "stands in two places", "directory-twice"},
	} {
		c.run(t)
	}
}

// TestTwiceInOne has two names for a directory in one directory; mke2fs has put "sub" behind the other.
func TestTwiceInOne(t *testing.T) {
	v := sample(t, checked)
	a, _ := v.entry("sub")
	b, _ := v.entry("other")
	keeps, loses, n := "sub", "other", v.node("sub").number
	if b < a {
		keeps, loses, n = "other", "sub", v.node("other").number
	}
	off := v.link(loses, n)
	fsys, err := v.open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fsys.ReadDir(keeps); err != nil {
		t.Error(err)
	}
	_, err = fsys.ReadDir(loses)
	refused(t, "two names of a directory", err, loses, off, "stands in two places")
}

// TestNames has what is left out, and what stays.
func TestNames(t *testing.T) {
	v := sample(t, checked)
	off, b := v.entry("other")
	copy(b[8:], "empty")
	v.sealBlock(".", off)
	fsys, err := v.open()
	if err != nil {
		t.Fatal(err)
	}
	other, _ := v.entry("empty")
	first, err := fsys.lookup("find", "empty")
	if err != nil || first.off != min(off, other) {
		t.Errorf("the first of two names is at %d, not %d: %v", first.off, min(off, other), err)
	}
	if got := fsys.Findings(); len(got) != 1 || got[0].Path != "empty" || got[0].Offset != max(off, other) {
		t.Errorf("%v", got)
	}
}

// TestHashTree damages the tree over hashes that e2fsck makes of a large directory.
func TestHashTree(t *testing.T) {
	dir := t.TempDir()
	for i := range 200 {
		if err := os.MkdirAll(filepath.Join(dir, "tree/many"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "tree/many", fmt.Sprintf("a long name of a file, number %d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(dir, "image")
	tool(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "^has_journal", "-d", filepath.Join(dir, "tree"), image, "2M")
	if out, err := exec.Command("e2fsck", "-fyD", image).CombinedOutput(); err != nil && err.(*exec.ExitError).ExitCode() != 1 {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	good := vol{t: t, b: data}
	if good.f, err = good.open(); err != nil {
		t.Fatal(err)
	}
	many := good.node("many")
	node := good.place("many", 0)
	if many.flags&flagIndex == 0 {
		t.Fatal("there is no tree over hashes")
	}
	if got, err := good.f.ReadDir("many"); err != nil || len(got) != 200 {
		t.Fatalf("%d files, %v", len(got), err)
	}
	for _, c := range []struct {
		name   string
		change func(b []byte)
		off    int64
		why    string
	}{
		{"an entry", func(b []byte) { b[44]++ }, 1020, "checksum of a block of the directory is"},
		{"the checksum", func(b []byte) { b[1023]++ }, 1020, "checksum of a block of the directory is"},
		{"more entries than most", func(b []byte) { le.PutUint16(b[34:], le.Uint16(b[32:])+1) }, 32, "a tree over hashes has"},
		{"more entries than fit", func(b []byte) { le.PutUint16(b[32:], 1000) }, 32, "a tree over hashes has"},
		{"no node", func(b []byte) { b[29] = 7 }, 0, "has no checksum"},
	} {
		v := vol{t: t, b: bytes.Clone(data)}
		c.change(v.b[node:])
		fsys, err := v.open()
		if err != nil {
			t.Fatal(err)
		}
		_, err = fsys.ReadDir("many")
		refused(t, c.name, err, "many", node+c.off, c.why)
	}
	// Where the directory was one block before, Linux leaves the end of that one beside the tree's own checksum.
	linux := vol{t: t, b: bytes.Clone(data)}
	root := linux.b[node:][:1024]
	copy(root[1012:], []byte{0, 0, 0, 0, 12, 0, 0, tailType})
	count := 32 + 8*int(le.Uint16(root[34:]))
	digest := sum(sum(sum(many.seed, root[:count]), root[1016:1020]), make([]byte, 4))
	le.PutUint32(root[1020:], digest)
	fsys, err := linux.open()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := fsys.ReadDir("many"); err != nil || len(got) != 200 {
		t.Errorf("as Linux leaves it: %d files, %v", len(got), err)
	}
	// Without the flag there is no tree, and the block lacks the checksum that it has to have.
	v := vol{t: t, b: bytes.Clone(data), f: good.f}
	b := v.inode("many")
	le.PutUint32(b[32:], many.flags&^flagIndex)
	v.sealInode("many")
	if fsys, err = v.open(); err != nil {
		t.Fatal(err)
	}
	_, err = fsys.ReadDir("many")
	refused(t, "no flag", err, "many", node, "has no checksum")
}

// TestTimes has times of all that the two bits of the epoch tell of, set with debugfs.
func TestTimes(t *testing.T) {
	v := sample(t, checked)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, v.b, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		seconds, extra uint32
		want           time.Time
	}{
		{0, 0, time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)},
		{1<<32 - 1, 0, time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC)},
		{1 << 31, 0, time.Date(1901, 12, 13, 20, 45, 52, 0, time.UTC)},
		{1<<31 - 1, 0, time.Date(2038, 1, 19, 3, 14, 7, 0, time.UTC)},
		{1 << 31, 1, time.Date(2038, 1, 19, 3, 14, 8, 0, time.UTC)},
		{0, 1, time.Date(2106, 2, 7, 6, 28, 16, 0, time.UTC)},
		{1 << 31, 2, time.Date(2174, 2, 25, 9, 42, 24, 0, time.UTC)},
		{0, 2, time.Date(2242, 3, 16, 12, 56, 32, 0, time.UTC)},
		{1 << 31, 3, time.Date(2310, 4, 4, 16, 10, 40, 0, time.UTC)},
		{1<<31 - 1, 3, time.Date(2446, 5, 10, 22, 38, 55, 0, time.UTC)},
		{1_700_000_000, 999_999_999 << 2, time.Unix(1_700_000_000, 999_999_999)},
		{1_700_000_000, 1_000_000_000 << 2, time.Unix(1_700_000_000, 0)}, // there is no such nanosecond
	} {
		tool(t, "debugfs", "-w", "-R", fmt.Sprintf("set_inode_field hello.txt mtime_lo 0x%x", c.seconds), image)
		tool(t, "debugfs", "-w", "-R", fmt.Sprintf("set_inode_field hello.txt mtime_extra 0x%x", c.extra), image)
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		fsys, err := Open(f, volSize)
		if err != nil {
			t.Fatal(err)
		}
		info, err := fsys.Stat("hello.txt")
		if err != nil {
			t.Fatal(err)
		}
		if !info.ModTime().Equal(c.want) {
			t.Errorf("%#x, %#x: %v, want %v", c.seconds, c.extra, info.ModTime().UTC(), c.want.UTC())
		}
		f.Close()
	}
	// Inodes that lack the bytes don't have the bits.
	b := v.inode("hello.txt")
	le.PutUint32(b[16:], 1<<31)
	le.PutUint32(b[136:], 1)
	le.PutUint16(b[128:], 8)
	if got := mtime(b); got.Year() != 1901 {
		t.Errorf("%v", got)
	}
}

// TestManyNames has one large inode under many names, and many names of no inode in a deep directory: neither takes memory for
// each (F1).
func TestManyNames(t *testing.T) {
	const size, names = 64 << 20, 3000
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	tool(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "65536", "-I", "65536", "-N", "64", "-O", "^has_journal,^metadata_csum,^resize_inode", image, "64M")
	script := "mkdir d\ncd d\nwrite /dev/null file\n"
	if err := os.WriteFile(filepath.Join(dir, "script"), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, "debugfs", "-w", "-f", filepath.Join(dir, "script"), image)
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	v := vol{t: t, b: data}
	if v.f, err = v.open(); err != nil {
		t.Fatal(err)
	}
	file := v.node("d/file").number
	off := v.place("d", 0)
	b := v.b[off:][:65536]
	for at, i := 24, 0; i < names; i++ {
		e := b[at:]
		le.PutUint32(e, file)
		if i%2 == 1 {
			le.PutUint32(e, 1<<31)
		}
		le.PutUint16(e[4:], 16)
		e[6], e[7] = 5, 1
		copy(e[8:16], fmt.Sprintf("%05d", i))
		if at += 16; i == names-1 {
			le.PutUint16(e[4:], uint16(16+65536-at))
		}
	}
	fsys, err := v.open()
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	got, err := fsys.ReadDir("d")
	if err != nil || len(got) != names {
		t.Fatalf("%d names, %v", len(got), err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := int64(after.HeapAlloc) - int64(before.HeapAlloc); used > 12<<20 {
		t.Errorf("%d names take %d bytes", names, used)
	}
	runtime.KeepAlive(fsys)
	runtime.KeepAlive(got)
}

// TestDirectoryCost has a directory with more names than are read, all of them the same.
func TestDirectoryCost(t *testing.T) {
	p := dirParser{f: &FS{}, of: &inode{number: 12}, path: "d", seen: map[string]bool{"x": true}, twice: map[uint32]bool{}, d: &dir{}}
	var err error
	n := 0
	for ; err == nil && n < 1_000_000; n++ {
		err = p.entry(12, "x", 1, 99)
	}
	refused(t, "names", err, "d", 99, "has more than")
	if n > maxDirCost/entryCost {
		t.Errorf("%d names", n)
	}
}

// TestDirCache keeps what was used last, up to a bound.
func TestDirCache(t *testing.T) {
	var c dirCache
	const part = maxCached / 4
	for n := uint32(1); n <= 4; n++ {
		c.put(n, &dir{cost: part})
	}
	c.get(1)
	c.put(5, &dir{cost: part})
	if c.get(2) != nil || c.get(1) == nil || c.cost != 4*part {
		t.Errorf("%v, %d bytes", c.order, c.cost)
	}
	for n := uint32(10); n < 1000; n++ {
		c.put(n, &dir{})
	}
	if len(c.order) != 256 || len(c.of) != 256 {
		t.Errorf("%d directories", len(c.order))
	}
}

// TestDepth has directories below each other, as deep as they are read and deeper.
func TestDepth(t *testing.T) {
	dir := t.TempDir()
	deep := strings.TrimSuffix(strings.Repeat("d/", maxDepth+2), "/")
	if err := os.MkdirAll(filepath.Join(dir, "tree", deep), 0o755); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "image")
	tool(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "^has_journal", "-d", filepath.Join(dir, "tree"), image, "2M")
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fsys, err := Open(f, 2<<20)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = fs.WalkDir(fsys, "d", func(path string, d fs.DirEntry, err error) error { n++; return err })
	if !errors.Is(err, errDepth) || n != maxDepth+1 {
		t.Errorf("%d directories, %v", n, err)
	}
	if _, err := fsys.Stat(deep); !errors.Is(err, errDepth) {
		t.Errorf("%v", err)
	}
}

// TestClaims takes numbers as a plain set would.
func TestClaims(t *testing.T) {
	var c claims
	taken := map[int64]bool{}
	for _, r := range [][2]int64{{0, 1}, {63, 2}, {100, 28}, {65530, 12}, {70000, 1}, {3 * pieceBits, 2 * pieceBits}, {6*pieceBits - 1, pieceBits + 2}, {1 << 47, 64}} {
		for n := range r[1] {
			if c.has(r[0] + n) {
				t.Errorf("%d is taken", r[0]+n)
			}
			taken[r[0]+n] = true
		}
		if err := c.take(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	for n := range int64(8 * pieceBits) {
		if c.has(n) != taken[n] {
			t.Fatalf("%d: %t", n, c.has(n))
		}
	}
	for _, r := range [][3]int64{{1, 62, -1}, {1, 63, 63}, {65, 35, -1}, {65, 100, 100}, {128, pieceBits, 65530}, {80000, 1 << 40, 3 * pieceBits}, {5 * pieceBits, pieceBits - 1, -1}, {1<<47 - 5, 100, 1 << 47}} {
		if got, ok := c.first(r[0], r[1]); ok != (r[2] >= 0) || ok && got != r[2] {
			t.Errorf("the first of %d from %d on is %d, %t", r[1], r[0], got, ok)
		}
	}
	if whole := len(c.pieces) - c.partial; whole != 3 {
		t.Errorf("%d pieces of %d are whole", whole, len(c.pieces))
	}
	// Pieces that become whole take no memory any more.
	for n := range int64(pieceBits) {
		if !c.has(n) {
			if err := c.take(n, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	if c.pieces[0].bits != nil {
		t.Error("a whole piece has bits")
	}
	c.partial = maxPieces
	if err := c.take(1<<40, 1); !errors.Is(err, errScattered) {
		t.Errorf("%v", err)
	}
	if err := c.take(1<<41, pieceBits); err != nil {
		t.Error(err)
	}
}

// TestBroken has more files that can't be followed than are remembered.
func TestBroken(t *testing.T) {
	v := sample(t, checked)
	for n := range uint32(maxBroken) {
		v.f.broken[n+1000] = fs.ErrInvalid
	}
	_, err := v.f.Open("hello.txt")
	refused(t, "one more", err, "hello.txt", v.node("hello.txt").off, "no more are tried")
	if got := slices.Sorted(maps.Keys(v.f.broken)); len(got) != maxBroken {
		t.Errorf("%d", len(got))
	}
}
