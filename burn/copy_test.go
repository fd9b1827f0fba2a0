package burn

import (
	"context"
	"crypto/sha256"
	"io"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"sallyport/burn/drivesim"
	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// filling notes the buffers that the source fills, by the byte of the image that each begins with.
type filling struct {
	io.ReaderAt
	at map[int64][]byte
}

func (f *filling) ReadAt(p []byte, off int64) (int, error) {
	f.at[off] = p
	return f.ReaderAt.ReadAt(p, off)
}

// written is a WRITE(10) as the transport got it.
type written struct {
	off  int64 // of its first byte on the disc
	data []byte
}

// sent notes what the transport is handed for WRITE(10), and whence.
type sent struct {
	Drive
	writes []written
}

func (s *sent) Do(ctx context.Context, cdb []byte, d scsi.Data) (int, error) {
	if cdb[0] == 0x2A {
		lba := int64(cdb[2])<<24 | int64(cdb[3])<<16 | int64(cdb[4])<<8 | int64(cdb[5])
		s.writes = append(s.writes, written{lba * BlockSize, d.Out})
	}
	return s.Drive.Do(ctx, cdb, d)
}

// What the source fills is what the transport sends: no byte is copied in between, on no medium, the last packet's,
// which is padded, included. (That SG_IO gets the transport's slice is TestDo of media/scsi.)
func TestCopiedOnce(t *testing.T) {
	for _, m := range media {
		for _, blocks := range []int{1, 31, 512, 3*512 + 37} {
			d, _ := newDrive(t, drivesim.Config{Profile: m.profile, Capacity: 8192})
			image, _ := testImage(blocks)
			source := &filling{image.Source, map[int64][]byte{}}
			image.Source = source
			transport := &sent{Drive: d}
			if _, err := Disc(t.Context(), transport, image, Options{}); err != nil {
				t.Fatal(err)
			}
			size, covered := int64(blocks)*BlockSize, int64(0)
			for _, w := range transport.writes {
				begins := w.off / chunkLen * chunkLen
				if w.off >= size { // what fills the medium's last unit or, on CD, the shortest track
					continue
				}
				covered += min(int64(len(w.data)), size-w.off)
				filled := source.at[begins]
				if filled == nil || unsafe.SliceData(w.data) != unsafe.SliceData(filled[w.off-begins:]) {
					t.Errorf("%v, %d blocks: the %d bytes at byte %d are not written from where the source put them", m.profile, blocks, len(w.data), w.off)
				}
			}
			if covered != size {
				t.Errorf("%v, %d blocks: writes carry %d bytes of the image, want %d", m.profile, blocks, covered, size)
			}
		}
	}
}

// discard is a drive that forgets what is written to it, and answers the rest as its simulator does.
type discard struct {
	*drivesim.Drive
}

func (d discard) Do(ctx context.Context, cdb []byte, data scsi.Data) (int, error) {
	switch cdb[0] {
	case 0x2A:
		return len(data.Out), nil
	case 0x5C:
		return copy(data.In, []byte{0, 10, 0, 0, 0, 0x20, 0, 0, 0, 0x20, 0, 0}), nil
	}
	return d.Drive.Do(ctx, cdb, data)
}

// What writing allocates beside the stream's chunks is a command's, not its data's: a copy of each packet, or a new
// buffer for each chunk, would come to the size of the image.
func TestWritingAllocates(t *testing.T) {
	d, _ := newDrive(t, drivesim.Config{Profile: mmc.DVDPlusR})
	const blocks = 128 << 20 / BlockSize
	b := &burner{unit: &unit{Drive: discard{d}}, rec: &Record{}, image: Image{Blocks: blocks}, total: blocks}
	b.medium, _ = mediumOf(mmc.DVDPlusR)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	src := newStream(numbered{}, blocks, sha256.New())
	defer src.close()
	first, err := src.next(t.Context())
	if err == nil {
		err = b.writeAll(t.Context(), src, first)
	}
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	// A packet of 64 KiB may take 4 KiB.
	const most = (ahead+2)*chunkLen + blocks*BlockSize/16
	got := after.TotalAlloc - before.TotalAlloc
	t.Logf("%d KiB allocated, %d of them the stream's, for %d MiB in %d commands", got>>10, (ahead+2)*chunkLen>>10, blocks*BlockSize>>20, blocks/packet)
	if got > most {
		t.Errorf("writing %d MiB allocates %d KiB, want at most %d", blocks*BlockSize>>20, got>>10, most>>10)
	}
}

// waiting is a source that tells when it is asked for a byte far enough ahead.
type waiting struct {
	io.ReaderAt
	far   int64
	asked chan struct{}
}

func (w *waiting) ReadAt(p []byte, off int64) (int, error) {
	if off == w.far {
		close(w.asked)
	}
	return w.ReaderAt.ReadAt(p, off)
}

// held is a drive whose first write ends when the source is read far ahead of it.
type held struct {
	Drive
	t     *testing.T
	until chan struct{}
	begun bool
}

func (h *held) Do(ctx context.Context, cdb []byte, d scsi.Data) (int, error) {
	if cdb[0] == 0x2A && !h.begun {
		h.begun = true
		select {
		case <-h.until:
		case <-time.After(10 * time.Second):
			h.t.Error("while the drive takes its time, the source isn't read 5 MiB ahead, 240 ms at 16x")
		}
	}
	return h.Drive.Do(ctx, cdb, d)
}

// The source is read while the drive writes, far enough ahead of it that it may stop for a while.
func TestReadsAhead(t *testing.T) {
	d, _ := newDrive(t, drivesim.Config{})
	image, _ := testImage(8 << 20 / BlockSize)
	source := &waiting{image.Source, 5 << 20, make(chan struct{})}
	image.Source = source
	if _, err := Disc(t.Context(), &held{Drive: d, t: t, until: source.asked}, image, Options{}); err != nil {
		t.Fatal(err)
	}
}
