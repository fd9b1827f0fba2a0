package iso9660

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var testVolume = Volume{SystemID: "LINUX", ID: "TEST_VOLUME", Application: "TEST", Created: 1_700_000_000}

// A testTree is a list of entries with the contents of its files by path.
type testTree struct {
	entries []Entry
	data    map[string][]byte
}

func newTree() *testTree {
	return &testTree{entries: []Entry{{Path: ".", Mode: fs.ModeDir | 0o755, ModTime: 1_600_000_000}}, data: map[string][]byte{}}
}

func (tr *testTree) dir(path string)           { tr.dirMode(path, 0o755, 1_500_000_000) }
func (tr *testTree) file(path, content string) { tr.fileMode(path, content, 0o644, 1_400_000_001) }
func (tr *testTree) link(path, target string) {
	tr.entries = append(tr.entries, Entry{Path: path, Mode: fs.ModeSymlink | 0o777, ModTime: 1_300_000_000, Target: target})
}

func (tr *testTree) dirMode(path string, mode fs.FileMode, mtime int64) {
	tr.entries = append(tr.entries, Entry{Path: path, Mode: fs.ModeDir | mode, ModTime: mtime})
}

func (tr *testTree) fileMode(path, content string, mode fs.FileMode, mtime int64) {
	tr.entries = append(tr.entries, Entry{Path: path, Mode: mode, ModTime: mtime, Size: int64(len(content))})
	tr.data[path] = []byte(content)
}

// image lays the tree out and writes it.
func (tr *testTree) image(t testing.TB) []byte {
	t.Helper()
	_, b := tr.layout(t)
	return b
}

func (tr *testTree) layout(t testing.TB) (*Layout, []byte) {
	t.Helper()
	l, err := NewLayout(testVolume, tr.entries)
	if err != nil {
		t.Fatal(err)
	}
	b, err := writeImage(l, tr.data)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != l.Blocks()*BlockSize {
		t.Fatalf("image has %d bytes, layout %d blocks", len(b), l.Blocks())
	}
	return l, b
}

func writeImage(l *Layout, data map[string][]byte) ([]byte, error) {
	var b bytes.Buffer
	w := l.NewWriter(&b)
	for i, e := range l.entries {
		if e.Mode.IsRegular() {
			if err := w.WriteFile(i, bytes.NewReader(data[e.Path])); err != nil {
				return nil, err
			}
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

// seen is what a reader should say of the tree.
func (tr *testTree) seen() map[string]seen {
	out := map[string]seen{}
	for _, e := range tr.entries {
		s := seen{kind: "dir", mode: e.Mode.Perm(), mtime: e.ModTime, target: e.Target}
		switch e.Mode.Type() {
		case fs.ModeSymlink:
			s.kind = "link"
		case 0:
			s.kind, s.size = "file", e.Size
			h := sha256.Sum256(tr.data[e.Path])
			s.sha = hex.EncodeToString(h[:])
		}
		out[e.Path] = s
	}
	return out
}

// save writes an image to a file of the test's own.
func save(t testing.TB, image []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.iso")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// exactSizes returns n lengths of names whose records have total bytes in all: names of up to 20 bytes without a dot have plain identifiers.
func exactSizes(t testing.TB, n, total int) []int {
	t.Helper()
	size := func(length int) int {
		l := &Layout{entries: []Entry{{Path: "."}, {Path: strings.Repeat("n", length)}}, nodes: []node{{}, {ord: plainIdent}}, kids: []int32{1}}
		if length > stemLen {
			l.nodes[1].ord = 0
		}
		return l.recordSize(&dir{n: 1}, recordID{item: 2}).record
	}
	lengths := map[int]int{} // by record size
	for length := 3; length < 120; length++ {
		lengths[size(length)] = length
	}
	sizes := slices.Sorted(maps.Keys(lengths))
	reach := make([]map[int]int, n+1) // by number of records: total to last size
	reach[0] = map[int]int{0: 0}
	for k := 1; k <= n; k++ {
		reach[k] = map[int]int{}
		for sum := range reach[k-1] {
			for _, s := range sizes {
				if sum+s <= total {
					reach[k][sum+s] = s
				}
			}
		}
	}
	if _, ok := reach[n][total]; !ok {
		t.Fatalf("%d records can't have %d bytes", n, total)
	}
	var out []int
	for k, sum := n, total; k > 0; k-- {
		s := reach[k][sum]
		out = append(out, lengths[s])
		sum -= s
	}
	return out
}

// sectorNames are 45 names whose records, with "." and "..", fill three blocks to the last byte.
func sectorNames(t testing.TB) []string {
	var names []string
	for _, b := range []struct{ n, total int }{{14, BlockSize - 2*82}, {15, BlockSize}, {16, BlockSize}} {
		for _, length := range exactSizes(t, b.n, b.total) {
			name := fmt.Sprintf("n%02d", len(names))
			names = append(names, name+strings.Repeat("x", length-len(name)))
		}
	}
	return names
}

// richTree has one of everything that readers stumble over.
func richTree(t testing.TB) *testTree {
	tr := newTree()
	tr.dirMode("empty-dir", 0o700, -2)
	tr.file("empty", "")
	tr.file("one", "1")
	tr.file("block", strings.Repeat("b", BlockSize))
	tr.file("block+1", strings.Repeat("c", BlockSize+1))
	for i, mode := range []fs.FileMode{0, 0o777, 0o400, 0o055, 0o711} {
		tr.fileMode(fmt.Sprintf("mode%o", mode), "m", mode, int64(i))
	}
	for i, mtime := range []int64{minTime, -2147483648, -2, 0, 951782400, 2147483648, 4294967296, maxTime} {
		tr.fileMode(fmt.Sprintf("time%d", i), "t", 0o644, mtime)
		tr.dirMode(fmt.Sprintf("timedir%d", i), 0o755, mtime)
	}

	// Identifiers that collide, and names that are odd.
	tr.dir("names")
	for i, name := range []string{"a.b", "A.B", "a_b", "a.", "a", "A", ".a", "a..b", "...", "a;1", "a b", "a.htm", "a.html", "a.tar.gz", "\"q'", "-x", "#", "=", "*?", "[x]", "é", "日本語", "\u202e", "x\\y", "tab\tx", "nl\nx",
		"exactly-20-bytes-abc", "exactly-21-bytes-abcd", "exactly-21-bytes-abce", "EXACTLY-21-BYTES-ABCE", "A_0000001__________", "rr_moved", "RR_MOVED"} {
		if i%5 == 3 {
			tr.dir("names/" + name)
		} else {
			tr.file("names/"+name, name)
		}
	}
	tr.dir("names/a.b.d")
	tr.dir("names/.hidden")

	tr.dir("long")
	ascii := strings.Repeat("0123456789", 26)
	for n := 60; n <= MaxName; n++ { // with and without continuation, every split
		tr.file("long/"+ascii[:n], fmt.Sprint(n))
	}
	tr.file("long/"+ascii[:254]+"x", "same until the last byte")
	tr.file("long/"+strings.Repeat("é", 127)+"x", "two-byte letters")
	tr.file("long/x"+strings.Repeat("é", 127), "two-byte letters, odd")
	tr.file("long/"+strings.Repeat("語", 85), "three-byte letters")
	tr.dir("long/" + strings.Repeat("d", MaxName))
	tr.file("long/"+strings.Repeat("d", MaxName)+"/"+strings.Repeat("e", MaxName), "deep and long")

	tr.dir("deep")
	path := "deep"
	for i := 2; i < MaxDepth; i++ {
		path += fmt.Sprintf("/%02d", i)
		tr.dir(path)
	}
	tr.file(path+"/64", "sixty-four")

	tr.dir("sector")
	for _, name := range sectorNames(t) {
		tr.file("sector/"+name, name)
	}
	tr.file("after-sector", "found")

	tr.dir("links")
	tr.dir("links/sub")
	long := strings.Repeat(strings.Repeat("p", 100)+"/", 10) + "end"
	for name, target := range map[string]string{
		"rel": "../one", "up": "..", "self": ".", "dot": "./sub", "mixed": "./.././links/sub/./x", "part": strings.Repeat("q", MaxTargetPart), "parts": strings.Repeat(strings.Repeat("q", MaxTargetPart)+"/", 3) + "x",
		"long": long, "max": strings.Repeat("a/", 511) + "a", "specials": strings.Repeat("./", 100) + "a/" + strings.Repeat("./", 100) + "bc/" + strings.Repeat("./", 100) + "d", "oddfill": "xy/" + strings.Repeat("ab/", 61) + "./" + strings.Repeat("abc/", 60) + "e", strings.Repeat("l", MaxName): long, "bytes": "\"q' \\ é\ttab",
		"nl": "a\nb", "dots": "...", "ends-dot": "sub/.", "fill1": strings.Repeat("r", 110), "fill2": strings.Repeat("r", 111), "fill3": strings.Repeat("r", 112), "fill4": strings.Repeat("r", 113), "fill5": strings.Repeat("r", 130),
	} {
		tr.link("links/"+name, target)
	}
	slices.SortFunc(tr.entries[1:], func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return tr
}

// manyTree has 5,000 files in one directory.
func manyTree() *testTree {
	tr := newTree()
	tr.dir("many")
	for i := range 5000 {
		tr.file(fmt.Sprintf("many/file-number-%d.data", i*7919%5000), fmt.Sprint(i))
	}
	return tr
}

// memImage is an image in memory that fails reads past its end, as a device does.
type memImage []byte

func (m memImage) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(m)) {
		return 0, errors.New("read outside the image")
	}
	n := copy(p, m[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func openImage(t testing.TB, b []byte) *FS {
	t.Helper()
	f, err := Open(memImage(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const minute = time.Minute

func whole(_ string, s seen) seen { return s }
