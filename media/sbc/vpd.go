package sbc

import (
	"context"
	"encoding/hex"
	"fmt"

	"sallyport/media/scsi"
)

// Vital product data pages (SPC-4 7.8, SBC-3 6.6).
const (
	PageSupported      = 0x00 // which pages there are
	PageSerial         = 0x80 // unit serial number
	PageIdentification = 0x83 // device identification
	PageBlockLimits    = 0xB0
	PageProvisioning   = 0xB2 // logical block provisioning
)

// InquiryVPD is INQUIRY (SPC-4 6.6) for a vital product data page.
type InquiryVPD struct {
	Page uint8
}

// vpdSize is what fits the one-byte ALLOCATION LENGTH that the oldest devices
// know, and more than the pages above need.
const vpdSize = 252

func (c InquiryVPD) kind() kind {
	return kind{fmt.Sprintf("INQUIRY (page %02xh)", c.Page), quick}
}

// CDB returns c's command descriptor block.
func (c InquiryVPD) CDB() []byte { return []byte{0x12, 1, c.Page, 0, vpdSize, 0} }

// Send returns the page behind its header of four bytes, cut to the length it
// announces and to what was transferred. A device that knows no pages and
// answers with standard data is an error.
func (c InquiryVPD) Send(ctx context.Context, t scsi.Transport) ([]byte, error) {
	b, err := query(ctx, t, c, vpdSize, 4)
	if err != nil {
		return nil, err
	}
	if b[1] != c.Page {
		return nil, fmt.Errorf("%s: %w", c.kind().name, &FormatError{1, fmt.Sprintf("page %02xh", b[1])})
	}
	return b[4:min(len(b), 4+int(be.Uint16(b[2:])))], nil
}

// Designator is one name of a device or its logical unit (SPC-4 7.8.6).
type Designator struct {
	Association uint8 // 0 logical unit, 1 port, 2 target device
	Type        uint8 // 1 T10 vendor, 2 EUI-64, 3 NAA, 8 SCSI name string, ...
	Text        bool  // ID is ASCII or UTF-8
	ID          []byte
}

// String returns the designator as Linux names it in sysfs' wwid.
func (d Designator) String() string {
	if d.Text {
		if d.Type == 1 {
			return "t10." + ascii(d.ID)
		}
		return ascii(d.ID)
	}
	prefix := fmt.Sprintf("type%d.", d.Type)
	switch d.Type {
	case 2:
		prefix = "eui."
	case 3:
		prefix = "naa."
	}
	return prefix + hex.EncodeToString(d.ID)
}

// parseDesignators reads page 83h behind its header.
func parseDesignators(page []byte) ([]Designator, error) {
	var list []Designator
	for off := 0; off < len(page); {
		if off+4 > len(page) {
			return nil, &FormatError{4 + off, "a designator's header leaves the page"}
		}
		head, end := page[off:off+4], off+4+int(page[off+3])
		if end > len(page) {
			return nil, &FormatError{4 + off, fmt.Sprintf("a designator of %d bytes leaves the page (%d bytes)", head[3], len(page))}
		}
		list = append(list, Designator{
			Association: head[1] >> 4 & 3, Type: head[1] & 0x0F,
			Text: head[0]&0x0F == 2 || head[0]&0x0F == 3, ID: page[off+4 : end],
		})
		off = end
	}
	return list, nil
}

// unmapLimit reads from page B0h, block limits (SBC-3 6.6.4), behind its
// header, how many blocks one UNMAP may name; 0: none.
func unmapLimit(page []byte) uint32 {
	if len(page) < 24 || be.Uint32(page[20:]) == 0 { // no descriptor
		return 0
	}
	return be.Uint32(page[16:])
}

// unmaps reads from page B2h, logical block provisioning (SBC-3 6.6.5), behind
// its header, whether the device knows UNMAP (LBPU).
func unmaps(page []byte) bool { return len(page) >= 2 && page[1]&0x80 != 0 }
