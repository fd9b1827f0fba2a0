package confined

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"
)

const testEnv = "SALLYPORT_CONFINED_TEST"

func TestMain(m *testing.M) {
	if mode := os.Getenv(testEnv); mode != "" {
		os.Exit(Main(parsers[mode]))
	}
	os.Exit(m.Run())
}

func start(t *testing.T, mode string, medium io.ReaderAt, size int64) (*Process, error) {
	t.Helper()
	t.Setenv(testEnv, mode)
	p, err := Start(t.Context(), []string{"/proc/self/exe"}, medium, size, 512)
	if err == nil {
		t.Cleanup(func() { p.Close() })
	}
	return p, err
}

// tree is the file system that parser "tree" finds.
func tree() fstest.MapFS {
	when := time.Date(2026, 11, 23, 4, 5, 6, 789, time.UTC)
	m := fstest.MapFS{
		"a/b/deep.txt": {Data: []byte("deep"), Mode: 0o644, ModTime: when},
		"empty":        {Mode: 0o444, ModTime: when},
		"link":         {Data: []byte("a/b"), Mode: fs.ModeSymlink | 0o777, ModTime: when},
	}
	return m
}

// large is the other one.
func large() fstest.MapFS {
	m := fstest.MapFS{"big": {Data: bytes.Repeat([]byte("0123456789abcdef"), 200_000)}}
	for i := range 2500 {
		m[fmt.Sprintf("many/%04d", i)] = &fstest.MapFile{}
	}
	return m
}

// parsers run in the child.
var parsers = map[string]Parser{
	"tree": func(r io.ReaderAt, size int64, block int) (*Contents, error) {
		return &Contents{Report: fmt.Appendf(nil, `{"size":%d,"block":%d}`, size, block), Volumes: []fs.FS{tree(), large()}}, nil
	},
	"read": func(r io.ReaderAt, size int64, block int) (*Contents, error) {
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(r, 0, size)); err != nil {
			return nil, fmt.Errorf("volume: %w", err)
		}
		for offset := size - 1; offset > 0; offset -= 100_003 { // single bytes, backwards, across all pages
			var b [1]byte
			if _, err := r.ReadAt(b[:], offset); err != nil {
				return nil, err
			}
			h.Write(b[:])
		}
		return &Contents{Report: h.Sum(nil)}, nil
	},
	"one": func(r io.ReaderAt, size int64, block int) (*Contents, error) {
		var b [512]byte
		_, err := r.ReadAt(b[:], 0)
		return &Contents{}, err
	},
	"refuse": func(io.ReaderAt, int64, int) (*Contents, error) {
		return nil, errors.New("fat: root directory: cluster 7 at byte 123: beyond the end")
	},
	"past":   func(r io.ReaderAt, size int64, _ int) (*Contents, error) { return past(r.(*cache), size) },
	"open":   call(func() { os.Open("/proc/self/mem") }),
	"socket": call(func() { unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0) }),
	"unix":   call(func() { unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0) }),
	"exec":   call(func() { exec.Command("/proc/self/exe").Run() }),
	"fork":   call(func() { syscall.ForkExec("/bin/true", nil, nil) }),
	"clone": call(func() {
		if pid, _, errno := unix.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0); pid == 0 && errno == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}),
	"mount":  call(func() { unix.Mount("none", "/", "tmpfs", 0, "") }),
	"chroot": call(func() { unix.Chroot("/") }),
	"ioctl":  call(func() { unix.IoctlGetInt(socketFD, unix.TIOCINQ) }),
	"sendfd": call(func() { unix.Sendmsg(socketFD, []byte{1}, unix.UnixRights(socketFD), nil, 0) }),
	"kill":   call(func() { unix.Kill(1, unix.SIGKILL) }),
	"tgkill": call(func() { unix.Tgkill(os.Getpid()+1, 1, 0) }),
	"ptrace": call(func() { unix.PtraceAttach(1) }),
	"unshare": call(func() {
		unix.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0)
	}),
	"userfaultfd": call(func() { unix.RawSyscall(unix.SYS_USERFAULTFD, 0, 0, 0) }),
	"bpf":         call(func() { unix.RawSyscall(unix.SYS_BPF, 0, 0, 0) }),
	"io_uring":    call(func() { unix.RawSyscall(unix.SYS_IO_URING_SETUP, 1, 0, 0) }),
	"exec memory": call(func() { unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE) }),
	"panic":       func(io.ReaderAt, int64, int) (*Contents, error) { panic("index out of range") },
	"memory": func(io.ReaderAt, int64, int) (*Contents, error) {
		var all [][]byte
		for range 64 {
			all = append(all, bytes.Repeat([]byte{1}, 32<<20))
		}
		return &Contents{Report: all[3][:1]}, nil
	},
	"spin": func(io.ReaderAt, int64, int) (*Contents, error) {
		for {
			time.Sleep(time.Millisecond)
		}
	},
}

// call makes a parser of a call that it mustn't get an answer to.
func call(f func()) Parser {
	return func(io.ReaderAt, int64, int) (*Contents, error) {
		f()
		return &Contents{}, nil
	}
}

// past asks the parent itself, behind the cache that keeps within the medium.
func past(c *cache, size int64) (*Contents, error) {
	_, err := c.r.ReadAt(make([]byte, 512), size-100)
	return &Contents{}, err
}

func TestTree(t *testing.T) {
	p, err := start(t, "tree", bytes.NewReader(nil), 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(p.Report()), `{"size":0,"block":512}`; got != want {
		t.Errorf("report %s, want %s", got, want)
	}
	if p.Volumes() != 2 {
		t.Fatalf("%d volumes", p.Volumes())
	}
	if err := fstest.TestFS(p.Volume(0), "a/b/deep.txt", "empty", "link"); err != nil {
		t.Error(err)
	}
	want := tree()
	big, err := fs.ReadFile(p.Volume(1), "big")
	if err != nil || !bytes.Equal(big, large()["big"].Data) {
		t.Errorf("big: %d bytes, %v", len(big), err)
	}
	if target, err := fs.ReadLink(p.Volume(0), "link"); target != "a/b" || err != nil {
		t.Errorf("link: %q, %v", target, err)
	}
	info, err := fs.Lstat(p.Volume(0), "link")
	if err != nil || info.Mode() != fs.ModeSymlink|0o777 || !info.ModTime().Equal(want["link"].ModTime) {
		t.Errorf("link: %v, %v", info, err)
	}
	list, err := fs.ReadDir(p.Volume(1), "many")
	if err != nil || len(list) != 2500 {
		t.Errorf("many: %d entries, %v", len(list), err)
	}
	if _, err := fs.ReadFile(p.Volume(1), "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that isn't there: %v", err)
	}
	for i := range maxHandles {
		f, err := p.Volume(0).Open("empty")
		if err != nil {
			t.Fatalf("file %d: %v", i, err)
		}
		defer f.Close()
	}
	if _, err := p.Volume(0).Open("empty"); err == nil || !strings.Contains(err.Error(), "as many as may be") {
		t.Errorf("file %d: %v", maxHandles+1, err)
	}
}

func TestMedium(t *testing.T) {
	data := make([]byte, 10<<20+777)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	h := sha256.New()
	h.Write(data)
	for i := len(data) - 1; i > 0; i -= 100_003 {
		h.Write(data[i : i+1])
	}
	p, err := start(t, "read", bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.Report(), h.Sum(nil)) {
		t.Error("the child read something else")
	}
}

// badSector can't be read at one place.
type badSector struct {
	io.ReaderAt
	at  int64
	err error
}

func (b badSector) ReadAt(p []byte, offset int64) (int, error) {
	if offset <= b.at && b.at < offset+int64(len(p)) {
		return 0, b.err
	}
	return b.ReaderAt.ReadAt(p, offset)
}

func TestMediumFails(t *testing.T) {
	gone := errors.New("the stick was pulled out")
	_, err := start(t, "read", badSector{bytes.NewReader(make([]byte, 3<<20)), 2 << 20, gone}, 3<<20)
	if err != gone {
		t.Errorf("%v, want the error of the medium itself", err)
	}
	if _, err := start(t, "one", badSector{bytes.NewReader(make([]byte, 3<<20)), 5000, gone}, 3<<20); err != nil {
		t.Errorf("a sector was asked for that is beside the bad one: %v", err)
	}
	_, err = start(t, "refuse", bytes.NewReader(nil), 0)
	if err == nil || err.Error() != "fat: root directory: cluster 7 at byte 123: beyond the end" || errors.Is(err, ErrParser) {
		t.Errorf("%v", err)
	}
	_, err = start(t, "past", bytes.NewReader(make([]byte, 4096)), 4096)
	if !errors.Is(err, ErrParser) || !strings.Contains(err.Error(), "a request for 512 bytes at 3996 of a medium of 4096") {
		t.Errorf("%v", err)
	}
}

// TestNoRights has the child try what a parser that was taken over would try. Each call is its last.
func TestNoRights(t *testing.T) {
	for _, mode := range []string{
		"open", "socket", "unix", "exec", "fork", "clone", "mount", "chroot", "ioctl", "sendfd", "kill", "tgkill", "ptrace", "unshare",
		"userfaultfd", "bpf", "io_uring", "exec memory", "panic", "memory",
	} {
		t.Run(mode, func(t *testing.T) {
			_, err := start(t, mode, bytes.NewReader(nil), 0)
			if !errors.Is(err, ErrParser) {
				t.Errorf("the child lived on: %v", err)
			}
			if mode == "panic" && (err == nil || !strings.Contains(err.Error(), "index out of range")) {
				t.Errorf("%v doesn't say what went wrong", err)
			}
		})
	}
}

func TestBelts(t *testing.T) {
	p, err := start(t, "tree", bytes.NewReader(nil), 0)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"namespaces", "empty root", "landlock", "seccomp"}
	if race {
		want = slices.DeleteFunc(want, func(s string) bool { return s == "landlock" }) // the race detector brings cgo
	}
	if !slices.Equal(p.Belts(), want) {
		t.Errorf("confined by %q, want %q", p.Belts(), want)
	}
}

func TestDeadline(t *testing.T) {
	t.Setenv(testEnv, "spin")
	p := &Process{medium: bytes.NewReader(nil), deadline: 500 * time.Millisecond, ctx: t.Context()}
	if err := p.start([]string{"/proc/self/exe"}); err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.begin(512); !errors.Is(err, ErrParser) || !strings.Contains(err.Error(), "no answer within 500ms") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	if _, err := Start(ctx, []string{"/proc/self/exe"}, bytes.NewReader(nil), 0, 512); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that it was cancelled", err)
	}
	if _, err := Start(t.Context(), []string{"/nonexistent"}, bytes.NewReader(nil), 0, 512); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// against has a Process ask a child that answers whatever answers holds.
func against(t testing.TB, answers []byte) (*Process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.SetNonblock(pair[0], true)
	theirs := os.NewFile(uintptr(pair[1]), "theirs")
	p := &Process{
		conn: os.NewFile(uintptr(pair[0]), "ours"), medium: bytes.NewReader(make([]byte, 8192)), size: 8192, deadline: time.Second,
		ctx: context.Background(), kill: func() {},
	}
	t.Cleanup(func() { p.conn.Close() })
	go func() {
		theirs.Write(answers)
		unix.Shutdown(pair[1], unix.SHUT_WR)
		io.Copy(io.Discard, theirs)
		theirs.Close()
	}()
	return p, p.begin(512)
}

func frame(kind byte, v any) []byte {
	var buf bytes.Buffer
	text, ok := v.([]byte)
	if !ok {
		text, _ = json.Marshal(v)
	}
	writeFrame(&buf, kind, text)
	return buf.Bytes()
}

// TestHostileChild has answers of a child that was taken over.
func TestHostileChild(t *testing.T) {
	good := slices.Concat(frame(replyJSON, startReply{Volumes: 1}), frame(replyRaw, []byte{}))
	dir := frame(replyJSON, openReply{Handle: 1, Entry: entry{Mode: uint32(fs.ModeDir | 0o555)}})
	list := func(e ...entry) []byte { return frame(replyJSON, readDirReply{Entries: e, EOF: true}) }
	for _, test := range []struct {
		name    string
		answers []byte
		want    string
	}{
		{"nothing", nil, "EOF"},
		{"too many volumes", frame(replyJSON, startReply{Volumes: MaxVolumes + 1}), "257 file systems"},
		{"negative report", frame(replyJSON, startReply{Report: -1}), "a report of -1 bytes"},
		{"short report", slices.Concat(frame(replyJSON, startReply{Report: 10}), frame(replyRaw, []byte("123"))), "a report of 3 bytes instead of 10"},
		{"long report", slices.Concat(frame(replyJSON, startReply{Report: 10}), frame(replyRaw, make([]byte, 5000))), `frame 'r' of 5000 bytes`},
		{"huge frame", []byte{replyJSON, 0xff, 0xff, 0xff, 0xff}, "a frame 'j' of 4294967295 bytes"},
		{"not JSON", frame(replyJSON, []byte("{")), "can't be decoded"},
		{"huge error", frame(replyError, make([]byte, maxError+1)), "an error of 8193 bytes"},
		{"another kind", frame(askStart, []byte{}), `frame 'S' of 0 bytes`},
		{"blocks past the end", frame(needBlocks, le.AppendUint64(le.AppendUint64(nil, 8191), 2)), "2 bytes at 8191 of a medium of 8192"},
		{"negative offset", frame(needBlocks, le.AppendUint64(le.AppendUint64(nil, 1<<63), 2)), "of a medium of 8192"},
		{"too many blocks", frame(needBlocks, le.AppendUint64(le.AppendUint64(nil, 0), 1<<40)), "of a medium of 8192"},
		{"short request", frame(needBlocks, []byte{1}), "a request for blocks of 1 bytes"},
		{"parent directory", slices.Concat(good, dir, list(entry{Name: []byte("..")})), `a directory entry ".."`},
		{"slash", slices.Concat(good, dir, list(entry{Name: []byte("a/b")})), `a directory entry "a/b"`},
		{"NUL", slices.Concat(good, dir, list(entry{Name: []byte("a\x00")})), `a directory entry`},
		{"no name", slices.Concat(good, dir, list(entry{})), `a directory entry ""`},
		{"negative size", slices.Concat(good, dir, list(entry{Name: []byte("a"), Size: -1})), `size -1`},
		{"mode", slices.Concat(good, dir, list(entry{Name: []byte("a"), Mode: uint32(fs.ModeTemporary)})), `mode 0x`},
		{"time", slices.Concat(good, dir, list(entry{Name: []byte("a"), MTime: 1 << 62})), `time 4611686018427387904`},
		{"too many entries", slices.Concat(good, dir, list(make([]entry, maxBatch+1)...)), `a directory of 1001 entries`},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := against(t, test.answers)
			if err == nil {
				_, err = fs.ReadDir(p.Volume(0), ".")
			}
			if !errors.Is(err, ErrParser) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if _, again := p.Volume(0).Open("a"); !errors.Is(again, ErrParser) || !strings.Contains(again.Error(), test.want) {
				t.Errorf("it was asked again: %v", again)
			}
		})
	}
}

// FuzzAnswers has the parent take any answers at all, and walk what they show.
func FuzzAnswers(f *testing.F) {
	good := slices.Concat(frame(replyJSON, startReply{Volumes: 1}), frame(replyRaw, []byte{}))
	f.Add(good)
	f.Add(slices.Concat(good, frame(replyJSON, openReply{Handle: 1, Entry: entry{Mode: uint32(fs.ModeDir)}}), frame(replyJSON, readDirReply{Entries: []entry{{Name: []byte("a"), Size: 3}}, EOF: true})))
	f.Add(slices.Concat(frame(needBlocks, make([]byte, 16)), frame(replyError, errorReply{Text: "no", Kind: "source"})))
	f.Fuzz(func(t *testing.T, answers []byte) {
		p, err := against(t, answers)
		if err != nil {
			return
		}
		fs.WalkDir(p.Volume(0), ".", func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				fs.ReadFile(p.Volume(0), name)
			}
			return nil
		})
	})
}
