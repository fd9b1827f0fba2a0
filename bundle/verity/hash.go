package verity

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"runtime"
	"slices"
	"sync"
)

// blockHasher computes salted digests of blocks without allocating. It is not
// safe for concurrent use.
type blockHasher struct {
	h    hash.Hash
	salt []byte
	buf  [DigestSize]byte
}

func newBlockHasher(salt []byte) *blockHasher {
	return &blockHasher{h: sha256.New(), salt: salt}
}

// sum returns the digest of salt ‖ block; it stays valid until the next call.
func (b *blockHasher) sum(block []byte) []byte {
	b.h.Reset()
	b.h.Write(b.salt)
	b.h.Write(block)
	return b.h.Sum(b.buf[:0])
}

// appendSums appends the digests of the blocks in data to dst.
func (b *blockHasher) appendSums(dst, data []byte) []byte {
	for ; len(data) > 0; data = data[BlockSize:] {
		dst = append(dst, b.sum(data[:BlockSize])...)
	}
	return dst
}

// firstBad returns the index of the first block in data whose digest differs
// from the one at its place in digests, or the number of blocks if none does.
func (b *blockHasher) firstBad(data, digests []byte) int {
	n := len(data) / BlockSize
	for i := range n {
		if !bytes.Equal(b.sum(data[i*BlockSize:(i+1)*BlockSize]), digests[i*DigestSize:(i+1)*DigestSize]) {
			return i
		}
	}
	return n
}

// checker compares runs of blocks with their digests on all cores. It is safe
// for concurrent use.
type checker struct {
	hashers sync.Pool
}

func newChecker(salt []byte) *checker {
	salt = slices.Clone(salt)
	return &checker{sync.Pool{New: func() any { return newBlockHasher(salt) }}}
}

// minShare is the least number of blocks (about 18 µs of hashing) for which
// another goroutine pays.
const minShare = 16

// firstBad is blockHasher.firstBad over all cores. len(data) is a multiple of
// BlockSize.
func (c *checker) firstBad(data, digests []byte) int {
	n := len(data) / BlockSize
	workers := max(1, min(n/minShare, runtime.GOMAXPROCS(0)))
	share := (n + workers - 1) / workers
	if workers == 1 {
		return c.share(data, digests)
	}
	bad := make([]int, workers)
	var wg sync.WaitGroup
	for w := range workers {
		lo, hi := min(w*share, n), min((w+1)*share, n)
		check := func() {
			bad[w] = c.share(data[lo*BlockSize:hi*BlockSize], digests[lo*DigestSize:hi*DigestSize])
		}
		if w == workers-1 {
			check()
		} else {
			wg.Go(check)
		}
	}
	wg.Wait()
	for w, b := range bad {
		lo, hi := min(w*share, n), min((w+1)*share, n)
		if b < hi-lo {
			return lo + b
		}
	}
	return n
}

func (c *checker) share(data, digests []byte) int {
	h := c.hashers.Get().(*blockHasher)
	defer c.hashers.Put(h)
	return h.firstBad(data, digests)
}
