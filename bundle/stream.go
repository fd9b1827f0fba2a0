package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
)

// Stream is the image of a plan as an io.ReaderAt, for who reads it from front to back: nothing of it is kept but
// the scratch file of [Plan.WriteTo]. Reading at byte 0 begins anew, with the payload read once more. Reading at any
// other byte than the next is an error.
//
// The last byte comes only from a payload that gave the expected seal: an image that was read to its end is the
// signed one. Close it when done. It is for one goroutine at a time.
type Stream struct {
	ctx      context.Context
	plan     *Plan
	progress Progress

	mu   sync.Mutex
	pipe *io.PipeReader
	done chan struct{} // closed when nothing reads the payload any more
	next int64

	closed bool
}

// Stream opens the image of a plan that expects a seal ([Plan.Expect]).
func (p *Plan) Stream(ctx context.Context, progress Progress) (*Stream, error) {
	if p.expected == nil {
		return nil, errors.New("stream: no seal is expected")
	}
	return &Stream{ctx: ctx, plan: p, progress: progress}, nil
}

// Size returns the image's length in bytes.
func (s *Stream) Size() int64 { return s.plan.geometry.ImageBlocks() * BlockSize }

// ReadAt reads on, or at byte 0 begins anew. Errors are those of [Plan.WriteTo].
func (s *Stream) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, fmt.Errorf("read the image being made: %w", fs.ErrClosed)
	}
	if off == 0 && (s.pipe == nil || s.next > 0) {
		s.stop()
		s.start()
	}
	if off != s.next || s.pipe == nil {
		return 0, fmt.Errorf("read the image being made at byte %d: byte %d is next", off, s.next)
	}
	want := p[:min(int64(len(p)), s.Size()-s.next)]
	n, err := io.ReadFull(s.pipe, want)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err == nil && s.next+int64(n) == s.Size() {
		// Whether all came out as planned is known when the writer has returned.
		if _, end := s.pipe.Read(make([]byte, 1)); end != io.EOF {
			n, err = 0, errors.Join(errors.New("the image being made has no end"), end)
		}
	}
	s.next += int64(n)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (s *Stream) start() {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	s.pipe, s.done, s.next = pr, done, 0
	go func() {
		defer close(done)
		_, err := s.plan.WriteTo(s.ctx, pw, s.progress)
		pw.CloseWithError(err)
	}()
}

func (s *Stream) stop() {
	if s.pipe != nil {
		s.pipe.Close()
		<-s.done
		s.pipe = nil
	}
}

// Close ends the reading of the payload and waits for that.
func (s *Stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	s.closed = true
	return nil
}
