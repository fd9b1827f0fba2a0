package trust

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// ASCII armor (RFC 9580, section 6).
const (
	armorBegin   = "-----BEGIN PGP "
	armorEnd     = "-----END PGP "
	armorDashes  = "-----"
	armorSig     = "SIGNATURE"
	armorPublic  = "PUBLIC KEY BLOCK"
	armorPrivate = "PRIVATE KEY BLOCK"

	armorColumns  = 64
	armorSumChars = 4
)

// enarmor returns a signature's packet in armor as GnuPG writes it: without headers, in lines of 64 characters, with
// its checksum.
func enarmor(packet []byte) []byte {
	out := []byte(armorBegin + armorSig + armorDashes + "\n\n")
	text := base64.StdEncoding.EncodeToString(packet)
	for len(text) > 0 {
		n := min(len(text), armorColumns)
		out, text = append(append(out, text[:n]...), '\n'), text[n:]
	}
	out = append(base64.StdEncoding.AppendEncode(append(out, '='), crc24(packet)), '\n')
	return append(out, armorEnd+armorSig+armorDashes+"\n"...)
}

// dearmor takes armor off, whoever made it: it may have headers, spaces and empty lines where they do no harm, and
// lack the checksum. There must be nothing but one block. Errors name the byte offset.
func dearmor(data []byte) (kind string, body []byte, err error) {
	at, lines := 0, bytes.SplitAfter(data, []byte("\n"))
	next := func() (line string, ok bool) {
		if len(lines) == 0 {
			return "", false
		}
		line = strings.TrimRight(string(lines[0]), " \t\r\n")
		at, lines = at+len(lines[0]), lines[1:]
		return line, true
	}
	line, ok := next()
	for ok && line == "" {
		line, ok = next()
	}
	kind, isBegin := strings.CutPrefix(line, armorBegin)
	kind, isLine := strings.CutSuffix(kind, armorDashes)
	if !isBegin || !isLine {
		return "", nil, fmt.Errorf("byte 0: it doesn't begin with a line %q", armorBegin+"…"+armorDashes)
	}
	for line, ok = next(); ok && line != ""; line, ok = next() {
		if !strings.Contains(line, ":") {
			return kind, nil, fmt.Errorf("before byte %d: a line that is no header, and no empty line before the data", at)
		}
	}
	var text strings.Builder
	sum, end := "", armorEnd+kind+armorDashes
	for line, ok = next(); ok && line != end; line, ok = next() {
		s, isSum := strings.CutPrefix(line, "=")
		switch {
		case sum != "":
			return kind, nil, fmt.Errorf("before byte %d: data behind the checksum", at)
		case isSum && len(s) == armorSumChars:
			sum = s
		default:
			text.WriteString(line)
		}
	}
	if !ok {
		return kind, nil, fmt.Errorf("byte %d: the armor has no end, a line %q", at, end)
	}
	for line, ok = next(); ok; line, ok = next() {
		if line != "" {
			return kind, nil, fmt.Errorf("before byte %d: data behind the end of the armor", at)
		}
	}
	if body, err = base64.StdEncoding.Strict().DecodeString(text.String()); err != nil {
		return kind, nil, fmt.Errorf("the armor: %w", err)
	}
	if sum != "" && sum != base64.StdEncoding.EncodeToString(crc24(body)) {
		return kind, nil, errors.New("the armor's checksum is wrong: the file is damaged")
	}
	return kind, body, nil
}

// crc24 returns the checksum of armor (RFC 9580, section 6.1.1).
func crc24(data []byte) []byte {
	const initial, polynomial = 0xb704ce, 0x1864cfb
	crc := uint32(initial)
	for _, b := range data {
		crc ^= uint32(b) << 16
		for range 8 {
			if crc <<= 1; crc&0x1000000 != 0 {
				crc ^= polynomial
			}
		}
	}
	return []byte{byte(crc >> 16), byte(crc >> 8), byte(crc)}
}
