package bundle

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// planned returns the seal that a plan gives without an image, and its signed bytes.
func planned(t testing.TB, fsys fstest.MapFS, opt Options) (*Seal, []byte) {
	t.Helper()
	s, err := plan(t, fsys, opt).Seal(t.Context(), nil)
	must(t, err)
	message, err := s.Encode()
	must(t, err)
	return s, message
}

// TestSealBeforeImage: a plan gives the seal that the image will have, and nothing is left of making it.
func TestSealBeforeImage(t *testing.T) {
	scratch := t.TempDir()
	t.Setenv("TMPDIR", scratch)
	for name, fsys := range map[string]fstest.MapFS{"tiny": tiny(), "rich": rich()} {
		for _, roots := range []int{0, 2, 24} {
			opt := withRoots(roots)
			opt.MaxAge = 1000
			img := prepare(t, fsys, opt)
			p := plan(t, fsys, opt)
			seal, err := p.Seal(t.Context(), nil)
			must(t, err)
			if want := sealOf(t, img); *seal != *want {
				t.Errorf("%s, %d roots: planned %+v, made %+v", name, roots, seal, want)
			}
			c, err := Check(t.Context(), fileSource(img), nil, nil)
			must(t, err)
			for change := range Diff(c.Entries, p.Entries()) {
				t.Errorf("%s, %d roots: %s: %v", name, roots, change.Path(), change.What())
			}
			if again := plan(t, fsys, seal.Options()); again.seal != plan(t, fsys, opt).seal || again.geometry != p.geometry {
				t.Errorf("%s, %d roots: the seal's options give %+v", name, roots, again.seal)
			}
		}
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestExpect: with a seal and its signatures, the image comes out signed, to a file and to a pipe.
func TestExpect(t *testing.T) {
	for _, roots := range []int{0, 2} {
		fsys := rich()
		seal, message := planned(t, fsys, withRoots(roots))
		var signatures [][]byte
		for _, name := range []string{"carol", "alice", "bob"} {
			signatures = append(signatures, signature(t, name, message))
		}
		want := sign(t, prepare(t, fsys, withRoots(roots)), "carol", "alice", "bob")
		if _, err := verify(fileSource(want), VerifyOptions{}); err != nil {
			t.Fatal(err)
		}
		expecting := func() *Plan {
			p := plan(t, fsys, seal.Options())
			must(t, p.Expect(seal, signatures))
			return p
		}
		var pipe bytes.Buffer
		_, err := expecting().WriteTo(t.Context(), &pipe, nil)
		must(t, err)
		path := filepath.Join(t.TempDir(), "image")
		_, err = expecting().WriteFile(t.Context(), path, nil)
		must(t, err)
		file, err := os.ReadFile(path)
		must(t, err)
		for name, got := range map[string][]byte{"pipe": pipe.Bytes(), "file": file} {
			if !bytes.Equal(got, want) {
				t.Errorf("%s, %d roots: differs at byte %d", name, roots, firstDifference(got, want))
			}
		}
	}
}

// TestExpectRefuses: whatever isn't as planned is refused, says what, and leaves nothing under the image's name.
func TestExpectRefuses(t *testing.T) {
	seal, _ := planned(t, tiny(), withRoots(2))
	zeros := strings.Repeat("0", 64)
	for name, test := range map[string]struct {
		payload func(m fstest.MapFS)
		options func(o *Options)
		seal    func(s *Seal)
		early   bool // before a file is read
		want    string
	}{
		"channel":     {options: func(o *Options) { o.Channel = "other" }, early: true, want: "channel would be other, .* has demo: it was made with other options"},
		"destination": {options: func(o *Options) { o.Destination = "low" }, early: true, want: "destination would be low"},
		"sequence":    {options: func(o *Options) { o.Sequence++ }, early: true, want: "sequence would be 8, .* has 7"},
		"previous":    {options: func(o *Options) { o.Previous = zeros }, early: true, want: "previous would be 0000"},
		"epoch":       {options: func(o *Options) { e := int64(1); o.Epoch = &e }, early: true, want: "created would be 1,"},
		"expiry":      {options: func(o *Options) { o.MaxAge = 5 }, early: true, want: "expires would be 1750000005, .* has 0"},
		"roots":       {options: func(o *Options) { o.Roots = 3 }, early: true, want: `fec\.roots would be 3, .* has 2`},
		"new file":    {payload: func(m fstest.MapFS) { m["new"] = file(1, 0o644, 1) }, early: true, want: `manifest\.bytes would be .*: the directory is another one, or was changed since \(names, contents, modes or times\)`},
		"file gone":   {payload: func(m fstest.MapFS) { delete(m, "a.txt") }, early: true, want: `manifest\.bytes would be`},
		"larger file": {payload: func(m fstest.MapFS) { m["d/b.bin"] = file(8000, 0o755, 1_700_000_003) }, early: true, want: `manifest\.lba would be`},
		"contents":    {payload: func(m fstest.MapFS) { m["a.txt"].Data = []byte("other data") }, want: `manifest\.sha256 would be .*: the directory is another one`},
		"mode":        {payload: func(m fstest.MapFS) { m["a.txt"].Mode = 0o640 }, want: `manifest\.sha256 would be`},
		"mtime":       {payload: func(m fstest.MapFS) { m["a.txt"].ModTime = time.Unix(1_700_000_009, 0) }, want: `manifest\.sha256 would be`},
		"forged root": {seal: func(s *Seal) { s.Verity.Root = zeros }, want: `verity\.root would be .*: every file is as planned`},
		"forged fec":  {seal: func(s *Seal) { s.FEC.SHA256 = zeros }, want: `fec\.sha256 would be`},
		"forged salt": {seal: func(s *Seal) { s.Verity.Salt = zeros }, want: "isn't the one that was planned"},
	} {
		t.Run(name, func(t *testing.T) {
			m, opt, expected := tiny(), seal.Options(), *seal
			if test.payload != nil {
				test.payload(m)
			}
			if test.options != nil {
				test.options(&opt)
			}
			if test.seal != nil {
				test.seal(&expected)
			}
			dir := t.TempDir()
			var pipe bytes.Buffer
			for how, write := range map[string]func(p *Plan) error{
				"Seal":      func(p *Plan) error { _, err := p.Seal(t.Context(), nil); return err },
				"WriteTo":   func(p *Plan) error { _, err := p.WriteTo(t.Context(), &pipe, nil); return err },
				"WriteFile": func(p *Plan) error { _, err := p.WriteFile(t.Context(), filepath.Join(dir, "image"), nil); return err },
			} {
				p := plan(t, m, opt)
				err := p.Expect(&expected, nil)
				if (err != nil) != test.early {
					t.Errorf("Expect: %v", err)
				}
				if !test.early {
					err = write(p)
				}
				wantCode(t, err, "seal-differs")
				if err == nil || !regexp.MustCompile(test.want).MatchString(err.Error()) {
					t.Errorf("%s: %v, want %q", how, err, test.want)
				}
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			if p := plan(t, m, opt); !test.early {
				must(t, p.Expect(&expected, nil))
				err := p.Foresee(t.Context(), nil)
				if test.payload != nil || expected.Verity.Root != seal.Verity.Root {
					wantCode(t, err, "seal-differs")
				} else if err != nil {
					t.Errorf("Foresee: %v", err)
				}
			}
			// A stream gets the signed seal when all of it but the parity has come out as planned.
			g := plan(t, m, opt).Geometry()
			limit := g.DataBlocks
			if expected.FEC != seal.FEC {
				limit = g.SealB()
			}
			if int64(pipe.Len()) > limit*BlockSize {
				t.Errorf("%d bytes were written, more than %d blocks: a seal too", pipe.Len(), limit)
			}
		})
	}
}

func TestExpectSignatures(t *testing.T) {
	seal, message := planned(t, tiny(), demo())
	alice := signature(t, "alice", message)
	var nine [][]byte
	for _, name := range []string{"alice", "bob", "carol", "bob2", "erin", "rita", "high", "low", "mallory"} {
		nine = append(nine, signature(t, name, message))
	}
	for want, list := range map[string][][]byte{
		"9 signatures: a seal has 8 slots":         nine,
		"signature 1: key .* has signed already":   {alice, alice},
		"signature 0: parse signature: .*":         {[]byte("not one\n")},
		"signature 1: parse signature: byte 0: .*": {alice, nil},
	} {
		if err := plan(t, tiny(), demo()).Expect(seal, list); err == nil || !regexp.MustCompile("^"+want).MatchString(err.Error()) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	p := plan(t, tiny(), demo())
	must(t, p.Expect(seal, nine[:8]))
	_, err := p.WriteTo(t.Context(), io.Discard, nil)
	must(t, err)
}
