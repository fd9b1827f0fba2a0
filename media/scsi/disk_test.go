package scsi

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// stick adds /dev/sg5, a disk to which no driver is bound.
func (m *machine) stick() string {
	m.answer = func(h *sgHeader) error {
		copy(h.bytes(), "\x00\x80\x06\x02\x1f\x00\x00\x00VENDOR  MODEL           1.00")
		return nil
	}
	return m.node("sg5", fs.ModeCharDevice, 21, 5, "0")
}

// bind gives the stick /dev/sdb with a partition.
func (m *machine) bind(sg string) (sd string) {
	sd = m.node("sdb", 0, 8, 16, "0")
	m.file(filepath.Join(m.sysfs(m.nodes[sg]), "device/block/sdb/dev"), "8:16\n")
	m.file(filepath.Join(m.sysfs(m.nodes[sd]), "sdb1/partition"), "1\n")
	m.file(filepath.Join(m.sysfs(m.nodes[sd]), "sdb1/dev"), "8:17\n")
	return sd
}

func TestOpenDisk(t *testing.T) {
	m := newMachine(t)
	sg := m.stick()
	d, err := m.openDisk(sg)
	if err != nil || d.Path != sg || d.other != nil || !slices.Equal(m.opened, []string{"sg5"}) {
		t.Fatalf("%+v, opened %v, %v", d, m.opened, err)
	}
	if n := d.MaxTransfer(); n != 0 {
		t.Errorf("%d bytes a command through %s", n, os.DevNull)
	}
	if err := d.Close(); err != nil || d.MaxTransfer() != 0 {
		t.Error(err)
	}

	// A driver is bound: its block device is claimed, or nothing is opened at all.
	sd := m.bind(sg)
	m.opened = nil
	d, err = m.openDisk(sg)
	if err != nil || d.other == nil || !slices.Equal(m.opened, []string{"sg5", "sdb"}) {
		t.Fatalf("%+v, opened %v, %v", d, m.opened, err)
	}
	d.Close()
	busy := func(want string) {
		t.Helper()
		_, err := m.openDisk(sg)
		if _, ok := errors.AsType[*BusyError](err); !ok || !errors.Is(err, ErrBusy) || err.Error() != "open "+sg+": it is "+want {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	m.errs[sd] = unix.EBUSY
	busy("in use by another program")
	m.file(filepath.Join(m.proc, "self/mountinfo"), "36 21 8:17 / /mnt/stick rw - vfat /dev/sdb1 rw\n")
	busy("in use: sdb1 is mounted at /mnt/stick")
	m.file(filepath.Join(m.proc, "self/mountinfo"), "")
	m.file(filepath.Join(m.sysfs(m.nodes[sd]), "holders/dm-0/x"), "")
	busy("held by the block device dm-0")
	m.errs[sg] = unix.EBUSY
	busy("in use by another program")
	delete(m.errs, sg)

	for _, tt := range []struct {
		name   string
		change func()
		want   string
	}{
		{"no right", func() { m.errs[sd] = unix.EACCES }, "claim its block device: open " + sd + ": permission denied: only root"},
		{"another device's node", func() {
			delete(m.errs, sd)
			m.file(filepath.Join(m.sysfs(m.nodes[sg]), "device/block/sdb/dev"), "8:32\n")
		}, "is another device, want 8:32"},
		{"no node", func() {
			delete(m.nodes, sd)
			os.Remove(sd)
		}, "claim its block device: open " + sd + ": no such file or directory"},
		{"several", func() { m.file(filepath.Join(m.sysfs(m.nodes[sg]), "device/block/sdc/dev"), "8:32\n") }, "it has 2 block devices"},
	} {
		tt.change()
		if _, err := m.openDisk(sg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestOpenDiskRefuses(t *testing.T) {
	m := newMachine(t)
	file := filepath.Join(m.dev, "file")
	m.file(file, "")
	for _, tt := range []struct{ path, want string }{
		{file, "a regular file"},
		{m.dev, "a directory"},
		{m.node("sda", 0, 8, 0, "0"), "a block device"},
		{m.node("sr0", 0, 11, 0, "5"), "a block device"},
		{m.node("sg0", fs.ModeCharDevice, 21, 0, "5"), "a CD or DVD drive (peripheral type 5)"},
		{m.node("sg1", fs.ModeCharDevice, 21, 1, "1"), "a tape drive (peripheral type 1)"},
		{m.node("sg2", fs.ModeCharDevice, 21, 2, "14"), "a hard disk (peripheral type 14)"},
		{m.node("watchdog", fs.ModeCharDevice, 10, 130, ""), "another character device"},
		{m.node("pipe", fs.ModeNamedPipe, 0, 0, ""), "a"},
	} {
		_, err := m.openDisk(tt.path)
		if _, ok := errors.AsType[*NotDiskError](err); !ok || !strings.HasPrefix(err.Error(), "open "+tt.path+": it is "+tt.want) || !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
	if len(m.opened) != 0 {
		t.Errorf("opened %v", m.opened)
	}
	if _, err := m.openDisk(filepath.Join(m.dev, "sg9")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing device: %v", err)
	}
	// Where sysfs tells nothing, the device does.
	sg := m.node("sg7", fs.ModeCharDevice, 21, 7, "")
	for _, tt := range []struct {
		answer func(h *sgHeader) error
		want   string
	}{
		{func(h *sgHeader) error { h.bytes()[0] = 5; return nil }, "it is a CD or DVD drive (peripheral type 5), not the generic node"},
		{func(h *sgHeader) error { h.bytes()[0] = 0x20; return nil }, "it is no device (peripheral qualifier 1)"},
		{func(h *sgHeader) error { return unix.ENOTTY }, "it is no SCSI device"},
		{func(h *sgHeader) error { h.resid = 33; return nil }, "INQUIRY: reply ends at byte 3"},
		{func(h *sgHeader) error { h.hostStatus = 1; return nil }, "device is gone from the bus"},
	} {
		m.answer = tt.answer
		if _, err := m.openDisk(sg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
	if _, err := OpenDisk(os.DevNull); err == nil || err.Error() != "open /dev/null: it is another character device, not the generic node (/dev/sgN) of a disk" {
		t.Error(err)
	}
}
