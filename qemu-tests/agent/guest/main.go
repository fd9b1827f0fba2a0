// Guest is what u-root's init starts in the guests of the tests: it mounts the host's root read-only and runs commands
// in it.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/qemu-tests/agent"
)

const root = "/host"

func main() {
	if _, err := os.Stat("/.complete"); err != nil {
		fmt.Println("agent: the initramfs is not complete, give the guest more memory:", err)
		off()
	}
	hello := agent.Greeting{Problems: mounts()}
	if uptime, err := os.ReadFile("/proc/uptime"); err == nil {
		fmt.Sscan(string(uptime), &hello.Uptime)
	}
	port, err := openPort()
	if err == nil {
		fmt.Printf("agent: ready %.1f s after the kernel's start, problems: %q\n", hello.Uptime, hello.Problems)
		err = (&agent.Server{Root: root, Off: off}).Serve(port, hello)
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("nobody is at the other end of the port")
	}
	// init starts a shell next, for whoever runs a failed guest by hand.
	fmt.Printf("agent: %v; the host's root file system is %s, for example: chroot %s\n", err, root, root)
}

// mounts makes the root that commands run in. What fails is told to the test.
func mounts() []string {
	var problems []string
	mount := func(source, target, kind string, flags uintptr, data string) {
		if err := os.MkdirAll(target, 0o755); err != nil {
			problems = append(problems, err.Error())
			return
		}
		if err := unix.Mount(source, target, kind, flags, data); err != nil {
			problems = append(problems, fmt.Sprintf("mount %s: %v", target, err))
		}
	}
	mount("host", root, "9p", unix.MS_RDONLY, "trans=virtio,version=9p2000.L,cache=loose,msize=524288")
	mount("run", root+"/run", "tmpfs", 0, "mode=755")
	mount(root, root+"/run/host", "", unix.MS_BIND, "")
	mount("/opt/sallyport", root+"/run/sallyport", "", unix.MS_BIND, "")
	mount("proc", root+"/proc", "proc", 0, "")
	mount("sys", root+"/sys", "sysfs", 0, "")
	mount("dev", root+"/dev", "devtmpfs", 0, "")
	mount("pts", root+"/dev/pts", "devpts", 0, "ptmxmode=666")
	mount("shm", root+"/dev/shm", "tmpfs", 0, "")
	mount("tmp", root+"/tmp", "tmpfs", 0, "mode=1777")
	mount("share", root+"/tmp/share", "9p", 0, "trans=virtio,version=9p2000.L,cache=none,msize=524288")
	return problems
}

// openPort opens the virtio serial port by its name.
func openPort() (*os.File, error) {
	for range 100 {
		found, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, file := range found {
			name, err := os.ReadFile(file)
			if err == nil && strings.TrimSpace(string(name)) == agent.Port {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_RDWR, 0)
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, errors.New("no virtio port " + agent.Port)
}

func off() {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("agent: power off:", err)
	}
	select {}
}
