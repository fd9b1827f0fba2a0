package importlog

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"time"

	"sallyport/bundle"
	"sallyport/bundle/trust"
)

var _ bundle.Sink = (*Staging)(nil)

// Put stages an entry of a manifest: a Staging is a [bundle.Sink].
func (st *Staging) Put(e *bundle.Entry, r io.Reader) error {
	mode := fs.FileMode(e.Mode)
	switch e.Type {
	case bundle.Dir:
		return st.Dir(e.Path, mode, e.MTime)
	case bundle.File:
		return st.File(e.Path, mode, e.MTime, e.Size, r)
	case bundle.Symlink:
		return st.Symlink(e.Path, e.Target, e.MTime)
	}
	return fmt.Errorf("stage %.1000q: unknown type %v", e.Path, e.Type)
}

// Fresh returns the check that [bundle.Verify] asks for once the signatures are good: [Log.CheckFresh] by what
// the trust root says of the seal's channel.
func (l *Log) Fresh(root *trust.Root, now time.Time, gapReason string) func(*bundle.Claims) error {
	return func(c *bundle.Claims) error {
		channel, ok := root.Channel(c.Seal.Channel)
		if !ok {
			return fmt.Errorf("freshness: the trust root has no channel %.80q", c.Seal.Channel)
		}
		digest := c.Digest()
		return l.CheckFresh(Candidate{
			Channel: c.Seal.Channel, Expires: c.Seal.Expires, Previous: c.Seal.Previous,
			SealDigest: hex.EncodeToString(digest[:]), Sequence: c.Seal.Sequence,
		}, policyOf(channel), now, gapReason)
	}
}

func policyOf(c trust.Channel) Policy { return Policy{Gaps: c.Gaps, MaxJump: c.MaxJump} }

// Accept logs that a verified bundle may be released. Its payload must have been staged in st; that is finished
// and made durable here, before the entry, which is durable when Accept returns. A bundle that was accepted before
// and not released gets the receipt of its entry again. Freshness is judged once more, against the log as it is:
// refusals are those of [Log.CheckFresh].
func Accept(ctx context.Context, l *Log, v *bundle.Verified, st *Staging, opt AcceptOptions) (*Receipt, error) {
	auth := v.Authorization()
	b := imported{
		seal: v.Message(), digest: v.Digest(), expires: v.Seal().Expires, signers: []Signer{},
		policy: policyOf(auth.Channel),
	}
	if r := v.Repaired(); r != nil {
		b.repair = &Repair{Blocks: r.Blocks(), Roots: int64(r.Roots), Unreadable: r.Unreadable, Worst: int64(r.Worst)}
	}
	for _, s := range auth.Signers {
		b.signers = append(b.signers, Signer{Holder: s.Holder, KeyID: s.KeyID.String(), Role: s.Role})
	}
	return accept(ctx, l, b, st, opt)
}
