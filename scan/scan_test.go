package scan

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// entry is one call of Checker.Entry.
type entry struct {
	path   string
	mode   fs.FileMode
	size   int64
	target string
}

func dir(p string) entry     { return entry{p, fs.ModeDir | 0o755, 0, ""} }
func file(p string) entry    { return entry{p, 0o644, 1, ""} }
func link(p, t string) entry { return entry{p, fs.ModeSymlink | 0o777, 0, t} }

func check(limits Limits, entries ...entry) *Report {
	c := NewChecker(limits)
	c.Entry(".", fs.ModeDir|0o755, 0, "")
	for _, e := range entries {
		c.Entry(e.path, e.mode, e.size, e.target)
	}
	return c.Report()
}

// found lists "path code" of each finding, in order.
func found(r *Report) []string {
	s := []string{}
	for _, f := range r.Findings {
		s = append(s, f.Path+" "+f.Code)
	}
	slices.Sort(s)
	return s
}

// F6 and T13: what a name may not hold.
func TestNames(t *testing.T) {
	bad := map[string]string{
		"NUL":                         "a\x00b",
		"newline":                     "a\nb",
		"tab":                         "a\tb",
		"escape":                      "a\x1b[2Jb",
		"delete":                      "a\x7f",
		"C1 control":                  "a\u009bb",
		"line separator":              "a\u2028b",
		"paragraph separator":         "a\u2029b",
		"right-to-left override":      "txt.\u202eexe",
		"left-to-right mark":          "a\u200eb",
		"isolate":                     "a\u2066b",
		"arabic letter mark":          "a\u061cb",
		"zero-width space":            "a\u200bb",
		"zero-width joiner":           "a\u200db",
		"byte order mark":             "\ufeffa",
		"soft hyphen":                 "a\u00adb",
		"variation selector":          "a\ufe0f",
		"variation selector 17":       "a\U000e0100",
		"tag":                         "a\U000e0041",
		"hangul filler":               "a\u3164",
		"combining grapheme joiner":   "a\u034fb",
		"mongolian vowel separator":   "a\u180eb",
		"braille blank":               "a\u2800b",
		"noncharacter FDD0":           "a\ufdd0",
		"noncharacter 10FFFF":         "a\U0010ffff",
		"private use":                 "a\uf022",
		"unassigned":                  "a\u0378",
		"not UTF-8":                   "a\xff",
		"overlong":                    "a\xc0\xaf",
		"surrogate":                   "a\xed\xa0\x80",
		"leading space":               " a",
		"trailing space":              "a ",
		"no-break space at the end":   "a\u00a0",
		"ideographic space at first":  "\u3000a",
		"trailing dot":                "a.",
		"dots":                        "...",
		"device":                      "CON",
		"device in lower case":        "nul",
		"device with a digit":         "Com1",
		"device with a superscript":   "lpt²",
		"console":                     "conin$",
		"leading mark":                "\u0301a",
		"climbs by backslashes":       `..\a`,
		"climbs inside":               `a\..\..\b`,
		"network path":                `\\host\share`,
		"drive":                       `c:\a`,
		"backslash at the end":        `a\`,
		"percent-encoded parent":      "%2e%2e",
		"percent-encoded, upper case": "%2E%2E%2fetc",
		"percent-encoded twice":       "%252e%252e",
		"percent-encoded NUL":         "a%00b",
	}
	for what, name := range bad {
		for _, path := range []string{name, "d/" + name} {
			r := check(Limits{}, dir("d"), file(path))
			if got, want := found(r), []string{path + " " + CodeBadName}; !slices.Equal(got, want) {
				t.Errorf("%s: %q: got %q, want %q", what, path, got, want)
			}
			var refused *RefusedError
			if err := r.Err(); !errors.As(err, &refused) || refused.RefusalCode() != "bad-name" || !r.Refused(path) || r.Refused("d") {
				t.Errorf("%s: Err %v, Refused %v", what, err, r.RefusedPaths())
			} else if !printable(err.Error()) {
				t.Errorf("%s: the error shows raw bytes: %q", what, err)
			}
		}
	}
	good := []string{
		"a", ".hidden", "-rf", "..a", "a..b", "a b", "~", "#", "%", "100%", "%zz", "@scope%2fname", "50%25", "aux.c", "con.txt", "COM10", "COM", "nul0",
		"Test::More.3pm", "a?b", "a*b", `a"b`, "<a>", "a|b", `system-systemd\x2dcryptsetup.slice`, "é", "e\u0301", "naïve Ünïcödé", "日本語", "שלום", "кириллица", "😀",
		"a\u00a0b", "\u0600", "\ufffd", strings.Repeat("x", 255), "[", "a,b;c=d", "$HOME", "`x`", "README.txt.gz",
	}
	entries := []entry{}
	for _, n := range good {
		entries = append(entries, file(n))
	}
	if r := check(Limits{}, slices.DeleteFunc(entries, func(e entry) bool { return e.path == "e\u0301" })...); r.Err() != nil || r.Files != int64(len(good)-1) {
		t.Errorf("good names: %v, %q", r.Err(), found(r))
	}
}

func printable(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) || invisible(r) {
			return false
		}
	}
	return true
}

// T13: paths that aren't plain relative ones, and entries out of place.
func TestPaths(t *testing.T) {
	for path, code := range map[string]string{
		"../x":          CodeBadName,
		"a/../x":        CodeBadName,
		"a/./x":         CodeBadName,
		"a//x":          CodeBadName,
		"a/":            CodeBadName,
		"/x":            CodeBadName,
		"":              CodeBadName,
		"..":            CodeBadName,
		"./x":           CodeBadName,
		"nowhere/x":     CodeBadOrder,
		"f/x":           CodeBadOrder,
		"a\xff/../\x1b": CodeBadName,
	} {
		if got := found(check(Limits{}, dir("a"), file("f"), file(path))); !slices.Equal(got, []string{path + " " + code}) {
			t.Errorf("%q: got %q, want %s", path, got, code)
		}
	}
	if got := found(check(Limits{}, dir("."))); !slices.Equal(got, []string{". " + CodeBadOrder}) {
		t.Errorf("a second root: got %q", got)
	}
	// The children of a directory come together; else their names could not be compared.
	r := check(Limits{}, dir("a"), file("a/x"), dir("b"), file("b/x"), file("a/X"))
	if got := found(r); !slices.Equal(got, []string{"a/X " + CodeBadOrder}) {
		t.Errorf("late child: got %q", got)
	}
	// Both orders of a tree are in order: of path bytes, and of a walk.
	for _, list := range [][]entry{
		{dir("a"), dir("a-b"), file("a-b/x"), dir("a/c"), dir("a/c-"), file("a/c-/z"), file("a/c/y"), file("b")},
		{dir("a"), dir("a/c"), file("a/c/y"), dir("a/c-"), file("a/c-/z"), dir("a-b"), file("a-b/x"), file("b")},
	} {
		if r := check(Limits{}, list...); r.Err() != nil {
			t.Errorf("%v: %q", list, found(r))
		}
	}
}

// T18: names that are equal after NFC and case folding.
func TestClashes(t *testing.T) {
	tests := []struct {
		what    string
		entries []entry
		refused []string
	}{
		{"case", []entry{file("A"), file("a"), file("b")}, []string{"A", "a"}},
		{"three of them", []entry{file("AA"), file("Aa"), file("aa")}, []string{"AA", "Aa", "aa"}},
		{"symlink, then a directory of the same name", []entry{dir("t"), link("x", "t"), dir("x"), file("x/f")}, []string{"x"}},
		{"symlink, then a directory that differs in case", []entry{link("Etc", "t"), dir("etc"), file("etc/f"), dir("t")}, []string{"Etc", "etc"}},
		{"NFC and NFD", []entry{file("e\u0301"), file("é")}, []string{"e\u0301", "é"}},
		{"NFC and NFD and case", []entry{file("E\u0301"), file("é")}, []string{"E\u0301", "é"}},
		{"full folding", []entry{file("STRASSE"), file("straße")}, []string{"STRASSE", "straße"}},
		{"sigmas", []entry{file("ΟΔΟΣ"), file("οδος"), file("οδοσ")}, []string{"ΟΔΟΣ", "οδος", "οδοσ"}},
		{"Kelvin", []entry{file("k"), file("\u212a")}, []string{"k", "\u212a"}},
		{"order of marks", []entry{file("a\u0323\u0307"), file("a\u0307\u0323")}, []string{"a\u0307\u0323", "a\u0323\u0307"}},
		{"the same path twice", []entry{file("a"), file("a")}, []string{"a"}},
		{"below the root", []entry{dir("d"), file("d/A"), file("d/a")}, []string{"d/A", "d/a"}},
		{"directories", []entry{dir("D"), dir("d"), file("D/x")}, []string{"D", "d"}},
		{"behind a subtree", []entry{dir("a"), file("a-"), file("a/x"), file("A-")}, []string{"A-", "a-"}},
		{"in different directories", []entry{dir("d"), dir("e"), file("d/a"), file("e/A")}, nil},
	}
	for _, tt := range tests {
		r := check(Limits{}, tt.entries...)
		if got := r.RefusedPaths(); !slices.Equal(got, tt.refused) {
			t.Errorf("%s: refused %q, want %q (%v)", tt.what, got, tt.refused, r.Findings)
		}
		var refused *RefusedError
		if err := r.Err(); tt.refused != nil && (!errors.As(err, &refused) || refused.Code != CodeNameClash) {
			t.Errorf("%s: %v", tt.what, err)
		}
	}
	if r := check(Limits{AllowCaseClash: true}, file("A"), file("a"), file("e\u0301"), file("é")); !slices.Equal(r.RefusedPaths(), []string{"e\u0301", "é"}) {
		t.Errorf("case clash allowed: %q", found(r))
	}
	// Of a refused directory nothing may be taken.
	if r := check(Limits{}, dir("D"), dir("D/s"), file("D/s/f"), dir("Da"), dir("d")); !r.Refused("D/s/f") || r.Refused("Da") || r.Refused("D-") {
		t.Errorf("refused: %q", r.RefusedPaths())
	}
}

func TestReservedNames(t *testing.T) {
	for _, name := range []string{"README.txt", "MANIFEST.json", "SHA256SUMS", "readme.TXT", "manifest.JSON", "ſha256sums"} {
		r := check(Limits{AllowCaseClash: true}, dir("d"), file("d/"+name), file(name))
		if got := found(r); !slices.Equal(got, []string{name + " " + CodeReservedName}) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// F7: kinds of files.
func TestKinds(t *testing.T) {
	for what, mode := range map[string]fs.FileMode{
		"setuid":           fs.ModeSetuid | 0o755,
		"setgid":           fs.ModeSetgid | 0o755,
		"sticky":           fs.ModeSticky | 0o755,
		"setgid directory": fs.ModeDir | fs.ModeSetgid | 0o755,
		"sticky directory": fs.ModeDir | fs.ModeSticky | 0o777,
		"block device":     fs.ModeDevice | 0o600,
		"character device": fs.ModeDevice | fs.ModeCharDevice | 0o600,
		"FIFO":             fs.ModeNamedPipe | 0o600,
		"socket":           fs.ModeSocket | 0o600,
		"irregular":        fs.ModeIrregular,
		"two types":        fs.ModeDir | fs.ModeSymlink,
		"append only":      fs.ModeAppend | 0o600,
	} {
		if got := found(check(Limits{}, entry{path: "x", mode: mode})); !slices.Equal(got, []string{"x " + CodeBadKind}) {
			t.Errorf("%s: got %q", what, got)
		}
	}
	if got := found(check(Limits{}, entry{"x", 0o644, 1, "y"})); !slices.Equal(got, []string{"x " + CodeBadKind}) {
		t.Errorf("file with a target: got %q", got)
	}
	c := NewChecker(Limits{})
	c.Entry(".", fs.ModeDir|fs.ModeSticky|0o775, 0, "")
	if r := c.Report(); r.Err() != nil {
		t.Errorf("sticky root: %v", r.Err())
	}
	c.Entry(".", 0o644, 0, "")
	if r := c.Report(); !slices.Equal(found(r), []string{". " + CodeBadKind}) || !r.Refused("anything") {
		t.Errorf("root is a file: %q", found(r))
	}
}

// F7: links out of the tree.
func TestLinks(t *testing.T) {
	bad := map[string][]entry{
		"absolute":             {link("x", "/etc/passwd")},
		"parent of the root":   {link("x", "..")},
		"out and in again":     {link("x", "../root/a")},
		"out from below":       {link("d/e/x", "../../../a")},
		"out at the end":       {link("d/e/x", "../.././../..")},
		"empty":                {link("x", "")},
		"doubled separator":    {link("x", "d//e")},
		"trailing separator":   {link("x", "d/")},
		"NUL":                  {link("x", "a\x00b")},
		"not UTF-8":            {link("x", "a\xff")},
		"escape":               {link("x", "a\x1bb")},
		"long part":            {link("x", strings.Repeat("n", 249))},
		"long":                 {link("x", strings.Repeat("d/", 511)+"dd")},
		"through another link": {link("d/e/s", "../.."), link("d/x", "e/s/..")},
		"through two links":    {link("d/e/s", "t"), link("d/e/t", "../.."), link("d/x", "e/s/../a")},
		"through one above":    {link("a", "d/e/s/../d"), link("d/e/s", "../..")},
		"through the parent":   {link("d/up", ".."), link("d/x", "up/..")},
	}
	for what, list := range bad {
		r := check(Limits{}, append([]entry{dir("d"), dir("d/e")}, sorted(list)...)...)
		x := list[len(list)-1].path
		if what == "through one above" {
			x = "a"
		}
		if got := found(r); !slices.Equal(got, []string{x + " " + CodeBadLink}) {
			t.Errorf("%s: got %q", what, got)
		}
	}
	// Each rule by itself: what one lets pass, another would refuse with other words.
	for target, want := range map[string]string{"/d": "absolute", "../x": "leaves the tree:", "./../x": "leaves the tree:", "d/..": "steps up behind", "d/./../x": "steps up behind", strings.Repeat("./", 101) + "d": "a target with more than"} {
		if got := targetProblem("x", target); !strings.HasPrefix(got, want) {
			t.Errorf("target %q: %q, want %q", target, got, want)
		}
	}
	r := check(Limits{}, dir("d"), dir("d/e"), file("f"), link("l1", "f"), link("l2", "l1"), link("l3", "l3"), link("l4", "l5/x"), link("l5", "l4"), link("l6", "missing/f"),
		link("l8", "."), link("l9", strings.Repeat("./", 100)+"d"), link("la", "./d"), link("d/e/up", "../.."), link("d/e/b", "up/d/e/up/f"), link("d/e/a", "../../f"),
		link("lb", strings.Repeat("n", 248)), link("lc", "l8/l8/d/e/up/d"))
	if r.Err() != nil {
		t.Errorf("good links: %v", r.Findings)
	}
}

func sorted(list []entry) []entry {
	return slices.SortedFunc(slices.Values(list), func(a, b entry) int { return strings.Compare(a.path, b.path) })
}

// T10: counts, lengths and sizes.
func TestLimits(t *testing.T) {
	deep := func(n int) []entry {
		var list []entry
		for i := 1; i <= n; i++ {
			list = append(list, dir(strings.TrimSuffix(strings.Repeat("d/", i), "/")))
		}
		return list
	}
	long := func(parts, last int) []entry {
		var list []entry
		for i := 1; i <= parts; i++ {
			list = append(list, dir(strings.TrimSuffix(strings.Repeat(strings.Repeat("n", 254)+"/", i), "/")))
		}
		return append(list, file(list[parts-1].path+"/"+strings.Repeat("x", last)))
	}
	many := []entry{file("a"), file("b"), dir("c")}
	tests := []struct {
		what    string
		limits  Limits
		entries []entry
		want    []string
	}{
		{"name", Limits{}, []entry{file(strings.Repeat("é", 128))}, []string{strings.Repeat("é", 128) + " limit"}},
		{"longest name", Limits{}, []entry{file(strings.Repeat("é", 127) + "x")}, nil},
		{"path", Limits{}, long(16, 17), []string{long(16, 17)[16].path[:4096] + " limit"}},
		{"longest path", Limits{}, long(16, 16), nil},
		{"depth", Limits{}, deep(65), []string{strings.Repeat("d/", 64) + "d limit"}},
		{"deepest", Limits{}, deep(64), nil},
		{"size", Limits{}, []entry{{"f", 0o644, 429_496_524_801, ""}}, []string{"f limit"}},
		{"negative size", Limits{}, []entry{{"f", 0o644, -1, ""}}, []string{"f limit"}},
		{"largest size", Limits{}, []entry{{"f", 0o644, 429_496_524_800, ""}}, nil},
		{"entries", Limits{Entries: 3}, many, []string{". limit"}},
		{"most entries", Limits{Entries: 4}, many, nil},
		{"directories", Limits{Directories: 1}, many, []string{". limit"}},
		{"most directories", Limits{Directories: 2}, many, nil},
		{"own limits", Limits{NameBytes: 2, Depth: 1, FileBytes: 1, PathBytes: 3}, []entry{dir("d"), file("d/e"), file("dd"), file("ddd"), file("eeee"), {"f", 0o644, 2, ""}}, []string{"d/e limit", "ddd limit", "eeee limit", "f limit"}},
		{"more than the format's", Limits{NameBytes: 1000, Depth: 1000}, []entry{file(strings.Repeat("x", 256))}, []string{strings.Repeat("x", 256) + " limit"}},
	}
	for _, tt := range tests {
		if got := found(check(tt.limits, tt.entries...)); !slices.Equal(got, append([]string{}, tt.want...)) {
			t.Errorf("%s: got %.300q, want %.300q", tt.what, got, tt.want)
		}
	}
	c := NewChecker(Limits{Findings: 3})
	c.Entry(".", fs.ModeDir, 0, "")
	for i := range 1000 {
		c.Entry(fmt.Sprintf("%04d.", i), 0o644, 0, "")
	}
	if r := c.Report(); len(r.Findings) != 3 || r.FindingsTotal != 1000 || r.RefusedTotal != 1000 || !r.Refused("0999.") {
		t.Errorf("kept %d of %d findings", len(r.Findings), r.FindingsTotal)
	}
	for sec, bad := range map[int64]bool{-2208988801: true, -2208988800: false, 5869583999: false, 5869584000: true} {
		c := NewChecker(Limits{})
		c.Entry(".", fs.ModeDir, 0, "")
		c.MTime(".", sec)
		if r := c.Report(); (r.Err() != nil) != bad || bad && r.Findings[0].Code != CodeBadTime {
			t.Errorf("mtime %d: %v", sec, r.Err())
		}
	}
}

func TestDirectoriesLimit(t *testing.T) {
	c := NewChecker(Limits{})
	c.Entry(".", fs.ModeDir, 0, "")
	for i := range 65_535 {
		c.Entry(fmt.Sprintf("%05d", i), fs.ModeDir|0o755, 0, "")
	}
	if got := found(c.Report()); !slices.Equal(got, []string{". limit"}) {
		t.Errorf("65,536 directories: %.200q", got)
	}
}

// The tables that decide what is assigned, normalised and folded are of one Unicode version.
func TestUnicodeVersions(t *testing.T) {
	for what, v := range map[string]string{"norm": norm.Version, "cases": cases.UnicodeVersion} {
		if v != unicode.Version {
			t.Errorf("%s has Unicode %s, the standard library %s", what, v, unicode.Version)
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"":                  `""`,
		"plain é 日本 😀":      `"plain é 日本 😀"`,
		"a\nb\x1b":          `"a\nb\x1b"`,
		"\xff\u202e\u2028":  `"\xff\u202e\u2028"`,
		`q"\`:               `"q\"\\"`,
		"a\ufe0f\U000e0100": `"a\ufe0f\U000e0100"`,
		"\u3164\u2800":      `"\u3164\u2800"`,
		"\uf022\u00a0":      `"\uf022\u00a0"`,
	} {
		if got := Quote(in); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func FuzzQuote(f *testing.F) {
	f.Add("a\xff\u202e\ufe0f")
	f.Fuzz(func(t *testing.T, s string) {
		q := Quote(s)
		if !printable(strings.ReplaceAll(q, "\ufffd", "")) {
			t.Fatalf("%q: not printable: %q", s, q)
		}
		if back, err := strconv.Unquote(q); err != nil || back != s {
			t.Fatalf("%q: undone %q, %v", s, back, err)
		}
	})
}
