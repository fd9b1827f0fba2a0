package wipe

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
	"unsafe"

	"sallyport/qemu-tests/usbredir"
)

// disk makes a Medium of what usbredir's sticks keep their blocks in, honest
// or not, and watches what is done to it.
type disk struct {
	usbredir.Medium
	t     testing.TB
	block int

	discard   error
	discarded int64
	fail      func(op string, off int64, n int) error // asked before each call
	after     func(op string, off int64, p []byte)    // sees what was read

	mu                   sync.Mutex
	busy                 bool
	written, read        int64 // bytes
	writes, reads, syncs int
	order                []int64 // of reads
	gone                 error
}

func newDisk(t testing.TB, m usbredir.Medium, block int) *disk {
	return &disk{Medium: m, t: t, block: block, discard: errors.ErrUnsupported}
}

func (d *disk) BlockSize() int { return d.block }

func (d *disk) Gone(err error) bool { return d.gone != nil && errors.Is(err, d.gone) }

func (d *disk) Discard(off, n int64) error {
	if d.discard == nil {
		d.discarded += n
	}
	return d.discard
}

// enter checks that calls come one at a time, whole and aligned.
func (d *disk) enter(op string, p []byte, off int64) (leave func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy {
		d.t.Errorf("%s at %d while another call is under way", op, off)
	}
	if off%int64(d.block) != 0 || len(p)%d.block != 0 || len(p) == 0 || uintptr(unsafe.Pointer(&p[0]))%4096 != 0 {
		d.t.Errorf("%s of %d bytes at %d, in memory at %p", op, len(p), off, &p[0])
	}
	d.busy = true
	if d.fail != nil {
		err = d.fail(op, off, len(p))
	}
	return func() { d.mu.Lock(); d.busy = false; d.mu.Unlock() }, err
}

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	leave, err := d.enter("write", p, off)
	defer leave()
	if err != nil {
		return 0, err
	}
	d.writes, d.written = d.writes+1, d.written+int64(len(p))
	return d.Medium.WriteAt(p, off)
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	leave, err := d.enter("read", p, off)
	defer leave()
	if err != nil {
		return 0, err
	}
	d.reads, d.read, d.order = d.reads+1, d.read+int64(len(p)), append(d.order, off)
	n, err := d.Medium.ReadAt(p, off)
	if d.after != nil {
		d.after("read", off, p)
	}
	return n, err
}

func (d *disk) Sync() error {
	if d.fail != nil {
		if err := d.fail("sync", -1, 0); err != nil {
			return err
		}
	}
	d.syncs++
	return d.Medium.Sync()
}

// key makes keys for tests.
func key(n byte) [32]byte { return [32]byte{n, 0xAA} }

// clock goes on by a second with each look.
func clock() func() time.Time {
	now := time.Unix(1_790_000_000, 0)
	return func() time.Time { now = now.Add(time.Second); return now }
}

// replug returns an Options.Replug that empties the cache of a medium.
func replug(d *disk) func(context.Context) (Medium, error) {
	return func(context.Context) (Medium, error) {
		if c, ok := d.Medium.(*usbredir.Cache); ok {
			if err := c.Evict(); err != nil {
				return nil, err
			}
		}
		return d, nil
	}
}
