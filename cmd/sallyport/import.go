package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"sallyport/bundle"
	"sallyport/bundle/importlog"
)

type importCmd struct {
	Source string `arg:"" help:"An image file, a device, or sim:DIR."`
	Trust  string `required:"" help:"The trust root." placeholder:"FILE"`
	Spool  string `required:"" help:"Where bundles are let in to." type:"path" placeholder:"DIR"`
	State  string `required:"" help:"This station's state: its key and its log." type:"path" placeholder:"DIR"`
	stationKeyFlag
	AllowUnknownSigners bool   `help:"Let signatures pass by keys that the trust root doesn't list."`
	CaseClash           bool   `help:"Let names pass that differ only in case."`
	GapReason           string `help:"Why a gap in the sequence is all right; it stays in the log." placeholder:"TEXT"`
	surplusFlag
}

func (c *importCmd) Help() string {
	return `Reads the medium once: seal, tree and manifest, then the payload into SPOOL/.incoming, every block and file checked
on the way. What scratches took is made good where the bundle has parity; for that a damaged disc is read once more,
and kept in SPOOL/.incoming meanwhile if there is room. Then it is logged, and appears as SPOOL/CHANNEL/SEQUENCE-ID by
one rename. An import that was interrupted is finished by running it again.

Examples:
  sallyport import sim:drive --trust trust.json --spool spool --state state --station-key kiosk.key
  sallyport import bundle.iso --trust trust.json --spool spool --state state`
}

type importResult struct {
	*verifyResult
	Receipt *importlog.Receipt `json:"receipt"`
	Path    string             `json:"path"`
}

func (r *importResult) text(w io.Writer) {
	r.verifyResult.text(w)
	fmt.Fprintf(w, "logged       entry %d of station %s\n", r.Receipt.Index, r.Receipt.Station)
	fmt.Fprintf(w, "released     %s\n", r.Path)
}

func (c *importCmd) run(e *env) (_ result, err error) {
	root, err := loadTrust(c.Trust)
	if err != nil {
		return nil, err
	}
	for _, err := range []error{apart("the spool", c.Spool, "the state directory", c.State), apart("the state directory", c.State, "the spool", c.Spool)} {
		if err != nil {
			return nil, err
		}
	}
	st, err := e.openOrMakeState(c.State, c.StationKey, root)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	src, err := e.openSource(c.Source)
	if err != nil {
		return nil, about(c.Source, st.refused(e, c.Source, err))
	}
	defer src.Close()
	res, err := c.admit(e, st, src)
	if err != nil {
		return nil, about(c.Source, st.refused(e, c.Source, err))
	}
	return res, nil
}

// admit verifies, stages, logs and releases.
func (c *importCmd) admit(e *env, st *state, src *source) (_ *importResult, err error) {
	if err := os.Mkdir(c.Spool, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, pathError(named("make the spool", c.Spool, err))
	}
	if err := checkDir(c.Spool); err != nil {
		return nil, err
	}
	spool, err := importlog.OpenSpool(c.Spool)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, spool.Close()) }()
	sink := &stagingSink{spool: spool, st: st}
	defer func() {
		if err != nil && sink.staging != nil {
			err = errors.Join(err, sink.staging.Discard())
		}
	}()
	bar := e.progress()
	v, err := st.verify(e, src, bundle.VerifyOptions{
		AllowUnknownSigners: c.AllowUnknownSigners, Entries: scanEntries(c.CaseClash), Sink: sink, SampleSurplus: c.sampled(), Progress: bar.update,
		Scratch: filepath.Join(c.Spool, ".incoming"),
	}, c.GapReason)
	bar.end(err)
	if err != nil {
		return nil, err
	}
	// From here on there is something in the log: what stops it says so.
	if err := context.Cause(e.ctx); err != nil {
		return nil, err
	}
	receipt, err := importlog.Accept(context.WithoutCancel(e.ctx), st.log, v, sink.staging, importlog.AcceptOptions{Now: e.now(), GapReason: c.GapReason})
	if err != nil {
		return nil, err
	}
	path, err := importlog.Release(e.ctx, receipt, sink.staging, e.now())
	if err != nil {
		done := fmt.Sprintf("logged as accepted in entry %d, and not released (import it again to finish)", receipt.Index)
		return nil, &unfinishedError{done, err}
	}
	sink.staging = nil
	res, err := verified(v, true)
	if err != nil {
		return nil, err
	}
	return &importResult{verifyResult: res, Receipt: receipt, Path: filepath.Join(c.Spool, filepath.FromSlash(path))}, nil
}

// stagingSink puts the payload into the spool's .incoming, once the seal is known and believed.
type stagingSink struct {
	spool   *importlog.Spool
	st      *state
	staging *importlog.Staging
}

// Put is called after the signatures were found good, so the claims are there.
func (s *stagingSink) Put(e *bundle.Entry, r io.Reader) (err error) {
	if s.staging == nil {
		if s.staging, err = s.spool.Stage(s.st.claims.Digest()); err != nil {
			return err
		}
	}
	return s.staging.Put(e, r)
}
