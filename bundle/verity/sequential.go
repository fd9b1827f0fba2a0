package verity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Sequential returns a stream of count blocks from LBA first on. The medium is
// read in strictly ascending order, each block once, in pieces of 1 MiB that
// begin at multiples of 1 MiB (but for the first and the last); while the caller
// consumes one piece the next is read and checked on all cores. Every byte that
// Read returns is checked. An error comes after all the good data in front of
// it and is final: [*DamagedError] and [*ReadError] name the LBA, and a caller
// who wants what is behind it starts again there.
//
// A goroutine reads ahead until the stream has ended, failed or been closed, or
// until ctx is cancelled, which makes Read fail with the cause at once. Close
// stops it and waits for a read of the medium that is under way: after Close
// the medium is idle. The caller closes the stream, whatever Read said. It is
// for one goroutine, but Close may be called from another.
func (r *Reader) Sequential(ctx context.Context, first, count int64) io.ReadCloser {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stream{
		ctx:    ctx,
		cancel: cancel,
		chunks: make(chan chunk),
		free:   make(chan []byte, streamChunks),
		done:   make(chan struct{}),
	}
	go func() {
		defer close(s.done)
		s.fill(r, first, count)
	}()
	return s
}

var errRange = errors.New("outside the data area")

// streamChunks is the number of buffers: one with the caller, one being filled.
const streamChunks = 2

type stream struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	chunks chan chunk
	free   chan []byte
	done   chan struct{} // closed when the goroutine has ended

	cur  chunk
	rest []byte // of cur, not yet handed out
	err  error  // sticky
}

// chunk is a piece of checked data and the error, if any, that comes after it.
type chunk struct {
	data []byte
	err  error
}

// fill reads, checks and passes on the blocks. It runs in its own goroutine.
func (s *stream) fill(r *Reader, first, count int64) {
	total := r.size / BlockSize
	if first < 0 || count < 0 || first > total || count > total-first {
		s.send(chunk{err: fmt.Errorf("read data blocks: %d blocks from %d on: %w", count, first, errRange)})
		return
	}
	for made := 0; count > 0; made++ {
		var buf []byte
		if made < streamChunks {
			buf = make([]byte, min(count, chunkBlocks)*BlockSize)
		} else {
			select {
			case buf = <-s.free:
			case <-s.ctx.Done():
				return
			}
		}
		if s.ctx.Err() != nil {
			return
		}
		blocks := min(count, chunkBlocks-first%chunkBlocks)
		n, err := r.readBlocks(buf[:blocks*BlockSize], first)
		if !s.send(chunk{buf[:n], err}) || err != nil {
			return
		}
		first += blocks
		count -= blocks
	}
	s.send(chunk{err: io.EOF})
}

// send reports whether the chunk was taken.
func (s *stream) send(c chunk) bool {
	select {
	case s.chunks <- c:
		return true
	case <-s.ctx.Done():
		return false
	}
}

func (s *stream) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	if len(p) == 0 {
		return 0, nil
	}
	for len(s.rest) == 0 {
		if s.err == nil {
			s.err = s.cur.err
		}
		if s.err != nil {
			return 0, s.err
		}
		if s.cur.data != nil {
			s.free <- s.cur.data[:cap(s.cur.data)]
			s.cur.data = nil
		}
		select {
		case s.cur = <-s.chunks:
			s.rest = s.cur.data
		case <-s.ctx.Done():
			return 0, context.Cause(s.ctx)
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Close makes further reads fail with fs.ErrClosed. It returns nil.
func (s *stream) Close() error {
	s.cancel(fs.ErrClosed)
	<-s.done
	return nil
}
