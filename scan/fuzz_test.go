package scan

import (
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// FuzzEntry gives the Checker trees written as lines "KIND PATH\tTARGET" and states the rules for what it lets
// pass once more, in other words.
func FuzzEntry(f *testing.F) {
	f.Add("d a\nd a/b\nl a/b/s\t../..\nl a/x\tb/s/..\nf z")
	f.Add("f A\nf a\nf e\u0301\nf é\nf CON\nf x.\nf \x1b\nf x\u202e")
	f.Add("l a\tb\nl b\ta\nl c\ta/..\nd d\nl d/s\t.\nl d/t\ts/../..")
	f.Add("d d\nf d/a\nd e\nf e/x\nf d/A\nf ../x\nu s\np q\nf README.txt")
	f.Add("f %2e%2e\nf ..\\x\nf a\x00b\nl l\t/etc\nl m\tx//y\nd \nf /\nf a//b")
	f.Fuzz(func(t *testing.T, tree string) {
		kinds := map[string]fs.FileMode{"d": fs.ModeDir | 0o755, "f": 0o644, "l": fs.ModeSymlink | 0o777, "u": fs.ModeSetuid | 0o755, "p": fs.ModeNamedPipe, "v": fs.ModeDevice}
		c := NewChecker(Limits{})
		c.Entry(".", fs.ModeDir|0o755, 0, "")
		entries := []entry{{path: ".", mode: fs.ModeDir}}
		for line := range strings.SplitSeq(tree, "\n") {
			kind, rest, _ := strings.Cut(line, " ")
			p, target, _ := strings.Cut(rest, "\t")
			c.Entry(p, kinds[kind], int64(len(p)), target)
			entries = append(entries, entry{p, kinds[kind], int64(len(p)), target})
		}
		r := c.Report()
		if (r.Err() == nil) != (r.FindingsTotal == 0) || r.FindingsTotal < r.RefusedTotal {
			t.Fatalf("totals: %+v", r)
		}
		entries = slices.DeleteFunc(entries, func(e entry) bool { return r.Refused(e.path) })
		statedRules(t, entries)
	})
}

// statedRules checks the entries that were let pass.
func statedRules(t *testing.T, entries []entry) {
	seen := map[string]entry{}
	for i, e := range entries {
		if e.path == "." {
			seen["."] = e
			continue
		}
		name := path.Base(e.path)
		if !fs.ValidPath(e.path) || len(e.path) > 4096 || len(name) > 255 || strings.Count(e.path, "/") > 63 {
			t.Fatalf("path %q", e.path)
		}
		if strings.TrimSpace(name) != name || strings.HasSuffix(name, ".") || slices.Contains([]string{"con", "nul", "prn", "aux"}, strings.ToLower(name)) {
			t.Fatalf("name %q", name)
		}
		for _, r := range name + e.target {
			if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r) || unicode.Is(unicode.Variation_Selector, r) || unicode.Is(unicode.Co, r) {
				t.Fatalf("%U in %q -> %q", r, e.path, e.target)
			}
		}
		if d, ok := seen[path.Dir(e.path)]; !ok || !d.mode.IsDir() {
			t.Fatalf("%q lies in no directory", e.path)
		}
		if typ := e.mode &^ fs.ModePerm; typ != 0 && typ != fs.ModeDir && typ != fs.ModeSymlink {
			t.Fatalf("%q has mode %v", e.path, e.mode)
		}
		for _, other := range entries[:i] {
			if path.Dir(other.path) == path.Dir(e.path) && strings.EqualFold(norm.NFC.String(path.Base(other.path)), norm.NFC.String(name)) {
				t.Fatalf("%q and %q clash", other.path, e.path)
			}
		}
		seen[e.path] = e
	}
	for _, e := range entries {
		if e.mode.Type() == fs.ModeSymlink {
			if !utf8.ValidString(e.target) || path.IsAbs(e.target) || e.target == "" || climbs(seen, e) {
				t.Fatalf("%q -> %q", e.path, e.target)
			}
		}
	}
}

// climbs follows a link as the kernel does, by names, with its limit of 40 links.
func climbs(tree map[string]entry, e entry) bool {
	at, todo := path.Dir(e.path), strings.Split(e.target, "/")
	for hops := 0; len(todo) > 0; todo = todo[min(1, len(todo)):] {
		if todo[0] == ".." {
			if at == "." {
				return true
			}
			at = path.Dir(at)
			continue
		}
		next, ok := tree[path.Join(at, todo[0])]
		switch {
		case ok && next.mode.IsDir():
			at = next.path
		case ok && next.mode.Type() == fs.ModeSymlink && hops < 40:
			hops++
			todo = append([]string{"."}, append(strings.Split(next.target, "/"), todo[1:]...)...)
		default:
			return false
		}
	}
	return false
}
