package iscsi

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

const (
	maxText  = 16 << 10 // bytes of text in one request, over all its PDUs
	maxPairs = 64
	maxKey   = 63  // RFC 7143 6.1
	maxValue = 255 // RFC 7143 6.1, and no key here has a longer one
)

type pair struct{ key, value string }

// parseText takes key=value pairs apart, each ended by a zero byte (RFC 7143
// 6.1). A missing zero byte at the end is forgiven.
func parseText(b []byte) ([]pair, error) {
	if len(b) > maxText {
		return nil, fmt.Errorf("text of %d bytes, at most %d", len(b), maxText)
	}
	var pairs []pair
	for off := 0; off < len(b); {
		end := bytes.IndexByte(b[off:], 0)
		if end < 0 {
			end = len(b) - off
		}
		item := b[off : off+end]
		at := off
		off += end + 1
		if len(item) == 0 { // padding that was counted as data
			continue
		}
		if len(pairs) == maxPairs {
			return nil, fmt.Errorf("text byte %d: more than %d keys", at, maxPairs)
		}
		key, value, ok := strings.Cut(string(item), "=")
		if !ok || !validKey(key) {
			return nil, fmt.Errorf("text byte %d: no key and value", at)
		}
		if len(value) > maxValue {
			return nil, fmt.Errorf("text byte %d: value of %d bytes, at most %d", at, len(value), maxValue)
		}
		pairs = append(pairs, pair{key, value})
	}
	return pairs, nil
}

func validKey(s string) bool {
	if s == "" || len(s) > maxKey {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(".-+@_#", c) >= 0:
		default:
			return false
		}
	}
	return true
}

func formatText(pairs []pair) []byte {
	var b bytes.Buffer
	for _, p := range pairs {
		b.WriteString(p.key + "=" + p.value + "\x00")
	}
	return b.Bytes()
}

// number reads a numerical value, decimal or hexadecimal (RFC 7143 6.1).
func number(s string) (int, bool) {
	base := 10
	if len(s) > 2 && (s[:2] == "0x" || s[:2] == "0X") {
		s, base = s[2:], 16
	}
	if s == "" || s[0] == '+' || s[0] == '-' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, base, 31)
	return int(n), err == nil
}
