package burn

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// verifyElsewhere compares the disc in a second drive: what reads in the drive
// that burnt it may not read in another one.
func (b *burner) verifyElsewhere(ctx context.Context) (err error) {
	b.phaseBegins(PhaseSecond)
	defer func() {
		if err != nil && !b.rec.Spoiled {
			err = fmt.Errorf("the disc is good in the drive that burnt it, and was not checked in the second one: %w", err)
		}
	}()
	b.eject(ctx)
	drive, done, err := b.opts.Second(ctx, b.rec.DiscNumber)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	u := &unit{Drive: drive}
	image := b.image
	if image.SHA256, err = hex.DecodeString(b.rec.ImageSHA256); err != nil {
		return err
	}
	load(ctx, drive)
	var c *Comparison
	if err = u.ready(ctx, putIn, neededToRead); err == nil {
		c, err = readBack(ctx, u, image, b.opts, func(Phase) {}, b.progress)
	}
	b.rec.Second = &SecondRead{Drive: u.info, Medium: u.profile.String(), Verified: err == nil, Retries: u.retries}
	if c != nil && c.SHA256 != nil {
		b.rec.Second.SHA256 = hex.EncodeToString(c.SHA256)
	}
	if err != nil && discFails(err) {
		return b.spoiled(err)
	}
	return err
}

// discFails reports whether an error of the second drive is about the disc.
func discFails(err error) bool {
	var refused *RefusedError
	var mismatch *MismatchError
	var read *ReadError
	if errors.As(err, &refused) {
		return refused.Code != CodeNoMedium && refused.Code != CodeBlank
	}
	return errors.As(err, &mismatch) || errors.As(err, &read) || errors.Is(err, scsi.AnyMediumError)
}

// eject opens the tray, where the drive does that.
func (u *unit) eject(ctx context.Context) {
	for range 4 { // past unit attentions
		if !errors.Is(u.do(ctx, mmc.StartStopUnit{LoadEject: true}.Send), scsi.AnyUnitAttention) {
			return
		}
	}
}
