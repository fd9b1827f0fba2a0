// Package part reads the partition table of a medium: MBR with logical partitions, and GPT with both copies. It says what the table holds and what looks wrong, hidden or left over; it decides nothing.
//
// The tables of github.com/diskfs/go-diskfs v1.9.4 were tried for this and don't serve for hostile media. A GPT header with a good CRC makes it allocate entry size × count bytes, two 32-bit numbers of the medium: 4 GB with 2^20 entries of 4,096 bytes, and a panic with more. Its MBR reader knows no logical partitions and takes the boot sector of a FAT volume for a partition table. Neither tells of gaps, overlaps, ends behind the medium or copies that differ: the second copy of a GPT is read only when the first is bad.
package part

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"sallyport/media/volume"
)

// maxLogical is how many extended boot records are followed. Linux shows at most 255 partitions of a disk.
const maxLogical = 251

// Partition is one entry of a partition table, with places in bytes from the medium's start. Nothing of it is checked against the medium's size: what doesn't fit has a finding.
type Partition struct {
	Index    int    // as Linux counts: 1–4 are the MBR's own, 5 and on the logical ones; the place in the table, from 1, in a GPT
	Start    int64  // bytes
	Size     int64  // bytes
	Type     string // "0x0c", or a GUID in lower case
	TypeName string // what the type stands for, "" where it isn't known
	Name     string // of a GPT's entry, "" in an MBR; may hold any character
	ID       string // the entry's own GUID, "" in an MBR
	Boot     bool   // the active flag of an MBR, or a GPT's legacy BIOS bootable attribute
	Logical  bool   // from an extended boot record
}

// Range is a run of bytes of the medium.
type Range struct{ Start, Size int64 } // both in bytes

// End is the byte behind the range.
func (r Range) End() int64 { return r.Start + r.Size }

// Table is what a medium says of its partitions.
type Table struct {
	Scheme     string // "none", "mbr" or "gpt"
	ID         string // the disk's GUID, or the MBR's disk signature as eight hexadecimal digits, "" for none
	Size       int64  // of the medium, bytes
	Block      int    // logical block size, bytes
	Partitions []Partition
	Findings   []volume.Finding

	list volume.List
	used []Range // what the table itself takes: MBR, extended boot records, headers and entries of a GPT
	r    io.ReaderAt
}

// Read reads the partition table of a medium of size bytes with logical blocks of 512 or 4096 bytes. Whatever is wrong with the table is a finding, and partitions that can be read are returned; an error says that the medium can't be read, or that size and block can't be. A medium with a file system from its first block on has the scheme "none", and so has one with nothing known in it.
func Read(r io.ReaderAt, size int64, block int) (*Table, error) {
	if block != 512 && block != 4096 {
		return nil, fmt.Errorf("reading a partition table: a block of %d bytes isn't one of 512 or 4096", block)
	}
	if size < int64(block) {
		return nil, fmt.Errorf("reading a partition table: a medium of %d bytes has no block of %d", size, block)
	}
	t := &Table{Scheme: "none", Size: size, Block: block, r: r}
	if size%int64(block) != 0 {
		t.find("odd-size", size-size%int64(block), "the medium's %d bytes are no multiple of its blocks of %d", size, block)
	}
	mbr := make([]byte, 512)
	if err := t.readAt(mbr, 0); err != nil {
		return nil, err
	}
	if err := t.foreign(); err != nil {
		return nil, err
	}
	if err := t.read(mbr); err != nil {
		return nil, err
	}
	t.checkPlaces()
	t.Findings = t.list.All()
	return t, nil
}

func (t *Table) find(code string, offset int64, format string, args ...any) {
	t.list.Add(code, offset, "", format, args...)
}

// readAt fills b. What lies behind the medium's size is never asked for; callers look first.
func (t *Table) readAt(b []byte, off int64) error {
	if n, err := t.r.ReadAt(b, off); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading a partition table: byte %d: %w", off+int64(n), err)
	}
	return nil
}

// read tells the schemes apart. As in Linux a GPT counts only if the MBR protects it.
func (t *Table) read(mbr []byte) error {
	g, err := t.readGPT()
	if err != nil {
		return err
	}
	signed := mbr[510] == 0x55 && mbr[511] == 0xaa
	entries := mbrEntries(mbr)
	protective := slices.ContainsFunc(entries, func(e mbrEntry) bool { return e.kind == typeProtective })
	switch {
	case signed && protective && g.seen():
		t.Scheme = "gpt"
		t.bootCode(mbr, 0)
		t.protectiveMBR(mbr, entries)
		t.useGPT(g)
	case isBootSector(mbr) && !slices.ContainsFunc(entries, func(e mbrEntry) bool { return e.plausible() && e.start != 0 }):
		if slices.ContainsFunc(entries, func(e mbrEntry) bool { return e.plausible() }) {
			t.find("self-partition", 446, "the file system's boot sector has a partition table with a partition that starts at itself")
		}
		t.remnant(g)
	case signed && slices.ContainsFunc(entries, func(e mbrEntry) bool { return e.kind != 0 }) && slices.IndexFunc(entries, func(e mbrEntry) bool { return e.flag&0x7f != 0 }) < 0:
		t.Scheme = "mbr"
		if isBootSector(mbr) {
			t.find("ambiguous", 0, "the first block is the boot sector of a file system and has a partition table, so that two systems can see two contents")
		}
		if protective {
			t.find("gpt-missing", int64(t.Block), "the MBR protects a GPT that isn't there")
		}
		t.remnant(g)
		return t.readMBR(mbr, entries)
	case signed:
		// A signature and no partition: an empty table, or a loader that takes the whole block.
		t.bootCode(mbr, 0)
		if slices.ContainsFunc(entries, func(e mbrEntry) bool { return e.flag&0x7f != 0 }) {
			t.find("boot-code", 446, "the first block has the signature of an MBR and no partition table")
		}
		t.remnant(g)
	default:
		t.remnant(g)
	}
	return nil
}

func (t *Table) remnant(g gpt) {
	if g.seen() {
		t.find("gpt-remnant", g.offset(), "there is a GPT that no protective MBR belongs to: some systems use it, others don't")
	}
}

// isBootSector reports whether the first block belongs to a file system that starts there: FAT by its BIOS parameter block (Microsoft FAT specification 1.03, section 3.1), NTFS and exFAT by name. It is stricter than needed, so that an MBR with a loader isn't taken for one.
func isBootSector(b []byte) bool {
	switch string(b[3:11]) {
	case "NTFS    ", "EXFAT   ":
		return true
	}
	sector, cluster := binary.LittleEndian.Uint16(b[11:]), b[13]
	return (b[0] == 0xeb && b[2] == 0x90 || b[0] == 0xe9) &&
		sector >= 512 && sector <= 4096 && sector&(sector-1) == 0 && cluster != 0 && cluster&(cluster-1) == 0 &&
		binary.LittleEndian.Uint16(b[14:]) != 0 && (b[16] == 1 || b[16] == 2) && (b[21] == 0xf0 || b[21] >= 0xf8) &&
		(binary.LittleEndian.Uint16(b[22:]) != 0 || binary.LittleEndian.Uint32(b[36:]) != 0)
}

// checkPlaces tells of partitions that reach out of the medium, into the table or into each other.
func (t *Table) checkPlaces() {
	parts := slices.Clone(t.Partitions)
	slices.SortStableFunc(parts, func(a, b Partition) int {
		if a.Start != b.Start {
			return compare(a.Start, b.Start)
		}
		return compare(a.Size, b.Size)
	})
	var widest Partition // of those before, the one that ends last
	for _, p := range parts {
		if p.Size == 0 {
			t.find("empty-partition", p.Start, "partition %d has no blocks", p.Index)
			continue
		}
		if p.Start > t.Size-p.Size {
			t.find("past-end", p.Start, "partition %d takes bytes %d to %d of a medium of %d", p.Index, p.Start, p.Start+p.Size, t.Size)
		}
		for _, u := range t.used {
			if p.Start < u.End() && u.Start < p.Start+p.Size {
				t.find("overlap-table", max(p.Start, u.Start), "partition %d covers a part of the partition table", p.Index)
				break
			}
		}
		if widest.Size > 0 && p.Start < widest.Start+widest.Size {
			t.find("overlap", p.Start, "partition %d starts inside of partition %d", p.Index, widest.Index)
		}
		if widest.Size == 0 || p.Start+p.Size > widest.Start+widest.Size {
			widest = p
		}
	}
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
