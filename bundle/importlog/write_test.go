package importlog

import (
	"strings"
	"testing"
)

// TestLogWritten: what became of a stick is logged and read again; what isn't a record or a digest isn't logged.
func TestLogWritten(t *testing.T) {
	signer, verifier := testKey(t, "low", 1)
	dir := t.TempDir()
	l, err := Create(t.Context(), dir, signer, verifier)
	check(t, err)
	digest := strings.Repeat("ab", 32)
	index, err := l.LogWritten(digest, []byte("{\"a\":1,\"verified\":true}\n"), when)
	check(t, err)
	for _, bad := range []struct{ digest, record string }{
		{"xyz", `{"a":1}`}, {digest, `{"b":1,"a":1}`}, {digest, `[1]`}, {digest, `{"a": 1}`}, {digest, ``},
	} {
		if _, err := l.LogWritten(bad.digest, []byte(bad.record), when); err == nil {
			t.Errorf("logged: %q %q", bad.digest, bad.record)
		}
	}
	check(t, l.Close())
	l, err = Open(t.Context(), dir, signer, verifier)
	check(t, err)
	n := 0
	for e, err := range l.Entries(t.Context(), 0) {
		check(t, err)
		if n++; e.Index != index || e.Kind != KindWrite || e.Write == nil || e.Write.SealDigest != digest || string(e.Write.Record) != `{"a":1,"verified":true}` {
			t.Errorf("entry %d is %s", e.Index, e.JSON)
		}
	}
	if n != 1 {
		t.Errorf("%d entries", n)
	}
	check(t, l.Close())
}

// TestLogEnrolled is the same for the enrolment of a stick.
func TestLogEnrolled(t *testing.T) {
	signer, verifier := testKey(t, "low", 1)
	dir := t.TempDir()
	l, err := Create(t.Context(), dir, signer, verifier)
	check(t, err)
	index, err := l.LogEnrolled([]byte("{\"use\":\"carrier\"}\n"), when)
	check(t, err)
	for _, bad := range []string{`{"b":1,"a":1}`, `[1]`, `{"a": 1}`, ``} {
		if _, err := l.LogEnrolled([]byte(bad), when); err == nil {
			t.Errorf("logged: %q", bad)
		}
	}
	check(t, l.Close())
	l, err = Open(t.Context(), dir, signer, verifier)
	check(t, err)
	n := 0
	for e, err := range l.Entries(t.Context(), 0) {
		check(t, err)
		if n++; e.Index != index || e.Kind != KindEnrol || e.Enrol == nil || string(e.Enrol.Record) != `{"use":"carrier"}` {
			t.Errorf("entry %d is %s", e.Index, e.JSON)
		}
	}
	if n != 1 {
		t.Errorf("%d entries", n)
	}
	check(t, l.Close())
}

// TestLogDelivered is the same for a release that was copied to a stick.
func TestLogDelivered(t *testing.T) {
	signer, verifier := testKey(t, "low", 1)
	dir := t.TempDir()
	l, err := Create(t.Context(), dir, signer, verifier)
	check(t, err)
	digest, path := strings.Repeat("ab", 32), "news/1-"+strings.Repeat("cd", 32)
	index, err := l.LogDelivered(path, digest, []byte("{\"verified\":true}\n"), when)
	check(t, err)
	for _, bad := range []struct{ path, digest, record string }{
		{"", digest, `{"a":1}`}, {path, "xyz", `{"a":1}`}, {path, digest, `{"b":1,"a":1}`}, {path, digest, `[1]`}, {path, digest, ``}, {path + "\n", digest, `{}`},
	} {
		if _, err := l.LogDelivered(bad.path, bad.digest, []byte(bad.record), when); err == nil {
			t.Errorf("logged: %+v", bad)
		}
	}
	check(t, l.Close())
	l, err = Open(t.Context(), dir, signer, verifier)
	check(t, err)
	n := 0
	for e, err := range l.Entries(t.Context(), 0) {
		check(t, err)
		if n++; e.Index != index || e.Kind != KindDeliver || e.Deliver == nil || e.Deliver.Path != path || e.Deliver.SealDigest != digest || string(e.Deliver.Record) != `{"verified":true}` {
			t.Errorf("entry %d is %s", e.Index, e.JSON)
		}
	}
	if n != 1 {
		t.Errorf("%d entries", n)
	}
	check(t, l.Close())
}
