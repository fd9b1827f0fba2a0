package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
)

const (
	minRSABits = 2048
	maxRSABits = 8192

	// maxKeyBody is the length of an RSA key of 8,192 bits with the largest exponent, in bytes.
	maxKeyBody = 6 + 2 + maxRSABits/8 + 2 + 4

	keyHeadBytes = 6 // version, time, algorithm
	pointPrefix  = 0x40
)

// ed25519Curve is the curve's object identifier with its length (RFC 9580, section 9.2, Ed25519Legacy).
var ed25519Curve = []byte("\x09\x2b\x06\x01\x04\x01\xda\x47\x0f\x01")

// pgpKey is what the body of a version 4 public-key packet (RFC 9580, section 5.5.2.2) says.
type pgpKey struct {
	created  uint32
	algo     byte
	point    ed25519.PublicKey // of EdDSA
	modulus  *big.Int          // of RSA
	exponent int
}

// parsePGPKey reads the body of a key's packet, in the only form that it may have: the fingerprint is of these bytes.
func parsePGPKey(body []byte) (*pgpKey, error) {
	switch {
	case len(body) > maxKeyBody:
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(body), maxKeyBody)
	case len(body) > 0 && body[0] != pgpVersion:
		return nil, fmt.Errorf("a key of version %d, expected %d", body[0], pgpVersion)
	case len(body) < keyHeadBytes:
		return nil, errors.New("the key is cut off")
	}
	k := &pgpKey{created: binary.BigEndian.Uint32(body[1:]), algo: body[5]}
	rest := body[keyHeadBytes:]
	switch k.algo {
	case algoRSA:
		n, rest, err := readNumber(rest)
		if err != nil {
			return nil, err
		}
		e, rest, err := readNumber(rest)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(appendNumber(appendNumber(bytes.Clone(body[:keyHeadBytes]), n), e), body) || len(rest) > 0 {
			return nil, errors.New("its numbers are not in canonical form, or there is data behind them")
		}
		return k, k.setRSA(n, e)
	case algoEdDSA:
		rest, ok := bytes.CutPrefix(rest, ed25519Curve)
		if !ok {
			return nil, errors.New("a key of EdDSA on another curve; Ed25519 is taken")
		}
		point, ok := bytes.CutPrefix(rest, []byte{263 >> 8, 263 & 0xff, pointPrefix}) // 32 bytes behind the prefix's seven bits
		if !ok || len(point) != ed25519.PublicKeySize {
			return nil, errors.New("a point that isn't one of Ed25519 in its native form")
		}
		if isSmallOrder(point) {
			return nil, errSmallOrder
		}
		k.point = bytes.Clone(point)
		return k, nil
	}
	return nil, fmt.Errorf("a key for %s; RSA and EdDSA with Ed25519 are taken", algoName(k.algo))
}

func (k *pgpKey) setRSA(n, e []byte) error {
	k.modulus = new(big.Int).SetBytes(n)
	if bits := k.modulus.BitLen(); bits < minRSABits || bits > maxRSABits {
		return fmt.Errorf("an RSA key of %d bits, expected %d to %d", bits, minRSABits, maxRSABits)
	}
	if k.modulus.Bit(0) == 0 {
		return errors.New("an RSA key whose modulus is even")
	}
	exponent := bigEndian(e[:min(len(e), 8)])
	if len(e) > 4 || exponent > math.MaxInt32 || exponent < 3 || exponent&1 == 0 {
		return errors.New("an RSA key whose exponent is not an odd number of 3 to 2^31-1")
	}
	k.exponent = int(exponent)
	return nil
}

// algorithm describes the key for people.
func (k *pgpKey) algorithm() string {
	if k.algo == algoRSA {
		return fmt.Sprintf("RSA, %d bits", k.modulus.BitLen())
	}
	return "Ed25519"
}

// algoName names a public-key algorithm (RFC 9580, section 9.1).
func algoName(algo byte) string {
	name, ok := map[byte]string{
		algoRSA: "RSA", 2: "RSA only for encryption", 3: "RSA only for signing, in its old form", 16: "Elgamal", 17: "DSA", 18: "ECDH",
		19: "ECDSA", algoEdDSA: "EdDSA", 25: "X25519", 26: "X448", 27: "Ed25519 in its new form", 28: "Ed448",
	}[algo]
	if !ok {
		name = "an unknown algorithm"
	}
	return fmt.Sprintf("%s (%d)", name, algo)
}

// fromPGPBody takes the body of a key's packet.
func fromPGPBody(body []byte) (PublicKey, error) {
	k, err := parsePGPKey(body)
	if err != nil {
		return PublicKey{}, err
	}
	// The fingerprint (RFC 9580, section 5.5.4.2) only names the key among those that the trust root lists whole.
	sum := sha1.Sum(append([]byte{0x99, byte(len(body) >> 8), byte(len(body))}, body...))
	p := PublicKey{id: fingerprintID(sum[:]), body: string(body)}
	copy(p.point[:], k.point)
	return p, nil
}

func parsePGPText(text string) (PublicKey, error) {
	if len(text) > base64.StdEncoding.EncodedLen(maxKeyBody) {
		return PublicKey{}, fmt.Errorf("%d characters, which is more than any OpenPGP key has", len(text))
	}
	body, err := decodeBase64(text, -1)
	if err != nil {
		return PublicKey{}, err
	}
	return fromPGPBody(body)
}

// openpgp returns what the key's packet says.
func (p PublicKey) openpgp() (*pgpKey, error) {
	if p.body == "" {
		return nil, fmt.Errorf("%s is no OpenPGP key", p.id)
	}
	return parsePGPKey([]byte(p.body))
}
