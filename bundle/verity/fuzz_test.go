package verity

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// fuzzDisc is a disc that the fuzzer damages copies of.
type fuzzDisc struct {
	data, tree []byte
	params     Params
	root       [DigestSize]byte
}

// fuzzDiscs are the latest discs by number of blocks. All that can be asked for would be more than a process gets.
var (
	fuzzDiscs   sync.Map
	fuzzDiscsIn atomic.Int32
)

func discOf(t testing.TB, blocks int64) *fuzzDisc {
	if d, ok := fuzzDiscs.Load(blocks); ok {
		return d.(*fuzzDisc)
	}
	d := &fuzzDisc{data: testData(blocks, 8)}
	d.tree, d.params, d.root = makeTree(t, d.data, []byte("fuzz"))
	if fuzzDiscsIn.Add(1) > 100 {
		fuzzDiscsIn.Store(0)
		fuzzDiscs.Clear()
	}
	fuzzDiscs.Store(blocks, d)
	return d
}

// FuzzReader reads from damaged media: XORs a pattern into data and tree, cuts
// them short, changes the geometry. What comes out is right, or an error of one
// of the two types; an untouched disc gives no error.
func FuzzReader(f *testing.F) {
	f.Add(uint16(1), uint32(0), []byte{}, uint32(1<<31), int64(0), uint32(0), uint16(10))
	f.Add(uint16(65), uint32(64*2048), []byte{1}, uint32(1<<31), int64(0), uint32(64*2048-5), uint16(10))
	f.Add(uint16(65), uint32(65*2048), []byte{1}, uint32(1<<31), int64(0), uint32(0), uint16(5000))
	f.Add(uint16(130), uint32(0), []byte{0}, uint32(131*2048), int64(0), uint32(0), uint16(1))
	f.Add(uint16(4097), uint32(4097*2048+100), []byte{0x80}, uint32(1<<31), int64(0), uint32(1), uint16(65535))
	f.Add(uint16(600), uint32(0), []byte{}, uint32(1<<31), int64(1), uint32(1), uint16(65535))
	f.Add(uint16(600), uint32(0), []byte{}, uint32(1<<31), int64(1)<<40, uint32(1), uint16(65535))
	f.Fuzz(func(t *testing.T, blocks uint16, at uint32, pattern []byte, cut uint32, grow int64, off uint32, n uint16) {
		d := discOf(t, int64(blocks%4200)+1)
		image := append(bytes.Clone(d.data), d.tree...)
		changed := false
		for i, b := range pattern {
			if p := int64(at) + int64(i); p < int64(len(image)) {
				image[p] ^= b
				changed = changed || b != 0
			}
		}
		image = image[:min(int64(cut), int64(len(image)))]
		data := image[:min(len(image), len(d.data))]
		tree := image[len(data):]
		p := d.params
		p.DataBlocks += grow
		intact := !changed && len(image) == len(d.data)+len(d.tree) && grow == 0

		r, err := openReader(bytes.NewReader(data), bytes.NewReader(tree), p, d.root)
		if err != nil {
			if intact {
				t.Fatalf("OpenTree refuses an intact tree: %v", err)
			}
			return
		}
		buf := make([]byte, n)
		k, err := r.ReadAt(buf, int64(off))
		checkFuzz(t, d, buf[:k], int64(off), err, intact)
		if err != nil && err != io.EOF && !bytes.Equal(buf[k:], make([]byte, len(buf)-k)) {
			t.Error("unchecked bytes stand in the buffer")
		}
		first := int64(off) / BlockSize
		s := r.Sequential(t.Context(), first, min(max(0, p.DataBlocks-first), int64(n)))
		defer s.Close()
		got, err := io.ReadAll(s)
		if first <= p.DataBlocks {
			checkFuzz(t, d, got, first*BlockSize, err, intact)
		}
	})
}

func checkFuzz(t *testing.T, d *fuzzDisc, got []byte, off int64, err error, intact bool) {
	t.Helper()
	if len(got) > 0 && (off+int64(len(got)) > int64(len(d.data)) || !bytes.Equal(got, d.data[off:off+int64(len(got))])) {
		t.Errorf("%d bytes at %d are not what the root hash stands for", len(got), off)
	}
	var damaged *DamagedError
	var read *ReadError
	switch {
	case err == nil || err == io.EOF:
	case intact:
		t.Errorf("an intact disc gives %v", err)
	case !errors.As(err, &damaged) && !errors.As(err, &read):
		t.Errorf("the error has no type: %v", err)
	}
}

// FuzzRepair damages a disc with parity: each three bytes of hits are the place,
// the length and the kind of damage. What comes out is the original, or a refusal.
func FuzzRepair(f *testing.F) {
	f.Add(uint16(0), uint8(24), []byte{})
	f.Add(uint16(64), uint8(24), []byte{0, 5, 0, 255, 9, 2})
	f.Add(uint16(300), uint8(8), []byte{250, 30, 1})
	f.Add(uint16(199), uint8(2), []byte{10, 1, 3, 100, 1, 0, 200, 2, 2})
	f.Add(uint16(299), uint8(17), []byte{240, 255, 6, 3, 12, 4})
	f.Fuzz(func(t *testing.T, blocks uint16, roots uint8, hits []byte) {
		kind := []string{"", "same"}[roots>>7]
		o := makeOriginal(t, int64(blocks%400)+1, int(roots)%(MaxFECRoots-MinFECRoots+1)+MinFECRoots, kind)
		d := o.disc()
		rnd := rand.New(rand.NewPCG(uint64(len(hits)), 9))
		for range 32 {
			if len(hits) < 3 {
				break
			}
			first := int64(hits[0]) * o.blocks() / 256
			for i := first; i < min(first+int64(hits[1]), o.blocks()); i++ {
				d.damage(i, int(hits[2])%kinds, rnd)
			}
			whole := hits[2]&0x40 != 0
			d.data.whole, d.tree.whole, d.fec.whole = whole, whole, whole
			hits = hits[3:]
		}
		d.repairedOrRefused(t, "damaged")
	})
}

// FuzzCorrector gives the decoder of single codewords any word: what it calls
// corrected has no syndromes, and within the code's reach it is the original.
func FuzzCorrector(f *testing.F) {
	f.Add(uint8(24), []byte{1, 2, 200, 9}, []byte{7})
	f.Add(uint8(2), []byte{254, 1}, []byte{})
	f.Add(uint8(3), []byte{}, []byte{0, 1, 2})
	f.Fuzz(func(t *testing.T, roots uint8, errs, erasures []byte) {
		r := int(roots)%(MaxFECRoots-MinFECRoots+1) + MinFECRoots
		var word [codeword]byte // the original is all zeros
		for ; len(errs) > 1; errs = errs[2:] {
			word[int(errs[0])%codeword] ^= errs[1]
		}
		known := map[int]bool{}
		var lost []int
		for _, e := range erasures[:min(len(erasures), codeword)] {
			if i := int(e) % codeword; !known[i] {
				known[i] = true
				lost = append(lost, i)
			}
		}
		cost := len(lost)
		for i, b := range word {
			if b != 0 && !known[i] {
				cost += 2
			}
		}
		matrix := parityMatrix(r)
		difference := bytes.Clone(word[codeword-r:])
		for p := range difference {
			for j, b := range word[:codeword-r] {
				difference[p] ^= gfMul(matrix[p][j], b)
			}
		}
		c := corrector{t: gf(), roots: r}
		places, values, ok := c.correct(difference, lost)
		if !ok {
			if cost <= r {
				t.Fatalf("%d roots: 2e + s = %d isn't corrected", r, cost)
			}
			return
		}
		for i, place := range places {
			word[place] ^= values[i]
		}
		if cost <= r && word != [codeword]byte{} {
			t.Fatalf("%d roots: 2e + s = %d gives another codeword", r, cost)
		}
		for p := range r {
			sum := word[codeword-r+p]
			for j, b := range word[:codeword-r] {
				sum ^= gfMul(matrix[p][j], b)
			}
			if sum != 0 {
				t.Fatal("what is called corrected is no codeword")
			}
		}
	})
}
