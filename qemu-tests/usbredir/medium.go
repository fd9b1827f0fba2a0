package usbredir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// Medium is what a disk keeps its blocks in. Offsets and sizes are bytes; reads and writes stay within Size. Its
// methods may be called from several goroutines.
type Medium interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Size() int64
}

// errOutside is a read or a write past a medium's end.
var errOutside = errors.New("past the end of the medium")

func inside(m Medium, n int, off int64) error {
	if off < 0 || int64(n) > m.Size()-off {
		return fmt.Errorf("%d bytes at offset %d of %d: %w", n, off, m.Size(), errOutside)
	}
	return nil
}

const pageSize = 64 << 10

// Memory is a medium that takes memory only for pages of 64 KiB that are written with something other than zeros.
type Memory struct {
	size  int64
	mu    sync.Mutex
	pages map[int64][]byte
}

// NewMemory makes a medium of zeros.
func NewMemory(size int64) *Memory { return &Memory{size: size, pages: map[int64][]byte{}} }

// Size implements Medium.
func (m *Memory) Size() int64 { return m.size }

// Sync implements Medium. There is nothing to do.
func (m *Memory) Sync() error { return nil }

// ReadAt implements io.ReaderAt.
func (m *Memory) ReadAt(p []byte, off int64) (int, error) {
	return m.each(p, off, func(page int64, at int, part []byte) {
		if b := m.pages[page]; b != nil {
			copy(part, b[at:])
		} else {
			clear(part)
		}
	})
}

// WriteAt implements io.WriterAt.
func (m *Memory) WriteAt(p []byte, off int64) (int, error) {
	return m.each(p, off, func(page int64, at int, part []byte) {
		b := m.pages[page]
		if b == nil {
			if isZero(part) {
				return
			}
			b = make([]byte, pageSize)
			m.pages[page] = b
		}
		copy(b[at:], part)
	})
}

// each calls do for the part of p that lies in each page.
func (m *Memory) each(p []byte, off int64, do func(page int64, at int, part []byte)) (int, error) {
	if err := inside(m, len(p), off); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := 0; n < len(p); {
		at := int((off + int64(n)) % pageSize)
		part := p[n:min(len(p), n+pageSize-at)]
		do((off+int64(n))/pageSize, at, part)
		n += len(part)
	}
	return len(p), nil
}

var zeros [4096]byte

func isZero(p []byte) bool {
	for len(p) > len(zeros) {
		if !bytes.Equal(p[:len(zeros)], zeros[:]) {
			return false
		}
		p = p[len(zeros):]
	}
	return bytes.Equal(p, zeros[:len(p)])
}

// File is a medium in a file, which is sparse where nothing was written. Whoever opened the file closes it.
type File struct {
	*os.File
	size int64
}

// NewFile makes the file as long as the medium.
func NewFile(f *os.File, size int64) (*File, error) {
	if err := f.Truncate(size); err != nil {
		return nil, fmt.Errorf("a medium of %d bytes: %w", size, err)
	}
	return &File{f, size}, nil
}

// Size implements Medium.
func (f *File) Size() int64 { return f.size }

// WriteAt implements io.WriterAt. A write past the medium's end doesn't make the file longer.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := inside(f, len(p), off); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

// Lie is how a stick hides that there is less in it than it says.
type Lie int

// Lies.
const (
	Limbo      Lie = iota // what is written past the real size vanishes
	Wraparound            // an address counts modulo the real size, which need be no power of two
	Chain                 // an address counts modulo Fake.Wrap, and from the real size on what is written vanishes
	Last                  // all past the real size is the last real block
)

// Fake is a medium that says it is larger than it is: its Size is Claim, and its real size that of the Medium in it.
type Fake struct {
	Medium
	Claim int64
	Lie   Lie
	Wrap  int64 // of Chain
	Block int64 // of Last; 512 if 0
	Noise bool  // what vanished reads as noise, that differs from address to address, and not as zeros
}

// Size implements Medium: it is what is claimed.
func (f *Fake) Size() int64 { return f.Claim }

// Real is the size that there is.
func (f *Fake) Real() int64 { return f.Medium.Size() }

// place is where an offset really is, how many bytes from there on stand together, and whether there is anything.
func (f *Fake) place(off int64) (at, n int64, there bool) {
	size := f.Medium.Size()
	if size <= 0 {
		return 0, f.Claim - off, false
	}
	switch f.Lie {
	case Wraparound:
		at = off % size
		return at, size - at, true
	case Chain:
		wrap := f.Wrap
		if wrap <= 0 {
			wrap = f.Claim
		}
		if at = off % wrap; at >= size {
			return 0, wrap - at, false
		}
		return at, min(size, wrap) - at, true
	case Last:
		block := f.Block
		if block == 0 {
			block = 512
		}
		if off >= size {
			at = off % block
			return size - block + at, block - at, true
		}
	}
	if off >= size {
		return 0, f.Claim - off, false
	}
	return off, size - off, true
}

// ReadAt implements io.ReaderAt.
func (f *Fake) ReadAt(p []byte, off int64) (int, error) {
	return f.each(p, off, func(part []byte, off, at int64, there bool) (int, error) {
		if there {
			return f.Medium.ReadAt(part, at)
		}
		for i := range part {
			part[i] = 0
			if f.Noise {
				// A multiplicative hash of the address: it looks like data, and is the same each time.
				part[i] = byte(uint64(off+int64(i)) * 0x9E3779B97F4A7C15 >> 56)
			}
		}
		return len(part), nil
	})
}

// WriteAt implements io.WriterAt.
func (f *Fake) WriteAt(p []byte, off int64) (int, error) {
	return f.each(p, off, func(part []byte, _, at int64, there bool) (int, error) {
		if there {
			return f.Medium.WriteAt(part, at)
		}
		return len(part), nil
	})
}

func (f *Fake) each(p []byte, off int64, do func(part []byte, off, at int64, there bool) (int, error)) (int, error) {
	if err := inside(f, len(p), off); err != nil {
		return 0, err
	}
	for n := 0; n < len(p); {
		at, room, there := f.place(off + int64(n))
		part := p[n:min(int64(len(p)), int64(n)+room)]
		done, err := do(part, off+int64(n), at, there)
		n += done
		if err != nil {
			return n, err
		}
	}
	return len(p), nil
}

// Cache is a medium's write cache: the Bytes written last are answered from it, and come to the medium when others
// push them out, or at Evict. Sync doesn't push them out, as that of a stick that lies doesn't.
type Cache struct {
	Medium
	Bytes int64
	Block int64 // what is kept together; 4096 if 0. It divides the medium's size

	mu     sync.Mutex
	blocks map[int64][]byte
	order  []int64 // of the blocks, oldest first
}

func (c *Cache) block() int64 {
	if c.Block == 0 {
		return 4096
	}
	return c.Block
}

// ReadAt implements io.ReaderAt.
func (c *Cache) ReadAt(p []byte, off int64) (int, error) {
	return c.each(p, off, func(part []byte, number, at int64) error {
		if b := c.blocks[number]; b != nil {
			copy(part, b[at:])
			return nil
		}
		_, err := c.Medium.ReadAt(part, number*c.block()+at)
		return err
	})
}

// WriteAt implements io.WriterAt.
func (c *Cache) WriteAt(p []byte, off int64) (int, error) {
	return c.each(p, off, func(part []byte, number, at int64) error {
		b := c.blocks[number]
		if b == nil {
			b = make([]byte, min(c.block(), c.Size()-number*c.block()))
			if int64(len(part)) < int64(len(b)) {
				if _, err := c.Medium.ReadAt(b, number*c.block()); err != nil {
					return err
				}
			}
			if c.blocks == nil {
				c.blocks = map[int64][]byte{}
			}
			c.blocks[number] = b
			c.order = append(c.order, number)
		}
		copy(b[at:], part)
		return c.evict(c.Bytes)
	})
}

func (c *Cache) each(p []byte, off int64, do func(part []byte, number, at int64) error) (int, error) {
	if err := inside(c, len(p), off); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := 0; n < len(p); {
		at := (off + int64(n)) % c.block()
		part := p[n:min(int64(len(p)), int64(n)+c.block()-at)]
		if err := do(part, (off+int64(n))/c.block(), at); err != nil {
			return n, err
		}
		n += len(part)
	}
	return len(p), nil
}

// evict pushes the oldest blocks out until no more than keep bytes are left. mu is held.
func (c *Cache) evict(keep int64) error {
	for len(c.order) > 0 && int64(len(c.order))*c.block() > keep {
		number := c.order[0]
		if _, err := c.Medium.WriteAt(c.blocks[number], number*c.block()); err != nil {
			return err
		}
		delete(c.blocks, number)
		c.order = c.order[1:]
	}
	return nil
}

// Evict pushes everything out, as losing power does with a stick that saves what it has.
func (c *Cache) Evict() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.evict(0)
}

// Changing is a medium some bytes of which are others from a certain read on.
type Changing struct {
	Medium
	Offset, Length int64 // the bytes
	From           int   // the read of any of them, counted from 1, from which on they are inverted; 2 if 0

	mu   sync.Mutex
	seen int
}

// ReadAt implements io.ReaderAt.
func (c *Changing) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.Medium.ReadAt(p, off)
	from, to := max(off, c.Offset), min(off+int64(n), c.Offset+c.Length)
	if from >= to {
		return n, err
	}
	c.mu.Lock()
	c.seen++
	lies := c.seen >= c.From && (c.From > 0 || c.seen >= 2)
	c.mu.Unlock()
	for i := from - off; lies && i < to-off; i++ {
		p[i] ^= 0xFF
	}
	return n, err
}
