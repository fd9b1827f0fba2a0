package ext

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// damage is one change of a volume, and what comes of it.
type damage struct {
	name   string
	args   []string
	change func(v vol) int64 // returns the offset of the error, or of the finding if there is no error; -1 if there is neither
	gone   string            // path that can't be read
	why    string            // in its error
	codes  string
}

// run compares what can be read of the volume with what there was.
func (c damage) run(t *testing.T) {
	t.Helper()
	v := sample(t, c.args)
	want, _ := contents(v.f)
	off := c.change(v)
	v.sealSuper()
	fsys, err := v.open()
	if err != nil {
		t.Errorf("%s: %v", c.name, err)
		return
	}
	got, bad := contents(fsys)
	for path := range want {
		if c.gone != "" && (path == c.gone || strings.HasPrefix(path, c.gone+"/")) {
			delete(want, path)
		}
	}
	if c.gone != "-" && !maps.Equal(got, want) {
		t.Errorf("%s: the tree is %q, want %q", c.name, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	switch found := fsys.Findings(); {
	case c.gone != "" && c.gone != "-":
		refused(t, c.name, bad[c.gone], c.gone, off, c.why)
		delete(bad, c.gone)
	case off >= 0 && len(found) == 0, off >= 0 && found[0].Offset != off, off >= 0 && !strings.Contains(found[0].Detail, c.why):
		t.Errorf("%s: findings %v, want %q at %d", c.name, found, c.why, off)
	}
	if len(bad) != 0 && c.gone != "-" {
		t.Errorf("%s: errors %v", c.name, bad)
	}
	if have := codes(fsys); have != c.codes {
		t.Errorf("%s: findings %v, want %q", c.name, fsys.Findings(), c.codes)
	}
	// The second look says the same and finds nothing twice, even if nothing is remembered.
	n := len(fsys.Findings())
	fsys.dirs = dirCache{}
	again, badAgain := contents(fsys)
	if !maps.Equal(got, again) || len(fsys.Findings()) != n || c.gone == "-" && len(badAgain) != len(bad) {
		t.Errorf("%s: the second look differs: %q, %v", c.name, slices.Sorted(maps.Keys(again)), fsys.Findings())
	}
}

// inNode changes an inode and makes its checksum right. The error is at byte at of it.
func inNode(path string, at int64, change func(b []byte)) func(v vol) int64 {
	return func(v vol) int64 {
		change(v.inode(path))
		v.sealInode(path)
		return v.node(path).off + at
	}
}

func orFlag(b []byte, flag uint32) { le.PutUint32(b[32:], le.Uint32(b[32:])|flag) }

func setSize(n uint64) func(b []byte) {
	return func(b []byte) { le.PutUint32(b[4:], uint32(n)); le.PutUint32(b[108:], uint32(n>>32)) }
}

func TestDamageInodes(t *testing.T) {
	flag := func(f uint32) func(b []byte) { return func(b []byte) { orFlag(b, f) } }
	for _, c := range []damage{
		{"checksum", checked, func(v vol) int64 { v.inode("hello.txt")[16]++; return v.node("hello.txt").off + 124 }, "hello.txt", "checksum of inode", "bad-inode"},
		{"checksum, its second half", checked, func(v vol) int64 { v.inode("hello.txt")[130]++; return v.node("hello.txt").off + 124 }, "hello.txt", "checksum of inode", "bad-inode"},
		{"checksum, of what is behind", checked, func(v vol) int64 { v.inode("hello.txt")[200]++; return v.node("hello.txt").off + 124 }, "hello.txt", "checksum of inode", "bad-inode"},
		{"no checksums", uncheckd, func(v vol) int64 { v.inode("hello.txt")[200]++; return -1 }, "", "", ""},
		{"more bytes than it has", checked, inNode("empty", 128, func(b []byte) { le.PutUint16(b[128:], 132) }), "empty", "132 more bytes, of 128", "bad-inode"},
		{"more bytes that make no sense", checked, inNode("empty", 128, func(b []byte) { le.PutUint16(b[128:], 30) }), "empty", "30 more bytes", "bad-inode"},
		{"deleted", checked, inNode("empty", 26, func(b []byte) { le.PutUint16(b[26:], 0) }), "empty", "was deleted", "bad-inode"},
		{"mode", checked, inNode("empty", 0, func(b []byte) { b[1] = 0x31 }), "empty", "has the mode 0", "bad-inode"},
		{"2^61 bytes", checked, inNode("hello.txt", 4, setSize(1<<61)), "hello.txt", "has 2305843009213693952 bytes", "bad-inode"},
		{"more bytes than extents tell", checked, inNode("hello.txt", 4, setSize((1<<32-1)*1024+1)), "hello.txt", "more than its extents can tell", "sparse"},
		{"more bytes than blocks tell", plain, inNode("hello.txt", 4, setSize((12+256+256*256+256*256*256)*1024+1)), "hello.txt", "more than its blocks can tell", "sparse"},
		{"more bytes than the volume", checked, inNode("holes", 4, setSize(volSize+1)), "-", "more than the volume", "sparse"},
		{"an attribute's value", checked, inNode("empty", 32, flag(flagEAInode)), "empty", "holds an attribute", "bad-inode"},
		{"bytes in the inode without the feature", checked, inNode("empty", 32, flag(flagInline)), "empty", "lacks the feature", "bad-inode"},
		{"extents without the feature", plain, inNode("empty", 32, flag(flagExtents)), "empty", "lacks the feature", "bad-inode"},
		{"bytes in the inode, and extents", inlined, inNode("holes", 32, flag(flagInline)), "holes", "and has extents", "bad-inode"},
		{"encrypted file", checked, inNode("hello.txt", 32, flag(flagEncrypted)), "hello.txt", "file is encrypted", ""},
		{"encrypted directory", checked, inNode("sub", 32, flag(flagEncrypted)), "sub", "directory is encrypted", ""},
		{"encrypted link", checked, inNode("fast", 32, flag(flagEncrypted)), "fast", "link is encrypted", ""},
		{"compressed file", checked, inNode("hello.txt", 32, flag(flagCompressed)), "hello.txt", "is compressed", ""},
		{"directory of no bytes", checked, inNode("sub", 4, setSize(0)), "sub", "0 bytes, no whole blocks", ""},
		{"directory of half a block", checked, inNode("sub", 4, setSize(1536)), "sub", "1536 bytes, no whole blocks", ""},
		{"long directory", checked, inNode("sub", 4, setSize(maxDirSize+1024)), "sub", "more than the 268435456 that are read", "bad-inode"},
		{"directory longer than its blocks", checked, inNode("sub", 0, setSize(2048)), "sub", "block 1 of the directory is a hole", ""},
		{"link to nothing", checked, inNode("fast", 4, setSize(0)), "fast", "target has 0 bytes", ""},
		{"link longer than the inode", checked, inNode("fast", 4, setSize(60)), "fast", "target has 60 bytes", ""},
		{"link with a NUL", checked, inNode("fast", 40, func(b []byte) { b[44] = 0 }), "fast", "NUL in the link", ""},
		{"link longer than its block", checked, inNode("slow", 4, setSize(1024)), "slow", "target has 1024 bytes", ""},
		{"link to 2^32-1 bytes", checked, inNode("slow", 4, func(b []byte) { le.PutUint32(b[4:], 1<<32-1) }), "slow", "target has 4294967295 bytes", ""},
		{"link with a NUL in its block", checked, func(v vol) int64 { v.b[v.place("slow", 0)+9] = 0; return v.node("slow").off + 40 }, "slow", "NUL in the link", ""},
		{"link with a block that isn't there", checked, inNode("slow", 52, func(b []byte) { le.PutUint32(b[40+20:], 4000) }), "slow", "1 blocks at 4000, of 512", ""},
		// The attributes' block alone doesn't make a link a slow one.
		{"link with attributes", checked, func(v vol) int64 {
			b := v.inode("fast")
			le.PutUint32(b[104:], 500)
			le.PutUint32(b[28:], 2)
			v.sealInode("fast")
			return -1
		}, "", "", ""},
		{"link with attributes and a block", plain, inNode("fast", 40, func(b []byte) { le.PutUint32(b[104:], 500); le.PutUint32(b[28:], 4) }), "fast", "is none of the volume's", ""},
	} {
		c.run(t)
	}
}

func TestDamageExtents(t *testing.T) {
	// inRoot changes the nodes of extents in an inode, below the one below it.
	inRoot := func(path string, at int64, change func(v vol, b []byte)) func(v vol) int64 {
		return func(v vol) int64 {
			change(v, v.inode(path)[40:100])
			v.sealInode(path)
			return v.node(path).off + 40 + at
		}
	}
	below := func(at int64, change func(v vol, b []byte)) func(v vol) int64 {
		return func(v vol) int64 {
			off := v.child("holes")
			change(v, v.b[off:][:1024])
			v.sealNode("holes", off)
			return off + at
		}
	}
	leaf := func(at int, n uint32) func(v vol, b []byte) {
		return func(_ vol, b []byte) { le.PutUint32(b[at:], n) }
	}
	short := func(at int, n uint16) func(v vol, b []byte) {
		return func(_ vol, b []byte) { le.PutUint16(b[at:], n) }
	}
	for _, c := range []damage{
		{"checksum", checked, func(v vol) int64 { off := v.child("holes"); v.b[off+13]++; return off + 1020 }, "holes", "checksum of a node of extents", ""},
		{"magic", checked, below(0, short(0, 0xF30B)), "holes", "no node of extents", ""},
		{"magic in the inode", checked, inRoot("holes", 0, short(0, 0)), "holes", "no node of extents", ""},
		{"more entries than most", checked, below(2, short(2, 85)), "holes", "85 of 84 entries", ""},
		{"more entries than fit", uncheckd, below(2, short(4, 86)), "holes", "of 86 entries", ""},
		{"more entries than fit into an inode", checked, inRoot("holes", 2, short(4, 5)), "holes", "1 of 5 entries", ""},
		{"no entries", checked, below(2, short(2, 0)), "holes", "is empty", ""},
		{"no entries in an inode", checked, inRoot("holes", 2, short(2, 0)), "holes", "is empty", ""},
		{"depth", checked, below(6, short(6, 1)), "holes", "the depth 1", ""},
		{"depth in the inode", checked, inRoot("holes", 6, short(6, 6)), "holes", "the depth 6", ""},
		{"a node below itself", uncheckd, func(v vol) int64 {
			b := v.inode("holes")[40:]
			le.PutUint16(b[6:], 2)
			off := v.child("holes")
			n := v.b[off:]
			le.PutUint16(n[6:], 1)
			copy(n[12:], b[12:24])
			le.PutUint16(n[2:], 1)
			return off + 12
		}, "holes", "comes twice in this one", ""},
		{"a node behind the end", checked, inRoot("holes", 12, leaf(16, 512)), "holes", "1 blocks at 512, of 512", ""},
		{"a node far behind the end", checked, inRoot("holes", 12, short(20, 0xFFFF)), "holes", "of 512", ""},
		{"a node at the superblock", checked, inRoot("holes", 12, leaf(16, 1)), "holes", "1 blocks at 1,", ""},
		{"a node in the inodes", checked, inRoot("holes", 12, func(v vol, b []byte) { le.PutUint32(b[16:], le.Uint32(v.b[2048+8:])) }), "holes", "is the volume's own", ""},
		{"a node that another file has", checked, inRoot("wide", 12, func(v vol, b []byte) { le.PutUint32(b[16:], uint32(v.child("holes")/1024)) }), "wide", "part of another file", ""},
		{"first entry later than its parent says", checked, below(12, leaf(12, 1)), "holes", "at least 0", ""},
		{"first entry earlier than its parent says", checked, func(v vol) int64 {
			le.PutUint32(v.inode("holes")[52:], 2)
			v.sealInode("holes")
			return v.child("holes") + 12
		}, "holes", "block 0 where that is at least 2", ""},
		{"order", checked, below(24, leaf(24, 0)), "holes", "block 0 where that is at least 1", ""},
		{"order, of what isn't read", checked, below(12*8, leaf(12*8, 12)), "holes", "aren't in order", ""},
		{"overlap", checked, below(24, short(16, 3)), "holes", "block 2 where that is at least 3", ""},
		{"length", checked, below(24, short(28, 0)), "holes", "0 blocks from 2 on", ""},
		{"behind what can be told", checked, below(12*8, leaf(12*8, 1<<32-1)), "holes", "where 4294967295 is the end", ""},
		{"behind the end", checked, below(24, leaf(32, 512)), "holes", "1 blocks at 512, of 512", ""},
		{"over the end", checked, inRoot("other.txt", 12, leaf(20, 510)), "other.txt", "3 blocks at 510, of 512", ""},
		{"far behind the end", checked, below(24, short(30, 0x8000)), "holes", "of 512", ""},
		{"at no block", checked, below(24, leaf(32, 0)), "holes", "1 blocks at 0", ""},
		{"at the superblock", checked, inRoot("other.txt", 12, leaf(20, 1)), "other.txt", "3 blocks at 1,", ""},
		{"at the descriptors", checked, inRoot("other.txt", 12, leaf(20, 2)), "other.txt", "block 2 is the volume's own", ""},
		{"up to the inodes", checked, inRoot("other.txt", 12, func(v vol, b []byte) { le.PutUint32(b[20:], le.Uint32(v.b[2048+8:])-2) }), "other.txt", "is the volume's own", ""},
		{"twice in one file", checked, below(24, func(v vol, b []byte) { copy(b[30:36], b[18:24]) }), "holes", "comes twice in this one", ""},
		{"in a directory", checked, inRoot("wide", 12, func(v vol, b []byte) { le.PutUint32(b[16:], uint32(v.place("sub", 0)/1024)) }), "wide", "part of another file", ""},
		{"in the root directory", checked, inRoot("hello.txt", 12, func(v vol, b []byte) { le.PutUint32(b[20:], uint32(v.place(".", 0)/1024)) }), "hello.txt", "part of another file", ""},
		{"in another file", checked, inRoot("other.txt", 12, func(v vol, b []byte) { le.PutUint32(b[20:], uint32(v.place("holes", 14)/1024)) }), "other.txt", "part of another file", ""},
		{"a hole in a directory", checked, inRoot("sub", -40, leaf(12, 1)), "sub", "block 0 of the directory is a hole", ""},
	} {
		c.run(t)
	}
}

// TestUnwritten has extents that are there and not written: they read as zeros.
func TestUnwritten(t *testing.T) {
	for _, args := range [][]string{checked, uncheckd} {
		v := sample(t, args)
		le.PutUint16(v.inode("other.txt")[40+16:], 1<<15+3)
		v.sealInode("other.txt")
		off := v.child("holes")
		le.PutUint16(v.b[off+12+12+4:], 1<<15+1)
		v.sealNode("holes", off)
		want, _ := contents(v.f)
		want["other.txt"] = strings.Repeat("\x00", 2400)
		want["holes"] = want["holes"][:2048] + strings.Repeat("\x00", 1024) + want["holes"][3072:]
		fsys, err := v.open()
		if err != nil {
			t.Fatal(err)
		}
		if got, bad := contents(fsys); !maps.Equal(got, want) || len(bad) != 0 {
			t.Errorf("%q, %v", got, bad)
		}
	}
}

func TestDamageBlocks(t *testing.T) {
	number := func(path string, slot int64, n uint32) func(v vol) int64 {
		return inNode(path, 40+4*slot, func(b []byte) { le.PutUint32(b[40+4*slot:], n) })
	}
	below := func(slot int64, n func(v vol, child uint32) uint32) func(v vol) int64 {
		return func(v vol) int64 {
			child := le.Uint32(v.inode("holes")[40+48:])
			off := int64(child)*1024 + 4*slot
			le.PutUint32(v.b[off:], n(v, child))
			return off
		}
	}
	fixed := func(n uint32) func(vol, uint32) uint32 { return func(vol, uint32) uint32 { return n } }
	for _, c := range []damage{
		{"behind the end", plain, number("hello.txt", 0, 512), "hello.txt", "block 512 is none of the volume's 512", ""},
		{"far behind the end", plain, number("hello.txt", 0, 1<<32-1), "hello.txt", "block 4294967295 is none", ""},
		{"at the superblock", plain, number("hello.txt", 0, 1), "hello.txt", "block 1 is none", ""},
		{"at the descriptors", plain, number("hello.txt", 0, 2), "hello.txt", "block 2 is the volume's own", ""},
		{"behind what is read", plain, number("hello.txt", 7, 512), "hello.txt", "block 512 is none", ""},
		{"numbers behind the end", plain, number("holes", 12, 512), "holes", "block 512 is none", ""},
		{"numbers of numbers in the inodes", plain, number("hello.txt", 13, 6), "hello.txt", "block 6 is the volume's own", ""},
		{"numbers of numbers of numbers behind the end", plain, number("hello.txt", 14, 9999), "hello.txt", "block 9999 is none", ""},
		{"below, behind the end", plain, below(0, fixed(512)), "holes", "block 512 is none", ""},
		{"below, behind what is read", plain, below(255, fixed(512)), "holes", "block 512 is none", ""},
		{"below itself", plain, below(0, func(_ vol, child uint32) uint32 { return child }), "holes", "comes twice in this one", ""},
		{"numbers of numbers that are themselves", plain, func(v vol) int64 {
			b := v.inode("holes")[40:]
			le.PutUint32(b[52:], le.Uint32(b[48:]))
			return v.node("holes").off + 40 + 52
		}, "holes", "comes twice in this one", ""},
		{"another file's", plain, func(v vol) int64 {
			copy(v.inode("other.txt")[44:48], v.inode("hello.txt")[40:44])
			return v.node("other.txt").off + 44
		}, "other.txt", "part of another file", ""},
		{"a directory without its block", plain, inNode("sub", 0, func(b []byte) { clear(b[40:44]) }), "sub", "block 0 of the directory is a hole", ""},
	} {
		c.run(t)
	}
}

func TestDamageInline(t *testing.T) {
	// inData changes what an inode has behind its extra bytes: a magic number of 4 bytes, and entries of attributes.
	inData := func(path string, at int64, change func(b []byte)) func(v vol) int64 {
		return func(v vol) int64 {
			b := v.inode(path)[128:]
			change(b[le.Uint16(b):])
			v.sealInode(path)
			return v.node(path).off + 128 + int64(le.Uint16(b)) + at
		}
	}
	put32 := func(at int, n uint32) func(b []byte) { return func(b []byte) { le.PutUint32(b[at:], n) } }
	put16 := func(at int, n uint16) func(b []byte) { return func(b []byte) { le.PutUint16(b[at:], n) } }
	for _, c := range []damage{
		{"no attributes", inlined, inData("ninety", 0, put32(0, 0)), "ninety", "isn't there", ""},
		{"no such attribute", inlined, inData("ninety", 24, func(b []byte) { b[21] = 'x' }), "ninety", "isn't there", ""},
		{"an attribute of others", inlined, inData("ninety", 24, func(b []byte) { b[5] = 1 }), "ninety", "isn't there", ""},
		{"a name longer than the inode", inlined, inData("ninety", 4, func(b []byte) { b[4] = 255 }), "ninety", "isn't there", ""},
		{"in another inode", inlined, inData("ninety", 4, put32(8, 12)), "ninety", "30 are wanted", ""},
		{"behind the inode", inlined, inData("ninety", 4, put16(6, 65535)), "ninety", "at 65535", ""},
		{"over the inode's end", inlined, inData("ninety", 4, put32(12, 1<<31)), "ninety", "2147483648 bytes", ""},
		{"too few", inlined, inData("ninety", 4, put32(12, 29)), "ninety", "has 29 bytes", ""},
		{"more bytes than there are", inlined, inNode("ninety", 128+32+4, setSize(4096)), "ninety", "4036 are wanted", ""},
		{"no room", inlined, inNode("ninety", 256, func(b []byte) { le.PutUint16(b[128:], 128) }), "ninety", "isn't there", ""},
		{"directory without its parent", inlined, inNode("sub", 0, setSize(3)), "sub", "no room for its parent", ""},
		{"directory with an entry of 0 bytes", inlined, inNode("sub", 44, func(b []byte) { clear(b[48:50]) }), "sub", "entry has 0 bytes", ""},
		{"directory with an entry over the end", inlined, inNode("sub", 44, func(b []byte) { le.PutUint16(b[48:], 60) }), "sub", "entry has 60 bytes of 56", ""},
	} {
		c.run(t)
	}
}
