package drivesim

import (
	"time"

	"sallyport/media/scsi"
)

// Action is what a fault does.
type Action int

// Actions; the package comment describes them.
const (
	Sense     Action = iota // end the command with Fault.Sense
	Deferred                // report Fault.Sense with a later command
	Timeout                 // no answer
	Gone                    // the drive leaves the bus
	Slow                    // Fault.Delay for each block
	Flip                    // invert bit 0 of byte Fault.N of each block
	BadStatus               // end the command with the status Fault.N
	Busy                    // a long operation of Fault.Delay, Fault.Sense, begins
	Tray                    // the tray opens, locked or not
	Reset                   // the bus is reset
	Reply                   // the reply has Fault.Data from byte Fault.N on
	Short                   // the reply is cut to Fault.N bytes
	Padding                 // medium: Fault.N readable blocks of zeros behind the track
	Surplus                 // medium: Fault.N readable blocks of other data
	RunOut                  // medium: Fault.N unreadable blocks in the capacity
	Sessions                // medium: the disc has Fault.N sessions
)

// Fault is one thing that goes wrong.
type Fault struct {
	Command string // as in the package comment; "": any
	After   bool   // the command takes effect before it fails
	LBA     uint32 // with Blocks: only commands that touch these blocks
	Blocks  uint32 // 0: any command
	Nth     int    // the N-th command that fits; 0 is 1
	On      bool   // and all that follow

	Action Action
	Sense  uint32        // key/asc/ascq packed, 0x30C00 is 3/0C/00
	Delay  time.Duration // of Slow
	N      int           // of Flip: byte of the block; of Reply: byte of the reply; of Short: bytes; of BadStatus: SAM status code; of medium faults: how many
	Data   string        // of Reply
}

// armed is a fault and how often it could have struck.
type armed struct {
	Fault
	seen int
}

// fits reports whether the fault is about this command, counting it.
func (f *armed) fits(r *request, c *command) bool {
	if f.Action >= Padding || f.Command != "" && (c == nil || c.name != f.Command) {
		return false
	}
	if f.Blocks > 0 {
		lba, n, ok := r.blocks()
		if !ok || uint64(lba)+uint64(n) <= uint64(f.LBA) || uint64(lba) >= uint64(f.LBA)+uint64(f.Blocks) {
			return false
		}
	}
	f.seen++
	first := max(1, f.Nth)
	return f.seen == first || f.On && f.seen > first
}

// lbaOf returns the first block of the command that the fault is about, nil
// when it is about none.
func (r *request) lbaOf(f *armed) *uint32 {
	lba, n, ok := r.blocks()
	if !ok || n == 0 {
		return nil
	}
	if f.Blocks > 0 {
		lba = max(lba, f.LBA)
	}
	return &lba
}

// strikes finds the faults for a command: at most one before and one after its
// effect, and those that change its data.
func (d *Drive) strikes(r *request, c *command) (before, after *armed) {
	for _, f := range d.faults {
		if !f.fits(r, c) {
			continue
		}
		switch {
		case f.Action == Flip:
			r.flips = append(r.flips, f)
		case f.Action == Reply || f.Action == Short:
			r.lies = append(r.lies, f)
		case f.After && after == nil:
			after = f
		case !f.After && before == nil:
			before = f
		}
	}
	return before, after
}

// strike lets a fault happen.
func (d *Drive) strike(r *request, f *armed) error {
	if f == nil {
		return nil
	}
	switch f.Action {
	case Sense:
		return parsed(fixedSense(0x70, f.Sense, r.lbaOf(f)))
	case Deferred:
		if f.After {
			d.deferred = fixedSense(0x71, f.Sense, r.lbaOf(f))
		} // before: execute withholds the effect
	case Timeout:
		if r.limit > 0 {
			d.advance(r.limit)
		}
		d.reset()
		return &scsi.TransportError{Err: scsi.ErrTimeout}
	case Gone:
		d.gone = true
		return &scsi.TransportError{Err: scsi.ErrGone}
	case Slow:
		t := f.Delay
		if _, n, ok := r.blocks(); ok {
			t *= time.Duration(n)
		}
		return d.spend(r, t)
	case BadStatus:
		return scsi.Status(f.N)
	case Busy:
		d.finishLongOperation()
		return d.long(r, f.Delay, true, f.Sense, func() error { return nil })
	case Tray:
		d.openTray()
	case Reset:
		d.reset()
	}
	return nil
}

// falsify changes a reply of n bytes, and returns how long it is then.
func (r *request) falsify(n int) int {
	for _, f := range r.lies {
		switch in := r.data.In; {
		case f.Action == Short:
			n = min(n, f.N)
		case f.N < len(in):
			n = max(n, f.N+copy(in[f.N:], f.Data))
		}
	}
	return n
}

// eachBlock calls do for each block of the command that the fault is about,
// with the block's offset in the data.
func (f *armed) eachBlock(r *request, do func(lba uint32, off int)) {
	lba, n, _ := r.blocks()
	for i := range n {
		if f.Blocks == 0 || lba+i >= f.LBA && lba+i-f.LBA < f.Blocks {
			do(lba+i, int(i)*blockSize)
		}
	}
}

// mediumFault sums up the medium faults of one kind.
func (d *Drive) mediumFault(a Action) (n uint32) {
	for _, f := range d.faults {
		if f.Action == a {
			n += uint32(f.N)
		}
	}
	return n
}

// behind says what stands n blocks behind the track's end.
func (d *Drive) behind(n uint32) Action {
	for _, f := range d.faults {
		switch f.Action {
		case Padding, Surplus, RunOut:
			if n < uint32(f.N) {
				return f.Action
			}
			n -= uint32(f.N)
		}
	}
	return RunOut
}
