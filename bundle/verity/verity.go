// Package verity makes and checks dm-verity hash trees and FEC parity over
// 2,048-byte blocks, in memory that doesn't grow with the data.
//
// The formats are those of the kernel's
// Documentation/admin-guide/device-mapper/verity.rst and of cryptsetup's
// veritysetup, hash type 1 (the salt is hashed before the block), SHA-256, data
// and hash blocks of BlockSize bytes: what this package writes is byte for byte
// what `veritysetup format` writes with the same salt, UUID and geometry.
//
// Writing: a [TreeWriter] takes the data as it flows by and writes the tree,
// [Superblock] gives the block before the tree, and [EncodeFEC] computes parity
// over data and tree.
//
// Reading: [OpenTree] checks the upper levels against a root hash that the
// caller trusts, and a [Reader] hands out only data that the tree vouches for.
//
// Units: a block is BlockSize bytes. Data blocks are numbered by LBA from the
// start of the data area, hash blocks from the first block behind the
// superblock. Nothing here opens or closes a file.
package verity

import (
	"encoding/binary"
	"fmt"
)

const (
	// BlockSize is the size in bytes of a data block and of a hash block.
	BlockSize = 2048
	// DigestSize is the size in bytes of a digest, and of the root hash.
	DigestSize = 32
	// MaxSaltSize is the size in bytes of the longest salt the superblock holds.
	MaxSaltSize = 256
	// MaxDataBlocks is the largest number of data blocks this package handles
	// (2 PiB). It keeps every byte offset far from overflow.
	MaxDataBlocks = 1 << 40

	digestsPerBlock = BlockSize / DigestSize
)

// Params is the geometry of a hash tree; with the data it determines every byte
// of superblock, tree and root hash.
type Params struct {
	DataBlocks int64    // length of the data area in blocks, 1 to MaxDataBlocks
	Salt       []byte   // hashed before each block, at most MaxSaltSize bytes
	UUID       [16]byte // names the hash device; stands in the superblock only
}

// Validate says whether p can be represented on disk: the number of data blocks
// and the length of the salt must be within bounds.
func (p Params) Validate() error {
	if err := checkDataBlocks(p.DataBlocks); err != nil {
		return err
	}
	if len(p.Salt) > MaxSaltSize {
		return fmt.Errorf("hash tree geometry: the salt has %d bytes, at most %d are possible", len(p.Salt), MaxSaltSize)
	}
	return nil
}

func checkDataBlocks(n int64) error {
	if n < 1 || n > MaxDataBlocks {
		return fmt.Errorf("hash tree geometry: %d data blocks, want 1 to %d", n, int64(MaxDataBlocks))
	}
	return nil
}

// TreeBlocks returns the number of hash blocks, the superblock not counted, of
// a tree over dataBlocks blocks. A single data block needs none: its digest is
// the root hash. It fails unless dataBlocks is 1 to MaxDataBlocks.
func TreeBlocks(dataBlocks int64) (int64, error) {
	if err := checkDataBlocks(dataBlocks); err != nil {
		return 0, err
	}
	var sum int64
	for _, l := range layout(dataBlocks) {
		sum += l.blocks
	}
	return sum, nil
}

// level is the place of one level of the tree, in blocks from the first hash
// block.
type level struct {
	first  int64
	blocks int64
	// children is the number of digests in the level: data blocks for the
	// leaves, else hash blocks of the level below.
	children int64
}

// layout returns the levels of a tree, leaves first. On disk the top level
// comes first and the leaves last. The caller has checked dataBlocks.
func layout(dataBlocks int64) []level {
	var levels []level
	var sum int64
	for n := dataBlocks; n > 1; {
		blocks := (n + digestsPerBlock - 1) / digestsPerBlock
		levels = append(levels, level{blocks: blocks, children: n})
		sum += blocks
		n = blocks
	}
	for i := range levels {
		sum -= levels[i].blocks
		levels[i].first = sum
	}
	return levels
}

// Superblock returns the block in front of the tree: cryptsetup's struct
// verity_sb, little-endian, zero-padded to a block. It is deterministic, so a
// verifier compares it whole; veritysetup itself ignores UUID and padding. It
// fails when p isn't valid.
func Superblock(p Params) ([BlockSize]byte, error) {
	var sb [BlockSize]byte
	if err := p.Validate(); err != nil {
		return sb, err
	}
	le := binary.LittleEndian
	copy(sb[0:8], "verity\x00\x00")
	le.PutUint32(sb[8:], 1)  // version of the superblock
	le.PutUint32(sb[12:], 1) // hash type: salt first
	copy(sb[16:32], p.UUID[:])
	copy(sb[32:64], "sha256")
	le.PutUint32(sb[64:], BlockSize) // data blocks
	le.PutUint32(sb[68:], BlockSize) // hash blocks
	le.PutUint64(sb[72:], uint64(p.DataBlocks))
	le.PutUint16(sb[80:], uint16(len(p.Salt)))
	copy(sb[88:344], p.Salt)
	return sb, nil
}
