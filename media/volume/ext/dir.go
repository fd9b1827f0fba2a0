package ext

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"sallyport/media/volume"
)

// entry is one name of a directory.
type entry struct {
	name  string
	off   int64  // of the directory entry, bytes from the volume's start
	node  *inode // nil if it can't be read
	fault error  // why
}

func (e *entry) isDir() bool { return e.node != nil && e.node.mode.IsDir() }

// dir is a directory that was read.
type dir struct {
	entries []entry // sorted by name
	cost    int     // bytes of memory
}

// entryCost is about what an entry takes beside its name.
const entryCost = 320

// Types in directory entries ("Linear (Classic) Directories").
var entryTypes = map[byte]fs.FileMode{
	1: 0, 2: fs.ModeDir, 3: fs.ModeDevice | fs.ModeCharDevice, 4: fs.ModeDevice, 5: fs.ModeNamedPipe, 6: fs.ModeSocket, 7: fs.ModeSymlink,
}

// tailType is that of the entry that holds a block's checksum ("ext4_dir_entry_tail").
const tailType = 0xDE

var errDepth = fmt.Errorf("directories are nested deeper than the %d that are read", maxDepth)

// dir reads a directory, all of whose blocks have to be as they must. The caller doesn't hold f.mu, or it is Open.
func (f *FS) dir(i *inode, path string) (*dir, error) {
	f.mu.Lock()
	d := f.dirs[i.number]
	f.mu.Unlock()
	if d != nil {
		return d, nil
	}
	if i.flags&flagEncrypted != 0 {
		return nil, &FormatError{path, i.off + 32, "the directory is encrypted"}
	}
	p := dirParser{f: f, of: i, path: path, seen: map[string]bool{}, d: &dir{}}
	if err := p.all(); err != nil {
		return nil, err
	}
	slices.SortFunc(p.d.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cached+p.d.cost > maxCached {
		clear(f.dirs)
		f.cached = 0
	}
	f.dirs[i.number] = p.d
	f.cached += p.d.cost
	return p.d, nil
}

// dirParser reads one directory.
type dirParser struct {
	f    *FS
	of   *inode
	path string
	seen map[string]bool
	dots int // "." and ".." that were there
	d    *dir
}

func (p *dirParser) all() error {
	f, i := p.f, p.of
	if i.flags&flagInline != 0 {
		b, err := f.inline(i, p.path)
		if err != nil {
			return err
		}
		if len(b) < 4 {
			return &FormatError{p.path, i.off, "the directory has no room for its parent"}
		}
		p.dots = 2 // they aren't stored
		// The number of the parent, then entries up to the end of i_block; those behind it are entries of their own.
		if err := p.entries(b[4:min(60, len(b))], i.off+40+4); err != nil || len(b) <= 60 {
			return err
		}
		return p.entries(b[60:], i.off+128)
	}
	if i.size == 0 || i.size%f.block != 0 {
		return &FormatError{p.path, i.off + 4, fmt.Sprintf("the directory has %d bytes, no whole blocks", i.size)}
	}
	b := make([]byte, f.block)
	for logical := range i.size / f.block {
		f.mu.Lock()
		r, err := f.find(i, logical, p.path)
		f.mu.Unlock()
		if err != nil {
			return err
		}
		if r.at == 0 {
			return &FormatError{p.path, i.off, fmt.Sprintf("block %d of the directory is a hole", logical)}
		}
		if err := f.readAt(b, r.at*f.block); err != nil {
			return err
		}
		if err := p.checksum(b, r.at*f.block); err != nil {
			return err
		}
		if err := p.entries(b, r.at*f.block); err != nil {
			return err
		}
	}
	if p.dots != 2 {
		return &FormatError{p.path, i.off, "the directory lacks . or .."}
	}
	return nil
}

// checksum compares that of a block of a directory: of entries, or of the tree over their hashes ("Checksums").
func (p *dirParser) checksum(b []byte, off int64) error {
	if !p.f.checksums {
		return nil
	}
	n := len(b) - 12
	var got, want uint32
	at := n + 8
	switch count, isTree := treeNode(b); {
	case le.Uint32(b[n:]) == 0 && le.Uint16(b[n+4:]) == 12 && b[n+6] == 0 && b[n+7] == tailType:
		got, want = sum(p.of.seed, b[:n]), le.Uint32(b[at:])
	case isTree && p.of.flags&flagIndex != 0:
		limit, used := int(le.Uint16(b[count:])), int(le.Uint16(b[count+2:]))
		tail := count + 8*limit
		if used > limit || tail+8 > len(b) {
			return &FormatError{p.path, off + int64(count), fmt.Sprintf("a tree over hashes has %d of %d entries", used, limit)}
		}
		s := sum(p.of.seed, b[:count+8*used])
		s = sum(s, b[tail:tail+4])
		got, want, at = sum(s, make([]byte, 4)), le.Uint32(b[tail+4:]), tail+4
	default:
		return &FormatError{p.path, off, "a block of the directory has no checksum"}
	}
	if got != want {
		return &FormatError{p.path, off + int64(at), fmt.Sprintf("the checksum of a block of the directory is %08x, not %08x", got, want)}
	}
	return nil
}

// treeNode says whether a block has a node of the tree over hashes, and where that counts its entries ("Hash Tree
// Directories").
func treeNode(b []byte) (count int, ok bool) {
	block := len(b)
	switch first := recordLength(b[4:], block); {
	case first == block:
		return 8, true
	case first == 12 && recordLength(b[16:], block) == block-12 && le.Uint32(b[24:]) == 0 && b[29] == 8:
		return 32, true
	}
	return 0, false
}

// recordLength is an entry's length in bytes: 64 KiB don't fit into 16 bits.
func recordLength(b []byte, block int) int {
	n := int(le.Uint16(b))
	if block == 1<<16 && (n == 0xFFFF || n == 0) {
		return block
	}
	return n
}

// entries takes the entries of one block.
func (p *dirParser) entries(b []byte, off int64) error {
	for at := 0; at < len(b); {
		rest := len(b) - at
		fail := func(format string, args ...any) error {
			return &FormatError{p.path, off + int64(at), fmt.Sprintf(format, args...)}
		}
		if rest < 8 {
			if p.of.flags&flagInline != 0 {
				return nil // 56 bytes aren't a multiple of an entry
			}
			return fail("the directory ends within an entry")
		}
		e := b[at:]
		length, nameLength := recordLength(e[4:], len(b)), int(le.Uint16(e[6:]))
		kind := byte(0)
		if p.f.incompat&incompatFiletype != 0 {
			nameLength, kind = int(e[6]), e[7]
		}
		switch {
		case length < 8 || length%4 != 0 || length > rest:
			return fail("a directory entry has %d bytes of %d", length, rest)
		case nameLength > length-8:
			return fail("a directory entry of %d bytes has a name of %d", length, nameLength)
		}
		if number := le.Uint32(e); number != 0 {
			if err := p.entry(number, string(e[8:8+nameLength]), kind, off+int64(at)); err != nil {
				return err
			}
		}
		at += length
	}
	return nil
}

// entry takes one.
func (p *dirParser) entry(number uint32, name string, kind byte, off int64) error {
	f := p.f
	if name == "." || name == ".." {
		if p.dots++; p.dots > 2 || name == "." && number != p.of.number {
			return &FormatError{p.path, off, fmt.Sprintf("the entry %q isn't what it has to be", name)}
		}
		return nil
	}
	if !volume.ValidName(name) {
		f.note("bad-name", off, p.path, "the name %q can't be shown; it is left out", name)
		return nil
	}
	full := join(p.path, name)
	if p.seen[name] {
		f.note("duplicate-name", off, full, "the directory has this name twice; the first one counts")
		return nil
	}
	p.seen[name] = true
	if p.d.cost += entryCost + len(name); p.d.cost > maxDirCost {
		return &FormatError{p.path, off, fmt.Sprintf("the directory has more than the %d files that are read", len(p.d.entries))}
	}
	e := entry{name: name, off: off}
	f.mu.Lock()
	defer f.mu.Unlock()
	if e.node, e.fault = f.inode(number); e.fault != nil {
		var damage *FormatError
		if !errors.As(e.fault, &damage) {
			return e.fault
		}
		e.fault = &FormatError{full, damage.Offset, damage.Msg}
		f.list.Add("bad-inode", damage.Offset, full, "%s", damage.Msg)
		p.d.entries = append(p.d.entries, e)
		return nil
	}
	if want, ok := entryTypes[kind]; kind != 0 && (!ok || want != e.node.mode.Type()) {
		f.list.Add("type-differs", off, full, "its directory says that it is of the type %d, and it is %v", kind, e.node.mode)
	}
	if e.node.mode.IsDir() {
		own := uint64(p.of.number)<<32 | uint64(number)
		switch known, there := f.owner[number]; {
		case there && known != own || number == rootInode:
			e.node, e.fault = nil, &FormatError{full, off, fmt.Sprintf("the directory of inode %d stands in two places", number)}
			f.list.Add("directory-twice", off, full, "the directory of inode %d stands in two places; the first one counts", number)
		case !there && len(f.owner) >= maxDirs:
			e.node, e.fault = nil, &FormatError{full, off, fmt.Sprintf("there are more than the %d directories that are read", maxDirs)}
			f.list.Add("too-many-directories", off, full, "there are more than the %d directories that are read", maxDirs)
		case !there:
			f.owner[number] = own
		}
	}
	p.d.entries = append(p.d.entries, e)
	return nil
}

// note notes a finding.
func (f *FS) note(code string, off int64, path, format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list.Add(code, off, path, format, args...)
}

func join(dir, name string) string {
	if dir == "." || dir == "" {
		return name
	}
	return dir + "/" + name
}
