package bundle

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// digested returns a payload's entries as a manifest has them.
func digested(t testing.TB, fsys fstest.MapFS) []Entry {
	t.Helper()
	p := plan(t, fsys, demo())
	_, err := p.Seal(t.Context(), nil)
	must(t, err)
	return p.Entries()
}

func changesOf(was, is []Entry) []string {
	var list []string
	for c := range Diff(was, is) {
		switch {
		case c.Old == nil:
			list = append(list, c.Path()+": added")
		case c.New == nil:
			list = append(list, c.Path()+": removed")
		default:
			list = append(list, c.Path()+": "+strings.Join(c.What(), " "))
		}
	}
	return list
}

func TestDiff(t *testing.T) {
	was := rich()
	is := maps.Clone(was)
	touched := func(path string, change func(f *fstest.MapFile)) {
		f := *is[path]
		change(&f)
		is[path] = &f
	}
	later := func(f *fstest.MapFile) { f.ModTime = f.ModTime.Add(time.Second) }
	touched(".", later)
	delete(is, "a/b")
	is["-first"], is["zz/last"] = file(1, 0o644, 1), file(1, 0o644, 1)
	is["zz"] = dir(0o755, 1)
	is["dangling"] = file(1, 0o644, 6)
	touched("a.b", func(f *fstest.MapFile) { f.Mode = 0o600 })
	touched("a-b", func(f *fstest.MapFile) { f.Data = []byte("!") })
	touched("empty", func(f *fstest.MapFile) { f.Data = []byte("more"); later(f) })
	touched("link", func(f *fstest.MapFile) { f.Data = []byte("a/b") })
	touched("empty dir", later)
	want := []string{
		".: mtime", "-first: added", "a-b: content", "a.b: mode", "a/b: removed", "dangling: kind", "empty: content size mtime", "empty dir: mtime",
		"link: target", "zz: added", "zz/last: added",
	}
	before, after := digested(t, was), digested(t, is)
	if got := changesOf(before, after); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := changesOf(before, before); got != nil {
		t.Errorf("with itself: %q", got)
	}
	if got := changesOf(nil, after); len(got) != len(after) || got[0] != ".: added" {
		t.Errorf("with nothing before: %q", got)
	}
	if got := changesOf(before, nil); len(got) != len(before) {
		t.Errorf("with nothing after: %q", got)
	}
	for range Diff(before, after) {
		break // the iterator must take that
	}
}

// TestDiffKeepsNothing: two lists of any length are gone through in place.
func TestDiffKeepsNothing(t *testing.T) {
	was := make([]Entry, 100_001)
	was[0].Path = "."
	for i := range was[1:] {
		was[i+1] = Entry{Path: fmt.Sprintf("%09d", i), Type: File}
	}
	is := slices.Clone(was)
	for i := 1; i < len(is); i += 2 {
		is[i].Size++
	}
	n := 0
	if allocs := testing.AllocsPerRun(3, func() {
		n = 0
		for range Diff(was, is) {
			n++
		}
	}); allocs > 10 || n != 50_000 {
		t.Errorf("%v allocations, %d changes", allocs, n)
	}
}

func TestReproduce(t *testing.T) {
	scratch := t.TempDir()
	t.Setenv("TMPDIR", scratch)
	for _, roots := range []int{0, 2} {
		seal, _ := planned(t, tiny(), withRoots(roots))
		sealed := digested(t, tiny())
		for name, test := range map[string]struct {
			change   func(m fstest.MapFS)
			leaveOut func(string) bool
			want     string // with the manifest; "" if it is reproduced
		}{
			"the same":  {change: func(fstest.MapFS) {}},
			"left out":  {change: func(m fstest.MapFS) { m["extra"] = file(5, 0o644, 1) }, leaveOut: func(p string) bool { return p == "extra" }},
			"one more":  {change: func(m fstest.MapFS) { m["extra"] = file(5, 0o644, 1) }, want: `"extra" (only in this copy), 1 only in it: manifest.bytes`},
			"one less":  {change: func(m fstest.MapFS) { delete(m, "a.txt") }, want: `"a.txt" (missing in it), 1 missing in it: manifest.bytes`},
			"contents":  {change: func(m fstest.MapFS) { m["a.txt"].Data = []byte("0123456789") }, want: `"a.txt" (content), 1 different: manifest.sha256`},
			"only time": {change: func(m fstest.MapFS) { m["a.txt"].ModTime = time.Unix(1_700_000_009, 0) }, want: `"a.txt" (mtime), 1 different: manifest.sha256`},
			"renamed":   {change: func(m fstest.MapFS) { m["b.txt"] = m["a.txt"]; delete(m, "a.txt") }, want: `"a.txt" (missing in it), 1 only in it, 1 missing in it: manifest.sha256`},
		} {
			m := tiny()
			test.change(m)
			for _, have := range [][]Entry{sealed, nil} {
				own, err := Reproduce(t.Context(), m, seal, have, test.leaveOut, nil)
				want := "none"
				if test.want != "" {
					want = "not-reproduced"
				}
				wantCode(t, err, want)
				if test.want != "" && have != nil && !strings.Contains(err.Error(), "this copy is not what was sealed: "+test.want) {
					t.Errorf("%s, %d roots: %v", name, roots, err)
				}
				if have != nil && (len(changesOf(have, own)) == 0) != (test.want == "") {
					t.Errorf("%s, %d roots: differences %q", name, roots, changesOf(have, own))
				}
			}
		}
		forged := *seal
		forged.Verity.Root = strings.Repeat("0", 64)
		for _, have := range [][]Entry{sealed, nil} {
			_, err := Reproduce(t.Context(), tiny(), &forged, have, nil, nil)
			wantCode(t, err, "not-reproduced")
			if err == nil || !strings.Contains(err.Error(), "verity.root would be") {
				t.Errorf("another root: %v", err)
			}
		}
	}
	seal, _ := planned(t, tiny(), demo())
	if _, err := Reproduce(t.Context(), fstest.MapFS{".": dir(0o755, 1)}, seal, nil, nil, nil); codeOf(err) != "empty-payload" {
		t.Errorf("an empty copy: %v", err)
	}
}
