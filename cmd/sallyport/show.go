package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"sallyport/bundle"
)

// signView is what a signer is shown.
type signView struct {
	*sealResult
	Reproduced bool        `json:"reproduced"`
	Unseen     bool        `json:"unseen,omitempty"`
	Difference *difference `json:"difference,omitempty"`
	List       []fileLine  `json:"list,omitempty"`

	entries []bundle.Entry
	all     bool // --list
}

// fileLine is a file of the payload.
type fileLine struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

// difference is how a payload differs from the one of the bundle before.
type difference struct {
	Previous    string         `json:"previous"`    // the file it was read from
	Predecessor bool           `json:"predecessor"` // whether that is the bundle that the seal names
	Why         string         `json:"why,omitempty"`
	Added       []entryView    `json:"added"`
	Removed     []entryView    `json:"removed"`
	Changed     []changedEntry `json:"changed"`
}

type entryView struct {
	Path   string `json:"path"`
	Type   string `json:"type"`
	Mode   uint32 `json:"mode"`
	MTime  int64  `json:"mtime"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256,omitempty"`
	Target string `json:"target,omitempty"`
}

type changedEntry struct {
	Path string    `json:"path"`
	What []string  `json:"what"`
	Old  entryView `json:"old"`
	New  entryView `json:"new"`
}

func lineOf(e *bundle.Entry) entryView {
	l := entryView{Path: e.Path, Type: e.Type.String(), Mode: e.Mode, MTime: e.MTime, Size: e.Size, Target: e.Target}
	if e.Type == bundle.File {
		l.SHA256 = hex.EncodeToString(e.SHA256[:])
	}
	return l
}

// differenceTo compares a payload with the one of the bundle before, which lies in the image or MANIFEST.json at path.
func differenceTo(ctx context.Context, path string, seal *bundle.Seal, entries []bundle.Entry) (*difference, error) {
	before, digest, err := readPrevious(ctx, path)
	if err != nil {
		return nil, about(path, err)
	}
	d := &difference{Previous: path, Added: []entryView{}, Removed: []entryView{}, Changed: []changedEntry{}}
	switch {
	case seal.Previous == "":
		d.Why = "the seal names no predecessor: it says that it is its channel's first"
	case digest == "":
		d.Why = "a manifest alone doesn't say of which bundle it is: give the image to know"
	case digest != seal.Previous:
		d.Why = "its seal digest is " + digest + ", and the seal names another one as previous"
	default:
		d.Predecessor = true
	}
	for c := range bundle.Diff(before, entries) {
		switch {
		case c.Old == nil:
			d.Added = append(d.Added, lineOf(c.New))
		case c.New == nil:
			d.Removed = append(d.Removed, lineOf(c.Old))
		default:
			d.Changed = append(d.Changed, changedEntry{Path: c.Path(), What: c.What(), Old: lineOf(c.Old), New: lineOf(c.New)})
		}
	}
	return d, nil
}

// readPrevious reads a manifest, and the seal digest of the bundle it belongs to if it came with one.
func readPrevious(ctx context.Context, path string) ([]bundle.Entry, string, error) {
	f, info, err := openInput(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	if !info.Mode().IsRegular() {
		return nil, "", usagef("read %s: it is a %s and should be an image or a MANIFEST.json", path, kindOf(info))
	}
	first := make([]byte, 1)
	if _, err := f.ReadAt(first, 0); err != nil && err != io.EOF {
		return nil, "", err
	}
	if first[0] == '{' {
		entries, err := bundle.ParseManifest(f, info.Size())
		return entries, "", err
	}
	src := bundle.Source{ReaderAt: f, Size: info.Size()}
	claims, err := bundle.Inspect(ctx, src)
	if err != nil {
		return nil, "", err
	}
	entries, err := bundle.ReadManifest(src, claims)
	return entries, fmt.Sprintf("%x", claims.Digest()), err
}

// text shows as much as a reader of a file or pipe wants to see.
func (v *signView) text(w io.Writer) { v.show(w, 20) }

// onScreen shows as much as fits onto the terminal f above the questions, but a line of each list in any case, and
// last what stands in checked.
func (v *signView) onScreen(w io.Writer, f *os.File, checked string) {
	columns, rows, err := term.GetSize(int(f.Fd()))
	if err != nil || columns < 20 {
		columns, rows = 80, 24
	}
	for _, most := range []int{20, 12, 8, 5, 3, 2, 1} {
		var b bytes.Buffer
		v.show(&b, most)
		b.WriteString(checked)
		if most == 1 || v.all || screenLines(b.String(), columns) <= rows-3 {
			_, _ = w.Write(b.Bytes()) // to a terminal; who sees nothing doesn't say yes
			return
		}
	}
}

func screenLines(text string, columns int) int {
	n := 0
	for line := range strings.Lines(text) {
		n += max(1, (utf8.RuneCountInString(strings.TrimSuffix(line, "\n"))+columns-1)/columns)
	}
	return n
}

// show prints at most so many lines of each list, and what is most important last.
func (v *signView) show(w io.Writer, most int) {
	if v.all {
		most = int(^uint(0) >> 1)
	}
	if v.entries != nil && (v.Difference == nil || most > 5) { // what is new is worth more
		v.files(w, most)
	}
	if v.Difference != nil {
		v.Difference.show(w, most)
	}
	v.sealResult.text(w)
}

func (v *signView) files(w io.Writer, most int) {
	fmt.Fprintln(w, "files:")
	n := 0
	for i := range v.entries {
		if e := &v.entries[i]; e.Type == bundle.File {
			if n++; n <= most {
				fmt.Fprintf(w, "  %13s  %s\n", bytesText(e.Size), printable(e.Path))
			}
		}
	}
	andMore(w, n, most)
}

func andMore(w io.Writer, n, most int) {
	if n > most {
		fmt.Fprintf(w, "  … and %d more (--list shows all)\n", n-most)
	}
}

func (d *difference) show(w io.Writer, most int) {
	if d.Predecessor {
		fmt.Fprintf(w, "compared with %s, its predecessor:\n", printable(d.Previous))
	} else {
		fmt.Fprintf(w, "compared with %s, NOT KNOWN TO BE ITS PREDECESSOR: %s\n", printable(d.Previous), d.Why)
	}
	if len(d.Added)+len(d.Removed)+len(d.Changed) == 0 {
		fmt.Fprintln(w, "  no difference")
	}
	for _, list := range []struct {
		what    string
		entries []entryView
	}{{"added", d.Added}, {"removed", d.Removed}} {
		for _, e := range list.entries[:min(most, len(list.entries))] {
			size := e.Type
			if e.Type == "file" {
				size = bytesText(e.Size)
			}
			fmt.Fprintf(w, "  %-7s  %s (%s)\n", list.what, printable(e.Path), size)
		}
		andMore(w, len(list.entries), most)
	}
	for _, c := range d.Changed[:min(most, len(d.Changed))] {
		fmt.Fprintf(w, "  changed  %s (%s)\n", printable(c.Path), c.text())
	}
	andMore(w, len(d.Changed), most)
}

func (c *changedEntry) text() string {
	var parts []string
	for _, what := range c.What {
		switch what {
		case "kind":
			what = fmt.Sprintf("was a %s, is a %s", c.Old.Type, c.New.Type)
		case "size":
			what = fmt.Sprintf("size %d to %d", c.Old.Size, c.New.Size)
		case "mode":
			what = fmt.Sprintf("mode %04o to %04o", c.Old.Mode, c.New.Mode)
		case "target":
			what = fmt.Sprintf("target %s to %s", printable(c.Old.Target), printable(c.New.Target))
		case "mtime":
			if len(c.What) == 1 {
				what = "only the time"
			} else {
				what = "time"
			}
		}
		parts = append(parts, what)
	}
	return strings.Join(parts, ", ")
}

// readAloud is a digest in groups of four, for two people on the telephone.
func readAloud(digest string) string {
	var b strings.Builder
	for i := 0; i < len(digest); i += 4 {
		switch {
		case i == 0:
		case i == len(digest)/2:
			b.WriteString("\n             ")
		default:
			b.WriteByte(' ')
		}
		b.WriteString(digest[i:min(i+4, len(digest))])
	}
	return b.String()
}
