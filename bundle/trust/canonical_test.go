package trust

import (
	"bytes"
	"strings"
	"testing"
)

func TestCanonicalMinisign(t *testing.T) {
	key := testKey(t, 1)
	good, err := Sign(key, testSeal, "sallyport-seal SEAL.json", testTime)
	must(t, err)
	rest := string(good[len(signatureHead):])
	for what, loose := range map[string]string{
		"as it is":               string(good),
		"other comment":          untrustedPrefix + "by Alice, from her card\n" + rest,
		"comment of 1,024 bytes": untrustedPrefix + strings.Repeat("x", 1024) + "\n" + rest,
		"line ends of DOS":       strings.ReplaceAll(string(good), "\n", "\r\n"),
		"filled with newlines":   string(good) + strings.Repeat("\n", 1000),
		"no last newline":        strings.TrimSuffix(string(good), "\n"),
	} {
		if got, err := Canonical([]byte(loose)); err != nil || !bytes.Equal(got, good) {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	for what, bad := range map[string]string{
		"nothing":          "",
		"too long":         string(good) + strings.Repeat("\n", maxLoose),
		"a public key":     string(key.Public().File()),
		"text behind":      string(good) + "x\n",
		"legacy algorithm": strings.Replace(string(good), "\nRU", "\nRW", 1),
		"no comment line":  rest,
	} {
		if got, err := Canonical([]byte(bad)); err == nil {
			t.Errorf("%s: was taken as %q", what, got)
		}
	}
}
