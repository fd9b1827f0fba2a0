package qemutests

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/image"
)

// peer runs a stock tool on the host; one that is missing fails the test.
func peer(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, said.String())
	}
	return string(out)
}

// TestKernelPackagePeers has dpkg-deb unpack the kernel package, and kmod say what its modules need.
func TestKernelPackagePeers(t *testing.T) {
	cache, err := cacheDir()
	if err != nil {
		t.Fatal(err)
	}
	input, inputs, err := kernelPackage(cache)
	if err != nil {
		t.Fatal(err)
	}
	deb, err := inputs.Open(input)
	if err != nil {
		t.Fatal(err)
	}
	defer deb.Close()
	dir := t.TempDir()
	scratch, err := os.Create(filepath.Join(dir, "scratch"))
	if err != nil {
		t.Fatal(err)
	}
	defer scratch.Close()
	k, err := image.ReadKernel(plainPackage(t, dir, deb.Name()), scratch)
	if err != nil {
		t.Fatal(err)
	}

	tree := filepath.Join(dir, "tree")
	peer(t, "dpkg-deb", "-x", deb.Name(), tree)
	modules := filepath.Join(tree, "lib/modules", k.Release)
	peer(t, "depmod", "-b", tree, k.Release)
	if stock := readFile(t, filepath.Join(tree, "boot/vmlinuz-"+k.Release)); !bytes.Equal(stock, readAll(t, k.Image())) {
		t.Error("the kernel isn't what dpkg-deb unpacks")
	}
	checkDepends(t, k, modules)
	checkSoftdeps(t, k, tree)
}

// plainPackage is a package as dpkg-deb unpacks it, since xz takes minutes under the race detector; unpack and
// TestImageBuild read the package as it is.
func plainPackage(t *testing.T, dir, deb string) io.Reader {
	data, err := os.Create(filepath.Join(dir, "data.tar"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { data.Close() })
	cmd := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
	cmd.Stdout = data
	if err := cmd.Run(); err != nil {
		t.Fatalf("dpkg-deb --fsys-tarfile: %v", err)
	}
	size, err := data.Seek(0, io.SeekCurrent)
	if err != nil {
		t.Fatal(err)
	}
	member := func(name string, size int64) string {
		return fmt.Sprintf("%-16s%-12d%-6d%-6d%-8o%-10d`\n", name, 0, 0, 0, 0o100644, size)
	}
	return io.MultiReader(strings.NewReader("!<arch>\n"+member("debian-binary", 4)+"2.0\n"+member("data.tar", size)), io.NewSectionReader(data, 0, size))
}

// checkDepends compares the closure of every module with depmod's table, and its file with dpkg-deb's.
func checkDepends(t *testing.T, k *image.Kernel, modules string) {
	lines := strings.Split(strings.TrimSpace(string(readFile(t, filepath.Join(modules, "modules.dep")))), "\n")
	if len(lines) < 1000 {
		t.Fatalf("depmod knows only %d modules", len(lines))
	}
	depends := make(map[string][]string) // by path, all of them
	for _, line := range lines {
		file, list, _ := strings.Cut(line, ":")
		depends[file] = strings.Fields(list)
	}
	for _, file := range slices.Sorted(maps.Keys(depends)) {
		name := strings.TrimSuffix(filepath.Base(file), ".ko")
		closure, err := k.Closure(name)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		at := make(map[string]int)
		for i, m := range closure {
			at[m.Path] = i + 1
		}
		for _, dep := range depends[file] {
			if at[dep] == 0 || at[dep] > at[file] {
				t.Errorf("%s needs %s before it, and the closure is %v", file, dep, at)
			}
		}
		needed := slices.DeleteFunc(closure, func(m image.Module) bool { return m.Optional })
		if len(needed) != len(depends[file])+1 {
			t.Errorf("%s: the closure needs %d modules, depmod says %d", file, len(needed), len(depends[file])+1)
		}
		for _, m := range needed {
			if m.Path == file && !bytes.Equal(readAll(t, k.Open(m)), readFile(t, filepath.Join(modules, file))) {
				t.Errorf("%s isn't the file that dpkg-deb unpacks", file)
			}
		}
	}
	t.Logf("%d modules compared with depmod's table", len(depends))
}

// checkSoftdeps compares what an appliance loads with modprobe, which knows softdeps and aliases too.
func checkSoftdeps(t *testing.T, k *image.Kernel, tree string) {
	for _, name := range slices.Concat(image.Modules, defaultModules) {
		want := make(map[string]bool)
		for line := range strings.Lines(peer(t, "modprobe", "-C", "/dev/null", "-d", tree, "-S", k.Release, "-D", name)) {
			if fields := strings.Fields(line); fields[0] == "insmod" {
				_, file, _ := strings.Cut(fields[1], k.Release+"/")
				want[file] = true
			}
		}
		closure, err := k.Closure(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got := make(map[string]bool)
		for _, m := range closure {
			got[m.Path] = true
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: the closure is %v, modprobe's %v", name, got, want)
		}
	}
}

// TestImageBuild builds a debugging image with the command, where and as nobody else does, signs it with the key that
// OVMF's snakeoil variables know, and boots it. u-root in it has to be, byte for byte, what another process built at
// another time for the other guests. With SALLYPORT_BIG=1 the image is built twice and compared.
func TestImageBuild(t *testing.T) {
	programs, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	cache, err := cacheDir()
	if err != nil {
		t.Fatal(err)
	}
	_, inputs, err := kernelPackage(cache)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inputs.StubPackage(t.Context()); err != nil {
		t.Fatal(err)
	}
	base, err := userland()
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key")
	peer(t, "openssl", "rsa", "-in", "/usr/share/ovmf/PkKek-1-snakeoil.key", "-passin", "pass:snakeoil", "-out", key)
	const certificate = "/usr/share/ovmf/PkKek-1-snakeoil.pem"
	build := func(umask int, epoch string, more ...string) string {
		out := filepath.Join(t.TempDir(), "out")
		t.Setenv("TMPDIR", t.TempDir())
		t.Setenv("SOURCE_DATE_EPOCH", epoch) // --epoch wins
		old := syscall.Umask(umask)
		defer syscall.Umask(old)
		args := []string{"image", "build", "-o", out, "--debug", "--inputs", filepath.Join(cache, "inputs"), "--epoch", "1700000000", "--console", "ttyS0"}
		peer(t, filepath.Join(programs, "sallyport"), append(args, more...)...)
		return out
	}
	out := build(0o77, "1", "--sign-key", key, "--sign-certificate", certificate)
	initrd, medium := filepath.Join(out, "initramfs.cpio"), filepath.Join(out, "boot.iso")
	built, bootable := readFile(t, initrd), readFile(t, medium)
	t.Logf("initramfs.cpio: %d bytes, of u-root: %d bytes; boot.iso: %d bytes", len(built), len(readFile(t, base)), len(bootable))
	if !bytes.HasPrefix(built, readFile(t, base)) {
		t.Error("u-root differs between two builds")
	}
	if len(bootable) > 32<<20 {
		t.Error("boot.iso has more than 32 MiB")
	}
	peer(t, "sbverify", "--cert", certificate, filepath.Join(out, "sallyport.efi"))
	if os.Getenv("SALLYPORT_BIG") == "1" {
		unsigned := build(0o77, "3")
		again := build(0o22, "2")
		for _, name := range []string{"vmlinuz", "initramfs.cpio", "sallyport.efi", "boot.iso"} {
			if !bytes.Equal(readFile(t, filepath.Join(unsigned, name)), readFile(t, filepath.Join(again, name))) {
				t.Errorf("%s differs between two builds", name)
			}
		}
	} else {
		t.Log("SALLYPORT_BIG is not 1: the image is built only once")
	}

	// One bit of the kernel's command line.
	altered := filepath.Join(t.TempDir(), "altered.iso")
	at := bytes.Index(bootable, []byte("console=ttyS0 quiet panic=10 lockdown=integrity module.sig_enforce=1\x00"))
	if at < 0 {
		t.Fatal("boot.iso doesn't have the command line")
	}
	bootable[at] ^= 1
	if err := os.WriteFile(altered, bootable, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, g := range map[string]Guest{
		"kernel and initramfs": {Kernel: filepath.Join(out, "vmlinuz"), Initrd: initrd},
		"DVD":                  {Medium: medium, Memory: 256},
		"stick":                {Medium: medium, Memory: 256, Stick: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slots <- struct{}{}
			defer func() { <-slots }()
			typeInto(t, g)
		})
	}
	t.Run("altered", func(t *testing.T) {
		t.Parallel()
		slots <- struct{}{}
		defer func() { <-slots }()
		m, err := start(Guest{Medium: altered, Memory: 256})
		if err != nil {
			t.Fatalf("starting a guest: %v", err)
		}
		defer m.stop()
		if found, err := m.console.expect("Access Denied|u-root", bootLimit); err != nil || found != "Access Denied" {
			m.report(t)
			t.Errorf("the console has %q; %v", found, err)
		}
	})
}

// typeInto boots an image until its shell answers.
func typeInto(t *testing.T, g Guest) {
	t.Helper()
	// One time in twenty on a busy machine, the line editor of u-root's shell hangs for good between a command's last key
	// and the command (with no process of the guest's doing anything). Then the machine is booted anew.
	const boots = 5
	for boot := 1; ; boot++ {
		m, err := start(g)
		if err != nil {
			t.Fatalf("starting a guest: %v", err)
		}
		if _, err = m.console.expect(`toggle key help|\$ |# `, bootLimit); err == nil { // of that shell
			err = answers(t, m, "lsmod", `dm_verity`)
		}
		if err == nil {
			err = answers(t, m, "sallyport --version", `sallyport (v|\()`)
		}
		m.stop()
		if err == nil {
			return
		}
		t.Logf("boot %d: the guest's console: %v", boot, err)
		if boot == boots {
			m.report(t)
			t.FailNow()
		}
	}
}

// answers types a command at u-root's shell until it answers: the shell loses what is typed while it sets its terminal up.
func answers(t *testing.T, m *Machine, command, pattern string) (err error) {
	t.Helper()
	for range 3 {
		m.Type(t, command+"\r")
		if _, err = m.console.expect(pattern, 30*time.Second); err == nil {
			return nil
		}
	}
	return err
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readAll(t *testing.T, r io.Reader) []byte {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
