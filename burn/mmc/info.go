package mmc

import (
	"context"
	"encoding/binary"
	"fmt"

	"sallyport/media/scsi"
)

// Disc status (MMC-5 6.22.3.1).
const (
	DiscEmpty      = 0
	DiscIncomplete = 1 // appendable
	DiscComplete   = 2
	DiscOther      = 3
)

// State of the last session (MMC-5 6.22.3.1).
const (
	SessionEmpty      = 0
	SessionIncomplete = 1
	SessionDamaged    = 2
	SessionComplete   = 3
)

// ReadDiscInformation is READ DISC INFORMATION (MMC-5 6.22), standard data.
type ReadDiscInformation struct {
	DataType         uint8  `at:"1[2:0]"`
	AllocationLength uint16 `at:"7"`
}

// DiscInformation is the standard disc information (MMC-5 6.22.3.1).
type DiscInformation struct {
	Erasable     bool  `at:"2[4]"`
	LastSession  uint8 `at:"2[3:2]"` // SessionEmpty ...
	Status       uint8 `at:"2[1:0]"` // DiscEmpty ...
	FirstTrack   uint8 `at:"3"`
	Sessions     uint16
	LastFirst    uint16 // first track of the last session
	LastLast     uint16 // last track of the last session
	Unrestricted bool   `at:"7[5]"`
	Format       uint8  `at:"7[1:0]"` // background format
	DiscType     uint8  `at:"8"`
	ID           uint32 `at:"12"` // valid when IDValid
	IDValid      bool   `at:"7[7]"`
}

func (ReadDiscInformation) shape() shape { return shape{"READ DISC INFORMATION", 0x51, 10, quick} }

// Send returns the state of the disc.
func (c ReadDiscInformation) Send(ctx context.Context, t scsi.Transport) (*DiscInformation, error) {
	c.AllocationLength = 34
	b, err := query(ctx, t, c, 34, 12)
	if err != nil {
		return nil, err
	}
	r, err := parseDiscInformation(b)
	if err != nil {
		return nil, fmt.Errorf("READ DISC INFORMATION: %w", err)
	}
	return r, nil
}

func parseDiscInformation(b []byte) (*DiscInformation, error) {
	if len(b) < 12 {
		return nil, &ShortReplyError{len(b), 12}
	}
	if b[2]>>5 != 0 {
		return nil, &FormatError{2, fmt.Sprintf("data type %d, not standard disc information", b[2]>>5)}
	}
	r := &DiscInformation{
		Sessions:  uint16(b[9])<<8 | uint16(b[4]),
		LastFirst: uint16(b[10])<<8 | uint16(b[5]),
		LastLast:  uint16(b[11])<<8 | uint16(b[6]),
	}
	get(b, r)
	return r, nil
}

// ReadTrackInformation is READ TRACK INFORMATION (MMC-5 6.27).
type ReadTrackInformation struct {
	Open             bool   `at:"1[2]"`
	AddressType      uint8  `at:"1[1:0]"` // 0: Address is an LBA; 1: a track; 2: a session
	Address          uint32 `at:"2"`
	AllocationLength uint16 `at:"7"`
}

// TrackInformation is the reply (MMC-5 6.27.3).
type TrackInformation struct {
	Track             uint16
	Session           uint16
	Damage            bool   `at:"5[5]"`
	TrackMode         uint8  `at:"5[3:0]"`
	Reserved          bool   `at:"6[7]"`
	Blank             bool   `at:"6[6]"`
	Incremental       bool   `at:"6[5]"`
	FixedPacket       bool   `at:"6[4]"`
	DataMode          uint8  `at:"6[3:0]"`
	LastRecordedValid bool   `at:"7[1]"`
	NextWritableValid bool   `at:"7[0]"`
	Start             uint32 `at:"8"`  // LBA
	NextWritable      uint32 `at:"12"` // LBA, valid when NextWritableValid
	Free              uint32 `at:"16"` // blocks
	PacketSize        uint32 `at:"20"` // blocks
	Size              uint32 `at:"24"` // blocks
	LastRecorded      uint32 `at:"28"` // LBA, valid when LastRecordedValid
}

func (ReadTrackInformation) shape() shape { return shape{"READ TRACK INFORMATION", 0x52, 10, quick} }

// Send returns the state of one track.
func (c ReadTrackInformation) Send(ctx context.Context, t scsi.Transport) (*TrackInformation, error) {
	c.AllocationLength = 36
	b, err := query(ctx, t, c, 36, 28)
	if err != nil {
		return nil, err
	}
	r, err := parseTrackInformation(b)
	if err != nil {
		return nil, fmt.Errorf("READ TRACK INFORMATION: %w", err)
	}
	return r, nil
}

func parseTrackInformation(b []byte) (*TrackInformation, error) {
	if len(b) < 28 {
		return nil, &ShortReplyError{len(b), 28}
	}
	r := &TrackInformation{Track: uint16(b[2]), Session: uint16(b[3])}
	if len(b) >= 34 {
		r.Track |= uint16(b[32]) << 8
		r.Session |= uint16(b[33]) << 8
	}
	get(b, r)
	return r, nil
}

// ReadCapacity is READ CAPACITY (MMC-5 6.19).
type ReadCapacity struct{}

// Capacity is the reply.
type Capacity struct {
	LastLBA   uint32 `at:"0"`
	BlockSize uint32 `at:"4"` // bytes
}

func (ReadCapacity) shape() shape { return shape{"READ CAPACITY", 0x25, 10, quick} }

// Send returns how much of the disc can be read.
func (c ReadCapacity) Send(ctx context.Context, t scsi.Transport) (*Capacity, error) {
	b, err := query(ctx, t, c, 8, 8)
	if err != nil {
		return nil, err
	}
	r := &Capacity{}
	get(b, r)
	return r, nil
}

// ReadFormatCapacities is READ FORMAT CAPACITIES (MMC-5 6.24).
type ReadFormatCapacities struct {
	AllocationLength uint16 `at:"7"`
}

// FormatCapacity is the current/maximum capacity descriptor (MMC-5 6.24.3).
type FormatCapacity struct {
	Blocks    uint32 `at:"4"`
	Type      uint8  `at:"8[1:0]"` // 1 unformatted or blank, 2 formatted, 3 no medium
	BlockSize uint32 `at:"9,3"`    // bytes
}

func (ReadFormatCapacities) shape() shape { return shape{"READ FORMAT CAPACITIES", 0x23, 10, quick} }

// Send returns the current or, for a blank medium, maximum capacity.
func (c ReadFormatCapacities) Send(ctx context.Context, t scsi.Transport) (*FormatCapacity, error) {
	c.AllocationLength = 12
	b, err := query(ctx, t, c, 12, 12)
	if err != nil {
		return nil, err
	}
	if b[3] < 8 {
		return nil, fmt.Errorf("READ FORMAT CAPACITIES: %w", &FormatError{3, "no capacity descriptor"})
	}
	r := &FormatCapacity{}
	get(b, r)
	return r, nil
}

// ReadTOC is READ TOC/PMA/ATIP (MMC-5 6.26) with format 0000b, the tracks.
type ReadTOC struct {
	MSF              bool   `at:"1[1]"`
	Format           uint8  `at:"2[3:0]"`
	Starting         uint8  `at:"6"` // track or session
	AllocationLength uint16 `at:"7"`
}

// TOC is the reply for formats 0000b and 0001b; in the latter First and Last
// are sessions.
type TOC struct {
	First  uint8 `at:"2"`
	Last   uint8 `at:"3"`
	Tracks []TOCTrack
}

// TOCTrack is a track descriptor; the lead-out has the number AAh.
type TOCTrack struct {
	Control uint8  `at:"1[3:0]"` // bit 2: data
	Track   uint8  `at:"2"`
	Start   uint32 `at:"4"` // LBA
}

func (ReadTOC) shape() shape { return shape{"READ TOC/PMA/ATIP", 0x43, 10, quick} }

// tocReply holds 99 tracks and the lead-out.
const tocReply = 4 + 100*8

// Send returns the table of contents.
func (c ReadTOC) Send(ctx context.Context, t scsi.Transport) (*TOC, error) {
	c.AllocationLength = tocReply
	b, err := query(ctx, t, c, tocReply, 4)
	if err != nil {
		return nil, err
	}
	r, err := parseTOC(b)
	if err != nil {
		return nil, fmt.Errorf("READ TOC/PMA/ATIP: %w", err)
	}
	return r, nil
}

func parseTOC(b []byte) (*TOC, error) {
	if len(b) < 4 {
		return nil, &ShortReplyError{len(b), 4}
	}
	r := &TOC{}
	get(b, r)
	b = trim(b, 2+uint64(binary.BigEndian.Uint16(b)))
	for off := 4; off+8 <= len(b); off += 8 {
		var tr TOCTrack
		get(b[off:off+8], &tr)
		r.Tracks = append(r.Tracks, tr)
	}
	return r, nil
}

// Formats and media types of READ DISC STRUCTURE (MMC-5 6.23).
const (
	StructurePhysical    = 0x00 // physical format information; on BD the disc information
	StructurePreRecorded = 0x0E // DVD-R: pre-recorded information in the lead-in
	StructureUniqueID    = 0x0F // DVD-R: unique disc identifier
	StructureADIP        = 0x11 // DVD+R: address in pre-groove information

	MediaBD = 1
)

// ReadDiscStructure is READ DISC STRUCTURE (MMC-5 6.23).
type ReadDiscStructure struct {
	MediaType        uint8  `at:"1[3:0]"` // 0: DVD; MediaBD
	Address          uint32 `at:"2"`
	Layer            uint8  `at:"6"`
	Format           uint8  `at:"7"`
	AllocationLength uint16 `at:"8"`
}

func (ReadDiscStructure) shape() shape { return shape{"READ DISC STRUCTURE", 0xAD, 12, quick} }

const structureReply = 4 + 2048

// Send returns the structure without its 4 bytes of header.
func (c ReadDiscStructure) Send(ctx context.Context, t scsi.Transport) ([]byte, error) {
	c.AllocationLength = structureReply
	b, err := query(ctx, t, c, structureReply, 4)
	if err != nil {
		return nil, err
	}
	return trim(b, max(4, 2+uint64(binary.BigEndian.Uint16(b))))[4:], nil
}
