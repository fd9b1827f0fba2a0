package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Uevent is what the kernel says when a device comes, goes or changes (lib/kobject_uevent.c). It is a reason to look at
// sysfs again and nothing more: the texts are partly the device's own, and what they say may be over by now.
type Uevent struct {
	Action    string // "add", "remove", "change", "bind" ...
	Path      string // of the device below /sys, with a slash before it: "/devices/pci0000:00/..."
	Subsystem string // "usb", "block" ...
	DevType   string // "usb_device", "usb_interface", "disk" ...; "" for none
	DevName   string // of its node below /dev; "" for none
	Seq       uint64 // counts all of the kernel's uevents
}

// ErrUeventsLost is wrapped by an error that says that there were more uevents than could be kept, or one that isn't
// understood. Whoever gets it looks at everything again; those after it come as ever.
var ErrUeventsLost = errors.New("uevents were lost")

const (
	// The kernel's own: UEVENT_NUM_ENVP, and UEVENT_BUFFER_SIZE behind a head with a path of less than PATH_MAX.
	maxUeventVars = 64
	maxUevent     = 2048 + unix.PathMax + 64

	// ueventGroup is the kernel's own multicast group; udevd sends to the second.
	ueventGroup = 1

	// ueventBuffer, in bytes, holds what comes while somebody is busy: eight sticks make some 200 uevents.
	ueventBuffer = 1 << 20
)

// ParseUevent parses a message of the kernel: ACTION@PATH and then KEY=VALUE, each with a NUL behind it. It takes no
// message without ACTION, DEVPATH, SUBSYSTEM and SEQNUM, none that says one of them twice, and none whose head says
// something else. Errors name the offset in bytes.
func ParseUevent(message []byte) (Uevent, error) {
	var u Uevent
	if len(message) > maxUevent {
		return u, fmt.Errorf("parse uevent: %d bytes are more than the kernel sends, %d", len(message), maxUevent)
	}
	head, rest, ended := bytes.Cut(message, []byte{0})
	action, path, parted := strings.Cut(string(head), "@")
	if !ended || !parted || action == "" || !strings.HasPrefix(path, "/") {
		return u, fmt.Errorf("parse uevent: byte 0: not an action, an @ and a path")
	}
	seen, count := make(map[string]string), 0
	for offset := len(head) + 1; len(rest) > 0; count++ {
		pair, after, ended := bytes.Cut(rest, []byte{0})
		key, value, parted := strings.Cut(string(pair), "=")
		_, twice := seen[key]
		switch {
		case !ended:
			return u, fmt.Errorf("parse uevent: byte %d: the message ends within a value", offset)
		case !parted || key == "":
			return u, fmt.Errorf("parse uevent: byte %d: not a key, = and a value", offset)
		case twice:
			return u, fmt.Errorf("parse uevent: byte %d: a second %q", offset, key)
		case count == maxUeventVars:
			return u, fmt.Errorf("parse uevent: byte %d: more than %d values", offset, maxUeventVars)
		}
		seen[key] = value
		offset += len(pair) + 1
		rest = after
	}
	for _, key := range []string{"ACTION", "DEVPATH", "SUBSYSTEM", "SEQNUM"} {
		if seen[key] == "" {
			return u, fmt.Errorf("parse uevent: byte %d: it ends without %s", len(message), key)
		}
	}
	if seen["ACTION"] != action || seen["DEVPATH"] != path {
		return u, fmt.Errorf("parse uevent: byte 0: the head says %q, the values %q", head, seen["ACTION"]+"@"+seen["DEVPATH"])
	}
	seq, err := strconv.ParseUint(seen["SEQNUM"], 10, 64)
	if err != nil {
		return u, fmt.Errorf("parse uevent: SEQNUM: %w", err)
	}
	return Uevent{Action: action, Path: path, Subsystem: seen["SUBSYSTEM"], DevType: seen["DEVTYPE"], DevName: seen["DEVNAME"], Seq: seq}, nil
}

// Uevents receives the kernel's uevents from when it was made by [ListenUevents]. It is for one goroutine.
type Uevents struct {
	conn   *netlink.Conn
	raw    syscall.RawConn
	buffer []byte
}

// ListenUevents begins to listen. It takes no rights. Close it when done.
func ListenUevents() (*Uevents, error) {
	conn, err := netlink.Dial(unix.NETLINK_KOBJECT_UEVENT, &netlink.Config{Groups: ueventGroup})
	if err != nil {
		return nil, fmt.Errorf("listen for uevents: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		err = conn.SetReadBuffer(ueventBuffer)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for uevents: %w", err), conn.Close())
	}
	return &Uevents{conn: conn, raw: raw, buffer: make([]byte, maxUevent)}, nil
}

// Close ends listening.
func (u *Uevents) Close() error { return u.conn.Close() }

// Next waits for the next uevent. What anybody but the kernel sends is left out. An error that wraps [ErrUeventsLost]
// isn't the end; any other is, and the cause of a cancelled ctx comes as it is.
func (u *Uevents) Next(ctx context.Context) (Uevent, error) {
	if err := u.conn.SetReadDeadline(time.Time{}); err != nil {
		return Uevent{}, fmt.Errorf("receive uevent: %w", err)
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		u.conn.SetReadDeadline(time.Unix(1, 0)) // who closed it is told by the read
		close(woken)
	})
	message, err := u.receive()
	if !stop() {
		<-woken // or it would end the next call's wait
		return Uevent{}, context.Cause(ctx)
	}
	switch {
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EMSGSIZE):
		return Uevent{}, fmt.Errorf("receive uevent: %w: %w", ErrUeventsLost, err)
	case err != nil:
		return Uevent{}, fmt.Errorf("receive uevent: %w", err)
	}
	event, err := ParseUevent(message)
	if err != nil {
		return Uevent{}, fmt.Errorf("%w: %w", ErrUeventsLost, err)
	}
	return event, nil
}

// receive returns the next message of the kernel, which is overwritten by the one after it.
func (u *Uevents) receive() ([]byte, error) {
	for {
		var (
			n, flags int
			from     unix.Sockaddr
			err      error
		)
		// A uevent has no netlink header, which the connection's own way of receiving would look for.
		waited := u.raw.Read(func(fd uintptr) bool {
			n, _, flags, from, err = unix.Recvmsg(int(fd), u.buffer, nil, unix.MSG_DONTWAIT)
			return err != unix.EAGAIN && err != unix.EINTR
		})
		switch {
		case waited != nil:
			return nil, waited
		case err != nil:
			return nil, err
		case !fromKernel(from):
			continue
		case flags&unix.MSG_TRUNC != 0:
			return nil, unix.EMSGSIZE
		}
		return u.buffer[:n], nil
	}
}

// fromKernel says whether a message is one that the kernel sent to everybody: no process can have the port 0.
func fromKernel(from unix.Sockaddr) bool {
	address, ok := from.(*unix.SockaddrNetlink)
	return ok && address.Pid == 0 && address.Groups == ueventGroup
}

// Wake makes wake ready each time that a uevent comes which want takes, or some were lost, until ctx is cancelled, whose
// cause it returns, or listening fails. It doesn't wait for whoever receives: a channel with room for one is what it
// wants, in which many uevents become one reason to look.
func (u *Uevents) Wake(ctx context.Context, wake chan<- struct{}, want func(Uevent) bool) error {
	for {
		event, err := u.Next(ctx)
		switch lost := errors.Is(err, ErrUeventsLost); {
		case err != nil && !lost:
			return err
		case lost || want(event):
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}
}
