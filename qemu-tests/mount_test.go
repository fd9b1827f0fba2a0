package qemutests

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The mounts' fixture in the share, as guests see it.
const mountDir = "/tmp/share/mount"

const mountBlock = 2048

// mountFixture makes, once for a guest, what is mounted: payload, trust.json, bundle.iso signed by all who must,
// unsigned.iso, and other.iso, another bundle of the same people.
func mountFixture(t *testing.T, m *Machine) string {
	t.Helper()
	dir := filepath.Join(m.Share, "mount")
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return dir
	}
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-eu", "-o", "pipefail", "-c", `
		mkdir -p "$1" && cd "$1"
		mkdir -p payload/sub/deep/er payload/closed
		echo hello > payload/hello.txt; : > payload/empty; echo names > payload/ünï.txt; ln -s ../hello.txt payload/sub/link
		head -c 700001 /dev/zero | openssl enc -aes-128-ctr -K 00 -iv 00 2>/dev/null > payload/sub/deep/large
		echo '#!/bin/sh' > payload/sub/deep/er/program; chmod 0755 payload/sub/deep/er/program; chmod 0600 payload/ünï.txt; chmod 0750 payload/closed
		touch -d @1700000000 payload/hello.txt; touch -h -d @1600000000 payload/sub/link; touch -d @1500000000 payload/sub/deep/er
		for name in olga alice bob kiosk; do sallyport key generate --no-password $name; done
		sallyport trust init -o trust.json --root olga=olga.pub
		for name in alice bob; do sallyport trust add holder --trust=trust.json $name $name.pub; done
		sallyport trust add station --trust=trust.json kiosk kiosk.pub
		sallyport trust add channel --trust=trust.json news --destination kiosk --preparer alice --approver bob
		sallyport trust sign trust.json --key olga.key
		sallyport prepare payload -o unsigned.iso --channel news --trust trust.json
		cp -a payload other; echo HELLO > other/hello.txt; touch -d @1700000000 other/hello.txt
		sallyport prepare other -o other.iso --channel news --trust trust.json
		cp unsigned.iso bundle.iso
		for image in bundle.iso other.iso; do for name in alice bob; do sallyport sign $image --key $name.key; done; done
	`, "bash", dir)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("making bundles: %v\n%s", err, out)
	}
	return dir
}

// mountGuest is a guest with the fixture, in which what a failed test leaves is cleared away for the next one.
func mountGuest(t *testing.T) (*Machine, string) {
	t.Helper()
	m := Shared(t, Guest{})
	dir := mountFixture(t, m)
	m.Script(t, "mkdir -p /tmp/mnt /tmp/mnt2")
	t.Cleanup(func() {
		if t.Failed() {
			m.Run(t, Command{Script: "umount -l /tmp/mnt /tmp/mnt2; dmsetup remove_all --force; losetup -D"})
		}
	})
	return m, dir
}

// mountSeal is what of a seal the kernel is told.
type mountSeal struct {
	ImageBlocks int64 `json:"image_blocks"`
	Manifest    struct {
		LBA int64 `json:"lba"`
	} `json:"manifest"`
	Verity struct {
		DataBlocks int64  `json:"data_blocks"`
		Root       string `json:"root"`
		Salt       string `json:"salt"`
		TreeLBA    int64  `json:"tree_lba"`
	} `json:"verity"`
}

func readMountSeal(t *testing.T, image string) mountSeal {
	t.Helper()
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	// The locator's line says where the seal begins.
	found := regexp.MustCompile(`(?m)^seal-a (\d+)$`).FindSubmatch(data[:mountBlock])
	var lba int64
	if _, err := fmt.Sscan(string(found[1]), &lba); err != nil {
		t.Fatal(err)
	}
	var seal mountSeal
	if err := json.Unmarshal(data[lba*mountBlock:][:4*mountBlock], &seal); err != nil {
		t.Fatal(err)
	}
	return seal
}

// nothingMapped fails the test if a mapping, a loop device or a mount of a bundle is there.
func nothingMapped(t *testing.T, m *Machine) {
	t.Helper()
	// The kernel takes away in the background what was unmounted with another program.
	if out := m.Script(t, `for i in $(seq 40); do left=$(dmsetup ls | grep -v '^No devices found' || true; losetup -a; grep ' iso9660 ' /proc/mounts || true); [ -z "$left" ] && break; sleep 0.1; done; echo -n "$left"`); out != "" {
		t.Errorf("left behind: %s", out)
	}
}

// mountWant runs a command of sallyport and checks its exit status and what it says.
func mountWant(t *testing.T, m *Machine, code int, want string, args ...string) string {
	t.Helper()
	r := m.Run(t, Command{Argv: append([]string{"sallyport"}, args...)})
	said := r.Stdout
	if code != 0 {
		said = strings.TrimSuffix(r.Stderr, "\n")
		if r.Stdout != "" || strings.Contains(said, "\n") {
			t.Errorf("sallyport %v failed with more than a line: %s%s", args, r.Stdout, r.Stderr)
		}
	}
	if r.Code != code || !regexp.MustCompile(want).MatchString(said) {
		t.Fatalf("sallyport %v: exit status %d, want %d and %q:\n%s%s", args, r.Code, code, want, r.Stdout, r.Stderr)
	}
	return said
}

// list is a shell function that prints a tree: names, kinds, modes, times, targets, and what is in the files.
const list = `list() { (cd "$1"; find . ! -path ./README.txt ! -path ./MANIFEST.json ! -path ./SHA256SUMS -printf '%P|%y|%m|%Ts|%l\n' | sort
	find . -type f ! -path ./README.txt ! -path ./MANIFEST.json ! -path ./SHA256SUMS -exec sha256sum {} + | sort -k 2); }
`

// TestMount mounts an image file and holds what is seen against the payload, what the kernel has been told against the
// seal, and what it says of it against stock tools.
func TestMount(t *testing.T) {
	m, dir := mountGuest(t)
	seal := readMountSeal(t, filepath.Join(dir, "bundle.iso"))
	m.Script(t, "cp "+mountDir+"/bundle.iso /tmp")
	mount := []string{"mount", "/tmp/bundle.iso", "/tmp/mnt", "--trust", mountDir + "/trust.json"}

	said := mountWant(t, m, 0, `(?m)^mounted      /tmp/mnt, read-only, through /dev/dm-0; sallyport umount /tmp/mnt ends it$`, mount...)
	if !strings.Contains(said, "signed by    bob, approver") || !strings.Contains(said, "not checked  freshness") {
		t.Errorf("mount said\n%s", said)
	}
	if out := m.Script(t, list+`list `+mountDir+`/payload > /tmp/payload; list /tmp/mnt | diff /tmp/payload - && cd /tmp/mnt && sha256sum -c --quiet SHA256SUMS && ls README.txt MANIFEST.json`); out != "MANIFEST.json\nREADME.txt\n" {
		t.Errorf("the mounted tree differs: %s", out)
	}
	if out := m.Script(t, `grep ' /tmp/mnt ' /proc/self/mountinfo`); !regexp.MustCompile(`^\d+ \d+ 253:0 / /tmp/mnt ro,nosuid,nodev,noexec,relatime - iso9660 /dev/dm-0 ro,nojoliet`).MatchString(strings.ReplaceAll(out, " shared:1 ", " ")) {
		t.Errorf("mounted as %s", out)
	}
	table := m.Script(t, "dmsetup table")
	want := fmt.Sprintf(`^(sallyport-[0-9a-f]{32}-7-0): 0 %d verity 1 7:0 7:0 2048 2048 %d %d sha256 %s %s\n$`,
		seal.Verity.DataBlocks*4, seal.Verity.DataBlocks, seal.Verity.TreeLBA+1, seal.Verity.Root, seal.Verity.Salt)
	found := regexp.MustCompile(want).FindStringSubmatch(table)
	if found == nil {
		t.Fatalf("the kernel's table is %s, want %s", table, want)
	}
	status := m.Script(t, "veritysetup status "+found[1])
	for _, want := range []string{`is active and is in use`, `type: +VERITY`, `status: +verified`, `data block: +2048`, `hash block: +2048`, `mode: +readonly`, `root hash: +` + seal.Verity.Root, `salt: +` + seal.Verity.Salt} {
		if !regexp.MustCompile(want).MatchString(status) {
			t.Errorf("veritysetup status lacks %q:\n%s", want, status)
		}
	}
	if out := m.Script(t, `losetup -l -n -O NAME,RO,AUTOCLEAR,BACK-FILE; blockdev --getro /dev/dm-0 /dev/loop0`); strings.Join(strings.Fields(out), " ") != "/dev/loop0 1 1 /tmp/bundle.iso 1 1" {
		t.Errorf("the loop device: %s", out)
	}
	for _, attempt := range []string{"touch /tmp/mnt/hello.txt", "/tmp/mnt/sub/deep/er/program", "dd if=/dev/zero of=/dev/dm-0 count=1", "rm -f /tmp/mnt/empty"} {
		if r := m.Run(t, Command{Script: attempt}); r.Code == 0 {
			t.Errorf("%s succeeded", attempt)
		}
	}

	mountWant(t, m, 2, `^sallyport mount: mount on /tmp/mnt: /dev/dm-0 of type iso9660 is mounted there already$`, mount...)
	// The same image elsewhere is another loop device, and another mapping.
	mountWant(t, m, 0, "through /dev/dm-1", "mount", "/tmp/bundle.iso", "/tmp/mnt2", "--trust", mountDir+"/trust.json")
	m.Script(t, "umount /tmp/mnt2") // any other umount is as good

	p := m.Go(t, Command{Argv: []string{"sleep", "1000"}, Dir: "/tmp/mnt/sub"})
	m.Script(t, `for i in $(seq 900); do grep -qx sleep /proc/[0-9]*/comm && break; sleep 0.1; done`)
	mountWant(t, m, 3, `^sallyport umount: unmount /tmp/mnt: device or resource busy: process \d+ \(sleep\) still uses it$`, "umount", "/tmp/mnt")
	p.Kill(t)
	p.Wait(t)
	mountWant(t, m, 0, "^unmounted    /tmp/mnt\n$", "umount", "/tmp/mnt")
	mountWant(t, m, 0, "^nothing      is mounted on /tmp/mnt\n$", "umount", "/tmp/mnt")
	mountWant(t, m, 2, `^sallyport umount: unmount /proc: proc of type proc is mounted there, and sallyport mount didn't mount it$`, "umount", "/proc")
	nothingMapped(t, m)

	// A stock mount of the same kind isn't ours to end.
	m.Script(t, "mount -o loop,ro -t iso9660 /tmp/bundle.iso /tmp/mnt")
	mountWant(t, m, 2, `of type iso9660 is mounted there, and sallyport mount didn't mount it$`, "umount", "/tmp/mnt")
	m.Script(t, "umount /tmp/mnt; rm /tmp/bundle.iso")
	nothingMapped(t, m)
}

// addDisk plugs a virtio disk with a file of the host into the guest and returns its name there.
func addDisk(t *testing.T, m *Machine, id, file string) string {
	t.Helper()
	m.QMP(t, "blockdev-add", map[string]any{"driver": "raw", "node-name": id, "file": map[string]any{"driver": "file", "filename": file}})
	m.QMP(t, "device_add", map[string]any{"driver": "virtio-blk-pci", "id": "dev-" + id, "drive": id, "serial": id})
	t.Cleanup(func() {
		m.QMP(t, "device_del", map[string]any{"id": "dev-" + id})
	})
	return strings.TrimSpace(m.Script(t, `for i in $(seq 900); do for s in /sys/block/vd*/serial; do [ -e "$s" ] && [ "$(cat $s)" = `+id+` ] && echo /dev/$(basename $(dirname $s)) && exit; done; sleep 0.1; done; exit 1`))
}

// addDisc plugs a drive with an image into the guest and returns its name there.
func addDisc(t *testing.T, m *Machine, id, file string) string {
	t.Helper()
	m.QMP(t, "device_add", map[string]any{"driver": "virtio-scsi-pci", "id": id + "-hba"})
	m.QMP(t, "blockdev-add", map[string]any{"driver": "raw", "node-name": id + "-disc", "read-only": true, "file": map[string]any{"driver": "file", "filename": file, "read-only": true}})
	m.QMP(t, "device_add", map[string]any{"driver": "scsi-cd", "id": id + "-cd", "drive": id + "-disc", "bus": id + "-hba.0"})
	// The kernel complains when the adapter goes while its drive does.
	t.Cleanup(func() { m.QMP(t, "device_del", map[string]any{"id": id + "-cd"}) })
	return strings.TrimSpace(m.Script(t, `for i in $(seq 900); do for d in /dev/sr*; do [ -b $d ] && echo $d && exit; done; sleep 0.1; done; exit 1`))
}

// TestMountDisc mounts a disc in a drive.
func TestMountDisc(t *testing.T) {
	m, dir := mountGuest(t)
	dev := addDisc(t, m, "mount", filepath.Join(dir, "bundle.iso"))
	mountWant(t, m, 0, "mounted      /tmp/mnt, read-only, through /dev/dm-0", "mount", dev, "/tmp/mnt", "--trust", mountDir+"/trust.json")
	if out := m.Script(t, list+`list `+mountDir+`/payload > /tmp/payload; list /tmp/mnt | diff /tmp/payload - && dmsetup table | cut -d' ' -f 4-7`); out != "verity 1 11:0 11:0\n" {
		t.Errorf("the disc's tree, and what it is mapped from: %s", out)
	}
	// One disc is mounted once.
	mountWant(t, m, 3, `^sallyport mount: open `+dev+`: it is held by the block device dm-0: end that first$`, "mount", dev, "/tmp/mnt2", "--trust", mountDir+"/trust.json")
	mountWant(t, m, 0, "^unmounted    /tmp/mnt\n$", "umount", "/tmp/mnt")
	nothingMapped(t, m)
}

// rewriteBlock is what somebody does to a medium behind the kernel's back.
func rewriteBlock(t *testing.T, file string, lba int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("another answer than the last time"), lba*mountBlock)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestMountedDiskChanges: T19, U6. A medium that answers otherwise than when it was verified gives an I/O error at the
// mount and each time it is read, never another file, and an import of it is aborted with nothing released.
func TestMountedDiskChanges(t *testing.T) {
	m, dir := mountGuest(t)
	disk := filepath.Join(dir, "disk.img")
	if out, err := exec.Command("cp", filepath.Join(dir, "bundle.iso"), disk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	seal := readMountSeal(t, disk)
	dev := addDisk(t, m, "changing", disk)
	m.Script(t, "rm -rf /tmp/spool /tmp/state")
	if out := m.Script(t, "blockdev --getro "+dev); out != "0\n" {
		t.Fatalf("the disk is read-only from the start: %s", out)
	}
	mount := []string{"mount", dev, "/tmp/mnt", "--trust", mountDir + "/trust.json"}
	mountWant(t, m, 0, "mounted      /tmp/mnt", mount...)
	if out := m.Script(t, "blockdev --getro "+dev+"; (dd if=/dev/zero of="+dev+" count=1 2>&1 || true) | grep -o 'Operation not permitted'; dmsetup status | cut -d' ' -f 4-"); out != "1\nOperation not permitted\nverity V\n" {
		t.Errorf("read-only, written to and status: %s", out)
	}
	// The manifest lies behind the last file; a block of the large one is changed.
	rewriteBlock(t, disk, seal.Manifest.LBA-20)
	for range 2 { // as often as it is read
		r := m.Run(t, Command{Script: "cat /tmp/mnt/sub/deep/large /tmp/mnt/ünï.txt > /tmp/read"})
		if r.Code == 0 || !strings.Contains(r.Stderr, "large: Input/output error") || strings.Contains(r.Stderr, "ünï.txt") {
			t.Errorf("reading what was changed: exit status %d, %s", r.Code, r.Stderr)
		}
	}
	if out := m.Script(t, "cat /tmp/read"); strings.Contains(out, "another answer") {
		t.Error("what was written behind the kernel's back came through")
	}
	r := m.Run(t, Command{Script: "blockdev --flushbufs " + dev + "; sallyport import " + dev + " --trust " + mountDir + "/trust.json --spool /tmp/spool --state /tmp/state --station-key " + mountDir + "/kiosk.key"})
	if r.Code != 1 || !strings.Contains(r.Stderr, fmt.Sprintf("refused (damaged): %s: LBA %d is not what was sealed", dev, seal.Manifest.LBA-20)) {
		t.Errorf("import: exit status %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if out := m.Script(t, "find /tmp/spool -mindepth 1 ! -name '.*'; sallyport log show --state /tmp/state"); !regexp.MustCompile(`^ +0 [^\n]* refuse +damaged from [^\n]*\n[^\n]*, 1 entry, [^\n]*\n$`).MatchString(out) {
		t.Errorf("in spool and log: %s", out)
	}
	mountWant(t, m, 0, "^unmounted    /tmp/mnt\ndamaged      while it was mounted the medium gave something else than what was sealed", "umount", "/tmp/mnt")
	mountWant(t, m, 1, `^sallyport mount: refused \(damaged\): `+dev+`: LBA \d+ is not what was sealed`, mount...)
	nothingMapped(t, m)
}

// TestMountSwapped: T19. Another bundle of the same people is in the drive when the kernel comes to it, behind the
// verification: the root hash is of the one that was verified, so that nothing is mounted.
func TestMountSwapped(t *testing.T) {
	m, _ := mountGuest(t)
	// Mount takes its lock before the verification and, for the second time, between that and the mapping; there strace
	// holds it up.
	r := m.Run(t, Command{Script: `cd /tmp; cp ` + mountDir + `/bundle.iso swapped.iso; rm -f trace
		strace -f --seccomp-bpf -o trace -e trace=flock -e inject=flock:delay_enter=3s sallyport mount swapped.iso mnt --trust ` + mountDir + `/trust.json & mounting=$!
		for i in $(seq 600); do [ "$(grep -c 'flock(' trace 2>/dev/null)" -ge 2 ] && break; sleep 0.05; done
		cat ` + mountDir + `/other.iso > swapped.iso
		wait $mounting`})
	if r.Code != 3 || !regexp.MustCompile(`sallyport mount: mount swapped.iso on /tmp/mnt: the medium isn't what was verified, or can't be read: LBA 16 through the hash tree: input/output error\n$`).MatchString(r.Stderr) {
		t.Errorf("exit status %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
	nothingMapped(t, m)
}

// TestMountRefuses: what isn't acceptable never gets to the kernel: no mapping is made, no loop device, mount(2) isn't
// called. F10 and F5 among it: bytes behind the image, and in its padding.
func TestMountRefuses(t *testing.T) {
	m, dir := mountGuest(t)
	seal := readMountSeal(t, filepath.Join(dir, "bundle.iso"))
	m.Script(t, `mkdir -p /tmp/refused; cd /tmp/refused; b=`+mountDir+`/bundle.iso
		cp $b behind.iso; echo 'more than was sealed' >> behind.iso
		cp $b padding.iso; echo 'hidden' | dd of=padding.iso bs=2048 seek=`+fmt.Sprint(seal.ImageBlocks-9)+` conv=notrunc
		cp $b system.iso; echo 'hidden' | dd of=system.iso bs=2048 seek=5 conv=notrunc
		cp $b tree.iso; echo 'other' | dd of=tree.iso bs=2048 seek=`+fmt.Sprint(seal.Verity.TreeLBA+1)+` conv=notrunc
		cp $b seal.iso; echo 'other' | dd of=seal.iso bs=2048 seek=`+fmt.Sprint(seal.Verity.DataBlocks)+` conv=notrunc
		genisoimage -quiet -R -o plain.iso `+mountDir+`/payload 2>/dev/null`)
	surplus := filepath.Join(dir, "surplus.img")
	if out, err := exec.Command("bash", "-c", `cp "$1" "$2" && truncate -s +1M "$2" && echo hidden >> "$2" && truncate -s %512 "$2"`, "bash", filepath.Join(dir, "bundle.iso"), surplus).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	disk := addDisk(t, m, "surplus", surplus)
	for source, want := range map[string]string{
		mountDir + "/unsigned.iso": "threshold",
		"/tmp/refused/behind.iso":  "wrong-size",
		"/tmp/refused/padding.iso": "bad-padding",
		"/tmp/refused/system.iso":  "damaged",
		"/tmp/refused/tree.iso":    "bad-tree",
		"/tmp/refused/seal.iso":    "seal-copies-differ",
		"/tmp/refused/plain.iso":   "not-a-bundle",
		disk:                       "surplus-data",
	} {
		r := m.Run(t, Command{Script: "strace -f --seccomp-bpf -o /tmp/refused/trace -e trace=ioctl,mount,fsmount,move_mount sallyport mount " + source + " /tmp/mnt --trust " + mountDir + "/trust.json"})
		if r.Code != 1 || !strings.HasPrefix(r.Stderr, "sallyport mount: refused ("+want+"): "+source) {
			t.Errorf("%s: exit status %d, want refused (%s): %s", source, r.Code, want, r.Stderr)
		}
		// strace knows the names of these calls. The kernel is asked what it has and what is there, and nothing else.
		if out := m.Script(t, `grep -E 'DM_|LOOP_|mount\(' /tmp/refused/trace | grep -vE 'DM_GET_TARGET_VERSION|DM_LIST_DEVICES' || true`); out != "" {
			t.Errorf("%s: refused, and yet\n%s", source, out)
		}
	}
	m.Script(t, "rm -r /tmp/refused")
	nothingMapped(t, m)
}

// TestMountNeeds: what the kernel lacks for a mount is said in a line, with what to do, before the medium is opened.
// umount needs nothing of it where nothing of mount's can be.
func TestMountNeeds(t *testing.T) {
	m, _ := mountGuest(t)
	image := "/tmp/needs.iso"
	m.Script(t, "cp "+mountDir+"/bundle.iso "+image)
	modules := []string{"fs/isofs/isofs", "drivers/block/loop", "drivers/md/dm-mod", "drivers/md/dm-bufio", "drivers/md/dm-verity"}
	release := strings.TrimSpace(m.Script(t, "uname -r"))
	load := func() {
		for _, module := range modules { // an error says that it is there
			m.Run(t, Command{Initramfs: true, Argv: []string{"insmod", "/lib/modules/" + release + "/kernel/" + module + ".ko"}})
		}
	}
	t.Cleanup(func() {
		m.Run(t, Command{Script: "umount /tmp/mnt2"})
		load()
		m.Script(t, "rm "+image)
	})
	lacks := func(what, module string) {
		t.Helper()
		r := m.Run(t, Command{Script: "strace -f --seccomp-bpf -o /tmp/needs.trace -e trace=openat sallyport mount " + image + " /tmp/mnt --trust " + mountDir + "/trust.json"})
		if want := "sallyport mount: mount on /tmp/mnt: the kernel has no " + what + ": load it with \"modprobe " + module + "\"\n"; r.Code != 3 || r.Stderr != want || r.Stdout != "" {
			t.Errorf("exit status %d, %s%s\nwant %s", r.Code, r.Stdout, r.Stderr, want)
		}
		m.Script(t, "grep -q trust.json /tmp/needs.trace; ! grep needs.iso /tmp/needs.trace")
	}
	m.Script(t, "rmmod isofs")
	lacks("file system iso9660", "isofs")
	load()
	m.Script(t, "rmmod loop")
	lacks("loop devices", "loop")
	load()
	m.Script(t, "rmmod dm-verity")
	lacks("dm-verity", "dm-verity")
	m.Script(t, "rmmod dm-bufio dm-mod")
	lacks("device-mapper", "dm-mod")

	mountWant(t, m, 0, "^nothing      is mounted on /tmp/mnt\n$", "umount", "/tmp/mnt")
	m.Script(t, "mount -o loop,ro -t iso9660 "+image+" /tmp/mnt2")
	mountWant(t, m, 2, `^sallyport umount: unmount /tmp/mnt2: /dev/loop0 of type iso9660 is mounted there, and sallyport mount didn't mount it$`, "umount", "/tmp/mnt2")
	m.Script(t, "umount /tmp/mnt2")

	load()
	mountWant(t, m, 0, "mounted      /tmp/mnt, read-only, through /dev/dm-0", "mount", image, "/tmp/mnt", "--trust", mountDir+"/trust.json")
	mountWant(t, m, 0, "^unmounted    /tmp/mnt\n$", "umount", "/tmp/mnt")
	nothingMapped(t, m)
}
