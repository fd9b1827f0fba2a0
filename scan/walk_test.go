package scan

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

// hidden is an fs.FS whose Open must not be asked for some names, and that doesn't let others be opened.
type hidden struct {
	fstest.MapFS
	t     *testing.T
	files bool // files may be opened, and not read
	fails map[string]error
}

func (h hidden) Open(name string) (fs.File, error) {
	m, ok := h.MapFS[name]
	if ok && !m.Mode.IsDir() && (!h.files || !m.Mode.IsRegular()) {
		h.t.Errorf("opened %q, which is no directory", name)
	}
	if err := h.fails[name]; err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f, err := h.MapFS.Open(name)
	if err == nil && ok && m.Mode.IsRegular() {
		return unread{f, h.t}, nil
	}
	return f, err
}

// unread is a file that isn't to be read.
type unread struct {
	fs.File
	t *testing.T
}

func (u unread) Read([]byte) (int, error) {
	u.t.Error("a file was read")
	return 0, io.EOF
}

// What may not be read is a finding only when files are to be opened, and then hides nothing else; any other fault
// ends the inspection.
func TestCheckOpensFiles(t *testing.T) {
	now := time.Unix(1e9, 0)
	m := fstest.MapFS{
		".":         {Mode: fs.ModeDir | 0o755, ModTime: now},
		"a":         {Data: []byte("12345"), Mode: 0o644, ModTime: now},
		"fifo":      {Mode: fs.ModeNamedPipe, ModTime: now},
		"link":      {Data: []byte("a"), Mode: fs.ModeSymlink | 0o777, ModTime: now},
		"secret":    {Data: []byte("123"), ModTime: now},
		"walled":    {Mode: fs.ModeDir, ModTime: now},
		"walled/x ": {Mode: 0o644, ModTime: now},
		"z ":        {Mode: 0o644, ModTime: now},
	}
	closed := map[string]error{"secret": syscall.EACCES, "walled": syscall.EPERM}
	r, err := Check(t.Context(), hidden{m, t, true, closed}, Limits{OpenFiles: true})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"fifo bad-kind", "secret unreadable", "walled unreadable", "z  bad-name"}
	if got := found(r); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if r.Directories != 2 || r.Files != 3 || r.Bytes != 8 {
		t.Errorf("counts: %+v", r)
	}
	if _, err := Check(t.Context(), hidden{m, t, false, closed}, Limits{}); !errors.Is(err, syscall.EPERM) {
		t.Errorf("without opening files: %v", err)
	}
	for _, fails := range []map[string]error{{"a": syscall.EIO}, {"walled": syscall.EIO}} {
		if _, err := Check(t.Context(), hidden{m, t, true, fails}, Limits{OpenFiles: true}); !errors.Is(err, syscall.EIO) {
			t.Errorf("%v: %v", fails, err)
		}
	}
	for _, limits := range []Limits{{}, {OpenFiles: true}} {
		if _, err := Check(t.Context(), hidden{m, t, true, map[string]error{".": syscall.EIO}}, limits); !errors.Is(err, syscall.EIO) {
			t.Errorf("the root: %v", err)
		}
	}
}

// Damage is a finding where it is said what it looks like, and hides nothing else.
func TestCheckDamaged(t *testing.T) {
	now, damage := time.Unix(1e9, 0), errors.New("cluster 7 is free")
	m := fstest.MapFS{
		".":        {Mode: fs.ModeDir | 0o755, ModTime: now},
		"broken":   {Mode: fs.ModeDir | 0o755, ModTime: now},
		"broken/x": {Mode: 0o644, ModTime: now},
		"z ":       {Mode: 0o644, ModTime: now},
	}
	linked := maps.Clone(m)
	linked["link"] = &fstest.MapFile{Data: []byte("a"), Mode: fs.ModeSymlink | 0o777, ModTime: now}
	fsys := hidden{MapFS: m, t: t, fails: map[string]error{"broken": fmt.Errorf("open it: %w", damage)}}
	r, err := Check(t.Context(), fsys, Limits{Damaged: damage})
	if err != nil {
		t.Fatal(err)
	}
	if got := found(r); !slices.Equal(got, []string{"broken unreadable", "z  bad-name"}) || r.Directories != 2 || r.Files != 1 {
		t.Errorf("%q, %+v", got, r)
	}
	for _, limits := range []Limits{{}, {OpenFiles: true}, {Damaged: syscall.EIO}} {
		fsys.files = limits.OpenFiles
		if _, err := Check(t.Context(), fsys, limits); !errors.Is(err, damage) {
			t.Errorf("%+v: %v", limits, err)
		}
	}
	fsys.MapFS, fsys.fails = linked, nil
	r, err = Check(t.Context(), badLink{fsys, damage}, Limits{Damaged: damage})
	if err != nil || !slices.Equal(found(r), []string{"link unreadable", "z  bad-name"}) || r.Files != 2 {
		t.Errorf("a link: %+v, %v", r, err)
	}
}

// badLink has a link that can't be read.
type badLink struct {
	hidden
	err error
}

func (b badLink) ReadLink(string) (string, error) { return "", b.err }

func TestCheckWalk(t *testing.T) {
	now := time.Unix(1e9, 0)
	m := fstest.MapFS{
		"d":          {Mode: fs.ModeDir | 0o755, ModTime: now},
		"d/A":        {Data: []byte("xyz"), Mode: 0o644, ModTime: now},
		"d/a":        {Mode: 0o644, ModTime: now},
		"d-":         {Mode: 0o644, ModTime: now},
		"fifo":       {Mode: fs.ModeNamedPipe, ModTime: now},
		"good":       {Data: []byte("12345"), Mode: 0o644, ModTime: now},
		"out":        {Data: []byte("../x"), Mode: fs.ModeSymlink | 0o777, ModTime: now},
		"in":         {Data: []byte("d"), Mode: fs.ModeSymlink | 0o777, ModTime: now},
		"old":        {Mode: 0o644, ModTime: time.Unix(-2208988801, 0)},
		"ReadMe.txt": {Mode: 0o644, ModTime: now},
	}
	r, err := Check(t.Context(), hidden{MapFS: m, t: t}, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	// fstest.MapFS gives its root the zero time, which is the year 1.
	want := []string{". bad-time", "ReadMe.txt reserved-name", "d/A name-clash", "d/a name-clash", "fifo bad-kind", "old bad-time", "out bad-link"}
	if got := found(r); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if r.Directories != 2 || r.Files != 6 || r.Symlinks != 2 || r.Bytes != 8 {
		t.Errorf("counts: %+v", r)
	}
	if r, err := Check(t.Context(), m, Limits{Entries: 4}); err != nil || !slices.Contains(found(r), ". limit") || r.Files > 4 {
		t.Errorf("entries: %v, %v", err, r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Check(ctx, m, Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// F6 and F7 on a real file system.
func TestCheckRealTree(t *testing.T) {
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(root, name) }
	must(os.MkdirAll(at("d/\x1b[2J"), 0o755))
	must(os.WriteFile(at("d/\x1b[2J/f"), nil, 0o644))
	must(os.MkdirAll(at("bad\xff"), 0o755))
	must(os.WriteFile(at("bad\xff/f"), nil, 0o644))
	must(os.Symlink("a", at("link\xff")))
	must(syscall.Mkfifo(at("fifo"), 0o644))
	must(os.WriteFile(at("setuid"), nil, 0o755))
	must(os.Chmod(at("setuid"), os.ModeSetuid|0o755))
	must(os.Symlink("/etc/passwd", at("abs")))
	must(os.Symlink(".", at("loop")))
	r, err := Check(t.Context(), os.DirFS(root), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"abs bad-link", "bad\xff bad-name", "d/\x1b[2J bad-name", "fifo bad-kind", "link\xff bad-link", "link\xff bad-name", "setuid bad-kind"}
	if got := found(r); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil || !printable(strings.ReplaceAll(text.String(), "\n", "")) || strings.Count(text.String(), "\n") != 8 {
		t.Errorf("text: %v\n%q", err, text.String())
	}
	j, err := json.Marshal(r)
	if err != nil || !printable(string(j)) || !strings.Contains(string(j), `{"code":"bad-name","detail":"not UTF-8","path":"bad\\xff"}`) {
		t.Errorf("JSON: %v\n%s", err, j)
	}
}

// What people really send has to pass.
func TestCheckGoSource(t *testing.T) {
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	src := filepath.Join(strings.TrimSpace(string(goroot)), "src")
	r, err := Check(t.Context(), os.DirFS(src), Limits{})
	if err != nil || r.Err() != nil || r.Files < 5000 {
		t.Fatalf("%s: %v, %v", src, err, r)
	}
	t.Logf("%d directories, %d files", r.Directories, r.Files)
}

// The corpus holds one file with a right-to-left override, and nothing else to refuse.
func TestCheckCorpus(t *testing.T) {
	root := os.Getenv("SALLYPORT_CORPUS")
	if root == "" {
		t.Skip("SALLYPORT_CORPUS IS NOT SET: THE CORPUS WAS NOT TRIED")
	}
	r, err := Check(t.Context(), os.DirFS(root), Limits{})
	if err != nil || len(r.Findings) != 1 || r.Findings[0].Code != CodeBadName || !strings.Contains(r.Findings[0].Path, "\u202e") {
		t.Errorf("%v, %v", err, r)
	}
}
