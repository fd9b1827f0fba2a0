package confined

import (
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
)

// volume is a file system of the medium, seen from the parent.
type volume struct {
	p *Process
	i int
}

var (
	_ fs.ReadDirFS  = (*volume)(nil)
	_ fs.ReadLinkFS = (*volume)(nil)
)

func pathError(op, name string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func (v *volume) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) || len(name) > maxPath/8 {
		return nil, pathError("open", name, fs.ErrInvalid)
	}
	v.p.mu.Lock()
	defer v.p.mu.Unlock()
	var reply openReply
	if err := v.p.askJSON(askOpen, request{Volume: v.i, Path: name}, &reply); err != nil {
		return nil, pathError("open", name, err)
	}
	info, err := reply.Entry.info(name)
	if err != nil {
		return nil, pathError("open", name, v.p.breaks(err))
	}
	return &file{v: v, name: name, handle: reply.Handle, info: info}, nil
}

func (v *volume) Lstat(name string) (fs.FileInfo, error) {
	if !fs.ValidPath(name) || len(name) > maxPath/8 {
		return nil, pathError("lstat", name, fs.ErrInvalid)
	}
	v.p.mu.Lock()
	defer v.p.mu.Unlock()
	var reply entry
	if err := v.p.askJSON(askStat, request{Volume: v.i, Path: name}, &reply); err != nil {
		return nil, pathError("lstat", name, err)
	}
	info, err := reply.info(name)
	if err != nil {
		return nil, pathError("lstat", name, v.p.breaks(err))
	}
	return info, nil
}

func (v *volume) ReadLink(name string) (string, error) {
	if !fs.ValidPath(name) || len(name) > maxPath/8 {
		return "", pathError("readlink", name, fs.ErrInvalid)
	}
	v.p.mu.Lock()
	defer v.p.mu.Unlock()
	target, err := v.p.askRaw(askReadLink, request{Volume: v.i, Path: name}, maxPath)
	return string(target), pathError("readlink", name, err)
}

func (v *volume) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := v.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.(*file).ReadDir(-1)
}

// file is an open file or directory of the medium.
type file struct {
	v      *volume
	name   string
	handle int
	info   *info
	list   []fs.DirEntry // that came and weren't asked for yet
	total  int           // directory entries so far
	last   bool          // no more will come
	closed bool
}

func (f *file) Stat() (fs.FileInfo, error) { return f.info, nil }

func (f *file) Close() error {
	f.v.p.mu.Lock()
	defer f.v.p.mu.Unlock()
	if f.closed {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	var none struct{}
	return pathError("close", f.name, f.v.p.askJSON(askClose, request{Handle: f.handle}, &none))
}

func (f *file) Read(buf []byte) (int, error) {
	if f.closed {
		return 0, pathError("read", f.name, fs.ErrClosed)
	}
	if len(buf) == 0 {
		return 0, nil
	}
	n := min(len(buf), maxRead)
	f.v.p.mu.Lock()
	defer f.v.p.mu.Unlock()
	data, err := f.v.p.askRaw(askRead, request{Handle: f.handle, N: n}, n)
	if err != nil {
		return 0, pathError("read", f.name, err)
	}
	if len(data) == 0 {
		return 0, pathError("read", f.name, f.v.p.breaks(fmt.Errorf("no byte of %d", n)))
	}
	return copy(buf, data), nil
}

// maxEntries bounds the entries of one directory, whatever the child says.
const maxEntries = 1 << 22

func (f *file) ReadDir(n int) ([]fs.DirEntry, error) {
	if f.closed {
		return nil, pathError("readdir", f.name, fs.ErrClosed)
	}
	for !f.last && (n <= 0 || len(f.list) < n) {
		if err := f.more(); err != nil {
			return nil, pathError("readdir", f.name, err)
		}
	}
	if n > 0 && len(f.list) == 0 {
		return nil, io.EOF
	}
	if n <= 0 || n > len(f.list) {
		n = len(f.list)
	}
	list := f.list[:n:n]
	f.list = f.list[n:]
	return list, nil
}

func (f *file) more() error {
	f.v.p.mu.Lock()
	defer f.v.p.mu.Unlock()
	var reply readDirReply
	if err := f.v.p.askJSON(askReadDir, request{Handle: f.handle}, &reply); err != nil {
		return err
	}
	f.last = reply.EOF || len(reply.Entries) == 0
	if f.total += len(reply.Entries); len(reply.Entries) > maxBatch || f.total > maxEntries {
		return f.v.p.breaks(fmt.Errorf("a directory of %d entries", f.total))
	}
	for _, e := range reply.Entries {
		if !validName(string(e.Name)) {
			return f.v.p.breaks(fmt.Errorf("a directory entry %.80q", e.Name))
		}
		info, err := e.info(string(e.Name))
		if err != nil {
			return f.v.p.breaks(err)
		}
		f.list = append(f.list, fs.FileInfoToDirEntry(info))
	}
	return nil
}

// validName reports whether name can be one element of a path.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxName && !strings.ContainsAny(name, "/\x00")
}

// info is what a reply says of a file.
type info struct {
	name  string
	entry entry
}

// Times are between the beginnings of the years 1 and 10000, in seconds of Unix time.
const yearOne, yearEnd = -62135596800, 253402300799

// info checks what the child says of the file at path.
func (e *entry) info(path string) (*info, error) {
	const modes = fs.ModeType | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky | fs.ModePerm
	if e.Size < 0 || fs.FileMode(e.Mode)&^modes != 0 || e.MTime < yearOne || e.MTime > yearEnd || e.Nanos < 0 || e.Nanos >= 1e9 {
		return nil, fmt.Errorf("%.80q: size %d, mode %#x, time %d", path, e.Size, e.Mode, e.MTime)
	}
	return &info{name: path[strings.LastIndexByte(path, '/')+1:], entry: *e}, nil
}

func (i *info) Name() string       { return i.name }
func (i *info) Size() int64        { return i.entry.Size }
func (i *info) Mode() fs.FileMode  { return fs.FileMode(i.entry.Mode) }
func (i *info) ModTime() time.Time { return time.Unix(i.entry.MTime, int64(i.entry.Nanos)).UTC() }
func (i *info) IsDir() bool        { return i.Mode().IsDir() }
func (i *info) Sys() any           { return nil }
