package verity

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"testing"
	"testing/iotest"
	"testing/synctest"
)

// TestSequential reads ranges, and counts what the medium is asked for.
func TestSequential(t *testing.T) {
	const blocks = 2*dataPerBatch + 700 // three batches of leaves
	data := testData(blocks, 1)
	tree, p, root := makeTree(t, data, []byte("s"))
	hashes := count(bytes.NewReader(tree))
	medium := count(bytes.NewReader(data))
	r, err := openReader(medium, hashes, p, root)
	if err != nil {
		t.Fatal(err)
	}
	for i, tc := range []struct{ first, count int64 }{
		{0, blocks}, // first, for the count of the tree's blocks
		{0, 0}, {blocks, 0}, {0, 1}, {blocks - 1, 1}, {17, 1}, {17, chunkBlocks}, {500, 24}, {512, 512},
		{dataPerBatch - 1, 2}, {dataPerBatch - 100, 5000}, {700, dataPerBatch},
	} {
		*medium = *count(bytes.NewReader(data))
		s := r.Sequential(t.Context(), tc.first, tc.count)
		got, err := io.ReadAll(s)
		if err != nil || !bytes.Equal(got, data[tc.first*BlockSize:(tc.first+tc.count)*BlockSize]) {
			t.Errorf("%d blocks from %d: %d bytes, %v", tc.count, tc.first, len(got), err)
		}
		if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("behind the end: %d, %v", n, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if n, err := s.Read(make([]byte, 1)); n != 0 || !errors.Is(err, fs.ErrClosed) {
			t.Errorf("after Close: %d, %v", n, err)
		}
		if int64(len(medium.reads)) != tc.count {
			t.Errorf("%d blocks from %d: %d blocks read", tc.count, tc.first, len(medium.reads))
		}
		for b, n := range medium.reads {
			if n != 1 || b < tc.first || b >= tc.first+tc.count {
				t.Errorf("%d blocks from %d: block %d read %d times", tc.count, tc.first, b, n)
			}
		}
		if medium.back {
			t.Errorf("%d blocks from %d: the medium was not read in ascending order", tc.count, tc.first)
		}
		small := 0
		for size, n := range medium.sizes {
			if size < 1<<20 {
				small += n
			}
		}
		if small > 2 {
			t.Errorf("%d blocks from %d: reads of %v bytes, want 1 MiB but for the first and the last", tc.count, tc.first, medium.sizes)
		}
		if i == 0 {
			if err := hashes.once(int64(len(tree) / BlockSize)); err != nil {
				t.Errorf("hash tree: %v", err)
			}
		}
	}
	for _, tc := range []struct{ first, count int64 }{
		{-1, 1}, {0, -1}, {0, blocks + 1}, {blocks, 1}, {blocks + 1, 0}, {1, 1<<63 - 1}, {1<<63 - 1, 1},
	} {
		s := r.Sequential(t.Context(), tc.first, tc.count)
		if n, err := s.Read(make([]byte, 1)); n != 0 || !errors.Is(err, errRange) {
			t.Errorf("%d blocks from %d: %d, %v; want an error", tc.count, tc.first, n, err)
		}
		s.Close()
	}
}

func TestSequentialContract(t *testing.T) {
	data := testData(1100, 1)
	tree, p, root := makeTree(t, data, nil)
	r, err := openReader(bytes.NewReader(data), bytes.NewReader(tree), p, root)
	if err != nil {
		t.Fatal(err)
	}
	s := r.Sequential(t.Context(), 0, 1100)
	defer s.Close()
	if n, err := s.Read(nil); n != 0 || err != nil {
		t.Errorf("empty read: %d, %v", n, err)
	}
	// Read never says (0, nil), and the pieces may have any size.
	if err := iotest.TestReader(s, data); err != nil {
		t.Error(err)
	}
}

// TestSequentialDamage wants all good data in front of the bad block, then the
// error for good, and the rest from a second stream.
func TestSequentialDamage(t *testing.T) {
	const blocks = 2000
	data := testData(blocks, 1)
	tree, p, root := makeTree(t, data, nil)
	errBad := errors.New("medium error 3/11/00")
	for _, lba := range []int64{0, 1, chunkBlocks - 1, chunkBlocks, chunkBlocks + 7, blocks - 1} {
		for _, kind := range []string{"flipped", "unreadable", "cut off"} {
			bad := bytes.Clone(data)
			bad[lba*BlockSize+99] ^= 0x80
			medium := io.ReaderAt(bytes.NewReader(bad))
			switch kind {
			case "cut off":
				medium = bytes.NewReader(data[:lba*BlockSize+1])
			case "unreadable":
				medium = readerFunc(func(p []byte, off int64) (int, error) {
					n, err := bytes.NewReader(data).ReadAt(p, off)
					if at := lba * BlockSize; off <= at && at < off+int64(n) {
						return int(at - off), errBad
					}
					return n, err
				})
			}
			r, err := openReader(medium, bytes.NewReader(tree), p, root)
			if err != nil {
				t.Fatal(err)
			}
			s := r.Sequential(t.Context(), 0, blocks)
			got, err := io.ReadAll(s)
			if !bytes.Equal(got, data[:lba*BlockSize]) {
				t.Errorf("block %d %s: %d bytes came out, want the %d in front of it", lba, kind, len(got), lba*BlockSize)
			}
			var damaged *DamagedError
			var read *ReadError
			switch kind {
			case "flipped":
				if !errors.As(err, &damaged) || damaged.Tree || damaged.Block != lba {
					t.Errorf("block %d %s: %v", lba, kind, err)
				}
			case "unreadable":
				if !errors.As(err, &read) || read.Tree || read.Block != lba || !errors.Is(err, errBad) {
					t.Errorf("block %d %s: %v", lba, kind, err)
				}
			case "cut off":
				if !errors.As(err, &read) || read.Tree || read.Block != lba || !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("block %d %s: %v", lba, kind, err)
				}
			}
			if n, again := s.Read(make([]byte, 1)); n != 0 || again != err {
				t.Errorf("block %d %s: after %v Read gives %d, %v", lba, kind, err, n, again)
			}
			s.Close()
			if kind == "cut off" {
				continue
			}
			s = r.Sequential(t.Context(), lba+1, blocks-lba-1)
			if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, data[(lba+1)*BlockSize:]) {
				t.Errorf("behind block %d %s: %d bytes, %v", lba, kind, len(got), err)
			}
			s.Close()
		}
	}
}

// TestSequentialCancel ends a stream in every way a caller may. The bubble
// fails by deadlock if a goroutine is left.
func TestSequentialCancel(t *testing.T) {
	const blocks = 5 * chunkBlocks
	data := testData(blocks, 1)
	tree, p, root := makeTree(t, data, nil)
	cause := errors.New("the operator pressed Ctrl-C")
	open := func() (*Reader, *counter) {
		medium := count(bytes.NewReader(data))
		r, err := openReader(medium, bytes.NewReader(tree), p, root)
		if err != nil {
			t.Fatal(err)
		}
		return r, medium
	}
	bubble := func(name string, f func(t *testing.T, r *Reader, medium *counter)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, medium := open()
				f(t, r, medium)
			})
		})
	}
	bubble("closed unread", func(t *testing.T, r *Reader, _ *counter) {
		r.Sequential(t.Context(), 0, blocks).Close()
	})
	bubble("closed twice", func(t *testing.T, r *Reader, _ *counter) {
		s := r.Sequential(t.Context(), 0, blocks)
		s.Close()
		s.Close()
	})
	bubble("cancelled before", func(t *testing.T, r *Reader, medium *counter) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		s := r.Sequential(ctx, 0, blocks)
		if n, err := s.Read(make([]byte, 1)); n != 0 || err != cause {
			t.Errorf("Read: %d, %v; want the cause", n, err)
		}
		synctest.Wait()
		if len(medium.reads) != 0 {
			t.Errorf("%d blocks were read", len(medium.reads))
		}
	})
	bubble("cancelled and never closed", func(t *testing.T, r *Reader, medium *counter) {
		ctx, cancel := context.WithCancelCause(t.Context())
		s := r.Sequential(ctx, 0, blocks)
		if _, err := io.ReadFull(s, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		// One chunk with the caller, one read ahead.
		if len(medium.reads) != 2*chunkBlocks {
			t.Errorf("%d blocks were read after 100 bytes, want %d", len(medium.reads), 2*chunkBlocks)
		}
		cancel(cause)
		if n, err := s.Read(make([]byte, 1)); n != 0 || err != cause {
			t.Errorf("Read: %d, %v; want the cause", n, err)
		}
		synctest.Wait()
		if len(medium.reads) != 2*chunkBlocks {
			t.Errorf("%d blocks were read in the end, want %d", len(medium.reads), 2*chunkBlocks)
		}
	})
	bubble("never closed, read to the end", func(t *testing.T, r *Reader, _ *counter) {
		if _, err := io.Copy(io.Discard, r.Sequential(t.Context(), 0, blocks)); err != nil {
			t.Error(err)
		}
	})
}

// TestSequentialHanging cancels and closes while the medium doesn't answer: Read
// returns at once, Close when the medium is idle.
func TestSequentialHanging(t *testing.T) {
	const blocks = 5 * chunkBlocks
	data := testData(blocks, 1)
	tree, p, root := makeTree(t, data, nil)
	cause := errors.New("the operator pressed Ctrl-C")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		answer := make(chan bool)
		idle := false
		r, err := openReader(readerFunc(func(p []byte, off int64) (int, error) {
			<-answer
			idle = true
			return bytes.NewReader(data).ReadAt(p, off)
		}), bytes.NewReader(tree), p, root)
		if err != nil {
			t.Fatal(err)
		}
		s := r.Sequential(ctx, 0, blocks)
		go func() {
			synctest.Wait()
			cancel(cause)
		}()
		if n, err := s.Read(make([]byte, 1)); n != 0 || err != cause {
			t.Errorf("Read: %d, %v; want the cause", n, err)
		}
		go func() {
			synctest.Wait() // Close waits too
			answer <- true
		}()
		s.Close()
		if !idle {
			t.Error("Close returned while the medium was being read")
		}
	})
}

// TestSequentialConcurrent runs streams side by side over one tree.
func TestSequentialConcurrent(t *testing.T) {
	const blocks = 3000
	data := testData(blocks, 1)
	tree, p, root := makeTree(t, data, nil)
	r, err := openReader(bytes.NewReader(data), bytes.NewReader(tree), p, root)
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan error)
	for g := range uint64(6) {
		go func() {
			rnd := rand.New(rand.NewPCG(g, 2))
			for range 5 {
				first := rnd.Int64N(blocks)
				n := rnd.Int64N(blocks - first)
				s := r.Sequential(t.Context(), first, n)
				got, err := io.ReadAll(s)
				s.Close()
				if err == nil && !bytes.Equal(got, data[first*BlockSize:(first+n)*BlockSize]) {
					err = errors.New("wrong data")
				}
				results <- err
			}
		}()
	}
	for range 6 * 5 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}
