package trust

import (
	"bytes"
	"fmt"
)

const (
	// SlotSize is the size of a slot in bytes, one block.
	SlotSize = 2048
	// Slots is how many slots a seal has.
	Slots = 8
)

// EncodeSlot returns a slot that holds the signature, filled with newlines; without a signature, an empty slot.
// Stock minisign and gpg take a filled slot as it is for a .minisig or .asc file.
func EncodeSlot(sig []byte) ([SlotSize]byte, error) {
	var slot [SlotSize]byte
	if len(sig) > 0 {
		if _, err := ParseSignature(sig); err != nil {
			return slot, fmt.Errorf("fill slot: %w", err)
		}
	}
	for i := copy(slot[:], sig); i < SlotSize; i++ {
		slot[i] = '\n'
	}
	return slot, nil
}

// ParseSlot reads a slot: exactly what [EncodeSlot] gives for some signature, or nil for an empty one.
func ParseSlot(slot []byte) (*Signature, error) {
	if len(slot) != SlotSize {
		return nil, fmt.Errorf("parse slot: %d bytes, expected %d", len(slot), SlotSize)
	}
	n := len(bytes.TrimRight(slot, "\n"))
	if n == 0 {
		return nil, nil
	}
	sig, err := ParseSignature(slot[:min(n+1, SlotSize)])
	if err != nil {
		return nil, fmt.Errorf("parse slot: %w", err)
	}
	return sig, nil
}
