package importlog

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"sallyport/bundle/canonjson"
	"sallyport/bundle/trust"
)

// futureSlack is how far, in seconds, the creation time of an accepted bundle may move the time floor beyond the
// clock's.
const futureSlack = 24 * 60 * 60

// state is what the entries say when read from the first on. There is no other record of it: one append is the
// whole change, so no crash can leave two records that differ.
type state struct {
	channels map[string]ChannelState
	accepted map[string]*acceptance // by seal digest
	lastDisc int64                  // the largest number of a disc
	// floor is a time that has certainly passed: the newest creation time, in seconds since 1970, of an
	// accepted bundle, each counted to a day after its acceptance at most.
	floor int64
}

type acceptance struct {
	index    int64
	channel  string
	path     string
	released bool
}

// ChannelState is where a channel stands at this station.
type ChannelState struct {
	LastSequence   int64  // of the newest accepted bundle; 0: none yet
	LastSealDigest string // its seal digest; empty: none yet
	Released       bool   // whether that one was released
}

func newState() state {
	return state{channels: map[string]ChannelState{}, accepted: map[string]*acceptance{}}
}

// after judges an entry in the light of those before it. The change it makes is put off until the entry is
// durable: then next is called.
func (s *state) after(e *Entry) (next func(), err error) {
	switch {
	case e.Begin != nil:
		if e.Begin.DiscNumber <= s.lastDisc {
			return nil, fmt.Errorf("disc number %d was used before: the last is %d", e.Begin.DiscNumber, s.lastDisc)
		}
		return func() { s.lastDisc = e.Begin.DiscNumber }, nil
	case e.Accept != nil:
		return s.afterAccept(e)
	case e.Release != nil:
		return s.afterRelease(e.Release)
	}
	return func() {}, nil
}

func (s *state) afterAccept(e *Entry) (next func(), err error) {
	seal, digest := e.Accept.seal, e.Accept.SealDigest
	if a, ok := s.accepted[digest]; ok {
		return nil, fmt.Errorf("the bundle was accepted before, in entry %d", a.index)
	}
	if last := s.channels[seal.Channel].LastSequence; seal.Sequence <= last {
		return nil, fmt.Errorf("sequence %d of channel %q was accepted after %d", seal.Sequence, seal.Channel, last)
	}
	return func() {
		s.channels[seal.Channel] = ChannelState{LastSequence: seal.Sequence, LastSealDigest: digest}
		s.accepted[digest] = &acceptance{index: e.Index, channel: seal.Channel, path: seal.releasePath()}
		s.floor = max(s.floor, min(seal.Created, e.Time+futureSlack))
	}, nil
}

func (s *state) afterRelease(e *ReleaseEntry) (next func(), err error) {
	a, ok := s.accepted[e.SealDigest]
	switch {
	case !ok:
		return nil, errors.New("what is released was never accepted")
	case a.released:
		return nil, fmt.Errorf("the bundle of entry %d was released before", a.index)
	case a.path != e.Path:
		return nil, fmt.Errorf("released as %q, the bundle of entry %d belongs at %q", e.Path, a.index, a.path)
	}
	return func() {
		a.released = true
		if c := s.channels[a.channel]; c.LastSealDigest == e.SealDigest {
			c.Released = true
			s.channels[a.channel] = c
		}
	}, nil
}

// Channel returns the state of a channel; a channel that nothing was accepted in has the zero state.
func (l *Log) Channel(name string) (ChannelState, error) {
	if err := trust.CheckName(name); err != nil {
		return ChannelState{}, fmt.Errorf("channel: %w", err)
	}
	return l.state.channels[name], nil
}

// TimeFloor returns a time that has passed, whatever the clock says. It moves only with accepted bundles.
func (l *Log) TimeFloor() time.Time { return time.Unix(l.state.floor, 0) }

// A Candidate is a bundle whose signatures are good and whose freshness is asked.
type Candidate struct {
	Channel    string
	Expires    int64 // seconds since 1970; 0: never
	Previous   string
	SealDigest string
	Sequence   int64
}

// A Policy is what trust.json says of a channel (docs/format.md, section 11).
type Policy struct {
	Gaps    string // trust.GapsRefuse or trust.GapsReason
	MaxJump int64  // the largest step of the sequence
}

// CheckFresh tells whether a bundle is the channel's next one. An accepted bundle that wasn't released is fresh, and
// to be finished, until it expires or a later one is accepted. gapReason is why an operator lets a gap pass, where the policy leaves it to one; empty: he
// doesn't. Refusals: already-imported, stale-sequence, sequence-reused, sequence-jump, gap, expired.
func (l *Log) CheckFresh(c Candidate, p Policy, now time.Time, gapReason string) error {
	_, err := l.checkFresh(c, p, now, gapReason)
	return err
}

func (l *Log) checkFresh(c Candidate, p Policy, now time.Time, gapReason string) (gap bool, err error) {
	if err := c.check(); err != nil {
		return false, err
	}
	last := l.state.channels[c.Channel]
	if a, ok := l.state.accepted[c.SealDigest]; ok {
		switch {
		case a.released:
			return false, refuse("already-imported", "accepted in entry %d of this station's log, and released as %s", a.index, a.path)
		case c.Sequence < last.LastSequence:
			return false, refuse("stale-sequence", "sequence %d of channel %q was accepted in entry %d and not released; %d was accepted since", c.Sequence, c.Channel, a.index, last.LastSequence)
		}
		return false, l.checkExpiry(c, now)
	}
	step := c.Sequence - last.LastSequence
	switch {
	case step < 0:
		return false, refuse("stale-sequence", "sequence %d of channel %q; %d was accepted before", c.Sequence, c.Channel, last.LastSequence)
	case step == 0:
		return false, refuse("sequence-reused", "sequence %d of channel %q was accepted before with another seal, %s", c.Sequence, c.Channel, last.LastSealDigest)
	case step > p.MaxJump:
		return false, refuse("sequence-jump", "sequence %d of channel %q comes after %d; the largest step allowed is %d", c.Sequence, c.Channel, last.LastSequence, p.MaxJump)
	}
	gap = step > 1 || c.Previous != last.LastSealDigest
	if gap && (p.Gaps != trust.GapsReason || gapReason == "") {
		return false, refuse("gap", "sequence %d of channel %q follows the seal %q; the last accepted is sequence %d, seal %q", c.Sequence, c.Channel, c.Previous, last.LastSequence, last.LastSealDigest)
	}
	return gap, l.checkExpiry(c, now)
}

// checkExpiry goes by the clock, or by the log where that knows better.
func (l *Log) checkExpiry(c Candidate, now time.Time) error {
	if clock := max(now.Unix(), l.state.floor); c.Expires != 0 && clock >= c.Expires {
		return refuse("expired", "expired at %s; it is %s or later", utc(c.Expires), utc(clock))
	}
	return nil
}

func (c Candidate) check() error {
	if err := trust.CheckName(c.Channel); err != nil {
		return fmt.Errorf("channel: %w", err)
	}
	if c.Sequence < 1 || c.Sequence > canonjson.MaxInt {
		return fmt.Errorf("sequence %d is not between 1 and 2^53-1", c.Sequence)
	}
	if _, err := hex.DecodeString(c.Previous); err != nil {
		return fmt.Errorf("previous seal digest %.80q: %w", c.Previous, err)
	}
	return checkDigest(c.SealDigest)
}

func utc(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.RFC3339) }
