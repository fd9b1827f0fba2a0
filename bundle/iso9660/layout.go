package iso9660

import (
	"bytes"
	"io/fs"
	"slices"
	"strings"
	"unicode/utf8"
)

// An Entry is one directory, regular file or symbolic link of a volume.
type Entry struct {
	Path    string      // slash-separated and relative; "." is the root
	Mode    fs.FileMode // the kind (directory, symlink or regular) and the nine permission bits
	ModTime int64       // seconds since 1970-01-01 UTC, in the years 1900 to 2155
	Size    int64       // bytes of a regular file, 0 for others
	Target  string      // of a symbolic link: relative, and never out of the volume
}

// A Volume is what the primary volume descriptor says beside the tree (ECMA-119 8.4).
type Volume struct {
	SystemID    string // a-characters, up to 32
	ID          string // d-characters, up to 32
	Application string // a-characters, up to 128
	Created     int64  // seconds since 1970-01-01 UTC: creation, modification and effective time
	SystemArea  []byte // up to 32 KiB for LBA 0 to 15, the rest is zero; see also Layout.SetSystemArea
	BootCatalog string // path of the file that is the boot catalog of El Torito 1.0, to which a boot record at LBA 17 points; none if empty
}

// A Layout says where everything of a volume lies. It is immutable but for SetSystemArea, and safe for concurrent use after that.
type Layout struct {
	vol     Volume
	entries []Entry
	nodes   []node
	dirs    []dir   // in path-table order; number 1 is dirs[0], the root
	kids    []int32 // children of all directories, as indexes of entries, in record order
	head    []byte  // from LBA 16: volume descriptors and path tables
	marks   []mark  // one for each block of the directories
	dirLBA  int64   // first block of the directories
	dataLBA int64   // first block behind them
	blocks  int64   // of the whole volume
}

// A node is what a Layout knows of an entry beside the entry itself.
type node struct {
	at  uint32 // first LBA; of a directory its index in dirs
	ord int32  // ordinal in a generated identifier, or plainIdent
}

type dir struct {
	entry     int32
	parent    int32 // index in dirs; the root is its own parent
	first, n  int32 // kids[first : first+n]
	subdirs   int32
	lba       uint32
	recBlocks uint32 // blocks of records
	caBlocks  uint32 // blocks of continuation areas behind them
}

// NewLayout lays out a volume. The entries stand in any order in which parents come before their children, "." first; data of files lie in this order. The slice is kept and must not be changed.
// An entry that can't be laid out gives an *EntryError that names the path and the limit.
func NewLayout(vol Volume, entries []Entry) (*Layout, error) {
	if err := vol.check(); err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, entryErrorf(".", "no root entry")
	}
	if len(entries) > MaxEntries {
		return nil, entryErrorf(entries[MaxEntries].Path, "more than %d entries", MaxEntries)
	}
	l := &Layout{vol: vol, entries: entries, nodes: make([]node, len(entries))}
	if err := l.buildTree(); err != nil {
		return nil, err
	}
	if err := l.orderAll(); err != nil {
		return nil, err
	}
	l.numberDirs()
	if err := l.place(); err != nil {
		return nil, err
	}
	if vol.BootCatalog != "" && l.bootCatalog() == 0 {
		return nil, entryErrorf(vol.BootCatalog, "the boot catalog is no file with content")
	}
	return l, nil
}

// bootCatalog returns the LBA of the boot catalog, 0 if there is none.
func (l *Layout) bootCatalog() uint32 {
	i := slices.IndexFunc(l.entries, func(e Entry) bool { return e.Path == l.vol.BootCatalog })
	if i < 0 || !l.entries[i].Mode.IsRegular() {
		return 0
	}
	return l.nodes[i].at
}

// descriptorCount returns how many volume descriptors there are: a primary one, a boot record where one is asked for, and the end.
func (l *Layout) descriptorCount() int64 {
	if l.vol.BootCatalog != "" {
		return 3
	}
	return 2
}

// SetSystemArea sets the bytes of LBA 0 to 15, up to 32 KiB, the rest is zero: for what can only be said once the layout is known. It keeps the slice.
func (l *Layout) SetSystemArea(b []byte) error {
	if len(b) > systemArea {
		return entryErrorf(".", "system area has %d bytes, limit %d", len(b), systemArea)
	}
	l.vol.SystemArea = b
	return nil
}

// Blocks returns the volume space size in blocks, system area included; nothing is padded at the end.
func (l *Layout) Blocks() int64 { return l.blocks }

// DataStart returns the LBA of the first file's data, which is the end of the directory area.
func (l *Layout) DataStart() int64 { return l.dataLBA }

// Extent returns where the data of entry i lie: of a file its data (an empty one has none), of a directory its records, of a link nothing.
func (l *Layout) Extent(i int) (lba, blocks int64) {
	e, n := &l.entries[i], l.nodes[i]
	switch e.Mode.Type() {
	case fs.ModeDir:
		d := &l.dirs[n.at]
		return int64(d.lba), int64(d.recBlocks)
	case fs.ModeSymlink:
		return 0, 0
	}
	return int64(n.at), blocksOf(e.Size)
}

// baseName returns the last part of an entry's path.
func baseName(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// checkEntry checks all of an entry but its place in the tree.
func checkEntry(e *Entry, root bool) error {
	if root {
		if e.Path != "." || e.Mode.Type() != fs.ModeDir {
			return entryErrorf(e.Path, "the first entry must be the directory \".\"")
		}
	} else if err := checkPath(e.Path); err != nil {
		return err
	}
	if e.Mode&^(fs.ModeDir|fs.ModeSymlink|fs.ModePerm) != 0 || e.Mode.Type() == fs.ModeDir|fs.ModeSymlink {
		return entryErrorf(e.Path, "mode %v: only directories, regular files and symbolic links, with permission bits only", e.Mode)
	}
	if e.ModTime < minTime || e.ModTime > maxTime {
		return entryErrorf(e.Path, "time %d is outside the years 1900 to 2155", e.ModTime)
	}
	if e.Size != 0 && !e.Mode.IsRegular() {
		return entryErrorf(e.Path, "size %d of what is not a regular file", e.Size)
	}
	if e.Size < 0 || e.Size > maxFile {
		return entryErrorf(e.Path, "size %d is outside 0 to %d (%d extents)", e.Size, maxFile, MaxExtents)
	}
	if e.Mode.Type() == fs.ModeSymlink {
		return checkTarget(e.Path, e.Target)
	}
	if e.Target != "" {
		return entryErrorf(e.Path, "a target, but not a symbolic link")
	}
	return nil
}

func checkPath(path string) error {
	if len(path) > MaxPath {
		return entryErrorf(path, "path has %d bytes, limit %d", len(path), MaxPath)
	}
	parts := 0
	for part := range strings.SplitSeq(path, "/") {
		if fault := nameFault(part); fault != "" {
			return entryErrorf(path, "%s", fault)
		}
		parts++
	}
	if parts > MaxDepth {
		return entryErrorf(path, "path has %d parts, limit %d", parts, MaxDepth)
	}
	return nil
}

// checkTarget checks the target of the link at path: that it can be recorded, and that it stays inside the root whatever other links there are, so ".." stands only before the first name.
func checkTarget(path, target string) error {
	switch {
	case target == "" || len(target) > MaxTarget:
		return entryErrorf(path, "target has %d bytes, limits 1 and %d", len(target), MaxTarget)
	case target[0] == '/':
		return entryErrorf(path, "target %q is absolute", target)
	case strings.IndexByte(target, 0) >= 0:
		return entryErrorf(path, "target has a NUL")
	case !utf8.ValidString(target):
		return entryErrorf(path, "target is not UTF-8")
	}
	above, specials, named := strings.Count(path, "/"), 0, false
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "":
			return entryErrorf(path, "target %q has an empty part", target)
		case "..":
			if named {
				return entryErrorf(path, "target %q has \"..\" behind a name", target)
			}
			if above--; above < 0 {
				return entryErrorf(path, "target %q leaves the root", target)
			}
		case ".":
		default:
			if len(part) > MaxTargetPart {
				return entryErrorf(path, "target has a part of %d bytes, limit %d", len(part), MaxTargetPart)
			}
			named, specials = true, -1
		}
		if specials++; specials > maxSpecials {
			return entryErrorf(path, "target has more than %d parts in a row that are \".\" or \"..\"", maxSpecials)
		}
	}
	return nil
}

// buildTree checks the entries and fills dirs, in the order of entries, and kids, each directory's children in the order of entries.
func (l *Layout) buildTree() error {
	parents := make([]int32, len(l.entries))
	byPath := make(map[string]int32) // directories only: at most MaxDirs
	last, lastDir := ".", int32(0)   // neighbours mostly share their parent
	for i := range l.entries {
		e := &l.entries[i]
		if err := checkEntry(e, i == 0); err != nil {
			return err
		}
		if i > 0 {
			parent := "."
			if k := strings.LastIndexByte(e.Path, '/'); k >= 0 {
				parent = e.Path[:k]
			}
			if parent != last {
				d, ok := byPath[parent]
				if !ok {
					return l.orphan(i, parent)
				}
				last, lastDir = parent, d
			}
			parents[i] = lastDir
			l.dirs[lastDir].n++
		}
		if e.Mode.IsDir() {
			if len(l.dirs) == MaxDirs {
				return entryErrorf(e.Path, "more than %d directories", MaxDirs)
			}
			k := int32(len(l.dirs))
			byPath[e.Path] = k
			l.nodes[i].at = uint32(k)
			l.dirs = append(l.dirs, dir{entry: int32(i), parent: parents[i]})
			if i > 0 {
				l.dirs[parents[i]].subdirs++
			}
		}
	}
	l.kids = make([]int32, len(l.entries)-1)
	var first int32
	for k := range l.dirs {
		d := &l.dirs[k]
		d.first, first = first, first+d.n
		d.n = 0
	}
	for i := 1; i < len(l.entries); i++ {
		d := &l.dirs[parents[i]]
		l.kids[d.first+d.n] = int32(i)
		d.n++
	}
	return nil
}

// orphan says why entry i has no parent.
func (l *Layout) orphan(i int, parent string) error {
	for k := range l.entries[:i] {
		if l.entries[k].Path == parent {
			return entryErrorf(l.entries[i].Path, "parent %q is not a directory", parent)
		}
	}
	return entryErrorf(l.entries[i].Path, "parent %q does not come before it", parent)
}

// orderAll brings the children of each directory into record order and gives them their ordinals.
func (l *Layout) orderAll() error {
	var scratch []identKey
	byPath := func(a, b int32) int { return strings.Compare(l.entries[a].Path, l.entries[b].Path) }
	for k := range l.dirs {
		d := &l.dirs[k]
		kids := l.kids[d.first : d.first+d.n]
		if !slices.IsSortedFunc(kids, byPath) {
			slices.SortFunc(kids, byPath)
		}
		for j := 1; j < len(kids); j++ {
			if l.entries[kids[j]].Path == l.entries[kids[j-1]].Path {
				return entryErrorf(l.entries[kids[j]].Path, "path occurs twice")
			}
		}
		scratch = l.assignIdents(kids, scratch[:0])
	}
	return nil
}

// assignIdents sorts kids, which are in order of name bytes, into the order of their identifiers (ECMA-119 9.3), and notes which of them are generated.
func (l *Layout) assignIdents(kids []int32, keys []identKey) []identKey {
	compare := func(a, b identKey) int { return bytes.Compare(a.id[:], b.id[:]) }
	for ord, i := range kids {
		e := &l.entries[i]
		k := newIdentKey(baseName(e.Path), e.Mode.IsDir())
		k.ord, k.entry = int32(ord), i
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compare)
	generated := false
	for j := 0; j < len(keys); {
		end := j + 1
		for end < len(keys) && keys[end].id == keys[j].id {
			end++
		}
		collision := end-j > 1
		for ; j < end; j++ {
			k := &keys[j]
			if !collision && !k.cut {
				l.nodes[k.entry].ord = plainIdent
				continue
			}
			generated = true
			l.nodes[k.entry].ord = k.ord
			k.generate()
		}
	}
	if generated {
		slices.SortFunc(keys, compare)
	}
	for j := range keys {
		kids[j] = keys[j].entry
	}
	return keys
}

// numberDirs renumbers the directories in path-table order (ECMA-119 6.9.1): by level, the parent's number, the identifier.
func (l *Layout) numberDirs() {
	order := make([]int32, 1, len(l.dirs)) // old index by new index
	for k := 0; k < len(order); k++ {
		d := &l.dirs[order[k]]
		for _, i := range l.kids[d.first : d.first+d.n] {
			if l.entries[i].Mode.IsDir() {
				order = append(order, int32(l.nodes[i].at))
			}
		}
	}
	renumbered := make([]int32, len(order)) // new index by old index
	for k, old := range order {
		renumbered[old] = int32(k)
	}
	dirs := make([]dir, len(order))
	for k, old := range order {
		dirs[k] = l.dirs[old]
		dirs[k].parent = renumbered[dirs[k].parent]
		l.nodes[dirs[k].entry].at = uint32(k)
	}
	l.dirs = dirs
}

// place gives everything its LBA and makes descriptors and path tables.
func (l *Layout) place() error {
	tables := blocksOf(l.pathTableSize())
	l.dirLBA = descriptorLBA + l.descriptorCount() + 2*tables
	lba := l.dirLBA
	var areas []mark
	for k := range l.dirs {
		areas = l.markDir(&l.dirs[k], areas[:0])
		d := &l.dirs[k]
		if int64(d.recBlocks)*BlockSize > maxExtent {
			return entryErrorf(l.entries[d.entry].Path, "directory has more than %d bytes", int64(maxExtent))
		}
		d.lba = uint32(lba)
		if lba += int64(d.recBlocks) + int64(d.caBlocks); lba > maxBlocks {
			return entryErrorf(l.entries[d.entry].Path, "volume has more than %d blocks", int64(maxBlocks))
		}
	}
	l.dataLBA = lba
	for i := range l.entries {
		e := &l.entries[i]
		if !e.Mode.IsRegular() || e.Size == 0 {
			continue
		}
		l.nodes[i].at = uint32(lba)
		if lba += blocksOf(e.Size); lba > maxBlocks {
			return entryErrorf(e.Path, "volume has more than %d blocks", int64(maxBlocks))
		}
	}
	l.blocks = lba
	l.head = l.descriptors(make([]byte, 0, (l.descriptorCount()+2*tables)*BlockSize))
	l.head = l.pathTable(l.head, false)
	l.head = l.pathTable(l.head, true)
	return nil
}
