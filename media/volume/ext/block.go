package ext

import "fmt"

// run is a stretch of a file: count blocks from the logical block on that was asked for. at is where it lies; 0 is a hole,
// which reads as zeros.
type run struct {
	at, count int64
}

// find says where a file's logical block lies, and how many that follow lie behind it. The caller holds f.mu.
func (f *FS) find(i *inode, logical int64, path string) (run, error) {
	if i.flags&flagExtents != 0 {
		return f.findExtent(i, logical, path)
	}
	return f.findIndirect(i, logical, path)
}

// findExtent walks down the tree of extents ("Extent Tree").
func (f *FS) findExtent(i *inode, logical int64, path string) (run, error) {
	if logical >= 1<<32-1 {
		return run{}, &FormatError{path, i.off + 4, "the file is longer than its extents can tell"}
	}
	node, off := i.block[:], i.off+40
	end := int64(1<<32 - 1) // of what this node may speak of
	start := int64(0)
	for depth := -1; ; {
		fail := func(at int, format string, args ...any) (run, error) {
			return run{}, &FormatError{path, off + int64(at), fmt.Sprintf(format, args...)}
		}
		entries, most, level := int(le.Uint16(node[2:])), int(le.Uint16(node[4:])), int(le.Uint16(node[6:]))
		switch {
		case le.Uint16(node) != 0xF30A:
			return fail(0, "this is no node of extents")
		case most > (len(node)-12)/12 || entries > most:
			return fail(2, "a node of extents has %d of %d entries", entries, most)
		case level > maxLevels || depth >= 0 && level != depth:
			return fail(6, "a node of extents has the depth %d", level)
		case depth >= 0 && entries == 0:
			return fail(2, "a node of extents is empty")
		}
		if depth >= 0 && f.checksums {
			tail := 12 + 12*most
			if tail+4 > len(node) {
				return fail(4, "a node of extents has no room for its checksum")
			}
			if got, want := sum(i.seed, node[:tail]), le.Uint32(node[tail:]); got != want {
				return fail(tail, "the checksum of a node of extents is %08x, not %08x", got, want)
			}
		}
		// The last entry that begins at the block or before it; all of them have to be in order.
		at, before := -1, start-1
		for n := range entries {
			b := int64(le.Uint32(node[12+12*n:]))
			if b <= before || b >= end {
				return fail(12+12*n, "extents aren't in order: %d after %d", b, before)
			}
			length := int64(1)
			if level == 0 {
				length, _ = extentLength(node[12+12*n:])
				if length == 0 || b+length > end {
					return fail(12+12*n, "an extent of %d blocks from %d on", length, b)
				}
			}
			before = b + length - 1
			if b <= logical {
				at = n
			} else {
				end = b
				break
			}
		}
		if at < 0 {
			return run{0, end - logical}, nil
		}
		e := node[12+12*at:]
		if level == 0 {
			b := int64(le.Uint32(e))
			length, written := extentLength(e)
			place := int64(le.Uint16(e[6:]))<<32 | int64(le.Uint32(e[8:]))
			if place <= 0 || place > f.blocks-length {
				return fail(12+12*at, "an extent of %d blocks at %d, of %d", length, place, f.blocks)
			}
			switch {
			case logical >= b+length:
				return run{0, end - logical}, nil
			case !written:
				return run{0, b + length - logical}, nil
			}
			return run{place + logical - b, b + length - logical}, nil
		}
		start, depth = int64(le.Uint32(e)), level-1
		child := int64(le.Uint16(e[8:]))<<32 | int64(le.Uint32(e[4:]))
		if child <= 0 || child >= f.blocks {
			return fail(12+12*at, "a node of extents at block %d, of %d", child, f.blocks)
		}
		next, err := f.get(child)
		if err != nil {
			return run{}, err
		}
		node, off = next, child*f.block
	}
}

// extentLength is in blocks; one that isn't written reads as zeros.
func extentLength(e []byte) (length int64, written bool) {
	if n := int64(le.Uint16(e[4:])); n > 1<<15 {
		return n - 1<<15, false
	} else {
		return n, true
	}
}

// findIndirect goes through the blocks of block numbers ("Direct/Indirect Block Addressing").
func (f *FS) findIndirect(i *inode, logical int64, path string) (run, error) {
	per := f.block / 4
	table, off, index := i.block[:48], i.off+40, logical
	span := int64(1) // blocks behind each number of table
	if logical >= 12 {
		index -= 12
		level := 1
		for span = per; index >= span; level++ {
			if level == 3 {
				return run{}, &FormatError{path, i.off + 4, "the file is longer than its blocks can tell"}
			}
			index -= span
			span *= per
		}
		table, off = i.block[44+4*level:48+4*level], i.off+40+44+4*int64(level)
	}
	for {
		slot := index / span
		if span == 1 {
			slot = index
		}
		at := int64(le.Uint32(table[4*slot:]))
		if at >= f.blocks || at != 0 && at <= f.first {
			return run{}, &FormatError{path, off + 4*slot, fmt.Sprintf("block %d is none of the volume's %d", at, f.blocks)}
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
			return run{at, min(count, f.blocks-at)}, nil
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

// read fills b from byte off of a file on. Both must lie in it.
func (f *FS) read(i *inode, b []byte, off int64, path string) error {
	for len(b) > 0 {
		logical, within := off/f.block, off%f.block
		f.mu.Lock()
		r, err := f.find(i, logical, path)
		f.mu.Unlock()
		if err != nil {
			return err
		}
		n := min(int64(len(b)), r.count*f.block-within)
		if n <= 0 {
			return &FormatError{path, i.off, "its blocks make no sense"}
		}
		if r.at == 0 {
			clear(b[:n])
		} else if err := f.readAt(b[:n], r.at*f.block+within); err != nil {
			return err
		}
		b, off = b[n:], off+n
	}
	return nil
}
