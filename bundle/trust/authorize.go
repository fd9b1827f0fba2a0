package trust

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// The roles of signers.
const (
	RolePreparer = "preparer"
	RoleApprover = "approver"
	RoleRoot     = "root"
)

// A Signer is a holder's good signature.
type Signer struct {
	Holder  string
	Role    string // RolePreparer, RoleApprover, or RoleRoot for a trust root's
	KeyID   KeyID
	Comment string // the trusted comment; OpenPGP has none
}

// AuthorizeOptions loosens [Root.Authorize].
type AuthorizeOptions struct {
	// AllowUnknownSigners lets pass slots with a key id that nobody in the trust root has, for bundles that
	// other sites sign too. They count for nothing.
	AllowUnknownSigners bool
}

// An Authorization says by whom a message was authorised for a channel.
type Authorization struct {
	Channel Channel
	Signers []Signer // in order of holder, then of key id; each key once
	Unknown []KeyID  // claimed by slots that AllowUnknownSigners let pass, in order of slot; not verified
}

// Authorize tells whether message, a padded SEAL.json, was signed for the channel by as many distinct preparers
// and as many distinct approvers as its thresholds demand. slots are the seal's [Slots] slots of [SlotSize] bytes
// each. Every filled slot must be a good signature of a holder with a role for the channel, however many others
// are good: on write-once media anything else is tampering. Every error is a *[RefusedError].
func (r *Root) Authorize(channel string, message []byte, slots [][]byte, opt AuthorizeOptions) (*Authorization, error) {
	sigs, err := parseSlots(slots)
	if err != nil {
		return nil, err
	}
	auth := new(Authorization)
	m := prehash(message)
	for i, sig := range sigs {
		known, err := r.checkSlot(i, sig, m, opt)
		switch {
		case err != nil:
			return nil, err
		case !known:
			auth.Unknown = append(auth.Unknown, sig.keyID)
		}
	}
	c, ok := r.Channel(channel)
	if !ok {
		return nil, refuse(CodeUnknownChannel, nil, "the trust root has no channel %+.80q, only %s", channel, nameSome(r.channelNames()))
	}
	auth.Channel = c
	signed := map[string][]string{}
	for i, sig := range sigs {
		holder, ok := r.HolderOf(sig.keyID)
		if !ok {
			continue
		}
		s := Signer{Holder: holder, KeyID: sig.keyID, Comment: sig.comment}
		switch {
		case c.Preparers.has(holder):
			s.Role = RolePreparer
		case c.Approvers.has(holder):
			s.Role = RoleApprover
		default:
			return nil, refuse(CodeWrongRole, nil, "slot %d: signed by %s (key %s), who is neither preparer nor approver of channel %s", i, holder, sig.keyID, c.Name)
		}
		signed[s.Role] = append(signed[s.Role], holder)
		auth.Signers = append(auth.Signers, s)
	}
	missing := c.Preparers.missing(RolePreparer, signed[RolePreparer])
	if others := c.Approvers.missing(RoleApprover, signed[RoleApprover]); missing == "" {
		missing = others
	} else if others != "" {
		missing += "; " + others
	}
	if missing != "" {
		return nil, refuse(CodeThreshold, nil, "channel %s: %s", c.Name, missing)
	}
	if err := oncePerKey(sigs); err != nil {
		return nil, err
	}
	slices.SortStableFunc(auth.Signers, func(a, b Signer) int {
		return cmp.Or(strings.Compare(a.Holder, b.Holder), cmp.Compare(a.KeyID, b.KeyID))
	})
	return auth, nil
}

// oncePerKey refuses a second signature by one key: anybody could copy a good one into an empty slot.
func oncePerKey(sigs []*Signature) error {
	for i, sig := range sigs {
		for j, earlier := range sigs[:i] {
			if earlier.keyID == sig.keyID {
				return refuse(CodeBadSlot, nil, "slots %d and %d are both signed with key %s", j, i, sig.keyID)
			}
		}
	}
	return nil
}

// parseSlots returns the signatures of the filled slots, which come first.
func parseSlots(slots [][]byte) ([]*Signature, error) {
	if len(slots) != Slots {
		return nil, refuse(CodeBadSlot, nil, "%d slots, a seal has %d", len(slots), Slots)
	}
	var sigs []*Signature
	for i, slot := range slots {
		sig, err := ParseSlot(slot)
		if err != nil {
			return nil, refuse(CodeBadSlot, err, "slot %d", i)
		}
		if sig == nil {
			continue
		}
		if len(sigs) != i {
			return nil, refuse(CodeBadSlot, nil, "slot %d is filled and slot %d before it is empty", i, len(sigs))
		}
		sigs = append(sigs, sig)
	}
	return sigs, nil
}

// checkSlot tells whether the signature in slot i is a listed holder's. One of a key that nobody has is either
// an error or, when the options allow it, not known.
func (r *Root) checkSlot(i int, sig *Signature, m *message, opt AuthorizeOptions) (known bool, err error) {
	k, ok := r.keys[sig.keyID]
	if !ok {
		if opt.AllowUnknownSigners {
			return false, nil
		}
		return false, refuse(CodeUnknownSigner, nil, "slot %d: signed with key %s, which nobody in the trust root has", i, sig.keyID)
	}
	if err := verify(k.public, m, sig); err != nil {
		return false, refuse(CodeBadSignature, err, "slot %d", i)
	}
	if k.holder == "" {
		return false, refuse(CodeUnknownSigner, nil, "slot %d: signed with key %s of station %s, which is no person", i, sig.keyID, k.station)
	}
	return true, nil
}

// missing returns "" when as many distinct holders as the threshold demands are among signed, all of whom have
// the role; else what is missing, with who could supply it.
func (r Role) missing(role string, signed []string) string {
	signed = slices.Compact(slices.Sorted(slices.Values(signed)))
	lacking := r.Threshold - int64(len(signed))
	if lacking <= 0 {
		return ""
	}
	others := slices.DeleteFunc(slices.Clone(r.Holders), func(h string) bool { return slices.Contains(signed, h) })
	text := fmt.Sprintf("%d %s", r.Threshold, role)
	if r.Threshold > 1 {
		text += "s"
	}
	text += fmt.Sprintf(" needed, %d signed", len(signed))
	if len(signed) > 0 {
		text += ": " + nameSome(signed)
	}
	return text + fmt.Sprintf("; missing %d of %s", lacking, nameSome(others))
}

func nameSome(names []string) string {
	const most = 8
	if len(names) == 0 {
		return "none"
	}
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
