package iso9660

import (
	"encoding/binary"
	"strings"
	"time"
)

const standardID = "CD001"

// check checks that the strings of a volume can be recorded (ECMA-119 8.4.5, 8.4.6, 8.4.20).
func (v *Volume) check() error {
	const achars = " !\"%&'()*+,-./:;<=>?"
	fields := []struct {
		name, value string
		max         int
		extra       string
	}{
		{"system identifier", v.SystemID, 32, achars},
		{"volume identifier", v.ID, 32, ""},
		{"application identifier", v.Application, 128, achars},
	}
	for _, f := range fields {
		if len(f.value) > f.max {
			return entryErrorf(".", "%s has %d bytes, limit %d", f.name, len(f.value), f.max)
		}
		for i := range len(f.value) {
			c := f.value[i]
			if (c == '_' || dchar(c) != '_') && (c < 'a' || c > 'z') || strings.IndexByte(f.extra, c) >= 0 {
				continue
			}
			return entryErrorf(".", "%s %q: byte %#02x is not allowed", f.name, f.value, c)
		}
	}
	if v.Created < minTime || v.Created > maxTime {
		return entryErrorf(".", "creation time %d is outside the years 1900 to 2155", v.Created)
	}
	if len(v.SystemArea) > systemArea {
		return entryErrorf(".", "system area has %d bytes, limit %d", len(v.SystemArea), systemArea)
	}
	return nil
}

// pathTableSize returns the bytes of one path table, without padding.
func (l *Layout) pathTableSize() int64 {
	var n int64
	for k := range l.dirs {
		n += int64(even(8 + l.dirIdentLen(k)))
	}
	return n
}

func (l *Layout) dirIdentLen(k int) int {
	if k == 0 {
		return 1
	}
	i := l.dirs[k].entry
	return identLen(baseName(l.entries[i].Path), true, l.nodes[i].ord)
}

// pathTable appends a path table (ECMA-119 9.4), type M when big, padded to whole blocks.
func (l *Layout) pathTable(b []byte, big bool) []byte {
	var order interface {
		binary.AppendByteOrder
		binary.ByteOrder
	} = binary.LittleEndian
	if big {
		order = binary.BigEndian
	}
	for k := range l.dirs {
		d := &l.dirs[k]
		b = append(b, byte(l.dirIdentLen(k)), 0)
		b = order.AppendUint32(b, d.lba)
		b = order.AppendUint16(b, uint16(d.parent+1))
		if k == 0 {
			b = append(b, 0)
		} else {
			b = appendIdent(b, baseName(l.entries[d.entry].Path), true, l.nodes[d.entry].ord)
		}
		if len(b)%2 != 0 {
			b = append(b, 0)
		}
	}
	return pad(b)
}

// pad appends zeros up to whole blocks.
func pad(b []byte) []byte {
	return append(b, make([]byte, blocksOf(int64(len(b)))*BlockSize-int64(len(b)))...)
}

// descriptors appends the volume descriptors from LBA 16.
func (l *Layout) descriptors(b []byte) []byte {
	tables := blocksOf(l.pathTableSize())
	lTable := uint32(descriptorLBA + l.descriptorCount())

	b = append(b, 1)
	b = append(b, standardID...)
	b = append(b, 1, 0)
	b = appendPadded(b, l.vol.SystemID, 32)
	b = appendPadded(b, l.vol.ID, 32)
	b = append(b, make([]byte, 8)...)
	b = append733(b, uint32(l.blocks))
	b = append(b, make([]byte, 32)...)
	b = append723(b, 1) // volume set size
	b = append723(b, 1) // volume sequence number
	b = append723(b, BlockSize)
	b = append733(b, uint32(l.pathTableSize()))
	b = binary.LittleEndian.AppendUint32(b, lTable)
	b = binary.LittleEndian.AppendUint32(b, 0) // optional type L
	b = binary.BigEndian.AppendUint32(b, lTable+uint32(tables))
	b = binary.BigEndian.AppendUint32(b, 0) // optional type M
	root := make([]byte, minRecord)
	putRecordHead(root, []byte{0}, l.dirs[0].lba, l.dirs[0].recBlocks*BlockSize, l.entries[0].ModTime, flagDirectory)
	b = append(b, root...)
	b = appendPadded(b, "", 128+128+128) // volume set, publisher, data preparer
	b = appendPadded(b, l.vol.Application, 128)
	b = appendPadded(b, "", 37+37+37) // copyright, abstract, bibliographic file
	created := time.Unix(l.vol.Created, 0).UTC().Format("20060102150405") + "00\x00"
	b = append(b, created...) // creation
	b = append(b, created...) // modification
	b = append(b, "0000000000000000\x00"...)
	b = append(b, created...) // effective
	b = append(b, 1, 0)       // file structure version
	b = pad(b)

	if l.vol.BootCatalog != "" { // El Torito 1.0, figure 7
		b = append(b, 0)
		b = append(b, standardID...)
		b = append(b, 1)
		b = append(b, "EL TORITO SPECIFICATION"...)
		b = append(b, make([]byte, 32-len("EL TORITO SPECIFICATION")+32)...)
		b = binary.LittleEndian.AppendUint32(b, l.bootCatalog())
		b = pad(b)
	}

	b = append(b, 255)
	b = append(b, standardID...)
	b = append(b, 1)
	return pad(b)
}

// appendPadded appends s, padded by spaces to n bytes.
func appendPadded(b []byte, s string, n int) []byte {
	b = append(b, s...)
	for range n - len(s) {
		b = append(b, ' ')
	}
	return b
}
