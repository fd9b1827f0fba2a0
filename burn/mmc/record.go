package mmc

import (
	"context"
	"fmt"
	"time"

	"sallyport/media/scsi"
)

// SetCDSpeed is SET CD SPEED (MMC-6).
type SetCDSpeed struct {
	Rotation uint8  `at:"1[1:0]"`
	Read     uint16 `at:"2"` // kB/s; FFFFh: the fastest
	Write    uint16 `at:"4"` // kB/s; FFFFh: the fastest
}

func (SetCDSpeed) shape() shape { return shape{"SET CD SPEED", 0xBB, 12, quick} }

// Send sets the speed; the drive takes the nearest it has.
func (c SetCDSpeed) Send(ctx context.Context, t scsi.Transport) error { return exec(ctx, t, c, nil) }

// SetStreaming is SET STREAMING (MMC-6) with a performance descriptor.
type SetStreaming struct {
	Type                uint8  `at:"8"`
	ParameterListLength uint16 `at:"9"`
}

// Performance is the performance descriptor (MMC-6). kB are 1,000
// bytes.
type Performance struct {
	RestoreDefaults bool   `at:"0[2]"`
	Exact           bool   `at:"0[1]"`
	StartLBA        uint32 `at:"4"`
	EndLBA          uint32 `at:"8"`
	ReadSize        uint32 `at:"12"` // kB
	ReadTime        uint32 `at:"16"` // ms
	WriteSize       uint32 `at:"20"` // kB
	WriteTime       uint32 `at:"24"` // ms
}

func (SetStreaming) shape() shape { return shape{"SET STREAMING", 0xB6, 12, quick} }

// Send sets the speed.
func (c SetStreaming) Send(ctx context.Context, t scsi.Transport, p Performance) error {
	list := make([]byte, 28)
	put(list, p)
	c.ParameterListLength = uint16(len(list))
	return exec(ctx, t, c, list)
}

// SendOPC is SEND OPC INFORMATION (MMC-6): calibrate the laser's power.
type SendOPC struct {
	DoOPC               bool   `at:"1[0]"`
	ParameterListLength uint16 `at:"7"`
}

func (SendOPC) shape() shape { return shape{"SEND OPC INFORMATION", 0x54, 10, long} }

// Send calibrates.
func (c SendOPC) Send(ctx context.Context, t scsi.Transport) error { return exec(ctx, t, c, nil) }

// ReserveTrack is RESERVE TRACK (MMC-5 6.31).
type ReserveTrack struct {
	Blocks uint32 `at:"5"`
}

func (ReserveTrack) shape() shape { return shape{"RESERVE TRACK", 0x53, 10, long} }

// Send announces the length of the track; with disc at once, of the disc.
func (c ReserveTrack) Send(ctx context.Context, t scsi.Transport) error { return exec(ctx, t, c, nil) }

// Write is WRITE (10) (MMC-6).
type Write struct {
	LBA    uint32 `at:"2"`
	Blocks uint16 `at:"7"`
}

func (Write) shape() shape { return shape{"WRITE(10)", 0x2A, 10, long} }

// Send writes p, whole blocks, from c.LBA on. c.Blocks follows from p.
func (c Write) Send(ctx context.Context, t scsi.Transport, p []byte) error {
	if len(p)%BlockSize != 0 || len(p)/BlockSize > 0xFFFF {
		return fmt.Errorf("WRITE(10): %d bytes at LBA %d are no whole blocks, or too many", len(p), c.LBA)
	}
	c.Blocks = uint16(len(p) / BlockSize)
	n, err := send(ctx, t, c, scsi.Data{Out: p})
	if err == nil && n != len(p) {
		return fmt.Errorf("WRITE(10): the drive took %d of %d bytes at LBA %d", n, len(p), c.LBA)
	}
	return err
}

// Read is READ (10) (MMC-5 6.15).
type Read struct {
	LBA    uint32 `at:"2"`
	Blocks uint16 `at:"7"`
}

func (Read) shape() shape { return shape{"READ(10)", 0x28, 10, quick} }

// Send fills p, whole blocks, from c.LBA on. c.Blocks follows from p. With a
// recovered error p is filled and the error returned.
func (c Read) Send(ctx context.Context, t scsi.Transport, p []byte) error {
	if len(p)%BlockSize != 0 || len(p)/BlockSize > 0xFFFF {
		return fmt.Errorf("READ(10): %d bytes at LBA %d are no whole blocks, or too many", len(p), c.LBA)
	}
	c.Blocks = uint16(len(p) / BlockSize)
	n, err := send(ctx, t, c, scsi.Data{In: p})
	if n != len(p) && (err == nil || recovered(err)) {
		return fmt.Errorf("READ(10): the drive gave %d of %d bytes at LBA %d", n, len(p), c.LBA)
	}
	return err
}

// ReadBufferCapacity is READ BUFFER CAPACITY (MMC-5 6.18), in bytes.
type ReadBufferCapacity struct {
	Block            bool   `at:"1[0]"`
	AllocationLength uint16 `at:"7"`
}

// BufferCapacity is the reply.
type BufferCapacity struct {
	Length uint32 `at:"4"` // bytes
	Blank  uint32 `at:"8"` // bytes that can be written now
}

func (ReadBufferCapacity) shape() shape { return shape{"READ BUFFER CAPACITY", 0x5C, 10, quick} }

// Send returns how full the drive's buffer is.
func (c ReadBufferCapacity) Send(ctx context.Context, t scsi.Transport) (*BufferCapacity, error) {
	c.AllocationLength = 12
	b, err := query(ctx, t, c, 12, 12)
	if err != nil {
		return nil, err
	}
	r := &BufferCapacity{}
	get(b, r)
	return r, nil
}

// SynchronizeCache is SYNCHRONIZE CACHE (10) (MMC-6).
type SynchronizeCache struct {
	Immediate bool `at:"1[1]"`
}

func (SynchronizeCache) shape() shape { return shape{"SYNCHRONIZE CACHE", 0x35, 10, long} }

// Send makes the drive write what is in its buffer.
func (c SynchronizeCache) Send(ctx context.Context, t scsi.Transport) error {
	return exec(ctx, t, c, nil)
}

// What CloseTrackSession closes (MMC-5 6.3).
const (
	CloseTrack      = 1
	CloseSession    = 2 // on CD-R and DVD-R with multi-session 0: the disc
	FinaliseMinimal = 5 // DVD+R: the disc, with the least lead-out
	Finalise        = 6 // DVD+R, BD-R: the disc
)

// CloseTrackSession is CLOSE TRACK SESSION (MMC-5 6.3).
type CloseTrackSession struct {
	Immediate bool   `at:"1[0]"`
	Function  uint8  `at:"2[2:0]"`
	Track     uint16 `at:"4"`
}

func (c CloseTrackSession) shape() shape {
	limit := time.Duration(ages)
	if c.Immediate {
		limit = long
	}
	return shape{"CLOSE TRACK SESSION", 0x5B, 10, limit}
}

// Send closes a track, or the session.
func (c CloseTrackSession) Send(ctx context.Context, t scsi.Transport) error {
	return exec(ctx, t, c, nil)
}
