package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fileSystems are the usual ones by their magic numbers, statfs(2).
var fileSystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", unix.F2FS_SUPER_MAGIC: "f2fs",
}

// printMachine says what the figures were taken on, and how busy that was.
func printMachine(opt options, dir string, cold bool) {
	var uts unix.Utsname
	unix.Uname(&uts)
	var fs unix.Statfs_t
	unix.Statfs(dir, &fs)
	kind, ok := fileSystems[fs.Type]
	if !ok {
		kind = fmt.Sprintf("file system %#x", fs.Type)
	}
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("%s; %s, %d cores, %s of memory; Linux %s; %s; %s\n", time.Now().UTC().Format(time.DateOnly),
		procField("/proc/cpuinfo", "model name"), runtime.NumCPU(), procField("/proc/meminfo", "MemTotal"), unix.ByteSliceToString(uts.Release[:]), kind, runtime.Version())
	for _, peer := range [][]string{{"xorriso", "-version"}, {"veritysetup", "--version"}, {"openssl", "version"}, {"dd", "--version"}} {
		out, err := exec.Command(peer[0], peer[1:]...).Output()
		if line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n"); err == nil {
			fmt.Printf("%s; ", line)
		}
	}
	fmt.Printf("\npayload: 4 large and %d small files, %d MiB; runs: %d of each side, in turns; load when it began: %s", smallFiles, opt.size, opt.runs, load)
	if !cold {
		fmt.Println("the page cache can't be dropped here: every case is warm on both sides")
	}
	fmt.Println()
}

// procField returns the value of the first line "name : value" of a file of /proc.
func procField(file, name string) string {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
