package exfat

import (
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

// info is an entry as fs.FileInfo and fs.DirEntry. exFAT has no rights: files are 0444, directories 0555.
type info struct{ e entry }

func (i info) Name() string               { return i.e.name }
func (i info) IsDir() bool                { return i.e.dir }
func (i info) ModTime() time.Time         { return i.e.modTime() }
func (i info) Sys() any                   { return nil }
func (i info) Type() fs.FileMode          { return i.Mode().Type() }
func (i info) Info() (fs.FileInfo, error) { return i, nil }
func (i info) String() string             { return fs.FormatDirEntry(i) }

// Size is in bytes, 0 for a directory.
func (i info) Size() int64 {
	if i.e.dir {
		return 0
	}
	return i.e.size
}

func (i info) Mode() fs.FileMode {
	if i.e.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

// resolved is a directory's path with its entry. A few are kept so that opening one file after another needs only the directory that they are in, however much memory those above it take.
type resolved struct {
	path string
	e    entry
}

const (
	maxResolved     = 16
	maxResolvedPath = 4096 // bytes
)

func (f *FS) resolvedDir(path string) (entry, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
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

// lookup finds a path's entry, from the root or from a directory that was found just now.
func (f *FS) lookup(op, path string) (entry, error) {
	fail := func(err error) (entry, error) { return entry{}, &fs.PathError{Op: op, Path: path, Err: err} }
	if !fs.ValidPath(path) {
		return fail(fs.ErrInvalid)
	}
	if path == "." {
		return f.root(), nil
	}
	if strings.Count(path, "/") >= maxDepth {
		return fail(errDepth)
	}
	e, dir, rest := f.root(), ".", path
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		if known, ok := f.resolvedDir(path[:i]); ok {
			e, dir, rest = known, path[:i], path[i+1:]
		}
	}
	for name := range strings.SplitSeq(rest, "/") {
		if !e.dir {
			return fail(fs.ErrNotExist)
		}
		d, err := f.dir(e, dir)
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
		dir = strings.TrimPrefix(dir+"/"+name, "./")
	}
	return e, nil
}

// Open opens a file or directory. A file's whole chain of clusters is followed before it is opened, so that a damaged one is refused and none is read with another's bytes: the *fs.PathError then wraps a *FormatError. The file is an io.ReaderAt and io.Seeker too.
func (f *FS) Open(name string) (fs.File, error) {
	e, err := f.lookup("open", name)
	if err != nil {
		return nil, err
	}
	if e.dir {
		d, err := f.dir(e, name)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return &openDir{info: info{e}, path: name, entries: d.entries}, nil
	}
	out := &file{f: f, info: info{e}, path: name}
	want := e.size / f.cluster
	if e.size%f.cluster != 0 {
		want++
	}
	switch {
	case e.damage != "":
		err = &FormatError{name, e.off, e.damage}
	case want == 0 && e.first != 0:
		f.mu.Lock()
		if _, known := f.owner[e.first]; !known && len(f.owner) < maxOwners {
			f.owner[e.first] = e.off
			f.list.Add("chain-slack", e.off, name, "the file is empty and has clusters from %d on", e.first)
		}
		f.mu.Unlock()
	case want == 0:
	case want > int64(f.clusters):
		err = &FormatError{name, e.off, fmt.Sprintf("the file's %d bytes are more than the volume has", e.size)}
	default:
		out.chain, err = f.follow(e.first, uint32(want), e.solid, e.off, name)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return out, nil
}

// ReadDir lists a directory, sorted by name.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	e, err := f.lookup("readdir", name)
	if err != nil {
		return nil, err
	}
	if !e.dir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	if strings.Count(name, "/")+1 >= maxDepth {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errDepth}
	}
	d, err := f.dir(e, name)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
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

// Stat describes a file or directory without following its chain.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	e, err := f.lookup("stat", name)
	if err != nil {
		return nil, err
	}
	return info{e}, nil
}

// Lstat is Stat: exFAT has no symbolic links.
func (f *FS) Lstat(name string) (fs.FileInfo, error) { return f.Stat(name) }

// ReadLink is an error for every file: exFAT has no symbolic links.
func (f *FS) ReadLink(name string) (string, error) {
	if _, err := f.lookup("readlink", name); err != nil {
		return "", err
	}
	return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
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
	f     *FS
	info  info
	path  string
	chain chain

	mu   sync.Mutex
	pos  int64
	last struct{ index, cluster uint32 } // where the last read ended, so that reading on needs no walk
}

func (o *file) Stat() (fs.FileInfo, error) { return o.info, nil }
func (o *file) Close() error               { return nil }

func (o *file) Read(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.readAt(p, o.pos)
	o.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (o *file) ReadAt(p []byte, off int64) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.readAt(p, off)
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

// readAt reads runs of clusters that follow each other with one read each. Behind ValidDataLength there are zeros, whatever the clusters hold (section 7.6.5).
func (o *file) readAt(p []byte, off int64) (n int, err error) {
	fail := func(err error) (int, error) { return n, &fs.PathError{Op: "read", Path: o.path, Err: err} }
	if off < 0 {
		return fail(fs.ErrInvalid)
	}
	if off >= o.info.Size() {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	short := int64(len(p)) > o.info.Size()-off
	if short {
		p = p[:o.info.Size()-off]
	}
	written := p[:min(int64(len(p)), max(0, o.info.e.valid-off))]
	clear(p[len(written):])
	size := o.f.cluster
	for n < len(written) {
		index, within := uint32((off+int64(n))/size), (off+int64(n))%size
		cl, err := o.cluster(index)
		if err != nil {
			return fail(err)
		}
		start, run := o.f.offset(cl)+within, size-within
		for run < int64(len(written)-n) && index+1 < o.chain.count {
			next, err := o.cluster(index + 1)
			if err != nil {
				return fail(err)
			}
			if next != cl+1 {
				break
			}
			cl, index, run = next, index+1, run+size
		}
		run = min(run, int64(len(written)-n))
		if err := o.f.readAt(written[n:n+int(run)], start); err != nil {
			return fail(err)
		}
		n += int(run)
	}
	n = len(p)
	if short {
		return n, io.EOF
	}
	return n, nil
}

// cluster returns the cluster with a number in the file's chain.
func (o *file) cluster(index uint32) (cl uint32, err error) {
	switch {
	case o.last.cluster != 0 && index == o.last.index:
		return o.last.cluster, nil
	case o.last.cluster != 0 && index == o.last.index+1 && o.chain.shift > 0:
		cl, err = o.f.next(o.last.cluster, o.path)
		if err == nil && cl == 0 {
			err = &FormatError{o.path, o.f.link(o.last.cluster), "the chain is shorter than it was"}
		}
	default:
		cl, err = o.f.at(o.chain, index, o.path)
	}
	if err == nil {
		o.last.index, o.last.cluster = index, cl
	}
	return cl, err
}
