package main

import (
	"fmt"
	"io"
	"strings"

	"sallyport/bundle"
	"sallyport/bundle/trust"
	"sallyport/scan"
)

type inspectCmd struct {
	Source string `arg:"" help:"An image file, a device, sim:DIR, or a SEAL.json."`
	Seal   string `help:"Write the 8,192 bytes that are signed to this file, to sign them elsewhere; - for standard output." type:"path" placeholder:"SEAL.json"`
}

func (c *inspectCmd) Help() string {
	return `What it prints is what the bundle says of itself. Nothing of it was checked against a key.

Examples:
  sallyport inspect bundle.iso
  sallyport inspect bundle.iso --seal SEAL.json
  sallyport inspect SEAL.json`
}

type inspectResult struct {
	*sealResult
	Slots []string `json:"slots"` // of the filled slots, and empty ones before these
	File  string   `json:"seal_file,omitempty"`
	// Bursts is how many blocks in a row may be lost; absent without parity.
	Bursts *bundle.Bursts `json:"bursts,omitempty"`
	repairedResult

	geometry bundle.Geometry
	planned  bool // it is a seal without an image
}

func (r *inspectResult) text(w io.Writer) {
	fmt.Fprintln(w, "CLAIMS ONLY: no signature was checked; use sallyport verify before you believe any of this")
	r.sealResult.text(w)
	if r.planned {
		fmt.Fprintf(w, "image        none yet: this is the seal of one of %s\n", bytesText(r.Bytes))
	}
	for i, s := range r.Slots {
		if r.planned {
			fmt.Fprintf(w, "beside it    %s\n", claimed(s))
		} else {
			fmt.Fprintf(w, "slot %d       %s\n", i, claimed(s))
		}
	}
	switch {
	case len(r.Slots) > 0:
	case r.planned:
		fmt.Fprintln(w, "beside it    no signature: nobody signed")
	default:
		fmt.Fprintln(w, "slots        all empty: nobody signed")
	}
	r.repairedResult.show(w, "would be repaired")
	if !r.planned {
		writeBursts(w, r.Bursts, r.geometry)
	}
	if r.File != "" {
		fmt.Fprintf(w, "seal         %s; look at the image with sallyport sign before you use a signature of it\n", printable(r.File))
	}
}

func (c *inspectCmd) run(e *env) (result, error) {
	if c.Seal == "-" {
		switch {
		case e.json:
			return nil, usagef("--seal - writes the seal to standard output, where --json would go")
		case e.onTerminal():
			return nil, usagef("--seal - writes the seal to standard output, which is a terminal: redirect it")
		}
	}
	if !strings.HasPrefix(c.Source, "sim:") {
		if planned, err := isPlanned(c.Source); err != nil {
			return nil, err
		} else if planned {
			return c.inspectPlanned()
		}
	}
	src, err := e.openSource(c.Source)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	claims, err := bundle.Inspect(e.ctx, src.Source)
	if err != nil {
		return nil, about(c.Source, err)
	}
	res := &inspectResult{sealResult: &sealResult{Notes: claims.Notes}, Slots: []string{}, repairedResult: repairedOf(claims.Repaired()), geometry: claims.Geometry}
	if b := claims.Geometry.Bursts(); b != (bundle.Bursts{}) {
		res.Bursts = &b
	}
	if err := res.describe(claims.Seal, nil); err != nil {
		return nil, err
	}
	res.Slots = slotTexts(claims.Slots)
	if _, err := claims.Signatures(); err != nil {
		return res, about(c.Source, err)
	}
	switch {
	case c.Seal == "-":
		if _, err := e.stdout.Write(claims.Message); err != nil {
			return nil, fmt.Errorf("write the seal: %w", err)
		}
		res.text(e.stderr)
		return nil, nil
	case c.Seal != "":
		if err := newSealFile(c.Seal, claims.Message); err != nil {
			return nil, err
		}
		res.File = c.Seal
	}
	return res, nil
}

// inspectPlanned shows a seal that was planned, and what lies beside it.
func (c *inspectCmd) inspectPlanned() (result, error) {
	if c.Seal != "" {
		return nil, usagef("%s is a seal itself: --seal is for images", c.Source)
	}
	planned, err := readPlanned(c.Source)
	if err != nil {
		return nil, err
	}
	res := &inspectResult{sealResult: &sealResult{}, Slots: []string{}, planned: true}
	for _, s := range planned.Signatures {
		res.Slots = append(res.Slots, signatureText(s.Signature)+", in "+printable(s.File))
	}
	return res, res.describe(planned.Seal, nil)
}

// slotTexts tells of each slot what can be read of it, as far as anything is in them.
func slotTexts(slots [][]byte) []string {
	texts := []string{}
	for i, slot := range slots {
		var text string
		switch sig, err := trust.ParseSlot(slot); {
		case err != nil:
			text = damagedSlot + oneLine(err)
		case sig != nil:
			text = signatureText(sig)
		default:
			continue
		}
		for len(texts) < i {
			texts = append(texts, emptySlot)
		}
		texts = append(texts, text)
	}
	return texts
}

const (
	damagedSlot = "DAMAGED: "
	emptySlot   = "empty"
)

// claimed shows what slotTexts tells of a slot.
func claimed(text string) string {
	if text == emptySlot || strings.HasPrefix(text, damagedSlot) {
		return text
	}
	return "claims key " + text
}

func signatureText(sig *trust.Signature) string {
	if sig.Comment() == "" { // OpenPGP has none
		return sig.KeyID().String()
	}
	return fmt.Sprintf("%s, comment %q", sig.KeyID(), sig.Comment())
}

type verifyCmd struct {
	Source              string `arg:"" help:"An image file, a device, or sim:DIR."`
	Trust               string `required:"" help:"The trust root." placeholder:"FILE"`
	State               string `help:"This station's state: checks freshness and destination, and logs a refusal." type:"path" placeholder:"DIR"`
	AllowUnknownSigners bool   `help:"Let signatures pass by keys that the trust root doesn't list."`
	CaseClash           bool   `help:"Let names pass that differ only in case."`
	GapReason           string `help:"Why a gap in the sequence is all right." placeholder:"TEXT"`
	surplusFlag
}

func (c *verifyCmd) Help() string {
	return `A stick is read through its generic node, /dev/sgN, so that the kernel parses nothing of it; behind the bundle all of it
has to be zero.

Examples:
  sallyport verify bundle.iso --trust trust.json
  sallyport verify /dev/sg1 --trust trust.json
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
	if err == nil {
		res.addExpiry(e, v)
	}
	return res, err
}

// addExpiry notes of what was verified without a state, and so without its clock, that it has expired.
func (r *verifyResult) addExpiry(e *env, v *bundle.Verified) {
	if expires := v.Seal().Expires; expires != 0 && e.now().Unix() >= expires {
		r.Notes = append(r.Notes, "by this machine's clock it has expired")
	}
}

func (c *verifyCmd) options(bar *progress) bundle.VerifyOptions {
	return bundle.VerifyOptions{AllowUnknownSigners: c.AllowUnknownSigners, Entries: scanEntries(c.CaseClash), SampleSurplus: c.sampled(), Progress: bar.update}
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
