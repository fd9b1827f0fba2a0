package usb

import (
	"fmt"
	"slices"
	"strings"
)

// Class is what the gate can let a device in as.
type Class string

// The classes. Everything else stays out.
const (
	Stick    Class = "stick"    // one disk
	Recorder Class = "recorder" // one optical drive
	Keyboard Class = "keyboard" // that can speak the boot protocol
	Hub      Class = "hub"
)

var classes = []Class{Stick, Recorder, Keyboard, Hub}

// What interfaces may say of themselves (Mass Storage Class Specification Overview 1.4 sections 2 and 3, HID 1.11
// appendix B, USB 2.0 section 11.23.1).
var (
	plainDisk    = []Triple{{0x08, 0x06, 0x50}, {0x08, 0x06, 0x62}}                                         // SCSI, bulk-only or UAS
	optical      = []Triple{{0x08, 0x02, 0x50}, {0x08, 0x05, 0x50}, {0x08, 0x06, 0x50}, {0x08, 0x06, 0x62}} // SFF-8020i, SFF-8070i, SCSI
	bootKeyboard = []Triple{{0x03, 0x01, 0x01}}
	anyHub       = []Triple{{0x09, 0, 0}, {0x09, 0, 1}, {0x09, 0, 2}}
)

// human is the class of human interface devices.
const human = 0x03

// Classes says as what the gate could let the device in, going by all it says of itself, in all its configurations and
// alternate settings. There can be two, a stick and a recorder: which of them it is, only its logical unit tells. There
// is none for most devices.
func (d *Device) Classes() []Class {
	var list []Class
	for _, c := range classes {
		if d.is(c) {
			list = append(list, c)
		}
	}
	return list
}

// is says whether all the configurations are of a class.
func (d *Device) is(class Class) bool {
	whole := Triple{}
	if class == Hub {
		// The protocol is the hub's speed and its number of transaction translators.
		whole = Triple{0x09, 0, d.Function.Protocol}
	}
	if d.Function != whole || len(d.Configurations) == 0 {
		return false
	}
	for i := range d.Configurations {
		if _, ok := d.Configurations[i].interfaceFor(class); !ok {
			return false
		}
	}
	return true
}

// interfaceFor gives the number of the one interface that a driver may have if the device is let in as class, and false
// if the configuration is no such thing. A stick, recorder or hub has no other interface. Nearly every keyboard has, for
// a wheel or its other keys: those have to be human interface devices, too, and no driver gets them.
func (c *Configuration) interfaceFor(class Class) (uint8, bool) {
	var allowed []Triple
	switch class {
	case Stick:
		allowed = plainDisk
	case Recorder:
		allowed = optical
	case Keyboard:
		allowed = bootKeyboard
	case Hub:
		allowed = anyHub
	}
	var ours []uint8
	for _, number := range c.interfaces() {
		if c.all(number, allowed) {
			ours = append(ours, number)
		} else if class != Keyboard || !c.human(number) {
			return 0, false
		}
	}
	for _, a := range c.Associations {
		if !slices.Contains(allowed, a.Function) && (class != Keyboard || a.Function.Class != human) {
			return 0, false
		}
	}
	if len(ours) != 1 {
		return 0, false
	}
	return ours[0], true
}

// all says whether all alternate settings of an interface are among those allowed.
func (c *Configuration) all(number uint8, allowed []Triple) bool {
	for _, s := range c.AltSettings {
		if s.Interface == number && !slices.Contains(allowed, s.Function) {
			return false
		}
	}
	return true
}

func (c *Configuration) human(number uint8) bool {
	for _, s := range c.AltSettings {
		if s.Interface == number && s.Function.Class != human {
			return false
		}
	}
	return true
}

// Claims says in words what the device claims to be, all its configurations and alternate settings taken together, as in
// "storage + keyboard". An interface that claims the same in several of them counts once.
func (d *Device) Claims() string {
	var words []string
	most := make(map[string]int) // interfaces with this word, of the configuration that has most
	claim := func(word string, count int) {
		if !slices.Contains(words, word) {
			words = append(words, word)
		}
		most[word] = max(most[word], count)
	}
	// 00 and EF:02:01 say that the interfaces tell.
	if d.Function.Class != 0 && d.Function != (Triple{0xef, 0x02, 0x01}) {
		claim(d.Function.word(), 1)
	}
	for i := range d.Configurations {
		c := &d.Configurations[i]
		of := make(map[string]map[uint8]bool)
		for _, s := range c.AltSettings {
			word := s.Function.word()
			if of[word] == nil {
				of[word] = make(map[uint8]bool)
			}
			of[word][s.Interface] = true
			claim(word, len(of[word]))
		}
		for _, a := range c.Associations {
			claim(a.Function.word(), 1)
		}
	}
	if len(words) == 0 {
		return "nothing"
	}
	for i, word := range words {
		if n := most[word]; n > 1 {
			words[i] = fmt.Sprintf("%s (%d)", word, n)
		}
	}
	return strings.Join(words, " + ")
}

// words are those for a class, a class and subclass, or all three; what a triple begins with and is longest counts.
var words = map[string]string{
	"01":       "audio",
	"02":       "communications",
	"02:02":    "serial line or modem",
	"02:06":    "network",
	"02:0d":    "network",
	"02:0e":    "network",
	"03":       "input device",
	"03:01:01": "keyboard",
	"03:01:02": "mouse",
	"05":       "physical device",
	"06":       "camera or telephone",
	"07":       "printer",
	"08":       "storage",
	"08:02":    "optical drive",
	"08:04":    "floppy",
	"08:05":    "optical drive",
	"09":       "hub",
	"0a":       "communications data",
	"0b":       "smart card",
	"0d":       "content security",
	"0e":       "camera",
	"0f":       "health device",
	"10":       "audio and video",
	"11":       "billboard",
	"12":       "USB-C bridge",
	"13":       "display",
	"14":       "MCTP",
	"3c":       "I3C",
	"dc":       "diagnosis",
	"e0":       "wireless",
	"e0:01:01": "bluetooth",
	"e0:01:03": "network",
	"e0:02":    "wireless USB",
	"ef":       "miscellaneous",
	"ef:04:01": "network",
	"ef:05":    "camera",
	"fe":       "application of its own",
	"fe:01":    "firmware update",
	"fe:02":    "infrared",
	"fe:03":    "test and measurement",
	"ff":       "vendor's own",
}

// word is what a triple is called, or the triple itself.
func (t Triple) word() string {
	text := t.String()
	for _, length := range []int{8, 5, 2} {
		if word := words[text[:length]]; word != "" {
			return word
		}
	}
	return "class " + text
}
