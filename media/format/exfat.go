package format

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"unicode/utf16"
)

const (
	exEntry  = 32 // bytes of a directory entry
	exEnd    = 0xffffffff
	exBitmap = 0x81
	exUpcase = 0x82
)

// exVolume is an empty exFAT that mkfs.exfat made in f.
type exVolume struct {
	f       *os.File
	start   int64 // bytes, of the partition
	cluster int64 // bytes
	fat     int64 // bytes
	heap    int64 // bytes, of cluster 2
	bitmap  int64 // bytes
	limit   uint32
	root    uint32
	head    []byte // the root directory's entries
	upcase  []uint16
}

// openExFAT reads where things are (exFAT specification, 3.1 and 7).
func openExFAT(f *os.File, start int64) (*exVolume, error) {
	boot := make([]byte, 512)
	if _, err := f.ReadAt(boot, start); err != nil {
		return nil, err
	}
	le, shift := binary.LittleEndian, boot[108]
	v := &exVolume{f: f, start: start, root: le.Uint32(boot[96:]), limit: le.Uint32(boot[92:]) + 2}
	if shift < 9 || shift > 12 || boot[109] > 25-shift {
		return nil, fmt.Errorf("an empty exFAT with shifts of %d and %d", shift, boot[109])
	}
	v.cluster = 1 << (shift + boot[109])
	v.fat = start + int64(le.Uint32(boot[80:]))<<shift
	v.heap = start + int64(le.Uint32(boot[88:]))<<shift
	head := make([]byte, v.cluster)
	if _, err := f.ReadAt(head, v.offset(v.root)); err != nil {
		return nil, err
	}
	n := 0
	for ; n < len(head) && head[n] != 0; n += exEntry {
		switch at := v.offset(le.Uint32(head[n+20:])); head[n] {
		case exBitmap:
			v.bitmap = at
		case exUpcase:
			size := le.Uint64(head[n+24:])
			if size > 1<<17 {
				return nil, fmt.Errorf("an up-case table of %d bytes", size)
			}
			table := make([]byte, size)
			if _, err := f.ReadAt(table, at); err != nil {
				return nil, err
			}
			v.upcase = expand(table)
		}
	}
	if v.bitmap == 0 || v.upcase == nil {
		return nil, fmt.Errorf("an empty exFAT without bitmap or up-case table in its first cluster")
	}
	v.head = head[:n]
	return v, nil
}

func (v *exVolume) offset(cluster uint32) int64 { return v.heap + int64(cluster-2)*v.cluster }

// expand makes the whole of a compressed up-case table (7.2.5.1): 0xffff and a number stand for that many characters that
// stay as they are.
func expand(table []byte) []uint16 {
	out := make([]uint16, 0, 1<<16)
	for ; len(table) >= 2 && len(out) < 1<<16; table = table[2:] {
		unit := binary.LittleEndian.Uint16(table)
		if unit != 0xffff || len(table) < 4 {
			out = append(out, unit)
			continue
		}
		table = table[2:]
		for range binary.LittleEndian.Uint16(table) {
			out = append(out, uint16(len(out)))
		}
	}
	for len(out) < 1<<16 {
		out = append(out, uint16(len(out)))
	}
	return out
}

// fillExFAT puts files into an empty exFAT. All lie in one piece, without chains in the FAT, but for the root directory.
func fillExFAT(ctx context.Context, f *os.File, start int64, tree fs.FS, root *node) error {
	v, err := openExFAT(f, start)
	if err != nil {
		return err
	}
	next, err := v.free()
	if err != nil {
		return err
	}
	end, err := root.place(next, v.limit, v.cluster, func(n *node) int64 {
		if n.parent == nil { // it has a cluster
			return max(0, exDirBytes(n)+int64(len(v.head))-v.cluster)
		}
		return max(v.cluster, exDirBytes(n))
	})
	if err != nil {
		return err
	}
	if err := v.use(next, end); err != nil {
		return err
	}
	if err := v.chain(root); err != nil {
		return err
	}
	if err := root.visit(true, v.directory); err != nil {
		return err
	}
	return root.copyFiles(ctx, f, tree, v.offset)
}

// free is the first cluster behind those that are used: the empty file system's come first.
func (v *exVolume) free() (uint32, error) {
	b := make([]byte, (v.limit-2+7)/8)
	if _, err := v.f.ReadAt(b, v.bitmap); err != nil {
		return 0, err
	}
	for i := len(b) - 1; i >= 0; i-- {
		for bit := 7; bit >= 0; bit-- {
			if b[i]>>bit&1 == 1 {
				return uint32(i*8+bit) + 3, nil
			}
		}
	}
	return 2, nil
}

// use marks clusters in the bitmap, and says in the boot sectors, outside of what their checksum covers, how full it is.
func (v *exVolume) use(from, to uint32) error {
	low, high := int64(from-2)/8, (int64(to-2)+7)/8
	b := make([]byte, high-low)
	if _, err := v.f.ReadAt(b, v.bitmap+low); err != nil {
		return err
	}
	for i := from - 2; i < to-2; i++ {
		b[int64(i)/8-low] |= 1 << (i % 8)
	}
	if _, err := v.f.WriteAt(b, v.bitmap+low); err != nil {
		return err
	}
	_, err := v.f.WriteAt([]byte{byte(int64(to-2) * 100 / int64(v.limit-2))}, v.start+112)
	return err
}

// chain links what the root directory needs to its first cluster.
func (v *exVolume) chain(root *node) error {
	if root.clusters == 0 {
		return nil
	}
	if err := v.link(v.root, root.first); err != nil {
		return err
	}
	for i := range root.clusters {
		to := root.first + i + 1
		if i == root.clusters-1 {
			to = exEnd
		}
		if err := v.link(root.first+i, to); err != nil {
			return err
		}
	}
	return nil
}

func (v *exVolume) link(cluster, to uint32) error {
	_, err := v.f.WriteAt(binary.LittleEndian.AppendUint32(nil, to), v.fat+4*int64(cluster))
	return err
}

func exDirBytes(dir *node) int64 {
	sum := int64(0)
	for _, n := range dir.children {
		sum += 2*exEntry + int64(len(utf16.Encode([]rune(n.name)))+14)/15*exEntry
	}
	return sum
}

// directory writes a directory's entry sets.
func (v *exVolume) directory(dir *node) error {
	var b []byte
	if dir.parent == nil {
		b = append(b, v.head...)
	}
	for _, n := range dir.children {
		b = append(b, v.set(n)...)
	}
	if len(b) == 0 {
		return nil
	}
	if dir.parent != nil {
		_, err := v.f.WriteAt(b, v.offset(dir.first))
		return err
	}
	here := min(int64(len(b)), v.cluster)
	if _, err := v.f.WriteAt(b[:here], v.offset(v.root)); err != nil || len(b) == int(here) {
		return err
	}
	_, err := v.f.WriteAt(b[here:], v.offset(dir.first))
	return err
}

// set is the entries of a file: file, stream extension, names (7.4, 7.6, 7.7).
func (v *exVolume) set(n *node) []byte {
	const directory, archive = 0x10, 0x20
	const possible, solid = 1, 2 // general secondary flags (6.4.2)
	le, units := binary.LittleEndian, utf16.Encode([]rune(n.name))
	names := (len(units) + 14) / 15
	b := make([]byte, (2+names)*exEntry)
	b[0], b[1], b[4] = 0x85, byte(1+names), archive
	size := uint64(n.size)
	if n.dir {
		b[4], size = directory, uint64(n.clusters)*uint64(v.cluster)
	}
	date, clock, hundredths := dosTime(n.mtime)
	for _, at := range []int{8, 12, 16} { // created, modified, read
		le.PutUint16(b[at:], clock)
		le.PutUint16(b[at+2:], date)
	}
	const utc = 0x80 // offset 0, valid
	b[20], b[21], b[22], b[23], b[24] = hundredths, hundredths, utc, utc, utc
	s := b[exEntry:]
	s[0], s[1], s[3] = 0xc0, possible, byte(len(units))
	if n.clusters > 0 {
		s[1] |= solid
	}
	le.PutUint16(s[4:], v.nameHash(units))
	le.PutUint64(s[8:], size)
	le.PutUint32(s[20:], n.first)
	le.PutUint64(s[24:], size)
	for i, unit := range units {
		e := b[(2+i/15)*exEntry:]
		e[0] = 0xc1
		le.PutUint16(e[2+i%15*2:], unit)
	}
	sum := uint16(0) // of all but itself (6.3.3)
	for i, c := range b {
		if i != 2 && i != 3 {
			sum = (sum<<15 | sum>>1) + uint16(c)
		}
	}
	le.PutUint16(b[2:], sum)
	return b
}

// nameHash is that of the name in upper case (7.6.4).
func (v *exVolume) nameHash(units []uint16) uint16 {
	sum := uint16(0)
	for _, unit := range units {
		unit = v.upcase[unit]
		sum = (sum<<15 | sum>>1) + unit&0xff
		sum = (sum<<15 | sum>>1) + unit>>8
	}
	return sum
}
