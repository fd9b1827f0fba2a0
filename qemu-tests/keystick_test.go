package qemutests

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestKeyStick puts keys on a stick behind the gate and signs with what is on it.
func TestKeyStick(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	r := openStickRoom(t)
	m := r.m
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-eu", "-c", "mkdir keys; cd keys; echo right >pw; sallyport key generate --password-file pw zed; cp ../unsigned.iso by-file.iso; sallyport sign by-file.iso --key zed.key --password-file pw")
	cmd.Dir, cmd.Env = r.dir, append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("making a key: %v\n%s", err, out)
	}
	m.Script(t, "cp "+mountDir+"/keys/* /tmp; cd /tmp; sallyport inspect unsigned.iso --seal SEAL.json; cp unsigned.iso by-stick.iso")
	store := func(p *plugged, file, flags string) *Process {
		return m.Go(t, Command{Script: "exec sallyport key store /tmp/" + file + " --device " + p.generic + " --trust /tmp/trust.json --state /tmp/state --yes --json " + flags + " 2>/tmp/storing", Limit: 5 * time.Minute})
	}
	type stored struct {
		OK, Verified bool
		Error, Key   string
		Refusal      struct{ Code string }
		Volume       *struct{ Kind, Label, Serial string }
		Write        *struct {
			Verified, Replugged bool
			Medium              struct{ Serial, Port string }
		}
	}
	outcome := func(p *Process) (int, stored) {
		t.Helper()
		r := p.Wait(t)
		var s stored
		if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		return r.Code, s
	}

	p := r.plug(t, "serial key\nlun disk 64M", noise(3<<20))
	if code, s := outcome(store(p, "zed.key", "--no-replug")); code != 1 || s.Refusal.Code != "not-enrolled" || p.Counts().Written != 0 {
		t.Errorf("not enrolled: exit status %d: %+v", code, s)
	}
	if got := m.Run(t, Command{Script: "sallyport format " + p.generic + " --use key --quick --no-replug --label SIGNER --trust /tmp/trust.json --state /tmp/state --yes", Limit: 5 * time.Minute}); got.Code != 0 || !strings.Contains(got.Stdout, "as a key stick by kiosk") {
		t.Fatalf("%+v", got)
	}
	sign := "sallyport sign --yes --password-file /tmp/pw "
	if got := m.Run(t, Command{Script: sign + "/tmp/by-stick.iso --key " + p.generic}); got.Code != 1 || !strings.Contains(got.Stderr, "there is no file NAME.key at the root, but nothing") {
		t.Errorf("without a key: %+v", got)
	}
	// In place of another, with the stick pulled out in between.
	first := bytes.Repeat([]byte("another key"), 512)
	if _, err := p.LUNs[0].Medium.WriteAt(first, 40<<20); err != nil {
		t.Fatal(err)
	}
	process := store(p, "zed.key", "")
	m.Script(t, "for i in $(seq 2000); do grep -q 'pull the stick out' /tmp/storing && exit; sleep 0.1; done; cat /tmp/storing >&2; exit 1")
	p.unplug(t, p.usb)
	p.usb = p.redirected.plug(t)
	v := r.gate.verdict(t, p.usb)
	if v.Event != "in" {
		t.Fatalf("%+v", v)
	}
	p.generic = v.Generic
	code, s := outcome(process)
	if code != 0 || !s.OK || !s.Verified || s.Key != "zed.key" || s.Volume.Kind != "fat32" || s.Volume.Label != "SIGNER" || !s.Write.Verified || !s.Write.Replugged || s.Write.Medium.Serial != "key" || s.Write.Medium.Port == "" {
		t.Fatalf("exit status %d: %+v, %+v", code, s, s.Write)
	}

	t.Run("on the host", func(t *testing.T) {
		all, part := p.holds(t), filepath.Join(t.TempDir(), "part")
		if err := os.WriteFile(part, all[1<<20:size-1<<20], 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("fsck.fat", "-n", part).CombinedOutput(); err != nil {
			t.Errorf("fsck.fat: %v\n%s", err, out)
		}
		if out, err := exec.Command("mdir", "-b", "-i", part, "::").CombinedOutput(); err != nil || string(out) != "::/zed.key\n" {
			t.Errorf("mdir: %s, %v", out, err)
		}
		out, err := exec.Command("mtype", "-i", part, "::zed.key").Output()
		if want := m.Script(t, "cat /tmp/zed.key"); err != nil || string(out) != want {
			t.Errorf("mtype: %q, %v", out, err)
		}
		if bytes.Contains(all, []byte("another key")) {
			t.Error("the key before is still on the stick")
		}
	})
	t.Run("signed", func(t *testing.T) {
		m.Script(t, sign+"/tmp/by-stick.iso --key "+p.generic+"; cmp /tmp/by-file.iso /tmp/by-stick.iso; ! cmp -s /tmp/by-file.iso /tmp/unsigned.iso")
		m.Script(t, sign+"/tmp/SEAL.json --unseen --key "+p.generic+"; minisign -V -p /tmp/zed.pub -m /tmp/SEAL.json -x /tmp/SEAL.json.*.minisig")
		got := m.Run(t, Command{Script: "echo wrong >/tmp/wrong; sallyport sign --yes /tmp/by-stick.iso --password-file /tmp/wrong --key " + p.generic})
		if got.Code != 2 || !strings.Contains(got.Stderr, `"zed.key" on `+p.generic+": wrong password") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("a carrier", func(t *testing.T) {
		carrier := r.plug(t, "serial carrier\nlun disk 6M", r.bundle)
		r.enrol(t, carrier, 512)
		if code, s := outcome(store(carrier, "zed.key", "--no-replug")); code != 1 || s.Refusal.Code != "wrong-use" || carrier.Counts().Written != 0 {
			t.Errorf("exit status %d: %+v", code, s)
		}
		if got := m.Run(t, Command{Script: sign + "/tmp/by-stick.iso --key " + carrier.generic}); got.Code != 1 || !strings.Contains(got.Stderr, "on this one there is Sallyport bundle") {
			t.Errorf("%+v", got)
		}
	})
	r.noSD(t)

	// Where a machine has no gate the kernel has made a block device of the stick.
	m.Script(t, "basename $(readlink -f /sys/class/scsi_generic/"+filepath.Base(p.generic)+"/device) >/sys/bus/scsi/drivers/sd/bind")
	block := p.disks(t, p.usb, 1)[0]
	m.Script(t, "sallyport key show --password-file /tmp/pw "+block+" >/tmp/shown; sallyport key show /tmp/zed.pub | cmp - /tmp/shown")
}
