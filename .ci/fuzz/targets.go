package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// target is one fuzz target.
type target struct {
	pkg  string // import path
	dir  string // its folder, relative to the module's as ./bundle
	name string // FuzzName
}

func (t target) String() string { return strings.TrimPrefix(t.dir, "./") + "." + t.name }

// targets lists the fuzz targets of the module at r.root, in order of package and name. None is an error.
func (r runner) targets(ctx context.Context) ([]target, error) {
	root, err := filepath.Abs(r.root)
	if err != nil {
		return nil, fmt.Errorf("finding the module: %w", err)
	}
	text, err := r.goOutput(ctx, "list", "-f", "{{.ImportPath}}\t{{.Dir}}", "./...")
	if err != nil {
		return nil, fmt.Errorf("listing the packages: %w", err)
	}
	dirs := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		pkg, dir, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if dir, err = filepath.Rel(root, dir); err != nil {
			return nil, fmt.Errorf("finding package %s: %w", pkg, err)
		}
		dirs[pkg] = "./" + dir
	}
	text, err = r.goOutput(ctx, "test", "-vet=off", "-list", "^Fuzz", "./...")
	if err != nil {
		return nil, fmt.Errorf("listing the fuzz targets: %w", err)
	}
	list, err := parseList(text, dirs)
	if err != nil {
		return nil, fmt.Errorf("listing the fuzz targets: %w", err)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no fuzz target found")
	}
	slices.SortFunc(list, func(a, b target) int { return strings.Compare(a.String(), b.String()) })
	return list, nil
}

// parseList reads what go test -list prints: the names of a package's targets, one a line, and then a line for the
// package itself. dirs has the folder of each package.
func parseList(text []byte, dirs map[string]string) ([]target, error) {
	var list []target
	var names []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "Fuzz") {
			names = append(names, line)
			continue
		}
		fields := strings.Split(line, "\t")
		if len(names) == 0 && fields[0] != "ok" {
			continue // such as a package without tests
		}
		dir := ""
		if len(fields) > 1 {
			dir = dirs[fields[1]]
		}
		if dir == "" {
			return nil, fmt.Errorf("go test -list says %q, which names no package of the module", line)
		}
		for _, name := range names {
			list = append(list, target{fields[1], dir, name})
		}
		names = nil
	}
	if len(names) > 0 {
		return nil, fmt.Errorf("go test -list doesn't say which package has %s", names[0])
	}
	return list, nil
}

// goOutput runs the go command in the module and returns what it printed. Its complaints are in the error.
func (r runner) goOutput(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, r.goTool, args...)
	cmd.Dir = r.root
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s%s", strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes(), nil
}
