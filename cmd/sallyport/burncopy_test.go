package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
	"time"
	"unsafe"

	"sallyport/burn"
	"sallyport/burn/drivesim"
	"sallyport/media/scsi"
)

// filling notes the buffers that an image's source fills, by the byte of the image that each begins with.
type filling struct {
	io.ReaderAt
	at map[int64][]byte
}

func (f *filling) ReadAt(p []byte, off int64) (int, error) {
	f.at[off] = p
	return f.ReaderAt.ReadAt(p, off)
}

// sent notes where the data of each WRITE(10) lies that the transport is handed, by its first byte on the disc.
type sent struct {
	*drivesim.Drive
	at map[int64][]byte
}

func (s *sent) Do(ctx context.Context, cdb []byte, d scsi.Data) (int, error) {
	if cdb[0] == 0x2A {
		s.at[int64(binary.BigEndian.Uint32(cdb[2:]))*burn.BlockSize] = d.Out
	}
	return s.Drive.Do(ctx, cdb, d)
}

// TestBurnCopiesOnce: the buffer that the image file is read into, or that the pipe of an image in the making is emptied
// into, is what the drive's transport sends. (That SG_IO gets the transport's slice is TestDo of media/scsi.)
func TestBurnCopiesOnce(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100)) // burn --seal sets it
	dir := room(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	b := make([]byte, 7<<20)
	rand.NewChaCha8([32]byte{}).Read(b)
	if err := os.WriteFile(touch(t, in("payload/large")), b, 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, dir, "prepare", "payload", "-o", "large.iso", "--channel", "news", "--trust", "trust.json")
	must(t, dir, "plan", "payload", "-o", "SEAL.json", "--channel", "news", "--trust", "trust.json")
	for _, key := range []string{"alice.key", "bob.key"} {
		must(t, dir, "sign", "large.iso", "--key", key, "--yes")
		must(t, dir, "sign", "SEAL.json", "--key", key, "--reproduce", "payload")
	}
	for _, tt := range []struct {
		name string
		c    burnCmd
		open func(*burnCmd, *env) (*burnable, error)
	}{
		{"an image", burnCmd{File: in("large.iso")}, (*burnCmd).openImage},
		{"a directory", burnCmd{File: in("payload"), Seal: in("SEAL.json")}, (*burnCmd).openPlanned},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := &env{ctx: t.Context(), stdin: bytes.NewReader(nil), stdout: io.Discard, stderr: io.Discard, quiet: true, now: time.Now}
			tt.c.Trust, tt.c.Copies = in("trust.json"), 1
			img, err := tt.open(&tt.c, e)
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			sim, err := drivesim.New(filepath.Join(t.TempDir(), "disc"), drivesim.Config{Capacity: 16384})
			if err != nil {
				t.Fatal(err)
			}
			source, transport := &filling{img.image.Source, map[int64][]byte{}}, &sent{sim, map[int64][]byte{}}
			h := &hands{e: e, c: &tt.c, bar: e.progress(), name: "/dev/sr0", discs: 1, open: func(string) (recorder, error) { return transport, nil }}
			image := img.image
			image.Source = source
			if _, err := h.burn(burn.Copies{Count: 1, Image: image}); err != nil {
				t.Fatal(err)
			}
			checkCopies(t, source.at, transport.at, int64(image.Blocks)*burn.BlockSize)
		})
	}
}

// checkCopies wants every byte of an image to be sent from where it was filled in.
func checkCopies(t *testing.T, filled, sent map[int64][]byte, size int64) {
	t.Helper()
	var covered int64
	for begins, buf := range filled {
		for off := begins; off < begins+int64(len(buf)); {
			data := sent[off]
			if len(data) == 0 {
				t.Fatalf("no write begins at byte %d", off)
			}
			if unsafe.SliceData(data) != &buf[off-begins] {
				t.Errorf("the %d bytes at byte %d are sent from another place than they were put in", len(data), off)
			}
			n := min(int64(len(data)), size-off)
			off, covered = off+n, covered+n
		}
	}
	if covered != size {
		t.Errorf("%d bytes were filled in and sent, want %d", covered, size)
	}
}
