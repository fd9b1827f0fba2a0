package burn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"sallyport/burn/mmc"
)

// BlockSize is the size of a block in bytes.
const BlockSize = mmc.BlockSize

// Image is what goes onto a disc.
//
// Disc reads the Source once, from front to back. It, and ReadBack, read it
// again only when the disc turns out to differ, to name the first block that
// does. The caller closes what is behind it, after Disc has returned.
type Image struct {
	Source io.ReaderAt
	Blocks uint32 // of 2,048 bytes
	SHA256 []byte // expected; nil: not known beforehand

	// Finish, when set, is called once the last block was read from Source,
	// before the last of them are written: a disc at once is closed by its last
	// block. An error ends the burn with the disc not closed, so that nobody
	// takes it for good.
	Finish func() error
}

func (i *Image) check() error {
	switch {
	case i.Blocks == 0:
		return errors.New("the image is empty")
	case i.SHA256 != nil && len(i.SHA256) != sha256.Size:
		return fmt.Errorf("the image's SHA-256 has %d bytes", len(i.SHA256))
	}
	return nil
}

const (
	packet    = 32                    // blocks of a WRITE or READ: 64 KiB, which every host adapter carries
	chunkSize = 16 * packet           // blocks read from the source at a time
	ahead     = 4                     // chunks read ahead
	chunkLen  = chunkSize * BlockSize // bytes
)

// stream reads a source from front to back in a goroutine, ahead of who uses
// it. Its memory is that of ahead+2 chunks. The source fills a chunk, and the
// drive's transport gets pieces of it: bytes are not copied in between. A
// chunk's capacity is of whole packets, so that its end can be padded in place.
type stream struct {
	chunks chan []byte
	free   chan []byte
	stop   chan struct{}
	err    error     // why chunks was closed early; read it after that
	sum    hash.Hash // over what went through; nil: not wanted; read it after chunks was closed
}

// newStream starts to read blocks of src. The caller calls close.
func newStream(src io.ReaderAt, blocks uint32, sum hash.Hash) *stream {
	s := &stream{
		chunks: make(chan []byte, ahead),
		free:   make(chan []byte, ahead+2),
		stop:   make(chan struct{}),
		sum:    sum,
	}
	for range ahead + 2 {
		s.free <- nil
	}
	go s.run(src, int64(blocks)*BlockSize)
	return s
}

// Digest reads an image from front to back and returns its SHA-256, for [Image].SHA256: a burn whose source has
// changed since ends in an error.
func Digest(ctx context.Context, image Image, progress func(done, total int64)) ([]byte, error) {
	if err := image.check(); err != nil {
		return nil, err
	}
	sum := sha256.New()
	s := newStream(image.Source, image.Blocks, sum)
	defer s.close()
	total := int64(image.Blocks) * BlockSize
	for done := int64(0); ; {
		b, err := s.next(ctx)
		if err == io.EOF {
			return sum.Sum(nil), nil
		}
		if err != nil {
			return nil, imageError(ctx, err)
		}
		done += int64(len(b))
		s.recycle(b)
		if progress != nil {
			progress(done, total)
		}
	}
}

func (s *stream) run(src io.ReaderAt, size int64) {
	defer close(s.chunks)
	for off := int64(0); off < size; {
		var b []byte
		select {
		case b = <-s.free:
		case <-s.stop:
			return
		}
		if b == nil {
			b = make([]byte, min(chunkLen, whole(size, packet*BlockSize)))
		}
		b = b[:min(int64(cap(b)), size-off)]
		n, err := src.ReadAt(b, off)
		if n < len(b) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			s.err = fmt.Errorf("at byte %d of %d: %w", off+int64(n), size, err)
			return
		}
		if s.sum != nil {
			s.sum.Write(b)
		}
		off += int64(len(b))
		select {
		case s.chunks <- b:
		case <-s.stop:
			return
		}
	}
}

// whole returns n rounded up to a multiple of unit.
func whole[T int | int64](n, unit T) T { return (n + unit - 1) / unit * unit }

// next returns the next chunk, which goes back with recycle; io.EOF at the end.
func (s *stream) next(ctx context.Context) ([]byte, error) {
	select {
	case b, ok := <-s.chunks:
		if ok {
			return b, nil
		}
		if s.err != nil {
			return nil, s.err
		}
		return nil, io.EOF
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *stream) recycle(b []byte) { s.free <- b[:cap(b)] }

// close ends the goroutine and waits for it: behind it nothing reads the
// source any more.
func (s *stream) close() {
	close(s.stop)
	for range s.chunks {
	}
}
