package trust

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// A gnupg is a home of GnuPG with keys, and a folder for files.
type gnupg struct {
	home string
	t    testing.TB
}

// keyring is where the tests' keys are made once: generating them takes longer than all else.
var keyring struct {
	once sync.Once
	home string
	err  error
}

const passphrase = "correct horse"

// before is when keys are made that have expired by now.
var before = time.Date(2020, 2, 2, 0, 0, 0, 0, time.UTC)

func TestMain(m *testing.M) {
	code := m.Run()
	if keyring.home != "" {
		(&gnupg{home: keyring.home}).kill()
		os.RemoveAll(keyring.home)
	}
	os.Exit(code)
}

func (g *gnupg) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+g.home, "LC_ALL=C")
	return cmd
}

func (g *gnupg) kill() {
	// The agent of this home only; without one there is nothing to end.
	_ = g.command("gpgconf", "--kill", "gpg-agent").Run()
}

func (g *gnupg) gpg(input []byte, args ...string) ([]byte, error) {
	cmd := g.command("gpg", append([]string{"--batch", "--no-tty", "--yes", "--quiet", "--pinentry-mode", "loopback", "--passphrase", passphrase, "--trust-model", "always"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("gpg %s: %w\n%s", strings.Join(args, " "), err, &errs)
	}
	return out.Bytes(), nil
}

// must returns what gpg prints.
func (g *gnupg) must(input []byte, args ...string) []byte {
	g.t.Helper()
	out, err := g.gpg(input, args...)
	must(g.t, err)
	return out
}

// as lets gpg have another time.
func as(t time.Time, args ...string) []string {
	return append([]string{"--faked-system-time", t.UTC().Format("20060102T150405") + "!"}, args...)
}

// fingerprints lists the primary key's and the subkeys'.
func (g *gnupg) fingerprints(user string) []KeyID {
	g.t.Helper()
	var ids []KeyID
	for _, m := range regexp.MustCompile(`(?m)^fpr:::::::::([0-9A-F]{40}):`).FindAllSubmatch(g.must(nil, "--with-colons", "--list-keys", user), -1) {
		ids = append(ids, KeyID(m[1]))
	}
	if len(ids) == 0 {
		g.t.Fatalf("gpg lists no key of %s", user)
	}
	return ids
}

// newGnuPG copies the keys, so that a test may change them.
func newGnuPG(t testing.TB) *gnupg {
	t.Helper()
	for _, tool := range []string{"gpg", "gpgv", "gpgconf"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("the stock %s is needed as a peer: %v", tool, err)
		}
	}
	keyring.once.Do(func() { keyring.home, keyring.err = makeKeys(t) })
	must(t, keyring.err)
	// An agent's socket needs a short path.
	home, err := os.MkdirTemp("", "g")
	must(t, err)
	g := &gnupg{home: home, t: t}
	t.Cleanup(func() {
		g.kill()
		os.RemoveAll(home)
	})
	must(t, os.RemoveAll(home))
	must(t, os.CopyFS(home, os.DirFS(keyring.home)))
	must(t, os.Chmod(home, 0o700))
	return g
}

// makeKeys makes these: ed, Ed25519 with a subkey for encryption; rsa, which certifies only, with an RSA and an
// Ed25519 subkey that sign; pass, Ed25519 with a passphrase; old, expired; nosign, that doesn't sign; weak, bound by SHA-1; nist,
// ECDSA.
func makeKeys(t testing.TB) (string, error) {
	home, err := os.MkdirTemp("", "g")
	if err != nil {
		return "", err
	}
	g := &gnupg{home: home, t: t}
	defer g.kill()
	bare := func(args ...string) {
		if err == nil {
			_, err = g.gpg(nil, append([]string{"--passphrase", ""}, args...)...)
		}
	}
	bare(as(before, "--quick-generate-key", "ed <ed@example.org>", "ed25519", "sign,cert", "0")...)
	bare(as(before, "--quick-generate-key", "rsa", "rsa2048", "cert", "0")...)
	if err == nil {
		rsa, ed := string(g.fingerprints("rsa")[0]), string(g.fingerprints("ed")[0])
		bare(as(before, "--quick-add-key", ed, "cv25519", "encr", "0")...)
		bare(as(before, "--quick-add-key", rsa, "rsa3072", "sign", "0")...)
		bare(as(before.Add(time.Hour), "--quick-add-key", rsa, "ed25519", "sign", "0")...)
	}
	if err == nil {
		_, err = g.gpg(nil, as(before, "--quick-generate-key", "pass", "ed25519", "sign,cert", "0")...)
	}
	bare(as(before, "--quick-generate-key", "old", "ed25519", "sign,cert", "1d")...)
	bare(as(before, "--quick-generate-key", "nosign", "ed25519", "cert", "0")...)
	bare(as(before, "--cert-digest-algo", "SHA1", "--quick-generate-key", "weak", "ed25519", "sign,cert", "0")...)
	bare(as(before, "--quick-generate-key", "nist", "nistp256", "sign,cert", "0")...)
	return home, err
}

// verify asks gpg and gpgv about a signature of message.
func (g *gnupg) verify(user string, message, sig []byte) error {
	dir, err := os.MkdirTemp(g.home, "v")
	must(g.t, err)
	write(g.t, dir, "message", message)
	write(g.t, dir, "message.asc", sig)
	write(g.t, dir, "ring.gpg", g.must(nil, "--export", user))
	if _, err := g.gpg(nil, "--verify", filepath.Join(dir, "message.asc"), filepath.Join(dir, "message")); err != nil {
		return err
	}
	out, err := g.command("gpgv", "--keyring", filepath.Join(dir, "ring.gpg"), filepath.Join(dir, "message.asc"), filepath.Join(dir, "message")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("gpgv: %w: %s", err, out)
	}
	return nil
}
