package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const good = `# the door
id: T1-lock
file: door/lock.go
test: ./door TestLock TestKey/two_keys

old:
|	if !fits {
|
|		return errKey
|	}
new:
|	_ = fits

---
# only a comment here
---
id: T1-bolt
file: door/lock.go
test: . TestLock
new:
old:
||| three
`

func TestParse(t *testing.T) {
	want := []entry{
		{id: "T1-lock", file: "door/lock.go", pkg: "./door", tests: []string{"TestLock", "TestKey/two_keys"},
			old: []string{"\tif !fits {", "", "\t\treturn errKey", "\t}"}, new: []string{"\t_ = fits"}, table: "door.txt", line: 2},
		{id: "T1-bolt", file: "door/lock.go", pkg: ".", tests: []string{"TestLock"},
			old: []string{"|| three"}, table: "door.txt", line: 17},
	}
	got, err := parse("door.txt", good)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("parse gave\n%+v\nwant\n%+v", got, want)
	}
}

func TestParseErrors(t *testing.T) {
	change := func(old, new string) string {
		if strings.Count(good, old) == 0 {
			t.Fatalf("%q isn't in the table", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	tests := []struct{ name, text, want string }{
		{"no id", change("id: T1-lock\n", ""), "door.txt:13: the entry that begins in line 2 has no id"},
		{"no file", change("file: door/lock.go\n", ""), "door.txt:13: the entry that begins in line 2 has no file"},
		{"no test", change("test: ./door TestLock TestKey/two_keys\n", ""), "has no test"},
		{"no new", change("new:\n|	_ = fits\n", ""), "has no new"},
		{"no old", change("old:\n||| three\n", ""), "door.txt: at its end: the entry that begins in line 17 has no old"},
		{"empty old", change("||| three\n", ""), "T1-bolt: old has no line of source"},
		{"blank old", change("||| three\n", "|\n|  \n"), "T1-bolt: old has no line of source"},
		{"nothing changed", change("new:\nold:\n||| three\n", "new:\n|a\nold:\n|a\n"), "T1-bolt: old and new are the same"},
		{"two ids", change("id: T1-lock\n", "id: T1-lock\nid: T1-lack\n"), "door.txt:3: a second id in one entry"},
		{"no line between entries", change("---\n# only a comment here\n---\n", ""), "a second id in one entry"},
		{"id with a space", change("id: T1-lock", "id: T1 lock"), `door.txt:2: id "T1 lock"`},
		{"file outside", change("file: door/lock.go", "file: ../door/lock.go"), "is not a plain path in the module"},
		{"absolute file", change("file: door/lock.go", "file: /door/lock.go"), "is not a plain path in the module"},
		{"crooked file", change("file: door/lock.go", "file: ./door/lock.go"), "is not a plain path in the module"},
		{"a test as file", change("file: door/lock.go", "file: door/lock_test.go"), "file door/lock_test.go is a test"},
		{"package alone", change("test: . TestLock", "test: ./door"), "is not a package and a test"},
		{"import path", change("test: . TestLock", "test: sallyport/door TestLock"), `package "sallyport/door" is not as in`},
		{"package outside", change("test: . TestLock", "test: ./../door TestLock"), `package "./../door" is not as in`},
		{"pattern", change("test: . TestLock", "test: . ./..."), `"./..." is not the name of a test`},
		{"fuzz target", change("test: . TestLock", "test: . FuzzLock"), `"FuzzLock" is not the name of a test`},
		{"unknown field", change("new:\n|	_ = fits", "mew:\n|	_ = fits"), `door.txt:11: no field is called "mew"`},
		{"source behind the field", change("old:\n||| three", "old: three"), "the lines of old stand below it"},
		{"source in no block", change("# the door\n", "|	if\n"), "door.txt:1: a line of source outside of old and new"},
		{"source without its mark", change("|	if !fits {", "	if !fits {"), "door.txt:7: neither a field"},
		{"source that looks like a field", change("|	_ = fits", "case: fits"), `no field is called "case"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parse("door.txt", tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("parse: %v, want %q in the error; entries %+v", err, tt.want, got)
			}
		})
	}
}

func TestReadTable(t *testing.T) {
	second := strings.NewReplacer("T1-lock", "T2-lock", "T1-bolt", "T2-bolt").Replace(good)
	tests := []struct {
		name  string
		files map[string]string
		ids   string
		err   string
	}{
		{"two files", map[string]string{"b.txt": second, "a.txt": good, "c.md": "x"}, "T1-lock T1-bolt T2-lock T2-bolt", ""},
		{"one id in two files", map[string]string{"a.txt": good, "b.txt": good}, "", "b.txt:2: T1-lock: there is one with this id at "},
		{"one id twice in a file", map[string]string{"a.txt": strings.Replace(good, "T1-bolt", "T1-lock", 1)}, "", "a.txt:17: T1-lock: there is one with this id at "},
		{"no file", map[string]string{"c.md": good}, "", "no table of removals"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			entries, err := readTable(write(t, tt.files))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("readTable: %v, want %q in it", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := ids(entries); got != tt.ids {
				t.Errorf("readTable gave %s, want %s", got, tt.ids)
			}
		})
	}
}

func TestSelection(t *testing.T) {
	table := []entry{{id: "T1", table: "x/a.txt"}, {id: "T2", table: "x/a.txt"}, {id: "T3", table: "x/b.txt"}}
	tests := []struct {
		selection
		ids, err string
	}{
		{selection{}, "T1 T2 T3", ""},
		{selection{only: "T3,T1"}, "T3 T1", ""},
		{selection{area: "a"}, "T1 T2", ""},
		{selection{area: "a.txt"}, "T1 T2", ""},
		{selection{area: ".ci/removals/b.txt"}, "T3", ""},
		{selection{only: "T2", area: "a"}, "T2", ""},
		{selection{only: "T4"}, "", `no entry "T4"`},
		{selection{only: "T3", area: "a"}, "", `no entry "T3"`},
		{selection{area: "c"}, "", "no entry in .ci/removals/c.txt"},
	}
	for _, tt := range tests {
		got, err := tt.from(append([]entry{}, table...))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%+v: %v, want %q in the error", tt.selection, err, tt.err)
			}
		} else if err != nil || ids(got) != tt.ids {
			t.Errorf("%+v picks %s, %v, want %s", tt.selection, ids(got), err, tt.ids)
		}
	}
}

func TestReplace(t *testing.T) {
	const text = "a\n\tb\nc\n\tb\nd\n"
	tests := []struct {
		name     string
		old, new []string
		want     string
		err      string
	}{
		{"one line", []string{"c"}, []string{"x", "y"}, "a\n\tb\nx\ny\n\tb\nd\n", ""},
		{"several lines, for none", []string{"c", "\tb"}, nil, "a\n\tb\nd\n", ""},
		{"first and last line", []string{"a", "\tb", "c", "\tb", "d"}, []string{"x"}, "x\n", ""},
		{"twice", []string{"\tb"}, nil, "", "more than once, at lines 2 and 4"},
		{"part of a line", []string{"b"}, nil, "", "don't stand there: those at line 2 differ in white space"},
		{"nowhere", []string{"x"}, nil, "", "don't stand there, not even the first"},
		{"not to the end", []string{"c", "\tb", "e"}, nil, "", "don't stand there: line 3 of old is not line 5 of the file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := replace(text, tt.old, tt.new)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("replace: %v, want %q in it", err, tt.err)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("replace gave %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestCoverage(t *testing.T) {
	const document = `# Attacks

| id | attack | state |
|:--|---|--:|
| T1 | a forged \| b | covered: trust.TestForged |
| T10 | a giant | Covered |
| T2 | a clock | later |

| id | state | fault | test |
|---|---|---|---|
| O1 | covered | x | burn, bundle/x over a corpus |

| word | meaning |
|---|---|
| seal | T3 |
`
	entries := []entry{{id: "T10-giant"}, {id: "O1", pkg: "./burn"}, {id: "O1-x", pkg: "./bundle/x"}, {id: "T2x-other"}}
	tests := []struct {
		name, text string
		entries    []entry
		whole      bool
		out, err   string
	}{
		{"a covered row without an entry", document, entries, false,
			"T1 is covered, they say, and has no entry\n" + "T2 has no entry (later)\n" + "removals: 2 of 4 rows have an entry\n", ""},
		{"only a later row without one", document, append(entries, entry{id: "T1-forged"}), true,
			"T2 has no entry (later)\n" + "removals: 3 of 4 rows have an entry\n", ""},
		{"a row without an entry in one of its packages", document, append(entries[:2:2], entry{id: "T1-forged"}), false,
			"T2 has no entry (later)\n" + "O1 is tested in bundle/x, they say, and has no entry with a test there\n" + "removals: 3 of 4 rows have an entry\n", ""},
		{"no state", strings.Replace(document, "| id | state |", "| id | what |", 1), entries, false, "", "11: the row O1 has no cell in a column with the heading state"},
		{"no rows", "# Attacks\n", entries, false, "", "no table with rows"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name := filepath.Join(write(t, map[string]string{"doc.md": tt.text}), "doc.md")
			var out strings.Builder
			whole, err := coverage(&out, name, tt.entries)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("coverage: %v, want %q in it", err, tt.err)
				}
				return
			}
			if err != nil || whole != tt.whole {
				t.Errorf("coverage: %t, %v, want %t", whole, err, tt.whole)
			}
			var said strings.Builder
			for line := range strings.Lines(out.String()) {
				if rest, ok := strings.CutPrefix(line, name+":"); ok {
					_, line, _ = strings.Cut(rest, ": ")
				}
				said.WriteString(line)
			}
			if said.String() != tt.out {
				t.Errorf("coverage printed\n%s\nwant\n%s", said.String(), tt.out)
			}
		})
	}
}

// write makes a folder of files, which go by their names.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func ids(entries []entry) string {
	var all []string
	for _, e := range entries {
		all = append(all, e.id)
	}
	return strings.Join(all, " ")
}
