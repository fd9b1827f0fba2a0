package usbredir

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestDisk does what a host does with a disk.
func TestDisk(t *testing.T) {
	p, stick, _ := connected(t, "serial ABC123\nlun disk 64M")
	status, in := p.control(Setup{RequestType: 0xA1, Request: reqGetMaxLUN, Length: 1}, nil)
	if status != 0 || !bytes.Equal(in, []byte{0}) {
		t.Errorf("GET MAX LUN: %d, % x", status, in)
	}
	inquiry := p.scsi(0, []byte{0x12, 0, 0, 0, 36, 0}, nil, 36)
	if want := "\x00\x80\x06\x02\x1f\x00\x00\x00Generic Flash Disk      1.00"; string(inquiry.data) != want || inquiry.residue != 0 {
		t.Errorf("INQUIRY: %q, %+v", inquiry.data, inquiry)
	}
	p.ready(0)
	for _, tt := range []struct {
		name   string
		cdb    []byte
		n      int
		want   string // data
		status byte
		sense  uint32
	}{
		{"INQUIRY, supported pages", []byte{0x12, 1, 0, 0, 255, 0}, 255, "\x00\x00\x00\x03\x00\x80\x83", 0, 0},
		{"INQUIRY, serial number", []byte{0x12, 1, 0x80, 0, 255, 0}, 255, "\x00\x80\x00\x06ABC123", 0, 0},
		{"INQUIRY, identification", []byte{0x12, 1, 0x83, 0, 255, 0}, 255, "\x00\x83\x00\x12\x02\x01\x00\x0eGeneric ABC123", 0, 0},
		{"INQUIRY, another page", []byte{0x12, 1, 0xB0, 0, 255, 0}, 255, "", 1, senseInvalidField},
		{"READ CAPACITY(10)", append([]byte{0x25}, make([]byte, 9)...), 8, "\x00\x01\xff\xff\x00\x00\x02\x00", 0, 0},
		{"READ CAPACITY(16)", []byte{0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0}, 32, "\x00\x00\x00\x00\x00\x01\xff\xff\x00\x00\x02\x00", 0, 0},
		{"MODE SENSE(6)", []byte{0x1A, 0, 0x3F, 0, 192, 0}, 192, "\x03\x00\x00\x00", 0, 0},
		{"MODE SENSE(10)", []byte{0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 192, 0}, 192, "\x00\x06\x00\x00\x00\x00\x00\x00", 0, 0},
		{"MODE SENSE, caching", []byte{0x1A, 0, 8, 0, 192, 0}, 192, "", 1, senseInvalidField},
		{"REPORT LUNS", []byte{0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0}, 16, "\x00\x00\x00\x08" + strings.Repeat("\x00", 12), 0, 0},
		{"PREVENT", []byte{0x1E, 0, 0, 0, 1, 0}, 0, "", 0, 0},
		{"START STOP UNIT", []byte{0x1B, 0, 0, 0, 1, 0}, 0, "", 0, 0},
		{"SYNCHRONIZE CACHE", append([]byte{0x35}, make([]byte, 9)...), 0, "", 0, 0},
		{"VERIFY", cdb10(0x2F, 0, 8), 0, "", 0, 0},
		{"an unknown command", append([]byte{0xC1}, make([]byte, 9)...), 0, "", 1, senseInvalidCommand},
		{"READ past the end", cdb10(0x28, 131071, 2), 1024, "", 1, senseOutOfRange},
		{"READ at the end", cdb10(0x28, 131071, 1), 512, strings.Repeat("\x00", 512), 0, 0},
		{"READ of nothing", cdb10(0x28, 131072, 0), 0, "", 0, 0},
		{"READ with a short command", []byte{0x28, 0, 0, 0, 0, 0}, 512, "", 1, senseInvalidField},
	} {
		a := p.scsi(0, tt.cdb, nil, tt.n)
		if string(a.data) != tt.want || a.status != tt.status || !a.tag || int(a.residue) != tt.n-len(tt.want) {
			t.Errorf("%s: %q, %+v", tt.name, a.data, a)
		}
		if a.stalled != (tt.n > 0 && tt.want == "") {
			t.Errorf("%s: stalled %t", tt.name, a.stalled)
		}
		if got := p.sense(0); got != tt.sense {
			t.Errorf("%s: sense %06x, want %06x", tt.name, got, tt.sense)
		}
	}
	data := pattern(99, 100*512)
	if a := p.scsi(0, cdb10(0x2A, 1000, 100), data, 0); a.status != 0 || a.residue != 0 {
		t.Errorf("WRITE(10): %+v", a)
	}
	if a := p.scsi(0, []byte{0x8A, 0, 0, 0, 0, 0, 0, 0, 0x07, 0xD0, 0, 0, 0, 100, 0, 0}, data, 0); a.status != 0 {
		t.Errorf("WRITE(16): %+v", a)
	}
	if !bytes.Equal(get(t, stick.LUNs[0].Medium, 1000*512, len(data)), data) || !bytes.Equal(get(t, stick.LUNs[0].Medium, 2000*512, len(data)), data) {
		t.Error("the medium has other bytes than were written")
	}
	if a := p.scsi(0, []byte{0x88, 0, 0, 0, 0, 0, 0, 0, 0x07, 0xD0, 0, 0, 0, 100, 0, 0}, nil, len(data)); !bytes.Equal(a.data, data) {
		t.Errorf("READ(16): %+v", a)
	}
	c := stick.Counts()
	if c.Written != 200 || c.Read != 101 || c.Commands[0x2A] != 1 || c.Commands[0x12] != 5 || c.First.IsZero() || c.Configured != 1 {
		t.Errorf("counted %+v", c)
	}
}

// TestParts reads and writes with a transfer for each odd piece of the data.
func TestParts(t *testing.T) {
	p, stick, _ := connected(t, "")
	p.ready(0)
	data := pattern(7, 16*512)
	if status, _ := p.bulk(1, cbw(77, uint32(len(data)), false, 0, cdb10(0x2A, 5, 16)), 0); status != 0 {
		t.Fatalf("command wrapper: %d", status)
	}
	for rest, n := data, 100; len(rest) > 0; n += 300 {
		n := min(n, len(rest))
		if status, _ := p.bulk(1, rest[:n], 0); status != 0 {
			t.Fatalf("data: %d", status)
		}
		rest = rest[n:]
	}
	if _, csw := p.bulk(0x81, nil, 13); len(csw) != 13 || csw[12] != 0 {
		t.Fatalf("status wrapper % x", csw)
	}
	if !bytes.Equal(get(t, stick.LUNs[0].Medium, 5*512, len(data)), data) {
		t.Error("the medium has other bytes than were written")
	}
	if status, _ := p.bulk(1, cbw(78, uint32(len(data)), true, 0, cdb10(0x28, 5, 16)), 0); status != 0 {
		t.Fatalf("command wrapper: %d", status)
	}
	var got []byte
	for n := 64; len(got) < len(data); n += 448 {
		_, b := p.bulk(0x81, nil, min(n, len(data)-len(got)))
		got = append(got, b...)
	}
	if _, csw := p.bulk(0x81, nil, 13); len(csw) != 13 || csw[12] != 0 || !bytes.Equal(got, data) {
		t.Errorf("status wrapper % x, data equal: %t", csw, bytes.Equal(got, data))
	}
}

// TestThirteenCases are those of section 6.7 of the bulk-only transport where host and device want different things.
func TestThirteenCases(t *testing.T) {
	for _, tt := range []struct {
		name    string
		cdb     []byte
		in      bool
		n       int
		data    int // that the host gets
		stalled bool
		status  byte
		residue uint32
	}{
		{"2: the host expects nothing, the device sends", cdb10(0x28, 0, 1), true, 0, 0, false, cswPhaseError, 0},
		{"3: the host expects nothing, the device wants some", cdb10(0x2A, 0, 1), false, 0, 0, false, cswPhaseError, 0},
		{"4: the host expects data, the device has none", make([]byte, 6), true, 512, 0, true, cswPassed, 512},
		{"5: the host expects more than there is", cdb10(0x28, 0, 1), true, 1024, 512, false, cswPassed, 512},
		{"7: the host expects less", cdb10(0x28, 0, 2), true, 512, 512, false, cswPhaseError, 0},
		{"8: the host expects data, the device wants some", cdb10(0x2A, 0, 1), true, 512, 0, true, cswPhaseError, 512},
		{"9: the host sends, the device wants nothing", make([]byte, 6), false, 512, 0, true, cswPassed, 512},
		{"10: the host sends, the device sends", cdb10(0x28, 0, 1), false, 512, 0, true, cswPhaseError, 512},
		{"13: the host sends less", cdb10(0x2A, 0, 2), false, 512, 0, false, cswPhaseError, 0},
	} {
		p, _, _ := connected(t, "")
		p.ready(0)
		var a answer
		switch {
		case tt.in:
			a = p.scsi(0, tt.cdb, nil, tt.n)
		case tt.n > 0:
			a = p.scsi(0, tt.cdb, make([]byte, tt.n), 0)
		default:
			a = p.scsi(0, tt.cdb, nil, 0)
		}
		if len(a.data) != tt.data || a.stalled != tt.stalled || a.status != tt.status || a.residue != tt.residue {
			t.Errorf("%s: %d bytes, %+v", tt.name, len(a.data), a)
		}
	}
	// 11: the host sends more than the device wants, and the device stalls for the rest.
	p, _, _ := connected(t, "")
	p.ready(0)
	if a := p.scsi(0, cdb10(0x2A, 0, 1), make([]byte, 1024), 0); a.status != cswPassed {
		t.Errorf("11: %+v", a)
	}
}

// TestInvalidWrapper stalls both endpoints until the whole reset recovery is made.
func TestInvalidWrapper(t *testing.T) {
	good := cbw(1, 0, false, 0, make([]byte, 6))
	change := func(i int, v byte) []byte {
		b := bytes.Clone(good)
		b[i] = v
		return b
	}
	for name, b := range map[string][]byte{
		"signature": change(0, 'X'), "short": good[:30], "long": append(bytes.Clone(good), 0), "logical unit": change(13, 1), "no command": change(14, 0), "long command": change(14, 17),
	} {
		p, stick, _ := connected(t, "")
		for range 2 {
			if status, _ := p.bulk(1, b, 0); status != statusStall {
				t.Errorf("%s: the output's status is %d", name, status)
			}
			if status, _ := p.bulk(0x81, nil, 13); status != statusStall {
				t.Errorf("%s: the input's status is %d", name, status)
			}
			p.clear(1) // alone it doesn't help
			p.clear(0x81)
		}
		if status, _ := p.control(Setup{RequestType: 0x21, Request: reqBulkOnlyReset}, nil); status != 0 {
			t.Errorf("%s: bulk-only reset: %d", name, status)
		}
		p.ready(0)
		if c := stick.Counts(); c.Recoveries != 1 {
			t.Errorf("%s: counted %+v", name, c)
		}
	}
}

// TestUnits are logical units that are not one plain disk.
func TestUnits(t *testing.T) {
	p, stick, _ := connected(t, "lun disk 1M\nprotected\nwrite-back\nlun cd 20K\nlun disk 0\nlun disk none\nlun disk 1M\nlater capacity 2 block 4096 size 2M\n")
	if _, in := p.control(Setup{RequestType: 0xA1, Request: reqGetMaxLUN, Length: 1}, nil); !bytes.Equal(in, []byte{4}) {
		t.Errorf("GET MAX LUN: % x", in)
	}
	if a := p.scsi(0, []byte{0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, nil, 256); len(a.data) != 48 || a.data[3] != 40 || a.data[41] != 4 {
		t.Errorf("REPORT LUNS: % x", a.data)
	}
	for _, lun := range []byte{0, 1, 2, 4} {
		p.ready(lun)
	}
	if a := p.scsi(0, []byte{0x1A, 0, 0x3F, 0, 192, 0}, nil, 192); len(a.data) != 24 || a.data[2] != 0x80 || a.data[4] != 8 || a.data[6]&4 == 0 {
		t.Errorf("MODE SENSE of a write-protected disk: % x", a.data)
	}
	if a := p.scsi(0, cdb10(0x2A, 0, 1), make([]byte, 512), 0); a.status != 1 || p.sense(0) != senseWriteProtected || stick.Counts().Written != 0 {
		t.Errorf("WRITE to a write-protected disk: %+v", a)
	}
	if a := p.scsi(1, []byte{0x12, 0, 0, 0, 36, 0}, nil, 36); a.data[0] != 5 {
		t.Errorf("INQUIRY of a CD: %q", a.data)
	}
	capacity := func(lun byte) string {
		return fmt.Sprintf("%x", p.scsi(lun, append([]byte{0x25}, make([]byte, 9)...), nil, 8).data)
	}
	for i, tt := range []struct {
		lun  byte
		want string
	}{
		{1, "0000000900000800"}, {2, "ffffffff00000200"}, {3, ""}, {4, "000007ff00000200"}, {4, "000001ff00001000"}, {4, "000001ff00001000"},
	} {
		if got := capacity(tt.lun); got != tt.want {
			t.Errorf("READ CAPACITY %d of unit %d: %s, want %s", i, tt.lun, got, tt.want)
		}
	}
	if p.scsi(3, make([]byte, 6), nil, 0); p.sense(3) != senseNoMedium {
		t.Error("a unit without a medium is ready")
	}
	if a := p.scsi(4, cdb10(0x28, 300, 1), nil, 4096); a.status != 1 || p.sense(4) != senseReadError {
		t.Errorf("READ where there is only a claim: %+v", a)
	}
}

// TestTurns looks at devices that turn into others.
func TestTurns(t *testing.T) {
	const keyboard = "interface storage\ninterface keyboard"
	device := Setup{RequestType: 0x80, Request: reqGetDescriptor, Value: descDevice << 8, Length: 18}
	for _, tt := range []struct {
		event string
		do    func(p *peer, s *Server)
		turns bool
	}{
		{"reset 2", func(p *peer, _ *Server) { p.send(typeReset, nil, nil); p.send(typeReset, nil, nil) }, true},
		{"reset 2", func(p *peer, _ *Server) { p.send(typeReset, nil, nil) }, false},
		{"configure 2", func(p *peer, _ *Server) { p.configure() }, true},
		{"descriptor 3", func(p *peer, _ *Server) { p.control(device, nil) }, true},
		{"descriptor 4", func(p *peer, _ *Server) { p.control(device, nil) }, false},
		{"plug", func(p *peer, s *Server) {
			ctx, cancel := context.WithCancel(p.t.Context())
			cancel()
			_ = s.Replug(ctx) // nobody acknowledges
			p.expect(typeDeviceConnect, 0)
		}, true},
	} {
		t.Run(tt.event, func(t *testing.T) {
			p, stick, s := connected(t, "id 1111:2222\nserial SAME\nturn "+tt.event+"\n"+keyboard)
			before, _ := stick.Face(), p.expect(typeInterfaceInfo, 0)
			if status, in := p.control(device, nil); status != 0 || !bytes.Equal(in, before.DeviceDescriptor()) {
				t.Fatalf("device descriptor: %d, % x", status, in)
			}
			tt.do(p, s)
			status, in := p.control(Setup{RequestType: 0x80, Request: reqGetDescriptor, Value: descDevice << 8, Length: 18}, nil)
			if status != 0 || binary.LittleEndian.Uint16(in[8:]) != 0x1111 {
				t.Fatalf("device descriptor: %d, % x", status, in)
			}
			_, in = p.control(Setup{RequestType: 0x80, Request: reqGetDescriptor, Value: descConfiguration << 8, Length: 255}, nil)
			after := stick.Face()
			if turned := in[4] == 2; turned != tt.turns || !bytes.Equal(in, after.ConfigurationDescriptor(0)) || bytes.Equal(after.Descriptors(), before.Descriptors()) == tt.turns {
				t.Errorf("turned %t, configuration % x", turned, in)
			}
		})
	}
}

// TestReplugDisk is a disk that has other blocks when it comes again, and loses what its cache kept.
func TestReplugDisk(t *testing.T) {
	p, stick, s := connected(t, "lun disk 1M\nfake limbo 8M\ncache 1M\nlater plug block 4096")
	p.ready(0)
	data := pattern(1, 4096)
	p.scsi(0, cdb10(0x2A, 8192, 8), data, 0)
	if a := p.scsi(0, cdb10(0x28, 8192, 8), nil, 4096); !bytes.Equal(a.data, data) {
		t.Error("the cache doesn't answer what was written")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = s.Replug(ctx) // nobody acknowledges
	p.expect(typeDeviceConnect, 0)
	p.configure()
	p.ready(0)
	if a := p.scsi(0, append([]byte{0x25}, make([]byte, 9)...), nil, 8); !bytes.Equal(a.data, []byte{0, 0, 7, 255, 0, 0, 16, 0}) {
		t.Errorf("READ CAPACITY: % x", a.data)
	}
	if a := p.scsi(0, cdb10(0x28, 1024, 1), nil, 4096); a.status != 0 || !isZero(a.data) {
		t.Errorf("what was written past the real size is still there: %+v", a.status)
	}
	if stick.Counts().Written != 8 {
		t.Errorf("counted %+v", stick.Counts())
	}
}

// TestFaults lets a command go wrong in each way.
func TestFaults(t *testing.T) {
	read := func(p *peer) answer { return p.scsi(0, cdb10(0x28, 10, 20), nil, 20*512) }
	t.Run("sense in the midst", func(t *testing.T) {
		p, _, _ := connected(t, "read lba 15-16 always sense 3/11/05")
		p.ready(0)
		for range 2 {
			if a := read(p); len(a.data) != 5*512 || a.status != 1 || a.residue != 15*512 || p.sense(0) != 0x31105 {
				t.Errorf("%d bytes, %+v", len(a.data), a)
			}
		}
		if a := p.scsi(0, cdb10(0x28, 17, 20), nil, 20*512); len(a.data) != 20*512 || a.status != 0 {
			t.Errorf("blocks behind: %+v", a)
		}
		if a := p.scsi(0, cdb10(0x28, 16, 1), nil, 512); !a.stalled || a.status != 1 || a.residue != 512 {
			t.Errorf("the block alone: %+v", a)
		}
	})
	t.Run("nth and from", func(t *testing.T) {
		p, _, _ := connected(t, "read nth 2 sense 4/44/00\nread from 4 sense 2/3a/00")
		p.ready(0)
		for i, want := range []uint32{0, 0x44400, 0, 0x23A00, 0x23A00} {
			if read(p); p.sense(0) != want {
				t.Errorf("read %d: not %06x", i+1, want)
			}
		}
	})
	t.Run("status", func(t *testing.T) {
		p, _, _ := connected(t, "read nth 1 phase\nread nth 2 tag")
		p.ready(0)
		if a := read(p); a.status != cswPhaseError || !a.tag {
			t.Errorf("phase error: %+v", a)
		}
		if a := read(p); a.status != 0 || a.tag || len(a.data) != 20*512 {
			t.Errorf("another tag: %+v", a)
		}
	})
	t.Run("replies", func(t *testing.T) {
		p, _, _ := connected(t, "read-capacity always reply 0 fffffffe\ninquiry nth 2 short 5")
		p.ready(0)
		if a := p.scsi(0, append([]byte{0x25}, make([]byte, 9)...), nil, 8); fmt.Sprintf("%x", a.data) != "fffffffe00000200" {
			t.Errorf("READ CAPACITY: % x", a.data)
		}
		for _, want := range []int{36, 5, 36} {
			if a := p.scsi(0, []byte{0x12, 0, 0, 0, 36, 0}, nil, 36); len(a.data) != want || int(a.residue) != 36-want {
				t.Errorf("INQUIRY: %d bytes, want %d", len(a.data), want)
			}
		}
	})
	t.Run("slow", func(t *testing.T) {
		p, _, _ := connected(t, "read slow 50ms")
		p.ready(0)
		begun := time.Now()
		if read(p); time.Since(begun) < 50*time.Millisecond {
			t.Errorf("it took %v", time.Since(begun))
		}
	})
	for _, action := range []string{"silent", "stall"} {
		for _, command := range []struct {
			name string
			cdb  []byte
			out  []byte
		}{{"read", cdb10(0x28, 0, 1), nil}, {"write", cdb10(0x2A, 0, 1), make([]byte, 512)}, {"test-unit-ready", make([]byte, 6), nil}} {
			t.Run(action+" "+command.name, func(t *testing.T) {
				p, stick, _ := connected(t, "")
				p.ready(0)
				faults, err := Parse(strings.NewReader(command.name+" "+action), nil)
				if err != nil {
					t.Fatal(err)
				}
				stick.Inject(faults.Faults...)
				length := len(command.out)
				if command.name == "read" {
					length = 512
				}
				p.bulk(1, cbw(5, uint32(length), command.name == "read", 0, command.cdb), 0)
				endpoint, want := byte(0x81), ErrStall
				if command.out != nil {
					endpoint = 1
				}
				if action == "silent" {
					want = context.DeadlineExceeded
				}
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
				defer cancel()
				if in, err := stick.Bulk(ctx, endpoint, command.out, max(length, 13)); !errors.Is(err, want) {
					t.Errorf("%d bytes, %v, want %v", len(in), err, want)
				}
				p.clear(0x81)
				p.send(typeReset, nil, nil)
				p.configure()
				if a := p.scsi(0, make([]byte, 6), nil, 0); a.status != 0 {
					t.Errorf("after a reset: %+v", a)
				}
				if stick.Counts().Written != 0 || stick.Counts().Resets != 1 {
					t.Errorf("counted %+v", stick.Counts())
				}
			})
		}
	}
}

// TestPulled pulls a stick out in the midst of a write: so many blocks are on it, and then it is gone.
func TestPulled(t *testing.T) {
	p, stick, s := connected(t, "write after 70 gone")
	p.ready(0)
	data := pattern(3, 64*512)
	if a := p.scsi(0, cdb10(0x2A, 0, 64), data, 0); a.status != 0 {
		t.Fatalf("the first write: %+v", a)
	}
	p.bulk(1, cbw(9, uint32(len(data)), false, 0, cdb10(0x2A, 64, 64)), 0)
	p.startBulk(1, data, 0)
	p.expect(typeDeviceDisconnect, 0)
	p.send(typeDeviceDisconnectAck, nil, nil)
	if c := stick.Counts(); c.Written != 70 {
		t.Errorf("%d blocks were written", c.Written)
	}
	if !bytes.Equal(get(t, stick.LUNs[0].Medium, 64*512, 6*512), data[:6*512]) || !isZero(get(t, stick.LUNs[0].Medium, 70*512, 58*512)) {
		t.Error("not just the blocks before are on the medium")
	}
	s.Plug()
	p.expect(typeDeviceConnect, 0)
	p.configure()
	p.ready(0)
}

// TestKeyboard types, once somebody listens.
func TestKeyboard(t *testing.T) {
	p, stick, _ := connected(t, "interface storage\ninterface keyboard\ntypes id 07")
	if q := p.expect(typeInterruptReceivingStatus, p.send(typeStartInterruptReceiving, []byte{0x82}, nil)); q.head[0] != 0 || q.head[1] != 0x82 {
		t.Errorf("status of receiving: %v", q.head)
	}
	var keys []byte
	for range 6 {
		down, up := p.expect(typeInterruptPacket, 0), p.expect(typeInterruptPacket, 0)
		if down.head[0] != 0x82 || len(down.data) != 8 || !isZero(up.data) {
			t.Fatalf("reports %+v, %+v", down, up)
		}
		keys = append(keys, down.data[2])
	}
	if want := []byte{12, 7, 44, 39, 36, 40}; !bytes.Equal(keys, want) {
		t.Errorf("keys %v, want %v", keys, want)
	}
	stick.Type("9") // while it is being waited for
	for _, want := range []byte{38, 0, 40, 0} {
		if q := p.expect(typeInterruptPacket, 0); q.data[2] != want {
			t.Errorf("key %d, want %d", q.data[2], want)
		}
	}
	if q := p.expect(typeInterruptReceivingStatus, p.send(typeStopInterruptReceiving, []byte{0x82}, nil)); q.head[0] != 0 {
		t.Errorf("status of stopping: %v", q.head)
	}
	if stick.Counts().Keys != 16 {
		t.Errorf("counted %+v", stick.Counts())
	}
}

// TestStandard are standard requests, as QEMU passes them on.
func TestStandard(t *testing.T) {
	p, stick, _ := connected(t, "speed super\nserial S1\nalternate 0 uas\nconfiguration\ninterface keyboard")
	ask := func(rt, request byte, value, index, length uint16) string {
		status, in := p.control(Setup{rt, request, value, index, length}, nil)
		if status != 0 {
			return fmt.Sprintf("status %d", status)
		}
		return fmt.Sprintf("%x", in)
	}
	for _, tt := range []struct{ name, got, want string }{
		{"language", ask(0x80, 6, 0x300, 0, 255), "04030904"},
		{"serial", ask(0x80, 6, 0x303, 0x409, 255), "060353003100"},
		{"the beginning of it", ask(0x80, 6, 0x303, 0x409, 2), "0603"},
		{"no string", ask(0x80, 6, 0x309, 0x409, 255), "status 4"},
		{"BOS", ask(0x80, 6, 0xF00, 0, 5), "050f160002"},
		{"no qualifier at SuperSpeed", ask(0x80, 6, 0x600, 0, 10), "status 4"},
		{"second configuration", ask(0x80, 6, 0x201, 0, 9), "090228000102008019"},
		{"no third one", ask(0x80, 6, 0x202, 0, 9), "status 4"},
		{"status", ask(0x80, 0, 0, 0, 2), "0000"},
		{"halt", ask(2, 3, 0, 0x81, 0), ""},
		{"status of an endpoint", ask(0x82, 0, 0, 0x81, 2), "0100"},
		{"U1 enable", ask(0, 3, 48, 0, 0), ""},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, tt.got, tt.want)
		}
	}
	for _, tt := range []struct {
		typ  uint32
		head []byte
		back uint32
		want []byte
	}{
		{typeGetConfiguration, nil, typeConfigurationStatus, []byte{0, 1}},
		{typeSetAltSetting, []byte{0, 1}, typeAltSettingStatus, []byte{0, 0, 1}},
		{typeGetAltSetting, []byte{0}, typeAltSettingStatus, []byte{0, 0, 1}},
		{typeSetAltSetting, []byte{0, 2}, typeAltSettingStatus, []byte{statusStall, 0, 2}},
		{typeSetConfiguration, []byte{3}, typeConfigurationStatus, []byte{statusStall, 3}},
		{typeSetConfiguration, []byte{2}, typeConfigurationStatus, []byte{0, 2}},
	} {
		if q := p.expect(tt.back, p.send(tt.typ, tt.head, nil)); !bytes.Equal(q.head, tt.want) {
			t.Errorf("packet type %d % x: % x, want % x", tt.typ, tt.head, q.head, tt.want)
		}
	}
	if active := stick.Active(); len(active) != 1 || active[0].Class != 3 {
		t.Errorf("active in the second configuration: %+v", active)
	}
}

// FuzzCommand sends any command wrapper, and then does what a host does that believes in it: no more data comes than
// was asked for, and in the end either a status wrapper or a stall.
func FuzzCommand(f *testing.F) {
	for _, cdb := range [][]byte{{0x12, 0, 0, 0, 36, 0}, {0x12, 1, 0x83, 0, 255, 0}, cdb10(0x28, 3, 9), cdb10(0x2A, 3, 9), {0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0}, {0x1A, 0, 0x3F, 0, 192, 0}} {
		f.Add(cbw(1, 4608, cdb[0] != 0x2A, 0, cdb), uint16(4608))
	}
	f.Fuzz(func(t *testing.T, wrapper []byte, piece uint16) {
		stick, err := Parse(strings.NewReader("lun disk 1M\nfake chain 4M wrap 2M\nlun cd 20K\nlun disk none\nread lba 20 sense 3/11/00"), nil)
		if err != nil {
			t.Fatal(err)
		}
		stick.Plugged()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 2 { // the first command hears of the new medium
			if _, err := stick.Bulk(ctx, 1, wrapper, len(wrapper)); err != nil {
				return
			}
			length := binary.LittleEndian.Uint32(wrapper[8:])
			in, total := wrapper[12]&0x80 != 0, 0
			for range 64 {
				if !in && total < int(length) {
					n := min(int(piece)+1, int(length)-total)
					if _, err := stick.Bulk(ctx, 1, make([]byte, n), n); err != nil {
						break
					}
					total += n
					continue
				}
				b, err := stick.Bulk(ctx, 0x81, nil, int(piece)+13)
				if err != nil || len(b) == 13 && string(b[:4]) == "USBS" {
					break
				}
				if total += len(b); total > int(length) || len(b) > int(piece)+13 {
					t.Fatalf("%d bytes, the last %d of them for %d, of a command of %d", total, len(b), piece, length)
				}
			}
			if c := stick.Counts(); c.Written > 2*int64(length)/512 {
				t.Fatalf("%d blocks written of %d bytes", c.Written, length)
			}
			stick.clearAll()
		}
	})
}

// clearAll is the reset recovery.
func (s *Stick) clearAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restart()
}
