package sbc

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"sallyport/media/scsi"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fake answers every command with the same bytes.
type fake struct {
	reply []byte
	err   error
	n     int // when not 0, the count to return whatever was moved

	cdb, out []byte
	limit    time.Duration
}

func (f *fake) Do(ctx context.Context, cdb []byte, d scsi.Data) (int, error) {
	f.cdb, f.out = bytes.Clone(cdb), bytes.Clone(d.Out)
	if deadline, ok := ctx.Deadline(); ok {
		f.limit = time.Until(deadline)
	}
	n := copy(d.In, f.reply)
	if len(d.Out) > 0 {
		n = len(d.Out)
	}
	if f.n != 0 {
		n = f.n
	}
	return n, f.err
}

// The CDBs and parameter lists as the standards' tables have them, byte by
// byte, and the time limit each goes out with.
func TestCommands(t *testing.T) {
	ctx := t.Context()
	f := &fake{reply: make([]byte, 9000)}
	for _, tt := range []struct {
		send     func() error
		cdb, out string
		limit    time.Duration
	}{
		{func() error { return TestUnitReady{}.Send(ctx, f) }, "00 00 00 00 00 00", "", quick},
		{func() error { _, err := Inquiry{}.Send(ctx, f); return err }, "12 00 00 00 24 00", "", quick},
		{func() error { _, err := InquiryVPD{0}.Send(ctx, f); return err }, "12 01 00 00 fc 00", "", quick},
		{func() error { InquiryVPD{PageSerial}.Send(ctx, f); return nil }, "12 01 80 00 fc 00", "", quick},
		{func() error { _, err := ReadCapacity10{}.Send(ctx, f); return err }, "25 00 00 00 00 00 00 00 00 00", "", quick},
		{func() error { _, err := ReadCapacity16{}.Send(ctx, f); return err }, "9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00", "", quick},
		{func() error { _, err := ReportLUNs{}.Send(ctx, f); return err }, "a0 00 00 00 00 00 00 00 08 08 00 00", "", quick},
		{func() error { _, err := ModeSense6{}.Send(ctx, f); return err }, "1a 00 3f 00 c0 00", "", quick},
		{func() error { return Read10{0x12345678, 2}.Send(ctx, f, make([]byte, 1024)) }, "28 00 12 34 56 78 00 00 02 00", "", quick},
		{func() error { return Read16{0x123456789ABCDEF0, 0x10002}.Send(ctx, f, make([]byte, 1024)) }, "88 00 12 34 56 78 9a bc de f0 00 01 00 02 00 00", "", quick},
		{func() error { return Write10{0x12345678, 1}.Send(ctx, f, []byte(strings.Repeat("\xAB", 512))) }, "2a 00 12 34 56 78 00 00 01 00", strings.Repeat("ab", 512), long},
		{func() error {
			return Write16{0x123456789ABCDEF0, 1}.Send(ctx, f, []byte(strings.Repeat("\xAB", 512)))
		}, "8a 00 12 34 56 78 9a bc de f0 00 00 00 01 00 00", strings.Repeat("ab", 512), long},
		{func() error { return SynchronizeCache10{}.Send(ctx, f) }, "35 00 00 00 00 00 00 00 00 00", "", flush},
		{func() error { return Unmap{0x123456789ABCDEF0, 0x01020304}.Send(ctx, f) }, "42 00 00 00 00 00 00 00 18 00", "0016 0010 00000000 123456789abcdef0 01020304 00000000", long},
		{func() error { return StartStopUnit{}.Send(ctx, f) }, "1b 00 00 00 00 00", "", long},
		{func() error { return StartStopUnit{Immediate: true, LoadEject: true}.Send(ctx, f) }, "1b 01 00 00 02 00", "", long},
		{func() error { return StartStopUnit{Start: true}.Send(ctx, f) }, "1b 00 00 00 01 00", "", long},
	} {
		f.cdb, f.out = nil, nil
		if err := tt.send(); err != nil {
			t.Errorf("%s: %v", tt.cdb, err)
		}
		if want := unhex(t, tt.cdb); !bytes.Equal(f.cdb, want) {
			t.Errorf("cdb % x, want % x", f.cdb, want)
		}
		if want := unhex(t, tt.out); !bytes.Equal(f.out, want) {
			t.Errorf("%s: parameter list %x, want %x", tt.cdb, f.out, want)
		}
		if f.limit > tt.limit || f.limit < tt.limit-10*time.Second {
			t.Errorf("%s: time limit %v, want %v", tt.cdb, f.limit, tt.limit)
		}
	}
}

func TestReplies(t *testing.T) {
	ctx := t.Context()
	reply := func(s string) *fake { return &fake{reply: unhex(t, s)} }

	inq, err := Inquiry{}.Send(ctx, &fake{reply: []byte("\x00\x80\x04\x02\x1f\x00\x00\x00SanDisk Ultra\x1b[2J       1.26")})
	if want := (InquiryData{Removable: true, Version: 4, Vendor: "SanDisk", Product: "Ultra?[2J", Revision: "1.26"}); err != nil || *inq != want {
		t.Errorf("INQUIRY: %+v, %v", inq, err)
	}
	// The reply announces 5 + 11 bytes: what lies behind is not the device's.
	inq, err = Inquiry{}.Send(ctx, &fake{reply: []byte("\x65\x00\x00\x02\x0b\x00\x00\x00SanDisk Ultra           1.26")})
	if want := (InquiryData{Qualifier: 3, DeviceType: 5, Vendor: "SanDisk"}); err != nil || *inq != want {
		t.Errorf("INQUIRY: %+v, %v", inq, err)
	}
	c, err := ReadCapacity16{}.Send(ctx, reply("00000001ffffffff 00001000 0003 c000"+strings.Repeat("00", 16)))
	if want := (Capacity{0x1FFFFFFFF, 4096, 3, true, true}); err != nil || *c != want {
		t.Errorf("READ CAPACITY(16): %+v, %v", c, err)
	}
	luns, err := ReportLUNs{}.Send(ctx, reply("00000010 00000000 0000000000000000 0001000000000000 0002000000000000"))
	if err != nil || len(luns) != 2 || luns[1] != 1<<48 {
		t.Errorf("REPORT LUNS: %x, %v", luns, err)
	}
	luns, err = ReportLUNs{}.Send(ctx, reply("fffffff8 00000000 0000000000000000 0001"))
	if err != nil || len(luns) != 1 {
		t.Errorf("REPORT LUNS, cut: %x, %v", luns, err)
	}
	mode, err := ModeSense6{}.Send(ctx, reply("03 05 80 00"))
	if err != nil || !mode.WriteProtected || mode.MediumType != 5 {
		t.Errorf("MODE SENSE: %+v, %v", mode, err)
	}
	page, err := InquiryVPD{0x80}.Send(ctx, reply("00 80 00 04 31 32 33 34 35 36"))
	if err != nil || string(page) != "1234" {
		t.Errorf("page 80h: %q, %v", page, err)
	}
	page, err = InquiryVPD{0x80}.Send(ctx, reply("00 80 ff ff 31 32"))
	if err != nil || string(page) != "12" {
		t.Errorf("page 80h, cut: %q, %v", page, err)
	}

	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"short inquiry", func() error { _, err := Inquiry{}.Send(ctx, reply("00 80 04 02")); return err }(), "INQUIRY: data ends at byte 4, want 5 bytes"},
		{"short capacity", func() error { _, err := ReadCapacity10{}.Send(ctx, reply("00 80 04 02 00 00 02")); return err }(), "READ CAPACITY(10): data ends at byte 7, want 8 bytes"},
		{"odd luns", func() error { _, err := ReportLUNs{}.Send(ctx, reply("0000000c 00000000")); return err }(), "REPORT LUNS: reply: byte 0: a list of 12 bytes, want a multiple of 8"},
		{"another page", func() error { _, err := InquiryVPD{0x83}.Send(ctx, reply("00 80 00 00")); return err }(), "INQUIRY (page 83h): reply: byte 1: page 80h"},
		{"short read", Read10{}.Send(ctx, reply("00 80"), make([]byte, 512)), "READ(10): data ends at byte 2, want 512 bytes"},
		{"short write", Write10{}.Send(ctx, &fake{n: 100}, make([]byte, 512)), "WRITE(10): data ends at byte 100, want 512 bytes"},
		{"more than all", Read16{}.Send(ctx, &fake{n: 513}, make([]byte, 512)), "READ(16): transport moved 513 bytes of 512"},
		{"refused", TestUnitReady{}.Send(ctx, &fake{err: illegal}), "TEST UNIT READY: sense 5/20/00 (illegal request: invalid command operation code)"},
		{"recovered", TestUnitReady{}.Send(ctx, &fake{err: &scsi.SenseError{Key: 1, ASC: 0x18}}), ""},
		{"deferred", TestUnitReady{}.Send(ctx, &fake{err: &scsi.SenseError{Key: 1, ASC: 0x18, Deferred: true}}), "TEST UNIT READY: deferred sense 1/18/00 (recovered error: recovered data with error correction applied)"},
	} {
		if got := errors.Join(tt.err); got == nil && tt.want != "" || got != nil && got.Error() != tt.want {
			t.Errorf("%s: %v, want %q", tt.name, tt.err, tt.want)
		}
	}
}

func TestDesignators(t *testing.T) {
	list, err := parseDesignators(unhex(t, "02 01 00 04 41424344  01 12 00 08 0011223344556677  01 03 00 08 5001020304050607  03 08 00 03 6e6f77"))
	if err != nil || len(list) != 4 {
		t.Fatal(list, err)
	}
	for i, want := range []string{"t10.ABCD", "eui.0011223344556677", "naa.5001020304050607", "now"} {
		if list[i].String() != want {
			t.Errorf("designator %s, want %s", list[i], want)
		}
	}
	if list[1].Association != 1 {
		t.Errorf("association %d of a port", list[1].Association)
	}
	for in, want := range map[string]string{
		"01 03 00":           "reply: byte 4: a designator's header leaves the page",
		"01 03 00 00 010300": "reply: byte 8: a designator's header leaves the page",
		"01 03 00 08 0011":   "reply: byte 4: a designator of 8 bytes leaves the page (6 bytes)",
	} {
		if _, err := parseDesignators(unhex(t, in)); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}

// FuzzReplies has a device answer whatever it likes, to each command and to
// everything that opening, reading and checking a disk sends.
func FuzzReplies(f *testing.F) {
	f.Add([]byte("\x00\x80\x06\x02\x1f\x00\x00\x00VENDOR  MODEL           1.00"), uint8(0))
	f.Add(unhex(f, "00 00 ff ff 00 00 02 00"), uint8(7))
	f.Add(unhex(f, "0083001401030008500102030405060702010004414243440000"), uint8(3))
	f.Add(unhex(f, "00000010 00000000 0000000000000000 0001000000000000"), uint8(1))
	f.Fuzz(func(t *testing.T, reply []byte, cut uint8) {
		ctx := t.Context()
		for _, n := range []int{0, int(cut)} {
			dev := &fake{reply: reply[:len(reply)-min(n, len(reply))]}
			Inquiry{}.Send(ctx, dev)
			for _, page := range []byte{0x00, 0x80, 0x83, 0xB0, 0xB2} {
				if b, err := (InquiryVPD{page}).Send(ctx, dev); err == nil {
					if len(b) > vpdSize-4 {
						t.Errorf("a page of %d bytes", len(b))
					}
					unitName(b)
					unmaps(b)
					unmapLimit(b)
				}
			}
			ModeSense6{}.Send(ctx, dev)
			if luns, _ := (ReportLUNs{}).Send(ctx, dev); len(luns) > maxLUNs {
				t.Errorf("%d logical units", len(luns))
			}
			for _, ask := range []func() (*Capacity, error){
				func() (*Capacity, error) { return ReadCapacity10{}.Send(ctx, dev) },
				func() (*Capacity, error) { return ReadCapacity16{}.Send(ctx, dev) },
			} {
				if c, err := ask(); err == nil && c.check() == nil && int64((c.LastLBA+1)*uint64(c.BlockSize)) <= 0 {
					t.Errorf("size of %+v", c)
				}
			}
			d := &Disk{ctx: ctx, t: dev, wait: func(context.Context, time.Duration) error { return nil }}
			if d.open() == nil {
				if d.Size() <= 0 || d.Size()%int64(d.BlockSize()) != 0 {
					t.Errorf("size %d of blocks of %d", d.Size(), d.BlockSize())
				}
				d.ReadAt(make([]byte, 1000), d.Size()/2-3)
				d.ReadAt(make([]byte, 1000), d.Size()-3)
				d.Check()
			}
		}
	})
}
