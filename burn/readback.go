package burn

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// Comparison is the result of a read-back.
type Comparison struct {
	SHA256  []byte // of the image's blocks as the disc has them
	Surplus uint32 // blocks that the drive reports behind the image, all of them zero or unreadable
	Retries int    // reads that had to be repeated
}

// maxSurplus bounds what may be readable behind the image, in blocks: far more
// than any drive invents.
const maxSurplus = 1 << 16

// ReadBack reads the whole disc in drive and compares it with image: with its
// SHA256, or, when that is nil, byte by byte. The disc must be one complete
// session with one track, and what can be read behind the image up to the
// capacity that the drive reports must be zero.
//
// The caller has reloaded the disc, or put it into another drive, since it was
// burnt: else a cache may answer instead of the disc. A difference is a
// *MismatchError, a block that can't be read a *ReadError, the wrong disc a
// *RefusedError.
func ReadBack(ctx context.Context, drive Drive, image Image, opts Options) (*Comparison, error) {
	if err := image.check(); err != nil {
		return nil, err
	}
	u := &unit{Drive: drive}
	begun := drive.Now()
	return readBack(ctx, u, image, opts,
		func(Phase) { begun = drive.Now() },
		func(done uint32) { report(opts, PhaseReadBack, done, image.Blocks, drive.Now().Sub(begun)) })
}

func readBack(ctx context.Context, u *unit, image Image, opts Options, begins func(Phase), progress func(uint32)) (*Comparison, error) {
	begins(PhaseReadBack)
	r, err := openDisc(ctx, u, opts.Patience)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if r.size < int64(image.Blocks)*BlockSize {
		return nil, &MismatchError{Detail: fmt.Sprintf("the disc has %d blocks, the image %d", r.size/BlockSize, image.Blocks)}
	}
	c := &Comparison{}
	if image.SHA256 == nil {
		c.SHA256, err = compare(ctx, r, image, progress)
	} else {
		c.SHA256, err = digest(ctx, r, image.Blocks, progress)
		if err == nil && !bytes.Equal(c.SHA256, image.SHA256) {
			err = locate(ctx, r, image, c.SHA256)
		}
	}
	if err == nil {
		c.Surplus, err = surplus(r, image.Blocks)
	}
	c.Retries = r.Retries()
	return c, err
}

// digest hashes the disc while it reads on.
func digest(ctx context.Context, r io.ReaderAt, blocks uint32, progress func(uint32)) ([]byte, error) {
	s := newStream(r, blocks, nil)
	defer s.close()
	sum, done := sha256.New(), uint32(0)
	for {
		chunk, err := s.next(ctx)
		if err == io.EOF {
			return sum.Sum(nil), nil
		}
		if err != nil {
			return nil, err
		}
		sum.Write(chunk)
		done += uint32(len(chunk) / BlockSize)
		progress(done)
		s.recycle(chunk)
	}
}

// compare compares the disc with the image, both read in parallel. It returns
// the disc's digest.
func compare(ctx context.Context, r io.ReaderAt, image Image, progress func(uint32)) ([]byte, error) {
	if image.Source == nil {
		return nil, errors.New("neither the image nor its SHA-256 is given")
	}
	disc, want := newStream(r, image.Blocks, nil), newStream(image.Source, image.Blocks, nil)
	defer disc.close()
	defer want.close()
	sum, done := sha256.New(), uint32(0)
	for {
		d, err := disc.next(ctx)
		if err == io.EOF {
			return sum.Sum(nil), nil
		}
		if err != nil {
			return nil, err
		}
		w, err := want.next(ctx)
		if err != nil {
			return nil, imageError(ctx, err)
		}
		if !bytes.Equal(d, w) {
			off := 0
			for d[off] == w[off] {
				off++
			}
			return nil, &MismatchError{LBA: done + uint32(off/BlockSize), Known: true,
				Detail: fmt.Sprintf("byte %d of the block is %02xh, want %02xh", off%BlockSize, d[off], w[off])}
		}
		sum.Write(d)
		done += uint32(len(d) / BlockSize)
		progress(done)
		disc.recycle(d)
		want.recycle(w)
	}
}

// locate names the first block that differs, after the digests did.
func locate(ctx context.Context, r io.ReaderAt, image Image, got []byte) error {
	digests := fmt.Sprintf("its SHA-256 is %x, want %x", got, image.SHA256)
	if image.Source == nil {
		return &MismatchError{Detail: digests}
	}
	again, err := compare(ctx, r, image, func(uint32) {})
	var m *MismatchError
	switch {
	case errors.As(err, &m):
		return m
	case err != nil:
		return fmt.Errorf("%w (looking for the block: %v)", &MismatchError{Detail: digests}, err)
	case bytes.Equal(again, image.SHA256):
		return &MismatchError{Detail: digests + "; a second reading was equal: the disc reads differently each time"}
	}
	return &MismatchError{Detail: digests + "; the image itself has changed meanwhile"}
}

// surplus reads what is readable behind the image. Blocks that can't be read
// are run-out; what stands behind those counts all the same.
func surplus(r *DiscReader, imageBlocks uint32) (uint32, error) {
	blocks := r.size/BlockSize - int64(imageBlocks)
	if blocks > maxSurplus {
		return 0, &MismatchError{LBA: imageBlocks, Known: true, Detail: fmt.Sprintf("%d blocks are readable behind the image", blocks)}
	}
	zero, b := make([]byte, BlockSize), make([]byte, BlockSize)
	for i := range uint32(blocks) {
		lba := imageBlocks + i
		_, err := r.ReadAt(b, int64(lba)*BlockSize)
		var bad *ReadError
		if errors.As(err, &bad) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if !bytes.Equal(b, zero) {
			return 0, &MismatchError{LBA: lba, Known: true, Detail: "the block lies behind the image and is not zero"}
		}
	}
	return uint32(blocks), nil
}
