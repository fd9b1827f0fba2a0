package trust

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"
)

const (
	// MaxComment is the longest trusted comment of a signature, in bytes.
	MaxComment = 512

	signatureRawBytes  = 2 + 8 + ed25519.SignatureSize
	signatureTextBytes = (signatureRawBytes + 2) / 3 * 4
	commentTextBytes   = (ed25519.SignatureSize + 2) / 3 * 4

	signatureComment = "signature from minisign secret key"
	signatureHead    = untrustedPrefix + signatureComment + "\n"
	trustedPrefix    = "trusted comment: "

	// maxSignature is the length of a signature with the longest comment; it fits into a slot.
	maxSignature = len(signatureHead) + signatureTextBytes + 1 + len(trustedPrefix) + MaxComment + 1 + commentTextBytes + 1
)

// ErrBadSignature is returned when a well-formed signature was not made by the key over the message.
var ErrBadSignature = errors.New("the signature does not verify")

// A Signature is a minisign or OpenPGP signature in its one canonical form (docs/format.md, section 10). It says
// nothing until it has been verified. [ParseSignature] and [ParseSlot] give it.
type Signature struct {
	text    []byte
	keyID   KeyID
	nonces  [2][32]byte // R (RFC 8032, section 5.1.6) of the message's signature and of the comment's
	comment string
	pgp     *pgpSignature // nil for minisign
}

// KeyID returns the id of the key that the signature claims to be from.
func (s *Signature) KeyID() KeyID { return s.keyID }

// Comment returns minisign's trusted comment, which is signed along with the message; OpenPGP has none.
func (s *Signature) Comment() string { return s.comment }

// Bytes returns the signature's lines.
func (s *Signature) Bytes() []byte { return bytes.Clone(s.text) }

// ParseSignature reads exactly the lines of docs/format.md, section 10, and nothing else: stock tools take other
// spellings too, which would leave bits of a signature free to change; see [Canonical] for these. Errors name the
// line, or the byte offset at which it begins.
func ParseSignature(data []byte) (*Signature, error) {
	if bytes.HasPrefix(data, signatureArmor) {
		return parsePGP(data)
	}
	if len(data) > maxSignature {
		return nil, fmt.Errorf("parse signature: %d bytes, the limit is %d", len(data), maxSignature)
	}
	var lines [4]string
	var at [4]int
	rest := data
	for i := range lines {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		if !ok {
			return nil, fmt.Errorf("parse signature: byte %d: line %d of 4 has no end", len(data)-len(rest), i+1)
		}
		at[i], lines[i], rest = len(data)-len(rest), string(line), after
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("parse signature: byte %d: data after line 4", len(data)-len(rest))
	}
	if lines[0]+"\n" != signatureHead {
		return nil, fmt.Errorf("parse signature: byte 0: line 1 is not %q", signatureHead)
	}
	raw, err := decodeBase64(lines[1], signatureRawBytes)
	if err != nil {
		return nil, fmt.Errorf("parse signature: byte %d: line 2: %w", at[1], err)
	}
	if string(raw[:2]) != "ED" {
		return nil, fmt.Errorf("parse signature: byte %d: algorithm %q is not \"ED\"; sign without -l", at[1], raw[:2])
	}
	comment, ok := bytes.CutPrefix([]byte(lines[2]), []byte(trustedPrefix))
	if !ok {
		return nil, fmt.Errorf("parse signature: byte %d: line 3 doesn't begin with %q", at[2], trustedPrefix)
	}
	if err := checkComment(string(comment)); err != nil {
		return nil, fmt.Errorf("parse signature: byte %d: %w", at[2], err)
	}
	raw2, err := decodeBase64(lines[3], ed25519.SignatureSize)
	if err != nil {
		return nil, fmt.Errorf("parse signature: byte %d: line 4: %w", at[3], err)
	}
	s := &Signature{text: bytes.Clone(data), keyID: minisignID(raw[2:]), comment: string(comment)}
	copy(s.nonces[0][:], raw[10:])
	copy(s.nonces[1][:], raw2)
	return s, nil
}

// Sign returns the signature of message in its canonical form. With a minisign key, comment is signed along with
// it: at most [MaxComment] bytes of printable ASCII and tabs. OpenPGP has no comment but the time of signing, at.
// The same key, message, comment and time always give the same bytes.
func Sign(key *SecretKey, message []byte, comment string, at time.Time) ([]byte, error) {
	if err := checkComment(comment); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if key.pgp != nil {
		sig, err := signPGP(key.pgp, key.public, prehash(message), at)
		if err != nil {
			return nil, fmt.Errorf("sign: with key %s: %w", key.public.id, err)
		}
		return sig, nil
	}
	return prehash(message).minisign().SignWithComments(key.minisign, comment, signatureComment), nil
}

// Verify returns nil when sig was made by the secret half of pub over message and its comment, else an error
// that is [ErrBadSignature].
func Verify(pub PublicKey, message []byte, sig *Signature) error {
	return verify(pub, prehash(message), sig)
}

func verify(pub PublicKey, m *message, sig *Signature) error {
	if sig.keyID != pub.id {
		return fmt.Errorf("%w: it is from key %s, not %s", ErrBadSignature, sig.keyID, pub.id)
	}
	if sig.pgp != nil {
		return verifyPGP(pub, m, sig)
	}
	k, err := pub.minisign()
	if err != nil {
		return err
	}
	if isSmallOrder(pub.point[:]) {
		return fmt.Errorf("%w: %w", ErrBadSignature, errSmallOrder)
	}
	// Stock minisign refuses an R of small order, crypto/ed25519 doesn't; a disc must be good for both or neither.
	if isSmallOrder(sig.nonces[0][:]) || isSmallOrder(sig.nonces[1][:]) || !m.minisign().Verify(k, sig.text) {
		return fmt.Errorf("%w with key %s: it was made over something else or by another key, or was altered", ErrBadSignature, pub.id)
	}
	return nil
}

func verifyPGP(pub PublicKey, m *message, sig *Signature) error {
	k, err := pub.openpgp()
	if err == nil {
		err = sig.pgp.verify(k, m)
	}
	if err != nil {
		return fmt.Errorf("%w with key %s: %w", ErrBadSignature, pub.id, err)
	}
	return nil
}

func checkComment(comment string) error {
	if len(comment) > MaxComment {
		return fmt.Errorf("trusted comment: %d bytes, the limit is %d", len(comment), MaxComment)
	}
	for i := range len(comment) {
		if c := comment[i]; c != '\t' && (c < 0x20 || c > 0x7e) {
			return fmt.Errorf("trusted comment: byte %d is %#02x, allowed are printable ASCII and tabs", i, c)
		}
	}
	return nil
}
