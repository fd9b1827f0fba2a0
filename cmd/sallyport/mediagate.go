package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"sallyport/media"
	"sallyport/media/usb"
)

type mediaGateCmd struct {
	Policy string `required:"" type:"existingfile" help:"What may come in (docs/usb-policy.md)." placeholder:"FILE"`
	Force  bool   `help:"Also when a USB disk is in use: it is put out."`
}

func (c *mediaGateCmd) Help() string {
	return `Closes the USB ports and lets in, until it is interrupted, what the policy allows and what is what it claims to be: a line
for each device. Sticks and recorders are reached by their /dev/sg nodes; the kernel's drivers for disks see nothing of
them. A keyboard may have to prove that a person is at it: what its line says is typed on it, and nobody else hears it
until then. The ports stay closed when it ends. It takes root.

Example: sallyport media gate --policy usb.policy`
}

// gateEvent is one line of gate.
type gateEvent struct {
	Event   string `json:"event"` // "in", "out", "gone", "code", "fault"
	Name    string `json:"name"`  // the kernel's, as in 1-1.4
	Class   string `json:"class,omitempty"`
	Generic string `json:"generic,omitempty"`
	Early   bool   `json:"early,omitempty"` // it was in use before the gate was there
	Code    string `json:"code,omitempty"`
	Type    string `json:"type,omitempty"` // what has to be typed on a keyboard
	Tries   int    `json:"tries,omitempty"`
	Detail  string `json:"detail,omitempty"`
}

func (v *gateEvent) line() string {
	switch v.Event {
	case "in":
		return fmt.Sprintf("in   %s: %s", v.Name, printable(v.Detail))
	case "gone":
		return fmt.Sprintf("gone %s", v.Name)
	case "code":
		return fmt.Sprintf("code %s: type %s and Enter on it: %s (%d tries)", v.Name, v.Type, printable(v.Detail), v.Tries)
	case "fault":
		return fmt.Sprintf("out  %s: %s", v.Name, printable(v.Detail))
	}
	return fmt.Sprintf("out  %s: %s: %s", v.Name, v.Code, printable(v.Detail))
}

type mediaGateResult struct{}

func (*mediaGateResult) text(io.Writer) {}

func (c *mediaGateCmd) run(e *env) (_ result, err error) {
	text, err := os.ReadFile(c.Policy)
	if err != nil {
		return nil, pathError(err)
	}
	policy, err := usb.ParsePolicy(c.Policy, text)
	if err != nil {
		return nil, usagef("%v", err)
	}
	if os.Geteuid() != 0 {
		return nil, usagef("only root may close the USB ports: run it with sudo")
	}
	if !c.Force {
		if err := nothingInUse(); err != nil {
			return nil, err
		}
	}
	sys, err := os.OpenRoot("/sys")
	if err != nil {
		return nil, err
	}
	defer sys.Close()
	events, err := media.ListenUevents() // before the gate is closed, so that nothing comes unheard
	if err != nil {
		return nil, err
	}
	defer events.Close()
	gate, err := usb.Open(sys, policy)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(e.ctx)
	defer cancel(nil)
	wake := make(chan struct{}, 1)
	go func() {
		cancel(events.Wake(ctx, wake, func(u media.Uevent) bool { return u.Subsystem == "usb" || u.Subsystem == "scsi_generic" }))
	}()
	var typing sync.WaitGroup
	said := &gateLines{e: e}
	err = gate.Watch(ctx, wake, func(v usb.Event) {
		if v.Session == nil || v.Err != nil || v.Gone || v.Session.Challenge == nil {
			if err := said.line(gateEventOf(v)); err != nil {
				cancel(err)
			}
			return
		}
		typing.Go(func() {
			if err := said.typed(ctx, v); err != nil {
				cancel(err)
			}
		})
	})
	cancel(nil)
	typing.Wait()
	if e.ctx.Err() != nil { // the way to end it
		return &mediaGateResult{}, nil
	}
	return nil, err
}

// nothingInUse refuses to close the ports of a machine that somebody works at by them.
func nothingInUse() error {
	disks, err := media.Disks()
	if err != nil {
		return err
	}
	for _, d := range disks {
		if d.USB != nil && len(d.Uses) > 0 {
			return usagef("%s is on USB and %s: unmount it first, or say --force", d.Device, printable(d.Uses[0].String()))
		}
	}
	return nil
}

// gateEventOf is what is said of what became of a device at the gate.
func gateEventOf(v usb.Event) gateEvent {
	line := gateEvent{Event: "gone", Name: v.Name}
	var refused *usb.RefusedError
	switch {
	case v.Gone:
	case errors.As(v.Err, &refused):
		line.Event, line.Code, line.Detail = "out", refused.Code, fmt.Sprintf("%s: %s", refused.Device, refused.Detail)
		if refused.Err != nil {
			line.Detail += ": " + refused.Err.Error()
		}
	case v.Err != nil:
		line.Event, line.Detail = "fault", v.Err.Error()
	default:
		line.Event, line.Class, line.Generic = "in", string(v.Session.Class), v.Session.Unit.Generic
		line.Early, line.Detail = v.Session.Early, v.Session.String()
	}
	return line
}

// gateLines prints what is said by several at once.
type gateLines struct {
	mu sync.Mutex
	e  *env
}

func (l *gateLines) line(line gateEvent) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.e.json {
		return json.NewEncoder(l.e.stdout).Encode(line)
	}
	_, err := fmt.Fprintln(l.e.stdout, line.line())
	return err
}

// typed shows the code that is to be typed on a keyboard, and what came of it. The error is one of printing.
func (l *gateLines) typed(ctx context.Context, v usb.Event) error {
	ask := gateEvent{Event: "code", Name: v.Name, Class: string(v.Session.Class), Type: v.Session.Challenge.Code, Tries: usb.ChallengeTries, Detail: v.Session.Attached.String()}
	if err := l.line(ask); err != nil {
		return err
	}
	var printErr error
	err := v.Session.Typed(ctx, func(left int) {
		ask.Tries = left
		printErr = errors.Join(printErr, l.line(ask))
	})
	switch {
	case errors.Is(err, usb.ErrGone), errors.Is(err, usb.ErrEnded), err != nil && ctx.Err() != nil:
		return printErr // Watch tells of it, or it is over
	case err != nil:
		v = usb.Event{Name: v.Name, Err: err}
	}
	return errors.Join(printErr, l.line(gateEventOf(v)))
}
