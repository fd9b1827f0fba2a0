package media

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const mountLines = `21 1 254:0 / / rw,relatime - ext4 /dev/root rw
22 21 0:20 / /proc rw,nosuid shared:3 - proc proc rw
30 21 0:25 / /mnt/a\040b rw,relatime master:1 propagate_from:2 - tmpfs t\134x rw,inode64
31 30 253:7 / /mnt/a\040b ro,nosuid,nodev,noexec,relatime - iso9660 /dev/dm-7 ro,nojoliet,check=s
32 21 0:26 /sub /mnt/plain\08x rw - 9p  rw
`

func TestFindMountEntry(t *testing.T) {
	for dir, want := range map[string]*mountEntry{
		"/":              {unix.Mkdev(254, 0), "/", "rw,relatime", "ext4", "/dev/root"},
		"/mnt/a b":       {unix.Mkdev(253, 7), "/mnt/a b", "ro,nosuid,nodev,noexec,relatime", "iso9660", "/dev/dm-7"}, // the uppermost
		`/mnt/plain\08x`: {unix.Mkdev(0, 26), `/mnt/plain\08x`, "rw", "9p", ""},
		"/mnt":           nil,
		`/mnt/a\040b`:    nil,
	} {
		got, err := findMountEntry(strings.NewReader(mountLines), dir)
		if err != nil || (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: %+v, %v; want %+v", dir, got, err, want)
		}
	}
	for _, test := range []struct{ lines, want string }{
		{mountLines + "33 21 nonsense / /x rw - 9p x rw\n", fmt.Sprintf("byte %d: not the line of a mount", len(mountLines))},
		{"\n", "byte 0: "},
		{"1 2 0:4294967296 / /x rw - a b c\n", "byte 0: "},
		{"1 2 3:4 / /x rw a b c\n", "byte 0: "},
		{"1 2 3:4 / /x rw - a\n", "byte 0: "},
		{mountLines + strings.Repeat("x", maxMountLine+1), fmt.Sprintf("byte %d: bufio.Scanner: token too long", len(mountLines))},
	} {
		if got, err := findMountEntry(strings.NewReader(test.lines), "/x"); err == nil || !strings.Contains(err.Error(), "read /proc/self/mountinfo: "+test.want) {
			t.Errorf("%.60q: %v, %v; want %q", test.lines, got, err, test.want)
		}
	}
}

// TestMountedAt reads this machine's own list.
func TestMountedAt(t *testing.T) {
	at, err := mountedAt("/proc")
	if err != nil || at == nil || at.fsType != "proc" {
		t.Errorf("/proc: %+v, %v", at, err)
	}
	if at, err := mountedAt(t.TempDir()); err != nil || at != nil {
		t.Errorf("an ordinary directory: %+v, %v", at, err)
	}
}

func TestHolders(t *testing.T) {
	dir := t.TempDir()
	if got := holders(dir); got != "something still uses it" {
		t.Errorf("without any: %q", got)
	}
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("process %d (%s) still uses it", os.Getpid(), strings.TrimSpace(string(comm)))
	if got := holders(dir); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := holders(dir + "/fil"); got != "something still uses it" {
		t.Errorf("of a neighbour whose name begins alike: %q", got)
	}
}

func FuzzMountInfo(f *testing.F) {
	f.Add(mountLines, "/mnt/a b")
	f.Fuzz(func(t *testing.T, lines, dir string) {
		if e, err := findMountEntry(strings.NewReader(lines), dir); err == nil && e != nil && e.dir != dir {
			t.Errorf("found %q for %q", e.dir, dir)
		}
	})
}
