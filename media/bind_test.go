package media

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeBus makes a sysfs with one SCSI disk, 6:0:0:0, its generic device 21:3, and the driver for disks.
func fakeBus(t *testing.T) (scsiBus, string) {
	t.Helper()
	dir := t.TempDir()
	unit := filepath.Join(dir, "sys/devices/host6/target6:0:0/6:0:0:0")
	for _, d := range []string{unit, filepath.Join(unit, "scsi_generic/sg3"), filepath.Join(dir, "sys/bus/scsi/drivers/sd"), filepath.Join(dir, "sys/dev/char"), filepath.Join(dir, "sys/dev/block")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"bind", "unbind"} {
		if err := os.WriteFile(filepath.Join(dir, "sys/bus/scsi/drivers/sd", file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(unit, "type"), []byte("0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{
		"sys/dev/char/21:3": "../../devices/host6/target6:0:0/6:0:0:0/scsi_generic/sg3",
		"sys/devices/host6/target6:0:0/6:0:0:0/scsi_generic/sg3/device": "../../../6:0:0:0",
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	return scsiBus{filepath.Join(dir, "sys"), "/dev"}, unit
}

// addBlock gives the unit a block device, as the driver does.
func addBlock(t *testing.T, s scsiBus, unit string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(unit, "block/sdq"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{
		filepath.Join(s.sys, "dev/block/65:0"):     "../../devices/host6/target6:0:0/6:0:0:0/block/sdq",
		filepath.Join(unit, "block/sdq", "device"): "../../../6:0:0:0",
	} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
}

func said(t *testing.T, s scsiBus, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.sys, diskDriver, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestBind(t *testing.T) {
	s, unit := fakeBus(t)
	at := s.unit(21<<8 | 3)
	if node, err := s.block(at); node != "" || err != nil {
		t.Errorf("before: %q, %v", node, err)
	}
	go func() { // the driver takes its time
		for said, deadline := "", time.Now().Add(time.Minute); said == "" && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			b, _ := os.ReadFile(filepath.Join(s.sys, diskDriver, "bind"))
			said = string(b)
		}
		addBlock(t, s, unit)
	}()
	node, address, err := s.bind(t.Context(), at)
	if node != "/dev/sdq" || address != "6:0:0:0" || err != nil || said(t, s, "bind") != "6:0:0:0" {
		t.Fatalf("%q, %q, %v; the driver was told %q", node, address, err, said(t, s, "bind"))
	}
	if node, err := s.block(at); node != "/dev/sdq" || err != nil {
		t.Errorf("afterwards: %q, %v", node, err)
	}
	for name, want := range map[string]string{
		mappingName([32]byte{1}, 65<<8) + boundSuffix: "6:0:0:0",
		mappingName([32]byte{1}, 65<<8):               "", // somebody else bound it
		mappingName([32]byte{1}, 66<<8) + boundSuffix: "", // it is gone
		boundSuffix: "", "x": "", "1-2": "", "-" + boundSuffix: "",
	} {
		if got := s.boundUnit(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if name := mappingName([32]byte{1}, 65<<8) + boundSuffix; !isOurs(name, mappingUUID(name)) {
		t.Error("a mapping for which sd was bound isn't taken for ours")
	}
	if err := s.unbind(address); err != nil || said(t, s, "unbind") != "6:0:0:0" {
		t.Errorf("%v; the driver was told %q", err, said(t, s, "unbind"))
	}
}

// TestBindFails: what was bound is unbound, and the error says what is missing.
func TestBindFails(t *testing.T) {
	s, _ := fakeBus(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("stopped")
	cancel(why)
	if _, _, err := s.bind(ctx, s.unit(21<<8|3)); !errors.Is(err, why) || said(t, s, "unbind") != "6:0:0:0" {
		t.Errorf("%v; the driver was told %q", err, said(t, s, "unbind"))
	}
	if _, _, err := s.bind(t.Context(), s.unit(21<<8|4)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a device that isn't there: %v", err)
	}
	optical, unit := fakeBus(t)
	if err := os.WriteFile(filepath.Join(unit, "type"), []byte("5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := optical.bind(t.Context(), optical.unit(21<<8|3)); !errors.Is(err, fs.ErrInvalid) || said(t, optical, "bind") != "" {
		t.Errorf("an optical drive: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(s.sys, diskDriver)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.bind(t.Context(), s.unit(21<<8|3)); err != errNoDiskDriver || !strings.Contains(err.Error(), "modprobe sd_mod") {
		t.Errorf("no driver: %v", err)
	}
	for _, path := range []string{"/dev/null", "/", "/proc/self/status"} {
		if _, err := BlockOf(path); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := BlockOf("/nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
