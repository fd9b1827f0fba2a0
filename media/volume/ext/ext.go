// Package ext reads ext2, ext3 and ext4 volumes without a kernel, as an fs.FS. It shows the tree that Linux shows, and
// refuses where a checksum, a number or a place isn't what it has to be. The journal isn't replayed: a volume that needs
// that is read as it lies there, with a finding.
//
// The reader of github.com/diskfs/go-diskfs, which makes these volumes here, doesn't serve for hostile media: it reads all
// group descriptors by a number from the medium, compares no checksum of a directory, an extent or an inode, and has no
// bound on what a directory or a tree of extents may take.
//
// Sections cited are those of the kernel's Documentation/filesystems/ext4.
package ext

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"sync"

	"sallyport/media/volume"
)

const (
	// maxDirCost is how many bytes of memory the entries of one directory may take, names included: some 80,000 files.
	maxDirCost = 12 << 20
	// maxDirSize is how long a directory may be, in bytes.
	maxDirSize = 256 << 20
	// maxCached is how many bytes of parsed directories are kept; one of maxDirCost fits.
	maxCached = 12 << 20
	// maxBlocks is how many blocks of the volume's own structure are kept in memory, at most 64 KiB each.
	maxBlocks = 64
	// maxDirs is how many directories are opened before no more are: which entry owns which is remembered.
	maxDirs = 400_000
	// maxDepth is how many directories are followed below each other.
	maxDepth = 128
	// maxLevels is how deep a tree of extents may be ("ext4_extent_header").
	maxLevels = 5
)

// Features ("The Super Block", s_feature_compat, _incompat and _ro_compat).
const (
	incompatCompression = 0x1
	incompatFiletype    = 0x2
	incompatRecover     = 0x4
	incompatJournalDev  = 0x8
	incompatMetaBG      = 0x10
	incompatExtents     = 0x40
	incompat64Bit       = 0x80
	incompatMMP         = 0x100
	incompatFlexBG      = 0x200
	incompatEAInode     = 0x400
	incompatDirData     = 0x1000
	incompatCsumSeed    = 0x2000
	incompatLargeDir    = 0x4000
	incompatInlineData  = 0x8000
	incompatEncrypt     = 0x10000
	incompatCasefold    = 0x20000

	known = incompatFiletype | incompatRecover | incompatMetaBG | incompatExtents | incompat64Bit | incompatMMP | incompatFlexBG |
		incompatEAInode | incompatCsumSeed | incompatLargeDir | incompatInlineData | incompatEncrypt | incompatCasefold

	roSparseSuper   = 0x1
	roGdtCsum       = 0x10
	roMetadataCsum  = 0x400
	roOrphanPresent = 0x10000

	compatHasJournal   = 0x4
	compatSparseSuper2 = 0x200
)

var incompatNames = map[uint32]string{incompatCompression: "compression", incompatJournalDev: "journal device", incompatDirData: "data in directories"}

// FS is a volume. It reads through the reader that Open got, whenever it is used, and has nothing to close.
type FS struct {
	r    io.ReaderAt
	size int64 // bytes

	block      int64 // bytes
	blocks     int64
	first      int64 // the block that group 0 begins with
	perGroup   int64 // blocks
	groups     int64
	inodes     uint32
	perTable   uint32 // inodes of a group
	inodeSize  int64  // bytes
	descSize   int64  // bytes of a group's descriptor
	firstMeta  int64  // the first block of descriptors that lies in its own groups (META_BG)
	backups    [2]uint32
	compat     uint32
	incompat   uint32
	ro         uint32
	seed       uint32 // of checksums
	uuid       []byte
	name       string
	label      string
	checksums  bool // METADATA_CSUM
	dynamicRev bool

	mu     sync.Mutex // guards what follows
	list   volume.List
	cache  map[int64][]byte // blocks
	order  []int64          // of the cache, oldest first
	dirs   map[uint32]*dir
	cached int               // bytes that dirs take
	owner  map[uint32]uint64 // inode of a directory → its parent's, and where the entry is
}

// FormatError says what in a volume can't be read. Only what it names is lost.
type FormatError struct {
	Path   string // slash-separated, "" for the volume itself
	Offset int64  // bytes from the volume's start
	Msg    string
}

func (e *FormatError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("reading an ext volume: byte %d: %s", e.Offset, e.Msg)
	}
	return fmt.Sprintf("reading an ext volume: %q at byte %d: %s", e.Path, e.Offset, e.Msg)
}

var le = binary.LittleEndian

const (
	superPlace = 1024 // bytes from the volume's start, and its size
	magic      = 0xEF53
)

// Probe reports whether a volume that starts with boot, of which 2 KiB are needed, says that it is ext2, ext3 or ext4.
func Probe(boot []byte) bool {
	return len(boot) >= 2*superPlace && le.Uint16(boot[superPlace+56:]) == magic
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum is the kernel's crc32c, without the inversions before and after.
func sum(seed uint32, b []byte) uint32 { return ^crc32.Update(^seed, castagnoli, b) }

func sum32(seed, v uint32) uint32 {
	var b [4]byte
	le.PutUint32(b[:], v)
	return sum(seed, b[:])
}

// Open reads the superblock of a volume of size bytes that starts at r's first byte, and its root directory. Errors are
// *FormatError, or wrap those of r.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	f := &FS{r: r, size: size, cache: map[int64][]byte{}, dirs: map[uint32]*dir{}, owner: map[uint32]uint64{}}
	if size < 2*superPlace {
		return nil, &FormatError{"", 0, fmt.Sprintf("a volume of %d bytes has no superblock", size)}
	}
	b := make([]byte, 2*superPlace)
	if err := f.readAt(b, 0); err != nil {
		return nil, err
	}
	if err := f.layout(b[superPlace:]); err != nil {
		return nil, err
	}
	f.oddities(b)
	root, err := f.inode(rootInode)
	if err != nil {
		return nil, err
	}
	if !root.mode.IsDir() {
		return nil, &FormatError{"", root.off, "the root directory is none"}
	}
	if _, err := f.dir(root, "."); err != nil {
		return nil, err
	}
	return f, nil
}

// layout works out where things are ("The Super Block").
func (f *FS) layout(s []byte) error {
	fail := func(off int64, format string, args ...any) error {
		return &FormatError{"", superPlace + off, fmt.Sprintf(format, args...)}
	}
	f.compat, f.incompat, f.ro = le.Uint32(s[92:]), le.Uint32(s[96:]), le.Uint32(s[100:])
	if f.dynamicRev = le.Uint32(s[76:]) > 0; !f.dynamicRev {
		f.compat, f.incompat, f.ro = 0, 0, 0
	}
	shift := le.Uint32(s[24:])
	switch {
	case le.Uint16(s[56:]) != magic:
		return fail(56, "it isn't called ext")
	case f.incompat&^known != 0:
		for bit := uint32(1); bit != 0; bit <<= 1 {
			if f.incompat&^known&bit == 0 {
				continue
			}
			if name := incompatNames[bit]; name != "" {
				return fail(96, "it uses %s, which isn't read here", name)
			}
			return fail(96, "it uses the feature 0x%x, which isn't known here", bit)
		}
	case shift > 6:
		return fail(24, "blocks have 2^%d KiB", shift)
	}
	f.block = 1024 << shift
	if f.checksums = f.ro&roMetadataCsum != 0; f.checksums {
		if s[373] != 1 {
			return fail(373, "checksums are of the kind %d, and only 1 is known", s[373])
		}
		if got := sum(^uint32(0), s[:1020]); got != le.Uint32(s[1020:]) {
			return fail(1020, "the superblock's checksum is %08x, not %08x", got, le.Uint32(s[1020:]))
		}
	}
	f.uuid = append([]byte(nil), s[104:120]...)
	if f.seed = sum(^uint32(0), f.uuid); f.incompat&incompatCsumSeed != 0 {
		f.seed = le.Uint32(s[624:])
	}
	f.blocks = int64(le.Uint32(s[4:]))
	if f.incompat&incompat64Bit != 0 {
		f.blocks |= int64(le.Uint32(s[336:])) << 32
	}
	f.first, f.perGroup = int64(le.Uint32(s[20:])), int64(le.Uint32(s[32:]))
	f.inodes, f.perTable = le.Uint32(s[0:]), le.Uint32(s[40:])
	f.inodeSize = 128
	if f.dynamicRev {
		f.inodeSize = int64(le.Uint16(s[88:]))
	}
	f.descSize = 32
	if f.incompat&incompat64Bit != 0 {
		f.descSize = int64(le.Uint16(s[254:]))
	}
	f.firstMeta = int64(le.Uint32(s[260:]))
	f.backups = [2]uint32{le.Uint32(s[588:]), le.Uint32(s[592:])}
	switch {
	case f.blocks <= 0 || f.blocks > 1<<62/f.block:
		return fail(4, "it has %d blocks", f.blocks)
	case f.first >= f.blocks || f.first != 0 && f.block != 1024 || f.first > 1:
		return fail(20, "its first block is %d", f.first)
	case f.perGroup <= 0 || f.perGroup > 8*f.block*(1<<16): // clusters of BIGALLOC
		return fail(32, "a group has %d blocks", f.perGroup)
	case f.perTable == 0 || int64(f.perTable) > 8*f.block:
		return fail(40, "a group has %d inodes", f.perTable)
	case f.inodeSize < 128 || f.inodeSize > f.block || f.inodeSize&(f.inodeSize-1) != 0:
		return fail(88, "an inode has %d bytes", f.inodeSize)
	case f.descSize < 32 || f.descSize > 1024 || f.descSize > f.block || f.descSize&(f.descSize-1) != 0 || f.incompat&incompat64Bit != 0 && f.descSize < 64:
		return fail(254, "a group's descriptor has %d bytes", f.descSize)
	}
	f.groups = (f.blocks - f.first + f.perGroup - 1) / f.perGroup
	if int64(f.inodes) > f.groups*int64(f.perTable) || f.inodes < rootInode {
		return fail(0, "it has %d inodes, in %d groups of %d", f.inodes, f.groups, f.perTable)
	}
	f.label, _, _ = strings.Cut(string(s[120:136]), "\x00")
	f.label = strings.ToValidUTF8(f.label, "\uFFFD")
	switch {
	case f.incompat&(incompatExtents|incompat64Bit|incompatFlexBG|incompatInlineData) != 0 || f.ro&(roMetadataCsum|0x78) != 0:
		f.name = "ext4"
	case f.compat&compatHasJournal != 0:
		f.name = "ext3"
	default:
		f.name = "ext2"
	}
	return nil
}

// oddities finds what is odd about a volume that can be read. b begins at the volume's start.
func (f *FS) oddities(b []byte) {
	s := b[superPlace:]
	for i, c := range b[:superPlace] {
		if c != 0 {
			f.list.Add("boot-code", int64(i), "", "there is something before the superblock, where nothing of a volume's is")
			break
		}
	}
	if f.incompat&incompatRecover != 0 {
		f.list.Add("needs-recovery", superPlace+96, "", "it was not unmounted, and its journal has what the volume doesn't show")
	}
	if state := le.Uint16(s[58:]); state&2 != 0 {
		f.list.Add("errors", superPlace+58, "", "its last user found errors in it")
	} else if state&1 == 0 && f.incompat&incompatRecover == 0 {
		f.list.Add("dirty", superPlace+58, "", "it was not unmounted")
	}
	if le.Uint32(s[232:]) != 0 || f.ro&roOrphanPresent != 0 {
		f.list.Add("orphans", superPlace+232, "", "files that were deleted while they were open are still there")
	}
	switch end := f.blocks * f.block; {
	case end > f.size:
		f.list.Add("past-end", superPlace+4, "", "the volume says that it has %d bytes, and there are %d", end, f.size)
	case f.size-end >= f.block:
		f.list.Add("volume-slack", end, "", "%d bytes behind the volume's end belong to no volume", f.size-end)
	}
}

// readAt fills b from byte off on.
func (f *FS) readAt(b []byte, off int64) error {
	n, err := f.r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading an ext volume: %d bytes at %d: %w", len(b), off, err)
}

// get reads a block of the volume's structure through a small cache. It isn't to be changed, and is good until the next.
func (f *FS) get(n int64) ([]byte, error) {
	if n < 0 || n >= f.blocks {
		return nil, &FormatError{"", 0, fmt.Sprintf("block %d is none of the volume's %d", n, f.blocks)}
	}
	if b, ok := f.cache[n]; ok {
		return b, nil
	}
	b := make([]byte, f.block)
	if err := f.readAt(b, n*f.block); err != nil {
		return nil, err
	}
	if len(f.order) == maxBlocks {
		delete(f.cache, f.order[0])
		f.order = f.order[1:]
	}
	f.cache[n] = b
	f.order = append(f.order, n)
	return b, nil
}

// hasSuper says whether a group has a copy of the superblock ("Sparse Super Block").
func (f *FS) hasSuper(group int64) bool {
	if f.compat&compatSparseSuper2 != 0 {
		return group == 0 || group == int64(f.backups[0]) || group == int64(f.backups[1])
	}
	if group <= 1 || f.ro&roSparseSuper == 0 {
		return true
	}
	for _, p := range []int64{3, 5, 7} {
		n := p
		for n < group {
			n *= p
		}
		if n == group {
			return true
		}
	}
	return false
}

// table is the block that a group's inodes begin with ("Block Group Descriptors").
func (f *FS) table(group int64) (int64, error) {
	perBlock := f.block / f.descSize
	nr := group / perBlock
	at := superPlace/f.block + nr + 1
	if f.incompat&incompatMetaBG != 0 && nr >= f.firstMeta {
		own := nr * perBlock
		at = f.first + own*f.perGroup
		if f.hasSuper(own) {
			at++
		}
		if f.block == 1024 && nr == 0 && f.first == 0 {
			at++
		}
	}
	b, err := f.get(at)
	if err != nil {
		return 0, err
	}
	off := group % perBlock * f.descSize
	d := b[off : off+f.descSize]
	if err := f.checkDescriptor(d, group, at*f.block+off); err != nil {
		return 0, err
	}
	start := int64(le.Uint32(d[8:]))
	if f.descSize >= 64 {
		start |= int64(le.Uint32(d[40:])) << 32
	}
	length := (int64(f.perTable)*f.inodeSize + f.block - 1) / f.block
	if start <= f.first || start > f.blocks-length {
		return 0, &FormatError{"", at*f.block + off + 8, fmt.Sprintf("the inodes of group %d are at block %d", group, start)}
	}
	return start, nil
}

func (f *FS) checkDescriptor(d []byte, group, off int64) error {
	var got uint16
	switch {
	case f.checksums:
		s := sum32(f.seed, uint32(group))
		s = sum(s, d[:30])
		s = sum(s, []byte{0, 0})
		if f.descSize > 32 {
			s = sum(s, d[32:])
		}
		got = uint16(s)
	case f.ro&roGdtCsum != 0:
		s := crc16(^uint16(0), f.uuid)
		var g [4]byte
		le.PutUint32(g[:], uint32(group))
		s = crc16(s, g[:])
		s = crc16(s, d[:30])
		if f.incompat&incompat64Bit != 0 && f.descSize > 32 {
			s = crc16(s, d[32:])
		}
		got = s
	default:
		return nil
	}
	if want := le.Uint16(d[30:]); got != want {
		return &FormatError{"", off + 30, fmt.Sprintf("the checksum of group %d's descriptor is %04x, not %04x", group, got, want)}
	}
	return nil
}

// crc16 is CRC-16-ANSI, reflected.
func crc16(s uint16, b []byte) uint16 {
	for _, c := range b {
		s ^= uint16(c)
		for range 8 {
			if s&1 != 0 {
				s = s>>1 ^ 0xA001
			} else {
				s >>= 1
			}
		}
	}
	return s
}

// Name is "ext2", "ext3" or "ext4", by what the volume makes use of.
func (f *FS) Name() string { return f.name }

// Label is the volume's label.
func (f *FS) Label() string { return f.label }

// Findings returns what has been found until now.
func (f *FS) Findings() []volume.Finding {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list.All()
}
