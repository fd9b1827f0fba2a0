package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"sallyport/bundle"
	"sallyport/bundle/trust"
	"sallyport/scan"
)

type signCmd struct {
	File         string `arg:"" help:"The bundle image, or a SEAL.json that plan made." type:"path"`
	Key          string `help:"Your secret key, or a stick that has it: /dev/sg1; needed, but with --signature." xor:"signature" placeholder:"FILE"`
	Signature    string `help:"A signature made elsewhere, by minisign or gpg, in place of a key. Needs --trust." xor:"signature" placeholder:"FILE"`
	PasswordFile string `help:"Take the key's password from the first line of this file." type:"path" placeholder:"FILE"`
	Trust        string `help:"Make sure first that this trust root gives you a part in the channel." placeholder:"FILE"`
	Previous     string `help:"Show the difference to the bundle before: its image, or its MANIFEST.json." placeholder:"FILE"`
	Reproduce    string `help:"Make the seal again from your own copy of the directory, and sign only if it is the same." type:"path" placeholder:"DIR"`
	Unseen       bool   `help:"Sign a SEAL.json without --reproduce, though nobody here sees a file of it."`
	List         bool   `help:"Show all files and differences, not only the first ones."`
	Yes          bool   `short:"y" help:"Don't ask."`
	scanFlags
}

func (c *signCmd) Help() string {
	return `Reads the whole image, computes its root hash again, compares every file with the manifest, shows what you
are about to sign, asks (on a terminal), and puts your signature into the next free slot. It can't be taken out
again, and one by somebody who is neither preparer nor approver spoils the image: --trust looks first.

A SEAL.json that plan made, 8,192 bytes, is signed in a file beside it, which prepare --seal finds. Nothing of it can
be checked but with --reproduce. (--leave-out and --case-clash go with --reproduce, if they did with prepare.)

To sign elsewhere: inspect FILE --seal SEAL.json, then minisign -S -m SEAL.json or gpg --armor --detach-sign SEAL.json
where the key is, then sign FILE --signature SEAL.json.asc --trust trust.json.

Examples:
  sallyport sign bundle.iso --key alice.key --trust trust.json
  sallyport sign bundle.iso --key /dev/sg1 --trust trust.json
  sallyport sign next.iso --key bob.key --previous bundle.iso --reproduce my/sources
  sallyport sign SEAL.json --key bob.key --reproduce my/sources`
}

type signResult struct {
	*signView
	KeyID string `json:"key_id"`
	Slot  *int   `json:"slot,omitempty"`
	File  string `json:"signature_file,omitempty"`

	checked string
	shown   bool // to the signer, before
}

func (r *signResult) text(w io.Writer) {
	if !r.shown {
		r.signView.text(w)
		fmt.Fprint(w, r.checked)
	}
	if r.Slot != nil {
		fmt.Fprintf(w, "signed       slot %d, key %s\n", *r.Slot, r.KeyID)
	} else {
		fmt.Fprintf(w, "signed       %s, key %s\n", printable(r.File), r.KeyID)
	}
}

// toSign is what is to be signed, and where the signature goes.
type toSign struct {
	seal    *bundle.Seal
	message []byte
	entries []bundle.Entry // nil: of a planned seal, nobody here has them
	signed  map[trust.KeyID]string
	full    string       // why there is no room for another signature, or ""
	read    func() error // reads all of it and fills entries; nil: there is nothing to read
	put     func(sig *trust.Signature) error
}

func (c *signCmd) run(e *env) (result, error) {
	if c.Key == "" && c.Signature == "" {
		return nil, usagef("missing flags: --key=FILE or --signature=FILE")
	}
	if c.Signature != "" && c.Trust == "" {
		return nil, usagef("--signature needs --trust: a signature that isn't good would spoil %s", c.File)
	}
	planned, err := isPlanned(c.File)
	if err != nil {
		return nil, err
	}
	if planned {
		return c.signPlanned(e)
	}
	if c.Unseen {
		return nil, usagef("--unseen is for a SEAL.json; %s is checked against its own files", c.File)
	}
	return c.signImage(e)
}

// isPlanned tells a SEAL.json, also one that isn't in order, from an image.
func isPlanned(path string) (bool, error) {
	f, info, err := openInput(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	begin := []byte(`{"bundle_id":`)
	if !info.Mode().IsRegular() || info.Size() > 8*maxSealBytes {
		return false, nil
	}
	got := make([]byte, len(begin))
	if _, err := f.ReadAt(got, 0); err != nil && err != io.EOF {
		return false, err
	}
	return bytes.Equal(got, begin), nil
}

func (c *signCmd) signImage(e *env) (result, error) {
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
	claims, err := bundle.Inspect(e.ctx, src.Source)
	if err != nil {
		return nil, about(c.File, err)
	}
	sigs, err := claims.Signatures()
	if err != nil {
		return nil, about(c.File, err)
	}
	slot := len(sigs)
	res := &signResult{signView: &signView{sealResult: &sealResult{}}, Slot: &slot, checked: signChecked}
	t := &toSign{seal: claims.Seal, message: claims.Message, signed: map[trust.KeyID]string{}}
	for i, s := range sigs {
		t.signed[s.KeyID()] = fmt.Sprintf("slot %d", i)
	}
	if len(sigs) == len(claims.Slots) {
		t.full = fmt.Sprintf("all %d slots of %s are filled", len(sigs), c.File)
	}
	var contents *bundle.Contents
	t.read = func() error {
		bar := e.progress()
		var err error
		contents, err = bundle.Check(e.ctx, src.Source, nil, bar.update)
		bar.end(err)
		if err != nil {
			return about(c.File, err)
		}
		if !bytes.Equal(contents.Message, claims.Message) || !slices.EqualFunc(contents.Slots, claims.Slots, bytes.Equal) {
			return fmt.Errorf("%s was changed while it was looked at", c.File)
		}
		t.entries, res.Notes = contents.Entries, contents.Notes
		if mended {
			res.Notes = append(res.Notes, "an interrupted signing was put right")
		}
		return nil
	}
	t.put = func(sig *trust.Signature) error { return bundle.AddSignature(c.File, contents.Claims, sig.Bytes()) }
	return c.sign(e, t, res)
}

func (c *signCmd) signPlanned(e *env) (result, error) {
	planned, err := readPlanned(c.File)
	if err != nil {
		return nil, err
	}
	res := &signResult{signView: &signView{sealResult: &sealResult{}}}
	t := &toSign{seal: planned.Seal, message: planned.Message, signed: map[trust.KeyID]string{}}
	for _, s := range planned.Signatures {
		t.signed[s.KeyID()] = s.File
	}
	if len(planned.Signatures) == trust.Slots {
		t.full = fmt.Sprintf("%d signatures lie beside %s, and the image has no more slots", trust.Slots, c.File)
	}
	if c.Reproduce == "" {
		if !c.Unseen && !c.asks(e) {
			return nil, usagef("nothing of %s can be checked without the files: give --reproduce DIR with your own copy, or --unseen to sign what nobody here has seen", c.File)
		}
		if c.Previous != "" {
			return nil, usagef("--previous needs --reproduce DIR: a seal alone doesn't say what it carries")
		}
		res.Unseen = true
		res.checked = "NOT CHECKED  nobody here has seen a file of it: your name stands for whoever planned it\n"
	}
	t.put = func(sig *trust.Signature) error {
		res.File = signatureFile(c.File, sig)
		err := writeNew(res.File, sig.Bytes(), 0o644)
		if errors.Is(err, fs.ErrExist) {
			return usagef("%s is already there: signatures are never overwritten", res.File)
		}
		return err
	}
	return c.sign(e, t, res)
}

// signatureFile names the file of a signature beside a planned seal.
func signatureFile(seal string, sig *trust.Signature) string {
	suffix := ".minisig"
	if bytes.HasPrefix(sig.Bytes(), []byte("-----BEGIN PGP")) {
		suffix = ".asc"
	}
	return seal + "." + sig.KeyID().String() + suffix
}

// asks tells whether the signer will be asked.
func (c *signCmd) asks(e *env) bool { return !c.Yes && e.interactive() }

// sign finds out who signs before any long work, then looks, shows, asks, signs.
func (c *signCmd) sign(e *env, t *toSign, res *signResult) (result, error) {
	if t.full != "" {
		return nil, &usageError{t.full}
	}
	var root *trust.Root
	if c.Trust != "" {
		var err error
		if root, err = loadTrust(c.Trust); err != nil {
			return nil, err
		}
	}
	by, give, err := c.signer(e, t, root)
	if err != nil {
		return nil, err
	}
	res.KeyID = by.String()
	if where, ok := t.signed[by]; ok {
		return nil, usagef("key %s signed already, in %s", by, where)
	}
	if t.read != nil {
		if err := t.read(); err != nil {
			return nil, err
		}
	}
	if err := c.look(e, t, res); err != nil {
		return nil, err
	}
	if c.asks(e) {
		if f, ok := e.stderr.(*os.File); ok {
			res.onScreen(e.stderr, f, res.checked)
		} else {
			res.signView.text(e.stderr)
			fmt.Fprint(e.stderr, res.checked)
		}
		res.shown = true
	}
	if res.shown {
		question := "Sign this? [y/N] "
		if res.Unseen {
			question = "Sign this UNSEEN? [y/N] "
		}
		if err := e.confirm(question); err != nil {
			return nil, err
		}
	}
	sig, err := give()
	if err == nil && root != nil {
		err = bundle.JudgeSignature(root, t.seal, t.message, "the signature", sig)
	}
	if err != nil {
		return nil, err
	}
	if err := t.put(sig); err != nil {
		return nil, err
	}
	return res, nil
}

// look finds out what the signer is to see.
func (c *signCmd) look(e *env, t *toSign, res *signResult) error {
	if c.Reproduce != "" {
		own, err := c.reproduce(e, t, res)
		if err != nil {
			return err
		}
		t.entries, res.Reproduced = own, true
		res.checked += fmt.Sprintf("reproduced   %s gives this seal, to the last byte\n", printable(c.Reproduce))
	}
	res.entries, res.all, res.aloud = t.entries, c.List, true
	if c.List {
		for i := range t.entries {
			if f := &t.entries[i]; f.Type == bundle.File {
				res.List = append(res.List, fileLine{f.Path, f.Size})
			}
		}
	}
	switch {
	case c.Previous != "":
		var err error
		if res.Difference, err = differenceTo(e.ctx, c.Previous, t.seal, t.entries); err != nil {
			return err
		}
	case t.seal.Previous != "" && t.entries != nil:
		res.Notes = append(res.Notes, "--previous FILE shows the difference to the bundle before")
	}
	return res.describe(t.seal, t.entries)
}

// reproduce makes the seal again from the signer's own copy.
func (c *signCmd) reproduce(e *env, t *toSign, res *signResult) ([]bundle.Entry, error) {
	if err := checkDir(c.Reproduce); err != nil {
		return nil, err
	}
	src, err := bundle.OpenDir(c.Reproduce)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	var leaveOut func(string) bool
	if c.LeaveOut {
		report, err := scan.Check(e.ctx, src, scan.Limits{AllowCaseClash: c.CaseClash})
		if err != nil {
			return nil, about(c.Reproduce, err)
		}
		if report.Err() != nil {
			leaveOut, res.LeftOut = report.Refused, report
		}
	}
	bar := e.progress()
	own, err := bundle.Reproduce(e.ctx, src, t.seal, t.entries, leaveOut, func(step string, done, total int64) {
		if step == "prepare" {
			step = "reproduce"
		}
		bar.update(step, done, total)
	})
	bar.end(err)
	if _, ref := classify(e.ctx, err); ref != nil && (ref.Code == "bad-name" || ref.Code == "bad-kind" || ref.Code == "bad-link") && !c.LeaveOut {
		err = &adviceError{"sallyport scan lists what can't be carried; give --leave-out if prepare had it", err}
	}
	return own, about(c.Reproduce, err)
}

// signer says whose signature it will be, and returns what gives it.
func (c *signCmd) signer(e *env, t *toSign, root *trust.Root) (trust.KeyID, func() (*trust.Signature, error), error) {
	if c.Signature != "" {
		sig, err := bundle.ReadSignature(c.Signature)
		if err != nil {
			return "", nil, about(c.File, &adviceError{"give a detached signature, as minisign -S or gpg --armor --detach-sign makes it", pathError(err)})
		}
		if err := bundle.JudgeSignature(root, t.seal, t.message, c.Signature, sig); err != nil {
			return "", nil, nothingSigned(c.File, err)
		}
		return sig.KeyID(), func() (*trust.Signature, error) { return sig, nil }, nil
	}
	key, err := e.openKey(c.Key, c.PasswordFile)
	if err != nil {
		return "", nil, err
	}
	id := key.Public().KeyID()
	if root != nil {
		if err := c.mayI(root, t.seal.Channel, id); err != nil {
			return "", nil, err
		}
		if _, err := (&bundle.Planned{Seal: t.seal, Message: t.message}).Authorize(root); err != nil {
			return "", nil, about(c.File, err)
		}
	}
	return id, func() (*trust.Signature, error) {
		text, err := trust.Sign(key, t.message, "sallyport-seal SEAL.json", e.now())
		if err != nil {
			return nil, err
		}
		return trust.ParseSignature(text)
	}, nil
}

// mayI tells whether the trust root gives the key's holder a part in the channel.
func (c *signCmd) mayI(root *trust.Root, channel string, key trust.KeyID) error {
	ch, ok := root.Channel(channel)
	if !ok {
		return c.unsigned(trust.CodeUnknownChannel, "%s has no channel %q", c.Trust, channel)
	}
	holder, ok := root.HolderOf(key)
	if !ok {
		return c.unsigned(trust.CodeUnknownSigner, "%s gives key %s to nobody", c.Trust, key)
	}
	if !slices.Contains(ch.Preparers.Holders, holder) && !slices.Contains(ch.Approvers.Holders, holder) {
		return c.unsigned(trust.CodeWrongRole, "%s is neither preparer nor approver of channel %s", holder, channel)
	}
	return nil
}

// unsigned refuses to sign, as the signature would be refused.
func (c *signCmd) unsigned(code, format string, args ...any) error {
	return nothingSigned(c.File, &bundle.RefusedError{Code: code, Detail: fmt.Sprintf(format, args...)})
}

func nothingSigned(file string, err error) error {
	return about(file, &adviceError{"nothing was signed", err})
}

const signChecked = "checked      root hash, every file and the directory: all is as the seal says\n"

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
