package mmc

import "fmt"

// Profile is a kind of medium as the drive sees it (MMC-6 5.3.1).
type Profile uint16

// Profiles.
const (
	NoProfile      Profile = 0x0000 // no medium, or none that the drive knows
	CDROM          Profile = 0x0008
	CDR            Profile = 0x0009
	CDRW           Profile = 0x000A
	DVDROM         Profile = 0x0010
	DVDR           Profile = 0x0011 // DVD-R, sequential recording
	DVDRAM         Profile = 0x0012
	DVDRWOverwrite Profile = 0x0013
	DVDRW          Profile = 0x0014
	DVDRDualLayer  Profile = 0x0015
	DVDRLayerJump  Profile = 0x0016
	DVDPlusRW      Profile = 0x001A
	DVDPlusR       Profile = 0x001B
	DVDPlusRDual   Profile = 0x002B
	BDROM          Profile = 0x0040
	BDR            Profile = 0x0041
	BDRRandom      Profile = 0x0042
	BDRE           Profile = 0x0043
)

var profiles = map[Profile]string{
	NoProfile: "no medium", CDROM: "CD-ROM", CDR: "CD-R", CDRW: "CD-RW",
	DVDROM: "DVD-ROM", DVDR: "DVD-R", DVDRAM: "DVD-RAM", DVDRWOverwrite: "DVD-RW",
	DVDRW: "DVD-RW", DVDRDualLayer: "DVD-R DL", DVDRLayerJump: "DVD-R DL",
	DVDPlusRW: "DVD+RW", DVDPlusR: "DVD+R", DVDPlusRDual: "DVD+R DL",
	BDROM: "BD-ROM", BDR: "BD-R", BDRRandom: "BD-R", BDRE: "BD-RE",
}

// String returns the medium's trade name.
func (p Profile) String() string {
	if s, ok := profiles[p]; ok {
		return s
	}
	return fmt.Sprintf("medium of profile %04xh", uint16(p))
}
