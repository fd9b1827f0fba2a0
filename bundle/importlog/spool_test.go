package importlog

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"
)

func names(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	check(t, err)
	var s []string
	for _, d := range list {
		s = append(s, d.Name())
	}
	return strings.Join(s, " ")
}

// A whole import: what is released is exactly the tree, modes and times included, and the log says so.
func TestImport(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	state, l := newLog(t, 2)
	dir, sp := openSpool(t)
	sp.ops = spoolOps{unix.Syncfs, (*os.File).Sync, unix.Renameat2}
	b := testBundle("tools", 1, [32]byte{})
	p, r, err := importOne(t.Context(), l, sp, b, AcceptOptions{Now: when})
	check(t, err)
	if want := "tools/1-" + r.BundleID; p != want {
		t.Errorf("released as %s", p)
	}
	if got := list(t, filepath.Join(dir, p)); got != someTree {
		t.Errorf("released:\n%s", got)
	}
	if got := names(t, dir) + ", " + names(t, filepath.Join(dir, incoming)); got != ".incoming tools, " {
		t.Errorf("spool: %s", got)
	}
	_, verifier := testKey(t, "north", 1)
	s, err := VerifyReceipt(r.JSON(), verifier)
	if err != nil || s.Index != 2 || s.Signers[0].Holder != "ann" || s.SealDigest != hex.EncodeToString(b.digest[:]) {
		t.Errorf("receipt: %+v, %v", s, err)
	}
	var kinds []string
	for e, err := range l.Entries(t.Context(), 2) {
		check(t, err)
		kinds = append(kinds, e.Kind)
	}
	if got := strings.Join(kinds, " "); got != "accept release" {
		t.Errorf("entries: %s", got)
	}
	_, _, err = importOne(t.Context(), l, sp, b, AcceptOptions{Now: when})
	if codeOf(err) != "already-imported" || names(t, filepath.Join(dir, incoming)) != "" {
		t.Errorf("a second import: %v", err)
	}
	// The next one, with a gap that somebody explains.
	gap := testBundle("tools", 3, b.digest)
	if _, _, err := importOne(t.Context(), l, sp, gap, AcceptOptions{Now: when, GapReason: "lost disc"}); codeOf(err) != "gap" {
		t.Errorf("gap: %v", err)
	}
	gap.policy.Gaps = "reason"
	_, r, err = importOne(t.Context(), l, sp, gap, AcceptOptions{Now: when, GapReason: "lost\x1b disc"})
	if err != nil || r.GapReason != `lost\x1b disc` {
		t.Errorf("gap with a reason: %v", err)
	}
	check(t, l.Close())
	l = reopen(t, state)
	if c, err := l.Channel("tools"); err != nil || c.LastSequence != 3 || !c.Released {
		t.Errorf("channel %+v, %v", c, err)
	}
}

// An import by somebody who isn't root, of a payload with directories that he may not write to.
func TestImportUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		unprivileged(t)
		return
	}
	if os.Getenv("IMPORTLOG_UNPRIVILEGED") != "" {
		t.Fatal("still root")
	}
	// As root, nothing of it would be tested: the test runs itself as nobody.
	exe, err := os.Executable()
	check(t, err)
	program, err := os.ReadFile(exe)
	check(t, err)
	dir, err := os.MkdirTemp("/tmp", "importlog") // t.TempDir may lie where only root comes
	check(t, err)
	defer os.RemoveAll(dir)
	check(t, os.Chmod(dir, 0o755))
	check(t, os.WriteFile(filepath.Join(dir, "test"), program, 0o755))
	check(t, os.Mkdir(filepath.Join(dir, "tmp"), 0o777))
	check(t, os.Chmod(filepath.Join(dir, "tmp"), 0o777))
	cmd := exec.Command(filepath.Join(dir, "test"), "-test.run=^TestImportUnprivileged$", "-test.v")
	cmd.Dir = dir
	cmd.Env = []string{"IMPORTLOG_UNPRIVILEGED=1", "TMPDIR=" + filepath.Join(dir, "tmp")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestImportUnprivileged")) {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

func unprivileged(t *testing.T) {
	_, l := newLog(t, 0)
	dir, sp := openSpool(t)
	b := testBundle("tools", 1, [32]byte{})

	// A crash after finishing leaves directories that can't be emptied as they are.
	check(t, stageSome(t, sp, b.digest).finish())
	sp.open = map[string]bool{}
	p, _, err := importOne(t.Context(), l, sp, b, AcceptOptions{Now: when})
	check(t, err)
	if got := names(t, filepath.Join(dir, incoming)); got != "" {
		t.Errorf("left over: %s", got)
	}
	info, err := os.Stat(filepath.Join(dir, p))
	if err != nil || info.Mode().Perm() != 0o555 || info.ModTime().Unix() != 1_000_000_000 {
		t.Errorf("released root: %v, %v", info, err)
	}
	st := stageSome(t, sp, [32]byte{9})
	check(t, st.finish())
	check(t, st.Discard())
	if got := names(t, filepath.Join(dir, incoming)); got != "" {
		t.Errorf("not discarded: %s", got)
	}
	// A crash between the rename and its entry.
	c := testBundle("tools", 2, b.digest)
	st = stageSome(t, sp, c.digest)
	r, err := accept(t.Context(), l, c, st, AcceptOptions{Now: when})
	check(t, err)
	check(t, st.move(l.state.accepted[r.SealDigest].path))
	p, _, err = importOne(t.Context(), l, sp, c, AcceptOptions{Now: when})
	check(t, err)
	if info, err := os.Stat(filepath.Join(dir, p)); err != nil || info.Mode().Perm() != 0o555 {
		t.Errorf("released root: %v, %v", info, err)
	}
}

// T13: no file outside the spool, whatever the entries say.
func TestStagingStaysInside(t *testing.T) {
	dir, sp := openSpool(t)
	check(t, os.WriteFile(filepath.Join(dir, "outside"), []byte("safe"), 0o644))
	for _, name := range []string{"../../outside", "/etc/x", "d/../../../outside", "a\x00b", "", "d//x", "d/.", "./x", "..", "nowhere/x", "f/x", "a\xff"} {
		for what, put := range map[string]func(*Staging) error{
			"dir":     func(st *Staging) error { return st.Dir(name, 0o755, 0) },
			"file":    func(st *Staging) error { return st.File(name, 0o644, 0, 1, strings.NewReader("x")) },
			"symlink": func(st *Staging) error { return st.Symlink(name, "x", 0) },
		} {
			st, err := sp.Stage([32]byte{1})
			check(t, err)
			check(t, errors.Join(st.Dir(".", 0o755, 0), st.Dir("d", 0o755, 0), st.File("f", 0o644, 0, 0, strings.NewReader(""))))
			if err := put(st); err == nil {
				t.Errorf("%s %q was staged", what, name)
			}
			if err := st.finish(); err == nil {
				t.Errorf("%s %q: finished after a failure", what, name)
			}
			check(t, st.Discard())
		}
	}
	// T18: a symlink, then something under its name, or through it.
	for what, put := range map[string]func(*Staging) error{
		"dir over it":      func(st *Staging) error { return st.Dir("l", 0o755, 0) },
		"file over it":     func(st *Staging) error { return st.File("l", 0o644, 0, 1, strings.NewReader("x")) },
		"file through it":  func(st *Staging) error { return st.File("l/outside", 0o644, 0, 1, strings.NewReader("x")) },
		"file over a file": func(st *Staging) error { return st.File("f", 0o644, 0, 1, strings.NewReader("x")) },
		"dangling":         func(st *Staging) error { return st.File("m", 0o644, 0, 1, strings.NewReader("x")) },
	} {
		st, err := sp.Stage([32]byte{1})
		check(t, err)
		check(t, errors.Join(st.Dir(".", 0o755, 0), st.File("f", 0o644, 0, 0, strings.NewReader("")), st.Symlink("l", "../..", 0), st.Symlink("m", "../../new", 0)))
		if err := put(st); err == nil {
			t.Errorf("%s: staged", what)
		}
		check(t, st.Discard())
	}
	if got := names(t, dir) + ", " + names(t, filepath.Join(dir, incoming)); got != ".incoming outside, " {
		t.Errorf("spool: %s", got)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "outside")); err != nil || string(data) != "safe" {
		t.Errorf("outside: %q, %v", data, err)
	}
}

func TestStagingRules(t *testing.T) {
	_, sp := openSpool(t)
	for what, put := range map[string]func(*Staging) error{
		"short file":    func(st *Staging) error { return st.File("f", 0o644, 0, 4, strings.NewReader("abc")) },
		"long file":     func(st *Staging) error { return st.File("f", 0o644, 0, 2, strings.NewReader("abc")) },
		"negative size": func(st *Staging) error { return st.File("f", 0o644, 0, -1, strings.NewReader("")) },
		"read error": func(st *Staging) error {
			return st.File("f", 0o644, 0, 4, io.MultiReader(strings.NewReader("ab"), iotest.ErrReader(errors.New("bad sector"))))
		},
		"setuid":           func(st *Staging) error { return st.File("f", 0o755|fs.ModeSetuid, 0, 0, strings.NewReader("")) },
		"sticky directory": func(st *Staging) error { return st.Dir("d", 0o755|fs.ModeSticky, 0) },
	} {
		st, err := sp.Stage([32]byte{1})
		check(t, err)
		check(t, st.Dir(".", 0o755, 0))
		if err := put(st); err == nil {
			t.Errorf("%s: staged", what)
		}
		if err := st.Dir("later", 0o755, 0); err == nil {
			t.Errorf("%s: went on", what)
		}
		check(t, st.Discard())
		check(t, st.Discard())
		if err := st.Dir("later", 0o755, 0); err == nil {
			t.Errorf("%s: staged after Discard", what)
		}
	}
	st, err := sp.Stage([32]byte{1})
	check(t, err)
	if err := st.finish(); err == nil {
		t.Error("finished without a root")
	}
	check(t, st.Discard())
	st, err = sp.Stage([32]byte{1})
	check(t, err)
	if _, err := sp.Stage([32]byte{1}); err == nil {
		t.Error("the same bundle staged twice")
	}
	other, err := sp.Stage([32]byte{2})
	check(t, err)
	check(t, errors.Join(putSome(st), st.finish(), other.Discard()))
	if err := st.File("x", 0o644, 0, 0, strings.NewReader("")); err == nil {
		t.Error("staged after finishing")
	}
	check(t, st.Discard())
}

func TestOpenSpool(t *testing.T) {
	dir, sp := openSpool(t)
	if _, err := OpenSpool(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("a second OpenSpool: %v", err)
	}
	// C5 and C8: what crashed runs left is removed, what isn't ours stays.
	for _, name := range []string{strings.Repeat("ab", 32), "mine"} {
		check(t, os.MkdirAll(filepath.Join(dir, incoming, name, "d"), 0o755))
		check(t, os.WriteFile(filepath.Join(dir, incoming, name, "d/f"), []byte("x"), 0o400))
	}
	st, err := sp.Stage([32]byte{3})
	check(t, err)
	if got := names(t, filepath.Join(dir, incoming)); got != hex.EncodeToString(append([]byte{3}, make([]byte, 31)...))+" mine" {
		t.Errorf("incoming: %s", got)
	}
	check(t, st.Discard())

	if _, err := OpenSpool(filepath.Join(dir, "nowhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no spool: %v", err)
	}
	elsewhere := t.TempDir()
	check(t, os.Symlink(dir, filepath.Join(elsewhere, incoming)))
	if _, err := OpenSpool(elsewhere); err == nil {
		t.Error(".incoming is a symlink out of the spool")
	}
}

// A write that the kernel refuses in the middle of a file: a clean error, and the space is given back.
func TestWriteFails(t *testing.T) {
	var before, limit syscall.Rlimit
	check(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before))
	limit = before
	limit.Cur = 1 << 20
	dir, sp := openSpool(t)
	st, err := sp.Stage([32]byte{1})
	check(t, err)
	check(t, st.Dir(".", 0o755, 0))
	// No more than a mebibyte can be written to one file; the signal that comes with it is Go's to ignore.
	check(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit))
	err = st.File("f", 0o644, 0, 3<<20, io.LimitReader(zeros{}, 3<<20))
	check(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before))
	if !errors.Is(err, unix.EFBIG) {
		t.Errorf("got %v", err)
	}
	check(t, st.Discard())
	if got := names(t, filepath.Join(dir, incoming)); got != "" {
		t.Errorf("left over: %s", got)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// Many files in many folders, and deep ones.
func TestStagingMany(t *testing.T) {
	dir, sp := openSpool(t)
	st, err := sp.Stage([32]byte{1})
	check(t, err)
	check(t, st.Dir(".", 0o755, 0))
	deep := "d"
	for range 64 {
		check(t, st.Dir(deep, 0o755, 7))
		deep += "/d"
	}
	for i := range 20 {
		d := fmt.Sprintf("e%02d", i)
		check(t, st.Dir(d, 0o755, int64(i)))
		for j := range 20 {
			check(t, st.File(fmt.Sprintf("%s/%02d", d, j), 0o640, int64(j), 5, strings.NewReader("hello")))
		}
	}
	check(t, st.finish())
	got := list(t, filepath.Join(dir, incoming, st.name))
	if n := strings.Count(got, "\n"); n != 1+64+20*21 || !strings.Contains(got, "e19 drwxr-xr-x 19\ne19/00 -rw-r----- 0 \"hello\"\n") {
		t.Errorf("%d lines:\n%.2000s", n, got)
	}
	check(t, st.Discard())
}
