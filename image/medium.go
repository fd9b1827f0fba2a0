package image

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"io/fs"

	"sallyport/bundle/iso9660"
)

const (
	gptEntries   = 128
	gptEntry     = 128                           // bytes
	gptTable     = gptEntries * gptEntry         // bytes
	gptSectors   = 1 + gptTable/espSector        // of a header and its table
	catalogBytes = iso9660.BlockSize             // of the boot catalog
	backupBytes  = 9 * iso9660.BlockSize         // of the second GPT, in whole blocks of an optical disc
	perBlock     = iso9660.BlockSize / espSector // sectors
)

// WriteMedium writes what a machine boots from under UEFI, as an optical disc and as a stick alike: an ISO 9660 volume
// with a boot catalog (El Torito 1.0, platform EFI) whose image is an EFI system partition, to which the partition
// table (GPT, UEFI 2.10 chapter 5) in the volume's system area points as well. Sectors of a stick have 512 bytes. The
// program, size bytes of it, is what firmware starts: \EFI\BOOT\BOOTX64.EFI. epoch is the time of all files, in seconds
// since 1970. The same input gives the same bytes.
func WriteMedium(w io.Writer, program io.Reader, size, epoch int64) error {
	esp, err := newESP(size)
	if err != nil {
		return err
	}
	volume := iso9660.Volume{SystemID: "EFI", ID: "SALLYPORT", Application: "SALLYPORT", Created: epoch, BootCatalog: "boot.catalog"}
	file := func(name string, size int64) iso9660.Entry {
		return iso9660.Entry{Path: name, Mode: 0o444, ModTime: epoch, Size: size}
	}
	layout, err := iso9660.NewLayout(volume, []iso9660.Entry{{Path: ".", Mode: fs.ModeDir | 0o555, ModTime: epoch}, file(volume.BootCatalog, catalogBytes), file("esp.img", esp.size())})
	if err != nil {
		return err
	}
	lba, blocks := layout.Extent(2)
	table := partitionTable{start: lba * perBlock, sectors: blocks * perBlock, last: layout.Blocks()*perBlock + backupBytes/espSector - 1}
	if err := layout.SetSystemArea(table.front()); err != nil {
		return err
	}
	iso := layout.NewWriter(w)
	if err := iso.WriteFile(1, bytes.NewReader(bootCatalog(uint32(lba), esp.size()))); err != nil {
		return err
	}
	if err := iso.WriteFile(2, esp.reader(program, epoch)); err != nil {
		return err
	}
	if err := iso.Close(); err != nil {
		return err
	}
	_, err = w.Write(table.back())
	return err
}

// bootCatalog is a boot catalog with one entry: an image without emulation, for firmware that is EFI (El Torito 1.0,
// chapter 2; UEFI 2.10, 13.3.2.1).
func bootCatalog(lba uint32, size int64) []byte {
	b := make([]byte, catalogBytes)
	order := binary.LittleEndian
	b[0], b[1] = 1, 0xef // validation entry, of platform EFI
	copy(b[4:], "SALLYPORT")
	b[30], b[31] = 0x55, 0xaa
	sum := uint16(0)
	for i := 0; i < 32; i += 2 {
		sum += order.Uint16(b[i:])
	}
	order.PutUint16(b[28:], -sum)
	entry := b[32:]
	entry[0] = 0x88 // can be booted
	if sectors := size / espSector; sectors < 1<<16 {
		order.PutUint16(entry[6:], uint16(sectors))
	} // else 0, which is up to the end of the disc
	order.PutUint32(entry[8:], lba)
	return b
}

// partitionTable is a GPT with one partition (UEFI 2.10, chapter 5). All numbers are sectors of 512 bytes.
type partitionTable struct {
	start, sectors int64 // of the partition
	last           int64 // of the medium
}

// Partition types and names as a GPT has them, of which the first three fields are little-endian.
var (
	espType = [16]byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b} // C12A7328-F81F-11D2-BA4B-00A0C93EC93B
	// These two name the kind of medium, not the one that somebody has: all that is written is the same each time.
	diskID      = [16]byte{'S', 'a', 'l', 'l', 'y', 'p', 'o', 0x40, 0x80, 'r', 't', ' ', 'd', 'i', 's', 'k'}
	partitionID = [16]byte{'S', 'a', 'l', 'l', 'y', 'p', 'o', 0x40, 0x80, 'r', 't', ' ', 'b', 'o', 'o', 't'}
)

// front is what stands before the volume: a protective MBR, the first header and the table.
func (p partitionTable) front() []byte {
	b := make([]byte, espSector, espSector*(1+gptSectors))
	order := binary.LittleEndian
	mbr := b[446:]
	copy(mbr, "\x00\x00\x02\x00\xee\xff\xff\xff")
	order.PutUint32(mbr[8:], 1)
	order.PutUint32(mbr[12:], uint32(min(p.last, 1<<32-1)))
	b[510], b[511] = 0x55, 0xaa
	table := p.table()
	b = append(b, p.header(1, p.last, 2, table)...)
	return append(b, table...)
}

// back is what stands at the end of the medium: zeros, the table and the second header.
func (p partitionTable) back() []byte {
	b := make([]byte, backupBytes)
	table := p.table()
	copy(b[backupBytes-espSector-gptTable:], table)
	copy(b[backupBytes-espSector:], p.header(p.last, 1, p.last-gptTable/espSector, table))
	return b
}

func (p partitionTable) table() []byte {
	b := make([]byte, gptTable)
	order := binary.LittleEndian
	copy(b, espType[:])
	copy(b[16:], partitionID[:])
	order.PutUint64(b[32:], uint64(p.start))
	order.PutUint64(b[40:], uint64(p.start+p.sectors-1))
	for i, c := range "Sallyport" {
		order.PutUint16(b[56+2*i:], uint16(c))
	}
	return b
}

// header is a sector with the header at the sector at, whose copy is at other.
func (p partitionTable) header(at, other, tableAt int64, table []byte) []byte {
	b := make([]byte, espSector)
	order := binary.LittleEndian
	copy(b, "EFI PART")
	order.PutUint32(b[8:], 0x10000)
	order.PutUint32(b[12:], 92)
	order.PutUint64(b[24:], uint64(at))
	order.PutUint64(b[32:], uint64(other))
	order.PutUint64(b[40:], 1+gptSectors)
	order.PutUint64(b[48:], uint64(p.last-gptSectors))
	copy(b[56:], diskID[:])
	order.PutUint64(b[72:], uint64(tableAt))
	order.PutUint32(b[80:], gptEntries)
	order.PutUint32(b[84:], gptEntry)
	order.PutUint32(b[88:], crc32.ChecksumIEEE(table))
	order.PutUint32(b[16:], crc32.ChecksumIEEE(b[:92]))
	return b
}
