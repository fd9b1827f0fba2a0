package drivesim

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// FORMAT UNIT on BD-R, as growisofs sends it and without overwriting.
func TestFormat(t *testing.T) {
	for _, overwrite := range []bool{true, false} {
		d, dir := newDrive(t, Config{Profile: mmc.BDR})
		settle(t, d)
		want := "00000020 00ba740001000800 00b47400 00000000 00b47400 c8000000 00b87400 c8000000"
		if got := reply(t, d, "23 00 00 00 00 00 00 00 fc 00", 252); got != strings.ReplaceAll(want, " ", "") {
			t.Errorf("capacities\n got %s\nwant %s", got, want)
		}
		format := func(list string) string {
			b, err := hex.DecodeString(strings.ReplaceAll(list, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			return do(t, d, "04 11 00 00 00 00", scsi.Data{Out: b})
		}
		for _, bad := range []string{"", "00020008", "00020008 00b87400 c8000000 00", "00020007 00b87400 c8000000", "00020008 00ba7401 c8000000",
			"00020008 00b87401 c8000000", "00020008 00b87400 ca000000", "00020008 00b87400 98000000", "00020008 00000000 c8000000"} {
			if got := format(bad); got != "5/26/00" {
				t.Errorf("list %q: %q", bad, got)
			}
		}
		subtype := "c8"
		if !overwrite {
			subtype = "c9"
		}
		if got := format("00020008 00b87400 " + subtype + "000000"); got != "" {
			t.Fatal(got)
		}
		if got := do(t, d, tur, scsi.Data{}); got != "2/04/04" {
			t.Errorf("while formatting: %q", got)
		}
		d.Wait(t.Context(), time.Minute)
		if got := format("00020008 00b87400 c8000000"); got != "5/30/06" {
			t.Errorf("twice: %q", got)
		}
		config, err := mmc.GetConfiguration{}.Send(t.Context(), d)
		if err != nil || config.Current(0x38) != overwrite {
			t.Errorf("overwriting %v: feature 38h is %v, %v", overwrite, config.Current(0x38), err)
		}
		if st := d.Status(); st.Disc != blank || st.Capacity != 12088320 || st.Free != 12088320 {
			t.Errorf("%+v", st)
		}
		p := payload(64)
		if got := write(d, 0, p); got != "" {
			t.Fatal(got)
		}
		if got := closing(t, d, 1, 1); got != "" {
			t.Fatal(got)
		}
		refused := ""
		if !overwrite {
			refused = "5/21/02"
		}
		if got := write(d, 32, p[:32*blockSize]); got != refused {
			t.Errorf("overwriting %v: %q", overwrite, got)
		}
		if overwrite {
			copy(p[32*blockSize:], p[:32*blockSize])
		}
		d.Close()
		d, err = Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		settle(t, d)
		if b, got := read(d, 0, 64); got != "" || !bytes.Equal(b, p) {
			t.Errorf("overwriting %v: reads differently: %q", overwrite, got)
		}
		d.Close()
	}
	d, _ := newDrive(t, small)
	settle(t, d)
	if got := do(t, d, "04 11 00 00 00 00", scsi.Data{Out: make([]byte, 12)}); got != "5/30/06" {
		t.Errorf("a DVD-R: %q", got)
	}
}

// A pressed disc is complete and can't be written.
func TestPressed(t *testing.T) {
	d, _ := newDrive(t, Config{Profile: mmc.DVDROM, Capacity: 100})
	settle(t, d)
	want := "disc 2, last session 3 of 1 with tracks 1 to 1; 1/1 at 0 last 99 size 100"
	if got := tell(t, d); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if b, got := read(d, 0, 100); got != "" || !bytes.Equal(b, make([]byte, 100*blockSize)) {
		t.Errorf("reading: %q", got)
	}
	for _, cdb := range []string{"54 01 00 00 00 00 00 00 00 00", "5b 00 02 00 00 00 00 00 00 00"} {
		if got := do(t, d, cdb, scsi.Data{}); got != "5/30/05" {
			t.Errorf("%s: %q", cdb, got)
		}
	}
	if got := write(d, 100, payload(1)); got != "5/30/05" {
		t.Errorf("writing: %q", got)
	}
}

// READ and WRITE with 12 bytes, VERIFY and WRITE AND VERIFY.
func TestLongCommands(t *testing.T) {
	d, _ := newDrive(t, Config{Profile: mmc.DVDPlusR, Capacity: 256})
	settle(t, d)
	p := payload(48)
	cdb := func(op byte, lba, n uint32) []byte {
		b := make([]byte, 12)
		b[0] = op
		binary.BigEndian.PutUint32(b[2:], lba)
		binary.BigEndian.PutUint32(b[6:], n)
		return b
	}
	if _, err := d.Do(t.Context(), cdb(0xAA, 0, 32), scsi.Data{Out: p[:32*blockSize]}); err != nil {
		t.Fatal(err)
	}
	if got := do(t, d, "2e 00 00000020 00 0010 00", scsi.Data{Out: p[32*blockSize:]}); got != "" {
		t.Fatal(got)
	}
	closing(t, d, 1, 1)
	in := make([]byte, 48*blockSize)
	if _, err := d.Do(t.Context(), cdb(0xA8, 0, 48), scsi.Data{In: in}); err != nil || !bytes.Equal(in, p) {
		t.Errorf("READ(12): %v", err)
	}
	if _, err := d.Do(t.Context(), cdb(0xA8, 0, 1<<31), scsi.Data{In: in}); err == nil {
		t.Error("READ(12) of 4 TB into little room")
	}
	if got := do(t, d, "2f 00 00000000 00 0030 00", scsi.Data{}); got != "" {
		t.Errorf("VERIFY: %q", got)
	}
	if got := do(t, d, "2f 00 00000000 00 0031 00", scsi.Data{}); got != "5/21/00" {
		t.Errorf("VERIFY past the end: %q", got)
	}
}
