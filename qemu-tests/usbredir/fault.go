package usbredir

import (
	"context"
	"slices"
	"time"
)

// Action is what a fault does.
type Action int

// Actions; the package comment describes them.
const (
	Sense  Action = iota // the command ends with Fault.Sense
	Silent               // nothing is answered any more, until a reset
	Stall                // the bulk endpoints stall, until a reset
	Pulled               // the device is gone
	Slow                 // Fault.Delay passes
	Phase                // the status wrapper says phase error
	Tag                  // the status wrapper has another command's tag
	Reply                // the reply has Fault.Data from byte Fault.N on
	Short                // the reply is cut to Fault.N bytes
)

// Fault is one thing that goes wrong.
type Fault struct {
	Command string // as in the package comment; "": any
	LBA     uint64 // with Blocks: only commands that touch these blocks, and only when it comes to the first of them
	Blocks  uint64 // 0: any command
	Nth     int    // the N-th command that fits; 0 is 1
	On      bool   // and all that follow
	After   int64  // not before so many blocks were read or written in all, by the command that gets there, in its midst

	Action Action
	Sense  uint32        // key/asc/ascq packed, 0x31100 is 3/11/00
	Delay  time.Duration // of Slow
	N      int
	Data   string
}

// armed is a fault and how often it could have struck.
type armed struct {
	Fault
	seen int
}

// fits reports whether the fault is about this command, counting it, and at which of its blocks it strikes. moved is
// how many blocks such commands have moved so far.
func (f *armed) fits(t *task, moved int64) (before uint64, ok bool) {
	if f.Command != "" && !slices.Contains(commands[f.Command], t.cdb[0]) {
		return 0, false
	}
	if f.Blocks > 0 {
		if t.left == 0 || t.lba+t.left <= f.LBA || t.lba >= f.LBA+f.Blocks {
			return 0, false
		}
		before = max(t.lba, f.LBA) - t.lba
	}
	if f.After > 0 {
		if t.left == 0 || moved+int64(t.left) <= f.After {
			return 0, false
		}
		before = max(before, uint64(max(f.After-moved, 0)))
	}
	f.seen++
	first := max(1, f.Nth)
	return before, f.seen == first || f.On && f.seen > first
}

// aim finds the fault that a command meets, and lets those happen that change a reply. mu is held.
func (s *Stick) aim(t *task) {
	moved := s.counts.Written
	if isRead(t.cdb[0]) {
		moved = s.counts.Read
	}
	for _, f := range s.faults {
		before, ok := f.fits(t, moved)
		switch {
		case !ok:
		case f.Action == Reply:
			for len(t.reply) < f.N+len(f.Data) {
				t.reply = append(t.reply, 0)
			}
			copy(t.reply[f.N:], f.Data)
		case f.Action == Short:
			t.reply = t.reply[:min(len(t.reply), f.N)]
		case t.strike == nil:
			t.strike, t.before = f, before
		}
	}
}

// act lets a command's fault happen when its turn has come. mu is held.
func (s *Stick) act(ctx context.Context, t *task) error {
	if t.strike == nil || t.before > 0 {
		return nil
	}
	f := t.strike
	t.strike = nil
	switch f.Action {
	case Sense:
		t.fail(f.Sense)
	case Silent:
		t.silent = true
	case Stall:
		t.stuck = true
	case Pulled:
		s.gone = true
		return ErrGone
	case Phase:
		t.status = cswPhaseError
	case Tag:
		t.badTag = true
	case Slow:
		return s.sleep(ctx, t, f.Delay)
	}
	return nil
}

// sleep lets time pass. mu is held, and given away meanwhile.
func (s *Stick) sleep(ctx context.Context, t *task, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	s.mu.Unlock()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	if s.bot.task != t { // a reset went by
		return context.Canceled
	}
	return ctx.Err()
}
