package media

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Use is one use that the kernel makes of a disk or a partition of it.
type Use struct {
	Part string // "sda1", or "sda" for the whole
	Kind string // "mounted", "swap", "holder"
	By   string // the directory, or the device that holds it; "" for swap
}

// String tells of the use for people.
func (u Use) String() string {
	switch u.Kind {
	case "mounted":
		return u.Part + " is mounted on " + strconv.QuoteToASCII(u.By)
	case "swap":
		return u.Part + " is swapped to"
	}
	return u.Part + " belongs to " + strconv.QuoteToASCII(u.By)
}

// uses are those of a disk and of its partitions.
func (s *sources) uses(name string, in *inUse) ([]Use, error) {
	entries, err := fs.ReadDir(s.sys, path.Join("class/block", name))
	if err != nil {
		return nil, err
	}
	parts := []string{name}
	for _, e := range entries {
		if attribute(s.sys, path.Join("class/block", name), e.Name()+"/partition") != "" {
			parts = append(parts, e.Name())
		}
	}
	var list []Use
	for _, part := range parts {
		at := path.Join("class/block", name)
		if part != name {
			at = path.Join(at, part)
		}
		number, err := parseNumber(attribute(s.sys, at, "dev"))
		if err != nil {
			return nil, fmt.Errorf("number of %s: %w", part, err)
		}
		for _, dir := range in.mounts[number] {
			list = append(list, Use{part, "mounted", dir})
		}
		if in.swaps[number] {
			list = append(list, Use{part, "swap", ""})
		}
		holders, err := fs.ReadDir(s.sys, path.Join(at, "holders"))
		if err != nil {
			return nil, err
		}
		for _, h := range holders {
			list = append(list, Use{part, "holder", h.Name()})
		}
	}
	return list, nil
}

// inUse is what is mounted and swapped to, by the number of the block device.
type inUse struct {
	mounts map[uint64][]string
	swaps  map[uint64]bool
}

// readUses reads what this process and init have mounted, which can be in other namespaces, and what is swapped to.
func (s *sources) readUses() (*inUse, error) {
	in := &inUse{make(map[uint64][]string), make(map[uint64]bool)}
	for _, name := range []string{"self/mountinfo", "1/mountinfo"} {
		err := s.lines(name, func(line string) error {
			e, err := parseMountEntry(line)
			if err != nil {
				return err
			}
			number := e.dev
			if unix.Major(number) == 0 && strings.HasPrefix(e.source, "/dev/") {
				// btrfs and others give a number that is no device's.
				if n, err := s.numberOf(e.source); err == nil {
					number = n
				}
			}
			if !slices.Contains(in.mounts[number], e.dir) {
				in.mounts[number] = append(in.mounts[number], e.dir)
			}
			return nil
		})
		if err != nil && !(name == "1/mountinfo" && (errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL))) {
			return nil, err
		}
	}
	if _, err := fs.Stat(s.proc, "swaps"); errors.Is(err, fs.ErrNotExist) { // a kernel that can't swap
		return in, nil
	}
	first := true
	err := s.lines("swaps", func(line string) error {
		// Filename Type Size Used Priority, under a line that says so
		fields := strings.Fields(line)
		if first {
			first = false
			return nil
		}
		if len(fields) < 2 {
			return errors.New("not the line of a swap area")
		}
		if fields[1] != "partition" {
			return nil // a file; its file system is mounted
		}
		number, err := s.numberOf(unescapeMount(fields[0]))
		if err != nil {
			return fmt.Errorf("swap area %s: %w", fields[0], err)
		}
		in.swaps[number] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	return in, nil
}

// numberOf gives the number of the block device with this node, by its name where there is no such node.
func (s *sources) numberOf(node string) (uint64, error) {
	number, err := s.number(node)
	if err != nil {
		if n, byName := parseNumber(attribute(s.sys, path.Join("class/block", path.Base(node)), "dev")); byName == nil {
			return n, nil
		}
	}
	return number, err
}

// lines calls do for each line of a file of /proc. Errors name the offset in bytes.
func (s *sources) lines(name string, do func(line string) error) error {
	f, err := s.proc.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	scanner, offset := bufio.NewScanner(f), 0
	scanner.Buffer(nil, maxMountLine)
	for scanner.Scan() {
		if err := do(scanner.Text()); err != nil {
			return fmt.Errorf("read %s: byte %d: %w", filepath.Join("/proc", name), offset, err)
		}
		offset += len(scanner.Bytes()) + 1
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("read %s: byte %d: %w", filepath.Join("/proc", name), offset, err)
	}
	return nil
}
