// Package carry puts an image on a medium that carries it, as a stick does, so
// that the medium can be read on its own: the image from byte 0 on, zeros
// behind it to the medium's end. The image is a bundle, or a whole layout of
// partitions and file systems.
//
// What makes the image one that anybody would take for one (Image.Last) is
// written when all else is on the medium, and taken away before anything is
// written: a write that was interrupted leaves none. What was written counts
// when it was read back: the whole image, and all that lies behind it.
package carry

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"
)

// Medium is what is written to: offsets and lengths of writes and reads are
// whole blocks, in bytes, and buffers are aligned for O_DIRECT. Reads and
// writes are never under way at the same time, nor more than one of a kind.
//
// A medium may also have Gone(err error) bool: whether an error of it says
// that it was taken away.
type Medium interface {
	io.ReaderAt
	io.WriterAt
	Sync() error    // what was written is on the medium
	Size() int64    // bytes, as it claims
	BlockSize() int // bytes
}

// ImageBlock is what images of bundles are made of, in bytes.
const ImageBlock = 2048

// Extent is a stretch of an image, whole blocks of it.
type Extent struct {
	Off, Len int64 // bytes
}

// Image is what is written.
type Image struct {
	io.ReaderAt
	Size      int64    // bytes, whole blocks
	BlockSize int      // bytes; 0: ImageBlock. A medium's are no larger
	SHA256    [32]byte // zero: what it is when it is written
	// Last is what is written last, in this order, each when the one before is
	// on the medium. Until then there are zeros. At most 1 MiB in all.
	Last []Extent
}

// Options of Write. All may be left zero.
type Options struct {
	// Replug, when set, is called when all was written. It has the medium lose
	// its power and returns it anew: what only a cache held is lost. Without
	// it what a cache of the medium still holds counts as written.
	Replug func(ctx context.Context) (Medium, error)

	// Progress, when set, is called now and then, always from the goroutine
	// that called Write.
	Progress func(Progress)

	// Now is the clock of the record and of the time left. Without it the
	// record has no times, and what is left isn't known.
	Now func() time.Time
}

// The codes of what a medium is refused for.
const (
	CodeBlockSize = "carrier-block-size" // its blocks are larger than those of an image
	CodeTooSmall  = "carrier-too-small"  // the image has no room on it
	CodeDiffers   = "readback-differs"   // it doesn't give what was written to it
)

// RefusedError says that a medium can't carry the image. Nothing was written
// to it.
type RefusedError struct {
	Code   string
	Detail string
}

func (e *RefusedError) Error() string { return e.Code + ": " + e.Detail }

// RefusalCode returns e.Code.
func (e *RefusedError) RefusalCode() string { return e.Code }

// DiffersError says that a medium doesn't read as what was written to it.
type DiffersError struct {
	Offset int64 // bytes, of the first that differs
	Image  int64 // bytes of the image: what lies behind it should be zero
}

func (e *DiffersError) Error() string {
	if e.Offset >= e.Image {
		return fmt.Sprintf("byte %d, behind the image of %d bytes, is not zero, which was written there", e.Offset, e.Image)
	}
	return fmt.Sprintf("byte %d is not what was written there", e.Offset)
}

// RefusalCode returns CodeDiffers.
func (e *DiffersError) RefusalCode() string { return CodeDiffers }

// ErrImageChanged says that the image is not the one that its digest was
// taken of. It is on no medium.
var ErrImageChanged = errors.New("the image has changed since it was checked")

const (
	// chunk is how much is written and read at a time, in bytes.
	chunk = 4 << 20
	// maxLast bounds what is held back in memory, in bytes.
	maxLast = 1 << 20
	// edge is how much is zeroed first at both ends of a medium, in bytes:
	// where partition tables and their copies, file systems and other images are
	// looked for.
	edge = chunk
	// blind is how many chunks behind the image are zeroed without being read,
	// once one was found that isn't zero.
	blind = 15
)

// write is one call of Write.
type write struct {
	opt    Options
	m      Medium
	image  Image
	size   int64 // of the medium
	last   [][]byte
	record *Record
	meter  meter

	cleared bool // the medium was
	listed  bool // some of image.Last may be on it
}

// Write puts an image on a medium. All that was on it is lost, also when it
// fails, unless the error is a *RefusedError.
//
// The record is never nil and says what was done as far as it came. Its
// Verified is true only when the error is nil: the image was read back whole
// and equal, and all behind it is zero. After a failure what was written last is
// taken away again, as far as the medium can still be written to; the record
// says whether.
//
// Errors: *RefusedError, *DiffersError, ErrImageChanged, ctx's own when it is
// done, and those of the image, the medium and of Options.Replug, with what was
// being done and where.
func Write(ctx context.Context, m Medium, image Image, opt Options) (*Record, error) {
	w := &write{opt: opt, m: m, image: image, size: m.Size(), record: newRecord(m, &image)}
	w.meter = meter{now: opt.Now, report: opt.Progress}
	w.record.Start = w.meter.unix()
	err := w.all(ctx)
	if err != nil && w.listed {
		w.listed = w.clear(context.WithoutCancel(ctx)) != nil
	}
	w.record.Verified, w.record.Cleared = err == nil, err != nil && w.cleared && !w.listed
	w.record.End = w.meter.unix()
	if err != nil {
		return w.record, fmt.Errorf("write image: %w", err)
	}
	return w.record, nil
}

func (w *write) all(ctx context.Context) error {
	if err := w.check(); err != nil {
		return err
	}
	behind := w.size - w.image.Size
	w.meter.plan(w.image.Size, behind)
	w.meter.enter(PhaseClear)
	w.record.Touched = true
	if err := w.clear(ctx); err != nil {
		return w.fail(PhaseClear, -1, err)
	}
	w.cleared = true
	w.meter.enter(PhaseWrite)
	if err := w.body(ctx); err != nil {
		return err
	}
	w.meter.enter(PhaseZero)
	if err := w.zero(ctx); err != nil {
		return err
	}
	if err := w.m.Sync(); err != nil {
		return w.fail(PhaseZero, -1, err)
	}
	w.meter.enter(PhaseLast)
	w.listed = true
	if err := w.finish(ctx); err != nil {
		return err
	}
	if w.opt.Replug != nil {
		w.meter.enter(PhaseReplug)
		if err := w.replug(ctx); err != nil {
			return w.fail(PhaseReplug, -1, err)
		}
	}
	w.meter.enter(PhaseRead)
	if err := w.readBack(ctx); err != nil {
		return err
	}
	w.meter.enter(PhaseProve)
	return w.prove(ctx)
}

// check refuses what doesn't fit together, before anything is written.
func (w *write) check() error {
	block, unit := int64(w.m.BlockSize()), int64(w.image.BlockSize)
	if unit == 0 {
		unit = ImageBlock
	}
	switch {
	case block < 1 || w.size <= 0 || w.size%block != 0:
		return fmt.Errorf("a medium of %d bytes in blocks of %d", w.size, block)
	case unit%block != 0:
		return &RefusedError{CodeBlockSize, fmt.Sprintf("the medium has blocks of %d bytes; one that carries an image has %d, or a part of it", block, unit)}
	case w.image.Size <= 0 || w.image.Size%unit != 0:
		return fmt.Errorf("an image of %d bytes, want whole blocks of %d", w.image.Size, unit)
	case w.image.Size > w.size:
		return &RefusedError{CodeTooSmall, fmt.Sprintf("the image has %d bytes and the medium %d: %d too few", w.image.Size, w.size, w.image.Size-w.size)}
	}
	held := int64(0)
	for _, x := range w.image.Last {
		if x.Off < 0 || x.Len <= 0 || x.Off%unit != 0 || x.Len%unit != 0 || x.Off > w.image.Size || x.Len > w.image.Size-x.Off {
			return fmt.Errorf("%d bytes at byte %d to be written last are no blocks of an image of %d bytes", x.Len, x.Off, w.image.Size)
		}
		if held += x.Len; held > maxLast {
			return fmt.Errorf("more than %d bytes to be written last", maxLast)
		}
		w.last = append(w.last, buffer(int(x.Len)))
	}
	return nil
}

// clear takes away, durably, what makes anything on the medium an image, a
// partition table or a file system to anybody.
func (w *write) clear(ctx context.Context) error {
	block := int64(w.m.BlockSize())
	ends := min(edge/block*block, w.size)
	list := append([]Extent{{0, ends}, {w.size - ends, ends}}, w.image.Last...)
	zeros := buffer(chunk)
	for _, x := range list {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := writeFull(w.m, zeros[:x.Len], x.Off); err != nil {
			return fmt.Errorf("at byte %d: %w", x.Off, err)
		}
	}
	return w.m.Sync()
}

// body writes all of the image but what comes last, which it keeps.
func (w *write) body(ctx context.Context) error {
	sum, z := sha256.New(), newZeroing(w.m)
	for p := range pieces(ctx, "image", w.image, 0, w.image.Size) {
		if p.err != nil {
			return w.fail(PhaseWrite, p.off, p.err)
		}
		sum.Write(p.b)
		w.hold(p)
		err := error(nil)
		if firstNonZero(p.b) < 0 { // a hole of a file system's, most of a large stick
			_, err = z.at(p.off, len(p.b))
		} else {
			err = writeFull(w.m, p.b, p.off)
		}
		if err != nil {
			return w.fail(PhaseWrite, p.off, err)
		}
		w.record.Written += int64(len(p.b))
		w.meter.add(int64(len(p.b)))
	}
	if !w.isImage(sum) {
		return w.fail(PhaseWrite, -1, ErrImageChanged)
	}
	return nil
}

// isImage says whether the image still is the one that it was.
func (w *write) isImage(sum hash.Hash) bool {
	digest := [32]byte(sum.Sum(nil))
	if w.image.SHA256 == [32]byte{} {
		w.image.SHA256, w.record.ImageSHA256 = digest, fmt.Sprintf("%x", digest)
	}
	return digest == w.image.SHA256
}

// hold keeps what of a piece comes last, and leaves zeros in its place.
func (w *write) hold(p piece) {
	for i, x := range w.image.Last {
		from, to := max(x.Off, p.off), min(x.Off+x.Len, p.off+int64(len(p.b)))
		if from < to {
			copy(w.last[i][from-x.Off:], p.b[from-p.off:to-p.off])
			clear(p.b[from-p.off : to-p.off])
		}
	}
}

// zeroing makes pieces of a medium zero, in their order. What reads as zero isn't written: where a stick carried an image
// before, reading is all that it takes.
type zeroing struct {
	m        Medium
	b, zeros []byte
	unread   int
}

func newZeroing(m Medium) *zeroing { return &zeroing{m: m, b: buffer(chunk), zeros: buffer(chunk)} }

// at makes n bytes zero, at most a chunk, and says whether it wrote them.
func (z *zeroing) at(off int64, n int) (wrote bool, err error) {
	if z.unread == 0 {
		b := z.b[:n]
		if got, err := z.m.ReadAt(b, off); got == n && (err == nil || err == io.EOF) && firstNonZero(b) < 0 {
			return false, nil
		}
		z.unread = blind // also what can't be read: it may be, once it was written
	} else {
		z.unread--
	}
	return true, writeFull(z.m, z.zeros[:n], off)
}

// zero makes all behind the image zero.
func (w *write) zero(ctx context.Context) error {
	z := newZeroing(w.m)
	for off := w.image.Size; off < w.size; off += chunk {
		if err := context.Cause(ctx); err != nil {
			return w.fail(PhaseZero, -1, err)
		}
		n := min(chunk, w.size-off)
		wrote, err := z.at(off, int(n))
		if err != nil {
			return w.fail(PhaseZero, off, err)
		}
		if wrote {
			w.record.SurplusWritten += n
		}
		w.meter.add(n)
	}
	return nil
}

// finish writes what comes last.
func (w *write) finish(ctx context.Context) error {
	for i, x := range w.image.Last {
		err := context.Cause(ctx)
		if err == nil {
			err = writeFull(w.m, w.last[i], x.Off)
		}
		if err != nil {
			return w.fail(PhaseLast, x.Off, err)
		}
		if err := w.m.Sync(); err != nil {
			return w.fail(PhaseLast, x.Off, err)
		}
	}
	return nil
}

func (w *write) replug(ctx context.Context) error {
	m, err := w.opt.Replug(ctx)
	if err != nil {
		return err
	}
	if m.Size() != w.size || m.BlockSize() != w.m.BlockSize() {
		return fmt.Errorf("a medium of %d bytes in blocks of %d came back for one of %d in blocks of %d", m.Size(), m.BlockSize(), w.size, w.m.BlockSize())
	}
	w.m, w.record.Replugged = m, true
	return nil
}

// readBack compares the medium with the image.
func (w *write) readBack(ctx context.Context) error {
	sum, want := sha256.New(), buffer(chunk)
	for p := range pieces(ctx, "medium", w.m, 0, w.image.Size) {
		if p.err != nil {
			return w.fail(PhaseRead, p.off, p.err)
		}
		want := want[:len(p.b)]
		if n, err := w.image.ReadAt(want, p.off); n < len(want) {
			return w.fail(PhaseRead, p.off, fmt.Errorf("read the image: %w", orShort(err)))
		}
		if i := firstDifference(p.b, want); i >= 0 {
			at := p.off + int64(i)
			return w.fail(PhaseRead, at, &DiffersError{at, w.image.Size})
		}
		sum.Write(p.b)
		w.record.Read += int64(len(p.b))
		w.meter.add(int64(len(p.b)))
	}
	w.record.ReadBackSHA256 = fmt.Sprintf("%x", sum.Sum(nil))
	if !w.isImage(sum) {
		return w.fail(PhaseRead, -1, ErrImageChanged)
	}
	return nil
}

// prove reads all behind the image.
func (w *write) prove(ctx context.Context) error {
	for p := range pieces(ctx, "medium", w.m, w.image.Size, w.size) {
		if p.err != nil {
			return w.fail(PhaseProve, p.off, p.err)
		}
		if i := firstNonZero(p.b); i >= 0 {
			at := p.off + int64(i)
			return w.fail(PhaseProve, at, &DiffersError{at, w.image.Size})
		}
		w.record.SurplusProven += int64(len(p.b))
		w.meter.add(int64(len(p.b)))
	}
	return nil
}

// fail notes where a write ended, and why; off is -1 where there is no one place.
func (w *write) fail(phase Phase, off int64, err error) error {
	w.record.Failure = &Failure{Error: err.Error(), Offset: off, Phase: phase}
	if _, ok := errors.AsType[*DiffersError](err); ok || off < 0 {
		return fmt.Errorf("%s: %w", phase, err)
	}
	return fmt.Errorf("%s at byte %d: %w", phase, off, err)
}
