// Package fat reads FAT12, FAT16 and FAT32 volumes without a kernel, as an fs.FS. It shows the tree that Linux' vfat shows with utf8 names, and refuses where Linux would show damage as data.
//
// The reader of github.com/diskfs/go-diskfs v1.9.4 was tried for this and doesn't hold. A chain that loops makes it run without end, in a file as in a directory; a chain that is shorter than its file makes it panic; a chain that runs into another file is read as this one's bytes without an error. Of 900 small volumes with one to five bytes changed, 8 made it panic and 5 made it allocate more than 2 GB, since it reads the whole FAT by a 32-bit size from the medium. And it gives up a FAT32 volume whose two FATs differ in one bit, which Linux reads.
//
// Sections cited are those of Microsoft's FAT: General Overview of On-Disk Format, version 1.03.
package fat

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
	// maxClusters is how many clusters are taken, 2 TiB in clusters of 32 KiB and 256 GiB in those of 4 KiB. A bit for each makes 8 MiB.
	maxClusters = 1 << 26
	// maxDirSize is how long a directory may be, 65,536 entries of 32 bytes (as in Linux).
	maxDirSize = 65536 * 32
	// maxOwners is how many files and directories are opened before no more are: who owns which chain is remembered, with 16 bytes and some for each.
	maxOwners = 400_000
	// maxDepth is how many directories are followed below each other.
	maxDepth = 128
	// maxCached is how many bytes of parsed directories are kept, names included.
	maxCached = 12 << 20
	// compared is how much of both FATs is compared when a volume is opened, in bytes.
	compared = 4 << 20
)

// FS is a FAT volume. It reads through the reader that Open got, whenever it is used, and has nothing to close.
type FS struct {
	r    io.ReaderAt
	size int64 // bytes

	kind        int   // 12, 16 or 32
	sector      int64 // bytes
	cluster     int64 // bytes
	fatStart    int64 // byte
	fatSize     int64 // bytes of one copy
	rootStart   int64 // byte of the root directory of FAT12 and FAT16
	rootSize    int64 // bytes
	dataStart   int64 // byte of cluster 2
	clusters    uint32
	rootCluster uint32 // FAT32
	label       string

	fat   pages
	mu    sync.Mutex // guards what follows
	list  volume.List
	taken []uint64         // a bit for each cluster that belongs to a chain which was followed
	owner map[uint32]int64 // first cluster → where its directory entry is
	dirs  dirCache
}

// FormatError says what in a volume can't be read. Only what it names is lost.
type FormatError struct {
	Path   string // slash-separated, "" for the volume itself
	Offset int64  // bytes from the volume's start
	Msg    string
}

func (e *FormatError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("reading a FAT volume: byte %d: %s", e.Offset, e.Msg)
	}
	return fmt.Sprintf("reading a FAT volume: %q at byte %d: %s", e.Path, e.Offset, e.Msg)
}

// Probe reports whether a volume that starts with boot, of which 512 bytes are needed, looks like FAT (section 3.1). It asks what Linux asks before it mounts one.
func Probe(boot []byte) bool {
	return len(boot) >= 512 && bpbError(boot) == ""
}

// bpbError says why a BIOS parameter block isn't one of FAT, "" if it is.
func bpbError(b []byte) string {
	le := binary.LittleEndian
	sector, cluster := le.Uint16(b[11:]), b[13]
	switch {
	case string(b[3:11]) == "EXFAT   " || string(b[3:11]) == "NTFS    ":
		return fmt.Sprintf("it is a volume of %s", bytes.TrimRight(b[3:11], " "))
	case sector < 512 || sector > 4096 || sector&(sector-1) != 0:
		return fmt.Sprintf("sectors have %d bytes", sector)
	case cluster == 0 || cluster&(cluster-1) != 0:
		return fmt.Sprintf("clusters have %d sectors", cluster)
	case le.Uint16(b[14:]) == 0:
		return "there is no reserved sector"
	case b[16] == 0:
		return "there is no FAT"
	case b[21] != 0xf0 && b[21] < 0xf8:
		return fmt.Sprintf("the media byte is 0x%02x", b[21])
	case le.Uint16(b[22:]) == 0 && le.Uint32(b[36:]) == 0:
		return "its FATs have no sectors"
	case le.Uint16(b[19:]) == 0 && le.Uint32(b[32:]) == 0:
		return "it has no sectors"
	}
	return ""
}

// Open reads the structure of a volume of size bytes that starts at r's first byte. Errors are *FormatError, or wrap those of r. It reads the boot sector, at most 8 MiB of the FATs, and the root directory.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	boot := make([]byte, 512)
	f := &FS{r: r, size: size, owner: map[uint32]int64{}}
	if size < 512 {
		return nil, &FormatError{"", 0, fmt.Sprintf("a volume of %d bytes has no boot sector", size)}
	}
	if err := f.readAt(boot, 0); err != nil {
		return nil, err
	}
	if why := bpbError(boot); why != "" {
		return nil, &FormatError{"", 0, why}
	}
	if err := f.layout(boot); err != nil {
		return nil, err
	}
	f.fat.init(f.readAt, f.fatStart, f.fatSize)
	f.taken = make([]uint64, (uint64(f.clusters)+2+63)/64)
	if err := f.checkCopies(boot); err != nil {
		return nil, err
	}
	if err := f.checkRoot(boot); err != nil {
		return nil, err
	}
	return f, nil
}

// layout works out where things are (section 3.5). The number of clusters tells FAT12 from FAT16, and a 16-bit FAT size of zero means FAT32, as in Linux.
func (f *FS) layout(b []byte) error {
	le := binary.LittleEndian
	fail := func(off int64, format string, args ...any) error {
		return &FormatError{"", off, fmt.Sprintf(format, args...)}
	}
	f.sector = int64(le.Uint16(b[11:]))
	f.cluster = f.sector * int64(b[13])
	f.fatStart = int64(le.Uint16(b[14:])) * f.sector
	f.fatSize = int64(le.Uint16(b[22:])) * f.sector
	if f.fatSize == 0 {
		f.kind = 32
		f.fatSize = int64(le.Uint32(b[36:])) * f.sector
		f.rootCluster = le.Uint32(b[44:])
		if v := le.Uint16(b[42:]); v != 0 {
			return fail(42, "it has version %d.%d of FAT32, and only 0.0 is known", v>>8, v&0xff)
		}
	}
	copies := int64(b[16])
	f.rootStart = f.fatStart + copies*f.fatSize
	f.rootSize = int64(le.Uint16(b[17:])) * 32
	if f.rootSize%f.sector != 0 {
		return fail(17, "the root directory's %d entries end inside of a sector", f.rootSize/32)
	}
	f.dataStart = f.rootStart + f.rootSize
	total := int64(le.Uint16(b[19:]))
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	total *= f.sector
	if f.dataStart > total || f.dataStart > f.size {
		return fail(14, "its FATs and root directory end at byte %d, behind its end at %d", f.dataStart, min(total, f.size))
	}
	clusters := (total - f.dataStart) / f.cluster
	most := int64(0x0ffffff6)
	if f.kind == 0 {
		if f.kind, most = 12, 0xff4; clusters > 0xff4 {
			f.kind, most = 16, 0xfff4
		}
	}
	if fits := f.fatSize*8/int64(f.kind) - 2; clusters > fits {
		f.list.Add("fat-short", 22, "", "the FAT has room for %d clusters and the volume has %d; the last ones aren't used", max(fits, 0), clusters)
		clusters = max(fits, 0)
	}
	switch {
	case clusters > most:
		return fail(32, "it has %d clusters, and FAT%d has %d at most", clusters, f.kind, most)
	case clusters > maxClusters:
		return fail(32, "it has %d clusters, more than the %d that are read", clusters, maxClusters)
	}
	f.clusters = uint32(clusters)
	if f.kind == 32 && (f.rootCluster < 2 || f.rootCluster-2 >= f.clusters) {
		return fail(44, "the root directory's cluster %d is none of the volume's %d", f.rootCluster, f.clusters)
	}
	switch {
	case total > f.size:
		f.list.Add("past-end", 32, "", "the volume says that it has %d bytes, and there are %d", total, f.size)
	case total < f.size:
		f.list.Add("volume-slack", total, "", "%d bytes behind the volume's end belong to no volume", f.size-total)
	}
	if copies > 2 || copies == 1 {
		f.list.Add("fat-copies", 16, "", "there are %d FATs, where two are usual", copies)
	}
	return nil
}

// checkCopies compares what a volume has twice, and tells of code and flags.
func (f *FS) checkCopies(boot []byte) error {
	le := binary.LittleEndian
	flag := boot[37]
	if f.kind == 32 {
		flag = boot[65]
		if v := le.Uint16(boot[40:]); v&0x80 != 0 {
			f.list.Add("fat-mirror", 40, "", "only FAT %d is said to be in use; the first one is read, as Linux does", v&15)
		}
	}
	if flag&1 != 0 {
		f.list.Add("dirty", -1, "", "the volume wasn't unmounted when it was used last")
	}
	if at := map[bool]int{true: 90, false: 62}[f.kind == 32]; !harmlessCode(boot[at:440]) {
		f.list.Add("boot-code", int64(at), "", "the boot sector has code that a BIOS would run, of a loader that isn't known")
	}
	if boot[16] >= 2 {
		a, b := make([]byte, 256<<10), make([]byte, 256<<10)
		for off := int64(0); off < min(f.fatSize, compared); off += int64(len(a)) {
			n := min(int64(len(a)), min(f.fatSize, compared)-off)
			if err := f.readAt(a[:n], f.fatStart+off); err != nil {
				return err
			}
			if err := f.readAt(b[:n], f.fatStart+f.fatSize+off); err != nil {
				return err
			}
			if i := firstDifference(a[:n], b[:n]); i >= 0 {
				f.list.Add("fat-differ", f.fatStart+f.fatSize+off+int64(i), "", "the two FATs differ; the first one is read")
				break
			}
		}
		if f.fatSize > compared {
			f.list.Add("fat-sampled", f.fatStart+compared, "", "of the two FATs the first %d bytes of %d were compared", compared, f.fatSize)
		}
	}
	backup := int64(le.Uint16(boot[50:])) * f.sector
	if f.kind != 32 || backup == 0 || backup == 0xffff*f.sector {
		return nil
	}
	if backup+512 > f.fatStart {
		f.list.Add("boot-copy", 50, "", "the boot sector's copy isn't in the reserved sectors")
		return nil
	}
	second := make([]byte, 512)
	if err := f.readAt(second, backup); err != nil {
		return err
	}
	if !bytes.Equal(boot[:65], second[:65]) || !bytes.Equal(boot[66:], second[66:]) { // byte 65 is the dirty flag
		f.list.Add("boot-copy", backup, "", "the boot sector and its copy differ")
	}
	return nil
}

func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// harmlessCode knows an empty code area, up to where an MBR has its table, and the one of mkfs.fat, which prints a message and waits.
func harmlessCode(b []byte) bool {
	if len(bytes.Trim(b, "\x00")) == 0 {
		return true
	}
	// push cs; pop ds; mov si, message; then: lodsb; and al, al; jz; push si; mov ah, 0e; mov bx, 7; int 10; pop si; jmp; xor ah, ah; int 16; int 19; jmp
	code := "\x7c\xac\x22\xc0\x74\x0b\x56\xb4\x0e\xbb\x07\x00\xcd\x10\x5e\xeb\xf0\x32\xe4\xcd\x16\xcd\x19\xeb\xfe"
	const message = "This is not a bootable disk.  Please insert a bootable floppy and\r\npress any key to try again ... \r\n"
	rest, ok := bytes.CutPrefix(b, []byte("\x0e\x1f\xbe"))
	if !ok {
		return false
	}
	rest, ok = bytes.CutPrefix(rest[1:], []byte(code+message))
	return ok && len(bytes.Trim(rest, "\x00")) == 0
}

// checkRoot reads the root directory, for the label that Linux and Windows show.
func (f *FS) checkRoot(boot []byte) error {
	root := f.root()
	d, err := f.dir(root, ".")
	if err != nil {
		return err
	}
	at := map[bool]int{true: 71, false: 43}[f.kind == 32]
	if boot[at-5] != 0x29 { // section 3.2: only with this signature are there a serial number and a label
		f.label = d.label
		return nil
	}
	f.label = d.label
	inBoot := trimName(boot[at : at+11])
	switch {
	case inBoot == "NO NAME" && d.label == "":
	case f.label == "":
		f.label = inBoot
	case inBoot != f.label && inBoot != "NO NAME":
		f.list.Add("label-differ", int64(at), "", "the label is %q in the boot sector and %q in the root directory", inBoot, f.label)
	}
	return nil
}

// readAt fills b from off on; whatever lies behind the volume's size is an error.
func (f *FS) readAt(b []byte, off int64) error {
	if off < 0 || off > f.size-int64(len(b)) {
		return fmt.Errorf("reading a FAT volume: byte %d: %w", min(off+int64(len(b)), f.size), io.ErrUnexpectedEOF)
	}
	if n, err := f.r.ReadAt(b, off); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading a FAT volume: byte %d: %w", off+int64(n), err)
	}
	return nil
}

// Name is "FAT12", "FAT16" or "FAT32".
func (f *FS) Name() string { return fmt.Sprintf("FAT%d", f.kind) }

// Label is the volume's label from the root directory, else from the boot sector. Bytes above 127 are read as code page 437.
func (f *FS) Label() string { return f.label }

// Findings returns what was found until now; a walk through the tree finds the rest.
func (f *FS) Findings() []volume.Finding {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list.All()
}
