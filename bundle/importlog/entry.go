package importlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sallyport/bundle/canonjson"
	"sallyport/bundle/trust"
)

// The kinds of entries (docs/format.md, section 13).
const (
	KindPrepare = "prepare"
	KindBegin   = "burn-begin"
	KindBurn    = "burn"
	KindWrite   = "write"
	KindDeliver = "deliver"
	KindEnrol   = "enrol"
	KindAccept  = "accept"
	KindRelease = "release"
	KindRefuse  = "refuse"
)

const (
	entryType    = "sallyport-log"
	sealBytes    = 8192 // of a padded SEAL.json
	maxTextBytes = 1024 // of detail, source and gap_reason
	maxCodeBytes = 64
)

// The fields of all entries stand in the order of their JSON names. Station, Time and Type are the log's to fill.

// A PrepareEntry says that a bundle was made here.
type PrepareEntry struct {
	Kind    string         `json:"kind"`
	Seal    jsontext.Value `json:"seal"` // SEAL.json, without its newlines
	Station string         `json:"station"`
	Time    int64          `json:"time"` // seconds since 1970, never less than the entry's before
	Type    string         `json:"type"`
}

// A BeginEntry says that a disc is about to be burnt: its number is used up, whatever becomes of it.
type BeginEntry struct {
	DiscNumber int64  `json:"disc_number"`
	Kind       string `json:"kind"`
	SealDigest string `json:"seal_digest"`
	Station    string `json:"station"`
	Time       int64  `json:"time"`
	Type       string `json:"type"`
}

// A BurnEntry says what became of a burn: read back and equal, or a spoiled disc.
type BurnEntry struct {
	Kind       string         `json:"kind"`
	Record     jsontext.Value `json:"record"` // the burn record, an object
	SealDigest string         `json:"seal_digest"`
	Station    string         `json:"station"`
	Time       int64          `json:"time"`
	Type       string         `json:"type"`
}

// An EnrolEntry says that a stick was wiped, tested and made what its record says.
type EnrolEntry struct {
	Kind    string         `json:"kind"`
	Record  jsontext.Value `json:"record"` // the enrolment, an object
	Station string         `json:"station"`
	Time    int64          `json:"time"`
	Type    string         `json:"type"`
}

// A WriteEntry says what became of writing a bundle to a stick: read back and equal, or nothing that is good.
type WriteEntry struct {
	Kind       string         `json:"kind"`
	Record     jsontext.Value `json:"record"` // the write record, an object
	SealDigest string         `json:"seal_digest"`
	Station    string         `json:"station"`
	Time       int64          `json:"time"`
	Type       string         `json:"type"`
}

// A DeliverEntry says what became of copying a release to a stick: read back and equal, or nothing that is good.
type DeliverEntry struct {
	Kind       string         `json:"kind"`
	Path       string         `json:"path"`   // CHANNEL/SEQUENCE-ID in the spool
	Record     jsontext.Value `json:"record"` // the delivery record, an object
	SealDigest string         `json:"seal_digest"`
	Station    string         `json:"station"`
	Time       int64          `json:"time"`
	Type       string         `json:"type"`
}

// An AcceptEntry says that a bundle was verified whole and may be released.
type AcceptEntry struct {
	GapReason  string         `json:"gap_reason,omitzero"`
	Kind       string         `json:"kind"`
	Repaired   *Repair        `json:"repaired,omitzero"` // nil: nothing was damaged
	Seal       jsontext.Value `json:"seal"`
	SealDigest string         `json:"seal_digest"`
	Signers    []Signer       `json:"signers"` // in order of holder
	Station    string         `json:"station"`
	Time       int64          `json:"time"`
	Type       string         `json:"type"`

	seal sealFields
}

// A Repair is what of an accepted bundle had to be made good.
type Repair struct {
	Blocks     int64 `json:"blocks"`
	Roots      int64 `json:"roots"`
	Unreadable int64 `json:"unreadable"` // of Blocks, those that the medium didn't give
	Worst      int64 `json:"worst"`      // of Roots symbols, how many the worst codeword had lost
}

// A Signer is one good signature of an accepted bundle.
type Signer struct {
	Holder string `json:"holder"`
	KeyID  string `json:"key_id"`
	Role   string `json:"role"`
}

// A ReleaseEntry says that an accepted bundle stands in the spool.
type ReleaseEntry struct {
	Kind       string `json:"kind"`
	Path       string `json:"path"` // CHANNEL/SEQUENCE-ID in the spool
	SealDigest string `json:"seal_digest"`
	Station    string `json:"station"`
	Time       int64  `json:"time"`
	Type       string `json:"type"`
}

// A RefuseEntry says that something was not let in. What it has of the seal was believed: signed by enough.
type RefuseEntry struct {
	Channel    string `json:"channel,omitzero"`
	Code       string `json:"code"`
	Detail     string `json:"detail"`
	Kind       string `json:"kind"`
	SealDigest string `json:"seal_digest,omitzero"`
	Sequence   int64  `json:"sequence,omitzero"`
	Source     string `json:"source"`
	Station    string `json:"station"`
	Time       int64  `json:"time"`
	Type       string `json:"type"`
}

// An Entry is one entry of a log. The field of its kind is set, the others are nil.
type Entry struct {
	Index   int64
	JSON    []byte // as logged, with the newline at its end
	Kind    string
	Station string
	Time    int64

	Prepare *PrepareEntry
	Begin   *BeginEntry
	Burn    *BurnEntry
	Write   *WriteEntry
	Deliver *DeliverEntry
	Enrol   *EnrolEntry
	Accept  *AcceptEntry
	Release *ReleaseEntry
	Refuse  *RefuseEntry
}

// sealFields is what the log itself goes by in a seal (docs/format.md, section 9).
type sealFields struct {
	BundleID string `json:"bundle_id"`
	Channel  string `json:"channel"`
	Created  int64  `json:"created"`
	Previous string `json:"previous"`
	Sequence int64  `json:"sequence"`
}

// releasePath is where a bundle stands in the spool.
func (s sealFields) releasePath() string {
	return s.Channel + "/" + strconv.FormatInt(s.Sequence, 10) + "-" + s.BundleID
}

// ParseEntry reads an entry as it is logged, strictly. Index is left zero.
func ParseEntry(data []byte) (*Entry, error) {
	if len(data) > maxEntryBytes {
		return nil, fmt.Errorf("entry of %d bytes, the limit is %d", len(data), maxEntryBytes)
	}
	var head struct {
		Kind    string `json:"kind"`
		Station string `json:"station"`
		Time    int64  `json:"time"`
		Type    string `json:"type"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("entry: %w", err)
	}
	if head.Type != entryType {
		return nil, fmt.Errorf("entry: type %.40q, not %q", head.Type, entryType)
	}
	if head.Time < 0 {
		return nil, fmt.Errorf("entry: time %d", head.Time)
	}
	if err := trust.CheckName(head.Station); err != nil {
		return nil, fmt.Errorf("entry: station: %w", err)
	}
	e := &Entry{JSON: data, Kind: head.Kind, Station: head.Station, Time: head.Time}
	var v interface{ check() error }
	switch e.Kind {
	case KindPrepare:
		e.Prepare = new(PrepareEntry)
		v = e.Prepare
	case KindBegin:
		e.Begin = new(BeginEntry)
		v = e.Begin
	case KindBurn:
		e.Burn = new(BurnEntry)
		v = e.Burn
	case KindEnrol:
		e.Enrol = new(EnrolEntry)
		v = e.Enrol
	case KindWrite:
		e.Write = new(WriteEntry)
		v = e.Write
	case KindDeliver:
		e.Deliver = new(DeliverEntry)
		v = e.Deliver
	case KindAccept:
		e.Accept = new(AcceptEntry)
		v = e.Accept
	case KindRelease:
		e.Release = new(ReleaseEntry)
		v = e.Release
	case KindRefuse:
		e.Refuse = new(RefuseEntry)
		v = e.Refuse
	default:
		return nil, fmt.Errorf("entry: unknown kind %.40q", e.Kind)
	}
	if err := canonjson.Decode(data, v, maxEntryBytes); err != nil {
		return nil, fmt.Errorf("%s entry: %w", e.Kind, err)
	}
	if err := v.check(); err != nil {
		return nil, fmt.Errorf("%s entry: %w", e.Kind, err)
	}
	return e, nil
}

func (e *PrepareEntry) check() error {
	_, _, err := parseSeal(e.Seal)
	return err
}

func (e *BeginEntry) check() error {
	if e.DiscNumber < 1 {
		return fmt.Errorf("disc number %d", e.DiscNumber)
	}
	return checkDigest(e.SealDigest)
}

func (e *BurnEntry) check() error {
	if err := canonicalObject(e.Record); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return checkDigest(e.SealDigest)
}

func (e *EnrolEntry) check() error {
	if err := canonicalObject(e.Record); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}

func (e *WriteEntry) check() error {
	if err := canonicalObject(e.Record); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return checkDigest(e.SealDigest)
}

func (e *DeliverEntry) check() error {
	if e.Path == "" {
		return errors.New("no path")
	}
	if err := checkText("path", e.Path); err != nil {
		return err
	}
	if err := canonicalObject(e.Record); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return checkDigest(e.SealDigest)
}

func (e *AcceptEntry) check() error {
	seal, digest, err := parseSeal(e.Seal)
	if err != nil {
		return err
	}
	if hex.EncodeToString(digest[:]) != e.SealDigest {
		return fmt.Errorf("seal_digest %.80q is not the seal's, %x", e.SealDigest, digest)
	}
	if err := checkText("gap_reason", e.GapReason); err != nil {
		return err
	}
	if r := e.Repaired; r != nil {
		if err := r.check(); err != nil {
			return err
		}
	}
	for _, s := range e.Signers {
		if err := trust.CheckName(s.Holder); err != nil {
			return fmt.Errorf("holder: %w", err)
		}
		if err := errors.Join(checkText("key_id", s.KeyID), checkText("role", s.Role)); err != nil {
			return err
		}
	}
	if !slices.IsSortedFunc(e.Signers, func(a, b Signer) int { return strings.Compare(a.Holder, b.Holder) }) {
		return errors.New("signers are not in order of holder")
	}
	e.seal = seal
	return nil
}

func (r *Repair) check() error {
	if r.Blocks < 1 || r.Blocks > canonjson.MaxInt || r.Unreadable < 0 || r.Unreadable > r.Blocks {
		return fmt.Errorf("repaired: %d blocks, %d of them unreadable", r.Blocks, r.Unreadable)
	}
	if r.Roots < 2 || r.Roots > 24 || r.Worst < 0 || r.Worst > r.Roots {
		return fmt.Errorf("repaired: %d symbols lost, %d roots", r.Worst, r.Roots)
	}
	return nil
}

func (e *ReleaseEntry) check() error {
	if err := checkText("path", e.Path); err != nil {
		return err
	}
	return checkDigest(e.SealDigest)
}

func (e *RefuseEntry) check() error {
	if !isCode(e.Code) {
		return fmt.Errorf("bad code %.80q", e.Code)
	}
	if e.Channel != "" {
		if err := trust.CheckName(e.Channel); err != nil {
			return fmt.Errorf("channel: %w", err)
		}
	}
	if e.SealDigest != "" {
		if err := checkDigest(e.SealDigest); err != nil {
			return err
		}
	}
	if e.Sequence < 0 {
		return fmt.Errorf("sequence %d", e.Sequence)
	}
	return errors.Join(checkText("detail", e.Detail), checkText("source", e.Source))
}

// parseSeal reads what the log needs of a seal's object, and computes the seal digest: the SHA-256 of the object,
// filled with newlines to 8,192 bytes.
func parseSeal(object []byte) (sealFields, [32]byte, error) {
	var s sealFields
	if len(object) >= sealBytes {
		return s, [32]byte{}, fmt.Errorf("seal of %d bytes, the limit is %d", len(object), sealBytes-1)
	}
	if err := canonicalObject(object); err != nil {
		return s, [32]byte{}, fmt.Errorf("seal: %w", err)
	}
	if err := json.Unmarshal(object, &s); err != nil {
		return s, [32]byte{}, fmt.Errorf("seal: %w", err)
	}
	if err := trust.CheckName(s.Channel); err != nil {
		return s, [32]byte{}, fmt.Errorf("seal: channel: %w", err)
	}
	if err := checkDigest(s.BundleID); err != nil {
		return s, [32]byte{}, fmt.Errorf("seal: bundle_id: %w", err)
	}
	if s.Previous != "" {
		if err := checkDigest(s.Previous); err != nil {
			return s, [32]byte{}, fmt.Errorf("seal: previous: %w", err)
		}
	}
	if s.Sequence < 1 || s.Sequence > canonjson.MaxInt || s.Created < 0 {
		return s, [32]byte{}, fmt.Errorf("seal: sequence %d, created %d", s.Sequence, s.Created)
	}
	padded := append(bytes.Clone(object), bytes.Repeat([]byte{'\n'}, sealBytes-len(object))...)
	return s, sha256.Sum256(padded), nil
}

// canonicalObject checks that raw, which canonjson has read without looking into it, is an object in canonical form.
func canonicalObject(raw jsontext.Value) error {
	if raw.Kind() != '{' {
		return errors.New("not an object")
	}
	canonical := raw.Clone()
	if err := canonical.Canonicalize(); err != nil {
		return err
	}
	if !bytes.Equal(canonical, raw) {
		return canonjson.ErrNotCanonical
	}
	return nil
}

func checkDigest(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != sha256.Size || s != hex.EncodeToString(b) {
		return fmt.Errorf("%.80q is not a SHA-256 of 64 lower-case digits", s)
	}
	return nil
}

func isCode(s string) bool {
	return s != "" && len(s) <= maxCodeBytes && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func checkText(what, s string) error {
	if len(s) > maxTextBytes {
		return fmt.Errorf("%s of %d bytes, the limit is %d", what, len(s), maxTextBytes)
	}
	for _, r := range s {
		if !plain(r) {
			return fmt.Errorf("%s holds %U, unescaped", what, r)
		}
	}
	return nil
}

// plain tells the characters that stay as they are in a log: printable ones that nobody can overlook.
func plain(r rune) bool {
	return unicode.IsPrint(r) && !unicode.In(r, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point)
}

// escape makes a line of at most 1,024 bytes of s: what isn't plain, and the backslash, is written as in Go's
// string literals, and what is too long ends in "…".
func escape(s string) string {
	const more = "…"
	var b strings.Builder
	cut := 0 // as much as leaves room for more
	for i, width := 0, 0; i < len(s); i += width {
		var r rune
		r, width = utf8.DecodeRuneInString(s[i:])
		piece := s[i : i+width]
		if r == utf8.RuneError && width == 1 || r == '\\' || !plain(r) {
			piece = strconv.QuoteToASCII(piece)
			piece = piece[1 : len(piece)-1]
		}
		if b.Len()+len(piece) > maxTextBytes {
			return b.String()[:cut] + more
		}
		b.WriteString(piece)
		if b.Len() <= maxTextBytes-len(more) {
			cut = b.Len()
		}
	}
	return b.String()
}
