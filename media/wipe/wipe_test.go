package wipe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/qemu-tests/usbredir"
)

// odd is a size that ends within a chunk.
const odd = 3*chunk + 5*4096

func content(t *testing.T, m usbredir.Medium) []byte {
	t.Helper()
	b := make([]byte, m.Size())
	if _, err := m.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func dirty(t *testing.T, size int64) *usbredir.Memory {
	t.Helper()
	m := usbredir.NewMemory(size)
	if _, err := m.WriteAt(bytes.Repeat([]byte("secret, "), int(size/8)), 0); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		opt   Options
		block int
		size  int64
		want  string // patterns
	}{
		{Options{Key: key(1)}, 512, odd, "random"},
		{Options{Key: key(1), Strict: true}, 512, odd, "random"},
		{Options{Key: key(1), Strict: true}, 4096, 4096, "random"},
		{Options{Method: Zero}, 4096, odd, "00"},
		{Options{Method: Zero, Key: key(1), Strict: true}, 512, odd, "random 00"},
		{Options{Method: Triple, Value: 0x55, Key: key(1)}, 512, odd, "55 aa random"},
		{Options{Method: Triple, Key: key(1), Strict: true, Discard: true}, 512, 2 * chunk, "00 ff random"},
	} {
		m := dirty(t, tt.size)
		d := newDisk(t, m, tt.block)
		d.discard = nil
		var last Progress
		tt.opt.Now = clock()
		tt.opt.Progress = func(p Progress) {
			if p.Done < last.Done || p.Done > p.Total || p.Pass < last.Pass || p.Left < -1 {
				t.Errorf("progress %+v after %+v", p, last)
			}
			if p.Done > 0 && p.Left < 0 && (p.Phase == PhaseWrite || p.Phase == PhaseRead) {
				t.Errorf("progress %+v with a clock and without time left", p)
			}
			last = p
		}
		rec, err := Run(t.Context(), d, tt.opt)
		if err != nil {
			t.Fatal(err)
		}
		passes := strings.Fields(tt.want)
		var got []string
		for _, p := range rec.Passes {
			got = append(got, p.Pattern)
			if !p.Verified || p.Written != tt.size || p.Read != tt.size {
				t.Errorf("%s: pass %+v", tt.want, p)
			}
		}
		if !slices.Equal(got, passes) || rec.Result != ResultDone || rec.Failure != nil || rec.Mismatched != 0 {
			t.Errorf("%s: record %+v", tt.want, rec)
		}
		// Each byte is written once a pass, and read back once.
		if n := int64(len(passes)) * tt.size; d.written != n || d.read != n || d.syncs != len(passes) || last.Done != 2*n || last.Total != 2*n || last.Left != 0 {
			t.Errorf("%s: %d bytes written, %d read, %d syncs, progress %+v", tt.want, d.written, d.read, d.syncs, last)
		}
		if tt.opt.Strict != (rec.Capacity != nil) || tt.opt.Strict && (!rec.Capacity.Genuine || rec.Capacity.RealSize != tt.size) {
			t.Errorf("%s: capacity %+v", tt.want, rec.Capacity)
		}
		if tt.opt.Discard != (d.discarded == tt.size) || tt.opt.Discard != (rec.Discard == DiscardDone) {
			t.Errorf("%s: discarded %d bytes: %s", tt.want, d.discarded, rec.Discard)
		}
		if rec.Start == 0 || rec.End <= rec.Start {
			t.Errorf("%s: from %d to %d", tt.want, rec.Start, rec.End)
		}
		want := make([]byte, tt.size)
		if passes[len(passes)-1] == "random" {
			Keyed(key(1), 1).Fill(want, 0)
		}
		if !bytes.Equal(content(t, m), want) {
			t.Errorf("%s: the medium has something else", tt.want)
		}
	}
}

var errBroken = errors.New("broken")

// failing returns a disk.fail for the nth call of an operation.
func failing(op string, n int, err error) func(string, int64, int) error {
	return func(o string, _ int64, _ int) error {
		if o == op {
			if n--; n == 0 {
				return err
			}
		}
		return nil
	}
}

// Whatever goes wrong, there is no record of success.
func TestRunFails(t *testing.T) {
	type call struct {
		d      *disk
		opt    Options
		cancel context.CancelFunc
	}
	for _, tt := range []struct {
		name   string
		change func(c *call)
		is     error
		result string
		want   string // in the error
	}{
		{"write error", func(c *call) { c.d.fail = failing("write", 2, errBroken) }, errBroken, ResultFailed, "wipe: writing at byte 4194304: broken"},
		{"sync error", func(c *call) { c.d.fail = failing("sync", 1, errBroken) }, errBroken, ResultFailed, "wipe: writing: broken"},
		{"read error", func(c *call) { c.d.fail = failing("read", 3, errBroken) }, errBroken, ResultFailed, "wipe: reading back at byte 8388608: broken"},
		{"discard error", func(c *call) { c.opt.Discard, c.d.discard = true, errBroken }, errBroken, ResultFailed, "wipe: discarding at byte 0: broken"},
		{"short write", func(c *call) { c.d.Medium = shortMedium{c.d.Medium} }, nil, ResultFailed, "wipe: writing at byte 4194303: short write"},
		{"short read", func(c *call) { c.d.Medium = shortReader{c.d.Medium} }, nil, ResultFailed, "wipe: reading back at byte 4194303: unexpected EOF"},
		{"a bit differs", func(c *call) {
			c.d.after = func(_ string, off int64, p []byte) {
				if off == chunk {
					p[1000] ^= 4
				}
			}
		}, nil, ResultFailed, "wipe: reading back at byte 4194816: pass 1: read back 1 sectors that are not what was written, the first at byte 4194816"},
		{"the last byte differs", func(c *call) {
			c.opt.Method = Zero
			c.d.after = func(_ string, off int64, p []byte) {
				if off+int64(len(p)) == odd {
					p[len(p)-1] ^= 1
				}
			}
		}, nil, ResultFailed, fmt.Sprintf("the first at byte %d", odd-512)},
		{"what was there is still there", func(c *call) { c.d.Medium = lazy{c.d.Medium} }, nil, ResultFailed, "pass 1: read back 8192 sectors"},
		{"cancelled before", func(c *call) { c.cancel() }, context.Canceled, ResultCancelled, "wipe: writing: context canceled"},
		{"cancelled while writing", func(c *call) {
			c.opt.Progress = func(p Progress) {
				if p.Done > chunk {
					c.cancel()
				}
			}
		}, context.Canceled, ResultCancelled, "wipe: writing: context canceled"},
		{"cancelled while reading", func(c *call) {
			c.opt.Progress = func(p Progress) {
				if p.Phase == PhaseRead && p.Done > odd+chunk {
					c.cancel()
				}
			}
		}, context.Canceled, ResultCancelled, "wipe: reading back: context canceled"},
		{"cancelled while discarding", func(c *call) {
			c.opt.Discard, c.d.discard = true, nil
			c.cancel()
		}, context.Canceled, ResultCancelled, "wipe: discarding at byte 0: context canceled"},
		{"no replug", func(c *call) {
			c.opt.Replug = func(context.Context) (Medium, error) { return nil, errBroken }
		}, errBroken, ResultFailed, "wipe: plugging in again: broken"},
		{"another medium after the replug", func(c *call) {
			c.opt.Replug = func(context.Context) (Medium, error) {
				return newDisk(c.d.t, usbredir.NewMemory(odd-512), 512), nil
			}
		}, nil, ResultFailed, "a medium of 12602880 bytes in blocks of 512 came back for one of 12603392"},
		{"an empty medium after the replug", func(c *call) {
			c.opt.Replug = func(context.Context) (Medium, error) { return newDisk(c.d.t, usbredir.NewMemory(odd), 512), nil }
		}, nil, ResultFailed, "pass 1: read back 8192 sectors"},
		{"no method", func(c *call) { c.opt.Method = "magnet" }, nil, ResultFailed, `wipe: no method "magnet" of wiping: want zero, random or value-complement-random`},
		{"no key", func(c *call) { c.opt.Key = [32]byte{} }, nil, ResultFailed, "wipe: no key for the pattern"},
		{"no blocks", func(c *call) { c.d.block = 1000 }, nil, ResultFailed, "wipe: a medium of 12603392 bytes in blocks of 1000"},
		{"no size", func(c *call) { c.d.Medium = usbredir.NewMemory(0) }, nil, ResultFailed, "wipe: a medium of 0 bytes"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		c := &call{newDisk(t, dirty(t, odd), 512), Options{Key: key(1), Now: clock()}, cancel}
		tt.change(c)
		rec, err := Run(ctx, c.d, c.opt)
		cancel()
		if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if rec.Result != tt.result || rec.Failure == nil || rec.Failure.Error == "" || len(rec.Passes) > 0 && rec.Passes[len(rec.Passes)-1].Verified {
			t.Errorf("%s: record %+v", tt.name, rec)
		}
		if strings.Contains(tt.name, "differs") {
			if m, ok := errors.AsType[*MismatchError](err); !ok || m.RefusalCode() != "readback-differs" || rec.Mismatched != 1 || rec.Mismatches[0].Offset != m.Offset || rec.Mismatches[0].Pass != 1 {
				t.Errorf("%s: %+v", tt.name, rec)
			}
		}
	}
}

// A failed pass stays the last: nothing more is written.
func TestRunStopsAtAFailedPass(t *testing.T) {
	d := newDisk(t, dirty(t, odd), 512)
	d.after = func(_ string, off int64, p []byte) { p[0] ^= 1 }
	rec, err := Run(t.Context(), d, Options{Method: Triple, Key: key(1)})
	if err == nil || len(rec.Passes) != 1 || d.written != odd || d.reads > 3 {
		t.Errorf("%v, %+v, %d reads", err, rec.Passes, d.reads)
	}
}

// A strict pass is read in another order than it was written in, each chunk once.
func TestStrictOrder(t *testing.T) {
	const n = 8
	for _, strict := range []bool{true, false} {
		d := newDisk(t, usbredir.NewMemory(n*chunk), 512)
		if _, err := Run(t.Context(), d, Options{Key: key(1), Strict: strict}); err != nil {
			t.Fatal(err)
		}
		if d.writes != n || d.reads != n || slices.IsSorted(d.order) == strict {
			t.Errorf("%d writes, %d reads, strict %v, in order %v", d.writes, d.reads, strict, d.order)
		}
		slices.Sort(d.order)
		if len(slices.Compact(d.order)) != n {
			t.Errorf("read at %v", d.order)
		}
	}
}

func TestMeter(t *testing.T) {
	now := time.Unix(0, 0)
	var p Progress
	m := newMeter(func() time.Time { return now }, func(q Progress) { p = q })
	m.plan(2, 4000)
	step := func(phase Phase, pass int, bytes int64, took, left time.Duration, rate int64) {
		t.Helper()
		m.enter(pass, phase)
		now = now.Add(took)
		m.add(bytes)
		if p.Left != left || p.Rate != rate {
			t.Errorf("%+v, want %v left at %d B/s", p, left, rate)
		}
	}
	step(PhaseWrite, 1, 1000, 10*time.Second, 30*time.Second, 100)
	step(PhaseRead, 1, 500, time.Second, time.Second+10*time.Second+2*time.Second, 500)
	m = newMeter(nil, func(q Progress) { p = q })
	m.plan(1, 2000)
	m.enter(1, PhaseWrite)
	m.add(5)
	if p.Left != -1 || p.Done != 5 || m.unix() != 0 {
		t.Errorf("without a clock: %+v", p)
	}
}

// shortMedium takes a byte less than all.
type shortMedium struct{ usbredir.Medium }

func (s shortMedium) WriteAt(p []byte, off int64) (int, error) {
	return s.Medium.WriteAt(p[:len(p)-1], off)
}

// shortReader gives a byte less than all.
type shortReader struct{ usbredir.Medium }

func (s shortReader) ReadAt(p []byte, off int64) (int, error) {
	return s.Medium.ReadAt(p[:len(p)-1], off)
}

// lazy writes nothing.
type lazy struct{ usbredir.Medium }

func (l lazy) WriteAt(p []byte, off int64) (int, error) { return len(p), nil }
