package usb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// keys is a keyboard that nobody but its holder hears.
type keys interface {
	// line waits for what is typed before the next Enter. Errors: the cause of ctx, and that of a keyboard that is gone.
	line(ctx context.Context) (string, error)
	close() error
}

// Of linux/input.h and linux/input-event-codes.h.
const (
	eviocgrab = 0x40044590 // _IOW('E', 0x90, int)
	evKey     = 1
	eventSize = 24 // of struct input_event with 64-bit times
	keyDown   = 1

	keyBackspace = 14
	keyEnter     = 28
	keyPadEnter  = 96

	maxLine = 32 // keys before an Enter that are kept; no code is as long
)

// digits are the keys' numbers of 0 to 9, above the letters and on the pad.
var digits = func() map[uint16]byte {
	m := map[uint16]byte{11: '0', 82: '0'}
	for i, code := range []uint16{79, 80, 81, 75, 76, 77, 71, 72, 73} {
		m[code] = '1' + byte(i)
		m[uint16(2+i)] = '1' + byte(i)
	}
	return m
}()

// evdevKeys reads a keyboard's input nodes (Documentation/input/input.rst, "evdev"), which it has grabbed: neither the
// kernel's consoles nor another reader of the nodes gets what is typed.
type evdevKeys struct {
	files  []*os.File
	events chan uint16 // keys that went down
	failed chan error
	closed chan struct{}
	once   sync.Once
}

// grabKeys opens a keyboard's nodes for itself alone.
func grabKeys(nodes []string) (keys, error) {
	k := &evdevKeys{events: make(chan uint16), failed: make(chan error, len(nodes)), closed: make(chan struct{})}
	for _, node := range nodes {
		f, err := os.OpenFile(node, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, errors.Join(err, k.close())
		}
		k.files = append(k.files, f)
		conn, err := f.SyscallConn()
		if err == nil {
			var grabErr error
			if err = conn.Control(func(fd uintptr) { grabErr = unix.IoctlSetInt(int(fd), eviocgrab, 1) }); err == nil {
				err = grabErr
			}
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("keep %s for the code alone: %w", node, err), k.close())
		}
	}
	for _, f := range k.files {
		go k.read(f)
	}
	return k, nil
}

// read hands on the keys of one node until it is closed or gone.
func (k *evdevKeys) read(f *os.File) {
	buf := make([]byte, 64*eventSize)
	for {
		n, err := f.Read(buf)
		if err != nil {
			k.failed <- err
			return
		}
		for b := buf[:n]; len(b) >= eventSize; b = b[eventSize:] {
			kind, code, value := binary.NativeEndian.Uint16(b[16:]), binary.NativeEndian.Uint16(b[18:]), binary.NativeEndian.Uint32(b[20:])
			if kind != evKey || value != keyDown {
				continue
			}
			select {
			case k.events <- code:
			case <-k.closed:
				return
			}
		}
	}
}

func (k *evdevKeys) line(ctx context.Context) (string, error) {
	var typed []byte
	for {
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case err := <-k.failed:
			if errors.Is(err, unix.ENODEV) {
				err = fmt.Errorf("%w: %w", ErrGone, err)
			}
			return "", err
		case code := <-k.events:
			digit, ok := digits[code]
			switch {
			case code == keyEnter || code == keyPadEnter:
				return string(typed), nil
			case code == keyBackspace:
				typed = typed[:max(0, len(typed)-1)]
			case len(typed) == maxLine:
			case ok:
				typed = append(typed, digit)
			default:
				typed = append(typed, '?')
			}
		}
	}
}

func (k *evdevKeys) close() error {
	var err error
	k.once.Do(func() {
		close(k.closed)
		for _, f := range k.files {
			err = errors.Join(err, f.Close()) // which ends the grab
		}
	})
	return err
}

// consoleMutex is held while the consoles take no key.
var consoleMutex sync.Mutex

// Of linux/kd.h.
const (
	kdgkbmode = 0x4B44
	kdskbmode = 0x4B45
	kOff      = 4
)

// hushConsole has the kernel's consoles take no key from any keyboard until restore is called: what a device types
// between the moment it has its driver and the moment it is grabbed goes nowhere. A machine without a console on its
// screen has nothing to hush.
func hushConsole() (restore func() error, err error) {
	consoleMutex.Lock()
	none := func() error { consoleMutex.Unlock(); return nil }
	f, err := os.OpenFile("/dev/tty0", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return none, nil
	case err != nil:
		consoleMutex.Unlock()
		return nil, fmt.Errorf("hush the console: %w", err)
	}
	mode, err := unix.IoctlGetInt(int(f.Fd()), kdgkbmode)
	if err == nil {
		err = unix.IoctlSetInt(int(f.Fd()), kdskbmode, kOff)
	}
	if err != nil {
		consoleMutex.Unlock()
		return nil, errors.Join(fmt.Errorf("hush the console: %w", err), f.Close())
	}
	return func() error {
		defer consoleMutex.Unlock()
		return errors.Join(unix.IoctlSetInt(int(f.Fd()), kdskbmode, mode), f.Close())
	}, nil
}

// typeTime is how long a keyboard waits for its code.
const typeTime = time.Minute

// Typed has a keyboard with a [Challenge] read until the code was typed on it, and lets it in for good then; until then
// nothing that is typed on it reaches anybody else. wrong is told how many tries are left. After a third wrong code, or
// a minute, the session is over, and the error of the type [RefusedError]; one that wraps [ErrGone] says that it was
// pulled out. When ctx is cancelled the session is over, too, and the error is the cause.
func (s *Session) Typed(ctx context.Context, wrong func(left int)) error {
	if s.Challenge == nil {
		return nil
	}
	timed, cancel := context.WithTimeoutCause(ctx, s.gate.typing, errNotTyped)
	defer cancel()
	for {
		line, err := s.keys.line(timed)
		if err != nil {
			switch {
			case s.ended.Load():
				err = fmt.Errorf("wait for the code on usb device %s: %w", s.Attached.Name, ErrEnded)
			case errors.Is(err, errNotTyped):
				err = s.Attached.refuse(CodeWrongCode, "nobody typed the code on it", err)
			}
			return errors.Join(err, s.End())
		}
		left, ok := s.Challenge.try(line)
		switch {
		case ok:
			s.Challenge = nil
			return s.keys.close()
		case left == 0:
			return errors.Join(s.Attached.refuse(CodeWrongCode, "the code wasn't typed on it", ErrWrongCode), s.End())
		}
		wrong(left)
	}
}

var errNotTyped = errors.New("it had a minute")
