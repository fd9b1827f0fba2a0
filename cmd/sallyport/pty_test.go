package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal of 80 columns and 24 lines with a process on it.
type terminal struct {
	t   *testing.T
	ptm *os.File
	cmd *exec.Cmd

	mu   sync.Mutex
	out  []byte        // all that came
	read int           // of out, by expect
	news chan struct{} // something came
	tty  *os.File      // kept open, so that nothing that was written last is lost
	err  chan error    // from Wait
}

// endMark comes on the terminal when the process has ended, behind all that it wrote.
const endMark = "<END>"

// patience is how long a test waits for what should come at once, on a machine that has much else to do.
const patience = 180 * time.Second

// onTerminal starts a command on a new pseudo-terminal, which is its controlling one. What it says on stdout goes
// to stdout if that isn't nil.
func onTerminal(t *testing.T, stdout io.Writer, cmd *exec.Cmd) *terminal {
	t.Helper()
	ptm, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ptm.Close() })
	n, err := unix.IoctlGetInt(int(ptm.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(ptm.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(ptm.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80})
	}
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	if stdout != nil {
		cmd.Stdout = stdout
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, ptm: ptm, cmd: cmd, tty: tty, news: make(chan struct{}, 1), err: make(chan error, 1)}
	go term.listen()
	go func() {
		err := cmd.Wait()
		_, markErr := tty.WriteString(endMark)
		term.err <- errors.Join(err, markErr)
	}()
	return term
}

func (term *terminal) listen() {
	buf := make([]byte, 4096)
	for {
		n, err := term.ptm.Read(buf)
		term.mu.Lock()
		term.out = append(term.out, buf[:n]...)
		term.mu.Unlock()
		select {
		case term.news <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// expect waits until text comes behind what was expected before.
func (term *terminal) expect(text string) {
	term.t.Helper()
	deadline := time.After(patience)
	for {
		term.mu.Lock()
		i, end, seen := bytes.Index(term.out[term.read:], []byte(text)), bytes.HasSuffix(term.out, []byte(endMark)), string(term.out)
		if i >= 0 {
			term.read += i + len(text)
		}
		term.mu.Unlock()
		switch {
		case i >= 0:
			return
		case end:
			term.t.Fatalf("%q didn't come; on the terminal:\n%s", text, seen)
		}
		select {
		case <-term.news:
		case <-deadline:
			term.cmd.Process.Kill()
			term.t.Fatalf("%q didn't come in %v; on the terminal:\n%s", text, patience, seen)
		}
	}
}

// typed types text, as it is: control characters too.
func (term *terminal) typed(text string) {
	term.t.Helper()
	if _, err := term.ptm.WriteString(text); err != nil {
		term.t.Fatal(err)
	}
}

// wait waits for the command's end and returns its exit status and all that was on the terminal.
func (term *terminal) wait() (code int, screen string) {
	term.t.Helper()
	timer := time.AfterFunc(patience, func() { term.cmd.Process.Kill() })
	defer timer.Stop()
	err := <-term.err
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		term.t.Fatal(err)
	}
	term.expect(endMark)
	term.tty.Close()
	term.mu.Lock()
	defer term.mu.Unlock()
	screen = strings.ReplaceAll(strings.TrimSuffix(string(term.out), endMark), "\r\n", "\n")
	return term.cmd.ProcessState.ExitCode(), screen
}

// echoes tells whether the terminal shows what is typed.
func (term *terminal) echoes() bool {
	term.t.Helper()
	attr, err := unix.IoctlGetTermios(int(term.tty.Fd()), unix.TCGETS)
	if err != nil {
		term.t.Fatal(err)
	}
	return attr.Lflag&unix.ECHO != 0
}
