package exfat

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"unicode/utf16"
)

// filler puts a tree into an empty volume that mkfs.exfat made, since no stock program writes exFAT without mounting it. fsck.exfat judges what it made.
type filler struct {
	t       *testing.T
	f       *os.File
	cluster int
	heap    int64
	fat     int64
	bitmap  int64    // byte
	root    []uint32 // clusters
	upcase  []uint16
	next    uint32 // cluster to try first
	files   int
	short   bool // every third file has valid bytes before its end only
}

func newFiller(t *testing.T, image string) *filler {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w := &filler{t: t, f: f}
	le := binary.LittleEndian
	boot := w.read(0, 512)
	w.cluster = 1 << (boot[108] + boot[109])
	w.fat = int64(le.Uint32(boot[80:])) << boot[108]
	w.heap = int64(le.Uint32(boot[88:])) << boot[108]
	for c := le.Uint32(boot[96:]); c != eoc; c = le.Uint32(w.read(w.fat+4*int64(c), 4)) {
		w.root = append(w.root, c)
		w.next = c + 1
	}
	entries := w.read(w.offset(w.root[0]), 96)
	for ; len(entries) > 0; entries = entries[32:] {
		at, n := w.offset(le.Uint32(entries[20:])), int(le.Uint64(entries[24:]))
		switch entries[0] {
		case typeBitmap:
			w.bitmap = at
		case typeUpcase:
			var why string
			if w.upcase, why = expandUpcase(w.read(at, n)); why != "" {
				t.Fatal(why)
			}
		}
	}
	return w
}

func (w *filler) read(off int64, n int) []byte {
	b := make([]byte, n)
	if _, err := w.f.ReadAt(b, off); err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *filler) write(b []byte, off int64) {
	if _, err := w.f.WriteAt(b, off); err != nil {
		w.t.Fatal(err)
	}
}

func (w *filler) offset(cluster uint32) int64 { return w.heap + int64(cluster-2)*int64(w.cluster) }

func (w *filler) link(cluster, next uint32) {
	w.write(binary.LittleEndian.AppendUint32(nil, next), w.fat+4*int64(cluster))
}

// take marks n clusters, which follow each other if solid and skip one and two in turn if not.
func (w *filler) take(n int, solid bool) []uint32 {
	var out []uint32
	for i := range n {
		out = append(out, w.next)
		at := w.bitmap + int64(w.next-2)/8
		w.write([]byte{w.read(at, 1)[0] | 1<<((w.next-2)%8)}, at)
		if w.next++; !solid {
			w.next += uint32(1 + i%2)
		}
	}
	if !solid { // the last ones come first
		slices.Reverse(out)
		for i, c := range out[:max(0, n-1)] {
			w.link(c, out[i+1])
		}
		if n > 0 {
			w.link(out[n-1], eoc)
		}
	}
	return out
}

// store writes bytes to clusters of their own and returns the first of them.
func (w *filler) store(b []byte, solid bool) uint32 {
	clusters := w.take((len(b)+w.cluster-1)/w.cluster, solid)
	for i, c := range clusters {
		w.write(b[i*w.cluster:min(len(b), (i+1)*w.cluster)], w.offset(c))
	}
	if len(clusters) == 0 {
		return 0
	}
	return clusters[0]
}

// entries writes the files of a directory and returns its entry sets. Every second file is a run without a chain.
func (w *filler) entries(dir string) []byte {
	list, err := os.ReadDir(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	var out []byte
	for _, e := range list {
		info, err := e.Info()
		if err != nil {
			w.t.Fatal(err)
		}
		w.files++
		x := item{name: utf16.Encode([]rune(e.Name())), attr: 0x20, flags: 1}
		solid := w.files%2 == 0
		if solid {
			x.flags = 3
		}
		if e.IsDir() {
			x.attr = attrDir
			b := w.entries(filepath.Join(dir, e.Name()))
			b = append(b, make([]byte, w.cluster-len(b)%w.cluster)...)
			x.first, x.size, x.valid = w.store(b, solid), uint64(len(b)), uint64(len(b))
		} else {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				w.t.Fatal(err)
			}
			x.size, x.valid = uint64(len(b)), uint64(len(b))
			if w.short && w.files%3 == 0 { // what is behind has another content on the medium
				for x.valid > 0 && b[x.valid-1] == 0 {
					b[x.valid-1] = 0xaa
					x.valid--
				}
			}
			if x.first = w.store(b, solid); x.first == 0 {
				x.flags = 1
			}
		}
		set := x.set()
		when := info.ModTime().UTC()
		binary.LittleEndian.PutUint32(set[12:], uint32((when.Year()-1980)<<25|int(when.Month())<<21|when.Day()<<16|when.Hour()<<11|when.Minute()<<5|when.Second()/2))
		set[21], set[23] = byte(when.Second()%2*100+when.Nanosecond()/10_000_000), 0x80
		folded := slices.Clone(x.name)
		for i, c := range folded {
			folded[i] = w.upcase[c]
		}
		binary.LittleEndian.PutUint16(set[36:], nameHash(folded))
		out = append(out, sumSet(set)...)
	}
	return out
}

// fill makes dir's tree that of the volume. The root directory goes on in as many clusters as it needs.
func (w *filler) fill(dir string) {
	b := append(w.read(w.offset(w.root[0]), 96), w.entries(dir)...)
	b = append(b, make([]byte, max(w.cluster-len(b)%w.cluster, len(w.root)*w.cluster-len(b)))...)
	more := w.take(len(b)/w.cluster-len(w.root), false)
	if len(more) > 0 {
		w.link(w.root[len(w.root)-1], more[0])
	}
	for i, c := range append(w.root, more...) {
		w.write(b[i*w.cluster:(i+1)*w.cluster], w.offset(c))
	}
}
