package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport/bundle"
	"sallyport/bundle/importlog"
	"sallyport/media/carry"
	"sallyport/media/enrol"
)

type writeCmd struct {
	File   string `arg:"" help:"The signed bundle image."`
	Device string `required:"" help:"The stick: its generic node as /dev/sg1, or /dev/sdb." placeholder:"DEV"`
	Trust  string `required:"" help:"Check the signatures against this trust root first." placeholder:"FILE"`
	State  string `required:"" help:"This station's state: which sticks it has enrolled, and its log." type:"path" placeholder:"DIR"`
	mediaPolicy
	NoReplug bool `help:"Don't have the stick pulled out and put in again before it is read back: what only its cache holds then counts as written."`
}

func (c *writeCmd) Help() string {
	return `Checks the image and its signatures, writes it from the stick's first block on, and zeros behind it to the stick's end; then
the stick is pulled out and put in again, and all of it is read back and compared. Only a stick that this station has
wiped, tested and enrolled as a carrier is written to (sallyport format --use carrier). All that was on it is lost.

What makes it a bundle, locator and seals, comes last: a write that was stopped, by whatever, leaves none. On the other
side sallyport verify, mount and import take the stick as they take a disc.

Example: sallyport write bundle.iso --device /dev/sg1 --trust trust.json --state state`
}

type writeResult struct {
	Record *carry.Record `json:"record"`
}

func (r *writeResult) text(w io.Writer) {
	rec := r.Record
	fmt.Fprintf(w, "stick        %s\n", stickText(rec.Medium))
	fmt.Fprintf(w, "image        %s, SHA-256 %s\n", bytesText(rec.ImageBytes), rec.ImageSHA256)
	switch {
	case rec.Verified && rec.Replugged:
		fmt.Fprintln(w, "read back    equal, after it was pulled out and put in again")
	case rec.Verified:
		fmt.Fprintln(w, "read back    equal; it was not pulled out in between, so that a cache in it may have answered")
	case rec.Cleared:
		fmt.Fprintln(w, "failed       nothing on the stick can be taken for a bundle")
	default:
		fmt.Fprintln(w, "failed       what is on the stick was not proven: write it anew")
	}
	if rec.Verified {
		fmt.Fprintf(w, "behind it    %s, read, and all zero\n", bytesText(rec.SurplusProven))
	}
}

// stickText names a stick to people.
func stickText(m carry.MediumInfo) string {
	return fmt.Sprintf("%s %s, serial %s, %s", orUnknown(printable(m.Vendor)), printable(m.Product), orUnknown(printable(m.Serial)), bytesText(m.Size))
}

func (c *writeCmd) run(e *env) (_ result, err error) {
	root, err := loadTrust(c.Trust)
	if err != nil {
		return nil, err
	}
	src, err := e.openSource(c.File)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	if src.Medium {
		return nil, usagef("%s is not an image file", c.File)
	}
	st, err := e.openState(c.State, root)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	// A command to the stick isn't given up when this one is stopped: what it was writing is taken away again then.
	held := *e
	held.ctx = context.WithoutCancel(e.ctx)
	t, err := c.openCarrier(&held, st)
	if err != nil {
		return nil, about(c.Device, err)
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	if size := t.identity.Size; src.Size > size {
		return nil, about(c.Device, &carry.RefusedError{Code: carry.CodeTooSmall, Detail: fmt.Sprintf("the image has %d bytes and the stick %d: %d too few", src.Size, size, src.Size-size)})
	}
	image, digest, err := c.image(e, src)
	if err != nil {
		return nil, leaving("the stick is untouched", about(c.File, err))
	}
	rec, err := c.write(e, t, image)
	if !rec.Touched {
		return nil, leaving("the stick is untouched", about(c.Device, err))
	}
	if logErr := logWrite(e, st.log, digest, rec); logErr != nil {
		err = errors.Join(err, logErr)
	}
	return &writeResult{rec}, about(c.Device, err)
}

// openCarrier opens the stick, if it is one that this station has enrolled for bundles.
func (c *writeCmd) openCarrier(e *env, st *state) (*target, error) {
	reserves, err := c.reserves()
	if err != nil {
		return nil, err
	}
	t, err := e.openTarget(c.Device, reserves)
	if err != nil {
		return nil, err
	}
	if block := t.identity.BlockSize; block > bundle.BlockSize {
		err = &carry.RefusedError{Code: carry.CodeBlockSize, Detail: fmt.Sprintf("it has blocks of %d bytes, and a stick that carries a bundle has blocks of 512", block)}
	}
	if err == nil {
		_, err = enrol.Find(filepath.Join(c.State, enrolDir), t.identity, enrol.Carrier, st.station)
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// image judges the image and its signatures as burn does, and says what of it is written last.
func (c *writeCmd) image(e *env, src *source) (image carry.Image, digest string, err error) {
	checked, sum, err := (&burnCmd{File: c.File, Trust: c.Trust, Unsigned: true}).check(e, src)
	if err != nil {
		return image, "", err
	}
	g := checked.Geometry
	image = carry.Image{ReaderAt: checked.Image(), Size: g.ImageBlocks() * bundle.BlockSize, SHA256: [32]byte(sum)}
	for _, part := range [][2]int64{ // in blocks: the first, and that behind the last
		{g.SealA(), g.Superblock()},
		{g.SealB(), g.LocatorCopy()},
		{g.LocatorCopy(), g.LocatorCopy() + 1},
		{0, 1}, // the locator, with which everybody begins
	} {
		image.Last = append(image.Last, carry.Extent{Off: part[0] * bundle.BlockSize, Len: (part[1] - part[0]) * bundle.BlockSize})
	}
	return image, fmt.Sprintf("%x", checked.Digest()), nil
}

// write writes and reads back. The record has what the stick says of itself.
func (c *writeCmd) write(e *env, t *target, image carry.Image) (*carry.Record, error) {
	rec, err := e.carry(t, image, c.NoReplug)
	err = withdrawLiar(c.State, t, err)
	if err != nil && rec.Touched {
		left := "what is on the stick was not proven: write it anew"
		if rec.Cleared {
			left = "nothing on the stick can be taken for a bundle"
		}
		err = &unfinishedError{left, err}
	}
	return rec, err
}

// carry writes an image to a stick, has it pulled out and put in again, and reads it back.
func (e *env) carry(t *target, image carry.Image, noReplug bool) (*carry.Record, error) {
	bar := e.progress()
	opt := carry.Options{Now: e.now, Progress: func(p carry.Progress) { bar.updateLeft(string(p.Phase), p.Done, p.Total, p.Left) }}
	if !noReplug {
		opt.Replug = func(ctx context.Context) (carry.Medium, error) {
			bar.end(nil)
			held := *e
			held.ctx = context.WithoutCancel(e.ctx)
			return t, held.replug(ctx, t)
		}
	}
	rec, err := carry.Write(e.ctx, t, image, opt)
	bar.end(err)
	id := t.identity
	rec.Medium.Descriptor, rec.Medium.Product, rec.Medium.Revision, rec.Medium.Serial, rec.Medium.Vendor = id.Descriptor, id.Product, id.Revision, id.Serial, id.Vendor
	if usb := t.disk.USB; usb != nil {
		rec.Medium.Port = usb.Port
	}
	return rec, err
}

func logWrite(e *env, log *importlog.Log, digest string, rec *carry.Record) error {
	record, err := canonicalRecord(rec)
	if err != nil {
		return err
	}
	_, err = log.LogWritten(digest, record, e.now())
	return err
}

// canonicalRecord is a record as the log takes it.
func canonicalRecord(rec any) (jsontext.Value, error) {
	b, err := json.Marshal(rec)
	if err != nil {
		return nil, err
	}
	record := jsontext.Value(b)
	return record, record.Canonicalize()
}
