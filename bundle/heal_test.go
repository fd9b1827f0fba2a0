package bundle

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"testing/fstest"

	"sallyport/bundle/trust"
)

// kinds of damage.
var hurts = []string{"zeroed", "garbage", "unreadable"}

// hurt is an image with the blocks in bad zeroed, full of garbage, or unreadable.
func hurt(img []byte, kind string, bad ...blockRange) *hurtImage {
	h := &hurtImage{img: bytes.Clone(img)}
	for _, b := range bad {
		switch kind {
		case "zeroed":
			clear(h.img[b.first*BlockSize : b.end*BlockSize])
		case "garbage":
			for lba := b.first; lba < b.end; lba++ {
				copy(h.img[lba*BlockSize:], pattern(BlockSize, fmt.Sprint("garbage ", lba)))
			}
		default:
			h.bad = append(h.bad, b)
		}
	}
	return h
}

type hurtImage struct {
	img []byte
	bad []blockRange
}

// ReadAt gives what stands before an unreadable block, as drives do.
func (h *hurtImage) ReadAt(p []byte, off int64) (int, error) {
	n, err := bytes.NewReader(h.img).ReadAt(p, off)
	for _, b := range h.bad {
		if first := max(off, b.first*BlockSize); first < min(off+int64(n), b.end*BlockSize) {
			n, err = int(first-off), errMedium
		}
	}
	return n, err
}

func (h *hurtImage) medium() Source {
	return Source{ReaderAt: h, Size: int64(len(h.img)), Medium: true}
}

func (h *hurtImage) file() Source { return Source{ReaderAt: h, Size: int64(len(h.img))} }

func one(lba int64) blockRange { return blockRange{lba, lba + 1} }

// TestHealLocator: block 0 is found again from the locator's copy or from seal B, of a file and of a medium with much
// or something unreadable behind the image; only where there is parity; and blocks of other bundles don't deceive.
func TestHealLocator(t *testing.T) {
	for _, roots := range []int{0, 2, 24} {
		fsys := tiny()
		other := signed(t, fstest.MapFS{".": dir(0o755, 1), "other": file(10, 0o644, 1)}, withRoots(24))
		fsys["other.iso"] = &fstest.MapFile{Data: other, Mode: 0o644, ModTime: fsys["a.txt"].ModTime}
		img := signed(t, fsys, withRoots(roots))
		g := geometryOf(t, img)
		behind := append(bytes.Clone(img), make([]byte, 700*BlockSize)...)
		end := int64(len(behind)) / BlockSize
		far := append(bytes.Clone(img), make([]byte, 2000*BlockSize)...)
		for _, kind := range hurts {
			for _, c := range []struct {
				name    string
				img     []byte
				bad     []blockRange
				file    bool
				healed  bool
				locator int64
			}{
				{"block 0 of a file", img, []blockRange{one(0)}, true, true, 1},
				{"block 0 of a medium", img, []blockRange{one(0)}, false, true, 1},
				{"block 0, run-out", behind, []blockRange{one(0)}, false, true, 1},
				{"block 0 and seal B", img, []blockRange{one(0), {g.SealB(), g.LocatorCopy()}}, true, true, 1},
				{"block 0 and the locator's copy", img, []blockRange{one(0), one(g.LocatorCopy())}, true, true, 2},
				{"block 0, all else far from the end", far, []blockRange{one(0)}, false, false, 0},
			} {
				h := hurt(c.img, kind, c.bad...)
				if c.name == "block 0, run-out" {
					h.bad = append(h.bad, blockRange{end - 150, end})
				}
				src := h.medium()
				if c.file {
					src = h.file()
				}
				var sink treeSink
				v, err := verify(src, VerifyOptions{Sink: &sink})
				what := fmt.Sprintf("%d roots, %s %s", roots, c.name, kind)
				if !c.healed || roots == 0 {
					want := "not-a-bundle"
					if kind == "unreadable" {
						want = ""
					}
					if codeOf(err) != want {
						t.Errorf("%s: %v, want %q", what, err, want)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s: %v", what, err)
					continue
				}
				if v.Repaired().Locator != c.locator {
					t.Errorf("%s: %+v", what, v.Repaired())
				}
				sink.compare(t, fsys)
				if _, err := verify(src, VerifyOptions{NoRepair: true}); err == nil {
					t.Errorf("%s: taken although nothing was to be repaired", what)
				}
				if _, err := Check(t.Context(), src, nil, nil); err == nil {
					t.Errorf("%s: taken by Check", what)
				}
			}
		}
	}
}

// TestHealSeals destroys seal blocks in every way that leaves one copy of each, and in some that don't.
func TestHealSeals(t *testing.T) {
	fsys := tiny()
	img := signed(t, fsys, withRoots(2))
	g := geometryOf(t, img)
	a, b := g.SealA(), g.SealB()
	for _, kind := range hurts {
		expect := func(what string, code string, bad ...blockRange) {
			t.Helper()
			v, err := verify(hurt(img, kind, bad...).medium(), VerifyOptions{})
			if codeOf(err) != code {
				t.Errorf("%s %s: %v, want %s", what, kind, err, code)
				return
			}
			if err != nil {
				return
			}
			var sealA, sealB, unreadable int64
			for _, r := range bad {
				for lba := r.first; lba < r.end; lba++ {
					switch {
					case lba >= b:
						sealB++
					case lba >= a:
						sealA++
					}
				}
			}
			if kind == "unreadable" {
				unreadable = sealA + sealB
			}
			if r := v.Repaired(); r.SealA != sealA || r.SealB != sealB || r.Unreadable != unreadable || r.Blocks() != sealA+sealB {
				t.Errorf("%s %s: %+v was repaired, want %d and %d blocks", what, kind, r, sealA, sealB)
			}
		}
		for first := range int64(sealBlocks) {
			for end := first + 1; end <= sealBlocks; end++ {
				expect(fmt.Sprintf("seal A %d to %d", first, end), "none", blockRange{a + first, a + end})
				expect(fmt.Sprintf("seal B %d to %d", first, end), "none", blockRange{b + first, b + end})
			}
		}
		for mask := range 1 << sealBlocks {
			if mask%31 != 0 {
				continue // enough of them
			}
			var bad []blockRange
			for i := range int64(sealBlocks) {
				if mask>>i&1 == 1 {
					bad = append(bad, one(a+i))
				} else {
					bad = append(bad, one(b+i))
				}
			}
			expect(fmt.Sprintf("from A or B by %b", mask), "none", bad...)
		}
		for i := range int64(sealBlocks) {
			code := "bad-slot" // equal, and for the signatures' check to judge
			switch {
			case kind == "unreadable":
				code = ""
			case kind == "garbage":
				code = "seal-copies-differ"
			case i < sealJSONBlocks:
				code = "bad-seal"
			}
			expect(fmt.Sprintf("block %d of both", i), code, one(a+i), one(b+i))
		}
	}
}

// TestHealSealsOnPurpose: where both copies are well-formed and differ, nobody chooses.
func TestHealSealsOnPurpose(t *testing.T) {
	img := signed(t, tiny(), withRoots(24))
	g := geometryOf(t, img)
	other := withRoots(24)
	other.Sequence++
	unsigned := prepare(t, tiny(), withRoots(24))
	forged, err := trust.EncodeSlot(signature(t, "mallory", messageOf(t, img)))
	must(t, err)
	seal := func(img []byte, lba int64) []byte { return img[lba*BlockSize:][:sealBlocks*BlockSize] }
	for name, change := range map[string]func(img []byte, lba int64){
		"another seal":       func(img []byte, lba int64) { copy(seal(img, lba), seal(prepare(t, tiny(), other), g.SealA())) },
		"no signatures":      func(img []byte, lba int64) { copy(seal(img, lba), seal(unsigned, g.SealA())) },
		"one signature more": func(img []byte, lba int64) { copy(seal(img, lba)[7*BlockSize:], forged[:]) },
		"one signature less": func(img []byte, lba int64) { copy(seal(img, lba)[6*BlockSize:], padNewlines(nil, BlockSize)) },
		"another signature":  func(img []byte, lba int64) { copy(seal(img, lba)[4*BlockSize:], forged[:]) },
		"signatures in other places": func(img []byte, lba int64) {
			copy(seal(img, lba)[4*BlockSize:], seal(img, g.SealA())[5*BlockSize:6*BlockSize])
		},
		"a later date": func(img []byte, lba int64) {
			s := *sealOf(t, img)
			s.Created++
			text, err := s.Encode()
			must(t, err)
			copy(seal(img, lba), text)
		},
	} {
		for _, lba := range []int64{g.SealA(), g.SealB()} {
			changed := bytes.Clone(img)
			change(changed, lba)
			for _, src := range []Source{fileSource(changed), mediumSource(changed)} {
				if _, err := verify(src, VerifyOptions{}); codeOf(err) != "seal-copies-differ" {
					t.Errorf("%s at LBA %d: %v", name, lba, err)
				}
			}
		}
	}
}

// TestHealNothingWithoutParity: with 0 roots Inspect refuses what differs, as ever.
func TestHealNothingWithoutParity(t *testing.T) {
	img := signed(t, tiny(), demo())
	g := geometryOf(t, img)
	for lba := range g.ImageBlocks() {
		for _, kind := range hurts[:2] {
			h := hurt(img, kind, one(lba))
			if bytes.Equal(h.img, img) {
				continue
			}
			if _, err := verify(h.medium(), VerifyOptions{}); codeOf(err) == "none" || codeOf(err) == "" {
				t.Errorf("LBA %d %s: %v, want a refusal", lba, kind, err)
			}
		}
	}
}

// TestRepairedCounts: each block of an image is counted once, in its place.
func TestRepairedCounts(t *testing.T) {
	g := geometry(t, 300, 24)
	count := func(c *Claims) map[string]int64 {
		m := map[string]int64{}
		v := reflect.ValueOf(*c.Repaired())
		for i := range v.NumField() {
			if n, ok := v.Field(i).Interface().(int64); ok && n > 0 {
				m[v.Type().Field(i).Name] = n
			}
		}
		return m
	}
	for place, want := range map[string]blockRange{
		"Locator": one(0), "Data": {1, 300}, "SealA": {300, 312}, "Superblock": one(312), "Tree": {g.Tree(), g.FEC()}, "Parity": {g.FEC(), g.SealB()},
		"SealB": {g.SealB(), g.LocatorCopy()}, "Padding": {g.Padding(), g.ImageBlocks()},
	} {
		for lba := want.first; lba < want.end; lba++ {
			c := &Claims{Geometry: g}
			c.healed(lba, false)
			if got := count(c); len(got) != 1 || got[place] != 1 {
				t.Errorf("LBA %d: %v, want it in %s", lba, got, place)
			}
		}
	}
	c := &Claims{Geometry: g}
	if c.Repaired() != nil {
		t.Error("something was repaired")
	}
	for lba := range g.ImageBlocks() {
		if lba%3 > 0 {
			c.healed(lba, lba%3 == 1)
			c.healed(lba, lba%3 == 1)
		}
	}
	r := c.Repaired()
	runs := (g.ImageBlocks() + 1) / 3
	if r.Blocks() != g.ImageBlocks()-(g.ImageBlocks()+2)/3 || r.Unreadable != runs || r.More != runs-MaxRuns || !slices.Equal(r.Runs[:2], []Run{{1, 2}, {4, 2}}) || len(r.Runs) != MaxRuns {
		t.Errorf("%+v", r)
	}
}
