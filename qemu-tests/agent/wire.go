// Package agent runs commands inside a guest for the tests outside of it: the frames that go over a virtio serial port,
// and the side that answers them.
package agent

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// Port is the name of the virtio serial port.
const Port = "sallyport.agent"

// Kind is what a frame is.
type Kind byte

const (
	Run    Kind = iota + 1 // to the guest: a Command in JSON, and its id from then on
	Stdin                  // to the guest: bytes; none for the end
	Kill                   // to the guest: end the command
	Off                    // to the guest: power off
	Hello                  // to the host: a Greeting in JSON
	Stdout                 // to the host: bytes
	Stderr                 // to the host: bytes
	Exit                   // to the host: an Ended in JSON
)

// MaxPayload is the most bytes that a frame carries.
const MaxPayload = 1 << 18

// Frame is a message of either side. Its header is the kind, the id and the length of the payload, the latter two as
// little-endian 32-bit numbers.
type Frame struct {
	Kind    Kind
	ID      uint32
	Payload []byte
}

// Command is a program to run in the guest.
type Command struct {
	Argv      []string
	Env       []string
	Dir       string
	Initramfs bool          // in the guest's own root and not in the host's
	Limit     time.Duration // after which it is killed, with all it started
}

// Greeting is what the guest says when it is ready.
type Greeting struct {
	Uptime   float64 // of the kernel, in seconds
	Problems []string
}

// Ended is how a command ended.
type Ended struct {
	Code     int    // -1 when it was killed or didn't start
	Signal   string // how it was killed
	TimedOut bool
	Error    string // why it didn't start
}

const header = 9

// Append encodes a frame behind b.
func (f Frame) Append(b []byte) []byte {
	b = append(b, byte(f.Kind))
	b = binary.LittleEndian.AppendUint32(b, f.ID)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.Payload)))
	return append(b, f.Payload...)
}

// Read reads the next frame. The payload is fresh.
func Read(r io.Reader) (Frame, error) {
	var h [header]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return Frame{}, err
	}
	n := binary.LittleEndian.Uint32(h[5:])
	if n > MaxPayload || h[0] < byte(Run) || h[0] > byte(Exit) {
		return Frame{}, fmt.Errorf("a frame of kind %d with %d bytes", h[0], n)
	}
	f := Frame{Kind(h[0]), binary.LittleEndian.Uint32(h[1:]), make([]byte, n)}
	if _, err := io.ReadFull(r, f.Payload); err != nil {
		return Frame{}, fmt.Errorf("reading a frame: %w", err)
	}
	return f, nil
}
