package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"sallyport/bundle/verity"
)

// TestMendGrid: 1 % of an image with 24 roots, and 5 % inside the data and inside the parity, at 500 and 50 starts
// over the place: verified with the payload in its sink, or repaired byte for byte.
func TestMendGrid(t *testing.T) {
	fsys := tall(2050)
	img := signed(t, fsys, withRoots(24))
	g := geometryOf(t, img)
	n := g.ImageBlocks()
	if g.Roots != 24 || n < 2500 || n > 4000 {
		t.Fatalf("%+v", g)
	}
	grid := int64(500)
	if raceDetector {
		t.Log("with the race detector 50 starts only")
		grid = 50
	}
	for _, place := range []struct {
		name               string
		first, end, blocks int64
		starts             int64
	}{
		{"1 % anywhere", 0, n, (n + 99) / 100, grid},
		{"5 % in the data", 0, g.DataBlocks, (n + 19) / 20, grid / 10},
		{"5 % in the parity", g.FEC(), g.SealB(), (n + 19) / 20, grid / 10},
	} {
		room := place.end - place.first - place.blocks
		onAllCores(place.starts, func(i int64) {
			first := place.first + room*i/(place.starts-1)
			burst := blockRange{first, first + place.blocks}
			kind := hurts[i%3]
			what := fmt.Sprintf("%s: LBA %d to %d %s", place.name, burst.first, burst.end-1, kind)
			h := hurt(img, kind, burst)
			if i%2 == 0 {
				wantRepaired(t, what, h.medium(), img)
				return
			}
			var sink treeSink
			v, err := verify(h.medium(), VerifyOptions{Sink: &sink})
			if err != nil {
				t.Errorf("%s: %v", what, err)
				return
			}
			sink.compare(t, fsys)
			damaged := !bytes.Equal(h.img, img) || len(h.bad) > 0
			onlyParity := burst.first >= g.FEC() && burst.end <= g.SealB()
			onlyPadding := burst.first >= g.Padding() // unreadable or zeroed there harms nothing
			switch r := v.Repaired(); {
			case damaged && r == nil && !onlyParity && !onlyPadding:
				t.Errorf("%s: nothing was repaired", what)
			case onlyParity && (r != nil || len(v.Notes()) != 1):
				t.Errorf("%s: %+v was repaired, notes %q", what, r, v.Notes())
			case r != nil && r.Worst > 24:
				t.Errorf("%s: %+v", what, r)
			}
		})
	}
}

// TestMendScattered: 4 % of the blocks of data and tree, anywhere.
func TestMendScattered(t *testing.T) {
	img := signed(t, tall(2700), withRoots(24))
	g := geometryOf(t, img)
	onAllCores(12, func(i int64) {
		random := rand.New(rand.NewPCG(uint64(i), 4))
		var bad []blockRange
		for _, in := range random.Perm(int(g.DataBlocks + g.TreeBlocks))[:(g.DataBlocks+g.TreeBlocks)/25] {
			lba := int64(in)
			if lba >= g.DataBlocks {
				lba += g.Tree() - g.DataBlocks
			}
			bad = append(bad, one(lba))
		}
		kind := hurts[i%3]
		what := fmt.Sprintf("%d blocks %s, seed %d", len(bad), kind, i)
		h := hurt(img, kind, bad...)
		wantRepaired(t, what, h.medium(), img)
		v, err := verify(h.file(), VerifyOptions{})
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		if r := v.Repaired(); r.Worst < 4 || r.Worst > 24 || r.Data+r.Locator+r.Tree < int64(len(bad))*9/10 {
			t.Errorf("%s: %+v", what, r)
		}
	})
}

// TestMendMixed: zeroed, garbage and unreadable blocks in all places at once, a lost tree too.
func TestMendMixed(t *testing.T) {
	fsys := tall(2700)
	img := signed(t, fsys, withRoots(24))
	g := geometryOf(t, img)
	rounds := g.FECBlocks / 24
	for name, places := range map[string][3][]blockRange{
		"everything a bit": {
			{one(0), {40, 60}, one(g.SealB() + 2)}, {{100, 120}, one(g.SealA()), {g.Padding() + 1, g.Padding() + 9}},
			{one(g.Superblock()), {300, 330}, {g.Tree() + 2, g.Tree() + 5}, one(g.SealB() + 9)},
		},
		"data and the parity of other columns": {
			{{10 * rounds, 10*rounds + 3}}, {one(20 * rounds), one(g.LocatorCopy())}, {{g.FEC() + 5*24, g.FEC() + 7*24}, {20*rounds + 1, 20*rounds + 2}},
		},
		"a lost tree":           {{{g.Tree(), g.FEC()}}, nil, nil},
		"a lost tree, garbage":  {nil, {{g.Tree(), g.FEC()}}, nil},
		"tree and superblock":   {nil, nil, {{g.Superblock(), g.FEC()}}},
		"parity, all of it":     {nil, {{g.FEC(), g.SealB()}}, nil},
		"everything behind it":  {nil, nil, {{g.Superblock(), g.ImageBlocks()}}},
		"all that is twice, A":  {{one(0), {g.SealA(), g.Tree()}}, nil, nil},
		"all that is twice, B":  {nil, {{g.SealB(), g.ImageBlocks()}}, nil},
		"tree and some of data": {{{g.Tree(), g.FEC()}}, {{500, 505}}, {{700, 702}}},
	} {
		h := hurt(img, "zeroed", places[0]...)
		h = hurt(h.img, "garbage", places[1]...)
		h = hurt(h.img, "unreadable", places[2]...)
		wantRepaired(t, name, h.medium(), img)
		wantRepaired(t, name+", a file", h.file(), img)
		var sink treeSink
		if _, err := verify(h.medium(), VerifyOptions{Sink: &sink}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sink.compare(t, fsys)
		if _, err := Check(t.Context(), h.medium(), nil, nil); err == nil && !strings.HasPrefix(name, "parity") {
			t.Errorf("%s: taken by Check", name)
		}
		if _, err := verify(h.medium(), VerifyOptions{NoRepair: true}); err == nil && !strings.HasPrefix(name, "parity") {
			t.Errorf("%s: taken although nothing was to be repaired", name)
		}
	}
}

// TestBeyondRepair: what is too much is refused, says how much it was, leaves no file, and nothing false reaches the
// sink.
func TestBeyondRepair(t *testing.T) {
	fsys := tall(600)
	for _, roots := range []int{2, 24} {
		img := signed(t, fsys, withRoots(roots))
		g := geometryOf(t, img)
		b := g.Bursts()
		for _, kind := range hurts {
			for _, burst := range []blockRange{{100, 101 + b.Data}, {50, 50 + 3*b.Data/2}, {20, g.DataBlocks}} {
				if burst.end > g.DataBlocks {
					continue
				}
				what := fmt.Sprintf("%d roots, LBA %d to %d %s", roots, burst.first, burst.end-1, kind)
				h := hurt(img, kind, burst)
				var sink treeSink
				_, err := verify(h.medium(), VerifyOptions{Sink: &sink})
				if codeOf(err) != "damaged" || !strings.Contains(err.Error(), "is beyond repair: the worst codeword lost ") || !strings.Contains(err.Error(), fmt.Sprintf("%d can be made good", roots)) {
					t.Errorf("%s: %v", what, err)
				}
				wantPrintable(t, err)
				if !bytes.HasPrefix(fsys["f"].Data, sink.data["f"]) {
					t.Errorf("%s: false data arrived", what)
				}
				folder := t.TempDir()
				_, err = Repair(t.Context(), h.medium(), folder+"/out", RepairOptions{})
				wantCode(t, err, "damaged")
				wantNames(t, folder)
				_, err = verify(h.medium(), VerifyOptions{NoRepair: true})
				if kind == "unreadable" && (codeOf(err) != "" || !errors.Is(err, errMedium)) || kind != "unreadable" && codeOf(err) != "damaged" {
					t.Errorf("%s, not to be repaired: %v", what, err)
				}
				_, err = Check(t.Context(), h.medium(), nil, nil)
				if err == nil {
					t.Errorf("%s: taken by Check", what)
				}
			}
		}
	}
}

// TestMendedPayloadIsTheSigned: somebody with the right signatures but another payload, tree and parity over it: what
// comes out is what was signed, or nothing.
func TestMendedPayloadIsTheSigned(t *testing.T) {
	fsys := tall(300)
	img := signed(t, fsys, withRoots(24))
	g := geometryOf(t, img)
	f := forge(t, img)
	copy(f.file("f")[50*BlockSize:], pattern(60*BlockSize, "another payload"))
	forged := f.image(t)
	mixed := bytes.Clone(forged)
	for _, lba := range []int64{g.SealA(), g.SealB()} {
		copy(mixed[lba*BlockSize:][:sealBlocks*BlockSize], img[lba*BlockSize:])
	}
	var sink treeSink
	_, err := verify(fileSource(mixed), VerifyOptions{Sink: &sink})
	wantCode(t, err, "damaged", "bad-tree")
	if len(sink.data["f"]) > 0 && !bytes.HasPrefix(fsys["f"].Data, sink.data["f"]) {
		t.Error("another payload arrived")
	}
}

// counting counts how often each block is read with success.
type counting struct {
	Source
	mu sync.Mutex
	n  map[int64]int
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.Source.ReadAt(p, off)
	c.mu.Lock()
	defer c.mu.Unlock()
	for at := off; at < off+int64(n); at += BlockSize {
		c.n[at/BlockSize]++
	}
	return n, err
}

// TestMendReads: a damaged medium is read at most twice up to the damage and once behind it, and each block for a
// Repair once; without room to keep what was read, once more.
func TestMendReads(t *testing.T) {
	fsys := tall(1200)
	img := signed(t, fsys, withRoots(24))
	g := geometryOf(t, img)
	lba := int64(600)
	h := hurt(img, "garbage", blockRange{lba, lba + 20})
	src := &counting{Source: h.medium(), n: map[int64]int{}}
	_, err := verify(Source{ReaderAt: src, Size: src.Size, Medium: true}, VerifyOptions{Scratch: t.TempDir()})
	must(t, err)
	manifest := sealOf(t, img).Manifest
	for at := range g.ImageBlocks() {
		most := 1
		if at < lba+600 || at >= g.Tree() && at < g.FEC() || at >= manifest.LBA && at < g.DataBlocks {
			most = 2 // before the damage was met; a piece of 1 MiB or two may have been read ahead
		}
		if src.n[at] > most {
			t.Errorf("LBA %d was read %d times", at, src.n[at])
		}
	}
	src = &counting{Source: h.medium(), n: map[int64]int{}}
	_, err = Repair(t.Context(), Source{ReaderAt: src, Size: src.Size, Medium: true}, t.TempDir()+"/out", RepairOptions{})
	must(t, err)
	for at := range g.ImageBlocks() {
		if src.n[at] > 1 {
			t.Errorf("LBA %d was read %d times for a repair", at, src.n[at])
		}
	}
}

// TestMendAgain: a medium that goes on losing blocks while it is read is mended again, and not for ever.
func TestMendAgain(t *testing.T) {
	const apart = 1600 // blocks; more than is read ahead
	fsys := tall(5*apart + 100)
	img := signed(t, fsys, withRoots(24))
	for losses, code := range map[int]string{2: "none", 3: "none", 4: "damaged"} {
		var mu sync.Mutex
		lost := 0 // of the blocks apart, 2*apart, ...
		src := readerFunc(func(p []byte, off int64) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			n, err := bytes.NewReader(img).ReadAt(p, off)
			for i := 1; i <= lost; i++ {
				if at := int64(i)*apart*BlockSize - off; at >= 0 && at < int64(n) {
					p[at] ^= 1
				}
			}
			return n, err
		})
		lost = 1
		sink := sinkFunc(func(e *Entry, r io.Reader) error {
			if r == nil {
				return nil
			}
			buf := make([]byte, 64<<10)
			for at := 0; ; {
				n, err := r.Read(buf)
				if !bytes.Equal(buf[:n], fsys["f"].Data[at:at+n]) {
					t.Error("false data arrived")
				}
				if at += n; err == io.EOF {
					return nil
				} else if err != nil {
					return err
				}
				mu.Lock()
				if lost < losses && at/BlockSize > lost*apart {
					lost++
				}
				mu.Unlock()
			}
		})
		// A file isn't kept, so that it is read again.
		_, err := verify(Source{ReaderAt: src, Size: int64(len(img))}, VerifyOptions{Sink: sink})
		if codeOf(err) != code {
			t.Errorf("%d losses: %v, want %s", losses, err, code)
		}
	}
}

// TestMendLost: a drive that goes while its disc is being mended is a fault and no refusal.
func TestMendLost(t *testing.T) {
	img := signed(t, tall(600), withRoots(24))
	gone := errors.New("the drive is gone")
	for _, after := range []int{1, 3, 8, 12, 20} {
		reads := 0
		var mu sync.Mutex
		h := hurt(img, "unreadable", blockRange{100, 110})
		src := Source{Size: int64(len(img)), Medium: true, Gone: func(err error) bool { return errors.Is(err, gone) }}
		src.ReaderAt = readerFunc(func(p []byte, off int64) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			if reads++; reads > after {
				return 0, gone
			}
			return h.ReadAt(p, off)
		})
		_, err := verify(src, VerifyOptions{})
		if codeOf(err) != "" || !errors.Is(err, gone) {
			t.Errorf("gone after %d reads: %v, want a fault", after, err)
		}
		reads = 0
		folder := t.TempDir()
		_, err = Repair(t.Context(), src, folder+"/out", RepairOptions{})
		if codeOf(err) != "" || !errors.Is(err, gone) {
			t.Errorf("repair, gone after %d reads: %v, want a fault", after, err)
		}
		wantNames(t, folder)
	}
}

// TestRepairFile: a repaired file is the image, byte for byte; sources of other lengths, whole ones, ones without
// parity, ones whose beginning must be searched for; and who judges.
func TestRepairFile(t *testing.T) {
	img := signed(t, tall(1200), withRoots(24))
	g := geometryOf(t, img)
	plain := signed(t, tall(100), demo())
	far := append(bytes.Clone(img), make([]byte, 3000*BlockSize)...)
	judged := errors.New("not by my people")
	for _, c := range []struct {
		name  string
		src   Source
		judge error
		code  string
		want  []byte
	}{
		{"whole", fileSource(img), nil, "none", img},
		{"whole, a medium", mediumSource(append(bytes.Clone(img), make([]byte, 512)...)), nil, "none", img},
		{"whole, without parity", fileSource(plain), nil, "none", plain},
		{"damaged, without parity", hurt(plain, "garbage", one(60)).file(), nil, "damaged", nil},
		{"cut, without parity", fileSource(plain[:len(plain)-BlockSize]), nil, "wrong-size", nil},
		{"cut behind the tree", fileSource(img[:g.FEC()*BlockSize+700]), nil, "none", img},
		{"cut in the data", fileSource(img[:g.DataBlocks*BlockSize*9/10]), nil, "wrong-size", nil},
		{"longer", hurt(far, "garbage", blockRange{500, 520}).file(), nil, "none", img},
		{"no locator far from the end", hurt(far, "zeroed", blockRange{0, 20}).medium(), nil, "none", img},
		{"neither locator", hurt(far, "unreadable", one(0), one(g.LocatorCopy()), one(g.SealB())).medium(), nil, "none", img},
		{"not by whom it should be", fileSource(img), judged, "", nil},
		{"no bundle", fileSource(make([]byte, 5000*BlockSize)), nil, "not-a-bundle", nil},
		{"nothing", fileSource(nil), nil, "not-a-bundle", nil},
	} {
		folder := t.TempDir()
		path := folder + "/out"
		asked := 0
		_, err := Repair(t.Context(), c.src, path, RepairOptions{Judge: func(*Claims) error { asked++; return c.judge }})
		if codeOf(err) != c.code || c.judge != nil && !errors.Is(err, c.judge) {
			t.Errorf("%s: %v, want %q", c.name, err, c.code)
			continue
		}
		if c.want == nil {
			wantNames(t, folder)
			continue
		}
		got, err := os.ReadFile(path)
		must(t, err)
		if !bytes.Equal(got, c.want) || asked != 1 {
			t.Errorf("%s: the file differs at byte %d of %d; asked %d times", c.name, firstDifference(got, c.want), len(got), asked)
		}
	}
}

// TestRepairCancelled: at each step of the progress; nothing is left.
func TestRepairCancelled(t *testing.T) {
	img := signed(t, tall(1200), withRoots(24))
	g := geometryOf(t, img)
	for name, bad := range map[string][]blockRange{"data and tree": {{100, 130}, {g.Tree(), g.Tree() + 3}}, "parity": {{g.FEC(), g.FEC() + 9}}} {
		h := hurt(img, "garbage", bad...)
		for at := 1; ; at++ {
			ctx, cancel := context.WithCancelCause(t.Context())
			n := 0
			folder := t.TempDir()
			_, err := Repair(ctx, h.medium(), folder+"/out", RepairOptions{Progress: func(string, int64, int64) {
				if n++; n == at {
					cancel(errStopped)
				}
			}})
			cancel(nil)
			if n < at {
				must(t, err)
				break
			}
			if !errors.Is(err, errStopped) {
				t.Fatalf("%s, cancelled at step %d: %v", name, at, err)
			}
			wantNames(t, folder)
		}
	}
}

// TestRepairProgress: each step rises to its total.
func TestRepairProgress(t *testing.T) {
	img := signed(t, tall(1200), withRoots(24))
	h := hurt(img, "garbage", one(0), blockRange{100, 130})
	var steps []string
	var last, total int64
	_, err := Repair(t.Context(), h.medium(), t.TempDir()+"/out", RepairOptions{Progress: func(step string, done, all int64) {
		if len(steps) == 0 || steps[len(steps)-1] != step {
			steps, last, total = append(steps, step), 0, all
		}
		if done < last || done > all || all != total {
			t.Errorf("%s: %d of %d after %d of %d", step, done, all, last, total)
		}
		last = done
	}})
	must(t, err)
	if !slices.Contains(steps, "survey") || !slices.Contains(steps, "verify") {
		t.Errorf("steps %q", steps)
	}
}

// TestWrongParitySum: a signer's seal may be wrong about the parity. Data that are repaired are good all the same; an
// image as it should have been made can't be.
func TestWrongParitySum(t *testing.T) {
	fsys := tall(300)
	f := forge(t, signed(t, fsys, withRoots(8)))
	f.reseal = func(s *Seal) { s.FEC.SHA256 = strings.Repeat("ab", 32) }
	img := f.image(t)
	h := hurt(img, "garbage", blockRange{50, 53})
	var sink treeSink
	v, err := verify(h.medium(), VerifyOptions{Sink: &sink})
	must(t, err)
	sink.compare(t, fsys)
	if len(v.Notes()) != 1 || !strings.HasPrefix(v.Notes()[0], "parity-damaged: ") || v.Repaired().Data != 3 {
		t.Errorf("notes %q, repaired %+v", v.Notes(), v.Repaired())
	}
	_, err = Repair(t.Context(), h.medium(), t.TempDir()+"/out", RepairOptions{})
	wantCode(t, err, "damaged")
}

var _ verity.Area = overlayArea{}

// TestMendKeepsParity: whoever wants the payload mends no parity, and is told that it is damaged; Repair mends it.
func TestMendKeepsParity(t *testing.T) {
	img := signed(t, tall(600), withRoots(24))
	g := geometryOf(t, img)
	h := hurt(img, "garbage", one(99), blockRange{g.SealB() - 2, g.SealB()}) // of two columns
	v, err := verify(h.file(), VerifyOptions{})
	must(t, err)
	if r := v.Repaired(); r.Data != 1 || r.Parity != 0 || len(v.Notes()) != 1 || !strings.HasPrefix(v.Notes()[0], "parity-damaged: ") {
		t.Errorf("%+v was repaired, notes %q", r, v.Notes())
	}
	_, rep, err := repairedImage(h.file())
	if err != nil || rep.Parity != 2 {
		t.Errorf("repaired %+v, %v", rep, err)
	}
}

// TestRepairReplacesNothing: what has come to be at the path while the image was made stays.
func TestRepairReplacesNothing(t *testing.T) {
	img := signed(t, tall(300), withRoots(24))
	path := t.TempDir() + "/out"
	_, err := Repair(t.Context(), fileSource(img), path, RepairOptions{Judge: func(*Claims) error {
		return os.WriteFile(path, []byte("mine"), 0o644)
	}})
	if got, _ := os.ReadFile(path); !errors.Is(err, fs.ErrExist) || string(got) != "mine" {
		t.Errorf("%v, and there is %q", err, got)
	}
	// The same where a file must have a name from the beginning.
	for _, keep := range []bool{true, false} {
		out := &image{path: path, keep: keep}
		out.dir, err = os.Open(filepath.Dir(path))
		must(t, err)
		must(t, out.openNamed())
		err = out.commit()
		out.discard()
		if got, _ := os.ReadFile(path); errors.Is(err, fs.ErrExist) != keep || (string(got) == "mine") != keep {
			t.Errorf("named, keep %v: %v, and there is %q", keep, err, got)
		}
	}
	wantNames(t, filepath.Dir(path), "out")
}
