package ext

import (
	"errors"
	"fmt"
)

// follow goes through all blocks of a file, directory or link once, before anything of it is read, and gives them to it.
// No block belongs to two, none comes twice in one, and none of the volume's own is one's: that is an error for whoever comes
// second, now and whenever it is asked for again. So what a volume of some size can make anyone do has a bound.
func (f *FS) follow(i *inode, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.broken[i.number]; err != nil {
		return at(err, path)
	}
	if f.tried.has(int64(i.number)) {
		return nil
	}
	if len(f.broken) == maxBroken {
		return &FormatError{path, i.off, fmt.Sprintf("more than %d files can't be followed, and no more are tried", maxBroken)}
	}
	err := f.tried.take(int64(i.number), 1)
	if err == nil {
		w := walker{f: f, i: i, path: shown(path)}
		err = w.all()
	} else {
		err = &FormatError{"", i.off, err.Error()}
	}
	if err != nil {
		f.broken[i.number] = err
	}
	return at(err, path)
}

// at says of damage whose it is.
func at(err error, path string) error {
	var damage *FormatError
	if errors.As(err, &damage) {
		return &FormatError{path, damage.Offset, damage.Msg}
	}
	return err
}

// walker goes through the blocks of an inode.
type walker struct {
	f      *FS
	i      *inode
	path   string
	warned bool // that some of its blocks are marked as free
}

func (w *walker) all() error {
	f, i := w.f, w.i
	off := i.off + 40
	if i.flags&flagExtents != 0 {
		if i.size > maxLogical*f.block {
			return &FormatError{"", i.off + 4, fmt.Sprintf("it has %d bytes, more than its extents can tell", i.size)}
		}
		return w.node(i.block[:], off, 0, maxLogical, -1)
	}
	if n := f.block / 4; i.size > (12+n+n*n+n*n*n)*f.block {
		return &FormatError{"", i.off + 4, fmt.Sprintf("it has %d bytes, more than its blocks can tell", i.size)}
	}
	if err := w.table(i.block[:48], off, 0); err != nil {
		return err
	}
	for level := 1; level <= 3; level++ {
		if err := w.table(i.block[44+4*level:48+4*level], off+44+4*int64(level), level); err != nil {
			return err
		}
	}
	return nil
}

// claim gives blocks to the inode; off is where they are named.
func (w *walker) claim(at, count, off int64) error {
	f := w.f
	fail := func(format string, args ...any) error { return &FormatError{"", off, fmt.Sprintf(format, args...)} }
	if at+count > f.there {
		return fail("its blocks from %d to %d lie behind the end of what is there", at, at+count-1)
	}
	if n, ok := f.ofVolume(at, count); ok {
		return fail("block %d is the volume's own", n)
	}
	if n, ok := f.taken.first(at, count); ok {
		return fail("block %d is part of another file, or comes twice in this one", n)
	}
	if err := f.taken.take(at, count); err != nil {
		return fail("%v", err)
	}
	return w.checkFree(at, count)
}

// node follows a node of extents and those below it.
func (w *walker) node(node []byte, off, start, end int64, depth int) error {
	f := w.f
	n, level, err := f.extentNode(w.i, node, off, start, end, depth)
	if err != nil {
		return err
	}
	for k := range n {
		e, at := node[12+12*k:], off+12+12*int64(k)
		if level == 0 {
			length, _ := extentLength(e)
			if err := w.claim(leafPlace(e), length, at); err != nil {
				return err
			}
			continue
		}
		child := childPlace(e)
		if err := w.claim(child, 1, at); err != nil {
			return err
		}
		b, err := f.get(child)
		if err != nil {
			return err
		}
		stop := end
		if k+1 < n {
			stop = int64(le.Uint32(e[12:]))
		}
		if err := w.node(b, child*f.block, int64(le.Uint32(e)), stop, level-1); err != nil {
			return err
		}
	}
	return nil
}

// table follows block numbers: of data if level is 0, else of blocks of block numbers.
func (w *walker) table(b []byte, off int64, level int) error {
	f := w.f
	for k := 0; k < len(b); k += 4 {
		n := int64(le.Uint32(b[k:]))
		if n == 0 {
			continue
		}
		if err := f.checkNumber(n, off+int64(k)); err != nil {
			return err
		}
		from, count := k, int64(1)
		for level == 0 && k+8 <= len(b) && int64(le.Uint32(b[k+4:])) == n+count && n+count < f.blocks {
			count++
			k += 4
		}
		if err := w.claim(n, count, off+int64(from)); err != nil {
			return err
		}
		if level == 0 {
			continue
		}
		next, err := f.get(n)
		if err != nil {
			return err
		}
		if err := w.table(next, n*f.block, level-1); err != nil {
			return err
		}
	}
	return nil
}
