package ext

import (
	"bytes"
	"fmt"
	"strings"
)

// layout works out where things are ("The Super Block").
func (f *FS) layout(s []byte) error {
	fail := func(off int64, format string, args ...any) error {
		return &FormatError{"", superPlace + off, fmt.Sprintf(format, args...)}
	}
	f.compat, f.incompat, f.ro = le.Uint32(s[92:]), le.Uint32(s[96:]), le.Uint32(s[100:])
	f.dynamicRev = le.Uint32(s[76:]) > 0
	shift := le.Uint32(s[24:])
	switch {
	case le.Uint16(s[56:]) != magic:
		return fail(56, "it isn't called ext")
	case !f.dynamicRev && f.compat|f.incompat|f.ro != 0:
		return fail(76, "its revision is %d, which has no features, and it has some", le.Uint32(s[76:]))
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
	f.inodeSize, f.firstInode = 128, 11
	if f.dynamicRev {
		f.inodeSize, f.firstInode = int64(le.Uint16(s[88:])), le.Uint32(s[84:])
	}
	f.descSize = 32
	if f.incompat&incompat64Bit != 0 {
		f.descSize = int64(le.Uint16(s[254:]))
	}
	f.firstMeta, f.reserved = int64(le.Uint32(s[260:])), int64(le.Uint16(s[206:]))
	f.backups = [2]uint32{le.Uint32(s[588:]), le.Uint32(s[592:])}
	ratio := int64(1) // blocks of a cluster
	if f.ro&roBigalloc != 0 {
		if n := le.Uint32(s[28:]); n < shift || n > 20 {
			return fail(28, "clusters have 2^%d KiB", n)
		}
		ratio = 1 << (le.Uint32(s[28:]) - shift)
	}
	f.cluster = ratio * f.block
	switch {
	case f.blocks <= 0 || f.blocks > 1<<62/f.block:
		return fail(4, "it has %d blocks", f.blocks)
	case f.first >= f.blocks || f.first > 1 || f.first == 1 && f.block != 1024 || f.first == 0 && f.cluster == 1024:
		return fail(20, "its first block is %d", f.first)
	case f.perGroup <= 0 || f.perGroup%ratio != 0 || f.perGroup/ratio > 8*f.block:
		return fail(32, "a group has %d blocks", f.perGroup)
	case f.inodeSize < 128 || f.inodeSize > f.block || f.inodeSize&(f.inodeSize-1) != 0:
		return fail(88, "an inode has %d bytes", f.inodeSize)
	case int64(f.perTable) < f.block/f.inodeSize || int64(f.perTable) > 8*f.block:
		return fail(40, "a group has %d inodes", f.perTable)
	case f.firstInode < 11:
		return fail(84, "the first inode that isn't the volume's own is %d", f.firstInode)
	case f.descSize < 32 || f.descSize > 1024 || f.descSize&(f.descSize-1) != 0 || f.incompat&incompat64Bit != 0 && f.descSize < 64:
		return fail(254, "a group's descriptor has %d bytes", f.descSize)
	}
	f.groups = (f.blocks - f.first + f.perGroup - 1) / f.perGroup
	switch {
	case f.groups > maxGroups || f.groups*f.descSize > maxDescriptors:
		return fail(32, "it has %d groups, more than are read", f.groups)
	case int64(f.inodes) != f.groups*int64(f.perTable) || f.inodes < f.firstInode:
		return fail(0, "it has %d inodes, in %d groups of %d", f.inodes, f.groups, f.perTable)
	}
	f.there = min(f.blocks, f.size/f.block)
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

// layoutFields are what a superblock says of where things are, and whose they are: each field's place and length in bytes.
var layoutFields = [][2]int{{0, 8}, {20, 24}, {56, 2}, {76, 4}, {84, 6}, {104, 16}, {206, 2}, {254, 2}, {260, 4}, {336, 4}, {588, 8}, {624, 4}}

// compareCopies compares the copies of the superblock, which repair and some mounts go by, with the one that counts. What
// changes in that one only while a volume is in use isn't compared.
func (f *FS) compareCopies(s []byte) error {
	const layoutFeatures = incompatMetaBG | incompat64Bit
	b := make([]byte, superPlace)
	for group, n := int64(1), 0; group < f.groups && n < maxCopies; group++ {
		at := (f.first + group*f.perGroup) * f.block
		if !f.hasSuper(group) || at > f.there*f.block-f.block {
			continue
		}
		n++
		if err := f.readAt(b, at); err != nil {
			return err
		}
		differs := -1
		for _, field := range layoutFields {
			if !bytes.Equal(b[field[0]:field[0]+field[1]], s[field[0]:field[0]+field[1]]) {
				differs = field[0]
				break
			}
		}
		switch {
		case differs >= 0:
		case (le.Uint32(b[96:])^le.Uint32(s[96:]))&layoutFeatures != 0:
			differs = 96
		case f.checksums && sum(^uint32(0), b[:1020]) != le.Uint32(b[1020:]):
			differs = 1020
		}
		if differs >= 0 {
			f.list.Add("super-copy", at+int64(differs), "", "the copy of the superblock in group %d says something else than the superblock", group)
		}
	}
	return nil
}
