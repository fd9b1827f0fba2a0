package bundle

import (
	"io"
	"strings"
	"testing"
)

func TestSurplusParts(t *testing.T) {
	least := int64(2*surplusEdge + 2*surplusSamples*surplusRun)
	if got := surplusParts(100, 100+least-1, [32]byte{}); len(got) != 1 || got[0] != (blockRange{100, 100 + least - 1}) {
		t.Errorf("%d blocks: %v", least-1, got)
	}
	for _, n := range []int64{least, least + 1, 1 << 30} {
		const first = 12345
		got := surplusParts(first, first+n, [32]byte{1})
		if len(got) != surplusSamples+2 || got[0] != (blockRange{first, first + surplusEdge}) || got[len(got)-1] != (blockRange{first + n - surplusEdge, first + n}) {
			t.Fatalf("%d blocks: %d parts, from %v to %v", n, len(got), got[0], got[len(got)-1])
		}
		last := int64(first)
		for i, p := range got {
			if p.first < last || p.end > first+n {
				t.Fatalf("%d blocks: part %v after %d", n, p, last)
			}
			if i > 0 && i <= surplusSamples && (p.end-p.first != surplusRun || p.end > first+surplusEdge+(n-2*surplusEdge)*int64(i)/surplusSamples) {
				t.Errorf("%d blocks: sample %d is %v", n, i, p)
			}
			last = p.end
		}
	}
	if a, b := surplusParts(0, 1<<30, [32]byte{1}), surplusParts(0, 1<<30, [32]byte{2}); a[500] == b[500] && a[501] == b[501] {
		t.Error("the samples don't depend on the seed")
	}
}

// long is an image on a long medium that is zero but for some bytes.
type long struct {
	img   []byte
	size  int64
	dirty map[int64]byte // by LBA: the first byte of the block
	read  int64          // bytes behind the image
}

func (l *long) ReadAt(p []byte, off int64) (int, error) {
	if off >= l.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), l.size-off))
	clear(p[:n])
	if off < int64(len(l.img)) {
		copy(p[:n], l.img[off:])
	} else {
		l.read += int64(n)
	}
	for lba, b := range l.dirty {
		if at := lba*BlockSize - off; at >= 0 && at < int64(n) {
			p[at] = b
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// TestSampledSurplus: a large medium's samples are few and at both ends whole, and without sampling all is read.
func TestSampledSurplus(t *testing.T) {
	img := signed(t, rich(), withRoots(0))
	blocks := int64(len(img) / BlockSize)
	behind := int64(2*surplusEdge + 4*surplusSamples*surplusRun)
	at := blocks + surplusEdge + 3
	for _, c := range []struct {
		name    string
		dirty   map[int64]byte
		sampled string // code when it is sampled, "?": as chance has it
		full    string
	}{
		{"clean", nil, "", ""},
		{"next to the image", map[int64]byte{blocks: 1}, "surplus-data", "surplus-data"},
		{"at the edge", map[int64]byte{blocks + surplusEdge - 1: 1}, "surplus-data", "surplus-data"},
		{"at the end", map[int64]byte{blocks + behind - 1: 1}, "surplus-data", "surplus-data"},
		{"in between", map[int64]byte{at: 1}, "?", "surplus-data"},
	} {
		for _, sample := range []bool{true, false} {
			want := c.full
			if sample {
				want = c.sampled
			}
			l := &long{img: img, size: (blocks + behind) * BlockSize, dirty: c.dirty}
			var done, total int64
			v, err := verify(Source{ReaderAt: l, Size: l.size, Medium: true}, VerifyOptions{SampleSurplus: sample, Progress: func(_ string, d, all int64) { done, total = d, all }})
			switch {
			case want == "?":
			case want != "":
				wantCode(t, err, want)
			case err != nil:
				t.Errorf("%s, sampled %v: %v", c.name, sample, err)
			default:
				noted := strings.Contains(strings.Join(v.Notes(), "\n"), "sampled")
				read := int64(2*surplusEdge + surplusSamples*surplusRun)
				if !sample {
					read = behind
				}
				if noted != sample || l.read != read*BlockSize || done > total || total != int64(len(img))+read*BlockSize {
					t.Errorf("%s, sampled %v: %d bytes were read behind the image, want %d; progress %d of %d; notes %q", c.name, sample, l.read, read*BlockSize, done, total, v.Notes())
				}
			}
		}
	}
	// A run as long as what lies between two samples at most is always met.
	dirty := map[int64]byte{}
	for lba := at; lba < at+2*(behind-2*surplusEdge)/surplusSamples; lba++ {
		dirty[lba] = 1
	}
	l := &long{img: img, size: (blocks + behind) * BlockSize, dirty: dirty}
	_, err := verify(Source{ReaderAt: l, Size: l.size, Medium: true}, VerifyOptions{SampleSurplus: true})
	wantCode(t, err, "surplus-data")
}
