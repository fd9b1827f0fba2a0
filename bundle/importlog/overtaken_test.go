package importlog

import (
	"testing"
	"time"

	"sallyport/bundle/trust"
)

// T4, T5: whoever cuts the power between acceptance and release must not be left with a disc that is good for ever.
func TestOvertaken(t *testing.T) {
	signer, verifier := testKey(t, "high", 1)
	l, err := open(t.Context(), t.TempDir(), signer, verifier, true, lazy)
	check(t, err)
	defer l.Close()
	policy := Policy{Gaps: trust.GapsReason, MaxJump: 10}
	l.state.channels["demo"] = ChannelState{LastSequence: 3, LastSealDigest: digits("c")}
	l.state.accepted[digits("b")] = &acceptance{index: 4, path: "demo/2-x"}
	l.state.accepted[digits("c")] = &acceptance{index: 5, path: "demo/3-x"}
	overtaken := Candidate{Channel: "demo", Sequence: 2, SealDigest: digits("b")}
	if err := l.CheckFresh(overtaken, policy, when, ""); codeOf(err) != "stale-sequence" {
		t.Errorf("an older bundle, accepted and not released: %v", err)
	}
	newest := Candidate{Channel: "demo", Sequence: 3, SealDigest: digits("c"), Expires: when.Unix() + 10}
	if err := l.CheckFresh(newest, policy, when, ""); err != nil {
		t.Errorf("the newest bundle, accepted and not released: %v", err)
	}
	if err := l.CheckFresh(newest, policy, when.Add(10*time.Second), ""); codeOf(err) != "expired" {
		t.Errorf("the same, expired: %v", err)
	}
}

func digits(s string) string {
	for len(s) < 64 {
		s += s
	}
	return s[:64]
}
