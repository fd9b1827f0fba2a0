package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mediumRate, in bytes a second, is what a fast USB stick reads at. A DVD at 16x reads at 22 MB/s.
const mediumRate = 300_000_000

// throttle is a control group whose processes read a directory's disk at mediumRate at most; how fast they write is
// left alone. Call remove when its processes have ended.
type throttle struct{ group, procs string }

// newThrottle makes one where root may: with the io controller of cgroup v2, or blkio of v1 (kernel:
// Documentation/admin-guide/cgroup-v2.rst, "io.max"; cgroup-v1/blkio-controller.rst).
func newThrottle(dir string) (*throttle, error) {
	disk, err := diskOf(dir)
	if err != nil {
		return nil, err
	}
	const v1, v2 = "/sys/fs/cgroup/blkio", "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(v2, "cgroup.controllers")); err == nil {
		// Fails when it is on already for no reason that matters; io.max tells.
		_ = os.WriteFile(filepath.Join(v2, "cgroup.subtree_control"), []byte("+io"), 0)
		return makeThrottle(v2, "io.max", fmt.Sprintf("%s rbps=%d", disk, mediumRate))
	}
	return makeThrottle(v1, "blkio.throttle.read_bps_device", fmt.Sprintf("%s %d", disk, mediumRate))
}

func makeThrottle(parent, file, limit string) (*throttle, error) {
	group, err := os.MkdirTemp(parent, "sallyport-bench-")
	if err != nil {
		return nil, err
	}
	t := &throttle{group, filepath.Join(group, "cgroup.procs")}
	if err := os.WriteFile(filepath.Join(group, file), []byte(limit), 0); err != nil {
		return nil, errors.Join(err, t.remove())
	}
	return t, nil
}

func (t *throttle) remove() error { return unix.Rmdir(t.group) }

// wrap is the command that runs args in the group.
func (t *throttle) wrap(args []string) []string {
	return append([]string{"sh", "-c", `echo $$ > "$0" && exec "$@"`, t.procs}, args...)
}

// diskOf returns major:minor of the disk that dir's file system is on, of the whole of it when that is a partition.
func diskOf(dir string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	dev := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	node, err := filepath.EvalSymlinks("/sys/dev/block/" + dev)
	if err != nil {
		return "", fmt.Errorf("%s isn't on a disk of its own: %w", dir, err)
	}
	if _, err := os.Stat(filepath.Join(node, "partition")); err != nil {
		return dev, nil
	}
	whole, err := os.ReadFile(filepath.Join(filepath.Dir(node), "dev"))
	return strings.TrimSpace(string(whole)), err
}
