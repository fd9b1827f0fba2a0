package image

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// The module in which u-root's commands are built: go.mod, go.sum and the import paths of the commands. It is no part
// of this one, so that nothing of it comes near the binary; and these are no go.mod and go.sum by name, since a
// directory with a go.mod can't be embedded.
var (
	//go:embed uroot/uroot.mod
	urootMod []byte
	//go:embed uroot/uroot.sum
	urootSum []byte
	//go:embed uroot/commands
	urootCommands []byte
)

// UserlandInputs is what Userland is made from, beside the Go toolchain: module file, sums and commands, for a key in a cache.
func UserlandInputs() []byte {
	return slices.Concat(urootMod, []byte{0}, urootSum, []byte{0}, urootCommands)
}

// Userland builds u-root's init, shell and commands into one program with mkuimage, and writes a newc archive of them
// to the new file out. It runs the go command in PATH, which fetches u-root's module if it isn't in the module cache,
// and verifies it by its sum. The same go version gives the same bytes.
func Userland(ctx context.Context, out string) (err error) {
	dir, err := os.MkdirTemp("", "sallyport-userland-")
	if err != nil {
		return fmt.Errorf("building u-root: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if out, err = filepath.Abs(out); err != nil {
		return fmt.Errorf("building u-root: %w", err)
	}
	if err := writeUserlandModule(dir); err != nil {
		return fmt.Errorf("building u-root: %w", err)
	}
	// mkuimage records the modes that its files have on disk, so that the umask would be part of the result.
	args := []string{"-c", `umask 022 && exec go "$@"`, "go", "tool", "mkuimage", "-o", out, "-tmp-dir", filepath.Join(dir, "tmp"), "-initcmd=init", "-defaultsh=gosh"}
	cmd := exec.CommandContext(ctx, "sh", append(args, strings.Fields(string(urootCommands))...)...)
	cmd.Dir = dir
	cmd.Env = goEnv(os.Environ(), "PWD="+dir)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building u-root: go tool mkuimage: %w: %s", err, lastLines(said.Bytes()))
	}
	return nil
}

// writeUserlandModule makes the module in dir. Its one file imports the commands, so that go mod tidy would keep them.
func writeUserlandModule(dir string) error {
	var source strings.Builder
	source.WriteString("//go:build tools\n\npackage userland\n\nimport (\n")
	for _, command := range strings.Fields(string(urootCommands)) {
		fmt.Fprintf(&source, "\t_ %q\n", command)
	}
	source.WriteString(")\n")
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "go.mod"), urootMod, 0o644),
		os.WriteFile(filepath.Join(dir, "go.sum"), urootSum, 0o644),
		os.WriteFile(filepath.Join(dir, "commands.go"), []byte(source.String()), 0o644))
}

// goEnv is environ without what would change the bytes that the go command makes.
func goEnv(environ []string, more ...string) []string {
	fixed := []string{"GOFLAGS=", "GOWORK=off", "GO111MODULE=on", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "CGO_ENABLED=0", "GOEXPERIMENT=", "GODEBUG="}
	return slices.Concat(environ, fixed, more)
}

// lastLines is the end of what a program said.
func lastLines(b []byte) string {
	b = bytes.TrimSpace(b)
	if len(b) > 2000 {
		b = b[len(b)-2000:]
	}
	return string(b)
}
