package scan

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
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

// hidden is an fs.FS whose Open must not be asked for some names.
type hidden struct {
	fstest.MapFS
	t *testing.T
}

func (h hidden) Open(name string) (fs.File, error) {
	if m, ok := h.MapFS[name]; ok && !m.Mode.IsDir() {
		h.t.Errorf("opened %q, which is no directory", name)
	}
	return h.MapFS.Open(name)
}

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
	r, err := Check(t.Context(), hidden{m, t}, Limits{})
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
