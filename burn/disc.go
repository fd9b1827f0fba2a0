// Package burn puts one image on one blank disc and reads it back: medium
// check, calibration, writing, closing, reloading the tray, comparison of the
// whole disc, and a record of it all. It also reads finished discs.
//
// Nothing here trusts a drive: every loop has a deadline by the drive's clock,
// every reply is bounded, a disc counts as good only when every block of it
// was read back equal after the tray was open, and as spoiled from the first
// write on until then.
package burn

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// burner is one burn.
type burner struct {
	*unit
	image Image
	opts  Options
	rec   *Record

	medium medium // the disc
	total  uint32 // blocks that are written: the image, up to a whole ECC block
	lba    uint32 // next block
	dao    bool   // disc at once; else incremental
	begun  bool   // a write was sent: from here on a failure spoils the disc
	free   int64  // bytes that the drive's buffer takes
	untold bool   // the drive doesn't tell what its buffer takes

	phase      Phase
	phaseBegun time.Time
}

// Disc burns image to the blank disc in drive, closes it, reloads the tray and
// compares the whole disc with what was burnt. It returns the record of the
// burn; with an error too, once a disc was found that could be burnt.
//
// With Options.Second the disc is then compared in a second drive, too: when it
// fails there, it is spoiled; when that drive fails, the disc stays verified,
// and the error is returned.
//
// Errors: a *RefusedError when the medium isn't acceptable, which is found out
// before the first write; a *SpoiledError for every failure from the first
// write on (cancelling ctx included), when the disc is neither blank nor good;
// any other error leaves the disc blank.
//
// Cancelling ctx ends the burn between two commands: what the drive holds is
// flushed and its tray unlocked.
func Disc(ctx context.Context, drive Drive, image Image, opts Options) (*Record, error) {
	return burnDisc(ctx, drive, image, opts, 0)
}

// burnDisc is Disc; grace is how long a disc may be missing that was just put
// in.
func burnDisc(ctx context.Context, drive Drive, image Image, opts Options, grace time.Duration) (*Record, error) {
	if err := image.check(); err != nil {
		return nil, err
	}
	b := &burner{unit: &unit{Drive: drive}, image: image, opts: opts}
	b.rec = &Record{DiscNumber: opts.Number, ImageBlocks: image.Blocks, Start: b.Now().Unix(), Warnings: []string{}}

	b.phaseBegins(PhaseCheck)
	config, err := b.checkMedium(ctx, grace)
	if err != nil {
		return nil, err
	}
	if !config.CanLoad() && opts.Load == nil {
		b.unlock(ctx)
		return nil, &RefusedError{CodeTrayByHand, "the drive can't close its tray by itself to read the disc back, and nobody can be asked to", nil}
	}
	if opts.Begin != nil {
		if b.rec.DiscNumber, err = opts.Begin(); err != nil {
			b.unlock(ctx)
			return nil, err
		}
	}
	if err := b.burn(ctx, config); err != nil {
		err = b.abandon(ctx, err)
		b.finish(err)
		return b.rec, err
	}
	err = b.verify(ctx, config)
	if err != nil {
		err = b.spoiled(err)
	}
	b.unlock(ctx)
	b.rec.Verified = err == nil
	if err == nil && opts.Second != nil {
		err = b.verifyElsewhere(ctx)
	}
	b.finish(err)
	return b.rec, err
}

// burn does everything up to the closed disc.
func (b *burner) burn(ctx context.Context, config *mmc.Configuration) error {
	if err := b.do(ctx, mmc.PreventAllow{Prevent: true}.Send); err != nil && !illegal(err) {
		return fmt.Errorf("locking the tray: %w", err)
	}
	src := newStream(b.image.Source, b.image.Blocks, sha256.New())
	defer src.close()
	// An image that can't be read costs no disc.
	first, err := src.next(ctx)
	if err != nil {
		return imageError(ctx, err)
	}
	b.phaseBegins(PhasePrepare)
	if err := b.prepare(ctx, config); err != nil {
		return err
	}
	if err := b.writeAll(ctx, src, first); err != nil {
		return err
	}
	return b.closeDisc(ctx)
}

// verify reloads the tray, so that neither the drive's cache nor the kernel's
// answers for the disc (O12), and reads back.
func (b *burner) verify(ctx context.Context, config *mmc.Configuration) error {
	b.phaseBegins(PhaseReload)
	if err := b.reload(ctx, config.CanLoad()); err != nil {
		return fmt.Errorf("the disc is written, and was not read back: %w", err)
	}
	sum, err := hex.DecodeString(b.rec.ImageSHA256)
	if err != nil {
		return err
	}
	image := b.image
	image.SHA256 = sum
	c, err := readBack(ctx, b.unit, image, b.opts, b.phaseBegins, b.progress)
	if c != nil && c.SHA256 != nil {
		b.rec.ReadBackSHA256 = hex.EncodeToString(c.SHA256)
	}
	return err
}

// reload opens the tray and closes it.
func (b *burner) reload(ctx context.Context, canLoad bool) error {
	b.unlock(ctx)
	if err := b.do(ctx, mmc.StartStopUnit{LoadEject: true}.Send); err != nil {
		return fmt.Errorf("opening the tray: %w", err)
	}
	if canLoad {
		err := b.do(ctx, mmc.StartStopUnit{LoadEject: true, Start: true}.Send)
		if err == nil || inProgress(err) || errors.Is(err, scsi.AnyUnitAttention) {
			return b.ready(ctx, 30*time.Second, "the disc that was just written")
		}
		if !illegal(err) && !errors.Is(err, scsi.NoMedium) {
			return fmt.Errorf("closing the tray: %w", err)
		}
	}
	if b.opts.Load == nil {
		return errors.New("the drive can't close its tray by itself")
	}
	if err := b.opts.Load("put the same disc back and close the tray: it is read back now"); err != nil {
		return err
	}
	return b.ready(ctx, 30*time.Second, "the disc that was just written")
}

// abandon ends a burn that failed: the drive is left idle and unlocked, and
// the error says what has become of the disc.
func (b *burner) abandon(ctx context.Context, err error) error {
	begun := b.begun
	if !errors.Is(err, scsi.ErrGone) {
		ctx := context.WithoutCancel(ctx)
		if begun {
			// Best effort, bounded: the buffer goes to a disc that nobody
			// will use, and the drive is idle afterwards.
			for range 4 { // past unit attentions
				if !errors.Is(b.do(ctx, mmc.SynchronizeCache{Immediate: true}.Send), scsi.AnyUnitAttention) {
					break
				}
			}
			b.settle(ctx, stallLimit)
		}
		b.unlock(ctx)
	}
	if begun {
		return b.spoiled(err)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("cancelled before the first write; the disc is still blank: %w", err)
	}
	return err
}

// spoiled says that the disc is lost, and where.
func (b *burner) spoiled(err error) error {
	lba := b.lba
	var m *MismatchError
	var r *ReadError
	switch {
	case errors.As(err, &m) && m.Known:
		lba = m.LBA
	case errors.As(err, &r):
		lba = r.LBA
	}
	b.rec.Spoiled, b.rec.Verified = true, false
	return &SpoiledError{Phase: b.phase, LBA: lba, Err: err}
}

// finish completes the record; err is what the burn came to.
func (b *burner) finish(err error) {
	b.phaseEnds()
	b.rec.End = b.Now().Unix()
	b.rec.Retries = b.retries
	b.rec.Warnings = append(b.rec.Warnings, b.warnings...)
	if err == nil {
		return
	}
	failure := Failure{Phase: b.phase, Error: strings.ToValidUTF8(err.Error(), "?")}
	var s *SpoiledError
	if errors.As(err, &s) {
		failure.Phase, failure.LBA = s.Phase, s.LBA
	}
	b.rec.Failure = &failure
}

func (b *burner) phaseBegins(p Phase) {
	b.phaseEnds()
	b.phase, b.phaseBegun = p, b.Now()
	b.progress(0)
}

// phaseEnds notes in the record how long a phase took, and how fast it was.
func (b *burner) phaseEnds() {
	took := b.Now().Sub(b.phaseBegun)
	seconds := int64(took.Round(time.Second) / time.Second)
	switch s := &b.rec.Seconds; b.phase {
	case PhasePrepare:
		s.Calibrating = seconds
	case PhaseWrite:
		s.Writing = seconds
		if b.lba == b.total {
			b.rec.WriteKBs = kbs(b.lba, took)
		}
	case PhaseClose:
		s.Closing = seconds
	case PhaseReload:
		s.Reloading = seconds
	case PhaseReadBack:
		s.ReadingBack = seconds
		if b.rec.Verified {
			b.rec.ReadBackKBs = kbs(b.image.Blocks, took)
		}
	}
}

// kbs is the speed of so many blocks in some time in kB/s.
func kbs(blocks uint32, took time.Duration) int {
	return int(int64(blocks) * BlockSize / max(took.Milliseconds(), 1))
}

func (b *burner) progress(done uint32) {
	report(b.opts, b.phase, done, b.image.Blocks, b.Now().Sub(b.phaseBegun))
}

// report calls the progress function. done counts padding, total doesn't.
func report(o Options, phase Phase, done, total uint32, took time.Duration) {
	if o.Progress == nil {
		return
	}
	p := Progress{Phase: phase, Done: min(done, total), Total: total}
	if ms := took.Milliseconds(); ms > 0 {
		p.Speed = int64(p.Done) * BlockSize * 1000 / ms
	}
	o.Progress(p)
}

var _ io.ReaderAt = (*DiscReader)(nil)
