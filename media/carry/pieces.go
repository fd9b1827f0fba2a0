package carry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"unsafe"
)

// piece is a stretch that was read.
type piece struct {
	off int64
	b   []byte
	err error
}

// pieces reads the bytes from to to-1, one piece ahead of its caller, who owns a
// piece until the next. The last one may have an error, and nothing follows it.
// When the loop ends no read is under way.
func pieces(ctx context.Context, what string, r io.ReaderAt, from, to int64) iter.Seq[piece] {
	return func(yield func(piece) bool) {
		ctx, cancel := context.WithCancel(ctx)
		free, ready := make(chan []byte, 2), make(chan piece, 2)
		for range 2 {
			free <- buffer(int(min(chunk, max(to-from, 0))))
		}
		go readAhead(ctx, what, r, from, to, free, ready)
		defer func() {
			cancel()
			for range ready { // until the reader has ended
			}
		}()
		for p := range ready {
			if err := context.Cause(ctx); err != nil {
				p.err = err
			}
			if !yield(p) || p.err != nil {
				return
			}
			free <- p.b[:cap(p.b)]
		}
	}
}

// readAhead fills buffers.
func readAhead(ctx context.Context, what string, r io.ReaderAt, from, to int64, free <-chan []byte, ready chan<- piece) {
	defer close(ready)
	for off := from; off < to; {
		var p piece
		select {
		case b := <-free:
			p = piece{off: off, b: b[:min(int64(len(b)), to-off)]}
		case <-ctx.Done():
			ready <- piece{off: off, err: context.Cause(ctx)}
			return
		}
		if n, err := r.ReadAt(p.b, off); n < len(p.b) {
			p.off, p.err = off+int64(n), fmt.Errorf("read the %s: %w", what, orShort(err))
		}
		off += int64(len(p.b))
		ready <- p
		if p.err != nil {
			return
		}
	}
}

func orShort(err error) error {
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func writeFull(m io.WriterAt, p []byte, off int64) error {
	n, err := m.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// firstNonZero is the index of the first byte that isn't zero, or -1.
func firstNonZero(p []byte) int {
	return firstDifference(p, nothing[:len(p)])
}

var nothing [chunk]byte

// firstDifference is the index of the first byte in which two slices of one
// length differ, or -1.
func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// alignment of buffers in memory, in bytes, is enough for O_DIRECT.
const alignment = 4096

// buffer returns n zero bytes that begin at a multiple of the alignment in memory.
func buffer(n int) []byte {
	b := make([]byte, n+alignment)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) % alignment
	return b[skip : int(skip)+n : int(skip)+n]
}
