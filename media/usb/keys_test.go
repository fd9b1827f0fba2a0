package usb

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keyEvents are events of keys, as evdev has them, with what goes round them.
func keyEvents(value uint32, codes ...uint16) []byte {
	var b []byte
	for _, code := range codes {
		for _, e := range []struct {
			kind, code uint16
			value      uint32
		}{{4, 4, 0x70004}, {evKey, code, value}, {0, 0, 0}} {
			b = append(b, make([]byte, 16)...)
			b = binary.NativeEndian.AppendUint16(b, e.kind)
			b = binary.NativeEndian.AppendUint16(b, e.code)
			b = binary.NativeEndian.AppendUint32(b, e.value)
		}
	}
	return b
}

func pipedKeys(t *testing.T) (*evdevKeys, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	k := &evdevKeys{files: []*os.File{r}, events: make(chan uint16), failed: make(chan error, 1), closed: make(chan struct{})}
	t.Cleanup(func() { w.Close(); k.close() })
	go k.read(r)
	return k, w
}

func TestKeys(t *testing.T) {
	k, w := pipedKeys(t)
	var long []uint16
	for range 100 {
		long = append(long, 2)
	}
	for _, tt := range []struct {
		name   string
		events []byte
		want   string
	}{
		{"digits", keyEvents(1, 11, 2, 3, 4, 5, 6, 7, 8, 9, 10, keyEnter), "0123456789"},
		{"of the pad", keyEvents(1, 82, 79, 80, 81, 75, 76, 77, 71, 72, 73, keyPadEnter), "0123456789"},
		{"others", keyEvents(1, 30, 2, 57, keyEnter), "?1?"},
		{"put right", keyEvents(1, keyBackspace, 2, 30, keyBackspace, 3, keyEnter), "12"},
		{"nothing", keyEvents(1, keyEnter), ""},
		{"released and held", append(append(keyEvents(0, 2, keyEnter), keyEvents(2, 3, keyEnter)...), keyEvents(1, 4, keyEnter)...), "3"},
		{"without end", append(keyEvents(1, long...), keyEvents(1, keyEnter)...), "11111111111111111111111111111111"},
	} {
		go w.Write(tt.events)
		if got, err := k.line(t.Context()); got != tt.want || err != nil {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
	ctx, stop := context.WithTimeoutCause(t.Context(), time.Millisecond, errNotTyped)
	defer stop()
	if _, err := k.line(ctx); err != errNotTyped {
		t.Error(err)
	}
	k.failed <- &os.PathError{Op: "read", Err: unix.ENODEV} // as evdev says
	if _, err := k.line(t.Context()); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	k.close()
	if err := k.close(); err != nil {
		t.Error(err)
	}
}

func TestChallenge(t *testing.T) {
	c, err := NewChallenge()
	if err != nil {
		t.Fatal(err)
	}
	for left := ChallengeTries - 1; left >= 0; left-- {
		if n, ok := c.try(c.Code + "0"); n != left || ok {
			t.Errorf("a wrong code: %d left, %t", n, ok)
		}
	}
	if n, ok := c.try(c.Code); n != 0 || ok {
		t.Errorf("the right one after that: %d left, %t", n, ok)
	}
}

func TestGrabNothing(t *testing.T) {
	file := t.TempDir() + "/event0"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{file, file + "1"} {
		if k, err := grabKeys([]string{node}); k != nil || err == nil {
			t.Errorf("%s: %v", node, err)
		}
	}
}
