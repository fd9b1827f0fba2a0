package bundle

import (
	"fmt"

	"sallyport/bundle/trust"
)

// Options returns the options with which the payload gives this seal again.
func (s *Seal) Options() Options {
	opt := Options{
		Channel: s.Channel, Destination: s.Destination, Sequence: s.Sequence, Previous: s.Previous,
		Epoch: &s.Created, Roots: int(s.FEC.Roots),
	}
	if s.Expires != 0 {
		opt.MaxAge = s.Expires - s.Created
	}
	return opt
}

// Expect makes the plan one for a seal that is there already, because people have signed it: what is written
// from now on has this seal, byte for byte, and the signatures in its slots, in the order given. Anything else
// is refused with the code seal-differs: here if the layout says so already, else by Seal, WriteFile and WriteTo
// once the payload has been read, before parity. signatures are in canonical form, at most one a slot.
func (p *Plan) Expect(seal *Seal, signatures [][]byte) error {
	if len(signatures) > slotCount {
		return fmt.Errorf("%d signatures: a seal has %d slots", len(signatures), slotCount)
	}
	keys := map[trust.KeyID]bool{}
	for i, text := range signatures {
		sig, err := trust.ParseSignature(text)
		if err != nil {
			return fmt.Errorf("signature %d: %w", i, err)
		}
		if keys[sig.KeyID()] {
			return fmt.Errorf("signature %d: key %s has signed already", i, sig.KeyID())
		}
		keys[sig.KeyID()] = true
	}
	p.expected, p.signatures = seal, signatures
	planned := p.seal
	planned.fill(p.geometry)
	return sameMembers(laidOutMembers(&planned, seal))
}

// readAsExpected refuses a payload that isn't the expected seal's as soon as it has been read.
func (p *Plan) readAsExpected(d written) error {
	if p.expected == nil {
		return nil
	}
	return sameMembers([]sealMember{
		{"manifest.sha256", fmt.Sprintf("%x", d.manifest), p.expected.Manifest.SHA256, otherPayload},
		{"verity.root", fmt.Sprintf("%x", d.root), p.expected.Verity.Root, otherVersion},
	})
}

// asExpected refuses a seal that differs from the expected one in anything.
func (p *Plan) asExpected(s *Seal) error {
	if p.expected == nil {
		return nil
	}
	return sameSeal(s, p.expected)
}

func sameSeal(got, want *Seal) error {
	members := append(laidOutMembers(got, want),
		sealMember{"manifest.sha256", got.Manifest.SHA256, want.Manifest.SHA256, otherPayload},
		sealMember{"verity.root", got.Verity.Root, want.Verity.Root, otherVersion},
		sealMember{"fec.sha256", got.FEC.SHA256, want.FEC.SHA256, otherVersion})
	if err := sameMembers(members); err != nil {
		return err
	}
	if *got != *want {
		return refuse("seal-differs", "the seal isn't the one that was planned")
	}
	return nil
}

// Why a member of two seals may differ.
const (
	otherOptions = "it was made with other options"
	otherPayload = "the directory is another one, or was changed since (names, contents, modes or times)"
	otherVersion = "every file is as planned; the plan was made by another version of this program, or is forged"
)

type sealMember struct {
	name      string
	got, want any
	why       string
}

// laidOutMembers are those that exist before a file is read. All others derive from them and from what is read.
func laidOutMembers(got, want *Seal) []sealMember {
	return []sealMember{
		{"channel", got.Channel, want.Channel, otherOptions},
		{"destination", got.Destination, want.Destination, otherOptions},
		{"sequence", got.Sequence, want.Sequence, otherOptions},
		{"previous", got.Previous, want.Previous, otherOptions},
		{"created", got.Created, want.Created, otherOptions},
		{"expires", got.Expires, want.Expires, otherOptions},
		{"fec.roots", got.FEC.Roots, want.FEC.Roots, otherOptions},
		{"manifest.bytes", got.Manifest.Bytes, want.Manifest.Bytes, otherPayload},
		{"manifest.lba", got.Manifest.LBA, want.Manifest.LBA, otherPayload},
		{"verity.data_blocks", got.Verity.DataBlocks, want.Verity.DataBlocks, otherPayload},
	}
}

func sameMembers(members []sealMember) error {
	for _, m := range members {
		if m.got != m.want {
			return refuse("seal-differs", "%s would be %v, the seal has %v: %s", m.name, m.got, m.want, m.why)
		}
	}
	return nil
}

// sealArea returns a seal's blocks: its text and the slots, filled as far as there are signatures.
func (p *Plan) sealArea(s *Seal) ([]byte, error) {
	b, err := s.Encode()
	if err != nil {
		return nil, err
	}
	for i := range slotCount {
		var text []byte
		if i < len(p.signatures) {
			text = p.signatures[i]
		}
		slot, err := trust.EncodeSlot(text)
		if err != nil {
			return nil, err
		}
		b = append(b, slot[:]...)
	}
	return b, nil
}
