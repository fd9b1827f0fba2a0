package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestREADME types the commands of README.md, word for word, into a shell on a terminal, in an empty folder but
// for the payload, and answers what they ask.
func TestREADME(t *testing.T) {
	t.Parallel()
	blocks := shBlocks(t, "../../README.md")
	if len(blocks) != 1 {
		t.Fatalf("README.md has %d blocks of commands, want 1", len(blocks))
	}
	dir := t.TempDir()
	sources := mkdir(t, filepath.Join(dir, "sources"))
	if err := copyTree(filepath.Join(fixture(t), "payload"), sources); err != nil {
		t.Fatal(err)
	}
	// The channel's bundles expire, and a bundle is as old as its newest file.
	if err := os.Chtimes(sources, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-e", "-c", blocks[0])
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(plainProgram(t))+":"+os.Getenv("PATH"), "TZ=UTC", "LC_ALL=C")
	term := onTerminal(t, nil, cmd)
	for _, name := range []string{"olga", "alice", "bob"} {
		term.expect("New password: ")
		term.typed(name + "'s password\n")
		term.expect("The same again: ")
		term.typed(name + "'s password\n")
		term.expect(name + ".pub\r\n")
	}
	term.expect("Password of olga.key: ")
	term.typed("olga's password\n")
	term.expect("signed by    olga: accepted")
	for _, name := range []string{"alice", "bob"} {
		term.expect("Password of " + name + ".key: ")
		term.typed(name + "'s password\n")
		term.expect("checked      root hash")
		term.expect("Sign this? [y/N] ")
		term.typed("y\n")
		term.expect("signed       slot ")
	}
	code, screen := term.wait()
	if code != 0 {
		t.Fatalf("exit status %d; on the terminal:\n%s", code, screen)
	}
	for _, want := range []string{
		"disc         number 1, DVD-R", "read back    equal, after reloading; finalised",
		"signed by    alice, preparer", "signed by    bob, approver", "verified     every block, every file", "not checked  freshness",
		"logged       entry 0 of station kiosk", "released     " + dir + "/spool/news/1-", " accept     channel news, sequence 1, ", " release    news/1-",
	} {
		if !strings.Contains(screen, want) {
			t.Errorf("%q is missing on the terminal:\n%s", want, screen)
		}
	}
	if strings.Contains(screen, "'s password") {
		t.Error("a password was shown")
	}
	released, err := filepath.Glob(filepath.Join(dir, "spool/news/1-*"))
	if err != nil || len(released) != 1 {
		t.Fatalf("released: %v, %v", released, err)
	}
	if diff, err := exec.Command("diff", "-r", "--no-dereference", sources, released[0]).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}
