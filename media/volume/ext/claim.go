package ext

import (
	"errors"
	"math/bits"
)

const (
	pieceBits = 1 << 16
	// maxPieces is how many pieces of claims are kept that are taken in part, 8 KiB each.
	maxPieces = 8192
)

var errScattered = errors.New("too much is scattered over the volume to be followed")

// claims are numbers, of blocks or inodes, that are taken: a bit each, in pieces of which only those exist that have some.
// The zero value has none.
type claims struct {
	pieces  map[int64]*piece
	partial int // pieces that aren't taken whole
}

type piece struct {
	bits []uint64 // nil if all are taken
	left int      // that aren't taken
}

// span is what a piece has of the numbers from n to end: bits lo to hi.
func span(n, end int64) (at int64, lo, hi int) {
	at = n / pieceBits
	return at, int(n % pieceBits), int(min(end-at*pieceBits, pieceBits))
}

// first is the first number of those from n on that is taken.
func (c *claims) first(n, count int64) (int64, bool) {
	for end := n + count; n < end; {
		at, lo, hi := span(n, end)
		if p := c.pieces[at]; p != nil {
			if p.bits == nil {
				return n, true
			}
			for i := lo; i < hi; {
				w, mask := word(i, hi)
				if x := p.bits[w] & mask; x != 0 {
					return at*pieceBits + int64(w*64+bits.TrailingZeros64(x)), true
				}
				i = (w + 1) * 64
			}
		}
		n = at*pieceBits + int64(hi)
	}
	return 0, false
}

func (c *claims) has(n int64) bool {
	_, ok := c.first(n, 1)
	return ok
}

// take takes count numbers from n on, none of which is taken. It fails if they are too scattered to be remembered.
func (c *claims) take(n, count int64) error {
	for end := n + count; n < end; {
		at, lo, hi := span(n, end)
		n = at*pieceBits + int64(hi)
		p := c.pieces[at]
		if p == nil {
			if c.pieces == nil {
				c.pieces = map[int64]*piece{}
			}
			if hi-lo == pieceBits {
				c.pieces[at] = &piece{}
				continue
			}
			if c.partial == maxPieces {
				return errScattered
			}
			p = &piece{make([]uint64, pieceBits/64), pieceBits}
			c.pieces[at] = p
			c.partial++
		}
		for i := lo; i < hi; {
			w, mask := word(i, hi)
			p.bits[w] |= mask
			i = (w + 1) * 64
		}
		if p.left -= hi - lo; p.left == 0 {
			p.bits = nil
			c.partial--
		}
	}
	return nil
}

// word is the word that bit i is in, with those of its bits that are from i on and before end.
func word(i, end int) (w int, mask uint64) {
	w = i / 64
	mask = ^uint64(0) << (i % 64)
	if rest := end - w*64; rest < 64 {
		mask &= 1<<rest - 1
	}
	return w, mask
}
