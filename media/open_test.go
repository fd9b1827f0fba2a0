package media

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpenReadOnly(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(os.WriteFile(in("image"), []byte("image"), 0o600), os.Symlink("image", in("link")), os.Symlink("link2", in("link2")), unix.Mkfifo(in("fifo"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(in("fifo"), os.O_RDWR, 0) // or who opens it waits
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	for _, name := range []string{"image", "link"} {
		f, err := OpenReadOnly(in(name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if text, err := io.ReadAll(f); err != nil || string(text) != "image" {
			t.Errorf("%s: read %q, %v", name, text, err)
		}
		if _, err := f.Write([]byte("x")); !errors.Is(err, unix.EBADF) {
			t.Errorf("%s: written to: %v", name, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, test := range []struct {
		path string
		is   error
		want string
	}{
		{in("nothing"), fs.ErrNotExist, "open " + in("nothing") + ": no such file or directory"},
		{in("link2"), unix.ELOOP, "open " + in("link2") + ": too many levels of symbolic links"},
		{in("fifo"), fs.ErrInvalid, "open " + in("fifo") + ": it is neither a block device nor an image file"},
		{dir, fs.ErrInvalid, "open " + dir + ": it is neither a block device nor an image file"},
		{"/dev/null", fs.ErrInvalid, "open /dev/null: it is neither a block device nor an image file"},
	} {
		f, err := OpenReadOnly(test.path)
		if err == nil {
			f.Close()
		}
		if !errors.Is(err, test.is) || err.Error() != test.want {
			t.Errorf("%s: %v, want %q", test.path, err, test.want)
		}
	}
}

// TestReplaced: what was looked at is what is opened.
func TestReplaced(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.Stat(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := stillThere(f, "a", before, false); err == nil || !strings.Contains(err.Error(), "open a: it was replaced by another file meanwhile") {
		t.Errorf("%v", err)
	}
	// A file is no device that could be asked whether it is read-only.
	if info, err := f.Stat(); err != nil {
		t.Error(err)
	} else if err := stillThere(f, "b", info, true); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("%v, want ENOTTY", err)
	}
}
