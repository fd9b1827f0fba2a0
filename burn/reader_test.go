package burn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"sallyport/burn/drivesim"
	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// disc is a drive with an image of so many blocks on a closed disc.
func disc(t *testing.T, blocks int, faults string) (*drivesim.Drive, []byte) {
	t.Helper()
	image, b := testImage(blocks)
	d, _ := newDrive(t, drivesim.Config{})
	if _, err := Disc(t.Context(), d, image, Options{}); err != nil {
		t.Fatal(err)
	}
	inject(t, d, faults)
	return d, b
}

func TestDiscReader(t *testing.T) {
	d, b := disc(t, 640, "")
	r, err := OpenDisc(t.Context(), d, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Size() != int64(len(b)) || r.Medium().Type != "DVD-R" || r.DriveInfo().Product != drivesim.Product || !d.Status().Locked {
		t.Errorf("%d bytes of %d, %+v, %+v", r.Size(), len(b), r.Medium(), r.DriveInfo())
	}
	if err := iotest.TestReader(io.NewSectionReader(r, 0, r.Size()), b); err != nil {
		t.Error(err)
	}
	var wg sync.WaitGroup
	for seed := range byte(4) {
		wg.Go(func() {
			rnd := rand.New(rand.NewChaCha8([32]byte{seed}))
			for range 200 {
				off, p := rnd.IntN(len(b)+10_000), make([]byte, rnd.IntN(200_000))
				n, err := r.ReadAt(p, int64(off))
				want := b[min(off, len(b)):min(off+len(p), len(b))]
				if n != len(want) || !bytes.Equal(p[:n], want) || (err == io.EOF) != (n < len(p)) || err != nil && err != io.EOF {
					t.Errorf("ReadAt(%d bytes, %d): %d, %v", len(p), off, n, err)
				}
			}
		})
	}
	wg.Wait()
	if _, err := r.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("a negative offset is read")
	}
	if r.Retries() != 0 {
		t.Errorf("%d retries", r.Retries())
	}
	if err := r.Close(); err != nil || d.Status().Locked {
		t.Errorf("close: %v, locked %v", err, d.Status().Locked)
	}
	if _, err := r.ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("a closed disc is read")
	}
}

// Reading on in small pieces asks the drive for each block once, in large
// reads.
func TestEachBlockOnce(t *testing.T) {
	d, b := disc(t, 640, "")
	for _, piece := range []int{512, 2048, 4096, 10_000, 65_536, 1 << 20} {
		before := d.Commands(0x28)
		r, err := OpenDisc(t.Context(), d, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.LimitReader(&pieces{r: r, size: piece}, int64(len(b))))
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("pieces of %d: %v", piece, err)
		}
		if n := d.Commands(0x28) - before; n != 640/packet {
			t.Errorf("pieces of %d: %d reads for %d blocks", piece, n, 640)
		}
		r.Close()
	}
}

// pieces reads a ReaderAt in pieces of one size.
type pieces struct {
	r    io.ReaderAt
	size int
	off  int64
}

func (p *pieces) Read(b []byte) (int, error) {
	piece := make([]byte, p.size)
	n, err := p.r.ReadAt(piece[:min(p.size, len(b))], p.off)
	p.off += int64(n)
	return copy(b, piece[:n]), err
}

// What isn't exactly one session with one track, complete, is refused by name.
func TestOpenDiscRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, faults, code string
		prepare            func(*testing.T) *drivesim.Drive
	}{
		{name: "blank", code: CodeBlank, prepare: func(t *testing.T) *drivesim.Drive { d, _ := newDrive(t, drivesim.Config{}); return d }},
		{name: "no disc", code: CodeNoMedium, prepare: func(t *testing.T) *drivesim.Drive { d, _ := newDrive(t, drivesim.Config{Empty: true}); return d }},
		{name: "dvd-ram", code: CodeWrongMedium, prepare: func(t *testing.T) *drivesim.Drive {
			d, _ := newDrive(t, drivesim.Config{Profile: mmc.DVDRAM})
			return d
		}},
		{name: "burn that failed", code: CodeIncomplete, prepare: func(t *testing.T) *drivesim.Drive {
			d, _ := newDrive(t, drivesim.Config{})
			interrupted(t, d)
			return d
		}},
		{name: "second session", code: CodeSecondSession, faults: "medium sessions 2"},
		{name: "second session, drive without disc information", code: CodeSecondSession, faults: "medium sessions 2; read-disc-information always sense 5/20/00"},
		{name: "unknown format", code: CodeWrongMedium, faults: "read-capacity sense 5/30/02"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var d *drivesim.Drive
			if tt.prepare != nil {
				d = tt.prepare(t)
			} else {
				d, _ = disc(t, 64, tt.faults)
			}
			r, err := OpenDisc(t.Context(), d, ReadOptions{})
			var refused *RefusedError
			if r != nil || !errors.As(err, &refused) || refused.RefusalCode() != tt.code {
				t.Errorf("got %v, want a refusal %s", err, tt.code)
			}
			if d.Status().Locked {
				t.Error("the tray stays locked")
			}
		})
	}
	// A drive that only reads and answers only READ TOC is good enough.
	d, b := disc(t, 64, "read-disc-information always sense 5/20/00")
	r, err := OpenDisc(t.Context(), d, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(b))
	if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, b) {
		t.Errorf("read: %v", err)
	}
}

// answers replaces the drive's replies to some commands.
type answers struct {
	Drive
	replies map[byte][]byte
}

func (a *answers) Do(ctx context.Context, cdb []byte, d scsi.Data) (int, error) {
	n, err := a.Drive.Do(ctx, cdb, d)
	if reply, ok := a.replies[cdb[0]]; ok && err == nil {
		clear(d.In)
		return copy(d.In, reply), nil
	}
	return n, err
}

// What a drive says about a disc may be anything.
func TestOpenDiscLies(t *testing.T) {
	info := func(change func([]byte)) []byte {
		b := []byte{0, 32, 0x0E, 1, 1, 1, 1, 0x20, 0, 0, 0, 0, 33: 0}
		change(b)
		return b
	}
	track := func(change func([]byte)) []byte {
		b := []byte{0, 34, 1, 1, 0, 5, 1, 2, 27: 64, 31: 63, 35: 0}
		change(b)
		return b
	}
	for _, tt := range []struct {
		name  string
		op    byte
		reply []byte
		code  string
	}{
		{"256 sessions", 0x51, info(func(b []byte) { b[9], b[4] = 1, 0 }), CodeSecondSession},
		{"257 sessions", 0x51, info(func(b []byte) { b[9] = 1 }), CodeSecondSession},
		{"a damaged session", 0x51, info(func(b []byte) { b[2] = 0x0A }), CodeSecondSession},
		{"two tracks", 0x51, info(func(b []byte) { b[6] = 2 }), CodeSecondTrack},
		{"257 tracks", 0x51, info(func(b []byte) { b[11] = 1 }), CodeSecondTrack},
		{"appendable", 0x51, info(func(b []byte) { b[2] = 0x01 }), CodeIncomplete},
		{"others", 0x51, info(func(b []byte) { b[2] = 0x0F }), CodeIncomplete},
		{"damaged track", 0x52, track(func(b []byte) { b[5] |= 0x20 }), CodeIncomplete},
		{"writable track", 0x52, track(func(b []byte) { b[7] |= 1 }), CodeIncomplete},
		{"track not at 0", 0x52, track(func(b []byte) { b[11] = 16 }), CodeWrongMedium},
		{"blocks of 512 bytes", 0x25, []byte{0, 0, 0, 63, 0, 0, 2, 0}, CodeWrongMedium},
		{"rewritable profile", 0x46, []byte{0, 0, 0, 4, 0, 0, 0, 0x14}, CodeWrongMedium},
	} {
		d, _ := disc(t, 64, "")
		_, err := OpenDisc(t.Context(), &answers{d, map[byte][]byte{tt.op: tt.reply}}, ReadOptions{})
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Code != tt.code {
			t.Errorf("%s: got %v, want a refusal %s", tt.name, err, tt.code)
		}
	}
	d, _ := disc(t, 64, "")
	r, err := OpenDisc(t.Context(), &answers{d, map[byte][]byte{0x25: {0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 8, 0}}}, ReadOptions{})
	if err != nil || r.Size() != 1<<43 {
		t.Fatalf("the largest capacity: %v", err)
	}
	var bad *ReadError
	if _, err := r.ReadAt(make([]byte, 5000), r.Size()-5000); !errors.As(err, &bad) || bad.LBA != 1<<32-3 {
		t.Errorf("reading at the end of 8 TiB: %v", err)
	}
	if _, err := OpenDisc(t.Context(), &answers{d, map[byte][]byte{0x12: {0x00, 0x80, 5, 2, 31}}}, ReadOptions{}); err == nil ||
		!strings.Contains(err.Error(), "no optical drive (device type 00h)") {
		t.Errorf("a disk: %v", err)
	}
}

// O8: a block that can't be read is named, those beside it are read, and the
// drive is not asked again and again.
func TestBadBlocks(t *testing.T) {
	d, b := disc(t, 640, "read lba 100-101 always sense 3/11/05; read lba 639 always sense 3/02/00")
	r, err := OpenDisc(t.Context(), d, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	before := d.Commands(0x28)
	p := make([]byte, 40*BlockSize)
	n, err := r.ReadAt(p, 96*BlockSize)
	var bad *ReadError
	if n != 4*BlockSize || !errors.As(err, &bad) || bad.LBA != 100 || !bytes.Equal(p[:n], b[96*BlockSize:100*BlockSize]) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if !errors.Is(err, scsi.ReadError) {
		t.Errorf("the drive's own words are lost: %v", err)
	}
	if n := d.Commands(0x28) - before; n > 5+packet {
		t.Errorf("%d reads for one window", n)
	}
	before = d.Commands(0x28)
	if n, err := r.ReadAt(p[:BlockSize], 101*BlockSize); n != 0 || !errors.As(err, &bad) || bad.LBA != 101 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if n, err := r.ReadAt(p[:26*BlockSize], 102*BlockSize); n != 26*BlockSize || err != nil || !bytes.Equal(p[:n], b[102*BlockSize:128*BlockSize]) {
		t.Errorf("%d bytes behind the bad blocks, %v", n, err)
	}
	if n := d.Commands(0x28) - before; n != 0 {
		t.Errorf("%d more reads in a window that was read already", n)
	}
	if n, err := r.ReadAt(p, 638*BlockSize); n != BlockSize || !errors.As(err, &bad) || bad.LBA != 639 {
		t.Errorf("%d bytes at the end, %v", n, err)
	}
	if r.Retries() == 0 {
		t.Error("no retries counted")
	}
}

// O4, O11: what is wrong with the drive or the disc as a whole ends all
// reading: nothing that comes later may be another disc's.
func TestReadingEnds(t *testing.T) {
	for _, tt := range []struct{ faults, want string }{
		{"read lba 128 sense 6/28/00", "6/28/00"},
		{"read lba 128 sense 6/29/00", "6/29/00"},
		{"read lba 128 sense 2/3a/00", "2/3a/00"},
		{"read lba 128 sense 4/44/00", "4/44/00"},
		{"read lba 128 deferred 3/0c/00", "deferred sense 3/0c/00"},
		{"read lba 128 gone", "gone from the bus"},
		{"read lba 128 timeout", "no answer within the time limit"},
		{"read lba 128 slow 1m", "no answer within the time limit"},
		{"read lba 128 always sense 2/04/01", "2/04/01"},
		{"read lba 128 sense 3/11/00; read lba 128 nth 2 sense 3/11/00; set-streaming sense 6/28/00", "6/28/00"},
		{"read lba 128 sense 3/11/00; read lba 128 nth 2 sense 3/11/00; set-streaming nth 2 sense 6/28/00", "6/28/00"},
	} {
		d, b := disc(t, 640, tt.faults)
		r, err := OpenDisc(t.Context(), d, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(b))
		if _, err := r.ReadAt(got[:100], 0); err != nil { // is in the cache now
			t.Errorf("%s: %v", tt.faults, err)
		}
		n, err := r.ReadAt(got, 0)
		var bad *ReadError
		if strings.Contains(tt.faults, "deferred") && err == nil { // told with the next command
			t.Errorf("%s: no error", tt.faults)
		} else if err == nil || !strings.Contains(err.Error(), tt.want) || errors.As(err, &bad) || n > 192*BlockSize {
			t.Errorf("%s: %d bytes, %v", tt.faults, n, err)
		}
		d.ClearFaults()
		for _, off := range []int64{500 * BlockSize, 0} {
			if n, again := r.ReadAt(got[:BlockSize], off); n != 0 || again == nil {
				t.Errorf("%s: read on at %d after %v", tt.faults, off, err)
			}
		}
		r.Close()
		if d.Status().Locked && !strings.Contains(tt.faults, "gone") {
			t.Errorf("%s: the tray stays locked", tt.faults)
		}
	}
}

// T11: a drive that answers, and takes its time, is given up when it lags too
// far behind; its time, not the caller's, counts; ctx ends reading at once.
func TestSlowDrive(t *testing.T) {
	d, b := disc(t, 4096, "read always slow 100ms")
	r, err := OpenDisc(t.Context(), d, ReadOptions{Patience: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	begun := d.Now()
	got := make([]byte, len(b))
	n, err := r.ReadAt(got, 0)
	if took := d.Now().Sub(begun); !errors.Is(err, ErrTooSlow) || took > 90*time.Second || n == 0 {
		t.Errorf("%d bytes in %v: %v", n, took, err)
	}
	r.Close()

	d, b = disc(t, 640, "")
	ctx, cancel := context.WithCancel(t.Context())
	if r, err = OpenDisc(ctx, d, ReadOptions{Patience: time.Minute}); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < 10*BlockSize; off += BlockSize {
		d.Wait(t.Context(), time.Hour)
		if _, err := r.ReadAt(got[:BlockSize], off*30); err != nil {
			t.Fatalf("the caller's own time is taken for the drive's: %v", err)
		}
	}
	cancel()
	before := d.Commands()
	if _, err := r.ReadAt(got[:len(b)], 0); !errors.Is(err, context.Canceled) || d.Commands() != before {
		t.Errorf("after cancelling: %v, %d commands", err, d.Commands()-before)
	}
	r.Close()
	if d.Status().Locked {
		t.Error("the tray stays locked after cancelling")
	}
}

// T19: a disc that answers differently the second time is read as it answers;
// nothing here hides it from who compares.
func TestDifferentAnswers(t *testing.T) {
	d, b := disc(t, 64, "read lba 40 nth 2 flip 5")
	r, err := OpenDisc(t.Context(), d, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	first, second := make([]byte, len(b)), make([]byte, len(b))
	if _, err := r.ReadAt(first, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(second, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, b) || bytes.Equal(second, b) || second[40*BlockSize+5] != b[40*BlockSize+5]^1 {
		t.Error("the second answer is not the drive's")
	}
}
