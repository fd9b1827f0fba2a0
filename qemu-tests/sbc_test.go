package qemutests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/media"
	"sallyport/media/sbc"
	"sallyport/media/scsi"
)

// This test's binary is also a program that runs in the guest, on a stick there.
func init() {
	if len(os.Args) < 3 || os.Args[1] != "on-a-stick" {
		return
	}
	program := map[string]func([]string) (any, error){"sg": onGeneric, "target": onTarget}[os.Args[2]]
	said, err := program(os.Args[3:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// stickProgram is that program, without the race detector and without shared libraries.
var stickProgram = sync.OnceValues(func() (string, error) {
	dir, err := programs()
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "test", "-c", "-trimpath", "-vet=off", "-ldflags=-s -w", "-o", filepath.Join(dir, "on-a-stick"))
	if overlay := os.Getenv("SALLYPORT_OVERLAY"); overlay != "" { // a check is taken out (.ci/removals)
		cmd.Args = append(cmd.Args, "-overlay="+overlay)
	}
	cmd.Args = append(cmd.Args, "./qemu-tests")
	cmd.Dir = source()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go test -c: %w: %s", err, out)
	}
	return filepath.Join(dir, "on-a-stick"), nil
})

// genericSaid is what came of a stick's generic node.
type genericSaid struct {
	Refused   string // the code
	Size      int64
	Block     int
	Protected bool
	Identity  sbc.Identity
	Odd       string // why blocks aren't written in parts
	Behind    string // why nothing is written behind the end
	Write     string // why it can't be written
	ReadOnly  bool   // that is since it is write-protected
	Read      string // why it can't be read as a whole
	LBA       uint64 // the first block of those that were to be read then
	Gone      bool   // that, or writing, is since it is gone
	Unmap     bool   // it knows UNMAP
}

// pattern is what is written, and where.
const patternAt, patternSize = 1 << 20, 640 << 10

func pattern() []byte {
	b := make([]byte, patternSize)
	rand.NewChaCha8([32]byte{5}).Read(b)
	return b
}

// onGeneric reads a disk whole, in pieces that are no blocks, and writes to it.
func onGeneric(args []string) (any, error) {
	device, err := scsi.OpenDisk(args[0])
	if _, ok := errors.AsType[*scsi.NotDiskError](err); ok {
		return genericSaid{Refused: "no disk"}, nil
	}
	if err != nil {
		return nil, err
	}
	defer device.Close()
	disk, err := sbc.OpenDisk(context.Background(), device)
	if refused, ok := errors.AsType[*sbc.RefusedError](err); ok {
		return genericSaid{Refused: refused.Code}, nil
	}
	if err != nil {
		return nil, err
	}
	said := genericSaid{Size: disk.Size(), Block: disk.BlockSize(), Protected: disk.WriteProtected(), Identity: disk.Identity()}
	note := func(text *string, err error) {
		if err == nil {
			return
		}
		*text = err.Error()
		said.ReadOnly = said.ReadOnly || errors.Is(err, sbc.ErrWriteProtected)
		said.Gone = said.Gone || disk.Gone(err)
		if bad, ok := errors.AsType[*sbc.MediumError](err); ok {
			said.LBA = bad.LBA
		}
	}
	_, err = disk.WriteAt(make([]byte, disk.BlockSize()), int64(disk.BlockSize())/2)
	note(&said.Odd, err)
	_, err = disk.WriteAt(make([]byte, 2*disk.BlockSize()), disk.Size()-int64(disk.BlockSize()))
	note(&said.Behind, err)
	wanted := make([]byte, disk.Size())
	if _, err := disk.WriteAt(pattern(), patternAt); err != nil {
		note(&said.Write, err)
	} else {
		note(&said.Write, disk.Sync())
		copy(wanted[patternAt:], pattern())
	}
	buf := make([]byte, 100_003)
	for at := int64(0); at < disk.Size() && said.Read == ""; at += int64(len(buf)) {
		n, err := disk.ReadAt(buf, at)
		if err == io.EOF && at+int64(n) == disk.Size() {
			err = nil
		}
		if err == nil && !bytes.Equal(buf[:n], wanted[at:at+int64(n)]) {
			err = fmt.Errorf("other bytes than were written at %d", at)
		}
		note(&said.Read, err)
	}
	if said.Write == "" {
		said.Unmap = !errors.Is(disk.Discard(0, int64(disk.BlockSize())), errors.ErrUnsupported)
	}
	return said, nil
}

// targetSaid is what came of a stick's block device.
type targetSaid struct {
	Disk    string // what keeps it from being one that is written to
	Mounted string // ... from being opened while it is mounted
	Twice   string // ... while it is open already
	Read    string // why it can't be read as it was written
	Size    int64
	Block   int
}

// code is the code of a refusal.
func code(err error) string {
	if refused, ok := errors.AsType[*media.RefusedError](err); ok {
		return refused.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// onTarget chooses the disk of a block device and opens it to be written to.
func onTarget(args []string) (any, error) {
	said := targetSaid{}
	disks, err := media.Disks()
	if err != nil {
		return nil, err
	}
	var disk media.Disk
	for _, d := range disks {
		if d.Device == args[0] {
			disk = d
		}
	}
	said.Size, said.Block = disk.Size, disk.BlockSize
	target, err := disk.Target()
	if err != nil {
		said.Disk = code(err)
		return said, nil
	}
	if err := os.MkdirAll("/tmp/mounted", 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount(args[0], "/tmp/mounted", "ext4", unix.MS_RDONLY, ""); err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	_, err = target.Open()
	said.Mounted = code(err)
	if err := unix.Unmount("/tmp/mounted", 0); err != nil {
		return nil, err
	}
	f, err := target.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_, err = target.Open()
	said.Twice = code(err)
	if _, err := f.WriteAt(pattern(), patternAt); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	back := make([]byte, patternSize)
	if _, err := f.ReadAt(back, patternAt); err != nil || !bytes.Equal(back, pattern()) {
		said.Read = fmt.Sprintf("other bytes, or %v", err)
	}
	return said, nil
}

// TestDiskOnStick reads and writes sticks through a guest's generic nodes, without the kernel's driver for disks, and
// through its block devices, alone.
func TestDiskOnStick(t *testing.T) {
	m := Shared(t, Guest{})
	program, err := stickProgram()
	if err != nil {
		t.Fatal(err)
	}
	m.Script(t, "cp "+m.Path(program)+" /tmp/on-a-stick")
	on := func(t *testing.T, said any, args ...string) {
		t.Helper()
		r := m.Must(t, Command{Argv: append([]string{"/tmp/on-a-stick", "on-a-stick"}, args...), Limit: 3 * time.Minute})
		if err := json.Unmarshal([]byte(r.Stdout), said); err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
	}
	const size = 4 << 20
	odd := func(block int) string { return fmt.Sprintf("%d", block/2) }
	devices := redirectAll(t, m, "sbc-", map[string]string{
		"honest": "lun disk 4M", "blocks": "lun disk 4M\nblock 4096", "protected": "lun disk 4M\nprotected", "bad": "lun disk 4M\nread lba 5000 always sense 3/11/00",
		"pulled": "lun disk 4M\nwrite after 300 gone", "two": "lun disk 4M\nlun disk 4M", "cd": "lun cd 4M",
	})
	generic := func(t *testing.T, name string, n int) (usb, node, dev string) {
		t.Helper()
		d := devices[name]
		usb = d.find(t, d.Face().Serial)
		dev = d.disks(t, usb, n)[0]
		return usb, "/dev/" + strings.TrimSpace(m.Script(t, "ls /sys/class/block/"+filepath.Base(dev)+"/device/scsi_generic")), dev
	}
	for _, tt := range []struct {
		name string
		luns int
		want func(s genericSaid) bool
	}{
		{"honest", 1, func(s genericSaid) bool {
			return s.Size == size && s.Block == 512 && !s.Protected && s.Write == "" && s.Read == "" && strings.Contains(s.Odd, odd(512)) && s.Behind != ""
		}},
		{"blocks", 1, func(s genericSaid) bool {
			return s.Size == size && s.Block == 4096 && s.Write == "" && s.Read == "" && strings.Contains(s.Odd, odd(4096)) && s.Behind != ""
		}},
		{"protected", 1, func(s genericSaid) bool { return s.Size == size && s.Protected && s.ReadOnly && s.Read == "" }},
		{"bad", 1, func(s genericSaid) bool {
			return s.Write == "" && s.Read != "" && s.LBA <= 5000 && 5000 < s.LBA+256 && !s.Gone
		}},
		{"pulled", 1, func(s genericSaid) bool { return s.Write != "" && s.Gone }},
		{"two", 2, func(s genericSaid) bool { return s.Refused == "several-units" }},
		{"cd", 1, func(s genericSaid) bool { return s.Refused == "no disk" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, node, _ := generic(t, tt.name, tt.luns)
			var said genericSaid
			on(t, &said, "sg", node)
			if !tt.want(said) {
				t.Errorf("%+v", said)
			}
			d := devices[tt.name]
			c := d.Counts()
			got := make([]byte, patternSize)
			if _, err := d.LUNs[0].Medium.ReadAt(got, patternAt); err != nil {
				t.Fatal(err)
			}
			switch wrote := bytes.Equal(got, pattern()); {
			case said.Refused != "" || said.ReadOnly:
				if c.Written != 0 {
					t.Errorf("%d blocks were written", c.Written)
				}
			case said.Gone:
				if c.Written != 300 {
					t.Errorf("%d blocks were written", c.Written)
				}
			case !wrote || c.Written != int64(patternSize/said.Block):
				t.Errorf("%d blocks were written, the right ones: %t", c.Written, wrote)
			}
		})
	}
	for _, name := range []string{"honest", "blocks"} {
		t.Run("target "+name, func(t *testing.T) {
			_, _, dev := generic(t, name, 1)
			m.Script(t, "mkfs.ext4 -q -F "+dev)
			var said targetSaid
			on(t, &said, "target", dev)
			if said.Disk != "" || said.Mounted != media.CodeInUse || said.Twice != media.CodeInUse || said.Read != "" || said.Size != size || said.Block != map[string]int{"honest": 512, "blocks": 4096}[name] {
				t.Errorf("%+v", said)
			}
			got := make([]byte, patternSize)
			if _, err := devices[name].LUNs[0].Medium.ReadAt(got, patternAt); err != nil || !bytes.Equal(got, pattern()) {
				t.Errorf("the stick has other bytes than were written, or %v", err)
			}
		})
	}
	t.Run("target protected", func(t *testing.T) {
		_, _, dev := generic(t, "protected", 1)
		var said targetSaid
		on(t, &said, "target", dev)
		if said.Disk != media.CodeReadOnly {
			t.Errorf("%+v", said)
		}
	})
}
