package usbredir

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// limit is how long anything may take in these tests; nothing waits for it to pass.
const limit = 20 * time.Second

// peer is QEMU's side of a connection, as far as a test needs it.
type peer struct {
	t    *testing.T
	conn net.Conn
	id   uint64
	tag  uint32
	kept []packet // read while something else was looked for
}

// serve plays a device and returns the server and where it listens, for the length of the test.
func serve(t *testing.T, s *Server) (address string) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "usb"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

// dial connects and exchanges hellos.
func dial(t *testing.T, address string) *peer {
	t.Helper()
	conn, err := net.Dial("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, conn: conn}
	h := p.read(12)
	if h.typ != typeHello || !strings.HasPrefix(string(h.head), "sallyport") || h.caps() != 0x7E {
		t.Fatalf("the server's hello is %+v", h)
	}
	h.data = []byte{0xFE, 0, 0, 0} // what QEMU 7.2 has
	p.write(h.encode(false))
	return p
}

// hostHeads are the lengths of what is fixed of the packets that a server sends.
var hostHeads = map[uint32]int{
	typeHello: 64, typeDeviceConnect: 10, typeDeviceDisconnect: 0, typeInterfaceInfo: 132, typeEPInfo: 160, typeConfigurationStatus: 2,
	typeAltSettingStatus: 3, typeIsoStreamStatus: 2, typeInterruptReceivingStatus: 2, typeBulkStreamsStatus: 9,
	typeControlPacket: 10, typeBulkPacket: 10, typeInterruptPacket: 4,
}

func (p *peer) read(header int) packet {
	p.t.Helper()
	h := make([]byte, 16)
	if _, err := io.ReadFull(p.conn, h[:header]); err != nil {
		p.t.Fatalf("reading a packet's header: %v", err)
	}
	got := packet{typ: binary.LittleEndian.Uint32(h), id: binary.LittleEndian.Uint64(h[8:])}
	head, ok := hostHeads[got.typ]
	length := int(binary.LittleEndian.Uint32(h[4:]))
	if !ok || length < head {
		p.t.Fatalf("packet type %d of %d bytes", got.typ, length)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(p.conn, body); err != nil {
		p.t.Fatalf("reading a packet of type %d: %v", got.typ, err)
	}
	got.head, got.data = body[:head], body[head:]
	return got
}

func (p *peer) write(b []byte) {
	p.t.Helper()
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// send sends a packet with a new id, which it returns.
func (p *peer) send(typ uint32, head, data []byte) uint64 {
	p.t.Helper()
	p.id++
	q := packet{typ: typ, id: p.id, head: head, data: data}
	p.write(q.encode(true))
	return p.id
}

// expect reads until a packet of a type comes, for id if that isn't 0, and keeps all others.
func (p *peer) expect(typ uint32, id uint64) packet {
	p.t.Helper()
	fits := func(q packet) bool { return q.typ == typ && (id == 0 || q.id == id) }
	for i, q := range p.kept {
		if fits(q) {
			p.kept = append(p.kept[:i:i], p.kept[i+1:]...)
			return q
		}
	}
	for {
		q := p.read(16)
		if fits(q) {
			return q
		}
		p.kept = append(p.kept, q)
	}
}

// control makes a control transfer and returns status and data.
func (p *peer) control(s Setup, out []byte) (status byte, in []byte) {
	p.t.Helper()
	h := []byte{s.RequestType & 0x80, s.Request, s.RequestType, 0}
	for _, v := range []uint16{s.Value, s.Index, s.Length} {
		h = binary.LittleEndian.AppendUint16(h, v)
	}
	q := p.expect(typeControlPacket, p.send(typeControlPacket, h, out))
	if n := int(binary.LittleEndian.Uint16(q.head[8:])); s.RequestType&0x80 != 0 && n != len(q.data) {
		p.t.Fatalf("a control packet says %d bytes and has %d", n, len(q.data))
	}
	return q.head[3], q.data
}

func (p *peer) startBulk(endpoint byte, out []byte, n int) uint64 {
	p.t.Helper()
	if out != nil {
		n = len(out)
	}
	h := []byte{endpoint, 0, byte(n), byte(n >> 8), 0, 0, 0, 0, byte(n >> 16), byte(n >> 24)}
	return p.send(typeBulkPacket, h, out)
}

func (p *peer) endBulk(id uint64) (status byte, in []byte) {
	p.t.Helper()
	q := p.expect(typeBulkPacket, id)
	if q.head[0]&0x80 != 0 && q.bulkLength() != len(q.data) {
		p.t.Fatalf("a bulk packet says %d bytes and has %d", q.bulkLength(), len(q.data))
	}
	return q.head[1], q.data
}

// bulk makes a bulk transfer: of out, or of n bytes from an input.
func (p *peer) bulk(endpoint byte, out []byte, n int) (status byte, in []byte) {
	p.t.Helper()
	return p.endBulk(p.startBulk(endpoint, out, n))
}

// configure sets the first configuration.
func (p *peer) configure() {
	p.t.Helper()
	if q := p.expect(typeConfigurationStatus, p.send(typeSetConfiguration, []byte{1}, nil)); q.head[0] != 0 || q.head[1] != 1 {
		p.t.Fatalf("set configuration: %v", q.head)
	}
}

// answer is how a SCSI command ended.
type answer struct {
	data    []byte
	stalled bool // the data
	status  byte // of the status wrapper
	residue uint32
	tag     bool // the status is about this command
}

// cbw is a command wrapper of 31 bytes.
func cbw(tag, length uint32, in bool, lun byte, cdb []byte) []byte {
	b := append([]byte("USBC"), make([]byte, 27)...)
	binary.LittleEndian.PutUint32(b[4:], tag)
	binary.LittleEndian.PutUint32(b[8:], length)
	if in {
		b[12] = 0x80
	}
	b[13], b[14] = lun, byte(len(cdb))
	copy(b[15:], cdb)
	return b
}

// scsi does a command as Linux' usb-storage does: the wrapper, the data, the status, clearing what stalls.
func (p *peer) scsi(lun byte, cdb, out []byte, n int) answer {
	p.t.Helper()
	p.tag++
	in, length := n > 0, n
	if out != nil {
		length = len(out)
	}
	if status, _ := p.bulk(0x01, cbw(p.tag, uint32(length), in, lun, cdb), 0); status != statusSuccess {
		p.t.Fatalf("command wrapper of % x: status %d", cdb, status)
	}
	var a answer
	status, endpoint := byte(statusSuccess), byte(0x81)
	switch {
	case in:
		status, a.data = p.bulk(endpoint, nil, n)
	case len(out) > 0:
		endpoint = 0x01
		status, _ = p.bulk(endpoint, out, 0)
	}
	if a.stalled = status == statusStall; a.stalled {
		p.clear(endpoint)
	} else if status != statusSuccess {
		p.t.Fatalf("data of % x: status %d", cdb, status)
	}
	status, csw := p.bulk(0x81, nil, cswLen)
	if status == statusStall {
		p.clear(0x81)
		status, csw = p.bulk(0x81, nil, cswLen)
	}
	if status != statusSuccess || len(csw) != cswLen || string(csw[:4]) != "USBS" {
		p.t.Fatalf("status wrapper of % x: status %d, % x", cdb, status, csw)
	}
	a.status, a.residue = csw[12], binary.LittleEndian.Uint32(csw[8:])
	a.tag = binary.LittleEndian.Uint32(csw[4:]) == p.tag
	return a
}

func (p *peer) clear(endpoint byte) {
	p.t.Helper()
	if status, _ := p.control(Setup{RequestType: 2, Request: reqClearFeature, Index: uint16(endpoint)}, nil); status != statusSuccess {
		p.t.Fatalf("clearing endpoint %02xh: status %d", endpoint, status)
	}
}

// sense asks for the sense of the last command.
func (p *peer) sense(lun byte) uint32 {
	p.t.Helper()
	a := p.scsi(lun, []byte{3, 0, 0, 0, 18, 0}, nil, 18)
	if len(a.data) != 18 || a.status != 0 {
		p.t.Fatalf("REQUEST SENSE: %+v", a)
	}
	return uint32(a.data[2])<<16 | uint32(a.data[12])<<8 | uint32(a.data[13])
}

// ready takes the unit attention of a unit that is new.
func (p *peer) ready(lun byte) {
	p.t.Helper()
	if a := p.scsi(lun, make([]byte, 6), nil, 0); a.status != cswFailed || p.sense(lun) != senseMediumChanged {
		p.t.Fatalf("the first TEST UNIT READY: %+v", a)
	}
	if a := p.scsi(lun, make([]byte, 6), nil, 0); a.status != cswPassed {
		p.t.Fatalf("the second TEST UNIT READY: %+v", a)
	}
}

// cdb10 is READ(10) or WRITE(10).
func cdb10(code byte, lba uint32, blocks uint16) []byte {
	b := binary.BigEndian.AppendUint32([]byte{code, 0}, lba)
	return append(binary.BigEndian.AppendUint16(append(b, 0), blocks), 0)
}

// connected is a peer that has the device of a script, configured.
func connected(t *testing.T, script string) (*peer, *Stick, *Server) {
	t.Helper()
	stick, err := Parse(strings.NewReader(script), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Device: stick, Failed: func(err error) { t.Errorf("the server failed: %v", err) }}
	p := dial(t, serve(t, s))
	p.expect(typeDeviceConnect, 0)
	p.configure()
	return p, stick, s
}

// TestConnect is the beginning of a connection: hellos, what the device consists of, and only then the device.
func TestConnect(t *testing.T) {
	stick, err := Parse(strings.NewReader("id 0781:5567 0126\ninterface storage\ninterface keyboard"), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Device: stick, Held: true}
	p := dial(t, serve(t, s))
	// Held back: the server answers, and there is no device.
	p.send(typeStartIsoStream, []byte{0x81, 1, 1}, nil)
	if q := p.read(16); q.typ != typeIsoStreamStatus {
		t.Fatalf("packet type %d while the device is held back", q.typ)
	}
	s.Plug()
	s.Plug() // does nothing more
	info, ep, connect := p.read(16), p.read(16), p.read(16)
	if info.typ != typeInterfaceInfo || ep.typ != typeEPInfo || connect.typ != typeDeviceConnect {
		t.Fatalf("packets %d, %d, %d", info.typ, ep.typ, connect.typ)
	}
	if want := []byte{2, 0, 0, 0, 0, 1}; !bytes.Equal(info.head[:6], want) || info.head[36] != 8 || info.head[37] != 3 || info.head[68] != 6 || info.head[100] != 0x50 {
		t.Errorf("interface info % x", info.head)
	}
	for i, want := range map[int]byte{0: 0, 1: 2, 2: 255, 16: 0, 17: 2, 18: 3, 19: 255, 32 + 18: 7, 64 + 18: 1, 96 + 2*17 + 1: 2, 96 + 2*18: 8} {
		if ep.head[i] != want {
			t.Errorf("byte %d of the endpoint info is %d, want %d", i, ep.head[i], want)
		}
	}
	if want := []byte{2, 0, 0, 0, 0x81, 7, 0x67, 0x55, 0x26, 1}; !bytes.Equal(connect.head, want) {
		t.Errorf("device connect % x, want % x", connect.head, want)
	}
	if got := s.Attached(); got != 1 {
		t.Errorf("attached %d times", got)
	}
}

// TestReplug unplugs a device while a transfer waits, and plugs it in again; also when QEMU has redialled.
func TestReplug(t *testing.T) {
	stick, err := Parse(strings.NewReader(""), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Device: stick}
	address := serve(t, s)
	p := dial(t, address)
	p.expect(typeDeviceConnect, 0)
	p.configure()
	p.startBulk(0x81, nil, 13) // never answered: no command was sent

	var wg sync.WaitGroup
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		if err := s.Replug(ctx); err != nil {
			t.Error(err)
		}
	})
	p.expect(typeDeviceDisconnect, 0)
	p.send(typeDeviceDisconnectAck, nil, nil)
	wg.Wait()
	p.expect(typeDeviceConnect, 0)
	p.configure()
	p.ready(0)
	for _, q := range p.kept {
		if q.typ == typeBulkPacket {
			t.Errorf("a transfer of the time before was answered: %+v", q)
		}
	}

	p.conn.Close()
	p = dial(t, address)
	p.expect(typeDeviceConnect, 0)
	p.configure()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Unplug(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("unplugging without an acknowledgement: %v", err)
	}
	if err := s.Unplug(t.Context()); err != nil {
		t.Errorf("unplugging what isn't plugged in: %v", err)
	}
}

// TestProtocolErrors sends what breaks the protocol, and what is refused politely.
func TestProtocolErrors(t *testing.T) {
	control := func(b ...byte) []byte { return append(b, make([]byte, 10-len(b))...) }
	for _, tt := range []struct {
		name string
		p    packet
		want string
	}{
		{"a type that hosts don't get", packet{typ: typeDeviceConnect, head: make([]byte, 10)}, "byte 0: packet type 1"},
		{"an unknown type", packet{typ: 77}, "byte 0: packet type 77"},
		{"too short", packet{typ: typeSetConfiguration}, "byte 4: packet type 6 of 0 bytes, want 1 to 1"},
		{"too long", packet{typ: typeReset, head: []byte{1}}, "byte 4: packet type 3 of 1 bytes, want 0 to 0"},
		{"a second hello", packet{typ: typeHello, head: make([]byte, 64)}, "byte 0: a second hello"},
		{"a control transfer on another endpoint", packet{typ: typeControlPacket, head: control(0x81, 6, 0x80)}, "byte 16: a control transfer of request type 80h on endpoint 81h"},
		{"a control transfer in two directions", packet{typ: typeControlPacket, head: control(0, 6, 0x80)}, "byte 16: a control transfer of request type 80h on endpoint 00h"},
		{"data with an input", packet{typ: typeControlPacket, head: control(0x80, 6, 0x80), data: []byte{1}}, "byte 26: 1 bytes of data with a transfer of 0 bytes on endpoint 80h"},
		{"less data than said", packet{typ: typeBulkPacket, head: control(1, 0, 5), data: []byte{1, 2, 3}}, "byte 26: 3 bytes of data with a transfer of 5 bytes on endpoint 01h"},
		{"a bulk transfer beyond all measure", packet{typ: typeBulkPacket, head: []byte{0x81, 0, 1, 0, 0, 0, 0, 0, 0, 1}}, "byte 16: a transfer of 16777217 bytes, at most 16777216"},
		{"an interrupt packet to an input", packet{typ: typeInterruptPacket, head: []byte{0x81, 0, 0, 0}}, "byte 16: a packet of type 103 to endpoint 81h"},
		{"interrupts from an output", packet{typ: typeStartInterruptReceiving, head: []byte{1}}, "byte 16: interrupts to be received from endpoint 01h"},
		{"a filter without an end", packet{typ: typeFilterFilter, data: []byte("x")}, "byte 17: a filter without an end"},
		{"buffered bulk input", packet{typ: 25, head: make([]byte, 10)}, "byte 0: packet type 25"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			failed := make(chan error, 1)
			stick, err := Parse(strings.NewReader(""), nil)
			if err != nil {
				t.Fatal(err)
			}
			p := dial(t, serve(t, &Server{Device: stick, Failed: func(err error) { failed <- err }}))
			p.expect(typeDeviceConnect, 0)
			p.write(tt.p.encode(true))
			select {
			case err := <-failed:
				if !strings.Contains(err.Error(), "usbredir: from QEMU: "+tt.want) {
					t.Errorf("%v, want %s", err, tt.want)
				}
			case <-time.After(limit):
				t.Error("the connection goes on")
			}
		})
	}
}

// TestHello refuses what isn't a QEMU with an xHCI.
func TestHello(t *testing.T) {
	for _, tt := range []struct{ name, sent, want string }{
		{"too few capabilities", string((&packet{typ: typeHello, head: make([]byte, 64), data: []byte{0x5E, 0, 0, 0}}).encode(false)), "byte 76: QEMU's capabilities are 0x5e"},
		{"no capabilities", string((&packet{typ: typeHello, head: make([]byte, 64)}).encode(false)), "byte 76: QEMU's capabilities are 0x0"},
		{"no hello", string((&packet{typ: typeReset}).encode(false)), "byte 0: packet type 3 instead of a hello"},
		{"cut off", "\x00\x00\x00\x00\x44", "QEMU's hello: byte 5 of a packet's header: unexpected EOF"},
		{"much too long", "\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00", "byte 4: packet type 0 of 4294967295 bytes, want 64 to 128"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			failed := make(chan error, 1)
			address := serve(t, &Server{Device: &Stick{}, Failed: func(err error) { failed <- err }})
			conn, err := net.Dial("unix", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte(tt.sent)); err != nil {
				t.Fatal(err)
			}
			if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-failed:
				if !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want %s", err, tt.want)
				}
			case <-time.After(limit):
				t.Error("the connection goes on")
			}
		})
	}
}

// TestCancel cancels transfers: one that waits, and one behind it that hasn't begun.
func TestCancel(t *testing.T) {
	p, _, _ := connected(t, "")
	first := p.startBulk(0x81, nil, 13)
	second := p.startBulk(0x81, nil, 13)
	for _, id := range []uint64{second, first} {
		cancel := packet{typ: typeCancelDataPacket, id: id}
		p.write(cancel.encode(true))
	}
	for _, id := range []uint64{first, second} {
		if status, in := p.endBulk(id); status != statusCancelled || len(in) != 0 {
			t.Errorf("transfer %d: status %d, % x", id, status, in)
		}
	}
	p.ready(0)
}

// TestTables gets the tables of a new configuration before it hears that it is set: QEMU's host adapter uses the
// endpoints at once.
func TestTables(t *testing.T) {
	p, _, _ := connected(t, "configuration\ninterface keyboard\nalternate 0 mouse")
	p.kept = nil
	for _, request := range []packet{
		{typ: typeSetConfiguration, id: 50, head: []byte{2}}, {typ: typeSetAltSetting, id: 51, head: []byte{0, 1}},
	} {
		p.write(request.encode(true))
		info, ep, status := p.read(16), p.read(16), p.read(16)
		if info.typ != typeInterfaceInfo || ep.typ != typeEPInfo || status.id != request.id {
			t.Fatalf("packets %d, %d, %d", info.typ, ep.typ, status.typ)
		}
		if protocol := byte(request.id - 49); info.head[36] != 3 || info.head[100] != protocol || int(ep.head[17])+int(ep.head[18]) != 3+255 {
			t.Errorf("class %d, protocol %d, endpoints %v", info.head[36], info.head[100], ep.head[16:20])
		}
	}
}

// TestRefused is what this server doesn't do: isochronous endpoints and streams.
func TestRefused(t *testing.T) {
	p, _, _ := connected(t, "")
	if q := p.expect(typeIsoStreamStatus, p.send(typeStartIsoStream, []byte{0x83, 1, 1}, nil)); q.head[0] != statusStall || q.head[1] != 0x83 {
		t.Errorf("isochronous stream: %v", q.head)
	}
	if q := p.expect(typeBulkStreamsStatus, p.send(typeAllocBulkStreams, []byte{2, 0, 0, 0, 16, 0, 0, 0}, nil)); q.head[8] != statusInvalid || q.head[0] != 2 || q.head[4] != 0 {
		t.Errorf("bulk streams: %v", q.head)
	}
	if status, _ := p.bulk(0x85, nil, 10); status != statusStall {
		t.Errorf("an endpoint that isn't there: status %d", status)
	}
	if status, _ := p.control(Setup{RequestType: 0xC0, Request: 0x51, Length: 8}, nil); status != statusStall {
		t.Errorf("a vendor request: status %d", status)
	}
}

// FuzzPacket feeds bytes to the parser of QEMU's packets. What it takes is what encoding gives back.
func FuzzPacket(f *testing.F) {
	h := hello()
	f.Add(h.encode(false), false)
	for _, p := range []packet{
		{typ: typeReset},
		{typ: typeSetConfiguration, id: 1, head: []byte{1}},
		{typ: typeControlPacket, id: 2, head: []byte{0x80, 6, 0x80, 0, 0, 1, 0, 0, 18, 0}},
		{typ: typeBulkPacket, id: 3, head: []byte{1, 0, 31, 0, 0, 0, 0, 0, 0, 0}, data: cbw(1, 36, true, 0, []byte{0x12, 0, 0, 0, 36, 0})},
		{typ: typeFilterFilter, data: []byte("a\x00")},
		{typ: typeInterruptPacket, head: []byte{1, 0, 1, 0}, data: []byte{7}},
	} {
		f.Add(p.encode(true), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, wide bool) {
		r := bytes.NewReader(b)
		var again []byte
		for {
			p, err := readPacket(r, wide)
			if err != nil {
				if !bytes.HasPrefix(b, again) {
					t.Fatalf("packets read\n%x, of\n%x", again, b)
				}
				return
			}
			again = append(again, p.encode(wide)...)
		}
	})
}
