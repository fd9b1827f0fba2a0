package wipe

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
)

// Kinds of media, as a capacity test finds them.
const (
	Genuine    = "genuine"
	Limbo      = "limbo"      // what is written past the real size vanishes
	Wraparound = "wraparound" // addresses begin again from 0 at the real size
	Chain      = "chain"      // they begin again at some size, and part of what is below vanishes
	Last       = "last"       // all past the real size is written to one and the same place
	Damaged    = "damaged"    // some blocks don't keep what is written to them
)

// Verdict is what a capacity test found. Blocks are of the medium's block size.
type Verdict struct {
	BlocksBad     int64  `json:"blocks_bad"`    // of those read
	BlocksFailed  int64  `json:"blocks_failed"` // of those bad: an error, instead of other data
	BlocksRead    int64  `json:"blocks_read"`
	BlocksWritten int64  `json:"blocks_written"`
	ClaimedSize   int64  `json:"claimed_bytes"`
	FirstBad      int64  `json:"first_bad"` // bytes, the lowest; -1: none
	Genuine       bool   `json:"genuine"`
	Kind          string `json:"kind"` // Genuine, Limbo, ...
	Mode          string `json:"mode"` // "quick" or "strict"
	// RealSize is how many bytes are kept: after a quick test, up to the first
	// that is not; after a strict one, all that were.
	RealSize int64 `json:"real_bytes"`
}

// Mismatch is a place that reads as something else than was written to it.
type Mismatch struct {
	Offset int64 `json:"offset"` // bytes
	Pass   int   `json:"pass"`   // from 1
	// WrittenFor is the offset that the data was written for; -1: for none.
	WrittenFor int64 `json:"written_for"`
}

// tally counts sectors that differ.
type tally struct {
	sectors int64 // of the medium

	bad, lost, moved int64 // bad ones: with data of no sector, with that of another
	low, high        int64 // of the bad ones
	target           int64 // where moved ones come from
	targets          bool  // there is more than one
	modulus          int64 // the greatest common divisor of how far they came
	first            []Mismatch
}

// compare counts the sectors of got that are not as in want; off is where they are.
func (t *tally) compare(p Pattern, got, want []byte, off int64) {
	for i := 0; i < len(got); i += SectorSize {
		if string(got[i:i+SectorSize]) != string(want[i:i+SectorSize]) {
			t.add((off+int64(i))/SectorSize, p.origin(got[i:], t.sectors))
		}
	}
}

// add counts a bad sector with the data of another, -1 of none.
func (t *tally) add(sector, origin int64) {
	if t.bad == 0 {
		t.low, t.high = sector, sector
	}
	t.low, t.high = min(t.low, sector), max(t.high, sector)
	t.bad++
	m := Mismatch{Offset: sector * SectorSize, WrittenFor: -1}
	if origin < 0 {
		t.lost++
	} else {
		m.WrittenFor = origin * SectorSize
		t.targets = t.targets || t.moved > 0 && t.target != origin
		t.target = origin
		t.moved++
		t.modulus = gcd(t.modulus, max(sector-origin, origin-sector))
	}
	at, _ := slices.BinarySearchFunc(t.first, m, func(a, b Mismatch) int { return int(min(max(a.Offset-b.Offset, -1), 1)) })
	if at < maxMismatches {
		t.first = slices.Insert(t.first, at, m)
		t.first = t.first[:min(len(t.first), maxMismatches)]
	}
}

// lowest returns the lowest bad sector, 0 when there is none.
func (t *tally) lowest() int64 { return t.low }

// mostCache is more than the caches that sticks and bridges have, in sectors:
// what such a one held on to at the end of a medium is no proof of capacity.
const mostCache = 1 << 30 / SectorSize

// verdict says what the sectors of a strict test show, all of which were
// written in order.
func (t *tally) verdict(size int64, block int) Verdict {
	v := Verdict{Genuine: t.bad == 0, Mode: "strict", Kind: t.kind(), ClaimedSize: size, RealSize: size - t.bad*SectorSize, FirstBad: -1}
	v.BlocksWritten, v.BlocksRead = size/int64(block), size/int64(block)
	per := int64(block) / SectorSize
	v.BlocksBad = (t.bad + per - 1) / per
	if t.bad > 0 {
		v.FirstBad = t.low * SectorSize
	}
	if v.Kind == Limbo {
		v.RealSize = t.low * SectorSize
	}
	return v
}

// kind names what was found. A limbo's bad sectors are all that there are past
// the real size, but for what a cache still holds.
func (t *tally) kind() string {
	behind := t.sectors - 1 - t.high
	switch {
	case t.bad == 0:
		return Genuine
	case t.moved > 1 && !t.targets:
		return Last
	case t.moved > 0 && t.lost > 0:
		return Chain
	case t.moved > 0:
		return Wraparound
	case t.bad == t.high-t.low+1 && behind <= min(mostCache, t.bad):
		return Limbo
	}
	return Damaged
}

// newRand returns a source that only who has the key can foretell.
func newRand(key [32]byte, use uint64) *rand.Rand {
	binary.LittleEndian.PutUint64(key[:], binary.LittleEndian.Uint64(key[:])^use)
	return rand.New(rand.NewChaCha8(key))
}
