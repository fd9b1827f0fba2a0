package importlog

import (
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// edge is the right edge of the tree: for each level of tiles the hashes of its last, unfinished tile, oldest
// first. It is all that is needed to add entries and to know the root.
type edge struct {
	size   int64
	levels [][]tlog.Hash
}

// newTile is a tile that came to be, or grew, with an entry.
type newTile struct {
	level  int
	n      int64
	hashes []tlog.Hash
}

func (t newTile) width() int { return len(t.hashes) }

// data returns the tile as it is stored.
func (t newTile) data() []byte {
	b := make([]byte, 0, len(t.hashes)*hashBytes)
	for _, h := range t.hashes {
		b = append(b, h[:]...)
	}
	return b
}

// add appends a leaf hash and returns the tiles to be written, lowest level first.
func (e *edge) add(leaf tlog.Hash) []newTile {
	var tiles []newTile
	n := e.size // the index of h among the hashes of its level
	e.size++
	h := leaf
	for level := 0; ; level++ {
		if level == len(e.levels) {
			e.levels = append(e.levels, nil)
		}
		hashes := append(e.levels[level], h)
		tiles = append(tiles, newTile{level, n / tileWidth, hashes})
		if len(hashes) < tileWidth {
			e.levels[level] = hashes
			return tiles
		}
		e.levels[level] = nil
		h, n = subtree(hashes), n/tileWidth
	}
}

// root returns the RFC 6962 tree hash.
func (e *edge) root() tlog.Hash {
	if e.size == 0 {
		h, _ := tlog.TreeHash(0, nil) // of no entries: reads nothing and can't fail
		return h
	}
	var right *tlog.Hash
	for _, hashes := range e.levels {
		// From the right, the hashes stand for complete subtrees of rising sizes, as the bits of their number.
		for bit := 1; bit <= len(hashes); bit *= 2 {
			if len(hashes)&bit == 0 {
				continue
			}
			h := subtree(hashes[len(hashes)&^(2*bit-1):][:bit])
			if right != nil {
				h = tlog.NodeHash(h, *right)
			}
			right = &h
		}
	}
	return *right
}

// clone returns a copy that add on either doesn't change.
func (e *edge) clone() edge {
	c := edge{size: e.size}
	for _, hashes := range e.levels {
		c.levels = append(c.levels, slices.Clone(hashes))
	}
	return c
}

// subtree returns the hash over a power of two of hashes.
func subtree(hashes []tlog.Hash) tlog.Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return tlog.NodeHash(subtree(hashes[:half]), subtree(hashes[half:]))
}
