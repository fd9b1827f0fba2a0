package wipe

import "time"

// meter counts, and tells how far it is and how long it will take.
type meter struct {
	now    func() time.Time
	report func(Progress)

	at          Progress
	begun       time.Time // the phase
	before      int64     // done when the phase began
	write, read speed
}

// speed is how fast one direction was, over all passes.
type speed struct {
	bytes int64
	took  time.Duration
}

func newMeter(now func() time.Time, report func(Progress)) meter {
	return meter{now: now, report: report}
}

func (m *meter) unix() int64 {
	if m.now == nil {
		return 0
	}
	return m.now().Unix()
}

// plan says what is ahead: half of total is written, and half read.
func (m *meter) plan(passes int, total int64) { m.at.Passes, m.at.Total = passes, total }

// enter begins a phase.
func (m *meter) enter(pass int, phase Phase) {
	m.at.Pass, m.at.Phase, m.at.Rate, m.before = pass, phase, 0, m.at.Done
	if m.now != nil {
		m.begun = m.now()
	}
	m.tell()
}

// add counts bytes of the phase.
func (m *meter) add(n int64) {
	m.at.Done += n
	m.tell()
}

func (m *meter) tell() {
	if m.report == nil {
		return
	}
	m.at.Left = -1
	if m.now != nil {
		m.estimate(speed{m.at.Done - m.before, m.now().Sub(m.begun)})
	}
	m.report(m.at)
}

// estimate fills in rate and time left. A direction that was not tried yet is
// taken to be as fast as the other.
func (m *meter) estimate(phase speed) {
	write, read := m.write, m.read
	switch m.at.Phase {
	case PhaseWrite:
		m.write.last(phase)
		write = m.write
	case PhaseRead:
		m.read.last(phase)
		read = m.read
	case PhaseFlush: // all that takes time in a quick test
		if m.at.Rate = phase.rate(); m.at.Rate > 0 {
			m.at.Left = phase.duration(m.at.Total - m.at.Done)
		}
		return
	default:
		return
	}
	m.at.Rate = phase.rate()
	if write.rate() == 0 {
		write = read
	}
	if read.rate() == 0 {
		read = write
	}
	if write.rate() == 0 || m.at.Passes == 0 {
		return
	}
	half := m.at.Total / 2 / int64(m.at.Passes) // of one phase of one pass
	here := half - phase.bytes
	later := int64(m.at.Passes-m.at.Pass) * half
	left := write.duration(later) + read.duration(later)
	if m.at.Phase == PhaseWrite {
		left += write.duration(here) + read.duration(half)
	} else {
		left += read.duration(here)
	}
	m.at.Left = left
}

// last sets a speed to that of the phase that goes on.
func (s *speed) last(phase speed) {
	if phase.rate() > 0 {
		*s = phase
	}
}

// rate returns bytes per second.
func (s speed) rate() int64 {
	if s.took <= 0 {
		return 0
	}
	return int64(float64(s.bytes) / s.took.Seconds())
}

func (s speed) duration(bytes int64) time.Duration {
	return time.Duration(float64(max(bytes, 0)) / float64(s.rate()) * float64(time.Second))
}
