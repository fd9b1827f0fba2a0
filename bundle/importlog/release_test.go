package importlog

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Each place where a release can break off: importing again finishes it, and finishes it once (C1, C7).
func TestCrashWindows(t *testing.T) {
	windows := []struct {
		what     string
		accepted bool // the accept entry was durable before
		run      func(l *Log, sp *Spool, b imported) error
	}{
		{"while staging", false, func(_ *Log, sp *Spool, b imported) error {
			st, err := sp.Stage(b.digest)
			return errors.Join(err, st.Dir(".", 0o755, 0), st.File("half", 0o600, 0, 1, strings.NewReader("x")))
		}},
		{"staged", false, func(_ *Log, sp *Spool, b imported) error {
			st, err := sp.Stage(b.digest)
			return errors.Join(err, putSome(st), st.finish())
		}},
		{"accepted", true, func(l *Log, sp *Spool, b imported) error {
			st, err := sp.Stage(b.digest)
			if err := errors.Join(err, putSome(st)); err != nil {
				return err
			}
			_, err = accept(t.Context(), l, b, st, AcceptOptions{Now: when})
			return err
		}},
		{"renamed", true, func(l *Log, sp *Spool, b imported) error {
			st, err := sp.Stage(b.digest)
			if err := errors.Join(err, putSome(st)); err != nil {
				return err
			}
			r, err := accept(t.Context(), l, b, st, AcceptOptions{Now: when})
			if err != nil {
				return err
			}
			return st.move(l.state.accepted[r.SealDigest].path)
		}},
		{"renamed, and changed by somebody", true, func(l *Log, sp *Spool, b imported) error {
			st, err := sp.Stage(b.digest)
			if err := errors.Join(err, st.Dir(".", 0o500, 0), st.File("evil", 0o755, 0, 1, strings.NewReader("x"))); err != nil {
				return err
			}
			r, err := accept(t.Context(), l, b, st, AcceptOptions{Now: when})
			if err != nil {
				return err
			}
			return st.move(l.state.accepted[r.SealDigest].path)
		}},
	}
	for _, w := range windows {
		state, l := newLog(t, 1)
		dir, sp := openSpool(t)
		b := testBundle("tools", 1, [32]byte{})
		if err := w.run(l, sp, b); err != nil {
			t.Fatalf("%s: %v", w.what, err)
		}
		// The crash.
		check(t, errors.Join(l.Close(), sp.Close()))
		l = reopen(t, state)
		sp, err := OpenSpool(dir)
		check(t, err)
		c, err := l.Channel("tools")
		if err != nil || (c.LastSequence == 1) != w.accepted || c.Released {
			t.Errorf("%s: channel %+v, %v", w.what, c, err)
		}
		// No window for a rollback: with the entry the channel has moved on, though nothing is released yet.
		if err := l.CheckFresh(Candidate{"tools", 0, "", strings.Repeat("ab", 32), 1}, b.policy, when, ""); (codeOf(err) == "sequence-reused") != w.accepted {
			t.Errorf("%s: another first bundle: %v", w.what, err)
		}
		p, r, err := importOne(t.Context(), l, sp, b, AcceptOptions{Now: when})
		if err != nil || r.Index != 1 {
			t.Fatalf("%s: import again: %v", w.what, err)
		}
		if got := list(t, filepath.Join(dir, p)); got != someTree {
			t.Errorf("%s: released:\n%s", w.what, got)
		}
		if l.Head().Tree.N != 3 || names(t, filepath.Join(dir, incoming)) != "" || names(t, filepath.Join(dir, "tools")) != filepath.Base(p) {
			t.Errorf("%s: %d entries, incoming %q", w.what, l.Head().Tree.N, names(t, filepath.Join(dir, incoming)))
		}
		if _, _, err := importOne(t.Context(), l, sp, b, AcceptOptions{Now: when}); codeOf(err) != "already-imported" {
			t.Errorf("%s: a third time: %v", w.what, err)
		}
		check(t, sp.Close())
	}
}

// A fault at every step of a release, before and after its effect, then a second run.
func TestReleaseFaults(t *testing.T) {
	steps := 0
	for _, after := range []bool{false, true} {
		for at := 0; ; at++ {
			state, l := newLog(t, 1)
			dir, sp := openSpool(t)
			b := testBundle("tools", 1, [32]byte{})
			n := 0
			fault := func(op func() error) error {
				if n++; n-1 != at {
					return op()
				}
				if after {
					check(t, op())
				}
				return syscall.EIO
			}
			real := sp.ops
			sp.ops = spoolOps{
				syncfs: func(fd int) error { return fault(func() error { return real.syncfs(fd) }) },
				fsync:  func(f *os.File) error { return fault(func() error { return real.fsync(f) }) },
				rename: func(a int, from string, b int, to string, flags uint) error {
					return fault(func() error { return real.rename(a, from, b, to, flags) })
				},
			}
			_, _, err := importOne(t.Context(), l, sp, b, AcceptOptions{Now: when})
			if err == nil {
				if at < 8 {
					t.Errorf("only %d places for a fault", at)
				}
				break
			}
			steps++
			if !errors.Is(err, syscall.EIO) {
				t.Fatalf("step %d: %v", at, err)
			}
			if left := names(t, filepath.Join(dir, incoming)); left != "" {
				t.Errorf("step %d: space not given back: %s", at, left)
			}
			// Nothing is visible in the spool that the log doesn't have.
			if c, err := l.Channel("tools"); err != nil || c.Released || c.LastSequence == 0 && names(t, dir) != incoming {
				t.Errorf("step %d: channel %+v, spool %s, %v", at, c, names(t, dir), err)
			}
			check(t, errors.Join(l.Close(), sp.Close()))
			l = reopen(t, state)
			sp, err = OpenSpool(dir)
			check(t, err)
			p, _, err := importOne(t.Context(), l, sp, b, AcceptOptions{Now: when})
			check(t, err)
			if got := list(t, filepath.Join(dir, p)); got != someTree {
				t.Errorf("step %d: released:\n%s", at, got)
			}
			check(t, sp.Close())
		}
	}
	t.Logf("%d faults", steps)
}

// A fault at every operation of the log during an import: what is visible in the spool is in the log.
func TestImportLogFaults(t *testing.T) {
	t.Parallel()
	signer, verifier := testKey(t, "north", 1)
	for _, after := range []bool{false, true} {
		for at := 0; ; at++ {
			state, l := newLog(t, 0)
			check(t, l.Close())
			dir, sp := openSpool(t)
			b := testBundle("tools", 1, [32]byte{})
			n := -1 << 30
			f := faultyOps{n: &n, at: at, after: after, err: syscall.ENOSPC}
			l, err := open(t.Context(), state, signer, verifier, false, func(ops fileOps) fileOps {
				f.fileOps = ops
				return f
			})
			check(t, err)
			n = 0
			_, _, err = importOne(t.Context(), l, sp, b, AcceptOptions{Now: when})
			check(t, l.Close())
			if err == nil {
				break
			}
			l = reopen(t, state)
			c, cerr := l.Channel("tools")
			check(t, cerr)
			if _, err := os.Lstat(filepath.Join(dir, "tools")); err == nil && c.LastSequence != 1 {
				t.Errorf("fault %d: released, and not in the log", at)
			}
			p, _, err := importOne(t.Context(), l, sp, b, AcceptOptions{Now: when})
			if c.Released {
				if codeOf(err) != "already-imported" {
					t.Errorf("fault %d: %v", at, err)
				}
			} else if err != nil || list(t, filepath.Join(dir, p)) != someTree {
				t.Errorf("fault %d: import again: %v", at, err)
			}
			check(t, errors.Join(l.Close(), sp.Close()))
		}
	}
}

// What stands in the way is never released over, and what doesn't belong together isn't accepted.
func TestAcceptRefuses(t *testing.T) {
	_, l := newLog(t, 0)
	dir, sp := openSpool(t)
	b := testBundle("tools", 1, [32]byte{})
	stage := func(digest [32]byte) *Staging { return stageSome(t, sp, digest) }

	// A staging of another bundle.
	st := stage([32]byte{7})
	if _, err := accept(t.Context(), l, b, st, AcceptOptions{Now: when}); err == nil {
		t.Error("accepted with another bundle's staging")
	}
	check(t, st.Discard())
	// A seal that isn't the one whose digest was verified.
	st = stage(b.digest)
	other := b
	other.seal, _ = testSeal("tools", 1, "", "y")
	if _, err := accept(t.Context(), l, other, st, AcceptOptions{Now: when}); err == nil {
		t.Error("accepted with another seal")
	}
	check(t, st.Discard())
	// Something that the log knows nothing of stands in its place.
	seal, _, err := parseSeal(b.seal)
	check(t, err)
	foreign := filepath.Join(dir, seal.releasePath())
	check(t, os.MkdirAll(foreign, 0o755))
	check(t, os.WriteFile(filepath.Join(foreign, "precious"), nil, 0o644))
	st = stage(b.digest)
	if _, err := accept(t.Context(), l, b, st, AcceptOptions{Now: when}); err == nil || l.Head().Tree.N != 0 {
		t.Errorf("accepted over a foreign directory: %v", err)
	}
	check(t, st.Discard())
	if _, err := os.Lstat(filepath.Join(foreign, "precious")); err != nil {
		t.Error(err)
	}
	check(t, os.RemoveAll(filepath.Join(dir, "tools")))
	// A channel's folder that leads elsewhere.
	elsewhere := t.TempDir()
	check(t, os.Symlink(elsewhere, filepath.Join(dir, "tools")))
	if _, _, err := importOne(t.Context(), l, sp, b, AcceptOptions{Now: when}); err == nil || names(t, elsewhere) != "" {
		t.Errorf("released through a symlink: %v", err)
	}
	check(t, os.Remove(filepath.Join(dir, "tools")))

	// A receipt releases its own bundle, once.
	if l.state.accepted[hex.EncodeToString(b.digest[:])] != nil {
		t.Fatal("accepted though it could not be released")
	}
	st = stage(b.digest)
	r, err := accept(t.Context(), l, b, st, AcceptOptions{Now: when})
	check(t, err)
	wrong := stage([32]byte{7})
	check(t, wrong.finish())
	if _, err := Release(t.Context(), r, wrong, when); err == nil {
		t.Error("T20: a receipt released another bundle")
	}
	check(t, wrong.Discard())
	p, err := Release(t.Context(), r, st, when)
	check(t, err)
	if _, err := Release(t.Context(), r, st, when); err == nil {
		t.Error("released twice")
	}
	st = stage(b.digest)
	check(t, st.finish())
	if _, err := Release(t.Context(), r, st, when); codeOf(err) != "already-imported" {
		t.Errorf("T20: a receipt replayed: %v", err)
	}
	check(t, st.Discard())
	if got := list(t, filepath.Join(dir, p)); got != someTree {
		t.Errorf("released:\n%s", got)
	}
}
