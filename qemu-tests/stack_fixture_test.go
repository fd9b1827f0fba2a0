package qemutests

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/burn"
	"sallyport/burn/drivesim"
	"sallyport/burn/drivesim/iscsi"
	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

const (
	stackTarget = "iqn.2026-11.org.sallyport:drive"
	// stackScale is how many times as fast as the wall's the drives' clock goes where a test says nothing else.
	stackScale = 200
	stackHBA   = "stack-hba"
	stackXHCI  = "stack-xhci"
)

// stackDrive is a simulated recorder that a guest has.
type stackDrive struct {
	m    *Machine
	id   string
	sim  *drivesim.Drive
	disc string // the file that has what is recorded
	dev  string // in the guest: /dev/sr0
	usb  bool
	see  func(cdb []byte) // every command before it comes to the drive

	gone bool // taken out of the guest
	stop func()

	mu       sync.Mutex
	commands []string // the last ones, and how they ended
	ended    []string // connections, and why
}

// stackPlug is how a recorder is made and plugged in.
type stackPlug struct {
	drivesim.Config
	scale  float64 // 0: stackScale
	faults string  // lines, between ";"
	usb    bool
	limit  int              // seconds that QEMU waits for an answer; 0: for ever
	see    func(cdb []byte) // every command before it comes to the drive
}

var stackNumber struct {
	sync.Mutex
	n int
}

// plug makes a recorder with a blank disc, serves it, and plugs it into the guest, until the end of the test.
func plug(t *testing.T, m *Machine, p stackPlug) *stackDrive {
	t.Helper()
	faults, err := drivesim.ParseFaults(strings.NewReader(strings.ReplaceAll(p.faults, ";", "\n")))
	if err != nil {
		t.Fatal(err)
	}
	d := &stackDrive{m: m, usb: p.usb, see: p.see, disc: filepath.Join(t.TempDir(), "disc.img")}
	if d.sim, err = drivesim.OpenImage(d.disc, p.Config, nil); err != nil {
		t.Fatal(err)
	}
	// The disc lies in the drive for a while: QEMU wants a medium that is ready.
	if err := d.sim.Wait(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	d.sim.Inject(faults...)
	if p.scale == 0 {
		p.scale = stackScale
	}
	d.sim.Follow(p.scale)
	port := d.serve(t)
	t.Cleanup(func() {
		d.unplug(t)
		d.stop()
		if t.Failed() {
			d.report(t)
		}
	})
	d.id, d.dev = plugTarget(t, m, port, stackTarget, p.usb, p.limit)
	return d
}

// serve serves the drive over iSCSI, and returns the port.
func (d *stackDrive) serve(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	target := iscsi.Target{Name: stackTarget, LUN: d, Failed: func(_ net.Addr, err error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.ended = append(d.ended, err.Error())
	}}
	served := make(chan error, 1)
	go func() { served <- target.Serve(ctx, l) }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		closed := d.sim.Close() // a command that takes its time comes back
		if err := <-served; err != nil || closed != nil {
			t.Errorf("serving the recorder: %v, %v", err, closed)
		}
	})
	return l.Addr().(*net.TCPAddr).Port
}

// Do implements scsi.Transport.
func (d *stackDrive) Do(ctx context.Context, cdb []byte, data scsi.Data) (int, error) {
	if d.see != nil {
		d.see(cdb)
	}
	n, err := d.sim.Do(ctx, cdb, data)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.commands) == 40 {
		d.commands = d.commands[1:]
	}
	d.commands = append(d.commands, fmt.Sprintf("%x, %d bytes: %v", cdb, n, err))
	return n, err
}

// report says what there is to say of a drive in a test that failed.
func (d *stackDrive) report(t *testing.T) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	t.Logf("the recorder %s: %+v, %d writes, %d reads\nconnections ended: %q\nits last commands:\n%s", d.dev, d.sim.Status(),
		d.sim.Commands(0x2A), d.sim.Commands(0x28), d.ended, strings.Join(d.commands, "\n"))
}

// stackBus makes the host adapter for a drive that comes, and returns its name.
func stackBus(t *testing.T, m *Machine, id string, usb bool) (bus string) {
	t.Helper()
	name, device := stackHBA, map[string]any{"driver": "virtio-scsi-pci", "id": stackHBA}
	if usb {
		name, device = stackXHCI, map[string]any{"driver": "qemu-xhci", "id": stackXHCI}
	}
	// The adapter stays: it is there when somebody had it before.
	if _, err := m.qmp.do("device_add", device); err != nil && !strings.Contains(err.Error(), "uplicate") {
		t.Fatalf("device_add %s: %v", name, err)
	}
	if !usb {
		return stackHBA + ".0"
	}
	m.QMP(t, "device_add", map[string]any{"driver": "usb-bot", "id": id + "-bot", "bus": stackXHCI + ".0"})
	return id + "-bot.0"
}

// plugTarget plugs LUN 1 of an iSCSI target of this machine into a guest, and returns its name in QEMU, and in the
// guest.
func plugTarget(t *testing.T, m *Machine, port int, target string, usb bool, limit int) (id, dev string) {
	t.Helper()
	stackNumber.Lock()
	defer stackNumber.Unlock()
	stackNumber.n++
	id = fmt.Sprintf("stack-%d", stackNumber.n)
	bus := stackBus(t, m, id, usb)
	before := strings.Fields(m.Script(t, "ls /sys/block"))
	m.QMP(t, "blockdev-add", map[string]any{"driver": "raw", "node-name": id, "file": map[string]any{
		"driver": "iscsi", "transport": "tcp", "portal": fmt.Sprintf("127.0.0.1:%d", port), "target": target, "lun": 1, "timeout": limit}})
	m.QMP(t, "device_add", map[string]any{"driver": "scsi-generic", "id": id + "-dev", "drive": id, "bus": bus})
	if usb {
		m.QMP(t, "qom-set", map[string]any{"path": "/machine/peripheral/" + id + "-bot", "property": "attached", "value": true})
	}
	after := m.Script(t, `for i in $(seq 900); do
		for d in /sys/block/sr*; do d=${d##*/}; case " `+strings.Join(before, " ")+` " in *" $d "*) ;; *) [ -b "/dev/$d" ] && echo $d && exit;; esac; done
		sleep 0.1; done; exit 1`)
	return id, "/dev/" + strings.TrimSpace(after)
}

// unplug takes the drive out of the guest, and waits until the guest has noticed.
func (d *stackDrive) unplug(t *testing.T) {
	t.Helper()
	if !d.gone && d.id != "" {
		d.gone = true
		unplugTarget(t, d.m, d.id, d.dev, d.usb)
	}
}

func unplugTarget(t *testing.T, m *Machine, id, dev string, usb bool) {
	t.Helper()
	device := id + "-dev"
	if usb {
		device = id + "-bot"
	}
	m.QMP(t, "device_del", map[string]any{"id": device})
	m.Script(t, `for i in $(seq 900); do [ -e /sys/block/`+filepath.Base(dev)+` ] || exit 0; sleep 0.1; done; exit 1`)
	var err error
	for range 100 { // QEMU lets go of it when the guest has
		if _, err = m.qmp.do("blockdev-del", map[string]any{"node-name": id}); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("blockdev-del %s: %v", id, err)
}

// stackResult is what sallyport --json says.
type stackResult struct {
	OK      bool         `json:"ok"`
	Error   string       `json:"error"`
	Record  *burn.Record `json:"record"`
	Refusal *struct {
		Code string `json:"code"`
	} `json:"refusal"`

	said Result
}

// burnArgs burns the mounts' bundle in a drive.
func (d *stackDrive) burnArgs(args ...string) []string {
	return slices.Concat([]string{"sallyport", "burn", mountDir + "/bundle.iso", "--drive", d.dev, "--trust", mountDir + "/trust.json", "--number", "7", "--json", "--log-level", "error"}, args)
}

// result reads what sallyport --json said, and holds that whoever it says it to, exit status and JSON agree.
func result(t *testing.T, r Result) stackResult {
	t.Helper()
	res := stackResult{said: r}
	err := json.Unmarshal([]byte(r.Stdout), &res)
	if err != nil || r.Stderr != "" {
		t.Fatalf("exit status %d, timed out %v, not only JSON: %v\nstdout: %s\nstderr: %s", r.Code, r.TimedOut, err, r.Stdout, r.Stderr)
	}
	if res.OK != (r.Code == 0) || res.OK != (res.Error == "") {
		t.Errorf("exit status %d, ok %v, error %q", r.Code, res.OK, res.Error)
	}
	return res
}

// recorded is what the disc of a drive has, n blocks.
func (d *stackDrive) recorded(t *testing.T, blocks uint32) []byte {
	t.Helper()
	f, err := os.Open(d.disc)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, int(blocks)*mmc.BlockSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatalf("the disc's first %d blocks: %v", blocks, err)
	}
	return b
}

// stackPrepare makes an image of a directory beside the mounts' bundle, and signs it.
func stackPrepare(t *testing.T, m *Machine, image, payload string, args ...string) {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", slices.Concat([]string{"-eu", "-c", `cd "$1"; image=$2; payload=$3; shift 3
		sallyport prepare "$payload" -o "$image" --channel news --trust trust.json "$@"
		for name in alice bob; do sallyport sign "$image" --key $name.key; done`,
		"bash", filepath.Join(m.Share, "mount"), image, payload}, args)...)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("making %s: %v\n%s", image, err, out)
	}
}

const tgtName = "iqn.2026-11.org.sallyport:tgt"

// startTGT runs Debian's tgt with a blank DVD+R as LUN 1, and returns its port.
func startTGT(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	if err := os.MkdirAll("/var/run/tgtd", 0o755); err != nil { // for the socket that tgtadm speaks to
		t.Fatal(err)
	}
	control := fmt.Sprint(1 + port%30000) // it is no TCP port, and less than 32767
	disc := filepath.Join(t.TempDir(), "disc.img")
	var said tailWriter
	tgtd := exec.Command("tgtd", "-f", "-C", control, "--iscsi", fmt.Sprintf("portal=127.0.0.1:%d", port))
	tgtd.Stdout, tgtd.Stderr = &said, &said
	if err := tgtd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = tgtd.Process.Kill() // it may have ended
		_ = tgtd.Wait()
		os.Remove("/var/run/tgtd/socket." + control)
		os.Remove("/var/run/tgtd/socket." + control + ".lock")
		if t.Failed() {
			t.Logf("tgtd said:\n%s", said.String())
		}
	})
	out, err := exec.Command("bash", "-eu", "-c", `
		for i in $(seq 900); do tgtadm -C $1 --lld iscsi --op show --mode sys >/dev/null 2>&1 && break; sleep 0.1; done
		tgtimg --op new --device-type cd --type dvd+r --file "$2"
		tgtadm -C $1 --lld iscsi --op new --mode target --tid 1 -T "$3"
		tgtadm -C $1 --lld iscsi --op new --mode logicalunit --tid 1 --lun 1 --device-type cd -b "$2"
		tgtadm -C $1 --lld iscsi --op bind --mode target --tid 1 -I ALL`, "bash", control, disc, tgtName).CombinedOutput()
	if err != nil {
		t.Fatalf("tgt: %v\n%s\n%s", err, out, said.String())
	}
	return port
}
