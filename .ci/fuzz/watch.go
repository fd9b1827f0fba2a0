package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// progress is one of the lines that go test -fuzz prints every three seconds.
type progress struct {
	elapsed     time.Duration
	fuzzing     bool  // no longer running the inputs it has
	execs       int64 // runs of the target, with those inputs
	interesting int   // inputs that brought new coverage, since the start
	total       int   // and with those it began with
	state       string
}

var (
	progressLine = regexp.MustCompile(`^fuzz: elapsed: ([0-9hms.]+), (.*)$`)
	execsState   = regexp.MustCompile(`^execs: (\d+) \(\d+/sec\), new interesting: (\d+) \(total: (\d+)\)$`)
	otherState   = regexp.MustCompile(`^(?:gathering baseline coverage: \d+/\d+ completed(, now fuzzing with \d+ workers)?|minimizing)$`)
)

// parseProgress reads a line of go test -fuzz. ok is false for lines that tell no progress. A line that does and isn't
// understood is an error: without it nobody would see that a target is quiet.
func parseProgress(line string) (p progress, ok bool, err error) {
	if !strings.HasPrefix(line, "fuzz: elapsed: ") {
		return progress{}, false, nil
	}
	unknown := fmt.Errorf("go test says %q, which this program doesn't understand", line)
	m := progressLine.FindStringSubmatch(line)
	if m == nil {
		return progress{}, false, unknown
	}
	if p.elapsed, err = time.ParseDuration(m[1]); err != nil {
		return progress{}, false, unknown
	}
	if e := execsState.FindStringSubmatch(m[2]); e != nil {
		var errs [3]error
		p.fuzzing = true
		p.execs, errs[0] = strconv.ParseInt(e[1], 10, 64)
		p.interesting, errs[1] = strconv.Atoi(e[2])
		p.total, errs[2] = strconv.Atoi(e[3])
		if errs != [3]error{} {
			return progress{}, false, unknown
		}
		return p, true, nil
	}
	if !otherState.MatchString(m[2]) {
		return progress{}, false, unknown
	}
	p.state = m[2]
	return p, true, nil
}

// ending is why a target is to be left.
type ending string

const (
	goesOn      ending = ""
	quiet       ending = "quiet"
	timeIsUp    ending = "time is up"
	standsStill ending = "stands still"
)

// watch tells from its progress when a target is to be left.
type watch struct {
	quiet, limit, still time.Duration // as in runner

	last   progress
	begun  bool          // fuzzing, at some time
	ran    time.Duration // time counted
	silent time.Duration // since the last new input
	stood  time.Duration // since it last did anything
}

// longest is the most that one line, due every three seconds, counts for. What goes beyond was slept through.
const longest = 10 * time.Second

func (w *watch) see(p progress) ending {
	if !p.fuzzing {
		// The counts of a line that has none stay as they were.
		p.execs, p.interesting, p.total = w.last.execs, w.last.interesting, w.last.total
	}
	passed := min(max(p.elapsed-w.last.elapsed, 0), longest)
	w.ran += passed
	w.silent += passed
	if !w.begun || p.interesting != w.last.interesting {
		w.silent = 0
	}
	w.stood += passed
	if p.execs != w.last.execs || p.state != w.last.state {
		w.stood = 0
	}
	w.begun = w.begun || p.fuzzing
	w.last = p
	switch {
	case w.stood >= w.still:
		return standsStill
	case w.limit > 0 && w.ran >= w.limit:
		return timeIsUp
	case w.begun && w.silent >= w.quiet:
		return quiet
	}
	return goesOn
}
