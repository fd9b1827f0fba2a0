package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"sallyport/bundle"
	"sallyport/bundle/importlog"
	"sallyport/media/carry"
	"sallyport/media/enrol"
	"sallyport/media/format"
)

type deliverCmd struct {
	Release  string `arg:"" help:"The release, SPOOL/CHANNEL/SEQUENCE-ID." type:"path"`
	Device   string `required:"" help:"The stick: its generic node as /dev/sg1, or /dev/sdb." placeholder:"DEV"`
	Trust    string `required:"" help:"The trust root." placeholder:"FILE"`
	State    string `required:"" help:"This station's state: what it let in, which sticks it has enrolled, and its log." type:"path" placeholder:"DIR"`
	Scratch  string `help:"Where there is room for a copy of the release meanwhile, if not in the spool." type:"path" placeholder:"DIR"`
	NoReplug bool   `help:"Don't have the stick pulled out and put in again before it is read back: what only its cache holds then counts as written."`
	mediaPolicy
}

func (c *deliverCmd) Help() string {
	return `Checks that the release is what was let in, to the last byte, and copies it to a stick that this station has wiped,
tested, formatted and enrolled (sallyport format --use delivery). The stick's file system is made anew; what was on it is
gone, also where the new one has nothing. Then the stick is pulled out and put in again, and every file is read back by a
reader without rights and compared with what was signed.

What the stick's file system can't hold is refused before anything is written: FAT32 and exFAT have no symbolic links,
no names that differ only in case, none of Windows' own, and FAT32 no files of 4 GiB. They keep no permissions, and FAT32
times in steps of two seconds.

Example: sallyport deliver spool/news/3-1f0c… --device /dev/sg1 --trust trust.json --state state`
}

// deliveryRecord is what the log keeps of a delivery. Fields stand in the order of their names.
type deliveryRecord struct {
	Bytes    int64         `json:"bytes"` // of all files
	Failure  string        `json:"failure,omitempty"`
	Files    int64         `json:"files"`    // directories and links too
	Verified bool          `json:"verified"` // every file read back and equal
	Volume   *enrol.Volume `json:"volume"`
	Write    *carry.Record `json:"write"`
}

type deliverResult struct {
	Release  string           `json:"release"`           // CHANNEL/SEQUENCE-ID
	Problems []format.Problem `json:"problems,omitzero"` // what the file system can't hold
	Record   *deliveryRecord  `json:"record,omitzero"`   // absent when nothing was done
}

func (r *deliverResult) text(w io.Writer) {
	for _, p := range r.Problems {
		fmt.Fprintf(w, "can't hold   %s: %s\n", printable(p.Path), printable(p.Why))
	}
	rec := r.Record
	if rec == nil {
		return
	}
	fmt.Fprintf(w, "release      %s, %s, %s\n", printable(r.Release), counted(rec.Files, "file"), bytesText(rec.Bytes))
	fmt.Fprintf(w, "stick        %s\n", stickText(rec.Write.Medium))
	fmt.Fprintf(w, "file system  %s, label %s, number %s\n", rec.Volume.Kind, orDash(rec.Volume.Label), rec.Volume.Serial)
	switch {
	case rec.Verified && rec.Write.Replugged:
		fmt.Fprintln(w, "read back    every file equal, after it was pulled out and put in again")
	case rec.Verified:
		fmt.Fprintln(w, "read back    every file equal; it was not pulled out in between, so that a cache in it may have answered")
	default:
		fmt.Fprintln(w, "failed       what is on the stick was not proven: deliver it anew")
	}
}

func (c *deliverCmd) run(e *env) (_ result, err error) {
	root, err := loadTrust(c.Trust)
	if err != nil {
		return nil, err
	}
	if err := checkDir(c.Release); err != nil {
		return nil, err
	}
	st, err := e.openState(c.State, root)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	held := *e
	held.ctx = context.WithoutCancel(e.ctx)
	t, volume, err := c.openDelivery(&held, st)
	if err != nil {
		return nil, about(c.Device, err)
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	return c.deliver(e, st, t, volume)
}

// openDelivery opens the stick, if it is one that this station has enrolled for releases.
func (c *deliverCmd) openDelivery(e *env, st *state) (*target, *enrol.Volume, error) {
	reserves, err := c.reserves()
	if err != nil {
		return nil, nil, err
	}
	t, err := e.openTarget(c.Device, reserves)
	if err != nil {
		return nil, nil, err
	}
	rec, err := enrol.Find(filepath.Join(c.State, enrolDir), t.identity, enrol.Delivery, st.station)
	if err == nil && rec.Volume == nil {
		err = errors.New("its enrolment names no file system")
	}
	if err == nil {
		err = format.Ready(format.Kind(rec.Volume.Kind))
	}
	if err != nil {
		return nil, nil, errors.Join(err, t.Close())
	}
	return t, rec.Volume, nil
}

// deliver checks, copies, reads back and logs.
func (c *deliverCmd) deliver(e *env, st *state, t *target, volume *enrol.Volume) (_ result, err error) {
	kind := format.Kind(volume.Kind)
	name := path.Join(filepath.Base(filepath.Dir(c.Release)), filepath.Base(c.Release))
	seal, digest, err := released(e, st.log, name)
	if err != nil {
		return nil, leaving("the stick is untouched", about(c.Release, err))
	}
	src, err := bundle.OpenDir(c.Release)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	r := &deliverResult{Release: name}
	tree := format.Tree{FS: src, Dir: c.Release}
	if err := tree.Fits(e.ctx, kind); err != nil {
		if unfit, ok := errors.AsType[*format.UnfitError](err); ok {
			r.Problems = unfit.Problems
		}
		return r, leaving("the stick is untouched", about(c.Release, err))
	}
	entries, err := asSealed(e, src, seal)
	if err != nil {
		return nil, leaving("the stick is untouched", about(c.Release, err))
	}
	rec := &deliveryRecord{Files: int64(len(entries)) - 1}
	for i := range entries {
		rec.Bytes += entries[i].Size
	}
	rec.Write, rec.Volume, err = e.layOut(t, kind, volume.Label, tree, c.scratch(), c.NoReplug)
	if rec.Write == nil {
		if errors.Is(err, unix.ENOSPC) {
			err = fmt.Errorf("%w: name a directory with more room with --scratch", err)
		}
		return nil, leaving("the stick is untouched", about(c.Device, err))
	}
	if err == nil {
		err = e.readTree(t, kind, entries)
	}
	if rec.Verified = err == nil; err != nil {
		rec.Failure = printable(err.Error())
		err = &unfinishedError{"what is on the stick was not proven: deliver it anew", withdrawLiar(c.State, t, err)}
	}
	r.Record = rec
	record, logErr := canonicalRecord(rec)
	if logErr == nil {
		_, logErr = st.log.LogDelivered(name, digest, record, e.now())
	}
	return r, about(c.Device, errors.Join(err, logErr))
}

// scratch is where the layout is made: beside the spool's other unfinished work, where that is.
func (c *deliverCmd) scratch() string {
	if c.Scratch != "" {
		return c.Scratch
	}
	incoming := filepath.Join(filepath.Dir(filepath.Dir(c.Release)), ".incoming")
	if unix.Access(incoming, unix.W_OK|unix.X_OK) == nil {
		return incoming
	}
	return ""
}

// notReleasedError says that a station's log knows nothing of a release.
type notReleasedError struct{ name string }

func (e *notReleasedError) Error() string {
	return fmt.Sprintf("%s: this station's log says of no release that it stands at %s", e.RefusalCode(), printable(e.name))
}

func (e *notReleasedError) RefusalCode() string { return "not-released" }

// released finds in the log what was let in and stands at a path of the spool: its seal, and that one's digest.
func released(e *env, log *importlog.Log, name string) (*bundle.Seal, string, error) {
	digest := ""
	for entry, err := range log.Entries(e.ctx, 0) {
		if err != nil {
			return nil, "", err
		}
		if entry.Release != nil && entry.Release.Path == name {
			digest = entry.Release.SealDigest
		}
	}
	if digest == "" {
		return nil, "", &notReleasedError{name}
	}
	for entry, err := range log.Entries(e.ctx, 0) {
		if err != nil {
			return nil, "", err
		}
		if entry.Accept != nil && entry.Accept.SealDigest == digest {
			seal, err := bundle.ParseSeal(entry.Accept.Seal)
			return seal, digest, err
		}
	}
	return nil, "", &notReleasedError{name}
}

// asSealed reads a release whole, and says what is in it if all of it is what the seal covers: names, kinds, modes, times,
// bytes.
func asSealed(e *env, src *bundle.SourceDir, seal *bundle.Seal) ([]bundle.Entry, error) {
	plan, err := bundle.NewPlan(e.ctx, src, seal.Options())
	if err != nil {
		return nil, err
	}
	if err := plan.Expect(seal, nil); err != nil {
		return nil, changed(err)
	}
	bar := e.progress()
	err = plan.Foresee(e.ctx, func(step string, done, total int64) { bar.update("checking", done, total) })
	bar.end(err)
	if err != nil {
		return nil, changed(err)
	}
	return plan.Entries(), nil
}

// changed says of a release that isn't what its seal covers that it has changed.
func changed(err error) error {
	if refused, ok := errors.AsType[*bundle.RefusedError](err); ok && refused.Code == "seal-differs" {
		return &bundle.RefusedError{Code: "release-changed", Detail: "the release isn't what was let in any more", Err: err}
	}
	return err
}
