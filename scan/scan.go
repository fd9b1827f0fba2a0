// Package scan tells whether a tree is allowed to cross: its names, the kinds of its files, its limits
// (docs/format.md, sections 4 and 14). It reads directories and links, never a file's content, and follows
// nothing. When told to, it tries whether files can be opened.
//
// [Check] walks a file system, before a bundle is prepared; a [Checker] takes the entries of a manifest, before
// anything of it is believed. Both end in a [Report].
package scan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// Check inspects the whole of fsys. Symlinks need an [fs.ReadLinkFS]; nothing is followed. The report is
// returned also when the tree isn't acceptable (see [Report.Err]); the error says that the inspection could not
// be finished: something could not be read, or ctx is done.
func Check(ctx context.Context, fsys fs.FS, limits Limits) (*Report, error) {
	info, err := fs.Lstat(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("scan: %w", err)
	}
	w := walker{ctx: ctx, fsys: fsys, c: NewChecker(limits)}
	w.c.Entry(".", info.Mode(), info.Size(), "")
	w.c.MTime(".", info.ModTime().Unix())
	if err := w.dir(".", 0); err != nil {
		return nil, err
	}
	return w.c.Report(), nil
}

type walker struct {
	ctx  context.Context
	fsys fs.FS
	c    *Checker
}

// dir inspects what lies in one directory. It recurses no deeper than Limits.Depth.
func (w *walker) dir(dir string, depth int) error {
	list, err := w.readDir(dir)
	if err != nil {
		return w.unreadable(dir, fmt.Errorf("scan: read directory %s: %w", Quote(dir), err))
	}
	for _, d := range list {
		if w.c.entries > w.c.limits.Entries {
			return nil
		}
		if err := w.ctx.Err(); err != nil {
			return fmt.Errorf("scan: %w", context.Cause(w.ctx))
		}
		name := d.Name()
		path := name
		if dir != "." {
			path = dir + "/" + name
		}
		info, err := d.Info()
		if err != nil {
			return fmt.Errorf("scan: stat %s: %w", Quote(path), err)
		}
		// A name that fs.FS can't be asked for has its finding anyway; what is behind it stays unread.
		reachable := fs.ValidPath(path) && !strings.Contains(name, "/") && len(path) <= w.c.limits.PathBytes
		target := ""
		if info.Mode().Type() == fs.ModeSymlink && reachable {
			if target, err = fs.ReadLink(w.fsys, path); err != nil {
				if err = w.unreadable(path, fmt.Errorf("scan: read link %s: %w", Quote(path), err)); err != nil {
					return err
				}
				continue
			}
		}
		w.c.Entry(path, info.Mode(), info.Size(), target)
		w.c.MTime(path, info.ModTime().Unix())
		switch {
		case !reachable:
		case info.IsDir() && depth+1 <= w.c.limits.Depth && w.c.report.Directories <= w.c.limits.Directories:
			err = w.dir(path, depth+1)
		case info.Mode().IsRegular() && w.c.limits.OpenFiles:
			err = w.try(path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// try opens a file and reads nothing of it.
func (w *walker) try(path string) error {
	f, err := w.fsys.Open(path)
	if err == nil {
		return f.Close()
	}
	return w.unreadable(path, fmt.Errorf("scan: open %s: %w", Quote(path), err))
}

// unreadable makes a finding of what its owner doesn't let be read, and of what is damaged, when that is asked for. Any
// other fault says nothing about the tree, and ends the inspection.
func (w *walker) unreadable(path string, err error) error {
	switch limits := w.c.limits; {
	case limits.OpenFiles && errors.Is(err, fs.ErrPermission):
		w.c.find(path, CodeUnreadable, "permission denied")
	case limits.Damaged != nil && errors.Is(err, limits.Damaged):
		w.c.find(path, CodeUnreadable, "the file system is damaged there")
	default:
		return err
	}
	return nil
}

// readDir returns the entries of a directory in order of their names, and no more of them than the limit
// allows and one.
func (w *walker) readDir(dir string) (list []fs.DirEntry, err error) {
	f, err := w.fsys.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	d, ok := f.(fs.ReadDirFile)
	if !ok {
		return nil, errors.New("not a directory that can be read")
	}
	for int64(len(list))+w.c.entries <= w.c.limits.Entries {
		if w.ctx.Err() != nil {
			return nil, context.Cause(w.ctx)
		}
		part, err := d.ReadDir(1024)
		list = append(list, part...)
		if err == io.EOF || err == nil && len(part) == 0 {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}
