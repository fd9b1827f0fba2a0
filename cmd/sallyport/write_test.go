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
	"sallyport/bundle/importlog"
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

// TestCarrierBlocks: what came on blocks larger than a bundle's is refused where a bundle is read.
func TestCarrierBlocks(t *testing.T) {
	t.Parallel()
	for block, code := range map[int]string{0: "", 512: "", 2048: "", 4096: carry.CodeBlockSize} {
		err := (&source{block: block}).checkBlocks()
		if _, ref := classify(t.Context(), err); (ref == nil) != (code == "") || ref != nil && (ref.Code != code || ref.Advice == "") {
			t.Errorf("blocks of %d bytes: %v", block, err)
		}
	}
}

// TestWriteTexts: what people are told of a stick, in the log and on the screen.
func TestWriteTexts(t *testing.T) {
	t.Parallel()
	record := `{"image_bytes":4096,"medium":{"product":"Flash Disk","serial":"0042","size":8000000000,"vendor":"Example"},"replugged":true,"surplus_proven":8000000000,"verified":true}`
	line := entryLine(&importlog.Entry{Kind: importlog.KindWrite, Write: &importlog.WriteEntry{Record: []byte(record), SealDigest: strings.Repeat("ab", 32)}})
	if want := "write      stick Example Flash Disk, serial 0042, 8000.0 MB, read back equal, seal abababababababab"; !strings.HasSuffix(line, want) {
		t.Errorf("%q, want %q", line, want)
	}
	line = entryLine(&importlog.Entry{Kind: importlog.KindWrite, Write: &importlog.WriteEntry{Record: []byte(`{"verified":1}`), SealDigest: strings.Repeat("ab", 32)}})
	if want := "(unreadable record), seal abababababababab"; !strings.HasSuffix(line, want) {
		t.Errorf("%q, want %q", line, want)
	}
	for rec, want := range map[*carry.Record]string{
		{Verified: true, Replugged: true}: "after it was pulled out and put in again",
		{Verified: true}:                  "a cache in it may have answered",
		{Cleared: true}:                   "nothing on the stick can be taken for a bundle",
		{Touched: true}:                   "what is on the stick was not proven",
	} {
		var text bytes.Buffer
		(&writeResult{rec}).text(&text)
		if !strings.Contains(text.String(), want) {
			t.Errorf("%+v: %s, want %q", rec, &text, want)
		}
	}
	for left, want := range map[time.Duration]string{0: "0 s", 59 * time.Second: "59 s", 90 * time.Second: "2 min", 61 * time.Minute: "1:01 h", 25 * time.Hour: "25:00 h"} {
		if got := leftText(left); got != want {
			t.Errorf("%v: %q, want %q", left, got, want)
		}
	}
}
