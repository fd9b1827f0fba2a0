package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// many has a statement for each of 40 bytes.
func many() string {
	var b strings.Builder
	b.WriteString("package gate\n\nfunc open(b byte) int {\n\tswitch b {\n")
	for i := range 40 {
		fmt.Fprintf(&b, "\tcase %d:\n\t\treturn %d\n", 'A'+i, i)
	}
	b.WriteString("\t}\n\treturn -1\n}\n")
	return b.String()
}

const manyTest = `package gate

import (
	"os"
	"testing"
)

func FuzzMany(f *testing.F) {
	good, err := os.ReadFile("testdata/good")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range b {
			open(b)
		}
	})
}
`

func TestPickSeeds(t *testing.T) {
	seed := func(s string) string { return fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", s) }
	root := module(t, map[string]string{
		"go.mod":                           "module house\n\ngo 1.26\n",
		"gate/gate.go":                     many(),
		"gate/gate_test.go":                manyTest,
		"gate/testdata/good":               "A",
		"gate/testdata/fuzz/FuzzMany/kept": seed("B"),
	})
	text, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	// A path of its own in the cache, since that is everybody's.
	pkg := "house" + filepath.Base(filepath.Dir(root)) + "/gate"
	if err := os.WriteFile(filepath.Join(root, "go.mod"), []byte("module "+filepath.Dir(pkg)+"\n\ngo 1.26\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	cached := filepath.Join(strings.TrimSpace(string(text)), "fuzz", pkg, "FuzzMany")
	t.Cleanup(func() { os.RemoveAll(filepath.Join(strings.TrimSpace(string(text)), "fuzz", filepath.Dir(pkg))) })
	if err := os.MkdirAll(cached, 0o777); err != nil {
		t.Fatal(err)
	}
	write := func(inputs map[string]string) {
		t.Helper()
		for name, s := range inputs {
			if err := os.WriteFile(filepath.Join(cached, name), []byte(seed(s)), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	pick := func() []string {
		t.Helper()
		var out bytes.Buffer
		r := runner{goTool: "go", root: root, out: &out}
		if err := do(t.Context(), &out, r, "", false, true); err != nil {
			t.Fatal(err)
		}
		seeds, err := filepath.Glob(filepath.Join(root, "gate/testdata/fuzz/FuzzMany/*"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range seeds {
			seeds[i] = filepath.Base(seeds[i])
		}
		return seeds
	}
	write(map[string]string{"a": "A", "b": "B", "ab": "BA", "c": "C", "cd": "CD", "abcd": "ABCD", "e": "E" + strings.Repeat("A", 5000), "f": "F" + strings.Repeat("A", 3000)})
	if got := pick(); !slices.Equal(got, []string{"c", "cd", "f", "kept"}) {
		t.Errorf("picked %q", got)
	}
	more := make(map[string]string)
	for i := range 35 {
		more[fmt.Sprint("m", i)] = string(rune('F' + i))
	}
	write(more)
	if got := pick(); len(got) != maxSeeds || !slices.Contains(got, "kept") || !slices.Contains(got, "cd") {
		t.Errorf("picked %d: %q, of %q", len(got), got, slices.Sorted(maps.Keys(more)))
	}
}
