package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"
)

// hooked is a payload that somebody else works on: before a file is opened, and before each read of it, before is
// called with its name, how often it was opened and how many bytes of it were read.
type hooked struct {
	fstest.MapFS
	opened map[string]int
	before func(path string, opened int, read int64)
}

func (h *hooked) Open(path string) (fs.File, error) {
	if h.opened == nil {
		h.opened = map[string]int{}
	}
	h.opened[path]++
	h.before(path, h.opened[path], -1)
	f, err := h.MapFS.Open(path)
	if err != nil {
		return nil, err
	}
	return &hookedFile{File: f, h: h, path: path, opened: h.opened[path]}, nil
}

// hookedFile shows at each call what the file is by then, as a file does that others write to.
type hookedFile struct {
	fs.File
	h      *hooked
	path   string
	opened int
	read   int64
}

func (f *hookedFile) now() *fstest.MapFile { return f.h.MapFS[f.path] }

func (f *hookedFile) Read(p []byte) (int, error) {
	f.h.before(f.path, f.opened, f.read)
	data := f.now().Data
	if f.read >= int64(len(data)) {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 1000)], data[f.read:])
	f.read += int64(n)
	return n, nil
}

func (f *hookedFile) ReadAt(p []byte, off int64) (int, error) {
	f.h.before(f.path, f.opened, off)
	return bytes.NewReader(f.now().Data).ReadAt(p, off)
}

func (f *hookedFile) Stat() (fs.FileInfo, error) { return fs.Stat(f.h.MapFS, f.path) }

// TestChangedWhileRead: a file that grows, shrinks, is replaced or only gets another time, before, in the middle of
// and behind the first reading, and between the two that WriteTo needs for parity. There is no image then, and
// nothing else is left.
func TestChangedWhileRead(t *testing.T) {
	const victim = "d/b.bin" // 3,000 bytes
	changes := map[string]func(m fstest.MapFS, f *fstest.MapFile){
		"grows":        func(_ fstest.MapFS, f *fstest.MapFile) { f.Data = append(bytes.Clone(f.Data), 'x') },
		"grows a lot":  func(_ fstest.MapFS, f *fstest.MapFile) { f.Data = make([]byte, 3<<20) },
		"shrinks":      func(_ fstest.MapFS, f *fstest.MapFile) { f.Data = f.Data[:2999] },
		"is emptied":   func(_ fstest.MapFS, f *fstest.MapFile) { f.Data = nil },
		"moves mtime":  func(_ fstest.MapFS, f *fstest.MapFile) { f.ModTime = f.ModTime.Add(time.Second) },
		"is replaced":  func(_ fstest.MapFS, f *fstest.MapFile) { *f = *file(3000, 0o755, 1_700_000_009) },
		"changes mode": func(_ fstest.MapFS, f *fstest.MapFile) { f.Mode = 0o644 },
		"vanishes":     func(m fstest.MapFS, _ *fstest.MapFile) { delete(m, victim) },
		"is a dir":     func(_ fstest.MapFS, f *fstest.MapFile) { *f = *dir(0o755, 1_700_000_003) },
		"is a fifo":    func(_ fstest.MapFS, f *fstest.MapFile) { f.Mode = fs.ModeNamedPipe | 0o755 },
	}
	// Opened for the nth time, or so far read in that reading. Close to a file's end only Stat sees a change.
	moments := map[string]func(opened int, read int64) bool{
		"before it is opened": func(opened int, read int64) bool { return opened == 1 && read < 0 },
		"at its first byte":   func(opened int, read int64) bool { return opened == 1 && read == 0 },
		"in the middle":       func(opened int, read int64) bool { return opened == 1 && read == 1000 },
		"at its end":          func(opened int, read int64) bool { return opened == 1 && read == 3000 },
		"before parity":       func(opened int, read int64) bool { return opened == 2 && read < 0 },
	}
	for moment, due := range moments {
		for name, change := range changes {
			if (name == "changes mode" || name == "is a fifo" || name == "vanishes" || name == "is a dir") && !strings.HasPrefix(moment, "before") {
				continue // the file that is open stays what it was
			}
			for _, roots := range []int{0, 2} {
				if roots == 0 && moment == "before parity" {
					continue
				}
				what := fmt.Sprintf("%s %s, %d roots", name, moment, roots)
				newFS := func() *hooked {
					h := &hooked{MapFS: tiny()}
					h.before = func(path string, opened int, read int64) {
						if path == victim && due(opened, read) {
							f := *h.MapFS[victim] // what Stat gave before refers to the old one
							h.MapFS[victim] = &f
							change(h.MapFS, &f)
						}
					}
					return h
				}
				synctest.Test(t, func(t *testing.T) { // which finds goroutines that are left
					_, err := plan(t, newFS(), withRoots(roots)).WriteTo(t.Context(), io.Discard, nil)
					if codeOf(err) != "changed-while-read" || !strings.Contains(err.Error(), "changed") && !strings.Contains(err.Error(), "went away") && !strings.Contains(err.Error(), "listed") {
						t.Errorf("WriteTo, %s: %v, want changed-while-read", what, err)
					}
				})
				if moment == "before parity" {
					continue // WriteFile reads the payload once
				}
				folder := t.TempDir()
				old := filepath.Join(folder, "image")
				must(t, os.WriteFile(old, []byte("old"), 0o644))
				_, err := plan(t, newFS(), withRoots(roots)).WriteFile(t.Context(), old, nil)
				wantCode(t, err, "changed-while-read")
				wantOnly(t, folder, "image", "old")
			}
		}
	}
}

// wantOnly checks that a folder has one file in it and what that holds.
func wantOnly(t testing.TB, folder, name, text string) {
	t.Helper()
	list, err := os.ReadDir(folder)
	must(t, err)
	if len(list) != 1 || list[0].Name() != name {
		t.Errorf("%v are in the folder, want %s alone", list, name)
		return
	}
	got, err := os.ReadFile(filepath.Join(folder, name))
	must(t, err)
	if string(got) != text {
		t.Errorf("%s holds %.40q now", name, got)
	}
}

// TestReadErrors: what can't be read is a fault, at any file and place.
func TestReadErrors(t *testing.T) {
	for path, f := range tiny() {
		if f.Mode.Type() != 0 {
			continue
		}
		for _, roots := range []int{0, 2} {
			for _, at := range []int64{-1, 0, 1000, 2000} {
				for opened := 1; opened <= 1+min(roots, 1); opened++ {
					if at >= int64(len(f.Data)) || opened == 2 && at > 0 {
						continue
					}
					fsys := &failing{MapFS: tiny(), path: path, at: at, opened: opened}
					synctest.Test(t, func(t *testing.T) {
						_, err := plan(t, fsys, withRoots(roots)).WriteTo(t.Context(), io.Discard, nil)
						if codeOf(err) != "" || !errors.Is(err, errMedium) {
							t.Errorf("%s can't be read from byte %d, opened %d times: %v, want a fault", path, at, opened, err)
						}
					})
				}
			}
		}
	}
	// Names, times and targets that can't be read.
	_, err := NewPlan(t.Context(), statFails{tiny(), "d"}, demo())
	if codeOf(err) != "" || !errors.Is(err, errMedium) {
		t.Errorf("stat fails: %v", err)
	}
}

type failing struct {
	fstest.MapFS
	path   string
	at     int64
	opened int
}

func (f *failing) Open(path string) (fs.File, error) {
	file, err := f.MapFS.Open(path)
	if path != f.path || err != nil {
		return file, err
	}
	if f.opened--; f.opened != 0 {
		return file, nil
	}
	if f.at < 0 {
		return nil, errMedium
	}
	return &failingFile{File: file, at: f.at}, nil
}

type failingFile struct {
	fs.File
	at, read int64
}

func (f *failingFile) Read(p []byte) (int, error) {
	if f.read >= f.at {
		return 0, errMedium
	}
	n, err := f.File.Read(p[:min(int64(len(p)), f.at-f.read)])
	f.read += int64(n)
	return n, err
}

func (f *failingFile) ReadAt(p []byte, off int64) (int, error) { return 0, errMedium }

type statFails struct {
	fstest.MapFS
	path string
}

func (f statFails) Lstat(path string) (fs.FileInfo, error) {
	if path == f.path {
		return nil, errMedium
	}
	return f.MapFS.Lstat(path)
}

// TestRefusedPayloads: what the format can't carry is refused with its code before a file is read.
func TestRefusedPayloads(t *testing.T) {
	for name, c := range map[string]struct {
		code   string
		change func(m fstest.MapFS)
	}{
		"device":             {"bad-kind", func(m fstest.MapFS) { m["x"] = &fstest.MapFile{Mode: fs.ModeDevice | 0o600} }},
		"fifo":               {"bad-kind", func(m fstest.MapFS) { m["x"] = &fstest.MapFile{Mode: fs.ModeNamedPipe | 0o600} }},
		"socket":             {"bad-kind", func(m fstest.MapFS) { m["x"] = &fstest.MapFile{Mode: fs.ModeSocket | 0o600} }},
		"setuid":             {"bad-kind", func(m fstest.MapFS) { m["a.txt"].Mode |= fs.ModeSetuid }},
		"setgid":             {"bad-kind", func(m fstest.MapFS) { m["d"].Mode |= fs.ModeSetgid }},
		"sticky":             {"bad-kind", func(m fstest.MapFS) { m["d"].Mode |= fs.ModeSticky }},
		"reserved":           {"bad-name", func(m fstest.MapFS) { m["Readme.txt"] = file(1, 0o644, 1) }},
		"name too long":      {"bad-name", func(m fstest.MapFS) { m[strings.Repeat("n", 256)] = file(1, 0o644, 1) }},
		"NUL":                {"bad-name", func(m fstest.MapFS) { m["a\x00b"] = file(1, 0o644, 1) }},
		"link out":           {"bad-name", func(m fstest.MapFS) { m["out"] = link("../x", 1) }},
		"absolute link":      {"bad-name", func(m fstest.MapFS) { m["out"] = link("/etc/passwd", 1) }},
		"time before 1900":   {"bad-name", func(m fstest.MapFS) { m["a.txt"].ModTime = time.Unix(minTime-1, 0) }},
		"no time":            {"bad-name", func(m fstest.MapFS) { m["a.txt"].ModTime = time.Time{} }},
		"too deep":           {"bad-name", func(m fstest.MapFS) { deepen(m, maxDepth+1) }},
		"nothing":            {"empty-payload", func(m fstest.MapFS) { clear(m); m["."] = dir(0o755, 1) }},
		"too large a medium": {"too-big", func(m fstest.MapFS) { m["x"] = file(1<<20, 0o644, 1) }},
	} {
		h := &hooked{MapFS: tiny(), before: func(path string, _ int, read int64) {
			if read >= 0 {
				t.Errorf("%s: %s was read", name, path)
			}
		}}
		c.change(h.MapFS)
		opt := demo()
		opt.Capacity = 300
		_, err := NewPlan(t.Context(), h, opt)
		wantCode(t, err, c.code)
		wantPrintable(t, err)
	}
	// 65,536 directories with the root, and files of more than 2^32 blocks.
	for _, c := range []struct {
		n    int
		like claimed
	}{{65_535, claimed{mode: fs.ModeDir | 0o755}}, {22, claimed{mode: 0o644, size: MaxFileSize}}} {
		_, err := NewPlan(t.Context(), synthetic{tiny(), c.n, c.like}, demo())
		wantCode(t, err, "limit")
	}
	_, err := NewPlan(t.Context(), synthetic{tiny(), 20, claimed{mode: 0o644, size: MaxFileSize}}, demo())
	must(t, err)
}

func deepen(m fstest.MapFS, n int) {
	path := ""
	for i := range n {
		path += fmt.Sprint("/", i)
		m[path[1:]] = dir(0o755, 1)
	}
}

// synthetic has n entries in its root, all alike.
type synthetic struct {
	fstest.MapFS
	n    int
	like claimed
}

func (s synthetic) ReadDir(path string) ([]fs.DirEntry, error) {
	var list []fs.DirEntry
	for i := range s.n {
		if path == "." {
			list = append(list, fs.FileInfoToDirEntry(s.entry(fmt.Sprint(i))))
		}
	}
	return list, nil
}

func (s synthetic) Lstat(path string) (fs.FileInfo, error) {
	if path == "." {
		return s.MapFS.Lstat(path)
	}
	return s.entry(path), nil
}

func (s synthetic) entry(name string) claimed {
	s.like.name = name
	return s.like
}

// claimed is what a file says of itself.
type claimed struct {
	name string
	mode fs.FileMode
	size int64
}

func (c claimed) Name() string       { return c.name }
func (c claimed) Size() int64        { return c.size }
func (c claimed) Mode() fs.FileMode  { return c.mode }
func (c claimed) ModTime() time.Time { return time.Unix(1, 0) }
func (c claimed) IsDir() bool        { return c.mode.IsDir() }
func (c claimed) Sys() any           { return nil }

var errStopped = errors.New("the operator pressed Ctrl-C")

// TestCancelPlan cancels the walk at every name.
func TestCancelPlan(t *testing.T) {
	for n := range 10 {
		ctx, cancel := context.WithCancelCause(t.Context())
		calls := 0
		opt := demo()
		opt.LeaveOut = func(string) bool {
			if calls++; calls > n {
				cancel(errStopped)
			}
			return false
		}
		_, err := NewPlan(ctx, tiny(), opt)
		if stopped := calls > n; errors.Is(err, errStopped) != stopped {
			t.Errorf("cancelled at name %d: %v", n, err)
		}
		if calls > n+1 {
			t.Errorf("cancelled at name %d, and %d were asked for", n, calls)
		}
		cancel(nil)
	}
}
