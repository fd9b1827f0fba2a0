package verity

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"
)

// fuzzDisc is a disc that the fuzzer damages copies of.
type fuzzDisc struct {
	data, tree []byte
	params     Params
	root       [DigestSize]byte
}

var fuzzDiscs sync.Map // by number of blocks

func discOf(t testing.TB, blocks int64) *fuzzDisc {
	if d, ok := fuzzDiscs.Load(blocks); ok {
		return d.(*fuzzDisc)
	}
	d := &fuzzDisc{data: testData(blocks, 8)}
	d.tree, d.params, d.root = makeTree(t, d.data, []byte("fuzz"))
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
