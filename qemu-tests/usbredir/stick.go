package usbredir

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Standard requests (USB 2.0, table 9-4).
const (
	reqGetStatus        = 0
	reqClearFeature     = 1
	reqSetFeature       = 3
	reqGetDescriptor    = 6
	reqGetConfiguration = 8
	reqSetConfiguration = 9
	reqGetInterface     = 10
	reqSetInterface     = 11
)

// Class requests: bulk-only transport 3.1 and 3.2, HID 7.2.
const (
	reqBulkOnlyReset = 0xFF
	reqGetMaxLUN     = 0xFE
	reqSetReport     = 9
	reqSetIdle       = 10
	reqSetProtocol   = 11
)

// Event is something that may turn a device into another.
type Event string

// Events. Each is counted from the turn before.
const (
	OnPlug       Event = "plug"       // it is plugged in once more
	OnReset      Event = "reset"      // the bus is reset
	OnConfigure  Event = "configure"  // a configuration is set
	OnDescriptor Event = "descriptor" // the device descriptor is read: this read has the new one
	OnCapacity   Event = "capacity"   // READ CAPACITY, of a disk's Later only: this one has the new capacity
)

// Turn is when a device turns into another one.
type Turn struct {
	On  Event
	Nth int // 1 if 0
}

// turning counts events up to a turn.
type turning struct{ seen int }

func (t *turning) happened(turn Turn, event Event) bool {
	if turn.On != event {
		return false
	}
	t.seen++
	if t.seen < max(turn.Nth, 1) {
		return false
	}
	t.seen = 0
	return true
}

// Stick is a device with a SCSI disk, or several, behind the bulk-only transport, and with whatever else its faces
// say. Other interfaces than storage have descriptors, take what comes, and say nothing; keyboards type. Its fields are
// set before it is served.
type Stick struct {
	Faces  []Face
	Turns  []Turn // Turns[i] leads from Faces[i] to Faces[i+1]
	LUNs   []*LUN
	Faults []Fault
	Types  string // what its keyboards type once somebody listens

	// See, if set, is told of every SCSI command before it is executed.
	See func(lun byte, cdb []byte)

	mu         sync.Mutex
	changed    chan struct{} // closed when the transport's state changes
	face       int
	turn       turning
	plugs      int
	config     int // bConfigurationValue, 0 for none
	alternates map[byte]byte
	halted     map[byte]bool // endpoints
	gone       bool
	bot        transport
	faults     []*armed
	counts     Counts
	typed      map[byte]int  // by endpoint: reports sent
	typing     chan struct{} // closed when Types grows
}

// Counts is what has happened to a stick.
type Counts struct {
	Commands    map[byte]int // SCSI commands, by operation code
	Read        int64        // blocks that the host got
	Written     int64        // blocks that came to a medium
	First       time.Time    // of the first SCSI command; zero before it
	Resets      int          // of the bus
	Recoveries  int          // bulk-only resets
	Descriptors int          // reads of the device descriptor
	Configured  int          // configurations set
	Keys        int          // reports that the keyboards sent
}

// Counts returns what has happened so far.
func (s *Stick) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts
	c.Commands = maps.Clone(c.Commands)
	return c
}

// Inject adds faults.
func (s *Stick) Inject(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range faults {
		s.faults = append(s.faults, &armed{Fault: f})
	}
}

// Plugged implements Device. The first time it takes up Faults.
func (s *Stick) Plugged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plugs++; s.plugs == 1 {
		for _, f := range s.Faults {
			s.faults = append(s.faults, &armed{Fault: f})
		}
	} else {
		s.event(OnPlug)
		for _, l := range s.LUNs {
			l.event(OnPlug)
		}
	}
	s.gone = false
	s.config = 0
	for _, l := range s.LUNs {
		l.powerOn()
	}
	s.restart()
}

// restart forgets what a reset does. mu is held.
func (s *Stick) restart() {
	s.alternates, s.halted, s.typed = map[byte]byte{}, map[byte]bool{}, map[byte]int{}
	s.bot = transport{}
	s.wake()
}

// wake tells those that wait that the state has changed. mu is held.
func (s *Stick) wake() {
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
}

// event counts one, and turns the device when it is time. mu is held.
func (s *Stick) event(e Event) {
	if s.face < len(s.Turns) && s.face+1 < len(s.Faces) && s.turn.happened(s.Turns[s.face], e) {
		s.face++
		s.alternates = map[byte]byte{}
	}
}

// Reset implements Device.
func (s *Stick) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Resets++
	s.event(OnReset)
	s.config = 0
	s.restart()
}

// current: mu is held.
func (s *Stick) current() *Face {
	if s.face >= len(s.Faces) {
		return &Face{}
	}
	return &s.Faces[s.face]
}

// Face implements Device.
func (s *Stick) Face() Face {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.current()
}

// Active implements Device.
func (s *Stick) Active() []Interface {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active()
}

// active: mu is held.
func (s *Stick) active() []Interface {
	f, index := s.current(), max(s.config-1, 0)
	if index >= len(f.Configurations) {
		return nil
	}
	return f.Configurations[index].active(s.alternates)
}

// owner is the interface that has an endpoint at the moment, and the endpoint. mu is held.
func (s *Stick) owner(address byte) (Interface, bool) {
	for _, f := range s.active() {
		if slices.ContainsFunc(f.Endpoints, func(e Endpoint) bool { return e.Address == address }) {
			return f, true
		}
	}
	return Interface{}, false
}

// Control implements Device.
func (s *Stick) Control(_ context.Context, r Setup, out []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil, ErrGone
	}
	in, ok := s.standard(r)
	if !ok {
		in, ok = s.class(r, out)
	}
	if !ok {
		return nil, ErrStall
	}
	return in[:min(len(in), int(r.Length))], nil
}

// standard answers the requests that every device has. mu is held.
func (s *Stick) standard(r Setup) (in []byte, ok bool) {
	switch {
	case r.RequestType == 0x80 && r.Request == reqGetDescriptor:
		in = s.descriptor(byte(r.Value>>8), byte(r.Value))
		return in, in != nil
	case r.RequestType == 0x81 && r.Request == reqGetDescriptor && byte(r.Value>>8) == descReport:
		return keyboardReport, true
	case r.RequestType == 0x80 && r.Request == reqGetConfiguration:
		return []byte{byte(s.config)}, true
	case r.RequestType == 0x00 && r.Request == reqSetConfiguration:
		return nil, s.configure(int(r.Value))
	case r.RequestType == 0x81 && r.Request == reqGetInterface:
		return []byte{s.alternates[byte(r.Index)]}, true
	case r.RequestType == 0x01 && r.Request == reqSetInterface:
		return nil, s.choose(byte(r.Index), byte(r.Value))
	case r.RequestType&^3 == 0x80 && r.Request == reqGetStatus:
		status := byte(0)
		if r.RequestType&3 == 2 && s.halted[byte(r.Index)] {
			status = 1
		}
		return []byte{status, 0}, true
	case r.RequestType == 0x02 && r.Request == reqClearFeature && r.Value == 0:
		s.clearHalt(byte(r.Index))
		return nil, true
	case r.RequestType == 0x02 && r.Request == reqSetFeature && r.Value == 0:
		s.halted[byte(r.Index)] = true
		return nil, true
	case r.RequestType&^3 == 0 && (r.Request == reqClearFeature || r.Request == reqSetFeature), r.RequestType == 0 && r.Request >= 0x30:
		return nil, true // remote wake-up, U1 and U2, SET_SEL, isochronous delay: nothing to do
	}
	return nil, false
}

// descriptor: mu is held.
func (s *Stick) descriptor(kind, index byte) []byte {
	switch kind {
	case descDevice:
		s.counts.Descriptors++
		s.event(OnDescriptor)
		return s.current().DeviceDescriptor()
	case descConfiguration:
		return s.current().ConfigurationDescriptor(int(index))
	case descString:
		return s.current().text(index)
	case descQualifier:
		if f := s.current(); f.Speed == HighSpeed {
			return f.qualifier()
		}
	case descBOS:
		if f := s.current(); f.Speed == SuperSpeed {
			return f.bos()
		}
	}
	return nil
}

// configure: mu is held.
func (s *Stick) configure(value int) bool {
	if value > s.current().configurations() {
		return false
	}
	s.counts.Configured++
	s.config = value
	s.restart()
	s.event(OnConfigure)
	return true
}

// choose sets an alternate setting. mu is held.
func (s *Stick) choose(number, alternate byte) bool {
	f, index := s.current(), max(s.config-1, 0)
	if index >= len(f.Configurations) || !slices.ContainsFunc(f.Configurations[index].Interfaces, func(i Interface) bool {
		return i.Number == number && i.Alternate == alternate
	}) {
		return false
	}
	s.alternates[number] = alternate
	return true
}

// class answers class requests. mu is held.
func (s *Stick) class(r Setup, out []byte) (in []byte, ok bool) {
	switch {
	case r.RequestType == 0xA1 && r.Request == reqGetMaxLUN:
		return []byte{byte(max(len(s.LUNs)-1, 0))}, len(s.LUNs) > 0
	case r.RequestType == 0x21 && r.Request == reqBulkOnlyReset:
		s.counts.Recoveries++
		s.bot = transport{}
		s.wake()
		return nil, true
	case r.RequestType == 0x21 && (r.Request == reqSetReport || r.Request == reqSetIdle || r.Request == reqSetProtocol):
		return nil, true
	case r.RequestType == 0xA0 && r.Request == reqGetDescriptor && byte(r.Value>>8) == descHub:
		return []byte{9, descHub, 1, 0, 0, 50, 0, 0, 0xFF}, true // one port (USB 2.0, 11.23.2.1)
	case r.RequestType&0x7C == 0x20 && s.current().Class == 9:
		return make([]byte, 4), true // status of hub and port, features of both (USB 2.0, 11.24.2)
	}
	return nil, false
}

// Interrupt implements Device: keyboards type, all others wait.
func (s *Stick) Interrupt(ctx context.Context, endpoint byte) ([]byte, error) {
	s.mu.Lock()
	f, ok := s.owner(endpoint)
	keyboard := ok && f.Class == 3 && f.Protocol == 1
	for {
		if s.gone {
			s.mu.Unlock()
			return nil, ErrGone
		}
		if keyboard {
			if report, more := s.press(endpoint); more {
				s.counts.Keys++
				s.mu.Unlock()
				return report, nil
			}
		}
		if s.typing == nil {
			s.typing = make(chan struct{})
		}
		typing := s.typing
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-typing:
		}
		s.mu.Lock()
	}
}

// Type has its keyboards type something more, and Enter.
func (s *Stick) Type(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Types += text + "\n"
	if s.typing != nil {
		close(s.typing)
		s.typing = nil
	}
}

// press returns the next report of a keyboard: a key goes down, or all go up. mu is held.
func (s *Stick) press(endpoint byte) ([]byte, bool) {
	n := s.typed[endpoint]
	if n >= 2*len(s.Types) {
		return nil, false
	}
	s.typed[endpoint]++
	report := make([]byte, 8)
	if n%2 == 0 {
		report[2] = usage(s.Types[n/2])
	}
	return report, true
}

// usage is a key's number (HID usage tables, 10): of lower-case letters, digits, space, and what else is Enter.
func usage(c byte) byte {
	switch {
	case c >= 'a' && c <= 'z':
		return c - 'a' + 4
	case c >= '1' && c <= '9':
		return c - '1' + 30
	case c == '0':
		return 39
	case c == ' ':
		return 44
	}
	return 40
}
