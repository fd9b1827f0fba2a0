package iscsi

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// loginTime is how long a connection may take to log in.
const loginTime = 15 * time.Second

// Login status, class and detail, RFC 7143 11.13.5.
const (
	loginDone         = 0x0000
	loginBadRequest   = 0x0200
	loginNotAllowed   = 0x0201
	loginNoTarget     = 0x0203
	loginNoVersion    = 0x0205
	loginMissingKey   = 0x0207
	loginNoSuchTSIH   = 0x020A
	stageSecurity     = 0
	stageOperational  = 1
	stageFull         = 3
	groupTag          = "1" // the only portal group
	maxLoginExchanges = 32
)

// loginError is why a login ends without a session.
type loginError struct {
	status uint16
	err    error
}

func (e *loginError) Error() string {
	return fmt.Sprintf("login (status %04xh): %v", e.status, e.err)
}
func (e *loginError) Unwrap() error { return e.err }

func loginErrorf(status uint16, format string, args ...any) error {
	return &loginError{status, fmt.Errorf(format, args...)}
}

// login is the leading login of a connection (RFC 7143 6.3).
type login struct {
	c       *conn
	stage   int // -1 before the first request
	isid    [6]byte
	tag     uint32
	cid     uint16
	text    []byte // of a request that goes on in another PDU
	seen    map[string]bool
	checked bool // names and session type are known and good

	declared bool // the initiator was told how much a PDU may bring
}

// login takes the connection to the full feature phase.
func (c *conn) login() error {
	c.net.SetDeadline(time.Now().Add(loginTime))
	l := &login{c: c, stage: -1, seen: map[string]bool{}}
	for range maxLoginExchanges {
		var h header
		if err := readHeader(c.net, &h, maxLoginSegment); err != nil {
			return fmt.Errorf("login: %w", err)
		}
		if h.op() != opLogin {
			return fmt.Errorf("login: byte 0: opcode %02xh", h.op())
		}
		if err := skip(c.net, h.ahsLen()); err != nil {
			return fmt.Errorf("login: %w", err)
		}
		data := make([]byte, h.dataLen())
		if err := readData(c.net, data); err != nil {
			return fmt.Errorf("login: %w", err)
		}
		done, err := l.request(&h, data)
		if refused, ok := errors.AsType[*loginError](err); ok {
			l.answer(&h, refused.status, 0, nil)
		}
		if err != nil {
			return err
		}
		if done {
			return c.net.SetDeadline(time.Time{})
		}
	}
	return errors.New("login: no end to it")
}

// request answers one login request. done: the full feature phase begins.
func (l *login) request(h *header, data []byte) (done bool, err error) {
	transit, more := h[1]&0x80 != 0, h[1]&0x40 != 0
	stage, next := int(h[1]>>2&3), int(h[1]&3)
	if err := l.follow(h, stage); err != nil {
		return false, err
	}
	if transit && (more || next <= stage || next == 2) {
		return false, loginErrorf(loginBadRequest, "byte 1: from stage %d to %d", stage, next)
	}
	if len(l.text)+len(data) > maxText {
		return false, loginErrorf(loginBadRequest, "text of more than %d bytes", maxText)
	}
	l.text = append(l.text, data...)
	if more {
		return false, l.answer(h, loginDone, byte(stage<<2), nil)
	}
	pairs, err := parseText(l.text)
	if err != nil {
		return false, loginErrorf(loginBadRequest, "%w", err)
	}
	l.text = nil
	out, err := l.c.negotiate(pairs, l.seen)
	if err != nil {
		return false, loginErrorf(loginBadRequest, "%w", err)
	}
	for _, kv := range out {
		if kv.key == "AuthMethod" && kv.value != "None" {
			return false, loginErrorf(loginNotAllowed, "every AuthMethod offered is one that isn't there")
		}
	}
	if !l.checked {
		if err := l.check(); err != nil {
			return false, err
		}
		if !l.c.discovery {
			out = append(out, pair{"TargetPortalGroupTag", groupTag})
		}
	}
	if stage == stageOperational && !l.declared {
		l.declared = true
		out = append(out, pair{"MaxRecvDataSegmentLength", strconv.Itoa(maxSegment)})
	}
	flags := byte(stage << 2)
	if transit {
		flags |= 0x80 | byte(next)
		l.stage = next
	}
	if l.stage == stageFull {
		l.c.begin(l)
	}
	return l.stage == stageFull, l.answer(h, loginDone, flags, formatText(out))
}

// follow checks that the request goes on where the one before it was.
func (l *login) follow(h *header, stage int) error {
	if h[3] > 0 {
		return loginErrorf(loginNoVersion, "byte 3: version %d at least, only 0 is there", h[3])
	}
	if stage != stageSecurity && stage != stageOperational {
		return loginErrorf(loginBadRequest, "byte 1: stage %d", stage)
	}
	if l.stage < 0 {
		if h.u16(14) != 0 {
			return loginErrorf(loginNoSuchTSIH, "byte 14: another connection for session %04xh", h.u16(14))
		}
		l.stage, l.tag, l.cid = stage, h.tag(), h.u16(20)
		copy(l.isid[:], h[8:])
		l.c.cid = l.cid
		l.c.expCmdSN = h.u32(24)
		l.c.statSN = h.u32(28)
		return nil
	}
	if stage != l.stage || h.tag() != l.tag || h.u16(20) != l.cid || [6]byte(h[8:]) != l.isid {
		return loginErrorf(loginBadRequest, "stage, task tag, connection or session differ from the first request's")
	}
	return nil
}

// check looks at who logs in to what, once the initiator's first words are
// complete.
func (l *login) check() error {
	p := &l.c.parameters
	switch {
	case p.initiator == "":
		return loginErrorf(loginMissingKey, "no InitiatorName")
	case !p.discovery && p.target == "":
		return loginErrorf(loginMissingKey, "no TargetName")
	case !p.discovery && p.target != l.c.server.Name:
		return loginErrorf(loginNoTarget, "target %q isn't here", p.target)
	}
	l.checked = true
	return nil
}

// answer sends a login response.
func (l *login) answer(req *header, status uint16, flags byte, text []byte) error {
	var h header
	h[0], h[1] = opLoginAnswer, flags
	copy(h[8:14], req[8:14])
	if l.stage == stageFull {
		h.put16(14, l.c.tsih)
	}
	h.put32(16, req.tag())
	h[36], h[37] = byte(status>>8), byte(status)
	if err := l.c.send(&h, text, true); err != nil {
		return fmt.Errorf("login: %w", err)
	}
	return nil
}
