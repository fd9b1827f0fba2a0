package trust

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"aead.dev/minisign"
	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/scrypt"
	"golang.org/x/mod/sumdb/note"
)

var (
	// ErrNeedsPassword is returned for a secret key file that is protected by a password.
	ErrNeedsPassword = errors.New("the secret key is protected by a password")
	// ErrWrongPassword is returned when a password doesn't open a secret key file.
	ErrWrongPassword = errors.New("wrong password for the secret key")
)

// A minisign secret key file is an untrusted comment and a line of base64 with these fields: the algorithm "Ed";
// the key derivation, "Sc" for scrypt or zero; the checksum's algorithm "B2"; salt; scrypt's cost as libsodium
// counts it; then key id, seed and public key, and the BLAKE2b-256 of "Ed", id, seed and public key. With a
// password the last 104 bytes are XORed with scrypt's output.
const (
	secretRawBytes = 158

	saltAt   = 6
	opsAt    = 38
	memAt    = 46
	bodyAt   = 54
	seedAt   = bodyAt + 8
	publicAt = seedAt + ed25519.SeedSize
	sumAt    = bodyAt + 72

	kdfNone   = "\x00\x00"
	kdfScrypt = "Sc"

	secretComment = untrustedPrefix + "minisign encrypted secret key\n"
)

// The cost of a password, in the units of libsodium's crypto_pwhash_scryptsalsa208sha256. Stock minisign writes
// the upper bounds (N = 2^20, r = 8, p = 1: 1 GiB) and halves both until memory suffices, never below the lower
// ones. Keys made here take 64 MiB, for they are opened on stations that have little more:
// N = 2^16, r = 8, p = 2, as OWASP's password storage sheet has it for that size.
const (
	minOps, maxOps = 1 << 15, 1 << 25
	minMem, maxMem = 1 << 24, 1 << 30

	ourOps, ourMem            = 1 << 22, 1 << 26
	scryptN, scryptR, scryptP = 1 << 16, 8, 2

	// maxPassword is what stock minisign reads of one.
	maxPassword = 1023
)

// A SecretKey is a minisign secret key or an OpenPGP one. The zero value is no key; see [GenerateKey] and
// [ParseSecretKey].
type SecretKey struct {
	public   PublicKey
	private  ed25519.PrivateKey
	minisign minisign.PrivateKey
	pgp      crypto.Signer // of OpenPGP, and then the fields above but public are zero
}

// GenerateKey makes a key from the operating system's random numbers.
func GenerateKey() (*SecretKey, error) {
	_, k, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return fromMinisign(k)
}

// ParseSecretKey reads a minisign key file without a password (`minisign -G -W`), or an OpenPGP one (`gpg
// --export-secret-keys`), armored or not, of which it takes the key that GnuPG would sign with. For one with a
// password the error is [ErrNeedsPassword].
func ParseSecretKey(file []byte) (*SecretKey, error) {
	if looksPGP(file) {
		k, err := parsePGPSecret(file, nil)
		if err != nil {
			return nil, fmt.Errorf("parse secret key file: %w", err)
		}
		return k, nil
	}
	raw, err := parseSecretFile(file)
	if err != nil {
		return nil, err
	}
	if string(raw[2:4]) == kdfScrypt {
		return nil, fmt.Errorf("parse secret key file: %w", ErrNeedsPassword)
	}
	// minisign 0.11 leaves the checksum zero here; other writers fill it.
	if sum := secretSum(raw); !isZero(raw[sumAt:]) && !bytes.Equal(sum[:], raw[sumAt:]) {
		return nil, errors.New("parse secret key file: its checksum is wrong, the file is damaged")
	}
	return fromRaw(raw)
}

// DecryptSecretKey reads a key file of either kind that is protected by a password. The error is [ErrWrongPassword]
// when the password doesn't open it. The file sets the cost: up to 1 GiB of memory and some seconds.
func DecryptSecretKey(file []byte, password string) (*SecretKey, error) {
	if looksPGP(file) {
		k, err := parsePGPSecret(file, []byte(password))
		if err != nil {
			return nil, fmt.Errorf("decrypt secret key file: %w", err)
		}
		return k, nil
	}
	raw, err := parseSecretFile(file)
	if err != nil {
		return nil, err
	}
	if string(raw[2:4]) != kdfScrypt {
		return nil, errors.New("decrypt secret key file: it has no password")
	}
	if ops := binary.LittleEndian.Uint64(raw[opsAt:]); ops < minOps || ops > maxOps {
		return nil, fmt.Errorf("decrypt secret key file: %d scrypt operations, expected %d to %d", ops, minOps, maxOps)
	}
	if mem := binary.LittleEndian.Uint64(raw[memAt:]); mem < minMem || mem > maxMem {
		return nil, fmt.Errorf("decrypt secret key file: %d bytes of scrypt memory, expected %d to %d", mem, minMem, maxMem)
	}
	k, err := minisign.DecryptKey(password, file)
	if err != nil {
		return nil, fmt.Errorf("decrypt secret key file: %w", ErrWrongPassword)
	}
	return fromMinisign(k)
}

// Encode returns a minisign key as an unprotected minisign key file, and nothing for one of OpenPGP.
func (k *SecretKey) Encode() []byte {
	if k.pgp != nil {
		return nil
	}
	return encodeSecretFile(k.raw(kdfNone))
}

// Encrypt returns a minisign key as a minisign key file that password opens, here and in stock minisign, at a cost of
// 64 MiB of memory. Stock minisign must be able to read the password: one line of at most 1,023 bytes, not
// empty, without NUL.
func (k *SecretKey) Encrypt(password string) ([]byte, error) {
	switch {
	case k.pgp != nil:
		return nil, errors.New("encrypt secret key: it is one of OpenPGP, whose file is for gpg to write")
	case password == "":
		return nil, errors.New("encrypt secret key: the password is empty")
	case len(password) > maxPassword:
		return nil, fmt.Errorf("encrypt secret key: the password has %d bytes, the limit is %d", len(password), maxPassword)
	case strings.ContainsAny(password, "\x00\r\n"):
		return nil, errors.New("encrypt secret key: the password holds a line break or NUL")
	}
	raw := k.raw(kdfScrypt)
	if _, err := rand.Read(raw[saltAt:opsAt]); err != nil {
		return nil, fmt.Errorf("encrypt secret key: %w", err)
	}
	binary.LittleEndian.PutUint64(raw[opsAt:], ourOps)
	binary.LittleEndian.PutUint64(raw[memAt:], ourMem)
	sum := secretSum(raw)
	copy(raw[sumAt:], sum[:])
	stream, err := scrypt.Key([]byte(password), raw[saltAt:opsAt], scryptN, scryptR, scryptP, secretRawBytes-bodyAt)
	if err != nil {
		return nil, fmt.Errorf("encrypt secret key: %w", err)
	}
	subtle.XORBytes(raw[bodyAt:], raw[bodyAt:], stream)
	return encodeSecretFile(raw), nil
}

// Public returns the key that verifies this one's signatures.
func (k *SecretKey) Public() PublicKey { return k.public }

// String names the key and shows nothing of its secret.
func (k *SecretKey) String() string { return k.public.Type() + " secret key " + k.public.id.String() }

// Format prints what String gives, so that no verb of fmt shows the secret.
func (k *SecretKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.String()) }

// noteSigner signs notes (C2SP signed-note, algorithm 1) with a minisign key.
type noteSigner struct {
	note.Verifier
	key ed25519.PrivateKey
}

func (s noteSigner) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

// NoteSigner returns the key as a signer of notes (C2SP signed-note, algorithm 1, Ed25519) with origin as its
// name; [PublicKey.NoteVerifier] is its counterpart.
func (k *SecretKey) NoteSigner(origin string) (note.Signer, error) {
	v, err := k.public.NoteVerifier(origin)
	if err != nil {
		return nil, err
	}
	return noteSigner{v, k.private}, nil
}

func (k *SecretKey) raw(kdf string) []byte {
	raw := make([]byte, secretRawBytes)
	copy(raw, "Ed"+kdf+"B2")
	copy(raw[bodyAt:], appendMinisignID(nil, k.public.id))
	copy(raw[seedAt:], k.private)
	return raw
}

func fromMinisign(k minisign.PrivateKey) (*SecretKey, error) {
	text, err := k.MarshalText()
	if err != nil {
		return nil, err
	}
	raw, err := parseSecretFile(append(text, '\n'))
	if err != nil {
		return nil, err
	}
	return fromRaw(raw)
}

// fromRaw takes the fields of an unprotected key file.
func fromRaw(raw []byte) (*SecretKey, error) {
	k := &SecretKey{private: ed25519.NewKeyFromSeed(raw[seedAt:publicAt])}
	// Signing with a seed and another key's public half gives the seed away.
	if !bytes.Equal(k.private[ed25519.SeedSize:], raw[publicAt:sumAt]) {
		return nil, errors.New("parse secret key file: its public half doesn't belong to its secret half")
	}
	k.public.id = minisignID(raw[bodyAt:])
	copy(k.public.point[:], raw[publicAt:sumAt])
	if err := k.minisign.UnmarshalText(k.Encode()); err != nil {
		return nil, fmt.Errorf("parse secret key file: %w", err)
	}
	return k, nil
}

func parseSecretFile(file []byte) ([]byte, error) {
	if len(file) > maxKeyFileBytes {
		return nil, fmt.Errorf("parse secret key file: %d bytes, the limit is %d", len(file), maxKeyFileBytes)
	}
	comment, text, ok := strings.Cut(string(file), "\n")
	if !ok || !strings.HasPrefix(comment, untrustedPrefix) {
		return nil, fmt.Errorf("parse secret key file: it doesn't begin with a line %q", untrustedPrefix)
	}
	raw, err := decodeBase64(strings.TrimSuffix(text, "\n"), secretRawBytes)
	if err != nil {
		return nil, fmt.Errorf("parse secret key file: line 2: %w", err)
	}
	if string(raw[:2]) != "Ed" || string(raw[4:6]) != "B2" {
		return nil, fmt.Errorf("parse secret key file: algorithms %q and %q, not minisign's \"Ed\" and \"B2\"", raw[:2], raw[4:6])
	}
	if kdf := string(raw[2:4]); kdf != kdfNone && kdf != kdfScrypt {
		return nil, fmt.Errorf("parse secret key file: key derivation %q, expected \"Sc\" or zero", kdf)
	}
	return raw, nil
}

func encodeSecretFile(raw []byte) []byte {
	return append(base64.StdEncoding.AppendEncode([]byte(secretComment), raw), '\n')
}

func secretSum(raw []byte) [blake2b.Size256]byte {
	return blake2b.Sum256(append([]byte("Ed"), raw[bodyAt:sumAt]...))
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
