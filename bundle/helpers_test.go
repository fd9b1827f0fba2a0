package bundle

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/crypto/blake2b"

	"sallyport/bundle/trust"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// codeOf returns the refusal's code, "" for another error, "none" for none.
func codeOf(err error) string {
	var refusal interface{ RefusalCode() string }
	switch {
	case err == nil:
		return "none"
	case errors.As(err, &refusal):
		return refusal.RefusalCode()
	}
	return ""
}

func wantCode(t testing.TB, err error, codes ...string) {
	t.Helper()
	for _, c := range codes {
		if codeOf(err) == c {
			return
		}
	}
	t.Errorf("refusal %q (%v), want %q", codeOf(err), err, codes)
}

// secretKey is a key that is always the same for the same name.
func secretKey(name string) *trust.SecretKey {
	seed := blake2b.Sum256([]byte(name))
	private := ed25519.NewKeyFromSeed(seed[:])
	id := blake2b.Sum256(private[ed25519.SeedSize:])
	raw := make([]byte, 158)
	copy(raw, "Ed\x00\x00B2")
	copy(raw[54:62], id[:8])
	copy(raw[62:], private)
	k, err := trust.ParseSecretKey([]byte("untrusted comment: minisign encrypted secret key\n" + base64.StdEncoding.EncodeToString(raw) + "\n"))
	if err != nil {
		panic(err)
	}
	return k
}

// testRoot has the channels demo (prepared by alice, approved by bob and carol, for station high), vault (alice
// and bob, for the group vaults of stations vault-a and vault-b) other (erin and bob, for high) and brief (as
// demo, good for 100 seconds). Nobody there
// has mallory's key.
var testRoot = sync.OnceValue(func() *trust.Root {
	d := trust.NewDocument()
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	for _, name := range []string{"alice", "bob", "carol", "erin", "rita"} {
		check(d.AddHolder(name, secretKey(name).Public()))
	}
	check(d.AddHolder("bob", secretKey("bob2").Public()))
	for station, group := range map[string]string{"high": "", "low": "", "vault-a": "vaults", "vault-b": "vaults"} {
		check(d.AddStation(station, group, secretKey(station).Public()))
	}
	role := func(n int64, names ...string) trust.Role { return trust.Role{Holders: names, Threshold: n} }
	for _, c := range []trust.Channel{
		{Name: "demo", Destination: "high", Preparers: role(1, "alice"), Approvers: role(2, "bob", "carol")},
		{Name: "other", Destination: "high", Preparers: role(1, "erin"), Approvers: role(1, "bob")},
		{Name: "brief", Destination: "high", MaxAge: 100, Preparers: role(1, "alice"), Approvers: role(2, "bob", "carol")},
		{Name: "vault", Destination: "vaults", Preparers: role(1, "alice"), Approvers: role(1, "bob")},
	} {
		c.Gaps, c.MaxJump = trust.GapsRefuse, 1000
		check(d.AddChannel(c))
	}
	check(d.SetRoot(1, "rita"))
	data, err := d.Encode()
	check(err)
	sig, err := trust.Sign(secretKey("rita"), data, "sallyport-trust trust.json", time.Unix(1700000000, 0))
	check(err)
	root, err := trust.Accept(data, map[string][]byte{"rita": sig})
	check(err)
	return root
})

const testEpoch = 1_750_000_000

func demo() Options {
	epoch := int64(testEpoch)
	return Options{Channel: "demo", Destination: "high", Sequence: 7, Previous: strings.Repeat("ab", 32), Epoch: &epoch}
}

func withRoots(roots int) Options {
	opt := demo()
	opt.Roots = roots
	return opt
}

// pattern is n bytes that compress badly and differ for each seed.
func pattern(n int, seed string) []byte {
	x, err := blake2b.NewXOF(blake2b.OutputLengthUnknown, []byte(seed)[:min(len(seed), 64)])
	if err != nil {
		panic(err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(x, b); err != nil {
		panic(err)
	}
	return b
}

func file(n int, mode fs.FileMode, mtime int64) *fstest.MapFile {
	return &fstest.MapFile{Data: pattern(n, fmt.Sprint(n, mode, mtime)), Mode: mode, ModTime: time.Unix(mtime, 0)}
}

func dir(mode fs.FileMode, mtime int64) *fstest.MapFile {
	return &fstest.MapFile{Mode: fs.ModeDir | mode, ModTime: time.Unix(mtime, 0)}
}

func link(target string, mtime int64) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777, ModTime: time.Unix(mtime, 0)}
}

// tiny is a payload of a few blocks.
func tiny() fstest.MapFS {
	return fstest.MapFS{
		".":       dir(0o755, 1_700_000_000),
		"a.txt":   file(10, 0o644, 1_700_000_001),
		"d":       dir(0o750, 1_700_000_002),
		"d/b.bin": file(3000, 0o755, 1_700_000_003),
		"l":       link("d/b.bin", 1_700_000_004),
	}
}

// rich has every kind of entry, sizes around the borders of blocks and of what readers work with, and names that
// need care.
func rich() fstest.MapFS {
	m := fstest.MapFS{
		".":                       dir(0o755, 1_700_000_000),
		"empty":                   file(0, 0o400, 0),
		"empty dir":               dir(0o700, -1),
		"back\\slash\\":           file(5, 0o644, minTime),
		"zażółć":                  dir(0o777, maxTime),
		"zażółć/日本語.txt":          file(7, 0o664, maxTime),
		"zażółć/e\u0301":          file(8, 0o644, 1),
		"zażółć/\u00e9":           file(9, 0o644, 1),
		"link":                    link("zażółć/日本語.txt", 3),
		"zażółć/up":               link("../link", 4),
		"zażółć/here":             link("./.", 5),
		"dangling":                link("nowhere/at/all", 6),
		"a":                       dir(0o755, 7),
		"a-b":                     file(1, 0o644, 8),
		"a/b":                     file(2, 0o600, 9),
		"a.b":                     file(3, 0o000, 10),
		"README.txt.":             file(4, 0o644, 11),
		strings.Repeat("n", 255):  file(6, 0o644, 12),
		strings.Repeat("ż", 127):  link(strings.Repeat("t", 248), 13),
		"with\nnewline":           file(11, 0o644, 14),
		"control\x01\x1b[31m":     file(12, 0o644, 15),
		"a/SHA256SUMS":            file(13, 0o644, 16),
		"zażółć/MANIFEST.json":    dir(0o755, 17),
		"quote\"and'space and  2": file(14, 0o644, 18),
	}
	path := "deep"
	m[path] = dir(0o755, 20)
	for i := range 62 {
		path += fmt.Sprintf("/%d", i)
		m[path] = dir(0o755, int64(21+i))
	}
	m[path+"/bottom"] = file(100, 0o644, 90)
	for i, n := range []int{2047, 2048, 2049, 4095, 4096, 4097, 1<<20 - 1, 1 << 20, 1<<20 + 1} {
		m[fmt.Sprintf("size-%d", n)] = file(n, 0o644, int64(100+i))
	}
	return m
}

func plan(t testing.TB, fsys fs.FS, opt Options) *Plan {
	t.Helper()
	p, err := NewPlan(context.Background(), fsys, opt)
	must(t, err)
	return p
}

// prepare returns the image that WriteTo gives, without signatures.
func prepare(t testing.TB, fsys fs.FS, opt Options) []byte {
	t.Helper()
	var b bytes.Buffer
	_, err := plan(t, fsys, opt).WriteTo(context.Background(), &b, nil)
	must(t, err)
	return b.Bytes()
}

// sign fills the slots of both seals, in place.
func sign(t testing.TB, img []byte, names ...string) []byte {
	t.Helper()
	g, err := parseLocator(img[:BlockSize])
	must(t, err)
	message := img[g.SealA()*BlockSize:][:sealJSONBytes]
	for i, name := range names {
		sig, err := trust.Sign(secretKey(name), message, "sallyport-seal SEAL.json", time.Unix(1700000000, 0))
		must(t, err)
		setSlot(t, img, i, sig)
	}
	return img
}

func setSlot(t testing.TB, img []byte, i int, sig []byte) {
	t.Helper()
	g, err := parseLocator(img[:BlockSize])
	must(t, err)
	slot, err := trust.EncodeSlot(sig)
	must(t, err)
	for _, lba := range []int64{g.SealA(), g.SealB()} {
		copy(img[(lba+sealJSONBlocks+int64(i))*BlockSize:], slot[:])
	}
}

// signed is prepare and the signatures that channel demo needs.
func signed(t testing.TB, fsys fs.FS, opt Options) []byte {
	t.Helper()
	return sign(t, prepare(t, fsys, opt), "alice", "bob", "carol")
}

func fileSource(img []byte) Source {
	return Source{ReaderAt: bytes.NewReader(img), Size: int64(len(img))}
}

func mediumSource(img []byte) Source {
	return Source{ReaderAt: bytes.NewReader(img), Size: int64(len(img)), Medium: true}
}

func verify(src Source, opt VerifyOptions) (*Verified, error) {
	if opt.Station == "" {
		opt.Station = "high"
	}
	return Verify(context.Background(), src, testRoot(), opt)
}

func geometryOf(t testing.TB, img []byte) Geometry {
	t.Helper()
	g, err := parseLocator(img[:BlockSize])
	must(t, err)
	return g
}

func sealOf(t testing.TB, img []byte) *Seal {
	t.Helper()
	s, err := ParseSeal(img[geometryOf(t, img).SealA()*BlockSize:][:sealJSONBytes])
	must(t, err)
	return s
}

// treeSink keeps what it gets.
type treeSink struct {
	order   []string
	entries map[string]Entry
	data    map[string][]byte
}

func (s *treeSink) Put(e *Entry, r io.Reader) error {
	if s.entries == nil {
		s.entries, s.data = map[string]Entry{}, map[string][]byte{}
	}
	s.order = append(s.order, e.Path)
	s.entries[e.Path] = *e
	if (r != nil) != (e.Type == File) {
		return fmt.Errorf("%q: a reader for a %v", e.Path, e.Type)
	}
	if r == nil {
		return nil
	}
	b, err := io.ReadAll(r)
	s.data[e.Path] = b
	return err
}

// compare checks that the sink got the payload, and nothing else.
func (s *treeSink) compare(t testing.TB, fsys fs.FS) {
	t.Helper()
	want := 0
	err := fs.WalkDir(fsys, ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		want++
		e, ok := s.entries[path]
		if !ok {
			t.Errorf("%q didn't arrive", path)
			return nil
		}
		info, err := fs.Lstat(fsys, path)
		if err != nil {
			return err
		}
		if e.MTime != info.ModTime().Unix() {
			t.Errorf("%q: mtime %d, want %d", path, e.MTime, info.ModTime().Unix())
		}
		if e.FileMode().Type() != info.Mode().Type() || e.Type != Symlink && e.FileMode() != info.Mode() {
			t.Errorf("%q: mode %v, want %v", path, e.FileMode(), info.Mode())
		}
		switch e.Type {
		case Symlink:
			target, err := fs.ReadLink(fsys, path)
			if err != nil || target != e.Target {
				t.Errorf("%q leads to %q, want %q, %v", path, e.Target, target, err)
			}
		case File:
			data, err := fs.ReadFile(fsys, path)
			if err != nil || !bytes.Equal(data, s.data[path]) {
				t.Errorf("%q: the contents differ, or %v", path, err)
			}
		}
		return nil
	})
	must(t, err)
	if len(s.order) != want {
		t.Errorf("%d entries arrived, want %d", len(s.order), want)
	}
}
