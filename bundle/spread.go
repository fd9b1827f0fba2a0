package bundle

import (
	"context"
	"errors"
	"io"
)

const (
	chunkBytes = 4 << 20 // of one write; a multiple of every sector size, for O_DIRECT
	chunks     = 4       // in flight
)

// spread hands what is written to it to several writers at once, chunk by chunk, while the next chunk is
// being filled: reading the payload, hashing the tree and writing the image overlap.
type spread struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	chunk    []byte
	free     chan []byte
	full     chan []byte
	ended    chan struct{} // closed when the goroutine has ended
	finished bool
}

func newSpread(ctx context.Context, step string, total int64, progress Progress, writers ...io.Writer) *spread {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &spread{ctx: ctx, cancel: cancel, free: make(chan []byte, chunks), full: make(chan []byte, chunks), ended: make(chan struct{})}
	n := int(min(chunkBytes, max(total, BlockSize)))
	for range chunks {
		s.free <- make([]byte, 0, n)
	}
	s.chunk = <-s.free
	go s.run(step, total, progress, writers)
	return s
}

func (s *spread) run(step string, total int64, progress Progress, writers []io.Writer) {
	defer close(s.ended)
	var done int64
	for b := range s.full {
		if s.ctx.Err() != nil {
			return
		}
		errs := make(chan error, len(writers))
		for _, w := range writers[1:] {
			go func() { _, err := w.Write(b); errs <- err }()
		}
		_, err := writers[0].Write(b)
		for range writers[1:] {
			if e := <-errs; err == nil {
				err = e
			}
		}
		if err != nil {
			s.cancel(err)
			return
		}
		done += int64(len(b))
		if progress != nil {
			progress(step, done, total)
		}
		s.free <- b[:0]
	}
}

// Write takes p in; an error of a writer or of the context comes back from a later call.
func (s *spread) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), cap(s.chunk)-len(s.chunk))
		s.chunk = append(s.chunk, p[:k]...)
		p = p[k:]
		if len(s.chunk) == cap(s.chunk) {
			if err := s.pass(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (s *spread) pass() error {
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	s.full <- s.chunk
	select {
	case s.chunk = <-s.free:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// finish passes the rest on and waits until all is written.
func (s *spread) finish() error {
	if len(s.chunk) > 0 {
		if err := s.pass(); err != nil {
			return err
		}
	}
	s.stop()
	if err := context.Cause(s.ctx); err != nil && err != errSpreadDone {
		return err
	}
	return nil
}

var errSpreadDone = errors.New("all is written")

// stop ends the goroutine and waits for it; after it no writer is in use.
func (s *spread) stop() {
	if s.finished {
		return
	}
	s.finished = true
	close(s.full)
	<-s.ended
	s.cancel(errSpreadDone)
}
