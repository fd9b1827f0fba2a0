package trust

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/eddsa"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// maxCertificate is the longest file with an OpenPGP certificate or secret key, in bytes.
const maxCertificate = 1 << 20

var errPrivate = errors.New("it is a secret key, and a public one is wanted (gpg --armor --export)")

// ErrPublicKey is returned for an OpenPGP certificate where a secret key is wanted.
var ErrPublicKey = errors.New("it is a public key, and a secret one is wanted (gpg --armor --export-secret-keys)")

// A Certificate is what a public key file holds.
type Certificate struct {
	Keys    []PublicKey // that sign: of minisign the one, of OpenPGP the primary key and subkeys, in file order
	UserIDs []string    // who the certificate says it belongs to, in order; nobody vouches for that
	Passed  []string    // what it says of further keys: why each isn't among Keys
}

// ParseCertificate reads a file with public keys to be trusted: a minisign .pub file, or an OpenPGP certificate,
// armored or not, of which it takes each key that may sign files at that time. A certificate that is revoked or has
// expired is an error, and so is one without such a key: a trust root lists bare keys, so this is the only time
// that anybody looks. The keys' ids and the owner's name need another proof than the file.
func ParseCertificate(data []byte, at time.Time) (*Certificate, error) {
	if !looksPGP(data) {
		key, err := ParsePublicKeyFile(data)
		if err != nil {
			return nil, err
		}
		return &Certificate{Keys: []PublicKey{key}}, nil
	}
	e, err := readEntity(data)
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	if e.PrivateKey != nil || slices.ContainsFunc(e.Subkeys, func(s openpgp.Subkey) bool { return s.PrivateKey != nil }) {
		return nil, fmt.Errorf("parse certificate: %w", errPrivate)
	}
	self, identity := e.PrimarySelfSignature()
	switch {
	case self == nil || identity == nil:
		return nil, errors.New("parse certificate: it has no user id with a signature of its own")
	case len(e.Revocations) > 0 || len(identity.Revocations) > 0:
		return nil, fmt.Errorf("parse certificate: %X is revoked", e.PrimaryKey.Fingerprint)
	case e.PrimaryKey.KeyExpired(self, at) || self.SigExpired(at):
		return nil, fmt.Errorf("parse certificate: %X has expired, or isn't valid yet", e.PrimaryKey.Fingerprint)
	}
	c := &Certificate{UserIDs: slices.Sorted(maps.Keys(e.Identities))}
	for _, k := range signingKeys(e) {
		key, err := k.public(at)
		if err != nil {
			c.Passed = append(c.Passed, fmt.Sprintf("%X: %v", k.packet.Fingerprint, err))
			continue
		}
		c.Keys = append(c.Keys, key)
	}
	if len(c.Keys) == 0 {
		why := "no key in it is marked for signing"
		if len(c.Passed) > 0 {
			why = strings.Join(c.Passed, "; ")
		}
		return nil, fmt.Errorf("parse certificate: %X has no key that can be taken: %s", e.PrimaryKey.Fingerprint, why)
	}
	return c, nil
}

// looksPGP tells OpenPGP's files from minisign's, which are text of another form.
func looksPGP(data []byte) bool {
	text := bytes.TrimLeft(data, " \t\r\n")
	return bytes.HasPrefix(text, []byte(armorBegin)) || len(data) > 0 && data[0]&0x80 != 0
}

// readEntity reads one certificate or secret key; every binding of a subkey, and every back signature of one that
// signs, is verified.
func readEntity(data []byte) (*openpgp.Entity, error) {
	if len(data) > maxCertificate {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(data), maxCertificate)
	}
	if data[0]&0x80 == 0 {
		kind, body, err := dearmor(data)
		if err != nil {
			return nil, err
		}
		if kind != armorPublic && kind != armorPrivate {
			return nil, fmt.Errorf("it is a PGP %s, not a key", strings.ToLower(kind))
		}
		data = body
	}
	packets := packet.NewReader(bytes.NewReader(data))
	e, err := openpgp.ReadEntity(packets)
	if err != nil {
		return nil, err
	}
	switch _, err := packets.Next(); {
	case err == nil:
		return nil, errors.New("more than one certificate, or something else behind it")
	case err != io.EOF:
		return nil, err
	}
	return e, nil
}

// signingKey is a key of a certificate that is marked for signing.
type signingKey struct {
	packet  *packet.PublicKey
	private *packet.PrivateKey // or nil
	binding *packet.Signature  // the primary key's newest on itself or on the subkey
	revoked bool
}

// signingKeys returns the primary key, then the subkeys, as far as their marks let them sign.
func signingKeys(e *openpgp.Entity) []signingKey {
	self, _ := e.PrimarySelfSignature()
	all := []signingKey{{e.PrimaryKey, e.PrivateKey, self, len(e.Revocations) > 0}}
	for _, s := range e.Subkeys {
		all = append(all, signingKey{s.PublicKey, s.PrivateKey, s.Sig, len(s.Revocations) > 0})
	}
	return slices.DeleteFunc(all, func(k signingKey) bool { return k.binding == nil || !k.binding.FlagsValid || !k.binding.FlagSign })
}

// public returns the key when it may be listed at that time; the zero time asks for its form only.
func (k *signingKey) public(at time.Time) (PublicKey, error) {
	var body bytes.Buffer
	if err := k.packet.SerializeForHash(&body); err != nil {
		return PublicKey{}, err
	}
	const head = 3 // 99 and two bytes of length
	p, err := fromPGPBody(body.Bytes()[min(head, body.Len()):])
	switch {
	case err != nil:
		return PublicKey{}, err
	case p.id != fingerprintID(k.packet.Fingerprint):
		return PublicKey{}, errors.New("its packet is not in canonical form")
	case k.revoked:
		return PublicKey{}, errors.New("it is revoked")
	case k.binding.Hash == crypto.SHA1 || k.binding.Hash == crypto.MD5:
		return PublicKey{}, fmt.Errorf("it belongs to the certificate by %s only, which can be forged", k.binding.Hash)
	case !at.IsZero() && (k.packet.KeyExpired(k.binding, at) || k.binding.SigExpired(at)):
		return PublicKey{}, errors.New("it has expired, or isn't valid yet")
	}
	return p, nil
}

// parsePGPSecret reads an OpenPGP secret key, armored or not: of those that sign and are there, the newest subkey,
// or else the primary key, as GnuPG chooses. With a nil password a key that has one gives [ErrNeedsPassword].
func parsePGPSecret(file []byte, password []byte) (*SecretKey, error) {
	e, err := readEntity(file)
	if err != nil {
		return nil, err
	}
	if e.PrivateKey == nil {
		return nil, ErrPublicKey
	}
	var best *signingKey
	var public PublicKey
	var passed []string
	for _, k := range signingKeys(e) {
		p, err := k.public(time.Time{})
		if err == nil && (k.private == nil || k.private.Dummy()) {
			err = errors.New("its secret isn't in the file")
		}
		if err != nil {
			passed = append(passed, fmt.Sprintf("%X: %v", k.packet.Fingerprint, err))
			continue
		}
		if best == nil || best.packet == e.PrimaryKey || cmp.Compare(k.packet.CreationTime.Unix(), best.packet.CreationTime.Unix()) > 0 {
			best, public = &k, p
		}
	}
	if best == nil {
		return nil, fmt.Errorf("no secret key in it can sign: %s", strings.Join(passed, "; "))
	}
	if best.private.Encrypted {
		if password == nil {
			return nil, ErrNeedsPassword
		}
		if err := best.private.Decrypt(password); err != nil {
			return nil, ErrWrongPassword
		}
	}
	signer, err := pgpSigner(best.private, public)
	if err != nil {
		return nil, err
	}
	return &SecretKey{public: public, pgp: signer}, nil
}

// pgpSigner returns the secret half of the public key. Signing with another one's would give it away.
func pgpSigner(private *packet.PrivateKey, public PublicKey) (crypto.Signer, error) {
	var signer crypto.Signer
	switch k := private.PrivateKey.(type) {
	case *eddsa.PrivateKey:
		seed := k.MarshalByteSecret()
		if len(seed) > ed25519.SeedSize {
			return nil, errors.New("its secret is longer than one of Ed25519")
		}
		seed = append(make([]byte, ed25519.SeedSize-len(seed)), seed...)
		signer = ed25519.NewKeyFromSeed(seed)
	case *rsa.PrivateKey:
		signer = k
	default:
		return nil, fmt.Errorf("a secret key of an unknown kind, %T", k)
	}
	k, err := public.openpgp()
	if err != nil {
		return nil, err
	}
	same := false
	switch half := signer.Public().(type) {
	case ed25519.PublicKey:
		same = bytes.Equal(half, k.point)
	case *rsa.PublicKey:
		same = k.modulus != nil && half.N.Cmp(k.modulus) == 0 && half.E == k.exponent
	}
	if !same {
		return nil, errors.New("its public half doesn't belong to its secret half")
	}
	return signer, nil
}
