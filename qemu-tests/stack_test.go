package qemutests

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/burn/drivesim"
	"sallyport/burn/mmc"
)

// TestBurn burns a signed bundle on each kind of disc, verifies it in the drive, and mounts it.
func TestBurn(t *testing.T) {
	m, dir := mountGuest(t)
	image, err := os.ReadFile(filepath.Join(dir, "bundle.iso"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		config drivesim.Config
		usb    bool
		mode   string
	}{
		{"DVD-R", drivesim.Config{Profile: mmc.DVDR, Capacity: 8192}, false, "disc-at-once"},
		{"DVD-R", drivesim.Config{Profile: mmc.DVDR, Capacity: 8192, NoDAO: true}, true, "incremental"},
		{"DVD+R", drivesim.Config{Profile: mmc.DVDPlusR, Capacity: 8192}, false, "sequential"},
		{"CD-R", drivesim.Config{Profile: mmc.CDR, Capacity: 8192}, false, "track-at-once"},
		{"BD-R", drivesim.Config{Profile: mmc.BDR, Capacity: 8192}, true, "sequential"},
	} {
		t.Run(fmt.Sprintf("%s %s usb=%v", tt.name, tt.mode, tt.usb), func(t *testing.T) {
			begun := time.Now()
			d := plug(t, m, stackPlug{Config: tt.config, usb: tt.usb})
			plugged := time.Now()
			res := result(t, m.Run(t, Command{Argv: d.burnArgs()}))
			burnt := time.Now()
			rec := res.Record
			if !res.OK || rec == nil || !rec.Verified || rec.Spoiled || rec.Failure != nil {
				t.Fatalf("the burn: %+v", res)
			}
			sum := fmt.Sprintf("%x", sha256.Sum256(image))
			if rec.DiscNumber != 7 || rec.Medium.Type != tt.name || rec.WriteMode != tt.mode || rec.ImageSHA256 != sum || rec.ReadBackSHA256 != sum ||
				rec.Drive.Product != drivesim.Product || rec.Drive.Serial == "" || rec.Retries != 0 {
				t.Errorf("the record: %+v", rec)
			}
			if st := d.sim.Status(); st.Disc != "complete" || st.Sessions != 1 || st.Tracks != 1 || st.TrayOpen || st.Locked {
				t.Errorf("the drive: %+v", st)
			}
			if !bytes.Equal(d.recorded(t, rec.ImageBlocks), image) {
				t.Error("the disc has something else")
			}
			mountWant(t, m, 0, "signed by    bob, approver", "verify", d.dev, "--trust", mountDir+"/trust.json")
			verified := time.Now()
			mountWant(t, m, 0, "mounted      /tmp/mnt, read-only, through /dev/dm-0", "mount", d.dev, "/tmp/mnt", "--trust", mountDir+"/trust.json")
			if out := m.Script(t, list+`list `+mountDir+`/payload > /tmp/payload; list /tmp/mnt | diff /tmp/payload - && dmsetup table | cut -d' ' -f 4`); out != "verity\n" {
				t.Errorf("the disc's tree: %s", out)
			}
			if r := m.Run(t, Command{Script: "sallyport burn " + mountDir + "/bundle.iso --drive " + d.dev}); r.Code != 3 || !strings.Contains(r.Stderr, "mounted at") && !strings.Contains(r.Stderr, "held by the block device dm-0") {
				t.Errorf("a burn while it is mounted: %d, %s%s", r.Code, r.Stdout, r.Stderr)
			}
			mountWant(t, m, 0, "^unmounted    /tmp/mnt\n$", "umount", "/tmp/mnt")
			nothingMapped(t, m)
			// Nothing can be added, and nothing written over.
			again := result(t, m.Run(t, Command{Argv: d.burnArgs()}))
			if again.said.Code != 1 || again.Refusal == nil || again.Refusal.Code != "medium-not-blank" || again.Record != nil {
				t.Errorf("a second burn: %+v", again)
			}
			t.Logf("plugged in %.1f s, burnt in %.1f s, verified in %.1f s, mounted and the rest in %.1f s", plugged.Sub(begun).Seconds(), burnt.Sub(plugged).Seconds(), verified.Sub(burnt).Seconds(), time.Since(verified).Seconds())
		})
	}
}
