// Removals takes out the checks of the table of removals, one at a time, and expects the tests named for them to fail:
// a check that can go without a test turning red isn't tested.
//
// Usage, from the top of the module:
//
//	go run ./.ci/removals [-only ID,ID] [-area NAME] [-j N] [-timeout DURATION] [-memory MIB]
//	go run ./.ci/removals -check
//	go run ./.ci/removals -rows
//
// # The table
//
// It is every file .ci/removals/*.txt, one for each area of the code. An entry looks like this, and a line --- stands
// between two:
//
//	id: T2-distinct-holders
//	file: bundle/trust/threshold.go
//	test: ./bundle/trust TestThresholds
//	old:
//	|	if seen[holder] {
//	|		continue
//	|	}
//	new:
//	|	_ = seen
//
// id is unique in all files. An entry for a row of docs/threat-model.md begins with that row's name and a dash. file
// is the source with the check, never a test. test is a package and one or more of its tests, subtests as
// TestThresholds/two_keys, and each of them must fail. The lines of old, without their first |, must stand in file
// once, in a row and whole; those of new, which may be none, take their place. What is left must compile. Outside of
// old and new, blank lines and lines that begin with # count for nothing. No file of the module is touched: the
// changed copy reaches go test as an overlay, which is why file must be something that is compiled or embedded.
//
// # What counts
//
// First all tests named run without any change, and must pass. Then, for each entry, they must fail with it: by a
// failed assertion, a panic, or the time limit. A build that fails, and a test that is skipped or doesn't exist, is a
// mistake in the entry. -memory limits the address space of the test program, since what is taken out may be the limit
// on an allocation.
//
// -check stops after reading the table and finding each old, and runs nothing. -rows prints the rows of the tables in
// docs/threat-model.md that no entry stands for; see coverage.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	folder      = ".ci/removals"
	threatModel = "docs/threat-model.md"
)

func main() {
	only := flag.String("only", "", "the entries `ID,ID` alone")
	area := flag.String("area", "", "the entries of `NAME`.txt alone")
	checkOnly := flag.Bool("check", false, "read the table and find the lines to take out, run nothing")
	rows := flag.Bool("rows", false, "list the rows of "+threatModel+" that have no entry")
	var r runner
	flag.IntVar(&r.workers, "j", 2, "run `N` entries at a time")
	flag.DurationVar(&r.timeout, "timeout", 3*time.Minute, "the time limit of one run of the tests")
	flag.IntVar(&r.memory, "memory", 8192, "the address space of a test program in `MIB`, 0 for no limit")
	flag.Parse()
	if flag.NArg() > 0 || r.workers < 1 || r.memory < 0 || r.timeout <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ok, err := do(ctx, os.Stdout, r, selection{*only, *area}, *checkOnly, *rows)
	if err != nil {
		fmt.Fprintf(os.Stderr, "removals: %v\n", err)
	}
	if err != nil || !ok {
		stop()
		os.Exit(1)
	}
}

// do reads the table in the module at r.root and carries out what the flags ask. It reports whether all is as it must be.
func do(ctx context.Context, out io.Writer, r runner, s selection, checkOnly, rows bool) (bool, error) {
	entries, err := readTable(filepath.Join(r.root, folder))
	if err != nil {
		return false, err
	}
	if rows {
		return coverage(out, filepath.Join(r.root, threatModel), entries)
	}
	entries, err = s.from(entries)
	if err != nil {
		return false, err
	}
	mutations, err := mutate(r.root, entries)
	if err != nil {
		return false, err
	}
	if checkOnly {
		fmt.Fprintf(out, "removals: %d entries read, the lines of each found once\n", len(entries))
		return true, nil
	}
	return r.run(ctx, out, mutations)
}

// selection is which entries are wanted: all, or those with an id in only and from the file area.
type selection struct {
	only, area string
}

// from picks the entries wanted. It is an error when a name picks nothing.
func (s selection) from(entries []entry) ([]entry, error) {
	areaOf := func(name string) string { return strings.TrimSuffix(filepath.Base(name), ".txt") }
	if s.area != "" {
		entries = slices.DeleteFunc(entries, func(e entry) bool { return areaOf(e.table) != areaOf(s.area) })
		if len(entries) == 0 {
			return nil, fmt.Errorf("no entry in %s/%s.txt", folder, areaOf(s.area))
		}
	}
	if s.only == "" {
		return entries, nil
	}
	var picked []entry
	for id := range strings.SplitSeq(s.only, ",") {
		i := slices.IndexFunc(entries, func(e entry) bool { return e.id == strings.TrimSpace(id) })
		if i < 0 {
			return nil, fmt.Errorf("no entry %q in %s", id, folder)
		}
		picked = append(picked, entries[i])
	}
	return picked, nil
}
