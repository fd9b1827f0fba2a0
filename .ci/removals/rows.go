package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

// attack is the form of a row's name in the lists of attacks and faults: T1, F2, O13.
var attack = regexp.MustCompile(`^[A-Z]+[0-9]+$`)

// coverage prints each row of the tables in document that no entry stands for, one whose id is the row's name or begins
// with it and a dash. The rows are those of markdown tables whose first cell is a name like T1. Such a table has a
// column with the heading state: a row whose state begins with "covered" must have an entry, and coverage reports
// whether that is so. Any other state, such as "later", may go without. Where the table has a column with the heading
// test, a row with entries must have one with tests in each of the packages that the column names, the first words
// between commas.
func coverage(out io.Writer, document string, entries []entry) (bool, error) {
	text, err := os.ReadFile(document)
	if err != nil {
		return false, fmt.Errorf("reading the list of attacks: %w", err)
	}
	removed := make(map[string]map[string]bool) // the packages of each row's tests
	for _, e := range entries {
		row, _, _ := strings.Cut(e.id, "-")
		if removed[row] == nil {
			removed[row] = make(map[string]bool)
		}
		removed[row][e.pkg] = true
	}
	whole, rows, lacking := true, 0, 0
	column, tests, before := -1, -1, []string(nil)
	for i, line := range strings.Split(string(text), "\n") {
		cells := splitRow(line)
		switch {
		case cells == nil:
			column = -1
		case strings.Trim(strings.Join(cells, ""), "-: ") == "":
			column, tests = slices.Index(before, "state"), slices.Index(before, "test")
		case attack.MatchString(cells[0]):
			if column < 0 || column >= len(cells) {
				return false, fmt.Errorf("%s:%d: the row %s has no cell in a column with the heading state", document, i+1, cells[0])
			}
			rows++
			if pkgs := removed[cells[0]]; pkgs != nil {
				if tests < 0 || tests >= len(cells) {
					break
				}
				for named := range strings.SplitSeq(cells[tests], ",") {
					if words := strings.Fields(named); len(words) > 0 && !pkgs["./"+words[0]] {
						whole = false
						fmt.Fprintf(out, "%s:%d: %s is tested in %s, they say, and has no entry with a test there\n", document, i+1, cells[0], words[0])
					}
				}
				break
			}
			lacking++
			state := strings.ToLower(cells[column])
			if strings.HasPrefix(state, "covered") {
				whole = false
				fmt.Fprintf(out, "%s:%d: %s is covered, they say, and has no entry\n", document, i+1, cells[0])
			} else {
				fmt.Fprintf(out, "%s:%d: %s has no entry (%s)\n", document, i+1, cells[0], cells[column])
			}
		}
		before = cells
	}
	if rows == 0 {
		return false, fmt.Errorf("%s: no table with rows that begin as in | T1 |", document)
	}
	fmt.Fprintf(out, "removals: %d of %d rows have an entry\n", rows-lacking, rows)
	return whole, nil
}

// splitRow returns the cells of a markdown table row, nil if line isn't one. A \| belongs to its cell.
func splitRow(line string) []string {
	line = strings.TrimSpace(line)
	if len(line) < 2 || line[0] != '|' || line[len(line)-1] != '|' {
		return nil
	}
	cells := strings.Split(strings.ReplaceAll(line[1:len(line)-1], `\|`, "\x00"), "|")
	for i, cell := range cells {
		cells[i] = strings.TrimSpace(strings.ReplaceAll(cell, "\x00", `\|`))
	}
	return cells
}
