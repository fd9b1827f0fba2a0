package exfat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"
)

const long = "Übung mit 😀 und noch mehr.bin"

func TestSample(t *testing.T) {
	v := sample()
	if !Probe(v.b) || Probe(v.b[:10]) || Probe(make([]byte, 512)) {
		t.Error("it isn't recognised, or something else is")
	}
	fsys, err := v.open()
	if err != nil {
		t.Fatal(err)
	}
	if fsys.Name() != "exFAT" || fsys.Label() != "TEST 😀" {
		t.Errorf("it is %s with label %q", fsys.Name(), fsys.Label())
	}
	got, bad := contents(fsys)
	at := v.data
	want := map[string]string{
		"./": "", "DIR/": "", "EMPTY": "",
		"a.TXT": string(v.b[at(10):][:512]) + string(v.b[at(30):][:512]) + string(v.b[at(20):][:476]),
		long:    string(v.b[at(40):][:1000]), "DIR/b.txt": string(v.b[at(60):][:512]),
		"half": string(v.b[at(80):][:100]) + strings.Repeat("\x00", 400),
	}
	if !maps.Equal(got, want) || len(bad) != 0 {
		t.Errorf("it has %q and errors %v", slices.Sorted(maps.Keys(got)), bad)
	}
	if c := codes(fsys); c != "" {
		t.Errorf("findings %v", fsys.Findings())
	}
	info, err := fsys.Stat("a.TXT")
	if err != nil || info.Size() != 1500 || info.Mode() != 0o444 || info.ModTime().Format("2006-01-02 15:04:05.00") != "2026-07-09 10:34:57.50" {
		t.Errorf("a.TXT: %v, %v", info, err)
	}
	if _, err := fsys.Open("A.txt"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another case: %v", err)
	}
	if _, err := fsys.ReadLink("a.TXT"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a link: %v", err)
	}
	if err := fstest.TestFS(fsys, "a.TXT", "DIR/b.txt", "EMPTY", "half", long); err != nil {
		t.Error(err)
	}
}

func TestModTime(t *testing.T) {
	const stamp = 44<<25 | 2<<21 | 29<<16 | 23<<11 | 59<<5 | 29
	for _, c := range []struct {
		stamp       uint32
		tenms, zone byte
		want        string
	}{
		{stamp, 0, 0, "2024-02-29 23:59:58.00"},
		{stamp, 199, 0, "2024-02-29 23:59:59.99"},
		{stamp, 0, 0x80, "2024-02-29 23:59:58.00"},
		{stamp, 0, 0x7f, "2024-02-29 23:59:58.00"}, // not valid
		{stamp, 0, 0x80 | 22, "2024-02-29 18:29:58.00"},
		{stamp, 0, 0x80 | 0x7c, "2024-03-01 00:59:58.00"},
		{stamp, 0, 0x80 | 0x40, "2024-03-01 15:59:58.00"},
		{0xffffffff, 255, 0xff, "2108-04-01 08:19:04.55"},
	} {
		got := entry{stamp: c.stamp, tenms: c.tenms, zone: c.zone}.modTime().Format("2006-01-02 15:04:05.00")
		if got != c.want {
			t.Errorf("%08x %d %02x: %s, want %s", c.stamp, c.tenms, c.zone, got, c.want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	le := binary.LittleEndian
	put32 := func(at int, n uint32) func(v *vol) { return func(v *vol) { le.PutUint32(v.b[at:], n) } }
	for _, c := range []struct {
		name   string
		change func(v *vol)
		why    string
	}{
		{"zeros", func(v *vol) { clear(v.b) }, "isn't called"},
		{"one byte less than a boot sector", func(v *vol) { v.b = v.b[:511] }, "no boot sector"},
		{"no signature", func(v *vol) { v.b[511] = 0 }, "no signature"},
		{"parameters of FAT", func(v *vol) { v.b[11] = 2 }, "where FAT has"},
		{"revision 2", func(v *vol) { v.b[105] = 2 }, "revision 2.00"},
		{"sectors of 256", func(v *vol) { v.b[108] = 8 }, "sectors have"},
		{"sectors of 8192", func(v *vol) { v.b[108] = 13 }, "sectors have"},
		{"clusters of 64 MiB", func(v *vol) { v.b[109] = 17 }, "clusters have"},
		{"no FAT", func(v *vol) { v.b[110] = 0 }, "0 FATs"},
		{"three FATs", func(v *vol) { v.b[110] = 3 }, "3 FATs"},
		{"2^64-1 sectors", func(v *vol) { copy(v.b[72:80], "\xff\xff\xff\xff\xff\xff\xff\xff") }, "sectors"},
		{"FAT in the boot region", put32(80, 23), "inside of the boot regions"},
		{"FAT too short", put32(84, 3), "too few for"},
		{"clusters in the FAT", put32(88, 27), "inside of the FAT"},
		{"two FATs where there is room for one", func(v *vol) { v.b[110] = 2 }, "inside of the FAT"},
		{"more clusters than room", put32(92, testClusters+1), "behind the volume's end"},
		{"clusters behind the medium", func(v *vol) { le.PutUint64(v.b[72:], 1<<40); le.PutUint32(v.b[88:], 1<<30) }, "behind the medium's end"},
		{"root at 0", put32(96, 0), "root directory's cluster"},
		{"root outside", put32(96, testClusters+2), "root directory's cluster"},
		{"root that loops", func(v *vol) { v.link(5, 4) }, "comes twice"},
		{"root to a free cluster", func(v *vol) { v.link(5, 0) }, "free"},
		{"a medium that ends in the boot region", func(v *vol) { v.b = v.b[:600]; le.PutUint32(v.b[88:], 0) }, ""},
	} {
		v := sample()
		c.change(&v)
		if len(v.b) > 24*512 {
			v.seal()
		}
		_, err := v.open()
		var f *FormatError
		if !errors.As(err, &f) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want %q", c.name, err, c.why)
		}
	}
	// Every byte of the boot region counts but those that change when the volume is used, and a right copy doesn't help.
	region := sample()
	for i := 0; i < 12*512; i++ {
		if i >= 512 {
			i += 40
		}
		v := vol{slices.Clone(region.b), testFat, testHeap, 512}
		v.b[min(i, 12*512-1)] ^= 0x80
		_, err := v.open()
		if free := i == 106 || i == 107 || i == 112; free != (err == nil) {
			t.Errorf("byte %d changed: %v", i, err)
		} else if err != nil && i >= 512 && !strings.Contains(err.Error(), "that of its copy is right") {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	v := sample()
	v.b[600]++
	v.b[12*512+600]++
	if _, err := v.open(); err == nil || !strings.Contains(err.Error(), "so is that of its copy") {
		t.Errorf("both boot regions changed: %v", err)
	}
}

// TestGaps has bytes beside the FAT, and more room there than is looked at.
func TestGaps(t *testing.T) {
	le := binary.LittleEndian
	const before, behind = 3 * 512, 5 * 512
	for _, c := range []struct {
		at    int
		codes string
	}{{0, ""}, {testFat, "gap-data"}, {testFat + before - 1, "gap-data"}, {testFat + before, ""}, {testHeap + before, "gap-data"}, {testHeap + before + behind - 1, "gap-data"}} {
		v := sample()
		b := slices.Concat(v.b[:testFat], make([]byte, before), v.b[testFat:testHeap], make([]byte, behind), v.b[testHeap:])
		le.PutUint32(b[80:], (testFat+before)/512)
		le.PutUint32(b[88:], (testHeap+before+behind)/512)
		le.PutUint64(b[72:], uint64(len(b)/512))
		w := vol{b, testFat, testHeap + before + behind, 512}.seal()
		if c.at != 0 {
			b[c.at]++
		}
		fsys, err := w.open()
		if err != nil || codes(fsys) != c.codes || c.codes != "" && fsys.Findings()[0].Offset != int64(c.at) {
			t.Errorf("byte %d: %v, findings %v", c.at, err, fsys.Findings())
		}
	}
	v := sample()
	const far = 32 << 20
	b := slices.Concat(v.b[:testHeap], make([]byte, far), v.b[testHeap:])
	le.PutUint32(b[88:], (testHeap+far)/512)
	le.PutUint64(b[72:], uint64(len(b)/512))
	fsys, err := vol{b, testFat, testHeap + far, 512}.seal().open()
	if err != nil || codes(fsys) != "gap-sampled" {
		t.Errorf("a wide gap: %v, findings %v", err, fsys.Findings())
	}
}

func TestUpcase(t *testing.T) {
	words := func(u ...uint16) (b []byte) {
		for _, c := range u {
			b = binary.LittleEndian.AppendUint16(b, c)
		}
		return b
	}
	whole := make([]uint16, 65536)
	for i := range whole {
		whole[i] = uint16(i)
		if i >= 'a' && i <= 'z' {
			whole[i] -= 32
		}
	}
	for _, c := range []struct {
		name  string
		table []byte
		why   string
	}{
		{"compressed", upcaseTable(), ""},
		{"whole", words(whole...), ""},
		{"short", words(whole[:128]...), ""},
		{"of nothing", nil, "makes 'a' of 'a'"},
		{"that leaves letters as they are", words(0xffff, 65535), "makes 'a' of 'a'"},
		{"that makes a dot of a slash", words(append(append(slices.Clone(whole[:'/']), '.'), whole['0':]...)...), "makes '.' of '/'"},
		{"too long by one", words(append(slices.Clone(whole), 1)...), "more than 65,536"},
		{"that ends in a run", words(append(slices.Clone(whole[:128]), 0xffff)...), "without its length"},
		{"too long when it isn't compressed", words(append(slices.Clone(whole[:128]), 0xffff, 65535, 0xffff, 2)...), "more than 65,536"},
	} {
		table, why := expandUpcase(c.table)
		if !strings.Contains(why, c.why) || (why == "") != (c.why == "") {
			t.Errorf("a table %s: %q", c.name, why)
		}
		if why == "" && (len(table) != 65536 || table['q'] != 'Q' || table[0x4e00] != 0x4e00) {
			t.Errorf("a table %s is wrong", c.name)
		}
	}
	if table, _ := expandUpcase(upcaseTable()); table[0xfc] != 0xdc || table[0xe4] != 0xc4 || table[0xe5] != 0xe5 {
		t.Error("the compressed table is wrong")
	}
}

// TestManyClusters has a volume that says of itself that it has more clusters than are read, on a sparse medium that is large enough.
func TestManyClusters(t *testing.T) {
	v := newVol()
	le := binary.LittleEndian
	le.PutUint32(v.b[92:], maxClusters+1)
	le.PutUint32(v.b[84:], maxClusters/128+1)
	le.PutUint32(v.b[88:], 1<<20)
	le.PutUint64(v.b[72:], 1<<32)
	v.seal()
	_, err := Open(&sparse{v.b, 1 << 41}, 1<<41)
	if err == nil || !strings.Contains(err.Error(), "more than the") {
		t.Errorf("more clusters than are read: %v", err)
	}
}

// TestSecondFAT has a volume of TexFAT whose second FAT and bitmap are in use.
func TestSecondFAT(t *testing.T) {
	v := sample()
	le := binary.LittleEndian
	b := slices.Concat(v.b[:testHeap], v.b[testFat:testHeap], v.b[testHeap:])
	clear(b[testFat:testHeap])
	b[106], b[110] = 1, 2
	le.PutUint32(b[88:], (testHeap+testFatSize)/512)
	le.PutUint64(b[72:], uint64(len(b)/512))
	b[testHeap+testFatSize+2*512+1] = 1 // the bitmap's flag
	w := vol{b, testFat, testHeap + testFatSize, 512}.seal()
	fsys, err := w.open()
	if err != nil {
		t.Fatal(err)
	}
	got, bad := contents(fsys)
	if len(got) != 7 || len(bad) != 0 || codes(fsys) != "fat-copies" {
		t.Errorf("%d files, errors %v, findings %v", len(got), bad, fsys.Findings())
	}
}

// TestManyEntries has a directory with more files than are kept in memory, and one that lists as many as are.
func TestManyEntries(t *testing.T) {
	for _, c := range []struct {
		files int
		why   string
	}{{50_000, ""}, {120_000, "bytes of memory"}} {
		size := int64(c.files * 96)
		clusters := int(size/512) + 1
		v := bigVol(512, clusters+20)
		x := dirItem("many", 10)
		x.flags, x.size, x.valid = 3, uint64(clusters*512), uint64(clusters*512)
		v.put(v.data(4)+96, x)
		at := v.data(10)
		for i := range c.files {
			at = v.put(at, item{u16(string(rune(0x4e00+i%20000)) + string(rune(0x4e00+i/20000))), 0, 1, 0, 0, 0, nil})
		}
		start := time.Now()
		fsys, err := v.open()
		if err != nil {
			t.Fatal(err)
		}
		es, err := fsys.ReadDir("many")
		if c.why == "" && (err != nil || len(es) != c.files) || c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why)) {
			t.Errorf("%d files: %d, %v", c.files, len(es), err)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("%d files: took %v", c.files, d)
		}
	}
}

// TestGone has a device that stops answering at some read: its error comes through, whichever it was.
func TestGone(t *testing.T) {
	gone := errors.New("no such device")
	for left := range 16 {
		v := sample()
		r := &failing{bytes.NewReader(v.b), left, gone}
		fsys, err := Open(r, int64(len(v.b)))
		if err != nil {
			if !errors.Is(err, gone) {
				t.Errorf("read %d: %v", left, err)
			}
			continue
		}
		_, bad := contents(fsys)
		if len(bad) == 0 && r.left < 0 {
			t.Errorf("read %d: no error", left)
		}
		for path, err := range bad {
			if !errors.Is(err, gone) {
				t.Errorf("read %d: %q: %v", left, path, err)
			}
		}
	}
}

// TestConcurrent has many walk through one volume at once, and all of them see the same.
func TestConcurrent(t *testing.T) {
	v := sample()
	v.put(v.data(50)+inDir, plainItem("crossed", 60, 1))
	v.link(30, 0)
	fsys, err := v.open()
	if err != nil {
		t.Fatal(err)
	}
	want, wantBad := contents(fsys)
	found := len(fsys.Findings())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			got, bad := contents(fsys)
			if !maps.Equal(got, want) || len(bad) != len(wantBad) {
				t.Errorf("%d files and errors %v, want %d and %v", len(got), bad, len(want), wantBad)
			}
		})
	}
	wg.Wait()
	if n := len(fsys.Findings()); n != found || len(wantBad) != 2 {
		t.Errorf("%d findings, were %d; errors %v", n, found, wantBad)
	}
}

func TestVolumeSize(t *testing.T) {
	v := sample()
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
	binary.LittleEndian.PutUint32(v.b[92:], testClusters-1)
	fsys, err := v.seal().open()
	if err != nil || codes(fsys) != "heap-slack" {
		t.Errorf("a cluster less than there is room for: %v", err)
	}
}

func TestRandomAccess(t *testing.T) {
	fsys, err := sample().open()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.TXT", long, "half"} {
		want, err := fs.ReadFile(fsys, name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := fsys.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		r := f.(io.ReaderAt)
		for off := 0; off < len(want); off += 37 {
			for _, n := range []int{1, 100, 513, 1500} {
				b := bytes.Repeat([]byte{1}, n)
				k, err := r.ReadAt(b, int64(off))
				exp := want[off:min(len(want), off+n)]
				if !bytes.Equal(b[:k], exp) || (len(exp) < n) != (err == io.EOF) {
					t.Fatalf("%s: %d bytes at %d: %d, %v", name, n, off, k, err)
				}
			}
		}
	}
}
