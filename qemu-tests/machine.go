// Package qemutests runs what was built as a black box: in guests of QEMU, with simulated hardware around them. Its
// guests have the host's root file system read-only, so that all programs of the host run in them, and sallyport as
// it is in this tree. See README.md.
package qemutests

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport/qemu-tests/agent"
)

const (
	qemu = "qemu-system-x86_64"

	launchLimit = 2 * time.Minute
	bootLimit   = 5 * time.Minute // a guest boots in 15 s on an idle machine under TCG
	offLimit    = time.Minute
)

// defaultModules are loaded in every guest.
var defaultModules = []string{
	"virtio_pci", "virtio_console", "virtio_blk", "virtio_scsi", "9p", "9pnet_virtio",
	"sr_mod", "cdrom", "sg", "sd_mod", "isofs", "udf", "usb-storage", "uas", "xhci-pci", "ehci-pci", "ata_piix", "ahci",
	"dm-mod", "dm-verity", "loop", "ext4", "vfat", "exfat", "nls_cp437", "nls_ascii", "nls_utf8",
	"usbhid", "hid_generic", "evdev",
}

// slots are the guests that may run side by side: the one that tests share, which rests while others are busy, and two more.
var slots = make(chan struct{}, 3)

// Guest is what a machine has. The zero value is a good guest.
type Guest struct {
	Memory int      // MiB; 512 if 0
	CPUs   int      // 1 if 0: under TCG two take twice the host's time for the same work
	Append []string // words for the kernel's command line
	Args   []string // more arguments of QEMU: devices, drives

	// Kernel and Initrd are files to boot instead of the guest that runs commands: such a one has a console and a
	// monitor, and Run and its like fail the test.
	Kernel, Initrd string

	// Medium is a file to boot by UEFI with Secure Boot, as a DVD or a stick, on a machine that has nothing else but Args.
	// The firmware knows the snakeoil keys of Debian's package ovmf. Commands can't run there either.
	Medium string
	Stick  bool
}

// Machine is a running guest.
type Machine struct {
	Share string        // a directory of the host, which is /tmp/share in the guest, writable on both sides
	Boot  time.Duration // from the start of QEMU until the agent was there
	Up    float64       // seconds since the kernel's start at that time, by the kernel's clock

	cmd     *exec.Cmd
	said    tailWriter // by QEMU
	begin   time.Time
	line    []string // the command that starts it again
	dir     string
	console *console
	agent   *client
	qmp     *qmp
	exited  chan struct{}
	status  error
	stopped sync.Once
}

// Start boots a guest and waits until commands can run in it. The guest ends with the test. It fails the test when
// QEMU, or anything else that is needed, isn't there.
func Start(t testing.TB, g Guest) *Machine {
	t.Helper()
	slots <- struct{}{}
	m, err := start(g)
	if err != nil {
		<-slots
		t.Fatalf("starting a guest: %v", err)
	}
	t.Cleanup(func() {
		m.stop()
		<-slots
		if t.Failed() {
			m.report(t)
		}
	})
	return m
}

// report says what the guest's console had, and how to start the guest by hand.
func (m *Machine) report(t testing.TB) {
	t.Helper()
	t.Logf("the end of the guest's console:\n%s", m.console.tail(8000))
	t.Logf("to start the same guest by hand, with a shell on the terminal:\n%s", m.Command())
}

// Command is the line that starts the guest again with its console on the terminal. There the agent finds nobody, and
// u-root's shell comes.
func (m *Machine) Command() string {
	words := make([]string, len(m.line))
	for i, word := range m.line {
		words[i] = word
		if word == "" || strings.ContainsAny(word, " \t\n'\"\\$&;|<>()*?[]#~`") {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}

func start(g Guest) (_ *Machine, err error) {
	accel, err := accelerator()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "guest-") // short: a socket's path has 107 bytes at most
	if err != nil {
		return nil, err
	}
	m := &Machine{dir: dir, Share: filepath.Join(dir, "share"), exited: make(chan struct{})}
	defer func() {
		if err != nil {
			m.stop()
		}
	}()
	if err := os.Mkdir(m.Share, 0o777); err != nil {
		return nil, err
	}
	boots, err := g.boots(m)
	if err != nil {
		return nil, err
	}
	args := slices.Concat(accel, []string{"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-smp", strconv.Itoa(or(g.CPUs, 1)), "-m", strconv.Itoa(or(g.Memory, 512))}, boots, g.Args)
	m.line = slices.Concat([]string{qemu}, args, []string{"-serial", "mon:stdio"})
	for i, arg := range m.line { // Share goes with the test
		m.line[i] = strings.ReplaceAll(arg, m.Share, os.TempDir())
	}
	if err := m.run(args); err != nil || g.Kernel != "" || g.Medium != "" {
		return m, err
	}
	return m, m.greet()
}

// Debian's firmware with Secure Boot on, and its variables with Debian's snakeoil keys in them.
const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd"
)

// boots are the arguments that say what a guest boots, and what it has for that.
func (g Guest) boots(m *Machine) ([]string, error) {
	if g.Medium != "" {
		device := []string{"-device", "ide-cd,drive=boot"}
		if g.Stick {
			device = []string{"-device", "qemu-xhci", "-device", "usb-storage,drive=boot"}
		}
		return append([]string{"-M", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on",
			"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + ovmfCode, "-drive", "if=pflash,format=raw,unit=1,snapshot=on,file=" + ovmfVars,
			"-drive", "if=none,id=boot,format=raw,readonly=on,file=" + g.Medium}, device...), nil
	}
	vmlinuz, initrd := g.Kernel, g.Initrd
	if vmlinuz == "" {
		var err error
		if vmlinuz, initrd, err = fixture(defaultModules); err != nil {
			return nil, err
		}
	}
	cmdline := append([]string{"console=ttyS0", "quiet", "panic=-1"}, g.Append...)
	return []string{"-kernel", vmlinuz, "-initrd", initrd, "-append", strings.Join(cmdline, " "),
		"-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
		"-fsdev", "local,id=share,path=" + m.Share + ",security_model=none,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=share,mount_tag=share"}, nil
}

// fixture is the kernel and the initramfs of the guests that run commands.
func fixture(modules []string) (vmlinuz, initrd string, err error) {
	vmlinuz, archive, err := kernel(modules)
	if err != nil {
		return "", "", err
	}
	initrd, err = initramfs(archive)
	return vmlinuz, initrd, err
}

func or(n, standard int) int {
	if n == 0 {
		return standard
	}
	return n
}

// run starts QEMU, which connects to three sockets.
func (m *Machine) run(args []string) error {
	listeners := make(map[string]*net.UnixListener)
	for _, name := range []string{"console", "agent", "qmp"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(m.dir, name), Net: "unix"})
		if err != nil {
			return err
		}
		defer l.Close()
		listeners[name] = l
		args = append(args, "-chardev", "socket,id="+name+",path="+filepath.Join(m.dir, name))
	}
	args = append(args, "-serial", "chardev:console", "-mon", "chardev=qmp,mode=control",
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name="+agent.Port)
	m.begin = time.Now()
	m.cmd = exec.Command(qemu, args...)
	m.cmd.Stdout, m.cmd.Stderr = &m.said, &m.said
	if err := m.launch(); err != nil {
		return err
	}
	conns := make(map[string]net.Conn)
	for _, name := range []string{"console", "agent", "qmp"} {
		conn, err := m.accept(listeners[name])
		if err != nil {
			return fmt.Errorf("%s: %w: %s", qemu, err, m.said.String())
		}
		conns[name] = conn
	}
	m.console = newConsole(conns["console"])
	m.agent = newClient(conns["agent"])
	var err error
	m.qmp, err = newQMP(conns["qmp"])
	return err
}

// accept waits until QEMU connects, or ends.
func (m *Machine) accept(l *net.UnixListener) (net.Conn, error) {
	if err := l.SetDeadline(time.Now().Add(launchLimit)); err != nil {
		return nil, err
	}
	accepted := make(chan struct{})
	defer close(accepted)
	go func() {
		select {
		case <-m.exited:
			l.Close()
		case <-accepted:
		}
	}()
	return l.Accept()
}

// greet waits for the agent.
func (m *Machine) greet() error {
	select {
	case hello := <-m.agent.hello:
		m.Boot, m.Up = time.Since(m.begin), hello.Uptime
		if len(hello.Problems) > 0 {
			return fmt.Errorf("the guest is not as it should be: %s", strings.Join(hello.Problems, "; "))
		}
		return nil
	case <-m.exited:
		return fmt.Errorf("%s ended: %w: %s\n%s", qemu, m.status, m.said.String(), m.console.tail(4000))
	case <-time.After(bootLimit):
		return fmt.Errorf("no agent within %v; the console:\n%s\nby hand: %s", bootLimit, m.console.tail(4000), m.Command())
	}
}

// launch starts QEMU so that it can't outlive this process: the kernel kills it when the thread that started it ends.
func (m *Machine) launch() error {
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := m.cmd.Start()
		started <- err
		if err == nil {
			m.status = m.cmd.Wait()
			close(m.exited)
		}
	}()
	err := <-started
	if err != nil {
		m.cmd = nil
	}
	return err
}

// Off powers the guest off and waits for QEMU's end. It is an error when that takes too long.
func (m *Machine) Off() error {
	if err := m.agent.send(agent.Frame{Kind: agent.Off}); err != nil {
		return err
	}
	select {
	case <-m.exited:
		return m.status
	case <-time.After(offLimit):
		return errors.New("the guest did not power off")
	}
}

// lost reports whether the guest has ended.
func (m *Machine) lost() bool {
	select {
	case <-m.exited:
		return true
	default:
		return false
	}
}

// stop ends QEMU, at once, and removes what it used.
func (m *Machine) stop() {
	m.stopped.Do(func() {
		if m.cmd != nil {
			_ = m.cmd.Process.Kill() // it may have ended
			<-m.exited
		}
		os.RemoveAll(m.dir)
	})
}

// Path is where the guest's commands find a file of the host. Files that change while the guest runs may be seen as
// they were: Share has no cache.
func (m *Machine) Path(host string) string { return filepath.Join("/run/host", host) }

// QMP runs a command of QEMU's monitor, with arguments as JSON has them, and returns its answer. An error that QEMU
// gives fails the test.
func (m *Machine) QMP(t testing.TB, command string, arguments any) json.RawMessage {
	t.Helper()
	answer, err := m.qmp.do(command, arguments)
	if err != nil {
		t.Fatalf("QMP %s: %v", command, err)
	}
	return answer
}

// Expect waits until the console has something that pattern matches, behind what the last Expect found, and returns
// what was matched. It fails the test when the limit is over.
func (m *Machine) Expect(t testing.TB, pattern string, limit time.Duration) string {
	t.Helper()
	found, err := m.console.expect(pattern, limit)
	if err != nil {
		t.Fatalf("the guest's console: %v", err)
	}
	return found
}

// Type writes to the console.
func (m *Machine) Type(t testing.TB, text string) {
	t.Helper()
	if _, err := m.console.conn.Write([]byte(text)); err != nil {
		t.Fatalf("the guest's console: %v", err)
	}
}
