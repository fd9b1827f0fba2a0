package ext

import (
	"bytes"
	"fmt"
	"io/fs"
	"time"
)

const (
	rootInode  = 2
	firstInode = 11 // the first that isn't the volume's own ("Special inodes")
)

// Flags of an inode ("Index Nodes", i_flags).
const (
	flagCompressed = 0x4
	flagEncrypted  = 0x800
	flagIndex      = 0x1000
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
	blocks uint32 // that it takes, in sectors or blocks: only whether it takes any counts
	acl    bool   // it has a block of extended attributes
	gen    uint32
	block  [60]byte // i_block
	extra  []byte   // what stands behind the first 128 bytes
	seed   uint32   // of the checksums of what belongs to it
}

// inode reads one. Those that a directory can't name are refused.
func (f *FS) inode(n uint32) (*inode, error) {
	if n == 0 || n > f.inodes || n < firstInode && n != rootInode {
		return nil, &FormatError{"", 0, fmt.Sprintf("inode %d is none that a directory may name", n)}
	}
	table, err := f.table(int64(n-1) / int64(f.perTable))
	if err != nil {
		return nil, err
	}
	at := int64(n-1) % int64(f.perTable) * f.inodeSize
	block, err := f.get(table + at/f.block)
	if err != nil {
		return nil, err
	}
	b := block[at%f.block:][:f.inodeSize]
	i := &inode{
		number: n, off: table*f.block + at, flags: le.Uint32(b[32:]), blocks: le.Uint32(b[28:]), gen: le.Uint32(b[100:]),
		acl: le.Uint32(b[104:]) != 0 || le.Uint16(b[118:]) != 0, extra: bytes.Clone(b[128:]),
	}
	copy(i.block[:], b[40:100])
	i.seed = sum32(sum32(f.seed, n), i.gen)
	fail := func(off int64, format string, args ...any) (*inode, error) {
		return nil, &FormatError{"", i.off + off, fmt.Sprintf(format, args...)}
	}
	if got, want, ok := f.inodeSum(i, b); !ok {
		return fail(124, "the checksum of inode %d is %08x, not %08x", n, got, want)
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
	i.mtime = i.time(le.Uint32(b[16:]))
	switch {
	case i.flags&flagEAInode != 0:
		return fail(32, "inode %d holds an attribute and is no file", n)
	case i.flags&flagInline != 0 && f.incompat&incompatInlineData == 0, i.flags&flagExtents != 0 && f.incompat&incompatExtents == 0:
		return fail(32, "inode %d has flags %#x, for which the volume lacks the feature", n, i.flags)
	case i.mode.IsDir() && i.size > maxDirSize:
		return fail(4, "the directory has %d bytes, more than the %d that are read", i.size, maxDirSize)
	}
	return i, nil
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
		if extra := le.Uint16(b[128:]); extra >= 4 && int(extra) <= len(b)-128 {
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

// time adds to the seconds of the last change what stands behind the first 128 bytes ("Inode Timestamps").
func (i *inode) time(seconds uint32) time.Time {
	at, nanos := int64(int32(seconds)), int64(0)
	if len(i.extra) >= 12 && le.Uint16(i.extra[0:]) >= 12 { // i_mtime_extra is at 136, its 4 bytes end at 12 behind 128
		extra := le.Uint32(i.extra[8:])
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
	fail := func(off int64, format string, args ...any) ([]byte, error) {
		return nil, &FormatError{path, i.off + 128 + off, fmt.Sprintf(format, args...)}
	}
	x := i.extra
	if len(x) < 4 {
		return fail(0, "there is no room for what the inode should hold")
	}
	at := int64(le.Uint16(x))
	if at%4 != 0 || at > int64(len(x))-4 || le.Uint32(x[at:]) != 0xEA020000 {
		return fail(at, "what the inode should hold isn't there")
	}
	first := at + 4
	for at = first; at <= int64(len(x))-16 && le.Uint32(x[at:]) != 0; {
		length := int64(x[at])
		offset, value, inside := int64(le.Uint16(x[at+2:])), int64(le.Uint32(x[at+8:])), le.Uint32(x[at+4:]) == 0
		if at+16+length > int64(len(x)) {
			break
		}
		if x[at+1] == 7 && string(x[at+16:at+16+length]) == "data" {
			if !inside || first+offset > int64(len(x)) || value > int64(len(x))-first-offset || int64(len(b))+value < i.size {
				return fail(at, "what the inode holds has %d bytes at %d, and %d are wanted", value, offset, i.size-int64(len(b)))
			}
			return append(b, x[first+offset:first+offset+value]...)[:i.size], nil
		}
		at += 16 + (length+3)&^3
	}
	return fail(at, "what the inode should hold isn't there")
}
