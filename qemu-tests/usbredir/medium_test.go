package usbredir

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// pattern is n bytes that tell where they were written.
func pattern(off int64, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((off+int64(i))>>9) ^ byte(off+int64(i)) ^ 0x5A
	}
	return b
}

func put(t *testing.T, m Medium, off int64, b []byte) {
	t.Helper()
	if n, err := m.WriteAt(b, off); n != len(b) || err != nil {
		t.Fatalf("writing %d bytes at %d: %d, %v", len(b), off, n, err)
	}
}

func get(t *testing.T, m Medium, off int64, n int) []byte {
	t.Helper()
	b := bytes.Repeat([]byte{0xEE}, n)
	if got, err := m.ReadAt(b, off); got != n || err != nil {
		t.Fatalf("reading %d bytes at %d: %d, %v", n, off, got, err)
	}
	return b
}

// TestHonestMedia holds media that don't lie to a slice of bytes, at random.
func TestHonestMedia(t *testing.T) {
	const size = 3*pageSize + 4096 + 512
	f, err := os.Create(filepath.Join(t.TempDir(), "medium"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	file, err := NewFile(f, size)
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]Medium{
		"memory": NewMemory(size), "file": file, "cache": &Cache{Medium: NewMemory(size), Bytes: 20 << 10},
		"small cache": &Cache{Medium: NewMemory(size), Bytes: 100, Block: 512}, "a fake that isn't one": &Fake{Medium: NewMemory(size), Claim: size},
	} {
		t.Run(name, func(t *testing.T) {
			want := make([]byte, size)
			r := rand.New(rand.NewPCG(1, 2))
			for range 3000 {
				off := r.Int64N(size)
				n := int(min(1+r.Int64N(10_000), size-off))
				if r.IntN(2) == 0 {
					b := make([]byte, n)
					if r.IntN(3) > 0 {
						b = pattern(r.Int64(), n)
					}
					put(t, m, off, b)
					copy(want[off:], b)
				} else if !bytes.Equal(get(t, m, off, n), want[off:off+int64(n)]) {
					t.Fatalf("%d bytes at %d are others than were written", n, off)
				}
			}
			if err := m.Sync(); err != nil {
				t.Error(err)
			}
			for _, off := range []int64{-1, size - 1, size, 1 << 62} {
				if _, err := m.ReadAt(make([]byte, 2), off); err == nil {
					t.Errorf("a read at %d", off)
				}
				if _, err := m.WriteAt(make([]byte, 2), off); !errors.Is(err, errOutside) {
					t.Errorf("a write at %d: %v", off, err)
				}
			}
		})
	}
	if st, err := f.Stat(); err != nil || st.Size() != size {
		t.Errorf("the file is %d bytes long, %v", st.Size(), err)
	}
}

// TestFake looks what is where after writing past a fake's real size, with and without a cache before it.
func TestFake(t *testing.T) {
	const real, claim = 7 << 20, 64 << 20
	zero := make([]byte, 4096)
	for _, tt := range []struct {
		name  string
		lie   Lie
		wrap  int64
		noise bool
		at    int64 // written behind what was written at 0 and at real - 4096
		want  func(written []byte) map[int64][]byte
	}{
		{"limbo", Limbo, 0, false, real + 8192, func([]byte) map[int64][]byte {
			return map[int64][]byte{0: pattern(0, 4096), real - 4096: pattern(real-4096, 4096), real + 8192: zero}
		}},
		{"wraparound of a size that is no power of two", Wraparound, 0, false, 3 * real, func(b []byte) map[int64][]byte {
			return map[int64][]byte{0: b, 3 * real: b, real: b, real - 4096: pattern(real-4096, 4096), 2*real - 4096: pattern(real-4096, 4096)}
		}},
		{"wraparound across the border", Wraparound, 0, false, real - 2048, func(b []byte) map[int64][]byte {
			return map[int64][]byte{real - 2048: b, 0: append(b[2048:4096:4096], pattern(2048, 2048)...), 4*real - 2048: b}
		}},
		{"chain", Chain, 16 << 20, false, 16 << 20, func(b []byte) map[int64][]byte {
			return map[int64][]byte{0: b, 32 << 20: b, real - 4096: pattern(real-4096, 4096)}
		}},
		{"chain, past the real size", Chain, 16 << 20, false, 16<<20 + real, func([]byte) map[int64][]byte {
			return map[int64][]byte{0: pattern(0, 4096), real: zero, 16<<20 + real: zero, 16<<20 + real - 4096: pattern(real-4096, 4096)}
		}},
		{"last", Last, 0, false, claim - 4096, func(b []byte) map[int64][]byte {
			all := bytes.Repeat(b[4096-512:], 8)
			return map[int64][]byte{0: pattern(0, 4096), real: all, claim - 4096: all, real - 4096: append(pattern(real-4096, 4096-512), b[4096-512:]...)}
		}},
		{"the real size itself", Limbo, 0, false, real - 4096, func(b []byte) map[int64][]byte { return map[int64][]byte{real - 4096: b} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, cached := range []bool{false, true} {
				fake := &Fake{Medium: NewMemory(real), Claim: claim, Lie: tt.lie, Wrap: tt.wrap, Noise: tt.noise}
				var m Medium = fake
				if cached {
					if tt.at%4096 != 0 {
						continue // what is around half a block comes from where its claimed address leads
					}
					m = &Cache{Medium: fake, Bytes: 1 << 20}
				}
				if m.Size() != claim || fake.Real() != real {
					t.Fatalf("it claims %d and has %d", m.Size(), fake.Real())
				}
				put(t, m, 0, pattern(0, 4096))
				put(t, m, real-4096, pattern(real-4096, 4096))
				written := bytes.Repeat([]byte("another text"), 400)[:4096]
				put(t, m, tt.at, written)
				if c, ok := m.(*Cache); ok {
					if err := c.Sync(); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(get(t, m, tt.at, 4096), written) || !bytes.Equal(get(t, m, 0, 2048), pattern(0, 2048)) {
						t.Error("the cache doesn't answer what was written")
					}
					if err := c.Evict(); err != nil {
						t.Fatal(err)
					}
				}
				for off, want := range tt.want(written) {
					if got := get(t, m, off, len(want)); !bytes.Equal(got, want) {
						t.Errorf("cached %t: at %d: % x…, want % x…", cached, off, got[:16], want[:16])
					}
				}
			}
		})
	}
	noisy := &Fake{Medium: NewMemory(real), Claim: claim, Noise: true}
	a, b := get(t, noisy, real, 4096), get(t, noisy, real+4096, 4096)
	if bytes.Equal(a, b) || isZero(a) || !bytes.Equal(a, get(t, noisy, real, 4096)) {
		t.Error("noise is the same everywhere, or not the same each time, or zeros")
	}
}

// TestCacheEvicts writes more than a cache holds: the oldest comes to the medium, and from it.
func TestCacheEvicts(t *testing.T) {
	below := NewMemory(1 << 20)
	c := &Cache{Medium: &Fake{Medium: NewMemory(4096), Claim: 1 << 20}, Bytes: 8 * 4096}
	direct := &Cache{Medium: below, Bytes: 8 * 4096}
	for i := range int64(9) {
		put(t, c, (i+1)*4096, pattern(i, 4096))
		put(t, direct, (i+1)*4096, pattern(i, 4096))
	}
	if got := get(t, c, 4096, 4096); !isZero(got) {
		t.Errorf("the oldest block is still in the cache: % x…", got[:16])
	}
	if got := get(t, c, 2*4096, 4096); !bytes.Equal(got, pattern(1, 4096)) {
		t.Errorf("the second block is no more in the cache: % x…", got[:16])
	}
	if !bytes.Equal(get(t, below, 4096, 4096), pattern(0, 4096)) || !isZero(get(t, below, 2*4096, 4096)) {
		t.Error("the medium has not the one block that was pushed out")
	}
}

// TestChanging reads bytes that are others from the second, or the fourth, read on.
func TestChanging(t *testing.T) {
	for _, from := range []int{0, 1, 4} {
		m := &Changing{Medium: NewMemory(1 << 20), Offset: 1000, Length: 50, From: from}
		for read := 1; read <= 6; read++ {
			get(t, m, 0, 1000)    // doesn't touch them
			get(t, m, 1050, 1000) // neither
			want := make([]byte, 2048)
			if first := max(from, 1); from == 0 && read >= 2 || from > 0 && read >= first {
				copy(want[1000:], bytes.Repeat([]byte{0xFF}, 50))
			}
			if got := get(t, m, 0, 2048); !bytes.Equal(got, want) {
				t.Errorf("from %d: read %d isn't what it should be", from, read)
			}
		}
	}
}
