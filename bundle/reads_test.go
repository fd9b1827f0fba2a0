package bundle

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"testing"
)

// recorder notes which blocks are read, in order.
type recorder struct {
	r  io.ReaderAt
	mu sync.Mutex
	at []blocks
}

type blocks struct{ first, end int64 } // the blocks first to end-1

func (r *recorder) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	r.at = append(r.at, blocks{off / BlockSize, blocksOf(off + int64(len(p)))})
	r.mu.Unlock()
	return r.r.ReadAt(p, off)
}

// wantOnlySeal checks that nothing but locator, seals and the locator's copy was read.
func (r *recorder) wantOnlySeal(t *testing.T, g Geometry) {
	t.Helper()
	for _, b := range r.at {
		a, c := g.SealA(), g.SealB()
		if b != (blocks{0, 1}) && (b.first < a || b.end > a+sealBlocks) && (b.first < c || b.end > c+sealBlocks+1) {
			t.Errorf("LBA %d to %d were read before the signatures were good", b.first, b.end-1)
		}
	}
	if len(r.at) == 0 {
		t.Error("nothing was read")
	}
}

// TestReads: each block of the source is read at most once, in the order that design and format fix, and nothing
// behind the image of a file.
func TestReads(t *testing.T) {
	fsys := rich() // several MiB: pieces of every size
	for _, roots := range []int{0, 24} {
		img := signed(t, fsys, withRoots(roots))
		g, m := geometryOf(t, img), sealOf(t, img).Manifest
		for _, surplus := range []int64{0, 700} {
			longer := append(bytes.Clone(img), make([]byte, surplus*BlockSize)...)
			r := &recorder{r: bytes.NewReader(longer)}
			_, err := verify(Source{ReaderAt: r, Size: int64(len(longer)), Medium: surplus > 0}, VerifyOptions{Sink: &treeSink{}})
			must(t, err)
			count := make([]int, len(longer)/BlockSize)
			var order []string
			last := int64(-1)
			for _, b := range r.at {
				for lba := b.first; lba < b.end; lba++ {
					count[lba]++
				}
				step := "payload"
				switch lba := b.first; {
				case lba == 0 && b.end == 1:
					step = "locator"
				case lba >= m.LBA && lba < m.LBA+blocksOf(m.Bytes):
					step = "manifest"
				case lba >= g.Padding():
					step = "padding"
				case lba == g.LocatorCopy():
					step = "locator's copy"
				case lba >= g.SealB() || lba >= g.SealA() && lba < g.Superblock():
					step = "seal"
				case lba >= g.FEC():
					step = "parity"
				case lba >= g.Superblock():
					step = "tree"
				}
				if len(order) == 0 || order[len(order)-1] != step {
					order, last = append(order, step), -1
				}
				if b.first < last && step != "tree" {
					t.Errorf("%s: LBA %d after %d", step, b.first, last)
				}
				last = b.end - 1
			}
			for lba, n := range count {
				if n != 1 {
					t.Errorf("%d roots, LBA %d: read %d times", roots, lba, n)
				}
			}
			want := "[locator seal tree manifest payload parity locator's copy padding]"
			if roots == 0 {
				want = "[locator seal tree manifest payload locator's copy padding]"
			}
			if fmt.Sprint(order) != want {
				t.Errorf("order of reads: %v, want %s", order, want)
			}
		}
	}
}

// TestProgress: it never goes back, nor beyond its total.
func TestProgress(t *testing.T) {
	fsys := rich()
	img := signed(t, fsys, withRoots(2))
	check := func(what string, run func(Progress) error, steps ...string) {
		t.Helper()
		var last, total int64
		var seen []string
		must(t, run(func(step string, done, all int64) {
			if len(seen) == 0 || seen[len(seen)-1] != step {
				seen, last, total = append(seen, step), 0, all
			}
			if done < last || done > all || all != total {
				t.Errorf("%s: %s: %d of %d after %d of %d", what, step, done, all, last, total)
			}
			last = done
		}))
		if fmt.Sprint(seen) != fmt.Sprint(steps) {
			t.Errorf("%s: steps %q, want %q", what, seen, steps)
		}
	}
	check("write", func(p Progress) error {
		_, err := plan(t, fsys, withRoots(2)).WriteTo(t.Context(), io.Discard, p)
		return err
	}, "prepare", "parity")
	longer := append(bytes.Clone(img), make([]byte, 5000*BlockSize)...)
	for _, src := range []Source{fileSource(img), mediumSource(img), mediumSource(longer)} {
		check("verify", func(p Progress) error { _, err := verify(src, VerifyOptions{Progress: p}); return err }, "verify")
	}
}
