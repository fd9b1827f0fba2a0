package scsi

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// NotDiskError says that what was to be opened isn't the generic node of a
// disk. No command but INQUIRY was sent to it. It is an fs.ErrInvalid.
type NotDiskError struct {
	Path string
	What string // what it is: "a CD or DVD drive (peripheral type 5)"
}

func (e *NotDiskError) Error() string {
	return fmt.Sprintf("open %s: it is %s, not the generic node (/dev/sgN) of a disk", e.Path, e.What)
}

// Is reports whether target is fs.ErrInvalid.
func (e *NotDiskError) Is(target error) bool { return target == fs.ErrInvalid }

const typeDisk = 0

// OpenDisk opens a disk (peripheral type 0) by its generic node, /dev/sgN, or
// by a link to one, for this process alone. Close it when done.
//
// If the kernel has a block device for it, because a driver is bound to it,
// that one is claimed too: a disk that is mounted, also in part, swapped to or
// held by another block device is a *BusyError, and nothing of it can be
// mounted while it is open here.
//
// Errors: *NotDiskError, *BusyError, and fs.ErrPermission and fs.ErrNotExist
// with what to do.
func OpenDisk(path string) (*Device, error) {
	h := host{sys: "/sys", dev: "/dev", proc: "/proc", stat: statNode, open: openNode, ioctl: sgIoctl}
	return h.openDisk(path)
}

func (h *host) openDisk(path string) (*Device, error) {
	n, err := h.stat(path)
	if err != nil {
		return nil, h.openFault(path, n, err)
	}
	if what := h.notDisk(n); what != "" {
		return nil, &NotDiskError{path, what}
	}
	d := &Device{Path: path, ioctl: h.ioctl, now: time.Now}
	if d.file, err = h.exclusive(path, n); err != nil {
		return nil, err
	}
	if d.other, err = h.claim(path, n); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	reply, err := d.ask(path)
	switch {
	case errors.Is(err, errNotSCSI):
		err = &NotDiskError{path, errNotSCSI.Error()}
	case err == nil && reply[0] != typeDisk: // peripheral qualifier 0: it is there
		err = &NotDiskError{path, kind(reply[0])}
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// kind is peripheral with a name for optical drives, too.
func kind(b byte) string {
	if b == typeOptical {
		return "a CD or DVD drive (peripheral type 5)"
	}
	return peripheral(b)
}

// notDisk says what a node is when it can't be a disk's generic one. It is not
// opened for that.
func (h *host) notDisk(n node) string {
	switch {
	case n.mode.IsDir():
		return "a directory"
	case n.mode.IsRegular():
		return "a regular file"
	case n.mode&fs.ModeDevice == 0:
		return "no device"
	case n.block():
		return "a block device"
	case !n.is(false, majorSG):
		return "another character device"
	}
	t, err := strconv.ParseUint(readLine(filepath.Join(h.sysfs(n), "device", "type")), 10, 5)
	if err == nil && t != typeDisk {
		return kind(byte(t))
	}
	return ""
}

// claim opens the block device of a generic one so that nobody else can use it
// for anything that claims it; nil when there is none. Unlike with a drive a
// node that can't be opened is an error: what is not claimed may be mounted.
func (h *host) claim(path string, n node) (*os.File, error) {
	entries, err := os.ReadDir(filepath.Join(h.sysfs(n), "device", "block"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: look for its block device: %w", path, err)
	}
	if len(entries) != 1 {
		return nil, fmt.Errorf("open %s: it has %d block devices, want at most one", path, len(entries))
	}
	name := entries[0].Name()
	block := filepath.Join(h.dev, name)
	b, err := h.stat(block)
	if err != nil {
		return nil, fmt.Errorf("open %s: claim its block device: %w", path, h.openFault(block, b, err))
	}
	number := readLine(filepath.Join(h.sysfs(n), "device", "block", name, "dev"))
	if !b.block() || number != fmt.Sprintf("%d:%d", unix.Major(b.rdev), unix.Minor(b.rdev)) {
		return nil, fmt.Errorf("open %s: claim its block device: %s is another device, want %s", path, block, number)
	}
	// For reading only: closing a node that was open for writing has partitions looked for.
	f, err := h.open(block, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_EXCL|unix.O_CLOEXEC)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, &BusyError{path, h.diskHolder(block, b)}
	case err != nil:
		return nil, fmt.Errorf("open %s: claim its block device: %w", path, h.openFault(block, b, err))
	}
	return f, nil
}

// diskHolder is holder of a disk or of the first of its partitions in use.
func (h *host) diskHolder(path string, n node) string {
	dir := h.sysfs(n)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		var major, minor uint32
		part := filepath.Join(dir, e.Name())
		if readLine(filepath.Join(part, "partition")) == "" {
			continue
		}
		if _, err := fmt.Sscanf(readLine(filepath.Join(part, "dev")), "%d:%d", &major, &minor); err != nil {
			continue
		}
		p := node{mode: fs.ModeDevice, rdev: unix.Mkdev(major, minor)}
		if who := h.holder(filepath.Join(h.dev, e.Name()), p); who != "" {
			return "in use: " + e.Name() + " is " + who
		}
	}
	return h.holder(path, n)
}

// MaxTransfer returns how many bytes of data one command may move on the way
// to the device, 0 where that can't be told.
func (d *Device) MaxTransfer() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		return 0
	}
	return maxTransfer(d.file.Fd())
}

// maxTransfer asks a generic node (BLKSECTGET, which drivers/scsi/sg.c answers
// in bytes, not in sectors).
func maxTransfer(fd uintptr) int {
	n, err := unix.IoctlGetInt(int(fd), unix.BLKSECTGET)
	if err != nil || n < 0 {
		return 0
	}
	return n
}
