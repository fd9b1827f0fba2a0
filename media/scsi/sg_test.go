package scsi

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fakeDevice is a Device whose SG_IO is f.
func fakeDevice(t testing.TB, f func(h *sgHeader) error) *Device {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	d := &Device{Path: "/dev/sr0", file: null, ioctl: func(_ uintptr, h *sgHeader) error { return f(h) }, now: time.Now}
	t.Cleanup(func() { d.Close() })
	return d
}

func (h *sgHeader) bytes() []byte { return unsafe.Slice((*byte)(h.data), h.length) }

func TestHeaderLayout(t *testing.T) {
	// sizeof(struct sg_io_hdr) and offsets of sense, timeout, status, resid and info in C.
	var h sgHeader
	want := []uintptr{88, 32, 40, 64, 72, 80}
	if unsafe.Sizeof(uintptr(0)) == 4 {
		want = []uintptr{64, 24, 28, 44, 52, 60}
	}
	got := []uintptr{unsafe.Sizeof(h), unsafe.Offsetof(h.sense), unsafe.Offsetof(h.timeout), unsafe.Offsetof(h.status), unsafe.Offsetof(h.resid), unsafe.Offsetof(h.info)}
	if !slices.Equal(got, want) {
		t.Errorf("sg_io_hdr lies at %v, want %v", got, want)
	}
}

func TestDo(t *testing.T) {
	in, out := make([]byte, 64), []byte("what is written")
	d := fakeDevice(t, func(h *sgHeader) error {
		if h.interfaceID != 'S' || h.maxSense != MaxSense || h.cdbLen != 10 || h.cdb[0] != 0x28 || h.timeout == 0 {
			t.Errorf("header %+v", h)
		}
		switch h.direction {
		case sgToHost:
			if h.data != unsafe.Pointer(&in[0]) {
				t.Error("data goes through another buffer than the caller's")
			}
			copy(h.bytes(), "what is read")
			h.resid = int32(h.length) - 12
		case sgToDevice:
			if h.data != unsafe.Pointer(&out[0]) || int(h.length) != len(out) {
				t.Error("data comes from another buffer than the caller's")
			}
		case sgNone:
			if h.length != 0 || h.data != nil {
				t.Errorf("%d bytes of data without a data phase", h.length)
			}
		default:
			t.Errorf("direction %d", h.direction)
		}
		return nil
	})
	cdb := []byte{0x28, 9: 0}
	if n, err := d.Do(t.Context(), cdb, Data{In: in}); n != 12 || err != nil || !bytes.HasPrefix(in, []byte("what is read")) {
		t.Errorf("read %d, %v: %q", n, err, in)
	}
	if n, err := d.Do(t.Context(), cdb, Data{Out: out}); n != len(out) || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	if n, err := d.Do(t.Context(), cdb, Data{}); n != 0 || err != nil {
		t.Errorf("without data %d, %v", n, err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := d.Do(t.Context(), cdb, Data{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := d.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Close after Close: %v", err)
	}
}

func TestDoRefuses(t *testing.T) {
	d := fakeDevice(t, func(*sgHeader) error { t.Error("a command was sent"); return nil })
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Do(stopped, make([]byte, 6), Data{}); err != context.Canceled {
		t.Errorf("a context that is done: %v", err)
	}
	for _, length := range []int{0, 5, 7, 11, 13, 17, 32} {
		if _, err := d.Do(t.Context(), make([]byte, length), Data{}); err == nil {
			t.Errorf("a CDB of %d bytes was sent", length)
		}
	}
	if _, err := d.Do(t.Context(), make([]byte, 6), Data{In: make([]byte, 1), Out: make([]byte, 1)}); err == nil {
		t.Error("data both ways was sent")
	}
}

func TestTimeLimit(t *testing.T) {
	var got uint32
	d := fakeDevice(t, func(h *sgHeader) error { got = h.timeout; return nil })
	begin := time.Now()
	d.now = func() time.Time { return begin }
	for _, tt := range []struct {
		limit time.Duration
		want  uint32
	}{
		{time.Hour, 3_600_000}, {30 * time.Second, 30_000}, {time.Hour + time.Microsecond, 3_600_001},
		{math.MaxInt64, math.MaxInt32},
	} {
		ctx, cancel := context.WithDeadline(t.Context(), begin.Add(tt.limit))
		if _, err := d.Do(ctx, make([]byte, 6), Data{}); err != nil || got != tt.want {
			t.Errorf("%v: limit %d ms, want %d (%v)", tt.limit, got, tt.want, err)
		}
		cancel()
	}
	if _, err := d.Do(t.Context(), make([]byte, 6), Data{}); err != nil || got != 200_000 {
		t.Errorf("without a deadline: limit %d ms, want 200000 (%v)", got, err)
	}
	for _, limit := range []time.Duration{-time.Hour, 0, 1} {
		if got := milliseconds(limit); got != 1 {
			t.Errorf("%v: limit %d ms, want 1: 0 is the kernel's own", limit, got)
		}
	}
}

// A cancelled context does not abandon a command, and one command waits for the other.
func TestCancelInMidCommand(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var under sync.Mutex
	d := fakeDevice(t, func(h *sgHeader) error {
		if !under.TryLock() {
			t.Error("two commands at a time")
		}
		defer under.Unlock()
		cancel()
		for range 1000 {
			runtime.Gosched()
		}
		return nil
	})
	if _, err := d.Do(ctx, make([]byte, 6), Data{}); err != nil {
		t.Errorf("cancelled in mid-command: %v", err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { d.Do(t.Context(), make([]byte, 6), Data{In: make([]byte, 8)}) })
	}
	all.Wait()
}

func TestResult(t *testing.T) {
	sense := func(s string) *[MaxSense]byte {
		var b [MaxSense]byte
		copy(b[:], unhex(t, s))
		return &b
	}
	for _, tt := range []struct {
		name string
		h    sgHeader
		n    int
		is   error
		text string
	}{
		{name: "good", h: sgHeader{}, n: 512},
		{name: "residual", h: sgHeader{resid: 500}, n: 12},
		{name: "residual larger than the data", h: sgHeader{resid: 513}, n: 0},
		{name: "negative residual", h: sgHeader{resid: -5}, n: 512},
		{name: "least residual", h: sgHeader{resid: math.MinInt32}, n: 512},
		{name: "driver sense alone", h: sgHeader{driverStatus: 8, senseLen: 18, sense: sense("70 00 00")}, n: 512},
		{name: "driver sense with a warning", h: sgHeader{driverStatus: 8, senseLen: 18, sense: sense("70 00 01 00 00 00 00 0a 00 00 00 00 73 01")}, n: 512, is: CalibrationNearFull},
		{name: "garbage beside good", h: sgHeader{driverStatus: 8, senseLen: 18, sense: sense("ff")}, n: 512},
		{name: "check condition", h: sgHeader{status: 2, driverStatus: 8, senseLen: 18, resid: 512, sense: sense("70 00 03 00 00 00 00 0a 00 00 00 00 0c 00")}, is: WriteError},
		{name: "check condition with data", h: sgHeader{status: 2, senseLen: 18, resid: 12, sense: sense("70 00 03 00 00 00 00 0a 00 00 00 00 11 00")}, n: 500, is: ReadError},
		{name: "check condition in reserved bits", h: sgHeader{status: 0x83, driverStatus: 0x28, senseLen: 8, sense: sense("72 06 28 00")}, n: 512, is: MediumChanged},
		{name: "check condition without sense", h: sgHeader{status: 2}, text: "check condition"},
		{name: "more sense than there can be", h: sgHeader{status: 2, senseLen: 255, sense: sense("70 00 05 00 00 00 00 ff 00 00 00 00 20 00")}, n: 512, is: InvalidOpcode},
		{name: "busy", h: sgHeader{status: 8, resid: 512}, is: StatusBusy},
		{name: "reservation", h: sgHeader{status: 0x18, resid: 512}, is: StatusReservationConflict},
		{name: "no connection", h: sgHeader{hostStatus: 1}, is: ErrGone, text: "host status 01h"},
		{name: "bad target", h: sgHeader{hostStatus: 4}, is: ErrGone},
		{name: "transport failed fast", h: sgHeader{hostStatus: 15}, is: ErrGone},
		{name: "timed out", h: sgHeader{hostStatus: 3}, is: ErrTimeout},
		{name: "driver timed out", h: sgHeader{driverStatus: 6}, is: ErrTimeout},
		{name: "aborted behind the limit", h: sgHeader{hostStatus: 5, timeout: 100, duration: 100}, is: ErrTimeout},
		{name: "aborted before it", h: sgHeader{hostStatus: 5, timeout: 100, duration: 99}, text: "host adapter failed"},
		{name: "reset", h: sgHeader{hostStatus: 8, status: 2, senseLen: 18, sense: sense("70 00 01")}, text: "host status 08h"},
		{name: "driver error", h: sgHeader{driverStatus: 4}, text: "driver status 04h"},
		{name: "suggestion only", h: sgHeader{driverStatus: 0x10}, n: 512},
	} {
		h := tt.h
		h.length = 512
		if h.sense == nil {
			h.sense = new([MaxSense]byte)
		}
		n, err := h.result()
		if n != tt.n || (err != nil) != (tt.is != nil || tt.text != "") || tt.is != nil && !errors.Is(err, tt.is) || err != nil && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %d, %v, want %d, %v %q", tt.name, n, err, tt.n, tt.is, tt.text)
		}
		if te, ok := errors.AsType[*TransportError](err); ok && (te.Host != h.hostStatus || te.Driver != h.driverStatus) {
			t.Errorf("%s: %+v", tt.name, te)
		}
	}
}

func TestIoctlFails(t *testing.T) {
	calls := 0
	var fail error
	d := fakeDevice(t, func(*sgHeader) error { calls++; return os.NewSyscallError("SG_IO", fail) })
	for _, tt := range []struct {
		err, is error
	}{
		{unix.ENODEV, ErrGone}, {unix.ENXIO, ErrGone}, {unix.ESHUTDOWN, ErrGone}, {unix.ETIMEDOUT, ErrTimeout},
		{unix.EPERM, fs.ErrPermission}, {unix.ENOMEM, unix.ENOMEM}, {unix.EINTR, unix.EINTR},
	} {
		calls, fail = 0, tt.err
		n, err := d.Do(t.Context(), make([]byte, 6), Data{In: make([]byte, 9)})
		if _, ok := errors.AsType[*TransportError](err); !ok || n != 0 || !errors.Is(err, tt.is) || !errors.Is(err, tt.err) {
			t.Errorf("%v: %d, %v", tt.err, n, err)
		}
		if calls != 1 {
			t.Errorf("%v: the command was sent %d times", tt.err, calls)
		}
	}
}

func FuzzResult(f *testing.F) {
	f.Add(uint8(2), uint8(18), uint16(0), uint16(8), int32(0), uint32(36), unhex(f, "70 00 02 00 00 00 00 0a 00 00 00 00 04 01"))
	f.Add(uint8(2), uint8(255), uint16(0), uint16(0), int32(math.MinInt32), uint32(0), unhex(f, "73 03 0c 00 00 00 00 f4 00 0a 80"))
	f.Add(uint8(8), uint8(0), uint16(3), uint16(6), int32(math.MaxInt32), uint32(math.MaxInt32), []byte{})
	f.Add(uint8(0), uint8(3), uint16(0), uint16(0x18), int32(-1), uint32(1), []byte{0x70, 0, 1})
	f.Fuzz(func(t *testing.T, status, senseLen uint8, host, driver uint16, resid int32, length uint32, sense []byte) {
		h := sgHeader{status: status, senseLen: senseLen, hostStatus: host, driverStatus: driver, resid: resid, length: length & math.MaxInt32, sense: new([MaxSense]byte)}
		copy(h.sense[:], sense)
		n, err := h.result()
		if n < 0 || n > int(h.length) {
			t.Fatalf("%d bytes of %d", n, h.length)
		}
		_, lost := errors.AsType[*TransportError](err)
		if lost && n != 0 {
			t.Fatalf("%d bytes of an answer that didn't come", n)
		}
		if host != 0 && !lost {
			t.Fatalf("host status %02xh: %v", host, err)
		}
		if err == nil && status&statusMask != 0 {
			t.Fatalf("status %02xh is no error", status)
		}
		if err != nil && err.Error() == "" {
			t.Fatal("an error without words")
		}
	})
}

// machine is a host of files: sysfs, the nodes of /dev, and /proc.
type machine struct {
	host
	t      *testing.T
	nodes  map[string]node
	errs   map[string]error // of opening
	opened []string
	answer func(h *sgHeader) error
}

func newMachine(t *testing.T) *machine {
	dir := t.TempDir()
	m := &machine{t: t, nodes: map[string]node{}, errs: map[string]error{}}
	m.sys, m.dev, m.proc = filepath.Join(dir, "sys"), filepath.Join(dir, "dev"), filepath.Join(dir, "proc")
	m.stat = func(path string) (node, error) {
		to, err := filepath.EvalSymlinks(path)
		if err != nil {
			to = path
		}
		if n, ok := m.nodes[to]; ok {
			return n, nil
		}
		return statNode(path)
	}
	m.open = func(path string, flags int) (*os.File, error) {
		if flags&unix.O_EXCL == 0 || flags&unix.O_NONBLOCK == 0 || flags&unix.O_CLOEXEC == 0 {
			t.Errorf("open %s with flags %#x", path, flags)
		}
		m.opened = append(m.opened, filepath.Base(path))
		if err := m.errs[path]; err != nil && (err != unix.EROFS || flags&unix.O_RDWR != 0) {
			return nil, err
		}
		return os.Open(os.DevNull)
	}
	m.answer = func(h *sgHeader) error {
		copy(h.bytes(), "\x05\x80\x00\x00\x1f\x00\x00\x00VENDOR  MODEL           1.00")
		return nil
	}
	m.ioctl = func(_ uintptr, h *sgHeader) error {
		if h.cdb[0] != 0x12 {
			t.Errorf("command %02xh while opening", h.cdb[0])
		}
		return m.answer(h)
	}
	return m
}

func (m *machine) file(name, content string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o666); err != nil {
		m.t.Fatal(err)
	}
}

// node adds a node, and its device's type to sysfs.
func (m *machine) node(name string, mode fs.FileMode, major, minor uint32, kind string) string {
	path := filepath.Join(m.dev, name)
	m.file(path, "")
	m.nodes[path] = node{mode: fs.ModeDevice | mode, rdev: unix.Mkdev(major, minor), gid: 0}
	if kind != "" {
		m.file(filepath.Join(m.sysfs(m.nodes[path]), "device", "type"), kind+"\n")
	}
	return path
}

// drive adds /dev/sr0 and /dev/sg3 as one drive.
func (m *machine) drive() (sr, sg string) {
	sr, sg = m.node("sr0", 0, 11, 0, "5"), m.node("sg3", fs.ModeCharDevice, 21, 3, "5")
	m.file(filepath.Join(m.sysfs(m.nodes[sr]), "device/scsi_generic/sg3/dev"), "21:3\n")
	m.file(filepath.Join(m.sysfs(m.nodes[sg]), "device/block/sr0/dev"), "11:0\n")
	return sr, sg
}

func TestOpen(t *testing.T) {
	m := newMachine(t)
	sr, sg := m.drive()
	link := filepath.Join(m.dev, "cdrom")
	if err := os.Symlink("sr0", link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, through string }{{sr, sr}, {sg, sr}, {link, link}} {
		m.opened = nil
		d, err := m.openDrive(tt.name)
		if err != nil {
			t.Fatal(err)
		}
		if d.Path != tt.through || len(m.opened) != 2 || d.other == nil {
			t.Errorf("%s: commands go through %s, opened %v", tt.name, d.Path, m.opened)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	// One of the two is enough, unless the other one is in use.
	m.errs[sg] = unix.EACCES
	d, err := m.openDrive(sr)
	if err != nil || d.other != nil {
		t.Fatalf("%+v, %v", d, err)
	}
	d.Close()
	m.errs[sg] = unix.EBUSY
	if _, err := m.openDrive(sr); !errors.Is(err, ErrBusy) {
		t.Errorf("the generic node is in use: %v", err)
	}
	delete(m.errs, sg)
	m.errs[sr] = unix.EBUSY
	if _, err := m.openDrive(sg); !errors.Is(err, ErrBusy) {
		t.Errorf("the block node is in use: %v", err)
	}
	m.errs[sr] = unix.EROFS
	if d, err := m.openDrive(sr); err != nil {
		t.Errorf("a drive that only reads: %v", err)
	} else {
		d.Close()
	}
	// A name in /dev that belongs to another device is not taken.
	delete(m.errs, sr)
	m.file(filepath.Join(m.sysfs(m.nodes[sr]), "device/scsi_generic/sg3/dev"), "21:4\n")
	if d, err := m.openDrive(sr); err != nil || d.other != nil {
		t.Errorf("took %s for the drive's: %v", sg, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	m := newMachine(t)
	file, dir := filepath.Join(m.dev, "file"), filepath.Join(m.dev, "dir")
	m.file(file, "")
	m.file(filepath.Join(dir, "x"), "")
	part := m.node("sda1", 0, 8, 1, "")
	m.file(filepath.Join(m.sysfs(m.nodes[part]), "partition"), "1\n")
	for _, tt := range []struct{ path, want string }{
		{file, "a regular file, not an optical drive"},
		{dir, "a directory, not an optical drive"},
		{m.node("sda", 0, 8, 0, "0"), "a hard disk (peripheral type 0), not an optical drive"},
		{part, "a partition of a disk, not an optical drive"},
		{m.node("sg0", fs.ModeCharDevice, 21, 0, "0"), "a hard disk (peripheral type 0), not an optical drive"},
		{m.node("st0", fs.ModeCharDevice, 9, 0, "1"), "a tape drive (peripheral type 1), not an optical drive"},
		{m.node("loop0", 0, 7, 0, ""), "another block device, not an optical drive"},
		{m.node("watchdog", fs.ModeCharDevice, 10, 130, ""), "another character device, not an optical drive"},
		{m.node("pipe", fs.ModeNamedPipe, 0, 0, ""), "another"},
	} {
		_, err := m.openDrive(tt.path)
		if _, ok := errors.AsType[*NotOpticalError](err); !ok || !strings.Contains(err.Error(), tt.path+": it is "+tt.want) || !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
	if len(m.opened) != 0 {
		t.Errorf("opened %v", m.opened)
	}
	if _, err := m.openDrive(filepath.Join(m.dev, "sr9")); !errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), "sr9") != 1 {
		t.Errorf("a missing device: %v", err)
	}
	// Where sysfs tells nothing, the device does.
	sg := m.node("sg7", fs.ModeCharDevice, 21, 7, "")
	for _, tt := range []struct {
		answer func(h *sgHeader) error
		want   string
	}{
		{func(h *sgHeader) error { return nil }, "it is a hard disk (peripheral type 0)"},
		{func(h *sgHeader) error { h.bytes()[0] = 0x7F; return nil }, "it is no device (peripheral qualifier 3)"},
		{func(h *sgHeader) error { return unix.ENOTTY }, "it is no SCSI device"},
		{func(h *sgHeader) error { h.resid = 32; h.bytes()[0] = 5; return nil }, "INQUIRY: reply ends at byte 4"},
		{func(h *sgHeader) error { h.hostStatus = 1; return nil }, "device is gone from the bus"},
	} {
		m.answer = tt.answer
		if _, err := m.openDrive(sg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
}

func TestOpenPermission(t *testing.T) {
	m := newMachine(t)
	sr, _ := m.drive()
	m.errs[sr] = unix.EACCES
	for gid, want := range map[uint32]string{0: "only root may use it", 1: "that takes root, or a member of group daemon", 4_000_000_000: "group 4000000000"} {
		n := m.nodes[sr]
		n.gid = gid
		m.nodes[sr] = n
		if _, err := m.openDrive(sr); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	m.errs[sr] = unix.ENXIO
	if _, err := m.openDrive(sr); !errors.Is(err, ErrGone) {
		t.Errorf("a node without a device: %v", err)
	}
}

func TestBusy(t *testing.T) {
	m := newMachine(t)
	sr, _ := m.drive()
	m.errs[sr] = unix.EBUSY
	busy := func(want string) {
		t.Helper()
		_, err := m.openDrive(sr)
		if _, ok := errors.AsType[*BusyError](err); !ok || !errors.Is(err, ErrBusy) || err.Error() != "open "+sr+": it is "+want {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	busy("in use by another program")
	m.file(filepath.Join(m.proc, "77/comm"), "growisofs\n")
	if err := os.MkdirAll(filepath.Join(m.proc, "77/fd"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(sr, filepath.Join(m.proc, "77/fd/3")); err != nil {
		t.Fatal(err)
	}
	busy("in use by growisofs (process 77)")
	m.file(filepath.Join(m.sysfs(m.nodes[sr]), "holders/dm-0/x"), "")
	busy("held by the block device dm-0")
	m.file(filepath.Join(m.proc, "self/mountinfo"), "21 1 8:1 / / rw - ext4 /dev/sda1 rw\nshort\n36 21 11:0 / /mnt/cd ro,nosuid - iso9660 /dev/sr0 ro\n")
	busy("mounted at /mnt/cd")
}

// The real call, on something that isn't a SCSI device.
func TestSGIoctl(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := sgIoctl(null.Fd(), &sgHeader{}); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("SG_IO on %s: %v", os.DevNull, err)
	}
	var set unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &set); err != nil || set.Val[0]&(1<<(unix.SIGURG-1)) != 0 {
		t.Errorf("signals stay blocked: %v", err)
	}
	if _, err := Open(os.DevNull); err == nil || err.Error() != "open /dev/null: it is another character device, not an optical drive" {
		t.Error(err)
	}
}
