package qemutests

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"

	"sallyport/image"
)

// source is this module's top.
func source() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(file))
}

// sourcesOf is the text of a package of this module, for the key of what the package makes.
func sourcesOf(pkg string) ([]byte, error) {
	var text []byte
	files, err := filepath.Glob(filepath.Join(source(), pkg, "*.go"))
	for _, file := range files {
		b, readErr := os.ReadFile(file)
		if readErr != nil {
			return nil, readErr
		}
		text = append(text, b...)
	}
	return text, err
}

// userland is u-root's archive.
var userland = sync.OnceValues(func() (string, error) {
	version, err := exec.Command("go", "version").Output()
	if err != nil {
		return "", fmt.Errorf("go version: %w", err)
	}
	return cached("userland", append(version, image.UserlandInputs()...), func(out string) error {
		return image.Userland(context.Background(), out)
	})
})

// kernel is the package that the cache has, and a directory with vmlinuz and an archive of the modules.
func kernel(modules []string) (vmlinuz, archive string, err error) {
	dir, err := cacheDir()
	if err != nil {
		return "", "", err
	}
	inputs := filepath.Join(dir, "inputs")
	input, _, err := kernelPackage(dir)
	if err != nil {
		return "", "", err
	}
	code, err := sourcesOf("image")
	if err != nil {
		return "", "", err
	}
	key := fmt.Appendf(code, "%s %q", input.SHA256, modules)
	dir, err = programs()
	if err != nil {
		return "", "", err
	}
	made, err := cached("kernel", key, func(out string) error {
		said, err := exec.Command(filepath.Join(dir, "unpack"), append([]string{inputs, out}, modules...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("unpack: %w: %s", err, said)
		}
		return nil
	})
	return filepath.Join(made, "vmlinuz"), filepath.Join(made, "modules.cpio"), err
}

// kernelPackage has the package fetched once, by one process.
func kernelPackage(dir string) (image.Input, *image.Inputs, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock-inputs"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return image.Input{}, nil, err
	}
	defer lock.Close()
	if err := flock(lock); err != nil {
		return image.Input{}, nil, err
	}
	inputs, err := image.OpenInputs(filepath.Join(dir, "inputs"))
	if err != nil {
		return image.Input{}, nil, err
	}
	input, err := inputs.KernelPackage(context.Background())
	return input, inputs, err
}

func create(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// programs are sallyport, the agent and unpack, built from this tree, without the race detector.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "sallyport-guest-")
	if err != nil {
		return "", err
	}
	atExit(func() { os.RemoveAll(dir) })
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", dir+"/")
	if overlay := os.Getenv("SALLYPORT_OVERLAY"); overlay != "" { // a check is taken out (.ci/removals)
		cmd.Args = append(cmd.Args, "-overlay="+overlay)
	}
	cmd.Args = append(cmd.Args, "./cmd/sallyport", "./qemu-tests/agent/guest", "./qemu-tests/unpack")
	cmd.Dir = source()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return dir, nil
})

// initramfs joins userland, modules, sallyport and the agent.
func initramfs(archive string) (string, error) {
	base, err := userland()
	if err != nil {
		return "", err
	}
	dir, err := programs()
	if err != nil {
		return "", err
	}
	sallyport, err := os.ReadFile(filepath.Join(dir, "sallyport"))
	if err != nil {
		return "", err
	}
	agent, err := os.ReadFile(filepath.Join(dir, "guest"))
	if err != nil {
		return "", err
	}
	programs, key := guestFiles(sallyport, agent)
	return cached("initramfs", fmt.Appendf(key, "%s %s", base, archive), func(out string) error {
		return create(out, func(w io.Writer) error {
			for _, name := range []string{base, archive} {
				if err := copyFile(w, name); err != nil {
					return err
				}
			}
			return image.WriteInitramfs(w, nil, programs, 0)
		})
	})
}

// guestFiles are the programs of a guest, and a key for them.
func guestFiles(sallyport, agent []byte) ([]image.File, []byte) {
	program := func(name string, b []byte) image.File {
		return image.File{Path: name, Mode: 0o755, Size: int64(len(b)), Content: bytes.NewReader(b)}
	}
	hash := sha256.New()
	hash.Write(sallyport)
	hash.Write(agent)
	return []image.File{
		program("opt/sallyport/sallyport", sallyport),
		{Path: "bin/sallyport", Mode: fs.ModeSymlink, Target: "/opt/sallyport/sallyport"},
		program("bin/uinit", agent),
	}, hash.Sum(nil)
}

func copyFile(w io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
