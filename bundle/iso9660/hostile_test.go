package iso9660

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A forgery is an image of ours that is tampered with.
type forgery struct {
	t testing.TB
	b []byte
	f *FS // of the image before
}

func forge(t testing.TB, b []byte) *forgery {
	return &forgery{t, bytes.Clone(b), openImage(t, bytes.Clone(b))}
}

// record returns the directory record of a file, to be changed.
func (g *forgery) record(path string) []byte {
	g.t.Helper()
	info, err := g.f.Lstat(path)
	if err != nil {
		g.t.Fatal(err)
	}
	off := info.Sys().(*Stat).Record
	return g.b[off:][:g.b[off]]
}

// dirRecord returns record n of a directory: 0 is ".", 1 is "..".
func (g *forgery) dirRecord(path string, n int) []byte {
	g.t.Helper()
	b := g.b[g.lba(path)*BlockSize:]
	for range n {
		b = b[b[0]:]
	}
	return b[:b[0]]
}

func (g *forgery) lba(path string) int64 {
	g.t.Helper()
	info, err := g.f.Stat(path)
	if err != nil {
		g.t.Fatal(err)
	}
	return info.Sys().(*Stat).Extents[0].LBA
}

// entry returns the first system use entry of a record with a signature.
func (g *forgery) entry(record []byte, sig string) []byte {
	g.t.Helper()
	k := bytes.Index(record, []byte(sig))
	if k < 0 {
		g.t.Fatalf("no %s entry", sig)
	}
	return record[k:][:record[k+2]]
}

func put733(b []byte, v uint32) {
	binary.LittleEndian.PutUint32(b, v)
	binary.BigEndian.PutUint32(b[4:], v)
}

// walkError reads everything there is and returns the first error.
func walkError(b []byte) error {
	f, err := Open(memImage(b), int64(len(b)))
	if err != nil {
		return err
	}
	_, err = list(f)
	return err
}

func wantFormatError(t testing.TB, err error, text string) {
	t.Helper()
	var f *FormatError
	if !errors.As(err, &f) || !strings.Contains(f.Msg, text) {
		t.Errorf("error %v, want a *FormatError with %q", err, text)
	}
}

// hostileTree is small and has every kind of record.
func hostileTree() *testTree {
	tr := newTree()
	tr.dir("a")
	tr.dir("a/b")
	tr.file("a/b/deep", "deep")
	tr.file("a/f1", "one")
	tr.file("a/f2", "two")
	tr.file("long-"+strings.Repeat("n", 200), "long")
	tr.file("long+"+strings.Repeat("m", 200), "long")
	tr.link("link", "a/f1")
	tr.file("z", strings.Repeat("z", 5000))
	return tr
}

// TestHostile changes one thing in a good image: rows F2 and F3, and what else a reader must not believe.
func TestHostile(t *testing.T) {
	t.Parallel()
	image := hostileTree().image(t)
	if err := walkError(image); err != nil {
		t.Fatal(err)
	}
	long := "long-" + strings.Repeat("n", 200)
	for _, c := range []struct {
		name, want string
		change     func(g *forgery)
	}{
		{"F2 continuation area that leads to itself", "more than 32 continuation areas", func(g *forgery) {
			ce := g.entry(g.record(long), "CE\x1c")
			area := g.b[int64(binary.LittleEndian.Uint32(ce[4:]))*BlockSize+int64(binary.LittleEndian.Uint32(ce[12:])):]
			put733(ce[20:], lenCE)
			copy(area, ce)
		}},
		{"F2 continuation area of more than 64 KiB", "more than 65536 bytes", func(g *forgery) { put733(g.entry(g.record(long), "CE\x1c")[20:], 65537) }},
		{"F2 continuation area outside the volume", "outside the volume", func(g *forgery) { put733(g.entry(g.record(long), "CE\x1c")[4:], 1<<31) }},
		{"F2 continuation area in the system area", "outside the volume", func(g *forgery) { put733(g.entry(g.record(long), "CE\x1c")[4:], 3) }},
		{"F2 continuation offset past the block", "outside the volume", func(g *forgery) { put733(g.entry(g.record(long), "CE\x1c")[12:], 5000) }},
		{"F2 directory in itself", "belongs to the record", func(g *forgery) { put733(g.record("a/b")[2:], uint32(g.lba("a"))) }},
		{"F2 directory that is the root", "belongs to the record", func(g *forgery) { put733(g.record("a/b")[2:], uint32(g.lba("."))) }},
		{"F2 its own parent", "its own parent", func(g *forgery) { put733(g.dirRecord("a/b", 1)[2:], uint32(g.lba("a/b"))) }},
		{"F2 CL to its own directory", "belongs to the record", func(g *forgery) { childLink(g, "a/f1", uint32(g.lba("a"))) }},
		{"F2 CL to the root", "belongs to the record", func(g *forgery) { childLink(g, "a/f1", uint32(g.lba("."))) }},
		{"F2 CL to a file", "directory record", func(g *forgery) { childLink(g, "a/f1", uint32(g.lba("z"))) }},
		{"F2 CL to what looks like a record", "CL leads to", func(g *forgery) {
			rec := g.b[g.lba("z")*BlockSize:][:minRecord]
			clear(rec)
			putRecordHead(rec, []byte{0}, 20, BlockSize, 0, flagDirectory)
			childLink(g, "a/f1", uint32(g.lba("z")))
		}},
		{"F2 CL outside", "outside the volume", func(g *forgery) { childLink(g, "a/f1", 1<<30) }},
		{"F2 PL without CL", "PL of a relocated", func(g *forgery) {
			tf := g.entry(g.dirRecord("a/b", 1), "TF")
			copy(tf, "PL\x0c\x01")
			put733(tf[4:], uint32(g.lba("a")))
		}},
		{"F3 location", "differs between byte orders", func(g *forgery) { g.record("z")[6]++ }},
		{"F3 length", "differs between byte orders", func(g *forgery) { g.record("z")[17]++ }},
		{"F3 mode", "differs between byte orders", func(g *forgery) { g.entry(g.record("z"), "PX")[11]++ }},
		{"F3 continuation", "differs between byte orders", func(g *forgery) { g.entry(g.record(long), "CE\x1c")[11]++ }},
		{"F3 volume size", "volume space size differs", func(g *forgery) { g.b[descriptorLBA*BlockSize+84]++ }},
		{"F3 block size", "block size differs", func(g *forgery) { g.b[descriptorLBA*BlockSize+130]++ }},
		{"F3 path table size", "path table size differs", func(g *forgery) { g.b[descriptorLBA*BlockSize+136]++ }},
		{"F3 file past the end", "outside the volume", func(g *forgery) { put733(g.record("z")[10:], 5000+BlockSize) }},
		{"F3 file far outside", "outside the volume", func(g *forgery) { put733(g.record("z")[2:], 1<<32-1) }},
		{"F3 file in the system area", "outside the volume", func(g *forgery) { put733(g.record("z")[2:], 0) }},
		{"F3 directory past the end", "outside the volume", func(g *forgery) {
			put733(g.record("a/b")[10:], 1<<30)
			put733(g.dirRecord("a/b", 0)[10:], 1<<30)
		}},
		{"directory of another length", "has 2048 bytes, the directory 4096", func(g *forgery) { put733(g.record("a/b")[10:], 4096) }},
		{"directory of no bytes", "outside the volume", func(g *forgery) { put733(g.record("a/b")[10:], 0) }},
		{"name with a slash", "slash", func(g *forgery) { g.entry(g.record("a/f1"), "NM")[5] = '/' }},
		{"name with a NUL", "NUL", func(g *forgery) { g.entry(g.record("a/f1"), "NM")[5] = 0 }},
		{"name ..", "name is", func(g *forgery) { copy(g.entry(g.record("a/f1"), "NM")[5:], "..") }},
		{"name that is not UTF-8", "not UTF-8", func(g *forgery) { g.entry(g.record("a/f1"), "NM")[5] = 0xFF }},
		{"name twice", "occurs twice", func(g *forgery) { g.entry(g.record("a/f1"), "NM")[6] = '2' }},
		{"name that is a parent's", "not a name", func(g *forgery) { g.entry(g.record("a/f1"), "NM")[4] = nmParent }},
		{"name that goes on nowhere", "nothing follows", func(g *forgery) { g.entry(g.record("a/f1"), "NM")[4] = nmContinue }},
		{"a directory's mode on a file", "doesn't go with its record", func(g *forgery) { put733(g.entry(g.record("z"), "PX")[4:], sIFDIR|0o755) }},
		{"a file's mode on a directory", "doesn't go with its record", func(g *forgery) { put733(g.entry(g.record("a"), "PX")[4:], sIFREG|0o755) }},
		{"mode of no kind", "doesn't go with its record", func(g *forgery) { put733(g.entry(g.record("z"), "PX")[4:], sIFMT) }},
		{"link without a target", "no target", func(g *forgery) { copy(g.entry(g.record("link"), "SL"), "XX") }},
		{"link's component too long", "longer than the entry", func(g *forgery) { g.entry(g.record("link"), "SL")[6] = 200 }},
		{"interleaved file", "interleaved", func(g *forgery) { g.record("z")[26] = 1 }},
		{"compressed file", "compressed", func(g *forgery) { copy(g.entry(g.record("z"), "TF"), "ZF") }},
		{"sparse file", "sparse", func(g *forgery) { copy(g.entry(g.record("z"), "TF"), "SF") }},
		{"file that goes on", "must follow", func(g *forgery) { g.record("a/f1")[25] |= flagMore }},
		{"last file that goes on", "no extent follows", func(g *forgery) { g.record("z")[25] |= flagMore }},
		{"record too short", "directory record of 20 bytes", func(g *forgery) { g.record("z")[0] = 20 }},
		{"record past the block", "are left in the block", func(g *forgery) {
			rec := g.record("a/b/deep")
			rec[0] = 255
			copy(g.b[g.lba("a/b")*BlockSize+BlockSize-int64(len(rec)):], rec)
			fill := g.b[g.lba("a/b")*BlockSize+2*82:][:BlockSize-2*82-len(rec)]
			padRecords(fill)
		}},
		{"identifier past the record", "identifier of 250 bytes", func(g *forgery) { g.record("z")[32] = 250 }},
		{"system use entry too long", "are left", func(g *forgery) { g.entry(g.record("z"), "NM")[2] = 200 }},
		{"system use entry of no length", "are left", func(g *forgery) { g.entry(g.record("z"), "NM")[2] = 0 }},
		{"no dot records", "first record", func(g *forgery) { g.dirRecord("a/b", 0)[33] = 'A' }},
		{"no dot-dot record", "second record", func(g *forgery) { g.dirRecord("a/b", 1)[33] = 'A' }},
		{"dot elsewhere", "\".\" is at LBA", func(g *forgery) { put733(g.dirRecord("a/b", 0)[2:], 20) }},
		{"block size 4096", "only 2048", func(g *forgery) {
			binary.LittleEndian.PutUint16(g.b[descriptorLBA*BlockSize+128:], 4096)
			binary.BigEndian.PutUint16(g.b[descriptorLBA*BlockSize+130:], 4096)
		}},
		{"no terminator", "more than 64 volume descriptors", func(g *forgery) {
			var many []byte
			for range maxDescriptors {
				many = append(many, g.b[descriptorLBA*BlockSize:][:BlockSize]...)
			}
			g.b = append(g.b[:descriptorLBA*BlockSize], append(many, g.b[descriptorLBA*BlockSize:]...)...)
		}},
		{"cut after the first descriptor", "ends before", func(g *forgery) { g.b = g.b[:(descriptorLBA+1)*BlockSize] }},
		{"no primary descriptor", "no primary", func(g *forgery) { g.b[descriptorLBA*BlockSize] = 3 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := forge(t, image)
			c.change(g)
			wantFormatError(t, walkError(g.b), c.want)
			if err := Strict(t.Context(), memImage(g.b), int64(len(g.b))); err == nil {
				t.Error("Strict accepts it")
			}
		})
	}
}

// TestContinuationBomb has many records that share one large continuation area: what is read is bounded by what the volume can hold.
func TestContinuationBomb(t *testing.T) {
	t.Parallel()
	tr := newTree()
	for i := range 50 {
		tr.file(fmt.Sprintf("%02d-", i)+strings.Repeat("n", 200), "")
	}
	tr.file("zz", strings.Repeat("XX\x04\x01", 10000))
	g := forge(t, tr.image(t))
	for _, e := range tr.entries[1:51] {
		rec := g.record(e.Path)
		g.entry(rec, "NM")[4] = 0
		ce := g.entry(rec, "CE\x1c")
		put733(ce[4:], uint32(g.lba("zz")))
		put733(ce[12:], 0)
		put733(ce[20:], 4000)
	}
	if err := walkError(g.b); err != nil {
		t.Errorf("one area of 4,000 bytes for 50 records: %v", err)
	}
	for _, e := range tr.entries[1:51] {
		put733(g.entry(g.record(e.Path), "CE\x1c")[20:], 40000)
	}
	wantFormatError(t, walkError(g.b), "more than the volume can hold")
}

// TestEntryLimit reads an image when nearly as many entries as are allowed were read before.
func TestEntryLimit(t *testing.T) {
	t.Parallel()
	image := hostileTree().image(t)
	f := openImage(t, image)
	f.count = MaxEntries - 3
	_, err := f.ReadDir(".")
	wantFormatError(t, err, "more than 4000003 entries")
}

// childLink turns a file's record into one that CL says is a relocated directory.
func childLink(g *forgery, path string, lba uint32) {
	tf := g.entry(g.record(path), "TF")
	copy(tf, "CL\x0c\x01")
	put733(tf[4:], lba)
}

// padRecords fills b with records of associated files, which readers skip.
func padRecords(b []byte) {
	for len(b) > 0 {
		n := min(len(b), 100)
		if rest := len(b) - n; rest > 0 && rest < 40 {
			n -= 40
		}
		r := b[:n]
		clear(r)
		putRecordHead(r, []byte{'X'}, 0, 0, 0, flagAssociated)
		b = b[n:]
	}
}

// TestRelocatedLoops tampers with the CL, PL and RE entries of genisoimage.
func TestRelocatedLoops(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	deep := filepath.Join(dir, "1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.iso")
	tool(t, minute, "genisoimage", "-quiet", "-R", "-o", path, dir)
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := walkError(image); err != nil {
		t.Fatal(err)
	}
	relocated := func(f *FS, name string) bool {
		info, err := f.Stat(name)
		return err == nil && info.(named).relocated
	}
	f := openImage(t, image)
	first, second := "1/2/3/4/5/6/7/8", "1/2/3/4/5/6/7/8/9/10/11/12/13/14"
	for !relocated(f, first) {
		first = filepath.Dir(first)
	}
	for !relocated(f, second) {
		second = filepath.Dir(second)
	}
	if first == second || first == "." {
		t.Fatalf("relocated directories are %s and %s", first, second)
	}
	for name, change := range map[string]func(g *forgery){
		"CL to an ancestor":      func(g *forgery) { put733(g.entry(g.record(second), "CL\x0c")[4:], uint32(g.lba(first))) },
		"CL to the root":         func(g *forgery) { put733(g.entry(g.record(second), "CL\x0c")[4:], uint32(g.lba("."))) },
		"CL in both byte orders": func(g *forgery) { g.entry(g.record(second), "CL\x0c")[4]++ },
		"PL elsewhere":           func(g *forgery) { put733(g.entry(g.dirRecord(first, 1), "PL\x0c")[4:], uint32(g.lba("."))) },
		"PL missing":             func(g *forgery) { copy(g.entry(g.dirRecord(first, 1), "PL\x0c"), "XX") },
		"RE missing, so it occurs twice": func(g *forgery) {
			moved := g.b[g.lba("rr_moved")*BlockSize:][:BlockSize]
			k := bytes.Index(moved, []byte("RE\x04\x01"))
			copy(moved[k:], "XX")
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := forge(t, image)
			change(g)
			if err := walkError(g.b); err == nil {
				t.Error("it was read")
			}
		})
	}
}

// TestStrict has what readers differ in or don't see: rows F3 to F5.
func TestStrict(t *testing.T) {
	t.Parallel()
	image := hostileTree().image(t)
	strict := func(b []byte) error { return Strict(t.Context(), memImage(b), int64(len(b))) }
	if err := strict(image); err != nil {
		t.Fatal(err)
	}
	table := int64(descriptorLBA+2) * BlockSize
	for _, c := range []struct {
		name, want string
		change     func(g *forgery)
	}{
		{"F3 two files in one place", "a file and a file overlap", func(g *forgery) {
			clear(g.b[g.lba("a/f1")*BlockSize:][:BlockSize])
			put733(g.record("a/f1")[2:], uint32(g.lba("a/f2")))
		}},
		{"F3 a file over a directory", "overlap", func(g *forgery) { put733(g.record("a/f1")[2:], uint32(g.lba("a/b"))) }},
		{"F3 two names in one continuation area", "overlap", func(g *forgery) {
			copy(g.entry(g.record("long-"+strings.Repeat("n", 200)), "CE\x1c"), g.entry(g.record("long+"+strings.Repeat("m", 200)), "CE\x1c"))
		}},
		{"F5 system area", "belong to nothing", func(g *forgery) { g.b[100] = 1 }},
		{"F5 behind the volume", "belong to nothing", func(g *forgery) { g.b = append(g.b, make([]byte, 100)...); g.b[len(g.b)-1] = 1 }},
		{"F5 behind a file's end", "belong to nothing", func(g *forgery) { g.b[g.lba("a/f1")*BlockSize+100] = 1 }},
		{"F5 behind the records", "behind the records", func(g *forgery) { g.b[g.lba("a/b")*BlockSize+BlockSize-1] = 1 }},
		{"F5 behind a path table", "belong to nothing", func(g *forgery) { g.b[table+BlockSize-1] = 1 }},
		{"F5 boot record", "boot record", func(g *forgery) { addDescriptor(g, 0) }},
		{"F5 second primary descriptor", "further volume descriptor", func(g *forgery) { addDescriptor(g, 1) }},
		{"F5 partition descriptor", "further volume descriptor", func(g *forgery) { addDescriptor(g, 3) }},
		{"F5 second session behind the first", "belong to nothing", func(g *forgery) { g.b = append(g.b, image...) }},
		{"F4 another directory in a path table", "different directories", func(g *forgery) { g.b[table+2]++ }},
		{"F4 another directory in the other path table", "different directories", func(g *forgery) { g.b[table+BlockSize+5]++ }},
		{"dot-dot elsewhere", "\"..\" is at", func(g *forgery) { put733(g.dirRecord("a/b", 1)[2:], uint32(g.lba("."))) }},
		{"volume larger than the image", "volume of", func(g *forgery) { put733(g.b[descriptorLBA*BlockSize+80:], 1000) }},
		{"root record of another length", "34 bytes", func(g *forgery) { g.b[descriptorLBA*BlockSize+156] = 68 }},
		{"optional path table", "optional", func(g *forgery) { g.b[descriptorLBA*BlockSize+144] = 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := forge(t, image)
			c.change(g)
			wantFormatError(t, strict(g.b), c.want)
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Strict(ctx, memImage(image), int64(len(image))); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// addDescriptor puts a descriptor of a type where the terminator is, and the terminator over the first path table, which only Strict would miss.
func addDescriptor(g *forgery, kind byte) {
	at := g.b[(descriptorLBA+1)*BlockSize:]
	copy(at[BlockSize:], at[:BlockSize])
	at[0] = kind
	// The table goes where nothing else is: behind the volume, which grows.
	blocks := uint32(len(g.b) / BlockSize)
	old := openTable(g)
	g.b = append(g.b, pad(old)...)
	l := g.b[descriptorLBA*BlockSize:]
	put733(l[80:], blocks+uint32(blocksOf(int64(len(old)))))
	binary.LittleEndian.PutUint32(l[140:], blocks)
}

func openTable(g *forgery) []byte {
	l, err := NewLayout(testVolume, hostileTree().entries)
	if err != nil {
		g.t.Fatal(err)
	}
	return l.pathTable(nil, false)[:l.pathTableSize()]
}

// TestDifferingViews is row F4: an image that shows one file with Rock Ridge and another with Joliet.
func TestDifferingViews(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "same"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-R", "-J"}, ""},
		{[]string{"-R"}, ""},
		{[]string{"-R", "-J", "-hide", "a", "-hide-joliet", "b"}, "the Rock Ridge view has"},
		{[]string{"-J", "-hide", "a"}, "the Joliet view has"},
		{[]string{"-R", "-J", "-hide-joliet", "b"}, "the Rock Ridge view has"},
	} {
		image := filepath.Join(t.TempDir(), "image.iso")
		tool(t, minute, "genisoimage", append(c.args, "-quiet", "-o", image, dir)...)
		b, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		err = DifferingViews(t.Context(), memImage(b), int64(len(b)))
		if c.want == "" {
			if err != nil {
				t.Errorf("%q: %v", c.args, err)
			}
			continue
		}
		wantFormatError(t, err, c.want)
	}

	// El Torito and UDF are no views of ours, but other readers' (F5).
	for want, args := range map[string][]string{"boot record": {"-R", "-b", "a", "-no-emul-boot", "-c", "cat"}, "UDF": {"-R", "-udf"}} {
		image := filepath.Join(t.TempDir(), "image.iso")
		tool(t, minute, "genisoimage", append(args, "-quiet", "-o", image, dir)...)
		b, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		wantFormatError(t, Strict(t.Context(), memImage(b), int64(len(b))), want)
	}
}

// TestViewMissing asks for views that an image doesn't have.
func TestViewMissing(t *testing.T) {
	t.Parallel()
	image := hostileTree().image(t)
	if _, err := OpenView(memImage(image), int64(len(image)), ViewJoliet); err == nil {
		t.Error("Joliet in an image without it")
	}
	f, err := OpenView(memImage(image), int64(len(image)), ViewISO9660)
	if err != nil || f.View() != ViewISO9660 {
		t.Fatalf("plain view: %v", err)
	}
	if _, err := fs.Stat(f, "A/F1"); err != nil {
		t.Error(err)
	}
	plain := bytes.Clone(image)
	copy(forge(t, plain).entry(plain[openImage(t, plain).root.lba*BlockSize:][:200], "SP"), "XX")
	if _, err := OpenView(memImage(plain), int64(len(plain)), ViewRockRidge); err == nil {
		t.Error("Rock Ridge in an image without it")
	}
}

// TestLinksStayInside follows links in our images: none leads out, loops end.
func TestLinksStayInside(t *testing.T) {
	t.Parallel()
	tr := newTree()
	tr.dir("d")
	tr.file("d/file", "inside")
	tr.link("ok", "d/file")
	tr.link("d/ok", "../ok")
	tr.link("loop1", "loop2")
	tr.link("loop2", "loop1")
	tr.link("through", "d/file/x")
	tr.link("out", "d/xx")
	tr.link("abs", "d/xx")
	g := forge(t, tr.image(t))
	sl := g.entry(g.record("out"), "SL")
	copy(sl[5:], []byte{slParent, 0, slParent, 0})
	sl[2] = 9
	sl = g.entry(g.record("abs"), "SL")
	copy(sl[5:], []byte{slRoot, 0, 0, 1, 'd'})
	sl[2] = 10
	if target, err := openImage(t, g.b).ReadLink("abs"); err != nil || target != "/d" {
		t.Errorf("abs leads to %q, %v", target, err)
	}
	if b, err := fs.ReadFile(openImage(t, g.b), "d/ok"); err != nil || string(b) != "inside" {
		t.Errorf("%q, %v", b, err)
	}
	for name, want := range map[string]string{"loop1": "more than 40", "through": "not exist", "out": "leaves the image", "abs": "leaves the image"} {
		if _, err := openImage(t, g.b).Open(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("open %s: %v", name, err)
		}
	}
	if target, err := openImage(t, g.b).ReadLink("out"); err != nil || target != "../.." {
		t.Errorf("out leads to %q, %v", target, err)
	}
}
