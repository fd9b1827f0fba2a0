package image

import (
	"context"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckStatic has Go make a program that runs in an initramfs, and takes bash, and others, for what they are.
func TestCheckStatic(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "main.go"), []byte("package main\n\nfunc main() {}\n"))
	static, arm := filepath.Join(dir, "static"), filepath.Join(dir, "arm")
	cmd := exec.Command("go", "build", "-o", static, filepath.Join(dir, "main.go"))
	cmd.Env = goEnv(os.Environ())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	if err := checkStatic(static); err != nil {
		t.Errorf("a static program: %v", err)
	}
	b, err := os.ReadFile(static)
	if err != nil {
		t.Fatal(err)
	}
	b[18] = byte(elf.EM_AARCH64)
	put(t, arm, b)
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, want string }{
		{bash, "it needs a dynamic linker"},
		{arm, "for EM_AARCH64, and no program for x86-64"},
		{filepath.Join(dir, "main.go"), "it is no ELF program"},
		{filepath.Join(dir, "none"), "it is not there"},
	} {
		_, err := Build(context.Background(), filepath.Join(dir, "out"), Config{Program: tt.name})
		var wrong *ProgramError
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestUserlandModule holds the module of u-root's commands to go mod tidy.
func TestUserlandModule(t *testing.T) {
	dir := t.TempDir()
	if err := writeUserlandModule(dir); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "mod", "tidy", "-diff")
	cmd.Dir, cmd.Env = dir, goEnv(os.Environ())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("go mod tidy -diff: %v: %s", err, out)
	}
}
