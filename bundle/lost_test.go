package bundle

import (
	"bytes"
	"errors"
	"io/fs"
	"syscall"
	"testing"
)

// TestLostIsTheMediumsWord: Gone is asked about errors of the medium only. One that takes every error which is not
// about single blocks for the end of the medium must not make what was read, and is wrong, unrepairable.
func TestLostIsTheMediumsWord(t *testing.T) {
	img := signed(t, tall(600), withRoots(24))
	g := geometryOf(t, img)
	for where, lba := range map[string]int64{
		"locator": 0, "directories": 17, "data": 100, "seal A": g.SealA(), "superblock": g.Superblock(),
		"root of the tree": g.Tree(), "leaf of the tree": g.Tree() + 3, "seal B": g.SealB(), "locator's copy": g.LocatorCopy(),
	} {
		for _, kind := range hurts {
			src := hurt(img, kind, one(lba)).medium()
			src.Gone = func(err error) bool { return !errors.Is(err, errMedium) }
			v, err := verify(src, VerifyOptions{})
			if err != nil {
				t.Errorf("%s of the %s: %v", kind, where, err)
			} else if v.Repaired().Blocks() == 0 {
				t.Errorf("%s of the %s: nothing was repaired", kind, where)
			}
		}
	}
}

// TestLostWhileInspecting: once the medium is lost, at whatever read, Inspect says so, and neither searches for what it
// can't read nor takes one copy of the seal for all there is.
func TestLostWhileInspecting(t *testing.T) {
	gone := &fs.PathError{Op: "read", Path: "/dev/sr0", Err: syscall.ENXIO}
	for _, roots := range []int{0, 24} {
		img := signed(t, tall(100), withRoots(roots))
		for healthy := 0; ; healthy++ {
			reads := 0
			src := Source{Size: int64(len(img)), Medium: true, Gone: func(err error) bool { return errors.Is(err, syscall.ENXIO) }}
			src.ReaderAt = readerFunc(func(p []byte, off int64) (int, error) {
				if reads++; reads > healthy {
					return 0, gone
				}
				return bytes.NewReader(img).ReadAt(p, off)
			})
			_, err := Inspect(t.Context(), src)
			if err == nil && reads == healthy {
				break
			}
			if codeOf(err) != "" || !errors.Is(err, gone) {
				t.Errorf("%d roots, lost after %d reads: %v, want a fault", roots, healthy, err)
			}
			if reads > healthy+2 { // the other copy of the seal
				t.Errorf("%d roots, lost after %d reads: tried %d more", roots, healthy, reads-healthy)
			}
			if healthy == 100 {
				t.Fatal("Inspect never comes to an end")
			}
		}
	}
}
