package verity

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Area is a part of an image that is read, and mended in place. Offset 0 is its
// first block; [Repair] reads and writes whole blocks within the area only. What
// was written is what reads give from then on. ReadAt and WriteAt are called
// from several goroutines at once.
type Area interface {
	io.ReaderAt
	io.WriterAt
}

// Protected is a data area with its hash tree and parity, and what a trusted
// source says about them.
type Protected struct {
	Params    Params           // its UUID isn't used
	Root      [DigestSize]byte // the root hash: the only judge of data and tree
	Roots     int              // parity symbols in a codeword, MinFECRoots to MaxFECRoots
	ParitySum [DigestSize]byte // SHA-256 of the whole parity area
	Data      Area             // Params.DataBlocks blocks
	Tree      Area             // the tree without superblock, [TreeBlocks] blocks
	FEC       Area             // the parity, [FECBlocks] blocks
}

// RepairReport says what [Repair] did. Blocks count as repaired when they were
// unreadable, or other than they should be.
type RepairReport struct {
	Data   int64 // data blocks repaired
	Tree   int64 // hash blocks repaired
	Parity int64 // parity blocks repaired
	// Unreadable counts those of the repaired blocks that the medium didn't give.
	Unreadable int64
	// Worst is the number of symbols that the codeword hit worst had lost, of
	// the Roots that can be made good.
	Worst int
	// Located counts the data and hash blocks that were found by decoding with
	// unknown places of the errors, not by the tree.
	Located int64
}

// UnrepairableError says that more is damaged than parity can make good.
type UnrepairableError struct {
	// Worst is the number of symbols that the codeword hit worst is known to
	// have lost. It is at most Roots when the damage is there but its place
	// can't be told, because the part of the tree that would tell is lost too.
	Worst int
	Roots int   // symbols a codeword can lose
	Tree  bool  // Block is a hash block
	Block int64 // the first block that can't be made good: LBA of the data block, or hash block counted from behind the superblock
}

func (e *UnrepairableError) Error() string {
	if e.Worst > e.Roots {
		return fmt.Sprintf("repair %s block %d: the worst codeword lost %d symbols, %d can be made good", area(e.Tree), e.Block, e.Worst, e.Roots)
	}
	return fmt.Sprintf("repair %s block %d: more is damaged than can be located (%d symbols of a codeword are known to be lost, %d could be made good)", area(e.Tree), e.Block, e.Worst, e.Roots)
}

// ErrParitySum is returned when data and tree are what the root hash says but
// the parity made from them isn't what Protected.ParitySum says: whoever said so
// was wrong.
var ErrParitySum = errors.New("repair parity: the sha-256 of the parity made from repaired data and tree is not the one promised")

// Repair finds what is damaged in data, tree and parity, and mends it in place.
// What it writes over data and tree is checked against the root hash, and what
// it writes over parity against ParitySum, so that success means that every
// byte of the three areas is what it was made to be. Each block is read once to
// find the damage, in large pieces in ascending order; then the columns that
// need it are decoded. It takes about 64 MiB of memory whatever the size.
//
// progress, unless nil, is called from the caller's goroutine with what is being
// done ("survey", "decode", "locate", "check", "parity") and how many of how
// many blocks of that are done.
//
// When it returns, with whatever error, the areas are idle. Errors:
// [*UnrepairableError]; [ErrParitySum]; what an area's WriteAt says; the cause
// when ctx is cancelled; or p isn't valid. After an error the areas may be
// mended in part. A read that fails isn't an error, it is damage.
func Repair(ctx context.Context, p Protected, progress func(step string, done, total int64)) (*RepairReport, error) {
	if err := p.Params.Validate(); err != nil {
		return nil, err
	}
	tree, err := TreeBlocks(p.Params.DataBlocks)
	if err != nil {
		return nil, err
	}
	if rounds, err := FECRounds(p.Params.DataBlocks+tree, p.Roots); err != nil {
		return nil, err
	} else if rounds == 0 {
		return nil, errors.New("repair: there is no parity")
	}
	return nil, errors.New("repair: not possible yet")
}
