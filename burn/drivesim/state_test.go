package drivesim

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// crash copies a drive's directory as it is on disk now, as if the machine had
// stopped, and opens the copy.
func crash(t *testing.T, dir string) *Drive {
	t.Helper()
	to := t.TempDir()
	for _, name := range []string{stateFile, imageFile} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d, err := Open(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	settle(t, d)
	return d
}

// A disc is never blank again once a block of it may be recorded, and holds
// nothing that wasn't written to it.
func TestCrash(t *testing.T) {
	for _, kind := range []byte{mmc.WriteSAO, mmc.WriteIncremental} {
		d, dir := newDrive(t, Config{Capacity: 4096})
		settle(t, d)
		setup(t, d, kind, 0, true)
		if kind == mmc.WriteSAO {
			do(t, d, "53 00 00 00 00 00001000 00", scsi.Data{})
		}
		if st := crash(t, dir).Status(); st.Disc != blank {
			t.Errorf("before the first write: %+v", st)
		}
		p := payload(4096)
		for lba := 0; lba < 4096; lba += 256 {
			if got := write(d, uint32(lba), p[lba*blockSize:(lba+256)*blockSize]); got != "" {
				t.Fatal(got)
			}
			d.Wait(t.Context(), time.Second)
			after := crash(t, dir)
			st := after.Status()
			if st.Disc != incomplete || st.Recorded > uint32(lba+256) || st.Recorded%16 != 0 {
				t.Errorf("after LBA %d: %+v", lba, st)
			}
			if st.Recorded > 0 {
				b, got := read(after, 0, int(st.Recorded))
				if got != "" || !bytes.Equal(b, p[:len(b)]) {
					t.Errorf("after LBA %d: %q, and other data than was written", lba, got)
				}
			}
			track, err := mmc.ReadTrackInformation{AddressType: 1, Address: 1}.Send(t.Context(), after)
			if err != nil || track.Damage != (kind == mmc.WriteSAO) || track.NextWritableValid != (!track.Damage && st.Recorded < 4096) {
				t.Errorf("after LBA %d: %+v, %v", lba, track, err)
			}
		}
		do(t, d, "35 00 00 00 00 00 00 00 00 00", scsi.Data{})
		want := incomplete
		if kind == mmc.WriteSAO {
			want = complete
		}
		if st := crash(t, dir).Status(); st.Disc != want || st.Recorded != 4096 {
			t.Errorf("after the flush: %+v, want %s", st, want)
		}
	}
}

func TestOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	settle(t, d)
	track, err := mmc.ReadTrackInformation{AddressType: 1, Address: 1}.Send(t.Context(), d)
	if err != nil || track.Free != DVDRBlocks || !track.Blank {
		t.Errorf("a new disc: %+v, %v", track, err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opened twice: %v", err)
	}
	if _, err := New(dir, Config{}); err == nil || !strings.Contains(err.Error(), "there already") {
		t.Errorf("made twice: %v", err)
	}
	c, _ := mmc.GetConfiguration{}.Send(t.Context(), d)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Do(t.Context(), make([]byte, 6), scsi.Data{}); !errors.Is(err, scsi.ErrGone) {
		t.Errorf("after Close: %v", err)
	}
	d, err = Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if again, _ := (mmc.GetConfiguration{}).Send(t.Context(), d); again.SerialNumber() != c.SerialNumber() || c.SerialNumber() == "" {
		t.Errorf("serial number %q, then %q", c.SerialNumber(), again.SerialNumber())
	}
}

func TestBadState(t *testing.T) {
	good := `{"drive":{"serial":"S","no_dao":false,"no_reserve":false,"no_load":false,"buffer":65536,"speed":22160,"spin_up":1},` +
		`"disc":{"profile":17,"capacity":256,"manufacturer":"M","random":1,"first_write":"","formatted":false,"spare":0,"overwrite":false,` +
		`"tracks":[],"sessions":0,"finalised":false,"recording":0,"absent":false}}`
	tracks := func(s string) string { return `"tracks":[` + s + `],"sessions":0,` }
	const none = `"tracks":[],"sessions":0,`
	const closed = `{"session":1,"start":0,"reserved":0,"recorded":16,"once":false,"closed":true,"damaged":false}`
	const open = `{"session":1,"start":0,"reserved":0,"recorded":16,"once":false,"closed":false,"damaged":false}`
	for _, tt := range []struct {
		name, old, new, want string
		image                int
	}{
		{name: "good"},
		{name: "truncated", old: `"disc"`, new: "", want: "byte"},
		{name: "unknown field", old: `"serial"`, new: `"cereal"`, want: "cereal"},
		{name: "a track of its own", old: none, new: tracks(closed), image: 16 * 2048},
		{name: "being recorded", old: none + `"finalised":false,"recording":0`, new: tracks(open) + `"finalised":false,"recording":1`, image: 32 * 2048},
		{name: "capacity 0", old: `"capacity":256`, new: `"capacity":0`, want: "capacity of 0"},
		{name: "capacity huge", old: `"capacity":256`, new: `"capacity":4294967295`, want: "capacity of 4294967295"},
		{name: "more spare than fits", old: `"spare":0`, new: `"spare":257`, want: "257 of them spare"},
		{name: "more recorded than fits", old: none, new: tracks(strings.Replace(closed, "16", "300", 1)), want: "300 recorded, of 256"},
		{name: "more than reserved", old: none, new: tracks(strings.Replace(closed, `"reserved":0`, `"reserved":8`, 1)), want: "16 recorded, of 256"},
		{name: "a start beyond numbers", old: none, new: tracks(strings.Replace(closed, `"start":0`, `"start":4294967290`, 1)), want: "from LBA 4294967290"},
		{name: "overlapping tracks", old: none, new: tracks(closed + "," + closed), want: "track 2: 0 blocks from LBA 0"},
		{name: "two open tracks", old: none, new: tracks(open + "," + strings.Replace(open, `"start":0`, `"start":16`, 1)), want: "track 1 is open"},
		{name: "session 0", old: none, new: tracks(strings.Replace(closed, `"session":1`, `"session":0`, 1)), want: "track 1 is in session 0"},
		{name: "session 2 first", old: none, new: tracks(strings.Replace(closed, `"session":1`, `"session":2`, 1)), want: "track 1 is in session 2"},
		{name: "an open track in a closed session", old: none, new: strings.Replace(tracks(open), `"sessions":0`, `"sessions":1`, 1), want: "track 1 is open"},
		{name: "sessions without tracks", old: `"sessions":0`, new: `"sessions":3`, want: "0 tracks, 3 sessions"},
		{name: "finalised without tracks", old: `"finalised":false`, new: `"finalised":true`, want: "finalised true"},
		{name: "recording nothing", old: `"recording":0`, new: `"recording":1`, want: "track 1 being recorded"},
		{name: "recording before the first", old: `"recording":0`, new: `"recording":-1`, want: "track -1 being recorded"},
		{name: "a hundred tracks", old: none, new: tracks(strings.TrimSuffix(strings.Repeat(closed+",", 100), ",")), want: "100 tracks"},
		{name: "buffer huge", old: `65536`, new: `6553600000`, want: "buffer of"},
		{name: "buffer negative", old: `65536`, new: `-1`, want: "buffer of"},
		{name: "speed 0", old: `22160`, new: `0`, want: "speed 0"},
		{name: "blank with an image", image: 2048, want: "yet the disc is blank"},
		{name: "recorded without an image", old: none, new: tracks(closed), want: "disc.img is missing"},
		{name: "recorded with a short image", old: none, new: tracks(closed), image: 2048, want: "has 1 blocks, want 16"},
		{name: "no end", old: `"S"`, new: `"` + strings.Repeat("S", maxState) + `"`, want: "more than 65536 bytes"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(strings.Replace(good, tt.old, tt.new, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		if tt.image > 0 {
			if err := os.WriteFile(filepath.Join(dir, imageFile), make([]byte, tt.image), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		d, err := Open(dir)
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			} else {
				d.Close()
			}
		} else if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q in it", tt.name, err, tt.want)
		}
	}
}

// A disc in a file, with its state beside it.
func TestOpenImage(t *testing.T) {
	image := filepath.Join(t.TempDir(), "disc")
	d, err := OpenImage(image, Config{Profile: mmc.BDR, Capacity: 256, SpinUp: time.Second}, []Fault{{Command: "seek", Sense: 0x44400}})
	if err != nil {
		t.Fatal(err)
	}
	settle(t, d)
	if got := do(t, d, "2b 00 00000000 00 0000 00", scsi.Data{}); got != "4/44/00" {
		t.Errorf("the fault: %q", got)
	}
	p := payload(32)
	write(d, 0, p)
	closing(t, d, 1, 1)
	if _, err := OpenImage(image, Config{}, nil); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opened twice: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(image); err != nil || !bytes.Equal(b, p) {
		t.Errorf("the image is not what was written: %v", err)
	}
	for _, c := range []Config{{Profile: mmc.DVDR}, {Capacity: 257}} {
		if _, err := OpenImage(image, c, nil); err == nil || !strings.Contains(err.Error(), "is a BD-R of 256 blocks") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := OpenImage(image, Config{Speed: 7}, nil); err == nil || !strings.Contains(err.Error(), "speed 7") {
		t.Errorf("speed 7: %v", err)
	}
	d, err = OpenImage(image, Config{Profile: mmc.BDR, Speed: 9000}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	settle(t, d)
	if b, got := read(d, 0, 32); got != "" || !bytes.Equal(b, p) || d.Status().ReadSpeed != 9000 {
		t.Errorf("reads differently: %q, %+v", got, d.Status())
	}
	if err := os.Remove(image + ".json"); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenImage(image, Config{}, nil); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("an image without its state: %v", err)
	}
}
