package wipe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/bits"
)

// part is a stretch of the medium on its way.
type part struct {
	off int64
	b   []byte
	err error
}

// pipe has fill work on parts ahead of use, two buffers going round between
// them. Before it returns fill has ended.
func (r *run) pipe(ctx context.Context, order func(i int64) int64, fill func(p *part), use func(p part) error) error {
	ctx, cancel := context.WithCancel(ctx)
	free, ready := make(chan part, 2), make(chan part, 2)
	for range 2 {
		free <- part{b: buffer(int(min(chunk, r.size)))}
	}
	n := (r.size + chunk - 1) / chunk
	go func() {
		defer close(ready)
		for i := range n {
			var p part
			select {
			case p = <-free:
			case <-ctx.Done():
				return
			}
			p.off = order(i) * chunk
			p.b = p.b[:min(chunk, r.size-p.off)]
			fill(&p)
			ready <- p
			if p.err != nil {
				return
			}
		}
	}()
	defer func() {
		cancel()
		for range ready { // until fill has ended
		}
	}()
	for range n {
		var p part
		select {
		case p = <-ready:
		case <-ctx.Done():
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := use(p); err != nil {
			return err
		}
		p.b = p.b[:cap(p.b)]
		free <- p
	}
	return nil
}

func inOrder(i int64) int64 { return i }

// write writes the pattern all over the medium.
func (r *run) write(ctx context.Context, pattern Pattern, rec *Pass) error {
	err := r.pipe(ctx, inOrder, func(p *part) { pattern.Fill(p.b, p.off) }, func(p part) error {
		n, err := r.m.WriteAt(p.b, p.off)
		if err == nil && n < len(p.b) {
			err = io.ErrShortWrite
		}
		rec.Written += int64(n)
		if err != nil {
			return r.fail(PhaseWrite, p.off+int64(n), err)
		}
		r.meter.add(int64(n))
		return nil
	})
	return r.cancelled(ctx, PhaseWrite, err)
}

// read reads the medium and compares it with the pattern. That of a strict
// pass is read to the end whatever it says, in an order that nobody can
// foretell; any other ends with the first chunk that differs.
func (r *run) read(ctx context.Context, q pass, rec *Pass, t *tally) error {
	order := inOrder
	if q.strict {
		order = shuffled((r.size+chunk-1)/chunk, r.opt.Key)
	}
	want := buffer(int(min(chunk, r.size)))
	err := r.pipe(ctx, order, func(p *part) {
		n, err := r.m.ReadAt(p.b, p.off)
		switch {
		case n == len(p.b):
		case err == nil, err == io.EOF:
			p.err = io.ErrUnexpectedEOF
		default:
			p.err = err
		}
		p.b = p.b[:max(n, 0)]
	}, func(p part) error {
		rec.Read += int64(len(p.b))
		if p.err != nil {
			return r.fail(PhaseRead, p.off+int64(len(p.b)), p.err)
		}
		want := want[:len(p.b)]
		q.pattern.Fill(want, p.off)
		if !bytes.Equal(want, p.b) {
			t.compare(q.pattern, p.b, want, p.off)
			if !q.strict {
				return errStop
			}
		}
		r.meter.add(int64(len(p.b)))
		return nil
	})
	if err == errStop {
		return nil
	}
	return r.cancelled(ctx, PhaseRead, err)
}

// errStop ends reading when enough is known. It doesn't leave read.
var errStop = errors.New("stop")

// cancelled notes where ctx ended a phase that its own errors didn't end.
func (r *run) cancelled(ctx context.Context, phase Phase, err error) error {
	if err != nil && ctx.Err() != nil && r.record.Failure == nil {
		return r.fail(phase, -1, err)
	}
	return err
}

// shuffled returns a permutation of 0 to n-1 that takes no memory: a step that
// has no divisor in common with n, from somewhere on.
func shuffled(n int64, key [32]byte) func(i int64) int64 {
	r := newRand(key, 1)
	step := n/3 + r.Int64N(n/3+1)
	for step == 0 || gcd(step, n) != 1 {
		step++
	}
	first := r.Int64N(n)
	return func(i int64) int64 {
		hi, lo := bits.Mul64(uint64(i), uint64(step))
		_, rem := bits.Div64(hi%uint64(n), lo, uint64(n))
		return int64((uint64(rem) + uint64(first)) % uint64(n))
	}
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
