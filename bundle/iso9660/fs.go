package iso9660

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
)

const maxLinks = 40 // symbolic links followed for one name, as in Linux

// An Extent is a run of a file's bytes. Only the last extent of a file may end inside a block.
type Extent struct {
	LBA  int64
	Size int64 // bytes
}

// A Stat is what FileInfo.Sys returns for a file of an FS, as a pointer.
type Stat struct {
	Extents         []Extent // none for an empty file or a symbolic link
	Record          int64    // byte offset of the directory record in the image
	UID, GID, Links uint32   // from PX
}

func (e *entry) Name() string               { return e.name }
func (e *entry) IsDir() bool                { return e.mode.IsDir() }
func (e *entry) Type() fs.FileMode          { return e.mode.Type() }
func (e *entry) Info() (fs.FileInfo, error) { return e, nil }
func (e *entry) Size() int64                { return e.size }
func (e *entry) Mode() fs.FileMode          { return e.mode }
func (e *entry) ModTime() time.Time         { return time.Unix(e.mtime, 0).UTC() }
func (e *entry) String() string             { return fs.FormatDirEntry(e) }

// Sys returns a *Stat.
func (e *entry) Sys() any {
	s := &Stat{Record: e.record, UID: e.uid, GID: e.gid, Links: e.links, Extents: e.extents}
	if len(s.Extents) == 0 && e.size > 0 {
		s.Extents = []Extent{{LBA: int64(e.lba), Size: e.size}}
	}
	return s
}

// A walkPos is where the resolution of a name stands: a directory, and those above it.
type walkPos struct {
	dirs  []*entry // from the root
	names []string // of dirs[1:]
}

// lookup finds name; symbolic links in it are followed, the last part only when follow is set. None leads out of the image.
func (f *FS) lookup(name string, follow bool) (e *entry, at string, depth int, err error) {
	if !fs.ValidPath(name) {
		return nil, "", 0, fs.ErrInvalid
	}
	pos := walkPos{dirs: []*entry{&f.root}}
	rest := name
	if name == "." {
		rest = ""
	}
	for links := 0; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		d := pos.dirs[len(pos.dirs)-1]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(pos.dirs) == 1 {
				return nil, "", 0, errors.New("a symbolic link leaves the image")
			}
			pos.dirs, pos.names = pos.dirs[:len(pos.dirs)-1], pos.names[:len(pos.names)-1]
			continue
		}
		if !d.IsDir() {
			return nil, "", 0, fs.ErrNotExist
		}
		e, err := f.find(d, strings.Join(pos.names, "/"), len(pos.names), part)
		if err != nil {
			return nil, "", 0, err
		}
		if e.mode.Type() == fs.ModeSymlink && (follow || rest != "") {
			if links++; links > maxLinks {
				return nil, "", 0, fmt.Errorf("more than %d symbolic links", maxLinks)
			}
			if e.target[0] == '/' {
				return nil, "", 0, errors.New("a symbolic link leaves the image")
			}
			if len(e.target)+len(rest) > 2*MaxPath {
				return nil, "", 0, errors.New("symbolic links are too long")
			}
			rest = e.target + "/" + rest
			continue
		}
		pos.dirs, pos.names = append(pos.dirs, e), append(pos.names, part)
	}
	at = "."
	if len(pos.names) > 0 {
		at = strings.Join(pos.names, "/")
	}
	return pos.dirs[len(pos.dirs)-1], at, len(pos.names), nil
}

// find returns the child of d with a name.
func (f *FS) find(d *entry, at string, depth int, name string) (*entry, error) {
	if at == "" {
		at = "."
	}
	list, err := f.readDir(d, at, depth)
	if err != nil {
		return nil, err
	}
	lo, hi := 0, len(list)
	for lo < hi {
		m := (lo + hi) / 2
		if list[m].name < name {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo == len(list) || list[lo].name != name {
		return nil, fs.ErrNotExist
	}
	return list[lo], nil
}

// Open opens a file or directory. Files are io.ReaderAt and io.Seeker too.
func (f *FS) Open(name string) (fs.File, error) {
	e, at, depth, err := f.lookup(name, true)
	if err == nil {
		var file fs.File
		if file, err = f.open(e, at, depth, path.Base(name)); err == nil {
			return file, nil
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: err}
}

func (f *FS) open(e *entry, at string, depth int, name string) (fs.File, error) {
	if e.IsDir() {
		list, err := f.readDir(e, at, depth)
		if err != nil {
			return nil, err
		}
		return &dirFile{info: named{e, name}, list: list}, nil
	}
	if !e.mode.IsRegular() {
		return nil, fmt.Errorf("%v is not a regular file", e.mode)
	}
	if e.bad != 0 {
		return nil, &FormatError{Offset: e.record, Path: at, Msg: e.bad.String()}
	}
	return &file{fs: f, info: named{e, name}}, nil
}

// named is an entry under the name it was asked for by, which a link may have given it.
type named struct {
	*entry
	name string
}

func (n named) Name() string { return n.name }

// ReadDir returns the entries of a directory sorted by name.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	e, at, depth, err := f.lookup(name, true)
	if err == nil && !e.IsDir() {
		err = errors.New("not a directory")
	}
	var list []*entry
	if err == nil {
		list, err = f.readDir(e, at, depth)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return dirEntries(list), nil
}

func dirEntries(list []*entry) []fs.DirEntry {
	out := make([]fs.DirEntry, len(list))
	for i, e := range list {
		out[i] = e
	}
	return out
}

// Stat describes a file; symbolic links are followed.
func (f *FS) Stat(name string) (fs.FileInfo, error) { return f.stat("stat", name, true) }

// Lstat describes a file, or a symbolic link itself.
func (f *FS) Lstat(name string) (fs.FileInfo, error) { return f.stat("lstat", name, false) }

func (f *FS) stat(op, name string, follow bool) (fs.FileInfo, error) {
	e, _, _, err := f.lookup(name, follow)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return named{e, path.Base(name)}, nil
}

// ReadLink returns the target of a symbolic link as it is recorded.
func (f *FS) ReadLink(name string) (string, error) {
	e, _, _, err := f.lookup(name, false)
	if err == nil && e.mode.Type() != fs.ModeSymlink {
		err = fs.ErrInvalid
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return e.target, nil
}

// A file is an open regular file.
type file struct {
	fs     *FS
	info   named
	pos    int64
	closed bool
}

func (f *file) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.info.name, Err: err}
}

func (f *file) Stat() (fs.FileInfo, error) {
	if f.closed {
		return nil, f.fail("stat", fs.ErrClosed)
	}
	return f.info, nil
}

func (f *file) Close() error {
	if f.closed {
		return f.fail("close", fs.ErrClosed)
	}
	f.closed = true
	return nil
}

func (f *file) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	switch {
	case f.closed:
		return 0, f.fail("read", fs.ErrClosed)
	case off < 0:
		return 0, f.fail("read", fs.ErrInvalid)
	case len(p) == 0:
		return 0, nil
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= f.info.size {
			return done, io.EOF
		}
		start, n := f.info.locate(at)
		q := p[done:][:min(n, int64(len(p)-done))]
		if err := readFull(f.fs.r, q, start); err != nil {
			return done, f.fail("read", fmt.Errorf("at byte %d of the image: %w", start, err))
		}
		done += len(q)
	}
	return done, nil
}

// locate returns where byte off of a file is in the image, and how many bytes follow there.
func (e *entry) locate(off int64) (start, n int64) {
	for _, x := range e.extents {
		if off < x.Size {
			return x.LBA*BlockSize + off, x.Size - off
		}
		off -= x.Size
	}
	return int64(e.lba)*BlockSize + off, e.size - off
}

func (f *file) Seek(offset int64, whence int) (int64, error) {
	if f.closed {
		return 0, f.fail("seek", fs.ErrClosed)
	}
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += f.pos
	case io.SeekEnd:
		offset += f.info.size
	default:
		return 0, f.fail("seek", fs.ErrInvalid)
	}
	if offset < 0 {
		return 0, f.fail("seek", fs.ErrInvalid)
	}
	f.pos = offset
	return offset, nil
}

// A dirFile is an open directory.
type dirFile struct {
	info   named
	list   []*entry
	closed bool
}

func (d *dirFile) Stat() (fs.FileInfo, error) { return d.info, nil }

func (d *dirFile) Close() error {
	d.closed = true
	return nil
}

func (d *dirFile) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.name, Err: errors.New("is a directory")}
}

func (d *dirFile) ReadDir(n int) ([]fs.DirEntry, error) {
	if d.closed {
		return nil, &fs.PathError{Op: "readdir", Path: d.info.name, Err: fs.ErrClosed}
	}
	k := len(d.list)
	if n > 0 {
		if k == 0 {
			return nil, io.EOF
		}
		k = min(n, k)
	}
	out := dirEntries(d.list[:k])
	d.list = d.list[k:]
	return out, nil
}
