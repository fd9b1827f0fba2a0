package iscsi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"sallyport/media/scsi"
)

// What libiscsi doesn't say, and what it does wrong nowhere: logins.
func TestLogin(t *testing.T) {
	s := serve(t, newDevice(), false)
	names := []string{"InitiatorName=iqn.x:i", "TargetName=" + testName}
	with := func(keys ...string) []byte { return text(append(names[:2:2], keys...)...) }
	changed := func(change func(h *header)) *header {
		h := loginHeader(1, 3)
		change(h)
		return h
	}
	for _, tt := range []struct {
		name   string
		header *header
		text   []byte
		status uint16
		answer string // keys and values, separated by blanks
	}{
		{"straight on", loginHeader(1, 3), with(), 0, "TargetPortalGroupTag=1 MaxRecvDataSegmentLength=262144"},
		{"security first", loginHeader(0, 1), with("AuthMethod=CHAP,None"), 0, "AuthMethod=None TargetPortalGroupTag=1"},
		{"no way in without authentication", loginHeader(0, 1), with("AuthMethod=CHAP"), 0x0201, ""},
		{"discovery", loginHeader(1, 3), text("InitiatorName=iqn.x:i", "SessionType=Discovery"), 0, "MaxRecvDataSegmentLength=262144"},
		{"values", loginHeader(1, 3), with("HeaderDigest=CRC32C,None", "DataDigest=CRC32C", "MaxConnections=8", "InitialR2T=No", "ImmediateData=Yes",
			"MaxRecvDataSegmentLength=16777215", "MaxBurstLength=0x1000000", "FirstBurstLength=16777215", "MaxOutstandingR2T=9", "DefaultTime2Wait=2",
			"DefaultTime2Retain=20", "ErrorRecoveryLevel=2", "DataPDUInOrder=No", "DataSequenceInOrder=Yes", "IFMarker=Yes", "org.x=1"), 0,
			"HeaderDigest=None DataDigest=Reject MaxConnections=1 InitialR2T=No ImmediateData=Yes MaxBurstLength=Reject FirstBurstLength=262144 " +
				"MaxOutstandingR2T=1 DefaultTime2Wait=2 DefaultTime2Retain=0 ErrorRecoveryLevel=0 DataPDUInOrder=Yes DataSequenceInOrder=Yes " +
				"IFMarker=No org.x=NotUnderstood TargetPortalGroupTag=1 MaxRecvDataSegmentLength=262144"},
		{"values out of bounds", loginHeader(1, 3), with("MaxBurstLength=511", "InitialR2T=yes", "MaxRecvDataSegmentLength=-1", "FirstBurstLength=99999999999999999999"), 0,
			"MaxBurstLength=Reject InitialR2T=Reject MaxRecvDataSegmentLength=Reject FirstBurstLength=Reject TargetPortalGroupTag=1 MaxRecvDataSegmentLength=262144"},
		{"another target", loginHeader(1, 3), text("InitiatorName=iqn.x:i", "TargetName=iqn.x:other"), 0x0203, ""},
		{"nobody", loginHeader(1, 3), text("TargetName=" + testName), 0x0207, ""},
		{"to nothing", loginHeader(1, 3), text("InitiatorName=iqn.x:i"), 0x0207, ""},
		{"neither normal nor discovery", loginHeader(1, 3), with("SessionType=Other"), 0x0200, ""},
		{"a key twice", loginHeader(1, 3), with("InitialR2T=No", "InitialR2T=Yes"), 0x0200, ""},
		{"no key", loginHeader(1, 3), with("what"), 0x0200, ""},
		{"a bad key", loginHeader(1, 3), with("a b=c"), 0x0200, ""},
		{"a long key", loginHeader(1, 3), with(strings.Repeat("k", 64) + "=c"), 0x0200, ""},
		{"a long value", loginHeader(1, 3), with("k=" + strings.Repeat("v", 256)), 0x0200, ""},
		{"65 keys", loginHeader(1, 3), text(strings.Fields(strings.Repeat("k=v ", 65))...), 0x0200, ""},
		{"version 1", changed(func(h *header) { h[2], h[3] = 1, 1 }), with(), 0x0205, ""},
		{"another connection of a session", changed(func(h *header) { h.put16(14, 5) }), with(), 0x020A, ""},
		{"stage 2", loginHeader(2, 3), with(), 0x0200, ""},
		{"to stage 2", loginHeader(1, 2), with(), 0x0200, ""},
		{"backwards", loginHeader(1, 0), with(), 0x0200, ""},
		{"transit with more to come", changed(func(h *header) { h[1] |= 0x40 }), with(), 0x0200, ""},
	} {
		c := dial(t, s)
		c.sendPDU(tt.header, tt.text)
		p := c.recv()
		got := strings.TrimSuffix(strings.ReplaceAll(string(p.data), "\x00", " "), " ")
		if p.op() != opLoginAnswer || p.u16(36) != tt.status || got != tt.answer {
			t.Errorf("%s: got status %04x, %q, want %04x, %q", tt.name, p.u16(36), got, tt.status, tt.answer)
		}
		if tt.status != 0 {
			c.wantEnd(0)
		}
		c.Close()
	}
}

// A login may take several requests, and text several PDUs.
func TestLoginInPieces(t *testing.T) {
	s := serve(t, newDevice(), false)
	all := text("InitiatorName=iqn.x:i", "TargetName="+testName, "AuthMethod=None")
	c := dial(t, s)
	h := loginHeader(0, 0)
	h[1] = 0x40
	c.sendPDU(h, all[:30])
	if p := c.recv(); p.u16(36) != 0 || p.header[1] != 0 || len(p.data) != 0 {
		t.Fatalf("to the first piece: %x %q", p.header, p.data)
	}
	c.sendPDU(loginHeader(0, 1), all[30:])
	if p := c.recv(); p.u16(36) != 0 || p.header[1] != 0x81 || string(p.data) != "AuthMethod=None\x00TargetPortalGroupTag=1\x00" {
		t.Fatalf("to the second piece: %x %q", p.header, p.data)
	}
	h = loginHeader(1, 1)
	h[1] = 1 << 2
	c.sendPDU(h, text("InitialR2T=No"))
	if p := c.recv(); p.u16(36) != 0 || p.header[1] != 4 {
		t.Fatalf("without transit: %x %q", p.header, p.data)
	}
	c.sendPDU(loginHeader(1, 3), nil)
	if p := c.recv(); p.u16(36) != 0 || p.header[1] != 0x87 || p.u16(14) == 0 {
		t.Fatalf("at the end: %x %q", p.header, p.data)
	}
	c.alive()

	// Somebody else goes on with it, and one goes on for ever.
	for _, change := range []func(h *header){
		func(h *header) { h.put32(16, 9) }, func(h *header) { h.put16(20, 9) }, func(h *header) { h[13] = 9 }, func(h *header) { h[1] = 0x81 },
	} {
		c = dial(t, s)
		c.sendPDU(loginHeader(0, 1), all)
		c.recv()
		h = loginHeader(0, 1)
		h[1] = 0x80 | 1<<2 | 3
		change(h)
		c.sendPDU(h, nil)
		if p := c.recv(); p.u16(36) != 0x0200 {
			t.Errorf("got %x, want a refusal", p.header)
		}
		c.wantEnd(0)
	}
	c = dial(t, s)
	h = loginHeader(0, 0)
	h[1] = 0
	c.sendPDU(h, all)
	for n := 1; ; n++ {
		if n > maxLoginExchanges+1 {
			t.Fatal("a login without end")
		}
		if _, err := c.tryRecv(); err != nil {
			break
		}
		if writePDU(c.Conn, h, nil) != nil {
			break
		}
	}
	c = dial(t, s)
	h[1] = 0x40
	for range 2 {
		c.sendPDU(h, make([]byte, maxLoginSegment))
		c.recv()
	}
	c.sendPDU(h, []byte{0})
	if p := c.recv(); p.u16(36) != 0x0200 {
		t.Errorf("text of more than 16 KiB: got %x", p.header)
	}
	c = dial(t, s)
	c.sendPDU(h, make([]byte, maxLoginSegment+1))
	c.wantEnd(0)
}

func TestCommands(t *testing.T) {
	v := newDevice()
	s := serve(t, v, false)
	c := session(t, s, "MaxRecvDataSegmentLength=4096", "MaxBurstLength=8192")
	pattern := make([]byte, 20480)
	for i := range pattern {
		pattern[i] = byte(i / 7)
	}
	copy(v.blocks, pattern)

	h := c.command(0x40, 20480, 0x28, 0, 0, 0, 0, 0, 0, 0, 10)
	c.sendPDU(h, nil)
	var sizes, flags []string
	for off, n := 0, uint32(0); off < 20480; n++ {
		p := c.recv()
		if p.op() != opDataIn || p.u32(36) != n || p.u32(40) != uint32(off) || !bytes.Equal(p.data, pattern[off:off+len(p.data)]) {
			t.Fatalf("data %d: %x", n, p.header)
		}
		off += len(p.data)
		sizes, flags = append(sizes, fmt.Sprint(len(p.data))), append(flags, fmt.Sprintf("%02x", p.header[1]))
	}
	if got := strings.Join(append(sizes, flags...), " "); got != "4096 4096 4096 4096 4096 00 80 00 80 81" {
		t.Errorf("data came as %s", got)
	}

	for _, tt := range []struct {
		name   string
		flags  byte
		length int
		cdb    []byte
		want   string
		bytes  int
	}{
		{"nothing to move", 0, 0, []byte{0x00}, "00", 0},
		{"a short reply", 0x40, 255, []byte{0x12, 0, 0, 0, 255}, "00 under 219", 36},
		{"more than is expected", 0x40, 8, []byte{0x12, 0, 0, 0, 255}, "00 over 28", 8},
		{"more blocks than are expected", 0x40, 2048, []byte{0x28, 0, 0, 0, 0, 0, 0, 0, 3}, "00 over 4096", 2048},
		{"nothing expected", 0, 0, []byte{0x28, 0, 0, 0, 0, 0, 0, 0, 1}, "00 over 2048", 0},
		{"fewer blocks than are expected", 0x40, 8192, []byte{0x28, 0, 0, 0, 0, 0, 0, 0, 1}, "00 under 6144", 2048},
		{"an error", 0x40, 2048, []byte{0x28, 0, 0, 0, 0xFF, 0, 0, 0, 1}, "02 5/21/00 under 2048", 0},
		{"unknown to the device", 0x40, 10, []byte{0xF7}, "02 5/20/00 under 10", 0},
		{"too much", 0x40, maxTransfer + 1, []byte{0x28}, fmt.Sprintf("02 5/24/00 under %d", maxTransfer+1), 0},
		{"far too much", 0x20, 0xFFFFFFFF, []byte{0x2A}, "02 5/24/00 under 4294967295", 0},
		{"both ways", 0x60, 512, []byte{0x28}, "02 5/24/00 under 512", 0},
		{"less data than blocks", 0x20, 2048, []byte{0x2A, 0, 0, 0, 0, 0, 0, 0, 2}, "02 5/24/00 over 2048", 0},
		{"which units", 0x40, 64, []byte{0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 64}, "00 under 48", 16},
		{"well-known units", 0x40, 64, []byte{0xA0, 0, 1, 0, 0, 0, 0, 0, 0, 64}, "00 under 56", 8},
		{"which units, in no room", 0x40, 8, []byte{0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 8}, "02 5/24/00 under 8", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c.TB = t
			h := c.command(tt.flags, tt.length, tt.cdb...)
			var data []byte
			if tt.name == "less data than blocks" {
				data = make([]byte, 2048)
			}
			c.sendPDU(h, data)
			if data := c.wantStatus(h, tt.want); len(data) != tt.bytes {
				t.Errorf("%d bytes, want %d", len(data), tt.bytes)
			}
		})
	}
	c.TB = t
	for _, tt := range []struct {
		lun  []byte
		cdb  []byte
		want string
	}{
		{[]byte{0, 0}, []byte{0x12, 0, 0, 0, 36}, "00"},
		{[]byte{0, 0}, []byte{0x12, 1, 0, 0, 36}, "02 5/24/00 under 36"},
		{[]byte{0, 2}, []byte{0x00}, "02 5/25/00 under 36"},
		{[]byte{0, 1, 0, 1}, []byte{0x00}, "02 5/25/00 under 36"},
		{[]byte{0x80, 1}, []byte{0x00}, "02 5/25/00 under 36"},
		{[]byte{0, 0}, []byte{0x03, 0, 0, 0, 36}, "00 under 18"},
		{[]byte{0x40, 1}, []byte{0x12, 0, 0, 0, 36}, "00"},
	} {
		h := c.command(0x40, 36, tt.cdb...)
		copy(h[8:16], make([]byte, 8))
		copy(h[8:], tt.lun)
		c.sendPDU(h, nil)
		data := c.wantStatus(h, tt.want)
		if tt.cdb[0] == 0x12 && tt.want == "00" && data[0] != map[byte]byte{0: 0x7F, 0x40: 0}[tt.lun[0]] {
			t.Errorf("LUN %x: INQUIRY %x", tt.lun, data)
		}
	}
}

// cdbs come to the device as long as their operation code says.
func TestCDBs(t *testing.T) {
	v := newDevice()
	c := session(t, serve(t, v, false))
	for op, want := range map[byte]int{0x00: 6, 0x1B: 6, 0x35: 10, 0x43: 10, 0x91: 16, 0xAC: 12, 0xBE: 12, 0xC3: 16, 0x7F: 16} {
		h := c.command(0, 0, op, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
		c.sendPDU(h, nil)
		for p := c.recv(); p.op() != opResponse; {
			t.Fatalf("got %x", p.header)
		}
		v.mu.Lock()
		if got := v.cdbs[len(v.cdbs)-1]; len(got) != want || !bytes.Equal(got, h[32:32+want]) {
			t.Errorf("operation code %02x: the device got % x", op, got)
		}
		v.mu.Unlock()
	}
}

func TestWrites(t *testing.T) {
	data := make([]byte, 100*2048)
	for i := range data {
		data[i] = byte(i / 5)
	}
	for _, tt := range []struct {
		keys      []string
		immediate int
		unasked   []int // lengths of unsolicited data, none: nil
		asked     []int // lengths that the target asks for
	}{
		{nil, 0, nil, []int{204800}},
		{nil, 65536, nil, []int{139264}},
		{nil, 3, nil, []int{204797}},
		{[]string{"MaxBurstLength=65536"}, 0, nil, []int{65536, 65536, 65536, 8192}},
		{[]string{"MaxBurstLength=65536", "ImmediateData=No"}, 0, nil, []int{65536, 65536, 65536, 8192}},
		{[]string{"InitialR2T=No"}, 2048, []int{1000, 62488}, []int{139264}},
		{[]string{"InitialR2T=No"}, 0, []int{10}, []int{204790}},
		{[]string{"InitialR2T=No", "FirstBurstLength=262144"}, 4800, []int{200000}, nil},
	} {
		v := newDevice()
		c := session(t, serve(t, v, false), tt.keys...)
		h := c.command(0x20, len(data), 0x2A, 0, 0, 0, 0, 9, 0, 0, 100)
		if tt.unasked != nil {
			h[1] &^= 0x80
		}
		c.sendPDU(h, data[:tt.immediate])
		off := tt.immediate
		for i, n := range tt.unasked {
			c.dataOut(h, noTag, uint32(i), off, data[off:off+n], i == len(tt.unasked)-1)
			off += n
		}
		for i, n := range tt.asked {
			p := c.recv()
			if p.op() != opR2T || p.u32(36) != uint32(i) || int(p.u32(40)) != off || int(p.u32(44)) != n || p.u32(20) == noTag {
				t.Fatalf("%v: got %x, want an R2T for %d at %d", tt, p.header, n, off)
			}
			half := n / 2
			c.dataOut(h, p.u32(20), 0, off, data[off:off+half], false)
			c.dataOut(h, p.u32(20), 1, off+half, data[off+half:off+n], true)
			off += n
		}
		c.wantStatus(h, "00")
		if !bytes.Equal(v.blocks[9*2048:][:len(data)], data) {
			t.Errorf("%v: other data arrived", tt)
		}
	}
}

// What breaks the protocol ends the connection; nothing of it gets to the device.
func TestProtocolErrors(t *testing.T) {
	v := newDevice()
	s := serve(t, v, false)
	write := func(c *client, n int) *header { return c.command(0x20, n, 0x2A, 0, 0, 0, 0, 0, 0, 0, byte(n/2048)) }
	asked := func(c *client, n int) (*header, uint32) {
		h := write(c, n)
		c.sendPDU(h, nil)
		p := c.recv()
		if p.op() != opR2T {
			c.Fatalf("got %x", p.header)
		}
		return h, p.u32(20)
	}
	two := make([]byte, 4096)
	for _, tt := range []struct {
		name string
		keys []string
		do   func(c *client)
	}{
		{"a segment longer than agreed", nil, func(c *client) { h := c.ping(); h.setDataLen(maxSegment + 1); c.Write(h[:]) }},
		{"an answer from the initiator", nil, func(c *client) { h := c.ping(); h[0] = opNopIn; c.sendPDU(h, nil) }},
		{"an unknown opcode", nil, func(c *client) { h := c.ping(); h[0] = 0x1C; c.sendPDU(h, nil) }},
		{"data with task management", nil, func(c *client) { h := c.ping(); h[0] = 0x40 | opTask; c.sendPDU(h, two) }},
		{"a second login", nil, func(c *client) { c.sendPDU(loginHeader(1, 3), nil) }},
		{"a gap in CmdSN", nil, func(c *client) { c.cmdSN++; c.sendPDU(c.command(0, 0, 0), nil) }},
		{"the reserved tag", nil, func(c *client) { h := c.command(0, 0, 0); h.put32(16, noTag); c.sendPDU(h, nil) }},
		{"data with a read", nil, func(c *client) { c.sendPDU(c.command(0x40, 4096, 0x28), two) }},
		{"immediate data, not agreed", []string{"ImmediateData=No"}, func(c *client) { c.sendPDU(write(c, 4096), two) }},
		{"immediate data, too much of it", nil, func(c *client) { c.sendPDU(write(c, 2048), two) }},
		{"immediate data, more than a first burst", []string{"FirstBurstLength=2048"}, func(c *client) { c.sendPDU(write(c, 8192), two) }},
		{"unasked data to follow, not agreed", nil, func(c *client) { h := write(c, 4096); h[1] &^= 0x80; c.sendPDU(h, nil) }},
		{"unasked data to follow a read", []string{"InitialR2T=No"}, func(c *client) { h := c.command(0x40, 2048, 0x28); h[1] &^= 0x80; c.sendPDU(h, nil) }},
		{"unasked data, more than a first burst", []string{"InitialR2T=No", "FirstBurstLength=2048"}, func(c *client) {
			h := write(c, 8192)
			h[1] &^= 0x80
			c.sendPDU(h, nil)
			c.dataOut(h, noTag, 0, 0, two, true)
		}},
		{"data for another transfer", nil, func(c *client) { h, tag := asked(c, 4096); c.dataOut(h, tag+1, 0, 0, two, true) }},
		{"data unasked for instead", nil, func(c *client) { h, _ := asked(c, 4096); c.dataOut(h, noTag, 0, 0, two, true) }},
		{"data at another offset", nil, func(c *client) { h, tag := asked(c, 4096); c.dataOut(h, tag, 0, 4, two, true) }},
		{"data with another DataSN", nil, func(c *client) { h, tag := asked(c, 4096); c.dataOut(h, tag, 1, 0, two, true) }},
		{"more data than asked for", nil, func(c *client) { h, tag := asked(c, 2048); c.dataOut(h, tag, 0, 0, two, true) }},
		{"less data than asked for", nil, func(c *client) { h, tag := asked(c, 4096); c.dataOut(h, tag, 0, 0, two[:2048], true) }},
		{"data without an end", nil, func(c *client) { h, tag := asked(c, 4096); c.dataOut(h, tag, 0, 0, two, false) }},
		{"text without end", nil, func(c *client) {
			h := c.ping()
			h[0], h[1] = 0x40|opText, 0x40
			c.sendPDU(h, make([]byte, maxText+1))
		}},
		{"text that is none", nil, func(c *client) { h := c.ping(); h[0] = 0x40 | opText; c.sendPDU(h, []byte("what\x00")) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := session(t, s, tt.keys...)
			tt.do(c)
			c.wantEnd(rejectProtocol)
		})
	}
	c := dial(t, s)
	c.sendPDU(loginHeader(1, 3), text("InitiatorName=iqn.x:i", "SessionType=Discovery"))
	c.recv()
	c.sendPDU(c.command(0, 0, 0), nil)
	c.wantEnd(rejectProtocol)
	c = dial(t, s)
	c.sendPDU(c.command(0, 0, 0), nil)
	c.wantEnd(0)
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.cdbs) > 0 {
		t.Errorf("the device got %x", v.cdbs)
	}
}

// What is refused and goes on.
func TestRefusals(t *testing.T) {
	v := newDevice()
	c := session(t, serve(t, v, false))
	for _, change := range []func(h *header) byte{
		func(h *header) byte { h[0] = opSNACK; return rejectSNACK },
		func(h *header) byte { h[4] = 2; return rejectNotSupported }, // an extended CDB
	} {
		h := c.command(0, 0, 0)
		reason := change(h)
		if h[0] == opSNACK {
			c.cmdSN--
		}
		c.Write(h[:])
		c.Write(make([]byte, h.ahsLen()))
		if p := c.recv(); p.op() != opReject || p.header[2] != reason || !bytes.Equal(p.data, h[:]) {
			t.Errorf("got %x, want a reject for reason %d", p.header, reason)
		}
	}
	// From outside the window on both sides: ignored.
	for _, d := range []uint32{^uint32(0), queueDepth, 1 << 31} {
		h := c.command(0x20, 2048, 0x2A, 0, 0, 0, 0, 0, 0, 0, 1)
		c.cmdSN--
		h.put32(24, c.cmdSN+d)
		c.sendPDU(h, make([]byte, 2048))
	}
	c.alive()
	if len(v.cdbs) > 0 {
		t.Errorf("the device got %x", v.cdbs)
	}
}

func TestText(t *testing.T) {
	s := serve(t, newDevice(), false)
	discovery := dial(t, s)
	discovery.sendPDU(loginHeader(1, 3), text("InitiatorName=iqn.x:i", "SessionType=Discovery"))
	discovery.recv()
	normal := session(t, s)
	here := "TargetName=" + testName + "\x00TargetAddress=" + s.addr + ",1\x00"
	for _, tt := range []struct {
		c        *client
		ask, get string
	}{
		{discovery, "SendTargets=All", here},
		{discovery, "SendTargets=" + testName, here},
		{discovery, "SendTargets=iqn.x:other", ""},
		{normal, "SendTargets=", here},
		{normal, "SendTargets=All", ""},
		{normal, "X=1", "X=NotUnderstood\x00"},
	} {
		h := tt.c.ping()
		h[0] = 0x40 | opText
		h[1] = 0x40
		tt.c.sendPDU(h, []byte(tt.ask[:3]))
		if p := tt.c.recv(); p.op() != opTextAnswer || p.header[1] != 0 || p.u32(20) == noTag {
			t.Errorf("to a piece of text: %x", p.header)
		}
		h[1] = 0x80
		tt.c.sendPDU(h, []byte(tt.ask[3:]+"\x00"))
		if p := tt.c.recv(); p.op() != opTextAnswer || p.header[1] != 0x80 || string(p.data) != tt.get {
			t.Errorf("%s: got %x %q, want %q", tt.ask, p.header, p.data, tt.get)
		}
	}
}

func TestLogout(t *testing.T) {
	s := serve(t, newDevice(), false)
	c := session(t, s)
	for _, tt := range []struct {
		reason byte
		cid    uint16
		want   byte
	}{{1, 7, 1}, {2, 0, 2}, {0, 0, 0}} {
		var h header
		h[0], h[1] = 0x40|opLogout, 0x80|tt.reason
		h.put16(20, tt.cid)
		c.sendPDU(&h, nil)
		if p := c.recv(); p.op() != opLogoutReply || p.header[2] != tt.want {
			t.Errorf("%+v: got %x", tt, p.header)
		}
	}
	c.wantEnd(0)
	if f := s.failures(); f != "" {
		t.Errorf("a logout is told as a failure: %s", f)
	}
}

func taskManagement(c *client, function byte, referenced uint32) byte {
	c.Helper()
	var h header
	h[0], h[1], h[9] = 0x40|opTask, 0x80|function, 1
	h.put32(16, 0xAAAA)
	h.put32(20, referenced)
	h.put32(24, c.cmdSN)
	c.sendPDU(&h, nil)
	p := c.recv()
	if p.op() != opTaskAnswer || p.tag() != 0xAAAA {
		c.Fatalf("got %x, want a task management response", p.header)
	}
	return p.header[2]
}

// A drive that hangs: no answer comes until the task is aborted, by each
// function that there is for it; other commands go on.
func TestAbort(t *testing.T) {
	v := newDevice()
	v.hook = func(cdb []byte, d scsi.Data) (int, error, bool) {
		return 0, &scsi.TransportError{Err: scsi.ErrTimeout}, cdb[0] == 0x1B
	}
	s := serve(t, v, false)
	other := session(t, s, "InitiatorAlias=other")
	for _, tt := range []struct {
		function byte
		other    bool // another session's tasks end, too
	}{{1, false}, {2, false}, {4, true}, {5, true}, {6, true}} {
		c := dial(t, s)
		h := loginHeader(1, 3)
		h[13] = tt.function + 10 // a port of its own
		c.sendPDU(h, text("InitiatorName=iqn.x:me", "TargetName="+testName))
		c.recv()
		hanging, also := c.command(0, 0, 0x1B), other.command(0, 0, 0x1B)
		c.sendPDU(hanging, nil)
		other.sendPDU(also, nil)
		for _, x := range []*client{c, other} {
			next := x.command(0, 0, 0)
			x.sendPDU(next, nil)
			x.wantStatus(next, "00")
		}
		if got := taskManagement(c, tt.function, hanging.tag()); got != taskDone {
			t.Errorf("function %d: response %d", tt.function, got)
		}
		if got := taskManagement(c, 1, hanging.tag()); got != taskUnknown {
			t.Errorf("function %d left its task: response %d", tt.function, got)
		}
		if got := taskManagement(other, 1, also.tag()); (got == taskUnknown) != tt.other {
			t.Errorf("function %d, another session's task: response %d", tt.function, got)
		}
		c.alive()
		if got := int(c.maxCmd - c.cmdSN + 1); got != queueDepth {
			t.Errorf("function %d: room for %d commands, want %d", tt.function, got, queueDepth)
		}
	}
	for function, want := range map[byte]byte{3: taskNotSupported, 7: taskNotSupported, 8: taskNoReassign} {
		if got := taskManagement(other, function, 0); got != want {
			t.Errorf("function %d: response %d, want %d", function, got, want)
		}
	}
}

// A write whose data never comes doesn't stand in the way once it is aborted,
// and data that comes then is thrown away.
func TestAbortWrite(t *testing.T) {
	v := newDevice()
	c := session(t, serve(t, v, false))
	h := c.command(0x20, 2048, 0x2A, 0, 0, 0, 0, 0, 0, 0, 1)
	c.sendPDU(h, nil)
	p := c.recv()
	next := c.command(0, 0, 0)
	c.sendPDU(next, nil)
	c.alive() // nothing else comes: the order is kept
	if got := taskManagement(c, 1, h.tag()); got != taskDone {
		t.Fatalf("abort: response %d", got)
	}
	c.wantStatus(next, "00")
	c.dataOut(h, p.u32(20), 0, 0, make([]byte, 2048), true)
	c.alive()
	if len(v.cdbs) != 1 {
		t.Errorf("the device got %x", v.cdbs)
	}
}

// The window closes with as many commands under way as fit, and so do a
// session's bytes.
func TestWindow(t *testing.T) {
	v := newDevice()
	release := make(chan struct{})
	v.hook = func(cdb []byte, d scsi.Data) (int, error, bool) {
		<-release
		return 0, nil, false
	}
	c := session(t, serve(t, v, false))
	var sent []*header
	for range queueDepth {
		sent = append(sent, c.command(0, 0, 0))
		c.sendPDU(sent[len(sent)-1], nil)
	}
	c.alive()
	if c.maxCmd+1 != c.cmdSN {
		t.Errorf("MaxCmdSN %d after CmdSN %d: the window isn't closed", c.maxCmd, c.cmdSN-1)
	}
	c.sendPDU(c.command(0, 0, 0), nil) // ignored
	c.cmdSN--
	for range maxTasks - queueDepth {
		h := c.command(0, 0, 0)
		c.cmdSN--
		h[0] |= 0x40
		sent = append(sent, h)
		c.sendPDU(h, nil)
	}
	h := c.command(0, 0, 0)
	c.cmdSN--
	h[0] |= 0x40
	c.sendPDU(h, nil)
	c.wantStatus(h, "28")
	close(release)
	for _, h := range sent {
		c.wantStatus(h, "00")
	}
	if got := int(c.maxCmd - c.cmdSN + 1); got != queueDepth {
		t.Errorf("room for %d commands at the end, want %d", got, queueDepth)
	}
	for i := range maxPending/maxTransfer + 1 {
		h := c.command(0x20, maxTransfer, 0x2A)
		c.sendPDU(h, nil)
		if i < maxPending/maxTransfer {
			if p := c.recv(); p.op() != opR2T {
				t.Fatalf("got %x, want an R2T", p.header)
			}
		} else {
			c.wantStatus(h, fmt.Sprintf("28 under %d", maxTransfer))
		}
	}
}

// A task tag in use can't be used again.
func TestTagInUse(t *testing.T) {
	c := session(t, serve(t, newDevice(), false))
	h := c.command(0x20, 2048, 0x2A, 0, 0, 0, 0, 0, 0, 0, 1)
	c.sendPDU(h, nil)
	c.recv()
	again := *h
	again.put32(24, c.cmdSN)
	c.sendPDU(&again, nil)
	if p := c.recv(); p.op() != opReject || p.header[2] != rejectTaskInUse {
		t.Errorf("got %x", p.header)
	}
}

// How a device's errors come out.
func TestErrors(t *testing.T) {
	v := newDevice()
	failWith := func(err error) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.hook = func(cdb []byte, d scsi.Data) (int, error, bool) { return 2048, err, true }
	}
	s := serve(t, v, false)
	c := session(t, s)
	read := func(want string) {
		t.Helper()
		h := c.command(0x40, 4096, 0x28, 0, 0, 0, 0, 0, 0, 0, 2)
		c.sendPDU(h, nil)
		if data := c.wantStatus(h, want); len(data) != 2048 {
			t.Errorf("%d bytes with %q", len(data), want)
		}
	}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, "00 under 2048"},
		{&scsi.SenseError{Key: 1, ASC: 0x17}, "02 1/17/00 under 2048"},
		{scsi.StatusBusy, "08 under 2048"},
		{&scsi.TransportError{Host: 7}, "02 4/44/00 under 2048"},
	} {
		failWith(tt.err)
		read(tt.want)
	}
	failWith(&scsi.TransportError{Err: scsi.ErrGone})
	c.sendPDU(c.command(0, 0, 0), nil)
	c.wantEnd(0)
	c = session(t, s)
	h := c.command(0x40, 36, 0x12, 0, 0, 0, 36)
	c.sendPDU(h, nil)
	if data := c.wantStatus(h, "00"); data[0] != 0x7F {
		t.Errorf("INQUIRY of what is gone: %x", data)
	}
	h = c.command(0, 0, 0)
	c.sendPDU(h, nil)
	c.wantStatus(h, "02 5/25/00")
	h = c.command(0x40, 16, 0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16)
	c.sendPDU(h, nil)
	if data := c.wantStatus(h, "00 under 8"); binary.BigEndian.Uint32(data) != 0 {
		t.Errorf("REPORT LUNS: %x", data)
	}
	if f := s.failure(); f != "connection dropped: transport: device is gone from the bus" {
		t.Errorf("told: %q", f)
	}
}

// Several at a time; the same initiator again takes its old session's place.
func TestSessions(t *testing.T) {
	s := serve(t, newDevice(), false)
	first := session(t, s)
	other := dial(t, s)
	h := loginHeader(1, 3)
	h[13] = 2
	other.sendPDU(h, text("InitiatorName=iqn.x:"+t.Name(), "TargetName="+testName))
	other.recv()
	first.alive()
	again := session(t, s)
	first.wantEnd(0)
	again.alive()
	other.alive()
	for range maxConns - 2 {
		dial(t, s)
	}
	deadline := time.Now().Add(10 * time.Second)
	for { // those before may not have been taken up yet
		c := dial(t, s)
		c.sendPDU(loginHeader(0, 0), text("InitiatorName=iqn.x:full", "TargetName="+testName))
		if _, err := c.tryRecv(); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("connections without end")
		}
	}
	again.alive()
}

func TestOnce(t *testing.T) {
	s := serve(t, newDevice(), true)
	c := dial(t, s)
	c.sendPDU(loginHeader(1, 3), text("InitiatorName=iqn.x:i", "SessionType=Discovery"))
	c.recv()
	c.Close()
	c = session(t, s)
	c.alive()
	c.Close()
	if err := <-s.done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	s.done <- nil
}

// What goes through in writes of 128 KiB, one at a time, as sg sends them.
func BenchmarkWrite(b *testing.B) {
	v := newDevice()
	c := session(b, serve(b, v, false), "FirstBurstLength=65536")
	c.SetDeadline(time.Time{})
	data := make([]byte, 128<<10)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		h := c.command(0x20, len(data), 0x2A, 0, 0, 0, 0, 0, 0, 0, byte(len(data)/2048))
		c.sendPDU(h, data[:65536])
		p := c.recv()
		c.dataOut(h, p.u32(20), 0, 65536, data[65536:], true)
		c.wantStatus(h, "00")
	}
}
