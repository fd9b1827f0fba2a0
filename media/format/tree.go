package format

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// Tree is what a file system is to hold. The zero value is nothing.
type Tree struct {
	FS  fs.FS  // directories and files, and links where the file system has them
	Dir string // where FS stands in this machine's file system: ext4 is made from there
}

const (
	maxFiles    = 1 << 20
	maxDepth    = 100
	maxProblems = 1000
)

// Codes of refusals.
const (
	CodeUnfit = "delivery-unfit" // a name or a file that the file system can't hold
	CodeFull  = "delivery-full"  // more than there is room for
)

// Problem is one thing that a file system can't hold.
type Problem struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// UnfitError has all that a file system can't hold of a tree. Nothing was made.
type UnfitError struct {
	Kind     Kind
	Problems []Problem // in order of their paths, at most 1,000
	More     int       // that many others
}

func (e *UnfitError) Error() string {
	p := e.Problems[0]
	text := fmt.Sprintf("%s: %s can't hold %q: %s", CodeUnfit, e.Kind, p.Path, p.Why)
	if n := len(e.Problems) + e.More; n > 1 {
		text += fmt.Sprintf(" (%d others like it)", n-1)
	}
	return text
}

// RefusalCode returns CodeUnfit.
func (e *UnfitError) RefusalCode() string { return CodeUnfit }

// FullError says that a tree has no room on a medium.
type FullError struct {
	Need, Have int64 // bytes of the file system
	Err        error // the program's, or nil
}

func (e *FullError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: it takes %d bytes and more, and the file system has %d: %v", CodeFull, e.Need, e.Have, e.Err)
	}
	return fmt.Sprintf("%s: it takes %d bytes, and the file system has room for %d", CodeFull, e.Need, e.Have)
}

// RefusalCode returns CodeFull.
func (e *FullError) RefusalCode() string { return CodeFull }

func (e *FullError) Unwrap() error { return e.Err }

// node is a directory or a file of a tree, or a link, which is a file with no bytes here.
type node struct {
	name     string
	parent   *node // nil for the root
	dir      bool
	size     int64 // bytes of a file
	mtime    time.Time
	children []*node

	first, clusters uint32 // where it lies, for file systems that are filled here
}

func (n *node) path() string {
	if n.parent == nil {
		return "."
	}
	return path.Join(n.parent.path(), n.name)
}

// count is how many there are.
func (n *node) count() int64 {
	sum := int64(1)
	for _, c := range n.children {
		sum += c.count()
	}
	return sum
}

// bytes is what the contents take at least in blocks of a size.
func (n *node) bytes(block int64) int64 {
	sum := (n.size + block - 1) / block * block
	if n.dir {
		sum = block
	}
	for _, c := range n.children {
		sum += c.bytes(block)
	}
	return sum
}

// each visits the directories in order, each before those in it, and then all files in that order.
func (n *node) each(visit func(*node) error) error {
	for _, dirs := range []bool{true, false} {
		if err := n.visit(dirs, visit); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) visit(dirs bool, visit func(*node) error) error {
	if n.dir == dirs {
		if err := visit(n); err != nil {
			return err
		}
	}
	for _, c := range n.children {
		if err := c.visit(dirs, visit); err != nil {
			return err
		}
	}
	return nil
}

// planner reads a tree's names, once.
type planner struct {
	ctx   context.Context
	fs    fs.FS
	kind  Kind
	files int
	unfit UnfitError
}

// plan reads the tree and refuses what the file system can't hold, all of it at once.
func (t Tree) plan(ctx context.Context, kind Kind) (*node, error) {
	root := &node{dir: true, mtime: time.Unix(0, 0)}
	if t.FS == nil {
		return root, nil
	}
	if kind == Ext4 && t.Dir == "" {
		return nil, fmt.Errorf("ext4 is filled from a directory, and there is none")
	}
	p := planner{ctx: ctx, fs: t.FS, kind: kind, unfit: UnfitError{Kind: kind}}
	if err := p.read(root, ".", 0); err != nil {
		return nil, err
	}
	if len(p.unfit.Problems) > 0 {
		return nil, &p.unfit
	}
	return root, nil
}

// Fits is whether a kind of file system can hold a tree's names and files, whatever its size. Errors: *UnfitError, those of
// the tree.
func (t Tree) Fits(ctx context.Context, kind Kind) error {
	_, err := t.plan(ctx, kind)
	return err
}

func (p *planner) problem(path, format string, args ...any) {
	if len(p.unfit.Problems) == maxProblems {
		p.unfit.More++
		return
	}
	p.unfit.Problems = append(p.unfit.Problems, Problem{path, fmt.Sprintf(format, args...)})
}

func (p *planner) read(dir *node, name string, depth int) error {
	if err := context.Cause(p.ctx); err != nil {
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("%s: directories in each other more than %d deep", name, maxDepth)
	}
	entries, err := fs.ReadDir(p.fs, name)
	if err != nil {
		return err
	}
	if p.files += len(entries); p.files > maxFiles {
		return fmt.Errorf("more than %d files and directories", maxFiles)
	}
	folded := map[string]string{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		n := &node{name: e.Name(), parent: dir, dir: info.IsDir(), mtime: info.ModTime()}
		at := path.Join(name, n.name)
		if info.Mode().IsRegular() {
			n.size = info.Size()
		}
		dir.children = append(dir.children, n)
		if p.kind == Ext4 {
			p.checkExt(at, n)
		} else {
			p.checkFAT(at, n, info.Mode())
			fold := strings.ToLower(strings.ToUpper(n.name))
			if other, there := folded[fold]; there {
				p.problem(at, "%q differs in case only", other)
			}
			folded[fold] = n.name
		}
		if n.dir {
			if err := p.read(n, at, depth+1); err != nil {
				return err
			}
		}
	}
	if p.kind == FAT32 && fatDirBytes(dir) > maxFATDir {
		p.problem(name, "a directory with so many names")
	}
	return nil
}

func (p *planner) checkExt(at string, n *node) {
	if at == "lost+found" {
		p.problem(at, "ext4 has a directory of that name itself")
	}
	if s := n.mtime.Unix(); s != int64(int32(s)) { // mke2fs has 32 bits of it
		p.problem(at, "a time of %s, outside of 1901 to 2038", n.mtime.UTC().Format(time.DateOnly))
	}
}

// reserved names are devices to Windows, with any extension.
var reserved = map[string]bool{"CON": true, "PRN": true, "AUX": true, "NUL": true, "CONIN$": true, "CONOUT$": true}

func init() {
	for _, digit := range []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "¹", "²", "³"} {
		reserved["COM"+digit], reserved["LPT"+digit] = true, true
	}
}

// checkFAT looks at what neither FAT nor exFAT can hold, or no Windows can open (Microsoft's fatgen103, section "Long
// Directory Entries"; exFAT specification, 7.7.3; "Naming Files, Paths, and Namespaces").
func (p *planner) checkFAT(at string, n *node, mode fs.FileMode) {
	stem, _, _ := strings.Cut(n.name, ".")
	switch i := strings.IndexFunc(n.name, func(r rune) bool { return r < 0x20 || strings.ContainsRune(`"*/:<>?\|`, r) }); {
	case !utf8.ValidString(n.name):
		p.problem(at, "a name that isn't UTF-8")
	case i >= 0:
		p.problem(at, "a name with %q", n.name[i])
	case len(utf16.Encode([]rune(n.name))) > 255:
		p.problem(at, "a name longer than 255")
	case strings.HasSuffix(n.name, ".") || strings.HasSuffix(n.name, " ") || strings.HasPrefix(n.name, " "):
		p.problem(at, "a name that begins or ends with a space or ends with a dot")
	case reserved[strings.ToUpper(strings.TrimRight(stem, " "))]:
		p.problem(at, "a name that Windows has for a device")
	case mode&fs.ModeSymlink != 0:
		p.problem(at, "a symbolic link")
	case !mode.IsDir() && !mode.IsRegular():
		p.problem(at, "neither file nor directory")
	case p.kind == FAT32 && n.size > 1<<32-1:
		p.problem(at, "a file of %d bytes, at most %d", n.size, int64(1<<32-1))
	case n.mtime.UTC().Year() > 2107:
		p.problem(at, "a time in the year %d, at most 2107", n.mtime.UTC().Year())
	}
}

// place gives each directory and file its clusters, from next on, and returns the first that is free then. limit is the one
// behind the last. The root has some already; what it needs beyond them is returned as its place.
func (n *node) place(next, limit uint32, cluster int64, dirBytes func(*node) int64) (end uint32, err error) {
	at, last := int64(next), int64(limit)
	err = n.each(func(c *node) error {
		size := c.size
		if c.dir {
			size = dirBytes(c)
		}
		count := (size + cluster - 1) / cluster
		if c.first = 0; count > 0 {
			c.first = uint32(min(at, last))
		}
		c.clusters = uint32(min(count, last))
		at += count
		return nil
	})
	if err == nil && at > last {
		err = &FullError{Need: (at - int64(next)) * cluster, Have: (last - int64(next)) * cluster}
	}
	return uint32(min(at, last)), err
}

// copyFiles puts the contents of all files to where they were placed. What is zero is left out: f is zero there.
func (n *node) copyFiles(ctx context.Context, f *os.File, tree fs.FS, offset func(cluster uint32) int64) error {
	buf := make([]byte, pieceSize)
	return n.visit(false, func(c *node) error {
		r, err := tree.Open(c.path())
		if err != nil {
			return err
		}
		defer r.Close()
		for at := int64(0); ; {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			k, err := io.ReadFull(r, buf)
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return fmt.Errorf("read %s at %d: %w", c.path(), at, err)
			}
			if at+int64(k) > c.size || err != nil && at+int64(k) < c.size {
				return fmt.Errorf("%s had %d bytes, and has changed", c.path(), c.size)
			}
			if !zero(buf[:k]) {
				if _, err := f.WriteAt(buf[:k], offset(c.first)+at); err != nil {
					return err
				}
			}
			if at += int64(k); err != nil {
				return nil
			}
		}
	})
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// dosTime is a time in UTC as FAT and exFAT have it, in steps of two seconds, and the hundredths left over. Times before 1980 become the first of that year.
func dosTime(t time.Time) (date, clock uint16, hundredths byte) {
	if t = t.UTC(); t.Year() < 1980 {
		t = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	date = uint16((t.Year()-1980)<<9 | int(t.Month())<<5 | t.Day())
	clock = uint16(t.Hour()<<11 | t.Minute()<<5 | t.Second()/2)
	return date, clock, byte(t.Second()%2*100 + t.Nanosecond()/10_000_000)
}
