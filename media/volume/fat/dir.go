package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"

	"golang.org/x/text/encoding/charmap"

	"sallyport/media/volume"
)

// Attributes of a directory entry (section 6).
const (
	attrVolume   = 0x08
	attrDir      = 0x10
	attrLongName = 0x0f
)

// entry is one file or directory.
type entry struct {
	name       string
	attr       byte
	first      uint32 // cluster, 0 for none
	size       uint32 // bytes
	date, time uint16
	off        int64 // of its 32 bytes, from the volume's start; 0 for the root
}

func (e entry) isDir() bool { return e.attr&attrDir != 0 }

// modTime is the local time of whoever wrote the entry, read as UTC since the volume doesn't say which zone that was.
func (e entry) modTime() time.Time {
	month, day := max(1, e.date>>5&15), max(1, e.date&31)
	return time.Date(1980+int(e.date>>9), time.Month(month), int(day), int(e.time>>11), int(e.time>>5&63), int(e.time&31)*2, 0, time.UTC)
}

func (f *FS) root() entry { return entry{name: ".", attr: attrDir, first: f.rootCluster} }

// directory is a parsed one: its entries sorted by name.
type directory struct {
	entries []entry
	label   string
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
	slots, place, err := f.readSlots(e, path)
	if err != nil {
		return nil, err
	}
	p := dirParser{slots: slots, place: place, path: path, root: e.off == 0, self: e.first}
	p.parse()
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

// readSlots reads a directory's bytes, with a function for the place of each of them.
func (f *FS) readSlots(e entry, path string) ([]byte, func(int) int64, error) {
	if e.off == 0 && f.kind != 32 {
		b := make([]byte, f.rootSize)
		if err := f.readAt(b, f.rootStart); err != nil {
			return nil, nil, fmt.Errorf("%q: %w", path, err)
		}
		return b, func(i int) int64 { return f.rootStart + int64(i) }, nil
	}
	if e.first < 2 || e.first-2 >= f.clusters {
		return nil, nil, &FormatError{path, e.off, fmt.Sprintf("the directory's first cluster is %d, which the volume doesn't have", e.first)}
	}
	c, err := f.follow(e.first, 0, e.off, path)
	if err != nil {
		return nil, nil, err
	}
	b := make([]byte, int64(len(c.marks))*f.cluster) // at most maxDirSize and a cluster, so each has its mark
	for i, cl := range c.marks {
		if err := f.readAt(b[int64(i)*f.cluster:int64(i+1)*f.cluster], f.offset(cl)); err != nil {
			return nil, nil, fmt.Errorf("%q: %w", path, err)
		}
	}
	return b, func(i int) int64 { return f.offset(c.marks[int64(i)/f.cluster]) + int64(i)%f.cluster }, nil
}

// dirParser goes through the 32-byte slots of a directory as Linux' vfat does (fs/fat/dir.c): it doesn't stop at the end mark, where others stop.
type dirParser struct {
	slots []byte
	place func(int) int64
	path  string
	root  bool
	self  uint32 // the directory's first cluster

	out   directory
	list  volume.List
	ended int // the first slot behind an end mark, 0 before it
}

func (p *dirParser) slot(i int) []byte { return p.slots[32*i : 32*i+32] }

func (p *dirParser) find(code string, slot int, name, format string, args ...any) {
	path := p.path
	if path == "." {
		path = ""
	}
	if name != "" {
		path = strings.TrimPrefix(path+"/"+name, "/")
	}
	p.list.Add(code, p.place(32*slot), path, format, args...)
}

func isFree(s []byte) bool { return s[0] == 0 || s[0] == 0xe5 }

func (p *dirParser) parse() {
	n := len(p.slots) / 32
	warned := false
	for i := 0; i < n; i++ {
		s := p.slot(i)
		if s[0] == 0 && p.ended == 0 {
			p.ended = i + 1
		}
		if s[0] == 0xe5 || s[11] != attrLongName && (s[11]&attrVolume != 0 || isFree(s)) {
			if p.root && !isFree(s) && s[11]&attrVolume != 0 && p.out.label == "" && p.ended == 0 {
				p.out.label = trimName(unescape(s[:11]))
			}
			continue
		}
		var long []uint16
		at := i
		if s[11] == attrLongName {
			var ok bool
			if long, at, ok = p.longName(i); !ok {
				if s[0] != 0 {
					p.find("orphan-name", i, "", "there is a part of a long name that no entry belongs to")
				}
				i = at
				continue
			}
		}
		if p.ended != 0 && !warned {
			warned = true
			p.find("behind-end", at, "", "there are entries behind the directory's end mark, which some systems show and others don't")
		}
		p.add(at, long)
		i = at
	}
	p.finish()
}

// longName gathers the slots of a long name from slot i on (section 7) and returns the slot of the short entry that they belong to. With ok false they belong to none, and at is the last slot that was looked at. A short entry whose checksum is another has no long name.
func (p *dirParser) longName(i int) (long []uint16, at int, ok bool) {
	n := len(p.slots) / 32
	for restart := true; restart; {
		restart = false
		s := p.slot(i)
		count := int(s[0] &^ 0x40)
		if s[0]&0x40 == 0 || count == 0 || count > 20 {
			return nil, i, false
		}
		sum := s[13]
		long = make([]uint16, 13*count)
		for left := count - 1; ; left-- {
			for k, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
				long[13*left+k] = binary.LittleEndian.Uint16(s[at:])
			}
			if i++; i >= n {
				return nil, i - 1, false
			}
			s = p.slot(i)
			if left == 0 {
				break
			}
			if s[11] != attrLongName {
				// What follows is an entry by its short name, if it is one.
				if isFree(s) || s[11]&attrVolume != 0 {
					return nil, i, false
				}
				p.find("orphan-name", i, "", "a long name lacks a part, so its entry has its short name")
				return nil, i, true
			}
			if int(s[0]&^0x40) != left || s[13] != sum {
				restart = true
				break
			}
		}
		if restart {
			continue
		}
		switch {
		case s[0] == 0xe5:
			return nil, i, false
		case s[11] == attrLongName:
			restart = true
		case isFree(s) || s[11]&attrVolume != 0:
			return nil, i, false
		case checksum(s[:11]) != sum:
			p.find("orphan-name", i, "", "a long name belongs to another entry, so this one has its short name")
			return nil, i, true
		}
	}
	return long, i, true
}

// checksum is that of a short name, which its long name has in each part (section 7.2).
func checksum(short []byte) byte {
	var sum byte
	for _, c := range short {
		sum = sum<<7 | sum>>1
		sum += c
	}
	return sum
}

// add takes the entry in a slot under its long name, or its short one if there is none.
func (p *dirParser) add(i int, long []uint16) {
	s := p.slot(i)
	le := binary.LittleEndian
	e := entry{
		attr: s[11], size: le.Uint32(s[28:]), first: uint32(le.Uint16(s[20:]))<<16 | uint32(le.Uint16(s[26:])),
		time: le.Uint16(s[22:]), date: le.Uint16(s[24:]), off: p.place(32 * i),
	}
	if raw := string(s[:11]); long == nil && (raw == ".          " || raw == "..         ") {
		if p.root || i > 1 || len(strings.TrimSpace(raw)) != i+1 || !e.isDir() || i == 0 && e.first != p.self {
			p.find("dot-entry", i, "", "there is an entry %q that isn't what it has to be; it is left out", strings.TrimSpace(raw))
		}
		return
	}
	if long == nil {
		e.name = shortName(s)
	} else {
		end := slices.Index(long, 0)
		if end < 0 {
			end = len(long)
		} else if slices.ContainsFunc(long[end+1:], func(c uint16) bool { return c != 0xffff }) {
			p.find("name-slack", i, "", "there are bytes behind the end of a long name")
		}
		long = long[:end]
		e.name = string(utf16.Decode(long))
		if !validUTF16(long) {
			p.find("bad-name", i, "", "a name isn't valid UTF-16; its entry is left out: %q", e.name)
			return
		}
		if len(long) > 255 {
			p.find("bad-name", i, "", "a name has %d characters, more than 255; its entry is left out", len(long))
			return
		}
	}
	if !volume.ValidName(e.name) {
		p.find("bad-name", i, "", "a file can't be called %q; its entry is left out", e.name)
		return
	}
	p.out.entries = append(p.out.entries, e)
	p.out.cost += 96 + len(e.name)
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

// finish sorts the entries and leaves out the second one of a name.
func (p *dirParser) finish() {
	slices.SortStableFunc(p.out.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	kept := p.out.entries[:0]
	for _, e := range p.out.entries {
		if len(kept) > 0 && kept[len(kept)-1].name == e.name {
			p.list.Add("duplicate-name", e.off, strings.TrimPrefix(p.path+"/"+e.name, "./"), "there is a second entry of this name; it is left out")
			continue
		}
		kept = append(kept, e)
	}
	p.out.entries = kept
}

// shortName is how Linux and Windows show an 8.3 name: code page 437, the case bits of Windows NT applied.
func shortName(s []byte) string {
	b := unescape(s[:11])
	base, ext := trimName(b[:8]), trimName(b[8:])
	if s[12]&0x08 != 0 {
		base = strings.Map(unicode.ToLower, base)
	}
	if s[12]&0x10 != 0 {
		ext = strings.Map(unicode.ToLower, ext)
	}
	if ext == "" {
		return base
	}
	return base + "." + ext
}

// unescape puts back a first byte of 0xe5, which would mean a deleted entry and is stored as 5 (section 6.1).
func unescape(name []byte) []byte {
	b := slices.Clone(name)
	if b[0] == 0x05 {
		b[0] = 0xe5
	}
	return b
}

// trimName decodes code page 437 up to a NUL and drops the spaces at the end.
func trimName(b []byte) string {
	var out strings.Builder
	for _, c := range b {
		if c == 0 {
			break
		}
		out.WriteRune(charmap.CodePage437.DecodeByte(c))
	}
	return strings.TrimRight(out.String(), " ")
}

var errDepth = errors.New("too many directories below each other")
