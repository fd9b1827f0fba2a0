package burn

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// Copies is how several equal discs are burnt, one after another.
type Copies struct {
	Options       // for each disc
	Count   int   // good discs that are wanted
	Image   Image // of each of them; its Source is read from the start for each

	// Next has a person take the last disc out and put a blank one in, and
	// returns the drive that it is in. It is called between two discs, and,
	// with Err set, after a disc that was spoiled or is not acceptable: that
	// one is replaced. A nil drive ends it with the error of that disc. nil: nobody can be asked, and the first disc that isn't
	// good ends it.
	Next func(ctx context.Context, change Change) (Drive, error)

	// Done, when set, is called after each disc that was written to, good or
	// spoiled. An error ends it.
	Done func(rec *Record, err error) error
}

// Change says why another disc is needed.
type Change struct {
	Good, Count int   // discs that are good so far, of those wanted
	Number      int   // of the disc that comes out; 0: nothing was written to it
	Err         error // what is wrong with the disc that comes out; nil: it is good
}

// inRow bounds how many discs in a row may be spoiled: then it is the drive, or
// the whole packet of discs.
const inRow = 3

// putIn is how long a disc may be missing that a person was asked to put in.
const putIn = 30 * time.Second

// Burn burns discs until Count of them are good, and returns the records of
// all that were written to. A spoiled disc is replaced, and its number, taken
// by Options.Begin, isn't used again. Errors are those of Disc, and of Next and
// Done; what failed in the drive itself is not tried again.
func (c *Copies) Burn(ctx context.Context, drive Drive) (records []*Record, err error) {
	image, bad := c.Image, 0
	for good, grace := 0, time.Duration(0); ; {
		rec, err := burnDisc(ctx, drive, image, c.Options, grace)
		change := Change{Count: c.Count, Err: err}
		if written := rec != nil && (rec.Verified || rec.Spoiled); written {
			records, change.Number = append(records, rec), rec.DiscNumber
			if c.Done != nil {
				if doneErr := c.Done(rec, err); doneErr != nil {
					return records, errors.Join(err, doneErr)
				}
			}
		}
		if err == nil {
			good, bad = good+1, 0
			// The discs are equal to the first one, whatever their source does.
			if image.SHA256, err = hex.DecodeString(rec.ImageSHA256); err != nil || good >= c.Count {
				return records, err
			}
		}
		if rec != nil && rec.Spoiled {
			bad++
		}
		change.Good = good
		if err = c.another(ctx, change, bad); err != nil {
			return records, err
		}
		eject(ctx, drive)
		next, err := c.Next(ctx, change)
		if err != nil || next == nil {
			return records, errors.Join(change.Err, err)
		}
		drive = next
		load(ctx, drive)
		grace = putIn
	}
}

// another reports, as nil, that another disc may do.
func (c *Copies) another(ctx context.Context, change Change, bad int) error {
	switch {
	case change.Err != nil && (ctx.Err() != nil || c.Next == nil || !replaceable(change.Err)):
		return change.Err
	case c.Next == nil:
		return fmt.Errorf("%d of %d discs are burnt, and nobody can be asked for the next one", change.Good, change.Count)
	case bad >= inRow:
		return fmt.Errorf("%d discs in a row are spoiled: take another drive, or discs of another make: %w", bad, change.Err)
	}
	return nil
}

// replaceable reports whether an error is about the disc, so that another one
// may do.
func replaceable(err error) bool {
	var spoiled *SpoiledError
	var refused *RefusedError
	var transport *scsi.TransportError
	var image *ImageError
	switch {
	case errors.As(err, &transport), errors.As(err, &image), errors.Is(err, scsi.AnyHardwareError), errors.Is(err, scsi.NoUnit):
		return false
	case errors.As(err, &spoiled):
		return true
	case errors.As(err, &refused):
		return refused.Code != CodeReadOnlyDrive
	}
	return errors.Is(err, calibrationFailed)
}

// eject gives the disc out, where the drive does that.
func eject(ctx context.Context, drive Drive) {
	u := &unit{Drive: drive}
	u.unlock(ctx)
	u.eject(ctx)
}

// load pulls the tray in, where the drive does that: else somebody has pushed
// it in, or the disc is missed when it is looked for.
func load(ctx context.Context, drive Drive) {
	u := &unit{Drive: drive}
	for range 4 { // past unit attentions
		if !errors.Is(u.do(ctx, mmc.StartStopUnit{LoadEject: true, Start: true}.Send), scsi.AnyUnitAttention) {
			return
		}
	}
}
