package iso9660

import (
	"errors"
	"fmt"
	"io"
)

const writeBuffer = 1 << 20 // bytes of each write: whole blocks

// directoryBlock returns block lba of the directory area, using b for what has to be made.
func (l *Layout) directoryBlock(b *[BlockSize]byte, lba int64) []byte {
	if lba < l.dirLBA {
		return l.head[(lba-descriptorLBA)*BlockSize:][:BlockSize]
	}
	l.dirBlock(b, lba)
	return b[:]
}

// WriteDirectoryArea writes LBA 16 up to DataStart to w: volume descriptors, path tables, directories. It gives the same bytes each time and holds no more than a buffer of them.
func (l *Layout) WriteDirectoryArea(w io.Writer) error {
	buf := make([]byte, 0, 64<<10)
	var block [BlockSize]byte
	for lba := int64(descriptorLBA); lba < l.dataLBA; lba++ {
		buf = append(buf, l.directoryBlock(&block, lba)...)
		if len(buf) == cap(buf) || lba == l.dataLBA-1 {
			if _, err := w.Write(buf); err != nil {
				return fmt.Errorf("write directory area: %w", err)
			}
			buf = buf[:0]
		}
	}
	return nil
}

// Buffers takes what a Writer has filled and gives it what to fill next, so that nothing is copied on its way.
type Buffers interface {
	// Swap takes a full buffer, a shorter one at the end and nil at the beginning, and returns an empty one of a whole number of blocks, all of which will be overwritten. The one taken is no longer used.
	Swap(full []byte) (empty []byte, err error)
}

// A Writer streams a volume: system area, directory area, then the files' data.
type Writer struct {
	l    *Layout
	to   Buffers
	buf  []byte
	n    int // bytes in buf
	next int // first entry that may still be written
	err  error
}

// NewWriter returns a Writer of the whole volume to w, which gets 1 MiB at a time, but for the last. Nothing is written before WriteFile or Close.
func (l *Layout) NewWriter(w io.Writer) *Writer { return l.NewWriterTo(oneBuffer{w}) }

// NewWriterTo returns a Writer of the whole volume into buffers. A Read of the reader that WriteFile is given reads into the buffer that Swap gave last. Nothing is asked of to before WriteFile or Close.
func (l *Layout) NewWriterTo(to Buffers) *Writer { return &Writer{l: l, to: to, next: -1} }

// oneBuffer is written whenever it is full.
type oneBuffer struct{ w io.Writer }

func (o oneBuffer) Swap(full []byte) ([]byte, error) {
	if full == nil {
		return make([]byte, writeBuffer), nil
	}
	_, err := o.w.Write(full)
	return full[:cap(full)], err
}

// start fills the buffer with what lies before the files.
func (w *Writer) start() error {
	w.next = 0
	if err := w.swap(nil); err != nil {
		return err
	}
	var system [systemArea]byte
	copy(system[:], w.l.vol.SystemArea)
	if _, err := w.write(system[:]); err != nil {
		return err
	}
	return w.l.WriteDirectoryArea(writerFunc(w.write))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (w *Writer) write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if err := w.room(); err != nil {
			return 0, err
		}
		k := copy(w.buf[w.n:], p)
		w.n += k
		p = p[k:]
	}
	return total, nil
}

// room makes sure that the buffer is not full.
func (w *Writer) room() error {
	if w.n < len(w.buf) {
		return nil
	}
	return w.flush()
}

func (w *Writer) flush() error {
	if w.n == 0 {
		return nil
	}
	return w.swap(w.buf[:w.n])
}

func (w *Writer) swap(full []byte) (err error) {
	if w.buf, err = w.to.Swap(full); err != nil {
		return fmt.Errorf("write volume: %w", err)
	}
	w.n = 0
	return nil
}

// skip goes to the next regular file.
func (w *Writer) skip() {
	for w.next < len(w.l.entries) && !w.l.entries[w.next].Mode.IsRegular() {
		w.next++
	}
}

// WriteFile writes the data of entry i, which must be the next regular file in the order of the entries, empty ones included. r must give exactly the entry's size and then io.EOF; else the error is a *SizeError and nothing more can be written.
func (w *Writer) WriteFile(i int, r io.Reader) error {
	if w.err == nil {
		w.err = w.writeFile(i, r)
	}
	return w.err
}

func (w *Writer) writeFile(i int, r io.Reader) error {
	if w.next < 0 {
		if err := w.start(); err != nil {
			return err
		}
	}
	w.skip()
	if i != w.next || i == len(w.l.entries) {
		return fmt.Errorf("write volume: file %d out of order, %d is next", i, w.next)
	}
	e := &w.l.entries[i]
	empty := 0
	for rest := e.Size; ; {
		if err := w.room(); err != nil {
			return err
		}
		// One byte more than is left is asked for, to see a file that has grown.
		n, err := r.Read(w.buf[w.n:min(int64(len(w.buf)), int64(w.n)+rest+1)])
		if int64(n) > rest {
			return &SizeError{Path: e.Path, Want: e.Size, Got: e.Size + int64(n) - rest}
		}
		w.n += n
		rest -= int64(n)
		switch {
		case err == io.EOF && rest > 0:
			return &SizeError{Path: e.Path, Want: e.Size, Got: e.Size - rest}
		case err == io.EOF:
			w.next++
			return w.padBlock()
		case err != nil:
			return fmt.Errorf("read %q: %w", e.Path, err)
		}
		if empty++; n > 0 {
			empty = 0
		} else if empty == 100 {
			return fmt.Errorf("read %q: %w", e.Path, io.ErrNoProgress)
		}
	}
}

// padBlock fills the last block with zero. The buffer is a whole number of blocks, so there is room.
func (w *Writer) padBlock() error {
	end := int(blocksOf(int64(w.n)) * BlockSize)
	clear(w.buf[w.n:end])
	w.n = end
	return nil
}

// Close writes what is buffered and checks that all files were written. It doesn't close the underlying writer.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	w.err = errors.New("write volume: already closed")
	if w.next < 0 {
		if err := w.start(); err != nil {
			return err
		}
	}
	if w.skip(); w.next < len(w.l.entries) {
		return fmt.Errorf("write volume: %q was not written", w.l.entries[w.next].Path)
	}
	return w.flush()
}
