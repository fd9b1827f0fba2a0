package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

func TestRoundTrip(t *testing.T) {
	payloads := map[string]fstest.MapFS{
		"tiny":      tiny(),
		"rich":      rich(),
		"one file":  {".": dir(0o755, 1), "f": file(0, 0o644, 2)},
		"empty dir": {".": dir(0o700, 1), "d": dir(0o755, 2)},
		"link":      {".": dir(0o700, 1), "l": link("l", 2)},
	}
	// The tree's borders: 64 data blocks under one hash block, 4,096 under two levels.
	one := func(n int64) fstest.MapFS {
		return fstest.MapFS{".": dir(0o755, 1), "f": file(int(n)*BlockSize, 0o644, 2)}
	}
	rest := plan(t, one(1), demo()).Geometry().DataBlocks - 1
	for _, n := range []int64{63, 64, 65, 4095, 4096, 4097} {
		payloads[fmt.Sprintf("%d data blocks", n)] = one(n - rest)
	}
	for name, fsys := range payloads {
		for _, roots := range []int{0, 2, 24} {
			if roots > 0 && strings.HasSuffix(name, "data blocks") {
				continue
			}
			t.Run(fmt.Sprintf("%s, %d roots", name, roots), func(t *testing.T) {
				t.Parallel()
				p := plan(t, fsys, withRoots(roots))
				var piped bytes.Buffer
				seal, err := p.WriteTo(t.Context(), &piped, nil)
				must(t, err)
				path := filepath.Join(t.TempDir(), "image")
				seal2, err := p.WriteFile(t.Context(), path, nil)
				must(t, err)
				filed, err := os.ReadFile(path)
				must(t, err)
				if !bytes.Equal(filed, piped.Bytes()) || *seal != *seal2 {
					t.Errorf("WriteFile and WriteTo differ at byte %d", firstDifference(filed, piped.Bytes()))
				}
				g := p.Geometry()
				if int64(len(filed)) != g.ImageBlocks()*BlockSize || g.ImageBlocks()%32 != 0 || g.ImageBlocks()-g.Padding() < 150 {
					t.Errorf("image of %d bytes, geometry %+v", len(filed), g)
				}
				wantArrives(t, sign(t, filed, "alice", "bob", "carol"), fsys, seal)
			})
		}
	}
}

// wantArrives verifies an image from a file and from media, without and with zeros behind it.
func wantArrives(t *testing.T, img []byte, fsys fstest.MapFS, seal *Seal) {
	t.Helper()
	for _, src := range []Source{fileSource(img), mediumSource(img), mediumSource(append(bytes.Clone(img), make([]byte, 100*BlockSize+512)...))} {
		var sink treeSink
		var listed []Entry
		v, err := verify(src, VerifyOptions{Sink: &sink, Entries: func(e []Entry) error { listed = e; return nil }})
		must(t, err)
		sink.compare(t, fsys)
		if len(v.Notes()) > 0 {
			t.Errorf("notes: %q", v.Notes())
		}
		if *v.Seal() != *seal || v.Digest() != sha256.Sum256(v.Message()) || len(listed) != len(sink.order) || len(v.Entries()) != len(listed) {
			t.Errorf("seal %+v, want %+v; %d entries", v.Seal(), seal, len(listed))
		}
		for i := range listed {
			if listed[i].Path != sink.order[i] {
				t.Errorf("entry %d is %q and was put as %q", i, listed[i].Path, sink.order[i])
			}
		}
		var signers []string
		for _, s := range v.Authorization().Signers {
			signers = append(signers, s.Holder+" "+s.Role)
		}
		if !slices.Equal(signers, []string{"alice preparer", "bob approver", "carol approver"}) {
			t.Errorf("signed by %q", signers)
		}
		if c, err := Check(t.Context(), src, nil, nil); err != nil || len(c.Entries) != len(listed) {
			t.Errorf("Check: %v", err)
		}
	}
}

// TestMaxRoots fills a medium to the last block with parity.
func TestMaxRoots(t *testing.T) {
	fsys := fstest.MapFS{".": dir(0o755, 1), "f": {Data: make([]byte, 4000*BlockSize), ModTime: time.Unix(2, 0)}}
	least := plan(t, fsys, demo()).Geometry().ImageBlocks()
	seen := map[int]bool{}
	for capacity := least; capacity < least+480; capacity += 9 {
		opt := withRoots(MaxRoots)
		opt.Capacity = capacity
		g := plan(t, fsys, opt).Geometry()
		seen[g.Roots] = true
		if g.ImageBlocks() > capacity {
			t.Errorf("%d blocks for a medium of %d", g.ImageBlocks(), capacity)
		}
		for more := max(g.Roots+1, 2); more <= 24; more++ {
			if o, err := NewGeometry(g.DataBlocks, more); err != nil || o.ImageBlocks() <= capacity {
				t.Errorf("%d roots chosen for %d blocks, %d fit, %v", g.Roots, capacity, more, err)
			}
		}
	}
	if !seen[0] || !seen[24] || len(seen) < 4 {
		t.Errorf("only these roots were seen: %v", seen)
	}
	if g := plan(t, fsys, withRoots(MaxRoots)).Geometry(); g.Roots != 24 {
		t.Errorf("without a limit: %d roots", g.Roots)
	}
	opt := withRoots(MaxRoots)
	opt.Capacity = least - 1
	_, err := NewPlan(t.Context(), fsys, opt)
	wantCode(t, err, "too-big")
	opt.Roots, opt.Capacity = 24, least
	_, err = NewPlan(t.Context(), fsys, opt)
	wantCode(t, err, "too-big")
}

// TestEpoch: it dates volume and seal; without one, the newest mtime does.
func TestEpoch(t *testing.T) {
	opt := demo()
	opt.Epoch = nil
	if s := plan(t, tiny(), opt).seal; s.Created != 1_700_000_004 || s.Expires != 0 {
		t.Errorf("created %d, expires %d", s.Created, s.Expires)
	}
	opt.MaxAge = 3600
	if s := plan(t, tiny(), opt).seal; s.Expires != 1_700_003_604 {
		t.Errorf("expires %d", s.Expires)
	}
	opt.Epoch = new(int64)
	if s := plan(t, tiny(), opt).seal; s.Created != 0 || s.Expires != 3600 {
		t.Errorf("created %d, expires %d", s.Created, s.Expires)
	}
	old := fstest.MapFS{".": dir(0o755, -5), "f": file(1, 0o644, -7)}
	opt.Epoch = nil
	if s := plan(t, old, opt).seal; s.Created != 0 {
		t.Errorf("a payload from before 1970: created %d", s.Created)
	}
}

// TestPlanUsage: what is wrong with the options is said before the payload is read, and is no refusal.
func TestPlanUsage(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"channel":       func(o *Options) { o.Channel = "../x" },
		"no channel":    func(o *Options) { o.Channel = "" },
		"destination":   func(o *Options) { o.Destination = "a\x00b" },
		"sequence 0":    func(o *Options) { o.Sequence = 0 },
		"sequence 2^53": func(o *Options) { o.Sequence = 1 << 53 },
		"previous":      func(o *Options) { o.Previous = "abc" },
		"previous case": func(o *Options) { o.Previous = strings.Repeat("AB", 32) },
		"epoch -1":      func(o *Options) { o.Epoch = new(int64); *o.Epoch = -1 },
		"epoch 2156":    func(o *Options) { o.Epoch = new(int64); *o.Epoch = maxTime + 1 },
		"expiry":        func(o *Options) { o.MaxAge = maxTime },
		"expiry wraps":  func(o *Options) { o.MaxAge = 1<<63 - 1 },
		"age -1":        func(o *Options) { o.MaxAge = -1 },
		"1 root":        func(o *Options) { o.Roots = 1 },
		"25 roots":      func(o *Options) { o.Roots = 25 },
		"-2 roots":      func(o *Options) { o.Roots = -2 },
	} {
		opt := demo()
		change(&opt)
		p, err := NewPlan(t.Context(), tiny(), opt)
		if p != nil || codeOf(err) != "" {
			t.Errorf("%s: %v, want an error that is no refusal", name, err)
		}
	}
}

// TestLeaveOut leaves out files, links and whole directories.
func TestLeaveOut(t *testing.T) {
	fsys := rich()
	fsys["setuid"] = file(1, 0o755, 1)
	fsys["setuid"].Mode |= fs.ModeSetuid
	opt := demo()
	opt.LeaveOut = func(path string) bool { return path == "setuid" || path == "deep" || path == "link" || path == "a/b" }
	img := signed(t, fsys, opt)
	for path := range fsys {
		if opt.LeaveOut(path) || strings.HasPrefix(path, "deep") {
			delete(fsys, path)
		}
	}
	var sink treeSink
	_, err := verify(fileSource(img), VerifyOptions{Sink: &sink})
	must(t, err)
	sink.compare(t, fsys)
	for _, path := range []string{".", "all"} {
		opt.LeaveOut = func(p string) bool { return p == path || path == "all" && p != "." }
		_, err := NewPlan(context.Background(), fsys, opt)
		wantCode(t, err, "empty-payload")
	}
}
