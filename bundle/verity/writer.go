package verity

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
)

const (
	// batchBlocks data blocks (1 MiB) are hashed by one goroutine at a time.
	batchBlocks = 512
	// leafBuffer and upperBuffer bytes of hash blocks are collected before
	// they are written.
	leafBuffer  = 512 << 10
	upperBuffer = 64 << 10
	// maxInFlight bounds memory on machines with many cores.
	maxInFlight = 16
)

// TreeWriter computes a hash tree from data blocks written to it in order, in
// pieces of any size, and writes the hash blocks while the data flows. Blocks
// are hashed on all cores: whole MiBs that are written at once where they lie,
// before Write returns; smaller pieces in the background, from copies, so that
// an error of the destination can surface in a later Write or in Close.
//
// Its memory depends on the number of cores only (1 MiB each if there are small
// pieces, and 1 MiB of hash blocks). It is not safe for concurrent use. A TreeWriter that is dropped
// without Close leaks nothing.
type TreeWriter struct {
	dst    io.WriterAt
	limit  int64 // bytes of data expected
	got    int64 // bytes of data taken
	hasher *blockHasher
	levels []levelWriter // leaves first
	cur    *batch        // being filled, or nil
	queue  []*batch      // being hashed, oldest first
	free   []*batch
	depth  int // most batches alive at once, cur included
	root   [DigestSize]byte
	err    error // sticky
	closed bool
}

// batch is a run of data blocks on its way through a hashing goroutine.
type batch struct {
	data    []byte
	own     []byte // for small pieces, or nil
	digests []byte
	hasher  *blockHasher
	done    chan struct{}
}

// levelWriter collects the hash blocks of one level.
type levelWriter struct {
	level
	buf []byte
	off int64 // byte offset in dst where buf goes
}

// NewTreeWriter returns a writer for the tree that p describes. Hash blocks go
// to dst, whose offset 0 is the first block behind the superblock; the
// superblock itself isn't written. It fails when p isn't valid.
func NewTreeWriter(dst io.WriterAt, p Params) (*TreeWriter, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	w := &TreeWriter{
		dst:    dst,
		limit:  p.DataBlocks * BlockSize,
		hasher: newBlockHasher(slices.Clone(p.Salt)),
		depth:  min(runtime.GOMAXPROCS(0), maxInFlight) + 1,
	}
	for i, l := range layout(p.DataBlocks) {
		size := int64(upperBuffer)
		if i == 0 {
			size = leafBuffer
		}
		size = min(size, l.blocks*BlockSize)
		w.levels = append(w.levels, levelWriter{level: l, buf: make([]byte, 0, size), off: l.first * BlockSize})
	}
	return w, nil
}

// Write takes the next bytes of the data area. It fails, and takes only what
// fits, when there is more data than Params.DataBlocks says, and it fails when
// the destination does; every later call then fails too.
func (w *TreeWriter) Write(p []byte) (int, error) {
	if w.closed {
		return 0, errors.New("write to hash tree: already closed")
	}
	n, lent := 0, false
	for len(p) > 0 && w.err == nil {
		if w.got == w.limit {
			w.err = fmt.Errorf("write to hash tree: more data than the %d blocks announced", w.limit/BlockSize)
			break
		}
		if w.cur == nil {
			if w.cur, w.err = w.nextBatch(); w.err != nil {
				break
			}
		}
		b := w.cur
		k := int(min(int64(len(p)), w.limit-w.got, batchBlocks*BlockSize))
		if len(b.data) == 0 && k == batchBlocks*BlockSize {
			b.data, lent = p[:k:k], true
		} else {
			k = b.take(p[:k], w.limit)
		}
		p = p[k:]
		n += k
		w.got += int64(k)
		if len(b.data) == cap(b.data) {
			w.submit()
		}
	}
	for lent && len(w.queue) > 0 {
		// Taken even after an error: p goes back to the caller.
		if err := w.collect(); err != nil && w.err == nil {
			w.err, n = err, 0
		}
	}
	return n, w.err
}

// take copies as much of p as there is room for.
func (b *batch) take(p []byte, limit int64) int {
	if b.own == nil {
		b.own = make([]byte, 0, min(batchBlocks*BlockSize, limit))
	}
	if len(b.data) == 0 {
		b.data = b.own
	}
	k := copy(b.data[len(b.data):cap(b.data)], p)
	b.data = b.data[:len(b.data)+k]
	return k
}

// Close waits for the hashing, writes what is left of the tree and returns the
// root hash. It fails unless exactly Params.DataBlocks blocks were written; the
// tree in the destination is then incomplete and there is no root hash. It
// neither syncs nor closes the destination.
func (w *TreeWriter) Close() (root [DigestSize]byte, err error) {
	if w.closed {
		return root, errors.New("close hash tree: already closed")
	}
	w.closed = true
	if w.err == nil && w.got != w.limit {
		w.err = fmt.Errorf("close hash tree: got %d bytes of data, want %d blocks (%d bytes)", w.got, w.limit/BlockSize, w.limit)
	}
	if w.err == nil && w.cur != nil {
		w.submit()
	}
	for len(w.queue) > 0 {
		// Taken even after an error: no goroutine outlives Close.
		if err := w.collect(); w.err == nil {
			w.err = err
		}
	}
	for i := range w.levels {
		if w.err == nil {
			w.err = w.finish(i)
		}
	}
	if w.err != nil {
		return root, w.err
	}
	return w.root, nil
}

// nextBatch returns an empty batch, waiting for the oldest in flight when as
// many as allowed are alive.
func (w *TreeWriter) nextBatch() (*batch, error) {
	if len(w.free) == 0 && len(w.queue) >= w.depth {
		if err := w.collect(); err != nil {
			return nil, err
		}
	}
	if n := len(w.free); n > 0 {
		b := w.free[n-1]
		w.free = w.free[:n-1]
		return b, nil
	}
	return &batch{
		digests: make([]byte, 0, min(batchBlocks, w.limit/BlockSize)*DigestSize),
		hasher:  newBlockHasher(w.hasher.salt),
		done:    make(chan struct{}, 1),
	}, nil
}

// submit starts the hashing of the current batch, which holds whole blocks.
func (w *TreeWriter) submit() {
	b := w.cur
	w.cur = nil
	w.queue = append(w.queue, b)
	go func() {
		b.digests = b.hasher.appendSums(b.digests[:0], b.data)
		b.done <- struct{}{}
	}()
}

// collect waits for the oldest batch in flight and enters its digests.
func (w *TreeWriter) collect() error {
	b := w.queue[0]
	w.queue = slices.Delete(w.queue, 0, 1)
	<-b.done
	if w.err != nil {
		return w.err
	}
	err := w.add(0, b.digests)
	b.data = nil
	w.free = append(w.free, b)
	return err
}

// add appends digests to level i, and to the levels above as blocks fill up.
func (w *TreeWriter) add(i int, digests []byte) error {
	if i == len(w.levels) {
		copy(w.root[:], digests)
		return nil
	}
	l := &w.levels[i]
	for len(digests) > 0 {
		n := min(len(digests), BlockSize-len(l.buf)%BlockSize)
		l.buf = append(l.buf, digests[:n]...)
		digests = digests[n:]
		if len(l.buf)%BlockSize == 0 {
			if err := w.blockDone(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// blockDone passes the digest of the hash block just completed on level i
// upwards and writes the level's buffer when it is full.
func (w *TreeWriter) blockDone(i int) error {
	l := &w.levels[i]
	var digest [DigestSize]byte
	copy(digest[:], w.hasher.sum(l.buf[len(l.buf)-BlockSize:]))
	if err := w.add(i+1, digest[:]); err != nil {
		return err
	}
	if len(l.buf) < cap(l.buf) {
		return nil
	}
	return w.flush(l)
}

// finish completes the last block of level i with zeros and writes the rest.
func (w *TreeWriter) finish(i int) error {
	l := &w.levels[i]
	if used := len(l.buf) % BlockSize; used > 0 {
		l.buf = l.buf[:len(l.buf)+BlockSize-used]
		clear(l.buf[len(l.buf)-(BlockSize-used):])
		if err := w.blockDone(i); err != nil {
			return err
		}
	}
	return w.flush(l)
}

func (w *TreeWriter) flush(l *levelWriter) error {
	if len(l.buf) == 0 {
		return nil
	}
	if err := writeFull(w.dst, l.buf, l.off); err != nil {
		return fmt.Errorf("write hash blocks from %d: %w", l.off/BlockSize, err)
	}
	l.off += int64(len(l.buf))
	l.buf = l.buf[:0]
	return nil
}

// writeFull makes an error of a short write, whatever w says about it.
func writeFull(w io.WriterAt, p []byte, off int64) error {
	n, err := w.WriteAt(p, off)
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	return err
}
