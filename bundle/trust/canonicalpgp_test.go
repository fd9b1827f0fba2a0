package trust

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// pgpTestKey is an OpenPGP key that is always the same for the same n, made without gpg.
func pgpTestKey(t testing.TB, n byte) *SecretKey {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
	public, err := fromPGPBody(edBody(private[32:]))
	must(t, err)
	return &SecretKey{public: public, pgp: private}
}

// edBody is the body of the packet of an Ed25519 key that was made at 1700000000.
func edBody(point []byte) []byte {
	return append([]byte("\x04\x65\x53\xf1\x00\x16\x09\x2b\x06\x01\x04\x01\xda\x47\x0f\x01\x01\x07\x40"), point...)
}

func rsaBody(bits int, e []byte) []byte {
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	return appendNumber(appendNumber([]byte{4, 0, 0, 0, 0, algoRSA}, n.SetBit(n, 0, 1).Bytes()), e)
}

// Every byte of a slot with an OpenPGP signature is fixed by what was signed: whatever is changed, it isn't a slot any
// more, or the signature doesn't verify.
func TestEveryByteOfAnOpenPGPSlot(t *testing.T) {
	key := pgpTestKey(t, 1)
	sig, err := Sign(key, testSeal, "", testTime)
	must(t, err)
	slot, err := EncodeSlot(sig)
	must(t, err)
	parsed, err := ParseSlot(slot[:])
	must(t, err)
	m := prehash(testSeal)
	must(t, verify(key.Public(), m, parsed))
	verifies := 0
	for i := range slot {
		for _, change := range []byte{1, 2, 4, 8, 16, 32, 64, 128, slot[i] ^ '\n', slot[i] ^ ' ', slot[i] ^ '=', slot[i] ^ 'A'} {
			if change == 0 {
				continue
			}
			slot[i] ^= change
			if s, err := ParseSlot(slot[:]); err == nil && s != nil {
				verifies++
				if s.KeyID() == key.Public().KeyID() && verify(key.Public(), m, s) == nil {
					t.Errorf("byte %d: changed by %#02x, and still good", i, change)
				}
			}
			slot[i] ^= change
		}
	}
	if verifies > 0 {
		t.Errorf("%d changes passed the armor's checksum", verifies)
	}
	// The same with the packet's bytes, the armor made anew.
	_, packet, err := dearmor(sig)
	must(t, err)
	parses := 0
	for i := range packet {
		for bit := range 8 {
			packet[i] ^= 1 << bit
			if s, err := ParseSignature(enarmor(packet)); err == nil {
				parses++
				if verify(key.Public(), m, s) == nil {
					t.Errorf("bit %d of the packet's byte %d: changed and still good", bit, i)
				}
			}
			packet[i] ^= 1 << bit
		}
	}
	if parses == 0 {
		t.Error("no change reached the signature itself")
	}
}

// pgpParts are the parts of a signature that a test changes.
type pgpParts struct {
	version, kind, algo, hash byte
	hashed, unhashed          []byte
	left                      []byte
	numbers                   [][]byte
	header                    func(body []byte) []byte
}

func (p *pgpParts) packet() []byte {
	body := append([]byte{p.version, p.kind, p.algo, p.hash, 0, byte(len(p.hashed))}, p.hashed...)
	body = append(append(body, 0, byte(len(p.unhashed))), p.unhashed...)
	body = append(body, p.left...)
	for _, n := range p.numbers {
		body = append(body, n...)
	}
	return p.header(body)
}

func oldHeader(body []byte) []byte { return append([]byte{0x88, byte(len(body))}, body...) }

// signParts signs testSeal with the parts as change leaves them, as a hostile holder could.
func signParts(key *SecretKey, change func(*pgpParts)) []byte {
	issuer := fromHex(string(key.public.id))
	p := &pgpParts{version: 4, algo: algoEdDSA, hash: hashSHA256, header: oldHeader,
		hashed:   slices.Concat([]byte{22, 33, 4}, issuer, []byte("\x05\x02\x65\x53\xf1\x01")),
		unhashed: append([]byte{9, 16}, issuer[12:]...),
	}
	change(p)
	s := &pgpSignature{hash: p.hash, signed: append([]byte{p.version, p.kind, p.algo, p.hash, 0, byte(len(p.hashed))}, p.hashed...)}
	if s.hash != hashSHA256 {
		s.hash = hashSHA512
	}
	digest := s.digest(prehash(testSeal))
	if p.left == nil {
		p.left = digest[:2]
	}
	if p.numbers == nil {
		sig := ed25519.Sign(key.pgp.(ed25519.PrivateKey), digest)
		p.numbers = [][]byte{appendNumber(nil, bytes.TrimLeft(sig[:32], "\x00")), appendNumber(nil, bytes.TrimLeft(sig[32:], "\x00"))}
	}
	return p.packet()
}

func fromHex(s string) []byte {
	n, _ := new(big.Int).SetString(s, 16)
	return n.FillBytes(make([]byte, len(s)/2))
}

// What is signed and not allowed; "" where a slot takes it. Errors are told apart by what they say.
func TestOpenPGPSignedParts(t *testing.T) {
	key := pgpTestKey(t, 1)
	issuer := fromHex(string(key.public.id))
	more := func(sub ...byte) func(*pgpParts) {
		return func(p *pgpParts) { p.hashed = append(p.hashed, sub...) }
	}
	without := func(from, to int) func(*pgpParts) {
		return func(p *pgpParts) { p.hashed = slices.Delete(p.hashed, from, to) }
	}
	for what, test := range map[string]struct {
		says   string
		change func(*pgpParts)
	}{
		"as it is":                 {"", func(*pgpParts) {}},
		"SHA-512":                  {"", func(p *pgpParts) { p.hash = hashSHA512 }},
		"critical time":            {"", func(p *pgpParts) { p.hashed[24] |= 0x80 }},
		"key id too":               {"", func(p *pgpParts) { p.hashed = append(append(p.hashed, 9, 16), issuer[12:]...) }},
		"notation":                 {"", more(11, 20, 0x80, 0, 0, 0, 0, 1, 0, 1, 'a', 'b')},
		"policy":                   {"", more(3, 26, 'a', 'b')},
		"signer's user id":         {"", more(3, 28, 'a', 'b')},
		"version 3":                {"version 3", func(p *pgpParts) { p.version = 3 }},
		"version 6":                {"version 6", func(p *pgpParts) { p.version = 6 }},
		"text":                     {"--textmode", func(p *pgpParts) { p.kind = 1 }},
		"standalone":               {"type 0x02", func(p *pgpParts) { p.kind = 2 }},
		"certification":            {"type 0x13", func(p *pgpParts) { p.kind = 0x13 }},
		"DSA":                      {"DSA (17)", func(p *pgpParts) { p.algo = 17 }},
		"algorithm 99":             {"unknown algorithm (99)", func(p *pgpParts) { p.algo = 99 }},
		"SHA-1":                    {"hash algorithm 2", func(p *pgpParts) { p.hash = 2 }},
		"SHA-384":                  {"hash algorithm 9", func(p *pgpParts) { p.hash = 9 }},
		"another key id":           {"different keys", more(9, 16, 1, 2, 3, 4, 5, 6, 7, 8)},
		"no time":                  {"isn't in the signed part", without(23, 29)},
		"no fingerprint":           {"isn't in the signed part", without(0, 23)},
		"time twice":               {"subpacket 2 stands there twice", more(5, 2, 0x65, 0x53, 0xf1, 1)},
		"fingerprint twice":        {"subpacket 33 stands there twice", func(p *pgpParts) { p.hashed = append(p.hashed, p.hashed[:23]...) }},
		"time of 3 bytes":          {"subpacket 2 has 3 bytes", func(p *pgpParts) { p.hashed = append(p.hashed[:23], 4, 2, 0, 0, 0) }},
		"fingerprint of v6":        {"another version", func(p *pgpParts) { p.hashed[2] = 6 }},
		"expires":                  {"the signature expires", more(5, 3, 0, 0, 0, 9)},
		"expires, critical":        {"the signature expires", more(5, 0x83, 0, 0, 0, 9)},
		"never expires":            {"the signature expires", more(5, 3, 0, 0, 0, 0)},
		"critical notation":        {"critical subpacket 20", more(11, 0x94, 0x80, 0, 0, 0, 0, 1, 0, 1, 'a', 'b')},
		"critical unknown":         {"critical subpacket 100", more(2, 0xe4, 0)},
		"unknown":                  {"subpacket 100 has no place", more(2, 100, 0)},
		"key flags":                {"subpacket 27 has no place", more(2, 27, 2)},
		"embedded signature":       {"subpacket 32 has no place", more(3, 32, 4, 0)},
		"empty subpacket":          {"a subpacket has 0 bytes", more(0)},
		"cut-off subpacket":        {"a subpacket has 9 bytes and 1", more(9, 20)},
		"subpacket of five bytes":  {"in five bytes", more(255, 0, 0, 0, 2, 20, 0)},
		"cut-off subpacket length": {"length is cut off", more(192)},
		"other first two bytes":    {"something else, or was altered", func(p *pgpParts) { p.left = []byte{0, 0} }},
		"older than the key":       {"older than the key", func(p *pgpParts) { copy(p.hashed[25:], "\x65\x53\xf0\xff") }},
		"three numbers":            {"data behind the signature's numbers", func(p *pgpParts) { p.numbers = [][]byte{{0, 1, 1}, {0, 1, 1}, {0, 1, 1}} }},
		"one number":               {"a number is cut off", func(p *pgpParts) { p.numbers = [][]byte{{0, 1, 1}} }},
		"a cut-off number":         {"a number has 3 bytes and 1", func(p *pgpParts) { p.numbers = [][]byte{{0, 1, 1}, {0, 20, 1}} }},
		"a long number":            {"one of Ed25519 has 32", func(p *pgpParts) { p.numbers = [][]byte{appendNumber(nil, bytes.Repeat([]byte{1}, 33)), {0, 1, 1}} }},
		"RSA for an Ed25519 key":   {"the key is for EdDSA", func(p *pgpParts) { p.algo, p.numbers = algoRSA, [][]byte{{0, 1, 1}} }},
		"R of small order": {"something else or by another key", func(p *pgpParts) {
			s := &pgpSignature{hash: p.hash, signed: append([]byte{p.version, p.kind, p.algo, p.hash, 0, byte(len(p.hashed))}, p.hashed...)}
			sig := signWithIdentity(bytes.Repeat([]byte{1}, ed25519.SeedSize), s.digest(prehash(testSeal)))
			p.numbers = [][]byte{appendNumber(nil, sig[:32]), appendNumber(nil, bytes.TrimLeft(sig[32:], "\x00"))}
		}},
	} {
		packet := signParts(key, test.change)
		text, err := Canonical(packet)
		var sig *Signature
		if err == nil {
			sig, err = ParseSignature(text)
		}
		if err == nil {
			err = Verify(key.public, testSeal, sig)
		}
		if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: %v, want %q", what, err, test.says)
		}
	}
}

// What isn't signed may be in any form for Canonical, which makes one form of it, and in no other in a slot.
func TestOpenPGPUnsignedParts(t *testing.T) {
	key := pgpTestKey(t, 1)
	plain := signParts(key, func(*pgpParts) {})
	want := enarmor(plain)
	if got, err := ParseSignature(want); err != nil || !bytes.Equal(got.Bytes(), want) || got.KeyID() != key.public.id || got.Comment() != "" {
		t.Fatalf("%v, %v", got, err)
	}
	padded := func(p *pgpParts) {
		whole, err := parsePGPSignature(plain)
		must(t, err)
		for _, n := range whole.numbers {
			n = append([]byte{0}, n...)
			p.numbers = append(p.numbers, append([]byte{byte(len(n) * 8 >> 8), byte(len(n) * 8)}, n...))
		}
	}
	for what, change := range map[string]func(*pgpParts){
		"no unhashed subpackets": func(p *pgpParts) { p.unhashed = nil },
		"another key id":         func(p *pgpParts) { p.unhashed[5] ^= 1 },
		"key id in two parts":    func(p *pgpParts) { p.unhashed = append(p.unhashed, p.unhashed...) },
		"unhashed notation":      func(p *pgpParts) { p.unhashed = append(p.unhashed, 11, 20, 0x80, 0, 0, 0, 0, 1, 0, 1, 'a', 'b') },
		"unhashed expiry":        func(p *pgpParts) { p.unhashed = append(p.unhashed, 5, 3, 0, 0, 0, 9) },
		"unhashed garbage":       func(p *pgpParts) { p.unhashed = []byte{255, 255, 255} },
		"new header": func(p *pgpParts) {
			p.header = func(b []byte) []byte { return append([]byte{0xc2, byte(len(b))}, b...) }
		},
		"old header, two bytes": func(p *pgpParts) {
			p.header = func(b []byte) []byte { return append([]byte{0x89, 0, byte(len(b))}, b...) }
		},
		"old header, four bytes": func(p *pgpParts) {
			p.header = func(b []byte) []byte { return append([]byte{0x8a, 0, 0, 0, byte(len(b))}, b...) }
		},
		"new header, five bytes": func(p *pgpParts) {
			p.header = func(b []byte) []byte { return append([]byte{0xc2, 255, 0, 0, 0, byte(len(b))}, b...) }
		},
		"numbers with leading zeros":  padded,
		"numbers' length in bits off": func(p *pgpParts) { padded(p); p.numbers[0][1]-- },
	} {
		loose := signParts(key, change)
		if _, err := ParseSignature(enarmor(loose)); err == nil {
			t.Errorf("%s: a slot takes it", what)
		}
		if got, err := Canonical(loose); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v\n%s", what, err, got)
		}
	}
	for what, header := range map[string]func([]byte) []byte{
		"no packet":             func(b []byte) []byte { return b },
		"another packet":        func(b []byte) []byte { return append([]byte{0x98, byte(len(b))}, b...) },
		"old header, no length": func(b []byte) []byte { return append([]byte{0x8b}, b...) },
		"new header, in parts":  func(b []byte) []byte { return append([]byte{0xc2, 0xe0 | 7}, b...) },
		"too long":              func(b []byte) []byte { return append([]byte{0x88, byte(len(b) + 1)}, b...) },
		"too short":             func(b []byte) []byte { return append([]byte{0x88, byte(len(b) - 1)}, b...) },
		"two packets":           func(b []byte) []byte { return append(oldHeader(b), oldHeader(b)...) },
		"a marker behind":       func(b []byte) []byte { return append(oldHeader(b), 0xca, 3, 'P', 'G', 'P') },
	} {
		packet := signParts(key, func(p *pgpParts) { p.header = header })
		if got, err := Canonical(packet); err == nil {
			t.Errorf("%s: taken as %s", what, got)
		}
		if _, err := ParseSignature(enarmor(packet)); err == nil {
			t.Errorf("%s: a slot takes it", what)
		}
	}
	for n := range plain {
		if _, err := Canonical(enarmor(plain[:n])); err == nil {
			t.Errorf("cut off after %d bytes: taken", n)
		}
	}
}

// A key that is listed must be a good one; its text has one form.
func TestOpenPGPKeyRules(t *testing.T) {
	good := edBody(testKey(t, 1).private[32:])
	e := []byte{1, 0, 1}
	for what, test := range map[string]struct {
		says string
		body []byte
	}{
		"Ed25519":              {"", good},
		"RSA":                  {"", rsaBody(2048, e)},
		"RSA, 8,192 bits":      {"", rsaBody(8192, []byte{0x7f, 0xff, 0xff, 0xff})},
		"RSA, 3":               {"", rsaBody(2048, []byte{3})},
		"RSA, 2,047 bits":      {"2047 bits", rsaBody(2047, e)},
		"RSA, 8,193 bits":      {"bits", rsaBody(8193, e)},
		"RSA, 1,024 bits":      {"1024 bits", rsaBody(1024, e)},
		"RSA, even":            {"even", bytes.Replace(rsaBody(2048, e), []byte{1, 0, 17}, []byte{0, 0, 17}, 1)},
		"RSA, exponent 1":      {"exponent", rsaBody(2048, []byte{1})},
		"RSA, even exponent":   {"exponent", rsaBody(2048, []byte{4})},
		"RSA, large exponent":  {"exponent", rsaBody(2048, []byte{0x80, 0, 0, 1})},
		"RSA, no exponent":     {"exponent", rsaBody(2048, nil)},
		"RSA, data behind":     {"canonical form", append(rsaBody(2048, e), 0)},
		"RSA, leading zeros":   {"canonical form", bytes.Replace(rsaBody(2048, e), []byte{0, 17, 1, 0, 1}, []byte{0, 24, 1, 0, 1}, 1)},
		"RSA, cut off":         {"a number", rsaBody(2048, e)[:100]},
		"version 3":            {"version 3", append([]byte{3}, good[1:]...)},
		"version 6":            {"version 6", append([]byte{6}, good[1:]...)},
		"too long":             {"the limit is", make([]byte, maxKeyBody+1)},
		"cut off":              {"cut off", good[:5]},
		"another curve":        {"another curve", bytes.Replace(good, []byte("\xda\x47\x0f\x01"), []byte("\xda\x47\x0f\x02"), 1)},
		"compressed otherwise": {"native form", bytes.Replace(good, []byte{7, 0x40}, []byte{7, 0x41}, 1)},
		"point of 31 bytes":    {"native form", good[:len(good)-1]},
		"data behind":          {"native form", append(bytes.Clone(good), 0)},
		"small order":          {"small", edBody(make([]byte, 32))},
		"Elgamal":              {"Elgamal (16)", append([]byte{4, 0, 0, 0, 0, 16}, good[6:]...)},
		"RSA for signing":      {"(3)", append([]byte{4, 0, 0, 0, 0, 3}, rsaBody(2048, e)[6:]...)},
		"Ed25519 in new form":  {"(27)", append([]byte{4, 0, 0, 0, 0, 27}, good[19:]...)},
	} {
		k, err := fromPGPBody(test.body)
		if err == nil {
			k, err = ParsePublicKey(base64.StdEncoding.EncodeToString(test.body))
		}
		if test.says == "" && (err != nil || k.Type() != TypeOpenPGP || len(k.KeyID()) != 40) || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: %v, %v, want %q", what, k, err, test.says)
		}
	}
	text := base64.StdEncoding.EncodeToString(rsaBody(2048, e))
	for what, odd := range map[string]string{"line break": text[:60] + "\n" + text[60:], "tail bits": text[:len(text)-1] + "B", "cut off": text[:len(text)-1], "too long": strings.Repeat("A", 2000)} {
		if _, err := ParsePublicKey(odd); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}

// One key counts once, also when it comes as one of minisign and one of OpenPGP, or under two fingerprints.
func TestT2OneKeyOfTwoTypes(t *testing.T) {
	mini, pgp := testKey(t, 1).Public(), pgpTestKey(t, 1).Public()
	later := edBody(testKey(t, 1).private[32:])
	later[4]++
	again, err := fromPGPBody(later)
	must(t, err)
	rsa, err := fromPGPBody(rsaBody(2048, []byte{1, 0, 1}))
	must(t, err)
	rsa3, err := fromPGPBody(rsaBody(2048, []byte{3}))
	must(t, err)
	for what, keys := range map[string][2]PublicKey{"both types": {mini, pgp}, "two fingerprints": {pgp, again}, "one modulus": {rsa, rsa3}} {
		d := NewDocument()
		must(t, d.AddHolder("alice", keys[0]))
		if err := d.AddHolder("bob", keys[1]); err == nil || !strings.Contains(err.Error(), "is listed twice") {
			t.Errorf("%s: %v", what, err)
		}
	}
	d := NewDocument()
	if err := d.AddStation("high", "", pgp); err == nil || !strings.Contains(err.Error(), "a station's log is signed with one of minisign") {
		t.Errorf("a station with a key of OpenPGP: %v", err)
	}
	if _, err := pgp.NoteVerifier("x"); err == nil {
		t.Error("a key of OpenPGP verifies notes")
	}
	must(t, d.AddHolder("alice", pgp, rsa))
	must(t, d.SetRoot(1, "alice"))
	data, err := d.Encode()
	must(t, err)
	parsed, err := Parse(data)
	must(t, err)
	if keys := parsed.Holders[0].Keys; len(keys) != 2 || keys[0].Type != TypeOpenPGP || !slices.Contains(keys, Key{pgp, TypeOpenPGP}) {
		t.Errorf("%+v", keys)
	}
	for _, change := range [][2]string{{`"type":"openpgp"`, `"type":"minisign"`}, {`"type":"openpgp"`, `"type":"gnupg"`}} {
		_, err := Parse(bytes.Replace(data, []byte(change[0]), []byte(change[1]), 1))
		wantCode(t, change[1], CodeBadTrust, err)
	}
}

// Slots may hold both kinds; each is verified, and an unknown one passes only when that is allowed.
func TestAuthorizeBothKinds(t *testing.T) {
	s := newSite(t)
	carol, stranger, mini := pgpTestKey(t, 60), pgpTestKey(t, 61), testKey(t, 62)
	d := s.doc.clone()
	must(t, d.AddHolder("carol", carol.Public()))
	data, err := d.Encode()
	must(t, err)
	root, err := Accept(data, map[string][]byte{"rita": s.sign(t, "rita", data), "ron": s.sign(t, "ron", data)})
	must(t, err)
	by := func(k *SecretKey, message []byte) []byte {
		sig, err := Sign(k, message, "", testTime)
		must(t, err)
		return sig
	}
	good := [][]byte{s.sign(t, "alice", testSeal), s.sign(t, "bob", testSeal), by(carol, testSeal)}
	auth, err := root.Authorize("demo", testSeal, fill(t, good...), AuthorizeOptions{})
	must(t, err)
	if len(auth.Signers) != 3 || auth.Signers[2] != (Signer{"carol", RoleApprover, carol.Public().KeyID(), ""}) {
		t.Errorf("%+v", auth.Signers)
	}
	forged := by(stranger, testSeal)
	for what, test := range map[string]struct {
		code string
		sig  []byte
	}{
		"another message":  {CodeBadSignature, by(carol, []byte("x"))},
		"T2 twice":         {CodeBadSlot, signAt(t, carol, testTime.Add(time.Second))},
		"T3 a stranger":    {CodeUnknownSigner, forged},
		"T3 minisign's":    {CodeUnknownSigner, by(mini, testSeal)},
		"T15 claims carol": {CodeBadSignature, claim(t, stranger, carol.Public())},
	} {
		sigs := append(slices.Clone(good), test.sig)
		if what == "another message" {
			sigs = append(slices.Clone(good[:2]), test.sig)
		}
		_, err := root.Authorize("demo", testSeal, fill(t, sigs...), AuthorizeOptions{})
		wantCode(t, what, test.code, err)
	}
	auth, err = root.Authorize("demo", testSeal, fill(t, append(good, forged)...), AuthorizeOptions{AllowUnknownSigners: true})
	if must(t, err); len(auth.Unknown) != 1 || auth.Unknown[0] != stranger.Public().KeyID() {
		t.Errorf("%+v", auth.Unknown)
	}
}

func signAt(t testing.TB, k *SecretKey, at time.Time) []byte {
	t.Helper()
	sig, err := Sign(k, testSeal, "", at)
	must(t, err)
	return sig
}

// claim is a signature by k that says it is by another key.
func claim(t testing.TB, k *SecretKey, other PublicKey) []byte {
	t.Helper()
	text, err := Canonical(signParts(k, func(p *pgpParts) { copy(p.hashed[3:], fromHex(string(other.id))) }))
	must(t, err)
	return text
}

// A trust root's signatures lie beside it under names that say their kind.
func TestLoadOpenPGP(t *testing.T) {
	olga, ivan := pgpTestKey(t, 70), testKey(t, 71)
	second := testKey(t, 72)
	d := NewDocument()
	must(t, d.AddHolder("olga", olga.Public(), second.Public()))
	must(t, d.AddHolder("ivan", ivan.Public()))
	must(t, d.SetRoot(1, "olga", "ivan"))
	data, err := d.Encode()
	must(t, err)
	byOlga, err := Sign(olga, data, "", testTime)
	must(t, err)
	byIvan, err := Sign(ivan, data, "", testTime)
	must(t, err)
	bySecond, err := Sign(second, data, "", testTime)
	must(t, err)
	for what, test := range map[string]struct {
		code  string
		files map[string][]byte
	}{
		"OpenPGP":             {"", map[string][]byte{"olga.asc": byOlga}},
		"both":                {"", map[string][]byte{"olga.asc": byOlga, "ivan.minisig": byIvan}},
		"not HOLDER.asc":      {CodeTrustThreshold, map[string][]byte{"asc": byOlga}},
		"wrong suffix":        {CodeBadTrust, map[string][]byte{"olga.minisig": byOlga}},
		"other wrong suffix":  {CodeBadTrust, map[string][]byte{"ivan.asc": byIvan}},
		"two of one":          {CodeBadTrust, map[string][]byte{"olga.asc": byOlga, "olga.minisig": bySecond}},
		"a stranger's name":   {CodeBadTrust, map[string][]byte{"olga.asc": byOlga, "zoe.asc": byOlga}},
		"no name":             {CodeBadTrust, map[string][]byte{"olga.asc": byOlga, "Ol ga.asc": byOlga}},
		"somebody else's":     {CodeBadTrust, map[string][]byte{"ivan.asc": byOlga}},
		"filled like a slot":  {CodeBadTrust, map[string][]byte{"olga.asc": append(bytes.Clone(byOlga), '\n')}},
		"empty, and the same": {CodeBadTrust, map[string][]byte{"olga.asc": {}, "olga.minisig": {}}},
	} {
		dir := t.TempDir()
		write(t, dir, "trust.json", data)
		for name, sig := range test.files {
			write(t, dir, "trust.json."+name, sig)
		}
		_, err := Load(dir + "/trust.json")
		wantCode(t, what, test.code, err)
	}
	for id, want := range map[KeyID]string{olga.Public().KeyID(): "d/trust.json.olga.asc", ivan.Public().KeyID(): "d/trust.json.olga.minisig"} {
		if name, err := SignatureName("d/trust.json", "olga", id); err != nil || name != want {
			t.Errorf("%s, %v, want %s", name, err, want)
		}
	}
	if err := Verify(ivan.Public(), data, mustParse(t, byOlga)); !errors.Is(err, ErrBadSignature) {
		t.Errorf("another kind of key: %v", err)
	}
}

func mustParse(t testing.TB, sig []byte) *Signature {
	t.Helper()
	s, err := ParseSignature(sig)
	must(t, err)
	return s
}
