package image

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"strings"
)

// File is an entry of an initramfs: a regular file, a directory or a symbolic link. Owner and group are root.
type File struct {
	Path    string      // from the root, without a leading slash
	Mode    fs.FileMode // type and permissions
	Size    int64       // of a regular file, in bytes
	Content io.Reader   // its bytes, Size of them; nil if there are none
	Target  string      // of a symbolic link
}

// writeCPIO writes files as one archive in the newc format (the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst), in the order they have, each after the directories
// above it, which it makes once. mtime is that of all entries, in seconds since 1970. The archive ends on a multiple of
// 512 bytes, so that another one can follow: the kernel unpacks one after the other.
func writeCPIO(w io.Writer, files []File, mtime int64) error {
	if mtime < 0 || mtime > math.MaxUint32 {
		return fmt.Errorf("the time %d doesn't fit an initramfs", mtime)
	}
	c := &cpioWriter{w: bufio.NewWriterSize(w, 1<<16), mtime: uint32(mtime), made: make(map[string]bool)}
	for _, f := range files {
		if err := c.add(f); err != nil {
			return fmt.Errorf("initramfs: %.255q: %w", f.Path, err)
		}
	}
	if err := c.entry("TRAILER!!!", 0, 0, nil); err != nil {
		return err
	}
	if err := c.pad(512); err != nil {
		return err
	}
	return c.w.Flush()
}

type cpioWriter struct {
	w     *bufio.Writer
	at    int64
	inode uint32
	mtime uint32
	made  map[string]bool // paths in this archive
}

func (c *cpioWriter) add(f File) error {
	if !fs.ValidPath(f.Path) || f.Path == "." || strings.ContainsRune(f.Path, 0) || len(f.Path) > 4095 {
		return fmt.Errorf("no path for an initramfs")
	}
	if c.made[f.Path] {
		if f.Mode.IsDir() {
			return nil
		}
		return fmt.Errorf("a second entry")
	}
	if dir := path.Dir(f.Path); dir != "." && !c.made[dir] {
		if err := c.add(File{Path: dir, Mode: fs.ModeDir | 0o755}); err != nil {
			return err
		}
	}
	c.made[f.Path] = true
	permissions := uint32(f.Mode.Perm())
	switch f.Mode.Type() {
	case fs.ModeDir:
		return c.entry(f.Path, 0o040000|permissions, 0, nil)
	case fs.ModeSymlink:
		return c.entry(f.Path, 0o120777, int64(len(f.Target)), strings.NewReader(f.Target))
	case 0:
		return c.entry(f.Path, 0o100000|permissions, f.Size, f.Content)
	}
	return fmt.Errorf("an initramfs takes no %v", f.Mode)
}

func (c *cpioWriter) entry(name string, mode uint32, size int64, content io.Reader) error {
	if size < 0 || size > math.MaxUint32 {
		return fmt.Errorf("%d bytes are too many for an initramfs", size)
	}
	links := 1
	if mode&0o170000 == 0o040000 {
		links = 2
	}
	if mode != 0 {
		c.inode++
	}
	n, err := fmt.Fprintf(c.w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, 0, 0, links, c.mtime, size, 0, 0, 0, 0, len(name)+1, 0, name)
	c.at += int64(n)
	if err != nil {
		return err
	}
	if err := c.pad(4); err != nil {
		return err
	}
	if size > 0 {
		if content == nil {
			return fmt.Errorf("no content")
		}
		m, err := io.CopyN(c.w, content, size)
		c.at += m
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", m, size, err)
		}
	}
	return c.pad(4)
}

func (c *cpioWriter) pad(to int64) error {
	for c.at%to != 0 {
		if err := c.w.WriteByte(0); err != nil {
			return err
		}
		c.at++
	}
	return nil
}
