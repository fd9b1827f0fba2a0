package main

import (
	"fmt"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows how far a long step has come: a bar with the time left, on stderr, if that is a terminal and
// the result isn't meant for a program.
type progress struct {
	env  *env
	step string
	bar  *progressbar.ProgressBar
	done int64
}

func (e *env) progress() *progress { return &progress{env: e} }

func (p *progress) shown() bool {
	f, ok := p.env.stderr.(*os.File)
	return ok && !p.env.quiet && !p.env.json && term.IsTerminal(int(f.Fd()))
}

// update is a bundle.Progress and the like; done and total are bytes. The first call for a step shows its name:
// some tell nothing more.
func (p *progress) update(step string, done, total int64) {
	if !p.shown() {
		return
	}
	if p.step != step {
		p.end(nil)
		p.step = step
		description := fmt.Sprintf("%-12s", step)
		p.bar = p.newBar(description, total, true)
		p.bar.StartWithoutRender()
		fmt.Fprint(p.env.stderr, description)
	} else if done > 0 {
		_ = p.bar.Set64(min(done, total)) // a bar that can't be drawn is no reason to stop
	}
	p.done = done
}

// updateLeft is update for steps of one job whose end is foreseen: done and total are bytes of all of them, and left is how
// long it will be until the job is done, below zero if that isn't known.
func (p *progress) updateLeft(step string, done, total int64, left time.Duration) {
	if !p.shown() {
		return
	}
	description := fmt.Sprintf("%-26s%10s", step, "")
	if left >= 0 {
		description = fmt.Sprintf("%-26s%10s", step, leftText(left))
	}
	if p.bar == nil {
		p.bar = p.newBar(description, total, false)
	}
	p.bar.Describe(description)
	_ = p.bar.Set64(min(done, total))
	p.done = done
}

// leftText says to people how long something takes yet.
func leftText(d time.Duration) string {
	switch {
	case d >= time.Hour:
		d = d.Round(time.Minute)
		return fmt.Sprintf("%d:%02d h", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%d min", d.Round(time.Minute)/time.Minute)
	}
	return fmt.Sprintf("%d s", d.Round(time.Second)/time.Second)
}

// newBar makes a bar, which with predict guesses itself how long it takes yet.
func (p *progress) newBar(description string, total int64, predict bool) *progressbar.ProgressBar {
	return progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(p.env.stderr),
		progressbar.OptionSetDescription(description),
		progressbar.OptionShowBytes(true),
		progressbar.OptionShowCount(),
		progressbar.OptionSetPredictTime(predict),
		progressbar.OptionSetElapsedTime(predict),
		progressbar.OptionSetWidth(16),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionUseANSICodes(os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"),
	)
}

// end leaves the bar full, or after an error as it stands, and goes to the next line.
func (p *progress) end(err error) {
	if p.bar == nil {
		return
	}
	if err == nil && p.done > 0 {
		_ = p.bar.Finish()
	}
	fmt.Fprintln(p.env.stderr)
	p.bar, p.step, p.done = nil, "", 0
}
