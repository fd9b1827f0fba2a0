package drivesim

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sallyport/media/scsi"
)

// program is a fuzzer's input as commands: 18 bytes each, a CDB of up to 16
// and what goes with it.
type program []byte

const commandBytes = 18

func commandOf(cdb []byte, out bool, size int) []byte {
	b := make([]byte, commandBytes)
	copy(b, cdb)
	binary.BigEndian.PutUint16(b[16:], uint16(size))
	if out {
		b[16] |= 0x80
	}
	return b
}

// FuzzDo sends any commands to a blank disc of each kind. Whatever they are,
// nothing more moves than there is room for, every error has words, a disc
// that isn't blank doesn't become it, one that is finalised stays as it is, and
// the state is always one that can be opened again.
func FuzzDo(f *testing.F) {
	page := append(make([]byte, 8), 0x05, 50, 0x42, 0xC5, 0x08)
	seed := func(profile byte, commands ...[]byte) {
		var b program
		for _, c := range commands {
			b = append(b, c...)
		}
		f.Add(profile, []byte(b), page)
	}
	selects := commandOf([]byte{0x55, 0x10, 0, 0, 0, 0, 0, 0, 60, 0}, true, 60)
	writes := func(lba, n byte) []byte {
		return commandOf([]byte{0x2A, 0, 0, 0, 0, lba, 0, 0, n, 0}, true, int(n)*blockSize/16)
	}
	seed(0, selects, commandOf([]byte{0x53, 0, 0, 0, 0, 0, 0, 0, 32, 0}, false, 0), writes(0, 16), writes(16, 16), commandOf([]byte{0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0}, false, 0))
	seed(1, writes(0, 15), commandOf([]byte{0x5B, 0, 1, 0, 0, 1, 0, 0, 0, 0}, false, 0), commandOf([]byte{0x5B, 0, 2, 0, 0, 0, 0, 0, 0, 0}, false, 0),
		commandOf([]byte{0x51, 0, 0, 0, 0, 0, 0, 0, 34, 0}, false, 34), commandOf([]byte{0x43, 0, 2, 0, 0, 0, 0, 1, 0, 0}, false, 256))
	seed(2, selects, commandOf([]byte{0x5D, 0, 0, 0, 0, 0, 0, 0, 32, 0}, true, 32), writes(0, 16), commandOf([]byte{0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0}, false, 16384))
	seed(3, commandOf([]byte{0x04, 0x11, 0, 0, 0, 0}, true, 12), writes(0, 32), commandOf([]byte{0x5B, 0, 6, 0, 0, 0, 0, 0, 0, 0}, false, 0))
	for op := range commands {
		seed(op, commandOf([]byte{op, 1, 0, 0, 0x10, 0, 0, 0x7F, 0xFF, 0, 0x03}, false, 0x7FFF))
	}
	dir := f.TempDir()
	if fast, err := os.MkdirTemp("/dev/shm", "drivesim"); err == nil { // the state is synced with every change
		dir = fast
		f.Cleanup(func() { os.RemoveAll(fast) })
	}

	f.Fuzz(func(t *testing.T, profile byte, p, out []byte) {

		image := filepath.Join(dir, "disc")
		for _, name := range []string{image, image + ".json", image + ".lock"} {
			os.Remove(name)
		}
		d, err := OpenImage(image, Config{Profile: media[profile%4], Capacity: 20000, Buffer: 64 * blockSize, SpinUp: time.Millisecond}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		settle(t, d)
		for i := 0; len(p) >= commandBytes && i < 40; i++ {
			fuzzCommand(t, d, p[:commandBytes], out)
			p = p[commandBytes:]
		}
		told := d.Status()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := OpenImage(image, Config{}, nil)
		if err != nil {
			t.Fatalf("the disc can't be opened again: %v", err)
		}
		defer again.Close()
		if st := again.Status(); (st.Disc == blank) != (told.Disc == blank) || told.Disc == complete && (st.Recorded != told.Recorded || st.Sessions != told.Sessions) {
			t.Fatalf("from %+v to %+v", told, st)
		}
	})
}

func fuzzCommand(t *testing.T, d *Drive, c, out []byte) {
	t.Helper()
	size := int(binary.BigEndian.Uint16(c[16:]))
	data := scsi.Data{In: make([]byte, size&0x7FFF)}
	if size &= 0x7FFF; c[16]&0x80 != 0 {
		if _, blocks, ok := (&request{cdb: c[:16]}).blocks(); ok && blocks < 64 { // else nothing would ever be written
			size = int(blocks) * blockSize
		}
		data = scsi.Data{Out: make([]byte, size)}
		copy(data.Out, out)
	}
	before := d.Status()
	n, err := d.Do(t.Context(), c[:16], data)
	if n < 0 || n > size {
		t.Fatalf("% x moved %d of %d bytes", c, n, size)
	}
	if short(err) == "" && err != nil {
		t.Fatalf("% x: an error without words", c)
	}
	d.Wait(t.Context(), time.Second)
	after := d.Status()
	if after.Disc == blank && before.Disc != blank || before.Disc == complete && (after.Recorded != before.Recorded || after.Disc != complete) {
		t.Fatalf("% x: from %+v to %+v", c, before, after)
	}
	if d.keep(); d.st.check() != nil {
		t.Fatalf("% x: %v: %+v", c, d.st.check(), d.st.Disc)
	}
	views := d.views()
	for i, v := range views {
		if v.writable && (v.free == 0 || uint64(v.next)+uint64(v.free) > uint64(d.st.Disc.Capacity)+2) || i > 0 && v.start < views[i-1].start {
			t.Fatalf("% x: track %+v of %+v", c, v, views)
		}
	}
}
