package burn

import (
	"context"
	"time"
)

// Phase is a part of a burn.
type Phase string

// The phases of Disc, in order.
const (
	PhaseCheck    Phase = "checking"
	PhasePrepare  Phase = "calibrating"
	PhaseWrite    Phase = "writing"
	PhaseClose    Phase = "closing"
	PhaseReload   Phase = "reloading"
	PhaseReadBack Phase = "reading back"
	PhaseSecond   Phase = "reading back in the second drive" // with Options.Second
)

// Progress is how far a burn or a read-back has come.
type Progress struct {
	Phase Phase
	Done  uint32 // blocks, in the phases that write or read
	Total uint32 // blocks
	Speed int64  // bytes per second, since the phase began
}

// Options of Disc and ReadBack. The zero value is good.
type Options struct {
	Number int // of the disc, for the record; the caller never uses one twice
	// Begin, when set, is called once the disc in the drive is found fit,
	// before anything is done to it, and gives its number in place of Number.
	// An error ends the burn and leaves the disc blank.
	Begin func() (number int, err error)

	Speed       int  // kB/s; 0: what the drive chooses
	Times       int  // the same in multiples of the medium's 1×; counts before Speed
	Incremental bool // don't use disc at once even if the drive has it

	// Patience bounds how long the drive may lag behind 0.1 MB/s before the
	// burn or read-back is given up; 0: 5 minutes.
	Patience time.Duration

	// Progress, when set, is called now and then, always from the goroutine
	// that called Disc or ReadBack.
	Progress func(Progress)

	// Load asks a person to put the disc back when the drive can't do it,
	// and returns when that is done. Without it such a drive is an error.
	Load func(why string) error

	// Second, when set, is called when the disc has read back equal and its
	// tray is open. It has a person carry disc number to another drive, and
	// returns that drive, for a second comparison, and what closes it.
	Second func(ctx context.Context, number int) (drive Drive, close func() error, err error)
}

// DriveInfo is a drive as it names itself, reduced to printable ASCII.
type DriveInfo struct {
	Vendor   string `json:"vendor"`
	Product  string `json:"product"`
	Revision string `json:"revision"`
	Serial   string `json:"serial"`
}

// MediumInfo is a disc as the drive describes it.
type MediumInfo struct {
	Type           string `json:"type"`            // "DVD-R"
	ID             string `json:"id"`              // the manufacturer's code
	UniqueID       string `json:"unique_id"`       // of this disc, where the drive wrote one
	CapacityBlocks uint32 `json:"capacity_blocks"` // when it was blank
}

// Record is what is kept of a burn, for the log.
type Record struct {
	DiscNumber     int         `json:"disc_number"`
	ImageBlocks    uint32      `json:"image_blocks"`
	ImageSHA256    string      `json:"image_sha256"`
	Drive          DriveInfo   `json:"drive"`
	Medium         MediumInfo  `json:"medium"`
	WriteMode      string      `json:"write_mode"`   // "disc-at-once", "incremental", "track-at-once" or "sequential"
	SpeedKBs       int         `json:"speed_kbs"`    // of writing, as the drive tells it
	WriteKBs       int         `json:"write_kbs"`    // of writing, as it was
	ReadBackKBs    int         `json:"readback_kbs"` // of reading back, as it was
	Start          int64       `json:"start"`        // Unix seconds
	End            int64       `json:"end"`          // Unix seconds
	Seconds        Seconds     `json:"seconds"`
	Retries        int         `json:"retries"`  // of writing and reading
	Warnings       []string    `json:"warnings"` // never null
	ReadBackSHA256 string      `json:"readback_sha256"`
	Verified       bool        `json:"verified"` // read back whole after reloading, and equal; never of a spoiled disc
	Second         *SecondRead `json:"second"`   // null: not asked for, or not come to
	Spoiled        bool        `json:"spoiled"`  // the burn failed and used the disc up
	Failure        *Failure    `json:"failure"`  // null: there was none
}

// Seconds is how long the phases of a burn took, by the drive's clock.
type Seconds struct {
	Calibrating int64 `json:"calibrating"`
	Writing     int64 `json:"writing"`
	Closing     int64 `json:"closing"`
	Reloading   int64 `json:"reloading"`
	ReadingBack int64 `json:"reading_back"`
}

// SecondRead is the comparison in a second drive.
type SecondRead struct {
	Drive    DriveInfo `json:"drive"`
	Medium   string    `json:"medium"` // as that drive names it: also "DVD-ROM"
	SHA256   string    `json:"sha256"`
	Retries  int       `json:"retries"`
	Verified bool      `json:"verified"` // read whole, and equal
}

// Failure is where a burn failed, and why.
type Failure struct {
	Phase Phase  `json:"phase"`
	LBA   uint32 `json:"lba"` // where it was, or the first block that is wrong
	Error string `json:"error"`
}
