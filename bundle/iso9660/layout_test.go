package iso9660

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestLayoutErrors has each limit, each collision and each odd entry; the error names the path and the limit.
func TestLayoutErrors(t *testing.T) {
	t.Parallel()
	root := Entry{Path: ".", Mode: fs.ModeDir | 0o755}
	file := func(path string) Entry { return Entry{Path: path, Mode: 0o644} }
	dir := func(path string) Entry { return Entry{Path: path, Mode: fs.ModeDir | 0o755} }
	link := func(path, target string) Entry {
		return Entry{Path: path, Mode: fs.ModeSymlink | 0o777, Target: target}
	}
	with := func(e Entry, change func(*Entry)) Entry { change(&e); return e }
	deep := []Entry{root}
	for i := 1; i <= MaxDepth; i++ {
		deep = append(deep, dir("d"+strings.Repeat("/d", i-1)))
	}
	many := []Entry{root}
	for i := range MaxDirs {
		many = append(many, dir(fmt.Sprintf("%05d", i)))
	}
	wide := []Entry{root}
	for i, part := 0, strings.Repeat("p", 200); i < 21; i++ {
		wide = append(wide, dir(part+strings.Repeat("/"+part, i)))
	}
	vast := []Entry{root}
	for i := range 25 {
		vast = append(vast, Entry{Path: fmt.Sprintf("v%02d", i), Mode: 0o644, Size: maxFile})
	}
	for _, c := range []struct {
		name    string
		entries []Entry
		path    string
		want    string
	}{
		{"nothing", nil, ".", "no root"},
		{"no root", []Entry{dir("a")}, "a", "must be the directory"},
		{"root is a file", []Entry{file(".")}, ".", "must be the directory"},
		{"root twice", []Entry{root, root}, ".", `name is "."`},
		{"same file", []Entry{root, file("a"), file("b"), file("a")}, "a", "twice"},
		{"same directory", []Entry{root, dir("a"), dir("a")}, "a", "twice"},
		{"file and directory", []Entry{root, file("a"), dir("a")}, "a", "twice"},
		{"no parent", []Entry{root, file("a/b")}, "a/b", `parent "a" does not come before`},
		{"parent later", []Entry{root, file("a/b"), dir("a")}, "a/b", "does not come before"},
		{"parent is a file", []Entry{root, file("a"), file("a/b")}, "a/b", `parent "a" is not a directory`},
		{"parent is a link", []Entry{root, link("a", "b"), file("a/b")}, "a/b", `parent "a" is not a directory`},
		{"empty path", []Entry{root, file("")}, "", "empty name"},
		{"absolute", []Entry{root, file("/a")}, "/a", "empty name"},
		{"trailing slash", []Entry{root, dir("a"), file("a/")}, "a/", "empty name"},
		{"dot-dot", []Entry{root, file("..")}, "..", `name is ".."`},
		{"dot-dot inside", []Entry{root, dir("a"), file("a/../b")}, "a/../b", `name is ".."`},
		{"dot inside", []Entry{root, dir("a"), file("a/./b")}, "a/./b", `name is "."`},
		{"NUL", []Entry{root, file("a\x00")}, "a\x00", "NUL"},
		{"not UTF-8", []Entry{root, file("a\xff")}, "a\xff", "not UTF-8"},
		{"long name", []Entry{root, file(strings.Repeat("n", 256))}, strings.Repeat("n", 256), "256 bytes, limit 255"},
		{"long path", wide, wide[21].Path, "limit 4096"},
		{"deep", append(deep, file(deep[64].Path+"/f")), deep[64].Path + "/f", "65 parts, limit 64"},
		{"many directories", many, "65534", "more than 65535 directories"},
		{"early", []Entry{root, with(file("a"), func(e *Entry) { e.ModTime = minTime - 1 })}, "a", "1900 to 2155"},
		{"late", []Entry{root, with(file("a"), func(e *Entry) { e.ModTime = maxTime + 1 })}, "a", "1900 to 2155"},
		{"device", []Entry{root, with(file("a"), func(e *Entry) { e.Mode |= fs.ModeDevice })}, "a", "mode"},
		{"fifo", []Entry{root, with(file("a"), func(e *Entry) { e.Mode |= fs.ModeNamedPipe })}, "a", "mode"},
		{"setuid", []Entry{root, with(file("a"), func(e *Entry) { e.Mode |= fs.ModeSetuid })}, "a", "mode"},
		{"sticky", []Entry{root, with(dir("a"), func(e *Entry) { e.Mode |= fs.ModeSticky })}, "a", "mode"},
		{"two kinds", []Entry{root, with(dir("a"), func(e *Entry) { e.Mode |= fs.ModeSymlink })}, "a", "mode"},
		{"negative", []Entry{root, with(file("a"), func(e *Entry) { e.Size = -1 })}, "a", "size -1"},
		{"101 extents", []Entry{root, with(file("a"), func(e *Entry) { e.Size = maxFile + 1 })}, "a", "100 extents"},
		{"size of a directory", []Entry{root, with(dir("a"), func(e *Entry) { e.Size = 1 })}, "a", "not a regular file"},
		{"blocks", vast, "v20", "more than 4294967295 blocks"},
		{"target of a file", []Entry{root, with(file("a"), func(e *Entry) { e.Target = "b" })}, "a", "not a symbolic link"},
		{"no target", []Entry{root, link("a", "")}, "a", "0 bytes"},
		{"long target", []Entry{root, link("a", strings.Repeat("a/", 511)+"ab")}, "a", "1024 bytes"},
		{"long part", []Entry{root, link("a", strings.Repeat("b", 249))}, "a", "249 bytes, limit 248"},
		{"absolute target", []Entry{root, link("a", "/b")}, "a", "absolute"},
		{"target out", []Entry{root, link("a", "..")}, "a", "leaves the root"},
		{"target out of a directory", []Entry{root, dir("d"), link("d/a", "../../b")}, "d/a", "leaves the root"},
		{"target back", []Entry{root, link("a", "b/..")}, "a", "behind a name"},
		{"empty part", []Entry{root, link("a", "b//c")}, "a", "empty part"},
		{"empty last part", []Entry{root, link("a", "b/")}, "a", "empty part"},
		{"target with NUL", []Entry{root, link("a", "b\x00")}, "a", "NUL"},
		{"target not UTF-8", []Entry{root, link("a", "\xff")}, "a", "not UTF-8"},
		{"dots", []Entry{root, link("a", strings.Repeat("./", 101)+"b")}, "a", "in a row"},
	} {
		_, err := NewLayout(testVolume, c.entries)
		var e *EntryError
		if !errors.As(err, &e) || e.Path != c.path || !strings.Contains(e.Reason, c.want) {
			t.Errorf("%s: error %.300v, want an *EntryError with %q", c.name, err, c.want)
		}
	}
	for name, entries := range map[string][]Entry{
		"64 deep": deep, "65,535 directories": many[:MaxDirs], "100 extents": {root, with(file("a"), func(e *Entry) { e.Size = maxFile })}, "100 dots": {root, link("a", strings.Repeat("./", 100)+"b")},
		"longest target": {root, link("a", strings.Repeat("a/", 511)+"a")}, "first and last second": {root, with(file("a"), func(e *Entry) { e.ModTime = minTime }), with(file("b"), func(e *Entry) { e.ModTime = maxTime })},
	} {
		if _, err := NewLayout(testVolume, entries); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewLayout(testVolume, make([]Entry, MaxEntries+1)); err == nil || !strings.Contains(err.Error(), "more than 4000003 entries") {
		t.Errorf("too many entries: %v", err)
	}
}

func TestVolumeErrors(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]Volume{
		"long id": {ID: strings.Repeat("A", 33)}, "small letters": {ID: "abc"}, "space in the id": {ID: "A B"}, "system": {SystemID: "Linux"}, "application": {Application: strings.Repeat("A", 129)},
		"not ASCII": {ID: "É"}, "early": {Created: minTime - 1}, "late": {Created: maxTime + 1}, "system area": {SystemArea: make([]byte, systemArea+1)},
	} {
		if _, err := NewLayout(v, newTree().entries); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	l, err := NewLayout(Volume{SystemID: "A-Z 0_9?", ID: "A_1", Application: "X = Y;"}, newTree().entries)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SetSystemArea(make([]byte, systemArea+1)); err == nil {
		t.Error("a system area of more than 32 KiB is taken")
	}
}

// TestIdentifiers checks every identifier of a tree that collides in all ways: d-characters, within the lengths of ECMA-119 7.5 and 7.6, unique and in order, and as section 5 of the format says.
func TestIdentifiers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		isDir bool
		ord   int32
		want  string
	}{
		{"README.txt", false, plainIdent, "README.TXT;1"},
		{"readme", false, plainIdent, "README.;1"},
		{".bashrc", false, plainIdent, "_BASHRC.;1"},
		{"a.tar.gz", false, plainIdent, "A_TAR.GZ;1"},
		{"a.", false, plainIdent, "A.;1"},
		{"...", false, plainIdent, "__.;1"},
		{"a.b", true, plainIdent, "A_B"},
		{"é", false, plainIdent, "__.;1"},
		{"index.html", false, 7, "INDEX_0000007______________.HTM;1"},
		{"abcdefghijklmnopqrstuvwxyz", true, 1234567, "ABCDEFGHIJKLMNOPQRS_1234567"},
		{"a", true, 0, "A_0000000__________________"},
	} {
		got := string(appendIdent(nil, c.name, c.isDir, c.ord))
		if got != c.want || len(got) != identLen(c.name, c.isDir, c.ord) {
			t.Errorf("identifier of %q: %q (length %d), want %q", c.name, got, identLen(c.name, c.isDir, c.ord), c.want)
		}
	}
	tr := richTree(t)
	l, _ := tr.layout(t)
	for k := range l.dirs {
		d := &l.dirs[k]
		var last identKey
		for j, i := range l.kids[d.first : d.first+d.n] {
			e := &l.entries[i]
			key := newIdentKey(baseName(e.Path), e.Mode.IsDir())
			if key.ord = l.nodes[i].ord; key.ord != plainIdent {
				key.generate()
			} else if key.cut {
				t.Errorf("%q: cut and plain", e.Path)
			}
			if j > 0 && bytes.Compare(last.id[:], key.id[:]) >= 0 {
				t.Errorf("%q: %q is not behind %q", e.Path, key.id, last.id)
			}
			last = key
			id := appendIdent(nil, baseName(e.Path), e.Mode.IsDir(), l.nodes[i].ord)
			if e.Mode.IsDir() && len(id) > 31 || len(id) > 30+3 || len(id) != identLen(baseName(e.Path), e.Mode.IsDir(), l.nodes[i].ord) {
				t.Errorf("%q: identifier %q", e.Path, id)
			}
		}
	}
}

// TestExactSector checks what the sector test is about: 45 names and three full blocks, and that the same directory with one name less or more is read right too.
func TestExactSector(t *testing.T) {
	t.Parallel()
	names := sectorNames(t)
	for _, n := range []int{44, 45, 46} {
		tr := newTree()
		tr.dir("s")
		for i := range n {
			if i < 45 {
				tr.file("s/"+names[i], names[i])
			} else {
				tr.file("s/zzz", "more")
			}
		}
		tr.dir("t")
		tr.file("t/after", "after")
		l, b := tr.layout(t)
		d := &l.dirs[1]
		last := b[(int64(d.lba)+int64(d.recBlocks))*BlockSize-1]
		if n == 45 {
			// The last record has an even length, so its last byte may be padding; no record fits behind it.
			pos, blocks := 0, 0
			for r := (recordID{}); r.item < d.n+2; r = l.next(d, r) {
				pos += l.recordSize(d, r).record
				blocks = pos / BlockSize
			}
			if pos%BlockSize != 0 || blocks != int(d.recBlocks) || blocks != 3 {
				t.Fatalf("45 names have %d bytes in %d blocks", pos, d.recBlocks)
			}
		} else if last != 0 {
			t.Errorf("%d names fill the block too", n)
		}
		got, err := ours(openImage(t, b))
		if err != nil {
			t.Fatal(err)
		}
		compareTrees(t, "tree", tr.seen(), "ours", got, whole)
	}
}

// TestGolden pins the directory area of a fixed tree: profile 1 never changes.
func TestGolden(t *testing.T) {
	t.Parallel()
	want, err := os.ReadFile("testdata/directory-area.sha256")
	if err != nil {
		t.Fatal(err)
	}
	tr := newTree()
	tr.dirMode("empty", 0o700, -1)
	tr.dir("sub")
	tr.file("sub/index.html", "html")
	tr.file("sub/index.htm", "htm")
	tr.fileMode("sub/run", "#!/bin/sh\n", 0o755, 1_234_567_890)
	tr.link("sub/up", "../README.txt")
	tr.link("sub/"+strings.Repeat("l", MaxName), "./"+strings.Repeat("target/", 140)+"end")
	tr.file("README.txt", strings.Repeat("read me\n", 1000))
	tr.file("nothing", "")
	tr.file(strings.Repeat("name", 63)+"éx", "long")
	for i := range 100 {
		tr.file(fmt.Sprintf("sub/file %d", i), "x")
	}
	for i := range 30 {
		tr.file(fmt.Sprintf("sub/%02d", i)+strings.Repeat("-", 200+i), "continued")
	}
	tr.entries = append(tr.entries, Entry{Path: "zz-large", Mode: 0o600, ModTime: maxTime, Size: 5 << 30})
	l, err := NewLayout(testVolume, tr.entries)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if err := l.WriteDirectoryArea(h); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != strings.TrimSpace(string(want)) {
		t.Errorf("directory area has the digest %s, want %s", got, want)
	}
}

// TestContinuationAreas checks that no area crosses a block's end, where isofs refuses it, and that they follow each other in record order.
func TestContinuationAreas(t *testing.T) {
	t.Parallel()
	l, b := richTree(t).layout(t)
	areas, blocks := 0, 0
	for k := range l.dirs {
		d := &l.dirs[k]
		end := (int64(d.lba) + int64(d.recBlocks)) * BlockSize
		at := b[int64(d.lba)*BlockSize:]
		for r := (recordID{}); r.item < d.n+2; r = l.next(d, r) {
			if at[0] == 0 {
				at = at[len(at)%BlockSize:]
			}
			rec := at[:at[0]]
			at = at[at[0]:]
			k := bytes.Index(rec, []byte("CE\x1c\x01"))
			if k < 0 {
				continue
			}
			lba, _ := get733(rec[k+4:])
			off, _ := get733(rec[k+12:])
			n, _ := get733(rec[k+20:])
			if off+n > BlockSize {
				t.Fatalf("%q: area of %d bytes at offset %d", l.entries[l.subject(d, r)].Path, n, off)
			}
			start := int64(lba)*BlockSize + int64(off)
			if start != end && (off != 0 || start-end >= int64(n) || start < end) {
				t.Fatalf("%q: area at byte %d, the last ends at %d", l.entries[l.subject(d, r)].Path, start, end)
			}
			end = start + int64(n)
			areas++
		}
		blocks += int(d.caBlocks)
	}
	if areas < 100 || blocks < 10 {
		t.Errorf("only %d areas in %d blocks", areas, blocks)
	}
}

// TestOrderOfEntries shuffles the entries within what is allowed: only the data move.
func TestOrderOfEntries(t *testing.T) {
	t.Parallel()
	tr := richTree(t)
	var dirs, rest []Entry
	for _, e := range tr.entries {
		if e.Mode.IsDir() {
			dirs = append(dirs, e)
		} else {
			rest = append(rest, e)
		}
	}
	slices.Reverse(rest)
	other := &testTree{entries: append(dirs, rest...), data: tr.data}
	l, b := other.layout(t)
	if m, _ := tr.layout(t); m.DataStart() != l.DataStart() || m.Blocks() != l.Blocks() {
		t.Errorf("%d and %d blocks, data from %d and %d", m.Blocks(), l.Blocks(), m.DataStart(), l.DataStart())
	}
	got, err := ours(openImage(t, b))
	if err != nil {
		t.Fatal(err)
	}
	compareTrees(t, "tree", tr.seen(), "ours", got, whole)
	next := l.DataStart()
	for i, e := range l.entries {
		lba, blocks := l.Extent(i)
		if e.Mode.IsRegular() && e.Size > 0 {
			if lba != next {
				t.Fatalf("%q is at %d, want %d", e.Path, lba, next)
			}
			next += blocks
		} else if !e.Mode.IsDir() && blocks != 0 {
			t.Errorf("%q has %d blocks", e.Path, blocks)
		}
	}
}

// BenchmarkLayout lays out a million files in a thousand directories, and prints what it keeps for each entry.
func BenchmarkLayout(b *testing.B) {
	entries := []Entry{{Path: ".", Mode: fs.ModeDir | 0o755}}
	for i := range 1000 {
		d := fmt.Sprintf("directory-%04d", i)
		entries = append(entries, Entry{Path: d, Mode: fs.ModeDir | 0o755})
		for k := range 1000 {
			entries = append(entries, Entry{Path: fmt.Sprintf("%s/some-longer-file-name-%04d.data", d, k), Mode: 0o644, Size: 100})
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		l, err := NewLayout(testVolume, entries)
		if err != nil {
			b.Fatal(err)
		}
		if err := l.WriteDirectoryArea(discard{}); err != nil {
			b.Fatal(err)
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// TestBootCatalog: a boot record comes before the end of the descriptors and points to the catalog, which has to be a
// file with something in it (El Torito 1.0, figure 7). What reads such a volume is asked in package image.
func TestBootCatalog(t *testing.T) {
	entries := []Entry{{Path: ".", Mode: fs.ModeDir | 0o555}, {Path: "empty", Mode: 0o444}, {Path: "catalog", Mode: 0o444, Size: 2048}}
	for _, name := range []string{"empty", "absent", "."} {
		if _, err := NewLayout(Volume{BootCatalog: name}, entries); err == nil || !strings.Contains(err.Error(), "the boot catalog is no file with content") {
			t.Errorf("%s: %v", name, err)
		}
	}
	l, err := NewLayout(Volume{BootCatalog: "catalog"}, entries)
	if err != nil {
		t.Fatal(err)
	}
	var area bytes.Buffer
	if err := l.WriteDirectoryArea(&area); err != nil {
		t.Fatal(err)
	}
	record, end := area.Bytes()[BlockSize:], area.Bytes()[2*BlockSize:]
	lba, _ := l.Extent(2)
	if !bytes.HasPrefix(record, []byte("\x00CD001\x01EL TORITO SPECIFICATION\x00")) || int64(binary.LittleEndian.Uint32(record[0x47:])) != lba || !bytes.HasPrefix(end, []byte("\xffCD001\x01")) {
		t.Errorf("LBA 17 has %q, LBA 18 %q; the catalog is at %d", record[:0x50], end[:10], lba)
	}
	if at, table := binary.LittleEndian.Uint32(area.Bytes()[140:]), area.Bytes()[3*BlockSize:]; at != 19 || !bytes.HasPrefix(table, []byte{1, 0, byte(l.dirLBA), 0, 0, 0, 1, 0, 0, 0}) {
		t.Errorf("the path table is at %d; LBA 19 has %x", at, table[:10])
	}
}
