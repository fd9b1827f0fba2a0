package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// door is a small package whose tests look after some of its checks.
const door = `package door

import "os"

func open(key int) bool {
	if key < 0 {
		return false
	}
	if key > 99 {
		return false
	}
	return true
}

func first(keys []int) int {
	if len(keys) == 0 {
		return 0
	}
	return keys[0]
}

func spin(n int) {
	if n == 0 {
		return
	}
	for n != 0 {
		n--
	}
}

func room(size int) int {
	if size > 1<<10 {
		return 0
	}
	return len(make([]byte, size))
}

func leave(ok bool) {
	if !ok {
		return
	}
	os.Exit(3)
}
`

const doorTest = `package door

import "testing"

func TestOpen(t *testing.T) {
	t.Run("two keys", func(t *testing.T) {
		if open(-1) || !open(2) {
			t.Error("opened")
		}
	})
	t.Run("no key", func(t *testing.T) {})
}

func TestBlind(t *testing.T) { open(-1); open(100) }

func TestFirst(t *testing.T) { first(nil) }

func TestSpin(t *testing.T) { spin(0) }

func TestRoom(t *testing.T) {
	if room(1<<34) != 0 {
		t.Error("got room")
	}
}

func TestLeave(t *testing.T) { leave(false) }

func TestSkipped(t *testing.T) { t.Skip("not here") }

func TestSometimes(t *testing.T) {
	if open(-1) {
		t.Skip("not with such a door")
	}
}

func TestBroken(t *testing.T) { t.Error("always") }
`

const (
	negative = "old:\n|	if key < 0 {\nnew:\n|	if false {\n"
	large    = "old:\n|	if key > 99 {\nnew:\n|	if false {\n"
)

func removal(id, tests, change string) string {
	return "id: " + id + "\nfile: door/door.go\ntest: ./door " + tests + "\n" + change + "---\n"
}

func module(t *testing.T, table string) string {
	t.Helper()
	return write(t, map[string]string{
		"go.mod":               "module house\n\ngo 1.26\n",
		"door/door.go":         door,
		"door/door_test.go":    doorTest,
		".ci/removals/all.txt": table,
	})
}

func TestRun(t *testing.T) {
	tests := []struct{ name, tests, change, want string }{
		{"red", "TestOpen", negative, `^ok     \S+ +red as it must be \(`},
		{"red-in-a-subtest", "TestOpen/two_keys", negative, `^ok     \S+ +red as it must be \(`},
		{"green", "TestBlind", negative, `^GREEN  \S+ +TestBlind passes without the check in door/door.go, \S+all.txt:\d+ \(`},
		{"green-in-a-subtest", "TestOpen/no_key", negative, `^GREEN `},
		{"green-for-another-check", "TestOpen", large, `^GREEN `},
		{"green-in-the-second", "TestOpen TestBlind", negative, `^GREEN  \S+ +TestBlind passes`},
		{"panic", "TestFirst", "old:\n|	if len(keys) == 0 {\nnew:\n|	if false {\n", `^ok     \S+ +red as it must be, TestFirst ends its program \(`},
		{"exit", "TestLeave", "old:\n|	if !ok {\nnew:\n|	if false {\n", `^ok     \S+ +red as it must be, TestLeave ends its program \(`},
		{"endless", "TestSpin", "old:\n|	if n == 0 {\n|		return\n|	}\n|	for n != 0 {\nnew:\n|	for n <= 0 {\n", `^ok     \S+ +red as it must be, TestSpin runs into the time limit \(`},
		{"memory", "TestRoom", "old:\n|	if size > 1<<10 {\nnew:\n|	if false {\n", `^ok     \S+ +red as it must be, TestRoom ends its program \(`},
		{"no-build", "TestOpen", "old:\n|	if key < 0 {\nnew:\n|	if clue < 0 {\n", `^ERROR  \S+ +TestOpen doesn't build with the change, \S+all.txt:\d+ \(`},
		{"no-test", "TestShut", negative, `^ERROR  \S+ +TestShut must pass as long as nothing is changed, but doesn't exist`},
		{"no-subtest", "TestOpen/three_keys", negative, `^ERROR  \S+ +TestOpen/three_keys must pass as long as nothing is changed, but doesn't exist`},
		{"skipped", "TestSkipped", negative, `^ERROR  \S+ +TestSkipped must pass as long as nothing is changed, but is skipped`},
		{"skipped-then", "TestSometimes", negative, `^ERROR  \S+ +TestSometimes is skipped with the change`},
		{"always-red", "TestBroken", negative, `^ERROR  \S+ +TestBroken must pass as long as nothing is changed, but fails`},
	}
	var table strings.Builder
	for _, tt := range tests {
		table.WriteString(removal(tt.name, tt.tests, tt.change))
	}
	root := module(t, table.String())
	var out strings.Builder
	r := runner{root: root, workers: 2, timeout: 4 * time.Second, memory: 4096}
	whole, err := do(t.Context(), &out, r, selection{}, false, false)
	if err != nil || whole {
		t.Errorf("do: %t, %v, want false and no error", whole, err)
	}
	var lines []string
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "\t") {
			lines = append(lines, line)
		}
	}
	if len(lines) != len(tests)+1 {
		t.Fatalf("do printed\n%s", out.String())
	}
	for i, tt := range tests {
		if !regexp.MustCompile(tt.want).MatchString(lines[i]) || strings.Fields(lines[i])[1] != tt.name {
			t.Errorf("%s: got %q, want %q", tt.name, lines[i], tt.want)
		}
	}
	const sum = "removals: 16 entries, 6 red as they must be, 4 green, 6 in error\n"
	if got := lines[len(tests)]; got != sum {
		t.Errorf("the last line is %q, want %q", got, sum)
	}
	if !strings.Contains(out.String(), "undefined: clue") {
		t.Errorf("the compiler's message is missing in\n%s", out.String())
	}
	if text, err := os.ReadFile(filepath.Join(root, "door/door.go")); err != nil || string(text) != door {
		t.Errorf("the source itself was changed (%v)", err)
	}
}

func TestRunAllRed(t *testing.T) {
	r := runner{root: module(t, removal("T1-a", "TestOpen", negative)+removal("T1-b", "TestBlind", negative)), workers: 1, timeout: time.Minute}
	var out strings.Builder
	whole, err := do(t.Context(), &out, r, selection{only: "T1-a"}, false, false)
	if err != nil || !whole {
		t.Errorf("do: %t, %v, want true; it printed\n%s", whole, err, out.String())
	}
}

func TestCheckOnly(t *testing.T) {
	tests := []struct {
		name, table string
		err         []string
	}{
		{"sound", removal("T1-a", "TestNone", negative) + removal("T1-b", "TestNone", large), nil},
		{"lines gone", removal("T1-a", "TestOpen", "old:\n|	if key <= 0 {\nnew:\n") + removal("T1-b", "TestOpen", "old:\n|		return false\nnew:\n"),
			[]string{"all.txt:1: T1-a: door/door.go: the lines of old don't stand there", "all.txt:8: T1-b: door/door.go: the lines of old stand there more than once, at lines 7 and 10"}},
		{"file gone", strings.Replace(removal("T1-a", "TestOpen", negative), "door.go", "gate.go", 1), []string{"T1-a: open ", "no such file"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			whole, err := do(t.Context(), &out, runner{root: module(t, tt.table)}, selection{}, true, false)
			if len(tt.err) == 0 {
				if err != nil || !whole || out.String() != "removals: 2 entries read, the lines of each found once\n" {
					t.Errorf("do: %t, %v, %q", whole, err, out.String())
				}
				return
			}
			for _, want := range tt.err {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("do: %v, want %q in it", err, want)
				}
			}
		})
	}
}

func TestRunStopped(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	r := runner{root: module(t, removal("T1-a", "TestOpen", negative)), workers: 1, timeout: time.Minute}
	var out strings.Builder
	if _, err := do(ctx, &out, r, selection{}, false, false); err == nil || !strings.Contains(err.Error(), "stopped before T1-a was done") {
		t.Errorf("do: %v, want that it was stopped", err)
	}
}
