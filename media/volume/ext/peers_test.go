package ext

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// listTree says a line for each file of a tree: path, mode, size, time of the last change in seconds, and its digest or
// target.
func listTree(fsys fs.FS) (map[string]string, error) {
	tree := map[string]string{}
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." || path == "lost+found" {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		what := ""
		size := info.Size()
		switch {
		case info.IsDir():
			size = 0
		case info.Mode().IsRegular():
			f, err := fsys.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			h := sha256.New()
			if _, err := io.Copy(h, f); err != nil {
				return err
			}
			what = fmt.Sprintf("%x", h.Sum(nil))
		case info.Mode()&fs.ModeSymlink != 0:
			if what, err = fs.ReadLink(fsys, path); err != nil {
				return err
			}
		}
		tree[path] = fmt.Sprintf("%v %d %d %s", info.Mode(), size, info.ModTime().Unix(), what)
		return nil
	})
	return tree, err
}

func compareTrees(t *testing.T, got, want map[string]string) {
	t.Helper()
	for path, line := range want {
		if got[path] != line {
			t.Errorf("%q is %q, want %q", path, got[path], line)
		}
	}
	for path, line := range got {
		if _, ok := want[path]; !ok {
			t.Errorf("%q is there, %q", path, line)
		}
	}
}

// source makes a tree of everything that ext can hold and a test may make.
func source(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name string, data []byte) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("hello.txt", []byte("hello\n"))
	put("empty", nil)
	put("tiny", bytes.Repeat([]byte("x"), 59))
	put("inline", bytes.Repeat([]byte("0123456789"), 9)) // what an inode of 256 bytes can hold
	put("large", bytes.Repeat([]byte("0123456789abcdef"), 200_000))
	put("deep/er/and/deeper/file", []byte("deep"))
	put("ünï/\xf0\x9f\x98\x80.txt", []byte("names"))
	put(strings.Repeat("n", 255), []byte("a long name"))
	for i := range 700 {
		put(fmt.Sprintf("many/a file with a rather long name, number %04d", i), []byte{byte(i)})
	}
	// Extents that need nodes of their own, and blocks of block numbers: a hole after each block.
	holes, err := os.Create(filepath.Join(dir, "holes"))
	if err != nil {
		t.Fatal(err)
	}
	defer holes.Close()
	for i := range int64(900) {
		if _, err := holes.WriteAt(bytes.Repeat([]byte{byte(i) | 1}, 4096), i*8192); err != nil {
			t.Fatal(err)
		}
	}
	// With inline_data mke2fs forgets a hole at a file's end.
	if _, err := holes.WriteAt([]byte("the end"), 900*8192+77); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"link": "hello.txt", "long link": strings.Repeat("d/", 60) + "x", "link 60": strings.Repeat("y", 60), "link 59": strings.Repeat("y", 59)} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "hello.txt"), filepath.Join(dir, "deep/hard")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "tiny"), 0o4755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	for name, when := range map[string]time.Time{"hello.txt": time.Unix(1_700_000_000, 0), "empty": time.Unix(1<<31-1, 0), "tiny": time.Unix(1, 0)} {
		if err := os.Chtimes(filepath.Join(dir, name), when, when); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestPeers reads what mke2fs made of a tree, with all the features that change how it is read.
func TestPeers(t *testing.T) {
	dir := source(t)
	want, err := listTree(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		is   string
		hash bool // e2fsck makes trees over hashes
	}{
		{"ext2, 1 KiB", []string{"-t", "ext2", "-b", "1024"}, "ext2", false},
		{"ext2, old inodes", []string{"-t", "ext2", "-b", "4096", "-I", "128"}, "ext2", false},
		{"ext3, trees", []string{"-t", "ext3", "-b", "2048"}, "ext3", true},
		{"ext4", []string{"-t", "ext4", "-b", "4096"}, "ext4", false},
		{"ext4, trees, 1 KiB", []string{"-t", "ext4", "-b", "1024"}, "ext4", true},
		{"ext4, 32 bits, no checksums", []string{"-t", "ext4", "-b", "4096", "-O", "^64bit,^metadata_csum"}, "ext4", true},
		{"ext4, old checksums", []string{"-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"}, "ext4", false},
		{"ext4, inline", []string{"-t", "ext4", "-b", "4096", "-O", "inline_data"}, "ext4", false},
		{"ext4, inline, large inodes", []string{"-t", "ext4", "-b", "4096", "-I", "1024", "-O", "inline_data"}, "ext4", false},
		{"ext4, meta_bg", []string{"-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"}, "ext4", true},
		{"ext4, sparse_super2", []string{"-t", "ext4", "-b", "1024", "-O", "sparse_super2"}, "ext4", false},
		{"ext4, bigalloc", []string{"-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "16384"}, "ext4", false},
		{"ext4, no extents", []string{"-t", "ext4", "-b", "1024", "-O", "^extent,^64bit"}, "ext4", false},
		{"ext4, casefold", []string{"-t", "ext4", "-b", "4096", "-O", "casefold"}, "ext4", true},
		{"ext4, seed", []string{"-t", "ext4", "-b", "4096", "-O", "metadata_csum_seed,large_dir"}, "ext4", true},
		{"ext4, 64 KiB", []string{"-t", "ext4", "-b", "65536"}, "ext4", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			args := append([]string{"-q", "-F", "-L", "a label", "-d", dir, "-E", "root_owner=0:0"}, tt.args...)
			tool(t, "mke2fs", append(args, image, "96M")...)
			if tt.hash {
				if out, err := exec.Command("e2fsck", "-fyD", image).CombinedOutput(); err != nil && err.(*exec.ExitError).ExitCode() != 1 {
					t.Fatalf("e2fsck: %v\n%s", err, out)
				}
			}
			tool(t, "e2fsck", "-fn", image)
			f, err := os.Open(image)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			fsys, err := Open(f, 96<<20)
			if err != nil {
				t.Fatal(err)
			}
			if fsys.Name() != tt.is || fsys.Label() != "a label" {
				t.Errorf("%s %q", fsys.Name(), fsys.Label())
			}
			got, err := listTree(fsys)
			if err != nil {
				t.Fatal(err)
			}
			compareTrees(t, got, want)
			for _, x := range fsys.Findings() {
				t.Errorf("finding %v", x)
			}
			if tt.hash {
				if out := tool(t, "debugfs", "-R", "htree many", image); !strings.Contains(out, "Root node dump") {
					t.Errorf("there is no tree over hashes: %s", out)
				}
			}
		})
	}
}
