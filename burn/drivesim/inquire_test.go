package drivesim

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

var media = []mmc.Profile{mmc.DVDR, mmc.DVDPlusR, mmc.CDR, mmc.BDR}

// Which features are current with which medium, blank, begun and closed.
func TestFeatures(t *testing.T) {
	for _, tt := range []struct {
		config      Config
		profile     mmc.Profile
		blank, done string // beside those that are always current
	}{
		{Config{}, mmc.DVDR, "1f 21 2f 107", "10 1f 107"},
		{Config{NoDAO: true}, mmc.DVDR, "1f 21 107", "10 1f 107"},
		{Config{}, mmc.DVDPlusR, "1f 2b 107", "10 1f 2b 107"},
		{Config{}, mmc.CDR, "1d 1e 2d 2e 107", "10 1d 1e 107"},
		{Config{NoDAO: true}, mmc.CDR, "1d 1e 2d 107", "10 1d 1e 107"},
		{Config{}, mmc.BDR, "40 41 107", "10 40 107"},
		{Config{Empty: true}, mmc.NoProfile, "", ""},
	} {
		c := tt.config
		c.Profile, c.Capacity, c.SpinUp = tt.profile, 256, time.Second
		d, _ := newDrive(t, c)
		for range 4 {
			do(t, d, tur, scsi.Data{})
			d.Wait(t.Context(), time.Second)
		}
		current := func() string {
			config, err := mmc.GetConfiguration{}.Send(t.Context(), d)
			if err != nil || config.Profile != tt.profile {
				t.Fatalf("%v: %v, %v", tt.profile, config, err)
			}
			var list []string
			for _, f := range config.Features {
				if f.Current && !slices.Contains([]uint16{0, 1, 2, 3, 0x100, 0x105, 0x108}, f.Code) {
					list = append(list, fmt.Sprintf("%x", f.Code))
				}
			}
			return strings.Join(list, " ")
		}
		if got := current(); got != tt.blank {
			t.Errorf("%v blank: %s, want %s", tt.profile, got, tt.blank)
		}
		if tt.profile == mmc.NoProfile {
			continue
		}
		if kinds[tt.profile].modes != nil {
			setup(t, d, kinds[tt.profile].modes[0], 0, true)
		}
		write(d, 0, payload(32))
		closing(t, d, 1, 1)
		closing(t, d, 2, 0)
		closing(t, d, 6, 0)
		if got := current(); got != tt.done {
			t.Errorf("%v closed: %s, want %s", tt.profile, got, tt.done)
		}
		if got := reply(t, d, "46 02 01 08 00 00 00 00 18 00", 24); len(got) < 32 || got[16:20] != "0108" {
			t.Errorf("%v: feature 0108h alone: %s", tt.profile, got)
		}
		if got := reply(t, d, "46 03 00 00 00 00 00 00 18 00", 24); got != "5/24/00" {
			t.Errorf("request type 3: %s", got)
		}
	}
}

func TestModePages(t *testing.T) {
	d, _ := newDrive(t, Config{Profile: mmc.DVDPlusR, Capacity: 256, SpinUp: time.Second})
	settle(t, d)
	for _, tt := range []struct{ cdb, want string }{
		{"1a 00 01 00 ff 00", "0f000000 010a0020" + strings.Repeat("00", 8)},
		{"5a 08 01 00 00 00 00 00 ff 00", "0012000000000000 010a0020" + strings.Repeat("00", 8)},
		{"5a 08 41 00 00 00 00 00 ff 00", "0012000000000000 010affff" + strings.Repeat("00", 8)},
		{"5a 08 81 00 00 00 00 00 ff 00", "0012000000000000 010a0020" + strings.Repeat("00", 8)},
		{"5a 08 c1 00 00 00 00 00 ff 00", "5/39/00"},
		{"5a 08 30 00 00 00 00 00 ff 00", "5/24/00"},
		{"5a 08 0d 00 00 00 00 00 0c 00", "000e000000000000 0d06000d"},
		{"1a 00 2a 00 08 00", "3b000000 2a361b11"},
	} {
		if got := reply(t, d, tt.cdb, 255); got != strings.ReplaceAll(tt.want, " ", "") {
			t.Errorf("%s: %s, want %s", tt.cdb, got, tt.want)
		}
	}
	// All pages at once, each as long as it says.
	b, err := hex.DecodeString(reply(t, d, "5a 08 3f 00 00 00 00 02 00 00", 512))
	if err != nil || int(binary.BigEndian.Uint16(b))+2 != len(b) {
		t.Fatalf("page 3Fh: %d bytes, %v", len(b), err)
	}
	var codes []byte
	for p := b[8:]; len(p) > 0; p = p[2+int(p[1]):] {
		codes = append(codes, p[0])
	}
	if !bytes.Equal(codes, allPages) {
		t.Errorf("page 3Fh has % x", codes)
	}
	cap, err := mmc.ReadCapabilities(t.Context(), d)
	if err != nil || cap.Buffer != 2048 || cap.WriteSpeed != 22160 || !cap.WritesDVDR {
		t.Errorf("%+v, %v", cap, err)
	}
	send := func(cdb, list string) string {
		t.Helper()
		b, err := hex.DecodeString(strings.ReplaceAll(list, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		return do(t, d, cdb, scsi.Data{Out: b})
	}
	const ten, six = "55 10 00 00 00 00 00 00 14 00", "15 10 00 00 10 00"
	page := "010aff07" + strings.Repeat("00", 8)
	for _, tt := range []struct{ cdb, list, want string }{
		{ten, "0000000000000000" + page, ""},
		{six, "00000000" + page, ""},
		{"15 10 00 00 18 00", "00000008 0000000000000800" + page, ""},
		{"15 10 00 00 18 00", "00000008 0000000000000930" + page, "5/26/00"},
		{"15 10 00 00 0c 00", "00000008 0000000000000800", ""}, // the block size alone
		{six, "00000000" + page + "00", "5/1a/00"},
		{"15 10 00 00 00 00", "", ""},
		{"15 10 00 00 02 00", "0000", "5/1a/00"},
		{"15 00 00 00 10 00", "00000000" + page, "5/1a/00"},
		{six, "00000004" + page, "5/26/00"},
		{six, "00000000 010cff07" + strings.Repeat("00", 8), "5/1a/00"},
		{six, "00000000 2a0aff07" + strings.Repeat("00", 8), "5/26/00"},
		{six, "00000000 0108ff07" + strings.Repeat("00", 6) + "0000", "5/26/00"},
	} {
		if got := send(tt.cdb, tt.list); got != tt.want {
			t.Errorf("%s, %s: %q, want %q", tt.cdb, tt.list, got, tt.want)
		}
	}
	if got, want := reply(t, d, "1a 00 01 00 ff 00", 255), "0f000000010aff07"+strings.Repeat("00", 8); got != want {
		t.Errorf("page 01h after being set: %s, want %s", got, want)
	}
}

// Page 05h takes what the medium is written with, nothing else.
func TestWriteParameters(t *testing.T) {
	for _, tt := range []struct {
		profile mmc.Profile
		refused []byte
	}{
		{mmc.DVDR, []byte{mmc.WriteTAO, 3}},
		{mmc.DVDPlusR, []byte{3, 4}},
		{mmc.CDR, []byte{mmc.WriteIncremental, 3}},
	} {
		d, _ := newDrive(t, Config{Profile: tt.profile, SpinUp: time.Second})
		settle(t, d)
		for mode := range byte(5) {
			raw := append([]byte{5, 50}, make([]byte, 50)...)
			got := short((&mmc.WriteParameters{WriteType: mode, DataBlockType: 8, TrackMode: 5}).Store(t.Context(), d, raw))
			want := ""
			if slices.Contains(tt.refused, mode) || mode > 3 {
				want = "5/26/02"
			}
			if got != want {
				t.Errorf("%v, write type %d: %q, want %q", tt.profile, mode, got, want)
			}
		}
		raw := append([]byte{5, 50}, make([]byte, 50)...)
		for _, p := range []mmc.WriteParameters{{WriteType: kindOf(tt.profile).fallbackMode(), DataBlockType: 8, TestWrite: true},
			{WriteType: kindOf(tt.profile).fallbackMode(), DataBlockType: 0}} {
			if got := short(p.Store(t.Context(), d, raw)); got != "5/26/02" {
				t.Errorf("%v, %+v: %q", tt.profile, p, got)
			}
		}
	}
}

func (k *kind) fallbackMode() byte {
	if k.modes == nil {
		return mmc.WriteIncremental
	}
	return k.modes[0]
}

// The speeds that the drive offers, and what it makes of what it is told.
func TestSpeeds(t *testing.T) {
	for _, tt := range []struct {
		profile mmc.Profile
		config  int
		offered string
		asked   int
		got     int
	}{
		{mmc.DVDR, 0, "[22160 16620 11080 8310 5540 2770]", 12000, 11080},
		{mmc.DVDR, 5000, "[5000 2770]", 3000, 2770},
		{mmc.DVDPlusR, 0, "[22160 16620 11080 8310 5540 3324]", 1, 3324},
		{mmc.CDR, 0, "[8467 7056 5645 4234 2822 1411 706]", 0xFFFF, 8467},
		{mmc.BDR, 0, "[26973 17982 8991]", 18000, 17982},
	} {
		d, _ := newDrive(t, Config{Profile: tt.profile, Speed: tt.config, SpinUp: time.Second})
		settle(t, d)
		head := reply(t, d, "ac 00 00 00 00 00 00 00 00 01 03 00", 24)
		n := binary.BigEndian.Uint32(unhex(t, head[:8]))
		b := unhex(t, reply(t, d, "ac 00 00 00 00 00 00 00 00 40 03 00", 2048))
		if len(head) != 2*24 || int(n)+4 != len(b) {
			t.Errorf("%v: one descriptor is %d bytes, announced are %d, all are %d", tt.profile, len(head)/2, n+4, len(b))
		}
		var offered []uint32
		for p := b[8:]; len(p) >= 16; p = p[16:] {
			offered = append(offered, binary.BigEndian.Uint32(p[12:]))
		}
		if fmt.Sprint(offered) != tt.offered {
			t.Errorf("%v at %d: offers %v, want %s", tt.profile, tt.config, offered, tt.offered)
		}
		if err := (mmc.SetCDSpeed{Read: 0xFFFF, Write: uint16(tt.asked)}).Send(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		inEffect := unhex(t, reply(t, d, "ac 04 00 00 00 00 00 00 00 01 00 00", 24))
		page, err := mmc.ReadCapabilities(t.Context(), d)
		if err != nil || binary.BigEndian.Uint32(inEffect[20:]) != uint32(tt.got) || int(page.WriteSpeed) != tt.got {
			t.Errorf("%v, %d asked: %d in effect, page 2Ah says %+v, %v", tt.profile, tt.asked, binary.BigEndian.Uint32(inEffect[20:]), page, err)
		}
		if last := binary.BigEndian.Uint32(inEffect[16:]); last != kinds[tt.profile].capacity-1 {
			t.Errorf("%v: speed up to LBA %d", tt.profile, last)
		}
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

func TestStructures(t *testing.T) {
	for _, tt := range []struct {
		profile mmc.Profile
		cdb     string
		at      int // in the reply
		want    string
	}{
		{mmc.DVDR, "ad 00 00000000 00 00 0804 00 00", 0, "0802" + "0000" + "250f0100" + "00030000" + "0026127f"},
		{mmc.DVDR, "ad 00 00000000 00 0e 002c 00 00", 20, "03" + hex.EncodeToString([]byte("SALLYS")) + "00" + "04" + hex.EncodeToString([]byte("IM0001"))},
		{mmc.DVDR, "ad 00 00000000 00 11 0024 00 00", 0, "5/24/00"},
		{mmc.DVDR, "ad 01 00000000 00 00 0024 00 00", 0, "5/30/02"},
		{mmc.DVDR, "ad 00 00000000 00 ff 0024 00 00", 0, "001e0000" + "00400804" + "01400804"},
		{mmc.DVDPlusR, "ad 00 00000000 00 00 0024 00 00", 4, "a10f0200" + "00030000" + "0026053f"[:6] + "3f"},
		{mmc.DVDPlusR, "ad 00 00000000 00 11 0104 00 00", 23, hex.EncodeToString([]byte("SALLYSIM001")) + "01"},
		{mmc.DVDPlusR, "ad 00 00000000 00 0e 0024 00 00", 0, "5/24/00"},
		{mmc.BDR, "ad 01 00000000 00 00 1004 00 00", 0, "1002" + "0000" + "44490100"},
		{mmc.BDR, "ad 01 00000000 00 00 1004 00 00", 104, hex.EncodeToString([]byte("SLYSIMR01"))},
		{mmc.BDR, "ad 00 00000000 00 00 1004 00 00", 0, "5/30/02"},
		{mmc.BDR, "ad 01 00000000 00 0a 0010 00 00", 0, "000e0000" + "00000000" + "00000000" + "00000000"},
		{mmc.CDR, "ad 00 00000000 00 00 0804 00 00", 0, "5/30/02"},
	} {
		d, _ := newDrive(t, Config{Profile: tt.profile, SpinUp: time.Second})
		settle(t, d)
		got := reply(t, d, strings.ReplaceAll(tt.cdb, " ", ""), 8192)
		if len(got) > 2*tt.at && !strings.HasPrefix(got[2*tt.at:], tt.want) || len(got) <= 2*tt.at {
			t.Errorf("%v, %s: byte %d: %.80s, want %s", tt.profile, tt.cdb, tt.at, got[min(2*tt.at, len(got)):], tt.want)
		}
	}
}

// ATIP and the table of contents of a CD.
func TestCDAddresses(t *testing.T) {
	d, _ := newDrive(t, Config{Profile: mmc.CDR, SpinUp: time.Second})
	settle(t, d)
	if got, want := reply(t, d, "43 00 04 00 00 00 00 00 1c 00", 28), "001a0000"+"c0408000"+"610f1100"+"4f3b4700"; !strings.HasPrefix(got, want) {
		t.Errorf("atip %s, want %s", got, want)
	}
	for _, format := range []string{"00", "01", "02", "05"} {
		if got := reply(t, d, "43 00 "+format+" 00 00 00 00 00 1c 00", 28); got != "5/24/00" {
			t.Errorf("format %s of a blank disc: %s", format, got)
		}
	}
	setup(t, d, mmc.WriteTAO, 0, true)
	write(d, 0, payload(100))
	closing(t, d, 1, 1)
	if got := reply(t, d, "43 00 00 00 00 00 00 00 1c 00", 28); got != "5/24/00" {
		t.Errorf("toc before the session is closed: %s", got)
	}
	closing(t, d, 2, 0)
	for _, tt := range []struct{ cdb, want string }{
		{"43 00 00 00 00 00 00 00 ff 00", "0012 0101 00140100 00000000 0014aa00 00000066"},
		{"43 02 00 00 00 00 00 00 ff 00", "0012 0101 00140100 00000200 0014aa00 0000031b"},
		{"43 00 00 00 00 00 aa 00 ff 00", "000a 0101 0014aa00 00000066"},
		{"43 00 00 00 00 00 02 00 ff 00", "5/24/00"},
		{"43 00 00 00 00 00 00 00 ff 40", "000a 0101 00140100 00000000"},
		{"43 00 03 00 00 00 00 00 ff 00", "0002 0000"},
	} {
		if got := reply(t, d, tt.cdb, 255); got != strings.ReplaceAll(tt.want, " ", "") {
			t.Errorf("%s: %s, want %s", tt.cdb, got, tt.want)
		}
	}
	// The two blocks behind a track at once belong to it and can't be read.
	if c, err := (mmc.ReadCapacity{}).Send(t.Context(), d); err != nil || c.LastLBA != 101 {
		t.Errorf("%+v, %v", c, err)
	}
	if _, got := read(d, 100, 1); got != "3/11/00" {
		t.Errorf("run-out: %q", got)
	}
	in := make([]byte, 10*blockSize)
	if n, err := d.Do(t.Context(), []byte{0x28, 0, 0, 0, 0, 95, 0, 0, 7, 0}, scsi.Data{In: in}); n != 5*blockSize || short(err) != "3/11/00" ||
		!bytes.Equal(in[:n], payload(100)[95*blockSize:]) {
		t.Errorf("over the run-out: %d bytes, %v", n, err)
	}
	for cdb, want := range map[string]string{
		"be 00 00000000 000001 f8 00 00": "5/24/00", // raw
		"be 04 00000000 000001 10 00 00": "5/24/00", // audio
		"be 08 00000000 000000 10 00 00": "",
	} {
		if got := reply(t, d, strings.ReplaceAll(cdb, " ", ""), 2352); got != want {
			t.Errorf("%s: %s, want %s", cdb, got, want)
		}
	}
}

func TestVitalProductData(t *testing.T) {
	d, _ := newDrive(t, Config{})
	serial := hex.EncodeToString([]byte(d.st.Drive.Serial))
	for _, tt := range []struct{ cdb, want string }{
		{"12 01 00 00 ff 00", "05000003008083"},
		{"12 01 80 00 ff 00", "0580000f" + serial},
		{"12 01 83 00 ff 00", "0583002b02010027" + hex.EncodeToString([]byte(pad(Vendor, 8)+pad(Product, 16))) + serial},
		{"12 01 b0 00 ff 00", "5/24/00"},
		{"12 00 80 00 ff 00", "5/24/00"},
	} {
		if got := reply(t, d, tt.cdb, 255); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.cdb, got, tt.want)
		}
	}
}

// What happens to the tray is told once, to whoever asks for it.
func TestEvents(t *testing.T) {
	d, _ := newDrive(t, Config{SpinUp: time.Second})
	event := func(classes byte) string {
		return reply(t, d, fmt.Sprintf("4a 01 00 00 %02x 00 00 00 08 00", classes), 8)
	}
	step := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	step("before the disc is ready", event(0x10), "0006047e00020000")
	settle(t, d)
	step("when it is", event(0x7E), "0006047e02020000")
	step("again", event(0x7E), "0006017e00000000")
	do(t, d, "1e 00 00 00 01 00", scsi.Data{})
	d.Eject()
	step("the button while locked", event(0x10), "0006047e01020000")
	do(t, d, "1e 00 00 00 00 00", scsi.Data{})
	d.Eject()
	step("the button", event(0x10), "0006047e03010000")
	d.Load()
	d.Wait(t.Context(), 2*time.Second)
	step("loaded", event(0x10), "0006047e02020000")
	step("power", event(0x04), "0006027e00010000")
	step("no such class", event(0x80), "0002807e")
	step("not polled", reply(t, d, "4a 00 00 00 10 00 00 00 08 00", 8), "5/24/00")
	settle(t, d)
	setup(t, d, mmc.WriteIncremental, 0, true)
	write(d, 0, payload(16))
	do(t, d, "35 02 00 00 00 00 00 00 00 00", scsi.Data{})
	if got := event(0x40); !strings.HasPrefix(got, "0006067e01010") {
		t.Errorf("busy: %s", got)
	}
}
