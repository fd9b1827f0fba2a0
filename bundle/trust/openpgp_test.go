package trust

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// certificate reads what gpg exports of a user.
func (g *gnupg) certificate(user string) *Certificate {
	g.t.Helper()
	c, err := ParseCertificate(g.must(nil, "--armor", "--export", user), time.Now())
	must(g.t, err)
	return c
}

func keyOf(t testing.TB, c *Certificate, id KeyID) PublicKey {
	t.Helper()
	for _, k := range c.Keys {
		if k.KeyID() == id {
			return k
		}
	}
	t.Fatalf("%s is not among the certificate's keys", id)
	return PublicKey{}
}

// What gpg signs is good here, and what it writes with --armor --detach-sign is canonical as it is.
func TestGnuPGSigns(t *testing.T) {
	g := newGnuPG(t)
	for _, user := range []string{"ed", "rsa", "pass"} {
		ids, c := g.fingerprints(user), g.certificate(user)
		for i, id := range ids {
			if user == "rsa" && i == 0 || user == "ed" && i == 1 {
				continue // certifies, encrypts
			}
			for _, digest := range []string{"SHA256", "SHA512"} {
				stock := g.must(testSeal, "-u", string(id)+"!", "--digest-algo", digest, "--armor", "--detach-sign")
				loose := map[string][]byte{
					"binary":             g.must(testSeal, "-u", string(id)+"!", "--digest-algo", digest, "--detach-sign"),
					"comment and spaces": g.must(testSeal, "-u", string(id)+"!", "--digest-algo", digest, "--armor", "--comment", "hello", "--emit-version", "--detach-sign"),
					"DOS":                bytes.ReplaceAll(stock, []byte("\n"), []byte("\r\n")),
					"notation":           g.must(testSeal, "-u", string(id)+"!", "--digest-algo", digest, "--set-notation", "a@example.org=b", "--sig-policy-url", "http://example.org/", "--detach-sign"),
				}
				sig, err := ParseSignature(stock)
				if err != nil {
					t.Errorf("%s, %s, %s: stock armor is not canonical: %v\n%s", user, id, digest, err, stock)
					continue
				}
				if sig.KeyID() != id {
					t.Errorf("%s: read as signed by %s", id, sig.KeyID())
				}
				if err := Verify(keyOf(t, c, id), testSeal, sig); err != nil {
					t.Errorf("%s, %s: %v", id, digest, err)
				}
				if err := Verify(keyOf(t, c, id), append([]byte("x"), testSeal...), sig); !errors.Is(err, ErrBadSignature) {
					t.Errorf("%s, %s: another message: %v", id, digest, err)
				}
				for what, data := range loose {
					got, err := Canonical(data)
					must(t, err)
					sig, err := ParseSignature(got)
					must(t, err)
					if err := Verify(keyOf(t, c, id), testSeal, sig); err != nil {
						t.Errorf("%s, %s, %s: %v", id, digest, what, err)
					}
					slot, err := EncodeSlot(got)
					must(t, err)
					if err := g.verify(user, testSeal, slot[:]); err != nil {
						t.Errorf("%s, %s, %s, made canonical: %v", id, digest, what, err)
					}
				}
			}
		}
	}
}

// What is signed here is good for gpg and gpgv, and canonical.
func TestSignsForGnuPG(t *testing.T) {
	g := newGnuPG(t)
	for user, signs := range map[string]int{"ed": 0, "rsa": 2, "pass": 0} {
		secret := g.must(nil, "--armor", "--export-secret-keys", user)
		key, err := ParseSecretKey(secret)
		if user == "pass" {
			if !errors.Is(err, ErrNeedsPassword) {
				t.Errorf("a key with a passphrase: %v", err)
			}
			if _, err := DecryptSecretKey(secret, "wrong"); !errors.Is(err, ErrWrongPassword) {
				t.Errorf("a wrong passphrase: %v", err)
			}
			key, err = DecryptSecretKey(secret, passphrase)
		}
		must(t, err)
		signsAs(t, g, user, key, g.fingerprints(user)[signs])
	}
	rsa := string(g.fingerprints("rsa")[1])
	for _, armor := range []string{"--armor", "--no-armor"} {
		key, err := ParseSecretKey(g.must(nil, armor, "--export-secret-subkeys", rsa+"!"))
		must(t, err)
		signsAs(t, g, "rsa", key, KeyID(rsa))
	}
	if _, err := ParseSecretKey(g.must(nil, "--armor", "--export", "ed")); err == nil {
		t.Error("a certificate was taken for a secret key")
	}
	if _, err := ParseSecretKey(g.must(nil, "--armor", "--export-secret-keys", "nosign")); err == nil {
		t.Error("a key that doesn't sign was taken")
	}
}

func signsAs(t *testing.T, g *gnupg, user string, key *SecretKey, id KeyID) {
	t.Helper()
	if key.Public().KeyID() != id {
		t.Errorf("%s: signs with %s, want %s", user, key.Public().KeyID(), id)
	}
	if want := keyOf(t, g.certificate(user), id); key.Public() != want {
		t.Errorf("%s: the public halves differ", user)
	}
	at := before.Add(24 * time.Hour)
	for i := range 60 { // some of these have numbers with leading zeros
		message := append([]byte{byte(i)}, testSeal...)
		sig, err := Sign(key, message, "sallyport-seal SEAL.json", at)
		must(t, err)
		parsed, err := ParseSignature(sig)
		must(t, err)
		must(t, Verify(key.Public(), message, parsed))
		again, err := Sign(key, message, "", at)
		must(t, err)
		if !bytes.Equal(sig, again) {
			t.Errorf("%s: the same key, message and time give two signatures", user)
		}
		short := slices.ContainsFunc(parsed.pgp.numbers, func(n []byte) bool { return len(n)%32 != 0 })
		if i > 3 && !short {
			continue
		}
		slot, err := EncodeSlot(sig)
		must(t, err)
		if err := g.verify(user, message, slot[:]); err != nil {
			t.Errorf("%s: %v\n%s", user, err, sig)
		}
	}
	for _, at := range []time.Time{before.Add(-time.Hour), time.Unix(1<<32, 0)} {
		if _, err := Sign(key, testSeal, "", at); err == nil {
			t.Errorf("%s: signed as of %s", user, at)
		}
	}
	if text := key.String(); text != "openpgp secret key "+string(id) || key.Encode() != nil {
		t.Errorf("%s: shown as %q", user, text)
	}
	if _, err := key.Encrypt("x"); err == nil {
		t.Errorf("%s: was written as a key of minisign", user)
	}
	if _, err := key.NoteSigner("x"); err == nil {
		t.Errorf("%s: signs a station's log", user)
	}
}

// What stock gpg makes and a slot must not take.
func TestGnuPGRefused(t *testing.T) {
	g := newGnuPG(t)
	ed := string(g.fingerprints("ed")[0])
	sign := func(args ...string) []byte {
		return g.must(testSeal, append([]string{"--armor", "-u", ed}, args...)...)
	}
	good := sign("--detach-sign")
	binary := g.must(testSeal, "-u", ed, "--detach-sign")
	for want, data := range map[string][]byte{
		"--textmode":             sign("--textmode", "--detach-sign"),
		"--detach-sign, not":     sign("--clearsign"),
		"a whole message":        sign("--sign"),
		"expected 2, a detached": g.must(testSeal, "-u", ed, "--sign", "-z", "0"),
		"data behind the first":  sign("-u", "pass", "--detach-sign"),
		"the signature expires":  sign("--default-sig-expire", "1d", "--detach-sign"),
		"hash algorithm 9":       sign("--digest-algo", "SHA384", "--detach-sign"),
		"ECDSA (19)":             g.must(testSeal, "-u", "nist", "--detach-sign"),
		"not a signature":        g.must(nil, "--armor", "--export", "ed"),
		"behind the end":         append(bytes.Clone(good), good...),
		"critical subpacket 20":  sign("--set-notation", "!a@example.org=b", "--detach-sign"),
		"checksum is wrong":      bytes.Replace(good, good[bytes.LastIndexByte(good, '='):bytes.LastIndexByte(good, '=')+5], []byte("=AAAA"), 1),
		"cut off":                binary[:len(binary)-1],
		"a packet of type":       g.must(nil, "--export", "ed"),
		"no end":                 good[:len(good)-30],
		"neither":                []byte("hello"),
	} {
		got, err := Canonical(data)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %q, %v", want, got, err)
		}
	}
	// These are good for Canonical, and not canonical themselves.
	for what, data := range map[string][]byte{
		"header":      sign("--comment", "x", "--detach-sign"),
		"binary":      binary,
		"no checksum": append(append(bytes.Clone(good[:bytes.LastIndexByte(good, '=')]), armorEnd...), "SIGNATURE-----\n"...),
		"DOS":         bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")),
		"two ends":    append(bytes.Clone(good), '\n'),
	} {
		if got, err := Canonical(data); err != nil {
			t.Errorf("%s: %q, %v", what, got, err)
		}
		if _, err := ParseSignature(data); err == nil {
			t.Errorf("%s: taken as canonical", what)
		}
	}
}
