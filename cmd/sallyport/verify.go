package main

import (
	"fmt"
	"io"

	"sallyport/bundle"
	"sallyport/bundle/trust"
	"sallyport/scan"
)

type inspectCmd struct {
	Source string `arg:"" help:"An image file, a device, or sim:DIR."`
	Seal   string `help:"Write the 8,192 bytes that are signed to this file, to sign them elsewhere." type:"path" placeholder:"SEAL.json"`
}

func (c *inspectCmd) Help() string {
	return `What it prints is what the bundle says of itself. Nothing of it was checked against a key.

Examples:
  sallyport inspect bundle.iso
  sallyport inspect bundle.iso --seal SEAL.json`
}

type inspectResult struct {
	*sealResult
	Slots []string `json:"slots"`
	File  string   `json:"seal_file,omitempty"`
	// Bursts is how many blocks in a row may be lost; absent without parity.
	Bursts *bundle.Bursts `json:"bursts,omitempty"`
	repairedResult
}

func (r *inspectResult) text(w io.Writer) {
	fmt.Fprintln(w, "CLAIMS ONLY: no signature was checked; use sallyport verify before you believe any of this")
	r.sealResult.text(w)
	for i, s := range r.Slots {
		fmt.Fprintf(w, "slot %d       claims key %s\n", i, s)
	}
	if len(r.Slots) == 0 {
		fmt.Fprintln(w, "slots        all empty: nobody signed")
	}
	r.repairedResult.text(w)
	writeBursts(w, r.Bursts, r.Seal.ImageBlocks)
	if r.File != "" {
		fmt.Fprintf(w, "seal         %s; look at the image with sallyport sign before you use a signature of it\n", printable(r.File))
	}
}

func (c *inspectCmd) run(e *env) (result, error) {
	src, err := e.openSource(c.Source)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	claims, err := bundle.Inspect(e.ctx, src.Source)
	if err != nil {
		return nil, about(c.Source, err)
	}
	res := &inspectResult{sealResult: &sealResult{Notes: claims.Notes}, repairedResult: repairedOf(claims.Repaired())}
	if b := claims.Geometry.Bursts(); b != (bundle.Bursts{}) {
		res.Bursts = &b
	}
	if err := res.describe(claims.Seal, nil); err != nil {
		return nil, err
	}
	sigs, err := claims.Signatures()
	if err != nil {
		return res, about(c.Source, err)
	}
	if c.Seal != "" {
		if err := newSealFile(c.Seal, claims.Message); err != nil {
			return nil, err
		}
		res.File = c.Seal
	}
	for _, s := range sigs {
		res.Slots = append(res.Slots, fmt.Sprintf("%s, comment %q", s.KeyID(), s.Comment()))
	}
	return res, nil
}

type verifyCmd struct {
	Source              string `arg:"" help:"An image file, a device, or sim:DIR."`
	Trust               string `required:"" help:"The trust root." placeholder:"FILE"`
	State               string `help:"This station's state: checks freshness and destination, and logs a refusal." type:"path" placeholder:"DIR"`
	AllowUnknownSigners bool   `help:"Let signatures pass by keys that the trust root doesn't list."`
	CaseClash           bool   `help:"Let names pass that differ only in case."`
	GapReason           string `help:"Why a gap in the sequence is all right." placeholder:"TEXT"`
}

func (c *verifyCmd) Help() string {
	return `Examples:
  sallyport verify bundle.iso --trust trust.json
  sallyport verify sim:drive --trust trust.json --state state`
}

type signerResult struct {
	Holder string `json:"holder"`
	Role   string `json:"role"`
	KeyID  string `json:"key_id"`
}

type verifyResult struct {
	*sealResult
	Signers          []signerResult `json:"signers"`
	FreshnessChecked bool           `json:"freshness_checked"`
	repairedResult
}

func (r *verifyResult) text(w io.Writer) {
	r.sealResult.text(w)
	for _, s := range r.Signers {
		fmt.Fprintf(w, "signed by    %s, %s (key %s)\n", s.Holder, s.Role, s.KeyID)
	}
	r.repairedResult.text(w)
	fmt.Fprintln(w, "verified     every block, every file")
	if !r.FreshnessChecked {
		fmt.Fprintln(w, "not checked  freshness, expiry, and whether it is for this station: without --state an old bundle looks as good as a new one")
	}
}

func (c *verifyCmd) run(e *env) (result, error) {
	root, err := loadTrust(c.Trust)
	if err != nil {
		return nil, err
	}
	if c.State != "" {
		return c.withState(e, root)
	}
	src, err := e.openSource(c.Source)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	bar := e.progress()
	v, err := bundle.Verify(e.ctx, src.Source, root, c.options(bar))
	bar.end(err)
	if err != nil {
		return nil, about(c.Source, err)
	}
	res, err := verified(v, false)
	if expires := v.Seal().Expires; expires != 0 && e.now().Unix() >= expires {
		res.Notes = append(res.Notes, "by this machine's clock it has expired")
	}
	return res, err
}

func (c *verifyCmd) options(bar *progress) bundle.VerifyOptions {
	return bundle.VerifyOptions{AllowUnknownSigners: c.AllowUnknownSigners, Entries: scanEntries(c.CaseClash), Progress: bar.update}
}

// withState verifies as an import would, and logs every refusal, the medium's too.
func (c *verifyCmd) withState(e *env, root *trust.Root) (result, error) {
	st, err := e.openState(c.State, root)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	src, err := e.openSource(c.Source)
	if err != nil {
		return nil, st.refused(e, c.Source, err)
	}
	defer src.Close()
	bar := e.progress()
	opt := c.options(bar)
	v, err := st.verify(e, src, opt, c.GapReason)
	bar.end(err)
	if err != nil {
		return nil, about(c.Source, st.refused(e, c.Source, err))
	}
	return verified(v, true)
}

func verified(v *bundle.Verified, fresh bool) (*verifyResult, error) {
	res := &verifyResult{sealResult: &sealResult{Notes: v.Notes()}, FreshnessChecked: fresh, Signers: signers(v.Authorization()), repairedResult: repairedOf(v.Repaired())}
	return res, res.describe(v.Seal(), v.Entries())
}

func signers(auth *trust.Authorization) []signerResult {
	var list []signerResult
	for _, s := range auth.Signers {
		list = append(list, signerResult{Holder: s.Holder, Role: s.Role, KeyID: s.KeyID.String()})
	}
	return list
}

// scanEntries judges names and kinds of a manifest on this side, whatever the other side said.
func scanEntries(caseClash bool) func([]bundle.Entry) error {
	return func(entries []bundle.Entry) error {
		check := scan.NewChecker(scan.Limits{AllowCaseClash: caseClash})
		for i := range entries {
			e := &entries[i]
			check.Entry(e.Path, e.FileMode(), e.Size, e.Target)
			check.MTime(e.Path, e.MTime)
		}
		return check.Report().Err()
	}
}
