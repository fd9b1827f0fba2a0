package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/bundle/importlog"
)

// TestSignalAtPipe: a signal ends prepare, also while it waits for a reader; what came is no bundle.
func TestSignalAtPipe(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			dir := room(t)
			cmd, rest, stderr := midway(t, dir)
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, rest)
			if err != nil {
				t.Fatal(err)
			}
			if n >= 63<<20 {
				t.Errorf("%d bytes came after the signal", n)
			}
			wantFailure(t, exitCode(t, cmd.Wait()), "", stderr.String(), 130, `^sallyport prepare: stopped: .* signal received; nothing half-done is left$`)
			if left := names(t, filepath.Join(dir, "tmp")); left != "" {
				t.Errorf("left behind: %s", left)
			}
		})
	}
	t.Run("SIGHUP under nohup", func(t *testing.T) {
		t.Parallel()
		dir := room(t)
		cmd := exec.Command("sh", "-c", `trap '' HUP; exec sallyport prepare payload -o - --channel news --trust trust.json`)
		cmd.Dir = dir
		if err := os.Truncate(touch(t, filepath.Join(dir, "payload", "large")), 64<<20); err != nil {
			t.Fatal(err)
		}
		rest, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, rest, 1<<20); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, rest); err != nil {
			t.Fatal(err)
		}
		if code := exitCode(t, cmd.Wait()); code != 0 {
			t.Errorf("exit status %d", code)
		}
	})
}

// largeRoom is a room with a signed image, large.iso, that takes a while to read, and to write.
func largeRoom(t *testing.T, args ...string) string {
	t.Helper()
	dir := room(t)
	if err := os.Truncate(touch(t, filepath.Join(dir, "payload", "large")), 96<<20); err != nil {
		t.Fatal(err)
	}
	must(t, dir, append([]string{"prepare", "payload", "-o", "large.iso", "--channel", "news", "--trust", "trust.json"}, args...)...)
	return dir
}

// TestInterrupted types ^C when the bar shows that a command is in the middle of its work.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	dir := largeRoom(t, "--previous", "bundle.iso")
	in := func(name string) string { return filepath.Join(dir, name) }
	copyFile(t, in("large.iso"), in("signed.iso"))
	for _, key := range []string{"alice.key", "bob.key"} {
		must(t, dir, "sign", "signed.iso", "--key", key)
	}
	must(t, dir, "import", "bundle.iso", "--trust", "trust.json", "--spool", "spool", "--state", "state", "--station-key", "kiosk.key")
	unsigned, err := os.ReadFile(in("large.iso"))
	if err != nil {
		t.Fatal(err)
	}
	spool := names(t, in("spool/news"))
	const nothing = "stopped: interrupt signal received; nothing half-done is left"
	for _, test := range []struct {
		name  string
		args  []string
		after string // what the terminal shows when ^C is typed
		last  string
		check func(t *testing.T)
	}{
		{"prepare", []string{"prepare", "payload", "-o", "large.iso", "--channel", "news", "--trust", "trust.json", "--epoch", "1"}, "% |", "sallyport prepare: " + nothing, func(t *testing.T) {
			if now, err := os.ReadFile(in("large.iso")); err != nil || !bytes.Equal(now, unsigned) {
				t.Errorf("the old image changed, %v", err)
			}
		}},
		{"sign", []string{"sign", "large.iso", "--key", "alice.key"}, "% |", "sallyport sign: " + nothing, func(t *testing.T) {
			if now, err := os.ReadFile(in("large.iso")); err != nil || !bytes.Equal(now, unsigned) {
				t.Errorf("the image changed, %v", err)
			}
		}},
		{"verify", []string{"verify", "signed.iso", "--trust", "trust.json", "--state", "state"}, "% |", "sallyport verify: " + nothing, nil},
		{"import", []string{"import", "signed.iso", "--trust", "trust.json", "--spool", "spool", "--state", "state"}, "% |", "sallyport import: " + nothing, func(t *testing.T) {
			if now := names(t, in("spool/news")); now != spool {
				t.Errorf("let in: %s", now)
			}
			if left := names(t, in("spool/.incoming")); left != "" {
				t.Errorf("left behind: %s", left)
			}
		}},
		{"burn, before the disc", []string{"burn", "signed.iso", "--drive", "sim:d1"}, "% |", "sallyport burn: stopped: interrupt signal received; the disc is untouched", func(t *testing.T) {
			if _, err := os.Stat(in("d1")); err == nil {
				t.Error("a drive was made")
			}
		}},
		{"burn", []string{"burn", "signed.iso", "--drive", "sim:d2"}, "\rwriting", "", func(t *testing.T) {
			code, stdout, stderr := sallyport(t, dir, "verify", "sim:d2", "--trust", "trust.json")
			wantFailure(t, code, stdout, stderr, 1, `\((incomplete-disc|blank-disc)\)`)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := names(t, dir)
			cmd := exec.Command("sallyport", test.args...)
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "TERM=xterm")
			var stdout bytes.Buffer
			term := onTerminal(t, &stdout, cmd)
			term.expect(test.after)
			term.typed(ctrlC)
			code, screen := term.wait()
			lines := strings.Split(strings.TrimRight(screen, "\n"), "\n")
			last := lines[len(lines)-1]
			if code != 130 || test.last != "" && last != test.last {
				t.Errorf("exit status %d, last line %q, want 130, %q\n%s", code, last, test.last, screen)
			}
			if test.last == "" && !regexp.MustCompile(`^sallyport burn: stopped: interrupt signal received: writing, LBA \d+; the disc is spoiled: mark it, and burn another one$`).MatchString(last) {
				t.Errorf("last line %q", last)
			}
			if test.last != "" && stdout.Len() > 0 {
				t.Errorf("on stdout: %q", &stdout)
			}
			if after := names(t, dir); test.name != "burn" && after != before {
				t.Errorf("before:\n%safter:\n%s", before, after)
			}
			if test.check != nil {
				test.check(t)
			}
		})
	}
	// After all this the log has one import, and no refusal: a person who stops a command refuses nothing.
	if out := must(t, dir, "log", "verify", "--state", "state"); !strings.Contains(out, " 2 entries,") {
		t.Errorf("the log: %s", out)
	}
	must(t, dir, "import", "signed.iso", "--trust", "trust.json", "--spool", "spool", "--state", "state")
}

// waitFor looks until something is so.
func waitFor(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !so() {
		if time.Now().After(deadline) {
			t.Fatalf("%s didn't come about in %v", what, patience)
		}
		<-tick.C
	}
}

// canTmpfile tells whether dir's file system has files without names.
func canTmpfile(t *testing.T, dir string) bool {
	fd, err := unix.Open(dir, unix.O_RDWR|unix.O_TMPFILE, 0o600)
	if err != nil {
		t.Logf("%s has no files without names, so a killed prepare may leave one: %v", dir, err)
		return false
	}
	unix.Close(fd)
	return true
}

// hasUnnamed tells whether a process has a file open that lies in dir and has no name.
func hasUnnamed(pid int, dir string) bool {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && filepath.Dir(to) == dir && strings.HasSuffix(to, " (deleted)") {
			return true
		}
	}
	return false
}

// TestKilled kills commands in the middle and runs them again.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := largeRoom(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	start := func(args ...string) *exec.Cmd {
		cmd := exec.Command("sallyport", args...)
		cmd.Dir = dir
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	kill := func(cmd *exec.Cmd) {
		t.Helper()
		cmd.Process.Kill()
		if code := exitCode(t, cmd.Wait()); code != -1 {
			t.Fatalf("it ended by itself, with exit status %d", code)
		}
	}
	glob := func(pattern string) []string {
		found, err := filepath.Glob(in(pattern))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}

	prepare := []string{"prepare", "payload", "-o", "again.iso", "--channel", "news", "--trust", "trust.json"}
	cmd := start(prepare...)
	unnamed := canTmpfile(t, dir)
	waitFor(t, "a part of the image", func() bool {
		return len(glob(".again.iso.*.part")) == 1 || unnamed && hasUnnamed(cmd.Process.Pid, dir)
	})
	kill(cmd)
	if len(glob("again.iso")) > 0 {
		t.Error("an image appeared before it was complete")
	}
	if left := glob(".again.iso.*"); unnamed && len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	must(t, dir, prepare...)
	a, err := os.ReadFile(in("large.iso"))
	b, errB := os.ReadFile(in("again.iso"))
	if err := errors.Join(err, errB); err != nil || !bytes.Equal(a, b) {
		t.Errorf("the second time gave another image, %v", err)
	}

	for _, key := range []string{"alice.key", "bob.key"} {
		must(t, dir, "sign", "large.iso", "--key", key)
	}
	importing := []string{"import", "large.iso", "--trust", "trust.json", "--spool", "spool", "--state", "state", "--station-key", "kiosk.key"}
	cmd = start(importing...)
	waitFor(t, "something staged", func() bool { return len(glob("spool/.incoming/*/large")) == 1 })
	kill(cmd)
	if len(glob("spool/news")) > 0 {
		t.Error("something was released")
	}
	must(t, dir, importing...)
	if diff, err := exec.Command("diff", "-r", "--no-dereference", in("payload"), onlyChild(t, in("spool/news"))).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	if left := names(t, in("spool/.incoming")); left != "" {
		t.Errorf("left behind: %s", left)
	}
	must(t, dir, "log", "verify", "--state", "state")

	burn := []string{"burn", "large.iso", "--drive", "sim:drive"}
	cmd = start(burn...)
	waitFor(t, "the first block on the disc", func() bool { return len(glob("drive/disc.img")) == 1 })
	kill(cmd)
	code, stdout, stderr := sallyport(t, dir, burn...)
	wantFailure(t, code, stdout, stderr, 1, `\(medium-not-blank\): sim:drive: `)
	code, stdout, stderr = sallyport(t, dir, "verify", "sim:drive", "--trust", "trust.json")
	wantFailure(t, code, stdout, stderr, 1, `\(incomplete-disc\): sim:drive: `)
}

// TestInterruptedRelease: an import that was logged as accepted, and stopped before its release, says so, and is
// finished by importing again.
func TestInterruptedRelease(t *testing.T) {
	t.Parallel()
	dir := room(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	cmd := &importCmd{Source: in("bundle.iso"), Trust: in("trust.json"), Spool: in("spool"), State: in("state"), stationKeyFlag: stationKeyFlag{in("kiosk.key")}}
	importing := func(stopAt int) (int, string, string) {
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		var stdout, stderr bytes.Buffer
		asked := 0
		// The clock is looked at for freshness, for accepting and for releasing.
		e := &env{ctx: ctx, stdout: &stdout, stderr: &stderr, now: func() time.Time {
			if asked++; asked == stopAt {
				cancel(errors.New("interrupt signal received"))
			}
			return time.Now()
		}}
		res, err := cmd.run(e)
		return e.finish("import", res, err), stdout.String(), stderr.String()
	}
	code, stdout, stderr := importing(1)
	wantFailure(t, code, stdout, stderr, 130, `^sallyport import: stopped: interrupt signal received; nothing half-done is left$`)
	code, stdout, stderr = importing(3)
	wantFailure(t, code, stdout, stderr, 130, `^sallyport import: stopped: interrupt signal received: logged as accepted in entry 0, and not released \(import it again to finish\)$`)
	if out := must(t, dir, "log", "show", "--state", "state"); strings.Contains(out, "release") || !strings.Contains(out, " accept ") {
		t.Errorf("the log:\n%s", out)
	}
	if code, stdout, stderr = importing(0); code != 0 || !strings.Contains(stdout, "logged       entry 0 of station kiosk\n") {
		t.Errorf("exit status %d\n%s%s", code, stdout, stderr)
	}
	if out := must(t, dir, "log", "verify", "--state", "state"); !strings.Contains(out, " 2 entries,") {
		t.Errorf("the log: %s", out)
	}
}

// TestLocked: a state directory, a spool and a drive have one user at a time; a second one is told so and harms
// nothing.
func TestLocked(t *testing.T) {
	t.Parallel()
	dir := room(t)
	must(t, dir, "import", "bundle.iso", "--trust", "trust.json", "--spool", "spool", "--state", "state", "--station-key", "kiosk.key")
	must(t, dir, "prepare", "payload", "-o", "two.iso", "--channel", "news", "--trust", "trust.json", "--previous", "bundle.iso")
	must(t, dir, "sign", "two.iso", "--key", "alice.key")
	must(t, dir, "sign", "two.iso", "--key", "bob.key")
	importing := []string{"import", "two.iso", "--trust", "trust.json", "--spool", "spool", "--state", "state"}

	spool, err := importlog.OpenSpool(filepath.Join(dir, "spool"))
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := sallyport(t, dir, importing...)
	wantFailure(t, code, stdout, stderr, 3, `^sallyport import: open the spool ".*/spool": in use by another process`)
	if err := spool.Close(); err != nil {
		t.Fatal(err)
	}

	state, err := os.Open(filepath.Join(dir, "state"))
	if err == nil {
		err = syscall.Flock(int(state.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{importing, {"verify", "two.iso", "--trust", "trust.json", "--state", "state"}, {"burn", "two.iso", "--drive", "sim:drive", "--trust", "trust.json", "--state", "state"}, {"prepare", "payload", "-o", "x.iso", "--channel", "news", "--trust", "trust.json", "--state", "state"}} {
		code, stdout, stderr := sallyport(t, dir, args...)
		wantFailure(t, code, stdout, stderr, 3, `^sallyport `+args[0]+`: open the log in ".*/state": in use by another process`)
	}
	for _, name := range []string{"drive", "x.iso"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s was made", name)
		}
	}
	must(t, dir, "log", "show", "--state", "state") // reading needs no lock
	if err := state.Close(); err != nil {
		t.Fatal(err)
	}

	// Five at once: one lets it in, the others are told that it has, or that it is at it.
	type result struct {
		code           int
		stdout, stderr string
	}
	results := make(chan result)
	for range 5 {
		go func() {
			cmd := exec.Command("sallyport", importing...)
			cmd.Dir = dir
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			err := cmd.Run()
			code := 0
			if err != nil {
				code = -1
				if exit, ok := errors.AsType[*exec.ExitError](err); ok {
					code = exit.ExitCode()
				}
			}
			results <- result{code, out.String(), errs.String()}
		}()
	}
	done := 0
	for range 5 {
		switch r := <-results; {
		case r.code == 0:
			done++
		case r.code == 1:
			wantFailure(t, r.code, r.stdout, r.stderr, 1, `\(already-imported\)`)
		default:
			wantFailure(t, r.code, r.stdout, r.stderr, 3, `in use by another process`)
		}
	}
	if done != 1 {
		t.Errorf("%d of 5 let the bundle in", done)
	}
	must(t, dir, "log", "verify", "--state", "state")

	// Two at one drive.
	must(t, dir, "burn", "bundle.iso", "--drive", "sim:drive")
	src, err := (&env{ctx: t.Context()}).openSource("sim:" + filepath.Join(dir, "drive"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	code, stdout, stderr = sallyport(t, dir, "verify", "sim:drive", "--trust", "trust.json")
	wantFailure(t, code, stdout, stderr, 3, `^sallyport verify: .*in use by another process`)
}
