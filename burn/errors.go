package burn

import (
	"errors"
	"fmt"
)

// Refusal codes. Once released, a code never changes its meaning.
const (
	CodeNoMedium      = "no-medium"        // no disc in the drive
	CodeWrongMedium   = "wrong-medium"     // a disc of another kind than is needed
	CodeNotBlank      = "medium-not-blank" // a disc to be burnt has something on it
	CodeTooSmall      = "medium-too-small" // the image doesn't fit the disc
	CodeReadOnlyDrive = "read-only-drive"  // the drive can't write discs of this kind
	CodeTrayByHand    = "tray-by-hand"     // somebody is needed to close the drive's tray
	CodeBlank         = "blank-disc"       // a disc to be read has nothing on it
	CodeIncomplete    = "incomplete-disc"  // the disc was not closed
	CodeSecondSession = "second-session"   // more than one session
	CodeSecondTrack   = "second-track"     // more than one track
)

// RefusedError says that the medium in the drive is not acceptable. Nothing
// was written to it.
type RefusedError struct {
	Code   string // Code...
	Detail string // which medium is in, which is needed
	Err    error  // what the drive said; nil when the finding is our own
}

func (e *RefusedError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Detail, e.Err)
	}
	return e.Code + ": " + e.Detail
}

// RefusalCode returns the code.
func (e *RefusedError) RefusalCode() string { return e.Code }

func (e *RefusedError) Unwrap() error { return e.Err }

// SpoiledError says that a burn failed after writing had begun: the disc is
// neither blank any more nor good, whatever can be read from it.
type SpoiledError struct {
	Phase Phase
	LBA   uint32 // where it was, or the first block that is wrong
	Err   error  // nil: nothing went wrong, somebody stopped it
}

func (e *SpoiledError) Error() string {
	why := ""
	if e.Err != nil {
		why = ": " + e.Err.Error()
	}
	return fmt.Sprintf("%s, LBA %d%s; the disc is spoiled: mark it, and burn another one", e.Phase, e.LBA, why)
}

func (e *SpoiledError) Unwrap() error { return e.Err }

// MismatchError says that a disc reads differently from what it should hold.
type MismatchError struct {
	LBA    uint32 // the first block that differs, when Known
	Known  bool
	Detail string
}

func (e *MismatchError) Error() string {
	if e.Known {
		return fmt.Sprintf("the disc differs from the image at LBA %d: %s", e.LBA, e.Detail)
	}
	return "the disc differs from the image: " + e.Detail
}

// ReadError says that one block can't be read, after all retries (O8).
type ReadError struct {
	LBA uint32
	Err error
}

func (e *ReadError) Error() string { return fmt.Sprintf("reading LBA %d: %v", e.LBA, e.Err) }
func (e *ReadError) Unwrap() error { return e.Err }

// ErrTooSlow: the drive answers, and so slowly that waiting makes no sense.
var ErrTooSlow = errors.New("the drive makes too little progress")

// ImageError says that the image can't be read, or isn't what was announced:
// another disc won't help.
type ImageError struct{ Err error }

func (e *ImageError) Error() string { return e.Err.Error() }
func (e *ImageError) Unwrap() error { return e.Err }
