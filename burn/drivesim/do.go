package drivesim

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"sallyport/media/scsi"
)

// request is one command under way.
type request struct {
	cdb   []byte
	data  scsi.Data
	limit time.Duration // left of the time limit; negative: none
	flips []*armed      // faults that change data
	lies  []*armed      // faults that change replies
}

func (r *request) u16(off int) int    { return int(binary.BigEndian.Uint16(r.cdb[off:])) }
func (r *request) u32(off int) uint32 { return binary.BigEndian.Uint32(r.cdb[off:]) }

// reply hands out b, cut to the allocation length.
func (r *request) reply(b []byte, allocation int) (int, error) {
	return copy(r.data.In, b[:min(len(b), allocation)]), nil
}

// command says how one operation code is treated.
type command struct {
	name   string
	always bool // answers without a medium, when busy and with an attention pending
	medium bool // needs a medium that has spun up
	busy   bool // answers while a long operation runs
	run    func(*Drive, *request) (int, error)
}

// The operation codes of commands, by number as in MMC-6 annex.
var commands map[byte]*command

func init() {
	commands = map[byte]*command{
		0x00: {name: "test-unit-ready", medium: true, run: (*Drive).nothing},
		0x03: {name: "request-sense", always: true, run: (*Drive).requestSense},
		0x04: {name: "format-unit", medium: true, run: (*Drive).formatUnit},
		0x12: {name: "inquiry", always: true, run: (*Drive).inquiry},
		0x15: {name: "mode-select", run: (*Drive).modeSelect},
		0x1A: {name: "mode-sense", run: (*Drive).modeSense},
		0x1B: {name: "start-stop-unit", run: (*Drive).startStop},
		0x1E: {name: "prevent-allow-medium-removal", busy: true, run: (*Drive).preventAllow},
		0x23: {name: "read-format-capacities", run: (*Drive).readFormatCapacities},
		0x25: {name: "read-capacity", medium: true, run: (*Drive).readCapacity},
		0x28: {name: "read", medium: true, run: (*Drive).read},
		0x2A: {name: "write", medium: true, run: (*Drive).write},
		0x2B: {name: "seek", medium: true, run: (*Drive).seek},
		0x2E: {name: "write", medium: true, run: (*Drive).write},
		0x2F: {name: "verify", medium: true, run: (*Drive).verify},
		0x35: {name: "synchronize-cache", medium: true, run: (*Drive).synchronizeCache},
		0x43: {name: "read-toc", medium: true, run: (*Drive).readTOC},
		0x46: {name: "get-configuration", always: true, run: (*Drive).getConfiguration},
		0x4A: {name: "get-event-status-notification", always: true, run: (*Drive).getEventStatus},
		0x51: {name: "read-disc-information", medium: true, run: (*Drive).readDiscInformation},
		0x52: {name: "read-track-information", medium: true, run: (*Drive).readTrackInformation},
		0x53: {name: "reserve-track", medium: true, run: (*Drive).reserveTrack},
		0x54: {name: "send-opc-information", medium: true, run: (*Drive).sendOPC},
		0x55: {name: "mode-select", run: (*Drive).modeSelect},
		0x5A: {name: "mode-sense", run: (*Drive).modeSense},
		0x5B: {name: "close-track-session", medium: true, run: (*Drive).closeTrackSession},
		0x5C: {name: "read-buffer-capacity", medium: true, run: (*Drive).readBufferCapacity},
		0x5D: {name: "send-cue-sheet", medium: true, run: (*Drive).sendCueSheet},
		0xA8: {name: "read", medium: true, run: (*Drive).read},
		0xAA: {name: "write", medium: true, run: (*Drive).write},
		0xAC: {name: "get-performance", run: (*Drive).getPerformance},
		0xAD: {name: "read-disc-structure", medium: true, run: (*Drive).readDiscStructure},
		0xB6: {name: "set-streaming", run: (*Drive).setStreaming},
		0xBB: {name: "set-cd-speed", run: (*Drive).setCDSpeed},
		0xBD: {name: "mechanism-status", run: (*Drive).mechanismStatus},
		0xBE: {name: "read-cd", medium: true, run: (*Drive).readCD},
	}
}

// blocks returns which blocks a command is about.
func (r *request) blocks() (lba, n uint32, ok bool) {
	switch r.cdb[0] {
	case 0x28, 0x2A, 0x2E, 0x2F:
		return r.u32(2), uint32(r.u16(7)), true
	case 0xA8, 0xAA:
		return r.u32(2), r.u32(6), true
	case 0xBE:
		return r.u32(2), r.u32(5) & 0xFFFFFF, true
	}
	return 0, 0, false
}

// cdbLength gives a CDB's length by its operation code's group (SPC-3 4.3.4.1).
func cdbLength(op byte) int {
	switch op >> 5 {
	case 0:
		return 6
	case 1, 2:
		return 10
	case 5:
		return 12
	}
	return 0
}

const commandTime = 100 * time.Microsecond

// Do implements scsi.Transport. A CDB may be longer than its operation code
// says: what is behind it doesn't count.
func (d *Drive) Do(ctx context.Context, cdb []byte, data scsi.Data) (int, error) {
	d.command.Lock()
	defer d.command.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	d.enter()
	n, err := d.do(ctx, cdb, data)
	lag := d.lag()
	d.mu.Unlock()
	// A command that was sent is waited for: only its time limit ends it, and
	// that has been taken into account.
	d.sleep(context.WithoutCancel(ctx), lag)
	return n, err
}

func (d *Drive) do(ctx context.Context, cdb []byte, data scsi.Data) (int, error) {
	if len(cdb) == 0 || len(cdb) < cdbLength(cdb[0]) || len(data.In) > 0 && len(data.Out) > 0 {
		return 0, &scsi.TransportError{Err: fmt.Errorf("malformed command: cdb of %d bytes, %d bytes in, %d bytes out", len(cdb), len(data.In), len(data.Out))}
	}
	if n := cdbLength(cdb[0]); n > 0 {
		cdb = cdb[:n]
	}
	r := &request{cdb: cdb, data: data, limit: d.limit(ctx)}
	if d.gone {
		return 0, &scsi.TransportError{Err: scsi.ErrGone}
	}
	d.total++
	d.commands[cdb[0]]++
	c := commands[cdb[0]]
	before, after := d.strikes(r, c)
	d.advance(commandTime)
	if err := d.strike(r, before); err != nil {
		return 0, err
	}
	n, err := d.execute(r, c, before)
	if err == nil {
		n = r.falsify(n)
		err = d.strike(r, after)
	}
	if d.broken != nil {
		return 0, &scsi.TransportError{Err: d.broken}
	}
	return n, err
}

// execute answers with what is pending, or refuses, or runs the command.
// withheld is a fault that lets the command succeed without its effect.
func (d *Drive) execute(r *request, c *command, withheld *armed) (int, error) {
	if c == nil {
		return 0, sense(0x52000)
	}
	if !c.always {
		if s := d.deferred; s != nil {
			d.deferred = nil
			return 0, parsed(s)
		}
		if len(d.attention) > 0 {
			code := d.attention[0]
			d.attention = d.attention[1:]
			return 0, sense(code)
		}
		if d.busy() && !c.busy {
			return 0, parsed(d.progress())
		}
	}
	if c.medium {
		if err := d.ready(); err != nil {
			return 0, err
		}
	}
	if withheld != nil && withheld.Action == Deferred {
		d.deferred = fixedSense(0x71, withheld.Sense, r.lbaOf(withheld))
		return r.data.Len(), nil
	}
	return c.run(d, r)
}

func (d *Drive) ready() error {
	switch {
	case d.trayOpen:
		return sense(0x23A02)
	case d.st.Disc.Absent:
		return sense(0x23A01)
	case !d.spun:
		return sense(0x20401)
	}
	return nil
}

// longWrite is 2/04/08: the buffer is full.
func (d *Drive) longWrite() error { return sense(0x20408) }

// progress is sense data that says what long operation goes on, and how far it
// has come.
func (d *Drive) progress() []byte {
	b := fixedSense(0x70, d.busyCode, nil)
	if total := d.busyUntil.Sub(d.busyFrom); total > 0 {
		b[15] = 0x80
		binary.BigEndian.PutUint16(b[16:], uint16(0xFFFF*d.now.Sub(d.busyFrom)/total))
	}
	return b
}

// fixedSense builds sense data in fixed format (SPC-3 4.5.3); code is
// key/asc/ascq packed.
func fixedSense(response byte, code uint32, info *uint32) []byte {
	b := make([]byte, 18)
	b[0], b[2], b[7], b[12], b[13] = response, byte(code>>16), 10, byte(code>>8), byte(code)
	if info != nil {
		b[0] |= 0x80
		binary.BigEndian.PutUint32(b[3:], *info)
	}
	return b
}

// parsed is what a transport makes of sense data.
func parsed(b []byte) error {
	e, err := scsi.ParseSense(b)
	if err != nil {
		return &scsi.TransportError{Err: err}
	}
	return e
}

func sense(code uint32) error { return parsed(fixedSense(0x70, code, nil)) }
