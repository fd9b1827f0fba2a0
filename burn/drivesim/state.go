package drivesim

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"sallyport/burn/mmc"
)

const (
	stateFile = "state.json"
	imageFile = "disc.img"
)

// state is what survives the process: the state file.
type state struct {
	Drive driveState `json:"drive"`
	Disc  discState  `json:"disc"`
}

type driveState struct {
	Serial    string `json:"serial"`
	NoDAO     bool   `json:"no_dao"`
	NoReserve bool   `json:"no_reserve"`
	NoLoad    bool   `json:"no_load"`
	Buffer    int    `json:"buffer"`  // bytes
	Speed     int    `json:"speed"`   // kB/s
	SpinUp    int    `json:"spin_up"` // ms
}

// Bounds on what a state file may say, so that a damaged one is an error and
// not a panic.
const (
	maxTracks   = 99
	maxCapacity = 1 << 26 // blocks
	minBuffer   = 32 << 10
	maxBuffer   = 64 << 20
	minSpeed    = 100       // kB/s
	maxSpeed    = 1 << 20   // kB/s
	maxSpinUp   = 3_600_000 // ms
	maxState    = 64 << 10  // bytes of the file
)

func (s *state) check() error {
	disc := &s.Disc
	if disc.Capacity == 0 || disc.Capacity > maxCapacity || disc.Spare > disc.Capacity {
		return fmt.Errorf("capacity of %d blocks, %d of them spare", disc.Capacity, disc.Spare)
	}
	if s.Drive.Buffer < minBuffer || s.Drive.Buffer > maxBuffer || s.Drive.Speed < minSpeed || s.Drive.Speed > maxSpeed ||
		s.Drive.SpinUp < 0 || s.Drive.SpinUp > maxSpinUp {
		return fmt.Errorf("buffer of %d bytes, speed %d kB/s, spin-up in %d ms", s.Drive.Buffer, s.Drive.Speed, s.Drive.SpinUp)
	}
	if len(disc.Tracks) > maxTracks || disc.Recording < 0 || disc.Recording > len(disc.Tracks) || disc.Finalised && len(disc.Tracks) == 0 {
		return fmt.Errorf("%d tracks, track %d being recorded, finalised %v", len(disc.Tracks), disc.Recording, disc.Finalised)
	}
	return disc.checkTracks()
}

// checkTracks holds the tracks to what they may be: one behind the other, each
// in the session of the one before it or the next, the closed ones first.
func (s *discState) checkTracks() error {
	end, session := uint64(0), 1
	for i, t := range s.Tracks {
		blocks := uint64(max(t.Reserved, t.Recorded))
		if uint64(t.Start) < end || uint64(t.Start)+blocks > uint64(s.Capacity)+2 || t.Reserved > 0 && t.Recorded > t.Reserved {
			return fmt.Errorf("track %d: %d blocks from LBA %d, %d recorded, of %d", i+1, t.Reserved, t.Start, t.Recorded, s.Capacity)
		}
		if t.Session < session || t.Session > session+1 || t.Session > s.Sessions+1 || i == 0 && t.Session != 1 {
			return fmt.Errorf("track %d is in session %d, %d are closed", i+1, t.Session, s.Sessions)
		}
		if t.openEnded() && i < len(s.Tracks)-1 || t.Session <= s.Sessions && !t.Closed || s.Finalised && !t.Closed {
			return fmt.Errorf("track %d is open", i+1)
		}
		end, session = uint64(t.Start)+blocks, t.Session
	}
	if t := s.last(); s.Sessions < 0 || t == nil && s.Sessions > 0 || t != nil && s.Sessions > t.Session {
		return fmt.Errorf("%d tracks, %d sessions", len(s.Tracks), s.Sessions)
	}
	return nil
}

// files are where a drive lives.
type files struct {
	name   string // in errors
	dir    string
	state  string
	image  string
	lock   string
	faults string // "": none
}

func inDir(dir string) files {
	at := func(name string) string { return filepath.Join(dir, name) }
	return files{name: dir, dir: dir, state: at(stateFile), image: at(imageFile), lock: at("lock"), faults: at("faults")}
}

func beside(image string) files {
	return files{name: image, dir: filepath.Dir(image), state: image + ".json", image: image, lock: image + ".lock"}
}

// sync makes new names in the directory durable.
func (f files) sync() error {
	dir, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// create makes a drive and a disc: a blank one, or a pressed one that is full
// of zeros.
func create(f files, c Config) error {
	var random [10]byte
	rand.Read(random[:])
	c.Profile = cmp.Or(c.Profile, mmc.DVDR)
	k := kindOf(c.Profile)
	c.Speed = cmp.Or(c.Speed, k.speeds[0])
	c.Buffer = cmp.Or(c.Buffer, 2<<20)
	c.SpinUp = cmp.Or(c.SpinUp, 8*time.Second)
	c.Capacity = cmp.Or(c.Capacity, k.capacity)
	s := state{
		Drive: driveState{Serial: fmt.Sprintf("SIM%X", random[:6]), NoDAO: c.NoDAO, NoReserve: c.NoReserve, NoLoad: c.NoLoad,
			Buffer: c.Buffer, Speed: c.Speed, SpinUp: int(c.SpinUp / time.Millisecond)},
		Disc: discState{Profile: c.Profile, Capacity: c.Capacity, Manufacturer: k.manufacturer,
			Random: 1 | binary.BigEndian.Uint16(random[8:]), Absent: c.Empty, Tracks: []track{}},
	}
	if pressed[c.Profile] {
		s.Disc.Tracks = []track{{Session: 1, Recorded: c.Capacity, Reserved: c.Capacity, Once: true, Closed: true}}
		s.Disc.Sessions, s.Disc.Finalised = 1, true
	}
	if err := s.check(); err != nil {
		return err
	}
	for _, name := range []string{f.state, f.image} {
		if _, err := os.Lstat(name); err == nil {
			return fmt.Errorf("%s is there already", name)
		}
	}
	if s.Disc.Finalised {
		img, err := os.OpenFile(f.image, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		if err := errors.Join(img.Truncate(int64(c.Capacity)*blockSize), img.Close()); err != nil {
			return err
		}
	}
	return writeState(f, &s)
}

// writeState replaces the state file, durably.
func writeState(f files, s *state) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(f.state, append(b, '\n'), 0o644, renameio.WithTempDir(f.dir)); err != nil {
		return err
	}
	return f.sync()
}

func (d *Drive) save() error {
	d.keep()
	return writeState(d.files, &d.st)
}

// restore reads the state file and opens what was recorded.
func (d *Drive) restore() error {
	f, err := os.Open(d.files.state)
	if err != nil {
		return err
	}
	defer f.Close()
	name := filepath.Base(d.files.state)
	b, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return err
	}
	if len(b) > maxState {
		return fmt.Errorf("%s: more than %d bytes", name, maxState)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d.st); err != nil {
		return fmt.Errorf("%s: byte %d: %w", name, dec.InputOffset(), err)
	}
	if err := d.st.check(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return d.openImage()
}

// openImage opens the image of a disc that has something recorded on it, and
// finds out how much when the drive was switched off in the middle.
func (d *Drive) openImage() error {
	disc, name := &d.st.Disc, filepath.Base(d.files.image)
	img, err := os.OpenFile(d.files.image, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		for _, t := range disc.Tracks {
			if t.Recorded > 0 {
				return fmt.Errorf("%s is missing, yet something is recorded on the disc", name)
			}
		}
		d.cutOff()
		return nil
	}
	if err != nil {
		return err
	}
	d.img = img
	fi, err := img.Stat()
	if err != nil {
		return err
	}
	if len(disc.Tracks) == 0 && fi.Size() > 0 {
		return fmt.Errorf("%s has %d bytes, yet the disc is blank", name, fi.Size())
	}
	blocks := uint32(min(fi.Size()/blockSize, maxCapacity))
	if disc.Recording > 0 {
		d.findEnd(blocks)
		d.cutOff()
	}
	for i, t := range disc.Tracks {
		if t.Recorded > 0 && blocks < t.Start+t.Recorded {
			return fmt.Errorf("%s has %d blocks, want %d for track %d", name, blocks, t.Start+t.Recorded, i+1)
		}
	}
	return nil
}

// findEnd finds how far a recording came that was cut off with the process:
// never farther than the image file has blocks.
func (d *Drive) findEnd(blocks uint32) {
	disc := &d.st.Disc
	for i := disc.Recording - 1; i < len(disc.Tracks); i++ {
		t := &disc.Tracks[i]
		n := min(max(blocks, t.Start)-t.Start, disc.Capacity+d.kind().runOut-t.Start)
		if t.Reserved > 0 {
			n = min(n, t.Reserved)
		}
		if !t.Closed {
			t.Recorded = max(t.Recorded, n)
		}
	}
}
