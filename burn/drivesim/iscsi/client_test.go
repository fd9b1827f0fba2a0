package iscsi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/media/scsi"
)

const testName = "iqn.2026-11.org.sallyport:test"

// device is a small disk in memory, of blocks of 2,048 bytes; hook, if set, is
// asked first.
type device struct {
	mu     sync.Mutex
	blocks []byte
	hook   func(cdb []byte, d scsi.Data) (n int, err error, mine bool)
	cdbs   [][]byte // what came, but for the polling of initiators
}

const deviceBlocks = 8192

func newDevice() *device { return &device{blocks: make([]byte, deviceBlocks*2048)} }

var invalidField = &scsi.SenseError{Key: 5, ASC: 0x24}

func (v *device) Do(ctx context.Context, cdb []byte, d scsi.Data) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	v.mu.Lock()
	hook := v.hook
	v.cdbs = append(v.cdbs, append([]byte{}, cdb...))
	v.mu.Unlock()
	if hook != nil {
		if n, err, mine := hook(cdb, d); mine {
			return n, err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	u16, u32 := binary.BigEndian.Uint16, binary.BigEndian.Uint32
	lba, count := uint64(0), uint64(0)
	switch cdb[0] {
	case 0x00, 0x35, 0x91:
		return 0, nil
	case 0x12:
		return v.inquiry(cdb, d)
	case 0x25:
		b := make([]byte, 8)
		binary.BigEndian.PutUint32(b, deviceBlocks-1)
		binary.BigEndian.PutUint32(b[4:], 2048)
		return copy(d.In, b), nil
	case 0x9E:
		b := make([]byte, 32)
		binary.BigEndian.PutUint64(b, deviceBlocks-1)
		binary.BigEndian.PutUint32(b[8:], 2048)
		return copy(d.In, b[:min(32, u32(cdb[10:]))]), nil
	case 0x1A:
		return copy(d.In, []byte{3, 0, 0, 0}[:min(4, cdb[4])]), nil
	case 0x28, 0x2A:
		lba, count = uint64(u32(cdb[2:])), uint64(u16(cdb[7:]))
	case 0xA8, 0xAA:
		lba, count = uint64(u32(cdb[2:])), uint64(u32(cdb[6:]))
	case 0x88, 0x8A:
		lba, count = binary.BigEndian.Uint64(cdb[2:]), uint64(u32(cdb[10:]))
	default:
		return 0, &scsi.SenseError{Key: 5, ASC: 0x20}
	}
	if lba > deviceBlocks || count > deviceBlocks-lba {
		return 0, &scsi.SenseError{Key: 5, ASC: 0x21}
	}
	at := v.blocks[lba*2048 : (lba+count)*2048]
	if cdb[0]&2 != 0 {
		return copy(at, d.Out), nil
	}
	return copy(d.In, at), nil
}

func (v *device) inquiry(cdb []byte, d scsi.Data) (int, error) {
	var b []byte
	switch {
	case cdb[1]&1 == 0:
		b = append([]byte{0, 0, 5, 2, 31, 0, 0, 2}, "SALLY   TEST DISK       1.0 "...)
	case cdb[2] == 0:
		b = []byte{0, 0, 0, 2, 0, 0x83}
	case cdb[2] == 0x83:
		b = append([]byte{0, 0x83, 0, 12, 2, 1, 0, 8}, "SALLYDSK"...)
	default:
		return 0, invalidField
	}
	return copy(d.In, b[:min(len(b), int(binary.BigEndian.Uint16(cdb[3:])))]), nil
}

// serving is a target that runs for a test.
type serving struct {
	addr   string
	cancel context.CancelFunc
	done   chan error
	mu     sync.Mutex
	failed []string
}

// serve runs a target until the test ends, and sees to it that nothing of it is
// left.
func serve(t testing.TB, lun scsi.Transport, once bool) *serving {
	t.Helper()
	before := runtime.NumGoroutine()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &serving{addr: l.Addr().String(), cancel: cancel, done: make(chan error, 1)}
	target := &Target{Name: testName, LUN: lun, Once: once, Failed: func(_ net.Addr, err error) {
		s.mu.Lock()
		s.failed = append(s.failed, err.Error())
		s.mu.Unlock()
	}}
	go func() { s.done <- target.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-s.done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("Serve doesn't return")
		}
		for range 1000 {
			if runtime.NumGoroutine() <= before {
				return
			}
			runtime.Gosched()
			time.Sleep(time.Millisecond)
		}
		t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
	})
	return s
}

func (s *serving) url() string { return "iscsi://" + s.addr + "/" + testName + "/1" }

func (s *serving) failures() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.failed, "\n")
}

// failure waits for the first of them: it is told after the connection has ended.
func (s *serving) failure() string {
	for range 10_000 {
		if f := s.failures(); f != "" {
			return f
		}
		time.Sleep(time.Millisecond)
	}
	return ""
}

// client is an initiator that says what it is told to, right or wrong.
type client struct {
	testing.TB
	net.Conn
	cmdSN   uint32
	maxCmd  uint32
	nextTag uint32
}

// pdu is what came.
type pdu struct {
	header
	data []byte
}

func dial(t testing.TB, s *serving) *client {
	t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{TB: t, Conn: nc, cmdSN: 7}
}

// session is a client that has logged in with what keys say.
func session(t testing.TB, s *serving, keys ...string) *client {
	t.Helper()
	c := dial(t, s)
	keys = append([]string{"InitiatorName=iqn.x:" + t.Name(), "TargetName=" + testName}, keys...)
	c.sendPDU(loginHeader(1, 3), text(keys...))
	if p := c.recv(); p.op() != opLoginAnswer || p.u16(36) != 0 || p.header[1] != 0x87 || p.u16(14) == 0 {
		t.Fatalf("login: %x %q", p.header, p.data)
	}
	return c
}

func text(kv ...string) []byte {
	if len(kv) == 0 {
		return nil
	}
	return []byte(strings.Join(kv, "\x00") + "\x00")
}

// loginHeader asks to go from a stage to another.
func loginHeader(from, to byte) *header {
	var h header
	h[0], h[1] = 0x40|opLogin, 0x80|from<<2|to
	copy(h[8:], "\x80\x00\x00\x00\x00\x01")
	h.put32(16, 0x1234)
	h.put32(24, 7)
	return &h
}

func (c *client) sendPDU(h *header, data []byte) {
	c.Helper()
	if err := writePDU(c.Conn, h, data); err != nil {
		c.Fatal(err)
	}
}

// recv reads the next answer, whatever it is.
func (c *client) recv() *pdu {
	c.Helper()
	p, err := c.tryRecv()
	if err != nil {
		c.Fatalf("read an answer: %v", err)
	}
	return p
}

func (c *client) tryRecv() (*pdu, error) {
	p := &pdu{}
	if _, err := io.ReadFull(c.Conn, p.header[:]); err != nil {
		return nil, err
	}
	p.data = make([]byte, p.dataLen())
	if err := readData(c.Conn, p.data); err != nil {
		return nil, err
	}
	c.maxCmd = p.u32(32)
	return p, nil
}

// command makes a SCSI command for LUN 1; flags are 40h for read, 20h for write.
func (c *client) command(flags byte, length int, cdb ...byte) *header {
	c.nextTag++
	var h header
	h[0], h[1], h[9] = opCommand, 0x80|flags, 1
	h.put32(16, c.nextTag)
	h.put32(20, uint32(length))
	h.put32(24, c.cmdSN)
	c.cmdSN++
	copy(h[32:], cdb)
	return &h
}

func (c *client) dataOut(cmd *header, transfer, dataSN uint32, off int, data []byte, final bool) {
	c.Helper()
	var h header
	h[0] = opDataOut
	if final {
		h[1] = 0x80
	}
	copy(h[8:16], cmd[8:16])
	h.put32(16, cmd.tag())
	h.put32(20, transfer)
	h.put32(36, dataSN)
	h.put32(40, uint32(off))
	c.sendPDU(&h, data)
}

func (c *client) ping() *header {
	var h header
	h[0], h[1] = 0x40|opNopOut, 0x80
	h.put32(16, 0xABCD)
	h.put32(20, noTag)
	h.put32(24, c.cmdSN)
	return &h
}

// alive pings, and takes nothing but the answer.
func (c *client) alive() {
	c.Helper()
	c.sendPDU(c.ping(), []byte("hello"))
	if p := c.recv(); p.op() != opNopIn || p.tag() != 0xABCD || string(p.data) != "hello" {
		c.Fatalf("ping: got %x %q", p.header, p.data)
	}
}

// wantStatus reads the answer to cmd: its data, if any, and what the status is.
func (c *client) wantStatus(cmd *header, want string) []byte {
	c.Helper()
	var data []byte
	for {
		p := c.recv()
		if p.tag() != cmd.tag() {
			c.Fatalf("answer for task %x, want %x: %x", p.tag(), cmd.tag(), p.header)
		}
		switch p.op() {
		case opDataIn:
			if int(p.u32(40)) != len(data) {
				c.Fatalf("data at %d, want %d", p.u32(40), len(data))
			}
			data = append(data, p.data...)
			if p.header[1]&1 == 0 {
				continue
			}
		case opResponse:
		default:
			c.Fatalf("got %x", p.header)
		}
		got := fmt.Sprintf("%02x", p.header[3])
		if p.op() == opResponse && len(p.data) > 2 {
			e, err := scsi.ParseSense(p.data[2:])
			if err != nil {
				c.Fatal(err)
			}
			got += fmt.Sprintf(" %x/%02x/%02x", e.Key, e.ASC, e.ASCQ)
		}
		switch p.header[1] & 0x06 {
		case 0x02:
			got += fmt.Sprintf(" under %d", p.u32(44))
		case 0x04:
			got += fmt.Sprintf(" over %d", p.u32(44))
		}
		if got != want {
			c.Fatalf("cdb %x: got %q, want %q", cmd[32:], got, want)
		}
		return data
	}
}

// wantEnd wants a Reject for the reason, if there is one, and then the end of
// the connection.
func (c *client) wantEnd(reason byte) {
	c.Helper()
	if reason != 0 {
		if p := c.recv(); p.op() != opReject || p.header[2] != reason || len(p.data) != headerSize {
			c.Fatalf("got %x, want a reject for reason %d", p.header, reason)
		}
	}
	if p, err := c.tryRecv(); err == nil {
		c.Fatalf("got %x, want the end", p.header)
	} else if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		c.Fatal("the connection stays open")
	}
}
