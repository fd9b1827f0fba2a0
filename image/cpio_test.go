package image

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func someFiles() []File {
	return []File{
		text("etc/deep/er/name", "content\n"),
		{Path: "bin/tool", Mode: 0o755, Size: 5, Content: strings.NewReader("tool\n")},
		{Path: "bin", Mode: fs.ModeDir | 0o700},
		{Path: "sbin", Mode: fs.ModeSymlink, Target: "bin"},
		{Path: "empty", Mode: 0o600},
	}
}

// TestCPIOPeer unpacks an initramfs of two archives with GNU cpio, which reads the first, and bsdtar.
func TestCPIOPeer(t *testing.T) {
	var b bytes.Buffer
	if err := WriteInitramfs(&b, nil, someFiles(), 1700000000); err != nil {
		t.Fatal(err)
	}
	list := string(command(t, b.Bytes(), "cpio", "-itv", "--quiet", "--numeric-uid-gid"))
	var got []string
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		got = append(got, f[0]+" "+f[2]+" "+f[3]+" "+f[4]+" "+strings.Join(f[8:], " "))
	}
	want := []string{
		"drwxr-xr-x 0 0 0 etc", "drwxr-xr-x 0 0 0 etc/deep", "drwxr-xr-x 0 0 0 etc/deep/er", "-rw-r--r-- 0 0 8 etc/deep/er/name",
		"drwxr-xr-x 0 0 0 bin", "-rwxr-xr-x 0 0 5 bin/tool", "lrwxrwxrwx 0 0 3 sbin -> bin", "-rw------- 0 0 0 empty", "-rw-r--r-- 0 0 0 .complete",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("cpio lists\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	dir := t.TempDir()
	command(t, b.Bytes(), "bsdtar", "-x", "-C", dir, "-f", "-")
	if name, err := os.ReadFile(filepath.Join(dir, "etc/deep/er/name")); err != nil || string(name) != "content\n" {
		t.Errorf("bsdtar unpacked %q, %v", name, err)
	}
	info, err := os.Stat(filepath.Join(dir, "bin/tool"))
	if err != nil || info.ModTime().Unix() != 1700000000 {
		t.Errorf("bsdtar gave the time %v, %v", info.ModTime(), err)
	}

	var again, joined bytes.Buffer
	if err := WriteInitramfs(&again, nil, someFiles(), 1700000000); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Errorf("the same files gave other bytes, %v", err)
	}
	if err := WriteInitramfs(&joined, strings.NewReader("the base"), someFiles(), 1700000000); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(joined.Bytes(), append([]byte("the base"), make([]byte, 504)...)) || !bytes.HasSuffix(joined.Bytes(), b.Bytes()) {
		t.Error("base and files aren't there one after the other")
	}
}

func TestCPIOErrors(t *testing.T) {
	for _, tt := range []struct {
		file  File
		epoch int64
		want  string
	}{
		{File{Path: "/etc/x"}, 0, "no path for an initramfs"},
		{File{Path: "a/../b"}, 0, "no path for an initramfs"},
		{File{Path: ""}, 0, "no path for an initramfs"},
		{File{Path: "a\x00b"}, 0, "no path for an initramfs"},
		{File{Path: "bin/tool"}, 0, "a second entry"},
		{File{Path: "pipe", Mode: fs.ModeNamedPipe}, 0, "takes no p---"},
		{File{Path: "big", Size: 1 << 32}, 0, "4294967296 bytes are too many"},
		{File{Path: "short", Size: 9, Content: strings.NewReader("eight by")}, 0, "after 8 of 9 bytes: EOF"},
		{File{Path: "none", Size: 9}, 0, "no content"},
		{File{Path: "old"}, -1, "the time -1"},
		{File{Path: "late"}, 1 << 32, "the time 4294967296"},
	} {
		err := WriteInitramfs(&bytes.Buffer{}, nil, append(someFiles(), tt.file), tt.epoch)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %q", tt.file.Path, err, tt.want)
		}
	}
}
