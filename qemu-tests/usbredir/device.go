package usbredir

import (
	"context"
	"errors"
)

// What a device answers other than with data.
var (
	// ErrStall ends a transfer with STALL.
	ErrStall = errors.New("the endpoint stalls")
	// ErrGone is a device that was pulled out: the server unplugs it, and it answers nothing more.
	ErrGone = errors.New("the device was pulled out")
)

// Setup is the first stage of a control transfer (USB 2.0, 9.3).
type Setup struct {
	RequestType, Request byte
	Value, Index, Length uint16
}

// Device is what USB sees of a device. Its methods are called from several goroutines; those of one endpoint one after
// the other. A transfer that isn't answered waits until its context is done, which the host's cancelling, a reset and
// unplugging do, and returns the context's error.
type Device interface {
	// Plugged says that the device gets power, and starts again.
	Plugged()
	// Reset is the bus's reset.
	Reset()
	// Face is what it says of itself at the moment.
	Face() Face
	// Active are the interfaces of the configuration at the moment, in the settings that were chosen; those of the
	// first configuration before one is set.
	Active() []Interface
	// Control is a transfer on endpoint 0. in has at most Length bytes.
	Control(ctx context.Context, s Setup, out []byte) (in []byte, err error)
	// Bulk is a transfer on an endpoint, by its address: of out to an output, of at most n bytes from an input. What
	// goes to an interrupt output comes here as well.
	Bulk(ctx context.Context, endpoint byte, out []byte, n int) (in []byte, err error)
	// Interrupt waits for what an interrupt input has to say.
	Interrupt(ctx context.Context, endpoint byte) (in []byte, err error)
}
