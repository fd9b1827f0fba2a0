package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"sallyport/media/confined"
	"sallyport/media/examine"
	"sallyport/media/volume"
	"sallyport/scan"
)

// confinedArgument has this program be the reader that examineMedium starts.
const confinedArgument = "confined-reader"

func init() {
	if len(os.Args) == 2 && os.Args[1] == confinedArgument {
		os.Exit(confined.Main(parseMedium))
	}
}

// parseMedium runs in the process without rights.
func parseMedium(r io.ReaderAt, size int64, block int) (*confined.Contents, error) {
	report, systems, err := examine.Examine(context.Background(), r, size, block)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(report)
	if err != nil {
		return nil, err
	}
	contents := &confined.Contents{Report: text}
	for _, system := range systems {
		contents.Volumes = append(contents.Volumes, fs.FS(system))
	}
	return contents, nil
}

// rawMedium is a medium to be examined. Close it when done.
type rawMedium struct {
	io.ReaderAt
	size  int64 // bytes
	block int   // bytes in a logical block
	close func() error
}

// openMedium opens an image file, a block device, or a disk by its generic node, for reading only.
func (e *env) openMedium(name string) (*rawMedium, error) {
	info, err := os.Stat(name)
	if err == nil && info.Mode()&os.ModeCharDevice != 0 {
		return e.openGeneric(name)
	}
	src, err := e.openAny(name)
	if err != nil {
		return nil, err
	}
	m := &rawMedium{ReaderAt: src.ReaderAt, size: src.Size, block: 512, close: src.Close}
	if src.block > 0 {
		m.block = src.block
	} else if info != nil && !info.Mode().IsRegular() {
		if m.block, err = blockSize(name); err != nil {
			return nil, errors.Join(err, src.Close())
		}
	}
	return m, nil
}

// openGeneric opens a disk that the kernel has bound no driver to but sg.
func (e *env) openGeneric(name string) (*rawMedium, error) {
	disk, device, err := e.openStick(name)
	if err != nil {
		return nil, deviceError(name, err)
	}
	return &rawMedium{ReaderAt: disk, size: disk.Size(), block: disk.BlockSize(), close: device.Close}, nil
}

// mediumResult is what scan says of a medium.
type mediumResult struct {
	Medium   *examine.Report `json:"medium"`
	Files    []*scan.Report  `json:"files"` // of the file systems that can be read, in their order
	Confined []string        `json:"confined_by"`
}

// examineMedium looks at a medium in a process without rights, and at the names and kinds of what is on it.
func (e *env) examineMedium(name string, limits scan.Limits) (*mediumResult, error) {
	m, err := e.openMedium(name)
	if err != nil {
		return nil, err
	}
	defer m.close()
	return e.examine(name, m, limits)
}

// examine is examineMedium of one that is open.
func (e *env) examine(name string, m *rawMedium, limits scan.Limits) (*mediumResult, error) {
	p, err := confined.Start(e.ctx, []string{"/proc/self/exe", confinedArgument}, m, m.size, m.block)
	if err != nil {
		return nil, about(name, err)
	}
	defer p.Close()
	r := &mediumResult{Medium: new(examine.Report), Files: []*scan.Report{}, Confined: p.Belts()}
	if err := json.Unmarshal(p.Report(), r.Medium); err != nil {
		return nil, about(name, fmt.Errorf("%w: %w", confined.ErrParser, err))
	}
	limits.Damaged = confined.ErrRefused
	for i := range p.Volumes() {
		report, err := scan.Check(e.ctx, p.Volume(i), limits)
		if err != nil {
			return nil, about(name, err)
		}
		r.Files = append(r.Files, report)
	}
	return r, nil
}

// err is a refusal when there is anything that a person should decide about.
func (r *mediumResult) err() error {
	if n := len(r.Medium.Findings); n > 0 {
		return &mediumError{r.Medium.Findings[0], n}
	}
	for _, report := range r.Files {
		if err := report.Err(); err != nil {
			return err
		}
	}
	return nil
}

// mediumError says that a medium isn't plainly what it should be.
type mediumError struct {
	first volume.Finding
	count int
}

func (e *mediumError) Error() string {
	text := e.first.Detail
	if e.first.Path != "" {
		text = scan.Quote(e.first.Path) + ": " + text
	}
	if e.count > 1 {
		text += fmt.Sprintf(", and %d findings more", e.count-1)
	}
	return text
}

// RefusalCode is the first finding's.
func (e *mediumError) RefusalCode() string { return e.first.Code }

func (r *mediumResult) text(w io.Writer) {
	fmt.Fprintf(w, "medium       %s in blocks of %d bytes, %s\n", bytesText(r.Medium.Size), r.Medium.BlockSize, schemeText(r.Medium.Scheme))
	for _, v := range r.Medium.Volumes {
		where := "whole"
		if v.Partition > 0 {
			where = fmt.Sprintf("partition %d", v.Partition)
		}
		holds := "nothing known"
		if v.Holds != "" {
			holds = printable(v.Holds)
		}
		if v.Label != "" {
			holds += fmt.Sprintf(" %q", printable(v.Label))
		}
		if v.Files == 0 {
			holds += ", not read"
		}
		fmt.Fprintf(w, "%-12s %s from byte %d: %s\n", where, bytesText(v.Size), v.Start, holds)
	}
	const shown = 40
	for i, f := range r.Medium.Findings {
		if i == shown {
			fmt.Fprintf(w, "... %d findings more; --json has them all\n", len(r.Medium.Findings)-shown)
			break
		}
		at := ""
		if f.Offset >= 0 {
			at = fmt.Sprintf(" at byte %d", f.Offset)
		}
		path := ""
		if f.Path != "" {
			path = ": " + scan.Quote(f.Path)
		}
		fmt.Fprintf(w, "finding      %s%s%s: %s\n", printable(f.Code), path, at, printable(f.Detail))
	}
	if slices.ContainsFunc(r.Medium.Volumes, func(v examine.Volume) bool { return v.Holds == "Sallyport bundle" }) {
		fmt.Fprintln(w, "bundle       sallyport verify checks it")
	}
	for i, report := range r.Files {
		fmt.Fprintf(w, "files of %d\n", i+1)
		_ = report.WriteText(w)
	}
	fmt.Fprintf(w, "read by      a process without rights (%s)\n", strings.Join(r.Confined, ", "))
}

func schemeText(scheme string) string {
	switch scheme {
	case "none":
		return "no partition table"
	case "mbr", "gpt":
		return strings.ToUpper(scheme)
	}
	return printable(scheme)
}
