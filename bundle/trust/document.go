package trust

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sallyport/bundle/canonjson"
)

const (
	documentType = "sallyport-trust"

	// MaxDocument is the longest trust.json, in bytes.
	MaxDocument = 1 << 20

	maxHolders  = 1000
	maxKeys     = 16 // of a holder
	maxStations = 1000
	maxChannels = 1000
	maxAge      = 3155760000 // a hundred years, in seconds

	// maxObjects is how many JSON objects a document within these limits can have: itself and its root; a
	// holder and its keys; a station and its key; a channel and its two roles.
	maxObjects = 2 + maxHolders*(1+maxKeys) + maxStations*2 + maxChannels*3
)

// What a channel does when a bundle's predecessor was never imported.
const (
	GapsRefuse = "refuse" // refuse the bundle
	GapsReason = "reason" // an operator may let it pass and says why
)

// A Document is what a trust.json says (docs/format.md, section 11), whoever wrote it. Its fields are in the
// order of their names, as canonical JSON wants.
type Document struct {
	Channels []Channel `json:"channels"` // in order of name
	Holders  []Holder  `json:"holders"`  // in order of name
	Root     Role      `json:"root"`     // who signs trust.json
	Stations []Station `json:"stations"` // in order of name
	Type     string    `json:"type"`     // "sallyport-trust"
	Version  int64     `json:"version"`  // from 1
}

// A Channel is a line of bundles for one destination.
type Channel struct {
	Approvers   Role   `json:"approvers"`
	Destination string `json:"destination"` // a station, or a group of stations
	Gaps        string `json:"gaps"`        // GapsRefuse or GapsReason
	MaxAge      int64  `json:"max_age"`     // seconds from a seal's creation to its expiry; 0: never expires
	MaxJump     int64  `json:"max_jump"`    // the largest step of the sequence, from 1
	Name        string `json:"name"`
	Preparers   Role   `json:"preparers"`
}

// A Role is some holders and how many of them must sign.
type Role struct {
	Holders   []string `json:"holders"` // in order
	Threshold int64    `json:"threshold"`
}

// A Holder is a person. A threshold counts holders, not keys.
type Holder struct {
	Keys []Key  `json:"keys"` // in order of their public text
	Name string `json:"name"`
}

// A Key is a holder's or a station's public key.
type Key struct {
	Public PublicKey `json:"public"`
	Type   string    `json:"type"` // TypeMinisign or TypeOpenPGP
}

// A Station is a machine that imports, with the key of its log.
type Station struct {
	Group string `json:"group"` // stations that share state, or empty
	Key   Key    `json:"key"`
	Name  string `json:"name"`
}

// NewDocument returns an empty document of version 1, to be filled with its Add methods and SetRoot.
func NewDocument() *Document { return &Document{Type: documentType, Version: 1} }

// Parse reads a trust.json and holds it to every rule of docs/format.md, section 11. That somebody signed it is
// for [Accept] to say. Every error is a *[RefusedError] with [CodeBadTrust].
func Parse(data []byte) (*Document, error) {
	if len(data) > MaxDocument {
		return nil, refuse(CodeBadTrust, nil, "parse trust root: %d bytes, the limit is %d", len(data), MaxDocument)
	}
	// No string that the document may hold has a brace in it.
	if n := bytes.Count(data, []byte("{")); n > maxObjects {
		return nil, refuse(CodeBadTrust, nil, "parse trust root: %d JSON objects, the limit is %d", n, maxObjects)
	}
	d := new(Document)
	if err := canonjson.Decode(data, d, MaxDocument); err != nil {
		return nil, refuse(CodeBadTrust, err, "parse trust root")
	}
	if err := d.check(); err != nil {
		return nil, refuse(CodeBadTrust, err, "parse trust root")
	}
	return d, nil
}

// Encode returns the document as the bytes of a trust.json, or an error when it breaks a rule.
func (d *Document) Encode() ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("encode trust root: %w", err)
	}
	data, err := canonjson.Encode(d)
	if err != nil {
		return nil, fmt.Errorf("encode trust root: %w", err)
	}
	if len(data) > MaxDocument {
		return nil, fmt.Errorf("encode trust root: %d bytes, the limit is %d", len(data), MaxDocument)
	}
	return data, nil
}

// AddHolder adds a person with keys, or keys to a person who is there. The document stays as it was when that
// would break a rule.
func (d *Document) AddHolder(name string, keys ...PublicKey) error {
	next := d.clone()
	i, found := slices.BinarySearchFunc(next.Holders, name, func(h Holder, name string) int { return strings.Compare(h.Name, name) })
	if !found {
		next.Holders = slices.Insert(next.Holders, i, Holder{Name: name})
	}
	h := &next.Holders[i]
	for _, k := range keys {
		h.Keys = append(h.Keys, Key{Public: k, Type: k.Type()})
	}
	slices.SortFunc(h.Keys, func(a, b Key) int { return strings.Compare(a.Public.String(), b.Public.String()) })
	return d.become(next, "add holder")
}

// AddChannel adds a channel; the holders of its roles may come in any order. The document stays as it was when
// that would break a rule.
func (d *Document) AddChannel(c Channel) error {
	c.Preparers, c.Approvers = c.Preparers.sorted(), c.Approvers.sorted()
	next := d.clone()
	i, found := slices.BinarySearchFunc(next.Channels, c.Name, func(c Channel, name string) int { return strings.Compare(c.Name, name) })
	if found {
		return fmt.Errorf("add channel: %q is there already", c.Name)
	}
	next.Channels = slices.Insert(next.Channels, i, c)
	return d.become(next, "add channel")
}

// AddStation adds a station with the key of its log; group may be empty. The document stays as it was when that
// would break a rule.
func (d *Document) AddStation(name, group string, key PublicKey) error {
	next := d.clone()
	i, found := slices.BinarySearchFunc(next.Stations, name, func(s Station, name string) int { return strings.Compare(s.Name, name) })
	if found {
		return fmt.Errorf("add station: %q is there already", name)
	}
	next.Stations = slices.Insert(next.Stations, i, Station{Group: group, Key: Key{Public: key, Type: key.Type()}, Name: name})
	return d.become(next, "add station")
}

// SetRoot says who signs the document and how many of them must. The document stays as it was when that would
// break a rule.
func (d *Document) SetRoot(threshold int64, holders ...string) error {
	next := d.clone()
	next.Root = Role{Holders: holders, Threshold: threshold}.sorted()
	if err := next.checkRole(next.Root); err != nil {
		return fmt.Errorf("set root: %w", err)
	}
	return d.become(next, "set root")
}

func (d *Document) become(next *Document, doing string) error {
	check := next.check
	if len(next.Root.Holders) == 0 {
		check = next.checkDraft
	}
	if err := check(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	*d = *next
	return nil
}

func (d *Document) clone() *Document {
	c := *d
	c.Root = c.Root.clone()
	c.Stations = slices.Clone(c.Stations)
	c.Channels = slices.Clone(c.Channels)
	for i := range c.Channels {
		c.Channels[i] = c.Channels[i].clone()
	}
	c.Holders = slices.Clone(c.Holders)
	for i := range c.Holders {
		c.Holders[i].Keys = slices.Clone(c.Holders[i].Keys)
	}
	return &c
}

func (c Channel) clone() Channel {
	c.Preparers, c.Approvers = c.Preparers.clone(), c.Approvers.clone()
	return c
}

func (r Role) clone() Role {
	r.Holders = slices.Clone(r.Holders)
	return r
}

func (r Role) sorted() Role {
	r = r.clone()
	slices.Sort(r.Holders)
	return r
}

// has tells whether a holder has the role, whose holders are in order.
func (r Role) has(holder string) bool {
	_, found := slices.BinarySearch(r.Holders, holder)
	return found
}

func (d *Document) holder(name string) (Holder, bool) {
	i, found := slices.BinarySearchFunc(d.Holders, name, func(h Holder, name string) int { return strings.Compare(h.Name, name) })
	if !found {
		return Holder{}, false
	}
	return d.Holders[i], true
}

// check holds the document to section 11.
func (d *Document) check() error {
	if err := d.checkDraft(); err != nil {
		return err
	}
	if err := d.checkRole(d.Root); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}

// checkDraft is check but for the root role, which a document that is being made may lack.
func (d *Document) checkDraft() error {
	switch {
	case d.Type != documentType:
		return fmt.Errorf("type is %+.80q, not %q", d.Type, documentType)
	case d.Version < 1 || d.Version > canonjson.MaxInt:
		return fmt.Errorf("version is %d, expected 1 to 2^53-1", d.Version)
	case len(d.Holders) > maxHolders:
		return fmt.Errorf("%d holders, the limit is %d", len(d.Holders), maxHolders)
	case len(d.Stations) > maxStations:
		return fmt.Errorf("%d stations, the limit is %d", len(d.Stations), maxStations)
	case len(d.Channels) > maxChannels:
		return fmt.Errorf("%d channels, the limit is %d", len(d.Channels), maxChannels)
	}
	owners := keyOwners{byID: map[KeyID]string{}, byMaterial: map[string]string{}}
	if err := d.checkHolders(owners); err != nil {
		return err
	}
	if err := d.checkStations(owners); err != nil {
		return err
	}
	return d.checkChannels()
}

func (d *Document) checkHolders(owners keyOwners) error {
	for i, h := range d.Holders {
		if err := CheckName(h.Name); err != nil {
			return fmt.Errorf("holder %d: %w", i, err)
		}
		if i > 0 && d.Holders[i-1].Name >= h.Name {
			return fmt.Errorf("holder %d: %q is not behind %q in order of name", i, h.Name, d.Holders[i-1].Name)
		}
		if len(h.Keys) < 1 || len(h.Keys) > maxKeys {
			return fmt.Errorf("holder %q: %d keys, expected 1 to %d", h.Name, len(h.Keys), maxKeys)
		}
		for j, k := range h.Keys {
			if err := owners.add(k, "holder "+h.Name); err != nil {
				return fmt.Errorf("holder %q: key %d: %w", h.Name, j, err)
			}
			if j > 0 && h.Keys[j-1].Public.String() >= k.Public.String() {
				return fmt.Errorf("holder %q: key %d is not behind the one before it in order of text", h.Name, j)
			}
		}
	}
	return nil
}

func (d *Document) checkStations(owners keyOwners) error {
	for i, s := range d.Stations {
		if err := CheckName(s.Name); err != nil {
			return fmt.Errorf("station %d: %w", i, err)
		}
		if i > 0 && d.Stations[i-1].Name >= s.Name {
			return fmt.Errorf("station %d: %q is not behind %q in order of name", i, s.Name, d.Stations[i-1].Name)
		}
		if s.Group != "" {
			if err := CheckName(s.Group); err != nil {
				return fmt.Errorf("station %q: group: %w", s.Name, err)
			}
		}
		if err := owners.add(s.Key, "station "+s.Name); err != nil {
			return fmt.Errorf("station %q: %w", s.Name, err)
		}
		if s.Key.Type != TypeMinisign {
			return fmt.Errorf("station %q: key type is %q, a station's log is signed with one of %s", s.Name, s.Key.Type, TypeMinisign)
		}
	}
	return nil
}

func (d *Document) checkChannels() error {
	for i, c := range d.Channels {
		if err := CheckName(c.Name); err != nil {
			return fmt.Errorf("channel %d: %w", i, err)
		}
		if i > 0 && d.Channels[i-1].Name >= c.Name {
			return fmt.Errorf("channel %d: %q is not behind %q in order of name", i, c.Name, d.Channels[i-1].Name)
		}
		if err := d.checkChannel(c); err != nil {
			return fmt.Errorf("channel %q: %w", c.Name, err)
		}
	}
	return nil
}

func (d *Document) checkChannel(c Channel) error {
	if err := CheckName(c.Destination); err != nil {
		return fmt.Errorf("destination: %w", err)
	}
	if c.Gaps != GapsRefuse && c.Gaps != GapsReason {
		return fmt.Errorf("gaps is %+.80q, expected %q or %q", c.Gaps, GapsReason, GapsRefuse)
	}
	if c.MaxAge < 0 || c.MaxAge > maxAge {
		return fmt.Errorf("max_age is %d seconds, expected 0 to %d", c.MaxAge, int64(maxAge))
	}
	if c.MaxJump < 1 || c.MaxJump > canonjson.MaxInt {
		return fmt.Errorf("max_jump is %d, expected 1 to 2^53-1", c.MaxJump)
	}
	if err := d.checkRole(c.Preparers); err != nil {
		return fmt.Errorf("preparers: %w", err)
	}
	if err := d.checkRole(c.Approvers); err != nil {
		return fmt.Errorf("approvers: %w", err)
	}
	for _, h := range c.Preparers.Holders {
		if c.Approvers.has(h) {
			return fmt.Errorf("%q is preparer and approver; nobody may be both", h)
		}
	}
	return nil
}

func (d *Document) checkRole(r Role) error {
	if len(r.Holders) == 0 {
		return errors.New("no holders")
	}
	for i, name := range r.Holders {
		if i > 0 && r.Holders[i-1] >= name {
			return fmt.Errorf("%+.80q is not behind %+.80q in order of name", name, r.Holders[i-1])
		}
		if _, ok := d.holder(name); !ok {
			return fmt.Errorf("%+.80q is not among the holders", name)
		}
	}
	if r.Threshold < 1 || r.Threshold > int64(len(r.Holders)) {
		return fmt.Errorf("threshold is %d of %d holders, expected 1 to %d", r.Threshold, len(r.Holders), len(r.Holders))
	}
	return nil
}

// keyOwners says who has a key, so that none counts twice: not as the same key under two ids, or as one of minisign
// and one of OpenPGP, and not two keys under one id, which a signature couldn't tell apart.
type keyOwners struct {
	byID       map[KeyID]string
	byMaterial map[string]string
}

func (o keyOwners) add(k Key, owner string) error {
	if k.Public == (PublicKey{}) {
		return errors.New("the key is missing")
	}
	if k.Type != k.Public.Type() {
		return fmt.Errorf("key type is %+.80q, and the key is one of %s", k.Type, k.Public.Type())
	}
	material := k.Public.material()
	if other, ok := o.byMaterial[material]; ok {
		return fmt.Errorf("key %s is listed twice, the other one is of %s", k.Public.id, other)
	}
	if other, ok := o.byID[k.Public.id]; ok {
		return fmt.Errorf("key id %s is listed twice, the other one is of %s", k.Public.id, other)
	}
	o.byMaterial[material], o.byID[k.Public.id] = owner, owner
	return nil
}
