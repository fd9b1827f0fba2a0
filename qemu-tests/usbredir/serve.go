package usbredir

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// Server plays one device to one QEMU. Device is set before Serve.
type Server struct {
	Device Device

	// Held keeps the device out until Plug is called. Without it the device is there as soon as QEMU is, and firmware
	// reads it before any kernel does.
	Held bool

	// Failed, if set, is told why a connection ended in an error, and that QEMU refused the device.
	Failed func(error)

	mu       sync.Mutex
	begun    bool
	plugged  bool
	conn     *conn // the one that has said hello
	acked    chan struct{}
	attached int // how many times QEMU was told of the device
}

// Serve accepts connections of l, one at a time, and plays the device until ctx is done; then it returns nil. It
// closes l. QEMU may come again after a connection has ended (reconnect=1), and finds the device as it is then. Other
// errors are Accept's.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	s.mu.Lock()
	if !s.begun && !s.Held {
		s.plug()
	}
	s.begun = true
	s.mu.Unlock()
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("usbredir: accept: %w", err)
		}
		if err := newConn(ctx, s, nc).serve(); err != nil && ctx.Err() == nil {
			s.failed(err)
		}
	}
}

// Serve plays a device to the QEMU that connects to l, from the beginning on, until ctx is done.
func Serve(ctx context.Context, l net.Listener, d Device) error {
	return (&Server{Device: d}).Serve(ctx, l)
}

func (s *Server) failed(err error) {
	if s.Failed != nil {
		s.Failed(fmt.Errorf("usbredir: %w", err))
	}
}

// Plug plugs the device in, for QEMU when it connects if it hasn't yet. One that is plugged in stays as it is.
func (s *Server) Plug() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = true
	if !s.plugged {
		s.plug()
	}
}

// plug: mu is held.
func (s *Server) plug() {
	s.Device.Plugged()
	s.plugged = true
	if s.conn != nil {
		s.attached++
		s.conn.attach()
	}
}

// Unplug pulls the device out, in the midst of whatever goes on, and waits until QEMU has seen it. It returns ctx's
// error when that takes longer.
func (s *Server) Unplug(ctx context.Context) error {
	s.mu.Lock()
	s.begun = true
	acked := s.unplug()
	s.mu.Unlock()
	if acked == nil {
		return nil
	}
	select {
	case <-acked:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("usbredir: waiting until QEMU has seen that the device is gone: %w", ctx.Err())
	}
}

// unplug returns what is closed when QEMU has seen it, nil where no QEMU has the device. mu is held.
func (s *Server) unplug() chan struct{} {
	if !s.plugged {
		return nil
	}
	s.plugged = false
	if s.conn == nil || !s.conn.detach() {
		return nil
	}
	s.acked = make(chan struct{})
	return s.acked
}

// Replug unplugs the device and plugs it in again.
func (s *Server) Replug(ctx context.Context) error {
	err := s.Unplug(ctx)
	s.Plug()
	return err
}

// Attached is how many times QEMU was told that the device is there.
func (s *Server) Attached() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attached
}

// ready gives QEMU the device, if it is plugged in.
func (s *Server) ready(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = c
	if s.plugged {
		s.attached++
		c.attach()
	}
}

// over forgets a connection. Whoever waits for its acknowledgement waits no more: what QEMU lost is unplugged there.
func (s *Server) over(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == c {
		s.conn = nil
		c.detach()
		s.ack()
	}
}

// ack: mu is held.
func (s *Server) ack() {
	if s.acked != nil {
		close(s.acked)
		s.acked = nil
	}
}

// acknowledged is QEMU's word that it has seen the device go.
func (s *Server) acknowledged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ack()
}

// gone unplugs a device that says it is gone.
func (s *Server) gone(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == c {
		s.unplug()
	}
}

var errRefused = errors.New("QEMU refused the device")
