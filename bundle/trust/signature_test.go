package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"aead.dev/minisign"
)

// lines is a signature whose four lines a test may edit.
func lines(sig []byte) []string { return strings.Split(strings.TrimSuffix(string(sig), "\n"), "\n") }

func join(lines ...string) []byte { return []byte(strings.Join(lines, "\n") + "\n") }

func edit(sig []byte, i int, f func(string) string) []byte {
	l := lines(sig)
	l[i] = f(l[i])
	return join(l...)
}

func TestSignatureForm(t *testing.T) {
	key := testKey(t, 1)
	good, err := Sign(key, testSeal, "sallyport-seal SEAL.json", testTime)
	must(t, err)
	sig, err := ParseSignature(good)
	must(t, err)
	if string(sig.Bytes()) != string(good) || sig.KeyID() != key.Public().KeyID() || sig.Comment() != "sallyport-seal SEAL.json" {
		t.Errorf("parsed as %s, %q, %q", sig.KeyID(), sig.Comment(), sig.Bytes())
	}
	if l := lines(good); len(l) != 4 || l[0] != "untrusted comment: signature from minisign secret key" ||
		!strings.HasPrefix(l[1], "RU") || l[2] != "trusted comment: sallyport-seal SEAL.json" {
		t.Errorf("signature is\n%s", good)
	}
	again, err := Sign(key, testSeal, "sallyport-seal SEAL.json", testTime)
	if err != nil || string(again) != string(good) {
		t.Errorf("the same signature again has other bytes: %v", err)
	}
	suffix := func(s string) func(string) string { return func(l string) string { return l + s } }
	legacy := minisign.SignWithComments(key.minisign, testSeal, "x", signatureComment)
	for name, bad := range map[string][]byte{
		"T15 legacy Ed":         legacy,
		"empty":                 nil,
		"no end":                good[:len(good)-1],
		"one more end":          append(bytes.Clone(good), '\n'),
		"one more line":         append(bytes.Clone(good), "x\n"...),
		"two of them":           append(bytes.Clone(good), good...),
		"three lines":           join(lines(good)[:3]...),
		"carriage returns":      bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")),
		"leading end of line":   append([]byte("\n"), good...),
		"other comment":         edit(good, 0, suffix(" ")),
		"other case":            edit(good, 0, strings.ToUpper),
		"no untrusted comment":  join(lines(good)[1:]...),
		"space behind base64":   edit(good, 1, suffix(" ")),
		"return behind base64":  edit(good, 1, suffix("\r")),
		"no padding":            edit(good, 1, func(l string) string { return strings.TrimRight(l, "=") }),
		"tail bits":             edit(good, 1, tailBit),
		"tail bits 2":           edit(good, 3, tailBit),
		"short base64":          edit(good, 1, func(l string) string { return l[4:] }),
		"long base64":           edit(good, 1, func(l string) string { return "RURE" + l }),
		"short comment's":       edit(good, 3, func(l string) string { return l[4:] }),
		"trusted prefix":        edit(good, 2, func(l string) string { return strings.Replace(l, ": ", ":", 1) }),
		"return in comment":     edit(good, 2, suffix("\r")),
		"escape in comment":     edit(good, 2, suffix("\x1b[2J")),
		"NUL in comment":        edit(good, 2, suffix("\x00")),
		"DEL in comment":        edit(good, 2, suffix("\x7f")),
		"UTF-8 in comment":      edit(good, 2, suffix("ä")),
		"right-to-left comment": edit(good, 2, suffix("\u202e")),
		"long comment":          edit(good, 2, func(string) string { return trustedPrefix + strings.Repeat("x", MaxComment+1) }),
		"huge":                  bytes.Repeat([]byte("x"), 1<<20),
	} {
		if _, err := ParseSignature(bad); err == nil {
			t.Errorf("%s: was taken: %.300q", name, bad)
		}
	}
	for _, comment := range []string{"\n", "a\nb", "\r", "\x00", "\x7f", "ä", strings.Repeat("x", MaxComment+1)} {
		if _, err := Sign(key, testSeal, comment, testTime); err == nil {
			t.Errorf("comment %.20q was signed", comment)
		}
	}
}

// tailBit sets a bit of base64 that stands for no byte.
func tailBit(l string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	n := len(strings.TrimRight(l, "=")) - 1
	return l[:n] + string(alphabet[strings.IndexByte(alphabet, l[n])|1]) + l[n+1:]
}

// T15: everything in a signature, and what it was made over, is bound to it.
func TestT15Verify(t *testing.T) {
	key, other := testKey(t, 1), testKey(t, 2)
	good, err := Sign(key, testSeal, "sallyport-seal SEAL.json", testTime)
	must(t, err)
	foreign, err := Sign(other, testSeal, "sallyport-seal SEAL.json", testTime)
	must(t, err)
	flip := func(i, at int) []byte {
		return edit(good, i, func(l string) string {
			raw, err := base64.StdEncoding.DecodeString(l)
			must(t, err)
			raw[at] ^= 1
			return base64.StdEncoding.EncodeToString(raw)
		})
	}
	for _, c := range []struct {
		name    string
		pub     PublicKey
		message []byte
		sig     []byte
		ok      bool
	}{
		{"good", key.Public(), testSeal, good, true},
		{"trusted comment altered", key.Public(), testSeal, edit(good, 2, func(l string) string { return l + "x" }), false},
		{"same key id, other key", withID(other.Public(), key.Public().KeyID()), testSeal, good, false},
		{"same key, other id", withID(key.Public(), "0000000000000001"), testSeal, good, false},
		{"other key", other.Public(), testSeal, good, false},
		{"another file", key.Public(), append(bytes.Clone(testSeal), '\n'), good, false},
		{"unpadded seal", key.Public(), bytes.TrimRight(testSeal, "\n"), good, false},
		{"id altered", key.Public(), testSeal, flip(1, 5), false},
		{"signature altered", key.Public(), testSeal, flip(1, 20), false},
		{"comment's signature altered", key.Public(), testSeal, flip(3, 20), false},
		{"comment's signature of another", key.Public(), testSeal, join(lines(good)[0], lines(good)[1], lines(good)[2], lines(foreign)[3]), false},
		{"no key", PublicKey{}, testSeal, good, false},
	} {
		sig, err := ParseSignature(c.sig)
		must(t, err)
		err = Verify(c.pub, c.message, sig)
		if c.ok != (err == nil) || !c.ok && !errors.Is(err, ErrBadSignature) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// order is the order of Ed25519's base point (RFC 8032, section 5.1).
var order, _ = new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)

// signWithIdentity signs as ed25519.Sign does with a nonce of zero, so that R is the identity, a point of small
// order. With no seed it signs for the identity as a key, which needs no secret.
func signWithIdentity(seed, message []byte) []byte {
	identity := append([]byte{1}, make([]byte, 31)...)
	if seed == nil {
		return append(identity, make([]byte, 32)...)
	}
	pub := ed25519.NewKeyFromSeed(seed)[32:]
	secret := sha512.Sum512(seed)
	secret[0] &= 248
	secret[31] = secret[31]&63 | 64
	challenge := sha512.Sum512(append(append(bytes.Clone(identity), pub...), message...))
	s := new(big.Int).Mul(littleEndian(challenge[:]), littleEndian(secret[:32]))
	out := s.Mod(s, order).FillBytes(make([]byte, 32))
	for i := range 16 {
		out[i], out[31-i] = out[31-i], out[i]
	}
	return append(identity, out...)
}

func littleEndian(b []byte) *big.Int {
	b = bytes.Clone(b)
	for i := range len(b) / 2 {
		b[i], b[len(b)-1-i] = b[len(b)-1-i], b[i]
	}
	return new(big.Int).SetBytes(b)
}

// A key of small order lets anybody sign: crypto/ed25519 takes such forgeries, stock minisign doesn't, nor do we.
func TestSmallOrderKeys(t *testing.T) {
	forgery := signWithIdentity(nil, nil)
	encodings := [][]byte{ // the two y that are not below 2^255-19 and stand for a point
		unhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
		unhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
	}
	for _, point := range append(encodings, smallOrder...) {
		for _, sign := range []byte{0, 0x80} {
			p := bytes.Clone(point)
			p[31] |= sign
			taken := false
			for i := 0; i < 200 && !taken; i++ {
				taken = ed25519.Verify(p, []byte{byte(i)}, forgery)
			}
			if !taken {
				t.Errorf("crypto/ed25519 takes no forgery for %x, so it is no key of small order", p)
			}
			text := base64.StdEncoding.EncodeToString(append(append([]byte("Ed"), le64(1)...), p...))
			if _, err := ParsePublicKey(text); !errors.Is(err, errSmallOrder) {
				t.Errorf("key %x: %v", p, err)
			}
		}
	}
	dir := t.TempDir()
	write(t, dir, "m", testSeal)
	text := base64.StdEncoding.EncodeToString(append(append([]byte("Ed"), le64(1)...), forgery[:32]...))
	write(t, dir, "m.minisig", join(untrustedPrefix+signatureComment,
		base64.StdEncoding.EncodeToString(append(append([]byte("ED"), le64(1)...), forgery...)), trustedPrefix+"x",
		base64.StdEncoding.EncodeToString(forgery)))
	if !minisign.Verify(mustMinisignKey(t, text), testSeal, read(t, dir, "m.minisig")) {
		t.Error("the forgery doesn't even pass crypto/ed25519: the test tests nothing")
	}
	if out, err := stock(t, dir, "", "-V", "-P", text, "-m", "m"); err == nil {
		t.Errorf("stock minisign takes the forgery: %s", out)
	}
}

// The zero PublicKey encodes a point of order 4, for which anybody can sign.
func TestZeroKeyVerifiesNothing(t *testing.T) {
	var none PublicKey
	identity := signWithIdentity(nil, nil)
	for i := range 400 {
		message := []byte{byte(i % 20)}
		forgery := join(untrustedPrefix+signatureComment, base64.StdEncoding.EncodeToString(append(append([]byte("ED"), le64(0)...), identity...)),
			trustedPrefix+strings.Repeat("x", i/20), base64.StdEncoding.EncodeToString(identity))
		if !minisign.Verify(mustMinisignKey(t, none.String()), message, forgery) {
			continue
		}
		sig, err := ParseSignature(forgery)
		must(t, err)
		sig.nonces, sig.keyID = [2][32]byte{{2}, {2}}, none.id // the key alone must do
		if err := Verify(none, message, sig); !errors.Is(err, ErrBadSignature) {
			t.Errorf("no key verifies a forgery: %v", err)
		}
		return
	}
	t.Error("no forgery passes crypto/ed25519: the test tests nothing")
}

func mustMinisignKey(t *testing.T, text string) minisign.PublicKey {
	t.Helper()
	var k minisign.PublicKey
	must(t, k.UnmarshalText([]byte(text)))
	return k
}

// A signer can make signatures that crypto/ed25519 takes and libsodium doesn't; a disc must not be good here and
// bad by hand.
func TestSmallOrderNonce(t *testing.T) {
	key := testKey(t, 1)
	honest, err := Sign(key, testSeal, "x", testTime)
	must(t, err)
	digest := blakeOf(testSeal)
	first := signWithIdentity(key.private.Seed(), digest)
	odd := join(lines(honest)[0], base64.StdEncoding.EncodeToString(append(append([]byte("ED"), appendMinisignID(nil, key.Public().id)...), first...)),
		trustedPrefix+"x", base64.StdEncoding.EncodeToString(ed25519.Sign(key.private, append(bytes.Clone(first), 'x'))))
	raw, err := base64.StdEncoding.DecodeString(lines(honest)[1])
	must(t, err)
	oddComment := edit(honest, 3, func(string) string {
		return base64.StdEncoding.EncodeToString(signWithIdentity(key.private.Seed(), append(bytes.Clone(raw[10:]), 'x')))
	})
	dir := t.TempDir()
	write(t, dir, "m", testSeal)
	for name, text := range map[string][]byte{"message": odd, "comment": oddComment} {
		if !minisign.Verify(mustMinisignKey(t, key.Public().String()), testSeal, text) {
			t.Errorf("%s: doesn't even pass crypto/ed25519: the test tests nothing", name)
		}
		write(t, dir, "m.minisig", text)
		if out, err := stock(t, dir, "", "-V", "-P", key.Public().String(), "-m", "m"); err == nil {
			t.Errorf("%s: stock minisign takes it: %s", name, out)
		}
		sig, err := ParseSignature(text)
		must(t, err)
		if err := Verify(key.Public(), testSeal, sig); !errors.Is(err, ErrBadSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSlot(t *testing.T) {
	good, err := Sign(testKey(t, 1), testSeal, strings.Repeat("x", MaxComment), testTime)
	must(t, err)
	slot, err := EncodeSlot(good)
	must(t, err)
	if sig, err := ParseSlot(slot[:]); err != nil || string(sig.Bytes()) != string(good) {
		t.Errorf("%v", err)
	}
	empty, err := EncodeSlot(nil)
	must(t, err)
	if sig, err := ParseSlot(empty[:]); err != nil || sig != nil {
		t.Errorf("empty slot: %v, %v", sig, err)
	}
	if string(empty[:]) != strings.Repeat("\n", SlotSize) {
		t.Errorf("an empty slot is %q", empty)
	}
	if _, err := EncodeSlot(append(good, '\n')); err == nil {
		t.Error("what is no signature was put into a slot")
	}
	change := func(at int, c byte) []byte {
		s := bytes.Clone(slot[:])
		s[at] = c
		return s
	}
	for name, bad := range map[string][]byte{
		"none": nil, "short": slot[:SlotSize-1], "long": append(bytes.Clone(slot[:]), '\n'), "zero": make([]byte, SlotSize),
		"spaces": bytes.Repeat([]byte(" "), SlotSize), "zero padding": append(bytes.Clone(good), make([]byte, SlotSize-len(good))...),
		"last byte": change(SlotSize-1, ' '), "in the padding": change(len(good)+100, 'x'), "just behind it": change(len(good), 'x'),
		"shifted": append([]byte("\n"), slot[:SlotSize-1]...), "all x": bytes.Repeat([]byte("x"), SlotSize),
		"two signatures": append(append(bytes.Clone(good), good...), bytes.Repeat([]byte("\n"), SlotSize-2*len(good))...),
		"OpenPGP":        append([]byte("-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----\n"), bytes.Repeat([]byte("\n"), SlotSize-59)...),
	} {
		if sig, err := ParseSlot(bad); err == nil {
			t.Errorf("%s: was taken as %v", name, sig)
		}
	}
}

func FuzzParseSignature(f *testing.F) {
	for _, comment := range []string{"", "sallyport-seal SEAL.json", "\t"} {
		sig, err := Sign(testKey(f, 1), testSeal, comment, testTime)
		must(f, err)
		f.Add(sig)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		sig, err := ParseSignature(data)
		if err != nil {
			return
		}
		if sig.pgp != nil {
			return // FuzzCanonical
		}
		var peer minisign.Signature
		must(t, peer.UnmarshalText(data))
		again, err := peer.MarshalText()
		if err != nil || string(again) != string(data) {
			t.Fatalf("%q is not canonical, the same again is %q (%v)", data, again, err)
		}
		if fmt.Sprintf("%016X", peer.KeyID) != sig.KeyID().String() || peer.TrustedComment != sig.Comment() || peer.Algorithm != minisign.HashEdDSA {
			t.Fatalf("%q: %s %q, the peer reads %016X %q", data, sig.KeyID(), sig.Comment(), peer.KeyID, peer.TrustedComment)
		}
	})
}

func FuzzParseSlot(f *testing.F) {
	sig, err := Sign(testKey(f, 1), testSeal, "x", testTime)
	must(f, err)
	slot, err := EncodeSlot(sig)
	must(f, err)
	f.Add(slot[:])
	f.Add(bytes.Repeat([]byte("\n"), SlotSize))
	f.Fuzz(func(t *testing.T, data []byte) {
		sig, err := ParseSlot(data)
		if err != nil {
			return
		}
		var text []byte
		if sig != nil {
			text = sig.Bytes()
		}
		again, err := EncodeSlot(text)
		if err != nil || string(again[:]) != string(data) {
			t.Fatalf("%q is not canonical (%v)", data, err)
		}
	})
}
