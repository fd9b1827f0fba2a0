package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"sallyport/bundle/canonjson"
	"sallyport/bundle/trust"
	"sallyport/bundle/verity"
)

// Seal is SEAL.json (docs/format.md, section 9): all that is signed, small enough to be read on a console.
type Seal struct {
	BundleID    string       `json:"bundle_id"`
	Channel     string       `json:"channel"`
	Created     int64        `json:"created"`
	Destination string       `json:"destination"`
	Expires     int64        `json:"expires"`
	FEC         SealFEC      `json:"fec"`
	ImageBlocks int64        `json:"image_blocks"`
	Manifest    SealManifest `json:"manifest"`
	Previous    string       `json:"previous"`
	Profile     int64        `json:"profile"`
	Sequence    int64        `json:"sequence"`
	Set         SealSet      `json:"set"`
	Type        string       `json:"type"`
	Verity      SealVerity   `json:"verity"`
}

// SealFEC describes the parity area; LBA and Blocks are in blocks.
type SealFEC struct {
	Blocks int64  `json:"blocks"`
	LBA    int64  `json:"lba"`
	Roots  int64  `json:"roots"`
	SHA256 string `json:"sha256"`
}

// SealManifest says where MANIFEST.json lies and what it is.
type SealManifest struct {
	Bytes  int64  `json:"bytes"`
	LBA    int64  `json:"lba"`
	SHA256 string `json:"sha256"`
}

// SealSet places the volume in its set.
type SealSet struct {
	Digest string `json:"digest"`
	Index  int64  `json:"index"`
	Of     int64  `json:"of"`
}

// SealVerity has the hash tree's parameters; TreeLBA is the superblock's.
type SealVerity struct {
	Algorithm  string `json:"algorithm"`
	BlockSize  int64  `json:"block_size"`
	DataBlocks int64  `json:"data_blocks"`
	Root       string `json:"root"`
	Salt       string `json:"salt"`
	TreeBlocks int64  `json:"tree_blocks"`
	TreeLBA    int64  `json:"tree_lba"`
	UUID       string `json:"uuid"`
}

const sealType = "sallyport-seal"

// identity is what exists before the payload is read: salt, UUID and volume identifier derive from it
// (docs/format.md, section 7).
type identity struct {
	channel  string
	sequence int64
	previous string
	index    int64
	of       int64
}

func (id identity) derive(what string) [32]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%s\nsallyport 1\n%s\n%d\n%s\n%d/%d\n", what, id.channel, id.sequence, id.previous, id.index, id.of))
}

func (id identity) verityParams(dataBlocks int64) verity.Params {
	salt, uuid := id.derive("salt"), id.derive("uuid")
	p := verity.Params{DataBlocks: dataBlocks, Salt: salt[:], UUID: [16]byte(uuid[:16])}
	p.UUID[6] = p.UUID[6]&0x0f | 0x80
	p.UUID[8] = p.UUID[8]&0x3f | 0x80
	return p
}

func (id identity) volumeID() string {
	name := []byte(strings.ToUpper(id.channel))
	for i, c := range name {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			name[i] = '_'
		}
	}
	digest := id.derive("volume")
	return fmt.Sprintf("%s_%d_%X", name[:min(len(name), 8)], id.sequence, digest[:3])
}

func formatUUID(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

func (s *Seal) identity() identity {
	return identity{channel: s.Channel, sequence: s.Sequence, previous: s.Previous, index: s.Set.Index, of: s.Set.Of}
}

func setDigest(manifests ...string) string {
	h := sha256.New()
	for _, digest := range manifests {
		fmt.Fprintf(h, "%s\n", digest)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// fill sets everything that derives from the rest.
func (s *Seal) fill(g Geometry) {
	p := s.identity().verityParams(g.DataBlocks)
	s.Type, s.Profile, s.ImageBlocks = sealType, 1, g.ImageBlocks()
	s.BundleID = s.Manifest.SHA256
	if s.Set.Of == 1 {
		s.Set.Digest = setDigest(s.Manifest.SHA256)
	}
	s.FEC.Blocks, s.FEC.LBA, s.FEC.Roots = g.FECBlocks, g.FEC(), int64(g.Roots)
	if g.FECBlocks == 0 {
		empty := sha256.Sum256(nil)
		s.FEC.SHA256 = hex.EncodeToString(empty[:])
	}
	s.Verity = SealVerity{
		Algorithm: "sha256", BlockSize: BlockSize, DataBlocks: g.DataBlocks, Root: s.Verity.Root,
		Salt: hex.EncodeToString(p.Salt), TreeBlocks: g.TreeBlocks, TreeLBA: g.Superblock(), UUID: formatUUID(p.UUID),
	}
}

// Geometry returns the layout that the seal gives.
func (s *Seal) Geometry() (Geometry, error) {
	return NewGeometry(s.Verity.DataBlocks, int(s.FEC.Roots))
}

// Encode returns the 8,192 bytes that are signed: canonical JSON, filled with newlines.
func (s *Seal) Encode() ([]byte, error) {
	b, err := canonjson.Encode(s)
	if err != nil {
		return nil, err
	}
	if len(b) > sealJSONBytes {
		return nil, fmt.Errorf("encode seal: %d bytes, the limit is %d", len(b), sealJSONBytes)
	}
	return padNewlines(b, sealJSONBytes), nil
}

// Digest is the seal digest, the SHA-256 of the signed bytes: what the next bundle of the channel names as previous.
func Digest(message []byte) [32]byte { return sha256.Sum256(message) }

// ParseSeal reads SEAL.json, with or without the newlines that fill it to 8,192 bytes. It accepts only
// canonical JSON whose derived members are what they derive from; it says nothing about who sealed it.
// Refusals have the codes bad-seal and unsupported-profile.
func ParseSeal(data []byte) (*Seal, error) {
	if len(data) > sealJSONBytes {
		return nil, refuse("bad-seal", "that is no SEAL.json: it has more than %d bytes", sealJSONBytes)
	}
	if !bytes.HasPrefix(data, []byte(sealBegins)) {
		return nil, refuse("bad-seal", "that is no SEAL.json: it doesn't begin with %s", sealBegins)
	}
	text := append(bytes.Clone(bytes.TrimRight(data, "\n")), '\n')
	var s Seal
	if err := canonjson.Decode(text, &s, sealJSONBytes); err != nil {
		return nil, &RefusedError{Code: "bad-seal", Detail: "SEAL.json", Err: err}
	}
	if s.Type != sealType {
		return nil, refuse("bad-seal", "SEAL.json: type is %.40q, not %q", s.Type, sealType)
	}
	if s.Profile != 1 {
		return nil, refuse("unsupported-profile", "SEAL.json: profile %d; this version reads profile 1", s.Profile)
	}
	if err := s.check(); err != nil {
		return nil, &RefusedError{Code: "bad-seal", Detail: "SEAL.json", Err: err}
	}
	return &s, nil
}

func (s *Seal) check() error {
	for _, name := range []string{s.Channel, s.Destination} {
		if err := trust.CheckName(name); err != nil {
			return err
		}
	}
	for _, digest := range []string{s.BundleID, s.FEC.SHA256, s.Manifest.SHA256, s.Set.Digest, s.Verity.Root} {
		if _, err := parseDigest(digest); err != nil {
			return err
		}
	}
	if s.Previous != "" {
		if _, err := parseDigest(s.Previous); err != nil {
			return fmt.Errorf("previous: %w", err)
		}
	}
	switch {
	case s.Sequence < 1 || s.Sequence > canonjson.MaxInt:
		return fmt.Errorf("sequence %d", s.Sequence)
	case s.Created < 0 || s.Created > maxTime || s.Expires < 0 || s.Expires > maxTime || s.Expires != 0 && s.Expires < s.Created:
		return fmt.Errorf("created %d, expires %d", s.Created, s.Expires)
	case s.Manifest.Bytes < 1 || s.Manifest.Bytes > MaxManifestBytes:
		return fmt.Errorf("manifest of %d bytes: the limit is %d", s.Manifest.Bytes, MaxManifestBytes)
	case s.Set.Index != 1 || s.Set.Of != 1:
		return fmt.Errorf("volume %d of %d: this version reads single volumes", s.Set.Index, s.Set.Of)
	case s.FEC.Roots < 0 || s.FEC.Roots > 24:
		return fmt.Errorf("%d parity roots", s.FEC.Roots)
	}
	g, err := s.Geometry()
	if err != nil {
		return err
	}
	if s.Manifest.LBA < 17 || s.Manifest.LBA > g.DataBlocks-blocksOf(s.Manifest.Bytes) {
		return fmt.Errorf("manifest at LBA %d outside the data area of %d blocks", s.Manifest.LBA, g.DataBlocks)
	}
	return s.checkDerived(g)
}

// checkDerived names the first member that isn't what it derives from.
func (s *Seal) checkDerived(g Geometry) error {
	want := *s
	want.fill(g)
	for _, m := range []struct {
		name       string
		have, want any
	}{
		{"bundle_id", s.BundleID, want.BundleID},
		{"fec.blocks", s.FEC.Blocks, want.FEC.Blocks},
		{"fec.lba", s.FEC.LBA, want.FEC.LBA},
		{"fec.sha256", s.FEC.SHA256, want.FEC.SHA256},
		{"image_blocks", s.ImageBlocks, want.ImageBlocks},
		{"set.digest", s.Set.Digest, want.Set.Digest},
		{"verity.algorithm", s.Verity.Algorithm, want.Verity.Algorithm},
		{"verity.block_size", s.Verity.BlockSize, want.Verity.BlockSize},
		{"verity.salt", s.Verity.Salt, want.Verity.Salt},
		{"verity.tree_blocks", s.Verity.TreeBlocks, want.Verity.TreeBlocks},
		{"verity.tree_lba", s.Verity.TreeLBA, want.Verity.TreeLBA},
		{"verity.uuid", s.Verity.UUID, want.Verity.UUID},
	} {
		if m.have != m.want {
			return fmt.Errorf("%s is %.80q, the rest gives %.80q", m.name, fmt.Sprint(m.have), fmt.Sprint(m.want))
		}
	}
	if want != *s {
		return errors.New("a member is not what the rest gives")
	}
	return nil
}

// blocksOf returns how many blocks n bytes take.
func blocksOf(n int64) int64 { return (n + BlockSize - 1) / BlockSize }
