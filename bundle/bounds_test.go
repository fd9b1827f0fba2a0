package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// bounded runs f and checks how much it allocates and how long it takes; nothing else may run beside it.
func bounded(t *testing.T, what string, most uint64, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	f()
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > most {
		t.Errorf("%s: %d bytes were allocated, the limit is %d", what, n, most)
	}
	if took > 20*time.Second {
		t.Errorf("%s: took %v", what, took)
	}
}

// endless gives head and then tail again and again, and counts what is read of it.
type endless struct {
	head, tail string
	read       int64
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.head)
	e.head = e.head[n:]
	for n < len(p) {
		n += copy(p[n:], e.tail)
	}
	e.read += int64(n)
	return n, nil
}

// TestClaims: row T10. Whatever sizes are claimed, little is read and allocated before the claim is refused.
func TestClaims(t *testing.T) {
	const mib = 1 << 20
	root := `{"entries":[{"mode":493,"mtime":1,"path":".","type":"dir"},`
	for name, src := range map[string]*endless{
		"a string of 1 GiB":      {head: root + `{"mode":420,"mtime":1,"path":"`, tail: strings.Repeat("a", 4096)},
		"a member name of 1 GiB": {head: root + `{"`, tail: strings.Repeat("a", 4096)},
		"a number of 1 GiB":      {head: root + `{"mode":420,"mtime":1,"path":"f","size":1`, tail: strings.Repeat("0", 4096)},
		"white space of 1 GiB":   {head: root, tail: strings.Repeat(" ", 4096)},
		"white space in front":   {tail: strings.Repeat("\n", 4096)},
		"escapes of 1 GiB":       {head: root + `{"mode":420,"mtime":1,"path":"`, tail: strings.Repeat(`\u0001`, 1000)},
		"deep nesting":           {head: root, tail: strings.Repeat("[", 4096)},
		"deep nesting at once":   {tail: strings.Repeat("[", 4096)},
		"deep nesting, objects":  {head: root, tail: strings.Repeat(`{"a":`, 1000)},
		"members without end":    {head: root + `{"mode":420`, tail: strings.Repeat(`,"mode":420`, 100)},
		"entries without end":    {head: `{"entries":[`, tail: strings.Repeat(`{"mode":493,"mtime":1,"path":".","type":"dir"},`, 10)},
		"zeros":                  {tail: strings.Repeat("\x00", 4096)},
	} {
		bounded(t, name, mib, func() {
			_, err := readManifest(src, MaxManifestBytes, [32]byte{})
			wantCode(t, err, "bad-manifest")
		})
		if src.read > mib/2 {
			t.Errorf("%s: %d bytes were read", name, src.read)
		}
	}
	for _, size := range []int64{-1, 0, MaxManifestBytes + 1, 1<<63 - 1} {
		src := &endless{tail: "x"}
		_, err := readManifest(src, size, [32]byte{})
		if wantCode(t, err, "bad-manifest"); src.read > 0 {
			t.Errorf("a manifest of %d bytes was read", size)
		}
	}

	// Locators that claim the largest image there can be, on media that claim to be so large.
	img := signed(t, tiny(), demo())
	for _, d := range []int64{4_000_000_000, 4_200_000_000} {
		g := geometry(t, d, 0)
		for _, size := range []int64{1 << 40, g.ImageBlocks() * BlockSize, 1<<63 - 1} {
			medium := &sparse{blocks: map[int64][]byte{0: g.locator()}}
			bounded(t, fmt.Sprint("a locator of ", d, " data blocks"), mib, func() {
				_, err := Inspect(t.Context(), Source{ReaderAt: medium, Size: size, Medium: true})
				wantCode(t, err, "wrong-size", "bad-seal")
			})
			// Signed by hostile signers, over a medium of zeros.
			s := *sealOf(t, img)
			s.Verity.DataBlocks = d
			s.Manifest.Bytes, s.Manifest.LBA = MaxManifestBytes, 1000
			s.fill(g)
			text, err := s.Encode()
			must(t, err)
			seal := padNewlines(text, sealBlocks*BlockSize)
			for i, name := range []string{"alice", "bob", "carol"} {
				copy(seal[(sealJSONBlocks+i)*BlockSize:], signature(t, name, text))
			}
			sb, err := s.identity().superblock(d)
			must(t, err)
			for i := range int64(sealBlocks) {
				medium.blocks[g.SealA()+i] = seal[i*BlockSize:][:BlockSize]
				medium.blocks[g.SealB()+i] = seal[i*BlockSize:][:BlockSize]
			}
			medium.blocks[g.Superblock()] = sb
			bounded(t, fmt.Sprint("a seal over ", d, " data blocks"), 4*mib, func() {
				_, err := verify(Source{ReaderAt: medium, Size: size, Medium: true}, VerifyOptions{})
				wantCode(t, err, "wrong-size", "bad-tree")
			})
		}
	}
}

// sparse is a medium of zeros with some blocks.
type sparse struct{ blocks map[int64][]byte }

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for n := int64(0); n < int64(len(p)); n += BlockSize {
		copy(p[n:], s.blocks[(off+n)/BlockSize])
	}
	return len(p), nil
}

func (id identity) superblock(dataBlocks int64) ([]byte, error) {
	p := &Plan{seal: Seal{Channel: id.channel, Sequence: id.sequence, Previous: id.previous, Set: SealSet{Index: id.index, Of: id.of}},
		geometry: Geometry{DataBlocks: dataBlocks}}
	return p.superblock()
}

// TestVerifyMemory: a payload many times larger costs no more memory.
func TestVerifyMemory(t *testing.T) {
	payload := tiny()
	payload["large"] = file(40<<20, 0o644, 5)
	img := signed(t, payload, demo())
	sink := sinkFunc(func(_ *Entry, r io.Reader) error {
		if r == nil {
			return nil
		}
		_, err := io.Copy(io.Discard, r)
		return err
	})
	bounded(t, "verify 40 MiB", 8<<20, func() {
		_, err := verify(mediumSource(img), VerifyOptions{Sink: sink})
		must(t, err)
	})
	bounded(t, "write 40 MiB", 26<<20, func() {
		_, err := plan(t, payload, demo()).WriteTo(t.Context(), io.Discard, nil)
		must(t, err)
	})
}

// TestEntryLimit needs some minutes: a manifest with an entry more than there may be.
func TestEntryLimit(t *testing.T) {
	if os.Getenv("SALLYPORT_BIG") != "1" {
		t.Skip("NOT RUN: a manifest of 4,000,001 entries. Set SALLYPORT_BIG=1")
	}
	r, w := io.Pipe()
	go func() {
		var b bytes.Buffer
		b.WriteString(`{"entries":[{"mode":493,"mtime":1,"path":".","type":"dir"}`)
		for i := range MaxEntries {
			fmt.Fprintf(&b, `,{"mode":493,"mtime":1,"path":"%09d","type":"dir"}`, i)
			if b.Len() > 1<<20 {
				if _, err := b.WriteTo(w); err != nil {
					return
				}
			}
		}
		b.WriteString(`],"type":"sallyport-manifest","version":1}` + "\n")
		_, err := b.WriteTo(w)
		w.CloseWithError(err)
	}()
	_, err := readManifest(r, MaxManifestBytes, [32]byte{})
	if codeOf(err) != "bad-manifest" || !strings.Contains(err.Error(), "more than 4000000 entries") {
		t.Error(err)
	}
	if err := r.Close(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}
