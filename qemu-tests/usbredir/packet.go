package usbredir

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Types of packets (usbredir protocol 0.7, "List of packets").
const (
	typeHello                    = 0
	typeDeviceConnect            = 1
	typeDeviceDisconnect         = 2
	typeReset                    = 3
	typeInterfaceInfo            = 4
	typeEPInfo                   = 5
	typeSetConfiguration         = 6
	typeGetConfiguration         = 7
	typeConfigurationStatus      = 8
	typeSetAltSetting            = 9
	typeGetAltSetting            = 10
	typeAltSettingStatus         = 11
	typeStartIsoStream           = 12
	typeStopIsoStream            = 13
	typeIsoStreamStatus          = 14
	typeStartInterruptReceiving  = 15
	typeStopInterruptReceiving   = 16
	typeInterruptReceivingStatus = 17
	typeAllocBulkStreams         = 18
	typeFreeBulkStreams          = 19
	typeBulkStreamsStatus        = 20
	typeCancelDataPacket         = 21
	typeFilterReject             = 22
	typeFilterFilter             = 23
	typeDeviceDisconnectAck      = 24
	typeControlPacket            = 100
	typeBulkPacket               = 101
	typeIsoPacket                = 102
	typeInterruptPacket          = 103
)

// Capabilities. QEMU's xHCI takes no device from a peer without the last three.
const (
	capConnectDeviceVersion = 1 << 1
	capFilter               = 1 << 2
	capDisconnectAck        = 1 << 3
	capEPInfoMaxPacketSize  = 1 << 4
	cap64BitIDs             = 1 << 5
	cap32BitBulkLength      = 1 << 6

	ourCaps    = capConnectDeviceVersion | capFilter | capDisconnectAck | capEPInfoMaxPacketSize | cap64BitIDs | cap32BitBulkLength
	neededCaps = capEPInfoMaxPacketSize | cap64BitIDs | cap32BitBulkLength
)

// Status of a transfer.
const (
	statusSuccess   = 0
	statusCancelled = 1
	statusInvalid   = 2
	statusIOError   = 3
	statusStall     = 4
	statusBabble    = 6
)

const (
	versionLen = 64
	maxHello   = 64       // bytes of capabilities; one word is known
	maxFilter  = 64 << 10 // bytes of a filter, which is ignored
	maxBulk    = 16 << 20 // bytes of a bulk transfer; Linux makes none above 1 MiB for a disk
)

// packet is one message. id is the transfer's, and comes back with the reply.
type packet struct {
	typ  uint32
	id   uint64
	head []byte // of the type's own, fixed layout
	data []byte
}

// guestPackets are those that QEMU may send: the length of what is fixed, and how much data may follow.
var guestPackets = map[uint32]struct{ head, data int }{
	typeHello:                   {versionLen, maxHello},
	typeReset:                   {},
	typeSetConfiguration:        {head: 1},
	typeGetConfiguration:        {},
	typeSetAltSetting:           {head: 2},
	typeGetAltSetting:           {head: 1},
	typeStartIsoStream:          {head: 3},
	typeStopIsoStream:           {head: 1},
	typeStartInterruptReceiving: {head: 1},
	typeStopInterruptReceiving:  {head: 1},
	typeAllocBulkStreams:        {head: 8},
	typeFreeBulkStreams:         {head: 4},
	typeCancelDataPacket:        {},
	typeFilterReject:            {},
	typeFilterFilter:            {data: maxFilter},
	typeDeviceDisconnectAck:     {},
	typeControlPacket:           {10, 1<<16 - 1},
	typeBulkPacket:              {10, maxBulk},
	typeIsoPacket:               {4, 1<<16 - 1},
	typeInterruptPacket:         {4, 1<<16 - 1},
}

// readPacket reads a packet of QEMU's. The hello has an id of 32 bits; all that follow have 64 (capability 5). The
// lengths are held to the bounds before anything is allocated. A connection that ended between two packets is io.EOF.
func readPacket(r io.Reader, wide bool) (packet, error) {
	var h [16]byte
	header := h[:12]
	if wide {
		header = h[:]
	}
	if n, err := io.ReadFull(r, header); err != nil {
		if n == 0 && errors.Is(err, io.EOF) {
			return packet{}, io.EOF
		}
		return packet{}, fmt.Errorf("byte %d of a packet's header: %w", n, err)
	}
	p := packet{typ: binary.LittleEndian.Uint32(h[0:]), id: uint64(binary.LittleEndian.Uint32(h[8:]))}
	if wide {
		p.id = binary.LittleEndian.Uint64(h[8:])
	}
	length := binary.LittleEndian.Uint32(h[4:])
	layout, ok := guestPackets[p.typ]
	if !ok {
		return p, fmt.Errorf("byte 0: packet type %d, which no host gets", p.typ)
	}
	if int64(length) < int64(layout.head) || int64(length) > int64(layout.head)+int64(layout.data) {
		return p, fmt.Errorf("byte 4: packet type %d of %d bytes, want %d to %d", p.typ, length, layout.head, layout.head+layout.data)
	}
	body := make([]byte, length)
	if n, err := io.ReadFull(r, body); err != nil {
		return p, fmt.Errorf("byte %d of a packet of type %d: %w", len(header)+n, p.typ, noEOF(err))
	}
	p.head, p.data = body[:layout.head], body[layout.head:]
	return p, p.check(len(header))
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// check holds what is fixed of a packet, and its data, to each other. at is where the body begins.
func (p *packet) check(at int) error {
	var endpoint byte
	var length, most int
	switch p.typ {
	case typeStartInterruptReceiving, typeStopInterruptReceiving:
		if p.head[0]&0x80 == 0 {
			return fmt.Errorf("byte %d: interrupts to be received from endpoint %02xh, which is an output", at, p.head[0])
		}
		return nil
	case typeFilterFilter:
		if len(p.data) == 0 || p.data[len(p.data)-1] != 0 {
			return fmt.Errorf("byte %d: a filter without an end", at+len(p.data))
		}
		return nil
	case typeControlPacket:
		endpoint, length, most = p.head[0], int(binary.LittleEndian.Uint16(p.head[8:])), 1<<16-1
		if (endpoint^p.head[2])&0x80 != 0 || endpoint&0x7F != 0 {
			return fmt.Errorf("byte %d: a control transfer of request type %02xh on endpoint %02xh", at, p.head[2], endpoint)
		}
	case typeBulkPacket:
		endpoint, length, most = p.head[0], p.bulkLength(), maxBulk
	case typeIsoPacket, typeInterruptPacket:
		endpoint, length, most = p.head[0], int(binary.LittleEndian.Uint16(p.head[2:])), 1<<16-1
		if endpoint&0x80 != 0 {
			return fmt.Errorf("byte %d: a packet of type %d to endpoint %02xh, which is an input", at, p.typ, endpoint)
		}
	default:
		return nil
	}
	if length > most {
		return fmt.Errorf("byte %d: a transfer of %d bytes, at most %d", at, length, most)
	}
	if want := length; endpoint&0x80 != 0 && len(p.data) != 0 || endpoint&0x80 == 0 && len(p.data) != want {
		return fmt.Errorf("byte %d: %d bytes of data with a transfer of %d bytes on endpoint %02xh", at+len(p.head), len(p.data), length, endpoint)
	}
	return nil
}

// bulkLength joins both halves of a bulk packet's length (capability 6).
func (p *packet) bulkLength() int {
	return int(binary.LittleEndian.Uint16(p.head[2:])) | int(binary.LittleEndian.Uint16(p.head[8:]))<<16
}

// encode is the packet as it goes over the wire.
func (p *packet) encode(wide bool) []byte {
	b := make([]byte, 0, 16+len(p.head)+len(p.data))
	b = binary.LittleEndian.AppendUint32(b, p.typ)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p.head)+len(p.data)))
	if wide {
		b = binary.LittleEndian.AppendUint64(b, p.id)
	} else {
		b = binary.LittleEndian.AppendUint32(b, uint32(p.id))
	}
	return append(append(b, p.head...), p.data...)
}

// hello says what version we are and what we can.
func hello() packet {
	p := packet{typ: typeHello, head: make([]byte, versionLen)}
	copy(p.head, "sallyport usbredir")
	p.data = binary.LittleEndian.AppendUint32(nil, ourCaps)
	return p
}

// caps are the capabilities of a hello.
func (p *packet) caps() uint32 {
	if len(p.data) < 4 {
		return 0
	}
	return binary.LittleEndian.Uint32(p.data)
}

// deviceConnect tells of a device.
func deviceConnect(f *Face, caps uint32) packet {
	h := []byte{byte(f.Speed), f.Class, f.SubClass, f.Protocol}
	h = binary.LittleEndian.AppendUint16(h, f.Vendor)
	h = binary.LittleEndian.AppendUint16(h, f.Product)
	if caps&capConnectDeviceVersion != 0 {
		h = binary.LittleEndian.AppendUint16(h, f.Version)
	}
	return packet{typ: typeDeviceConnect, head: h}
}

// maxInfo is how many interfaces, and endpoints, the two tables below have room for.
const maxInfo = 32

// interfaceInfo is the table of the interfaces that a configuration has. More than fit are left out: a device may have
// them all the same.
func interfaceInfo(active []Interface) packet {
	active = active[:min(len(active), maxInfo)]
	h := make([]byte, 4+4*maxInfo)
	binary.LittleEndian.PutUint32(h, uint32(len(active)))
	for i, f := range active {
		for j, v := range []byte{f.Number, f.Class, f.SubClass, f.Protocol} {
			h[4+j*maxInfo+i] = v
		}
	}
	return packet{typ: typeInterfaceInfo, head: h}
}

// epInfo is the table of endpoints. Endpoint 0 is there both ways.
func epInfo(active []Interface) packet {
	h := make([]byte, 5*maxInfo)
	for i := range maxInfo {
		h[i] = 255 // no endpoint
	}
	put := func(index int, kind, interval, number byte, maxPacket uint16) {
		h[index], h[maxInfo+index], h[2*maxInfo+index] = kind, interval, number
		binary.LittleEndian.PutUint16(h[3*maxInfo+2*index:], maxPacket)
	}
	put(0, 0, 0, 0, 64)
	put(16, 0, 0, 0, 64)
	for _, f := range active {
		for _, e := range f.Endpoints {
			if e.Address&15 != 0 {
				put(int(e.Address&0x80>>3|e.Address&15), e.Attributes&3, max(e.Interval, 1), f.Number, e.MaxPacket&0x7FF)
			}
		}
	}
	return packet{typ: typeEPInfo, head: h}
}
