package qemutests

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// gateEvent is a line of sallyport media gate --json.
type gateEvent struct {
	Event, Name, Class, Generic, Code, Detail, Type string
	Early                                           bool
	Tries                                           int
}

// gate is sallyport's gate, running in a guest.
type gate struct {
	m    *Machine
	out  string         // its lines, in the guest
	told map[string]int // how many of them were read, by the device's name
}

// openGate has the guest's USB ports closed by a policy until the test ends.
func openGate(t *testing.T, m *Machine, policy string) *gate {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.Share, "policy"), []byte("sallyport-usb-policy 1\n"+policy), 0o644); err != nil {
		t.Fatal(err)
	}
	g := &gate{m: m, out: fmt.Sprintf("/tmp/gate-%d", time.Now().UnixNano()), told: make(map[string]int)}
	// A copy of the policy, since the share isn't read at once what was written to it.
	p := m.Go(t, Command{Script: "cp /tmp/share/policy /tmp/policy; exec sallyport media gate --policy /tmp/policy --json >" + g.out + " 2>&1", Limit: 10 * time.Minute})
	t.Cleanup(func() {
		p.Kill(t)
		p.Wait(t)
		if t.Failed() {
			t.Logf("the gate said\n%s", m.Script(t, "cat "+g.out))
		}
	})
	m.Script(t, "for i in $(seq 900); do [ \"$(cat /sys/bus/scsi/drivers_autoprobe)\" = 0 ] && [ \"$(cat /sys/module/usbcore/parameters/authorized_default)\" = 0 ] && exit; sleep 0.1; done; cat "+g.out+" >&2; exit 1")
	return g
}

// next waits for the next event about a device.
func (g *gate) next(t *testing.T, usb string) gateEvent {
	t.Helper()
	g.told[usb]++
	text := g.m.Script(t, fmt.Sprintf(`for i in $(seq 2000); do line=$(grep -F '"name":"%s"' %s | sed -n '%dp' || true); [ -n "$line" ] && { printf '%%s\n' "$line"; exit; }; sleep 0.1; done; cat %[2]s >&2; exit 1`, usb, g.out, g.told[usb]))
	var v gateEvent
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("the gate said %q: %v", text, err)
	}
	return v
}

// verdict waits for what becomes of a device, after whatever was at its port before has gone.
func (g *gate) verdict(t *testing.T, usb string) gateEvent {
	t.Helper()
	for {
		if v := g.next(t, usb); v.Event != "gone" {
			return v
		}
	}
}

// gateTrace has the kernel note each binding of sd or sr, and each mount, from now on.
const gateTrace = `cd /sys/kernel/tracing || exit 1
	[ -e trace ] || mount -t tracefs none .
	cd /sys/kernel/tracing
	echo 'p:sdprobe sd_probe' >kprobe_events
	echo 'p:srprobe sr_probe' >>kprobe_events
	for call in mount move_mount fsopen; do echo 1 >events/syscalls/sys_enter_$call/enable; done
	echo 1 >events/kprobes/enable
	echo >trace`

// TestGate plugs what U1 to U8 of the threat model are about into a guest whose ports sallyport keeps, most of it at once,
// and has the kernel itself say that no driver for disks came near a medium and that nothing was mounted.
func TestGate(t *testing.T) {
	t.Parallel()
	m := Start(t, Guest{CPUs: 2}) // what comes and goes at once meets itself there
	early := redirect(t, m, "serial early\nlun disk 8M")
	earlyName := early.plug(t)
	early.disks(t, earlyName, 1)
	m.Script(t, gateTrace)
	g := openGate(t, m, "allow stick\nallow recorder port 1-99\nallow keyboard code\n")

	t.Run("plugged in before", func(t *testing.T) { // U8
		v := g.verdict(t, earlyName)
		if v.Event != "in" || v.Class != "stick" || !v.Early || !strings.HasPrefix(v.Generic, "/dev/sg") {
			t.Errorf("%+v", v)
		}
		m.Script(t, "! ls /sys/block | grep -q ^sd")
	})

	// With one more of them QEMU would put a hub of its own at the last port.
	kinds := map[string]struct{ script, code string }{
		"honest":     {"lun disk 8M", ""},
		"keyboard":   {"interface storage\ninterface keyboard\ntypes x", "usb-mixed-functions"}, // U1
		"network":    {"interface storage\ninterface network", "usb-mixed-functions"},
		"vendor":     {"interface vendor", "usb-class"},
		"alternate":  {"alternate 0 keyboard", "usb-mixed-functions"},
		"second":     {"configuration\ninterface keyboard", "usb-mixed-functions"},
		"hub":        {"class 09:00:00\ninterface hub", "usb-policy"}, // U4: no port is named
		"u3":         {"lun disk 8M\nlun cd 2M", "usb-several-units"}, // U3
		"two":        {"lun disk 8M\nlun disk 16M", "usb-several-units"},
		"cd":         {"lun cd 2M", "usb-unit-type"},
		"silent":     {"inquiry always silent", "usb-no-answer"}, // U7
		"truncated":  {"malformed truncated", "usb-malformed"},
		"count-lies": {"malformed count-lies", "usb-malformed"},
	}
	t.Run("at once", func(t *testing.T) {
		scripts := make(map[string]string)
		for name, kind := range kinds {
			scripts[name] = kind.script
		}
		devices := redirectAll(t, m, "gate-", scripts)
		for _, name := range slices.Sorted(maps.Keys(kinds)) {
			d, want := devices[name], kinds[name].code
			v := g.verdict(t, d.find(t, d.Face().Serial))
			if name == "silent" && v.Code == "usb-no-unit" { // the kernel gave up before the gate did
				want = v.Code
			}
			switch {
			case want == "" && (v.Event != "in" || v.Class != "stick" || v.Early || !strings.HasPrefix(v.Generic, "/dev/sg")):
				t.Errorf("%s: %+v, want it in", name, v)
			case want != "" && (v.Event != "out" || v.Code != want):
				t.Errorf("%s: %+v, want %s", name, v, want)
			}
			if c := d.Counts(); want != "" && (c.Read > 0 || c.Keys > 0) {
				t.Errorf("%s: %+v", name, c)
			}
		}
	})

	t.Run("scanned", func(t *testing.T) { // F1, F9: read through sg, in a process without rights
		image := filepath.Join(t.TempDir(), "fat")
		for _, argv := range [][]string{
			{"mkfs.fat", "-C", image, "8192"}, {"mcopy", "-i", image, image + ".txt", "::AUTORUN.INF"}, {"mcopy", "-i", image, image + ".txt", "::Long name.txt"},
		} {
			if err := os.WriteFile(image+".txt", []byte("open=it"), 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", argv, err, out)
			}
		}
		data, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		d := redirect(t, m, "serial scanned\nlun disk 8M")
		if _, err := d.LUNs[0].Medium.WriteAt(data, 0); err != nil {
			t.Fatal(err)
		}
		v := g.verdict(t, d.plug(t))
		r := m.Run(t, Command{Script: "sallyport scan " + v.Generic + " --json"})
		var said struct {
			Refusal struct{ Code string }
			Medium  struct {
				Size    int64
				Volumes []struct{ Holds string }
			}
			Files       []struct{ Files int }
			Confined_by []string
		}
		if err := json.Unmarshal([]byte(r.Stdout), &said); err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		if r.Code != 1 || said.Refusal.Code != "autorun" || said.Medium.Size != 8<<20 || len(said.Medium.Volumes) != 1 || said.Medium.Volumes[0].Holds != "FAT12" ||
			len(said.Files) != 1 || said.Files[0].Files != 2 || !slices.Equal(said.Confined_by, []string{"namespaces", "empty root", "landlock", "seccomp"}) {
			t.Errorf("exit status %d: %s", r.Code, r.Stdout)
		}
		if c := d.Counts(); c.Written != 0 {
			t.Errorf("%d blocks were written", c.Written)
		}
	})

	t.Run("another after a reset", func(t *testing.T) { // U2
		d := redirect(t, m, "serial turned\nlun disk 8M\nturn reset 6\ninterface storage\ninterface keyboard")
		usb := d.plug(t)
		if v := g.verdict(t, usb); v.Event != "in" {
			t.Fatalf("%+v", v)
		}
		reset := `python3 -c 'import fcntl,os; fcntl.ioctl(os.open("'$(printf /dev/bus/usb/%03d/%03d $(cat /sys/bus/usb/devices/` + usb + `/busnum /sys/bus/usb/devices/` + usb + `/devnum))'", os.O_WRONLY), 0x5514)'`
		for range 8 {
			if len(d.Active()) == 2 {
				break
			}
			m.Run(t, Command{Script: reset}) // it fails when the device isn't the same any more
		}
		v := g.verdict(t, usb)
		if v.Code == "usb-changed" {
			v = g.verdict(t, usb)
		}
		if v.Code != "usb-mixed-functions" {
			t.Errorf("%+v", v)
		}
	})
	t.Run("code", func(t *testing.T) {
		for _, tt := range []struct{ name, types, want string }{{"person", "", "in"}, {"machine", "111111", "out"}} {
			d := redirect(t, m, "serial code-"+tt.name+"\ninterface keyboard")
			usb := d.plug(t)
			v := g.verdict(t, usb)
			if v.Event != "code" || len(v.Type) != 6 || v.Tries != 3 {
				t.Fatalf("%+v", v)
			}
			node := strings.TrimSpace(m.Script(t, "cd /sys/bus/usb/devices/"+usb+"; ls -d "+usb+":1.0/0003:*/input/input*/event* | sed 's,.*/,/dev/input/,'"))
			heard := m.Go(t, Command{Script: "exec timeout 240 dd if=" + node + " bs=24 count=2 2>/dev/null | wc -c"})
			m.Script(t, "for i in $(seq 900); do [ \"$(ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c '"+node+"$')\" -ge 2 ] && exit; sleep 0.1; done; exit 1") // the gate and dd
			if tt.types == "" {
				d.Type("")
				if v = g.verdict(t, usb); v.Event != "code" || v.Tries != 2 {
					t.Fatalf("after a wrong code: %+v", v)
				}
				d.Type(v.Type)
			} else {
				for range 3 {
					d.Type(tt.types)
				}
				for v.Event == "code" && v.Tries > 1 {
					v = g.verdict(t, usb)
				}
			}
			if v = g.verdict(t, usb); v.Event != tt.want || tt.want == "out" && v.Code != "usb-wrong-code" {
				t.Errorf("%s: %+v", tt.name, v)
			}
			if tt.want == "in" {
				d.Type("1")
			}
			// Another reader of the node, as the console is one, hears what is typed after the right code, and nothing else.
			if n := strings.TrimSpace(heard.Wait(t).Stdout); n != map[string]string{"in": "48", "out": "0"}[tt.want] {
				t.Errorf("%s: another reader heard %s bytes", tt.name, n)
			}
			if got := m.Script(t, "cat /sys/bus/usb/devices/"+usb+"/authorized"); (strings.TrimSpace(got) == "1") != (tt.want == "in") {
				t.Errorf("%s: authorized is %s", tt.name, got)
			}
		}
	})
	t.Run("pulled out", func(t *testing.T) {
		early.unplug(t, earlyName)
		if v := g.next(t, earlyName); v.Event != "gone" {
			t.Errorf("%+v", v)
		}
	})

	// From the kernel's side: nothing was bound, nothing was mounted; and its trace does tell of both.
	if got := m.Script(t, "grep -v '^#' /sys/kernel/tracing/trace || true"); got != "" {
		t.Errorf("the kernel's trace has\n%s", got)
	}
	stick := redirect(t, m, "serial traced\nlun disk 8M")
	usb := stick.plug(t)
	v := g.verdict(t, usb)
	if v.Event != "in" {
		t.Fatalf("%+v", v)
	}
	got := m.Script(t, `sg=`+filepath.Base(v.Generic)+`; address=$(basename $(readlink /sys/class/scsi_generic/$sg/device))
		echo $address >/sys/bus/scsi/drivers/sd/bind; mount -t tmpfs none /mnt 2>/dev/null || mount -t tmpfs none /tmp
		grep -v '^#' /sys/kernel/tracing/trace`)
	if !strings.Contains(got, "sdprobe") || !strings.Contains(got, "sys_mount") {
		t.Errorf("the kernel's trace doesn't tell of what it should: %q", got)
	}

	// The gate sees a controller that comes later before the kernel has given its root hubs their driver.
	m.Script(t, `cd /sys/bus/pci/drivers/xhci_hcd; controller=$(ls -d 0000:*)
		for round in $(seq 10); do
			echo $controller >unbind; echo $controller >bind
			for i in $(seq 300); do [ "$(ls -d /sys/bus/usb/drivers/hub/?-0:1.0 2>/dev/null | wc -l)" = 2 ] && continue 2; sleep 0.1; done
			dmesg | tail >&2; exit 1
		done`)
	m.Script(t, "for i in $(seq 600); do ls /sys/bus/usb/devices/"+usb+"/"+usb+":*/host*/target*/*/scsi_generic 2>/dev/null && exit; sleep 0.1; done; cat "+g.out+" >&2; exit 1")
}
