package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Server runs commands for the other end of a connection.
type Server struct {
	Root string // where commands run, unless they ask for the guest's own root
	Off  func()

	conn io.ReadWriter
	mu   sync.Mutex // of writes, and of jobs
	jobs map[uint32]*job
}

// job is a command that runs.
type job struct {
	stdin  chan []byte // closed at the end of the input
	closed bool
	cancel context.CancelFunc
	done   chan struct{}
}

// Serve greets and answers until the connection ends. io.EOF before any frame means that nobody is there.
func (s *Server) Serve(conn io.ReadWriter, hello Greeting) error {
	s.conn, s.jobs = conn, make(map[uint32]*job)
	if err := s.sendJSON(Hello, 0, hello); err != nil {
		return err
	}
	for {
		f, err := Read(conn)
		if err != nil {
			return err
		}
		if f.Kind == Off {
			s.Off()
			return nil
		}
		if err := s.answer(f); err != nil {
			return err
		}
	}
}

func (s *Server) answer(f Frame) error {
	s.mu.Lock()
	j := s.jobs[f.ID]
	s.mu.Unlock()
	switch {
	case f.Kind == Run:
		var c Command
		if err := json.Unmarshal(f.Payload, &c); err != nil || len(c.Argv) == 0 {
			return fmt.Errorf("no command: %q", f.Payload)
		}
		ctx, cancel := context.WithTimeout(context.Background(), c.Limit)
		j := &job{stdin: make(chan []byte, 16), cancel: cancel, done: make(chan struct{})}
		s.mu.Lock()
		s.jobs[f.ID] = j
		s.mu.Unlock()
		go s.run(ctx, f.ID, c, j)
	case j == nil: // it has ended meanwhile
	case f.Kind == Kill:
		j.cancel()
	case f.Kind == Stdin && !j.closed:
		if len(f.Payload) == 0 {
			close(j.stdin)
			j.closed = true
			break
		}
		select {
		case j.stdin <- f.Payload:
		case <-j.done:
		}
	}
	return nil
}

// run runs one command and tells how it ended.
func (s *Server) run(ctx context.Context, id uint32, c Command, j *job) {
	defer j.cancel()
	var ended Ended
	err := s.exec(ctx, id, c, j)
	var status *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // the latter: what it left behind holds its output
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		ended.Code, ended.Signal = -1, "killed before it started"
	case !errors.As(err, &status):
		ended.Code, ended.Error = -1, err.Error()
	case status.Exited():
		ended.Code = status.ExitCode()
	default:
		ended.Code, ended.Signal = -1, status.String()
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		ended.TimedOut = true
	}
	close(j.done)
	s.mu.Lock()
	delete(s.jobs, id)
	s.mu.Unlock()
	_ = s.sendJSON(Exit, id, ended) // a host that is gone needs no answer
}

func (s *Server) exec(ctx context.Context, id uint32, c Command, j *job) error {
	root := s.Root
	if c.Initramfs {
		root = ""
	}
	program, err := lookPath(root, c.Argv[0], c.Env)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, c.Argv[1:]...)
	cmd.Args[0] = c.Argv[0]
	cmd.Err = nil // the path is one inside of the root
	cmd.Env, cmd.Dir = c.Env, c.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	cmd.Stdout, cmd.Stderr = &stream{s, Stdout, id}, &stream{s, Stderr, id}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		defer stdin.Close()
		for {
			select {
			case b, more := <-j.stdin:
				if !more {
					return
				}
				if _, err := stdin.Write(b); err != nil {
					return // it reads no more
				}
			case <-j.done:
				return
			}
		}
	}()
	return cmd.Wait()
}

// lookPath finds a program in the folders of PATH below root.
func lookPath(root, name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, v := range env {
		list, ok := strings.CutPrefix(v, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			file := filepath.Join(dir, name)
			// A link's target may be absolute, so that only Lstat says something of a file in another root.
			if info, err := os.Lstat(filepath.Join(root, file)); err == nil && !info.IsDir() {
				return file, nil
			}
		}
	}
	return "", fmt.Errorf("no program %s in PATH of the guest", name)
}

// stream sends what a command writes.
type stream struct {
	s    *Server
	kind Kind
	id   uint32
}

func (w *stream) Write(p []byte) (int, error) {
	for at := 0; at < len(p); at += MaxPayload {
		if err := w.s.send(Frame{w.kind, w.id, p[at:min(len(p), at+MaxPayload)]}); err != nil {
			return at, err
		}
	}
	return len(p), nil
}

func (s *Server) sendJSON(kind Kind, id uint32, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.send(Frame{kind, id, b})
}

func (s *Server) send(f Frame) error {
	b := f.Append(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.conn.Write(b)
	return err
}
