package iso9660

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A seen is what some reader says of one file; a field that a reader can't tell is left out by every side of a comparison.
type seen struct {
	kind   string // dir, file, link
	mode   fs.FileMode
	mtime  int64
	size   int64
	sha    string
	target string
}

// tool runs a stock tool and fails the test when it is missing, fails or takes longer than limit.
func tool(t testing.TB, limit time.Duration, name string, args ...string) []byte {
	t.Helper()
	out, err := tryTool(t, limit, name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v", name, args, err)
	}
	return out
}

func tryTool(t testing.TB, limit time.Duration, name string, args ...string) ([]byte, error) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("peer tool is missing: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC", "HOME="+t.TempDir())
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("%w: %.2000s", err, stderr.String())
	}
	return stdout.Bytes(), nil
}

// ours walks an FS. Directories have no size in the result.
func ours(fsys fs.FS) (map[string]seen, error) {
	out := map[string]seen{}
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		s := seen{mode: info.Mode().Perm(), mtime: info.ModTime().Unix(), kind: "dir"}
		switch info.Mode().Type() {
		case fs.ModeDir:
		case fs.ModeSymlink:
			s.kind = "link"
			s.target, err = fs.ReadLink(fsys, path)
		case 0:
			s.kind, s.size = "file", info.Size()
			s.sha, err = hashFile(fsys, path)
		default:
			s.kind = info.Mode().Type().String()
		}
		out[path] = s
		return err
	})
	return out, err
}

func hashFile(fsys fs.FS, path string) (string, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// bsdtarTree is what bsdtar reads from an image, with the digests of the contents.
func bsdtarTree(t testing.TB, image string) (map[string]seen, error) {
	t.Helper()
	out, err := tryTool(t, time.Minute, "bsdtar", "-cf", "-", "--format=mtree", "--options=mtree:!all,mtree:type,mtree:mode,mtree:size,mtree:time,mtree:link,mtree:sha256,mtree:nlink", "@"+image)
	tree, perr := parseMtree(out)
	if perr != nil {
		t.Fatalf("mtree of %s: %v", image, perr)
	}
	return tree, err
}

func parseMtree(out []byte) (map[string]seen, error) {
	tree := map[string]seen{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0][0] == '#' || fields[0][0] == '/' {
			continue
		}
		name, err := unvis(fields[0])
		if err != nil {
			return nil, err
		}
		name = strings.TrimPrefix(name, "./")
		var s seen
		for _, f := range fields[1:] {
			key, value, _ := strings.Cut(f, "=")
			switch key {
			case "type":
				s.kind = value
			case "mode":
				m, err := strconv.ParseUint(value, 8, 32)
				if err != nil {
					return nil, err
				}
				s.mode = fs.FileMode(m & 0o777)
			case "time":
				sec, _, _ := strings.Cut(value, ".")
				if s.mtime, err = strconv.ParseInt(sec, 10, 64); err != nil {
					return nil, err
				}
			case "size":
				if s.size, err = strconv.ParseInt(value, 10, 64); err != nil {
					return nil, err
				}
			case "link":
				if s.target, err = unvis(value); err != nil {
					return nil, err
				}
			case "sha256", "sha256digest":
				s.sha = value
			}
		}
		if s.kind != "file" {
			s.size = 0
		}
		tree[name] = s
	}
	return tree, nil
}

// unvis undoes the octal escapes of mtree.
func unvis(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i+3 >= len(s) {
			return "", fmt.Errorf("escape in %q", s)
		}
		v, err := strconv.ParseUint(s[i+1:i+4], 8, 8)
		if err != nil {
			return "", err
		}
		b.WriteByte(byte(v))
		i += 3
	}
	return b.String(), nil
}

// xorrisoTree extracts an image with xorriso and returns what lies on the disk then.
func xorrisoTree(t testing.TB, image string, args ...string) (map[string]seen, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "x")
	args = append(args, "-report_about", "WARNING", "-abort_on", "FATAL", "-return_with", "SORRY", "32", "-osirrox", "on", "-indev", "stdio:"+image, "-extract", "/", dir)
	_, err := tryTool(t, 2*time.Minute, "xorriso", args...)
	tree, werr := diskTree(dir)
	if werr != nil && err == nil {
		err = werr
	}
	makeRemovable(dir)
	return tree, err
}

// makeRemovable gives directories back the bits that TempDir's cleaning needs.
func makeRemovable(dir string) {
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(path, 0o700)
		}
		return nil
	})
}

func diskTree(dir string) (map[string]seen, error) {
	if _, err := os.Lstat(dir); err != nil {
		return nil, err
	}
	return ours(os.DirFS(dir))
}

// isoinfoNames are the paths that isoinfo finds.
func isoinfoNames(t testing.TB, image string, args ...string) ([]string, error) {
	t.Helper()
	out, err := tryTool(t, time.Minute, "isoinfo", append(args, "-f", "-i", image)...)
	var names []string
	for line := range strings.Lines(string(out)) {
		name := strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "/")
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, err
}

// paths returns the sorted paths of a tree but for its root.
func paths(tree map[string]seen) []string {
	var out []string
	for p := range tree {
		if p != "." {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

// compareTrees reports how two trees differ. keep says what of an entry counts.
func compareTrees(t testing.TB, wantName string, want map[string]seen, gotName string, got map[string]seen, keep func(path string, s seen) seen) {
	t.Helper()
	bad := 0
	report := func(format string, args ...any) {
		if bad++; bad <= 10 {
			t.Errorf("%s and %s: %s", wantName, gotName, fmt.Sprintf(format, args...))
		}
	}
	for p, w := range want {
		g, ok := got[p]
		if !ok {
			report("%.100q is missing in the second", p)
			continue
		}
		if w, g = keep(p, w), keep(p, g); w != g {
			report("%.100q: %+v, %+v", p, w, g)
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			report("%.100q is only in the second", p)
		}
	}
	if bad > 10 {
		t.Errorf("%s and %s: %d differences in all", wantName, gotName, bad)
	}
}
