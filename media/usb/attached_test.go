package usb

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestList(t *testing.T) {
	k := newFakeKernel(t)
	for _, name := range []string{"2-10", "1-3.2", "1-3", "1-10.1.2"} {
		k.plug(name, &fakeDevice{sample: "stick", early: name == "1-3"})
	}
	k.link("bus/usb/devices/1-3:1.0", k.devices["1-3"].dir+"/1-3:1.0")
	k.link("bus/usb/devices/1-0:1.0", fakeController+"/usb1")
	got, err := List(k.tree())
	if want := []string{"1-10.1.2", "1-3", "1-3.2", "2-10"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	k.remove("bus/usb")
	if _, err := List(k.tree()); !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "list usb devices: ") {
		t.Errorf("%v", err)
	}
}

func TestLook(t *testing.T) {
	k := newFakeKernel(t)
	d := k.plug("1-3", &fakeDevice{sample: "hub", early: true})
	k.plug("1-3.4", &fakeDevice{sample: "stick", serial: " a\xff\x1b\n "})
	k.plug("2-1", &fakeDevice{sample: "uas stick"})
	sys := k.tree()
	for name, port := range map[string]string{"1-3": "pci-0000:00:14.0-usbv2-0:3", "1-3.4": "pci-0000:00:14.0-usbv2-0:3.4", "2-1": "pci-0000:00:14.0-usbv3-0:1"} {
		a, err := Look(sys, name)
		if err != nil || a.Port != port || a.Name != name || a.Authorized != (name == "1-3") || a.Malformed != nil || a.Descriptors.Hash() != parsed(t, k.devices[name].sample).Hash() {
			t.Errorf("%s: %+v, %v; want port %s", name, a, err, port)
		}
	}
	if a, err := Look(sys, "1-3.4"); err != nil || a.Serial != " a\xff\x1b\n " {
		t.Errorf("%+v, %v", a, err)
	} else if want := `1-3.4 "Maker" "Thing" 0951:1666 serial " a\xff\x1b\n " (claims to be storage)`; a.String() != want {
		t.Errorf("%s, want %s", a, want)
	}

	// A platform's controller, and one that sysfs says too little of.
	k.remove(fakeController + "/subsystem")
	k.link(fakeController+"/subsystem", "bus/platform")
	if a, err := Look(sys, "1-3"); err != nil || a.Port != "platform-0000:00:14.0-usbv2-0:3" {
		t.Errorf("%+v, %v", a, err)
	}
	k.remove(fakeController + "/subsystem")
	if a, err := Look(sys, "1-3"); err != nil || a.Port != "" {
		t.Errorf("%+v, %v", a, err)
	}

	for _, test := range []struct {
		file, text, want string
		gone             bool
	}{
		{"busnum", "x", `look at usb device 1-3: strconv.Atoi: parsing "x"`, false},
		{"product", strings.Repeat("x", maxAttribute), "read product: it is longer than 4096 bytes", false},
		{"descriptors", strings.Repeat("x", MaxDescriptors), "read descriptors: it is longer than 65553 bytes", false},
		{"authorized", "", "", false}, // whatever isn't 0
		{"serial", "-", "", false},
		{"devnum", "gone", "look at usb device 1-3: the device is gone: ", true},
		{"descriptors", "gone", "look at usb device 1-3: the device is gone: ", true},
	} {
		name := d.dir + "/" + test.file
		before := ""
		if k.has(name) {
			before = k.text(name)
		}
		if test.text == "gone" {
			k.remove(name)
		} else {
			k.file(name, test.text)
		}
		a, err := Look(sys, "1-3")
		switch {
		case test.want == "" && (err != nil || !a.Authorized):
			t.Errorf("%s: %+v, %v", test.file, a, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, ErrGone) != test.gone):
			t.Errorf("%s: %v, want %q", test.file, err, test.want)
		}
		k.file(name, before)
	}
	if _, err := Look(sys, "1-9"); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
	if _, err := Look(sys, "../../../etc"); err == nil || errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
}
