package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sallyport/bundle"
	"sallyport/bundle/trust"
)

// kept runs the demo over a payload of every kind and returns what it keeps and the payload.
func kept(t *testing.T) (out, payload string) {
	t.Helper()
	dir := t.TempDir()
	out, payload = filepath.Join(dir, "out"), filepath.Join(dir, "payload")
	if err := copyTree(filepath.Join(fixture(t), "payload"), mkdir(t, payload)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{`with space`: "a", `back\slash`: "b", `quote's`: "c", `dollar$(false)`: "d", "large": strings.Repeat("0123456789", 40000)} {
		if err := os.WriteFile(filepath.Join(payload, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), []string{"demo", "--payload", payload, "--keep", out}, strings.NewReader(""), &stdout, &stderr); code != 0 {
		t.Fatalf("demo: exit status %d\n%s%s", code, &stdout, &stderr)
	}
	return out, payload
}

func mkdir(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// signByGnuPG lets a third person sign the disc in out, with stock gpg, and leaves the key as keys/carol.gpg.
func signByGnuPG(t *testing.T, out string) {
	t.Helper()
	disc := filepath.Join(out, "disc.img")
	b, err := os.ReadFile(disc)
	if err != nil {
		t.Fatal(err)
	}
	c, err := bundle.Inspect(t.Context(), bundle.Source{ReaderAt: bytes.NewReader(b), Size: int64(len(b))})
	if err != nil {
		t.Fatal(err)
	}
	gpg := stockGnuPG(t)
	gpg(nil, "--quick-generate-key", "carol", "ed25519", "sign,cert", "0")
	if err := os.WriteFile(filepath.Join(out, "keys", "carol.gpg"), gpg(nil, "--export", "carol"), 0o644); err != nil {
		t.Fatal(err)
	}
	slot, err := trust.EncodeSlot(gpg(c.Message, "--armor", "--detach-sign"))
	if err != nil {
		t.Fatal(err)
	}
	for _, seal := range []int64{c.Geometry.SealA(), c.Geometry.SealB()} {
		copy(b[(seal+6)*bundle.BlockSize:], slot[:])
	}
	if err := os.WriteFile(disc, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// stockGnuPG runs gpg in a home of its own; keys are made without a passphrase.
func stockGnuPG(t *testing.T) func(input []byte, args ...string) []byte {
	t.Helper()
	// An agent's socket needs a short path.
	home, err := os.MkdirTemp("", "g")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "GNUPGHOME="+home, "LC_ALL=C")
		return cmd
	}
	// The agent of this home only.
	t.Cleanup(func() { _ = command("gpgconf", "--kill", "gpg-agent").Run() })
	return func(input []byte, args ...string) []byte {
		t.Helper()
		cmd := command("gpg", append([]string{"--batch", "--no-tty", "--yes", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...)
		var out, errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("the stock gpg is needed as a peer: gpg %s: %v\n%s", strings.Join(args, " "), err, &errs)
		}
		return out.Bytes()
	}
}

// inspectionRoom is a folder as by-hand.md wants it: the public keys of the three signers, and the disc's copy.
func inspectionRoom(t *testing.T, out, disc string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"preparer.pub", "approver.pub", "carol.gpg"} {
		copyFile(t, filepath.Join(out, "keys", name), filepath.Join(dir, name))
	}
	copyFile(t, disc, filepath.Join(dir, "disc.img"))
	return dir
}

var shBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// shBlocks returns the commands of a document, in order.
func shBlocks(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range shBlock.FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// readmeCommands returns the lines of a disc's README.txt that are commands.
func readmeCommands(t *testing.T, disc string) []string {
	t.Helper()
	cmd := exec.Command("xorriso", "-osirrox", "on", "-indev", disc, "-extract", "/README.txt", filepath.Join(t.TempDir(), "README.txt"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("xorriso: %v\n%s", err, out)
	}
	text, err := os.ReadFile(cmd.Args[len(cmd.Args)-1])
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if command, ok := strings.CutPrefix(line, "    $ "); ok {
			lines = append(lines, command)
		}
	}
	return lines
}

// shell runs a script as somebody would who types it and stops at the first error.
func shell(t *testing.T, dir, script string) (out string, err error) {
	t.Helper()
	cmd := exec.Command("bash", "-e")
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(script)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	b, err := cmd.CombinedOutput()
	return string(b), err
}

// TestByHand runs the commands of docs/by-hand.md, and those of the disc's own README.txt, word for word.
func TestByHand(t *testing.T) {
	t.Parallel()
	out, payload := kept(t)
	signByGnuPG(t, out)
	disc := filepath.Join(out, "disc.img")
	blocks, lines := shBlocks(t, "../../docs/by-hand.md"), readmeCommands(t, disc)
	if len(blocks) != 5 || len(lines) != 9 {
		t.Fatalf("by-hand.md has %d blocks of commands, README.txt %d commands; this test expects 5 and 9", len(blocks), len(lines))
	}
	for _, test := range []struct {
		name, script, left string
	}{
		{"by-hand.md", strings.Join(blocks, ""), "payload"},
		{"README.txt", strings.Join(lines, ""), "payload"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := inspectionRoom(t, out, disc)
			text, err := shell(t, dir, test.script)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			for _, want := range []string{"slot.0 is signed by preparer.pub\n", "slot.1 is signed by approver.pub\n", "slot.2 is signed by carol.gpg\n", `"channel":"demo"`, `"destination":"station"`, "payload/MANIFEST.json: OK\n"} {
				if !strings.Contains(text, want) {
					t.Errorf("%q is missing in\n%s", want, text)
				}
			}
			if strings.Contains(text, "nobody") || strings.Contains(text, "slot.3") {
				t.Errorf("an empty slot counted:\n%s", text)
			}
			got := filepath.Join(dir, "payload")
			for _, own := range []string{"README.txt", "MANIFEST.json", "SHA256SUMS"} {
				if err := os.Remove(filepath.Join(got, own)); err != nil {
					t.Error(err)
				}
			}
			if diff, err := exec.Command("diff", "-r", "--no-dereference", payload, got).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

// TestByHandTampered: by hand, too, a changed disc is found out, and by the step that is there for it.
func TestByHandTampered(t *testing.T) {
	t.Parallel()
	out, _ := kept(t)
	signByGnuPG(t, out)
	disc := filepath.Join(out, "disc.img")
	whole, err := os.ReadFile(disc)
	if err != nil {
		t.Fatal(err)
	}
	c, err := bundle.Inspect(t.Context(), bundle.Source{ReaderAt: bytes.NewReader(whole), Size: int64(len(whole))})
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := trust.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := trust.Sign(stranger, c.Message, "sallyport-seal SEAL.json", time.Unix(1700000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	slot, err := trust.EncodeSlot(sig)
	if err != nil {
		t.Fatal(err)
	}
	scripts := map[string]string{
		"by-hand.md": strings.Join(shBlocks(t, "../../docs/by-hand.md"), ""),
		"README.txt": strings.Join(readmeCommands(t, disc), ""),
	}
	for _, test := range []struct {
		name   string
		tamper func(b []byte)
		fails  bool // the commands stop with an error
		shows  string
	}{
		{"payload byte", func(b []byte) { b[(c.Seal.Manifest.LBA-1)*bundle.BlockSize] ^= 1 }, true, "Verification failed at position"},
		{"directory byte", func(b []byte) { b[17*bundle.BlockSize+6] ^= 1 }, true, "Verification failed at position"},
		{"tree byte", func(b []byte) { b[c.Geometry.Tree()*bundle.BlockSize] ^= 1 }, true, "Verification"},
		{"stranger's signature", func(b []byte) {
			for _, seal := range []int64{c.Geometry.SealA(), c.Geometry.SealB()} {
				copy(b[(seal+5)*bundle.BlockSize:], slot[:])
			}
		}, false, "slot.1 is signed by nobody"},
		{"seal byte", func(b []byte) {
			at := c.Geometry.SealA()*bundle.BlockSize + int64(bytes.Index(c.Message, []byte(`"sequence":1`)))
			b[at+int64(len(`"sequence":`))] = '2'
		}, false, "slot.0 is signed by nobody"},
		{"seal byte, OpenPGP's slot", func(b []byte) {
			at := c.Geometry.SealA()*bundle.BlockSize + int64(bytes.Index(c.Message, []byte(`"sequence":1`)))
			b[at+int64(len(`"sequence":`))] = '2'
		}, false, "slot.2 is signed by nobody"},
	} {
		for name, script := range scripts {
			t.Run(test.name+" "+name, func(t *testing.T) {
				t.Parallel()
				b := bytes.Clone(whole)
				test.tamper(b)
				tampered := filepath.Join(t.TempDir(), "disc.img")
				if err := os.WriteFile(tampered, b, 0o644); err != nil {
					t.Fatal(err)
				}
				dir := inspectionRoom(t, out, tampered)
				text, err := shell(t, dir, script)
				if !strings.Contains(text, test.shows) {
					t.Errorf("%q is missing in\n%s", test.shows, text)
				}
				if test.fails != (err != nil) {
					t.Errorf("error %v, want one: %v\n%s", err, test.fails, text)
				}
				if _, err := os.Stat(filepath.Join(dir, "payload")); test.fails && err == nil {
					t.Error("files were taken out of a disc that was found out")
				}
			})
		}
	}
}
