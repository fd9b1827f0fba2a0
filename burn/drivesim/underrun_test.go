package drivesim

import (
	"testing"
	"time"

	"sallyport/burn/mmc"
)

// An underrun is a buffer that was filled and ran dry before the next write came.
func TestUnderruns(t *testing.T) {
	d, _ := newDrive(t, Config{Profile: mmc.DVDPlusR, Capacity: 8192, Buffer: 256 << 10, SpinUp: time.Millisecond})
	settle(t, d)
	lba := uint32(0)
	write := func() {
		t.Helper()
		if err := (mmc.Write{LBA: lba}).Send(t.Context(), d, make([]byte, 32*blockSize)); err != nil {
			t.Fatal(err)
		}
		lba += 32
	}
	for _, tt := range []struct {
		writes int
		wait   time.Duration
		want   int
	}{{1, time.Second, 0}, {1, time.Second, 0}, {3, time.Millisecond, 0}, {1, time.Second, 0}, {1, time.Second, 1}, {1, 0, 2}} {
		for range tt.writes {
			write()
		}
		if got := d.Status().Underruns; got != tt.want {
			t.Errorf("%d underruns at LBA %d, want %d", got, lba, tt.want)
		}
		if err := d.Wait(t.Context(), tt.wait); err != nil {
			t.Fatal(err)
		}
	}
}
