package importlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// testKey makes the key of a station from a seed.
func testKey(t testing.TB, station string, seed byte) (note.Signer, note.Verifier) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{seed}, 32)), Origin(station))
	check(t, err)
	signer, err := note.NewSigner(skey)
	check(t, err)
	verifier, err := note.NewVerifier(vkey)
	check(t, err)
	return signer, verifier
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// when is the time of the tests.
var when = time.Unix(1_800_000_000, 0)

// lazyOps leaves out the syncs, for logs that no power cut threatens.
type lazyOps struct{ fileOps }

type lazyHandle struct{ handle }

func (lazyHandle) Sync() error       { return nil }
func (lazyOps) syncDir(string) error { return nil }
func lazy(ops fileOps) fileOps       { return lazyOps{ops} }

func codeOf(err error) string {
	var r interface{ RefusalCode() string }
	if errors.As(err, &r) {
		return r.RefusalCode()
	}
	return ""
}

func (o lazyOps) create(name string) (handle, error) {
	h, err := o.fileOps.create(name)
	return lazyHandle{h}, err
}

// newLog makes a log of n refusals in a new state directory.
func newLog(t testing.TB, n int) (stateDir string, l *Log) {
	t.Helper()
	stateDir = t.TempDir()
	signer, verifier := testKey(t, "north", 1)
	l, err := open(t.Context(), stateDir, signer, verifier, true, lazy)
	check(t, err)
	t.Cleanup(func() { l.Close() })
	for i := range n {
		addRefusal(t, l, i)
	}
	return stateDir, l
}

func addRefusal(t testing.TB, l *Log, i int) {
	t.Helper()
	index, err := l.LogRefused(Refusal{Code: "bad-seal", Detail: fmt.Sprintf("test %d", i), Source: "/dev/sr0"}, when.Add(time.Duration(i)*time.Second))
	if err != nil || index != int64(i) {
		t.Fatalf("entry %d: index %d, %v", i, index, err)
	}
}

func reopen(t testing.TB, stateDir string) *Log {
	t.Helper()
	signer, verifier := testKey(t, "north", 1)
	l, err := open(t.Context(), stateDir, signer, verifier, false, lazy)
	check(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func reader(t testing.TB, stateDir string) (*Log, error) {
	t.Helper()
	_, verifier := testKey(t, "north", 1)
	return OpenReader(t.Context(), stateDir, verifier)
}

// testSeal makes the part of a SEAL.json that the log reads, and its digest.
func testSeal(channel string, sequence int64, previous, content string) (seal []byte, digest [32]byte) {
	id := sha256.Sum256([]byte(content))
	seal = fmt.Appendf(nil, `{"bundle_id":"%x","channel":"%s","created":1700000000,"previous":"%s","sequence":%d}`, id, channel, previous, sequence)
	return seal, sha256.Sum256(append(bytes.Clone(seal), bytes.Repeat([]byte{'\n'}, 8192-len(seal))...))
}

// testBundle is a bundle as Verify would hand it on.
func testBundle(channel string, sequence int64, previous [32]byte) imported {
	prev := ""
	if previous != ([32]byte{}) {
		prev = hex.EncodeToString(previous[:])
	}
	seal, digest := testSeal(channel, sequence, prev, fmt.Sprint(channel, sequence))
	return imported{
		seal: seal, digest: digest, policy: Policy{Gaps: "refuse", MaxJump: 10},
		signers: []Signer{{Holder: "zoe", KeyID: "0123456789ABCDEF", Role: "preparer"}, {Holder: "ann", KeyID: "FEDCBA9876543210", Role: "approver"}},
	}
}

// stageSome stages a small tree with odd modes.
func stageSome(t testing.TB, sp *Spool, digest [32]byte) *Staging {
	t.Helper()
	st, err := sp.Stage(digest)
	check(t, err)
	check(t, putSome(st))
	return st
}

func putSome(st *Staging) error {
	return errors.Join(
		st.Dir(".", 0o555, 1_000_000_000),
		st.Dir("d", 0o500, 1_000_000_001),
		st.File("d-file", 0o644, -5, 3, bytes.NewReader([]byte("abc"))),
		st.Dir("d/e", 0, 1_000_000_002),
		st.File("d/empty", 0o000, 1_000_000_003, 0, bytes.NewReader(nil)),
		st.Symlink("d/link", "../d-file", 1_000_000_004),
		st.File("run", 0o755, 5_869_583_999, 1, bytes.NewReader([]byte("x"))),
		st.Symlink("up", "nowhere", -2_147_483_648),
	)
}

// list describes a tree, a line for each of its files, in order of name.
func list(t testing.TB, dir string) string {
	t.Helper()
	var b bytes.Buffer
	check(t, filepath.Walk(dir, func(p string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %v %d", rel, info.Mode(), info.ModTime().Unix())
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", data)
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " -> %s", target)
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

const someTree = `. dr-xr-xr-x 1000000000
d dr-x------ 1000000001
d/e d--------- 1000000002
d/empty ---------- 1000000003 ""
d/link Lrwxrwxrwx 1000000004 -> ../d-file
d-file -rw-r--r-- -5 "abc"
run -rwxr-xr-x 5869583999 "x"
up Lrwxrwxrwx -2147483648 -> nowhere
`

// openSpool opens a new spool that syncs nothing, for tests that no power cut threatens.
func openSpool(t testing.TB) (string, *Spool) {
	t.Helper()
	dir := t.TempDir()
	sp, err := OpenSpool(dir)
	check(t, err)
	sp.ops.syncfs = func(int) error { return nil }
	sp.ops.fsync = func(*os.File) error { return nil }
	t.Cleanup(func() {
		sp.Close()
		// Read-only directories would be in the way of the test's own cleaning up.
		_ = filepath.Walk(dir, func(p string, info os.FileInfo, err error) error {
			if err == nil && info.IsDir() {
				return os.Chmod(p, 0o755)
			}
			return nil
		})
	})
	return dir, sp
}

func importOne(ctx context.Context, l *Log, sp *Spool, b imported, opt AcceptOptions) (string, *Receipt, error) {
	st, err := sp.Stage(b.digest)
	if err != nil {
		return "", nil, err
	}
	defer st.Discard()
	if err := putSome(st); err != nil {
		return "", nil, err
	}
	r, err := accept(ctx, l, b, st, opt)
	if err != nil {
		return "", nil, err
	}
	p, err := Release(ctx, r, st, opt.Now)
	return p, r, err
}

func copyTree(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	check(t, os.CopyFS(to, os.DirFS(from)))
	return to
}
