// Package examine looks at a medium whole: what its partition table says and what lies beside it, which file systems
// there are, and what in them a person should know before anything is taken from them. It is what media/confined runs in
// a process without rights.
package examine

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"sallyport/media/volume"
	"sallyport/media/volume/exfat"
	"sallyport/media/volume/ext"
	"sallyport/media/volume/fat"
	"sallyport/media/volume/part"
)

// Report is what was found. Texts come from the medium and can hold anything.
type Report struct {
	Size      int64            `json:"size"`       // bytes
	BlockSize int              `json:"block_size"` // bytes
	Scheme    string           `json:"scheme"`     // of the partition table: "none", "mbr", "gpt"
	Volumes   []Volume         `json:"volumes"`
	Findings  []volume.Finding `json:"findings"` // offsets from the start of the medium
}

// Volume is a partition, or the whole medium where it has none.
type Volume struct {
	Partition int    `json:"partition"` // as the table numbers it, 0 for the whole medium
	Start     int64  `json:"start"`     // bytes
	Size      int64  `json:"size"`      // bytes
	Type      string `json:"type,omitempty"`
	Name      string `json:"name,omitempty"` // in the table
	Holds     string `json:"holds"`          // what is recognised in it: "FAT32", "NTFS"; "" for nothing
	Label     string `json:"label,omitempty"`
	// Files is the number of the file system that can be read, counted from 1, 0 for none.
	Files int `json:"files"`
}

// Codes of findings that are made here; the readers have theirs.
const (
	CodeUnread       = "volume-unread"  // a file system that isn't read here
	CodeDamaged      = "volume-damaged" // a file system that can't be read
	CodeGapsUnread   = "gaps-unread"    // more lies beside the partitions than is looked at
	CodeAutorun      = "autorun"        // a file that other systems run or follow by themselves
	CodeDirUnread    = "directory-unread"
	CodeFileUnread   = "file-unread"
	CodeTooManyFiles = "too-many-files"
	CodeSeveral      = "several-file-systems" // what one system takes for this file system, another may take for that
)

// bundleName is what part.Identify calls an image that this program made.
const bundleName = "Sallyport bundle"

const (
	maxGaps    = 256 << 20 // bytes beside partitions that are looked at, and as many of volumes in which nothing is recognised
	maxEntries = 1 << 20   // files and directories of a volume that are walked over
	maxRead    = 64        // volumes whose file system is read
)

// Examine examines a medium of size bytes with logical blocks of block bytes. The file systems that can be read come
// beside the report; they are read from r as long as they are used. Errors are those of r; what is wrong with the medium
// is a finding.
func Examine(ctx context.Context, r io.ReaderAt, size int64, block int) (*Report, []volume.FS, error) {
	table, err := part.Read(r, size, block)
	if err != nil {
		return nil, nil, err
	}
	e := &examination{ctx: ctx, r: r, report: &Report{Size: size, BlockSize: block, Scheme: table.Scheme, Volumes: []Volume{}}}
	for _, f := range table.Findings {
		e.found.Add(f.Code, f.Offset, f.Path, "%s", f.Detail)
	}
	if len(table.Partitions) == 0 {
		if err := e.volume(Volume{Size: size}); err != nil {
			return nil, nil, err
		}
	}
	for _, p := range table.Partitions {
		v := Volume{Partition: p.Index, Start: p.Start, Size: min(p.Size, size-p.Start), Type: p.TypeName, Name: p.Name}
		if v.Type == "" {
			v.Type = p.Type
		}
		if p.Start < 0 || v.Size <= 0 { // beyond the end, of which the table's findings tell
			e.report.Volumes = append(e.report.Volumes, v)
			continue
		}
		if err := e.volume(v); err != nil {
			return nil, nil, err
		}
	}
	if err := e.gaps(table); err != nil {
		return nil, nil, err
	}
	e.report.Findings = e.found.All()
	if e.report.Findings == nil {
		e.report.Findings = []volume.Finding{}
	}
	return e.report, e.systems, nil
}

type examination struct {
	ctx     context.Context
	r       io.ReaderAt
	report  *Report
	looked  int64 // bytes of volumes in which nothing is recognised
	found   volume.List
	systems []volume.FS
}

// gaps looks beside the partitions, where there are any.
func (e *examination) gaps(table *part.Table) error {
	if len(table.Partitions) == 0 {
		return nil
	}
	total := int64(0)
	for _, g := range table.Gaps() {
		total += g.Size
	}
	if total > maxGaps {
		e.found.Add(CodeGapsUnread, -1, "", "%d bytes lie beside the partitions, more than the %d that are looked at", total, maxGaps)
		return nil
	}
	findings, err := table.ScanGaps(e.ctx, e.r, nil)
	if err != nil {
		return err
	}
	for _, f := range findings {
		e.found.Add(f.Code, f.Offset, f.Path, "%s", f.Detail)
	}
	return nil
}

// systems are the file systems that are read here. A volume that could be several is read as the first.
var systems = []struct {
	name  string
	probe func(boot []byte) bool
	open  func(r io.ReaderAt, size int64) (volume.FS, error)
}{
	{"FAT", fat.Probe, func(r io.ReaderAt, size int64) (volume.FS, error) { return fat.Open(r, size) }},
	{"exFAT", exfat.Probe, func(r io.ReaderAt, size int64) (volume.FS, error) { return exfat.Open(r, size) }},
	{"ext", ext.Probe, func(r io.ReaderAt, size int64) (volume.FS, error) { return ext.Open(r, size) }},
}

// reader returns what opens the file system of v, whose first 4 KiB are boot, nil for one that isn't read here.
func (e *examination) reader(v Volume, boot []byte) func(r io.ReaderAt, size int64) (volume.FS, error) {
	var open func(r io.ReaderAt, size int64) (volume.FS, error)
	first := ""
	for _, s := range systems {
		switch {
		case !s.probe(boot):
		case open == nil:
			open, first = s.open, s.name
		default:
			e.found.Add(CodeSeveral, v.Start, "", "it is %s, and what says that it is %s is there, too: another system may show other files", first, s.name)
		}
	}
	return open
}

// volume looks at what a partition holds.
func (e *examination) volume(v Volume) error {
	r := io.NewSectionReader(e.r, v.Start, v.Size)
	holds, err := part.Identify(r, v.Size)
	if err != nil {
		return err
	}
	v.Holds = holds
	boot := make([]byte, min(4096, v.Size))
	if _, err := r.ReadAt(boot, 0); err != nil && err != io.EOF {
		return err
	}
	open := e.reader(v, boot)
	switch {
	case open == nil:
		switch v.Holds {
		case bundleName: // which others check
		case "":
			if err := e.unknown(v, r); err != nil {
				return err
			}
		default:
			e.found.Add(CodeUnread, v.Start, "", "it holds %s, of which nothing is read here", v.Holds)
		}
	case len(e.systems) >= maxRead:
		e.found.Add(CodeUnread, v.Start, "", "only %d file systems of a medium are read", maxRead)
	default:
		system, err := open(r, v.Size)
		if err != nil {
			e.found.Add(CodeDamaged, v.Start, "", "%s can't be read: %v", v.Holds, err)
			break
		}
		e.systems = append(e.systems, system)
		v.Files, v.Holds, v.Label = len(e.systems), system.Name(), system.Label()
		if err := e.walk(v, system); err != nil {
			return err
		}
	}
	e.report.Volumes = append(e.report.Volumes, v)
	return nil
}

// unknown says where a volume in which nothing is recognised isn't empty.
func (e *examination) unknown(v Volume, r io.ReaderAt) error {
	looked := min(v.Size, maxGaps-e.looked)
	e.looked += looked
	buf := make([]byte, min(looked, 1<<20))
	for at := int64(0); at < looked; at += int64(len(buf)) {
		if err := e.ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(int64(len(buf)), looked-at)]
		if _, err := r.ReadAt(b, at); err != nil && err != io.EOF {
			return err
		}
		if i := bytes.IndexFunc(b, func(r rune) bool { return r != 0 }); i >= 0 {
			e.found.Add(CodeUnread, v.Start+at+int64(i), "", "it holds something that isn't recognised")
			return nil
		}
	}
	if looked < v.Size {
		e.found.Add(CodeGapsUnread, v.Start+looked, "", "nothing is recognised in it; the first %d bytes are zero, and the others aren't looked at", looked)
	}
	return nil
}

// walk goes over all directories of a file system, for what it finds on the way. It opens the files, which has a reader
// follow what each of them occupies, and reads nothing of them.
func (e *examination) walk(v Volume, system volume.FS) error {
	entries := 0
	err := fs.WalkDir(system, ".", func(name string, d fs.DirEntry, err error) error {
		if err := e.ctx.Err(); err != nil {
			return err
		}
		if err != nil {
			e.found.Add(CodeDirUnread, -1, e.path(v, name), "it can't be read: %v", err)
			return nil
		}
		if entries++; entries > maxEntries {
			e.found.Add(CodeTooManyFiles, -1, e.path(v, ""), "more than %d files and directories", maxEntries)
			return fs.SkipAll
		}
		if d.Type().IsRegular() {
			if f, err := system.Open(name); err != nil {
				e.found.Add(CodeFileUnread, -1, e.path(v, name), "it can't be read: %v", err)
			} else {
				f.Close()
			}
		}
		if what := runsByItself(name); what != "" {
			e.found.Add(CodeAutorun, -1, e.path(v, name), "%s", what)
		}
		return nil
	})
	for _, f := range system.Findings() {
		at := f.Offset
		if at >= 0 {
			at += v.Start
		}
		e.found.Add(f.Code, at, e.path(v, f.Path), "%s", f.Detail)
	}
	return err
}

// path names a file of a volume; on a medium with partitions by the partition, too.
func (e *examination) path(v Volume, name string) string {
	if v.Partition == 0 || name == "" {
		return name
	}
	return fmt.Sprintf("partition %d/%s", v.Partition, name)
}

// runsByItself says what a file is that some system runs or follows without being asked.
func runsByItself(name string) string {
	switch lower := strings.ToLower(name); {
	case lower == "autorun.inf":
		return "Windows runs or shows what it names"
	case lower == "desktop.ini" || strings.HasSuffix(lower, "/desktop.ini"):
		return "Windows takes icons and names of a folder from it"
	case lower == ".autorun" || lower == "autorun" || lower == "autorun.sh" || lower == ".autoopen" || lower == "autoopen":
		return "desktops offer to run or open it"
	case strings.HasSuffix(lower, ".lnk") || strings.HasSuffix(lower, ".url") || strings.HasSuffix(lower, ".scf") || strings.HasSuffix(lower, ".library-ms"):
		return "Windows follows it when it shows the folder"
	}
	return ""
}
