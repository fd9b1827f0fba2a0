// Package exfat reads exFAT volumes without a kernel, as an fs.FS. It shows the tree that Linux' exfat shows with utf8 names, and refuses where Linux would show damage as data: what has a wrong checksum is listed and can't be opened.
//
// The reader is our own: github.com/diskfs/go-diskfs, which makes and reads the other file systems of a stick, has no exFAT.
//
// Sections cited are those of Microsoft's exFAT file system specification, revision 1.00 of August 2019.
package exfat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"sallyport/media/volume"
)

const (
	// maxClusters is how many clusters are taken, 8 TiB in clusters of 128 KiB and 256 GiB in those of 4 KiB. A bit for each makes 8 MiB.
	maxClusters = 1 << 26
	// maxDirSize is how long a directory may be in bytes (as in Linux and Windows).
	maxDirSize = 256 << 20
	// maxDirCost is how many bytes of memory the entries of one directory may take, names included: some 80,000 files.
	maxDirCost = 12 << 20
	// maxCached is how many bytes of parsed directories are kept; one of maxDirCost fits.
	maxCached = 12 << 20
	// maxOwners is how many files and directories are opened before no more are: who owns which chain is remembered, with 16 bytes and some for each.
	maxOwners = 400_000
	// maxDepth is how many directories are followed below each other.
	maxDepth = 128

	// maxGap is how much of what lies beside the FAT, and belongs to nothing, is looked at on either side.
	maxGap = 4 << 20

	// bootSectors is how long the boot region is, checksum included; its copy follows (sections 2.1 and 3).
	bootSectors = 12
)

// Bits of VolumeFlags (section 3.1.13).
const (
	flagActiveFat    = 1
	flagDirty        = 2
	flagMediaFailure = 4
)

// FS is an exFAT volume. It reads through the reader that Open got, whenever it is used, and has nothing to close.
type FS struct {
	r    io.ReaderAt
	size int64 // bytes

	sector      int64 // bytes
	cluster     int64 // bytes
	fatStart    int64 // byte of the FAT in use
	fatSize     int64 // bytes of one copy
	dataStart   int64 // byte of cluster 2
	clusters    uint32
	rootCluster uint32
	active      byte // which FAT and bitmap are in use, 0 or 1
	label       string
	upcase      []uint16 // for all 65,536 code units, nil where the volume's table can't be used

	fat pages

	mu    sync.Mutex // guards what follows
	list  volume.List
	taken []uint64         // a bit for each cluster that belongs to a chain which was followed
	owner map[uint32]int64 // first cluster → where its directory entry is
	bits  *bitmap          // nil where the volume's can't be used
	dirs  dirCache
	paths []resolved
}

// FormatError says what in a volume can't be read. Only what it names is lost.
type FormatError struct {
	Path   string // slash-separated, "" for the volume itself
	Offset int64  // bytes from the volume's start
	Msg    string
}

func (e *FormatError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("reading an exFAT volume: byte %d: %s", e.Offset, e.Msg)
	}
	return fmt.Sprintf("reading an exFAT volume: %q at byte %d: %s", e.Path, e.Offset, e.Msg)
}

// Probe reports whether a volume that starts with boot, of which 11 bytes are needed, says that it is exFAT (section 3.1.2).
func Probe(boot []byte) bool {
	return len(boot) >= 11 && string(boot[3:11]) == "EXFAT   "
}

// Open reads the structure of a volume of size bytes that starts at r's first byte. Errors are *FormatError, or wrap those of r. It reads both boot regions, the root directory, and the up-case table.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	f := &FS{r: r, size: size, owner: map[uint32]int64{}}
	if size < 512 {
		return nil, &FormatError{"", 0, fmt.Sprintf("a volume of %d bytes has no boot sector", size)}
	}
	boot := make([]byte, 512)
	if err := f.readAt(boot, 0); err != nil {
		return nil, err
	}
	if err := f.layout(boot); err != nil {
		return nil, err
	}
	if err := f.checkBoot(); err != nil {
		return nil, err
	}
	f.flags(boot)
	f.fat.init(func(b []byte, off int64) error { return f.readAt(b, f.fatStart+off) }, f.fatSize)
	f.taken = make([]uint64, (uint64(f.clusters)+2+63)/64)
	if err := f.checkGaps(boot); err != nil {
		return nil, err
	}
	if err := f.readRoot(); err != nil {
		return nil, err
	}
	return f, nil
}

// layout works out where things are (section 3.1). What isn't as it has to be is an error, as it is to Linux.
func (f *FS) layout(b []byte) error {
	le := binary.LittleEndian
	fail := func(off int64, format string, args ...any) error {
		return &FormatError{"", off, fmt.Sprintf(format, args...)}
	}
	shift, perCluster := b[108], b[109]
	switch {
	case !Probe(b):
		return fail(3, "it isn't called exFAT")
	case b[510] != 0x55 || b[511] != 0xaa:
		return fail(510, "the boot sector has no signature")
	case len(bytes.Trim(b[11:64], "\x00")) != 0:
		return fail(11, "there are bytes where FAT has its parameters and exFAT has zeros")
	case b[105] != 1:
		return fail(104, "it has revision %d.%02d of exFAT, and only 1 is known", b[105], b[104])
	case shift < 9 || shift > 12:
		return fail(108, "sectors have 2^%d bytes", shift)
	case perCluster > 25-shift:
		return fail(109, "clusters have 2^%d sectors of 2^%d bytes", perCluster, shift)
	case b[110] != 1 && b[110] != 2:
		return fail(110, "it has %d FATs", b[110])
	}
	f.sector = 1 << shift
	f.cluster = f.sector << perCluster
	total := le.Uint64(b[72:])
	if total > 1<<62/uint64(f.sector) {
		return fail(72, "it has %d sectors", total)
	}
	end := int64(total) * f.sector
	copies := int64(b[110])
	f.fatStart = int64(le.Uint32(b[80:])) * f.sector
	f.fatSize = int64(le.Uint32(b[84:])) * f.sector
	f.dataStart = int64(le.Uint32(b[88:])) * f.sector
	clusters := le.Uint32(b[92:])
	f.rootCluster = le.Uint32(b[96:])
	switch {
	case f.fatStart < 2*bootSectors*f.sector:
		return fail(80, "the FAT starts at byte %d, inside of the boot regions", f.fatStart)
	case f.fatSize < (int64(clusters)+2)*4:
		return fail(84, "the FAT has %d bytes, too few for %d clusters", f.fatSize, clusters)
	case f.dataStart < f.fatStart+copies*f.fatSize:
		return fail(88, "the clusters start at byte %d, inside of the FAT", f.dataStart)
	case f.dataStart > end || int64(clusters) > (end-f.dataStart)/f.cluster:
		return fail(92, "%d clusters from byte %d on end behind the volume's end at %d", clusters, f.dataStart, end)
	case f.dataStart > f.size:
		return fail(88, "the clusters start at byte %d, behind the medium's end at %d", f.dataStart, f.size)
	case clusters > maxClusters:
		return fail(92, "it has %d clusters, more than the %d that are read", clusters, maxClusters)
	case f.rootCluster < 2 || f.rootCluster-2 >= clusters:
		return fail(96, "the root directory's cluster %d is none of the volume's %d", f.rootCluster, clusters)
	}
	f.clusters = clusters
	if copies == 2 {
		f.list.Add("fat-copies", 110, "", "there are two FATs, as only TexFAT has them")
		f.active = b[106] & flagActiveFat
		f.fatStart += int64(f.active) * f.fatSize
	}
	switch {
	case end > f.size:
		f.list.Add("past-end", 72, "", "the volume says that it has %d bytes, and there are %d", end, f.size)
	case end < f.size:
		f.list.Add("volume-slack", end, "", "%d bytes behind the volume's end belong to no volume", f.size-end)
	}
	if heap := f.dataStart + int64(clusters)*f.cluster; end-heap >= f.cluster {
		f.list.Add("heap-slack", heap, "", "%d bytes behind the last cluster belong to none", end-heap)
	}
	return nil
}

// checkBoot verifies the boot region's checksum, without which nothing in it counts, and compares its copy (sections 3.1 to 3.4).
func (f *FS) checkBoot() error {
	n := bootSectors * f.sector
	if f.size < 2*n {
		return &FormatError{"", f.size, fmt.Sprintf("the medium ends in the boot regions, which have %d bytes", 2*n)}
	}
	boot, second := make([]byte, n), make([]byte, n)
	if err := f.readAt(boot, 0); err != nil {
		return err
	}
	if err := f.readAt(second, n); err != nil {
		return err
	}
	if !f.bootSumGood(boot) {
		which := "so is that of its copy"
		if f.bootSumGood(second) {
			which = "that of its copy is right"
		}
		return &FormatError{"", n - f.sector, "the boot region's checksum is wrong; " + which}
	}
	if !sameBoot(boot, second) {
		f.list.Add("boot-copy", n, "", "the boot region and its copy differ")
	}
	if code := boot[120:510]; !filled(code, 0) && !filled(code, 0xf4) {
		f.list.Add("boot-code", 120, "", "the boot sector has code that a BIOS would run, of a loader that isn't known")
	}
	for i := int64(1); i <= 8; i++ {
		s := boot[i*f.sector : (i+1)*f.sector]
		if !filled(s[:f.sector-4], 0) {
			f.list.Add("boot-code", i*f.sector, "", "the boot sector's extension %d has code or data", i)
			break
		}
	}
	return nil
}

// volatile are the bytes of the boot sector that change without its checksum: VolumeFlags and PercentInUse.
func volatile(i int) bool { return i == 106 || i == 107 || i == 112 }

// bootSumGood verifies the checksum of 11 sectors, which fills the twelfth (section 3.4).
func (f *FS) bootSumGood(region []byte) bool {
	var sum uint32
	for i, c := range region[:11*f.sector] {
		if !volatile(i) {
			sum = (sum<<31 | sum>>1) + uint32(c)
		}
	}
	last := region[11*f.sector:]
	for i := 0; i < len(last); i += 4 {
		if binary.LittleEndian.Uint32(last[i:]) != sum {
			return false
		}
	}
	return true
}

func sameBoot(a, b []byte) bool {
	return bytes.Equal(a[:106], b[:106]) && bytes.Equal(a[108:112], b[108:112]) && bytes.Equal(a[113:], b[113:])
}

func filled(b []byte, with byte) bool {
	for _, c := range b {
		if c != with {
			return false
		}
	}
	return true
}

// checkGaps looks between the boot regions and the FAT and between the FAT and the first cluster, where nothing belongs (section 2, FatAlignment and ClusterHeapAlignment).
func (f *FS) checkGaps(boot []byte) error {
	first := int64(binary.LittleEndian.Uint32(boot[80:])) * f.sector
	buf := make([]byte, 256<<10)
	for _, gap := range [][2]int64{{2 * bootSectors * f.sector, first}, {first + int64(boot[110])*f.fatSize, f.dataStart}} {
		from, to := gap[0], gap[1]
		if to-from > maxGap {
			f.list.Add("gap-sampled", from+maxGap, "", "of the %d bytes beside the FAT the first %d were looked at", to-from, maxGap)
			to = from + maxGap
		}
		for ; from < to; from += int64(len(buf)) {
			b := buf[:min(int64(len(buf)), to-from)]
			if err := f.readAt(b, from); err != nil {
				return err
			}
			if i := bytes.IndexFunc(b, func(r rune) bool { return r != 0 }); i >= 0 {
				f.list.Add("gap-data", from+int64(i), "", "there are bytes between the boot region, the FAT and the clusters, where nothing belongs")
				break
			}
		}
	}
	return nil
}

// flags tells what the volume says of its state (section 3.1.13).
func (f *FS) flags(boot []byte) {
	if boot[106]&flagDirty != 0 {
		f.list.Add("dirty", 106, "", "the volume wasn't unmounted when it was used last")
	}
	if boot[106]&flagMediaFailure != 0 {
		f.list.Add("media-failure", 106, "", "whoever wrote the volume last had the medium fail")
	}
}

// readAt fills b from off on; whatever lies behind the volume's size is an error.
func (f *FS) readAt(b []byte, off int64) error {
	if off < 0 || off > f.size-int64(len(b)) {
		return fmt.Errorf("reading an exFAT volume: byte %d: %w", min(off+int64(len(b)), f.size), io.ErrUnexpectedEOF)
	}
	if n, err := f.r.ReadAt(b, off); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading an exFAT volume: byte %d: %w", off+int64(n), err)
	}
	return nil
}

// Name is "exFAT".
func (f *FS) Name() string { return "exFAT" }

// Label is the volume's label from the root directory.
func (f *FS) Label() string { return f.label }

// Findings returns what was found until now; a walk through the tree finds the rest.
func (f *FS) Findings() []volume.Finding {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list.All()
}
