package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"testing/synctest"

	"golang.org/x/sys/unix"
)

// children are what a test does in a process of its own: it runs this program with its name in BUNDLE_TEST_CHILD.
var children = map[string]func(t *testing.T){}

// TestChild is the entrance of such a process; by itself it does nothing.
func TestChild(t *testing.T) {
	if name := os.Getenv("BUNDLE_TEST_CHILD"); name != "" {
		children[name](t)
	}
}

// child runs a child with more in its environment and returns what it wrote to standard output.
func child(t *testing.T, name string, env ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(append(os.Environ(), "BUNDLE_TEST_CHILD="+name), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", name, err, out, stderr.Bytes())
	}
	return string(out)
}

// openFiles counts this process's file descriptors.
func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}

// large is a payload of several of the writer's chunks.
func large() fstest.MapFS {
	m := tiny()
	m["large"] = largeFile()
	return m
}

var largeFile = sync.OnceValue(func() *fstest.MapFile { return file(9<<20+5, 0o644, 1_700_000_005) })

// TestCancelWrite cancels at every step of progress. Nothing is left of an image file, and no goroutine.
func TestCancelWrite(t *testing.T) {
	fsys := large()
	steps := 0
	_, err := plan(t, fsys, withRoots(2)).WriteTo(t.Context(), io.Discard, func(string, int64, int64) { steps++ })
	must(t, err)
	if steps < 4 {
		t.Fatalf("only %d steps", steps)
	}
	for at := range steps {
		run := func(write func(context.Context, Progress) (*Seal, error)) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			n := 0
			seal, err := write(ctx, func(string, int64, int64) {
				if n++; n == at+1 {
					cancel(errStopped)
				}
			})
			if !errors.Is(err, errStopped) || seal != nil {
				t.Errorf("cancelled at step %d of %d: %v", at, steps, err)
			}
			if n > at+2 {
				t.Errorf("cancelled at step %d, and %d more were done", at, n-at-1)
			}
		}
		synctest.Test(t, func(t *testing.T) {
			run(func(ctx context.Context, p Progress) (*Seal, error) {
				return plan(t, fsys, withRoots(2)).WriteTo(ctx, io.Discard, p)
			})
		})
		folder, files := t.TempDir(), openFiles(t)
		path := filepath.Join(folder, "image")
		must(t, os.WriteFile(path, []byte("old"), 0o644))
		run(func(ctx context.Context, p Progress) (*Seal, error) {
			return plan(t, fsys, withRoots(2)).WriteFile(ctx, path, p)
		})
		wantOnly(t, folder, "image", "old")
		if n := openFiles(t); n > files {
			t.Errorf("%d files are open, %d before", n, files)
		}
	}
	done, cancel := context.WithCancelCause(t.Context())
	cancel(errStopped)
	for name, run := range map[string]func() error{
		"NewPlan":   func() error { _, err := NewPlan(done, fsys, demo()); return err },
		"WriteTo":   func() error { _, err := plan(t, fsys, demo()).WriteTo(done, failingWriter{}, nil); return err },
		"WriteFile": func() error { _, err := plan(t, fsys, demo()).WriteFile(done, t.TempDir()+"/f", nil); return err },
		"Inspect":   func() error { _, err := Inspect(done, Source{Size: 1 << 20}); return err },
		"Verify": func() error {
			_, err := Verify(done, Source{Size: 1 << 20}, testRoot(), VerifyOptions{})
			return err
		},
	} {
		if err := run(); !errors.Is(err, errStopped) {
			t.Errorf("%s with a context that is done: %v", name, err)
		}
	}
}

// TestCancelFile: a cancel counts in the middle of a file, however slow it is read.
func TestCancelFile(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	reads := 0
	h := &hooked{MapFS: large(), before: func(path string, _ int, read int64) {
		if path == "large" && read >= 0 {
			if reads++; reads == 3 {
				cancel(errStopped)
			}
		}
	}}
	_, err := plan(t, h, demo()).WriteTo(ctx, io.Discard, nil)
	if !errors.Is(err, errStopped) || reads > 3 {
		t.Errorf("after %d reads: %v", reads, err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// limited is full after n bytes.
type limited struct{ n int64 }

func (w *limited) Write(p []byte) (int, error) {
	if int64(len(p)) > w.n {
		n := w.n
		w.n = 0
		return int(n), syscall.ENOSPC
	}
	w.n -= int64(len(p))
	return len(p), nil
}

// TestWriteErrors: a pipe that takes no more, at any place, is a fault.
func TestWriteErrors(t *testing.T) {
	img := prepare(t, tiny(), withRoots(2))
	for n := int64(0); n < int64(len(img)); n += 16_001 {
		synctest.Test(t, func(t *testing.T) {
			_, err := plan(t, tiny(), withRoots(2)).WriteTo(t.Context(), &limited{n}, nil)
			if codeOf(err) != "" || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("full after %d bytes: %v", n, err)
			}
		})
	}
	for _, n := range []int64{0, 4 << 20, 8 << 20} {
		for _, cause := range []error{syscall.ENOSPC, io.EOF} {
			synctest.Test(t, func(t *testing.T) {
				w := &failsAt{n, cause}
				if _, err := plan(t, large(), demo()).WriteTo(t.Context(), w, nil); !errors.Is(err, cause) {
					t.Errorf("%v after %d bytes: %v", cause, n, err)
				}
			})
		}
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	must(t, err)
	defer full.Close()
	if _, err := plan(t, large(), demo()).WriteTo(t.Context(), full, nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("/dev/full: %v", err)
	}
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "missing"))
	if _, err := plan(t, tiny(), demo()).WriteTo(t.Context(), io.Discard, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder for temporary files: %v", err)
	}
}

// TestOwnFilesFault: what makes the format's own files ends when the image can't take them.
func TestOwnFilesFault(t *testing.T) {
	p := plan(t, synthetic{tiny(), 1000, claimed{mode: fs.ModeDir | 0o755}}, demo()) // a directory area of some MiB
	for _, own := range []*ownFiles{nil, {}} {
		synctest.Test(t, func(t *testing.T) {
			iw := p.layout.NewWriter(failingWriter{syscall.ENOSPC})
			err := own.put(iw, layoutReadme, func(w io.Writer) error {
				_, err := w.Write(make([]byte, readmeBytes))
				return err
			})
			if !errors.Is(err, syscall.ENOSPC) {
				t.Error(err)
			}
		})
	}
	iw := p.layout.NewWriter(io.Discard)
	if err := (*ownFiles)(nil).put(iw, layoutReadme, func(io.Writer) error { return errMedium }); !errors.Is(err, errMedium) {
		t.Error(err)
	}
}

type failsAt struct {
	n   int64
	err error
}

func (w *failsAt) Write(p []byte) (int, error) {
	if w.n -= int64(len(p)); w.n < 0 {
		return 0, w.err
	}
	return len(p), nil
}

// TestPlaces: where no image file can be made, that is said before the payload is read, and nothing changes.
func TestPlaces(t *testing.T) {
	folder := t.TempDir()
	fifo, device := filepath.Join(folder, "fifo"), "/dev/null"
	must(t, unix.Mkfifo(fifo, 0o600))
	untouched := &hooked{MapFS: tiny(), before: func(path string, _ int, _ int64) {
		if path != "." {
			t.Errorf("%s was opened", path)
		}
	}}
	for _, path := range []string{folder, fifo, device, filepath.Join(folder, "missing", "image"), filepath.Join(folder, strings.Repeat("n", 256))} {
		if _, err := plan(t, untouched, demo()).WriteFile(t.Context(), path, nil); err == nil || codeOf(err) != "" {
			t.Errorf("%s: %v, want a fault", path, err)
		}
	}
	wantNames(t, folder, "fifo")
	// A name as long as names can be, and one through a link.
	name := strings.Repeat("ż", 127)
	_, err := plan(t, tiny(), demo()).WriteFile(t.Context(), filepath.Join(folder, name), nil)
	must(t, err)
	wantNames(t, folder, "fifo", name)
	info, err := os.Stat(filepath.Join(folder, name))
	must(t, err)
	if mask := umask(); info.Mode() != 0o666&^mask {
		t.Errorf("mode %v with umask %v", info.Mode(), mask)
	}
}

func umask() os.FileMode {
	m := syscall.Umask(0)
	syscall.Umask(m)
	return os.FileMode(m)
}

func wantNames(t *testing.T, folder string, names ...string) {
	t.Helper()
	list, err := os.ReadDir(folder)
	must(t, err)
	var got []string
	for _, e := range list {
		got = append(got, e.Name())
	}
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", names) {
		t.Errorf("%q are in the folder, want %q", got, names)
	}
}

// TestDiskFull: a file that can't grow, from the reservation on and at any place of the image. The process that
// tries has a limit on the size of files, which is for a write what a full disk is.
func TestDiskFull(t *testing.T) {
	t.Log(child(t, "disk full", "BUNDLE_TEST_FOLDER="+t.TempDir()))
}

func init() {
	children["disk full"] = func(t *testing.T) {
		folder := os.Getenv("BUNDLE_TEST_FOLDER")
		path := filepath.Join(folder, "image")
		must(t, os.WriteFile(path, []byte("old"), 0o644))
		limit := func(n uint64) {
			must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: unix.RLIM_INFINITY}))
		}
		fsys := large()
		g := plan(t, fsys, withRoots(2)).Geometry()
		places := []int64{0, 1, 3 << 20 / BlockSize, 4 << 20 / BlockSize, 5 << 20 / BlockSize, g.DataBlocks - 1, g.SealA(), g.SealA() + 5,
			g.Superblock(), g.Tree(), g.Tree() + 3, g.FEC(), g.FEC() + 2, g.SealB(), g.LocatorCopy(), g.Padding(), g.ImageBlocks() - 1}
		for _, lba := range places {
			for _, reserved := range []bool{false, true} {
				if !reserved {
					limit(uint64(lba) * BlockSize)
				}
				_, err := plan(t, fsys, withRoots(2)).WriteFile(context.Background(), path, func(string, int64, int64) {
					limit(uint64(lba) * BlockSize)
				})
				limit(unix.RLIM_INFINITY)
				if codeOf(err) != "" || !errors.Is(err, syscall.EFBIG) {
					t.Errorf("a limit of %d blocks, reserved %v: %v, want a fault", lba, reserved, err)
				}
				wantOnly(t, folder, "image", "old")
			}
		}
		_, err := plan(t, fsys, withRoots(2)).WriteFile(context.Background(), path, nil)
		must(t, err)
		info, err := os.Stat(path)
		must(t, err)
		if info.Size() != g.ImageBlocks()*BlockSize {
			t.Errorf("%d bytes were written in the end", info.Size())
		}
		wantNames(t, folder, "image")
	}
}

// TestCancelVerify cancels at each step of progress and each entry, and a sink that fails or reads too little is
// told from the rest. No goroutine is left.
func TestCancelVerify(t *testing.T) {
	img := signed(t, large(), withRoots(2))
	steps := 0
	_, err := verify(fileSource(img), VerifyOptions{Progress: func(string, int64, int64) { steps++ }})
	must(t, err)
	for at := range steps - 1 { // after the last step nothing is left to cancel
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			n := 0
			_, err := Verify(ctx, fileSource(img), testRoot(), VerifyOptions{Progress: func(string, int64, int64) {
				if n++; n == at+1 {
					cancel(errStopped)
				}
			}})
			if !errors.Is(err, errStopped) {
				t.Errorf("cancelled at step %d of %d: %v", at, steps, err)
			}
		})
	}
	entries := len(large())
	for at := range entries {
		for name, c := range map[string]struct {
			put  func(cancel context.CancelCauseFunc, e *Entry, r io.Reader) error
			want error
		}{
			"cancel": {func(cancel context.CancelCauseFunc, _ *Entry, r io.Reader) error {
				cancel(errStopped)
				return discard(r)
			}, errStopped},
			"fails": {func(context.CancelCauseFunc, *Entry, io.Reader) error { return syscall.ENOSPC }, syscall.ENOSPC},
			"reads half": {func(_ context.CancelCauseFunc, e *Entry, r io.Reader) error {
				if e.Type != File || e.Size == 0 {
					return errLeft
				}
				_, err := io.CopyN(io.Discard, r, e.Size/2)
				return err
			}, errLeft},
		} {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				n := -1
				_, err := Verify(ctx, fileSource(img), testRoot(), VerifyOptions{Sink: sinkFunc(func(e *Entry, r io.Reader) error {
					if n++; n == at {
						return c.put(cancel, e, r)
					}
					return discard(r)
				})})
				switch {
				case c.want == errLeft && codeOf(err) != "", c.want != errLeft && !errors.Is(err, c.want):
					t.Errorf("%s at entry %d: %v", name, at, err)
				}
				if n > at && name != "cancel" {
					t.Errorf("%s at entry %d, and %d were put", name, at, n+1)
				}
			})
		}
	}
}

var errLeft = errors.New("left unread")

func discard(r io.Reader) error {
	if r == nil {
		return nil
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

// TestMediumFaults: a medium that fails at any block of a step that needs it is a fault, not a refusal, and leaves
// no goroutine.
func TestMediumFaults(t *testing.T) {
	img := signed(t, tiny(), demo())
	g := geometryOf(t, img)
	for lba := range g.Padding() {
		seal := lba >= g.SealA() && lba < g.Superblock() || lba >= g.SealB() && lba < g.LocatorCopy()
		if seal || lba == g.LocatorCopy() {
			continue // there are two
		}
		synctest.Test(t, func(t *testing.T) {
			_, err := verify(Source{ReaderAt: &brokenAt{bytes.NewReader(img), lba, lba + 1}, Size: int64(len(img)), Medium: true}, VerifyOptions{Sink: &treeSink{}})
			if codeOf(err) != "" || !errors.Is(err, errMedium) {
				t.Errorf("LBA %d can't be read: %v, want a fault", lba, err)
			}
		})
	}
}
