package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"sallyport/bundle/trust"
)

// AddSignature puts a signature into the first empty slot of both seals of the image file at path. c is what
// the signer was shown: a file whose seal has changed since is left alone. It returns when the file is synced
// and read back. Without a cancel between, the two copies differ only if the machine stops in the middle;
// [MendSlots] puts that right.
func AddSignature(path string, c *Claims, signature []byte) (err error) {
	sig, err := trust.ParseSignature(signature)
	if err != nil {
		return fmt.Errorf("sign %s: %w", path, err)
	}
	slot, err := trust.EncodeSlot(signature)
	if err != nil {
		return err
	}
	sigs, err := c.Signatures()
	if err != nil {
		return err
	}
	for i, other := range sigs {
		if other.KeyID() == sig.KeyID() {
			// Verify refuses two of one key, and a slot can't be emptied again.
			return fmt.Errorf("sign %s: key %s has signed it already, in slot %d", path, sig.KeyID(), i)
		}
	}
	if len(sigs) == slotCount {
		return fmt.Errorf("sign %s: all %d slots are filled", path, slotCount)
	}
	f, err := openImage(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	want := bytes.Join(append([][]byte{c.Message}, c.Slots...), nil)
	for _, lba := range []int64{c.Geometry.SealA(), c.Geometry.SealB()} {
		got := make([]byte, len(want))
		if err := readFull(f, got, lba*BlockSize); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("sign %s: its seal changed since it was shown: nothing was signed", path)
		}
	}
	return writeSlot(f, c.Geometry, len(sigs), slot[:])
}

// openImage opens an image file to sign it, for this process alone among those that sign. Media are not
// written to, so nothing but a regular file is opened.
func openImage(path string) (*os.File, error) {
	notRegular := fmt.Errorf("sign %s: not a regular file", path)
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, notRegular
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = notRegular
	}
	if err == nil {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			err = fmt.Errorf("sign %s: somebody else is signing it: %w", path, err)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// writeSlot writes seal B first: while seal A is the old one, it is the state.
func writeSlot(f *os.File, g Geometry, index int, slot []byte) error {
	for _, lba := range []int64{g.SealB(), g.SealA()} {
		off := (lba + sealJSONBlocks + int64(index)) * BlockSize
		if _, err := f.WriteAt(slot, off); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		got := make([]byte, BlockSize)
		if err := readFull(f, got, off); err != nil {
			return err
		}
		if !bytes.Equal(got, slot) {
			return fmt.Errorf("sign %s: LBA %d reads back differently", f.Name(), off/BlockSize)
		}
	}
	return nil
}

// MendSlots finishes or takes back an [AddSignature] that was stopped in the middle: when the seals of the
// image file at path differ in one slot only, an empty one in seal A is the old state, and when that one is
// torn, a well-formed one in seal B is the new. It reports whether something was changed; everything else it leaves for [Inspect] to refuse.
func MendSlots(path string) (mended bool, err error) {
	f, err := openImage(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	block := make([]byte, BlockSize)
	if readFull(f, block, 0) != nil {
		return false, nil
	}
	g, err := parseLocator(block)
	if err != nil {
		return false, nil
	}
	a, b := make([]byte, sealBlocks*BlockSize), make([]byte, sealBlocks*BlockSize)
	if readFull(f, a, g.SealA()*BlockSize) != nil || readFull(f, b, g.SealB()*BlockSize) != nil {
		return false, nil
	}
	first := firstDifference(a, b) / BlockSize
	if first < sealJSONBlocks || first == sealBlocks || !bytes.Equal(a[(first+1)*BlockSize:], b[(first+1)*BlockSize:]) {
		return false, nil
	}
	slotA, slotB := a[first*BlockSize:][:BlockSize], b[first*BlockSize:][:BlockSize]
	good := slotA
	switch sig, err := trust.ParseSlot(slotA); {
	case sig != nil:
		return false, nil
	case err != nil:
		if sig, err := trust.ParseSlot(slotB); err != nil || sig == nil {
			return false, nil
		}
		good = slotB
	}
	return true, writeSlot(f, g, first-sealJSONBlocks, good)
}
