package usb

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// MaxDescriptors is the length in bytes of the longest descriptors that sysfs shows: those of the device, and 65,535 for
// all its configurations. What is longer is cut off there, and so refused as cut off.
const MaxDescriptors = deviceLength + 65535

// Limits of the kernel (include/linux/usb.h, drivers/usb/core/config.c). What has more is something that the kernel
// would see only a part of.
const (
	maxConfigurations = 8
	maxInterfaces     = 32
	maxAltSettings    = 128
	maxEndpoints      = 30
)

// Types of descriptors (USB 2.0 table 9-5, USB 3.2 table 9-6), and their lengths in bytes.
const (
	typeDevice        = 0x01
	typeConfiguration = 0x02
	typeInterface     = 0x04
	typeEndpoint      = 0x05
	typeAssociation   = 0x0b
	typeCompanion     = 0x30 // SuperSpeed endpoint companion, USB 3.2 section 9.6.7

	deviceLength        = 18
	configurationLength = 9
	interfaceLength     = 9
	endpointLength      = 7
	audioEndpointLength = 9 // with bRefresh and bSynchAddress, USB Audio 1.0 section 4.6.1.1
	associationLength   = 8
	companionLength     = 6
)

// Device is what a device says that it is: its device descriptor, and those of all its configurations with all their
// interfaces in all their alternate settings (USB 2.0 section 9.6).
type Device struct {
	USB            uint16 // release of the standard, in BCD: 0x0210
	Function       Triple // of the device as a whole; zero where each interface says its own
	Vendor         uint16
	Product        uint16
	Release        uint16 // of the device, in BCD
	Configurations []Configuration

	hash [sha256.Size]byte
}

// Triple is a class, a subclass and a protocol (usb.org, Defined Class Codes).
type Triple struct{ Class, SubClass, Protocol uint8 }

// String writes t as in 08:06:50.
func (t Triple) String() string {
	return fmt.Sprintf("%02x:%02x:%02x", t.Class, t.SubClass, t.Protocol)
}

// Configuration is one of which a device is in one at a time.
type Configuration struct {
	Value        uint8 // bConfigurationValue
	Associations []Association
	AltSettings  []AltSetting // of all interfaces, in the device's order
}

// Association says that some interfaces are one function (USB 3.2 section 9.6.4).
type Association struct {
	First, Count uint8 // of interfaces
	Function     Triple
}

// AltSetting is one alternate setting of an interface.
type AltSetting struct {
	Interface uint8
	Alternate uint8
	Function  Triple
	Endpoints []Endpoint
	Offset    int // in bytes, of its descriptor
}

// Endpoint is one of an alternate setting.
type Endpoint struct {
	Address    uint8 // bit 7 set for one that the device sends on
	Attributes uint8
	MaxPacket  uint16 // in bytes, with the bits for more of them
}

// Hash is the SHA-256, in hexadecimal, over all the bytes that the device was parsed from. Sticks of one kind have the same.
func (d *Device) Hash() string { return hex.EncodeToString(d.hash[:]) }

// ID is the vendor and the product, as in 0951:1666.
func (d *Device) ID() string { return fmt.Sprintf("%04x:%04x", d.Vendor, d.Product) }

// interfaces are the numbers of a configuration's interfaces, in the device's order.
func (c *Configuration) interfaces() []uint8 {
	var list []uint8
	seen := make(map[uint8]bool)
	for _, s := range c.AltSettings {
		if !seen[s.Interface] {
			seen[s.Interface] = true
			list = append(list, s.Interface)
		}
	}
	return list
}

// descriptorError says what is wrong with descriptors, and where.
type descriptorError struct {
	offset int
	msg    string
}

func (e *descriptorError) Error() string {
	return fmt.Sprintf("parse usb descriptors: byte %d: %s", e.offset, e.msg)
}

func wrong(offset int, format string, args ...any) error {
	return &descriptorError{offset, fmt.Sprintf(format, args...)}
}

// Parse parses what sysfs has in a device's file named descriptors: the device descriptor, and behind it all
// configurations, whole. Where the kernel mends what a device says of itself, or leaves some of it out, Parse refuses, so
// that what is judged here is what the kernel goes by. Errors name the offset in bytes.
//
// With an error comes what was parsed before it, to tell somebody what the device claims to be and for nothing else; it
// is nil where not even the device descriptor is good.
func Parse(descriptors []byte) (*Device, error) {
	if len(descriptors) > MaxDescriptors {
		return nil, wrong(MaxDescriptors, "there are more than %d bytes", MaxDescriptors)
	}
	if len(descriptors) < deviceLength || descriptors[0] != deviceLength || descriptors[1] != typeDevice {
		return nil, wrong(0, "no device descriptor of %d bytes", deviceLength)
	}
	le := binary.LittleEndian
	d := &Device{
		USB: le.Uint16(descriptors[2:]), Function: Triple{descriptors[4], descriptors[5], descriptors[6]},
		Vendor: le.Uint16(descriptors[8:]), Product: le.Uint16(descriptors[10:]), Release: le.Uint16(descriptors[12:]),
		hash: sha256.Sum256(descriptors),
	}
	count := int(descriptors[17])
	if count == 0 || count > maxConfigurations {
		return d, wrong(17, "%d configurations, not 1 to %d", count, maxConfigurations)
	}
	offset := deviceLength
	values := make(map[uint8]bool)
	for range count {
		p := configurationParser{all: descriptors, at: offset}
		err := p.parse()
		d.Configurations = append(d.Configurations, p.Configuration)
		if err != nil {
			return d, err
		}
		if values[p.Value] {
			return d, wrong(offset, "a second configuration with the value %d", p.Value)
		}
		values[p.Value] = true
		offset = p.end
	}
	if offset != len(descriptors) {
		return d, wrong(offset, "%d bytes are left behind the last configuration", len(descriptors)-offset)
	}
	return d, nil
}

// configurationParser parses one configuration.
type configurationParser struct {
	Configuration
	all     []byte // of the device
	at, end int    // offsets of the next descriptor, and of the end of this configuration

	endpoints int // that the current alternate setting still wants
	companion bool
	count     map[uint8]int // of alternate settings of each interface
	seen      map[[2]uint8]bool
}

func (p *configurationParser) parse() error {
	begin := p.at
	head := p.all[begin:]
	if len(head) < configurationLength {
		return wrong(begin, "the descriptors end before this configuration")
	}
	if head[0] != configurationLength || head[1] != typeConfiguration {
		return wrong(begin, "no configuration descriptor of %d bytes", configurationLength)
	}
	total := int(binary.LittleEndian.Uint16(head[2:]))
	if total < configurationLength || total > len(head) {
		return wrong(begin+2, "a configuration of %d bytes where there are %d", total, len(head))
	}
	interfaces := int(head[4])
	p.Value, p.end, p.count, p.seen = head[5], begin+total, make(map[uint8]int), make(map[[2]uint8]bool)
	if interfaces == 0 || interfaces > maxInterfaces {
		return wrong(begin+4, "%d interfaces, not 1 to %d", interfaces, maxInterfaces)
	}
	for p.at += configurationLength; p.at < p.end; {
		rest := p.all[p.at:p.end]
		if len(rest) < 2 || rest[0] < 2 || int(rest[0]) > len(rest) {
			return wrong(p.at, "a descriptor of %d bytes where %d are left of the configuration", rest[0], len(rest))
		}
		if err := p.take(rest[:rest[0]]); err != nil {
			return err
		}
		p.at += int(rest[0])
	}
	if err := p.finishSetting(); err != nil {
		return err
	}
	if len(p.count) != interfaces {
		return wrong(begin+4, "%d interfaces are promised, %d described", interfaces, len(p.count))
	}
	for _, number := range p.interfaces() {
		if !p.seen[[2]uint8{number, 0}] {
			return wrong(begin, "interface %d has no alternate setting 0, which is the one it begins with", number)
		}
	}
	return nil
}

// take parses one descriptor of a configuration. What belongs to a class is none of the gate's business; it was its
// length that mattered.
func (p *configurationParser) take(b []byte) error {
	afterEndpoint := p.companion
	p.companion = false
	switch b[1] {
	case typeDevice, typeConfiguration:
		return wrong(p.at, "a descriptor of type %d within a configuration", b[1])
	case typeInterface:
		return p.takeInterface(b)
	case typeEndpoint:
		return p.takeEndpoint(b)
	case typeAssociation:
		if len(b) != associationLength || b[3] == 0 {
			return wrong(p.at, "an interface association of %d bytes for %d interfaces", len(b), b[min(3, len(b)-1)])
		}
		p.Associations = append(p.Associations, Association{First: b[2], Count: b[3], Function: Triple{b[4], b[5], b[6]}})
	case typeCompanion:
		if len(b) != companionLength || !afterEndpoint {
			return wrong(p.at, "a SuperSpeed endpoint companion of %d bytes that belongs to no endpoint", len(b))
		}
	default:
		p.companion = afterEndpoint
	}
	return nil
}

func (p *configurationParser) takeInterface(b []byte) error {
	if len(b) != interfaceLength {
		return wrong(p.at, "an interface descriptor of %d bytes, not %d", len(b), interfaceLength)
	}
	if err := p.finishSetting(); err != nil {
		return err
	}
	s := AltSetting{Interface: b[2], Alternate: b[3], Function: Triple{b[5], b[6], b[7]}, Offset: p.at}
	switch {
	case s.Interface >= maxInterfaces:
		return wrong(p.at, "interface number %d, which is more than %d", s.Interface, maxInterfaces-1)
	case p.seen[[2]uint8{s.Interface, s.Alternate}]:
		return wrong(p.at, "a second alternate setting %d of interface %d", s.Alternate, s.Interface)
	case p.count[s.Interface] == maxAltSettings:
		return wrong(p.at, "interface %d has more than %d alternate settings", s.Interface, maxAltSettings)
	case b[4] > maxEndpoints:
		return wrong(p.at, "interface %d has %d endpoints, more than %d", s.Interface, b[4], maxEndpoints)
	}
	p.endpoints = int(b[4])
	p.count[s.Interface]++
	p.seen[[2]uint8{s.Interface, s.Alternate}] = true
	p.AltSettings = append(p.AltSettings, s)
	return nil
}

func (p *configurationParser) takeEndpoint(b []byte) error {
	if len(b) != endpointLength && len(b) != audioEndpointLength {
		return wrong(p.at, "an endpoint descriptor of %d bytes, not %d", len(b), endpointLength)
	}
	if p.endpoints == 0 {
		return wrong(p.at, "an endpoint that no interface has room for")
	}
	e := Endpoint{Address: b[2], Attributes: b[3], MaxPacket: binary.LittleEndian.Uint16(b[4:])}
	if e.Address&0x0f == 0 || e.Address&0x70 != 0 {
		return wrong(p.at, "an endpoint with the address %#02x", e.Address)
	}
	s := &p.AltSettings[len(p.AltSettings)-1]
	for _, other := range s.Endpoints {
		if other.Address == e.Address {
			return wrong(p.at, "a second endpoint with the address %#02x", e.Address)
		}
	}
	s.Endpoints = append(s.Endpoints, e)
	p.endpoints--
	p.companion = true
	return nil
}

// finishSetting makes sure that the alternate setting before has got all its endpoints.
func (p *configurationParser) finishSetting() error {
	if p.endpoints != 0 {
		s := p.AltSettings[len(p.AltSettings)-1]
		return wrong(p.at, "interface %d ends, %d endpoints before it has all", s.Interface, p.endpoints)
	}
	return nil
}
