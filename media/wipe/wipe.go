// Package wipe overwrites whole media, proves by reading back that it did, and
// tells a medium that keeps all that it claims from a fake.
//
// Run writes each byte of a medium with one or several patterns and reads each
// pass back and compares it whole. With Options.Strict the pass with the keyed
// pattern is a capacity test at the same time, so that data is written once.
// Test is the quick capacity test: 1,024 random blocks, written first, and
// read in another order when more than any plausible cache holds has been
// written behind them.
//
// What is erased is what the host can reach: NIST SP 800-88 (revision 1) calls
// that Clear. Blocks that the medium's controller has put aside, as flash does
// all the time, keep what they had; that would take Purge, which a stick
// offers no means of, and which nothing here claims.
package wipe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Medium is what is wiped: offsets and lengths of writes and reads are whole
// blocks, in bytes, and buffers are aligned for O_DIRECT. Reads and writes are
// never under way at the same time, nor more than one of a kind.
//
// A medium may also have Gone(err error) bool: whether an error of it says
// that it was taken away, so that no other block needs to be tried.
type Medium interface {
	io.ReaderAt
	io.WriterAt
	Sync() error    // what was written is on the medium
	Size() int64    // bytes, as it claims
	BlockSize() int // bytes
	// Discard tells the medium that n bytes from off on are needed no more. One
	// that can't is an errors.ErrUnsupported.
	Discard(off, n int64) error
}

// Method is how a medium is wiped.
type Method string

// Methods. Each pass is read back and compared whole.
const (
	Zero   Method = "zero"                    // one pass of zeros
	Random Method = "random"                  // one pass of the keyed pattern
	Triple Method = "value-complement-random" // Options.Value, its complement, the keyed pattern
)

// Options of Run. Key must be set, unless all is zeros; the rest may be left
// zero.
type Options struct {
	Method Method // "": Random
	Value  byte   // the first pass of Triple

	// Key of the keyed pattern, new and random for each run. It needn't be kept.
	Key [32]byte

	// Strict makes the pass with the keyed pattern a capacity test of every
	// block. Method Zero, which has none, gets one before its own.
	Strict bool

	// Discard has the medium drop all its blocks first, if it can.
	Discard bool

	// Replug, when set, is called between writing and reading. It has the
	// medium lose its power and returns it anew: what only a cache held is
	// lost. Without it what a cache of the medium still holds of the last that
	// was written counts as kept.
	Replug func(ctx context.Context) (Medium, error)

	// Progress, when set, is called now and then, always from the goroutine
	// that called Run.
	Progress func(Progress)

	// Now is the clock of the record and of the time left. Without it the
	// record has no times, and what is left isn't known.
	Now func() time.Time
}

// Phase is a part of a run.
type Phase string

// Phases.
const (
	PhaseDiscard Phase = "discarding"
	PhaseWrite   Phase = "writing"
	PhaseFlush   Phase = "pushing data out of caches" // Test only
	PhaseReplug  Phase = "plugging in again"
	PhaseRead    Phase = "reading back"
)

// Progress is how far a run has come.
type Progress struct {
	Pass, Passes int // from 1
	Phase        Phase
	Done, Total  int64         // bytes, of all passes and phases
	Rate         int64         // bytes per second in this phase, 0: not known
	Left         time.Duration // until all is done, -1: not known
}

// chunk is how much is written and read at a time, in bytes. Two of them are
// in flight: one at the medium, and one being made or compared.
const chunk = 4 << 20

// maxMismatches is how many places of a failed comparison are kept.
const maxMismatches = 16

// MismatchError says that a medium does not read as what was written to it.
type MismatchError struct {
	Pass    int   // from 1
	Offset  int64 // bytes, of the first sector that differs of those compared
	Sectors int64 // of 512 bytes, that differ
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("pass %d: read back %d sectors that are not what was written, the first at byte %d", e.Pass, e.Sectors, e.Offset)
}

// RefusalCode says that such a medium is refused.
func (e *MismatchError) RefusalCode() string { return "readback-differs" }

// CapacityError says that a medium has less capacity than it claims.
type CapacityError struct {
	Verdict Verdict
}

func (e *CapacityError) Error() string {
	return fmt.Sprintf("the medium claims %d bytes and keeps about %d (%s)", e.Verdict.ClaimedSize, e.Verdict.RealSize, e.Verdict.Kind)
}

// RefusalCode says that such a medium is refused.
func (e *CapacityError) RefusalCode() string { return "fake-capacity" }

var errNoKey = errors.New("no key for the pattern")

// run is one call of Run.
type run struct {
	opt    Options
	m      Medium
	size   int64
	record *Record
	meter  meter
}

// pass is one pass of a run.
type pass struct {
	pattern Pattern
	strict  bool
}

// passes returns what opt asks for.
func (opt *Options) passes() ([]pass, error) {
	keyed := pass{Keyed(opt.Key, 1), opt.Strict}
	switch opt.Method {
	case Zero:
		if opt.Strict {
			return []pass{keyed, {pattern: Value(0)}}, nil
		}
		return []pass{{pattern: Value(0)}}, nil
	case Random, "":
		return []pass{keyed}, nil
	case Triple:
		return []pass{{pattern: Value(opt.Value)}, {pattern: Value(^opt.Value)}, keyed}, nil
	}
	return nil, fmt.Errorf("no method %q of wiping: want %s, %s or %s", opt.Method, Zero, Random, Triple)
}

// Run wipes a medium. All that was on it is lost, also when it fails.
//
// The record is never nil and says what was done as far as it came. Its Result
// is ResultDone only when the error is nil: every byte was written and read
// back equal in each pass, and with Options.Strict the capacity is real.
//
// Errors: *MismatchError, *CapacityError, ctx's own when it is done, and those
// of the medium and of Options.Replug, with what was being done and where.
func Run(ctx context.Context, m Medium, opt Options) (*Record, error) {
	r := &run{opt: opt, m: m, size: m.Size(), record: newRecord(m, &opt)}
	r.meter = newMeter(opt.Now, opt.Progress)
	r.record.Start = r.meter.unix()
	err := r.all(ctx)
	r.record.End = r.meter.unix()
	r.record.finish(err)
	if err != nil {
		return r.record, fmt.Errorf("wipe: %w", err)
	}
	return r.record, nil
}

func (r *run) all(ctx context.Context) error {
	passes, err := r.opt.passes()
	if err != nil {
		return err
	}
	if err := fit(r.m); err != nil {
		return err
	}
	keyed := passes[0].pattern.key != nil || passes[len(passes)-1].pattern.key != nil
	if keyed && r.opt.Key == [32]byte{} {
		return errNoKey
	}
	r.meter.plan(len(passes), 2*r.size*int64(len(passes)))
	if r.opt.Discard {
		if err := r.discard(ctx); err != nil {
			return err
		}
	}
	for i, p := range passes {
		if err := r.one(ctx, i+1, p); err != nil {
			return err
		}
	}
	return nil
}

// fit refuses a medium whose numbers make no sense.
func fit(m Medium) error {
	size, block := m.Size(), int64(m.BlockSize())
	if block < SectorSize || block > chunk || block&(block-1) != 0 || size <= 0 || size%block != 0 {
		return fmt.Errorf("a medium of %d bytes in blocks of %d", size, block)
	}
	return nil
}

// discardStep keeps a cancel from waiting long.
const discardStep = 1 << 30

func (r *run) discard(ctx context.Context) error {
	r.meter.enter(0, PhaseDiscard)
	for off := int64(0); off < r.size; off += discardStep {
		if err := ctx.Err(); err != nil {
			return r.fail(PhaseDiscard, off, err)
		}
		err := r.m.Discard(off, min(discardStep, r.size-off))
		if errors.Is(err, errors.ErrUnsupported) {
			r.record.Discard = DiscardUnsupported
			return nil
		}
		if err != nil {
			return r.fail(PhaseDiscard, off, err)
		}
	}
	r.record.Discard = DiscardDone
	return nil
}

// one writes a pass, and reads it back.
func (r *run) one(ctx context.Context, number int, p pass) error {
	r.record.Passes = append(r.record.Passes, Pass{Pattern: p.pattern.String()})
	rec := &r.record.Passes[number-1]
	r.meter.enter(number, PhaseWrite)
	if err := r.write(ctx, p.pattern, rec); err != nil {
		return err
	}
	if err := r.m.Sync(); err != nil {
		return r.fail(PhaseWrite, -1, err)
	}
	if r.opt.Replug != nil {
		r.meter.enter(number, PhaseReplug)
		m, err := r.opt.Replug(ctx)
		if err == nil && (m.Size() != r.size || m.BlockSize() != r.m.BlockSize()) {
			err = fmt.Errorf("a medium of %d bytes in blocks of %d came back for one of %d in blocks of %d", m.Size(), m.BlockSize(), r.size, r.m.BlockSize())
		}
		if err != nil {
			return r.fail(PhaseReplug, -1, err)
		}
		r.m = m
	}
	r.meter.enter(number, PhaseRead)
	t := tally{sectors: r.size / SectorSize}
	if err := r.read(ctx, p, rec, &t); err != nil {
		return err
	}
	r.record.note(number, &t)
	if p.strict {
		v := t.verdict(r.size, r.m.BlockSize())
		r.record.Capacity = &v
		if !v.Genuine {
			return r.fail(PhaseRead, t.lowest()*SectorSize, &CapacityError{v})
		}
	}
	if t.bad > 0 {
		return r.fail(PhaseRead, t.lowest()*SectorSize, &MismatchError{number, t.lowest() * SectorSize, t.bad})
	}
	rec.Verified = true
	return nil
}

// fail notes where a run ended, and why; off is -1 where there is no one place.
func (r *run) fail(phase Phase, off int64, err error) error {
	r.record.Failure = &Failure{Phase: phase, Offset: off, Error: err.Error()}
	if off < 0 {
		return fmt.Errorf("%s: %w", phase, err)
	}
	return fmt.Errorf("%s at byte %d: %w", phase, off, err)
}
