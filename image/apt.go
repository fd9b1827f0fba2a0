package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// KernelMetaPackage is Debian's package that needs the current kernel, and brings none itself.
const KernelMetaPackage = "linux-image-amd64"

// record is what apt knows of a package.
type record struct{ name, version, arch, sha256, depends string }

// stubPackage is Debian's package with systemd's EFI stub, which is what a unified kernel image begins with.
const stubPackage = "systemd-boot-efi"

// fetch downloads a package, whose name apt is asked for, into dir with apt-get, which checks it against Debian's signed
// index, and returns the file and what apt says of it. It needs no root and installs nothing: when the package lists
// of the system lack the package, or name one that the mirror has no more, it fetches lists of its own into dir.
func fetch(ctx context.Context, dir string, name func(context.Context, *apt) (string, error)) (string, record, error) {
	apt := apt{dir: dir}
	file, r, err := apt.download(ctx, name)
	if err == nil || ctx.Err() != nil {
		return file, r, err
	}
	if failed := apt.update(ctx); failed != nil {
		return "", record{}, fmt.Errorf("%w; then %w", err, failed)
	}
	return apt.download(ctx, name)
}

// currentKernel is the name of the kernel package that the meta package needs.
func currentKernel(ctx context.Context, a *apt) (string, error) {
	meta, err := a.show(ctx, KernelMetaPackage)
	if err != nil {
		return "", err
	}
	name := meta.kernel()
	if name == "" {
		return "", fmt.Errorf("the package %s %s needs no linux-image: %q", meta.name, meta.version, meta.depends)
	}
	return name, nil
}

// apt runs apt's programs.
type apt struct {
	dir     string
	options []string
}

// update fetches package lists into the directory.
func (a *apt) update(ctx context.Context) error {
	lists, cache := filepath.Join(a.dir, "lists"), filepath.Join(a.dir, "cache")
	if err := errors.Join(os.MkdirAll(filepath.Join(lists, "partial"), 0o755), os.MkdirAll(filepath.Join(cache, "archives", "partial"), 0o755)); err != nil {
		return fmt.Errorf("fetching package lists: %w", err)
	}
	a.options = []string{"-o", "Dir::State::lists=" + lists, "-o", "Dir::Cache=" + cache, "-o", "Debug::NoLocking=1"}
	if _, err := a.run(ctx, "apt-get", "-q", "update"); err != nil {
		return fmt.Errorf("fetching package lists: %w", err)
	}
	return nil
}

// download gets the package whose name apt is asked for.
func (a *apt) download(ctx context.Context, ask func(context.Context, *apt) (string, error)) (string, record, error) {
	name, err := ask(ctx, a)
	if err != nil {
		return "", record{}, err
	}
	r, err := a.show(ctx, name)
	if err != nil {
		return "", record{}, err
	}
	if _, err := a.run(ctx, "apt-get", "-q", "-o", "Acquire::Retries=3", "download", r.name+"="+r.version); err != nil {
		return "", record{}, err
	}
	found, err := filepath.Glob(filepath.Join(a.dir, "*.deb"))
	if err != nil || len(found) != 1 {
		return "", record{}, fmt.Errorf("apt-get download %s left %d packages", r.name, len(found))
	}
	return found[0], r, nil
}

// kernel is the name of the kernel package that a meta package depends on.
func (r record) kernel() string {
	for depend := range strings.SplitSeq(r.depends, ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(depend), " ")
		if strings.HasPrefix(name, "linux-image-") && name != KernelMetaPackage {
			return name
		}
	}
	return ""
}

// show asks apt for its record of a package.
func (a *apt) show(ctx context.Context, name string) (record, error) {
	out, err := a.run(ctx, "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return record{}, err
	}
	var r record
	fields := map[string]*string{"Package": &r.name, "Version": &r.version, "Architecture": &r.arch, "SHA256": &r.sha256, "Depends": &r.depends}
	for line := range strings.Lines(string(out)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if field := fields[key]; ok && field != nil && *field == "" {
			*field = strings.TrimSpace(value)
		}
	}
	if r.name != name || r.version == "" || len(r.sha256) != 64 {
		return record{}, fmt.Errorf("apt-cache show %s: no such package", name)
	}
	return r, nil
}

func (a *apt) run(ctx context.Context, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, append(a.options, args...)...)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, lastLines(said.Bytes()))
	}
	return out.Bytes(), nil
}
