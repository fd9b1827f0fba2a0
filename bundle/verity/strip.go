package verity

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/klauspost/reedsolomon"
)

// A column is the blocks whose bytes are the same codewords: block number c of
// every shard, and roots blocks of parity. A strip is some columns on their way
// through the decoder, block (j, q) being shard j's in column cols[q].
type strip struct {
	r      *repairer
	cols   []int64
	in     []byte // the blocks, shard by shard
	parity []byte // the columns' parity blocks, column by column
	state  []blockState
	lacks  []bool // parity blocks that the medium doesn't give
	dead   []bool // columns that have such
	guess  []bool // columns that can't be solved from known places
	judges bool   // the parity read is compared with what it should be
	worst  []int  // symbols that a codeword of the column had lost, where that isn't a matter of blocks
	gaps   []gap  // of parity, newly found: blocks of the parity area
}

type blockState uint16

const (
	isLost    blockState = 1 << iota // an erasure
	isUnread                         // not given by the medium; zeros here
	isOpen                           // not vouched for
	isFresh                          // isUnread is news
	isPadding                        // behind the last protected block: zeros
	isMended                         // mended here, and what it was made to be
	isGuessed                        // mended here, with nothing to vouch for it
	isLocated                        // found to be wrong by decoding only
	isSingly                         // mended codeword by codeword
)

// stripColumns is the number of columns for which strips take about r.memory
// bytes: two of data and parity, and one of parity as encoded.
func (r *repairer) stripColumns() int {
	perColumn := (2*codeword + r.p.Roots) * BlockSize
	return int(max(1, min(r.rounds, int64(r.memory/perColumn))))
}

func (r *repairer) newStrip(columns int) *strip {
	return &strip{
		r:      r,
		cols:   make([]int64, 0, columns),
		in:     make([]byte, r.shards*columns*BlockSize),
		parity: make([]byte, r.p.Roots*columns*BlockSize),
		state:  make([]blockState, r.shards*columns),
		lacks:  make([]bool, r.p.Roots*columns),
		dead:   make([]bool, columns),
		guess:  make([]bool, columns),
		worst:  make([]int, columns),
	}
}

// shard returns the blocks of shard j.
func (s *strip) shard(j int) []byte {
	n := len(s.cols) * BlockSize
	return s.in[j*n : (j+1)*n]
}

func (s *strip) block(j, q int) []byte {
	return s.in[(j*len(s.cols)+q)*BlockSize:][:BlockSize]
}

func (s *strip) at(j, q int) *blockState { return &s.state[j*len(s.cols)+q] }

// number returns the protected block at (j, q).
func (s *strip) number(j, q int) int64 { return int64(j)*s.r.rounds + s.cols[q] }

// plan takes the next columns from the set and looks up what is known about
// their blocks. It reports whether there are any.
func (s *strip) plan(columns *bitset, from *int64) bool {
	r := s.r
	s.cols, s.gaps = s.cols[:0], s.gaps[:0]
	for len(s.cols) < cap(s.cols) {
		c := columns.next(*from, r.rounds)
		if c == r.rounds {
			break
		}
		s.cols = append(s.cols, c)
		*from = c + 1
	}
	for q, c := range s.cols {
		s.dead[q], s.guess[q], s.worst[q] = false, false, 0
		for j := range r.shards {
			i := int64(j)*r.rounds + c
			var state blockState
			switch {
			case i >= r.blocks:
				state = isPadding
			default:
				if r.lost.has(i) {
					state |= isLost
				}
				if r.unread.has(i) {
					state |= isUnread
				}
				if r.open.has(i) {
					state |= isOpen
				}
			}
			*s.at(j, q) = state
		}
		for b := range r.p.Roots {
			lacks := r.parityUnread.has(c*int64(r.p.Roots) + int64(b))
			s.lacks[q*r.p.Roots+b] = lacks
			s.dead[q] = s.dead[q] || lacks
		}
	}
	return len(s.cols) > 0
}

// fill reads the strip from the medium, but for what is known to be unreadable.
func (s *strip) fill() {
	for j := range s.r.shards {
		for q := 0; q < len(s.cols); {
			if state := *s.at(j, q); state&(isUnread|isPadding) != 0 {
				clear(s.block(j, q))
				q++
				continue
			}
			end := q + 1
			for end < len(s.cols) && s.cols[end] == s.cols[end-1]+1 && *s.at(j, end)&(isUnread|isPadding) == 0 {
				end++
			}
			s.readRun(j, q, end)
			q = end
		}
	}
	s.readParity()
}

// readRun reads blocks (j, q) to (j, end−1), which are consecutive.
func (s *strip) readRun(j, q, end int) {
	r, data := s.r, s.r.p.Params.DataBlocks
	first := s.number(j, q)
	if first < data && first+int64(end-q) > data {
		mid := q + int(data-first)
		s.readRun(j, q, mid)
		q, first = mid, data
	}
	g := gentle{r: again(r.p.Data), end: data, exact: true}
	if first >= data {
		g.r, g.end = again(r.p.Tree), r.blocks-data
		first -= data
	}
	buf := s.in[(j*len(s.cols)+q)*BlockSize:][:(end-q)*BlockSize]
	for _, gap := range g.read(r.ctx, buf, first, nil) {
		for i := gap.lo; i < gap.hi; i++ {
			*s.at(j, q+int(i)) |= isUnread | isLost | isFresh
		}
	}
}

func (s *strip) readParity() {
	r, per := s.r, s.r.p.Roots
	g := gentle{r: r.p.FEC, end: r.rounds * int64(per), exact: true}
	if !s.judges {
		g.r = again(r.p.FEC)
	}
	n := len(s.cols) * per
	number := func(i int) int64 { return s.cols[i/per]*int64(per) + int64(i%per) }
	for i := 0; i < n; {
		if s.lacks[i] {
			clear(s.parity[i*BlockSize:][:BlockSize])
			i++
			continue
		}
		end := i + 1
		for end < n && !s.lacks[end] && number(end) == number(end-1)+1 {
			end++
		}
		first := number(i)
		for _, lack := range g.read(r.ctx, s.parity[i*BlockSize:end*BlockSize], first, nil) {
			for b := lack.lo; b < lack.hi; b++ {
				s.lacks[i+int(b)] = true
				s.dead[(i+int(b))/per] = true
			}
			s.gaps = append(s.gaps, gap{lo: first + lack.lo, hi: first + lack.hi})
		}
		i = end
	}
}

// encoder returns, and keeps, the encoder of the first rows of parity.
func (d *decoder) encoder(rows int) (reedsolomon.Encoder, error) {
	if d.encoders[rows] == nil {
		e, err := reedsolomon.New(d.r.shards, rows,
			reedsolomon.WithCustomMatrix(d.r.matrix[:rows]),
			reedsolomon.WithInversionCache(false))
		if err != nil {
			return nil, fmt.Errorf("set up parity encoder: %w", err)
		}
		d.encoders[rows] = e
	}
	return d.encoders[rows], nil
}

// decoder holds the buffers of the strips.
type decoder struct {
	r        *repairer
	strips   [2]*strip
	encoders [MaxFECRoots + 1]reedsolomon.Encoder
	encoded  []byte
	slices   [][]byte
	workers  sync.Pool
}

func (r *repairer) newDecoder() *decoder {
	n := r.stripColumns()
	d := &decoder{
		r:       r,
		strips:  [2]*strip{r.newStrip(n), r.newStrip(n)},
		encoded: make([]byte, r.p.Roots*n*BlockSize),
	}
	d.workers.New = func() any { return newSolver(r) }
	return d
}

// encode computes the first rows of parity over the strip as it is. Row p is
// d.row(s, p).
func (d *decoder) encode(s *strip, rows int) error {
	e, err := d.encoder(rows)
	if err != nil {
		return err
	}
	d.slices = d.slices[:0]
	for j := range d.r.shards {
		d.slices = append(d.slices, s.shard(j))
	}
	for p := range rows {
		d.slices = append(d.slices, d.row(s, p))
	}
	return e.Encode(d.slices)
}

func (d *decoder) row(s *strip, p int) []byte {
	n := len(s.cols) * BlockSize
	return d.encoded[p*n : (p+1)*n]
}

// compare makes of the rows of columns [q, end) their difference from the parity
// as stored.
func (d *decoder) compare(s *strip, rows, q, end int) {
	roots := d.r.p.Roots
	stored := s.parity[q*roots*BlockSize : end*roots*BlockSize]
	for p := range rows {
		row := d.row(s, p)[q*BlockSize : end*BlockSize]
		at := p
		for i := range row {
			row[i] ^= stored[at]
			at += roots
		}
	}
}

// decode mends what it can in the columns: first from known places, then those
// columns where that isn't possible, or turned out wrong, by finding them. It
// reports whether it mended anything.
func (r *repairer) decode(columns *bitset) (progress bool, err error) {
	if r.decoder == nil {
		r.decoder = r.newDecoder()
	}
	d := r.decoder
	again := newBitset(r.rounds)
	run := func(step string, columns *bitset, solve func(s *strip) error) error {
		var from, done int64
		err := ahead(d.strips,
			func(s *strip) bool { return s.plan(columns, &from) },
			(*strip).fill,
			func(s *strip) error {
				if r.ctx.Err() != nil {
					return r.ctx.Err()
				}
				if err := solve(s); err != nil {
					return err
				}
				any, err := s.apply()
				progress = progress || any
				for q, c := range s.cols {
					if s.guess[q] {
						again.add(c)
					}
				}
				done += int64(len(s.cols))
				r.progress(step, done*int64(r.shards), columns.count*int64(r.shards))
				return err
			})
		return err
	}
	if err := run("decode", columns, d.solveKnown); err != nil || again.count == 0 {
		return progress, err
	}
	columns, again = again, newBitset(r.rounds)
	return progress, run("locate", columns, d.solveUnknown)
}

// solveKnown solves the columns from the places that are known to be lost. Where
// that isn't possible guess is set.
func (d *decoder) solveKnown(s *strip) error {
	rows := 0
	type job struct{ q, end int }
	var jobs []job
	for q := 0; q < len(s.cols); {
		lost := s.lost(q, isLost)
		if len(lost) > d.r.p.Roots || !s.decided(q, lost) {
			s.guess[q] = true
			q++
			continue
		}
		end := q + 1
		for end < len(s.cols) && end-q < mostColumns && s.dead[q] == s.dead[end] && s.sameLost(q, end) && s.decided(end, lost) {
			end++
		}
		if len(lost) > 0 && !s.dead[q] {
			rows = max(rows, len(lost))
			jobs = append(jobs, job{q, end})
		}
		q = end
	}
	if len(jobs) == 0 {
		return nil
	}
	if err := d.encode(s, rows); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	return d.each(len(jobs), func(w *solver, i int) error {
		return w.solveKnown(d, s, jobs[i].q, jobs[i].end)
	})
}

// solveUnknown solves the columns by finding the places of the errors.
func (d *decoder) solveUnknown(s *strip) error {
	clear(s.guess)
	roots := d.r.p.Roots
	if err := d.encode(s, roots); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	return d.each(len(s.cols), func(w *solver, q int) error {
		if !s.dead[q] {
			d.compare(s, roots, q, q+1)
			w.solveUnknown(d, s, q)
		}
		return nil
	})
}

// each calls do for 0 to n−1 on all cores.
func (d *decoder) each(n int, do func(w *solver, i int) error) error {
	var at atomic.Int64
	var mu sync.Mutex
	var first error
	parallel(n, 1, func(lo, hi int) {
		if lo == hi {
			return
		}
		w := d.workers.Get().(*solver)
		defer d.workers.Put(w)
		w.leaf = -1 // what was read before may have been mended since
		for {
			i := int(at.Add(1)) - 1
			if i >= n {
				return
			}
			if err := do(w, i); err != nil {
				mu.Lock()
				first = errors.Join(first, err)
				mu.Unlock()
				return
			}
		}
	})
	return first
}

// lost returns the shards that have all the states in column q.
func (s *strip) lost(q int, states blockState) []int {
	var shards []int
	for j := range s.r.shards {
		if *s.at(j, q)&states == states {
			shards = append(shards, j)
		}
	}
	return shards
}

func (s *strip) sameLost(a, b int) bool {
	for j := range s.r.shards {
		if (*s.at(j, a)^*s.at(j, b))&isLost != 0 {
			return false
		}
	}
	return true
}

// decided reports whether a digest vouches for each of the lost blocks of a
// column.
func (s *strip) decided(q int, lost []int) bool {
	for _, j := range lost {
		if !s.r.vouched(s.number(j, q)) {
			return false
		}
	}
	return true
}

// vouched reports whether the digest of block i is known.
func (r *repairer) vouched(i int64) bool {
	if i < r.p.Params.DataBlocks {
		leaf := r.leafOf(i)
		return leaf < 0 || r.good(leaf)
	}
	l, b := r.place(i)
	return r.treeDigest(l, b) != nil
}

// apply writes what was mended in the strip and takes down what became known.
func (s *strip) apply() (progress bool, err error) {
	r := s.r
	for j := range r.shards {
		for q := 0; q < len(s.cols); {
			if *s.at(j, q)&isFresh != 0 {
				i := s.number(j, q)
				r.unread.add(i)
				r.lost.add(i)
			}
			if *s.at(j, q)&(isMended|isGuessed) == 0 {
				q++
				continue
			}
			end := q + 1
			for end < len(s.cols) && s.cols[end] == s.cols[end-1]+1 && s.number(j, end) != r.p.Params.DataBlocks &&
				*s.at(j, end)&(isMended|isGuessed) != 0 && *s.at(j, end)&isFresh == 0 {
				end++
			}
			if err := r.writeBlocks(s.in[(j*len(s.cols)+q)*BlockSize:][:(end-q)*BlockSize], s.number(j, q)); err != nil {
				return progress, err
			}
			progress = true
			for ; q < end; q++ {
				state := *s.at(j, q)
				i := s.number(j, q)
				r.mend(i, state&isMended != 0, state&isLocated != 0)
				if len(r.levels) > 0 && i >= r.block(0, 0) {
					r.open.add(i) // until the data under it are judged
				}
				if state&isSingly == 0 {
					r.decoded.add(i)
				}
			}
		}
	}
	s.takeGaps()
	for _, n := range s.worst[:len(s.cols)] {
		r.report.Worst = max(r.report.Worst, n)
	}
	return progress, nil
}

// takeGaps takes down which parity blocks couldn't be read.
func (s *strip) takeGaps() {
	for _, lack := range s.gaps {
		for i := lack.lo; i < lack.hi; i++ {
			s.r.parityUnread.add(i)
		}
	}
}
