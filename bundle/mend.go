package bundle

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"sallyport/bundle/verity"
)

// Repaired says what of a bundle was not as it was made, or couldn't be read, and was made good: how many blocks
// where, and how near it came to being too much.
type Repaired struct {
	Locator    int64 `json:"locator"` // block 0 and its copy
	Data       int64 `json:"data"`    // the data area without block 0
	SealA      int64 `json:"seal_a"`
	Superblock int64 `json:"superblock"`
	Tree       int64 `json:"tree"`
	Parity     int64 `json:"parity"`
	SealB      int64 `json:"seal_b"`
	Padding    int64 `json:"padding"`

	Unreadable int64 `json:"unreadable"` // of all these, the blocks that the medium didn't give
	// Worst is how many of the Roots symbols that can be made good the worst codeword had lost; 0 when data and
	// tree were whole.
	Worst int `json:"worst"`
	Roots int `json:"roots"`

	Runs []Run `json:"runs"` // where, ascending; at most MaxRuns
	More int64 `json:"more"` // how many runs there are beyond these
}

// Run is Blocks consecutive blocks from LBA on.
type Run struct {
	LBA    int64 `json:"lba"`
	Blocks int64 `json:"blocks"`
}

// MaxRuns is how many runs of blocks a [Repaired] lists.
const MaxRuns = 16

// Blocks is how many blocks were made good.
func (r *Repaired) Blocks() int64 {
	if r == nil {
		return 0
	}
	return r.Locator + r.Data + r.SealA + r.Superblock + r.Tree + r.Parity + r.SealB + r.Padding
}

// Repaired returns what of locator and seals had to be made good, nil for nothing.
func (c *Claims) Repaired() *Repaired {
	if len(c.mended) == 0 {
		return nil
	}
	g := c.Geometry
	r := &Repaired{Unreadable: c.unreadable, Roots: g.Roots, Runs: []Run{}}
	for first, end := range c.mended.runs() {
		if len(r.Runs) < MaxRuns {
			r.Runs = append(r.Runs, Run{first, end - first})
		} else {
			r.More++
		}
		at := int64(0)
		for _, place := range []struct {
			end   int64
			count *int64
		}{
			{1, &r.Locator}, {g.DataBlocks, &r.Data}, {g.Superblock(), &r.SealA}, {g.Tree(), &r.Superblock}, {g.FEC(), &r.Tree},
			{g.SealB(), &r.Parity}, {g.LocatorCopy(), &r.SealB}, {g.Padding(), &r.Locator}, {g.ImageBlocks(), &r.Padding},
		} {
			*place.count += max(0, min(end, place.end)-max(first, at))
			at = place.end
		}
	}
	return r
}

// maxRepairs bounds how often a medium is mended that goes on losing blocks while it is read.
const maxRepairs = 3

// mends tells whether damage is made good.
func (r *reading) mends() bool { return r.claims.Geometry.Roots > 0 && !r.opt.NoRepair }

// mend makes data and tree good after cause was met, and opens them again. It returns cause, or why it can't be
// helped, when it doesn't.
func (r *reading) mend(ctx context.Context, cause error) error {
	var damaged *verity.DamagedError
	var unread *verity.ReadError
	if !r.mends() || r.repairs == maxRepairs || !errors.As(cause, &damaged) && !errors.As(cause, &unread) || r.src.lost(cause) {
		return cause
	}
	r.repairs++
	c, g := r.claims, r.claims.Geometry
	if r.over == nil {
		over, err := newOverlay(r.src, g.ImageBlocks(), r.opt.Scratch, c.mendedRun)
		if err != nil {
			return err
		}
		if err := over.put(0, c.locator); err != nil {
			return errors.Join(err, over.Close())
		}
		r.over, r.src.ReaderAt = over, over
	}
	// What is wrong with the parity harms nobody here, and making it anew takes another pass over all the data.
	report, err := mendAreas(ctx, c, r.over, true, r.opt.Progress)
	if err != nil {
		return beyondRepair(g, err, cause)
	}
	c.unreadable += report.Unreadable
	r.worst = max(r.worst, report.Worst)
	return r.openTree()
}

// mendedRun notes what the overlay took.
func (c *Claims) mendedRun(first, end int64) {
	if c.mended == nil {
		c.mended = blockSet{}
	}
	c.mended.add(first, end)
}

// mendAreas repairs data and tree in the overlay, and unless it is kept the parity.
func mendAreas(ctx context.Context, c *Claims, over *overlay, keepParity bool, progress Progress) (*verity.RepairReport, error) {
	g := c.Geometry
	root, err := parseDigest(c.Seal.Verity.Root)
	if err != nil {
		return nil, err
	}
	sum, err := hex.DecodeString(c.Seal.FEC.SHA256)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	over.lost = stop
	tell := func(step string, done, total int64) {
		if progress != nil {
			progress(step, done*BlockSize, total*BlockSize)
		}
	}
	report, err := verity.Repair(ctx, verity.Protected{
		Params: c.Seal.identity().verityParams(g.DataBlocks), Root: root, Roots: g.Roots, ParitySum: [32]byte(sum),
		Data: over.area(0, g.DataBlocks), Tree: over.area(g.Tree(), g.TreeBlocks), FEC: over.area(g.FEC(), g.FECBlocks), KeepParity: keepParity,
	}, tell)
	if cause := context.Cause(ctx); errors.Is(cause, errLostSource) {
		return nil, fmt.Errorf("repair: %w", cause)
	}
	return report, err
}

// beyondRepair makes a refusal of what parity can't make good; cause is what was met first.
func beyondRepair(g Geometry, err, cause error) error {
	var u *verity.UnrepairableError
	if !errors.As(err, &u) {
		return err
	}
	lba := u.Block
	if u.Tree {
		lba += g.Tree()
	}
	detail := fmt.Sprintf("LBA %d is beyond repair: the worst codeword lost %d symbols, %d can be made good", lba, u.Worst, u.Roots)
	if u.Worst <= u.Roots {
		detail = fmt.Sprintf("LBA %d is beyond repair: more is damaged than can be located, with at least %d symbols of the worst codeword lost of %d that could be made good", lba, u.Worst, u.Roots)
	}
	return &RefusedError{Code: "damaged", Detail: detail, Err: cause}
}

// dataStream is blocks of the data area in order, mended where need be: what it gives is good, and each byte comes
// once.
type dataStream struct {
	r       *reading
	ctx     context.Context
	s       io.ReadCloser
	at, end int64 // bytes: what comes next, and where it ends
	told    int64 // bytes since the last progress
}

// stream reads count blocks of the data area from lba in order.
func (r *reading) stream(ctx context.Context, lba, count int64) io.ReadCloser {
	return &dataStream{r: r, ctx: ctx, s: r.data.Sequential(ctx, lba, count), at: lba * BlockSize, end: (lba + count) * BlockSize}
}

// Read reports progress a MiB at a time: files are small.
func (d *dataStream) Read(p []byte) (int, error) {
	n, err := d.s.Read(p)
	d.at += int64(n)
	if d.told += int64(n); d.told >= 1<<20 || err != nil {
		d.r.progress(d.told)
		d.told = 0
	}
	if n > 0 || err == nil || err == io.EOF || d.at%BlockSize != 0 {
		return n, err
	}
	d.s.Close()
	if err := d.r.mend(d.ctx, err); err != nil {
		d.s = failed{err}
		return 0, err
	}
	d.s = d.r.data.Sequential(d.ctx, d.at/BlockSize, (d.end-d.at)/BlockSize)
	return d.Read(p)
}

func (d *dataStream) Close() error { return d.s.Close() }

// failed is a stream that has ended with an error.
type failed struct{ err error }

func (f failed) Read([]byte) (int, error) { return 0, f.err }
func (f failed) Close() error             { return nil }
