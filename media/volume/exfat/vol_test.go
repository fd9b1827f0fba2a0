package exfat

import (
	"bytes"
	"encoding/binary"
	"io"
	"io/fs"
	"math/bits"
	"slices"
	"strings"
	"unicode/utf16"
)

// vol is a volume put together by hand: clusters of a sector of 512 bytes, 400 of them, the bitmap in cluster 2, the up-case table in 3, and the root directory in 4 and 5.
type vol struct {
	b         []byte
	fat, heap int // bytes where the FAT and cluster 2 start
	sector    int // bytes
}

const (
	testClusters = 400
	testFat      = 24 * 512
	testFatSize  = 4 * 512
	testHeap     = testFat + testFatSize
)

func newVol() vol { return bigVol(512, testClusters) }

// bigVol has other sectors and another number of clusters. The bitmap of more than eight for each byte of a cluster doesn't fit.
func bigVol(sector, clusters int) vol {
	fat := ((clusters+2)*4 + sector - 1) &^ (sector - 1)
	v := vol{make([]byte, 24*sector+fat+clusters*sector), 24 * sector, 24*sector + fat, sector}
	le := binary.LittleEndian
	copy(v.b, "\xeb\x76\x90EXFAT   ")
	le.PutUint64(v.b[72:], uint64(len(v.b)/sector))
	le.PutUint32(v.b[80:], 24)
	le.PutUint32(v.b[84:], uint32(fat/sector))
	le.PutUint32(v.b[88:], uint32(v.heap/sector))
	le.PutUint32(v.b[92:], uint32(clusters))
	le.PutUint32(v.b[96:], 4)
	v.b[105], v.b[108], v.b[110], v.b[112] = 1, byte(bits.TrailingZeros(uint(sector))), 1, 50
	v.b[510], v.b[511] = 0x55, 0xaa
	for i := 1; i <= 8; i++ {
		le.PutUint32(v.b[(i+1)*sector-4:], 0xaa550000)
	}
	le.PutUint32(v.b[v.fat:], 0xfffffff8)
	le.PutUint32(v.b[v.fat+4:], 0xffffffff)
	v.chain(2).chain(3).chain(4, 5)
	table := upcaseTable()
	copy(v.b[v.data(3):], table)
	at := v.data(4)
	at = v.system(at, typeBitmap, 2, (clusters+7)/8, 0)
	at = v.system(at, typeUpcase, 3, len(table), sum32(table))
	v.label(at, "TEST 😀")
	return v.seal()
}

// upcaseTable is that of ASCII and of ä, ö and ü, compressed.
func upcaseTable() []byte {
	var b []byte
	put := func(u ...uint16) {
		for _, c := range u {
			b = binary.LittleEndian.AppendUint16(b, c)
		}
	}
	for i := range uint16('a') {
		put(i)
	}
	for i := uint16('A'); i <= 'Z'; i++ {
		put(i)
	}
	put('{', '|', '}', '~', 127, 0xffff, 0xe4-128, 0xc4, 0xffff, 0xf6-0xe5, 0xd6, 0xffff, 0xfc-0xf7, 0xdc, 0xffff, 0xff03)
	return b
}

func sum32(b []byte) (sum uint32) {
	for _, c := range b {
		sum = sum>>1 + sum<<31 + uint32(c)
	}
	return sum
}

// seal makes the boot region's checksum right, and the copy equal.
func (v vol) seal() vol {
	var sum uint32
	for i, c := range v.b[:11*v.sector] {
		if i != 106 && i != 107 && i != 112 {
			sum = sum>>1 + sum<<31 + uint32(c)
		}
	}
	for i := 11 * v.sector; i < 12*v.sector; i += 4 {
		binary.LittleEndian.PutUint32(v.b[i:], sum)
	}
	copy(v.b[12*v.sector:24*v.sector], v.b)
	return v
}

func (v vol) data(cluster int) int { return v.heap + (cluster-2)*v.sector }

func (v vol) link(cluster int, next uint32) vol {
	binary.LittleEndian.PutUint32(v.b[v.fat+4*cluster:], next)
	return v
}

// mark says in the bitmap whether a cluster is in use.
func (v vol) mark(cluster int, used bool) vol {
	at, bit := v.data(2)+(cluster-2)/8, byte(1)<<((cluster-2)%8)
	v.b[at] &^= bit
	if used {
		v.b[at] |= bit
	}
	return v
}

const eoc = 0xffffffff

// chain links clusters to each other, the last one as the end, and marks them.
func (v vol) chain(clusters ...int) vol {
	for i, c := range clusters {
		v.mark(c, true)
		if i+1 < len(clusters) {
			v.link(c, uint32(clusters[i+1]))
		} else {
			v.link(c, eoc)
		}
	}
	return v
}

func (v vol) system(at int, kind byte, first, length int, sum uint32) int {
	s := v.b[at : at+32]
	clear(s)
	s[0] = kind
	le := binary.LittleEndian
	le.PutUint32(s[4:], sum)
	le.PutUint32(s[20:], uint32(first))
	le.PutUint64(s[24:], uint64(length))
	return at + 32
}

func (v vol) label(at int, label string) int {
	s := v.b[at : at+32]
	clear(s)
	s[0] = typeLabel
	for i, c := range utf16.Encode([]rune(label)) {
		s[1]++
		binary.LittleEndian.PutUint16(s[2+2*i:], c)
	}
	return at + 32
}

// item is an entry set before it is written.
type item struct {
	name        []uint16
	attr        uint16
	flags       byte // of the stream: 1 it may have clusters, 2 they follow each other
	first       uint32
	valid, size uint64
	more        [][]byte // entries behind the name
}

func u16(s string) []uint16 { return utf16.Encode([]rune(s)) }

// set is an entry set with its checksum and the hash of its name, that of upcaseTable.
func (x item) set() []byte {
	le := binary.LittleEndian
	names := (len(x.name) + 14) / 15
	b := make([]byte, 32*(2+names))
	b[0], b[1] = typeFile, byte(1+names+len(x.more))
	le.PutUint16(b[4:], x.attr)
	le.PutUint32(b[12:], 46<<25|7<<21|9<<16|12<<11|34<<5|28)
	b[21], b[23] = 150, 0x80|8 // a second and a half, two hours east
	s := b[32:]
	s[0], s[1], s[3] = typeStream, x.flags, byte(len(x.name))
	le.PutUint16(s[4:], hash(x.name))
	le.PutUint64(s[8:], x.valid)
	le.PutUint32(s[20:], x.first)
	le.PutUint64(s[24:], x.size)
	for i, c := range x.name {
		le.PutUint16(b[64+32*(i/15)+2+2*(i%15):], c)
	}
	for i := range names {
		b[64+32*i] = typeName
	}
	return sumSet(append(b, slices.Concat(x.more...)...))
}

// hash is that of a name, worked out beside the reader's.
func hash(name []uint16) (h uint16) {
	upper := map[uint16]uint16{0xe4: 0xc4, 0xf6: 0xd6, 0xfc: 0xdc}
	for _, c := range name {
		if c >= 'a' && c <= 'z' {
			c -= 32
		}
		if u, ok := upper[c]; ok {
			c = u
		}
		for _, b := range []byte{byte(c), byte(c >> 8)} {
			h = h>>1 + h<<15 + uint16(b)
		}
	}
	return h
}

// sumSet makes an entry set's checksum right.
func sumSet(b []byte) []byte {
	var sum uint16
	for i, c := range b {
		if i != 2 && i != 3 {
			sum = sum>>1 + sum<<15 + uint16(c)
		}
	}
	binary.LittleEndian.PutUint16(b[2:], sum)
	return b
}

// put writes an entry set at byte at and returns the byte behind it. Places go on in the next cluster as bytes do.
func (v vol) put(at int, x item) int { return at + copy(v.b[at:], x.set()) }

func plainItem(name string, first, size int) item {
	return item{u16(name), 0x20, 1, uint32(first), uint64(size), uint64(size), nil}
}

func solidItem(name string, first, size int) item {
	x := plainItem(name, first, size)
	x.flags = 3
	return x
}

func dirItem(name string, first int) item {
	x := plainItem(name, first, 512)
	x.attr = attrDir
	return x
}

// Where the sample's directory has room.
const inDir = 192

// sample has a file of three scattered clusters, one of two that follow each other, one that wasn't written to its end, an empty one, and a directory with a file.
func sample() vol {
	v := newVol()
	v.chain(10, 30, 20).chain(50).chain(60).chain(80)
	v.mark(40, true).mark(41, true).link(40, 999).link(41, 2) // the FAT has no say there
	for i := range 512 * (testClusters - 8) {
		v.b[v.data(10)+i] = byte(i>>9*7 + i)
	}
	at := v.data(4) + 96
	at = v.put(at, plainItem("a.TXT", 10, 1500))
	at = v.put(at, solidItem("Übung mit 😀 und noch mehr.bin", 40, 1000))
	half := plainItem("half", 80, 500)
	half.valid = 100
	at = v.put(at, half)
	at = v.put(at, dirItem("DIR", 50))
	v.put(at, item{u16("EMPTY"), 0x20, 1, 0, 0, 0, nil})
	clear(v.b[v.data(50) : v.data(50)+512])
	at = v.put(v.data(50), plainItem("b.txt", 60, 512))
	copy(v.b[at:], v.b[v.data(50):at]) // deleted
	v.b[at] &^= inUse
	v.b[at+32] &^= inUse
	v.b[at+64] &^= inUse
	return v
}

func (v vol) open() (*FS, error) { return Open(bytes.NewReader(v.b), int64(len(v.b))) }

// contents is what a tree has: sizes and bytes by path, a slash at the end of a directory's, errors beside it.
func contents(fsys *FS) (map[string]string, map[string]error) {
	out, bad := map[string]string{}, map[string]error{}
	fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			bad[path] = err
			delete(out, path+"/")
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
