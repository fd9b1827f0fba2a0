package qemutests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"sallyport/qemu-tests/agent"
)

// commandLimit is how long a command may take that sets no limit, and slack what the guest may take to say that one is over.
const (
	commandLimit = 4 * time.Minute
	slack        = time.Minute
	maxOutput    = 16 << 20 // bytes that a Result holds
)

// Command is a program to run in a guest, as root, in a root file system that is the host's, read-only: /tmp and /run
// are empty and the guest's own, /proc, /sys and /dev are the guest's, /tmp/share is the machine's Share, and
// sallyport is in PATH.
type Command struct {
	Argv      []string      // the program and its arguments; nil for a script
	Script    string        // for bash, with set -eu -o pipefail
	Stdin     io.Reader     // nil for none
	Stdout    io.Writer     // takes the output instead of the Result, which holds 16 MiB
	Env       []string      // beside PATH, HOME and LC_ALL=C.UTF-8
	Dir       string        // /tmp if empty
	Limit     time.Duration // 4 minutes if 0; then it is killed, with all it started
	Initramfs bool          // run in u-root's world and not in the host's
}

// Result is what came of a command.
type Result struct {
	Stdout, Stderr string
	Code           int  // exit status; -1 if it was killed
	TimedOut       bool // its limit was over
}

// Run runs a command and waits for its end. Whatever the exit status, that isn't a failure; a guest that is lost, or a
// program that can't be started, is.
func (m *Machine) Run(t testing.TB, c Command) Result {
	t.Helper()
	p := m.Go(t, c)
	return p.Wait(t)
}

// Must runs a command that has to succeed.
func (m *Machine) Must(t testing.TB, c Command) Result {
	t.Helper()
	r := m.Run(t, c)
	if r.Code != 0 {
		t.Fatalf("in the guest: %s: exit %d, timed out %t\nstdout: %s\nstderr: %s", c.text(), r.Code, r.TimedOut, r.Stdout, r.Stderr)
	}
	return r
}

// Script runs a bash script that has to succeed, and returns its standard output.
func (m *Machine) Script(t testing.TB, script string) string {
	t.Helper()
	return m.Must(t, Command{Script: script}).Stdout
}

func (c *Command) text() string {
	if c.Argv == nil {
		return c.Script
	}
	return fmt.Sprintf("%q", c.Argv)
}

// Process is a command that runs beside the test.
type Process struct {
	c       Command
	m       *Machine
	id      uint32
	out     bytes.Buffer
	errOut  bytes.Buffer
	ended   chan struct{}
	end     agent.Ended
	problem error
}

// Go starts a command. Whoever starts it waits for it.
func (m *Machine) Go(t testing.TB, c Command) *Process {
	t.Helper()
	p, err := m.agent.start(m, c)
	if err != nil {
		t.Fatalf("in the guest: %s: %v", c.text(), err)
	}
	return p
}

// Kill ends a process, and all it started, with SIGKILL.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	if err := p.m.agent.send(agent.Frame{Kind: agent.Kill, ID: p.id}); err != nil {
		t.Fatalf("in the guest: kill %s: %v", p.c.text(), err)
	}
}

// Wait waits for the end of a process.
func (p *Process) Wait(t testing.TB) Result {
	t.Helper()
	select {
	case <-p.ended:
	case <-p.m.exited:
		t.Fatalf("in the guest: %s: the guest ended: %v", p.c.text(), p.m.status)
	case <-time.After(p.c.Limit + slack):
		t.Fatalf("in the guest: %s: no answer within %v", p.c.text(), p.c.Limit+slack)
	}
	if p.problem != nil {
		t.Fatalf("in the guest: %s: %v\nstderr: %s", p.c.text(), p.problem, p.errOut.String())
	}
	if p.end.Error != "" {
		t.Fatalf("in the guest: %s: %s", p.c.text(), p.end.Error)
	}
	return Result{p.out.String(), p.errOut.String(), p.end.Code, p.end.TimedOut}
}

// client speaks to the agent of a guest.
type client struct {
	conn  net.Conn
	hello chan agent.Greeting

	send1 sync.Mutex
	mu    sync.Mutex
	next  uint32
	jobs  map[uint32]*Process
	lost  error
}

func newClient(conn net.Conn) *client {
	c := &client{conn: conn, hello: make(chan agent.Greeting, 1), jobs: make(map[uint32]*Process)}
	go func() {
		for {
			f, err := agent.Read(conn)
			if err == nil {
				err = c.take(f)
			}
			if err != nil {
				c.fail(err)
				return
			}
		}
	}()
	return c
}

// fail ends all that waits.
func (c *client) fail(err error) {
	c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = fmt.Errorf("the guest's agent is lost: %w", err)
	for id, p := range c.jobs {
		p.problem = errors.Join(p.problem, c.lost)
		delete(c.jobs, id)
		close(p.ended)
	}
}

func (c *client) take(f agent.Frame) error {
	if f.Kind == agent.Hello {
		var hello agent.Greeting
		if err := json.Unmarshal(f.Payload, &hello); err != nil {
			return err
		}
		c.hello <- hello
		return nil
	}
	c.mu.Lock()
	p := c.jobs[f.ID]
	c.mu.Unlock()
	if p == nil {
		return fmt.Errorf("a frame for command %d, which doesn't run", f.ID)
	}
	switch f.Kind {
	case agent.Stdout:
		if p.c.Stdout != nil {
			_, err := p.c.Stdout.Write(f.Payload)
			p.problem = errors.Join(p.problem, err)
		} else {
			p.keep(&p.out, f.Payload)
		}
	case agent.Stderr:
		p.keep(&p.errOut, f.Payload)
	case agent.Exit:
		err := json.Unmarshal(f.Payload, &p.end)
		c.mu.Lock()
		delete(c.jobs, f.ID)
		c.mu.Unlock()
		close(p.ended)
		return err
	default:
		return fmt.Errorf("a frame of kind %d from the guest", f.Kind)
	}
	return nil
}

// keep keeps the output of a process up to a limit, above which it is a problem.
func (p *Process) keep(to *bytes.Buffer, b []byte) {
	if to.Len()+len(b) > maxOutput {
		if p.problem == nil {
			p.problem = fmt.Errorf("more than %d bytes of output", maxOutput)
		}
		return
	}
	to.Write(b)
}

func (c *client) send(f agent.Frame) error {
	c.send1.Lock()
	defer c.send1.Unlock()
	_, err := c.conn.Write(f.Append(nil))
	return err
}

// environment is what commands have of one.
var environment = []string{"PATH=/run/sallyport:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "LC_ALL=C.UTF-8"}

func (c *client) start(m *Machine, command Command) (*Process, error) {
	wire := agent.Command{Argv: command.Argv, Env: slices.Concat(environment, command.Env), Dir: command.Dir, Initramfs: command.Initramfs}
	if wire.Argv == nil {
		wire.Argv = []string{"/bin/bash", "-eu", "-o", "pipefail", "-c", command.Script}
	}
	if wire.Dir == "" {
		wire.Dir = "/tmp"
	}
	if wire.Initramfs {
		wire.Env[0] = "PATH=/bin:/bbin"
	}
	if command.Limit == 0 {
		command.Limit = commandLimit
	}
	wire.Limit = command.Limit
	b, err := json.Marshal(wire)
	if err != nil {
		return nil, err
	}
	if len(b) > agent.MaxPayload {
		return nil, fmt.Errorf("a command of %d bytes", len(b))
	}
	p := &Process{c: command, m: m, ended: make(chan struct{})}
	c.mu.Lock()
	if c.lost != nil {
		defer c.mu.Unlock()
		return nil, c.lost
	}
	c.next++
	p.id = c.next
	c.jobs[p.id] = p
	c.mu.Unlock()
	if err := c.send(agent.Frame{Kind: agent.Run, ID: p.id, Payload: b}); err != nil {
		return nil, err
	}
	go c.feed(p)
	return p, nil
}

// feed sends a process its standard input.
func (c *client) feed(p *Process) {
	buf := make([]byte, agent.MaxPayload)
	for p.c.Stdin != nil {
		select {
		case <-p.ended:
			return
		default:
		}
		n, err := p.c.Stdin.Read(buf)
		if n > 0 && c.send(agent.Frame{Kind: agent.Stdin, ID: p.id, Payload: buf[:n]}) != nil {
			return // the reader of the connection tells
		}
		if err != nil {
			break
		}
	}
	_ = c.send(agent.Frame{Kind: agent.Stdin, ID: p.id}) // likewise
}
