package media

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeMapper answers device-mapper calls as Linux 6.1 does, as far as they are used here.
type fakeMapper struct {
	t       *testing.T
	devices map[string]*fakeDevice
	targets []string
	next    uint32
	calls   []string
	// failAt makes the call of that number, from 1, fail with err and do nothing.
	failAt int
	err    error
	// keeps lists calls that succeed and do nothing.
	keeps string
}

type fakeDevice struct {
	uuid             string
	dev              uint64
	inactive, active *fakeTable
	opened           int32
	deferred         bool
}

type fakeTable struct {
	kind, params string
	sectors      uint64
	readOnly     bool
}

var callNames = map[uint]string{
	unix.DM_DEV_CREATE: "create", unix.DM_TABLE_LOAD: "load", unix.DM_DEV_SUSPEND: "resume", unix.DM_DEV_STATUS: "status",
	unix.DM_DEV_REMOVE: "remove", unix.DM_TABLE_STATUS: "table", unix.DM_LIST_DEVICES: "devices", unix.DM_LIST_VERSIONS: "versions",
	unix.DM_GET_TARGET_VERSION: "target",
}

func (f *fakeMapper) mapper() mapper { return mapper{ioctl: f.ioctl} }

func (f *fakeMapper) ioctl(request uint, buf []byte) error {
	f.t.Helper()
	if major, size := native.Uint32(buf), native.Uint32(buf[12:]); major != 4 || int(size) != len(buf) || native.Uint32(buf[16:]) != 312 {
		f.t.Errorf("a header with version %d, size %d, data at %d", major, size, native.Uint32(buf[16:]))
		return unix.EINVAL
	}
	name, flags := cString(buf[48:176]), native.Uint32(buf[28:])
	what := callNames[request]
	if flags&unix.DM_DEFERRED_REMOVE != 0 {
		what += " when closed"
	}
	f.calls = append(f.calls, what)
	native.PutUint32(buf[12:], 305) // what a call without a payload leaves
	switch {
	case len(f.calls) == f.failAt:
		return f.err
	case what == f.keeps:
		return nil
	}
	d := f.devices[name]
	switch what {
	case "devices", "versions":
		return f.list(what, buf)
	case "target":
		if !slices.Contains(f.targets, name) {
			return unix.EINVAL
		}
		return nil
	case "create":
		if d != nil {
			return unix.EBUSY
		}
		d = &fakeDevice{uuid: cString(buf[176:305]), dev: unix.Mkdev(253, f.next)}
		f.next++
		f.devices[name] = d
	}
	if d == nil {
		return unix.ENXIO
	}
	switch what {
	case "load":
		spec := buf[312:]
		d.inactive = &fakeTable{cString(spec[24:40]), cString(spec[40:]), native.Uint64(spec[8:]), flags&unix.DM_READONLY_FLAG != 0}
	case "resume":
		if d.inactive != nil {
			d.active, d.inactive = d.inactive, nil
		}
	case "remove":
		if d.opened > 0 {
			return unix.EBUSY
		}
		delete(f.devices, name)
	case "remove when closed":
		d.deferred = true
		f.close(name, 0)
	case "table":
		f.table(d, buf)
	}
	d.describe(buf)
	return nil
}

func (d *fakeDevice) describe(buf []byte) {
	flags := uint32(0)
	if d.active != nil {
		flags |= 1 << 5
		if d.active.readOnly {
			flags |= 1
		}
	}
	copy(buf[176:305], d.uuid)
	native.PutUint64(buf[40:], d.dev)
	native.PutUint32(buf[28:], flags)
	native.PutUint32(buf[24:], uint32(d.opened))
}

func (f *fakeMapper) table(d *fakeDevice, buf []byte) {
	if d.active == nil {
		return
	}
	n := copy(buf[312+40:], "V\x00")
	native.PutUint64(buf[312+8:], d.active.sectors)
	copy(buf[312+24:], d.active.kind)
	native.PutUint32(buf[20:], 1)
	native.PutUint32(buf[12:], uint32(312+40+n))
}

// list fills in the next fields as the kernel does: from element to element, each aligned to 8 bytes.
func (f *fakeMapper) list(what string, buf []byte) error {
	names, next, head := f.targets, 0, 16
	if what == "devices" {
		names, next, head = nil, 8, 12
		for name := range f.devices {
			names = append(names, name)
		}
		slices.Sort(names)
	}
	at := 312
	for i, name := range names {
		size := (head + len(name) + 1 + 7) / 8 * 8
		if at+size > len(buf) {
			native.PutUint32(buf[28:], unix.DM_BUFFER_FULL_FLAG)
			return nil
		}
		if what == "devices" {
			native.PutUint64(buf[at:], f.devices[name].dev)
		}
		if i < len(names)-1 {
			native.PutUint32(buf[at+next:], uint32(size))
		}
		copy(buf[at+head:], name)
		at += size
	}
	native.PutUint32(buf[12:], uint32(at))
	return nil
}

// open opens a device's node, which here is a file.
func (f *fakeMapper) open(dev uint64) (*os.File, error) {
	for _, d := range f.devices {
		if d.dev == dev && (d.active != nil || d.inactive != nil) {
			d.opened++
			return os.Create(filepath.Join(f.t.TempDir(), "node"))
		}
	}
	return nil, unix.ENXIO
}

// close is what the kernel does when by users of a device close it.
func (f *fakeMapper) close(name string, by int32) {
	d := f.devices[name]
	if d.opened -= by; d.opened == 0 && d.deferred {
		delete(f.devices, name)
	}
}

func newFake(t *testing.T) *fakeMapper {
	return &fakeMapper{t: t, devices: map[string]*fakeDevice{}, targets: []string{"error", "linear", "verity"}}
}

var testVolume = Verity{DataBlocks: 30, Tree: 43, Root: [32]byte{0xe8, 31: 0xa6}, Salt: [32]byte{0xbe, 31: 0xfc}}

const testParams = "1 11:0 11:0 2048 2048 30 43 sha256 e8000000000000000000000000000000000000000000000000000000000000a6 be000000000000000000000000000000000000000000000000000000000000fc"

// TestGolden holds the bytes of the calls against what C's struct dm_ioctl and struct dm_target_spec have on a
// little-endian machine, written down by hand.
func TestGolden(t *testing.T) {
	if native.Uint16([]byte{1, 0}) != 1 {
		t.Skip("NOT RUN: the golden bytes are of little-endian machines")
	}
	name := "sallyport-00112233445566778899aabbccddeeff-11-0"
	uuid := "CRYPT-VERITY-00112233445566778899aabbccddeeff-" + name
	zeros := func(n int) string { return strings.Repeat("00", n) }
	text := func(s string, size int) string { return hex.EncodeToString([]byte(s)) + zeros(size-len(s)) }
	header := func(size, targets, flags uint32, dev uint64, name, uuid string) string {
		le := func(v uint32) string { return fmt.Sprintf("%02x%02x%02x%02x", v&255, v>>8&255, v>>16&255, v>>24) }
		return le(4) + le(0) + le(0) + le(size) + le(312) + le(targets) + le(0) + le(flags) + le(0) + le(0) +
			le(uint32(dev)) + le(uint32(dev>>32)) + text(name, 128) + text(uuid, 129) + zeros(7)
	}
	load := "0000000000000000" + "7800000000000000" + "00000000" + "d0000000" + text("verity", 16) + text(testParams, 168)
	for _, test := range []struct {
		name    string
		request uint
		want    string
		call    func(m mapper) error
	}{
		{"create", 0xc138fd03, header(16384, 0, 0, 0, name, uuid), func(m mapper) error { _, err := m.create(name, uuid); return err }},
		{"load", 0xc138fd09, header(16384, 1, 1, 0, name, "") + load, func(m mapper) error { return m.load(name, "verity", testParams, testVolume.sectors()) }},
		{"resume", 0xc138fd06, header(16384, 0, 0, 0, name, ""), func(m mapper) error { _, err := m.resume(name); return err }},
		{"status", 0xc138fd07, header(16384, 0, 0, 0, name, ""), func(m mapper) error { _, err := m.status(name); return err }},
		{"status by number", 0xc138fd07, header(16384, 0, 0, 0x100fd23, "", ""), func(m mapper) error { _, err := m.statusOf(unix.Mkdev(253, 0x1023)); return err }},
		{"ask for a target", 0xc138fd11, header(16384, 0, 0, 0, "verity", ""), func(m mapper) error { return m.askTarget("verity") }},
		{"remove", 0xc138fd04, header(16384, 0, 0, 0, name, ""), func(m mapper) error { return m.remove(name) }},
		{"remove when closed", 0xc138fd04, header(16384, 0, 0x20000, 0, name, ""), func(m mapper) error { return m.removeWhenClosed(name) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			called := false
			m := mapper{ioctl: func(request uint, buf []byte) error {
				called = true
				got := hex.EncodeToString(buf)
				if want := test.want + zeros(len(buf)-len(test.want)/2); request != test.request || got != want {
					t.Errorf("request %#x with\n%s\nwant %#x with\n%s", request, strings.TrimRight(got, "0"), test.request, strings.TrimRight(want, "0"))
				}
				return nil
			}}
			if err := test.call(m); err != nil || !called {
				t.Errorf("called %v, %v", called, err)
			}
		})
	}
}

// TestParams: the table line names no optional parameter, and so none of parity and none that lets the kernel believe a
// block twice or pass a bad one on.
func TestParams(t *testing.T) {
	if got := testVolume.params("11:0"); got != testParams {
		t.Errorf("got  %s\nwant %s", got, testParams)
	}
}

func TestMakeMapping(t *testing.T) {
	fake := newFake(t)
	name := mappingName([32]byte{1, 2, 15: 16, 16: 17}, unix.Mkdev(11, 0))
	if want := "sallyport-01020000000000000000000000000010-11-0"; name != want {
		t.Fatalf("the mapping is called %s, want %s", name, want)
	}
	d, err := makeMapping(fake.mapper(), name, unix.Mkdev(11, 0), testVolume, fake.open)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"create", "load", "remove when closed", "resume", "status", "table"}
	if !slices.Equal(fake.calls, want) {
		t.Errorf("calls %v, want %v", fake.calls, want)
	}
	made := fake.devices[name]
	if made == nil || !made.deferred || made.uuid != "CRYPT-VERITY-01020000000000000000000000000010-"+name ||
		!reflect.DeepEqual(made.active, &fakeTable{"verity", testParams, 120, true}) {
		t.Errorf("made %+v with %+v", made, made.active)
	}
	if _, err := makeMapping(fake.mapper(), name, unix.Mkdev(11, 0), testVolume, fake.open); err != unix.EBUSY && !strings.Contains(fmt.Sprint(err), "busy") {
		t.Errorf("a second mapping of the same disc: %v, want EBUSY", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	fake.close(name, 1)
	if len(fake.devices) > 0 {
		t.Errorf("left when it was closed: %v", fake.devices)
	}
}

// TestMakeMappingFails: whichever call fails, or does nothing though it says that it succeeded, no mapping stays, and
// none is taken for made.
func TestMakeMappingFails(t *testing.T) {
	name := mappingName([32]byte{1}, unix.Mkdev(11, 0))
	try := func(t *testing.T, fake *fakeMapper, want string) {
		t.Helper()
		d, err := makeMapping(fake.mapper(), name, unix.Mkdev(11, 0), testVolume, fake.open)
		if err == nil {
			t.Fatal("a mapping was made")
		}
		if d != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
		if made := fake.devices[name]; made != nil && made.opened > 0 {
			fake.close(name, made.opened)
		}
		if len(fake.devices) > 0 {
			t.Errorf("left behind: %v", fake.devices)
		}
	}
	for call := 1; call <= 6; call++ {
		t.Run(fmt.Sprintf("call %d", call), func(t *testing.T) {
			fake := newFake(t)
			fake.failAt, fake.err = call, unix.EIO
			try(t, fake, "input/output error")
		})
	}
	t.Run("load does nothing", func(t *testing.T) {
		fake := newFake(t)
		fake.keeps = "load"
		try(t, fake, "no such device")
	})
	t.Run("resume does nothing", func(t *testing.T) {
		fake := newFake(t)
		fake.keeps = "resume"
		try(t, fake, "device-mapper tells of 0 targets")
	})
	t.Run("another node", func(t *testing.T) {
		fake := newFake(t)
		if _, err := makeMapping(fake.mapper(), name, unix.Mkdev(11, 0), testVolume, func(uint64) (*os.File, error) { return nil, unix.EPERM }); err == nil || len(fake.devices) > 0 {
			t.Errorf("%v; left behind: %v", err, fake.devices)
		}
	})
	t.Run("no dm-verity", func(t *testing.T) {
		fake := newFake(t)
		fake.targets = []string{"linear"}
		fake.failAt, fake.err = 2, unix.EINVAL
		try(t, fake, "the kernel has no dm-verity")
	})
	t.Run("refused table", func(t *testing.T) {
		fake := newFake(t)
		fake.failAt, fake.err = 2, unix.EINVAL
		try(t, fake, "refuses the dm-verity table \"1 11:0 11:0 2048 2048 30 43 sha256 e8")
	})
}

// TestCheckVerity: a kernel without dm-verity is told of before a disc is read. One that can't be asked isn't.
func TestCheckVerity(t *testing.T) {
	for want, fake := range map[string]*fakeMapper{
		"<nil>": newFake(t),
		`the kernel has no dm-verity: load it with "modprobe dm-verity"`: {t: t, targets: []string{"linear"}},
		"<nil> ": {t: t, failAt: 1, err: unix.ENOTTY},
		"only root may do this: permission denied (permission denied)": {t: t, failAt: 1, err: unix.EACCES},
		"ask the kernel for dm-verity: input/output error":             {t: t, failAt: 1, err: unix.EIO},
	} {
		if err := fake.mapper().checkVerity(); fmt.Sprint(err) != strings.TrimSpace(want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestConfirm: a mapping that is writable, suspended, empty or of another kind is not taken for one.
func TestConfirm(t *testing.T) {
	for name, device := range map[string]*fakeDevice{
		"empty":     {},
		"inactive":  {inactive: &fakeTable{kind: "verity", readOnly: true}},
		"writable":  {active: &fakeTable{kind: "verity"}},
		"linear":    {active: &fakeTable{kind: "linear", readOnly: true}},
		"verity-ro": {active: &fakeTable{kind: "verity", readOnly: true}},
	} {
		fake := newFake(t)
		fake.devices["d"] = device
		if err := fake.mapper().confirm("d"); (err == nil) != (name == "verity-ro") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRemoveStale: it takes away what nobody has open and only what was made here.
func TestRemoveStale(t *testing.T) {
	fake := newFake(t)
	if removed, err := fake.mapper().removeStale(); err != nil || len(removed) > 0 {
		t.Errorf("without any device: %v, %v", removed, err)
	}
	ours := func(n byte) string { return mappingName([32]byte{n}, unix.Mkdev(7, uint32(n))) }
	for n := byte(1); n <= 3; n++ {
		fake.devices[ours(n)] = &fakeDevice{uuid: mappingUUID(ours(n)), dev: unix.Mkdev(253, uint32(n))}
	}
	fake.devices[ours(2)].opened = 1
	fake.devices["vg-root"] = &fakeDevice{uuid: "LVM-x", dev: unix.Mkdev(253, 10)}
	fake.devices["sallyport-mine"] = &fakeDevice{uuid: "CRYPT-VERITY-a4a7b6ccb3c48b74b700929dd106f422-sallyport-mine", dev: unix.Mkdev(253, 11)}
	fake.devices["sallyport-plain"] = &fakeDevice{dev: unix.Mkdev(253, 12)}
	fake.devices["other"] = &fakeDevice{uuid: mappingUUID(ours(4)), dev: unix.Mkdev(253, 13)}
	for i := range 1000 { // the list needs a larger buffer
		fake.devices[fmt.Sprintf("volume-group-%040d", i)] = &fakeDevice{uuid: "LVM-y", dev: unix.Mkdev(253, uint32(100+i))}
	}
	removed, err := fake.mapper().removeStale()
	if want := []string{ours(1), ours(3)}; err != nil || !slices.Equal(removed, want) {
		t.Errorf("removed %v, %v; want %v", removed, err, want)
	}
	if len(fake.devices) != 1005 {
		t.Errorf("%d devices are left, want 1005", len(fake.devices))
	}
}

func TestCallBounds(t *testing.T) {
	full := mapper{ioctl: func(_ uint, buf []byte) error {
		native.PutUint32(buf[28:], unix.DM_BUFFER_FULL_FLAG)
		return nil
	}}
	if _, err := full.devices(); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("an answer that never fits: %v", err)
	}
	for _, name := range []string{strings.Repeat("x", 128), "a/b", "a\x00b"} {
		if _, err := newFake(t).mapper().create(name, ""); err == nil {
			t.Errorf("a mapping of the name %.20q was made", name)
		}
	}
	interrupted := 0
	m := mapper{ioctl: func(uint, []byte) error {
		if interrupted++; interrupted < 3 {
			return unix.EINTR
		}
		return nil
	}}
	if err := m.remove("x"); err != nil || interrupted != 3 {
		t.Errorf("%v after %d calls, want the third to be good", err, interrupted)
	}
}

// TestBadLists: a list that leads outside the answer, or nowhere on, is none.
func TestBadLists(t *testing.T) {
	element := func(next uint32, name string) []byte {
		b := native.AppendUint32(make([]byte, 8), next)
		return append(b, name+"\x00\x00\x00\x00"[len(name):]...)
	}
	for name, list := range map[string][]byte{
		"cut off":     element(0, "abc")[:11],
		"outside":     append(element(17, "abc"), element(0, "def")...)[:16],
		"backwards":   append(element(16, "abc"), element(4, "def")...),
		"into itself": append(element(16, "abc"), element(11, "def")...),
		"very far":    element(1<<32-1, "abc"),
		"to a stump":  append(element(16, "abc"), make([]byte, 3)...),
	} {
		if names, err := listNames(list, 8, 12); err != errBadList {
			t.Errorf("%s: %q, %v", name, names, err)
		}
	}
	if names, err := listNames(append(element(16, "abc"), element(0, "")...), 8, 12); err != nil || !slices.Equal(names, []string{"abc", ""}) {
		t.Errorf("a good list: %q, %v", names, err)
	}
}

// FuzzAnswers gives the readers of device-mapper's answers any bytes.
func FuzzAnswers(f *testing.F) {
	for _, request := range []uint{unix.DM_LIST_DEVICES, unix.DM_LIST_VERSIONS, unix.DM_TABLE_STATUS} {
		fake := newFake(&testing.T{})
		fake.devices["a"] = &fakeDevice{active: &fakeTable{kind: "verity"}, dev: 1}
		fake.devices["bc"] = &fakeDevice{dev: 2}
		buf, err := (&dmCall{name: "a"}).encode(512)
		if err == nil {
			err = fake.ioctl(request, buf)
		}
		if err != nil {
			f.Fatal(err)
		}
		f.Add(buf)
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		m := mapper{ioctl: func(_ uint, buf []byte) error {
			clear(buf)
			copy(buf, answer)
			return nil
		}}
		var names []string
		for _, list := range []func() ([]string, error){m.devices, m.targets} {
			got, err := list()
			if err == nil {
				names = append(names, got...)
			}
		}
		kind, says, err := m.target("x")
		if err == nil {
			names = append(names, kind, says)
		}
		if len(names) > dmBufferMax/4 || slices.ContainsFunc(names, func(s string) bool { return bytes.IndexByte([]byte(s), 0) >= 0 }) {
			t.Errorf("%d names", len(names))
		}
		_, _ = decodeState(answer) // must not panic on a short one
	})
}
