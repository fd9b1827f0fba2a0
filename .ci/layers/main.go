// Layers holds the imports among this module's packages to one table, and that table to the one in docs/architecture.md.
//
// Usage, from the top of the module:
//
//	go run ./.ci/layers
//
// It prints what is wrong, a line each with file and line number, and exits with status 1: a package that no row
// names, an import that its row does not allow, a difference between the two tables. Every .go file counts, whatever
// its build constraints. Test files may import any package of the module: they check the layers from outside.
package main

import (
	"fmt"
	"os"
)

func main() {
	problems, err := check(".", "docs/architecture.md", table)
	if err != nil {
		fmt.Fprintf(os.Stderr, "layers: %v\n", err)
		os.Exit(1)
	}
	for _, problem := range problems {
		fmt.Fprintf(os.Stderr, "%s\n", problem)
	}
	if len(problems) > 0 {
		os.Exit(1)
	}
}

// check returns what is wrong with the module in the folder root and with its document, in a stable order. An error
// means that it could not look.
func check(root, document string, table layers) ([]string, error) {
	drawn, err := readDocument(root, document)
	if err != nil {
		return nil, err
	}
	problems := differences(table, drawn, document)
	files, err := readModule(root)
	if err != nil {
		return nil, err
	}
	return append(problems, breaches(table, files)...), nil
}
