package drivesim

import (
	"context"
	"math"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// Now returns the drive's time.
func (d *Drive) Now() time.Time {
	d.enter()
	defer d.mu.Unlock()
	return d.now
}

// Wait lets t of the drive's time pass, unless ctx is done.
func (d *Drive) Wait(ctx context.Context, t time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.enter()
	d.advance(max(t, 0))
	lag := d.lag()
	d.mu.Unlock()
	return d.sleep(ctx, lag)
}

// Follow makes the drive live in real time: from now on its clock goes scale
// times as fast as the wall clock, and a command that takes time really takes
// it. A scale that is no positive number is 1. Time limits stay those of the
// wall clock.
func (d *Drive) Follow(scale float64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !(scale > 0) || math.IsInf(scale, 0) {
		scale = 1
	}
	d.scale, d.wallStart, d.driveStart = scale, time.Now(), d.now
}

// enter locks the drive, and lets the time pass that has passed.
func (d *Drive) enter() {
	d.mu.Lock()
	if d.scale > 0 {
		if behind := d.driveStart.Add(d.real(time.Since(d.wallStart))).Sub(d.now); behind > 0 {
			d.advance(behind)
		}
	}
}

// real is a span of wall clock time in the drive's.
func (d *Drive) real(t time.Duration) time.Duration {
	return time.Duration(min(float64(t)*d.scale, math.MaxInt64/4))
}

// lag is how long, by the wall clock, the drive is ahead of it.
func (d *Drive) lag() time.Duration {
	if d.scale == 0 {
		return 0
	}
	return time.Duration(float64(d.now.Sub(d.driveStart))/d.scale) - time.Since(d.wallStart)
}

// sleep sleeps for t by the wall clock, unless the drive is closed or ctx is
// done before.
func (d *Drive) sleep(ctx context.Context, t time.Duration) error {
	if t <= 0 {
		return nil
	}
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.off:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// limit is the time limit of a command in the drive's time, negative for none.
func (d *Drive) limit(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return -1
	}
	t := max(0, time.Until(deadline))
	if d.scale > 0 {
		t = d.real(t)
	}
	return t
}

// advance moves the clock: the disc spins up, the buffer drains, a long
// operation ends.
func (d *Drive) advance(t time.Duration) {
	d.now = d.now.Add(t)
	if !d.spun && d.present() && !d.now.Before(d.readyAt) {
		d.spun = true
		d.attention = append(d.attention, 0x62800)
		d.happen(mmc.EventNewMedia)
	}
	d.fail(d.drain(t))
	if d.whenDone != nil && !d.busy() {
		d.finishLongOperation()
	}
}

func (d *Drive) finishLongOperation() {
	if done := d.whenDone; done != nil {
		d.whenDone, d.busyUntil = nil, time.Time{}
		d.fail(done())
	}
}

// long starts an operation of length t that goes on behind the command that
// started it, and makes others end in code. Without immed the command waits
// for its end.
func (d *Drive) long(r *request, t time.Duration, immed bool, code uint32, done func() error) error {
	d.busyFrom, d.busyUntil, d.busyCode, d.whenDone = d.now, d.now.Add(t), code, done
	if immed {
		return nil
	}
	return d.spend(r, t)
}

// spend lets a command take t, at most its time limit.
func (d *Drive) spend(r *request, t time.Duration) error {
	if r.limit >= 0 && t > r.limit {
		d.advance(r.limit)
		r.limit = 0
		d.reset()
		return &scsi.TransportError{Err: scsi.ErrTimeout}
	}
	if r.limit >= 0 {
		r.limit -= t
	}
	d.advance(t)
	return nil
}
