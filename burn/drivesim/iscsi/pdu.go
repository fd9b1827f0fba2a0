package iscsi

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// Operation codes, RFC 7143 11.2.1.2.
const (
	opNopOut      = 0x00
	opCommand     = 0x01
	opTask        = 0x02
	opLogin       = 0x03
	opText        = 0x04
	opDataOut     = 0x05
	opLogout      = 0x06
	opSNACK       = 0x10
	opNopIn       = 0x20
	opResponse    = 0x21
	opTaskAnswer  = 0x22
	opLoginAnswer = 0x23
	opTextAnswer  = 0x24
	opDataIn      = 0x25
	opLogoutReply = 0x26
	opR2T         = 0x31
	opReject      = 0x3F
)

// Reasons of a Reject, RFC 7143 11.17.1.
const (
	rejectSNACK        = 0x03
	rejectProtocol     = 0x04
	rejectNotSupported = 0x05
	rejectTooMany      = 0x06
	rejectTaskInUse    = 0x07
	rejectInvalidField = 0x09
)

const (
	headerSize = 48
	noTag      = 0xFFFFFFFF // the reserved task tag

	// maxSegment is how many bytes of data one PDU may bring: our
	// MaxRecvDataSegmentLength.
	maxSegment = 256 << 10
	// maxLoginSegment is the same before it is negotiated (RFC 7143 13.12).
	maxLoginSegment = 8192
	// maxHeaderSegments bounds what may stand between header and data:
	// TotalAHSLength has one byte, in words.
	maxHeaderSegments = 255 * 4
)

// header is a basic header segment (RFC 7143 11.2.1), 48 bytes.
type header [headerSize]byte

func (h *header) op() byte              { return h[0] & 0x3F }
func (h *header) immediate() bool       { return h[0]&0x40 != 0 }
func (h *header) final() bool           { return h[1]&0x80 != 0 }
func (h *header) ahsLen() int           { return int(h[4]) * 4 }
func (h *header) dataLen() int          { return int(binary.BigEndian.Uint32(h[4:]) & 0xFFFFFF) }
func (h *header) tag() uint32           { return h.u32(16) }
func (h *header) u16(off int) uint16    { return binary.BigEndian.Uint16(h[off:]) }
func (h *header) u32(off int) uint32    { return binary.BigEndian.Uint32(h[off:]) }
func (h *header) put16(o int, v uint16) { binary.BigEndian.PutUint16(h[o:], v) }
func (h *header) put32(o int, v uint32) { binary.BigEndian.PutUint32(h[o:], v) }

func (h *header) setDataLen(n int) {
	h[5], h[6], h[7] = byte(n>>16), byte(n>>8), byte(n)
}

// check bounds what the header says of the rest of the PDU, before anything of
// it is read or room made for it.
func (h *header) check(limit int) error {
	if n := h.dataLen(); n > limit {
		return fmt.Errorf("byte 5: opcode %02xh with %d bytes of data, at most %d were agreed", h.op(), n, limit)
	}
	switch h.op() {
	case opCommand, opNopOut, opLogin, opText, opDataOut:
		return nil
	case opTask, opLogout, opSNACK:
		if h.dataLen() != 0 {
			return fmt.Errorf("byte 5: opcode %02xh with %d bytes of data, it has none", h.op(), h.dataLen())
		}
		return nil
	}
	return fmt.Errorf("byte 0: opcode %02xh is none of an initiator's", h.op())
}

// lun returns the number of the logical unit that the PDU is for, -1 when it is
// none of the two plain ways to write one (SAM-5 4.7.6 and 4.7.7).
func (h *header) lun() int {
	if h.u32(10)|uint32(h.u16(14)) != 0 {
		return -1
	}
	switch b := h[8]; {
	case b == 0:
		return int(h[9])
	case b>>6 == 1:
		return int(b&0x3F)<<8 | int(h[9])
	}
	return -1
}

// readHeader reads a basic header segment and checks it. At the end of the
// stream, between two PDUs, it returns io.EOF.
func readHeader(r io.Reader, h *header, limit int) error {
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return err
	}
	return h.check(limit)
}

// padding is how many bytes fill n up to whole words.
func padding(n int) int { return -n & 3 }

// readData fills p, which has the length that the header gave, and reads the
// bytes that fill it up.
func readData(r io.Reader, p []byte) error {
	if _, err := io.ReadFull(r, p); err != nil {
		return unexpected(err)
	}
	return skip(r, padding(len(p)))
}

// skip reads n bytes and forgets them.
func skip(r io.Reader, n int) error {
	if n == 0 {
		return nil
	}
	_, err := io.CopyN(io.Discard, r, int64(n))
	return unexpected(err)
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

var zeros [4]byte

// writePDU writes h with data behind it, whose length it enters.
func writePDU(w io.Writer, h *header, data []byte) error {
	h.setDataLen(len(data))
	if len(data) == 0 {
		_, err := w.Write(h[:])
		return err
	}
	b := net.Buffers{h[:], data, zeros[:padding(len(data))]}
	_, err := b.WriteTo(w)
	return err
}
