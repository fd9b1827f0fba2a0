package exfat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"unicode/utf16"
)

// Types of directory entries (section 6.2.1 and chapter 7). Those below 0x80 aren't in use, and 0 is behind the last.
const (
	typeBitmap = 0x81
	typeUpcase = 0x82
	typeLabel  = 0x83
	typeFile   = 0x85
	typeGUID   = 0xa0
	typeStream = 0xc0
	typeName   = 0xc1

	inUse     = 0x80
	secondary = 0x40
	benign    = 0x20
)

// maxUpcase is how long an up-case table without compression is, in bytes; a longer one isn't read.
const maxUpcase = 65536 * 2

// system is an entry of the root directory that names a table of the volume.
type system struct {
	off    int64 // of the entry, bytes from the volume's start; 0 for none
	first  uint32
	length uint64 // bytes
	sum    uint32
}

// readRoot reads what the root directory says of the volume and then the directory itself.
func (f *FS) readRoot() error {
	c, err := f.follow(f.rootCluster, 0, false, 0, ".")
	if err != nil {
		return err
	}
	var bitmap, upcase system
	ended := false
	err = f.slots(c, int64(c.count)*f.cluster, ".", func(s []byte, off int64) {
		if ended = ended || s[0] == 0; ended {
			return
		}
		switch s[0] {
		case typeBitmap:
			if s[1]&1 == f.active {
				f.system(&bitmap, s, off)
			}
		case typeUpcase:
			f.system(&upcase, s, off)
		case typeLabel:
			f.setLabel(s, off)
		}
	})
	if err != nil {
		return err
	}
	if err := f.setBitmap(bitmap); err != nil {
		return err
	}
	if err := f.setUpcase(upcase); err != nil {
		return err
	}
	_, err = f.dir(f.root(), ".")
	return err
}

func (f *FS) system(to *system, s []byte, off int64) {
	if to.off != 0 {
		f.list.Add("system-twice", off, "", "there is a second entry of type 0x%02x; the first one counts", s[0])
		return
	}
	le := binary.LittleEndian
	*to = system{off, le.Uint32(s[20:]), le.Uint64(s[24:]), le.Uint32(s[4:])}
}

// setLabel takes the volume's label (section 7.3).
func (f *FS) setLabel(s []byte, off int64) {
	if s[1] > 11 {
		f.list.Add("bad-label", off, "", "the label has %d characters, more than 11; it isn't shown", s[1])
		return
	}
	u := make([]uint16, s[1])
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(s[2+2*i:])
	}
	if f.label == "" {
		f.label = string(utf16.Decode(u))
	}
}

// setBitmap finds the allocation bitmap (section 7.1). Without one nothing is compared with it.
func (f *FS) setBitmap(s system) error {
	if s.off == 0 {
		f.list.Add("bitmap", -1, "", "there is no allocation bitmap")
		return nil
	}
	need := (uint64(f.clusters) + 7) / 8
	if s.length != need {
		f.list.Add("bitmap", s.off, "", "the allocation bitmap has %d bytes, not the %d of %d clusters", s.length, need, f.clusters)
		if s.length < need {
			return nil
		}
	}
	c, err := f.table(s, need, "the allocation bitmap", "bitmap")
	if err != nil || c.count == 0 {
		return err
	}
	m := &bitmap{}
	m.init(func(b []byte, off int64) error { return f.readChain(c, b, off, ".") }, int64(need))
	f.bits = m
	return f.checkTaken()
}

// checkTaken compares the bitmap with what was followed before it was there: the root directory and the bitmap itself.
func (f *FS) checkTaken() error {
	for i, w := range f.taken {
		for ; w != 0; w &= w - 1 {
			cluster := uint32(i*64 + bits.TrailingZeros64(w))
			used, err := f.bits.used(cluster)
			if err != nil {
				return err
			}
			if !used {
				f.list.Add("not-allocated", f.offset(cluster), "", "cluster %d belongs to the root directory or the bitmap and is marked as free", cluster)
				return nil
			}
		}
	}
	return nil
}

// table follows the chain of a table of n bytes. Damage is a finding, and the chain then has no clusters.
func (f *FS) table(s system, n uint64, what, code string) (chain, error) {
	c, err := f.follow(s.first, uint32((int64(n)+f.cluster-1)/f.cluster), false, s.off, "")
	var damage *FormatError
	if errors.As(err, &damage) {
		f.list.Add(code, damage.Offset, "", "%s can't be read: %s", what, damage.Msg)
		return chain{}, nil
	}
	return c, err
}

// setUpcase reads the up-case table (section 7.2). Without one names are compared as they are written, and their hashes aren't.
func (f *FS) setUpcase(s system) error {
	if s.off == 0 {
		f.list.Add("upcase", -1, "", "there is no up-case table, so hashes of names aren't compared")
		return nil
	}
	if s.length == 0 || s.length > maxUpcase || s.length%2 != 0 {
		f.list.Add("upcase", s.off, "", "the up-case table has %d bytes; hashes of names aren't compared", s.length)
		return nil
	}
	c, err := f.table(s, s.length, "the up-case table", "upcase")
	if err != nil || c.count == 0 {
		return err
	}
	b := make([]byte, s.length)
	if err := f.readChain(c, b, 0, "."); err != nil {
		return err
	}
	var sum uint32
	for _, x := range b {
		sum = (sum<<31 | sum>>1) + uint32(x)
	}
	if sum != s.sum {
		f.list.Add("upcase", s.off, "", "the up-case table's checksum is %08x, not %08x; hashes of names aren't compared", sum, s.sum)
		return nil
	}
	table, why := expandUpcase(b)
	if why != "" {
		f.list.Add("upcase", s.off, "", "the up-case table %s; hashes of names aren't compared", why)
		return nil
	}
	f.upcase = table
	return nil
}

// expandUpcase undoes the compression of section 7.2.5.1: 0xffff and a count stand for as many characters that are their own upper case. What the table leaves out is its own upper case, too. The first 128 characters are laid down (table 23).
func expandUpcase(b []byte) (table []uint16, why string) {
	table = make([]uint16, 65536)
	for i := range table {
		table[i] = uint16(i)
	}
	at := 0
	for i := 0; i < len(b); i += 2 {
		v := binary.LittleEndian.Uint16(b[i:])
		switch {
		case v == 0xffff && at != 0xffff: // at the last place it is a character
			if i += 2; i >= len(b) {
				return nil, "ends in a run without its length"
			}
			at += int(binary.LittleEndian.Uint16(b[i:]))
		case at < len(table):
			table[at] = v
			at++
		default:
			at++
		}
		if at > len(table) {
			return nil, "has more than 65,536 characters"
		}
	}
	for i := range uint16(128) {
		want := i
		if i >= 'a' && i <= 'z' {
			want -= 'a' - 'A'
		}
		if table[i] != want {
			return nil, fmt.Sprintf("makes %q of %q", rune(table[i]), rune(i))
		}
	}
	return table, ""
}

// fold is a name in upper case, in place. Names are compared as that (section 7.2).
func (f *FS) fold(name []uint16) []uint16 {
	if f.upcase != nil {
		for i, c := range name {
			name[i] = f.upcase[c]
		}
	}
	return name
}

// nameHash is that of a name in upper case (section 7.6.4).
func nameHash(folded []uint16) uint16 {
	var h uint16
	for _, c := range folded {
		h = (h<<15 | h>>1) + c&0xff
		h = (h<<15 | h>>1) + c>>8
	}
	return h
}

// setChecksum is that of an entry set, without the place where it stands (section 6.3.3).
func setChecksum(set []byte) uint16 {
	var sum uint16
	for i, c := range set {
		if i != 2 && i != 3 {
			sum = (sum<<15 | sum>>1) + uint16(c)
		}
	}
	return sum
}
