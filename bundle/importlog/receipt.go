package importlog

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"sallyport/bundle/canonjson"
)

const (
	receiptType     = "sallyport-receipt"
	maxReceiptBytes = 256 << 10
	maxProofHashes  = 64
)

// receiptJSON is a receipt as docs/format.md, section 13, has it.
type receiptJSON struct {
	Checkpoint string         `json:"checkpoint"`
	Entry      jsontext.Value `json:"entry"`
	Index      int64          `json:"index"`
	Proof      []string       `json:"proof"`
	Type       string         `json:"type"`
}

// A Receipt proves that a bundle was accepted and that the log has it. Only [Accept] makes one.
type Receipt struct {
	Statement
	log  *Log
	json []byte
}

// JSON returns the receipt as canonical JSON with a newline at its end. Not to be changed.
func (r *Receipt) JSON() []byte { return r.json }

// MarshalJSON returns [Receipt.JSON], so that a receipt can stand in other output.
func (r *Receipt) MarshalJSON() ([]byte, error) { return bytes.TrimSuffix(r.json, []byte("\n")), nil }

// A Statement is what a receipt says.
type Statement struct {
	Station    string
	Index      int64 // of the accept entry in the station's log
	Time       int64 // of acceptance, seconds since 1970
	Channel    string
	Sequence   int64
	BundleID   string
	SealDigest string
	GapReason  string
	Signers    []Signer
}

func statement(e *Entry) Statement {
	a := e.Accept
	return Statement{
		Station: e.Station, Index: e.Index, Time: e.Time, Channel: a.seal.Channel, Sequence: a.seal.Sequence,
		BundleID: a.seal.BundleID, SealDigest: a.SealDigest, GapReason: a.GapReason, Signers: a.Signers,
	}
}

// receipt makes the receipt of an accept entry, in the log's head.
func (l *Log) receipt(e *Entry) (*Receipt, error) {
	proof, err := l.Proof(e.Index)
	if err != nil {
		return nil, err
	}
	r := receiptJSON{Checkpoint: string(l.head.Note), Entry: trimNewlines(e.JSON), Index: e.Index, Proof: []string{}, Type: receiptType}
	for _, h := range proof {
		r.Proof = append(r.Proof, h.String())
	}
	data, err := canonjson.Encode(r)
	if err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	return &Receipt{Statement: statement(e), log: l, json: data}, nil
}

// VerifyReceipt checks that data is a receipt of the station whose key verifier is: that its checkpoint is signed,
// and its entry is an accept entry of that station and lies in the tree at its index. What it returns says for which
// bundle and when; whether that is the bundle in question is the caller's to compare. Its errors are of the type
// [*RefusedError] with the code bad-receipt.
func VerifyReceipt(data []byte, verifier note.Verifier) (*Statement, error) {
	s, err := verifyReceipt(data, verifier)
	if err != nil {
		return nil, &RefusedError{Code: "bad-receipt", Detail: "not a receipt of " + verifier.Name(), Err: err}
	}
	return s, nil
}

func verifyReceipt(data []byte, verifier note.Verifier) (*Statement, error) {
	var r receiptJSON
	if err := canonjson.Decode(data, &r, maxReceiptBytes); err != nil {
		return nil, err
	}
	if r.Type != receiptType {
		return nil, fmt.Errorf("type %.40q, not %q", r.Type, receiptType)
	}
	station, err := stationOf(verifier.Name())
	if err != nil {
		return nil, err
	}
	head, err := ParseCheckpoint([]byte(r.Checkpoint), verifier)
	if err != nil {
		return nil, err
	}
	raw := append(bytes.Clone(r.Entry), '\n')
	e, err := ParseEntry(raw)
	if err != nil {
		return nil, err
	}
	if e.Accept == nil {
		return nil, fmt.Errorf("a receipt over %s entry", e.Kind)
	}
	if e.Station != station {
		return nil, fmt.Errorf("the entry is station %q's", e.Station)
	}
	if r.Index < 0 || r.Index >= head.Tree.N {
		return nil, fmt.Errorf("index %d in a tree of %d", r.Index, head.Tree.N)
	}
	proof, err := decodeProof(r.Proof)
	if err != nil {
		return nil, err
	}
	if err := tlog.CheckRecord(proof, head.Tree.N, head.Tree.Hash, r.Index, tlog.RecordHash(raw)); err != nil {
		return nil, fmt.Errorf("entry %d: %w", r.Index, err)
	}
	e.Index = r.Index
	s := statement(e)
	return &s, nil
}

func decodeProof(hashes []string) (tlog.RecordProof, error) {
	if len(hashes) > maxProofHashes {
		return nil, fmt.Errorf("a proof of %d hashes", len(hashes))
	}
	proof := make(tlog.RecordProof, len(hashes))
	for i, s := range hashes {
		h, err := base64.StdEncoding.Strict().DecodeString(s)
		if err != nil || len(h) != hashBytes || base64.StdEncoding.EncodeToString(h) != s {
			return nil, errors.New("a hash of the proof is not canonical base64")
		}
		proof[i] = tlog.Hash(h)
	}
	return proof, nil
}
