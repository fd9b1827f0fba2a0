package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
)

// RepairOptions of [Repair]. The zero value is good.
type RepairOptions struct {
	// Judge is called with locator and seal, made good, before anything else is read; its error is the result. Nil:
	// nobody asks who sealed the bundle.
	Judge func(*Claims) error
	// Note, unless nil, is told what is odd about the source and isn't in the image.
	Note func(string)
	// Progress may be nil.
	Progress Progress
}

// Repair writes the image that a bundle was made as, byte for byte, to a file at path: data, tree and parity are
// repaired, everything else derives from the seal. Each block of src is read once, and before that all of it once
// more when block 0 is no help. The file is checked as [Check] does, and appears under its name when it is complete and synced; until then, and after an error, nothing changes. What is at
// path by then is an error (fs.ErrExist), and stays.
// src may be shorter than the image (what is missing is lost) or longer. It returns what had to be repaired, nil
// when nothing was damaged.
//
// Refusals: those of [Inspect] (bad-locator also when block 0 is lost and it can't be told which of two images is
// meant), "damaged" when more is lost than parity can make good, and without parity those of
// [Check].
func Repair(ctx context.Context, src Source, path string, opt RepairOptions) (_ *Repaired, err error) {
	c, others, err := inspectAnywhere(ctx, src, opt.Progress)
	if err != nil {
		return nil, err
	}
	if c.Geometry.Roots == 0 {
		if err := c.checkSize(src); err != nil {
			return nil, err
		}
	}
	if opt.Judge != nil {
		if err := opt.Judge(c); err != nil {
			return nil, err
		}
	}
	out, err := createImage(path, c.Geometry.ImageBlocks()*BlockSize)
	if err != nil {
		return nil, err
	}
	out.keep = true
	defer func() {
		if err != nil {
			out.discard()
		}
	}()
	repaired, err := repairInto(ctx, c, others, src, out.file, opt.Progress)
	if err != nil {
		return nil, err
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if opt.Note != nil {
		for _, note := range c.behind(src) {
			opt.Note(note)
		}
	}
	return repaired, out.commit()
}

// behind says what of the source isn't the image.
func (c *Claims) behind(src Source) []string {
	end := c.Geometry.ImageBlocks() * BlockSize
	more := src.Size - end
	switch {
	case more <= 0:
		return nil
	case !src.Medium:
		return []string{fmt.Sprintf("%d bytes behind the image were left out", more)}
	case more > tailBlocks*BlockSize:
		return []string{fmt.Sprintf("what is in the %d bytes behind the image was not looked at, and left out", more)}
	}
	block := make([]byte, BlockSize)
	for off := end; off < src.Size; off += BlockSize {
		b := block[:min(BlockSize, src.Size-off)]
		if readFull(src, b, off) == nil && !allZero(b) {
			return []string{fmt.Sprintf("%d bytes behind the image, not all of them zero, were left out", more)}
		}
	}
	return nil
}

// repairInto brings the whole image into file, which is empty, and checks it.
func repairInto(ctx context.Context, c *Claims, others []sighting, src Source, file *os.File, progress Progress) (*Repaired, error) {
	blocks := c.Geometry.ImageBlocks()
	size := blocks * BlockSize
	// What is read of the source goes straight to its place.
	over := &overlay{src: src, limit: blocks, file: file, capture: true, have: blockSet{}, mended: c.mendedRun}
	r := &reading{src: Source{ReaderAt: over, Size: size, Medium: src.Medium, Gone: src.Gone}, claims: c, opt: VerifyOptions{Progress: progress}, over: over, restoring: true}
	if err := r.restore(ctx); err != nil {
		return nil, damage(err)
	}
	if err := c.oneImage(others); err != nil {
		return nil, err
	}
	checked, err := Check(ctx, Source{ReaderAt: file, Size: size}, nil, progress)
	if err != nil {
		return nil, fmt.Errorf("check the repaired image: %w", err)
	}
	if len(checked.Notes) > 0 {
		return nil, refuse("damaged", "the image can't be made as it was: %s", checked.Notes[0])
	}
	return r.repaired(), nil
}

// inspectAnywhere reads locator and seal. When block 0 doesn't lead to a seal it looks for them through the whole
// source; then others are those of other images.
func inspectAnywhere(ctx context.Context, src Source, progress Progress) (c *Claims, others []sighting, err error) {
	c, unreadable, err := atFront(ctx, src, true, true)
	if err == nil || ctx.Err() != nil || src.lost(err) || src.Size < BlockSize || c.hasCopy(src) {
		return c, nil, err
	}
	found, others, searchErr := findAnywhere(ctx, src, progress)
	switch {
	case searchErr != nil:
		return nil, nil, searchErr
	case found == nil:
		return nil, nil, err
	}
	found.healed(0, unreadable)
	return found, others, nil
}

// restore brings every block of the image into the overlay's file.
func (r *reading) restore(ctx context.Context) error {
	c, g := r.claims, r.claims.Geometry
	if err := r.over.put(0, c.locator); err != nil {
		return err
	}
	if c.unreadSeal > 0 {
		s := readSealCopy(r.src, c.unreadSeal)
		s.blocks(r.src)
		for i, err := range s.bad {
			if err != nil {
				c.healed(s.lba+int64(i), true)
			}
		}
	}
	if r.mends() {
		report, err := mendAreas(ctx, c, r.over, false, r.opt.Progress)
		if err != nil {
			return beyondRepair(g, err, nil)
		}
		c.unreadable += report.Unreadable
		r.worst = report.Worst
	}
	r.step = "copy"
	if err := r.copyRest(ctx); err != nil {
		return err
	}
	if err := r.superblock(); err != nil {
		return err
	}
	if err := r.locatorCopy(); err != nil {
		return err
	}
	if err := r.padding(ctx); err != nil {
		return err
	}
	superblock, err := c.superblock()
	if err != nil {
		return err
	}
	seal := bytes.Join(append([][]byte{c.Message}, c.Slots...), nil)
	for _, part := range []struct {
		lba   int64
		bytes []byte
	}{
		{g.SealA(), seal}, {g.Superblock(), superblock}, {g.SealB(), seal}, {g.LocatorCopy(), g.locator()},
		{g.Padding(), make([]byte, (g.ImageBlocks()-g.Padding())*BlockSize)},
	} {
		if err := r.over.put(part.lba, part.bytes); err != nil {
			return err
		}
	}
	if !r.over.capture {
		return errors.New("keep what was read: writing failed")
	}
	return nil
}

type blockRange struct{ first, end int64 }

// copyRest reads what of data, tree and parity wasn't read yet, so that the overlay keeps it: without parity all.
func (r *reading) copyRest(ctx context.Context) error {
	g := r.claims.Geometry
	for _, part := range []blockRange{{0, g.DataBlocks}, {g.Tree(), g.SealB()}} {
		for lba := part.first; lba < part.end; {
			have, stop := r.over.have.run(lba, part.end)
			if !have {
				if err := r.each(ctx, lba, stop, func(int64, []byte) error { return nil }); err != nil {
					return err
				}
			}
			lba = stop
		}
	}
	return nil
}

// repaired is what was made good so far, nil for nothing.
func (r *reading) repaired() *Repaired {
	rep := r.claims.Repaired()
	if rep != nil {
		rep.Worst = r.worst
	}
	return rep
}
