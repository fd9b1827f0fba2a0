package wipe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// TestOptions of Test. Key must be set; the rest may be left zero.
type TestOptions struct {
	// Key of the pattern and of the places, new and random for each test.
	Key [32]byte

	// Flush is how much is written behind the samples, so that no cache can
	// hold them any more; 0: 256 MiB. It is more than any cache of a stick.
	Flush int64

	// Replug, when set, is called between writing and reading. It has the
	// medium lose its power and returns it anew.
	Replug func(ctx context.Context) (Medium, error)

	// Progress and Now are as in Options. What counts is what is written.
	Progress func(Progress)
	Now      func() time.Time
}

const (
	// samples is how many blocks a quick test writes and reads.
	samples = 1024
	// points is how many more each round reads to find the real size, and
	// rounds how many rounds there are at most.
	points = 400
	rounds = 2
	// defaultFlush is TestOptions.Flush.
	defaultFlush = 256 << 20
	// maxFaults is how many blocks may answer with an error before a test is
	// given up. A fake may well do so past its real size.
	maxFaults = 16
)

// quick is one call of Test.
type quick struct {
	opt     TestOptions
	m       Medium
	block   int64
	blocks  int64 // of the medium
	buf     []byte
	want    []byte
	meter   meter
	verdict Verdict
	faults  int
	flushed int64 // how far from byte 0 on was written, in bytes
}

// errFaults: more blocks answered with an error than a test takes.
var errFaults = errors.New("too many blocks failed")

// Test tells, by 1,024 blocks of a medium, whether it keeps all that it
// claims, and if it doesn't, how much it does. It reads fewer than 2,048
// blocks. What was on the medium is damaged everywhere.
//
// One block at a random place of each 1,024th of the medium is written, in a
// random order. Then, from byte 0 on, as much as lies between any two of them
// at most: where addresses begin again from 0 at some size, power of two or
// not, the first sample behind that size is overwritten by this. It is followed
// by Flush, for caches. That is less than a 512th of the medium and Flush, and
// never more than half of it. Then the samples are read in another random order.
//
// A medium that gives real blocks to addresses as they are written, first
// come, first served, passes as long as it has any left: only a strict test
// (Options.Strict) finds that one.
//
// A verdict that the medium isn't genuine is no error: Verdict.Genuine says
// it. Errors: ctx's own, and those of the medium and of Replug.
func Test(ctx context.Context, m Medium, opt TestOptions) (*Verdict, error) {
	if opt.Flush == 0 {
		opt.Flush = defaultFlush
	}
	q := &quick{opt: opt, m: m, meter: newMeter(opt.Now, opt.Progress)}
	if err := q.run(ctx); err != nil {
		return nil, fmt.Errorf("capacity test: %w", err)
	}
	return &q.verdict, nil
}

// sample is one block that was written and read.
type sample struct {
	block  int64
	ok     bool
	failed bool  // with an error
	origin int64 // the sector whose data its first one has, -1: none
}

func (q *quick) run(ctx context.Context) error {
	if err := fit(q.m); err != nil {
		return err
	}
	if q.opt.Key == [32]byte{} {
		return errNoKey
	}
	q.block = int64(q.m.BlockSize())
	q.blocks = q.m.Size() / q.block
	q.buf, q.want = buffer(chunk), buffer(chunk)
	n := min(samples, q.blocks/8)
	if n < 2 {
		return fmt.Errorf("a medium of %d blocks is too small for it", q.blocks)
	}
	q.verdict = Verdict{Mode: "quick", Kind: Genuine, Genuine: true, ClaimedSize: q.m.Size(), RealSize: q.m.Size(), FirstBad: -1}
	list, err := q.round(ctx, 0, 0, q.spread(0, q.blocks, n))
	if err != nil {
		return err
	}
	return q.judge(ctx, list)
}

// spread returns a block at a random place of each nth of those from one to
// another, the last one in any case.
func (q *quick) spread(from, to, n int64) []sample {
	r := newRand(q.opt.Key, 2)
	list := make([]sample, 0, n)
	for i := range n {
		low, high := from+mulDiv(to-from, i, n), from+mulDiv(to-from, i+1, n)
		if high > low {
			list = append(list, sample{block: low + r.Int64N(high-low)})
		}
	}
	list[len(list)-1].block = to - 1
	return list
}

// mulDiv returns a·b/c where b <= c are small and a may be large.
func mulDiv(a, b, c int64) int64 { return a/c*b + a%c*b/c }

// round writes blocks, then what overwrites aliases and pushes them out of
// caches, and reads them. list is in order of address, and begins at from.
func (q *quick) round(ctx context.Context, round uint64, from int64, list []sample) ([]sample, error) {
	p := Keyed(q.opt.Key, 2+round)
	r := newRand(q.opt.Key, 3+round)
	gap := list[0].block - from
	for i := 1; i < len(list); i++ {
		gap = max(gap, list[i].block-list[i-1].block)
	}
	q.meter.enter(1, PhaseWrite)
	for _, i := range r.Perm(len(list)) {
		if err := q.write(ctx, p, list[i].block); err != nil {
			return nil, err
		}
	}
	if err := q.flush(ctx, p, (gap+1)*q.block); err != nil {
		return nil, err
	}
	q.meter.enter(1, PhaseRead)
	for _, i := range r.Perm(len(list)) {
		if err := q.read(ctx, p, &list[i]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// flush writes from byte 0 on, and has the medium plugged in again.
func (q *quick) flush(ctx context.Context, p Pattern, alias int64) error {
	if err := q.sync(); err != nil {
		return err
	}
	end := min(alias+q.opt.Flush, q.m.Size()/2/q.block*q.block)
	q.flushed = max(q.flushed, end)
	q.meter.plan(1, q.meter.at.Done+end)
	q.meter.enter(1, PhaseFlush)
	for off := int64(0); off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := q.buf[:min(chunk, end-off)]
		p.Fill(b, off)
		if _, err := q.m.WriteAt(b, off); err != nil {
			return fmt.Errorf("%s: write at byte %d: %w", PhaseFlush, off, err)
		}
		off += int64(len(b))
		q.verdict.BlocksWritten += int64(len(b)) / q.block
		q.meter.add(int64(len(b)))
	}
	if err := q.sync(); err != nil {
		return err
	}
	if q.opt.Replug == nil {
		return nil
	}
	q.meter.enter(1, PhaseReplug)
	m, err := q.opt.Replug(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", PhaseReplug, err)
	}
	if m.Size() != q.m.Size() || m.BlockSize() != q.m.BlockSize() {
		return fmt.Errorf("%s: a medium of %d bytes in blocks of %d came back for one of %d in blocks of %d", PhaseReplug, m.Size(), m.BlockSize(), q.m.Size(), q.m.BlockSize())
	}
	q.m = m
	return nil
}

func (q *quick) sync() error {
	if err := q.m.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

// fault counts a block that answered with an error; it returns the error when
// there is no point in going on.
func (q *quick) fault(op string, block int64, err error) error {
	q.faults++
	g, ok := q.m.(interface{ Gone(error) bool })
	switch {
	case ok && g.Gone(err), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s at byte %d: %w", op, block*q.block, err)
	case q.faults > maxFaults:
		return fmt.Errorf("%w, the last at byte %d: %s: %w", errFaults, block*q.block, op, err)
	}
	return nil
}

func (q *quick) write(ctx context.Context, p Pattern, block int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b := q.buf[:q.block]
	p.Fill(b, block*q.block)
	q.verdict.BlocksWritten++
	if _, err := q.m.WriteAt(b, block*q.block); err != nil {
		return q.fault("write", block, err)
	}
	return nil
}

func (q *quick) read(ctx context.Context, p Pattern, s *sample) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b, want := q.buf[:q.block], q.want[:q.block]
	s.origin = -1
	q.verdict.BlocksRead++
	n, err := q.m.ReadAt(b, s.block*q.block)
	if n < len(b) && (err == nil || err == io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && n < len(b) {
		s.failed = true
		q.verdict.BlocksBad++
		q.verdict.BlocksFailed++
		return q.fault("read", s.block, err)
	}
	p.Fill(want, s.block*q.block)
	if s.ok = bytes.Equal(b, want); s.ok {
		return nil
	}
	q.verdict.BlocksBad++
	s.origin = p.origin(b, q.m.Size()/SectorSize)
	return nil
}

// judge says what the samples show, and finds the real size.
func (q *quick) judge(ctx context.Context, list []sample) error {
	t := tally{sectors: q.m.Size() / SectorSize}
	per := q.block / SectorSize
	good := 0 // behind the first bad one
	for _, s := range list {
		switch {
		case !s.ok:
			t.add(s.block*per, s.origin)
		case t.bad > 0:
			good++
		}
	}
	if t.bad == 0 {
		return nil
	}
	v := &q.verdict
	v.Genuine, v.FirstBad = false, t.low*SectorSize
	v.Kind = t.kind()
	if v.Kind == Wraparound || v.Kind == Chain {
		// A block with the data of one behind it may well be a real one, on which that one came to lie.
		list = slices.DeleteFunc(list, func(s sample) bool { return !s.ok && s.origin > s.block*per })
	}
	bad := firstBad(list)
	switch {
	case t.moved == 0 && good == 0:
		v.Kind = Limbo
	case t.moved == 0:
		v.Kind = Damaged
	case v.Kind == Wraparound:
		// How far data came is a multiple of the real size, and the first sample behind it came just so far.
		between := bad >= 0 && t.modulus <= list[bad].block*per && (bad == 0 || t.modulus > list[bad-1].block*per)
		if between || t.moved >= manyMoved {
			v.RealSize = t.modulus * SectorSize
			return nil
		}
		v.Kind = Last
	case v.Kind == Chain && t.moved >= manyMoved && t.modulus*SectorSize < q.flushed:
		// What overwrites aliases has overwritten itself, so that good blocks are among the bad. But where a sample is
		// lost, so is what stands as far behind the last place from which addresses began again.
		lowest := t.modulus
		for _, s := range list {
			if !s.ok && s.origin < 0 {
				lowest = min(lowest, s.block*per%t.modulus)
			}
		}
		v.RealSize = lowest * SectorSize
		return nil
	}
	return q.narrow(ctx, list)
}

// manyMoved is from how many on blocks agree by more than chance on how far
// they came.
const manyMoved = 8

// narrow finds the real size between the last good sample and the first bad
// one, which list has. A bad one in whose neighbourhood all is good afterwards
// was no boundary, but overwritten by chance: then it is the next one.
func (q *quick) narrow(ctx context.Context, list []sample) error {
	v, all, low := &q.verdict, list, int64(0)
	for round := uint64(1); ; round++ {
		bad := firstBad(list)
		if bad < 0 {
			all = slices.Delete(all, firstBad(all), firstBad(all)+1)
			list, low = all, 0
			if bad = firstBad(list); bad < 0 {
				v.Kind = Damaged
				return nil
			}
		}
		high := list[bad].block
		if bad > 0 {
			low = list[bad-1].block + 1
		}
		v.RealSize = high * q.block
		if round > rounds || low >= high || (high-low)*1000 <= high {
			return nil
		}
		var err error
		list, err = q.round(ctx, round, low, q.spread(low, high+1, min(points, high-low)))
		if errors.Is(err, errFaults) { // it is known well enough
			return nil
		}
		if err != nil {
			return err
		}
		if b := firstBad(list); b >= 0 {
			v.FirstBad = min(v.FirstBad, list[b].block*q.block)
		}
	}
}

func firstBad(list []sample) int {
	return slices.IndexFunc(list, func(s sample) bool { return !s.ok })
}
