package image

import (
	"bytes"
	"strings"
	"testing"
)

// memory is a Scratch for the fuzz targets.
type memory struct{ b []byte }

func (m *memory) Write(p []byte) (int, error) {
	m.b = append(m.b, p...)
	return len(p), nil
}

func (m *memory) ReadAt(p []byte, at int64) (int, error) { return bytes.NewReader(m.b).ReadAt(p, at) }

// FuzzReadKernel reads any bytes as a package; what it takes has a closure for each module, or says why not.
func FuzzReadKernel(f *testing.F) {
	f.Add(debOf(f, kernelEntries("kernel/b.ko\n", mod("a", "depends=b"), mod("c", "softdep=pre: a post: d", "alias=e"), mod("d", "depends=c"))...))
	f.Add(debOf(f, kernelEntries("", mod("a", "depends=b"), mod("b", "depends=a"))...))
	f.Add(ar(entry{"debian-binary", []byte("2.0\n")}, entry{"data.tar.gz", gz(f, tarOf(f, kernelEntries("", mod("a"))))}))
	f.Add(ar(entry{"debian-binary", []byte("2.0\n")}, entry{"data.tar.xz", command(f, tarOf(f, kernelEntries("", mod("a"))), "xz", "-c")}))
	f.Fuzz(func(t *testing.T, deb []byte) {
		k, err := ReadKernel(bytes.NewReader(deb), &memory{})
		if err != nil {
			return
		}
		for name := range k.modules {
			closure, err := k.Closure(name)
			if err != nil {
				continue
			}
			at := make(map[string]int)
			for i, m := range closure {
				at[m.Name] = i + 1
			}
			if at[name] == 0 {
				t.Errorf("%q isn't in its own closure", name)
			}
			for i, m := range closure {
				for _, dep := range m.Depends {
					if !k.builtin[dep] && (at[dep] == 0 || at[dep] > i) {
						t.Errorf("%q comes without %q before it", m.Name, dep)
					}
				}
			}
		}
	})
}

// FuzzModinfo reads any bytes as a module.
func FuzzModinfo(f *testing.F) {
	f.Add(elfModule("depends=a,b-c", "softdep=pre: x post: y", "alias=pci:v*", "alias=net-pf-1", "vermagic=6.1 SMP"))
	f.Add(elfModule(""))
	f.Fuzz(func(t *testing.T, module []byte) {
		info, err := parseModinfo("m.ko", module)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "m.ko: byte ") {
				t.Errorf("an error without path and byte: %v", err)
			}
			return
		}
		for _, list := range [][]string{info.depends, info.pre, info.post, info.aliases} {
			for _, name := range list {
				if name == "" || strings.Contains(name, "-") || strings.ContainsRune(name, 0) {
					t.Errorf("the name %q", name)
				}
			}
		}
	})
}

// FuzzIndex reads any bytes as index.json.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"type":"sallyport-inputs","inputs":[{"name":"a","version":"1","sha256":"` + strings.Repeat("0a", 32) + `","size":3}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseIndex(b)
		if err != nil {
			return
		}
		for _, input := range list {
			if len(input.SHA256) != 64 || strings.ContainsAny(input.SHA256, "/.") || input.Size < 0 {
				t.Errorf("the input %+v", input)
			}
		}
	})
}
