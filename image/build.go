package image

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Modules are what an appliance loads: optical drives, USB, SATA, NVMe and virtio storage, the file systems it writes,
// dm-verity, keyboards, TPM, and no network.
var Modules = []string{
	"sr_mod", "cdrom", "sg", "sd_mod", "isofs", "usb-storage", "uas", "xhci-pci", "ehci-pci", "ohci-pci", "uhci-hcd",
	"ahci", "ata_piix", "nvme", "virtio_pci", "virtio_blk", "virtio_scsi", "virtio_console", "loop", "dm-verity",
	"reed_solomon", "ext4", "crc32c", "vfat", "usbhid", "hid_generic", "evdev", "efivarfs", "tpm_tis", "tpm_crb",
}

// Config says what an image is made of.
type Config struct {
	Inputs  *Inputs
	Program string   // the file of sallyport, which must be statically linked
	Modules []string // nil for Modules
	Epoch   int64    // the time of all files, in seconds since 1970

	Console string // the kernel's name of where people sit, which boots by UEFI are told: "ttyS0,115200"; "" for the screen, tty0

	// SignKey and SignCertificate are PEM files with which sbsign signs what firmware starts; "" for none.
	SignKey, SignCertificate string
}

// commandLine is what the kernel is told: Linux takes modules of its builder alone, and keeps root from changing it. It
// stands in the unified kernel image, whose stub takes no other where Secure Boot is on. There is one console, since
// u-root's shell edits lines on none of several.
func (c *Config) commandLine() string {
	console := c.Console
	if console == "" {
		console = "tty0"
	}
	return "console=" + console + " quiet panic=10 lockdown=integrity module.sig_enforce=1"
}

// Built is what an image was made of, and its files.
type Built struct {
	Release string   `json:"kernel_release"`
	Kernel  Input    `json:"kernel_package"`
	Stub    Input    `json:"stub_package"`
	Signed  bool     `json:"signed"`
	Modules []string `json:"modules"`
	Files   []Output `json:"files"`
}

// Output is a file of an image.
type Output struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // in bytes
	SHA256 string `json:"sha256"`
}

// Build writes a debugging image, with u-root's init and shell, and sallyport, to the directory dir, which it makes when
// it isn't there: vmlinuz and initramfs.cpio for a boot loader, sallyport.efi for UEFI, and boot.iso, a disc or a stick
// that starts it. The same packages, program and Go toolchain give the same bytes, but for signatures.
func Build(ctx context.Context, dir string, c Config) (_ *Built, err error) {
	if err := checkStatic(c.Program); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "sallyport-image-")
	if err != nil {
		return nil, fmt.Errorf("building an image: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	input, err := c.Inputs.KernelPackage(ctx)
	if err != nil {
		return nil, err
	}
	scratch, err := os.Create(filepath.Join(work, "scratch"))
	if err != nil {
		return nil, fmt.Errorf("building an image: %w", err)
	}
	defer scratch.Close()
	k, err := c.Inputs.readKernel(input, scratch)
	if err != nil {
		return nil, err
	}
	wanted := c.Modules
	if wanted == nil {
		wanted = Modules
	}
	modules, err := k.Closure(wanted...)
	if err != nil {
		return nil, err
	}
	base := filepath.Join(work, "userland.cpio")
	if err := Userland(ctx, base); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("building an image: %w", err)
	}
	stub, stubInput, err := c.stub(ctx)
	if err != nil {
		return nil, err
	}
	built := &Built{Release: k.Release, Kernel: input, Stub: stubInput, Modules: make([]string, 0, len(modules))}
	for _, m := range modules {
		built.Modules = append(built.Modules, m.Name)
	}
	err = built.write(dir, "vmlinuz", func(w io.Writer) error { _, err := io.Copy(w, k.Image()); return err })
	if err != nil {
		return nil, err
	}
	err = built.write(dir, "initramfs.cpio", func(w io.Writer) error { return c.initramfs(w, base, k.ModuleFiles(modules)) })
	if err != nil {
		return nil, err
	}
	return built, errors.Join(c.bootable(ctx, built, dir, work, k, stub), syncDir(dir))
}

func (in *Inputs) readKernel(input Input, scratch Scratch) (*Kernel, error) {
	deb, err := in.Open(input)
	if err != nil {
		return nil, err
	}
	defer deb.Close()
	k, err := ReadKernel(deb, scratch)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", input.Name, input.Version, err)
	}
	return k, nil
}

// initramfs joins the userland, the modules and sallyport.
func (c *Config) initramfs(w io.Writer, base string, modules []File) error {
	userland, err := os.Open(base)
	if err != nil {
		return err
	}
	defer userland.Close()
	program, err := os.Open(c.Program)
	if err != nil {
		return err
	}
	defer program.Close()
	info, err := program.Stat()
	if err != nil {
		return err
	}
	files := append(modules, File{Path: "bin/sallyport", Mode: 0o755, Size: info.Size(), Content: program})
	return WriteInitramfs(w, userland, files, c.Epoch)
}

// write makes one file of the image under its name, which it takes up when it is complete and durable.
func (b *Built) write(dir, name string, write func(io.Writer) error) error {
	f, err := renameio.NewPendingFile(filepath.Join(dir, name), renameio.WithStaticPermissions(0o644))
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	defer f.Cleanup()
	hash := sha256.New()
	if err := write(io.MultiWriter(f, hash)); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err == nil {
		err = f.CloseAtomicallyReplace()
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	b.Files = append(b.Files, Output{name, size, hex.EncodeToString(hash.Sum(nil))})
	return nil
}

// ProgramError is a sallyport that can't run in an initramfs.
type ProgramError struct {
	Path string
	Why  string
}

func (e *ProgramError) Error() string {
	return fmt.Sprintf("%s can't run in an image: %s; build it with make build, or CGO_ENABLED=0 GOARCH=amd64 go build", e.Path, e.Why)
}

// checkStatic holds back a program that needs a dynamic linker, or another machine.
func checkStatic(name string) error {
	f, err := elf.Open(name)
	var format *elf.FormatError
	if errors.As(err, &format) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &ProgramError{name, "it is no ELF program"}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return &ProgramError{name, "it is not there"}
	}
	if err != nil {
		return fmt.Errorf("looking at %s: %w", name, err)
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 || f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return &ProgramError{name, fmt.Sprintf("it is a %v for %v, and no program for x86-64", f.Type, f.Machine)}
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return &ProgramError{name, "it needs a dynamic linker"}
		}
	}
	return nil
}
