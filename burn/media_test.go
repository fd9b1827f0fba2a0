package burn

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"sallyport/burn/drivesim"
	"sallyport/burn/mmc"
)

// padded is what stands on a disc after an image was burnt.
func padded(p mmc.Profile, image []byte) []byte {
	m, ok := mediumOf(p)
	if !ok {
		m, _ = mediumOf(mmc.DVDR)
	}
	total, _ := m.total(uint32(len(image) / BlockSize))
	return append(bytes.Clone(image), make([]byte, int(total)*BlockSize-len(image))...)
}

// Each medium is recognised, written to the last block, closed and read back.
func TestMedia(t *testing.T) {
	for _, tt := range []struct {
		profile mmc.Profile
		mode    string
		id      string
		closers string // functions of CLOSE TRACK SESSION
		blocks  uint32 // it holds
	}{
		{mmc.CDR, "track-at-once", `\d\d:\d\d:\d\d`, "1 2", 359_844},
		{mmc.DVDR, "disc-at-once", "SALLYSIM0001", "", 2_298_496},
		{mmc.DVDPlusR, "sequential", "", "1 6", 2_295_104},
		{mmc.BDR, "sequential", "", "1 6", 12_219_392},
	} {
		for _, blocks := range []int{1, 64, 4097} {
			t.Run(fmt.Sprintf("%v, %d blocks", tt.profile, blocks), func(t *testing.T) {
				d, dir := newDrive(t, drivesim.Config{Profile: tt.profile, Capacity: tt.blocks})
				image, want := testImage(blocks)
				closers := []string{}
				watch := &watching{Drive: d, cdb: func(cdb []byte) {
					if cdb[0] == 0x5B {
						closers = append(closers, fmt.Sprint(cdb[2]&7))
					}
				}}
				rec, err := Disc(t.Context(), watch, image, Options{})
				if err != nil {
					t.Fatal(err)
				}
				if got := recorded(t, dir); !bytes.Equal(got, padded(tt.profile, want)) {
					t.Errorf("the disc has %d bytes and differs from the image", len(got))
				}
				if got := strings.Join(closers, " "); got != tt.closers {
					t.Errorf("closed with %q, want %q", got, tt.closers)
				}
				if st := d.Status(); st.Disc != "complete" || st.Sessions != 1 || st.Locked {
					t.Errorf("afterwards: %+v", st)
				}
				if rec.Medium.Type != tt.profile.String() || rec.WriteMode != tt.mode || rec.Medium.CapacityBlocks != tt.blocks ||
					!rec.Verified || rec.Retries != 0 || len(rec.Warnings) > 0 || rec.Seconds.Writing > rec.End-rec.Start || rec.WriteKBs == 0 || rec.ReadBackKBs == 0 {
					t.Errorf("record %+v", rec)
				}
				if _, err := Disc(t.Context(), d, image, Options{}); !refusedAs(err, CodeNotBlank) {
					t.Errorf("a second burn: %v", err)
				}
				inject(t, d, "read-disc-information always sense 5/20/00")
				c, err := ReadBack(t.Context(), d, Image{Source: bytes.NewReader(want), Blocks: image.Blocks}, Options{})
				if err != nil || c.Surplus > 301 || c.Retries > 0 {
					t.Errorf("read back by a drive that answers READ TOC only: %+v, %v", c, err)
				}
			})
		}
	}
}

func refusedAs(err error, code string) bool {
	var refused *RefusedError
	return errors.As(err, &refused) && refused.Code == code
}

// O10, to the block.
func TestCapacity(t *testing.T) {
	for _, m := range media {
		image, _ := testImage(640)
		total, err := m.total(640)
		if err != nil {
			t.Fatal(err)
		}
		for _, short := range []uint32{0, 1} {
			d, dir := newDrive(t, drivesim.Config{Profile: m.profile, Capacity: total + m.runOut - short})
			_, err := Disc(t.Context(), d, image, Options{})
			if short == 0 && err != nil {
				t.Errorf("%v, just large enough: %v", m.profile, err)
			}
			says := fmt.Sprintf("the %v holds %d blocks (2 MB), the image has 640 (2 MB)", m.profile, total+m.runOut-short)
			if short == 1 && (!refusedAs(err, CodeTooSmall) || !strings.Contains(err.Error(), says) || len(recorded(t, dir)) > 0) {
				t.Errorf("%v, one block too small: %v", m.profile, err)
			}
		}
	}
}

// What an image needs, in words.
func TestNeeded(t *testing.T) {
	for blocks, want := range map[uint32]string{
		1:          "a blank CD-R, DVD+R, DVD-R or BD-R for 1 blocks (1 MB)",
		359_844:    "a blank CD-R, DVD+R, DVD-R or BD-R for 359844 blocks (737 MB)",
		359_845:    "a blank DVD+R, DVD-R or BD-R for 359845 blocks (737 MB)",
		2_295_105:  "a blank DVD-R or BD-R for 2295105 blocks (4701 MB)",
		2_298_497:  "a blank BD-R for 2298497 blocks (4708 MB)",
		48_000_000: "a blank BD-R for 48000000 blocks (98304 MB)",
	} {
		if got := needed(blocks); got != want {
			t.Errorf("%d blocks: %q, want %q", blocks, got, want)
		}
	}
}

// A drive that reads a kind of disc and doesn't write it is told so.
func TestReadOnlyDrive(t *testing.T) {
	image, _ := testImage(64)
	for _, m := range media {
		d, _ := newDrive(t, drivesim.Config{Profile: m.profile})
		// The configuration of a DVD-ROM drive: profile, removable medium.
		reply := []byte{0, 0, 0, 12, 0, 0, byte(m.profile >> 8), byte(m.profile), 0, 3, 3, 4, 0x29, 0, 0, 0}
		a := &answers{d, map[byte][]byte{0x46: reply}}
		rec, err := Disc(t.Context(), a, image, Options{})
		if rec != nil || !refusedAs(err, CodeReadOnlyDrive) || !strings.Contains(err.Error(), "can't write a "+m.profile.String()) {
			t.Errorf("%v: %v", m.profile, err)
		}
	}
}

// --speed in multiples of 1× goes by the medium, and CD-R by SET CD SPEED.
func TestSpeed(t *testing.T) {
	image, _ := testImage(320)
	for _, m := range media {
		d, _ := newDrive(t, drivesim.Config{Profile: m.profile})
		ops := map[byte]int{}
		watch := &watching{Drive: d, cdb: func(cdb []byte) { ops[cdb[0]]++ }}
		rec, err := Disc(t.Context(), watch, image, Options{Times: 4, Speed: 1})
		if err != nil {
			t.Fatal(err)
		}
		if want := max(4*m.oneX, 1385); rec.SpeedKBs > want || rec.SpeedKBs == 0 {
			t.Errorf("%v: wrote at %d kB/s, want %d", m.profile, rec.SpeedKBs, want)
		}
		if cd := m.profile == mmc.CDR; (ops[0xBB] == 1) != cd || (ops[0xB6] == 1) == cd {
			t.Errorf("%v: SET CD SPEED %d times, SET STREAMING %d", m.profile, ops[0xBB], ops[0xB6])
		}
		if (ops[0x54] > 0) != m.opc || (ops[0x55] > 0) != m.page {
			t.Errorf("%v: %d SEND OPC INFORMATION, %d MODE SELECT", m.profile, ops[0x54], ops[0x55])
		}
	}
}

// The rows of the table of drive errors that don't depend on how the medium is
// written, on each of the others, before and after the effect.
func TestMediaErrors(t *testing.T) {
	image, data := testImage(640)
	const last, blank = 640, -1
	for _, m := range media {
		p := m.profile
		if p == mmc.DVDR {
			continue // TestDriveErrors
		}
		for _, tt := range []struct {
			faults string
			phase  Phase
			lba    int // where it is spoiled; blank: it isn't
			says   string
		}{
			{"before test-unit-ready from 5 sense 2/04/01", PhaseCheck, blank, "not ready after 5m0s"},
			{"before write lba 64 always sense 2/04/08", PhaseWrite, 64, "no progress in 3m20s"},
			{"after write lba 64 sense 2/04/08", PhaseWrite, 64, "5/21/02"},
			{"before write lba 64 always sense 2/04/07", PhaseWrite, 64, "2/04/07"},
			{"after write lba 64 sense 5/2c/00", PhaseWrite, 64, ""},
			{"before write lba 64 sense 6/28/00", PhaseWrite, 64, "its disc changed during the burn"},
			{"after write lba 64 sense 6/29/00", PhaseWrite, 64, "was reset"},
			{"before write lba 70 sense 3/0c/00", PhaseWrite, 70, "3/0c/00"},
			{"after write lba 70 sense 3/0c/02", PhaseWrite, 70, "3/0c/02"},
			{"before write lba 70 deferred 3/0c/00", PhaseWrite, 70, "deferred"},
			{"after write lba 639 deferred 3/0c/00", PhaseClose, 639, "deferred"},
			{"before synchronize-cache sense 3/0c/00", PhaseClose, last, "flushing"},
			{"before write sense 3/73/03", PhaseWrite, blank, "nothing has been written"},
			{"after write sense 3/73/03", PhaseWrite, 0, "3/73/03"},
			{"before close-track-session sense 5/72/03", PhaseClose, last, "closing the track"},
			{"after close-track-session sense 5/72/03", PhaseClose, last, "closing the track"},
			{"before close-track-session nth 2 sense 5/72/04", PhaseClose, last, "closing the disc"},
			{"after close-track-session nth 2 sense 5/72/04", PhaseClose, last, "closing the disc"},
			{"before close-track-session always deferred 0/00/00", PhaseClose, last, "not complete"},
			{"before read lba 100 always sense 3/11/05", PhaseReadBack, 100, "3/11/05"},
			{"after read lba 100 always sense 3/11/00", PhaseReadBack, 100, "3/11/00"},
			{"before write sense 5/30/05", PhaseWrite, blank, "wrong-medium"},
			{"before write sense 5/64/00", PhaseWrite, blank, "wrong-medium"},
			{"read-track-information sense 5/30/02", PhaseCheck, blank, "wrong-medium"},
			{"after write sense 5/21/02", PhaseWrite, 0, "5/21/02"},
			{"read-disc-information sense 2/3a/00", PhaseCheck, blank, "no-medium"},
			{"before write lba 64 gone", PhaseWrite, 64, "gone from the bus"},
			{"after write lba 64 gone", PhaseWrite, 64, "gone from the bus"},
			{"before close-track-session gone", PhaseClose, last, "gone from the bus"},
			{"before write lba 64 sense 4/44/00", PhaseWrite, 64, "4/44/00"},
			{"after write lba 64 sense 4/44/00", PhaseWrite, 64, "4/44/00"},
			{"before write lba 64 timeout", PhaseWrite, 64, "no answer within the time limit"},
			{"after write lba 64 timeout", PhaseWrite, 64, "no answer within the time limit"},
			{"after close-track-session timeout", PhaseClose, last, "no answer within the time limit"},
			{"write lba 333 flip 1024", PhaseReadBack, 333, "LBA 333: byte 1024"},
			{"read lba 333 flip 0", PhaseReadBack, last, "reads differently each time"},
			{"write always slow 10s", PhaseWrite, 0, ""},
		} {
			name := fmt.Sprintf("%v, %s", p, tt.faults)
			t.Run(name, func(t *testing.T) {
				faults, err := drivesim.ParseFaults(strings.NewReader(tt.faults))
				if err != nil {
					t.Fatal(err)
				}
				deadline(t, name, func() {
					o := burnWith(t, drivesim.Config{Profile: p, Capacity: 8192}, image, padded(p, data), faults...)
					var spoiled *SpoiledError
					switch isSpoiled := errors.As(o.err, &spoiled); {
					case o.err == nil || !strings.Contains(o.err.Error(), tt.says):
						t.Errorf("got %v, want %q in it", o.err, tt.says)
					case isSpoiled == (tt.lba == blank):
						t.Errorf("spoiled %v: %v", isSpoiled, o.err)
					case isSpoiled && (spoiled.Phase != tt.phase || int(spoiled.LBA) != tt.lba):
						t.Errorf("spoiled while %s at LBA %d, want %s at %d: %v", spoiled.Phase, spoiled.LBA, tt.phase, tt.lba, o.err)
					case isSpoiled && (o.rec.Failure == nil || o.rec.Failure.LBA != spoiled.LBA || o.rec.Failure.Phase != spoiled.Phase):
						t.Errorf("the record says %+v", o.rec.Failure)
					}
				})
			})
		}
		for _, faults := range []string{
			"before write lba 64 sense 2/04/08", "before write lba 64 sense 2/04/07", "before write lba 64 sense 5/2c/00",
			"read lba 100 sense 3/11/00", "test-unit-ready nth 30 sense 2/04/01", "read-buffer-capacity always sense 5/20/00",
			"read-disc-structure always sense 5/24/00", "read-disc-structure always sense 2/24/00", "after close-track-session always sense 1/17/00",
		} {
			parsed, err := drivesim.ParseFaults(strings.NewReader(faults))
			if err != nil {
				t.Fatal(err)
			}
			if o := burnWith(t, drivesim.Config{Profile: p, Capacity: 8192, Buffer: 64 << 10}, image, padded(p, data), parsed...); o.err != nil {
				t.Errorf("%v, %s: %v", p, faults, o.err)
			}
		}
	}
}

// DVD+R: a drive that doesn't finalise in the usual way is asked in the other.
func TestFinaliseOtherwise(t *testing.T) {
	image, _ := testImage(64)
	d, _ := newDrive(t, drivesim.Config{Profile: mmc.DVDPlusR})
	inject(t, d, "close-track-session nth 2 sense 5/24/00; close-track-session nth 3 sense 5/24/00")
	if _, err := Disc(t.Context(), d, image, Options{}); err != nil || d.Status().Disc != "complete" {
		t.Errorf("%v, the disc is %s", err, d.Status().Disc)
	}
}

// Finish speaks before anything is closed, and once.
func TestFinish(t *testing.T) {
	errRoot := errors.New("the root differs")
	for _, m := range media {
		for _, incremental := range []bool{false, true} {
			for _, want := range []error{nil, errRoot} {
				image, data := testImage(1537)
				src := &countingSource{data: data}
				calls := 0
				image.Source, image.Finish = src, func() error {
					calls++
					if src.read != len(data) {
						t.Errorf("%v: called after %d of %d bytes", m.profile, src.read, len(data))
					}
					return want
				}
				d, _ := newDrive(t, drivesim.Config{Profile: m.profile})
				rec, err := Disc(t.Context(), d, image, Options{Incremental: incremental})
				var imageErr *ImageError
				switch {
				case calls != 1 || !errors.Is(err, want):
					t.Errorf("%v: %d calls, %v", m.profile, calls, err)
				case want != nil && (!rec.Spoiled || !errors.As(err, &imageErr) || d.Status().Disc != "incomplete" || d.Commands(0x5B) > 0):
					t.Errorf("%v: %v, the disc is %s", m.profile, err, d.Status().Disc)
				case want == nil && src.read != len(data):
					t.Errorf("%v: %d bytes were read of %d", m.profile, src.read, len(data))
				}
			}
		}
	}
}

type countingSource struct {
	data []byte
	read int
}

func (s *countingSource) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, s.data[off:])
	s.read += n
	return n, nil
}
