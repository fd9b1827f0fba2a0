package sbc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"sallyport/media/scsi"
)

var (
	attention = &scsi.SenseError{Key: scsi.UnitAttention, ASC: 0x28}
	aborted   = &scsi.SenseError{Key: scsi.AbortedCommand, ASC: 0x47}
	readError = &scsi.SenseError{Key: scsi.MediumError, ASC: 0x11, Info: 11, InfoValid: true}
	protect   = &scsi.SenseError{Key: scsi.DataProtect, ASC: 0x27}
	noMedium  = &scsi.SenseError{Key: scsi.NotReady, ASC: 0x3A}
	becoming  = &scsi.SenseError{Key: scsi.NotReady, ASC: 0x04, ASCQ: 0x01}
	late      = &scsi.SenseError{Key: scsi.MediumError, ASC: 0x0C, Deferred: true}
	pulled    = &scsi.TransportError{Host: 1, Err: scsi.ErrGone}
	stalled   = &scsi.TransportError{Host: 3, Err: scsi.ErrTimeout}
	lost      = &scsi.TransportError{Host: 7, Err: errors.New("the host adapter failed")}
)

func TestOpenDisk(t *testing.T) {
	s := newStick(15_728_640, 512)
	d := s.open(t)
	want := Identity{"VENDOR", "MODEL OF A STICK", "1.00", "4C530001", "naa.5001020304050607", true}
	if d.Identity() != want || d.Size() != 15_728_640*512 || d.BlockSize() != 512 || d.WriteProtected() {
		t.Errorf("%+v, %d bytes in blocks of %d", d.Identity(), d.Size(), d.BlockSize())
	}
	// More than READ CAPACITY (10) can tell, blocks of 4,096 bytes, write-protected.
	s = newStick(1<<33, 4096)
	s.protected = true
	if d = s.open(t); d.Size() != 1<<45 || !d.WriteProtected() || s.count(0x9E) == 0 {
		t.Errorf("%d bytes, write-protected %v", d.Size(), d.WriteProtected())
	}
	// An old stick is asked for no pages and no units, and its mode page may be missing.
	s = newStick(4096, 512)
	s.inquiry[2], s.noMode = 4, true
	if d = s.open(t); d.Identity().Serial != "" || s.count(0xA0) != 0 || s.count(0x12) != 1 {
		t.Errorf("%+v, sent % x", d.Identity(), s.sent)
	}
}

func TestOpenDiskRefuses(t *testing.T) {
	for _, tt := range []struct {
		change func(s *stick)
		want   string
	}{
		{func(s *stick) { s.inquiry[0] = 5 }, "not-a-disk: refused: the device is of peripheral type 5 (qualifier 0), a disk is of type 0"},
		{func(s *stick) { s.inquiry[0] = 0x7F }, "not-a-disk: refused: the device is of peripheral type 31 (qualifier 3), a disk is of type 0"},
		{func(s *stick) { s.luns = 2 }, "several-units: refused: the device has 2 logical units, a plain disk has one"},
		{func(s *stick) { s.blocks = 1 }, "no-capacity: refused: the disk says that its last block is 0: it has no capacity"},
		{func(s *stick) { s.blocks = 0 }, "no-capacity: refused: the disk says that its last block is 18446744073709551615: it has no capacity"},
		{func(s *stick) { s.blocks = 1 << 55 }, "no-capacity: refused: the disk says that it has 36028797018963968 blocks of 512 bytes"},
		{func(s *stick) { s.size = 2048 }, "block-size: refused: the disk has blocks of 2048 bytes, want 512 or 4096"},
		{func(s *stick) { s.size = 0 }, "block-size: refused: the disk has blocks of 0 bytes, want 512 or 4096"},
		{func(s *stick) { s.size = 1 << 31 }, "block-size: refused: the disk has blocks of 2147483648 bytes, want 512 or 4096"},
	} {
		s := newStick(4096, 512)
		tt.change(s)
		_, err := s.tryOpen(t)
		if r, ok := errors.AsType[*RefusedError](err); !ok || r.RefusalCode()+": "+r.Error() != tt.want {
			t.Errorf("got %v, want %q", err, tt.want)
		}
		if s.count(0x28)+s.count(0x88) != 0 {
			t.Errorf("%s: blocks were read", tt.want)
		}
	}
	for _, tt := range []struct {
		fail func([]byte) error
		is   error
		want string
	}{
		{once(0x00, -1, noMedium), ErrNoMedium, "no medium"},
		{once(0x00, -1, pulled), scsi.ErrGone, "gone from the bus"},
		{once(0x1A, -1, stalled), scsi.ErrTimeout, "MODE SENSE(6): transport (host status 03h, driver status 00h): no answer within the time limit"},
		{once(0x00, -1, becoming), scsi.BecomingReady, "not ready after 15s"},
		{once(0x00, -1, attention), scsi.MediumChanged, "TEST UNIT READY: sense 6/28/00"},
		{once(0x25, -1, attention), scsi.MediumChanged, "9 unit attentions in a row"},
		{once(0x25, -1, &scsi.SenseError{Key: scsi.HardwareError}), scsi.AnyHardwareError, "READ CAPACITY(10): sense 4/00/00"},
		{once(0xA0, -1, pulled), scsi.ErrGone, "REPORT LUNS"},
	} {
		s := newStick(4096, 512)
		s.fail = tt.fail
		if _, err := s.tryOpen(t); !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
		if len(s.sent) > 100 {
			t.Errorf("%s: %d commands", tt.want, len(s.sent))
		}
	}
	// What a stick does that has just been plugged in, or that has been asleep.
	for _, fail := range []func([]byte) error{
		once(0x00, 3, attention), once(0x00, 3, becoming), once(0x00, 1, &scsi.SenseError{Key: 2, ASC: 4, ASCQ: 2}),
		once(0x25, 1, attention), once(0x25, 2, aborted), once(0x1A, 1, attention), once(0x00, 2, scsi.StatusBusy), once(0xA0, -1, aborted), once(0x12, 0, nil),
	} {
		s := newStick(4096, 512)
		s.fail = fail
		s.open(t)
	}
}

func TestReadWrite(t *testing.T) {
	for _, size := range []int{512, 4096} {
		s := newStick(uint64(40*4096/size), uint32(size))
		s.max = 16 << 10
		d := s.open(t)
		content := make([]byte, d.Size())
		rand.NewChaCha8([32]byte{}).Read(content)
		if n, err := d.WriteAt(content, 0); n != len(content) || err != nil {
			t.Fatal(n, err)
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(io.NewSectionReader(d, 1000, 9000), content[1000:10000]); err != nil {
			t.Error(err)
		}
		r := rand.New(rand.NewPCG(1, uint64(size)))
		for range 500 {
			off, p := r.Int64N(d.Size()), make([]byte, r.IntN(100_000))
			want := content[off:min(d.Size(), off+int64(len(p)))]
			n, err := d.ReadAt(p, off)
			if !bytes.Equal(p[:n], want) || (err == io.EOF) != (len(want) < len(p)) || err != nil && err != io.EOF {
				t.Fatalf("%d bytes at %d: %d, %v", len(p), off, n, err)
			}
		}
		if n, err := d.ReadAt(make([]byte, 1), d.Size()); n != 0 || err != io.EOF {
			t.Errorf("at the end: %d, %v", n, err)
		}
		if _, err := d.ReadAt(make([]byte, 1), -1); err == nil {
			t.Error("read at -1")
		}
		for _, bad := range []struct{ off, n int64 }{{1, int64(size)}, {0, 100}, {-int64(size), int64(size)}, {d.Size() - int64(size), 2 * int64(size)}, {d.Size() + int64(size), 0}} {
			s.sent = nil
			if n, err := d.WriteAt(make([]byte, bad.n), bad.off); n != 0 || err == nil || len(s.sent) != 0 {
				t.Errorf("wrote %d bytes at %d: %v", n, bad.off, err)
			}
		}
	}
}

// Blocks that READ (10) can't name.
func TestFarBlocks(t *testing.T) {
	s := newStick(1<<33, 512)
	d := s.open(t)
	for _, lba := range []int64{1<<32 - 1, 1<<32 - 2, 1<<32 + 5, 1<<33 - 1} {
		want := bytes.Repeat([]byte{byte(lba)}, 512)
		if _, err := d.WriteAt(want, lba*512); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 512)
		if _, err := d.ReadAt(got, lba*512); err != nil || !bytes.Equal(got, want) {
			t.Errorf("block %d: %v", lba, err)
		}
	}
	if s.count(0x88) != 3 || s.count(0x8A) != 3 || s.count(0x28) != 1 {
		t.Errorf("sent % x", s.sent)
	}
}

func TestFaults(t *testing.T) {
	tests := []struct {
		name  string
		fail  func([]byte) error
		write bool
		is    error // nil: the call succeeds
		want  string
	}{
		{"attention", once(0x28, 1, attention), false, nil, ""},
		{"attention while writing", once(0x2A, 1, &scsi.SenseError{Key: 6, ASC: 0x29}), true, nil, ""},
		{"attention for ever", once(0x28, -1, attention), false, scsi.MediumChanged, "9 unit attentions in a row"},
		{"aborted", once(0x28, 2, aborted), false, nil, ""},
		{"aborted for ever", once(0x28, -1, aborted), false, aborted.Code(), "aborted command"},
		{"becoming ready", once(0x28, 50, becoming), false, nil, ""},
		{"becoming ready for ever", once(0x28, -1, becoming), false, scsi.BecomingReady, "becoming ready"},
		{"busy", once(0x28, 2, scsi.StatusBusy), false, nil, ""},
		{"lost on the way", once(0x2A, 2, lost), true, nil, ""},
		{"read error once", once(0x28, 1, readError), false, nil, ""},
		{"read error", once(0x28, -1, readError), false, scsi.ReadError, "read disk: 8 blocks from 8 on: block 11: READ(10): sense 3/11/00"},
		{"no medium", once(0x28, -1, noMedium), false, ErrNoMedium, "read disk: 8 blocks from 8 on: there is no medium"},
		{"pulled", once(0x28, -1, pulled), false, scsi.ErrGone, "read disk: 8 blocks from 8 on"},
		{"pulled while writing", once(0x2A, -1, pulled), true, scsi.ErrGone, "write disk: 8 blocks from 8 on"},
		{"stalled", once(0x2A, -1, stalled), true, scsi.ErrTimeout, "write disk: 8 blocks from 8 on"},
		{"protected", once(0x2A, -1, protect), true, ErrWriteProtected, "write-protected"},
		{"late", once(0x2A, 1, late), true, scsi.WriteError, "an earlier write failed after the disk had acknowledged it"},
		{"late, recovered", once(0x2A, 1, &scsi.SenseError{Key: 1, Deferred: true}), true, nil, ""},
		{"too much for the kernel", func(cdb []byte) error {
			if cdb[0] == 0x28 && cdb[8] > 4 {
				return &scsi.TransportError{Err: os.NewSyscallError("SG_IO", syscall.EINVAL)}
			}
			return nil
		}, false, syscall.EINVAL, "invalid argument"},
	}
	for _, tt := range tests {
		s := newStick(4096, 512)
		d := s.open(t)
		s.fail = tt.fail
		before := len(s.sent)
		var err error
		if tt.write {
			_, err = d.WriteAt(make([]byte, 4096), 4096)
		} else {
			_, err = d.ReadAt(make([]byte, 4096), 4096)
		}
		if !errors.Is(err, tt.is) || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if n := len(s.sent) - before; n > 70 {
			t.Errorf("%s: %d commands", tt.name, n)
		}
		switch tt.name {
		case "attention":
			// Asked who it is before the block was read again.
			if got := fmt.Sprintf("% x", s.sent[before:]); got != "28 12 25 12 28" {
				t.Errorf("after a unit attention it got % x", got)
			}
		case "read error":
			if m, ok := errors.AsType[*MediumError](err); !ok || m.LBA != 11 {
				t.Errorf("%v is no medium error of block 11", err)
			}
		case "stalled", "pulled while writing", "late":
			if n := s.count(0x2A); n != 1 {
				t.Errorf("%s: written %d times", tt.name, n)
			}
		case "protected":
			if !d.WriteProtected() {
				t.Error("the disk isn't taken for write-protected")
			}
		}
		if gone := strings.HasPrefix(tt.name, "pulled") || tt.name == "no medium"; d.Gone(err) != gone {
			t.Errorf("%s: gone is %v", tt.name, !gone)
		}
	}
}

// What the kernel can't carry in one command goes in smaller ones.
func TestTransferShrinks(t *testing.T) {
	s := newStick(4096, 512)
	s.max = 1 << 20
	d := s.open(t)
	s.fail = func(cdb []byte) error {
		if op := cdb[0]; (op == 0x28 || op == 0x2A) && be.Uint16(cdb[7:]) > 240 {
			return &scsi.TransportError{Err: os.NewSyscallError("SG_IO", syscall.EINVAL)}
		}
		return nil
	}
	p := bytes.Repeat([]byte("x"), 1<<20)
	if n, err := d.WriteAt(p, 0); n != len(p) || err != nil {
		t.Fatal(n, err)
	}
	got := make([]byte, 1<<20)
	if n, err := d.ReadAt(got, 0); n != len(p) || err != nil || !bytes.Equal(got, p) {
		t.Fatal(n, err)
	}
}

func TestShortTransfer(t *testing.T) {
	s := newStick(4096, 512)
	d := s.open(t)
	s.short = 1
	if n, err := d.ReadAt(make([]byte, 1024), 0); n != 0 || err == nil || !strings.Contains(err.Error(), "data ends at byte 1023, want 1024 bytes") {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := d.WriteAt(make([]byte, 1024), 0); n != 0 || err == nil {
		t.Errorf("%d, %v", n, err)
	}
}

// U3 and U2 behind the gate: another size, another block size, another name.
func TestChanged(t *testing.T) {
	for _, tt := range []struct {
		change func(s *stick)
		want   string
	}{
		{func(s *stick) { s.size = 4096 }, "its block size was 512 and is 4096 now"},
		{func(s *stick) { s.blocks-- }, "its number of blocks was 400000 and is 399999 now"},
		{func(s *stick) { s.inquiry[0] = 5 }, "its peripheral type was 0 and is 5 now"},
		{func(s *stick) { s.inquiry[10] = 'x' }, `its vendor was "VENDOR" and is "VExDOR" now`},
		{func(s *stick) { s.inquiry[16] = 'm' }, `its product was "MODEL OF A STICK" and is "mODEL OF A STICK" now`},
		{func(s *stick) { s.inquiry[32] = '2' }, `its revision was "1.00" and is "2.00" now`},
		{func(s *stick) { s.pages[PageSerial] = []byte("4C530002") }, `its serial number was "4C530001" and is "4C530002" now`},
	} {
		for name, notice := range map[string]func(s *stick, d *Disk) error{
			"check": func(s *stick, d *Disk) error { return d.Check() },
			"sync":  func(s *stick, d *Disk) error { return d.Sync() },
			"attention": func(s *stick, d *Disk) error {
				s.fail = once(0x28, 1, attention)
				_, err := d.ReadAt(make([]byte, 1), 0)
				return err
			},
			"much read": func(s *stick, d *Disk) error {
				_, err := io.Copy(io.Discard, io.NewSectionReader(onlyReads{d, s}, 0, askAgain+1<<20))
				return err
			},
		} {
			s := newStick(400_000, 512)
			d := s.open(t)
			if err := d.Check(); err != nil {
				t.Fatal(err)
			}
			tt.change(s)
			err := notice(s, d)
			c, ok := errors.AsType[*ChangedError](err)
			if !ok || c.Error() != "the disk has changed: "+tt.want || c.RefusalCode() != "disk-changed" {
				t.Errorf("%s: %v, want %q", name, err, tt.want)
				continue
			}
			// It stays the end of it.
			s.fail = nil
			before := len(s.sent)
			if _, err := d.ReadAt(make([]byte, 1), 0); !errors.Is(err, c) {
				t.Errorf("%s: read afterwards: %v", name, err)
			}
			if _, err := d.WriteAt(make([]byte, 512), 0); !errors.Is(err, c) || len(s.sent) != before {
				t.Errorf("%s: written afterwards: %v", name, err)
			}
		}
	}
}

// onlyReads gives READ what it asks for, whatever size a block has just now.
type onlyReads struct {
	d *Disk
	s *stick
}

func (o onlyReads) ReadAt(p []byte, off int64) (int, error) {
	size := o.s.size
	o.s.fail = func(cdb []byte) error {
		o.s.size = size
		if cdb[0] == 0x28 {
			o.s.size = 512
		}
		return nil
	}
	defer func() { o.s.size = size }()
	return o.d.ReadAt(p, off)
}

func TestSync(t *testing.T) {
	for _, tt := range []struct {
		fail func([]byte) error
		is   error
	}{
		{nil, nil},
		{once(0x35, -1, illegal), nil},
		{once(0x35, 1, attention), nil},
		{once(0x35, 1, late), scsi.WriteError},
		{once(0x35, -1, pulled), scsi.ErrGone},
	} {
		s := newStick(4096, 512)
		d := s.open(t)
		s.fail = tt.fail
		if err := d.Sync(); !errors.Is(err, tt.is) || s.count(0x35) == 0 {
			t.Errorf("%v, want %v", err, tt.is)
		}
		if err := d.Stop(); tt.is != scsi.ErrGone && (err != nil || s.count(0x1B) != 1) {
			t.Errorf("stop: %v", err)
		}
	}
}

func TestDiscard(t *testing.T) {
	s := newStick(1<<20, 512)
	s.unmap = true
	d := s.open(t)
	if err := d.Discard(512, d.Size()-512); err != nil {
		t.Fatal(err)
	}
	if n := s.count(0x42); n != 16 { // 65,536 blocks each
		t.Errorf("%d UNMAPs", n)
	}
	for _, bad := range []struct{ off, n int64 }{{1, 512}, {0, 511}, {0, d.Size() + 512}, {-512, 512}} {
		if err := d.Discard(bad.off, bad.n); err == nil || errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("discard of %d at %d: %v", bad.n, bad.off, err)
		}
	}
	for name, change := range map[string]func(s *stick){
		"no pages":          func(s *stick) { s.pages = nil },
		"no such page":      func(s *stick) { s.pages[PageSupported] = []byte{0} },
		"not LBPU":          func(s *stick) { s.pages[PageProvisioning][1] = 0x60 },
		"no limit":          func(s *stick) { delete(s.pages, PageBlockLimits) },
		"one block a time":  func(s *stick) { s.pages[PageBlockLimits] = []byte{19: 1, 23: 1} },
		"it is not so":      func(s *stick) { s.unmap = false },
		"limit without use": func(s *stick) { s.pages[PageBlockLimits] = []byte{17: 1, 23: 0} },
	} {
		s := newStick(1<<20, 512)
		s.unmap = true
		change(s)
		if err := s.open(t).Discard(0, 1<<20); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.fail = once(0x42, -1, pulled)
	if err := d.Discard(0, 512); !errors.Is(err, scsi.ErrGone) {
		t.Error(err)
	}
}

// A done context ends it, and nothing more is sent.
func TestContext(t *testing.T) {
	s := newStick(4096, 512)
	ctx, cancel := context.WithCancel(t.Context())
	d, err := OpenDisk(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	before := len(s.sent)
	if _, err := d.ReadAt(make([]byte, 512), 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := d.WriteAt(make([]byte, 512), 0); !errors.Is(err, context.Canceled) || len(s.sent) != before {
		t.Error(err)
	}
}
