package ext

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// unpack writes an image of the corpus to a folder, since the peer reads it, too.
func unpack(t *testing.T, path string) *os.File {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	cmd := exec.Command("cat", path)
	if strings.HasSuffix(path, ".gz") {
		cmd = exec.Command("gzip", "-dc", path)
	}
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return out
}

// debugLine is what "ls -p" of debugfs says of a name: inode, mode, user, group, name and size.
var debugLine = regexp.MustCompile(`(?m)^/(\d+)/(\d+)/\d+/\d+/([^/]+)/(\d*)/$`)

var fastLink = regexp.MustCompile(`(?m)^Fast link dest: "(.*)"$`)

// peerTree is a volume's tree as debugfs shows it: mode and size, and what a file has.
func peerTree(t *testing.T, image string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		for _, m := range debugLine.FindAllStringSubmatch(debug(t, image, fmt.Sprintf("ls -p %q", "/"+dir)), -1) {
			if m[3] == "." || m[3] == ".." || m[1] == "0" {
				continue
			}
			path := strings.TrimPrefix(dir+"/"+m[3], "/")
			if m[2][:2] == "04" {
				tree[path] = m[2]
				walk(path)
				continue
			}
			if m[2][:2] == "12" {
				if to := fastLink.FindStringSubmatch(debug(t, image, fmt.Sprintf("stat %q", "/"+path))); to != nil {
					tree[path] = "-> " + to[1]
				} else {
					tree[path] = "-> " + debug(t, image, fmt.Sprintf("cat %q", "/"+path))
				}
				continue
			}
			text := debug(t, image, fmt.Sprintf("cat %q", "/"+path))
			if size, err := strconv.Atoi(m[4]); err == nil && len(text) == 60 { // all that an inode can hold, whatever the size
				text = text[:min(60, size)]
			}
			tree[path] = fmt.Sprintf("%s %s %q", m[2], m[4], text)
		}
	}
	walk("")
	return tree
}

// debug runs a command of debugfs, which tells of its errors on standard error only.
func debug(t testing.TB, image string, command ...string) string {
	t.Helper()
	var out, fault bytes.Buffer
	args := []string{"-R", command[0], image}
	if len(command) > 1 {
		args = append([]string{"-w"}, args...)
	}
	cmd := exec.Command("debugfs", args...)
	cmd.Stdout, cmd.Stderr = &out, &fault
	err := cmd.Run()
	if _, more, _ := strings.Cut(fault.String(), "\n"); err != nil || more != "" {
		t.Fatalf("debugfs %q: %v\n%s", command, err, fault.String())
	}
	return out.String()
}

// ourTree is the same as this package reads it.
func ourTree(t *testing.T, fsys *FS) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := fmt.Sprintf("%03o", info.Mode().Perm())
		switch {
		case d.IsDir():
			tree[path] = "040" + mode
		case d.Type().IsRegular():
			b, err := fs.ReadFile(fsys, path)
			if err != nil {
				return err
			}
			tree[path] = fmt.Sprintf("100%s %d %q", mode, info.Size(), b)
		default:
			return fmt.Errorf("%q is a %v, which none of the corpus has", path, d.Type())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestCorpus reads every ext image of the corpus within 10 seconds and 256 MB (F1), and shows the tree that debugfs shows.
func TestCorpus(t *testing.T) {
	root := os.Getenv("SALLYPORT_CORPUS")
	if root == "" {
		fmt.Fprintln(os.Stderr, "*** NOT RUN: SALLYPORT_CORPUS is not set, so no ext image of other projects was read ***")
		t.Skip("SALLYPORT_CORPUS is not set: NO IMAGE OF THE CORPUS WAS READ")
	}
	known := map[string]struct {
		name, label string
		files       int
	}{"ext2.img": {"ext2", "test-ext2", 1}, "ext3.img.gz": {"ext3", "test-ext3", 1}}
	n := 0
	err := filepath.WalkDir(filepath.Join(root, "ext"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		want, ok := known[d.Name()]
		if !ok {
			return errors.New(path + " isn't known here")
		}
		f := unpack(t, path)
		info, err := f.Stat()
		if err != nil {
			return err
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		fsys, err := Open(f, info.Size())
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		got := ourTree(t, fsys)
		runtime.ReadMemStats(&after)
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("%s: took %v", path, d)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 256<<20 {
			t.Errorf("%s: allocated %d MB", path, n>>20)
		}
		if fsys.Name() != want.name || fsys.Label() != want.label || len(got) != want.files || codes(fsys) != "" {
			t.Errorf("%s is %s, %q, %d files, %v", path, fsys.Name(), fsys.Label(), len(got), fsys.Findings())
		}
		compareTrees(t, got, peerTree(t, f.Name()))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n != len(known) {
		t.Errorf("%d images were read", n)
	}
}

// TestDebugfs shows the tree that debugfs shows, of the volumes that the tests damage.
func TestDebugfs(t *testing.T) {
	for _, args := range [][]string{plain, checked, uncheckd, inlined} {
		v := sample(t, args)
		image := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(image, v.b, 0o644); err != nil {
			t.Fatal(err)
		}
		want := peerTree(t, image)
		got := map[string]string{}
		tree, bad := contents(v.f)
		for path, what := range tree {
			if path == "./" {
				continue
			}
			if strings.HasPrefix(what, "-> ") {
				got[path] = what
				continue
			}
			info, err := v.f.Stat(strings.TrimSuffix(path, "/"))
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				got[strings.TrimSuffix(path, "/")] = fmt.Sprintf("040%03o", info.Mode().Perm())
			} else {
				got[path] = fmt.Sprintf("100%03o %d %q", info.Mode().Perm(), info.Size(), what)
			}
		}
		compareTrees(t, got, want)
		if len(bad) != 0 || codes(v.f) != "" || len(got) != 14 {
			t.Errorf("%q: %d files, errors %v, findings %v", args, len(got), bad, v.f.Findings())
		}
	}
}
