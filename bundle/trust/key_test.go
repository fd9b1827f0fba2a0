package trust

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Keys and signatures go both ways between here and the stock tool, without passwords.
func TestStockPlain(t *testing.T) {
	dir := t.TempDir()
	message := []byte("carried by hand\n")
	write(t, dir, "m", message)

	mustStock(t, dir, "", "-G", "-W", "-p", "stock.pub", "-s", "stock.key")
	key, err := ParseSecretKey(read(t, dir, "stock.key"))
	must(t, err)
	pub, err := ParsePublicKeyFile(read(t, dir, "stock.pub"))
	must(t, err)
	if key.Public() != pub {
		t.Fatalf("secret key %s has public key %s, the .pub file has %s", key, key.Public(), pub)
	}
	if !bytes.Contains(read(t, dir, "stock.pub"), []byte("key "+strings.TrimLeft(pub.KeyID().String(), "0")+"\n")) {
		t.Errorf("key id %s is not what stock prints: %s", pub.KeyID(), read(t, dir, "stock.pub"))
	}
	if string(key.Encode()) != string(read(t, dir, "stock.key")) {
		t.Error("a stock key encodes to another file")
	}

	// Stock signs with its own key, and with one of ours.
	ours, err := GenerateKey()
	must(t, err)
	write(t, dir, "ours.key", ours.Encode())
	write(t, dir, "ours.pub", ours.Public().File())
	mustStock(t, dir, "", "-R", "-s", "ours.key", "-p", "again.pub")
	if again, err := ParsePublicKeyFile(read(t, dir, "again.pub")); err != nil || again != ours.Public() {
		t.Errorf("stock takes the public key %s out of our file, not %s (%v)", again, ours.Public(), err)
	}
	for _, k := range []struct {
		name string
		pub  PublicKey
	}{{"stock", pub}, {"ours", ours.Public()}} {
		for _, comment := range []string{"", "sallyport-seal SEAL.json", " a\tb ", strings.Repeat("x", MaxComment)} {
			args := []string{"-S", "-s", k.name + ".key", "-m", "m", "-x", "m.minisig"}
			if comment != "" { // stock makes one up otherwise
				args = append(args, "-t", comment)
			}
			mustStock(t, dir, "", args...)
			sig, err := ParseSignature(read(t, dir, "m.minisig"))
			if err != nil {
				t.Errorf("%s key, comment %q: %v", k.name, comment, err)
				continue
			}
			if err := Verify(k.pub, message, sig); err != nil {
				t.Errorf("%s key, comment %q: %v", k.name, comment, err)
			}
			if comment != "" && sig.Comment() != comment {
				t.Errorf("comment %q became %q", comment, sig.Comment())
			}
		}
	}

	// Stock takes our signatures, from a file and from a slot as it is cut out of a disc.
	for _, k := range []struct {
		name string
		key  *SecretKey
	}{{"stock", key}, {"ours", ours}} {
		for _, comment := range []string{"", "sallyport-seal SEAL.json", " a\tb ", strings.Repeat("x", MaxComment)} {
			sig, err := Sign(k.key, message, comment, testTime)
			must(t, err)
			slot, err := EncodeSlot(sig)
			must(t, err)
			for _, file := range [][]byte{sig, slot[:]} {
				write(t, dir, "x.minisig", file)
				mustStock(t, dir, "", "-V", "-p", k.name+".pub", "-m", "m", "-x", "x.minisig")
				mustStock(t, dir, "", "-V", "-P", k.key.Public().String(), "-m", "m", "-x", "x.minisig")
			}
		}
	}
}

// A key encrypted here is opened by stock minisign, which signs with it, and by aead.dev/minisign.
func TestEncryptForStock(t *testing.T) {
	t.Parallel()
	const password = "correct horse: \"battery\" stäple"
	dir := t.TempDir()
	key := testKey(t, 7)
	file, err := key.Encrypt(password)
	must(t, err)
	write(t, dir, "our.key", file)
	write(t, dir, "m", testSeal)
	mustStock(t, dir, password+"\n", "-S", "-s", "our.key", "-m", "m")
	sig, err := ParseSignature(read(t, dir, "m.minisig"))
	must(t, err)
	if err := Verify(key.Public(), testSeal, sig); err != nil {
		t.Error(err)
	}
	if out, err := stock(t, dir, "wrong\n", "-S", "-s", "our.key", "-m", "m"); err == nil || !strings.Contains(out, "Wrong password") {
		t.Errorf("stock with a wrong password: %v, %s", err, out)
	}
	if _, err := ParseSecretKey(file); !errors.Is(err, ErrNeedsPassword) {
		t.Errorf("without a password: %v", err)
	}
	again, err := DecryptSecretKey(file, password) // through aead.dev/minisign's DecryptKey
	must(t, err)
	if string(again.Encode()) != string(key.Encode()) {
		t.Errorf("%s became %s", key, again)
	}
}

// Stock minisign lowers its cost when memory is short, which makes a stock key that is cheap to test with.
func TestDecryptStock(t *testing.T) {
	t.Parallel()
	const password = "Pass wörd"
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", "ulimit -v 60000; exec minisign -G -p stock.pub -s stock.key")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(password+"\n"+password+"\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("minisign -G: %v\n%s", err, out)
	}
	checkStockKey(t, dir, password)
}

// The full cost of stock minisign takes 1 GiB, and several with the race detector.
func TestDecryptStockFullCost(t *testing.T) {
	if os.Getenv("SALLYPORT_BIG") != "1" {
		t.Log("NOT TESTED without SALLYPORT_BIG=1: a password at stock minisign's full cost of 1 GiB")
		return
	}
	const password = "pw"
	dir := t.TempDir()
	mustStock(t, dir, password+"\n"+password+"\n", "-G", "-p", "stock.pub", "-s", "stock.key")
	checkStockKey(t, dir, password)
}

func checkStockKey(t *testing.T, dir, password string) {
	t.Helper()
	file := read(t, dir, "stock.key")
	if _, err := ParseSecretKey(file); !errors.Is(err, ErrNeedsPassword) {
		t.Errorf("without a password: %v", err)
	}
	if _, err := DecryptSecretKey(file, password+" "); !errors.Is(err, ErrWrongPassword) {
		t.Errorf("with a wrong password: %v", err)
	}
	key, err := DecryptSecretKey(file, password)
	must(t, err)
	pub, err := ParsePublicKeyFile(read(t, dir, "stock.pub"))
	must(t, err)
	if key.Public() != pub {
		t.Errorf("opened key %s, the .pub file has %s", key.Public(), pub)
	}
	write(t, dir, "m", testSeal)
	sig, err := Sign(key, testSeal, "", testTime)
	must(t, err)
	write(t, dir, "m.minisig", sig)
	mustStock(t, dir, "", "-V", "-p", "stock.pub", "-m", "m")
}

func TestEncryptPassword(t *testing.T) {
	key := testKey(t, 1)
	for name, password := range map[string]string{
		"empty": "", "line break": "a\nb", "carriage return": "a\r", "NUL": "a\x00b", "long": strings.Repeat("x", maxPassword+1),
	} {
		if _, err := key.Encrypt(password); err == nil {
			t.Errorf("%s: %.20q was taken", name, password)
		}
	}
}

func secretFile(edit func(raw []byte)) []byte {
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	raw := make([]byte, secretRawBytes)
	copy(raw, "Ed"+kdfNone+"B2")
	copy(raw[seedAt:], private)
	edit(raw)
	return encodeSecretFile(raw)
}

func TestParseSecretKey(t *testing.T) {
	good := secretFile(func([]byte) {})
	for name, file := range map[string][]byte{
		"plain":               good,
		"without end of line": bytes.TrimSuffix(good, []byte("\n")),
		"other comment":       append([]byte("untrusted comment: Bob's\n"), bytes.SplitN(good, []byte("\n"), 2)[1]...),
		"with a checksum": secretFile(func(raw []byte) {
			sum := secretSum(raw)
			copy(raw[sumAt:], sum[:])
		}),
	} {
		if _, err := ParseSecretKey(file); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, file := range map[string][]byte{
		"empty":           nil,
		"no comment":      bytes.SplitN(good, []byte("\n"), 2)[1],
		"comment only":    []byte(secretComment),
		"more after it":   append(bytes.Clone(good), "x\n"...),
		"two ends":        append(bytes.Clone(good), '\n'),
		"carriage return": bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")),
		"broken line":     append(append(bytes.Clone(good[:100]), '\n'), good[100:]...),
		"short":           append(bytes.Clone(good[:len(good)-5]), '\n'),
		"long comment":    append([]byte("untrusted comment: "+strings.Repeat("x", maxKeyFileBytes)+"\n"), good[len(secretComment):]...),
		"algorithm":       secretFile(func(raw []byte) { raw[0] = 'X' }),
		"hash":            secretFile(func(raw []byte) { raw[4] = 'X' }),
		"derivation":      secretFile(func(raw []byte) { raw[2] = 'X' }),
		"wrong checksum":  secretFile(func(raw []byte) { raw[sumAt+5] = 1 }),
		"public half":     secretFile(func(raw []byte) { raw[publicAt] ^= 1 }),
		"seed":            secretFile(func(raw []byte) { raw[seedAt] ^= 1 }),
		"public key file": testKey(t, 1).Public().File(),
	} {
		if k, err := ParseSecretKey(file); err == nil {
			t.Errorf("%s: was taken as %s", name, k)
		}
	}
}

// A key file can't make us spend more than stock minisign's own cost: it is refused before scrypt runs.
func TestScryptBounds(t *testing.T) {
	for name, cost := range map[string][2]uint64{
		"operations":      {maxOps + 1, maxMem},
		"memory":          {maxOps, maxMem + 1},
		"all operations":  {1<<64 - 1, minMem},
		"all memory":      {maxOps, 1<<64 - 1},
		"no memory":       {maxOps, 0},
		"few operations":  {0, minMem},
		"little memory":   {maxOps, minMem - 1},
		"less operations": {minOps - 1, minMem},
	} {
		file := secretFile(func(raw []byte) {
			copy(raw[2:], kdfScrypt)
			copy(raw[opsAt:], le64(cost[0]))
			copy(raw[memAt:], le64(cost[1]))
		})
		start := time.Now()
		_, err := DecryptSecretKey(file, "pw")
		if err == nil || errors.Is(err, ErrWrongPassword) || !strings.Contains(err.Error(), "scrypt") {
			t.Errorf("%s: %v, want an error about the cost", name, err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("%s: refused after %v", name, d)
		}
	}
	if _, err := DecryptSecretKey(secretFile(func([]byte) {}), "pw"); err == nil || errors.Is(err, ErrWrongPassword) {
		t.Errorf("a key without a password: %v", err)
	}
}

// No verb of fmt prints a secret.
func TestSecretStaysSecret(t *testing.T) {
	key := testKey(t, 'Q')
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		text := fmt.Sprintf(verb, key)
		if !strings.Contains(text, key.Public().KeyID().String()) {
			t.Errorf("%s prints %s, without the key's id", verb, text)
		}
		for _, secret := range []string{"QQQQ", "51515151", "81 81 81", "0x51, 0x51"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s prints %s", verb, text)
			}
		}
	}
}

func TestParsePublicKey(t *testing.T) {
	pub := testKey(t, 1).Public()
	text := pub.String()
	for name, file := range map[string]string{
		"file": string(pub.File()), "file without end": strings.TrimSuffix(string(pub.File()), "\n"), "bare": text, "bare with end": text + "\n",
	} {
		if p, err := ParsePublicKeyFile([]byte(file)); err != nil || p != pub {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	if p, err := ParsePublicKey(text); err != nil || p != pub {
		t.Errorf("%v, %v", p, err)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	must(t, err)
	legacy := bytes.Clone(raw)
	legacy[1] = 'D'
	for name, bad := range map[string]string{
		"empty": "", "short": text[:55], "long": text + "A", "line break": text[:54] + "\n" + text[54:55], "space": text[:55] + " ",
		"url alphabet": "_" + text[1:], "algorithm": base64.StdEncoding.EncodeToString(legacy), "two lines": text + "\n" + text,
		"comment": "untrusted comment: x", "secret key": string(testKey(t, 1).Encode()), "big": strings.Repeat("A", maxKeyFileBytes+1),
		"broken line": text[:28] + "\n" + text[28:], "two ends": text + "\n\n",
	} {
		if p, err := ParsePublicKey(bad); err == nil {
			t.Errorf("%s: was taken as %s", name, p)
		}
		if p, err := ParsePublicKeyFile([]byte(bad)); err == nil {
			t.Errorf("file, %s: was taken as %s", name, p)
		}
	}
}

// The station's key signs its log's checkpoints as a C2SP signed note.
func TestNote(t *testing.T) {
	const origin = "sallyport/high"
	key := testKey(t, 3)
	signer, err := key.NoteSigner(origin)
	must(t, err)
	text, err := note.Sign(&note.Note{Text: origin + "\n1\nroot\n"}, signer)
	must(t, err)
	verifier, err := key.Public().NoteVerifier(origin)
	must(t, err)
	if n, err := note.Open(text, note.VerifierList(verifier)); err != nil || len(n.Sigs) != 1 {
		t.Errorf("open: %v, %v", n, err)
	}
	// The same key made by the note package from the seed: algorithm 1 and the same key hash.
	skey := fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", origin, signer.KeyHash(),
		base64.StdEncoding.EncodeToString(append([]byte{1}, key.private.Seed()...)))
	peer, err := note.NewSigner(skey)
	must(t, err)
	again, err := note.Sign(&note.Note{Text: origin + "\n1\nroot\n"}, peer)
	must(t, err)
	if string(again) != string(text) {
		t.Errorf("the note package signs\n%s, not\n%s", again, text)
	}
	other, err := testKey(t, 4).Public().NoteVerifier(origin)
	must(t, err)
	if _, err := note.Open(text, note.VerifierList(other)); err == nil {
		t.Error("another key's verifier took the note")
	}
	for _, bad := range []string{"", "a b", "a+b", "\xff"} {
		if _, err := key.NoteSigner(bad); err == nil {
			t.Errorf("origin %q was taken", bad)
		}
	}
	if _, err := (PublicKey{}).NoteVerifier(origin); err == nil {
		t.Error("no key gave a verifier")
	}
}

func FuzzParseSecretKey(f *testing.F) {
	f.Add(secretFile(func([]byte) {}))
	f.Add(secretFile(func(raw []byte) { copy(raw[2:], kdfScrypt) }))
	f.Add([]byte(secretComment))
	f.Fuzz(func(t *testing.T, file []byte) {
		k, err := ParseSecretKey(file)
		if err != nil {
			return
		}
		again, err := ParseSecretKey(k.Encode())
		if err != nil || again.Public() != k.Public() {
			t.Fatalf("%q parses and doesn't come back: %v", file, err)
		}
	})
}

func FuzzParsePublicKeyFile(f *testing.F) {
	f.Add(testKey(f, 1).Public().File())
	f.Add([]byte(testKey(f, 1).Public().String()))
	f.Fuzz(func(t *testing.T, file []byte) {
		p, err := ParsePublicKeyFile(file)
		if err != nil {
			return
		}
		if again, err := ParsePublicKeyFile(p.File()); err != nil || again != p {
			t.Fatalf("%q parses and doesn't come back: %v", file, err)
		}
	})
}
