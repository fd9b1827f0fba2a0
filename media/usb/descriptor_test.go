package usb

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	text := samples["uas stick"].descriptors
	d, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	endpoints := []Endpoint{{0x81, 2, 1024}, {0x02, 2, 1024}, {0x83, 2, 1024}, {0x04, 2, 1024}}
	want := &Device{USB: 0x0210, Vendor: 0x0951, Product: 0x1666, Release: 0x0110, hash: sha256.Sum256(text), Configurations: []Configuration{{
		Value: 1, AltSettings: []AltSetting{
			{Function: bulkOnly, Endpoints: endpoints[:2], Offset: 27},
			{Alternate: 1, Function: attached, Endpoints: endpoints, Offset: 27 + 9 + 2*17},
		},
	}}}
	if !reflect.DeepEqual(d, want) {
		t.Errorf("got  %+v\nwant %+v", d, want)
	}
	if want := fmt.Sprintf("%x", sha256.Sum256(text)); d.Hash() != want || d.ID() != "0951:1666" {
		t.Errorf("hash %s, want %s; id %s", d.Hash(), want, d.ID())
	}
	network, err := Parse(samples["stick and network"].descriptors)
	if err != nil || !slices.Equal(network.Configurations[0].Associations, []Association{{1, 2, cdc}}) {
		t.Errorf("%+v, %v", network, err)
	}
}

// TestClasses: what may come in, and what each device claims to be.
func TestClasses(t *testing.T) {
	for name, s := range samples {
		d, err := Parse(s.descriptors)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := d.Classes(); !slices.Equal(got, s.classes) {
			t.Errorf("%s: %v, want %v", name, got, s.classes)
		}
		if got := d.Claims(); got != s.claims {
			t.Errorf("%s: claims to be %q, want %q", name, got, s.claims)
		}
	}
}

// edit changes bytes of the plain stick.
func edit(at int, to ...byte) []byte {
	b := bytes.Clone(samples["stick"].descriptors)
	copy(b[at:], to)
	return b
}

func TestParseRefuses(t *testing.T) {
	stick := samples["stick"].descriptors // 18 of the device, 9 of the configuration, 9 of the interface, two endpoints of 7
	many := func(n int, f func(i int) []byte) []byte {
		var parts [][]byte
		for i := range n {
			parts = append(parts, f(i))
		}
		return join(parts...)
	}
	long := device(none, configuration(1, storageFace, make([]byte, 0)))
	long = append(long, make([]byte, MaxDescriptors)...)
	withCount := func(count byte, body ...[]byte) []byte {
		b := device(none, configuration(1, body...))
		b[18+4] = count
		return b
	}
	for _, test := range []struct {
		name        string
		descriptors []byte
		offset      int
		want        string
	}{
		{"nothing", nil, 0, "no device descriptor"},
		{"half a device", stick[:17], 0, "no device descriptor"},
		{"a device of another length", edit(0, 19), 0, "no device descriptor"},
		{"something else first", edit(1, 2), 0, "no device descriptor"},
		{"more than sysfs shows", long, MaxDescriptors, "more than 65553 bytes"},
		{"no configuration", edit(17, 0), 17, "0 configurations"},
		{"nine configurations", edit(17, 9), 17, "9 configurations"},
		{"a configuration that isn't there", edit(17, 2), len(stick), "end before this configuration"},
		{"a configuration that nobody promised", join(stick, configuration(2, storageFace)), len(stick), "32 bytes are left"},
		{"one byte too many", append(bytes.Clone(stick), 0), len(stick), "1 bytes are left"},
		{"two configurations of one value", device(none, configuration(1, storageFace), configuration(1, storageFace)), len(stick), "a second configuration with the value 1"},
		{"an interface for a configuration", edit(18+1, typeInterface), 18, "no configuration descriptor"},
		{"a configuration of ten bytes", edit(18, 10), 18, "no configuration descriptor"},
		{"a total below its own length", edit(18+2, 8, 0), 20, "a configuration of 8 bytes"},
		{"a total beyond the end", edit(18+2, 33, 0), 20, "a configuration of 33 bytes where there are 32"},
		{"the largest total", edit(18+2, 0xff, 0xff), 20, "a configuration of 65535 bytes"},
		{"a total that cuts an endpoint", edit(18+2, 31, 0), 18 + 25, "a descriptor of 7 bytes where 6 are left"},
		{"no interface", withCount(0, storageFace), 22, "0 interfaces"},
		{"64 interfaces", withCount(64, many(64, func(i int) []byte { return face(byte(i), 0, bulkOnly) })), 22, "64 interfaces"},
		{"32 and one more", withCount(32, many(33, func(i int) []byte { return face(byte(i), 0, bulkOnly) })), 18 + 9 + 32*9, "interface number 32"},
		{"an interface that nobody promised", withCount(1, storageFace, keyboardFace), 22, "1 interfaces are promised, 2 described"},
		{"an interface that isn't there", withCount(2, storageFace), 22, "2 interfaces are promised, 1 described"},
		{"bLength 0", edit(36, 0), 36, "a descriptor of 0 bytes"},
		{"bLength 1", edit(36, 1), 36, "a descriptor of 1 bytes"},
		{"bLength 255", edit(36, 255), 36, "a descriptor of 255 bytes"},
		{"one byte at the end", device(none, configuration(1, storageFace, []byte{7})), 50, "a descriptor of 7 bytes where 1 are left"},
		{"an interface of eight bytes", device(none, configuration(1, storageFace, raw(typeInterface, 0, 1, 0, 8, 6, 0x50))), 50, "an interface descriptor of 8 bytes"},
		{"an interface of ten bytes", device(none, configuration(1, storageFace, raw(typeInterface, 0, 1, 0, 8, 6, 0x50, 0, 0))), 50, "an interface descriptor of 10 bytes"},
		{"an alternate setting twice", device(none, configuration(1, storageFace, face(0, 0, hidBoot))), 50, "a second alternate setting 0 of interface 0"},
		{"no alternate setting 0", device(none, configuration(1, face(0, 1, bulkOnly))), 18, "no alternate setting 0"},
		{"129 alternate settings", device(none, configuration(1, many(129, func(i int) []byte { return face(0, byte(i), bulkOnly) }))), 27 + 128*9, "more than 128 alternate settings"},
		{"31 endpoints", edit(27+4, 31), 27, "31 endpoints, more than 30"},
		{"an endpoint too few", edit(27+4, 3), 50, "interface 0 ends, 1 endpoints before"},
		{"an endpoint too few, and another interface", device(none, configuration(1, raw(typeInterface, 0, 0, 1, 8, 6, 0x50, 0), face(1, 0, hidBoot))), 36, "interface 0 ends, 1 endpoints before"},
		{"an endpoint too many", edit(27+4, 1), 43, "an endpoint that no interface has room for"},
		{"an endpoint before any interface", device(none, configuration(1, bulk(0x81), storageFace)), 27, "an endpoint that no interface has room for"},
		{"an endpoint of eight bytes", device(none, configuration(1, face(0, 0, bulkOnly, raw(typeEndpoint, 0x81, 2, 0, 2, 0, 0)))), 36, "an endpoint descriptor of 8 bytes"},
		{"endpoint 0", device(none, configuration(1, face(0, 0, bulkOnly, bulk(0x80)))), 36, "an endpoint with the address 0x80"},
		{"reserved bits of an endpoint", device(none, configuration(1, face(0, 0, bulkOnly, bulk(0x91)))), 36, "an endpoint with the address 0x91"},
		{"an endpoint twice", device(none, configuration(1, face(0, 0, bulkOnly, bulk(0x81), bulk(0x81)))), 43, "a second endpoint with the address 0x81"},
		{"a device in a configuration", device(none, configuration(1, storageFace, stick[:18])), 50, "a descriptor of type 1 within a configuration"},
		{"a configuration in a configuration", device(none, configuration(1, storageFace, configuration(2, storageFace))), 50, "a descriptor of type 2 within a configuration"},
		{"an association of no interfaces", device(none, configuration(1, association(0, 0, cdc), storageFace)), 27, "an interface association of 8 bytes for 0 interfaces"},
		{"half an association", device(none, configuration(1, raw(typeAssociation), storageFace)), 27, "an interface association of 2 bytes"},
		{"a companion of nothing", device(none, configuration(1, storageFace, face(1, 0, bulkOnly), raw(typeCompanion, 0, 0, 0, 0))), 59, "companion of 6 bytes that belongs to no endpoint"},
		{"a companion of seven bytes", device(none, configuration(1, storageFace, raw(typeCompanion, 0, 0, 0, 0, 0))), 50, "companion of 7 bytes"},
	} {
		d, err := Parse(test.descriptors)
		var at *descriptorError
		if !errors.As(err, &at) {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if at.offset != test.offset || !strings.Contains(err.Error(), fmt.Sprintf("parse usb descriptors: byte %d: ", test.offset)) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want byte %d, %q", test.name, err, test.offset, test.want)
		}
		if d != nil {
			d.Claims() // of what there is
		}
	}
	// What can be told of a device is told, even so.
	d, err := Parse(withCount(1, storageFace, keyboardFace))
	if err == nil || d == nil || d.Claims() != "storage + keyboard" || d.ID() != "0951:1666" {
		t.Errorf("%v, %v", d, err)
	}
}

// TestParseLargest: as much as sysfs can show is parsed in no time, whatever it is made of.
func TestParseLargest(t *testing.T) {
	var parts [][]byte
	for i := range 32 * 128 {
		parts = append(parts, face(byte(i/128), byte(i%128), hidBoot))
	}
	for used := 9 * (len(parts) + 1); used+2 <= 65535; used += 2 {
		parts = append(parts, raw(0x24))
	}
	largest := device(none, configuration(1, parts...))
	if len(largest) < MaxDescriptors-1 {
		t.Fatalf("%d bytes", len(largest))
	}
	d, err := Parse(largest)
	if err != nil || len(d.Classes()) != 0 || d.Claims() != "keyboard (32)" {
		t.Errorf("%v, %v", d.Claims(), err)
	}
}

// faces finds alternate settings as nobody should parse: it goes from length to length and looks at types.
func faces(descriptors []byte) (list []Triple) {
	for at := 0; at+2 <= len(descriptors) && descriptors[at] != 0; at += int(descriptors[at]) {
		if descriptors[at+1] == typeInterface && at+9 <= len(descriptors) {
			list = append(list, Triple{descriptors[at+5], descriptors[at+6], descriptors[at+7]})
		}
	}
	return list
}

// FuzzParse: what is good accounts for every byte, and no interface is lost on the way to the verdict.
func FuzzParse(f *testing.F) {
	for _, s := range samples {
		f.Add(s.descriptors)
	}
	f.Fuzz(func(t *testing.T, descriptors []byte) {
		d, err := Parse(descriptors)
		if d != nil && d.Claims() == "" {
			t.Error("claims to be an empty word")
		}
		if err != nil {
			var at *descriptorError
			if !errors.As(err, &at) || at.offset < 0 || at.offset > len(descriptors) {
				t.Errorf("%v of %d bytes", err, len(descriptors))
			}
			return
		}
		total, parsed := deviceLength, []Triple(nil)
		for _, c := range d.Configurations {
			total += int(binary.LittleEndian.Uint16(descriptors[total+2:]))
			for _, s := range c.AltSettings {
				parsed = append(parsed, s.Function)
			}
		}
		if total != len(descriptors) {
			t.Errorf("%d bytes of %d", total, len(descriptors))
		}
		all := faces(descriptors)
		if !slices.Equal(parsed, all) {
			t.Errorf("parsed %v of %v", parsed, all)
		}
		for _, class := range d.Classes() {
			for _, face := range all {
				switch {
				case class == Stick && face != bulkOnly && face != attached,
					class == Recorder && face.Class != 8, class == Keyboard && face.Class != 3, class == Hub && face.Class != 9:
					t.Errorf("a %s with %v", class, face)
				}
			}
		}
		for _, cut := range [][]byte{descriptors[:len(descriptors)-1], append(bytes.Clone(descriptors), 0)} {
			if _, err := Parse(cut); err == nil {
				t.Errorf("good with %d bytes, and with %d", len(descriptors), len(cut))
			}
		}
	})
}
