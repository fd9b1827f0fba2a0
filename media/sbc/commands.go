package sbc

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"sallyport/media/scsi"
)

var be = binary.BigEndian

// bit returns the bit n when it is set.
func bit(set bool, n uint) byte {
	if set {
		return 1 << n
	}
	return 0
}

// TestUnitReady is TEST UNIT READY (SPC-4 6.47).
type TestUnitReady struct{}

func (TestUnitReady) kind() kind { return kind{"TEST UNIT READY", quick} }

// CDB returns c's command descriptor block.
func (c TestUnitReady) CDB() []byte { return make([]byte, 6) }

// Send asks whether the medium can be used; nil is yes.
func (c TestUnitReady) Send(ctx context.Context, t scsi.Transport) error { return exec(ctx, t, c, nil) }

// Inquiry is INQUIRY (SPC-4 6.6), standard data.
type Inquiry struct{}

// InquiryData is the standard INQUIRY data (SPC-4 6.6.2). Texts are reduced to
// printable ASCII.
type InquiryData struct {
	Qualifier  uint8 // 0: a device is there
	DeviceType uint8 // 0: direct access block device
	Removable  bool
	Version    uint8 // of SPC: 5 is SPC-3, 6 SPC-4
	Vendor     string
	Product    string
	Revision   string
}

// inquirySize is all that the fields above need, and what every other system
// asks sticks for.
const inquirySize = 36

func (Inquiry) kind() kind { return kind{"INQUIRY", quick} }

// CDB returns c's command descriptor block.
func (c Inquiry) CDB() []byte { return []byte{0x12, 0, 0, 0, inquirySize, 0} }

// Send returns who the device says it is. Texts that its reply doesn't reach
// are empty.
func (c Inquiry) Send(ctx context.Context, t scsi.Transport) (*InquiryData, error) {
	b, err := query(ctx, t, c, inquirySize, 5)
	if err != nil {
		return nil, err
	}
	return parseInquiry(b), nil
}

// parseInquiry reads standard INQUIRY data of at least 5 bytes.
func parseInquiry(b []byte) *InquiryData {
	b = b[:min(len(b), 5+int(b[4]))]
	text := func(from, to int) string { return ascii(b[min(from, len(b)):min(to, len(b))]) }
	return &InquiryData{
		Qualifier: b[0] >> 5, DeviceType: b[0] & 0x1F, Removable: b[1]&0x80 != 0, Version: b[2],
		Vendor: text(8, 16), Product: text(16, 32), Revision: text(32, 36),
	}
}

// ReadCapacity10 is READ CAPACITY (10) (SBC-3 5.15).
type ReadCapacity10 struct{}

// Capacity is what READ CAPACITY tells.
type Capacity struct {
	LastLBA   uint64
	BlockSize uint32 // bytes

	// READ CAPACITY (16) only:
	PhysicalExponent uint8 // 2 to this many logical blocks are a physical one
	Provisioned      bool  // LBPME: logical block provisioning management
	UnmappedZero     bool  // LBPRZ: unmapped blocks read as zero
}

func (ReadCapacity10) kind() kind { return kind{"READ CAPACITY(10)", quick} }

// CDB returns c's command descriptor block.
func (c ReadCapacity10) CDB() []byte { return []byte{0x25, 9: 0} }

// Send returns the capacity. A LastLBA of FFFFFFFFh says that READ CAPACITY
// (16) has the answer.
func (c ReadCapacity10) Send(ctx context.Context, t scsi.Transport) (*Capacity, error) {
	b, err := query(ctx, t, c, 8, 8)
	if err != nil {
		return nil, err
	}
	return &Capacity{LastLBA: uint64(be.Uint32(b)), BlockSize: be.Uint32(b[4:])}, nil
}

// ReadCapacity16 is READ CAPACITY (16) (SBC-3 5.16).
type ReadCapacity16 struct{}

func (ReadCapacity16) kind() kind { return kind{"READ CAPACITY(16)", quick} }

const capacity16Size = 32

// CDB returns c's command descriptor block.
func (c ReadCapacity16) CDB() []byte { return []byte{0x9E, 0x10, 13: capacity16Size, 15: 0} }

// Send returns the capacity.
func (c ReadCapacity16) Send(ctx context.Context, t scsi.Transport) (*Capacity, error) {
	b, err := query(ctx, t, c, capacity16Size, 12)
	if err != nil {
		return nil, err
	}
	r := &Capacity{LastLBA: be.Uint64(b), BlockSize: be.Uint32(b[8:])}
	if len(b) >= 16 {
		r.PhysicalExponent, r.Provisioned, r.UnmappedZero = b[13]&0x0F, b[14]&0x80 != 0, b[14]&0x40 != 0
	}
	return r, nil
}

// ReportLUNs is REPORT LUNS (SPC-4 6.33).
type ReportLUNs struct{}

// maxLUNs is how many logical units are asked for; USB mass storage has 15.
const maxLUNs = 256

func (ReportLUNs) kind() kind { return kind{"REPORT LUNS", quick} }

// CDB returns c's command descriptor block.
func (c ReportLUNs) CDB() []byte {
	b := []byte{0xA0, 11: 0}
	be.PutUint32(b[6:], 8+8*maxLUNs)
	return b
}

// Send returns the logical units of the target, at most 256, in the eight-byte
// form of SAM-5 4.7.
func (c ReportLUNs) Send(ctx context.Context, t scsi.Transport) ([]uint64, error) {
	b, err := query(ctx, t, c, 8+8*maxLUNs, 8)
	if err != nil {
		return nil, err
	}
	luns, err := parseLUNs(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.kind().name, err)
	}
	return luns, nil
}

// parseLUNs reads REPORT LUNS parameter data of at least 8 bytes.
func parseLUNs(b []byte) ([]uint64, error) {
	length := be.Uint32(b)
	if length%8 != 0 {
		return nil, &FormatError{0, fmt.Sprintf("a list of %d bytes, want a multiple of 8", length)}
	}
	var luns []uint64
	for b = b[8:min(uint64(len(b)), 8+uint64(length))]; len(b) >= 8; b = b[8:] {
		luns = append(luns, be.Uint64(b))
	}
	return luns, nil
}

// ModeSense6 is MODE SENSE (6) (SPC-4 6.11) for all pages' current values: for
// the sake of the header, which tells of write protection.
type ModeSense6 struct{}

// ModeHeader is the mode parameter header (SPC-4 7.5.5; SBC-3 6.5.1 for the
// device-specific parameter).
type ModeHeader struct {
	MediumType     uint8
	WriteProtected bool
}

// modeSize is what Windows and Linux ask memory sticks for; some answer no
// other length.
const modeSize = 192

func (ModeSense6) kind() kind { return kind{"MODE SENSE(6)", quick} }

// CDB returns c's command descriptor block.
func (c ModeSense6) CDB() []byte { return []byte{0x1A, 0, 0x3F, 0, modeSize, 0} }

// Send returns the header.
func (c ModeSense6) Send(ctx context.Context, t scsi.Transport) (*ModeHeader, error) {
	b, err := query(ctx, t, c, modeSize, 4)
	if err != nil {
		return nil, err
	}
	return &ModeHeader{MediumType: b[1], WriteProtected: b[2]&0x80 != 0}, nil
}

// Read10 is READ (10) (SBC-3 5.11).
type Read10 struct {
	LBA    uint32
	Blocks uint16
}

func (Read10) kind() kind { return kind{"READ(10)", quick} }

// CDB returns c's command descriptor block.
func (c Read10) CDB() []byte { return cdb10(0x28, c.LBA, c.Blocks) }

// Send reads Blocks blocks into b, which must be filled.
func (c Read10) Send(ctx context.Context, t scsi.Transport, b []byte) error {
	return all(ctx, t, c, scsi.Data{In: b})
}

// Read16 is READ (16) (SBC-3 5.13).
type Read16 struct {
	LBA    uint64
	Blocks uint32
}

func (Read16) kind() kind { return kind{"READ(16)", quick} }

// CDB returns c's command descriptor block.
func (c Read16) CDB() []byte { return cdb16(0x88, c.LBA, c.Blocks) }

// Send reads Blocks blocks into b, which must be filled.
func (c Read16) Send(ctx context.Context, t scsi.Transport, b []byte) error {
	return all(ctx, t, c, scsi.Data{In: b})
}

// Write10 is WRITE (10) (SBC-3 5.32).
type Write10 struct {
	LBA    uint32
	Blocks uint16
}

func (Write10) kind() kind { return kind{"WRITE(10)", long} }

// CDB returns c's command descriptor block.
func (c Write10) CDB() []byte { return cdb10(0x2A, c.LBA, c.Blocks) }

// Send writes Blocks blocks from b, all of which must be taken.
func (c Write10) Send(ctx context.Context, t scsi.Transport, b []byte) error {
	return all(ctx, t, c, scsi.Data{Out: b})
}

// Write16 is WRITE (16) (SBC-3 5.34).
type Write16 struct {
	LBA    uint64
	Blocks uint32
}

func (Write16) kind() kind { return kind{"WRITE(16)", long} }

// CDB returns c's command descriptor block.
func (c Write16) CDB() []byte { return cdb16(0x8A, c.LBA, c.Blocks) }

// Send writes Blocks blocks from b, all of which must be taken.
func (c Write16) Send(ctx context.Context, t scsi.Transport, b []byte) error {
	return all(ctx, t, c, scsi.Data{Out: b})
}

func cdb10(op byte, lba uint32, blocks uint16) []byte {
	b := []byte{op, 9: 0}
	be.PutUint32(b[2:], lba)
	be.PutUint16(b[7:], blocks)
	return b
}

func cdb16(op byte, lba uint64, blocks uint32) []byte {
	b := []byte{op, 15: 0}
	be.PutUint64(b[2:], lba)
	be.PutUint32(b[10:], blocks)
	return b
}

// SynchronizeCache10 is SYNCHRONIZE CACHE (10) (SBC-3 5.23) for the whole
// medium.
type SynchronizeCache10 struct{}

func (SynchronizeCache10) kind() kind { return kind{"SYNCHRONIZE CACHE(10)", flush} }

// CDB returns c's command descriptor block.
func (c SynchronizeCache10) CDB() []byte { return cdb10(0x35, 0, 0) }

// Send waits until what was written is on the medium.
func (c SynchronizeCache10) Send(ctx context.Context, t scsi.Transport) error {
	return exec(ctx, t, c, nil)
}

// Unmap is UNMAP (SBC-3 5.30) of one extent.
type Unmap struct {
	LBA    uint64
	Blocks uint32
}

func (Unmap) kind() kind { return kind{"UNMAP", long} }

const unmapSize = 24 // a header of 8 bytes, a descriptor of 16

// CDB returns c's command descriptor block.
func (c Unmap) CDB() []byte { return []byte{0x42, 8: unmapSize, 9: 0} }

// Send tells the device that the blocks are needed no more.
func (c Unmap) Send(ctx context.Context, t scsi.Transport) error {
	b := make([]byte, unmapSize)
	be.PutUint16(b, unmapSize-2)
	be.PutUint16(b[2:], unmapSize-8)
	be.PutUint64(b[8:], c.LBA)
	be.PutUint32(b[16:], c.Blocks)
	return all(ctx, t, c, scsi.Data{Out: b})
}

// StartStopUnit is START STOP UNIT (SBC-3 5.20).
type StartStopUnit struct {
	Immediate bool
	LoadEject bool // with Start: load; without: eject
	Start     bool
}

func (StartStopUnit) kind() kind { return kind{"START STOP UNIT", long} }

// CDB returns c's command descriptor block.
func (c StartStopUnit) CDB() []byte {
	return []byte{0x1B, bit(c.Immediate, 0), 0, 0, bit(c.LoadEject, 1) | bit(c.Start, 0), 0}
}

// Send starts the device, stops it, or ejects its medium. Stopping flushes
// what it has cached.
func (c StartStopUnit) Send(ctx context.Context, t scsi.Transport) error {
	return exec(ctx, t, c, nil)
}

// readBlocks reads len(b)/size blocks from lba on with the shortest READ that
// can name them.
func readBlocks(ctx context.Context, t scsi.Transport, lba uint64, size int, b []byte) error {
	if n := uint64(len(b) / size); lba+n > math.MaxUint32 || n > math.MaxUint16 {
		return Read16{LBA: lba, Blocks: uint32(n)}.Send(ctx, t, b)
	}
	return Read10{LBA: uint32(lba), Blocks: uint16(len(b) / size)}.Send(ctx, t, b)
}

// writeBlocks is readBlocks for WRITE.
func writeBlocks(ctx context.Context, t scsi.Transport, lba uint64, size int, b []byte) error {
	if n := uint64(len(b) / size); lba+n > math.MaxUint32 || n > math.MaxUint16 {
		return Write16{LBA: lba, Blocks: uint32(n)}.Send(ctx, t, b)
	}
	return Write10{LBA: uint32(lba), Blocks: uint16(len(b) / size)}.Send(ctx, t, b)
}
