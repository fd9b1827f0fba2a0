package qemutests

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport/bundle/iso9660"
	"sallyport/media/volume"
	"sallyport/media/volume/exfat"
	"sallyport/media/volume/ext"
	"sallyport/media/volume/fat"
	"sallyport/media/volume/part"
)

// treeImage is an image whose tree the kernel shows, or whose partitions it finds where it has no Kind.
type treeImage struct {
	name string // in messages
	host string // the file

	Path    string `json:"path"` // the file, in the guest
	Kind    string `json:"kind"`
	Options string `json:"options"`
	Block   int    `json:"block"` // bytes in a block of the loop device, 512 if 0
	Fill    bool   `json:"fill"`  // the kernel puts a tree into it first
}

// shown is what the kernel shows of an image.
type shown struct {
	Refused string // it wasn't mounted
	Broken  bool   // and that has nothing to do with what it holds
	Tree    []shownEntry
	Parts   [][3]int64 // number, first byte, bytes
	Took    float64    // seconds
}

type shownEntry struct {
	Name, Kind, Target, SHA256, Error string
	Mtime, Size                       int64
	Perm                              uint32
}

// hashed is how many bytes of a file are compared, as in kerneltree.py.
const hashed = 4 << 20

// mountOptions are those with which the kernel shows names as UTF-8 and times as UTC. Without map=off it has the names of plain ISO 9660 in lower case.
var mountOptions = map[string]string{
	"vfat": "utf8=1,codepage=437,iocharset=ascii,tz=UTC", "exfat": "iocharset=utf8", "ext2": "", "ext4": "noload", "iso9660": "iocharset=utf8,map=off",
}

// askKernel has the kernel of a guest show images.
func askKernel(t *testing.T, m *Machine, images []treeImage) []shown {
	t.Helper()
	var list bytes.Buffer
	for _, image := range images {
		image.Path = m.Path(image.host)
		if inShare, err := filepath.Rel(m.Share, image.host); err == nil && filepath.IsLocal(inShare) {
			image.Path = filepath.Join("/tmp/share", inShare)
		}
		image.Options = mountOptions[image.Kind]
		line, err := json.Marshal(image)
		if err != nil {
			t.Fatal(err)
		}
		list.Write(append(line, '\n'))
	}
	r := m.Must(t, Command{
		Script: "cat >/tmp/list; dmesg -n 3; exec python3 " + m.Path(filepath.Join(source(), "qemu-tests/testdata/kerneltree.py")) + " /tmp/list",
		Stdin:  &list, Limit: 10 * time.Minute,
	})
	var all []shown
	d := json.NewDecoder(strings.NewReader(r.Stdout))
	for d.More() {
		var s shown
		if err := d.Decode(&s); err != nil {
			t.Fatal(err)
		}
		if s.Broken {
			t.Fatalf("%s: %s: %s", images[len(all)].name, s.Refused, m.Script(t, "dmesg | tail -5"))
		}
		all = append(all, s)
		if s.Took > 5 {
			t.Logf("%s took %.1f s", images[len(all)-1].name, s.Took)
		}
	}
	if len(all) != len(images) {
		t.Fatalf("the guest told of %d images of %d: %s", len(all), len(images), r.Stderr)
	}
	return all
}

// lines has one line for each file and directory that the kernel shows. The kernel names a file of plain ISO 9660 with its version.
func (s shown) lines(t *testing.T, kind string) []string {
	t.Helper()
	var out []string
	for _, e := range s.Tree {
		name, err := hex.DecodeString(e.Name)
		target, err2 := hex.DecodeString(e.Target)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		e.Name, e.Target = string(name), string(target)
		if kind == "iso9660" && e.Kind == "file" {
			e.Name = strings.TrimSuffix(strings.TrimSuffix(e.Name, ";1"), ".")
		}
		out = append(out, e.line(kind))
	}
	slices.Sort(out)
	return out
}

// line is what is compared: permissions only where the file system has them.
func (e shownEntry) line(kind string) string {
	perm := ""
	if strings.HasPrefix(kind, "ext") {
		perm = fmt.Sprintf(" %o", e.Perm)
	}
	switch {
	case e.Error != "":
		return fmt.Sprintf("%q %s that can't be read", e.Name, e.Kind)
	case e.Kind == "file":
		return fmt.Sprintf("%q file %d %s %d%s", e.Name, e.Size, e.SHA256, e.Mtime, perm)
	case e.Kind == "link":
		return fmt.Sprintf("%q link to %q %d", e.Name, e.Target, e.Mtime)
	}
	return fmt.Sprintf("%q %s %d%s", e.Name, e.Kind, e.Mtime, perm)
}

// ours has the same lines of what a reader without a kernel shows.
func ours(fsys fs.FS, kind string) []string {
	var out []string
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil: // of a directory, beside its own line
			out = append(out, shownEntry{Name: name, Kind: "dir", Error: err.Error()}.line(kind))
		case name != ".":
			out = append(out, ourEntry(fsys, name, d).line(kind))
		}
		return nil
	})
	if err != nil {
		out = append(out, err.Error())
	}
	slices.Sort(out)
	return out
}

func ourEntry(fsys fs.FS, name string, d fs.DirEntry) shownEntry {
	e := shownEntry{Name: name, Kind: "other"}
	info, err := d.Info()
	if err != nil {
		e.Kind, e.Error = "unknown", err.Error()
		return e
	}
	mode := info.Mode()
	e.Mtime, e.Size, e.Perm = info.ModTime().Unix(), info.Size(), uint32(mode.Perm())
	for bit, value := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if mode&bit != 0 {
			e.Perm |= value
		}
	}
	switch {
	case mode.IsDir():
		e.Kind = "dir"
	case mode&fs.ModeSymlink != 0:
		e.Kind = "link"
		e.Target, err = fs.ReadLink(fsys, name)
	case mode.IsRegular():
		e.Kind = "file"
		e.SHA256, err = hashOf(fsys, name)
	}
	if err != nil {
		e.Error = err.Error()
	}
	return e
}

func hashOf(fsys fs.FS, name string) (string, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, hashed)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// openTree opens an image with the reader for its kind.
func openTree(kind string, r io.ReaderAt, size int64) (fs.FS, error) {
	switch kind {
	case "vfat":
		return fat.Open(r, size)
	case "exfat":
		return exfat.Open(r, size)
	case "ext2", "ext4":
		return ext.Open(r, size)
	case "iso9660":
		return iso9660.Open(r, size)
	}
	return nil, fmt.Errorf("nothing here reads %s", kind)
}

// differences are the lines that only one of two has, both in order.
func differences(kernel, ours []string) []string {
	var out []string
	for len(kernel) > 0 && len(ours) > 0 {
		switch c := strings.Compare(kernel[0], ours[0]); {
		case c < 0:
			out, kernel = append(out, "kernel: "+kernel[0]), kernel[1:]
		case c > 0:
			out, ours = append(out, "ours:   "+ours[0]), ours[1:]
		default:
			kernel, ours = kernel[1:], ours[1:]
		}
	}
	for _, l := range kernel {
		out = append(out, "kernel: "+l)
	}
	for _, l := range ours {
		out = append(out, "ours:   "+l)
	}
	return out
}

// compareTree holds our reader to the kernel. An image that is damaged may be shown otherwise where that is expected, and then not without a word about it.
func compareTree(t *testing.T, image treeImage, kernel shown, expected string) {
	t.Helper()
	f, err := os.Open(image.host)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var said, diff []string
	silent := false // the reader has no findings
	fsys, err := openTree(image.Kind, f, info.Size())
	if err != nil {
		said = append(said, err.Error())
		if kernel.Refused == "" {
			diff = append(diff, fmt.Sprintf("the kernel shows %d files, ours: %v", len(kernel.Tree), err))
		}
	} else {
		ours := ours(fsys, image.Kind)
		for _, l := range ours {
			if strings.HasSuffix(l, "that can't be read") {
				said = append(said, l)
			}
		}
		system, ok := fsys.(volume.FS)
		silent = !ok
		if ok {
			for _, found := range system.Findings() {
				said = append(said, found.String())
			}
		}
		if kernel.Refused != "" {
			diff = append(diff, fmt.Sprintf("the kernel: %s; ours shows %d files", kernel.Refused, len(ours)))
		} else {
			diff = differences(kernel.lines(t, image.Kind), ours)
		}
	}
	text := strings.Join(diff[:min(len(diff), 20)], "\n  ")
	switch {
	case expected == "" && len(diff) > 0:
		t.Errorf("%s: %d differences\n  %s\n  %s", image.name, len(diff), text, strings.Join(said[:min(len(said), 20)], "\n  "))
	case expected != "" && len(diff) == 0:
		t.Errorf("%s: no difference, though it is known that %s", image.name, expected)
	case expected != "" && len(said) == 0 && !silent:
		t.Errorf("%s: nothing is said of %d differences\n  %s", image.name, len(diff), text)
	}
}

// compareParts holds our reader of partition tables to the kernel's. The kernel has an extended partition as one of two
// sectors, which isn't listed here, and reads schemes that are only a finding here.
func compareParts(t *testing.T, image treeImage, kernel shown) {
	t.Helper()
	f, err := os.Open(image.host)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := part.Read(f, info.Size(), max(512, image.Block))
	if err != nil {
		t.Errorf("%s: %v", image.name, err)
		return
	}
	ours := [][3]int64{}
	for _, p := range table.Partitions {
		ours = append(ours, [3]int64{int64(p.Index), p.Start, p.Size})
	}
	theirs := slices.DeleteFunc(kernel.Parts, func(p [3]int64) bool { return p[0] <= 4 && p[2] == 1024 && table.Scheme == "mbr" })
	if strings.Contains(image.name, "dos+bsd") { // slices of a BSD disk label, which is what examine calls its partitions
		theirs = slices.DeleteFunc(theirs, func(p [3]int64) bool { return p[0] > 4 })
	}
	if slices.ContainsFunc(table.Findings, func(f volume.Finding) bool { return f.Code == "foreign-scheme" }) {
		theirs = [][3]int64{}
	}
	if !slices.Equal(theirs, ours) {
		t.Errorf("%s: the kernel has the partitions %v, ours are %v; %v", image.name, kernel.Parts, ours, table.Findings)
	}
}
