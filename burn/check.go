package burn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// checkMedium looks for a blank disc that the image fits on (O9, O10), and
// writes down what it finds. Nothing it does changes the disc.
func (b *burner) checkMedium(ctx context.Context, grace time.Duration) (*mmc.Configuration, error) {
	if err := b.ready(ctx, grace, b.needed()); err != nil {
		return nil, err
	}
	drive, config, err := b.identify(ctx)
	if err != nil {
		return nil, err
	}
	b.rec.Drive = drive
	b.rec.Medium.Type = config.Profile.String()
	var known bool
	if b.medium, known = mediumOf(config.Profile); !known {
		return nil, &RefusedError{CodeWrongMedium, wrongDisc(config.Profile) + "; " + b.needed() + " is needed", nil}
	}
	if !b.medium.writes(config) {
		return nil, &RefusedError{CodeReadOnlyDrive, fmt.Sprintf("%s %s can't write a %v", drive.Vendor, drive.Product, config.Profile), nil}
	}
	if b.total, err = b.medium.total(b.image.Blocks); err != nil {
		return nil, err
	}
	if err := b.checkBlank(ctx); err != nil {
		return nil, err
	}
	capacity, err := b.capacity(ctx)
	if err != nil {
		return nil, err
	}
	b.rec.Medium.CapacityBlocks = capacity
	if uint64(capacity) < uint64(b.total)+uint64(b.medium.runOut) {
		return nil, &RefusedError{CodeTooSmall, fmt.Sprintf("the %v holds %d blocks (%d MB), the image has %d (%d MB)",
			config.Profile, capacity, mb(capacity), b.image.Blocks, mb(b.image.Blocks)), nil}
	}
	b.rec.Medium.ID, err = b.mediumID(ctx)
	return config, err
}

// needed says which disc the image asks for.
func (b *burner) needed() string { return needed(b.image.Blocks) }

func mb(blocks uint32) int64 { return (int64(blocks)*BlockSize + 999_999) / 1_000_000 }

func (b *burner) checkBlank(ctx context.Context) error {
	disc, err := ask(ctx, b.unit, mmc.ReadDiscInformation{}.Send)
	if err != nil {
		return refusal(err, b.needed())
	}
	if disc.Status == mmc.DiscEmpty && !disc.Erasable {
		return nil
	}
	state := "is appendable: somebody has begun to write it"
	switch {
	case disc.Erasable:
		return &RefusedError{CodeWrongMedium, "the disc is rewritable; " + b.needed() + " is needed", nil}
	case disc.Status == mmc.DiscComplete:
		state = "is written and closed"
	case disc.Status == mmc.DiscOther:
		state = "is of a kind that the drive doesn't tell"
	}
	return &RefusedError{CodeNotBlank, fmt.Sprintf("the disc %s; %s is needed", state, b.needed()), nil}
}

// capacity returns how many blocks the blank disc holds. Where the drive gives
// two numbers the smaller counts.
func (b *burner) capacity(ctx context.Context) (uint32, error) {
	track, err := ask(ctx, b.unit, mmc.ReadTrackInformation{AddressType: 1, Address: 1}.Send)
	if err != nil {
		return 0, refusal(err, b.needed())
	}
	if track.Start != 0 || track.NextWritableValid && track.NextWritable != 0 {
		return 0, &RefusedError{CodeNotBlank, fmt.Sprintf("the disc's next writable block is LBA %d; %s is needed",
			max(track.Start, track.NextWritable), b.needed()), nil}
	}
	free := track.Free
	if !b.medium.format {
		return free, nil
	}
	format, err := ask(ctx, b.unit, mmc.ReadFormatCapacities{}.Send)
	switch {
	case err == nil && format.Blocks > 0 && format.BlockSize == BlockSize:
		free = min(free, format.Blocks)
	case err != nil && !illegal(err):
		return 0, refusal(err, b.needed())
	}
	return free, nil
}

// prepare sets the write parameters and the speed, calibrates the laser (O6)
// and announces the length of the track. All of it happens before the first
// write, and leaves the disc blank.
func (b *burner) prepare(ctx context.Context, config *mmc.Configuration) error {
	b.rec.WriteMode = "sequential"
	if err := b.setParameters(ctx, config); err != nil {
		return refusal(fmt.Errorf("setting the write parameters: %w", err), b.needed())
	}
	if err := b.setSpeed(ctx); err != nil {
		return fmt.Errorf("setting the speed: %w", err)
	}
	if err := b.calibrate(ctx); err != nil {
		return err
	}
	if !b.dao {
		return nil
	}
	sent := false
	err := b.do(ctx, func(ctx context.Context, t scsi.Transport) error {
		sent = true
		return mmc.ReserveTrack{Blocks: b.total}.Send(ctx, t)
	})
	if err != nil && sent && !illegal(err) {
		// Whether the drive has carried it out is unknown.
		b.begun = !b.blank(ctx)
	}
	if err != nil {
		return refusal(fmt.Errorf("reserving %d blocks: %w", b.total, err), b.needed())
	}
	return nil
}

// setParameters sets mode page 05h for the media that have it.
func (b *burner) setParameters(ctx context.Context, config *mmc.Configuration) error {
	if !b.medium.page {
		return nil
	}
	dvd := b.medium.profile == mmc.DVDR
	b.dao = dvd && config.Current(mmc.FeatureDVDRWrite) && !b.opts.Incremental
	if dvd && !b.dao && !config.Current(mmc.FeatureIncremental) {
		return errors.New("the drive offers neither disc at once nor incremental writing for this disc")
	}
	var raw []byte
	p, err := ask(ctx, b.unit, func(ctx context.Context, t scsi.Transport) (p *mmc.WriteParameters, err error) {
		p, raw, err = mmc.ReadWriteParameters(ctx, t)
		return p, err
	})
	if err != nil {
		return err
	}
	b.parameters(p)
	store := func(ctx context.Context, t scsi.Transport) error { return p.Store(ctx, t, raw) }
	err = b.do(ctx, store)
	if illegal(err) { // an old drive without underrun protection
		p.BufferUnderrunFree = false
		if again := b.do(ctx, store); again != nil {
			return again
		}
		b.warn("the drive has no protection against buffer underrun: %v", err)
		return nil
	}
	return err
}

// parameters fills in mode page 05h.
func (b *burner) parameters(p *mmc.WriteParameters) {
	p.BufferUnderrunFree, p.LinkSizeValid, p.TestWrite, p.Copy = true, false, false, false
	p.MultiSession = 0 // nothing may follow: closing the session closes the disc
	p.TrackMode, p.DataBlockType, p.SessionFormat = 5, 8, 0
	switch {
	case b.medium.profile == mmc.CDR:
		p.TrackMode = 4 // data, recorded without interruption, in mode 1
		p.WriteType, p.FixedPacket, p.PacketSize = mmc.WriteTAO, false, 0
		b.rec.WriteMode = "track-at-once"
	case b.dao:
		p.WriteType, p.FixedPacket, p.PacketSize = mmc.WriteSAO, false, 0
		b.rec.WriteMode = "disc-at-once"
	default:
		p.WriteType, p.FixedPacket, p.PacketSize = mmc.WriteIncremental, true, b.medium.ecc
		b.rec.WriteMode = "incremental"
	}
}

// setSpeed asks for the speed that is wanted; a drive that can't do it writes
// at its own. Then it asks what the speed and the size of the buffer are.
func (b *burner) setSpeed(ctx context.Context) error {
	speed := b.opts.Speed
	if b.opts.Times > 0 {
		speed = b.opts.Times * b.medium.oneX
	}
	if speed > 0 {
		if err := b.unit.setSpeed(ctx, uint32(speed), b.rec.Medium.CapacityBlocks-1); err != nil {
			if !illegal(err) {
				return err
			}
			b.warn("the drive doesn't set its speed: %v", err)
		}
	}
	c, err := ask(ctx, b.unit, mmc.ReadCapabilities)
	if illegal(err) {
		return nil
	}
	if err != nil {
		return err
	}
	b.rec.SpeedKBs = int(c.WriteSpeed)
	return nil
}

// setSpeed sets the speed of reading and writing in kB/s. SET STREAMING is not
// for CD (MMC-6).
func (u *unit) setSpeed(ctx context.Context, speed, lastLBA uint32) error {
	if oneX(u.profile) != cdOneX {
		err := u.do(ctx, func(ctx context.Context, t scsi.Transport) error {
			return mmc.SetStreaming{}.Send(ctx, t, mmc.Performance{
				EndLBA: lastLBA, ReadSize: speed, ReadTime: 1000, WriteSize: speed, WriteTime: 1000})
		})
		if !illegal(err) {
			return err
		}
	}
	kbs := uint16(min(speed, 0xFFFF))
	return u.do(ctx, mmc.SetCDSpeed{Read: kbs, Write: kbs}.Send)
}

// restoreSpeed lets the drive read as fast as it likes.
func (u *unit) restoreSpeed(ctx context.Context) error {
	if oneX(u.profile) == cdOneX {
		return u.do(ctx, mmc.SetCDSpeed{Read: 0xFFFF, Write: 0xFFFF}.Send)
	}
	return u.do(ctx, func(ctx context.Context, t scsi.Transport) error {
		return mmc.SetStreaming{}.Send(ctx, t, mmc.Performance{RestoreDefaults: true})
	})
}

// calibrate runs the optimum power calibration. Its failure is the drive's
// last word before the disc is touched (O6).
func (b *burner) calibrate(ctx context.Context) error {
	if !b.medium.opc {
		return nil
	}
	err := b.do(ctx, mmc.SendOPC{DoOPC: true}.Send)
	if inProgress(err) {
		err = b.settle(ctx, stallLimit)
	}
	switch {
	case err == nil, unsupported(err):
		return nil
	case errors.Is(err, calibrationFailed):
		return notCalibrated(err)
	}
	return refusal(fmt.Errorf("calibrating the laser's power: %w", err), b.needed())
}

const calibrationFailed = scsi.Code(0x3_73_00) | scsi.AnyASCQ

func notCalibrated(err error) error {
	return fmt.Errorf("calibrating the laser's power (nothing has been written; clean the disc or take another make): %w", err)
}

// blank asks whether the disc is still blank, after an error that leaves it
// open. No answer counts as no.
func (b *burner) blank(ctx context.Context) bool {
	disc, err := ask(context.WithoutCancel(ctx), b.unit, mmc.ReadDiscInformation{}.Send)
	return err == nil && disc.Status == mmc.DiscEmpty
}
