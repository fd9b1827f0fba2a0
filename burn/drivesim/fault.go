package drivesim

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"sallyport/media/scsi"
)

// Action is what a fault does.
type Action int

// Actions; the package comment describes them.
const (
	Sense    Action = iota // end the command with Fault.Sense
	Deferred               // report Fault.Sense with a later command
	Timeout                // no answer
	Gone                   // the drive leaves the bus
	Slow                   // Fault.Delay for each block
	Flip                   // invert bit 0 of byte Fault.N of each block
	Padding                // medium: Fault.N readable blocks of zeros behind the track
	Surplus                // medium: Fault.N readable blocks of other data
	RunOut                 // medium: Fault.N unreadable blocks in the capacity
	Sessions               // medium: the disc has Fault.N sessions
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
	N      int           // of Flip: byte of the block; of medium faults: how many
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

// blocks returns which blocks a command is about.
func (r *request) blocks() (lba, n uint32, ok bool) {
	switch r.cdb[0] {
	case 0x28, 0x2A:
		return r.u32(2), uint32(r.u16(7)), true
	}
	return 0, 0, false
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
	}
	return nil
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

// readFaults reads a faults file; one that isn't there holds none.
func readFaults(path string) ([]*armed, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	faults, err := ParseFaults(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var a []*armed
	for _, f := range faults {
		a = append(a, &armed{Fault: f})
	}
	return a, nil
}

const maxFaults = 10_000

// ParseFaults reads faults as the package comment describes them. An error
// names the line.
func ParseFaults(r io.Reader) ([]Fault, error) {
	var faults []Fault
	s := bufio.NewScanner(r)
	for n := 1; s.Scan(); n++ {
		line, _, _ := strings.Cut(s.Text(), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		f, err := parseFault(words)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if len(faults) == maxFaults {
			return nil, fmt.Errorf("line %d: more than %d faults", n, maxFaults)
		}
		faults = append(faults, f)
	}
	return faults, s.Err()
}

func parseFault(w []string) (f Fault, err error) {
	if w[0] == "medium" {
		return parseMediumFault(w[1:])
	}
	if w[0] == "before" || w[0] == "after" {
		f.After = w[0] == "after"
		w = w[1:]
	}
	if len(w) == 0 {
		return f, errors.New("no command")
	}
	if f.Command = w[0]; f.Command == "any" {
		f.Command = ""
	} else if !known(f.Command) {
		return f, fmt.Errorf("unknown command %q", f.Command)
	}
	if w = w[1:]; len(w) >= 2 && w[0] == "lba" {
		if err := f.parseLBA(w[1]); err != nil {
			return f, err
		}
		w = w[2:]
	}
	switch {
	case len(w) >= 2 && (w[0] == "nth" || w[0] == "from"):
		n, err := strconv.ParseUint(w[1], 10, 31)
		if err != nil || n == 0 {
			return f, fmt.Errorf("bad count %q", w[1])
		}
		f.Nth, f.On = int(n), w[0] == "from"
		w = w[2:]
	case len(w) >= 1 && w[0] == "always":
		f.On = true
		w = w[1:]
	}
	return f, f.parseAction(w)
}

func (f *Fault) parseLBA(s string) error {
	from, to, span := strings.Cut(s, "-")
	if !span {
		to = from
	}
	a, errA := strconv.ParseUint(from, 10, 32)
	b, errB := strconv.ParseUint(to, 10, 32)
	if errA != nil || errB != nil || b < a || b-a >= 1<<32-1 {
		return fmt.Errorf("bad lba %q", s)
	}
	f.LBA, f.Blocks = uint32(a), uint32(b-a+1)
	return nil
}

func (f *Fault) parseAction(w []string) (err error) {
	if len(w) == 0 {
		return errors.New("no action")
	}
	arg := strings.Join(w[1:], " ")
	switch w[0] {
	case "sense", "deferred":
		f.Action = Sense
		if w[0] == "deferred" {
			f.Action = Deferred
		}
		f.Sense, err = parseSenseCode(arg)
	case "timeout", "gone":
		f.Action = Timeout
		if w[0] == "gone" {
			f.Action = Gone
		}
		if arg != "" {
			err = fmt.Errorf("%s takes no argument", w[0])
		}
	case "slow":
		f.Action = Slow
		if f.Delay, err = time.ParseDuration(arg); err == nil && (f.Delay < 0 || f.Delay > 24*time.Hour) {
			err = fmt.Errorf("bad duration %q", arg)
		}
	case "flip":
		f.Action = Flip
		f.N, err = strconv.Atoi(arg)
		if err != nil || f.N < 0 || f.N >= blockSize || f.Command != "read" && f.Command != "write" {
			err = fmt.Errorf("bad flip %q (of read or write, 0 to %d)", arg, blockSize-1)
		}
	default:
		err = fmt.Errorf("unknown action %q", w[0])
	}
	return err
}

func parseMediumFault(w []string) (f Fault, err error) {
	kinds := map[string]Action{"padding": Padding, "surplus": Surplus, "runout": RunOut, "sessions": Sessions}
	if len(w) != 2 {
		return f, errors.New("want medium KIND N")
	}
	a, ok := kinds[w[0]]
	if !ok {
		return f, fmt.Errorf("unknown fault of the medium %q", w[0])
	}
	n, err := strconv.ParseUint(w[1], 10, 32)
	if err != nil || n > maxCapacity || a == Sessions && n > 99 {
		return f, fmt.Errorf("bad number %q", w[1])
	}
	return Fault{Action: a, N: int(n)}, nil
}

// parseSenseCode reads K/AA/QQ in hex.
func parseSenseCode(s string) (uint32, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return 0, fmt.Errorf("bad sense %q, want K/AA/QQ", s)
	}
	code := uint32(0)
	for i, p := range parts {
		bits := 8
		if i == 0 {
			bits = 4
		}
		v, err := strconv.ParseUint(p, 16, bits)
		if err != nil || len(p) > 2 {
			return 0, fmt.Errorf("bad sense %q, want K/AA/QQ", s)
		}
		code = code<<8 | uint32(v)
	}
	return code, nil
}

func known(name string) bool {
	for _, c := range commands {
		if c.name == name {
			return true
		}
	}
	return false
}
