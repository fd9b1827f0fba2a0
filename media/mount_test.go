package media

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMountPoint(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(os.MkdirAll(in("full/x"), 0o755), os.Mkdir(in("empty"), 0o755), os.WriteFile(in("file"), nil, 0o600), os.Symlink("empty", in("link")))
	if err != nil {
		t.Fatal(err)
	}
	real, err := filepath.EvalSymlinks(in("empty"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"empty", "link", "full/../empty/."} {
		if got, err := mountPoint(in(name)); err != nil || got != real {
			t.Errorf("%s: %q, %v; want %q", name, got, err, real)
		}
	}
	for name, test := range map[string]struct {
		is   error
		want string
	}{
		in("full"):    {fs.ErrInvalid, "the directory isn't empty, and what is in it would be hidden"},
		in("file"):    {fs.ErrInvalid, "it is no directory"},
		in("nothing"): {fs.ErrNotExist, "open " + in("nothing") + ": no such file or directory"},
		"/proc":       {fs.ErrInvalid, "of type proc is mounted there already"},
	} {
		if got, err := mountPoint(name); !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, test.want)
		}
	}
}

// TestMountFlags: F7. The numbers are of the kernel's include/uapi/linux/mount.h: read-only, nosuid, nodev, noexec.
func TestMountFlags(t *testing.T) {
	if mountFlags != 1|2|4|8 || fsType != "iso9660" {
		t.Errorf("mounted as %s with flags %#x", fsType, mountFlags)
	}
}

func TestVolumeCheck(t *testing.T) {
	for _, v := range []Verity{{}, {DataBlocks: 0, Tree: 5}, {DataBlocks: -1, Tree: 5}, {DataBlocks: 30, Tree: 29}, {DataBlocks: 30, Tree: 1 << 32}} {
		if err := v.check(); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%+v: %v", v, err)
		}
		if _, err := Mount(t.Context(), Volume{Device: "x", Verity: v}, t.TempDir()); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("mount %+v: %v", v, err)
		}
	}
	if err := testVolume.check(); err != nil {
		t.Error(err)
	}
}

// TestOpenBlock: what can't hold the volume isn't given to the kernel.
func TestOpenBlock(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 43*BlockSize), 0o600); err != nil {
		t.Fatal(err)
	}
	f, _, err := openBlock(Volume{Device: image, Verity: testVolume})
	if err == nil {
		f.Close()
	}
	if want := "open " + image + ": it ends at LBA 43 and should have its hash tree at LBA 43: it isn't what was verified"; err == nil || err.Error() != want {
		t.Errorf("%v, want %q", err, want)
	}
}

// TestLock: one at a time, and who waits can be stopped.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control")
	open := func() *control {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return &control{f}
	}
	first, second := open(), open()
	defer second.Close()
	if err := first.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	stopped, stop := context.WithCancelCause(t.Context())
	stop(unix.EPIPE) // any error
	if err := second.lock(stopped); err != unix.EPIPE {
		t.Errorf("while another has it: %v, want the context's cause", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := second.lock(t.Context()); err != nil {
		t.Errorf("when the other is gone: %v", err)
	}
}

func TestUnmountOthers(t *testing.T) {
	if _, err := Unmount(t.Context(), "/proc"); !errors.Is(err, ErrNotOurs) || !strings.Contains(err.Error(), "of type proc is mounted there, and sallyport mount didn't mount it") {
		t.Errorf("/proc: %v", err)
	}
	if _, err := Unmount(t.Context(), filepath.Join(t.TempDir(), "nothing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that isn't there: %v", err)
	}
}

func TestExplainMount(t *testing.T) {
	for errno, want := range map[unix.Errno]string{
		unix.ENODEV: "the kernel has no file system iso9660: load it with \"modprobe isofs\"",
		unix.EPERM:  "only root may do this: permission denied (operation not permitted)",
		unix.EINVAL: "the kernel doesn't mount it: invalid argument",
	} {
		if err := explainMount(errno); err.Error() != want || errno != unix.ENODEV && !errors.Is(err, errno) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
