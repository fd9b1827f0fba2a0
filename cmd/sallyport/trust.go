package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/bundle/trust"
)

type trustCmd struct {
	Init trustInitCmd `cmd:"" help:"Make a trust root with its root holders."`
	Add  trustAddCmd  `cmd:"" help:"Add to a trust root that nobody has signed yet (a signed one: remove its signatures first)."`
	Sign trustSignCmd `cmd:"" help:"Sign a trust root."`
	Show trustShowCmd `cmd:"" help:"Show a trust root and who signed it."`
}

type trustInitCmd struct {
	Output    string   `short:"o" default:"trust.json" help:"The file to make." type:"path"`
	Root      []string `required:"" sep:"none" help:"A root holder and the public key, of minisign or OpenPGP. Once for each." placeholder:"NAME=FILE"`
	Threshold int64    `default:"1" help:"How many of them have to sign."`
}

func (c *trustInitCmd) Help() string {
	return `Example, from keys to a trust root that is ready:
  sallyport trust init --root olga=olga.pub
  sallyport trust add holder alice alice.pub
  sallyport trust add holder bob bob.pub
  sallyport trust add station kiosk kiosk.pub
  sallyport trust add channel news --destination kiosk --preparer alice --approver bob
  sallyport trust sign trust.json --key olga.key`
}

func (c *trustInitCmd) run(e *env) (result, error) {
	if _, err := os.Lstat(c.Output); err == nil {
		return nil, usagef("%s is already there", c.Output)
	}
	d := trust.NewDocument()
	var names []string
	files := map[string]string{}
	for _, root := range c.Root {
		name, file, ok := strings.Cut(root, "=")
		switch {
		case !ok || name == "" || file == "":
			return nil, usagef("--root %s: give a name and a public key file, as in --root olga=olga.pub", root)
		case files[name] != "":
			return nil, usagef("--root %s: %s has a key already; add further ones with sallyport trust add holder", root, name)
		}
		files[name] = file
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		keys, err := e.readPublic(files[name])
		if err != nil {
			return nil, err
		}
		if err := d.AddHolder(name, keys...); err != nil {
			return nil, asUsage(err)
		}
		names = append(names, name)
	}
	if err := d.SetRoot(c.Threshold, names...); err != nil {
		return nil, asUsage(err)
	}
	data, err := d.Encode()
	if err != nil {
		return nil, asUsage(err)
	}
	if err := writeNew(c.Output, data, 0o644); err != nil {
		return nil, err
	}
	return &trustResult{File: c.Output, Document: d}, nil
}

// asUsage: what breaks a rule of the trust root here was typed by the user.
func asUsage(err error) error { return &usageError{err.Error()} }

// readPublic reads the public keys of a file and says which ones of a certificate it passes over.
func (e *env) readPublic(path string) ([]trust.PublicKey, error) {
	data, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	cert, err := trust.ParseCertificate(data, e.now())
	if _, secretErr := trust.ParseSecretKey(data); err != nil && (secretErr == nil || errors.Is(secretErr, trust.ErrNeedsPassword)) {
		return nil, usagef("%s: it is a secret key, and a public one is wanted: name the .pub file, or what gpg --export gives", path)
	}
	if err != nil {
		return nil, usagef("%s: %v", path, err)
	}
	for _, why := range cert.Passed {
		fmt.Fprintf(e.stderr, "%s: not taken: %s\n", path, why)
	}
	return cert.Keys, nil
}

func (c *trustCmd) Help() string {
	return `A trust root that is signed never changes under its signatures. To change one: copy it without them, make the
changes with trust add, have the root holders sign the copy, and bring it to every station in place of the old one.`
}

type trustAddCmd struct {
	Holder  addHolderCmd  `cmd:"" help:"Add a person, or a further key to one."`
	Channel addChannelCmd `cmd:"" help:"Add a channel."`
	Station addStationCmd `cmd:"" help:"Add a station."`
}

type addHolderCmd struct {
	Name  string   `arg:"" help:"The person's name."`
	Keys  []string `arg:"" help:"Public key files, of minisign or OpenPGP."`
	Trust string   `default:"trust.json" help:"The trust root." type:"path" placeholder:"FILE"`
}

func (c *addHolderCmd) Help() string {
	return `Of an OpenPGP certificate each key that may sign is taken, under its whole fingerprint: compare
it with its owner's. The certificate is judged now and never again: to give up a key that was
revoked or has expired since, make a new trust root.

Examples, the second with what gpg --armor --export bob gives:
  sallyport trust add holder alice alice.pub
  sallyport trust add holder bob bob.asc`
}

func (c *addHolderCmd) run(e *env) (result, error) {
	return editTrust(c.Trust, func(d *trust.Document) error {
		var keys []trust.PublicKey
		for _, file := range c.Keys {
			list, err := e.readPublic(file)
			if err != nil {
				return err
			}
			keys = append(keys, list...)
		}
		return d.AddHolder(c.Name, keys...)
	})
}

type addStationCmd struct {
	Name  string `arg:"" help:"The station's name."`
	Key   string `arg:"" help:"Its public key file, of minisign."`
	Group string `help:"The group of stations that it belongs to."`
	Trust string `default:"trust.json" help:"The trust root." type:"path" placeholder:"FILE"`
}

func (c *addStationCmd) run(e *env) (result, error) {
	return editTrust(c.Trust, func(d *trust.Document) error {
		keys, err := e.readPublic(c.Key)
		if err != nil {
			return err
		}
		if keys[0].Type() == trust.TypeOpenPGP {
			return usagef("%s: a station's key must be one of minisign, as sallyport key generate --no-password makes it", c.Key)
		}
		return d.AddStation(c.Name, c.Group, keys[0])
	})
}

type addChannelCmd struct {
	Name        string   `arg:"" help:"The channel's name."`
	Destination string   `required:"" help:"The station, or group of stations, that it leads to."`
	Preparer    []string `required:"" help:"Who prepares: a holder; once for each."`
	Preparers   int64    `default:"1" help:"How many of them have to sign."`
	Approver    []string `required:"" help:"Who approves: a holder; once for each."`
	Approvers   int64    `default:"1" help:"How many of them have to sign."`
	MaxAge      string   `default:"0" help:"How long a bundle is good after its epoch: 90d, 36h; 0: for ever."`
	MaxJump     int64    `default:"1000" help:"The largest step of the sequence."`
	Gaps        string   `default:"reason" enum:"reason,refuse" help:"When a bundle before is missing: reason (an operator says why) or refuse."`
	Trust       string   `default:"trust.json" help:"The trust root." type:"path" placeholder:"FILE"`
}

func (c *addChannelCmd) run(*env) (result, error) {
	age, err := parseAge(c.MaxAge)
	if err != nil {
		return nil, err
	}
	return editTrust(c.Trust, func(d *trust.Document) error {
		return d.AddChannel(trust.Channel{
			Name: c.Name, Destination: c.Destination, Gaps: c.Gaps, MaxAge: age, MaxJump: c.MaxJump,
			Preparers: trust.Role{Holders: c.Preparer, Threshold: c.Preparers},
			Approvers: trust.Role{Holders: c.Approver, Threshold: c.Approvers},
		})
	})
}

// parseAge reads a time span into seconds; d stands for days beside Go's units.
func parseAge(s string) (int64, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 32)
		if err != nil || n < 0 {
			return 0, usagef("--max-age %s: for example 90d, 36h, or 0", s)
		}
		return n * 24 * 60 * 60, nil
	}
	span, err := time.ParseDuration(s)
	if err != nil || span < 0 {
		return 0, usagef("--max-age %s: for example 90d, 36h, or 0", s)
	}
	return int64(span / time.Second), nil
}

// spanText writes seconds as parseAge reads them.
func spanText(seconds int64) string {
	const day = 24 * 60 * 60
	if seconds%day == 0 {
		return fmt.Sprintf("%dd", seconds/day)
	}
	return (time.Duration(seconds) * time.Second).String()
}

func editTrust(path string, edit func(*trust.Document) error) (result, error) {
	data, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	d, err := trust.Parse(data)
	if err != nil {
		return nil, err
	}
	beside, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	for _, f := range beside {
		isSignature := strings.HasSuffix(f.Name(), ".minisig") || strings.HasSuffix(f.Name(), ".asc")
		if strings.HasPrefix(f.Name(), filepath.Base(path)+".") && isSignature {
			return nil, usagef("%s is signed (%s) and can't change under its signatures: remove them to go on with the draft", path, f.Name())
		}
	}
	if err := edit(d); err != nil {
		var usage *usageError
		if errors.As(err, &usage) {
			return nil, err
		}
		return nil, asUsage(err)
	}
	if data, err = d.Encode(); err != nil {
		return nil, asUsage(err)
	}
	if err := replaceFile(path, data); err != nil {
		return nil, err
	}
	return &trustResult{File: path, Document: d}, nil
}

type trustSignCmd struct {
	File         string `arg:"" help:"The trust root." type:"path"`
	Key          string `xor:"by" help:"A root holder's secret key, of minisign or OpenPGP; needed, but with --signature." placeholder:"FILE"`
	PasswordFile string `help:"Take its password from the first line of this file." type:"path" placeholder:"FILE"`
	Signature    string `xor:"by" help:"Instead: a detached signature of the file, made elsewhere by minisign, gpg or a smart card." placeholder:"FILE"`
}

func (c *trustSignCmd) Help() string {
	return `Examples:
  sallyport trust sign trust.json --key olga.key
  gpg --detach-sign -o olga.sig trust.json && sallyport trust sign trust.json --signature olga.sig`
}

func (c *trustSignCmd) run(e *env) (result, error) {
	if c.Key == "" && c.Signature == "" {
		return nil, usagef("missing flags: --key=FILE or --signature=FILE")
	}
	data, err := readSmall(c.File)
	if err != nil {
		return nil, err
	}
	d, err := trust.Parse(data)
	if err != nil {
		return nil, err
	}
	sig, err := c.sign(e, data)
	if err != nil {
		return nil, err
	}
	holder, err := rootHolder(d, c.File, data, sig)
	if err != nil {
		return nil, err
	}
	name, err := trust.SignatureName(c.File, holder, sig.KeyID())
	if err != nil {
		return nil, err
	}
	for _, suffix := range []string{".minisig", ".asc"} {
		other := c.File + "." + holder + suffix
		if _, err := os.Lstat(other); err == nil && other != name {
			return nil, usagef("%s has signed already, with another kind of key: remove %s to sign with this one", holder, other)
		}
	}
	if err := replaceFile(name, sig.Bytes()); err != nil {
		return nil, err
	}
	return showTrust(c.File)
}

// sign makes the signature, or takes the one that was made elsewhere.
func (c *trustSignCmd) sign(e *env, data []byte) (*trust.Signature, error) {
	if c.Signature != "" {
		loose, err := readSmall(c.Signature)
		if err != nil {
			return nil, err
		}
		sig, err := trust.Canonical(loose)
		if err != nil {
			return nil, usagef("%s: %v: give a detached signature, as minisign -S or gpg --armor --detach-sign makes it", c.Signature, err)
		}
		return trust.ParseSignature(sig)
	}
	key, err := e.openKey(c.Key, c.PasswordFile)
	if err != nil {
		return nil, err
	}
	sig, err := trust.Sign(key, data, "sallyport-trust "+filepath.Base(c.File), e.now())
	if err != nil {
		return nil, err
	}
	return trust.ParseSignature(sig)
}

// rootHolder returns which root holder made the signature of the trust root in file.
func rootHolder(d *trust.Document, file string, data []byte, sig *trust.Signature) (string, error) {
	for _, h := range d.Holders {
		for _, k := range h.Keys {
			if k.Public.KeyID() != sig.KeyID() || !slices.Contains(d.Root.Holders, h.Name) {
				continue
			}
			if err := trust.Verify(k.Public, data, sig); err != nil {
				return "", usagef("%s: %v", file, err)
			}
			return h.Name, nil
		}
	}
	return "", usagef("key %s belongs to no root holder of %s (they are: %s)", sig.KeyID(), file, strings.Join(d.Root.Holders, ", "))
}

type trustShowCmd struct {
	File string `arg:"" help:"The trust root." type:"path"`
}

func (c *trustShowCmd) run(*env) (result, error) { return showTrust(c.File) }

func showTrust(path string) (result, error) {
	data, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	d, err := trust.Parse(data)
	if err != nil {
		return nil, err
	}
	res := &trustResult{File: path, Document: d}
	root, err := trust.Load(path)
	var refused *trust.RefusedError
	if errors.As(err, &refused) && refused.Code == trust.CodeTrustThreshold {
		_, ref := classify(context.Background(), err)
		res.Note = ref.Detail
		return res, nil
	}
	if err != nil {
		return res, err
	}
	res.Accepted = true
	for _, s := range root.Signers() {
		res.Signers = append(res.Signers, s.Holder)
	}
	return res, nil
}

type trustResult struct {
	File     string          `json:"file"`
	Document *trust.Document `json:"trust"`
	Accepted bool            `json:"accepted"`
	Signers  []string        `json:"signers,omitempty"`
	Note     string          `json:"note,omitempty"`
}

func (r *trustResult) text(w io.Writer) {
	d := r.Document
	fmt.Fprintf(w, "%s, version %d\n", r.File, d.Version)
	fmt.Fprintf(w, "root         %d of %s\n", d.Root.Threshold, strings.Join(d.Root.Holders, ", "))
	for _, h := range d.Holders {
		for _, k := range h.Keys {
			kind := ""
			if k.Type == trust.TypeOpenPGP {
				kind = " (OpenPGP, " + k.Public.Algorithm() + ")"
			}
			fmt.Fprintf(w, "holder       %-16s %s%s\n", h.Name, k.Public.KeyID(), kind)
		}
	}
	for _, s := range d.Stations {
		group := ""
		if s.Group != "" {
			group = " (group " + s.Group + ")"
		}
		fmt.Fprintf(w, "station      %-16s %s%s\n", s.Name, s.Key.Public.KeyID(), group)
	}
	for _, c := range d.Channels {
		age := "never expire"
		if c.MaxAge > 0 {
			age = "expire after " + spanText(c.MaxAge)
		}
		fmt.Fprintf(w, "channel      %s to %s: prepared by %d of %s, approved by %d of %s; bundles %s, gaps: %s\n", c.Name, c.Destination,
			c.Preparers.Threshold, strings.Join(c.Preparers.Holders, ", "), c.Approvers.Threshold, strings.Join(c.Approvers.Holders, ", "), age, c.Gaps)
	}
	switch {
	case r.Accepted:
		fmt.Fprintf(w, "signed by    %s: accepted\n", strings.Join(r.Signers, ", "))
	case r.Note != "":
		fmt.Fprintf(w, "not yet accepted: %s\n", r.Note)
	default:
		fmt.Fprintf(w, "not yet signed: sallyport trust sign %s --key ROOT-HOLDER.key\n", r.File)
	}
}
