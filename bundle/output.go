package bundle

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// image is an image file in the making, beside the place it will take.
type image struct {
	path   string
	dir    *os.File
	file   *os.File
	direct *os.File // the same file, O_DIRECT; nil where the file system refuses that
	done   bool
}

// createImage makes a temporary file of size bytes beside path. Room that isn't there is found out now.
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
	base := filepath.Base(path)
	if len(base) > 128 {
		base = strings.ToValidUTF8(base[:128], "")
	}
	part := filepath.Join(filepath.Dir(path), "."+base+"."+rand.Text()+".part")
	file, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		dir.Close()
		return nil, err
	}
	img := &image{path: path, dir: dir, file: file}
	if err := img.reserve(size); err != nil {
		img.discard()
		return nil, err
	}
	// Without the page cache between: a payload larger than memory would push everything else out of it.
	if fd, err := unix.Open(file.Name(), unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0); err == nil {
		img.direct = os.NewFile(uintptr(fd), file.Name())
	}
	return img, nil
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

// dataWriter writes from the file's beginning.
func (img *image) dataWriter() io.Writer { return &dataWriter{img: img} }

type dataWriter struct {
	img *image
	off int64
}

// directAlign is an alignment, of memory, offset and length, that every device's O_DIRECT accepts.
const directAlign = 4096

func (w *dataWriter) Write(p []byte) (int, error) {
	f := w.img.file
	if w.img.direct != nil && len(p)%directAlign == 0 && w.off%directAlign == 0 && uintptr(unsafe.Pointer(unsafe.SliceData(p)))%directAlign == 0 {
		f = w.img.direct
	}
	n, err := f.WriteAt(p, w.off)
	if f == w.img.direct && errors.Is(err, unix.EINVAL) {
		w.img.direct.Close()
		w.img.direct = nil
		n, err = w.img.file.WriteAt(p, w.off)
	}
	w.off += int64(n)
	return n, err
}

// commit syncs the file, gives it its name, and syncs the directory.
func (img *image) commit() error {
	defer img.close()
	if err := img.file.Sync(); err != nil {
		return err
	}
	if err := os.Rename(img.file.Name(), img.path); err != nil {
		return err
	}
	img.done = true
	if err := img.dir.Sync(); err != nil {
		return fmt.Errorf("sync the directory of %s: %w", img.path, err)
	}
	return nil
}

// discard removes the temporary file, unless it was committed.
func (img *image) discard() {
	if !img.done {
		os.Remove(img.file.Name())
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
