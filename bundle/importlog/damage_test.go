package importlog

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

func entryAt(t *testing.T, l *Log, index int64) []byte {
	t.Helper()
	e, err := l.entry(t.Context(), index)
	check(t, err)
	return e.JSON
}

// forge returns a copy of a log with one more entry, whatever it is, signed with the station's key.
func forge(t *testing.T, state, entry string) string {
	t.Helper()
	state = copyTree(t, state)
	l := reopen(t, state)
	check(t, l.write(&Entry{JSON: []byte(entry)}))
	check(t, l.Close())
	return state
}

// Entries that nobody may write, not even who has the key.
func TestForgedEntries(t *testing.T) {
	state, l := newLog(t, 1)
	check(t, l.Close())
	good := `{"code":"bad-seal","detail":"d","kind":"refuse","source":"s","station":"north","time":1800000001,"type":"sallyport-log"}` + "\n"
	if _, err := reader(t, forge(t, state, good)); err != nil {
		t.Fatal(err)
	}
	for what, entry := range map[string]string{
		"other station": strings.Replace(good, "north", "south", 1),
		"other type":    strings.Replace(good, "sallyport-log", "sallyport-seal", 1),
		"other kind":    strings.Replace(good, `"refuse"`, `"remark"`, 1),
		"no newline":    strings.TrimSpace(good),
		"extra member":  strings.Replace(good, `"source"`, `"sauce":"","source"`, 1),
		"not JSON":      "hello\n",
		"empty":         "",
		"raw escape":    strings.Replace(good, `"d"`, `"\u001b"`, 1),
		"long detail":   strings.Replace(good, `"d"`, `"`+strings.Repeat("d", 1025)+`"`, 1),
	} {
		if _, err := reader(t, forge(t, state, entry)); codeOf(err) != "log-damaged" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A checkpoint that the station signed doesn't become the log's by standing there.
func TestForgedCheckpoint(t *testing.T) {
	state, l := newLog(t, 2)
	check(t, l.Close())
	signer, _ := testKey(t, "north", 1)
	tree := l.Head().Tree
	wrong := tree
	wrong.Hash[0] ^= 1
	for what, tree := range map[string]tlog.Tree{"another root": wrong, "an entry less": {N: 1, Hash: tree.Hash}, "an entry more": {N: 3, Hash: tree.Hash}, "none": {Hash: tree.Hash}} {
		forged := copyTree(t, state)
		data, err := signCheckpoint(tree, signer)
		check(t, err)
		check(t, os.WriteFile(filepath.Join(forged, "log", "checkpoint"), data, 0o644))
		if _, err := reader(t, forged); codeOf(err) != "log-damaged" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// T17 and C2: whatever is missing or different below the checkpoint is refused and stays as it is; what lies
// beyond is ignored.
func TestDamage(t *testing.T) {
	t.Parallel()
	state, l := newLog(t, 258)
	check(t, l.Close())
	below := []string{"checkpoint", "tile/0/000", "tile/0/001.p/2", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/2"}
	for _, name := range below {
		for what, change := range map[string]func([]byte) []byte{
			"first byte":  func(b []byte) []byte { b[0] ^= 1; return b },
			"middle":      func(b []byte) []byte { b[len(b)/2] ^= 0x10; return b },
			"last byte":   func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
			"truncated":   func(b []byte) []byte { return b[:len(b)-1] },
			"a byte more": func(b []byte) []byte { return append(b, '\n') },
			"empty":       func([]byte) []byte { return nil },
			"missing":     nil,
		} {
			damaged := copyTree(t, state)
			p := filepath.Join(damaged, "log", name)
			if change == nil {
				check(t, os.Remove(p))
			} else {
				data, err := os.ReadFile(p)
				check(t, err)
				check(t, os.WriteFile(p, change(data), 0o644))
			}
			before := list(t, damaged)
			signer, verifier := testKey(t, "north", 1)
			_, err := Open(t.Context(), damaged, signer, verifier)
			if name == "checkpoint" && change == nil {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s, %s: %v", name, what, err)
				}
				_, err = Create(t.Context(), damaged, signer, verifier)
				if err == nil {
					t.Errorf("a new log was begun over the entries of an old one")
				}
			} else if codeOf(err) != "log-damaged" {
				t.Errorf("%s, %s: %v", name, what, err)
			}
			if list(t, damaged) != before {
				t.Errorf("%s, %s: something was changed", name, what)
			}
		}
	}
	for _, name := range []string{"tile/0/001.p/3", "tile/entries/001.p/3", "tile/0/001", "tile/entries/001", "tile/1/000", ".new"} {
		p := filepath.Join(state, "log", name)
		check(t, os.WriteFile(p, []byte("torn"), 0o644))
	}
	l = reopen(t, state)
	for i := range 300 {
		addRefusal(t, l, 258+i)
	}
	if _, err := l.Verify(t.Context(), nil); err != nil {
		t.Errorf("after a torn tail: %v", err)
	}
}

// T17: an old disk image put back, a log written anew, a split view.
func TestEarlierCheckpoint(t *testing.T) {
	state, l := newLog(t, 0)
	var heads []*Checkpoint
	for i := range 40 {
		heads = append(heads, l.Head())
		addRefusal(t, l, i)
	}
	for _, h := range append(heads, l.Head()) {
		if got, err := l.Verify(t.Context(), h); err != nil || got.Tree != l.Head().Tree {
			t.Errorf("continuation of %d: %v", h.Tree.N, err)
		}
	}
	check(t, l.Close())
	old := copyTree(t, state)
	l = reopen(t, state)
	addRefusal(t, l, 40)
	newer := l.Head()
	if _, err := must(reader(t, old)).Verify(t.Context(), newer); codeOf(err) != "log-truncated" {
		t.Errorf("old disk image: %v", err)
	}
	other := reopen(t, old)
	_, err := other.LogRefused(Refusal{Code: "threshold", Detail: "another history"}, when.Add(time.Hour))
	check(t, err)
	if _, err := other.Verify(t.Context(), newer); codeOf(err) != "log-rewritten" {
		t.Errorf("split view: %v", err)
	}
	check(t, other.Close())
	foreign := *newer
	foreign.Origin = "sallyport/south"
	if _, err := l.Verify(t.Context(), &foreign); codeOf(err) != "log-rewritten" {
		t.Errorf("checkpoint of another log: %v", err)
	}
	// An empty log written in its place continues no other, but the empty one.
	signer, verifier := testKey(t, "north", 1)
	fresh, err := Create(t.Context(), t.TempDir(), signer, verifier)
	check(t, err)
	defer fresh.Close()
	if _, err := fresh.Verify(t.Context(), newer); codeOf(err) != "log-truncated" {
		t.Errorf("empty log: %v", err)
	}
	if _, err := fresh.Verify(t.Context(), heads[0]); err != nil {
		t.Errorf("empty log after the empty checkpoint: %v", err)
	}
}
