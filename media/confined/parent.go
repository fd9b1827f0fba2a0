package confined

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// answerLimit is how long the child may compute for one answer or between two requests for blocks; what its parent takes
// to read the medium doesn't count.
const answerLimit = 20 * time.Second

// Process is a confined reader of one medium. Its methods, those of its file systems and of their files may be used
// concurrently; they take turns.
type Process struct {
	conn   *os.File
	stderr bounded
	kill   func() // ends the child and waits for it
	ctx    context.Context

	mu       sync.Mutex
	medium   io.ReaderAt
	size     int64
	buf      []byte // of blocks that go to the child
	source   error  // the last error of medium
	broken   error  // nothing more can be asked
	belts    []string
	report   []byte
	volumes  int
	deadline time.Duration
}

// Start runs command, a program that calls Main (/proc/self/exe stands for this one wherever it lies), and has it parse a medium of size bytes with logical blocks of block
// bytes, which medium reads. It returns when the parser has. The caller closes the Process; when ctx ends, the child is
// killed and whatever waits for it gets ctx's error. An error of medium is passed on as it is; a child that breaks the
// rules is an ErrParser; what else the parser says against the medium is an error with its text.
func Start(ctx context.Context, command []string, medium io.ReaderAt, size int64, block int) (*Process, error) {
	p := &Process{medium: medium, size: size, deadline: answerLimit, ctx: ctx}
	if err := p.start(command); err != nil {
		return nil, fmt.Errorf("start the confined reader of the medium: %w", err)
	}
	if err := p.begin(block); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// start tries the strictest way first: an unprivileged user may not have namespaces on this machine, and nobody may not
// be allowed to run what root built for itself.
func (p *Process) start(command []string) error {
	const apart = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID
	var ways []*syscall.SysProcAttr
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		ways = append(ways, inside(apart, nobody, nobody))
	}
	ways = append(ways, inside(apart, uid, gid))
	if uid == 0 { // nobody gets a user namespace behind a chroot
		ways = append(ways, &syscall.SysProcAttr{Cloneflags: apart &^ syscall.CLONE_NEWUSER, Pdeathsig: syscall.SIGKILL})
	}
	ways = append(ways, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL})
	var err error
	for _, way := range ways {
		if err = p.startWith(command, way); err == nil || !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EINVAL) {
			return err
		}
	}
	return err
}

const nobody = 65534

// inside has the child be root in namespaces of its own, so that it can shut itself in, and uid and gid outside of them.
func inside(flags uintptr, uid, gid int) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}},
		Credential:  &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true},
		Pdeathsig:   syscall.SIGKILL,
	}
}

func (p *Process) startWith(command []string, attr *syscall.SysProcAttr) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(pair[0], true); err != nil { // so that deadlines work
		return err
	}
	p.conn = os.NewFile(uintptr(pair[0]), "confined reader")
	theirs := os.NewFile(uintptr(pair[1]), "parent")
	defer theirs.Close()
	cmd := exec.CommandContext(p.ctx, command[0], command[1:]...)
	// GOMAXPROCS keeps the runtime from looking for its limits again, which needs files.
	cmd.Env = append(childEnv(os.Environ()), "GOMAXPROCS=2", "GOTRACEBACK=single")
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = &p.stderr
	cmd.SysProcAttr = attr
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		p.conn.Close()
		return err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	p.kill = func() {
		cmd.Process.Kill()
		<-ended
	}
	return nil
}

// childEnv is what of the environment the child gets: nothing but what tests of Go need.
func childEnv(environ []string) []string {
	var kept []string
	for _, v := range environ {
		if strings.HasPrefix(v, "SALLYPORT_CONFINED_TEST=") {
			kept = append(kept, v)
		}
	}
	return kept
}

func (p *Process) begin(block int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var reply startReply
	if err := p.askJSON(askStart, startRequest{Size: p.size, Block: block}, &reply); err != nil {
		return err
	}
	if reply.Volumes < 0 || reply.Volumes > MaxVolumes || reply.Report < 0 || reply.Report > MaxReport || len(reply.Belts) > 16 {
		return p.breaks(fmt.Errorf("%d file systems and a report of %d bytes", reply.Volumes, reply.Report))
	}
	report, err := p.answer(replyRaw, reply.Report)
	if err != nil {
		return err
	}
	if len(report) != reply.Report {
		return p.breaks(fmt.Errorf("a report of %d bytes instead of %d", len(report), reply.Report))
	}
	p.belts, p.volumes, p.report = reply.Belts, reply.Volumes, report
	return nil
}

// Report is what the parser found, as the Parser wrote it. Whoever decodes it treats it as hostile.
func (p *Process) Report() []byte { return p.report }

// Belts names what confines the child: "namespaces", "empty root", "landlock", "seccomp", the last always. They are
// the child's word from before it read a byte of the medium.
func (p *Process) Belts() []string { return p.belts }

// Volumes is how many file systems were found.
func (p *Process) Volumes() int { return p.volumes }

// Volume is file system i, from 0: read-only, with ReadDir, Lstat and ReadLink. It can be used until Close.
func (p *Process) Volume(i int) fs.FS { return &volume{p: p, i: i} }

// Close ends the child.
func (p *Process) Close() error {
	p.kill()
	return p.conn.Close()
}

// breaks makes every further call fail: the child isn't to be believed any more.
func (p *Process) breaks(why error) error {
	if p.broken != nil {
		return p.broken
	}
	p.kill()
	if p.broken = p.ctx.Err(); p.broken == nil {
		p.broken = fmt.Errorf("%w: %w", ErrParser, why)
		if line := p.stderr.line(); line != "" {
			p.broken = fmt.Errorf("%w (%q)", p.broken, line)
		}
	}
	return p.broken
}

// askJSON asks and decodes the answer into reply. The caller holds mu.
func (p *Process) askJSON(kind byte, question, reply any) error {
	if err := p.ask(kind, question); err != nil {
		return err
	}
	text, err := p.answer(replyJSON, maxFrame)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, reply); err != nil {
		return p.breaks(fmt.Errorf("an answer that can't be decoded: %w", err))
	}
	return nil
}

// askRaw asks for at most limit bytes. The caller holds mu.
func (p *Process) askRaw(kind byte, question request, limit int) ([]byte, error) {
	if err := p.ask(kind, question); err != nil {
		return nil, err
	}
	return p.answer(replyRaw, limit)
}

func (p *Process) ask(kind byte, question any) error {
	if p.broken != nil {
		return p.broken
	}
	text, err := json.Marshal(question)
	if err != nil {
		return err
	}
	p.source = nil
	p.conn.SetDeadline(time.Now().Add(p.deadline))
	if err := writeFrame(p.conn, kind, text); err != nil {
		return p.breaks(fmt.Errorf("ask: %w", err))
	}
	return nil
}

// answer waits for the answer of kind want and limit bytes at most, and serves blocks until it is there.
func (p *Process) answer(want byte, limit int) ([]byte, error) {
	for {
		p.conn.SetDeadline(time.Now().Add(p.deadline))
		kind, payload, err := readFrame(p.conn, max(limit, maxError, 16), nil)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, p.breaks(fmt.Errorf("no answer within %v", p.deadline))
		case err != nil:
			return nil, p.breaks(err)
		case kind == needBlocks:
			if err := p.serve(payload); err != nil {
				return nil, err
			}
		case kind == replyError:
			return nil, p.refused(payload)
		case kind != want || len(payload) > limit:
			return nil, p.breaks(fmt.Errorf("frame %q of %d bytes", kind, len(payload)))
		default:
			return payload, nil
		}
	}
}

// serve reads blocks for the child.
func (p *Process) serve(payload []byte) error {
	if len(payload) != 16 {
		return p.breaks(fmt.Errorf("a request for blocks of %d bytes", len(payload)))
	}
	offset, n := le.Uint64(payload), le.Uint64(payload[8:])
	if n > maxRead || offset > uint64(p.size) || n > uint64(p.size)-offset {
		return p.breaks(fmt.Errorf("a request for %d bytes at %d of a medium of %d", n, offset, p.size))
	}
	if p.buf == nil {
		p.buf = make([]byte, maxRead)
	}
	read, err := p.medium.ReadAt(p.buf[:n], int64(offset))
	kind, reply := byte(blocks), p.buf[:n]
	if read != int(n) {
		if err == nil || err == io.EOF {
			err = fmt.Errorf("read %d bytes at %d: %w", n, offset, io.ErrUnexpectedEOF)
		}
		p.source, kind, reply = err, blocksFail, nil
	}
	p.conn.SetDeadline(time.Now().Add(p.deadline))
	if err := writeFrame(p.conn, kind, reply); err != nil {
		return p.breaks(fmt.Errorf("pass blocks on: %w", err))
	}
	return nil
}

// refused makes an error of what the child says against the medium.
func (p *Process) refused(payload []byte) error {
	var reply errorReply
	if len(payload) > maxError {
		return p.breaks(fmt.Errorf("an error of %d bytes", len(payload)))
	}
	if err := json.Unmarshal(payload, &reply); err != nil {
		return p.breaks(fmt.Errorf("an error that can't be decoded: %w", err))
	}
	switch {
	case reply.Kind == "source" && p.source != nil:
		return p.source
	case reply.Kind == "eof":
		return io.EOF
	case reply.Kind == "not-exist":
		return &refusal{reply.Text, fs.ErrNotExist}
	case reply.Kind == "invalid":
		return &refusal{reply.Text, fs.ErrInvalid}
	}
	return &refusal{reply.Text, ErrRefused}
}

// ErrRefused is wrapped by an error that says that the parser doesn't read something, because of what the medium holds
// there. The medium could be read, and everything else of it still can.
var ErrRefused = errors.New("the parser refused it")

// refusal is an error that came as text.
type refusal struct {
	text string
	is   error
}

func (e *refusal) Error() string { return strings.ToValidUTF8(e.text, "\uFFFD") }
func (e *refusal) Unwrap() error { return e.is }

// bounded keeps the beginning of what the child says on standard error: the runtime's last words.
type bounded struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.Write(p[:min(len(p), maxError-b.buf.Len())])
	return len(p), nil
}

func (b *bounded) line() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	line, _, _ := strings.Cut(b.buf.String(), "\n")
	return line
}
