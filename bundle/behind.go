package bundle

import (
	"io"
	"slices"
	"sync"
)

// writeBehind writes an image while its caller goes on: what it takes is copied to chunks, and those go to the file two
// at a time and past the page cache, as an image in the making does. Areas of the image may be taken by turns, each in
// ascending order. take, flush and stop are for one goroutine at a time.
type writeBehind struct {
	img     *image
	failed  func(error) // told, from another goroutine, of the first write that fails; may be nil
	open    []*behindChunk
	free    chan *behindChunk
	full    chan *behindChunk
	pending sync.WaitGroup // chunks on their way
	running sync.WaitGroup

	mu  sync.Mutex
	err error
}

const (
	behindChunks  = 6 // of chunkBytes
	behindOpen    = 2 // of them are being filled
	behindWriters = 2
)

type behindChunk struct {
	buf []byte
	n   int
	off int64 // in the image
}

func newWriteBehind(img *image, failed func(error)) *writeBehind {
	w := &writeBehind{img: img, failed: failed, free: make(chan *behindChunk, behindChunks), full: make(chan *behindChunk, behindChunks)}
	for range behindChunks {
		w.free <- new(behindChunk)
	}
	for range behindWriters {
		w.running.Go(func() {
			for c := range w.full {
				w.write(c)
				w.pending.Done()
			}
		})
	}
	return w
}

// take writes p, sooner or later.
func (w *writeBehind) take(p []byte, off int64) {
	for len(p) > 0 {
		c := w.chunk(off)
		if c.buf == nil {
			c.buf = make([]byte, chunkBytes)
		}
		// A chunk ends on a border: the next one is aligned as O_DIRECT wants it.
		n := copy(c.buf[c.n:c.n+int(min(int64(len(p)), chunkBytes-off%chunkBytes))], p)
		c.n += n
		p, off = p[n:], off+int64(n)
		if off%chunkBytes == 0 {
			w.pass(slices.Index(w.open, c))
		}
	}
}

// chunk returns the open one that goes on at byte off, or a new one.
func (w *writeBehind) chunk(off int64) *behindChunk {
	for _, c := range w.open {
		if c.off+int64(c.n) == off {
			return c
		}
	}
	if len(w.open) == behindOpen {
		w.pass(0)
	}
	c := <-w.free
	c.n, c.off = 0, off
	w.open = append(w.open, c)
	return c
}

// pass sends an open chunk to the file.
func (w *writeBehind) pass(i int) {
	c := w.open[i]
	w.open = slices.Delete(w.open, i, i+1)
	if c.off%directAlign == 0 && c.n%directAlign == 0 {
		w.pending.Add(1)
		w.full <- c
		return
	}
	// It goes through the page cache, and may share a page with a chunk that doesn't: not at the same time.
	w.pending.Wait()
	w.write(c)
}

func (w *writeBehind) write(c *behindChunk) {
	if w.cause() == nil {
		if err := w.img.writeData(c.buf[:c.n], c.off); err != nil {
			w.mu.Lock()
			first := w.err == nil
			if first {
				w.err = err
			}
			w.mu.Unlock()
			if first && w.failed != nil {
				w.failed(err)
			}
		}
	}
	w.free <- c
}

func (w *writeBehind) cause() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// flush returns when all that was taken is in the file, or with the error that kept it from getting there.
func (w *writeBehind) flush() error {
	for len(w.open) > 0 {
		w.pass(0)
	}
	w.pending.Wait()
	return w.cause()
}

// stop ends the goroutines; what was not flushed may be lost.
func (w *writeBehind) stop() {
	close(w.full)
	w.running.Wait()
}

// writeParity lets encode write the parity area, which begins at byte off, behind its back: what would wait for the disk
// in the end, and push the payload out of the page cache, is on its way while parity is computed.
func (img *image) writeParity(off int64, encode func(io.WriterAt) ([]byte, error)) ([]byte, error) {
	w := newWriteBehind(img, nil)
	defer w.stop()
	sum, err := encode(behindAt{w, off})
	if err != nil {
		return nil, err
	}
	return sum, w.flush()
}

// behindAt is an area of the image, from byte off on.
type behindAt struct {
	w   *writeBehind
	off int64
}

func (b behindAt) WriteAt(p []byte, off int64) (int, error) {
	if err := b.w.cause(); err != nil {
		return 0, err
	}
	b.w.take(p, b.off+off)
	return len(p), nil
}
