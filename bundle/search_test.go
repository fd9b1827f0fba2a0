package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
)

// nestedImages are an image, and one whose payload holds it from the payload's first block on at its own LBAs.
func nestedImages(t *testing.T, around Options) (inner, outer []byte) {
	t.Helper()
	inner = signed(t, tall(300), withRoots(24))
	fsys := fstest.MapFS{".": dir(0o755, 1), "a": file(1500*BlockSize, 0o644, 2)}
	plain := prepare(t, fsys, around)
	at := int64(bytes.Index(plain, fsys["a"].Data[:BlockSize])) / BlockSize
	copy(fsys["a"].Data, inner[at*BlockSize:])
	outer = signed(t, fsys, around)
	if !bytes.Equal(outer[at*BlockSize:len(inner)], inner[at*BlockSize:]) {
		t.Fatal("the inner image isn't at its own LBAs")
	}
	return inner, outer
}

// TestNestedImages: an image in the payload, at its own LBAs, is not taken for the one around it.
func TestNestedImages(t *testing.T) {
	for _, roots := range []int{2, 24} {
		_, outer := nestedImages(t, withRoots(roots))
		far := append(bytes.Clone(outer), make([]byte, 5000*BlockSize)...)
		g := geometryOf(t, outer)
		for name, bad := range map[string][]blockRange{
			"block 0": {one(0)}, "and the locator's copy": {one(0), one(g.LocatorCopy())},
			"all but seal A": {one(0), {g.SealB(), g.Padding()}},
		} {
			wantRepaired(t, name, hurt(far, "zeroed", bad...).medium(), outer)
			if roots == 24 {
				if _, err := verify(hurt(outer, "zeroed", bad...).medium(), VerifyOptions{}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
	// One that can't be made good gives none, and not the one inside.
	_, outer := nestedImages(t, demo())
	far := append(bytes.Clone(outer), make([]byte, 5000*BlockSize)...)
	_, _, err := repairedImage(hurt(far, "zeroed", one(0)).medium())
	wantCode(t, err, "not-a-bundle")
	_, outer = nestedImages(t, withRoots(24))
	far = append(bytes.Clone(outer), make([]byte, 5000*BlockSize)...)
	copy(far[(geometryOf(t, outer).SealB()+sealJSONBlocks)*BlockSize:], padNewlines(nil, BlockSize)) // on purpose
	_, _, err = repairedImage(hurt(far, "zeroed", one(0)).medium())
	wantCode(t, err, "not-a-bundle")
}

// TestImagesOverEachOther: what an older, longer image left on a stick doesn't decide what the new one is.
func TestImagesOverEachOther(t *testing.T) {
	old := signed(t, tall(3000), withRoots(24))
	img := signed(t, tall(30), withRoots(24))
	stick := append(bytes.Clone(old), make([]byte, 2000*BlockSize)...)
	copy(stick, img)
	if _, _, err := repairedImage(mediumSource(stick)); err != nil {
		t.Errorf("with block 0: %v", err)
	}
	_, _, err := repairedImage(hurt(stick, "zeroed", one(0)).medium())
	wantCode(t, err, "bad-locator")
}

// TestForeignLocator: another bundle's block 0, and one of which a byte was flipped, are damage like any other.
func TestForeignLocator(t *testing.T) {
	img := signed(t, tall(300), withRoots(24))
	change := func(change func(block []byte)) []byte {
		c := bytes.Clone(img)
		change(c[:BlockSize])
		return c
	}
	for name, damaged := range map[string][]byte{
		"shorter": change(func(b []byte) { copy(b, geometry(t, 100, 2).locator()) }),
		"longer":  change(func(b []byte) { copy(b, geometry(t, 100000, 24).locator()) }),
		"a digit": change(func(b []byte) { b[bytes.Index(b, []byte("data-blocks"))+12] ^= 1 }),
		"a blank": change(func(b []byte) { b[1000] ^= 1 }),
	} {
		for _, src := range []Source{fileSource(damaged), mediumSource(damaged)} {
			v, err := verify(src, VerifyOptions{})
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if r := v.Repaired(); r.Locator != 1 || r.Blocks() != 1 {
				t.Errorf("%s: %+v", name, r)
			}
			wantRepaired(t, name, src, img)
		}
	}
	// What belongs to no locator's copy gives the first error.
	_, err := verify(fileSource(img[:len(img)-BlockSize]), VerifyOptions{})
	wantCode(t, err, "wrong-size")
	if !strings.Contains(fmt.Sprint(err), "sallyport repair") {
		t.Errorf("%v: says nothing of repair", err)
	}
	_, err = verify(hurt(append(bytes.Clone(img), make([]byte, 3000*BlockSize)...), "zeroed", one(0)).medium(), VerifyOptions{})
	wantCode(t, err, "not-a-bundle")
	if !strings.Contains(fmt.Sprint(err), "sallyport repair") {
		t.Errorf("%v: says nothing of repair", err)
	}
}

// TestLostSeals: what is said when no seal is left.
func TestLostSeals(t *testing.T) {
	img := signed(t, tall(300), withRoots(24))
	g := geometryOf(t, img)
	_, err := Inspect(t.Context(), hurt(img, "zeroed", blockRange{g.SealA(), g.Superblock()}, blockRange{g.SealB(), g.LocatorCopy()}).file())
	if codeOf(err) != "bad-seal" || !strings.Contains(err.Error(), "both copies of the seal are lost") {
		t.Errorf("zeroed: %v", err)
	}
	_, err = Repair(t.Context(), fileSource(img[:len(img)/2]), t.TempDir()+"/out", RepairOptions{})
	if want := fmt.Sprintf("%d of %d bytes are here", len(img)/2, len(img)); codeOf(err) != "wrong-size" || !strings.Contains(err.Error(), want) {
		t.Errorf("cut: %v, want %s", err, want)
	}
}

// TestSearchUnreadable: a search passes over a long unreadable zone in few reads, and ends at once when cancelled.
func TestSearchUnreadable(t *testing.T) {
	var reads atomic.Int64
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	after := int64(0)
	src := Source{Size: 1 << 20 * BlockSize, Medium: true, ReaderAt: readerFunc(func(p []byte, off int64) (int, error) {
		if reads.Add(1) == after {
			cancel(errStopped)
		}
		return 0, errMedium
	})}
	c, others, err := findAnywhere(ctx, src, nil)
	if c != nil || others != nil || err != nil || reads.Load() > 1000 {
		t.Errorf("%d reads of a medium that gives nothing: %v", reads.Load(), err)
	}
	for name, search := range map[string]func() error{
		"end":      func() error { _, err := findAtEnd(ctx, src); return err },
		"anywhere": func() error { _, _, err := findAnywhere(ctx, src, nil); return err },
	} {
		ctx, cancel = context.WithCancelCause(t.Context())
		reads.Store(0)
		after = 5
		if err := search(); !errors.Is(err, errStopped) || reads.Load() > after+2 {
			t.Errorf("%s: cancelled at read %d, %d were made: %v", name, after, reads.Load(), err)
		}
		cancel(nil)
	}
}
