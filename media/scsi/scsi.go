// Package scsi is the seam between Sallyport and one SCSI device: a transport
// with a single method, and what a device or the way to it can answer as
// errors that errors.Is and errors.As understand. Device is the transport to
// an optical drive or a disk of this machine, through Linux' SG_IO;
// burn/drivesim simulates another drive.
//
// Commands live in burn/mmc and media/sbc: this package knows none but the
// INQUIRY by which Open and OpenDisk tell what they have opened.
package scsi

import (
	"context"
	"errors"
	"fmt"
)

// Data is the data phase of one command. At most one of the two is set: In is
// filled by the device, Out is sent to it. Neither set is a command without a
// data phase.
type Data struct {
	In  []byte
	Out []byte
}

// Len returns the number of bytes that the data phase may move.
func (d Data) Len() int { return max(len(d.In), len(d.Out)) }

// Transport carries commands to one device.
//
// Do sends one command descriptor block (6, 10, 12 or 16 bytes) and moves its
// data. n is the number of bytes moved, never more than d.Len(); it counts
// also when err is not nil, since a command can move data and then fail.
//
// The deadline of ctx is the command's time limit. A ctx that is done already
// sends nothing and returns its error. Cancelling ctx in the middle of a
// command does not abandon it, because that would leave the device busy with a
// command nobody waits for: only the deadline does.
//
// err is nil on status GOOD, a *SenseError on CHECK CONDITION (also for a
// recovered error, after which the command is complete and n valid), a Status
// on any other status, and a *TransportError when the command did not reach
// the device or its answer did not come back.
type Transport interface {
	Do(ctx context.Context, cdb []byte, d Data) (n int, err error)
}

// Status is a SAM-5 (5.3) status code other than GOOD and CHECK CONDITION, as
// an error. The device executed nothing.
type Status byte

// SAM-5 5.3.
const (
	StatusConditionMet        Status = 0x04
	StatusBusy                Status = 0x08
	StatusReservationConflict Status = 0x18
	StatusTaskSetFull         Status = 0x28
	StatusACAActive           Status = 0x30
	StatusTaskAborted         Status = 0x40
)

func (s Status) Error() string {
	switch s {
	case StatusConditionMet:
		return "status 04h (condition met)"
	case StatusBusy:
		return "status 08h (busy)"
	case StatusReservationConflict:
		return "status 18h (reservation conflict)"
	case StatusTaskSetFull:
		return "status 28h (task set full)"
	case StatusACAActive:
		return "status 30h (aca active)"
	case StatusTaskAborted:
		return "status 40h (task aborted)"
	}
	return fmt.Sprintf("status %02xh", byte(s))
}

// What a TransportError wraps when the cause is known.
var (
	// ErrTimeout: no answer within the command's time limit. Whether the
	// device carried the command out is unknown.
	ErrTimeout = errors.New("no answer within the time limit")
	// ErrGone: the device has left the bus.
	ErrGone = errors.New("device is gone from the bus")
)

// TransportError says that a command did not reach the device, or that its
// answer did not come back. Whether the device carried it out is unknown.
type TransportError struct {
	Host   uint16 // host adapter status, Linux DID_* (0 when there is none)
	Driver uint16 // driver status, Linux DRIVER_* (0 when there is none)
	Err    error  // ErrTimeout, ErrGone, or what the operating system said
}

func (e *TransportError) Error() string {
	s := "transport"
	if e.Host != 0 || e.Driver != 0 {
		s = fmt.Sprintf("transport (host status %02xh, driver status %02xh)", e.Host, e.Driver)
	}
	if e.Err == nil {
		return s + ": failed"
	}
	return s + ": " + e.Err.Error()
}

func (e *TransportError) Unwrap() error { return e.Err }
