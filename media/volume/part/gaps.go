package part

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"sallyport/media/volume"
)

// Gaps returns the bytes that belong neither to a partition nor to the table itself, in order: between partitions, before the first and behind the last. A medium with the scheme "none" has no gaps, since all of it may be a file system. Of logical partitions the space between an extended boot record and its partition is a gap.
func (t *Table) Gaps() []Range {
	if t.Scheme == "none" {
		return nil
	}
	taken := slices.Clone(t.used)
	for _, p := range t.Partitions {
		if p.Size > 0 && p.Start < t.Size {
			taken = append(taken, Range{p.Start, min(p.Size, t.Size-p.Start)})
		}
	}
	slices.SortFunc(taken, func(a, b Range) int { return compare(a.Start, b.Start) })
	var gaps []Range
	var at int64
	for _, r := range taken {
		if r.Start > at {
			gaps = append(gaps, Range{at, r.Start - at})
		}
		at = max(at, r.End())
	}
	if at < t.Size {
		gaps = append(gaps, Range{at, t.Size - at})
	}
	return gaps
}

// ScanGaps reads all gaps from r and returns a finding "gap-data" for each that has a byte that isn't zero, with its place. Progress, which may be nil, is told the bytes read of all bytes of the gaps after each piece of at most 1 MiB. A gap isn't read further once a byte was found in it; the bytes left count as read. What was found until an error comes with it; errors of r and of ctx are wrapped.
func (t *Table) ScanGaps(ctx context.Context, r io.ReaderAt, progress func(done, total int64)) ([]volume.Finding, error) {
	gaps := t.Gaps()
	var done, total int64
	for _, g := range gaps {
		total += g.Size
	}
	var list volume.List
	buf, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for _, g := range gaps {
		for at := g.Start; at < g.End(); {
			if err := ctx.Err(); err != nil {
				return list.All(), fmt.Errorf("reading between partitions: byte %d: %w", at, err)
			}
			b := buf[:min(int64(len(buf)), g.End()-at)]
			if n, err := r.ReadAt(b, at); n < len(b) {
				if err == nil || errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return list.All(), fmt.Errorf("reading between partitions: byte %d: %w", at+int64(n), err)
			}
			step := int64(len(b))
			if !bytes.Equal(b, zero[:len(b)]) {
				i := int64(slices.IndexFunc(b, func(c byte) bool { return c != 0 }))
				list.Add("gap-data", at+i, "", "there are bytes that belong to no partition, between bytes %d and %d", g.Start, g.End())
				step = g.End() - at
			}
			at, done = at+step, done+step
			if progress != nil {
				progress(done, total)
			}
		}
	}
	return list.All(), nil
}
