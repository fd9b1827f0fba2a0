package verity

import (
	"bytes"
	"context"
	"io"
	"testing"
)

// discard takes writes at any offset.
type discard struct{}

func (discard) WriteAt(p []byte, off int64) (int, error) { return len(p), nil }

const benchBlocks = 64 << 20 / BlockSize

func BenchmarkTreeWriter(b *testing.B) {
	data := testData(benchBlocks, 1)
	salt := make([]byte, 32)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		w, err := NewTreeWriter(discard{}, Params{DataBlocks: benchBlocks, Salt: salt})
		if err != nil {
			b.Fatal(err)
		}
		for p := data; len(p) > 0; p = p[64<<10:] {
			if _, err := w.Write(p[:64<<10]); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func benchReader(b *testing.B) (*Reader, int64) {
	data := testData(benchBlocks, 1)
	tree, p, root := makeTree(b, data, make([]byte, 32))
	t, err := OpenTree(bytes.NewReader(tree), p, root)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	return NewReader(bytes.NewReader(data), t), int64(len(data))
}

func BenchmarkSequential(b *testing.B) {
	r, _ := benchReader(b)
	buf := make([]byte, 64<<10)
	for b.Loop() {
		s := r.Sequential(context.Background(), 0, benchBlocks)
		for {
			_, err := s.Read(buf)
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		s.Close()
	}
}

// BenchmarkReadAt reads a block at a time: the price of a small read.
func BenchmarkReadAt(b *testing.B) {
	r, size := benchReader(b)
	var block [BlockSize]byte
	for b.Loop() {
		for off := int64(0); off < size; off += BlockSize {
			if _, err := r.ReadAt(block[:], off); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkEncodeFEC runs over 256 MiB, several strips.
func BenchmarkEncodeFEC(b *testing.B) {
	data := testData(4*benchBlocks, 1)
	for _, roots := range []int{8, 24} {
		b.Run(map[int]string{8: "roots=8", 24: "roots=24"}[roots], func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				err := EncodeFEC(context.Background(), bytes.NewReader(data), 4*benchBlocks, roots, discard{}, nil)
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRepair mends 256 MiB: "whole" is the price of finding nothing wrong.
func BenchmarkRepair(b *testing.B) {
	const blocks = 4 * benchBlocks
	o := makeOriginal(b, blocks, 24, "")
	for _, name := range []string{"whole", "burst=5%", "random=4%", "tree"} {
		b.Run(name, func(b *testing.B) {
			d := o.disc()
			b.SetBytes(int64(len(o.data)))
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				switch name {
				case "burst=5%":
					clear(d.data.b[len(d.data.b)/3:][:len(d.data.b)/20])
				case "random=4%":
					for i := int64(0); i < blocks; i += 25 {
						clear(d.data.b[(i+i/25%7)*BlockSize:][:BlockSize])
					}
				case "tree":
					clear(d.tree.b)
				}
				b.StartTimer()
				if _, err := Repair(b.Context(), d.protected(), nil); err != nil {
					b.Fatal(err)
				}
			}
			if err := d.same(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
