package qemutests

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// tcg is what works everywhere.
var tcg = []string{"-accel", "tcg,thread=multi", "-cpu", "max"}

// kvmLimit is how long a kernel without an init may take under KVM until it panics. It is there within a second or never.
const kvmLimit = 5 * time.Second

// accelerator is KVM where it works, which its device alone doesn't say: a nested one may hang or abort. So it is
// tried with a kernel that has no init, once for each boot of the machine and each version of QEMU.
// SALLYPORT_ACCEL=kvm or tcg decides without a trial.
var accelerator = sync.OnceValues(func() ([]string, error) {
	kvm := []string{"-accel", "kvm", "-cpu", "host"}
	switch choice := os.Getenv("SALLYPORT_ACCEL"); choice {
	case "kvm":
		return kvm, nil
	case "tcg":
		return tcg, nil
	case "":
	default:
		return nil, fmt.Errorf("SALLYPORT_ACCEL is %q, and can be kvm or tcg", choice)
	}
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		return tcg, nil
	} else if err := f.Close(); err != nil {
		return nil, err
	}
	version, err := exec.Command(qemu, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", qemu, err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	vmlinuz, _, err := kernel(defaultModules)
	if err != nil {
		return nil, err
	}
	file, err := cached("kvm", append(version, boot...), func(out string) error {
		return os.WriteFile(out, []byte(tryKVM(kvm, vmlinuz)), 0o644)
	})
	if err != nil {
		return nil, err
	}
	works, err := os.ReadFile(file)
	if strings.HasPrefix(string(works), "works") {
		return kvm, err
	}
	return tcg, err
})

// tryKVM starts a kernel and reports what came of it.
func tryKVM(kvm []string, vmlinuz string) string {
	ctx, cancel := context.WithTimeout(context.Background(), kvmLimit)
	defer cancel()
	args := append([]string{"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-m", "128", "-serial", "stdio",
		"-kernel", vmlinuz, "-append", "console=ttyS0 panic=-1"}, kvm...)
	cmd := exec.CommandContext(ctx, qemu, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err == nil && bytes.Contains(out.Bytes(), []byte("Kernel panic")) {
		return "works\n"
	}
	return fmt.Sprintf("%v\n%s", err, out.Bytes())
}
