package bundle

import (
	"iter"
	"maps"
	"math/bits"
	"slices"
)

const (
	pageWords  = 64
	pageBlocks = pageWords * 64
)

// blockSet is a set of LBAs; its memory goes with the parts of the image that have any.
type blockSet map[int64]*[pageWords]uint64

// add adds the blocks first to end-1.
func (s blockSet) add(first, end int64) {
	for lba := first; lba < end; {
		index := lba / pageBlocks
		page := s[index]
		if page == nil {
			page = new([pageWords]uint64)
			s[index] = page
		}
		stop := min(end, (index+1)*pageBlocks)
		for ; lba < stop; lba++ {
			page[lba%pageBlocks/64] |= 1 << (lba % 64)
		}
	}
}

// run tells whether block lba is in the set, and where before end the first block lies of which the opposite is
// true; end when there is none.
func (s blockSet) run(lba, end int64) (in bool, stop int64) {
	page := s[lba/pageBlocks]
	in = page != nil && page[lba%pageBlocks/64]>>(lba%64)&1 == 1
	for lba < end {
		page := s[lba/pageBlocks]
		if page == nil {
			if in {
				return in, lba
			}
			lba = (lba/pageBlocks + 1) * pageBlocks
			continue
		}
		word := page[lba%pageBlocks/64]
		if in {
			word = ^word
		}
		if word >>= lba % 64; word != 0 {
			return in, min(end, lba+int64(bits.TrailingZeros64(word)))
		}
		lba = (lba/64 + 1) * 64
	}
	return in, end
}

// runs gives the set's longest runs of blocks, ascending: each is the blocks first to end-1.
func (s blockSet) runs() iter.Seq2[int64, int64] {
	return func(yield func(first, end int64) bool) {
		var first, end int64 // of the run at hand; empty at the beginning
		for _, index := range slices.Sorted(maps.Keys(s)) {
			last := (index + 1) * pageBlocks
			for lba := index * pageBlocks; lba < last; {
				in, stop := s.run(lba, last)
				switch {
				case in && lba == end:
					end = stop
				case in:
					if end > first && !yield(first, end) {
						return
					}
					first, end = lba, stop
				}
				lba = stop
			}
		}
		if end > first {
			yield(first, end)
		}
	}
}
