package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

const (
	pageSize = 16 << 10
	maxPages = 64 // 1 MiB of the FAT is kept
)

// pages keeps pieces of the first FAT in memory.
type pages struct {
	mu    sync.Mutex
	read  func(b []byte, off int64) error
	start int64
	size  int64
	page  map[int64][]byte
	turn  []int64 // pages in the order in which they were read
}

func (p *pages) init(read func([]byte, int64) error, start, size int64) {
	p.read, p.start, p.size, p.page = read, start, size, map[int64][]byte{}
}

// number returns n bytes of the FAT, at most 4, as a little-endian number.
func (p *pages) number(off int64, n int) (uint32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b [4]byte
	for i := range n {
		at := (off + int64(i)) / pageSize
		page, ok := p.page[at]
		if !ok {
			page = make([]byte, min(pageSize, p.size-at*pageSize))
			if err := p.read(page, p.start+at*pageSize); err != nil {
				return 0, err
			}
			if len(p.turn) == maxPages {
				delete(p.page, p.turn[0])
				p.turn = append(p.turn[:0], p.turn[1:]...)
			}
			p.page[at] = page
			p.turn = append(p.turn, at)
		}
		rest := page[(off+int64(i))%pageSize:]
		if i == 0 && len(rest) >= n {
			copy(b[:n], rest)
			break
		}
		b[i] = rest[0]
	}
	return binary.LittleEndian.Uint32(b[:]), nil
}

// link is where a cluster's entry in the first FAT is, in bytes from the volume's start.
func (f *FS) link(cluster uint32) int64 { return f.fatStart + int64(cluster)*int64(f.kind)/8 }

// next returns the cluster that follows, 0 for the last one of a chain (section 4). What isn't a cluster of the volume is an error.
func (f *FS) next(cluster uint32, path string) (uint32, error) {
	n := map[int]int{12: 2, 16: 2, 32: 4}[f.kind]
	v, err := f.fat.number(int64(cluster)*int64(f.kind)/8, n)
	if err != nil {
		return 0, fmt.Errorf("%q: %w", path, err)
	}
	bad, top := uint32(0xfff7), uint32(0xffff)
	switch f.kind {
	case 12:
		if cluster&1 != 0 {
			v >>= 4
		}
		v, bad, top = v&0xfff, 0xff7, 0xfff
	case 32:
		v, bad, top = v&0x0fffffff, 0x0ffffff7, 0x0fffffff
	}
	switch {
	case v > bad && v <= top:
		return 0, nil
	case v == bad:
		return 0, &FormatError{path, f.link(cluster), fmt.Sprintf("the chain goes from cluster %d to one that is marked as bad", cluster)}
	case v == 0:
		return 0, &FormatError{path, f.link(cluster), fmt.Sprintf("the chain goes from cluster %d to a free one", cluster)}
	case v < 2 || v-2 >= f.clusters:
		return 0, &FormatError{path, f.link(cluster), fmt.Sprintf("the chain goes from cluster %d to %d, which the volume doesn't have", cluster, v)}
	}
	return v, nil
}

// offset is the first byte of a cluster.
func (f *FS) offset(cluster uint32) int64 { return f.dataStart + int64(cluster-2)*f.cluster }

// chain is the clusters of a file or directory. Of long ones only each 1<<shift-th cluster is kept.
type chain struct {
	marks []uint32
	shift uint
	count uint32 // clusters
}

const maxMarks = 1 << 16

// follow walks a chain of exactly want clusters, or to its end if want is 0, and claims them for the entry at byte entry. No cluster belongs to two chains and none comes twice in one: that is an error for whoever comes second. A chain that is longer than its file is left there, with a finding.
func (f *FS) follow(first, want uint32, entry int64, path string) (c chain, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
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
	limit := want
	if want == 0 {
		limit = uint32(min(int64(f.clusters), maxDirSize/f.cluster+1))
	}
	for want > maxMarks<<c.shift {
		c.shift++
	}
	var damage *FormatError
	for at := first; ; {
		if !again {
			if f.taken[at/64]&(1<<(at%64)) != 0 {
				f.broke(first)
				return c, f.crossed(path, entry, at)
			}
			f.taken[at/64] |= 1 << (at % 64)
		}
		if c.count&(1<<c.shift-1) == 0 {
			c.marks = append(c.marks, at)
		}
		c.count++
		next, err := f.next(at, path)
		switch {
		case errors.As(err, &damage) && c.count == want:
			if again {
				return c, nil
			}
			f.list.Add("chain-end", f.link(at), path, "the last cluster of the file isn't marked as its last")
			return c, nil
		case err != nil:
			f.broke(first)
			return c, err
		case next == 0 && want != 0 && c.count < want:
			f.broke(first)
			return c, &FormatError{path, f.link(at), fmt.Sprintf("the chain ends after %d of the file's %d clusters", c.count, want)}
		case next == 0:
			return c, nil
		case c.count == limit && want == 0:
			f.broke(first)
			return c, &FormatError{path, entry, fmt.Sprintf("the directory is longer than %d bytes", maxDirSize)}
		case c.count == limit:
			if !again {
				f.list.Add("chain-slack", f.offset(next), path, "the chain goes on behind the file's end, at cluster %d", next)
			}
			return c, nil
		}
		at = next
	}
}

// broke has a chain that can't be followed refused from now on, by whatever entry it is asked for: it isn't walked again and again.
func (f *FS) broke(first uint32) { f.owner[first] = -1 }

func (f *FS) crossed(path string, entry int64, cluster uint32) error {
	return &FormatError{path, entry, fmt.Sprintf("cluster %d is part of another file, comes twice in this one, or its chain is known to be broken", cluster)}
}

// at returns the cluster with a number in the chain.
func (f *FS) at(c chain, i uint32, path string) (uint32, error) {
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
