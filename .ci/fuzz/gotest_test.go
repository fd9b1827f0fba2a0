package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// module writes a module and returns its folder.
func module(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// gate lets in what few inputs are.
const gate = `package gate

import "testing"

func open(b []byte) int {
	if len(b) < 3 {
		return 0
	}
	if b[0] != 'x' {
		return 1
	}
	if b[1] != 'y' {
		return 2
	}
	panic("open")
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte("abc"))
	f.Fuzz(func(t *testing.T, b []byte) { open(b) })
}

func FuzzLen(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 2 {
			t.Log("long")
		}
	})
}
`

func TestTargets(t *testing.T) {
	r := runner{goTool: "go", root: module(t, map[string]string{
		"go.mod":              "module house\n\ngo 1.26\n",
		"z/gate/gate_test.go": gate,
		"a/other_test.go":     strings.Replace(gate, "FuzzLen", "FuzzMore", 1),
		"empty/empty.go":      "package empty\n",
	})}
	targets, err := r.targets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []target{{"house/a", "./a", "FuzzMore"}, {"house/a", "./a", "FuzzOpen"}, {"house/z/gate", "./z/gate", "FuzzLen"}, {"house/z/gate", "./z/gate", "FuzzOpen"}}
	if !slices.Equal(targets, want) {
		t.Errorf("%v", targets)
	}
	for only, want := range map[string][]target{"": targets, "FuzzLen": targets[2:3], "z/gate.FuzzOpen,FuzzMore": {targets[3], targets[0]}, "FuzzOpen": nil, "a.FuzzLen": nil, "FuzzLen,": nil} {
		got, err := pick(targets, only)
		if !reflect.DeepEqual(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %v, %v", only, got, err)
		}
	}
	if err := os.WriteFile(filepath.Join(r.root, "a/other_test.go"), []byte("package a\nfunc FuzzX("), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := r.targets(t.Context()); err == nil || !strings.Contains(err.Error(), "other_test.go") {
		t.Errorf("with a package that doesn't compile: %v", err)
	}
}

func TestParseList(t *testing.T) {
	dirs := map[string]string{"m": "./.", "m/a": "./a", "m/b": "./b"}
	got, err := parseList([]byte("?   \tm\t[no test files]\nFuzzA\nFuzzB\nok  \tm/a\t0.01s\nok  \tm/b\t0.01s\n"), dirs)
	if want := []target{{"m/a", "./a", "FuzzA"}, {"m/a", "./a", "FuzzB"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"FuzzA\n", "FuzzA\nok\n", "FuzzA\nok  \tm/c\t0.01s\n", "FuzzA\nhello\nok  \tm/a\t0.01s\n"} {
		if got, err := parseList([]byte(bad), dirs); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

// With the real go command: a target with a crash is found out, and the command given shows it.
func TestCrash(t *testing.T) {
	var out bytes.Buffer
	r := runner{goTool: "go", workers: 1, quiet: time.Minute, still: time.Minute, every: time.Minute, memory: 4096, out: &out,
		root: module(t, map[string]string{"go.mod": "module house\n\ngo 1.26\n", "gate/gate_test.go": gate})}
	err := do(t.Context(), &out, r, "FuzzOpen", false, false)
	var f *failure
	if !errors.As(err, &f) || !strings.HasPrefix(f.detail, "fails with the input ") {
		t.Fatalf("%v\n%s", err, out.String())
	}
	cmd := exec.Command("bash", "-c", f.command)
	cmd.Dir = r.root
	if text, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(text), "panic: open") {
		t.Errorf("%s: %v\n%s", f.command, err, text)
	}
}

// With the real go command: what asks for more memory than there may be fails.
func TestMemory(t *testing.T) {
	var out bytes.Buffer
	r := runner{goTool: "go", workers: 1, quiet: 10 * time.Second, still: time.Minute, every: time.Minute, memory: 2048, out: &out,
		root: module(t, map[string]string{"go.mod": "module house\n\ngo 1.26\n", "gate/gate_test.go": strings.Replace(gate, `panic("open")`, "return len(make([]byte, 2<<30))", 1)})}
	err := do(t.Context(), &out, r, "FuzzOpen", false, false)
	var f *failure
	if !errors.As(err, &f) || !strings.HasPrefix(f.detail, "fails with the input ") {
		t.Fatalf("%v\n%s", err, out.String())
	}
}

// With the real go command: a target with nothing to find ends, and counts.
func TestFine(t *testing.T) {
	var out bytes.Buffer
	r := runner{goTool: "go", workers: 1, quiet: 3 * time.Second, still: time.Minute, every: time.Minute, memory: 4096, out: &out,
		root: module(t, map[string]string{"go.mod": "module house\n\ngo 1.26\n", "gate/gate_test.go": gate})}
	if err := do(t.Context(), &out, r, "gate.FuzzLen", false, false); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "gate.FuzzLen: quiet after ") {
		t.Errorf("got\n%s", out.String())
	}
}
