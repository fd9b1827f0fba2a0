package part

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// magic is a signature at a place.
type magic struct {
	name string
	off  int64 // bytes; from the end of what is looked at if negative
	sig  string
}

// magics are tried in order, so what encloses others comes first.
var magics = []magic{
	{"Sallyport bundle", 0, "sallyport 1\n"},
	{"LUKS", 0, "LUKS\xba\xbe"},
	{"BitLocker", 3, "-FVE-FS-"},
	{"Linux RAID", 4096, "\xfc\x4e\x2b\xa9"},
	{"Linux RAID", 0, "\xfc\x4e\x2b\xa9"},
	{"bcache", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{"NTFS", 3, "NTFS    "},
	{"exFAT", 3, "EXFAT   "},
	{"ReFS", 3, "ReFS\x00\x00\x00\x00"},
	{"XFS", 0, "XFSB"},
	{"APFS", 32, "NXSB"},
	{"squashfs", 0, "hsqs"},
	{"cramfs", 0, "\x45\x3d\xcd\x28"},
	{"romfs", 0, "-rom1fs-"},
	{"dm-verity hash tree", 0, "verity\x00\x00"},
	{"f2fs", 1024, "\x10\x20\xf5\xf2"},
	{"erofs", 1024, "\xe2\xe1\xf5\xe0"},
	{"HFS+", 1024, "H+"},
	{"HFSX", 1024, "HX"},
	{"HFS", 1024, "BD"},
	{"nilfs2", 1024 + 6, "\x34\x34"},
	{"swap", 4096 - 10, "SWAPSPACE2"},
	{"swap", 4096 - 10, "SWAP-SPACE"},
	{"swap", 16384 - 10, "SWAPSPACE2"},
	{"swap", 65536 - 10, "SWAPSPACE2"},
	{"hibernated system", 4096 - 10, "S1SUSPEND\x00"},
	{"btrfs", 65536 + 64, "_BHRfS_M"},
	{"ReiserFS", 65536 + 52, "ReIsEr"},
	{"JFS", 32768, "JFS1"},
	{"GFS2", 65536, "\x01\x16\x19\x70"},
	{"LVM", 512, "LABELONE"},
	{"LVM", 0, "LABELONE"},
	{"LVM", 1024, "LABELONE"},
	{"LVM", 1536, "LABELONE"},
	{"VMFS", 2 << 20, "\x5e\xf1\xab\x2f"},
	{"BSD disk label", 512, "\x57\x45\x56\x82"},
	{"Linux RAID", -8192, "\xfc\x4e\x2b\xa9"}, // metadata 1.0
}

// Identify says by its signature what a partition, or a medium without partitions, of size bytes holds: "FAT32", "exFAT", "ext4", "NTFS", "LUKS" and so on, "" for nothing that is known. It reads at most 70 small places. A name is no promise that the file system can be read.
func Identify(r io.ReaderAt, size int64) (string, error) {
	look := func(off int64, n int) ([]byte, error) {
		if off < 0 {
			off += size
		}
		if off < 0 || off > size-int64(n) {
			return nil, nil
		}
		b := make([]byte, n)
		if k, err := r.ReadAt(b, off); k < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("identifying a file system: byte %d: %w", off+int64(k), err)
		}
		return b, nil
	}
	for _, m := range magics {
		b, err := look(m.off, len(m.sig))
		if err != nil {
			return "", err
		}
		if string(b) == m.sig {
			return m.name, nil
		}
	}
	// Linux RAID with metadata 0.90 lies in the last whole 64 KiB but one.
	if b, err := look(size&^0xffff-0x10000, 4); err != nil || string(b) == "\xfc\x4e\x2b\xa9" {
		return name("Linux RAID", err), err
	}
	sb, err := look(1024, 264)
	if err != nil {
		return "", err
	}
	if sb != nil && sb[56] == 0x53 && sb[57] == 0xef {
		return extName(sb), nil
	}
	boot, err := look(0, 512)
	if err != nil {
		return "", err
	}
	if boot != nil && isBootSector(boot) {
		return fatName(boot), nil
	}
	return descriptors(look)
}

func name(s string, err error) string {
	if err != nil {
		return ""
	}
	return s
}

// extName tells ext2, ext3 and ext4 apart by their features, as blkid does.
func extName(sb []byte) string {
	compat, incompat, ro := binary.LittleEndian.Uint32(sb[92:]), binary.LittleEndian.Uint32(sb[96:]), binary.LittleEndian.Uint32(sb[100:])
	switch {
	case incompat&8 != 0:
		return "ext journal"
	case incompat&^0x16 != 0 || ro&^7 != 0:
		return "ext4"
	case compat&4 != 0:
		return "ext3"
	}
	return "ext2"
}

// fatName tells FAT12, FAT16 and FAT32 apart by their number of clusters, as Linux does.
func fatName(b []byte) string {
	le := binary.LittleEndian
	sector, fat := uint64(le.Uint16(b[11:])), uint64(le.Uint16(b[22:]))
	if fat == 0 {
		return "FAT32"
	}
	total := uint64(le.Uint16(b[19:]))
	if total == 0 {
		total = uint64(le.Uint32(b[32:]))
	}
	used := uint64(le.Uint16(b[14:])) + uint64(b[16])*fat + uint64(le.Uint16(b[17:]))*32/sector
	if total > used && (total-used)/uint64(b[13]) > 0xff4 {
		return "FAT16"
	}
	return "FAT12"
}

// descriptors looks through the volume recognition sequence (ECMA-167, part 2; ECMA-119, section 6.7): UDF beside ISO 9660 counts as UDF. The descriptors are a block of the medium apart, and 2,048 bytes at least.
func descriptors(look func(int64, int) ([]byte, error)) (string, error) {
	for stride := int64(2048); stride <= 32768; stride *= 2 {
		found := ""
		for i, more := int64(0), true; i < 16 && more; i++ {
			b, err := look(32768+stride*i, 6)
			if err != nil {
				return "", err
			}
			if b == nil {
				break
			}
			switch string(b[1:]) {
			case "NSR02", "NSR03":
				return "UDF", nil
			case "CD001":
				found = "ISO 9660"
			case "BEA01", "TEA01", "BOOT2":
			default:
				more = false
			}
		}
		if found != "" {
			return found, nil
		}
	}
	return "", nil
}

// foreign looks for partition tables of other systems and for signatures that say that the whole medium is something else.
func (t *Table) foreign() error {
	head := make([]byte, min(4096, t.Size))
	if err := t.readAt(head, 0); err != nil {
		return err
	}
	be, le := binary.BigEndian, binary.LittleEndian
	say := func(off int64, what string) {
		t.find("foreign-scheme", off, "there is %s, which isn't read", what)
	}
	if be.Uint16(head[508:]) == 0xdabe {
		say(508, "a Sun disk label")
	}
	if be.Uint32(head) == 0x0be5a941 {
		say(0, "an SGI volume header")
	}
	if string(head[:4]) == "\xc9\xc2\xd4\xc1" {
		say(0, "an AIX label")
	}
	if string(head[:2]) == "ER" && len(head) >= 1024 && (string(head[512:514]) == "PM" || len(head) >= 2050 && string(head[2048:2050]) == "PM") {
		say(0, "an Apple partition map")
	}
	for _, off := range []int{0, 64, 512, 4096 - 512} { // sector 1, or inside of sector 0
		if len(head) >= off+136 && le.Uint32(head[off:]) == 0x82564557 && le.Uint32(head[off+132:]) == 0x82564557 {
			say(int64(off), "a BSD disk label")
		}
	}
	if string(head[:4]) == "RDSK" || len(head) >= 1028 && string(head[512:516]) == "RDSK" {
		say(0, "an Amiga rigid disk block")
	}
	if off, ok := atari(head, t.Size); ok {
		say(off, "an Atari partition table")
	}
	kind, err := Identify(t.r, t.Size)
	if err != nil {
		return err
	}
	switch kind {
	case "LUKS", "BitLocker", "LVM", "Linux RAID", "bcache":
		say(0, kind+" over the whole medium")
	}
	return nil
}

// atari looks for an AHDI root sector: entries of flag, three letters, first sector and number of sectors, big-endian, from byte 0x1c6 on. An MBR has its own entries there, so all that are in use must make sense.
func atari(b []byte, size int64) (int64, bool) {
	found := false
	for i := range 4 {
		e := b[0x1c6+12*i:]
		if e[0]&1 == 0 {
			continue
		}
		switch string(e[1:4]) {
		case "GEM", "BGM", "XGM", "LNX", "SWP", "RAW":
		default:
			return 0, false
		}
		if int64(binary.BigEndian.Uint32(e[4:])) > size/512 {
			return 0, false
		}
		found = true
	}
	return 0x1c6, found
}
