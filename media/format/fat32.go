package format

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"unicode/utf16"
)

const (
	fatEntry  = 32               // bytes of a directory entry
	maxFATDir = 65536 * fatEntry // fatgen103: a directory's size isn't to be larger
	fatEnd    = 0x0fffffff
)

// fatVolume is an empty FAT32 that go-diskfs made in f.
type fatVolume struct {
	f        *os.File
	start    int64 // bytes, of the partition
	sector   int64 // bytes
	cluster  int64 // bytes
	fats     [2]int64
	heap     int64  // bytes, of cluster 2
	limit    uint32 // the cluster behind the last
	root     uint32
	fsInfo   int64
	fsInfo2  int64 // its copy
	rootHead []byte
}

// openFAT reads where things are (fatgen103, "Boot Sector and BPB").
func openFAT(f *os.File, start int64, block int) (*fatVolume, error) {
	boot := make([]byte, 512)
	if _, err := f.ReadAt(boot, start); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	v := &fatVolume{f: f, start: start, sector: int64(le.Uint16(boot[11:])), root: le.Uint32(boot[44:])}
	v.cluster = v.sector * int64(boot[13])
	reserved, fatSectors := int64(le.Uint16(boot[14:])), int64(le.Uint32(boot[36:]))
	if v.sector != int64(block) || v.cluster == 0 || boot[16] != 2 || reserved < 2 || fatSectors == 0 {
		return nil, fmt.Errorf("an empty FAT32 with sectors of %d bytes, clusters of %d and %d FATs", v.sector, v.cluster, boot[16])
	}
	v.fats = [2]int64{start + reserved*v.sector, start + (reserved+fatSectors)*v.sector}
	v.heap = v.fats[1] + fatSectors*v.sector
	sectors := int64(le.Uint32(boot[32:])) - reserved - 2*fatSectors
	v.limit = uint32(sectors*v.sector/v.cluster) + 2
	v.fsInfo = start + int64(le.Uint16(boot[48:]))*v.sector
	v.fsInfo2 = v.fsInfo + int64(le.Uint16(boot[50:]))*v.sector
	// What stands in the root directory, the label, stays there first.
	head := make([]byte, v.cluster)
	if _, err := f.ReadAt(head, v.offset(v.root)); err != nil {
		return nil, err
	}
	n := 0
	for n < len(head) && head[n] != 0 {
		n += fatEntry
	}
	v.rootHead = head[:n]
	return v, nil
}

func (v *fatVolume) offset(cluster uint32) int64 { return v.heap + int64(cluster-2)*v.cluster }

// fillFAT puts files into an empty FAT32.
func fillFAT(ctx context.Context, f *os.File, start int64, block int, tree fs.FS, root *node) error {
	v, err := openFAT(f, start, block)
	if err != nil {
		return err
	}
	next := v.root + 1
	end, err := root.place(next, v.limit, v.cluster, func(n *node) int64 {
		if n.parent == nil { // it has a cluster
			return max(0, fatDirBytes(n)+int64(len(v.rootHead))-v.cluster)
		}
		return fatDirBytes(n)
	})
	if err != nil {
		return err
	}
	if err := v.chains(root, next); err != nil {
		return err
	}
	if err := root.visit(true, v.directory); err != nil {
		return err
	}
	if err := root.copyFiles(ctx, f, tree, v.offset); err != nil {
		return err
	}
	return v.info(end)
}

// chains writes both FATs from the root's cluster on. All runs follow each other.
func (v *fatVolume) chains(root *node, next uint32) error {
	buf := make([]byte, 0, pieceSize)
	at := int64(v.root) * 4
	flush := func() error {
		for _, fat := range v.fats {
			if _, err := v.f.WriteAt(buf, fat+at); err != nil {
				return err
			}
		}
		at += int64(len(buf))
		buf = buf[:0]
		return nil
	}
	put := func(value uint32) error {
		if buf = binary.LittleEndian.AppendUint32(buf, value); len(buf) == cap(buf) {
			return flush()
		}
		return nil
	}
	first := uint32(fatEnd)
	if root.clusters > 0 {
		first = next
	}
	if err := put(first); err != nil {
		return err
	}
	if err := root.each(func(n *node) error {
		for i := range n.clusters {
			value := n.first + i + 1
			if i == n.clusters-1 {
				value = fatEnd
			}
			if err := put(value); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	return flush()
}

// info writes how much is free (FSInfo), to both places.
func (v *fatVolume) info(end uint32) error {
	b := binary.LittleEndian.AppendUint32(nil, v.limit-end)
	b = binary.LittleEndian.AppendUint32(b, min(end, v.limit-1))
	for _, at := range []int64{v.fsInfo, v.fsInfo2} {
		if _, err := v.f.WriteAt(b, at+488); err != nil {
			return err
		}
	}
	return nil
}

// fatDirBytes is what the entries of a directory take.
func fatDirBytes(dir *node) int64 {
	sum := int64(2 * fatEntry) // . and ..
	if dir.parent == nil {
		sum = 0
	}
	for _, n := range dir.children {
		sum += fatEntry
		if !isShort(n.name) {
			sum += int64(len(utf16.Encode([]rune(n.name)))+12) / 13 * fatEntry
		}
	}
	return sum
}

// directory writes a directory's entries.
func (v *fatVolume) directory(dir *node) error {
	var b []byte
	if dir.parent == nil {
		b = append(b, v.rootHead...)
	} else {
		up := dir.parent.first
		if dir.parent.parent == nil {
			up = 0 // fatgen103: .. of a directory in the root
		}
		b = append(b, fatShort([11]byte([]byte(".          ")), dir, dir.first)...)
		b = append(b, fatShort([11]byte([]byte("..         ")), dir.parent, up)...)
	}
	names := shortNames{used: map[[11]byte]bool{}}
	for _, n := range dir.children {
		if isShort(n.name) {
			names.used[pack(n.name)] = true
		}
	}
	for _, n := range dir.children {
		short := pack(n.name)
		if !isShort(n.name) {
			short = names.make(n.name)
			b = append(b, fatLong(n.name, short)...)
		}
		b = append(b, fatShort(short, n, n.first)...)
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

// fatShort is a directory entry.
func fatShort(name [11]byte, n *node, first uint32) []byte {
	const directory, archive = 0x10, 0x20
	le := binary.LittleEndian
	b := make([]byte, fatEntry)
	copy(b, name[:])
	b[11] = archive
	if n.dir {
		b[11] = directory
	} else {
		le.PutUint32(b[28:], uint32(n.size))
	}
	date, clock, hundredths := dosTime(n.mtime)
	b[13] = hundredths
	le.PutUint16(b[14:], clock)
	le.PutUint16(b[16:], date)
	le.PutUint16(b[18:], date) // last access
	le.PutUint16(b[20:], uint16(first>>16))
	le.PutUint16(b[22:], clock)
	le.PutUint16(b[24:], date)
	le.PutUint16(b[26:], uint16(first))
	return b
}

// fatLong is the entries before it that have a long name, the last part first.
func fatLong(name string, short [11]byte) []byte {
	sum := byte(0)
	for _, c := range short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	units := utf16.Encode([]rune(name))
	count := (len(units) + 12) / 13
	b := make([]byte, count*fatEntry)
	for part := range count {
		e := b[(count-1-part)*fatEntry:][:fatEntry]
		e[0], e[11], e[13] = byte(part+1), 0x0f, sum
		if part == count-1 {
			e[0] |= 0x40
		}
		for i := range 13 {
			unit := uint16(0xffff)
			switch at := part*13 + i; {
			case at < len(units):
				unit = units[at]
			case at == len(units):
				unit = 0
			}
			place := 1 + 2*i
			if i >= 5 {
				place = 14 + 2*(i-5)
			}
			if i >= 11 {
				place = 28 + 2*(i-11)
			}
			binary.LittleEndian.PutUint16(e[place:], unit)
		}
	}
	return b
}

// isShort says whether a name can stand in a directory entry as it is.
func isShort(name string) bool {
	stem, extension, dot := strings.Cut(name, ".")
	if len(stem) < 1 || len(stem) > 8 || len(extension) > 3 || dot && extension == "" {
		return false
	}
	for _, c := range []byte(stem + extension) {
		if !shortByte(c) {
			return false
		}
	}
	return true
}

func shortByte(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'()-@^_`{}~", c) >= 0
}

// pack puts a short name into its eleven bytes.
func pack(name string) (b [11]byte) {
	copy(b[:], "           ")
	stem, extension, _ := strings.Cut(name, ".")
	copy(b[:8], stem)
	copy(b[8:], extension)
	return b
}

// shortNames makes the short names of a directory's long ones.
type shortNames struct {
	used map[[11]byte]bool
	last int
}

// make returns a name of its own: some letters, a tilde and a number (fatgen103, "Basis-Name Generation").
func (s *shortNames) make(name string) [11]byte {
	stem, extension := name, ""
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		stem, extension = name[:i], name[i+1:]
	}
	stem, extension = shortText(stem), shortText(extension)
	for {
		s.last++
		number := "~" + strconv.Itoa(s.last)
		short := pack(stem[:min(len(stem), 8-len(number))] + number + "." + extension[:min(len(extension), 3)])
		if !s.used[short] {
			s.used[short] = true
			return short
		}
	}
}

// shortText is what of a text short names can hold.
func shortText(s string) string {
	var b []byte
	for _, r := range strings.ToUpper(s) {
		switch {
		case r == ' ' || r == '.':
		case r < 0x80 && shortByte(byte(r)):
			b = append(b, byte(r))
		default:
			b = append(b, '_')
		}
	}
	return string(b)
}
