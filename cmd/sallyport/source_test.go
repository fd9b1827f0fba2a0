package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sallyport/bundle"
)

// failing is a file whose reads of some bytes fail.
type failing struct {
	*os.File
	from, to int64
	err      error
	pull     bool // the first of them takes the device away: there is nothing left of it
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.to || off+int64(len(p)) <= f.from {
		return f.File.ReadAt(p, off)
	}
	if f.pull {
		if err := f.Truncate(0); err != nil {
			return 0, err
		}
	}
	if f.err == nil {
		return f.File.ReadAt(p, off)
	}
	return 0, &fs.PathError{Op: "read", Path: "/dev/sdx", Err: f.err}
}

// TestDeviceErrors: what the kernel answers when a device was pulled out ends a command as a fault; what it answers for
// bad blocks is made good.
func TestDeviceErrors(t *testing.T) {
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
	for _, test := range []struct {
		err  error
		pull bool
		gone bool
	}{
		{err: syscall.ENXIO, gone: true},
		{err: syscall.ENODEV, gone: true},
		{err: syscall.ENOMEDIUM, gone: true},
		{err: syscall.ESHUTDOWN, gone: true},
		{err: syscall.ENOLINK, gone: true},
		{err: syscall.EIO, pull: true, gone: true},
		{err: nil, pull: true, gone: true}, // the end of the file
		{err: syscall.EIO},
		{err: syscall.ENODATA},
		{err: syscall.EILSEQ},
		{err: syscall.EREMOTEIO},
		{err: syscall.ETIMEDOUT},
	} {
		errno, _ := test.err.(syscall.Errno)
		t.Run(fmt.Sprintf("errno_%d,pulled_%v", errno, test.pull), func(t *testing.T) {
			copyFile(t, in("good.iso"), in("device"))
			f, err := os.OpenFile(in("device"), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			const lba, end = 24 * bundle.BlockSize, 26 * bundle.BlockSize
			src := bundle.Source{
				ReaderAt: &device{&failing{f, lba, end, test.err, test.pull}, info.Size()},
				Size:     info.Size(), Medium: true, Gone: deviceGone,
			}
			v, err := bundle.Verify(t.Context(), src, root, bundle.VerifyOptions{})
			if !test.gone {
				if err != nil || v.Repaired().Data != 2 || v.Repaired().Unreadable != 2 {
					t.Errorf("%v, want 2 blocks that could not be read and are made good", err)
				}
				return
			}
			code, refused := classify(t.Context(), err)
			if code != exitFault || refused != nil || !deviceGone(err) {
				t.Errorf("exit status %d, %+v: %v; want a fault of the device", code, refused, err)
			}
			if test.pull && !strings.Contains(err.Error(), fmt.Sprintf("no such device: it had %d bytes when it was opened, and has 0 now", info.Size())) {
				t.Errorf("the error doesn't say what has become of the device: %v", err)
			}
		})
	}
}
