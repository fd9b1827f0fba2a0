package ext

import "fmt"

// run is a stretch of a file: count blocks from the logical block on that was asked for. at is where it lies; 0 is a hole,
// which reads as zeros.
type run struct {
	at, count int64
}

// maxLogical is how many blocks a tree of extents can tell of.
const maxLogical = 1<<32 - 1

// find says where a file's logical block lies, and how many that follow lie behind it. The caller holds f.mu.
func (f *FS) find(i *inode, logical int64) (run, error) {
	if i.flags&flagExtents != 0 {
		return f.findExtent(i, logical)
	}
	return f.findIndirect(i, logical)
}

// findExtent walks down the tree of extents ("Extent Tree").
func (f *FS) findExtent(i *inode, logical int64) (run, error) {
	if logical >= maxLogical {
		return run{}, &FormatError{"", i.off + 4, "it is longer than its extents can tell"}
	}
	node, off := i.block[:], i.off+40
	start, end := int64(0), int64(maxLogical) // what this node may speak of
	for depth := -1; ; {
		n, level, err := f.extentNode(i, node, off, start, end, depth)
		if err != nil {
			return run{}, err
		}
		at := -1 // the last entry that begins at the block or before it
		for k := range n {
			if b := int64(le.Uint32(node[12+12*k:])); b <= logical {
				at = k
			} else {
				end = b
				break
			}
		}
		if at < 0 {
			return run{0, end - logical}, nil
		}
		e := node[12+12*at:]
		b := int64(le.Uint32(e))
		if level == 0 {
			length, written := extentLength(e)
			switch {
			case logical >= b+length:
				return run{0, end - logical}, nil
			case !written:
				return run{0, b + length - logical}, nil
			}
			return run{leafPlace(e) + logical - b, b + length - logical}, nil
		}
		child := childPlace(e)
		if node, err = f.get(child); err != nil {
			return run{}, err
		}
		start, depth, off = b, level-1, child*f.block
	}
}

// extentNode checks a node of extents, which stands at byte off and may speak of the logical blocks from start to end. The
// depth is that below its parent, -1 for the one in the inode. It has n entries; those of level 0 are extents, others name
// nodes.
func (f *FS) extentNode(i *inode, node []byte, off, start, end int64, depth int) (n, level int, err error) {
	fail := func(at int, format string, args ...any) (int, int, error) {
		return 0, 0, &FormatError{"", off + int64(at), fmt.Sprintf(format, args...)}
	}
	n, most := int(le.Uint16(node[2:])), int(le.Uint16(node[4:]))
	level = int(le.Uint16(node[6:]))
	switch {
	case le.Uint16(node) != 0xF30A:
		return fail(0, "this is no node of extents")
	case most > (len(node)-12)/12 || n > most:
		return fail(2, "a node of extents has %d of %d entries", n, most)
	case level > maxLevels || depth >= 0 && level != depth:
		return fail(6, "a node of extents has the depth %d", level)
	case n == 0 && (depth >= 0 || level > 0):
		return fail(2, "a node of extents is empty")
	}
	if depth >= 0 && f.checksums {
		tail := 12 + 12*most // a block has at least 4 bytes more, since 12 divides none of their sizes
		if got, want := sum(i.seed, node[:tail]), le.Uint32(node[tail:]); got != want {
			return fail(tail, "the checksum of a node of extents is %08x, not %08x", got, want)
		}
	}
	next := start // the first block that the entry may begin with
	for k := range n {
		e, at := node[12+12*k:], 12+12*k
		b, length := int64(le.Uint32(e)), int64(1)
		place := childPlace(e)
		if level == 0 {
			length, _ = extentLength(e)
			place = leafPlace(e)
		}
		switch {
		case b < next || k == 0 && depth >= 0 && b != start:
			return fail(at, "extents aren't in order: block %d where that is at least %d", b, next)
		case length == 0 || b+length > end:
			return fail(at, "an extent has %d blocks from %d on, where %d is the end", length, b, end)
		case place <= f.first || place > f.blocks-length:
			return fail(at, "an extent or node has %d blocks at %d, of %d", length, place, f.blocks)
		}
		next = b + length
	}
	return n, level, nil
}

// leafPlace is the block that an extent begins with, childPlace the one that a node below is in.
func leafPlace(e []byte) int64  { return int64(le.Uint16(e[6:]))<<32 | int64(le.Uint32(e[8:])) }
func childPlace(e []byte) int64 { return int64(le.Uint16(e[8:]))<<32 | int64(le.Uint32(e[4:])) }

// extentLength is in blocks; one that isn't written reads as zeros.
func extentLength(e []byte) (length int64, written bool) {
	if n := int64(le.Uint16(e[4:])); n > 1<<15 {
		return n - 1<<15, false
	} else {
		return n, true
	}
}

// findIndirect goes through the blocks of block numbers ("Direct/Indirect Block Addressing").
func (f *FS) findIndirect(i *inode, logical int64) (run, error) {
	per := f.block / 4
	table, off, index := i.block[:48], i.off+40, logical
	span := int64(1) // blocks behind each number of table
	if logical >= 12 {
		index -= 12
		level := 1
		for span = per; index >= span; level++ {
			if level == 3 {
				return run{}, &FormatError{"", i.off + 4, "it is longer than its blocks can tell"}
			}
			index -= span
			span *= per
		}
		table, off = i.block[44+4*level:48+4*level], i.off+40+44+4*int64(level)
	}
	for {
		slot := index / span
		at := int64(le.Uint32(table[4*slot:]))
		if at != 0 {
			if err := f.checkNumber(at, off+4*slot); err != nil {
				return run{}, err
			}
		}
		switch {
		case at == 0 && span > 1:
			return run{0, span - index%span}, nil
		case span == 1:
			count := int64(1)
			for n := slot + 1; n*4+4 <= int64(len(table)); n++ {
				next := int64(le.Uint32(table[4*n:]))
				if at == 0 && next != 0 || at != 0 && next != at+count {
					break
				}
				count++
			}
			if at != 0 {
				count = min(count, f.blocks-at)
			}
			return run{at, count}, nil
		}
		next, err := f.get(at)
		if err != nil {
			return run{}, err
		}
		table, off = next, at*f.block
		index %= span
		span /= per
	}
}

// checkNumber checks a block number that stands at byte off.
func (f *FS) checkNumber(n, off int64) error {
	if n >= f.blocks || n <= f.first {
		return &FormatError{"", off, fmt.Sprintf("block %d is none of the volume's %d", n, f.blocks)}
	}
	return nil
}

// read fills b from byte off of a file on. Both must lie in it.
func (f *FS) read(i *inode, b []byte, off int64, path string) error {
	for len(b) > 0 {
		logical, within := off/f.block, off%f.block
		f.mu.Lock()
		r, err := f.find(i, logical)
		f.mu.Unlock()
		if err != nil {
			return at(err, path)
		}
		n := int64(len(b))
		if rest := r.count*f.block - within; n > rest {
			n = rest
		}
		if r.at == 0 {
			clear(b[:n])
		} else if err := f.readAt(b[:n], r.at*f.block+within); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		b, off = b[n:], off+n
	}
	return nil
}
