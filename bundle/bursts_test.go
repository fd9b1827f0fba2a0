package bundle

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/fstest"
)

// onAllCores runs do for 0 to n-1.
func onAllCores(n int64, do func(i int64)) {
	var wg sync.WaitGroup
	workers := int64(runtime.GOMAXPROCS(0))
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				do(i)
			}
		})
	}
	wg.Wait()
}

// repairedImage is what Repair makes of src.
func repairedImage(src Source) ([]byte, *Repaired, error) {
	c, others, err := inspectAnywhere(context.Background(), src, nil)
	if err != nil {
		return nil, nil, err
	}
	file, err := scratchIn(os.TempDir())
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	rep, err := repairInto(context.Background(), c, others, src, &image{file: file}, nil)
	if err != nil {
		return nil, nil, err
	}
	img := make([]byte, c.Geometry.ImageBlocks()*BlockSize)
	return img, rep, readFull(file, img, 0)
}

// wantRepaired repairs src and compares the result with img, byte for byte.
func wantRepaired(t *testing.T, what string, src Source, img []byte) {
	t.Helper()
	got, rep, err := repairedImage(src)
	switch {
	case err != nil:
		t.Errorf("%s: %v", what, err)
	case !bytes.Equal(got, img):
		t.Errorf("%s: the repaired image differs from byte %d on; %+v", what, firstDifference(got, img), rep)
	}
}

// tall is a payload of one file of so many blocks.
func tall(blocks int) fstest.MapFS {
	return fstest.MapFS{".": dir(0o755, 1), "f": file(blocks*BlockSize, 0o644, 2)}
}

// TestBursts: a burst of the guaranteed length is made good wherever in its place it begins, whatever stands there.
func TestBursts(t *testing.T) {
	every := int64(10)
	if os.Getenv("SALLYPORT_BIG") == "1" {
		every = 1
	}
	if raceDetector {
		t.Log("with the race detector a twentieth of it only")
		every *= 20
	}
	for _, c := range []struct{ roots, blocks int }{{2, 400}, {3, 80}, {8, 300}, {24, 270}} {
		img := signed(t, tall(c.blocks), withRoots(c.roots))
		g := geometryOf(t, img)
		b := g.Bursts()
		for _, place := range []struct {
			name       string
			first, end int64 // where a burst lies
			blocks     int64
		}{
			{"data", 0, g.DataBlocks, b.Data},
			{"data and tree", 0, g.FEC(), b.DataTree},
			{"tree", g.Tree(), g.FEC(), b.Tree},
			{"tree and parity", g.Tree(), g.SealB(), b.TreeParity},
			{"parity", g.FEC(), g.SealB(), b.Parity},
			{"anywhere", 0, g.ImageBlocks(), b.Anywhere},
		} {
			if place.blocks < 1 || place.first+place.blocks > place.end {
				t.Errorf("%d roots, %d blocks: a burst of %d blocks in %s", c.roots, c.blocks, place.blocks, place.name)
				continue
			}
			starts := place.end - place.first - place.blocks + 1
			onAllCores(starts, func(i int64) {
				first := place.first + i
				edge := i < 2 || i >= starts-2 || place.name != "data" && first < g.DataBlocks && first+place.blocks > g.DataBlocks
				for k, kind := range hurts {
					if (i+int64(k))%every == 0 || edge {
						burst := blockRange{first, first + place.blocks}
						wantRepaired(t, fmt.Sprintf("%d roots, %d blocks: LBA %d to %d (%s) %s", c.roots, c.blocks, first, burst.end-1, place.name, kind), hurt(img, kind, burst).medium(), img)
					}
				}
			})
		}
	}
	if b := geometry(t, 1000, 0).Bursts(); b != (Bursts{}) {
		t.Errorf("without parity: %+v", b)
	}
}

// TestBurstsOfDiscs: what the design promises of large images with 24 roots: 5 % inside the data and inside the
// parity, 1 % anywhere.
func TestBurstsOfDiscs(t *testing.T) {
	for d := int64(2500); d < 1<<32/2; d = d*3/2 + 7 {
		g := geometry(t, d, 24)
		b, n := g.Bursts(), g.ImageBlocks()
		if b.Data*20 < n || b.Parity*20 < n || b.Anywhere*100 < n {
			t.Errorf("%d data blocks: %+v of %d", d, b, n)
		}
		for roots := 2; roots <= 24; roots++ {
			g := geometry(t, d, roots)
			b := g.Bursts()
			for _, blocks := range []int64{b.Data, b.DataTree, b.Tree, b.TreeParity, b.Parity} {
				if b.Anywhere < 1 || blocks < 1 || blocks > g.ImageBlocks() || b.Anywhere > b.Data || b.Anywhere > b.DataTree {
					t.Errorf("%d data blocks, %d roots: %+v", d, roots, b)
				}
			}
		}
	}
}
