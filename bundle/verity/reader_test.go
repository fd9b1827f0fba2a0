package verity

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/iotest"
)

// openReader opens a reader over media that may lie.
func openReader(data, tree io.ReaderAt, p Params, root [DigestSize]byte) (*Reader, error) {
	t, err := OpenTree(tree, p, root)
	if err != nil {
		return nil, err
	}
	return NewReader(data, t), nil
}

func TestReaderContract(t *testing.T) {
	for _, blocks := range []int64{1, 2, 3} {
		data := testData(blocks, 1)
		tree, p, root := makeTree(t, data, []byte("s"))
		r, err := openReader(bytes.NewReader(data), bytes.NewReader(tree), p, root)
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(io.NewSectionReader(r, 0, r.Size()), data); err != nil {
			t.Errorf("%d blocks: %v", blocks, err)
		}
	}
}

// TestReaderAnyRange compares with bytes.Reader, n and error too.
func TestReaderAnyRange(t *testing.T) {
	const blocks = 2 * chunkBlocks
	data := testData(blocks, 1)
	tree, p, root := makeTree(t, data, []byte("s"))
	r, err := openReader(bytes.NewReader(data), bytes.NewReader(tree), p, root)
	if err != nil {
		t.Fatal(err)
	}
	if r.Size() != int64(len(data)) {
		t.Errorf("Size() = %d, want %d", r.Size(), len(data))
	}
	want := bytes.NewReader(data)
	check := func(off int64, n int) {
		a, b := bytes.Repeat([]byte{0xee}, n), bytes.Repeat([]byte{0xee}, n)
		ka, erra := r.ReadAt(a, off)
		kb, errb := want.ReadAt(b, off)
		if ka != kb || erra != errb || !bytes.Equal(a, b) {
			t.Errorf("%d bytes at %d: %d, %v; want %d, %v", n, off, ka, erra, kb, errb)
		}
	}
	size := int64(len(data))
	for _, off := range []int64{0, 1, BlockSize - 1, BlockSize, BlockSize + 1, 1<<20 - 1, 1 << 20, size - BlockSize, size - 1, size, size + 1, 1 << 62} {
		for _, n := range []int{0, 1, BlockSize - 1, BlockSize, BlockSize + 1, 3 * BlockSize, 1<<20 + 1, len(data), len(data) + 1} {
			check(off, n)
		}
	}
	rnd := rand.New(rand.NewPCG(4, 5))
	for range 100 {
		check(rnd.Int64N(size+10), rnd.IntN(3*BlockSize))
		check(rnd.Int64N(size+10), rnd.IntN(len(data)))
	}
	if n, err := r.ReadAt(make([]byte, 1), -1); n != 0 || err == nil || err == io.EOF {
		t.Errorf("at a negative offset: %d, %v", n, err)
	}
}

// TestReaderDamage changes one byte of the data or the tree.
func TestReaderDamage(t *testing.T) {
	const blocks = 64*64 + 70 // three levels: 66 leaves behind 2 blocks behind 1
	data := testData(blocks, 1)
	tree, p, root := makeTree(t, data, []byte("s"))
	if len(tree) != (1+2+66)*BlockSize {
		t.Fatalf("the tree has %d bytes", len(tree))
	}
	for _, tc := range []struct {
		name  string
		tree  bool
		block int64
		byte  int
		lba   int64 // the first data block that can't be read; -1: OpenTree fails
	}{
		{"first byte", false, 0, 0, 0},
		{"last byte", false, blocks - 1, BlockSize - 1, blocks - 1},
		{"a block", false, 777, 100, 777},
		{"block before a chunk's border", false, chunkBlocks - 1, 100, chunkBlocks - 1},
		{"block behind a chunk's border", false, chunkBlocks, 100, chunkBlocks},
		{"top", true, 0, 3, -1},
		{"padding of the top", true, 0, BlockSize - 1, -1},
		{"upper level", true, 1, 3, -1},
		{"padding of the upper level", true, 2, BlockSize - 1, -1},
		{"first leaf", true, 3, 0, 0},
		{"last leaf", true, 3 + 65, 0, 0}, // the batch is read in one piece
		{"padding of the last leaf", true, 3 + 65, BlockSize - 1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			badData, badTree := bytes.Clone(data), bytes.Clone(tree)
			if tc.tree {
				badTree[tc.block*BlockSize+int64(tc.byte)] ^= 1
			} else {
				badData[tc.block*BlockSize+int64(tc.byte)] ^= 1
			}
			check := func(what string, n int, err error, p []byte, off int64) {
				t.Helper()
				var damaged *DamagedError
				if !errors.As(err, &damaged) || damaged.Tree != tc.tree || damaged.Block != tc.block {
					t.Errorf("%s: error is %v, want a DamagedError for block %d, tree %v", what, err, tc.block, tc.tree)
				}
				if !bytes.Equal(p[:n], data[off:off+int64(n)]) {
					t.Errorf("%s: wrong bytes among the %d returned", what, n)
				}
				for i, b := range p[n:] {
					if b != 0 {
						t.Errorf("%s: unchecked byte %#x stands in the buffer behind the %d good ones, at %d", what, b, n, i)
						break
					}
				}
			}
			r, err := openReader(bytes.NewReader(badData), bytes.NewReader(badTree), p, root)
			if tc.lba < 0 {
				check("OpenTree", 0, err, nil, 0)
				return
			}
			if err != nil {
				t.Fatalf("OpenTree: %v", err)
			}
			buf := make([]byte, len(data))
			n, err := r.ReadAt(buf, 0)
			check("all", n, err, buf, 0)
			if int64(n) != tc.lba*BlockSize {
				t.Errorf("all: %d bytes are good, want %d", n, tc.lba*BlockSize)
			}
			// A byte in the damaged block, and across its border.
			buf = buf[:1]
			buf[0] = 0xee
			n, err = r.ReadAt(buf, tc.lba*BlockSize+5)
			check("one byte", n, err, buf, 0)
			if off := tc.lba*BlockSize - 3; off >= 0 {
				buf = bytes.Repeat([]byte{0xee}, 10)
				n, err = r.ReadAt(buf, off)
				check("across", n, err, buf, off)
				if n != 3 {
					t.Errorf("across: %d bytes are good, want 3", n)
				}
			}
		})
	}
}

// TestTreePadding wants zeros behind the last digest even where the root hash
// vouches for other bytes.
func TestTreePadding(t *testing.T) {
	for _, tc := range []struct {
		blocks int64
		last   int64 // hash block whose padding is found first, from the top
		open   bool  // OpenTree finds it
	}{
		{2, 0, false},
		{63, 0, false},
		{64*64 - 1, 64, false}, // only the leaves have padding
		{64 * 65, 0, true},     // the leaves have none
		{64*64 + 1, 0, true},
	} {
		data := testData(tc.blocks, 1)
		tree, root := plainTree(data, nil, 7)
		p := Params{DataBlocks: tc.blocks}
		r, err := openReader(bytes.NewReader(data), bytes.NewReader(tree), p, root)
		if !tc.open {
			if err != nil {
				t.Errorf("%d blocks: OpenTree: %v", tc.blocks, err)
				continue
			}
			_, err = r.ReadAt(make([]byte, 1), 0)
		}
		var damaged *DamagedError
		if !errors.As(err, &damaged) || !damaged.Tree || damaged.Block != tc.last || !errors.Is(err, errPadding) {
			t.Errorf("%d blocks: error is %v, want one about the padding of hash block %d", tc.blocks, err, tc.last)
		}
	}
}

func TestReaderWrongGeometry(t *testing.T) {
	const blocks = 200
	data := testData(blocks, 1)
	tree, p, root := makeTree(t, data, []byte("salt"))
	swapped := append(bytes.Clone(data[BlockSize:2*BlockSize]), data[:BlockSize]...)
	swapped = append(swapped, data[2*BlockSize:]...)
	for _, tc := range []struct {
		name string
		data []byte
		edit func(p *Params, root *[DigestSize]byte)
	}{
		{"root", data, func(_ *Params, root *[DigestSize]byte) { root[31] ^= 1 }},
		{"salt", data, func(p *Params, _ *[DigestSize]byte) { p.Salt = []byte("sale") }},
		{"no salt", data, func(p *Params, _ *[DigestSize]byte) { p.Salt = nil }},
		{"one block more", data, func(p *Params, _ *[DigestSize]byte) { p.DataBlocks++ }},
		{"a level more", data, func(p *Params, _ *[DigestSize]byte) { p.DataBlocks = 5000 }},
		{"a level less", data, func(p *Params, _ *[DigestSize]byte) { p.DataBlocks = 2 }},
		{"huge", data, func(p *Params, _ *[DigestSize]byte) { p.DataBlocks = MaxDataBlocks }},
		{"blocks swapped", swapped, func(*Params, *[DigestSize]byte) {}},
	} {
		p, root := p, root
		tc.edit(&p, &root)
		r, err := openReader(bytes.NewReader(tc.data), bytes.NewReader(tree), p, root)
		if err == nil {
			_, err = r.ReadAt(make([]byte, p.DataBlocks*BlockSize), 0)
		}
		if err == nil || err == io.EOF {
			t.Errorf("wrong %s: no error (%v)", tc.name, err)
		}
	}
}

// TestReaderTruncated cuts data and tree short at every block.
func TestReaderTruncated(t *testing.T) {
	const blocks = 64*64 + 70
	data := testData(blocks, 1)
	tree, p, root := makeTree(t, data, nil)
	for n := 0; n < len(tree); n += BlockSize / 2 {
		r, err := openReader(bytes.NewReader(data), bytes.NewReader(tree[:n]), p, root)
		if err == nil {
			_, err = r.ReadAt(make([]byte, 1), 0)
		}
		var read *ReadError
		if !errors.As(err, &read) || !read.Tree || read.Block != int64(n/BlockSize) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("tree of %d bytes: %v", n, err)
		}
	}
	buf := make([]byte, len(data))
	for n := 0; n < len(data); n += 331*BlockSize + 77 {
		r, err := openReader(bytes.NewReader(data[:n]), bytes.NewReader(tree), p, root)
		if err != nil {
			t.Fatal(err)
		}
		k, err := r.ReadAt(buf, 0)
		var read *ReadError
		if !errors.As(err, &read) || read.Tree || read.Block != int64(n/BlockSize) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("data of %d bytes: %v", n, err)
		}
		if k != n/BlockSize*BlockSize || !bytes.Equal(buf[:k], data[:k]) {
			t.Errorf("data of %d bytes: %d bytes good, want all whole blocks", n, k)
		}
	}
}

// TestReaderOddMedium reads through media that bend io.ReaderAt's contract.
func TestReaderOddMedium(t *testing.T) {
	const blocks = 700
	data := testData(blocks, 1)
	tree, p, root := makeTree(t, data, nil)
	errBad := errors.New("medium error 3/11/00")
	bend := func(b []byte, how func(n int) (int, error)) io.ReaderAt {
		return readerFunc(func(p []byte, off int64) (int, error) {
			want, err := how(len(p))
			if want < 0 || want > len(p) {
				return want, err
			}
			n, _ := bytes.NewReader(b).ReadAt(p[:want], off)
			return n, err
		})
	}
	for _, tc := range []struct {
		name string
		how  func(n int) (int, error)
		want error // nil: the data come out right
	}{
		{"short without an error", func(n int) (int, error) { return min(n, 1000), nil }, nil},
		{"one byte at a time", func(n int) (int, error) { return 1, nil }, nil},
		{"EOF with the last byte", func(n int) (int, error) { return n, io.EOF }, nil},
		{"nothing without an error", func(n int) (int, error) { return 0, nil }, io.ErrNoProgress},
		{"more than asked for", func(n int) (int, error) { return n + 1, nil }, errReader},
		{"less than nothing", func(n int) (int, error) { return -1, nil }, errReader},
		{"short with EOF", func(n int) (int, error) { return n - 1, io.EOF }, io.ErrUnexpectedEOF},
		{"an error", func(n int) (int, error) { return 0, errBad }, errBad},
		{"an error with all bytes", func(n int) (int, error) { return n, errBad }, errBad},
	} {
		for _, where := range []string{"data", "tree"} {
			d, tr := io.ReaderAt(bytes.NewReader(data)), io.ReaderAt(bytes.NewReader(tree))
			if where == "data" {
				d = bend(data, tc.how)
			} else {
				tr = bend(tree, tc.how)
			}
			buf := make([]byte, len(data))
			n := 0
			r, err := openReader(d, tr, p, root)
			if err == nil {
				n, err = r.ReadAt(buf, 0)
			}
			var read *ReadError
			if !errors.Is(err, tc.want) || err != nil && (!errors.As(err, &read) || read.Tree != (where == "tree")) {
				t.Errorf("%s, %s: %d, %v; want %v", where, tc.name, n, err, tc.want)
			}
			if !bytes.Equal(buf[:n], data[:n]) || err == nil && n != len(data) {
				t.Errorf("%s, %s: wrong data", where, tc.name)
			}
		}
	}
}

// TestReaderSecondAnswer is a medium that answers differently on later reads:
// what comes out is right or an error.
func TestReaderSecondAnswer(t *testing.T) {
	const blocks = 64*64 + 70
	data := testData(blocks, 1)
	tree, p, root := makeTree(t, data, nil)
	var reads sync.Map
	fickle := func(b []byte) io.ReaderAt {
		return readerFunc(func(p []byte, off int64) (int, error) {
			n, err := bytes.NewReader(b).ReadAt(p, off)
			for i := 0; i < n; i += BlockSize {
				if _, again := reads.LoadOrStore([2]int64{int64(len(b)), off + int64(i)}, true); again {
					p[i] ^= 1
				}
			}
			return n, err
		})
	}
	r, err := openReader(fickle(data), fickle(tree), p, root)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2*BlockSize)
	for lba := int64(0); lba < blocks; lba += 2 {
		if n, err := r.ReadAt(buf, lba*BlockSize); err != nil || !bytes.Equal(buf, data[lba*BlockSize:][:n]) {
			t.Fatalf("first read of block %d: %d, %v", lba, n, err)
		}
		n, err := r.ReadAt(buf, lba*BlockSize)
		var damaged *DamagedError
		if n != 0 || !errors.As(err, &damaged) || damaged.Block != lba {
			t.Fatalf("second read of block %d: %d, %v; want a DamagedError", lba, n, err)
		}
	}
}

// zeros is endless.
type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }

// TestLeafCache walks over more batches of leaves than are kept.
func TestLeafCache(t *testing.T) {
	const batches = leafBatches + 2
	p := Params{DataBlocks: batches * dataPerBatch, Salt: []byte("z")}
	var m memory
	w, err := NewTreeWriter(&m, p)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(w, io.NewSectionReader(zeros{}, 0, p.DataBlocks*BlockSize)); err != nil {
		t.Fatalf("after %d bytes: %v", n, err)
	}
	root, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	medium := count(bytes.NewReader(m.b))
	tree, err := OpenTree(medium, p, root)
	if err != nil {
		t.Fatal(err)
	}
	leaves := int(tree.levels[0].first)
	if len(medium.reads) != leaves {
		t.Errorf("OpenTree read %d blocks, want the %d above the leaves", len(medium.reads), leaves)
	}
	r := NewReader(zeros{}, tree)
	read := func(batch int64) error {
		n, err := r.ReadAt(make([]byte, 10), batch*dataPerBatch*BlockSize+5000)
		if err == nil && n != 10 {
			err = fmt.Errorf("%d bytes read", n)
		}
		return err
	}
	for batch := range int64(batches) {
		for range 2 { // the second comes from memory
			if err := read(batch); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := medium.once(int64(len(m.b) / BlockSize)); err != nil {
		t.Error(err)
	}
	if len(tree.cache) != leafBatches {
		t.Errorf("%d batches are kept, want %d", len(tree.cache), leafBatches)
	}
	// Batch 2 is the oldest kept; used now, it outlives 3 when 0 comes back.
	for _, step := range []struct {
		batch int64
		reads int // of its first block by then
	}{{2, 1}, {0, 2}, {2, 1}, {3, 2}} {
		if err := read(step.batch); err != nil {
			t.Fatal(err)
		}
		if got := medium.reads[int64(leaves)+step.batch*leafBatch]; got != step.reads {
			t.Errorf("batch %d was read %d times, want %d", step.batch, got, step.reads)
		}
	}
	// What was dropped is checked again when it comes back.
	m.b[(leaves+4*leafBatch+leafBatch-1)*BlockSize] ^= 1
	var damaged *DamagedError
	if err := read(4); !errors.As(err, &damaged) || !damaged.Tree {
		t.Errorf("changed behind our back: %v", err)
	}
}

// TestLeafFailureNotKept reads again after a failure that has passed.
func TestLeafFailureNotKept(t *testing.T) {
	data := testData(100, 1)
	tree, p, root := makeTree(t, data, nil)
	errBad := errors.New("medium error 3/11/00")
	fail := 0
	r, err := openReader(bytes.NewReader(data), readerFunc(func(p []byte, off int64) (int, error) {
		if off == BlockSize { // the leaves, behind the top
			fail++
			if fail == 1 {
				return 0, errBad
			}
			if fail == 2 {
				panic("driver")
			}
		}
		return bytes.NewReader(tree).ReadAt(p, off)
	}), p, root)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1)
	if _, err := r.ReadAt(buf, 0); !errors.Is(err, errBad) {
		t.Errorf("first read: %v", err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic of the medium is gone")
			}
		}()
		r.ReadAt(buf, 0)
	}()
	if _, err := r.ReadAt(buf, 0); err != nil || buf[0] != data[0] {
		t.Errorf("third read: %v", err)
	}
}

// TestReaderConcurrent is for the race detector, and counts: callers share one
// read of a leaf batch.
func TestReaderConcurrent(t *testing.T) {
	const blocks = 5000
	data := testData(blocks, 1)
	tree, p, root := makeTree(t, data, []byte("s"))
	medium := count(bytes.NewReader(tree))
	r, err := openReader(bytes.NewReader(data), medium, p, root)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range uint64(8) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(g, 1))
			buf := make([]byte, 300_000)
			for range 40 {
				off := rnd.Int64N(int64(len(data) - len(buf)))
				p := buf[:rnd.IntN(len(buf))]
				if n, err := r.ReadAt(p, off); err != nil || !bytes.Equal(p, data[off:off+int64(n)]) {
					t.Errorf("%d bytes at %d: %v", len(p), off, err)
				}
			}
		})
	}
	wg.Wait()
	if err := medium.once(int64(len(tree) / BlockSize)); err != nil {
		t.Error(err)
	}
}

// TestScattered computes parity over checked data in strips: each strip comes from all over the data, and yet the leaves
// are read about once, and not once a strip.
func TestScattered(t *testing.T) {
	p := Params{DataBlocks: 3 * leafBatches * dataPerBatch, Salt: []byte("z")} // more than is kept in long runs
	var m memory
	w, err := NewTreeWriter(&m, p)
	if err == nil {
		_, err = io.Copy(w, io.NewSectionReader(zeros{}, 0, p.DataBlocks*BlockSize))
	}
	if err != nil {
		t.Fatal(err)
	}
	root, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	medium := count(bytes.NewReader(m.b))
	tree, err := OpenTree(medium, p, root)
	if err != nil {
		t.Fatal(err)
	}
	tree.Scattered()
	r := NewReader(zeros{}, tree)
	const shards, strip = codeword - MinFECRoots, 15
	shard := p.DataBlocks / shards
	buf := make([]byte, strip*BlockSize)
	for at := int64(0); at+strip <= shard; at += 20 * strip { // some of the strips
		for j := range int64(shards) {
			if _, err := r.ReadAt(buf, (j*shard+at)*BlockSize); err != nil {
				t.Fatal(err)
			}
		}
	}
	for block, reads := range medium.reads {
		if reads > 3 { // a run may be shared by two shards, and come back for a strip over its border
			t.Fatalf("hash block %d was read %d times", block, reads)
		}
	}
	m.b[(int(tree.levels[0].first)+5)*BlockSize+100] ^= 1
	tree.cache = nil
	var damaged *DamagedError
	if _, err := r.ReadAt(buf, 5*digestsPerBlock*BlockSize); !errors.As(err, &damaged) || !damaged.Tree {
		t.Errorf("a damaged leaf: %v", err)
	}
}
