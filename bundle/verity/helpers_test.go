package verity

import (
	"fmt"
	"io"
	"sync"
	"testing"
)

// memory is an io.WriterAt that grows.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if need := off + int64(len(p)); need > int64(len(m.b)) {
		m.b = append(m.b, make([]byte, need-int64(len(m.b)))...)
	}
	return copy(m.b[off:], p), nil
}

// makeTree returns the tree over data.
func makeTree(t testing.TB, data, salt []byte) ([]byte, Params, [DigestSize]byte) {
	t.Helper()
	p := Params{DataBlocks: int64(len(data) / BlockSize), Salt: salt}
	var m memory
	w, err := NewTreeWriter(&m, p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	root, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return m.b, p, root
}

// counter counts how often each block is read, and watches the order and size
// of the reads.
type counter struct {
	r io.ReaderAt

	mu    sync.Mutex
	reads map[int64]int
	last  int64 // end of the read before
	back  bool  // a read began before that
	sizes map[int]int
}

func count(r io.ReaderAt) *counter {
	return &counter{r: r, reads: map[int64]int{}, sizes: map[int]int{}}
}

func (c *counter) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for b := off / BlockSize; b*BlockSize < off+int64(len(p)); b++ {
		c.reads[b]++
	}
	c.sizes[len(p)]++
	c.back = c.back || off < c.last
	c.last = off + int64(len(p))
	return c.r.ReadAt(p, off)
}

// once fails unless every block up to n, and none behind, was read exactly once.
func (c *counter) once(n int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for b, k := range c.reads {
		if b >= n {
			return fmt.Errorf("block %d was read, there are only %d", b, n)
		}
		if k != 1 {
			return fmt.Errorf("block %d was read %d times", b, k)
		}
	}
	if int64(len(c.reads)) != n {
		return fmt.Errorf("%d blocks were read, want all %d", len(c.reads), n)
	}
	return nil
}

// readerFunc is a ReadAt.
type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// empty is a medium without a byte on it.
type empty struct{}

func (*empty) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
