package bundle

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// SourceDir is a directory of the host as a payload. It never leaves the directory, follows no link, and
// never waits on a FIFO that took a file's place. Close it when done.
type SourceDir struct {
	fs.FS
	root *os.Root
}

// OpenDir opens path as a payload.
func OpenDir(path string) (*SourceDir, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &SourceDir{FS: root.FS(), root: root}, nil
}

// Open opens a file or directory of the payload for reading, not through a link.
func (d *SourceDir) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// ReadDir lists a directory in order of names.
func (d *SourceDir) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(d.FS, name) }

// ReadLink returns a link's target.
func (d *SourceDir) ReadLink(name string) (string, error) { return fs.ReadLink(d.FS, name) }

// Lstat describes a file, or a link itself.
func (d *SourceDir) Lstat(name string) (fs.FileInfo, error) { return fs.Lstat(d.FS, name) }

// Stat describes a file or directory.
func (d *SourceDir) Stat(name string) (fs.FileInfo, error) { return fs.Stat(d.FS, name) }

// Close closes the directory.
func (d *SourceDir) Close() error { return d.root.Close() }

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
		info, err := fs.Lstat(fsys, path)
		if err != nil {
			return fmt.Errorf("stat %s: %w", path, err)
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
