package verity

import (
	"crypto/sha256"
	"runtime"
	"slices"
	"sync"
)

// pieceBlocks blocks (2 MiB) are read at once.
const pieceBlocks = 1024

// ahead has fill, in a goroutine of its own, fill one buffer while use uses the
// other. prepare, called from the caller's goroutine like use, says what to fill
// and whether there is anything left.
func ahead[T any](bufs [2]*T, prepare func(*T) bool, fill func(*T), use func(*T) error) error {
	cur, next := bufs[0], bufs[1]
	done := make(chan struct{})
	start := func(t *T) bool {
		if !prepare(t) {
			return false
		}
		go func() {
			fill(t)
			done <- struct{}{}
		}()
		return true
	}
	for more := start(cur); more; cur, next = next, cur {
		<-done
		more = start(next)
		if err := use(cur); err != nil {
			if more {
				<-done
			}
			return err
		}
	}
	return nil
}

// parallel calls do for parts of n items on all cores.
func parallel(n, least int, do func(lo, hi int)) {
	workers := max(1, min(n/least, runtime.GOMAXPROCS(0)))
	share := (n + workers - 1) / workers
	var wg sync.WaitGroup
	for w := 1; w < workers; w++ {
		wg.Go(func() { do(min(w*share, n), min((w+1)*share, n)) })
	}
	do(0, min(share, n))
	wg.Wait()
}

// sums puts the digests of the blocks in data into dst, on all cores.
func (c *checker) sums(dst, data []byte) {
	parallel(len(data)/BlockSize, minShare, func(lo, hi int) {
		h := c.hashers.Get().(*blockHasher)
		defer c.hashers.Put(h)
		h.appendSums(dst[:lo*DigestSize], data[lo*BlockSize:hi*BlockSize])
	})
}

// survey reads everything once.
func (r *repairer) survey() error {
	parity := r.rounds * int64(r.p.Roots)
	total := r.blocks + parity
	step := func(_ string, done, _ int64) { r.progress("survey", done, total) }
	if err := r.judgeWith("survey", step); err != nil {
		return err
	}
	var err error
	r.paritySum, err = r.readParity(func(done int64) { step("", r.blocks+done, total) })
	return err
}

// readParity reads what can be read of the parity area, takes down what can't,
// and returns the SHA-256 of it all.
func (r *repairer) readParity(progress func(done int64)) (sum [DigestSize]byte, err error) {
	total := r.rounds * int64(r.p.Roots)
	g := &gentle{r: r.p.FEC, end: total, exact: r.exact}
	h := sha256.New()
	at := int64(0)
	bufs := r.pieces(total)
	err = ahead(bufs, func(p *piece) bool {
		p.first, p.n = at, min(pieceBlocks, total-at)
		p.known = r.parityUnread.gaps(p.known[:0], p.first, p.n)
		at += p.n
		return p.n > 0
	}, func(p *piece) { p.fill(r, g) }, func(p *piece) error {
		markGaps(p, r.parityUnread, r.paritySkipped)
		h.Write(p.buf[:p.n*BlockSize])
		progress(p.first + p.n)
		return r.ctx.Err()
	})
	h.Sum(sum[:0])
	return sum, err
}

// markGaps takes down what couldn't be read of a piece.
func markGaps(p *piece, unread, skipped *bitset) {
	for _, gap := range p.gaps {
		for i := gap.lo; i < gap.hi; i++ {
			if unread.add(p.first+i) && !gap.tried {
				skipped.add(p.first + i)
			}
		}
	}
}

// piece is a run of blocks on the way from the medium.
type piece struct {
	first, n    int64
	buf         []byte
	known, gaps []gap // not to be tried; not given by the medium, those included

	run        *leafRunSums
	head, tail bool // the run's leaves are read in front of this piece; it is the run's last
}

func (r *repairer) pieces(most int64) [2]*piece {
	size := min(pieceBlocks, most) * BlockSize
	return [2]*piece{{buf: make([]byte, size)}, {buf: make([]byte, size)}}
}

// fill reads the piece.
func (p *piece) fill(r *repairer, g *gentle) {
	p.gaps = g.around(r, p.buf[:p.n*BlockSize], p.first, p.known, p.gaps[:0])
}

// around reads like read, but for the blocks in known.
func (g *gentle) around(r *repairer, buf []byte, first int64, known, gaps []gap) []gap {
	n := int64(len(buf)) / BlockSize
	at := int64(0)
	for _, k := range append(slices.Clip(known), gap{lo: n, hi: n}) {
		if at < k.lo {
			from := len(gaps)
			gaps = g.read(r.ctx, buf[at*BlockSize:k.lo*BlockSize], first+at, gaps)
			for i := range gaps[from:] {
				gaps[from+i].lo += at
				gaps[from+i].hi += at
			}
		}
		if k.lo < k.hi {
			clear(buf[k.lo*BlockSize : k.hi*BlockSize])
			gaps = append(gaps, k)
		}
		at = k.hi
	}
	return gaps
}
