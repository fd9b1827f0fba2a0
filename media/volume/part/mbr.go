package part

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

const typeProtective = 0xee

// mbrEntry is one of the four entries of a boot record: flag, first block in CHS, type, last block in CHS, first block, number of blocks.
type mbrEntry struct {
	flag, kind   byte
	first, last  [3]byte
	start, count uint32 // in logical blocks
	raw          []byte
}

func mbrEntries(record []byte) []mbrEntry {
	entries := make([]mbrEntry, 4)
	for i := range entries {
		b := record[446+16*i : 462+16*i]
		entries[i] = mbrEntry{b[0], b[4], [3]byte(b[1:4]), [3]byte(b[5:8]), binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:]), b}
	}
	return entries
}

func (e mbrEntry) extended() bool  { return e.kind == 0x05 || e.kind == 0x0f || e.kind == 0x85 }
func (e mbrEntry) plausible() bool { return e.flag&0x7f == 0 && e.kind != 0 && e.count != 0 }

// bootCode tells of a loader in a boot record's first 440 bytes.
func (t *Table) bootCode(record []byte, off int64) {
	code := record[:440]
	if len(bytes.Trim(code, "\x00")) == 0 {
		return
	}
	if stub := harmless(record); stub != "" {
		t.find("boot-stub", off, "the boot record's code is %s, which loads nothing", stub)
		return
	}
	t.find("boot-code", off, "the boot record has code that a BIOS would run, of a loader that isn't known")
}

// harmless names the code of a boot record that prints a message and stops. It is that of mkfs.fat alone: short code, then its message to the end of the code area.
func harmless(record []byte) string {
	// push cs; pop ds; mov si, message; then: lodsb; and al, al; jz; push si; mov ah, 0e; mov bx, 7; int 10; pop si; jmp; xor ah, ah; int 16; int 19; jmp
	head := []byte{0x0e, 0x1f, 0xbe}
	tail := []byte{0x7c, 0xac, 0x22, 0xc0, 0x74, 0x0b, 0x56, 0xb4, 0x0e, 0xbb, 0x07, 0x00, 0xcd, 0x10, 0x5e, 0xeb, 0xf0, 0x32, 0xe4, 0xcd, 0x16, 0xcd, 0x19, 0xeb, 0xfe}
	message := []byte("This is not a bootable disk.  Please insert a bootable floppy and\r\npress any key to try again ... \r\n")
	for _, at := range []int{62, 90} {
		body := record[at:440]
		if record[0] == 0xeb && int(record[1])+2 == at && bytes.HasPrefix(body, head) && bytes.HasPrefix(body[4:], tail) &&
			bytes.HasPrefix(body[4+len(tail):], message) && len(bytes.Trim(body[4+len(tail)+len(message):], "\x00")) == 0 {
			return "the stub of mkfs.fat"
		}
	}
	return ""
}

// readMBR takes the four entries of an MBR and the logical partitions that they lead to.
func (t *Table) readMBR(mbr []byte, entries []mbrEntry) error {
	t.used = append(t.used, Range{0, 512})
	if id := binary.LittleEndian.Uint32(mbr[440:]); id != 0 {
		t.ID = fmt.Sprintf("%08x", id)
	}
	if mbr[444] != 0 || mbr[445] != 0 {
		t.find("odd-flag", 444, "the MBR's copy protection bytes are %02x %02x", mbr[444], mbr[445])
	}
	t.bootCode(mbr, 0)
	active, extended := 0, 0
	for i, e := range entries {
		off := int64(446 + 16*i)
		if e.kind == 0 {
			if len(bytes.Trim(e.raw, "\x00")) != 0 {
				t.find("entry-residue", off, "entry %d of the MBR has no type and isn't empty", i+1)
			}
			continue
		}
		if e.flag == 0x80 {
			if active++; active == 2 {
				t.find("odd-flag", off, "more than one partition is active")
			}
		}
		t.checkCHS(e, i+1, 0, off)
		if !e.extended() {
			t.add(e, i+1, 0, off)
			continue
		}
		if extended++; extended > 1 {
			t.find("second-extended", off, "entry %d is a second extended partition, which systems read differently", i+1)
		}
		if err := t.readLogical(e); err != nil {
			return err
		}
	}
	return nil
}

func (t *Table) add(e mbrEntry, index int, base int64, off int64) {
	p := Partition{
		Index: index, Start: (base + int64(e.start)) * int64(t.Block), Size: int64(e.count) * int64(t.Block),
		Type: fmt.Sprintf("0x%02x", e.kind), TypeName: mbrTypes[e.kind], Boot: e.flag == 0x80, Logical: index > 4,
	}
	t.Partitions = append(t.Partitions, p)
	if hiddenTypes[e.kind] {
		t.find("hidden-partition", off, "partition %d has the hidden type 0x%02x", index, e.kind)
	}
}

// readLogical follows the extended boot records of one extended partition. Each holds one partition, relative to itself, and the next record, relative to the first.
func (t *Table) readLogical(ext mbrEntry) error {
	base := int64(ext.start)
	end := base + int64(ext.count)
	seen := map[int64]bool{}
	record := make([]byte, 512)
	logical := func() int {
		n := 4
		for _, p := range t.Partitions {
			n = max(n, p.Index)
		}
		return n + 1
	}
	links := 0
	for at := base; ; links++ {
		off := at * int64(t.Block)
		switch {
		case seen[at]:
			t.find("ebr-loop", off, "the chain of extended boot records leads back to one that it came from")
			return nil
		case links >= maxLogical:
			t.find("ebr-loop", off, "the chain of extended boot records has more than %d links", maxLogical)
			return nil
		case at == 0 || off > t.Size-int64(t.Block):
			t.find("past-end", off, "an extended boot record lies outside of the medium, or is the MBR itself")
			return nil
		}
		seen[at] = true
		if err := t.readAt(record, off); err != nil {
			return err
		}
		if record[510] != 0x55 || record[511] != 0xaa {
			t.find("ebr-signature", off, "an extended boot record has no signature")
			return nil
		}
		t.used = append(t.used, Range{off, 512})
		if len(bytes.Trim(record[:446], "\x00")) != 0 {
			t.find("boot-code", off, "an extended boot record has bytes where only an MBR has code")
		}
		entries := mbrEntries(record)
		next := int64(-1)
		for i, e := range entries {
			where := off + int64(446+16*i)
			switch {
			case e.kind == 0 && e.count == 0:
				if len(bytes.Trim(e.raw, "\x00")) != 0 {
					t.find("entry-residue", where, "entry %d of an extended boot record has no type and isn't empty", i+1)
				}
			case e.extended():
				if next >= 0 || i > 1 {
					t.find("ebr-entries", where, "entry %d of an extended boot record is a further extended partition", i+1)
					break
				}
				next = base + int64(e.start)
			case i > 1:
				t.find("ebr-entries", where, "entry %d of an extended boot record is in use, where there are two at most", i+1)
				fallthrough
			default:
				t.checkCHS(e, logical(), uint64(at), where)
				if s := at + int64(e.start); s < base || s+int64(e.count) > end {
					t.find("past-end", where, "logical partition %d reaches out of its extended partition", logical())
				}
				t.add(e, logical(), at, where)
			}
		}
		if next < 0 {
			return nil
		}
		if next >= end {
			t.find("past-end", off, "the next extended boot record lies behind the extended partition")
		}
		at = next
	}
}

// checkCHS compares the old address of an entry's ends with the blocks. Of a logical partition it is from the medium's start, or with some writers from the extended boot record at block base.
func (t *Table) checkCHS(e mbrEntry, index int, base uint64, off int64) {
	if e.count == 0 {
		return
	}
	for _, end := range []struct {
		chs [3]byte
		lba uint64
	}{{e.first, uint64(e.start)}, {e.last, uint64(e.start) + uint64(e.count) - 1}} {
		if !plausibleCHS(end.chs, base+end.lba) && !plausibleCHS(end.chs, end.lba) {
			t.find("odd-geometry", off, "the cylinder, head and sector of partition %d are %x, which isn't block %d in any usual geometry", index, end.chs, base+end.lba)
			return
		}
	}
}

var geometries = []struct{ heads, sectors uint64 }{{255, 63}, {240, 63}, {128, 63}, {64, 63}, {32, 63}, {16, 63}, {64, 32}, {16, 32}, {2, 18}, {4, 32}, {8, 32}, {255, 32}}

func plausibleCHS(chs [3]byte, lba uint64) bool {
	if chs == [3]byte{} || chs == [3]byte{0xff, 0xff, 0xff} {
		return true
	}
	c, h, s := uint64(chs[1]&0xc0)<<2|uint64(chs[2]), uint64(chs[0]), uint64(chs[1]&0x3f)
	return slices.ContainsFunc(geometries, func(g struct{ heads, sectors uint64 }) bool {
		if lba/(g.heads*g.sectors) > 1023 { // writers put one of several highest values
			return c == 1023
		}
		return (c*g.heads+h)*g.sectors+s-1 == lba
	})
}

// protectiveMBR checks the MBR before a GPT (UEFI 2.10, section 5.2.3): one entry of type 0xee from block 1 over the whole medium.
func (t *Table) protectiveMBR(mbr []byte, entries []mbrEntry) {
	t.used = append(t.used, Range{0, 512})
	blocks := uint64(t.Size) / uint64(t.Block)
	for i, e := range entries {
		off := int64(446 + 16*i)
		switch {
		case e.kind == 0 && len(bytes.Trim(e.raw, "\x00")) == 0:
		case e.kind == 0:
			t.find("entry-residue", off, "entry %d of the protective MBR has no type and isn't empty", i+1)
		case e.kind != typeProtective:
			t.find("hybrid-mbr", off, "the MBR before the GPT has a partition of its own, of type 0x%02x: systems without GPT see another content", e.kind)
		case i != 0 || e.start != 1 || uint64(e.count) != min(blocks-1, 0xffffffff) && e.count != 0xffffffff:
			t.find("protective-mbr", off, "entry %d of the protective MBR takes %d blocks from block %d, which isn't the whole medium of %d", i+1, e.count, e.start, blocks)
		case e.flag != 0:
			t.find("protective-mbr", off, "the protective partition is marked as active")
		}
	}
	if id := binary.LittleEndian.Uint32(mbr[440:]); id != 0 {
		t.find("protective-mbr", 440, "the protective MBR has the disk signature %08x", id)
	}
}
