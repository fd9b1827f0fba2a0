package bundle

import (
	"bytes"
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
	// Gone tells of an error of ReadAt that it is not about the blocks that were asked for: the whole medium is
	// lost, and reading on is in vain. Nil: no error says so.
	Gone func(error) bool
}

// Claims is what a bundle says of itself before anything of it is believed.
type Claims struct {
	Geometry Geometry
	Seal     *Seal
	Message  []byte   // the 8,192 bytes that are signed
	Slots    [][]byte // the eight slots, a block each
	Notes    []string // what was odd and is no reason to refuse

	locator    []byte   // block 0
	mended     blockSet // blocks of the image that were made good
	unreadable int64    // of them, those that the medium didn't give
	unreadSeal int64    // where the seal begins of which some can't be read, and that wasn't healed; 0: nowhere
}

// Digest returns the seal digest.
func (c *Claims) Digest() [32]byte { return Digest(c.Message) }

// Inspect reads locator and seal, and believes neither. Of a bundle with parity a damaged locator or seal is made
// good from the other copy; [Claims.Repaired] tells. Refusals: not-a-bundle, bad-locator, wrong-size, bad-seal,
// seal-copies-differ, unsupported-profile.
func Inspect(ctx context.Context, src Source) (*Claims, error) { return inspect(ctx, src, true) }

// inspect is Inspect. Without heal nothing is made good.
func inspect(ctx context.Context, src Source, heal bool) (*Claims, error) {
	c, unreadable, err := atFront(ctx, src, heal, false)
	if err == nil || !heal || ctx.Err() != nil || src.lost(err) || src.Size < BlockSize {
		return c, err
	}
	if c.hasCopy(src) {
		return nil, adviseRepair(src, c, err)
	}
	// Block 0 can't be read, is no locator, or is one of an image that isn't here.
	found, searchErr := findAtEnd(ctx, src)
	switch {
	case searchErr != nil:
		return nil, searchErr
	case found == nil:
		return nil, adviseRepair(src, c, err)
	}
	found.healed(0, unreadable)
	return found, nil
}

// atFront reads the locator in block 0 and the seal that it names. With anySize the source may be longer or shorter
// than the image. With an error of the seal c has its geometry; unreadable says that the medium didn't give block 0.
func atFront(ctx context.Context, src Source, heal, anySize bool) (c *Claims, unreadable bool, err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, false, err
	}
	if src.Size < BlockSize {
		return nil, false, refuse("not-a-bundle", "%d bytes hold no locator", src.Size)
	}
	c = &Claims{locator: make([]byte, BlockSize)}
	if err := readFull(src, c.locator, 0); err != nil {
		return nil, true, fmt.Errorf("read the locator: %w", err)
	}
	if c.Geometry, err = parseLocator(c.locator); err != nil {
		return nil, false, err
	}
	if !anySize {
		err = c.checkSize(src)
	}
	if err == nil {
		err = c.readSeal(src, heal)
	}
	return c, false, err
}

// hasCopy tells whether the locator's copy confirms block 0: then there is nothing else to be searched for.
func (c *Claims) hasCopy(src Source) bool {
	b := make([]byte, BlockSize)
	return c != nil && readFull(src, b, c.Geometry.LocatorCopy()*BlockSize) == nil && bytes.Equal(b, c.locator)
}

// adviseRepair says with a refusal what it can that [Repair] can do and Verify can't: search a whole medium, and make
// good an image that was cut off. c has the geometry, or is nil when block 0 gave none.
func adviseRepair(src Source, c *Claims, err error) error {
	var refused *RefusedError
	switch {
	case !errors.As(err, &refused):
		return err
	case c == nil && src.Medium && src.Size/BlockSize > tailBlocks:
		return &RefusedError{refused.Code, fmt.Sprintf("%s, nor do the last %d blocks hold its copy; if this is a bundle whose beginning is damaged, sallyport repair searches the whole medium and writes it to a file", refused.Detail, tailBlocks), refused.Err}
	case c != nil && refused.Code == "wrong-size" && c.Geometry.Roots > 0 && src.Size < c.Geometry.ImageBlocks()*BlockSize:
		return &RefusedError{refused.Code, refused.Detail + "; if it can't be copied again, sallyport repair makes good what is missing as far as the parity reaches", refused.Err}
	}
	return err
}

// checkSize makes sure that nothing is read outside the source.
func (c *Claims) checkSize(src Source) error {
	want := c.Geometry.ImageBlocks() * BlockSize
	if src.Size < want || !src.Medium && src.Size > want {
		return refuse("wrong-size", "the image should have %d bytes, here are %d", want, src.Size)
	}
	return nil
}

// readSeal reads both copies of the seal from where the locator says, and compares what the seal says with it.
func (c *Claims) readSeal(src Source, heal bool) error {
	if src.Size < c.Geometry.Superblock()*BlockSize {
		return refuse("wrong-size", "%d of %d bytes are here: both copies of the seal are lost", src.Size, c.Geometry.ImageBlocks()*BlockSize)
	}
	a, b := readSealCopy(src, c.Geometry.SealA()), readSealCopy(src, c.Geometry.SealB())
	for _, err := range []error{a.err, b.err} {
		if src.lost(err) {
			return fmt.Errorf("read the seal: %w", err)
		}
	}
	seal, note, err := eitherSeal(a, b)
	if heal && c.Geometry.Roots > 0 && (err != nil || note != "") {
		if healed, healErr := c.healSeal(src, a, b); healed != nil {
			seal, note, err = healed, "", nil
		} else if healErr != nil && a.err == nil && b.err == nil {
			err = healErr
		}
	}
	if err != nil {
		return err
	}
	if note != "" {
		c.Notes = append(c.Notes, note)
		if c.unreadSeal = a.lba; b.err != nil {
			c.unreadSeal = b.lba
		}
	}
	c.Message = seal[:sealJSONBytes]
	for i := range slotCount {
		c.Slots = append(c.Slots, seal[sealJSONBytes+i*BlockSize:][:BlockSize])
	}
	if c.Seal, err = ParseSeal(c.Message); err != nil {
		if !bytes.HasPrefix(c.Message, []byte(sealBegins)) {
			err = refuse("bad-seal", "both copies of the seal are lost: none of it is at LBA %d and %d", c.Geometry.SealA(), c.Geometry.SealB())
		}
		return err
	}
	if g, err := c.Seal.Geometry(); err != nil || g != c.Geometry {
		return refuse("bad-locator", "block 0 is not the locator that the seal gives")
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
