package iso9660

import "strings"

const (
	stemLen   = 20 // bytes of a stem that is not generated
	extLen    = 3
	genLen    = 27 // bytes of a generated stem: with an extension, the 30 of ECMA-119 7.5.1
	genPrefix = 19
	genDigits = 7

	plainIdent = -1 // node.ord of an entry whose identifier is not generated
)

// An identKey is an identifier as ECMA-119 9.3 compares it: stem and extension, padded by spaces, which occur in neither.
type identKey struct {
	id    [genLen + extLen]byte
	cut   bool // the identifier doesn't hold all of the name
	ord   int32
	entry int32
}

// dchar maps a byte of a name to a d-character (ECMA-119 7.4.1).
func dchar(c byte) byte {
	switch {
	case c >= 'a' && c <= 'z':
		return c - ('a' - 'A')
	case c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return c
	}
	return '_'
}

// splitName cuts a name at its last dot, unless that is its first byte; a directory's name is never cut.
func splitName(name string, isDir bool) (stem, ext string) {
	if dot := strings.LastIndexByte(name, '.'); dot > 0 && !isDir {
		return name[:dot], name[dot+1:]
	}
	return name, ""
}

func newIdentKey(name string, isDir bool) identKey {
	stem, ext := splitName(name, isDir)
	k := identKey{cut: len(stem) > stemLen || len(ext) > extLen}
	for i := range k.id {
		k.id[i] = ' '
	}
	for i := range min(len(stem), stemLen) {
		k.id[i] = dchar(stem[i])
	}
	for i := range min(len(ext), extLen) {
		k.id[genLen+i] = dchar(ext[i])
	}
	return k
}

// generate makes the stem unique among its siblings: 19 bytes, "_", the ordinal, filled to 27 bytes.
func (k *identKey) generate() {
	n := 0
	for n < genPrefix && k.id[n] != ' ' {
		n++
	}
	k.id[n] = '_'
	n++
	v := k.ord
	for i := genDigits - 1; i >= 0; i-- {
		k.id[n+i] = '0' + byte(v%10)
		v /= 10
	}
	for n += genDigits; n < genLen; n++ {
		k.id[n] = '_'
	}
}

// appendIdent appends the identifier of a file (7.5) or directory (7.6) to dst.
func appendIdent(dst []byte, name string, isDir bool, ord int32) []byte {
	k := newIdentKey(name, isDir)
	if ord != plainIdent {
		k.ord = ord
		k.generate()
	}
	for _, c := range k.id[:genLen] {
		if c == ' ' {
			break
		}
		dst = append(dst, c)
	}
	if isDir {
		return dst
	}
	dst = append(dst, '.')
	for _, c := range k.id[genLen:] {
		if c == ' ' {
			break
		}
		dst = append(dst, c)
	}
	return append(dst, ";1"...)
}

// identLen returns the length of what appendIdent appends.
func identLen(name string, isDir bool, ord int32) int {
	stem, ext := splitName(name, isDir)
	n := min(len(stem), stemLen)
	if ord != plainIdent {
		n = genLen
	}
	if isDir {
		return n
	}
	return n + 1 + min(len(ext), extLen) + 2
}
