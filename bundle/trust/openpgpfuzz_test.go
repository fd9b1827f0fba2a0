package trust

import (
	"bytes"
	"math"
	"testing"
	"time"
)

// Canonical gives what ParseSignature takes, and the same again; whatever a slot takes is canonical.
func FuzzCanonical(f *testing.F) {
	key := pgpTestKey(f, 1)
	plain := signParts(key, func(*pgpParts) {})
	f.Add(plain)
	f.Add(enarmor(plain))
	f.Add(bytes.ReplaceAll(enarmor(plain), []byte("\n"), []byte("\r\n")))
	f.Add(signParts(key, func(p *pgpParts) {
		p.header = func(b []byte) []byte { return append([]byte{0xc2, byte(len(b))}, b...) }
	}))
	f.Add(signParts(key, func(p *pgpParts) { p.hashed = append(p.hashed, 11, 20, 0x80, 0, 0, 0, 0, 1, 0, 1, 'a', 'b') }))
	sig, err := Sign(testKey(f, 1), testSeal, "x", testTime)
	must(f, err)
	f.Add(sig)
	m := prehash(testSeal)
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := ParseSignature(data); err == nil && !bytes.Equal(s.Bytes(), data) {
			t.Fatalf("taken as canonical, and written as %q", s.Bytes())
		}
		text, err := Canonical(data)
		if err != nil {
			return
		}
		s, err := ParseSignature(text)
		if err != nil {
			t.Fatalf("its own canonical form is refused: %v\n%s", err, text)
		}
		again, err := Canonical(text)
		if err != nil || !bytes.Equal(again, text) {
			t.Fatalf("not the same twice: %v\n%s\n%s", err, text, again)
		}
		slot, err := EncodeSlot(text)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseSlot(slot[:]); err != nil || !bytes.Equal(back.Bytes(), text) {
			t.Fatalf("lost in a slot: %v", err)
		}
		if s.pgp != nil && verify(key.public, m, s) == nil && !bytes.Equal(text, enarmor(plain)) && bytes.Equal(s.pgp.signed, mustParsePGP(t, plain).signed) {
			t.Fatalf("another good form of one signature:\n%s", text)
		}
	})
}

func mustParsePGP(t testing.TB, packet []byte) *pgpSignature {
	t.Helper()
	s, err := parsePGPSignature(packet)
	must(t, err)
	return s
}

// FuzzParseCertificate takes certificates and secret keys, with some of gpg as seeds in testdata; what is taken has keys that are read back.
func FuzzParseCertificate(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<14 {
			return
		}
		if k, err := ParseSecretKey(data); err == nil && k.pgp != nil {
			if _, err := Sign(k, testSeal, "", time.Unix(math.MaxUint32, 0)); err != nil && k.public.point != [32]byte{} {
				t.Fatalf("a secret key that can't sign: %v", err)
			}
		}
		c, err := ParseCertificate(data, testTime)
		if err != nil {
			return
		}
		if len(c.Keys) == 0 {
			t.Fatal("taken without a key")
		}
		for _, k := range c.Keys {
			if again, err := ParsePublicKey(k.String()); err != nil || again != k {
				t.Fatalf("%s is read back as %s, %v", k, again, err)
			}
		}
	})
}
