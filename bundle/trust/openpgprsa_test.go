package trust

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"slices"
	"strings"
	"testing"
)

// rsaTestKey is an OpenPGP key of 2,048 bits, made without gpg at 0.
func rsaTestKey(t testing.TB) *SecretKey {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	e := big.NewInt(int64(private.E)).Bytes()
	public, err := fromPGPBody(appendNumber(appendNumber([]byte{4, 0, 0, 0, 0, algoRSA}, private.N.Bytes()), e))
	must(t, err)
	return &SecretKey{public: public, pgp: private}
}

// Everything of an RSA signature may be right but its number: the key, the digest's first two bytes, the form. These
// are forged without the secret key, or with another one.
func TestRSANumbers(t *testing.T) {
	key, other := rsaTestKey(t), rsaTestKey(t)
	modulus := key.pgp.(*rsa.PrivateKey).N
	text, err := Sign(key, testSeal, "", testTime)
	must(t, err)
	good, err := ParseSignature(text)
	must(t, err)
	must(t, Verify(key.public, testSeal, good))
	number := func(k *SecretKey, hash byte, digest []byte) []byte {
		n, err := k.pgp.Sign(nil, digest, cryptoHash(hash))
		must(t, err)
		return bytes.TrimLeft(n, "\x00")
	}
	digest := good.pgp.digest(prehash(testSeal))
	inverted := slices.Clone(digest)
	inverted[len(inverted)-1] ^= 1 // its first two bytes are what the signature says
	s := new(big.Int).SetBytes(good.pgp.numbers[0])
	for what, test := range map[string]struct {
		says   string
		number []byte
	}{
		"as it is":                       {"", number(key, hashSHA512, digest)},
		"another key's":                  {"verification error", number(other, hashSHA512, digest)},
		"another digest's":               {"verification error", number(key, hashSHA512, inverted)},
		"another hash's":                 {"verification error", number(key, hashSHA256, digest[:32])},
		"0":                              {"verification error", nil},
		"1":                              {"verification error", []byte{1}},
		"the digest":                     {"verification error", digest},
		"a bit changed":                  {"verification error", new(big.Int).SetBit(s, 1000, s.Bit(1000)^1).Bytes()},
		"the first byte lost":            {"verification error", good.pgp.numbers[0][1:]},
		"negated":                        {"verification error", new(big.Int).Sub(modulus, s).Bytes()},
		"the modulus":                    {"verification error", modulus.Bytes()},
		"of the same residue, too large": {"larger than the key", new(big.Int).Add(s, new(big.Int).Lsh(modulus, 8)).Bytes()},
	} {
		forged := *good.pgp
		forged.numbers = [][]byte{bytes.TrimLeft(test.number, "\x00")}
		sig, err := ParseSignature(enarmor(forged.packet()))
		must(t, err)
		err = Verify(key.public, testSeal, sig)
		if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("the number %s: %v, want %q", what, err, test.says)
		}
	}
}
