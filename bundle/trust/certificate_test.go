package trust

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCertificates(t *testing.T) {
	g := newGnuPG(t)
	now := time.Now()
	export := func(user string) []byte { return g.must(nil, "--armor", "--export", user) }
	rsa := g.fingerprints("rsa")
	c := g.certificate("rsa")
	if len(c.Keys) != 2 || c.Keys[0].KeyID() != rsa[1] || c.Keys[1].KeyID() != rsa[2] || c.Keys[0].Algorithm() != "RSA, 3072 bits" || c.Keys[1].Algorithm() != "Ed25519" {
		t.Errorf("rsa: %v, want the two subkeys of %v", c.Keys, rsa)
	}
	if c = g.certificate("ed"); len(c.Keys) != 1 || c.Keys[0].Type() != TypeOpenPGP || len(c.UserIDs) != 1 || c.UserIDs[0] != "ed <ed@example.org>" || len(c.Passed) != 0 {
		t.Errorf("ed: %+v", c)
	}
	text := c.Keys[0].String()
	if again, err := ParsePublicKey(text); err != nil || again != c.Keys[0] {
		t.Errorf("%s is read back as %s, %v", text, again, err)
	}
	if binary, err := ParseCertificate(g.must(nil, "--export", "ed"), now); err != nil || binary.Keys[0] != c.Keys[0] {
		t.Errorf("binary: %v", err)
	}
	if m, err := ParseCertificate(testKey(t, 1).Public().File(), now); err != nil || len(m.Keys) != 1 || m.Keys[0] != testKey(t, 1).Public() {
		t.Errorf("minisign: %v", err)
	}
	ed := export("ed")
	for _, test := range []struct {
		what, says string
		data       []byte
	}{
		{"expired", "has expired", export("old")},
		{"without a key that signs", "no key in it is marked for signing", export("nosign")},
		{"ECDSA", "ECDSA (19)", export("nist")},
		{"bound by SHA-1", "by SHA-1 only", export("weak")},
		{"secret key", "it is a secret key", g.must(nil, "--armor", "--export-secret-keys", "ed")},
		{"signature", "it is a PGP signature", g.must(testSeal, "-u", "ed", "--armor", "--detach-sign")},
		{"two certificates", "more than one certificate", g.must(nil, "--export", "ed", "pass")},
		{"two armors", "behind the end of the armor", append(bytes.Clone(ed), ed...)},
		{"too long", "the limit is", append(bytes.Clone(ed), make([]byte, maxCertificate)...)},
		{"not a key", "parse public key file", []byte("hello")},
		{"nothing", "parse public key file", nil},
	} {
		if c, err := ParseCertificate(test.data, now); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %+v, %v, want an error with %q", test.what, c, err, test.says)
		}
	}
	if _, err := ParseCertificate(export("old"), before.Add(time.Hour)); err != nil {
		t.Errorf("before it expired: %v", err)
	}
	if _, err := ParseCertificate(ed, before.Add(-time.Hour)); err == nil {
		t.Error("a key from the future was taken")
	}
	e, err := readEntity(g.must(nil, "--export-secret-keys", "ed"))
	must(t, err)
	if _, err := pgpSigner(e.PrivateKey, pgpTestKey(t, 1).Public()); err == nil || !strings.Contains(err.Error(), "doesn't belong") {
		t.Errorf("another key's public half: %v", err)
	}
	if _, err := ParseSecretKey(ed); !errors.Is(err, ErrPublicKey) {
		t.Errorf("a certificate as a secret key: %v", err)
	}
}

// A revoked certificate is refused; a revoked or expired subkey is passed over, and a reason given.
func TestRevokedKeys(t *testing.T) {
	g := newGnuPG(t)
	rsa := g.fingerprints("rsa")
	secret := g.must(nil, "--armor", "--export-secret-keys", "rsa")
	g.must([]byte("key 2\nrevkey\ny\n0\n\ny\nsave\n"), "--no-batch", "--command-fd", "0", "--edit-key", "rsa")
	g.must(nil, as(before.Add(2*time.Hour), "--quick-set-expire", string(rsa[0]), "1d", string(rsa[1]))...)
	c, err := ParseCertificate(g.must(nil, "--export", "rsa"), before.Add(3*time.Hour))
	must(t, err)
	if len(c.Keys) != 1 || c.Keys[0].KeyID() != rsa[1] || len(c.Passed) != 1 || c.Passed[0] != string(rsa[2])+": it is revoked" {
		t.Errorf("a revoked subkey: %v, %q", c.Keys, c.Passed)
	}
	_, err = ParseCertificate(g.must(nil, "--export", "rsa"), time.Now())
	if err == nil || !strings.Contains(err.Error(), string(rsa[1])+": it has expired") || !strings.Contains(err.Error(), string(rsa[2])+": it is revoked") {
		t.Errorf("one subkey revoked and one expired: %v", err)
	}
	key, err := ParseSecretKey(g.must(nil, "--export-secret-keys", "rsa"))
	must(t, err)
	if key.Public().KeyID() != rsa[1] {
		t.Errorf("signs with %s, want %s, which isn't revoked", key.Public().KeyID(), rsa[1])
	}
	if key, err = ParseSecretKey(secret); err != nil || key.Public().KeyID() != rsa[2] {
		t.Errorf("before: %v, %v", key, err)
	}

	ed := g.fingerprints("ed")[0]
	revocation, err := os.ReadFile(filepath.Join(g.home, "openpgp-revocs.d", string(ed)+".rev"))
	must(t, err)
	g.must(bytes.Replace(revocation, []byte("\n:-----"), []byte("\n-----"), 1), "--import")
	if c, err := ParseCertificate(g.must(nil, "--export", "ed"), time.Now()); err == nil || !strings.Contains(err.Error(), string(ed)+" is revoked") {
		t.Errorf("a revoked certificate: %v, %v", c, err)
	}
}

// Each part of a certificate that binds a subkey is needed: one without its back signature, or bound by another key,
// isn't taken.
func TestForgedSubkeys(t *testing.T) {
	g := newGnuPG(t)
	certificate := g.must(nil, "--export", "rsa")
	var changed, taken int
	for i := 0; i < len(certificate); i += 7 {
		forged := bytes.Clone(certificate)
		forged[i] ^= 0x10
		changed++
		c, err := ParseCertificate(forged, time.Now())
		if err != nil {
			continue
		}
		for _, k := range c.Keys {
			if ids := g.fingerprints("rsa"); k.KeyID() != ids[1] && k.KeyID() != ids[2] {
				t.Fatalf("byte %d: %s was taken, which nobody made", i, k.KeyID())
			}
			taken++
		}
	}
	t.Logf("%d bytes changed; %d times a real key was still taken", changed, taken)
}
