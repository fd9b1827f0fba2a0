package drivesim

import "sallyport/burn/mmc"

// kind is what the drive knows about one type of medium: the numbers and rules
// in which media differ. What is common to all stands in the code.
type kind struct {
	profile      mmc.Profile
	capacity     uint32  // blocks of a blank disc
	unit         uint32  // blocks of an ECC block: what is recorded is padded to it
	oneX         int     // kB/s
	speeds       []int   // of writing, kB/s, fastest first
	manufacturer string  // as the medium tells it
	modes        []byte  // write types of page 05h; nil: the page says nothing about this medium
	close        [8]seal // what the functions of CLOSE TRACK SESSION do (MMC-5 table 45)
	reserve      bool    // RESERVE TRACK makes tracks of a fixed size
	firstGap     uint32  // blocks between the first session and the second
	nextGap      uint32  // between later ones
	pregap       uint32  // between the tracks of a session
	runOut       uint32  // blocks behind a track written at once that can't be read
	fragile      bool    // a track whose recording stops is complete, or, when it was cut off, lost
	incremental  bool    // tracks are told to be incremental
	unfabricated bool    // the table of contents has what was written in a lead-in, and nothing else
}

// seal is what a close function closes.
type seal int

const (
	sealNothing seal = iota // the function is refused
	sealTrack
	sealSession // and the disc, when page 05h allows no further session
	sealDisc
)

// kinds are the media that can be written.
var kinds = map[mmc.Profile]*kind{
	mmc.DVDR: {
		profile: mmc.DVDR, capacity: DVDRBlocks, unit: 16, oneX: oneX,
		speeds: []int{22160, 16620, 11080, 8310, 5540, 2770}, manufacturer: "SALLYSIM0001",
		modes:       []byte{mmc.WriteIncremental, mmc.WriteSAO},
		close:       [8]seal{1: sealTrack, 2: sealSession},
		incremental: true, reserve: true, firstGap: 12288, nextGap: 4096,
	},
	mmc.DVDPlusR: {
		profile: mmc.DVDPlusR, capacity: 2295104, unit: 16, oneX: oneX,
		speeds: []int{22160, 16620, 11080, 8310, 5540, 3324}, manufacturer: "SALLYSIM001",
		close:   [8]seal{1: sealTrack, 2: sealSession, 5: sealDisc, 6: sealDisc},
		reserve: true, firstGap: 2048, nextGap: 2048,
	},
	mmc.CDR: {
		profile: mmc.CDR, capacity: 359844, unit: 1, oneX: 176,
		speeds: []int{8467, 7056, 5645, 4234, 2822, 1411, 706}, manufacturer: "97m15s17f",
		modes:    []byte{mmc.WriteTAO, mmc.WriteSAO},
		close:    [8]seal{1: sealTrack, 2: sealSession},
		firstGap: 6750 + 4500 + 150, nextGap: 2250 + 4500 + 150, pregap: 150, runOut: 2,
		fragile: true, unfabricated: true,
	},
	mmc.BDR: {
		profile: mmc.BDR, capacity: 12219392, unit: 32, oneX: 4496,
		speeds: []int{26973, 17982, 8991}, manufacturer: "SLYSIMR01",
		close:       [8]seal{1: sealTrack, 2: sealSession, 6: sealDisc},
		incremental: true, reserve: true, firstGap: 32, nextGap: 32,
	},
}

// kindOf returns what there is to know about a medium. One that can't be
// written is no more than its profile.
func kindOf(p mmc.Profile) *kind {
	if k, ok := kinds[p]; ok {
		return k
	}
	return &kind{profile: p, capacity: DVDRBlocks, unit: 16, oneX: oneX, speeds: []int{22160}, manufacturer: "SALLYSIM0001"}
}

// pressed are the media that come with something on them.
var pressed = map[mmc.Profile]bool{mmc.CDROM: true, mmc.DVDROM: true, mmc.BDROM: true}

func (k *kind) writable() bool { return kinds[k.profile] != nil }
func (k *kind) isCD() bool {
	return k.profile == mmc.CDR || k.profile == mmc.CDROM || k.profile == mmc.CDRW
}
func (k *kind) isBD() bool  { return k.profile >= mmc.BDROM && k.profile <= mmc.BDRE }
func (k *kind) isDVD() bool { return !k.isCD() && !k.isBD() && k.profile != mmc.NoProfile }

// align rounds up to whole ECC blocks.
func (k *kind) align(lba uint32) uint32 { return (lba + k.unit - 1) / k.unit * k.unit }

// writeSpeeds lists the speeds of writing that a drive has which is no faster
// than fastest, in kB/s, fastest first.
func (k *kind) writeSpeeds(fastest int) []int {
	list := []int{fastest}
	for _, s := range k.speeds {
		if s < fastest {
			list = append(list, s)
		}
	}
	return list
}
