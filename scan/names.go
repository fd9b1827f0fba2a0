package scan

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// reservedNames stand at the root of every bundle (docs/format.md, section 4), here as foldName gives them.
var reservedNames = map[string]string{
	"readme.txt":    "README.txt",
	"manifest.json": "MANIFEST.json",
	"sha256sums":    "SHA256SUMS",
}

// assigned holds all characters that have a meaning of their own. Those that Unicode hasn't assigned yet are
// refused: only for assigned ones do the stability policies promise that normalisation and case folding never
// change, and with them the answer whether two names clash, on two stations with different tables.
var assigned = []*unicode.RangeTable{unicode.L, unicode.M, unicode.N, unicode.P, unicode.S, unicode.Z}

// nameProblem says what is wrong with one name (a part of a path), or "".
//
// Fine are: every assigned, visible character, spaces inside a name, a leading dot or hyphen, the characters
// <>:"|?* (Perl's manual pages hold ::, and a file system that can't store them says so itself), a backslash
// that doesn't make another path of the name (systemd's \x2d), and device names with an extension (Linux has
// aux.c; Windows takes them since version 11).
func nameProblem(name string) string {
	if name == "" {
		return "empty name"
	}
	if !utf8.ValidString(name) {
		return "not UTF-8"
	}
	for i, r := range name {
		if p := runeProblem(r); p != "" {
			return fmt.Sprintf("%s %U at byte %d", p, r, i)
		}
	}
	first, _ := utf8.DecodeRuneInString(name)
	last, _ := utf8.DecodeLastRuneInString(name)
	switch {
	case unicode.Is(unicode.M, first):
		return fmt.Sprintf("begins with the combining mark %U", first)
	case unicode.Is(unicode.Zs, first):
		return "begins with a space"
	case unicode.Is(unicode.Zs, last):
		return "ends with a space"
	case last == '.':
		return "ends with a dot"
	case isDevice(name):
		return "a device name of Windows"
	}
	return otherPath(name)
}

// runeProblem says why a character may not occur in a name, or "".
func runeProblem(r rune) string {
	if r >= 0x20 && r < 0x7f {
		if r == '/' {
			return "path separator"
		}
		return ""
	}
	switch {
	case unicode.Is(unicode.Cc, r):
		return "control character"
	case unicode.In(r, unicode.Zl, unicode.Zp):
		return "line separator"
	case unicode.Is(unicode.Bidi_Control, r):
		return "bidirectional control"
	case invisible(r):
		return "invisible character"
	case unicode.Is(unicode.Noncharacter_Code_Point, r):
		return "noncharacter"
	case unicode.Is(unicode.Co, r):
		return "private-use character"
	case unicode.Is(unicode.Prepended_Concatenation_Mark, r):
		return "" // a format character by category, but one that is seen
	case !unicode.In(r, assigned...):
		return "unassigned character"
	}
	return ""
}

// invisible tells the characters that a reader doesn't see: format characters, variation selectors and the
// rest of Default_Ignorable_Code_Point (UAX 44), and the braille blank.
func invisible(r rune) bool {
	if unicode.Is(unicode.Prepended_Concatenation_Mark, r) {
		return false
	}
	return r == 0x2800 || unicode.In(r, unicode.Cf, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point)
}

func isDevice(name string) bool {
	switch n := strings.ToUpper(name); n {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$":
		return true
	default:
		digit, ok := strings.CutPrefix(n, "COM")
		if !ok {
			digit, ok = strings.CutPrefix(n, "LPT")
		}
		return ok && utf8.RuneCountInString(digit) == 1 && strings.ContainsAny(digit, "0123456789¹²³")
	}
}

// otherPath finds names that some reader takes for a path that climbs or is absolute: with backslashes, or
// percent-encoded, once or several times.
func otherPath(name string) string {
	if strings.Contains(name, `\`) {
		parts := strings.Split(name, `\`)
		for _, p := range parts {
			if p == "" || p == "." || p == ".." {
				return "a path when backslashes separate"
			}
		}
		if strings.HasSuffix(parts[0], ":") {
			return "a path when backslashes separate"
		}
	}
	for decoded := percentDecode(name); decoded != name; decoded = percentDecode(name) {
		name = decoded
		for p := range strings.FieldsFuncSeq(name, func(r rune) bool { return r == '/' || r == '\\' }) {
			if p == "." || p == ".." {
				return "a path when percent-decoded"
			}
		}
		if strings.ContainsRune(name, 0) {
			return "holds NUL when percent-decoded"
		}
	}
	return ""
}

// percentDecode replaces each %XX once; the result is shorter or s itself.
func percentDecode(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// foldName gives the key under which two names clash: canonical caseless matching (Unicode, section 3.13,
// D145), in NFC. Its second result is the NFC form alone.
func foldName(fold cases.Caser, name string) (folded, nfc string) {
	if isASCII(name) {
		return strings.ToLower(name), name
	}
	nfc = norm.NFC.String(name)
	return norm.NFC.String(fold.String(norm.NFD.String(name))), nfc
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// Quote returns s in double quotes, on one line, with nothing in it that a terminal, a log or an eye could be
// misled by: printable characters stay as they are; all others, bytes that aren't UTF-8, the quote and the
// backslash are escaped as in Go's string literals. It can be undone with [strconv.Unquote].
func Quote(s string) string {
	q := strconv.Quote(s)
	if isASCII(q) || !strings.ContainsFunc(q, invisible) {
		return q
	}
	var b strings.Builder
	for _, r := range q {
		switch {
		case !invisible(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
