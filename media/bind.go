package media

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// scsiBus is where sysfs has SCSI devices, and /dev their nodes.
type scsiBus struct{ sys, dev string }

var systemBus = scsiBus{"/sys", "/dev"}

const (
	majorGeneric = 21 // of sg, Documentation/admin-guide/devices.txt
	diskDriver   = "bus/scsi/drivers/sd"
)

var (
	unitAddress = regexp.MustCompile(`^[0-9]{1,7}:[0-9]{1,7}:[0-9]{1,7}:[0-9]{1,20}$`)
	blockName   = regexp.MustCompile(`^(sd[a-z]{1,7}|sr[0-9]{1,7})$`)
)

var errNoDiskDriver = &missingError{"driver for SCSI disks", "sd_mod"}

// BlockOf finds the node of the block device that a driver has made of the SCSI device behind a generic node, /dev/sgN; ""
// when none has, as with a stick that came in through the gate.
func BlockOf(generic string) (string, error) {
	number, err := genericNumber(generic)
	if err != nil {
		return "", err
	}
	return systemBus.block(systemBus.unit(number))
}

// genericNumber is the number of a generic SCSI device's node.
func genericNumber(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || unix.Major(st.Rdev) != majorGeneric {
		return 0, invalidf("open %s: it is no generic SCSI device", path)
	}
	return st.Rdev, nil
}

// unit is the directory of the logical unit behind a generic SCSI device.
func (s scsiBus) unit(number uint64) string {
	return filepath.Join(s.sys, "dev/char", fmt.Sprintf("%d:%d", unix.Major(number), unix.Minor(number)), "device")
}

// block finds the node of a unit's block device, "" for none.
func (s scsiBus) block(unit string) (string, error) {
	entries, err := os.ReadDir(filepath.Join(unit, "block"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case len(entries) != 1 || !blockName.MatchString(entries[0].Name()):
		return "", fmt.Errorf("%s has %d block devices, want one", unit, len(entries))
	}
	return filepath.Join(s.dev, entries[0].Name()), nil
}

// address is a unit's name on its bus. No two units have had the same one since the machine was started.
func (s scsiBus) address(unit string) (string, error) {
	dir, err := filepath.EvalSymlinks(unit)
	if err != nil {
		return "", err
	}
	address := filepath.Base(dir)
	if !unitAddress.MatchString(address) {
		return "", fmt.Errorf("%s is no logical unit", dir)
	}
	return address, nil
}

// bindPatience is how long a driver may take to make a block device. It asks the disk some questions first.
const bindPatience = 30 * time.Second

// bind binds the driver for disks to a unit, and returns the node that comes of it, and the unit's address for unbind.
// From then on the kernel reads the medium, and looks for partitions on it.
func (s scsiBus) bind(ctx context.Context, unit string) (node, address string, err error) {
	if address, err = s.address(unit); err != nil {
		return "", "", err
	}
	if kind, err := os.ReadFile(filepath.Join(unit, "type")); err != nil || strings.TrimSpace(string(kind)) != typeDisk {
		return "", "", errors.Join(invalidf("bind sd to %s: it is no disk", address), err)
	}
	err = s.tell("bind", address)
	if _, statErr := os.Stat(filepath.Join(s.sys, diskDriver)); errors.Is(statErr, fs.ErrNotExist) {
		return "", "", errNoDiskDriver
	}
	if err != nil {
		return "", "", fmt.Errorf("bind sd to %s: %w", address, err)
	}
	for deadline := time.Now().Add(bindPatience); ; {
		if node, err = s.block(unit); node != "" || err != nil {
			break
		}
		if err = context.Cause(ctx); err == nil && time.Now().After(deadline) {
			err = fmt.Errorf("no block device came of it within %v", bindPatience)
		}
		if err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		return "", "", errors.Join(fmt.Errorf("bind sd to %s: %w", address, err), s.unbind(address))
	}
	return node, address, nil
}

// unbind takes the driver for disks from a unit. One that is gone has none.
func (s scsiBus) unbind(address string) error {
	err := s.tell("unbind", address)
	if err == nil || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("unbind sd from %s: %w", address, err)
}

// tell writes to one of the driver's files.
func (s scsiBus) tell(file, address string) error {
	f, err := os.OpenFile(filepath.Join(s.sys, diskDriver, file), os.O_WRONLY, 0)
	if err != nil {
		return errnoOf(err)
	}
	_, err = f.WriteString(address)
	return errors.Join(errnoOf(err), f.Close())
}

// boundSuffix ends the name of a mapping for whose sake sd was bound: with the mapping it is unbound again.
const boundSuffix = "-bound"

// boundUnit finds, while a mapping lies on it, the unit that sd was bound to for its sake; "" where it wasn't.
func (s scsiBus) boundUnit(mapping string) string {
	device, ok := strings.CutSuffix(mapping, boundSuffix)
	if !ok {
		return ""
	}
	fields := strings.Split(device, "-")
	if len(fields) < 2 {
		return ""
	}
	address, err := s.address(filepath.Join(s.sys, "dev/block", fields[len(fields)-2]+":"+fields[len(fields)-1], "device"))
	if err != nil {
		return "" // it was pulled out
	}
	return address
}
