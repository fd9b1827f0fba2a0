package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"sallyport/bundle/verity"
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
// repaired, everything else derives from the seal. Each block of a medium is read once (of another source those that
// decoding takes a second time), and before that all of it once more when block 0 is no help. Every block of data and
// tree is hashed up to the root hash before or as it is written, parity is held to its digest, and what derives from
// the seal and what was made is read again at the end; the files' digests are for whoever reads the image, but without
// parity it is checked as [Check] does. The file appears under its name when it is complete and synced; until then,
// and after an error, nothing changes. What is at path by then is an error (fs.ErrExist), and stays.
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
	repaired, err := repairInto(ctx, c, others, src, out, opt.Progress)
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

// repairInto brings the whole image into out, which is empty, and checks it.
func repairInto(ctx context.Context, c *Claims, others []sighting, src Source, out *image, progress Progress) (*Repaired, error) {
	blocks := c.Geometry.ImageBlocks()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// What is read of the source goes straight to its place.
	behind := newWriteBehind(out, stop)
	defer behind.stop()
	over := &overlay{src: src, limit: blocks, file: out.file, behind: behind, capture: true, have: blockSet{}, made: blockSet{}, mended: c.mendedRun}
	r := &reading{src: Source{ReaderAt: over, Size: blocks * BlockSize, Medium: src.Medium, Gone: src.Gone}, claims: c, opt: VerifyOptions{Progress: progress}, over: over, restoring: true}
	err := r.restore(ctx)
	if writeErr := behind.flush(); writeErr != nil {
		return nil, writeErr
	}
	if err != nil {
		return nil, damage(err)
	}
	if err := c.oneImage(others); err != nil {
		return nil, err
	}
	if err := r.checkMade(ctx, out.file); err != nil {
		return nil, err
	}
	return r.repaired(), nil
}

// checkMade reads the output. Without parity nothing is known of what was copied, and all of it is checked as [Check]
// does. With parity all of data and tree was hashed up to the root hash, or made and held to it, and parity held to its
// digest, in the memory that it was then written from (verity.Repair says so by its success). Hashing it all a second
// time, and each file for its own, would say nothing new: what the files' digests should be stands under the same seal,
// and whoever reads the image compares them. So read again are locator and seals, which have to be those that were
// judged; all that derives from the seal: superblock, directory area, README, SHA256SUMS and padding; the manifest; and
// every block that was made here.
func (r *reading) checkMade(ctx context.Context, file io.ReaderAt) error {
	c, g := r.claims, r.claims.Geometry
	src := Source{ReaderAt: file, Size: g.ImageBlocks() * BlockSize}
	if !r.mends() {
		if _, err := Check(ctx, src, nil, r.opt.Progress); err != nil {
			return fmt.Errorf("check the repaired image: %w", err)
		}
		return nil
	}
	made, err := inspect(ctx, src, false)
	if err == nil && (made.Digest() != c.Digest() || !slices.EqualFunc(made.Slots, c.Slots, bytes.Equal)) {
		err = errors.New("the seal is another one")
	}
	if err == nil {
		_, err = made.Signatures()
	}
	if err != nil {
		return fmt.Errorf("check the repaired image: %w", err)
	}
	out := &reading{step: "verify", src: src, claims: made, opt: VerifyOptions{NoRepair: true, Progress: r.opt.Progress}}
	for _, step := range []func(context.Context) error{
		out.superblockAndTree, out.manifest, out.directories, out.readmeFile, out.sums, out.rest,
		func(ctx context.Context) error { return out.madeBlocks(ctx, c.mended) },
	} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("check the repaired image: %w", damage(err))
		}
	}
	if len(out.notes) > 0 {
		return refuse("damaged", "the image can't be made as it was: %s", out.notes[0])
	}
	return nil
}

// readmeFile compares README.txt, the first file.
func (r *reading) readmeFile(ctx context.Context) error {
	lba, blocks := r.layout.Extent(layoutPayload - 1)
	s := r.stream(ctx, lba, blocks)
	defer s.Close()
	return r.compareReadme(s)
}

// madeBlocks checks the blocks of data and tree that were made, and with any of the parity all of that.
func (r *reading) madeBlocks(ctx context.Context, made blockSet) error {
	g := r.claims.Geometry
	treeMade, parityMade := false, false
	for first, end := range made.runs() {
		treeMade = treeMade || first < g.FEC() && end > g.Tree()
		parityMade = parityMade || first < g.SealB() && end > g.FEC()
		if end = min(end, g.DataBlocks); first < end {
			if err := r.skim(ctx, first, end); err != nil {
				return err
			}
		}
	}
	if treeMade {
		// One block of data brings the leaves of many, and all of them are checked.
		for lba := int64(0); lba < g.DataBlocks; lba += verity.LeavesCheckedFor {
			if err := r.skim(ctx, lba, lba+1); err != nil {
				return err
			}
		}
	}
	if parityMade {
		return r.parity(ctx)
	}
	return nil
}

// skim checks the data blocks first to end-1.
func (r *reading) skim(ctx context.Context, first, end int64) error {
	s := r.stream(ctx, first, end-first)
	defer s.Close()
	_, err := io.Copy(io.Discard, s)
	return err
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
		if errors.Is(err, verity.ErrParitySum) {
			return refuse("damaged", "the image can't be made as it was: %v", err)
		}
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
