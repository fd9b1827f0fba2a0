package qemutests

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serveRecorder runs drive serve on the host and returns the address of the drive.
func serveRecorder(t *testing.T, args ...string) string {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"drive", "serve", "--listen", "127.0.0.1:0", "--image", filepath.Join(t.TempDir(), "disc.img")}, args...)
	cmd := exec.Command(filepath.Join(bin, "sallyport"), args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
			t.Log("drive serve:", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("drive serve said %q: %v", line, err)
	}
	return strings.TrimSpace(line)
}

// TestSG sends commands to drives through the kernel: the simulated recorder over iSCSI, and QEMU's own CD drives as
// SCSI and ATAPI devices beside a hard disk.
func TestSG(t *testing.T) {
	t.Parallel()
	address := serveRecorder(t, "--medium", "dvd-r", "--capacity", "40000", "--scale", "100")
	dir := t.TempDir()
	disk, disc := filepath.Join(dir, "disk"), filepath.Join(dir, "disc.iso")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("xorriso", "-as", "mkisofs", "-o", disc, filepath.Join(source(), "LICENSE")).CombinedOutput(); err != nil {
		t.Fatalf("xorriso: %v\n%s", err, out)
	}
	m := Start(t, Guest{Args: []string{
		"-device", "virtio-scsi-pci,id=s0",
		"-drive", "if=none,id=dvd,format=raw,file=" + address, "-device", "scsi-generic,id=burner,drive=dvd,bus=s0.0",
		"-drive", "if=none,id=cd,format=raw,readonly=on,file=" + disc, "-device", "scsi-cd,drive=cd,bus=s0.0",
		"-drive", "if=none,id=hd,format=raw,file=" + disk, "-device", "scsi-hd,drive=hd,bus=s0.0",
		"-drive", "if=none,id=ide,format=raw,readonly=on,file=" + disc, "-device", "ide-cd,drive=ide",
	}})
	mountFixture(t, m)
	find := func(model string) string {
		return strings.TrimSpace(m.Script(t, `grep -l '`+model+`' /sys/class/block/s*/device/model | cut -d/ -f5`))
	}
	m.Script(t, `for i in $(seq 900); do [ $(ls -d /sys/class/block/sr* | wc -l) = 3 ] && exit; sleep 0.1; done; exit 1`)
	burner, scsiCD, ataCD := "", "/dev/"+find("QEMU CD-ROM"), "/dev/"+find("QEMU DVD-ROM")
	for _, line := range strings.Split(m.Script(t, "sallyport drive list"), "\n")[1:] {
		if device, _, _ := strings.Cut(line, " "); device != "" && device != scsiCD && device != ataCD {
			burner = device
		}
	}
	says := func(code int, want string, args ...string) {
		t.Helper()
		mountWant(t, m, code, regexp.QuoteMeta(want), args...)
	}
	says(0, "DVD-R, blank, sessions: 0", "drive", "info", burner)
	generic := "/dev/" + strings.TrimSpace(m.Script(t, "ls /sys/class/block/"+filepath.Base(burner)+"/device/scsi_generic"))
	says(0, "free         40000 blocks", "drive", "info", generic)
	says(0, "it only reads", "drive", "info", scsiCD)
	says(0, "CD-ROM, closed, sessions: 1", "drive", "info", ataCD)
	says(2, "is a hard disk (peripheral type 0)", "drive", "info", "/dev/sda")
	says(2, "is a hard disk (peripheral type 0)", "drive", "info", "/dev/"+strings.TrimSpace(m.Script(t, "ls /sys/class/block/sda/device/scsi_generic")))

	t.Run("permission", func(t *testing.T) {
		m.Script(t, "chgrp cdrom "+burner+"; chmod 660 "+burner)
		r := m.Run(t, Command{Script: "setpriv --reuid=65534 --regid=65534 --clear-groups $(command -v sallyport) drive info " + burner})
		if r.Code != 3 || !strings.Contains(r.Stderr, "permission denied: that takes root, or a member of group cdrom") {
			t.Errorf("exit %d: %s", r.Code, r.Stderr)
		}
	})
	t.Run("two processes", func(t *testing.T) { // O13
		for _, node := range []string{burner, generic} {
			holder := m.Go(t, Command{Argv: []string{"python3", "-c",
				"import os,time; os.open('" + node + "', os.O_RDWR|os.O_NONBLOCK|os.O_EXCL); open('/tmp/held','w'); time.sleep(100)"}})
			m.Script(t, "for i in $(seq 900); do [ -e /tmp/held ] && exit; sleep 0.1; done; exit 1")
			says(3, "open "+node+": it is in use by python3 (process ", "drive", "info", burner)
			says(3, "in use by python3", "burn", mountDir+"/bundle.iso", "--drive", generic)
			holder.Kill(t)
			holder.Wait(t)
			m.Script(t, "rm /tmp/held")
		}
		m.Script(t, "mkdir -p /tmp/cd; mount -t iso9660 -o ro "+scsiCD+" /tmp/cd")
		says(3, "open "+scsiCD+": it is mounted at /", "drive", "info", scsiCD)
		m.Script(t, "umount /tmp/cd")
		says(0, "blank", "drive", "info", burner)
	})
	says(0, "read back    equal", "burn", mountDir+"/bundle.iso", "--drive", burner)
	says(0, "DVD-R, closed, sessions: 1", "drive", "info", burner)
	says(0, "", "verify", burner, "--trust", mountDir+"/trust.json")

	t.Run("pulled out", func(t *testing.T) { // O11
		m.QMP(t, "device_del", map[string]any{"id": "burner"})
		m.Script(t, "for i in $(seq 900); do [ -e "+burner+" ] || exit 0; sleep 0.1; done; exit 1")
		begun := time.Now()
		says(2, "no such file", "drive", "info", burner)
		if took := time.Since(begun); took > 3*time.Minute {
			t.Errorf("it took %v", took)
		}
	})
}
