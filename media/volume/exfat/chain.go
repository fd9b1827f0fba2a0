package exfat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

const (
	pageSize = 16 << 10
	maxPages = 64 // 1 MiB is kept
)

// pages keeps pieces of a table in memory: of the FAT, or of the allocation bitmap.
type pages struct {
	mu   sync.Mutex
	read func(b []byte, off int64) error
	size int64
	page map[int64][]byte
	turn []int64 // pages in the order in which they were read
}

func (p *pages) init(read func(b []byte, off int64) error, size int64) {
	p.read, p.size, p.page = read, size, map[int64][]byte{}
}

// word returns the n-th little-endian 32-bit number; the table's last one may lack bytes, which are zeros.
func (p *pages) word(n uint32) (uint32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := int64(n) * 4 / pageSize
	page, ok := p.page[at]
	if !ok {
		page = make([]byte, pageSize)
		if err := p.read(page[:min(pageSize, p.size-at*pageSize)], at*pageSize); err != nil {
			return 0, err
		}
		if len(p.turn) == maxPages {
			delete(p.page, p.turn[0])
			p.turn = append(p.turn[:0], p.turn[1:]...)
		}
		p.page[at] = page
		p.turn = append(p.turn, at)
	}
	return binary.LittleEndian.Uint32(page[int64(n)*4%pageSize:]), nil
}

// link is where a cluster's entry in the FAT is, in bytes from the volume's start.
func (f *FS) link(cluster uint32) int64 { return f.fatStart + int64(cluster)*4 }

// next returns the cluster that follows, 0 for the last one of a chain (section 4.1). What isn't a cluster of the volume is an error.
func (f *FS) next(cluster uint32, path string) (uint32, error) {
	const bad = 0xfffffff7
	v, err := f.fat.word(cluster)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q: %w", path, err)
	case v > bad:
		return 0, nil
	case v == bad:
		return 0, &FormatError{path, f.link(cluster), fmt.Sprintf("the chain goes from cluster %d to one that is marked as bad", cluster)}
	case v == 0:
		return 0, &FormatError{path, f.link(cluster), fmt.Sprintf("the chain goes from cluster %d to a free one", cluster)}
	case !f.has(v):
		return 0, &FormatError{path, f.link(cluster), fmt.Sprintf("the chain goes from cluster %d to %d, which the volume doesn't have", cluster, v)}
	}
	return v, nil
}

// has reports whether the volume has a cluster of that number.
func (f *FS) has(cluster uint32) bool { return cluster >= 2 && cluster-2 < f.clusters }

// offset is the first byte of a cluster.
func (f *FS) offset(cluster uint32) int64 { return f.dataStart + int64(cluster-2)*f.cluster }

// chain is the clusters of a file or directory. Of long ones only each 1<<shift-th cluster is kept; one without a FAT chain is known by its first.
type chain struct {
	first uint32 // of clusters that follow each other, 0 if the FAT has the chain
	marks []uint32
	shift uint
	count uint32 // clusters
}

const maxMarks = 1 << 16

// claim gives a cluster to the chain that is followed, or says that it has an owner.
func (f *FS) claim(cluster uint32) bool {
	if f.taken[cluster/64]&(1<<(cluster%64)) != 0 {
		return false
	}
	f.taken[cluster/64] |= 1 << (cluster % 64)
	return true
}

// follow walks a chain of exactly want clusters, or to its end if want is 0, and claims them for the entry at byte entry. No cluster belongs to two chains and none comes twice in one: that is an error for whoever comes second. A chain that is longer than its file is left there, with a finding. With solid the clusters follow each other and the FAT has no say (section 6.3.4.2).
func (f *FS) follow(first, want uint32, solid bool, entry int64, path string) (c chain, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.has(first) {
		return c, &FormatError{path, entry, fmt.Sprintf("its first cluster is %d, which the volume doesn't have", first)}
	}
	who, known := f.owner[first]
	again := known && who == entry // opened before
	if !again {
		if known || f.taken[first/64]&(1<<(first%64)) != 0 {
			return c, f.crossed(path, entry, first)
		}
		if len(f.owner) >= maxOwners {
			return c, &FormatError{path, entry, fmt.Sprintf("more than %d files and directories were opened", maxOwners)}
		}
		f.owner[first] = entry
	}
	w := walk{f: f, path: path, entry: entry, again: again}
	if solid {
		c, err = w.solid(first, want)
	} else {
		c, err = w.linked(first, want)
	}
	if err != nil {
		// A chain that can't be followed is refused from now on, by whatever entry it is asked for: it isn't walked again and again.
		f.owner[first] = -1
	}
	return c, err
}

func (f *FS) crossed(path string, entry int64, cluster uint32) error {
	return &FormatError{path, entry, fmt.Sprintf("cluster %d is part of another file, comes twice in this one, or its chain is known to be broken", cluster)}
}

// walk is a chain that is being followed.
type walk struct {
	f      *FS
	path   string
	entry  int64
	again  bool
	warned bool
}

func (w *walk) find(code string, off int64, format string, args ...any) {
	w.f.list.Add(code, off, shown(w.path), format, args...)
}

// shown is a path as findings have it, where the root is "".
func shown(path string) string {
	if path == "." {
		return ""
	}
	return path
}

// take claims the next cluster of the chain and compares it with the bitmap.
func (w *walk) take(cluster uint32) error {
	if w.again {
		return nil
	}
	if !w.f.claim(cluster) {
		return w.f.crossed(w.path, w.entry, cluster)
	}
	if w.warned || w.f.bits == nil {
		return nil
	}
	used, err := w.f.bits.used(cluster)
	if err != nil {
		return fmt.Errorf("%q: %w", w.path, err)
	}
	if !used {
		w.warned = true
		w.find("not-allocated", w.f.offset(cluster), "cluster %d belongs to the file and is marked as free", cluster)
	}
	return nil
}

func (w *walk) solid(first, want uint32) (c chain, err error) {
	if want > w.f.clusters-(first-2) {
		return c, &FormatError{w.path, w.entry, fmt.Sprintf("its %d clusters from %d on end behind the volume's end", want, first)}
	}
	for i := range want {
		if err := w.take(first + i); err != nil {
			return c, err
		}
	}
	return chain{first: first, count: want}, nil
}

func (w *walk) linked(first, want uint32) (c chain, err error) {
	f := w.f
	limit := want
	if want == 0 {
		limit = uint32(min(int64(f.clusters), maxDirSize/f.cluster+1))
	}
	for limit > maxMarks<<c.shift {
		c.shift++
	}
	var damage *FormatError
	for at := first; ; {
		if err := w.take(at); err != nil {
			return c, err
		}
		if c.count&(1<<c.shift-1) == 0 {
			c.marks = append(c.marks, at)
		}
		c.count++
		next, err := f.next(at, w.path)
		switch {
		case errors.As(err, &damage) && c.count == want:
			if !w.again {
				w.find("chain-end", f.link(at), "the last cluster isn't marked as the chain's last")
			}
			return c, nil
		case err != nil:
			return c, err
		case next == 0 && c.count < want:
			return c, &FormatError{w.path, f.link(at), fmt.Sprintf("the chain ends after %d of %d clusters", c.count, want)}
		case next == 0:
			return c, nil
		case c.count == limit && want == 0:
			return c, &FormatError{w.path, w.entry, fmt.Sprintf("the directory is longer than %d bytes", maxDirSize)}
		case c.count == limit:
			if !w.again {
				w.find("chain-slack", f.offset(next), "the chain goes on behind the end, at cluster %d", next)
			}
			return c, nil
		}
		at = next
	}
}

// at returns the cluster with a number in the chain.
func (f *FS) at(c chain, i uint32, path string) (uint32, error) {
	if c.first != 0 {
		return c.first + i, nil
	}
	cl := c.marks[i>>c.shift]
	for range i & (1<<c.shift - 1) {
		n, err := f.next(cl, path)
		if err != nil {
			return 0, err
		}
		if n == 0 { // the medium says something else than when the file was opened
			return 0, &FormatError{path, f.link(cl), "the chain is shorter than it was"}
		}
		cl = n
	}
	return cl, nil
}

// readChain fills b from byte off of a chain on.
func (f *FS) readChain(c chain, b []byte, off int64, path string) error {
	for len(b) > 0 {
		cl, err := f.at(c, uint32(off/f.cluster), path)
		if err != nil {
			return err
		}
		n := min(int64(len(b)), f.cluster-off%f.cluster)
		if err := f.readAt(b[:n], f.offset(cl)+off%f.cluster); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		b, off = b[n:], off+n
	}
	return nil
}

// bitmap is the allocation bitmap (section 7.1), a bit for each cluster from 2 on. It is used under the lock of its FS.
type bitmap struct {
	pages
	word  uint32
	words uint32 // the number of the word that is kept, plus one
}

func (m *bitmap) used(cluster uint32) (bool, error) {
	n := (cluster - 2) / 32
	if m.words != n+1 {
		v, err := m.pages.word(n)
		if err != nil {
			return false, err
		}
		m.word, m.words = v, n+1
	}
	return m.word>>((cluster-2)%32)&1 != 0, nil
}
