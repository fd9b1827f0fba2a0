package bundle

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
)

func scratchFile(t *testing.T) *os.File {
	t.Helper()
	f, err := scratchIn(t.TempDir())
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// TestWriteBehind: three areas by turns, in pieces of any length, aligned or not, come to be what was taken.
func TestWriteBehind(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 5))
	want := make([]byte, 5*chunkBytes+3*BlockSize)
	rand.NewChaCha8([32]byte{9}).Read(want)
	img, err := createImage(t.TempDir()+"/out", int64(len(want)))
	must(t, err)
	defer img.discard()
	w := newWriteBehind(img, nil)
	defer w.stop()
	const third = chunkBytes + 5*BlockSize
	at := []int{0, third, 3 * third}
	end := []int{third, 3 * third, len(want)}
	for left := 3; left > 0; {
		i := random.IntN(3)
		if at[i] == end[i] {
			continue
		}
		n := min(end[i]-at[i], (1+random.IntN(700))*BlockSize)
		piece := bytes.Clone(want[at[i] : at[i]+n])
		w.take(piece, int64(at[i]))
		clear(piece) // it is the caller's again
		if at[i] += n; at[i] == end[i] {
			left--
		}
		if random.IntN(8) == 0 {
			must(t, w.flush())
			got := make([]byte, n)
			must(t, readFull(img.file, got, int64(at[i]-n)))
			if !bytes.Equal(got, want[at[i]-n:at[i]]) {
				t.Fatalf("bytes %d to %d are not there after flush", at[i]-n, at[i])
			}
		}
	}
	must(t, w.flush())
	got := make([]byte, len(want))
	must(t, readFull(img.file, got, 0))
	if !bytes.Equal(got, want) {
		t.Errorf("the file differs at byte %d", firstDifference(got, want))
	}
}

// TestRepairCantWrite: what fails in the background fails the repair.
func TestRepairCantWrite(t *testing.T) {
	img := signed(t, tall(4000), withRoots(24))
	for name, src := range map[string]Source{"whole": fileSource(img), "damaged": hurt(img, "zeroed", blockRange{1000, 1100}).file()} {
		c, others, err := inspectAnywhere(t.Context(), src, nil)
		must(t, err)
		name2 := t.TempDir() + "/f"
		must(t, os.WriteFile(name2, nil, 0o600))
		full, err := os.Open(name2) // can't be written to
		must(t, err)
		defer full.Close()
		_, err = repairInto(t.Context(), c, others, src, &image{file: scratchFile(t), direct: full}, nil)
		if err == nil || !strings.Contains(err.Error(), "bad file descriptor") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRepairChecksWhatItMade: what the output has to be read again for is seen there.
func TestRepairChecksWhatItMade(t *testing.T) {
	img := signed(t, tall(1200), withRoots(24))
	g := geometryOf(t, img)
	for name, c := range map[string]struct {
		lba   int64
		made  bool // by repair, else it is what derives from the seal
		wrong string
	}{
		"data":           {700, true, "damaged"},
		"tree":           {g.Tree() + g.TreeBlocks - 1, true, "bad-tree"},
		"parity":         {g.FEC() + 5, true, "damaged"},
		"locator":        {0, false, "not-a-bundle"},
		"directory area": {16, false, "damaged"},
		"seal A":         {g.SealA(), false, "seal-copies-differ"},
		"seal B":         {g.SealB() + 9, false, "seal-copies-differ"},
		"superblock":     {g.Superblock(), false, "bad-superblock"},
		"locator's copy": {g.LocatorCopy(), false, "bad-locator"},
		"padding":        {g.Padding(), false, "bad-padding"},
		"nothing":        {-1, false, "none"},
	} {
		claims, _, err := inspectAnywhere(t.Context(), fileSource(img), nil)
		must(t, err)
		out := bytes.Clone(img)
		if c.lba >= 0 {
			out[c.lba*BlockSize+3] ^= 0x40
		}
		if c.made {
			claims.mendedRun(c.lba, c.lba+1)
		}
		r := &reading{claims: claims}
		if err := r.checkMade(t.Context(), bytes.NewReader(out)); codeOf(err) != c.wrong {
			t.Errorf("%s: %v, want %q", name, err, c.wrong)
		}
	}
	// A leaf that nothing else needs.
	out := bytes.Clone(img)
	out[(g.Tree()+1+5)*BlockSize+3] ^= 0x40
	claims, _, err := inspectAnywhere(t.Context(), fileSource(out), nil)
	must(t, err)
	r := &reading{src: fileSource(out), claims: claims, opt: VerifyOptions{NoRepair: true}}
	must(t, r.superblockAndTree(t.Context()))
	made := blockSet{}
	made.add(g.Tree()+1+5, g.Tree()+1+6)
	if err := damage(r.madeBlocks(t.Context(), made)); codeOf(err) != "bad-tree" {
		t.Errorf("a leaf that was made: %v", err)
	}
	// Another image of the same geometry, whole in itself.
	claims, _, err = inspectAnywhere(t.Context(), fileSource(img), nil)
	must(t, err)
	f := forge(t, img)
	f.reseal = func(s *Seal) { s.Created++ }
	if other := f.image(t); !bytes.Equal(other, img) {
		r := &reading{claims: claims}
		if err := r.checkMade(t.Context(), bytes.NewReader(other)); err == nil || !strings.Contains(err.Error(), "another") {
			t.Errorf("another image: %v", err)
		}
	}
}

// fickle gives a block as it is once, and then another one, or the other way round.
type fickle struct {
	r          io.ReaderAt
	bad        blockRange // of which this is true
	wrongFirst bool

	mu   sync.Mutex
	seen map[int64]bool
}

func (f *fickle) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.r.ReadAt(p, off)
	f.mu.Lock()
	defer f.mu.Unlock()
	for lba := f.bad.first; lba < f.bad.end; lba++ {
		if at := lba*BlockSize - off; at >= 0 && at+BlockSize <= int64(n) {
			if f.seen[lba] != f.wrongFirst {
				p[at+9] ^= 1
			}
			f.seen[lba] = true
		}
	}
	return n, err
}

// TestRepairSecondAnswer: of a file that isn't the same when it is read to decode, what was judged is written.
func TestRepairSecondAnswer(t *testing.T) {
	img := signed(t, tall(1200), withRoots(24))
	g := geometryOf(t, img)
	for _, bad := range []blockRange{{300, 310}, {350, 353}, {g.Tree(), g.Tree() + 3}, {g.FEC(), g.FEC() + 40}, {100, g.DataBlocks}} {
		for _, wrongFirst := range []bool{false, true} {
			// The leaf over 320 to 383 is lost: what is under it is judged twice.
			h := hurt(img, "garbage", blockRange{600, 620}, one(g.Tree()+1+5)).file()
			src := Source{ReaderAt: &fickle{r: h.ReaderAt, bad: bad, wrongFirst: wrongFirst, seen: map[int64]bool{}}, Size: h.Size}
			got, _, err := repairedImage(src)
			if err == nil && !bytes.Equal(got, img) {
				t.Errorf("%v, wrong first %v: the image differs at byte %d", bad, wrongFirst, firstDifference(got, img))
			} else if err != nil && codeOf(err) != "damaged" {
				t.Errorf("%v, wrong first %v: %v", bad, wrongFirst, err)
			}
		}
	}
}
