package usbredir

import (
	"encoding/binary"
	"fmt"
)

// Sense codes, key/asc/ascq packed (SPC-4, table 56).
const (
	senseReadError      = 0x31100
	senseWriteError     = 0x30C00
	senseNoMedium       = 0x23A00
	senseInvalidCommand = 0x52000
	senseOutOfRange     = 0x52100
	senseInvalidField   = 0x52400
	senseMediumChanged  = 0x62800
	senseWriteProtected = 0x72700
)

// Peripheral types (SPC-4, table 141).
const (
	Disk = 0
	CD   = 5
)

// LUN is a logical unit of a stick. Its zero value is a disk without a medium.
type LUN struct {
	Type               byte // Disk or CD
	Fixed              bool // the medium can't be removed, it says
	Manufacturer, Name string
	Revision, Serial   string     // all four for INQUIRY, cut to what has room there
	BlockSize          int        // bytes; 512 if 0, 2048 of a CD
	Medium             Medium     // nil if there is none in
	Protected          bool       // writing is refused
	WriteBack          bool       // MODE SENSE says that there is a write cache
	Later              []Geometry // what it turns into, one after the other

	sense     uint32 // of the last command
	attention bool   // the next command hears that the medium is new
	geometry  *Geometry
	turned    int
	turn      turning
}

// Geometry is what a logical unit turns into.
type Geometry struct {
	At        Turn  // OnPlug or OnCapacity
	BlockSize int   // bytes
	Size      int64 // bytes that it says it has; as before if 0
}

// event counts one and turns the unit when it is time.
func (l *LUN) event(e Event) {
	if l.turned < len(l.Later) && l.turn.happened(l.Later[l.turned].At, e) {
		l.geometry = &l.Later[l.turned]
		l.turned++
	}
}

func (l *LUN) powerOn() {
	l.sense, l.attention = 0, l.Medium != nil
	if c, ok := l.Medium.(*Cache); ok {
		_ = c.Evict() // an error comes again when the block is read
	}
}

// blockSize in bytes.
func (l *LUN) blockSize() int {
	switch {
	case l.geometry != nil && l.geometry.BlockSize > 0:
		return l.geometry.BlockSize
	case l.BlockSize > 0:
		return l.BlockSize
	case l.Type == CD:
		return 2048
	}
	return 512
}

// blocks is how many the unit says it has.
func (l *LUN) blocks() uint64 {
	size := l.Medium.Size()
	if l.geometry != nil && l.geometry.Size > 0 {
		size = l.geometry.Size
	}
	return uint64(size) / uint64(l.blockSize())
}

// commands are the operation codes of each name of SPC-4, SBC-3 and MMC-6.
var commands = map[string][]byte{
	"test-unit-ready": {0x00}, "request-sense": {0x03}, "inquiry": {0x12}, "mode-sense": {0x1A, 0x5A}, "start-stop-unit": {0x1B},
	"prevent-allow": {0x1E}, "read-capacity": {0x25, 0x9E}, "read": {0x28, 0x88}, "write": {0x2A, 0x8A}, "verify": {0x2F},
	"synchronize-cache": {0x35, 0x91}, "report-luns": {0xA0},
}

func isRead(code byte) bool { return code == 0x28 || code == 0x88 }

// fail ends a command with sense.
func (t *task) fail(sense uint32) {
	t.status, t.lun.sense = cswFailed, sense
}

// execute does what a command asks for, as far as it can without its data. mu is held.
func (s *Stick) execute(t *task) {
	l := t.lun
	t.size = l.blockSize()
	code := t.cdb[0]
	if len(t.cdb) < cdbLen(code) {
		t.fail(senseInvalidField)
		return
	}
	switch code {
	case 0x03:
		t.reply = fixedSense(l.sense, int(t.cdb[4]))
		l.sense = 0
		return
	case 0x12:
		l.inquiry(t)
		s.aim(t)
		return
	case 0xA0:
		s.reportLUNs(t)
		s.aim(t)
		return
	}
	l.sense = 0
	switch {
	case l.Medium == nil:
		t.fail(senseNoMedium)
	case l.attention:
		l.attention = false
		t.fail(senseMediumChanged)
	default:
		l.medium(t)
	}
	s.aim(t)
}

// cdbLen is how long a command is (SPC-4, 4.2.5.1).
func cdbLen(code byte) int {
	switch code >> 5 {
	case 0:
		return 6
	case 1, 2:
		return 10
	case 4:
		return 16
	case 5:
		return 12
	}
	return 6
}

// medium does the commands that want one.
func (l *LUN) medium(t *task) {
	switch t.cdb[0] {
	case 0x00, 0x1B, 0x1E: // nothing to wait for
	case 0x35, 0x91:
		if err := l.Medium.Sync(); err != nil {
			t.fail(senseWriteError)
		}
	case 0x1A:
		l.modeSense(t, 4, int(t.cdb[4]))
	case 0x5A:
		l.modeSense(t, 8, int(binary.BigEndian.Uint16(t.cdb[7:])))
	case 0x25:
		l.event(OnCapacity)
		b := binary.BigEndian.AppendUint32(nil, uint32(min(l.blocks()-1, 1<<32-1)))
		t.reply = binary.BigEndian.AppendUint32(b, uint32(l.blockSize()))
	case 0x9E:
		if t.cdb[1]&0x1F != 0x10 {
			t.fail(senseInvalidField)
			return
		}
		l.event(OnCapacity)
		b := binary.BigEndian.AppendUint64(nil, l.blocks()-1)
		b = append(binary.BigEndian.AppendUint32(b, uint32(l.blockSize())), make([]byte, 20)...)
		t.reply = b[:min(len(b), int(binary.BigEndian.Uint32(t.cdb[10:])))]
	case 0x28, 0x2A, 0x2F:
		l.address(t, uint64(binary.BigEndian.Uint32(t.cdb[2:])), uint64(binary.BigEndian.Uint16(t.cdb[7:])))
	case 0x88, 0x8A:
		l.address(t, binary.BigEndian.Uint64(t.cdb[2:]), uint64(binary.BigEndian.Uint32(t.cdb[10:])))
	default:
		t.fail(senseInvalidCommand)
	}
}

// address checks which blocks a command is about, and sets the task up for them.
func (l *LUN) address(t *task, lba, n uint64) {
	write := t.cdb[0] == 0x2A || t.cdb[0] == 0x8A
	switch have := l.blocks(); {
	case lba > have || n > have-lba:
		t.fail(senseOutOfRange)
	case write && (l.Protected || l.Type == CD):
		t.fail(senseWriteProtected)
	case t.cdb[0] == 0x2F: // VERIFY without a comparison: the blocks are there
	default:
		t.lba, t.left = lba, n
	}
}

// inquiry answers INQUIRY (SPC-4, 6.4), and of the pages of vital product data 00h, 80h and 83h (7.8).
func (l *LUN) inquiry(t *task) {
	var b []byte
	switch {
	case t.cdb[1]&1 == 0 && t.cdb[2] != 0:
		t.fail(senseInvalidField)
		return
	case t.cdb[1]&1 == 0:
		b = []byte{l.Type, 0x80, 6, 2, 31, 0, 0, 0} // SPC-4
		if l.Fixed {
			b[1] = 0
		}
		b = append(b, padded(l.Manufacturer, "Generic", 8)...)
		b = append(b, padded(l.Name, "Flash Disk", 16)...)
		b = append(b, padded(l.Revision, "1.00", 4)...)
	case t.cdb[2] == 0x00:
		b = []byte{l.Type, 0x00, 0, 3, 0x00, 0x80, 0x83}
	case t.cdb[2] == 0x80:
		b = append([]byte{l.Type, 0x80, 0, byte(len(l.Serial))}, l.Serial...)
	case t.cdb[2] == 0x83: // one designator: T10 vendor identification, in ASCII
		id := append(padded(l.Manufacturer, "Generic", 8), l.Serial...)
		b = append([]byte{l.Type, 0x83, 0, byte(4 + len(id)), 2, 1, 0, byte(len(id))}, id...)
	default:
		t.fail(senseInvalidField)
		return
	}
	t.reply = b[:min(len(b), int(binary.BigEndian.Uint16(t.cdb[3:])))]
}

// padded is s, or other if it is empty, in n bytes.
func padded(s, other string, n int) []byte {
	if s == "" {
		s = other
	}
	return fmt.Appendf(nil, "%-*.*s", n, n, s)
}

// modeSense answers MODE SENSE (SPC-4, 6.11): write protection, and the caching page (SBC-3, 6.5.5) of a unit that
// admits to a cache.
func (l *LUN) modeSense(t *task, header, room int) {
	page := t.cdb[2] & 0x3F
	var pages []byte
	switch {
	case (page == 0x08 || page == 0x3F) && l.WriteBack:
		pages = append([]byte{0x08, 18, 4}, make([]byte, 17)...) // WCE
	case page != 0x3F && page != 0x00:
		t.fail(senseInvalidField)
		return
	}
	b := make([]byte, header)
	protected := byte(0)
	if l.Protected {
		protected = 0x80
	}
	if header == 4 {
		b[0], b[2] = byte(3+len(pages)), protected
	} else {
		binary.BigEndian.PutUint16(b, uint16(6+len(pages)))
		b[3] = protected
	}
	b = append(b, pages...)
	t.reply = b[:min(len(b), room)]
}

// reportLUNs answers REPORT LUNS (SPC-4, 6.33).
func (s *Stick) reportLUNs(t *task) {
	b := binary.BigEndian.AppendUint32(nil, uint32(8*len(s.LUNs)))
	b = append(b, 0, 0, 0, 0)
	for i := range s.LUNs {
		b = append(b, 0, byte(i), 0, 0, 0, 0, 0, 0)
	}
	t.reply = b[:min(len(b), int(binary.BigEndian.Uint32(t.cdb[6:])))]
}

// fixedSense is sense data in fixed format (SPC-4, 4.5.3).
func fixedSense(sense uint32, room int) []byte {
	b := make([]byte, 18)
	b[0], b[2], b[7], b[12], b[13] = 0x70, byte(sense>>16), 10, byte(sense>>8), byte(sense)
	return b[:min(len(b), room)]
}
