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
	bar  *progressbar.ProgressBar
	step string
}

func (e *env) progress() *progress { return &progress{env: e} }

func (p *progress) shown() bool {
	f, ok := p.env.stderr.(*os.File)
	return ok && !p.env.quiet && !p.env.json && term.IsTerminal(int(f.Fd()))
}

// update is a bundle.Progress and the like; done and total are bytes.
func (p *progress) update(step string, done, total int64) {
	if !p.shown() {
		return
	}
	if p.bar == nil || p.step != step {
		p.end()
		p.step = step
		p.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(p.env.stderr),
			progressbar.OptionSetDescription(fmt.Sprintf("%-9s", step)),
			progressbar.OptionShowBytes(true),
			progressbar.OptionShowCount(),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionSetWidth(20),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionUseANSICodes(os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"),
		)
	}
	_ = p.bar.Set64(min(done, total)) // a bar that can't be drawn is no reason to stop
}

// end leaves the bar as it stands and goes to the next line.
func (p *progress) end() {
	if p.bar != nil {
		fmt.Fprintln(p.env.stderr)
		p.bar = nil
	}
}
