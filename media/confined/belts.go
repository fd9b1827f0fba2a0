package confined

import (
	"debug/elf"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	heapLimit = 192 << 20 // the collector works harder from here on
	dataLimit = 640 << 20 // RLIMIT_DATA: heap, stacks, what the runtime reserves in arenas of 64 MiB
)

// giveUp leaves the process with its socket, its memory and its threads, and tells what holds it.
func giveUp() ([]string, error) {
	debug.SetMemoryLimit(heapLimit)
	time.Sleep(time.Nanosecond) // the runtime's timers open an epoll file on first use
	var belts []string
	if inNamespaces() {
		belts = append(belts, "namespaces")
	}
	if err := emptyRoot(); err == nil {
		belts = append(belts, "empty root")
	}
	if err := everyThread(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil && err != syscall.ENOTSUP {
		return nil, fmt.Errorf("no new privileges: %w", err)
	}
	if err := landlock(); err == nil {
		belts = append(belts, "landlock")
	}
	if err := dropCapabilities(); err != nil {
		return nil, fmt.Errorf("drop capabilities: %w", err)
	}
	for _, l := range []struct {
		what  int
		limit uint64
	}{
		{unix.RLIMIT_CORE, 0}, {unix.RLIMIT_FSIZE, 0}, {unix.RLIMIT_MEMLOCK, 0}, {unix.RLIMIT_MSGQUEUE, 0},
		{unix.RLIMIT_NOFILE, 0}, {unix.RLIMIT_DATA, dataLimit},
	} {
		if err := unix.Setrlimit(l.what, &unix.Rlimit{Cur: l.limit, Max: l.limit}); err != nil {
			return nil, fmt.Errorf("limit resource %d to %d: %w", l.what, l.limit, err)
		}
	}
	if err := filter(); err != nil {
		return nil, fmt.Errorf("seccomp filter: %w", err)
	}
	return append(belts, "seccomp"), nil
}

// everyThread makes a system call on every thread of the process. In a program with cgo the runtime can't: ENOTSUP.
func everyThread(trap, a1, a2, a3 uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(trap, a1, a2, a3, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// inNamespaces reports whether the parent could start the child in namespaces of its own: it is process 1 there.
func inNamespaces() bool { return os.Getpid() == 1 }

// emptyRoot makes a directory that nobody can put anything into the root directory of the process: that of a process's
// own open file descriptions, which holds the names of these and nothing else.
func emptyRoot() error {
	if err := unix.Chroot("/proc/self/fdinfo"); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// landlock takes every right on files and ports that this kernel's Landlock knows, without an exception.
func landlock() error {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return errno
	}
	// The kernel takes a structure of the fields that its version has, and refuses rights that it doesn't know.
	attr := unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1} // version 1
	size := unsafe.Sizeof(attr.Handled_access_fs)
	if version >= 2 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		size = unsafe.Offsetof(attr.Scoped)
	}
	if version >= 5 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if version >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
		size = unsafe.Offsetof(attr.Scoped) + unsafe.Sizeof(attr.Scoped)
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return errno
	}
	defer unix.Close(int(fd))
	return everyThread(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0)
}

// dropCapabilities clears the sets of every thread; in a program with cgo, of this one: the filter, which is on all of
// them, leaves no call to use one with.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	err := everyThread(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0)
	if err == syscall.ENOTSUP {
		return unix.Capset(&header, &none[0])
	}
	return err
}

// auditArch is what seccomp_data.arch holds on this machine (include/uapi/linux/audit.h): the ELF machine, 64 bits,
// little-endian.
func auditArch() (uint32, error) {
	const sixtyFourLE = 0x8000_0000 | 0x4000_0000
	switch runtime.GOARCH {
	case "amd64":
		return sixtyFourLE | uint32(elf.EM_X86_64), nil
	case "arm64":
		return sixtyFourLE | uint32(elf.EM_AARCH64), nil
	}
	return 0, fmt.Errorf("no filter for %s", runtime.GOARCH)
}

// Offsets in struct seccomp_data.
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16 // the low half of the first of six, 8 bytes each
)

// filter sets the seccomp filter on all threads.
func filter() error {
	arch, err := auditArch()
	if err != nil {
		return err
	}
	program := rules(arch, uint32(os.Getpid()))
	if len(program) > math.MaxUint8 { // jumps are of 8 bits
		return fmt.Errorf("%d instructions", len(program))
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// Where everyThread can't set it for all, it holds for the thread that asks, which TSYNC passes on with the filter.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	if r != 0 {
		return fmt.Errorf("thread %d didn't take it", r)
	}
	return nil
}

// rules is the filter: what a Go program of process number pid needs to compute, to use files that are open, and to end.
func rules(arch, pid uint32) []unix.SockFilter {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		eq   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		set  = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		ret  = unix.BPF_RET | unix.BPF_K
	)
	allow := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW}
	kill := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_KILL_PROCESS}
	refuse := func(e syscall.Errno) unix.SockFilter {
		return unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(e)}
	}
	number := unix.SockFilter{Code: load, K: dataNumber}
	argument := func(i uint32) unix.SockFilter { return unix.SockFilter{Code: load, K: dataArgs + 8*i} }

	p := []unix.SockFilter{
		{Code: load, K: dataArch}, {Code: eq, K: arch, Jt: 1}, kill, number,
	}
	for _, nr := range plain {
		p = append(p, unix.SockFilter{Code: eq, K: uint32(nr), Jf: 1}, allow)
	}
	for _, nr := range []int{unix.SYS_MMAP, unix.SYS_MPROTECT} { // never executable
		p = append(p, unix.SockFilter{Code: eq, K: uint32(nr), Jf: 4},
			argument(2), unix.SockFilter{Code: set, K: unix.PROT_EXEC, Jf: 1}, kill, allow)
	}
	// Threads, no processes. The flags of clone3 can't be seen from here: glibc goes back to clone.
	p = append(p, unix.SockFilter{Code: eq, K: uint32(unix.SYS_CLONE), Jf: 4},
		argument(0), unix.SockFilter{Code: set, K: unix.CLONE_THREAD, Jt: 1}, kill, allow)
	p = append(p, unix.SockFilter{Code: eq, K: uint32(unix.SYS_CLONE3), Jf: 1}, refuse(unix.ENOSYS))
	// The runtime signals its own threads to take turns.
	p = append(p, unix.SockFilter{Code: eq, K: uint32(unix.SYS_TGKILL), Jf: 4},
		argument(0), unix.SockFilter{Code: eq, K: pid, Jt: 1}, kill, allow)
	// The runtime names its memory (PR_SET_VMA) and can do without.
	p = append(p, unix.SockFilter{Code: eq, K: uint32(unix.SYS_PRCTL), Jf: 1}, refuse(unix.EINVAL))
	return append(p, kill)
}

// plain are the calls that are let through whatever their arguments are. None of them opens, makes, sends or signals
// anything outside of the process.
var plain = append([]int{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_CLOSE, unix.SYS_FUTEX, unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MINCORE,
	unix.SYS_SCHED_YIELD, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY,
	unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN,
	unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_GETRANDOM,
	unix.SYS_SCHED_GETAFFINITY, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_MREMAP,
	unix.SYS_EPOLL_PWAIT,
}, ofArch...)
