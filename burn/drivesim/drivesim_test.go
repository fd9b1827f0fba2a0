package drivesim

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// small is a drive that a test fills quickly: 256 blocks, a buffer of 64.
var small = Config{Capacity: 256, Buffer: 64 * blockSize, SpinUp: time.Second}

func newDrive(t testing.TB, c Config) (*Drive, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sim")
	d, err := New(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, dir
}

// do sends a CDB in hex with a data phase, and returns the sense as K/AA/QQ,
// "" for none, or another error's words.
func do(t testing.TB, d *Drive, cdb string, data scsi.Data) string {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(cdb, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Do(t.Context(), b, data)
	return short(err)
}

func short(err error) string {
	var s *scsi.SenseError
	if errors.As(err, &s) {
		deferred := ""
		if s.Deferred {
			deferred = "deferred "
		}
		return fmt.Sprintf("%s%x/%02x/%02x", deferred, s.Key, s.ASC, s.ASCQ)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

const tur = "00 00 00 00 00 00"

// settle makes the drive ready: attentions taken, disc spun up.
func settle(t testing.TB, d *Drive) {
	t.Helper()
	for range 100 {
		if do(t, d, tur, scsi.Data{}) == "" {
			return
		}
		d.Wait(t.Context(), time.Second)
	}
	t.Fatal("the drive doesn't become ready")
}

// setup sets write parameters: the write type, and whether a session may
// follow.
func setup(t testing.TB, d *Drive, kind, multi byte, bufe bool) {
	t.Helper()
	p := mmc.WriteParameters{WriteType: kind, MultiSession: multi, TrackMode: 5, DataBlockType: 8, BufferUnderrunFree: bufe}
	raw := make([]byte, 52)
	raw[0], raw[1] = 5, 50
	if err := p.Store(t.Context(), d, raw); err != nil {
		t.Fatal(err)
	}
}

func payload(blocks int) []byte {
	b := make([]byte, blocks*blockSize)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func write(d *Drive, lba uint32, p []byte) string {
	return short(mmc.Write{LBA: lba}.Send(context.Background(), d, p))
}

func read(d *Drive, lba uint32, blocks int) ([]byte, string) {
	p := make([]byte, blocks*blockSize)
	return p, short(mmc.Read{LBA: lba}.Send(context.Background(), d, p))
}

func TestPowerOn(t *testing.T) {
	d, _ := newDrive(t, Config{})
	var answers []string
	for range 12 {
		answers = append(answers, do(t, d, tur, scsi.Data{}))
		d.Wait(t.Context(), time.Second)
	}
	want := "[6/29/00 2/04/01 2/04/01 2/04/01 2/04/01 2/04/01 2/04/01 2/04/01 6/28/00   ]"
	if fmt.Sprint(answers) != want {
		t.Errorf("got  %q\nwant %q", fmt.Sprint(answers), want)
	}
	d.Eject()
	if got := do(t, d, tur, scsi.Data{}); got != "2/3a/02" {
		t.Errorf("with the tray open: %s", got)
	}
	d.Load()
	if got := do(t, d, tur, scsi.Data{}); got != "2/04/01" {
		t.Errorf("after loading: %s", got)
	}
	d.Wait(t.Context(), 8*time.Second)
	if got := do(t, d, tur, scsi.Data{}); got != "6/28/00" {
		t.Errorf("after spinning up: %s", got)
	}
}

func TestNoDisc(t *testing.T) {
	c := small
	c.Empty = true
	d, _ := newDrive(t, c)
	do(t, d, tur, scsi.Data{})
	for _, cdb := range []string{tur, "25 000000000000000000", "51 000000000000002200", "2a 00 00000000 00 0000 00", "28 00 00000000 00 0000 00"} {
		if got := do(t, d, cdb, scsi.Data{}); got != "2/3a/01" {
			t.Errorf("%s: %s", cdb, got)
		}
	}
	d.Load()
	settle(t, d)
	if d.Status().Disc != blank {
		t.Error("the disc that was put in is not blank")
	}
}

// What a drive refuses in writing, in the order in which a careless program
// would come across it.
func TestWriteRefusals(t *testing.T) {
	d, dir := newDrive(t, small)
	settle(t, d)
	p := payload(300)
	step := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	_, got := read(d, 0, 1)
	step("read of a blank disc", got, "5/21/00")
	step("write before setup", write(d, 0, p[:blockSize]), "5/64/00")
	setup(t, d, mmc.WriteSAO, 0, true)
	step("disc at once without a reservation", write(d, 0, p[:blockSize]), "5/2c/00")
	step("reservation beyond the disc", do(t, d, "53 00 00 00 00 00000101 00", scsi.Data{}), "5/21/00")
	step("reservation", do(t, d, "53 00 00 00 00 00000080 00", scsi.Data{}), "")
	step("second reservation", do(t, d, "53 00 00 00 00 00000080 00", scsi.Data{}), "5/2c/00")
	step("not at the beginning", write(d, 16, p[:16*blockSize]), "5/21/02")
	step("past the end", write(d, 250, p[:16*blockSize]), "5/21/00")
	if d.Status().Disc != blank {
		t.Fatal("the disc is not blank after refused writes")
	}
	step("first", write(d, 0, p[:32*blockSize]), "")
	if d.Status().Disc != incomplete {
		t.Fatal("the disc is blank after a write")
	}
	step("overwrite", write(d, 0, p[:32*blockSize]), "5/21/02")
	step("a gap", write(d, 48, p[48*blockSize:64*blockSize]), "5/21/02")
	step("other parameters in mid-burn", do(t, d, "55 10 00 00 00 00 00 00 3c 00", scsi.Data{Out: append(make([]byte, 8), pageBytes(d)...)}), "5/2c/00")
	step("second", write(d, 32, p[32*blockSize:64*blockSize]), "")
	step("into a full buffer", write(d, 64, p[64*blockSize:128*blockSize]), "2/04/08")
	step("closing the session in mid-track", do(t, d, "5b 00 02 00 0000 00 00 00 00", scsi.Data{}), "5/72/03")
	d.Wait(t.Context(), time.Second)
	step("when it has drained", write(d, 64, p[64*blockSize:128*blockSize]), "")
	step("past the reservation", write(d, 128, p[128*blockSize:144*blockSize]), "5/63/00")
	step("flush", do(t, d, "35 00 00 00 00 00 00 00 00 00", scsi.Data{}), "")
	if st := d.Status(); st.Disc != complete || st.Recorded != 128 || st.Sessions != 1 {
		t.Fatalf("a disc at once is not closed by its last block: %+v", st)
	}
	step("write on a closed disc", write(d, 128, p[:blockSize]), "5/30/05")
	step("reservation on a closed disc", do(t, d, "53 00 00 00 00 00000080 00", scsi.Data{}), "5/30/05")
	b, got := read(d, 0, 128)
	step("read", got, "")
	if !bytes.Equal(b, p[:128*blockSize]) {
		t.Error("what was written reads differently")
	}
	_, got = read(d, 127, 2)
	step("read past the end", got, "5/21/00")
	if img, _ := os.ReadFile(filepath.Join(dir, imageFile)); !bytes.Equal(img, p[:128*blockSize]) {
		t.Errorf("disc.img has %d bytes and is not what was written", len(img))
	}
}

func pageBytes(d *Drive) []byte { return bytes.Clone(d.page[:]) }

func TestIncremental(t *testing.T) {
	d, _ := newDrive(t, Config{Capacity: 256, NoDAO: true})
	settle(t, d)
	p := payload(48)
	raw := make([]byte, 52)
	raw[0], raw[1] = 5, 50
	if got := short((&mmc.WriteParameters{WriteType: mmc.WriteSAO, DataBlockType: 8}).Store(t.Context(), d, raw)); got != "5/26/02" {
		t.Errorf("disc at once on a drive without it: %q", got)
	}
	setup(t, d, mmc.WriteIncremental, 3, true)
	if got := write(d, 0, p); got != "" {
		t.Fatal(got)
	}
	track, err := mmc.ReadTrackInformation{AddressType: 1, Address: 1}.Send(t.Context(), d)
	if err != nil || !track.NextWritableValid || track.NextWritable != 48 || track.Free != 208 || !track.Incremental {
		t.Errorf("%+v, %v", track, err)
	}
	if err := (mmc.CloseTrackSession{Function: mmc.CloseTrack, Track: 1}).Send(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if got := write(d, 32, p[:16*blockSize]); got != "5/21/02" {
		t.Errorf("write into a closed track: %q", got)
	}
	if err := (mmc.CloseTrackSession{Function: mmc.CloseSession}).Send(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	// Multi-session 3 leaves the disc open: that must show.
	disc, err := mmc.ReadDiscInformation{}.Send(t.Context(), d)
	if err != nil || disc.Status != mmc.DiscIncomplete || disc.LastSession != mmc.SessionEmpty || disc.Sessions != 2 {
		t.Errorf("%+v, %v", disc, err)
	}
}

// The clock: 16× is 22.16 MB/s, and a long operation says how far it is.
func TestClock(t *testing.T) {
	d, _ := newDrive(t, Config{Capacity: 1 << 16, Buffer: 32 << 20})
	settle(t, d)
	setup(t, d, mmc.WriteSAO, 0, true)
	do(t, d, "53 00 00 00 00 00002000 00", scsi.Data{})
	p := payload(8192)
	for lba := 0; lba < 8192; lba += 1024 {
		if got := write(d, uint32(lba), p[lba*blockSize:(lba+1024)*blockSize]); got != "" {
			t.Fatal(got)
		}
	}
	d.Wait(t.Context(), 100*time.Millisecond)
	before := d.Status().Recorded
	d.Wait(t.Context(), 250*time.Millisecond)
	got := int(d.Status().Recorded-before) * blockSize
	if want := 22160 * 250; got < want-64<<10 || got > want+64<<10 {
		t.Errorf("recorded %d bytes in 250 ms at 16x, want %d", got, want)
	}
	if got := do(t, d, "35 02 00 00 00 00 00 00 00 00", scsi.Data{}); got != "" {
		t.Fatal(got)
	}
	d.Wait(t.Context(), 5*time.Second)
	err := mmc.TestUnitReady{}.Send(t.Context(), d)
	var s *scsi.SenseError
	if !errors.As(err, &s) || s.Code() != scsi.LongWriteInProgress || !s.ProgressValid || s.Progress == 0 {
		t.Errorf("in the middle of closing: %v, %+v", err, s)
	}
	if d.Status().Disc != incomplete {
		t.Error("closed before its time")
	}
	d.Wait(t.Context(), time.Minute)
	if got := do(t, d, tur, scsi.Data{}); got != "" || d.Status().Disc != complete {
		t.Errorf("after closing: %q, %s", got, d.Status().Disc)
	}
	// A command that takes longer than it may ends at its limit.
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	d.Inject(Fault{Command: "read", Action: Slow, Delay: time.Minute})
	begun := d.Now()
	_, err = d.Do(ctx, []byte{0x28, 0, 0, 0, 0, 0, 0, 0, 100, 0}, scsi.Data{In: p[:100*blockSize]})
	if !errors.Is(err, scsi.ErrTimeout) {
		t.Errorf("100 minutes in an hour: %v", err)
	}
	if took := d.Now().Sub(begun); took < 59*time.Minute || took > 61*time.Minute {
		t.Errorf("took %v", took)
	}
}

// Without underrun protection a laser that has nothing to write loses the disc.
func TestUnderrun(t *testing.T) {
	for _, bufe := range []bool{true, false} {
		d, _ := newDrive(t, small)
		settle(t, d)
		setup(t, d, mmc.WriteSAO, 0, bufe)
		do(t, d, "53 00 00 00 00 00000080 00", scsi.Data{})
		p := payload(64)
		write(d, 0, p[:32*blockSize])
		d.Wait(t.Context(), time.Second)
		d.Wait(t.Context(), time.Second)
		want := ""
		if !bufe {
			want = "3/0c/09"
		}
		if got := write(d, 32, p[32*blockSize:]); got != want {
			t.Errorf("protected %v: %q, want %q", bufe, got, want)
		}
	}
}

func TestTray(t *testing.T) {
	d, _ := newDrive(t, small)
	settle(t, d)
	do(t, d, "1e 00 00 00 01 00", scsi.Data{})
	if got := do(t, d, "1b 00 00 00 02 00", scsi.Data{}); got != "5/53/02" {
		t.Errorf("eject while locked: %q", got)
	}
	if d.Eject() {
		t.Error("the button opens a locked tray")
	}
	do(t, d, "1e 00 00 00 00 00", scsi.Data{})
	if got := do(t, d, "1b 00 00 00 02 00", scsi.Data{}); got != "" || !d.Status().TrayOpen {
		t.Errorf("eject: %q", got)
	}
	e, err := mmc.GetEventStatus{}.Send(t.Context(), d)
	if err != nil || !e.TrayOpen || e.Present {
		t.Errorf("event %+v, %v", e, err)
	}
	if got := do(t, d, "1b 00 00 00 03 00", scsi.Data{}); got != "" {
		t.Errorf("load: %q", got)
	}
	if got := do(t, d, tur, scsi.Data{}); got != "6/28/00" {
		t.Errorf("after loading: %q", got)
	}
	c := small
	c.NoLoad = true
	d, _ = newDrive(t, c)
	settle(t, d)
	d.Eject()
	if got := do(t, d, "1b 00 00 00 03 00", scsi.Data{}); got != "5/24/00" {
		t.Errorf("load of a tray without a motor: %q", got)
	}
}
