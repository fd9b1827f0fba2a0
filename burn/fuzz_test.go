package burn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"sallyport/burn/drivesim"
	"sallyport/media/scsi"
)

// liar is a drive whose firmware lies: at some of its commands it answers otherwise than the drive, or does nothing.
type liar struct {
	*drivesim.Drive
	program []byte // five bytes each: number of the command, what, three operands
	count   int
	lied    bool // about what is on the disc
}

func (l *liar) Do(ctx context.Context, cdb []byte, d scsi.Data) (int, error) {
	l.count++
	var op []byte
	for p := l.program; len(p) >= 5; p = p[5:] {
		if int(p[0]) == l.count {
			op = p[1:5]
			break
		}
	}
	if op == nil {
		return l.Drive.Do(ctx, cdb, d)
	}
	l.lied = l.lied || cdb[0] == 0x28 // READ(10)
	at := int(op[2])<<8 | int(op[3])
	if op[0]%8 == 0 {
		return d.Len(), nil // and nothing was done
	}
	n, err := l.Drive.Do(ctx, cdb, d)
	switch op[0] % 8 {
	case 1: // other bits in the answer
		if len(d.In) > 0 {
			d.In[at%len(d.In)] ^= op[1]
		}
	case 2: // the answer is full of something
		for i := range d.In {
			d.In[i] = op[1]
		}
		n = len(d.In)
	case 3: // less of it
		n = min(n, at)
	case 4: // sense data after the effect
		return n, sense(op[1], op[2], op[3])
	case 5:
		return n, scsi.Status(op[1])
	case 6:
		return n, &scsi.TransportError{Err: []error{scsi.ErrTimeout, scsi.ErrGone, nil}[op[1]%3]}
	case 7: // a number where another one stood
		if len(d.In) >= 4 {
			copy(d.In[at%(len(d.In)-3):], bytes.Repeat(op[1:2], 4))
		}
	}
	return n, err
}

// sense is fixed format sense data, as current or deferred error or none of either.
func sense(key, asc, ascq byte) error {
	b := make([]byte, 18)
	b[0], b[2], b[7], b[12], b[13] = 0x70|key>>6&1, key&0x3F, 10, asc, ascq
	e, err := scsi.ParseSense(b)
	if err != nil {
		return &scsi.TransportError{Err: err}
	}
	return e
}

// FuzzDrive burns and reads on a drive that lies. Whatever it says, a burn that succeeds leaves the image on a closed
// disc, one that doesn't tells the truth about the disc, what is read is what stands there unless the drive lied about
// just that, and all of it ends.
func FuzzDrive(f *testing.F) {
	f.Add(true, []byte{})
	f.Add(false, []byte{})
	for n := range byte(40) {
		f.Add(n%2 == 0, []byte{n, n, n * 7, 0, n * 3, n + 5, n / 3, 0xFF, 0, 8})
	}
	f.Add(true, []byte{30, 0, 0, 0, 0})
	f.Add(false, []byte{9, 4, 3, 0x11, 5, 10, 4, 3, 0x11, 5, 11, 4, 3, 0x11, 5})
	f.Fuzz(func(t *testing.T, burns bool, program []byte) {
		image, want := testImage(48)
		d, dir := newDrive(t, drivesim.Config{Capacity: 512})
		l := &liar{Drive: d, program: program[:min(len(program), 60)]}
		begun := d.Now()
		if burns {
			rec, err := Disc(t.Context(), l, image, Options{Load: func(string) error { d.Load(); return nil }})
			st := d.Status()
			var spoiled *SpoiledError
			switch isSpoiled := errors.As(err, &spoiled); {
			case err == nil && (st.Disc != "complete" || !bytes.Equal(recorded(t, dir), want) || !rec.Verified || rec.Spoiled):
				t.Fatalf("success, and the disc is %s, record %+v", st.Disc, rec)
			case err != nil && rec != nil && (rec.Verified || rec.Spoiled != isSpoiled):
				t.Fatalf("error %v, and the record says %+v", err, rec)
			case err != nil && st.Disc != "blank" && !isSpoiled:
				t.Fatalf("the disc is %s, and the error doesn't say so: %v", st.Disc, err)
			}
		} else {
			if _, err := Disc(t.Context(), d, image, Options{}); err != nil {
				t.Fatal(err)
			}
			begun = d.Now()
			readLiar(t, l, want)
		}
		if l.count > 5000 || d.Now().Sub(begun) > 6*time.Hour {
			t.Fatalf("%d commands, %v of the drive's time", l.count, d.Now().Sub(begun))
		}
	})
}

func readLiar(t *testing.T, l *liar, want []byte) {
	t.Helper()
	r, err := OpenDisc(t.Context(), l, ReadOptions{})
	if err != nil {
		return
	}
	defer r.Close()
	p := make([]byte, 3*BlockSize+17)
	for off := int64(0); off < min(r.Size(), int64(len(want))+10*BlockSize); off += int64(len(p)) {
		n, err := r.ReadAt(p, off)
		if n < len(p) == (err == nil) || n < len(p) && err == io.EOF && off+int64(n) != r.Size() {
			t.Fatalf("%d bytes at %d of %d: %v", n, off, r.Size(), err)
		}
		end := min(off+int64(n), int64(len(want)))
		if !l.lied && off < end && !bytes.Equal(p[:end-off], want[off:end]) {
			t.Fatalf("other bytes at %d", off)
		}
	}
}
