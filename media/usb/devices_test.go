package usb

import "encoding/binary"

// raw is a descriptor of this type.
func raw(kind byte, body ...byte) []byte { return append([]byte{byte(len(body) + 2), kind}, body...) }

func join(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// device has the vendor and product 0951:1666.
func device(function Triple, configurations ...[]byte) []byte {
	head := raw(typeDevice, 0x10, 0x02, function.Class, function.SubClass, function.Protocol, 64, 0x51, 0x09, 0x66, 0x16, 0x10, 0x01, 1, 2, 3, byte(len(configurations)))
	return append(head, join(configurations...)...)
}

// configuration counts the numbers of its interfaces.
func configuration(value byte, parts ...[]byte) []byte {
	body, numbers := join(parts...), make(map[byte]bool)
	for at := 0; at+2 < len(body) && body[at] > 1; at += int(body[at]) {
		if body[at+1] == typeInterface {
			numbers[body[at+2]] = true
		}
	}
	head := raw(typeConfiguration, 0, 0, byte(len(numbers)), value, 0, 0x80, 50)
	binary.LittleEndian.PutUint16(head[2:], uint16(len(head)+len(body)))
	return append(head, body...)
}

// face is an alternate setting and its endpoints.
func face(number, alternate byte, t Triple, endpoints ...[]byte) []byte {
	head := raw(typeInterface, number, alternate, byte(len(endpoints)), t.Class, t.SubClass, t.Protocol, 0)
	return append(head, join(endpoints...)...)
}

func bulk(address byte) []byte      { return raw(typeEndpoint, address, 2, 0x00, 0x02, 0) }
func interrupt(address byte) []byte { return raw(typeEndpoint, address, 3, 8, 0, 10) }

// super is a bulk endpoint of a SuperSpeed device, with its companion and the UAS pipe (UAS-3 section 5.3.3).
func super(address, pipe byte) []byte {
	return join(raw(typeEndpoint, address, 2, 0x00, 0x04, 0), raw(typeCompanion, 15, 0, 0, 0), raw(0x24, pipe, 0))
}

func association(first, count byte, t Triple) []byte {
	return raw(typeAssociation, first, count, t.Class, t.SubClass, t.Protocol, 0)
}

var (
	bulkOnly = Triple{0x08, 0x06, 0x50}
	attached = Triple{0x08, 0x06, 0x62} // SCSI
	hidBoot  = Triple{0x03, 0x01, 0x01}
	hidNone  = Triple{0x03, 0x00, 0x00}
	cdc      = Triple{0x02, 0x06, 0x00}
	cdcData  = Triple{0x0a, 0x00, 0x00}
	vendor   = Triple{0xff, 0xff, 0xff}
	hubClass = Triple{0x09, 0x00, 0x00}
	none     = Triple{}

	hidDescriptor = raw(0x21, 0x11, 0x01, 0, 1, 0x22, 63, 0)
	storageFace   = face(0, 0, bulkOnly, bulk(0x81), bulk(0x02))
	keyboardFace  = join(face(1, 0, hidBoot), hidDescriptor)
)

// samples are devices, with what they are and what they claim.
var samples = map[string]struct {
	descriptors []byte
	classes     []Class
	claims      string
}{
	"stick": {device(none, configuration(1, storageFace)), []Class{Stick, Recorder}, "storage"},
	"uas stick": {device(none, configuration(1, face(0, 0, bulkOnly, super(0x81, 3), super(0x02, 4)),
		face(0, 1, attached, super(0x81, 3), super(0x02, 4), super(0x83, 2), super(0x04, 1)))), []Class{Stick, Recorder}, "storage"},
	"two configurations of a stick": {device(none, configuration(1, storageFace), configuration(2, face(3, 0, attached))), []Class{Stick, Recorder}, "storage"},
	"recorder":                      {device(none, configuration(1, face(0, 0, Triple{8, 2, 0x50}, bulk(0x81), bulk(2)))), []Class{Recorder}, "optical drive"},
	"keyboard":                      {device(none, configuration(1, face(0, 0, hidBoot, interrupt(0x81)))), []Class{Keyboard}, "keyboard"},
	"keyboard with a wheel": {device(none, configuration(1, join(face(0, 0, hidBoot), hidDescriptor), join(face(1, 0, hidNone, interrupt(0x82))))),
		[]Class{Keyboard}, "keyboard + input device"},
	"hub": {device(Triple{9, 0, 2}, configuration(1, face(0, 0, Triple{9, 0, 1}, interrupt(0x81)), face(0, 1, Triple{9, 0, 2}, interrupt(0x81)))),
		[]Class{Hub}, "hub"},

	// U1
	"stick and keyboard":                  {device(none, configuration(1, storageFace, keyboardFace)), nil, "storage + keyboard"},
	"stick and network":                   {device(none, configuration(1, storageFace, association(1, 2, cdc), face(1, 0, cdc), face(2, 0, cdcData), face(2, 1, cdcData, bulk(0x83), bulk(4)))), nil, "storage + network + communications data"},
	"stick and serial line":               {device(none, configuration(1, storageFace, face(1, 0, Triple{2, 2, 1}))), nil, "storage + serial line or modem"},
	"stick and vendor's own":              {device(none, configuration(1, storageFace, face(1, 0, vendor))), nil, "storage + vendor's own"},
	"stick and hub":                       {device(none, configuration(1, storageFace, face(1, 0, hubClass))), nil, "storage + hub"},
	"stick that can become a keyboard":    {device(none, configuration(1, storageFace, face(0, 1, hidBoot, interrupt(0x81)))), nil, "storage + keyboard"},
	"stick with a second configuration":   {device(none, configuration(1, storageFace), configuration(2, face(0, 0, hidBoot))), nil, "storage + keyboard"},
	"stick with the first one a keyboard": {device(none, configuration(2, face(0, 0, hidBoot)), configuration(1, storageFace)), nil, "keyboard + storage"},
	"two disks":                           {device(none, configuration(1, storageFace, face(1, 0, bulkOnly))), nil, "storage (2)"},
	"stick in an association":             {device(none, configuration(1, association(0, 1, Triple{0xe0, 1, 3}), storageFace)), nil, "storage + network"},
	"stick whose device is a hub":         {device(hubClass, configuration(1, storageFace)), nil, "hub + storage"},
	"stick whose device is many":          {device(Triple{0xef, 2, 1}, configuration(1, storageFace)), nil, "storage"},
	"control-bulk-interrupt floppy":       {device(none, configuration(1, face(0, 0, Triple{8, 4, 0}))), nil, "floppy"},
	"storage of a protocol of its own":    {device(none, configuration(1, face(0, 0, Triple{8, 6, 0xff}))), nil, "storage"},
	"telephone":                           {device(none, configuration(1, face(0, 0, Triple{6, 1, 1}))), nil, "camera or telephone"},
	"network":                             {device(Triple{2, 0, 0}, configuration(1, face(0, 0, cdc), face(1, 0, cdcData))), nil, "communications + network + communications data"},
	"bluetooth":                           {device(Triple{0xe0, 1, 1}, configuration(1, face(0, 0, Triple{0xe0, 1, 1}))), nil, "bluetooth"},
	"mouse":                               {device(none, configuration(1, face(0, 0, Triple{3, 1, 2}))), nil, "mouse"},
	"two keyboards":                       {device(none, configuration(1, face(0, 0, hidBoot), face(1, 0, hidBoot))), nil, "keyboard (2)"},
	"keyboard and audio":                  {device(none, configuration(1, face(0, 0, hidBoot), face(1, 0, Triple{1, 1, 0}))), nil, "keyboard + audio"},
	"keyboard in an association":          {device(none, configuration(1, association(0, 1, cdc), face(0, 0, hidBoot))), nil, "keyboard + network"},
	"keyboard that can become a disk":     {device(none, configuration(1, face(0, 0, hidBoot), face(1, 0, hidNone), face(1, 1, bulkOnly))), nil, "keyboard + input device + storage"},
	"hub and keyboard":                    {device(hubClass, configuration(1, face(0, 0, hubClass), face(1, 0, hidBoot))), nil, "hub + keyboard"},
	"hub that says it of itself alone":    {device(hubClass, configuration(1, face(0, 0, vendor))), nil, "hub + vendor's own"},
	"hub that says it of a face alone":    {device(none, configuration(1, face(0, 0, hubClass))), nil, "hub"},
	"unheard of":                          {device(none, configuration(1, face(0, 0, Triple{0x77, 1, 2}))), nil, "class 77:01:02"},
}
