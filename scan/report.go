package scan

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// The codes of findings: one for each class, stable once released.
const (
	CodeBadName      = "bad-name"      // a name or path that no reader may get to see
	CodeReservedName = "reserved-name" // at the root: README.txt, MANIFEST.json or SHA256SUMS in some spelling
	CodeNameClash    = "name-clash"    // two children of a directory whose names are equal after NFC and case folding
	CodeBadKind      = "bad-kind"      // neither directory, regular file nor symlink; or setuid, setgid, sticky
	CodeBadLink      = "bad-link"      // a symlink whose target is absolute, malformed or outside the tree
	CodeBadTime      = "bad-time"      // a modification time outside 1900 to 2155
	CodeLimit        = "limit"         // too many, too long, too deep, too large
	CodeUnreadable   = "unreadable"    // a file, directory or link that may not or can't be read; see [Limits.OpenFiles] and [Limits.Damaged]
	CodeBadOrder     = "bad-order"     // an entry whose directory didn't come before it, or was left already
)

// A Finding is one reason to refuse one path.
type Finding struct {
	Path   string // as found, any bytes; escape it with [Quote] before showing it
	Code   string // one of the codes above
	Detail string // printable, on one line
}

func (f Finding) String() string {
	return fmt.Sprintf("%s: %s: %s", Quote(f.Path), f.Code, f.Detail)
}

// MarshalJSON writes code, detail and path. The path is escaped as [Quote] does it, without the quotes.
func (f Finding) MarshalJSON() ([]byte, error) {
	q := Quote(f.Path)
	return json.Marshal(struct {
		Code   string `json:"code"`
		Detail string `json:"detail"`
		Path   string `json:"path"`
	}{f.Code, f.Detail, q[1 : len(q)-1]})
}

// A CodeCount says how often a code occurred.
type CodeCount struct {
	Code  string `json:"code"`
	Count int64  `json:"count"`
}

// A Report is the result of an inspection. All findings are counted, the first [Limits.Findings] are kept.
type Report struct {
	Bytes         int64       `json:"bytes"` // sum of the files' sizes
	ByCode        []CodeCount `json:"by_code"`
	Directories   int64       `json:"directories"`
	Files         int64       `json:"files"`
	Findings      []Finding   `json:"findings"`
	FindingsTotal int64       `json:"findings_total"`
	RefusedTotal  int64       `json:"refused_total"` // paths with at least one finding
	Symlinks      int64       `json:"symlinks"`

	refused map[string]bool
}

// Err returns nil for a tree without findings, else a [*RefusedError] that names the first one.
func (r *Report) Err() error {
	if r.FindingsTotal == 0 {
		return nil
	}
	e := &RefusedError{Code: r.ByCode[0].Code, Count: r.FindingsTotal}
	if len(r.Findings) > 0 {
		e.Code, e.Detail = r.Findings[0].Code, Quote(r.Findings[0].Path)+": "+r.Findings[0].Detail
	}
	return e
}

// Refused tells whether path, or a directory it lies in, has a finding: whether it has to be left out to get
// an acceptable tree. Of names that clash all are refused, so the answer doesn't depend on their order. Limits
// of the whole tree (its entries, its directories) are findings of its root ".", and so refuse everything.
func (r *Report) Refused(path string) bool {
	if len(r.refused) == 0 {
		return false
	}
	if r.refused["."] {
		return true
	}
	for i := range len(path) {
		if path[i] == '/' && r.refused[path[:i]] {
			return true
		}
	}
	return r.refused[path]
}

// RefusedPaths lists the paths that have findings themselves, in order of their bytes.
func (r *Report) RefusedPaths() []string {
	paths := make([]string, 0, len(r.refused))
	for p := range r.refused {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

// WriteText writes the findings, one a line, and a summary line.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintln(&b, f)
	}
	if n := r.FindingsTotal - int64(len(r.Findings)); n > 0 {
		fmt.Fprintf(&b, "… and %d more\n", n)
	}
	fmt.Fprintf(&b, "%d directories, %d files, %d symlinks, %d bytes: ", r.Directories, r.Files, r.Symlinks, r.Bytes)
	if r.FindingsTotal == 0 {
		b.WriteString("nothing to refuse\n")
	} else {
		fmt.Fprintf(&b, "%d findings on %d paths", r.FindingsTotal, r.RefusedTotal)
		sep := " ("
		for _, c := range r.ByCode {
			fmt.Fprintf(&b, "%s%s %d", sep, c.Code, c.Count)
			sep = ", "
		}
		b.WriteString(")\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// A RefusedError says that a tree isn't allowed. Code and Detail are those of the first finding.
type RefusedError struct {
	Code   string
	Detail string
	Count  int64 // of all findings
}

// RefusalCode returns the stable code of the refusal.
func (e *RefusedError) RefusalCode() string { return e.Code }

func (e *RefusedError) Error() string {
	s := fmt.Sprintf("refused (%s): %s", e.Code, e.Detail)
	if e.Count > 1 {
		s += fmt.Sprintf(" (and %d more findings)", e.Count-1)
	}
	return s
}
