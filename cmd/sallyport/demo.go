package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sallyport/bundle"
	"sallyport/bundle/trust"
)

type demoCmd struct {
	Payload string `help:"The directory to carry (default: a part of Go's library)." type:"path" placeholder:"DIR"`
	Keep    string `help:"Leave everything in this new or empty directory." type:"path" placeholder:"DIR"`
}

func (c *demoCmd) Help() string {
	return `Keys, trust root, prepare, two signatures, burn to a simulated DVD-R, read back, carry, verify, import, log;
then a scratched disc, which heals, and tampered ones, and why they are refused. Needs no root and changes nothing outside its directory.

--keep DIR leaves there: bundle.iso, disc.img (what the simulated drive recorded), trust.json, keys/ (without
passwords), spool/ (what was let in), state/ (the station's log), low-state/ (the preparing side's log), drive/.

Example: sallyport demo --payload sources --keep out`
}

//go:embed demo
var demoPayload embed.FS

type demoResult struct {
	Directory string       `json:"directory,omitempty"`
	Released  string       `json:"released,omitempty"`
	Healed    []demoHealed `json:"scratched"`
	Refused   []demoTamper `json:"tampered"`
}

type demoHealed struct {
	What string `json:"what"`
	repairedResult
}

type demoTamper struct {
	What   string `json:"what"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

func (r *demoResult) text(io.Writer) {} // the demo speaks as it goes

func (c *demoCmd) run(e *env) (_ result, err error) {
	if c.Payload != "" {
		if err := checkDir(c.Payload); err != nil {
			return nil, err
		}
		if c.Keep != "" {
			if err := apart("the directory to keep", c.Keep, "the payload", c.Payload); err != nil {
				return nil, err
			}
		}
	}
	dir, temporary, err := c.directory()
	if err != nil {
		return nil, err
	}
	if temporary {
		defer func() { err = errors.Join(err, removeAll(dir)) }()
	}
	d := &demo{env: e, dir: dir}
	payload := c.Payload
	if payload == "" {
		if payload, err = d.defaultPayload(); err != nil {
			return nil, err
		}
	}
	if err := d.transfer(payload); err != nil {
		return nil, err
	}
	res, err := d.tamper()
	if err != nil {
		return nil, err
	}
	if !temporary {
		res.Directory, res.Released = dir, d.released
		d.say("Everything is in %s.", dir)
	}
	if d.unsaid != nil {
		return nil, fmt.Errorf("write what was done: %w", d.unsaid)
	}
	return res, nil
}

// directory returns where the demo works, and whether it is to be removed afterwards.
func (c *demoCmd) directory() (string, bool, error) {
	if c.Keep == "" {
		dir, err := os.MkdirTemp("", "sallyport-demo-")
		return dir, true, err
	}
	if err := os.MkdirAll(c.Keep, 0o777); err != nil {
		return "", false, pathError(err)
	}
	names, err := os.ReadDir(c.Keep)
	if err == nil && len(names) > 0 {
		err = usagef("%s is not empty; --keep wants a new directory", c.Keep)
	}
	return c.Keep, false, err
}

// removeAll removes a tree that may have directories without write permission, as payloads do.
func removeAll(dir string) error {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o700)
		}
		return err
	})
	return os.RemoveAll(dir)
}

// demo is one run of the whole transfer in dir.
type demo struct {
	env      *env
	dir      string
	released string
	step     int
	unsaid   error // what was done could not be told
}

func (d *demo) path(name ...string) string { return filepath.Join(append([]string{d.dir}, name...)...) }

// say tells what happens, on standard output, unless that is for a program.
func (d *demo) say(format string, args ...any) {
	if d.env.json {
		return
	}
	if _, err := fmt.Fprintf(d.env.stdout, format+"\n", args...); err != nil && d.unsaid == nil {
		d.unsaid = err
	}
}

func (d *demo) head(side, title string) {
	d.step++
	d.say("\n%d. %s (%s)", d.step, title, side)
}

// do runs a command as a user would and shows its result.
func (d *demo) do(c command) (result, error) {
	quiet := *d.env
	quiet.stdin = strings.NewReader("") // nobody is asked
	if d.env.json {
		quiet.stderr = io.Discard
	}
	res, err := c.run(&quiet)
	if res != nil && !d.env.json {
		var text strings.Builder
		res.text(&text)
		for line := range strings.Lines(text.String()) {
			d.say("   %s", strings.TrimSuffix(line, "\n"))
		}
	}
	return res, err
}

// defaultPayload finds a directory that every machine with Go has, else lays out a small one of its own.
func (d *demo) defaultPayload() (string, error) {
	if out, err := exec.CommandContext(d.env.ctx, "go", "env", "GOROOT").Output(); err == nil {
		dir := filepath.Join(strings.TrimSpace(string(out)), "src", "crypto")
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir, nil
		}
	}
	dir := d.path("payload")
	sub, err := fs.Sub(demoPayload, "demo")
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(dir, sub); err != nil {
		return "", err
	}
	made := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) // so that each run gives the same bytes
	return dir, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, made, made))
	})
}

func (d *demo) transfer(payload string) error {
	d.say("Sallyport: a whole transfer. The drive is simulated, everything else is real.")
	if err := d.keys(); err != nil {
		return err
	}
	d.head("low side", "Seal "+printable(payload)+" for DVD-R")
	iso, trustFile := d.path("bundle.iso"), d.path("trust.json")
	if _, err := d.do(&prepareCmd{Dir: payload, Output: iso, whatFlags: whatFlags{Channel: "demo", Trust: trustFile, Medium: "dvd-r"}, State: d.path("low-state")}); err != nil {
		return err
	}
	for _, who := range []string{"preparer", "approver"} {
		d.head("low side", "The "+who+" looks at it and signs")
		if _, err := d.do(&signCmd{File: iso, Key: d.path("keys", who+".key"), Yes: true}); err != nil {
			return err
		}
	}
	d.head("low side", "Burn it to a blank disc, finalise, reload, read back")
	if _, err := d.do(&burnCmd{Copies: 1, File: iso, Number: 1, Drive: "sim:" + d.path("drive"), State: d.path("low-state"), Trust: trustFile}); err != nil {
		return err
	}
	if err := os.Link(d.path("drive", "disc.img"), d.path("disc.img")); err != nil {
		return err
	}
	d.head("high side", "Somebody carries the disc over; let it in")
	res, err := d.do(&importCmd{Source: "sim:" + d.path("drive"), Trust: trustFile, Spool: d.path("spool"), State: d.path("state")})
	if err != nil {
		return err
	}
	if r, ok := res.(*importResult); ok {
		d.released = r.Path
	}
	d.head("high side", "The log")
	_, err = d.do(&logShowCmd{State: d.path("state")})
	return err
}

// keys makes the keys of all roles, without passwords, the trust root, and the two stations' states.
func (d *demo) keys() error {
	d.head("once", "Keys for four roles, and a trust root that says who may do what")
	if err := os.Mkdir(d.path("keys"), 0o700); err != nil {
		return err
	}
	document := trust.NewDocument()
	add := map[string]func(trust.PublicKey) error{
		"root":        func(k trust.PublicKey) error { return document.AddHolder("root", k) },
		"preparer":    func(k trust.PublicKey) error { return document.AddHolder("preparer", k) },
		"approver":    func(k trust.PublicKey) error { return document.AddHolder("approver", k) },
		"station":     func(k trust.PublicKey) error { return document.AddStation("station", "", k) },
		"low-station": func(k trust.PublicKey) error { return document.AddStation("low-station", "", k) },
	}
	for _, name := range []string{"root", "preparer", "approver", "station", "low-station"} {
		key, err := trust.GenerateKey()
		if err != nil {
			return err
		}
		if err := writeNew(d.path("keys", name+".key"), key.Encode(), 0o600); err != nil {
			return err
		}
		if err := writeNew(d.path("keys", name+".pub"), key.Public().File(), 0o644); err != nil {
			return err
		}
		if err := add[name](key.Public()); err != nil {
			return err
		}
	}
	if err := document.SetRoot(1, "root"); err != nil {
		return err
	}
	if err := document.AddChannel(trust.Channel{
		Name: "demo", Destination: "station", Gaps: trust.GapsReason, MaxJump: 1000,
		Preparers: trust.Role{Holders: []string{"preparer"}, Threshold: 1},
		Approvers: trust.Role{Holders: []string{"approver"}, Threshold: 1},
	}); err != nil {
		return err
	}
	data, err := document.Encode()
	if err != nil {
		return err
	}
	if err := writeNew(d.path("trust.json"), data, 0o644); err != nil {
		return err
	}
	if _, err := d.do(&trustSignCmd{File: d.path("trust.json"), Key: d.path("keys", "root.key")}); err != nil {
		return err
	}
	root, err := trust.Load(d.path("trust.json"))
	if err != nil {
		return err
	}
	for state, key := range map[string]string{"state": "station.key", "low-state": "low-station.key"} {
		if err := createState(d.path(state), d.path("keys", key), root); err != nil {
			return err
		}
	}
	return nil
}

// tamper shows what becomes of discs that were scratched, or changed by somebody, on the way.
func (d *demo) tamper() (*demoResult, error) {
	root, err := trust.Load(d.path("trust.json"))
	if err != nil {
		return nil, err
	}
	src, err := d.env.openSource("sim:" + d.path("drive"))
	if err != nil {
		return nil, err
	}
	defer src.Close()
	claims, err := bundle.Inspect(d.env.ctx, src.Source)
	if err != nil {
		return nil, err
	}
	stranger, err := trust.GenerateKey()
	if err != nil {
		return nil, err
	}
	forged, err := trust.Sign(stranger, claims.Message, "sallyport-seal SEAL.json", d.env.now())
	if err != nil {
		return nil, err
	}
	slot, err := trust.EncodeSlot(forged)
	if err != nil {
		return nil, err
	}
	const block = bundle.BlockSize
	g := claims.Geometry
	scratch := min(g.Bursts().Anywhere, g.DataBlocks-16)
	signature := map[int64][]byte{(g.SealA() + 5) * block: slot[:], (g.SealB() + 5) * block: slot[:]}
	res := &demoResult{Healed: []demoHealed{}}
	for _, t := range []struct {
		what    string
		patch   *tampered
		heals   bool
		refused bool
	}{
		{fmt.Sprintf("a scratched disc: %s in a row can't be read", counted(scratch, "block")), &tampered{first: g.DataBlocks - scratch, end: g.DataBlocks, unreadable: true}, true, false},
		{"a tampered disc: all of its files overwritten", &tampered{first: 1, end: g.DataBlocks}, false, true},
		{"a tampered disc: the approver's signature replaced by a stranger's", &tampered{replace: signature}, false, true},
	} {
		if t.heals && scratch < 1 {
			continue // the payload left no room for parity
		}
		t.patch.ReaderAt = src.ReaderAt
		d.head("high side", strings.ToUpper(t.what[:1])+t.what[1:])
		bar := d.env.progress()
		v, err := bundle.Verify(d.env.ctx, bundle.Source{ReaderAt: t.patch, Size: src.Size, Medium: true}, root,
			bundle.VerifyOptions{Entries: scanEntries(true), Scratch: d.dir, Progress: bar.update})
		bar.end(err)
		_, ref := classify(context.Background(), err)
		switch {
		case err == nil && t.refused:
			return nil, fmt.Errorf("demo: %s: it was accepted", t.what)
		case err == nil:
			healed := demoHealed{t.what, repairedOf(v.Repaired())}
			var text strings.Builder
			healed.text(&text)
			for line := range strings.Lines(text.String()) {
				d.say("   %s", strings.TrimSuffix(line, "\n"))
			}
			d.say("   verified     every block, every file")
			res.Healed = append(res.Healed, healed)
			continue
		case ref == nil || !t.refused:
			return nil, fmt.Errorf("demo: %s: %w", t.what, err)
		}
		d.say("   refused (%s): %s", ref.Code, ref.Detail)
		res.Refused = append(res.Refused, demoTamper{What: t.what, Code: ref.Code, Detail: ref.Detail})
	}
	return res, nil
}

// tampered is a disc of which the blocks first to end-1 are unreadable, or inverted, and some bytes replaced.
type tampered struct {
	io.ReaderAt
	first, end int64
	unreadable bool
	replace    map[int64][]byte
}

func (t *tampered) ReadAt(p []byte, off int64) (int, error) {
	n, err := t.ReaderAt.ReadAt(p, off)
	if from, to := max(t.first*bundle.BlockSize, off), min(t.end*bundle.BlockSize, off+int64(n)); from < to {
		if t.unreadable {
			return int(from - off), fmt.Errorf("read LBA %d: a scratch", from/bundle.BlockSize)
		}
		for i := from - off; i < to-off; i++ {
			p[i] = ^p[i]
		}
	}
	for at, b := range t.replace {
		if from, to := max(at, off), min(at+int64(len(b)), off+int64(n)); from < to {
			copy(p[from-off:to-off], b[from-at:])
		}
	}
	return n, err
}
