package burn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/burn/drivesim"
	"sallyport/burn/mmc"
)

// A person changes discs: each that is put in is a new simulated drive, with
// faults of its own. What a fault list stands for is one disc.
type person struct {
	t       *testing.T
	discs   []string // faults of each disc; "used": it is written already; "empty": none was put in
	in      int      // which disc is in
	drives  []*drivesim.Drive
	dirs    []string
	changes []Change
}

func (p *person) put() Drive {
	config := drivesim.Config{Capacity: 2048, Empty: p.discs[p.in] == "empty"}
	d, dir := newDrive(p.t, config)
	if p.discs[p.in] == "used" {
		image, _ := testImage(32)
		if _, err := Disc(p.t.Context(), d, image, Options{}); err != nil {
			p.t.Fatal(err)
		}
	} else if !config.Empty {
		inject(p.t, d, p.discs[p.in])
	}
	p.drives, p.dirs = append(p.drives, d), append(p.dirs, dir)
	return d
}

func (p *person) change(_ context.Context, c Change) (Drive, error) {
	p.changes = append(p.changes, c)
	if !p.drives[p.in].Status().TrayOpen {
		p.t.Errorf("disc %d has to be taken out of a closed tray", p.in)
	}
	if p.in++; p.in == len(p.discs) {
		return nil, errors.New("no discs are left")
	}
	return p.put(), nil
}

// Copies: numbers rise with each disc that is touched, spoiled ones are
// replaced, what can't be burnt costs no number, and a drive that fails is not
// tried again.
func TestCopies(t *testing.T) {
	const sick = "write lba 64 sense 3/0c/00"
	for _, tt := range []struct {
		name    string
		count   int
		discs   []string
		numbers string // of the discs that were written to; s: spoiled
		says    string // of the error; "": none
	}{
		{"one", 1, []string{""}, "1", ""},
		{"three", 3, []string{"", "", ""}, "1 2 3", ""},
		{"the first is spoiled", 1, []string{sick, ""}, "1s 2", ""},
		{"one in the middle is spoiled", 3, []string{"", sick, "", ""}, "1 2s 3 4", ""},
		{"spoiled at closing", 2, []string{"synchronize-cache sense 5/72/03", "", ""}, "1s 2 3", ""},
		{"one reads back wrong", 2, []string{"", "write lba 9 flip 3", ""}, "1 2s 3", ""},
		{"a used disc is put in", 2, []string{"", "used", ""}, "1 2", ""},
		{"none is put in", 2, []string{"empty", "", "empty", ""}, "1 2", ""},
		{"one that can't be calibrated", 1, []string{"send-opc-information sense 3/73/03", ""}, "2", ""},
		{"no discs are left", 3, []string{"", sick, ""}, "1 2s 3", "no discs are left"},
		{"three bad ones in a row", 2, []string{"", sick, sick, sick, ""}, "1 2s 3s 4s", "3 discs in a row are spoiled: take another drive"},
		{"two and two bad ones", 2, []string{sick, sick, "", sick, sick, ""}, "1s 2s 3 4s 5s 6", ""},
		{"the drive is gone", 2, []string{"write lba 64 gone", ""}, "1s", "gone from the bus"},
		{"the drive is gone before the first write", 2, []string{"mode-select gone", ""}, "", "gone from the bus"},
		{"the drive fails", 2, []string{"write lba 64 sense 4/44/00", ""}, "1s", "4/44/00"},
		{"the drive is not there any more", 2, []string{"write lba 64 sense 5/25/00", ""}, "1s", "5/25/00"},
		{"the drive doesn't answer", 2, []string{"write lba 64 timeout", ""}, "1s", "no answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			image, want := testImage(320)
			p := &person{t: t, discs: tt.discs}
			number := 0
			var done []string
			note := func(rec *Record) string {
				if rec.Spoiled {
					return fmt.Sprintf("%ds", rec.DiscNumber)
				}
				return fmt.Sprint(rec.DiscNumber)
			}
			c := Copies{
				Count: tt.count, Image: image, Next: p.change,
				Options: Options{Begin: func() (int, error) { number++; return number, nil }},
				Done:    func(rec *Record, err error) error { done = append(done, note(rec)); return nil },
			}
			records, err := c.Burn(t.Context(), p.put())
			var got []string
			good := 0
			for _, rec := range records {
				got = append(got, note(rec))
				if rec.Verified {
					good++
				}
			}
			if strings.Join(got, " ") != tt.numbers || strings.Join(done, " ") != tt.numbers {
				t.Errorf("discs %q, told %q, want %q", got, done, tt.numbers)
			}
			if tt.says == "" && (err != nil || good != tt.count) || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("%d good discs, %v, want %q", good, err, tt.says)
			}
			for i, d := range p.drives {
				if d.Status().Disc == "complete" && tt.discs[i] != "used" && tt.discs[i] == "" && !bytes.Equal(recorded(t, p.dirs[i]), want) {
					t.Errorf("disc %d is no copy", i)
				}
				if d.Status().Locked && !strings.Contains(tt.says, "gone") {
					t.Errorf("the tray stays locked on disc %d", i)
				}
			}
			for _, change := range p.changes {
				var spoiled *SpoiledError
				if change.Count != tt.count || change.Err == nil && change.Number == 0 || errors.As(change.Err, &spoiled) && change.Number == 0 || refusedAs(change.Err, CodeNotBlank) && change.Number != 0 {
					t.Errorf("change %+v", change)
				}
			}
		})
	}
}

// Nobody is there to change discs.
func TestCopiesAlone(t *testing.T) {
	image, _ := testImage(64)
	d, _ := newDrive(t, drivesim.Config{})
	c := Copies{Count: 2, Image: image}
	records, err := c.Burn(t.Context(), d)
	if len(records) != 1 || !records[0].Verified || err == nil || err.Error() != "1 of 2 discs are burnt, and nobody can be asked for the next one" {
		t.Errorf("%d records, %v", len(records), err)
	}
	if records, err := c.Burn(t.Context(), d); len(records) != 0 || !refusedAs(err, CodeNotBlank) {
		t.Errorf("%d records, %v", len(records), err)
	}
}

// What is not the disc's fault costs no second one; and all copies are equal to
// the first, whatever becomes of the image meanwhile.
func TestCopiesEnd(t *testing.T) {
	image, data := testImage(1600)
	p := &person{t: t, discs: []string{"", "", ""}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := Copies{Count: 3, Image: image, Next: func(ctx context.Context, change Change) (Drive, error) {
		data[len(data)-1] ^= 1
		return p.change(ctx, change)
	}}
	records, err := c.Burn(ctx, p.put())
	var spoiled *SpoiledError
	if len(records) != 2 || !errors.As(err, &spoiled) || !strings.Contains(err.Error(), "the image changed") || len(p.changes) != 1 {
		t.Errorf("%d records, %d changes, %v", len(records), len(p.changes), err)
	}
	p = &person{t: t, discs: []string{"", ""}}
	c = Copies{Count: 2, Image: image, Next: p.change, Done: func(*Record, error) error { return errors.New("the log is full") }}
	if records, err := c.Burn(ctx, p.put()); len(records) != 1 || err == nil || err.Error() != "the log is full" || len(p.changes) > 0 {
		t.Errorf("%d records, %v", len(records), err)
	}
	p = &person{t: t, discs: []string{"", ""}}
	c = Copies{Count: 2, Image: image, Next: func(context.Context, Change) (Drive, error) { cancel(); return nil, ctx.Err() }}
	if records, err := c.Burn(ctx, p.put()); len(records) != 1 || !errors.Is(err, context.Canceled) || errors.As(err, &spoiled) {
		t.Errorf("%d records, %v", len(records), err)
	}
}

// A second drive reads the disc, too.
func TestSecond(t *testing.T) {
	for _, tt := range []struct {
		name     string
		faults   string // of the second drive
		change   func([]byte)
		spoiled  bool
		says     string
		verified bool // in the second drive
	}{
		{name: "equal", verified: true},
		{name: "read again", faults: "read lba 100 sense 3/11/00", verified: true},
		{name: "as a dvd-rom", faults: "", verified: true},
		{name: "one bit differs", change: func(b []byte) { b[333*BlockSize] ^= 1 }, spoiled: true, says: "LBA 333"},
		{name: "one block can't be read", faults: "read lba 100 always sense 3/11/05", spoiled: true, says: "LBA 100"},
		{name: "it doesn't know the disc", faults: "test-unit-ready always sense 2/30/02", spoiled: true, says: "2/30/02"},
		{name: "no disc", faults: "test-unit-ready always sense 2/3a/01", says: "good in the drive that burnt it, and was not checked in the second one: no-medium"},
		{name: "it is gone", faults: "before read lba 320 gone", says: "gone from the bus"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, dir := newDrive(t, drivesim.Config{})
			image, data := testImage(640)
			closed, carried := 0, 0
			rec, err := Disc(t.Context(), d, image, Options{Number: 5, Second: func(_ context.Context, number int) (Drive, func() error, error) {
				carried++
				if number != 5 || !d.Status().TrayOpen {
					t.Errorf("disc %d, tray open %v", number, d.Status().TrayOpen)
				}
				other := filepath.Join(tempDir(t), "second")
				if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				if tt.change != nil {
					b := bytes.Clone(data)
					tt.change(b)
					if err := os.WriteFile(filepath.Join(other, "disc.img"), b, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				second, err := drivesim.Open(other)
				if err != nil {
					t.Fatal(err)
				}
				inject(t, second, tt.faults)
				return second, func() error { closed++; return second.Close() }, nil
			}})
			if carried != 1 || closed != 1 {
				t.Errorf("carried %d times, closed %d times", carried, closed)
			}
			var spoiled *SpoiledError
			if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) || errors.As(err, &spoiled) != tt.spoiled {
				t.Errorf("got %v, want %q", err, tt.says)
			}
			if tt.spoiled && spoiled.Phase != PhaseSecond || rec.Spoiled != tt.spoiled {
				t.Errorf("%+v, record %+v", spoiled, rec)
			}
			if rec.Verified == tt.spoiled || rec.Second == nil || rec.Second.Verified != tt.verified || rec.Second.Drive.Vendor != drivesim.Vendor && rec.Second.Drive.Vendor != "" {
				t.Errorf("record %+v, second %+v", rec, rec.Second)
			}
			if tt.verified && (rec.Second.SHA256 != rec.ImageSHA256 || rec.Second.Medium != "DVD-R") {
				t.Errorf("second %+v", rec.Second)
			}
		})
	}
	d, _ := newDrive(t, drivesim.Config{})
	image, _ := testImage(64)
	rec, err := Disc(t.Context(), d, image, Options{Second: func(context.Context, int) (Drive, func() error, error) {
		return nil, nil, errors.New("/dev/sr1 is in use")
	}})
	if err == nil || !rec.Verified || rec.Spoiled || rec.Second != nil || rec.Failure == nil || rec.Failure.Phase != PhaseSecond {
		t.Errorf("no second drive: %v, %+v", err, rec)
	}
}

// A failure is in the record: where and why.
func TestFailureRecord(t *testing.T) {
	image, _ := testImage(320)
	for _, tt := range []struct {
		faults string
		want   Failure
	}{
		{"write lba 70 sense 3/0c/00", Failure{Phase: PhaseWrite, LBA: 70}},
		{"synchronize-cache sense 5/72/03", Failure{Phase: PhaseClose, LBA: 320}},
		{"read lba 100 always sense 3/11/05", Failure{Phase: PhaseReadBack, LBA: 100}},
		{"send-opc-information sense 3/73/03", Failure{Phase: PhasePrepare}},
	} {
		d, _ := newDrive(t, drivesim.Config{Profile: mmc.DVDR})
		inject(t, d, tt.faults)
		rec, err := Disc(t.Context(), d, image, Options{})
		if err == nil || rec.Failure == nil || rec.Failure.Phase != tt.want.Phase || rec.Failure.LBA != tt.want.LBA || rec.Failure.Error != err.Error() {
			t.Errorf("%s: %v, record %+v", tt.faults, err, rec.Failure)
		}
	}
}

// A drive whose tray somebody has to close burns nothing when nobody is there.
func TestTrayByHand(t *testing.T) {
	image, _ := testImage(64)
	d, dir := newDrive(t, drivesim.Config{NoLoad: true})
	begun := false
	rec, err := Disc(t.Context(), d, image, Options{Begin: func() (int, error) { begun = true; return 1, nil }})
	if rec != nil || !refusedAs(err, CodeTrayByHand) || begun || len(recorded(t, dir)) > 0 || d.Status().Locked {
		t.Errorf("%v, a number was taken %v", err, begun)
	}
}
