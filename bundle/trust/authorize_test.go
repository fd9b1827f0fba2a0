package trust

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"aead.dev/minisign"
)

func TestAuthorize(t *testing.T) {
	s := newSite(t)
	other := append([]byte("x"), testSeal[1:]...)
	sig := func(key string) []byte { return s.sign(t, key, testSeal) }
	good := [][]byte{sig("alice"), sig("bob"), sig("carol")}
	withGood := func(more ...[]byte) [][]byte { return fill(t, append(append([][]byte{}, good...), more...)...) }
	raw := s.keys["foreign"].raw(kdfNone)
	copy(raw[bodyAt:], appendMinisignID(nil, s.keys["dave"].Public().KeyID()))
	davesID, err := fromRaw(raw)
	must(t, err)

	for _, c := range []struct {
		name    string
		channel string
		code    string
		says    string
		slots   [][]byte
	}{
		{"good", "demo", "", "", fill(t, good...)},
		{"in any order", "demo", "", "", fill(t, good[2], good[0], good[1])},
		{"all of them", "demo", "", "", withGood(sig("dave"), sig("anna"))},
		{"all keys", "demo", "", "", withGood(sig("dave"), sig("anna"), sig("bob2"))},
		{"bob's other key", "demo", "", "", fill(t, good[0], sig("bob2"), good[2])},
		{"one key twice among enough", "demo", CodeBadSlot, "slots 1 and 3 are both signed with key", withGood(sig("bob"))},
		{"one key in all slots left", "demo", CodeBadSlot, "slots 0 and 3", withGood(sig("alice"), sig("alice"), sig("alice"), sig("alice"), sig("alice"))},

		{"T1 unsigned", "demo", CodeThreshold, "1 preparer needed, 0 signed; missing 1 of alice, anna; 2 approvers needed, 0 signed; missing 2 of bob, carol, dave", fill(t)},
		{"T1 foreign key", "demo", CodeUnknownSigner, "slot 0", fill(t, sig("foreign"))},
		{"T1 changed seal", "demo", CodeBadSignature, "slot 0", s.slots(t, other, "alice", "bob", "carol")},

		{"T2 one approver", "demo", CodeThreshold, "2 approvers needed, 1 signed: bob; missing 1 of carol, dave", fill(t, good[0], good[1])},
		{"T2 one key signs twice", "demo", CodeThreshold, "1 signed: bob;", fill(t, good[0], good[1], good[1])},
		{"T2 one key signs twice, other comment", "demo", CodeThreshold, "1 signed: bob;", fill(t, good[0], good[1], mustSign(t, s.keys["bob"], "again"))},
		{"T2 two keys of one holder", "demo", CodeThreshold, "1 signed: bob;", fill(t, good[0], good[1], sig("bob2"))},
		{"T2 one key fills all", "demo", CodeThreshold, "1 signed: bob;", s.slots(t, testSeal, "bob", "bob", "bob", "bob", "bob", "bob", "bob", "bob")},
		{"T2 no preparer", "demo", CodeThreshold, "1 preparer needed, 0 signed; missing 1 of alice, anna", s.slots(t, testSeal, "bob", "carol", "dave")},
		{"T2 preparers don't approve", "demo", CodeThreshold, "2 approvers needed, 1 signed: bob", s.slots(t, testSeal, "alice", "anna", "bob")},
		{"T2 k-1 good and a bad one", "demo", CodeBadSignature, "slot 2", fill(t, good[0], good[1], s.sign(t, "carol", other))},
		{"T12 k-1 keys stolen", "demo", CodeThreshold, "2 approvers needed", s.slots(t, testSeal, "alice", "anna", "carol")},

		{"T3 enough and one that doesn't verify", "demo", CodeBadSignature, "slot 3", withGood(s.sign(t, "dave", other))},
		{"T3 enough and one of a foreign key", "demo", CodeUnknownSigner, "slot 3", withGood(sig("foreign"))},
		{"T3 enough and a station's", "demo", CodeUnknownSigner, "station high", withGood(sig("high"))},
		{"T3 in the last slot", "demo", CodeUnknownSigner, "slot 7", withGood(sig("dave"), sig("anna"), sig("bob"), sig("bob"), sig("foreign"))},

		{"T14 approved for another channel", "other", CodeWrongRole, "alice", fill(t, good...)},
		{"T14 with enough for this one", "demo", CodeWrongRole, "erin", withGood(sig("erin"))},
		{"T14 a root holder", "demo", CodeWrongRole, "rita", withGood(sig("rita"))},
		{"unknown channel", "nope", CodeUnknownChannel, `"nope", only demo, other`, fill(t, good...)},
		{"T13 channel", "../demo", CodeUnknownChannel, "", fill(t, good...)},
		{"T13 channel with NUL", "demo\x00", CodeUnknownChannel, `"demo\x00"`, fill(t, good...)},
		{"empty channel", "", CodeUnknownChannel, "", fill(t, good...)},

		{"T15 trusted comment altered", "demo", CodeBadSignature, "slot 3", withGood(edit(sig("dave"), 2, func(l string) string { return l + "x" }))},
		{"T15 same key id, other key", "demo", CodeBadSignature, "slot 3", withGood(mustSign(t, davesID, "x"))},
		{"T15 made for another file", "demo", CodeBadSignature, "slot 3", withGood(s.sign(t, "dave", s.data))},
		{"T15 legacy Ed", "demo", CodeBadSlot, "slot 3", put(withGood(), 3, pad(minisign.SignWithComments(s.keys["dave"].minisign, testSeal, "x", signatureComment)))},

		{"no slots", "demo", CodeBadSlot, "0 slots", nil},
		{"seven slots", "demo", CodeBadSlot, "7 slots", fill(t, good...)[:7]},
		{"nine slots", "demo", CodeBadSlot, "9 slots", append(fill(t, good...), fill(t)[0])},
		{"a gap", "demo", CodeBadSlot, "slot 2 is filled and slot 1", fill(t, good[0], nil, good[1], good[2])},
		{"first slot empty", "demo", CodeBadSlot, "slot 1 is filled and slot 0", fill(t, nil, good[0], good[1], good[2])},
		{"rubbish in a slot", "demo", CodeBadSlot, "slot 5", put(fill(t, good...), 5, bytes.Repeat([]byte("x"), SlotSize))},
	} {
		auth, err := s.root.Authorize(c.channel, testSeal, c.slots, AuthorizeOptions{})
		wantCode(t, c.name, c.code, err)
		if (auth == nil) != (err != nil) {
			t.Errorf("%s: %v with %v", c.name, auth, err)
		}
		if err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q doesn't say %q", c.name, err, c.says)
		}
	}
}

func mustSign(t *testing.T, key *SecretKey, comment string) []byte {
	t.Helper()
	sig, err := Sign(key, testSeal, comment, testTime)
	must(t, err)
	return sig
}

func put(slots [][]byte, i int, slot []byte) [][]byte {
	slots[i] = slot
	return slots
}

// pad makes a slot of any text, as EncodeSlot won't.
func pad(text []byte) []byte {
	return append(bytes.Clone(text), bytes.Repeat([]byte("\n"), SlotSize-len(text))...)
}

// What an authorisation says goes into the log and onto the screen.
func TestAuthorization(t *testing.T) {
	s := newSite(t)
	auth, err := s.root.Authorize("demo", testSeal, s.slots(t, testSeal, "carol", "bob2", "alice", "bob"), AuthorizeOptions{})
	must(t, err)
	bobs := []KeyID{s.keys["bob"].Public().KeyID(), s.keys["bob2"].Public().KeyID()}
	slices.Sort(bobs)
	const comment = "sallyport-seal SEAL.json"
	want := []Signer{
		{"alice", RolePreparer, s.keys["alice"].Public().KeyID(), comment},
		{"bob", RoleApprover, bobs[0], comment},
		{"bob", RoleApprover, bobs[1], comment},
		{"carol", RoleApprover, s.keys["carol"].Public().KeyID(), comment},
	}
	if !slices.Equal(auth.Signers, want) || auth.Channel.Name != "demo" || len(auth.Unknown) != 0 {
		t.Errorf("got %+v, want signers %+v", auth, want)
	}
}

// T3: slots that other sites filled pass on demand, and count for nothing.
func TestAllowUnknownSigners(t *testing.T) {
	s := newSite(t)
	allow := AuthorizeOptions{AllowUnknownSigners: true}
	auth, err := s.root.Authorize("demo", testSeal, s.slots(t, testSeal, "foreign", "alice", "bob", "carol"), allow)
	must(t, err)
	if len(auth.Unknown) != 1 || auth.Unknown[0] != s.keys["foreign"].Public().KeyID() || len(auth.Signers) != 3 {
		t.Errorf("got %+v", auth)
	}
	for _, c := range []struct {
		name, code string
		slots      [][]byte
	}{
		{"unknown ones don't count", CodeThreshold, s.slots(t, testSeal, "foreign", "alice", "bob")},
		{"only unknown ones", CodeThreshold, s.slots(t, testSeal, "foreign", "foreign")},
		{"a station is known", CodeUnknownSigner, s.slots(t, testSeal, "alice", "bob", "carol", "high")},
		{"a bad one of a listed key", CodeBadSignature, fill(t, s.sign(t, "alice", testSeal), s.sign(t, "bob", testSeal), s.sign(t, "carol", testSeal), s.sign(t, "dave", s.data))},
		{"a listed holder without a role", CodeWrongRole, s.slots(t, testSeal, "alice", "bob", "carol", "erin")},
		{"rubbish", CodeBadSlot, put(s.slots(t, testSeal, "foreign", "alice", "bob", "carol"), 0, bytes.Repeat([]byte("x"), SlotSize))},
	} {
		_, err := s.root.Authorize("demo", testSeal, c.slots, allow)
		wantCode(t, c.name, c.code, err)
	}
}

// T12: a revoked key is one that the trust root doesn't list any more.
func TestT12RevokedKey(t *testing.T) {
	s := newSite(t)
	d := s.doc.clone()
	d.Version++
	for i := range d.Holders {
		if d.Holders[i].Name == "carol" {
			d.Holders[i].Keys = []Key{{Public: testKey(t, 201).Public(), Type: TypeMinisign}}
		}
	}
	data, err := d.Encode()
	must(t, err)
	root, err := Accept(data, map[string][]byte{"rita": s.sign(t, "rita", data), "rose": s.sign(t, "rose", data)})
	must(t, err)
	_, err = root.Authorize("demo", testSeal, s.slots(t, testSeal, "alice", "bob", "carol"), AuthorizeOptions{})
	wantCode(t, "carol's revoked key", CodeUnknownSigner, err)
}

// T1: whatever bit of a slot is changed, filled or empty, is a refusal, though the other slots are enough.
func TestT1SlotBits(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	slots := s.slots(t, testSeal, "dave", "alice", "bob", "carol") // the one changed comes first, so that little is verified
	if _, err := s.root.Authorize("demo", testSeal, slots, AuthorizeOptions{}); err != nil {
		t.Fatal(err)
	}
	codes := map[string]int{}
	for _, i := range []int{0, 4} {
		for bit := range SlotSize * 8 {
			slots[i][bit/8] ^= 1 << (bit % 8)
			_, err := s.root.Authorize("demo", testSeal, slots, AuthorizeOptions{})
			var refused *RefusedError
			if !errors.As(err, &refused) {
				t.Errorf("slot %d, byte %d, bit %d: %v, want a refusal", i, bit/8, bit%8, err)
			} else {
				codes[refused.Code]++
			}
			slots[i][bit/8] ^= 1 << (bit % 8)
		}
	}
	if codes[CodeBadSlot]+codes[CodeBadSignature]+codes[CodeUnknownSigner] != 2*SlotSize*8 || codes[CodeBadSignature] == 0 || codes[CodeUnknownSigner] == 0 {
		t.Errorf("refused with %v", codes)
	}
	t.Logf("refused with %v", codes)
}

// A message that lists a thousand names would hide the one that matters.
func TestMissingIsShort(t *testing.T) {
	var r Role
	for i := range 1000 {
		r.Holders = append(r.Holders, fmt.Sprintf("h%03d", i))
	}
	r.Threshold = 1000
	if m := r.missing(RoleApprover, r.Holders[:500]); len(m) > 300 || !strings.Contains(m, "missing 500 of h500, ") || !strings.Contains(m, "and 492 more") {
		t.Errorf("%d bytes: %.400s", len(m), m)
	}
}
