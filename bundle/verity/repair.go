package verity

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Area is a part of an image that is read, and mended in place. Offset 0 is its
// first block; [Repair] reads and writes whole blocks within the area only. What
// was written is what reads give from then on. ReadAt and WriteAt are called
// from several goroutines at once.
type Area interface {
	io.ReaderAt
	io.WriterAt
}

// SecondReader is an [Area] that gives blocks a second time for less. ReadAgainAt
// is read instead of ReadAt where nothing is judged by what it gives: to decode.
type SecondReader interface {
	ReadAgainAt(p []byte, off int64) (n int, err error)
}

type readerAtFunc func(p []byte, off int64) (int, error)

func (f readerAtFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// again is where a is read to decode.
func again(a Area) io.ReaderAt {
	if s, ok := a.(SecondReader); ok {
		return readerAtFunc(s.ReadAgainAt)
	}
	return a
}

// Protected is a data area with its hash tree and parity, and what a trusted
// source says about them.
type Protected struct {
	Params    Params           // its UUID isn't used
	Root      [DigestSize]byte // the root hash: the only judge of data and tree
	Roots     int              // parity symbols in a codeword, MinFECRoots to MaxFECRoots
	ParitySum [DigestSize]byte // SHA-256 of the whole parity area
	Data      Area             // Params.DataBlocks blocks
	Tree      Area             // the tree without superblock, [TreeBlocks] blocks
	FEC       Area             // the parity, [FECBlocks] blocks
	// KeepParity leaves damaged parity as it is: it is used, but neither
	// mended nor compared with ParitySum.
	KeepParity bool
}

// RepairReport says what [Repair] did. Blocks count as repaired when they were
// unreadable, or other than they should be.
type RepairReport struct {
	Data   int64 // data blocks repaired
	Tree   int64 // hash blocks repaired
	Parity int64 // parity blocks repaired
	// Unreadable counts those of the repaired blocks that the medium didn't give.
	Unreadable int64
	// Worst is the number of symbols that parity had to make good in the
	// codeword hit worst, lost parity symbols included, of the Roots that it can.
	Worst int
	// Located counts the data and hash blocks that were found by decoding with
	// unknown places of the errors, not by the tree.
	Located int64
}

// UnrepairableError says that more is damaged than parity can make good.
type UnrepairableError struct {
	// Worst is the number of symbols that the codeword hit worst is known to
	// have lost. It is at most Roots when the damage is there but its place
	// can't be told, because the tree or the parity that would tell is lost too.
	Worst int
	Roots int   // symbols a codeword can lose
	Tree  bool  // Block is a hash block
	Block int64 // the first block that can't be made good: LBA of the data block, or hash block counted from behind the superblock
}

func (e *UnrepairableError) Error() string {
	if e.Worst > e.Roots {
		return fmt.Sprintf("repair %s block %d: the worst codeword lost %d symbols, %d can be made good", area(e.Tree), e.Block, e.Worst, e.Roots)
	}
	return fmt.Sprintf("repair %s block %d: more is damaged than can be located (%d symbols of a codeword are known to be lost, %d could be made good)", area(e.Tree), e.Block, e.Worst, e.Roots)
}

// ErrParitySum is returned when data and tree are what the root hash says but
// the parity made from them isn't what Protected.ParitySum says: whoever said so
// was wrong.
var ErrParitySum = errors.New("repair parity: the sha-256 of the parity made from repaired data and tree is not the one promised")

// Repair finds what is damaged in data, tree and parity, and mends it in place.
// What it writes over data and tree is checked against the root hash, and what
// it writes over parity against ParitySum, so that success means that every
// byte of the three areas is what it was made to be (but for nonzero padding
// behind a hash block's last digest that the root hash vouches for: [OpenTree]
// refuses it). Each block is read once to find the damage, in large pieces in
// ascending order but for the leaves; then the columns that need it are decoded.
// It takes about 64 MiB of memory whatever the size, and 1/4,096 of the data
// for the upper levels of the tree.
//
// progress, unless nil, is called from the caller's goroutine with what is being
// done ("survey", "check", "decode", "locate" or "parity") and how many of how
// many blocks of that are done.
//
// When it returns, with whatever error, the areas are idle. Errors:
// [*UnrepairableError]; [ErrParitySum], with a report, when data and tree are
// good and only the parity isn't; what an area's WriteAt says; the cause
// when ctx is cancelled; or p isn't valid. After an error the areas may be
// mended in part, and blocks that nothing vouches for may have changed. A read
// that fails isn't an error, it is damage.
func Repair(ctx context.Context, p Protected, progress func(step string, done, total int64)) (*RepairReport, error) {
	r, err := newRepairer(ctx, p, progress, repairMemory)
	if err != nil {
		return nil, err
	}
	if err := r.run(); errors.Is(err, ErrParitySum) {
		return &r.report, err
	} else if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("repair: %w", context.Cause(ctx))
		}
		return nil, err
	}
	return &r.report, nil
}

// repairMemory is about what the strips take, in bytes.
const repairMemory = 48 << 20

// repairer holds what one Repair knows. A protected block is counted through
// data and tree, in the order in which parity takes them.
type repairer struct {
	ctx      context.Context
	p        Protected
	progress func(step string, done, total int64)
	memory   int
	hash     *checker

	levels []level // leaves first
	blocks int64   // data and tree
	rounds int64   // columns
	shards int     // data symbols of a codeword
	matrix [][]byte

	// lost blocks are wrong, or, where they are also open, probably wrong.
	lost *bitset
	// open blocks aren't vouched for: what the tree says about them is itself
	// open or lost.
	open *bitset
	// unread blocks are those of lost that the medium doesn't give, and skipped
	// those of unread that were inferred to be so.
	unread, skipped *bitset
	// the same for parity
	parityUnread, paritySkipped *bitset
	paritySum                   [DigestSize]byte // as read
	exact                       bool             // read every block, skip nothing

	// upper holds the levels above the leaves as they are on the medium or
	// mended; upper[0] is nil.
	upper [][]byte
	// digests holds, for each level, the best guess at its blocks' digests; for
	// the leaves only once a level above needs them.
	digests [][]byte

	mended  *bitset // counted in the report
	decoded *bitset // as whole blocks, for report.Worst
	report  RepairReport
	decoder *decoder
}

func newRepairer(ctx context.Context, p Protected, progress func(string, int64, int64), memory int) (*repairer, error) {
	if err := p.Params.Validate(); err != nil {
		return nil, err
	}
	tree, err := TreeBlocks(p.Params.DataBlocks)
	if err != nil {
		return nil, err
	}
	blocks := p.Params.DataBlocks + tree
	rounds, err := FECRounds(blocks, p.Roots)
	if err != nil {
		return nil, err
	}
	if rounds == 0 {
		return nil, errors.New("repair: there is no parity")
	}
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	r := &repairer{
		ctx:           ctx,
		p:             p,
		progress:      progress,
		memory:        memory,
		hash:          newChecker(p.Params.Salt),
		levels:        layout(p.Params.DataBlocks),
		blocks:        blocks,
		rounds:        rounds,
		shards:        codeword - p.Roots,
		matrix:        parityMatrix(p.Roots),
		lost:          newBitset(blocks),
		open:          newBitset(blocks),
		unread:        newBitset(blocks),
		skipped:       newBitset(blocks),
		parityUnread:  newBitset(rounds * int64(p.Roots)),
		paritySkipped: newBitset(rounds * int64(p.Roots)),
		mended:        newBitset(blocks),
		decoded:       newBitset(blocks),
	}
	for i := p.Params.DataBlocks; i < blocks; i++ {
		r.open.add(i)
	}
	return r, nil
}

// maxAttempts bounds the rounds of decoding; each makes good what the one
// before made known.
const maxAttempts = 32

func (r *repairer) run() error {
	if err := r.survey(); err != nil {
		return err
	}
	for range maxAttempts {
		if r.lost.count+r.open.count == 0 {
			r.setWorst()
			if r.p.KeepParity {
				return nil
			}
			return r.mendParity()
		}
		progress, err := r.attempt()
		if err != nil {
			return err
		}
		if !progress && !r.untrySkipped() {
			break
		}
		if err := r.judge("check"); err != nil {
			return err
		}
	}
	return r.unrepairable()
}

// attempt decodes the columns that are worth it most and reports whether
// anything was made good. The tree comes first: it tells the rest.
func (r *repairer) attempt() (progress bool, err error) {
	data := r.p.Params.DataBlocks
	if r.lost.next(data, r.blocks) < r.blocks {
		progress, err = r.decode(r.columns(data, r.lost))
		if progress || err != nil {
			return progress, err
		}
		return r.decode(r.columns(0, r.lost, r.open))
	}
	// Now every verdict is exact, and where a codeword lost too much to be
	// decoded from known places there is little hope: see to that first.
	counts := r.counts(r.lost)
	hopeless := newBitset(r.rounds)
	for c, n := range counts {
		if int(n) > r.p.Roots {
			hopeless.add(int64(c))
		}
	}
	if hopeless.count > 0 {
		if progress, err = r.decode(hopeless); !progress || err != nil {
			return false, err
		}
	}
	more, err := r.decode(r.columns(0, r.lost))
	return progress || more, err
}

// columns returns the columns that have members of the sets from block first on.
func (r *repairer) columns(first int64, sets ...*bitset) *bitset {
	columns := newBitset(r.rounds)
	for _, s := range sets {
		for i := s.next(first, r.blocks); i < r.blocks; i = s.next(i+1, r.blocks) {
			columns.add(i % r.rounds)
		}
	}
	return columns
}

// counts returns how many members of s each column has.
func (r *repairer) counts(s *bitset) []uint8 {
	counts := make([]uint8, r.rounds)
	for i := s.next(0, r.blocks); i < r.blocks; i = s.next(i+1, r.blocks) {
		counts[i%r.rounds]++
	}
	return counts
}

// setWorst enters the most blocks that were decoded in a column.
func (r *repairer) setWorst() {
	for _, n := range r.counts(r.decoded) {
		r.report.Worst = max(r.report.Worst, int(n))
	}
}

// maxUntried is the most blocks that are tried for themselves in the end: with
// more of them it would take a drive days to say no.
const maxUntried = 1024

// untrySkipped forgets what was inferred to be unreadable, so that each block of
// it is tried for itself. It reports whether there is any.
func (r *repairer) untrySkipped() bool {
	n := r.skipped.count + r.paritySkipped.count
	if r.exact || n == 0 || n > maxUntried {
		return false
	}
	r.exact = true
	for i := r.skipped.next(0, r.blocks); i < r.blocks; i = r.skipped.next(i+1, r.blocks) {
		r.skipped.remove(i)
		r.unread.remove(i)
		if i >= r.p.Params.DataBlocks {
			r.open.add(i)
		} else if leaf := r.leafOf(i); leaf >= 0 {
			r.open.add(leaf)
		}
	}
	parity := r.rounds * int64(r.p.Roots)
	for i := r.paritySkipped.next(0, parity); i < parity; i = r.paritySkipped.next(i+1, parity) {
		r.paritySkipped.remove(i)
		r.parityUnread.remove(i)
	}
	return true
}

// unrepairable says what is left.
func (r *repairer) unrepairable() error {
	e := &UnrepairableError{Roots: r.p.Roots}
	counts := r.counts(r.lost)
	for c, n := range counts {
		lost := int(n)
		at, end := int64(c)*int64(r.p.Roots), int64(c+1)*int64(r.p.Roots)
		if lost > 0 && r.parityUnread.next(at, end) < end {
			lost += r.p.Roots // a lost parity block takes all symbols of some codewords
		}
		e.Worst = max(e.Worst, lost)
	}
	e.Block = min(r.lost.next(0, r.blocks), r.open.next(0, r.blocks))
	if e.Block >= r.p.Params.DataBlocks {
		e.Tree = true
		e.Block -= r.p.Params.DataBlocks
	}
	return e
}

// writeBlocks writes whole protected blocks, which lie all in data or all in the
// tree, to where they belong.
func (r *repairer) writeBlocks(p []byte, first int64) error {
	data := r.p.Params.DataBlocks
	if first < data {
		if err := writeFull(r.p.Data, p, first*BlockSize); err != nil {
			return fmt.Errorf("repair data blocks from %d: write: %w", first, err)
		}
		return nil
	}
	if err := writeFull(r.p.Tree, p, (first-data)*BlockSize); err != nil {
		return fmt.Errorf("repair hash blocks from %d: write: %w", first-data, err)
	}
	for i := first; len(p) > 0; i, p = i+1, p[BlockSize:] {
		if l, b := r.place(i); l > 0 {
			copy(r.upper[l][b*BlockSize:], p[:BlockSize])
		}
	}
	return nil
}

// mend enters that block i was written. vouched says that it is what it was made
// to be; located that no digest had told that it wasn't.
func (r *repairer) mend(i int64, vouched, located bool) {
	if r.mended.add(i) {
		if i < r.p.Params.DataBlocks {
			r.report.Data++
		} else {
			r.report.Tree++
		}
		if r.unread.has(i) {
			r.report.Unreadable++
		}
		if located {
			r.report.Located++
		}
	}
	r.lost.remove(i)
	r.unread.remove(i)
	r.skipped.remove(i)
	if vouched {
		r.open.remove(i)
	}
}

// place returns the level of the tree that protected block i stands in, and its
// number in that.
func (r *repairer) place(i int64) (l int, b int64) {
	i -= r.p.Params.DataBlocks
	for i < r.levels[l].first {
		l++
	}
	return l, i - r.levels[l].first
}

// block returns the number of block b of level l as a protected block.
func (r *repairer) block(l int, b int64) int64 {
	return r.p.Params.DataBlocks + r.levels[l].first + b
}

// leafOf returns the leaf, as a protected block, over a data block, or -1 if the
// root hash is all there is.
func (r *repairer) leafOf(lba int64) int64 {
	if len(r.levels) == 0 {
		return -1
	}
	return r.block(0, lba/digestsPerBlock)
}

// good reports whether block i is vouched for.
func (r *repairer) good(i int64) bool { return !r.lost.has(i) && !r.open.has(i) }

// treeDigest returns the digest that block b of level l must have, or nil if
// nothing vouches for one.
func (r *repairer) treeDigest(l int, b int64) []byte {
	if l == len(r.levels)-1 {
		return r.p.Root[:]
	}
	if !r.good(r.block(l+1, b/digestsPerBlock)) {
		return nil
	}
	return r.upper[l+1][b*DigestSize:][:DigestSize]
}
