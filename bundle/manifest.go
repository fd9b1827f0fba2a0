package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/text/cases"
)

// Limits of a manifest (docs/format.md, sections 4 and 14).
const (
	MaxEntries       = 4_000_000
	MaxManifestBytes = 1 << 30
	MaxFileSize      = 100 * (1<<32 - BlockSize)
	maxName          = 255
	maxPath          = 4096
	maxDepth         = 64
	maxTarget        = 1023
	maxTargetPart    = 248
	maxTargetDots    = 100
	minTime          = -2208988800
	maxTime          = 5869583999
	maxEntryBytes    = 64 << 10 // more than the longest path, all escaped, and the rest of an entry
)

// Type is the kind of an Entry.
type Type byte

// The kinds of entries of a single volume.
const (
	Dir Type = iota
	File
	Symlink
)

func (t Type) String() string { return [...]string{"dir", "file", "symlink"}[t] }

// Entry is one entry of MANIFEST.json (docs/format.md, section 4).
type Entry struct {
	Path   string
	Type   Type
	Mode   uint32 // permission bits
	MTime  int64  // seconds since 1970
	Size   int64  // bytes, of a File
	SHA256 [32]byte
	Target string // of a Symlink
}

// FileMode returns the entry's type and permission bits.
func (e *Entry) FileMode() fs.FileMode {
	mode := fs.FileMode(e.Mode)
	switch e.Type {
	case Dir:
		mode |= fs.ModeDir
	case Symlink:
		mode |= fs.ModeSymlink
	}
	return mode
}

// appendJSON appends the entry in canonical form.
func (e *Entry) appendJSON(b []byte) ([]byte, error) {
	var err error
	b = append(b, `{"mode":`...)
	b = strconv.AppendUint(b, uint64(e.Mode), 10)
	b = append(b, `,"mtime":`...)
	b = strconv.AppendInt(b, e.MTime, 10)
	b = append(b, `,"path":`...)
	if b, err = jsontext.AppendQuote(b, e.Path); err != nil {
		return nil, fmt.Errorf("encode manifest: path %q: %w", e.Path, err)
	}
	switch e.Type {
	case File:
		b = append(b, `,"sha256":"`...)
		b = hex.AppendEncode(b, e.SHA256[:])
		b = append(b, `","size":`...)
		b = strconv.AppendInt(b, e.Size, 10)
	case Symlink:
		b = append(b, `,"target":`...)
		if b, err = jsontext.AppendQuote(b, e.Target); err != nil {
			return nil, fmt.Errorf("encode manifest: %q: target %q: %w", e.Path, e.Target, err)
		}
	}
	b = append(b, `,"type":"`...)
	b = append(b, e.Type.String()...)
	return append(b, `"}`...), nil
}

// writeManifest writes MANIFEST.json.
func writeManifest(w io.Writer, entries []Entry) error {
	buf := append(make([]byte, 0, 64<<10), `{"entries":[`...)
	for i := range entries {
		if i > 0 {
			buf = append(buf, ',')
		}
		var err error
		if buf, err = entries[i].appendJSON(buf); err != nil {
			return err
		}
		if len(buf) >= 32<<10 {
			if _, err := w.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	buf = append(buf, `],"type":"sallyport-manifest","version":1}`+"\n"...)
	_, err := w.Write(buf)
	return err
}

// manifestSize returns the length of MANIFEST.json in bytes; it doesn't depend on the digests.
func manifestSize(entries []Entry) (int64, error) {
	var n countWriter
	err := writeManifest(&n, entries)
	return int64(n), err
}

type countWriter int64

func (c *countWriter) Write(p []byte) (int, error) { *c += countWriter(len(p)); return len(p), nil }

// rawEntry is an entry as it stands in JSON; which members it has shows in the pointers.
type rawEntry struct {
	Mode   *int64  `json:"mode"`
	MTime  *int64  `json:"mtime"`
	Path   *string `json:"path"`
	SHA256 *string `json:"sha256"`
	Size   *int64  `json:"size"`
	Target *string `json:"target"`
	Type   *string `json:"type"`
}

// budgetReader bounds what the decoder may read for one entry, and with it the decoder's buffer.
type budgetReader struct {
	r      io.Reader
	left   int
	failed error // of r, not the end
}

var errEntryTooLong = fmt.Errorf("an entry longer than %d bytes", maxEntryBytes)

func (b *budgetReader) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errEntryTooLong
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	if err != nil && err != io.EOF {
		b.failed = err
	}
	return n, err
}

// readManifest decodes a manifest of exactly size bytes whose SHA-256 must be digest, checks every rule of
// docs/format.md, section 4, and that no other spelling was used. r is read once, to its end.
func readManifest(r io.Reader, size int64, digest [32]byte) ([]Entry, error) {
	if size < 1 || size > MaxManifestBytes {
		return nil, refuse("bad-manifest", "MANIFEST.json of %d bytes: the limit is %d", size, MaxManifestBytes)
	}
	h := sha256.New()
	tee := io.TeeReader(io.LimitReader(r, size), h)
	budget := &budgetReader{r: tee}
	entries, err := decodeManifest(budget)
	if budget.failed != nil {
		// However the decoder understood it.
		return nil, fmt.Errorf("read MANIFEST.json: %w", budget.failed)
	}
	if err != nil {
		var syntactic *jsontext.SyntacticError
		var semantic *json.SemanticError
		if errors.As(err, &syntactic) || errors.As(err, &semantic) || errors.Is(err, errEntryTooLong) || errors.Is(err, errManifest) {
			return nil, &RefusedError{Code: "bad-manifest", Detail: "MANIFEST.json", Err: err}
		}
		return nil, fmt.Errorf("read MANIFEST.json: %w", err)
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return nil, fmt.Errorf("read MANIFEST.json: %w", err)
	}
	if got := [32]byte(h.Sum(nil)); got != digest {
		return nil, refuse("bad-manifest", "MANIFEST.json has SHA-256 %x, the seal says %x", got, digest)
	}
	again := sha256.New()
	if err := writeManifest(again, entries); err != nil {
		return nil, &RefusedError{Code: "bad-manifest", Detail: "MANIFEST.json", Err: err}
	}
	if [32]byte(again.Sum(nil)) != digest {
		return nil, refuse("bad-manifest", "MANIFEST.json is not in canonical form (RFC 8785 and one newline)")
	}
	return entries, nil
}

// errManifest marks what is wrong with a manifest, apart from what could not be read.
var errManifest = errors.New("not as profile 1 has it")

func manifestError(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errManifest)...)
}

func decodeManifest(budget *budgetReader) ([]Entry, error) {
	budget.left = maxEntryBytes
	dec := jsontext.NewDecoder(budget)
	if err := expectTokens(dec, `{`, `entries`, `[`); err != nil {
		return nil, err
	}
	var entries []Entry
	check := newEntryChecker()
	for dec.PeekKind() != ']' {
		if len(entries) == MaxEntries {
			return nil, manifestError("more than %d entries", MaxEntries)
		}
		budget.left = maxEntryBytes
		var raw rawEntry
		if err := json.UnmarshalDecode(dec, &raw, json.RejectUnknownMembers(true)); err != nil {
			return nil, err
		}
		e, err := raw.entry()
		if err == nil {
			err = check.add(&e)
		}
		if err != nil {
			return nil, fmt.Errorf("entry %d, before byte %d: %w", len(entries), dec.InputOffset(), err)
		}
		entries = append(entries, e)
	}
	budget.left = maxEntryBytes
	if err := expectTokens(dec, `]`, `type`, `sallyport-manifest`, `version`, `1`, `}`); err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, manifestError("no entries")
	}
	return entries, nil
}

func expectTokens(dec *jsontext.Decoder, want ...string) error {
	for _, w := range want {
		tok, err := dec.ReadToken()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return manifestError("ends at byte %d, where %q is due", dec.InputOffset(), w)
		}
		if err != nil {
			return err
		}
		if tok.String() != w {
			return manifestError("byte %d: %.40q instead of %q", dec.InputOffset(), tok.String(), w)
		}
	}
	return nil
}

func (raw *rawEntry) entry() (Entry, error) {
	if raw.Mode == nil || raw.MTime == nil || raw.Path == nil || raw.Type == nil {
		return Entry{}, manifestError("a member is missing")
	}
	e := Entry{Path: *raw.Path, MTime: *raw.MTime}
	if *raw.Mode < 0 || *raw.Mode > 0o777 {
		return Entry{}, manifestError("%q: mode %d", e.Path, *raw.Mode)
	}
	e.Mode = uint32(*raw.Mode)
	isFile, isLink := raw.SHA256 != nil && raw.Size != nil, raw.Target != nil
	switch {
	case *raw.Type == "dir" && raw.SHA256 == nil && raw.Size == nil && !isLink:
		e.Type = Dir
	case *raw.Type == "symlink" && raw.SHA256 == nil && raw.Size == nil && isLink:
		e.Type, e.Target = Symlink, *raw.Target
	case *raw.Type == "file" && isFile && !isLink:
		e.Type, e.Size = File, *raw.Size
		digest, err := parseDigest(*raw.SHA256)
		if err != nil {
			return Entry{}, manifestError("%q: %v", e.Path, err)
		}
		e.SHA256 = digest
	default:
		return Entry{}, manifestError("%q: type %.20q with the wrong members", e.Path, *raw.Type)
	}
	return e, nil
}

func parseDigest(s string) (d [32]byte, err error) {
	if len(s) != 64 || strings.ToLower(s) != s {
		return d, fmt.Errorf("%.80q is not a SHA-256 in lower-case hexadecimal", s)
	}
	_, err = hex.Decode(d[:], []byte(s))
	return d, err
}

// entryChecker applies the rules of docs/format.md, section 4, to entries in their order.
type entryChecker struct {
	last string
	n    int
	dirs map[string]struct{}
}

func newEntryChecker() *entryChecker { return &entryChecker{dirs: make(map[string]struct{})} }

func (c *entryChecker) add(e *Entry) error {
	if err := e.check(); err != nil {
		return err
	}
	if (c.n == 0) != (e.Path == ".") {
		return manifestError("%q: the first entry, and no other, is the root", e.Path)
	}
	if c.n > 1 && e.Path <= c.last {
		return manifestError("%q does not come after %q", e.Path, c.last)
	}
	if c.n > 0 {
		if parent, _, nested := cutLast(e.Path); nested {
			if _, ok := c.dirs[parent]; !ok {
				return manifestError("%q: its parent is not a directory of the manifest", e.Path)
			}
		}
	}
	if e.Type == Dir {
		c.dirs[e.Path] = struct{}{}
	}
	c.last = e.Path
	c.n++
	return nil
}

func cutLast(path string) (dir, name string, nested bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path, false
	}
	return path[:i], path[i+1:], true
}

// check applies the rules that concern one entry alone.
func (e *Entry) check() error {
	if e.Path != "." {
		if err := checkPath(e.Path); err != nil {
			return err
		}
		if reservedAtRoot(e.Path) {
			return manifestError("%q: the name is reserved at the root", e.Path)
		}
	} else if e.Type != Dir {
		return manifestError("the root is not a dir")
	}
	if e.MTime < minTime || e.MTime > maxTime {
		return manifestError("%q: mtime %d is not between 1900 and 2155", e.Path, e.MTime)
	}
	switch e.Type {
	case File:
		if e.Size < 0 || e.Size > MaxFileSize {
			return manifestError("%q: size %d: the limit is %d", e.Path, e.Size, int64(MaxFileSize))
		}
	case Symlink:
		if e.Mode != 0o777 {
			return manifestError("%q: a symlink's mode is 511", e.Path)
		}
		if err := e.checkTarget(); err != nil {
			return err
		}
	}
	return nil
}

// Names at the root that the format itself uses.
const (
	readmeName   = "README.txt"
	manifestName = "MANIFEST.json"
	sumsName     = "SHA256SUMS"
)

var foldedReserved = func() map[string]bool {
	fold, m := cases.Fold(), map[string]bool{}
	for _, name := range []string{readmeName, manifestName, sumsName} {
		m[fold.String(name)] = true
	}
	return m
}()

func reservedAtRoot(path string) bool {
	if len(path) > 64 || strings.Contains(path, "/") {
		return false
	}
	return foldedReserved[cases.Fold().String(path)]
}

// checkPath refuses what is not a plain relative path: fs.ValidPath has it that a path is UTF-8 without empty,
// "." and ".." parts.
func checkPath(path string) error {
	if len(path) > maxPath || !fs.ValidPath(path) || strings.Contains(path, "\x00") {
		return manifestError("%.300q: not a relative path of at most %d bytes without '.', '..', empty parts and NUL", path, maxPath)
	}
	if n := strings.Count(path, "/") + 1; n > maxDepth {
		return manifestError("%.300q: %d parts, the limit is %d", path, n, maxDepth)
	}
	for part := range strings.SplitSeq(path, "/") {
		if len(part) > maxName {
			return manifestError("%.300q: a name of %d bytes, the limit is %d", path, len(part), maxName)
		}
	}
	return nil
}

// checkTarget refuses targets that could lead out of the tree. ".." stands only before the first name, where
// the folders it steps up through are real ones; after a name it would step up from wherever another link
// leads. So each link stays inside when all do.
func (e *Entry) checkTarget() error {
	if len(e.Target) == 0 || len(e.Target) > maxTarget || !utf8.ValidString(e.Target) || strings.Contains(e.Target, "\x00") {
		return manifestError("%q: target %.300q is not 1 to %d bytes of UTF-8 without NUL", e.Path, e.Target, maxTarget)
	}
	depth, named, dots := strings.Count(e.Path, "/"), false, 0
	for part := range strings.SplitSeq(e.Target, "/") {
		if part == "." || part == ".." {
			dots++
		} else {
			dots = 0
		}
		switch {
		case dots > maxTargetDots:
			return manifestError("%q: target %.300q: more than %d parts in a row that are . or ..", e.Path, e.Target, maxTargetDots)
		case part == "":
			return manifestError("%q: target %q is absolute or has an empty part", e.Path, e.Target)
		case len(part) > maxTargetPart:
			return manifestError("%q: target %.300q: a part of %d bytes, the limit is %d", e.Path, e.Target, len(part), maxTargetPart)
		case part == "..":
			if depth--; named || depth < 0 {
				return manifestError("%q: target %q could leave the tree", e.Path, e.Target)
			}
		case part != ".":
			named = true
		}
	}
	return nil
}
