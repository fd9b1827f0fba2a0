package media

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ueventText is a message as the kernel sends it, of these lines.
func ueventText(lines ...string) []byte { return []byte(strings.Join(lines, "\x00") + "\x00") }

var stickAdded = ueventText("add@/devices/pci0000:00/0000:00:14.0/usb1/1-1", "ACTION=add", "DEVPATH=/devices/pci0000:00/0000:00:14.0/usb1/1-1",
	"SUBSYSTEM=usb", "MAJOR=189", "MINOR=4", "DEVNAME=bus/usb/001/005", "DEVTYPE=usb_device", "PRODUCT=46f4/1/0", "TYPE=0/0/0", "BUSNUM=001", "DEVNUM=005", "SEQNUM=1234")

func TestParseUevent(t *testing.T) {
	got, err := ParseUevent(stickAdded)
	want := Uevent{Action: "add", Path: "/devices/pci0000:00/0000:00:14.0/usb1/1-1", Subsystem: "usb", DevType: "usb_device", DevName: "bus/usb/001/005", Seq: 1234}
	if err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	many := []string{"add@/x", "ACTION=add", "DEVPATH=/x", "SUBSYSTEM=usb", "SEQNUM=1"}
	for i := len(many); i <= maxUeventVars; i++ {
		many = append(many, fmt.Sprintf("K%d=", i))
	}
	if _, err := ParseUevent(ueventText(many...)); err != nil {
		t.Errorf("with as many values as there may be: %v", err)
	}
	for _, test := range []struct {
		message []byte
		want    string
	}{
		{nil, "byte 0: not an action, an @ and a path"},
		{[]byte("add@/x"), "byte 0: not an action, an @ and a path"},
		{ueventText("libudev", "add@/x"), "byte 0: not an action, an @ and a path"},
		{ueventText("@/x"), "byte 0: not an action, an @ and a path"},
		{ueventText("add@x"), "byte 0: not an action, an @ and a path"},
		{ueventText("add@/x"), "byte 7: it ends without ACTION"},
		{ueventText("add@/x", "ACTION=add", "DEVPATH=/x", "SEQNUM=1"), "byte 38: it ends without SUBSYSTEM"},
		{ueventText("add@/x", "ACTION=add", "DEVPATH=/x", "SUBSYSTEM=usb"), "byte 43: it ends without SEQNUM"},
		{ueventText("add@/x", "ACTION=add", "DEVPATH=/x", "SUBSYSTEM=usb", "SEQNUM=-1"), `SEQNUM: strconv.ParseUint: parsing "-1"`},
		{ueventText("add@/x", "ACTION=remove", "DEVPATH=/x", "SUBSYSTEM=usb", "SEQNUM=1"), `the head says "add@/x", the values "remove@/x"`},
		{ueventText("add@/x", "ACTION=add", "DEVPATH=/y", "SUBSYSTEM=usb", "SEQNUM=1"), `the head says "add@/x", the values "add@/y"`},
		{ueventText("add@/x", "ACTION=add", "ACTION=add"), `byte 18: a second "ACTION"`},
		{ueventText("add@/x", "ACTION"), "byte 7: not a key, = and a value"},
		{ueventText("add@/x", "=add"), "byte 7: not a key, = and a value"},
		{[]byte("add@/x\x00ACTION=add"), "byte 7: the message ends within a value"},
		{ueventText(append(many, "LAST=")...), "more than 64 values"},
		{ueventText("add@/x", "ACTION=add", "X="+strings.Repeat("x", maxUevent)), "more than the kernel sends"},
	} {
		if got, err := ParseUevent(test.message); err == nil || !strings.Contains(err.Error(), "parse uevent: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.80q: %+v, %v; want %q", test.message, got, err, test.want)
		}
	}
}

func TestFromKernel(t *testing.T) {
	for _, test := range []struct {
		from unix.Sockaddr
		want bool
	}{
		{&unix.SockaddrNetlink{Groups: 1}, true},
		{&unix.SockaddrNetlink{Groups: 1, Pid: 77}, false}, // a process, to everybody
		{&unix.SockaddrNetlink{Groups: 2}, false},          // udevd's group
		{&unix.SockaddrNetlink{}, false},                   // to this socket alone
		{&unix.SockaddrUnix{}, false},
		{nil, false},
	} {
		if got := fromKernel(test.from); got != test.want {
			t.Errorf("%+v: %t", test.from, got)
		}
	}
}

// inNamespace runs the calling test once more, in a process whose network is its own and in which it is root, and
// says whether this is that process. The kernel tells such a process of its own network devices.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const env = "SALLYPORT_MEDIA_NAMESPACE"
	if os.Getenv(env) != "" {
		return true
	}
	c := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v")
	c.Env = append(os.Environ(), env+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in a namespace of its own: %v\n%s", err, out)
	}
	return false
}

// renameLoopback has the kernel send a uevent.
func renameLoopback(t *testing.T, name string) {
	t.Helper()
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	link := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(link[4:], 1) // the loopback's index
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.IFLA_IFNAME, Data: []byte(name + "\x00")}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_NEWLINK, Flags: netlink.Request | netlink.Acknowledge}, Data: append(link, attributes...),
	}); err != nil {
		t.Fatalf("rename the loopback: %v", err)
	}
}

// forge sends what looks like a uevent to one socket.
func forge(t *testing.T, to *Uevents, message []byte) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, address := range []*unix.SockaddrNetlink{{Family: unix.AF_NETLINK, Pid: to.conn.PID()}, {Family: unix.AF_NETLINK, Groups: ueventGroup}} {
		if err := unix.Sendto(fd, message, 0, address); err != nil && !(address.Groups != 0 && errors.Is(err, unix.ECONNREFUSED)) {
			t.Fatalf("forge a uevent: %v", err)
		}
	}
}

// TestUevents listens to the real kernel, beside somebody who forges.
func TestUevents(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	u, err := ListenUevents()
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	forge(t, u, stickAdded)
	renameLoopback(t, "first")
	first, err := u.Next(ctx)
	if err != nil || first.Action != "move" || first.Path != "/devices/virtual/net/first" || first.Subsystem != "net" || first.Seq == 0 {
		t.Fatalf("%+v, %v; want the loopback's move and nothing before it", first, err)
	}

	// A call that was cancelled leaves nothing behind for the next one.
	stopped := errors.New("stopped")
	short, stop := context.WithCancelCause(ctx)
	ended := make(chan error)
	go func() {
		_, err := u.Next(short)
		ended <- err
	}()
	stop(stopped)
	if err := <-ended; err != stopped {
		t.Errorf("%v, want the cause", err)
	}
	renameLoopback(t, "second")
	if second, err := u.Next(ctx); err != nil || second.Path != "/devices/virtual/net/second" || second.Seq <= first.Seq {
		t.Errorf("%+v, %v", second, err)
	}

	// Too many for the buffer: it says so, and goes on.
	if err := u.conn.SetReadBuffer(1); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		renameLoopback(t, fmt.Sprintf("many%d", i))
	}
	for {
		if _, err := u.Next(ctx); errors.Is(err, ErrUeventsLost) {
			break
		} else if err != nil {
			t.Fatalf("%v, want %v", err, ErrUeventsLost)
		}
	}
}

func TestWake(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	u, err := ListenUevents()
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	wake, stopped := make(chan struct{}, 1), errors.New("stopped")
	ctx, stop := context.WithCancelCause(t.Context())
	ended, asked := make(chan error), make(chan string, 100)
	go func() {
		ended <- u.Wake(ctx, wake, func(u Uevent) bool { asked <- u.Path; return strings.HasSuffix(u.Path, "wanted") })
	}()
	for _, name := range []string{"one", "two"} { // when it asks about two, it is done with one
		renameLoopback(t, name)
		if path := <-asked; path != "/devices/virtual/net/"+name {
			t.Errorf("asked about %s", path)
		}
	}
	select {
	case <-wake:
		t.Error("woken by what isn't wanted")
	default:
	}
	renameLoopback(t, "wanted")
	<-wake // or the test's time runs out
	stop(stopped)
	if err := <-ended; err != stopped {
		t.Errorf("%v, want the cause", err)
	}
}

func FuzzUevent(f *testing.F) {
	f.Add(stickAdded)
	f.Add(ueventText("move@/devices/virtual/net/eth0", "ACTION=move", "DEVPATH=/devices/virtual/net/eth0", "SUBSYSTEM=net", "SEQNUM=18446744073709551615"))
	f.Fuzz(func(t *testing.T, message []byte) {
		u, err := ParseUevent(message)
		if err != nil {
			return
		}
		if !strings.HasPrefix(string(message), u.Action+"@"+u.Path+"\x00") || u.Action == "" || u.Path == "" || u.Subsystem == "" {
			t.Errorf("%+v of %q", u, message)
		}
		if _, err := ParseUevent(message[:len(message)-1]); err == nil {
			t.Error("taken without its last byte, too")
		}
	})
}
