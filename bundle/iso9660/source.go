package iso9660

import (
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"
)

const openSources = 16

// A Source is random access to a volume that is made from a layout and the files it was laid out from, for second passes over it. It is safe for concurrent use and keeps at most 16 files open.
type Source struct {
	l     *Layout
	open  func(i int) (io.ReaderAt, error)
	files []int32 // entries with data, in order of LBA

	mu    sync.Mutex
	slots []sourceSlot // most recently used last
}

type sourceSlot struct {
	entry int32
	r     io.ReaderAt
}

// ReaderAt returns the volume as an io.ReaderAt. open opens the data of entry i; what it returns is closed when it is an io.Closer, at the latest by Close. A file that is now shorter gives a *SizeError.
func (l *Layout) ReaderAt(open func(i int) (io.ReaderAt, error)) *Source {
	s := &Source{l: l, open: open}
	for i := range l.entries {
		if l.entries[i].Size > 0 {
			s.files = append(s.files, int32(i))
		}
	}
	return s
}

// Size returns the size of the volume in bytes.
func (s *Source) Size() int64 { return s.l.blocks * BlockSize }

// ReadAt implements io.ReaderAt.
func (s *Source) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("read volume: negative offset")
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= s.Size() {
			return done, io.EOF
		}
		n, err := s.readPart(p[done:], at)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// readPart reads some bytes at off, which lies inside the volume: at most to the end of what lies there.
func (s *Source) readPart(p []byte, off int64) (int, error) {
	if off < systemArea {
		n := min(len(p), int(systemArea-off))
		clear(p[:n])
		if off < int64(len(s.l.vol.SystemArea)) {
			copy(p[:n], s.l.vol.SystemArea[off:])
		}
		return n, nil
	}
	lba := off / BlockSize
	if lba < s.l.dataLBA {
		var b [BlockSize]byte
		return copy(p, s.l.directoryBlock(&b, lba)[off%BlockSize:]), nil
	}
	k := sort.Search(len(s.files), func(k int) bool { return int64(s.l.nodes[s.files[k]].at) > lba }) - 1
	i := s.files[k]
	e := &s.l.entries[i]
	pos := off - int64(s.l.nodes[i].at)*BlockSize
	if pos >= e.Size {
		n := min(int64(len(p)), blocksOf(e.Size)*BlockSize-pos)
		clear(p[:n])
		return int(n), nil
	}
	return s.readFile(p[:min(int64(len(p)), e.Size-pos)], i, pos)
}

func (s *Source) readFile(p []byte, i int32, pos int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.file(i)
	if err != nil {
		return 0, err
	}
	n, err := r.ReadAt(p, pos)
	e := &s.l.entries[i]
	switch {
	case n == len(p):
		return n, nil
	case err == io.EOF:
		return n, &SizeError{Path: e.Path, Want: e.Size, Got: pos + int64(n)}
	case err == nil:
		err = io.ErrNoProgress
	}
	return n, fmt.Errorf("read %q: %w", e.Path, err)
}

// file returns entry i opened, with s.mu held.
func (s *Source) file(i int32) (io.ReaderAt, error) {
	for k := range s.slots {
		if s.slots[k].entry == i {
			slot := s.slots[k]
			copy(s.slots[k:], s.slots[k+1:])
			s.slots[len(s.slots)-1] = slot
			return slot.r, nil
		}
	}
	if len(s.slots) == openSources {
		oldest := s.slots[0]
		s.slots = append(s.slots[:0], s.slots[1:]...)
		if err := oldest.close(); err != nil {
			return nil, err
		}
	}
	r, err := s.open(int(i))
	if err != nil {
		return nil, err
	}
	s.slots = append(s.slots, sourceSlot{i, r})
	return r, nil
}

func (s *sourceSlot) close() error {
	if c, ok := s.r.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Close closes the files that are open. The Source can still be used and opens them again.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for k := range s.slots {
		errs = append(errs, s.slots[k].close())
	}
	s.slots = nil
	return errors.Join(errs...)
}
