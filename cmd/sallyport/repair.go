package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"sallyport/bundle"
)

type repairCmd struct {
	Source string `arg:"" help:"An image file, a device, or sim:DIR."`
	Output string `short:"o" required:"" help:"The image file to write; it must not be there yet." placeholder:"FILE"`
	Trust  string `help:"Make sure first that enough of the channel's people signed it." placeholder:"FILE"`
}

func (c *repairCmd) Help() string {
	return `Writes the image as it was made, byte for byte, to a new file: what scratches took is computed from the parity, the
hash tree and the other copies of locator and seal. The source is read once, and never written to. What comes out is
checked against the root hash in the seal; when more is lost than can be made good, nothing is written.

Example: sallyport repair sim:drive -o repaired.iso --trust trust.json`
}

type repairResult struct {
	*sealResult
	TrustChecked bool `json:"trust_checked"`
	repairedResult
}

// repairedResult is what was damaged and made good.
type repairedResult struct {
	RepairedBlocks int64            `json:"repaired_blocks"`
	Repaired       *bundle.Repaired `json:"repaired,omitempty"`
}

func repairedOf(r *bundle.Repaired) repairedResult { return repairedResult{r.Blocks(), r} }

func (r repairedResult) text(w io.Writer) { r.show(w, "repaired") }

// show says under a verb what was damaged.
func (r repairedResult) show(w io.Writer, verb string) {
	if r.Repaired == nil {
		return
	}
	var parts []string
	for _, p := range []struct {
		blocks int64
		of     string
	}{
		{r.Repaired.Data, "data"}, {r.Repaired.Tree, "tree"}, {r.Repaired.Parity, "parity"}, {r.Repaired.Locator, "locator"},
		{r.Repaired.SealA, "seal A"}, {r.Repaired.SealB, "seal B"}, {r.Repaired.Superblock, "superblock"}, {r.Repaired.Padding, "padding"},
	} {
		if p.blocks > 0 {
			parts = append(parts, fmt.Sprintf("%d of %s", p.blocks, p.of))
		}
	}
	line := fmt.Sprintf("%-12s %s: %s", verb, counted(r.RepairedBlocks, "block"), strings.Join(parts, ", "))
	if r.Repaired.Unreadable > 0 {
		line += fmt.Sprintf("; %d of them could not be read", r.Repaired.Unreadable)
	}
	fmt.Fprintln(w, line)
	var where []string
	for _, run := range r.Repaired.Runs {
		if run.Blocks == 1 {
			where = append(where, fmt.Sprint(run.LBA))
		} else {
			where = append(where, fmt.Sprintf("%d-%d", run.LBA, run.LBA+run.Blocks-1))
		}
	}
	if r.Repaired.More > 0 {
		where = append(where, fmt.Sprintf("and %s more", counted(r.Repaired.More, "run")))
	}
	fmt.Fprintf(w, "at blocks    %s (counted from 0)\n", strings.Join(where, ", "))
	if r.Repaired.Worst > 0 {
		fmt.Fprintf(w, "worst spot   %d of the %d losses there that the parity can make good\n", r.Repaired.Worst, r.Repaired.Roots)
	}
}

// writeBursts shows what can be made good, nil for nothing.
func writeBursts(w io.Writer, b *bundle.Bursts, g bundle.Geometry) {
	if b == nil {
		fmt.Fprintln(w, "heals        nothing: there is no parity")
		return
	}
	fmt.Fprintln(w, "heals        so many lost blocks in a row, wherever in the place they begin:")
	for _, p := range []struct {
		place       string
		blocks, all int64
	}{
		{"in the data", b.Data, g.DataBlocks}, {"over data and tree", b.DataTree, 0}, {"in the tree", b.Tree, g.TreeBlocks},
		{"over tree and parity", b.TreeParity, g.TreeBlocks + g.FECBlocks}, {"in the parity", b.Parity, g.FECBlocks}, {"anywhere", b.Anywhere, 0},
	} {
		place := p.place
		if p.blocks == p.all {
			place += " (all of it)"
		}
		fmt.Fprintf(w, "             %-32s %s, %s, %.1f %% of the image\n", place, counted(p.blocks, "block"), bytesText(p.blocks*bundle.BlockSize), 100*float64(p.blocks)/float64(g.ImageBlocks()))
	}
	fmt.Fprintln(w, "             anywhere: also over any borders, with the seals, the locator and the padding")
}

func counted(n int64, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case strings.HasSuffix(what, "y"):
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(what, "y"))
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (r *repairResult) text(w io.Writer) {
	r.sealResult.text(w)
	switch {
	case r.Repaired == nil && len(r.Notes) > 0:
		fmt.Fprintln(w, "repaired     nothing: the image in it was whole, and this is a copy of that")
	case r.Repaired == nil:
		fmt.Fprintln(w, "repaired     nothing: it was whole, and the image is a copy")
	}
	r.repairedResult.text(w)
	fmt.Fprintln(w, "checked      the image is what its seal says, to the last byte")
	if r.TrustChecked {
		fmt.Fprintln(w, "signed       by enough of the channel's people")
	} else {
		fmt.Fprintln(w, "not checked  who signed it: without --trust anybody may have made it; verify it before you believe it")
	}
}

func (c *repairCmd) run(e *env) (result, error) {
	if err := c.checkOutput(); err != nil {
		return nil, err
	}
	opt := bundle.RepairOptions{}
	res := &repairResult{sealResult: &sealResult{Image: c.Output}, TrustChecked: c.Trust != ""}
	opt.Judge = func(claims *bundle.Claims) error { return res.describe(claims.Seal, nil) }
	if c.Trust != "" {
		root, err := loadTrust(c.Trust)
		if err != nil {
			return nil, err
		}
		opt.Judge = func(claims *bundle.Claims) error {
			return errors.Join(claims.Authorize(root), res.describe(claims.Seal, nil))
		}
	}
	src, err := e.openSource(c.Source)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	bar := e.progress()
	opt.Progress = bar.update
	opt.Note = func(note string) { res.Notes = append(res.Notes, note) }
	repaired, err := bundle.Repair(e.ctx, src.Source, c.Output, opt)
	bar.end(err)
	if err != nil {
		return nil, about(c.Source, err)
	}
	res.repairedResult = repairedOf(repaired)
	return res, nil
}

// checkOutput finds out before long work whether a new file can be made. What is there stays: it may be the only other
// copy.
func (c *repairCmd) checkOutput() error {
	if c.Output == "-" {
		return usagef("-o -: what was repaired is read again and checked, so that it needs a file: name one")
	}
	switch _, err := os.Lstat(c.Output); {
	case err == nil:
		return usagef("write %s: it is there already, and a repair overwrites nothing: name a new file", c.Output)
	case !errors.Is(err, fs.ErrNotExist):
		return pathError(named("write", c.Output, err))
	}
	if dir, ok := strings.CutPrefix(c.Source, "sim:"); ok {
		if err := apart("the image", c.Output, "the drive", dir); err != nil {
			return err
		}
	}
	return checkOutput(c.Output)
}
