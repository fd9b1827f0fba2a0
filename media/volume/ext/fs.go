package ext

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"sallyport/media/volume"
)

var _ volume.FS = (*FS)(nil)

// info is an entry as fs.FileInfo and fs.DirEntry. What can't be read is irregular.
type info struct{ e entry }

func (i info) Name() string               { return i.e.name }
func (i info) IsDir() bool                { return i.e.isDir() }
func (i info) Sys() any                   { return nil }
func (i info) Type() fs.FileMode          { return i.Mode().Type() }
func (i info) Info() (fs.FileInfo, error) { return i, nil }
func (i info) String() string             { return fs.FormatDirEntry(i) }

// Size is in bytes, 0 for a directory.
func (i info) Size() int64 {
	if i.e.node == nil || i.e.isDir() {
		return 0
	}
	return i.e.node.size
}

func (i info) Mode() fs.FileMode {
	if i.e.node == nil {
		return fs.ModeIrregular
	}
	return i.e.node.mode
}

func (i info) ModTime() time.Time {
	if i.e.node == nil {
		return time.Time{}
	}
	return i.e.node.mtime
}

// resolved is a directory's path with its entry. A few are kept so that opening one file after another needs only the
// directory that they are in, however much memory those above it take.
type resolved struct {
	path string
	e    entry
}

const (
	maxResolved     = 16
	maxResolvedPath = 4096 // bytes
)

// resolvedDir returns a directory that was found just now. The caller holds f.mu.
func (f *FS) resolvedDir(path string) (entry, bool) {
	i := slices.IndexFunc(f.paths, func(r resolved) bool { return r.path == path })
	if i < 0 {
		return entry{}, false
	}
	return f.paths[i].e, true
}

func (f *FS) resolve(path string, e entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(path) > maxResolvedPath || slices.ContainsFunc(f.paths, func(r resolved) bool { return r.path == path }) {
		return
	}
	if len(f.paths) == maxResolved {
		f.paths = slices.Delete(f.paths, 0, 1)
	}
	f.paths = append(f.paths, resolved{strings.Clone(path), e})
}

// start returns the directory that a path can be looked up from, and what remains of the path.
func (f *FS) start(path string) (e entry, dir, rest string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		if known, ok := f.resolvedDir(path[:i]); ok {
			return known, path[:i], path[i+1:], nil
		}
	}
	root, err := f.inode(rootInode)
	if err != nil {
		return entry{}, "", "", err
	}
	return entry{name: ".", off: root.off, node: root}, ".", path, nil
}

// lookup finds a path's entry, from the root or from a directory that was found just now. It follows no link.
func (f *FS) lookup(op, path string) (entry, error) {
	fail := func(err error) (entry, error) { return entry{}, &fs.PathError{Op: op, Path: path, Err: err} }
	switch {
	case !fs.ValidPath(path):
		return fail(fs.ErrInvalid)
	case strings.Count(path, "/") >= maxDepth:
		return fail(errDepth)
	}
	e, dir, rest, err := f.start(path)
	if err != nil {
		return fail(err)
	}
	if path == "." {
		return e, nil
	}
	for name := range strings.SplitSeq(rest, "/") {
		if !e.isDir() {
			return fail(fs.ErrNotExist)
		}
		d, err := f.dir(e.node, dir)
		if err != nil {
			return fail(err)
		}
		i, ok := slices.BinarySearchFunc(d.entries, name, func(e entry, name string) int { return strings.Compare(e.name, name) })
		if !ok {
			return fail(fs.ErrNotExist)
		}
		if dir != "." {
			f.resolve(dir, e)
		}
		e = d.entries[i]
		dir = join(dir, name)
	}
	return e, nil
}

// Open opens a file or directory. A symbolic link, a device, and what is damaged can't be opened; a *fs.PathError then
// says why, and wraps a *FormatError if it is damage. All blocks of a file are followed before it is opened. The file is an io.ReaderAt and io.Seeker too.
func (f *FS) Open(name string) (fs.File, error) {
	e, err := f.lookup("open", name)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (fs.File, error) { return nil, &fs.PathError{Op: "open", Path: name, Err: err} }
	switch {
	case e.fault != nil:
		return fail(e.why(name))
	case e.isDir():
		d, err := f.dir(e.node, name)
		if err != nil {
			return fail(err)
		}
		return &openDir{info: info{e}, path: name, entries: d.entries}, nil
	case !e.node.mode.IsRegular():
		return fail(fmt.Errorf("it is no file: %w", fs.ErrInvalid))
	case e.node.flags&flagEncrypted != 0:
		return fail(&FormatError{name, e.node.off + 32, "the file is encrypted"})
	case e.node.flags&flagCompressed != 0:
		return fail(&FormatError{name, e.node.off + 32, "the file is compressed"})
	}
	out := &file{f: f, info: info{e}, path: name}
	if e.node.flags&flagInline != 0 {
		if out.inline, err = f.inline(e.node, name); err != nil {
			return fail(err)
		}
		return out, nil
	}
	if err := f.follow(e.node, name); err != nil {
		return fail(err)
	}
	return out, nil
}

// ReadDir lists a directory, sorted by name.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	e, err := f.lookup("readdir", name)
	if err != nil {
		return nil, err
	}
	fail := func(err error) ([]fs.DirEntry, error) {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	switch {
	case e.fault != nil:
		return fail(e.why(name))
	case !e.isDir():
		return fail(errors.New("not a directory"))
	case strings.Count(name, "/")+1 >= maxDepth:
		return fail(errDepth)
	}
	d, err := f.dir(e.node, name)
	if err != nil {
		return fail(err)
	}
	return dirEntries(d.entries), nil
}

func dirEntries(es []entry) []fs.DirEntry {
	out := make([]fs.DirEntry, len(es))
	for i, e := range es {
		out[i] = info{e}
	}
	return out
}

// Stat is Lstat: no link is followed.
func (f *FS) Stat(name string) (fs.FileInfo, error) { return f.Lstat(name) }

// Lstat describes a file, directory, link or device without reading its blocks.
func (f *FS) Lstat(name string) (fs.FileInfo, error) {
	e, err := f.lookup("stat", name)
	if err == nil && e.fault != nil {
		err = &fs.PathError{Op: "stat", Path: name, Err: e.why(name)}
	}
	if err != nil {
		return nil, err
	}
	return info{e}, nil
}

// maxTarget is how long a link's target may be, in bytes (PATH_MAX, with its NUL).
const maxTarget = 4095

// ReadLink returns where a symbolic link points, as it is stored: in the inode, or in a block ("Symbolic Links").
func (f *FS) ReadLink(name string) (string, error) {
	e, err := f.lookup("readlink", name)
	if err != nil {
		return "", err
	}
	fail := func(err error) (string, error) { return "", &fs.PathError{Op: "readlink", Path: name, Err: err} }
	switch {
	case e.fault != nil:
		return fail(e.why(name))
	case e.node.mode.Type() != fs.ModeSymlink:
		return fail(fs.ErrInvalid)
	}
	target, err := f.target(e.node, name)
	if err != nil {
		return fail(err)
	}
	return string(target), nil
}

// target is that of a symbolic link. A NUL would end it, for the kernel.
func (f *FS) target(i *inode, path string) (b []byte, err error) {
	inline := i.flags&flagInline != 0
	fast := !inline && i.fast
	switch {
	case i.flags&flagEncrypted != 0:
		return nil, &FormatError{path, i.off + 32, "the link is encrypted"}
	case i.size == 0 || i.size > min(maxTarget, f.block-1) || fast && i.size >= int64(len(i.block)):
		return nil, &FormatError{path, i.off + 4, fmt.Sprintf("the link's target has %d bytes", i.size)}
	case inline:
		if b, err = f.inline(i, path); err != nil {
			return nil, err
		}
	case fast:
		b = i.block[:i.size]
	default:
		if err := f.follow(i, path); err != nil {
			return nil, err
		}
		b = make([]byte, i.size)
		if err := f.read(i, b, 0, path); err != nil {
			return nil, err
		}
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return nil, &FormatError{path, i.off + 40, "there is a NUL in the link's target"}
	}
	return b, nil
}

// openDir is a directory opened for ReadDir.
type openDir struct {
	info    info
	path    string
	mu      sync.Mutex
	entries []entry
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *openDir) Close() error               { return nil }

func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.path, Err: errors.New("is a directory")}
}

func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n <= 0 {
		n = len(d.entries)
	} else if len(d.entries) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.entries))
	out := dirEntries(d.entries[:n])
	d.entries = d.entries[n:]
	return out, nil
}

// file is an open file. Its methods may be called at once.
type file struct {
	f      *FS
	info   info
	path   string
	inline []byte

	mu  sync.Mutex
	pos int64
}

func (o *file) Stat() (fs.FileInfo, error) { return o.info, nil }
func (o *file) Close() error               { return nil }

func (o *file) Read(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.ReadAt(p, o.pos)
	o.pos += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (o *file) ReadAt(p []byte, off int64) (int, error) {
	size := o.info.Size()
	switch {
	case off < 0:
		return 0, &fs.PathError{Op: "read", Path: o.path, Err: fs.ErrInvalid}
	case len(p) == 0:
		return 0, nil
	case off >= size:
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > size-off {
		p, end = p[:size-off], io.EOF
	}
	if o.inline != nil {
		return copy(p, o.inline[off:]), end
	}
	if err := o.f.read(o.info.e.node, p, off, o.path); err != nil {
		return 0, &fs.PathError{Op: "read", Path: o.path, Err: err}
	}
	return len(p), end
}

func (o *file) Seek(offset int64, whence int) (int64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += o.pos
	case io.SeekEnd:
		offset += o.info.Size()
	default:
		offset = -1
	}
	if offset < 0 {
		return 0, &fs.PathError{Op: "seek", Path: o.path, Err: fs.ErrInvalid}
	}
	o.pos = offset
	return offset, nil
}
