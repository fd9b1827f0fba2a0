package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// SourceDir is a directory of the host as a payload. It never leaves the directory, opens no file through a
// link, and never waits on a FIFO that took a file's place. Close it when done.
type SourceDir struct {
	fs.FS
	root *os.Root
	dir  *os.File // the same directory, to open from
}

// OpenDir opens path as a payload.
func OpenDir(path string) (*SourceDir, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	dir, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	return &SourceDir{FS: root.FS(), root: root, dir: dir}, nil
}

// Open opens a file or directory of the payload for reading. A link, also one on the way, gives ELOOP or ENOTDIR.
func (d *SourceDir) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	// A part at a time, because an os.Root follows links that stay inside.
	const always = unix.O_NOFOLLOW | unix.O_CLOEXEC
	at := int(d.dir.Fd())
	parts := strings.Split(name, "/")
	for i, part := range parts {
		flags := unix.O_PATH | unix.O_DIRECTORY | always
		if i == len(parts)-1 {
			flags = unix.O_RDONLY | unix.O_NONBLOCK | always
		}
		fd, err := openat(at, part, flags)
		if i > 0 {
			unix.Close(at)
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		at = fd
	}
	runtime.KeepAlive(d.dir)
	return os.NewFile(uintptr(at), filepath.Join(d.root.Name(), name)), nil
}

func openat(at int, name string, flags int) (fd int, err error) {
	for {
		if fd, err = unix.Openat(at, name, flags, 0); err != unix.EINTR {
			return fd, err
		}
	}
}

// ReadDir lists a directory in order of names.
func (d *SourceDir) ReadDir(name string) ([]fs.DirEntry, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
	}
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := f.ReadDir(-1)
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, err
}

// ReadLink returns a link's target.
func (d *SourceDir) ReadLink(name string) (string, error) { return fs.ReadLink(d.FS, name) }

// Lstat describes a file, or a link itself.
func (d *SourceDir) Lstat(name string) (fs.FileInfo, error) { return fs.Lstat(d.FS, name) }

// Stat describes a file or directory.
func (d *SourceDir) Stat(name string) (fs.FileInfo, error) { return fs.Stat(d.FS, name) }

// Close closes the directory.
func (d *SourceDir) Close() error { return errors.Join(d.dir.Close(), d.root.Close()) }

// collect lists the payload as manifest entries without digests, in manifest order, with those that leaveOut
// names missing, together with what lies below them. It makes no judgement that the format doesn't make.
func collect(fsys fs.FS, leaveOut func(string) bool) ([]Entry, error) {
	var entries []Entry
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if leaveOut != nil && leaveOut(path) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if len(entries) == MaxEntries {
			return refuse("limit", "more than %d entries", MaxEntries)
		}
		if path != "." {
			if err := checkPath(path); err != nil {
				return &RefusedError{Code: "bad-name", Detail: "this payload can't be carried", Err: err}
			}
		}
		info, err := fs.Lstat(fsys, path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("stat %s: %w", path, err)
		}
		if err != nil || path != "." && info.Mode().Type() != d.Type() {
			return refuse("changed-while-read", "%q went away or became something else while the directory was listed; prepare again when nobody writes to it", path)
		}
		e := Entry{Path: path, MTime: info.ModTime().Unix(), Mode: uint32(info.Mode().Perm())}
		switch info.Mode().Type() {
		case fs.ModeDir:
			e.Type = Dir
		case fs.ModeSymlink:
			e.Type, e.Mode = Symlink, 0o777
			if e.Target, err = fs.ReadLink(fsys, path); err != nil {
				return fmt.Errorf("read link %s: %w", path, err)
			}
		case 0:
			e.Type, e.Size = File, info.Size()
		default:
			return refuse("bad-kind", "%q is a %v: only files, directories and links can be carried", path, info.Mode().Type())
		}
		if info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
			return refuse("bad-kind", "%q has mode %v: setuid, setgid and sticky bits are not carried", path, info.Mode())
		}
		entries = append(entries, e)
		return nil
	})
	return entries, err
}
