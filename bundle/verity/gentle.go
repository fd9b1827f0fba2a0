package verity

import (
	"context"
	"io"
)

// gap is a run of blocks, from lo to before hi, that couldn't be read. Not all
// of them were tried unless tried is set.
type gap struct {
	lo, hi int64
	tried  bool
}

// maxSkip is the most blocks (8 MiB) that are passed over between two attempts
// to read in a zone that is unreadable.
const maxSkip = 4096

// gentle reads from a medium of which parts can't be read, where every failure
// takes the drive seconds: from a read that failed it goes down to single
// blocks, and once inside an unreadable zone it leaps, ever farther the longer
// the zone is, to something readable and from there seeks back the zone's end.
// What lies between two failures counts as unreadable without having been
// tried, unless exact is set.
type gentle struct {
	r     io.ReaderAt
	end   int64 // blocks of the area
	exact bool

	until int64 // blocks before this one are in the unreadable zone found last
	zone  int64 // how long that is
}

// read fills buf with the blocks from first on and appends the runs that the
// medium didn't give to gaps, counted from first; they read as zeros. When ctx
// is cancelled the rest is such a run.
func (g *gentle) read(ctx context.Context, buf []byte, first int64, gaps []gap) []gap {
	n := int64(len(buf)) / BlockSize
	at, size := int64(0), n
	miss := func(end int64, tried bool) {
		clear(buf[at*BlockSize : end*BlockSize])
		gaps = append(gaps, gap{at, end, tried})
		at, size = end, 1
	}
	if known := min(n, g.until-first); known > 0 {
		miss(known, false)
	} else if first > g.until {
		g.zone = 0
	}
	for at < n {
		if ctx.Err() != nil {
			miss(n, false)
			break
		}
		size = min(size, n-at)
		got, err := readFull(g.r, buf[at*BlockSize:(at+size)*BlockSize], (first+at)*BlockSize)
		whole := int64(got) / BlockSize
		switch {
		case err == nil:
			at += size
			size *= 2
			g.zone = 0
		case whole > 0:
			at += whole
			size = 1
			g.zone = 0
		case size > 1:
			size /= 2
		case g.exact:
			miss(at+1, true)
		default:
			g.until = g.leap(ctx, first+at)
			g.zone += g.until - first - at
			miss(min(n, g.until-first), g.until == first+at+1)
		}
	}
	return gaps
}

// leap returns the end of the unreadable zone that block bad belongs to.
func (g *gentle) leap(ctx context.Context, bad int64) int64 {
	var block [BlockSize]byte
	readable := func(i int64) bool {
		_, err := readFull(g.r, block[:], i*BlockSize)
		return err == nil
	}
	good := g.end
	for step := max(1, min(g.zone, maxSkip)); bad < g.end-1 && ctx.Err() == nil; step = min(2*step, maxSkip) {
		probe := min(bad+step, g.end-1)
		if readable(probe) {
			good = probe
			break
		}
		bad = probe
	}
	for good-bad > 1 && ctx.Err() == nil {
		if mid := bad + (good-bad)/2; readable(mid) {
			good = mid
		} else {
			bad = mid
		}
	}
	return good
}

// GentleReader reads a medium of which parts can't be read in ascending order,
// and passes ever faster over such a part.
type GentleReader struct{ g gentle }

// NewGentleReader returns a reader of the first blocks blocks of r.
func NewGentleReader(r io.ReaderAt, blocks int64) *GentleReader {
	return &GentleReader{gentle{r: r, end: blocks}}
}

// Read fills buf, whole blocks, with those from block first on, which must not
// be before the end of the last Read. What the medium doesn't give reads as
// zeros, and so does what lies between two failures without having been tried,
// and everything once ctx is done.
func (r *GentleReader) Read(ctx context.Context, buf []byte, first int64) {
	r.g.read(ctx, buf, first, nil)
}
