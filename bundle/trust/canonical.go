package trust

import (
	"bytes"
	"errors"
	"fmt"
)

// maxLoose is the longest signature file that Canonical takes, in bytes.
const maxLoose = 16 << 10

var signatureArmor = []byte(armorBegin + armorSig + armorDashes + "\n")

// Canonical returns a signature made by any stock tool in the one form that a slot takes (docs/format.md, section
// 10): a minisign signature, or a detached OpenPGP signature, armored or not. What it changes was never signed:
// minisign's untrusted comment, OpenPGP's unhashed subpackets, armor and lengths, line ends, and newlines behind the
// signature. Whether the signature verifies is for [Verify] to say.
func Canonical(data []byte) ([]byte, error) {
	if len(data) > maxLoose {
		return nil, fmt.Errorf("read signature: %d bytes, the limit is %d", len(data), maxLoose)
	}
	switch {
	case bytes.HasPrefix(data, []byte(untrustedPrefix)):
		return canonicalMinisign(data)
	case looksPGP(data):
		s, err := readPGP(data)
		if err != nil {
			return nil, fmt.Errorf("read signature: %w", err)
		}
		text := enarmor(s.packet())
		_, err = ParseSignature(text)
		return text, err
	}
	return nil, errors.New("read signature: it is neither a signature of minisign nor a detached one of OpenPGP")
}

// canonicalMinisign puts minisign's own untrusted comment over the other three lines.
func canonicalMinisign(data []byte) ([]byte, error) {
	text := bytes.TrimRight(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")), "\n")
	_, rest, _ := bytes.Cut(text, []byte("\n"))
	canonical := append(append([]byte(signatureHead), rest...), '\n')
	if _, err := ParseSignature(canonical); err != nil {
		return nil, err
	}
	return canonical, nil
}

// readPGP reads a detached OpenPGP signature in whatever form.
func readPGP(data []byte) (*pgpSignature, error) {
	if data[0]&0x80 == 0 {
		kind, body, err := dearmor(data)
		switch {
		case kind == "SIGNED MESSAGE":
			return nil, errors.New("a text with its signature in it; sign with --detach-sign, not --clearsign")
		case kind == "MESSAGE":
			return nil, errors.New("a whole message; sign with --detach-sign")
		case err != nil:
			return nil, err
		case kind != armorSig:
			return nil, fmt.Errorf("a PGP %.40q, not a signature", kind)
		}
		data = body
	}
	return parsePGPSignature(data)
}

// parsePGP reads an OpenPGP signature in its canonical form. Everything that isn't signed has one form: it is made
// again from the rest and compared.
func parsePGP(data []byte) (*Signature, error) {
	if len(data) > SlotSize {
		return nil, fmt.Errorf("parse signature: %d bytes, the limit is %d", len(data), SlotSize)
	}
	s, err := readPGP(data)
	if err != nil {
		return nil, fmt.Errorf("parse signature: %w", err)
	}
	text := enarmor(s.packet())
	for i := range max(len(data), len(text)) {
		if i >= len(data) || i >= len(text) || data[i] != text[i] {
			return nil, fmt.Errorf("parse signature: byte %d: not in canonical form", i)
		}
	}
	return &Signature{text: text, keyID: s.keyID(), pgp: s}, nil
}
