package ext

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

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

// descriptor reads that of a group, and says where it is in bytes ("Block Group Descriptors").
func (f *FS) descriptor(group int64) (d []byte, off int64, err error) {
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
		return nil, 0, err
	}
	off = group % perBlock * f.descSize
	d = b[off : off+f.descSize]
	off += at * f.block
	return d, off, f.checkDescriptor(d, group, off)
}

// place is a block number of a descriptor: of the block bitmap, the inode bitmap, or the inodes.
func (f *FS) place(d []byte, low, high int) int64 {
	n := int64(le.Uint32(d[low:]))
	if f.descSize >= 64 {
		n |= int64(le.Uint32(d[high:])) << 32
	}
	return n
}

// tableLength is how many blocks the inodes of a group take.
func (f *FS) tableLength() int64 { return (int64(f.perTable)*f.inodeSize + f.block - 1) / f.block }

// table is the block that a group's inodes begin with.
func (f *FS) table(group int64) (int64, error) {
	d, off, err := f.descriptor(group)
	if err != nil {
		return 0, err
	}
	start := f.place(d, 8, 40)
	if start <= f.first || start > f.blocks-f.tableLength() {
		return 0, &FormatError{"", off + 8, fmt.Sprintf("the inodes of group %d are at block %d", group, start)}
	}
	return start, nil
}

// zone is a stretch of blocks that are the volume's own.
type zone struct{ at, end int64 }

// findZones notes which blocks are the volume's own, which no file may have: superblocks, descriptors, bitmaps, inodes.
func (f *FS) findZones() error {
	length := f.tableLength()
	for group := range f.groups {
		own := f.first + group*f.perGroup
		f.addZone(own, f.ownBlocks(group))
		d, off, err := f.descriptor(group)
		if err != nil {
			var damage *FormatError
			if !errors.As(err, &damage) {
				return err
			}
			f.list.Add("bad-group", damage.Offset, "", "group %d can't be read: %s", group, damage.Msg)
			continue
		}
		for _, p := range []struct {
			what      string
			low, high int
			count     int64
		}{{"block bitmap", 0, 32, 1}, {"inode bitmap", 4, 36, 1}, {"inodes", 8, 40, length}} {
			at := f.place(d, p.low, p.high)
			if at <= f.first || at > f.blocks-p.count {
				f.list.Add("bad-group", off+int64(p.low), "", "the %s of group %d would be at block %d", p.what, group, at)
				continue
			}
			f.addZone(at, p.count)
		}
	}
	slices.SortFunc(f.zones, func(a, b zone) int { return cmp.Compare(a.at, b.at) })
	out := f.zones[:0]
	for _, z := range f.zones {
		if n := len(out); n > 0 && z.at < out[n-1].end {
			f.list.Add("groups-overlap", z.at*f.block, "", "block %d is named for two things of the volume's own", z.at)
			out[n-1].end = max(out[n-1].end, z.end)
		} else if n > 0 && z.at == out[n-1].end {
			out[n-1].end = z.end
		} else {
			out = append(out, z)
		}
	}
	f.zones = slices.Clip(out)
	return nil
}

func (f *FS) addZone(at, count int64) {
	count = min(count, f.blocks-at)
	if n := len(f.zones); n > 0 && f.zones[n-1].end == at { // as in groups that are packed
		f.zones[n-1].end += count
	} else if count > 0 {
		f.zones = append(f.zones, zone{at, at + count})
	}
}

// ownBlocks is how many blocks a group begins with that hold copies of the superblock and of descriptors ("Layout").
func (f *FS) ownBlocks(group int64) int64 {
	perBlock := f.block / f.descSize
	nr, n := group/perBlock, int64(0)
	if f.hasSuper(group) {
		n = 1
		if group == 0 && f.block == 1024 && f.first == 0 { // it is behind the block that a boot loader has
			n = 2
		}
	}
	if f.incompat&incompatMetaBG == 0 {
		if n > 0 {
			n += (f.groups+perBlock-1)/perBlock + f.reserved
		}
		return n
	}
	if nr < f.firstMeta {
		if n > 0 {
			n += f.firstMeta
		}
	} else if r := group % perBlock; r <= 1 || r == perBlock-1 {
		n++
	}
	return n
}

// ofVolume says which of the blocks from at on is the volume's own, if any is.
func (f *FS) ofVolume(at, count int64) (int64, bool) {
	i, _ := slices.BinarySearchFunc(f.zones, at, func(z zone, at int64) int { return cmp.Compare(z.end, at+1) })
	if i < len(f.zones) && f.zones[i].at < at+count {
		return max(at, f.zones[i].at), true
	}
	return 0, false
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
