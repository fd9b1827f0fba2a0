package trust

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strings"
	"time"
)

// OpenPGP's numbers (RFC 9580; sections 5.2.3.1 for types of signatures, 9.1 for public-key algorithms, 9.5 for
// hashes, 5.2.3.7 for subpackets).
const (
	pgpVersion = 4

	tagSignature = 2

	typeBinary = 0x00
	typeText   = 0x01

	algoRSA   = 1
	algoEdDSA = 22

	hashSHA256 = 8
	hashSHA512 = 10

	subCreated     = 2
	subExpires     = 3
	subIssuer      = 16
	subNotation    = 20
	subPolicy      = 26
	subSignersUser = 28
	subFingerprint = 33
	criticalBit    = 0x80

	fingerprintBytes = 20
	pgpKeyIDBytes    = 8
	fixedBytes       = 6 // version, type, both algorithms, and the length of the hashed subpackets
)

// pgpSignature is what a version 4 signature packet (RFC 9580, section 5.2.3) says, but for its unhashed
// subpackets, which nobody signed.
type pgpSignature struct {
	algo    byte
	hash    byte
	signed  []byte  // from the version to the end of the hashed subpackets
	left    [2]byte // the digest's first two bytes
	numbers [][]byte
	created uint32
	issuer  [fingerprintBytes]byte
}

// keyID is the fingerprint that the signer signed along with the message.
func (s *pgpSignature) keyID() KeyID { return fingerprintID(s.issuer[:]) }

func fingerprintID(fingerprint []byte) KeyID {
	return KeyID(strings.ToUpper(hex.EncodeToString(fingerprint)))
}

// parsePGPSignature reads a packet in any of the forms that tools write. Offsets in errors count from its start.
func parsePGPSignature(packet []byte) (*pgpSignature, error) {
	body, at, err := onlyPacket(packet, tagSignature)
	if err != nil {
		return nil, err
	}
	s := new(pgpSignature)
	hashed, err := s.readFixed(body)
	if err != nil {
		return nil, fmt.Errorf("byte %d: %w", at, err)
	}
	if err := s.readHashed(hashed); err != nil {
		return nil, fmt.Errorf("byte %d: %w", at+fixedBytes, err)
	}
	rest := body[len(s.signed):]
	if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
		return nil, fmt.Errorf("byte %d: the unhashed subpackets are cut off", at+len(s.signed))
	}
	rest = rest[2+int(binary.BigEndian.Uint16(rest)):]
	if len(rest) < len(s.left) {
		return nil, fmt.Errorf("byte %d: the hash's first two bytes are cut off", len(packet)-len(rest))
	}
	rest = rest[copy(s.left[:], rest):]
	for range s.howMany() {
		number, after, err := readNumber(rest)
		if err != nil {
			return nil, fmt.Errorf("byte %d: %w", len(packet)-len(rest), err)
		}
		s.numbers, rest = append(s.numbers, number), after
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("byte %d: data behind the signature's numbers", len(packet)-len(rest))
	}
	return s, nil
}

func (s *pgpSignature) howMany() int {
	if s.algo == algoEdDSA {
		return 2
	}
	return 1
}

// readFixed reads what stands before the hashed subpackets, and returns these.
func (s *pgpSignature) readFixed(body []byte) (hashed []byte, err error) {
	if len(body) > 0 && body[0] != pgpVersion {
		return nil, fmt.Errorf("a signature of version %d, expected %d", body[0], pgpVersion)
	}
	if len(body) < fixedBytes {
		return nil, errors.New("the signature is cut off")
	}
	switch body[1] {
	case typeBinary:
	case typeText:
		return nil, errors.New("a signature of a text, which is as good for other line ends; sign without --textmode")
	default:
		return nil, fmt.Errorf("a signature of type %#02x, expected one of a file (0x00)", body[1])
	}
	s.algo, s.hash = body[2], body[3]
	if s.algo != algoRSA && s.algo != algoEdDSA {
		return nil, fmt.Errorf("a signature with %s; RSA and EdDSA are taken", algoName(s.algo))
	}
	if s.hash != hashSHA256 && s.hash != hashSHA512 {
		return nil, fmt.Errorf("a signature of hash algorithm %d; SHA-256 (8) and SHA-512 (10) are taken", s.hash)
	}
	end := fixedBytes + int(binary.BigEndian.Uint16(body[4:]))
	if end > len(body) {
		return nil, errors.New("the hashed subpackets are cut off")
	}
	s.signed = bytes.Clone(body[:end])
	return s.signed[fixedBytes:], nil
}

// readHashed reads the subpackets that are signed: those that are needed, each once, and such as change nothing.
func (s *pgpSignature) readHashed(area []byte) error {
	var issuer []byte
	seen := map[byte]bool{}
	for len(area) > 0 {
		sub, rest, err := nextSubpacket(area)
		if err != nil {
			return err
		}
		area = rest
		kind, critical, value := sub[0]&^criticalBit, sub[0]&criticalBit != 0, sub[1:]
		switch {
		case kind == subExpires:
			return errors.New("the signature expires; sign without --ask-sig-expire and --default-sig-expire")
		case critical && kind != subCreated:
			return fmt.Errorf("critical subpacket %d, which isn't known to every reader", kind)
		}
		switch kind {
		case subNotation, subPolicy, subSignersUser:
			continue
		case subCreated, subIssuer, subFingerprint:
		default:
			return fmt.Errorf("subpacket %d has no place in a signature of a file", kind)
		}
		if seen[kind] {
			return fmt.Errorf("subpacket %d stands there twice", kind)
		}
		seen[kind] = true
		switch {
		case kind == subCreated && len(value) == 4:
			s.created = binary.BigEndian.Uint32(value)
		case kind == subIssuer && len(value) == pgpKeyIDBytes:
			issuer = value
		case kind == subFingerprint && len(value) == 1+fingerprintBytes && value[0] == pgpVersion:
			copy(s.issuer[:], value[1:])
		default:
			return fmt.Errorf("subpacket %d has %d bytes, or is of another version", kind, len(value))
		}
	}
	if !seen[subCreated] || !seen[subFingerprint] {
		return errors.New("the time of signing or the key's fingerprint isn't in the signed part; sign with GnuPG 2.2 or newer")
	}
	if issuer != nil && !bytes.Equal(issuer, s.issuer[fingerprintBytes-pgpKeyIDBytes:]) {
		return errors.New("its key id and fingerprint are of different keys")
	}
	return nil
}

// nextSubpacket returns the first subpacket of area, from its type on, and what follows it.
func nextSubpacket(area []byte) (sub, rest []byte, err error) {
	n, head := int(area[0]), 1
	switch {
	case n == 255:
		return nil, nil, errors.New("a subpacket's length is in five bytes")
	case n >= 192 && len(area) < 2:
		return nil, nil, errors.New("a subpacket's length is cut off")
	case n >= 192:
		n, head = (n-192)<<8+int(area[1])+192, 2
	}
	if n == 0 || n > len(area)-head {
		return nil, nil, fmt.Errorf("a subpacket has %d bytes and %d are left", n, len(area)-head)
	}
	return area[head : head+n], area[head+n:], nil
}

// onlyPacket returns the body of the packet (RFC 9580, section 4.2) that is all of data, and its offset.
func onlyPacket(data []byte, tag byte) (body []byte, at int, err error) {
	if len(data) < 2 || data[0]&0x80 == 0 {
		return nil, 0, errors.New("byte 0: not an OpenPGP packet")
	}
	var n uint64
	found, bytesOf := data[0]>>2&0x0f, 1<<(data[0]&3) // of the old form
	at = 1 + bytesOf
	switch first := data[1]; {
	case data[0]&0x40 == 0 && bytesOf == 8:
		return nil, 0, errors.New("byte 0: a packet without a length")
	case data[0]&0x40 == 0 && len(data) >= at:
		n = bigEndian(data[1:at])
	case data[0]&0x40 == 0:
		return nil, 0, errors.New("byte 1: the packet is cut off")
	case first < 192:
		found, n, at = data[0]&0x3f, uint64(first), 2
	case first < 224 && len(data) > 2:
		found, n, at = data[0]&0x3f, uint64(first-192)<<8+uint64(data[2])+192, 3
	case first == 255 && len(data) > 5:
		found, n, at = data[0]&0x3f, bigEndian(data[2:6]), 6
	default:
		return nil, 0, errors.New("byte 1: the packet is cut off, or in parts")
	}
	rest := data[at:]
	switch {
	case found != tag:
		return nil, 0, fmt.Errorf("byte 0: a packet of type %d, expected %d, a detached signature alone; sign with --detach-sign", found, tag)
	case n > uint64(len(rest)):
		return nil, 0, fmt.Errorf("byte %d: the packet is cut off: %d bytes of %d", at, len(rest), n)
	case n < uint64(len(rest)):
		return nil, 0, fmt.Errorf("byte %d: data behind the first packet; one signature is taken, and nothing else", at+int(n))
	}
	return rest, at, nil
}

func bigEndian(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

// readNumber reads a multiprecision integer (RFC 9580, section 3.2) and takes leading zeros off.
func readNumber(data []byte) (number, rest []byte, err error) {
	if len(data) < 2 {
		return nil, nil, errors.New("a number is cut off")
	}
	n := (int(binary.BigEndian.Uint16(data)) + 7) / 8
	if n > len(data)-2 {
		return nil, nil, fmt.Errorf("a number has %d bytes and %d are left", n, len(data)-2)
	}
	return bytes.TrimLeft(data[2:2+n], "\x00"), data[2+n:], nil
}

// appendNumber appends the one right form of a number without leading zeros.
func appendNumber(data, number []byte) []byte {
	data = binary.BigEndian.AppendUint16(data, uint16(new(big.Int).SetBytes(number).BitLen()))
	return append(data, number...)
}

// packet returns the one form of the packet: an old-format header with the shortest length, the key id as the only
// unhashed subpacket, numbers without leading zeros. GnuPG writes it thus.
func (s *pgpSignature) packet() []byte {
	body := append(bytes.Clone(s.signed), 0, 2+pgpKeyIDBytes, 1+pgpKeyIDBytes, subIssuer)
	body = append(body, s.issuer[fingerprintBytes-pgpKeyIDBytes:]...)
	body = append(body, s.left[:]...)
	for _, n := range s.numbers {
		body = appendNumber(body, n)
	}
	head := []byte{0x80 | tagSignature<<2, byte(len(body))}
	if len(body) > math.MaxUint8 {
		head = []byte{head[0] | 1, byte(len(body) >> 8), byte(len(body))}
	}
	return append(head, body...)
}

// digest takes the hash that was signed (RFC 9580, section 5.2.4).
func (s *pgpSignature) digest(m *message) []byte {
	h := m.sum(s.hash)
	h.Write(s.signed)
	h.Write(binary.BigEndian.AppendUint32([]byte{pgpVersion, 0xff}, uint32(len(s.signed))))
	return h.Sum(nil)
}

func cryptoHash(id byte) crypto.Hash {
	if id == hashSHA256 {
		return crypto.SHA256
	}
	return crypto.SHA512
}

// verify tells whether the key made the signature over m. GnuPG refuses a signature that is older than its key too.
func (s *pgpSignature) verify(k *pgpKey, m *message) error {
	if s.algo != k.algo {
		return fmt.Errorf("it was made with %s and the key is for %s", algoName(s.algo), algoName(k.algo))
	}
	if s.created < k.created {
		return errors.New("it is older than the key")
	}
	digest := s.digest(m)
	if !bytes.Equal(s.left[:], digest[:2]) {
		return errors.New("it was made over something else, or was altered")
	}
	if k.algo == algoEdDSA {
		sig, err := s.ed25519()
		if err != nil {
			return err
		}
		if isSmallOrder(sig[:32]) || !ed25519.Verify(k.point, digest, sig) {
			return errors.New("it was made over something else or by another key, or was altered")
		}
		return nil
	}
	sig, size := s.numbers[0], (k.modulus.BitLen()+7)/8
	if len(sig) > size {
		return errors.New("its number is larger than the key")
	}
	sig = append(make([]byte, size-len(sig)), sig...)
	return rsa.VerifyPKCS1v15(&rsa.PublicKey{N: k.modulus, E: k.exponent}, cryptoHash(s.hash), digest, sig)
}

// ed25519 returns R ‖ S, whose leading zeros got lost in the numbers.
func (s *pgpSignature) ed25519() ([]byte, error) {
	sig := make([]byte, ed25519.SignatureSize)
	for i, n := range s.numbers {
		if len(n) > ed25519.SignatureSize/2 {
			return nil, fmt.Errorf("number %d has %d bytes, one of Ed25519 has 32", i, len(n))
		}
		copy(sig[(i+1)*ed25519.SignatureSize/2-len(n):], n)
	}
	return sig, nil
}

// signPGP signs m with SHA-512, as of a time that is at least the key's.
func signPGP(key crypto.Signer, pub PublicKey, m *message, at time.Time) ([]byte, error) {
	k, err := pub.openpgp()
	if err != nil {
		return nil, err
	}
	if at.Unix() < int64(k.created) || at.Unix() > math.MaxUint32 {
		return nil, fmt.Errorf("the time %s is before the key's, %s, or later than OpenPGP can tell", at.UTC().Format(time.RFC3339), time.Unix(int64(k.created), 0).UTC().Format(time.RFC3339))
	}
	s := &pgpSignature{algo: k.algo, hash: hashSHA512, created: uint32(at.Unix())}
	fingerprint, err := hex.DecodeString(string(pub.id))
	if err != nil {
		return nil, err
	}
	copy(s.issuer[:], fingerprint)
	hashed := append([]byte{2 + fingerprintBytes, subFingerprint, pgpVersion}, fingerprint...)
	hashed = binary.BigEndian.AppendUint32(append(hashed, 1+4, subCreated), s.created)
	s.signed = append([]byte{pgpVersion, typeBinary, s.algo, s.hash, 0, byte(len(hashed))}, hashed...)
	digest := s.digest(m)
	copy(s.left[:], digest)
	var hash crypto.Hash // Ed25519 signs the digest as a message
	if k.algo == algoRSA {
		hash = cryptoHash(s.hash)
	}
	sig, err := key.Sign(nil, digest, hash)
	if err != nil {
		return nil, err
	}
	for i := range s.howMany() {
		n := len(sig) / s.howMany()
		s.numbers = append(s.numbers, bytes.TrimLeft(sig[i*n:(i+1)*n], "\x00"))
	}
	// A fault of the machine while signing with RSA or Ed25519 can give the key away.
	if err := s.verify(k, m); err != nil {
		return nil, fmt.Errorf("the signature that was just made is wrong: %w", err)
	}
	return enarmor(s.packet()), nil
}
