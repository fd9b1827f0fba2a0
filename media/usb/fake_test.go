package usb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeKernel keeps a tree of files as USB and SCSI keep sysfs, and does what is written to it: authorises devices,
// makes interfaces, binds drivers, scans for units. What it does is what Linux 6.1 does.
type fakeKernel struct {
	t    *testing.T
	root string

	mu      sync.Mutex
	devices map[string]*fakeDevice // by name
	number  int                    // of the last device
	hosts   int
	written []string // paths and values
	keys    *fakeKeys
}

// fakeDevice is what is plugged in. The functions are called with the kernel locked.
type fakeDevice struct {
	sample      string
	descriptors []byte // if not those of the sample
	serial      string
	early       bool     // the kernel lets it in when it comes
	units       []string // peripheral device types; all but the first show up when the host is scanned
	driver      string   // if not that of the class
	takes       int      // index of the configuration that the kernel chooses

	// What goes wrong.
	silent      bool // no unit answers
	noDriver    bool
	selfAuth    bool          // interfaces are authorised by themselves
	bindsSD     bool          // by itself
	stays       bool          // authorised, whatever is written
	wrongFace   bool          // the kernel shows another class
	missingFace bool          // the kernel shows no interface
	stuck       chan struct{} // the kernel waits for this before it has authorised the device
	refuses     error         // to be configured
	onAuthorize func(d *fakeDevice)
	onScan      func(d *fakeDevice)

	k          *fakeKernel
	name, dir  string
	host       string // path of its SCSI host
	authorized bool
}

const fakeController = "devices/pci0000:00/0000:00:14.0"

func newFakeKernel(t *testing.T) *fakeKernel {
	k := &fakeKernel{t: t, root: t.TempDir(), devices: make(map[string]*fakeDevice)}
	k.keys = &fakeKeys{k: k, lines: make(chan string)}
	k.file("bus/scsi/drivers_autoprobe", "1")
	k.file("bus/scsi/drivers/sd/bind", "")
	k.file("bus/scsi/drivers/sr/bind", "")
	k.file("bus/usb/drivers_probe", "")
	for _, driver := range []string{"usb-storage", "uas", "usbhid", "hub"} {
		k.file("bus/usb/drivers/"+driver+"/uevent", "")
	}
	k.file("module/usbcore/parameters/authorized_default", "-1")
	k.file("bus/pci/uevent", "")
	k.link(fakeController+"/subsystem", "bus/pci")
	k.addHub("usb1", " 2.00")
	k.addHub("usb2", " 3.10")
	return k
}

func (k *fakeKernel) addHub(name, version string) {
	dir := fakeController + "/" + name
	k.file(dir+"/version", version)
	k.file(dir+"/authorized_default", "1")
	k.file(dir+"/interface_authorized_default", "1")
	k.file(dir+"/"+name[len("usb"):]+"-0:1.0/authorized", "1")
	k.link("bus/usb/devices/"+name, dir)
}

func (k *fakeKernel) file(name, text string) {
	k.t.Helper()
	at := filepath.Join(k.root, name)
	if old, err := os.ReadFile(at); err == nil && string(old) == text+"\n" {
		return // or somebody might read it half written
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(text+"\n"), 0o644)); err != nil {
		panic(err)
	}
}

func (k *fakeKernel) link(name, to string) {
	k.t.Helper()
	at := filepath.Join(k.root, name)
	target, err := filepath.Rel(filepath.Dir(at), filepath.Join(k.root, to))
	if err := errors.Join(err, os.MkdirAll(filepath.Dir(at), 0o755), os.Symlink(target, at)); err != nil {
		panic(err)
	}
}

func (k *fakeKernel) text(name string) string {
	k.t.Helper()
	text, err := os.ReadFile(filepath.Join(k.root, name))
	if err != nil {
		panic(err)
	}
	return strings.TrimSuffix(string(text), "\n")
}

func (k *fakeKernel) has(name string) bool {
	_, err := os.Lstat(filepath.Join(k.root, name))
	return err == nil
}

// plug plugs a device in.
func (k *fakeKernel) plug(name string, d *fakeDevice) *fakeDevice {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.plugLocked(name, d)
}

func (k *fakeKernel) plugLocked(name string, d *fakeDevice) *fakeDevice {
	k.number++
	bus, ports, _ := strings.Cut(name, "-")
	d.name, d.k, d.dir = name, k, fakeController+"/usb"+bus
	for at, c := range ports + "." {
		if c == '.' {
			d.dir += "/" + bus + "-" + ports[:at]
		}
	}
	if d.descriptors == nil {
		d.descriptors = samples[d.sample].descriptors
	}
	k.file(d.dir+"/busnum", bus)
	k.file(d.dir+"/devnum", fmt.Sprint(k.number))
	k.file(d.dir+"/speed", map[string]string{"1": "480", "2": "5000", "3": "480"}[bus])
	k.file(d.dir+"/manufacturer", "Maker")
	k.file(d.dir+"/product", "Thing")
	if d.serial != "" {
		k.file(d.dir+"/serial", d.serial)
	}
	k.file(d.dir+"/authorized", "0")
	d.show()
	k.link("bus/usb/devices/"+name, d.dir)
	k.devices[name] = d
	if d.early {
		k.authorize(d)
		for _, f := range d.faces() {
			k.file(d.dir+"/"+f+"/authorized", "1")
			if err := k.probe(f); err != nil {
				k.t.Errorf("%s: %v", f, err)
			}
		}
	}
	return d
}

func (d *fakeDevice) show() {
	if err := os.WriteFile(filepath.Join(d.k.root, d.dir, "descriptors"), d.descriptors, 0o644); err != nil {
		panic(err)
	}
}

// pull pulls a device out, and what is behind it.
func (k *fakeKernel) pull(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pullLocked(name)
}

func (k *fakeKernel) pullLocked(name string) {
	d := k.devices[name]
	if d == nil {
		return
	}
	for other := range k.devices {
		if strings.HasPrefix(other, name+".") {
			k.pullLocked(other)
		}
	}
	delete(k.devices, name)
	k.remove("bus/usb/devices/" + name)
	k.remove(d.dir)
}

func (k *fakeKernel) remove(name string) {
	if err := os.RemoveAll(filepath.Join(k.root, name)); err != nil {
		panic(err)
	}
}

// faces lists the interfaces that a device has now.
func (d *fakeDevice) faces() []string {
	found, err := filepath.Glob(filepath.Join(d.k.root, d.dir, d.name+":*"))
	if err != nil {
		panic(err)
	}
	for i := range found {
		found[i] = filepath.Base(found[i])
	}
	return found
}

func (k *fakeKernel) authorize(d *fakeDevice) {
	if d.authorized {
		return
	}
	d.authorized = true
	k.file(d.dir+"/authorized", "1")
	parsed, err := Parse(d.descriptors)
	if parsed == nil || len(parsed.Configurations) == 0 {
		k.t.Errorf("authorised with descriptors that are no good: %v", err)
		return
	}
	c := parsed.Configurations[d.takes]
	k.file(d.dir+"/bConfigurationValue", fmt.Sprint(c.Value))
	done := make(map[uint8]bool)
	for _, s := range c.AltSettings {
		if done[s.Interface] || d.missingFace {
			continue
		}
		done[s.Interface] = true
		at := fmt.Sprintf("%s/%s:%d.%d", d.dir, d.name, c.Value, s.Interface)
		k.file(at+"/bInterfaceNumber", fmt.Sprintf("%02x", s.Interface))
		k.file(at+"/bAlternateSetting", fmt.Sprintf("%2d", s.Alternate))
		if d.wrongFace {
			s.Function.Class++
		}
		k.file(at+"/bInterfaceClass", fmt.Sprintf("%02x", s.Function.Class))
		k.file(at+"/bInterfaceSubClass", fmt.Sprintf("%02x", s.Function.SubClass))
		k.file(at+"/bInterfaceProtocol", fmt.Sprintf("%02x", s.Function.Protocol))
		k.file(at+"/authorized", k.text(fakeController+"/usb"+d.name[:1]+"/interface_authorized_default"))
		if d.selfAuth {
			k.file(at+"/authorized", "1")
		}
	}
	if d.onAuthorize != nil {
		d.onAuthorize(d)
	}
}

func (k *fakeKernel) deauthorize(d *fakeDevice) {
	for other := range k.devices {
		if strings.HasPrefix(other, d.name+".") {
			k.pullLocked(other)
		}
	}
	if d.stays {
		k.file(d.dir+"/authorized", "1")
		return
	}
	d.authorized = false
	k.file(d.dir+"/authorized", "0")
	for _, f := range d.faces() {
		k.remove(d.dir + "/" + f)
	}
	d.host = ""
}

// probe binds a driver to an interface that is authorised.
func (k *fakeKernel) probe(face string) error {
	name, _, _ := strings.Cut(face, ":")
	d := k.devices[name]
	if d == nil || !slices.Contains(d.faces(), face) {
		return unix.ENODEV
	}
	if k.text(d.dir+"/"+face+"/authorized") != "1" || d.noDriver {
		return nil // as in Linux: none matches
	}
	at := d.dir + "/" + face
	driver := map[string]string{"08": "usb-storage", "03": "usbhid", "09": "hub"}[k.text(at+"/bInterfaceClass")]
	if d.driver != "" {
		driver = d.driver
	}
	k.link(at+"/driver", "bus/usb/drivers/"+driver)
	switch driver {
	case "usb-storage", "uas":
		d.host = fmt.Sprintf("%s/host%d", at, k.hosts)
		k.file(fmt.Sprintf("%s/scsi_host/host%d/scan", d.host, k.hosts), "")
		k.hosts++
		if !d.silent {
			d.unit(0)
		}
	case "usbhid":
		k.file(at+"/0003:0951:1666.0001/input/input7/event3/dev", "13:67")
		k.file(at+"/0003:0951:1666.0001/input/input7/name", "keys")
	}
	return nil
}

// unit makes a logical unit show up.
func (d *fakeDevice) unit(n int) {
	if n >= len(d.units) {
		return
	}
	k := d.k
	address := fmt.Sprintf("%s:0:0:%d", strings.TrimPrefix(path.Base(d.host), "host"), n)
	at := fmt.Sprintf("%s/target%s/%s", d.host, address[:strings.LastIndex(address, ":")], address)
	if k.has(at) {
		return
	}
	k.file(at+"/type", d.units[n])
	k.file(at+"/vendor", "Maker   ")
	k.file(at+"/model", "Disk            ")
	k.file(at+"/rev", "1.00")
	k.file(fmt.Sprintf("%s/scsi_generic/sg%d/dev", at, k.hosts+n-1), "21:0")
	if d.bindsSD || k.text(scsiAutoprobe) != "0" && (d.units[n] == "0" || d.units[n] == "5") {
		k.bind(at, map[string]string{"0": "sd", "5": "sr"}[d.units[n]])
	}
}

// bind binds sd or sr.
func (k *fakeKernel) bind(at, driver string) {
	k.link(at+"/driver", "bus/scsi/drivers/"+driver)
	k.file(at+"/block/"+map[string]string{"sd": "sda", "sr": "sr0"}[driver]+"/dev", "8:0")
}

// wrote does what somebody wrote. The file has it already.
func (k *fakeKernel) wrote(name, value string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	resolved, err := filepath.EvalSymlinks(filepath.Join(k.root, name))
	if err != nil {
		return err
	}
	if name, err = filepath.Rel(k.root, resolved); err != nil {
		return err
	}
	k.written = append(k.written, name+" "+value)
	k.file(name, value)
	for _, d := range k.devices {
		switch {
		case name == d.dir+"/authorized" && value == "0":
			k.deauthorize(d)
		case name == d.dir+"/authorized":
			if d.stuck != nil {
				k.mu.Unlock()
				<-d.stuck
				k.mu.Lock()
			}
			k.authorize(d)
			if d.refuses != nil {
				return d.refuses
			}
		case d.host != "" && name == d.host+"/scsi_host/"+path.Base(d.host)+"/scan":
			for i := range d.units {
				d.unit(i)
			}
			if d.onScan != nil {
				d.onScan(d)
			}
		}
	}
	switch name {
	case "bus/usb/drivers_probe":
		return k.probe(value)
	case "bus/scsi/drivers/sd/bind", "bus/scsi/drivers/sr/bind":
		for _, d := range k.devices {
			target := value[:max(0, strings.LastIndex(value, ":"))]
			if at := d.host + "/target" + target + "/" + value; d.host != "" && k.has(at) {
				k.bind(at, path.Base(path.Dir(name)))
			}
		}
	}
	return nil
}

// fakeTree is the kernel's tree, or a device's part of it.
type fakeTree struct {
	tree
	k  *fakeKernel
	at string // below the root, as it was opened
}

func (f *fakeTree) write(name, value string) error {
	if err := f.tree.write(name, value); err != nil {
		return err
	}
	return f.k.wrote(path.Join(f.at, name), value)
}

func (f *fakeTree) sub(name string) (tree, error) {
	sub, err := f.tree.sub(name)
	if err != nil {
		return nil, err
	}
	return &fakeTree{sub, f.k, path.Join(f.at, name)}, nil
}

func (k *fakeKernel) tree() tree {
	root, err := os.OpenRoot(k.root)
	if err != nil {
		panic(err)
	}
	k.t.Cleanup(func() { root.Close() })
	t, err := newRootTree(root)
	if err != nil {
		panic(err)
	}
	return &fakeTree{t, k, "."}
}

// gate opens one over the kernel.
func (k *fakeKernel) gate(rules ...string) *Gate {
	k.t.Helper()
	g, err := open(k.tree(), policyOf(k.t, rules...))
	if err != nil {
		panic(err)
	}
	g.hush = func() (func() error, error) {
		k.note("hush")
		return func() error { k.note("restore"); return nil }, nil
	}
	g.grab = func(nodes []string) (keys, error) {
		k.note("grab " + strings.Join(nodes, " "))
		return k.keys, nil
	}
	return g
}

// fakeKeys are typed on by a test.
type fakeKeys struct {
	k     *fakeKernel
	lines chan string
}

func (f *fakeKeys) line(ctx context.Context) (string, error) {
	select {
	case line, ok := <-f.lines:
		if !ok {
			return "", ErrGone
		}
		return line, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// note puts something that isn't sysfs's into the log.
func (k *fakeKernel) note(what string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.written = append(k.written, what)
}

func (f *fakeKeys) close() error { f.k.note("let go"); return nil }

// admit admits one device, and ends its session when the test does.
func (k *fakeKernel) admit(g *Gate, name string) (*Session, error) {
	s, err := g.Admit(context.Background(), name)
	if s != nil {
		k.t.Cleanup(func() { s.End() })
	}
	return s, err
}

func (k *fakeKernel) log() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.written)
}

// count says how often something was written.
func (k *fakeKernel) count(what string) (n int) {
	for _, w := range k.log() {
		if w == what {
			n++
		}
	}
	return n
}
