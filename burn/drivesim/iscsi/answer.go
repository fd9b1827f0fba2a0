package iscsi

import (
	"encoding/binary"
	"errors"

	"sallyport/media/scsi"
)

const statusCheck = 0x02 // CHECK CONDITION, SAM-5 5.3

// Sense data of the target's own answers.
var (
	senseInvalidField = &scsi.SenseError{Key: scsi.IllegalRequest, ASC: 0x24}
	senseNoUnit       = &scsi.SenseError{Key: scsi.IllegalRequest, ASC: 0x25}
	senseInternal     = &scsi.SenseError{Key: scsi.HardwareError, ASC: 0x44}
)

// answer is how a command ended.
type answer struct {
	status   byte
	sense    *scsi.SenseError
	data     []byte // for the initiator, no longer than it expects
	residual int    // bytes that were expected and not moved; negative: there was more
}

// run carries a task out and answers it. An error ends the connection.
func (c *conn) run(t *task) error {
	a := answer{residual: t.length}
	cdb := t.cdb()
	var d scsi.Data
	var n int
	var err error
	switch want := reach(cdb); {
	case cdb[0] == 0xA0:
		d.In, err = reportLUNs(cdb, !c.server.gone.Load())
		n = len(d.In)
	case t.lun() != deviceLUN:
		err = errAbsent
	case t.write && want > t.length:
		// Less data than the command is about. The device would wait for it.
		a.residual, err = t.length-want, senseInvalidField
	case t.write:
		d.Out = t.buf
		n, err = c.server.do(cdb, d)
	default:
		d.In = make([]byte, max(t.length, want))
		n, err = c.server.do(cdb, d)
	}
	if errors.Is(err, errAbsent) {
		d.In, err = absentUnit(cdb)
		n = len(d.In)
	}
	if err == nil || n > 0 {
		a.residual = t.length - n
	}
	if !t.write {
		a.data = d.In[:min(n, t.length)]
	}
	var status scsi.Status
	switch s, sensed := errors.AsType[*scsi.SenseError](err); {
	case err == nil:
	case sensed:
		a.status, a.sense = statusCheck, s
	case errors.As(err, &status):
		a.status = byte(status)
	case errors.Is(err, scsi.ErrTimeout):
		return nil // no answer comes until it is aborted, as from a drive that hangs
	case errors.Is(err, scsi.ErrGone), c.server.ctx.Err() != nil:
		return err
	default:
		a.status, a.sense = statusCheck, senseInternal
	}
	c.answering.Lock()
	defer c.answering.Unlock()
	if !c.end(t) {
		return nil
	}
	return c.respond(t, a)
}

// reach is how many bytes a CDB is about, as far as that is known and no more
// than maxTransfer: blocks, or the allocation length of a reply that can be
// longer than the initiator expects.
func reach(cdb []byte) int {
	const block = 2048
	u16 := func(off int) int { return int(binary.BigEndian.Uint16(cdb[off:])) }
	switch cdb[0] {
	case 0x03, 0x1A: // REQUEST SENSE, MODE SENSE(6)
		return int(cdb[4])
	case 0x12: // INQUIRY
		return u16(3)
	case 0x25: // READ CAPACITY(10)
		return 8
	case 0x23, 0x43, 0x46, 0x4A, 0x51, 0x52, 0x5A, 0x5C:
		return u16(7)
	case 0x28, 0x2A, 0x2E: // READ(10), WRITE(10), WRITE AND VERIFY(10)
		return u16(7) * block
	case 0x88, 0x8A: // READ(16), WRITE(16)
		return int(min(binary.BigEndian.Uint32(cdb[10:]), maxTransfer/block)) * block
	case 0xA8, 0xAA: // READ(12), WRITE(12)
		return int(min(binary.BigEndian.Uint32(cdb[6:]), maxTransfer/block)) * block
	case 0xAD, 0xBD: // READ DISC STRUCTURE, MECHANISM STATUS
		return u16(8)
	}
	return 0
}

// respond sends data and status of a task (RFC 7143 11.4 and 11.7). The last
// piece of data brings status GOOD with it.
func (c *conn) respond(t *task, a answer) error {
	flags, residual := byte(0), 0
	switch {
	case a.residual > 0:
		flags, residual = 0x02, a.residual
	case a.residual < 0:
		flags, residual = 0x04, -a.residual
	}
	pieces := uint32(0)
	for off := 0; off < len(a.data); pieces++ {
		n := min(len(a.data)-off, c.sendSegment, c.maxBurst-off%c.maxBurst)
		last := off+n == len(a.data)
		var h header
		h[0] = opDataIn
		if last || (off+n)%c.maxBurst == 0 {
			h[1] = 0x80
		}
		copy(h[8:16], t.header[8:16])
		h.put32(16, t.tag())
		h.put32(20, noTag)
		h.put32(36, pieces)
		h.put32(40, uint32(off))
		done := last && a.status == 0
		if done {
			h[1] |= 0x01 | flags
			h.put32(44, uint32(residual))
		}
		if err := c.send(&h, a.data[off:off+n], done); err != nil || done {
			return err
		}
		off += n
	}
	var h header
	h[0], h[1], h[3] = opResponse, 0x80|flags, a.status
	h.put32(16, t.tag())
	h.put32(36, pieces)
	h.put32(44, uint32(residual))
	var data []byte
	if a.sense != nil {
		sense := a.sense.Fixed()
		data = append([]byte{0, byte(len(sense))}, sense...)
	}
	return c.send(&h, data, true)
}

// reportLUNs is the target's answer to REPORT LUNS (SPC-4 6.33).
func reportLUNs(cdb []byte, device bool) ([]byte, error) {
	allocation := binary.BigEndian.Uint32(cdb[6:])
	if cdb[2] > 2 || allocation < 16 {
		return nil, senseInvalidField
	}
	b := make([]byte, 8, 16)
	if device && cdb[2] != 1 { // 1: well-known logical units only
		b[3] = 8
		b = append(b, 0, deviceLUN, 0, 0, 0, 0, 0, 0)
	}
	return b[:min(uint32(len(b)), allocation)], nil
}

// absentUnit answers for a logical unit that isn't there (SPC-4 4.5.4 and 6.6).
func absentUnit(cdb []byte) ([]byte, error) {
	switch {
	case cdb[0] == 0x12 && cdb[1]&1 == 0 && cdb[2] == 0:
		b := append([]byte{0x7F, 0, 5, 2, 31, 0, 0, 0}, "SALLY   iSCSI target    1   "...)
		return b[:min(len(b), int(binary.BigEndian.Uint16(cdb[3:])))], nil
	case cdb[0] == 0x12:
		return nil, senseInvalidField
	case cdb[0] == 0x03:
		b := senseNoUnit.Fixed()
		return b[:min(len(b), int(cdb[4]))], nil
	}
	return nil, senseNoUnit
}
