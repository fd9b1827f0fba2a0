package bundle

import (
	"iter"
	"strings"
)

// A Change is an entry that two payloads don't have alike. The entries are those of the lists that were compared.
type Change struct {
	Old, New *Entry // nil: not there
}

// Path is where it is.
func (c Change) Path() string {
	if c.New != nil {
		return c.New.Path
	}
	return c.Old.Path
}

// What says what differs in an entry that both have: "kind" alone, or of "content", "size", "target", "mode" and
// "mtime" those that do, in this order. It is empty for an entry that was added or removed.
func (c Change) What() []string {
	if c.Old == nil || c.New == nil {
		return nil
	}
	if c.Old.Type != c.New.Type {
		return []string{"kind"}
	}
	var what []string
	for _, m := range []struct {
		name    string
		differs bool
	}{
		{"content", c.Old.SHA256 != c.New.SHA256},
		{"size", c.Old.Size != c.New.Size},
		{"target", c.Old.Target != c.New.Target},
		{"mode", c.Old.Mode != c.New.Mode},
		{"mtime", c.Old.MTime != c.New.MTime},
	} {
		if m.differs {
			what = append(what, m.name)
		}
	}
	return what
}

// Diff goes through two lists of entries, both in a manifest's order and with digests, and yields in that order
// what was added, removed or changed from before to after. It keeps nothing.
func Diff(before, after []Entry) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		for len(before) > 0 || len(after) > 0 {
			var c Change
			order := 0
			switch {
			case len(before) == 0:
				order = 1
			case len(after) == 0:
				order = -1
			default:
				order = manifestOrder(before[0].Path, after[0].Path)
			}
			if order <= 0 {
				c.Old, before = &before[0], before[1:]
			}
			if order >= 0 {
				c.New, after = &after[0], after[1:]
			}
			if (order != 0 || *c.Old != *c.New) && !yield(c) {
				return
			}
		}
	}
}

// manifestOrder compares two paths: the root, then by bytes.
func manifestOrder(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == ".":
		return -1
	case b == ".":
		return 1
	}
	return strings.Compare(a, b)
}
