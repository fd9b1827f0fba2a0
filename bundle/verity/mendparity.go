package verity

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
)

// mendParity makes parity of data and tree, which are right by now, where what
// is stored can't be read, and everywhere when its sum isn't the promised one.
func (r *repairer) mendParity() error {
	if r.parityUnread.count > 0 {
		columns := newBitset(r.rounds)
		per := int64(r.p.Roots)
		for i := r.parityUnread.next(0, r.rounds*per); i < r.rounds*per; i = r.parityUnread.next(i+1, r.rounds*per) {
			columns.add(i / per)
		}
		if err := r.encodeParity(columns, nil); err != nil {
			return err
		}
		var err error
		if r.paritySum, err = r.readParity(func(int64) {}); err != nil {
			return err
		}
	}
	if r.paritySum == r.p.ParitySum {
		return nil
	}
	columns := newBitset(r.rounds)
	for c := range r.rounds {
		columns.add(c)
	}
	h := sha256.New()
	if err := r.encodeParity(columns, h); err != nil {
		return err
	}
	if !bytes.Equal(h.Sum(nil), r.p.ParitySum[:]) {
		return ErrParitySum
	}
	return nil
}

// encodeParity computes the parity of the columns, writes the blocks that differ
// from those stored, and hashes all of them if h isn't nil.
func (r *repairer) encodeParity(columns *bitset, h hash.Hash) error {
	if r.decoder == nil {
		r.decoder = r.newDecoder()
	}
	d := r.decoder
	roots := r.p.Roots
	out := make([]byte, cap(d.strips[0].cols)*roots*BlockSize)
	losses := r.counts(r.decoded)
	for _, s := range d.strips {
		s.judges = true // decoding is over
	}
	var from, done int64
	return ahead(d.strips, func(s *strip) bool { return s.plan(columns, &from) }, (*strip).fill, func(s *strip) error {
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		s.takeGaps()
		for j := range r.shards {
			for q := range s.cols {
				if *s.at(j, q)&isUnread != 0 {
					return fmt.Errorf("repair parity: protected block %d, readable before, can't be read any more", s.number(j, q))
				}
			}
		}
		if err := d.encode(s, roots); err != nil {
			return fmt.Errorf("repair parity: %w", err)
		}
		n := len(s.cols) * BlockSize
		parallel(len(s.cols), 1, func(lo, hi int) {
			if lo == hi {
				return
			}
			part := make([][]byte, roots)
			for p := range part {
				part[p] = d.row(s, p)[lo*BlockSize : hi*BlockSize]
			}
			transpose(out[lo*roots*BlockSize:hi*roots*BlockSize], part)
		})
		made := out[:n*roots]
		if h != nil {
			h.Write(made)
		}
		for q, c := range s.cols {
			if err := r.writeParity(made[q*roots*BlockSize:][:roots*BlockSize], s.parity[q*roots*BlockSize:], c, int(losses[c])); err != nil {
				return err
			}
		}
		done += int64(len(s.cols))
		r.progress("parity", done*int64(r.shards), columns.count*int64(r.shards))
		return nil
	})
}

// writeParity writes those of a column's parity blocks that differ from what is
// stored. losses blocks of the column's data symbols had to be decoded.
func (r *repairer) writeParity(made, stored []byte, column int64, losses int) error {
	roots := r.p.Roots
	for b := range roots {
		i := column*int64(roots) + int64(b)
		block := made[b*BlockSize:][:BlockSize]
		unread := r.parityUnread.has(i)
		if !unread && bytes.Equal(block, stored[b*BlockSize:][:BlockSize]) {
			continue
		}
		if err := writeFull(r.p.FEC, block, i*BlockSize); err != nil {
			return fmt.Errorf("repair parity blocks from %d: write: %w", i, err)
		}
		r.report.Parity++
		if unread {
			r.report.Unreadable++
			r.parityUnread.remove(i)
			r.paritySkipped.remove(i)
		}
	}
	for at := 0; at < len(made); at += roots {
		lost := 0
		for p := at; p < at+roots; p++ {
			if made[p] != stored[p] {
				lost++
			}
		}
		if lost > 0 {
			r.report.Worst = max(r.report.Worst, min(lost+losses, roots))
		}
	}
	return nil
}
