package verity

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/synctest"
)

// TestFECSyndromes checks parity by the definition of the code: every codeword
// is zero at the roots of the generator.
func TestFECSyndromes(t *testing.T) {
	for _, tc := range []struct {
		blocks int64
		roots  int
	}{{1, 2}, {300, 2}, {231, 24}, {500, 24}, {470, 17}} {
		data := testData(tc.blocks, 2)
		var parity memory
		if err := EncodeFEC(t.Context(), bytes.NewReader(data), tc.blocks, tc.roots, &parity, nil); err != nil {
			t.Fatal(err)
		}
		rounds, _ := FECRounds(tc.blocks, tc.roots)
		for _, i := range []int64{0, 1, BlockSize - 1, rounds*BlockSize - 1} {
			alpha := byte(1)
			for s := range tc.roots {
				var sum byte
				for j := range int64(codeword - tc.roots) {
					var symbol byte
					if at := j*rounds*BlockSize + i; at < int64(len(data)) {
						symbol = data[at]
					}
					sum = gfMul(sum, alpha) ^ symbol
				}
				for _, symbol := range parity.b[i*int64(tc.roots):][:tc.roots] {
					sum = gfMul(sum, alpha) ^ symbol
				}
				if sum != 0 {
					t.Fatalf("%d blocks, %d roots: codeword %d isn't zero at root %d", tc.blocks, tc.roots, i, s)
				}
				alpha = gfMul(alpha, 2)
			}
		}
	}
}

// TestFECStrips wants the same parity, each block read once and right progress
// with any length of the strips.
func TestFECStrips(t *testing.T) {
	const blocks = 1500
	data := testData(blocks, 2)
	for _, roots := range []int{2, 5, 24} {
		var want memory
		if err := EncodeFEC(t.Context(), bytes.NewReader(data), blocks, roots, &want, nil); err != nil {
			t.Fatal(err)
		}
		rounds, _ := FECRounds(blocks, roots)
		for _, strip := range []int64{1, 2, 3, rounds - 1} {
			memoryFor := int(strip) * BlockSize * (2*(codeword-roots) + 3*roots)
			e, err := newFECEncoder(rounds, roots, memoryFor)
			if err != nil {
				t.Fatal(err)
			}
			if e.strip != strip*BlockSize {
				t.Fatalf("strips of %d bytes, want %d blocks", e.strip, strip)
			}
			var got memory
			medium := count(bytes.NewReader(data))
			var last int64
			calls := 0
			err = e.run(t.Context(), medium, blocks, &got, func(done int64) {
				if done < last {
					t.Errorf("progress goes back from %d to %d", last, done)
				}
				last = done
				calls++
			})
			if err != nil || !bytes.Equal(got.b, want.b) {
				t.Errorf("%d roots, strips of %d blocks: %v, or the parity differs", roots, strip, err)
			}
			if err := medium.once(blocks); err != nil {
				t.Errorf("%d roots, strips of %d blocks: %v", roots, strip, err)
			}
			if last != blocks || int64(calls) != (rounds+strip-1)/strip {
				t.Errorf("%d roots, strips of %d blocks: %d calls of progress, the last with %d", roots, strip, calls, last)
			}
		}
	}
}

// TestFECMemory encodes 400 MB in strips of a bounded size.
func TestFECMemory(t *testing.T) {
	const blocks = 200_000
	none := make([]byte, 8<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var written int64
	dst := writerFunc(func(p []byte, off int64) (int, error) {
		if !bytes.Equal(p, none[:len(p)]) {
			t.Error("parity of zeros isn't zero")
		}
		written += int64(len(p))
		return len(p), nil
	})
	if err := EncodeFEC(t.Context(), zeros{}, blocks, 24, dst, nil); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	// Beside the strips, for each of them, is what package reedsolomon needs.
	if n := after.TotalAlloc - before.TotalAlloc; n > fecMemory+10<<20 {
		t.Errorf("%d bytes were allocated, want about %d", n, fecMemory)
	}
	if want, _ := FECBlocks(blocks, 24); written != want*BlockSize {
		t.Errorf("%d bytes written, want %d blocks", written, want)
	}
}

func TestFECNone(t *testing.T) {
	err := EncodeFEC(t.Context(), nil, 100, 0, nil, func(int64) { t.Error("progress with 0 roots") })
	if err != nil {
		t.Error(err)
	}
	for _, roots := range []int{-1, 1, 25, 255} {
		if err := EncodeFEC(t.Context(), nil, 100, roots, nil, nil); err == nil {
			t.Errorf("%d roots are accepted", roots)
		}
	}
	for _, blocks := range []int64{-1, 0, maxFECBlocks + 1} {
		if err := EncodeFEC(t.Context(), nil, blocks, 2, nil, nil); err == nil {
			t.Errorf("%d blocks are accepted", blocks)
		}
	}
}

// TestFECFaults fails reads, writes and the context, in every strip.
func TestFECFaults(t *testing.T) {
	const blocks, roots = 1500, 24
	data := testData(blocks, 2)
	rounds, _ := FECRounds(blocks, roots) // 7
	errBad := errors.New("medium error 3/11/00")
	errFull := errors.New("no space left on device")
	cause := errors.New("the operator pressed Ctrl-C")
	run := func(ctx context.Context, src io.ReaderAt, dst io.WriterAt, progress func(int64)) error {
		e, err := newFECEncoder(rounds, roots, 1) // strips of one block
		if err != nil {
			t.Fatal(err)
		}
		return e.run(ctx, src, blocks, dst, progress)
	}
	for strip := range rounds {
		// Block 5·rounds + strip belongs to this strip.
		lba := 5*rounds + strip
		src := readerFunc(func(p []byte, off int64) (int, error) {
			if off/BlockSize == lba {
				return 0, errBad
			}
			return bytes.NewReader(data).ReadAt(p, off)
		})
		var read *ReadError
		if err := run(t.Context(), src, &memory{}, nil); !errors.As(err, &read) || read.Block != lba || !errors.Is(err, errBad) {
			t.Errorf("unreadable block %d: %v", lba, err)
		}
		for _, short := range []bool{false, true} {
			dst := writerFunc(func(p []byte, off int64) (int, error) {
				switch {
				case off != strip*BlockSize*roots:
					return len(p), nil
				case short:
					return len(p) - 1, nil
				}
				return 0, errFull
			})
			want := errFull
			if short {
				want = io.ErrShortWrite
			}
			if err := run(t.Context(), bytes.NewReader(data), dst, nil); !errors.Is(err, want) {
				t.Errorf("strip %d can't be written: %v, want %v", strip, err, want)
			}
		}
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			calls := int64(0)
			err := run(ctx, bytes.NewReader(data), &memory{}, func(int64) {
				if calls == strip {
					cancel(cause)
				}
				calls++
			})
			// After the last two strips there is nothing left to cancel.
			if want := strip < rounds-2; errors.Is(err, cause) != want || !want && err != nil {
				t.Errorf("cancelled after strip %d: %v", strip, err)
			}
			cancel(nil)
		})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	never := readerFunc(func([]byte, int64) (int, error) {
		t.Error("the source is read although the context is cancelled")
		return 0, io.EOF
	})
	if err := run(ctx, never, &memory{}, nil); !errors.Is(err, cause) {
		t.Errorf("cancelled before: %v", err)
	}
	// A source that ends early is an error, not zeros.
	if err := run(t.Context(), bytes.NewReader(data[:len(data)-1]), &memory{}, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a source short of a byte: %v", err)
	}
}

// TestFECIdle wants source and destination idle after a failure of the other.
func TestFECIdle(t *testing.T) {
	const blocks, roots = 1500, 24
	data := testData(blocks, 2)
	rounds, _ := FECRounds(blocks, roots)
	errBad := errors.New("medium error 3/11/00")
	for _, slow := range []string{"source", "destination"} {
		t.Run(slow, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, err := newFECEncoder(rounds, roots, 1) // strips of one block
				if err != nil {
					t.Fatal(err)
				}
				hanging, release := make(chan bool), make(chan bool)
				busy := false
				hang := func() {
					busy = true
					close(hanging)
					<-release
					busy = false
				}
				// Strip 2 is being read when strip 0 turns out unwritten, and
				// strip 0 is being written when strip 1 turns out unreadable.
				src := readerFunc(func(p []byte, off int64) (int, error) {
					switch {
					case slow == "source" && off == 2*BlockSize:
						hang()
					case slow == "destination" && off == BlockSize:
						<-hanging
						return 0, errBad
					}
					return bytes.NewReader(data).ReadAt(p, off)
				})
				dst := writerFunc(func(p []byte, off int64) (int, error) {
					if slow == "destination" {
						hang()
						return len(p), nil
					}
					<-hanging
					return 0, errBad
				})
				go func() {
					synctest.Wait()
					release <- true
				}()
				if err := e.run(t.Context(), src, blocks, dst, nil); !errors.Is(err, errBad) {
					t.Errorf("error is %v", err)
				}
				if busy {
					t.Errorf("the %s is in use after the return", slow)
				}
			})
		})
	}
}
