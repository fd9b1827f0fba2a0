package bundle

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"
)

// hostFolder makes a folder of the host like m.
func hostFolder(t testing.TB, m fstest.MapFS) string {
	t.Helper()
	base := t.TempDir()
	must(t, fs.WalkDir(m, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		name := filepath.Join(base, path)
		f := m[path]
		switch d.Type() {
		case fs.ModeDir:
			return os.Mkdir(name, 0o700)
		case fs.ModeSymlink:
			return os.Symlink(string(f.Data), name)
		}
		return os.WriteFile(name, f.Data, 0o600)
	}))
	setTimes(t, m, base)
	return base
}

func setTimes(t testing.TB, m fstest.MapFS, base string) {
	t.Helper()
	for path, f := range m {
		name := filepath.Join(base, path)
		when := unix.NsecToTimespec(f.ModTime.UnixNano())
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{when, when}, unix.AT_SYMLINK_NOFOLLOW))
		if f.Mode.Type() != fs.ModeSymlink {
			must(t, os.Chmod(name, f.Mode.Perm()))
		}
	}
	// A folder without permission for its owner can't be cleared away.
	t.Cleanup(func() {
		for path, f := range m {
			if f.Mode.IsDir() {
				must(t, os.Chmod(filepath.Join(base, path), 0o700))
			}
		}
	})
}

func openDir(t testing.TB, path string) *SourceDir {
	t.Helper()
	d, err := OpenDir(path)
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	return d
}

// hosted is rich without what a host's file system or an ordinary user can't have.
func hosted() fstest.MapFS {
	m := rich()
	for path, f := range m {
		if y := f.ModTime.Year(); y < 1902 || y > 2037 { // some file systems have 32 bits for it
			f.ModTime = time.Unix(1_234_567_890, 0)
		}
		f.Mode |= 0o400
		if strings.HasPrefix(path, "size-1") {
			delete(m, path)
		}
	}
	return m
}

// TestSourceDir: a folder of the host gives the image that the same tree in memory gives.
func TestSourceDir(t *testing.T) {
	m := hosted()
	base := hostFolder(t, m)
	d := openDir(t, base)
	for _, roots := range []int{0, 2} {
		want := prepare(t, m, withRoots(roots))
		if got := prepare(t, d, withRoots(roots)); !bytes.Equal(got, want) {
			t.Errorf("%d roots: the images differ at byte %d", roots, firstDifference(got, want))
		}
	}
	var sink treeSink
	_, err := verify(fileSource(signed(t, d, demo())), VerifyOptions{Sink: &sink})
	must(t, err)
	sink.compare(t, m)
	sink.compare(t, d)
	files := openFiles(t)
	for range 20 {
		prepare(t, d, withRoots(2))
	}
	if n := openFiles(t); n > files {
		t.Errorf("%d files are open, %d before", n, files)
	}
	for _, bad := range []string{"..", "../x", "/etc/passwd", "a/../a/b", "", "a//b"} {
		if _, err := d.Open(bad); err == nil {
			t.Errorf("%q was opened", bad)
		}
		if _, err := d.ReadDir(bad); err == nil {
			t.Errorf("%q was listed", bad)
		}
	}
	if _, err := OpenDir(filepath.Join(base, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that isn't there: %v", err)
	}
	if _, err := OpenDir(filepath.Join(base, "a", "b")); err == nil {
		t.Error("a file was opened as a folder")
	}
}

// TestSourceDirFS: it is a well-behaved fs.FS.
func TestSourceDirFS(t *testing.T) {
	m := fstest.MapFS{".": dir(0o755, 1), "f": file(10, 0o644, 2), "d": dir(0o755, 3), "d/g": file(2000, 0o600, 4), "d/e": dir(0o755, 5)}
	must(t, fstest.TestFS(openDir(t, hostFolder(t, m)), "f", "d/g", "d/e"))
}

// TestSwapped: what is put in a file's or folder's place while the payload is listed or read isn't followed, isn't
// waited for, and is refused.
func TestSwapped(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, pattern(3000, "secret"), 0o644))
	swaps := map[string]func(path string) error{
		"link out of the folder":  func(path string) error { return os.Symlink(secret, path) },
		"link inside the folder":  func(path string) error { return os.Symlink("twin", path) },
		"link inside, relative":   func(path string) error { return os.Symlink("../d/twin", path) },
		"link to itself":          func(path string) error { return os.Symlink(filepath.Base(path), path) },
		"FIFO":                    func(path string) error { return unix.Mkfifo(path, 0o755) },
		"socket":                  func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o755, 0) },
		"nothing":                 func(string) error { return nil },
		"empty folder":            func(path string) error { return os.Mkdir(path, 0o755) },
		"a link for a folder":     func(path string) error { return os.Symlink("real", path) },
		"a link out for a folder": func(path string) error { return os.Symlink(filepath.Dir(secret), path) },
		"a FIFO for a folder":     func(path string) error { return unix.Mkfifo(path, 0o755) },
	}
	watchdog := time.AfterFunc(time.Minute, func() { panic("waiting for a FIFO") })
	defer watchdog.Stop()
	for name, swap := range swaps {
		for _, when := range []string{"listed", "read"} {
			m := tiny()
			m["d/twin"] = m["d/b.bin"]
			m["real"] = dir(0o750, 1_700_000_002)
			m["real/b.bin"], m["real/twin"] = m["d/b.bin"], m["d/b.bin"]
			base := hostFolder(t, m)
			d := openDir(t, base)
			victim := filepath.Join(base, "d", "b.bin")
			if strings.HasSuffix(name, "for a folder") {
				victim = filepath.Join(base, "d")
			}
			do := func() {
				must(t, os.Rename(victim, filepath.Join(t.TempDir(), "away")))
				must(t, swap(victim))
			}
			var p *Plan
			var err error
			if when == "listed" {
				s := &swapping{SourceDir: d, at: "d", do: do}
				if strings.HasSuffix(name, "for a folder") {
					s.at = "."
				}
				p, err = NewPlan(t.Context(), s, demo())
			} else {
				p = plan(t, d, demo())
				do()
			}
			if err == nil {
				_, err = p.WriteTo(t.Context(), io.Discard, nil)
			}
			if codeOf(err) != "changed-while-read" {
				t.Errorf("%s, when %s: %v, want changed-while-read", name, when, err)
			}
		}
	}
}

// swapping does something behind the listing of a folder.
type swapping struct {
	*SourceDir
	at string
	do func()
}

func (s *swapping) ReadDir(path string) ([]fs.DirEntry, error) {
	list, err := s.SourceDir.ReadDir(path)
	if path == s.at && s.do != nil {
		s.do()
		s.do = nil
	}
	return list, err
}

// TestUnreadable: a file or folder without permission is a fault that names it.
func TestUnreadable(t *testing.T) {
	if os.Getuid() == 0 {
		// Root reads everything; another user doesn't.
		base, scratch := hostFolder(t, tiny()), t.TempDir()
		must(t, os.Chmod(filepath.Dir(base), 0o755))
		must(t, os.Chmod(scratch, 0o777))
		child(t, "unreadable", "BUNDLE_TEST_FOLDER="+base, "TMPDIR="+scratch)
		return
	}
	base := hostFolder(t, tiny())
	must(t, os.Chmod(filepath.Join(base, "a.txt"), 0o200))
	must(t, os.Chmod(filepath.Join(base, "d"), 0o300))
	unreadable(t, base)
}

func init() {
	children["unreadable"] = func(t *testing.T) {
		folder := os.Getenv("BUNDLE_TEST_FOLDER")
		must(t, os.Chmod(filepath.Join(folder, "a.txt"), 0o200))
		must(t, unix.Setgroups(nil))
		must(t, unix.Setgid(65534))
		must(t, unix.Setuid(65534))
		unreadable(t, folder)
	}
}

// unreadable expects that this user may neither read the file a.txt nor list the folder d.
func unreadable(t *testing.T, folder string) {
	d, err := OpenDir(folder)
	must(t, err)
	defer d.Close()
	opt := demo()
	opt.LeaveOut = func(path string) bool { return path == "d" }
	p, err := NewPlan(t.Context(), d, opt)
	must(t, err)
	_, err = p.WriteTo(t.Context(), io.Discard, nil)
	if codeOf(err) != "" || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "a.txt") {
		t.Errorf("a file without permission: %v", err)
	}
	_, err = NewPlan(t.Context(), d, demo())
	if codeOf(err) != "" || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "read d:") {
		t.Errorf("a folder without permission: %v", err)
	}
}

// TestBadNames: names that aren't UTF-8 are refused, and can be left out.
func TestBadNames(t *testing.T) {
	base := hostFolder(t, tiny())
	must(t, os.WriteFile(filepath.Join(base, "latin1-\xe9"), nil, 0o644))
	must(t, os.Mkdir(filepath.Join(base, "latin1-\xff"), 0o755))
	d := openDir(t, base)
	_, err := NewPlan(t.Context(), d, demo())
	wantCode(t, err, "bad-name")
	wantPrintable(t, err)
	opt := demo()
	opt.LeaveOut = func(path string) bool { return strings.HasPrefix(path, "latin1") }
	if p := plan(t, d, opt); len(p.Entries()) != len(tiny()) {
		t.Errorf("%d entries", len(p.Entries()))
	}
	if n := plan(t, d, opt).PayloadBytes(); n != 3010 {
		t.Errorf("a payload of %d bytes", n)
	}
}
