package usb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// tree is a directory of sysfs that is held open. What is done in it is done to the device that it was opened for: once
// that is gone, all of it fails, even if another device has come to the same port and has the same name.
type tree interface {
	fs.FS
	fs.ReadLinkFS

	write(name, value string) error
	sub(name string) (tree, error)
	close() error
}

// rootTree is the tree of an [os.Root].
type rootTree struct {
	fs.ReadLinkFS
	root *os.Root
}

func newRootTree(root *os.Root) (*rootTree, error) {
	links, ok := root.FS().(fs.ReadLinkFS)
	if !ok {
		return nil, errors.New("the tree of sysfs can't be asked for its links")
	}
	return &rootTree{links, root}, nil
}

// write sets an attribute. One call writes all of it: each is an action of its own.
func (t *rootTree) write(name, value string) error {
	f, err := t.root.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	_, err = f.WriteString(value)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	return nil
}

func (t *rootTree) sub(name string) (tree, error) {
	root, err := t.root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	sub, err := newRootTree(root)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return sub, nil
}

func (t *rootTree) close() error { return t.root.Close() }

// isNoDevice says whether an error is the kernel's for a device that is going, or gone.
func isNoDevice(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

// inode is the number of a file, which sysfs doesn't give twice.
func inode(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
