package iscsi

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

const (
	// queueDepth is how many commands an initiator may send ahead.
	queueDepth = 32
	// maxTasks bounds all commands of a session, with the immediate ones.
	maxTasks = 2 * queueDepth
	// maxTransfer bounds the data of one command, maxPending that of all of a
	// session's commands that wait, in bytes.
	maxTransfer = 8 << 20
	maxPending  = 32 << 20
)

// conn is a connection and, after login, its session.
type conn struct {
	server *server
	net    net.Conn
	parameters
	cid  uint16
	isid [6]byte
	tsih uint16 // 0: no session; under server.mu

	// Written in one piece, in the order of StatSN.
	sending sync.Mutex
	statSN  uint32

	// Held from taking a task from the list until its answer is sent: no word
	// that there is no such task may get ahead of that.
	answering sync.Mutex

	mu       sync.Mutex
	expCmdSN uint32
	ahead    int              // commands that count in the window
	pending  int              // bytes that writes on their way have room for
	tasks    map[uint32]*task // by initiator task tag

	queue   chan *task // in the order of CmdSN
	nextTag uint32     // target transfer tag
	text    []byte     // of a text request that goes on in another PDU
}

func newConn(s *server, nc net.Conn) *conn {
	return &conn{server: s, net: nc, parameters: defaults(), tasks: map[uint32]*task{}, queue: make(chan *task, maxTasks)}
}

// inSession: server.mu is held.
func (c *conn) inSession() bool { return c.tsih != 0 }

// begin makes a session of the connection, which has logged in.
func (c *conn) begin(l *login) {
	c.firstBurst = min(c.firstBurst, c.maxBurst)
	c.isid = l.isid
	c.server.begin(c)
}

// serve is a connection's life. It returns nil when it was logged out, or when
// the initiator left and waited for nothing.
func (c *conn) serve() error {
	defer c.net.Close()
	if err := c.login(); err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	executed := make(chan error)
	go func() { executed <- c.execute() }()
	err := c.receive()
	c.net.Close()
	waited := c.abort(nil)
	close(c.queue)
	if dropped := <-executed; dropped != nil {
		return dropped
	}
	if errors.Is(err, errLogout) || !waited && errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// protocolError ends a connection.
type protocolError struct {
	reason byte // of the Reject that says so
	err    error
}

func (e *protocolError) Error() string { return "protocol: " + e.err.Error() }
func (e *protocolError) Unwrap() error { return e.err }

func protocolErrorf(format string, args ...any) error {
	return &protocolError{rejectProtocol, fmt.Errorf(format, args...)}
}

// receive takes PDUs until the connection ends.
func (c *conn) receive() error {
	for {
		var h header
		if _, err := io.ReadFull(c.net, h[:]); err != nil {
			return fmt.Errorf("connection lost: %w", err)
		}
		err := h.check(maxSegment)
		if err != nil {
			err = &protocolError{rejectProtocol, err}
		} else {
			err = c.dispatch(&h)
		}
		if e, ok := errors.AsType[*protocolError](err); ok {
			c.reject(&h, e.reason)
		}
		if err != nil {
			return err
		}
	}
}

// dispatch takes one PDU, of which the header has been read.
func (c *conn) dispatch(h *header) error {
	if c.discovery && h.op() != opText && h.op() != opLogout && h.op() != opNopOut {
		return protocolErrorf("byte 0: opcode %02xh in a discovery session", h.op())
	}
	switch h.op() {
	case opDataOut:
		return c.dataOut(h)
	case opSNACK:
		return c.reject(h, rejectSNACK) // there is nothing to ask for again at error recovery level 0
	case opLogin:
		return protocolErrorf("byte 0: login in the full feature phase")
	}
	ok, err := c.inOrder(h)
	if err != nil {
		return err
	}
	if !ok {
		return c.skipRest(h)
	}
	switch h.op() {
	case opCommand:
		return c.command(h)
	case opTask:
		return c.task(h)
	case opNopOut:
		return c.nop(h)
	case opText:
		return c.textRequest(h)
	}
	return c.logout(h)
}

// inOrder tells whether a PDU's turn has come by its CmdSN (RFC 7143 4.2.2.1).
// One from outside the window is ignored; one that leaves a gap breaks the
// protocol, since a session has one connection.
func (c *conn) inOrder(h *header) (bool, error) {
	if h.immediate() {
		return true, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch d := int32(h.u32(24) - c.expCmdSN); {
	case d < 0, int(d) >= c.window():
		return false, nil
	case d > 0:
		return false, protocolErrorf("byte 24: CmdSN %d, %d was expected", h.u32(24), c.expCmdSN)
	}
	c.expCmdSN++
	return true, nil
}

// window is how many commands may still be sent: mu is held.
func (c *conn) window() int { return max(0, queueDepth-c.ahead) }

// skipRest reads what is behind a header and forgets it.
func (c *conn) skipRest(h *header) error {
	return skip(c.net, h.ahsLen()+h.dataLen()+padding(h.dataLen()))
}

// rest reads what is behind a header that announces little data.
func (c *conn) rest(h *header) ([]byte, error) {
	if err := skip(c.net, h.ahsLen()); err != nil {
		return nil, err
	}
	data := make([]byte, h.dataLen())
	return data, readData(c.net, data)
}

// send sends a PDU with the sequence numbers. One with a status uses a StatSN
// up (RFC 7143 4.2.2.2).
func (c *conn) send(h *header, data []byte, status bool) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	h.put32(24, c.statSN)
	if status {
		c.statSN++
	}
	c.mu.Lock()
	h.put32(28, c.expCmdSN)
	h.put32(32, c.expCmdSN+uint32(c.window())-1)
	c.mu.Unlock()
	if err := writePDU(c.net, h, data); err != nil {
		return fmt.Errorf("connection lost: %w", err)
	}
	return nil
}

// reject answers a PDU that isn't taken (RFC 7143 11.17).
func (c *conn) reject(bad *header, reason byte) error {
	var h header
	h[0], h[1], h[2] = opReject, 0x80, reason
	h.put32(16, noTag)
	return c.send(&h, bad[:], true)
}

// nop answers a ping (RFC 7143 11.18).
func (c *conn) nop(h *header) error {
	if h.tag() == noTag {
		return c.skipRest(h)
	}
	data, err := c.rest(h)
	if err != nil {
		return err
	}
	var out header
	out[0], out[1] = opNopIn, 0x80
	copy(out[8:16], h[8:16])
	out.put32(16, h.tag())
	out.put32(20, noTag)
	return c.send(&out, data[:min(len(data), c.sendSegment)], true)
}

// logout ends the session (RFC 7143 11.14).
func (c *conn) logout(h *header) error {
	const (
		closed         = 0
		noSuchCID      = 1
		noRecovery     = 2
		reasonConn     = 1
		reasonRecovery = 2
	)
	if err := c.skipRest(h); err != nil {
		return err
	}
	var out header
	out[0], out[1] = opLogoutReply, 0x80
	switch reason := h[1] & 0x7F; {
	case reason == reasonConn && h.u16(20) != c.cid:
		out[2] = noSuchCID
	case reason >= reasonRecovery:
		out[2] = noRecovery
	}
	out.put32(16, h.tag())
	if err := c.send(&out, nil, true); err != nil {
		return err
	}
	if out[2] != closed {
		return nil
	}
	return errLogout
}

// textRequest answers SendTargets and keys that may change in the full feature
// phase (RFC 7143 11.10 and appendix C).
func (c *conn) textRequest(h *header) error {
	data, err := c.rest(h)
	if err != nil {
		return err
	}
	if len(c.text)+len(data) > maxText {
		return protocolErrorf("text of more than %d bytes", maxText)
	}
	c.text = append(c.text, data...)
	var out header
	out[0] = opTextAnswer
	copy(out[8:16], h[8:16])
	out.put32(16, h.tag())
	if h[1]&0x40 != 0 {
		c.nextTag++
		out.put32(20, c.nextTag&0x7FFFFFFF)
		return c.send(&out, nil, true)
	}
	pairs, err := parseText(c.text)
	if err != nil {
		return protocolErrorf("%w", err)
	}
	c.text = nil
	var answers []pair
	for _, kv := range pairs {
		switch kv.key {
		case "SendTargets":
			answers = append(answers, c.sendTargets(kv.value)...)
		case "MaxRecvDataSegmentLength":
			// The executor reads it: it stays what it was agreed to be.
			answers = append(answers, pair{kv.key, "Reject"})
		default:
			answers = append(answers, pair{kv.key, "NotUnderstood"})
		}
	}
	out[1] = 0x80
	out.put32(20, noTag)
	text := formatText(answers)
	return c.send(&out, text[:min(len(text), c.sendSegment)], true)
}

// sendTargets lists the target, if it is asked for.
func (c *conn) sendTargets(which string) []pair {
	if c.discovery && which != "All" && which != c.server.Name ||
		!c.discovery && which != "" && which != c.server.Name {
		return nil
	}
	address := c.net.LocalAddr().String()
	return []pair{{"TargetName", c.server.Name}, {"TargetAddress", address + "," + groupTag}}
}
