package exfat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"
)

// repair makes the checksums of the boot region and of what looks like an entry set right, so that the fuzzer comes behind them.
func repair(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) < testHeap {
		return b
	}
	v := vol{b, testFat, testHeap, 512}.seal()
	for i := testHeap; i+96 <= len(b); i += 32 {
		n := 32 * (1 + int(b[i+1]))
		if b[i] != typeFile || n < 96 || i+n > len(b) {
			continue
		}
		set := b[i : i+n]
		var name []uint16
		for k := 64; k < n && len(name) < int(set[35]); k++ {
			if k%32 >= 2 && k%2 == 0 {
				name = append(name, binary.LittleEndian.Uint16(set[k:]))
			}
		}
		binary.LittleEndian.PutUint16(set[36:], hash(name))
		sumSet(set)
	}
	return v.b
}

func FuzzOpen(f *testing.F) {
	seed := func(change func(v vol)) {
		v := sample()
		change(v)
		for _, fix := range []bool{false, true} {
			f.Add(v.b[:v.data(90)], fix) // the rest is read as zeros
		}
	}
	seed(func(vol) {})
	seed(func(v vol) { v.put(v.data(50)+inDir, dirItem("loop", 50)); v.chain(20, 21) })
	seed(func(v vol) { v.put(v.data(50)+inDir, solidItem("run", 61, 5000)) })
	seed(func(v vol) { v.b[v.data(4)] = 1; v.b[v.data(4)+32] = 1 })
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		const size = testHeap + testClusters*512
		if len(b) > size {
			return
		}
		if fix {
			b = repair(b)
		}
		start := time.Now()
		fsys, err := Open(&sparse{b, size}, size)
		if err != nil {
			var damage *FormatError
			if !errors.As(err, &damage) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Error(err)
			}
			return
		}
		if !Probe(b) {
			t.Error("opened and not recognised")
		}
		allocated, read := int64(0), int64(0)
		fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil
			}
			r, err := fsys.Open(path)
			if err != nil {
				var damage *FormatError
				if !errors.As(err, &damage) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%q: %v", path, err)
				}
				return nil
			}
			defer r.Close()
			info, err := d.Info()
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, r)
			if err == nil && n != info.Size() {
				t.Errorf("%q has %d of %d bytes", path, n, info.Size())
			}
			// No two files share a cluster.
			if allocated += (info.Size() + fsys.cluster - 1) / fsys.cluster * fsys.cluster; allocated > int64(fsys.clusters)*fsys.cluster {
				t.Errorf("files take %d bytes of a volume of %d clusters", allocated, fsys.clusters)
			}
			if read += n; read > size && info.Size() <= size {
				t.Errorf("%d bytes were read from a volume of %d", read, size)
			}
			if strings.Contains(path, "//") {
				t.Errorf("path %q", path)
			}
			return nil
		})
		for _, x := range fsys.Findings() {
			if x.Code == "" || x.Detail == "" {
				t.Errorf("finding %v", x)
			}
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
	})
}
