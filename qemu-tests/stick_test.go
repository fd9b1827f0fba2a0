package qemutests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sallyport/bundle/trust"
	"sallyport/media/enrol"
)

// stickRoom is a guest whose ports are closed, with what a station has that writes sticks and reads them.
type stickRoom struct {
	m     *Machine
	gate  *gate
	dir   string // of the fixture, on the host
	state string // of the station, on the host
	bundle,
	other []byte
}

// openStickRoom makes it.
func openStickRoom(t *testing.T) *stickRoom {
	t.Helper()
	m := Start(t, Guest{})
	r := &stickRoom{m: m, dir: mountFixture(t, m)}
	r.state = filepath.Join(r.dir, "state")
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "sallyport"), "prepare", "payload", "-o", "again.iso", "--channel", "news", "--trust", "trust.json", "--state", "state", "--station-key", "kiosk.key")
	cmd.Dir = r.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("making a state directory: %v\n%s", err, out)
	}
	for _, image := range []struct {
		name string
		to   *[]byte
	}{{"bundle.iso", &r.bundle}, {"other.iso", &r.other}} {
		if *image.to, err = os.ReadFile(filepath.Join(r.dir, image.name)); err != nil {
			t.Fatal(err)
		}
	}
	m.Script(t, "mkdir -p /tmp/mnt; cp -r "+mountDir+"/state /tmp/state; cp "+mountDir+"/*.iso "+mountDir+"/trust.json* /tmp; rm -r /tmp/state/media 2>/dev/null || true")
	m.Script(t, gateTrace)
	r.gate = openGate(t, m, "allow stick\n")
	return r
}

// plugged is a stick that the gate let in.
type plugged struct {
	*redirected
	usb     string // as 1-1
	generic string // as /dev/sg1
	size    int64
}

// plug plugs in the stick of a script, on which content lies.
func (r *stickRoom) plug(t *testing.T, script string, content []byte) *plugged {
	t.Helper()
	p := &plugged{redirected: redirect(t, r.m, script)}
	medium := p.LUNs[0].Medium
	p.size = medium.Size()
	if _, err := medium.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	p.usb = p.redirected.plug(t)
	v := r.gate.verdict(t, p.usb)
	if v.Event != "in" || !strings.HasPrefix(v.Generic, "/dev/sg") {
		t.Fatalf("%+v", v)
	}
	p.generic = v.Generic
	return p
}

// holds reads what lies on the stick.
func (p *plugged) holds(t *testing.T) []byte {
	t.Helper()
	b := make([]byte, p.size)
	if n, err := p.LUNs[0].Medium.ReadAt(b, 0); n < len(b) {
		t.Fatal(err)
	}
	return b
}

// enrol has the station take a stick for a carrier of bundles, as format does when it has wiped it.
func (r *stickRoom) enrol(t *testing.T, p *plugged, block int) {
	t.Helper()
	var list struct {
		Disks []struct {
			Generic, Vendor, Model, Rev, Serial string
			Hash                                string `json:"descriptors_sha256"`
		}
	}
	if err := json.Unmarshal([]byte(r.m.Script(t, "sallyport media list --json")), &list); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(r.dir, "kiosk.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := trust.ParseSecretKey(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list.Disks {
		if d.Generic != p.generic {
			continue
		}
		record := &enrol.Record{Use: enrol.Carrier, Capacity: "strict", Station: "kiosk", Created: 1_790_000_000, Medium: enrol.Identity{
			BlockSize: block, Size: p.size, Descriptor: d.Hash, Vendor: d.Vendor, Product: d.Model, Revision: d.Rev, Serial: d.Serial,
		}}
		// Each in a directory of its own: the share isn't read at once what was written to it.
		dir := filepath.Join(r.dir, "enrolled-"+d.Serial)
		if err := enrol.Add(dir, record, []byte("{}\n"), []byte("a page"), key); err != nil {
			t.Fatal(err)
		}
		r.m.Script(t, "mkdir -p /tmp/state/media; cp -r "+mountDir+"/enrolled-"+d.Serial+"/* /tmp/state/media")
		return
	}
	t.Fatalf("no %s in %+v", p.generic, list)
}

// writing begins to write a bundle to a stick.
func (r *stickRoom) writing(t *testing.T, p *plugged, image string, flags ...string) *Process {
	t.Helper()
	return r.m.Go(t, Command{Script: "exec sallyport write /tmp/" + image + " --device " + p.generic + " --trust /tmp/trust.json --state /tmp/state --json " + strings.Join(flags, " ") + " 2>/tmp/writing", Limit: 5 * time.Minute})
}

// written is what write says.
type written struct {
	OK      bool
	Error   string
	Refusal struct{ Code string }
	Record  *struct {
		Verified, Replugged, Cleared, Touched bool
		Read                                  int64
		Surplus                               int64 `json:"surplus_proven"`
		Medium                                struct{ Serial, Port string }
		Failure                               *struct{ Phase string }
	}
}

// outcome waits for the end of a write.
func outcome(t *testing.T, p *Process) (int, written) {
	t.Helper()
	r := p.Wait(t)
	var w written
	if err := json.Unmarshal([]byte(r.Stdout), &w); err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	return r.Code, w
}

// write writes a bundle to an enrolled stick and pulls it out and puts it in again when that is asked for.
func (r *stickRoom) write(t *testing.T, p *plugged, image string) {
	t.Helper()
	process := r.writing(t, p, image)
	r.m.Script(t, "for i in $(seq 2000); do grep -q 'pull the stick out' /tmp/writing && exit; sleep 0.1; done; cat /tmp/writing >&2; exit 1")
	p.unplug(t, p.usb)
	usb := p.redirected.plug(t)
	v := r.gate.verdict(t, usb)
	if v.Event != "in" {
		t.Fatalf("%+v", v)
	}
	p.usb, p.generic = usb, v.Generic
	code, said := outcome(t, process)
	if code != 0 || !said.OK || !said.Record.Verified || !said.Record.Replugged || said.Record.Medium.Serial != p.Face().Serial || said.Record.Medium.Port == "" {
		t.Fatalf("exit status %d: %+v, %+v", code, said, said.Record)
	}
}

// noSD fails the test if the kernel has had a driver for disks near a stick, or has mounted anything. That mount asks
// whether there is such a file system (fsopen) is neither.
func (r *stickRoom) noSD(t *testing.T) {
	t.Helper()
	if got := r.m.Script(t, "grep -v -e '^#' -e sys_fsopen /sys/kernel/tracing/trace || true; ls /sys/block | grep ^sd || true"); got != "" {
		t.Errorf("the kernel's trace has\n%s", got)
	}
}

// noise is content that isn't zero anywhere that matters.
func noise(n int64) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(b)
	return b
}

// TestStick writes a bundle to a stick behind the gate, carries it over, and lets it in; and meets what can be wrong with
// such a stick (U6, U7).
func TestStick(t *testing.T) {
	t.Parallel()
	r := openStickRoom(t)
	m := r.m
	const size = 6 << 20
	said := func(t *testing.T, code int, want string, args string) {
		t.Helper()
		got := m.Run(t, Command{Script: "sallyport " + args, Limit: 5 * time.Minute})
		if got.Code != code || !regexp.MustCompile(want).MatchString(got.Stdout+got.Stderr) {
			t.Errorf("sallyport %s: exit status %d, want %d and %q:\n%s%s", args, got.Code, code, want, got.Stdout, got.Stderr)
		}
	}
	trust := " --trust /tmp/trust.json"

	carrier := r.plug(t, "serial carrier\nlun disk 6M", noise(size))
	t.Run("not enrolled", func(t *testing.T) {
		code, w := outcome(t, r.writing(t, carrier, "bundle.iso"))
		if code != 1 || w.Refusal.Code != "not-enrolled" || w.Record != nil || carrier.Counts().Written != 0 {
			t.Errorf("exit status %d: %+v", code, w)
		}
	})
	r.enrol(t, carrier, 512)
	t.Run("not signed", func(t *testing.T) {
		code, w := outcome(t, r.writing(t, carrier, "unsigned.iso"))
		if code != 1 || w.Refusal.Code != "threshold" || w.Record != nil || carrier.Counts().Written != 0 {
			t.Errorf("exit status %d: %+v", code, w)
		}
	})
	t.Run("written", func(t *testing.T) {
		r.write(t, carrier, "bundle.iso")
		got := carrier.holds(t)
		if !bytes.Equal(got[:len(r.bundle)], r.bundle) || len(bytes.Trim(got[len(r.bundle):], "\x00")) > 0 {
			t.Error("the stick has something else than the image and zeros")
		}
		said(t, 0, `write +stick .*, serial carrier, .* read back equal, seal`, "log show --state /tmp/state")
		said(t, 0, `"bundle_id"`, "inspect --json "+carrier.generic)
		said(t, 0, `Sallyport bundle`, "scan "+carrier.generic)
	})
	t.Run("verified", func(t *testing.T) {
		said(t, 0, `verified     every block, every file`, "verify "+carrier.generic+trust)
		said(t, 0, `verified     every block, every file`, "verify --surplus sampled "+carrier.generic+trust)
	})

	t.Run("not zero behind it", func(t *testing.T) {
		content := append(bytes.Clone(r.bundle), make([]byte, size-len(r.bundle))...)
		content[size-1] = 1
		p := r.plug(t, "serial surplus\nlun disk 6M", content)
		said(t, 1, `surplus-data`, "verify "+p.generic+trust)
		said(t, 1, `surplus-data`, "mount "+p.generic+" /tmp/mnt"+trust)
	})
	t.Run("large blocks", func(t *testing.T) {
		p := r.plug(t, "serial large-blocks\nlun disk 6M\nblock 4096", r.bundle)
		code, w := outcome(t, r.writing(t, p, "bundle.iso"))
		if code != 1 || w.Refusal.Code != "carrier-block-size" || w.Record != nil || p.Counts().Written != 0 {
			t.Errorf("exit status %d: %+v", code, w)
		}
		said(t, 1, `carrier-block-size`, "verify "+p.generic+trust)
	})
	t.Run("too small", func(t *testing.T) {
		p := r.plug(t, "serial small\nlun disk 512K", nil)
		r.enrol(t, p, 512)
		code, w := outcome(t, r.writing(t, p, "bundle.iso"))
		if code != 1 || w.Refusal.Code != "carrier-too-small" || w.Record != nil || p.Counts().Written != 0 {
			t.Errorf("exit status %d: %+v", code, w)
		}
	})
	t.Run("write-protected", func(t *testing.T) {
		p := r.plug(t, "serial protected\nlun disk 6M\nprotected", nil)
		r.enrol(t, p, 512)
		code, w := outcome(t, r.writing(t, p, "bundle.iso"))
		if code != 1 || !strings.Contains(w.Error, "write-protected") || w.Record != nil || p.Counts().Written != 0 {
			t.Errorf("exit status %d: %+v", code, w)
		}
	})
	t.Run("pulled out while written to", func(t *testing.T) {
		p := r.plug(t, "serial pulled\nlun disk 6M\nwrite after 17500 gone", append(bytes.Clone(r.other), noise(size-int64(len(r.other)))...))
		r.enrol(t, p, 512)
		code, w := outcome(t, r.writing(t, p, "bundle.iso", "--no-replug"))
		if code != 3 || w.Record == nil || w.Record.Verified || w.Record.Failure == nil || !w.Record.Touched {
			t.Errorf("exit status %d: %+v, %+v", code, w, w.Record)
		}
		if got := p.holds(t); len(bytes.Trim(got[:mountBlock], "\x00")) > 0 {
			t.Error("the stick begins with something")
		}
		said(t, 0, `write +stick .*, serial pulled, .* failed, seal`, "log show --state /tmp/state")
	})
	t.Run("changes when it is read back", func(t *testing.T) {
		p := r.plug(t, "serial fickle\nlun disk 6M\nchange 900000 1", noise(size))
		r.enrol(t, p, 512)
		code, w := outcome(t, r.writing(t, p, "bundle.iso", "--no-replug"))
		if code == 0 { // it is from the second read of that byte on
			code, w = outcome(t, r.writing(t, p, "bundle.iso", "--no-replug"))
		}
		if code != 1 || w.Refusal.Code != "readback-differs" || w.Record == nil || w.Record.Verified || !w.Record.Cleared {
			t.Errorf("exit status %d: %+v, %+v", code, w, w.Record)
		}
		code, w = outcome(t, r.writing(t, p, "bundle.iso", "--no-replug"))
		if code != 1 || w.Refusal.Code != "not-enrolled" {
			t.Errorf("once more: exit status %d: %+v", code, w)
		}
	})

	// Where a file's content lies in the image.
	large := int64(bytes.Index(r.bundle, payloadAt(t, r, "payload/sub/deep/large", 300_000)))
	if large < 0 {
		t.Fatal("the payload isn't in the image")
	}
	t.Run("changes when it is read again", func(t *testing.T) { // U6
		p := r.plug(t, fmt.Sprintf("serial changing\nlun disk 6M\nchange %d 1", large), r.bundle)
		said(t, 0, `verified     every block`, "verify "+p.generic+trust)
		said(t, 1, `damaged`, "import "+p.generic+trust+" --spool /tmp/spool --state /tmp/importer --station-key "+mountDir+"/kiosk.key")
		if out := m.Script(t, "find /tmp/spool -type f; ls /tmp/spool | grep -v incoming || true"); out != "" {
			t.Errorf("it was let in: %s", out)
		}
	})
	r.noSD(t)

	t.Run("mounted", func(t *testing.T) {
		mountWant(t, m, 0, `(?m)^mounted      /tmp/mnt, read-only, through /dev/dm-\d+;`, "mount", carrier.generic, "/tmp/mnt", "--trust", "/tmp/trust.json")
		if out := m.Script(t, list+`list `+mountDir+`/payload > /tmp/payload; list /tmp/mnt | diff /tmp/payload - && cat /sys/block/sd*/ro; ls /sys/block | grep -c ^sd; grep -c sdprobe /sys/kernel/tracing/trace`); out != "1\n1\n1\n" {
			t.Errorf("the mounted tree differs, or there is more than one disk: %s", out)
		}
		mountWant(t, m, 0, "^unmounted    /tmp/mnt\n$", "umount", "/tmp/mnt")
		m.Script(t, "! ls /sys/block | grep ^sd")
		nothingMapped(t, m)
	})
	t.Run("changes while it is mounted", func(t *testing.T) { // U6
		p := r.plug(t, fmt.Sprintf("serial turning\nlun disk 6M\nchange %d 1", large), r.bundle)
		mountWant(t, m, 0, `(?m)^mounted `, "mount", p.generic, "/tmp/mnt", "--trust", "/tmp/trust.json")
		if out := m.Script(t, "cat /tmp/mnt/sub/deep/large 2>&1 >/tmp/read || true; cmp -n $(stat -c %s /tmp/read) /tmp/read "+mountDir+"/payload/sub/deep/large; cat /tmp/mnt/hello.txt"); !strings.Contains(out, "Input/output error") || !strings.HasSuffix(out, "\nhello\n") {
			t.Errorf("reading a block that changed: %s", out)
		}
		mountWant(t, m, 0, "(?s)^unmounted    /tmp/mnt\ndamaged      ", "umount", "/tmp/mnt")
		m.Script(t, "! ls /sys/block | grep ^sd")
	})
	t.Run("pulled out while it is mounted", func(t *testing.T) {
		p := r.plug(t, "serial torn\nlun disk 6M", r.bundle)
		mountWant(t, m, 0, `(?m)^mounted `, "mount", p.generic, "/tmp/mnt", "--trust", "/tmp/trust.json")
		p.unplug(t, p.usb)
		m.Run(t, Command{Script: "cat /tmp/mnt/sub/deep/large >/tmp/read"})
		mountWant(t, m, 0, "(?s)^unmounted    /tmp/mnt\n", "umount", "/tmp/mnt")
		nothingMapped(t, m)
	})
	t.Run("not mounted, not bound", func(t *testing.T) {
		content := bytes.Clone(r.bundle)
		content[large] ^= 1
		p := r.plug(t, "serial damaged\nlun disk 6M", content)
		before := m.Script(t, "grep -c sdprobe /sys/kernel/tracing/trace")
		said(t, 1, `damaged`, "mount "+p.generic+" /tmp/mnt"+trust)
		if after := m.Script(t, "grep -c sdprobe /sys/kernel/tracing/trace"); after != before {
			t.Errorf("sd was bound %s times, and %s before", after, before)
		}
	})
	t.Run("imported", func(t *testing.T) {
		said(t, 0, `released     /tmp/spool/news/1-`, "import "+carrier.generic+trust+" --spool /tmp/spool --state /tmp/importer --station-key "+mountDir+"/kiosk.key")
		m.Script(t, list+"list "+mountDir+"/payload > /tmp/payload; list /tmp/spool/news/1-* | diff /tmp/payload -")
		said(t, 1, `already-imported`, "import "+carrier.generic+trust+" --spool /tmp/spool --state /tmp/importer")
	})
}

// TestStickBlock is a machine without a gate: the kernel has made a block device of the stick already, and keeps it.
func TestStickBlock(t *testing.T) {
	t.Parallel()
	r := openStickRoom(t)
	p := r.plug(t, "serial block\nlun disk 6M", noise(6<<20))
	r.enrol(t, p, 512)
	r.m.Script(t, "basename $(readlink -f /sys/class/scsi_generic/"+filepath.Base(p.generic)+"/device) >/sys/bus/scsi/drivers/sd/bind")
	block := p.disks(t, p.usb, 1)[0]
	if r := r.m.Run(t, Command{Script: "sallyport write /tmp/bundle.iso --device " + block + " --trust /tmp/trust.json --state /tmp/state --no-replug"}); r.Code != 0 || !strings.Contains(r.Stdout, "a cache in it may have answered") {
		t.Errorf("%+v", r)
	}
	if got := p.holds(t); !bytes.Equal(got[:len(r.bundle)], r.bundle) || len(bytes.Trim(got[len(r.bundle):], "\x00")) > 0 {
		t.Error("the stick has something else than the image and zeros")
	}
	for _, node := range []string{block, p.generic} {
		mountWant(t, r.m, 0, `(?m)^verified     every block, every file$`, "verify", node, "--trust", "/tmp/trust.json")
		mountWant(t, r.m, 0, `(?m)^mounted `, "mount", node, "/tmp/mnt", "--trust", "/tmp/trust.json")
		mountWant(t, r.m, 0, "^unmounted    /tmp/mnt\n$", "umount", "/tmp/mnt")
		r.m.Script(t, "[ -b "+block+" ]")
	}
}

// payloadAt returns some bytes of a file of the fixture.
func payloadAt(t *testing.T, r *stickRoom, name string, at int) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, name))
	if errors.Is(err, fs.ErrNotExist) || len(b) < at+64 {
		t.Fatalf("%s: %v", name, err)
	}
	return b[at:][:64]
}
