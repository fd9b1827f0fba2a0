package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNeedsRoot is wrapped by what Mount and Unmount say to somebody who isn't root. It is an [fs.ErrPermission].
var ErrNeedsRoot = fmt.Errorf("only root may do this: %w", fs.ErrPermission)

// ErrNotOurs is wrapped by the error of [Unmount] about a file system that [Mount] didn't mount.
var ErrNotOurs = errors.New("sallyport mount didn't mount it")

// fsType is the only type of file system that is ever mounted. The kernel isn't left to guess.
const fsType = "iso9660"

const mountFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// Volume is what Mount mounts.
type Volume struct {
	Device string   // a block device, an image file, or the generic node (/dev/sgN) of a disk that no driver is bound to
	ID     [32]byte // the seal digest; its first half names the mapping
	Verity
}

// Mounted is a mounted volume.
type Mounted struct {
	Dir    string // absolute, without symbolic links
	Device string // of the mapping: /dev/dm-N
}

// CheckMount finds out what would keep [Mount] from mounting a device or an image file on dir, before anybody has read a
// whole disc for it: rights, a kernel without device-mapper, dm-verity, isofs or loop devices, a directory that is none,
// isn't empty or has something mounted on it. Of the latter errors wrap [fs.ErrInvalid] or [fs.ErrNotExist]. It clears
// away what killed processes left, which may keep the device from being opened.
func CheckMount(ctx context.Context, device, dir string) error {
	dir, err := mountPoint(dir)
	if err != nil {
		return err
	}
	wrap := func(err error) error { return fmt.Errorf("mount on %s: %w", dir, err) }
	control, err := openControl()
	if err != nil {
		return wrap(err)
	}
	defer control.Close()
	m := control.mapper()
	if err := checkKernel(m, device); err != nil {
		return wrap(err)
	}
	if err := control.lock(ctx); err != nil {
		return wrap(err)
	}
	if _, err := m.removeStale(); err != nil {
		return wrap(err)
	}
	return nil
}

// Mount shows a volume's files at dir, an empty directory: through a read-only dm-verity mapping, as iso9660, read-only,
// without device nodes, set-user-id bits and programs. Each block is held against v.Root when it is read from the
// medium; what differs is an I/O error for its reader. The caller vouches for v: it comes from a seal whose signatures
// are good. Nothing of the medium is parsed before that mapping stands, and nothing but what it gives.
//
// To a disk that is given by its generic node sd is bound first: then the kernel looks for partitions on it. Whoever has
// that node open, as it is since the medium was read, knows that it is still that disk. With the mapping it is unbound
// again.
//
// It needs root, device-mapper with dm-verity and isofs in the kernel, and for an image file a loop device. [Unmount], or
// any other umount, ends all of it; so does the death of this process before the volume is mounted. What an earlier one
// left in the one moment where that isn't so is cleared away.
func Mount(ctx context.Context, v Volume, dir string) (_ *Mounted, err error) {
	wrap := func(err error) error { return fmt.Errorf("mount %s on %s: %w", v.Device, dir, err) }
	if err := v.check(); err != nil {
		return nil, wrap(err)
	}
	control, err := openControl()
	if err != nil {
		return nil, wrap(err)
	}
	defer control.Close()
	if err := control.lock(ctx); err != nil {
		return nil, wrap(err)
	}
	dir, err = mountPoint(dir)
	if err != nil {
		return nil, err
	}
	m := control.mapper()
	if _, err := m.removeStale(); err != nil {
		return nil, wrap(err)
	}
	suffix, unbind, err := v.bind(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unbind())
		}
	}()
	device, rdev, err := openBlock(v)
	if err != nil {
		return nil, err
	}
	defer device.Close() // the mapping has it open by then
	d, err := makeMapping(m, mappingName(v.ID, rdev)+suffix, rdev, v.Verity, openMapped)
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("it is mounted already: %w", err)
	}
	if err != nil {
		return nil, wrap(err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := checkReadable(d.node); err != nil {
		return nil, wrap(err)
	}
	if err := unix.Mount(d.node.Name(), dir, fsType, mountFlags, "nojoliet"); err != nil {
		return nil, wrap(explainMount(err))
	}
	return &Mounted{Dir: dir, Device: d.node.Name()}, nil
}

// bind makes v.Device a block device, if it is a generic one. unbind takes that back.
func (v *Volume) bind(ctx context.Context) (suffix string, unbind func() error, err error) {
	info, err := os.Stat(v.Device)
	if err != nil || info.Mode()&fs.ModeCharDevice == 0 {
		return "", func() error { return nil }, nil // whoever opens it says what is wrong with it
	}
	number, err := genericNumber(v.Device)
	if err != nil {
		return "", nil, err
	}
	node, address, err := systemBus.bind(ctx, systemBus.unit(number))
	if err != nil {
		return "", nil, err
	}
	v.Device = node
	return boundSuffix, func() error { return systemBus.unbind(address) }, nil
}

// mountPoint finds out what a directory is called where the kernel lists mounts, and that nothing would be hidden in it.
func mountPoint(dir string) (string, error) {
	dir, err := realPath(dir)
	if err != nil {
		return "", err
	}
	f, err := os.Open(dir)
	if err != nil {
		return "", pathFault("mount on", dir, err)
	}
	defer f.Close()
	switch info, err := f.Stat(); {
	case err != nil:
		return "", pathFault("mount on", dir, err)
	case !info.IsDir():
		return "", invalidf("mount on %s: it is no directory", dir)
	}
	at, err := mountedAt(dir)
	switch {
	case err != nil:
		return "", err
	case at != nil:
		return "", invalidf("mount on %s: %.100s of type %.40s is mounted there already", dir, at.source, at.fsType)
	}
	switch _, err := f.Readdirnames(1); err {
	case io.EOF:
		return dir, nil
	case nil:
		return "", invalidf("mount on %s: the directory isn't empty, and what is in it would be hidden: name an empty one", dir)
	default:
		return "", pathFault("mount on", dir, err)
	}
}

// realPath is a directory's absolute path without symbolic links.
func realPath(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return "", pathFault("open", dir, err)
	}
	return abs, nil
}

// openBlock opens a volume's block device, or its image file behind a loop device, read-only, and returns its number.
func openBlock(v Volume) (*os.File, uint64, error) {
	f, err := OpenReadOnly(v.Device)
	if err != nil {
		return nil, 0, err
	}
	fail := func(err error) (*os.File, uint64, error) { return nil, 0, errors.Join(err, f.Close()) }
	n, err := size(f)
	if err != nil {
		return fail(err)
	}
	if n/BlockSize <= v.Tree {
		return fail(fmt.Errorf("open %s: it ends at LBA %d and should have its hash tree at LBA %d: it isn't what was verified", v.Device, n/BlockSize, v.Tree))
	}
	info, err := f.Stat()
	if err != nil {
		return fail(pathFault("open", v.Device, err))
	}
	if !isBlock(info) {
		loop, err := attachLoop(f)
		if err != nil {
			return fail(fmt.Errorf("make a block device of %s: %w", v.Device, err))
		}
		err = f.Close() // the loop device has it open
		if err != nil {
			return nil, 0, errors.Join(err, loop.Close())
		}
		f = loop
	}
	rdev, err := deviceNumber(f)
	if err != nil {
		return fail(err)
	}
	return f, rdev, nil
}

// checkReadable reads the volume descriptor through the hash tree. The kernel's file system says of what it can't read
// only that the superblock is bad.
func checkReadable(node *os.File) error {
	const descriptor = 16 // LBA, ECMA-119 section 8.1
	if _, err := node.ReadAt(make([]byte, BlockSize), descriptor*BlockSize); err != nil {
		return fmt.Errorf("the medium isn't what was verified, or can't be read: LBA %d through the hash tree: %w", descriptor, errnoOf(err))
	}
	return nil
}

// explainMount says what an error of mount(2) means here.
func explainMount(err error) error {
	switch {
	case errors.Is(err, unix.ENODEV):
		return errNoISOFS
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w (%w)", ErrNeedsRoot, err)
	}
	return fmt.Errorf("the kernel doesn't mount it: %w", err)
}

// Unmounted says what [Unmount] found.
type Unmounted struct {
	Dir string // absolute, without symbolic links
	// Mounted says that a volume was mounted there. Without it there was nothing to do.
	Mounted bool
	// Damaged says that the kernel read something from the medium, while it was mounted, that wasn't what was sealed.
	Damaged bool
	// Held says that the mapping is still in use, where else it may be mounted. It goes with its last user.
	Held bool
	// Stale names mappings that dead processes had left behind; they are gone now.
	Stale []string
}

// How long Unmount waits for the mapping to go. The kernel takes it away in the background.
const removalPatience = 5 * time.Second

// Unmount ends what [Mount] began: the mount on dir, the mapping, the loop device. Where nothing is mounted it clears
// away what dead processes left and reports success. A mount that isn't one of Mount is left alone: [ErrNotOurs]. While
// something has files of it open it stays: [unix.EBUSY], with the processes that are known to.
func Unmount(ctx context.Context, dir string) (*Unmounted, error) {
	at, dir, err := findMount(dir)
	if err != nil {
		return nil, err
	}
	wrap := func(err error) error { return fmt.Errorf("unmount %s: %w", dir, err) }
	if at != nil && at.fsType != fsType {
		return nil, wrap(notOurs(at))
	}
	res := &Unmounted{Dir: dir}
	control, err := openControl()
	switch {
	case err == errNoMapper && at == nil: // nor can there be a mapping
		return res, nil
	case err == errNoMapper:
		return nil, wrap(notOurs(at))
	case err != nil:
		return nil, wrap(err)
	}
	defer control.Close()
	if err := control.lock(ctx); err != nil {
		return nil, wrap(err)
	}
	m := control.mapper()
	if at != nil {
		if err := m.unmount(ctx, at, res); err != nil {
			return nil, wrap(err)
		}
	}
	if res.Stale, err = m.removeStale(); err != nil {
		return nil, wrap(err)
	}
	return res, nil
}

// findMount returns what is mounted on dir, nil for nothing, and dir's real name. Of a medium that was torn out the
// directory may not be readable.
func findMount(dir string) (*mountEntry, string, error) {
	real, err := realPath(dir)
	if err != nil {
		abs, absErr := filepath.Abs(dir)
		if at, listErr := mountedAt(abs); absErr == nil && listErr == nil && at != nil {
			return at, abs, nil
		}
		return nil, "", err
	}
	at, err := mountedAt(real)
	return at, real, err
}

func (m mapper) unmount(ctx context.Context, at *mountEntry, res *Unmounted) error {
	state, err := m.statusOf(at.dev)
	if err != nil || !isOurs(state.name, state.uuid) {
		return notOurs(at)
	}
	// Afterwards nobody can be asked any more.
	unit := systemBus.boundUnit(state.name)
	if res.Damaged, err = m.damaged(state.name); err != nil {
		return err
	}
	if err := unmount(at.dir); err != nil {
		return err
	}
	res.Mounted = true
	for deadline := time.Now().Add(removalPatience); ; {
		switch _, err := m.status(state.name); {
		case err == unix.ENXIO && unit != "":
			return systemBus.unbind(unit)
		case err == unix.ENXIO:
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil || time.Now().After(deadline):
			res.Held = true
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func notOurs(at *mountEntry) error {
	return fmt.Errorf("%.100s of type %.40s is mounted there, and %w", at.source, at.fsType, ErrNotOurs)
}

// unmount unmounts what is uppermost at dir.
func unmount(dir string) error {
	switch err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err {
	case nil:
		return nil
	case unix.EBUSY:
		return fmt.Errorf("%w: %s", err, holders(dir))
	case unix.EPERM:
		return ErrNeedsRoot
	default:
		return err
	}
}

// errnoOf leaves of an error about a path what it is about.
func errnoOf(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
