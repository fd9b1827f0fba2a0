package bundle

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sallyport/bundle/trust"
)

// healImage is an image with parity and signatures, and its payload.
type healImage struct {
	img  []byte
	tree fs.FS
}

var healImages = sync.OnceValue(func() [2]healImage {
	var list [2]healImage
	for i, c := range []struct {
		tree  fs.FS
		roots int
	}{{tiny(), 2}, {tall(250), 24}} {
		p, err := NewPlan(context.Background(), c.tree, withRoots(c.roots))
		if err != nil {
			panic(err)
		}
		var b bytes.Buffer
		if _, err := p.WriteTo(context.Background(), &b, nil); err != nil {
			panic(err)
		}
		g, err := parseLocator(b.Bytes()[:BlockSize])
		if err != nil {
			panic(err)
		}
		fillSlots(b.Bytes(), g)
		list[i] = healImage{b.Bytes(), c.tree}
	}
	return list
})

// hurtBy carries out a program of six bytes for each change: what, where in two bytes, how many blocks, and two for
// what is put there. It returns the image as a drive would read it, and the blocks that aren't what they were.
func hurtBy(original, foreign []byte, program []byte) (h *hurtImage, hit []blockRange) {
	h = &hurtImage{img: bytes.Clone(original)}
	blocks := int64(len(original)) / BlockSize
	for ; len(program) >= 6 && len(hit) < 16; program = program[6:] {
		first := int64(binary.LittleEndian.Uint16(program[1:])) % blocks
		b := blockRange{first, min(first+int64(program[3])%64+1, blocks)}
		with := int64(binary.LittleEndian.Uint16(program[4:]))
		part := h.img[b.first*BlockSize : b.end*BlockSize]
		switch program[0] % 6 {
		case 0:
			clear(part)
		case 1:
			copy(part, pattern(len(part), fmt.Sprint("garbage ", with)))
		case 2:
			h.bad = append(h.bad, b)
		case 3: // what stands elsewhere in the image
			copy(part, original[with%blocks*BlockSize:])
		case 4: // what stands there in another bundle of the same people
			copy(part, foreign[min(b.first*BlockSize, int64(len(foreign))):])
		case 5: // one byte
			b.end = b.first + 1
			part[with%BlockSize] ^= byte(with>>11) + 1
		}
		hit = append(hit, b)
	}
	return h, hit
}

// FuzzHeal damages images with parity in all ways a medium or a stranger can. What is accepted is the payload that was
// signed, under the seal that was signed; what Repair writes is the image as it was made; one burst within the
// guarantee is always made good; and whatever else comes of it is a refusal.
func FuzzHeal(f *testing.F) {
	f.Add(byte(0), true, []byte{})
	f.Add(byte(1), true, []byte{0, 0, 0, 0, 0, 0})
	f.Add(byte(1), false, []byte{2, 16, 0, 3, 0, 0, 1, 90, 1, 0, 7, 0})
	f.Add(byte(1), true, []byte{1, 20, 1, 9, 7, 0})
	f.Add(byte(0), false, []byte{4, 0, 0, 0, 0, 0, 4, 20, 0, 63, 0, 0})
	f.Add(byte(1), true, []byte{3, 0, 0, 0, 9, 1, 5, 30, 1, 0, 9, 9})
	f.Add(byte(1), true, []byte{0, 0x0c, 1, 40, 0, 0})
	f.Fuzz(func(t *testing.T, which byte, medium bool, program []byte) {
		was := healImages()[which%2]
		original := was.img
		g := geometryOf(t, original)
		h, hit := hurtBy(original, foreignImage(), program)
		src := h.file()
		src.Medium = medium
		var sink treeSink
		v, err := verify(src, VerifyOptions{Sink: &sink, Scratch: t.TempDir()})
		whole := len(hit) == 0 || len(hit) == 1 && hit[0].end-hit[0].first <= g.Bursts().Anywhere
		switch {
		case err != nil && whole:
			t.Fatalf("%v of %+v lost: %v", hit, g, err)
		case err != nil && codeOf(err) == "" && len(h.bad) == 0:
			t.Fatalf("not a refusal: %v", err)
		case err != nil:
			wantPrintable(t, err)
		case bytes.Equal(v.Message(), messageOf(t, foreignImage())):
			sink.compare(t, tall(249))
		default:
			sink.compare(t, was.tree)
			if !bytes.Equal(v.Message(), messageOf(t, original)) {
				t.Fatalf("accepted under another seal: %q", v.Message())
			}
		}
		path := filepath.Join(t.TempDir(), "out")
		if _, err = Repair(t.Context(), src, path, RepairOptions{}); err != nil {
			if whole || codeOf(err) == "" && len(h.bad) == 0 {
				t.Fatalf("%v of %+v lost: Repair says %v", hit, g, err)
			}
			return
		}
		got, err := os.ReadFile(path)
		must(t, err)
		wantMade(t, g, got, original, hit)
	})
}

// wantMade compares an image with what it was. Slots that were hit may have become empty, or another's; and a
// foreign bundle that is whole isn't this one.
func wantMade(t *testing.T, g Geometry, got, original []byte, hit []blockRange) {
	t.Helper()
	if !bytes.Equal(messageOf(t, got), messageOf(t, original)) {
		if bytes.Equal(messageOf(t, got), messageOf(t, foreignImage())) {
			return
		}
		t.Fatalf("repaired to another seal: %q", messageOf(t, got))
	}
	if len(got) != len(original) {
		t.Fatalf("repaired to %d bytes, want %d", len(got), len(original))
	}
	for lba := range g.ImageBlocks() {
		slot := int64(-1)
		for _, seal := range []int64{g.SealA(), g.SealB()} {
			if lba >= seal+sealJSONBlocks && lba < seal+sealBlocks {
				slot = lba - seal
			}
		}
		touched := false
		for _, b := range hit {
			for _, seal := range []int64{g.SealA(), g.SealB()} {
				touched = touched || slot >= 0 && seal+slot >= b.first && seal+slot < b.end
			}
		}
		if !touched && !bytes.Equal(got[lba*BlockSize:][:BlockSize], original[lba*BlockSize:][:BlockSize]) {
			t.Fatalf("LBA %d of %+v isn't as it was made", lba, g)
		}
	}
}

// foreignImage is the channel's next bundle, signed by the same people.
var foreignImage = sync.OnceValue(func() []byte {
	opt := withRoots(24)
	opt.Sequence++
	p, err := NewPlan(context.Background(), tall(249), opt)
	if err != nil {
		panic(err)
	}
	var b bytes.Buffer
	if _, err := p.WriteTo(context.Background(), &b, nil); err != nil {
		panic(err)
	}
	img := b.Bytes()
	g, err := parseLocator(img[:BlockSize])
	if err != nil {
		panic(err)
	}
	fillSlots(img, g)
	return img
})

// fillSlots signs what is in seal A, into both seals.
func fillSlots(img []byte, g Geometry) {
	message := img[g.SealA()*BlockSize:][:sealJSONBytes]
	slots := signatures(message)
	for _, lba := range []int64{g.SealA(), g.SealB()} {
		copy(img[(lba+sealJSONBlocks)*BlockSize:], slots)
	}
}

// signatures are the slots that channel demo needs below message.
func signatures(message []byte) []byte {
	var slots []byte
	for _, name := range []string{"alice", "bob", "carol"} {
		sig, err := trust.Sign(secretKey(name), message, "sallyport-seal SEAL.json", time.Unix(1700000000, 0))
		if err != nil {
			panic(err)
		}
		slot, err := trust.EncodeSlot(sig)
		if err != nil {
			panic(err)
		}
		slots = append(slots, slot[:]...)
	}
	return slots
}

// sparseImage is an image of any size that has blocks in few places and zeros elsewhere.
type sparseImage struct {
	size  int64
	parts map[int64][]byte // by offset
}

func (s sparseImage) ReadAt(p []byte, off int64) (int, error) {
	n := int(min(int64(len(p)), max(0, s.size-off)))
	clear(p[:n])
	for at, part := range s.parts {
		if at >= 0 && at < off+int64(n) && at+int64(len(part)) > off {
			copy(p[max(0, at-off):n], part[max(0, off-at):])
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// FuzzSealed signs seals with other numbers in them. However large an image they speak of, nothing is accepted but the
// one that is there, and nobody reads, or makes room for, what isn't.
func FuzzSealed(f *testing.F) {
	f.Add(byte(0), byte(0), int64(0), byte(0), int64(0), false, false)
	f.Add(byte(1), byte(1), int64(1), byte(2), int64(1), true, true)
	f.Add(byte(1), byte(4), int64(1)<<50, byte(9), int64(0), true, true)
	f.Add(byte(0), byte(8), int64(24), byte(9), int64(3), true, true)
	f.Add(byte(0), byte(1), int64(1)<<30, byte(2), int64(-5), true, false)
	f.Add(byte(1), byte(5), int64(99), byte(6), int64(7), false, false)
	f.Fuzz(func(t *testing.T, which, field1 byte, add1 int64, field2 byte, add2 int64, derived, sized bool) {
		original := healImages()[which%2].img
		g := geometryOf(t, original)
		s := *sealOf(t, original)
		numbers := []*int64{&s.Sequence, &s.Manifest.Bytes, &s.Manifest.LBA, &s.ImageBlocks, &s.Verity.DataBlocks, &s.Verity.TreeBlocks, &s.Verity.TreeLBA,
			&s.FEC.Blocks, &s.FEC.Roots, &s.FEC.LBA, &s.Created, &s.Expires, &s.Set.Index, &s.Set.Of, &s.Profile, &s.Verity.BlockSize}
		*numbers[int(field1)%len(numbers)] += add1
		*numbers[int(field2)%len(numbers)] += add2
		if derived {
			if s.FEC.Roots < math.MinInt32 || s.FEC.Roots > math.MaxInt32 {
				return
			}
			claimed, err := NewGeometry(s.Verity.DataBlocks, int(s.FEC.Roots))
			if err != nil {
				return
			}
			g = claimed
			s.fill(g)
		}
		message, err := s.Encode()
		if err != nil {
			return
		}
		seal := append(bytes.Clone(message), signatures(message)...)
		seal = padNewlines(seal, sealBlocks*BlockSize)
		img := sparseImage{int64(len(original)), map[int64][]byte{BlockSize: original[BlockSize : geometryOf(t, original).SealA()*BlockSize]}}
		// Where there is parity, all of a damaged image is read for its repair, which takes as long as it takes.
		if sized && derived && (g.Roots == 0 || g.ImageBlocks() < 4096) {
			img.size = g.ImageBlocks() * BlockSize
		}
		tree := geometryOf(t, original)
		img.parts[g.Tree()*BlockSize] = original[tree.Tree()*BlockSize : tree.SealB()*BlockSize]
		img.parts[0] = g.locator()
		if superblock, err := (&Claims{Seal: &s, Geometry: g}).superblock(); err == nil {
			img.parts[g.Superblock()*BlockSize] = superblock
		}
		img.parts[g.SealA()*BlockSize] = seal
		img.parts[g.SealB()*BlockSize] = seal
		img.parts[g.LocatorCopy()*BlockSize] = g.locator()
		same := bytes.Equal(message, messageOf(t, original))
		_, err = verify(Source{ReaderAt: img, Size: img.size}, VerifyOptions{Scratch: t.TempDir()})
		var refused *RefusedError
		if same != (err == nil) || err != nil && !errors.As(err, &refused) {
			t.Fatalf("%s\n%+v: %v", message, g, err)
		}
	})
}
