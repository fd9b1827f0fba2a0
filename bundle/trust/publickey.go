package trust

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"aead.dev/minisign"
	"golang.org/x/mod/sumdb/note"
)

const (
	publicRawBytes  = 2 + 8 + ed25519.PublicKeySize
	publicTextBytes = publicRawBytes / 3 * 4
	// maxKeyFileBytes leaves room for stock minisign's longest comment, 1,024 bytes.
	maxKeyFileBytes = 4096

	untrustedPrefix = "untrusted comment: "

	minisignSuffix = ".minisig"
	openpgpSuffix  = ".asc"
)

var errSmallOrder = errors.New("not an Ed25519 key: its order is small or its encoding is not canonical, so anybody can sign for it")

// A KeyID names a key in upper-case hexadecimal digits. Those of minisign have 16, as stock minisign prints them:
// a hint which key made a signature, which proves nothing. Those of OpenPGP have 40, the key's whole fingerprint.
type KeyID string

const (
	minisignIDDigits = 16
	openpgpIDDigits  = 40
)

func (id KeyID) String() string { return string(id) }

// SignatureSuffix returns what names of files with a signature of that key end in, ".minisig" or ".asc".
func (id KeyID) SignatureSuffix() string {
	if len(id) == openpgpIDDigits {
		return openpgpSuffix
	}
	return minisignSuffix
}

// minisignID takes the eight bytes of a key id as minisign's files have them.
func minisignID(raw []byte) KeyID {
	return KeyID(fmt.Sprintf("%0*X", minisignIDDigits, binary.LittleEndian.Uint64(raw)))
}

// appendMinisignID is the inverse of minisignID.
func appendMinisignID(raw []byte, id KeyID) []byte {
	n, err := strconv.ParseUint(string(id), 16, 64)
	if err != nil && id != "" {
		panic("trust: not a minisign key id: " + id)
	}
	return binary.LittleEndian.AppendUint64(raw, n)
}

// The types of keys (docs/format.md, section 11).
const (
	TypeMinisign = "minisign"
	TypeOpenPGP  = "openpgp"
)

// A PublicKey is a minisign public key or an OpenPGP one. Keys are equal when their id and all else of them are. The
// zero value is no key and verifies nothing.
type PublicKey struct {
	id    KeyID
	point [ed25519.PublicKeySize]byte // zero for RSA
	body  string                      // of an OpenPGP key's packet; empty for minisign
}

// ParsePublicKey reads a key in its bare form: the 56 characters of base64 that `minisign -P` takes, or the body of
// an OpenPGP public-key packet in base64, which always has more.
func ParsePublicKey(text string) (PublicKey, error) {
	if len(text) > publicTextBytes {
		p, err := parsePGPText(text)
		if err != nil {
			return PublicKey{}, fmt.Errorf("parse public key: %w", err)
		}
		return p, nil
	}
	if len(text) != publicTextBytes {
		return PublicKey{}, fmt.Errorf("parse public key: %d characters, a minisign key has %d", len(text), publicTextBytes)
	}
	raw, err := decodeBase64(text, publicRawBytes)
	if err != nil {
		return PublicKey{}, fmt.Errorf("parse public key: %w", err)
	}
	if string(raw[:2]) != "Ed" {
		return PublicKey{}, fmt.Errorf("parse public key: algorithm %q, not minisign's \"Ed\"", raw[:2])
	}
	p := PublicKey{id: minisignID(raw[2:])}
	copy(p.point[:], raw[10:])
	if isSmallOrder(p.point[:]) {
		return PublicKey{}, fmt.Errorf("parse public key %s: %w", p.id, errSmallOrder)
	}
	return p, nil
}

// ParsePublicKeyFile reads a minisign .pub file: an untrusted comment and the key, a line each. A file that
// holds the bare key alone will do.
func ParsePublicKeyFile(data []byte) (PublicKey, error) {
	if len(data) > maxKeyFileBytes {
		return PublicKey{}, fmt.Errorf("parse public key file: %d bytes, the limit is %d", len(data), maxKeyFileBytes)
	}
	text := string(data)
	if strings.HasPrefix(text, untrustedPrefix) {
		_, text, _ = strings.Cut(text, "\n")
	}
	p, err := ParsePublicKey(strings.TrimSuffix(text, "\n"))
	if err != nil {
		return PublicKey{}, fmt.Errorf("parse public key file: %w", err)
	}
	return p, nil
}

// KeyID returns the key's id.
func (p PublicKey) KeyID() KeyID { return p.id }

// Type returns [TypeMinisign] or [TypeOpenPGP].
func (p PublicKey) Type() string {
	if p.body != "" {
		return TypeOpenPGP
	}
	return TypeMinisign
}

// Algorithm describes the key for people: "Ed25519" or "RSA, 4096 bits".
func (p PublicKey) Algorithm() string {
	if k, err := p.openpgp(); err == nil {
		return k.algorithm()
	}
	return "Ed25519"
}

// material is the part of a key that its secret belongs to: the same for one key in several guises.
func (p PublicKey) material() string {
	if k, err := p.openpgp(); err == nil && k.algo == algoRSA {
		return "RSA " + k.modulus.Text(16)
	}
	return string(p.point[:])
}

// String returns the bare form, in base64.
func (p PublicKey) String() string {
	if p.body != "" {
		return base64.StdEncoding.EncodeToString([]byte(p.body))
	}
	raw := make([]byte, 0, publicRawBytes)
	raw = append(raw, "Ed"...)
	raw = appendMinisignID(raw, p.id)
	raw = append(raw, p.point[:]...)
	return base64.StdEncoding.EncodeToString(raw)
}

// File returns the two lines of a minisign .pub file; one of an OpenPGP key serves nobody but Sallyport.
func (p PublicKey) File() []byte {
	return fmt.Appendf(nil, "%sminisign public key %s\n%s\n", untrustedPrefix, p.id, p)
}

// MarshalText returns the bare form.
func (p PublicKey) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the bare form.
func (p *PublicKey) UnmarshalText(text []byte) error {
	k, err := ParsePublicKey(string(text))
	if err != nil {
		return err
	}
	*p = k
	return nil
}

// NoteVerifier returns the key as the verifier of signed notes (C2SP signed-note, algorithm 1, Ed25519) with
// origin as its name.
func (p PublicKey) NoteVerifier(origin string) (note.Verifier, error) {
	if p.body != "" {
		return nil, fmt.Errorf("make note verifier %q: key %s is not one of minisign", origin, p.id)
	}
	if isSmallOrder(p.point[:]) {
		return nil, fmt.Errorf("make note verifier %q: %w", origin, errSmallOrder)
	}
	text, err := note.NewEd25519VerifierKey(origin, p.point[:])
	if err != nil {
		return nil, fmt.Errorf("make note verifier %q: %w", origin, err)
	}
	v, err := note.NewVerifier(text)
	if err != nil {
		return nil, fmt.Errorf("make note verifier %q: %w", origin, err)
	}
	return v, nil
}

func (p PublicKey) minisign() (minisign.PublicKey, error) {
	var k minisign.PublicKey
	err := k.UnmarshalText([]byte(p.String()))
	return k, err
}

// decodeBase64 reads exactly n bytes, any number when n is negative, of standard, padded base64 in its one canonical
// spelling.
func decodeBase64(text string, n int) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	if n >= 0 && len(raw) != n {
		return nil, fmt.Errorf("%d bytes in base64, expected %d", len(raw), n)
	}
	// The decoder skips line breaks and the bits behind the last byte.
	if base64.StdEncoding.EncodeToString(raw) != text {
		return nil, errors.New("base64 is not in canonical form")
	}
	return raw, nil
}

// smallOrder has the y coordinates (RFC 8032, section 5.1.2) of the eight points whose order divides 8. For a
// key among them one signature serves for many messages without any secret; crypto/ed25519 takes such keys,
// libsodium and with it stock minisign doesn't.
var smallOrder = [][]byte{
	unhex("0000000000000000000000000000000000000000000000000000000000000000"),
	unhex("0100000000000000000000000000000000000000000000000000000000000000"),
	unhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
	unhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
	unhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// isSmallOrder tells whether an encoded point is of small order, or has a y of 2^255−19 or more.
func isSmallOrder(point []byte) bool {
	y := bytes.Clone(point)
	y[31] &= 0x7f
	for _, s := range smallOrder {
		if bytes.Equal(y, s) {
			return true
		}
	}
	return y[31] == 0x7f && y[0] >= 0xed && bytes.Count(y[1:31], []byte{0xff}) == 30
}
