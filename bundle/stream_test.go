package bundle

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"
)

// TestStream: the stream of a planned image is the signed image, in pieces of any size, and once more from its
// beginning; nothing else can be read from it, and nothing is left of it.
func TestStream(t *testing.T) {
	scratch := t.TempDir()
	t.Setenv("TMPDIR", scratch)
	for _, roots := range []int{0, 2, 24} {
		fsys := rich()
		seal, message := planned(t, fsys, withRoots(roots))
		want := sign(t, prepare(t, fsys, withRoots(roots)), "alice", "bob")
		p := plan(t, fsys, seal.Options())
		if _, err := p.Stream(t.Context(), nil); err == nil {
			t.Fatal("a stream without an expected seal")
		}
		must(t, p.Expect(seal, [][]byte{signature(t, "alice", message), signature(t, "bob", message)}))
		s, err := p.Stream(t.Context(), nil)
		must(t, err)
		if s.Size() != int64(len(want)) {
			t.Fatalf("%d bytes, want %d", s.Size(), len(want))
		}
		if _, err := s.ReadAt(make([]byte, 1), 1); err == nil {
			t.Error("began in the middle")
		}
		_, err = s.ReadAt(make([]byte, 10), 0)
		must(t, err)
		for _, off := range []int64{9, 11} {
			if _, err := s.ReadAt(make([]byte, 1), off); err == nil {
				t.Errorf("read byte %d after byte 9", off)
			}
		}
		for _, size := range []int{BlockSize, 1 << 20, len(want), len(want) + 5} {
			var got []byte
			buf := make([]byte, size)
			for off := int64(0); off < s.Size(); {
				n, err := s.ReadAt(buf, off)
				if err != nil && (err != io.EOF || off+int64(n) != s.Size()) {
					t.Fatalf("%d roots, %d bytes at %d: %v", roots, size, off, err)
				}
				got = append(got, buf[:n]...)
				off += int64(n)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%d roots, read %d bytes at a time: differs at byte %d", roots, size, firstDifference(got, want))
			}
		}
		if n, err := s.ReadAt(make([]byte, 7), s.Size()); n != 0 || err != io.EOF {
			t.Errorf("at the end: %d bytes, %v", n, err)
		}
		must(t, s.Close())
		if _, err := s.ReadAt(make([]byte, 1), 0); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestStreamWithoutEnd: from a payload that isn't the seal's the last byte never comes.
func TestStreamWithoutEnd(t *testing.T) {
	for _, roots := range []int{0, 2} {
		seal, _ := planned(t, rich(), withRoots(roots))
		for name, test := range map[string]struct {
			change func(p *Plan, s *Seal)
			code   string
		}{
			"contents": {func(p *Plan, _ *Seal) {
				m := rich()
				for _, f := range m {
					if f.Mode.IsRegular() && len(f.Data) > 0 {
						f.Data = append([]byte{f.Data[0] ^ 1}, f.Data[1:]...)
						break
					}
				}
				p.fsys = m
			}, "seal-differs"},
			"forged": {func(_ *Plan, s *Seal) { s.FEC.SHA256 = strings.Repeat("0", 64) }, "seal-differs"},
		} {
			expected := *seal
			p := plan(t, rich(), seal.Options())
			test.change(p, &expected)
			must(t, p.Expect(&expected, nil))
			s, err := p.Stream(t.Context(), nil)
			must(t, err)
			var last error
			got, buf := int64(0), make([]byte, BlockSize)
			for got < s.Size() && last == nil {
				var n int
				n, last = s.ReadAt(buf, got)
				got += int64(n)
			}
			wantCode(t, last, test.code)
			if got >= s.Size() {
				t.Errorf("%s, %d roots: the image came to its end", name, roots)
			}
			if _, again := s.ReadAt(buf, got); again == nil {
				t.Errorf("%s, %d roots: read on after %v", name, roots, last)
			}
			must(t, s.Close())
		}
	}
}

// TestStreamCancelled: a cancel ends reading, and so does Close while the writer waits.
func TestStreamCancelled(t *testing.T) {
	seal, _ := planned(t, rich(), withRoots(2))
	for _, cancelled := range []bool{true, false} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p := plan(t, rich(), seal.Options())
		must(t, p.Expect(seal, nil))
		s, err := p.Stream(ctx, nil)
		must(t, err)
		_, err = s.ReadAt(make([]byte, BlockSize), 0)
		must(t, err)
		if cancelled {
			cancel()
			if err := readOn(s); !errors.Is(err, context.Canceled) {
				t.Errorf("after a cancel: %v", err)
			}
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Close() }()
		select {
		case err := <-ended:
			must(t, err)
		case <-time.After(30 * time.Second):
			t.Fatal("Close waits for a writer that waits for a reader")
		}
	}
}

func readOn(s *Stream) error {
	buf := make([]byte, BlockSize)
	for off := int64(BlockSize); ; off += BlockSize {
		if _, err := s.ReadAt(buf, off); err != nil {
			return err
		}
	}
}
