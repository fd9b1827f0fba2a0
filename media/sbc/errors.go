package sbc

import (
	"errors"
	"fmt"

	"sallyport/media/scsi"
)

// What errors of a Disk are, for errors.Is. A disk that left the bus is
// scsi.ErrGone, one that doesn't answer scsi.ErrTimeout.
var (
	// ErrWriteProtected: nothing can be written to the medium.
	ErrWriteProtected = errors.New("the medium is write-protected")
	// ErrNoMedium: the device has no medium in it, or none any more.
	ErrNoMedium = errors.New("there is no medium in the device")
)

// Gone reports whether err says that the disk or its medium was taken away:
// no other block of it can be had, either.
func Gone(err error) bool {
	return errors.Is(err, scsi.ErrGone) || errors.Is(err, ErrNoMedium) || errors.Is(err, scsi.NoUnit)
}

// RefusedError says that a device is not one plain disk. Nothing was read from
// it or written to it.
type RefusedError struct {
	Code   string // "not-a-disk", "several-units", "no-capacity", "block-size"
	Detail string
}

func (e *RefusedError) Error() string { return "refused: " + e.Detail }

// RefusalCode returns e.Code.
func (e *RefusedError) RefusalCode() string { return e.Code }

// ChangedError says that a disk is not any more what it was when it was
// opened. From then on all its methods fail with it.
type ChangedError struct {
	What     string // "number of blocks", "block size", "product", ...
	Was, Now string
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("the disk has changed: its %s was %s and is %s now", e.What, e.Was, e.Now)
}

// RefusalCode says that such a disk is refused.
func (e *ChangedError) RefusalCode() string { return "disk-changed" }

// MediumError says that a block of the medium can't be read or written, as the
// device itself tells (sense key 3h).
type MediumError struct {
	LBA uint64 // the block that the device named, else the first of the transfer
	Err error
}

func (e *MediumError) Error() string { return fmt.Sprintf("block %d: %v", e.LBA, e.Err) }

func (e *MediumError) Unwrap() error { return e.Err }

// LateError says that an earlier write, which the disk had acknowledged,
// failed (a deferred error, SPC-4 4.5.7). Which one can't be told.
type LateError struct {
	Err error
}

func (e *LateError) Error() string {
	return fmt.Sprintf("an earlier write failed after the disk had acknowledged it: %v", e.Err)
}

func (e *LateError) Unwrap() error { return e.Err }
