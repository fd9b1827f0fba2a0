package usb

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// Attached is a device at a port, as sysfs shows it. Its texts are the device's own, and can hold anything.
type Attached struct {
	// Name is the kernel's: the number of the bus and the ports on the way, as in 1-1.4. The number of the bus depends on
	// the order in which controllers were found.
	Name string
	// Port names the same place by its controller, as udev does, and so for good: pci-0000:00:14.0-usbv2-0:1.4. It is ""
	// where sysfs doesn't say all of that.
	Port string
	// Bus and Number are the bus' and the device's. Each time that a device is enumerated it gets another number.
	Bus, Number int
	Speed       string // in Mbit/s: "480". A device may describe itself otherwise at another speed.

	Manufacturer string
	Product      string
	Serial       string

	Authorized  bool
	Descriptors *Device // what it says of itself; if Malformed, as much of it as could be parsed, or nil
	Malformed   error
}

// Texts of a device are of up to 126 UTF-16 units (USB 2.0 section 9.6.7), and no attribute is longer than a page.
const maxAttribute = 4096

const devicesFolder = "bus/usb/devices"

var (
	deviceName  = regexp.MustCompile(`^[0-9]{1,4}-[0-9]{1,3}(\.[0-9]{1,3}){0,5}$`)
	rootHubName = regexp.MustCompile(`^usb[0-9]{1,4}$`)
)

// String describes the device for people, in characters that any screen can show.
func (a *Attached) String() string {
	text := a.Name
	for _, s := range []string{a.Manufacturer, a.Product} {
		if s != "" {
			text += " " + strconv.QuoteToASCII(s)
		}
	}
	if a.Descriptors == nil {
		return text
	}
	text += " " + a.Descriptors.ID()
	if a.Serial != "" {
		text += " serial " + strconv.QuoteToASCII(a.Serial)
	}
	return text + " (claims to be " + a.Descriptors.Claims() + ")"
}

// List gives the names of the devices of this machine, hubs before what is plugged into them. The hubs that controllers
// have in themselves are left out. sys is /sys.
func List(sys fs.FS) ([]string, error) {
	entries, err := fs.ReadDir(sys, devicesFolder) // sorted, so that 1-1 comes before 1-1.4
	if err != nil {
		return nil, fmt.Errorf("list usb devices: %w", err)
	}
	var names []string
	for _, e := range entries {
		if deviceName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Look reads what sysfs says of the device with this name. sys is /sys. Descriptors that are no good are no error: see
// [Attached].Malformed. An error that wraps [ErrGone] says that there is no such device any more.
func Look(sys fs.FS, name string) (*Attached, error) {
	if !deviceName.MatchString(name) {
		return nil, fmt.Errorf("look at usb device %q: that is no device's name", name)
	}
	port, err := portOf(sys, name)
	if err != nil {
		return nil, lookFault(name, err)
	}
	dir, err := fs.Sub(sys, path.Join(devicesFolder, name))
	if err != nil {
		return nil, lookFault(name, err)
	}
	return look(dir, name, port)
}

func lookFault(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || isNoDevice(err) {
		err = fmt.Errorf("%w: %w", ErrGone, err)
	}
	return fmt.Errorf("look at usb device %s: %w", name, err)
}

// look reads a device from its own directory.
func look(dir fs.FS, name, port string) (*Attached, error) {
	a := &Attached{Name: name, Port: port}
	for _, number := range []struct {
		file string
		to   *int
	}{{"busnum", &a.Bus}, {"devnum", &a.Number}} {
		text, err := attribute(dir, number.file)
		if err == nil {
			*number.to, err = strconv.Atoi(text)
		}
		if err != nil {
			return nil, lookFault(name, err)
		}
	}
	authorized, err := attribute(dir, "authorized")
	if err != nil {
		return nil, lookFault(name, err)
	}
	a.Authorized = authorized != "0"
	if a.Speed, err = attribute(dir, "speed"); err != nil {
		return nil, lookFault(name, err)
	}
	for _, text := range []struct {
		file string
		to   *string
	}{{"manufacturer", &a.Manufacturer}, {"product", &a.Product}, {"serial", &a.Serial}} {
		// A device without this text has no such file.
		if *text.to, err = attribute(dir, text.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, lookFault(name, err)
		}
	}
	descriptors, err := readBounded(dir, "descriptors", MaxDescriptors)
	if err != nil {
		return nil, lookFault(name, err)
	}
	a.Descriptors, a.Malformed = Parse(descriptors)
	return a, nil
}

// portOf makes the name of a port that stays the same: controller, release of the standard of its root hub (an xHCI
// controller has two root hubs, which count the ports of one socket apart), and the ports on the way.
func portOf(sys fs.FS, name string) (string, error) {
	to, err := fs.ReadLink(sys, path.Join(devicesFolder, name))
	if err != nil {
		return "", err
	}
	parts := strings.Split(path.Join(devicesFolder, to), "/")
	for i, part := range parts {
		if i == 0 || !rootHubName.MatchString(part) {
			continue
		}
		_, ports, _ := strings.Cut(name, "-")
		subsystem, err := fs.ReadLink(sys, path.Join(path.Join(parts[:i]...), "subsystem"))
		if err != nil {
			return "", nil // an odd controller; its ports have the kernel's names alone
		}
		version, err := attribute(sys, path.Join(path.Join(parts[:i+1]...), "version"))
		if version = strings.TrimLeft(version, " "); err != nil || version == "" {
			return "", nil
		}
		return fmt.Sprintf("%s-%s-usbv%c-0:%s", path.Base(subsystem), parts[i-1], version[0], ports), nil
	}
	return "", nil
}

// attribute reads an attribute, without the newline behind it.
func attribute(sys fs.FS, name string) (string, error) {
	text, err := readBounded(sys, name, maxAttribute)
	return strings.TrimSuffix(string(text), "\n"), err
}

// readBounded reads a file of no more than limit bytes.
func readBounded(fsys fs.FS, name string, limit int) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(text) > limit {
		err = fmt.Errorf("read %s: it is longer than %d bytes", name, limit)
	}
	return text, err
}

// NameIn gives the name of the device that a path in /sys/devices goes through, of the innermost one, or "" for none.
func NameIn(place string) string {
	parts := strings.Split(place, "/")
	for i := len(parts) - 1; i > 0; i-- {
		if deviceName.MatchString(parts[i]) {
			return parts[i]
		}
	}
	return ""
}
