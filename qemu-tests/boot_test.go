package qemutests

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// TestBoot boots a guest and looks whether it has what all other tests of guests rest on.
func TestBoot(t *testing.T) {
	m := Shared(t, Guest{})
	t.Logf("the agent was there after %v with %v", m.Boot.Round(100*time.Millisecond), m.line[1:5])

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
