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

// What a disc can be.
const (
	blank      = "blank"
	incomplete = "incomplete"
	complete   = "complete"
)

// state is what survives the process: DIR/state.json.
type state struct {
	Drive driveState `json:"drive"`
	Disc  discState  `json:"disc"`
}

type driveState struct {
	Serial string `json:"serial"`
	NoDAO  bool   `json:"no_dao"`
	NoLoad bool   `json:"no_load"`
	Buffer int    `json:"buffer"`  // bytes
	Speed  int    `json:"speed"`   // kB/s
	SpinUp int    `json:"spin_up"` // ms
}

type discState struct {
	Profile      mmc.Profile `json:"profile"`
	Capacity     uint32      `json:"capacity"` // blocks
	Manufacturer string      `json:"manufacturer"`
	Random       uint16      `json:"random"`         // of the unique identifier
	FirstWrite   string      `json:"first_write"`    // of the unique identifier, YYYYMMDDhhmmss
	Status       string      `json:"status"`         // blank, incomplete, complete
	DAO          bool        `json:"dao"`            // disc at once; else incremental
	TrackClosed  bool        `json:"track_closed"`   // incremental: the track is closed
	Appendable   bool        `json:"appendable"`     // the session is closed, another may follow
	Recorded     uint32      `json:"recorded"`       // blocks, once the track is closed
	Absent       bool        `json:"absent"`         // not in the tray
	Damaged      bool        `json:"write_was_lost"` // disc at once ended before its time
}

// capacities of blank media in blocks.
var capacities = map[mmc.Profile]uint32{mmc.DVDR: DVDRBlocks, mmc.DVDPlusR: 2295104, mmc.CDR: 359844, mmc.BDR: 12219392}

// Bounds on what a state file may say, so that a damaged one is an error and
// not a panic.
const (
	maxCapacity = 1 << 26 // blocks
	maxBuffer   = 64 << 20
	maxSpeed    = 1 << 20   // kB/s
	maxSpinUp   = 3_600_000 // ms
	maxState    = 64 << 10  // bytes of the file
)

func (s *state) check() error {
	switch s.Disc.Status {
	case blank, incomplete, complete:
	default:
		return fmt.Errorf("disc status %q", s.Disc.Status)
	}
	if s.Disc.Capacity == 0 || s.Disc.Capacity > maxCapacity || s.Disc.Recorded > s.Disc.Capacity {
		return fmt.Errorf("%d blocks recorded of %d", s.Disc.Recorded, s.Disc.Capacity)
	}
	if s.Drive.Buffer < eccBlocks*blockSize || s.Drive.Buffer > maxBuffer || s.Drive.Speed < oneX || s.Drive.Speed > maxSpeed ||
		s.Drive.SpinUp < 0 || s.Drive.SpinUp > maxSpinUp {
		return fmt.Errorf("buffer of %d bytes, speed %d kB/s, spin-up in %d ms", s.Drive.Buffer, s.Drive.Speed, s.Drive.SpinUp)
	}
	return nil
}

// create makes dir with a drive and a blank disc.
func create(dir string, c Config) error {
	var random [10]byte
	rand.Read(random[:])
	if c.Profile == 0 {
		c.Profile = mmc.DVDR
	}
	if _, ok := capacities[c.Profile]; !ok {
		c.Capacity = cmp.Or(c.Capacity, DVDRBlocks)
	}
	if c.Capacity == 0 {
		c.Capacity = capacities[c.Profile]
	}
	if c.Buffer == 0 {
		c.Buffer = 2 << 20
	}
	if c.Speed == 0 {
		c.Speed = 16 * oneX
	}
	if c.SpinUp == 0 {
		c.SpinUp = 8 * time.Second
	}
	s := state{
		Drive: driveState{Serial: fmt.Sprintf("SIM%X", random[:6]), NoDAO: c.NoDAO, NoLoad: c.NoLoad, Buffer: c.Buffer, Speed: c.Speed, SpinUp: int(c.SpinUp / time.Millisecond)},
		Disc: discState{Profile: c.Profile, Capacity: c.Capacity, Manufacturer: "SALLYSIM0001",
			Random: 1 | binary.BigEndian.Uint16(random[8:]), Status: blank, Absent: c.Empty},
	}
	if err := s.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{stateFile, imageFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return fmt.Errorf("%s is there already", filepath.Join(dir, name))
		}
	}
	return writeState(dir, &s)
}

// writeState replaces the state file, durably.
func writeState(dir string, s *state) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(dir, stateFile), append(b, '\n'), 0o644, renameio.WithTempDir(dir)); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *Drive) save() error { return writeState(d.dir, &d.st) }

// restore reads the state file and opens what was recorded.
func (d *Drive) restore() error {
	f, err := os.Open(filepath.Join(d.dir, stateFile))
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return err
	}
	if len(b) > maxState {
		return fmt.Errorf("%s: more than %d bytes", stateFile, maxState)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d.st); err != nil {
		return fmt.Errorf("%s: byte %d: %w", stateFile, dec.InputOffset(), err)
	}
	if err := d.st.check(); err != nil {
		return fmt.Errorf("%s: %w", stateFile, err)
	}
	return d.openImage()
}

// openImage opens the image of a disc that has something recorded on it, and
// finds out how much when the drive was switched off in the middle.
func (d *Drive) openImage() error {
	img, err := os.OpenFile(filepath.Join(d.dir, imageFile), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		if d.st.Disc.Status == complete {
			return fmt.Errorf("%s is missing, yet the disc is closed", imageFile)
		}
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
	blocks := uint32(min(fi.Size()/blockSize, maxCapacity))
	switch d.st.Disc.Status {
	case blank:
		if fi.Size() > 0 {
			return fmt.Errorf("%s has %d bytes, yet the disc is blank", imageFile, fi.Size())
		}
	case incomplete:
		// Never more than the process recorded, and whole ECC blocks only.
		if !d.st.Disc.TrackClosed {
			d.st.Disc.Recorded = min(blocks, d.st.Disc.Capacity) / eccBlocks * eccBlocks
		}
		d.st.Disc.Damaged = d.st.Disc.DAO
	case complete:
		if blocks < d.st.Disc.Recorded {
			return fmt.Errorf("%s has %d blocks, want %d", imageFile, blocks, d.st.Disc.Recorded)
		}
	}
	return nil
}
