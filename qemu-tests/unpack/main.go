// Unpack takes the kernel and a closure of modules out of the kernel package among some inputs: a program of its own,
// since the race detector would make it take minutes.
//
// Usage: unpack INPUTS NEW-DIRECTORY MODULE…
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"sallyport/image"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: unpack INPUTS NEW-DIRECTORY MODULE…")
		os.Exit(2)
	}
	if err := unpack(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "unpack:", err)
		os.Exit(1)
	}
}

func unpack(dir, out string, modules []string) error {
	inputs, err := image.OpenInputs(dir)
	if err != nil {
		return err
	}
	input, err := inputs.KernelPackage(context.Background())
	if err != nil {
		return err
	}
	if err := os.Mkdir(out, 0o755); err != nil {
		return err
	}
	deb, err := inputs.Open(input)
	if err != nil {
		return err
	}
	defer deb.Close()
	scratch, err := os.Create(filepath.Join(out, "scratch"))
	if err != nil {
		return err
	}
	defer scratch.Close()
	if err := os.Remove(scratch.Name()); err != nil {
		return err
	}
	k, err := image.ReadKernel(deb, scratch)
	if err != nil {
		return err
	}
	closure, err := k.Closure(modules...)
	if err != nil {
		return err
	}
	return errors.Join(
		create(filepath.Join(out, "vmlinuz"), func(w io.Writer) error { _, err := io.Copy(w, k.Image()); return err }),
		create(filepath.Join(out, "modules.cpio"), func(w io.Writer) error {
			return image.WriteInitramfs(w, nil, k.ModuleFiles(closure), 0)
		}))
}

func create(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
