package verity

import "bytes"

// leafRunSums is a run of leaf blocks with the digests of the data under it.
type leafRunSums struct {
	first, n    int64 // leaves
	stored      []byte
	known, gaps []gap
	missing     []bool // leaves that couldn't be read
	sums        []byte // of the data blocks
	lacking     []bool // data blocks that couldn't be read
}

// judge finds out about every block that nothing vouched for so far: reads the
// tree from the top down, and the data under those leaves.
func (r *repairer) judge(step string) error { return r.judgeWith(step, r.progress) }

func (r *repairer) judgeWith(step string, progress func(string, int64, int64)) error {
	if len(r.levels) == 0 {
		return r.judgeSingle()
	}
	for first := true; ; first = false {
		if err := r.readUpper(); err != nil {
			return err
		}
		if _, err := r.judgeUpper(); err != nil {
			return err
		}
		if err := r.judgeLeaves(step, progress); err != nil {
			return err
		}
		if !r.upperOpen() {
			return nil
		}
		// The leaves' digests may tell what the blocks above them were; then
		// more leaves can be judged for sure.
		news, err := r.judgeUpper()
		if err != nil || !news {
			return err
		}
		if first && step == "survey" {
			step, progress = "check", r.progress
		}
	}
}

// judgeSingle is judge for the one data block that the root hash is of.
func (r *repairer) judgeSingle() error {
	var p piece
	p.n, p.buf = 1, make([]byte, BlockSize)
	p.known = r.unread.gaps(nil, 0, 1)
	p.fill(r, &gentle{r: r.p.Data, end: 1})
	markGaps(&p, r.unread, r.skipped)
	var sum [DigestSize]byte
	r.hash.sums(sum[:], p.buf)
	r.lost.set(0, len(p.gaps) > 0 || sum != r.p.Root)
	return r.ctx.Err()
}

// judgeLeaves reads the leaves that aren't vouched for, in runs, and the data
// under each run, and judges both.
func (r *repairer) judgeLeaves(step string, progress func(string, int64, int64)) error {
	leaf, end := r.block(0, 0), r.blocks
	notGood := func(i int64) int64 { return min(r.lost.next(i, end), r.open.next(i, end)) }
	leaves := int64(0)
	for i := notGood(leaf); i < end; i = notGood(i + 1) {
		leaves++
	}
	if leaves == 0 {
		return nil
	}
	data := r.p.Params.DataBlocks
	total := min(leaves*(digestsPerBlock+1), r.blocks)
	gd := &gentle{r: r.p.Data, end: data, exact: r.exact}
	gt := &gentle{r: r.p.Tree, end: r.blocks - data, exact: r.exact}
	bufs := r.pieces(min(data, leaves*digestsPerBlock))
	runs := [2]*leafRunSums{newLeafRun(leaves), newLeafRun(leaves)}
	var run *leafRunSums // being read
	var at, done int64
	prepare := func(p *piece) bool {
		p.head = false
		if run == nil {
			first := notGood(leaf)
			if first == end {
				return false
			}
			run = runs[0]
			runs[0], runs[1] = runs[1], runs[0]
			r.startRun(run, first-r.block(0, 0))
			leaf = first + run.n
			at = run.first * digestsPerBlock
			p.head = true
		}
		last := min((run.first+run.n)*digestsPerBlock, data)
		p.run, p.first, p.n = run, at, min(pieceBlocks, last-at)
		p.known = r.unread.gaps(p.known[:0], p.first, p.n)
		at += p.n
		p.tail = at == last
		if p.tail {
			run = nil
		}
		return true
	}
	fill := func(p *piece) {
		if u := p.run; p.head {
			u.gaps = gt.around(r, u.stored[:u.n*BlockSize], r.levels[0].first+u.first, u.known, u.gaps[:0])
		}
		p.fill(r, gd)
	}
	return ahead(bufs, prepare, fill, func(p *piece) error {
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		markGaps(p, r.unread, r.skipped)
		p.run.take(r, p)
		if p.tail {
			if err := r.judgeRun(p.run); err != nil {
				return err
			}
			done += p.run.n
		}
		done += p.n
		progress(step, min(done, total), total)
		return nil
	})
}

func newLeafRun(leaves int64) *leafRunSums {
	n := min(leaves, leafBatch)
	return &leafRunSums{
		stored:  make([]byte, n*BlockSize),
		missing: make([]bool, n),
		sums:    make([]byte, n*BlockSize),
		lacking: make([]bool, n*digestsPerBlock),
	}
}

// startRun sets the run of leaves that begins with first.
func (r *repairer) startRun(run *leafRunSums, first int64) {
	run.first, run.n = first, 1
	for run.n < leafBatch && first+run.n < r.levels[0].blocks && !r.good(r.block(0, first+run.n)) {
		run.n++
	}
	run.known = r.unread.gaps(run.known[:0], r.block(0, first), run.n)
	clear(run.missing)
	clear(run.lacking)
	clear(run.sums)
}

// take enters the digests of a piece.
func (u *leafRunSums) take(r *repairer, p *piece) {
	at := p.first - u.first*digestsPerBlock
	r.hash.sums(u.sums[at*DigestSize:][:p.n*DigestSize], p.buf[:p.n*BlockSize])
	for _, gap := range p.gaps {
		for i := gap.lo; i < gap.hi; i++ {
			u.lacking[at+i] = true
			clear(u.sums[(at+i)*DigestSize:][:DigestSize])
		}
	}
}

// judgeRun judges a run of leaves and the data under it.
func (r *repairer) judgeRun(u *leafRunSums) error {
	leaves := piece{first: r.block(0, u.first), gaps: u.gaps}
	markGaps(&leaves, r.unread, r.skipped)
	for _, gap := range u.gaps {
		for i := gap.lo; i < gap.hi; i++ {
			u.missing[i] = true
		}
	}
	if r.upperOpen() && r.digests[0] == nil {
		r.digests[0] = make([]byte, r.levels[0].blocks*DigestSize)
	}
	stored := make([]byte, u.n*DigestSize)
	r.hash.sums(stored, u.stored[:u.n*BlockSize])
	for i := range u.n {
		children := min(digestsPerBlock, r.p.Params.DataBlocks-(u.first+i)*digestsPerBlock)
		f := family{
			level:    0,
			index:    u.first + i,
			stored:   u.stored[i*BlockSize:][:BlockSize],
			readable: !u.missing[i],
			digest:   stored[i*DigestSize:][:DigestSize],
			children: u.sums[i*BlockSize:][:children*DigestSize],
			lacking:  u.lacking[i*digestsPerBlock:][:children],
		}
		if err := r.judgeLeaf(&f); err != nil {
			return err
		}
	}
	return nil
}

// family is a hash block with the digests of the blocks under it, as they are.
type family struct {
	level    int
	index    int64
	stored   []byte
	readable bool
	digest   []byte // of stored
	children []byte // digests of the blocks below
	lacking  []bool // blocks below that have none; nil if all have
}

// computed returns the hash block as the blocks below make it, with the stored
// digests where they have none, and its digest.
func (f *family) computed(h *checker) (block, digest []byte) {
	block = make([]byte, BlockSize)
	copy(block, f.children)
	for i, lacks := range f.lacking {
		if lacks && f.readable {
			copy(block[i*DigestSize:(i+1)*DigestSize], f.stored[i*DigestSize:])
		}
	}
	digest = make([]byte, DigestSize)
	h.sums(digest, block)
	return block, digest
}

// supported reports whether any block below has the digest that is stored.
func (f *family) supported() bool {
	if !f.readable {
		return false
	}
	for i := 0; i < len(f.children); i += DigestSize {
		if f.matches(i / DigestSize) {
			return true
		}
	}
	return false
}

func (f *family) matches(i int) bool {
	return (f.lacking == nil || !f.lacking[i]) &&
		bytes.Equal(f.children[i*DigestSize:(i+1)*DigestSize], f.stored[i*DigestSize:(i+1)*DigestSize])
}

// judgeLeaf judges one leaf and the data blocks under it.
func (r *repairer) judgeLeaf(f *family) error {
	want := r.treeDigest(0, f.index)
	leaf := r.block(0, f.index)
	lba := f.index * digestsPerBlock
	var keep bool // the stored leaf is taken for what it should be
	switch {
	case want == nil:
		keep = r.guess(f)
		r.open.add(leaf)
		r.lost.set(leaf, !keep)
	case f.readable && bytes.Equal(want, f.digest):
		keep = true
		r.lost.remove(leaf)
		r.open.remove(leaf)
	default:
		block, digest := f.computed(r.hash)
		if bytes.Equal(want, digest) {
			if err := r.writeBlocks(block, leaf); err != nil {
				return err
			}
			r.mend(leaf, true, false)
			f.stored, keep = block, true
			break
		}
		r.lost.add(leaf)
		r.open.remove(leaf)
	}
	vouched := r.good(leaf)
	for i := range f.lacking {
		y := lba + int64(i)
		r.open.set(y, !vouched)
		r.lost.set(y, f.lacking[i] || keep && !f.matches(i))
	}
	return nil
}

// guess judges a hash block that nothing vouches for, by what is stored over and
// under it, and enters the digest it probably has. It reports whether that is
// the stored block.
func (r *repairer) guess(f *family) (keep bool) {
	var entry []byte // what is stored over it
	if l := f.level + 1; l < len(r.levels) {
		if parent := f.index / digestsPerBlock; !r.unread.has(r.block(l, parent)) {
			entry = r.upper[l][f.index*DigestSize:][:DigestSize]
		}
	}
	_, computed := f.computed(r.hash)
	switch {
	case f.readable && bytes.Equal(f.digest, entry):
		keep = true
	case bytes.Equal(computed, entry):
	default:
		keep = f.supported()
	}
	best := computed
	if keep {
		best = f.digest
	}
	copy(r.digests[f.level][f.index*DigestSize:], best)
	return keep
}

// readUpper reads those blocks of the levels above the leaves that aren't
// vouched for and not known to be unreadable.
func (r *repairer) readUpper() error {
	if r.upper == nil {
		r.upper = make([][]byte, len(r.levels))
		r.digests = make([][]byte, len(r.levels))
		for l := 1; l < len(r.levels); l++ {
			r.upper[l] = make([]byte, r.levels[l].blocks*BlockSize)
			r.digests[l] = make([]byte, r.levels[l].blocks*DigestSize)
		}
	}
	g := &gentle{r: r.p.Tree, end: r.blocks - r.p.Params.DataBlocks, exact: r.exact}
	for l := len(r.levels) - 1; l > 0; l-- {
		n := r.levels[l].blocks
		for at := int64(0); at < n; {
			if r.good(r.block(l, at)) {
				at++
				continue
			}
			end := at
			for end < n && end-at < pieceBlocks && !r.good(r.block(l, end)) {
				end++
			}
			p := piece{first: r.block(l, at)}
			p.known = r.unread.gaps(nil, p.first, end-at)
			p.gaps = g.around(r, r.upper[l][at*BlockSize:end*BlockSize], r.levels[l].first+at, p.known, nil)
			if r.ctx.Err() != nil {
				return r.ctx.Err()
			}
			markGaps(&p, r.unread, r.skipped)
			at = end
		}
	}
	return nil
}

// upperOpen reports whether a block above the leaves isn't vouched for.
func (r *repairer) upperOpen() bool {
	first, end := r.p.Params.DataBlocks, r.block(0, 0)
	return min(r.lost.next(first, end), r.open.next(first, end)) < end
}

// judgeUpper judges the levels above the leaves: guesses from the bottom up what
// each block's digest is, then decides from the top down. It reports whether
// more is vouched for than before.
func (r *repairer) judgeUpper() (news bool, err error) {
	for l := 1; l < len(r.levels); l++ {
		for b := range r.levels[l].blocks {
			i := r.block(l, b)
			f := r.upperFamily(l, b)
			if r.good(i) {
				copy(r.digests[l][b*DigestSize:], f.digest)
				continue
			}
			r.open.add(i)
			r.lost.set(i, !r.guess(f))
		}
	}
	for l := len(r.levels) - 1; l > 0; l-- {
		for b := range r.levels[l].blocks {
			i := r.block(l, b)
			want := r.treeDigest(l, b)
			if want == nil || r.good(i) {
				continue
			}
			f := r.upperFamily(l, b)
			if f.readable && bytes.Equal(want, f.digest) {
				r.open.remove(i)
				r.lost.remove(i)
				news = true
				continue
			}
			block, digest := f.computed(r.hash)
			if !bytes.Equal(want, digest) {
				r.lost.add(i)
				r.open.remove(i)
				continue
			}
			if err := r.writeBlocks(block, i); err != nil {
				return false, err
			}
			r.mend(i, true, false)
			news = true
		}
	}
	return news, nil
}

// upperFamily returns block b of level l above the leaves. Before the leaves'
// digests are known the ones that are stored stand for them.
func (r *repairer) upperFamily(l int, b int64) *family {
	f := &family{
		level:    l,
		index:    b,
		stored:   r.upper[l][b*BlockSize:][:BlockSize],
		readable: !r.unread.has(r.block(l, b)),
		digest:   make([]byte, DigestSize),
	}
	r.hash.sums(f.digest, f.stored)
	below := r.digests[l-1]
	children := min(digestsPerBlock, r.levels[l].children-b*digestsPerBlock) * DigestSize
	if below == nil {
		f.children = f.stored[:children]
	} else {
		f.children = below[b*BlockSize:][:children]
	}
	return f
}
