package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"sallyport/bundle"
)

type planCmd struct {
	Dir    string `arg:"" help:"The directory to carry." type:"path"`
	Output string `short:"o" required:"" help:"The SEAL.json to write; - for standard output." placeholder:"SEAL.json"`
	whatFlags
}

func (c *planCmd) Help() string {
	return `Reads the directory as prepare would and writes the seal of the image, but no image. People sign the seal, each
against an own copy of the directory, with sallyport sign or with stock minisign and gpg; prepare --seal then makes
the image with their signatures in it, and refuses if it would be any other than this one. A seal that nobody has
signed is replaced.

Examples:
  sallyport plan sources -o SEAL.json --channel news --trust trust.json --medium dvd-r
  sallyport sign SEAL.json --key alice.key --reproduce sources
  minisign -S -s bob.key -m SEAL.json
  gpg --armor --detach-sign SEAL.json
  sallyport prepare sources -o bundle.iso --seal SEAL.json --trust trust.json`
}

type planResult struct {
	*sealResult
	File string `json:"seal_file,omitempty"`
}

func (r *planResult) text(w io.Writer) {
	r.sealResult.text(w)
	if r.File != "" {
		fmt.Fprintf(w, "seal         %s, of an image of %s\n", printable(r.File), bytesText(r.Bytes))
	}
}

func (c *planCmd) run(e *env) (result, error) {
	opt, _, err := c.options()
	if err != nil {
		return nil, err
	}
	if err := checkDir(c.Dir); err != nil {
		return nil, err
	}
	if err := checkPlaces(e, c.Output, "seal", c.Dir); err != nil {
		return nil, err
	}
	res := &planResult{sealResult: &sealResult{}}
	if c.Output != "-" {
		res.File = c.Output
	}
	src, err := bundle.OpenDir(c.Dir)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	plan, refused, err := c.plan(e, src, c.Dir, opt, res.sealResult)
	if err != nil {
		return refused, err
	}
	bar := e.progress()
	seal, err := plan.Seal(e.ctx, bar.update)
	bar.end(err)
	if err != nil {
		return nil, about(c.Dir, err)
	}
	if err := res.describe(seal, plan.Entries()); err != nil {
		return nil, err
	}
	res.noteGap()
	message, err := seal.Encode()
	if err != nil {
		return nil, err
	}
	if c.Output == "-" {
		if _, err := e.stdout.Write(message); err != nil {
			return nil, fmt.Errorf("write the seal: %w", err)
		}
		res.text(e.stderr)
		return nil, nil
	}
	if err := replaceFile(c.Output, message); err != nil {
		return nil, err
	}
	return res, nil
}

// newSealFile writes a seal to a file that isn't there yet.
func newSealFile(path string, message []byte) error {
	err := writeNew(path, message, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return usagef("%s is already there: name another file", path)
	}
	return err
}
