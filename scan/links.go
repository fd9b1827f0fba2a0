package scan

import (
	"fmt"
	"strings"
)

// targetProblem says what is wrong with a link's target by itself (docs/format.md, section 4), or "".
func targetProblem(path, target string) string {
	switch {
	case target == "":
		return "empty target"
	case len(target) > maxTargetBytes:
		return fmt.Sprintf("a target of %d bytes, it may have %d", len(target), maxTargetBytes)
	case target[0] == '/':
		return "absolute target " + Quote(target)
	}
	depth := strings.Count(path, "/") // of the link's folder
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case ".":
			continue
		case "..":
			if depth--; depth < 0 {
				return "leaves the tree: " + Quote(target)
			}
			continue
		}
		depth++
		if len(part) > maxTargetPart {
			return fmt.Sprintf("a target with a name of %d bytes, it may have %d", len(part), maxTargetPart)
		}
		if p := nameProblem(part); p != "" {
			return fmt.Sprintf("target %s: %s", Quote(target), p)
		}
	}
	return ""
}

// A node is a directory or an acceptable symlink; files can't be walked through.
type node struct {
	parent int32 // -1 for the root
	path   string
	target string // of a symlink
}

type nodeName struct {
	parent int32
	name   string
}

// nowhere is where a path ends that meets a file, nothing, a refused link or a loop: the kernel won't follow it.
const nowhere = -1

// addNode returns the index of the new node. The directory of path is open.
func (c *Checker) addNode(path, target string) int32 {
	i := int32(len(c.nodes))
	parent := int32(-1)
	if path != "." {
		dir, name := ".", path
		if s := strings.LastIndexByte(path, '/'); s >= 0 {
			dir, name = path[:s], path[s+1:]
		}
		parent = c.dirs[dir]
		c.names[nodeName{parent, name}] = i
	}
	c.nodes = append(c.nodes, node{parent, path, target})
	return i
}

// A walk is a link's target half walked.
type walk struct {
	link int32
	at   int32
	rest string
}

// climbingLinks refuses links that leave the tree only by way of another link, which targetProblem can't see:
// with s -> ../.. in a/b, the target s/.. stays inside by its letters and ends above the root. Each link is
// walked once, without recursion; a link inside the tree that others pass through is resolved before them.
func (c *Checker) climbingLinks() {
	ends := make(map[int32]int32) // of each link begun: where it ends; nowhere until it is known
	for i := range c.nodes {
		if _, done := ends[int32(i)]; done || c.nodes[i].target == "" {
			continue
		}
		stack := []walk{c.begin(int32(i))}
		ends[int32(i)] = nowhere
		for len(stack) > 0 {
			w := &stack[len(stack)-1]
			through, climbed := c.advance(w, ends)
			if climbed {
				n := c.nodes[w.link]
				c.find(n.path, CodeBadLink, "leaves the tree through another link: %s", Quote(n.target))
			}
			if through >= 0 {
				ends[through] = nowhere
				stack = append(stack, c.begin(through))
				continue
			}
			ends[w.link] = w.at
			stack = stack[:len(stack)-1]
		}
	}
}

func (c *Checker) begin(link int32) walk {
	n := c.nodes[link]
	return walk{link: link, at: n.parent, rest: n.target}
}

// advance walks until the end, or until a link comes that nobody has begun: that one it returns, else -1.
func (c *Checker) advance(w *walk, ends map[int32]int32) (through int32, climbed bool) {
	for w.rest != "" && w.at != nowhere {
		part, rest, _ := strings.Cut(w.rest, "/")
		switch part {
		case ".":
		case "..":
			if w.at = c.nodes[w.at].parent; w.at < 0 {
				w.at = nowhere
				return -1, true
			}
		default:
			next, ok := c.names[nodeName{w.at, part}]
			switch {
			case !ok:
				w.at = nowhere
			case c.nodes[next].target == "":
				w.at = next
			default:
				end, begun := ends[next]
				if !begun {
					return next, false
				}
				w.at = end
			}
		}
		w.rest = rest
	}
	return -1, false
}
