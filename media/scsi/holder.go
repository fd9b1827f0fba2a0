package scsi

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// holder says who uses a device, as far as this process may know.
func (h *host) holder(path string, n node) string {
	if n.block() {
		if at := h.mountPoint(n); at != "" {
			return "mounted at " + at
		}
		if entries, err := os.ReadDir(filepath.Join(h.sysfs(n), "holders")); err == nil && len(entries) > 0 {
			return "held by the block device " + entries[0].Name()
		}
	}
	return h.opener(n)
}

// mountPoint returns where a block device is mounted (proc(5), mountinfo).
func (h *host) mountPoint(n node) string {
	f, err := os.Open(filepath.Join(h.proc, "self", "mountinfo"))
	if err != nil {
		return ""
	}
	defer f.Close()
	number := fmt.Sprintf("%d:%d", unix.Major(n.rdev), unix.Minor(n.rdev))
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && fields[2] == number {
			return fields[4]
		}
	}
	return ""
}

// opener returns which process has a device open.
func (h *host) opener(n node) string {
	dir, err := os.Open(h.proc)
	if err != nil {
		return ""
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(1 << 16)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		fds := filepath.Join(h.proc, name, "fd")
		entries, err := os.ReadDir(fds)
		if err != nil {
			continue
		}
		for _, fd := range entries {
			link := filepath.Join(fds, fd.Name())
			// Where it leads is looked at first: a stat alone can wait for ever for a server of files that is gone.
			if to, err := os.Readlink(link); err != nil || !strings.HasPrefix(to, h.dev+"/") {
				continue
			}
			if open, err := h.stat(link); err == nil && open.rdev == n.rdev && open.block() == n.block() && open.mode.Type() == n.mode.Type() {
				return fmt.Sprintf("in use by %s (process %d)", readLine(filepath.Join(h.proc, name, "comm")), pid)
			}
		}
	}
	return ""
}
