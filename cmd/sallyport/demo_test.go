package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDemoLarge carries Go's sources, more than ten thousand files, and a sparse file of 4.1 GiB.
func TestDemoLarge(t *testing.T) {
	if os.Getenv("SALLYPORT_BIG") != "1" {
		t.Skip("NOT RUN: transfers of Go's sources and of a file of 4.1 GiB. Set SALLYPORT_BIG=1 (25 GiB of disk)")
	}
	program := plainProgram(t)
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	sparse := t.TempDir()
	for path, size := range map[string]int64{"head": 4<<30 + 100<<20 + 1, "sub/tail": 1} {
		mkdir(t, filepath.Dir(filepath.Join(sparse, path)))
		if err := os.Truncate(touch(t, filepath.Join(sparse, path)), size); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(filepath.Join(sparse, "head"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 1<<32 - 2049, 1<<32 - 1, 4<<30 + 100<<20} { // both sides of the first extent's end
		if _, err := f.WriteAt([]byte("x"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for name, payload := range map[string]string{
		"go": filepath.Join(strings.TrimSpace(string(goroot)), "src"), "sparse": sparse,
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			cmd := exec.Command(program, "demo", "--payload", payload, "--keep", out)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if text, err := cmd.Output(); err != nil {
				t.Fatalf("%v\n%s%s", err, text, &stderr)
			}
			released := onlyChild(t, filepath.Join(out, "spool/demo"))
			if diff, err := exec.Command("diff", "-r", "--no-dereference", payload, released).CombinedOutput(); err != nil {
				t.Errorf("%v\n%.2000s", err, diff)
			}
			list := func(dir string) string {
				b, err := exec.Command("sh", "-c", `cd "$1" && find . -printf '%p %y %m %s %Ts %l\n' | sed 's/ d \([0-9]*\) [0-9]* / d \1 /' | LC_ALL=C sort`, "sh", dir).CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%.2000s", err, b)
				}
				return string(b)
			}
			if list(payload) != list(released) {
				t.Error("kinds, modes, times or sizes differ")
			}
			if same, err := exec.Command("cmp", filepath.Join(out, "bundle.iso"), filepath.Join(out, "disc.img")).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, same)
			}
			t.Cleanup(func() { removeAll(out) })
		})
	}
}
