package mmc

import (
	"context"
	"encoding/binary"
	"fmt"

	"sallyport/media/scsi"
)

// Features (MMC-6 5.3).
const (
	FeatureProfileList       = 0x0000
	FeatureRemovable         = 0x0003
	FeatureIncremental       = 0x0021 // incremental streaming writable
	FeatureDVDPlusR          = 0x002B // DVD+R: read, and write when bit 0 of its data is set
	FeatureCDTrackAtOnce     = 0x002D // CD track at once
	FeatureDVDRWrite         = 0x002F // DVD-R/-RW write: disc at once
	FeatureBDWrite           = 0x0041 // BD write
	FeatureDriveSerialNumber = 0x0108
)

// GetConfiguration is GET CONFIGURATION (MMC-5 6.6). It reports no unit
// attention.
type GetConfiguration struct {
	RequestType      uint8  `at:"1[1:0]"` // 0 all features, 1 current ones, 2 only Starting
	Starting         uint16 `at:"2"`
	AllocationLength uint16 `at:"7"`
}

// Feature is one feature descriptor (MMC-6 5.2).
type Feature struct {
	Code       uint16 `at:"0"`
	Version    uint8  `at:"2[5:2]"`
	Persistent bool   `at:"2[1]"`
	Current    bool   `at:"2[0]"`
	Data       []byte // behind the 4 bytes of header, at most 255 bytes
}

// Configuration is a reply of GET CONFIGURATION.
type Configuration struct {
	Profile  Profile
	Features []Feature
}

// Feature returns the descriptor of a feature, nil when the drive lacks it.
func (c *Configuration) Feature(code uint16) *Feature {
	for i := range c.Features {
		if c.Features[i].Code == code {
			return &c.Features[i]
		}
	}
	return nil
}

// Current reports whether a feature is there and can be used with the medium
// that is in.
func (c *Configuration) Current(code uint16) bool {
	f := c.Feature(code)
	return f != nil && f.Current
}

// SerialNumber returns the drive's serial number (feature 0108h), empty when it
// tells none.
func (c *Configuration) SerialNumber() string {
	f := c.Feature(FeatureDriveSerialNumber)
	if f == nil {
		return ""
	}
	return ascii(f.Data)
}

// CanLoad reports whether the tray closes on command (MMC-6 5.3.4): the Load
// bit, or, before version 1 of the feature, a tray mechanism.
func (c *Configuration) CanLoad() bool {
	f := c.Feature(FeatureRemovable)
	if f == nil || len(f.Data) == 0 {
		return false
	}
	if f.Version == 0 {
		return f.Data[0]>>5 == 1
	}
	return f.Data[0]&0x10 != 0
}

func (GetConfiguration) shape() shape { return shape{"GET CONFIGURATION", 0x46, 10, quick} }

// configReply bounds a reply: the features of all versions of MMC together
// have less than 2 KiB.
const configReply = 8192

// Send returns the drive's profile and features.
func (c GetConfiguration) Send(ctx context.Context, t scsi.Transport) (*Configuration, error) {
	c.AllocationLength = configReply
	b, err := query(ctx, t, c, configReply, 8)
	if err != nil {
		return nil, err
	}
	r, err := parseConfiguration(b)
	if err != nil {
		return nil, fmt.Errorf("GET CONFIGURATION: %w", err)
	}
	return r, nil
}

func parseConfiguration(b []byte) (*Configuration, error) {
	if len(b) < 8 {
		return nil, &ShortReplyError{len(b), 8}
	}
	r := &Configuration{Profile: Profile(binary.BigEndian.Uint16(b[6:]))}
	b = trim(b, 4+uint64(binary.BigEndian.Uint32(b)))
	for off := 8; off+4 <= len(b); {
		end := off + 4 + int(b[off+3])
		if end > len(b) {
			return nil, &FormatError{off, fmt.Sprintf("feature of %d bytes leaves the reply (%d bytes)", b[off+3], len(b))}
		}
		f := Feature{Data: b[off+4 : end : end]}
		get(b[off:off+4], &f)
		r.Features = append(r.Features, f)
		off = end
	}
	return r, nil
}

// GetEventStatus is GET EVENT STATUS NOTIFICATION (MMC-5 6.7), polled, for the
// media class. It reports no unit attention.
type GetEventStatus struct {
	Polled           bool   `at:"1[0]"`
	Classes          uint8  `at:"4"`
	AllocationLength uint16 `at:"7"`
}

// Media events (MMC-5 6.7).
const (
	EventNone         = 0
	EventEjectRequest = 1
	EventNewMedia     = 2
	EventRemoval      = 3
	EventMediaChanged = 4
)

// MediaEvent is the media event descriptor (MMC-5 6.7).
type MediaEvent struct {
	Event    uint8 `at:"4[3:0]"`
	Present  bool  `at:"5[1]"`
	TrayOpen bool  `at:"5[0]"`
}

func (GetEventStatus) shape() shape { return shape{"GET EVENT STATUS NOTIFICATION", 0x4A, 10, quick} }

// Send returns the pending media event and where the tray is.
func (c GetEventStatus) Send(ctx context.Context, t scsi.Transport) (*MediaEvent, error) {
	c.Polled, c.Classes, c.AllocationLength = true, 1<<4, 8
	b, err := query(ctx, t, c, 8, 4)
	if err != nil {
		return nil, err
	}
	e, err := parseMediaEvent(b)
	if err != nil {
		return nil, fmt.Errorf("GET EVENT STATUS NOTIFICATION: %w", err)
	}
	return e, nil
}

func parseMediaEvent(b []byte) (*MediaEvent, error) {
	if len(b) < 8 {
		return nil, &ShortReplyError{len(b), 8}
	}
	if b[2]&0x80 != 0 || b[2]&7 != 4 {
		return nil, &FormatError{2, fmt.Sprintf("no media event (%02xh)", b[2])}
	}
	e := &MediaEvent{}
	get(b, e)
	return e, nil
}
