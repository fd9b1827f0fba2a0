package main

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/bundle"
	"sallyport/media/carry"
	"sallyport/media/confined"
	"sallyport/media/enrol"
	"sallyport/media/format"
)

// scratchFile is a file without a name in a directory; "" is that of temporary files.
func scratchFile(dir string) (*os.File, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), dir), nil
	}
	f, err := os.CreateTemp(dir, "sallyport-layout-*") // not every file system has files without names
	if err != nil {
		return nil, pathError(err)
	}
	return f, errors.Join(os.Remove(f.Name()))
}

// layOut makes a stick's partition and file system anew, with a tree in it, and zeros wherever that has nothing; what was on
// the stick is gone. What makes it a file system comes last. It is read back after it was put in again; what is in it, as
// files, the caller has to look at (readTree). The record is nil when nothing was done to the stick.
func (e *env) layOut(t *target, kind format.Kind, label string, tree format.Tree, scratch string, noReplug bool) (*carry.Record, *enrol.Volume, error) {
	f, err := scratchFile(scratch)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	return e.layOutIn(f, t, kind, label, tree, noReplug)
}

// layOutIn is layOut by way of an empty file.
func (e *env) layOutIn(f *os.File, t *target, kind format.Kind, label string, tree format.Tree, noReplug bool) (*carry.Record, *enrol.Volume, error) {
	v := format.Volume{Kind: kind, Label: label}
	if _, err := rand.Read(v.ID[:]); err != nil {
		return nil, nil, err
	}
	bar := e.progress()
	bar.update("laying out", 0, t.Size())
	err := format.Build(e.ctx, f, t.Size(), t.BlockSize(), v, tree)
	bar.end(err)
	if err != nil {
		return nil, nil, err
	}
	start, _, err := format.Partition(t.Size(), t.BlockSize())
	if err != nil {
		return nil, nil, err
	}
	serial, err := volumeSerial(f, start, kind)
	if err != nil {
		return nil, nil, err
	}
	const head = 64 << 10 // has the tables, boot sectors with their copies, and ext4's first superblock
	image := carry.Image{ReaderAt: f, Size: t.Size(), BlockSize: t.BlockSize(), Last: []carry.Extent{{Off: start, Len: head}, {Off: t.Size() - head, Len: head}, {Off: 0, Len: head}}}
	rec, err := e.carry(t, image, noReplug)
	if !rec.Touched {
		rec = nil
	}
	return rec, &enrol.Volume{Kind: string(kind), Label: label, Serial: serial}, err
}

// treeError says that what is read from a medium isn't what was to be there.
type treeError struct {
	path, what string
	err        error // for which it can't be read
}

func (e *treeError) Error() string {
	text := fmt.Sprintf("%s: %q, read back, %s", carry.CodeDiffers, e.path, e.what)
	if e.err != nil {
		text += ": " + e.err.Error()
	}
	return text
}

func (e *treeError) Unwrap() error { return e.err }

// withdrawLiar ends the enrolment of a stick that gives other bytes than were written to it.
func withdrawLiar(state string, t *target, err error) error {
	_, lies := errors.AsType[*carry.DiffersError](err)
	if tree, ok := errors.AsType[*treeError](err); ok && tree.err == nil {
		lies = true
	}
	if !lies {
		return err
	}
	return errors.Join(err, enrol.Withdraw(filepath.Join(state, enrolDir), t.identity))
}

func (e *treeError) RefusalCode() string { return carry.CodeDiffers }

// readTree has the process without rights read the one file system of a stick, and compares its files with those that
// entries list, the root first.
func (e *env) readTree(t *target, kind format.Kind, entries []bundle.Entry) error {
	p, err := confined.Start(e.ctx, []string{"/proc/self/exe", confinedArgument}, t, t.Size(), t.BlockSize())
	if err != nil {
		return err
	}
	defer p.Close()
	if p.Volumes() != 1 {
		return &treeError{"", fmt.Sprintf("has %d file systems", p.Volumes()), nil}
	}
	want := make(map[string]*bundle.Entry, len(entries))
	total := int64(0)
	for i := range entries {
		want[entries[i].Path] = &entries[i]
		total += entries[i].Size
	}
	bar, done := e.progress(), int64(0)
	err = fs.WalkDir(p.Volume(0), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return &treeError{path, "gives an error", err}
		}
		if kind == format.Ext4 && path == "lost+found" {
			return fs.SkipDir
		}
		entry := want[path]
		if entry == nil {
			return &treeError{path, "was never to be there", nil}
		}
		delete(want, path)
		bar.update("reading files", done, total)
		done += entry.Size
		return sameFile(e, p.Volume(0), kind, entry, d)
	})
	bar.end(err)
	for path := range want {
		if err == nil {
			err = &treeError{path, "isn't there", nil}
		}
	}
	return err
}

// sameFile compares a file of a stick with what it has to be, as far as the file system can hold that.
func sameFile(e *env, tree fs.FS, kind format.Kind, want *bundle.Entry, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return &treeError{want.Path, "gives an error", err}
	}
	if info.Mode().Type() != want.FileMode().Type() {
		return &treeError{want.Path, "is of another kind", nil}
	}
	if want.Path != "." {
		if got, mtime := info.ModTime().Unix(), heldTime(kind, want.MTime); got != mtime {
			return &treeError{want.Path, fmt.Sprintf("has the time %s and not %s", timeText(got), timeText(mtime)), nil}
		}
		if kind == format.Ext4 && info.Mode() != want.FileMode() && want.Type != bundle.Symlink {
			return &treeError{want.Path, fmt.Sprintf("has the mode %v and not %v", info.Mode(), want.FileMode()), nil}
		}
	}
	switch want.Type {
	case bundle.Symlink:
		if target, err := fs.ReadLink(tree, want.Path); err != nil || target != want.Target {
			return &treeError{want.Path, fmt.Sprintf("points to %q (%v) and not to %q", target, err, want.Target), nil}
		}
	case bundle.File:
		f, err := tree.Open(want.Path)
		if err != nil {
			return &treeError{want.Path, "gives an error", err}
		}
		defer f.Close()
		h := sha256.New()
		n, err := io.Copy(h, io.LimitReader(f, want.Size+1))
		if err != nil {
			return &treeError{want.Path, "gives an error", err}
		}
		if n != want.Size || [32]byte(h.Sum(nil)) != want.SHA256 {
			return &treeError{want.Path, "has other bytes", nil}
		}
	}
	return e.ctx.Err()
}

// heldTime is a time, in seconds since 1970, as a file system can hold it.
func heldTime(kind format.Kind, t int64) int64 {
	switch kind {
	case format.FAT32:
		return max(t-t%2, time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC).Unix())
	case format.ExFAT:
		return max(t, time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC).Unix())
	}
	return t
}
