// Package ext reads ext2, ext3 and ext4 volumes without a kernel, as an fs.FS. It shows the tree that Linux shows, and
// refuses where a checksum, a number or a place isn't what it has to be. The journal isn't replayed: a volume that needs
// that is read as it lies there, with a finding.
//
// The reader of github.com/diskfs/go-diskfs v1.9.4 doesn't serve for hostile media: it reads all
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
	"slices"
	"sync"

	"sallyport/media/volume"
)

const (
	// maxDirCost is how many bytes of memory the entries of one directory may take, names included: some 85,000 files.
	maxDirCost = 24 << 20
	// maxDirSize is how long a directory may be, in bytes.
	maxDirSize = 256 << 20
	// maxCached is how many bytes of parsed directories are kept: two of maxDirCost, so that one and its parent fit.
	maxCached = 48 << 20
	// maxBlocks is how many blocks of the volume's own structure are kept in memory, at most 64 KiB each.
	maxBlocks = 64
	// maxDescriptors is how many bytes the descriptors of all groups may take: those of 128 TiB in blocks of 4 KiB.
	maxDescriptors = 64 << 20
	// maxGroups is how many there may be: 64 TiB in blocks of 4 KiB.
	maxGroups = 1 << 19
	// maxCopies is how many copies of the superblock are compared with it. Where not each group has one there are at most 27.
	maxCopies = 64
	// maxBroken is how many files and directories whose blocks can't be followed are remembered.
	maxBroken = 50_000
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
	roHugeFile      = 0x8
	roGdtCsum       = 0x10
	roBigalloc      = 0x200
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
	there      int64 // whole blocks that the reader has, at most blocks
	perGroup   int64 // blocks
	cluster    int64 // bytes: a block's, or several
	groups     int64
	inodes     uint32
	firstInode uint32 // the first that isn't the volume's own
	perTable   uint32 // inodes of a group
	inodeSize  int64  // bytes
	descSize   int64  // bytes of a group's descriptor
	firstMeta  int64  // the first block of descriptors that lies in its own groups (META_BG)
	reserved   int64  // blocks behind the descriptors that are kept for more of them
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
	noted  int // findings that were tried to be added
	cache  map[extent][]byte
	order  []extent // of the cache, oldest first
	dirs   dirCache
	paths  []resolved
	owner  map[uint32]uint32 // inode of a directory → its parent's
	zones  []zone            // the volume's own blocks, in order
	taken  claims            // blocks that belong to a file or directory
	tried  claims            // inodes whose blocks were followed
	broken map[uint32]error  // those of them whose blocks couldn't be
	sound  claims            // groups whose block bitmap's checksum was compared
	looked claims            // inodes of directories whose findings are known
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
	f := &FS{r: r, size: size, cache: map[extent][]byte{}, owner: map[uint32]uint32{}, broken: map[uint32]error{}}
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
	if err := f.compareCopies(b[superPlace:]); err != nil {
		return nil, err
	}
	if err := f.findZones(); err != nil {
		return nil, err
	}
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

// extent is a piece of the volume, in bytes.
type extent struct{ at, size int64 }

// get reads a block of the volume's structure. It isn't to be changed.
func (f *FS) get(n int64) ([]byte, error) {
	if n < 0 || n >= f.blocks {
		return nil, &FormatError{"", 0, fmt.Sprintf("block %d is none of the volume's %d", n, f.blocks)}
	}
	return f.piece(extent{n * f.block, f.block})
}

// piece reads a part of the volume's structure through a small cache.
func (f *FS) piece(e extent) ([]byte, error) {
	if b, ok := f.cache[e]; ok {
		return b, nil
	}
	if e.at > f.there*f.block-e.size {
		return nil, &FormatError{"", e.at, "it lies behind the end of what is there"}
	}
	b := make([]byte, e.size)
	if err := f.readAt(b, e.at); err != nil {
		return nil, err
	}
	if len(f.order) == maxBlocks {
		delete(f.cache, f.order[0])
		f.order = slices.Delete(f.order, 0, 1)
	}
	f.cache[e] = b
	f.order = append(f.order, e)
	return b, nil
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
