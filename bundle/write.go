package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"sallyport/bundle/iso9660"
	"sallyport/bundle/verity"
)

// WriteFile writes the image to path: in one pass over the payload, parity from a second one over the output.
// The file appears under its name when it is complete and synced, and replaces what was there; until then, and
// after an error or cancel, nothing changes. Memory is constant in the size of the payload.
func (p *Plan) WriteFile(ctx context.Context, path string, progress Progress) (_ *Seal, err error) {
	out, err := createImage(path, p.geometry.ImageBlocks()*BlockSize)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			out.discard()
		}
	}()
	g := p.geometry
	d, err := p.writeData(ctx, out.data(), io.NewOffsetWriter(out.file, g.Tree()*BlockSize), nil, progress)
	if err != nil {
		return nil, err
	}
	input := fecInput(io.NewSectionReader(out.file, 0, g.DataBlocks*BlockSize), io.NewSectionReader(out.file, g.Tree()*BlockSize, g.TreeBlocks*BlockSize), g)
	parity, err := out.writeParity(g.FEC()*BlockSize, func(dst io.WriterAt) ([]byte, error) {
		return encodeParity(ctx, input, dst, g, progress)
	})
	if err != nil {
		return nil, err
	}
	seal, err := p.sealed(d.manifest, d.root, parity)
	if err != nil {
		return nil, err
	}
	for _, part := range []struct {
		lba   int64
		bytes func() ([]byte, error)
	}{
		{g.SealA(), func() ([]byte, error) { return p.sealArea(seal) }}, {g.SealB(), func() ([]byte, error) { return p.sealArea(seal) }},
		{g.Superblock(), p.superblock}, {g.LocatorCopy(), func() ([]byte, error) { return g.locator(), nil }},
		{g.Padding(), func() ([]byte, error) { return make([]byte, (g.ImageBlocks()-g.Padding())*BlockSize), nil }},
	} {
		b, err := part.bytes()
		if err != nil {
			return nil, err
		}
		if _, err := out.file.WriteAt(b, part.lba*BlockSize); err != nil {
			return nil, err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return seal, out.commit()
}

// Seal reads the payload as [Plan.WriteTo] does, and gives the complete seal without an image: people can sign it
// before there is one. The entries have their digests then. It needs scratch room for the tree if there is parity.
func (p *Plan) Seal(ctx context.Context, progress Progress) (*Seal, error) {
	g := p.geometry
	if g.Roots == 0 {
		d, err := p.writeData(ctx, streamTo(io.Discard), nowhere{}, nil, progress)
		if err != nil {
			return nil, err
		}
		return p.sealed(d.manifest, d.root, nil)
	}
	scratch, err := unlinkedScratch()
	if err != nil {
		return nil, err
	}
	defer scratch.Close()
	own := &ownFiles{scratch: scratch, next: g.TreeBlocks * BlockSize}
	d, err := p.writeData(ctx, streamTo(io.Discard), io.NewOffsetWriter(scratch, 0), own, progress)
	if err != nil {
		return nil, err
	}
	parity, err := p.parityAgain(ctx, d.root, scratch, nowhere{}, own, progress)
	if err != nil {
		return nil, err
	}
	return p.sealed(d.manifest, d.root, parity)
}

// nowhere takes what is only hashed on its way.
type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// WriteTo writes the image to a pipe or another stream that can't go back. Tree and parity wait in an unlinked
// scratch file in the folder for temporary files; for parity the payload is read a second time, each block
// checked against its leaf. With an expected seal only the tree waits: parity is written as it is computed. What
// arrives before an error is no bundle: its end is missing.
func (p *Plan) WriteTo(ctx context.Context, w io.Writer, progress Progress) (*Seal, error) {
	scratch, err := unlinkedScratch()
	if err != nil {
		return nil, err
	}
	defer scratch.Close()
	g := p.geometry
	parityAt, ownAt := g.TreeBlocks*BlockSize, g.TreeBlocks*BlockSize
	if p.expected == nil {
		ownAt += g.FECBlocks * BlockSize
	}
	own := &ownFiles{scratch: scratch, next: ownAt} // tree, parity, then the files that the format adds
	d, err := p.writeData(ctx, streamTo(w), io.NewOffsetWriter(scratch, 0), own, progress)
	if err != nil {
		return nil, err
	}
	debug.FreeOSMemory() // of the data pass: parity takes as much again
	tree := contextReader{ctx, io.NewSectionReader(scratch, 0, parityAt)}
	if p.expected != nil {
		foreseen, err := hex.DecodeString(p.expected.FEC.SHA256)
		if err != nil {
			return nil, err
		}
		seal, err := p.sealed(d.manifest, d.root, foreseen)
		if err != nil {
			return nil, err
		}
		if err := p.writeHead(w, seal, tree); err != nil {
			return nil, err
		}
		parity, err := p.parityAgain(ctx, d.root, scratch, appendTo{w}, own, progress)
		if err != nil {
			return nil, err
		}
		if seal, err = p.sealed(d.manifest, d.root, parity); err != nil {
			return nil, err
		}
		return seal, p.writeTail(w, seal)
	}
	parity, err := p.parityAgain(ctx, d.root, scratch, io.NewOffsetWriter(scratch, parityAt), own, progress)
	if err != nil {
		return nil, err
	}
	seal, err := p.sealed(d.manifest, d.root, parity)
	if err != nil {
		return nil, err
	}
	if err := p.writeHead(w, seal, tree); err != nil {
		return nil, err
	}
	if _, err := io.Copy(w, contextReader{ctx, io.NewSectionReader(scratch, parityAt, ownAt-parityAt)}); err != nil {
		return nil, err
	}
	return seal, p.writeTail(w, seal)
}

// writeHead writes what stands between data and parity: seal A, superblock, tree.
func (p *Plan) writeHead(w io.Writer, seal *Seal, tree io.Reader) error {
	area, err := p.sealArea(seal)
	if err != nil {
		return err
	}
	superblock, err := p.superblock()
	if err != nil {
		return err
	}
	if _, err := w.Write(append(area, superblock...)); err != nil {
		return err
	}
	_, err = io.Copy(w, tree)
	return err
}

// writeTail writes what stands behind parity: seal B, the locator's copy, padding.
func (p *Plan) writeTail(w io.Writer, seal *Seal) error {
	tail, err := p.sealArea(seal)
	if err != nil {
		return err
	}
	g := p.geometry
	tail = append(tail, g.locator()...)
	_, err = w.Write(append(tail, make([]byte, (g.ImageBlocks()-g.Padding())*BlockSize)...))
	return err
}

// appendTo is a stream as the io.WriterAt of somebody who writes in ascending order, as encodeParity sees to.
type appendTo struct{ io.Writer }

func (a appendTo) WriteAt(p []byte, _ int64) (int, error) { return a.Write(p) }

// Foresee reads the payload, and refuses one that isn't the expected seal's, before anything is made of it. It
// doesn't compute parity, which follows from the root hash.
func (p *Plan) Foresee(ctx context.Context, progress Progress) error {
	if p.expected == nil {
		return errors.New("foresee: no seal is expected")
	}
	_, err := p.writeData(ctx, streamTo(io.Discard), nowhere{}, nil, progress)
	debug.FreeOSMemory() // who foresees goes on to make the image
	return err
}

// parityAgain reads the payload a second time, each block checked against the tree at the beginning of scratch,
// and writes the parity through dst.
func (p *Plan) parityAgain(ctx context.Context, root [32]byte, scratch *os.File, dst io.WriterAt, own *ownFiles, progress Progress) ([]byte, error) {
	g := p.geometry
	hashes := io.NewSectionReader(scratch, 0, g.TreeBlocks*BlockSize)
	tree, err := verity.OpenTree(hashes, p.seal.identity().verityParams(g.DataBlocks), root)
	if err != nil {
		return nil, err
	}
	tree.Scattered()
	again := p.layout.ReaderAt(p.reopen(own))
	defer again.Close()
	parity, err := encodeParity(ctx, fecInput(verity.NewReader(again, tree), hashes, g), dst, g, progress)
	var damaged *verity.DamagedError
	var size *iso9660.SizeError
	if errors.As(err, &damaged) || errors.As(err, &size) {
		return nil, refuse("changed-while-read", "the payload changed between the first and the second reading: %v", err)
	}
	return parity, err
}

func (p *Plan) superblock() ([]byte, error) {
	sb, err := verity.Superblock(p.seal.identity().verityParams(p.geometry.DataBlocks))
	return sb[:], err
}

// written is what the data pass finds out.
type written struct{ manifest, root [32]byte }

// writeData streams the data area to image and its tree to tree, and sets the entries' digests. own, if not nil,
// keeps the files that the format itself adds, for a second reading.
func (p *Plan) writeData(ctx context.Context, image target, tree io.WriterAt, own *ownFiles, progress Progress) (written, error) {
	id, g := p.seal.identity(), p.geometry
	tw, err := verity.NewTreeWriter(tree, id.verityParams(g.DataBlocks))
	if err != nil {
		return written{}, err
	}
	sp := newSpread(ctx, "prepare", g.DataBlocks*BlockSize, progress, image, tw)
	defer sp.stop()
	if err := p.layout.SetSystemArea(g.locator()); err != nil {
		return written{}, err
	}
	iw := p.layout.NewWriterTo(sp)
	text := readme(id, g)
	if err := own.put(iw, layoutReadme, func(w io.Writer) error { _, err := w.Write(text); return err }); err != nil {
		return written{}, err
	}
	for i := range p.entries {
		if e := &p.entries[i]; e.Type == File {
			if err := p.writePayload(ctx, iw, sp, layoutPayload+i-1, e); err != nil {
				return written{}, err
			}
		}
	}
	if err := sp.wait(); err != nil {
		return written{}, err
	}
	var d written
	h := sha256.New()
	if err := own.put(iw, p.manifestIndex(), func(w io.Writer) error { return writeManifest(io.MultiWriter(w, h), p.entries) }); err != nil {
		return written{}, err
	}
	d.manifest = [32]byte(h.Sum(nil))
	if err := own.put(iw, p.manifestIndex()+1, func(w io.Writer) error { return writeSums(w, sha256.Sum256(text), d.manifest, p.entries) }); err != nil {
		return written{}, err
	}
	if err := iw.Close(); err != nil {
		return written{}, err
	}
	if err := sp.finish(); err != nil {
		return written{}, err
	}
	if d.root, err = tw.Close(); err != nil {
		return written{}, err
	}
	return d, p.readAsExpected(d)
}

// openPayload opens a file of the payload. One that isn't what the walk saw is refused.
func (p *Plan) openPayload(e *Entry) (fs.File, fs.FileInfo, error) {
	f, err := p.fsys.Open(e.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENXIO):
		return nil, nil, refuse("changed-while-read", "%q went away since the directory was listed; prepare again when nobody writes to it", e.Path)
	case err != nil:
		return nil, nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = fmt.Errorf("stat %s: %w", e.Path, err)
	case info.Mode() != e.FileMode() || info.Size() != e.Size || info.ModTime().Unix() != e.MTime:
		err = refuse("changed-while-read", "%q changed since the directory was listed; prepare again when nobody writes to it", e.Path)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// writePayload copies one file into the image; its digest is noted when sp has waited. A file that changes while it is read is refused.
func (p *Plan) writePayload(ctx context.Context, iw *iso9660.Writer, sp *spread, index int, e *Entry) error {
	f, before, err := p.openPayload(e)
	if err != nil {
		return err
	}
	defer f.Close()
	err = iw.WriteFile(index, payloadReader{contextReader{ctx, f}, sp})
	var size *iso9660.SizeError
	if errors.As(err, &size) {
		return refuse("changed-while-read", "%q: %v; prepare again when nobody writes to it", e.Path, err)
	}
	if err != nil {
		return err
	}
	if after, err := f.Stat(); err != nil || after.Size() != e.Size || !after.ModTime().Equal(before.ModTime()) {
		return refuse("changed-while-read", "%q changed while it was read; prepare again when nobody writes to it", e.Path)
	}
	sp.endFile(&e.SHA256)
	return nil
}

// payloadReader reads a file into the current chunk and has it hashed there.
type payloadReader struct {
	contextReader
	sp *spread
}

func (r payloadReader) Read(p []byte) (int, error) {
	n, err := r.contextReader.Read(p)
	r.sp.takeFile(p[:n])
	return n, err
}

// contextReader ends when the context is done.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// ownFiles keeps README.txt, MANIFEST.json and SHA256SUMS in the scratch file.
type ownFiles struct {
	scratch *os.File
	next    int64
	at      map[int]*io.SectionReader
}

// put writes a file that write generates into the image; with a nil ownFiles nothing is kept.
func (o *ownFiles) put(iw *iso9660.Writer, index int, write func(io.Writer) error) error {
	pr, pw := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		pw.CloseWithError(write(pw))
	}()
	defer func() {
		pr.Close()
		<-ended
	}()
	if o == nil {
		return iw.WriteFile(index, pr)
	}
	keep := io.NewOffsetWriter(o.scratch, o.next)
	var n countWriter
	if err := iw.WriteFile(index, io.TeeReader(pr, io.MultiWriter(keep, &n))); err != nil {
		return err
	}
	if o.at == nil {
		o.at = make(map[int]*io.SectionReader)
	}
	o.at[index] = io.NewSectionReader(o.scratch, o.next, int64(n))
	o.next += int64(n)
	return nil
}

// reopen gives the image's files for the second reading.
func (p *Plan) reopen(own *ownFiles) func(int) (io.ReaderAt, error) {
	return func(i int) (io.ReaderAt, error) {
		if r, ok := own.at[i]; ok {
			return r, nil
		}
		e := &p.entries[i-layoutPayload+1]
		f, _, err := p.openPayload(e)
		if err != nil {
			return nil, err
		}
		r, ok := f.(io.ReaderAt)
		if !ok {
			f.Close()
			return nil, fmt.Errorf("read %s again for parity: %w", e.Path, fs.ErrInvalid)
		}
		return r, nil
	}
}

// fecInput is what parity is computed over: data blocks, then tree blocks without the superblock.
func fecInput(data, tree io.ReaderAt, g Geometry) io.ReaderAt {
	return &concat{a: data, b: tree, split: g.DataBlocks * BlockSize}
}

type concat struct {
	a, b  io.ReaderAt
	split int64
}

func (c *concat) ReadAt(p []byte, off int64) (n int, err error) {
	if off < c.split {
		first := p[:min(int64(len(p)), c.split-off)]
		if n, err = c.a.ReadAt(first, off); n < len(first) {
			return n, err
		}
	}
	if n == len(p) {
		return n, nil
	}
	m, err := c.b.ReadAt(p[n:], off+int64(n)-c.split)
	return n + m, err
}

// encodeParity writes the parity area through dst and returns its SHA-256.
func encodeParity(ctx context.Context, input io.ReaderAt, dst io.WriterAt, g Geometry, progress Progress) ([]byte, error) {
	sum := &hashWriterAt{dst: dst, h: sha256.New()}
	if g.Roots > 0 {
		total := (g.DataBlocks + g.TreeBlocks) * BlockSize
		err := verity.EncodeFEC(ctx, input, g.DataBlocks+g.TreeBlocks, g.Roots, sum, func(done int64) {
			if progress != nil {
				progress("parity", done*BlockSize, total)
			}
		})
		if err != nil {
			return nil, err
		}
		if sum.next != g.FECBlocks*BlockSize {
			return nil, fmt.Errorf("parity: %d bytes were written of %d", sum.next, g.FECBlocks*BlockSize)
		}
	}
	return sum.h.Sum(nil), nil
}

// hashWriterAt hashes what is written in ascending order.
type hashWriterAt struct {
	dst  io.WriterAt
	h    hash.Hash
	next int64
}

func (w *hashWriterAt) WriteAt(p []byte, off int64) (int, error) {
	if off != w.next {
		return 0, fmt.Errorf("parity written at byte %d, %d is next", off, w.next)
	}
	n, err := w.dst.WriteAt(p, off)
	w.h.Write(p[:n])
	w.next += int64(n)
	return n, err
}
