package qemutests

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/burn"
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

// TestBurnFaults lets drives fail in the ways of table O, and looks at what is said, what the record has, and that it
// is never a success.
func TestBurnFaults(t *testing.T) {
	m, _ := mountGuest(t)
	dvd := drivesim.Config{Profile: mmc.DVDR, Capacity: 8192}
	steps := drivesim.Config{Profile: mmc.DVDR, Capacity: 8192, NoDAO: true}
	plus := drivesim.Config{Profile: mmc.DVDPlusR, Capacity: 8192}
	cd := drivesim.Config{Profile: mmc.CDR, Capacity: 8192}
	bd := drivesim.Config{Profile: mmc.BDR, Capacity: 8192}
	end := mountBlocks(t, m)
	for _, tt := range []struct {
		id, faults string
		plug       stackPlug
		phase      burn.Phase
		lba        uint32
		says       string // between the LBA and the advice
		writes     int    // that came to the drive; 0: all
	}{
		{"O5 before", "before write lba 70 sense 3/0c/00", stackPlug{Config: dvd}, burn.PhaseWrite, 70,
			"WRITE(10): sense 3/0c/00 (medium error: write error), information 70", 3},
		{"O5 after, USB", "after write lba 70 sense 3/0c/00", stackPlug{Config: plus, usb: true}, burn.PhaseWrite, 70,
			"WRITE(10): sense 3/0c/00 (medium error: write error), information 70", 3},
		{"O5 deferred, before", "before write lba 70 deferred 3/0c/02", stackPlug{Config: cd}, burn.PhaseWrite, 70,
			"WRITE(10): deferred sense 3/0c/02 (medium error: write error - auto reallocation failed), information 70", 4},
		{"O5 deferred, after, USB", "after write lba 70 deferred 3/0c/02", stackPlug{Config: bd, usb: true}, burn.PhaseWrite, 70,
			"WRITE(10): deferred sense 3/0c/02 (medium error: write error - auto reallocation failed), information 70", 4},
		{"O7 at once", "before synchronize-cache sense 5/72/03", stackPlug{Config: dvd}, burn.PhaseClose, end,
			"flushing the drive's buffer: SYNCHRONIZE CACHE: sense 5/72/03 (illegal request: session fixation error - incomplete track in session)", 0},
		{"O7 of the track", "before close-track-session sense 5/72/03", stackPlug{Config: plus}, burn.PhaseClose, end,
			"closing the track: CLOSE TRACK SESSION: sense 5/72/03 (illegal request: session fixation error - incomplete track in session)", 0},
		{"O7 of the disc, after", "after close-track-session nth 2 sense 5/72/04", stackPlug{Config: steps}, burn.PhaseClose, end,
			"closing the disc: CLOSE TRACK SESSION: sense 5/72/04 (illegal request: empty or partially written reserved track)", 0},
		{"O8 in the read-back", "read lba 100 always sense 3/11/05", stackPlug{Config: dvd}, burn.PhaseReadBack, 100,
			"at byte 204800 of 1179648: reading LBA 100: READ(10): sense 3/11/05 (medium error: l-ec uncorrectable error), information 100", 0},
		{"O11 the target drops the connection, before", "before write lba 64 gone", stackPlug{Config: dvd}, burn.PhaseWrite, 64,
			"WRITE(10): sense 5/25/00 (illegal request: logical unit not supported)", 3},
		{"O11 the target drops the connection, after", "after write lba 64 gone", stackPlug{Config: plus}, burn.PhaseWrite, 64,
			"WRITE(10): sense 5/25/00 (illegal request: logical unit not supported)", 3},
		{"O11 internal failure", "before write lba 64 sense 4/44/00", stackPlug{Config: cd}, burn.PhaseWrite, 64,
			"WRITE(10): sense 4/44/00 (hardware error: internal target failure), information 64", 3},
		{"O11 no answer, and the host adapter resets", "before write lba 64 timeout", stackPlug{Config: dvd, limit: 2}, burn.PhaseWrite, 64,
			"the drive was reset or its disc changed during the burn: WRITE(10): sense 6/29/00 (unit attention: power on, reset, or bus device reset occurred)", 3},
		{"O12", "write lba 333 flip 1024", stackPlug{Config: dvd}, burn.PhaseReadBack, 333,
			"the disc differs from the image at LBA 333: byte 1024 of the block is 5dh, want 5ch", 0},
	} {
		t.Run(tt.id, func(t *testing.T) {
			tt.plug.faults = tt.faults
			d := plug(t, m, tt.plug)
			res := result(t, m.Run(t, Command{Argv: d.burnArgs()}))
			wantSpoiled(t, res, tt.phase, tt.lba, tt.says)
			if st := d.sim.Status(); st.Disc == "blank" {
				t.Errorf("the disc is blank: %+v", st)
			}
			if n := d.sim.Commands(0x2A); tt.writes > 0 && n != tt.writes {
				t.Errorf("%d writes came, want %d", n, tt.writes)
			}
		})
	}
}

// wantSpoiled holds what a burn said against what it has to say of a disc that was spoiled.
func wantSpoiled(t *testing.T, res stackResult, phase burn.Phase, lba uint32, says string) {
	t.Helper()
	want := fmt.Sprintf("%s, LBA %d: %s; the disc is spoiled: mark it, and burn another one", phase, lba, says)
	if res.said.Code != 3 || res.Error != want || res.Refusal != nil {
		t.Errorf("exit status %d, want 3, and\n%s\nwant\n%s", res.said.Code, res.Error, want)
	}
	rec := res.Record
	if rec == nil || rec.Failure == nil {
		t.Fatalf("no record of a failure: %s", res.said.Stdout)
	}
	if !rec.Spoiled || rec.Verified || rec.Failure.Phase != phase || rec.Failure.LBA != lba || rec.Failure.Error != want || rec.DiscNumber != 7 {
		t.Errorf("the record: %s", res.said.Stdout)
	}
}

// mountBlocks is how many blocks the mounts' bundle has.
func mountBlocks(t *testing.T, m *Machine) uint32 {
	t.Helper()
	info, err := os.Stat(filepath.Join(m.Share, "mount", "bundle.iso"))
	if err != nil {
		t.Fatal(err)
	}
	return uint32(info.Size() / mmc.BlockSize)
}

// TestBurnUnplugged pulls the drive out in mid-burn (O11): the burn ends at once, and says at which LBA.
func TestBurnUnplugged(t *testing.T) {
	m, _ := mountGuest(t)
	for _, usb := range []bool{false, true} {
		t.Run(fmt.Sprintf("usb=%v", usb), func(t *testing.T) {
			writing := make(chan uint32, 1000)
			d := plug(t, m, stackPlug{Config: drivesim.Config{Profile: mmc.DVDR, Capacity: 8192}, usb: usb, see: func(cdb []byte) {
				if cdb[0] == 0x2A {
					lba := binary.BigEndian.Uint32(cdb[2:])
					writing <- lba
					if lba >= 64 {
						time.Sleep(300 * time.Millisecond) // else the burn is over before somebody can pull
					}
				}
			}})
			p := m.Go(t, Command{Argv: d.burnArgs()})
			for lba := range writing {
				if lba >= 64 {
					break
				}
			}
			d.unplug(t)
			begun := time.Now()
			res := result(t, p.Wait(t))
			if took := time.Since(begun); took > 3*time.Minute {
				t.Errorf("it took %v", took)
			}
			if res.Record == nil || res.Record.Failure == nil {
				t.Fatalf("no record of a failure: %s", res.said.Stdout)
			}
			lba := res.Record.Failure.LBA
			// What the kernel makes of it depends on where the command was just then.
			says := regexp.MustCompile(`WRITE\(10\): transport( \(host status 0[157]h, driver status 00h\))?: (the host adapter failed|device is gone from the bus( \(.*\))?)`).FindString(res.Error)
			wantSpoiled(t, res, burn.PhaseWrite, lba, says)
			if st := d.sim.Status(); lba < 64 || lba >= 576 || st.Disc != "incomplete" {
				t.Errorf("it ended at LBA %d; the drive: %+v", lba, st)
			}
		})
	}
}

// TestReadFaults reads a disc whose drive has trouble with it (O8, O11): what reads more slowly is good, what can't be
// read is repaired as far as there is parity, and else refused.
func TestReadFaults(t *testing.T) {
	m, _ := mountGuest(t)
	stackPrepare(t, m, "parity.iso", "payload", "--fec-roots", "24")
	var mu sync.Mutex // commands come in from another goroutine
	var sim *drivesim.Drive
	var speeds []int
	d := plug(t, m, stackPlug{Config: drivesim.Config{Profile: mmc.DVDR, Capacity: 8192}, see: func(cdb []byte) {
		mu.Lock()
		defer mu.Unlock()
		if sim != nil && cdb[0] == 0x28 && binary.BigEndian.Uint32(cdb[2:]) == 96 {
			speeds = append(speeds, sim.Status().ReadSpeed)
		}
	}})
	args := d.burnArgs()
	args[2] = mountDir + "/parity.iso"
	if res := result(t, m.Run(t, Command{Argv: args})); !res.OK {
		t.Fatalf("the burn: %s", res.said.Stdout)
	}
	for _, tt := range []struct {
		id, faults string
		code       int
		want       string // of the error, or of what is said
		speeds     string // of the reads of LBA 96 and what follows
	}{
		{"O8 once", "read lba 100 sense 3/11/00", 0, `"ok":true`, "[22160 22160]"},
		{"O8 until it turns slowly", "read lba 100 sense 3/11/00; read lba 100 nth 2 sense 3/11/00; read lba 100 nth 3 sense 3/11/00; read lba 100 nth 4 sense 3/11/00", 0, `"ok":true`, "[22160 22160 5540 2770 1385]"},
		{"O8 for good, within parity", "read lba 100 always sense 3/11/05", 0, `"repaired_blocks":1`, ""},
		{"O8 for good, beyond parity", "read lba 32-370 always sense 3/11/05", 1, `"code":"damaged"`, ""},
		{"O11 internal failure", "read lba 100 sense 4/44/00", 3, `sense 4/44/00`, ""},
		{"O11 gone", "read lba 100 gone", 3, `5/25/00`, ""},
	} {
		t.Run(tt.id, func(t *testing.T) {
			faults, err := drivesim.ParseFaults(strings.NewReader(strings.ReplaceAll(tt.faults, ";", "\n")))
			if err != nil {
				t.Fatal(err)
			}
			d.sim.ClearFaults()
			d.sim.Inject(faults...)
			mu.Lock()
			sim, speeds = d.sim, nil
			mu.Unlock()
			r := m.Run(t, Command{Argv: []string{"sallyport", "verify", d.dev, "--trust", mountDir + "/trust.json", "--json", "--log-level", "error"}})
			if r.Code != tt.code || !strings.Contains(r.Stdout, tt.want) || r.Stderr != "" || strings.Contains(r.Stdout, `"ok":true`) != (tt.code == 0) {
				t.Errorf("exit status %d, want %d and %q: %s%s", r.Code, tt.code, tt.want, r.Stdout, r.Stderr)
			}
			mu.Lock()
			got := fmt.Sprint(speeds)
			mu.Unlock()
			if tt.speeds != "" && got != tt.speeds {
				t.Errorf("the reads of LBA 96 went out at %v kB/s, want %v", got, tt.speeds)
			}
		})
	}
}

// TestBurnAlone has a burn under way, and others who come to the drive (O13): none of them gets in, and the burn goes
// well.
func TestBurnAlone(t *testing.T) {
	m, _ := mountGuest(t)
	begun, others := make(chan bool), make(chan bool)
	writes := 0
	d := plug(t, m, stackPlug{Config: drivesim.Config{Profile: mmc.DVDPlusR, Capacity: 8192}, see: func(cdb []byte) {
		if cdb[0] == 0x2A {
			if writes++; writes == 3 {
				close(begun)
				<-others
			}
		}
	}})
	goOn := sync.OnceFunc(func() { close(others) })
	t.Cleanup(goOn)
	p := m.Go(t, Command{Argv: d.burnArgs()})
	<-begun
	for _, tt := range []struct {
		script string
		code   int
		want   string
	}{
		{"sallyport burn " + mountDir + "/bundle.iso --drive " + d.dev, 3, `^sallyport burn: open /dev/sr\d+: it is in use by sallyport \(process \d+\)`},
		{"sallyport verify " + d.dev + " --trust " + mountDir + "/trust.json", 3, `^sallyport verify: open /dev/sr\d+: it is in use by sallyport \(process \d+\)`},
		{"mount -t iso9660 -o ro " + d.dev + " /tmp/mnt", 32, "already mounted or mount point busy"},
	} {
		r := m.Run(t, Command{Script: tt.script})
		if r.Code != tt.code || !regexp.MustCompile(tt.want).MatchString(r.Stderr) {
			t.Errorf("%s: exit status %d, want %d and %q: %s%s", tt.script, r.Code, tt.code, tt.want, r.Stdout, r.Stderr)
		}
	}
	goOn()
	if res := result(t, p.Wait(t)); !res.OK || !res.Record.Verified || res.Record.Retries != 0 {
		t.Errorf("the burn: %s", res.said.Stdout)
	}
}

// TestBurnTGT burns on a DVD+R that Debian's tgt emulates, which none of us wrote.
func TestBurnTGT(t *testing.T) {
	m, _ := mountGuest(t)
	port := startTGT(t)
	id, dev := plugTarget(t, m, port, tgtName, false, 0)
	t.Cleanup(func() { unplugTarget(t, m, id, dev, false) })
	d := &stackDrive{dev: dev}
	res := result(t, m.Run(t, Command{Argv: d.burnArgs()}))
	if !res.OK || !res.Record.Verified || res.Record.Medium.Type != "DVD+R" || res.Record.ReadBackSHA256 != res.Record.ImageSHA256 {
		t.Fatalf("the burn: %s", res.said.Stdout)
	}
	// It doesn't tell that its disc has another size now: the kernel believes in the old one until it comes anew.
	unplugTarget(t, m, id, dev, false)
	id, dev = plugTarget(t, m, port, tgtName, false, 0)
	mountWant(t, m, 0, "signed by    bob, approver", "verify", dev, "--trust", mountDir+"/trust.json")
	mountWant(t, m, 0, "mounted      /tmp/mnt, read-only, through /dev/dm-0", "mount", dev, "/tmp/mnt", "--trust", mountDir+"/trust.json")
	if out := m.Script(t, "cat /tmp/mnt/hello.txt"); out != "hello\n" {
		t.Errorf("on the disc: %q", out)
	}
	mountWant(t, m, 0, "^unmounted    /tmp/mnt\n$", "umount", "/tmp/mnt")
	nothingMapped(t, m)
}

// TestBurnRealTime burns in real time while the guest's CPU is loaded: the drive's buffer never runs dry, and the disc is
// written as fast as it can be. The speed is 16x under KVM; an emulated CPU that shares the host's with the recorder
// carries 1x.
func TestBurnRealTime(t *testing.T) {
	m, dir := mountGuest(t)
	speed := 1385
	accel, err := accelerator()
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(accel, "kvm") {
		speed = 22160
	}
	size := 20 << 20
	if os.Getenv("SALLYPORT_BIG") != "" {
		size = 200 << 20
	} else {
		t.Log("20 MB; SALLYPORT_BIG=1 burns 200")
	}
	payload := filepath.Join(dir, "big")
	err = os.MkdirAll(payload, 0o755)
	if err == nil {
		b := make([]byte, size)
		rand.NewChaCha8([32]byte{}).Read(b)
		err = os.WriteFile(filepath.Join(payload, "file"), b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	stackPrepare(t, m, "big.iso", "big")
	t.Cleanup(func() {
		os.Remove(filepath.Join(dir, "big.iso"))
		os.RemoveAll(payload)
	})
	var d *stackDrive
	var writing, flushing time.Time
	var last time.Time
	var longest time.Duration
	d = plug(t, m, stackPlug{Config: drivesim.Config{Profile: mmc.DVDR, Capacity: uint32(size/mmc.BlockSize) + 8192, Speed: speed}, see: func(cdb []byte) {
		now := time.Now()
		switch {
		case cdb[0] == 0x2A && writing.IsZero():
			d.sim.Follow(1)
			writing = now
		case cdb[0] == 0x2A:
			longest = max(longest, now.Sub(last))
		case cdb[0] == 0x35 && flushing.IsZero():
			flushing = now
			d.sim.Follow(stackScale)
		}
		last = now
	}})
	m.Script(t, "cat "+mountDir+"/big.iso > /tmp/big.iso")
	load := m.Go(t, Command{Script: "while :; do :; done", Limit: 10 * time.Minute})
	t.Cleanup(func() {
		load.Kill(t)
		load.Wait(t)
	})
	args := d.burnArgs()
	args[2] = "/tmp/big.iso" // on a file system that costs the guest nothing
	t.Cleanup(func() { m.Script(t, "rm -f /tmp/big.iso") })
	res := result(t, m.Run(t, Command{Argv: args, Limit: 8 * time.Minute}))
	if !res.OK || !res.Record.Verified || res.Record.SpeedKBs != speed {
		t.Fatalf("the burn: %s", res.said.Stdout)
	}
	if writing.IsZero() || flushing.IsZero() {
		t.Fatal("nothing was written, or not flushed")
	}
	kbs := int(float64(res.Record.ImageBlocks) * mmc.BlockSize / 1000 / flushing.Sub(writing).Seconds())
	t.Logf("%d blocks in %v, %d kB/s; the longest time without a command %v; %d underruns; %+v", res.Record.ImageBlocks, flushing.Sub(writing), kbs, longest, d.sim.Status().Underruns, res.Record.Seconds)
	if n := d.sim.Status().Underruns; n != 0 {
		t.Errorf("the buffer ran dry %d times", n)
	}
	if kbs < speed*97/100 {
		t.Errorf("written at %d kB/s, want %d", kbs, speed)
	}
}
