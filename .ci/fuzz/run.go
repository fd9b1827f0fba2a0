package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// runner runs fuzz targets of the module at root, the working directory if that is empty.
type runner struct {
	root    string
	goTool  string        // the go command
	workers int           // targets at a time
	quiet   time.Duration // without new coverage, after which a target is left
	limit   time.Duration // for one target, 0 for none
	still   time.Duration // without any progress, after which a target hangs
	every   time.Duration // between two lines on one target
	memory  int           // address space of one process in MiB, 0 for no limit
	out     io.Writer
}

// outcome is what became of one target.
type outcome struct {
	watch  watch
	ending ending
	err    error // a *failure, a context's or what kept it from running
}

// failure is a target that failed.
type failure struct {
	target  target
	detail  string   // what happened, in a line
	output  []string // the last lines of go test
	command string   // that shows it again
}

func (f *failure) Error() string {
	return fmt.Sprintf("%s %s\n%s\nto see it again:\n\t%s", f.target, f.detail, strings.Join(f.output, "\n"), f.command)
}

// errOther stops a target because another one failed.
var errOther = errors.New("stopped for the failure of another")

// run fuzzes all targets and prints a line on each every r.every, and a table at the end. The first failure stops all
// and is returned.
func (r runner) run(ctx context.Context, targets []target) error {
	// What go test leaves behind when it is cut short is removed with it.
	scratch, err := os.MkdirTemp("", "fuzz-")
	if err != nil {
		return fmt.Errorf("making room for go test: %w", err)
	}
	defer os.RemoveAll(scratch)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	out := &lines{w: r.out}
	outcomes := make([]outcome, len(targets))
	next := make(chan int)
	var running sync.WaitGroup
	for range r.workers {
		running.Go(func() {
			for i := range next {
				outcomes[i] = r.fuzz(ctx, scratch, targets[i], out)
				if err := outcomes[i].err; err != nil && ctx.Err() == nil {
					out.print("%s: failed, stopping the others", targets[i])
					stop(errOther)
				}
			}
		})
	}
feed:
	for i := range targets {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	running.Wait()
	table(r.out, targets, outcomes)
	var stopped error
	for _, o := range outcomes {
		switch {
		case errors.Is(o.err, errOther) || errors.Is(o.err, context.Canceled):
			stopped = o.err
		case o.err != nil:
			return o.err
		}
	}
	if stopped == nil && ctx.Err() != nil {
		stopped = context.Cause(ctx)
	}
	return stopped
}

// table prints what became of the targets that were begun.
func table(out io.Writer, targets []target, outcomes []outcome) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\ntarget\texecutions\tinteresting\tnew\ttime\tquiet for\tended")
	for i, o := range outcomes {
		ended := string(o.ending)
		var failed *failure
		switch {
		case o.err == nil && o.ending == goesOn:
			continue // never begun
		case errors.As(o.err, &failed):
			ended = "FAILED: " + failed.detail
		case o.err != nil:
			ended = o.err.Error()
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\t%s\n", targets[i], o.watch.last.execs, o.watch.last.total, o.watch.last.interesting,
			o.watch.ran.Round(time.Second), o.watch.silent.Round(time.Second), ended)
	}
	w.Flush()
}

// lines prints whole lines for several targets.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) print(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, format+"\n", args...)
}
