package iscsi

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"sallyport/media/scsi"
)

// FuzzHeader: whatever a header says, what it makes the target read is bounded.
func FuzzHeader(f *testing.F) {
	f.Add(loginHeader(1, 3)[:])
	f.Add((&client{TB: f}).command(0x20, 2048, 0x2A, 0, 0, 0, 0, 0, 0, 0, 1)[:])
	f.Add((&client{TB: f}).ping()[:])
	f.Add(bytes.Repeat([]byte{0xFF}, headerSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h header
		if err := readHeader(bytes.NewReader(b), &h, maxSegment); err != nil {
			return
		}
		if h.dataLen() > maxSegment || h.ahsLen() > maxHeaderSegments || h.op() > opSNACK {
			t.Fatalf("% x passes", h)
		}
		if n := len((&task{header: h}).cdb()); n < 6 || n > 16 {
			t.Fatalf("cdb of %d bytes", n)
		}
		if lun := h.lun(); lun < -1 || lun > 0x3FFF {
			t.Fatalf("LUN %d", lun)
		}
	})
}

// FuzzLogin: the answer to any text is text that fits one PDU, and the values
// stay in bounds.
func FuzzLogin(f *testing.F) {
	f.Add(text("InitiatorName=iqn.x:i", "TargetName="+testName, "AuthMethod=CHAP,None", "HeaderDigest=None,CRC32C"))
	f.Add(text("MaxRecvDataSegmentLength=0x200", "MaxBurstLength=512", "FirstBurstLength=16777215", "InitialR2T=No", "X-y=z"))
	f.Add(text(strings.Fields(strings.Repeat("k=v ", 65))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		pairs, err := parseText(b)
		if err != nil {
			return
		}
		p := defaults()
		answers, err := p.negotiate(pairs, map[string]bool{})
		if err != nil {
			return
		}
		if n := len(formatText(answers)); n > maxLoginSegment-100 {
			t.Fatalf("answer of %d bytes", n)
		}
		if p.sendSegment < 512 || p.sendSegment > maxSegment || p.maxBurst < 512 || p.maxBurst > maxSegment || p.firstBurst < 512 || p.firstBurst > maxSegment {
			t.Fatalf("%+v", p)
		}
		if again, err := parseText(formatText(pairs)); err != nil || len(again) != len(pairs) {
			t.Fatalf("%q reads back as %q, %v", pairs, again, err)
		}
	})
}

// FuzzSession: after a login anything may come; the connection ends with it,
// and no command gets more data than it expects.
func FuzzSession(f *testing.F) {
	c := &client{TB: f, cmdSN: 7}
	stream := func(parts ...any) []byte {
		var b bytes.Buffer
		for _, p := range parts {
			switch p := p.(type) {
			case *header:
				b.Write(p[:])
			case []byte:
				b.Write(p)
			}
		}
		return b.Bytes()
	}
	write := c.command(0x20, 2048, 0x2A, 0, 0, 0, 0, 0, 0, 0, 1)
	write.setDataLen(2048)
	abort := c.ping()
	abort[0], abort[1] = 0x40|opTask, 0x81
	f.Add(stream(write, make([]byte, 2048), c.command(0x40, 2048, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), abort))
	f.Add(stream(c.ping(), c.command(0x20, 4096, 0x2A, 0, 0, 0, 0, 0, 0, 0, 2)))
	f.Fuzz(func(t *testing.T, b []byte) {
		v := newDevice()
		v.hook = func(cdb []byte, d scsi.Data) (int, error, bool) {
			if d.Len() > maxTransfer || len(d.In) > 0 && len(d.Out) > 0 {
				t.Errorf("% x: %d bytes in, %d out", cdb, len(d.In), len(d.Out))
			}
			return 0, nil, false
		}
		here, there := net.Pipe()
		ctx, cancel := context.WithCancel(context.Background())
		s := &server{Target: &Target{Name: testName, LUN: v}, ctx: ctx, cancel: cancel, conns: map[*conn]bool{}}
		conn := newConn(s, there)
		s.add(conn)
		done := make(chan struct{})
		go func() {
			conn.serve()
			s.remove(conn)
			close(done)
		}()
		drained := make(chan struct{})
		go func() {
			io.Copy(io.Discard, here)
			close(drained)
		}()
		writePDU(here, loginHeader(1, 3), text("InitiatorName=iqn.x:i", "TargetName="+testName, "InitialR2T=No"))
		here.Write(b)
		here.Close()
		<-done
		<-drained
		cancel()
	})
}
