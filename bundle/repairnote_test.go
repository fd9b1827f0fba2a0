package bundle

import (
	"bytes"
	"strings"
	"testing"
)

// TestRepairTells: what is behind the image is told, and what couldn't be read counts, also where no reader needs it.
func TestRepairTells(t *testing.T) {
	for _, roots := range []int{0, 24} {
		img := signed(t, tall(300), withRoots(roots))
		g := geometryOf(t, img)
		more := func(n int, last byte) []byte {
			b := append(bytes.Clone(img), make([]byte, n)...)
			b[len(b)-1] = last
			return b
		}
		for name, c := range map[string]struct {
			src  Source
			note string
			want Repaired
		}{
			"whole":             {fileSource(img), "", Repaired{}},
			"run-out":           {mediumSource(more(150*BlockSize, 0)), "", Repaired{}},
			"data behind":       {mediumSource(more(150*BlockSize+512, 1)), "not all of them zero", Repaired{}},
			"a stick":           {mediumSource(more(3000*BlockSize, 1)), "was not looked at", Repaired{}},
			"seal A unreadable": {hurt(img, "unreadable", one(g.SealA()+2)).medium(), "", Repaired{SealA: 1}},
			"seal B unreadable": {hurt(img, "unreadable", blockRange{g.SealB(), g.LocatorCopy()}).medium(), "", Repaired{SealB: 12}},
			"locator's copy":    {hurt(img, "unreadable", one(g.LocatorCopy())).medium(), "", Repaired{Locator: 1}},
			"padding":           {hurt(img, "unreadable", blockRange{g.Padding() + 3, g.Padding() + 9}).medium(), "", Repaired{Padding: 6}},
		} {
			notes := ""
			r, err := Repair(t.Context(), c.src, t.TempDir()+"/out", RepairOptions{Note: func(s string) { notes += s }})
			if err != nil {
				t.Errorf("%d roots, %s: %v", roots, name, err)
				continue
			}
			if r == nil {
				r = &Repaired{}
			}
			if got := (Repaired{SealA: r.SealA, SealB: r.SealB, Locator: r.Locator, Padding: r.Padding}); got.Blocks() != r.Blocks() || r.Unreadable != r.Blocks() ||
				got.SealA != c.want.SealA || got.SealB != c.want.SealB || got.Locator != c.want.Locator || got.Padding != c.want.Padding {
				t.Errorf("%d roots, %s: %+v", roots, name, r)
			}
			if c.note == "" && notes != "" || !strings.Contains(notes, c.note) {
				t.Errorf("%d roots, %s: notes %q, want %q", roots, name, notes, c.note)
			}
		}
		if roots == 24 {
			notes := ""
			_, err := Repair(t.Context(), fileSource(more(7, 0)), t.TempDir()+"/out", RepairOptions{Note: func(s string) { notes += s }})
			if err != nil || notes != "7 bytes behind the image were left out" {
				t.Errorf("%q, %v", notes, err)
			}
		}
	}
}

// TestHealSlotsOfTheWholeCopy: a filled slot that a burst of newlines emptied is the other copy's when the burst took
// more than that; else nobody can tell, and the slot is named.
func TestHealSlotsOfTheWholeCopy(t *testing.T) {
	img := signed(t, tall(300), withRoots(24))
	g := geometryOf(t, img)
	for _, lba := range []int64{g.SealA(), g.SealB()} {
		change := func(first, end int64) []byte {
			b := bytes.Clone(img)
			copy(b[(lba+first)*BlockSize:], bytes.Repeat([]byte{'\n'}, int(end-first)*BlockSize))
			return b
		}
		for _, b := range [][2]int64{{0, 7}, {0, 12}, {0, 5}} {
			wantRepaired(t, "newlines", fileSource(change(b[0], b[1])), img)
		}
		_, err := verify(fileSource(change(5, 6)), VerifyOptions{})
		if codeOf(err) != "seal-copies-differ" || !strings.Contains(err.Error(), "slot 1 ") {
			t.Errorf("%v, want the slot", err)
		}
	}
}

// TestCheckAdvises: whoever wants a whole image is told when there may be help.
func TestCheckAdvises(t *testing.T) {
	for _, roots := range []int{0, 24} {
		img := signed(t, tall(300), withRoots(roots))
		g := geometryOf(t, img)
		for _, lba := range []int64{0, 50, g.SealA(), g.Superblock(), g.Tree(), g.LocatorCopy()} {
			_, err := Check(t.Context(), hurt(img, "garbage", one(lba)).file(), nil, nil)
			if codeOf(err) == "" || codeOf(err) == "none" || strings.Contains(err.Error(), "sallyport repair") != (roots > 0) {
				t.Errorf("%d roots, LBA %d: %v", roots, lba, err)
			}
		}
	}
}
