package media

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountEntry is a line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type mountEntry struct {
	dev     uint64 // of the file system; see unix.Major
	dir     string
	options string // of this mount
	fsType  string
	source  string
}

const mountInfo = "/proc/self/mountinfo"

// maxMountLine is more than a line with four paths of the greatest length, each byte escaped.
const maxMountLine = 128 << 10

// mountedAt returns what is mounted on dir, the uppermost if there are several, nil for nothing.
func mountedAt(dir string) (*mountEntry, error) {
	f, err := os.Open(mountInfo)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return findMountEntry(f, dir)
}

func findMountEntry(r io.Reader, dir string) (*mountEntry, error) {
	var found *mountEntry
	lines, offset := bufio.NewScanner(r), 0
	lines.Buffer(nil, maxMountLine)
	for lines.Scan() {
		e, err := parseMountEntry(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("read %s: byte %d: %w", mountInfo, offset, err)
		}
		if e.dir == dir {
			found = e
		}
		offset += len(lines.Bytes()) + 1
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: byte %d: %w", mountInfo, offset, err)
	}
	return found, nil
}

var errMountLine = errors.New("not the line of a mount")

func parseMountEntry(line string) (*mountEntry, error) {
	// id parent major:minor root mount-point options [optional…] - type source super-options
	front, back, ok := strings.Cut(line, " - ")
	head, tail := strings.Split(front, " "), strings.Split(back, " ")
	if !ok || len(head) < 6 || len(tail) < 2 {
		return nil, errMountLine
	}
	majorText, minorText, _ := strings.Cut(head[2], ":")
	major, majorErr := strconv.ParseUint(majorText, 10, 32)
	minor, minorErr := strconv.ParseUint(minorText, 10, 32)
	if majorErr != nil || minorErr != nil {
		return nil, errMountLine
	}
	return &mountEntry{
		dev: unix.Mkdev(uint32(major), uint32(minor)), dir: unescapeMount(head[4]), options: head[5],
		fsType: tail[0], source: unescapeMount(tail[1]),
	}, nil
}

// unescapeMount undoes what the kernel does to space, tab, newline and backslash: \ and three octal digits.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// maxHolders is how many processes are named; somebody who closes these asks again.
const maxHolders = 3

// holders says which processes have a directory, or something in it, open. It may know of none: what the kernel itself
// holds, or another namespace, isn't in /proc.
func holders(dir string) string {
	var found []string
	processes, _ := filepath.Glob("/proc/[0-9]*") // the pattern is good
	for _, process := range processes {
		if !holds(process, dir) {
			continue
		}
		name, _ := os.ReadFile(filepath.Join(process, "comm")) // gone meanwhile, perhaps
		found = append(found, fmt.Sprintf("%s (%s)", filepath.Base(process), strings.TrimSpace(string(name))))
		if len(found) == maxHolders {
			break
		}
	}
	if len(found) == 0 {
		return "something still uses it"
	}
	return "process " + strings.Join(found, ", ") + " still uses it"
}

func holds(process, dir string) bool {
	links := []string{filepath.Join(process, "cwd"), filepath.Join(process, "root"), filepath.Join(process, "exe")}
	descriptors, _ := os.ReadDir(filepath.Join(process, "fd")) // none of a process that is gone
	for _, d := range descriptors {
		links = append(links, filepath.Join(process, "fd", d.Name()))
	}
	for _, link := range links {
		if path, err := os.Readlink(link); err == nil && (path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")) {
			return true
		}
	}
	return false
}
