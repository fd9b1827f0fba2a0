package importlog

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// faultyOps fails the operation number at, counted from 0: before it has an effect, or after it. A write that
// fails before has written its first half all the same, as one does on a full disk.
type faultyOps struct {
	fileOps
	n     *int
	at    int
	after bool
	err   error
}

func (f faultyOps) do(op func() error) error {
	*f.n++
	if *f.n-1 != f.at {
		return op()
	}
	if f.after {
		_ = op() // also a directory that is there already
	}
	return f.err
}

func (f faultyOps) create(name string) (h handle, err error) {
	err = f.do(func() error {
		h, err = f.fileOps.create(name)
		return err
	})
	return faultyHandle{h, f}, err
}

func (f faultyOps) mkdir(name string) error {
	return f.do(func() error { return f.fileOps.mkdir(name) })
}
func (f faultyOps) rename(from, to string) error {
	return f.do(func() error { return f.fileOps.rename(from, to) })
}
func (f faultyOps) syncDir(name string) error { return f.do(func() error { return nil }) }

type faultyHandle struct {
	handle
	ops faultyOps
}

func (h faultyHandle) Write(b []byte) (n int, err error) {
	err = h.ops.do(func() error {
		n, err = h.handle.Write(b)
		return err
	})
	if err != nil && !h.ops.after {
		n, _ = h.handle.Write(b[:len(b)/2])
	}
	return n, err
}

func (h faultyHandle) Sync() error { return h.ops.do(func() error { return nil }) }

func (h faultyHandle) Close() error {
	err := h.handle.Close()
	if ferr := h.ops.do(func() error { return nil }); ferr != nil {
		return ferr
	}
	return err
}

// baseLog is a log of n entries without the partial tiles of the past, to be copied.
func baseLog(t *testing.T, n int) string {
	state, l := newLog(t, n)
	check(t, l.Close())
	for _, dir := range []string{"tile/0", "tile/entries"} {
		for i := 1; i < n%tileWidth; i++ {
			check(t, os.Remove(filepath.Join(state, "log", dir, fmt.Sprintf("%03d.p/%d", n/tileWidth, i))))
		}
	}
	return state
}

// C3 and C5: a fault at every operation of an append, not applied and applied, with a full disk and a failing one.
// The entry is in the log or it isn't; the log is whole, goes on, and its head never goes back.
func TestFaults(t *testing.T) {
	t.Parallel()
	for size, fault := range map[int]error{0: syscall.EIO, 1: syscall.ENOSPC, 255: syscall.EIO, 256: syscall.ENOSPC} {
		base := baseLog(t, size)
		for _, after := range []bool{false, true} {
			faults := 0
			for at := 0; oneFault(t, base, size, faultyOps{at: at, after: after, err: fault}); at++ {
				faults++
			}
			if faults < 15 {
				t.Errorf("size %d: only %d places for a fault", size, faults)
			}
		}
	}
}

// oneFault returns false when the append was over before the fault came.
func oneFault(t *testing.T, base string, size int, f faultyOps) bool {
	t.Helper()
	state := copyTree(t, base)
	signer, verifier := testKey(t, "north", 1)
	n := -1 << 30 // nothing fails while the log is opened
	f.n = &n
	l, err := open(t.Context(), state, signer, verifier, false, func(ops fileOps) fileOps {
		f.fileOps = ops
		return f
	})
	check(t, err)
	defer l.Close()
	before := l.Head()
	n = 0
	_, err = l.LogRefused(Refusal{Code: "damaged", Detail: "while faults occur"}, when)
	hit := n > f.at
	if (err != nil) != hit || err != nil && !errors.Is(err, f.err) {
		t.Fatalf("size %d, fault %d of %d: %v", size, f.at, n, err)
	}
	if hit {
		// C3: no second try on the same log, whatever the disk says now.
		if _, err := l.LogRefused(Refusal{Code: "damaged"}, when); !errors.Is(err, ErrFailed) {
			t.Errorf("size %d, fault %d: appended after a failure: %v", size, f.at, err)
		}
		if l.Head() != before {
			t.Errorf("size %d, fault %d: the head moved", size, f.at)
		}
		if _, err := os.Lstat(filepath.Join(state, "log", newName)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("size %d, fault %d: space not given back: %v", size, f.at, err)
		}
	}
	check(t, l.Close())

	l = reopen(t, state)
	got := l.Head().Tree
	if got != before.Tree && got.N != before.Tree.N+1 || !hit && got.N != before.Tree.N+1 {
		t.Errorf("size %d, fault %d: size %d after reopening", size, f.at, got.N)
	}
	_, err = l.LogRefused(Refusal{Code: "damaged", Detail: "afterwards"}, when)
	check(t, err)
	if err := continues(t, l, before); err != nil {
		t.Errorf("size %d, fault %d: %v", size, f.at, err)
	}
	check(t, l.Close())
	return hit
}

// continues checks that the log is whole and a continuation of an earlier head. A log with hundreds of entries was
// gone through when it was reopened: for it the tiles' proof will do.
func continues(t *testing.T, l *Log, earlier *Checkpoint) error {
	t.Helper()
	if l.Head().Tree.N < 100 {
		_, err := l.Verify(t.Context(), earlier)
		return err
	}
	head := l.Head().Tree
	p, err := tlog.ProveTree(head.N, earlier.Tree.N, tlog.TileHashReader(head, tileSource{&l.store}))
	if err != nil {
		return err
	}
	return tlog.CheckTree(p, head.N, head.Hash, earlier.Tree.N, earlier.Tree.Hash)
}

// C8: a fault at every operation of opening, which repairs nothing but writes the checkpoint anew.
func TestFaultsWhileOpening(t *testing.T) {
	t.Parallel()
	base := baseLog(t, 257)
	signer, verifier := testKey(t, "north", 1)
	for _, after := range []bool{false, true} {
		for at := 0; ; at++ {
			state := copyTree(t, base)
			n := 0
			f := faultyOps{n: &n, at: at, after: after, err: syscall.EIO}
			l, err := open(t.Context(), state, signer, verifier, false, func(ops fileOps) fileOps {
				f.fileOps = ops
				return f
			})
			if err == nil {
				check(t, l.Close())
				if at < 5 {
					t.Errorf("only %d places for a fault", at)
				}
				break
			}
			if l := reopen(t, state); l.Head().Tree.N != 257 {
				t.Errorf("fault %d: size %d", at, l.Head().Tree.N)
			}
		}
	}
}

// C8: a fault at every operation of making a log.
func TestFaultsWhileCreating(t *testing.T) {
	signer, verifier := testKey(t, "north", 1)
	for _, after := range []bool{false, true} {
		for at := 0; ; at++ {
			state := t.TempDir()
			n := 0
			f := faultyOps{n: &n, at: at, after: after, err: syscall.EIO}
			l, err := open(t.Context(), state, signer, verifier, true, func(ops fileOps) fileOps {
				f.fileOps = ops
				return f
			})
			if err == nil {
				check(t, l.Close())
				break
			}
			l, err = Open(t.Context(), state, signer, verifier)
			if errors.Is(err, fs.ErrNotExist) {
				l, err = Create(t.Context(), state, signer, verifier)
			}
			check(t, err)
			addRefusal(t, l, 0)
			check(t, l.Close())
		}
	}
}

var errPower = errors.New("power cut")

// cutOps lets the power fail before operation number at. What was not synced then is lost, or isn't, by chance:
// each file's data, and each directory's new names, by themselves (C1, C2).
type cutOps struct {
	fileOps
	dir string // of the log
	n   *int
	at  int
	c   *cache
}

// cache is what has not reached the disk.
type cache struct {
	unsynced map[string]bool // files whose data may be lost, by name
	names    []*change
}

// change is a new name in a directory that wasn't synced.
type change struct {
	dir, name string
	old       []byte // what had the name before; nil: nothing
	synced    bool   // the data of what has it now
	durable   bool   // the name
}

func (p cutOps) step() error {
	*p.n++
	if *p.n-1 >= p.at {
		return errPower
	}
	return nil
}

func (p cutOps) create(name string) (handle, error) {
	if err := p.step(); err != nil {
		return nil, err
	}
	h, err := p.fileOps.create(name)
	p.c.unsynced[name] = true
	return cutHandle{h, p, name}, err
}

func (p cutOps) mkdir(name string) error {
	if err := p.step(); err != nil {
		return err
	}
	err := p.fileOps.mkdir(name)
	if err == nil {
		p.c.names = append(p.c.names, &change{dir: path.Dir(name), name: name, synced: true})
	}
	return err
}

func (p cutOps) rename(from, to string) error {
	if err := p.step(); err != nil {
		return err
	}
	old, err := os.ReadFile(filepath.Join(p.dir, to))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	p.c.names = append(p.c.names, &change{dir: path.Dir(to), name: to, old: old, synced: !p.c.unsynced[from]})
	delete(p.c.unsynced, from)
	return p.fileOps.rename(from, to)
}

func (p cutOps) removeAll(name string) error {
	if err := p.step(); err != nil {
		return err
	}
	return p.fileOps.removeAll(name)
}

func (p cutOps) syncDir(name string) error {
	if err := p.step(); err != nil {
		return err
	}
	var rest []*change
	for _, c := range p.c.names {
		c.durable = c.durable || c.dir == name
		if !c.durable || !c.synced {
			rest = append(rest, c)
		}
	}
	p.c.names = rest
	return nil
}

type cutHandle struct {
	handle
	ops  cutOps
	name string
}

func (h cutHandle) Write(b []byte) (int, error) {
	if err := h.ops.step(); err != nil {
		return 0, err
	}
	return h.handle.Write(b)
}

func (h cutHandle) Sync() error {
	if err := h.ops.step(); err != nil {
		return err
	}
	delete(h.ops.c.unsynced, h.name)
	return nil
}

// lose is the power cut.
func (c *cache) lose(t *testing.T, dir string, rnd *rand.Rand) {
	for i := len(c.names) - 1; i >= 0; i-- {
		ch := c.names[i]
		p := filepath.Join(dir, ch.name)
		switch undo := !ch.durable && rnd.IntN(2) == 0; {
		case undo && ch.old == nil:
			check(t, os.RemoveAll(p))
		case undo:
			check(t, os.WriteFile(p, ch.old, 0o644))
		case !ch.synced:
			tear(t, p, rnd)
		}
	}
	for name := range c.unsynced {
		tear(t, filepath.Join(dir, name), rnd)
	}
}

// tear leaves some of a file's sectors, the rest zero or cut off.
func tear(t *testing.T, p string, rnd *rand.Rand) {
	data, err := os.ReadFile(p)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	check(t, err)
	for at := 0; at < len(data); at += 512 {
		if rnd.IntN(2) == 0 {
			clear(data[at:min(at+512, len(data))])
		}
	}
	check(t, os.WriteFile(p, data[:rnd.IntN(len(data)+1)], 0o644))
}

// C1, C2, C4: the power fails before each operation of three appends, and what wasn't synced is lost or torn.
// Every entry that was acknowledged is there, and the log goes on.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	signer, verifier := testKey(t, "north", 1)
	cuts := 0
	for size, seeds := range map[int]uint64{0: 5, 254: 1} {
		base := baseLog(t, size)
		for at, over := 0, false; !over; at++ {
			for seed := range seeds {
				state := copyTree(t, base)
				n := -1 << 30
				ops := cutOps{dir: filepath.Join(state, "log"), n: &n, at: at, c: &cache{unsynced: map[string]bool{}}}
				l, err := open(t.Context(), state, signer, verifier, false, func(o fileOps) fileOps {
					ops.fileOps = o
					return ops
				})
				check(t, err)
				n = 0
				acknowledged := l.Head()
				for i := 0; i < 3 && err == nil; i++ {
					if _, err = l.LogRefused(Refusal{Code: "damaged", Detail: strings.Repeat("long ", 200)}, when); err == nil {
						acknowledged = l.Head()
					}
				}
				over = n < at
				check(t, l.Close())
				ops.c.lose(t, ops.dir, rand.New(rand.NewPCG(seed, uint64(at))))
				cuts++

				l = reopen(t, state)
				if got := l.Head().Tree; got != acknowledged.Tree && got.N != acknowledged.Tree.N+1 {
					t.Errorf("size %d, cut %d: %d entries, %d were acknowledged", size, at, got.N, acknowledged.Tree.N)
				}
				_, err = l.LogRefused(Refusal{Code: "damaged"}, when)
				check(t, err)
				if err := continues(t, l, acknowledged); err != nil {
					t.Errorf("size %d, cut %d: %v", size, at, err)
				}
				check(t, l.Close())
			}
		}
	}
	t.Logf("%d power cuts", cuts)
}
