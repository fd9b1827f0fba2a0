package scan

import (
	"fmt"
	"strings"
)

// targetProblem says what is wrong with a link's target (docs/format.md, section 4), or "". A ".." stands only
// before the first name: behind one it would step up from wherever another link leads, and out of the tree.
func targetProblem(path, target string) string {
	switch {
	case target == "":
		return "empty target"
	case len(target) > maxTargetBytes:
		return fmt.Sprintf("a target of %d bytes, it may have %d", len(target), maxTargetBytes)
	case target[0] == '/':
		return "absolute target " + Quote(target)
	}
	depth, named, dots := strings.Count(path, "/"), false, 0 // depth of the link's folder
	for part := range strings.SplitSeq(target, "/") {
		if part == "." || part == ".." {
			if dots++; dots > maxTargetDots {
				return fmt.Sprintf("a target with more than %d parts in a row that are . or ..", maxTargetDots)
			}
		}
		switch part {
		case ".":
			continue
		case "..":
			if named {
				return "steps up behind a name, and so could leave the tree: " + Quote(target)
			}
			if depth--; depth < 0 {
				return "leaves the tree: " + Quote(target)
			}
			continue
		}
		named, dots = true, 0
		if len(part) > maxTargetPart {
			return fmt.Sprintf("a target with a name of %d bytes, it may have %d", len(part), maxTargetPart)
		}
		if p := nameProblem(part); p != "" {
			return fmt.Sprintf("target %s: %s", Quote(target), p)
		}
	}
	return ""
}
