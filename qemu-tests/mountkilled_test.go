package qemutests

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deadlyCall is a call to the kernel that a process doesn't survive, and doesn't get made: a number, and one of its
// arguments, of which 32 bits are compared.
type deadlyCall struct {
	name          string
	number        int
	argument      int // from 0
	value         uint32
	left, mounted bool // what there is when a mount ends there: a mapping that doesn't go by itself, the volume
}

// killAt starts a program that the kernel kills at a call, by a filter of seccomp(2): as soon, as surely and as silently
// as with SIGKILL, and at no other call.
const killAt = `use strict;
	my ($number, $argument, $value) = splice @ARGV, 0, 3;
	my @filter = ([0x20, 0, 0, 0], [0x15, 0, 3, $number], # the call's number, else the last line
		[0x20, 0, 0, 16 + 8 * $argument], [0x15, 0, 1, $value], # the argument's lower half
		[0x06, 0, 0, 0x80000000], [0x06, 0, 0, 0x7fff0000]); # kill the process, allow
	my $code = join "", map { pack "SCCL", @$_ } @filter;
	my $program = pack "S x6 P", scalar @filter, $code;
	syscall(157, 38, 1, 0, 0, 0) == 0 or die "PR_SET_NO_NEW_PRIVS: $!";
	syscall(157, 22, 2, $program) == 0 or die "PR_SET_SECCOMP: $!";
	exec @ARGV or die "$ARGV[0]: $!";`

func mapperCall(name string, request uint32) deadlyCall {
	return deadlyCall{name: name, number: unix.SYS_IOCTL, argument: 1, value: request}
}

func (c deadlyCall) leaves() deadlyCall { c.left = true; return c }

// kill runs sallyport until it makes the call.
func (c deadlyCall) kill(t *testing.T, m *Machine, args ...string) {
	t.Helper()
	argv := []string{"perl", "-e", killAt, fmt.Sprint(c.number), fmt.Sprint(c.argument), fmt.Sprint(c.value), "sallyport"}
	if r := m.Run(t, Command{Argv: append(argv, args...)}); r.Code != -1 || r.TimedOut {
		t.Fatalf("sallyport %v should have been killed at %s: exit status %d, timed out %v\n%s%s", args, c.name, r.Code, r.TimedOut, r.Stdout, r.Stderr)
	}
}

// volumeMounted tells whether something is mounted, and fails the test if that is anything but the sealed volume, through
// dm-verity.
func volumeMounted(t *testing.T, m *Machine, at string, seal mountSeal) bool {
	t.Helper()
	found := m.Script(t, `grep -E ' iso9660 | /tmp/mnt ' /proc/mounts && dmsetup table || true`)
	if found == "" {
		return false
	}
	want := fmt.Sprintf(`^/dev/dm-0 /tmp/mnt iso9660 ro,nosuid,nodev,noexec,.*\nsallyport-\S+: 0 \d+ verity 1 \S+ \S+ 2048 2048 %d %d sha256 %s %s\n$`,
		seal.Verity.DataBlocks, seal.Verity.TreeLBA+1, seal.Verity.Root, seal.Verity.Salt)
	if !regexp.MustCompile(want).MatchString(found) {
		t.Fatalf("killed at %s, there is\n%s", at, found)
	}
	return true
}

// TestMountKilled: mount and umount are killed at each call to the kernel from the first that changes anything. Nothing is
// mounted then but what was verified, through dm-verity; the next mount of the same disc works as if nothing had been, and
// so does umount; nothing stays that nobody takes away.
func TestMountKilled(t *testing.T) {
	m, dir := mountGuest(t)
	begun := time.Now()
	seal := readMountSeal(t, filepath.Join(dir, "bundle.iso"))
	image, disc := "/tmp/killed.iso", addDisc(t, m, "killed", filepath.Join(dir, "bundle.iso"))
	m.Script(t, "cp "+mountDir+"/bundle.iso "+image)
	t.Cleanup(func() { m.Script(t, "rm "+image) })
	mount := func(source string) []string {
		return []string{"mount", source, "/tmp/mnt", "--trust", mountDir + "/trust.json"}
	}
	mounts := func(t *testing.T, source string) {
		t.Helper()
		mountWant(t, m, 0, "mounted      /tmp/mnt, read-only, through /dev/dm-0", mount(source)...)
		m.Script(t, "grep -qx hello /tmp/mnt/hello.txt")
	}
	unmounts := func(t *testing.T, want string) {
		t.Helper()
		mountWant(t, m, 0, want, "umount", "/tmp/mnt")
		nothingMapped(t, m)
	}
	const (
		ended   = "^unmounted    /tmp/mnt\n$"
		nothing = "^nothing      is mounted on /tmp/mnt\n$"
		cleared = "^nothing      is mounted on /tmp/mnt\ncleared      sallyport-[0-9a-f]{32}-[0-9]+-0, of a mount that was killed\n$"
	)
	create, load := mapperCall("DM_DEV_CREATE", unix.DM_DEV_CREATE), mapperCall("DM_TABLE_LOAD", unix.DM_TABLE_LOAD)
	remove, resume := mapperCall("DM_DEV_REMOVE", unix.DM_DEV_REMOVE), mapperCall("DM_DEV_SUSPEND", unix.DM_DEV_SUSPEND)
	status, table := mapperCall("DM_DEV_STATUS", unix.DM_DEV_STATUS), mapperCall("DM_TABLE_STATUS", unix.DM_TABLE_STATUS)
	list := mapperCall("DM_LIST_DEVICES", unix.DM_LIST_DEVICES)
	write := deadlyCall{name: "write to standard output", number: unix.SYS_WRITE, argument: 0, value: 1, mounted: true}

	// A mount that is killed, and after it another one of the same disc, or umount.
	kills := 0
	whole := os.Getenv("SALLYPORT_BIG") == "1"
	if !whole {
		t.Log("disc and image file take turns where a mount that is killed leaves nothing. SALLYPORT_BIG=1 has both")
	}
	for i, at := range []deadlyCall{create, load.leaves(), remove.leaves(), resume, status, table,
		{name: "mount", number: unix.SYS_MOUNT, argument: 3, value: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC}, write} {
		for j, source := range []string{disc, image} {
			if !whole && !at.left && i%2 != j {
				continue
			}
			at.kill(t, m, mount(source)...)
			kills++
			left := m.Script(t, `dmsetup info -c --noheadings -o name,open 2>/dev/null | grep -c '^sallyport-.*:0$' || true`) == "1\n"
			if mounted := volumeMounted(t, m, at.name, seal); left != at.left || mounted != at.mounted {
				t.Errorf("mount %s, killed at %s: a mapping is left %v, mounted %v", source, at.name, left, mounted)
			}
			switch {
			case at.mounted:
				mountWant(t, m, 2, `/dev/dm-0 of type iso9660 is mounted there already$`, mount(source)...)
				unmounts(t, ended)
			case source == disc:
				mounts(t, source)
				unmounts(t, ended)
			case at.left:
				// umount, too, is killed when it clears it away.
				remove.kill(t, m, "umount", "/tmp/mnt")
				kills++
				unmounts(t, cleared)
			default:
				unmounts(t, nothing)
			}
		}
	}
	took := time.Since(begun)

	for _, at := range []deadlyCall{status, table, {name: "umount2", number: unix.SYS_UMOUNT2, argument: 1, value: unix.UMOUNT_NOFOLLOW}, list, write} {
		mounts(t, image)
		at.kill(t, m, "umount", "/tmp/mnt")
		kills++
		if mounted := volumeMounted(t, m, at.name, seal); mounted != (at != list && at != write) {
			t.Errorf("umount, killed at %s: mounted %v", at.name, mounted)
		} else if mounted {
			unmounts(t, ended)
		} else {
			unmounts(t, nothing)
		}
	}
	t.Logf("%d kills in %.1f s, those of mount in %.1f s", kills, time.Since(begun).Seconds(), took.Seconds())
}
