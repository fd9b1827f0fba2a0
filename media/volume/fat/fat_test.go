package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf16"
)

// vol is a volume put together by hand: sectors and clusters of 512 bytes, one reserved sector, two FATs, 400 clusters.
type vol struct {
	b    []byte
	kind int
}

const (
	testClusters = 400
	attrFile     = 0x20
)

// newVol has an empty root directory: 16 entries for FAT12 and FAT16 (one sector), cluster 2 for FAT32.
func newVol(kind int) vol {
	fat := (testClusters + 2) * kind / 8 / 512 * 512
	fat += 512
	root := 512
	if kind == 32 {
		root = 0
	}
	if kind == 16 { // the number of clusters makes the kind
		fat, root = 17*512, 512
	}
	n := testClusters
	if kind == 16 {
		n = 4100
	}
	v := vol{make([]byte, 512+2*fat+root+n*512), kind}
	le := binary.LittleEndian
	copy(v.b, "\xeb\x58\x90test    ")
	le.PutUint16(v.b[11:], 512)
	v.b[13], v.b[14], v.b[16], v.b[21] = 1, 1, 2, 0xf8
	le.PutUint16(v.b[17:], uint16(root/32))
	le.PutUint32(v.b[32:], uint32(len(v.b)/512))
	if kind == 32 {
		le.PutUint32(v.b[36:], uint32(fat/512))
		le.PutUint32(v.b[44:], 2)
	} else {
		le.PutUint16(v.b[22:], uint16(fat/512))
	}
	v.b[510], v.b[511] = 0x55, 0xaa
	v.link(0, 0x0ffffff8).link(1, 0x0fffffff)
	if kind == 32 {
		v.link(2, 0x0fffffff)
	}
	return v
}

func (v vol) fatSize() int {
	if n := binary.LittleEndian.Uint16(v.b[22:]); n != 0 {
		return int(n) * 512
	}
	return int(binary.LittleEndian.Uint32(v.b[36:])) * 512
}

// root is the byte where the root directory starts, data that of a cluster.
func (v vol) root() int { return 512 + 2*v.fatSize() }

func (v vol) data(cluster int) int {
	return v.root() + int(binary.LittleEndian.Uint16(v.b[17:]))*32 + (cluster-2)*512
}

// link sets a cluster's entry in both FATs; the highest bits are cut.
func (v vol) link(cluster int, next uint32) vol {
	for c := range 2 {
		fat := v.b[512+c*v.fatSize():]
		switch v.kind {
		case 12:
			at := cluster * 3 / 2
			w := binary.LittleEndian.Uint16(fat[at:])
			if cluster&1 == 0 {
				w = w&0xf000 | uint16(next&0xfff)
			} else {
				w = w&0xf | uint16(next<<4)
			}
			binary.LittleEndian.PutUint16(fat[at:], w)
		case 16:
			binary.LittleEndian.PutUint16(fat[cluster*2:], uint16(next))
		case 32:
			binary.LittleEndian.PutUint32(fat[cluster*4:], next)
		}
	}
	return v
}

const eoc = 0x0fffffff

// chain links clusters to each other, the last one as the end.
func (v vol) chain(clusters ...int) vol {
	for i, c := range clusters {
		if i+1 < len(clusters) {
			v.link(c, uint32(clusters[i+1]))
		} else {
			v.link(c, eoc)
		}
	}
	return v
}

// put writes a directory entry at byte at and returns the byte behind it. The name has 11 characters.
func (v vol) put(at int, name string, attr byte, first, size int) int {
	s := v.b[at : at+32]
	copy(s, name)
	s[11] = attr
	le := binary.LittleEndian
	le.PutUint16(s[20:], uint16(first>>16))
	le.PutUint16(s[22:], 12<<11|34<<5|28)
	le.PutUint16(s[24:], 46<<9|7<<5|9)
	le.PutUint16(s[26:], uint16(first))
	le.PutUint32(s[28:], uint32(size))
	return at + 32
}

// putLong writes an entry with a long name.
func (v vol) putLong(at int, name []uint16, short string, attr byte, first, size int) int {
	n := (len(name) + 12) / 13
	padded := append(slices.Clone(name), 0)
	for len(padded) < 13*n+1 {
		padded = append(padded, 0xffff)
	}
	for i := n; i > 0; i-- {
		s := v.b[at : at+32]
		s[0], s[11], s[13] = byte(i), attrLongName, checksum([]byte(short))
		if i == n {
			s[0] |= 0x40
		}
		for k, o := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
			binary.LittleEndian.PutUint16(s[o:], padded[13*(i-1)+k])
		}
		at += 32
	}
	return v.put(at, short, attr, first, size)
}

// sample has a file of three scattered clusters, one of one, and a directory with a file.
func sample(kind int) vol {
	v := newVol(kind)
	v.chain(10, 30, 20).chain(40).chain(50).chain(60)
	for i := range 512 * testClusters / 2 {
		v.b[v.data(10)+i] = byte(i>>9*7 + i)
	}
	at := v.put(v.root(), "TEST VOLUME", attrVolume, 0, 0)
	at = v.put(at, "A       TXT", attrFile, 10, 1500)
	at = v.putLong(at, utf16.Encode([]rune("Übung mit 😀.bin")), "BUNG~1  BIN", attrFile, 40, 100)
	at = v.put(at, "DIR        ", attrDir, 50, 0)
	v.put(at, "EMPTY      ", attrFile, 0, 0)
	clear(v.b[v.data(50) : v.data(50)+512])
	at = v.put(v.data(50), ".          ", attrDir, 50, 0)
	at = v.put(at, "..         ", attrDir, 0, 0)
	v.put(at, "B       TXT", attrFile, 60, 512)
	return v
}

func (v vol) open() (*FS, error) { return Open(bytes.NewReader(v.b), int64(len(v.b))) }

// contents is what a tree has: sizes and bytes by path, a slash at the end of a directory's, errors beside it.
func contents(fsys *FS) (map[string]string, map[string]error) {
	out, bad := map[string]string{}, map[string]error{}
	fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			bad[path] = err
			return nil
		}
		if d.IsDir() {
			out[path+"/"] = ""
			return nil
		}
		b, err := fs.ReadFile(fsys, path)
		if err != nil {
			bad[path] = err
			return nil
		}
		out[path] = string(b)
		return nil
	})
	return out, bad
}

func codes(fsys *FS) string {
	var out []string
	for _, f := range fsys.Findings() {
		out = append(out, f.Code)
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), " ")
}

func TestSample(t *testing.T) {
	for _, kind := range []int{12, 16, 32} {
		v := sample(kind)
		if !Probe(v.b) {
			t.Errorf("FAT%d isn't recognised", kind)
		}
		fsys, err := v.open()
		if err != nil {
			t.Fatal(err)
		}
		if fsys.Name() != fmt.Sprintf("FAT%d", kind) || fsys.Label() != "TEST VOLUME" {
			t.Errorf("FAT%d is %s with label %q", kind, fsys.Name(), fsys.Label())
		}
		got, bad := contents(fsys)
		at := v.data
		want := map[string]string{
			"./": "", "DIR/": "", "EMPTY": "",
			"A.TXT":           string(v.b[at(10):][:512]) + string(v.b[at(30):][:512]) + string(v.b[at(20):][:476]),
			"Übung mit 😀.bin": string(v.b[at(40):][:100]), "DIR/B.TXT": string(v.b[at(60):][:512]),
		}
		if !maps.Equal(got, want) || len(bad) != 0 {
			t.Errorf("FAT%d has %q and errors %v", kind, slices.Sorted(maps.Keys(got)), bad)
		}
		if c := codes(fsys); c != "" {
			t.Errorf("FAT%d: findings %v", kind, fsys.Findings())
		}
		info, err := fsys.Stat("A.TXT")
		if err != nil || info.Size() != 1500 || info.Mode() != 0o444 || info.ModTime().Format("2006-01-02 15:04:05") != "2026-07-09 12:34:56" {
			t.Errorf("A.TXT: %v, %v", info, err)
		}
		if _, err := fsys.Open("a.txt"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("another case: %v", err)
		}
		if _, err := fsys.ReadLink("A.TXT"); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("a link: %v", err)
		}
		if err := fstest.TestFS(fsys, "A.TXT", "DIR/B.TXT", "EMPTY"); err != nil {
			t.Error(err)
		}
	}
}

func TestDamage(t *testing.T) {
	le := binary.LittleEndian
	full := []string{"./", "A.TXT", "DIR/", "DIR/B.TXT", "EMPTY", "Übung mit 😀.bin"}
	for _, c := range []struct {
		name   string
		change func(v vol)
		gone   string // paths that can't be read
		more   string // paths beside the sample's
		why    string // in the error of the first of them
		codes  string
	}{
		{"chain to a free cluster", func(v vol) { v.link(30, 0) }, "A.TXT", "", "free", ""},
		{"chain to a bad cluster", func(v vol) { v.link(30, 0x0ffffff7) }, "A.TXT", "", "bad", ""},
		{"chain out of the volume", func(v vol) { v.link(30, 0xfef) }, "", "", "", ""},
		{"chain to cluster 1", func(v vol) { v.link(30, 1) }, "A.TXT", "", "doesn't have", ""},
		{"chain too short", func(v vol) { v.link(30, eoc) }, "A.TXT", "", "ends after 2 of the file's 3", ""},
		{"chain too long", func(v vol) { v.chain(20, 21) }, "", "", "", "chain-slack"},
		{"chain without an end", func(v vol) { v.link(20, 0) }, "", "", "", "chain-end"},
		{"chain that loops", func(v vol) { v.link(30, 10) }, "A.TXT", "", "comes twice", ""},
		{"chain to itself", func(v vol) { v.link(10, 10) }, "A.TXT", "", "comes twice", ""},
		{"chain into another file", func(v vol) { v.link(30, 60) }, "DIR/B.TXT", "", "part of another file", ""},
		{"two files at one cluster", func(v vol) { v.put(v.root()+224, "C       TXT", attrFile, 40, 10) }, "Übung mit 😀.bin", "C.TXT", "part of another file", ""},
		{"file in the middle of another", func(v vol) { v.put(v.root()+224, "C       TXT", attrFile, 30, 600) }, "C.TXT", "", "part of another file", ""},
		{"directory below itself", func(v vol) { v.put(v.data(50)+96, "LOOP       ", attrDir, 50, 0) }, "DIR/LOOP", "DIR/LOOP/", "part of another file", ""},
		{"directory without a cluster", func(v vol) { v.put(v.data(50)+96, "NONE       ", attrDir, 0, 0) }, "DIR/NONE", "DIR/NONE/", "first cluster", ""},
		{"file without a cluster", func(v vol) { v.put(v.data(50)+96, "NONE       ", attrFile, 0, 1) }, "DIR/NONE", "", "first cluster", ""},
		{"file behind the volume", func(v vol) { v.put(v.data(50)+96, "FAR        ", attrFile, 60000, 1) }, "DIR/FAR", "", "first cluster", ""},
		{"file larger than the volume", func(v vol) { v.put(v.data(50)+96, "HUGE       ", attrFile, 70, 0xffffffff) }, "DIR/HUGE", "", "more than the volume", ""},
		{"empty file with clusters", func(v vol) { v.put(v.data(50)+96, "SLACK      ", attrFile, 70, 0) }, "", "DIR/SLACK", "", "chain-slack"},
		{"second entry of a name", func(v vol) { v.put(v.data(50)+96, "B       TXT", attrFile, 70, 1) }, "", "", "", "duplicate-name"},
		{"slash in a short name", func(v vol) { v.put(v.data(50)+96, "A/B        ", attrFile, 0, 0) }, "", "", "", "bad-name"},
		{"no name", func(v vol) { v.put(v.data(50)+96, "           ", attrFile, 0, 0) }, "", "", "", "bad-name"},
		{"dots further on", func(v vol) { v.put(v.data(50)+96, "..         ", attrDir, 10, 0) }, "", "", "", "dot-entry"},
		{"a dot that isn't its directory", func(v vol) { le.PutUint16(v.b[v.data(50)+26:], 60) }, "", "", "", "dot-entry"},
		{"slash in a long name", func(v vol) { v.putLong(v.data(50)+96, utf16.Encode([]rune("../x")), "X          ", attrFile, 0, 0) }, "", "", "", "bad-name"},
		{"dots as a long name", func(v vol) { v.putLong(v.data(50)+96, utf16.Encode([]rune("..")), "X          ", attrDir, 10, 0) }, "", "", "", "bad-name"},
		{"half a surrogate", func(v vol) { v.putLong(v.data(50)+96, []uint16{'a', 0xd83d, 'b'}, "X          ", attrFile, 0, 0) }, "", "", "", "bad-name"},
		{"bytes behind a long name", func(v vol) { v.putLong(v.data(50)+96, []uint16{'a', 0, 'b'}, "X          ", attrFile, 0, 0) }, "", "DIR/a", "", "name-slack"},
		{"long name of another entry", func(v vol) {
			v.putLong(v.data(50)+96, []uint16{'a'}, "X          ", attrFile, 0, 0)
			v.b[v.data(50)+128] = 'Y'
		}, "", "DIR/Y", "", "orphan-name"},
		{"long name without an entry", func(v vol) {
			v.putLong(v.data(50)+96, []uint16{'a'}, "X          ", attrFile, 0, 0)
			v.b[v.data(50)+128] = 0xe5
		}, "", "", "", "orphan-name"},
		{"long name without its start", func(v vol) {
			v.putLong(v.data(50)+96, []uint16{'a'}, "X          ", attrFile, 0, 0)
			v.b[v.data(50)+96] = 1
		}, "", "DIR/X", "", "orphan-name"},
		{"entry behind the end", func(v vol) { v.put(v.data(50)+256, "LATE       ", attrFile, 0, 0) }, "", "DIR/LATE", "", "behind-end"},
		{"FATs differ", func(v vol) { v.b[512+v.fatSize()+500]++ }, "", "", "", "fat-differ"},
		{"dirty", func(v vol) { v.b[map[int]int{12: 37, 16: 37, 32: 65}[v.kind]] = 1 }, "", "", "", "dirty"},
		{"boot code", func(v vol) { v.b[200] = 1 }, "", "", "", "boot-code"},
		{"label in the boot sector differs", func(v vol) {
			at := map[int]int{12: 38, 16: 38, 32: 66}[v.kind]
			v.b[at] = 0x29
			copy(v.b[at+5:], "OTHER      ")
		}, "", "", "", "label-differ"},
	} {
		for _, kind := range []int{12, 16, 32} {
			v := sample(kind)
			c.change(v)
			fsys, err := v.open()
			if err != nil {
				t.Errorf("FAT%d, %s: %v", kind, c.name, err)
				continue
			}
			gone := c.gone
			if c.name == "chain out of the volume" {
				if kind == 16 {
					continue // it has that many clusters
				}
				gone, c.why = "A.TXT", "doesn't have"
			}
			got, bad := contents(fsys)
			want := slices.Clone(full)
			if c.more != "" {
				want = append(want, c.more)
			}
			want = slices.DeleteFunc(want, func(s string) bool { return s == gone })
			slices.Sort(want)
			if have := slices.Sorted(maps.Keys(got)); !slices.Equal(have, want) {
				t.Errorf("FAT%d, %s: the tree is %q, want %q", kind, c.name, have, want)
			}
			if gone == "" != (len(bad) == 0) {
				t.Errorf("FAT%d, %s: errors %v", kind, c.name, bad)
			} else if gone != "" {
				var f *FormatError
				if !errors.As(bad[gone], &f) || !strings.Contains(f.Msg, c.why) || f.Path != gone || f.Offset <= 0 {
					t.Errorf("FAT%d, %s: %v, want %q", kind, c.name, bad, c.why)
				}
			}
			if have := codes(fsys); have != c.codes {
				t.Errorf("FAT%d, %s: findings %v, want %q", kind, c.name, fsys.Findings(), c.codes)
			}
			// The second look says the same and finds nothing twice.
			n := len(fsys.Findings())
			again, _ := contents(fsys)
			if !maps.Equal(got, again) || len(fsys.Findings()) != n {
				t.Errorf("FAT%d, %s: the second look differs: %q, %v", kind, c.name, slices.Sorted(maps.Keys(again)), fsys.Findings())
			}
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	le := binary.LittleEndian
	for _, c := range []struct {
		name   string
		kind   int
		change func(v *vol)
		why    string
	}{
		{"zeros", 12, func(v *vol) { clear(v.b) }, "sectors have 0"},
		{"one sector less than a boot sector", 12, func(v *vol) { v.b = v.b[:511] }, "no boot sector"},
		{"sectors of 8192", 12, func(v *vol) { le.PutUint16(v.b[11:], 8192) }, "sectors have"},
		{"sectors of 768", 12, func(v *vol) { le.PutUint16(v.b[11:], 768) }, "sectors have"},
		{"clusters of 3", 12, func(v *vol) { v.b[13] = 3 }, "clusters have"},
		{"no reserved", 12, func(v *vol) { v.b[14] = 0 }, "reserved"},
		{"no FAT", 12, func(v *vol) { v.b[16] = 0 }, "no FAT"},
		{"media byte", 12, func(v *vol) { v.b[21] = 1 }, "media byte"},
		{"FAT of nothing", 32, func(v *vol) { clear(v.b[36:40]) }, "FATs have no"},
		{"no sectors", 12, func(v *vol) { clear(v.b[32:36]) }, "no sectors"},
		{"FAT of 4 GiB", 32, func(v *vol) { le.PutUint32(v.b[36:], 8<<20) }, "behind its end"},
		{"FAT of 2 TiB", 32, func(v *vol) { le.PutUint32(v.b[36:], 0xffffffff) }, "behind its end"},
		{"root in half a sector", 12, func(v *vol) { v.b[17]++ }, "inside of a sector"},
		{"root outside", 32, func(v *vol) { le.PutUint32(v.b[44:], 5000) }, "root directory's cluster"},
		{"root at 0", 32, func(v *vol) { le.PutUint32(v.b[44:], 0) }, "root directory's cluster"},
		{"root that loops", 32, func(v *vol) { v.link(2, 2) }, "comes twice"},
		{"root to a free cluster", 32, func(v *vol) { v.link(2, 0) }, "free"},
		{"another version", 32, func(v *vol) { v.b[42] = 1 }, "version"},
		{"exFAT", 12, func(v *vol) { copy(v.b[3:], "EXFAT   ") }, "EXFAT"},
	} {
		v := sample(c.kind)
		c.change(&v)
		_, err := v.open()
		var f *FormatError
		if !errors.As(err, &f) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want %q", c.name, err, c.why)
		}
	}
}

// TestManyClusters has a volume that says of itself that it has more clusters than are read, on a sparse medium that is large enough.
func TestManyClusters(t *testing.T) {
	v := newVol(32)
	le := binary.LittleEndian
	le.PutUint32(v.b[36:], (maxClusters+1+2)*4/512+1)
	le.PutUint32(v.b[32:], 0xfffffff0)
	_, err := Open(&sparse{v.b, 1 << 41}, 1<<41)
	if err == nil || !strings.Contains(err.Error(), "more than the") {
		t.Errorf("more clusters than are read: %v", err)
	}
}

// sparse is a medium with zeros behind its bytes.
type sparse struct {
	b    []byte
	size int64
}

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.size {
		return 0, io.EOF
	}
	clear(p)
	if off < int64(len(s.b)) {
		copy(p, s.b[off:])
	}
	return len(p), nil
}

// TestLongDirectory has a directory of one cluster more than Linux follows.
func TestLongDirectory(t *testing.T) {
	v := newVol(16) // 4,100 clusters
	v.put(v.root(), "DIR        ", attrDir, 10, 0)
	// 4,096 clusters of 512 bytes are 2 MiB; the volume has four more.
	var cs []int
	for c := 2; c < 4102; c++ {
		if c != 10 {
			cs = append(cs, c)
		}
	}
	v.chain(append([]int{10}, cs...)...)
	fsys, err := v.open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fsys.ReadDir("DIR"); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a directory of %d clusters: %v", len(cs)+1, err)
	}
}

// TestGone has a device that stops answering at some read: its error comes through, whichever it was.
func TestGone(t *testing.T) {
	gone := errors.New("no such device")
	for _, kind := range []int{12, 32} {
		for left := range 12 {
			v := sample(kind)
			r := &failing{bytes.NewReader(v.b), left, gone}
			fsys, err := Open(r, int64(len(v.b)))
			if err != nil {
				if !errors.Is(err, gone) {
					t.Errorf("FAT%d, read %d: %v", kind, left, err)
				}
				continue
			}
			_, bad := contents(fsys)
			if len(bad) == 0 && r.left < 0 {
				t.Errorf("FAT%d, read %d: no error", kind, left)
			}
		}
	}
}

type failing struct {
	r    io.ReaderAt
	left int
	err  error
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if f.left--; f.left < 0 {
		return 0, f.err
	}
	return f.r.ReadAt(p, off)
}

func TestVolumeSize(t *testing.T) {
	v := sample(12)
	for _, c := range []struct {
		add  int
		code string
	}{{1, "volume-slack"}, {0, ""}, {-512, "past-end"}} {
		b := append(slices.Clone(v.b), make([]byte, max(c.add, 0))...)
		b = b[:len(v.b)+c.add]
		fsys, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Errorf("%+d bytes: %v", c.add, err)
			continue
		}
		if got := codes(fsys); got != c.code {
			t.Errorf("%+d bytes: findings %v", c.add, fsys.Findings())
		}
	}
}

func TestRandomAccess(t *testing.T) {
	v := sample(16)
	fsys, err := v.open()
	if err != nil {
		t.Fatal(err)
	}
	want, err := fs.ReadFile(fsys, "A.TXT")
	if err != nil {
		t.Fatal(err)
	}
	f, err := fsys.Open("A.TXT")
	if err != nil {
		t.Fatal(err)
	}
	r := f.(io.ReaderAt)
	for off := 0; off < 1500; off += 37 {
		for _, n := range []int{1, 100, 513, 1500} {
			b := make([]byte, n)
			k, err := r.ReadAt(b, int64(off))
			exp := want[off:min(1500, off+n)]
			if !bytes.Equal(b[:k], exp) || (len(exp) < n) != (err == io.EOF) {
				t.Fatalf("%d bytes at %d: %d, %v", n, off, k, err)
			}
		}
	}
}
