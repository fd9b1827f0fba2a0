package iso9660

import (
	"bytes"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

const (
	cachedEntries = 1 << 18 // entries of directories kept for the next look, but for a larger last one
	maxReadDepth  = 256     // levels of directories; images of other writers go deeper than ours
)

// An entry is one file of a directory that was read. It is its own fs.DirEntry and fs.FileInfo.
type entry struct {
	name, target    string
	size            int64 // bytes
	mtime           int64 // seconds since 1970
	record          int64 // byte offset of its directory record
	mode            fs.FileMode
	lba             uint32
	parent          uint32   // LBA of the directory it is in
	extents         []Extent // when there are several
	uid, gid, links uint32
	bad             badness
	relocated       bool // a directory found through CL
}

// badness says why a file can't be opened.
type badness uint8

const (
	badInterleaved badness = 1 << iota
	badSparse
	badCompressed
	badOutside
)

func (b badness) String() string {
	switch {
	case b&badOutside != 0:
		return "data are outside the volume"
	case b&badInterleaved != 0:
		return "interleaved files are not read"
	case b&badSparse != 0:
		return "sparse files (SF) are not read"
	}
	return "compressed files (ZF) are not read"
}

// A dirParser reads one directory.
type dirParser struct {
	f     *FS
	path  string
	first bool // the first reading: what it costs is counted
	use   systemUse
	list  []*entry
	more  *entry // a file whose next extent must follow
	ident []byte // of more
}

func (p *dirParser) fault(off int64, format string, args ...any) error {
	return &FormatError{Offset: off, Path: p.path, Msg: fmt.Sprintf(format, args...)}
}

// spend counts bytes of directories and continuation areas. Honest images have each once, so twice the image is never needed.
func (p *dirParser) spend(n, off int64) error {
	if !p.first {
		return nil
	}
	if p.f.budget -= n; p.f.budget < 0 {
		return p.fault(off, "directories and continuation areas are more than the volume can hold")
	}
	return nil
}

// readDir returns the entries of directory d, sorted by name. depth is the number of parts of path.
func (f *FS) readDir(d *entry, path string, depth int) ([]*entry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if list, ok := f.cache[d.lba]; ok && f.seen[d.lba].record == d.record {
		return list, nil
	}
	p := &dirParser{f: f, path: path}
	if depth > maxReadDepth {
		return nil, p.fault(d.record, "directory is more than %d levels deep", maxReadDepth)
	}
	seen, ok := f.seen[d.lba]
	switch {
	case !ok:
		seen.record = d.record
		f.seen[d.lba] = seen
	case seen.record != d.record:
		return nil, p.fault(d.record, "directory at LBA %d belongs to the record at byte %d", d.lba, seen.record)
	}
	p.first = !seen.read
	if err := p.read(d); err != nil {
		return nil, err
	}
	slices.SortFunc(p.list, func(a, b *entry) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(p.list); i++ {
		if p.list[i].name == p.list[i-1].name {
			return nil, p.fault(p.list[i].record, "name %q occurs twice", p.list[i].name)
		}
	}
	if p.first {
		f.count += len(p.list)
		f.seen[d.lba] = seenDir{record: d.record, read: true}
	}
	if f.cached += len(p.list); f.cached > cachedEntries {
		clear(f.cache)
		f.cached = len(p.list)
	}
	f.cache[d.lba] = p.list
	return p.list, nil
}

// read goes over the blocks of a directory.
func (p *dirParser) read(d *entry) error {
	start := int64(d.lba) * BlockSize
	if d.size == 0 || d.lba < descriptorLBA || start+d.size > p.f.size {
		return p.fault(d.record, "directory of %d bytes at LBA %d is outside the volume", d.size, d.lba)
	}
	if err := p.spend(d.size, d.record); err != nil {
		return err
	}
	p.f.obs.add(spanDir, start, blocksOf(d.size)*BlockSize)
	buf := make([]byte, min(d.size, 64<<10))
	n := 0 // records
	for pos := int64(0); pos < d.size; pos += int64(len(buf)) {
		buf = buf[:min(d.size-pos, int64(len(buf)))]
		if err := readFull(p.f.r, buf, start+pos); err != nil {
			return fmt.Errorf("read directory at byte %d: %w", start+pos, err)
		}
		for b, off := buf, start+pos; len(b) > 0; {
			block := b[:min(BlockSize, len(b))]
			if err := p.block(d, block, off, &n); err != nil {
				return err
			}
			b, off = b[len(block):], off+BlockSize
		}
	}
	if p.more != nil {
		return p.fault(p.more.record, "file %q goes on, but no extent follows", p.more.name)
	}
	if n < 2 {
		return p.fault(start, "directory has no \".\" and \"..\"")
	}
	return nil
}

// block goes over the records of a block; no record crosses its end (ECMA-119 6.8.1.1).
func (p *dirParser) block(d *entry, b []byte, off int64, n *int) error {
	for len(b) > 0 && b[0] != 0 {
		rec, fault := parseRecord(b, off)
		if fault != "" {
			return p.fault(off, "%s", fault)
		}
		var err error
		switch *n {
		case 0:
			err = p.self(d, &rec)
		case 1:
			err = p.parent(d, &rec)
		default:
			err = p.child(d, &rec)
		}
		if err != nil {
			return err
		}
		*n++
		b, off = b[rec.length:], off+int64(rec.length)
	}
	if p.f.obs != nil {
		if i := bytes.IndexFunc(b, func(r rune) bool { return r != 0 }); i >= 0 {
			return p.fault(off+int64(i), "data behind the records of a directory block")
		}
	}
	return nil
}

// self checks a directory's first record, itself.
func (p *dirParser) self(d *entry, rec *rawRecord) error {
	switch {
	case len(rec.ident) != 1 || rec.ident[0] != 0 || rec.flags&flagDirectory == 0:
		return p.fault(rec.off, "first record of a directory is not \".\"")
	case rec.lba != d.lba:
		return p.fault(rec.off, "\".\" is at LBA %d, the directory at %d", rec.lba, d.lba)
	case int64(rec.size) != d.size:
		return p.fault(rec.off, "\".\" has %d bytes, the directory %d", rec.size, d.size)
	}
	if p.f.view != ViewRockRidge {
		return nil
	}
	su := p.f.skipped(rec.su)
	if d.record == p.f.root.record {
		su = rec.su[min(p.f.rootSkip, len(rec.su)):]
	}
	return p.parseSystemUse(su, rec.suOff)
}

// parent checks a directory's second record.
func (p *dirParser) parent(d *entry, rec *rawRecord) error {
	if len(rec.ident) != 1 || rec.ident[0] != 1 || rec.flags&flagDirectory == 0 {
		return p.fault(rec.off, "second record of a directory is not \"..\"")
	}
	// Nothing here follows "..". Without Rock Ridge genisoimage and xorriso write some that lead to their own directory.
	if rec.lba == d.lba && d.parent != d.lba && p.f.view == ViewRockRidge {
		return p.fault(rec.off, "directory is its own parent")
	}
	if p.f.view == ViewRockRidge {
		if err := p.parseSystemUse(p.f.skipped(rec.su), rec.suOff); err != nil {
			return err
		}
		if p.use.hasPL != d.relocated || d.relocated && p.use.parentLBA != d.parent {
			return p.fault(rec.off, "PL of a relocated directory doesn't lead back to where CL is")
		}
	}
	if p.f.obs != nil && !d.relocated && rec.lba != d.parent {
		return p.fault(rec.off, "\"..\" is at LBA %d, the parent at %d", rec.lba, d.parent)
	}
	return nil
}

// skipped returns a system use field without what SP says to skip.
func (f *FS) skipped(su []byte) []byte { return su[min(f.skip, len(su)):] }

// child adds what a record describes to the list.
func (p *dirParser) child(d *entry, rec *rawRecord) error {
	if p.more != nil {
		return p.nextExtent(rec)
	}
	if rec.flags&flagAssociated != 0 {
		return nil // the other fork of the file that follows (ECMA-119 6.5.4)
	}
	e := &entry{size: int64(rec.size), mtime: rec.mtime, record: rec.off, lba: rec.lba, parent: d.lba, links: 1, mode: 0o444}
	if rec.flags&flagDirectory != 0 {
		e.mode = fs.ModeDir | 0o555
	}
	if p.f.view == ViewRockRidge {
		if err := p.rockRidge(e, rec); err != nil || p.use.relocated {
			return err
		}
	} else if err := p.name(e, rec); err != nil {
		return err
	}
	if fault := nameFault(e.name); fault != "" {
		return p.fault(rec.off, "%s: %q", fault, e.name)
	}
	if rec.interleave {
		e.bad |= badInterleaved
	}
	p.checkExtent(e, rec)
	if rec.flags&flagMore != 0 {
		if e.mode.Type() != 0 {
			return p.fault(rec.off, "%q is not a regular file and has several extents", e.name)
		}
		e.extents = []Extent{{LBA: int64(rec.lba), Size: int64(rec.size)}}
		p.more, p.ident = e, append(p.ident[:0], rec.ident...)
	}
	if !e.mode.IsRegular() && !e.mode.IsDir() {
		e.size = 0
	}
	if p.f.count+len(p.list) == MaxEntries {
		return p.fault(rec.off, "more than %d entries", MaxEntries)
	}
	p.list = append(p.list, e)
	return nil
}

// checkExtent notes data that are outside the volume. Directories are checked when they are read.
func (p *dirParser) checkExtent(e *entry, rec *rawRecord) {
	if e.mode.IsRegular() && rec.size > 0 && (rec.lba < descriptorLBA || int64(rec.lba)*BlockSize+int64(rec.size) > p.f.size) {
		e.bad |= badOutside
	}
}

// nextExtent adds a further extent to the file of the record before (ECMA-119 6.5.1).
func (p *dirParser) nextExtent(rec *rawRecord) error {
	e := p.more
	switch {
	case !bytes.Equal(rec.ident, p.ident) || rec.flags&flagDirectory != 0:
		return p.fault(rec.off, "an extent of %q must follow, but another file does", e.name)
	case len(e.extents) == MaxExtents:
		return p.fault(rec.off, "%q has more than %d extents", e.name, MaxExtents)
	case e.extents[len(e.extents)-1].Size%BlockSize != 0:
		return p.fault(rec.off, "an extent of %q ends inside a block and is not the last", e.name)
	}
	if p.f.view == ViewRockRidge {
		var again entry
		if err := p.rockRidge(&again, rec); err != nil {
			return err
		}
		if again.name != e.name {
			return p.fault(rec.off, "an extent of %q has the name %q", e.name, again.name)
		}
	}
	if rec.interleave {
		e.bad |= badInterleaved
	}
	p.checkExtent(e, rec)
	e.extents = append(e.extents, Extent{LBA: int64(rec.lba), Size: int64(rec.size)})
	e.size += int64(rec.size)
	if rec.flags&flagMore == 0 {
		p.more = nil
	}
	return nil
}

// rockRidge fills in what the system use entries say. Of a relocated directory nothing is set, its place is where CL is.
func (p *dirParser) rockRidge(e *entry, rec *rawRecord) error {
	if err := p.parseSystemUse(p.f.skipped(rec.su), rec.suOff); err != nil {
		return err
	}
	s := &p.use
	if s.relocated {
		return nil
	}
	if s.oddNM {
		return p.fault(rec.off, "NM entry that is not a name")
	}
	if s.hasNM {
		e.name = string(s.name)
	} else if err := p.name(e, rec); err != nil {
		return err
	}
	if s.hasCL {
		return p.relocated(e, rec)
	}
	return p.attributes(e, rec, rec.flags&flagDirectory != 0)
}

// attributes takes mode, owner, time and target over; isDir is what the record's flags say.
func (p *dirParser) attributes(e *entry, rec *rawRecord, isDir bool) error {
	s := &p.use
	if s.hasTF {
		e.mtime = s.mtime
	}
	if s.hasPX && s.mode&sIFMT != 0 {
		mode, ok := fileMode(s.mode)
		if !ok || mode.IsDir() != isDir {
			return p.fault(rec.off, "file mode %#o of %q doesn't go with its record", s.mode, e.name)
		}
		e.mode, e.links, e.uid, e.gid = mode, s.links, s.uid, s.gid
	} else if s.hasSL && !isDir {
		e.mode = fs.ModeSymlink | 0o777
	}
	if e.mode.Type() == fs.ModeSymlink {
		if e.target = string(s.target); e.target == "" {
			return p.fault(rec.off, "symbolic link %q has no target", e.name)
		}
		if strings.IndexByte(e.target, 0) >= 0 {
			return p.fault(rec.off, "target of %q has a NUL", e.name)
		}
	}
	if s.sparse {
		e.bad |= badSparse
	}
	if s.compressed {
		e.bad |= badCompressed
	}
	return nil
}

// relocated makes the directory that CL leads to the entry (RRIP 4.1.5); its length and attributes are in its own first record.
func (p *dirParser) relocated(e *entry, rec *rawRecord) error {
	lba := p.use.childLBA
	if rec.flags&(flagDirectory|flagMore) != 0 {
		return p.fault(rec.off, "CL in the record of a directory or of a file with several extents")
	}
	self, err := p.f.firstRecord(lba, p, rec.off)
	if err != nil {
		return err
	}
	if len(self.ident) != 1 || self.ident[0] != 0 || self.flags&flagDirectory == 0 || self.lba != lba {
		return p.fault(rec.off, "CL leads to LBA %d, where no directory is", lba)
	}
	e.lba, e.size, e.mtime, e.mode, e.relocated = lba, int64(self.size), self.mtime, fs.ModeDir|0o555, true
	if err := p.parseSystemUse(p.f.skipped(self.su), self.suOff); err != nil {
		return err
	}
	if p.use.hasCL || p.use.relocated {
		return p.fault(self.off, "CL or RE in the first record of a directory")
	}
	return p.attributes(e, self, true)
}

// firstRecord reads the first record of the directory at an LBA.
func (f *FS) firstRecord(lba uint32, p *dirParser, off int64) (*rawRecord, error) {
	start := int64(lba) * BlockSize
	if lba < descriptorLBA || start+BlockSize > f.size {
		return nil, p.fault(off, "directory at LBA %d is outside the volume", lba)
	}
	if err := p.spend(BlockSize, off); err != nil {
		return nil, err
	}
	b := make([]byte, 256)
	if err := readFull(f.r, b, start); err != nil {
		return nil, fmt.Errorf("read directory at byte %d: %w", start, err)
	}
	rec, fault := parseRecord(b, start)
	if fault != "" {
		return nil, p.fault(start, "%s", fault)
	}
	return &rec, nil
}

// detectRockRidge reports whether the root's own record begins with SP and has entries of RRIP, and sets what SP says to skip.
func (f *FS) detectRockRidge() (bool, error) {
	p := &dirParser{f: f, path: ".", first: true}
	root := f.vol.primary.root
	rec, err := f.firstRecord(root.lba, p, root.off)
	if err != nil {
		return false, err
	}
	f.rootSkip = 0
	if su := rec.su; len(su) >= 14 && su[6] == 'X' && su[7] == 'A' {
		f.rootSkip = 14 // CD-ROM XA comes first (SUSP 5.3)
	}
	su := rec.su[f.rootSkip:]
	if len(su) < lenSP || string(su[:2]) != "SP" || su[2] != lenSP || su[4] != 0xBE || su[5] != 0xEF {
		return false, nil
	}
	f.skip = int(su[6])
	if err := p.parseSystemUse(su, rec.suOff+int64(f.rootSkip)); err != nil {
		return false, err
	}
	return p.use.rockRidge, nil
}

// openRoot makes the root entry of a view.
func (f *FS) openRoot(d *descriptor) error {
	f.root = entry{name: ".", size: int64(d.root.size), mtime: d.root.mtime, record: d.root.off, mode: fs.ModeDir | 0o555, lba: d.root.lba, parent: d.root.lba, links: 1}
	if f.view != ViewRockRidge {
		return nil
	}
	p := &dirParser{f: f, path: ".", first: true}
	rec, err := f.firstRecord(d.root.lba, p, d.root.off)
	if err != nil {
		return err
	}
	if err := p.parseSystemUse(rec.su[min(f.rootSkip, len(rec.su)):], rec.suOff); err != nil {
		return err
	}
	return p.attributes(&f.root, rec, true)
}
