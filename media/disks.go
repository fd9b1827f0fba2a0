package media

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/media/usb"
)

// Disk is a disk of this machine that is no recorder: a stick, a card, a built-in one. Virtual ones (loop, device-mapper,
// RAM) are none. The texts are the device's own: whoever shows them has to escape them.
//
// A Disk is what was found when [Disks] looked. What is to be written to is a [Target].
type Disk struct {
	Device  string // node of the block device: "/dev/sda"; "" where no block driver is bound, as for a stick behind the gate
	Generic string // node of the generic SCSI device: "/dev/sg0"; "" without one
	Vendor  string
	Model   string
	Rev     string
	Serial  string
	Bus     string // "usb", "ata", "nvme", "mmc", "scsi", "virtio"; "" for another
	// Place is the path of the disk's place on its bus in /sys/devices, which stays the same for the same socket.
	Place string
	USB   *usb.Attached // the device that has the disk, if it is on USB: its port, its descriptors' hash

	Size      int64 // in bytes, -1 where no block driver is bound
	BlockSize int   // in bytes, 0 where no block driver is bound
	Removable bool  // the medium, as the disk says
	ReadOnly  bool
	Uses      []Use
	Reserved  string // what it is there for, if that was said to Disks: "boot", "state" ...

	name     string   // "sda", "sg0"
	sequence string   // tells two disks apart that had the same name; "" if the kernel doesn't count
	number   uint64   // of the block device
	card     string   // of an mmc device: "SD", "MMC"
	from     *sources // nil for what Disks didn't give
}

// Reserve says in a word what a disk is there for, "" for nothing.
type Reserve func(Disk) string

// ReservedBy reserves what a policy says is there for something: the disks at the ports of its rules with "as".
func ReservedBy(p *usb.Policy) Reserve {
	return func(d Disk) string {
		if d.USB == nil {
			return ""
		}
		for _, r := range p.Rules {
			if r.As != "" && (r.Port == d.USB.Port || r.Port == d.USB.Name) {
				return string(r.As)
			}
		}
		return ""
	}
}

// Disks lists the disks of this machine, those with a block device first, each by name. No disk is opened or asked. What
// one of reserved gives a word for can't become a [Target].
func Disks(reserved ...Reserve) ([]Disk, error) { return machine.disks(reserved) }

// sources is where disks are looked for.
type sources struct {
	sys  fs.FS // /sys
	proc fs.FS // /proc
	// number gives the number of a block device's node.
	number   func(path string) (uint64, error)
	reserved []Reserve
}

var machine = &sources{sys: os.DirFS("/sys"), proc: os.DirFS("/proc"), number: func(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, unix.ENOTBLK
	}
	return st.Rdev, nil
}}

const typeDisk = "0" // peripheral device type, SPC-4 table 142

var (
	genericName = regexp.MustCompile(`^sg[0-9]{1,7}$`)
	// hiddenParts of a card are no media of their own (JESD84-B51 section 6.2).
	hiddenParts = regexp.MustCompile(`^mmcblk[0-9]+(boot[0-9]+|rpmb|gp[0-9]+)$`)
)

func (s *sources) disks(reserved []Reserve) ([]Disk, error) {
	s = &sources{s.sys, s.proc, s.number, reserved}
	in, err := s.readUses()
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var list []Disk
	blocks, err := s.names("class/block")
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	for _, name := range blocks {
		d, ok := s.block(name)
		if !ok {
			continue
		}
		switch d.Uses, err = s.uses(name, in); {
		case errors.Is(err, fs.ErrNotExist): // gone meanwhile, or a partition of it
			if _, err := fs.Stat(s.sys, path.Join("class/block", name)); err == nil {
				return nil, fmt.Errorf("list disks: %s changes while it is looked at", name)
			}
			continue
		case err != nil:
			return nil, fmt.Errorf("list disks: %s: %w", name, err)
		}
		list = append(list, d)
	}
	generics, err := s.names("class/scsi_generic")
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	for _, name := range generics {
		if d, ok := s.generic(name); ok {
			list = append(list, d)
		}
	}
	for i := range list {
		for _, r := range reserved {
			if list[i].Reserved == "" {
				list[i].Reserved = r(list[i])
			}
		}
	}
	return list, nil
}

// names lists a class of devices, sd9 before sd10 and sda. There may be no such class.
func (s *sources) names(class string) ([]string, error) {
	entries, err := fs.ReadDir(s.sys, class)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.SortFunc(names, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return names, err
}

// block reads what sysfs has of a block device; false for what is no disk, or gone meanwhile.
func (s *sources) block(name string) (Disk, bool) {
	at := path.Join("class/block", name)
	to, err := fs.ReadLink(s.sys, at)
	if err != nil || strings.Contains(to, "devices/virtual/") || opticalName.MatchString(name) || hiddenParts.MatchString(name) {
		return Disk{}, false
	}
	number, numberErr := parseNumber(attribute(s.sys, at, "dev"))
	sectors, sizeErr := strconv.ParseInt(attribute(s.sys, at, "size"), 10, 64)
	block, blockErr := strconv.Atoi(attribute(s.sys, at, "queue/logical_block_size"))
	const most = 1<<63/sectorSize - 1
	if attribute(s.sys, at, "partition") != "" || attribute(s.sys, at, "hidden") == "1" ||
		numberErr != nil || sizeErr != nil || blockErr != nil || sectors < 0 || sectors > most {
		return Disk{}, false
	}
	d := Disk{
		Device: "/dev/" + name, Size: sectors * sectorSize, BlockSize: block,
		Removable: attribute(s.sys, at, "removable") == "1", ReadOnly: attribute(s.sys, at, "ro") != "0",
		name: name, number: number, sequence: attribute(s.sys, at, "diskseq"), from: s,
	}
	d.Serial = attribute(s.sys, at, "serial") // of virtio
	s.identify(&d, path.Join(at, "device"), to)
	if generic, err := fs.ReadDir(s.sys, path.Join(at, "device/scsi_generic")); err == nil && len(generic) == 1 {
		d.Generic = "/dev/" + generic[0].Name()
	}
	return d, true
}

// generic reads what sysfs has of a disk that no block driver is bound to; false for anything else.
func (s *sources) generic(name string) (Disk, bool) {
	at := path.Join("class/scsi_generic", name)
	to, err := fs.ReadLink(s.sys, at)
	device := path.Join(at, "device")
	if err != nil || !genericName.MatchString(name) || attribute(s.sys, device, "type") != typeDisk {
		return Disk{}, false
	}
	if blocks, err := fs.ReadDir(s.sys, path.Join(device, "block")); err == nil && len(blocks) > 0 {
		return Disk{}, false
	}
	d := Disk{Generic: "/dev/" + name, Size: -1, name: name, from: s}
	// There is no count of these. A SCSI host has another number each time that a device comes.
	d.sequence = path.Base(path.Dir(path.Dir(to)))
	s.identify(&d, device, to)
	return d, true
}

// identify reads who made a disk, and where it is. link is where /sys/class says that it is.
func (s *sources) identify(d *Disk, device, link string) {
	d.Vendor, d.Model, d.Rev = attribute(s.sys, device, "vendor"), attribute(s.sys, device, "model"), attribute(s.sys, device, "rev")
	if d.Model == "" {
		d.Model = attribute(s.sys, device, "name") // of a card
	}
	d.card = attribute(s.sys, device, "type")
	if serial := attribute(s.sys, device, "serial"); serial != "" {
		d.Serial = serial // of nvme and mmc
	}
	if serial := s.unitSerial(device); serial != "" {
		d.Serial = serial
	}
	if d.Place, d.Bus = busOf(link), busName(link); d.Bus == "virtio" {
		d.Vendor = "" // the number of whoever made the host
	}
	if name := usb.NameIn(link); name != "" {
		if a, err := usb.Look(s.sys, name); err == nil {
			d.USB = a
			if a.Serial != "" {
				d.Serial = a.Serial
			}
		}
	}
}

// unitSerial reads a disk's serial number out of its unit serial number page (SPC-4 section 7.8.15).
func (s *sources) unitSerial(device string) string {
	const head = 4
	f, err := s.sys.Open(path.Join(device, "vpd_pg80"))
	if err != nil {
		return ""
	}
	defer f.Close()
	page, err := io.ReadAll(io.LimitReader(f, head+255))
	if err != nil || len(page) < head || page[1] != 0x80 {
		return ""
	}
	return strings.TrimSpace(strings.TrimRight(string(page[head:min(len(page), head+int(page[3]))]), "\x00"))
}

var buses = []struct {
	name string
	form *regexp.Regexp
}{
	{"usb", regexp.MustCompile(`/usb[0-9]+/`)},
	{"ata", regexp.MustCompile(`/ata[0-9]+/`)},
	{"nvme", regexp.MustCompile(`/nvme[0-9]+/`)},
	{"mmc", regexp.MustCompile(`/mmc_host/`)},
	{"scsi", regexp.MustCompile(`/host[0-9]+/`)},
	{"virtio", regexp.MustCompile(`/virtio[0-9]+/`)},
}

// busName says which bus the path of a device goes over.
func busName(link string) string {
	for _, b := range buses {
		if b.form.MatchString(link) {
			return b.name
		}
	}
	return ""
}

func parseNumber(text string) (uint64, error) {
	major, minor, _ := strings.Cut(text, ":")
	a, aErr := strconv.ParseUint(major, 10, 32)
	b, bErr := strconv.ParseUint(minor, 10, 32)
	if err := errors.Join(aErr, bErr); err != nil {
		return 0, err
	}
	return unix.Mkdev(uint32(a), uint32(b)), nil
}
