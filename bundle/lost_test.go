package bundle

import (
	"errors"
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
