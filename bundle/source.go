package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"

	"sallyport/bundle/trust"
)

// A Source is where a bundle is read from. Nothing is ever written to it.
type Source struct {
	io.ReaderAt
	Size int64 // bytes: of the file, or the capacity that the medium reports
	// Medium says that it is a disc or a stick: the image may be followed by zeros, and what is not written
	// for a reader (padding, the run-out behind the last block) may be unreadable. A file has the exact length.
	Medium bool
}

// Claims is what a bundle says of itself before anything of it is believed.
type Claims struct {
	Geometry Geometry
	Seal     *Seal
	Message  []byte   // the 8,192 bytes that are signed
	Slots    [][]byte // the eight slots, a block each
	Notes    []string // what was odd and is no reason to refuse

	locator []byte // block 0, as read
}

// Digest returns the seal digest.
func (c *Claims) Digest() [32]byte { return Digest(c.Message) }

// Inspect reads locator and seal, and believes neither. Refusals: not-a-bundle, bad-locator, wrong-size,
// bad-seal, seal-copies-differ, unsupported-profile.
func Inspect(ctx context.Context, src Source) (*Claims, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if src.Size < BlockSize {
		return nil, refuse("not-a-bundle", "%d bytes hold no locator", src.Size)
	}
	c := &Claims{locator: make([]byte, BlockSize)}
	if err := readFull(src, c.locator, 0); err != nil {
		return nil, fmt.Errorf("read the locator: %w", err)
	}
	var err error
	if c.Geometry, err = parseLocator(c.locator); err != nil {
		return nil, err
	}
	want := c.Geometry.ImageBlocks() * BlockSize
	if src.Size < want || !src.Medium && src.Size > want {
		return nil, refuse("wrong-size", "the image should have %d bytes, here are %d", want, src.Size)
	}
	if err := c.readSeals(src); err != nil {
		return nil, err
	}
	if c.Seal, err = ParseSeal(c.Message); err != nil {
		return nil, err
	}
	if g, err := c.Seal.Geometry(); err != nil || g != c.Geometry {
		return nil, refuse("bad-locator", "block 0 is not the locator that the seal gives")
	}
	return c, nil
}

func (c *Claims) readSeals(src Source) error {
	a, b := make([]byte, sealBlocks*BlockSize), make([]byte, sealBlocks*BlockSize)
	errA := readFull(src, a, c.Geometry.SealA()*BlockSize)
	errB := readFull(src, b, c.Geometry.SealB()*BlockSize)
	switch {
	case errA != nil && errB != nil:
		return fmt.Errorf("read both seals: %w", errors.Join(errA, errB))
	case errA != nil:
		c.Notes = append(c.Notes, fmt.Sprintf("seal A can't be read (%v); seal B was used", errA))
		a = b
	case errB != nil:
		c.Notes = append(c.Notes, fmt.Sprintf("seal B can't be read (%v); seal A was used", errB))
	default:
		if i := firstDifference(a, b); i < len(a) {
			return refuse("seal-copies-differ", "the two copies of the seal differ in byte %d (LBA %d and %d)", i,
				c.Geometry.SealA()+int64(i/BlockSize), c.Geometry.SealB()+int64(i/BlockSize))
		}
	}
	c.Message = a[:sealJSONBytes]
	for i := range slotCount {
		c.Slots = append(c.Slots, a[sealJSONBytes+i*BlockSize:][:BlockSize])
	}
	return nil
}

// Signatures parses the slots without judging who signed. Refusal: bad-slot.
func (c *Claims) Signatures() ([]*trust.Signature, error) {
	var sigs []*trust.Signature
	for i, slot := range c.Slots {
		sig, err := trust.ParseSlot(slot)
		if err != nil {
			return nil, &RefusedError{Code: "bad-slot", Detail: fmt.Sprintf("slot %d", i), Err: err}
		}
		switch {
		case sig != nil && len(sigs) < i:
			return nil, refuse("bad-slot", "slot %d is filled behind an empty one", i)
		case sig != nil:
			sigs = append(sigs, sig)
		}
	}
	return sigs, nil
}

// readFull fills p from byte off.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) && (err == nil || err == io.EOF) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read LBA %d: %w", (off+int64(n))/BlockSize, err)
}
