package verity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
)

// place is an Area in memory. Blocks in bad can't be read until written; whole
// makes a read that touches one give nothing at all.
type place struct {
	mu     sync.Mutex
	b      []byte
	bad    map[int64]bool
	whole  bool
	reads  int // that failed
	errOut error
}

var errMedium = errors.New("medium error 3/11/05")

func (a *place) ReadAt(p []byte, off int64) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if off%BlockSize != 0 || len(p)%BlockSize != 0 || off < 0 || off+int64(len(p)) > int64(len(a.b)) {
		panic(fmt.Sprintf("read of %d bytes at %d of an area of %d", len(p), off, len(a.b)))
	}
	for i := range int64(len(p) / BlockSize) {
		if a.bad[off/BlockSize+i] {
			a.reads++
			if a.whole {
				return 0, errMedium
			}
			return copy(p[:i*BlockSize], a.b[off:]), errMedium
		}
	}
	return copy(p, a.b[off:]), nil
}

func (a *place) WriteAt(p []byte, off int64) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if off%BlockSize != 0 || len(p)%BlockSize != 0 || off < 0 || off+int64(len(p)) > int64(len(a.b)) {
		panic(fmt.Sprintf("write of %d bytes at %d of an area of %d", len(p), off, len(a.b)))
	}
	if a.errOut != nil {
		return 0, a.errOut
	}
	for i := range int64(len(p) / BlockSize) {
		delete(a.bad, off/BlockSize+i)
	}
	return copy(a.b[off:], p), nil
}

// original is a protected area as it was made.
type original struct {
	data, tree, fec []byte
	p               Protected
	rounds          int64
}

var originals sync.Map // by data blocks, roots and kind

// makeOriginal returns data with tree and parity. With kind "same" all data
// blocks are equal.
func makeOriginal(t testing.TB, blocks int64, roots int, kind string) *original {
	t.Helper()
	key := fmt.Sprint(blocks, " ", roots, " ", kind)
	if o, ok := originals.Load(key); ok {
		return o.(*original)
	}
	o := &original{data: testData(blocks, 5)}
	if kind == "same" {
		o.data = bytes.Repeat([]byte{0x5a}, int(blocks*BlockSize))
	}
	salt := []byte("repair")
	tree, params, root := makeTree(t, o.data, salt)
	o.tree = tree
	var parity memory
	both := append(bytes.Clone(o.data), tree...)
	n := int64(len(both) / BlockSize)
	if err := EncodeFEC(context.Background(), bytes.NewReader(both), n, roots, &parity, nil); err != nil {
		t.Fatal(err)
	}
	o.fec = parity.b
	o.rounds, _ = FECRounds(n, roots)
	o.p = Protected{Params: params, Root: root, Roots: roots, ParitySum: sha256.Sum256(parity.b)}
	originals.Store(key, o)
	return o
}

// disc is a copy of an original that can be damaged.
type disc struct {
	o               *original
	data, tree, fec *place
}

func (o *original) disc() *disc {
	return &disc{o,
		&place{b: bytes.Clone(o.data), bad: map[int64]bool{}},
		&place{b: bytes.Clone(o.tree), bad: map[int64]bool{}},
		&place{b: bytes.Clone(o.fec), bad: map[int64]bool{}},
	}
}

// blocks counts all blocks, data, then tree, then parity.
func (o *original) blocks() int64 {
	return int64(len(o.data)+len(o.tree)+len(o.fec)) / BlockSize
}

// at returns where block i, counted through the three areas, is.
func (d *disc) at(i int64) (*place, int64) {
	for _, a := range []*place{d.data, d.tree} {
		if n := int64(len(a.b)) / BlockSize; i < n {
			return a, i
		} else {
			i -= n
		}
	}
	return d.fec, i
}

// damage kinds
const (
	zeroed = iota
	garbage
	unreadable
	flipped // a byte
	kinds
)

func (d *disc) damage(i int64, kind int, rnd *rand.Rand) {
	a, i := d.at(i)
	block := a.b[i*BlockSize:][:BlockSize]
	switch kind {
	case zeroed:
		clear(block)
	case garbage:
		for k := range block {
			block[k] = byte(rnd.Uint32())
		}
	case unreadable:
		a.bad[i] = true
		clear(block)
	case flipped:
		block[rnd.IntN(BlockSize)] ^= byte(1 + rnd.IntN(255))
	}
}

func (d *disc) protected() Protected {
	p := d.o.p
	p.Data, p.Tree, p.FEC = d.data, d.tree, d.fec
	return p
}

// same says where the disc differs from the original, or nil.
func (d *disc) same() error {
	for _, c := range []struct {
		name string
		got  *place
		want []byte
	}{{"data", d.data, d.o.data}, {"tree", d.tree, d.o.tree}, {"parity", d.fec, d.o.fec}} {
		if len(c.got.bad) > 0 {
			return fmt.Errorf("%s: %d blocks are still unreadable", c.name, len(c.got.bad))
		}
		if !bytes.Equal(c.got.b, c.want) {
			i := 0
			for c.got.b[i] == c.want[i] {
				i++
			}
			return fmt.Errorf("%s block %d, byte %d, is wrong", c.name, i/BlockSize, i%BlockSize)
		}
	}
	return nil
}

// repairs fails unless the disc is repaired whole.
func (d *disc) repairs(t testing.TB, what string) *RepairReport {
	t.Helper()
	report, err := Repair(t.Context(), d.protected(), nil)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return nil
	}
	if err := d.same(); err != nil {
		t.Errorf("%s: said to be repaired, but %v", what, err)
	}
	if report.Worst > d.o.p.Roots {
		t.Errorf("%s: worst codeword lost %d of %d", what, report.Worst, d.o.p.Roots)
	}
	return report
}

// repairedOrRefused fails when wrong bytes pass.
func (d *disc) repairedOrRefused(t testing.TB, what string) bool {
	t.Helper()
	_, err := Repair(t.Context(), d.protected(), nil)
	if err == nil {
		if err := d.same(); err != nil {
			t.Errorf("%s: said to be repaired, but %v", what, err)
		}
		return true
	}
	var beyond *UnrepairableError
	if !errors.As(err, &beyond) {
		t.Errorf("%s: %v", what, err)
	}
	return false
}

func abs(n int64) int64 { return max(n, -n) }

func TestRepairNothing(t *testing.T) {
	for _, blocks := range []int64{1, 2, 64, 65, 300, 4097} {
		d := makeOriginal(t, blocks, 24, "").disc()
		if r := d.repairs(t, fmt.Sprint(blocks, " blocks")); r != nil && *r != (RepairReport{}) {
			t.Errorf("%d blocks: %+v", blocks, *r)
		}
	}
}

// TestRepairBursts hits every position of small discs, and of larger ones those
// around the borders and some of the rest; SALLYPORT_BIG=1 takes all.
func TestRepairBursts(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, tc := range []struct {
		blocks int64
		roots  int
		kind   string
	}{{1, 24, ""}, {2, 2, ""}, {65, 24, ""}, {230, 17, ""}, {400, 24, "same"}, {600, 8, ""}, {300, 3, ""}} {
		o := makeOriginal(t, tc.blocks, tc.roots, tc.kind)
		data := int64(len(o.data)) / BlockSize
		tree := int64(len(o.tree)) / BlockSize
		for kind := range kinds {
			inData := o.rounds * int64(tc.roots)
			any := o.rounds * int64(tc.roots/2)
			step := int64(61)
			if tc.blocks < 3 || os.Getenv("SALLYPORT_BIG") != "" {
				step = 1
			}
			for first := int64(0); first < o.blocks(); first++ {
				near := min(abs(first-data), abs(first-data-tree), abs(first+any-data)) < 2
				if (first+int64(kind))%step != 0 && !near {
					continue
				}
				// As many as can be made good wherever they lie: inside data,
				// over data and tree, and from the tree on with data whole.
				n := int64(0)
				switch {
				case first >= data:
					n = o.blocks() - first
				case first+inData <= data:
					n = inData
				default:
					n = max(data-first, min(any, data+tree-first))
				}
				d := o.disc()
				d.data.whole, d.tree.whole, d.fec.whole = first%2 == 0, first%2 == 0, first%2 == 0
				for i := first; i < first+n; i++ {
					d.damage(i, kind, rnd)
				}
				d.repairs(t, fmt.Sprintf("%+v: %d blocks from %d on, kind %d", tc, n, first, kind))
				if t.Failed() {
					return
				}
			}
		}
	}
}

// TestRepairRandom damages at random, within what can be repaired and beyond.
func TestRepairRandom(t *testing.T) {
	seeds := 40
	if os.Getenv("SALLYPORT_BIG") != "" {
		seeds = 5000
	}
	repaired, refused := 0, 0
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 3))
		blocks := []int64{1, 64, 65, 300, 1000, 4200}[rnd.IntN(6)]
		roots := []int{2, 3, 8, 17, 24}[rnd.IntN(5)]
		o := makeOriginal(t, blocks, roots, []string{"", "same"}[rnd.IntN(2)])
		d := o.disc()
		d.data.whole, d.tree.whole, d.fec.whole = rnd.IntN(2) == 0, rnd.IntN(2) == 0, rnd.IntN(2) == 0
		for range 1 + rnd.IntN(3) {
			first := rnd.Int64N(o.blocks())
			n := rnd.Int64N(1 + o.blocks()/int64(1+rnd.IntN(20)))
			for i := first; i < min(first+n, o.blocks()); i++ {
				d.damage(i, rnd.IntN(kinds), rnd)
			}
		}
		share := rnd.IntN(8)
		for i := range o.blocks() {
			if rnd.IntN(100) < share {
				d.damage(i, rnd.IntN(kinds), rnd)
			}
		}
		if d.repairedOrRefused(t, fmt.Sprint("seed ", seed)) {
			repaired++
		} else {
			refused++
		}
	}
	t.Logf("%d repaired, %d refused", repaired, refused)
	if repaired < seeds/10 || refused < seeds/10 {
		t.Errorf("%d repaired, %d refused: the damage is all of one kind", repaired, refused)
	}
}
