package usb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
)

// Event is what happened to a device at the gate.
type Event struct {
	Name    string   // of the device, as in 1-1.4
	Session *Session // that was made for it, and ended if Err or Gone says so; nil for a device that stayed out
	Err     error    // why it stays out, or was put out, as [Gate.Admit] and [Session.Check] tell
	Gone    bool     // it was pulled out
}

// rescanTime is how long something goes unseen that nothing woke the gate for.
const rescanTime = 2 * time.Second

// Watch admits all devices that are there, and each that comes, until ctx is cancelled, whose cause it returns. It looks
// when wake says so, and every two seconds. What is plugged into a hub waits until the hub was let in. Each time it looks
// it checks the devices that are in: one that isn't what it was any more is put out.
//
// Devices go through the gate side by side, so that none waits for another that is slow or silent. each is called for
// one event after the other, from the goroutine of Watch. Whoever has a session may end it. Those that are not over when
// Watch returns are the caller's.
func (g *Gate) Watch(ctx context.Context, wake <-chan struct{}, each func(Event)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{gate: g, there: make(map[string]*guest), results: make(chan result), each: each}
	defer func() {
		cancel(nil)
		w.drain()
	}()
	ticker := time.NewTicker(rescanTime)
	defer ticker.Stop()
	for {
		if err := w.scan(ctx); err != nil {
			return err
		}
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case r := <-w.results:
				// What was let in may be a hub, behind which others wait.
				waiting = !w.take(r)
			case <-wake:
				waiting = false
			case <-ticker.C:
				waiting = false
			}
		}
	}
}

// guest is a device that Watch knows of.
type guest struct {
	name    string
	arrival string // tells two devices apart that came to the same port
	session *Session
	busy    bool // somebody else is at it, whose result comes
	left    bool // it is not there any more
	told    bool // that it is gone

	lost     *Event    // what is said if it stays, after it was found gone while sysfs still had it
	lostTime time.Time // when that was
}

// result is what came of an admission or a check.
type result struct {
	guest   *guest
	session *Session
	err     error
}

type watch struct {
	gate    *Gate
	there   map[string]*guest // by name
	pending int               // results that will come
	results chan result
	each    func(Event)
}

// scan looks at what is there.
func (w *watch) scan(ctx context.Context) error {
	if err := w.gate.closeHubs(); err != nil {
		return fmt.Errorf("watch usb devices: %w", err)
	}
	names, err := List(w.gate.sys)
	if err != nil {
		return err
	}
	now := make(map[string]string)
	for _, name := range names {
		if id, err := arrivalOf(w.gate.sys, name); err == nil {
			now[name] = id
		}
	}
	for name, guest := range w.there {
		if now[name] != guest.arrival {
			w.leave(guest)
		}
	}
	for _, name := range names {
		id, ok := now[name]
		switch guest := w.there[name]; {
		case !ok, guest != nil && guest.busy:
		case guest != nil && guest.lost != nil:
			if time.Since(guest.lostTime) >= rescanTime/2 {
				event := *guest.lost
				guest.lost = nil
				w.each(event)
			}
		case guest != nil && guest.session != nil:
			w.start(guest, func() (*Session, error) { return guest.session, guest.session.Check() })
		case guest == nil && w.reachable(name):
			guest = w.come(name, id)
			w.start(guest, func() (*Session, error) { return w.gate.Admit(ctx, name) })
		}
	}
	return nil
}

func (w *watch) come(name, id string) *guest {
	g := &guest{name: name, arrival: id}
	w.there[name] = g
	return g
}

// arrivalOf tells a device from any other that has been at the same port.
func arrivalOf(sys fs.FS, name string) (string, error) {
	number, err := attribute(sys, path.Join(devicesFolder, name, "devnum"))
	if err != nil {
		return "", err
	}
	info, err := fs.Stat(sys, path.Join(devicesFolder, name))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %d", number, inode(info)), nil
}

// reachable says whether a device is at a controller, or at a hub that was let in.
func (w *watch) reachable(name string) bool {
	at := strings.LastIndexByte(name, '.')
	if at < 0 {
		return true
	}
	hub := w.there[name[:at]]
	return hub != nil && hub.session != nil && hub.session.Class == Hub
}

// start has something done for a guest, besides everything else.
func (w *watch) start(g *guest, do func() (*Session, error)) {
	g.busy = true
	w.pending++
	go func() {
		s, err := do()
		w.results <- result{g, s, err}
	}()
}

// take hands on what came of something, and says whether that is a reason to look again.
func (w *watch) take(r result) bool {
	w.pending--
	g := r.guest
	g.busy = false
	first := g.session == nil
	var out *Session
	switch {
	case r.err == nil && first:
		g.session = r.session
		if !g.left {
			w.each(Event{Name: g.name, Session: r.session})
		}
	case errors.Is(r.err, ErrEnded): // by whoever had it; the device stays out until it is plugged in again
		g.session = nil
	case errors.Is(r.err, ErrGone) && !w.stays(g):
		w.leave(g)
	case r.err != nil:
		out, g.session = g.session, nil
		w.end(out)
		event := Event{Name: g.name, Session: out, Err: r.err}
		switch {
		case g.left:
		case errors.Is(r.err, ErrGone): // sysfs may just not have finished to take it away
			g.lost, g.lostTime = &event, time.Now()
		default:
			w.each(event)
		}
	}
	if g.left {
		w.leave(g)
	}
	return r.err == nil && first
}

// stays says whether sysfs still has the guest.
func (w *watch) stays(g *guest) bool {
	id, err := arrivalOf(w.gate.sys, g.name)
	return err == nil && id == g.arrival
}

// leave forgets a guest that is not there any more, once nobody is at it.
func (w *watch) leave(g *guest) {
	if w.there[g.name] == g {
		delete(w.there, g.name)
	}
	g.left = true
	if g.busy || g.told {
		return
	}
	g.told = true
	w.end(g.session)
	session := g.session
	if g.lost != nil {
		session = g.lost.Session
	}
	w.each(Event{Name: g.name, Session: session, Gone: true})
}

// end ends a session, without waiting for the kernel.
func (w *watch) end(s *Session) {
	if s != nil {
		go s.End()
	}
}

// drain takes what still comes when Watch is over. What was let in too late for anybody to be told of it is put out.
func (w *watch) drain() {
	pending := w.pending
	go func() {
		for range pending {
			if r := <-w.results; r.session != nil && r.guest.session == nil {
				r.session.End()
			}
		}
	}()
}
