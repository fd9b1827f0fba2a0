// Package media finds and opens block devices, for reading only, and mounts what was verified on one through the
// kernel's dm-verity.
//
// Nothing in it parses what a medium holds; it knows neither bundles nor their seals. [Mount] takes root hash, salt and
// geometry as values, and whoever calls it has them from a seal whose signatures are good.
package media

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// BlockSize is the unit of a volume's geometry, in bytes: a sector of a disc, and a block of the hash tree.
const BlockSize = 2048

const sectorSize = 512 // of the kernel's block layer

// ErrNotReadOnly is wrapped by an error that says that the kernel would let a device be written to.
var ErrNotReadOnly = errors.New("the device can't be made read-only")

// OpenReadOnly opens a block device or an image file for reading. The kernel is told first that a block device is
// read-only (BLKROSET) and asked whether it took that (BLKROGET), so that nothing else writes to the medium either
// while it is in; that takes root, unless the device is read-only already. Anything but a block device or a regular
// file is refused with an error that wraps [fs.ErrInvalid]. Close the file when done; the device stays read-only.
func OpenReadOnly(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, pathFault("open", path, err)
	}
	block := isBlock(info)
	if !block && !info.Mode().IsRegular() {
		return nil, invalidf("open %s: it is neither a block device nor an image file", path)
	}
	if block {
		if err := setReadOnly(path); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, pathFault("open", path, err)
	}
	if err := stillThere(f, path, info, block); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// stillThere makes sure that f is what path was before, and read-only.
func stillThere(f *os.File, path string, before fs.FileInfo, block bool) error {
	info, err := f.Stat()
	switch {
	case err != nil:
		return pathFault("open", path, err)
	case !os.SameFile(info, before):
		return fmt.Errorf("open %s: it was replaced by another file meanwhile", path)
	case !block:
		return nil
	}
	on, err := readOnly(f)
	if err == nil && !on {
		err = ErrNotReadOnly
	}
	if err != nil {
		return pathFault("open", path, err)
	}
	return nil
}

// setReadOnly makes the kernel refuse whatever would write to a block device. It is opened without looking for a
// medium, or whether that can be read.
func setReadOnly(path string) error {
	f, err := openNode(path, unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer f.Close()
	on, err := readOnly(f)
	if err != nil || on {
		return pathFault("open", path, err)
	}
	switch err := unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 1); {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("make %s read-only: %w: only root may", path, fs.ErrPermission)
	case err != nil:
		return fmt.Errorf("make %s read-only: %w", path, err)
	}
	return nil
}

// readOnly asks the kernel whether a block device is read-only.
func readOnly(f *os.File) (bool, error) {
	on, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET)
	runtime.KeepAlive(f)
	if err != nil {
		return false, os.NewSyscallError("BLKROGET", err)
	}
	// The kernel writes an int of 32 bits.
	return int32(on) != 0, nil
}

// openNode opens a device node for reading. Unlike os.OpenFile it leaves the poller out of it, which devices have no
// use for.
func openNode(path string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|flags, 0)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, fmt.Errorf("open %s: %w", path, err)
		default:
			return os.NewFile(uintptr(fd), path), nil
		}
	}
}

// size is the length of a file or device in bytes.
func size(f *os.File) (int64, error) {
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, pathFault("measure", f.Name(), err)
	}
	return n, nil
}

func isBlock(info fs.FileInfo) bool {
	return info.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice
}

// pathFault names a path once, and what was done with it; nil stays nil.
func pathFault(verb, path string, err error) error {
	if err == nil {
		return nil
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return fmt.Errorf("%s %s: %w", verb, path, err)
}

// invalidError is an [fs.ErrInvalid] that says in its own words what is wrong with what the caller gave.
type invalidError struct{ msg string }

func (e *invalidError) Error() string        { return e.msg }
func (e *invalidError) Is(target error) bool { return target == fs.ErrInvalid }

func invalidf(format string, args ...any) error { return &invalidError{fmt.Sprintf(format, args...)} }
