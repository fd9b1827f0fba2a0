package usb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var allowAll = []string{"allow stick", "allow recorder port 1-2", "allow keyboard code", "allow hub port 1-4"}

// TestOpen: what the gate closes, it closes before any device gets in.
func TestOpen(t *testing.T) {
	closed := []string{
		scsiAutoprobe, usbDefault,
		fakeController + "/usb1/authorized_default", fakeController + "/usb1/interface_authorized_default",
		fakeController + "/usb2/authorized_default", fakeController + "/usb2/interface_authorized_default",
	}
	k := newFakeKernel(t)
	k.gate()
	for _, name := range closed {
		if got := k.text(name); got != "0" {
			t.Errorf("%s is %q", name, got)
		}
	}
	for _, name := range closed {
		k := newFakeKernel(t)
		k.remove(name)
		if _, err := open(k.tree(), nil); !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "open the usb gate: ") || !strings.Contains(err.Error(), path.Base(name)+" to 0: ") {
			t.Errorf("without %s: %v", name, err)
		}
	}
	// A root hub that is just coming has its own interface authorised before the default is closed.
	k = newFakeKernel(t)
	k.remove(fakeController + "/usb2/2-0:1.0")
	g := k.gate()
	devices, interfaces := fakeController+"/usb2/authorized_default", fakeController+"/usb2/interface_authorized_default"
	if k.text(devices) != "0" || k.text(interfaces) != "1" {
		t.Errorf("devices %q, interfaces %q", k.text(devices), k.text(interfaces))
	}
	k.file(fakeController+"/usb2/2-0:1.0/authorized", k.text(interfaces))
	if err := g.closeHubs(); err != nil || k.text(interfaces) != "0" {
		t.Errorf("interfaces %q, %v", k.text(interfaces), err)
	}
	// The kernel shows it before it has attributes.
	k = newFakeKernel(t)
	k.remove(devices)
	go func() {
		time.Sleep(3 * pollTime)
		k.file(devices, "1")
	}()
	if g = k.gate(); k.text(devices) != "0" || k.text(interfaces) != "0" {
		t.Errorf("devices %q, interfaces %q", k.text(devices), k.text(interfaces))
	}
	// It is listed and gone.
	k.remove(fakeController + "/usb2")
	if err := g.closeHubs(); err != nil {
		t.Error(err)
	}
	// The real tree is the same one: it is a kernel that takes nothing.
	root, err := os.OpenRoot(k.root)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := Open(root, &Policy{}); err != nil {
		t.Error(err)
	}
	k.file(scsiAutoprobe, "10")
	if _, err := Open(root, &Policy{}); err == nil || err.Error() != `open the usb gate: set bus/scsi/drivers_autoprobe to 0: it stays "00"` {
		t.Errorf("%v", err)
	}
}

func TestAdmit(t *testing.T) {
	for _, test := range []struct {
		name   string
		device fakeDevice
		class  Class
		line   int
		text   string
	}{
		{"1-1", fakeDevice{sample: "stick", serial: "0042", units: []string{"0"}}, Stick, 2,
			`1-1 "Maker" "Thing" 0951:1666 serial "0042" (claims to be storage) is let in as a stick by line 2 of the policy: /dev/sg0`},
		{"1-1", fakeDevice{sample: "uas stick", driver: "uas", units: []string{"0"}}, Stick, 2, "is let in as a stick by line 2 of the policy: /dev/sg0"},
		{"1-2", fakeDevice{sample: "stick", units: []string{"5"}}, Recorder, 3, "is let in as a recorder by line 3 of the policy: /dev/sg0"},
		{"1-2", fakeDevice{sample: "recorder", units: []string{"5"}}, Recorder, 3, "is let in as a recorder"},
		{"1-2", fakeDevice{sample: "stick", units: []string{"0"}}, Stick, 2, "is let in as a stick"},
		{"1-3", fakeDevice{sample: "keyboard with a wheel"}, Keyboard, 4, "is let in as a keyboard by line 4 of the policy, once the code was typed on it"},
		{"1-4", fakeDevice{sample: "hub"}, Hub, 5, "is let in as a hub by line 5 of the policy"},
		{"1-1", fakeDevice{sample: "two configurations of a stick", takes: 1, units: []string{"0"}}, Stick, 2, "is let in as a stick"},
		{"1-5", fakeDevice{sample: "stick", early: true, units: []string{"0"}}, Stick, 2, "/dev/sg1"}, // U8: put out, and let in again
	} {
		k := newFakeKernel(t)
		d := k.plug(test.name, &test.device)
		before := d.early && k.has(d.host)
		g := k.gate(allowAll...)
		s, err := k.admit(g, test.name)
		if err != nil {
			t.Errorf("%s at %s: %v", d.sample, test.name, err)
			continue
		}
		if s.Class != test.class || s.Rule.Line != test.line || !strings.Contains(s.String(), test.text) || s.Early != d.early || d.early != before {
			t.Errorf("%s at %s: %s, by line %d, early %t: %s", d.sample, test.name, s.Class, s.Rule.Line, s.Early, s)
		}
		if err := s.Check(); err != nil {
			t.Errorf("%s: %v", d.sample, err)
		}
		// One interface has a driver, and it is the only one that is authorised.
		for _, face := range d.faces() {
			bound, authorized := k.has(d.dir+"/"+face+"/driver"), k.text(d.dir+"/"+face+"/authorized") == "1"
			if ours := face == s.face; bound != ours || authorized != ours {
				t.Errorf("%s: %s is authorised %t, bound %t", d.sample, face, authorized, bound)
			}
		}
		if err := s.End(); err != nil || k.text(d.dir+"/authorized") != "0" || len(d.faces()) != 0 {
			t.Errorf("%s: %v; it is authorised %s", d.sample, err, k.text(d.dir+"/authorized"))
		}
		if err := s.End(); err != nil {
			t.Errorf("%s: ended again: %v", d.sample, err)
		}
		if err := s.Check(); !errors.Is(err, ErrEnded) {
			t.Errorf("%s: checked when it was over: %v", d.sample, err)
		}
		if _, err := s.BindDisk(t.Context()); !errors.Is(err, ErrEnded) {
			t.Errorf("%s: bound when it was over: %v", d.sample, err)
		}
	}
}

func TestUnit(t *testing.T) {
	k := newFakeKernel(t)
	k.plug("1-1", &fakeDevice{sample: "stick", units: []string{"0"}})
	s, err := k.admit(k.gate("allow stick port 1-1 as state"), "1-1")
	if err != nil {
		t.Fatal(err)
	}
	want := Unit{Address: "0:0:0:0", Vendor: "Maker", Model: "Disk", Rev: "1.00", Generic: "/dev/sg0", path: "1-1:1.0/host0/target0:0:0/0:0:0:0"}
	if s.Unit != want || s.As != State {
		t.Errorf("%+v, as %q; want %+v", s.Unit, s.As, want)
	}
	if a := s.Attached; a.Port != "pci-0000:00:14.0-usbv2-0:1" || a.Bus != 1 || a.Number != 1 || a.Manufacturer != "Maker" || a.Product != "Thing" || a.Serial != "" {
		t.Errorf("%+v", a)
	}
	if node, err := s.BindDisk(t.Context()); err != nil || node != "/dev/sda" {
		t.Errorf("%q, %v", node, err)
	}
	if !slices.Contains(k.written, "bus/scsi/drivers/sd/bind 0:0:0:0") {
		t.Errorf("%q", k.written)
	}
	k.plug("1-2", &fakeDevice{sample: "recorder", units: []string{"5"}})
	recorder, err := k.admit(k.gate("allow recorder port 1-2"), "1-2")
	if err != nil {
		t.Fatal(err)
	}
	if node, err := recorder.BindDisk(t.Context()); err != nil || node != "/dev/sr0" {
		t.Errorf("%q, %v", node, err)
	}
	k.plug("1-3", &fakeDevice{sample: "keyboard"})
	keyboard, err := k.admit(k.gate("allow keyboard port 1-3"), "1-3")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyboard.BindDisk(t.Context()); err == nil || err.Error() != "bind usb device 1-3: a keyboard has no medium" {
		t.Errorf("%v", err)
	}
	if keyboard.Challenge != nil || !slices.Equal(keyboard.Inputs, []string{"/dev/input/event3"}) || keyboard.Typed(t.Context(), nil) != nil {
		t.Errorf("%+v, %q", keyboard.Challenge, keyboard.Inputs)
	}
}

// TestRefuse: what stays out ends without a driver, whatever went before.
func TestRefuse(t *testing.T) {
	changed := func(to string) func(d *fakeDevice) {
		return func(d *fakeDevice) {
			d.descriptors = samples[to].descriptors
			d.show()
		}
	}
	for _, test := range []struct {
		is     string
		device fakeDevice
		code   string
		want   string
	}{
		// U1
		{"stick and keyboard", fakeDevice{sample: "stick and keyboard", units: []string{"0"}}, CodeMixed, "claims to be storage + keyboard) stays out: it has 2 interfaces"},
		{"alternate setting", fakeDevice{sample: "stick that can become a keyboard", units: []string{"0"}}, CodeMixed, "what is beside its storage or keyboard must not be there"},
		{"telephone", fakeDevice{sample: "telephone"}, CodeClass, "claims to be camera or telephone) stays out: it is no stick, recorder, keyboard or hub"},
		{"hub elsewhere", fakeDevice{sample: "hub"}, CodePolicy, "no rule of the policy allows it as a hub"},
		{"malformed", fakeDevice{descriptors: samples["stick"].descriptors[:40]}, CodeMalformed, "claims to be nothing) stays out: its descriptors are not as they have to be"},
		{"empty", fakeDevice{descriptors: []byte{}}, CodeMalformed, `"Thing" stays out: its descriptors`},
		// U2
		{"keyboard after the authorisation", fakeDevice{sample: "stick", units: []string{"0"}, onAuthorize: changed("keyboard")}, CodeChanged, "claims to be keyboard) stays out: it shows other descriptors than those that were judged, of which it had storage"},
		{"stick of another kind after it", fakeDevice{sample: "stick", units: []string{"0"}, onAuthorize: changed("uas stick")}, CodeChanged, "other descriptors"},
		{"nothing after it", fakeDevice{sample: "stick", units: []string{"0"}, onAuthorize: func(d *fakeDevice) { d.descriptors = nil; d.show() }}, CodeChanged, "other descriptors"},
		{"keyboard after the scan", fakeDevice{sample: "stick", units: []string{"0"}, onScan: changed("stick and keyboard")}, CodeChanged, "claims to be storage + keyboard) stays out: it shows other descriptors"},
		{"another number after the scan", fakeDevice{sample: "stick", units: []string{"0"}, onScan: func(d *fakeDevice) { d.k.file(d.dir+"/devnum", "77") }}, CodeChanged, "enumerated again"},
		{"another serial number after the scan", fakeDevice{sample: "stick", serial: "1", units: []string{"0"}, onScan: func(d *fakeDevice) { d.k.file(d.dir+"/serial", "2") }}, CodeChanged, "enumerated again"},
		{"put out by somebody", fakeDevice{sample: "stick", units: []string{"0"}, onScan: func(d *fakeDevice) { d.k.file(d.dir+"/authorized", "0") }}, CodeChanged, "somebody else"},
		// U3
		{"a CD beside the disk", fakeDevice{sample: "stick", units: []string{"0", "5"}}, CodeUnits, "there are 2 units behind it where there may be one: a disk, an optical drive"},
		{"a CD before the disk", fakeDevice{sample: "stick", units: []string{"5", "0"}}, CodeUnits, "an optical drive, a disk"},
		{"two disks", fakeDevice{sample: "stick", units: []string{"0", "0"}}, CodeUnits, "a disk, a disk"},
		{"an unknown beside the disk", fakeDevice{sample: "stick", units: []string{"0", "31"}}, CodeUnits, `a disk, something of the type "31"`},
		{"a CD alone", fakeDevice{sample: "stick", units: []string{"5"}}, CodeUnitType, "it was to be a stick, and behind it is an optical drive"},
		{"an enclosure", fakeDevice{sample: "stick", units: []string{"13"}}, CodeUnitType, "behind it is an enclosure"},
		{"no unit", fakeDevice{sample: "stick", silent: true}, CodeNoUnit, "it has no disk that answers"},
		{"a unit that goes", fakeDevice{sample: "stick", units: []string{"0"}, onScan: func(d *fakeDevice) { d.k.remove(d.host + "/target0:0:0") }}, CodeNoUnit, "doesn't answer any more"},
		{"sd bound", fakeDevice{sample: "stick", units: []string{"0"}, bindsSD: true}, CodeBoundEarly, "the driver sd has its medium already"},
		// The kernel and the gate see the same thing, or nothing comes in.
		{"interfaces that authorise themselves", fakeDevice{sample: "stick", units: []string{"0"}, selfAuth: true}, CodeDisagrees, "was authorised by itself"},
		{"no interface", fakeDevice{sample: "stick", units: []string{"0"}, missingFace: true}, CodeDisagrees, "the kernel knows 0 interfaces of 1"},
		{"an interface too many", fakeDevice{sample: "stick", units: []string{"0"}, onAuthorize: func(d *fakeDevice) {
			for _, file := range []string{"bInterfaceNumber", "bAlternateSetting", "bInterfaceClass", "bInterfaceSubClass", "bInterfaceProtocol", "authorized"} {
				d.k.file(d.dir+"/1-1:1.1/"+file, d.k.text(d.dir+"/1-1:1.0/"+file))
			}
		}}, CodeDisagrees, "the kernel's interface 1-1:1.1 is none of its descriptors"},
		{"another class", fakeDevice{sample: "stick", units: []string{"0"}, wrongFace: true}, CodeDisagrees, "the kernel's interface 1-1:1.0 is none of its descriptors"},
		{"a driver before its time", fakeDevice{sample: "stick", units: []string{"0"}, onAuthorize: func(d *fakeDevice) { d.k.link(d.dir+"/1-1:1.0/driver", "bus/usb/drivers/usbhid") }}, CodeDisagrees, "was authorised by itself"},
		{"another driver", fakeDevice{sample: "stick", units: []string{"0"}, driver: "ums-realtek"}, CodeDisagrees, "the driver ums-realtek took it"},
		{"a configuration from nowhere", fakeDevice{sample: "stick", units: []string{"0"}, onAuthorize: func(d *fakeDevice) { d.k.file(d.dir+"/bConfigurationValue", "3") }}, CodeDisagrees, `it took the configuration "3"`},
		{"none of its configurations", fakeDevice{sample: "stick", onAuthorize: func(d *fakeDevice) { d.k.file(d.dir+"/bConfigurationValue", "") }}, CodeDisagrees, "the kernel chose none of its configurations"},
		// U7
		{"that its driver gives up", fakeDevice{sample: "stick", noDriver: true}, CodeNoAnswer, "claims to be storage) stays out: its driver gave it up"},
		{"that can't be configured", fakeDevice{sample: "stick", refuses: unix.EPIPE}, CodeNoAnswer, "stays out: it can't be configured: broken pipe"},
		{"that nobody may configure", fakeDevice{sample: "stick", refuses: unix.EPERM}, "fault", "let usb device 1-1 in: operation not permitted"},
	} {
		for _, early := range []bool{false, true} {
			device := test.device
			if early && (device.onAuthorize != nil || device.onScan != nil || device.silent || device.noDriver || device.refuses != nil || device.missingFace || device.descriptors != nil || device.driver != "") {
				continue // these need another beginning
			}
			device.early = early
			k := newFakeKernel(t)
			d := k.plug("1-1", &device)
			g := k.gate("allow stick", "allow keyboard port 1-2")
			g.patience = 5 * time.Second
			if device.silent {
				g.patience = 2 * time.Second
			}
			s, err := k.admit(g, "1-1")
			if s != nil || codeOf(err) != test.code || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, %v; want %s, %q", test.is, s, err, test.code, test.want)
				continue
			}
			if got := k.text(d.dir + "/authorized"); got != "0" || d.authorized && !early && got != "0" {
				t.Errorf("%s: it is authorised %s", test.is, got)
			}
			if !strings.Contains(test.is, "somebody") && len(d.faces()) != 0 {
				t.Errorf("%s: it has %q", test.is, d.faces())
			}
			// What is refused by its descriptors was never authorised.
			if slices.Contains([]string{CodeMixed, CodeClass, CodePolicy, CodeMalformed}, test.code) && slices.Contains(k.written, d.dir+"/authorized 1") {
				t.Errorf("%s: it was authorised", test.is)
			}
			// What went wrong before there was a driver is seen before there is one.
			if device.onAuthorize != nil && k.count("bus/usb/drivers_probe 1-1:1.0") != 0 {
				t.Errorf("%s: a driver was asked to take it", test.is)
			}
		}
	}
}

// TestComesBack: what comes back to its port as something else stays out.
func TestComesBack(t *testing.T) {
	k := newFakeKernel(t)
	g := k.gate("allow stick", "allow keyboard port 1-1")
	for i, test := range []struct {
		sample, serial, speed, code string
	}{
		{"stick", "0042", "480", ""},
		{"stick", "0042", "480", ""},
		{"keyboard", "0042", "480", CodeChanged},
		{"uas stick", "0042", "480", CodeChanged},
		{"stick and keyboard", "0042", "480", CodeMixed},
		{"stick", "0042", "480", ""},      // as it was
		{"uas stick", "0042", "5000", ""}, // at another speed it may describe itself otherwise
		{"keyboard", "", "5000", ""},      // another device
		{"stick", "", "5000", ""},         // and another one, though neither has a number
		{"uas stick", "0042", "5000", ""}, // the last one counts
		{"keyboard", "0043", "5000", ""},  // another device
		{"stick", "0043", "5000", CodeChanged},
	} {
		d := k.plug("1-1", &fakeDevice{sample: test.sample, serial: test.serial, units: []string{"0"}})
		k.file(d.dir+"/speed", test.speed)
		s, err := k.admit(g, "1-1")
		if codeOf(err) != test.code || d.authorized != (test.code == "") {
			t.Errorf("%d: %v, want %q; it is authorised: %t", i, err, test.code, d.authorized)
		}
		if s != nil {
			s.End()
		}
		k.pull("1-1")
	}
	// At another port it is another device.
	k.plug("1-2", &fakeDevice{sample: "uas stick", serial: "0043", units: []string{"0"}})
	if _, err := k.admit(g, "1-2"); err != nil {
		t.Error(err)
	}
}

// TestNoModule: a driver that isn't there is the machine's fault, and not the device's.
func TestNoModule(t *testing.T) {
	for _, driver := range []string{"usb-storage", "uas"} { // usb-storage leaves to uas what that could take
		k := newFakeKernel(t)
		k.plug("1-1", &fakeDevice{sample: "stick", noDriver: true})
		k.remove("bus/usb/drivers/" + driver)
		if _, err := k.admit(k.gate(allowAll...), "1-1"); codeOf(err) != "fault" || !strings.Contains(err.Error(), "the kernel has no driver "+driver+": load its module") {
			t.Errorf("%v", err)
		}
	}
}

// TestPutOut: a device that can't be put out is told of.
func TestPutOut(t *testing.T) {
	k := newFakeKernel(t)
	k.plug("1-1", &fakeDevice{sample: "stick", units: []string{"0"}, early: true, stays: true})
	_, err := k.admit(k.gate(allowAll...), "1-1")
	if err == nil || !strings.Contains(err.Error(), "put usb device 1-1 out: it stays authorised") {
		t.Errorf("%v", err)
	}
}

// TestClosedAgain: somebody opened a hub behind the gate's back, or a controller came later.
func TestClosedAgain(t *testing.T) {
	k := newFakeKernel(t)
	g := k.gate(allowAll...)
	k.addHub("usb3", " 2.00")
	d := k.plug("3-1", &fakeDevice{sample: "stick", units: []string{"0"}})
	s, err := k.admit(g, "3-1")
	if err != nil || s.Unit.Generic == "" || k.text(fakeController+"/usb3/interface_authorized_default") != "0" {
		t.Errorf("%v, %v", s, err)
	}
	if at := slices.Index(k.written, fakeController+"/usb3/interface_authorized_default 0"); at < 0 || at > slices.Index(k.written, d.dir+"/authorized 1") {
		t.Errorf("%q", k.written)
	}
}

func TestGone(t *testing.T) {
	pull := func(d *fakeDevice) { d.k.pullLocked(d.name) }
	for is, device := range map[string]*fakeDevice{
		"after the authorisation": {sample: "stick", units: []string{"0"}, onAuthorize: pull},
		"after the scan":          {sample: "stick", units: []string{"0"}, onScan: pull},
		// Another device has come to the same port, with the same name: what is written goes to none of them.
		"replaced": {sample: "stick", units: []string{"0"}, onAuthorize: func(d *fakeDevice) {
			d.k.pullLocked(d.name)
			d.k.plugLocked(d.name, &fakeDevice{sample: "stick", units: []string{"0"}})
		}},
	} {
		k := newFakeKernel(t)
		k.plug("1-1", device)
		if s, err := k.admit(k.gate(allowAll...), "1-1"); s != nil || !errors.Is(err, ErrGone) || codeOf(err) != "fault" {
			t.Errorf("%s: %v, %v", is, s, err)
		}
		if d := k.devices["1-1"]; d != nil && (d.authorized || k.text(d.dir+"/authorized") != "0") {
			t.Errorf("%s: the one that came is authorised", is)
		}
	}
	k := newFakeKernel(t)
	g := k.gate(allowAll...)
	for _, name := range []string{"1-1", "9-9"} {
		if _, err := k.admit(g, name); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "..", "usb1", "1-1:1.0", "1-1/../usb1", "1-0:1.0"} {
		if _, err := k.admit(g, name); err == nil || !strings.Contains(err.Error(), "that is no device's name") {
			t.Errorf("%q: %v", name, err)
		}
	}
	// While it is waited for.
	k.plug("1-1", &fakeDevice{sample: "stick", silent: true})
	go func() {
		for !slices.ContainsFunc(k.log(), func(s string) bool { return strings.HasPrefix(s, "bus/usb/drivers_probe ") }) {
			time.Sleep(time.Millisecond)
		}
		k.pull("1-1")
	}()
	if _, err := k.admit(g, "1-1"); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
}

// TestNoAnswer: a device that the kernel waits for doesn't hold up anybody, and doesn't come in late either.
func TestNoAnswer(t *testing.T) {
	stopped := errors.New("stopped")
	for _, cancelled := range []bool{false, true} {
		k := newFakeKernel(t)
		stuck := make(chan struct{})
		d := k.plug("1-1", &fakeDevice{sample: "stick", units: []string{"0"}, stuck: stuck})
		g := k.gate(allowAll...)
		g.patience, g.grace = 100*time.Millisecond, time.Millisecond
		ctx, cancel := context.WithCancelCause(t.Context())
		if cancelled {
			g.patience = time.Hour
			cancel(stopped)
		}
		begin := time.Now()
		s, err := g.Admit(ctx, "1-1")
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("it took %v to give it up", took)
		}
		switch {
		case s != nil || err == nil:
			t.Errorf("%v, %v", s, err)
		case cancelled && (!errors.Is(err, stopped) || codeOf(err) != "fault"):
			t.Errorf("cancelled: %v", err)
		case !cancelled && (codeOf(err) != CodeNoAnswer || !strings.Contains(err.Error(), "claims to be storage) stays out: the kernel still waits for it")):
			t.Errorf("%v", err)
		}
		close(stuck)
		for k.count(d.dir+"/authorized 0") < 2 { // once before, once when the kernel let it go
			time.Sleep(time.Millisecond)
		}
		if k.count("bus/usb/drivers_probe 1-1:1.0") != 0 {
			t.Error("it was let in when nobody waited for it any more")
		}
		cancel(nil)
	}
}

// TestEight: eight devices at once, each with its own verdict; two that are silent keep nobody waiting.
func TestEight(t *testing.T) {
	k := newFakeKernel(t)
	g := k.gate("allow stick")
	g.patience, g.grace = time.Hour, time.Millisecond
	stuck := make(chan struct{})
	silent, stopped := make(chan error, 2), errors.New("stopped")
	ctx, stop := context.WithCancelCause(t.Context())
	var others sync.WaitGroup
	for i, test := range []struct {
		device *fakeDevice
		code   string
	}{
		{&fakeDevice{sample: "stick", silent: true}, ""},
		{&fakeDevice{sample: "stick", units: []string{"0"}, stuck: stuck}, ""},
		{&fakeDevice{sample: "stick", units: []string{"0"}}, ""},
		{&fakeDevice{sample: "stick and keyboard", units: []string{"0"}}, CodeMixed},
		{&fakeDevice{sample: "stick", units: []string{"0", "5"}}, CodeUnits},
		{&fakeDevice{sample: "uas stick", units: []string{"0"}}, ""},
		{&fakeDevice{sample: "telephone"}, CodeClass},
		{&fakeDevice{sample: "stick", units: []string{"5"}}, CodeUnitType},
	} {
		name := fmt.Sprintf("1-%d", i+1)
		k.plug(name, test.device)
		if test.device.silent || test.device.stuck != nil {
			go func() {
				_, err := g.Admit(ctx, name)
				silent <- err
			}()
			continue
		}
		others.Go(func() {
			s, err := k.admit(g, name)
			if codeOf(err) != test.code || (s != nil) != (test.code == "") {
				t.Errorf("%s: %v, %v; want %q", name, s, err, test.code)
			}
			if s != nil && (s.Attached.Name != name || !strings.HasPrefix(s.face, name+":")) {
				t.Errorf("%s: got %s", name, s)
			}
		})
	}
	others.Wait()
	if len(silent) != 0 {
		t.Errorf("a silent device has its verdict: %v", <-silent)
	}
	stop(stopped)
	for range 2 {
		if err := <-silent; !errors.Is(err, stopped) {
			t.Errorf("%v, want the cause", err)
		}
	}
	close(stuck)
	for _, name := range []string{"1-1", "1-2"} { // until they are out, too
		for k.count(k.devices[name].dir+"/authorized 0") < 2 {
			time.Sleep(time.Millisecond)
		}
	}
}

// TestCheck: a session is over when its device isn't what it was.
func TestCheck(t *testing.T) {
	for is, test := range map[string]struct {
		do   func(d *fakeDevice)
		code string
	}{
		"nothing":           {func(d *fakeDevice) {}, ""},
		"other descriptors": {func(d *fakeDevice) { d.descriptors = samples["keyboard"].descriptors; d.show() }, CodeChanged},
		"enumerated again":  {func(d *fakeDevice) { d.k.file(d.dir+"/devnum", "77") }, CodeChanged},
		"another unit":      {func(d *fakeDevice) { d.units = append(d.units, "5"); d.unit(1) }, CodeUnits},
		"no unit":           {func(d *fakeDevice) { d.k.remove(d.host + "/target0:0:0") }, "fault"}, // so it is while it goes
		"gone":              {func(d *fakeDevice) { d.k.pullLocked("1-1") }, "fault"},
		"replaced": {func(d *fakeDevice) {
			d.k.pullLocked("1-1")
			d.k.plugLocked("1-1", &fakeDevice{sample: "stick", units: []string{"0"}})
		}, "fault"},
	} {
		k := newFakeKernel(t)
		d := k.plug("1-1", &fakeDevice{sample: "stick", units: []string{"0"}})
		s, err := k.admit(k.gate(allowAll...), "1-1")
		if err != nil {
			t.Fatal(err)
		}
		k.mu.Lock()
		test.do(d)
		k.mu.Unlock()
		err = s.Check()
		if codeOf(err) != test.code || errors.Is(err, ErrGone) != (test.code == "fault") {
			t.Errorf("%s: %v, want %q", is, err, test.code)
		}
		if out := !d.authorized || k.devices["1-1"] != d; out != (test.code != "") {
			t.Errorf("%s: it is out: %t", is, out)
		}
		if now := k.devices["1-1"]; now != nil && now != d && k.text(now.dir+"/authorized") != "0" {
			t.Errorf("%s: the other one is authorised", is)
		}
	}
}

// TestTyped: a keyboard is heard by nobody until the code was typed on it, and out after three wrong ones or a minute.
func TestTyped(t *testing.T) {
	codes := make(map[string]bool)
	stopped := errors.New("stopped")
	for _, tt := range []struct {
		name  string
		lines func(code string) []string // nil: it is pulled out
		code  string
		left  []int
		in    bool
	}{
		{"at once", func(code string) []string { return []string{code} }, "", nil, true},
		{"at the third try", func(code string) []string { return []string{"", code + "0", code} }, "", []int{2, 1}, true},
		{"three wrong ones", func(code string) []string { return []string{"x", "", code[1:], code} }, CodeWrongCode, []int{2, 1}, false},
		{"never", func(string) []string { return []string{} }, CodeWrongCode, nil, false},
		{"stopped", func(string) []string { return []string{"", "stop"} }, "fault", []int{2}, false},
		{"gone", nil, "fault", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := newFakeKernel(t)
			d := k.plug("1-1", &fakeDevice{sample: "keyboard with a wheel"})
			g := k.gate(allowAll...)
			g.typing = 100 * time.Millisecond
			if tt.name != "never" {
				g.typing = time.Hour
			}
			s, err := k.admit(g, "1-1")
			if err != nil {
				t.Fatal(err)
			}
			log := k.log()
			hush, probe, grab, restore := slices.Index(log, "hush"), slices.Index(log, "bus/usb/drivers_probe 1-1:1.0"), slices.Index(log, "grab /dev/input/event3"), slices.Index(log, "restore")
			if hush < 0 || probe < hush || grab < probe || restore < grab || slices.Contains(log, "let go") {
				t.Errorf("%q", log)
			}
			code := s.Challenge.Code
			if len(code) != 6 || strings.Trim(code, "0123456789") != "" || codes[code] {
				t.Errorf("the code is %q after %v", code, codes)
			}
			codes[code] = true
			ctx, stop := context.WithCancelCause(t.Context())
			go func() {
				if tt.lines == nil {
					close(k.keys.lines)
					return
				}
				for _, line := range tt.lines(code) {
					if line == "stop" {
						stop(stopped)
						return
					}
					select {
					case k.keys.lines <- line:
					case <-t.Context().Done():
					}
				}
			}()
			var left []int
			err = s.Typed(ctx, func(n int) { left = append(left, n) })
			if codeOf(err) != tt.code || !slices.Equal(left, tt.left) || d.authorized != tt.in || (s.Challenge == nil) != tt.in {
				t.Errorf("%v; %v left; authorised %t", err, left, d.authorized)
			}
			if tt.name == "stopped" && !errors.Is(err, stopped) || tt.name == "gone" && !errors.Is(err, ErrGone) {
				t.Error(err)
			}
			if !slices.Contains(k.log(), "let go") {
				t.Error("it is still grabbed")
			}
			if tt.in {
				if err := s.Typed(t.Context(), nil); err != nil {
					t.Errorf("once more: %v", err)
				}
			}
		})
	}
}

// TestTypedEnded: who waits for a code is told that somebody else ended the session.
func TestTypedEnded(t *testing.T) {
	k := newFakeKernel(t)
	k.plug("1-1", &fakeDevice{sample: "keyboard"})
	s, err := k.admit(k.gate(allowAll...), "1-1")
	if err != nil {
		t.Fatal(err)
	}
	s.End()
	close(k.keys.lines)
	if err := s.Typed(t.Context(), nil); !errors.Is(err, ErrEnded) {
		t.Error(err)
	}
}

// TestNotGrabbed: a keyboard that can't be kept from everybody else stays out.
func TestNotGrabbed(t *testing.T) {
	for _, what := range []string{"hush", "grab"} {
		k := newFakeKernel(t)
		d := k.plug("1-1", &fakeDevice{sample: "keyboard"})
		g := k.gate(allowAll...)
		if what == "hush" {
			g.hush = func() (func() error, error) { return nil, unix.EPERM }
		} else {
			g.grab = func([]string) (keys, error) { return nil, unix.EBUSY }
		}
		if s, err := k.admit(g, "1-1"); s != nil || codeOf(err) != "fault" || d.authorized {
			t.Errorf("%s: %v; authorised %t", what, err, d.authorized)
		}
		if what == "hush" && slices.Contains(k.log(), "bus/usb/drivers_probe 1-1:1.0") {
			t.Error("it had its driver before the console was hushed")
		}
	}
}
