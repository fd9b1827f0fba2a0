package burn

import (
	"errors"
	"testing"

	"sallyport/burn/drivesim"
)

// C6: a disc's number is taken before anything is done to the disc, and only for one that can be burnt.
func TestBegin(t *testing.T) {
	image, data := testImage(64)
	d, dir := newDrive(t, drivesim.Config{})
	errFull := errors.New("the log is full")
	if rec, err := Disc(t.Context(), d, image, Options{Begin: func() (int, error) { return 0, errFull }}); !errors.Is(err, errFull) || rec != nil {
		t.Fatalf("the number can't be had: %v, %v", rec, err)
	}
	if got := recorded(t, dir); len(got) != 0 || !d.Eject() {
		t.Fatalf("the number can't be had: %d bytes were recorded, or the tray is locked", len(got))
	}
	d.Load()
	calls := 0
	begin := func() (int, error) {
		if calls++; len(recorded(t, dir)) > 0 {
			t.Error("blocks were recorded before the number was taken")
		}
		return 41 + calls, nil
	}
	rec, err := Disc(t.Context(), d, image, Options{Number: 7, Begin: begin})
	if err != nil || rec.DiscNumber != 42 || calls != 1 || len(recorded(t, dir)) != len(data) {
		t.Fatalf("good burn: %+v, %v, %d calls", rec, err, calls)
	}
	var refused *RefusedError
	if _, err := Disc(t.Context(), d, image, Options{Begin: begin}); !errors.As(err, &refused) || calls != 1 {
		t.Fatalf("used disc: %v, %d calls", err, calls)
	}
}
