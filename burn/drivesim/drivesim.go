// Package drivesim simulates a DVD-R recorder behind scsi.Transport: a drive
// with a tray, a write buffer that drains, and one write-once disc that lives
// in a directory and remembers what was done to it.
//
//	DIR/disc.img    the blocks recorded in the disc's only track, 2,048 bytes
//	                each; it appears with the first recorded block
//	DIR/state.json  drive and disc; replaced atomically
//	DIR/faults      what shall go wrong, a line each; optional
//	DIR/lock        held while a process has the drive open
//
// Open makes a directory that isn't there, with a blank disc in the tray. The
// disc is marked incomplete, on stable storage, before its first block is
// recorded: whatever happens to the process afterwards, it is never blank
// again.
//
// # Time
//
// The drive has a clock of its own. It starts at the time of Open and is moved
// by Wait and by what commands take; nothing ever sleeps. A command's time
// limit is what is left of its context's deadline when it arrives: a command
// that would take longer ends in scsi.ErrTimeout, with the clock moved by the
// limit.
//
// # What it refuses
//
// What a real drive does, with the same sense codes: a command without a medium
// (2/3A), while the disc spins up (2/04/01) or a long operation runs (2/04/08);
// the first command after power-on or reset (6/29) and after loading (6/28); a
// write that doesn't fit the buffer at the moment (2/04/08), at any address but
// the next writable one (5/21/02), past the reservation (5/63), past the end
// (5/21/00), before write parameters are set (5/64) or, in disc-at-once mode,
// before a reservation (5/2C), and on a closed disc (5/30/05); a read of what
// was not recorded (5/21/00); ejecting when removal is prevented (5/53/02).
//
// # Faults
//
// A line of DIR/faults is empty, or a comment after '#', or one of
//
//	[before|after] COMMAND [lba N[-M]] [nth N|from N|always] ACTION
//	medium padding N     N blocks of zeros are readable behind the track
//	medium surplus N     N blocks of other data are readable behind the track
//	medium runout N      the capacity says N blocks more, which can't be read
//	medium sessions N    the disc has N sessions, a track each
//
// What the first three say stands behind the track in the order of their lines.
//
// COMMAND is a name of the standard in lower case with hyphens
// (test-unit-ready, write, read, close-track-session, ...) or "any". "before"
// (the default) fails the command without its effect, "after" lets it take
// effect and then fails it. With lba only commands count whose blocks touch N
// to M. The fault strikes once, at the first command that fits, or at the N-th
// (nth), or at the N-th and all that follow (from), or at all of them (always).
// ACTION is
//
//	sense K/AA/QQ        the command ends with this sense, in hex
//	deferred K/AA/QQ     the command seems to succeed, the next one that may
//	                     report it ends with this as a deferred error
//	timeout              no answer within the time limit; the bus is then reset
//	gone                 the drive leaves the bus for good
//	slow DURATION        each block of the command (or the command, when it has
//	                     none) takes this long (Go syntax: 1m, 300ms)
//	flip OFFSET          bit 0 of this byte of each block in question is
//	                     inverted: of write on the disc, for good, while the
//	                     drive's cache still has the right one until the tray
//	                     was open; of read in what the host gets
package drivesim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

const (
	blockSize = mmc.BlockSize
	eccBlocks = 16 // blocks of an ECC block, the unit of recording on DVD

	// DVDRBlocks is the capacity of a DVD-R in blocks.
	DVDRBlocks = 2298496

	oneX = 1385 // kB/s
)

// Config is the drive and the blank disc of a directory that is made. Its zero
// value is a full-height 16× recorder with a DVD-R.
type Config struct {
	Capacity uint32        // of the disc in blocks; 0: that of a real one
	Profile  mmc.Profile   // of the disc: mmc.DVDR (0), DVDPlusR, CDR, BDR. Others are recognised and refused
	NoDAO    bool          // the drive records incrementally only
	NoLoad   bool          // the tray has to be pushed in by hand
	Buffer   int           // bytes; 0: 2 MiB
	Speed    int           // fastest, kB/s; 0: 16×, 22,160
	SpinUp   time.Duration // until a loaded disc is ready; 0: 8 s
	Empty    bool          // no disc in the tray; Load puts the blank one in
}

// Drive is the simulated drive. Its methods may be called from several
// goroutines.
type Drive struct {
	mu   sync.Mutex
	dir  string
	lock *os.File
	img  *os.File // nil until the first recorded block
	st   state
	now  time.Time

	// The drive's volatile state.
	gone       bool
	broken     error // the simulator's own storage failed
	trayOpen   bool
	locked     bool
	readyAt    time.Time // the disc has spun up
	attention  []uint32  // unit attentions to report, key/asc/ascq packed
	deferred   []byte    // sense data to report as a deferred error
	spun       bool      // readyAt has passed and the attention for it is queued
	page       [52]byte  // mode page 05h
	pageSet    bool
	readSpeed  int // kB/s
	writeSpeed int // kB/s
	busyFrom   time.Time
	busyUntil  time.Time
	whenDone   func() error // effect of the long operation in progress
	rec        recording
	cache      map[uint32][]byte // blocks that the cache knows otherwise than the disc

	faults   []*armed
	commands [256]int // by operation code
	total    int
}

// Open opens the drive of dir, making it with New's defaults when there is no
// such directory. The caller closes it. A directory that another process, or
// another Drive, has open is refused.
func Open(dir string) (*Drive, error) {
	if _, err := os.Stat(filepath.Join(dir, stateFile)); errors.Is(err, os.ErrNotExist) {
		return New(dir, Config{})
	}
	return open(dir)
}

// New makes the directory dir, which must not hold a drive yet, with a blank
// disc, and opens it. The caller closes it.
func New(dir string, c Config) (*Drive, error) {
	if err := create(dir, c); err != nil {
		return nil, fmt.Errorf("new simulated drive: %w", err)
	}
	return open(dir)
}

func open(dir string) (d *Drive, err error) {
	defer func() {
		if err != nil {
			d = nil
			err = fmt.Errorf("simulated drive %s: %w", dir, err)
		}
	}()
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	d = &Drive{dir: dir, lock: lock, now: time.Now().Round(0)}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("in use by another process: %w", err)
	}
	if err := d.restore(); err != nil {
		d.Close()
		return nil, err
	}
	if d.faults, err = readFaults(filepath.Join(dir, "faults")); err != nil {
		d.Close()
		return nil, err
	}
	d.powerOn()
	return d, nil
}

// Close switches the drive off: what is in its buffer is lost, as with a real
// one, and a disc that isn't closed stays incomplete.
func (d *Drive) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.broken
	if d.img != nil {
		d.interrupt()
		err = errors.Join(d.broken, d.img.Close())
		d.img = nil
	}
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
		d.lock = nil
	}
	d.gone = true
	return err
}

// Now returns the drive's virtual time.
func (d *Drive) Now() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

// Wait moves the drive's virtual time by t, unless ctx is done.
func (d *Drive) Wait(ctx context.Context, t time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.advance(max(t, 0))
	return nil
}

// Inject arms faults, as lines of DIR/faults would.
func (d *Drive) Inject(faults ...Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range faults {
		d.faults = append(d.faults, &armed{Fault: f})
	}
}

// ClearFaults disarms all faults.
func (d *Drive) ClearFaults() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = nil
}

// Eject presses the button on the front. It does nothing when removal is
// prevented; the result says whether the tray is open.
func (d *Drive) Eject() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.locked && !d.busy() {
		d.openTray()
	}
	return d.trayOpen
}

// Load pushes the tray in, with the disc in it.
func (d *Drive) Load() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.st.Disc.Absent = false
	d.closeTray()
}

// Replug brings back a drive that went from the bus, switched off and on.
func (d *Drive) Replug() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone = d.lock == nil
	d.powerOn()
}

// Status is a look at the drive from outside.
type Status struct {
	Disc      string // "blank", "incomplete" or "complete"
	Recorded  uint32 // blocks in the track
	Sessions  int    // closed ones
	TrayOpen  bool
	Locked    bool // removal is prevented
	ReadSpeed int  // kB/s
}

// Status returns the state of drive and disc.
func (d *Drive) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Status{Disc: d.st.Disc.Status, Recorded: d.recorded(), TrayOpen: d.trayOpen, Locked: d.locked, ReadSpeed: d.readSpeed}
	if d.st.Disc.Status == complete || d.st.Disc.Appendable {
		s.Sessions = 1
	}
	return s
}

// Commands returns how many commands came in since Open, or how many with
// these operation codes.
func (d *Drive) Commands(ops ...byte) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(ops) == 0 {
		return d.total
	}
	n := 0
	for _, op := range ops {
		n += d.commands[op]
	}
	return n
}

// powerOn sets the volatile state as after switching on.
func (d *Drive) powerOn() {
	d.locked, d.deferred, d.whenDone = false, nil, nil
	d.busyFrom, d.busyUntil = time.Time{}, time.Time{}
	d.cache = map[uint32][]byte{}
	d.interrupt()
	d.resetParameters()
	d.attention = []uint32{0x62900}
	d.trayOpen = false
	d.spinUp()
}

// reset is a bus reset: parameters and locks are as after switching on, while
// what is in the buffer and a long operation go on.
func (d *Drive) reset() {
	d.locked, d.deferred = false, nil
	d.resetParameters()
	d.attention = append(d.attention, 0x62900)
}

func (d *Drive) resetParameters() {
	d.page = [52]byte{0: 0x05, 1: 50, 2: 0x01, 3: 0x05, 4: 0x08}
	d.pageSet = false
	d.readSpeed, d.writeSpeed = d.st.Drive.Speed, d.st.Drive.Speed
}

func (d *Drive) openTray() {
	d.finishLongOperation()
	if d.rec.started {
		d.fail(d.flush())
	}
	d.interrupt()
	d.trayOpen = true
	d.cache = map[uint32][]byte{}
}

func (d *Drive) closeTray() {
	if !d.trayOpen && d.spun {
		return
	}
	d.trayOpen = false
	d.spinUp()
}

func (d *Drive) spinUp() {
	d.spun = false
	d.readyAt = d.now.Add(d.spinUpTime())
}

func (d *Drive) spinUpTime() time.Duration {
	return time.Duration(d.st.Drive.SpinUp) * time.Millisecond
}

func (d *Drive) present() bool { return !d.trayOpen && !d.st.Disc.Absent }
func (d *Drive) busy() bool    { return d.now.Before(d.busyUntil) }

// advance moves the clock: the disc spins up, the buffer drains, a long
// operation ends.
func (d *Drive) advance(t time.Duration) {
	d.now = d.now.Add(t)
	if !d.spun && d.present() && !d.now.Before(d.readyAt) {
		d.spun = true
		d.attention = append(d.attention, 0x62800)
	}
	d.fail(d.drain(t))
	if d.whenDone != nil && !d.busy() {
		d.finishLongOperation()
	}
}

func (d *Drive) finishLongOperation() {
	if done := d.whenDone; done != nil {
		d.whenDone, d.busyUntil = nil, time.Time{}
		d.fail(done())
	}
}

// fail remembers that the simulator's own files can't be written: from then on
// no command succeeds.
func (d *Drive) fail(err error) {
	if err != nil && d.broken == nil {
		d.broken = fmt.Errorf("simulated drive %s: %w", d.dir, err)
	}
}

// long starts an operation of length t that goes on behind the command that
// started it. Without immed the command waits for its end.
func (d *Drive) long(r *request, t time.Duration, immed bool, done func() error) error {
	d.busyFrom, d.busyUntil, d.whenDone = d.now, d.now.Add(t), done
	if immed {
		return nil
	}
	return d.spend(r, t)
}

// spend lets a command take t, at most its time limit.
func (d *Drive) spend(r *request, t time.Duration) error {
	if r.limit >= 0 && t > r.limit {
		d.advance(r.limit)
		r.limit = 0
		d.reset()
		return &scsi.TransportError{Err: scsi.ErrTimeout}
	}
	if r.limit >= 0 {
		r.limit -= t
	}
	d.advance(t)
	return nil
}
