package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// initrdWindow is how far zstd looks back, in bytes, and so what the kernel takes to unpack beside the archive.
const initrdWindow = 8 << 20

func (c *Config) stub(ctx context.Context) ([]byte, Input, error) {
	input, err := c.Inputs.StubPackage(ctx)
	if err != nil {
		return nil, Input{}, err
	}
	deb, err := c.Inputs.Open(input)
	if err != nil {
		return nil, Input{}, err
	}
	defer deb.Close()
	stub, err := ReadStub(deb)
	if err != nil {
		return nil, Input{}, fmt.Errorf("%s %s: %w", input.Name, input.Version, err)
	}
	return stub, input, nil
}

// bootable makes sallyport.efi and boot.iso, of the initramfs that is in dir.
func (c *Config) bootable(ctx context.Context, built *Built, dir, work string, k *Kernel, stub []byte) error {
	packed := filepath.Join(work, "initramfs.zst")
	if err := compress(filepath.Join(dir, "initramfs.cpio"), packed); err != nil {
		return err
	}
	unsigned := filepath.Join(work, "unsigned.efi")
	if err := c.unify(unsigned, packed, k, stub); err != nil {
		return err
	}
	program := unsigned
	if c.SignKey != "" {
		program = filepath.Join(work, "signed.efi")
		if err := sign(ctx, unsigned, program, c.SignKey, c.SignCertificate); err != nil {
			return err
		}
		built.Signed = true
	}
	f, size, err := openSized(program)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := built.write(dir, "sallyport.efi", func(w io.Writer) error { _, err := io.Copy(w, f); return err }); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return built.write(dir, "boot.iso", func(w io.Writer) error { return WriteMedium(w, f, size, c.Epoch) })
}

// unify writes a unified kernel image to a new file.
func (c *Config) unify(to, initrd string, k *Kernel, stub []byte) error {
	archive, size, err := openSized(initrd)
	if err != nil {
		return err
	}
	defer archive.Close()
	text := func(name, content string) Section {
		return Section{name, int64(len(content)), strings.NewReader(content)}
	}
	sections := []Section{
		text(".osrel", "ID=sallyport\nNAME=Sallyport\nPRETTY_NAME=\"Sallyport, for debugging\"\n"),
		text(".cmdline", c.commandLine()+"\x00"),
		text(".uname", k.Release),
		{".initrd", size, archive},
		{".linux", k.image.size, k.Image()},
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := WriteUKI(f, stub, sections); err != nil {
		return err
	}
	return f.Close()
}

// compress packs a file with zstd, on one thread so that the result depends on nothing else.
func compress(from, to string) error {
	in, _, err := openSized(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	w, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(initrdWindow))
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, in); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return out.Close()
}

// sign has sbsign sign a program for Secure Boot. It asks on the terminal for a key's password.
func sign(ctx context.Context, from, to, key, certificate string) error {
	cmd := exec.CommandContext(ctx, "sbsign", "--key", key, "--cert", certificate, "--output", to, from)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("signing for Secure Boot with %s: sbsign: %w: %s", key, err, lastLines(said.Bytes()))
	}
	return nil
}

func openSized(name string) (*os.File, int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}
