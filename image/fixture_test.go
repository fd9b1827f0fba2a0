package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// entry is a file of a package in the tests.
type entry struct {
	name string
	body []byte
}

// elfModule is a kernel module as far as parseModinfo looks: an ELF64 file with the sections .shstrtab and .modinfo.
func elfModule(lines ...string) []byte {
	info := []byte(strings.Join(lines, "\x00") + "\x00")
	names := []byte("\x00.shstrtab\x00.modinfo\x00")
	b := make([]byte, elfHeader, 1024)
	copy(b, elfIdent)
	order := binary.LittleEndian
	order.PutUint16(b[16:], 1)  // relocatable
	order.PutUint16(b[18:], 62) // x86-64
	order.PutUint32(b[20:], 1)
	order.PutUint16(b[52:], elfHeader)
	order.PutUint16(b[58:], elfSection)
	order.PutUint16(b[60:], 3)
	order.PutUint16(b[62:], 1)
	namesAt := len(b)
	b = append(b, names...)
	infoAt := len(b)
	b = append(b, info...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	order.PutUint64(b[40:], uint64(len(b)))
	section := func(name, kind uint32, at, size int) {
		h := make([]byte, elfSection)
		order.PutUint32(h, name)
		order.PutUint32(h[4:], kind)
		order.PutUint64(h[24:], uint64(at))
		order.PutUint64(h[32:], uint64(size))
		b = append(b, h...)
	}
	section(0, 0, 0, 0)
	section(1, 3, namesAt, len(names))
	section(11, 1, infoAt, len(info))
	return b
}

// tarOf is a tar archive of entries.
func tarOf(t testing.TB, entries []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.body)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// ar is a Unix archive.
func ar(members ...entry) []byte {
	b := []byte(arMagic)
	for _, m := range members {
		b = append(b, fmt.Sprintf("%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.name, 0, 0, 0, 0o100644, len(m.body))...)
		b = append(b, m.body...)
		if len(m.body)%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}

// debOf is a package whose data archive isn't compressed.
func debOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	return ar(entry{"debian-binary", []byte("2.0\n")}, entry{"control.tar", []byte("odd")}, entry{"data.tar", tarOf(t, entries)})
}

const release = "6.1.0-test"

// kernelEntries are a small kernel package: modules by path, each with its lines of .modinfo.
func kernelEntries(builtin string, modules ...entry) []entry {
	list := []entry{
		{"./boot/vmlinuz-" + release, []byte("the kernel")},
		{"./lib/modules/" + release + "/modules.builtin", []byte(builtin)},
	}
	for _, m := range modules {
		m.name = "./lib/modules/" + release + "/kernel/" + m.name
		list = append(list, m)
	}
	return list
}

func mod(name string, lines ...string) entry {
	return entry{name + ".ko", elfModule(append(lines, "name="+moduleName(name), "vermagic="+release+" SMP")...)}
}

// readKernel reads a package with its scratch in a file of the test.
func readKernel(t testing.TB, deb []byte) (*Kernel, error) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "scratch")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return ReadKernel(bytes.NewReader(deb), f)
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// command runs a stock tool on input; one that is missing fails the test.
func command(t testing.TB, input []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(input)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "MTOOLSRC=/dev/null")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, said.String())
	}
	return out
}

func put(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
