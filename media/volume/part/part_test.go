package part

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"sallyport/media/volume"
)

// image is a medium in memory whose parts are put together by hand.
type image []byte

func (m image) entry(off int64, slot int, flag, kind byte, start, count uint32) image {
	e := m[off+446+16*int64(slot):]
	e[0], e[4] = flag, kind
	copy(e[1:4], []byte{0xfe, 0xff, 0xff})
	copy(e[5:8], []byte{0xfe, 0xff, 0xff})
	for _, f := range []struct {
		at  int
		lba uint32
	}{{1, start}, {5, start + count - 1}} {
		if c := f.lba / (255 * 63); c < 1024 {
			e[f.at], e[f.at+1], e[f.at+2] = byte(f.lba/63%255), byte(f.lba%63+1)|byte(c>>2&0xc0), byte(c)
		}
	}
	binary.LittleEndian.PutUint32(e[8:], start)
	binary.LittleEndian.PutUint32(e[12:], count)
	m[off+510], m[off+511] = 0x55, 0xaa
	return m
}

const mib = 1 << 20

// plainMBR is 4 MiB with two partitions of 1 MiB, at 1 and 2 MiB.
func plainMBR() image {
	return make(image, 4*mib).entry(0, 0, 0x80, 0x0c, 2048, 2048).entry(0, 1, 0, 0x83, 4096, 2048)
}

// logicalMBR has three logical partitions in an extended one.
func logicalMBR() image {
	m := make(image, 8*mib).entry(0, 0, 0, 0x83, 2048, 2048).entry(0, 1, 0, 0x0f, 4096, 8192)
	m.entry(4096*512, 0, 0, 0x83, 64, 1000).entry(4096*512, 1, 0, 0x05, 2048, 2048)
	m.entry(6144*512, 0, 0, 0x83, 64, 1000).entry(6144*512, 1, 0, 0x05, 4096, 2048)
	m.entry(8192*512, 0, 0, 0x0b, 64, 1000)
	for _, off := range []int64{4096, 6144, 8192} { // relative addresses make no sense in CHS, so writers clear or fill them
		for slot := range int64(2) {
			e := m[off*512+446+16*slot:]
			copy(e[1:4], []byte{0, 0, 0})
			copy(e[5:8], []byte{0, 0, 0})
		}
	}
	return m
}

// gptImage is a medium with a good GPT of two partitions, in blocks of block bytes.
func gptImage(size, block int64) image {
	m := make(image, size)
	blocks := uint64(size / block)
	count := uint32(min(blocks-1, 0xffffffff))
	m.entry(0, 0, 0, 0xee, 1, count)
	copy(m[446:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff})
	entries := m[2*block : 2*block+128*128]
	basic := []byte{0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7}
	for i := range 2 {
		e := entries[128*i:]
		copy(e, basic)
		copy(e[16:], bytes.Repeat([]byte{byte(i + 1)}, 16))
		first := uint64(mib/block) * uint64(i+1)
		binary.LittleEndian.PutUint64(e[32:], first)
		binary.LittleEndian.PutUint64(e[40:], first+uint64(mib/block)-1)
		copy(e[56:], []byte{'p', 0, byte('1' + i), 0})
	}
	m.sealGPT(block)
	return m
}

// sealGPT writes both headers, and the backup's entries, to fit the first copy's entries.
func (m image) sealGPT(block int64) {
	blocks := uint64(int64(len(m)) / block)
	table := uint64(128 * 128 / block)
	copy(m[(int64(blocks)-1)*block-128*128:], m[2*block:2*block+128*128])
	for _, c := range []struct{ own, other, at uint64 }{{1, blocks - 1, 2}, {blocks - 1, 1, blocks - 1 - table}} {
		h := m[int64(c.own)*block:][:92]
		copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
		for at, v := range map[int]uint64{24: c.own, 32: c.other, 40: 2 + table, 48: blocks - 2 - table, 72: c.at} {
			binary.LittleEndian.PutUint64(h[at:], v)
		}
		copy(h[56:72], "0123456789abcdef")
		binary.LittleEndian.PutUint32(h[80:], 128)
		binary.LittleEndian.PutUint32(h[84:], 128)
		binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(m[2*block:2*block+128*128]))
		m.sumHeader(int64(c.own) * block)
	}
}

func (m image) sumHeader(off int64) {
	h := m[off:][:92]
	clear(h[16:20])
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h))
}

func codes(fs []volume.Finding) []string {
	var out []string
	for _, f := range fs {
		out = append(out, f.Code)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestRead(t *testing.T) {
	const b = 512
	for _, c := range []struct {
		name   string
		m      image
		block  int
		change func(m image)
		scheme string
		parts  int
		codes  string
	}{
		{"empty", make(image, mib), b, nil, "none", 0, ""},
		{"mbr", plainMBR(), b, nil, "mbr", 2, ""},
		{"mbr in blocks of 4096", make(image, 64*mib).entry(0, 0, 0, 0x0c, 256, 1024), 4096, nil, "mbr", 1, ""},
		{"signature alone", plainMBR(), b, func(m image) { clear(m[446:510]) }, "none", 0, ""},
		{"loader", plainMBR(), b, func(m image) { m[100] = 0xcd }, "mbr", 2, "boot-code"},
		{"loader over the table", plainMBR(), b, func(m image) { m[446], m[100] = 0x13, 1 }, "none", 0, "boot-code"},
		{"hidden", plainMBR(), b, func(m image) { m[450] = 0x1c }, "mbr", 2, "hidden-partition"},
		{"overlap", plainMBR(), b, func(m image) { m.entry(0, 1, 0, 0x83, 4000, 2048) }, "mbr", 2, "overlap"},
		{"overlap behind a smaller one", plainMBR(), b, func(m image) {
			m.entry(0, 0, 0, 0x0c, 2048, 4096).entry(0, 1, 0, 0x83, 2100, 10).entry(0, 2, 0, 0x83, 4096, 10)
		}, "mbr", 3, "overlap"},
		{"past the end", plainMBR(), b, func(m image) { m.entry(0, 1, 0, 0x83, 4096, 4097) }, "mbr", 2, "past-end"},
		{"up to the end", plainMBR(), b, func(m image) { m.entry(0, 1, 0, 0x83, 4096, 4096) }, "mbr", 2, ""},
		{"over the table", plainMBR(), b, func(m image) { m.entry(0, 1, 0, 0x83, 0, 100) }, "mbr", 2, "overlap-table"},
		{"no blocks", plainMBR(), b, func(m image) { clear(m[474:478]) }, "mbr", 2, "empty-partition"},
		{"two active", plainMBR(), b, func(m image) { m[462] = 0x80 }, "mbr", 2, "odd-flag"},
		{"bad geometry", plainMBR(), b, func(m image) { copy(m[447:450], []byte{9, 9, 9}) }, "mbr", 2, "odd-geometry"},
		{"residue", plainMBR(), b, func(m image) { m[490] = 1 }, "mbr", 2, "entry-residue"},
		{"logical", logicalMBR(), b, nil, "mbr", 4, ""},
		{"a chain that loops", logicalMBR(), b, func(m image) {
			m.entry(8192*512, 1, 0, 5, 2048, 2048)
			clear(m[8192*512+463:][:7][:3])
			clear(m[8192*512+467:][:3])
		}, "mbr", 4, "ebr-loop"},
		{"a chain to itself", logicalMBR(), b, func(m image) { binary.LittleEndian.PutUint32(m[4096*512+470:], 0) }, "mbr", 2, "ebr-loop"},
		{"a chain out of the medium", logicalMBR(), b, func(m image) { binary.LittleEndian.PutUint32(m[4096*512+470:], 1<<30) }, "mbr", 2, "past-end"},
		{"a record without a signature", logicalMBR(), b, func(m image) { m[6144*512+510] = 0 }, "mbr", 2, "ebr-signature"},
		{"code in a record", logicalMBR(), b, func(m image) { m[6144*512] = 1 }, "mbr", 4, "boot-code"},
		{"third entry in a record", logicalMBR(), b, func(m image) { m.entry(6144*512, 2, 0, 0x83, 1500, 10) }, "mbr", 5, "ebr-entries"},
		{"logical out of its extended", logicalMBR(), b, func(m image) { binary.LittleEndian.PutUint32(m[8192*512+458:], 5000) }, "mbr", 4, "past-end"},
		{"two extended", logicalMBR(), b, func(m image) { m.entry(0, 2, 0, 5, 13000, 1000); m[13000*512+510], m[13000*512+511] = 0x55, 0xaa }, "mbr", 4, "second-extended"},
		{"gpt", gptImage(8*mib, 512), b, nil, "gpt", 2, ""},
		{"gpt in blocks of 4096", gptImage(8*mib, 4096), 4096, nil, "gpt", 2, ""},
		{"gpt for other blocks", gptImage(8*mib, 4096), 512, nil, "mbr", 1, "block-size gpt-missing"},
		{"gpt without mbr", gptImage(8*mib, 512), b, func(m image) { clear(m[:512]) }, "none", 0, "gpt-remnant"},
		{"gpt with a foreign mbr", gptImage(8*mib, 512), b, func(m image) { m.entry(0, 0, 0, 0x0c, 2048, 2048) }, "mbr", 1, "gpt-remnant"},
		{"hybrid", gptImage(8*mib, 512), b, func(m image) { m.entry(0, 1, 0, 0x0c, 2048, 2048) }, "gpt", 2, "hybrid-mbr"},
		{"protective too short", gptImage(8*mib, 512), b, func(m image) { m[458]-- }, "gpt", 2, "protective-mbr"},
		{"loader before gpt", gptImage(8*mib, 512), b, func(m image) { m[3] = 1 }, "gpt", 2, "boot-code"},
		{"first header damaged", gptImage(8*mib, 512), b, func(m image) { m[512+41]++ }, "gpt", 2, "gpt-primary"},
		{"first entries damaged", gptImage(8*mib, 512), b, func(m image) { m[1024+60]++ }, "gpt", 2, "gpt-primary"},
		{"first header gone", gptImage(8*mib, 512), b, func(m image) { clear(m[512:1024]) }, "gpt", 2, "gpt-primary"},
		{"second header damaged", gptImage(8*mib, 512), b, func(m image) { m[8*mib-512+41]++ }, "gpt", 2, "gpt-backup"},
		{"second header gone", gptImage(8*mib, 512), b, func(m image) { clear(m[8*mib-512:]) }, "gpt", 2, "gpt-backup"},
		{"both damaged", gptImage(8*mib, 512), b, func(m image) { m[512+41]++; m[8*mib-512+41]++ }, "gpt", 0, "gpt-backup gpt-primary"},
		{"copies differ", gptImage(8*mib, 512), b, func(m image) {
			h := m[8*mib-512:]
			e := m[8*mib-512-128*128:]
			e[60]++
			binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(e[:128*128]))
			m.sumHeader(8*mib - 512)
		}, "gpt", 2, "gpt-differ"},
		{"copies point elsewhere", gptImage(8*mib, 512), b, func(m image) { m[8*mib-512+32] = 3; m.sumHeader(8*mib - 512) }, "gpt", 2, "gpt-differ"},
		{"too many entries", gptImage(8*mib, 512), b, func(m image) { binary.LittleEndian.PutUint32(m[512+80:], 1<<31); m.sumHeader(512) }, "gpt", 2, "gpt-primary"},
		{"entries too big", gptImage(8*mib, 512), b, func(m image) { binary.LittleEndian.PutUint32(m[512+84:], 1<<31); m.sumHeader(512) }, "gpt", 2, "gpt-primary"},
		{"entries of no size", gptImage(8*mib, 512), b, func(m image) { binary.LittleEndian.PutUint32(m[512+84:], 0); m.sumHeader(512) }, "gpt", 2, "gpt-primary"},
		{"entries outside", gptImage(8*mib, 512), b, func(m image) { binary.LittleEndian.PutUint64(m[512+72:], 1<<63); m.sumHeader(512) }, "gpt", 2, "gpt-primary"},
		{"gpt overlap", gptImage(8*mib, 512), b, func(m image) { m[1024+128+33]--; m.sealGPT(512) }, "gpt", 2, "overlap"},
		{"gpt partition past the end", gptImage(8*mib, 512), b, func(m image) { m[1024+128+47] = 1; m.sealGPT(512) }, "gpt", 1, "past-end"},
		{"gpt partition ends before it starts", gptImage(8*mib, 512), b, func(m image) { clear(m[1024+128+40:][:8]); m.sealGPT(512) }, "gpt", 1, "past-end"},
		{"gpt partition over the backup", gptImage(8*mib, 512), b, func(m image) { binary.LittleEndian.PutUint64(m[1024+128+40:], 16383); m.sealGPT(512) }, "gpt", 2, "outside-usable overlap-table"},
		{"gpt hidden", gptImage(8*mib, 512), b, func(m image) { m[1024+55] = 0x40; m.sealGPT(512) }, "gpt", 2, "hidden-partition"},
		{"gpt residue", gptImage(8*mib, 512), b, func(m image) { m[1024+128*5+60] = 1; m.sealGPT(512) }, "gpt", 2, "entry-residue"},
		{"bytes behind the header", gptImage(8*mib, 512), b, func(m image) { m[512+100] = 1 }, "gpt", 2, "gap-data"},
		{"gpt of a smaller medium", append(gptImage(8*mib, 512), make(image, mib)...), b, nil, "gpt", 2, "gpt-backup protective-mbr"},
		{"odd size", append(plainMBR(), 0), b, nil, "mbr", 2, "odd-size"},
		{"sun", make(image, mib), b, func(m image) { m[508], m[509] = 0xda, 0xbe }, "none", 0, "foreign-scheme"},
		{"luks", make(image, mib), b, func(m image) { copy(m, "LUKS\xba\xbe") }, "none", 0, "foreign-scheme"},
		{"apple", make(image, mib), b, func(m image) { copy(m, "ER"); copy(m[512:], "PM") }, "none", 0, "foreign-scheme"},
	} {
		m := slices.Clone(c.m)
		if c.change != nil {
			c.change(m)
		}
		table, err := Read(bytes.NewReader(m), int64(len(m)), c.block)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := strings.Join(codes(table.Findings), " "); got != c.codes {
			t.Errorf("%s: findings %v, want %q", c.name, table.Findings, c.codes)
		}
		if table.Scheme != c.scheme || len(table.Partitions) != c.parts {
			t.Errorf("%s: scheme %s with %v, want %s with %d", c.name, table.Scheme, table.Partitions, c.scheme, c.parts)
		}
		for _, f := range table.Findings {
			if f.Offset < 0 || f.Offset > 1<<50 {
				t.Errorf("%s: %v has no place", c.name, f)
			}
		}
	}
}

// TestGPTReasons wants the first check that a header fails, not one behind it that happens to refuse it too.
func TestGPTReasons(t *testing.T) {
	le := binary.LittleEndian
	for _, c := range []struct {
		name   string
		change func(h []byte)
		why    string
	}{
		{"entries too big", func(h []byte) { le.PutUint32(h[84:], 8192) }, "entries are of 8192 bytes"},
		{"entries too small", func(h []byte) { le.PutUint32(h[84:], 64) }, "entries are of 64 bytes"},
		{"entries of an odd size", func(h []byte) { le.PutUint32(h[84:], 130) }, "entries are of 130 bytes"},
		{"too many entries", func(h []byte) { le.PutUint32(h[80:], maxEntryBytes/128+1) }, "take more than"},
		{"entries that reach out of the medium", func(h []byte) { le.PutUint64(h[72:], 8*mib/512-1) }, "lie outside"},
		{"entries behind the medium", func(h []byte) { le.PutUint64(h[72:], 1<<60) }, "lie outside"},
		{"entries over the header", func(h []byte) { le.PutUint64(h[72:], 1) }, "lie outside"},
		{"usable blocks behind the medium", func(h []byte) { le.PutUint64(h[48:], 8*mib/512) }, "usable blocks"},
		{"a header of another place", func(h []byte) { le.PutUint64(h[24:], 7) }, "at block 7 and not 1"},
		{"a long header", func(h []byte) { le.PutUint32(h[12:], 513) }, "513 bytes long"},
		{"a short header", func(h []byte) { le.PutUint32(h[12:], 91) }, "91 bytes long"},
	} {
		m := gptImage(8*mib, 512)
		c.change(m[512:])
		m.sumHeader(512)
		table, err := Read(bytes.NewReader(m), int64(len(m)), 512)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if len(table.Findings) == 0 || table.Findings[0].Code != "gpt-primary" || !strings.Contains(table.Findings[0].Detail, c.why) {
			t.Errorf("%s: %v, want %q", c.name, table.Findings, c.why)
		}
		if len(table.Partitions) != 2 {
			t.Errorf("%s: the second copy gives %v", c.name, table.Partitions)
		}
	}
}

func TestReadErrors(t *testing.T) {
	m := plainMBR()
	if _, err := Read(bytes.NewReader(m), 100, 512); err == nil {
		t.Error("a medium without a block was read")
	}
	if _, err := Read(bytes.NewReader(m), 4*mib, 520); err == nil {
		t.Error("blocks of 520 bytes were taken")
	}
	if _, err := Read(bytes.NewReader(m), 8*mib, 512); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a medium shorter than its size: %v", err)
	}
	gone := errors.New("no such device")
	for at := range int64(20) {
		m := gptImage(8*mib, 512)
		if _, err := Read(&failing{m, gone, at}, 8*mib, 512); !errors.Is(err, gone) {
			t.Errorf("read %d fails: %v", at, err)
		}
	}
}

// failing has an error for every read after the first n.
type failing struct {
	m    image
	err  error
	left int64
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if f.left--; f.left < 0 {
		return 0, f.err
	}
	return copy(p, f.m[off:]), nil
}

func TestGaps(t *testing.T) {
	for _, c := range []struct {
		name string
		m    image
		want []Range
	}{
		{"mbr", plainMBR(), []Range{{512, mib - 512}, {3 * mib, mib}}},
		{"logical", logicalMBR(), []Range{
			{512, mib - 512}, {4096*512 + 512, 63 * 512}, {5160 * 512, 984 * 512}, {6144*512 + 512, 63 * 512},
			{7208 * 512, 984 * 512}, {8192*512 + 512, 63 * 512}, {9256 * 512, 8*mib - 9256*512},
		}},
		{"gpt", gptImage(8*mib, 512), []Range{{34 * 512, mib - 34*512}, {3 * mib, 5*mib - 33*512}}},
		{"none", make(image, mib), nil},
	} {
		table, err := Read(bytes.NewReader(c.m), int64(len(c.m)), 512)
		if err != nil {
			t.Fatal(err)
		}
		gaps := table.Gaps()
		if !slices.Equal(gaps, c.want) {
			t.Errorf("%s: gaps %v, want %v", c.name, gaps, c.want)
		}
		fs, err := table.ScanGaps(t.Context(), bytes.NewReader(c.m), nil)
		if err != nil || len(fs) != 0 {
			t.Errorf("%s: clean gaps have %v, %v", c.name, fs, err)
		}
		// One byte at each end of each gap, one gap at a time.
		for _, g := range gaps {
			for _, at := range []int64{g.Start, g.End() - 1} {
				m := slices.Clone(c.m)
				m[at] = 1
				var done, total int64
				fs, err := table.ScanGaps(t.Context(), bytes.NewReader(m), func(d, n int64) { done, total = d, n })
				if err != nil || len(fs) != 1 || fs[0].Code != "gap-data" || fs[0].Offset != at {
					t.Errorf("%s: a byte at %d gives %v, %v", c.name, at, fs, err)
				}
				if done != total || total == 0 {
					t.Errorf("%s: %d of %d bytes were read", c.name, done, total)
				}
			}
		}
	}
}

func TestScanGapsStops(t *testing.T) {
	m := plainMBR()
	table, err := Read(bytes.NewReader(m), int64(len(m)), 512)
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("no such device")
	if _, err := table.ScanGaps(t.Context(), &failing{m, gone, 1}, nil); !errors.Is(err, gone) {
		t.Errorf("a lost device: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	reads := 0
	_, err = table.ScanGaps(ctx, bytes.NewReader(m), func(int64, int64) { reads++; cancel() })
	if !errors.Is(err, context.Canceled) || reads != 1 {
		t.Errorf("after cancelling: %v, %d reads", err, reads)
	}
}

func FuzzRead(f *testing.F) {
	for _, m := range []image{plainMBR(), logicalMBR(), gptImage(4*mib, 512), gptImage(4*mib, 4096)} {
		// The middle of a medium is zeros, so a seed has only what is at its ends.
		f.Add([]byte(m[:20<<10]), []byte(m[len(m)-(20<<10):]), uint16(len(m)>>12), false)
	}
	f.Add([]byte(logicalMBR()[2*mib:][:512]), []byte{}, uint16(100), true)
	f.Fuzz(func(t *testing.T, head, tail []byte, blocks uint16, big bool) {
		size := int64(blocks)<<12 + 512
		m := sparse{size, map[int64][]byte{0: head, size - int64(len(tail)): tail}}
		if len(head) > 1024 { // logicalMBR has its first extended boot record at 2 MiB
			m.runs[2*mib] = head[512:]
		}
		block := 512
		if big {
			block = 4096
		}
		table, err := Read(m, size, block)
		if err != nil {
			if size >= int64(block) {
				t.Fatal(err)
			}
			return
		}
		var at int64
		for _, g := range table.Gaps() {
			if g.Size <= 0 || g.Start < at || g.End() > size {
				t.Fatalf("gaps %v of %d bytes", table.Gaps(), size)
			}
			at = g.End()
		}
		for _, p := range table.Partitions {
			if p.Start < 0 || p.Size < 0 {
				t.Fatalf("partition %+v", p)
			}
		}
	})
}

// sparse is a medium that is zero but for a few runs.
type sparse struct {
	size int64
	runs map[int64][]byte
}

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > s.size-int64(len(p)) {
		return 0, io.EOF
	}
	clear(p)
	for _, at := range slices.Sorted(maps.Keys(s.runs)) {
		run := s.runs[at]
		if lo, hi := max(at, off), min(at+int64(len(run)), off+int64(len(p))); lo < hi {
			copy(p[lo-off:hi-off], run[lo-at:hi-at])
		}
	}
	return len(p), nil
}
