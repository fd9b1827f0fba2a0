package importlog

import (
	"context"

	"sallyport/bundle"
)

// Accept logs that a verified bundle may be released. Its payload must have been staged in st; that is finished
// and made durable here, before the entry, which is durable when Accept returns. A bundle that was accepted before
// and not released gets the receipt of its entry again. Freshness is judged once more, against the log as it is:
// refusals are those of [Log.CheckFresh].
func Accept(ctx context.Context, l *Log, v *bundle.Verified, st *Staging, opt AcceptOptions) (*Receipt, error) {
	auth := v.Authorization()
	b := imported{
		seal: v.Message(), digest: v.Digest(), expires: v.Seal().Expires, signers: []Signer{},
		policy: Policy{Gaps: auth.Channel.Gaps, MaxJump: auth.Channel.MaxJump},
	}
	for _, s := range auth.Signers {
		b.signers = append(b.signers, Signer{Holder: s.Holder, KeyID: s.KeyID.String(), Role: s.Role})
	}
	return accept(ctx, l, b, st, opt)
}
