package wipe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"sallyport/qemu-tests/usbredir"
)

// fakes are the lies of U5, each of them with and without a write cache.
var fakes = []struct {
	kind string
	fake usbredir.Fake
}{
	{Limbo, usbredir.Fake{Lie: usbredir.Limbo}},
	{Limbo, usbredir.Fake{Lie: usbredir.Limbo, Noise: true}},
	{Wraparound, usbredir.Fake{Lie: usbredir.Wraparound}},
	{Chain, usbredir.Fake{Lie: usbredir.Chain}},
	{Last, usbredir.Fake{Lie: usbredir.Last}},
}

// fakeDisk makes a medium that claims more than it has.
func fakeDisk(t *testing.T, fake usbredir.Fake, claim, real, cache int64, block int) *disk {
	fake.Claim, fake.Medium = claim, usbredir.NewMemory(real)
	if fake.Lie == usbredir.Chain {
		fake.Wrap = real + real/8/512*512
	}
	d := newDisk(t, &fake, block)
	if cache > 0 {
		d.Medium = &usbredir.Cache{Medium: &fake, Bytes: cache, Block: int64(block)}
	}
	return d
}

func TestStrict(t *testing.T) {
	const claim, real = 3 * chunk, 1<<20 + 37*512 // no power of two
	for _, f := range fakes {
		for _, cache := range []int64{0, 256 << 10} {
			for _, plugged := range []bool{false, true}[:1+min(cache, 1)] {
				d := fakeDisk(t, f.fake, claim, real, cache, 512)
				opt := Options{Key: key(1), Strict: true}
				if plugged {
					opt.Replug = replug(d)
				}
				rec, err := Run(t.Context(), d, opt)
				name := fmt.Sprintf("%s, cache of %d, plugged in again %v", f.kind, cache, plugged)
				e, ok := errors.AsType[*CapacityError](err)
				if !ok || e.RefusalCode() != "fake-capacity" || rec.Result != ResultFailed || rec.Capacity == nil || *rec.Capacity != e.Verdict {
					t.Errorf("%s: %v, %+v", name, err, rec)
					continue
				}
				v := e.Verdict
				held := cache // what the cache still has counts as kept
				if plugged || f.kind == Limbo {
					held = 0
				}
				if v.Genuine || v.Kind != f.kind || v.RealSize < real || v.RealSize > real+held || v.ClaimedSize != claim {
					t.Errorf("%s: %+v, want %d", name, v, int64(real))
				}
				if d.written != claim || d.read != claim {
					t.Errorf("%s: %d bytes written, %d read", name, d.written, d.read)
				}
				if rec.Mismatched != (claim-v.RealSize)/512 && f.kind != Limbo || len(rec.Mismatches) != maxMismatches || rec.Mismatches[0].Offset != v.FirstBad {
					t.Errorf("%s: %d sectors, %+v", name, rec.Mismatched, rec.Mismatches[0])
				}
			}
		}
	}
	// One block that doesn't keep what is written to it is no fake.
	d := newDisk(t, usbredir.NewMemory(claim), 512)
	d.after = func(_ string, off int64, p []byte) {
		if off == 2*chunk {
			p[5000] ^= 1
		}
	}
	rec, err := Run(t.Context(), d, Options{Key: key(1), Strict: true})
	if want := (Verdict{Mode: "strict", Kind: Damaged, ClaimedSize: claim, RealSize: claim - 512, FirstBad: 2*chunk + 4608,
		BlocksWritten: claim / 512, BlocksRead: claim / 512, BlocksBad: 1}); err == nil || *rec.Capacity != want {
		t.Errorf("%v, %+v", err, rec.Capacity)
	}
}

func TestQuick(t *testing.T) {
	const MB, GB = 1_000_000, 1_000_000_000
	sizes := []struct{ claim, real, cache, flush int64 }{
		{64 * GB, 7 * GB, 0, 8 << 20},
		{GB, 110*MB + 512, 512 << 10, 1 << 20},
		{2 * GB, MB + 50_176, 0, 64 << 10}, // less than lies between two samples
		{512 * MB, 500 * MB, 0, 64 << 10},
		{4 * GB, 2*GB + 512*12345, 0, 1 << 20},
	}
	big := os.Getenv("SALLYPORT_BIG") == "1"
	if big {
		sizes = append(sizes, sizes[0], sizes[0], sizes[0])
		n := len(sizes)
		sizes[n-3].cache, sizes[n-3].flush = 8<<20, 0
		sizes[n-2].real = 50_000_384
		sizes[n-1].claim, sizes[n-1].real = 256*GB, 130*GB+512*12345
	} else {
		fmt.Fprintln(os.Stderr, "capacity_test: SALLYPORT_BIG=1 tries 64 GB with a cache, and 256 GB")
	}
	for _, size := range sizes {
		for i, f := range fakes {
			block := []int{512, 4096}[i%2]
			if size.claim == 64*GB && !big && (i == 1 || f.kind == Last) {
				continue // it takes memory, and the small ones have it
			}
			size.claim, size.real = size.claim/4096*4096, size.real/int64(block)*int64(block)
			d := fakeDisk(t, f.fake, size.claim, size.real, size.cache, block)
			v, err := Test(t.Context(), d, TestOptions{Key: key(byte(i)), Flush: size.flush})
			if err != nil {
				t.Fatal(err)
			}
			name := fmt.Sprintf("%s, %d of %d bytes, cache %d", f.kind, size.real, size.claim, size.cache)
			if v.Genuine || v.Kind != f.kind && (f.kind != Chain || size.real*9/8 < size.claim) {
				t.Errorf("%s: %+v", name, v)
			}
			if off := max(v.RealSize-size.real, size.real-v.RealSize); off*100 > size.real {
				t.Errorf("%s: real size %d: %+v", name, v.RealSize, v)
			}
			if v.BlocksRead >= 2048 || d.read/int64(block) != v.BlocksRead || d.written/int64(block) != v.BlocksWritten {
				t.Errorf("%s: %d blocks read (%d bytes), %d written (%d bytes)", name, v.BlocksRead, d.read, v.BlocksWritten, d.written)
			}
			t.Logf("%s: real size %d, %s, %d blocks read, %d MB written", name, v.RealSize, v.Kind, v.BlocksRead, d.written/1_000_000)
		}
	}
}

// What is found doesn't hang on where the samples happen to lie.
func TestQuickKeys(t *testing.T) {
	const claim, real = 1 << 30, 600<<20 + 512*4711
	for _, f := range fakes {
		for n := range byte(8) {
			d := fakeDisk(t, f.fake, claim, real, 0, 512)
			v, err := Test(t.Context(), d, TestOptions{Key: key(n), Flush: 64 << 10})
			if err != nil {
				t.Fatal(err)
			}
			if off := max(v.RealSize-real, real-v.RealSize); v.Genuine || v.Kind != f.kind || off*100 > real {
				t.Errorf("%s, key %d: %+v, want %d", f.kind, n, v, int64(real))
			}
		}
	}
}

// A fake whose cache is larger than the flush passes, and is caught when it is plugged in again.
func TestQuickCache(t *testing.T) {
	for _, f := range fakes {
		d := fakeDisk(t, f.fake, 1<<30, 200<<20, 64<<20, 512)
		v, err := Test(t.Context(), d, TestOptions{Key: key(1), Flush: 1 << 20, Replug: replug(d)})
		if err != nil || v.Genuine || v.Kind != f.kind {
			t.Errorf("%s, plugged in again: %+v, %v", f.kind, v, err)
		}
	}
	d := fakeDisk(t, usbredir.Fake{Lie: usbredir.Wraparound}, 2<<30, 700<<20, 200<<20, 4096)
	v, err := Test(t.Context(), d, TestOptions{Key: key(1)}) // the flush that is the default
	if err != nil || v.Kind != Wraparound {
		t.Errorf("flushed: %+v, %v", v, err)
	}
}

func TestQuickGenuine(t *testing.T) {
	for n, tt := range []struct {
		size  int64
		block int
		cache int64
	}{
		{32_000_000_000 / 4096 * 4096, 512, 0},
		{8 << 30, 4096, 8 << 20},
		{16 * 512, 512, 0},
		{1 << 20, 4096, 1 << 16},
		{2000*512 + 512, 512, 0},
	} {
		var last Progress
		m := usbredir.Medium(usbredir.NewMemory(tt.size))
		if tt.cache > 0 {
			m = &usbredir.Cache{Medium: m, Bytes: tt.cache}
		}
		d := newDisk(t, m, tt.block)
		v, err := Test(t.Context(), d, TestOptions{Key: key(byte(n)), Flush: 4 << 20, Now: clock(), Progress: func(p Progress) {
			if p.Done < last.Done || p.Done > p.Total {
				t.Errorf("progress %+v after %+v", p, last)
			}
			last = p
		}})
		if err != nil {
			t.Fatal(err)
		}
		if !v.Genuine || v.Kind != Genuine || v.RealSize != tt.size || v.FirstBad != -1 || v.BlocksRead > samples || last.Done != last.Total {
			t.Errorf("%+v, %+v", v, last)
		}
		// The last block is always one of them.
		if last := slices.Max(d.order); last != tt.size-int64(tt.block) {
			t.Errorf("the last block read is at %d of %d", last, tt.size)
		}
	}
}

func TestQuickFaults(t *testing.T) {
	size := int64(1 << 30)
	test := func(change func(d *disk, opt *TestOptions, cancel func())) (*Verdict, error) {
		d := newDisk(t, usbredir.NewMemory(size), 512)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		opt := TestOptions{Key: key(1), Flush: 1 << 20}
		change(d, &opt, cancel)
		v, err := Test(ctx, d, opt)
		if err != nil && (v != nil || !strings.HasPrefix(err.Error(), "capacity test: ")) {
			t.Errorf("%+v, %v", v, err)
		}
		return v, err
	}
	past := func(op string, from int64) func(string, int64, int) error {
		return func(o string, off int64, _ int) error {
			if o == op && off >= from {
				return errBroken
			}
			return nil
		}
	}
	// Some blocks may fail, as behind the real size of a fake; not many.
	v, err := test(func(d *disk, _ *TestOptions, _ func()) { d.fail = past("read", size-8<<20) })
	if err != nil || v.Kind != Limbo || v.BlocksFailed == 0 || v.BlocksFailed > maxFaults+1 || v.RealSize < size-9<<20 || v.RealSize > size-8<<20+1<<20 {
		t.Errorf("read errors at the end: %+v, %v", v, err)
	}
	if _, err := test(func(d *disk, _ *TestOptions, _ func()) { d.fail = past("read", 0) }); !errors.Is(err, errBroken) {
		t.Errorf("read errors: %v", err)
	}
	if _, err := test(func(d *disk, _ *TestOptions, _ func()) { d.fail = past("write", 0) }); !errors.Is(err, errBroken) {
		t.Errorf("write errors: %v", err)
	}
	if _, err := test(func(d *disk, _ *TestOptions, _ func()) { d.fail = failing("sync", 1, errBroken) }); !errors.Is(err, errBroken) {
		t.Errorf("sync: %v", err)
	}
	reads := 0
	_, err = test(func(d *disk, _ *TestOptions, _ func()) {
		d.gone = errBroken
		d.fail = func(op string, _ int64, _ int) error {
			if op == "read" {
				reads++
				return errBroken
			}
			return nil
		}
	})
	if !errors.Is(err, errBroken) || reads != 1 {
		t.Errorf("gone: %v after %d reads", err, reads)
	}
	for _, op := range []string{"write", "read", "sync"} {
		_, err := test(func(d *disk, _ *TestOptions, cancel func()) {
			n := 0
			d.fail = func(o string, off int64, _ int) error {
				if o == op {
					if n++; n > 1 && op != "sync" {
						t.Errorf("%s after the cancel", op)
					}
					cancel()
				}
				return nil
			}
		})
		if !errors.Is(err, context.Canceled) && op != "sync" {
			t.Errorf("cancelled at %s: %v", op, err)
		}
	}
	if _, err := test(func(d *disk, opt *TestOptions, _ func()) {
		opt.Replug = func(context.Context) (Medium, error) { return newDisk(t, usbredir.NewMemory(size-512), 512), nil }
	}); err == nil || !strings.Contains(err.Error(), "came back") {
		t.Errorf("another medium: %v", err)
	}
	if _, err := test(func(d *disk, opt *TestOptions, _ func()) { opt.Key = [32]byte{} }); err == nil {
		t.Error("no key")
	}
	if _, err := test(func(d *disk, opt *TestOptions, _ func()) { d.Medium = usbredir.NewMemory(4096) }); err == nil || !strings.Contains(err.Error(), "too small") {
		t.Errorf("8 blocks: %v", err)
	}
}
