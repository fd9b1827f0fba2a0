package main

import (
	"cmp"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// file is one .go file and the packages of its own module that it imports.
type file struct {
	name    string // from the module's top, with slashes
	imports []use
}

// use is one import of a package of the module.
type use struct {
	path string // in the module
	line int
}

// readModule reads the imports of every .go file of the module whose go.mod stands in root, in the order of their
// names. It leaves out what the go command leaves out: folders named testdata or vendor or beginning with a dot or an
// underscore, and modules inside the module.
func readModule(root string) ([]file, error) {
	module, err := modulePath(filepath.Join(root, "go.mod"))
	if err != nil {
		return nil, err
	}
	var files []file
	err = fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := path.Base(name)
		hidden := name != "." && (base[0] == '.' || base[0] == '_')
		if entry.IsDir() {
			_, err := os.Stat(filepath.Join(root, name, "go.mod"))
			if hidden || base == "testdata" || base == "vendor" || name != "." && err == nil {
				return fs.SkipDir
			}
			return nil
		}
		if hidden || path.Ext(name) != ".go" {
			return nil
		}
		imports, err := readImports(filepath.Join(root, name), module)
		if err != nil {
			return err
		}
		files = append(files, file{name, imports})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the imports: %w", err)
	}
	return files, nil
}

func readImports(name, module string) ([]use, error) {
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, name, nil, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var imports []use
	for _, spec := range parsed.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", set.Position(spec.Pos()), err)
		}
		line := set.Position(spec.Pos()).Line
		if imported == module {
			imports = append(imports, use{".", line})
		} else if inside, ok := strings.CutPrefix(imported, module+"/"); ok {
			imports = append(imports, use{inside, line})
		}
	}
	return imports, nil
}

func modulePath(name string) (string, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("looking for the module's name: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if module, ok := strings.CutPrefix(line, "module "); ok {
			return strings.TrimSpace(module), nil
		}
	}
	return "", fmt.Errorf("%s: no module line", name)
}

// breaches returns what files do that table does not allow.
func breaches(table layers, files []file) []string {
	var found []string
	strangers := make(map[string]bool)
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.name, b.name) })
	for _, file := range files {
		from := path.Dir(file.name)
		if _, known := table[from]; !known {
			if !strangers[from] {
				strangers[from] = true
				found = append(found, fmt.Sprintf("%s:1: the package %s has no row in the table of docs/architecture.md and .ci/layers/table.go", file.name, from))
			}
			continue
		}
		if strings.HasSuffix(file.name, "_test.go") {
			continue
		}
		for _, use := range file.imports {
			if !table.allows(from, use.path) {
				found = append(found, fmt.Sprintf("%s:%d: %s may not import %s", file.name, use.line, from, use.path))
			}
		}
	}
	return found
}
