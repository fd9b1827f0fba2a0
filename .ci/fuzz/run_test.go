package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fakeGo makes a go command of shell lines; $target is the fuzz target's name. Interrupted, it ends as the real one
// does, whose test passes and whose status is 1, unless the lines have an end of their own.
func fakeGo(t *testing.T, body string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "go")
	script := `#!/bin/bash
end() { echo PASS; exit 1; }
trap end INT
for arg; do case $arg in -fuzz=*) target=${arg#-fuzz=^}; target=${target%$};; esac; done
` + body
	if err := os.WriteFile(name, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

// listen waits for an interrupt.
const listen = "sleep 600 >/dev/null 2>&1 & wait\n"

func echo(lines ...string) string { return "cat <<'END'\n" + strings.Join(lines, "\n") + "\nEND\n" }

// soon is a context for runs that have to end by themselves.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

var (
	one = target{"m/a", "./a", "FuzzOne"}
	two = target{"m/b", "./b", "FuzzTwo"}
)

func newRunner(t *testing.T, script string, out *bytes.Buffer) runner {
	return runner{root: t.TempDir(), goTool: fakeGo(t, script), workers: 2, quiet: 9 * time.Second, still: time.Hour, every: 6 * time.Second, out: out}
}

func TestRunQuiet(t *testing.T) {
	var out bytes.Buffer
	r := newRunner(t, echo(said(0, 1, 1, 1, 1)...)+listen, &out)
	r.workers = 1
	if err := r.run(soon(t), []target{one, two}); err != nil {
		t.Fatal(err)
	}
	want := `a.FuzzOne: 6s, 60 executions, 10 interesting, 1 of them new, quiet for 0s of 9s
a.FuzzOne: 12s, 120 executions, 10 interesting, 1 of them new, quiet for 6s of 9s
a.FuzzOne: quiet after 15s, 150 executions, 10 interesting, 1 of them new
b.FuzzTwo: 6s, 60 executions, 10 interesting, 1 of them new, quiet for 0s of 9s
b.FuzzTwo: 12s, 120 executions, 10 interesting, 1 of them new, quiet for 6s of 9s
b.FuzzTwo: quiet after 15s, 150 executions, 10 interesting, 1 of them new

target     executions  interesting  new  time  quiet for  ended
a.FuzzOne  150         10           1    15s   9s         quiet
b.FuzzTwo  150         10           1    15s   9s         quiet
`
	if out.String() != want {
		t.Errorf("got\n%s", out.String())
	}
}

func TestRunFailures(t *testing.T) {
	fuzzing := said(0, 0)
	tests := []struct{ name, script, detail, command string }{
		{"crash", echo(append(fuzzing, "--- FAIL: FuzzOne (0.02s)", "    Failing input written to testdata/fuzz/FuzzOne/0123abcd", "    To re-run:", "    go test -run=FuzzOne/0123abcd", "FAIL")...) + "exit 1",
			"fails with the input 0123abcd", "go test -run '^FuzzOne$/^0123abcd$' ./a"},
		{"seed", echo("fuzz: elapsed: 0s, gathering baseline coverage: 0/9 completed", "failure while testing seed corpus entry: FuzzOne/seed#1", "FAIL") + "exit 1",
			"fails with the input seed#1", "go test -run '^FuzzOne$/^seed#1$' ./a"},
		{"crash at the end", "end() { echo '    go test -run=FuzzOne/0123abcd'; echo FAIL; exit 1; }\n" + echo(said(0, 0, 0, 0, 0)...) + listen,
			"fails with the input 0123abcd", "go test -run '^FuzzOne$/^0123abcd$' ./a"},
		{"build", echo("# m/a", "FAIL m/a [build failed]") + "exit 1", "fails: exit status 1", "-fuzz=^FuzzOne$"},
		{"by itself", echo(append(fuzzing, "PASS")...), "ended by itself", "-fuzz=^FuzzOne$"},
		{"without PASS", "end() { exit 1; }\n" + echo(said(0, 0, 0, 0, 0)...) + listen, "fails: exit status 1", "-fuzz=^FuzzOne$"},
		{"still", echo(said(0)...) + echo("fuzz: elapsed: 6s, execs: 30 (0/sec), new interesting: 0 (total: 9)", "fuzz: elapsed: 9s, execs: 30 (0/sec), new interesting: 0 (total: 9)") + listen,
			"did nothing for 6s", "-fuzz=^FuzzOne$"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			r := newRunner(t, test.script, &out)
			r.still = 6 * time.Second
			err := r.run(soon(t), []target{one})
			var f *failure
			if !errors.As(err, &f) || f.target != one || f.detail != test.detail || !strings.Contains(f.command, test.command) {
				t.Fatalf("%v", err)
			}
			if lines := strings.Split(err.Error(), "\n"); !strings.Contains(lines[len(lines)-1], test.command) {
				t.Errorf("the last line of %q isn't the command", err)
			}
			if !strings.Contains(out.String(), "FAILED: "+test.detail) {
				t.Errorf("got\n%s", out.String())
			}
		})
	}
	t.Run("unknown", func(t *testing.T) {
		var out bytes.Buffer
		r := newRunner(t, echo("fuzz: elapsed: 3s, having fun")+listen, &out)
		if err := r.run(soon(t), []target{one}); err == nil || !strings.Contains(err.Error(), `"fuzz: elapsed: 3s, having fun"`) {
			t.Fatal(err)
		}
	})
}

// The first failure ends what runs beside it, and begins nothing new.
func TestRunStopsOthers(t *testing.T) {
	var out bytes.Buffer
	r := newRunner(t, `if [ $target = FuzzOne ]; then while [ ! -e "$TMPDIR/two" ]; do sleep 0.1; done
echo '    go test -run=FuzzOne/0123abcd'; exit 1; fi; touch "$TMPDIR/$target"; touch "$TMPDIR/two"
`+listen, &out)
	three := target{"m/c", "./c", "FuzzThree"}
	err := r.run(soon(t), []target{one, two, three})
	var f *failure
	if !errors.As(err, &f) || f.target != one {
		t.Fatal(err)
	}
	if got := out.String(); !regexp.MustCompile(`b\.FuzzTwo +0 .* stopped for the failure of another\n`).MatchString(got) || strings.Contains(got, "FuzzThree") {
		t.Errorf("got\n%s", got)
	}
}

// An interrupt ends every process of every group, also those that don't heed it.
func TestRunInterrupted(t *testing.T) {
	var out bytes.Buffer
	groups := t.TempDir()
	r := newRunner(t, `bash -c 'trap "" INT; sleep 600; sleep 600' >/dev/null 2>&1 &
echo $$ > `+groups+`/$target.new; mv `+groups+`/$target.new `+groups+`/$target
wait`, &out)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.run(ctx, []target{one, two}) }()
	var leaders []int
	for _, name := range []string{"FuzzOne", "FuzzTwo"} {
		pid := 0
		for pid == 0 {
			if text, err := os.ReadFile(filepath.Join(groups, name)); err == nil {
				for _, c := range strings.TrimSpace(string(text)) {
					pid = pid*10 + int(c-'0')
				}
			}
			select {
			case err := <-done:
				t.Fatalf("ended: %v", err)
			case <-time.After(10 * time.Millisecond):
			}
		}
		leaders = append(leaders, pid)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for _, pid := range leaders {
		// What was killed without its parent is waited for by process 1, some time.
		for end := time.Now().Add(10 * time.Second); syscall.Kill(-pid, 0) != syscall.ESRCH; {
			if time.Now().After(end) {
				t.Fatalf("group %d is still there", pid)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}
