package bundle

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// change is a change of an image: a byte is XORed, in one place or in two.
type change struct {
	at   []int64
	with byte
}

// everyByte lists a bit of every byte that means something, and of some of the bytes that fill up. With
// SALLYPORT_BIG=1 the bytes that fill up are all there too.
func everyByte(img []byte, g Geometry) []change {
	step := int64(61)
	if os.Getenv("SALLYPORT_BIG") == "1" {
		step = 1
	}
	var list []change
	flip := func(at ...int64) { list = append(list, change{at, 1 << ((at[0] + at[0]/BlockSize) % 8)}) }
	for lba := range g.ImageBlocks() {
		for _, in := range []int64{0, 517, 2047} {
			flip(lba*BlockSize + in)
		}
	}
	// Where a newline or zero only fills up, each byte is like its neighbour.
	all := func(lba, blocks int64, at func(i int64)) {
		for i := lba * BlockSize; i < (lba+blocks)*BlockSize; i++ {
			if filler := img[i] == img[i-1] && (img[i] == 0 || img[i] == '\n'); !filler || i%step == 0 {
				at(i)
			}
		}
	}
	one := func(i int64) { flip(i) }
	flip(0)
	all(g.LocatorCopy(), 1, one)
	all(g.LocatorCopy(), 1, func(i int64) { flip(i - g.LocatorCopy()*BlockSize) })
	all(g.Superblock(), 1, one)
	all(g.SealA(), sealBlocks, func(i int64) { flip(i, i+(g.SealB()-g.SealA())*BlockSize) })
	for i := g.SealA() * BlockSize; i < g.Superblock()*BlockSize; i += step {
		flip(i)
		flip(i + (g.SealB()-g.SealA())*BlockSize)
	}
	for i := g.Tree() * BlockSize; i < (g.Tree()+1)*BlockSize; i += min(step, 5) {
		flip(i)
	}
	return list
}

// eachImage runs check with a copy of img for each change, on all cores.
func eachImage(img []byte, changes []change, check func(img []byte, c change)) {
	var wg sync.WaitGroup
	n := runtime.GOMAXPROCS(0)
	for w := range n {
		wg.Go(func() {
			img := bytes.Clone(img)
			for i := w; i < len(changes); i += n {
				for _, at := range changes[i].at {
					img[at] ^= changes[i].with
				}
				check(img, changes[i])
				for _, at := range changes[i].at {
					img[at] ^= changes[i].with
				}
			}
		})
	}
	wg.Wait()
}

// TestExactness: without parity no bit of an image is free (T1), and what is wrong is a refusal, not a fault.
func TestExactness(t *testing.T) {
	img := signed(t, tiny(), demo())
	g := geometryOf(t, img)
	if g.FECBlocks != 0 {
		t.Fatal("there is parity")
	}
	var mu sync.Mutex
	codes := map[string]int{}
	changes := everyByte(img, g)
	eachImage(img, changes, func(img []byte, c change) {
		_, err := verify(fileSource(img), VerifyOptions{})
		mu.Lock()
		defer mu.Unlock()
		code := codeOf(err)
		codes[code]++
		if code == "" || code == "none" {
			t.Errorf("byte %d (LBA %d) changed by %#x: %v", c.at, c.at[0]/BlockSize, c.with, err)
		}
	})
	t.Logf("%d changes: %v", len(changes), codes)
	for _, code := range []string{
		"not-a-bundle", "unsupported-profile", "bad-locator", "seal-copies-differ", "bad-seal", "bad-slot", "bad-signature", "unknown-signer",
		"bad-superblock", "bad-tree", "damaged", "bad-padding",
	} {
		if codes[code] == 0 {
			t.Errorf("no change gave %s", code)
		}
	}
	if _, err := verify(fileSource(img), VerifyOptions{}); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

// TestExactnessWithParity: the same changes, and 2,000 random ones, of an image with 24 roots are made good or
// refused. What is let through is the payload, and it is told that something was damaged.
func TestExactnessWithParity(t *testing.T) {
	fsys := tiny()
	img := signed(t, fsys, withRoots(24))
	g := geometryOf(t, img)
	changes := everyByte(img, g)
	random := rand.New(rand.NewPCG(1, 24))
	for range 2000 {
		changes = append(changes, change{[]int64{random.Int64N(int64(len(img)))}, byte(1 + random.IntN(255))})
	}
	if raceDetector {
		t.Log("with the race detector a tenth of them only")
		i := 0
		changes = slices.DeleteFunc(changes, func(change) bool { i++; return i%10 != 1 })
	}
	var mu sync.Mutex
	codes := map[string]int{}
	eachImage(img, changes, func(img []byte, c change) {
		var sink treeSink
		v, err := verify(fileSource(img), VerifyOptions{Sink: &sink})
		mu.Lock()
		defer mu.Unlock()
		code, lba := codeOf(err), c.at[0]/BlockSize
		codes[code]++
		parity := lba >= g.FEC() && lba < g.SealB()
		seal := lba >= g.SealA() && lba < g.Superblock() || lba >= g.SealB() && lba < g.LocatorCopy()
		switch {
		case code == "":
			t.Errorf("byte %d (LBA %d) changed: %v, which is no refusal", c.at, lba, err)
		case err != nil && !seal:
			t.Errorf("byte %d (LBA %d) changed: %v, want it made good", c.at, lba, err)
		case err != nil:
		case parity && (len(v.Notes()) != 1 || !strings.HasPrefix(v.Notes()[0], "parity-damaged: ")):
			t.Errorf("parity, LBA %d: notes %q", lba, v.Notes())
		case !parity && v.Repaired().Blocks() != int64(len(c.at)):
			t.Errorf("byte %d (LBA %d) changed: %+v was repaired", c.at, lba, v.Repaired())
		}
		if err == nil {
			sink.compare(t, fsys)
		}
	})
	t.Logf("%d changes: %v", len(changes), codes)
}

// TestExactLength truncates, lengthens, swaps and wipes.
func TestExactLength(t *testing.T) {
	for _, roots := range []int{0, 2} {
		img := signed(t, tiny(), withRoots(roots))
		g := geometryOf(t, img)
		refused := func(what string, img []byte, codes ...string) {
			t.Helper()
			_, err := verify(fileSource(img), VerifyOptions{NoRepair: true})
			if code := codeOf(err); code == "" || code == "none" || len(codes) > 0 && !slices.Contains(codes, code) {
				t.Errorf("%d roots, %s: %v, want %q", roots, what, err, codes)
			}
		}
		for lba := range g.ImageBlocks() {
			refused(fmt.Sprintf("cut at LBA %d", lba), img[:lba*BlockSize], "wrong-size", "not-a-bundle")
			refused(fmt.Sprintf("cut in LBA %d", lba), img[:lba*BlockSize+1000], "wrong-size", "not-a-bundle")
		}
		for _, n := range []int{1, 511, 2048, 4096, 32 * 2048, 1 << 20} {
			refused(fmt.Sprintf("%d zeros more", n), append(bytes.Clone(img), make([]byte, n)...), "wrong-size")
		}
		block := func(img []byte, lba int64) []byte { return img[lba*BlockSize:][:BlockSize] }
		for lba := range g.ImageBlocks() {
			parity := lba >= g.FEC() && lba < g.SealB()
			wiped := bytes.Clone(img)
			clear(block(wiped, lba))
			if !bytes.Equal(wiped, img) && !parity {
				refused(fmt.Sprintf("LBA %d wiped", lba), wiped)
			}
			next := (lba + 1) % g.ImageBlocks()
			swapped := bytes.Clone(img)
			copy(block(swapped, lba), block(img, next))
			copy(block(swapped, next), block(img, lba))
			if parity = parity && next < g.SealB(); !bytes.Equal(swapped, img) && !parity {
				refused(fmt.Sprintf("LBA %d and %d swapped", lba, next), swapped)
			}
		}
	}
}
