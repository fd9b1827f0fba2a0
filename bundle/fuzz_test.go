package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"
	"testing"
)

// FuzzLocator: what parseLocator takes is what locator gives.
func FuzzLocator(f *testing.F) {
	for _, c := range []struct {
		d     int64
		roots int
	}{{17, 0}, {1000, 8}, {2298000, 24}} {
		g, err := NewGeometry(c.d, c.roots)
		must(f, err)
		f.Add(bytes.TrimRight(g.locator(), "\n"))
	}
	f.Add([]byte("sallyport 1\nimage-blocks 9223372036854775807\ndata-blocks 9223372036854775807\n"))
	f.Add([]byte("sallyport 2\n\x1b[2J"))
	f.Fuzz(func(t *testing.T, block []byte) {
		block = block[:min(len(block), BlockSize)]
		block = padNewlines(bytes.Clone(block), BlockSize)
		g, err := parseLocator(block)
		if err != nil {
			if codeOf(err) == "" {
				t.Fatalf("not a refusal: %v", err)
			}
			wantPrintable(t, err)
			return
		}
		if !bytes.Equal(g.locator(), block) {
			t.Fatalf("%q was taken for %+v", block, g)
		}
	})
}

// FuzzParseSeal: what ParseSeal takes encodes to the same bytes, and its geometry holds.
func FuzzParseSeal(f *testing.F) {
	for _, roots := range []int{0, 24} {
		img := prepare(f, tiny(), withRoots(roots))
		f.Add(bytes.TrimRight(messageOf(f, img), "\n"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		kept := bytes.Clone(data)
		s, err := ParseSeal(data)
		if !bytes.Equal(kept, data) {
			t.Fatal("the data were changed")
		}
		if err != nil {
			if codeOf(err) == "" {
				t.Fatalf("not a refusal: %v", err)
			}
			wantPrintable(t, err)
			return
		}
		again, err := s.Encode()
		if err != nil || !bytes.Equal(bytes.TrimRight(again, "\n"), bytes.TrimRight(data, "\n")) {
			t.Fatalf("%q encodes to %q, %v", data, again, err)
		}
		g, err := s.Geometry()
		if err != nil || g.ImageBlocks() != s.ImageBlocks || s.Manifest.LBA+blocksOf(s.Manifest.Bytes) > g.DataBlocks {
			t.Fatalf("geometry %+v, %v", g, err)
		}
	})
}

// FuzzManifest: what readManifest takes, writeManifest writes, and it can be laid out or is refused.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(manifestText()))
	f.Add([]byte(manifestText(dirJSON("d"), fileJSON("d/f"), linkJSON("d/l", "../d/f"))))
	f.Add([]byte(manifestText(fileJSON("a"), fileJSON(`b\u0001é😀`), linkJSON("c", "././x"))))
	f.Fuzz(func(t *testing.T, text []byte) {
		entries, err := readManifest(bytes.NewReader(text), int64(len(text)), sha256.Sum256(text))
		if err != nil {
			if codeOf(err) != "bad-manifest" {
				t.Fatalf("not refused: %v", err)
			}
			wantPrintable(t, err)
			return
		}
		var again bytes.Buffer
		if err := writeManifest(&again, entries); err != nil || !bytes.Equal(again.Bytes(), text) {
			t.Fatalf("%q is written as %q, %v", text, again.Bytes(), err)
		}
		_, _ = newLayout(identity{channel: "demo", sequence: 1, index: 1, of: 1}, 0, int64(len(text)), entries)
	})
}

var fuzzImages = sync.OnceValue(func() [2][]byte {
	var list [2][]byte
	for i, roots := range []int{0, 2} {
		var b bytes.Buffer
		p, err := NewPlan(context.Background(), tiny(), withRoots(roots))
		if err == nil {
			_, err = p.WriteTo(context.Background(), &b, nil)
		}
		if err != nil {
			panic(err)
		}
		list[i] = b.Bytes()
	}
	return list
})

// FuzzVerify changes good images: XORs a pattern into them in up to three places, in the last one in both seals
// alike, cuts or lengthens them. Nothing but the original is accepted, parity aside, and all else is a refusal.
func FuzzVerify(f *testing.F) {
	f.Add(false, uint32(0), []byte{0}, uint32(0), []byte{}, uint16(0), []byte{}, int32(0), false)
	f.Add(false, uint32(16*2048), []byte{2}, uint32(0), []byte{}, uint16(0), []byte{}, int32(0), true)
	f.Add(true, uint32(0), []byte{}, uint32(40*2048), []byte{1, 2, 3}, uint16(100), []byte{'1' ^ '2'}, int32(0), false)
	f.Add(true, uint32(100*2048), []byte("xxxx"), uint32(0), []byte{}, uint16(8192), bytes.Repeat([]byte{'\n' ^ 'u'}, 100), int32(2048), true)
	f.Add(false, uint32(0), []byte{}, uint32(0), []byte{}, uint16(0), []byte{}, int32(-2048), false)
	f.Fuzz(func(t *testing.T, parity bool, at1 uint32, xor1 []byte, at2 uint32, xor2 []byte, atSeal uint16, xorSeal []byte, length int32, medium bool) {
		original := fuzzImages()[0]
		if parity {
			original = fuzzImages()[1]
		}
		original = sign(t, bytes.Clone(original), "alice", "bob", "carol")
		g := geometryOf(t, original)
		img := bytes.Clone(original)
		flip := func(at int64, with []byte, end int64) {
			for i, b := range with {
				if p := at + int64(i); p < end {
					img[p] ^= b
				}
			}
		}
		flip(int64(at1), xor1, int64(len(img)))
		flip(int64(at2), xor2, int64(len(img)))
		flip(g.SealA()*BlockSize+int64(atSeal), xorSeal, g.Superblock()*BlockSize)
		flip(g.SealB()*BlockSize+int64(atSeal), xorSeal, g.LocatorCopy()*BlockSize)
		switch n := int64(len(img)) + int64(length); {
		case n < int64(len(img)):
			img = img[:max(n, 0)]
		case length < 1<<20:
			img = append(img, make([]byte, length)...)
		}
		intact := len(img) == len(original) || medium && len(img) > len(original)
		for lba := int64(0); intact && lba < g.ImageBlocks(); lba++ {
			block := img[lba*BlockSize:][:BlockSize]
			intact = bytes.Equal(block, original[lba*BlockSize:][:BlockSize]) || lba >= g.FEC() && lba < g.SealB()
		}
		var sink treeSink
		v, err := verify(Source{ReaderAt: bytes.NewReader(img), Size: int64(len(img)), Medium: medium}, VerifyOptions{Sink: &sink})
		switch {
		case err != nil && intact || err == nil && !intact && (!parity || v.Repaired() == nil):
			t.Fatalf("intact %v, and Verify says %v", intact, err)
		case err != nil && codeOf(err) == "":
			t.Fatalf("not a refusal: %v", err)
		case err != nil:
			wantPrintable(t, err)
		default:
			sink.compare(t, tiny())
			damaged := !bytes.Equal(img[g.FEC()*BlockSize:g.SealB()*BlockSize], original[g.FEC()*BlockSize:g.SealB()*BlockSize])
			if damaged && len(v.Notes()) == 0 && v.Repaired().Blocks() == 0 || !damaged && len(v.Notes()) > 0 {
				t.Fatalf("parity damaged %v, notes %q, repaired %+v", damaged, v.Notes(), v.Repaired())
			}
		}
	})
}

// FuzzForged changes the data area under good signatures: a signer's image is accepted only when it is the one
// that the manifest gives.
func FuzzForged(f *testing.F) {
	f.Add(uint32(0), []byte{0})
	f.Add(uint32(16*2048+40), []byte{1})
	f.Add(uint32(20*2048+100), []byte{0x80, 0, 0, 1})
	f.Add(uint32(28*2048), []byte("{\"entries\":[\n"))
	f.Fuzz(func(t *testing.T, at uint32, xor []byte) {
		original := sign(t, bytes.Clone(fuzzImages()[0]), "alice", "bob", "carol")
		forged := forge(t, original)
		changed := false
		for i, b := range xor {
			// Block 0 is the locator, which the helper makes.
			if p := BlockSize + int64(at) + int64(i); p < int64(len(forged.data)) {
				forged.data[p] ^= b
				changed = changed || b != 0
			}
		}
		forged.seal.Manifest.SHA256 = fmt.Sprintf("%x", sha256.Sum256(forged.file(manifestName)))
		_, err := verify(fileSource(forged.image(t)), VerifyOptions{Sink: sinkFunc(func(_ *Entry, r io.Reader) error { return discard(r) })})
		if (err == nil) == changed || err != nil && codeOf(err) == "" {
			t.Fatalf("changed %v, and Verify says %v", changed, err)
		}
	})
}
