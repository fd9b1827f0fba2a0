package exfat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"sallyport/media/volume"
)

// attrDir is the bit of FileAttributes that makes a directory (section 7.4.4).
const attrDir = 0x10

// entry is one file or directory.
type entry struct {
	name   string
	damage string // why it can't be opened, "" if it can
	dir    bool
	solid  bool   // its clusters follow each other, and the FAT doesn't say so (NoFatChain)
	first  uint32 // cluster, 0 for none
	size   int64  // bytes
	valid  int64  // bytes that were written; those behind are zeros
	stamp  uint32 // LastModifiedTimestamp
	tenms  byte   // hundredths of seconds to be added to it
	zone   byte   // LastModifiedUtcOffset
	off    int64  // of its first 32 bytes, from the volume's start; 0 for the root
}

// modTime is in UTC where the entry says from which zone it was (section 7.4.10), and is taken for UTC where it doesn't.
func (e entry) modTime() time.Time {
	s := e.stamp
	t := time.Date(1980+int(s>>25), time.Month(s>>21&15), int(s>>16&31), int(s>>11&31), int(s>>5&63), int(s&31)*2, 0, time.UTC)
	t = t.Add(time.Duration(e.tenms) * 10 * time.Millisecond)
	if e.zone&0x80 != 0 {
		quarters := int8(e.zone<<1) >> 1 // seven bits with a sign
		t = t.Add(-time.Duration(quarters) * 15 * time.Minute)
	}
	return t
}

func (f *FS) root() entry { return entry{name: ".", dir: true, first: f.rootCluster} }

// directory is a parsed one: its entries sorted by name.
type directory struct {
	entries []entry
	cost    int // bytes, about
}

// dirCache keeps parsed directories until they take too much memory, those used last the longest.
type dirCache struct {
	byOffset map[int64]*directory // by the place of the directory's own entry
	order    []int64
	cost     int
	read     map[int64]bool // directories whose findings are known
}

func (c *dirCache) get(off int64) *directory {
	d := c.byOffset[off]
	if d != nil {
		i := slices.Index(c.order, off)
		c.order = append(slices.Delete(c.order, i, i+1), off)
	}
	return d
}

func (c *dirCache) put(off int64, d *directory) {
	if c.byOffset == nil {
		c.byOffset = map[int64]*directory{}
	}
	if c.byOffset[off] != nil { // two readers at once
		return
	}
	for len(c.order) > 0 && c.cost+d.cost > maxCached || len(c.order) >= 256 {
		old := c.order[0]
		c.cost -= c.byOffset[old].cost
		delete(c.byOffset, old)
		c.order = slices.Delete(c.order, 0, 1)
	}
	c.byOffset[off], c.order, c.cost = d, append(c.order, off), c.cost+d.cost
}

// dir reads a directory, or takes it from memory.
func (f *FS) dir(e entry, path string) (*directory, error) {
	f.mu.Lock()
	d := f.dirs.get(e.off)
	f.mu.Unlock()
	if d != nil {
		return d, nil
	}
	p := dirParser{f: f, path: path, root: e.off == 0, seed: maphash.MakeSeed(), seen: map[uint64]int32{}}
	if err := f.parse(&p, e); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dirs.read == nil {
		f.dirs.read = map[int64]bool{}
	}
	if !f.dirs.read[e.off] {
		f.dirs.read[e.off] = true
		for _, x := range p.list.All() {
			f.list.Add(x.Code, x.Offset, x.Path, "%s", x.Detail)
		}
	}
	f.dirs.put(e.off, &p.out)
	return &p.out, nil
}

func (f *FS) parse(p *dirParser, e entry) error {
	path := p.path
	fail := func(format string, args ...any) error {
		return &FormatError{path, e.off, fmt.Sprintf(format, args...)}
	}
	size, want := e.size, uint32(0)
	switch {
	case e.damage != "":
		return fail("%s", e.damage)
	case p.root:
	case size > maxDirSize:
		return fail("the directory has %d bytes, more than %d", size, maxDirSize)
	case size == 0 && e.first == 0:
		return nil
	case size == 0:
		return fail("the directory has no bytes and starts at cluster %d", e.first)
	default:
		want = uint32((size + f.cluster - 1) / f.cluster)
		if size%f.cluster != 0 || e.valid != size {
			p.find("dir-size", e.off, "", "the directory has %d bytes, %d of them valid, and clusters have %d", size, e.valid, f.cluster)
		}
	}
	c, err := f.follow(e.first, want, e.solid, e.off, path)
	if err != nil {
		return err
	}
	if p.root {
		size = int64(c.count) * f.cluster
	}
	if err := f.slots(c, size, path, p.slot); err != nil {
		return err
	}
	p.incomplete()
	if p.out.cost > maxDirCost {
		return fail("the directory's entries take more than %d bytes of memory", maxDirCost)
	}
	slices.SortFunc(p.out.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return nil
}

// slots goes through the 32-byte entries of a directory of size bytes, with the place of each.
func (f *FS) slots(c chain, size int64, path string, each func(s []byte, off int64)) error {
	buf := make([]byte, min(f.cluster, 64<<10))
	for i := range c.count {
		cl, err := f.at(c, i, path)
		if err != nil {
			return err
		}
		for at := f.offset(cl); at < f.offset(cl)+f.cluster && size >= 32; at += int64(len(buf)) {
			n := min(int64(len(buf)), size) &^ 31
			if err := f.readAt(buf[:n], at); err != nil {
				return fmt.Errorf("%q: %w", path, err)
			}
			for k := int64(0); k < n; k += 32 {
				each(buf[k:k+32], at+k)
			}
			size -= n
		}
	}
	return nil
}

// dirParser goes through the slots of a directory one after another (chapter 6). An entry set is a file's entry, one of its stream, those of its name, and whatever vendors add.
type dirParser struct {
	f    *FS
	path string
	root bool

	set   []byte // the entry set that is gathered
	need  int    // bytes of the whole set, 0 while none is gathered
	off   int64  // of the set
	ended bool
	late  bool // an entry behind the end was reported

	out  directory
	list volume.List
	seed maphash.Seed
	seen map[uint64]int32 // hash of a name in upper case → its entry
}

func (p *dirParser) find(code string, off int64, name, format string, args ...any) {
	p.list.Add(code, off, p.join(name), format, args...)
}

func (p *dirParser) join(name string) string {
	if name == "" {
		return shown(p.path)
	}
	return strings.TrimPrefix(shown(p.path)+"/"+name, "/")
}

func (p *dirParser) slot(s []byte, off int64) {
	if p.out.cost > maxDirCost {
		return
	}
	if p.ended {
		if s[0]&inUse != 0 && !p.late {
			p.late = true
			p.find("behind-end", off, "", "there are entries behind the directory's end mark, which no system shows")
		}
		return
	}
	if p.need > 0 {
		if s[0]&(inUse|secondary) == inUse|secondary {
			if p.set = append(p.set, s...); len(p.set) == p.need {
				p.file()
				p.need = 0
			}
			return
		}
		p.incomplete()
	}
	switch t := s[0]; {
	case t == 0:
		p.ended = true
	case t&inUse == 0:
	case t == typeFile:
		p.off, p.need = off, 32*(1+int(s[1]))
		p.set = append(p.set[:0], s...)
		if s[1] < 2 {
			p.incomplete()
		}
	case t&secondary != 0:
		p.find("orphan-entry", off, "", "there is an entry of type 0x%02x that belongs to no file", t)
	case p.root && (t == typeBitmap || t == typeUpcase || t == typeLabel || t == typeGUID):
	default:
		p.find("unknown-entry", off, "", "there is an entry of type 0x%02x, which isn't known here", t)
	}
}

// incomplete drops an entry set that lacks a part.
func (p *dirParser) incomplete() {
	if p.need > 0 {
		p.need = 0
		p.find("bad-entry-set", p.off, "", "an entry set lacks a part; it is left out")
	}
}

// file takes a whole entry set (sections 7.4, 7.6 and 7.7).
func (p *dirParser) file() {
	set, le := p.set, binary.LittleEndian
	stream := set[32:64]
	chars := int(stream[3])
	names := (chars + 14) / 15
	if stream[0] != typeStream || chars == 0 || len(set) < 32*(2+names) {
		p.find("bad-entry-set", p.off, "", "an entry set has no stream or no name; it is left out")
		return
	}
	name, vendor := make([]uint16, 0, 15*names), 0
	for i := 2; i < len(set)/32; i++ {
		s := set[32*i : 32*i+32]
		switch {
		case (i < 2+names) != (s[0] == typeName) || i >= 2+names && s[0]&benign == 0:
			p.find("bad-entry-set", p.off, "", "an entry set has an entry of type 0x%02x where its name is or ends; it is left out", s[0])
			return
		case i < 2+names:
			for k := 2; k < 32; k += 2 {
				name = append(name, le.Uint16(s[k:]))
			}
		case vendor == 0:
			vendor = i
		}
	}
	slack := slices.ContainsFunc(name[chars:], func(c uint16) bool { return c != 0 })
	name = name[:chars]
	e := entry{
		name: string(utf16.Decode(name)), off: p.off, dir: le.Uint16(set[4:])&attrDir != 0,
		solid: stream[1]&2 != 0, first: le.Uint32(stream[20:]),
		valid: clamp(le.Uint64(stream[8:])), size: clamp(le.Uint64(stream[24:])),
		stamp: le.Uint32(set[12:]), tenms: set[21], zone: set[23],
	}
	if !validUTF16(name) || !volume.ValidName(e.name) {
		p.find("bad-name", p.off, "", "a file can't be called %q; its entry is left out", e.name)
		return
	}
	if vendor != 0 {
		p.find("vendor-data", p.off, e.name, "the file has data of a vendor, of type 0x%02x, which isn't read", set[32*vendor])
	}
	if slack {
		p.find("name-slack", p.off, e.name, "there are bytes behind the end of a name")
	}
	if strings.ContainsFunc(e.name, func(r rune) bool { return r < ' ' || strings.ContainsRune(`"*:<>?\|`, r) }) {
		p.find("name-characters", p.off, e.name, "the name has characters that exFAT doesn't allow")
	}
	folded := p.f.fold(name)
	if p.known(folded, e) {
		return
	}
	p.verify(&e, folded)
	p.out.entries = append(p.out.entries, e)
	p.out.cost += 112 + len(e.name) + len(e.damage)
}

func clamp(v uint64) int64 { return int64(min(v, math.MaxInt64)) }

// known reports whether the directory has an entry whose name differs in case at most. The first one counts, as in Linux, which opens it by either name.
func (p *dirParser) known(folded []uint16, e entry) bool {
	b := make([]byte, 0, 2*len(folded))
	for _, c := range folded {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	h := maphash.Bytes(p.seed, b)
	i, ok := p.seen[h]
	if !ok {
		p.seen[h] = int32(len(p.out.entries))
		return false
	}
	first := p.out.entries[i].name
	if !slices.Equal(p.f.fold(utf16.Encode([]rune(first))), folded) {
		return false
	}
	p.find("duplicate-name", e.off, e.name, "there is another entry of this name, %q; the second one is left out", first)
	return true
}

// verify compares an entry set with its checksum and its name with its hash. What is wrong is listed and can't be opened.
func (p *dirParser) verify(e *entry, folded []uint16) {
	le := binary.LittleEndian
	if sum, want := setChecksum(p.set), le.Uint16(p.set[2:]); sum != want {
		e.damage = fmt.Sprintf("the entry set's checksum is %04x, not %04x", sum, want)
		p.find("entry-checksum", e.off, e.name, "%s", e.damage)
	} else if hash, want := nameHash(folded), le.Uint16(p.set[32+4:]); p.f.upcase != nil && hash != want {
		e.damage = fmt.Sprintf("the hash of its name is %04x, not %04x", hash, want)
		p.find("name-hash", e.off, e.name, "%s", e.damage)
	} else if e.valid > e.size {
		e.damage = fmt.Sprintf("%d bytes were written of its %d", e.valid, e.size)
	} else if e.size > 0 && p.set[32+1]&1 == 0 {
		e.damage = fmt.Sprintf("it has %d bytes and its stream says that it can have none", e.size)
	}
}

func validUTF16(u []uint16) bool {
	for i := 0; i < len(u); i++ {
		switch {
		case !utf16.IsSurrogate(rune(u[i])):
		case u[i] < 0xdc00 && i+1 < len(u) && u[i+1] >= 0xdc00 && u[i+1] < 0xe000:
			i++
		default:
			return false
		}
	}
	return true
}

var errDepth = errors.New("too many directories below each other")
