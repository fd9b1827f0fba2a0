package qemutests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// TestBoot boots a guest and looks whether it has what all other tests of guests rest on.
func TestBoot(t *testing.T) {
	m := Shared(t, Guest{})
	t.Logf("the agent was there after %v, the kernel's clock says %.1f s, with %v", m.Boot.Round(100*time.Millisecond), m.Up, m.line[1:5])

	if out := m.Script(t, "uname -s -m; id -u; pwd"); out != "Linux x86_64\n0\n/tmp\n" {
		t.Errorf("uname, id and pwd said %q", out)
	}
	loaded := m.Script(t, "cut -d' ' -f1 /proc/modules")
	for _, module := range []string{"sr_mod", "cdrom", "sg", "sd_mod", "isofs", "virtio_scsi", "usb_storage", "xhci_pci", "dm_verity", "loop", "9p"} {
		if !strings.Contains("\n"+loaded, "\n"+module+"\n") {
			t.Errorf("the module %s isn't loaded, only %q", module, strings.Fields(loaded))
		}
	}
}

// TestCommand holds what commands in a guest can do to what Command says.
func TestCommand(t *testing.T) {
	m := Shared(t, Guest{})
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "file"), []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("0123456789abcdef", 1<<16) // four frames
	for _, tt := range []struct {
		name string
		c    Command
		want Result
	}{
		{"streams and status", Command{Script: "echo out; echo err >&2; exit 7"}, Result{"out\n", "err\n", 7, false}},
		{"arguments", Command{Argv: []string{"printf", "%s,", "a b", "", "$c"}}, Result{Stdout: "a b,,$c,"}},
		{"environment and folder", Command{Script: "echo $A $HOME $PWD", Env: []string{"A=x"}, Dir: "/usr"}, Result{Stdout: "x /tmp /usr\n"}},
		{"standard input", Command{Argv: []string{"cat"}, Stdin: strings.NewReader(big)}, Result{Stdout: big}},
		{"standard input that nobody reads", Command{Argv: []string{"true"}, Stdin: strings.NewReader(big)}, Result{}},
		{"over the limit, with what it started", Command{Script: "sleep 1000 & sleep 1000", Limit: time.Second}, Result{Code: -1, TimedOut: true}},
		{"killed", Command{Script: "kill -9 $$"}, Result{Code: -1}},
		{"a file of the host below /tmp", Command{Argv: []string{"cat", m.Path(filepath.Join(host, "file"))}}, Result{Stdout: "of the host"}},
		{"the host can't be written", Command{Script: "! touch /usr/x 2>/dev/null; ! touch " + m.Path(host) + "/x 2>/dev/null; touch /tmp/x /run/x"}, Result{}},
		{"the share can", Command{Script: "echo of the guest >/tmp/share/file"}, Result{}},
		{"u-root's world", Command{Argv: []string{"ls", "/init"}, Initramfs: true}, Result{Stdout: "init\n"}},
	} {
		if got := m.Run(t, tt.c); got != tt.want {
			t.Errorf("%s: %.300s, want %.300s", tt.name, fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", tt.want))
		}
	}
	if b, err := os.ReadFile(filepath.Join(m.Share, "file")); err != nil || string(b) != "of the guest\n" {
		t.Errorf("the share has %q, %v", b, err)
	}
	if left := m.Script(t, "pgrep sleep || true"); left != "" {
		t.Errorf("processes left over: %s", left)
	}
	p := m.Go(t, Command{Script: "echo started; sleep 1000"})
	p.Kill(t)
	if r := p.Wait(t); r.Code != -1 || r.TimedOut {
		t.Errorf("a killed process: %+v", r)
	}
	if out := m.Script(t, "sallyport --version"); !strings.HasPrefix(out, "sallyport ") {
		t.Errorf("sallyport said %q", out)
	}
	m.QMP(t, "device_add", map[string]any{"driver": "virtio-scsi-pci", "id": "added"})
	m.Script(t, "for i in {1..100}; do [ -e /sys/class/scsi_host/host0 ] && exit; sleep 0.1; done; exit 1")
}
