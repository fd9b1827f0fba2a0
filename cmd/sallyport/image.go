package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"

	"sallyport/image"
)

type imageCmd struct {
	Build imageBuildCmd `cmd:"" help:"Build what an appliance boots from."`
}

type imageBuildCmd struct {
	Output  string `short:"o" required:"" help:"The directory for vmlinuz, initramfs.cpio, sallyport.efi and boot.iso." type:"path" placeholder:"DIR"`
	Debug   bool   `help:"With u-root's shell. Other images can't be built yet."`
	Inputs  string `help:"Keep what the image is made of in this directory, and use what it has." type:"path" placeholder:"DIR"`
	Epoch   *int64 `help:"The time of all files, in seconds since 1970 (default: SOURCE_DATE_EPOCH, else 0)."`
	Program string `help:"The sallyport to put in (default: this one)." type:"path" placeholder:"FILE"`

	Console string `help:"Where people sit: tty0, which is the screen, or a serial port as in ttyS0,115200." default:"tty0" placeholder:"TTY"`

	SignKey         string `help:"Sign sallyport.efi for Secure Boot with this key (PEM), by sbsign." type:"path" placeholder:"FILE"`
	SignCertificate string `help:"Its certificate (PEM)." type:"path" placeholder:"FILE"`
}

func (c *imageBuildCmd) Help() string {
	return `Kernel and EFI stub are Debian's: with --inputs the packages that the directory keeps, else the current ones by apt-get,
which needs no root for it. u-root's init, shell and commands are built with the go command. The same packages, sallyport and
version of Go give the same bytes, but for a signature.

boot.iso starts machines with UEFI, burnt on a disc or copied to a stick (all that is on it is lost):
dd if=out/boot.iso of=/dev/sdX bs=4M oflag=direct conv=fsync. It has sallyport.efi, which is kernel, initramfs and command line in one.

Example: sallyport image build -o out --debug --inputs inputs
then:    qemu-system-x86_64 -m 512 -nographic -kernel out/vmlinuz -initrd out/initramfs.cpio -append console=ttyS0
or:      qemu-system-x86_64 -m 512 -nographic -bios /usr/share/ovmf/OVMF.fd -cdrom out/boot.iso
         (built with --console ttyS0)`
}

type imageBuildResult struct {
	*image.Built
	Directory string `json:"directory"`
}

func (r *imageBuildResult) text(w io.Writer) {
	fmt.Fprintf(w, "kernel %s from %s %s, %d modules; EFI stub from %s %s\n", printable(r.Release), printable(r.Kernel.Name), printable(r.Kernel.Version), len(r.Modules), printable(r.Stub.Name), printable(r.Stub.Version))
	for _, f := range r.Files {
		fmt.Fprintf(w, "%s  %s\n", f.SHA256, printable(filepath.Join(r.Directory, f.Name)))
	}
}

func (c *imageBuildCmd) run(e *env) (_ result, err error) {
	epoch, err := c.epoch()
	if err != nil {
		return nil, err
	}
	if !c.Debug {
		return nil, usagef("only a debugging image, with a shell, can be built yet: give --debug")
	}
	if info, err := os.Stat(c.Output); err == nil && !info.IsDir() {
		return nil, usagef("-o %s: it is no directory", c.Output)
	}
	if _, err := exec.LookPath("go"); err != nil {
		return nil, usagef("the go command is needed to build u-root, and isn't in PATH")
	}
	if !consoleName.MatchString(c.Console) {
		return nil, usagef("--console %q: must be a terminal as the kernel names it: tty0, ttyS0, ttyS1,115200", c.Console)
	}
	if err := c.checkSigning(); err != nil {
		return nil, err
	}
	program := c.Program
	if program == "" {
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	dir := c.Inputs
	if dir == "" {
		if dir, err = os.MkdirTemp("", "sallyport-inputs-"); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, removeAll(dir)) }()
	}
	inputs, err := image.OpenInputs(dir)
	if err != nil {
		return nil, err
	}
	if !e.quiet {
		fmt.Fprintln(e.stderr, "Building the image: kernel, modules, u-root, boot medium.")
	}
	built, err := image.Build(e.ctx, c.Output, image.Config{Inputs: inputs, Program: program, Epoch: epoch, Console: c.Console, SignKey: c.SignKey, SignCertificate: c.SignCertificate})
	if wrong, ok := errors.AsType[*image.ProgramError](err); ok {
		return nil, usagef("%v", wrong)
	}
	if err != nil {
		return nil, err
	}
	return &imageBuildResult{built, c.Output}, nil
}

// consoleName is a terminal on the kernel's command line, without anything behind it.
var consoleName = regexp.MustCompile(`^tty[A-Z]{0,4}[0-9]{1,3}(,[0-9]{1,7}[a-z0-9]{0,3})?$`)

// checkSigning finds what would fail minutes later.
func (c *imageBuildCmd) checkSigning() error {
	if (c.SignKey == "") != (c.SignCertificate == "") {
		return usagef("--sign-key and --sign-certificate go together")
	}
	if c.SignKey == "" {
		return nil
	}
	for _, name := range []string{c.SignKey, c.SignCertificate} {
		f, err := os.Open(name)
		if err != nil {
			return usagef("%v", err)
		}
		f.Close()
	}
	if _, err := exec.LookPath("sbsign"); err != nil {
		return usagef("sbsign is needed to sign for Secure Boot, and isn't in PATH (Debian's package sbsigntool)")
	}
	return nil
}

// epoch is the time that all files get.
func (c *imageBuildCmd) epoch() (int64, error) {
	epoch := int64(0)
	if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, usagef("SOURCE_DATE_EPOCH is %q: must be a number, of seconds since 1970", s)
		}
		epoch = n
	}
	if c.Epoch != nil {
		epoch = *c.Epoch
	}
	if epoch < 0 || epoch > math.MaxUint32 {
		return 0, usagef("epoch %d: must be 0 to %d, in seconds since 1970", epoch, uint32(math.MaxUint32))
	}
	return epoch, nil
}
