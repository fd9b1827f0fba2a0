package scan

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"golang.org/x/text/cases"
)

// Bounds of docs/format.md, sections 4 and 14.
const (
	maxEntries     = 4_000_000
	maxDirectories = 65_535
	maxNameBytes   = 255
	maxPathBytes   = 4_096
	maxDepth       = 64
	maxFileBytes   = 429_496_524_800
	maxTargetBytes = 1_023
	maxTargetPart  = 248
	maxTargetDots  = 100
	minTime        = -2_208_988_800
	maxTime        = 5_869_583_999

	keptFindings = 10_000
)

// Limits bound a tree. Zero stands for the format's own limit, and a larger number has the same effect.
type Limits struct {
	Entries     int64 // directories, files and symlinks together, the root included
	Directories int64 // the root included
	NameBytes   int
	PathBytes   int
	Depth       int   // parts of a path
	FileBytes   int64 // of one file
	Findings    int   // how many are kept with path and detail; 10,000 unless told

	// AllowCaseClash lets names pass that differ in case only (a Linux source tree has some), for stations
	// whose file systems tell case apart. Names that are equal after normalisation clash all the same.
	AllowCaseClash bool

	// OpenFiles lets [Check] open every file, without reading it, and go on where it may not: what may not be read
	// is a finding then, and the end of the inspection without. A [Checker] opens nothing.
	OpenFiles bool

	// Damaged, unless nil, is what errors of the file system wrap that are about a directory or a link whose place on a
	// medium is damaged: that is a finding then, and the rest is inspected.
	Damaged error
}

func (l Limits) withDefaults() Limits {
	for v, d := range map[*int64]int64{&l.Entries: maxEntries, &l.Directories: maxDirectories, &l.FileBytes: maxFileBytes} {
		if *v <= 0 || *v > d {
			*v = d
		}
	}
	for v, d := range map[*int]int{&l.NameBytes: maxNameBytes, &l.PathBytes: maxPathBytes, &l.Depth: maxDepth} {
		if *v <= 0 || *v > d {
			*v = d
		}
	}
	if l.Findings <= 0 {
		l.Findings = keptFindings
	}
	return l
}

// A Checker inspects a tree entry by entry. Memory is linear in the number of directories and
// findings, and in the largest directories on the way.
type Checker struct {
	limits  Limits
	fold    cases.Caser
	report  Report
	counts  map[string]int64
	entries int64
	dirs    map[string]struct{} // the paths of the directories so far
	open    []openDir           // the directories whose children may still come, each inside the one before
}

// An openDir holds what the children of one directory are called so far, by the keys of foldName.
type openDir struct {
	path     string
	children map[string]child
}

type child struct {
	path     string
	nfc      string
	reported bool
}

// NewChecker returns a Checker that has seen nothing.
func NewChecker(limits Limits) *Checker {
	return &Checker{
		limits: limits.withDefaults(),
		fold:   cases.Fold(),
		report: Report{Findings: []Finding{}, refused: map[string]bool{}},
		counts: map[string]int64{},
		dirs:   map[string]struct{}{},
	}
}

// Entry inspects one entry: a slash-separated path relative to the root, the root itself first as "."; the type
// and permissions as of lstat; a file's size in bytes; a symlink's target, else "". The children of one
// directory must come between its entry and the entries that follow the last of them, as they do in ascending
// order of path bytes and in that of [fs.WalkDir]; what comes elsewhere is refused.
func (c *Checker) Entry(path string, mode fs.FileMode, size int64, target string) {
	if c.entries++; c.entries > c.limits.Entries {
		if c.entries == c.limits.Entries+1 {
			c.find(".", CodeLimit, "more than %d entries", c.limits.Entries)
		}
		return
	}
	c.kind(path, mode, target)
	if !c.place(path) {
		return
	}
	switch mode.Type() {
	case fs.ModeDir:
		c.report.Directories++
		if c.report.Directories == c.limits.Directories+1 {
			c.find(".", CodeLimit, "more than %d directories", c.limits.Directories)
		}
		if c.report.Directories <= c.limits.Directories {
			c.dirs[path] = struct{}{}
		}
	case fs.ModeSymlink:
		c.report.Symlinks++
		if p := targetProblem(path, target); p != "" {
			c.find(path, CodeBadLink, "%s", p)
		}
	case 0:
		c.report.Files++
		if size < 0 || size > c.limits.FileBytes {
			c.find(path, CodeLimit, "%d bytes, a file may have %d", size, c.limits.FileBytes)
		} else {
			c.report.Bytes += size
		}
	}
}

// MTime inspects the modification time of the entry before, in seconds since 1970-01-01 UTC.
func (c *Checker) MTime(path string, seconds int64) {
	if c.entries <= c.limits.Entries && (seconds < minTime || seconds > maxTime) {
		c.find(path, CodeBadTime, "modified %d seconds from 1970, outside 1900 to 2155", seconds)
	}
}

// Report closes the inspection. The Checker is as new afterwards.
func (c *Checker) Report() *Report {
	for _, code := range slices.Sorted(maps.Keys(c.counts)) {
		c.report.ByCode = append(c.report.ByCode, CodeCount{code, c.counts[code]})
	}
	c.report.RefusedTotal = int64(len(c.report.refused))
	r := c.report
	*c = *NewChecker(c.limits)
	return &r
}

func (c *Checker) find(path, code, format string, args ...any) {
	c.report.FindingsTotal++
	c.counts[code]++
	c.report.refused[path] = true
	if len(c.report.Findings) < c.limits.Findings {
		path = path[:min(len(path), maxPathBytes)]
		c.report.Findings = append(c.report.Findings, Finding{path, code, fmt.Sprintf(format, args...)})
	}
}

// kind inspects type and mode (attacks by setuid programs, device nodes and the like).
func (c *Checker) kind(path string, mode fs.FileMode, target string) {
	what := ""
	switch t := mode.Type(); t {
	case 0, fs.ModeDir:
		if target != "" {
			what = "a link target on something that is no symlink"
		}
	case fs.ModeSymlink:
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		what = "a device node"
	case fs.ModeNamedPipe:
		what = "a named pipe"
	case fs.ModeSocket:
		what = "a socket"
	default:
		what = "neither file, directory nor symlink"
	}
	special := mode &^ (fs.ModeType | fs.ModePerm)
	if path == "." {
		// Says who may delete in the root; /gnu/store and /tmp have it. It isn't carried.
		special &^= fs.ModeSticky
	}
	switch {
	case what != "":
	case special&fs.ModeSetuid != 0:
		what = "setuid"
	case special&fs.ModeSetgid != 0:
		what = "setgid"
	case special&fs.ModeSticky != 0:
		what = "sticky"
	case special != 0:
		what = "unknown mode bits"
	case path == "." && !mode.IsDir():
		what = "the root is no directory"
	}
	if what != "" {
		c.find(path, CodeBadKind, "%s", what)
	}
}

// place inspects path and its place among its siblings. It returns false for a path that has no place.
func (c *Checker) place(path string) bool {
	if path == "." {
		if c.entries != 1 {
			c.find(path, CodeBadOrder, "the root is not the first entry")
			return false
		}
		return true
	}
	dir, name := ".", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." {
			c.find(path, CodeBadName, "not a plain relative path")
			return false
		}
	}
	siblings := c.siblings(dir)
	if siblings == nil {
		c.find(path, CodeBadOrder, "its directory didn't come before it, or was left already")
		return false
	}
	if len(path) > c.limits.PathBytes {
		c.find(path, CodeLimit, "a path of %d bytes, it may have %d", len(path), c.limits.PathBytes)
		return true
	}
	if depth := strings.Count(path, "/") + 1; depth > c.limits.Depth {
		c.find(path, CodeLimit, "%d parts deep, a path may have %d", depth, c.limits.Depth)
		return true
	}
	if len(name) > c.limits.NameBytes {
		c.find(path, CodeLimit, "a name of %d bytes, it may have %d", len(name), c.limits.NameBytes)
		return true
	}
	if p := nameProblem(name); p != "" {
		c.find(path, CodeBadName, "%s", p)
		return true
	}
	c.clash(siblings, path, name)
	return true
}

// siblings returns the children so far of a directory that is still open, nil for any other, after closing the
// directories that dir doesn't lie in.
func (c *Checker) siblings(dir string) map[string]child {
	if _, ok := c.dirs[dir]; !ok {
		return nil
	}
	for len(c.open) > 0 {
		top := c.open[len(c.open)-1]
		if top.path == dir {
			return top.children
		}
		if inside(dir, top.path) {
			break
		}
		// Closed for good: its names are forgotten, so a later child couldn't be compared with them.
		delete(c.dirs, top.path)
		c.open = c.open[:len(c.open)-1]
	}
	if _, ok := c.dirs[dir]; !ok {
		return nil
	}
	c.open = append(c.open, openDir{dir, map[string]child{}})
	return c.open[len(c.open)-1].children
}

func inside(path, dir string) bool {
	return dir == "." || len(path) > len(dir) && path[:len(dir)] == dir && path[len(dir)] == '/'
}

// clash compares a name with its siblings'. All that clash are refused: which of them is meant can't be told.
func (c *Checker) clash(siblings map[string]child, path, name string) {
	folded, nfc := foldName(c.fold, name)
	if path == name {
		if reserved, ok := reservedNames[folded]; ok {
			c.find(path, CodeReservedName, "%s stands at the root of every bundle", reserved)
		}
	}
	key := folded
	if c.limits.AllowCaseClash {
		key = nfc
	}
	first, ok := siblings[key]
	if !ok {
		siblings[key] = child{path: path, nfc: nfc}
		return
	}
	how := "differs in case only from %s"
	switch {
	case first.path == path:
		how = "occurs twice: %s"
	case first.nfc == nfc:
		how = "is equal after normalisation to %s"
	}
	if !first.reported {
		c.find(first.path, CodeNameClash, how, Quote(path))
		first.reported = true
		siblings[key] = first
	}
	c.find(path, CodeNameClash, how, Quote(first.path))
}
