package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mutation is an entry and the text of its file without the check.
type mutation struct {
	entry
	source string
}

// mutate applies each entry to the file it names under root. It goes on to the last entry and joins the errors.
func mutate(root string, entries []entry) ([]mutation, error) {
	var mutations []mutation
	var wrong []error
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(root, e.file))
		if err == nil {
			var source string
			if source, err = replace(string(text), e.old, e.new); err == nil {
				mutations = append(mutations, mutation{e, source})
				continue
			}
			err = fmt.Errorf("%s: %w", e.file, err)
		}
		wrong = append(wrong, fmt.Errorf("%v: %w", e, err))
	}
	return mutations, errors.Join(wrong...)
}

// replace puts the lines new in the place of the lines old, which must stand in text exactly once.
func replace(text string, old, new []string) (string, error) {
	lines := strings.Split(text, "\n")
	at := -1
	for i := 0; i+len(old) <= len(lines); i++ {
		if !slices.Equal(lines[i:i+len(old)], old) {
			continue
		}
		if at >= 0 {
			return "", fmt.Errorf("the lines of old stand there more than once, at lines %d and %d", at+1, i+1)
		}
		at = i
	}
	if at < 0 {
		return "", fmt.Errorf("the lines of old don't stand there%s", hint(lines, old))
	}
	return strings.Join(slices.Concat(lines[:at], new, lines[at+len(old):]), "\n"), nil
}

// hint says where lines comes nearest to old: at a place that differs in white space only, or where most of old's first
// lines stand.
func hint(lines, old []string) string {
	best, at := 0, 0
	for i := range lines {
		n := 0
		for n < len(old) && i+n < len(lines) && strings.Join(strings.Fields(lines[i+n]), " ") == strings.Join(strings.Fields(old[n]), " ") {
			n++
		}
		if n > best {
			best, at = n, i
		}
	}
	switch best {
	case 0:
		return ", not even the first"
	case len(old):
		return fmt.Sprintf(": those at line %d differ in white space", at+1)
	}
	return fmt.Sprintf(": line %d of old is not line %d of the file", best+1, at+best+1)
}
