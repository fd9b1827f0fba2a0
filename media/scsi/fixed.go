package scsi

import "encoding/binary"

// Fixed returns the answer as sense data in fixed format (SPC-3 4.5.3), as a
// simulated device sends it. ParseSense reads it back equal, but for an
// INFORMATION field of more than 32 bits, which this format can't carry and
// which is left out.
func (e *SenseError) Fixed() []byte {
	b := make([]byte, 18)
	b[0] = 0x70
	if e.Deferred {
		b[0] = 0x71
	}
	if e.InfoValid && e.Info <= 0xFFFFFFFF {
		b[0] |= 0x80
		binary.BigEndian.PutUint32(b[3:], uint32(e.Info))
	}
	b[2], b[7], b[12], b[13] = e.Key&0x0F, byte(len(b)-8), e.ASC, e.ASCQ
	if e.ProgressValid {
		b[15] = 0x80
		binary.BigEndian.PutUint16(b[16:], e.Progress)
	}
	return b
}
