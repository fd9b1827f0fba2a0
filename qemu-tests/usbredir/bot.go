package usbredir

import (
	"context"
	"encoding/binary"
	"time"
)

// Bulk-only transport (USB Mass Storage Class, Bulk-Only Transport 1.0): a command wrapper to the output, data one way
// or the other, a status wrapper from the input.
const (
	cbwLen = 31
	cswLen = 13

	cswPassed     = 0
	cswFailed     = 1
	cswPhaseError = 2
)

type phase int

const (
	idle phase = iota // a command wrapper is next
	dataOut
	dataIn
	status // a status wrapper is next
	broken // after an invalid wrapper: both endpoints stall until the reset recovery (5.3.4)
)

// transport is the state of the bulk-only transport.
type transport struct {
	phase phase
	task  *task
}

// task is a command on its way.
type task struct {
	tag    uint32
	lun    *LUN
	cdb    []byte
	length uint32 // of the data that the host expects

	reply []byte // still to be sent
	lba   uint64 // the next block to be read or written
	left  uint64 // blocks still to be read or written
	part  []byte // of a block that isn't there whole, or of one that isn't sent whole
	size  int    // of a block in bytes

	residue uint32 // of length that was not moved
	status  byte   // of the status wrapper

	strike *armed // what is to happen
	before uint64 // blocks that are moved before
	silent bool   // nothing is answered any more
	stuck  bool   // everything stalls
	badTag bool   // the status wrapper has another tag
}

// Bulk implements Device.
func (s *Stick) Bulk(ctx context.Context, endpoint byte, out []byte, n int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.owner(endpoint)
	switch {
	case s.gone:
		return nil, ErrGone
	case !ok:
		return nil, ErrStall
	case f.Class != 8 || f.Protocol != 0x50:
		if endpoint&0x80 != 0 {
			return nil, s.wait(ctx, nil)
		}
		return nil, nil
	case len(s.LUNs) == 0:
		return nil, ErrStall
	}
	for {
		if s.bot.task != nil && s.bot.task.silent {
			return nil, s.wait(ctx, nil)
		}
		if s.halted[endpoint] || s.bot.phase == broken || s.bot.task != nil && s.bot.task.stuck {
			return nil, ErrStall
		}
		if endpoint&0x80 == 0 {
			return nil, s.output(ctx, endpoint, out)
		}
		if s.bot.phase != idle && s.bot.phase != dataOut {
			return s.input(ctx, endpoint, n)
		}
		if err := s.wait(ctx, s.changed); err != nil {
			return nil, err
		}
		if s.gone {
			return nil, ErrGone
		}
	}
}

// wait waits for a change, or for nothing but ctx's end where changed is nil. mu is held, and given away meanwhile.
func (s *Stick) wait(ctx context.Context, changed chan struct{}) error {
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// output takes a command wrapper, or data. mu is held.
func (s *Stick) output(ctx context.Context, endpoint byte, out []byte) error {
	switch s.bot.phase {
	case idle:
		return s.command(ctx, endpoint, out)
	case dataOut:
		err := s.take(ctx, endpoint, out)
		s.wake()
		return err
	}
	return ErrStall // the host owes it to read
}

// command begins with a command wrapper (5.1, 6.2). mu is held.
func (s *Stick) command(ctx context.Context, endpoint byte, out []byte) error {
	if len(out) != cbwLen || string(out[:4]) != "USBC" || int(out[13]&15) >= len(s.LUNs) || out[14]&31 == 0 || out[14]&31 > 16 {
		s.bot.phase = broken
		s.wake()
		return ErrStall
	}
	t := &task{
		tag: binary.LittleEndian.Uint32(out[4:]), length: binary.LittleEndian.Uint32(out[8:]),
		lun: s.LUNs[out[13]&15], cdb: append([]byte(nil), out[15:15+out[14]&31]...),
	}
	t.residue = t.length
	s.bot = transport{task: t}
	if s.counts.First.IsZero() {
		s.counts.First = time.Now()
	}
	if s.counts.Commands == nil {
		s.counts.Commands = map[byte]int{}
	}
	s.counts.Commands[t.cdb[0]]++
	if s.See != nil {
		s.See(out[13]&15, t.cdb)
	}
	s.execute(t)
	err := s.act(ctx, t)
	s.begin(t, out[12]&0x80 != 0, endpoint)
	s.wake()
	return err
}

// begin chooses what comes after the command wrapper: which of the 13 cases of section 6.7 it is. mu is held.
func (s *Stick) begin(t *task, in bool, endpoint byte) {
	wants := t.left * uint64(t.size)
	sends := uint64(len(t.reply))
	if isRead(t.cdb[0]) {
		wants, sends = 0, wants
	}
	if t.status != cswPassed {
		wants, sends = 0, 0
	}
	s.bot.phase = status
	switch {
	case t.length == 0:
		if wants+sends > 0 { // cases 2 and 3
			t.status = cswPhaseError
		}
	case in && wants > 0 || !in && sends > 0: // cases 8 and 10
		t.status = cswPhaseError
		s.halt(in, endpoint)
	case in && sends == 0 || !in && wants == 0: // cases 4 and 9
		s.halt(in, endpoint)
	case in:
		if sends > uint64(t.length) { // case 7
			t.status = cswPhaseError
		}
		s.bot.phase = dataIn
	default:
		if wants > uint64(t.length) { // case 13
			t.status = cswPhaseError
		}
		s.bot.phase = dataOut
	}
}

// halt stalls the endpoint that data would have gone through until the host clears it. endpoint is the output. mu is
// held.
func (s *Stick) halt(in bool, endpoint byte) {
	if in {
		endpoint = s.inputOf(endpoint)
	}
	s.halted[endpoint] = true
}

// inputOf is the bulk input beside a bulk output. mu is held.
func (s *Stick) inputOf(output byte) byte {
	f, _ := s.owner(output)
	for _, e := range f.Endpoints {
		if e.Address&0x80 != 0 && e.Attributes&3 == 2 {
			return e.Address
		}
	}
	return 0x80 | output
}

// clearHalt: mu is held.
func (s *Stick) clearHalt(endpoint byte) {
	delete(s.halted, endpoint)
	s.wake()
}

// input gives data, or the status wrapper. mu is held.
func (s *Stick) input(ctx context.Context, endpoint byte, n int) ([]byte, error) {
	t := s.bot.task
	if s.bot.phase == dataIn {
		n = min(n, int(t.residue))
		b, err := s.give(ctx, t, n)
		switch {
		case err != nil:
			return nil, err
		case t.silent:
			return nil, s.wait(ctx, nil)
		case t.stuck:
			return nil, ErrStall
		}
		t.residue -= uint32(len(b))
		if len(b) < n || t.residue == 0 { // a short packet ends the data
			s.bot.phase = status
		}
		if len(b) == 0 && n > 0 { // the host expects more than there is (case 5)
			s.halted[endpoint] = true
			return nil, ErrStall
		}
		return b, nil
	}
	csw := append([]byte("USBS"), make([]byte, 9)...)
	tag := t.tag
	if t.badTag {
		tag = ^tag
	}
	binary.LittleEndian.PutUint32(csw[4:], tag)
	binary.LittleEndian.PutUint32(csw[8:], t.residue)
	csw[12] = t.status
	s.bot = transport{}
	s.wake()
	return csw[:min(n, cswLen)], nil
}

// take writes data. mu is held.
func (s *Stick) take(ctx context.Context, endpoint byte, out []byte) error {
	t := s.bot.task
	t.residue -= min(t.residue, uint32(len(out)))
	t.part = append(t.part, out...)
	for t.left > 0 && t.status != cswFailed {
		if err := s.act(ctx, t); err != nil {
			return err
		}
		if t.silent {
			return s.wait(ctx, nil)
		}
		if t.stuck {
			return ErrStall
		}
		blocks := min(uint64(len(t.part)/t.size), t.left)
		if t.strike != nil {
			blocks = min(blocks, t.before)
		}
		if blocks == 0 || t.status == cswFailed {
			break
		}
		s.write(t, int(blocks))
	}
	if t.status == cswFailed {
		t.left, t.part = 0, nil // it takes the rest, and throws it away
	}
	if t.residue == 0 || t.left == 0 {
		s.bot.phase = status
		if t.residue > 0 { // case 11, or an error in the midst
			s.halt(false, endpoint)
		}
	}
	return nil
}

// write writes whole blocks that are there. mu is held.
func (s *Stick) write(t *task, blocks int) {
	n := blocks * t.size
	if _, err := t.lun.Medium.WriteAt(t.part[:n], int64(t.lba)*int64(t.size)); err != nil {
		t.fail(senseWriteError)
		return
	}
	s.counts.Written += int64(blocks)
	t.advance(uint64(blocks))
	t.part = append([]byte(nil), t.part[n:]...)
}

func (t *task) advance(blocks uint64) {
	t.lba += blocks
	t.left -= blocks
	t.before -= min(t.before, blocks)
}

// give returns at most n bytes of what the command reads, none when there is no more. mu is held.
func (s *Stick) give(ctx context.Context, t *task, n int) ([]byte, error) {
	if !isRead(t.cdb[0]) {
		b := t.reply[:min(n, len(t.reply))]
		t.reply = t.reply[len(b):]
		return b, nil
	}
	b := t.part
	for len(b) < n && t.left > 0 && t.status != cswFailed {
		if err := s.act(ctx, t); err != nil {
			return nil, err
		}
		if t.silent || t.stuck {
			return nil, nil
		}
		blocks := min(uint64((n-len(b)+t.size-1)/t.size), t.left)
		if t.strike != nil {
			blocks = min(blocks, t.before)
		}
		if blocks == 0 || t.status == cswFailed {
			break
		}
		data := make([]byte, int(blocks)*t.size)
		if _, err := t.lun.Medium.ReadAt(data, int64(t.lba)*int64(t.size)); err != nil {
			t.fail(senseReadError)
			break
		}
		s.counts.Read += int64(blocks)
		t.advance(blocks)
		b = append(b, data...)
	}
	n = min(n, len(b))
	t.part = b[n:]
	return b[:n], nil
}
