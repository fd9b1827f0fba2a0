package usbredir

import (
	"encoding/binary"
	"unicode/utf16"
)

// Speed of a device, as usbredir counts them.
type Speed byte

// Speeds.
const (
	LowSpeed Speed = iota
	FullSpeed
	HighSpeed
	SuperSpeed
)

// Types of descriptors (USB 2.0, table 9-5; USB 3.2, table 9-6).
const (
	descDevice        = 1
	descConfiguration = 2
	descString        = 3
	descInterface     = 4
	descEndpoint      = 5
	descQualifier     = 6
	descBOS           = 15
	descCapability    = 16
	descHID           = 0x21
	descReport        = 0x22
	descHub           = 0x29
	descCompanion     = 48
)

// Numbers of strings.
const (
	stringManufacturer = 1 + iota
	stringName
	stringSerial
	stringMAC // of a network interface
)

// Face is all that a device says of itself: its descriptors, in fields.
type Face struct {
	Speed                     Speed
	Vendor, Product, Version  uint16 // idVendor, idProduct, bcdDevice
	Class, SubClass, Protocol byte   // of the device descriptor; 0 leaves it to the interfaces
	Manufacturer, Name        string // iManufacturer, iProduct; none if empty
	Serial                    string
	Configurations            []Configuration

	// Raw, if set, is sent in place of the configuration descriptors, one each, right or wrong.
	Raw [][]byte
}

// Configuration is one of the ways that a device can be set to. Its value is its index + 1.
type Configuration struct {
	Interfaces []Interface // all alternate settings, in the order of the descriptors
}

// Interface is one alternate setting of an interface.
type Interface struct {
	Number, Alternate         byte
	Class, SubClass, Protocol byte
	Extra                     []byte // descriptors between the interface's and its endpoints'
	Endpoints                 []Endpoint
}

// Endpoint of an interface. Attributes are 2 for bulk and 3 for interrupt, and Interval is bInterval.
type Endpoint struct {
	Address, Attributes, Interval byte
	MaxPacket                     uint16
}

// active are the interfaces of a configuration with the alternate settings that alternates has, else 0.
func (c *Configuration) active(alternates map[byte]byte) []Interface {
	var active []Interface
	for _, f := range c.Interfaces {
		if f.Alternate == alternates[f.Number] {
			active = append(active, f)
		}
	}
	return active
}

// DeviceDescriptor is the device descriptor's 18 bytes (USB 2.0, 9.6.1).
func (f *Face) DeviceDescriptor() []byte {
	version, packetSize := uint16(0x0200), byte(64)
	if f.Speed == SuperSpeed {
		version, packetSize = 0x0300, 9
	}
	b := []byte{18, descDevice}
	b = binary.LittleEndian.AppendUint16(b, version)
	b = append(b, f.Class, f.SubClass, f.Protocol, packetSize)
	for _, v := range []uint16{f.Vendor, f.Product, f.Version} {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	for i, s := range []string{f.Manufacturer, f.Name, f.Serial} {
		if s == "" {
			b = append(b, 0)
		} else {
			b = append(b, byte(stringManufacturer+i))
		}
	}
	return append(b, byte(f.configurations()))
}

func (f *Face) configurations() int { return max(len(f.Raw), len(f.Configurations)) }

// ConfigurationDescriptor is the configuration descriptor with all that belongs to it (USB 2.0, 9.6.3), nil when there
// is none with this index.
func (f *Face) ConfigurationDescriptor(index int) []byte {
	if index < len(f.Raw) {
		return f.Raw[index]
	}
	if index >= len(f.Configurations) {
		return nil
	}
	c := &f.Configurations[index]
	numbers := map[byte]bool{}
	var body []byte
	for _, i := range c.Interfaces {
		numbers[i.Number] = true
		body = append(body, 9, descInterface, i.Number, i.Alternate, byte(len(i.Endpoints)), i.Class, i.SubClass, i.Protocol, 0)
		body = append(body, i.Extra...)
		for _, e := range i.Endpoints {
			body = append(body, 7, descEndpoint, e.Address, e.Attributes)
			body = binary.LittleEndian.AppendUint16(body, e.MaxPacket)
			body = append(body, e.Interval)
			if f.Speed == SuperSpeed {
				burst := byte(0)
				if e.Attributes&3 == 2 {
					burst = 15
				}
				body = append(body, 6, descCompanion, burst, 0, 0, 0)
			}
		}
	}
	power := byte(100) // × 2 mA
	if f.Speed == SuperSpeed {
		power = 25 // × 8 mA
	}
	b := binary.LittleEndian.AppendUint16([]byte{9, descConfiguration}, uint16(9+len(body)))
	b = append(b, byte(len(numbers)), byte(index+1), 0, 0x80, power)
	return append(b, body...)
}

// Descriptors is what the file "descriptors" of sysfs has of such a device: the device descriptor, and then all
// configurations.
func (f *Face) Descriptors() []byte {
	b := f.DeviceDescriptor()
	for i := range f.configurations() {
		b = append(b, f.ConfigurationDescriptor(i)...)
	}
	return b
}

// qualifier is the device qualifier (USB 2.0, 9.6.2).
func (f *Face) qualifier() []byte {
	return []byte{10, descQualifier, 0, 2, f.Class, f.SubClass, f.Protocol, 64, byte(f.configurations()), 0}
}

// bos is the binary device object store (USB 3.2, 9.6.2), with the two capabilities that a device of SuperSpeed has to
// have: USB 2.0 extension and SuperSpeed.
func (f *Face) bos() []byte {
	return []byte{
		5, descBOS, 22, 0, 2,
		7, descCapability, 2, 0, 0, 0, 0,
		10, descCapability, 3, 0, 0x0E, 0, 1, 10, 0xFF, 7,
	}
}

// text is a string descriptor (USB 2.0, 9.6.7), nil for one that isn't there.
func (f *Face) text(index byte) []byte {
	s := ""
	switch index {
	case 0:
		return []byte{4, descString, 0x09, 0x04} // US English
	case stringManufacturer:
		s = f.Manufacturer
	case stringName:
		s = f.Name
	case stringSerial:
		s = f.Serial
	case stringMAC:
		s = "020000000001"
	}
	if s == "" {
		return nil
	}
	units := utf16.Encode([]rune(s))
	units = units[:min(len(units), 126)]
	b := []byte{byte(2 + 2*len(units)), descString}
	for _, u := range units {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// bulkPacket is how many bytes a bulk endpoint's packet has (USB 2.0, 5.8.3; USB 3.2, 9.6.6).
func (f *Face) bulkPacket() uint16 {
	switch f.Speed {
	case SuperSpeed:
		return 1024
	case HighSpeed:
		return 512
	}
	return 64
}

// Kinds of interfaces that Add knows.
const (
	Storage  = "storage"  // SCSI, bulk-only: 08:06:50
	UAS      = "uas"      // 08:06:62, of which only the descriptors are there
	Keyboard = "keyboard" // HID, boot protocol: 03:01:01
	Mouse    = "mouse"    // 03:01:02
	Network  = "network"  // CDC Ethernet, two interfaces: 02:06:00 and 0A:00:00
	Serial   = "serial"   // CDC ACM, two interfaces: 02:02:01 and 0A:00:00
	MTP      = "mtp"      // still imaging: 06:01:01
	Vendor   = "vendor"   // FF:FF:FF
	Hub      = "hub"      // 09:00:00
)

// classes are the class, subclass and protocol of the first interface of each kind.
var classes = map[string][3]byte{
	Storage: {8, 6, 0x50}, UAS: {8, 6, 0x62}, Keyboard: {3, 1, 1}, Mouse: {3, 1, 2}, Network: {2, 6, 0}, Serial: {2, 2, 1},
	MTP: {6, 1, 1}, Vendor: {0xFF, 0xFF, 0xFF}, Hub: {9, 0, 0},
}

// endpointNumbers are the highest ones in use, of inputs and of outputs.
func (c *Configuration) endpointNumbers() (in, out byte) {
	for _, f := range c.Interfaces {
		for _, e := range f.Endpoints {
			if e.Address&0x80 != 0 {
				in = max(in, e.Address&15)
			} else {
				out = max(out, e.Address&15)
			}
		}
	}
	return in, out
}

// Add adds an interface of a kind to the last configuration, with endpoints of its own as far as there are any left,
// and returns its number. It makes the first configuration where there is none.
func (f *Face) Add(kind string) byte {
	if len(f.Configurations) == 0 {
		f.Configurations = append(f.Configurations, Configuration{})
	}
	c := &f.Configurations[len(f.Configurations)-1]
	number := byte(0)
	for _, i := range c.Interfaces {
		number = max(number, i.Number+1)
	}
	f.add(c, kind, number, 0)
	return number
}

// AddAlternate adds one more setting to an interface of the last configuration: of another kind, or the same.
func (f *Face) AddAlternate(number byte, kind string) {
	if len(f.Configurations) == 0 {
		f.Configurations = append(f.Configurations, Configuration{})
	}
	c := &f.Configurations[len(f.Configurations)-1]
	alternate := byte(0)
	for _, i := range c.Interfaces {
		if i.Number == number {
			alternate = max(alternate, i.Alternate+1)
		}
	}
	f.add(c, kind, number, alternate)
}

func (f *Face) add(c *Configuration, kind string, number, alternate byte) {
	class := classes[kind]
	i := Interface{Number: number, Alternate: alternate, Class: class[0], SubClass: class[1], Protocol: class[2]}
	in, out := c.endpointNumbers()
	next := func(attributes byte, input bool, size uint16) Endpoint {
		e := Endpoint{Attributes: attributes, MaxPacket: size}
		if attributes == 3 {
			e.Interval = 7
		}
		if input {
			in++
			e.Address = 0x80 | in&15
		} else {
			out++
			e.Address = out & 15
		}
		return e
	}
	bulk := f.bulkPacket()
	switch kind {
	case Keyboard, Mouse:
		report := uint16(len(keyboardReport))
		i.Extra = binary.LittleEndian.AppendUint16([]byte{9, descHID, 0x11, 1, 0, 1, descReport}, report)
		i.Endpoints = []Endpoint{next(3, true, 8)}
	case Hub:
		i.Endpoints = []Endpoint{next(3, true, 1)}
	case MTP:
		i.Endpoints = []Endpoint{next(2, true, bulk), next(2, false, bulk), next(3, true, 8)}
	case Network, Serial:
		if i.Extra = []byte{5, 0x24, 0, 0x10, 1, 5, 0x24, 6, number, number + 1}; kind == Network {
			i.Extra = append(i.Extra, 13, 0x24, 15, stringMAC, 0, 0, 0, 0, 0xEA, 5, 0, 0, 0)
		}
		i.Endpoints = []Endpoint{next(3, true, 16)}
		c.Interfaces = append(c.Interfaces, i)
		i = Interface{Number: number + 1, Class: 10, Endpoints: []Endpoint{next(2, true, bulk), next(2, false, bulk)}}
	default:
		i.Endpoints = []Endpoint{next(2, true, bulk), next(2, false, bulk)}
	}
	c.Interfaces = append(c.Interfaces, i)
}

// keyboardReport is the report descriptor of a boot keyboard's input: modifiers, a reserved byte, six keys (HID 1.11,
// appendix B.1).
var keyboardReport = []byte{
	0x05, 0x01, 0x09, 0x06, 0xA1, 0x01, 0x05, 0x07, 0x19, 0xE0, 0x29, 0xE7, 0x15, 0x00, 0x25, 0x01, 0x75, 0x01, 0x95, 0x08, 0x81, 0x02,
	0x95, 0x01, 0x75, 0x08, 0x81, 0x01, 0x95, 0x06, 0x75, 0x08, 0x15, 0x00, 0x25, 0x65, 0x05, 0x07, 0x19, 0x00, 0x29, 0x65, 0x81, 0x00, 0xC0,
}

// Malformations that Malform knows.
const (
	ZeroLength     = "zero-length"     // a descriptor whose bLength is 0
	TooLong        = "too-long"        // the last descriptor's bLength leads out
	TotalShort     = "total-short"     // wTotalLength is less than there is
	TotalLong      = "total-long"      // wTotalLength is more than there is
	ManyInterfaces = "many-interfaces" // 64 interfaces, bNumInterfaces 64
	CountLies      = "count-lies"      // bNumInterfaces is 1 less than there are descriptors for
	Truncated      = "truncated"       // it ends within a descriptor, and wTotalLength agrees
)

// Malform turns the configuration descriptors of a face into wrong ones. It reports whether it knows how.
func (f *Face) Malform(how string) bool {
	var raw [][]byte
	for index := range f.Configurations {
		b := f.ConfigurationDescriptor(index)
		switch how {
		case ZeroLength:
			b[9] = 0
		case TooLong:
			last := 0
			for i := 0; i < len(b); i += int(b[i]) {
				last = i
			}
			b[last] = 0xFF
		case TotalShort:
			binary.LittleEndian.PutUint16(b[2:], uint16(len(b)-7))
		case TotalLong:
			binary.LittleEndian.PutUint16(b[2:], uint16(len(b)+64))
		case ManyInterfaces:
			first := b[9:18:18]
			b = b[:9:9]
			for n := range 64 {
				b = append(b, first...)
				b[len(b)-9+2], b[len(b)-9+4] = byte(n), 0 // bInterfaceNumber; no endpoints
			}
			b[4] = 64
			binary.LittleEndian.PutUint16(b[2:], uint16(len(b)))
		case CountLies:
			b[4]--
		case Truncated:
			b = b[:len(b)-3]
			binary.LittleEndian.PutUint16(b[2:], uint16(len(b)))
		default:
			return false
		}
		raw = append(raw, b)
	}
	f.Raw = raw
	return true
}
