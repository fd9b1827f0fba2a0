package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"sallyport/bundle/importlog"
	"sallyport/bundle/trust"
	"sallyport/media/carry"
	"sallyport/media/enrol"
)

// openLog opens or creates the log of a state directory under the station's key.
func openLog(ctx context.Context, dir string, key *trust.SecretKey, station trust.Station, open func(context.Context, string, note.Signer, note.Verifier) (*importlog.Log, error)) (*importlog.Log, error) {
	origin := importlog.Origin(station.Name)
	signer, err := key.NoteSigner(origin)
	if err != nil {
		return nil, err
	}
	verifier, err := key.Public().NoteVerifier(origin)
	if err != nil {
		return nil, err
	}
	return open(ctx, dir, signer, verifier)
}

type logCmd struct {
	Show   logShowCmd   `cmd:"" help:"Show the entries."`
	Verify logVerifyCmd `cmd:"" help:"Check every entry, every tile and the checkpoint."`
}

type logShowCmd struct {
	State string `required:"" help:"The state directory." type:"path" placeholder:"DIR"`
	From  int64  `help:"The first entry to show, counted from 0."`
}

func (c *logShowCmd) Help() string { return "Example: sallyport log show --state state --from 10" }

type logResult struct {
	Station string            `json:"station"`
	Size    int64             `json:"size"`
	Root    string            `json:"root_hash"`
	Entries []json.RawMessage `json:"entries,omitzero"` // nil: not asked for

	lines    []string
	verified bool
}

func (r *logResult) text(w io.Writer) {
	for _, line := range r.lines {
		fmt.Fprintln(w, line)
	}
	verb := "log"
	if r.verified {
		verb = "verified"
	}
	fmt.Fprintf(w, "%-12s station %s, %s, root hash %s\n", verb, r.Station, counted(r.Size, "entry"), r.Root)
}

// openLogReader opens a log for reading, under the key and the name in the state directory itself.
func (e *env) openLogReader(dir string) (*importlog.Log, note.Verifier, error) {
	trustData, err := readSmall(filepath.Join(dir, stateTrustName))
	if err != nil {
		return nil, nil, noState(dir, err)
	}
	document, err := trust.Parse(trustData)
	if err != nil {
		return nil, nil, err
	}
	station, err := logStation(dir, document.Stations)
	if err != nil {
		return nil, nil, err
	}
	verifier, err := station.Key.Public.NoteVerifier(importlog.Origin(station.Name))
	if err != nil {
		return nil, nil, err
	}
	log, err := importlog.OpenReader(e.ctx, dir, verifier)
	return log, verifier, explainLog(dir, station, document.Stations, err)
}

// logStation tells whose log is to be read: that of the station whose key lies there. Who only reads needs no secret,
// so without the key, as in an auditor's copy, it is the station that the checkpoint names; it must have signed it.
func logStation(dir string, stations []trust.Station) (trust.Station, error) {
	keyFile := filepath.Join(dir, stationKeyName)
	data, err := readSmall(keyFile)
	if err == nil {
		_, station, err := stationOf(data, keyFile, stations)
		return station, err
	}
	if !errors.As(err, new(*usageError)) && !errors.Is(err, fs.ErrPermission) {
		return trust.Station{}, err
	}
	if data, err = readSmall(filepath.Join(dir, checkpointName)); err != nil {
		return trust.Station{}, err
	}
	origin, _, _ := strings.Cut(string(data), "\n")
	for _, station := range stations {
		if importlog.Origin(station.Name) == origin {
			return station, nil
		}
	}
	return trust.Station{}, usagef("%s: the log is %.100q's, and %s beside it lists no such station", dir, origin, stateTrustName)
}

func (c *logShowCmd) run(e *env) (result, error) {
	log, _, err := e.openLogReader(c.State)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	res := newLogResult(log)
	res.Entries = []json.RawMessage{}
	for entry, err := range log.Entries(e.ctx, c.From) {
		if err != nil {
			return res, err
		}
		res.Entries = append(res.Entries, json.RawMessage(entry.JSON))
		res.lines = append(res.lines, entryLine(entry))
	}
	return res, nil
}

func newLogResult(log *importlog.Log) *logResult {
	head := log.Head()
	return &logResult{Station: log.Station(), Size: head.Tree.N, Root: head.Tree.Hash.String()}
}

// entryLine shows an entry to people.
func entryLine(e *importlog.Entry) string {
	what := ""
	switch {
	case e.Prepare != nil:
		what = sealLine(e.Prepare.Seal)
	case e.Begin != nil:
		what = fmt.Sprintf("disc %d, seal %.16s", e.Begin.DiscNumber, e.Begin.SealDigest)
	case e.Burn != nil:
		var rec struct {
			Number   int  `json:"disc_number"`
			Verified bool `json:"verified"`
		}
		state := "spoiled"
		if json.Unmarshal(e.Burn.Record, &rec) == nil && rec.Verified {
			state = "read back equal"
		}
		what = fmt.Sprintf("disc %d, %s, seal %.16s", rec.Number, state, e.Burn.SealDigest)
	case e.Enrol != nil:
		what = enrolLine(e.Enrol)
	case e.Write != nil:
		what = writeLine(e.Write)
	case e.Deliver != nil:
		what = deliverLine(e.Deliver)
	case e.Accept != nil:
		what = sealLine(e.Accept.Seal)
		for i, s := range e.Accept.Signers {
			sep := ", "
			if i == 0 {
				sep = "; signed by "
			}
			what += sep + s.Holder
		}
		if r := e.Accept.Repaired; r != nil {
			what += "; " + counted(r.Blocks, "block") + " repaired"
			if r.Unreadable > 0 {
				what += fmt.Sprintf(" (%d could not be read)", r.Unreadable)
			}
			if r.Worst > 0 {
				what += fmt.Sprintf(", at worst %d of %d losses", r.Worst, r.Roots)
			}
		}
		if e.Accept.GapReason != "" {
			what += "; gap: " + e.Accept.GapReason
		}
	case e.Release != nil:
		what = e.Release.Path
	case e.Refuse != nil:
		what = fmt.Sprintf("%s from %s: %s", e.Refuse.Code, e.Refuse.Source, e.Refuse.Detail)
	}
	return fmt.Sprintf("%5d  %s  %-10s %s", e.Index, timeText(e.Time), e.Kind, printable(what))
}

// enrolLine shows what a stick was made.
func enrolLine(e *importlog.EnrolEntry) string {
	rec, err := enrol.Parse(append(slices.Clone(e.Record), '\n'))
	if err != nil {
		return "(unreadable record)"
	}
	m := rec.Medium
	return fmt.Sprintf("%s stick %s %s, serial %s, %s, capacity tested %s", rec.Use, orUnknown(m.Vendor), m.Product, orUnknown(m.Serial), bytesText(m.Size), rec.Capacity)
}

// writeLine shows what became of a stick.
func writeLine(e *importlog.WriteEntry) string {
	var rec carry.Record
	if err := json.Unmarshal(e.Record, &rec); err != nil {
		return fmt.Sprintf("(unreadable record), seal %.16s", e.SealDigest)
	}
	state := "failed"
	if rec.Verified {
		state = "read back equal"
	}
	return fmt.Sprintf("stick %s, %s, seal %.16s", stickText(rec.Medium), state, e.SealDigest)
}

// deliverLine shows what became of a delivery.
func deliverLine(e *importlog.DeliverEntry) string {
	var rec deliveryRecord
	if err := json.Unmarshal(e.Record, &rec); err != nil || rec.Write == nil {
		return fmt.Sprintf("%s, (unreadable record)", e.Path)
	}
	state := "failed"
	if rec.Verified {
		state = "read back equal"
	}
	return fmt.Sprintf("%s to stick %s, %s", e.Path, stickText(rec.Write.Medium), state)
}

func sealLine(seal []byte) string {
	var s struct {
		Channel  string `json:"channel"`
		Sequence int64  `json:"sequence"`
		BundleID string `json:"bundle_id"`
	}
	if err := json.Unmarshal(seal, &s); err != nil {
		return "(unreadable seal)"
	}
	return fmt.Sprintf("channel %s, sequence %d, bundle %.16s", s.Channel, s.Sequence, s.BundleID)
}

type logVerifyCmd struct {
	State string `required:"" help:"The state directory." type:"path" placeholder:"DIR"`
	Since string `help:"A checkpoint of this log that you kept: checks that the log only grew since." placeholder:"FILE"`
}

func (c *logVerifyCmd) Help() string {
	return `Keep STATE/log/checkpoint somewhere else after each look, and give it with --since the next time: a log that was
cut or rewritten then shows.

Example: sallyport log verify --state state --since last-month.checkpoint`
}

func (c *logVerifyCmd) run(e *env) (result, error) {
	log, verifier, err := e.openLogReader(c.State)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	var earlier *importlog.Checkpoint
	if c.Since != "" {
		data, err := readSmall(c.Since)
		if err != nil {
			return nil, err
		}
		if earlier, err = importlog.ParseCheckpoint(data, verifier); err != nil {
			return nil, usagef("%s is no checkpoint of this log: %v", c.Since, err)
		}
	}
	if _, err := log.Verify(e.ctx, earlier); err != nil {
		return nil, err
	}
	res := newLogResult(log)
	res.verified = true
	return res, nil
}
