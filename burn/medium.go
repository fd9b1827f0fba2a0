package burn

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// medium is how one kind of blank disc is written.
type medium struct {
	profile  mmc.Profile
	usual    uint32  // blocks that such a disc holds
	ecc      uint32  // blocks of the unit of recording: what is written ends with a whole one
	shortest uint32  // blocks that a track must have
	runOut   uint32  // blocks behind the track that the drive takes for itself
	oneX     int     // kB/s
	opc      bool    // SEND OPC INFORMATION calibrates for it; for the others the drive does so with the first write
	page     bool    // mode page 05h says how it is written
	format   bool    // READ FORMAT CAPACITIES tells its capacity, too
	finalise []uint8 // functions of CLOSE TRACK SESSION (MMC-5 6.3.3) that close the disc; one that is refused leads to the next
	features []uint16
}

// The media, in order of their size.
var media = []medium{
	{profile: mmc.CDR, usual: 359_846, ecc: 1, shortest: 300, runOut: 2, oneX: cdOneX, opc: true, page: true,
		finalise: []uint8{mmc.CloseSession}, features: []uint16{mmc.FeatureCDTrackAtOnce}},
	{profile: mmc.DVDPlusR, usual: 2_295_104, ecc: 16, oneX: 1385, format: true,
		finalise: []uint8{mmc.Finalise, mmc.FinaliseMinimal}, features: []uint16{mmc.FeatureDVDPlusR}},
	{profile: mmc.DVDR, usual: 2_298_496, ecc: 16, oneX: 1385, opc: true, page: true, format: true,
		finalise: []uint8{mmc.CloseSession}, features: []uint16{mmc.FeatureDVDRWrite, mmc.FeatureIncremental}},
	{profile: mmc.BDR, usual: 12_219_392, ecc: 32, oneX: 4496,
		finalise: []uint8{mmc.Finalise}, features: []uint16{mmc.FeatureBDWrite}},
}

// mediumOf returns how discs of a profile are written; false when they aren't.
func mediumOf(p mmc.Profile) (medium, bool) {
	for _, m := range media {
		if m.profile == p {
			return m, true
		}
	}
	return medium{}, false
}

// writes reports whether the drive has a feature for writing such discs.
func (m *medium) writes(c *mmc.Configuration) bool {
	for _, code := range m.features {
		f := c.Feature(code)
		switch {
		case f == nil:
		case code == mmc.FeatureDVDPlusR:
			return len(f.Data) > 0 && f.Data[0]&1 != 0
		default:
			return true
		}
	}
	return false
}

// total returns how many blocks are written for an image of so many.
func (m *medium) total(blocks uint32) (uint32, error) {
	n := max((uint64(blocks)+uint64(m.ecc)-1)/uint64(m.ecc)*uint64(m.ecc), uint64(m.shortest))
	if n+uint64(m.runOut) >= 1<<32 {
		return 0, fmt.Errorf("an image of %d blocks fits no disc", blocks)
	}
	return uint32(n), nil
}

// needed says which discs an image of so many blocks asks for.
func needed(blocks uint32) string {
	var names []string
	for _, m := range media {
		if total, err := m.total(blocks); err == nil && (total+m.runOut <= m.usual || m.profile == mmc.BDR) {
			names = append(names, m.profile.String())
		}
	}
	if last := len(names) - 1; last > 0 {
		names = append(names[:last-1], names[last-1]+" or "+names[last])
	}
	return fmt.Sprintf("a blank %s for %d blocks (%d MB)", strings.Join(names, ", "), blocks, mb(blocks))
}

// wrongDisc says what a disc is that can't be burnt.
func wrongDisc(p mmc.Profile) string {
	switch p {
	case mmc.NoProfile:
		return "the drive can't use this disc"
	case mmc.CDROM, mmc.DVDROM, mmc.BDROM:
		return fmt.Sprintf("a %v is in the drive, pressed or written already", p)
	}
	return fmt.Sprintf("a %v is in the drive", p)
}

// readable are the discs that OpenDisc reads: those that Disc burns, and what
// a drive that only reads takes them for.
func readable(p mmc.Profile) bool {
	switch p {
	case mmc.CDROM, mmc.DVDROM, mmc.BDROM, mmc.BDRRandom:
		return true
	}
	_, ok := mediumOf(p)
	return ok
}

const cdOneX = 176 // kB/s

// oneX returns 1× in kB/s.
func oneX(p mmc.Profile) uint32 {
	switch p {
	case mmc.CDROM, mmc.CDR, mmc.CDRW:
		return cdOneX
	case mmc.BDROM, mmc.BDR, mmc.BDRRandom, mmc.BDRE:
		return 4496
	}
	return 1385
}

// mediumID reads the code of the disc's manufacturer, where the disc has one.
func (u *unit) mediumID(ctx context.Context) (string, error) {
	switch u.profile {
	case mmc.CDR:
		return u.structure(ctx, mmc.ReadATIP, mmc.CDManufacturer)
	case mmc.DVDPlusR:
		return u.structure(ctx, mmc.ReadDiscStructure{Format: mmc.StructureADIP}.Send, mmc.PlusManufacturer)
	case mmc.BDR:
		return u.structure(ctx, mmc.ReadDiscStructure{MediaType: mmc.MediaBD}.Send, mmc.BDManufacturer)
	}
	return u.structure(ctx, mmc.ReadDiscStructure{Format: mmc.StructurePreRecorded}.Send, mmc.Manufacturer)
}

// structure reads something about the disc that may be missing: a drive
// without it refuses the command's field, some with the wrong sense key.
func (u *unit) structure(ctx context.Context, read func(context.Context, scsi.Transport) ([]byte, error), parse func([]byte) string) (string, error) {
	raw, err := ask(ctx, u, read)
	if illegal(err) || !deferred(err) && errors.Is(err, scsi.InvalidField|scsi.AnyKey) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return parse(raw), nil
}
