package image

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// ModuleFiles are modules as an initramfs has them, with the lists that u-root's init loads them by at boot:
// lib/modules/RELEASE has the files, modules.dep and modules.builtin, and lib/modules-load.d/sallyport.conf names them
// in their order.
func (k *Kernel) ModuleFiles(modules []Module) []File {
	dir := path.Join("lib/modules", k.Release)
	var files []File
	var order, deps strings.Builder
	paths := make(map[string]string)
	for _, m := range modules {
		paths[m.Name] = m.Path
		files = append(files, File{Path: path.Join(dir, m.Path), Mode: 0o644, Size: m.file.size, Content: k.Open(m)})
		fmt.Fprintln(&order, m.Name)
	}
	for _, m := range modules {
		deps.WriteString(m.Path + ":")
		for _, dep := range k.allDepends(m) {
			if file, ok := paths[dep]; ok {
				deps.WriteString(" " + file)
			}
		}
		deps.WriteByte('\n')
	}
	return append(files,
		text(path.Join(dir, "modules.dep"), deps.String()),
		text(path.Join(dir, "modules.builtin"), string(k.list)),
		text("lib/modules-load.d/sallyport.conf", order.String()))
}

// allDepends are the modules that m needs, directly or not, in depmod's order: what is loaded first stands last.
func (k *Kernel) allDepends(m Module) []string {
	var order []string
	var add func(string)
	add = func(name string) {
		if dep := k.modules[name]; dep != nil && !slices.Contains(order, name) {
			for _, below := range dep.info.depends {
				add(below)
			}
			order = append(order, name)
		}
	}
	for _, name := range m.Depends {
		add(name)
	}
	slices.Reverse(order)
	return order
}

// text is a small regular file.
func text(name, content string) File {
	return File{Path: name, Mode: 0o644, Size: int64(len(content)), Content: strings.NewReader(content)}
}

// Complete is the last file of an initramfs that WriteInitramfs made. A kernel that is short of memory boots with
// half an archive: whoever runs in it goes no further unless this file is there.
const Complete = ".complete"

// WriteInitramfs writes an initramfs: the newc archive base as it is, which may be nil, then one of files and of the
// empty file Complete. epoch is the time of the files, in seconds since 1970. A later entry of the same path as one in
// base replaces it.
func WriteInitramfs(w io.Writer, base io.Reader, files []File, epoch int64) error {
	if base != nil {
		n, err := io.Copy(w, base)
		if err != nil {
			return fmt.Errorf("initramfs: %w", err)
		}
		if pad := -n & 511; pad > 0 {
			if _, err := w.Write(make([]byte, pad)); err != nil {
				return fmt.Errorf("initramfs: %w", err)
			}
		}
	}
	return writeCPIO(w, append(slices.Clone(files), text(Complete, "")), epoch)
}
