package burn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// Clock is the time that a drive lives in: SystemClock for a real one, its own
// virtual clock for a simulated one.
type Clock interface {
	Now() time.Time
	// Wait returns after d, or with ctx's error when ctx is done before.
	Wait(ctx context.Context, d time.Duration) error
}

// Drive is an optical drive: a transport that carries commands to it, and its
// clock. *drivesim.Drive is one; for a real one put a transport and a
// SystemClock into a struct.
type Drive interface {
	scsi.Transport
	Clock
}

// SystemClock is the Clock of real drives.
type SystemClock struct{}

// Now returns the time.
func (SystemClock) Now() time.Time { return time.Now() }

// Wait waits.
func (SystemClock) Wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// How long conditions may last, by the drive's clock.
const (
	loadLimit   = 300 * time.Second
	settleLimit = time.Hour // what a close without IMMED may take
	stallLimit  = 200 * time.Second
	pollEvery   = 500 * time.Millisecond
	pollSeldom  = 4 * time.Second // while a disc is being closed
)

// unit is a drive in use, and what is worth telling about its behaviour.
type unit struct {
	Drive
	info     DriveInfo   // once the drive was asked
	profile  mmc.Profile // of the disc, once the drive was asked
	warnings []string
	retries  int
}

const maxWarnings = 20

func (u *unit) warn(format string, args ...any) {
	if len(u.warnings) < maxWarnings {
		u.warnings = append(u.warnings, fmt.Sprintf(format, args...))
	}
}

// do sends one command. ctx is looked at before, never during it: a command
// once sent gets its own time limit and is waited for. Recovered errors become
// warnings. Busy, and a deferred recovered error, mean that the drive didn't
// carry the command out, and that sending it again is right.
func (u *unit) do(ctx context.Context, send func(context.Context, scsi.Transport) error) (err error) {
	for range 5 {
		if err := ctx.Err(); err != nil {
			return err
		}
		err = send(context.WithoutCancel(ctx), u.Drive)
		var s *scsi.SenseError
		switch {
		case errors.Is(err, scsi.StatusBusy), errors.Is(err, scsi.StatusTaskSetFull):
			if err := u.Wait(ctx, time.Second); err != nil {
				return err
			}
		case !errors.As(err, &s):
			return err
		case s.Recovered():
			u.warn("%v", err)
			return nil
		case s.Deferred && s.Key <= scsi.RecoveredError:
			u.warn("%v", err)
		default:
			return err
		}
		u.retries++
	}
	return err
}

// ask sends a command that has a reply.
func ask[T any](ctx context.Context, u *unit, send func(context.Context, scsi.Transport) (T, error)) (reply T, err error) {
	err = u.do(ctx, func(ctx context.Context, t scsi.Transport) error {
		var err error
		reply, err = send(ctx, t)
		return err
	})
	return reply, err
}

// deferred reports whether err answers for an earlier command, so that nothing
// can be said about the one it was returned for.
func deferred(err error) bool {
	var s *scsi.SenseError
	return errors.As(err, &s) && s.Deferred
}

// illegal reports whether the drive refused the command itself, carrying
// nothing out.
func illegal(err error) bool { return errors.Is(err, scsi.AnyIllegalRequest) && !deferred(err) }

// unsupported reports whether the drive doesn't know the command or an option
// of it.
func unsupported(err error) bool {
	return illegal(err) && (errors.Is(err, scsi.InvalidOpcode) || errors.Is(err, scsi.InvalidField))
}

// inProgress reports whether the drive works on something that ends by itself
// (O1, O2, O3): 2/04/xx but "initializing command" and "manual intervention
// required".
func inProgress(err error) bool {
	var s *scsi.SenseError
	return errors.As(err, &s) && !s.Deferred && s.Key == scsi.NotReady && s.ASC == 0x04 && s.ASCQ != 0x02 && s.ASCQ != 0x03
}

// settle waits until an operation has ended that the drive works on by itself.
// Any other answer than "in progress" is an error.
func (u *unit) settle(ctx context.Context, limit time.Duration) error {
	deadline := u.Now().Add(limit)
	for pause := pollEvery; ; pause = min(2*pause, pollSeldom) {
		err := u.do(ctx, mmc.TestUnitReady{}.Send)
		if err == nil || !inProgress(err) {
			return err
		}
		if u.Now().After(deadline) {
			return fmt.Errorf("still not done after %v: %w", limit, err)
		}
		if err := u.Wait(ctx, pause); err != nil {
			return err
		}
	}
}

// ready waits for a disc that was just loaded, or is loaded already: it takes
// the unit attentions that this brings, spins the disc up when asked to, and
// waits for it (O1). grace is how long "no medium" is not believed; needed says
// which disc is asked for.
func (u *unit) ready(ctx context.Context, grace time.Duration, needed string) error {
	const maxAttentions = 16
	begun, attentions, started := u.Now(), 0, false
	for {
		err := u.do(ctx, mmc.TestUnitReady{}.Send)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, scsi.AnyUnitAttention) && attentions < maxAttentions:
			attentions++
			continue
		case errors.Is(err, scsi.Code(0x2_04_02)) && !started:
			started = true
			if err := u.do(ctx, mmc.StartStopUnit{Start: true}.Send); err != nil {
				return err
			}
		case inProgress(err):
		case errors.Is(err, scsi.NoMedium) && u.Now().Sub(begun) < grace:
		default:
			return refusal(err, needed)
		}
		if u.Now().Sub(begun) > loadLimit {
			return fmt.Errorf("the disc is not ready after %v: %w", loadLimit, err)
		}
		if err := u.Wait(ctx, pollEvery); err != nil {
			return err
		}
	}
}

const trayOpen = scsi.Code(0x2_3A_02)

// refusal turns an answer that says that the wrong disc, or none, is in the
// drive (O9) into a refusal; needed is what is needed. Other errors come back
// as they are.
func refusal(err error, needed string) error {
	switch {
	case deferred(err):
	case errors.Is(err, trayOpen):
		return &RefusedError{CodeNoMedium, "the tray is open; " + needed + " is needed", err}
	case errors.Is(err, scsi.NoMedium):
		return &RefusedError{CodeNoMedium, "no disc is in the drive; " + needed + " is needed", err}
	case errors.Is(err, scsi.IncompatibleMedium), errors.Is(err, scsi.IllegalMode):
		return &RefusedError{CodeWrongMedium, "the drive can't use this disc; " + needed + " is needed", err}
	}
	return err
}

// identify asks the drive who it is.
func (u *unit) identify(ctx context.Context) (DriveInfo, *mmc.Configuration, error) {
	inq, err := ask(ctx, u, mmc.Inquiry{}.Send)
	if err != nil {
		return DriveInfo{}, nil, err
	}
	info := DriveInfo{Vendor: inq.Vendor, Product: inq.Product, Revision: inq.Revision}
	if inq.DeviceType != mmc.TypeMMC {
		return info, nil, fmt.Errorf("%s %s is no optical drive (device type %02xh)", inq.Vendor, inq.Product, inq.DeviceType)
	}
	config, err := ask(ctx, u, mmc.GetConfiguration{}.Send)
	if err != nil {
		return info, nil, err
	}
	info.Serial = config.SerialNumber()
	u.info, u.profile = info, config.Profile
	return info, config, nil
}

// unlock allows the disc to be taken out again, whatever went before.
func (u *unit) unlock(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	for range 4 { // past unit attentions
		err := u.do(ctx, mmc.PreventAllow{}.Send)
		if !errors.Is(err, scsi.AnyUnitAttention) {
			return
		}
	}
}

// pace gives up on a drive that answers, but too slowly: every block read or
// written earns time, what passes is taken from it, and a shortfall of
// patience is the end (T11).
type pace struct {
	clock    Clock
	patience time.Duration
	left     time.Duration
	last     time.Time
}

const (
	defaultPatience = 5 * time.Minute
	perBlock        = 20 * time.Millisecond // 0.1 MB/s, a fourteenth of 1×
	perSeek         = time.Second
)

func newPace(clock Clock, patience time.Duration) *pace {
	if patience <= 0 {
		patience = defaultPatience
	}
	return &pace{clock: clock, patience: patience, left: patience, last: clock.Now()}
}

// earn adds what some progress is worth.
func (p *pace) earn(t time.Duration) { p.left = min(p.left+t, p.patience) }

// check takes the time since the last check.
func (p *pace) check() error {
	now := p.clock.Now()
	p.left -= now.Sub(p.last)
	p.last = now
	if p.left < 0 {
		return fmt.Errorf("%w: %v behind 0.1 MB/s", ErrTooSlow, p.patience)
	}
	return nil
}

// rest starts the clock anew after a time that was not the drive's.
func (p *pace) rest() { p.last = p.clock.Now() }
