package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// state is what became of one run of one test. It reads as the predicate to the test's name.
type state string

const (
	passed   state = "passes"
	failed   state = "fails"
	panicked state = "ends its program"
	timedOut state = "runs into the time limit"
	skipped  state = "is skipped"
	absent   state = "doesn't exist"
	unbuilt  state = "doesn't build"
	broken   state = "could not be run"
)

// outcome is a state and what go test said.
type outcome struct {
	state  state
	output string
}

// quoted is how many lines of output go into a message.
const quoted = 20

// quote returns the last lines of what go test said, indented.
func quote(output string) string {
	if output == "" {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(output), "\n")
	lines = lines[max(0, len(lines)-quoted):]
	return "\t" + strings.Join(lines, "\n\t") + "\n"
}

// grace is how much longer than its tests go test itself may take, for the build.
const grace = 10 * time.Minute

// goTest runs one test alone, with an overlay if the name of one is given. What the build and the test leave behind when
// they are cut short is removed with a folder of their own below dir.
func (r runner) goTest(ctx context.Context, dir string, n named, overlay string) outcome {
	ctx, cancel := context.WithTimeout(ctx, r.timeout+grace)
	defer cancel()
	scratch, err := os.MkdirTemp(dir, "")
	if err != nil {
		return outcome{broken, err.Error()}
	}
	defer os.RemoveAll(scratch)
	// Vet would take an assignment left without its check for a failed build.
	args := []string{"test", "-json", "-vet=off", "-count=1", "-timeout=" + r.timeout.String(), "-run=" + pattern(n.test)}
	if r.memory > 0 {
		args = append(args, fmt.Sprintf("-exec=prlimit --as=%d", int64(r.memory)<<20))
	}
	if overlay != "" {
		args = append(args, "-overlay="+overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, n.pkg)...)
	cmd.Dir = r.root
	// Tests that build sallyport for a guest take the overlay from there.
	cmd.Env = append(os.Environ(), "TMPDIR="+scratch, "SALLYPORT_OVERLAY="+overlay)
	// The go command leads a process group, so that its end is that of the test program and what this started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if ctx.Err() != nil {
		return outcome{broken, fmt.Sprintf("%v: %v", ctx.Err(), err)}
	}
	o := read(stdout.Bytes(), n.test)
	if o.state == broken || o.state == unbuilt {
		o.output += stderr.String()
	}
	if (err == nil) == (o.state == failed || o.state == panicked || o.state == timedOut || o.state == unbuilt) {
		return outcome{broken, fmt.Sprintf("go test: %v, yet the test %s\n%s%s", err, o.state, o.output, stderr.String())}
	}
	return o
}

// pattern is the argument of -run that fits one test or subtest and no other.
func pattern(test string) string {
	var parts []string
	for part := range strings.SplitSeq(test, "/") {
		parts = append(parts, "^"+regexp.QuoteMeta(part)+"$")
	}
	return strings.Join(parts, "/")
}

// read finds what became of test in the output of go test -json (see go doc test2json and go help buildjson).
func read(output []byte, test string) outcome {
	var said strings.Builder
	o := outcome{state: absent}
	var timeout, build, end bool
	lines := bufio.NewScanner(bytes.NewReader(output))
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var event struct{ Action, Test, Output, FailedBuild string }
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return outcome{broken, fmt.Sprintf("%v: %s", err, output)}
		}
		said.WriteString(event.Output)
		timeout = timeout || strings.HasPrefix(event.Output, "panic: test timed out after ") ||
			strings.HasPrefix(event.Output, "*** Test killed with quit: ran too long")
		build = build || event.FailedBuild != "" || event.Action == "build-fail"
		switch {
		case event.Test == "" && event.Action == "fail":
			end = true
		case event.Test != test:
		case event.Action == "run":
			o.state = panicked // unless an end of it follows
		case event.Action == "pass":
			o.state = passed
		case event.Action == "skip":
			o.state = skipped
		case event.Action == "fail":
			o.state = failed
		}
	}
	o.output = said.String()
	switch {
	case lines.Err() != nil:
		return outcome{broken, lines.Err().Error()}
	case build:
		o.state = unbuilt
	case o.state == absent && end:
		o.state = broken
	case timeout && (o.state == failed || o.state == panicked):
		o.state = timedOut
	case o.state == failed && strings.Contains(o.output, "\npanic: "):
		o.state = panicked
	}
	return o
}

// writeOverlay writes the changed source of m below dir and an overlay file for go test that puts it in the place of
// the one below root. It returns the overlay's name.
func writeOverlay(dir, root string, m mutation) (string, error) {
	original, err := filepath.Abs(filepath.Join(root, m.file))
	if err != nil {
		return "", fmt.Errorf("finding the place of %s: %w", m.file, err)
	}
	changed := filepath.Join(dir, m.id+"-"+filepath.Base(m.file))
	text, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
	if err != nil {
		return "", fmt.Errorf("writing the overlay for %s: %w", m.file, err)
	}
	overlay := filepath.Join(dir, m.id+".json")
	if err := os.WriteFile(changed, []byte(m.source), 0o600); err != nil {
		return "", fmt.Errorf("writing %s without its check: %w", m.file, err)
	}
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		return "", fmt.Errorf("writing the overlay for %s: %w", m.file, err)
	}
	return overlay, nil
}
