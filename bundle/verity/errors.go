package verity

import (
	"errors"
	"fmt"
	"io"
)

// DamagedError says that a block was read and isn't what the root hash vouches
// for. When the tree stops a [Reader] from checking a data block, the error
// names both and the DamagedError in it is the hash block's.
type DamagedError struct {
	Tree  bool  // Block is a hash block
	Block int64 // LBA of the data block, or hash block counted from behind the superblock
	Err   error // what is wrong with it
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("check %s block %d: %v", area(e.Tree), e.Block, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// ReadError says that the medium failed, or ended, while blocks were read. Which
// of Count blocks the medium objects to isn't known: Block is the first that
// didn't arrive.
type ReadError struct {
	Tree  bool  // Block is a hash block
	Block int64 // LBA of the data block, or hash block counted from behind the superblock
	Count int64 // blocks missing of those asked for, at least 1
	Err   error // the medium's error; io.ErrUnexpectedEOF if it ended
}

func (e *ReadError) Error() string {
	if e.Count == 1 {
		return fmt.Sprintf("read %s block %d: %v", area(e.Tree), e.Block, e.Err)
	}
	return fmt.Sprintf("read %s blocks %d to %d: %v", area(e.Tree), e.Block, e.Block+e.Count-1, e.Err)
}

func (e *ReadError) Unwrap() error { return e.Err }

func area(tree bool) string {
	if tree {
		return "hash"
	}
	return "data"
}

var (
	errDigest  = errors.New("its sha-256 is not the one in the hash tree")
	errRoot    = errors.New("its sha-256 is not the root hash")
	errPadding = errors.New("the padding behind its last digest is not zero")
	errReader  = errors.New("the reader claims to have read more than it was asked for")
)

// readFull fills p from byte offset off and returns how many bytes it got. It
// takes nothing the reader says for granted: a short read without an error is
// continued, end of file before p is full is io.ErrUnexpectedEOF, and an error
// with a full p counts unless it is io.EOF.
func readFull(r io.ReaderAt, p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		k, err := r.ReadAt(p[n:], off+int64(n))
		if k < 0 || k > len(p)-n {
			return n, errReader
		}
		n += k
		switch {
		case err == io.EOF && n == len(p):
			return n, nil
		case err == io.EOF:
			return n, io.ErrUnexpectedEOF
		case err != nil:
			return n, err
		case k == 0:
			return n, io.ErrNoProgress
		}
	}
	return n, nil
}
