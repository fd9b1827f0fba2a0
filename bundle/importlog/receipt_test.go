package importlog

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"sallyport/bundle/canonjson"
)

// acceptedReceipt makes a receipt in a log with other entries around it.
func acceptedReceipt(t testing.TB) (*Log, []byte) {
	_, l := newLog(t, 3)
	_, err := logAccept(l, "tools", 1, "")
	check(t, err)
	for range 5 {
		_, err := l.LogRefused(Refusal{Code: "gap"}, when)
		check(t, err)
	}
	e, err := l.entry(t.Context(), 3)
	check(t, err)
	r, err := l.receipt(e)
	check(t, err)
	return l, r.JSON()
}

// T20: only what the station logged passes, and it says for which bundle.
func TestVerifyReceipt(t *testing.T) {
	l, data := acceptedReceipt(t)
	signer, verifier := testKey(t, "north", 1)
	s, err := VerifyReceipt(data, verifier)
	check(t, err)
	_, d := testSeal("tools", 1, "", "tools1")
	if s.Station != "north" || s.Index != 3 || s.Channel != "tools" || s.Sequence != 1 || s.SealDigest != hex.EncodeToString(d[:]) || len(s.BundleID) != 64 || s.Time != when.Unix()+2 {
		t.Errorf("statement %+v", s)
	}

	_, southVerifier := testKey(t, "south", 1)
	_, otherVerifier := testKey(t, "north", 2)
	for _, v := range []note.Verifier{southVerifier, otherVerifier} {
		if _, err := VerifyReceipt(data, v); codeOf(err) != "bad-receipt" {
			t.Errorf("replayed as one of %s: %v", v.Name(), err)
		}
	}
	var good receiptJSON
	check(t, canonjson.Decode(data, &good, maxReceiptBytes))
	_, l2 := newLog(t, 9)
	refusal, err := l.entry(t.Context(), 4)
	check(t, err)
	refusalProof, err := l.Proof(4)
	check(t, err)
	oneEntry, err := signCheckpoint(l.Head().Tree, signer)
	check(t, err)
	for what, change := range map[string]func(*receiptJSON){
		"type":                         func(r *receiptJSON) { r.Type = "sallyport-seal" },
		"index":                        func(r *receiptJSON) { r.Index = 4 },
		"index past the end":           func(r *receiptJSON) { r.Index = 9 },
		"negative index":               func(r *receiptJSON) { r.Index = -1 },
		"no proof":                     func(r *receiptJSON) { r.Proof = nil },
		"a hash less":                  func(r *receiptJSON) { r.Proof = r.Proof[1:] },
		"a hash more":                  func(r *receiptJSON) { r.Proof = append([]string{r.Proof[0]}, r.Proof...) },
		"many hashes":                  func(r *receiptJSON) { r.Proof = strings.Split(strings.Repeat(r.Proof[0]+" ", 65), " ") },
		"hashes exchanged":             func(r *receiptJSON) { r.Proof[0], r.Proof[1] = r.Proof[1], r.Proof[0] },
		"tail bits of a hash":          func(r *receiptJSON) { r.Proof[0] = tailBits(r.Proof[0]) },
		"checkpoint of another log":    func(r *receiptJSON) { r.Checkpoint = string(l2.Head().Note) },
		"checkpoint unsigned":          func(r *receiptJSON) { r.Checkpoint = r.Checkpoint[:strings.Index(r.Checkpoint, "—")] },
		"checkpoint with another size": func(r *receiptJSON) { r.Checkpoint = strings.Replace(r.Checkpoint, "\n9\n", "\n8\n", 1) },
		"entry of another bundle": func(r *receiptJSON) {
			r.Entry = bytes.Replace(r.Entry, []byte(`"sequence":1`), []byte(`"sequence":2`), 1)
		},
		"entry of another time": func(r *receiptJSON) { r.Entry = bytes.Replace(r.Entry, []byte(`"time":1`), []byte(`"time":2`), 1) },
		"entry is a refusal": func(r *receiptJSON) {
			r.Entry, r.Index, r.Checkpoint, r.Proof = trimNewlines(refusal.JSON), 4, string(oneEntry), []string{}
			for _, h := range refusalProof {
				r.Proof = append(r.Proof, h.String())
			}
		},
	} {
		r := good
		r.Proof = append([]string{}, good.Proof...)
		r.Entry = bytes.Clone(good.Entry)
		change(&r)
		forged, err := canonjson.Encode(r)
		check(t, err)
		var refused *RefusedError
		if _, err := VerifyReceipt(forged, verifier); !errors.As(err, &refused) || refused.Code != "bad-receipt" {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, forged := range map[string][]byte{
		"empty":          nil,
		"a space":        bytes.Replace(data, []byte(":"), []byte(": "), 1),
		"two of them":    append(bytes.Clone(data), data...),
		"too long":       append(bytes.Clone(data), bytes.Repeat([]byte(" "), maxReceiptBytes)...),
		"station's word": bytes.Replace(data, []byte(`\"station\":\"north\"`), []byte(`\"station\":\"south\"`), 1)[1:],
	} {
		if _, err := VerifyReceipt(forged, verifier); codeOf(err) != "bad-receipt" {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Every byte counts.
	for i := range data {
		forged := bytes.Clone(data)
		forged[i] ^= 1
		if s, err := VerifyReceipt(forged, verifier); err == nil {
			t.Errorf("byte %d changed: %+v", i, s)
		}
	}
}

// An entry that names another station doesn't become ours by standing in our log.
func TestReceiptOfAnotherStation(t *testing.T) {
	_, l := newLog(t, 0)
	_, err := logAccept(l, "tools", 1, "")
	check(t, err)
	entry := strings.Replace(string(entryAt(t, l, 0)), `"north"`, `"south"`, 1)
	_, verifier := testKey(t, "north", 1)
	_, l = newLog(t, 0)
	check(t, l.write(&Entry{JSON: []byte(entry)}))
	proof := receiptJSON{Checkpoint: string(l.Head().Note), Entry: trimNewlines([]byte(entry)), Proof: []string{}, Type: receiptType}
	data, err := canonjson.Encode(proof)
	check(t, err)
	if _, err := VerifyReceipt(data, verifier); codeOf(err) != "bad-receipt" || !strings.Contains(err.Error(), "south") {
		t.Errorf("%v", err)
	}
}

// tailBits changes the bits of base64 that no byte has.
func tailBits(s string) string {
	i := len(s) - 2 // before the padding
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	return s[:i] + string(alphabet[strings.IndexByte(alphabet, s[i])^1]) + s[i+1:]
}

func FuzzVerifyReceipt(f *testing.F) {
	_, data := acceptedReceipt(f)
	f.Add(data)
	_, verifier := testKey(f, "north", 1)
	good, err := VerifyReceipt(data, verifier)
	check(f, err)
	f.Fuzz(func(t *testing.T, forged []byte) {
		// Signatures of others may be added to the checkpoint, nothing else.
		if s, err := VerifyReceipt(forged, verifier); err == nil && !reflect.DeepEqual(s, good) {
			t.Fatalf("%q gives %+v", forged, s)
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	_, l := newLog(f, 1)
	f.Add(l.Head().Note)
	_, verifier := testKey(f, "north", 1)
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := ParseCheckpoint(data, verifier); err == nil && c.Tree != l.Head().Tree {
			t.Fatalf("%q gives %+v", data, c)
		}
	})
}
