package main

import (
	"fmt"
	"testing"
	"time"
)

func TestParseProgress(t *testing.T) {
	tests := []struct {
		line string
		want progress
		ok   bool
		bad  bool
	}{
		{line: "fuzz: elapsed: 0s, gathering baseline coverage: 0/52 completed", want: progress{state: "gathering baseline coverage: 0/52 completed"}, ok: true},
		{line: "fuzz: elapsed: 1s, gathering baseline coverage: 52/52 completed, now fuzzing with 1 workers",
			want: progress{elapsed: time.Second, state: "gathering baseline coverage: 52/52 completed, now fuzzing with 1 workers"}, ok: true},
		{line: "fuzz: elapsed: 1h2m3s, execs: 325017 (108336/sec), new interesting: 11 (total: 202)",
			want: progress{elapsed: time.Hour + 2*time.Minute + 3*time.Second, fuzzing: true, execs: 325017, interesting: 11, total: 202}, ok: true},
		{line: "fuzz: elapsed: 3s, minimizing", want: progress{elapsed: 3 * time.Second, state: "minimizing"}, ok: true},
		{line: "fuzz: minimizing 33-byte failing input file"},
		{line: "    fuzz: elapsed: 3s, minimizing"},
		{line: "PASS"},
		{line: ""},
		{line: "fuzz: elapsed: soon, minimizing", bad: true},
		{line: "fuzz: elapsed: 3m3, minimizing", bad: true},
		{line: "fuzz: elapsed: 3s, execs: 1 (1/sec)", bad: true},
		{line: "fuzz: elapsed: 3s, execs: 1 (1/sec), new interesting: 99999999999999999999 (total: 1)", bad: true},
		{line: "fuzz: elapsed: 3s, testing seed corpus: 1/2 completed", bad: true}, // not built for fuzzing
		{line: "fuzz: elapsed: ", bad: true},
	}
	for _, test := range tests {
		p, ok, err := parseProgress(test.line)
		if p != test.want || ok != test.ok || (err != nil) != test.bad {
			t.Errorf("%q: %+v, %v, %v", test.line, p, ok, err)
		}
	}
}

// said makes the lines of a target out of counts, one every three seconds.
func said(interesting ...int) []string {
	lines := []string{"fuzz: elapsed: 0s, gathering baseline coverage: 0/9 completed"}
	for i, n := range interesting {
		elapsed := time.Duration(i+1) * 3 * time.Second
		lines = append(lines, fmt.Sprintf("fuzz: elapsed: %v, execs: %d (10/sec), new interesting: %d (total: %d)", elapsed, 30*(i+1), n, 9+n))
	}
	return lines
}

func TestWatch(t *testing.T) {
	const baseline = "fuzz: elapsed: %v, gathering baseline coverage: %d/900 completed"
	execs := func(elapsed string, n int) string {
		return fmt.Sprintf("fuzz: elapsed: %s, execs: %d (1/sec), new interesting: 0 (total: 1)", elapsed, n)
	}
	tests := []struct {
		name  string
		watch watch
		lines []string
		want  ending
		after int // lines
	}{
		{"quiet from the start", watch{quiet: 9 * time.Second}, said(0, 0, 0, 0, 0), quiet, 5},
		{"quiet later", watch{quiet: 9 * time.Second}, said(0, 0, 1, 1, 2, 2, 2, 2), quiet, 9},
		{"never quiet", watch{quiet: 9 * time.Second}, said(0, 0, 1, 1, 2, 2, 2, 3, 3, 3), goesOn, 0},
		{"limit before quiet", watch{quiet: 9 * time.Second, limit: 6 * time.Second}, said(0, 0, 0, 0, 0), timeIsUp, 3},
		{"limit though it brings much", watch{quiet: 9 * time.Second, limit: 12 * time.Second}, said(1, 2, 3, 4, 5, 6), timeIsUp, 5},
		{"time slept through", watch{quiet: time.Minute, limit: 2 * time.Minute},
			[]string{execs("0s", 1), execs("3s", 2), execs("9h0m0s", 3), execs("9h0m3s", 4)}, goesOn, 0},
		{"the inputs it has are no quiet time", watch{quiet: 5 * time.Second},
			[]string{fmt.Sprintf(baseline, 0*time.Second, 0), fmt.Sprintf(baseline, 3*time.Second, 100), fmt.Sprintf(baseline, 6*time.Second, 500), fmt.Sprintf(baseline, 9*time.Second, 900) + ", now fuzzing with 1 workers",
				execs("9s", 900), execs("12s", 901), execs("15s", 902)}, quiet, 7},
		{"stands still", watch{quiet: time.Hour, still: 6 * time.Second}, []string{execs("3s", 1), execs("6s", 1), execs("9s", 1)}, standsStill, 3},
		{"stands still with its own inputs", watch{quiet: time.Hour, still: 6 * time.Second},
			[]string{fmt.Sprintf(baseline, 3*time.Second, 1), fmt.Sprintf(baseline, 6*time.Second, 1), fmt.Sprintf(baseline, 9*time.Second, 1)}, standsStill, 3},
		{"stands still rather than being quiet", watch{quiet: 6 * time.Second, still: 6 * time.Second}, []string{execs("3s", 1), execs("6s", 1), execs("9s", 1)}, standsStill, 3},
		{"slow", watch{quiet: time.Hour, still: 7 * time.Second}, []string{execs("3s", 1), execs("6s", 1), execs("9s", 2), execs("12s", 2), execs("15s", 3)}, goesOn, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := test.watch
			if w.still == 0 {
				w.still = time.Hour
			}
			for i, line := range test.lines {
				p, ok, err := parseProgress(line)
				if !ok || err != nil {
					t.Fatalf("%q: %v, %v", line, ok, err)
				}
				if got := w.see(p); got != goesOn {
					if got != test.want || i+1 != test.after {
						t.Fatalf("%q after line %d, want %q after %d", got, i+1, test.want, test.after)
					}
					return
				}
			}
			if test.want != goesOn {
				t.Fatalf("goes on after all lines: %+v", w)
			}
		})
	}
}
