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
	off   int64        // of the directory entry, bytes from the volume's start
	node  *inode       // nil if it can't be read
	fault *FormatError // why; it names no path, which is long and there for each
}

// why says what is wrong with an entry that is asked for by path.
func (e *entry) why(path string) error { return &FormatError{path, e.fault.Offset, e.fault.Msg} }

func (e *entry) isDir() bool { return e.node != nil && e.node.mode.IsDir() }

// dir is a directory that was read.
type dir struct {
	entries []entry // sorted by name
	cost    int     // bytes of memory
}

// dirCache keeps directories that were read until they take too much memory, those used last the longest.
type dirCache struct {
	of    map[uint32]*dir // by inode
	order []uint32
	cost  int
}

func (c *dirCache) get(n uint32) *dir {
	d := c.of[n]
	if d != nil {
		i := slices.Index(c.order, n)
		c.order = append(slices.Delete(c.order, i, i+1), n)
	}
	return d
}

func (c *dirCache) put(n uint32, d *dir) {
	if c.of == nil {
		c.of = map[uint32]*dir{}
	}
	if c.of[n] != nil { // two readers at once
		return
	}
	for len(c.order) > 0 && c.cost+d.cost > maxCached || len(c.order) >= 256 {
		old := c.order[0]
		c.cost -= c.of[old].cost
		delete(c.of, old)
		c.order = slices.Delete(c.order, 0, 1)
	}
	c.of[n], c.order, c.cost = d, append(c.order, n), c.cost+d.cost
}

// entryCost is about what an entry takes beside its name.
const entryCost = 256

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
	d := f.dirs.get(i.number)
	quiet := f.looked.has(int64(i.number)) || f.looked.take(int64(i.number), 1) != nil
	f.mu.Unlock()
	if d != nil {
		return d, nil
	}
	if i.flags&flagEncrypted != 0 {
		return nil, &FormatError{path, i.off + 32, "the directory is encrypted"}
	}
	p := dirParser{f: f, of: i, path: path, quiet: quiet, seen: map[string]bool{}, twice: map[uint32]bool{}, d: &dir{}}
	if err := p.all(); err != nil {
		return nil, at(err, path)
	}
	slices.SortFunc(p.d.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	f.mu.Lock()
	defer f.mu.Unlock()
	p.d.cost = p.cost
	f.dirs.put(i.number, p.d)
	return p.d, nil
}

// dirParser reads one directory.
type dirParser struct {
	f     *FS
	of    *inode
	path  string
	quiet bool // what is found was told when it was read before
	seen  map[string]bool
	twice map[uint32]bool // directories that were seen
	cost  int             // bytes of memory
	dots  [2]bool         // "." and ".." were there
	d     *dir
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
		// The number of the parent, then entries up to the end of i_block; those behind it are entries of their own.
		if err := p.entries(b[4:min(60, len(b))], i.off+40+4); err != nil || len(b) <= 60 {
			return err
		}
		return p.entries(b[60:], i.off+128)
	}
	if i.size == 0 || i.size%f.block != 0 {
		return &FormatError{p.path, i.off + 4, fmt.Sprintf("the directory has %d bytes, no whole blocks", i.size)}
	}
	if err := f.follow(i, p.path); err != nil {
		return err
	}
	b := make([]byte, f.block)
	for logical, blocks := int64(0), i.size/f.block; logical < blocks; {
		f.mu.Lock()
		r, err := f.find(i, logical)
		f.mu.Unlock()
		if err != nil {
			return err
		}
		if r.at == 0 {
			return &FormatError{p.path, i.off, fmt.Sprintf("block %d of the directory is a hole", logical)}
		}
		for k := range min(r.count, blocks-logical) {
			off := (r.at + k) * f.block
			if err := f.readAt(b, off); err != nil {
				return fmt.Errorf("%q: %w", p.path, err)
			}
			if err := p.checksum(b, off); err != nil {
				return err
			}
			if err := p.entries(b, off); err != nil {
				return err
			}
		}
		logical += r.count
	}
	if !p.dots[0] || !p.dots[1] {
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
	// First: where Linux made a tree's root of the directory's first block, the end of that is still there.
	case isTree && p.of.flags&flagIndex != 0:
		limit, used := int(le.Uint16(b[count:])), int(le.Uint16(b[count+2:]))
		tail := count + 8*limit
		if used > limit || tail+8 > len(b) {
			return &FormatError{p.path, off + int64(count), fmt.Sprintf("a tree over hashes has %d of %d entries", used, limit)}
		}
		s := sum(p.of.seed, b[:count+8*used])
		s = sum(s, b[tail:tail+4])
		got, want, at = sum(s, make([]byte, 4)), le.Uint32(b[tail+4:]), tail+4
	case le.Uint32(b[n:]) == 0 && le.Uint16(b[n+4:]) == 12 && b[n+6] == 0 && b[n+7] == tailType:
		got, want = sum(p.of.seed, b[:n]), le.Uint32(b[at:])
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
		if rest < 12 {
			return fail("the directory ends within an entry")
		}
		e := b[at:]
		length, nameLength, kind := recordLength(e[4:], len(b)), int(e[6]), e[7]
		if p.f.incompat&incompatFiletype == 0 {
			nameLength, kind = int(le.Uint16(e[6:])), 0
		}
		switch {
		case length < 12 || length%4 != 0 || length > rest:
			return fail("a directory entry has %d bytes of %d", length, rest)
		case nameLength > min(255, length-8):
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
		had := &p.dots[len(name)-1]
		if *had || name == "." && number != p.of.number {
			return &FormatError{p.path, off, fmt.Sprintf("the entry %q isn't what it has to be", name)}
		}
		*had = true
		return nil
	}
	if p.cost += entryCost + len(name); p.cost > maxDirCost {
		return &FormatError{p.path, off, fmt.Sprintf("the directory has more than the %d files that are read", len(p.d.entries))}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !volume.ValidName(name):
		p.note("bad-name", off, "", "the name %q can't be shown; it is left out", name)
		return nil
	case p.seen[name]:
		p.note("duplicate-name", off, name, "the directory has this name twice; the first one counts")
		return nil
	}
	p.seen[name] = true
	e := entry{name: name, off: off}
	err := p.resolve(&e, number, kind)
	if err != nil && !errors.As(err, &e.fault) {
		return fmt.Errorf("%q: %w", p.path, err)
	}
	p.d.entries = append(p.d.entries, e)
	return nil
}

// resolve finds what an entry names. Damage is an entry's only.
func (p *dirParser) resolve(e *entry, number uint32, kind byte) error {
	f := p.f
	var node *inode
	err := error(&FormatError{"", e.off, fmt.Sprintf("inode %d is none that a directory may name", number)})
	if f.mayName(number) {
		node, err = f.inode(number)
	}
	if err != nil {
		var damage *FormatError
		if errors.As(err, &damage) {
			p.note("bad-inode", damage.Offset, e.name, "%s", damage.Msg)
		}
		return err
	}
	if want, ok := entryTypes[kind]; kind != 0 && (!ok || want != node.mode.Type()) {
		p.note("type-differs", e.off, e.name, "its directory says that it is of the type %d, and it is %v", kind, node.mode)
	}
	if node.mode.IsRegular() && node.size > f.blocks*f.block {
		p.note("sparse", node.off+4, e.name, "it says that it has %d bytes, more than the volume: most of it isn't stored, and reads as zeros", node.size)
	}
	if node.mode.IsDir() {
		switch parent, there := f.owner[number]; {
		case there && parent != p.of.number || number == rootInode || p.twice[number]:
			p.note("directory-twice", e.off, e.name, "the directory of inode %d stands in two places; the first one counts", number)
			return &FormatError{"", e.off, fmt.Sprintf("the directory of inode %d stands in two places", number)}
		case !there && len(f.owner) >= maxDirs:
			p.note("too-many-directories", e.off, e.name, "there are more than the %d directories that are read", maxDirs)
			return &FormatError{"", e.off, fmt.Sprintf("there are more than the %d directories that are read", maxDirs)}
		}
		f.owner[number] = p.of.number
		p.twice[number] = true
	}
	e.node = node
	return nil
}

// note notes a finding about the directory, or about what it calls name. The caller holds f.mu.
func (p *dirParser) note(code string, off int64, name, format string, args ...any) {
	if p.quiet || p.f.noted > volume.MaxFindings { // a path can be long, and none is made for nothing
		return
	}
	p.f.noted++
	path := shown(p.path)
	if name != "" {
		path = join(p.path, name)
	}
	p.f.list.Add(code, off, path, format, args...)
}

// shown is a path as findings have it, where the root is "".
func shown(path string) string {
	if path == "." {
		return ""
	}
	return path
}

func join(dir, name string) string {
	if dir == "." || dir == "" {
		return name
	}
	return dir + "/" + name
}
