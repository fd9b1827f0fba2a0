package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// An EFI system partition as UEFI's specification wants it for removable media (UEFI 2.10, 13.3): a FAT with one
// program at the path that firmware looks for. It is made here, and not by go-diskfs, whose FAT16 has a lost cluster
// that fsck.fat complains of, and the time of day in its directories.
const (
	espSector      = 512
	espCluster     = 2048 // bytes: that of an optical disc's block
	espReserved    = 4    // sectors, so that FATs and data begin at a multiple of a cluster
	espRootEntries = 512
	espEntry       = 32    // bytes of a directory entry
	espMinClusters = 4085  // with fewer it is a FAT12 (fatgen103, "FAT type determination")
	espMaxClusters = 65524 // with more a FAT32
)

// espLayout is where things are in a partition with one program.
type espLayout struct {
	program  int64 // bytes
	clusters int64 // of all
	fat      int64 // sectors of one FAT
}

func newESP(program int64) (espLayout, error) {
	used := 2 + (program+espCluster-1)/espCluster // two directories
	l := espLayout{program: program, clusters: max(espMinClusters+16, used)}
	if program < 1 || l.clusters > espMaxClusters {
		return l, fmt.Errorf("an EFI program of %d bytes: a system partition has room for 1 to %d", program, int64(espMaxClusters-2)*espCluster)
	}
	l.fat = (2*(l.clusters+2) + espSector - 1) / espSector
	l.fat = (l.fat + 1) &^ 1 // two of them are a number of clusters
	return l, nil
}

func (l espLayout) dataStart() int64 {
	return espReserved*espSector + 2*l.fat*espSector + espRootEntries*espEntry
}

// size is that of the partition in bytes, a multiple of 2,048.
func (l espLayout) size() int64 { return l.dataStart() + l.clusters*espCluster }

// reader reads the partition with a program, which has to have the size that was said. epoch is the time of its files,
// in seconds since 1970.
func (l espLayout) reader(program io.Reader, epoch int64) io.Reader {
	head := make([]byte, l.dataStart()+2*espCluster)
	l.bootSector(head)
	fat := head[espReserved*espSector:][:l.fat*espSector]
	l.chain(fat)
	copy(head[(espReserved+l.fat)*espSector:], fat)

	order := binary.LittleEndian
	date, clock := fatTime(epoch)
	entry := func(b []byte, name string, attributes byte, cluster uint16, size uint32) {
		copy(b, name)
		b[11] = attributes
		order.PutUint16(b[14:], clock)
		order.PutUint16(b[16:], date)
		order.PutUint16(b[18:], date)
		order.PutUint16(b[22:], clock)
		order.PutUint16(b[24:], date)
		order.PutUint16(b[26:], cluster)
		order.PutUint32(b[28:], size)
	}
	const volume, directory, archive = 0x08, 0x10, 0x20
	root := head[l.dataStart()-espRootEntries*espEntry:]
	entry(root, "SALLYPORT  ", volume, 0, 0)
	entry(root[espEntry:], "EFI        ", directory, 2, 0)
	efi := head[l.dataStart():]
	entry(efi, ".          ", directory, 2, 0)
	entry(efi[espEntry:], "..         ", directory, 0, 0)
	entry(efi[2*espEntry:], "BOOT       ", directory, 3, 0)
	boot := efi[espCluster:]
	entry(boot, ".          ", directory, 3, 0)
	entry(boot[espEntry:], "..         ", directory, 2, 0)
	entry(boot[2*espEntry:], "BOOTX64 EFI", archive, 4, uint32(l.program))
	return io.MultiReader(bytes.NewReader(head), program, io.LimitReader(zeros{}, l.size()-int64(len(head))-l.program))
}

// bootSector writes the BIOS parameter block (fatgen103, "Boot Sector and BPB"). There is no boot code.
func (l espLayout) bootSector(b []byte) {
	order := binary.LittleEndian
	copy(b, "\xeb\x3c\x90MSWIN4.1")
	order.PutUint16(b[11:], espSector)
	b[13] = espCluster / espSector
	order.PutUint16(b[14:], espReserved)
	b[16] = 2
	order.PutUint16(b[17:], espRootEntries)
	if sectors := l.size() / espSector; sectors < 1<<16 {
		order.PutUint16(b[19:], uint16(sectors))
	} else {
		order.PutUint32(b[32:], uint32(sectors))
	}
	b[21] = 0xf8 // fixed disk
	order.PutUint16(b[22:], uint16(l.fat))
	order.PutUint16(b[24:], 63)
	order.PutUint16(b[26:], 255)
	b[36], b[38] = 0x80, 0x29
	copy(b[39:], "SPRTSALLYPORT  FAT16   ") // serial number, label, kind
	b[510], b[511] = 0x55, 0xaa
}

// chain writes a FAT: a directory in cluster 2, one in 3, and the program from 4 on.
func (l espLayout) chain(fat []byte) {
	order := binary.LittleEndian
	const end = 0xffff
	order.PutUint16(fat, 0xfff8)
	for _, n := range []int{1, 2, 3} {
		order.PutUint16(fat[2*n:], end)
	}
	last := 3 + (l.program+espCluster-1)/espCluster
	for n := int64(4); n < last; n++ {
		order.PutUint16(fat[2*n:], uint16(n+1))
	}
	order.PutUint16(fat[2*last:], end)
}

// fatTime is a time as FAT has it, which begins in 1980.
func fatTime(epoch int64) (date, clock uint16) {
	t := time.Unix(epoch, 0).UTC()
	if t.Year() < 1980 {
		return 1<<5 | 1, 0
	}
	return uint16(min(t.Year()-1980, 127))<<9 | uint16(t.Month())<<5 | uint16(t.Day()), uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
}

// zeros reads as zeros, without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
