package importlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

const copyBytes = 256 << 10

// A Staging takes the payload of one bundle, entry by entry in manifest order, into the spool's .incoming. Nobody
// else has access to it there. Discard it when it isn't released.
type Staging struct {
	spool  *Spool
	digest [32]byte // of the seal
	name   string   // in .incoming
	root   *os.Root
	dir    *os.File // the payload's root

	parent  string   // the folder that the last entry was put into
	in      *os.Root // parent, open
	inDir   *os.File
	dirs    []stagedDir
	buf     []byte
	closed  bool // discarded or released
	durable bool // complete, with its modes and times, and synced
	failed  error
}

// stagedDir is what a directory gets when nothing is put into it any more.
type stagedDir struct {
	path  string
	mode  fs.FileMode
	mtime int64
}

// Dir makes a directory; "." is the payload's root, which is there. mode has permission bits only; mtime is in
// seconds since 1970-01-01 UTC. Both are set when the staging is finished.
func (st *Staging) Dir(name string, mode fs.FileMode, mtime int64) error {
	return st.put(name, func(base string) error {
		if mode != mode.Perm() {
			return fmt.Errorf("mode %v", mode)
		}
		if name != "." {
			if err := st.in.Mkdir(base, 0o700); err != nil {
				return err
			}
		}
		st.dirs = append(st.dirs, stagedDir{name, mode, mtime})
		return nil
	})
}

// File makes a regular file of exactly size bytes from r, which must end there.
func (st *Staging) File(name string, mode fs.FileMode, mtime int64, size int64, r io.Reader) error {
	return st.put(name, func(base string) (err error) {
		if mode != mode.Perm() {
			return fmt.Errorf("mode %v", mode)
		}
		// O_EXCL makes it a new file; os.Root adds O_NOFOLLOW.
		f, err := st.in.OpenFile(base, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if st.buf == nil {
			st.buf = make([]byte, copyBytes)
		}
		// Only Write: the buffer is used, and no more than one byte too many is ever taken.
		n, err := io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(r, size+1), st.buf)
		if err != nil {
			return err
		}
		if n != size {
			return fmt.Errorf("%d bytes or more came, it has %d", n, size)
		}
		if err := f.Chmod(mode); err != nil {
			return err
		}
		return setTime(st.inDir, base, mtime)
	})
}

// Symlink makes a symlink. Its target is not looked at.
func (st *Staging) Symlink(name, target string, mtime int64) error {
	return st.put(name, func(base string) error {
		if err := st.in.Symlink(target, base); err != nil {
			return err
		}
		return setTime(st.inDir, base, mtime)
	})
}

// put opens the folder of name, unless it is the one of the entry before, and lets create work in it.
func (st *Staging) put(name string, create func(base string) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("stage %.1000q: %w", name, err)
			st.failed = errors.Join(st.failed, err)
		}
	}()
	if err := st.usable(); err != nil {
		return err
	}
	if st.durable {
		return errors.New("the staging is finished")
	}
	if !fs.ValidPath(name) {
		return errors.New("not a plain relative path")
	}
	dir, base := path.Split(name)
	if dir = path.Clean(dir); st.in == nil || dir != st.parent {
		st.leave()
		if st.in, err = st.root.OpenRoot(dir); err != nil {
			return err
		}
		if st.inDir, err = st.in.Open("."); err != nil {
			return err
		}
		st.parent = dir
	}
	return create(base)
}

func (st *Staging) usable() error {
	if st.closed {
		return errors.New("the staging is closed")
	}
	return st.failed
}

// leave closes the folder of the last entry.
func (st *Staging) leave() {
	if st.in != nil {
		st.in.Close()
	}
	if st.inDir != nil {
		st.inDir.Close()
	}
	st.in, st.inDir = nil, nil
}

// setTime sets the modification time of what stands in dir, not of what it points to. The access time is left. A
// file system stores the nearest time it can: ext4 begins in December 1901.
func setTime(dir *os.File, name string, mtime int64) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: mtime}}
	if err := unix.UtimesNanoAt(int(dir.Fd()), name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set modification time %d: %w", mtime, err)
	}
	return nil
}

// finish gives the directories their modes and times, deepest first, and makes everything durable.
//
// One syncfs(2) takes the place of an fsync for each file and directory: it writes the same blocks, in an order
// of its own, and waits for them once instead of once a file; on a disk that is an hour's difference for a million
// small files. Unlike sync(2) it returns the errors of writing back, for its whole file system, so nothing is lost
// unseen. The directory itself and .incoming are synced besides, since their entries are what the release moves.
func (st *Staging) finish() (err error) {
	if err := st.usable(); err != nil || st.durable {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("finish staging: %w", err)
			st.failed = err
		}
	}()
	st.leave()
	if len(st.dirs) == 0 || st.dirs[0].path != "." {
		return errors.New("the payload's root was not staged first")
	}
	// A directory was put before all that is in it.
	for i := len(st.dirs) - 1; i >= 0; i-- {
		if err := st.finishDir(st.dirs[i]); err != nil {
			return fmt.Errorf("directory %q: %w", st.dirs[i].path, err)
		}
	}
	if err := st.spool.ops.syncfs(int(st.dir.Fd())); err != nil {
		return fmt.Errorf("sync the file system: %w", err)
	}
	for _, f := range []*os.File{st.dir, st.spool.in} {
		if err := st.spool.ops.fsync(f); err != nil {
			return fmt.Errorf("sync directory: %w", err)
		}
	}
	st.durable = true
	return nil
}

// ownerMayMove lets the owner write and search a directory: without that only root may move it.
const ownerMayMove = 0o300

func (st *Staging) finishDir(d stagedDir) error {
	f, err := st.root.Open(d.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := setTime(f, ".", d.mtime); err != nil {
		return err
	}
	mode := d.mode
	if d.path == "." {
		mode |= ownerMayMove // until it is released
	}
	return f.Chmod(mode)
}

// Discard removes what was staged and gives its space back. After a release it does nothing.
func (st *Staging) Discard() error {
	if st.closed {
		return nil
	}
	st.close()
	if err := removeTree(st.spool.root, path.Join(incoming, st.name)); err != nil {
		return fmt.Errorf("discard staging %s: %w", st.name, err)
	}
	return nil
}

func (st *Staging) close() {
	st.leave()
	st.root.Close()
	st.dir.Close()
	st.closed = true
	delete(st.spool.open, st.name)
}
