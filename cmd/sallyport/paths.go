package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"sallyport/bundle"
)

// checkOutput finds out before long work whether a file can be made at path, or replaced.
func checkOutput(path string) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return usagef("write %s: it is a %s: give a file name, or - for a pipe", path, kindOf(info))
	}
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return pathError(fmt.Errorf("write %s: %w", path, named("open", dir, err)))
	case !info.IsDir():
		return usagef("write %s: %s is not a directory", path, dir)
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("write %s: nothing can be made in %s: %w", path, dir, err)
	}
	return nil
}

// mayReplace refuses to overwrite what somebody may miss. An empty file gives way, and so does an image or a seal, as
// what says, that nobody has signed: it can be made again.
func mayReplace(path, what string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return pathError(named("write", path, err))
	case info.Mode().IsRegular() && (info.Size() == 0 || what == "image" && isUnsignedImage(path) || what == "seal" && isUnsignedSeal(path)):
		return nil
	}
	return usagef("%s is there already and is no unsigned %s: name a new file or remove it", path, what)
}

func isUnsignedImage(path string) bool {
	f, info, err := openInput(path)
	if err != nil {
		return false
	}
	defer f.Close()
	claims, err := bundle.Inspect(context.Background(), bundle.Source{ReaderAt: f, Size: info.Size()})
	if err != nil || claims.Repaired() != nil {
		return false
	}
	sigs, err := claims.Signatures()
	return err == nil && len(sigs) == 0
}

func isUnsignedSeal(path string) bool {
	planned, err := bundle.ReadPlanned(path)
	return err == nil && len(planned.Signatures) == 0
}

func kindOf(info fs.FileInfo) string {
	switch mode := info.Mode(); {
	case mode.IsDir():
		return "directory"
	case mode&fs.ModeNamedPipe != 0:
		return "FIFO"
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeCharDevice != 0:
		return "character device"
	case mode&fs.ModeDevice != 0:
		return "device"
	default:
		return "file"
	}
}

// apart refuses a path that is, or lies in, a directory where it must not be: what carries a tree must not grow it.
// Neither need exist.
func apart(what, path, kind, dir string) error {
	at, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	top, err := os.Stat(dir)
	if err != nil { // perhaps it is to be made
		abs, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		if rel, err := filepath.Rel(abs, at); err == nil && filepath.IsLocal(rel) {
			return usagef("%s %s lies in %s %s: name another place", what, path, kind, dir)
		}
		return nil
	}
	for {
		real, err := filepath.EvalSymlinks(at)
		if err == nil {
			at = real
			break
		}
		up := filepath.Dir(at)
		if !errors.Is(err, fs.ErrNotExist) || up == at {
			return nil // whoever opens it says why
		}
		at = up
	}
	for {
		if info, err := os.Stat(at); err == nil && os.SameFile(info, top) {
			return usagef("%s %s lies in %s %s: name another place", what, path, kind, dir)
		}
		up := filepath.Dir(at)
		if up == at {
			return nil
		}
		at = up
	}
}

// openInput opens a file that the user named, for reading, without waiting for a FIFO that nobody writes to.
func openInput(path string) (*os.File, fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, pathError(named("read", path, err))
	}
	if info.IsDir() {
		return nil, nil, usagef("read %s: it is a directory", path)
	}
	flags := os.O_RDONLY
	if info.Mode()&fs.ModeNamedPipe != 0 {
		flags |= unix.O_NONBLOCK
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, nil, pathError(named("read", path, err))
	}
	return f, info, nil
}

// checkDir finds out whether the user named a directory.
func checkDir(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return pathError(named("read", path, err))
	}
	if !info.IsDir() {
		return usagef("read %s: it is a %s and should be a directory", path, kindOf(info))
	}
	return nil
}

// named puts the user's name for a file in place of what the error says was done, and to what.
func named(verb, path string, err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return fmt.Errorf("%s %s: %w", verb, path, err)
}
