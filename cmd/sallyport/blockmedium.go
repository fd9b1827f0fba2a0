package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// blockMedium is a block device that is read and written past the page cache (O_DIRECT), so that what is read back comes
// from the medium.
type blockMedium struct {
	f     *os.File
	size  int64  // bytes, when it was opened
	block int    // bytes
	spare []byte // aligned, for callers' buffers that aren't; reads and writes don't overlap
}

const directAlign = 4096 // of memory: enough for every block size

// newBlockMedium takes over f, a block device that was opened for reading and writing. Close f when done.
func newBlockMedium(f *os.File) (*blockMedium, error) {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, flags|unix.O_DIRECT)
	}
	if err != nil {
		return nil, fmt.Errorf("write to %s past the page cache: %w", f.Name(), err)
	}
	m := &blockMedium{f: f}
	if m.block, err = unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err != nil {
		return nil, fmt.Errorf("block size of %s: %w", f.Name(), err)
	}
	if m.size, err = f.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *blockMedium) Size() int64         { return m.size }
func (m *blockMedium) BlockSize() int      { return m.block }
func (m *blockMedium) Gone(err error) bool { return deviceGone(err) }

// aligned reports whether the kernel takes a transfer as it is.
func (m *blockMedium) aligned(p []byte, off int64) bool {
	return len(p) > 0 && off%int64(m.block) == 0 && len(p)%m.block == 0 && uintptr(unsafe.Pointer(&p[0]))%directAlign == 0
}

// bounce returns n bytes of aligned memory.
func (m *blockMedium) bounce(n int) []byte {
	if len(m.spare) < n {
		b := make([]byte, n+directAlign)
		skip := int(-uintptr(unsafe.Pointer(&b[0])) % directAlign)
		m.spare = b[skip : skip+n]
	}
	return m.spare[:n]
}

// ReadAt reads any bytes. A read by whole blocks into aligned memory isn't copied.
func (m *blockMedium) ReadAt(p []byte, off int64) (int, error) {
	if m.aligned(p, off) {
		n, err := m.f.ReadAt(p, off)
		return n, m.explain(off, n, err)
	}
	const most = 1 << 20
	done := 0
	for done < len(p) {
		at := off + int64(done)
		first := at / int64(m.block) * int64(m.block)
		end := min(off+int64(len(p)), first+most, m.size)
		if end <= at {
			return done, io.EOF
		}
		b := m.bounce(int((end - first + int64(m.block) - 1) / int64(m.block) * int64(m.block)))
		n, err := m.f.ReadAt(b, first)
		if got := first + int64(n); got > at {
			done += copy(p[done:], b[at-first:n])
		}
		if err != nil {
			return done, m.explain(first, n, err)
		}
	}
	return done, nil
}

// WriteAt writes whole blocks.
func (m *blockMedium) WriteAt(p []byte, off int64) (int, error) {
	if off%int64(m.block) != 0 || len(p)%m.block != 0 {
		return 0, fmt.Errorf("write %d bytes at %d of %s: no whole blocks of %d: %w", len(p), off, m.f.Name(), m.block, unix.EINVAL)
	}
	if !m.aligned(p, off) && len(p) > 0 {
		b := m.bounce(len(p))
		copy(b, p)
		p = b
	}
	n, err := m.f.WriteAt(p, off)
	return n, m.explain(off, n, err)
}

// explain makes an error out of what a device that was pulled out says, whatever that was.
func (m *blockMedium) explain(off int64, n int, err error) error {
	if err == nil || err == io.EOF && off+int64(n) >= m.size {
		return err
	}
	if now, seekErr := m.f.Seek(0, io.SeekEnd); seekErr != nil || now != m.size {
		return fmt.Errorf("%w (%w)", syscall.ENODEV, err)
	}
	return err
}

// Sync waits until what was written is on the medium.
func (m *blockMedium) Sync() error { return m.explain(0, 0, m.f.Sync()) }

// Discard is BLKDISCARD.
func (m *blockMedium) Discard(off, n int64) error {
	span := [2]uint64{uint64(off), uint64(n)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, m.f.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&span)))
	switch errno {
	case 0:
		return nil
	case unix.EOPNOTSUPP, unix.ENOTTY:
		return errors.ErrUnsupported
	}
	return m.explain(off, 0, fmt.Errorf("discard %d bytes at %d: %w", n, off, errno))
}
