// Package iscsi serves one SCSI device to iSCSI initiators, on a network that
// is trusted: a simulated recorder to QEMU and to libiscsi's tools, over
// loopback.
//
// It is a target of the subset of RFC 7143 that they need: sessions of one
// connection, no authentication, no digests, error recovery level 0; commands
// with immediate data, unsolicited data and R2T, residuals, autosense, task
// management, NOP, text with SendTargets, logout. Several sessions may be open
// at a time; the device gets one command after the other. Everything that comes
// from the network is bounded before room is made for it, and what breaks the
// protocol ends the connection.
//
// The device is LUN 1. LUN 0 says that no device is there, REPORT LUNS is
// answered by the target. All other commands, with all their bytes, are the
// device's.
package iscsi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"sallyport/media/scsi"
)

const (
	// deviceLUN is where the device is. LUN 0 is none: an initiator that
	// probes there finds a target without a medium changer, disk or recorder.
	deviceLUN = 1

	maxConns = 16
)

// Target is one device to be served.
type Target struct {
	Name string         // iSCSI name, as in iqn.2026-11.org.sallyport:drive
	LUN  scsi.Transport // the device

	// Once ends Serve when there was a session on the device and none is left.
	Once bool

	// Failed, if set, is told why a connection ended that wasn't logged out. It
	// is called from several goroutines.
	Failed func(peer net.Addr, err error)
}

// Serve accepts connections of l and serves them until ctx is done, or until
// the last session has ended with Once: then it returns nil. It closes l and
// all connections, and returns when the device's last command has returned.
// Other errors are Accept's.
func (t *Target) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	s := &server{Target: t, ctx: ctx, cancel: cancel, conns: map[*conn]bool{}}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		<-ctx.Done()
		l.Close()
		s.closeAll()
	})
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("iscsi target %s: accept: %w", t.Name, err)
		}
		c := newConn(s, nc)
		if !s.add(c) {
			nc.Close()
			continue
		}
		wg.Go(func() {
			err := c.serve()
			s.remove(c)
			if err != nil && ctx.Err() == nil && t.Failed != nil {
				t.Failed(nc.RemoteAddr(), err)
			}
		})
	}
}

// server is what the connections of one Serve share.
type server struct {
	*Target
	ctx    context.Context
	cancel context.CancelFunc

	mu    sync.Mutex
	conns map[*conn]bool // with or without a session
	tsih  uint16         // last one given

	lun  sync.Mutex  // one command at a time
	gone atomic.Bool // the device has left, for good
}

// add takes a connection up, unless there are too many or it is too late.
func (s *server) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= maxConns || s.ctx.Err() != nil {
		return false
	}
	s.conns[c] = true
	return true
}

func (s *server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if !s.Once || !c.inSession() || c.discovery {
		return
	}
	for other := range s.conns {
		if other.inSession() && !other.discovery {
			return
		}
	}
	s.cancel()
}

// begin gives a connection's session its handle. A session of the same
// initiator port ends, as it is the new one's predecessor (RFC 7143 6.3.5).
func (s *server) begin(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other := range s.conns {
		if other != c && other.inSession() && !other.discovery && !c.discovery && other.isid == c.isid && other.initiator == c.initiator {
			other.net.Close()
		}
	}
	s.tsih++
	if s.tsih == 0 {
		s.tsih = 1
	}
	c.tsih = s.tsih
}

// sessions returns the connections that have a session.
func (s *server) sessions() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*conn
	for c := range s.conns {
		if c.inSession() {
			all = append(all, c)
		}
	}
	return all
}

func (s *server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.net.Close()
	}
}

// do sends a command to the device.
func (s *server) do(cdb []byte, d scsi.Data) (n int, err error) {
	s.lun.Lock()
	defer s.lun.Unlock()
	if s.gone.Load() {
		return 0, errAbsent
	}
	n, err = s.LUN.Do(s.ctx, cdb, d)
	if errors.Is(err, scsi.ErrGone) {
		s.gone.Store(true)
	}
	return max(0, min(n, d.Len())), err
}

var (
	errAbsent = errors.New("no such logical unit")
	errLogout = errors.New("logged out")
)
