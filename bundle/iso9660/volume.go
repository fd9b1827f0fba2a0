package iso9660

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// A View is one of the trees that an image can hold.
type View int

const (
	ViewAuto      View = iota // Rock Ridge if there is, else Joliet, else plain ISO 9660
	ViewRockRidge             // primary descriptor, with RRIP names and attributes
	ViewJoliet                // supplementary descriptor with UCS-2 names
	ViewISO9660               // primary descriptor, plain identifiers
)

func (v View) String() string {
	switch v {
	case ViewAuto:
		return "auto"
	case ViewRockRidge:
		return "Rock Ridge"
	case ViewJoliet:
		return "Joliet"
	case ViewISO9660:
		return "ISO 9660"
	}
	return fmt.Sprintf("View(%d)", int(v))
}

const maxDescriptors = 64

// An FS is an image that is being read. It implements fs.FS, fs.ReadDirFS, fs.StatFS and fs.ReadLinkFS and is safe for concurrent use. Directories are read when they are asked for.
//
// A directory with anything wrong in it can't be listed, nothing in it opened: the error is a *FormatError, in an *fs.PathError. A file that lies outside the volume, is interleaved, sparse (SF) or compressed (ZF) is listed and can't be opened.
type FS struct {
	r        io.ReaderAt
	size     int64 // bytes that can be addressed: of the volume and of the reader
	view     View
	vol      volume
	root     entry
	skip     int // bytes before the entries in system use fields (SUSP 5.3)
	rootSkip int // the same in the root's own record
	obs      *observer

	mu     sync.Mutex
	seen   map[uint32]seenDir // directories by LBA
	budget int64              // bytes of directories and continuation areas that may still be read for the first time
	count  int                // entries in directories read so far
	cache  map[uint32][]*entry
	cached int
}

// A seenDir says to which record a directory belongs: a second record that points to it makes a loop or a graph, not a tree.
type seenDir struct {
	record int64 // byte offset of the record
	read   bool
}

// A volume is what the descriptors say.
type volume struct {
	primary    *descriptor
	joliet     *descriptor
	boot       int64 // byte offset of the first boot record, 0 without one
	other      int64 // byte offset of the first descriptor that is none of these
	udf        int64 // byte offset of a UDF or other ECMA-167 descriptor
	terminator int64 // byte offset
}

type descriptor struct {
	offset    int64 // bytes
	id        string
	blocks    uint32
	tableSize uint32
	tableL    uint32
	tableM    uint32
	optional  bool // has optional path tables
	root      rawRecord
	oddRoot   bool // the root's record has a length of its own
}

// Open reads the descriptors of an image of size bytes, in the view that ViewAuto says. The reader must stay open while the FS is used; there is nothing to close.
func Open(r io.ReaderAt, size int64) (*FS, error) { return OpenView(r, size, ViewAuto) }

// OpenView is Open for one view; an image that doesn't have it gives an error.
func OpenView(r io.ReaderAt, size int64, view View) (*FS, error) {
	v, err := readVolume(r, size)
	if err != nil {
		return nil, err
	}
	f := &FS{r: r, vol: *v, seen: map[uint32]seenDir{}, cache: map[uint32][]*entry{}}
	f.size = min(size, int64(v.primary.blocks)*BlockSize)
	f.budget = 2*f.size + 1<<20
	if err := f.choose(view); err != nil {
		return nil, err
	}
	return f, nil
}

// choose settles the view and reads the root's attributes.
func (f *FS) choose(view View) error {
	if view == ViewAuto || view == ViewRockRidge {
		f.view = ViewRockRidge
		found, err := f.detectRockRidge()
		if err != nil {
			return err
		}
		switch {
		case found:
			return f.openRoot(f.vol.primary)
		case view == ViewRockRidge:
			return &FormatError{Offset: f.vol.primary.offset, Msg: "no Rock Ridge"}
		}
	}
	if f.vol.joliet != nil && (view == ViewAuto || view == ViewJoliet) {
		f.view = ViewJoliet
		return f.openRoot(f.vol.joliet)
	}
	if view == ViewJoliet {
		return &FormatError{Offset: f.vol.primary.offset, Msg: "no Joliet descriptor"}
	}
	f.view = ViewISO9660
	return f.openRoot(f.vol.primary)
}

// View returns which tree is shown.
func (f *FS) View() View { return f.view }

// VolumeID returns the volume identifier of the primary descriptor, without padding.
func (f *FS) VolumeID() string { return f.vol.primary.id }

// Blocks returns the volume space size that the primary descriptor claims, in blocks.
func (f *FS) Blocks() int64 { return int64(f.vol.primary.blocks) }

// readVolume reads the volume descriptor set (ECMA-119 6.7.1) and the recognition area of UDF, if there is one, behind it.
func readVolume(r io.ReaderAt, size int64) (*volume, error) {
	v := &volume{}
	var b [BlockSize]byte
	for k := range int64(maxDescriptors) {
		off := (descriptorLBA + k) * BlockSize
		if off+BlockSize > size {
			return nil, &FormatError{Offset: off, Msg: "image ends before the volume descriptors do"}
		}
		if err := readFull(r, b[:], off); err != nil {
			return nil, fmt.Errorf("read volume descriptor at byte %d: %w", off, err)
		}
		if string(b[1:6]) != standardID {
			return nil, &FormatError{Offset: off, Msg: "no volume descriptor (CD001) where one must be"}
		}
		switch b[0] {
		case 255:
			if v.primary == nil {
				return nil, &FormatError{Offset: off, Msg: "no primary volume descriptor"}
			}
			v.terminator = off
			return v, v.findUDF(r, size)
		case 0:
			v.boot = cmpOr(v.boot, off)
		case 1:
			if v.primary != nil {
				v.other = cmpOr(v.other, off)
				continue
			}
			d, err := parseDescriptor(b[:], off)
			if err != nil {
				return nil, err
			}
			v.primary = d
		case 2:
			if !isJoliet(b[:]) || v.joliet != nil {
				v.other = cmpOr(v.other, off)
				continue
			}
			d, err := parseDescriptor(b[:], off)
			if err != nil {
				return nil, err
			}
			v.joliet = d
		default:
			v.other = cmpOr(v.other, off)
		}
	}
	return nil, &FormatError{Offset: descriptorLBA * BlockSize, Msg: fmt.Sprintf("more than %d volume descriptors", maxDescriptors)}
}

func cmpOr(a, b int64) int64 {
	if a != 0 {
		return a
	}
	return b
}

// isJoliet reports whether a supplementary descriptor has one of the UCS-2 escape sequences of Joliet.
func isJoliet(b []byte) bool {
	if b[6] != 1 || b[7]&1 != 0 {
		return false
	}
	esc := b[88:91]
	return esc[0] == '%' && esc[1] == '/' && (esc[2] == '@' || esc[2] == 'C' || esc[2] == 'E')
}

// findUDF looks for the volume structure descriptors of ECMA-167 behind the terminator.
func (v *volume) findUDF(r io.ReaderAt, size int64) error {
	var b [BlockSize]byte
	for off := v.terminator + BlockSize; off+BlockSize <= size && off < v.terminator+4*BlockSize; off += BlockSize {
		if err := readFull(r, b[:], off); err != nil {
			return fmt.Errorf("read at byte %d: %w", off, err)
		}
		switch string(b[1:6]) {
		case "BEA01", "NSR02", "NSR03", "TEA01", "BOOT2":
			v.udf = off
			return nil
		}
	}
	return nil
}

func parseDescriptor(b []byte, off int64) (*descriptor, error) {
	d := &descriptor{
		offset:   off,
		id:       string(bytes.TrimRight(b[40:72], " \x00")),
		tableL:   binary.LittleEndian.Uint32(b[140:]),
		tableM:   binary.BigEndian.Uint32(b[148:]),
		optional: binary.LittleEndian.Uint32(b[144:]) != 0 || binary.BigEndian.Uint32(b[152:]) != 0,
	}
	var ok bool
	if d.blocks, ok = get733(b[80:]); !ok {
		return nil, &FormatError{Offset: off + 80, Msg: "volume space size differs between byte orders"}
	}
	if d.tableSize, ok = get733(b[132:]); !ok {
		return nil, &FormatError{Offset: off + 132, Msg: "path table size differs between byte orders"}
	}
	bs := binary.LittleEndian.Uint16(b[128:])
	if bs != binary.BigEndian.Uint16(b[130:]) {
		return nil, &FormatError{Offset: off + 128, Msg: "logical block size differs between byte orders"}
	}
	if bs != BlockSize {
		return nil, &FormatError{Offset: off + 128, Msg: fmt.Sprintf("logical block size %d, only %d is read", bs, BlockSize)}
	}
	if d.blocks <= descriptorLBA {
		return nil, &FormatError{Offset: off + 80, Msg: fmt.Sprintf("volume space of %d blocks", d.blocks)}
	}
	// Some writers set another length here; what is read has one size (ECMA-119 8.4.18).
	d.oddRoot = b[156] != minRecord
	b[156] = minRecord
	rec, fault := parseRecord(b[156:190], off+156)
	if fault != "" {
		return nil, &FormatError{Offset: off + 156, Path: ".", Msg: fault}
	}
	if rec.flags&flagDirectory == 0 {
		return nil, &FormatError{Offset: off + 156, Path: ".", Msg: "root is not a directory"}
	}
	rec.ident, rec.su = nil, nil
	d.root = rec
	return d, nil
}

// readFull reads all of p at off.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// get733 decodes a 32-bit number in both byte orders; ok is false when they differ.
func get733(b []byte) (v uint32, ok bool) {
	v = binary.LittleEndian.Uint32(b)
	return v, v == binary.BigEndian.Uint32(b[4:])
}
