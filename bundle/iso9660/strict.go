package iso9660

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// A spanKind says what a span of an image's bytes is.
type spanKind byte

const (
	spanDescriptors spanKind = iota
	spanTable
	spanDir
	spanArea
	spanFile
)

func (k spanKind) String() string {
	return [...]string{"the volume descriptors", "a path table", "a directory", "a continuation area", "a file"}[k]
}

type span struct {
	off, n int64 // bytes
	kind   spanKind
}

// An observer notes what a reader touches. While there is one, the reader is strict.
type observer struct{ spans []span }

func (o *observer) add(kind spanKind, off, n int64) {
	if o != nil && n > 0 {
		o.spans = append(o.spans, span{off, n, kind})
	}
}

// A survey is what a view of an image shows.
type survey struct {
	fs    *FS
	spans []span
	files []surveyed // regular files with data, in order of their place
	dirs  []uint32   // LBAs, sorted
}

type surveyed struct {
	off, size int64
	path      string
}

// surveyView walks a whole view, strictly.
func surveyView(ctx context.Context, r io.ReaderAt, size int64, view View) (*survey, error) {
	f, err := OpenView(r, size, view)
	if err != nil {
		return nil, err
	}
	f.obs = &observer{}
	s := &survey{fs: f}
	if err := s.walk(ctx, &f.root, ".", 0); err != nil {
		return nil, err
	}
	s.spans = f.obs.spans
	slices.SortFunc(s.files, func(a, b surveyed) int { return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.path, b.path)) })
	slices.Sort(s.dirs)
	return s, nil
}

// walk goes over a directory; readDir bounds the depth and refuses loops.
func (s *survey) walk(ctx context.Context, d *entry, path string, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.dirs = append(s.dirs, d.lba)
	list, err := s.fs.readDir(d, path, depth)
	if err != nil {
		return err
	}
	for _, e := range list {
		name := e.name
		if path != "." {
			name = path + "/" + name
		}
		switch {
		case e.IsDir():
			if err := s.walk(ctx, e, name, depth+1); err != nil {
				return err
			}
		case e.bad != 0:
			return &FormatError{Offset: e.record, Path: name, Msg: e.bad.String()}
		case e.mode.IsRegular():
			for _, x := range e.Sys().(*Stat).Extents {
				s.files = append(s.files, surveyed{x.LBA * BlockSize, x.Size, name})
				s.fs.obs.add(spanFile, x.LBA*BlockSize, x.Size)
			}
		}
	}
	return nil
}

// DifferingViews returns a *FormatError when readers that choose another of an image's views (Rock Ridge, Joliet, plain ISO 9660) would see other files: other data, or, between Rock Ridge and Joliet, data under other names.
func DifferingViews(ctx context.Context, r io.ReaderAt, size int64) error {
	_, err := surveyAll(ctx, r, size)
	return err
}

// surveyAll walks all views and compares them with the first, which is the one that ViewAuto chooses.
func surveyAll(ctx context.Context, r io.ReaderAt, size int64) ([]*survey, error) {
	auto, err := surveyView(ctx, r, size, ViewAuto)
	if err != nil {
		return nil, err
	}
	all := []*survey{auto}
	others := []View{ViewISO9660}
	if auto.fs.vol.joliet != nil {
		others = append(others, ViewJoliet)
	}
	for _, view := range others {
		if view == auto.fs.view {
			continue
		}
		s, err := surveyView(ctx, r, size, view)
		if err != nil {
			return nil, fmt.Errorf("%v view: %w", view, err)
		}
		if err := compareViews(auto, s); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func compareViews(a, b *survey) error {
	named := a.fs.view != ViewISO9660 && b.fs.view != ViewISO9660
	for i := range max(len(a.files), len(b.files)) {
		var x, y surveyed
		if i < len(a.files) {
			x = a.files[i]
		}
		if i < len(b.files) {
			y = b.files[i]
		}
		if x.off != y.off || x.size != y.size || named && x.path != y.path {
			return &FormatError{Offset: max(x.off, y.off), Path: cmp.Or(x.path, y.path),
				Msg: fmt.Sprintf("the %v view has %q here (%d bytes), the %v view %q (%d bytes)", a.fs.view, x.path, x.size, b.fs.view, y.path, y.size)}
		}
	}
	if a.fs.view != ViewJoliet && b.fs.view != ViewJoliet && !slices.Equal(a.dirs, b.dirs) {
		return &FormatError{Path: ".", Msg: fmt.Sprintf("the %v view and the %v view have different directories", a.fs.view, b.fs.view)}
	}
	return nil
}

// Strict reads an image of size bytes as a whole and returns a *FormatError for whatever lets readers differ or hides data: views that differ, path tables that differ from the tree, overlapping extents, a boot record, a UDF or other descriptor,
// bytes that are not zero in the system area, in gaps or behind the volume, and all that [FS] refuses.
func Strict(ctx context.Context, r io.ReaderAt, size int64) error {
	all, err := surveyAll(ctx, r, size)
	if err != nil {
		return err
	}
	v := &all[0].fs.vol
	switch {
	case v.boot != 0:
		return &FormatError{Offset: v.boot, Msg: "boot record"}
	case v.udf != 0:
		return &FormatError{Offset: v.udf, Msg: "volume structure descriptor of UDF"}
	case v.other != 0:
		return &FormatError{Offset: v.other, Msg: "further volume descriptor"}
	case v.primary.oddRoot || v.joliet != nil && v.joliet.oddRoot:
		return &FormatError{Offset: v.primary.offset + 156, Msg: "the root's directory record doesn't have 34 bytes"}
	case int64(v.primary.blocks)*BlockSize > size:
		return &FormatError{Offset: v.primary.offset + 80, Msg: fmt.Sprintf("volume of %d blocks in an image of %d bytes", v.primary.blocks, size)}
	}
	spans := []span{{descriptorLBA * BlockSize, v.terminator + BlockSize - descriptorLBA*BlockSize, spanDescriptors}}
	for i, s := range all {
		d := v.primary
		if s.fs.view == ViewJoliet {
			d = v.joliet
		}
		for _, x := range s.spans {
			// Of further views the files are those of the first, and so are the directories of the primary descriptor.
			if i == 0 || x.kind != spanFile && s.fs.view == ViewJoliet {
				spans = append(spans, x)
			}
		}
		if i > 0 && s.fs.view != ViewJoliet {
			continue
		}
		tables, err := s.checkTables(d)
		if err != nil {
			return err
		}
		spans = append(spans, tables...)
	}
	return checkRest(ctx, r, size, spans)
}

// checkTables compares both path tables of a descriptor with the directories that were found.
func (s *survey) checkTables(d *descriptor) ([]span, error) {
	if d.optional {
		return nil, &FormatError{Offset: d.offset + 144, Msg: "optional path tables"}
	}
	var spans []span
	for _, t := range []struct {
		lba   uint32
		order binary.ByteOrder
	}{{d.tableL, binary.LittleEndian}, {d.tableM, binary.BigEndian}} {
		start, n := int64(t.lba)*BlockSize, int64(d.tableSize)
		if t.lba < descriptorLBA || start+n > s.fs.size {
			return nil, &FormatError{Offset: d.offset + 132, Msg: "path table is outside the volume"}
		}
		// A directory's entry has at most 8 + 255 + 1 bytes, so no more than this is read.
		if n > int64(len(s.dirs))*264 {
			return nil, &FormatError{Offset: start, Msg: "path table has more directories than the tree"}
		}
		b := make([]byte, n)
		if err := readFull(s.fs.r, b, start); err != nil {
			return nil, fmt.Errorf("read path table at byte %d: %w", start, err)
		}
		lbas, fault := tableLBAs(b, t.order)
		if slices.Sort(lbas); fault == "" && !slices.Equal(lbas, s.dirs) {
			fault = "path table and tree have different directories"
		}
		if fault != "" {
			return nil, &FormatError{Offset: start, Msg: fault}
		}
		spans = append(spans, span{start, n, spanTable})
	}
	return spans, nil
}

// tableLBAs returns the locations that a path table has (ECMA-119 9.4), extended attribute records skipped.
func tableLBAs(b []byte, order binary.ByteOrder) (lbas []uint32, fault string) {
	for len(b) > 0 {
		if len(b) < 8 || b[0] == 0 || len(b) < even(8+int(b[0])) {
			return nil, "path table record is cut off"
		}
		lbas = append(lbas, order.Uint32(b[2:])+uint32(b[1]))
		b = b[even(8+int(b[0])):]
	}
	return lbas, ""
}

// checkRest refuses spans that overlap, and anything but zero outside of them.
func checkRest(ctx context.Context, r io.ReaderAt, size int64, spans []span) error {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.n, b.n)) })
	buf := make([]byte, 64<<10)
	pos, last := int64(0), spanDescriptors
	for i := range len(spans) + 1 {
		next := span{off: size}
		if i < len(spans) {
			next = spans[i]
		}
		if next.off < pos {
			return &FormatError{Offset: next.off, Msg: fmt.Sprintf("%v and %v overlap", last, next.kind)}
		}
		for pos < next.off {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := buf[:min(int64(len(buf)), next.off-pos)]
			if err := readFull(r, b, pos); err != nil {
				return fmt.Errorf("read at byte %d: %w", pos, err)
			}
			if k := slices.IndexFunc(b, func(c byte) bool { return c != 0 }); k >= 0 {
				return &FormatError{Offset: pos + int64(k), Msg: "data that belong to nothing in the volume"}
			}
			pos += int64(len(b))
		}
		pos, last = next.off+next.n, next.kind
	}
	return nil
}
