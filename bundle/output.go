package bundle

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// image is an image file in the making, in the folder where it will stand.
type image struct {
	path   string
	dir    *os.File
	file   *os.File
	name   string   // of file while it is being made; empty where it has none, and goes with the process
	direct *os.File // the same file, O_DIRECT; nil where the file system refuses that
	done   bool
	keep   bool // what is at path when it gets its name stays, and is an error

	buffered atomic.Bool // direct turned out not to work
}

// createImage makes a file of size bytes in path's folder, without a name where the file system can do that. Room
// that isn't there is found out now.
func createImage(path string, size int64) (*image, error) {
	switch info, err := os.Stat(path); {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case err == nil && !info.Mode().IsRegular():
		return nil, fmt.Errorf("write %s: not a regular file: give a file name, or - for a pipe", path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	img := &image{path: path, dir: dir}
	if img.openUnnamed() != nil {
		if err := img.openNamed(); err != nil {
			dir.Close()
			return nil, err
		}
	}
	if err := img.reserve(size); err != nil {
		img.discard()
		return nil, err
	}
	// Without the page cache between: a payload larger than memory would push everything else out of it.
	again := img.name
	if again == "" {
		again = procFD(img.file)
	}
	if fd, err := unix.Open(again, unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0); err == nil {
		img.direct = os.NewFile(uintptr(fd), path)
	}
	return img, nil
}

// procFD is the way back to an open file that has no name.
func procFD(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// openUnnamed makes the file without a name (O_TMPFILE): whatever ends the process, nothing stays behind. It fails
// where the file system can't do that, or where the file couldn't be given its name later.
func (img *image) openUnnamed() error {
	fd, err := unix.Openat(int(img.dir.Fd()), ".", unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, 0o666)
	for err == unix.EINTR {
		fd, err = unix.Openat(int(img.dir.Fd()), ".", unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, 0o666)
	}
	if err != nil {
		return err
	}
	img.file = os.NewFile(uintptr(fd), img.path)
	if _, err := os.Stat(procFD(img.file)); err != nil {
		img.file.Close()
		return err
	}
	return nil
}

// openNamed makes the file with a hidden name.
func (img *image) openNamed() (err error) {
	img.name = img.hiddenName()
	img.file, err = os.OpenFile(img.name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	return err
}

func (img *image) hiddenName() string {
	base := filepath.Base(img.path)
	if len(base) > 128 {
		base = strings.ToValidUTF8(base[:128], "")
	}
	return filepath.Join(filepath.Dir(img.path), "."+base+"."+rand.Text()+".part")
}

func (img *image) reserve(size int64) error {
	err := unix.Fallocate(int(img.file.Fd()), 0, 0, size)
	for err == unix.EINTR { // from tmpfs, for any signal
		err = unix.Fallocate(int(img.file.Fd()), 0, 0, size)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS):
		return img.file.Truncate(size)
	default:
		return fmt.Errorf("write %s: no room for an image of %d bytes: %w", img.path, size, err)
	}
}

// data is where the data area goes: two writes at once, so that the disk isn't idle between them.
func (img *image) data() target { return target{2, img.writeData} }

// directAlign is an alignment, of memory, offset and length, that every device's O_DIRECT accepts.
const directAlign = 4096

func (img *image) writeData(p []byte, off int64) error {
	if img.direct != nil && !img.buffered.Load() && len(p)%directAlign == 0 && off%directAlign == 0 && uintptr(unsafe.Pointer(unsafe.SliceData(p)))%directAlign == 0 {
		_, err := img.direct.WriteAt(p, off)
		if !errors.Is(err, unix.EINVAL) {
			return err
		}
		img.buffered.Store(true)
	}
	_, err := img.file.WriteAt(p, off)
	return err
}

// commit syncs the file, gives it its name, and syncs the directory.
func (img *image) commit() error {
	defer img.close()
	if err := img.file.Sync(); err != nil {
		return err
	}
	if err := img.giveName(); err != nil {
		return err
	}
	img.done = true
	if err := img.dir.Sync(); err != nil {
		return fmt.Errorf("sync the directory of %s: %w", img.path, err)
	}
	return nil
}

// giveName puts the file in its place, and what was there out of it unless that is to be kept, in one step. A link
// can't replace anything: a file without a name then gets a hidden one first.
func (img *image) giveName() error {
	switch {
	case img.name != "" && img.keep:
		return img.renameNew()
	case img.name == "":
		err := img.link(img.path)
		if img.keep || !errors.Is(err, fs.ErrExist) {
			return err
		}
		hidden := img.hiddenName()
		if err := img.link(hidden); err != nil {
			return err
		}
		img.name = hidden
	}
	return os.Rename(img.name, img.path)
}

// renameNew gives a file that has a hidden name the one that it is for, which nothing may have. It is a link first
// where the file system can't do that in one step.
func (img *image) renameNew() error {
	err := unix.Renameat2(unix.AT_FDCWD, img.name, unix.AT_FDCWD, img.path, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS {
		if err = unix.Link(img.name, img.path); err == nil {
			err = os.Remove(img.name)
		}
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: img.name, New: img.path, Err: err}
	}
	return nil
}

func (img *image) link(name string) error {
	from := procFD(img.file)
	if err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &os.LinkError{Op: "link", Old: from, New: name, Err: err}
	}
	return nil
}

// discard removes the file, unless it was committed.
func (img *image) discard() {
	if !img.done && img.name != "" {
		os.Remove(img.name)
	}
	img.close()
}

func (img *image) close() {
	if img.direct != nil {
		img.direct.Close()
		img.direct = nil
	}
	img.file.Close()
	img.dir.Close()
}

// unlinkedScratch is a file without a name: its room comes back when it is closed, whatever happens.
func unlinkedScratch() (*os.File, error) {
	f, err := os.CreateTemp("", "sallyport-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
