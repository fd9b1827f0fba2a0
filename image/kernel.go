package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

// Scratch holds what was unpacked of a package: some 400 MB of Debian's kernel. An *os.File will do; whoever made it closes it.
type Scratch interface {
	io.Writer
	io.ReaderAt
}

// Kernel is a kernel and its modules, from a Debian package.
type Kernel struct {
	Release string // as uname -r says it, "6.1.0-56-amd64"

	scratch Scratch
	size    int64 // bytes in scratch
	image   extent
	modules map[string]*module  // by name, with "_" for "-"
	aliases map[string][]string // the modules that go by another name, sorted
	builtin map[string]bool     // modules that the kernel has in it
	list    []byte              // modules.builtin
}

// extent is a place in scratch, in bytes.
type extent struct{ at, size int64 }

// module is one module of the package.
type module struct {
	path string // below lib/modules/RELEASE, "kernel/drivers/scsi/sg.ko"
	info modinfo
	file extent
}

// Module is a module of a closure.
type Module struct {
	Name     string // "dm_verity"
	Path     string // below lib/modules/RELEASE, without a suffix for compression: "kernel/drivers/md/dm-verity.ko"
	Depends  []string
	Optional bool // only wished for by others (softdep): that the kernel takes it isn't certain, some need a certain CPU

	file extent
}

// ReadKernel reads a Debian kernel package (linux-image-…) from deb once, front to back, and keeps its kernel and
// modules in scratch, which must be empty and stay there as long as the Kernel is used. A package with none or several
// kernels, or with a module that can't be read, is an error.
func ReadKernel(deb io.Reader, scratch Scratch) (*Kernel, error) {
	k := &Kernel{scratch: scratch, modules: make(map[string]*module), aliases: make(map[string][]string), builtin: make(map[string]bool)}
	if err := readDeb(deb, k.add); err != nil {
		return nil, fmt.Errorf("reading a kernel package: %w", err)
	}
	if k.Release == "" || k.image.size == 0 {
		return nil, errors.New("reading a kernel package: no /boot/vmlinuz-… in it")
	}
	if len(k.modules) == 0 {
		return nil, errors.New("reading a kernel package: no modules in it")
	}
	for _, name := range slices.Sorted(maps.Keys(k.modules)) {
		m := k.modules[name]
		if m.info.release != "" && m.info.release != k.Release {
			return nil, fmt.Errorf("reading a kernel package: %s is for kernel %.64q, and not %q", m.path, m.info.release, k.Release)
		}
		for _, alias := range m.info.aliases {
			k.aliases[alias] = append(k.aliases[alias], name)
		}
	}
	return k, nil
}

// add takes an entry of the package if it is wanted.
func (k *Kernel) add(h *tar.Header, content io.Reader) error {
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	name = strings.TrimPrefix(name, "usr/") // where newer packages have their modules
	if release, ok := strings.CutPrefix(name, "boot/vmlinuz-"); ok {
		if k.image.size != 0 {
			return fmt.Errorf("%.255q: a second kernel", h.Name)
		}
		if err := k.release(release); err != nil {
			return err
		}
		var err error
		k.image, err = k.spool(content)
		return err
	}
	rest, ok := strings.CutPrefix(name, "lib/modules/")
	if !ok {
		return nil
	}
	release, file, ok := strings.Cut(rest, "/")
	if !ok {
		return nil
	}
	if err := k.release(release); err != nil {
		return err
	}
	switch {
	case file == "modules.builtin":
		return k.addBuiltin(content)
	case strings.HasPrefix(file, "kernel/"):
		return k.addModule(file, content)
	}
	return nil
}

// release holds everything in the package to one release of the kernel.
func (k *Kernel) release(release string) error {
	if k.Release == "" {
		if release == "" || len(release) > 64 || strings.ContainsFunc(release, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
			return fmt.Errorf("%.80q is no kernel release", release)
		}
		k.Release = release
	}
	if release != k.Release {
		return fmt.Errorf("two kernel releases, %s and %.64q", k.Release, release)
	}
	return nil
}

func (k *Kernel) addBuiltin(content io.Reader) error {
	list, err := io.ReadAll(io.LimitReader(content, maxList+1))
	if err != nil {
		return err
	}
	if len(list) > maxList {
		return fmt.Errorf("modules.builtin has more than %d bytes", maxList)
	}
	k.list = list
	for line := range strings.Lines(string(list)) {
		k.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	return nil
}

func (k *Kernel) addModule(file string, content io.Reader) error {
	plain, suffix, ok := cutModule(file)
	if !ok {
		return nil
	}
	unpacked, err := unpack(suffix, content)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	b, err := io.ReadAll(io.LimitReader(unpacked, maxModule+1))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if len(b) > maxModule {
		return fmt.Errorf("%s: more than %d bytes", file, maxModule)
	}
	info, err := parseModinfo(file, b)
	if err != nil {
		return err
	}
	name := moduleName(plain)
	if other := k.modules[name]; other != nil {
		return fmt.Errorf("%s: a second module %s beside %s", file, name, other.path)
	}
	at, err := k.spool(bytes.NewReader(b))
	k.modules[name] = &module{plain, info, at}
	return err
}

// spool puts content behind what scratch holds.
func (k *Kernel) spool(content io.Reader) (extent, error) {
	n, err := io.Copy(k.scratch, content)
	at := extent{k.size, n}
	k.size += n
	return at, err
}

// cutModule splits the suffix of a compression off the name of a module's file.
func cutModule(file string) (plain, suffix string, ok bool) {
	i := strings.LastIndex(file, ".ko")
	if i < 0 {
		return "", "", false
	}
	plain, suffix = file[:i+len(".ko")], file[i+len(".ko"):]
	return plain, suffix, suffix == "" || suffix[0] == '.' && !strings.Contains(suffix, "/")
}

// moduleName is the name by which the kernel knows the module of a file.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}

// Image is the kernel itself, what stands as /boot/vmlinuz-RELEASE in the package.
func (k *Kernel) Image() *io.SectionReader {
	return io.NewSectionReader(k.scratch, k.image.at, k.image.size)
}

// Open is the file of a module of this kernel, with its signature.
func (k *Kernel) Open(m Module) *io.SectionReader {
	return io.NewSectionReader(k.scratch, m.file.at, m.file.size)
}
