package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// heading is the head of the table in the document, by which it is found.
var heading = []string{"package", "owns", "may import"}

// readDocument reads the table of packages from the markdown file document under root. In its last column a package
// may go by the last elements of its path where only one row ends so; "–" stands for none and "all" for every row.
func readDocument(root, document string) (layers, error) {
	text, err := os.ReadFile(filepath.Join(root, document))
	if err != nil {
		return nil, fmt.Errorf("reading the table of packages: %w", err)
	}
	imports := make(map[string]string) // the last cell of each row
	lines := make(map[string]int)
	in := false
	for i, line := range strings.Split(string(text), "\n") {
		cells := splitRow(line)
		switch {
		case slices.Equal(cells, heading):
			if len(lines) > 0 {
				return nil, fmt.Errorf("%s:%d: a second table of packages", document, i+1)
			}
			in = true
		case !in || strings.Trim(line, "|-: ") == "" && cells != nil:
		case cells == nil:
			in = false
		case len(cells) != len(heading):
			return nil, fmt.Errorf("%s:%d: a row of %d cells, want %d", document, i+1, len(cells), len(heading))
		case lines[cells[0]] != 0:
			return nil, fmt.Errorf("%s:%d: a second row for %s", document, i+1, cells[0])
		default:
			imports[cells[0]], lines[cells[0]] = cells[2], i+1
		}
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("%s: no table | %s |", document, strings.Join(heading, " | "))
	}
	drawn := make(layers)
	for _, name := range slices.Sorted(maps.Keys(imports)) {
		drawn[name] = []string{}
		if imports[name] == "–" {
			continue
		}
		for short := range strings.SplitSeq(imports[name], ",") {
			full, err := resolve(strings.TrimSpace(short), lines)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", document, lines[name], err)
			}
			drawn[name] = append(drawn[name], full)
		}
	}
	return drawn, nil
}

// splitRow returns the cells of a markdown table row without the code marks around them, nil if line isn't one.
func splitRow(line string) []string {
	line = strings.TrimSpace(line)
	if len(line) < 2 || line[0] != '|' || line[len(line)-1] != '|' {
		return nil
	}
	cells := strings.Split(line[1:len(line)-1], "|")
	for i, cell := range cells {
		cells[i] = strings.Trim(strings.TrimSpace(cell), "`")
	}
	return cells
}

// resolve finds the one row that short names.
func resolve[V any](short string, rows map[string]V) (string, error) {
	if _, ok := rows[short]; ok || short == all {
		return short, nil
	}
	var found []string
	for name := range rows {
		if strings.HasSuffix(name, "/"+short) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	switch len(found) {
	case 0:
		return "", fmt.Errorf("no row for the package %q", short)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%q may be any of %s", short, strings.Join(found, ", "))
}
