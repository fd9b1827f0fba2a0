package media

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// The codes of refusals of what was to become a target. A code that was released never changes its meaning.
const (
	CodeInUse     = "medium-in-use"     // the kernel uses it: mounted, swapped to, held by device-mapper or RAID, or opened by somebody alone
	CodeReserved  = "medium-reserved"   // it belongs to the station
	CodeBuiltIn   = "medium-built-in"   // it isn't one that is carried
	CodeReadOnly  = "medium-read-only"  // write-protected
	CodeOtherDisk = "medium-other-disk" // it is not the disk any more that was chosen
)

// RefusedError says that a disk is not written to.
type RefusedError struct {
	Code   string
	Detail string
	Err    error // the cause, or nil
}

func (e *RefusedError) Error() string {
	text := e.Code + ": " + e.Detail
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *RefusedError) Unwrap() error { return e.Err }

// RefusalCode returns Code.
func (e *RefusedError) RefusalCode() string { return e.Code }

// Target is a disk that may be written to. Only [Disk.Target] makes one; the zero Target is no disk.
type Target struct{ disk Disk }

// Target makes the disk one that may be written to: a stick or a card that nothing on this machine uses, and that isn't
// reserved. sysfs is asked again for all of that, and the disk has to be the one that was listed: not one that came to the same
// name since. Other errors than those of the type [RefusedError] are faults, and one that wraps [fs.ErrNotExist] says that the disk
// is gone.
func (d Disk) Target() (Target, error) {
	if d.from == nil {
		return Target{}, invalidf("write to %q: it is no disk that was found", d.Device)
	}
	t := Target{d}
	if err := t.Confirm(); err != nil {
		return Target{}, err
	}
	return t, nil
}

// Disk is what the target is.
func (t Target) Disk() Disk { return t.disk }

// Confirm asks once more whether the target is the disk that was chosen, and that nothing uses it. Whoever has opened one
// of its nodes in another way than by [Target.Open] asks this then, and knows that the node is the disk's.
func (t Target) Confirm() error {
	d := t.disk
	if d.from == nil {
		return invalidf("write to no disk")
	}
	list, err := d.from.disks(d.from.reserved)
	if err != nil {
		return err
	}
	for _, now := range list {
		if now.name == d.name {
			return now.confirm(d)
		}
	}
	return fmt.Errorf("write to %s: %w: it is gone", d.node(), fs.ErrNotExist)
}

// node is the one that people know the disk by.
func (d Disk) node() string {
	if d.Device != "" {
		return d.Device
	}
	return d.Generic
}

// confirm makes sure that the disk is the one that was chosen, and may be written to.
func (d Disk) confirm(chosen Disk) error {
	refuse := func(code, format string, args ...any) error {
		return &RefusedError{Code: code, Detail: "write to " + d.node() + ": " + fmt.Sprintf(format, args...)}
	}
	switch {
	case !d.same(chosen):
		return refuse(CodeOtherDisk, "another disk has come to its place since it was chosen")
	case d.Reserved != "":
		return refuse(CodeReserved, "it is there for %s", d.Reserved)
	case len(d.Uses) > 0:
		var uses []string
		for _, u := range d.Uses[:min(len(d.Uses), 4)] {
			uses = append(uses, u.String())
		}
		return refuse(CodeInUse, "%s", strings.Join(uses, ", "))
	case d.ReadOnly:
		return refuse(CodeReadOnly, "it is write-protected")
	case d.Bus != "usb" && !d.Removable && d.card != "SD":
		return refuse(CodeBuiltIn, "it is built in; only sticks and cards are written to")
	}
	return nil
}

// same says whether two that were found are one disk.
func (d Disk) same(o Disk) bool {
	if (d.USB == nil) != (o.USB == nil) {
		return false
	}
	if d.USB != nil && (d.USB.Name != o.USB.Name || d.USB.Number != o.USB.Number || d.USB.Descriptors == nil || o.USB.Descriptors == nil || d.USB.Descriptors.Hash() != o.USB.Descriptors.Hash()) {
		return false
	}
	return d.name == o.name && d.sequence == o.sequence && d.number == o.number && d.Place == o.Place &&
		d.Size == o.Size && d.BlockSize == o.BlockSize && d.Serial == o.Serial && d.Vendor == o.Vendor && d.Model == o.Model
}

// Open opens the block device for reading and writing, alone: the kernel refuses it, as a [RefusedError] with CodeInUse, while
// anything uses it in any namespace, and refuses everybody else's use until it is closed. That is for a disk with a block
// device. Close the file when done.
func (t Target) Open() (*os.File, error) {
	if t.disk.Device == "" {
		return nil, invalidf("write to %q: it has no block device", t.disk.Generic)
	}
	fd, err := unix.Open(t.disk.Device, unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, &RefusedError{CodeInUse, "write to " + t.disk.Device, err}
	case err != nil:
		return nil, fmt.Errorf("write to %s: %w", t.disk.Device, err)
	}
	f := os.NewFile(uintptr(fd), t.disk.Device)
	number, err := deviceNumber(f)
	if err == nil && number != t.disk.number {
		err = &RefusedError{Code: CodeOtherDisk, Detail: fmt.Sprintf("write to %s: its node is another device's, %d:%d", t.disk.Device, unix.Major(number), unix.Minor(number))}
	}
	if err == nil {
		err = t.Confirm()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
