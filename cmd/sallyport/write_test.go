package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/bundle"
	"sallyport/media/carry"
	"sallyport/qemu-tests/usbredir"
)

// What write does with a stick is tested in guests (qemu-tests). Here is what it does before, and what it writes last.

func TestWriteMisuse(t *testing.T) {
	t.Parallel()
	dir := room(t)
	must(t, dir, "prepare", "payload", "-o", "more.iso", "--channel", "news", "--trust", "trust.json", "--state", "state", "--station-key", "kiosk.key")
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"bundle.iso"}, `^sallyport write: missing flags: --device=DEV, --state=DIR, --trust=FILE`},
		{[]string{"bundle.iso", "--device", "bundle.iso", "--trust", "trust.json", "--state", "state"}, `^sallyport write: bundle\.iso is no disk, stick or card of this machine: sallyport media list shows them$`},
		{[]string{"payload", "--device", "/dev/sg0", "--trust", "trust.json", "--state", "state"}, `^sallyport write: read payload: it is a directory$`},
		{[]string{"sim:drive", "--device", "/dev/sg0", "--trust", "trust.json", "--state", "state"}, `^sallyport write: "drive" holds no simulated drive`},
		{[]string{"bundle.iso", "--device", "/dev/sg0", "--trust", "trust.json", "--state", "nothing"}, `^sallyport write: .*nothing is no state directory`},
		{[]string{"bundle.iso", "--device", "/dev/sg0", "--trust", "nothing.json", "--state", "state"}, `^sallyport write: load trust root: open nothing\.json: no such file or directory$`},
	} {
		code, stdout, stderr := sallyport(t, dir, append([]string{"write"}, test.args...)...)
		wantFailure(t, code, stdout, stderr, 2, test.want)
	}
}

// carried is a stick in memory.
type carried struct {
	*usbredir.Memory
	calls, stop int // it is pulled out at the call stop, if that isn't 0
}

var errPulled = errors.New("it was pulled out")

func (c *carried) count() error {
	if c.calls++; c.stop > 0 && c.calls >= c.stop {
		return errPulled
	}
	return nil
}

func (c *carried) BlockSize() int { return 512 }

func (c *carried) ReadAt(p []byte, off int64) (int, error) {
	if err := c.count(); err != nil {
		return 0, err
	}
	return c.Memory.ReadAt(p, off)
}

func (c *carried) WriteAt(p []byte, off int64) (int, error) {
	if err := c.count(); err != nil {
		return 0, err
	}
	return c.Memory.WriteAt(p, off)
}

func (c *carried) Sync() error { return c.count() }

// TestWriteStopped pulls a stick out at each call of a write, over a bundle that lay on it before: what is on it then is
// no bundle to anybody, from the third call on and until all of the new one is there; before, it is the old one, damaged.
func TestWriteStopped(t *testing.T) {
	t.Parallel()
	dir := room(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	// One whose end is far from its beginning: from there it can be found, too.
	if err := os.Truncate(touch(t, in("payload/large")), 12<<20); err != nil {
		t.Fatal(err)
	}
	must(t, dir, "prepare", "payload", "-o", "parity.iso", "--channel", "news", "--trust", "trust.json", "--medium", "cd-r")
	must(t, dir, "sign", "parity.iso", "--key", "alice.key")
	before, err := os.ReadFile(in("parity.iso"))
	if err != nil {
		t.Fatal(err)
	}
	e := &env{ctx: t.Context(), stderr: io.Discard, quiet: true, now: time.Now}
	c := &writeCmd{File: in("bundle.iso"), Trust: in("trust.json")}
	src, err := e.openSource(c.File)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	image, digest, err := c.image(e, src)
	if err != nil || len(digest) != 64 {
		t.Fatal(err, digest)
	}
	want, err := os.ReadFile(c.File)
	if err != nil {
		t.Fatal(err)
	}
	if image.Size != int64(len(want)) {
		t.Errorf("an image of %d bytes, want %d", image.Size, len(want))
	}
	size := int64(len(before)) + 3<<19
	last := 0
	for stop := 0; stop == 0 || stop <= last; stop++ {
		stick := &carried{Memory: usbredir.NewMemory(size), stop: stop}
		if _, err := stick.Memory.WriteAt(before, 0); err != nil {
			t.Fatal(err)
		}
		rec, err := carry.Write(t.Context(), stick, image, carry.Options{})
		if stop == 0 {
			last = stick.calls
		}
		got := make([]byte, size)
		if _, err := stick.Memory.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		_, inspectErr := bundle.Inspect(t.Context(), bundle.Source{ReaderAt: bytes.NewReader(got), Size: size, Medium: true})
		whole := bytes.Equal(got[:len(want)], want) && len(bytes.Trim(got[len(want):], "\x00")) == 0
		switch {
		case stop == 0:
			if err != nil || !rec.Verified || !whole || inspectErr != nil {
				t.Fatalf("%v, %+v; %v", err, rec, inspectErr)
			}
		case !errors.Is(err, errPulled) || rec.Verified:
			t.Errorf("pulled out at call %d of %d: %v, %+v", stop, last, err, rec)
		case stop > 2 && inspectErr == nil && !whole:
			t.Errorf("pulled out at call %d of %d: there is a bundle on the stick", stop, last)
		case inspectErr != nil && !strings.Contains(inspectErr.Error(), "not-a-bundle"):
			t.Errorf("pulled out at call %d of %d: %v", stop, last, inspectErr)
		}
	}
	if last < 15 {
		t.Errorf("only %d calls", last)
	}
}
