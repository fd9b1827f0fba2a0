package exfat

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
)

// other returns an entry set with one byte changed and its checksum made right.
func other(x item, at int, to byte) []byte {
	b := x.set()
	b[at] = to
	return sumSet(b)
}

func TestDamage(t *testing.T) {
	full := []string{"./", "DIR/", "DIR/b.txt", "EMPTY", "a.TXT", "half", long}
	in := func(x item) func(v vol) { return func(v vol) { v.put(v.data(50)+inDir, x) } }
	raw := func(b []byte) func(v vol) { return func(v vol) { copy(v.b[v.data(50)+inDir:], b) } }
	with := func(x item, change func(x *item)) item { change(&x); return x }
	benignEntry := func(t byte) []byte { return append([]byte{t}, make([]byte, 31)...) }
	for _, c := range []struct {
		name   string
		change func(v vol)
		gone   string // path that can't be read
		more   string // path beside the sample's
		why    string // in its error
		codes  string
	}{
		{"chain to a free cluster", func(v vol) { v.link(30, 0) }, "a.TXT", "", "free", ""},
		{"chain to a bad cluster", func(v vol) { v.link(30, 0xfffffff7) }, "a.TXT", "", "bad", ""},
		{"chain out of the volume", func(v vol) { v.link(30, testClusters+2) }, "a.TXT", "", "doesn't have", ""},
		{"chain to cluster 1", func(v vol) { v.link(30, 1) }, "a.TXT", "", "doesn't have", ""},
		{"chain too short", func(v vol) { v.link(30, eoc) }, "a.TXT", "", "ends after 2 of 3", ""},
		{"chain too long", func(v vol) { v.chain(20, 21) }, "", "", "", "chain-slack"},
		{"chain without an end", func(v vol) { v.link(20, 0) }, "", "", "", "chain-end"},
		{"chain that loops", func(v vol) { v.link(30, 10) }, "a.TXT", "", "comes twice", ""},
		{"chain to itself", func(v vol) { v.link(10, 10) }, "a.TXT", "", "comes twice", ""},
		{"chain into another file", func(v vol) { v.link(30, 60) }, "a.TXT", "", "part of another file", ""},
		{"chain into the up-case table", func(v vol) { v.link(30, 3) }, "a.TXT", "", "part of another file", ""},
		{"chain into the bitmap", func(v vol) { v.link(30, 2) }, "a.TXT", "", "part of another file", ""},
		{"chain into the root directory", func(v vol) { v.link(30, 5) }, "a.TXT", "", "part of another file", ""},
		{"two files at one cluster", in(plainItem("c", 60, 1)), "DIR/c", "", "part of another file", ""},
		{"run over another file", func(v vol) { v.mark(58, true).mark(59, true).put(v.data(50)+inDir, solidItem("c", 58, 1500)) }, "DIR/c", "", "part of another file", ""},
		{"run behind the volume", in(solidItem("c", 401, 513)), "DIR/c", "", "end behind the volume's end", ""},
		{"directory below itself", in(dirItem("c", 50)), "DIR/c", "", "part of another file", ""},
		{"directory below itself as a run", in(with(dirItem("c", 50), func(x *item) { x.flags = 3 })), "DIR/c", "", "part of another file", ""},
		{"the root directory below itself", in(dirItem("c", 4)), "DIR/c", "", "part of another file", ""},
		{"directory without a cluster", in(dirItem("c", 0)), "DIR/c", "", "first cluster", ""},
		{"directory of nothing", in(with(dirItem("c", 0), func(x *item) { x.size, x.valid = 0, 0 })), "", "DIR/c/", "", ""},
		{"directory of nothing with a cluster", in(with(dirItem("c", 70), func(x *item) { x.size, x.valid = 0, 0 })), "DIR/c", "", "no bytes", ""},
		{"directory longer than they can be", in(with(dirItem("c", 70), func(x *item) { x.size, x.valid = 1<<28+512, 1<<28+512 })), "DIR/c", "", "more than 268435456", ""},
		{"directory of an odd size", func(v vol) {
			clear(v.b[v.data(70):][:512])
			v.chain(70).put(v.data(50)+inDir, with(dirItem("c", 70), func(x *item) { x.size, x.valid = 500, 500 }))
		}, "", "DIR/c/", "", "dir-size"},
		{"directory not written to its end", func(v vol) {
			clear(v.b[v.data(70):][:512])
			v.chain(70).put(v.data(50)+inDir, with(dirItem("c", 70), func(x *item) { x.valid = 0 }))
		}, "", "DIR/c/", "", "dir-size"},
		{"file without a cluster", in(plainItem("c", 0, 1)), "DIR/c", "", "first cluster", ""},
		{"file behind the volume", in(plainItem("c", 60000, 1)), "DIR/c", "", "first cluster", ""},
		{"file larger than the volume", in(plainItem("c", 70, 512*testClusters+1)), "DIR/c", "", "more than the volume", ""},
		{"file of 2^63 bytes", in(with(plainItem("c", 70, 0), func(x *item) { x.size = 1 << 63 })), "DIR/c", "", "more than the volume", ""},
		{"file of 2^64-1 bytes", in(with(solidItem("c", 70, 0), func(x *item) { x.size, x.valid = 1<<64-1, 1<<64-1 })), "DIR/c", "", "more than the volume", ""},
		{"more bytes written than there are", in(with(plainItem("c", 70, 10), func(x *item) { x.valid = 11 })), "DIR/c", "", "11 bytes were written of its 10", ""},
		{"bytes where there can be none", func(v vol) {
			v.chain(70).put(v.data(50)+inDir, with(plainItem("c", 70, 10), func(x *item) { x.flags = 0 }))
		}, "DIR/c", "", "can have none", ""},
		{"empty file with clusters", in(plainItem("c", 70, 0)), "", "DIR/c", "", "chain-slack"},
		{"file in free clusters", func(v vol) { v.mark(30, false) }, "", "", "", "not-allocated"},
		{"run in free clusters", func(v vol) { v.mark(41, false) }, "", "", "", "not-allocated"},
		{"directory in a free cluster", func(v vol) { v.mark(50, false) }, "", "", "", "not-allocated"},
		{"root in a free cluster", func(v vol) { v.mark(5, false) }, "", "", "", "not-allocated"},
		{"second entry of a name", in(plainItem("b.txt", 70, 1)), "", "", "", "duplicate-name"},
		{"second entry of a name in another case", in(plainItem("B.txt", 70, 1)), "", "", "", "duplicate-name"},
		{"entry set's checksum", func(v vol) { v.b[v.data(50)+8]++ }, "DIR/b.txt", "", "checksum is", "entry-checksum"},
		{"entry set's checksum of a directory", func(v vol) { v.put(v.data(50)+inDir, dirItem("c", 70)); v.b[v.data(50)+inDir+2]++ }, "DIR/c", "", "checksum is", "entry-checksum"},
		{"a name's hash", raw(other(plainItem("c", 70, 1), 36, 9)), "DIR/c", "", "hash of its name", "name-hash"},
		{"a slash in a name", in(plainItem("../x", 0, 0)), "", "", "", "bad-name"},
		{"dots as a name", in(dirItem("..", 50)), "", "", "", "bad-name"},
		{"NUL in a name", in(plainItem("a\x00b", 0, 0)), "", "", "", "bad-name"},
		{"half a surrogate", in(with(plainItem("", 0, 0), func(x *item) { x.name = []uint16{'a', 0xd83d, 'b'} })), "", "", "", "bad-name"},
		{"characters that aren't allowed", in(plainItem("a:b", 0, 0)), "", "DIR/a:b", "", "name-characters"},
		{"bytes behind a name", raw(other(plainItem("c", 0, 0), 64+6, 'x')), "", "DIR/c", "", "name-slack"},
		{"no name", in(with(plainItem("", 0, 0), func(x *item) { x.more = [][]byte{benignEntry(0xe0)} })), "", "", "", "bad-entry-set"},
		{"a name longer than its entries", raw(other(plainItem("c", 0, 0), 35, 16)), "", "", "", "bad-entry-set"},
		{"a name shorter than its entries", raw(other(plainItem(long, 0, 0), 35, 15)), "", "", "", "bad-entry-set"},
		{"set without a stream", raw(other(plainItem("c", 0, 0), 32, 0xc1)), "", "", "", "bad-entry-set"},
		{"set without its end", raw(plainItem("c", 0, 0).set()[:64]), "", "", "", "bad-entry-set"},
		{"set of one", raw(other(plainItem("c", 0, 0), 1, 1)), "", "", "", "bad-entry-set orphan-entry"},
		{"set at the directory's end", func(v vol) {
			for i := inDir; i < 480; i += 32 {
				v.b[v.data(50)+i] = 5
			}
			copy(v.b[v.data(50)+448:v.data(50)+512], plainItem("c", 0, 0).set())
		}, "", "", "", "bad-entry-set"},
		{"set in a set", raw(slices.Concat(plainItem("c", 0, 0).set()[:64], plainItem("d", 0, 0).set())), "", "DIR/d", "", "bad-entry-set"},
		{"a critical entry that isn't known, in a set", in(with(plainItem("c", 0, 0), func(x *item) { x.more = [][]byte{benignEntry(0xc5)} })), "", "", "", "bad-entry-set"},
		{"data of a vendor", in(with(plainItem("c", 0, 0), func(x *item) { x.more = [][]byte{benignEntry(0xe0), benignEntry(0xe1)} })), "", "DIR/c", "", "vendor-data"},
		{"entry of a kind that isn't known", raw(benignEntry(0x86)), "", "", "", "unknown-entry"},
		{"a bitmap in a directory", raw(benignEntry(0x81)), "", "", "", "unknown-entry"},
		{"part of a name alone", raw(benignEntry(0xc1)), "", "", "", "orphan-entry"},
		{"entry behind the end", func(v vol) { v.put(v.data(50)+256, plainItem("late", 0, 0)) }, "", "", "", "behind-end"},
		{"dirty", func(v vol) { v.b[106] = 2 }, "", "", "", "dirty"},
		{"media failure", func(v vol) { v.b[106] = 4 }, "", "", "", "media-failure"},
		{"boot code", func(v vol) { v.b[200] = 1; v.seal() }, "", "", "", "boot-code"},
		{"boot code of halts", func(v vol) { copy(v.b[120:510], bytes.Repeat([]byte{0xf4}, 390)); v.seal() }, "", "", "", ""},
		{"boot code further on", func(v vol) { v.b[8*512+507] = 1; v.seal() }, "", "", "", "boot-code"},
		{"boot regions differ", func(v vol) {
			v.b[200] = 1
			v.seal()
			b := slices.Clone(v.b[12*512 : 24*512])
			v.b[200] = 0
			v.seal()
			copy(v.b[12*512:], b)
		}, "", "", "", "boot-copy"},
		{"the boot region's copy has a bad checksum", func(v vol) { v.b[13*512]++ }, "", "", "", "boot-copy"},
		{"flags and use are none of the checksum", func(v vol) { v.b[112] = 7 }, "", "", "", ""},
		{"label too long", func(v vol) { v.b[v.data(4)+65] = 12 }, "", "", "", "bad-label"},
		{"no bitmap", func(v vol) { v.b[v.data(4)] = 1 }, "", "", "", "bitmap"},
		{"a bitmap for fewer clusters", func(v vol) { v.b[v.data(4)+24]-- }, "", "", "", "bitmap"},
		{"a bitmap for more clusters", func(v vol) { v.b[v.data(4)+24]++ }, "", "", "", "bitmap"},
		{"a bitmap elsewhere", func(v vol) { v.b[v.data(4)+22] = 1 }, "", "", "", "bitmap"},
		{"a second bitmap", func(v vol) {
			at := v.data(4)
			for v.b[at] != 0 {
				at += 32
			}
			v.system(at, typeBitmap, 2, 50, 0)
		}, "", "", "", "system-twice"},
		{"no up-case table", func(v vol) { v.b[v.data(4)+32] = 2 }, "", "", "", "upcase"},
		{"up-case table's checksum", func(v vol) { v.b[v.data(4)+36]++ }, "", "", "", "upcase"},
		{"up-case table too long for its chain", func(v vol) { v.b[v.data(4)+57] = 9 }, "", "", "", "upcase"},
		{"up-case table too long", func(v vol) {
			b := upcaseTable()
			for len(b) <= maxUpcase {
				b = append(b, 0xff, 0xff, 0, 0) // a run of nothing
			}
			v.system(v.data(4)+32, typeUpcase, 100, len(b), sum32(b))
			for c := 100; c < 100+(len(b)+511)/512; c++ {
				v.mark(c, true).link(c, uint32(c+1))
			}
			v.link(100+(len(b)+511)/512-1, eoc)
			copy(v.b[v.data(100):], b)
		}, "", "", "", "upcase"},
		{"up-case table of half a character", func(v vol) { v.b[v.data(4)+56]++ }, "", "", "", "upcase"},
		{"up-case table to a free cluster", func(v vol) { v.link(3, 0); v.b[v.data(4)+57] = 4 }, "", "", "", "upcase"},
	} {
		v := sample()
		c.change(v)
		fsys, err := v.open()
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got, bad := contents(fsys)
		want := slices.Clone(full)
		if c.more != "" {
			want = append(want, c.more)
		}
		want = slices.DeleteFunc(want, func(s string) bool { return s == c.gone })
		slices.Sort(want)
		if have := slices.Sorted(maps.Keys(got)); !slices.Equal(have, want) {
			t.Errorf("%s: the tree is %q, want %q", c.name, have, want)
		}
		if c.gone == "" != (len(bad) == 0) {
			t.Errorf("%s: errors %v", c.name, bad)
		} else if c.gone != "" {
			var f *FormatError
			if !errors.As(bad[c.gone], &f) || !strings.Contains(f.Msg, c.why) || f.Path != c.gone || f.Offset <= 0 {
				t.Errorf("%s: %v, want %q", c.name, bad, c.why)
			}
		}
		if have := codes(fsys); have != c.codes {
			t.Errorf("%s: findings %v, want %q", c.name, fsys.Findings(), c.codes)
		}
		// The second look says the same and finds nothing twice.
		n := len(fsys.Findings())
		again, _ := contents(fsys)
		if !maps.Equal(got, again) || len(fsys.Findings()) != n {
			t.Errorf("%s: the second look differs: %q, %v", c.name, slices.Sorted(maps.Keys(again)), fsys.Findings())
		}
	}
}
