package qemutests

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// formatted is what format says.
type formatted struct {
	OK      bool
	Error   string
	Refusal struct{ Code string }
	Erasure *struct {
		Result, Station string
		Medium          struct{ Serial, Port string }
		Passes          []struct{ Written, Read int64 }
		Capacity        *verdict
	}
	Capacity  *verdict
	Enrolment *struct {
		Use, Capacity string
		Volume        *struct{ Kind, Label, Serial string }
	}
}

type verdict struct {
	Genuine bool
	Kind    string
	Mode    string
	Real    int64 `json:"real_bytes"`
	Read    int64 `json:"blocks_read"`
}

// formatting begins to format a stick.
func (r *stickRoom) formatting(t *testing.T, p *plugged, flags string) *Process {
	t.Helper()
	return r.m.Go(t, Command{Script: "exec sallyport format " + p.generic + " --trust /tmp/trust.json --state /tmp/state --yes --json " + flags + " 2>/tmp/formatting", Limit: 9 * time.Minute})
}

func (r *stickRoom) format(t *testing.T, p *plugged, flags string) (int, formatted) {
	t.Helper()
	return formatEnd(t, r.formatting(t, p, flags))
}

func formatEnd(t *testing.T, p *Process) (int, formatted) {
	t.Helper()
	r := p.Wait(t)
	var f formatted
	if err := json.Unmarshal([]byte(r.Stdout), &f); err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	return r.Code, f
}

// deliver lets the fixture's bundle in, and takes it out on a stick with ext4, whose partition is then put into the file part.
func (r *stickRoom) deliver(t *testing.T, p *plugged, part string) {
	t.Helper()
	r.m.Script(t, "sallyport import /tmp/bundle.iso --trust /tmp/trust.json --spool /tmp/spool --state /tmp/state")
	out := r.m.Script(t, "sallyport deliver /tmp/spool/*/* --device "+p.generic+" --trust /tmp/trust.json --state /tmp/state --no-replug")
	if !strings.Contains(out, "every file equal") {
		t.Errorf("deliver says %s", out)
	}
	if log := r.m.Script(t, "sallyport log show --state /tmp/state"); !strings.Contains(log, " deliver ") || !strings.Contains(log, "serial ext4") {
		t.Errorf("the log has %s", log)
	}
	if err := os.WriteFile(part, p.holds(t)[1<<20:79<<20], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("e2fsck", "-fn", part).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	tree := t.TempDir()
	if out, err := exec.Command("debugfs", "-R", "rdump / "+tree, part).CombinedOutput(); err != nil {
		t.Errorf("debugfs: %v\n%s", err, out)
	}
	if got, want := hashes(t, tree), hashes(t, filepath.Join(r.dir, "payload")); len(want) < 4 || !maps.Equal(got, want) {
		t.Errorf("on the stick are %v, want %v", got, want)
	}
}

// hashes has a digest of each file of a directory on the host.
func hashes(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	out := map[string][32]byte{}
	if err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(name)
		out[rel] = sha256.Sum256(b)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// likeAnother leaves a case out that differs from another only in what tests without a guest try as well, unless SALLYPORT_BIG is 1.
func likeAnother(t *testing.T, is bool) {
	t.Helper()
	if is && os.Getenv("SALLYPORT_BIG") != "1" {
		fmt.Fprintf(os.Stderr, "*** NOT RUN: %s, which make big does ***\n", t.Name())
		t.Skip("SALLYPORT_BIG is not 1")
	}
}

// TestFormat formats sticks behind the gate: honest ones, some that lie about their size (U5), and some that fail (U7).
func TestFormat(t *testing.T) {
	t.Parallel()
	r := openStickRoom(t)
	enrolled := func() string {
		t.Helper()
		return strings.TrimSpace(r.m.Script(t, "find /tmp/state/media -mindepth 1 -maxdepth 1 2>/dev/null | wc -l || true"))
	}

	t.Run("carrier", func(t *testing.T) {
		const size = 12 << 20
		p := r.plug(t, "serial carrier\nlun disk 12M", noise(size))
		process := r.formatting(t, p, "--use carrier --operator Olga")
		r.m.Script(t, "for i in $(seq 2000); do grep -q 'pull the stick out' /tmp/formatting && exit; sleep 0.1; done; cat /tmp/formatting >&2; exit 1")
		p.unplug(t, p.usb)
		p.usb = p.redirected.plug(t)
		v := r.gate.verdict(t, p.usb)
		if v.Event != "in" {
			t.Fatalf("%+v", v)
		}
		p.generic = v.Generic
		code, f := formatEnd(t, process)
		if code != 0 || !f.OK || f.Erasure.Result != "done" || f.Erasure.Medium.Serial != "carrier" || f.Erasure.Medium.Port == "" || f.Enrolment.Capacity != "strict" ||
			len(f.Erasure.Passes) != 1 || f.Erasure.Passes[0].Written != size || f.Erasure.Passes[0].Read != size || !f.Erasure.Capacity.Genuine {
			t.Fatalf("exit status %d: %+v, %+v", code, f, f.Erasure)
		}
		r.write(t, p, "bundle.iso") // it is one that write takes
	})

	for _, kind := range []struct {
		fs   string
		fsck []string
	}{{"fat32", []string{"fsck.fat", "-n"}}, {"exfat", []string{"fsck.exfat", "-n"}}, {"ext4", []string{"e2fsck", "-fn"}}} {
		t.Run(kind.fs, func(t *testing.T) {
			likeAnother(t, kind.fs == "fat32")
			const size = 80 << 20
			p := r.plug(t, "serial "+kind.fs+"\nlun disk 80M", noise(3<<20))
			code, f := r.format(t, p, "--use delivery --quick --no-replug --label OUT --fs "+kind.fs)
			if code != 0 || !f.OK || f.Enrolment.Use != "delivery" || f.Enrolment.Volume.Kind != kind.fs || f.Enrolment.Volume.Label != "OUT" {
				t.Fatalf("exit status %d: %+v, %+v", code, f, f.Enrolment)
			}
			// Of the partition, from 1 MiB on to the last whole one.
			part := filepath.Join(t.TempDir(), "part")
			if err := os.WriteFile(part, p.holds(t)[1<<20:size-1<<20], 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(kind.fsck[0], append(kind.fsck[1:], part)...).CombinedOutput(); err != nil {
				t.Errorf("%v: %v\n%s", kind.fsck, err, out)
			}
			if kind.fs == "ext4" {
				r.deliver(t, p, part)
			}
		})
	}

	before := enrolled()
	for _, lie := range []struct {
		name, script, flags, kind string
		real                      int64
	}{
		{"limbo, samples", "lun disk 7M\nfake limbo 64M\ncache 4M", "--quick", "", 7 << 20},
		{"wraparound, samples", "lun disk 7171K\nfake wraparound 64M", "--quick", "wraparound", 7171 << 10},
		{"chain, samples", "lun disk 9M\nfake chain 64M wrap 12M noise", "--quick", "", 9 << 20},
		{"limbo, every block", "lun disk 7M\nfake limbo 16M", "", "limbo", 7 << 20},
		{"64 GB that are 7", "lun disk 7G\nfake wraparound 64G", "--quick", "wraparound", 7 << 30},
	} {
		t.Run(lie.name, func(t *testing.T) { // U5
			likeAnother(t, lie.name == "limbo, samples" || lie.name == "wraparound, samples")
			p := r.plug(t, "serial lies-"+strings.ReplaceAll(lie.name, " ", "-")+"\n"+lie.script, nil)
			code, f := r.format(t, p, "--use carrier --no-replug "+lie.flags)
			v := f.Capacity
			if f.Erasure != nil && f.Erasure.Capacity != nil {
				v = f.Erasure.Capacity
			}
			if code != 1 || f.Refusal.Code != "fake-capacity" || f.Enrolment != nil || v == nil || v.Genuine || lie.kind != "" && v.Kind != lie.kind {
				t.Fatalf("exit status %d: %+v, %+v", code, f, v)
			}
			if off := v.Real - lie.real; off > lie.real/100 || off < -lie.real/100 || v.Mode == "quick" && v.Read >= 2048 {
				t.Errorf("%d bytes, really %d, by %d blocks", v.Real, lie.real, v.Read)
			}
		})
	}
	t.Run("write-protected", func(t *testing.T) {
		p := r.plug(t, "serial protected\nlun disk 12M\nprotected", nil)
		code, f := r.format(t, p, "--use carrier --no-replug")
		if code != 1 || f.Refusal.Code != "medium-read-only" || p.Counts().Written != 0 {
			t.Errorf("exit status %d: %+v", code, f)
		}
	})
	t.Run("blocks of 4096", func(t *testing.T) { // U3
		p := r.plug(t, "serial large-blocks\nlun disk 80M\nblock 4096", nil)
		code, f := r.format(t, p, "--use carrier --no-replug")
		if code != 1 || f.Refusal.Code != "carrier-block-size" || p.Counts().Written != 0 {
			t.Errorf("exit status %d: %+v", code, f)
		}
	})
	t.Run("pulled out", func(t *testing.T) { // U7
		p := r.plug(t, "serial pulled\nlun disk 12M\nwrite after 9000 gone", nil)
		code, f := r.format(t, p, "--use carrier --no-replug --record /tmp/record")
		if code != 3 || f.Enrolment != nil || f.Erasure == nil || f.Erasure.Result != "failed" {
			t.Errorf("exit status %d: %+v, %+v", code, f, f.Erasure)
		}
		if out := r.m.Script(t, "grep -c '\"result\":\"failed\"' /tmp/record; grep -c '\"result\":\"done\"' /tmp/record || true"); out != "1\n0\n" {
			t.Errorf("the record: %q", out)
		}
	})
	t.Run("stopped", func(t *testing.T) {
		p := r.plug(t, "serial stopped\nlun disk 48M", nil)
		process := r.formatting(t, p, "--use carrier --no-replug")
		for p.Counts().Written < 8000 { // blocks
			select {
			case <-process.ended:
				t.Fatalf("it ended before it was stopped: %+v", process.Wait(t))
			case <-time.After(10 * time.Millisecond):
			}
		}
		r.m.Script(t, "pkill -INT -f 'sallyport format'")
		code, f := formatEnd(t, process)
		if code != 130 || f.Enrolment != nil || f.Erasure == nil || f.Erasure.Result != "cancelled" {
			t.Errorf("exit status %d: %+v, %+v", code, f, f.Erasure)
		}
	})
	if after := enrolled(); after != before {
		t.Errorf("%s sticks are enrolled, %s before those that fail", after, before)
	}
	r.noSD(t)
}
