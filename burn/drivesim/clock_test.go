package drivesim

import (
	"context"
	"errors"
	"testing"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// A drive that follows the wall clock becomes ready by itself, and takes the
// time that a command takes.
func TestFollow(t *testing.T) {
	d, _ := newDrive(t, Config{Capacity: 256, SpinUp: 10 * time.Second})
	d.Follow(100)
	begun := time.Now()
	for do(t, d, tur, scsi.Data{}) != "" {
		if time.Since(begun) > 10*time.Second {
			t.Fatal("a spin-up of 10 s takes longer at 100 times the speed")
		}
	}
	if took := time.Since(begun); took < 100*time.Millisecond {
		t.Errorf("10 s at 100 times the speed took %v", took)
	}
	begun = time.Now()
	if got := do(t, d, "54 01 00 00 00 00 00 00 00 00", scsi.Data{}); got != "" { // 5 s
		t.Error(got)
	}
	if took := time.Since(begun); took < 45*time.Millisecond || took > 5*time.Second {
		t.Errorf("5 s of calibration took %v", took)
	}
	// The limit is the wall clock's: 50 ms are 5 s of the drive's.
	d.Inject(Fault{Command: "seek", Action: Slow, Delay: 0}, Fault{Command: "test-unit-ready", Action: Slow, Delay: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	before := d.Now()
	_, err := d.Do(ctx, make([]byte, 6), scsi.Data{})
	if took := d.Now().Sub(before); !errors.Is(err, scsi.ErrTimeout) || took > 50*time.Second {
		t.Errorf("a minute in 5 s: %v after %v", err, took)
	}
	if err := d.Wait(ctx, time.Hour); err == nil {
		t.Error("Wait goes on behind its context's end")
	}
}

// Closing a drive ends the command that takes its time.
func TestCloseWhileWaiting(t *testing.T) {
	d, _ := newDrive(t, Config{Profile: mmc.DVDPlusR, Capacity: 256, SpinUp: time.Millisecond})
	settle(t, d)
	d.Follow(1)
	d.Inject(Fault{Command: "test-unit-ready", Action: Slow, Delay: time.Hour})
	done := make(chan error, 1)
	go func() {
		_, err := d.Do(context.Background(), make([]byte, 6), scsi.Data{})
		done <- err
	}()
	for d.Commands() == 0 || d.Now().Before(time.Now().Add(time.Minute)) { // until the command is under way
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the command goes on")
	}
}
