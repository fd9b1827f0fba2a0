package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
)

// TestBlockSet holds the set against a slice of bools.
func TestBlockSet(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 3))
	const size = 3 * pageBlocks
	for _, most := range []int64{1, 70, 2 * pageBlocks} {
		set, want := blockSet{}, make([]bool, size)
		for range 60 {
			first := random.Int64N(size)
			end := min(size, first+random.Int64N(most+1))
			set.add(first, end)
			for i := first; i < end; i++ {
				want[i] = true
			}
		}
		for range 3000 {
			lba := random.Int64N(size)
			end := lba + 1 + random.Int64N(size-lba)
			stop := lba
			for stop < end && want[stop] == want[lba] {
				stop++
			}
			if in, got := set.run(lba, end); in != want[lba] || got != stop {
				t.Fatalf("run(%d, %d) is %v to %d, want %v to %d", lba, end, in, got, want[lba], stop)
			}
		}
		got, last := make([]bool, size), int64(-1)
		for first, end := range set.runs() {
			if first <= last || end <= first {
				t.Fatalf("run %d to %d after %d", first, end, last)
			}
			last = end
			for i := first; i < end; i++ {
				got[i] = true
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Error("the runs are not the set")
		}
	}
	set := blockSet{}
	set.add(1<<32-3, 1<<32-1)
	if len(set) != 1 {
		t.Errorf("%d pages for two blocks", len(set))
	}
	for range set.runs() {
		break
	}
}

// TestOverlay: what was put in is served, all else comes from the source, each block once when it is kept.
func TestOverlay(t *testing.T) {
	const blocks = 300
	img := pattern(blocks*BlockSize+512, "overlay") // a stick's end
	for _, capture := range []bool{false, true} {
		src := &recorder{r: &brokenAt{bytes.NewReader(img), 100, 103}}
		var mended blockSet = blockSet{}
		o, err := newOverlay(Source{ReaderAt: src, Size: int64(len(img)), Medium: true}, 250, t.TempDir(), func(first, end int64) { mended.add(first, end) })
		must(t, err)
		o.capture = capture
		want := bytes.Clone(img)
		a := o.area(90, 20)
		patch := pattern(3*BlockSize, "patch")
		copy(want[100*BlockSize:], patch)
		got := make([]byte, 20*BlockSize)
		n, err := a.ReadAt(got, 0)
		if n%BlockSize != 0 || n > 10*BlockSize || !errors.Is(err, errMedium) || !bytes.Equal(got[:n], want[90*BlockSize:][:n]) {
			t.Fatalf("%d bytes before the unreadable block, %v", n, err)
		}
		if _, err := a.WriteAt(patch, 10*BlockSize); err != nil {
			t.Fatal(err)
		}
		if _, err := a.WriteAt(patch[:BlockSize], 17*BlockSize); err != nil {
			t.Fatal(err)
		}
		copy(want[107*BlockSize:], patch[:BlockSize])
		o.keep(img[99*BlockSize:104*BlockSize], 99*BlockSize) // read before, and arriving late
		must(t, o.put(5, patch[BlockSize:2*BlockSize]))
		copy(want[5*BlockSize:], patch[BlockSize:2*BlockSize])
		random := rand.New(rand.NewPCG(5, 5))
		var wg sync.WaitGroup
		for range 4 {
			seed := random.Int64()
			wg.Go(func() {
				random := rand.New(rand.NewPCG(uint64(seed), 1))
				for range 300 {
					off := random.Int64N(int64(len(img)))
					buf := make([]byte, random.Int64N(40*BlockSize))
					n, err := o.ReadAt(buf, off)
					whole := min(int64(len(buf)), int64(len(img))-off)
					if int64(n) != whole || (err == nil) != (whole == int64(len(buf))) || !bytes.Equal(buf[:n], want[off:off+whole]) {
						t.Errorf("%d bytes at %d: %d, %v", len(buf), off, n, err)
					}
				}
			})
		}
		wg.Wait()
		if in, _ := mended.run(5, 6); in || len(mended) != 1 {
			t.Errorf("mended: %v", mended)
		}
		read := func() int {
			must(t, readFull(o, make([]byte, 250*BlockSize), 0))
			before := len(src.at)
			must(t, readFull(o, make([]byte, 250*BlockSize), 0))
			return len(src.at) - before
		}
		if n := read(); (n == 0) != capture {
			t.Errorf("capture %v: %d reads of the source for what was read before", capture, n)
		}
		for _, off := range []int64{-1, 1, 250 * BlockSize} {
			if _, err := o.WriteAt(patch, off); err == nil {
				t.Errorf("%d bytes were put at byte %d", len(patch), off)
			}
		}
		if _, err := o.ReadAt(make([]byte, 1), -1); err == nil {
			t.Error("a byte before the first one was read")
		}
		must(t, o.Close())
	}
}

// TestOverlayLost: what loses the whole medium is told at once and ends all reading of it.
func TestOverlayLost(t *testing.T) {
	img := pattern(10*BlockSize, "lost")
	gone := errors.New("the drive is gone")
	src := &recorder{r: readerFunc(func(p []byte, off int64) (int, error) {
		if off >= 5*BlockSize {
			return 0, fmt.Errorf("read: %w", gone)
		}
		return bytes.NewReader(img).ReadAt(p, off)
	})}
	o, err := newOverlay(Source{ReaderAt: src, Size: int64(len(img)), Medium: true, Gone: func(err error) bool { return errors.Is(err, gone) }}, 10, "", nil)
	must(t, err)
	defer o.Close()
	var told error
	o.lost = func(err error) { told = err }
	for range 2 {
		_, err = o.ReadAt(make([]byte, BlockSize), 7*BlockSize)
		if !errors.Is(err, gone) || !errors.Is(err, errLostSource) || !errors.Is(told, gone) {
			t.Errorf("%v, told %v", err, told)
		}
	}
	if _, err := o.ReadAt(make([]byte, BlockSize), 0); !errors.Is(err, gone) {
		t.Errorf("a block in front of it: %v", err)
	}
	if len(src.at) != 1 {
		t.Errorf("%d reads of a medium that is gone", len(src.at))
	}
}

type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

var _ io.ReaderAt = (*overlay)(nil)
