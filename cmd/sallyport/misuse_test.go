package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"sallyport/bundle"
	"sallyport/bundle/importlog"
	"sallyport/bundle/trust"
	"sallyport/burn/drivesim"
)

// sallyport runs the program in a process of its own.
func sallyport(t *testing.T, dir string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := exec.Command("sallyport", args...)
	cmd.Dir = dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	return exitCode(t, cmd.Run()), out.String(), errs.String()
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &exit):
		t.Fatal(err)
	}
	return exit.ExitCode()
}

// must runs the program and fails the test unless it succeeds.
func must(t *testing.T, dir string, args ...string) string {
	t.Helper()
	code, stdout, stderr := sallyport(t, dir, args...)
	if code != 0 {
		t.Fatalf("sallyport %v: exit status %d\n%s%s", args, code, stdout, stderr)
	}
	return stdout
}

// wantFailure checks what a failed command has to say: status, one line on stderr that matches, nothing on stdout.
func wantFailure(t *testing.T, code int, stdout, stderr string, wantCode int, want string) {
	t.Helper()
	if code != wantCode || stdout != "" {
		t.Errorf("exit status %d, want %d; on stdout: %.200q", code, wantCode, stdout)
	}
	if problem := badErrorLine(stderr); problem != "" {
		t.Errorf("%s: %q", problem, stderr)
	}
	if !regexp.MustCompile(want).MatchString(strings.TrimSuffix(stderr, "\n")) {
		t.Errorf("%q doesn't match %q", stderr, want)
	}
}

// TestUnprivileged runs commands as somebody whom the file system doesn't let do everything.
func TestUnprivileged(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "sallyport-unprivileged-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeAll(dir) })
	if err := copyTree(fixture(t), dir); err != nil {
		t.Fatal(err)
	}
	in := func(name ...string) string { return filepath.Join(append([]string{dir}, name...)...) }
	program, err := exec.LookPath("sallyport")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"mine", "closed", "secret"} {
		mkdir(t, in(d))
	}
	for _, args := range [][]string{{"cp", program, in("program")}, {"chmod", "0755", dir, in("program")}, {"cp", "-a", in("payload"), in("holey")}, {"cp", "-a", in("payload"), in("walled")}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	for _, d := range []string{"closed", "secret"} {
		must(t, dir, "plan", "payload", "-o", d+"/SEAL.json", "--channel", "news", "--trust", "trust.json")
	}
	for path, mode := range map[string]os.FileMode{
		in("holey/sub/deep/world.txt"): 0, in("walled/sub"): 0, in("closed"): 0o555, in("secret"): 0, in("mine"): 0o777, in("bundle.iso"): 0o444, in("alice.key"): 0o644, in("kiosk.key"): 0o644, in("carol.key"): 0,
	} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	as := func(umask string, args ...string) (int, string, string) {
		cmd := exec.Command("sh", append([]string{"-c", "umask " + umask + ` && exec "$@"`, "sh", in("program")}, args...)...)
		cmd.Args[4] = in("sallyport")
		cmd.Dir = in("mine")
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		return exitCode(t, cmd.Run()), out.String(), errs.String()
	}
	// The program is the test binary, which looks at the name it was called by.
	if err := os.Rename(in("program"), in("sallyport")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, path := range []string{in("walled/sub"), in("secret")} {
			if err := os.Chmod(path, 0o755); err != nil {
				t.Error(err)
			}
		}
	})
	prepare := func(from, to string) []string {
		return []string{"prepare", from, "-o", to, "--channel", "news", "--trust", "../trust.json"}
	}
	prepareSeal := func(seal string) []string {
		return []string{"prepare", "../payload", "-o", "x.iso", "--seal", seal, "--trust", "../trust.json"}
	}
	for _, test := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"unreadable file", prepare("../holey", "x.iso"), 3, `^sallyport prepare: .*world\.txt: permission denied`},
		{"unreadable directory", prepare("../walled", "x.iso"), 3, `^sallyport prepare: .*sub: permission denied`},
		{"unreadable payload", prepare("../secret", "x.iso"), 3, `^sallyport prepare: .*secret: permission denied`},
		{"scan of an unreadable payload", []string{"scan", "../secret"}, 3, `^sallyport scan: .*secret: permission denied`},
		{"output without permission", prepare("../payload", "../closed/x.iso"), 3, `^sallyport prepare: write \.\./closed/x\.iso: nothing can be made in \.\./closed: permission denied`},
		{"repair without permission", []string{"repair", "../bundle.iso", "-o", "../closed/x.iso"}, 3, `^sallyport repair: write .*/closed/x\.iso: nothing can be made in .*/closed: permission denied`},
		{"key without permission", []string{"key", "generate", "--no-password", "../closed/k"}, 3, `^sallyport key generate: write \.\./closed/k\.key: permission denied`},
		{"trust root without permission", []string{"trust", "init", "-o", "../closed/t.json", "--root", "olga=../olga.pub"}, 3, `^sallyport trust init: write .*/closed/t\.json: permission denied`},
		{"unreadable key", []string{"sign", "../bundle.iso", "--key", "../carol.key"}, 3, `^sallyport sign: .*permission denied`},
		{"read-only image", []string{"sign", "../bundle.iso", "--key", "../alice.key"}, 3, `^sallyport sign: .*bundle\.iso: permission denied`},
		{"plan without permission", []string{"plan", "../payload", "-o", "../closed/SEAL.json", "--channel", "news", "--trust", "../trust.json"}, 3, `^sallyport plan: write \.\./closed/SEAL\.json: nothing can be made in \.\./closed: permission denied`},
		{"planned seal without permission", []string{"sign", "../closed/SEAL.json", "--key", "../alice.key", "--unseen"}, 3, `^sallyport sign: write .*/closed/SEAL\.json\.[0-9A-F]{16}\.minisig: permission denied`},
		{"unreadable planned seal", prepareSeal("../secret/SEAL.json"), 3, `^sallyport prepare: open .*/secret/SEAL\.json: permission denied`},
		{"seal cut out without permission", []string{"inspect", "../bundle.iso", "--seal", "../closed/new.json"}, 3, `^sallyport inspect: write .*/closed/new\.json: permission denied`},
		{"drive without permission", []string{"burn", "../bundle.iso", "--drive", "sim:../closed/drive"}, 3, `^sallyport burn: .*permission denied`},
		{"spool without permission", []string{"import", "../bundle.iso", "--trust", "../trust.json", "--spool", "../closed/spool", "--state", "s1", "--station-key", "../kiosk.key"}, 3, `^sallyport import: make the spool .*: permission denied`},
		{"state without permission", []string{"import", "../bundle.iso", "--trust", "../trust.json", "--spool", "spool", "--state", "../closed/state", "--station-key", "../kiosk.key"}, 3, `^sallyport import: write .*/closed/state: permission denied`},
		{"demo without permission", []string{"demo", "--payload", "../payload", "--keep", "../closed/out"}, 3, `^sallyport demo: .*permission denied`},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := as("022", test.args...)
			wantFailure(t, code, stdout, stderr, test.code, test.want)
		})
	}
	// What a scan may not read is found, each of it, and the rest of the tree is looked at all the same.
	for payload, want := range map[string]string{
		"../holey":  "\"sub/deep/world.txt\": unreadable: permission denied\n3 directories, 4 files, 1 symlinks, 28 bytes: 1 findings on 1 paths (unreadable 1)\n",
		"../walled": "\"sub\": unreadable: permission denied\n2 directories, 3 files, 0 symlinks, 22 bytes: 1 findings on 1 paths (unreadable 1)\n",
	} {
		code, stdout, stderr := as("022", "scan", payload)
		wantFailure(t, code, "", stderr, 1, `^sallyport scan: refused \(unreadable\): .*: permission denied; get the right to read it, or take it out of the directory$`)
		if stdout != want {
			t.Errorf("scan %s:\n%swant:\n%s", payload, stdout, want)
		}
	}
	if left := names(t, in("mine")); left != "s1\n" {
		t.Errorf("left behind: %q", left)
	}
	if left := names(t, in("closed")); left != "SEAL.json\n" {
		t.Errorf("left behind: %q", left)
	}

	// A payload with directories that can't be written, imported by somebody who isn't root, with a narrow umask.
	if err := os.Chmod(in("payload/sub/deep"), 0o555); err == nil {
		err = errors.Join(os.Chmod(in("payload/sub"), 0o555), os.Chmod(in("payload/empty"), 0o444), os.Chmod(in("bob.key"), 0o644))
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		prepare("../payload", "ro.iso"), {"sign", "ro.iso", "--key", "../alice.key"}, {"sign", "ro.iso", "--key", "../bob.key"},
		{"import", "ro.iso", "--trust", "../trust.json", "--spool", "spool", "--state", "s1"},
	} {
		if code, stdout, stderr := as("077", args...); code != 0 {
			t.Fatalf("%v: exit status %d\n%s%s", args, code, stdout, stderr)
		}
	}
	out, err := exec.Command("sh", "-c", `cd "$1" && stat -c '%a %n' sub sub/deep empty hello.txt | tr '\n' ' '; cd - >/dev/null; diff -r --no-dereference "$2" "$1"`, "sh",
		onlyChild(t, in("mine/spool/news")), in("payload")).CombinedOutput()
	if err != nil || string(out) != "555 sub 555 sub/deep 444 empty 644 hello.txt " {
		t.Errorf("%v: %s", err, out)
	}
	// The next import can still put its things in order.
	code, stdout, stderr := as("077", "import", "ro.iso", "--trust", "../trust.json", "--spool", "spool", "--state", "s1")
	wantFailure(t, code, stdout, stderr, 1, `\(already-imported\)`)
}

func onlyChild(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 1 {
		t.Fatalf("%s has %v, %v", dir, list, err)
	}
	return filepath.Join(dir, list[0].Name())
}

// midway runs prepare -o - up to a point where it waits for its reader, in the middle of the payload.
func midway(t *testing.T, dir string, args ...string) (cmd *exec.Cmd, rest io.Reader, stderr *bytes.Buffer) {
	t.Helper()
	if err := os.Truncate(touch(t, filepath.Join(dir, "payload", "large")), 64<<20); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command("sallyport", append([]string{"prepare", "payload", "-o", "-", "--channel", "news", "--trust", "trust.json"}, args...)...)
	cmd.Dir, stderr = dir, &bytes.Buffer{}
	cmd.Env = append(os.Environ(), "TMPDIR="+mkdir(t, filepath.Join(dir, "tmp")))
	cmd.Stderr = stderr
	rest, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, rest, 1<<20); err != nil {
		t.Fatal(err)
	}
	return cmd, rest, stderr
}

// TestPayloadGrows: a file that changes while the payload is read is no file to carry.
func TestPayloadGrows(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(path string) error{
		"grows": func(path string) error { return os.WriteFile(path, []byte("names are UTF-8, and more\n"), 0o644) },
		"goes":  os.Remove,
		"turns into a link": func(path string) error {
			return errors.Join(os.Remove(path), os.Symlink("/etc/passwd", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := room(t)
			cmd, rest, stderr := midway(t, dir)
			if err := change(filepath.Join(dir, "payload", "ünï.txt")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, rest); err != nil {
				t.Fatal(err)
			}
			wantFailure(t, exitCode(t, cmd.Wait()), "", stderr.String(), 1, `^sallyport prepare: refused \(changed-while-read\): .*/payload: "ünï.txt" .*prepare again when nobody writes to it`)
			if left := names(t, filepath.Join(dir, "tmp")); left != "" {
				t.Errorf("left behind: %s", left)
			}
		})
	}
}

// TestUnlogged: a refusal that can't be logged is told as such, beside why it was refused.
func TestUnlogged(t *testing.T) {
	t.Parallel()
	dir := room(t)
	must(t, dir, "import", "bundle.iso", "--trust", "trust.json", "--spool", "spool", "--state", "state", "--station-key", "kiosk.key")
	cmd := exec.Command("sh", "-c", `ulimit -f 0; exec sallyport import bundle.iso --trust trust.json --spool spool --state state`)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	code := exitCode(t, cmd.Run())
	if code == 0 || stdout.Len() > 0 {
		t.Errorf("exit status %d; %s", code, &stdout)
	}
	if problem := badErrorLine(stderr.String()); problem != "" {
		t.Errorf("%s: %q", problem, &stderr)
	}
	e := &env{ctx: t.Context(), stderr: &stderr, stdout: &stdout}
	stderr.Reset()
	refused := about("disc", &unloggedError{refused: &importlog.RefusedError{Code: "gap", Detail: "one is missing"}, log: fmt.Errorf("append to the log: %w", syscall.ENOSPC)})
	if code := e.finish("import", nil, refused); code != exitRefused {
		t.Errorf("exit status %d", code)
	}
	if want := "sallyport import: refused (gap): disc: one is missing; and the refusal could not be logged: append to the log: no space left on device\n"; stderr.String() != want {
		t.Errorf("got %q, want %q", &stderr, want)
	}
	must(t, dir, "log", "verify", "--state", "state")
}

// TestImageChangesBeforeBurn: T16, an image that somebody changes after burn has checked it. The drive's file of
// faults is a FIFO: opening the drive, which comes between, waits until the change is made.
func TestImageChangesBeforeBurn(t *testing.T) {
	for _, c := range []struct {
		name, says string
		lba        func(*bundle.Claims) int64
	}{
		{"payload", "hash tree", func(c *bundle.Claims) int64 { return c.Seal.Manifest.LBA - 1 }},
		{"padding", "the image changed", func(c *bundle.Claims) int64 { return c.Geometry.ImageBlocks() - 1 }},
		{"seal B", "the image changed", func(c *bundle.Claims) int64 { return c.Geometry.SealB() + 11 }},
	} {
		t.Run(c.name, func(t *testing.T) { changeBeforeBurn(t, c.lba, c.says) })
	}
}

func changeBeforeBurn(t *testing.T, lba func(*bundle.Claims) int64, says string) {
	t.Parallel()
	dir := room(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	drive, err := drivesim.New(in("drive"), drivesim.Config{})
	if err == nil {
		err = errors.Join(drive.Close(), syscall.Mkfifo(in("drive/faults"), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sallyport", "burn", "bundle.iso", "--drive", "sim:drive", "--trust", "trust.json")
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	faults, err := os.OpenFile(in("drive/faults"), os.O_WRONLY, 0) // waits for the drive to be opened
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.OpenFile(in("bundle.iso"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := bundle.Inspect(t.Context(), bundle.Source{ReaderAt: image, Size: 1 << 40, Medium: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := image.WriteAt([]byte("HELLO"), lba(c)*bundle.BlockSize); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(image.Close(), faults.Close()); err != nil {
		t.Fatal(err)
	}
	code := exitCode(t, cmd.Wait())
	if code == 0 || strings.Contains(stdout.String(), "read back    equal") {
		t.Fatalf("exit status %d: a disc was burnt from a changed image\n%s", code, &stdout)
	}
	if !strings.Contains(stderr.String(), says) {
		t.Errorf("on stderr: %q", &stderr)
	}
	if problem := badErrorLine(stderr.String()); problem != "" {
		t.Errorf("%s: %q", problem, &stderr)
	}
	t.Logf("exit status %d: %s", code, &stderr)
}

// TestFullDisk: an import that has no room for a file says so, gives back what it took, and can be run again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := room(t)
	if err := os.Truncate(touch(t, filepath.Join(dir, "payload", "large")), 4<<20); err != nil {
		t.Fatal(err)
	}
	must(t, dir, "prepare", "payload", "-o", "large.iso", "--channel", "news", "--trust", "trust.json")
	must(t, dir, "sign", "large.iso", "--key", "alice.key")
	must(t, dir, "sign", "large.iso", "--key", "bob.key")
	importing := []string{"import", "large.iso", "--trust", "trust.json", "--spool", "spool", "--state", "state", "--station-key", "kiosk.key"}
	cmd := exec.Command("sh", append([]string{"-c", `ulimit -f 2048; exec sallyport "$@"`, "sh"}, importing...)...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	code := exitCode(t, cmd.Run())
	wantFailure(t, code, stdout.String(), stderr.String(), 3, `^sallyport import: stage "large": .*file too large`)
	if left := names(t, filepath.Join(dir, "spool")) + names(t, filepath.Join(dir, "spool/.incoming")); left != ".incoming\n" {
		t.Errorf("left behind: %s", left)
	}
	if out := must(t, dir, "log", "verify", "--state", "state"); !strings.Contains(out, " 0 entries,") {
		t.Errorf("the log: %s", out)
	}
	must(t, dir, importing...)
}

// TestModes carries files and directories that nobody may read or enter: the bits arrive as they are.
func TestModes(t *testing.T) {
	t.Parallel()
	dir := room(t)
	made := time.Unix(fixtureTime, 0)
	payload := fstest.MapFS{
		".":           {Mode: fs.ModeDir | 0o111, ModTime: made},
		"none":        {Mode: 0, ModTime: made, Data: []byte("none")},
		"write-only":  {Mode: 0o222, ModTime: made, Data: []byte("w")},
		"closed":      {Mode: fs.ModeDir, ModTime: made},
		"closed/file": {Mode: 0o777, ModTime: made, Data: []byte("behind")},
		"before-1970": {Mode: 0o644, ModTime: time.Unix(-1, 0)},
	}
	root, err := trust.Load(filepath.Join(dir, "trust.json"))
	if err != nil {
		t.Fatal(err)
	}
	channel, _ := root.Channel("news")
	plan, err := bundle.NewPlan(t.Context(), payload, bundle.Options{Channel: channel.Name, Destination: channel.Destination, Sequence: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.WriteFile(t.Context(), filepath.Join(dir, "modes.iso"), nil); err != nil {
		t.Fatal(err)
	}
	must(t, dir, "sign", "modes.iso", "--key", "alice.key")
	must(t, dir, "sign", "modes.iso", "--key", "bob.key")
	must(t, dir, "import", "modes.iso", "--trust", "trust.json", "--spool", "spool", "--state", "state", "--station-key", "kiosk.key")
	released := onlyChild(t, filepath.Join(dir, "spool/news"))
	t.Cleanup(func() { removeAll(released) })
	check := func(name string) {
		info, err := os.Lstat(filepath.Join(released, name))
		if err != nil {
			t.Error(err)
			return
		}
		want := payload[name]
		if info.Mode() != want.Mode || !info.ModTime().Equal(want.ModTime) {
			t.Errorf("%s is %v of %v, want %v of %v", name, info.Mode(), info.ModTime(), want.Mode, want.ModTime)
		}
		if want.Mode.IsRegular() && info.Size() != int64(len(want.Data)) {
			t.Errorf("%s has %d bytes, want %d", name, info.Size(), len(want.Data))
		}
	}
	for _, name := range []string{".", "none", "write-only", "closed", "before-1970"} {
		check(name)
	}
	if err := os.Chmod(filepath.Join(released, "closed"), 0o700); err != nil {
		t.Fatal(err)
	}
	check("closed/file")
}
