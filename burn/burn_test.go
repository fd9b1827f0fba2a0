package burn

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/burn/drivesim"
	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// testImage makes an image that is the same for the same number of blocks.
func testImage(blocks int) (Image, []byte) {
	b := make([]byte, blocks*BlockSize)
	rand.NewChaCha8([32]byte{byte(blocks), byte(blocks >> 8)}).Read(b)
	return Image{Source: bytes.NewReader(b), Blocks: uint32(blocks)}, b
}

func newDrive(t testing.TB, c drivesim.Config) (*drivesim.Drive, string) {
	t.Helper()
	dir := filepath.Join(tempDir(t), "sim")
	if c.Capacity == 0 {
		c.Capacity = 8192
	}
	d, err := drivesim.New(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, dir
}

// tempDir is t.TempDir in memory, where the machine has such a place: the
// simulator syncs its files, and these tests make thousands of discs.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "burn-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func recorded(t testing.TB, dir string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "disc.img"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return b
}

func TestDisc(t *testing.T) {
	for _, tt := range []struct {
		name   string
		drive  drivesim.Config
		opts   Options
		blocks int
		mode   string
		speed  int
	}{
		{"disc at once", drivesim.Config{}, Options{Number: 7}, 4096, "disc-at-once", 22160},
		{"4x", drivesim.Config{}, Options{Speed: 5540}, 640, "disc-at-once", 5540},
		{"incremental drive", drivesim.Config{NoDAO: true}, Options{}, 640, "incremental", 22160},
		{"incremental on request", drivesim.Config{}, Options{Incremental: true}, 640, "incremental", 22160},
		{"no whole ECC block", drivesim.Config{}, Options{}, 37, "disc-at-once", 22160},
		{"one block", drivesim.Config{NoDAO: true}, Options{}, 1, "incremental", 22160},
		{"the disc full", drivesim.Config{Capacity: 512}, Options{}, 512, "disc-at-once", 22160},
		{"small buffer", drivesim.Config{Buffer: 32 << 10}, Options{}, 640, "disc-at-once", 22160},
		{"tray pushed in by hand", drivesim.Config{NoLoad: true}, Options{}, 64, "disc-at-once", 22160},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, dir := newDrive(t, tt.drive)
			image, want := testImage(tt.blocks)
			var phases []Phase
			tt.opts.Progress = func(p Progress) {
				if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
					phases = append(phases, p.Phase)
				}
				if p.Total != image.Blocks || p.Done > p.Total {
					t.Errorf("progress %+v", p)
				}
			}
			asked := 0
			tt.opts.Load = func(string) error { asked++; d.Load(); return nil }
			rec, err := Disc(t.Context(), d, image, tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			padded := (tt.blocks + 15) / 16 * 16 * BlockSize
			got := recorded(t, dir)
			if len(got) != padded || !bytes.Equal(got[:len(want)], want) || !bytes.Equal(got[len(want):], make([]byte, padded-len(want))) {
				t.Errorf("disc.img has %d bytes and differs from the image", len(got))
			}
			st := d.Status()
			if st.Disc != "complete" || st.Sessions != 1 || st.Locked || st.TrayOpen {
				t.Errorf("drive afterwards: %+v", st)
			}
			sum := sha256.Sum256(want)
			digest := hex.EncodeToString(sum[:])
			if !rec.Verified || rec.Spoiled || rec.ImageSHA256 != digest || rec.ReadBackSHA256 != digest ||
				rec.DiscNumber != tt.opts.Number || rec.ImageBlocks != image.Blocks || rec.WriteMode != tt.mode ||
				rec.SpeedKBs != tt.speed || rec.End <= rec.Start || rec.Failure != nil || rec.Second != nil || rec.Retries != 0 || len(rec.Warnings) != 0 {
				t.Errorf("record %+v", rec)
			}
			if rec.Drive.Vendor != drivesim.Vendor || rec.Drive.Product != drivesim.Product || !strings.HasPrefix(rec.Drive.Serial, "SIM") ||
				rec.Medium.Type != "DVD-R" || rec.Medium.ID != "SALLYSIM0001" || rec.Medium.UniqueID == "" {
				t.Errorf("drive %+v, medium %+v", rec.Drive, rec.Medium)
			}
			if want := []Phase{PhaseCheck, PhasePrepare, PhaseWrite, PhaseClose, PhaseReload, PhaseReadBack}; fmt.Sprint(phases) != fmt.Sprint(want) {
				t.Errorf("phases %v, want %v", phases, want)
			}
			if (asked == 1) != tt.drive.NoLoad {
				t.Errorf("asked for the disc %d times", asked)
			}
		})
	}
}

// The record's names are an interface for scripts and the log.
func TestRecordJSON(t *testing.T) {
	b, err := json.Marshal(Record{Warnings: []string{}, Second: &SecondRead{}, Failure: &Failure{}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"disc_number":0,"image_blocks":0,"image_sha256":"","drive":{"vendor":"","product":"","revision":"","serial":""},` +
		`"medium":{"type":"","id":"","unique_id":"","capacity_blocks":0},"write_mode":"","speed_kbs":0,"write_kbs":0,"readback_kbs":0,"start":0,"end":0,` +
		`"seconds":{"calibrating":0,"writing":0,"closing":0,"reloading":0,"reading_back":0},"retries":0,` +
		`"warnings":[],"readback_sha256":"","verified":false,` +
		`"second":{"drive":{"vendor":"","product":"","revision":"","serial":""},"medium":"","sha256":"","retries":0,"verified":false},` +
		`"spoiled":false,"failure":{"phase":"","lba":0,"error":""}}`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
}

// O9, O10: refused before the first write, saying what is in and what is
// needed.
func TestRefusedMedia(t *testing.T) {
	image, _ := testImage(64)
	for _, tt := range []struct {
		name         string
		drive        drivesim.Config
		before       func(*testing.T, *drivesim.Drive)
		faults, code string
		says         []string
	}{
		{name: "no disc", drive: drivesim.Config{Empty: true}, code: CodeNoMedium, says: []string{"no disc", "a blank CD-R, DVD+R, DVD-R or BD-R for 64 blocks (1 MB)"}},
		{name: "tray open", before: func(t *testing.T, d *drivesim.Drive) { d.Eject() }, code: CodeNoMedium, says: []string{"the tray is open; a blank"}},
		{name: "dvd-rw", drive: drivesim.Config{Profile: mmc.DVDRW}, code: CodeWrongMedium, says: []string{"a DVD-RW is in the drive", "a blank CD-R"}},
		{name: "pressed dvd", drive: drivesim.Config{Profile: mmc.DVDROM}, code: CodeWrongMedium, says: []string{"a DVD-ROM is in the drive, pressed or written already; a blank"}},
		{name: "too small", drive: drivesim.Config{Capacity: 48}, code: CodeTooSmall, says: []string{"holds 48 blocks (1 MB)", "the image has 64 (1 MB)"}},
		{name: "closed", before: burnt(image), code: CodeNotBlank, says: []string{"written and closed"}},
		{name: "interrupted", before: interrupted, code: CodeNotBlank, says: []string{"appendable"}},
		{name: "5/30 from the drive", faults: "read-disc-information sense 5/30/00", code: CodeWrongMedium, says: []string{"5/30/00"}},
		{name: "2/30 from the drive", faults: "test-unit-ready sense 2/30/02", code: CodeWrongMedium},
		{name: "2/3A at calibration", faults: "send-opc-information sense 2/3a/00", code: CodeNoMedium},
		{name: "5/64 at the write parameters", faults: "mode-select always sense 5/64/00", code: CodeWrongMedium},
		{name: "5/64 at the first write", faults: "write sense 5/64/00", code: CodeWrongMedium},
		{name: "5/30 at the first write", faults: "write sense 5/30/05", code: CodeWrongMedium},
		{name: "5/30 at the reservation", faults: "reserve-track sense 5/30/05", code: CodeWrongMedium},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, dir := newDrive(t, tt.drive)
			if tt.before != nil {
				tt.before(t, d)
			}
			before, writes := recorded(t, dir), d.Commands(0x2A)
			inject(t, d, tt.faults)
			_, err := Disc(t.Context(), d, image, Options{})
			var refused *RefusedError
			if !errors.As(err, &refused) || refused.RefusalCode() != tt.code {
				t.Fatalf("got %v, want a refusal %s", err, tt.code)
			}
			var spoiled *SpoiledError
			if errors.As(err, &spoiled) {
				t.Errorf("%v: nothing was spoiled", err)
			}
			for _, s := range tt.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q doesn't say %q", err, s)
				}
			}
			if n := d.Commands(0x2A) - writes; n > 0 && !strings.HasPrefix(tt.faults, "write ") {
				t.Errorf("%d writes were sent", n)
			}
			if !bytes.Equal(before, recorded(t, dir)) {
				t.Error("the disc was changed")
			}
			if d.Status().Locked {
				t.Error("the tray stays locked")
			}
		})
	}
}

func burnt(image Image) func(*testing.T, *drivesim.Drive) {
	return func(t *testing.T, d *drivesim.Drive) {
		t.Helper()
		if _, err := Disc(t.Context(), d, image, Options{}); err != nil {
			t.Fatal(err)
		}
	}
}

// interrupted leaves a disc with a burn that broke off.
func interrupted(t *testing.T, d *drivesim.Drive) {
	t.Helper()
	image, _ := testImage(640)
	inject(t, d, "write nth 5 sense 3/0c/00")
	if _, err := Disc(t.Context(), d, image, Options{Incremental: true}); err == nil {
		t.Fatal("the burn went through")
	}
	d.ClearFaults()
}

func inject(t testing.TB, d *drivesim.Drive, lines string) {
	t.Helper()
	faults, err := drivesim.ParseFaults(strings.NewReader(strings.ReplaceAll(lines, ";", "\n")))
	if err != nil {
		t.Fatal(err)
	}
	d.Inject(faults...)
}

// What goes wrong with the image, not with the disc.
func TestImageFaults(t *testing.T) {
	_, b := testImage(1536)
	sum := sha256.Sum256(b)
	for _, tt := range []struct {
		name    string
		image   Image
		want    string
		spoiled bool
	}{
		{"empty", Image{Source: bytes.NewReader(nil)}, "image is empty", false},
		{"unreadable", Image{Source: bytes.NewReader(nil), Blocks: 64}, "reading the image: at byte 0", false},
		{"short, first chunk", Image{Source: bytes.NewReader(b[:5000]), Blocks: 64}, "at byte 5000 of 131072: unexpected EOF", false},
		{"short, later", Image{Source: bytes.NewReader(b[:2<<20+5000]), Blocks: 1536}, "reading the image: at byte", true},
		{"bad digest", Image{Source: bytes.NewReader(b), Blocks: 1536, SHA256: sum[:5]}, "SHA-256 has 5 bytes", false},
		{"changed", Image{Source: bytes.NewReader(b), Blocks: 1535, SHA256: sum[:]}, "the image changed", true},
		{"changed and small", Image{Source: bytes.NewReader(b), Blocks: 512, SHA256: sum[:]}, "the image changed", false},
		{"beyond any disc", Image{Source: bytes.NewReader(b), Blocks: 1<<32 - 1}, "fits no disc", false},
	} {
		d, _ := newDrive(t, drivesim.Config{})
		rec, err := Disc(t.Context(), d, tt.image, Options{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q in it", tt.name, err, tt.want)
		}
		var spoiled *SpoiledError
		if errors.As(err, &spoiled) != tt.spoiled || (d.Status().Disc == "blank") == tt.spoiled || rec != nil && rec.Verified {
			t.Errorf("%s: %v, disc is %s", tt.name, err, d.Status().Disc)
		}
		if d.Status().Disc == "complete" {
			t.Errorf("%s: the disc was closed all the same", tt.name)
		}
	}
}

// Cancelling at any command leaves the drive idle and unlocked, and says what
// has become of the disc.
func TestCancel(t *testing.T) {
	image, _ := testImage(640)
	config := drivesim.Config{Capacity: 1024, Buffer: 256 << 10, SpinUp: time.Second}
	d, _ := newDrive(t, config)
	if _, err := Disc(t.Context(), d, image, Options{}); err != nil {
		t.Fatal(err)
	}
	for at := 1; at <= d.Commands(); at++ {
		d, _ := newDrive(t, config)
		ctx, cancel := context.WithCancel(t.Context())
		c := &counting{Drive: d, at: at, then: cancel}
		_, err := Disc(ctx, c, image, Options{})
		cancel()
		st := d.Status()
		if err == nil {
			if st.Disc != "complete" {
				t.Errorf("cancelled at command %d: no error, disc %s", at, st.Disc)
			}
			continue // the last commands
		}
		var spoiled *SpoiledError
		if !errors.Is(err, context.Canceled) || errors.As(err, &spoiled) != (st.Disc != "blank") {
			t.Errorf("cancelled at command %d: %v, disc %s", at, err, st.Disc)
		}
		if st.Locked {
			t.Errorf("cancelled at command %d: the tray stays locked", at)
		}
		if err := (mmc.TestUnitReady{}).Send(t.Context(), d); err != nil && !st.TrayOpen && spoiled != nil {
			t.Errorf("cancelled at command %d: the drive is still busy: %v", at, err)
		}
	}
}

// counting calls then after the command with number at.
type counting struct {
	Drive
	n, at int
	then  func()
}

func (c *counting) Do(ctx context.Context, cdb []byte, d scsi.Data) (int, error) {
	n, err := c.Drive.Do(ctx, cdb, d)
	if c.n++; c.n == c.at {
		c.then()
	}
	return n, err
}

func TestReadBackAgain(t *testing.T) {
	image, b := testImage(640)
	d, _ := newDrive(t, drivesim.Config{})
	if _, err := Disc(t.Context(), d, image, Options{}); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	other := bytes.Clone(b)
	other[333*BlockSize+7] ^= 1
	wrong := sha256.Sum256(other)
	for _, tt := range []struct {
		name  string
		image Image
		want  string
	}{
		{"digest", Image{Blocks: 640, SHA256: sum[:]}, ""},
		{"bytes", Image{Source: bytes.NewReader(b), Blocks: 640}, ""},
		{"other digest", Image{Blocks: 640, SHA256: wrong[:]}, "the disc differs from the image: its SHA-256 is"},
		{"other digest and bytes", Image{Source: bytes.NewReader(other), Blocks: 640, SHA256: wrong[:]}, "differs from the image at LBA 333: byte 7"},
		{"other bytes", Image{Source: bytes.NewReader(other), Blocks: 640}, "differs from the image at LBA 333: byte 7"},
		{"longer image", Image{Blocks: 641, SHA256: sum[:]}, "the disc has 640 blocks, the image 641"},
		{"shorter image", Image{Source: bytes.NewReader(b), Blocks: 639}, "LBA 639: the block lies behind the image"},
		{"nothing to compare with", Image{Blocks: 640}, "neither the image nor its SHA-256"},
	} {
		c, err := ReadBack(t.Context(), d, tt.image, Options{})
		if tt.want == "" {
			if err != nil || !bytes.Equal(c.SHA256, sum[:]) || c.Surplus != 0 || c.Retries != 0 {
				t.Errorf("%s: got %+v, %v", tt.name, c, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q in it", tt.name, err, tt.want)
		}
		if d.Status().Locked {
			t.Errorf("%s: the tray stays locked", tt.name)
		}
	}
}

func TestSystemClock(t *testing.T) {
	var c Clock = SystemClock{}
	if err := c.Wait(t.Context(), time.Microsecond); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Wait(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(c.Now()); d < 0 || d > time.Minute {
		t.Errorf("the clock is off by %v", d)
	}
}
