package verity

import (
	"errors"
	"io"
	"slices"
	"sync"
)

const (
	// leafBatch leaf hash blocks (512 KiB, the digests of 32 MiB of data) are
	// read and checked together.
	leafBatch = 256
	// leafBatches of them are kept in memory.
	leafBatches = 16
	// LeavesCheckedFor is how many data blocks, counted from a multiple of it, are
	// under the leaves that are read and checked when any of them is read.
	LeavesCheckedFor = dataPerBatch
	// dataPerBatch is the number of data blocks under one batch.
	dataPerBatch = leafBatch * digestsPerBlock
)

// Tree is a hash tree whose root hash the caller trusts. Levels above the
// leaves are held in memory (1/64 of the tree, 1/4,096 of the data); leaves are
// read when first needed, in runs of 256 hash blocks, each block checked against
// its parent, and the 16 runs used last are kept. It is safe for concurrent use.
type Tree struct {
	r      io.ReaderAt
	params Params
	levels []level // leaves first
	// digests of the leaf hash blocks (or the root hash alone), all checked.
	parents []byte
	checker *checker
	batch   int64 // leaf hash blocks that are read at once
	batches int   // of which so many are kept

	mu    sync.Mutex
	cache []*leafRun // the one used last is last
}

// leafRun is a batch of leaf hash blocks, being loaded or checked.
type leafRun struct {
	index   int64
	ready   chan struct{} // closed when digests and err are set
	digests []byte
	err     error
}

// OpenTree reads and checks all levels above the leaves. Offset 0 of r is the
// first hash block, the one behind the superblock; r is used for as long as the
// Tree is, never beyond the tree's last block, and not closed. p and root must
// come from a source the caller trusts (p.UUID isn't used). Memory is allocated
// only as authentic hash blocks arrive.
//
// Errors: [*DamagedError] and [*ReadError], both with Tree set, or p isn't
// valid.
func OpenTree(r io.ReaderAt, p Params, root [DigestSize]byte) (*Tree, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	p.Salt = slices.Clone(p.Salt)
	t := &Tree{
		r:       r,
		batch:   leafBatch,
		batches: leafBatches,
		params:  p,
		levels:  layout(p.DataBlocks),
		parents: root[:],
		checker: newChecker(p.Salt),
	}
	for i := len(t.levels) - 1; i > 0; i-- {
		l := t.levels[i]
		var digests []byte
		for at := int64(0); at < l.blocks; at += leafBatch {
			n := min(leafBatch, l.blocks-at)
			run := make([]byte, n*BlockSize)
			if err := t.load(run, i, at); err != nil {
				return nil, err
			}
			digests = append(digests, run...)
		}
		t.parents = digests
	}
	return t, nil
}

// Scattered prepares t, before its first use, for reads that go round many
// places, as [EncodeFEC]'s do, each a little further on in every round: of the
// leaves short runs are read, and one is kept for each shard.
func (t *Tree) Scattered() {
	t.batch, t.batches = chunkBlocks/digestsPerBlock, codeword+leafBatches
}

// load reads the hash blocks of level i from its block at onwards and checks
// them against t.parents, the digests of that level's blocks.
func (t *Tree) load(run []byte, i int, at int64) error {
	l := t.levels[i]
	n, err := readFull(t.r, run, (l.first+at)*BlockSize)
	whole := int64(n / BlockSize)
	bad := int64(t.checker.firstBad(run[:whole*BlockSize], t.parents[at*DigestSize:]))
	if bad < whole {
		cause := errDigest
		if i == len(t.levels)-1 {
			cause = errRoot
		}
		return &DamagedError{Tree: true, Block: l.first + at + bad, Err: cause}
	}
	if err != nil {
		return &ReadError{Tree: true, Block: l.first + at + whole, Count: int64(len(run))/BlockSize - whole, Err: err}
	}
	// The signer vouches for the padding, but one tree must have one image.
	used := min((l.children-at*digestsPerBlock)*DigestSize, int64(len(run)))
	for _, b := range run[used:] {
		if b != 0 {
			return &DamagedError{Tree: true, Block: l.first + l.blocks - 1, Err: errPadding}
		}
	}
	return nil
}

// digestsFrom returns the digests of data block lba and the blocks behind it,
// as far as the same batch reaches. The caller doesn't change them.
func (t *Tree) digestsFrom(lba int64) ([]byte, error) {
	if len(t.levels) == 0 {
		return t.parents, nil
	}
	per := t.batch * digestsPerBlock
	run, err := t.leaves(lba / per)
	if err != nil {
		return nil, err
	}
	return run[lba%per*DigestSize:], nil
}

var errLoading = errors.New("read hash blocks: loading was abandoned")

// leaves returns the checked batch of leaf hash blocks with the given index,
// from the cache if it is there. Concurrent callers share one read. Failures
// aren't cached.
func (t *Tree) leaves(index int64) ([]byte, error) {
	t.mu.Lock()
	if i := slices.IndexFunc(t.cache, func(c *leafRun) bool { return c.index == index }); i >= 0 {
		c := t.cache[i]
		t.cache = append(slices.Delete(t.cache, i, i+1), c)
		t.mu.Unlock()
		<-c.ready
		return c.digests, c.err
	}
	c := &leafRun{index: index, ready: make(chan struct{}), err: errLoading}
	if len(t.cache) == t.batches {
		t.cache = slices.Delete(t.cache, 0, 1)
	}
	t.cache = append(t.cache, c)
	t.mu.Unlock()

	// Also when r panics, so that nobody waits for ever.
	defer func() {
		if c.err != nil {
			t.mu.Lock()
			t.cache = slices.DeleteFunc(t.cache, func(o *leafRun) bool { return o == c })
			t.mu.Unlock()
		}
		close(c.ready)
	}()
	at := index * t.batch
	run := make([]byte, min(t.batch, t.levels[0].blocks-at)*BlockSize)
	if c.err = t.load(run, 0, at); c.err == nil {
		c.digests = run
	}
	return c.digests, c.err
}
