// Package volume has the words for what is found on a medium: what a reader of partitions or of a file system thinks a person or a policy should know, and what such a reader can do. The readers themselves are the packages below this one.
package volume

import (
	"fmt"
	"io/fs"
	"strings"
	"unicode/utf8"
)

// Finding is one thing about a medium's structure that a person or a policy should know. A finding isn't an error: what it is about can be read, or was left out of the listing, as Detail says.
type Finding struct {
	Code   string `json:"code"`           // stable, lower case with hyphens: "gap-data", "boot-code", "hidden-partition"
	Offset int64  `json:"offset"`         // bytes from the start of what was read, -1 where there is no one place
	Path   string `json:"path,omitempty"` // slash-separated, "" for the medium's own structure; may hold any byte that the medium holds
	Detail string `json:"detail"`         // one sentence for a person, without a full stop; what comes from the medium is quoted in it
}

// String returns the finding on one line, with the path quoted since names on a medium are hostile.
func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(f.Code)
	if f.Path != "" {
		fmt.Fprintf(&b, ": %q", f.Path)
	}
	if f.Offset >= 0 {
		fmt.Fprintf(&b, " at byte %d", f.Offset)
	}
	b.WriteString(": ")
	b.WriteString(f.Detail)
	return b.String()
}

// FS is a file system read from a medium. It writes nothing, is safe for concurrent use, and follows no link: Open of a symbolic link is an error, ReadLink tells where it points. Names are compared exactly as they are listed. A part that is damaged gives errors where it is read, the rest stays readable.
type FS interface {
	fs.FS
	fs.ReadDirFS
	fs.StatFS
	fs.ReadLinkFS

	// Findings returns what has been found until now. Reading a directory can add to it, so the whole of it is there after a walk.
	Findings() []Finding
	// Name is the file system's name with its kind, such as "FAT32" or "ext4".
	Name() string
	// Label is the label of the volume, "" if it has none. It comes from the medium and may hold any character.
	Label() string
}

// ValidName reports whether name can be one element of a path of fs.FS. What can't is left out of listings with a finding "bad-name".
func ValidName(name string) bool {
	return name != "" && name != "." && name != ".." && utf8.ValidString(name) && !strings.ContainsAny(name, "/\x00")
}

// MaxFindings and MaxFindingBytes are how many findings a List keeps, and how many bytes of paths and details they have. A hostile medium could make one of each of its directory entries, with a path of 100 kB.
const (
	MaxFindings     = 10000
	MaxFindingBytes = 4 << 20
)

// List gathers findings up to MaxFindings and MaxFindingBytes; the last one then says that there are more. The zero value is empty and ready. It isn't safe for concurrent use.
type List struct {
	all   []Finding
	bytes int
	full  bool
}

// Add appends a finding with a formatted detail.
func (l *List) Add(code string, offset int64, path, format string, args ...any) {
	if l.full {
		return
	}
	f := Finding{code, offset, path, fmt.Sprintf(format, args...)}
	l.bytes += len(f.Path) + len(f.Detail)
	if len(l.all) == MaxFindings-1 || l.bytes > MaxFindingBytes {
		l.full = true
		f = Finding{"more-findings", -1, "", fmt.Sprintf("there are more findings than the %d that are kept", len(l.all))}
	}
	l.all = append(l.all, f)
}

// All returns a copy of the findings, in the order in which they were added.
func (l *List) All() []Finding {
	return append([]Finding(nil), l.all...)
}
