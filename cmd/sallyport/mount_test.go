package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sallyport/bundle"
)

// What mount does with a kernel is tested in guests (qemu-tests). Here is what it does before.

// TestMountMisuse: what was called wrongly is told before anything is read, and without root.
func TestMountMisuse(t *testing.T) {
	t.Parallel()
	dir := room(t)
	mkdir(t, filepath.Join(dir, "empty"))
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"mount", "sim:drive", "empty", "--trust", "trust.json"}, `^sallyport mount: sim:drive is no device of the kernel's, which is to mount it: name an image file or a block device$`},
		{[]string{"mount", "bundle.iso", "payload", "--trust", "trust.json"}, `^sallyport mount: mount on .*/payload: the directory isn't empty, and what is in it would be hidden: name an empty one$`},
		{[]string{"mount", "bundle.iso", "nothing", "--trust", "trust.json"}, `^sallyport mount: open .*/nothing: no such file or directory$`},
		{[]string{"mount", "bundle.iso", "bundle.iso", "--trust", "trust.json"}, `^sallyport mount: mount on .*/bundle\.iso: it is no directory$`},
		{[]string{"mount", "bundle.iso", "/proc", "--trust", "trust.json"}, `^sallyport mount: mount on /proc: .* of type proc is mounted there already$`},
		{[]string{"mount", "bundle.iso", "empty", "--trust", "nothing.json"}, `^sallyport mount: load trust root: open nothing\.json: no such file or directory$`},
		{[]string{"mount", "bundle.iso", "empty"}, `^sallyport mount: missing flags: --trust=FILE`},
		{[]string{"mount", "bundle.iso", "--trust", "trust.json"}, `^sallyport mount: expected "<dir>"`},
		{[]string{"umount", "nothing"}, `^sallyport umount: open .*/nothing: no such file or directory$`},
		{[]string{"umount", "/proc"}, `^sallyport umount: unmount /proc: .* of type proc is mounted there, and sallyport mount didn't mount it$`},
	} {
		code, stdout, stderr := sallyport(t, dir, test.args...)
		wantFailure(t, code, stdout, stderr, 2, test.want)
	}
}

// TestMountUnprivileged: who isn't root is told so before anything is read.
func TestMountUnprivileged(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "sallyport-mount-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeAll(dir) })
	if err := copyTree(fixture(t), dir); err != nil {
		t.Fatal(err)
	}
	copyFile(t, plainProgram(t), filepath.Join(dir, "sallyport"))
	mkdir(t, filepath.Join(dir, "empty"))
	for _, name := range []string{"", "sallyport"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"mount", "bundle.iso", "empty", "--trust", "trust.json"}, `^sallyport mount: mount on .*/empty: only root may do this: permission denied$`},
		{[]string{"umount", "empty"}, `^sallyport umount: unmount .*/empty: only root may do this: permission denied$`},
	} {
		cmd := exec.Command(filepath.Join(dir, "sallyport"), test.args...)
		cmd.Dir = dir
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		code := exitCode(t, cmd.Run())
		wantFailure(t, code, stdout.String(), stderr.String(), 3, test.want)
	}
}

// TestMountTakesNoRepaired: the kernel reads what is on the medium. What only a repair makes good isn't mounted, and how
// it can be is said.
func TestMountTakesNoRepaired(t *testing.T) {
	t.Parallel()
	dir := room(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, dir, "prepare", "payload", "-o", "good.iso", "--channel", "news", "--trust", "trust.json", "--medium", "cd-r")
	for _, key := range []string{"alice.key", "bob.key"} {
		must(t, dir, "sign", "good.iso", "--key", key)
	}
	root, err := loadTrust(in("trust.json"))
	if err != nil {
		t.Fatal(err)
	}
	e := &env{ctx: t.Context(), stderr: &bytes.Buffer{}, quiet: true}
	c := &mountCmd{Source: in("good.iso")}
	verify := func() (*bundle.Verified, error) {
		src, err := e.openSource(c.Source)
		if err != nil {
			return nil, err
		}
		defer src.Close()
		return c.verify(e, root, src)
	}
	v, err := verify()
	if err != nil {
		t.Fatal(err)
	}
	g, err := v.Seal().Geometry()
	if err != nil {
		t.Fatal(err)
	}
	volume, err := volumeOf("/dev/sr0", v)
	if err != nil || volume.Device != "/dev/sr0" || volume.ID != v.Digest() || volume.DataBlocks != g.DataBlocks || volume.Tree != v.Seal().Verity.TreeLBA+1 {
		t.Errorf("%+v, %v", volume, err)
	}
	image, err := os.ReadFile(in("good.iso"))
	if err != nil {
		t.Fatal(err)
	}
	for place, lba := range map[string]int64{"data": v.Seal().Manifest.LBA - 1, "tree": g.Tree(), "superblock": g.Superblock(), "padding": g.Padding()} {
		damaged := bytes.Clone(image)
		damaged[lba*bundle.BlockSize+5] ^= 1
		c.Source = in("damaged.iso")
		if err := os.WriteFile(c.Source, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := verify(); err == nil {
			t.Errorf("%s damaged: it would be mounted", place)
		} else if code, ref := classify(t.Context(), about(c.Source, err)); code != exitRefused || !strings.Contains(ref.Advice, "sallyport repair, and mount that") {
			t.Errorf("%s damaged: exit status %d, %+v: %v", place, code, ref, err)
		}
	}
}
