package importlog

import (
	"strings"
	"testing"
)

// C6: a number is taken when a burn begins, and never given again, also after the log was opened anew.
func TestDiscNumbers(t *testing.T) {
	signer, verifier := testKey(t, "low", 1)
	dir := t.TempDir()
	l, err := Create(t.Context(), dir, signer, verifier)
	check(t, err)
	digest := strings.Repeat("ab", 32)
	for want := int64(1); want <= 6; want++ {
		if want%2 == 0 { // the machine stopped after the entry
			check(t, l.Close())
			l, err = Open(t.Context(), dir, signer, verifier)
			check(t, err)
		}
		if n, err := l.LogBurnBegins(digest, when); err != nil || n != want {
			t.Fatalf("number %d, %v; want %d", n, err, want)
		}
	}
	if _, err := l.append(&BeginEntry{DiscNumber: 6, Kind: KindBegin, SealDigest: digest, Station: "low", Time: when.Unix(), Type: entryType}); err == nil {
		t.Error("a number was logged twice")
	}
	if _, err := l.LogBurnBegins("xyz", when); err == nil {
		t.Error("a seal digest that is none was logged")
	}
	check(t, l.Close())
}
