package media

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlPath is where device-mapper is called. devtmpfs makes it, without udev, too.
const controlPath = "/dev/mapper/control"

// control is device-mapper's control device, open. Close it when done; that gives up the lock.
type control struct{ *os.File }

// openControl opens the control device. The kernel may load device-mapper for it.
func openControl() (*control, error) {
	f, err := openNode(controlPath, 0)
	switch {
	case err == nil:
		return &control{f}, nil
	case os.Geteuid() != 0:
		return nil, ErrNeedsRoot
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return openMissingControl()
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w (%w)", ErrNeedsRoot, err)
	}
	return nil, err
}

// openMissingControl makes the control device where nothing did, if the kernel has a driver for it; else errNoMapper.
func openMissingControl() (*control, error) {
	minor, err := miscMinor("device-mapper")
	if err != nil {
		return nil, err
	}
	if minor < 0 {
		return nil, errNoMapper
	}
	if err := os.Mkdir("/dev/mapper", 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := unix.Mknod(controlPath, unix.S_IFCHR|0o600, int(unix.Mkdev(10, uint32(minor)))); err != nil && err != unix.EEXIST {
		return nil, fmt.Errorf("make %s: %w", controlPath, err)
	}
	f, err := openNode(controlPath, 0)
	if err != nil {
		return nil, err
	}
	return &control{f}, nil
}

// miscMinor looks the minor number of a driver up in /proc/misc, -1 for none.
func miscMinor(driver string) (int, error) {
	f, err := os.Open("/proc/misc")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		number, name, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if minor, err := strconv.ParseUint(number, 10, 20); err == nil && name == driver {
			return int(minor), nil
		}
	}
	return -1, lines.Err()
}

func (c *control) mapper() mapper {
	return mapper{ioctl: func(request uint, buf []byte) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, c.Fd(), uintptr(request), uintptr(unsafe.Pointer(&buf[0])))
		if errno != 0 {
			return errno
		}
		return nil
	}}
}

// How long lock waits. Nobody holds it for longer than it takes to map and mount, which a slow disc takes some of.
const lockPatience = time.Minute

// lock keeps others who lock it from mounting, and from taking a mapping for stale that is in the making. The lock is the
// control device's own: there is no file of which two might have two.
func (c *control) lock(ctx context.Context) error {
	for deadline := time.Now().Add(lockPatience); ; {
		err := unix.Flock(int(c.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return context.Cause(ctx)
		case err != unix.EWOULDBLOCK && err != unix.EINTR:
			return fmt.Errorf("lock %s: %w", controlPath, err)
		case time.Now().After(deadline):
			return fmt.Errorf("lock %s: another process has been mounting for %v: %w", controlPath, lockPatience, unix.EBUSY)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// openMapped opens the node of a device-mapper device: /dev/dm-N is there without udev, /dev/mapper/NAME isn't.
func openMapped(rdev uint64) (*os.File, error) {
	return openNumbered(fmt.Sprintf("/dev/dm-%d", unix.Minor(rdev)), rdev)
}

// openNumbered opens the node of a block device that the kernel has. It makes the node where nothing did, and makes sure
// that it is that device's.
func openNumbered(path string, rdev uint64) (*os.File, error) {
	f, err := openNode(path, 0)
	if errors.Is(err, unix.ENOENT) {
		if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(rdev)); err != nil && err != unix.EEXIST {
			return nil, fmt.Errorf("make %s: %w", path, err)
		}
		f, err = openNode(path, 0)
	}
	if err != nil {
		return nil, err
	}
	switch got, err := deviceNumber(f); {
	case err != nil:
		return nil, errors.Join(err, f.Close())
	case got != rdev:
		return nil, errors.Join(fmt.Errorf("open %s: it is device %d:%d, not %d:%d", path, unix.Major(got), unix.Minor(got), unix.Major(rdev), unix.Minor(rdev)), f.Close())
	}
	return f, nil
}

// deviceNumber is the number of the block device whose node is open.
func deviceNumber(f *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, pathFault("open", f.Name(), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, invalidf("open %s: it is no block device", f.Name())
	}
	return st.Rdev, nil
}

func openLoopControl() (*os.File, error) {
	control, err := openNode("/dev/loop-control", 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, errNoLoop
	case err != nil:
		return nil, err
	}
	return control, nil
}

// loopTries is how often another process may take the free loop device that the kernel named.
const loopTries = 64

// attachLoop makes a read-only block device of an open file. It is gone when nothing has it open any more: not its node,
// which the caller gets and closes, and no mapping.
func attachLoop(file *os.File) (*os.File, error) {
	control, err := openLoopControl()
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range loopTries {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		const loopMajor = 7
		loop, err := openNumbered(fmt.Sprintf("/dev/loop%d", number), unix.Mkdev(loopMajor, uint32(number)))
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{
			Fd:   uint32(file.Fd()),
			Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR},
		})
		if err == nil {
			return loop, nil
		}
		if err = errors.Join(os.NewSyscallError("LOOP_CONFIGURE", err), loop.Close()); !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("find a free loop device: others took %d of them first: %w", loopTries, unix.EBUSY)
}
