package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sallyport/bundle/canonjson"
	"sallyport/bundle/trust"
	"sallyport/media/carry"
	"sallyport/media/enrol"
	"sallyport/media/format"
	"sallyport/media/wipe"
	"sallyport/scan"
)

type formatCmd struct {
	Device   string `arg:"" help:"The stick or card, as media list shows it: /dev/sdX, or /dev/sgN behind the gate."`
	State    string `required:"" help:"This station's state directory, which keeps the enrolment." type:"path" placeholder:"DIR"`
	Trust    string `required:"" help:"The trust root." placeholder:"FILE"`
	Use      string `required:"" help:"What it is to be: carrier (of bundles), delivery (of releases), key (a signer's)." enum:"carrier,delivery,key" placeholder:"USE"`
	FS       string `name:"fs" help:"File system of a delivery or key stick: fat32, exfat or ext4." enum:"fat32,exfat,ext4" default:"fat32"`
	Label    string `help:"Its label: at most 11 of A-Z, 0-9, - and _; else DELIVERY or KEY." placeholder:"LABEL"`
	Method   string `help:"How a carrier is wiped: random, zero, or value-complement-random. Others get zeros." enum:"random,zero,value-complement-random," default:"" placeholder:"METHOD"`
	Quick    bool   `help:"Test the capacity by 1,024 samples and not by every block; it is wiped whole all the same."`
	Discard  bool   `help:"Have the stick drop all its blocks first, if it can."`
	NoReplug bool   `help:"Don't have the stick pulled out and put in again before it is read back: what only its cache holds counts as kept then."`
	Operator string `help:"Who does it, for the erasure record." placeholder:"NAME"`
	Note     string `help:"What else the erasure record is to say." placeholder:"TEXT"`
	Record   string `help:"Also write the erasure record to FILE, and a page to print beside it, FILE.html, whatever comes of it." type:"path" placeholder:"FILE"`
	Yes      bool   `help:"Don't ask."`
	mediaPolicy
	stationKeyFlag
}

func (c *formatCmd) Help() string {
	return `Wipes a stick or card whole, tests that it has the room it claims by what is written and read back, makes it what it is to
be, and enrols it: this station's signed record, without which write, deliver and key take no stick. ALL THAT IS ON IT IS
LOST, and a stick that is formatted, or whose format was interrupted, is enrolled for nothing that it was before. The erasure is what NIST
SP 800-88 calls Clear: what a stick's controller has set aside is out of reach.

Examples:
  sallyport format /dev/sdb --use carrier --trust trust.json --state state
  sallyport format /dev/sg1 --use delivery --fs exfat --label OUT --quick --trust trust.json --state state`
}

// wipeMethod is how a stick is wiped.
func (c *formatCmd) wipeMethod() (wipe.Method, error) {
	method := wipe.Method(c.Method)
	if enrol.Use(c.Use) == enrol.Carrier {
		if method == "" {
			method = wipe.Random
		}
		return method, nil
	}
	if method != "" && method != wipe.Zero {
		return "", usagef("--method %s: a %s stick gets a file system, and so zeros at last", c.Method, c.Use)
	}
	return wipe.Zero, nil
}

// check finds what is wrong before anything is lost.
func (c *formatCmd) check(t *target) error {
	use := enrol.Use(c.Use)
	if use == enrol.Carrier {
		if c.Label != "" {
			return usagef("--label %s: a carrier has no file system", c.Label)
		}
		if t.BlockSize() != 512 {
			return about(c.Device, &carry.RefusedError{Code: carry.CodeBlockSize, Detail: fmt.Sprintf("it has blocks of %d bytes, and a stick that carries a bundle has blocks of 512; it can be a delivery stick", t.BlockSize())})
		}
		return nil
	}
	if c.Label == "" {
		c.Label = strings.ToUpper(c.Use)
	}
	if err := format.CheckLabel(c.Label); err != nil {
		return usagef("%v", err)
	}
	if _, _, err := format.Partition(t.Size(), t.BlockSize()); err != nil {
		return usagef("%v", err)
	}
	if format.Kind(c.FS) == format.ExFAT && t.BlockSize() != 512 {
		return usagef("exfat isn't made on blocks of %d bytes: take --fs fat32", t.BlockSize())
	}
	if use == enrol.Key && format.Kind(c.FS) == format.Ext4 {
		return usagef("a key stick holds one file: take --fs fat32 or exfat")
	}
	if err := format.Ready(format.Kind(c.FS)); err != nil {
		return usagef("%v", err)
	}
	return nil
}

type formatResult struct {
	Device    string        `json:"device"`
	Use       string        `json:"use"`
	Erasure   *wipe.Record  `json:"erasure"`             // absent when it wasn't begun
	Capacity  *wipe.Verdict `json:"capacity,omitempty"`  // of the quick test
	Enrolment *enrol.Record `json:"enrolment,omitempty"` // only when all went well
	Files     []string      `json:"files,omitempty"`
}

func (r *formatResult) text(w io.Writer) {
	if r.Enrolment == nil {
		return // the error says it
	}
	m := r.Enrolment.Medium
	fmt.Fprintf(w, "stick        %s, serial number %s, %s in blocks of %d bytes\n", printable(m.Vendor+" "+m.Product), orDash(printable(m.Serial)), bytesText(m.Size), m.BlockSize)
	fmt.Fprintf(w, "wiped        %s, each byte read back (NIST SP 800-88: Clear)\n", r.Erasure.Method)
	fmt.Fprintf(w, "capacity     real, by a %s test\n", r.Enrolment.Capacity)
	if v := r.Enrolment.Volume; v != nil {
		fmt.Fprintf(w, "formatted    %s, label %s\n", v.Kind, orDash(v.Label))
	}
	fmt.Fprintf(w, "enrolled     as a %s stick by %s\n", r.Enrolment.Use, printable(r.Enrolment.Station))
	for _, name := range r.Files {
		fmt.Fprintf(w, "record       %s\n", printable(name))
	}
}

func (c *formatCmd) run(e *env) (result, error) {
	if _, err := c.wipeMethod(); err != nil {
		return nil, err
	}
	reserves, err := c.reserves()
	if err != nil {
		return nil, err
	}
	root, err := loadTrust(c.Trust)
	if err != nil {
		return nil, err
	}
	st, err := e.openOrMakeState(c.State, c.StationKey, root)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	t, err := e.openTarget(c.Device, reserves)
	if err != nil {
		return nil, about(c.Device, err)
	}
	defer func() { t.Close() }()
	if err := c.check(t); err != nil {
		return nil, err
	}
	if err := c.ask(e, t); err != nil {
		return nil, err
	}
	r, err := c.format(e, st, t)
	if r == nil {
		return nil, about(c.Device, err)
	}
	return r, about(c.Device, err)
}

// ask has somebody say that all may be lost.
func (c *formatCmd) ask(e *env, t *target) error {
	if c.Yes {
		return nil
	}
	if !e.interactive() {
		return usagef("all that is on %s is lost: run it on a terminal, or say --yes", c.Device)
	}
	fmt.Fprintf(e.stderr, "%s: %s, %s\nAll that is on it is lost. Type yes to go on: ", c.Device, t.what(), bytesText(t.Size()))
	line, err := e.readLine()
	if err != nil {
		return err
	}
	if strings.TrimSpace(line) != "yes" {
		return usagef("nothing was done: the answer was not yes")
	}
	return nil
}

// stationKey is the secret key of the state's station.
func (c *formatCmd) stationKey(st *state) (*trust.SecretKey, error) {
	name := filepath.Join(c.State, stationKeyName)
	data, err := readSmall(name)
	if err != nil {
		return nil, err
	}
	key, _, err := stationOf(data, name, []trust.Station{st.station})
	return key, err
}

// format does it. Nothing is enrolled unless the error is nil.
func (c *formatCmd) format(e *env, st *state, t *target) (r *formatResult, err error) {
	key, err := c.stationKey(st)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(c.State, enrolDir)
	if err := enrol.Withdraw(dir, t.identity); err != nil {
		return nil, err
	}
	r = &formatResult{Device: c.Device, Use: c.Use}
	if err := c.wipe(e, st, t, r); err != nil {
		return r, err
	}
	rec := &enrol.Record{Capacity: r.Erasure.Capacity.Mode, Created: e.now().Unix(), Medium: t.identity, Station: st.station.Name, Use: enrol.Use(c.Use)}
	if rec.Use != enrol.Carrier {
		if rec.Volume, err = c.fill(e, t); err != nil {
			return r, err
		}
	}
	erasure, page, err := erasureFiles(r.Erasure)
	if err != nil {
		return r, err
	}
	rec.Erasure = fmt.Sprintf("%x", sha256.Sum256(erasure))
	text, err := rec.Bytes()
	if err != nil {
		return r, err
	}
	if _, err := st.log.LogEnrolled(text, e.now()); err != nil {
		return r, err
	}
	if err := enrol.Add(dir, rec, erasure, page, key); err != nil {
		return r, err
	}
	id, err := t.identity.ID()
	if err != nil {
		return r, err
	}
	r.Enrolment = rec
	for _, name := range []string{enrol.RecordName, enrol.ErasureName, enrol.PageName} {
		r.Files = append(r.Files, filepath.Join(dir, id, name))
	}
	return r, nil
}

// wipe erases the stick and tests its capacity, and writes the record where one was asked for, whatever came of it.
func (c *formatCmd) wipe(e *env, st *state, t *target, r *formatResult) (err error) {
	bar := e.progress()
	defer func() { bar.end(err) }()
	replug := func(ctx context.Context) (wipe.Medium, error) {
		bar.end(nil)
		if err := e.replug(ctx, t); err != nil {
			return nil, err
		}
		return t, nil
	}
	if c.NoReplug {
		replug = nil
	}
	show := func(step string) func(wipe.Progress) {
		return func(p wipe.Progress) { bar.update(step, p.Done, p.Total) }
	}
	var quick *wipe.Verdict
	if c.Quick {
		opt := wipe.TestOptions{Replug: replug, Progress: show("testing"), Now: time.Now}
		if _, err := rand.Read(opt.Key[:]); err != nil {
			return err
		}
		if quick, err = wipe.Test(e.ctx, t, opt); err != nil {
			return err
		}
		if r.Capacity = quick; !quick.Genuine {
			return &wipe.CapacityError{Verdict: *quick}
		}
	}
	opt := wipe.Options{Strict: !c.Quick, Discard: c.Discard, Replug: replug, Progress: show("wiping"), Now: e.now}
	if c.Quick {
		opt.Replug = nil // once is enough
	}
	if opt.Method, err = c.wipeMethod(); err != nil {
		return err
	}
	if _, err := rand.Read(opt.Key[:]); err != nil {
		return err
	}
	record, err := wipe.Run(e.ctx, t, opt)
	if record.Capacity == nil {
		record.Capacity = quick
	}
	id := t.identity
	record.Medium = wipe.MediumInfo{
		BlockSize: id.BlockSize, Size: id.Size, Descriptor: id.Descriptor, Vendor: id.Vendor, Product: id.Product, Revision: id.Revision, Serial: id.Serial,
	}
	if t.disk.USB != nil {
		record.Medium.Port = recordText(t.disk.USB.Port)
	}
	record.Note, record.Operator, record.Station, record.Tool = recordText(c.Note), recordText(c.Operator), st.station.Name, version()
	r.Erasure = record
	if c.Record != "" {
		text, page, recErr := erasureFiles(record)
		if recErr == nil {
			recErr = errors.Join(replaceFile(c.Record, text), replaceFile(c.Record+".html", page))
		}
		if recErr == nil {
			r.Files = append(r.Files, c.Record, c.Record+".html")
		}
		err = errors.Join(err, recErr)
	}
	return err
}

// erasureFiles are the erasure record as JSON, and as a page to print.
func erasureFiles(record *wipe.Record) (text, page []byte, err error) {
	if text, err = canonjson.Encode(record); err != nil {
		return nil, nil, fmt.Errorf("erasure record: %w", err)
	}
	var b strings.Builder
	if err := record.Page(&b); err != nil {
		return nil, nil, fmt.Errorf("erasure record: %w", err)
	}
	return text, []byte(b.String()), nil
}

// fill makes the file system on a stick of zeros, and has it read by the process without rights that will read it later.
func (c *formatCmd) fill(e *env, t *target) (*enrol.Volume, error) {
	f, err := os.CreateTemp("", "sallyport-format-*")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	v := format.Volume{Kind: format.Kind(c.FS), Label: c.Label}
	if _, err := rand.Read(v.ID[:]); err != nil {
		return nil, err
	}
	if err := format.Build(e.ctx, f, t.Size(), t.BlockSize(), v, format.Tree{}); err != nil {
		return nil, err
	}
	bar := e.progress()
	_, err = format.Copy(e.ctx, f, t, t.BlockSize(), func(done, total int64) { bar.update("formatting", done, total) })
	bar.end(err)
	if err != nil {
		return nil, err
	}
	r, err := e.examine(c.Device, &rawMedium{ReaderAt: t, size: t.Size(), block: t.BlockSize()}, scan.Limits{})
	if err != nil {
		return nil, err
	}
	volumes := r.Medium.Volumes
	if len(r.Medium.Findings) > 0 || len(volumes) != 1 || volumes[0].Files == 0 || !strings.EqualFold(volumes[0].Holds, c.FS) || volumes[0].Label != c.Label {
		return nil, fmt.Errorf("what was made is read as something else: %+v, findings %+v", volumes, r.Medium.Findings)
	}
	serial, err := volumeSerial(f, volumes[0].Start, v.Kind)
	return &enrol.Volume{Kind: c.FS, Label: c.Label, Serial: serial}, err
}

// volumeSerial reads a new file system's number as blkid shows it, out of its boot sector or superblock.
func volumeSerial(r io.ReaderAt, start int64, kind format.Kind) (string, error) {
	at, n := int64(67), 4 // BS_VolID of FAT32
	switch kind {
	case format.ExFAT:
		at = 100 // VolumeSerialNumber
	case format.Ext4:
		at, n = 1024+104, 16 // s_uuid
	}
	b := make([]byte, n)
	if _, err := r.ReadAt(b, start+at); err != nil {
		return "", err
	}
	if kind == format.Ext4 {
		s := hex.EncodeToString(b)
		return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:], nil
	}
	return fmt.Sprintf("%02X%02X-%02X%02X", b[3], b[2], b[1], b[0]), nil
}
