package verity

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
)

// TestRepairFaults fails writes and the context.
func TestRepairFaults(t *testing.T) {
	o := makeOriginal(t, 1000, 8, "")
	rnd := rand.New(rand.NewPCG(4, 4))
	errFull := errors.New("no space left on device")
	damaged := func() *disc {
		d := o.disc()
		d.damage(17, zeroed, rnd)                                       // data
		d.damage(1003, garbage, rnd)                                    // a leaf
		d.damage(o.blocks()-1, zeroed, rnd)                             // parity
		d.damage(o.rounds*3, unreadable, rnd)                           // data
		d.damage(int64(len(o.data)+len(o.tree))/BlockSize, zeroed, rnd) // parity of column 0
		return d
	}
	for i, pick := range []func(*disc) *place{
		func(d *disc) *place { return d.data },
		func(d *disc) *place { return d.tree },
		func(d *disc) *place { return d.fec },
	} {
		d := o.disc()
		d.damage([]int64{17, 1003, o.blocks() - 1}[i], zeroed, rnd)
		pick(d).errOut = errFull
		if _, err := Repair(t.Context(), d.protected(), nil); !errors.Is(err, errFull) {
			t.Errorf("area %d can't be written: %v", i, err)
		}
	}
	// Block o.rounds*3 is in column 0, whose parity is damaged.
	if _, err := Repair(t.Context(), damaged().protected(), nil); !errors.As(err, new(*UnrepairableError)) {
		t.Errorf("a codeword without parity is repaired: %v", err)
	}
	cause := errors.New("the operator pressed Ctrl-C")
	steps := map[string]bool{}
	for after := 0; ; after++ {
		ctx, cancel := context.WithCancelCause(t.Context())
		d := o.disc()
		d.damage(17, zeroed, rnd)
		d.damage(1003, garbage, rnd)
		d.damage(o.blocks()-1, zeroed, rnd)
		calls := 0
		report, err := Repair(ctx, d.protected(), func(step string, done, total int64) {
			steps[step] = true
			if done < 0 || done > total || total == 0 {
				t.Errorf("progress of %s: %d of %d", step, done, total)
			}
			if calls == after {
				cancel(cause)
			}
			calls++
		})
		cancel(nil)
		if calls <= after {
			if err != nil || report.Data != 1 || report.Tree != 1 || report.Parity != 1 {
				t.Errorf("not cancelled: %+v, %v", report, err)
			}
			break
		}
		// What comes after the last call has nothing left to cancel.
		if err != nil && !errors.Is(err, cause) {
			t.Errorf("cancelled at call %d: %v", after, err)
		}
		if err == nil && d.same() != nil {
			t.Errorf("cancelled at call %d: success, but %v", after, d.same())
		}
		if after == 0 && err == nil {
			t.Error("cancelling at once makes no difference")
		}
	}
	for _, step := range []string{"survey", "decode", "parity"} {
		if !steps[step] {
			t.Errorf("no progress of %s", step)
		}
	}
}

// TestRepairParitySum wants an error when the parity isn't what was promised.
func TestRepairParitySum(t *testing.T) {
	d := makeOriginal(t, 300, 4, "").disc()
	p := d.protected()
	p.ParitySum[3] ^= 1
	clear(d.data.b[7*BlockSize : 8*BlockSize])
	if report, err := Repair(t.Context(), p, nil); !errors.Is(err, ErrParitySum) || report == nil || report.Data != 1 {
		t.Errorf("error is %v with %+v", err, report)
	}
	clear(d.data.b[7*BlockSize : 8*BlockSize])
	p.KeepParity = true
	if report, err := Repair(t.Context(), p, func(step string, _, _ int64) {
		if step == "parity" {
			t.Error("parity was made anew")
		}
	}); err != nil || report.Data != 1 || report.Parity != 0 {
		t.Errorf("parity kept: %+v, %v", report, err)
	}
	for _, roots := range []int{-1, 0, 1, 25} {
		p := d.protected()
		p.Roots = roots
		if _, err := Repair(t.Context(), p, nil); err == nil {
			t.Errorf("%d roots are accepted", roots)
		}
	}
	p = d.protected()
	p.Params.DataBlocks = 0
	if _, err := Repair(t.Context(), p, nil); err == nil {
		t.Error("no data blocks are accepted")
	}
}

// TestRepairBeyond wants the numbers of what can't be repaired.
func TestRepairBeyond(t *testing.T) {
	o := makeOriginal(t, 2000, 8, "")
	d := o.disc()
	rnd := rand.New(rand.NewPCG(5, 5))
	for j := range int64(11) {
		d.damage(5+j*o.rounds, garbage, rnd)
	}
	_, err := Repair(t.Context(), d.protected(), nil)
	var beyond *UnrepairableError
	if !errors.As(err, &beyond) || *beyond != (UnrepairableError{Worst: 11, Roots: 8, Block: 5}) {
		t.Errorf("error is %v", err)
	}
	// As many bytes of different codewords are no trouble.
	d = o.disc()
	for j := range int64(40) {
		d.data.b[(5+j*o.rounds)*BlockSize+50*j] ^= 1
	}
	if r := d.repairs(t, "40 flipped bytes of a column"); r != nil && (r.Worst != 1 || r.Data != 40) {
		t.Errorf("%+v", *r)
	}
}

// TestRepairUnreadableZone counts the reads that fail: each can take a drive
// seconds.
func TestRepairUnreadableZone(t *testing.T) {
	o := makeOriginal(t, 60_000, 24, "same")
	for _, whole := range []bool{false, true} {
		d := o.disc()
		d.data.whole = whole
		rnd := rand.New(rand.NewPCG(6, 6))
		for i := int64(20_011); i < 23_000; i++ {
			d.damage(i, unreadable, rnd)
		}
		if r := d.repairs(t, "3,000 unreadable blocks"); r != nil && (r.Unreadable != 2989 || r.Data != 2989) {
			t.Errorf("%+v", *r)
		}
		if d.data.reads > 60 {
			t.Errorf("%d reads failed, want about twice the logarithm of the zone's length", d.data.reads)
		}
	}
}

// flaky is a medium that reads wrong the second time.
type flaky struct {
	*place
	times map[int64]int
}

func (f *flaky) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.place.ReadAt(p, off)
	f.mu.Lock()
	defer f.mu.Unlock()
	for at := 0; at < n; at += BlockSize {
		i := off/BlockSize + int64(at)/BlockSize
		if f.times[i]++; f.times[i] > 1 {
			p[at] ^= 1
		}
	}
	return n, err
}

// TestRepairSecondAnswer wants no trust in what is read again.
func TestRepairSecondAnswer(t *testing.T) {
	o := makeOriginal(t, 1000, 8, "")
	for _, where := range []string{"data", "tree", "parity"} {
		d := o.disc()
		rnd := rand.New(rand.NewPCG(7, 7))
		d.damage(17, zeroed, rnd)
		p := d.protected()
		switch where {
		case "data":
			p.Data = &flaky{d.data, map[int64]int{}}
		case "tree":
			p.Tree = &flaky{d.tree, map[int64]int{}}
		case "parity":
			p.FEC = &flaky{d.fec, map[int64]int{}}
		}
		if _, err := Repair(t.Context(), p, nil); err == nil && d.same() != nil {
			t.Errorf("%s differs when read again: %v", where, d.same())
		}
	}
}
