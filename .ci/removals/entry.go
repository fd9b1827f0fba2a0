package main

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// entry is one line of the table: a check to take out and the tests that must then fail.
type entry struct {
	id       string
	file     string // the source, from the module's top, with slashes
	pkg      string // of the tests, as ./path
	tests    []string
	old, new []string // lines without their ends

	table string // where the entry stands
	line  int
}

func (e entry) String() string { return fmt.Sprintf("%s:%d: %s", e.table, e.line, e.id) }

var (
	idForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	pkgForm  = regexp.MustCompile(`^\.(/[A-Za-z0-9_.-]+)*$`)
	testForm = regexp.MustCompile(`^Test[^\s]*$`)
)

// readTable reads all tables of the folder in the order of their names.
func readTable(folder string) ([]entry, error) {
	names, err := filepath.Glob(filepath.Join(folder, "*.txt"))
	if err != nil {
		return nil, fmt.Errorf("looking for the table of removals: %w", err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no table of removals: no file %s/*.txt", folder)
	}
	var all []entry
	first := make(map[string]entry)
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading the table of removals: %w", err)
		}
		entries, err := parse(name, string(text))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if other, ok := first[e.id]; ok {
				return nil, fmt.Errorf("%v: there is one with this id at %s:%d", e, other.table, other.line)
			}
			first[e.id] = e
		}
		all = append(all, entries...)
	}
	return all, nil
}

// parse reads the entries of one table, which goes by name in them and in errors.
func parse(name, text string) ([]entry, error) {
	var entries []entry
	var p parser
	for i, line := range strings.Split(text, "\n") {
		var err error
		if line == "---" {
			entries, err = p.finish(entries)
		} else {
			err = p.take(line, name, i+1)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, i+1, err)
		}
	}
	entries, err := p.finish(entries)
	if err != nil {
		return nil, fmt.Errorf("%s: at its end: %w", name, err)
	}
	return entries, nil
}

// parser holds the entry being read.
type parser struct {
	entry
	seen  map[string]bool
	block *[]string // old or new while its lines are read
}

// take reads one line that doesn't end an entry.
func (p *parser) take(line, table string, number int) error {
	if rest, ok := strings.CutPrefix(line, "|"); ok {
		if p.block == nil {
			return fmt.Errorf("a line of source outside of old and new")
		}
		*p.block = append(*p.block, rest)
		return nil
	}
	if strings.TrimSpace(line) == "" || line[0] == '#' {
		return nil
	}
	key, value, ok := strings.Cut(line, ":")
	if !ok {
		return fmt.Errorf("neither a field, as in id: NAME, nor a line of source, which begins with |")
	}
	value = strings.TrimSpace(value)
	if p.seen[key] {
		return fmt.Errorf("a second %s in one entry", key)
	}
	if p.seen == nil {
		p.seen = make(map[string]bool)
		p.table, p.line = table, number
	}
	p.seen[key] = true
	p.block = nil
	return p.set(key, value)
}

// set puts value into the field that goes by key.
func (p *parser) set(key, value string) error {
	switch key {
	case "id":
		if !idForm.MatchString(value) {
			return fmt.Errorf("id %q is not of letters, digits, dots and dashes", value)
		}
		p.id = value
	case "file":
		if !filepath.IsLocal(value) || path.Clean(value) != value {
			return fmt.Errorf("file %q is not a plain path in the module", value)
		}
		if strings.HasSuffix(value, "_test.go") {
			return fmt.Errorf("file %s is a test: a check stands in what is tested", value)
		}
		p.file = value
	case "test":
		words := strings.Fields(value)
		if len(words) < 2 {
			return fmt.Errorf("test %q is not a package and a test", value)
		}
		if !pkgForm.MatchString(words[0]) || strings.Contains(words[0], "..") {
			return fmt.Errorf("package %q is not as in ./bundle/trust", words[0])
		}
		for _, test := range words[1:] {
			if !testForm.MatchString(test) {
				return fmt.Errorf("%q is not the name of a test", test)
			}
		}
		p.pkg, p.tests = words[0], words[1:]
	case "old", "new":
		if value != "" {
			return fmt.Errorf("the lines of %s stand below it, each behind a |", key)
		}
		p.block = &p.entry.old
		if key == "new" {
			p.block = &p.entry.new
		}
	default:
		return fmt.Errorf("no field is called %q", key)
	}
	return nil
}

// finish appends the entry that was read, if there is one, and makes way for the next.
func (p *parser) finish(entries []entry) ([]entry, error) {
	if p.seen == nil {
		return entries, nil
	}
	for _, key := range []string{"id", "file", "test", "old", "new"} {
		if !p.seen[key] {
			return nil, fmt.Errorf("the entry that begins in line %d has no %s", p.line, key)
		}
	}
	if strings.TrimSpace(strings.Join(p.old, "")) == "" {
		return nil, fmt.Errorf("%s: old has no line of source", p.id)
	}
	if slices.Equal(p.old, p.new) {
		return nil, fmt.Errorf("%s: old and new are the same", p.id)
	}
	e := p.entry
	*p = parser{}
	return append(entries, e), nil
}
