package usb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Session is a device that was let in. End it when done; it doesn't end by itself when the device is pulled out. Its
// methods can be called at the same time.
type Session struct {
	Attached *Attached
	Class    Class
	As       Use
	Rule     Rule // by which it was let in
	Early    bool // it was authorised before the gate saw it
	Unit     Unit // of a stick or recorder

	// Challenge is set for a keyboard that is let in for no more than to be typed the code on. Until [Session.Typed] has
	// said that it was, nobody else hears it. Inputs are its nodes.
	Challenge *Challenge
	Inputs    []string // "/dev/input/event3"

	gate  *Gate
	dir   tree
	face  string
	keys  keys // of a keyboard with a challenge
	ended atomic.Bool
}

// ErrEnded is wrapped by what a session says that was ended.
var ErrEnded = errors.New("the session is over")

// Unit is a logical unit (SAM-5 section 4.6) that a stick or recorder has behind it. Its texts are the device's own.
type Unit struct {
	Address string // "6:0:0:0"
	Vendor  string
	Model   string
	Rev     string
	Generic string // its node: "/dev/sg1"

	path string // in the session's directory
}

// Peripheral device types (SPC-4 table 142).
var unitClass = map[string]Class{"0": Stick, "5": Recorder}

var unitNames = map[string]string{
	"0": "a disk", "1": "a tape", "3": "a processor", "4": "a write-once device", "5": "an optical drive", "7": "a magneto-optical disk",
	"8": "a changer", "13": "an enclosure", "14": "a simplified disk", "20": "a zoned disk",
}

// drivers that may take an interface.
var drivers = map[Class][]string{
	Stick: {"usb-storage", "uas"}, Recorder: {"usb-storage", "uas"}, Keyboard: {"usbhid"}, Hub: {"hub"},
}

// bind gives the one interface to its driver, and finds what comes of that.
func (a *arrival) bind(ctx context.Context, s *Session, grants []Grant) (err error) {
	if grants[0].Class == Keyboard && grants[0].Rule.Code {
		restore, hushErr := a.gate.hush()
		if hushErr != nil {
			return fmt.Errorf("let usb device %s in: %w", a.name, hushErr)
		}
		defer func() { err = errors.Join(err, restore()) }()
	}
	if err := a.dir.write(path.Join(a.face, "authorized"), "1"); err != nil {
		return fmt.Errorf("let usb device %s in: %w", a.name, err)
	}
	// This goes by name; were it another device by now, its interfaces wouldn't be authorised.
	probeErr := a.gate.sys.write("bus/usb/drivers_probe", a.face)
	driver := driverOf(a.dir, a.face)
	if driver == "" {
		return a.noDriver(grants[0].Class, probeErr)
	}
	if !slices.Contains(drivers[grants[0].Class], driver) {
		return a.seen.refuse(CodeDisagrees, fmt.Sprintf("the driver %s took it", driver), nil)
	}
	granted := grants[0]
	switch granted.Class {
	case Stick, Recorder:
		var err error
		if granted, err = a.findUnit(ctx, s, grants); err != nil {
			return err
		}
	case Keyboard:
		if err := a.findInputs(ctx, s, granted); err != nil {
			return err
		}
	}
	s.Class, s.Rule, s.As = granted.Class, granted.Rule, granted.Rule.As
	return nil
}

// noDriver says why the driver hasn't taken an interface by the time that it was asked to.
func (a *arrival) noDriver(class Class, err error) error {
	for _, driver := range drivers[class] {
		if _, missing := fs.Stat(a.gate.sys, "bus/usb/drivers/"+driver); missing != nil {
			return errors.Join(fmt.Errorf("let usb device %s in: the kernel has no driver %s: load its module", a.name, driver), err)
		}
	}
	if isGone(a.dir) {
		return errors.Join(fmt.Errorf("let usb device %s in: %w", a.name, ErrGone), err)
	}
	return a.seen.refuse(CodeNoAnswer, "its driver gave it up", err)
}

// poll calls done until it says so, or the device is gone whose directory dir is.
func poll(ctx context.Context, dir tree, done func() (bool, error)) error {
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if isGone(dir) {
			return ErrGone
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pollTime):
		}
	}
}

var (
	hostName   = regexp.MustCompile(`^host[0-9]{1,7}$`)
	targetName = regexp.MustCompile(`^target[0-9]{1,7}:[0-9]{1,7}:[0-9]{1,7}$`)
	unitName   = regexp.MustCompile(`^[0-9]{1,7}:[0-9]{1,7}:[0-9]{1,7}:[0-9]{1,20}$`)
	sgName     = regexp.MustCompile(`^sg[0-9]{1,7}$`)
	hidName    = regexp.MustCompile(`^[0-9A-F]{4}:[0-9A-F]{4}:[0-9A-F]{4}\.[0-9A-F]{4,8}$`)
	inputName  = regexp.MustCompile(`^input[0-9]{1,7}$`)
	eventName  = regexp.MustCompile(`^event[0-9]{1,7}$`)
)

// below lists the directories in dir that are called so, as paths.
func below(dir fs.FS, at string, form *regexp.Regexp) ([]string, error) {
	entries, err := fs.ReadDir(dir, at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []string
	for _, e := range entries {
		if form.MatchString(e.Name()) {
			list = append(list, path.Join(at, e.Name()))
		}
	}
	return list, nil
}

// walk goes down from at, by a form of names for each level.
func walk(dir fs.FS, at string, forms ...*regexp.Regexp) ([]string, error) {
	list := []string{at}
	for _, form := range forms {
		var next []string
		for _, p := range list {
			found, err := below(dir, p, form)
			if err != nil {
				return nil, err
			}
			next = append(next, found...)
		}
		list = next
	}
	return list, nil
}

func (a *arrival) units() ([]string, error) {
	return walk(a.dir, a.face, hostName, targetName, unitName)
}

// findUnit finds the one logical unit of a stick or recorder, and which of the grants it is let in by.
func (a *arrival) findUnit(ctx context.Context, s *Session, grants []Grant) (Grant, error) {
	fault := func(err error) (Grant, error) {
		return Grant{}, fmt.Errorf("let usb device %s in: look for its units: %w", a.name, err)
	}
	var found []string
	err := poll(ctx, a.dir, func() (bool, error) {
		var err error
		found, err = a.units()
		return len(found) > 0, err
	})
	switch {
	case err != nil && errors.Is(err, errNoAnswer):
		return Grant{}, a.seen.refuse(CodeNoUnit, "it has no disk that answers", nil)
	case err != nil:
		return fault(err)
	}
	// The first unit shows before the last one is asked. A scan ends when all have been, those of an earlier scan too.
	hosts, err := walk(a.dir, a.face, hostName)
	if err != nil || len(hosts) != 1 {
		return fault(errors.Join(err, fmt.Errorf("it has %d hosts", len(hosts))))
	}
	if err := a.dir.write(path.Join(hosts[0], "scsi_host", path.Base(hosts[0]), "scan"), "- - -"); err != nil {
		return fault(err)
	}
	if found, err = a.units(); err != nil {
		return fault(err)
	}
	switch {
	case len(found) == 0 && isGone(a.dir):
		return fault(ErrGone)
	case len(found) == 0:
		return Grant{}, a.seen.refuse(CodeNoUnit, "its disk doesn't answer any more", nil)
	case len(found) > 1:
		return Grant{}, a.seen.refuse(CodeUnits, a.tellUnits(found), nil)
	case driverOf(a.dir, found[0]) != "":
		return Grant{}, a.seen.refuse(CodeBoundEarly, fmt.Sprintf("the driver %s has its medium already", driverOf(a.dir, found[0])), nil)
	}
	kind, err := attribute(a.dir, path.Join(found[0], "type"))
	if err != nil {
		return fault(err)
	}
	at := slices.IndexFunc(grants, func(g Grant) bool { return g.Class == unitClass[kind] })
	if at < 0 {
		return Grant{}, a.seen.refuse(CodeUnitType, fmt.Sprintf("it was to be a %s, and behind it is %s", grants[0].Class, unitWord(kind)), nil)
	}
	if s.Unit, err = a.readUnit(ctx, found[0]); err != nil {
		return fault(err)
	}
	return grants[at], nil
}

// unitWord says in words what a peripheral device type is.
func unitWord(kind string) string {
	if name := unitNames[kind]; name != "" {
		return name
	}
	return fmt.Sprintf("something of the type %q", kind)
}

// tellUnits says what is behind a device with several units.
func (a *arrival) tellUnits(found []string) string {
	var kinds []string
	for _, unit := range found[:min(len(found), 8)] {
		kind, _ := attribute(a.dir, path.Join(unit, "type")) // it is refused in any case
		kinds = append(kinds, unitWord(kind))
	}
	return fmt.Sprintf("there are %d units behind it where there may be one: %s", len(found), strings.Join(kinds, ", "))
}

func (a *arrival) readUnit(ctx context.Context, at string) (Unit, error) {
	u := Unit{Address: path.Base(at), path: at}
	for _, text := range []struct {
		file string
		to   *string
	}{{"vendor", &u.Vendor}, {"model", &u.Model}, {"rev", &u.Rev}} {
		value, err := attribute(a.dir, path.Join(at, text.file))
		if err != nil {
			return u, err
		}
		*text.to = strings.TrimRight(value, " ")
	}
	err := poll(ctx, a.dir, func() (bool, error) {
		nodes, err := below(a.dir, path.Join(at, "scsi_generic"), sgName)
		if len(nodes) == 1 {
			u.Generic = "/dev/" + path.Base(nodes[0])
		}
		return u.Generic != "", err
	})
	if err != nil {
		return u, fmt.Errorf("wait for its sg node (is sg loaded?): %w", err)
	}
	return u, nil
}

// findInputs finds the nodes of a keyboard, and sets the task for one that has to be typed on.
func (a *arrival) findInputs(ctx context.Context, s *Session, granted Grant) error {
	look := func() (bool, error) {
		hids, err := walk(a.dir, a.face, hidName)
		if err != nil {
			return false, err
		}
		for _, hid := range hids {
			events, err := walk(a.dir, path.Join(hid, "input"), inputName, eventName)
			if err != nil {
				return false, err
			}
			for _, e := range events {
				s.Inputs = append(s.Inputs, "/dev/input/"+path.Base(e))
			}
		}
		return len(s.Inputs) > 0, nil
	}
	if err := poll(ctx, a.dir, look); err != nil {
		return fmt.Errorf("let usb device %s in: wait for its input node (is evdev loaded?): %w", a.name, err)
	}
	if !granted.Rule.Code {
		return nil
	}
	challenge, err := NewChallenge()
	if err != nil {
		return err
	}
	if s.keys, err = a.gate.grab(s.Inputs); err != nil {
		return fmt.Errorf("let usb device %s in: %w", a.name, err)
	}
	s.Challenge = challenge
	return nil
}

// String says for people what was let in, and by what.
func (s *Session) String() string {
	text := fmt.Sprintf("%s is let in as a %s by line %d of the policy", s.Attached, s.Class, s.Rule.Line)
	if s.As != "" {
		text += ", for " + string(s.As)
	}
	if s.Unit.Generic != "" {
		text += ": " + s.Unit.Generic
	}
	if s.Challenge != nil {
		text += ", once the code was typed on it"
	}
	return text
}

// Check makes sure that the session's device is still the one that was let in; it is put out if not. If it shows other
// descriptors, or was enumerated again, the error is of the type [RefusedError]; if it, or its unit, was pulled out, the
// error wraps [ErrGone], and if the session was ended [ErrEnded].
func (s *Session) Check() error {
	err := compare(s.dir, s.Attached)
	if s.ended.Load() {
		return fmt.Errorf("check usb device %s: %w", s.Attached.Name, ErrEnded)
	}
	if err == nil && s.Unit.path != "" {
		err = s.checkUnits()
	}
	if err != nil {
		err = errors.Join(err, s.putOut())
	}
	return err
}

// checkUnits makes sure that no unit came after the one that was counted. A device loses its unit first when it goes.
func (s *Session) checkUnits() error {
	found, err := walk(s.dir, s.face, hostName, targetName, unitName)
	if err != nil {
		return lookFault(s.Attached.Name, err)
	}
	switch {
	case len(found) == 0:
		return fmt.Errorf("check usb device %s: its logical unit is gone: %w", s.Attached.Name, ErrGone)
	case len(found) > 1 || found[0] != s.Unit.path:
		return s.Attached.refuse(CodeUnits, fmt.Sprintf("it had one unit, and now has %d", len(found)), nil)
	}
	return nil
}

// BindDisk binds sd to a stick, or sr to a recorder, and gives the node of the block device. From here on the kernel
// reads the medium, and looks for partitions on it: that is for media whose seal is good, and for those of the station.
func (s *Session) BindDisk(ctx context.Context) (string, error) {
	driver, form := "sd", regexp.MustCompile(`^sd[a-z]{1,7}$`)
	if s.Class == Recorder {
		driver, form = "sr", regexp.MustCompile(`^sr[0-9]{1,7}$`)
	}
	switch {
	case s.ended.Load():
		return "", fmt.Errorf("bind usb device %s: %w", s.Attached.Name, ErrEnded)
	case s.Unit.path == "":
		return "", fmt.Errorf("bind usb device %s: a %s has no medium", s.Attached.Name, s.Class)
	}
	if err := s.gate.sys.write("bus/scsi/drivers/"+driver+"/bind", s.Unit.Address); err != nil {
		return "", fmt.Errorf("bind usb device %s: %w", s.Attached.Name, err)
	}
	node := ""
	err := poll(ctx, s.dir, func() (bool, error) {
		found, err := below(s.dir, path.Join(s.Unit.path, "block"), form)
		if len(found) == 1 {
			node = "/dev/" + path.Base(found[0])
		}
		return node != "", err
	})
	if err != nil {
		return "", fmt.Errorf("bind usb device %s: wait for its block device: %w", s.Attached.Name, err)
	}
	return node, s.Check()
}

func (s *Session) putOut() error { return putOut(s.dir, s.Attached.Name) }

// End puts the device out: its drivers let it go, and its nodes vanish. It can take as long as they wait for the device.
// Ending it once more does nothing.
func (s *Session) End() error {
	if s.ended.Swap(true) {
		return nil
	}
	return errors.Join(s.putOut(), s.closeKeys(), s.dir.close())
}

func (s *Session) closeKeys() error {
	if s.keys == nil {
		return nil
	}
	return s.keys.close()
}
