package scsi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrBusy: something else has the drive open for itself, or mounted.
var ErrBusy = errors.New("device is in use")

// BusyError says that a drive is in use. It is an ErrBusy.
type BusyError struct {
	Path   string
	Holder string // who uses it, as far as can be told: "mounted at /mnt"
}

func (e *BusyError) Error() string {
	if e.Holder == "" {
		return fmt.Sprintf("open %s: it is in use by another program", e.Path)
	}
	return fmt.Sprintf("open %s: it is %s", e.Path, e.Holder)
}

// Is reports whether target is ErrBusy.
func (e *BusyError) Is(target error) bool { return target == ErrBusy }

// NotOpticalError says that what was to be opened isn't an optical drive. No
// command but INQUIRY was sent to it. It is an fs.ErrInvalid.
type NotOpticalError struct {
	Path string
	What string // what it is: "a hard disk (peripheral type 0)"
}

func (e *NotOpticalError) Error() string {
	return fmt.Sprintf("open %s: it is %s, not an optical drive", e.Path, e.What)
}

// Is reports whether target is fs.ErrInvalid.
func (e *NotOpticalError) Is(target error) bool { return target == fs.ErrInvalid }

// Linux' major numbers (Documentation/admin-guide/devices.txt).
const (
	majorSR = 11 // block
	majorSG = 21 // character
)

const typeOptical = 5

// host is what Open needs of the machine; tests have their own.
type host struct {
	sys   string // where sysfs is
	dev   string // where the device nodes are
	proc  string
	stat  func(path string) (node, error)
	open  func(path string, flags int) (*os.File, error)
	ioctl func(fd uintptr, h *sgHeader) error
}

// node is what stat says of a path.
type node struct {
	mode fs.FileMode
	rdev uint64
	gid  uint32
}

func (n node) block() bool { return n.mode&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice }
func (n node) is(block bool, major uint32) bool {
	return n.mode&fs.ModeDevice != 0 && n.block() == block && unix.Major(n.rdev) == major
}

// IsNode reports whether path is a node that Open opens, going by its number:
// of a drive, or a generic one of any SCSI device.
func IsNode(path string) bool {
	n, err := statNode(path)
	return err == nil && (n.is(true, majorSR) || n.is(false, majorSG))
}

// Open opens an optical drive by its node, /dev/srN or /dev/sgN, or by a link
// to one, for this process alone. Close it when done.
//
// Both nodes of the drive are opened with O_EXCL, each as far as it is there
// and may be opened: that of the block device keeps mount and other exclusive
// users of it away, and while it is open for writing the kernel doesn't poll
// for new media; that of the generic device keeps out whoever opens that one.
// Programs that open the block device without O_EXCL can't be kept out.
// Commands go through the block device, even when the generic one was named:
// it doesn't give up a command for a signal.
//
// Errors: *NotOpticalError, *BusyError, and fs.ErrPermission and
// fs.ErrNotExist with what to do.
func Open(path string) (*Device, error) {
	h := host{sys: "/sys", dev: "/dev", proc: "/proc", stat: statNode, open: openNode, ioctl: sgIoctl}
	return h.openDrive(path)
}

func (h *host) openDrive(path string) (*Device, error) {
	n, err := h.stat(path)
	if err != nil {
		return nil, h.openFault(path, n, err)
	}
	if what := h.notOptical(n); what != "" {
		return nil, &NotOpticalError{path, what}
	}
	d := &Device{Path: path, ioctl: h.ioctl, now: time.Now}
	if d.file, err = h.exclusive(path, n); err != nil {
		return nil, err
	}
	if d.other, err = h.openOther(d, n); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if err := d.inquire(path); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// openOther opens the drive's other node, if it can be found, and makes the
// block device the one that commands go through.
func (h *host) openOther(d *Device, n node) (*os.File, error) {
	path, other := h.otherNode(n)
	if path == "" {
		return nil, nil
	}
	f, err := h.exclusive(path, other)
	if _, busy := errors.AsType[*BusyError](err); busy {
		return nil, err
	}
	if err != nil { // one of them is enough
		return nil, nil
	}
	if other.block() {
		d.file, f, d.Path = f, d.file, path
	}
	return f, nil
}

// inquire has the device itself say that it is an optical drive.
func (d *Device) inquire(path string) error {
	reply, err := d.ask(path)
	switch {
	case errors.Is(err, errNotSCSI):
		return &NotOpticalError{path, "no SCSI device"}
	case err != nil:
		return err
	case reply[0] != typeOptical: // peripheral qualifier 0: it is there
		return &NotOpticalError{path, peripheral(reply[0])}
	}
	return nil
}

var errNotSCSI = errors.New("no SCSI device")

// ask asks the device itself what it is (INQUIRY, SPC-3 6.4). The reply has at
// least 5 bytes.
func (d *Device) ask(path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	reply := make([]byte, 36)
	n, err := d.Do(ctx, []byte{0x12, 0, 0, 0, byte(len(reply)), 0}, Data{In: reply})
	if s, ok := errors.AsType[*SenseError](err); ok && s.Recovered() {
		err = nil
	}
	switch {
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EINVAL):
		return nil, errNotSCSI
	case err != nil:
		return nil, fmt.Errorf("open %s: INQUIRY: %w", path, err)
	case n < 5:
		return nil, fmt.Errorf("open %s: INQUIRY: reply ends at byte %d, want at least 5 bytes", path, n)
	}
	return reply[:n], nil
}

// peripheral says what kind of device byte 0 of INQUIRY's reply announces.
func peripheral(b byte) string {
	if b>>5 != 0 {
		return fmt.Sprintf("no device (peripheral qualifier %d)", b>>5)
	}
	name := "a SCSI device of another kind"
	switch b {
	case 0x00, 0x0E, 0x14:
		name = "a hard disk"
	case 0x01:
		name = "a tape drive"
	case 0x07:
		name = "an optical memory device"
	case 0x08:
		name = "a medium changer"
	case 0x0D:
		name = "an enclosure"
	}
	return fmt.Sprintf("%s (peripheral type %d)", name, b)
}

// notOptical says what a node is when it can't be an optical drive's. It is
// not opened for that: opening some devices does something.
func (h *host) notOptical(n node) string {
	switch {
	case n.mode.IsDir():
		return "a directory"
	case n.mode.IsRegular():
		return "a regular file"
	case n.mode&fs.ModeDevice == 0:
		return "no device"
	}
	dir := h.sysfs(n)
	if n.block() {
		if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
			return "a partition of a disk"
		}
	}
	if t, err := strconv.ParseUint(readLine(filepath.Join(dir, "device", "type")), 10, 5); err == nil && t != typeOptical {
		return peripheral(byte(t))
	}
	switch {
	case n.is(true, majorSR), n.is(false, majorSG):
		return ""
	case n.block():
		return "another block device"
	}
	return "another character device"
}

// sysfs is where a device's attributes are.
func (h *host) sysfs(n node) string {
	class := "char"
	if n.block() {
		class = "block"
	}
	return filepath.Join(h.sys, "dev", class, fmt.Sprintf("%d:%d", unix.Major(n.rdev), unix.Minor(n.rdev)))
}

// otherNode finds the generic device of a block device, and the other way
// round; "" when there is none.
func (h *host) otherNode(n node) (string, node) {
	class, major := "block", uint32(majorSR)
	if n.block() {
		class, major = "scsi_generic", majorSG
	}
	entries, err := os.ReadDir(filepath.Join(h.sysfs(n), "device", class))
	if err != nil || len(entries) != 1 {
		return "", node{}
	}
	name := entries[0].Name()
	path := filepath.Join(h.dev, name)
	other, err := h.stat(path)
	number := readLine(filepath.Join(h.sysfs(n), "device", class, name, "dev"))
	if err != nil || !other.is(class == "block", major) || number != fmt.Sprintf("%d:%d", major, unix.Minor(other.rdev)) {
		return "", node{}
	}
	return path, other
}

// exclusive opens a node for this process alone, without looking for a medium.
func (h *host) exclusive(path string, n node) (*os.File, error) {
	const flags = unix.O_NONBLOCK | unix.O_EXCL | unix.O_CLOEXEC
	f, err := h.open(path, unix.O_RDWR|flags)
	if errors.Is(err, unix.EROFS) { // a drive that only reads
		f, err = h.open(path, unix.O_RDONLY|flags)
	}
	if err != nil {
		return nil, h.openFault(path, n, err)
	}
	return f, nil
}

// openFault says what an error of opening means.
func (h *host) openFault(path string, n node, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return &BusyError{path, h.holder(path, n)}
	case errors.Is(err, fs.ErrPermission) && n.mode&fs.ModeDevice != 0:
		who := strconv.FormatUint(uint64(n.gid), 10)
		if g, lookupErr := user.LookupGroupId(who); lookupErr == nil {
			who = g.Name
		}
		if n.gid == 0 {
			return fmt.Errorf("open %s: %w: only root may use it", path, fs.ErrPermission)
		}
		return fmt.Errorf("open %s: %w: that takes root, or a member of group %s", path, fs.ErrPermission, who)
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("open %s: %w", path, &TransportError{Err: fmt.Errorf("%w (%w)", ErrGone, err)})
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return fmt.Errorf("open %s: %w", path, err)
}

func statNode(path string) (node, error) {
	info, err := os.Stat(path)
	if err != nil {
		return node{}, err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return node{}, err
	}
	return node{info.Mode(), st.Rdev, st.Gid}, nil
}

func openNode(path string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Open(path, flags, 0)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, err
		default:
			return os.NewFile(uintptr(fd), path), nil
		}
	}
}

// readLine reads an attribute, "" when it isn't there.
func readLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 4096)
	n, _ := f.Read(b)
	return strings.TrimSpace(string(b[:n]))
}
