package trust

import (
	"bytes"
	"errors"
	"fmt"
)

// maxLoose is the longest signature file that Canonical takes, in bytes.
const maxLoose = 16 << 10

// Canonical returns a signature made by any stock tool in the one form that a slot takes (docs/format.md, section
// 10). What it changes was never signed: the untrusted comment of minisign, line ends, and newlines behind the
// signature. Whether the signature verifies is for [Verify] to say.
func Canonical(data []byte) ([]byte, error) {
	if len(data) > maxLoose {
		return nil, fmt.Errorf("read signature: %d bytes, the limit is %d", len(data), maxLoose)
	}
	return canonicalMinisign(data)
}

// canonicalMinisign puts minisign's own untrusted comment over the other three lines.
func canonicalMinisign(data []byte) ([]byte, error) {
	if !bytes.HasPrefix(data, []byte(untrustedPrefix)) {
		return nil, errors.New("read signature: it is not a detached signature of minisign")
	}
	text := bytes.TrimRight(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")), "\n")
	_, rest, _ := bytes.Cut(text, []byte("\n"))
	canonical := append(append([]byte(signatureHead), rest...), '\n')
	if _, err := ParseSignature(canonical); err != nil {
		return nil, err
	}
	return canonical, nil
}
