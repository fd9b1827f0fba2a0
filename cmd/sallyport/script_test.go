package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"sallyport/bundle"
	"sallyport/bundle/trust"
	"sallyport/burn/drivesim"
)

// The program is the test binary under another name, race detector included.
func TestMain(m *testing.M) { testscript.Main(cleaning{m}, map[string]func(){"sallyport": main}) }

// plainProgram is the program without the race detector, which makes every start slower and a password's key
// derivation ten times as long. What runs in a process alone has nothing to race with; the rest is tested with it.
func plainProgram(t testing.TB) string {
	t.Helper()
	path, err := buildPlain()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var plainDir string

var buildPlain = sync.OnceValues(func() (path string, err error) {
	if !raceDetector {
		return exec.LookPath("sallyport")
	}
	if plainDir, err = os.MkdirTemp("", "sallyport-plain-"); err != nil {
		return "", err
	}
	path = filepath.Join(plainDir, "sallyport")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

type cleaning struct{ m *testing.M }

func (c cleaning) Run() int {
	defer func() {
		os.RemoveAll(fixtureDir)
		os.RemoveAll(plainDir)
	}()
	return c.m.Run()
}

// TestScript runs testdata/script. Each script finds in its directory what [fixture] makes.
func TestScript(t *testing.T) {
	t.Parallel()
	fixture, plain := fixture(t), plainProgram(t)
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			env.Setenv("LC_ALL", "C")
			env.Setenv("PATH", filepath.Dir(plain)+":"+env.Getenv("PATH"))
			env.Setenv("EXE", plain)
			return copyTree(fixture, env.WorkDir)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fails": cmdFails, "json": cmdJSON, "flip": cmdFlip, "forge": cmdForge, "empty": cmdEmpty, "blank": cmdBlank, "tree": cmdTree,
		},
	})
}

// fixture makes, once, what most transfers begin with: keys without passwords (olga signs the trust root, alice
// prepares, bob approves, carol does neither, kiosk receives, booth too, desk sends), trust.json, a small payload,
// and bundle.iso of it, signed by alice and bob.
func fixture(t testing.TB) string {
	t.Helper()
	dir, err := makeFixture()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

const fixtureTime = 1767225600 // 2026-01-01 UTC

var fixtureDir string

var makeFixture = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "sallyport-fixture-"); err != nil {
		return "", err
	}
	fixtureDir = dir
	in := func(name string) string { return filepath.Join(dir, name) }
	for path, text := range map[string]string{
		"payload/hello.txt": "hello\n", "payload/sub/deep/world.txt": "world\n", "payload/empty": "", "payload/ünï.txt": "names are UTF-8\n",
	} {
		if err := os.MkdirAll(filepath.Dir(in(path)), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(in(path), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	if err := os.Symlink("../hello.txt", in("payload/sub/link")); err != nil {
		return "", err
	}
	if err := unix.Lutimes(in("payload/sub/link"), []unix.Timeval{{Sec: fixtureTime}, {Sec: fixtureTime}}); err != nil {
		return "", err
	}
	made := time.Unix(fixtureTime, 0)
	for _, path := range []string{"payload/hello.txt", "payload/sub/deep/world.txt", "payload/empty", "payload/ünï.txt", "payload/sub/deep", "payload/sub", "payload"} {
		if err := os.Chtimes(in(path), made, made); err != nil {
			return "", err
		}
	}
	key := func(name string) string { return in(name + ".key") }
	var commands [][]string
	for _, name := range []string{"olga", "alice", "bob", "carol", "kiosk", "booth", "desk"} {
		commands = append(commands, []string{"key", "generate", "--no-password", in(name)})
	}
	file := "--trust=" + in("trust.json")
	commands = append(commands,
		[]string{"trust", "init", "-o", in("trust.json"), "--root", "olga=" + in("olga.pub")},
		[]string{"trust", "add", "holder", file, "alice", in("alice.pub")},
		[]string{"trust", "add", "holder", file, "bob", in("bob.pub")},
		[]string{"trust", "add", "holder", file, "carol", in("carol.pub")},
		[]string{"trust", "add", "station", file, "kiosk", in("kiosk.pub")},
		[]string{"trust", "add", "station", file, "booth", in("booth.pub")},
		[]string{"trust", "add", "station", file, "desk", in("desk.pub")},
		[]string{"trust", "add", "channel", file, "news", "--destination", "kiosk", "--preparer", "alice", "--approver", "bob"},
		[]string{"trust", "add", "channel", file, "mail", "--destination", "kiosk", "--preparer", "carol", "--approver", "bob", "--gaps", "refuse"},
		[]string{"trust", "sign", in("trust.json"), "--key", key("olga")},
		[]string{"prepare", in("payload"), "-o", in("bundle.iso"), "--channel", "news", file},
		[]string{"sign", in("bundle.iso"), "--key", key("alice")},
		[]string{"sign", in("bundle.iso"), "--key", key("bob")},
	)
	for _, args := range commands {
		var out bytes.Buffer
		if code := run(context.Background(), args, strings.NewReader(""), &out, &out); code != 0 {
			return "", fmt.Errorf("%v: exit status %d\n%s", args, code, &out)
		}
	}
	return dir, nil
})

// copyTree copies files with their times, as cp -a does.
func copyTree(from, to string) error {
	out, err := exec.Command("cp", "-a", from+"/.", to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cp -a: %w: %s", err, out)
	}
	return nil
}

// fails STATUS REGEXP ARGS...: sallyport ARGS ends with STATUS, nothing on stdout, and on stderr one line in the
// right form that matches REGEXP.
func cmdFails(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: fails STATUS REGEXP ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("sallyport", args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != want {
		ts.Fatalf("sallyport %v: %v, want exit status %d", args[2:], err, want)
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("on stdout: %q", out)
	}
	line := ts.ReadFile("stderr")
	if problem := badErrorLine(line); problem != "" {
		ts.Fatalf("%s: %q", problem, line)
	}
	if line = strings.TrimSuffix(line, "\n"); !regexp.MustCompile(args[1]).MatchString(line) {
		ts.Fatalf("%q doesn't match %q", line, args[1])
	}
}

var errorLine = regexp.MustCompile(`^sallyport( [a-z]+)*: ([A-Z]{2}|[^A-Z\n])[^\n]*\n$`)

// badErrorLine says what is wrong with the form of what a failed command printed on stderr.
func badErrorLine(line string) string {
	switch {
	case !errorLine.MatchString(line):
		return "not one line of the form \"sallyport COMMAND: lower case ...\""
	case strings.HasSuffix(line, ".\n") || strings.Contains(line, "%!"):
		return "a full stop or a format verb"
	}
	return ""
}

// json PATH VALUE: the last command's stdout is one JSON object, and has VALUE (a regular expression for the whole
// of it; of what isn't a string, as JSON) at PATH. ! json PATH: has nothing there. json keys NAME...: has these.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	var object map[string]any
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	ts.Check(dec.Decode(&object))
	if _, err := dec.Token(); err != io.EOF {
		ts.Fatalf("more than one object on stdout: %v", err)
	}
	if args[0] == "keys" {
		for _, name := range args[1:] {
			if _, ok := object[name]; !ok {
				ts.Fatalf("no member %q", name)
			}
			delete(object, name)
		}
		if len(object) > 0 {
			ts.Fatalf("further members: %v", object)
		}
		return
	}
	var at any = object
	for name := range strings.SplitSeq(args[0], ".") {
		switch v := at.(type) {
		case map[string]any:
			at = v[name]
		case []any:
			i, err := strconv.Atoi(name)
			ts.Check(err)
			if i >= len(v) {
				ts.Fatalf("%s: only %d elements", args[0], len(v))
			}
			at = v[i]
		default:
			at = nil
		}
	}
	if neg {
		if at != nil {
			ts.Fatalf("%s is %v", args[0], at)
		}
		return
	}
	text, ok := at.(string)
	if !ok {
		b, err := json.Marshal(at)
		ts.Check(err)
		text = string(b)
	}
	if len(args) != 2 || !regexp.MustCompile("^(?:"+args[1]+")$").MatchString(text) {
		ts.Fatalf("%s is %s, want %v", args[0], text, args[1:])
	}
}

// flip FILE PART: inverts a bit of the bundle's payload, manifest, tree, seal or padding, or of its byte PART.
func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	name := ts.MkAbs(args[0])
	data, err := os.ReadFile(name)
	ts.Check(err)
	off, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		c := inspect(ts, data)
		g := c.Geometry
		part := map[string]int64{
			"payload": c.Seal.Manifest.LBA - 1, "manifest": c.Seal.Manifest.LBA, "tree": g.Tree(), "sealA": g.SealA(), "padding": g.Padding(),
		}
		lba, ok := part[args[1]]
		if !ok {
			ts.Fatalf("flip: no part %q", args[1])
		}
		off = lba * bundle.BlockSize
	}
	data[off] ^= 1
	ts.Check(os.WriteFile(name, data, 0o644))
}

func inspect(ts *testscript.TestScript, data []byte) *bundle.Claims {
	c, err := bundle.Inspect(context.Background(), bundle.Source{ReaderAt: bytes.NewReader(data), Size: int64(len(data))})
	ts.Check(err)
	return c
}

// forge FILE SLOT KEY: puts a signature with KEY into the slot, in both seals. KEY "new" is a stranger's.
func cmdForge(ts *testscript.TestScript, neg bool, args []string) {
	name := ts.MkAbs(args[0])
	data, err := os.ReadFile(name)
	ts.Check(err)
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	c := inspect(ts, data)
	key, err := trust.GenerateKey()
	ts.Check(err)
	if args[2] != "new" {
		key, err = trust.ParseSecretKey([]byte(ts.ReadFile(args[2])))
		ts.Check(err)
	}
	sig, err := trust.Sign(key, c.Message, "sallyport-seal SEAL.json", time.Unix(1700000000, 0))
	ts.Check(err)
	slot, err := trust.EncodeSlot(sig)
	ts.Check(err)
	for _, seal := range []int64{c.Geometry.SealA(), c.Geometry.SealB()} {
		copy(data[(seal+4+n)*bundle.BlockSize:], slot[:])
	}
	ts.Check(os.WriteFile(name, data, 0o644))
}

// empty DIR...: nothing is in these directories, hidden files included.
func cmdEmpty(ts *testscript.TestScript, neg bool, args []string) {
	for _, dir := range args {
		list, err := os.ReadDir(ts.MkAbs(dir))
		ts.Check(err)
		if len(list) > 0 {
			ts.Fatalf("%s has %v", dir, list)
		}
	}
}

// blank DIR BLOCKS: makes a simulated drive with a blank disc of so many blocks.
func cmdBlank(ts *testscript.TestScript, neg bool, args []string) {
	blocks, err := strconv.ParseUint(args[1], 10, 32)
	ts.Check(err)
	d, err := drivesim.New(ts.MkAbs(args[0]), drivesim.Config{Capacity: uint32(blocks)})
	ts.Check(err)
	ts.Check(d.Close())
}

var fraction = regexp.MustCompile(`\.\d{10} `)

// tree DIR: lists what is in DIR, with kinds, modes, times, sizes and targets, on stdout.
func cmdTree(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(ts.Exec("find", "-H", ts.MkAbs(args[0]), "-printf", `%P %y %m %T@ %l\n`))
	var lines []string
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		lines = append(lines, fraction.ReplaceAllString(line, " ")) // times are kept in seconds
	}
	slices.Sort(lines)
	fmt.Fprint(ts.Stdout(), strings.Join(lines, ""))
}
