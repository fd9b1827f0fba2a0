// Package tools tests install.sh with a PATH that holds stand-ins only.
package tools

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// peers are the commands that install.sh looks for, from its own table.
func peers(t *testing.T) []string {
	t.Helper()
	script, err := os.ReadFile("install.sh")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(script), "\ntools='\n")
	table, _, _ = strings.Cut(table, "\n'\n")
	var names []string
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			t.Fatalf("install.sh: a line of its table of tools is %q", line)
		}
		names = append(names, fields[0])
	}
	if len(names) < 30 {
		t.Fatalf("install.sh: its table of tools has only %q", names)
	}
	return names
}

// shell are the commands that install.sh is written with.
var shell = []string{"bash", "cat", "chmod", "cut", "dirname", "echo", "env", "grep", "head", "sed", "sort", "true", "xargs"}

const (
	newGo  = `case "$*" in "env CC") echo cc ;; "env GOVERSION") echo go1.26.8 ;; "env GOTOOLCHAIN") echo local ;; esac`
	oldGo  = `case "$*" in "env CC") echo cc ;; "env GOVERSION") echo go1.25.9 ;; "env GOTOOLCHAIN") echo local ;; esac`
	autoGo = `case "$*" in "env CC") echo cc ;; "env GOVERSION") echo go1.25.9 ;; "env GOTOOLCHAIN") echo auto ;; esac`
	// apt writes what it was asked to $LOG and "installs" xorriso.
	apt = `echo "apt-get $DEBIAN_FRONTEND $*" >>"$LOG"
case "$*" in *" install "*) echo '#!/bin/sh' >"$BIN/xorriso"; chmod +x "$BIN/xorriso" ;; esac`
	idleApt = `echo "apt-get $DEBIAN_FRONTEND $*" >>"$LOG"`
	sudo    = `echo "sudo $*" >>"$LOG"; shift; exec "$@"`
	noSudo  = `echo 'sudo: a password is required' >&2; exit 1`
)

func TestInstall(t *testing.T) {
	const options = "-q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3"
	update := "apt-get noninteractive " + options + " update\n"
	install := "apt-get noninteractive " + options + " install -y --no-install-recommends xorriso\n"
	asRoot := func(call string) string { return strings.TrimPrefix(call, "apt-get noninteractive ") }
	root, user := "echo 0", "echo 1000"

	tests := []struct {
		name    string
		replace map[string]string // stand-ins by command; "" takes one away
		fails   bool
		says    string // in the output
		log     string // what apt-get and sudo were asked
	}{
		{name: "all there", replace: map[string]string{"id": user}},
		{name: "root", replace: map[string]string{"id": root, "xorriso": "", "apt-get": apt},
			says: "installing xorriso (missing: xorriso)", log: update + install},
		{name: "root and apt-get brings nothing", replace: map[string]string{"id": root, "xorriso": "", "apt-get": idleApt},
			fails: true, says: "still missing after apt-get: xorriso\n", log: update + install},
		{name: "root and apt-get fails", replace: map[string]string{"id": root, "xorriso": "", "apt-get": "exit 100"},
			fails: true, says: "apt-get update failed\n"},
		{name: "sudo", replace: map[string]string{"id": user, "xorriso": "", "apt-get": apt, "sudo": sudo},
			log: "sudo -n true\n" +
				"sudo -n env DEBIAN_FRONTEND=noninteractive apt-get " + asRoot(update) + update +
				"sudo -n env DEBIAN_FRONTEND=noninteractive apt-get " + asRoot(install) + install},
		{name: "sudo asks a password", replace: map[string]string{"id": user, "xorriso": "", "minisign": "", "apt-get": apt, "sudo": noSudo},
			fails: true, says: "\napt-get update && apt-get install -y --no-install-recommends minisign xorriso\n"},
		{name: "neither root nor sudo", replace: map[string]string{"id": user, "isoinfo": "", "genisoimage": "", "apt-get": apt},
			fails: true, says: "\napt-get update && apt-get install -y --no-install-recommends genisoimage\n"},
		{name: "no apt-get", replace: map[string]string{"id": root, "gpg": ""},
			fails: true, says: "missing: gpg (Debian's packages: gnupg); there is no apt-get"},
		{name: "no C headers", replace: map[string]string{"id": user, "cc": "exit 1", "apt-get": apt},
			fails: true, says: "\napt-get update && apt-get install -y --no-install-recommends gcc libc6-dev\n"},
		{name: "QEMU without iSCSI", replace: map[string]string{"id": user, "qemu-img": `echo "Unknown protocol 'iscsi'" >&2; exit 1`, "apt-get": apt},
			fails: true, says: "\napt-get update && apt-get install -y --no-install-recommends qemu-block-extra\n"},
		{name: "no QEMU", replace: map[string]string{"id": user, "qemu-img": "", "qemu-system-x86_64": "", "apt-get": apt},
			fails: true, says: "\napt-get update && apt-get install -y --no-install-recommends qemu-block-extra qemu-system-x86 qemu-utils\n"},
		{name: "no Go", replace: map[string]string{"id": root, "go": "", "apt-get": apt},
			fails: true, says: "make test: go is missing: install Go 1."},
		{name: "old Go", replace: map[string]string{"id": root, "go": oldGo, "apt-get": apt},
			fails: true, says: "make test: go 1.25.9 is too old: install Go 1."},
		{name: "old Go that fetches a newer one", replace: map[string]string{"id": root, "go": autoGo}},
	}
	script, err := filepath.Abs("install.sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bin := standIns(t, tt.replace)
			log := filepath.Join(t.TempDir(), "log")
			cmd := exec.Command("bash", script)
			cmd.Env = []string{"PATH=" + bin, "BIN=" + bin, "LOG=" + log, "HOME=" + t.TempDir()}
			out, err := cmd.CombinedOutput()
			if failed := err != nil; failed != tt.fails {
				t.Errorf("install.sh: %v, want failure %t\n%s", err, tt.fails, out)
			}
			if !strings.Contains("\n"+string(out), tt.says) {
				t.Errorf("install.sh said %q, want %q in it", out, tt.says)
			}
			if tt.says == "" && tt.log == "" && len(out) > 0 {
				t.Errorf("install.sh said %q with nothing to do", out)
			}
			asked, err := os.ReadFile(log)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if string(asked) != tt.log {
				t.Errorf("asked for\n%swant\n%s", asked, tt.log)
			}
		})
	}
}

// standIns makes a folder of commands that holds the shell's own tools, an idle script for every peer, and what replace says.
func standIns(t *testing.T, replace map[string]string) string {
	t.Helper()
	bin := t.TempDir()
	for _, name := range shell {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	scripts := map[string]string{"go": newGo, "cc": "exit 0"}
	for _, name := range peers(t) {
		scripts[name] = "exit 0"
	}
	for name, body := range replace {
		scripts[name] = body
	}
	for name, body := range scripts {
		if body == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}
