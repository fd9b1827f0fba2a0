package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"sallyport/bundle"
)

// TestSignScreen: what a signer is shown fits above the question onto a terminal of 24 lines, however much is carried
// and new, and the digest to read aloud is on it.
func TestSignScreen(t *testing.T) {
	t.Parallel()
	dir := room(t)
	write := func(first, last int, text string) {
		for i := first; i < last; i++ {
			if err := os.WriteFile(filepath.Join(dir, "payload", fmt.Sprintf("%03d-%s", i, strings.Repeat("long", 10))), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(0, 100, "old\n")
	must(t, dir, "prepare", "payload", "-o", "two.iso", "--channel", "news", "--trust", "trust.json", "--previous", "bundle.iso")
	write(50, 150, "newer\n")
	for i := range 40 {
		if err := os.Remove(filepath.Join(dir, "payload", fmt.Sprintf("%03d-%s", i, strings.Repeat("long", 10)))); err != nil {
			t.Fatal(err)
		}
	}
	must(t, dir, "prepare", "payload", "-o", "three.iso", "--channel", "news", "--trust", "trust.json", "--previous", "two.iso")
	for _, test := range []struct {
		args []string
		want []string
	}{
		{[]string{"sign", "two.iso"}, []string{"files:\n        4 bytes  000-long", "… and 99 more"}},
		{[]string{"sign", "two.iso", "--previous", "bundle.iso"}, []string{"  added    000-long", "… and 9"}},
		{[]string{"sign", "three.iso", "--previous", "two.iso"}, []string{"  added    100-long", "  removed  000-long", "  changed  "}},
	} {
		args := append(test.args, "--key", "alice.key")
		cmd := exec.Command(plainProgram(t), args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "TERM=xterm")
		var stdout bytes.Buffer
		term := onTerminal(t, &stdout, cmd)
		term.expect("Sign this? [y/N] ")
		term.typed("n\n")
		code, screen := term.wait()
		shown, _, _ := strings.Cut(screen, "Sign this?")
		_, shown, _ = strings.Cut(shown, "100%") // the bar is above
		_, shown, _ = strings.Cut(shown, "\n")
		if n := screenLines(shown+"Sign this?\n", 80); n > 24 || code != 2 {
			t.Errorf("%v: exit status %d, %d lines:\n%s", args, code, n, shown)
		}
		for _, want := range append(test.want, "read aloud   ", "checked      root hash", "(--list shows all)") {
			if !strings.Contains(shown, want) {
				t.Errorf("%v: %q is missing:\n%s", args, want, shown)
			}
		}
	}
}

// TestSignUnseen: who signs a seal without the files has to say so, in words or to a question that says it.
func TestSignUnseen(t *testing.T) {
	t.Parallel()
	dir := room(t)
	must(t, dir, "plan", "payload", "-o", "SEAL.json", "--channel", "news", "--trust", "trust.json")
	before := names(t, dir)
	for _, test := range []struct {
		name   string
		args   []string
		prompt string
		typed  string
		code   int
		last   string
	}{
		{"no", nil, "Sign this UNSEEN? [y/N] ", "n\n", 2, "sallyport sign: the answer was not yes: nothing was signed"},
		{"return", nil, "Sign this UNSEEN? [y/N] ", "\n", 2, "sallyport sign: the answer was not yes: nothing was signed"},
		{"^D", nil, "Sign this UNSEEN? [y/N] ", ctrlD, 2, "sallyport sign: the answer was not yes: nothing was signed"},
		{"^C", nil, "Sign this UNSEEN? [y/N] ", ctrlC, 130, "sallyport sign: stopped: interrupt signal received; nothing half-done is left"},
		{"asked in spite of --unseen", []string{"--unseen"}, "Sign this UNSEEN? [y/N] ", "n\n", 2, "sallyport sign: the answer was not yes: nothing was signed"},
		{"against a copy", []string{"--reproduce", "payload"}, "Sign this? [y/N] ", "n\n", 2, "sallyport sign: the answer was not yes: nothing was signed"},
	} {
		cmd := exec.Command(plainProgram(t), append([]string{"sign", "SEAL.json", "--key", "alice.key"}, test.args...)...)
		cmd.Dir = dir
		var stdout bytes.Buffer
		term := onTerminal(t, &stdout, cmd)
		term.expect(test.prompt)
		term.typed(test.typed)
		code, screen := term.wait()
		lines := strings.Split(strings.TrimRight(screen, "\n"), "\n")
		if last := lines[len(lines)-1]; code != test.code || last != test.last || stdout.Len() > 0 {
			t.Errorf("%s: exit status %d, last line %q, on stdout %q; on the terminal:\n%s", test.name, code, last, &stdout, screen)
		}
		if loud := strings.Contains(screen, "NOT CHECKED  nobody here has seen a file of it"); loud != (test.name != "against a copy") {
			t.Errorf("%s: said that nothing was checked: %v", test.name, loud)
		}
		if after := names(t, dir); after != before {
			t.Errorf("%s: before:\n%safter:\n%s", test.name, before, after)
		}
	}
	// --yes answers a question, and not this one.
	cmd := exec.Command(plainProgram(t), "sign", "SEAL.json", "--key", "alice.key", "--yes")
	cmd.Dir = dir
	var stdout bytes.Buffer
	if code, screen := onTerminal(t, &stdout, cmd).wait(); code != 2 || !strings.Contains(screen, "nothing of ") || names(t, dir) != before {
		t.Errorf("--yes: exit status %d:\n%s", code, screen)
	}
	cmd = exec.Command(plainProgram(t), "sign", "SEAL.json", "--key", "alice.key")
	cmd.Dir = dir
	term := onTerminal(t, &stdout, cmd)
	term.expect("Sign this UNSEEN? [y/N] ")
	term.typed("y\n")
	if code, screen := term.wait(); code != 0 || !strings.HasPrefix(stdout.String(), "signed       ") {
		t.Errorf("yes: exit status %d, on stdout %q:\n%s", code, &stdout, screen)
	}
}

// TestPlanStopped: ^C while a large payload is read, for a plan, for an image of one, and for a signer's own copy.
func TestPlanStopped(t *testing.T) {
	t.Parallel()
	dir := room(t)
	scratch := mkdir(t, filepath.Join(dir, "tmp"))
	must(t, dir, "plan", "payload", "-o", "SEAL.json", "--channel", "news", "--trust", "trust.json", "--fec-roots", "2")
	if err := os.Truncate(touch(t, filepath.Join(dir, "payload", "large")), 32<<30); err != nil {
		t.Fatal(err)
	}
	before := names(t, dir)
	for _, test := range []struct {
		step string
		args []string
	}{
		{"prepare   ", []string{"plan", "payload", "-o", "SEAL.json", "--channel", "news", "--trust", "trust.json", "--fec-roots", "2"}},
		{"prepare   ", []string{"plan", "payload", "-o", "new.json", "--channel", "news", "--trust", "trust.json"}},
		{"reproduce ", []string{"sign", "bundle.iso", "--key", "carol.key", "--reproduce", "payload"}},
	} {
		args := test.args
		cmd := exec.Command(plainProgram(t), args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "TERM=xterm", "TMPDIR="+scratch)
		var stdout bytes.Buffer
		term := onTerminal(t, &stdout, cmd)
		term.expect(test.step)
		term.typed(ctrlC)
		code, screen := term.wait()
		want := "sallyport " + args[0] + ": stopped: interrupt signal received; nothing half-done is left\n"
		if code != 130 || !strings.HasSuffix(screen, want) || stdout.Len() > 0 {
			t.Errorf("%v: exit status %d, on stdout %q; on the terminal:\n%s", args, code, &stdout, screen)
		}
		if after := names(t, dir); after != before || names(t, scratch) != "" {
			t.Errorf("%v: before:\n%safter:\n%s%s", args, before, after, names(t, scratch))
		}
	}
}

// TestSignEscapes: names that prepare would never let pass, in an image made by something else, deceive nobody on a screen.
func TestSignEscapes(t *testing.T) {
	t.Parallel()
	dir := room(t)
	const evil = "a\x1b[31m\u202eb\n"
	file := func(text string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte(text), Mode: 0o644, ModTime: time.Unix(fixtureTime, 0)}
	}
	link := func(target string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777, ModTime: time.Unix(fixtureTime, 0)}
	}
	root := &fstest.MapFile{Mode: fs.ModeDir | 0o755, ModTime: time.Unix(fixtureTime, 0)}
	opt := bundle.Options{Channel: "news", Destination: "kiosk", Sequence: 1}
	for _, image := range []struct {
		name    string
		payload fstest.MapFS
	}{
		{"one.iso", fstest.MapFS{".": root, evil + "changed": file("1"), evil + "gone": file("1"), "link": link(evil + "old")}},
		{"two.iso", fstest.MapFS{".": root, evil + "changed": file("2"), evil + "new": file("2"), "link": link(evil + "new")}},
	} {
		plan, err := bundle.NewPlan(t.Context(), image.payload, opt)
		if err != nil {
			t.Fatal(err)
		}
		seal, err := plan.WriteFile(t.Context(), filepath.Join(dir, image.name), nil)
		if err != nil {
			t.Fatal(err)
		}
		message, err := seal.Encode()
		if err != nil {
			t.Fatal(err)
		}
		opt.Sequence, opt.Previous = 2, fmt.Sprintf("%x", bundle.Digest(message))
	}
	screen := must(t, dir, "sign", "two.iso", "--key", "alice.key", "--previous", "one.iso")
	for _, want := range []string{"changed  a\\x1b[31m\\u202eb\\nchanged", "added    a", "removed  a", "link (target a\\x1b[31m\\u202eb\\nold to a\\x1b", "1 bytes  a\\x1b"} {
		if !strings.Contains(screen, want) {
			t.Errorf("%q is missing:\n%q", want, screen)
		}
	}
	if strings.ContainsAny(screen, "\x1b\u202e") || strings.Contains(screen, "\nchanged") || strings.Contains(screen, "\ngone") || strings.Contains(screen, "\nnew") {
		t.Errorf("not escaped:\n%q", screen)
	}
}
