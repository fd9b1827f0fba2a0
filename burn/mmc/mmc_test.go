package mmc

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"reflect"
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

	cdb   []byte
	out   []byte
	limit time.Duration
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
	page := make([]byte, 52)
	page[0], page[1] = 0x85, 50 // PS is set in what MODE SENSE returns
	for _, tt := range []struct {
		name     string
		send     func() error
		cdb, out string
		limit    time.Duration
	}{
		{"test unit ready", func() error { return TestUnitReady{}.Send(ctx, f) }, "00 00 00 00 00 00", "", quick},
		{"request sense", func() error { RequestSense{}.Send(ctx, f); return nil }, "03 00 00 00 fc 00", "", quick},
		{"inquiry", func() error { _, err := Inquiry{}.Send(ctx, f); return err }, "12 00 00 00 24 00", "", quick},
		{"prevent", func() error { return PreventAllow{Prevent: true}.Send(ctx, f) }, "1e 00 00 00 01 00", "", quick},
		{"allow", func() error { return PreventAllow{}.Send(ctx, f) }, "1e 00 00 00 00 00", "", quick},
		{"eject", func() error { return StartStopUnit{LoadEject: true}.Send(ctx, f) }, "1b 00 00 00 02 00", "", load},
		{"load, immed", func() error { return StartStopUnit{Immediate: true, LoadEject: true, Start: true}.Send(ctx, f) }, "1b 01 00 00 03 00", "", load},
		{"read format capacities", func() error { ReadFormatCapacities{}.Send(ctx, f); return nil }, "23 00 00 00 00 00 00 00 0c 00", "", quick},
		{"read capacity", func() error { _, err := ReadCapacity{}.Send(ctx, f); return err }, "25 00 00 00 00 00 00 00 00 00", "", quick},
		{"read", func() error { return Read{LBA: 0x12345678}.Send(ctx, f, make([]byte, 3*BlockSize)) }, "28 00 12 34 56 78 00 00 03 00", "", quick},
		{"write", func() error { return Write{LBA: 0x12345678}.Send(ctx, f, []byte(strings.Repeat("\xAB", BlockSize))) }, "2a 00 12 34 56 78 00 00 01 00", strings.Repeat("ab", BlockSize), long},
		{"synchronize cache, immed", func() error { return SynchronizeCache{Immediate: true}.Send(ctx, f) }, "35 02 00 00 00 00 00 00 00 00", "", long},
		{"read toc", func() error { _, err := ReadTOC{Format: 1}.Send(ctx, f); return err }, "43 00 01 00 00 00 00 03 24 00", "", quick},
		{"get configuration", func() error { _, err := GetConfiguration{RequestType: 2, Starting: 0x21}.Send(ctx, f); return err }, "46 02 00 21 00 00 00 20 00 00", "", quick},
		{"get event status", func() error { GetEventStatus{}.Send(ctx, f); return nil }, "4a 01 00 00 10 00 00 00 08 00", "", quick},
		{"read disc information", func() error { _, err := ReadDiscInformation{}.Send(ctx, f); return err }, "51 00 00 00 00 00 00 00 22 00", "", quick},
		{"read track information", func() error {
			_, err := ReadTrackInformation{AddressType: 1, Address: 0xFF}.Send(ctx, f)
			return err
		}, "52 01 00 00 00 ff 00 00 24 00", "", quick},
		{"reserve track", func() error { return ReserveTrack{Blocks: 0x00231280}.Send(ctx, f) }, "53 00 00 00 00 00 23 12 80 00", "", long},
		{"send opc", func() error { return SendOPC{DoOPC: true}.Send(ctx, f) }, "54 01 00 00 00 00 00 00 00 00", "", long},
		{"mode sense", func() error { ModeSense{Page: 5}.Send(ctx, f); return nil }, "5a 08 05 00 00 00 00 02 00 00", "", quick},
		{"write parameters", func() error {
			return (&WriteParameters{BufferUnderrunFree: true, WriteType: WriteSAO, MultiSession: 3, FixedPacket: true,
				TrackMode: 5, DataBlockType: 8, PacketSize: 16}).Store(ctx, f, page)
		}, "55 10 00 00 00 00 00 00 3c 00", "0000000000000000" + "0532" + "42 e5 08 00 00 00 00 00 00000010" + strings.Repeat("00", 38), quick},
		{"close track", func() error {
			return CloseTrackSession{Immediate: true, Function: CloseTrack, Track: 1}.Send(ctx, f)
		}, "5b 01 01 00 00 01 00 00 00 00", "", long},
		{"close session", func() error { return CloseTrackSession{Function: CloseSession}.Send(ctx, f) }, "5b 00 02 00 00 00 00 00 00 00", "", ages},
		{"read buffer capacity", func() error { _, err := ReadBufferCapacity{}.Send(ctx, f); return err }, "5c 00 00 00 00 00 00 00 0c 00", "", quick},
		{"read disc structure", func() error { _, err := ReadDiscStructure{Format: StructurePreRecorded}.Send(ctx, f); return err }, "ad 00 00 00 00 00 00 0e 08 04 00 00", "", quick},
		{"set streaming", func() error {
			return SetStreaming{}.Send(ctx, f, Performance{Exact: true, EndLBA: 0x231280, ReadSize: 1385, ReadTime: 1000, WriteSize: 22160, WriteTime: 1000})
		}, "b6 00 00 00 00 00 00 00 00 00 1c 00", "02000000 00000000 00231280 00000569 000003e8 00005690 000003e8", quick},
		{"set cd speed", func() error { return SetCDSpeed{Read: 0xFFFF, Write: 5540}.Send(ctx, f) }, "bb 00 ff ff 15 a4 00 00 00 00 00 00", "", quick},
	} {
		f.cdb, f.out = nil, nil
		if err := tt.send(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if want := unhex(t, tt.cdb); !bytes.Equal(f.cdb, want) {
			t.Errorf("%s: cdb % x, want % x", tt.name, f.cdb, want)
		}
		if want := unhex(t, tt.out); !bytes.Equal(f.out, want) {
			t.Errorf("%s: parameter list %x, want %x", tt.name, f.out, want)
		}
		if f.limit > tt.limit || f.limit < tt.limit-10*time.Second {
			t.Errorf("%s: time limit %v, want %v", tt.name, f.limit, tt.limit)
		}
	}
}

func TestReplies(t *testing.T) {
	ctx := t.Context()
	send := func(hexReply string) *fake { return &fake{reply: unhex(t, hexReply)} }
	track := "0022 01 01 00 05 a0 01 00000000 00000020 00231260 00000010 00231280 00000000 00 00 00 00"
	for _, tt := range []struct {
		name string
		got  func() (any, error)
		want any
	}{
		{"inquiry", func() (any, error) {
			return Inquiry{}.Send(ctx, send("0580 0532 1f000000"+hex.EncodeToString([]byte("VENDOR  DVD\x1b[2J RECORDER1.02"))))
		}, &InquiryData{DeviceType: 5, Removable: true, Vendor: "VENDOR", Product: "DVD?[2J RECORDER", Revision: "1.02"}},
		{"configuration", func() (any, error) {
			return GetConfiguration{}.Send(ctx, send("00000024 0000 0011 0000 03 04 00110100 0003 07 04 39000000 0108 03 08 5331323320202000"+"ffff"))
		}, &Configuration{Profile: DVDR, Features: []Feature{
			{Code: 0, Persistent: true, Current: true, Data: []byte{0, 0x11, 1, 0}},
			{Code: 3, Version: 1, Persistent: true, Current: true, Data: []byte{0x39, 0, 0, 0}},
			{Code: 0x108, Persistent: true, Current: true, Data: []byte("S123   \x00")},
		}}},
		{"disc information", func() (any, error) {
			return ReadDiscInformation{}.Send(ctx, send("0020 0e 01 01 01 01 80 00 00 00 00 deadbeef 00000000 00000000 0000000000000000 00 00"))
		}, &DiscInformation{LastSession: SessionComplete, Status: DiscComplete, FirstTrack: 1, Sessions: 1, LastFirst: 1, LastLast: 1, ID: 0xdeadbeef, IDValid: true}},
		{"300 sessions", func() (any, error) {
			return ReadDiscInformation{}.Send(ctx, send("000a 15 01 2c 02 03 00 00 01 00 00"))
		}, &DiscInformation{Erasable: true, LastSession: SessionIncomplete, Status: DiscIncomplete, FirstTrack: 1, Sessions: 300, LastFirst: 2, LastLast: 3}},
		{"track information", func() (any, error) {
			return ReadTrackInformation{}.Send(ctx, send(track))
		}, &TrackInformation{Track: 1, Session: 1, TrackMode: 5, Reserved: true, Incremental: true, NextWritableValid: true,
			NextWritable: 0x20, Free: 0x231260, PacketSize: 16, Size: 0x231280}},
		{"capacity", func() (any, error) { return ReadCapacity{}.Send(ctx, send("0023127f 00000800")) }, &Capacity{LastLBA: 0x23127f, BlockSize: 2048}},
		{"format capacities", func() (any, error) {
			return ReadFormatCapacities{}.Send(ctx, send("00000008 00231280 01 000800"))
		}, &FormatCapacity{Blocks: 0x231280, Type: 1, BlockSize: 2048}},
		{"toc", func() (any, error) {
			return ReadTOC{}.Send(ctx, send("0012 01 01 00140100 00000000 0014aa00 00001000 ffffffff"))
		}, &TOC{First: 1, Last: 1, Tracks: []TOCTrack{{Control: 4, Track: 1}, {Control: 4, Track: 0xAA, Start: 0x1000}}}},
		{"buffer capacity", func() (any, error) {
			return ReadBufferCapacity{}.Send(ctx, send("000a0000 00200000 00100000"))
		}, &BufferCapacity{Length: 2 << 20, Blank: 1 << 20}},
		{"media event", func() (any, error) {
			return GetEventStatus{}.Send(ctx, send("0006 04 10 02 02 00 00"))
		}, &MediaEvent{Event: EventNewMedia, Present: true}},
		{"write parameters behind a block descriptor", func() (any, error) {
			p, _, err := ReadWriteParameters(ctx, send("0000 00 00 0000 0008 0000000000000000 8532 42 25 08 00 00 00 00 00 00000010"+strings.Repeat("00", 38)))
			return p, err
		}, &WriteParameters{BufferUnderrunFree: true, WriteType: WriteSAO, FixedPacket: true, TrackMode: 5, DataBlockType: 8, PacketSize: 16}},
		{"capabilities, short page", func() (any, error) {
			return ReadCapabilities(ctx, send("0000 00 00 0000 0000 2a0e 3f 37 00 00 00 00 0000 0000 0800 5690"))
		}, &Capabilities{WritesDVDR: true, Buffer: 2048, ReadSpeed: 22160}},
		{"disc structure", func() (any, error) {
			return ReadDiscStructure{}.Send(ctx, send("0006 0000 01020304 ffff"))
		}, []byte{1, 2, 3, 4}},
		{"request sense, nothing pending", func() (any, error) {
			return RequestSense{}.Send(ctx, send("70 00 00 00 00 00 00 0a 00 00 00 00 00 00 00 00 00 00"))
		}, &scsi.SenseError{}},
	} {
		got, err := tt.got()
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", tt.name, got, err, tt.want)
		}
	}
}

func TestBadReplies(t *testing.T) {
	ctx := t.Context()
	for _, tt := range []struct {
		name, reply, want string
		send              func(scsi.Transport) error
	}{
		{"disc information of 8 bytes", "0006000000000000", "READ DISC INFORMATION: reply ends at byte 8, want at least 12", func(f scsi.Transport) error {
			_, err := ReadDiscInformation{}.Send(ctx, f)
			return err
		}},
		{"track resources instead of disc information", "000a 20 01 01 01 01 00 00 00 00 00", "byte 2: data type 1", func(f scsi.Transport) error {
			_, err := ReadDiscInformation{}.Send(ctx, f)
			return err
		}},
		{"feature leaves the reply", "0000000a 0000 0011 0000 03 ff 0011", "byte 8: feature of 255 bytes", func(f scsi.Transport) error {
			_, err := GetConfiguration{}.Send(ctx, f)
			return err
		}},
		{"other mode page", "0000 00 00 0000 0000 2a02 0000", "byte 8: page 2ah", func(f scsi.Transport) error {
			_, _, err := ReadWriteParameters(ctx, f)
			return err
		}},
		{"block descriptors beyond the reply", "0000 00 00 0000 ffff 0532 0000", "reply ends at byte 12", func(f scsi.Transport) error {
			_, _, err := ReadWriteParameters(ctx, f)
			return err
		}},
		{"write parameters of 6 bytes", "0000 00 00 0000 0000 0504 00000000", "want at least 14", func(f scsi.Transport) error {
			_, _, err := ReadWriteParameters(ctx, f)
			return err
		}},
		{"no event", "0002 84 00 00 00 00 00", "no media event", func(f scsi.Transport) error {
			_, err := GetEventStatus{}.Send(ctx, f)
			return err
		}},
		{"empty capacity", "", "READ CAPACITY: reply ends at byte 0", func(f scsi.Transport) error {
			_, err := ReadCapacity{}.Send(ctx, f)
			return err
		}},
		{"short read", "00", "READ(10): the drive gave 1 of 2048 bytes at LBA 7", func(f scsi.Transport) error {
			return Read{LBA: 7}.Send(ctx, f, make([]byte, BlockSize))
		}},
		{"no whole blocks", "", "no whole blocks", func(f scsi.Transport) error {
			return Write{}.Send(ctx, f, make([]byte, 2047))
		}},
	} {
		err := tt.send(&fake{reply: unhex(t, tt.reply)})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q in it", tt.name, err, tt.want)
		}
	}
	for _, n := range []int{-1, BlockSize + 1} {
		if err := (Read{}).Send(ctx, &fake{n: n}, make([]byte, BlockSize)); err == nil {
			t.Errorf("a transport that says it moved %d of %d bytes is believed", n, BlockSize)
		}
		if _, err := (ReadCapacity{}).Send(ctx, &fake{n: n}); err == nil || !strings.Contains(err.Error(), "transport moved") {
			t.Errorf("%d bytes of 8: %v", n, err)
		}
	}
	if err := (Write{}).Send(ctx, &fake{n: 1}, make([]byte, BlockSize)); err == nil {
		t.Error("a write of which the drive took one byte passes")
	}
}

// A recovered error comes with the data of a reply, and by itself from a
// command without one; every other error comes through, named.
func TestErrors(t *testing.T) {
	ctx := t.Context()
	almostFull := &scsi.SenseError{Key: 1, ASC: 0x73, ASCQ: 1}
	f := &fake{reply: make([]byte, 2048), err: almostFull}
	if _, err := (ReadCapacity{}).Send(ctx, f); err != nil {
		t.Errorf("capacity with a recovered error: %v", err)
	}
	if err := (SendOPC{}).Send(ctx, f); !errors.Is(err, scsi.CalibrationNearFull) || !strings.HasPrefix(err.Error(), "SEND OPC INFORMATION: sense 1/73/01") {
		t.Errorf("got %v", err)
	}
	f.err = &scsi.SenseError{Key: 1, ASC: 0x0c, Deferred: true}
	if _, err := (ReadCapacity{}).Send(ctx, f); !errors.Is(err, scsi.AnyRecoveredError) {
		t.Errorf("a deferred error means the command was not carried out, got %v", err)
	}
	f.err = &scsi.TransportError{Err: scsi.ErrGone}
	if _, err := (ReadCapacity{}).Send(ctx, f); !errors.Is(err, scsi.ErrGone) {
		t.Errorf("got %v", err)
	}
}

func TestMediumID(t *testing.T) {
	pits := make([]byte, 40)
	pits[0], pits[8], pits[16], pits[24] = 1, 2, 3, 4
	copy(pits[17:], "MCC 03")
	copy(pits[25:], "RG20  ")
	if got := Manufacturer(pits); got != "MCC 03RG20" {
		t.Errorf("manufacturer %q", got)
	}
	pits[24] = 9
	if got := Manufacturer(pits); got != "MCC 03" {
		t.Errorf("manufacturer %q without field 4", got)
	}
	if got := Manufacturer(pits[:20]); got != "" {
		t.Errorf("manufacturer %q of a short structure", got)
	}
	unique := append([]byte{0, 0, 0xBE, 0xEF}, "20261122143000"...)
	if got := UniqueID(unique); got != "beef-20261122143000" {
		t.Errorf("unique id %q", got)
	}
	if got := UniqueID(make([]byte, 18)); got != "" {
		t.Errorf("unique id %q of a blank disc", got)
	}
}

// The tray bit moved between versions of the feature (MMC-6 5.3.4).
func TestCanLoad(t *testing.T) {
	for _, tt := range []struct {
		version uint8
		data    []byte
		want    bool
	}{{1, []byte{0x39}, true}, {1, []byte{0x29}, false}, {0, []byte{0x29}, true}, {0, []byte{0x09}, false}, {1, nil, false}} {
		c := Configuration{Features: []Feature{{Code: FeatureRemovable, Version: tt.version, Data: tt.data}}}
		if got := c.CanLoad(); got != tt.want {
			t.Errorf("version %d, % x: %v", tt.version, tt.data, got)
		}
	}
	if (&Configuration{}).CanLoad() || (&Configuration{}).SerialNumber() != "" {
		t.Error("a drive without features can load, or has a serial number")
	}
}

func FuzzReplies(f *testing.F) {
	for _, s := range []string{
		"00000024 0000 0011 0000 03 04 00110100 0003 07 04 39000000 0108 03 08 5331323320202000",
		"0000 00 00 0000 0008 0000000000000000 8532 42 25 08 00 00 00 00 00 00000010",
		"0020 0e 01 01 01 01 80 00 00 00 00 deadbeef 00000000 00000000 0000000000000000 00 00",
		"0022 01 01 00 05 a0 01 00000000 00000020 00231260 00000010 00231280 00000000 00 00 00 00",
		"0012 01 01 00140100 00000000 0014aa00 00001000",
		"0006 04 10 02 02 00 00",
		"70 00 02 00 00 00 00 0a 00 00 00 00 04 08 00 80 40 00",
		"0580 0532 1f000000 4142434445464748",
	} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ctx := t.Context()
		tr := &fake{reply: b}
		if c, err := (GetConfiguration{}).Send(ctx, tr); err == nil {
			if len(c.Features)*4 > len(b) {
				t.Fatalf("%d features out of %d bytes", len(c.Features), len(b))
			}
			c.CanLoad()
			for _, r := range c.SerialNumber() {
				if r < ' ' || r > '~' {
					t.Fatalf("serial number %q", c.SerialNumber())
				}
			}
		}
		if i, err := (Inquiry{}).Send(ctx, tr); err == nil && len(i.Vendor) > 8 {
			t.Fatalf("%+v", i)
		}
		if toc, err := (ReadTOC{}).Send(ctx, tr); err == nil && len(toc.Tracks) > 100 {
			t.Fatalf("%d tracks", len(toc.Tracks))
		}
		if s, err := (ReadDiscStructure{}).Send(ctx, tr); err == nil && (len(s) > len(b) || len(Manufacturer(s)) > 12 || len(UniqueID(s)) > 19) {
			t.Fatalf("%x", s)
		}
		if page, err := (ModeSense{Page: 5}).Send(ctx, tr); err == nil && (len(page) < 2 || len(page) > 257) {
			t.Fatalf("page of %d bytes", len(page))
		}
		ReadWriteParameters(ctx, tr)
		ReadCapabilities(ctx, tr)
		RequestSense{}.Send(ctx, tr)
		ReadDiscInformation{}.Send(ctx, tr)
		ReadTrackInformation{}.Send(ctx, tr)
		ReadFormatCapacities{}.Send(ctx, tr)
		ReadBufferCapacity{}.Send(ctx, tr)
		ReadCapacity{}.Send(ctx, tr)
		GetEventStatus{}.Send(ctx, tr)
	})
}
