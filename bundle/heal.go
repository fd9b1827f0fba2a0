package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"sallyport/bundle/trust"
	"sallyport/bundle/verity"
)

// Locator and seals are there twice. With parity (and only then: without it no byte of an image may differ) what one
// copy lost is taken from the other. Nothing is believed because of it: who sealed it is asked afterwards.

// sealCopy is one of the two seals as it was read.
type sealCopy struct {
	lba   int64
	bytes []byte
	err   error             // of reading it whole
	bad   [sealBlocks]error // of its blocks, once it was read block by block
}

func readSealCopy(src Source, lba int64) *sealCopy {
	s := &sealCopy{lba: lba, bytes: make([]byte, sealBlocks*BlockSize)}
	s.err = readFull(src, s.bytes, lba*BlockSize)
	return s
}

// blocks reads what couldn't be read whole block by block.
func (s *sealCopy) blocks(src Source) {
	if s.err == nil {
		return
	}
	for i := range s.bad {
		s.bad[i] = readFull(src, s.block(i), (s.lba+int64(i))*BlockSize)
	}
}

func (s *sealCopy) block(i int) []byte { return s.bytes[i*BlockSize:][:BlockSize] }

// eitherSeal is the rule without parity: both copies are equal, or one can't be read.
func eitherSeal(a, b *sealCopy) (seal []byte, note string, err error) {
	switch {
	case a.err != nil && b.err != nil:
		return nil, "", fmt.Errorf("read both seals: %w; %w", a.err, b.err)
	case a.err != nil:
		return b.bytes, fmt.Sprintf("seal A can't be read (%v); seal B was used", a.err), nil
	case b.err != nil:
		return a.bytes, fmt.Sprintf("seal B can't be read (%v); seal A was used", b.err), nil
	}
	if i := firstDifference(a.bytes, b.bytes); i < len(a.bytes) {
		return nil, "", refuse("seal-copies-differ", "the two copies of the seal differ in byte %d (LBA %d and %d)", i,
			a.lba+int64(i/BlockSize), b.lba+int64(i/BlockSize))
	}
	return a.bytes, "", nil
}

// healSeal makes one seal of two damaged copies: SEAL.json as a unit, each slot by itself. Where both copies are
// well-formed and differ, somebody changed one of them on purpose, and nothing is made of them: an error then names the
// slot; without a seal and an error nothing can be made of SEAL.json.
func (c *Claims) healSeal(src Source, a, b *sealCopy) (seal []byte, err error) {
	a.blocks(src)
	b.blocks(src)
	seal, ok := c.healMessage(a, b)
	if !ok {
		return nil, nil
	}
	rest, undecided := slots(seal, a, b)
	if undecided >= 0 {
		lba := int64(sealJSONBlocks + undecided)
		return nil, refuse("seal-copies-differ", "which of the two copies of slot %d (LBA %d and %d) is the one that was signed can't be told", undecided, a.lba+lba, b.lba+lba)
	}
	seal = append(seal, rest...)
	for i := range sealBlocks {
		for _, s := range []*sealCopy{a, b} {
			if s.bad[i] != nil || !bytes.Equal(s.block(i), seal[i*BlockSize:][:BlockSize]) {
				c.healed(s.lba+int64(i), s.bad[i] != nil)
			}
		}
	}
	return seal, nil
}

// healMessage finds the one SEAL.json that the eight blocks of both copies give: the whole copies first, then each
// way to take every block from one or the other.
func (c *Claims) healMessage(a, b *sealCopy) ([]byte, bool) {
	compose := func(from int) ([]byte, bool) {
		message := make([]byte, 0, sealBlocks*BlockSize)
		for i := range sealJSONBlocks {
			s := a
			if from>>i&1 == 1 {
				s = b
			}
			if s.bad[i] != nil {
				return nil, false
			}
			message = append(message, s.block(i)...)
		}
		seal, err := ParseSeal(message)
		if err != nil {
			return nil, false
		}
		g, err := seal.Geometry()
		return message, err == nil && g == c.Geometry
	}
	const allOfB = 1<<sealJSONBlocks - 1
	for _, ways := range [][]int{{0, allOfB}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}} {
		var found []byte
		for _, from := range ways {
			message, ok := compose(from)
			switch {
			case ok && found == nil:
				found = message
			case ok && !bytes.Equal(message, found):
				return nil, false
			}
		}
		if found != nil {
			return found, true
		}
	}
	return nil, false
}

// healSlot returns the block that both copies have, or the one that is well-formed. What is equal is for others to judge.
func healSlot(a, b *sealCopy, i int) ([]byte, bool) {
	switch {
	case a.bad[i] != nil && b.bad[i] != nil:
		return nil, false
	case a.bad[i] != nil:
		return b.block(i), true
	case b.bad[i] != nil || bytes.Equal(a.block(i), b.block(i)):
		return a.block(i), true
	}
	_, errA := trust.ParseSlot(a.block(i))
	_, errB := trust.ParseSlot(b.block(i))
	switch {
	case errA == nil && errB != nil:
		return a.block(i), true
	case errA != nil && errB == nil:
		return b.block(i), true
	}
	return nil, false
}

// slots is what the eight slots of both copies give. Where a slot is well-formed in both and differs, and one copy is
// damaged elsewhere while the other one is whole, that is the one. -1, or the slot that can't be decided.
func slots(message []byte, a, b *sealCopy) (slots []byte, undecided int) {
	for i := sealJSONBlocks; i < sealBlocks; i++ {
		slot, ok := healSlot(a, b, i)
		if !ok {
			switch wholeA, wholeB := a.whole(message), b.whole(message); {
			case wholeA && !wholeB:
				return a.bytes[sealJSONBytes:], -1
			case wholeB && !wholeA:
				return b.bytes[sealJSONBytes:], -1
			}
			return nil, i - sealJSONBlocks
		}
		slots = append(slots, slot...)
	}
	return slots, -1
}

// whole tells whether all of the copy could be read and is well-formed, with this message.
func (s *sealCopy) whole(message []byte) bool {
	for i := range sealBlocks {
		if s.bad[i] != nil {
			return false
		}
		if i >= sealJSONBlocks {
			if _, err := trust.ParseSlot(s.block(i)); err != nil {
				return false
			}
		}
	}
	return bytes.Equal(s.bytes[:sealJSONBytes], message)
}

// healed notes that a block was made good.
func (c *Claims) healed(lba int64, unreadable bool) {
	if c.mended == nil {
		c.mended = blockSet{}
	}
	if in, _ := c.mended.run(lba, lba+1); unreadable && !in {
		c.unreadable++
	}
	c.mended.add(lba, lba+1)
}

// lost tells whether an error is the end of all reading. What was read and isn't right is no word of the medium's, so
// Gone isn't asked about it.
func (s Source) lost(err error) bool {
	if err == nil || s.Gone == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return false
	}
	var damaged *verity.DamagedError
	var refused *RefusedError
	return !errors.As(err, &damaged) && !errors.As(err, &refused) && s.Gone(err)
}
