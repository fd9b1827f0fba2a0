package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// kept is how many lines of output go into a failure.
const kept = 200

// grace is how long go test has to end after it was told to.
const grace = 20 * time.Second

// session is one run of go test -fuzz.
type session struct {
	runner
	target target
	out    *lines

	cmd     *exec.Cmd
	watch   watch
	ending  ending
	told    sync.Once
	killer  *time.Timer // for when it doesn't end as told
	passed  bool        // as go test says at its end
	seed    string      // the failing input, as subtest
	output  []string    // what isn't progress, the last lines of it
	unknown error       // of a line that can't be understood
}

var (
	failingInput = regexp.MustCompile(`^go test -run=(Fuzz\w+/\S+)$`)
	failingSeed  = regexp.MustCompile(`^failure while testing seed corpus entry: (Fuzz\w+/\S+)$`)
)

// fuzz runs one target until it is to be left, fails or ctx ends.
func (r runner) fuzz(ctx context.Context, scratch string, t target, out *lines) outcome {
	if ctx.Err() != nil {
		return outcome{err: context.Cause(ctx)}
	}
	s := &session{runner: r, target: t, out: out, watch: watch{quiet: r.quiet, limit: r.limit, still: r.still}}
	// One processor, since coverage that depends on which goroutine was faster looks new without end.
	program := "env GOMAXPROCS=1"
	if r.memory > 0 {
		program += fmt.Sprintf(" prlimit --as=%d", int64(r.memory)<<20)
	}
	// Without a bound, minimising one large input takes all of the time.
	args := []string{"test", "-vet=off", "-run=^$", "-fuzz=^" + t.name + "$", "-fuzzminimizetime=20x", "-parallel=1", "-exec=" + program}
	s.cmd = exec.Command(r.goTool, append(args, t.pkg)...)
	s.cmd.Dir = r.root
	s.cmd.Env = append(os.Environ(), "TMPDIR="+scratch)
	// The go command leads a process group, so that a signal reaches the test program and its workers at once, and one
	// from the terminal reaches none of them before this program.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err := s.run(ctx)
	return outcome{s.watch, s.ending, err}
}

func (s *session) run(ctx context.Context) error {
	reader, writer, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("%s: %w", s.target, err)
	}
	defer reader.Close()
	s.cmd.Stdout, s.cmd.Stderr = writer, writer
	err = s.cmd.Start()
	writer.Close()
	if err != nil {
		return fmt.Errorf("%s: %w", s.target, err)
	}
	stop := context.AfterFunc(ctx, s.interrupt)
	s.read(reader)
	stop()
	// From here on, an interrupt that comes late does nothing.
	s.told.Do(func() {})
	if s.killer != nil {
		s.killer.Stop()
	}
	// Nothing of the group outlives it. Its number is its own until Wait.
	syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	err = s.cmd.Wait()
	return s.judge(ctx, err)
}

// interrupt tells go test to end, and makes it some time later.
func (s *session) interrupt() {
	s.told.Do(func() {
		group := -s.cmd.Process.Pid
		syscall.Kill(group, syscall.SIGINT)
		s.killer = time.AfterFunc(grace, func() { syscall.Kill(group, syscall.SIGKILL) })
	})
}

// read follows the output of go test to its end.
func (s *session) read(from io.Reader) {
	in := bufio.NewReader(from)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			s.line(strings.TrimRight(line, "\n"))
		}
		if err != nil {
			return // the end: the group has gone
		}
	}
}

func (s *session) line(line string) {
	p, ok, err := parseProgress(line)
	switch {
	case err != nil && s.unknown == nil:
		s.unknown = err
		s.interrupt()
		return
	case !ok:
		bare := strings.TrimSpace(line)
		if m := failingInput.FindStringSubmatch(bare); m != nil {
			s.seed = m[1]
		} else if m := failingSeed.FindStringSubmatch(bare); m != nil {
			s.seed = m[1]
		}
		s.passed = s.passed || line == "PASS"
		s.output = append(s.output, line)
		s.output = s.output[max(0, len(s.output)-kept):]
		return
	}
	before := s.watch.ran
	ending := s.watch.see(p)
	if s.watch.ran/s.every != before/s.every {
		s.status()
	}
	if ending != goesOn && s.ending == goesOn {
		s.ending = ending
		s.interrupt()
	}
}

// status prints how the target stands.
func (s *session) status() {
	w := &s.watch
	state := w.last.state
	if w.last.fuzzing {
		state = fmt.Sprintf("quiet for %s of %s", w.silent.Round(time.Second), s.quiet)
	}
	s.out.print("%s: %s, %d executions, %d interesting, %d of them new, %s",
		s.target, w.ran.Round(time.Second), w.last.execs, w.last.total, w.last.interesting, state)
}

// judge says what the end of go test means.
func (s *session) judge(ctx context.Context, err error) error {
	failed := &failure{target: s.target, output: s.output, command: strings.Join(s.cmd.Args, " ")}
	switch {
	case s.seed != "":
		name, input, _ := strings.Cut(s.seed, "/")
		failed.detail = "fails with the input " + input
		failed.command = fmt.Sprintf("go test -run '^%s$/^%s$' %s", name, input, s.target.dir)
	case s.ending == standsStill:
		failed.detail = fmt.Sprintf("did nothing for %v", s.still)
	case s.unknown != nil:
		return fmt.Errorf("%s: %w", s.target, s.unknown)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case s.ending == goesOn && err == nil:
		failed.detail = "ended by itself"
	case s.ending == goesOn || !s.passed:
		// The go command's own status is 1 after every interrupt.
		failed.detail = fmt.Sprintf("fails: %v", err)
	default:
		s.out.print("%s: %s after %s, %d executions, %d interesting, %d of them new", s.target, s.ending,
			s.watch.ran.Round(time.Second), s.watch.last.execs, s.watch.last.total, s.watch.last.interesting)
		return nil
	}
	return failed
}
