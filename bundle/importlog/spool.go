package importlog

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// incoming is the folder of the spool in which bundles are staged. No channel has such a name.
const incoming = ".incoming"

// A Spool is the directory into which bundles are released. All access goes through its [os.Root].
type Spool struct {
	root *os.Root
	dir  *os.File        // the spool
	in   *os.File        // .incoming, locked
	open map[string]bool // the stagings in .incoming that are in use
	ops  spoolOps
}

// spoolOps are the system calls that a release rests on.
type spoolOps struct {
	// syncfs writes out a whole file system, data and names.
	syncfs func(fd int) error
	fsync  func(f *os.File) error
	// rename is renameat2(2).
	rename func(fromDir int, from string, toDir int, to string, flags uint) error
}

// OpenSpool opens a spool for staging and releasing, and keeps other processes from that until Close. The
// directory must exist. Errors: [ErrLocked], faults.
func OpenSpool(dir string) (_ *Spool, err error) {
	s := &Spool{open: map[string]bool{}, ops: spoolOps{syncfs: unix.Syncfs, fsync: (*os.File).Sync, rename: unix.Renameat2}}
	defer func() {
		if err != nil {
			s.Close()
			err = fmt.Errorf("open the spool %q: %w", dir, err)
		}
	}()
	if s.root, err = os.OpenRoot(dir); err != nil {
		return nil, err
	}
	if s.dir, err = s.root.Open("."); err != nil {
		return nil, err
	}
	if err := s.root.Mkdir(incoming, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if info, err := s.root.Lstat(incoming); err != nil || !info.IsDir() {
		return nil, errors.Join(fmt.Errorf("%s is not a directory", incoming), err)
	}
	if s.in, err = s.root.Open(incoming); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(s.in.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, err
	}
	return s, nil
}

// Close lets go of the spool. Stagings must have been discarded or released before.
func (s *Spool) Close() error {
	var errs []error
	if s.root != nil {
		errs = append(errs, s.root.Close())
	}
	for _, f := range []*os.File{s.in, s.dir} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Stage begins to stage the bundle with the given seal digest, in an empty folder of .incoming. What earlier runs
// left there, of this bundle or another, is removed first: nobody else can be using it.
func (s *Spool) Stage(sealDigest [32]byte) (_ *Staging, err error) {
	name := hex.EncodeToString(sealDigest[:])
	defer func() {
		if err != nil {
			err = fmt.Errorf("stage %s/%s: %w", incoming, name, err)
		}
	}()
	if s.open[name] {
		return nil, errors.New("it is being staged already")
	}
	if err := s.removeStale(); err != nil {
		return nil, err
	}
	full := path.Join(incoming, name)
	if err := s.root.Mkdir(full, 0o700); err != nil {
		return nil, err
	}
	st := &Staging{spool: s, digest: sealDigest, name: name}
	if st.root, err = s.root.OpenRoot(full); err != nil {
		return nil, err
	}
	// Since Linux 5.8 syncfs reports what went wrong after its descriptor was opened, so that comes before the
	// first write.
	if st.dir, err = st.root.Open("."); err != nil {
		st.root.Close()
		return nil, err
	}
	s.open[name] = true
	return st, nil
}

// removeStale removes the stagings that crashed runs left.
func (s *Spool) removeStale() error {
	list, err := fs.ReadDir(s.root.FS(), incoming)
	if err != nil {
		return err
	}
	for _, d := range list {
		if s.open[d.Name()] || checkDigest(d.Name()) != nil {
			continue
		}
		if err := removeTree(s.root, path.Join(incoming, d.Name())); err != nil {
			return fmt.Errorf("remove what an earlier run left: %w", err)
		}
	}
	return nil
}

// removeTree removes a tree whose directories may be read-only, as those of a payload can be. It follows nothing.
func removeTree(root *os.Root, name string) error {
	err := root.RemoveAll(name)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	walkErr := fs.WalkDir(root.FS(), name, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return root.Chmod(p, 0o700)
		}
		return nil
	})
	if walkErr != nil {
		return errors.Join(err, walkErr)
	}
	return root.RemoveAll(name)
}
