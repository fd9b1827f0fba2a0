package ext

import (
	"fmt"
	"io/fs"
	"time"
)

const rootInode = 2 // "Special inodes"

// Flags of an inode ("Index Nodes", i_flags).
const (
	flagCompressed = 0x4
	flagEncrypted  = 0x800
	flagIndex      = 0x1000
	flagHuge       = 0x40000
	flagExtents    = 0x80000
	flagEAInode    = 0x200000
	flagInline     = 0x10000000
)

// inode is one, read and checked ("Index Nodes").
type inode struct {
	number uint32
	off    int64 // bytes from the volume's start
	mode   fs.FileMode
	size   int64
	mtime  time.Time
	flags  uint32
	block  [60]byte // i_block
	seed   uint32   // of the checksums of what belongs to it
	fast   bool     // nothing but its attributes takes a block: a link's target is in i_block
}

// mayName says whether a directory may name an inode: those before the first are the volume's own.
func (f *FS) mayName(n uint32) bool { return n == rootInode || n >= f.firstInode && n <= f.inodes }

// inode reads one that a directory may name.
func (f *FS) inode(n uint32) (*inode, error) {
	b, off, err := f.rawInode(n)
	if err != nil {
		return nil, err
	}
	i := &inode{number: n, off: off, flags: le.Uint32(b[32:]), seed: sum32(sum32(f.seed, n), le.Uint32(b[100:])), fast: f.takesNothing(b)}
	copy(i.block[:], b[40:100])
	fail := func(off int64, format string, args ...any) (*inode, error) {
		return nil, &FormatError{"", i.off + off, fmt.Sprintf(format, args...)}
	}
	if got, want, ok := f.inodeSum(i, b); !ok {
		return fail(124, "the checksum of inode %d is %08x, not %08x", n, got, want)
	}
	if len(b) > 128 {
		if extra := int(le.Uint16(b[128:])); extra%4 != 0 || 128+extra > len(b) {
			return fail(128, "inode %d has %d more bytes, of %d", n, extra, len(b)-128)
		}
	}
	if le.Uint16(b[26:]) == 0 {
		return fail(26, "inode %d was deleted", n)
	}
	mode := le.Uint16(b[0:])
	var known bool
	if i.mode, known = fileMode(mode); !known {
		return fail(0, "inode %d has the mode %#o", n, mode)
	}
	size := uint64(le.Uint32(b[4:]))
	if i.mode.IsRegular() || i.mode.IsDir() && f.incompat&incompatLargeDir != 0 {
		size |= uint64(le.Uint32(b[108:])) << 32
	}
	if size > 1<<60 {
		return fail(4, "inode %d has %d bytes", n, size)
	}
	i.size = int64(size)
	i.mtime = mtime(b)
	switch {
	case i.flags&flagEAInode != 0:
		return fail(32, "inode %d holds an attribute and is no file", n)
	case i.flags&flagInline != 0 && f.incompat&incompatInlineData == 0, i.flags&flagExtents != 0 && f.incompat&incompatExtents == 0:
		return fail(32, "inode %d has flags %#x, for which the volume lacks the feature", n, i.flags)
	case i.flags&flagInline != 0 && i.flags&flagExtents != 0:
		return fail(32, "inode %d holds its bytes itself, and has extents", n)
	case i.mode.IsDir() && i.size > maxDirSize:
		return fail(4, "the directory has %d bytes, more than the %d that are read", i.size, maxDirSize)
	}
	return i, nil
}

// rawInode reads the bytes of one. They aren't to be changed.
func (f *FS) rawInode(n uint32) (b []byte, off int64, err error) {
	table, err := f.table(int64(n-1) / int64(f.perTable))
	if err != nil {
		return nil, 0, err
	}
	off = table*f.block + int64(n-1)%int64(f.perTable)*f.inodeSize
	// Blocks can have 64 KiB, and directories can name inodes of one after another: only some of it is read.
	size := min(f.block, max(4096, f.inodeSize))
	if b, err = f.piece(extent{off &^ (size - 1), size}); err != nil {
		return nil, 0, err
	}
	return b[off&(size-1):][:f.inodeSize], off, nil
}

// takesNothing says that no block belongs to an inode but that of its attributes.
func (f *FS) takesNothing(b []byte) bool {
	blocks, unit := int64(le.Uint32(b[28:])), int64(512)
	if f.ro&roHugeFile != 0 {
		blocks |= int64(le.Uint16(b[116:])) << 32
		if le.Uint32(b[32:])&flagHuge != 0 {
			unit = f.block
		}
	}
	if le.Uint32(b[104:]) != 0 || f.incompat&incompat64Bit != 0 && le.Uint16(b[118:]) != 0 {
		return blocks*unit == f.cluster
	}
	return blocks == 0
}

// inodeSum compares an inode's checksum ("Checksums").
func (f *FS) inodeSum(i *inode, b []byte) (got, want uint32, ok bool) {
	if !f.checksums {
		return 0, 0, true
	}
	zero := []byte{0, 0}
	s := sum(i.seed, b[:124])
	s = sum(s, zero)
	s = sum(s, b[126:128])
	want = uint32(le.Uint16(b[124:]))
	mask := uint32(0xFFFF)
	if len(b) > 128 {
		if le.Uint16(b[128:]) >= 4 {
			s = sum(s, b[128:130])
			s = sum(s, zero)
			s = sum(s, b[132:])
			want |= uint32(le.Uint16(b[130:])) << 16
			mask = ^uint32(0)
		} else {
			s = sum(s, b[128:])
		}
	}
	return s & mask, want, s&mask == want
}

// mtime is the time of the last change. Behind the first 128 bytes of an inode are its nanoseconds, and two bits more of its
// seconds ("Inode Timestamps").
func mtime(b []byte) time.Time {
	at, nanos := int64(int32(le.Uint32(b[16:]))), int64(0)
	if len(b) > 128 && le.Uint16(b[128:]) >= 12 { // i_mtime_extra ends there
		extra := le.Uint32(b[136:])
		at += int64(extra&3) << 32
		nanos = int64(extra >> 2)
	}
	if nanos >= 1e9 {
		nanos = 0
	}
	return time.Unix(at, nanos).UTC()
}

// fileMode is i_mode as Go has it.
func fileMode(mode uint16) (fs.FileMode, bool) {
	m := fs.FileMode(mode & 0o777)
	switch mode & 0xF000 {
	case 0x1000:
		m |= fs.ModeNamedPipe
	case 0x2000:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case 0x4000:
		m |= fs.ModeDir
	case 0x6000:
		m |= fs.ModeDevice
	case 0x8000:
	case 0xA000:
		m |= fs.ModeSymlink
	case 0xC000:
		m |= fs.ModeSocket
	default:
		return 0, false
	}
	for bit, flag := range map[uint16]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= flag
		}
	}
	return m, true
}

// inline is what an inode holds itself: 60 bytes in i_block and the rest in the attribute "system.data" ("Inline Data").
func (f *FS) inline(i *inode, path string) ([]byte, error) {
	b := append([]byte(nil), i.block[:]...)
	if i.size <= int64(len(b)) {
		return b[:i.size], nil
	}
	f.mu.Lock()
	raw, _, err := f.rawInode(i.number)
	f.mu.Unlock()
	if err != nil {
		return nil, at(err, path)
	}
	fail := func(off int64, format string, args ...any) ([]byte, error) {
		return nil, &FormatError{path, i.off + 128 + off, fmt.Sprintf(format, args...)}
	}
	x := raw[128:]
	if len(x) < 4 {
		return fail(0, "there is no room for what the inode should hold")
	}
	pos := int64(le.Uint16(x))
	if pos%4 != 0 || pos > int64(len(x))-4 || le.Uint32(x[pos:]) != 0xEA020000 {
		return fail(pos, "what the inode should hold isn't there")
	}
	first := pos + 4
	for pos = first; pos <= int64(len(x))-16 && le.Uint32(x[pos:]) != 0; {
		length := int64(x[pos])
		offset, value, inside := int64(le.Uint16(x[pos+2:])), int64(le.Uint32(x[pos+8:])), le.Uint32(x[pos+4:]) == 0
		if pos+16+length > int64(len(x)) {
			break
		}
		if x[pos+1] == 7 && string(x[pos+16:pos+16+length]) == "data" {
			if !inside || first+offset > int64(len(x)) || value > int64(len(x))-first-offset || int64(len(b))+value < i.size {
				return fail(pos, "what the inode holds has %d bytes at %d, and %d are wanted", value, offset, i.size-int64(len(b)))
			}
			return append(b, x[first+offset:first+offset+value]...)[:i.size], nil
		}
		pos += 16 + (length+3)&^3
	}
	return fail(pos, "what the inode should hold isn't there")
}
