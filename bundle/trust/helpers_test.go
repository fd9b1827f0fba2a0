package trust

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/blake2b"
)

// testKey is a key that is always the same for the same n.
func testKey(t testing.TB, n byte) *SecretKey {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
	id := blake2b.Sum256(private[ed25519.SeedSize:])
	raw := make([]byte, secretRawBytes)
	copy(raw, "Ed"+kdfNone+"B2")
	copy(raw[bodyAt:seedAt], id[:8])
	copy(raw[seedAt:], private)
	k, err := fromRaw(raw)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// withID is the key under another id.
func withID(p PublicKey, id KeyID) PublicKey {
	p.id = id
	return p
}

// A site is a trust root with people: channel "demo" needs alice or anna to prepare and two of bob, carol and
// dave to approve; channel "other" is prepared by erin and approved by bob; bob has two keys; rita, ron and rose
// are root holders, of whom two must sign.
type site struct {
	keys map[string]*SecretKey
	doc  *Document
	data []byte
	sigs map[string][]byte
	root *Root
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{keys: map[string]*SecretKey{}, doc: NewDocument(), sigs: map[string][]byte{}}
	for i, name := range []string{"rose", "ron", "rita", "erin", "dave", "carol", "bob", "anna", "alice"} {
		s.keys[name] = testKey(t, byte(1+i))
		must(t, s.doc.AddHolder(name, s.keys[name].Public()))
	}
	s.keys["bob2"], s.keys["high"], s.keys["foreign"] = testKey(t, 100), testKey(t, 101), testKey(t, 102)
	must(t, s.doc.AddHolder("bob", s.keys["bob2"].Public()))
	must(t, s.doc.AddStation("high", "", s.keys["high"].Public()))
	must(t, s.doc.AddChannel(Channel{
		Name: "other", Destination: "high", Gaps: GapsReason, MaxJump: 5, MaxAge: 60,
		Preparers: Role{Holders: []string{"erin"}, Threshold: 1},
		Approvers: Role{Holders: []string{"bob"}, Threshold: 1},
	}))
	must(t, s.doc.AddChannel(Channel{
		Name: "demo", Destination: "high", Gaps: GapsRefuse, MaxJump: 1000,
		Preparers: Role{Holders: []string{"anna", "alice"}, Threshold: 1},
		Approvers: Role{Holders: []string{"dave", "carol", "bob"}, Threshold: 2},
	}))
	must(t, s.doc.SetRoot(2, "rose", "ron", "rita"))
	var err error
	s.data, err = s.doc.Encode()
	must(t, err)
	for _, name := range []string{"rita", "ron"} {
		s.sigs[name] = s.sign(t, name, s.data)
	}
	s.root, err = Accept(s.data, s.sigs)
	must(t, err)
	return s
}

func (s *site) sign(t testing.TB, key string, message []byte) []byte {
	t.Helper()
	sig, err := Sign(s.keys[key], message, "sallyport-seal SEAL.json", testTime)
	must(t, err)
	return sig
}

// slots fills slots with signatures over message by the named keys.
func (s *site) slots(t testing.TB, message []byte, keys ...string) [][]byte {
	t.Helper()
	var sigs [][]byte
	for _, k := range keys {
		sigs = append(sigs, s.sign(t, k, message))
	}
	return fill(t, sigs...)
}

func fill(t testing.TB, sigs ...[]byte) [][]byte {
	t.Helper()
	slots := make([][]byte, Slots)
	for i := range slots {
		var sig []byte
		if i < len(sigs) {
			sig = sigs[i]
		}
		slot, err := EncodeSlot(sig)
		must(t, err)
		slots[i] = slot[:]
	}
	return slots
}

var testSeal = append([]byte(`{"type":"sallyport-seal"}`), bytes.Repeat([]byte("\n"), 8192-25)...)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantCode demands a refusal with that code; code "" demands no error.
func wantCode(t testing.TB, what, code string, err error) {
	t.Helper()
	var refused interface{ RefusalCode() string }
	switch {
	case code == "" && err != nil:
		t.Errorf("%s: %v", what, err)
	case code == "":
	case err == nil:
		t.Errorf("%s: was taken, want %s", what, code)
	case !errors.As(err, &refused):
		t.Errorf("%s: %v is no refusal, want %s", what, err, code)
	case refused.RefusalCode() != code:
		t.Errorf("%s: refused with %s (%v), want %s", what, refused.RefusalCode(), err, code)
	}
}

// stock runs the stock minisign in dir; input goes to its standard input.
func stock(t testing.TB, dir, input string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("minisign"); err != nil {
		t.Fatalf("the stock minisign is needed as a peer: %v", err)
	}
	cmd := exec.Command("minisign", args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustStock(t testing.TB, dir, input string, args ...string) {
	t.Helper()
	if out, err := stock(t, dir, input, args...); err != nil {
		t.Fatalf("minisign %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func write(t testing.TB, dir, name string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
}

func read(t testing.TB, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	must(t, err)
	return data
}

// testTime is when the tests sign with OpenPGP.
var testTime = time.Unix(1700000000, 0)

func le64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

func blakeOf(message []byte) []byte {
	sum := blake2b.Sum512(message)
	return sum[:]
}
