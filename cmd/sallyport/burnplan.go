package main

import (
	"fmt"
	"runtime/debug"

	"sallyport/bundle"
	"sallyport/bundle/trust"
	"sallyport/burn"
)

// burnable is an image that was judged fit for a disc. Close it when it is burnt.
type burnable struct {
	image  burn.Image
	digest string // the seal digest
	close  func() error
}

func (b *burnable) Close() error { return b.close() }

// openPlanned makes the image of a directory whose seal was signed before there was an image, while it is burnt. The
// payload is read once before that: one that has changed costs no disc.
func (c *burnCmd) openPlanned(e *env) (*burnable, error) {
	if err := checkDir(c.File); err != nil {
		return nil, err
	}
	// Most memory is in a few buffers that stay: little garbage is let gather beside them.
	debug.SetGCPercent(20)
	planned, err := readPlanned(c.Seal)
	if err != nil {
		return nil, err
	}
	if err := c.authorizePlanned(planned); err != nil {
		return nil, about(c.Seal, err)
	}
	src, err := bundle.OpenDir(c.File)
	if err != nil {
		return nil, err
	}
	stream, err := c.stream(e, src, planned)
	if err != nil {
		src.Close()
		return nil, err
	}
	return &burnable{
		image:  burn.Image{Source: stream, Blocks: uint32(stream.Size() / bundle.BlockSize)},
		digest: fmt.Sprintf("%x", bundle.Digest(planned.Message)),
		close:  func() error { stream.Close(); return src.Close() },
	}, nil
}

// authorizePlanned wants of the signatures beside a seal what check wants of those in an image.
func (c *burnCmd) authorizePlanned(planned *bundle.Planned) error {
	if len(planned.Signatures) == 0 && !c.Unsigned {
		return usagef("nobody has signed %s, and a burnt disc can't be signed any more: put the signatures beside it first (or --unsigned)", c.Seal)
	}
	if c.Trust == "" {
		if file := planned.Unsure(); file != "" {
			return usagef("%s may be a signature of another seal, and would spoil the disc: give --trust to have it checked, or move it away", file)
		}
		return nil
	}
	root, err := loadTrust(c.Trust)
	if err != nil {
		return err
	}
	missing, err := planned.Authorize(root)
	if err == nil && missing != "" {
		err = &trust.RefusedError{Code: trust.CodeThreshold, Detail: missing}
	}
	return err
}

func (c *burnCmd) stream(e *env, src *bundle.SourceDir, planned *bundle.Planned) (*bundle.Stream, error) {
	plan, _, err := c.plan(e, src, c.File, planned.Seal.Options(), &sealResult{})
	if err != nil {
		return nil, err
	}
	if err := plan.Expect(planned.Seal, planned.Texts()); err != nil {
		return nil, about(c.File, err)
	}
	bar := e.progress()
	err = plan.Foresee(e.ctx, bar.update)
	bar.end(err)
	if err != nil {
		return nil, about(c.File, err)
	}
	return plan.Stream(e.ctx, nil)
}
