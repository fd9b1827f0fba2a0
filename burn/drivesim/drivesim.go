// Package drivesim simulates an optical recorder behind scsi.Transport: a drive
// with a tray, a write buffer that drains, and one write-once disc (DVD-R,
// DVD+R, CD-R or BD-R) that lives in files and remembers what was done to it.
// The programs that burn real discs are meant not to notice.
//
//	DIR/disc.img    the blocks recorded on the disc, 2,048 bytes each, block N
//	                at N × 2,048; it appears with the first recorded block
//	DIR/state.json  drive and disc; replaced atomically
//	DIR/faults      what shall go wrong, a line each; optional
//	DIR/lock        held while a process has the drive open
//
// or, with OpenImage, beside an image file: IMAGE, IMAGE.json, IMAGE.lock.
//
// Open makes a directory that isn't there, with a blank disc in the tray. The
// disc is marked incomplete, on stable storage, before its first block is
// recorded: whatever happens to the process afterwards, it is never blank
// again.
//
// # Media
//
// A disc is a list of tracks in sessions. What is written incrementally (DVD-R,
// DVD+R, BD-R, CD-R track at once) ends in a whole ECC block, padded with
// zeros; DVD-R takes disc at once after RESERVE TRACK, CD-R session at once
// after SEND CUE SHEET, with the pause at negative addresses. Between sessions
// lies a gap. Behind a CD's track that was written at once two blocks belong to
// it that can't be read. A blank BD-R can be formatted: for spare areas, and to
// let recorded blocks be overwritten.
//
// # Time
//
// The drive has a clock of its own. It starts at the time of Open and is moved
// by Wait and by what commands take; nothing ever sleeps, unless Follow was
// called, which ties the clock to the wall's. A command's time limit is what is
// left of its context's deadline when it arrives: a command that would take
// longer ends in scsi.ErrTimeout, with the clock moved by the limit.
//
// # What it refuses
//
// What a real drive does, with the same sense codes: a command without a medium
// (2/3A), while the disc spins up (2/04/01) or a long operation runs (2/04/08);
// the first command after power-on or reset (6/29) and after loading (6/28); a
// write that doesn't fit the buffer at the moment (2/04/08), at any address but
// a next writable one (5/21/02), past the reservation (5/63), past the end
// (5/21/00), before write parameters are set where the medium needs them (5/64)
// or, at once, before a reservation or cue sheet (5/2C), and on a closed disc
// (5/30/05); a read of what was not recorded (5/21/00); ejecting when removal is
// prevented (5/53/02). During a long operation other commands end in 2/04/04
// (formatting), 2/04/07 (closing) or 2/04/08 (writing).
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
//	status XX            the command ends with this SAM status, in hex: 08 is
//	                     busy
//	busy K/AA/QQ DURATION  a long operation begins: until its end commands end in
//	                     this sense, also this one unless "after"
//	tray                 the tray opens, even when it is locked
//	reset                the bus is reset
//	reply OFFSET HEX     the reply has these bytes from OFFSET on
//	short N              the reply is cut to N bytes
//	slow DURATION        each block of the command (or the command, when it has
//	                     none) takes this long (Go syntax: 1m, 300ms)
//	flip OFFSET          bit 0 of this byte of each block in question is
//	                     inverted: of write on the disc, for good, while the
//	                     drive's cache still has the right one until the tray
//	                     was open; of read in what the host gets
package drivesim

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"sallyport/burn/mmc"
)

const (
	blockSize = mmc.BlockSize

	// DVDRBlocks is the capacity of a DVD-R in blocks.
	DVDRBlocks = 2298496

	oneX = 1385 // kB/s
)

// Config is the drive and the disc of a directory that is made. Its zero value
// is a full-height 16× recorder with a blank DVD-R.
type Config struct {
	Capacity  uint32        // of the disc in blocks; 0: that of a real one
	Profile   mmc.Profile   // of the disc: mmc.DVDR (0), DVDPlusR, CDR, BDR; CDROM, DVDROM and BDROM come with something on them. Others are recognised and refused
	NoDAO     bool          // the drive writes no disc and no session at once
	NoReserve bool          // the drive has no RESERVE TRACK
	NoLoad    bool          // the tray has to be pushed in by hand
	Buffer    int           // bytes; 0: 2 MiB
	Speed     int           // fastest, kB/s; 0: 16× for DVD, 22,160; 48× for CD, 8,467; 6× for BD, 26,973
	SpinUp    time.Duration // until a loaded disc is ready; 0: 8 s
	Empty     bool          // no disc in the tray; Load puts the blank one in
}

// Drive is the simulated drive. Its methods may be called from several
// goroutines.
type Drive struct {
	command sync.Mutex // held while a command runs, and while it takes its time
	mu      sync.Mutex
	files   files
	lock    *os.File
	img     *os.File // nil until the first recorded block
	st      state
	now     time.Time

	// How the clock follows the wall's; scale 0: it doesn't.
	scale      float64
	wallStart  time.Time
	driveStart time.Time
	off        chan struct{} // closed by Close

	// The drive's volatile state.
	gone       bool
	broken     error // the simulator's own storage failed
	trayOpen   bool
	locked     bool
	readyAt    time.Time // the disc has spun up
	attention  []uint32  // unit attentions to report, key/asc/ascq packed
	events     []byte    // media events to report
	deferred   []byte    // sense data to report as a deferred error
	spun       bool      // readyAt has passed and the attention for it is queued
	page       [52]byte  // mode page 05h
	pageSet    bool
	pages      map[byte][]byte // other mode pages
	readSpeed  int             // kB/s
	writeSpeed int             // kB/s
	busyFrom   time.Time
	busyUntil  time.Time
	busyCode   uint32       // what commands end in while busy
	whenDone   func() error // effect of the long operation in progress
	rec        recording
	plan       *plan
	cache      map[uint32][]byte // blocks that the cache knows otherwise than the disc

	faults   []*armed
	commands [256]int // by operation code
	total    int

	underruns int
}

// Open opens the drive of dir, making it with New's defaults when there is no
// such directory. The caller closes it. A directory that another process, or
// another Drive, has open is refused.
func Open(dir string) (*Drive, error) {
	if _, err := os.Stat(filepath.Join(dir, stateFile)); errors.Is(err, os.ErrNotExist) {
		return New(dir, Config{})
	}
	return open(inDir(dir))
}

// New makes the directory dir, which must not hold a drive yet, with a blank
// disc, and opens it. The caller closes it.
func New(dir string, c Config) (*Drive, error) {
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = create(inDir(dir), c)
	}
	if err != nil {
		return nil, fmt.Errorf("new simulated drive: %w", err)
	}
	return open(inDir(dir))
}

// OpenImage opens the drive whose disc is the file image, with its state beside
// it, making both with c when there is no state yet; else the disc has to be
// what c says, as far as it says something, and the drive becomes that. Faults
// are armed. The caller closes the drive; an image that another process, or
// another Drive, has open is refused.
func OpenImage(image string, c Config, faults []Fault) (*Drive, error) {
	f := beside(image)
	_, err := os.Stat(f.state)
	if errors.Is(err, os.ErrNotExist) {
		err = create(f, c)
	}
	if err != nil {
		return nil, fmt.Errorf("simulated drive: %w", err)
	}
	d, err := open(f)
	if err != nil {
		return nil, err
	}
	if disc := &d.st.Disc; c.Profile != 0 && c.Profile != disc.Profile || c.Capacity != 0 && c.Capacity != disc.Capacity {
		err := fmt.Errorf("simulated drive: %s is a %v of %d blocks, not what was asked for", image, disc.Profile, disc.Capacity)
		d.Close()
		return nil, err
	}
	if err := d.become(c); err != nil {
		d.Close()
		return nil, fmt.Errorf("simulated drive %s: %w", image, err)
	}
	d.Inject(faults...)
	return d, nil
}

// become makes the drive what c says, as far as it says something.
func (d *Drive) become(c Config) error {
	drive := &d.st.Drive
	drive.Speed = cmp.Or(c.Speed, drive.Speed)
	drive.Buffer = cmp.Or(c.Buffer, drive.Buffer)
	drive.SpinUp = cmp.Or(int(c.SpinUp/time.Millisecond), drive.SpinUp)
	drive.NoDAO, drive.NoReserve, drive.NoLoad = drive.NoDAO || c.NoDAO, drive.NoReserve || c.NoReserve, drive.NoLoad || c.NoLoad
	d.powerOn()
	return d.st.check()
}

func open(f files) (d *Drive, err error) {
	defer func() {
		if err != nil {
			d = nil
			err = fmt.Errorf("simulated drive %s: %w", f.name, err)
		}
	}()
	lock, err := os.OpenFile(f.lock, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	d = &Drive{files: f, lock: lock, now: time.Now().Round(0), off: make(chan struct{})}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("in use by another process: %w", err)
	}
	if err := d.restore(); err != nil {
		d.Close()
		return nil, err
	}
	if d.faults, err = readFaults(f.faults); err != nil {
		d.Close()
		return nil, err
	}
	d.powerOn()
	return d, nil
}

// Close switches the drive off: what is in its buffer is lost, as with a real
// one, and a disc that isn't closed stays incomplete. A command that takes its
// time comes back.
func (d *Drive) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.gone || d.lock != nil {
		select {
		case <-d.off:
		default:
			close(d.off)
		}
	}
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

// Status is a look at the drive from outside.
type Status struct {
	Profile   mmc.Profile
	Disc      string // "blank", "incomplete" or "complete"
	Capacity  uint32 // blocks
	Recorded  uint32 // LBA behind the last recorded block
	Free      uint32 // blocks that the next track can have
	Tracks    int    // recorded or reserved ones
	Sessions  int    // closed ones
	TrayOpen  bool
	Locked    bool // removal is prevented
	ReadSpeed int  // kB/s
	Underruns int  // how often, since Open, a write came when all before it was recorded, once the buffer had been half full
}

// Status returns the state of drive and disc.
func (d *Drive) Status() Status {
	d.enter()
	defer d.mu.Unlock()
	disc := &d.st.Disc
	s := Status{Profile: disc.Profile, Disc: disc.status(), Capacity: d.capacity(), Tracks: len(disc.Tracks), Sessions: disc.Sessions,
		TrayOpen: d.trayOpen, Locked: d.locked, ReadSpeed: d.readSpeed, Underruns: d.underruns}
	for i, t := range disc.Tracks {
		s.Recorded = max(s.Recorded, t.Start+d.recordedIn(i))
	}
	if v := d.views(); len(v) > 0 {
		s.Free = v[len(v)-1].free
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
	d.locked, d.deferred, d.whenDone, d.events = false, nil, nil, nil
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
	d.resetPages()
	d.readSpeed, d.writeSpeed = d.st.Drive.Speed, d.st.Drive.Speed
}

// fail remembers that the simulator's own files can't be written: from then on
// no command succeeds.
func (d *Drive) fail(err error) {
	if err != nil && d.broken == nil {
		d.broken = fmt.Errorf("simulated drive %s: %w", d.files.name, err)
	}
}
