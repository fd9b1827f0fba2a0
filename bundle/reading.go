package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"sallyport/bundle/iso9660"
	"sallyport/bundle/verity"
)

// A Sink takes a payload in manifest order: the root, then each directory before what is in it.
type Sink interface {
	// Put takes an entry; of a File, r gives exactly e.Size bytes, each of them verified. r is nil for others,
	// and not to be used after Put has returned.
	Put(e *Entry, r io.Reader) error
}

// reading goes through a bundle behind its seal, which the caller has judged.
type reading struct {
	src     Source
	claims  *Claims
	opt     VerifyOptions
	data    *verity.Reader
	layout  *iso9660.Layout
	entries []Entry
	readme  [32]byte
	notes   []string
	step    string // for progress
	done    int64  // bytes of the image that were read in it

	over    *overlay // before the source since it was found damaged; nil before
	repairs int      // how often data and tree were mended
	// restoring says that the whole image is written: what can't be read is made, and counted, also where no reader
	// needs it.
	restoring bool

	behind []blockRange // what is read of the surplus
	unread int64        // blocks of it that aren't

	worst int // symbols that the worst codeword had lost
}

func (r *reading) run(ctx context.Context) (err error) {
	defer func() {
		if r.over != nil {
			err = errors.Join(err, r.over.Close())
		}
	}()
	r.chooseSurplus()
	for _, step := range []func(context.Context) error{
		r.superblockAndTree, r.manifest, r.directories, r.payload, r.sums, r.parity, r.rest,
	} {
		if err := step(ctx); err != nil {
			return damage(err)
		}
	}
	return nil
}

func (r *reading) progress(n int64) {
	r.done += n
	if r.opt.Progress != nil {
		r.opt.Progress(r.step, r.done, r.src.Size-r.unread*BlockSize)
	}
}

// superblockAndTree compares the superblock and checks the tree against the signed root; the leaves, hash
// blocks too, are checked as they are needed, before what rests on them.
func (r *reading) superblockAndTree(ctx context.Context) error {
	if err := r.superblock(); err != nil {
		return err
	}
	if err := r.openTree(); err != nil {
		return r.mend(ctx, err)
	}
	return nil
}

// superblock is the dm-verity superblock that the seal gives.
func (c *Claims) superblock() ([]byte, error) {
	sb, err := verity.Superblock(c.Seal.identity().verityParams(c.Geometry.DataBlocks))
	return sb[:], err
}

// superblock compares the superblock. Everything in it is known, so that with parity damage is only noted.
func (r *reading) superblock() error {
	want, err := r.claims.superblock()
	if err != nil {
		return err
	}
	lba := r.claims.Geometry.Superblock()
	got := make([]byte, BlockSize)
	err = readFull(r.src, got, lba*BlockSize)
	i := firstDifference(got, want)
	switch {
	case r.src.lost(err) || err != nil && !r.mends():
		return fmt.Errorf("read the superblock: %w", err)
	case err == nil && i < BlockSize && !r.mends():
		return refuse("bad-superblock", "LBA %d, byte %d: not the superblock that the seal gives", lba, i)
	case err != nil || i < BlockSize:
		r.claims.healed(lba, err != nil)
	}
	return nil
}

// openTree opens the tree, and the data under it.
func (r *reading) openTree() error {
	g, seal := r.claims.Geometry, r.claims.Seal
	root, err := parseDigest(seal.Verity.Root)
	if err != nil {
		return err
	}
	tree, err := verity.OpenTree(io.NewSectionReader(r.src, g.Tree()*BlockSize, g.TreeBlocks*BlockSize), seal.identity().verityParams(g.DataBlocks), root)
	if err != nil {
		return err
	}
	r.data = verity.NewReader(&headReader{head: r.claims.locator, r: io.NewSectionReader(r.src, 0, g.DataBlocks*BlockSize)}, tree)
	return nil
}

// headReader serves the first block from memory, so that it isn't read from the medium a second time.
type headReader struct {
	head []byte
	r    io.ReaderAt
}

func (h *headReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= int64(len(h.head)) {
		return h.r.ReadAt(p, off)
	}
	n := copy(p, h.head[off:])
	if n == len(p) {
		return n, nil
	}
	m, err := h.r.ReadAt(p[n:], off+int64(n))
	return n + m, err
}

func (r *reading) manifest(ctx context.Context) error {
	m := r.claims.Seal.Manifest
	digest, err := parseDigest(m.SHA256)
	if err != nil {
		return err
	}
	s := r.stream(ctx, m.LBA, blocksOf(m.Bytes))
	defer s.Close()
	if r.entries, err = readManifest(s, m.Bytes, digest); err != nil {
		return err
	}
	if err := zeroTail(s, m.Bytes, manifestName); err != nil {
		return err
	}
	if r.opt.Entries != nil {
		return r.opt.Entries(r.entries)
	}
	return nil
}

// directories builds the directory area again from the manifest and compares it with what is there.
func (r *reading) directories(ctx context.Context) error {
	seal, g := r.claims.Seal, r.claims.Geometry
	var err error
	if r.layout, err = newLayout(seal.identity(), seal.Created, seal.Manifest.Bytes, r.entries); err != nil {
		return &RefusedError{Code: "directory-differs", Detail: "the manifest can't be laid out", Err: err}
	}
	lba, _ := r.layout.Extent(r.manifestIndex())
	if r.layout.Blocks() != g.DataBlocks || lba != seal.Manifest.LBA {
		return refuse("directory-differs", "the manifest gives %d data blocks with itself at LBA %d, the seal says %d and %d",
			r.layout.Blocks(), lba, g.DataBlocks, seal.Manifest.LBA)
	}
	s := r.stream(ctx, 0, r.layout.DataStart())
	defer s.Close()
	cmp := &compareWriter{r: s}
	system := make([]byte, 16*BlockSize)
	copy(system, g.locator())
	_, err = cmp.Write(system)
	if err == nil {
		err = r.layout.WriteDirectoryArea(cmp)
	}
	if errors.Is(err, errDiffers) {
		return refuse("directory-differs", "LBA %d, byte %d: not what the manifest gives", cmp.at/BlockSize, cmp.at%BlockSize)
	}
	return err
}

func (r *reading) manifestIndex() int { return layoutPayload + len(r.entries) - 1 }

var errDiffers = errors.New("differs")

// compareWriter compares what is written to it with what r gives.
type compareWriter struct {
	r   io.Reader
	buf []byte
	at  int64 // of the first difference
}

func (c *compareWriter) Write(p []byte) (int, error) {
	if cap(c.buf) < len(p) {
		c.buf = make([]byte, len(p))
	}
	buf := c.buf[:len(p)]
	if _, err := io.ReadFull(c.r, buf); err != nil {
		return 0, err
	}
	i := firstDifference(p, buf)
	c.at += int64(i)
	if i < len(p) {
		return i, errDiffers
	}
	return len(p), nil
}

// payload reads the files in the order in which they lie, which is the manifest's.
func (r *reading) payload(ctx context.Context) error {
	first, end := r.layout.DataStart(), r.claims.Seal.Manifest.LBA
	s := r.stream(ctx, first, end-first)
	defer s.Close()
	if err := r.put(&r.entries[0], nil); err != nil {
		return err
	}
	if err := r.compareReadme(s); err != nil {
		return err
	}
	for i := 1; i < len(r.entries); i++ {
		e := &r.entries[i]
		if e.Type != File {
			if err := r.put(e, nil); err != nil {
				return err
			}
			continue
		}
		h := sha256.New()
		body := io.TeeReader(io.LimitReader(s, e.Size), h)
		if err := r.put(e, body); err != nil {
			return err
		}
		if n, err := io.Copy(io.Discard, body); err != nil {
			return err
		} else if n > 0 && r.opt.Sink != nil {
			return fmt.Errorf("%q: the receiver left %d bytes unread", e.Path, n)
		}
		if got := [32]byte(h.Sum(nil)); got != e.SHA256 {
			return refuse("file-differs", "%q has SHA-256 %x, the manifest says %x", e.Path, got, e.SHA256)
		}
		if err := zeroTail(s, e.Size, e.Path); err != nil {
			return err
		}
	}
	return nil
}

// compareReadme compares the text of README.txt, which s begins with.
func (r *reading) compareReadme(s io.Reader) error {
	want := readme(r.claims.Seal.identity(), r.claims.Geometry)
	cmp := &compareWriter{r: s}
	if _, err := cmp.Write(want); errors.Is(err, errDiffers) {
		return refuse("readme-differs", "README.txt, byte %d: not the text of profile 1", cmp.at)
	} else if err != nil {
		return err
	}
	r.readme = sha256.Sum256(want)
	return nil
}

func (r *reading) put(e *Entry, body io.Reader) error {
	if r.opt.Sink == nil {
		return nil
	}
	return r.opt.Sink.Put(e, body)
}

// zeroTail reads the rest of the last block of a file of size bytes, which must be zero.
func zeroTail(s io.Reader, size int64, name string) error {
	tail := make([]byte, blocksOf(size)*BlockSize-size)
	if _, err := io.ReadFull(s, tail); err != nil {
		return err
	}
	if !allZero(tail) {
		return refuse("bad-padding", "%q: the rest of its last block is not zero", name)
	}
	return nil
}

var zeros [64 << 10]byte

func allZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// sums compares SHA256SUMS, the last file of the data area.
func (r *reading) sums(ctx context.Context) error {
	lba, blocks := r.layout.Extent(r.manifestIndex() + 1)
	s := r.stream(ctx, lba, blocks)
	defer s.Close()
	manifest, err := parseDigest(r.claims.Seal.Manifest.SHA256)
	if err != nil {
		return err
	}
	cmp := &compareWriter{r: s}
	err = writeSums(cmp, r.readme, manifest, r.entries)
	if errors.Is(err, errDiffers) {
		return refuse("sums-differ", "SHA256SUMS, byte %d: not what the manifest gives", cmp.at)
	}
	if err != nil {
		return err
	}
	return zeroTail(s, cmp.at, sumsName)
}

// parity compares the parity area with its digest in the seal. Damage in it harms nothing yet, so it is told,
// and no reason to refuse.
func (r *reading) parity(ctx context.Context) error {
	g := r.claims.Geometry
	h := sha256.New()
	err := r.each(ctx, g.FEC(), g.SealB(), func(_ int64, b []byte) error { h.Write(b); return nil })
	if context.Cause(ctx) != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		r.notes = append(r.notes, fmt.Sprintf("parity-damaged: %v", err))
		return nil
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != r.claims.Seal.FEC.SHA256 {
		r.notes = append(r.notes, fmt.Sprintf("parity-damaged: the parity area has SHA-256 %s, the seal says %s", got, r.claims.Seal.FEC.SHA256))
	}
	return nil
}

// each reads blocks first to end-1 in large pieces.
func (r *reading) each(ctx context.Context, first, end int64, do func(lba int64, b []byte) error) error {
	buf := make([]byte, min(1<<20, max(end-first, 0)*BlockSize))
	for lba := first; lba < end; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		b := buf[:min(int64(len(buf)), (end-lba)*BlockSize)]
		if err := readFull(r.src, b, lba*BlockSize); err != nil {
			return err
		}
		if err := do(lba, b); err != nil {
			return err
		}
		r.progress(int64(len(b)))
		lba += int64(len(b)) / BlockSize
	}
	return nil
}

// rest checks what is neither under the tree nor signed: the locator's copy, the padding, and on a medium all
// that can be read behind the image.
func (r *reading) rest(ctx context.Context) error {
	if err := r.locatorCopy(); err != nil {
		return err
	}
	if err := r.padding(ctx); err != nil {
		return err
	}
	if !r.src.Medium {
		return nil
	}
	return r.surplus(ctx)
}

func (r *reading) locatorCopy() error {
	g := r.claims.Geometry
	b := make([]byte, BlockSize)
	err := readFull(r.src, b, g.LocatorCopy()*BlockSize)
	i := firstDifference(b, g.locator())
	switch {
	case r.src.lost(err):
		return err
	case err != nil && (r.mends() || r.restoring && r.src.Medium), err == nil && i < BlockSize && r.mends():
		r.claims.healed(g.LocatorCopy(), err != nil)
	case err != nil && !r.src.Medium:
		return err
	case err != nil:
		r.notes = append(r.notes, fmt.Sprintf("the locator's copy can't be read: %v", err))
	case i < BlockSize:
		return refuse("bad-locator", "LBA %d, byte %d: not the locator that the seal gives", g.LocatorCopy(), i)
	}
	return nil
}

// padding checks the image's padding. With parity what isn't zero there is damage like any other.
func (r *reading) padding(ctx context.Context) error {
	g := r.claims.Geometry
	var made func(lba int64, unreadable bool)
	if r.mends() {
		made = r.claims.healed
	}
	return r.zeroBlocks(ctx, []blockRange{{g.Padding(), g.ImageBlocks()}}, "bad-padding", made)
}

// maxUnreadable bounds how many blocks that were not written for a reader may fail: the padding, and the run-out
// behind the last block. Behind more of them anything could hide.
const maxUnreadable = 300

// zeroBlocks wants the blocks of all parts to be zero. healed, if not nil, takes those that aren't, or that a file
// doesn't give; else they are a refusal with the code, and a fault.
func (r *reading) zeroBlocks(ctx context.Context, parts []blockRange, code string, healed func(lba int64, unreadable bool)) error {
	zero := func(lba int64, b []byte) error {
		for i := 0; i < len(b); i += BlockSize {
			switch at := lba + int64(i/BlockSize); {
			case allZero(b[i : i+BlockSize]):
			case healed != nil:
				healed(at, false)
			default:
				return refuse(code, "LBA %d is not zero", at)
			}
		}
		return nil
	}
	unreadable := 0
	for _, part := range parts {
		n, err := r.zeroPart(ctx, part, maxUnreadable-unreadable, zero, healed)
		if errors.Is(err, errUnreadable) {
			return refuse(code, "from LBA %d on more than %d blocks can't be read, so what lies there can't be judged: %v", parts[0].first, maxUnreadable, err)
		}
		if err != nil {
			return err
		}
		unreadable += n
	}
	if unreadable > 0 {
		r.notes = append(r.notes, fmt.Sprintf("%d blocks from LBA %d on can't be read; nothing of the payload lies there", unreadable, parts[0].first))
	}
	return nil
}

// errUnreadable says that more blocks can't be read than may be. It doesn't leave zeroBlocks.
var errUnreadable = errors.New("too many blocks can't be read")

// zeroPart is zeroBlocks for one part, of which at most so many blocks may be unreadable. It returns how many were.
func (r *reading) zeroPart(ctx context.Context, part blockRange, most int, zero func(lba int64, b []byte) error, healed func(lba int64, unreadable bool)) (unreadable int, err error) {
	const piece = 512 // blocks
	for lba := part.first; lba < part.end; lba += piece {
		stop := min(lba+piece, part.end)
		err := r.each(ctx, lba, stop, zero)
		if err == nil {
			continue
		}
		if r.endsZero(ctx, err) || !r.src.Medium && healed == nil {
			return 0, err
		}
		for one := lba; one < stop; one++ {
			err := r.each(ctx, one, one+1, zero)
			switch {
			case err == nil:
			case r.endsZero(ctx, err):
				return 0, err
			case !r.src.Medium || r.restoring:
				r.claims.healed(one, true)
			default:
				if unreadable++; unreadable > most {
					return 0, fmt.Errorf("%w: %w", errUnreadable, err)
				}
			}
		}
	}
	return unreadable, nil
}

// endsZero tells whether an error isn't about a block that can't be read.
func (r *reading) endsZero(ctx context.Context, err error) bool {
	var refused *RefusedError
	return errors.As(err, &refused) || context.Cause(ctx) != nil || r.src.lost(err)
}
