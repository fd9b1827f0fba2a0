package verity

import (
	"fmt"
	"io"
	"sync"
)

// Reader is the data area as the tree vouches for it: every block is checked,
// each time it is read, before a byte of it is returned, so a medium that
// answers differently the second time gives an error and never other bytes. It
// is safe for concurrent use if the underlying readers are.
type Reader struct {
	data io.ReaderAt
	tree *Tree
	size int64 // bytes
}

// NewReader returns a reader of the data area that t covers. Offset 0 of data
// is LBA 0; nothing behind the last data block is read. It is the caller who
// closes what is behind data and t.
func NewReader(data io.ReaderAt, t *Tree) *Reader {
	return &Reader{data: data, tree: t, size: t.params.DataBlocks * BlockSize}
}

// Size returns the length of the data area in bytes, a multiple of BlockSize.
func (r *Reader) Size() int64 { return r.size }

// chunkBlocks is the number of data blocks (1 MiB) read and checked together.
// It divides what is under one batch of leaves: an aligned chunk needs one.
const chunkBlocks = 512

var scratch = sync.Pool{New: func() any { return new([BlockSize]byte) }}

// ReadAt implements [io.ReaderAt] for any offset and length in bytes. The n
// bytes it returns are checked; the rest of p is zeroed when there is an error
// other than io.EOF. Where the read doesn't begin or end on a block's border
// the whole block is read and checked.
//
// Errors: [*DamagedError] and [*ReadError], naming the LBA.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read verified data: negative offset %d", off)
	}
	if off >= r.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), r.size-off)]
	n := 0
	for n < len(want) {
		k, err := r.readSome(want[n:], off+int64(n))
		n += k
		if err != nil {
			clear(p[n:])
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readSome reads part of a block, or whole blocks up to the end of the aligned
// chunk that off is in. The caller has checked the bounds.
func (r *Reader) readSome(p []byte, off int64) (int, error) {
	lba, in := off/BlockSize, off%BlockSize
	if in > 0 || len(p) < BlockSize {
		block := scratch.Get().(*[BlockSize]byte)
		defer scratch.Put(block)
		if _, err := r.readBlocks(block[:], lba); err != nil {
			return 0, err
		}
		return copy(p, block[in:]), nil
	}
	blocks := min(int64(len(p)/BlockSize), chunkBlocks-lba%chunkBlocks)
	return r.readBlocks(p[:blocks*BlockSize], lba)
}

// readBlocks fills p with the blocks from lba on, which lie in one aligned
// chunk, and returns how many bytes of them, whole blocks, are good.
func (r *Reader) readBlocks(p []byte, lba int64) (int, error) {
	digests, err := r.tree.digestsFrom(lba)
	if err != nil {
		return 0, fmt.Errorf("check data block %d: %w", lba, err)
	}
	n, err := readFull(r.data, p, lba*BlockSize)
	whole := n / BlockSize
	if bad := r.tree.checker.firstBad(p[:whole*BlockSize], digests); bad < whole {
		return bad * BlockSize, &DamagedError{Block: lba + int64(bad), Err: errDigest}
	}
	if err != nil {
		return whole * BlockSize, &ReadError{
			Block: lba + int64(whole),
			Count: int64(len(p)/BlockSize - whole),
			Err:   err,
		}
	}
	return n, nil
}
