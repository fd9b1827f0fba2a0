package verity

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
)

// plainTree is the definition, told another way: levels as slices of digests.
// pad fills the ends of the hash blocks, which is zero in a tree as it should be.
func plainTree(data, salt []byte, pad byte) (tree []byte, root [DigestSize]byte) {
	sums := func(b []byte) (out []byte) {
		for ; len(b) > 0; b = b[BlockSize:] {
			d := sha256.Sum256(append(bytes.Clone(salt), b[:BlockSize]...))
			out = append(out, d[:]...)
		}
		return out
	}
	level := sums(data)
	for len(level) > DigestSize {
		for len(level)%BlockSize > 0 {
			level = append(level, pad)
		}
		tree = append(bytes.Clone(level), tree...)
		level = sums(level)
	}
	return tree, [DigestSize]byte(level)
}

func TestTreeWriterPieces(t *testing.T) {
	salt := []byte("salt")
	data := testData(1100, 5)
	want, root := plainTree(data, salt, 0)
	rnd := rand.New(rand.NewPCG(2, 3))
	for name, piece := range map[string]func() int{
		"1 byte":    func() int { return 1 },
		"2047":      func() int { return BlockSize - 1 },
		"a block":   func() int { return BlockSize },
		"2049":      func() int { return BlockSize + 1 },
		"1 MiB":     func() int { return 1 << 20 },
		"1 MiB + 1": func() int { return 1<<20 + 1 },
		"all":       func() int { return len(data) },
		"any":       func() int { return rnd.IntN(100_000) },
	} {
		t.Run(name, func(t *testing.T) {
			var m memory
			w, err := NewTreeWriter(&m, Params{DataBlocks: 1100, Salt: salt})
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, len(data))
			for rest := data; len(rest) > 0; {
				// What was given to Write may be overwritten at once.
				n := copy(buf[:min(len(rest), piece())], rest)
				if k, err := w.Write(buf[:n]); k != n || err != nil {
					t.Fatalf("Write of %d bytes: %d, %v", n, k, err)
				}
				clear(buf[:n])
				rest = rest[n:]
			}
			got, err := w.Close()
			if err != nil || got != root {
				t.Errorf("Close: %x, %v; want %x", got, err, root)
			}
			if !bytes.Equal(m.b, want) {
				t.Error("the tree differs")
			}
		})
	}
}

func TestTreeWriterWrongLength(t *testing.T) {
	for _, blocks := range []int64{1, 2, 511, 512, 513, 1030} {
		data := testData(blocks+1, 6)
		size := int(blocks * BlockSize)
		for _, n := range []int{0, 1, size - BlockSize, size - 1} {
			w, _ := NewTreeWriter(&memory{}, Params{DataBlocks: blocks})
			if _, err := w.Write(data[:n]); err != nil {
				t.Errorf("%d blocks: Write of %d bytes: %v", blocks, n, err)
			}
			if root, err := w.Close(); err == nil || root != [DigestSize]byte{} {
				t.Errorf("%d blocks: after %d bytes Close gives %x, %v; want an error", blocks, n, root, err)
			}
		}
		for _, extra := range []int{1, BlockSize} {
			w, _ := NewTreeWriter(&memory{}, Params{DataBlocks: blocks})
			if n, err := w.Write(data[:size+extra]); n != size || err == nil {
				t.Errorf("%d blocks: Write of %d bytes too much: %d, %v; want %d and an error", blocks, extra, n, err, size)
			}
			if root, err := w.Close(); err == nil || root != [DigestSize]byte{} {
				t.Errorf("%d blocks: after %d bytes too much Close gives %x, %v; want an error", blocks, extra, root, err)
			}
		}
	}
}

func TestTreeWriterClosed(t *testing.T) {
	w, _ := NewTreeWriter(&memory{}, Params{DataBlocks: 1})
	if _, err := w.Write(make([]byte, BlockSize)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(nil); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("Write after Close: %v", err)
	}
	if root, err := w.Close(); err == nil || root != [DigestSize]byte{} {
		t.Errorf("second Close: %x, %v; want an error", root, err)
	}
}

type writerFunc func(p []byte, off int64) (int, error)

func (f writerFunc) WriteAt(p []byte, off int64) (int, error) { return f(p, off) }

// TestTreeWriterBadDestination fails each write in turn.
func TestTreeWriterBadDestination(t *testing.T) {
	errFull := errors.New("no space left on device")
	data := make([]byte, (dataPerBatch+100)*BlockSize)
	for _, tc := range []struct {
		name   string
		blocks int64
		writes int
		fail   func(n int) (int, error)
		want   error
	}{
		// Two writes of leaves, one each of the two levels above.
		{"error", dataPerBatch + 100, 4, func(int) (int, error) { return 0, errFull }, errFull},
		{"short", dataPerBatch + 100, 4, func(n int) (int, error) { return n - 1, nil }, io.ErrShortWrite},
		// The last leaf fills the block above it.
		{"full top", 64 * 64, 2, func(int) (int, error) { return 0, errFull }, errFull},
	} {
		t.Run(tc.name, func(t *testing.T) {
			data := data[:tc.blocks*BlockSize]
			for i := range tc.writes {
				k := 0
				w, _ := NewTreeWriter(writerFunc(func(p []byte, off int64) (int, error) {
					k++
					if k == i+1 {
						return tc.fail(len(p))
					}
					return len(p), nil
				}), Params{DataBlocks: tc.blocks})
				n, err := w.Write(data)
				if err == nil != (n == len(data)) {
					t.Errorf("write %d fails: Write gives %d, %v", i, n, err)
				}
				if err != nil && !errors.Is(err, tc.want) {
					t.Errorf("write %d fails: Write says %v", i, err)
				}
				if root, err := w.Close(); !errors.Is(err, tc.want) || root != [DigestSize]byte{} {
					t.Errorf("write %d fails: Close gives %x, %v", i, root, err)
				}
			}
		})
	}
}

// TestTreeWriterBatches wants large writes, each byte once, and memory that
// doesn't follow the amount of data.
func TestTreeWriterBatches(t *testing.T) {
	piece := make([]byte, 1<<20)
	run := func(blocks int64) (writes []int, allocated uint64) {
		seen := map[int64]bool{}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		w, err := NewTreeWriter(writerFunc(func(p []byte, off int64) (int, error) {
			for o := off; o < off+int64(len(p)); o += BlockSize {
				if seen[o/BlockSize] || o%BlockSize != 0 {
					t.Errorf("%d blocks: hash block %d is written twice, or in part", blocks, o/BlockSize)
				}
				seen[o/BlockSize] = true
			}
			writes = append(writes, len(p))
			return len(p), nil
		}), Params{DataBlocks: blocks})
		if err != nil {
			t.Fatal(err)
		}
		for n := blocks * BlockSize; n > 0; n -= int64(len(piece)) {
			if _, err := w.Write(piece[:min(n, int64(len(piece)))]); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Close(); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if want, _ := TreeBlocks(blocks); int64(len(seen)) != want {
			t.Errorf("%d blocks: %d hash blocks written, want %d", blocks, len(seen), want)
		}
		return writes, after.TotalAlloc - before.TotalAlloc
	}
	small, a := run(2 * dataPerBatch)
	large, b := run(10 * dataPerBatch)
	if len(small) != 2+2 || len(large) != 10+2+1 {
		t.Errorf("writes of %v and %v bytes, want 512 KiB for leaves, 64 KiB above", small, large)
	}
	if b > a+1<<20 {
		t.Errorf("%d bytes allocated for 64 MiB, %d for 320 MiB", a, b)
	}
}

// TestTreeWriterAbandoned fails by deadlock if goroutines outlive their work.
func TestTreeWriterAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := NewTreeWriter(&memory{}, Params{DataBlocks: 5000})
		if _, err := w.Write(make([]byte, 4000*BlockSize)); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPlainTree(t *testing.T) {
	for _, n := range []int64{1, 2, 64, 65, 4097, 9000} {
		data := testData(n, 9)
		want, root := plainTree(data, []byte{1, 2}, 0)
		tree, _, got := makeTree(t, data, []byte{1, 2})
		if !bytes.Equal(tree, want) || got != root {
			t.Error(fmt.Sprint(n, " blocks: TreeWriter and the plain definition differ"))
		}
	}
}
