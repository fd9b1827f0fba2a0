package verity

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"
)

// made is an area whose block i is a function of i; what is written is kept.
type made struct {
	mu      sync.Mutex
	from    int64 // damage: zeros from this block to before to, until written
	to      int64
	blocks  int64
	written map[int64][BlockSize]byte
}

func (m *made) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at := 0; at < len(p); at += BlockSize {
		i := off/BlockSize + int64(at)/BlockSize
		block := p[at : at+BlockSize]
		clear(block)
		if b, ok := m.written[i]; ok {
			copy(block, b[:])
		} else if i < m.from || i >= m.to {
			binary.LittleEndian.PutUint64(block[i%256*8:], uint64(i)*0x9e3779b97f4a7c15)
		}
	}
	return len(p), nil
}

func (m *made) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at := 0; at < len(p); at += BlockSize {
		m.written[off/BlockSize+int64(at)/BlockSize] = [BlockSize]byte(p[at:])
	}
	return len(p), nil
}

// TestRepairMemory repairs 64 MiB, or 4 GiB if SALLYPORT_BIG=1, in memory that
// doesn't grow.
func TestRepairMemory(t *testing.T) {
	blocks := int64(64 << 20 / BlockSize)
	if os.Getenv("SALLYPORT_BIG") != "" {
		blocks = 4 << 30 / BlockSize
	}
	m := &made{blocks: blocks, written: map[int64][BlockSize]byte{}}
	tree := &place{bad: map[int64]bool{}}
	var treeOut memory
	params := Params{DataBlocks: blocks, Salt: []byte("big")}
	w, err := NewTreeWriter(&treeOut, params)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	for i := int64(0); i < blocks; i += int64(len(buf)) / BlockSize {
		m.ReadAt(buf, i*BlockSize)
		if _, err := w.Write(buf); err != nil {
			t.Fatal(err)
		}
	}
	root, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	tree.b = treeOut.b
	src := readerFunc(func(p []byte, off int64) (int, error) {
		n := min(int64(len(p)), max(0, blocks*BlockSize-off))
		if n > 0 {
			m.ReadAt(p[:n], off)
		}
		copy(p[n:], tree.b[max(0, off-blocks*BlockSize):])
		return len(p), nil
	})
	all := blocks + int64(len(tree.b))/BlockSize
	var parity memory
	if err := EncodeFEC(t.Context(), src, all, 24, &parity, nil); err != nil {
		t.Fatal(err)
	}
	m.from = blocks / 2
	m.to = m.from + blocks/50
	// What the test holds would let the heap grow by as much before it is swept.
	defer debug.SetGCPercent(debug.SetGCPercent(3))
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	ctx, cancel := context.WithCancel(t.Context())
	peak := make(chan uint64)
	go func() {
		var most uint64
		var s runtime.MemStats
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			runtime.ReadMemStats(&s)
			most = max(most, s.HeapAlloc)
			select {
			case <-ctx.Done():
				peak <- most
				return
			case <-tick.C:
			}
		}
	}()
	p := Protected{Params: params, Root: root, Roots: 24, ParitySum: sha256.Sum256(parity.b), Data: m, Tree: tree, FEC: &place{b: parity.b}}
	report, err := Repair(t.Context(), p, nil)
	cancel()
	kept := uint64(len(m.written)) * (BlockSize + 64) * 2 // by the test itself; a map doubles
	most := max(<-peak, before.HeapAlloc) - before.HeapAlloc
	if err != nil || report.Data != m.to-m.from {
		t.Fatalf("%+v, %v", report, err)
	}
	t.Logf("%d MiB of data: %d MiB of heap at most, the test's own %d MiB included", blocks*BlockSize>>20, most>>20, kept>>20)
	if most > 96<<20+kept {
		t.Errorf("%d bytes of heap were in use, want about 64 MiB and the test's own %d", most, kept)
	}
}
