package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// room is a folder with all that fixture makes.
func room(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := copyTree(fixture(t), dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// names lists a folder, hidden files too.
func names(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, d := range list {
		fmt.Fprintln(&b, d.Name())
	}
	return b.String()
}

const (
	ctrlC = "\x03"
	ctrlD = "\x04"
)

// TestPrompts answers questions wrongly, or not at all. Whatever the answer: the right exit status, one line at the
// end, nothing written, and a terminal that echoes again.
func TestPrompts(t *testing.T) {
	t.Parallel()
	program := plainProgram(t)
	dir := room(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(in("pw"), []byte("right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"key", "generate", "--password-file", "pw", "safe"},
		{"prepare", "payload", "-o", "raw.iso", "--channel", "news", "--trust", "trust.json"},
	} {
		cmd := exec.Command(program, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	before := names(t, dir)
	image, err := os.ReadFile(in("raw.iso"))
	if err != nil {
		t.Fatal(err)
	}
	type answer struct{ prompt, typed string }
	sign := []string{"sign", "raw.iso", "--key", "safe.key"}
	open := []string{"sign", "raw.iso", "--key", "alice.key"}
	generate := []string{"key", "generate", "new"}
	for _, test := range []struct {
		name    string
		args    []string
		answers []answer
		code    int
		last    string
	}{
		{"key generate, ^C", generate, []answer{{"New password: ", ctrlC}}, 130, "sallyport key generate: stopped: interrupt signal received; nothing half-done is left"},
		{"key generate, ^C at the second", generate, []answer{{"New password: ", "a\n"}, {"The same again: ", ctrlC}}, 130, "sallyport key generate: stopped: interrupt signal received; nothing half-done is left"},
		{"key generate, ^D", generate, []answer{{"New password: ", ctrlD}}, 2, "sallyport key generate: no password was given"},
		{"key generate, empty", generate, []answer{{"New password: ", "\n"}}, 2, "sallyport key generate: the password is empty; --no-password makes a key without one"},
		{"key generate, two passwords", generate, []answer{{"New password: ", "a\n"}, {"The same again: ", "b\n"}}, 2, "sallyport key generate: the two passwords differ; nothing was written"},
		{"sign, ^C at the password", sign, []answer{{"Password of safe.key: ", ctrlC}}, 130, "sallyport sign: stopped: interrupt signal received; nothing half-done is left"},
		{"sign, ^C in the password", sign, []answer{{"Password of safe.key: ", "rig" + ctrlC}}, 130, "sallyport sign: stopped: interrupt signal received; nothing half-done is left"},
		{"sign, wrong password", sign, []answer{{"Password of safe.key: ", "wrong\n"}, {"Password of safe.key: ", "worse\n"}, {"Password of safe.key: ", "\n"}}, 2, "sallyport sign: safe.key: wrong password"},
		{"sign, right password at last", sign, []answer{{"Password of safe.key: ", "wrong\n"}, {"Password of safe.key: ", "right\n"}, {"Sign this? [y/N] ", "n\n"}}, 2, "sallyport sign: the answer was not yes: nothing was signed"},
		{"sign, ^C at the question", sign, []answer{{"Password of safe.key: ", "right\n"}, {"Sign this? [y/N] ", ctrlC}}, 130, "sallyport sign: stopped: interrupt signal received; nothing half-done is left"},
		{"sign, ^D at the question", open, []answer{{"Sign this? [y/N] ", ctrlD}}, 2, "sallyport sign: the answer was not yes: nothing was signed"},
		{"sign, return at the question", open, []answer{{"Sign this? [y/N] ", "\n"}}, 2, "sallyport sign: the answer was not yes: nothing was signed"},
		{"sign, no", open, []answer{{"Sign this? [y/N] ", "no\n"}}, 2, "sallyport sign: the answer was not yes: nothing was signed"},
		{"trust sign, ^C", []string{"trust", "sign", "trust.json", "--key", "safe.key"}, []answer{{"Password of safe.key: ", ctrlC}}, 130, "sallyport trust sign: stopped: interrupt signal received; nothing half-done is left"},
		{"key show, ^C", []string{"key", "show", "safe.key"}, []answer{{"Password of safe.key: ", ctrlC}}, 130, "sallyport key show: stopped: interrupt signal received; nothing half-done is left"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var stdout bytes.Buffer
			cmd := exec.Command(program, test.args...)
			cmd.Dir = dir
			term := onTerminal(t, &stdout, cmd)
			for _, a := range test.answers {
				term.expect(a.prompt)
				if hidden := strings.Contains(strings.ToLower(a.prompt), "password") || a.prompt == "The same again: "; hidden == term.echoes() {
					t.Errorf("at %q the terminal echoes: %v", a.prompt, !hidden)
				}
				term.typed(a.typed)
			}
			code, screen := term.wait()
			lines := strings.Split(strings.TrimRight(screen, "\n"), "\n")
			if last := lines[len(lines)-1]; code != test.code || last != test.last {
				t.Errorf("exit status %d, last line %q; want %d, %q; on the terminal:\n%s", code, last, test.code, test.last, screen)
			}
			if stdout.Len() > 0 {
				t.Errorf("on stdout: %q", &stdout)
			}
			if strings.Contains(screen, "rig") && !strings.Contains(screen, "right") || strings.Contains(screen, "wrong\n\n") {
				t.Errorf("a password was shown:\n%s", screen)
			}
		})
	}
	t.Cleanup(func() {
		if after := names(t, dir); after != before {
			t.Errorf("before:\n%safter:\n%s", before, after)
		}
		if now, err := os.ReadFile(in("raw.iso")); err != nil || !bytes.Equal(now, image) {
			t.Errorf("the image changed, %v", err)
		}
	})
}

// TestSignJSON: who wants JSON from sign, and sits at a terminal, is shown what there is to sign and asked all the same.
func TestSignJSON(t *testing.T) {
	t.Parallel()
	dir := room(t)
	must(t, dir, "prepare", "payload", "-o", "raw.iso", "--channel", "news", "--trust", "trust.json")
	before, err := os.ReadFile(filepath.Join(dir, "raw.iso"))
	if err != nil {
		t.Fatal(err)
	}
	sign := func(answer string) (int, string, string) {
		var stdout bytes.Buffer
		cmd := exec.Command(plainProgram(t), "sign", "raw.iso", "--key", "alice.key", "--json")
		cmd.Dir = dir
		term := onTerminal(t, &stdout, cmd)
		term.expect("read aloud   ")
		term.expect("Sign this? [y/N] ")
		term.typed(answer)
		code, screen := term.wait()
		return code, stdout.String(), screen
	}
	if code, out, screen := sign("n\n"); code != 2 || !strings.Contains(out, `"ok":false`) {
		t.Errorf("no: exit status %d, on stdout %q:\n%s", code, out, screen)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "raw.iso")); err != nil || !bytes.Equal(after, before) {
		t.Errorf("no: the image changed, %v", err)
	}
	if code, out, screen := sign("y\n"); code != 0 || !strings.Contains(out, `"slot":0`) {
		t.Errorf("yes: exit status %d, on stdout %q:\n%s", code, out, screen)
	}
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")

// TestProgress looks at what a terminal of 80 columns gets to see of a long command, and others don't.
func TestProgress(t *testing.T) {
	t.Parallel()
	dir := room(t)
	if err := os.Truncate(touch(t, filepath.Join(dir, "payload", "large")), 24<<20); err != nil {
		t.Fatal(err)
	}
	prepare := []string{"prepare", "payload", "-o", "large.iso", "--channel", "news", "--trust", "trust.json", "--fec-roots", "2"}
	for _, test := range []struct {
		name    string
		env     []string
		args    []string
		bar     bool
		escapes bool
	}{
		{"terminal", []string{"TERM=xterm"}, prepare, true, true},
		{"NO_COLOR", []string{"TERM=xterm", "NO_COLOR=1"}, prepare, true, false},
		{"dumb", []string{"TERM=dumb"}, prepare, true, false},
		{"json", []string{"TERM=xterm"}, append([]string{"--json"}, prepare...), false, false},
		{"quiet", []string{"TERM=xterm"}, append([]string{"--log-level=error"}, prepare...), false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.Command("sallyport", test.args...)
			cmd.Dir, cmd.Env = dir, append(os.Environ(), test.env...)
			var stdout bytes.Buffer
			code, screen := onTerminal(t, &stdout, cmd).wait()
			if code != 0 {
				t.Fatalf("exit status %d\n%s", code, screen)
			}
			if strings.Contains(stdout.String(), "\r") || stdout.Len() == 0 {
				t.Errorf("on stdout: %q", &stdout)
			}
			if !test.bar {
				if screen != "" {
					t.Errorf("on the terminal: %q", screen)
				}
				return
			}
			if got := strings.Contains(screen, "\x1b"); got != test.escapes {
				t.Errorf("escape sequences: %v, want %v: %q", got, test.escapes, screen)
			}
			for _, step := range []string{"prepare", "parity"} {
				if !strings.Contains(screen, step+strings.Repeat(" ", 12-len(step))+" 100% |████████████████|") {
					t.Errorf("no full bar for %q: %q", step, screen)
				}
			}
			for _, line := range strings.FieldsFunc(escapes.ReplaceAllString(screen, ""), func(r rune) bool { return r == '\r' || r == '\n' }) {
				if n := utf8.RuneCountInString(strings.TrimRight(line, " ")); n >= 80 {
					t.Errorf("%d columns: %q", n, line)
				}
			}
		})
	}

	// A pipe gets no bar, and a burn shows all its steps.
	cmd := exec.Command("sallyport", prepare...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil || stderr.Len() > 0 {
		t.Errorf("%v, on stderr: %q", err, &stderr)
	}
	cmd = exec.Command("sallyport", "burn", "bundle.iso", "--drive", "sim:drive")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TERM=xterm")
	code, screen := onTerminal(t, &stderr, cmd).wait()
	at := 0
	for _, step := range []string{"verify", "checking", "calibrating", "writing", "closing", "reloading", "reading back"} {
		i := strings.Index(screen[at:], step)
		if i < 0 {
			t.Fatalf("exit status %d; %q is missing, or out of order: %q", code, step, screen)
		}
		at += i
	}
}

func touch(t *testing.T, path string) string {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}
