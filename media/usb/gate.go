package usb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Gate lets devices in, one at a time or many at once. From when it was opened on, no device that comes gets a driver
// but through it.
type Gate struct {
	sys    tree
	policy *Policy

	patience time.Duration // with one device
	grace    time.Duration // with a call into the kernel after that
	typing   time.Duration // for a code

	grab func(nodes []string) (keys, error)
	hush func() (restore func() error, err error)

	mu   sync.Mutex
	last map[string]*Attached // that was let in, by name of the port
}

// The gate's times. A set-configuration request has 5 s in the kernel (USB_CTRL_SET_TIMEOUT), a stick is asked for its
// units after one second (usb-storage's delay_use), and an optical drive may take long to answer then.
const (
	patience = 30 * time.Second
	grace    = 2 * time.Second
	hubTime  = 500 * time.Millisecond // until a root hub has its attributes
	pollTime = 20 * time.Millisecond  // between two looks at what the kernel is about to do
)

// Attributes of the kernel that the gate closes.
const (
	scsiAutoprobe    = "bus/scsi/drivers_autoprobe"
	usbDefault       = "module/usbcore/parameters/authorized_default"
	deviceDefault    = "authorized_default"
	interfaceDefault = "interface_authorized_default"
)

// Open closes the gate behind it: no driver is bound to a disk or optical drive by itself any more, of whatever bus, and
// no device of USB, nor any interface of one, is authorised when it comes. Devices that are there already go on as they
// are until they are admitted, which puts them out first: whoever opens the gate on a machine that is in use makes sure
// before that nothing on USB is.
//
// sys is /sys, and stays the caller's, who closes it when the gate isn't used any more. Nothing is undone then: who
// wants the kernel to bind drivers again says so to the kernel. It takes root.
func Open(sys *os.Root, policy *Policy) (*Gate, error) {
	t, err := newRootTree(sys)
	if err != nil {
		return nil, fmt.Errorf("open the usb gate: %w", err)
	}
	return open(t, policy)
}

func open(sys tree, policy *Policy) (*Gate, error) {
	if policy == nil {
		policy = new(Policy)
	}
	g := &Gate{sys: sys, policy: policy, patience: patience, grace: grace, typing: typeTime, grab: grabKeys, hush: hushConsole, last: make(map[string]*Attached)}
	for _, name := range []string{scsiAutoprobe, usbDefault} {
		if err := off(sys, name); err != nil {
			return nil, fmt.Errorf("open the usb gate: %w", err)
		}
	}
	if err := g.closeHubs(); err != nil {
		return nil, fmt.Errorf("open the usb gate: %w", err)
	}
	return g, nil
}

// closeHubs sees to the root hubs of all controllers. One that comes later begins with the module's default.
func (g *Gate) closeHubs() error {
	entries, err := fs.ReadDir(g.sys, devicesFolder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !rootHubName.MatchString(e.Name()) {
			continue
		}
		if err := g.closeHub(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// closeHub closes what is behind a root hub, if it is still there. The kernel shows one that comes a moment before it has
// its attributes.
func (g *Gate) closeHub(hub string) error {
	for until := time.Now().Add(hubTime); ; time.Sleep(pollTime) {
		err := g.closePorts(hub)
		if _, gone := fs.Stat(g.sys, path.Join(devicesFolder, hub)); err == nil || errors.Is(gone, fs.ErrNotExist) {
			return nil
		}
		if passing := errors.Is(err, fs.ErrNotExist) || isNoDevice(err); !passing || time.Now().After(until) {
			return fmt.Errorf("root hub %s: %w", hub, err)
		}
	}
}

// closePorts has no device and no interface behind a root hub authorised by itself. The hub's own interface comes after
// the attribute that would keep it without a driver, and its ports with it: until then that one stays open.
func (g *Gate) closePorts(hub string) error {
	dir, err := g.sys.sub(path.Join(devicesFolder, hub))
	if err != nil {
		return err
	}
	err = off(dir, deviceDefault)
	if err == nil {
		if _, err = fs.Stat(dir, strings.TrimPrefix(hub, "usb")+"-0:1.0"); err == nil {
			err = off(dir, interfaceDefault)
		} else if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return errors.Join(err, dir.close())
}

// off sets an attribute to 0 and makes sure that it is.
func off(dir tree, name string) error {
	if err := dir.write(name, "0"); err != nil {
		return err
	}
	switch text, err := attribute(dir, name); {
	case err != nil:
		return err
	case text != "0":
		return fmt.Errorf("set %s to 0: it stays %q", name, text)
	}
	return nil
}

// Admit judges the device with this name and lets it in, or not. It authorises the device, makes sure that it is still
// what was judged, gives the one interface that it is let in for to its driver, and looks at what comes of that: a stick
// has exactly one logical unit, which is a disk. A device that was authorised before is put out first.
//
// An error of the type [RefusedError] says that the device stays out and why; one that wraps [ErrGone], that it was
// pulled out; any other is a fault of the machine. After each of them no driver has the device. Admit can be called for
// several devices at the same time, but not twice for one. It ends soon after ctx is cancelled, though perhaps before
// the kernel has done with the device: it is put out then as soon as the kernel lets it go.
func (g *Gate) Admit(ctx context.Context, name string) (*Session, error) {
	type result struct {
		session *Session
		err     error
	}
	ctx, cancel := context.WithTimeoutCause(ctx, g.patience, errNoAnswer)
	defer cancel()
	a := &arrival{gate: g, name: name}
	var known atomic.Pointer[Attached]
	known.Store(&Attached{Name: name})
	done := make(chan result, 1)
	go func() {
		s, err := a.admit(ctx, &known)
		done <- result{s, err}
	}()
	select {
	case r := <-done:
		return r.session, r.err
	case <-ctx.Done():
	}
	// What waits for the kernel ends now. What is in it can take minutes.
	select {
	case r := <-done:
		return r.session, r.err
	case <-time.After(g.grace):
	}
	go func() {
		if r := <-done; r.session != nil {
			r.session.End()
		}
	}()
	if cause := context.Cause(ctx); cause != errNoAnswer {
		return nil, fmt.Errorf("let usb device %s in: the kernel still waits for it: %w", name, cause)
	}
	return nil, known.Load().refuse(CodeNoAnswer, "the kernel still waits for it", errNoAnswer)
}

// errNoAnswer is why an arrival is given up.
var errNoAnswer = errors.New("it didn't answer in time")

// arrival is a device on its way through the gate.
type arrival struct {
	gate *Gate
	name string
	dir  tree // of the device
	seen *Attached
	face string // the interface that is let in, as in 1-1:1.0
}

func (a *arrival) admit(ctx context.Context, known *atomic.Pointer[Attached]) (s *Session, err error) {
	if a.dir, a.seen, err = a.gate.hold(a.name); err != nil {
		return nil, err
	}
	known.Store(a.seen)
	made := &Session{gate: a.gate, dir: a.dir, Attached: a.seen}
	defer func() {
		if s != nil {
			return
		}
		err = errors.Join(a.explain(ctx, err), a.putOut(), made.closeKeys(), a.dir.close())
	}()
	if err := a.gate.closeHub("usb" + strings.SplitN(a.name, "-", 2)[0]); err != nil {
		return nil, fmt.Errorf("let usb device %s in: %w", a.name, err)
	}
	early := a.seen.Authorized
	if err := a.putOut(); err != nil {
		return nil, err
	}
	grants, err := a.gate.policy.Judge(a.seen)
	if err != nil {
		return nil, err
	}
	if err := a.gate.compareLast(a.seen); err != nil {
		return nil, err
	}
	if err := a.authorize(grants[0].Class); err != nil {
		return nil, err
	}
	// The kernel may have waited for the device longer than anybody did for this.
	if ctx.Err() != nil {
		return nil, fmt.Errorf("let usb device %s in: %w", a.name, context.Cause(ctx))
	}
	made.Early, made.face = early, a.face
	if err := a.bind(ctx, made, grants); err != nil {
		return nil, err
	}
	// Whatever happened meanwhile, it is still the device that was judged.
	if err := a.same(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("let usb device %s in: %w", a.name, context.Cause(ctx))
	}
	a.gate.remember(a.seen)
	return made, nil
}

// compareLast refuses what was let in at this port, left the bus, and came back as something else: a device with the
// same serial number that has other descriptors at the same speed.
func (g *Gate) compareLast(now *Attached) error {
	g.mu.Lock()
	before := g.last[now.Name]
	g.mu.Unlock()
	if before == nil || now.Serial == "" || now.Serial != before.Serial || now.Speed != before.Speed || now.Descriptors.Hash() == before.Descriptors.Hash() {
		return nil
	}
	return now.refuse(CodeChanged, "when it was let in before, it had other descriptors, and claimed to be "+before.Descriptors.Claims(), nil)
}

// remember keeps the last device of each port that was let in.
func (g *Gate) remember(a *Attached) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last[a.Name] = a
}

// hold opens a device's directory and reads what it is.
func (g *Gate) hold(name string) (tree, *Attached, error) {
	if !deviceName.MatchString(name) {
		return nil, nil, fmt.Errorf("let usb device %q in: that is no device's name", name)
	}
	port, err := portOf(g.sys, name)
	if err != nil {
		return nil, nil, lookFault(name, err)
	}
	dir, err := g.sys.sub(path.Join(devicesFolder, name))
	if err != nil {
		return nil, nil, lookFault(name, err)
	}
	seen, err := look(dir, name, port)
	if err != nil {
		return nil, nil, errors.Join(err, dir.close())
	}
	return dir, seen, nil
}

// explain turns what went wrong while a device was pulled out, or was silent for too long, into that.
func (a *arrival) explain(ctx context.Context, err error) error {
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		return err
	case errors.Is(err, ErrGone):
		return err
	case isGone(a.dir):
		return fmt.Errorf("let usb device %s in: %w: %w", a.name, ErrGone, err)
	case errors.Is(context.Cause(ctx), errNoAnswer):
		return a.seen.refuse(CodeNoAnswer, "it is silent", err)
	}
	return err
}

func isGone(dir tree) bool {
	_, err := attribute(dir, "authorized")
	return err != nil
}

// putOut takes a device's drivers and interfaces away. It is no error if it isn't there any more.
func (a *arrival) putOut() error { return putOut(a.dir, a.name) }

func putOut(dir tree, name string) error {
	err := dir.write("authorized", "0")
	text, readErr := attribute(dir, "authorized")
	switch {
	case readErr != nil:
		return nil // gone, and its drivers with it
	case err != nil:
		return fmt.Errorf("put usb device %s out: %w", name, err)
	case text != "0":
		return fmt.Errorf("put usb device %s out: it stays authorised", name)
	}
	return nil
}

// authorize authorises the device, but none of its interfaces, and makes sure that the kernel made of it what was judged.
func (a *arrival) authorize(class Class) error {
	switch err := a.dir.write("authorized", "1"); {
	case errors.Is(err, fs.ErrPermission), err != nil && isGone(a.dir):
		return fmt.Errorf("let usb device %s in: %w", a.name, err)
	case err != nil:
		// It is asked to take its configuration. One that doesn't want to says so here.
		return a.seen.refuse(CodeNoAnswer, "it can't be configured", err)
	}
	if err := a.same(); err != nil {
		return err
	}
	text, err := attribute(a.dir, "bConfigurationValue")
	if err != nil {
		return fmt.Errorf("let usb device %s in: %w", a.name, err)
	}
	configurations := a.seen.Descriptors.Configurations
	chosen := slices.IndexFunc(configurations, func(c Configuration) bool { return fmt.Sprint(c.Value) == text })
	switch {
	case text == "":
		return a.seen.refuse(CodeDisagrees, "the kernel chose none of its configurations; perhaps they want more power than its port has", nil)
	case chosen < 0:
		return a.seen.refuse(CodeDisagrees, fmt.Sprintf("it took the configuration %q, which it hasn't", text), nil)
	}
	c := &configurations[chosen]
	number, ok := c.interfaceFor(class)
	if !ok {
		return a.seen.refuse(CodeDisagrees, fmt.Sprintf("its configuration %d is no %s", c.Value, class), nil)
	}
	if err := a.compareInterfaces(c); err != nil {
		return err
	}
	a.face = fmt.Sprintf("%s:%d.%d", a.name, c.Value, number)
	return nil
}

// compareInterfaces makes sure that the interfaces that the kernel knows are those of the descriptors, and that none is
// authorised or has a driver yet.
func (a *arrival) compareInterfaces(c *Configuration) error {
	entries, err := fs.ReadDir(a.dir, ".")
	if err != nil {
		return fmt.Errorf("let usb device %s in: %w", a.name, err)
	}
	found := 0
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), a.name+":") {
			continue
		}
		found++
		if err := a.compareInterface(e.Name(), c); err != nil {
			return err
		}
	}
	if want := len(c.interfaces()); found != want {
		return a.seen.refuse(CodeDisagrees, fmt.Sprintf("the kernel knows %d interfaces of %d", found, want), nil)
	}
	return nil
}

func (a *arrival) compareInterface(name string, c *Configuration) error {
	values := make(map[string]string)
	for _, file := range []string{"bInterfaceNumber", "bAlternateSetting", "bInterfaceClass", "bInterfaceSubClass", "bInterfaceProtocol", "authorized"} {
		text, err := attribute(a.dir, path.Join(name, file))
		if err != nil {
			return fmt.Errorf("let usb device %s in: %w", a.name, err)
		}
		values[file] = strings.TrimLeft(text, " ") // bAlternateSetting is padded with a blank
	}
	if values["authorized"] != "0" || driverOf(a.dir, name) != "" {
		return a.seen.refuse(CodeDisagrees, fmt.Sprintf("its interface %s was authorised by itself", name), nil)
	}
	for _, s := range c.AltSettings {
		if name == fmt.Sprintf("%s:%d.%d", a.name, c.Value, s.Interface) &&
			values["bInterfaceNumber"] == fmt.Sprintf("%02x", s.Interface) && values["bAlternateSetting"] == fmt.Sprint(s.Alternate) &&
			values["bInterfaceClass"] == fmt.Sprintf("%02x", s.Function.Class) &&
			values["bInterfaceSubClass"] == fmt.Sprintf("%02x", s.Function.SubClass) &&
			values["bInterfaceProtocol"] == fmt.Sprintf("%02x", s.Function.Protocol) {
			return nil
		}
	}
	return a.seen.refuse(CodeDisagrees, fmt.Sprintf("the kernel's interface %s is none of its descriptors", name), nil)
}

// driverOf gives the name of the driver that an interface or a logical unit is bound to, "" for none.
func driverOf(dir fs.FS, name string) string {
	to, err := fs.ReadLink(dir, path.Join(name, "driver"))
	if err != nil {
		return ""
	}
	return path.Base(to)
}

// same makes sure that the device is what was judged.
func (a *arrival) same() error { return compare(a.dir, a.seen) }

func compare(dir tree, seen *Attached) error {
	now, err := look(dir, seen.Name, seen.Port)
	if err != nil {
		return err
	}
	switch {
	case now.Descriptors == nil || now.Descriptors.Hash() != seen.Descriptors.Hash():
		return now.refuse(CodeChanged, "it shows other descriptors than those that were judged, of which it had "+seen.Descriptors.Claims(), nil)
	case now.Serial != seen.Serial || now.Number != seen.Number || now.Bus != seen.Bus:
		return now.refuse(CodeChanged, "it was enumerated again", nil)
	case !now.Authorized:
		return now.refuse(CodeChanged, "somebody else put it out", nil)
	}
	return nil
}
