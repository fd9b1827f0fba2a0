package mmc

import (
	"context"
	"encoding/binary"
	"fmt"

	"sallyport/media/scsi"
)

// TestUnitReady is TEST UNIT READY (SPC-3 6.33).
type TestUnitReady struct{}

func (TestUnitReady) shape() shape { return shape{"TEST UNIT READY", 0x00, 6, quick} }

// Send asks whether the medium can be used; nil is yes.
func (c TestUnitReady) Send(ctx context.Context, t scsi.Transport) error {
	return exec(ctx, t, c, nil)
}

// RequestSense is REQUEST SENSE (SPC-3 6.27), in fixed format.
type RequestSense struct {
	AllocationLength uint8 `at:"4"`
}

func (RequestSense) shape() shape { return shape{"REQUEST SENSE", 0x03, 6, quick} }

// Send returns the pending sense data; key 0 when there is none.
func (c RequestSense) Send(ctx context.Context, t scsi.Transport) (*scsi.SenseError, error) {
	c.AllocationLength = scsi.MaxSense
	b, err := query(ctx, t, c, scsi.MaxSense, 4)
	if err != nil {
		return nil, err
	}
	e, err := scsi.ParseSense(b)
	if err != nil {
		return nil, fmt.Errorf("REQUEST SENSE: %w", err)
	}
	return e, nil
}

// Inquiry is INQUIRY (SPC-3 6.4), standard data.
type Inquiry struct {
	AllocationLength uint16 `at:"3"`
}

// InquiryData is the standard INQUIRY data (SPC-3 6.4.2).
type InquiryData struct {
	DeviceType uint8  `at:"0[4:0]"`
	Removable  bool   `at:"1[7]"`
	Vendor     string `at:"8,8"`
	Product    string `at:"16,16"`
	Revision   string `at:"32,4"`
}

// TypeMMC is the peripheral device type of optical drives.
const TypeMMC = 0x05

func (Inquiry) shape() shape { return shape{"INQUIRY", 0x12, 6, quick} }

// Send returns who the device says it is.
func (c Inquiry) Send(ctx context.Context, t scsi.Transport) (*InquiryData, error) {
	c.AllocationLength = 36
	b, err := query(ctx, t, c, 36, 5)
	if err != nil {
		return nil, err
	}
	r := &InquiryData{}
	get(b, r)
	return r, nil
}

// PreventAllow is PREVENT ALLOW MEDIUM REMOVAL (MMC-5 6.14).
type PreventAllow struct {
	Prevent bool `at:"4[0]"`
}

func (PreventAllow) shape() shape { return shape{"PREVENT ALLOW MEDIUM REMOVAL", 0x1E, 6, quick} }

// Send locks the tray, or unlocks it.
func (c PreventAllow) Send(ctx context.Context, t scsi.Transport) error {
	return exec(ctx, t, c, nil)
}

// StartStopUnit is START STOP UNIT (MMC-6).
type StartStopUnit struct {
	Immediate bool `at:"1[0]"`
	LoadEject bool `at:"4[1]"` // with Start: load; without: eject
	Start     bool `at:"4[0]"`
}

func (StartStopUnit) shape() shape { return shape{"START STOP UNIT", 0x1B, 6, load} }

// Send moves the tray or the spindle.
func (c StartStopUnit) Send(ctx context.Context, t scsi.Transport) error {
	return exec(ctx, t, c, nil)
}

// Mode pages.
const (
	PageWriteParameters = 0x05
	PageCapabilities    = 0x2A
)

// ModeSense is MODE SENSE (10) (SPC-3 6.10) for the current values of one page.
type ModeSense struct {
	DisableBlockDescriptors bool   `at:"1[3]"`
	Control                 uint8  `at:"2[7:6]"` // 0 current, 1 changeable, 2 default
	Page                    uint8  `at:"2[5:0]"`
	AllocationLength        uint16 `at:"7"`
}

func (ModeSense) shape() shape { return shape{"MODE SENSE(10)", 0x5A, 10, quick} }

// modeReply is enough for any one page: 8 bytes of header, block descriptors
// of a drive that sends them unasked, 2 + 255 bytes of page.
const modeReply = 512

// Send returns the page from its page code byte on, cut to the length it
// announces and to what was transferred: at least 2 bytes.
func (c ModeSense) Send(ctx context.Context, t scsi.Transport) ([]byte, error) {
	c.DisableBlockDescriptors = true
	c.AllocationLength = modeReply
	b, err := query(ctx, t, c, modeReply, 8)
	if err != nil {
		return nil, err
	}
	page, err := parseModePage(b, c.Page)
	if err != nil {
		return nil, fmt.Errorf("MODE SENSE(10) page %02xh: %w", c.Page, err)
	}
	return page, nil
}

// parseModePage finds page code in a mode parameter list (SPC-3 7.4): the
// header, block descriptors, the page. The header's MODE DATA LENGTH isn't
// used: some drives get it wrong, and the page's own length says enough.
func parseModePage(b []byte, code uint8) ([]byte, error) {
	if len(b) < 8 {
		return nil, &ShortReplyError{len(b), 8}
	}
	off := 8 + int(binary.BigEndian.Uint16(b[6:]))
	if off+2 > len(b) {
		return nil, &ShortReplyError{len(b), off + 2}
	}
	page := b[off:]
	if page[0]&0x3F != code {
		return nil, &FormatError{off, fmt.Sprintf("page %02xh", page[0]&0x3F)}
	}
	return trim(page, 2+uint64(page[1])), nil
}

// ModeSelect is MODE SELECT (10) (SPC-3 6.8).
type ModeSelect struct {
	PageFormat          bool   `at:"1[4]"`
	ParameterListLength uint16 `at:"7"`
}

func (ModeSelect) shape() shape { return shape{"MODE SELECT(10)", 0x55, 10, quick} }

// Send sets one page, given from its page code byte on.
func (c ModeSelect) Send(ctx context.Context, t scsi.Transport, page []byte) error {
	list := make([]byte, 8+len(page))
	copy(list[8:], page)
	list[8] &= 0x3F // PS and SPF are reserved here, SPC-3 7.4.5
	c.PageFormat = true
	c.ParameterListLength = uint16(len(list))
	return exec(ctx, t, c, list)
}

// Write types of mode page 05h.
const (
	WriteIncremental = 0x00 // packet or incremental recording
	WriteTAO         = 0x01
	WriteSAO         = 0x02 // session at once; on DVD-R disc at once
)

// WriteParameters is the write parameters mode page, 05h (MMC-6).
type WriteParameters struct {
	BufferUnderrunFree bool   `at:"2[6]"`
	LinkSizeValid      bool   `at:"2[5]"`
	TestWrite          bool   `at:"2[4]"`
	WriteType          uint8  `at:"2[3:0]"`
	MultiSession       uint8  `at:"3[7:6]"` // 0: nothing may follow; 3: another session may
	FixedPacket        bool   `at:"3[5]"`
	Copy               bool   `at:"3[4]"`
	TrackMode          uint8  `at:"3[3:0]"` // 5: data, incremental
	DataBlockType      uint8  `at:"4[3:0]"` // 8: 2,048 bytes of user data
	LinkSize           uint8  `at:"5"`
	ApplicationCode    uint8  `at:"7[5:0]"`
	SessionFormat      uint8  `at:"8"`
	PacketSize         uint32 `at:"10"` // blocks
}

// parseWriteParameters reads page 05h.
func parseWriteParameters(page []byte) (*WriteParameters, error) {
	if len(page) < 14 {
		return nil, &ShortReplyError{len(page), 14}
	}
	p := &WriteParameters{}
	get(page, p)
	return p, nil
}

// ReadWriteParameters gets mode page 05h. raw is the page as it came, for
// Store.
func ReadWriteParameters(ctx context.Context, t scsi.Transport) (p *WriteParameters, raw []byte, err error) {
	raw, err = ModeSense{Page: PageWriteParameters}.Send(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	if p, err = parseWriteParameters(raw); err != nil {
		return nil, nil, fmt.Errorf("mode page 05h: %w", err)
	}
	return p, raw, nil
}

// Store sets mode page 05h to p. What p has no field for keeps the value it
// has in raw, the page as the drive sent it.
func (p *WriteParameters) Store(ctx context.Context, t scsi.Transport, raw []byte) error {
	if len(raw) < 14 {
		return fmt.Errorf("mode page 05h: %w", &ShortReplyError{len(raw), 14})
	}
	page := make([]byte, len(raw))
	copy(page, raw)
	for i := 2; i < 14; i++ {
		switch i {
		case 6, 9: // reserved
		default:
			page[i] = 0
		}
	}
	put(page, p)
	return ModeSelect{}.Send(ctx, t, page)
}

// Capabilities is mode page 2Ah, CD/DVD capabilities and mechanical status
// (MMC-3; legacy since MMC-4 and still in every drive).
type Capabilities struct {
	WritesDVDR bool   `at:"3[4]"`
	Buffer     uint16 `at:"12"` // KiB
	ReadSpeed  uint16 `at:"14"` // current, kB/s
	WriteSpeed uint16 `at:"28"` // current, kB/s
}

// ReadCapabilities gets mode page 2Ah.
func ReadCapabilities(ctx context.Context, t scsi.Transport) (*Capabilities, error) {
	page, err := ModeSense{Page: PageCapabilities}.Send(ctx, t)
	if err != nil {
		return nil, err
	}
	c := &Capabilities{}
	get(page, c)
	return c, nil
}
