package carry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"sallyport/qemu-tests/usbredir"
)

var errFault = errors.New("a fault")

// disk makes a Medium of what usbredir's sticks keep their blocks in, and
// watches what is done to it.
type disk struct {
	usbredir.Medium
	t     testing.TB
	block int

	fail func(op string, off int64, n int) error // asked before each call

	mu      sync.Mutex
	busy    bool
	calls   []call
	written int64 // bytes
}

type call struct {
	op  string
	off int64
	n   int
}

func newDisk(t testing.TB, m usbredir.Medium) *disk { return &disk{Medium: m, t: t, block: 512} }

func (d *disk) BlockSize() int { return d.block }

// enter checks that calls come one at a time, whole and aligned.
func (d *disk) enter(op string, p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy {
		d.t.Errorf("%s at %d while another call is under way", op, off)
	}
	d.busy = true
	if op != "sync" && (off%int64(d.block) != 0 || len(p)%d.block != 0 || len(p) == 0 || uintptr(unsafe.Pointer(&p[0]))%4096 != 0 || off+int64(len(p)) > d.Size()) {
		d.t.Errorf("%s of %d bytes at %d", op, len(p), off)
	}
	d.calls = append(d.calls, call{op, off, len(p)})
	if d.fail != nil {
		return d.fail(op, off, len(p))
	}
	return nil
}

func (d *disk) leave() {
	d.mu.Lock()
	d.busy = false
	d.mu.Unlock()
}

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	defer d.leave()
	if err := d.enter("write", p, off); err != nil {
		return 0, err
	}
	d.written += int64(len(p))
	return d.Medium.WriteAt(p, off)
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	defer d.leave()
	if err := d.enter("read", p, off); err != nil {
		return 0, err
	}
	return d.Medium.ReadAt(p, off)
}

func (d *disk) Sync() error {
	defer d.leave()
	if err := d.enter("sync", nil, 0); err != nil {
		return err
	}
	return d.Medium.Sync()
}

// used makes a stick that isn't empty anywhere.
func used(size int64) *usbredir.Memory {
	m := usbredir.NewMemory(size)
	_, _ = m.WriteAt(noise(int(size), 7), 0)
	return m
}

// noise returns n bytes, not to be changed.
func noise(n int, seed byte) []byte {
	b := noises[seed]
	if len(b) < n {
		b = make([]byte, n)
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
		noises[seed] = b
	}
	return b[:n:n]
}

var noises = map[byte][]byte{}

// sealed is an image of two chunks and a bit, as bundles are: a locator, two
// seals, one of them over the border of two chunks, a copy of the locator, and
// a padding of zeros.
func sealed() ([]byte, Image) {
	const size = 2*chunk + 96<<10
	b := bytes.Clone(noise(size, 1))
	clear(b[size-64<<10:])
	return b, imageOf(b, Extent{chunk - 8<<10, 24 << 10}, Extent{size - 96<<10, 26 << 10}, Extent{0, ImageBlock})
}

func imageOf(b []byte, last ...Extent) Image {
	return Image{ReaderAt: bytes.NewReader(b), Size: int64(len(b)), SHA256: sha256.Sum256(b), Last: last}
}

// content reads all of a medium.
func content(t testing.TB, m usbredir.Medium) []byte {
	t.Helper()
	b := make([]byte, m.Size())
	if n, err := m.ReadAt(b, 0); n < len(b) {
		t.Fatal(err)
	}
	return b
}

// clock goes on by a second with each look.
func clock() func() time.Time {
	now := time.Unix(1_790_000_000, 0)
	return func() time.Time { now = now.Add(time.Second); return now }
}

func TestWrite(t *testing.T) {
	want, image := sealed()
	for _, size := range []int64{image.Size, image.Size + 512, image.Size + 3*chunk} { // the last 512 bytes are zero since the beginning
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			d := newDisk(t, used(size))
			rec, err := Write(t.Context(), d, image, Options{Now: clock()})
			if err != nil {
				t.Fatal(err)
			}
			got := content(t, d.Medium)
			if !bytes.Equal(got[:len(want)], want) || firstNonZeroOf(got[len(want):]) >= 0 {
				t.Error("the medium has something else than the image and zeros")
			}
			behind := size - image.Size
			sum := fmt.Sprintf("%x", image.SHA256)
			if want := (Record{
				ImageBytes: image.Size, ImageSHA256: sum, ReadBackSHA256: sum, Read: image.Size, Written: image.Size,
				SurplusProven: behind, SurplusWritten: behind / chunk * chunk, Touched: true, Verified: true, Start: rec.Start, End: rec.End,
				Medium: MediumInfo{Size: size, BlockSize: 512},
			}); *rec != want || rec.Start == 0 || rec.End <= rec.Start {
				t.Errorf("record %+v, want %+v", *rec, want)
			}
		})
	}
}

func firstNonZeroOf(b []byte) int {
	for i, c := range b {
		if c != 0 {
			return i
		}
	}
	return -1
}

// TestZeroAlready: behind the image only what isn't zero is written, and all of it is read afterwards.
func TestZeroAlready(t *testing.T) {
	_, image := sealed()
	const pieces = 40
	m := usbredir.NewMemory(image.Size + pieces*chunk)
	if _, err := m.WriteAt([]byte{1}, image.Size+2*chunk+5); err != nil {
		t.Fatal(err)
	}
	d := newDisk(t, m)
	rec, err := Write(t.Context(), d, image, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if want := int64((1 + blind) * chunk); rec.SurplusWritten != want || rec.SurplusProven != pieces*chunk {
		t.Errorf("behind the image %d bytes were written, want %d; %d of %d were proven", rec.SurplusWritten, want, rec.SurplusProven, pieces*chunk)
	}
	if firstNonZeroOf(content(t, m)[image.Size:]) >= 0 {
		t.Error("what lies behind the image isn't zero")
	}
}

// TestInterrupted stops a write for good at each of its calls: what lies on the medium then must not be taken for an
// image before all of it is there, and what was an image on it before must be none from the first write on.
func TestInterrupted(t *testing.T) {
	want, image := sealed()
	size := image.Size + chunk + 512
	before := noise(int(image.Size), 9)
	calls := 1
	for stop := 0; stop < calls; stop++ {
		m := used(size)
		if _, err := m.WriteAt(before, 0); err != nil {
			t.Fatal(err)
		}
		d := newDisk(t, m)
		n := 0
		d.fail = func(op string, off int64, _ int) error {
			if n++; n > stop {
				return errFault
			}
			return nil
		}
		rec, err := Write(t.Context(), d, image, Options{})
		if stop == 0 {
			clean := newDisk(t, used(size))
			if _, err := Write(t.Context(), clean, image, Options{}); err != nil {
				t.Fatal(err)
			}
			calls = len(clean.calls)
		}
		if zeroed := stop > 2+len(image.Last); !errors.Is(err, errFault) || rec.Verified || rec.Failure == nil || rec.Cleared && !zeroed {
			t.Fatalf("stopped at call %d of %d: %v, %+v", stop, calls, err, rec)
		}
		got := content(t, m)
		if bytes.Equal(got[:ImageBlock], want[:ImageBlock]) && !(bytes.Equal(got[:len(want)], want) && firstNonZeroOf(got[len(want):]) < 0) {
			t.Errorf("stopped at call %d of %d: it begins as the image, and isn't it", stop, calls)
		}
		if stop > 0 && bytes.Equal(got[:ImageBlock], before[:ImageBlock]) {
			t.Errorf("stopped at call %d of %d: the image of before is still there", stop, calls)
		}
	}
	if calls < 20 {
		t.Errorf("only %d calls", calls)
	}
}

// TestOneFault lets a single call fail: whatever was being done, nothing is left that could be taken for an image.
func TestOneFault(t *testing.T) {
	_, image := sealed()
	size := image.Size + chunk
	clean := newDisk(t, used(size))
	if _, err := Write(t.Context(), clean, image, Options{}); err != nil {
		t.Fatal(err)
	}
	zeroing := false
	for stop, at := range clean.calls {
		if at.op == "read" && at.off == image.Size && !zeroing {
			zeroing = true // what can't be read before it is zeroed is no fault
			continue
		}
		d := newDisk(t, used(size))
		n := 0
		d.fail = func(string, int64, int) error {
			if n++; n == stop+1 {
				return errFault
			}
			return nil
		}
		rec, err := Write(t.Context(), d, image, Options{})
		if !errors.Is(err, errFault) || rec.Verified || rec.Failure == nil {
			t.Fatalf("%v: %v, %+v", at, err, rec)
		}
		if early := stop <= 2+len(image.Last); rec.Cleared == early {
			t.Errorf("%v: cleared %v, %+v", at, rec.Cleared, rec.Failure)
		}
		if rec.Cleared && firstNonZeroOf(content(t, d.Medium)[:edge]) >= 0 && rec.Failure.Phase != PhaseWrite && rec.Failure.Phase != PhaseZero {
			t.Errorf("%v: cleared, and it begins with something", at)
		}
	}
}

// TestLastIsLast: each part of it comes when all before is synced.
func TestLastIsLast(t *testing.T) {
	_, image := sealed()
	d := newDisk(t, used(image.Size+2*chunk))
	if _, err := Write(t.Context(), d, image, Options{}); err != nil {
		t.Fatal(err)
	}
	var end []string
	for _, c := range d.calls {
		if c.op != "read" {
			end = append(end, fmt.Sprint(c))
		}
	}
	want := []string{"{sync 0 0}"}
	for _, x := range image.Last {
		want = append(want, fmt.Sprint(call{"write", x.Off, int(x.Len)}), "{sync 0 0}")
	}
	if got := end[len(end)-len(want):]; strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("in the end %s, want %s", got, want)
	}
}

// TestLies: a medium that doesn't keep what was written.
func TestLies(t *testing.T) {
	_, image := sealed()
	size := image.Size + 2*chunk
	honest := func() usbredir.Medium { return used(size) }
	fake := func(lie usbredir.Lie) usbredir.Medium {
		return &usbredir.Fake{Medium: used(image.Size - 512*111), Claim: size, Lie: lie, Wrap: image.Size, Noise: true}
	}
	for _, c := range []struct {
		name   string
		medium usbredir.Medium
		offset int64 // -1: any
		phase  Phase
	}{
		{"changes in the image", &usbredir.Changing{Medium: honest(), Offset: chunk + 77, Length: 1, From: 1}, chunk + 77, PhaseRead},
		{"changes in the locator", &usbredir.Changing{Medium: honest(), Offset: 3, Length: 1, From: 1}, 3, PhaseRead},
		{"changes behind the image", &usbredir.Changing{Medium: honest(), Offset: size - 1, Length: 1, From: 1}, size - 1, PhaseProve},
		{"limbo", fake(usbredir.Limbo), -1, PhaseRead},
		{"wraparound", fake(usbredir.Wraparound), -1, PhaseRead},
		{"chain", fake(usbredir.Chain), -1, PhaseRead},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec, err := Write(t.Context(), newDisk(t, c.medium), image, Options{})
			e, ok := errors.AsType[*DiffersError](err)
			if !ok || e.RefusalCode() != CodeDiffers || rec.Verified || rec.Failure == nil || rec.Failure.Phase != c.phase || !rec.Cleared {
				t.Fatalf("%v, %+v", err, rec)
			}
			if c.offset >= 0 && (e.Offset != c.offset || rec.Failure.Offset != c.offset) {
				t.Errorf("differs at %d, recorded %d, want %d", e.Offset, rec.Failure.Offset, c.offset)
			}
		})
	}
}

// TestReplug: what only a cache had is found when the medium was without power.
func TestReplug(t *testing.T) {
	_, image := sealed()
	size := image.Size + chunk
	fake := &usbredir.Fake{Medium: usbredir.NewMemory(image.Size - 4096), Claim: size, Lie: usbredir.Limbo}
	cache := &usbredir.Cache{Medium: fake, Bytes: 4 * size, Block: 512}
	d := newDisk(t, cache)
	if _, err := Write(t.Context(), d, image, Options{}); err != nil {
		t.Fatalf("the cache hides nothing: %v", err)
	}
	rec, err := Write(t.Context(), d, image, Options{Replug: func(context.Context) (Medium, error) { return d, cache.Evict() }})
	if _, ok := errors.AsType[*DiffersError](err); err != nil && !ok || rec.Verified != (err == nil) || !rec.Replugged {
		t.Fatalf("%v, %+v", err, rec)
	}
	// The padding that vanished reads as zeros, as it should; a seal that vanished doesn't.
	fake.Medium = usbredir.NewMemory(image.Size - 80<<10)
	if rec, err = Write(t.Context(), d, image, Options{Replug: func(context.Context) (Medium, error) { return d, cache.Evict() }}); err == nil || rec.Verified || !rec.Replugged {
		t.Errorf("%v, %+v", err, rec)
	}

	for _, other := range []Medium{newDisk(t, used(size+512)), &disk{Medium: used(size), t: t, block: 1024}} {
		d := newDisk(t, used(size))
		rec, err := Write(t.Context(), d, image, Options{Replug: func(context.Context) (Medium, error) { return other, nil }})
		if err == nil || rec.Verified || rec.Replugged || rec.Failure.Phase != PhaseReplug || !rec.Cleared {
			t.Errorf("%v, %+v", err, rec)
		}
	}
	rec, err = Write(t.Context(), newDisk(t, used(size)), image, Options{Replug: func(context.Context) (Medium, error) { return nil, errFault }})
	if !errors.Is(err, errFault) || rec.Verified || rec.Failure.Phase != PhaseReplug {
		t.Errorf("%v, %+v", err, rec)
	}
}

// TestRefused: nothing is written.
func TestRefused(t *testing.T) {
	_, image := sealed()
	for _, c := range []struct {
		d    *disk
		code string
	}{
		{&disk{Medium: used(image.Size + 4096 - image.Size%4096), block: 4096}, CodeBlockSize},
		{&disk{Medium: used(image.Size - 512), block: 512}, CodeTooSmall},
		{&disk{Medium: used(image.Size + 100), block: 512}, ""},
		{&disk{Medium: used(image.Size), block: 0}, ""},
	} {
		c.d.t = t
		rec, err := Write(t.Context(), c.d, image, Options{})
		e, _ := errors.AsType[*RefusedError](err)
		if err == nil || (e == nil) != (c.code == "") || e != nil && e.RefusalCode() != c.code || rec.Touched || rec.Cleared || len(c.d.calls) > 0 {
			t.Errorf("%v, %+v, %v", err, rec, c.d.calls)
		}
	}
	for _, bad := range []Image{
		{}, imageOf(make([]byte, 1000)),
		imageOf(make([]byte, 4096), Extent{-2048, 2048}), imageOf(make([]byte, 4096), Extent{2048, 4096}), imageOf(make([]byte, 4096), Extent{0, 0}),
		imageOf(make([]byte, 4096), Extent{512, 2048}), imageOf(make([]byte, 4<<20), Extent{0, 1 << 20}, Extent{0, 2048}),
	} {
		d := newDisk(t, used(8<<20))
		if _, err := Write(t.Context(), d, bad, Options{}); err == nil || len(d.calls) > 0 {
			t.Errorf("%d bytes, last %v: %v, %v", bad.Size, bad.Last, err, d.calls)
		}
	}
}

// flaky is an image that changes.
type flaky struct {
	io.ReaderAt
	reads, from int
	at          int64
	err         error
}

func (f *flaky) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(p, off)
	if off <= f.at && f.at < off+int64(n) {
		if f.reads++; f.reads >= f.from {
			if f.err != nil {
				return int(f.at - off), f.err
			}
			p[f.at-off] ^= 1
		}
	}
	return n, err
}

func TestImageChanges(t *testing.T) {
	_, image := sealed()
	for _, c := range []struct {
		flaky
		want  error
		phase Phase
	}{
		{flaky{at: chunk + 3, from: 1}, ErrImageChanged, PhaseWrite},
		{flaky{at: 0, from: 1}, ErrImageChanged, PhaseWrite},
		{flaky{at: chunk + 3, from: 1, err: errFault}, errFault, PhaseWrite},
		{flaky{at: chunk + 3, from: 2, err: errFault}, errFault, PhaseRead},
	} {
		d := newDisk(t, used(image.Size+chunk))
		c.ReaderAt = image.ReaderAt
		changed := image
		changed.ReaderAt = &c.flaky
		rec, err := Write(t.Context(), d, changed, Options{})
		if !errors.Is(err, c.want) || rec.Verified || !rec.Cleared || rec.Failure.Phase != c.phase || firstNonZeroOf(content(t, d.Medium)[:ImageBlock]) >= 0 {
			t.Errorf("from read %d of byte %d on: %v, %+v", c.from, c.at, err, rec)
		}
	}
}

func TestCancelled(t *testing.T) {
	_, image := sealed()
	for _, phase := range []Phase{PhaseClear, PhaseWrite, PhaseZero, PhaseLast, PhaseRead, PhaseProve} {
		ctx, cancel := context.WithCancelCause(t.Context())
		d := newDisk(t, used(image.Size+3*chunk))
		rec, err := Write(ctx, d, image, Options{Progress: func(p Progress) {
			if p.Phase == phase {
				cancel(errFault)
			}
		}})
		if !errors.Is(err, errFault) || rec.Verified || rec.Failure == nil || rec.Failure.Phase != phase {
			t.Errorf("%s: %v, %+v", phase, err, rec)
		}
		if got := content(t, d.Medium)[:ImageBlock]; phase != PhaseClear && (!rec.Cleared || firstNonZeroOf(got) >= 0) {
			t.Errorf("%s: it has a locator, %+v", phase, rec)
		}
	}
}

func TestProgress(t *testing.T) {
	_, image := sealed()
	size := image.Size + 3*chunk
	var seen []Phase
	var last Progress
	left := 0
	_, err := Write(t.Context(), newDisk(t, used(size)), image, Options{Now: clock(), Progress: func(p Progress) {
		if len(seen) == 0 || seen[len(seen)-1] != p.Phase {
			seen = append(seen, p.Phase)
		}
		if p.Done < last.Done || p.Total != 2*size || p.Done > p.Total {
			t.Errorf("%+v after %+v", p, last)
		}
		if p.Left >= 0 {
			left++
		} else if left > 0 {
			t.Errorf("%+v: no time left after %+v", p, last)
		}
		last = p
	}})
	if err != nil {
		t.Fatal(err)
	}
	if want := []Phase{PhaseClear, PhaseWrite, PhaseZero, PhaseLast, PhaseRead, PhaseProve}; fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("phases %v, want %v", seen, want)
	}
	if last.Done != last.Total || last.Left != 0 || left < 10 {
		t.Errorf("in the end %+v, %d with a time left", last, left)
	}
}
