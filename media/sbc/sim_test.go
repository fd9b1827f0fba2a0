package sbc

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"sallyport/media/scsi"
)

// stick simulates a disk behind a transport, honest unless told otherwise.
type stick struct {
	mu     sync.Mutex
	medium medium

	inquiry   []byte
	pages     map[byte][]byte // behind the header; nil: no pages
	luns      int             // 0: REPORT LUNS isn't known
	size      uint32          // bytes of a block
	blocks    uint64
	protected bool
	noMode    bool // MODE SENSE isn't known
	unmap     bool
	max       int // MaxTransfer

	// fail, when set, is asked before each command; what it returns is the answer.
	fail func(cdb []byte) error
	// short is by how many bytes transfers fall short.
	short int

	sent []byte // operation codes
	cdbs [][]byte
}

type medium interface {
	io.ReaderAt
	io.WriterAt
}

// sparse is a medium of which only what was written is kept.
type sparse struct {
	block int
	data  map[int64][]byte
}

func newSparse(block int) *sparse { return &sparse{block, make(map[int64][]byte)} }

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); n += s.block {
		clear(p[n : n+s.block])
		copy(p[n:n+s.block], s.data[off+int64(n)])
	}
	return len(p), nil
}

func (s *sparse) WriteAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); n += s.block {
		s.data[off+int64(n)] = slices.Clone(p[n : n+s.block])
	}
	return len(p), nil
}

func newStick(blocks uint64, size uint32) *stick {
	return &stick{
		medium: newSparse(int(size)), size: size, blocks: blocks, luns: 1,
		inquiry: []byte("\x00\x80\x06\x02\x1f\x00\x00\x00VENDOR  MODEL OF A STICK1.00"),
		pages: map[byte][]byte{
			PageSupported:      {0x00, 0x80, 0x83, 0xB0, 0xB2},
			PageSerial:         []byte("  4C530001"),
			PageIdentification: append([]byte{0x02, 0x01, 0, 4}, append([]byte("name"), 0x01, 0x03, 0, 8, 0x50, 1, 2, 3, 4, 5, 6, 7)...),
			PageBlockLimits:    {16: 0, 17: 1, 23: 1, 59: 0}, // 65,536 blocks, one descriptor
			PageProvisioning:   {1: 0x80, 3: 0},
		},
	}
}

func (s *stick) MaxTransfer() int { return s.max }

var illegal = &scsi.SenseError{Key: scsi.IllegalRequest, ASC: 0x20}

func (s *stick) Do(ctx context.Context, cdb []byte, d scsi.Data) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.sent, s.cdbs = append(s.sent, cdb[0]), append(s.cdbs, slices.Clone(cdb))
	if s.fail != nil {
		if err := s.fail(cdb); err != nil {
			return 0, err
		}
	}
	var reply []byte
	switch cdb[0] {
	case 0x00, 0x1B, 0x35:
		return 0, nil
	case 0x12:
		reply = s.inquiry
		if cdb[1]&1 != 0 {
			page, ok := s.pages[cdb[2]]
			if !ok {
				return 0, illegal
			}
			reply = append([]byte{0, cdb[2], 0, byte(len(page))}, page...)
		}
	case 0x1A:
		if s.noMode {
			return 0, illegal
		}
		reply = []byte{3, 0, bit(s.protected, 7), 0}
	case 0x25:
		reply = be.AppendUint32(be.AppendUint32(nil, uint32(min(s.blocks-1, 0xFFFFFFFF))), s.size)
	case 0x9E:
		reply = append(be.AppendUint32(be.AppendUint64(nil, s.blocks-1), s.size), make([]byte, 20)...)
	case 0xA0:
		if s.luns == 0 {
			return 0, illegal
		}
		reply = make([]byte, 8+8*s.luns)
		be.PutUint32(reply, uint32(8*s.luns))
	case 0x28, 0x2A:
		return s.move(uint64(be.Uint32(cdb[2:])), uint64(be.Uint16(cdb[7:])), d)
	case 0x88, 0x8A:
		return s.move(be.Uint64(cdb[2:]), uint64(be.Uint32(cdb[10:])), d)
	case 0x42:
		if !s.unmap {
			return 0, illegal
		}
		if len(d.Out) != 24 || be.Uint16(d.Out) != 22 || be.Uint16(d.Out[2:]) != 16 {
			return 0, errors.New("malformed UNMAP")
		}
		lba, n := be.Uint64(d.Out[8:]), uint64(be.Uint32(d.Out[16:]))
		if lba+n > s.blocks {
			return 0, errors.New("UNMAP past the end")
		}
		return len(d.Out), nil
	default:
		return 0, illegal
	}
	return copy(d.In, reply), nil
}

func (s *stick) move(lba, n uint64, d scsi.Data) (int, error) {
	size := uint64(s.size)
	if lba+n > s.blocks || uint64(d.Len()) != n*size {
		return 0, &scsi.SenseError{Key: scsi.IllegalRequest, ASC: 0x21}
	}
	if s.max > 0 && d.Len() > s.max {
		return 0, errors.New("more than the transport carries")
	}
	if s.protected && d.Out != nil {
		return 0, &scsi.SenseError{Key: scsi.DataProtect, ASC: 0x27}
	}
	if d.Out != nil {
		n, err := s.medium.WriteAt(d.Out, int64(lba*size))
		return n - s.short, err
	}
	m, err := s.medium.ReadAt(d.In, int64(lba*size))
	return m - s.short, err
}

// open opens the stick; no test waits for real.
func (s *stick) open(t testing.TB) *Disk {
	t.Helper()
	d, err := s.tryOpen(t)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (s *stick) tryOpen(t testing.TB) (*Disk, error) {
	d := &Disk{ctx: t.Context(), t: s, wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }}
	return d, d.open()
}

func (s *stick) count(op byte) (n int) {
	for _, o := range s.sent {
		if o == op {
			n++
		}
	}
	return n
}

// once returns a fail that answers the first n commands of an operation code with err.
func once(op byte, n int, err error) func([]byte) error {
	return func(cdb []byte) error {
		if cdb[0] != op || n == 0 {
			return nil
		}
		n--
		return err
	}
}
