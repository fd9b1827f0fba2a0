package media

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Recorder is an optical drive of this machine as the kernel knows it. Whether it can burn, only the drive can tell.
// The texts are the device's own: whoever shows them has to escape them.
type Recorder struct {
	Device  string // node of the block device: "/dev/sr0"
	Generic string // node of the generic SCSI device: "/dev/sg1"; "" without one
	Vendor  string
	Model   string
	Rev     string
	// Bus is the path of the drive's place on its bus in /sys/devices, which stays the same for the same socket.
	Bus string
	USB bool
}

// Recorders lists the optical drives that the kernel has bound a driver to, by number. No drive is opened or asked.
func Recorders() ([]Recorder, error) { return recorders(os.DirFS("/sys")) }

const typeOptical = "5" // peripheral device type, SPC-3 6.4.2

var opticalName = regexp.MustCompile(`^sr[0-9]{1,7}$`)

// recorders reads sysfs.
func recorders(sys fs.FS) ([]Recorder, error) {
	entries, err := fs.ReadDir(sys, "class/block")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a kernel without block devices
	}
	if err != nil {
		return nil, fmt.Errorf("list optical drives: %w", err)
	}
	var list []Recorder
	for _, entry := range entries {
		name := entry.Name()
		if !opticalName.MatchString(name) {
			continue
		}
		device := path.Join("class/block", name, "device")
		if attribute(sys, device, "type") != typeOptical {
			continue // or gone meanwhile
		}
		r := Recorder{
			Device: "/dev/" + name,
			Vendor: attribute(sys, device, "vendor"),
			Model:  attribute(sys, device, "model"),
			Rev:    attribute(sys, device, "rev"),
		}
		if generic, err := fs.ReadDir(sys, path.Join(device, "scsi_generic")); err == nil && len(generic) == 1 {
			r.Generic = "/dev/" + generic[0].Name()
		}
		if to, err := fs.ReadLink(sys, path.Join("class/block", name)); err == nil {
			r.Bus = busOf(to)
			r.USB = strings.Contains("/"+r.Bus, "/usb")
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b Recorder) int { return number(a) - number(b) })
	return list, nil
}

func number(r Recorder) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(r.Device, "/dev/sr"))
	return n
}

// busOf cuts from where a block device is, ../../devices/BUS/hostN/targetN:0:0/N:0:0:0/block/sr0, what names its place
// and isn't counted up with each device that comes.
func busOf(link string) string {
	_, place, _ := strings.Cut(link, "devices/")
	parts := strings.Split(place, "/")
	for i, part := range parts {
		if hostName.MatchString(part) {
			return strings.Join(parts[:i], "/")
		}
	}
	return strings.TrimSuffix(path.Dir(place), "/block")
}

var hostName = regexp.MustCompile(`^host[0-9]+$`)

// attribute reads one, without the blanks around it; "" when it isn't there.
func attribute(sys fs.FS, dir, name string) string {
	f, err := sys.Open(path.Join(dir, name))
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 256)
	n, _ := f.Read(b)
	return strings.TrimSpace(string(b[:n]))
}
