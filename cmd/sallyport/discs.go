package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"sallyport/bundle"
	"sallyport/burn"
)

// hands is what a burn needs a person for, or, with simulated drives, nobody.
type hands struct {
	e     *env
	c     *burnCmd
	bar   *progress
	drive recorder // the one that burns
	name  string   // its name: that of a simulated one changes with the disc
	discs int      // that were put in
	// open opens a recorder: env.openRecorder.
	open func(name string) (recorder, error)
	// second is the drive that reads, too, when it is a real one: it is held from the beginning.
	second recorder
}

func isSim(name string) bool { return strings.HasPrefix(name, "sim:") }

// someone tells whether a person can be asked.
func (c *burnCmd) someone(e *env) bool { return e.interactive() && !c.NoPrompt }

// checkHands refuses, before anything is burnt, what nobody could bring to an end.
func (c *burnCmd) checkHands(e *env) error {
	switch {
	case c.someone(e):
	case c.Copies > 1 && !isSim(c.Drive):
		return usagef("--copies %d: somebody has to change the discs: run it on a terminal, without --no-prompt, or once for each disc", c.Copies)
	case c.VerifyIn != "" && !isSim(c.VerifyIn):
		return usagef("--verify-in %s: somebody has to carry the disc over: run it on a terminal, without --no-prompt, or verify the disc there afterwards", c.VerifyIn)
	}
	return nil
}

// burnDiscs burns, and returns a result once something was written to a disc.
func (c *burnCmd) burnDiscs(e *env, job burn.Copies) (res *burnResult, err error) {
	h := &hands{e: e, c: c, bar: e.progress(), name: c.Drive, discs: 1, open: e.openRecorder}
	return h.burn(job)
}

func (h *hands) burn(job burn.Copies) (res *burnResult, err error) {
	if h.drive, err = h.open(h.name); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.drive.Close()) }()
	if h.c.VerifyIn != "" && !isSim(h.c.VerifyIn) {
		if h.second, err = h.open(h.c.VerifyIn); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, h.second.Close()) }()
	}
	job.Speed, job.Times, _ = h.c.speed() // run has looked at it
	job.Progress = func(p burn.Progress) {
		if p.Total > 0 {
			h.bar.update(string(p.Phase), int64(p.Done)*bundle.BlockSize, int64(p.Total)*bundle.BlockSize)
		}
	}
	if h.c.someone(h.e) {
		job.Next, job.Load = h.next, h.load
	} else if isSim(h.name) && h.c.Copies > 1 {
		job.Next = h.next
	}
	if h.c.VerifyIn != "" {
		job.Second = h.carry
	}
	if job.Begin == nil {
		number := h.c.Number - 1
		job.Begin = func() (int, error) { number++; return number, nil }
	}
	records, err := job.Burn(h.e.ctx, h.drive)
	h.bar.end(err)
	if _, ok := errors.AsType[*burn.ImageError](err); ok {
		err = about(h.c.File, err)
	} else {
		err = about(h.name, err)
	}
	switch len(records) {
	case 0:
		return nil, err
	case 1:
		return &burnResult{Record: records[0]}, err
	}
	return &burnResult{records[len(records)-1], records}, err
}

// next is burn.Copies.Next: a person changes the disc, or a simulated drive has the next one in the next directory.
func (h *hands) next(_ context.Context, change burn.Change) (burn.Drive, error) {
	if isSim(h.c.Drive) {
		return h.nextSimulated(change)
	}
	why := ""
	switch {
	case change.Err == nil:
		why = fmt.Sprintf("disc %d is good, %d of %d: take it out and write its number on it, and put a blank one in", change.Number, change.Good, change.Count)
	case change.Number > 0:
		why = fmt.Sprintf("disc %d: %s; put a blank one in", change.Number, oneLine(change.Err))
	default:
		why = fmt.Sprintf("%s; put another one in", strings.TrimSuffix(oneLine(change.Err), "; the disc is still blank"))
	}
	if err := h.ask(why); err != nil {
		return nil, err
	}
	return h.drive, nil
}

func (h *hands) nextSimulated(change burn.Change) (burn.Drive, error) {
	var spoiled *burn.SpoiledError
	if h.c.Copies == 1 || change.Err != nil && !errors.As(change.Err, &spoiled) {
		return nil, nil // no other disc would do better
	}
	if err := h.drive.Close(); err != nil {
		return nil, err
	}
	h.discs++
	name := fmt.Sprintf("%s-%d", h.c.Drive, h.discs)
	drive, err := h.open(name)
	if err != nil {
		return nil, err
	}
	h.drive, h.name = drive, name
	return drive, nil
}

// load is burn.Options.Load.
func (h *hands) load(why string) error { return h.ask(why) }

// carry is burn.Options.Second: the disc goes to the second drive.
func (h *hands) carry(_ context.Context, number int) (burn.Drive, func() error, error) {
	if !isSim(h.c.VerifyIn) {
		err := h.ask(fmt.Sprintf("disc %d reads well here: take it out of %s, put it into %s", number, h.name, h.c.VerifyIn))
		return h.second, func() error { return nil }, err
	}
	name := h.c.VerifyIn
	if name == h.c.Drive { // a simulated disc doesn't leave its directory: another drive opens that
		name = h.name
	}
	if name == h.name {
		if err := h.drive.Close(); err != nil {
			return nil, nil, err
		}
	}
	if !isSimulated(strings.TrimPrefix(name, "sim:")) {
		return nil, nil, usagef("%q holds no simulated drive", name)
	}
	drive, err := h.open(name)
	if err != nil {
		return nil, nil, err
	}
	return drive, drive.Close, nil
}

// ask asks a person to do something, and waits until it is done.
func (h *hands) ask(what string) error {
	h.bar.end(nil)
	fmt.Fprintf(h.e.stderr, "%s, and press Enter: ", what)
	line, err := h.e.readLine()
	if err == nil && !strings.HasSuffix(line, "\n") {
		err = errors.New("nobody answers")
	}
	if err != nil {
		fmt.Fprintln(h.e.stderr)
	}
	return err
}
