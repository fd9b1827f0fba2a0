package bundle

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

const (
	chunkBytes = 2 << 20 // of one write; a multiple of every sector size, for O_DIRECT
	chunks     = 8       // in flight
)

// spread hands the data area, chunk by chunk, to several writers at once and hashes the files in it, while the next
// chunk is being filled: reading the payload, hashing files and tree, and writing the image overlap, and all of them
// work on the same bytes in memory. It is the iso9660.Buffers of the writer that fills it.
type spread struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	free     chan *chunk
	cur      *chunk // being filled, or nil
	next     int64  // bytes passed on
	queues   []chan *chunk
	users    int32 // of each chunk
	running  sync.WaitGroup
	finished bool

	file   hash.Hash      // of the payload, which the chunks so far end in
	hashed sync.WaitGroup // chunks whose files are not yet hashed

	mu       sync.Mutex
	done     int64
	progress func(done int64)
}

// chunk is a piece of the data area.
type chunk struct {
	buf   []byte
	n     int   // bytes filled
	off   int64 // in the data area
	parts []part
	users atomic.Int32 // who have not yet done with it
}

// part is some of a file of the payload, and if sum is not nil its end.
type part struct {
	data []byte
	sum  *[32]byte // where the file's digest goes
}

// target is where the image goes.
type target struct {
	depth int // writes at once; with 1 they come in ascending order
	write func(p []byte, off int64) error
}

// streamTo is the target of what can't go back.
func streamTo(w io.Writer) target {
	return target{1, func(p []byte, _ int64) error { _, err := w.Write(p); return err }}
}

// newSpread starts the writers' goroutines.
func newSpread(ctx context.Context, step string, total int64, progress Progress, image target, tree io.Writer) *spread {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &spread{ctx: ctx, cancel: cancel, free: make(chan *chunk, chunks), file: sha256.New()}
	if progress != nil {
		s.progress = func(done int64) { progress(step, done, total) }
	}
	n := int(min(chunkBytes, max(total, BlockSize)))
	for range chunks {
		s.free <- &chunk{buf: make([]byte, n)}
	}
	s.start(image.depth, func(c *chunk) error { return image.write(c.buf[:c.n], c.off) })
	s.start(1, func(c *chunk) error { _, err := tree.Write(c.buf[:c.n]); return err })
	s.start(1, func(c *chunk) error { s.hash(c); return nil }, s.hashed.Done)
	return s
}

// start lets goroutines do something with each chunk, and call after. They empty their queue also after an error.
func (s *spread) start(goroutines int, do func(*chunk) error, after ...func()) {
	queue := make(chan *chunk, chunks)
	s.queues = append(s.queues, queue)
	s.users++
	for range goroutines {
		s.running.Go(func() {
			for c := range queue {
				if s.ctx.Err() == nil {
					if err := do(c); err != nil {
						s.cancel(err)
					}
				}
				for _, f := range after {
					f()
				}
				s.release(c)
			}
		})
	}
}

// release gives a chunk back when all have done with it.
func (s *spread) release(c *chunk) {
	if c.users.Add(-1) > 0 {
		return
	}
	if s.progress != nil && s.ctx.Err() == nil {
		s.mu.Lock()
		s.done += int64(c.n)
		s.progress(s.done)
		s.mu.Unlock()
	}
	s.free <- c
}

// Swap passes full on and returns the next chunk; an error of a writer or of the context comes back from a later call.
func (s *spread) Swap(full []byte) ([]byte, error) {
	if err := context.Cause(s.ctx); err != nil {
		return nil, err
	}
	if c := s.cur; len(full) > 0 {
		s.cur = nil
		c.n, c.off = len(full), s.next
		s.next += int64(c.n)
		c.users.Store(s.users)
		s.hashed.Add(1)
		for _, queue := range s.queues {
			queue <- c
		}
	}
	select {
	case s.cur = <-s.free:
		s.cur.parts = s.cur.parts[:0]
		return s.cur.buf, nil
	case <-s.ctx.Done():
		return nil, context.Cause(s.ctx)
	}
}

// takeFile notes that data, which lies in the current chunk, is the next of a file of the payload.
func (s *spread) takeFile(data []byte) { s.cur.parts = append(s.cur.parts, part{data: data}) }

// endFile notes that the file is complete. Its digest is in sum when wait has returned.
func (s *spread) endFile(sum *[32]byte) { s.cur.parts = append(s.cur.parts, part{sum: sum}) }

// hash hashes the files' parts of a chunk.
func (s *spread) hash(c *chunk) {
	for _, p := range c.parts {
		s.file.Write(p.data)
		if p.sum != nil {
			s.file.Sum(p.sum[:0])
			s.file.Reset()
		}
	}
}

// wait waits until all files so far are hashed.
func (s *spread) wait() error {
	s.hashed.Wait()
	if s.cur != nil {
		s.hash(s.cur)
		s.cur.parts = s.cur.parts[:0]
	}
	return context.Cause(s.ctx)
}

// finish waits until all is written.
func (s *spread) finish() error {
	s.stop()
	if err := context.Cause(s.ctx); err != nil && err != errSpreadDone {
		return err
	}
	return nil
}

var errSpreadDone = errors.New("all is written")

// stop ends the goroutines and waits for them; after it no writer is in use.
func (s *spread) stop() {
	if s.finished {
		return
	}
	s.finished = true
	for _, queue := range s.queues {
		close(queue)
	}
	s.running.Wait()
	s.cancel(errSpreadDone)
}
