package scsi

import (
	"encoding/binary"
	"fmt"
)

// Sense keys, SPC-3 4.5.6.
const (
	NoSense        byte = 0x0
	RecoveredError byte = 0x1
	NotReady       byte = 0x2
	MediumError    byte = 0x3
	HardwareError  byte = 0x4
	IllegalRequest byte = 0x5
	UnitAttention  byte = 0x6
	DataProtect    byte = 0x7
	BlankCheck     byte = 0x8
	AbortedCommand byte = 0xB
)

// SenseError is a device's answer to a command that ended in CHECK CONDITION
// (SPC-3 4.5). Match it with errors.Is and a Code.
type SenseError struct {
	Key  byte // sense key, 0h to Fh
	ASC  byte // additional sense code
	ASCQ byte // additional sense code qualifier

	// Deferred: the error belongs to an earlier command that was already
	// acknowledged (response codes 71h and 73h, SPC-3 4.5.5). The command
	// that got this answer was not carried out.
	Deferred bool

	// Info is the INFORMATION field: for a medium error the LBA.
	Info      uint64
	InfoValid bool

	// Progress of a long operation in 1/65536, from the sense-key specific
	// bytes (SPC-3 4.5.2.4); only with NOT READY or NO SENSE.
	Progress      uint16
	ProgressValid bool
}

// Recovered reports that the command was carried out in full, with an effort
// or a warning worth telling: sense key 0h or 1h, not deferred.
func (e *SenseError) Recovered() bool { return e.Key <= RecoveredError && !e.Deferred }

// Code returns key, ASC and ASCQ as a Code without wildcards.
func (e *SenseError) Code() Code {
	return Code(e.Key)<<16 | Code(e.ASC)<<8 | Code(e.ASCQ)
}

func (e *SenseError) Error() string {
	s := e.Code().Error()
	if e.Deferred {
		s = "deferred " + s
	}
	if e.InfoValid {
		s += fmt.Sprintf(", information %d", e.Info)
	}
	return s
}

// Is reports whether target is a Code that this answer falls under.
func (e *SenseError) Is(target error) bool {
	c, ok := target.(Code)
	return ok && c.covers(e)
}

// Code is a sense code as the standards write it, key/ASC/ASCQ packed as
// 0xKAAQQ, with AnyASC and AnyASCQ as wildcards:
//
//	errors.Is(err, scsi.Code(0x2_04_08))
//	errors.Is(err, scsi.Code(0x3_0C_00)|scsi.AnyASCQ)
//
// A Code covers deferred answers too; ask SenseError.Deferred where that
// matters.
type Code uint32

// Wildcards.
const (
	AnyASCQ Code = 1 << 24       // any qualifier under this key and ASC
	AnyASC  Code = 1<<25 | 1<<24 // any answer with this key
	AnyKey  Code = 1 << 26       // any key with this ASC (and ASCQ)
)

// Codes that callers tell apart.
const (
	BecomingReady       Code = 0x2_04_01
	OperationInProgress Code = 0x2_04_07
	LongWriteInProgress Code = 0x2_04_08
	NoMedium            Code = 0x2_3A_00 | AnyASCQ
	WriteError          Code = 0x3_0C_00 | AnyASCQ
	ReadError           Code = 0x3_11_00 | AnyASCQ
	CalibrationNearFull Code = 0x1_73_01
	CalibrationError    Code = 0x3_73_03
	InvalidOpcode       Code = 0x5_20_00
	OutOfRange          Code = 0x5_21_00 | AnyASCQ
	InvalidField        Code = 0x5_24_00
	NoUnit              Code = 0x5_25_00 // what answers has no such device any more
	SequenceError       Code = 0x5_2C_00
	IncompatibleMedium  Code = 0x5_30_00 | AnyASCQ | AnyKey
	IllegalMode         Code = 0x5_64_00 | AnyASCQ
	MediumChanged       Code = 0x6_28_00 | AnyASCQ
	WasReset            Code = 0x6_29_00 | AnyASCQ
	AnyUnitAttention    Code = 0x6_00_00 | AnyASC
	AnyIllegalRequest   Code = 0x5_00_00 | AnyASC
	AnyMediumError      Code = 0x3_00_00 | AnyASC
	AnyHardwareError    Code = 0x4_00_00 | AnyASC
	AnyRecoveredError   Code = 0x1_00_00 | AnyASC
	AnyNotReady         Code = 0x2_00_00 | AnyASC
)

func (c Code) covers(e *SenseError) bool {
	return (c&AnyKey != 0 || byte(c>>16&0xF) == e.Key) &&
		(c&AnyASC == AnyASC || byte(c>>8) == e.ASC) &&
		(c&AnyASCQ != 0 || byte(c) == e.ASCQ)
}

func (c Code) Error() string {
	key, asc, ascq := byte(c>>16&0xF), byte(c>>8), byte(c)
	k, a, q := fmt.Sprintf("%x", key), fmt.Sprintf("%02x", asc), fmt.Sprintf("%02x", ascq)
	words := keyWords(key)
	if c&AnyKey != 0 {
		k, words = "*", "any key"
	}
	if c&AnyASC == AnyASC {
		return fmt.Sprintf("sense %s/*/* (%s)", k, words)
	}
	if c&AnyASCQ != 0 {
		q = "*"
	}
	if w := ascWords(asc, ascq); w != "" {
		words += ": " + w
	}
	return fmt.Sprintf("sense %s/%s/%s (%s)", k, a, q, words)
}

// MaxSense is the most that a device may return as sense data: 8 bytes and
// what the ADDITIONAL SENSE LENGTH, one byte, can announce, at most 252
// altogether (SPC-3 4.5.1).
const MaxSense = 252

// ParseSense reads sense data as a device returned it, in fixed (response
// codes 70h, 71h; SPC-3 4.5.3) or descriptor format (72h, 73h; SPC-3 4.5.2).
// Fields that lie behind the end of b, or behind the length that the data
// itself announces, are zero. An error says that b holds no sense data at all,
// with the byte offset.
func ParseSense(b []byte) (*SenseError, error) {
	if len(b) > MaxSense {
		b = b[:MaxSense]
	}
	if len(b) < 4 {
		return nil, fmt.Errorf("sense data: byte %d: truncated, want at least 4 bytes", len(b))
	}
	e := &SenseError{}
	switch code := b[0] & 0x7F; code {
	case 0x70, 0x71:
		e.Deferred = code == 0x71
		parseFixed(e, b)
	case 0x72, 0x73:
		e.Deferred = code == 0x73
		if err := parseDescriptors(e, b); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("sense data: byte 0: unknown response code %02xh", code)
	}
	return e, nil
}

// announced cuts b to the length that its byte 7 announces.
func announced(b []byte) []byte {
	if len(b) < 8 {
		return b
	}
	return b[:min(len(b), 8+int(b[7]))]
}

func parseFixed(e *SenseError, b []byte) {
	e.Key = b[2] & 0x0F
	if len(b) < 7 {
		return
	}
	e.InfoValid = b[0]&0x80 != 0
	if e.InfoValid {
		e.Info = uint64(binary.BigEndian.Uint32(b[3:]))
	}
	b = announced(b)
	if len(b) >= 13 {
		e.ASC = b[12]
	}
	if len(b) >= 14 {
		e.ASCQ = b[13]
	}
	if len(b) >= 18 {
		e.setProgress(b[15:18])
	}
}

func parseDescriptors(e *SenseError, b []byte) error {
	e.Key, e.ASC, e.ASCQ = b[1]&0x0F, b[2], b[3]
	b = announced(b)
	for off := 8; off+2 <= len(b); {
		kind, length := b[off], int(b[off+1])
		end := off + 2 + length
		if end > len(b) {
			return fmt.Errorf("sense data: byte %d: descriptor of %d bytes leaves the data (%d bytes)", off, length, len(b))
		}
		switch {
		case kind == 0x00 && length >= 10:
			if e.InfoValid = b[off+2]&0x80 != 0; e.InfoValid {
				e.Info = binary.BigEndian.Uint64(b[off+4:])
			}
		case kind == 0x02 && length >= 6:
			e.setProgress(b[off+4 : off+7])
		}
		off = end
	}
	return nil
}

func (e *SenseError) setProgress(b []byte) {
	if b[0]&0x80 == 0 || e.Key != NotReady && e.Key != NoSense {
		return
	}
	e.Progress, e.ProgressValid = binary.BigEndian.Uint16(b[1:]), true
}
