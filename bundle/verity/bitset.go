package verity

import "math/bits"

// bitset is a set of block numbers. It takes memory for those parts of the area
// only that have members.
type bitset struct {
	pages []*bitPage
	count int64
}

const pageBits = 1 << 15

type bitPage [pageBits / 64]uint64

// newBitset returns an empty set for numbers below n.
func newBitset(n int64) *bitset {
	return &bitset{pages: make([]*bitPage, (n+pageBits-1)/pageBits)}
}

func (b *bitset) has(i int64) bool {
	p := b.pages[i/pageBits]
	return p != nil && p[i%pageBits/64]&(1<<(i%64)) != 0
}

// add reports whether i is new.
func (b *bitset) add(i int64) bool {
	p := b.pages[i/pageBits]
	if p == nil {
		p = new(bitPage)
		b.pages[i/pageBits] = p
	}
	w := &p[i%pageBits/64]
	if *w&(1<<(i%64)) != 0 {
		return false
	}
	*w |= 1 << (i % 64)
	b.count++
	return true
}

func (b *bitset) remove(i int64) {
	if b.has(i) {
		b.pages[i/pageBits][i%pageBits/64] &^= 1 << (i % 64)
		b.count--
	}
}

func (b *bitset) set(i int64, member bool) {
	if member {
		b.add(i)
	} else {
		b.remove(i)
	}
}

// next returns the smallest member from i on and below end, or end.
func (b *bitset) next(i, end int64) int64 {
	for i < end {
		p := b.pages[i/pageBits]
		if p == nil {
			i = (i/pageBits + 1) * pageBits
			continue
		}
		if w := p[i%pageBits/64] >> (i % 64); w != 0 {
			return min(end, i+int64(bits.TrailingZeros64(w)))
		}
		i = (i/64 + 1) * 64
	}
	return end
}

// gaps appends the runs of members in [first, first+n) to runs, counted from
// first.
func (b *bitset) gaps(runs []gap, first, n int64) []gap {
	end := first + n
	for at := b.next(first, end); at < end; {
		hi := at
		for hi < end && b.has(hi) {
			hi++
		}
		runs = append(runs, gap{lo: at - first, hi: hi - first})
		at = b.next(hi, end)
	}
	return runs
}
