package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"time"
)

// runner runs tests in the module at root, the working directory if that is empty.
type runner struct {
	root    string
	workers int           // runs at a time
	timeout time.Duration // of one test program
	memory  int           // address space of one test program in MiB, 0 for no limit
}

// result is what became of one entry.
type result struct {
	verdict verdict
	detail  string
	output  string // of go test, where it helps
	took    time.Duration
}

// verdict is the first word of an entry's line.
type verdict string

const (
	red    verdict = "ok"    // the tests fail without the check
	green  verdict = "GREEN" // a test passes without it
	faulty verdict = "ERROR" // nothing was shown
)

// run carries out all mutations and prints a line for each in their order, then the sum. It reports whether every named
// test passed without its change and failed with it.
func (r runner) run(ctx context.Context, out io.Writer, mutations []mutation) (bool, error) {
	dir, err := os.MkdirTemp("", "removals-")
	if err != nil {
		return false, fmt.Errorf("making room for the changed sources and the tests: %w", err)
	}
	defer os.RemoveAll(dir)

	whole := r.baselines(ctx, dir, mutations)
	results := each(r.workers, mutations, func(m mutation) result {
		start := time.Now()
		res := r.judge(ctx, dir, m, whole)
		res.took = time.Since(start)
		return res
	})
	width := 0
	for _, m := range mutations {
		width = max(width, len(m.id))
	}
	count := make(map[verdict]int)
	stopped := ""
	for i, m := range mutations {
		res := <-results[i]
		if ctx.Err() != nil {
			// The runs under way still end, and use dir until then.
			stopped = cmp.Or(stopped, m.id)
			continue
		}
		count[res.verdict]++
		fmt.Fprintf(out, "%-5s  %-*s  %s (%.1fs)\n%s", res.verdict, width, m.id, res.detail, res.took.Seconds(), quote(res.output))
	}
	if stopped != "" {
		return false, fmt.Errorf("stopped before %s was done", stopped)
	}
	fmt.Fprintf(out, "removals: %d entries, %d red as they must be, %d green, %d in error\n",
		len(mutations), count[red], count[green], count[faulty])
	return count[red] == len(mutations), nil
}

// named is one test of one package.
type named struct{ pkg, test string }

// baselines runs every test that a mutation names, once and without a change, and returns what became of each.
func (r runner) baselines(ctx context.Context, dir string, mutations []mutation) map[named]outcome {
	var tests []named
	whole := make(map[named]outcome)
	for _, m := range mutations {
		for _, test := range m.tests {
			n := named{m.pkg, test}
			if _, listed := whole[n]; !listed {
				whole[n] = outcome{}
				tests = append(tests, n)
			}
		}
	}
	outcomes := each(r.workers, tests, func(n named) outcome { return r.goTest(ctx, dir, n, "") })
	for i, n := range tests {
		whole[n] = <-outcomes[i]
	}
	return whole
}

// judge runs the tests of m with its check taken out and says whether each fails, as it must.
func (r runner) judge(ctx context.Context, dir string, m mutation, whole map[named]outcome) result {
	overlay, err := writeOverlay(dir, r.root, m)
	if err != nil {
		return result{verdict: faulty, detail: err.Error()}
	}
	detail := "red as it must be"
	for _, test := range m.tests {
		n := named{m.pkg, test}
		if before := whole[n]; before.state != passed {
			return result{verdict: faulty, detail: fmt.Sprintf("%s must pass as long as nothing is changed, but %s", test, before.state), output: before.output}
		}
		after := r.goTest(ctx, dir, n, overlay)
		switch after.state {
		case failed:
		case panicked, timedOut:
			detail += fmt.Sprintf(", %s %s", test, after.state)
		case passed:
			return result{verdict: green, detail: fmt.Sprintf("%s passes without the check in %s, %s:%d", test, m.file, m.table, m.line)}
		default:
			return result{verdict: faulty, detail: fmt.Sprintf("%s %s with the change, %s:%d", test, after.state, m.table, m.line), output: after.output}
		}
	}
	return result{verdict: red, detail: detail}
}

// each calls f for every element, at most workers at a time, and gives a channel for each result.
func each[T, R any](workers int, elements []T, f func(T) R) []chan R {
	results := make([]chan R, len(elements))
	for i := range results {
		results[i] = make(chan R, 1)
	}
	next := make(chan int)
	for range workers {
		go func() {
			for i := range next {
				results[i] <- f(elements[i])
			}
		}()
	}
	go func() {
		for i := range elements {
			next <- i
		}
		close(next)
	}()
	return results
}
