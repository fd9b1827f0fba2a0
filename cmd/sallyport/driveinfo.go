package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"sallyport/bundle"
	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

type driveInfoCmd struct {
	Drive string `arg:"" help:"The drive: a device, as /dev/sr0, or sim:DIR."`
}

func (c *driveInfoCmd) Help() string {
	return `Nothing is written, and the tray isn't moved.

Example: sallyport drive info /dev/sr0`
}

type driveInfoResult struct {
	Vendor   string    `json:"vendor"`
	Product  string    `json:"product"`
	Revision string    `json:"revision"`
	Serial   string    `json:"serial,omitempty"`
	Writes   []string  `json:"writes"` // of the discs that sallyport burns
	Disc     *discInfo `json:"disc,omitempty"`
	NoDisc   string    `json:"no_disc,omitempty"` // why there is no disc to tell of
}

// discInfo is what a person wants to know of a disc before a burn.
type discInfo struct {
	Type           string `json:"type"`
	Status         string `json:"status"` // blank, appendable, closed, other; "" where the drive doesn't tell
	Sessions       int    `json:"sessions"`
	CapacityBlocks uint32 `json:"capacity_blocks,omitempty"` // of a disc with something on it: what can be read
	FreeBlocks     uint32 `json:"free_blocks"`
	ID             string `json:"id,omitempty"`
	WriteSpeeds    []int  `json:"write_speeds,omitempty"` // kB/s, the fastest first
}

func (r *driveInfoResult) text(w io.Writer) {
	fmt.Fprintf(w, "drive        %s %s %s, serial %s\n", printable(r.Vendor), printable(r.Product), printable(r.Revision), orUnknown(printable(r.Serial)))
	writes := strings.Join(r.Writes, ", ")
	if writes == "" {
		writes = "nothing that sallyport burns: it only reads"
	}
	fmt.Fprintf(w, "writes       %s\n", writes)
	d := r.Disc
	if d == nil {
		fmt.Fprintf(w, "disc         none: %s\n", printable(r.NoDisc))
		return
	}
	fmt.Fprintf(w, "disc         %s, %s, sessions: %d, id %s\n", d.Type, orUnknown(d.Status), d.Sessions, orUnknown(printable(d.ID)))
	if d.CapacityBlocks > 0 {
		fmt.Fprintf(w, "recorded     %d blocks, %s\n", d.CapacityBlocks, bytesText(int64(d.CapacityBlocks)*bundle.BlockSize))
	}
	fmt.Fprintf(w, "free         %d blocks, %s\n", d.FreeBlocks, bytesText(int64(d.FreeBlocks)*bundle.BlockSize))
	if len(d.WriteSpeeds) > 0 {
		fmt.Fprintf(w, "speeds       %s kB/s\n", strings.Trim(fmt.Sprint(d.WriteSpeeds), "[]"))
	}
}

func (c *driveInfoCmd) run(e *env) (result, error) {
	if dir, ok := strings.CutPrefix(c.Drive, "sim:"); ok && !isSimulated(dir) {
		return nil, usagef("%q holds no simulated drive: sallyport burn --drive sim:DIR makes one", dir)
	}
	drive, err := openDrive(c.Drive)
	if err != nil {
		return nil, err
	}
	r, err := askDrive(e.ctx, drive)
	if err != nil {
		return nil, about(c.Drive, errors.Join(err, drive.Close()))
	}
	return r, drive.Close()
}

// askDrive asks a drive about itself and the disc in it. Only that it doesn't answer at all is an error.
func askDrive(ctx context.Context, drive recorder) (*driveInfoResult, error) {
	notReady := waitReady(ctx, drive)
	if lost(notReady) {
		return nil, notReady
	}
	inq, err := mmc.Inquiry{}.Send(ctx, drive)
	if err != nil {
		return nil, err
	}
	config, err := mmc.GetConfiguration{}.Send(ctx, drive)
	if err != nil {
		return nil, err
	}
	r := &driveInfoResult{Vendor: inq.Vendor, Product: inq.Product, Revision: inq.Revision, Serial: config.SerialNumber(), Writes: writes(config)}
	switch {
	case errors.Is(notReady, scsi.Code(0x2_3A_02)):
		r.NoDisc = "the tray is open"
	case errors.Is(notReady, scsi.NoMedium):
		r.NoDisc = "the tray is empty"
	case notReady != nil:
		r.NoDisc = oneLine(notReady)
	default:
		r.Disc, err = askDisc(ctx, drive, config.Profile)
	}
	return r, err
}

// lost tells an error that isn't a drive's answer.
func lost(err error) bool {
	_, answered := errors.AsType[*scsi.SenseError](err)
	_, status := errors.AsType[scsi.Status](err)
	return err != nil && !answered && !status
}

// waitReady waits for a disc that is being loaded, and returns the drive's last answer.
func waitReady(ctx context.Context, drive recorder) error {
	const limit = 60 * time.Second
	attentions := 0
	for begun := drive.Now(); ; {
		err := mmc.TestUnitReady{}.Send(ctx, drive)
		switch {
		case errors.Is(err, scsi.AnyRecoveredError):
			return nil
		case errors.Is(err, scsi.AnyUnitAttention) && attentions < 16:
			attentions++
			continue
		case errors.Is(err, scsi.BecomingReady) && drive.Now().Sub(begun) < limit:
		default:
			return err
		}
		if err := drive.Wait(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// writes names the discs that a drive says it can write, of those that sallyport burns.
func writes(config *mmc.Configuration) []string {
	list := []string{}
	f := config.Feature(mmc.FeatureProfileList)
	if f == nil {
		return list
	}
	for b := f.Data; len(b) >= 4; b = b[4:] {
		switch p := mmc.Profile(binary.BigEndian.Uint16(b)); p {
		case mmc.CDR, mmc.DVDR, mmc.DVDPlusR, mmc.BDR:
			list = append(list, p.String())
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// askDisc asks what is known of the disc. What a drive doesn't answer is left out.
func askDisc(ctx context.Context, drive recorder, profile mmc.Profile) (*discInfo, error) {
	d := &discInfo{Type: profile.String()}
	for _, ask := range []func(context.Context, scsi.Transport, mmc.Profile) error{d.askStatus, d.askFree, d.askCapacity, d.askID, d.askSpeeds} {
		if err := ask(ctx, drive, profile); lost(err) && !malformed(err) {
			return nil, err
		}
	}
	return d, nil
}

// malformed tells a reply that isn't one.
func malformed(err error) bool {
	_, short := errors.AsType[*mmc.ShortReplyError](err)
	_, format := errors.AsType[*mmc.FormatError](err)
	return short || format
}

func (d *discInfo) askStatus(ctx context.Context, t scsi.Transport, _ mmc.Profile) error {
	disc, err := mmc.ReadDiscInformation{}.Send(ctx, t)
	if err != nil {
		return err
	}
	d.Status = [4]string{mmc.DiscEmpty: "blank", mmc.DiscIncomplete: "appendable", mmc.DiscComplete: "closed", mmc.DiscOther: "other"}[disc.Status&3]
	d.Sessions = int(disc.Sessions)
	if disc.LastSession == mmc.SessionEmpty && d.Sessions > 0 {
		d.Sessions-- // the one that would be next
	}
	if disc.Status&3 == mmc.DiscComplete || disc.Status&3 == mmc.DiscOther {
		return nil
	}
	track, err := mmc.ReadTrackInformation{AddressType: 1, Address: uint32(disc.LastLast)}.Send(ctx, t)
	if err == nil {
		d.FreeBlocks = track.Free
	}
	return err
}

// askFree asks what a blank disc holds, where its track doesn't tell.
func (d *discInfo) askFree(ctx context.Context, t scsi.Transport, _ mmc.Profile) error {
	if d.Status != "blank" || d.FreeBlocks > 0 {
		return nil
	}
	c, err := mmc.ReadFormatCapacities{}.Send(ctx, t)
	if err == nil && c.Type == 1 {
		d.FreeBlocks = c.Blocks
	}
	return err
}

func (d *discInfo) askCapacity(ctx context.Context, t scsi.Transport, _ mmc.Profile) error {
	if d.Status == "blank" {
		return nil
	}
	c, err := mmc.ReadCapacity{}.Send(ctx, t)
	if err == nil && c.LastLBA < 1<<32-1 {
		d.CapacityBlocks = c.LastLBA + 1
	}
	return err
}

func (d *discInfo) askID(ctx context.Context, t scsi.Transport, profile mmc.Profile) error {
	structure, parse := mmc.ReadDiscStructure{}, mmc.Manufacturer
	switch profile {
	case mmc.CDR:
		b, err := mmc.ReadATIP(ctx, t)
		d.ID = mmc.CDManufacturer(b)
		return err
	case mmc.DVDR:
		structure.Format = mmc.StructurePreRecorded
	case mmc.DVDPlusR:
		structure.Format, parse = mmc.StructureADIP, mmc.PlusManufacturer
	case mmc.BDR:
		structure.MediaType, parse = mmc.MediaBD, mmc.BDManufacturer
	default:
		return nil
	}
	b, err := structure.Send(ctx, t)
	d.ID = parse(b)
	return err
}

// askSpeeds reads the writing speeds of mode page 2Ah (MMC-3 5.5.10): their number at byte 30, then 4 bytes each.
func (d *discInfo) askSpeeds(ctx context.Context, t scsi.Transport, _ mmc.Profile) error {
	page, err := mmc.ModeSense{Page: mmc.PageCapabilities}.Send(ctx, t)
	if err != nil || len(page) < 32 || d.Status == "closed" {
		return err
	}
	n := min(int(binary.BigEndian.Uint16(page[30:])), (len(page)-32)/4)
	for i := range n {
		if speed := int(binary.BigEndian.Uint16(page[32+4*i+2:])); speed > 0 && !slices.Contains(d.WriteSpeeds, speed) {
			d.WriteSpeeds = append(d.WriteSpeeds, speed)
		}
	}
	slices.SortFunc(d.WriteSpeeds, func(a, b int) int { return b - a })
	return nil
}
