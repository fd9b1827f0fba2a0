package part

// basicData is the type of what Windows mounts, FAT, exFAT and NTFS alike.
const basicData = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"

// hiddenTypes are those that Windows and boot managers use to hide a partition: a type with 0x10 added, and others that no system mounts by itself.
var hiddenTypes = map[byte]bool{0x11: true, 0x12: true, 0x14: true, 0x16: true, 0x17: true, 0x1b: true, 0x1c: true, 0x1e: true, 0x27: true, 0x84: true, 0xde: true, 0xfe: true}

var mbrTypes = map[byte]string{
	0x01: "FAT12", 0x04: "FAT16 below 32 MB", 0x06: "FAT16", 0x07: "NTFS or exFAT", 0x0b: "FAT32", 0x0c: "FAT32 LBA", 0x0e: "FAT16 LBA",
	0x05: "extended", 0x0f: "extended LBA", 0x85: "Linux extended",
	0x11: "hidden FAT12", 0x12: "diagnostics", 0x14: "hidden FAT16 below 32 MB", 0x16: "hidden FAT16", 0x17: "hidden NTFS or exFAT", 0x1b: "hidden FAT32", 0x1c: "hidden FAT32 LBA", 0x1e: "hidden FAT16 LBA",
	0x27: "Windows recovery", 0x42: "Windows dynamic disk", 0x82: "Linux swap", 0x83: "Linux", 0x84: "hibernation", 0x8e: "Linux LVM",
	0xa5: "FreeBSD", 0xa6: "OpenBSD", 0xa8: "macOS UFS", 0xa9: "NetBSD", 0xab: "macOS boot", 0xaf: "HFS", 0xbf: "Solaris",
	0xcd: "ISO 9660", 0xda: "data without a file system", 0xde: "Dell utility", 0xea: "boot loader", 0xeb: "BeOS", 0xee: "GPT protective", 0xef: "EFI system", 0xfb: "VMware VMFS", 0xfd: "Linux RAID", 0xfe: "LANstep",
}

var gptTypes = map[string]string{
	basicData:                              "basic data",
	"c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system",
	"024dee41-33e7-11d3-9d69-0008c781f39f": "MBR scheme",
	"21686148-6449-6e6f-744e-656564454649": "BIOS boot",
	"e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved",
	"de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery",
	"5808c8aa-7e8f-42e0-85d2-e1e90434cfb3": "Windows dynamic disk metadata",
	"af9b60a0-1431-4f62-bc68-3311714a69ad": "Windows dynamic disk data",
	"0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux file system",
	"0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
	"e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
	"a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
	"ca7d7ccb-63ed-4c53-861c-1742536059cc": "LUKS",
	"4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root x86-64",
	"933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux home",
	"bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux boot",
	"48465300-0000-11aa-aa11-00306543ecac": "HFS+",
	"7c3457ef-0000-11aa-aa11-00306543ecac": "APFS",
	"516e7cb4-6ecf-11d6-8ff8-00022d09712b": "FreeBSD",
	"83bd6b9d-7f41-11dc-be0b-001560b84f0f": "FreeBSD boot",
}
