package drivesim

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// reply sends a CDB in hex and returns what comes back, in hex, or the sense.
func reply(t testing.TB, d *Drive, cdb string, size int) string {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(cdb, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	in := make([]byte, size)
	n, err := d.Do(t.Context(), b, scsi.Data{In: in})
	if err != nil {
		return short(err)
	}
	return hex.EncodeToString(in[:n])
}

// tell says in a line what the drive tells about disc and tracks.
func tell(t testing.TB, d *Drive) string {
	t.Helper()
	disc, err := mmc.ReadDiscInformation{}.Send(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	s := fmt.Sprintf("disc %d, last session %d of %d with tracks %d to %d", disc.Status, disc.LastSession, disc.Sessions, disc.LastFirst, disc.LastLast)
	for n := 1; n <= int(disc.LastLast); n++ {
		tr, err := mmc.ReadTrackInformation{AddressType: 1, Address: uint32(n)}.Send(t.Context(), d)
		if err != nil {
			return s + fmt.Sprintf("; track %d: %s", n, short(err))
		}
		s += fmt.Sprintf("; %d/%d at %d", tr.Track, tr.Session, tr.Start)
		if tr.NextWritableValid {
			s += fmt.Sprintf(" next %d free %d", tr.NextWritable, tr.Free)
		}
		if tr.LastRecordedValid {
			s += fmt.Sprintf(" last %d", tr.LastRecorded)
		}
		s += fmt.Sprintf(" size %d", tr.Size)
	}
	return s
}

func closing(t testing.TB, d *Drive, function byte, track uint16) string {
	t.Helper()
	return short(mmc.CloseTrackSession{Function: function, Track: track}.Send(t.Context(), d))
}

// Two sessions on each medium: what the drive tells after every step, and what
// can be read.
func TestSessions(t *testing.T) {
	for _, tt := range []struct {
		profile mmc.Profile
		page    byte // FFh: none
		told    [6]string
		final   byte // close function that ends the disc
		toc     string
		session string
		gap     uint32 // an LBA that lies between the sessions
	}{
		{mmc.DVDR, mmc.WriteIncremental, [6]string{
			"disc 0, last session 0 of 1 with tracks 1 to 1; 1/1 at 0 next 0 free 40000 size 40000",
			"disc 1, last session 1 of 1 with tracks 1 to 1; 1/1 at 0 next 48 free 39952 last 47 size 40000",
			"disc 1, last session 1 of 1 with tracks 1 to 2; 1/1 at 0 last 47 size 48; 2/1 at 48 next 48 free 39952 size 39952",
			"disc 1, last session 0 of 2 with tracks 2 to 2; 1/1 at 0 last 47 size 48; 2/2 at 12336 next 12336 free 27664 size 27664",
			"disc 1, last session 0 of 3 with tracks 3 to 3; 1/1 at 0 last 47 size 48; 2/2 at 12336 last 12351 size 16; 3/3 at 16448 next 16448 free 23552 size 23552",
			"disc 2, last session 3 of 3 with tracks 3 to 3; 1/1 at 0 last 47 size 48; 2/2 at 12336 last 12351 size 16; 3/3 at 16448 last 16463 size 16",
		}, 2, "00220103 0014010000000000 0014020000003030 0014030000004040 0014aa0000004050", "000a01030014030000004040", 48},
		{mmc.DVDPlusR, 0xFF, [6]string{
			"disc 0, last session 0 of 1 with tracks 1 to 1; 1/1 at 0 next 0 free 40000 size 40000",
			"disc 1, last session 1 of 1 with tracks 1 to 1; 1/1 at 0 next 48 free 39952 last 47 size 40000",
			"disc 1, last session 1 of 1 with tracks 1 to 2; 1/1 at 0 last 47 size 48; 2/1 at 48 next 48 free 39952 size 39952",
			"disc 1, last session 0 of 2 with tracks 2 to 2; 1/1 at 0 last 47 size 48; 2/2 at 2096 next 2096 free 37904 size 37904",
			"disc 1, last session 0 of 3 with tracks 3 to 3; 1/1 at 0 last 47 size 48; 2/2 at 2096 last 2111 size 16; 3/3 at 4160 next 4160 free 35840 size 35840",
			"disc 2, last session 3 of 3 with tracks 3 to 3; 1/1 at 0 last 47 size 48; 2/2 at 2096 last 2111 size 16; 3/3 at 4160 last 4175 size 16",
		}, 6, "00220103 0014010000000000 0014020000000830 0014030000001040 0014aa0000001050", "000a01030014030000001040", 48},
		{mmc.CDR, mmc.WriteTAO, [6]string{
			"disc 0, last session 0 of 1 with tracks 1 to 1; 1/1 at 0 next 0 free 40000 size 40000",
			"disc 1, last session 1 of 1 with tracks 1 to 1; 1/1 at 0 next 41 free 39959 last 40 size 40000",
			"disc 1, last session 1 of 1 with tracks 1 to 2; 1/1 at 0 last 40 size 43; 2/1 at 193 next 193 free 39807 size 39807",
			"disc 1, last session 0 of 2 with tracks 2 to 2; 1/1 at 0 last 40 size 43; 2/2 at 11443 next 11443 free 28557 size 28557",
			"disc 1, last session 0 of 3 with tracks 3 to 3; 1/1 at 0 last 40 size 43; 2/2 at 11443 last 11451 size 11; 3/3 at 18354 next 18354 free 21646 size 21646",
			"disc 2, last session 3 of 3 with tracks 3 to 3; 1/1 at 0 last 40 size 43; 2/2 at 11443 last 11451 size 11; 3/3 at 18354 last 18362 size 11",
		}, 2, "00220103 0014010000000000 0014020000002cb3 00140300000047b2 0014aa00000047bd", "000a010300140300000047b2", 41},
		{mmc.BDR, 0xFF, [6]string{
			"disc 0, last session 0 of 1 with tracks 1 to 1; 1/1 at 0 next 0 free 40000 size 40000",
			"disc 1, last session 1 of 1 with tracks 1 to 1; 1/1 at 0 next 64 free 39936 last 63 size 40000",
			"disc 1, last session 1 of 1 with tracks 1 to 2; 1/1 at 0 last 63 size 64; 2/1 at 64 next 64 free 39936 size 39936",
			"disc 1, last session 0 of 2 with tracks 2 to 2; 1/1 at 0 last 63 size 64; 2/2 at 96 next 96 free 39904 size 39904",
			"disc 1, last session 0 of 3 with tracks 3 to 3; 1/1 at 0 last 63 size 64; 2/2 at 96 last 127 size 32; 3/3 at 160 next 160 free 39840 size 39840",
			"disc 2, last session 3 of 3 with tracks 3 to 3; 1/1 at 0 last 63 size 64; 2/2 at 96 last 127 size 32; 3/3 at 160 last 191 size 32",
		}, 6, "00220103 0014010000000000 0014020000000060 00140300000000a0 0014aa00000000c0", "000a010300140300000000a0", 64},
	} {
		t.Run(tt.profile.String(), func(t *testing.T) {
			d, dir := newDrive(t, Config{Profile: tt.profile, Capacity: 40000, SpinUp: time.Second})
			settle(t, d)
			parameters := func(multi byte) {
				if tt.page != 0xFF {
					setup(t, d, tt.page, multi, true)
				}
			}
			step := func(i int) {
				t.Helper()
				if got := tell(t, d); got != tt.told[i] {
					t.Errorf("step %d:\n got %s\nwant %s", i, got, tt.told[i])
				}
			}
			must := func(got string) {
				t.Helper()
				if got != "" {
					t.Fatal(got)
				}
			}
			p := payload(41)
			parameters(3)
			step(0)
			must(write(d, 0, p))
			must(do(t, d, "35 00 00 00 00 00 00 00 00 00", scsi.Data{}))
			step(1)
			must(closing(t, d, mmc.CloseTrack, 1))
			step(2)
			must(closing(t, d, mmc.CloseSession, 0))
			step(3)
			second := d.views()[1].start
			must(write(d, second, p[:9*blockSize]))
			must(closing(t, d, mmc.CloseTrack, 2))
			must(closing(t, d, mmc.CloseSession, 0))
			step(4)
			third := d.views()[2].start
			must(write(d, third, p[9*blockSize:18*blockSize]))
			must(closing(t, d, mmc.CloseTrack, 3))
			parameters(0)
			must(closing(t, d, tt.final, 0))
			step(5)
			if got, want := reply(t, d, "43 00 00 00 00 00 00 03 24 00", 0x324), strings.ReplaceAll(tt.toc, " ", ""); got != want {
				t.Errorf("toc %s, want %s", got, want)
			}
			if got := reply(t, d, "43 00 01 00 00 00 00 00 0c 00", 12); got != tt.session {
				t.Errorf("sessions %s, want %s", got, tt.session)
			}
			d.Close()
			d, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			settle(t, d)
			step(5)
			for _, part := range []struct {
				lba, from, blocks int
			}{{0, 0, 41}, {int(second), 0, 9}, {int(third), 9, 9}} {
				b, got := read(d, uint32(part.lba), part.blocks)
				if got != "" || !bytes.Equal(b, p[part.from*blockSize:(part.from+part.blocks)*blockSize]) {
					t.Errorf("LBA %d reads differently: %q", part.lba, got)
				}
			}
			if _, got := read(d, tt.gap, 1); got != "3/11/00" {
				t.Errorf("LBA %d between the sessions: %q", tt.gap, got)
			}
			if got := write(d, third+64, p[:blockSize]); got != "5/30/05" {
				t.Errorf("write on a finalised disc: %q", got)
			}
		})
	}
}

// What is written incrementally ends in a whole ECC block of zeros.
func TestPadding(t *testing.T) {
	for profile, unit := range map[mmc.Profile]int{mmc.DVDPlusR: 16, mmc.BDR: 32} {
		d, _ := newDrive(t, Config{Profile: profile, Capacity: 256})
		settle(t, d)
		p := payload(5)
		write(d, 0, p)
		do(t, d, "35 00 00 00 00 00 00 00 00 00", scsi.Data{})
		if got := write(d, 5, p); got != "5/21/02" {
			t.Errorf("%v: write into the padding: %q", profile, got)
		}
		b, got := read(d, 0, unit)
		if want := append(bytes.Clone(p), make([]byte, (unit-5)*blockSize)...); got != "" || !bytes.Equal(b, want) {
			t.Errorf("%v: padded otherwise than with zeros: %q", profile, got)
		}
		if _, got := read(d, uint32(unit), 1); got != "5/21/00" {
			t.Errorf("%v: more than a block of padding: %q", profile, got)
		}
	}
}

// A reserved track has its size, whatever is written in it.
func TestReserve(t *testing.T) {
	d, _ := newDrive(t, Config{Profile: mmc.DVDPlusR, Capacity: 256})
	settle(t, d)
	p := payload(64)
	if got := do(t, d, "53 00 00 00 00 00000064 00", scsi.Data{}); got != "" {
		t.Fatal(got)
	}
	want := "disc 1, last session 1 of 1 with tracks 1 to 2; 1/1 at 0 next 0 free 112 size 112; 2/1 at 112 next 112 free 144 size 144"
	if got := tell(t, d); got != want {
		t.Errorf("reserved:\n got %s\nwant %s", got, want)
	}
	if got := write(d, 112, p[:32*blockSize]); got != "" {
		t.Errorf("behind the reserved track: %q", got)
	}
	if got := write(d, 0, p[:32*blockSize]); got != "" {
		t.Errorf("in the reserved track: %q", got)
	}
	if got := write(d, 32, make([]byte, 96*blockSize)); got != "5/63/00" {
		t.Errorf("over its end: %q", got)
	}
	if got := closing(t, d, 6, 0); got != "5/72/03" {
		t.Errorf("finalising with open tracks: %q", got)
	}
	for track := range uint16(2) {
		if got := closing(t, d, 1, track+1); got != "" {
			t.Errorf("closing track %d: %q", track+1, got)
		}
	}
	if got := closing(t, d, 6, 0); got != "" || d.Status().Disc != complete {
		t.Errorf("finalising: %q", got)
	}
	if b, got := read(d, 0, 112); got != "" || !bytes.Equal(b, append(bytes.Clone(p[:32*blockSize]), make([]byte, 80*blockSize)...)) {
		t.Errorf("the reserved track reads differently: %q", got)
	}
	if b, got := read(d, 112, 32); got != "" || !bytes.Equal(b, p[:32*blockSize]) {
		t.Errorf("the track behind it reads differently: %q", got)
	}
	d, _ = newDrive(t, Config{Profile: mmc.DVDPlusR, Capacity: 256, NoReserve: true})
	settle(t, d)
	if got := do(t, d, "53 00 00 00 00 00000064 00", scsi.Data{}); got != "5/20/00" {
		t.Errorf("a drive without the command: %q", got)
	}
}

// cue is a cue sheet in hex.
func cue(t testing.TB, d *Drive, lines string) string {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(lines, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	cdb := []byte{0x5D, 0, 0, 0, 0, 0, byte(len(b) >> 16), byte(len(b) >> 8), byte(len(b)), 0}
	_, err = d.Do(t.Context(), cdb, scsi.Data{Out: b})
	return short(err)
}

const (
	leadIn  = "4100001400000000"
	pause   = "4101001000000000"
	first   = "4101011000000200"
	leadOut = "41aa011400000300" // 00:03:00: 75 blocks
)

func TestCueSheet(t *testing.T) {
	d, dir := newDrive(t, Config{Profile: mmc.CDR, Capacity: 30000})
	settle(t, d)
	if got := cue(t, d, leadIn+pause+first+leadOut); got != "5/64/00" {
		t.Errorf("before page 05h says so: %q", got)
	}
	setup(t, d, mmc.WriteSAO, 3, true)
	for _, tt := range []struct{ name, sheet, want string }{
		{"empty", "", "5/26/00"},
		{"no whole line", leadIn + "41", "5/1a/00"},
		{"no lead-in", pause + first + leadOut, "5/26/00"},
		{"no lead-out", leadIn + pause + first, "5/26/00"},
		{"no track", leadIn + leadOut, "5/26/00"},
		{"no index 1", leadIn + pause + leadOut, "5/26/00"},
		{"track 2 first", leadIn + "4102011000000200" + leadOut, "5/26/00"},
		{"raw blocks", leadIn + pause + "4101011100000200" + leadOut, "5/26/00"},
		{"audio", leadIn + "0101000000000000" + "0101010000000200" + leadOut, "5/26/00"},
		{"lead-out before the track", leadIn + pause + first + "41aa011400000100", "5/26/00"},
		{"lead-out at the track", leadIn + pause + first + "41aa011400000200", "5/26/00"},
		{"not from LBA 0", leadIn + pause + "4101011000000300" + "41aa011400000400", "5/26/00"},
		{"past the end", leadIn + pause + first + "41aa011400064800", "5/21/00"},
		{"good", leadIn + pause + first + leadOut, ""},
		{"again", leadIn + pause + first + leadOut, ""},
	} {
		if got := cue(t, d, tt.sheet); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if d.Status().Disc != blank {
		t.Error("a cue sheet marks the disc")
	}
	p := payload(75)
	minus := func(n int32) uint32 { return uint32(-n) }
	if got := write(d, 0, p[:blockSize]); got != "5/21/02" {
		t.Errorf("without the pause: %q", got)
	}
	for lba := int32(-150); lba < 0; lba += 30 {
		if got := write(d, uint32(lba), make([]byte, 30*blockSize)); got != "" {
			t.Fatalf("LBA %d: %q", lba, got)
		}
	}
	if got := write(d, minus(150), p[:blockSize]); got != "5/21/02" {
		t.Errorf("the pause again: %q", got)
	}
	if got := write(d, 0, p); got != "" {
		t.Fatal(got)
	}
	if got := write(d, 75, p[:blockSize]); got != "5/63/00" {
		t.Errorf("behind the lead-out: %q", got)
	}
	if got := do(t, d, "35 00 00 00 00 00 00 00 00 00", scsi.Data{}); got != "" {
		t.Fatal(got)
	}
	want := "disc 1, last session 0 of 2 with tracks 2 to 2; 1/1 at 0 last 74 size 75; 2/2 at 11475 next 11475 free 18525 size 18525"
	if got := tell(t, d); got != want {
		t.Errorf("after the first session:\n got %s\nwant %s", got, want)
	}
	// The second, with a track behind the track; 11,475 is 02:35:00.
	setup(t, d, mmc.WriteSAO, 0, true)
	if got := cue(t, d, leadIn+"4102001000022100"+"4102011000022300"+"4103011000022400"+"41aa011400022500"); got != "" {
		t.Fatal(got)
	}
	if got := write(d, 11325, make([]byte, 150*blockSize)); got != "" {
		t.Fatal(got)
	}
	if got := write(d, 11475, append(bytes.Clone(p), p...)); got != "" {
		t.Fatal(got)
	}
	if got := do(t, d, "35 00 00 00 00 00 00 00 00 00", scsi.Data{}); got != "" {
		t.Fatal(got)
	}
	want = "disc 2, last session 3 of 2 with tracks 2 to 3; 1/1 at 0 last 74 size 75; 2/2 at 11475 last 11549 size 75; 3/2 at 11550 last 11624 size 75"
	if got := tell(t, d); got != want {
		t.Errorf("after the second session:\n got %s\nwant %s", got, want)
	}
	d.Close()
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	settle(t, d)
	for _, lba := range []uint32{0, 11475, 11550} {
		if b, got := read(d, lba, 75); got != "" || !bytes.Equal(b, p) {
			t.Errorf("LBA %d reads differently: %q", lba, got)
		}
	}
	// READ CD gives the same, and the full table of contents both sessions.
	in := make([]byte, 75*blockSize)
	if _, err := d.Do(t.Context(), []byte{0xBE, 0, 0, 0, 0, 0, 0, 0, 75, 0x10, 0, 0}, scsi.Data{In: in}); err != nil || !bytes.Equal(in, p) {
		t.Errorf("READ CD: %v", err)
	}
	full := "007b 0102" +
		"011400a0000000 00 010000" + "011400a1000000 00 010000" + "011400a2000000 00 000300" + "01140001000000 00 000200" +
		"015400b0022100 02 062a02" + "015400c0000000 00 610f11" +
		"021400a0000000 00 020000" + "021400a1000000 00 030000" + "021400a2000000 00 022500" + "02140002000000 00 022300" + "02140003000000 00 022400"
	full = strings.ReplaceAll(full, " ", "")
	got := reply(t, d, "43 02 02 00 00 00 00 08 00 00", 0x800)
	if got != full {
		t.Errorf("full toc\n got %s\nwant %s", got, full)
	}
}

// A session at once that breaks off is lost.
func TestCutOff(t *testing.T) {
	d, dir := newDrive(t, Config{Profile: mmc.CDR, Capacity: 30000})
	settle(t, d)
	setup(t, d, mmc.WriteSAO, 0, true)
	if got := cue(t, d, leadIn+first+leadOut); got != "" {
		t.Fatal(got)
	}
	if got := write(d, 0, payload(20)); got != "" {
		t.Fatal(got)
	}
	d.Wait(t.Context(), time.Second)
	for what, d := range map[string]*Drive{"after a crash": crash(t, dir), "after the power was off": d} {
		d.Replug()
		settle(t, d)
		setup(t, d, mmc.WriteTAO, 0, true)
		if got := write(d, 20, payload(1)); got != "5/63/00" {
			t.Errorf("%s it goes on: %q", what, got)
		}
		track, err := mmc.ReadTrackInformation{AddressType: 1, Address: 1}.Send(t.Context(), d)
		if err != nil || !track.Damage || track.NextWritableValid {
			t.Errorf("%s: %+v, %v", what, track, err)
		}
	}
}
