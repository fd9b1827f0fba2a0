package iso9660

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"
)

// A ChangedError says that a file was changed between being listed and being read.
type ChangedError struct {
	Path string
	What string
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("read %q: changed while being read: %s", e.Path, e.What)
}

// Write writes the tree fsys to w as a volume, files in order of path bytes; a zero modification time becomes 1970. Links are read through fs.ReadLinkFS; what is not a directory, a regular file or a link, or has more than permission bits, is an error.
// A file whose size or modification time differs after listing gives a *SizeError or a *ChangedError.
func Write(ctx context.Context, w io.Writer, fsys fs.FS, vol Volume) error {
	entries, err := listTree(ctx, fsys)
	if err != nil {
		return err
	}
	l, err := NewLayout(vol, entries.entries)
	if err != nil {
		return err
	}
	vw := l.NewWriter(w)
	for i := range entries.entries {
		if !entries.entries[i].Mode.IsRegular() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := entries.writeFile(ctx, vw, fsys, i); err != nil {
			return err
		}
	}
	return vw.Close()
}

// A tree is a listing with the times that entries don't hold in full.
type tree struct {
	entries []Entry
	nanos   []int32 // by entry: nanoseconds of the modification time
}

func (t *tree) modTime(i int) time.Time { return time.Unix(t.entries[i].ModTime, int64(t.nanos[i])) }

// modTime takes 1970 for the zero time, which is what file systems without times say.
func modTime(info fs.FileInfo) time.Time {
	if t := info.ModTime(); !t.IsZero() {
		return t
	}
	return time.Unix(0, 0)
}

func listTree(ctx context.Context, fsys fs.FS) (*tree, error) {
	type listed struct {
		Entry
		nanos int32
	}
	var list []listed
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mtime := modTime(info)
		e := Entry{Path: path, Mode: info.Mode(), ModTime: mtime.Unix()}
		switch e.Mode.Type() {
		case fs.ModeSymlink:
			if e.Target, err = fs.ReadLink(fsys, path); err != nil {
				return err
			}
			e.Mode = fs.ModeSymlink | 0o777
		case 0:
			e.Size = info.Size()
		}
		if len(list) == MaxEntries {
			return entryErrorf(path, "more than %d entries", MaxEntries)
		}
		list = append(list, listed{e, int32(mtime.Nanosecond())})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list tree: %w", err)
	}
	if len(list) == 0 {
		return nil, errors.New("list tree: empty")
	}
	slices.SortFunc(list[1:], func(a, b listed) int { return cmp.Compare(a.Path, b.Path) })
	t := &tree{entries: make([]Entry, len(list)), nanos: make([]int32, len(list))}
	for i := range list {
		t.entries[i], t.nanos[i] = list[i].Entry, list[i].nanos
	}
	return t, nil
}

// writeFile copies one file and compares what it says of itself before and after with the listing.
func (t *tree) writeFile(ctx context.Context, w *Writer, fsys fs.FS, i int) (err error) {
	e := &t.entries[i]
	f, err := fsys.Open(e.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := t.same(f, i); err != nil {
		return err
	}
	if err := w.WriteFile(i, contextReader{ctx, f}); err != nil {
		return err
	}
	return t.same(f, i)
}

func (t *tree) same(f fs.File, i int) error {
	e := &t.entries[i]
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.Mode() != e.Mode:
		return &ChangedError{e.Path, fmt.Sprintf("mode is %v, was %v", info.Mode(), e.Mode)}
	case info.Size() != e.Size:
		return &SizeError{Path: e.Path, Want: e.Size, Got: info.Size()}
	case !modTime(info).Equal(t.modTime(i)):
		return &ChangedError{e.Path, fmt.Sprintf("modification time is %v, was %v", modTime(info).UTC(), t.modTime(i).UTC())}
	}
	return nil
}

// A contextReader ends with the context's error.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
