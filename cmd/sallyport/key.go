package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"sallyport/bundle/trust"
)

type keyCmd struct {
	Generate keyGenerateCmd `cmd:"" help:"Make a key pair: NAME.key, protected by a password, and NAME.pub."`
	Show     keyShowCmd     `cmd:"" help:"Show a public or secret key's public half, of minisign or OpenPGP."`
	Store    keyStoreCmd    `cmd:"" help:"Put a secret key on an enrolled stick, and read it back."`
}

type keyGenerateCmd struct {
	Name         string `arg:"" help:"Where to put the pair, without .key and .pub."`
	PasswordFile string `help:"Take the password from the first line of this file." type:"path" placeholder:"FILE"`
	NoPassword   bool   `help:"Leave the key without a password (stations; otherwise only for trials)."`
}

func (c *keyGenerateCmd) Help() string {
	return `The files are in minisign's format: stock minisign reads them.

Example, which makes alice.key and alice.pub:
  sallyport key generate alice`
}

// keyResult has a key, or the keys of an OpenPGP certificate that sign.
type keyResult struct {
	keyInfo
	Further []keyInfo `json:"further_keys,omitempty"`
	UserIDs []string  `json:"claimed_user_ids,omitempty"`
	Passed  []string  `json:"not_usable,omitempty"`
	Secret  string    `json:"secret_file,omitempty"`
	File    string    `json:"public_file,omitempty"`
}

type keyInfo struct {
	KeyID     string `json:"key_id"`
	Type      string `json:"type"`
	Algorithm string `json:"algorithm"`
	Public    string `json:"public"`
}

func infoOf(k trust.PublicKey) keyInfo {
	return keyInfo{KeyID: k.KeyID().String(), Type: k.Type(), Algorithm: k.Algorithm(), Public: k.String()}
}

func (r *keyResult) text(w io.Writer) {
	if r.Secret != "" {
		fmt.Fprintf(w, "secret key  %s (keep it, and keep it from others)\npublic key  %s\n", r.Secret, r.File)
	}
	for _, k := range append([]keyInfo{r.keyInfo}, r.Further...) {
		name := "key id"
		if k.Type == trust.TypeOpenPGP {
			name = "fingerprint"
		}
		fmt.Fprintf(w, "%-11s %s\nalgorithm   %s (%s)\npublic      %s\n", name, k.KeyID, k.Algorithm, k.Type, k.Public)
	}
	for _, id := range r.UserIDs {
		fmt.Fprintf(w, "claims      to belong to %+.200q (nobody vouches for that: compare the fingerprint)\n", id)
	}
	for _, why := range r.Passed {
		fmt.Fprintf(w, "not usable  %s\n", why)
	}
}

func (c *keyGenerateCmd) run(e *env) (result, error) {
	if c.NoPassword && c.PasswordFile != "" {
		return nil, usagef("--no-password and --password-file exclude each other")
	}
	secretFile, publicFile := c.Name+".key", c.Name+".pub"
	for _, path := range []string{secretFile, publicFile} {
		if _, err := os.Lstat(path); err == nil {
			return nil, usagef("%s is already there; keys are never overwritten", path)
		}
	}
	key, err := trust.GenerateKey()
	if err != nil {
		return nil, err
	}
	secret := key.Encode()
	if !c.NoPassword {
		password, err := e.newPassword(c.PasswordFile)
		if err != nil {
			return nil, err
		}
		if secret, err = key.Encrypt(password); err != nil {
			return nil, err
		}
	}
	if err := writeNew(secretFile, secret, 0o600); err != nil {
		return nil, err
	}
	if err := writeNew(publicFile, key.Public().File(), 0o644); err != nil {
		return nil, errors.Join(err, os.Remove(secretFile))
	}
	return &keyResult{keyInfo: infoOf(key.Public()), Secret: secretFile, File: publicFile}, nil
}

type keyShowCmd struct {
	File         string `arg:"" help:"NAME.pub, NAME.key, what gpg exports of a key, or a key stick: /dev/sg1."`
	PasswordFile string `help:"Take the password of a secret key from the first line of this file." type:"path" placeholder:"FILE"`
}

func (c *keyShowCmd) run(e *env) (result, error) {
	data, called, err := e.readKey(c.File)
	if err != nil {
		return nil, err
	}
	cert, err := trust.ParseCertificate(data, e.now())
	if err == nil {
		res := &keyResult{keyInfo: infoOf(cert.Keys[0]), UserIDs: cert.UserIDs, Passed: cert.Passed}
		for _, k := range cert.Keys[1:] {
			res.Further = append(res.Further, infoOf(k))
		}
		return res, nil
	}
	switch _, keyErr := trust.ParseSecretKey(data); {
	case errors.Is(keyErr, trust.ErrPublicKey):
		return nil, usagef("%s: %v", called, err)
	case keyErr != nil && !errors.Is(keyErr, trust.ErrNeedsPassword):
		return nil, usagef("%s is neither a public key (%v) nor a secret key (%v)", called, err, keyErr)
	}
	key, err := e.unlockKey(data, called, c.PasswordFile)
	if err != nil {
		return nil, err
	}
	return &keyResult{keyInfo: infoOf(key.Public())}, nil
}

const maxSmall = 1 << 20

// readSmall reads a file that can't be large: a key, a signature, a seal.
func readSmall(path string) ([]byte, error) {
	f, _, err := openInput(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSmall+1))
	if err == nil && len(data) > maxSmall {
		return nil, usagef("read %s: more than %d bytes", path, maxSmall)
	}
	return data, err
}

// openKey reads a secret key, from a file or a key stick, asking for its password when it has one: on a terminal three
// times, if need be.
func (e *env) openKey(path, passwordFile string) (*trust.SecretKey, error) {
	data, called, err := e.readKey(path)
	if err != nil {
		return nil, err
	}
	return e.unlockKey(data, called, passwordFile)
}

// unlockKey reads the secret key in data, which came from path.
func (e *env) unlockKey(data []byte, path, passwordFile string) (*trust.SecretKey, error) {
	key, err := trust.ParseSecretKey(data)
	if err == nil {
		return key, nil
	}
	if !errors.Is(err, trust.ErrNeedsPassword) {
		if cert, certErr := trust.ParseCertificate(data, e.now()); certErr == nil && cert.Keys[0].Type() != trust.TypeOpenPGP {
			return nil, usagef("%s: it is a public key, and a secret one is wanted: name the .key file", path)
		}
		return nil, usagef("%s: %v", path, err)
	}
	for tries := 3; ; tries-- {
		password, err := e.password(fmt.Sprintf("Password of %s: ", path), passwordFile)
		if err != nil {
			return nil, err
		}
		key, err = trust.DecryptSecretKey(data, password)
		switch {
		case err == nil:
			return key, nil
		case !errors.Is(err, trust.ErrWrongPassword):
			return nil, usagef("%s: %v", path, err)
		case passwordFile != "" || tries == 1:
			return nil, usagef("%s: wrong password", path)
		}
		fmt.Fprintln(e.stderr, "Wrong password; once more.")
	}
}

func (e *env) password(prompt, file string) (_ string, err error) {
	if file != "" {
		data, err := readSmall(file)
		if err != nil {
			return "", err
		}
		line, _, _ := bytes.Cut(data, []byte("\n"))
		if line = bytes.TrimSuffix(line, []byte("\r")); len(line) == 0 {
			return "", usagef("%s: its first line is empty and should be a password", file)
		}
		return string(line), nil
	}
	f, ok := e.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", usagef("a password is needed and there is no terminal to ask on: give --password-file FILE")
	}
	state, err := term.GetState(int(f.Fd()))
	if err != nil {
		return "", err
	}
	// Before the prompt: who sees that may type at once.
	if err := hideInput(int(f.Fd())); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, term.Restore(int(f.Fd()), state)) }()
	fmt.Fprint(e.stderr, prompt)
	line, err := e.readLine()
	fmt.Fprintln(e.stderr)
	if err != nil {
		return "", err
	}
	password, complete := strings.CutSuffix(line, "\n")
	if !complete {
		return "", usagef("no password was given")
	}
	return password, nil
}

// hideInput makes a terminal keep what is typed to itself.
func hideInput(fd int) error {
	attr, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	attr.Lflag &^= unix.ECHO
	return unix.IoctlSetTermios(fd, unix.TCSETS, attr)
}

func (e *env) newPassword(file string) (string, error) {
	if file != "" {
		return e.password("", file)
	}
	first, err := e.password("New password: ", "")
	if err != nil {
		return "", err
	}
	if first == "" {
		return "", usagef("the password is empty; --no-password makes a key without one")
	}
	again, err := e.password("The same again: ", "")
	if err != nil {
		return "", err
	}
	if first != again {
		return "", usagef("the two passwords differ; nothing was written")
	}
	return first, nil
}
