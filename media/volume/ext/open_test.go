package ext

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func refused(t *testing.T, name string, err error, path string, off int64, why string) {
	t.Helper()
	var damage *FormatError
	if !errors.As(err, &damage) || damage.Path != path || damage.Offset != off || !strings.Contains(damage.Msg, why) {
		t.Errorf("%s: %v, want %q of %q at %d", name, err, why, path, off)
	}
}

// TestOpenRefuses has superblocks, groups and root directories with which nothing can be read.
func TestOpenRefuses(t *testing.T) {
	put16 := func(at int, n uint16) func(v vol) { return func(v vol) { le.PutUint16(v.b[superPlace+at:], n) } }
	put32 := func(at int, n uint32) func(v vol) { return func(v vol) { le.PutUint32(v.b[superPlace+at:], n) } }
	all := func(fs ...func(v vol)) func(v vol) {
		return func(v vol) {
			for _, f := range fs {
				f(v)
			}
		}
	}
	root := sample(t, checked).node(".").off
	inRoot := func(change func(b []byte)) func(v vol) {
		return func(v vol) { change(v.inode(".")); v.sealInode(".") }
	}
	for _, c := range []struct {
		name   string
		args   []string
		change func(v vol)
		off    int64
		why    string
	}{
		{"magic", checked, put16(56, 0xEF54), superPlace + 56, "isn't called ext"},
		{"features of a volume that can't have any", plain, put32(76, 0), superPlace + 76, "its revision is 0"},
		{"blocks of 128 KiB", checked, put32(24, 7), superPlace + 24, "2^7 KiB"},
		{"blocks of 2^32 KiB", checked, put32(24, 1<<32-1), superPlace + 24, "2^4294967295 KiB"},
		{"a kind of checksums", checked, func(v vol) { v.b[superPlace+373] = 2 }, superPlace + 373, "of the kind 2"},
		{"no blocks", checked, put32(4, 0), superPlace + 4, "it has 0 blocks"},
		{"a negative number of blocks", checked, put32(336, 1<<31), superPlace + 4, "blocks"},
		{"2^63 bytes of blocks", checked, put32(336, 1<<21), superPlace + 4, "blocks"},
		{"a first block of 2", checked, put32(20, 2), superPlace + 20, "first block is 2"},
		{"a first block of 0", checked, put32(20, 0), superPlace + 20, "first block is 0"},
		{"a first block of 1 in blocks of 4 KiB", checked, put32(24, 2), superPlace + 20, "first block is 1"},
		{"a first block behind the last", checked, put32(4, 1), superPlace + 20, "first block is 1"},
		{"groups without blocks", checked, put32(32, 0), superPlace + 32, "0 blocks"},
		{"groups with more blocks than a bitmap can tell", checked, put32(32, 8193), superPlace + 32, "8193 blocks"},
		{"groups with parts of clusters", checked, all(put32(100, roMetadataCsum|roBigalloc), put32(28, 1), put32(32, 8191)), superPlace + 32, "8191 blocks"},
		{"clusters of 2^21 KiB", checked, all(put32(100, roMetadataCsum|roBigalloc), put32(28, 21)), superPlace + 28, "2^21 KiB"},
		{"groups without inodes", checked, put32(40, 0), superPlace + 40, "0 inodes"},
		{"groups with less inodes than a block has", checked, put32(40, 3), superPlace + 40, "3 inodes"},
		{"groups with more inodes than a bitmap can tell", checked, put32(40, 8193), superPlace + 40, "8193 inodes"},
		{"inodes of 64 bytes", checked, put16(88, 64), superPlace + 88, "64 bytes"},
		{"inodes of 384 bytes", checked, put16(88, 384), superPlace + 88, "384 bytes"},
		{"inodes longer than a block", checked, put16(88, 2048), superPlace + 88, "2048 bytes"},
		{"no inodes of the volume's own", checked, put32(84, 10), superPlace + 84, "is 10"},
		{"short descriptors", checked, put16(254, 32), superPlace + 254, "32 bytes"},
		{"odd descriptors", checked, put16(254, 96), superPlace + 254, "96 bytes"},
		{"long descriptors", checked, put16(254, 2048), superPlace + 254, "2048 bytes"},
		{"too many groups", checked, all(put32(4, 1<<31), put32(32, 1)), superPlace + 32, "groups, more than are read"},
		{"too many bytes of descriptors", checked, all(put32(4, 1<<28), put32(32, 1024), put16(254, 1024)), superPlace + 32, "groups, more than are read"},
		{"more inodes than there are", checked, put32(0, 65), superPlace, "65 inodes"},
		{"fewer inodes than the volume's own", checked, put32(84, 65), superPlace, "64 inodes"},
		{"fewer inodes than there are", checked, put32(0, 63), superPlace, "63 inodes"},
		{"inodes behind the end", checked, func(v vol) { le.PutUint32(v.b[2048+8:], 510); v.sealGroup() }, 2048 + 8, "inodes of group 0 are at block 510"},
		{"inodes far behind the end", checked, func(v vol) { le.PutUint32(v.b[2048+40:], 1<<31); v.sealGroup() }, 2048 + 8, "inodes of group 0 are at block"},
		{"inodes at the superblock", checked, func(v vol) { le.PutUint32(v.b[2048+8:], 1); v.sealGroup() }, 2048 + 8, "inodes of group 0 are at block 1"},
		{"the checksum of the group", checked, func(v vol) { v.b[2048+12]++ }, 2048 + 30, "checksum of group 0's descriptor"},
		{"the old checksum of the group", append(uncheckd[:3:3], "^has_journal,^resize_inode,^metadata_csum,uninit_bg"), func(v vol) { v.b[2048+12]++ }, 2048 + 30, "checksum of group 0's descriptor"},
		{"the root's checksum", checked, func(v vol) { v.inode(".")[16]++ }, root + 124, "checksum of inode 2"},
		{"a file as the root", checked, inRoot(func(b []byte) { b[1] = 0x81 }), root, "the root directory is none"},
		{"a root that was deleted", checked, inRoot(func(b []byte) { le.PutUint16(b[26:], 0) }), root + 26, "was deleted"},
		{"an encrypted root", checked, inRoot(func(b []byte) { b[33] |= flagEncrypted >> 8 }), root + 32, "encrypted"},
	} {
		v := sample(t, c.args)
		c.change(v)
		v.sealSuper()
		_, err := v.open()
		path := ""
		if strings.Contains(c.why, "encrypted") {
			path = "."
		}
		refused(t, c.name, err, path, c.off, c.why)
	}
	v := sample(t, checked)
	_, err := Open(bytes.NewReader(v.b), 2047)
	refused(t, "a short volume", err, "", 0, "has no superblock")
	_, err = Open(bytes.NewReader(v.b), 4096)
	refused(t, "a volume that ends before its inodes", err, "", root/1024*1024, "behind the end")
	v.b[superPlace+120]++
	_, err = v.open()
	refused(t, "the superblock's checksum", err, "", superPlace+1020, "the superblock's checksum is")
}

// TestFeatures refuses each feature that isn't known, and says which.
func TestFeatures(t *testing.T) {
	for bit := range 32 {
		v := sample(t, uncheckd)
		feature := uint32(1) << bit
		le.PutUint32(v.b[superPlace+96:], le.Uint32(v.b[superPlace+96:])|feature)
		want := fmt.Sprintf("feature 0x%x", feature)
		switch feature {
		case incompatCompression:
			want = "uses compression"
		case incompatJournalDev:
			want = "uses journal device"
		case incompatDirData:
			want = "uses data in directories"
		}
		_, err := v.open()
		if feature&known != 0 {
			if err != nil && strings.Contains(err.Error(), "it uses") {
				t.Errorf("%x: %v", feature, err)
			}
			continue
		}
		refused(t, want, err, "", superPlace+96, want)
	}
}

// TestSuperFindings has what can be read and is odd.
func TestSuperFindings(t *testing.T) {
	flag := func(at int, bits uint32) func(v vol) {
		return func(v vol) {
			le.PutUint32(v.b[superPlace+at:], le.Uint32(v.b[superPlace+at:])|bits)
		}
	}
	state := func(n uint16) func(v vol) { return func(v vol) { le.PutUint16(v.b[superPlace+58:], n) } }
	for _, c := range []struct {
		name   string
		change func(v vol)
		size   int64
		code   string
		off    int64
	}{
		{"clean", func(vol) {}, volSize, "", 0},
		{"boot code", func(v vol) { v.b[77] = 0xEB }, volSize, "boot-code", 77},
		{"a journal that wasn't replayed", flag(96, incompatRecover), volSize, "needs-recovery", superPlace + 96},
		{"a journal that wasn't replayed, in use", func(v vol) { flag(96, incompatRecover)(v); state(0)(v) }, volSize, "needs-recovery", superPlace + 96},
		{"not unmounted", state(0), volSize, "dirty", superPlace + 58},
		{"errors", state(2), volSize, "errors", superPlace + 58},
		{"orphans", flag(232, 12), volSize, "orphans", superPlace + 232},
		{"orphans in a file", flag(100, roOrphanPresent), volSize, "orphans", superPlace + 232},
		{"cut off", func(vol) {}, volSize - 1024, "past-end", superPlace + 4},
		{"more behind it", func(vol) {}, volSize + 1024, "volume-slack", volSize},
		{"less than a block behind it", func(vol) {}, volSize + 1023, "", 0},
		{"a bitmap behind the end", func(v vol) { le.PutUint32(v.b[2048:], 512); v.sealGroup() }, volSize, "bad-group", 2048},
		{"two things in one block", func(v vol) { copy(v.b[2048+4:2048+8], v.b[2048:]); v.sealGroup() }, volSize, "groups-overlap", -1},
	} {
		v := sample(t, checked)
		c.change(v)
		v.sealSuper()
		r := append(bytes.Clone(v.b), make([]byte, 2048)...)
		fsys, err := Open(bytes.NewReader(r), c.size)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if c.off < 0 {
			c.off = int64(le.Uint32(v.b[2048:])) * 1024
		}
		if got := fsys.Findings(); codes(fsys) != c.code || c.code != "" && got[0].Offset != c.off {
			t.Errorf("%s: %v, want %s at %d", c.name, got, c.code, c.off)
		}
	}
}

// TestGroups has a group among several whose descriptor is damaged: what is in it is lost, and nothing else.
func TestGroups(t *testing.T) {
	args := append(checked[:3:3], "^has_journal,^resize_inode,^flex_bg")
	v := sample(t, append(args[:len(args):len(args)], "-g", "256"))
	if v.f.groups != 2 {
		t.Fatalf("%d groups", v.f.groups)
	}
	d := v.b[2048+v.f.descSize:]
	d[12]++
	fsys, err := v.open()
	if err != nil {
		t.Fatal(err)
	}
	if got := fsys.Findings(); len(got) == 0 || got[0].Code != "bad-group" || got[0].Offset != 2048+v.f.descSize+30 {
		t.Errorf("findings %v", got)
	}
	if _, err := fsys.inode(v.f.perTable + 1); err == nil {
		t.Error("an inode of the group was read")
	}
	if _, err := fsys.inode(rootInode); err != nil {
		t.Error(err)
	}
}

// TestSuperCopies has copies of the superblock that differ from it.
func TestSuperCopies(t *testing.T) {
	args := append(checked[:3:3], "^has_journal,^resize_inode,^flex_bg", "-g", "256")
	const at = 257 * 1024
	for _, c := range []struct {
		name   string
		change func(b []byte)
		off    int64
	}{
		{"the same", func([]byte) {}, -1},
		{"what changes in use", func(b []byte) { le.PutUint32(b[48:], 1) }, -1},
		{"a journal to replay, in one", func(b []byte) { le.PutUint32(b[96:], le.Uint32(b[96:])^incompatRecover) }, -1},
		{"no copy", func(b []byte) { clear(b) }, at},
		{"blocks", func(b []byte) { b[4]++ }, at},
		{"magic", func(b []byte) { b[56]++ }, at + 56},
		{"identity", func(b []byte) { b[104]++ }, at + 104},
		{"features", func(b []byte) { b[96] ^= incompatMetaBG }, at + 96},
		{"its checksum", nil, at + 1020},
	} {
		v := sample(t, args)
		b := v.b[at:][:1024]
		if le.Uint16(b[56:]) != magic {
			t.Fatal("there is no copy")
		}
		if c.change == nil {
			b[1020]++
		} else {
			c.change(b)
			le.PutUint32(b[1020:], sum(^uint32(0), b[:1020]))
		}
		fsys, err := v.open()
		if err != nil {
			t.Fatal(err)
		}
		got := fsys.Findings()
		if c.off < 0 != (len(got) == 0) || c.off >= 0 && (len(got) != 1 || got[0].Code != "super-copy" || got[0].Offset != c.off) {
			t.Errorf("%s: %v, want one at %d", c.name, got, c.off)
		}
	}
}

// TestSuperCopiesBound compares no more of them than that (F1).
func TestSuperCopiesBound(t *testing.T) {
	c := &counting{r: bytes.NewReader(make([]byte, 1<<20))}
	f := &FS{r: c, block: 1024, first: 1, perGroup: 2, groups: 500, there: 1024} // each group has one
	if err := f.compareCopies(make([]byte, superPlace)); err != nil || len(c.reads) != maxCopies {
		t.Errorf("%d copies were read, %v", len(c.reads), err)
	}
}

// TestBitmap has blocks of files marked as free, and a bitmap that was changed.
func TestBitmap(t *testing.T) {
	for _, args := range [][]string{checked, uncheckd, plain} {
		v := sample(t, args)
		hello, bitmap := v.place("hello.txt", 0), int64(le.Uint32(v.b[2048:]))*1024
		bit := hello/1024 - 1
		clearBit := func(v vol) { v.b[bitmap+bit/8] &^= 1 << (bit % 8) }
		seal := func(v vol) {
			s := sum(v.f.seed, v.b[bitmap:][:1024])
			le.PutUint16(v.b[2048+24:], uint16(s))
			if v.f.descSize >= 64 {
				le.PutUint16(v.b[2048+56:], uint16(s>>16))
			}
			v.sealGroup()
		}
		super := func(at int, bits uint32) {
			le.PutUint32(v.b[superPlace+at:], le.Uint32(v.b[superPlace+at:])|bits)
		}
		for _, c := range []struct {
			name   string
			change func()
			code   string
			off    int64
			path   string
		}{
			{"free", func() { clearBit(v); seal(v) }, "not-allocated", hello, "hello.txt"},
			{"checksum", func() { v.b[bitmap+60] ^= 1; v.sealGroup() }, "bitmap-checksum", 2048 + 24, ""},
			{"free where the journal wasn't replayed", func() { clearBit(v); super(96, incompatRecover) }, "needs-recovery", superPlace + 96, ""},
		} {
			v = sample(t, args)
			c.change()
			v.sealSuper()
			fsys, err := v.open()
			if err != nil {
				t.Fatal(err)
			}
			if _, bad := contents(fsys); len(bad) != 0 {
				t.Errorf("%v", bad)
			}
			if c.code == "bitmap-checksum" && !fsys.checksums {
				c.code = ""
			}
			got := fsys.Findings()
			if codes(fsys) != c.code || c.code != "" && (got[0].Offset != c.off || got[0].Path != c.path) {
				t.Errorf("%s, %q: %v, want %s at %d", c.name, args, got, c.code, c.off)
			}
		}
	}
	// A group of which no bitmap is there has no files.
	v := sample(t, checked)
	v.b[2048+18] |= groupNoBitmap
	v.sealGroup()
	fsys, err := v.open()
	if err != nil {
		t.Fatal(err)
	}
	contents(fsys)
	if got := fsys.Findings(); len(got) < 8 || got[0].Code != "not-allocated" || got[0].Path != "" || strings.Count(codes(fsys), "not-allocated") != len(got) {
		t.Errorf("%v", got)
	}
	// Without those features the flag says nothing.
	v = sample(t, plain)
	v.b[2048+18] |= groupNoBitmap
	if fsys, err = v.open(); err != nil {
		t.Fatal(err)
	}
	contents(fsys)
	if codes(fsys) != "" {
		t.Errorf("%v", fsys.Findings())
	}
}
