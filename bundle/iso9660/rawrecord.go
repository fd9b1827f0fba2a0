package iso9660

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A rawRecord is a directory record (ECMA-119 9.1). ident and su point into the block it came from.
type rawRecord struct {
	off        int64 // byte offset in the image
	lba, size  uint32
	flags      byte
	interleave bool
	mtime      int64
	ident, su  []byte
	suOff      int64
	length     int
}

// parseRecord decodes the record at the beginning of b, which goes to the end of its block, and returns what is wrong with it.
func parseRecord(b []byte, off int64) (r rawRecord, fault string) {
	n := int(b[0])
	if n < minRecord || n > len(b) {
		return r, fmt.Sprintf("directory record of %d bytes, %d are left in the block", n, len(b))
	}
	b = b[:n]
	idLen := int(b[32])
	if idLen == 0 || 33+idLen > n {
		return r, fmt.Sprintf("identifier of %d bytes in a directory record of %d", idLen, n)
	}
	r = rawRecord{off: off, length: n, flags: b[25], interleave: b[26] != 0 || b[27] != 0, mtime: time7(b[18:]), ident: b[33:][:idLen]}
	var ok bool
	if r.lba, ok = get733(b[2:]); !ok {
		return r, "location of extent differs between byte orders"
	}
	if r.size, ok = get733(b[10:]); !ok {
		return r, "data length differs between byte orders"
	}
	xar := uint32(b[1]) // an extended attribute record lies before the data (9.1.2)
	if r.lba > maxBlocks-xar {
		return r, "location of extent is outside the volume"
	}
	r.lba += xar
	if at := even(33 + idLen); at < n {
		r.su, r.suOff = b[at:], off+int64(at)
	}
	return r, ""
}

// name decodes a record's identifier: UCS-2 in Joliet, else bytes. The version and an empty extension's dot are not part of it.
func (p *dirParser) name(e *entry, rec *rawRecord) error {
	name := string(rec.ident)
	if p.f.view == ViewJoliet {
		var fault string
		if name, fault = decodeUCS2(rec.ident); fault != "" {
			return p.fault(rec.off, "%s", fault)
		}
	}
	if rec.flags&flagDirectory == 0 {
		if k := strings.LastIndexByte(name, ';'); k > 0 && k+1 < len(name) && strings.Trim(name[k+1:], "0123456789") == "" {
			name = name[:k]
		}
		if len(name) > 1 {
			name = strings.TrimSuffix(name, ".")
		}
	}
	e.name = name
	return nil
}

func decodeUCS2(b []byte) (name, fault string) {
	if len(b)%2 != 0 {
		return "", "Joliet identifier has an odd number of bytes"
	}
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.BigEndian.Uint16(b[2*i:])
	}
	r := utf16.Decode(u)
	if slices.Contains(r, utf8.RuneError) {
		return "", "Joliet identifier is not UTF-16"
	}
	return string(r), ""
}
