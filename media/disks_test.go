package media

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"

	"sallyport/media/usb"
)

const (
	usbPlace = "devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1.4"
	ataPlace = "devices/pci0000:00/0000:00:1f.2/ata2"
)

// aStick is what sysfs has of a plain stick: USB 2.10, 0951:1666, one interface 08:06:50 with two endpoints.
const aStick = "\x12\x01\x10\x02\x00\x00\x00\x40\x51\x09\x66\x16\x10\x01\x01\x02\x03\x01" +
	"\x09\x02\x20\x00\x01\x01\x00\x80\x32" + "\x09\x04\x00\x00\x02\x08\x06\x50\x00" + "\x07\x05\x81\x02\x00\x02\x00" + "\x07\x05\x02\x02\x00\x02\x00"

// aMachine has a disk in it, a recorder, two cards, and two sticks, of which one has no block device.
type aMachine struct {
	sys, proc fstest.MapFS
	nodes     map[string]uint64
}

func (m *aMachine) file(name, text string) { m.sys[name] = &fstest.MapFile{Data: []byte(text)} }
func (m *aMachine) link(name, to string) {
	up := strings.Repeat("../", strings.Count(name, "/"))
	m.sys[name] = &fstest.MapFile{Data: []byte(up + to), Mode: fs.ModeSymlink}
}

// block has sysfs know a block device.
func (m *aMachine) block(name, at, number, device string) {
	m.link("class/block/"+name, at)
	m.link(at+"/device", device)
	for file, text := range map[string]string{"dev": number, "size": "2048", "removable": "0", "ro": "0", "queue/logical_block_size": "512", "hidden": "0", "diskseq": "7"} {
		m.file(at+"/"+file, text+"\n")
	}
	m.sys[at+"/holders"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
}

func (m *aMachine) partition(disk, name, number string) {
	m.file(disk+"/"+name+"/partition", "1\n")
	m.file(disk+"/"+name+"/dev", number+"\n")
	m.sys[disk+"/"+name+"/holders"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	m.link("class/block/"+name, disk+"/"+name)
}

func (m *aMachine) unit(at, kind, vendor, model, generic string) {
	m.file(at+"/type", kind+"\n")
	m.file(at+"/vendor", vendor+"\n")
	m.file(at+"/model", model+"\n")
	m.file(at+"/rev", "1.00\n")
	m.file(at+"/scsi_generic/"+generic+"/dev", "21:0\n")
	m.link(at+"/scsi_generic/"+generic+"/device", at)
	m.link("class/scsi_generic/"+generic, at+"/scsi_generic/"+generic)
}

func (m *aMachine) usb(at, number string) {
	name := path.Base(at)
	m.link("bus/usb/devices/"+name, at)
	for file, text := range map[string]string{"busnum": "1", "devnum": number, "speed": "480", "authorized": "1", "manufacturer": "Maker", "product": "Stick", "serial": "0042" + number} {
		m.file(at+"/"+file, text+"\n")
	}
	m.file(at+"/descriptors", aStick)
}

func (m *aMachine) sources() *sources {
	return &sources{sys: m.sys, proc: m.proc, number: func(path string) (uint64, error) {
		if n, ok := m.nodes[path]; ok {
			return n, nil
		}
		return 0, unix.ENOENT
	}}
}

func newMachine() *aMachine {
	m := &aMachine{sys: fstest.MapFS{}, proc: fstest.MapFS{}, nodes: map[string]uint64{"/dev/sda3": unix.Mkdev(8, 3)}} // sda4 has no node
	m.proc["self/mountinfo"] = &fstest.MapFile{Data: []byte("21 1 8:2 / / rw - ext4 /dev/root rw\n22 21 0:20 / /proc rw - proc proc rw\n23 21 0:40 / /srv/a\\040b rw - btrfs /dev/sda4 rw\n24 21 0:41 / /x rw - btrfs /dev/gone rw\n")}
	m.proc["1/mountinfo"] = &fstest.MapFile{Data: []byte("21 1 8:2 / / rw - ext4 /dev/root rw\n31 1 8:2 / /elsewhere rw - ext4 /dev/root rw\n")}
	m.proc["swaps"] = &fstest.MapFile{Data: []byte("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/sda3                               partition\t1048572\t\t0\t\t-2\n/swap\\040file file 4 0 -3\n")}

	const disk = ataPlace + "/host1/target1:0:0/1:0:0:0"
	m.unit(disk, "0", "ATA     ", "Built in", "sg0")
	m.file(disk+"/vpd_pg80", "\x00\x80\x00\x08  S1234 \x00garbage")
	m.block("sda", disk+"/block/sda", "8:0", disk)
	for _, p := range []string{"1", "2", "3", "4"} {
		m.partition(disk+"/block/sda", "sda"+p, "8:"+p)
	}
	m.file(disk+"/block/sda/sda1/holders/dm-0", "")

	const recorder = ataPlace + "/host2/target2:0:0/2:0:0:0"
	m.unit(recorder, "5", "HL-DT-ST", "DVDRAM", "sg1")
	m.block("sr0", recorder+"/block/sr0", "11:0", recorder)

	m.link("devices/pci0000:00/0000:00:14.0/subsystem", "bus/pci")
	m.file("devices/pci0000:00/0000:00:14.0/usb1/version", " 2.00\n")
	m.usb(usbPlace, "5")
	const stick = usbPlace + "/1-1.4:1.0/host6/target6:0:0/6:0:0:0"
	m.unit(stick, "0", "Maker   ", "Stick           ", "sg2")
	m.block("sdb", stick+"/block/sdb", "8:16", stick)
	m.partition(stick+"/block/sdb", "sdb1", "8:17")

	const behind = "devices/pci0000:00/0000:00:14.0/usb1/1-2"
	m.usb(behind, "9")
	m.unit(behind+"/1-2:1.0/host7/target7:0:0/7:0:0:0", "0", "Maker", "Behind the gate", "sg3")

	m.block("vda", "devices/pci0000:00/0000:00:03.0/virtio0/block/vda", "254:0", "devices/pci0000:00/0000:00:03.0/virtio0")
	m.file("devices/pci0000:00/0000:00:03.0/virtio0/block/vda/serial", "V1")
	m.file("devices/pci0000:00/0000:00:03.0/virtio0/vendor", "0x1af4\n")
	const card = "devices/pci0000:00/0000:00:1a.0/mmc_host/mmc0/mmc0:aaaa"
	m.block("mmcblk0", card+"/block/mmcblk0", "179:0", card)
	m.file(card+"/type", "SD\n")
	m.file(card+"/name", "SL32G\n")
	m.file(card+"/serial", "0xd4\n")
	m.block("mmcblk0boot0", card+"/block/mmcblk0/mmcblk0boot0", "179:8", card)
	m.block("nvme0n1", "devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1", "259:0", "devices/pci0000:00/0000:01:00.0/nvme/nvme0")
	m.file("devices/pci0000:00/0000:01:00.0/nvme/nvme0/model", "Fast\n")
	m.file("devices/pci0000:00/0000:01:00.0/nvme/nvme0/serial", "N1\n")
	m.block("nvme0c0n1", "devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0c0n1", "259:9", "devices/pci0000:00/0000:01:00.0/nvme/nvme0")
	m.file("devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0c0n1/hidden", "1\n")
	m.link("class/block/loop0", "devices/virtual/block/loop0")
	m.file("devices/virtual/block/loop0/dev", "7:0\n")
	return m
}

// plain is a disk without what a test can't write down.
func plain(d Disk) Disk {
	d.from, d.USB = nil, nil
	return d
}

func TestDisks(t *testing.T) {
	m := newMachine()
	got, err := m.sources().disks(nil)
	if err != nil {
		t.Fatal(err)
	}
	disk := func(d Disk) Disk {
		if d.Device != "" {
			d.Size, d.BlockSize, d.sequence, d.name = 1<<20, 512, "7", filepath.Base(d.Device)
		}
		return d
	}
	want := []Disk{
		disk(Disk{Device: "/dev/sda", Generic: "/dev/sg0", Vendor: "ATA", Model: "Built in", Rev: "1.00", Serial: "S1234", Bus: "ata", Place: ataPlace[len("devices/"):], number: unix.Mkdev(8, 0), card: "0",
			Uses: []Use{{"sda1", "holder", "dm-0"}, {"sda2", "mounted", "/"}, {"sda2", "mounted", "/elsewhere"}, {"sda3", "swap", ""}, {"sda4", "mounted", "/srv/a b"}}}),
		disk(Disk{Device: "/dev/sdb", Generic: "/dev/sg2", Vendor: "Maker", Model: "Stick", Rev: "1.00", Serial: "00425", Bus: "usb", Place: usbPlace[len("devices/"):] + "/1-1.4:1.0", number: unix.Mkdev(8, 16), card: "0"}),
		disk(Disk{Device: "/dev/vda", Serial: "V1", Bus: "virtio", Place: "pci0000:00/0000:00:03.0/virtio0", number: unix.Mkdev(254, 0)}),
		disk(Disk{Device: "/dev/mmcblk0", Model: "SL32G", Serial: "0xd4", Bus: "mmc", Place: "pci0000:00/0000:00:1a.0/mmc_host/mmc0/mmc0:aaaa", number: unix.Mkdev(179, 0), card: "SD"}),
		disk(Disk{Device: "/dev/nvme0n1", Model: "Fast", Serial: "N1", Bus: "nvme", Place: "pci0000:00/0000:01:00.0/nvme/nvme0", number: unix.Mkdev(259, 0)}),
		{Generic: "/dev/sg3", Vendor: "Maker", Model: "Behind the gate", Rev: "1.00", Serial: "00429", Bus: "usb", Place: "pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0", Size: -1, name: "sg3", sequence: "7:0:0:0", card: "0"},
	}
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("without %+v", want[i])
		case i >= len(want):
			t.Errorf("and %+v", got[i])
		case !reflect.DeepEqual(plain(got[i]), want[i]):
			t.Errorf("got  %+v\nwant %+v", plain(got[i]), want[i])
		}
	}
	if a := got[1].USB; a == nil || a.Name != "1-1.4" || a.Port != "pci-0000:00:14.0-usbv2-0:1.4" || a.Descriptors == nil || len(a.Descriptors.Hash()) != 64 || got[0].USB != nil || got[5].USB == nil {
		t.Errorf("%+v", a)
	}
	uses := ""
	for _, u := range got[0].Uses {
		uses += u.String() + "; "
	}
	if want := `sda1 belongs to "dm-0"; sda2 is mounted on "/"; sda2 is mounted on "/elsewhere"; sda3 is swapped to; sda4 is mounted on "/srv/a b"; `; uses != want {
		t.Errorf("%s, want %s", uses, want)
	}
}

func TestDisksFaults(t *testing.T) {
	for is, test := range map[string]struct {
		change func(m *aMachine)
		want   string
	}{
		"mountinfo":        {func(m *aMachine) { m.proc["self/mountinfo"].Data = []byte(mountLines + "x\n") }, fmt.Sprintf("byte %d: not the line of a mount", len(mountLines))},
		"no mountinfo":     {func(m *aMachine) { delete(m.proc, "self/mountinfo") }, "open self/mountinfo: file does not exist"},
		"init's mountinfo": {func(m *aMachine) { m.proc["1/mountinfo"].Data = []byte("x\n") }, "read /proc/1/mountinfo: byte 0: not the line of a mount"},
		"swaps":            {func(m *aMachine) { m.proc["swaps"].Data = []byte("Filename\nx\n") }, "read /proc/swaps: byte 9: not the line of a swap area"},
		"a swap area":      {func(m *aMachine) { m.proc["swaps"].Data = []byte("Filename\n/dev/sdz partition\n") }, "swap area /dev/sdz: no such file or directory"},
		"a partition": {func(m *aMachine) {
			m.file(ataPlace+"/host1/target1:0:0/1:0:0:0/block/sda/sda1/dev", "8\n")
		}, "list disks: sda: number of sda1: "},
	} {
		m := newMachine()
		test.change(m)
		if got, err := m.sources().disks(nil); err == nil || !strings.Contains(err.Error(), "list disks: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %d disks, %v; want %q", is, len(got), err, test.want)
		}
	}
	// A machine can do without these.
	m := newMachine()
	delete(m.proc, "1/mountinfo")
	delete(m.proc, "swaps")
	if got, err := m.sources().disks(nil); err != nil || len(got) != 6 {
		t.Errorf("%d disks, %v", len(got), err)
	}
	empty := &sources{sys: fstest.MapFS{}, proc: fstest.MapFS{"self/mountinfo": {}}}
	if got, err := empty.disks(nil); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	// A disk that says nonsense is none.
	m = newMachine()
	const sdb = usbPlace + "/1-1.4:1.0/host6/target6:0:0/6:0:0:0/block/sdb/"
	for file, text := range map[string]string{"dev": "8", "size": "-1", "queue/logical_block_size": ""} {
		before := m.sys[sdb+file].Data
		m.file(sdb+file, text)
		if got, err := m.sources().disks(nil); err != nil || len(got) != 5 {
			t.Errorf("%s: %d disks, %v", file, len(got), err)
		}
		m.file(sdb+file, string(before))
	}
}

func TestTarget(t *testing.T) {
	const (
		stick = usbPlace + "/1-1.4:1.0/host6/target6:0:0/6:0:0:0/block/sdb/"
		card  = "devices/pci0000:00/0000:00:1a.0/mmc_host/mmc0/mmc0:aaaa"
	)
	mount := func(m *aMachine, what string) {
		m.proc["self/mountinfo"].Data = append(m.proc["self/mountinfo"].Data, what...)
	}
	for _, test := range []struct {
		is, device string
		before     func(m *aMachine) // it was listed
		after      func(m *aMachine)
		code, want string
	}{
		{is: "a stick", device: "/dev/sdb"},
		{is: "a stick behind the gate", device: "/dev/sg3"},
		{is: "a card", device: "/dev/mmcblk0"},
		{is: "built in", device: "/dev/sda", code: CodeInUse, want: `medium-in-use: write to /dev/sda: sda1 belongs to "dm-0", sda2 is mounted on "/", sda2 is mounted on "/elsewhere", sda3 is swapped to`},
		{is: "built in, unused", device: "/dev/nvme0n1", code: CodeBuiltIn, want: "it is built in"},
		{is: "soldered", device: "/dev/mmcblk0", before: func(m *aMachine) { m.file(card+"/type", "MMC\n") }, code: CodeBuiltIn, want: "it is built in"},
		{is: "built in, says that it is removable", device: "/dev/nvme0n1", before: func(m *aMachine) {
			m.file("devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1/removable", "1\n")
		}},
		{is: "mounted", device: "/dev/sdb", before: func(m *aMachine) { mount(m, "40 21 8:17 / /mnt ro - vfat /dev/sdb1 ro\n") }, code: CodeInUse, want: `sdb1 is mounted on "/mnt"`},
		{is: "mounted whole since", device: "/dev/sdb", after: func(m *aMachine) { mount(m, "40 21 8:16 / /m\\033 ro - vfat /dev/sdb ro\n") }, code: CodeInUse, want: `sdb is mounted on "/m\x1b"`},
		{is: "held since", device: "/dev/sdb", after: func(m *aMachine) { m.file(stick+"holders/dm-3", "") }, code: CodeInUse, want: `sdb belongs to "dm-3"`},
		{is: "write-protected", device: "/dev/sdb", before: func(m *aMachine) { m.file(stick+"ro", "1\n") }, code: CodeReadOnly, want: "it is write-protected"},
		{is: "another disk of that name", device: "/dev/sdb", after: func(m *aMachine) { m.file(stick+"diskseq", "8\n") }, code: CodeOtherDisk, want: "another disk has come"},
		{is: "of another size", device: "/dev/sdb", after: func(m *aMachine) { m.file(stick+"size", "4096\n") }, code: CodeOtherDisk},
		{is: "of another block size", device: "/dev/sdb", after: func(m *aMachine) { m.file(stick+"queue/logical_block_size", "4096\n") }, code: CodeOtherDisk},
		{is: "enumerated again", device: "/dev/sdb", after: func(m *aMachine) { m.file(usbPlace+"/devnum", "6\n") }, code: CodeOtherDisk},
		{is: "of another serial number", device: "/dev/sdb", after: func(m *aMachine) { m.file(usbPlace+"/serial", "1\n") }, code: CodeOtherDisk},
		{is: "with other descriptors", device: "/dev/sdb", after: func(m *aMachine) { m.file(usbPlace+"/descriptors", strings.Replace(aStick, "\x10\x02", "\x00\x02", 1)) }, code: CodeOtherDisk},
		{is: "not on USB any more", device: "/dev/sdb", after: func(m *aMachine) { delete(m.sys, usbPlace+"/devnum") }, code: CodeOtherDisk},
		{is: "another behind the gate", device: "/dev/sg3", after: func(m *aMachine) {
			m.link("class/scsi_generic/sg3", usbPlace+"/1-1.4:1.0/host6/target6:0:0/6:0:0:0/scsi_generic/sg2")
			delete(m.sys, "class/block/sdb")
			maps.DeleteFunc(m.sys, func(name string, _ *fstest.MapFile) bool { return strings.HasPrefix(name, stick) })
		}, code: CodeOtherDisk},
		{is: "gone", device: "/dev/sdb", after: func(m *aMachine) { delete(m.sys, "class/block/sdb") }, code: "fault", want: "write to /dev/sdb: file does not exist: it is gone"},
	} {
		m := newMachine()
		if test.before != nil {
			test.before(m)
		}
		list, err := m.sources().disks(nil)
		if err != nil {
			t.Errorf("%s: %v", test.is, err)
			continue
		}
		var chosen Disk
		for _, d := range list {
			if d.node() == test.device {
				chosen = d
			}
		}
		if test.after != nil {
			// What was a target isn't any more, either.
			was, err := chosen.Target()
			if err != nil {
				t.Errorf("%s: before: %v", test.is, err)
			}
			test.after(m)
			if err := was.Confirm(); err == nil {
				t.Errorf("%s: still a target", test.is)
			}
		}
		target, err := chosen.Target()
		if got := codeOf(err); got != test.code || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s, %q", test.is, err, test.code, test.want)
		}
		if err == nil && target.Disk().node() != test.device || err != nil && !reflect.DeepEqual(target, Target{}) {
			t.Errorf("%s: %+v", test.is, target)
		}
	}
}

func codeOf(err error) string {
	var refusal interface{ RefusalCode() string }
	switch {
	case err == nil:
		return ""
	case errors.As(err, &refusal):
		return refusal.RefusalCode()
	}
	return "fault"
}

// TestReserved: what belongs to the station is no target, though nothing uses it.
func TestReserved(t *testing.T) {
	policy, err := usb.ParsePolicy("test", []byte("sallyport-usb-policy 1\nallow stick port pci-0000:00:14.0-usbv2-0:1.4 as state\nallow stick port 1-2 as boot\nallow stick port 1-7\n"))
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine()
	list, err := m.sources().disks([]Reserve{ReservedBy(policy), func(d Disk) string {
		if d.Serial == "0xd4" {
			return "keys"
		}
		return ""
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"/dev/sdb": "state", "/dev/sg3": "boot", "/dev/mmcblk0": "keys"}
	for _, d := range list {
		if d.Reserved != want[d.node()] {
			t.Errorf("%s is reserved for %q, want %q", d.node(), d.Reserved, want[d.node()])
		}
		if d.Reserved == "" {
			continue
		}
		if _, err := d.Target(); codeOf(err) != CodeReserved || !strings.Contains(err.Error(), "it is there for "+d.Reserved) {
			t.Errorf("%s: %v", d.node(), err)
		}
		d.Reserved = "" // whoever says so
		if _, err := d.Target(); codeOf(err) != CodeReserved {
			t.Errorf("%s, forged: %v", d.node(), err)
		}
	}
}

// TestTargetForged: only what was found can become a target, and only what is a block device is opened.
func TestTargetForged(t *testing.T) {
	for _, d := range []Disk{{}, {Device: "/dev/sdb", Bus: "usb"}} {
		if _, err := d.Target(); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%+v: %v", d, err)
		}
	}
	if err := (Target{}).Confirm(); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if _, err := (Target{}).Open(); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("%v", err)
	}
	name := filepath.Join(t.TempDir(), "sdb")
	if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Symlink("sdb", name+"2")); err != nil {
		t.Fatal(err)
	}
	if _, err := (Target{Disk{Device: name, from: newMachine().sources()}}).Open(); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "it is no block device") {
		t.Errorf("%v", err)
	}
	if _, err := (Target{Disk{Device: name + "2"}}).Open(); !errors.Is(err, unix.ELOOP) {
		t.Errorf("%v", err)
	}
}

// TestThisMachine: what the root file system of this machine is on is never a target.
func TestThisMachine(t *testing.T) {
	list, err := Disks()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d disks", len(list))
	for _, d := range list {
		if _, err := d.Target(); len(d.Uses) > 0 && codeOf(err) != CodeInUse {
			t.Errorf("%s, of which %v: %v", d.node(), d.Uses, err)
		}
	}
	root, err := mountedAt("/")
	if err != nil || root == nil {
		t.Fatal(root, err)
	}
	var is *Disk
	for i := range list {
		if list[i].number == root.dev {
			is = &list[i]
		}
	}
	if unix.Major(root.dev) == 0 || is == nil {
		t.Logf("the root file system of this machine is on no disk, or a partition: %+v", root)
	} else if len(is.Uses) == 0 {
		t.Errorf("%s is the root file system's, and is not used", is.node())
	}
}
