package media

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// missingError says that the kernel lacks something, and how it may get it. It is no [fs.ErrNotExist]: nothing that the
// user named is missing.
type missingError struct{ what, module string }

func (e *missingError) Error() string {
	return fmt.Sprintf("the kernel has no %s: load it with \"modprobe %s\"", e.what, e.module)
}

var (
	errNoMapper = &missingError{"device-mapper", "dm-mod"}
	errNoVerity = &missingError{"dm-verity", "dm-verity"}
	errNoISOFS  = &missingError{"file system " + fsType, "isofs"}
	errNoLoop   = &missingError{"loop devices", "loop"}
)

// checkKernel makes sure that the kernel has what a mount needs, and has it load the modules of it that it can. Where an
// old kernel can't be asked, the mount itself finds out.
func checkKernel(m mapper, device string) error {
	if err := m.checkVerity(); err != nil {
		return err
	}
	fd, err := unix.Fsopen(fsType, unix.FSOPEN_CLOEXEC)
	switch err {
	case nil:
		unix.Close(fd) // nothing was written
	case unix.ENODEV:
		return errNoISOFS
	}
	if info, err := os.Stat(device); err != nil || !info.Mode().IsRegular() {
		return nil // whoever opens it says what is wrong with it
	}
	control, err := openLoopControl()
	if err != nil {
		return err
	}
	return control.Close()
}

func (m mapper) checkVerity() error {
	switch err := m.askTarget("verity"); err {
	case nil, unix.ENOTTY:
		return nil
	case unix.EINVAL:
		return errNoVerity
	case unix.EPERM, unix.EACCES:
		return fmt.Errorf("%w (%w)", ErrNeedsRoot, err)
	default:
		return fmt.Errorf("ask the kernel for dm-verity: %w", err)
	}
}
