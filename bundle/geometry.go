// Package bundle makes and checks Sallyport's disc format, profile 1 (docs/format.md): a directory becomes a
// sealed, signable ISO9660 image with a dm-verity tree, and an image becomes a [*Verified] when everything in
// it is what its signers sealed.
//
//	locator | directories | payload, MANIFEST.json, SHA256SUMS | seal A | superblock, tree | parity | seal B | locator | zero
//
// Low side: [NewPlan] lays a payload out, [Plan.WriteFile] or [Plan.WriteTo] write the image in one pass over
// the payload, [AddSignature] fills a slot. High side: [Verify], in the order of docs/format.md, section 12.
package bundle

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"sallyport/bundle/verity"
)

const (
	// BlockSize is the unit of everything on the disc, in bytes.
	BlockSize = 2048

	sealJSONBlocks = 4
	sealJSONBytes  = sealJSONBlocks * BlockSize
	slotCount      = 8
	sealBlocks     = sealJSONBlocks + slotCount
	minPadding     = 150
	imageMultiple  = 32
	maxImageBlocks = 1<<32 - 1
)

// Geometry is the layout of an image, in blocks; it follows from the size of the data area and the number of
// parity roots (docs/format.md, section 1).
type Geometry struct {
	DataBlocks int64
	TreeBlocks int64 // without the superblock
	FECBlocks  int64
	Roots      int
}

// NewGeometry computes the layout for a data area of dataBlocks blocks and roots parity bytes a codeword (0 or 2 to 24).
func NewGeometry(dataBlocks int64, roots int) (Geometry, error) {
	if dataBlocks < 17 || dataBlocks > maxImageBlocks {
		return Geometry{}, fmt.Errorf("data area of %d blocks: must be 17 to %d", dataBlocks, int64(maxImageBlocks))
	}
	g := Geometry{DataBlocks: dataBlocks, Roots: roots}
	var err error
	if g.TreeBlocks, err = verity.TreeBlocks(dataBlocks); err != nil {
		return Geometry{}, err
	}
	if g.FECBlocks, err = verity.FECBlocks(dataBlocks+g.TreeBlocks, roots); err != nil {
		return Geometry{}, err
	}
	if n := g.ImageBlocks(); n > maxImageBlocks {
		return Geometry{}, fmt.Errorf("image of %d blocks: the limit is %d", n, int64(maxImageBlocks))
	}
	return g, nil
}

// SealA is the LBA of the first seal.
func (g Geometry) SealA() int64 { return g.DataBlocks }

// Superblock is the LBA of the dm-verity superblock.
func (g Geometry) Superblock() int64 { return g.DataBlocks + sealBlocks }

// Tree is the LBA of the first hash block.
func (g Geometry) Tree() int64 { return g.Superblock() + 1 }

// FEC is the LBA of the parity area, also when it is empty.
func (g Geometry) FEC() int64 { return g.Tree() + g.TreeBlocks }

// SealB is the LBA of the second seal.
func (g Geometry) SealB() int64 { return g.FEC() + g.FECBlocks }

// LocatorCopy is the LBA of the locator's copy.
func (g Geometry) LocatorCopy() int64 { return g.SealB() + sealBlocks }

// Padding is the LBA of the first padding block.
func (g Geometry) Padding() int64 { return g.LocatorCopy() + 1 }

// ImageBlocks is the length of the image.
func (g Geometry) ImageBlocks() int64 {
	return (g.Padding() + minPadding + imageMultiple - 1) / imageMultiple * imageMultiple
}

// locator is block 0 and its copy (docs/format.md, section 2).
func (g Geometry) locator() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "sallyport 1\nimage-blocks %d\ndata-blocks %d\nseal-a %d\ntree %d\nfec %d %d %d\nseal-b %d\n",
		g.ImageBlocks(), g.DataBlocks, g.SealA(), g.Superblock(), g.FEC(), g.FECBlocks, g.Roots, g.SealB())
	return padNewlines([]byte(b.String()), BlockSize)
}

func padNewlines(b []byte, size int) []byte {
	return append(b, bytes.Repeat([]byte{'\n'}, size-len(b))...)
}

// parseLocator reads a locator block. It accepts only what locator gives for some data area and roots, so
// its numbers agree with each other; that they are true is for the seal to say.
func parseLocator(block []byte) (Geometry, error) {
	if !bytes.HasPrefix(block, []byte("sallyport ")) {
		return Geometry{}, refuse("not-a-bundle", "block 0 holds no locator")
	}
	if !bytes.HasPrefix(block, []byte("sallyport 1\n")) {
		line, _, _ := bytes.Cut(block, []byte("\n"))
		return Geometry{}, refuse("unsupported-profile", "block 0: %.40q: this version reads profile 1", line)
	}
	var dataBlocks int64
	var roots int
	lines := strings.Split(string(block), "\n")
	for _, line := range lines[:min(len(lines), 8)] {
		f := strings.Fields(line)
		var err error
		switch {
		case len(f) == 2 && f[0] == "data-blocks":
			dataBlocks, err = strconv.ParseInt(f[1], 10, 64)
		case len(f) == 4 && f[0] == "fec":
			roots, err = strconv.Atoi(f[3])
		}
		if err != nil {
			return Geometry{}, refuse("bad-locator", "block 0: %v", err)
		}
	}
	g, err := NewGeometry(dataBlocks, roots)
	if err != nil {
		return Geometry{}, refuse("bad-locator", "block 0: %v", err)
	}
	if want := g.locator(); !bytes.Equal(block, want) {
		return Geometry{}, refuse("bad-locator", "block 0, byte %d: not what %d data blocks and %d roots give", firstDifference(block, want), dataBlocks, roots)
	}
	return g, nil
}

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	if bytes.Equal(a[:n], b[:n]) {
		return n
	}
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// fillRoots returns the most parity roots, up to 24, with which an image of dataBlocks fits into capacity
// blocks, or 0 when none does.
func fillRoots(dataBlocks, capacity int64) int {
	for roots := 24; roots >= 2; roots-- {
		if g, err := NewGeometry(dataBlocks, roots); err == nil && g.ImageBlocks() <= capacity {
			return roots
		}
	}
	return 0
}
