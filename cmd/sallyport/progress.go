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
		p.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(p.env.stderr),
			progressbar.OptionSetDescription(description),
			progressbar.OptionShowBytes(true),
			progressbar.OptionShowCount(),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionSetWidth(16),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionUseANSICodes(os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"),
		)
		p.bar.StartWithoutRender()
		fmt.Fprint(p.env.stderr, description)
	} else if done > 0 {
		_ = p.bar.Set64(min(done, total)) // a bar that can't be drawn is no reason to stop
	}
	p.done = done
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
