package carry

import (
	"fmt"
	"time"
)

// Phase is a part of a write.
type Phase string

// Phases.
const (
	PhaseClear  Phase = "clearing"
	PhaseWrite  Phase = "writing"
	PhaseZero   Phase = "zeroing the rest"
	PhaseLast   Phase = "writing what makes it whole"
	PhaseReplug Phase = "plugging in again"
	PhaseRead   Phase = "reading back"
	PhaseProve  Phase = "reading the rest"
)

// MediumInfo is which medium it was. The caller fills in what it knows, as
// texts that are fit to be shown; Write knows the numbers.
type MediumInfo struct {
	BlockSize  int    `json:"block_size"` // bytes
	Descriptor string `json:"descriptor"` // SHA-256 of its USB descriptors, hex
	Port       string `json:"port"`       // where it was plugged in
	Product    string `json:"product"`
	Revision   string `json:"revision"`
	Serial     string `json:"serial"`
	Size       int64  `json:"size"` // bytes, as claimed
	Vendor     string `json:"vendor"`
}

// Failure is where a write ended before its time, and why.
type Failure struct {
	Error  string `json:"error"`
	Offset int64  `json:"offset"` // bytes, -1: no one place
	Phase  Phase  `json:"phase"`
}

// Record is what is kept of a write, for the log. Fields stand in the order of
// their names, as canonical JSON (RFC 8785) has them, and are integers and
// texts.
type Record struct {
	// Cleared says of a write that failed that nothing on the medium can be
	// taken for an image.
	Cleared        bool       `json:"cleared"`
	End            int64      `json:"end"`     // Unix seconds
	Failure        *Failure   `json:"failure"` // null: there was none
	ImageBytes     int64      `json:"image_bytes"`
	ImageSHA256    string     `json:"image_sha256"`
	Medium         MediumInfo `json:"medium"`
	Read           int64      `json:"read"` // bytes of the image, read back and equal
	ReadBackSHA256 string     `json:"readback_sha256"`
	Replugged      bool       `json:"replugged"`       // between writing and reading back
	Start          int64      `json:"start"`           // Unix seconds
	SurplusProven  int64      `json:"surplus_proven"`  // bytes behind the image, read back and zero
	SurplusWritten int64      `json:"surplus_written"` // bytes behind the image that were written; the others were zero when it came to them
	Touched        bool       `json:"touched"`         // something was written, or tried to be
	Verified       bool       `json:"verified"`        // image read back whole and equal, and all behind it zero
	Written        int64      `json:"written"`         // bytes of the image
}

func newRecord(m Medium, image *Image) *Record {
	r := &Record{ImageBytes: image.Size, Medium: MediumInfo{Size: m.Size(), BlockSize: m.BlockSize()}}
	if image.SHA256 != [32]byte{} {
		r.ImageSHA256 = fmt.Sprintf("%x", image.SHA256)
	}
	return r
}

// Progress is how far a write has come.
type Progress struct {
	Phase       Phase
	Done, Total int64         // bytes, of all phases
	Rate        int64         // bytes per second in this phase, 0: not known
	Left        time.Duration // until all is done, -1: not known
}

// meter counts, and tells how far it is and how long it will take.
type meter struct {
	now    func() time.Time
	report func(Progress)

	at    Progress
	begun time.Time        // the phase
	ahead map[Phase]int64  // bytes, of phases that take time
	speed map[Phase]*speed // of these
}

// speed is how much of a phase took how long.
type speed struct {
	bytes int64
	took  time.Duration
}

// like says which phases are as fast as another one probably, best guess first.
var like = map[Phase][]Phase{
	PhaseWrite: {},
	PhaseZero:  {PhaseWrite},
	PhaseRead:  {PhaseWrite},
	PhaseProve: {PhaseRead, PhaseZero, PhaseWrite},
}

func (m *meter) unix() int64 {
	if m.now == nil {
		return 0
	}
	return m.now().Unix()
}

// plan says what is ahead: both is written and read.
func (m *meter) plan(image, behind int64) {
	m.ahead = map[Phase]int64{PhaseWrite: image, PhaseZero: behind, PhaseRead: image, PhaseProve: behind}
	m.speed = map[Phase]*speed{PhaseWrite: {}, PhaseZero: {}, PhaseRead: {}, PhaseProve: {}}
	m.at.Total = 2 * (image + behind)
}

func (m *meter) enter(phase Phase) {
	m.at.Phase, m.at.Rate = phase, 0
	if m.now != nil {
		m.begun = m.now()
	}
	m.tell()
}

// add counts bytes of the phase.
func (m *meter) add(n int64) {
	m.at.Done += n
	s := m.speed[m.at.Phase]
	s.bytes += n
	if m.now != nil {
		s.took = m.now().Sub(m.begun)
	}
	m.at.Rate = s.rate()
	m.tell()
}

func (m *meter) tell() {
	if m.report == nil {
		return
	}
	m.at.Left = m.left()
	m.report(m.at)
}

// left is how long all will take that is ahead. A phase that was not come to is
// taken to be as fast as one that was.
func (m *meter) left() time.Duration {
	sum := time.Duration(0)
	for phase, bytes := range m.ahead {
		rest := bytes - m.speed[phase].bytes
		if rest == 0 {
			continue
		}
		rate := m.speed[phase].rate()
		for _, other := range like[phase] {
			if rate == 0 {
				rate = m.speed[other].rate()
			}
		}
		if rate == 0 {
			return -1
		}
		sum += time.Duration(float64(rest) / float64(rate) * float64(time.Second))
	}
	return sum
}

// rate returns bytes per second.
func (s *speed) rate() int64 {
	if s.took <= 0 {
		return 0
	}
	return int64(float64(s.bytes) / s.took.Seconds())
}
