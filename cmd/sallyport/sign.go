package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"sallyport/bundle"
	"sallyport/bundle/trust"
)

type signCmd struct {
	File         string `arg:"" help:"The bundle image." type:"path"`
	Key          string `required:"" help:"Your secret key." placeholder:"FILE"`
	PasswordFile string `help:"Take its password from the first line of this file." type:"path" placeholder:"FILE"`
	Trust        string `help:"Make sure first that this trust root gives you a part in the channel." placeholder:"FILE"`
	Yes          bool   `short:"y" help:"Don't ask."`
}

func (c *signCmd) Help() string {
	return `Reads the whole image, computes its root hash again, compares every file with the manifest, shows what you
are about to sign, asks (on a terminal), and puts your signature into the next free slot. It can't be taken out
again, and one by somebody who is neither preparer nor approver spoils the image: --trust looks first.

Example: sallyport sign bundle.iso --key alice.key --trust trust.json`
}

type signResult struct {
	*sealResult
	KeyID string `json:"key_id"`
	Slot  int    `json:"slot"`

	shown bool // to the signer, before
}

func (r *signResult) text(w io.Writer) {
	if !r.shown {
		r.sealResult.text(w)
		fmt.Fprintln(w, signChecked)
	}
	fmt.Fprintf(w, "signed       slot %d, key %s\n", r.Slot, r.KeyID)
}

func (c *signCmd) run(e *env) (result, error) {
	src, err := e.openSource(c.File)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	if src.Medium {
		return nil, usagef("%s is not an image file; signatures are added before burning", c.File)
	}
	mended, err := bundle.MendSlots(c.File)
	if err != nil {
		return nil, err
	}
	bar := e.progress()
	contents, err := bundle.Check(e.ctx, src.Source, nil, bar.update)
	bar.end(err)
	if err != nil {
		return nil, about(c.File, err)
	}
	sigs, err := contents.Signatures()
	if err != nil {
		return nil, about(c.File, err)
	}
	res := &signResult{sealResult: &sealResult{Notes: contents.Notes}, Slot: len(sigs)}
	if mended {
		res.Notes = append(res.Notes, "an interrupted signing was put right")
	}
	if err := res.describe(contents.Seal, contents.Entries); err != nil {
		return nil, err
	}
	if ask := !c.Yes && !e.json && e.interactive(); ask {
		res.sealResult.text(e.stderr)
		fmt.Fprintln(e.stderr, signChecked)
		res.shown = true
	}
	key, err := e.openKey(c.Key, c.PasswordFile)
	if err != nil {
		return nil, err
	}
	res.KeyID = key.Public().KeyID().String()
	if len(sigs) == len(contents.Slots) {
		return nil, usagef("all %d slots of %s are filled", len(sigs), c.File)
	}
	for i, s := range sigs {
		if s.KeyID() == key.Public().KeyID() {
			return nil, usagef("key %s signed already, in slot %d", res.KeyID, i)
		}
	}
	if err := c.mayI(contents.Seal.Channel, key.Public().KeyID()); err != nil {
		return nil, err
	}
	if res.shown {
		if err := e.confirm("Sign this? [y/N] "); err != nil {
			return nil, err
		}
	}
	sig, err := trust.Sign(key, contents.Message, "sallyport-seal SEAL.json", e.now())
	if err != nil {
		return nil, err
	}
	if err := bundle.AddSignature(c.File, contents.Claims, sig); err != nil {
		return nil, err
	}
	return res, nil
}

// mayI tells whether the trust root, if one was given, gives the key's holder a part in the channel.
func (c *signCmd) mayI(channel string, key trust.KeyID) error {
	if c.Trust == "" {
		return nil
	}
	root, err := loadTrust(c.Trust)
	if err != nil {
		return err
	}
	ch, ok := root.Channel(channel)
	if !ok {
		return usagef("%s has no channel %q: nothing was signed", c.Trust, channel)
	}
	holder, ok := root.HolderOf(key)
	if !ok {
		return usagef("%s gives key %s to nobody: nothing was signed", c.Trust, key)
	}
	if !slices.Contains(ch.Preparers.Holders, holder) && !slices.Contains(ch.Approvers.Holders, holder) {
		return usagef("%s is neither preparer nor approver of channel %s: nothing was signed", holder, channel)
	}
	return nil
}

const signChecked = "checked      root hash, every file and the directory; the image is what its seal says"

// confirm asks, and gives an error for everything but yes.
func (e *env) confirm(question string) error {
	fmt.Fprint(e.stderr, question)
	line, err := e.readLine()
	if !strings.HasSuffix(line, "\n") {
		fmt.Fprintln(e.stderr)
	}
	if err != nil {
		return err
	}
	if a := strings.ToLower(strings.TrimSpace(line)); a != "y" && a != "yes" {
		return usagef("the answer was not yes: nothing was signed")
	}
	return nil
}
