package part

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"unicode/utf16"
)

const (
	// maxEntryBytes is how long the entries of a GPT may be: 1 MiB, 64 times the usual 128 entries of 128 bytes. It is looked at before memory is taken.
	maxEntryBytes = 1 << 20
	// maxEntrySize bounds one entry, which has 128 bytes with all tools.
	maxEntrySize = 4096
)

// header is one copy of a GPT (UEFI 2.10, section 5.3.2), with its entries if they are good.
type header struct {
	seen    bool   // there is a signature
	why     string // what is wrong with it, "" for a good copy
	off     int64  // bytes
	own     uint64 // block numbers
	other   uint64
	first   uint64
	last    uint64
	at      uint64 // of the entries
	disk    [16]byte
	count   uint32
	size    uint32
	crc     uint32 // of the entries
	entries []byte
	rest    bool // bytes behind the header in its block that aren't zero
}

// gpt is both copies.
type gpt struct{ primary, backup header }

func (g gpt) seen() bool { return g.primary.seen || g.backup.seen }

func (g gpt) offset() int64 {
	if g.primary.seen {
		return g.primary.off
	}
	return g.backup.off
}

// readGPT reads the copy at block 1 and the one at the medium's last block. When the first names another place for the second, that is looked at too.
func (t *Table) readGPT() (g gpt, err error) {
	blocks := t.Size / int64(t.Block)
	if blocks < 3 {
		return g, nil
	}
	if g.primary, err = t.readHeader(1); err != nil {
		return g, err
	}
	if g.backup, err = t.readHeader(uint64(blocks - 1)); err != nil {
		return g, err
	}
	if o := g.primary.other; g.primary.seen && g.primary.why == "" && !g.backup.seen && o > 1 && o < uint64(blocks) {
		if g.backup, err = t.readHeader(o); err != nil {
			return g, err
		}
	}
	other := 512 + 4096 - t.Block
	if !g.seen() && t.Size >= 2*int64(other) {
		sig := make([]byte, 8)
		if err := t.readAt(sig, int64(other)); err != nil {
			return g, err
		}
		if string(sig) == "EFI PART" {
			t.find("block-size", int64(other), "there is a GPT for blocks of %d bytes, on a medium with blocks of %d", other, t.Block)
		}
	}
	return g, nil
}

// readHeader reads the copy at a block of the medium, and its entries.
func (t *Table) readHeader(lba uint64) (h header, err error) {
	b := make([]byte, t.Block)
	h.off = int64(lba) * int64(t.Block)
	if err := t.readAt(b, h.off); err != nil {
		return h, err
	}
	if string(b[:8]) != "EFI PART" {
		return h, nil
	}
	le := binary.LittleEndian
	h.seen = true
	h.own, h.other, h.first, h.last, h.at = le.Uint64(b[24:]), le.Uint64(b[32:]), le.Uint64(b[40:]), le.Uint64(b[48:]), le.Uint64(b[72:])
	h.disk = [16]byte(b[56:72])
	h.count, h.size, h.crc = le.Uint32(b[80:]), le.Uint32(b[84:]), le.Uint32(b[88:])
	length, sum := le.Uint32(b[12:]), le.Uint32(b[16:])
	blocks := uint64(t.Size) / uint64(t.Block)
	if length < 92 || length > uint32(t.Block) {
		h.why = fmt.Sprintf("its header is %d bytes long", length)
		return h, nil
	}
	h.rest = len(bytes.Trim(b[92:], "\x00")) != 0
	clear(b[16:20])
	switch {
	case crc32.ChecksumIEEE(b[:length]) != sum:
		h.why = "the CRC of its header is wrong"
	case h.own != lba:
		h.why = fmt.Sprintf("its header says that it is at block %d and not %d", h.own, lba)
	case h.size < 128 || h.size > maxEntrySize || h.size%8 != 0:
		h.why = fmt.Sprintf("its entries are of %d bytes", h.size)
	case h.count > maxEntryBytes/h.size:
		h.why = fmt.Sprintf("its %d entries take more than %d bytes", h.count, maxEntryBytes)
	case h.at < 2 || h.at >= blocks || uint64(h.count)*uint64(h.size) > uint64(t.Size)-h.at*uint64(t.Block):
		h.why = fmt.Sprintf("its entries at block %d lie outside of the medium", h.at)
	case h.first > h.last || h.last >= blocks:
		h.why = fmt.Sprintf("its usable blocks are %d to %d of %d", h.first, h.last, blocks)
	}
	if h.why != "" {
		return h, nil
	}
	h.entries = make([]byte, int(h.count)*int(h.size))
	if err := t.readAt(h.entries, int64(h.at)*int64(t.Block)); err != nil {
		return h, err
	}
	if crc32.ChecksumIEEE(h.entries) != h.crc {
		h.why, h.entries = "the CRC of its entries is wrong", nil
	}
	return h, nil
}

// useGPT takes the partitions of the first copy, or of the second if the first is bad, and compares the two.
func (t *Table) useGPT(g gpt) {
	p, b := g.primary, g.backup
	blocks := uint64(t.Size) / uint64(t.Block)
	switch {
	case !p.seen:
		t.find("gpt-primary", int64(t.Block), "the first copy of the GPT isn't there")
	case p.why != "":
		t.find("gpt-primary", p.off, "the first copy of the GPT can't be used: %s", p.why)
	}
	switch {
	case !b.seen:
		t.find("gpt-backup", t.Size-int64(t.Block), "the second copy of the GPT isn't at the medium's last block")
	case b.why != "":
		t.find("gpt-backup", b.off, "the second copy of the GPT can't be used: %s", b.why)
	case b.own != blocks-1:
		t.find("gpt-backup", b.off, "the second copy of the GPT isn't at the medium's last block %d: the medium was made for another size", blocks-1)
	}
	goodP, goodB := p.seen && p.why == "", b.seen && b.why == ""
	if goodP && goodB {
		if p.other != b.own || b.other != p.own {
			t.find("gpt-differ", b.off, "the two copies of the GPT don't point to each other")
		}
		if p.disk != b.disk || p.first != b.first || p.last != b.last || p.count != b.count || p.size != b.size || !bytes.Equal(p.entries, b.entries) {
			t.find("gpt-differ", b.off, "the two copies of the GPT differ: two systems can see two contents")
		}
	}
	for _, h := range []header{p, b} {
		if !h.seen || h.why != "" {
			continue
		}
		t.used = append(t.used, Range{h.off, int64(t.Block)}, Range{int64(h.at) * int64(t.Block), roundUp(int64(len(h.entries)), int64(t.Block))})
		if h.rest {
			t.find("gap-data", h.off+92, "there are bytes behind the header of the GPT in its block")
		}
	}
	switch {
	case goodP:
		t.gptEntries(p)
	case goodB:
		t.gptEntries(b)
	}
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// gptEntries turns the entries of a copy into partitions (UEFI 2.10, section 5.3.3).
func (t *Table) gptEntries(h header) {
	le := binary.LittleEndian
	t.ID = guid(h.disk[:])
	if h.size > 128 {
		t.find("odd-entry", int64(h.at)*int64(t.Block), "the entries of the GPT have %d bytes, and 128 are defined", h.size)
	}
	for i := range int(h.count) {
		e := h.entries[i*int(h.size) : (i+1)*int(h.size)]
		off := int64(h.at)*int64(t.Block) + int64(i)*int64(h.size)
		if len(bytes.Trim(e[:16], "\x00")) == 0 {
			if len(bytes.Trim(e, "\x00")) != 0 {
				t.find("entry-residue", off, "entry %d of the GPT is unused and isn't empty", i+1)
			}
			continue
		}
		if len(bytes.Trim(e[128:], "\x00")) != 0 {
			t.find("entry-residue", off+128, "entry %d of the GPT has bytes behind the 128 that are defined", i+1)
		}
		first, last, attr := le.Uint64(e[32:]), le.Uint64(e[40:]), le.Uint64(e[48:])
		p := Partition{Index: i + 1, Type: guid(e[:16]), ID: guid(e[16:32]), Name: gptName(e[56:128]), Boot: attr&4 != 0}
		p.TypeName = gptTypes[p.Type]
		if first > last || last >= uint64(t.Size)/uint64(t.Block) {
			t.find("past-end", off, "partition %d takes blocks %d to %d, which aren't blocks of the medium", p.Index, first, last)
			continue
		}
		if first < h.first || last > h.last {
			t.find("outside-usable", off, "partition %d takes blocks %d to %d, of which some are outside of the usable blocks %d to %d", p.Index, first, last, h.first, h.last)
		}
		p.Start, p.Size = int64(first)*int64(t.Block), int64(last-first+1)*int64(t.Block)
		// Bit 62 is Microsoft's hidden, bit 63 its no drive letter, bit 1 is EFI's "no block IO", so that firmware doesn't see it.
		for _, bit := range []struct {
			mask uint64
			what string
		}{{1 << 62, "hidden"}, {1 << 63, "without a drive letter"}, {1 << 1, "hidden from firmware"}} {
			if attr&bit.mask != 0 && (bit.mask == 2 || p.Type == basicData) {
				t.find("hidden-partition", off, "partition %d is marked as %s", p.Index, bit.what)
			}
		}
		t.Partitions = append(t.Partitions, p)
	}
}

// guid writes a GUID as tools do: the first three fields are little-endian (UEFI 2.10, appendix A).
func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

func gptName(b []byte) string {
	u := make([]uint16, 0, len(b)/2)
	for i := 0; i < len(b); i += 2 {
		c := binary.LittleEndian.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}
