package scsi

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is an optical drive or a disk of this machine, a Transport through
// Linux' SG_IO. Open and OpenDisk make one. It may be used from several
// goroutines; the device gets their commands one after another.
type Device struct {
	Path string // of the node that commands go through

	mu    sync.Mutex
	file  *os.File
	other *os.File // the device's other node, held so that nobody else opens it
	ioctl func(fd uintptr, h *sgHeader) error
	now   func() time.Time
}

// defaultLimit is the time limit of a command whose context has none.
const defaultLimit = 200 * time.Second

// sgHeader is struct sg_io_hdr, version 3 (include/scsi/sg.h).
type sgHeader struct {
	interfaceID  int32 // 'S'
	direction    int32 // sgNone ...
	cdbLen       uint8
	maxSense     uint8
	iovecs       uint16
	length       uint32 // of data, in bytes
	data         unsafe.Pointer
	cdb          *[16]byte
	sense        *[MaxSense]byte
	timeout      uint32 // ms
	flags        uint32
	packID       int32
	user         unsafe.Pointer
	status       uint8
	maskedStatus uint8
	msgStatus    uint8
	senseLen     uint8
	hostStatus   uint16
	driverStatus uint16
	resid        int32 // bytes not moved
	duration     uint32
	info         uint32
}

// include/scsi/sg.h.
const (
	sgIO       = 0x2285
	sgNone     = -1
	sgToDevice = -2
	sgToHost   = -3
)

// Host and driver status (include/scsi/scsi_status.h; those of the driver are
// gone from it, and still reported).
const (
	didNoConnect         = 0x01
	didTimeOut           = 0x03
	didBadTarget         = 0x04
	didAbort             = 0x05
	didTransportFailfast = 0x0F

	driverMask    = 0x0F // the rest is what the kernel thought of doing about it
	driverTimeout = 0x06
	driverSense   = 0x08
)

const (
	statusMask           = 0x7E // the other bits are reserved, or a vendor's
	statusCheckCondition = 0x02
)

// Do sends a command, see Transport. Data is moved to and from d without a
// copy of ours. Without a deadline the time limit is 200 s.
func (d *Device) Do(ctx context.Context, cdb []byte, data Data) (n int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	switch {
	case len(cdb) != 6 && len(cdb) != 10 && len(cdb) != 12 && len(cdb) != 16:
		return 0, fmt.Errorf("command descriptor block of %d bytes", len(cdb))
	case len(data.In) > 0 && len(data.Out) > 0:
		return 0, errors.New("a command with data both ways")
	case data.Len() > math.MaxInt32:
		return 0, fmt.Errorf("a command with %d bytes of data", data.Len())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		return 0, &TransportError{Err: os.ErrClosed}
	}
	if err := ctx.Err(); err != nil { // while others had the drive
		return 0, err
	}
	limit := defaultLimit
	if deadline, ok := ctx.Deadline(); ok {
		limit = deadline.Sub(d.now())
	}
	h := &sgHeader{
		interfaceID: 'S', direction: sgNone,
		cdbLen: uint8(len(cdb)), cdb: new([16]byte),
		maxSense: MaxSense, sense: new([MaxSense]byte),
		timeout: milliseconds(limit),
	}
	copy(h.cdb[:], cdb)
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(h.cdb)
	pins.Pin(h.sense)
	switch {
	case len(data.In) > 0:
		h.direction, h.data = sgToHost, unsafe.Pointer(unsafe.SliceData(data.In))
	case len(data.Out) > 0:
		h.direction, h.data = sgToDevice, unsafe.Pointer(unsafe.SliceData(data.Out))
	}
	if h.data != nil {
		h.length = uint32(data.Len())
		pins.Pin(h.data)
	}
	if err := d.ioctl(d.file.Fd(), h); err != nil {
		return 0, &TransportError{Err: ioctlFault(err)}
	}
	return h.result()
}

// milliseconds rounds a time limit up. 0 would be the kernel's own limit, a
// minute, and what doesn't fit its jiffies none at all.
func milliseconds(limit time.Duration) uint32 {
	ms := limit / time.Millisecond
	if limit%time.Millisecond > 0 {
		ms++
	}
	return uint32(min(max(ms, 1), math.MaxInt32))
}

// ioctlFault says what an error of SG_IO itself means.
func ioctlFault(err error) error {
	switch {
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ESHUTDOWN):
		return fmt.Errorf("%w (%w)", ErrGone, err)
	case errors.Is(err, unix.ETIMEDOUT):
		return fmt.Errorf("%w (%w)", ErrTimeout, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: the kernel lets only root send this command", err)
	}
	return err
}

// result says how a command ended that SG_IO came back from, and how many
// bytes it moved: none when the answer itself didn't come.
func (h *sgHeader) result() (n int, err error) {
	if cause := h.fault(); cause != nil {
		return 0, &TransportError{Host: h.hostStatus, Driver: h.driverStatus, Err: cause}
	}
	n = int(h.length)
	if h.resid > 0 {
		n -= min(n, int(h.resid))
	}
	status := h.status & statusMask
	sensed := h.driverStatus&driverMask == driverSense && h.senseLen > 0
	if status != 0 && status != statusCheckCondition {
		return n, Status(status)
	}
	if status == 0 && !sensed {
		return n, nil
	}
	e, err := ParseSense(h.sense[:min(int(h.senseLen), MaxSense)])
	switch {
	case err != nil && status == 0:
		return n, nil
	case err != nil:
		return 0, &TransportError{Host: h.hostStatus, Driver: h.driverStatus, Err: fmt.Errorf("check condition: %w", err)}
	case status == 0 && e.Key == NoSense:
		return n, nil
	}
	return n, e
}

// fault returns what host and driver status mean, nil when the device
// answered.
func (h *sgHeader) fault() error {
	switch driver := h.driverStatus & driverMask; {
	case h.hostStatus == didNoConnect, h.hostStatus == didBadTarget, h.hostStatus == didTransportFailfast:
		return ErrGone
	case h.hostStatus == didTimeOut, driver == driverTimeout:
		return ErrTimeout
	case h.hostStatus == didAbort && h.duration >= h.timeout:
		return ErrTimeout
	case h.hostStatus != 0:
		return errors.New("the host adapter failed")
	case driver != 0 && driver != driverSense:
		return errors.New("the driver failed")
	}
	return nil
}

// sgIoctl is SG_IO. No signal may come in between: a sg node gives up waiting
// then, and the call, being restarted, would send the command a second time.
func sgIoctl(fd uintptr, h *sgHeader) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, &before); err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, sgIO, uintptr(unsafe.Pointer(h)))
	err := unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
	if errno != 0 {
		// EINTR, too: what was sent once is never sent again.
		return os.NewSyscallError("SG_IO", errno)
	}
	return err
}

// Close lets others use the drive again. It waits for a command under way.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		return os.ErrClosed
	}
	err := d.file.Close()
	if d.other != nil {
		err = errors.Join(err, d.other.Close())
	}
	d.file, d.other = nil, nil
	return err
}
