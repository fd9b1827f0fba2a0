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

// peerPrograms burn $ISO on $DEV, and close the disc.
var peerPrograms = map[string][]string{
	"growisofs": {"growisofs", "-use-the-force-luke=notray", "-dvd-compat", "-Z", "$DEV=$ISO"},
	"xorriso":   {"xorriso", "-as", "cdrecord", "-v", "dev=$DEV", "$ISO"},
	"cdrskin":   {"cdrskin", "-v", "dev=$DEV", "$ISO"},
	"wodim":     {"wodim", "-v", "gracetime=2", "dev=$DEV", "$ISO"},
}

// TestPeers has the programs that burn real discs burn on the simulated recorder, through the kernels' drivers: each
// medium with all programs that know it as a SCSI device, and with one as a USB drive. `make test` has each program, medium
// and bus, the whole matrix is for SALLYPORT_BIG=1.
//
// growisofs closes a BD-R's session and never the disc, whatever -dvd-compat says: its bd_r_finalize (growisofs_mmc.cpp)
// sends CLOSE TRACK SESSION with function 2, which by MMC-6 6.3 leaves a BD-R appendable, and doesn't look at that option.
// plus_r_finalize, for DVD+R, does, and sends function 6; minus_r_finalize leaves it to mode page 05, which says for a
// DVD-R that no session may follow.
func TestPeers(t *testing.T) {
	m, dir := mountGuest(t)
	image, err := os.ReadFile(filepath.Join(dir, "bundle.iso"))
	if err != nil {
		t.Fatal(err)
	}
	media := map[string]drivesim.Config{
		"DVD-R": {Profile: mmc.DVDR, Capacity: 20000},
		"DVD+R": {Profile: mmc.DVDPlusR, Capacity: 20000},
		"CD-R":  {Profile: mmc.CDR, Capacity: 20000},
		"BD-R":  {Profile: mmc.BDR, Capacity: 20000},
	}
	whole := os.Getenv("SALLYPORT_BIG") == "1"
	if !whole {
		t.Log("6 of 17 pairs of program and medium. SALLYPORT_BIG=1 burns them all")
	}
	for _, tt := range []struct {
		bus, program, medium string
		options              []string // before the program's own
		open                 bool     // it closes the session only
		few                  bool     // it is one of those for every change
	}{
		{bus: "scsi", program: "growisofs", medium: "DVD-R"},
		{bus: "scsi", program: "growisofs", medium: "DVD+R"},
		{bus: "scsi", program: "growisofs", medium: "BD-R", options: []string{"-use-the-force-luke=spare:none"}, open: true, few: true}, // with spare areas it formats the disc to be overwritten
		{bus: "scsi", program: "xorriso", medium: "DVD-R"},
		{bus: "scsi", program: "xorriso", medium: "DVD+R"},
		{bus: "scsi", program: "xorriso", medium: "CD-R", few: true},
		{bus: "scsi", program: "xorriso", medium: "BD-R"},
		{bus: "scsi", program: "cdrskin", medium: "DVD-R", options: []string{"-sao"}},
		{bus: "scsi", program: "cdrskin", medium: "DVD+R", few: true},
		{bus: "scsi", program: "cdrskin", medium: "CD-R", options: []string{"-tao"}},
		{bus: "scsi", program: "cdrskin", medium: "BD-R"},
		{bus: "scsi", program: "wodim", medium: "DVD-R", few: true},
		{bus: "scsi", program: "wodim", medium: "CD-R", options: []string{"-sao"}},
		{bus: "usb", program: "growisofs", medium: "DVD-R", few: true},
		{bus: "usb", program: "xorriso", medium: "DVD+R", few: true},
		{bus: "usb", program: "wodim", medium: "CD-R", options: []string{"-tao"}},
		{bus: "usb", program: "cdrskin", medium: "BD-R"},
	} {
		if !whole && !tt.few {
			continue
		}
		t.Run(tt.bus+" "+tt.program+" "+tt.medium, func(t *testing.T) {
			begun := time.Now()
			d := plug(t, m, stackPlug{Config: media[tt.medium], usb: tt.bus == "usb"})
			before := d.sim.Status()
			argv := []string{"bash", "-c", peerScript, "peers", d.dev}
			replace := strings.NewReplacer("$DEV", d.dev, "$ISO", mountDir+"/bundle.iso")
			program := peerPrograms[tt.program]
			for _, word := range append(append(program[:1:1], tt.options...), program[1:]...) {
				argv = append(argv, replace.Replace(word))
			}
			r := m.Run(t, Command{Argv: argv, Env: []string{"MEDIUM=" + tt.medium, fmt.Sprintf("SIZE=%d", len(image))}, Limit: commandLimit})
			after := d.sim.Status()
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("before: %+v\nafter: %+v\n%v said:\n%s%s", before, after, argv[5:], r.Stdout, r.Stderr)
				}
			})
			said := readPeerReport(r.Stdout)
			if r.Code != 0 || said["status"] != "0" {
				t.Fatalf("%s ended with status %q (the script with %d, timed out %v)", tt.program, said["status"], r.Code, r.TimedOut)
			}
			disc := "complete"
			if tt.open {
				disc = "incomplete"
			}
			if before.Disc != "blank" || after.Disc != disc || after.Sessions != 1 || after.Tracks != 1 || after.TrayOpen || after.Locked {
				t.Errorf("the recorder: %+v before, %+v after", before, after)
			}
			said.agrees(t, "before", before)
			said.agrees(t, "after", after)
			if got, want := said["sum"], fmt.Sprintf("%x", sha256.Sum256(image)); !strings.HasPrefix(got, want) {
				t.Errorf("the guest reads %s, burnt was %s", got, want)
			}
			if !bytes.Equal(d.recorded(t, uint32(len(image)/mmc.BlockSize)), image) {
				t.Error("the disc has something else")
			}
			t.Logf("%.1f s", time.Since(begun).Seconds())
		})
	}
}
