package qemutests

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/qemu-tests/usbredir"
)

// redirXHCI is the host adapter of the guest that usb-redir devices are on.
const redirXHCI = "redir-xhci"

// redirected is a USB device of a script, in a guest.
type redirected struct {
	*usbredir.Stick
	server *usbredir.Server
	m      *Machine
	id     string

	mu     sync.Mutex
	failed []string // what the server was told
}

var redirNumber struct {
	sync.Mutex
	n int
}

// redirect serves the device of a script and connects QEMU to it, for the length of the test. The device isn't plugged
// in yet.
func redirect(t *testing.T, m *Machine, script string) *redirected {
	t.Helper()
	stick, err := usbredir.Parse(strings.NewReader(script), func(size int64) (usbredir.Medium, error) {
		f, err := os.CreateTemp(t.TempDir(), "medium")
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { f.Close() })
		return usbredir.NewFile(f, size)
	})
	if err != nil {
		t.Fatalf("the script of a device: %v", err)
	}
	d := &redirected{Stick: stick, m: m}
	d.server = &usbredir.Server{Device: stick, Held: true, Failed: func(err error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.failed = append(d.failed, err.Error())
	}}
	d.connect(t)
	return d
}

func (d *redirected) connect(t *testing.T) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "usb")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.server.Serve(ctx, l) }()
	redirNumber.Lock()
	redirNumber.n++
	d.id = fmt.Sprintf("redir-%d", redirNumber.n)
	redirNumber.Unlock()
	device := map[string]any{"driver": "qemu-xhci", "id": redirXHCI, "p2": 15, "p3": 15}
	if _, err := d.m.qmp.do("device_add", device); err != nil && !strings.Contains(err.Error(), "uplicate") {
		t.Fatalf("device_add %s: %v", redirXHCI, err)
	}
	d.m.QMP(t, "chardev-add", map[string]any{"id": d.id, "backend": map[string]any{"type": "socket", "data": map[string]any{
		"server": false, "addr": map[string]any{"type": "unix", "data": map[string]any{"path": path}}}}})
	d.m.QMP(t, "device_add", map[string]any{"driver": "usb-redir", "chardev": d.id, "id": d.id + "-dev", "bus": redirXHCI + ".0"})
	t.Cleanup(func() {
		d.m.QMP(t, "device_del", map[string]any{"id": d.id + "-dev"})
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serving a device: %v", err)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if t.Failed() {
			t.Logf("the device %s: %+v, %q", d.id, d.Counts(), d.failed)
		}
	})
}

// plug plugs the device in and waits until the guest has a USB device with its serial number. It returns that one's
// name, as 1-1.
func (d *redirected) plug(t *testing.T) string {
	t.Helper()
	d.server.Plug()
	return d.find(t, d.Face().Serial)
}

// find waits for a USB device with a serial number.
func (d *redirected) find(t *testing.T, serial string) string {
	t.Helper()
	return strings.TrimSpace(d.m.Script(t, `for i in $(seq 600); do
		for f in $(grep -lx '`+serial+`' /sys/bus/usb/devices/*/serial); do f=${f%/serial}; echo ${f##*/}; exit; done
		sleep 0.1; done; lsusb -t >&2; exit 1`))
}

// disks waits for n block devices behind a USB device and returns their names.
func (d *redirected) disks(t *testing.T, usb string, n int) []string {
	t.Helper()
	return strings.Fields(d.m.Script(t, fmt.Sprintf(`for i in $(seq 600); do
		found=$(ls -d /sys/bus/usb/devices/%s/%[1]s:*/host*/target*/*/block/* 2>/dev/null || true)
		[ "$(wc -w <<<"$found")" = %d ] && { for f in $found; do echo /dev/${f##*/}; done; exit; }
		sleep 0.1; done; ls -R /sys/bus/usb/devices/%[1]s/ >&2; dmesg | tail -20 >&2; exit 1`, usb, n)))
}

// unplug pulls the device out and waits until the guest has seen it.
func (d *redirected) unplug(t *testing.T, usb string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := d.server.Unplug(ctx); err != nil {
		t.Fatal(err)
	}
	d.absent(t, usb)
}

func (d *redirected) absent(t *testing.T, usb string) {
	t.Helper()
	d.m.Script(t, `for i in $(seq 600); do [ -e /sys/bus/usb/devices/`+usb+` ] || exit 0; sleep 0.1; done; exit 1`)
}

// classes waits until a USB device has so many interfaces in the guest, and returns their classes in order.
func (d *redirected) classes(t *testing.T, usb string, n int) string {
	t.Helper()
	return strings.Join(strings.Fields(d.m.Script(t, fmt.Sprintf(`cd /sys/bus/usb/devices
		for i in $(seq 600); do [ "$(ls -d %s:* 2>/dev/null | wc -l)" = %d ] && break; sleep 0.1; done
		for f in %[1]s:*; do echo $(<$f/bInterfaceClass):$(<$f/bInterfaceSubClass):$(<$f/bInterfaceProtocol); done`, usb, n))), " ")
}

// redirectAll serves and plugs in several devices at once, whose scripts go by a name. That one becomes the serial
// number, with prefix.
func redirectAll(t *testing.T, m *Machine, prefix string, scripts map[string]string) map[string]*redirected {
	t.Helper()
	devices := make(map[string]*redirected)
	for _, name := range slices.Sorted(maps.Keys(scripts)) {
		devices[name] = redirect(t, m, "serial "+prefix+name+"\n"+scripts[name])
	}
	for _, d := range devices {
		d.server.Plug()
	}
	return devices
}

// TestRedirHonest plays honest sticks to Linux: they are held back until they are plugged in, show the descriptors
// that the script describes, and keep what is written.
func TestRedirHonest(t *testing.T) {
	m := Shared(t, Guest{})
	data := make([]byte, 5<<20)
	rand.NewChaCha8([32]byte{1}).Read(data)
	if err := os.WriteFile(filepath.Join(m.Share, "data"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	held := redirect(t, m, "serial held")
	for speed, d := range redirectAll(t, m, "honest-", map[string]string{
		"full": "lun disk 48M\nspeed full", "super": "lun disk 48M\nspeed super", // all other tests are at high speed
	}) {
		t.Run(speed, func(t *testing.T) {
			usb := d.plug(t)
			dev := d.disks(t, usb, 1)[0]
			d.same(t, usb)
			if got, want := m.Script(t, "blockdev --getsize64 --getss "+dev), "50331648\n512\n"; got != want {
				t.Errorf("%s has %q, want %q", dev, got, want)
			}
			const at = 4096 + 512
			m.Script(t, fmt.Sprintf(`dd if=/tmp/share/data of=%s bs=1M seek=%d oflag=direct,seek_bytes conv=fsync status=none
				dd if=%[1]s bs=1M skip=%[2]d count=%d iflag=direct,skip_bytes,count_bytes status=none | cmp - /tmp/share/data`, dev, at, len(data)))
			stored := make([]byte, len(data))
			if _, err := d.LUNs[0].Medium.ReadAt(stored, at); err != nil || !bytes.Equal(stored, data) {
				t.Errorf("the medium has other bytes than were written: %v", err)
			}
			if c := d.Counts(); c.Written != int64(len(data)/512) || c.First.IsZero() || c.Commands[0x2A] == 0 {
				t.Errorf("counted %+v", c)
			}
			d.unplug(t, usb)
		})
	}
	if c := held.Counts(); c.Descriptors > 0 || held.server.Attached() > 0 {
		t.Errorf("a stick that is held back counted %+v", c)
	}
}

// same holds what the guest has of a device's descriptors to what it was sent.
func (d *redirected) same(t *testing.T, usb string) {
	t.Helper()
	face := d.Face()
	if got := d.m.Script(t, "cat /sys/bus/usb/devices/"+usb+"/descriptors"); got != string(face.Descriptors()) {
		t.Errorf("%s: descriptors\n%x, want\n%x", face.Serial, got, face.Descriptors())
	}
}

// redirFacts is bash that defines facts SERIAL INTERFACES DISKS: it waits until a USB device has that many of both, and
// prints a line of its name, descriptors, classes, and peripheral types of the disks.
const redirFacts = `shopt -s nullglob; cd /sys/bus/usb/devices
	facts() {
		for i in {1..150}; do
			for f in */serial; do
				read -r serial 2>/dev/null <$f || true
				[ "$serial" = $1 ] || continue
				usb=${f%/serial}; interfaces=($usb:*); disks=($usb/$usb:*/host*/target*/*/block/*)
				[ ${#interfaces[@]} = $2 ] && [ ${#disks[@]} = $3 ] || continue
				echo $usb $(base64 -w0 $usb/descriptors) \
					$(for f in ${interfaces[@]}; do echo $(<$f/bInterfaceClass):$(<$f/bInterfaceSubClass):$(<$f/bInterfaceProtocol); done) \
					$(for d in ${disks[@]}; do echo $(<$d/device/type); done)
				return
			done
			sleep 0.1
		done
		echo "no $1 with $2 interfaces and $3 disks"
	}
	`

// TestRedirKinds plays all at once what isn't a plain stick, and looks at what Linux makes of it.
func TestRedirKinds(t *testing.T) {
	m := Shared(t, Guest{})
	kinds := []struct {
		name, script string
		classes      string // of the interfaces, in the order of their numbers
		types        string // peripheral types of the block devices
	}{
		{"keyboard", "interface storage\ninterface keyboard\ntypes x", "08:06:50 03:01:01", "0"},
		{"network", "interface storage\ninterface network", "08:06:50 02:06:00 0a:00:00", "0"},
		{"alternate", "alternate 0 keyboard", "08:06:50", "0"},
		{"u3", "lun disk 8M\nlun cd 2M", "08:06:50", "0 5"},
		{"two", "lun disk 8M\nlun disk 16M", "08:06:50", "0 0"},
		{"empty", "lun disk 0", "08:06:50", "0"},
		{"hub", "class 09:00:00\ninterface hub", "09:00:00", ""},
		{"configurations", "configuration\ninterface keyboard", "08:06:50", "0"},
	}
	scripts := make(map[string]string)
	ask := redirFacts
	for _, kind := range kinds {
		scripts[kind.name] = kind.script
		ask += fmt.Sprintf("facts kind-%s %d %d\n", kind.name, len(strings.Fields(kind.classes)), len(strings.Fields(kind.types)))
	}
	devices := redirectAll(t, m, "kind-", scripts)
	lines := strings.Split(m.Script(t, ask), "\n")
	for i, kind := range kinds {
		face := devices[kind.name].Face()
		want := strings.Join(strings.Fields(base64.StdEncoding.EncodeToString(face.Descriptors())+" "+kind.classes+" "+kind.types), " ")
		if _, got, _ := strings.Cut(lines[i], " "); got != want {
			t.Errorf("%s: %s, want\n%s", kind.name, lines[i], want)
		}
	}
	for range 200 { // its driver comes a little after the interface
		if devices["keyboard"].Counts().Keys > 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if c := devices["keyboard"].Counts(); c.Keys == 0 {
		t.Error("nobody listened to the keyboard")
	}
}

// TestRedirMalformed plays devices whose descriptors are wrong: Linux survives them, and none brings it to a disk that
// isn't described.
func TestRedirMalformed(t *testing.T) {
	m := Shared(t, Guest{})
	scripts := make(map[string]string)
	for _, how := range []string{usbredir.ZeroLength, usbredir.TooLong, usbredir.TotalShort, usbredir.TotalLong, usbredir.ManyInterfaces, usbredir.CountLies, usbredir.Truncated} {
		scripts[how] = "malformed " + how
	}
	for how, d := range redirectAll(t, m, "wrong-", scripts) {
		usb := d.plug(t)
		face := d.Face()
		want := face.Descriptors()
		if got := m.Script(t, "cat /sys/bus/usb/devices/"+usb+"/descriptors"); len(got) < 18 || !strings.HasPrefix(string(want), got) {
			t.Errorf("%s: descriptors\n%x, want\n%x or their beginning", how, got, want)
		}
	}
}

// TestRedirLies plays disks that lie, or break, to Linux.
func TestRedirLies(t *testing.T) {
	m := Shared(t, Guest{})
	devices := redirectAll(t, m, "lie-", map[string]string{
		"limbo":     "lun disk 7M\nfake limbo 64G\ncache 64K",
		"changing":  "lun disk 8M\nchange 4M 1",
		"protected": "lun disk 8M\nprotected",
		"pulled":    "lun disk 8M\nwrite after 100 gone",
		"silent":    "lun disk 8M\nread lba 8192 silent",
		"turned":    "turn reset 6\ninterface storage\ninterface keyboard",
		"block":     "lun disk 8M\nlater plug block 4096",
	})
	play := func(t *testing.T, name string) (d *redirected, usb, dev string) {
		t.Helper()
		d = devices[name]
		usb = d.plug(t)
		return d, usb, d.disks(t, usb, 1)[0]
	}
	const direct = " bs=4096 count=1 iflag=direct status=none "
	t.Run("limbo behind a cache", func(t *testing.T) {
		d, usb, dev := play(t, "limbo")
		if got := m.Script(t, "blockdev --getsize64 "+dev); got != "68719476736\n" {
			t.Errorf("it claims %s", got)
		}
		m.Script(t, `dd if=/dev/urandom of=/tmp/block bs=4096 count=1 status=none
			dd if=/tmp/block of=`+dev+` bs=4096 seek=1000000 oflag=direct conv=fsync status=none
			dd if=`+dev+direct+`skip=1000000 | cmp - /tmp/block
			dd if=/dev/urandom of=`+dev+` bs=4096 count=17 oflag=direct conv=fsync status=none
			dd if=`+dev+direct+`skip=1000000 | cmp -n 4096 - /dev/zero`)
		d.unplug(t, usb)
	})
	t.Run("changing", func(t *testing.T) {
		_, _, dev := play(t, "changing")
		if got := m.Script(t, "for i in 1 2 3; do dd if="+dev+direct+"skip=1024 | head -c 1 | xxd -p; done"); got != "00\nff\nff\n" {
			t.Errorf("three reads: %q", got)
		}
	})
	t.Run("write-protected", func(t *testing.T) {
		d, _, dev := play(t, "protected")
		if got := m.Script(t, "blockdev --getro "+dev); got != "1\n" {
			t.Errorf("read-only: %s", got)
		}
		if r := m.Run(t, Command{Script: "dd if=/dev/zero of=" + dev + " bs=4096 count=1 oflag=direct"}); r.Code == 0 || d.Counts().Written > 0 {
			t.Errorf("writing: %+v, %+v", r, d.Counts())
		}
	})
	t.Run("pulled", func(t *testing.T) {
		d, usb, dev := play(t, "pulled")
		r := m.Run(t, Command{Script: "dd if=/dev/zero of=" + dev + " bs=64K count=8 oflag=direct"})
		if r.Code == 0 || d.Counts().Written != 100 {
			t.Errorf("writing: %+v, %+v", r, d.Counts())
		}
		d.absent(t, usb)
		d.server.Plug()
		d.disks(t, d.find(t, d.Face().Serial), 1)
	})
	t.Run("silent", func(t *testing.T) {
		d, _, dev := play(t, "silent")
		m.Script(t, "echo 1 >/sys/block/"+strings.TrimPrefix(dev, "/dev/")+"/device/timeout; dd if="+dev+direct+"skip=1024 >/dev/null")
		if c := d.Counts(); c.Resets < 2 {
			t.Errorf("no reset: %+v", c)
		}
	})
	t.Run("another after a reset", func(t *testing.T) {
		d, usb, _ := play(t, "turned")
		before := d.Counts().Resets
		reset := `python3 -c 'import fcntl,os; fcntl.ioctl(os.open("'$(printf /dev/bus/usb/%03d/%03d $(cat /sys/bus/usb/devices/` + usb + `/busnum /sys/bus/usb/devices/` + usb + `/devnum))'", os.O_WRONLY), 0x5514)'`
		for range 6 {
			if len(d.Active()) == 2 {
				break
			}
			m.Run(t, Command{Script: reset}) // it fails when the device isn't the same any more
		}
		usb = d.find(t, d.Face().Serial)
		if got := d.classes(t, usb, 2); got != "08:06:50 03:01:01" {
			t.Errorf("after %d resets, %d before: %s", d.Counts().Resets, before, got)
		}
	})
	t.Run("another block size", func(t *testing.T) {
		d, usb, dev := play(t, "block")
		if got := m.Script(t, "blockdev --getss "+dev); got != "512\n" {
			t.Errorf("block size %s", got)
		}
		d.unplug(t, usb)
		dev = d.disks(t, d.plug(t), 1)[0]
		if got := m.Script(t, "blockdev --getss --getsize64 "+dev); got != "4096\n8388608\n" {
			t.Errorf("block size %s", got)
		}
	})
}
