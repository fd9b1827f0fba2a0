package image

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadKernel(t *testing.T) {
	entries := kernelEntries("kernel/fs/ext9.ko\n", mod("a/one-two"), mod("b"))
	data := tarOf(t, entries)
	xz := command(t, data, "xz", "-c")
	binary := entry{"debian-binary", []byte("2.0\n")}
	packed := kernelEntries("", entry{"p.ko.xz", command(t, mod("p").body, "xz", "-c", "--check=crc32")}, entry{"q.ko.gz", gz(t, mod("q").body)})
	for _, tt := range []struct {
		name    string
		deb     []byte
		modules string
	}{
		{"plain", debOf(t, entries...), "b one_two"},
		{"gzip", ar(binary, entry{"control.tar.xz", xz}, entry{"data.tar.gz", gz(t, data)}), "b one_two"},
		{"xz", ar(binary, entry{"control.tar.zst", []byte("?")}, entry{"data.tar.xz", xz}), "b one_two"},
		{"a member that is to be ignored", ar(binary, entry{"_more", []byte("odd")}, entry{"data.tar.xz/", xz}), "b one_two"},
		{"modules packed", debOf(t, packed...), "p q"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, err := readKernel(t, tt.deb)
			if err != nil {
				t.Fatal(err)
			}
			image, err := io.ReadAll(k.Image())
			if err != nil || string(image) != "the kernel" || k.Release != release {
				t.Errorf("the kernel is %q of release %q, %v", image, k.Release, err)
			}
			closure, err := k.Closure(strings.Fields(tt.modules)...)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range closure {
				b, err := io.ReadAll(k.Open(m))
				if want := mod(m.Name).body; m.Name != "one_two" && (err != nil || !bytes.Equal(b, want)) {
					t.Errorf("the module %s has %q, want %q, %v", m.Name, b, want, err)
				}
			}
		})
	}
}

// TestReadDebPeer has dpkg-deb make the package.
func TestReadDebPeer(t *testing.T) {
	dir := t.TempDir()
	for _, e := range kernelEntries("", mod("a"), mod("deep/er/b", "depends=a")) {
		put(t, filepath.Join(dir, "tree", e.name), e.body)
	}
	put(t, filepath.Join(dir, "tree/DEBIAN/control"), []byte("Package: linux-image-test\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody <nobody@example.org>\nDescription: test\n"))
	for _, kind := range []string{"xz", "gzip", "none"} {
		file := filepath.Join(dir, kind+".deb")
		command(t, nil, "dpkg-deb", "-Z"+kind, "--root-owner-group", "-b", filepath.Join(dir, "tree"), file)
		deb, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		k, err := readKernel(t, deb)
		if err != nil {
			t.Fatalf("-Z%s: %v", kind, err)
		}
		closure, err := k.Closure("b")
		if err != nil || order(closure) != "a b" {
			t.Errorf("-Z%s: the closure of b is %q, %v", kind, order(closure), err)
		}
	}
}

func TestReadKernelErrors(t *testing.T) {
	good := debOf(t, kernelEntries("", mod("a"))...)
	binary := entry{"debian-binary", []byte("2.0\n")}
	with := func(e ...entry) []byte { return debOf(t, append(kernelEntries("", mod("a")), e...)...) }
	long := mod("a").body
	noName := bytes.Replace(bytes.Clone(long), []byte(".modinfo"), []byte(".modinfa"), 1)
	outside := bytes.Clone(long)
	outside[40+6] = 1
	for _, tt := range []struct {
		name string
		deb  []byte
		want string
	}{
		{"empty", nil, "byte 0: no Debian package begins so"},
		{"something else", []byte("PK\x03\x04 and so on"), "byte 0: no Debian package begins so"},
		{"version 3", ar(entry{"debian-binary", []byte("3.0\n")}), "no Debian package of version 2"},
		{"another first member", ar(entry{"data.tar", nil}), "no Debian package of version 2"},
		{"no data", ar(binary, entry{"control.tar", []byte("x")}), "byte 134: the package ends before its data archive"},
		{"bad member", append(ar(binary), bytes.Repeat([]byte("x"), 60)...), "byte 72: no header of a member"},
		{"bad size", bytes.Replace(ar(binary, entry{"data.tar", nil}), []byte("0         `"), []byte("-1        `"), 1), "the size of the member is no number"},
		{"half a header", append(ar(binary), "data"...), "ends within the header of a member"},
		{"half a member", ar(binary, entry{"control.tar", []byte("xxxx")})[:134], "the package ends within a member"},
		{"zstd", ar(binary, entry{"data.tar.zst", []byte("x")}), `compression ".zst" is not supported`},
		{"cut short", good[:len(good)-2000], "unexpected EOF"},
		{"cut xz", ar(binary, entry{"data.tar.xz", command(t, tarOf(t, kernelEntries("", mod("a"))), "xz", "-c")[:200]}), "truncated"},
		{"no kernel", debOf(t, kernelEntries("", mod("a"))[1:]...), "no /boot/vmlinuz-"},
		{"no modules", debOf(t, kernelEntries("")...), "no modules in it"},
		{"two kernels", with(entry{"boot/vmlinuz-" + release, []byte("again")}), "a second kernel"},
		{"two releases", with(entry{"lib/modules/5.0/kernel/a.ko", long}), `two kernel releases, 6.1.0-test and "5.0"`},
		{"a release that is none", debOf(t, entry{"boot/vmlinuz-a b", []byte("x")}), "is no kernel release"},
		{"a module twice", with(entry{"lib/modules/" + release + "/kernel/x/a.ko", long}), "kernel/x/a.ko: a second module a beside kernel/a.ko"},
		{"a module of another kernel", debOf(t, kernelEntries("", entry{"b.ko", elfModule("vermagic=5.0 SMP")})...), `kernel/b.ko is for kernel "5.0"`},
		{"a module that is none", with(entry{"lib/modules/" + release + "/kernel/b.ko", []byte("#!/bin/sh")}), "kernel/b.ko: byte 0: no 64-bit little-endian ELF file"},
		{"a module without modinfo", with(entry{"lib/modules/" + release + "/kernel/b.ko", noName}), "no section .modinfo"},
		{"sections outside", with(entry{"lib/modules/" + release + "/kernel/b.ko", outside}), "kernel/b.ko: byte 40: the section headers lie outside"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := readKernel(t, tt.deb)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ReadKernel: %v, want %q in it", err, tt.want)
			}
		})
	}
}

// TestReadTarLimits sees that a small archive can't ask for more than the limits.
func TestReadTarLimits(t *testing.T) {
	huge := tarOf(t, []entry{{"a", nil}})
	copy(huge[124:], "77777777777\x00") // 8 GiB
	sum := 0
	copy(huge[148:], "        ")
	for _, b := range huge[:512] {
		sum += int(b)
	}
	copy(huge[148:], []byte{byte('0' + sum>>15&7), byte('0' + sum>>12&7), byte('0' + sum>>9&7), byte('0' + sum>>6&7), byte('0' + sum>>3&7), byte('0' + sum&7), 0, ' '})
	_, err := readKernel(t, ar(entry{"debian-binary", []byte("2.0\n")}, entry{"data.tar", huge}))
	if err == nil || !strings.Contains(err.Error(), "has 8589934591 bytes, more than") {
		t.Errorf("a file of 8 GiB: %v", err)
	}
	b := &boundedReader{r: bytes.NewReader(make([]byte, 10)), left: 4}
	if n, err := io.Copy(io.Discard, b); n != 4 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("behind the limit: %d bytes, %v", n, err)
	}
}
