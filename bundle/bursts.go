package bundle

// Bursts says how many consecutive blocks may be lost, wherever they begin in the place, whatever stands there
// instead, and still all of the image is made good. Zero for all of them without parity. Two exceptions: another image
// from its locator to its seal in their place; and on a medium with more than 1,024 blocks behind the image only
// Repair finds what block 0 should say.
type Bursts struct {
	Data       int64 `json:"data"`        // inside the data area
	DataTree   int64 `json:"data_tree"`   // over the border of data area and tree, with seal A and the superblock
	Tree       int64 `json:"tree"`        // inside the tree
	TreeParity int64 `json:"tree_parity"` // over the border of tree and parity
	Parity     int64 `json:"parity"`      // inside the parity area
	Anywhere   int64 `json:"anywhere"`    // the least of all places, locator, seals and padding too
}

// Bursts computes the guarantee (docs/format.md, section 8). Block i of data and tree, counted together, is a
// symbol of the codewords of column i mod rounds, and of each codeword R symbols can be made good where the tree
// tells which are bad, R/2 where it doesn't.
func (g Geometry) Bursts() Bursts {
	if g.Roots == 0 {
		return Bursts{}
	}
	roots := int64(g.Roots)
	rounds := g.FECBlocks / roots
	between := g.Tree() - g.DataBlocks // seal A and superblock: the other seal, and the seal's numbers, give them
	b := Bursts{
		Data: min(g.DataBlocks, roots*rounds),
		// With the top of the tree gone nothing in it can be believed at first. A burst that reaches the seal, and
		// not the tree, is one of the data.
		DataTree: min(g.DataBlocks, roots*rounds, roots/2*rounds+between),
		// With all data whole, the tree follows from them, and parity from both.
		Tree:       g.TreeBlocks,
		TreeParity: g.TreeBlocks + g.FECBlocks,
		Parity:     g.FECBlocks,
	}
	// A burst from the data through all of the tree into parity must not take both a data block and the parity of
	// its column. Of the last data blocks the nearest to a column at the beginning of the parity area decides.
	through := between + g.TreeBlocks + 1 + (g.DataBlocks-1)%rounds
	seals := g.SealB() - g.SealA() // shorter than that, it leaves one copy of each of the seal's blocks
	b.Anywhere = min(b.DataTree, through, seals)
	if g.DataBlocks > b.Data {
		b.Anywhere = min(b.Anywhere, b.Data)
	}
	return b
}
