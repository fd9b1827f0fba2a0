package iscsi

import (
	"errors"
	"fmt"

	"sallyport/media/scsi"
)

// task is a SCSI command on its way.
type task struct {
	header
	read, write bool
	length      int    // expected data transfer length
	buf         []byte // of a write, length bytes

	// The receiver's account of a write's data.
	got       int    // bytes that have come
	end       int    // of the sequence that is coming
	transfer  uint32 // target transfer tag of that sequence
	dataSN    uint32
	r2tSN     uint32
	unasked   bool          // that sequence is unsolicited
	ready     chan struct{} // closed when the data is there, or the task aborted
	isReady   bool          // under conn.mu
	isAborted bool          // under conn.mu
}

func (t *task) cdb() []byte { return t.header[32:][:cdbLength(t.header[32])] }

// cdbLength is what an operation code's group says (SPC-4 4.2.5.1), and all
// there is for a vendor's.
func cdbLength(op byte) int {
	switch op >> 5 {
	case 0:
		return 6
	case 1, 2:
		return 10
	case 5:
		return 12
	}
	return 16
}

// command takes a SCSI command (RFC 7143 11.3).
func (c *conn) command(h *header) error {
	data := h.dataLen()
	if h.ahsLen() > 0 { // a longer CDB, or both directions
		if err := c.skipRest(h); err != nil {
			return err
		}
		return c.reject(h, rejectNotSupported)
	}
	t := &task{header: *h, read: h[1]&0x40 != 0, write: h[1]&0x20 != 0, ready: make(chan struct{})}
	length := h.u32(20)
	t.unasked = t.write && !h.final()
	switch {
	case h.tag() == noTag:
		return protocolErrorf("byte 16: the reserved task tag")
	case data > 0 && (!t.write || !c.immediateData):
		return protocolErrorf("byte 5: data with a command that has none, or none at once")
	case data > c.firstBurst || uint64(data) > uint64(length):
		return protocolErrorf("byte 5: %d bytes of immediate data, at most %d of %d", data, c.firstBurst, length)
	case !h.final() && (!t.write || c.initialR2T):
		return protocolErrorf("byte 1: data to follow that nobody may send unasked")
	}
	if ok, err := c.admit(t, length); !ok {
		if err := errors.Join(err, c.skipRest(h)); err != nil {
			return err
		}
		return nil
	}
	if t.write {
		t.buf = make([]byte, t.length)
		if err := readData(c.net, t.buf[:data]); err != nil {
			return err
		}
		t.got, t.end = data, min(t.length, c.firstBurst)
	}
	c.queue <- t
	return c.proceed(t)
}

// admit enters a task, or answers it right away when it can't be taken.
func (c *conn) admit(t *task, length uint32) (ok bool, err error) {
	c.mu.Lock()
	room := len(c.tasks) < maxTasks && (!t.write || c.pending+int(min(length, maxTransfer)) <= maxPending)
	_, twice := c.tasks[t.tag()]
	tooLong := length > maxTransfer || t.read && t.write
	if room && !twice && !tooLong {
		c.tasks[t.tag()] = t
		if t.read || t.write {
			t.length = int(length)
		}
		if t.write {
			c.pending += t.length
		}
		if !t.immediate() {
			c.ahead++
		}
	}
	c.mu.Unlock()
	switch {
	case twice:
		return false, c.reject(&t.header, rejectTaskInUse)
	case tooLong:
		return false, c.respond(t, answer{status: statusCheck, sense: senseInvalidField, residual: int(length)})
	case !room:
		return false, c.respond(t, answer{status: byte(scsi.StatusTaskSetFull), residual: int(length)})
	}
	return true, nil
}

// proceed asks for a write's next data, or lets the task run.
func (c *conn) proceed(t *task) error {
	if t.unasked {
		return nil
	}
	if !t.write || t.got == t.length {
		c.mu.Lock()
		defer c.mu.Unlock()
		t.markReady()
		return nil
	}
	c.nextTag++
	t.transfer, t.dataSN, t.end = c.nextTag&0x7FFFFFFF, 0, min(t.length, t.got+c.maxBurst)
	var h header
	h[0], h[1] = opR2T, 0x80
	copy(h[8:16], t.header[8:16])
	h.put32(16, t.tag())
	h.put32(20, t.transfer)
	h.put32(36, t.r2tSN)
	h.put32(40, uint32(t.got))
	h.put32(44, uint32(t.end-t.got))
	t.r2tSN++
	return c.send(&h, nil, false)
}

// markReady: conn.mu is held.
func (t *task) markReady() {
	if !t.isReady {
		t.isReady = true
		close(t.ready)
	}
}

// dataOut takes a piece of a write's data (RFC 7143 11.7), where it belongs and
// without a copy. What comes for a task that has ended meanwhile is thrown away.
func (c *conn) dataOut(h *header) error {
	c.mu.Lock()
	t := c.tasks[h.tag()]
	c.mu.Unlock()
	if t == nil {
		return c.skipRest(h)
	}
	n := h.dataLen()
	transfer := t.transfer
	if t.unasked {
		transfer = noTag
	}
	switch {
	case !t.write || t.got == t.length || h.u32(20) != transfer:
		return protocolErrorf("byte 20: data for transfer %08xh, which was not asked for", h.u32(20))
	case h.u32(36) != t.dataSN || h.u32(40) != uint32(t.got):
		return protocolErrorf("byte 36: DataSN %d at offset %d, %d at %d was expected", h.u32(36), h.u32(40), t.dataSN, t.got)
	case n > t.end-t.got:
		return protocolErrorf("byte 5: %d bytes of data, %d were expected", n, t.end-t.got)
	case !t.unasked && h.final() != (t.got+n == t.end):
		return protocolErrorf("byte 1: the data's end isn't where it was asked for")
	}
	if err := skip(c.net, h.ahsLen()); err != nil {
		return err
	}
	if err := readData(c.net, t.buf[t.got:t.got+n]); err != nil {
		return err
	}
	t.got += n
	t.dataSN++
	if !h.final() {
		return nil
	}
	t.unasked = false
	return c.proceed(t)
}

// end takes a task from the list. It tells whether somebody still waits for an
// answer.
func (c *conn) end(t *task) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drop(t)
}

// drop is end with mu held.
func (c *conn) drop(t *task) bool {
	if t.isAborted || c.tasks[t.tag()] != t {
		return false
	}
	delete(c.tasks, t.tag())
	if !t.immediate() {
		c.ahead--
	}
	return true
}

// abort ends tasks without an answer: all, or only one. It tells whether there
// was any. A command that the device has already got is carried out; nobody
// hears of it.
func (c *conn) abort(only *uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := false
	for tag, t := range c.tasks {
		if only != nil && tag != *only {
			continue
		}
		found = true
		c.drop(t)
		t.isAborted = true
		t.markReady()
	}
	return found
}

// Task management functions and responses, RFC 7143 11.5.1 and 11.6.1.
const (
	abortTask       = 1
	abortTaskSet    = 2
	clearTaskSet    = 4
	resetUnit       = 5
	resetTargetWarm = 6
	reassignTask    = 8

	taskDone         = 0
	taskUnknown      = 1
	taskNoUnit       = 2
	taskNoReassign   = 4
	taskNotSupported = 5
)

// task carries out a task management function (RFC 7143 11.5).
func (c *conn) task(h *header) error {
	if err := c.skipRest(h); err != nil {
		return err
	}
	var out header
	out[0], out[1] = opTaskAnswer, 0x80
	out.put32(16, h.tag())
	function := h[1] & 0x7F
	unit := h.lun() == deviceLUN && !c.server.gone.Load()
	c.answering.Lock()
	defer c.answering.Unlock()
	switch {
	case function == abortTask:
		if referenced := h.u32(20); !c.abort(&referenced) {
			out[2] = taskUnknown
		}
	case function == reassignTask:
		out[2] = taskNoReassign
	case function != resetTargetWarm && function != abortTaskSet && function != clearTaskSet && function != resetUnit:
		out[2] = taskNotSupported
	case function != resetTargetWarm && !unit:
		out[2] = taskNoUnit
	case function == abortTaskSet:
		c.abort(nil)
	default:
		for _, session := range c.server.sessions() {
			session.abort(nil)
		}
	}
	return c.send(&out, nil, true)
}

// execute runs the tasks, one after the other in the order in which they came.
// After an error, which ends the connection, it runs no more.
func (c *conn) execute() (err error) {
	for t := range c.queue {
		<-t.ready
		c.mu.Lock()
		aborted := t.isAborted
		c.mu.Unlock()
		if !aborted && err == nil {
			if err = c.run(t); err != nil {
				err = fmt.Errorf("connection dropped: %w", err)
				c.net.Close() // the receiver then ends, too
			}
			t.buf = nil // a task without an answer stays in the list
		}
		if t.write {
			c.mu.Lock()
			c.pending -= t.length
			c.mu.Unlock()
		}
	}
	return err
}
