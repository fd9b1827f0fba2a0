package bundle

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"sallyport/bundle/verity"
)

// A locator's copy or a seal that lies where its own numbers say, and not where block 0 says, tells what block 0 should
// have said. A payload may hold another image at its own LBAs, so that its copies do so too. But the copies of the image
// that is around it lie behind all of its payload: the last one decides.

// sighting is a locator's copy or a seal at lba that says it is of an image of this geometry, which begins at LBA 0.
type sighting struct {
	lba int64
	Geometry
}

// tailBlocks is where the locator's copy and seal B are looked for: before a medium's run-out.
const tailBlocks = 1024

// findAtEnd looks in the last blocks of the source for what block 0 should have said, nil when it isn't there. Each
// of them is tried. An error is the context's, or says that the medium is lost.
func findAtEnd(ctx context.Context, src Source) (*Claims, error) {
	const piece = 32 // blocks
	end := src.Size / BlockSize
	buf := make([]byte, piece*BlockSize)
	for hi := end; hi > max(0, end-tailBlocks); hi -= piece {
		lo := max(0, hi-piece)
		buf := buf[:(hi-lo)*BlockSize]
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if readFull(src, buf, lo*BlockSize) != nil {
			for lba := lo; lba < hi; lba++ {
				block := buf[(lba-lo)*BlockSize:][:BlockSize]
				if err := readFull(src, block, lba*BlockSize); src.lost(err) {
					return nil, err
				} else if err != nil {
					clear(block)
				}
				if err := context.Cause(ctx); err != nil {
					return nil, err
				}
			}
		}
		for lba := hi - 1; lba >= lo; lba-- {
			if s, ok := sight(src, lba, buf[(lba-lo)*BlockSize:][:BlockSize]); ok {
				return s.claims(src, false), nil
			}
		}
	}
	return nil, nil
}

// maxSightings bounds what a search remembers.
const maxSightings = 64

// findAnywhere looks through all of the source, and passes ever faster over what can't be read. It returns what the
// last sighting says, nil when it gives no image with parity, and one sighting of each other image.
func findAnywhere(ctx context.Context, src Source, progress Progress) (*Claims, []sighting, error) {
	const piece = 512 // blocks
	end := src.Size / BlockSize
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	medium := verity.NewGentleReader(readerAtFunc(func(p []byte, off int64) (int, error) {
		n, err := src.ReadAt(p, off)
		if src.lost(err) {
			stop(fmt.Errorf("%w: %w", errLostSource, err))
		}
		return n, err
	}), end)
	buf := make([]byte, min(piece, end)*BlockSize)
	var seen []sighting // one of each image, the last of the last
	for lo := int64(0); lo < end; lo += piece {
		hi := min(end, lo+piece)
		buf := buf[:(hi-lo)*BlockSize]
		medium.Read(ctx, buf, lo)
		if err := context.Cause(ctx); err != nil {
			return nil, nil, err
		}
		for lba := lo; lba < hi; lba++ {
			s, ok := sight(src, lba, buf[(lba-lo)*BlockSize:][:BlockSize])
			if !ok {
				continue
			}
			seen = append(slices.DeleteFunc(seen, func(other sighting) bool { return other.Geometry == s.Geometry }), s)
			if len(seen) > maxSightings {
				return nil, nil, refuse("bad-locator", "block 0 can't be used, and there are locators and seals of more than %d images: which one is meant can't be told", maxSightings)
			}
		}
		if progress != nil {
			progress("search", hi*BlockSize, end*BlockSize)
		}
	}
	if len(seen) == 0 {
		return nil, nil, nil
	}
	last := len(seen) - 1
	return seen[last].claims(src, true), seen[:last], nil
}

type readerAtFunc func(p []byte, off int64) (int, error)

func (f readerAtFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// sealBegins is what a SEAL.json begins with.
const sealBegins = `{"bundle_id":"`

// sight tells whether the block at lba begins a locator's copy or a seal that belongs there.
func sight(src Source, lba int64, block []byte) (s sighting, ok bool) {
	g, err := parseLocator(block)
	if err == nil {
		return sighting{lba, g}, g.LocatorCopy() == lba
	}
	if !bytes.HasPrefix(block, []byte(sealBegins)) {
		return s, false
	}
	message := make([]byte, sealJSONBytes)
	if readFull(src, message, lba*BlockSize) != nil {
		return s, false
	}
	seal, err := ParseSeal(message)
	if err != nil {
		return s, false
	}
	g, err = seal.Geometry()
	return sighting{lba, g}, err == nil && (g.SealA() == lba || g.SealB() == lba)
}

// claims returns what the image that was seen says of itself, nil when its seal doesn't say the same, when it doesn't
// fit the source, or when it has no parity. Block 0 isn't counted as healed.
func (s sighting) claims(src Source, anySize bool) *Claims {
	c := &Claims{Geometry: s.Geometry, locator: s.locator()}
	if s.Roots == 0 || !anySize && c.checkSize(src) != nil || c.readSeal(src, true) != nil {
		return nil
	}
	return c
}

// oneImage makes sure that what was seen of other images is payload of the one that was repaired: that it stands where
// it was seen in the image as it was made. Else two images lie over each other, and which one is meant can't be told.
func (c *Claims) oneImage(others []sighting) error {
	for _, s := range others {
		if mended, _ := c.mended.run(s.lba, s.lba+1); mended {
			return refuse("bad-locator", "block 0 can't be used, and what is at LBA %d is of another image, of %d blocks, than what is behind it, of %d blocks: which one is meant can't be told",
				s.lba, s.ImageBlocks(), c.Geometry.ImageBlocks())
		}
	}
	return nil
}
