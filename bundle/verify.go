package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"

	"sallyport/bundle/trust"
	"sallyport/bundle/verity"
)

// VerifyOptions say what is checked beside the bundle itself. All may be left zero.
type VerifyOptions struct {
	// Station is the name of this station; when empty, whom the bundle is for is checked against the trust
	// root only.
	Station string
	// AllowUnknownSigners lets slots pass whose key nobody in the trust root has.
	AllowUnknownSigners bool
	// Fresh is called once the signatures are good; its error is the result. Nil: freshness isn't checked.
	Fresh func(c *Claims) error
	// Entries is called with the manifest before any of the payload is read; its error is the result.
	Entries func([]Entry) error
	// Sink takes the payload as it is read, each block verified; nil: it is only checked. Until Verify has
	// returned without an error it may not be released.
	Sink Sink
	// NoRepair takes every damage for what it is without parity. Else data, tree and what is there twice are
	// made good where the bundle has parity; [Verified.Repaired] tells.
	NoRepair bool
	// SampleSurplus has only samples read of what lies behind the image on a large medium; [Verified.Notes] says so.
	// Else all of it is.
	SampleSurplus bool
	// Scratch is the folder for mended blocks, and when there is room for what a damaged medium gave, so that it
	// isn't read again; empty: the folder for temporary files. Nothing is left there.
	Scratch string
	// Progress may be nil.
	Progress Progress
}

// Verified is a bundle that was found to be, to the last byte, what enough of its channel's people sealed.
// Only [Verify] makes one.
type Verified struct {
	claims   *Claims
	auth     *trust.Authorization
	entries  []Entry
	notes    []string
	repaired *Repaired
}

// Seal returns the seal. Not to be changed.
func (v *Verified) Seal() *Seal { return v.claims.Seal }

// Message returns the bytes that were signed. Not to be changed.
func (v *Verified) Message() []byte { return v.claims.Message }

// Digest returns the seal digest.
func (v *Verified) Digest() [32]byte { return v.claims.Digest() }

// Authorization returns who signed.
func (v *Verified) Authorization() *trust.Authorization { return v.auth }

// Entries returns the manifest's entries. Not to be changed.
func (v *Verified) Entries() []Entry { return v.entries }

// Notes returns what was odd and no reason to refuse, for the operator and the log.
func (v *Verified) Notes() []string { return v.notes }

// Repaired returns what was damaged and made good on the way, nil for nothing.
func (v *Verified) Repaired() *Repaired { return v.repaired }

// Verify checks a bundle in the order of docs/format.md, section 12, each step resting only on what the ones
// before made believable. It reads each block of a medium at most once, seal, tree and manifest first, then the
// payload in ascending order. A bundle that isn't acceptable gives an error with a method RefusalCode; other
// errors are faults of the source, the sink or the context.
func Verify(ctx context.Context, src Source, root *trust.Root, opt VerifyOptions) (*Verified, error) {
	c, err := inspect(ctx, src, !opt.NoRepair)
	if err != nil {
		return nil, err
	}
	auth, err := root.Authorize(c.Seal.Channel, c.Message, c.Slots, trust.AuthorizeOptions{AllowUnknownSigners: opt.AllowUnknownSigners})
	if err != nil {
		return nil, err
	}
	if err := checkChannel(c.Seal, root, opt.Station); err != nil {
		return nil, err
	}
	if opt.Fresh != nil {
		if err := opt.Fresh(c); err != nil {
			return nil, err
		}
	}
	r := &reading{step: "verify", src: src, claims: c, opt: opt}
	if err := r.run(ctx); err != nil {
		return nil, err
	}
	return &Verified{claims: c, auth: auth, entries: r.entries, notes: append(c.Notes, r.notes...), repaired: r.repaired()}, nil
}

// checkChannel refuses a bundle that is good for longer than its channel allows, and one that is for somebody
// else: for another place than its channel leads to, or for another station, or another group's, than this one.
func checkChannel(s *Seal, root *trust.Root, station string) error {
	channel, ok := root.Channel(s.Channel)
	if !ok {
		return refuse("unknown-channel", "the trust root has no channel %q", s.Channel)
	}
	if s.Destination != channel.Destination {
		return refuse("wrong-destination", "the seal says %q, channel %q leads to %q", s.Destination, s.Channel, channel.Destination)
	}
	if channel.MaxAge > 0 && (s.Expires == 0 || s.Expires > s.Created+channel.MaxAge) {
		return refuse("expires-too-late", "bundles of channel %q are good for %d seconds; this one was created at %d and expires at %d (0: never)", s.Channel, channel.MaxAge, s.Created, s.Expires)
	}
	if station == "" || station == s.Destination {
		return nil
	}
	for _, st := range root.Stations() {
		if st.Name == station && st.Group != "" && st.Group == s.Destination {
			return nil
		}
	}
	return refuse("wrong-destination", "the bundle is for %q, this station is %q", s.Destination, station)
}

// Contents is a bundle that is consistent in itself. Who sealed it was not asked.
type Contents struct {
	*Claims
	Entries []Entry

	src  Source
	data *verity.Reader
}

// Authorize checks the signatures and the destination against a trust root, as [Verify] does.
func (c *Claims) Authorize(root *trust.Root) error {
	if _, err := root.Authorize(c.Seal.Channel, c.Message, c.Slots, trust.AuthorizeOptions{}); err != nil {
		return err
	}
	return checkChannel(c.Seal, root, "")
}

// Image returns the image for another reading: what lies under the hash tree is checked again as it is read, so
// that a file which changes after [Check] doesn't reach a disc. It is good as long as the source is open.
func (c *Contents) Image() io.ReaderAt {
	data := c.Geometry.DataBlocks * BlockSize
	return &concat{a: c.data, b: io.NewSectionReader(c.src, data, c.Geometry.ImageBlocks()*BlockSize-data), split: data}
}

// Check does all of [Verify] that needs no trust root: seal, tree, manifest, directory area, every file, and
// what is left. It repairs nothing: it is for signers, who look at what they sign, and for the burner, and what they
// have must be whole. sink and progress may be nil.
func Check(ctx context.Context, src Source, sink Sink, progress Progress) (*Contents, error) {
	c, err := inspect(ctx, src, false)
	if err != nil {
		if codeIs(err) != "" && ctx.Err() == nil {
			if healed, healErr := inspect(ctx, src, true); healErr == nil {
				err = healable(healed, err)
			}
		}
		return nil, err
	}
	if _, err := c.Signatures(); err != nil {
		return nil, err
	}
	r := &reading{step: "verify", src: src, claims: c, opt: VerifyOptions{Sink: sink, NoRepair: true, Progress: progress}}
	if err := r.run(ctx); err != nil {
		return nil, healable(c, err)
	}
	c.Notes = append(c.Notes, r.notes...)
	return &Contents{Claims: c, Entries: r.entries, src: src, data: r.data}, nil
}

// healable says with a refusal for damage that parity may make it good.
func healable(c *Claims, err error) error {
	switch refused, _ := errors.AsType[*RefusedError](err); codeIs(err) {
	case "not-a-bundle", "bad-locator", "bad-seal", "seal-copies-differ", "bad-superblock", "bad-tree", "damaged", "bad-padding":
		if c.Geometry.Roots > 0 {
			return &RefusedError{refused.Code, refused.Detail + " (its parity may make this good: sallyport repair writes it whole to a new file)", refused.Err}
		}
	}
	return err
}

// codeIs is a [RefusedError]'s code, "" for another error.
func codeIs(err error) string {
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok {
		return ""
	}
	return refused.Code
}

// damage turns what verity found into a refusal, and leaves faults of the source as they are.
func damage(err error) error {
	var d *verity.DamagedError
	var refused *RefusedError
	if errors.As(err, &refused) || !errors.As(err, &d) {
		return err
	}
	if d.Tree {
		return &RefusedError{Code: "bad-tree", Detail: fmt.Sprintf("hash block %d of the tree is not what was sealed", d.Block), Err: err}
	}
	return &RefusedError{Code: "damaged", Detail: fmt.Sprintf("LBA %d is not what was sealed", d.Block), Err: err}
}
