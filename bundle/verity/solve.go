package verity

import (
	"bytes"
	"slices"

	"github.com/klauspost/reedsolomon"
)

// mostColumns columns with the same pattern of losses are solved together.
const mostColumns = 8

// solver is what one goroutine needs to solve columns.
type solver struct {
	r       *repairer
	t       *gfTables
	wide    reedsolomon.LowLevel
	columns [][]byte // of the parity matrix
	correct corrector
	hasher  *blockHasher

	leaf      int64 // whose digests are in leafBlock, or −1
	leafBlock [BlockSize]byte
	places    []int    // those that inverse belongs to
	inverse   [][]byte // of the first rows of the matrix at places
	values    [MaxFECRoots][]byte
	sum       []byte
}

func newSolver(r *repairer) *solver {
	w := &solver{
		r:       r,
		t:       gf(),
		columns: make([][]byte, r.shards),
		correct: corrector{t: gf(), roots: r.p.Roots},
		hasher:  newBlockHasher(slices.Clone(r.p.Params.Salt)),
		leaf:    -1,
		sum:     make([]byte, BlockSize),
	}
	for j := range w.columns {
		w.columns[j] = make([]byte, r.p.Roots)
		for p := range w.columns[j] {
			w.columns[j][p] = r.matrix[p][j]
		}
	}
	for i := range r.p.Roots {
		w.values[i] = make([]byte, mostColumns*BlockSize)
	}
	return w
}

// want returns the digest that block i must have, or nil if nothing vouches for
// one. It stays valid until the next call.
func (w *solver) want(i int64) []byte {
	r := w.r
	if i >= r.p.Params.DataBlocks {
		return r.treeDigest(r.place(i))
	}
	leaf := r.leafOf(i)
	if leaf < 0 {
		return r.p.Root[:]
	}
	if !r.good(leaf) {
		return nil
	}
	if w.leaf != leaf {
		w.leaf = -1
		_, b := r.place(leaf)
		if _, err := readFull(r.p.Tree, w.leafBlock[:], (leaf-r.p.Params.DataBlocks)*BlockSize); err != nil {
			return nil
		}
		if !bytes.Equal(w.hasher.sum(w.leafBlock[:]), r.treeDigest(0, b)) {
			return nil
		}
		w.leaf = leaf
	}
	return w.leafBlock[i%digestsPerBlock*DigestSize:][:DigestSize]
}

// solve computes, for the erasures at places, what has to be added to each; the
// differences are those of the first len(places) rows. The values stay valid
// until the next call.
func (w *solver) solve(places []int, difference func(p int) []byte) ([][]byte, bool) {
	n := len(places)
	if w.inverse == nil || !slices.Equal(places, w.places) {
		m := make([][]byte, n)
		for p := range m {
			m[p] = make([]byte, n)
			for i, j := range places {
				m[p][i] = w.r.matrix[p][j]
			}
		}
		w.inverse = w.t.invert(m)
		w.places = slices.Clone(places)
	}
	if w.inverse == nil && n > 0 {
		return nil, false
	}
	values := w.values[:n]
	for i := range values {
		for p := range n {
			d := difference(p)
			if p == 0 {
				values[i] = values[i][:len(d)]
				clear(values[i])
			}
			w.wide.GalMulSliceXor(w.inverse[i][p], d, values[i])
		}
	}
	return values, true
}

// solveKnown solves columns q to end−1, which have lost the same shards.
func (w *solver) solveKnown(d *decoder, s *strip, q, end int) error {
	places := s.lost(q, isLost)
	d.compare(s, len(places), q, end)
	values, ok := w.solve(places, func(p int) []byte { return d.row(s, p)[q*BlockSize : end*BlockSize] })
	for c := q; c < end; c++ {
		s.guess[c] = !ok
	}
	if !ok {
		return nil
	}
	for i, j := range places {
		for c := q; c < end; c++ {
			block := s.block(j, c)
			xor(block, values[i][(c-q)*BlockSize:][:BlockSize])
			if want := w.want(s.number(j, c)); want != nil && bytes.Equal(w.hasher.sum(block), want) {
				*s.at(j, c) |= isMended
			} else {
				s.guess[c] = true
			}
		}
	}
	return nil
}

func xor(dst, src []byte) {
	for i, b := range src {
		dst[i] ^= b
	}
}

// solution is what must be added to which shards of a column.
type solution struct {
	places  []int
	values  [][]byte
	nonzero int  // how many of them change anything
	sure    bool // a digest vouches for each
}

// solveUnknown solves column q by finding what is wrong. The decoder has set the
// differences of all rows.
func (w *solver) solveUnknown(d *decoder, s *strip, q int) {
	difference := make([][]byte, w.r.p.Roots)
	for p := range difference {
		difference[p] = d.row(s, p)[q*BlockSize:][:BlockSize]
	}
	// Blocks that seem to be lost can be whole, and lost blocks can be wrong in
	// a few bytes only: then they are worth less as erasures than they cost.
	erasures := [][]int{s.lost(q, isLost), s.certain(q), s.lost(q, isLost|isUnread)}
	erasures = slices.CompactFunc(erasures, slices.Equal)
	var best *solution
	for _, e := range erasures {
		found := w.locate(s, q, e, difference)
		if found == nil || !w.check(s, q, found) {
			continue
		}
		if best == nil || found.nonzero < best.nonzero {
			best = found
		}
		// Then there is no other that is as near.
		if found.sure || 2*found.nonzero <= w.r.p.Roots {
			break
		}
	}
	if best != nil && (best.sure || 2*best.nonzero <= w.r.p.Roots) {
		w.take(s, q, best)
		return
	}
	slices.Reverse(erasures)
	for _, e := range erasures {
		if w.singly(s, q, e, difference) {
			return
		}
	}
	if best != nil {
		w.take(s, q, best)
	}
}

// certain returns the shards of column q that are lost for sure.
func (s *strip) certain(q int) []int {
	var shards []int
	for j := range s.r.shards {
		if state := *s.at(j, q); state&isLost != 0 && (state&isOpen == 0 || state&isUnread != 0) {
			shards = append(shards, j)
		}
	}
	return shards
}

// samples codewords of a column are looked at first.
const samples = 64

// locate finds which blocks of a column are wrong, given that some are: the
// differences of all codewords lie in the space that the wrong blocks' columns
// of the parity matrix span, and as any roots columns are independent no other
// column lies in it as long as it isn't the whole space. So it finds up to
// roots−1 wrong blocks when what is wrong with them differs enough, and says nil
// otherwise.
func (w *solver) locate(s *strip, q int, erasures []int, difference [][]byte) *solution {
	roots := w.r.p.Roots
	if len(erasures) >= roots {
		return nil
	}
	space := &subspace{t: w.t}
	for _, j := range erasures {
		space.add(w.columns[j])
	}
	vector := make([]byte, roots)
	add := func(i int) {
		for p := range vector {
			vector[p] = difference[p][i]
		}
		space.add(vector)
	}
	for i := range samples {
		if space.dim < roots {
			add(i*(BlockSize/samples) + i%(BlockSize/samples))
		}
	}
	for whole := false; space.dim < roots; {
		places := make([]int, 0, space.dim)
		for j := range w.columns {
			if *s.at(j, q)&isPadding == 0 && space.has(w.columns[j]) {
				places = append(places, j)
			}
		}
		if len(places) != space.dim {
			if whole {
				return nil
			}
			for i := 0; i < BlockSize && space.dim < roots; i++ {
				add(i)
			}
			whole = true
			continue
		}
		values, ok := w.solve(places, func(p int) []byte { return difference[p] })
		if !ok {
			return nil
		}
		bad := w.contradiction(places, values, difference)
		if bad < 0 {
			return newSolution(places, values)
		}
		add(bad)
	}
	return nil
}

// contradiction returns the first codeword of which a row not used for solving
// disagrees, or −1.
func (w *solver) contradiction(places []int, values, difference [][]byte) int {
	for p := len(places); p < w.r.p.Roots; p++ {
		copy(w.sum, difference[p])
		for i, j := range places {
			w.wide.GalMulSliceXor(w.r.matrix[p][j], values[i], w.sum)
		}
		for i, b := range w.sum {
			if b != 0 {
				return i
			}
		}
	}
	return -1
}

func newSolution(places []int, values [][]byte) *solution {
	f := &solution{places: places}
	for _, v := range values {
		f.values = append(f.values, bytes.Clone(v))
		if !zero(v) {
			f.nonzero++
		}
	}
	return f
}

func zero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// check reports whether the solution agrees with all digests there are, and sets
// its sure.
func (w *solver) check(s *strip, q int, f *solution) bool {
	f.sure = true
	block := make([]byte, BlockSize)
	for i, j := range f.places {
		want := w.want(s.number(j, q))
		if want == nil {
			f.sure = false
			continue
		}
		copy(block, s.block(j, q))
		xor(block, f.values[i])
		if !bytes.Equal(w.hasher.sum(block), want) {
			return false
		}
	}
	return true
}

// take puts the solution, which check agrees with, into the strip.
func (w *solver) take(s *strip, q int, f *solution) {
	for i, j := range f.places {
		state := s.at(j, q)
		if zero(f.values[i]) && *state&isUnread == 0 && (*state&isLost == 0 || *state&isOpen != 0) {
			continue
		}
		xor(s.block(j, q), f.values[i])
		if w.want(s.number(j, q)) != nil {
			*state |= isMended
		} else {
			*state |= isGuessed
		}
		if *state&isLost == 0 {
			*state |= isLocated
		}
	}
}

// singly corrects each codeword of a column for itself, and puts what it makes
// into the strip as far as a digest vouches for it, or, if all codewords could
// be corrected, nothing speaks against it. It reports whether it got them all.
func (w *solver) singly(s *strip, q int, erasures []int, difference [][]byte) bool {
	if len(erasures) > w.r.p.Roots {
		return false
	}
	vector := make([]byte, w.r.p.Roots)
	correct := func(i int) ([]int, []byte, bool) {
		for p := range vector {
			vector[p] = difference[p][i]
		}
		return w.correct.correct(vector, erasures)
	}
	// Damage to whole blocks shows everywhere.
	hope := false
	for i := 0; i < BlockSize && !hope; i += BlockSize / samples {
		_, _, hope = correct(i)
	}
	if !hope {
		return false
	}
	found := make([][]byte, w.r.shards)
	for _, j := range erasures {
		found[j] = make([]byte, BlockSize)
	}
	all, worst := true, 0
	for i := range BlockSize {
		places, values, ok := correct(i)
		if !ok {
			all = false
			continue
		}
		worst = max(worst, len(places))
		for e, j := range places {
			switch {
			case j >= w.r.shards: // parity is mended later
				continue
			case *s.at(j, q)&isPadding != 0:
				all = false
				continue
			case found[j] == nil:
				found[j] = make([]byte, BlockSize)
			}
			found[j][i] = values[e]
		}
	}
	var f solution
	for j, v := range found {
		if v != nil {
			f.places, f.values = append(f.places, j), append(f.values, v)
		}
	}
	if all && w.check(s, q, &f) {
		w.take(s, q, &f)
	} else {
		all = false
		w.takeVouched(s, q, &f)
	}
	for _, j := range f.places {
		if state := s.at(j, q); *state&(isMended|isGuessed) != 0 {
			*state |= isSingly
			s.worst[q] = worst
		}
	}
	return all
}

// takeVouched puts those parts of the solution into the strip that a digest
// vouches for.
func (w *solver) takeVouched(s *strip, q int, f *solution) {
	block := make([]byte, BlockSize)
	for i, j := range f.places {
		want := w.want(s.number(j, q))
		copy(block, s.block(j, q))
		xor(block, f.values[i])
		if want == nil || !bytes.Equal(w.hasher.sum(block), want) {
			continue
		}
		copy(s.block(j, q), block)
		clear(f.values[i])
		*s.at(j, q) |= isMended
		if *s.at(j, q)&isLost == 0 {
			*s.at(j, q) |= isLocated
		}
	}
}
