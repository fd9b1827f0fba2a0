package importlog

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sallyport/bundle"
	"sallyport/bundle/trust"
)

// site is a trust root with one channel, "tools", its keys, and the station "north".
type site struct {
	root                        *trust.Root
	preparer, approver, station *trust.SecretKey
}

func newSite(t *testing.T) site {
	t.Helper()
	var s site
	key := func() *trust.SecretKey {
		k, err := trust.GenerateKey()
		check(t, err)
		return k
	}
	s.preparer, s.approver, s.station = key(), key(), key()
	d := trust.NewDocument()
	check(t, d.AddHolder("pat", s.preparer.Public()))
	check(t, d.AddHolder("ann", s.approver.Public()))
	check(t, d.AddStation("north", "", s.station.Public()))
	check(t, d.AddChannel(trust.Channel{
		Name: "tools", Destination: "north", Gaps: trust.GapsReason, MaxJump: 5,
		Preparers: trust.Role{Holders: []string{"pat"}, Threshold: 1}, Approvers: trust.Role{Holders: []string{"ann"}, Threshold: 1},
	}))
	check(t, d.SetRoot(1, "ann"))
	data, err := d.Encode()
	check(t, err)
	sig, err := trust.Sign(s.approver, data, "sallyport-trust trust.json", time.Unix(1700000000, 0))
	check(t, err)
	s.root, err = trust.Accept(data, map[string][]byte{"ann": sig})
	check(t, err)
	return s
}

// makeBundle makes a signed image file.
func (s site) makeBundle(t *testing.T, payload fs.FS, sequence int64, previous string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "bundle.iso")
	epoch := int64(1_750_000_000)
	plan, err := bundle.NewPlan(t.Context(), payload, bundle.Options{Channel: "tools", Destination: "north", Sequence: sequence, Previous: previous, Epoch: &epoch})
	check(t, err)
	_, err = plan.WriteFile(t.Context(), p, nil)
	check(t, err)
	for _, key := range []*trust.SecretKey{s.preparer, s.approver} {
		f, err := os.Open(p)
		check(t, err)
		info, err := f.Stat()
		check(t, err)
		c, err := bundle.Inspect(t.Context(), bundle.Source{ReaderAt: f, Size: info.Size()})
		check(t, err)
		check(t, f.Close())
		sig, err := trust.Sign(key, c.Message, "sallyport-seal SEAL.json", time.Unix(1700000000, 0))
		check(t, err)
		check(t, bundle.AddSignature(p, c, sig))
	}
	return p
}

// importFile is a whole import as a program does it.
func (s site) importFile(t *testing.T, p string, l *Log, sp *Spool, reason string) (string, *Receipt, error) {
	t.Helper()
	f, err := os.Open(p)
	check(t, err)
	defer f.Close()
	info, err := f.Stat()
	check(t, err)
	src := bundle.Source{ReaderAt: f, Size: info.Size()}
	c, err := bundle.Inspect(t.Context(), src)
	check(t, err)
	st, err := sp.Stage(c.Digest())
	check(t, err)
	defer st.Discard()
	v, err := bundle.Verify(t.Context(), src, s.root, bundle.VerifyOptions{Station: "north", Fresh: l.Fresh(s.root, when, reason), Sink: st})
	if err != nil {
		return "", nil, err
	}
	r, err := Accept(t.Context(), l, v, st, AcceptOptions{Now: when, GapReason: reason})
	if err != nil {
		return "", nil, err
	}
	released, err := Release(t.Context(), r, st, when)
	return released, r, err
}

// From a payload to the spool by the real way, with the station's minisign key.
func TestImportBundle(t *testing.T) {
	s := newSite(t)
	signer, err := s.station.NoteSigner(Origin("north"))
	check(t, err)
	verifier, err := s.station.Public().NoteVerifier(Origin("north"))
	check(t, err)
	l, err := Create(t.Context(), t.TempDir(), signer, verifier)
	check(t, err)
	defer l.Close()
	dir, sp := openSpool(t)

	source := t.TempDir()
	check(t, os.MkdirAll(filepath.Join(source, "d/e"), 0o755))
	for name, mode := range map[string]fs.FileMode{"d-file": 0o644, "run": 0o755, "d/secret": 0o400} {
		p := filepath.Join(source, name)
		check(t, os.WriteFile(p, []byte(name), mode))
		check(t, os.Chtimes(p, time.Time{}, time.Unix(-5, 0)))
	}
	check(t, os.Symlink("../d-file", filepath.Join(source, "d/link")))
	for i, d := range []string{"d/e", "d", "."} {
		check(t, os.Chmod(filepath.Join(source, d), 0o750))
		check(t, os.Chtimes(filepath.Join(source, d), time.Time{}, time.Unix(1_000_000_000+int64(i), 0)))
	}
	payload := os.DirFS(source)
	one := s.makeBundle(t, payload, 1, "")
	p, r, err := s.importFile(t, one, l, sp, "")
	check(t, err)
	if got, want := list(t, filepath.Join(dir, p)), list(t, source); got != want {
		t.Errorf("released:\n%s\nwant:\n%s", got, want)
	}
	statement, err := VerifyReceipt(r.JSON(), verifier)
	if err != nil || statement.Channel != "tools" || len(statement.Signers) != 2 || statement.Signers[0] != (Signer{"ann", s.approver.Public().KeyID().String(), trust.RoleApprover}) {
		t.Errorf("receipt: %+v, %v", statement, err)
	}
	if p != "tools/1-"+statement.BundleID {
		t.Errorf("released as %s", p)
	}
	if _, _, err := s.importFile(t, one, l, sp, ""); codeOf(err) != "already-imported" {
		t.Errorf("again: %v", err)
	}
	// T4, T6: by the trust root's policy.
	for what, tt := range map[string]struct {
		sequence int64
		previous string
		reason   string
		code     string
	}{
		"other content": {1, "", "", "sequence-reused"},
		"gap":           {3, statement.SealDigest, "", "gap"},
		"jump":          {7, statement.SealDigest, "because", "sequence-jump"},
	} {
		other := t.TempDir()
		check(t, os.WriteFile(filepath.Join(other, "f"), []byte(what), 0o644))
		if _, _, err := s.importFile(t, s.makeBundle(t, os.DirFS(other), tt.sequence, tt.previous), l, sp, tt.reason); codeOf(err) != tt.code {
			t.Errorf("%s: %v", what, err)
		}
	}
	two := s.makeBundle(t, payload, 2, statement.SealDigest)
	_, r, err = s.importFile(t, two, l, sp, "")
	check(t, err)
	if c, err := l.Channel("tools"); err != nil || c != (ChannelState{2, r.SealDigest, true}) {
		t.Errorf("channel %+v, %v", c, err)
	}
	if _, err := l.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
}
