package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// document is a markdown file with the table of packages of a small module.
const document = `# Architecture

| attack | answer |
|---|---|
| T1 | none |

| package | owns | may import |
|---|---|---|
| ` + "`wood/oak`" + ` | a | – |
| wood | b | oak |
| iron | c | wood, wood/oak |
| cmd/shed | d | all |

| package | other |
|---|---|
| stone | x |
`

var small = layers{"wood/oak": {}, "wood": {"wood/oak"}, "iron": {"wood", "wood/oak"}, "cmd/shed": {all}}

// write makes a module from files, which go by their names.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestCheck(t *testing.T) {
	module := map[string]string{
		"doc.md":                   document,
		"go.mod":                   "module house\n\ngo 1.26\n",
		"wood/oak/oak.go":          "package oak\n\nimport \"fmt\"\n",
		"wood/oak/oak_test.go":     "package oak_test\n\nimport \"house/iron\"\n",
		"wood/wood.go":             "package wood\n\nimport \"house/wood/oak\"\n",
		"iron/iron.go":             "package iron\n\nimport (\n\t\"house/wood\"\n\t\"houses/wood\"\n)\n",
		"cmd/shed/main.go":         "package main\n\nimport (\n\t\"house/iron\"\n\t\"house/wood\"\n)\n",
		"cmd/shed/testdata/a.go":   "not Go at all",
		".ci/tool/main.go":         "package main\n\nimport \"house/iron\"\n",
		"_old/main.go":             "package main\n\nimport \"house/iron\"\n",
		"elsewhere/go.mod":         "module elsewhere\n",
		"elsewhere/wood/wood.go":   "package wood\n\nimport \"house/iron\"\n",
		"vendor/house/copied/c.go": "package c\n",
	}
	tests := []struct {
		name   string
		change map[string]string
		want   []string
	}{
		{name: "keeps to the table"},
		{"upwards", map[string]string{"wood/oak/oak.go": "package oak\n\nimport \"house/wood\"\n"},
			[]string{"wood/oak/oak.go:3: wood/oak may not import wood"}},
		{"sideways, under a build constraint", map[string]string{"wood/wood_plan9.go": "//go:build ignore\n\npackage wood\n\nimport (\n\t\"fmt\"\n\t_ \"house/iron\"\n)\n"},
			[]string{"wood/wood_plan9.go:7: wood may not import iron"}},
		{"under another name", map[string]string{"wood/wood.go": "package wood\n\nimport i \"house/iron\"\n"},
			[]string{"wood/wood.go:3: wood may not import iron"}},
		{"a package without a row", map[string]string{"glass/a.go": "package glass\n", "glass/b.go": "package glass\n"},
			[]string{"glass/a.go:1: the package glass has no row in the table of docs/architecture.md and .ci/layers/table.go"}},
		{"test files alone without a row", map[string]string{"glass/a_test.go": "package glass\n"},
			[]string{"glass/a_test.go:1: the package glass has no row in the table of docs/architecture.md and .ci/layers/table.go"}},
		{"the top without a row", map[string]string{"house.go": "package house\n", "cmd/shed/main.go": "package main\n\nimport \"house\"\n"},
			[]string{"cmd/shed/main.go:3: cmd/shed may not import .",
				"house.go:1: the package . has no row in the table of docs/architecture.md and .ci/layers/table.go"}},
		{"the document lacks a row", map[string]string{"doc.md": strings.Replace(document, "| cmd/shed | d | all |\n", "", 1)},
			[]string{"doc.md: no row for cmd/shed, which the table in .ci/layers/table.go has"}},
		{"the document has a row more", map[string]string{"doc.md": strings.Replace(document, "| iron |", "| tin | t | – |\n| iron |", 1)},
			[]string{"doc.md: a row for tin, which the table in .ci/layers/table.go lacks"}},
		{"the document allows less", map[string]string{"doc.md": strings.Replace(document, "| wood, wood/oak |", "| oak |", 1)},
			[]string{"doc.md: the row of iron lacks wood, which .ci/layers/table.go allows"}},
		{"the document allows more", map[string]string{"doc.md": strings.Replace(document, "| b | oak |", "| b | oak, iron |", 1)},
			[]string{"doc.md: the row of wood has iron, which .ci/layers/table.go does not allow"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := write(t, module)
			for name, text := range tt.change {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := check(root, "doc.md", small)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("check found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func TestCheckErrors(t *testing.T) {
	tests := []struct{ name, document, gomod, source, want string }{
		{"no table", "# Architecture\n", "module house\n", "package wood\n", "doc.md: no table | package | owns | may import |"},
		{"two tables", document + document, "module house\n", "package wood\n", "doc.md:23: a second table of packages"},
		{"two rows", strings.Replace(document, "| iron |", "| wood |", 1), "module house\n", "package wood\n", "doc.md:11: a second row for wood"},
		{"a short row", strings.Replace(document, "| b | oak |", "| oak |", 1), "module house\n", "package wood\n", "doc.md:10: a row of 2 cells, want 3"},
		{"an import without a row", strings.Replace(document, "| b | oak |", "| b | elm |", 1), "module house\n", "package wood\n", `doc.md:10: no row for the package "elm"`},
		{"a name of two rows", strings.Replace(document, "| iron |", "| fake/oak | f | – |\n| iron |", 1), "module house\n", "package wood\n", `doc.md:10: "oak" may be any of fake/oak, wood/oak`},
		{"no module line", document, "go 1.26\n", "package wood\n", "no module line"},
		{"broken Go", document, "module house\n", "pakage wood\n", "wood/wood.go:1:1: expected 'package'"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := write(t, map[string]string{"doc.md": tt.document, "go.mod": tt.gomod, "wood/wood.go": tt.source})
			_, err := check(root, "doc.md", small)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("check: %v, want %q in it", err, tt.want)
			}
		})
	}
}
