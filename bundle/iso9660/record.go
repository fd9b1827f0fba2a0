package iso9660

import (
	"encoding/binary"
	"io/fs"
	"sort"
	"strings"
	"time"
)

// The ER entry of RRIP 1.09 (RRIP 4.3), as readers know it.
const (
	erID     = "RRIP_1991A"
	erText   = "THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS"
	erSource = "PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN PRIMARY VOLUME DESCRIPTOR FOR CONTACT INFORMATION."
)

const (
	lenSP = 7
	lenPX = 36
	lenTF = 5 + 7
	lenCE = 28
	lenNM = 5 // and the name
	lenSL = 5 // and the components
	lenER = 8 + len(erID) + len(erText) + len(erSource)

	maxEntry = 255 // bytes of a system use entry
)

// Records of a directory are counted as items: 0 is ".", 1 is "..", 2+k is child k. A file of several extents has a record for each.
type recordID struct {
	item   int32
	extent int32
}

// A mark says what a block of the directories begins with, so that any block can be made without those before it.
type mark struct {
	recordID
	area int64 // offset in the directory's continuation areas where the search for the next area's place begins
}

func extents(size int64) int32 {
	if size <= maxExtent {
		return 1
	}
	return int32((size + maxExtent - 1) / maxExtent)
}

// next returns the record behind r in directory d.
func (l *Layout) next(d *dir, r recordID) recordID {
	if r.item >= 2 {
		e := &l.entries[l.kids[d.first+r.item-2]]
		if e.Mode.IsRegular() && r.extent+1 < extents(e.Size) {
			return recordID{r.item, r.extent + 1}
		}
	}
	return recordID{r.item + 1, 0}
}

// subject returns the index in entries of what a record describes.
func (l *Layout) subject(d *dir, r recordID) int32 {
	switch r.item {
	case 0:
		return d.entry
	case 1:
		return l.dirs[d.parent].entry
	}
	return l.kids[d.first+r.item-2]
}

// A recordSize is the length of a record and what its system use field holds.
type recordSize struct {
	record int // bytes, even
	area   int // bytes of the continuation area, 0 without one
	name   int // bytes of the name in the record
}

func even(n int) int { return n + n&1 }

func (l *Layout) recordSize(d *dir, r recordID) recordSize {
	if r.item < 2 {
		n := minRecord + lenPX + lenTF
		if r.item == 0 && d.entry == 0 {
			return recordSize{record: even(n + lenSP + lenCE), area: lenER}
		}
		return recordSize{record: even(n)}
	}
	i := l.subject(d, r)
	e := &l.entries[i]
	name := baseName(e.Path)
	fixed := 33 + identLen(name, e.Mode.IsDir(), l.nodes[i].ord)
	fixed = even(fixed) + lenPX + lenTF
	links := 0
	if e.Mode.Type() == fs.ModeSymlink {
		links = linkLen(e.Target)
	}
	if n := fixed + lenNM + len(name) + links; n <= maxRecord {
		return recordSize{record: even(n), name: len(name)}
	}
	room := maxRecord - fixed - lenCE - lenNM
	s := recordSize{area: links, name: min(len(name), room)}
	if rest := len(name) - s.name; rest > 0 {
		s.area += lenNM + rest
	}
	s.record = even(fixed + lenNM + s.name + lenCE)
	return s
}

// placeArea returns where n bytes of a continuation area go when the areas so far end at end: no area crosses a block's end.
func placeArea(end int64, n int) int64 {
	if end%BlockSize+int64(n) > BlockSize {
		return blocksOf(end) * BlockSize
	}
	return end
}

// markDir appends the marks of directory d and sets its numbers of blocks. areas is scratch space, returned for the next call.
func (l *Layout) markDir(d *dir, areas []mark) []mark {
	var pos, end int64
	for r := (recordID{}); r.item < d.n+2; r = l.next(d, r) {
		s := l.recordSize(d, r)
		if pos%BlockSize+int64(s.record) > BlockSize {
			pos = blocksOf(pos) * BlockSize
		}
		if pos%BlockSize == 0 {
			l.marks = append(l.marks, mark{r, end})
		}
		pos += int64(s.record)
		if s.area > 0 {
			at := placeArea(end, s.area)
			if at%BlockSize == 0 {
				areas = append(areas, mark{r, at})
			}
			end = at + int64(s.area)
		}
	}
	l.marks = append(l.marks, areas...)
	d.recBlocks, d.caBlocks = uint32(blocksOf(pos)), uint32(blocksOf(end))
	return areas
}

// dirBlock fills b with block lba of the directories.
func (l *Layout) dirBlock(b *[BlockSize]byte, lba int64) {
	clear(b[:])
	k := sort.Search(len(l.dirs), func(k int) bool { return int64(l.dirs[k].lba) > lba }) - 1
	d := &l.dirs[k]
	m := l.marks[lba-l.dirLBA]
	areaStart := (int64(d.lba) + int64(d.recBlocks)) * BlockSize
	if lba*BlockSize < areaStart {
		end := m.area
		for pos, r := 0, m.recordID; r.item < d.n+2; r = l.next(d, r) {
			s := l.recordSize(d, r)
			if pos+s.record > BlockSize {
				return
			}
			at := placeArea(end, s.area)
			l.putRecord(b[pos:pos+s.record], d, r, s, areaStart+at)
			if s.area > 0 {
				end = at + int64(s.area)
			}
			pos += s.record
		}
		return
	}
	start := lba*BlockSize - areaStart
	for end, r := m.area, m.recordID; r.item < d.n+2; r = l.next(d, r) {
		s := l.recordSize(d, r)
		if s.area == 0 {
			continue
		}
		at := placeArea(end, s.area)
		if at >= start+BlockSize {
			return
		}
		l.appendArea(b[at-start:at-start], d, r, s)
		end = at + int64(s.area)
	}
}

// putRecord fills b, which is as long as the record, with a directory record (ECMA-119 9.1) whose continuation area, if it has one, is at byte area of the volume.
func (l *Layout) putRecord(b []byte, d *dir, r recordID, s recordSize, area int64) {
	i := l.subject(d, r)
	e := &l.entries[i]
	ident := make([]byte, 0, 64)
	switch {
	case r.item < 2:
		ident = append(ident, byte(r.item))
	default:
		ident = appendIdent(ident, baseName(e.Path), e.Mode.IsDir(), l.nodes[i].ord)
	}
	lba, size, flags := l.recordExtent(i, r)
	su := putRecordHead(b, ident, lba, size, e.ModTime, flags)
	if r.item == 0 && d.entry == 0 {
		su = append(su, 'S', 'P', lenSP, 1, 0xBE, 0xEF, 0)
	}
	links := uint32(1)
	if e.Mode.IsDir() {
		links = 2 + uint32(l.dirs[l.nodes[i].at].subdirs)
	}
	su = appendPX(su, e.Mode, links)
	su = append(su, 'T', 'F', lenTF, 1, 0x02)
	su = appendTime7(su, e.ModTime)
	if r.item >= 2 {
		name := baseName(e.Path)
		su = appendNM(su, name[:s.name], s.name < len(name))
		if e.Mode.Type() == fs.ModeSymlink && s.area == 0 {
			su = appendSL(su, e.Target)
		}
	}
	if s.area > 0 {
		su = append(su, 'C', 'E', lenCE, 1)
		su = append733(su, uint32(area/BlockSize))
		su = append733(su, uint32(area%BlockSize))
		append733(su, uint32(s.area))
	}
}

// recordExtent returns location, data length and file flags of record r of entry i.
func (l *Layout) recordExtent(i int32, r recordID) (lba, size uint32, flags byte) {
	e, n := &l.entries[i], l.nodes[i]
	if e.Mode.IsDir() {
		d := &l.dirs[n.at]
		return d.lba, d.recBlocks * BlockSize, flagDirectory
	}
	if e.Size == 0 {
		return 0, 0, 0
	}
	before := int64(r.extent) * maxExtent
	rest := e.Size - before
	if rest > maxExtent {
		rest, flags = maxExtent, flagMore
	}
	return n.at + uint32(before/BlockSize), uint32(rest), flags
}

// appendArea appends the continuation area of a record.
func (l *Layout) appendArea(b []byte, d *dir, r recordID, s recordSize) []byte {
	if r.item == 0 {
		b = append(b, 'E', 'R', byte(lenER), 1, byte(len(erID)), byte(len(erText)), byte(len(erSource)), 1)
		b = append(b, erID...)
		b = append(b, erText...)
		return append(b, erSource...)
	}
	e := &l.entries[l.subject(d, r)]
	if name := baseName(e.Path); s.name < len(name) {
		b = appendNM(b, name[s.name:], false)
	}
	if e.Mode.Type() == fs.ModeSymlink {
		b = appendSL(b, e.Target)
	}
	return b
}

// putRecordHead writes a record up to its system use field, which it returns empty, to be appended to in place.
func putRecordHead(b, ident []byte, lba, size uint32, mtime int64, flags byte) []byte {
	b[0] = byte(len(b))
	append733(b[2:2], lba)
	append733(b[10:10], size)
	appendTime7(b[18:18], mtime)
	b[25] = flags
	append723(b[28:28], 1)
	b[32] = byte(len(ident))
	copy(b[33:], ident)
	n := even(33 + len(ident))
	return b[n:n]
}

func appendPX(b []byte, mode fs.FileMode, links uint32) []byte {
	m := uint32(mode.Perm())
	switch mode.Type() {
	case fs.ModeDir:
		m |= sIFDIR
	case fs.ModeSymlink:
		m |= sIFLNK
	default:
		m |= sIFREG
	}
	b = append(b, 'P', 'X', lenPX, 1)
	b = append733(b, m)
	b = append733(b, links)
	b = append733(b, 0)
	return append733(b, 0)
}

func appendNM(b []byte, name string, more bool) []byte {
	var flags byte
	if more {
		flags = nmContinue
	}
	b = append(b, 'N', 'M', byte(lenNM+len(name)), 1, flags)
	return append(b, name...)
}

// cutLink divides a target for one SL entry: whole is what it holds as whole components, part the beginning of the name that goes on in the next entry, and rest what is left for that; rest is empty for the last entry.
//
// An entry that is not the last ends inside a name, if need be before its first byte: libarchive joins two entries without a slash, isofs puts one in unless the last component goes on, so only this reads the same everywhere.
func cutLink(target string) (whole, part, rest string) {
	const room = maxEntry - lenSL
	n, cut := 0, -1 // cut: where the last name begins that can be begun in this entry
	var left int    // bytes for it
	for at := 0; at < len(target); {
		name, _, _ := strings.Cut(target[at:], "/")
		special := name == "." || name == ".."
		size := 2
		if !special {
			size += len(name)
			if n+2 <= room {
				cut, left = at, room-n-2
			}
		}
		if n += size; n > room {
			name, _, _ = strings.Cut(target[cut:], "/")
			k := cut + min(len(name)-1, left)
			return target[:cut], target[cut:k], target[k:]
		}
		at += len(name) + 1
	}
	return target, "", ""
}

// linkLen returns the length of the SL entries of a target.
func linkLen(target string) int {
	var b [4 * maxEntry]byte
	return len(appendSL(b[:0], target))
}

// appendSL appends the SL entries of a target (RRIP 4.1.3), a component for each part of it.
func appendSL(b []byte, target string) []byte {
	for more := true; more; {
		whole, part, rest := cutLink(target)
		more = rest != ""
		start := len(b)
		b = append(b, 'S', 'L', 0, 1, 0)
		for whole != "" {
			var name string
			name, whole, _ = strings.Cut(whole, "/")
			switch name {
			case ".":
				b = append(b, slCurrent, 0)
			case "..":
				b = append(b, slParent, 0)
			default:
				b = append(b, 0, byte(len(name)))
				b = append(b, name...)
			}
		}
		if more {
			b[start+4] = slContinue
			b = append(b, slContinue, byte(len(part)))
			b = append(b, part...)
		}
		b[start+2] = byte(len(b) - start)
		target = rest
	}
	return b
}

// append733 appends a 32-bit number in both byte orders (ECMA-119 7.3.3).
func append733(b []byte, v uint32) []byte {
	b = binary.LittleEndian.AppendUint32(b, v)
	return binary.BigEndian.AppendUint32(b, v)
}

// append723 appends a 16-bit number in both byte orders (7.2.3).
func append723(b []byte, v uint16) []byte {
	b = binary.LittleEndian.AppendUint16(b, v)
	return binary.BigEndian.AppendUint16(b, v)
}

// appendTime7 appends a time as in a directory record (9.1.5), in UTC.
func appendTime7(b []byte, sec int64) []byte {
	t := time.Unix(sec, 0).UTC()
	return append(b, byte(t.Year()-1900), byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()), 0)
}
