package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/bundle"
	"sallyport/bundle/trust"
	"sallyport/media/carry"
	"sallyport/media/confined"
	"sallyport/media/enrol"
	"sallyport/media/examine"
	"sallyport/media/format"
	"sallyport/media/scsi"
	"sallyport/scan"
)

const (
	maxKeyOnStick = 64 << 10 // bytes of a key file
	keySuffix     = ".key"
)

type keyStoreCmd struct {
	File     string `arg:"" help:"The secret key, NAME.key, which has to have a password."`
	Device   string `required:"" help:"The stick: its generic node as /dev/sg1, or /dev/sdb." placeholder:"DEV"`
	Trust    string `required:"" help:"The trust root." placeholder:"FILE"`
	State    string `required:"" help:"This station's state: which sticks it has enrolled." type:"path" placeholder:"DIR"`
	NoReplug bool   `help:"Don't have the stick pulled out and put in again before it is read back: what only its cache holds then counts as written."`
	Yes      bool   `help:"Don't ask."`
	mediaPolicy
}

func (c *keyStoreCmd) Help() string {
	return `Puts a minisign secret key on a stick that this station has wiped, tested, formatted and enrolled for that (sallyport format
--use key). The stick's file system is made anew, of the same kind and with the same label, and holds nothing but the key;
what was on the stick is gone, another key too. Then it is pulled out and put in again, and read back by a reader without
rights. The key file stays where it is: remove it there if the stick is to have the only one.

sign and trust sign read the key from there, --key /dev/sg1, with no file system of the kernel's.

Example: sallyport key store alice.key --device /dev/sg1 --trust trust.json --state state`
}

type keyStoreResult struct {
	Key      string        `json:"key"`    // the file's name on the stick
	Bytes    int64         `json:"bytes"`  // of that file
	SHA256   string        `json:"sha256"` // of that file
	Volume   *enrol.Volume `json:"volume"`
	Write    *carry.Record `json:"write"`
	Verified bool          `json:"verified"` // the file was read back and is equal
}

func (r *keyStoreResult) text(w io.Writer) {
	fmt.Fprintf(w, "stick        %s\n", stickText(r.Write.Medium))
	fmt.Fprintf(w, "file system  %s, label %s, number %s\n", r.Volume.Kind, orDash(r.Volume.Label), r.Volume.Serial)
	fmt.Fprintf(w, "key          %s, %s, and nothing else\n", r.Key, bytesText(r.Bytes))
	switch {
	case r.Verified && r.Write.Replugged:
		fmt.Fprintln(w, "read back    equal, after it was pulled out and put in again")
	case r.Verified:
		fmt.Fprintln(w, "read back    equal; it was not pulled out in between, so that a cache in it may have answered")
	default:
		fmt.Fprintln(w, "failed       what is on the stick was not proven: store the key anew")
	}
}

func (c *keyStoreCmd) run(e *env) (_ result, err error) {
	key, err := readKeyToStore(c.File)
	if err != nil {
		return nil, err
	}
	root, err := loadTrust(c.Trust)
	if err != nil {
		return nil, err
	}
	st, err := e.openState(c.State, root)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	reserves, err := c.reserves()
	if err != nil {
		return nil, err
	}
	held := *e
	held.ctx = context.WithoutCancel(e.ctx)
	t, err := held.openTarget(c.Device, reserves)
	if err != nil {
		return nil, about(c.Device, err)
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	return c.store(e, st, t, key)
}

// store puts the key on the stick, if it is one that this station has enrolled for that.
func (c *keyStoreCmd) store(e *env, st *state, t *target, key *keyTree) (result, error) {
	rec, err := enrol.Find(filepath.Join(c.State, enrolDir), t.identity, enrol.Key, st.station)
	if err != nil {
		return nil, leaving("the stick is untouched", about(c.Device, err))
	}
	if rec.Volume == nil {
		return nil, about(c.Device, errors.New("its enrolment names no file system"))
	}
	kind, tree := format.Kind(rec.Volume.Kind), format.Tree{FS: key}
	if kind != format.FAT32 && kind != format.ExFAT {
		return nil, usagef("%s was formatted with %s, and a key stick holds one file: format it anew with --fs fat32 or exfat", c.Device, kind)
	}
	if err := format.Ready(kind); err != nil {
		return nil, err
	}
	if err := tree.Fits(e.ctx, kind); err != nil {
		if unfit, ok := errors.AsType[*format.UnfitError](err); ok {
			err = usagef("%s can't be called so on a stick: %s", c.File, unfit.Problems[0].Why)
		}
		return nil, err
	}
	if err := (&formatCmd{Device: c.Device, Yes: c.Yes}).ask(e, t); err != nil {
		return nil, err
	}
	f, err := memoryFile()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := &keyStoreResult{Key: key.name, Bytes: key.Size(), SHA256: fmt.Sprintf("%x", sha256.Sum256(key.data))}
	r.Write, r.Volume, err = e.layOutIn(f, t, kind, rec.Volume.Label, tree, c.NoReplug)
	if r.Write == nil {
		return nil, leaving("the stick is untouched", about(c.Device, err))
	}
	if err == nil {
		err = e.readTree(t, kind, key.entries())
	}
	if r.Verified = err == nil; err != nil {
		err = &unfinishedError{"what is on the stick was not proven: store the key anew", withdrawLiar(c.State, t, err)}
	}
	return r, about(c.Device, err)
}

// memoryFile is a file that no disk has a block of: the layout of a key stick has the key in it.
func memoryFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("layout", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), "layout"), nil
}

// readKeyToStore reads a key file and refuses what is to be on no stick.
func readKeyToStore(name string) (*keyTree, error) {
	base := filepath.Base(name)
	if !isKeyName(base) {
		return nil, usagef("%s: a key's file on a stick is called NAME.key, at most 64 of A-Z, a-z, 0-9, dot, - and _, the first no dot", name)
	}
	f, info, err := openInput(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := readKeyFile(f)
	if err != nil {
		return nil, named("read", name, err)
	}
	switch _, err := trust.ParseSecretKey(data); {
	case err == nil:
		return nil, usagef("%s: the key has no password, and whoever finds the stick could sign with it: make one with sallyport key generate", name)
	case !errors.Is(err, trust.ErrNeedsPassword):
		return nil, usagef("%s: %v", name, err)
	case !bytes.HasPrefix(data, []byte("untrusted comment: ")):
		return nil, usagef("%s: it is no key of minisign's, and an OpenPGP one belongs on a smart card", name)
	}
	return &keyTree{base, data, info.ModTime()}, nil
}

// isKeyName is whether a key's file can be called so wherever a stick is read.
func isKeyName(name string) bool {
	const chars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
	return len(name) <= 64 && strings.HasSuffix(name, keySuffix) && name[0] != '.' &&
		!strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(chars, r) })
}

// readKeyFile reads what can be a key.
func readKeyFile(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxKeyOnStick+1))
	if err == nil && len(data) > maxKeyOnStick {
		err = usagef("more than %d bytes", maxKeyOnStick)
	}
	return data, err
}

// keyTree is a file system with one file in it.
type keyTree struct {
	name  string
	data  []byte
	mtime time.Time
}

// Open opens the file.
func (k *keyTree) Open(name string) (fs.File, error) {
	if name != k.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return openedKey{bytes.NewReader(k.data), k}, nil
}

// ReadDir lists the root.
func (k *keyTree) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != "." {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	return []fs.DirEntry{fs.FileInfoToDirEntry(k)}, nil
}

// entries are what is to be read back.
func (k *keyTree) entries() []bundle.Entry {
	return []bundle.Entry{
		{Path: ".", Type: bundle.Dir},
		{Path: k.name, Type: bundle.File, MTime: k.mtime.Unix(), Size: k.Size(), SHA256: sha256.Sum256(k.data)},
	}
}

// A keyTree is its file's fs.FileInfo, too.

func (k *keyTree) Name() string       { return k.name }
func (k *keyTree) Size() int64        { return int64(len(k.data)) }
func (k *keyTree) Mode() fs.FileMode  { return 0o600 }
func (k *keyTree) ModTime() time.Time { return k.mtime }
func (k *keyTree) IsDir() bool        { return false }
func (k *keyTree) Sys() any           { return nil }

type openedKey struct {
	*bytes.Reader
	tree *keyTree
}

func (o openedKey) Stat() (fs.FileInfo, error) { return o.tree, nil }
func (o openedKey) Close() error               { return nil }

// keyStickError says that a medium isn't one that a key is taken from.
type keyStickError struct{ detail string }

func (e *keyStickError) Error() string { return e.RefusalCode() + ": " + e.detail }

func (e *keyStickError) RefusalCode() string { return "no-key-stick" }

func noKeyStick(format string, args ...any) error {
	return &keyStickError{fmt.Sprintf(format, args...)}
}

// readKey reads the file of a key, or the one that is on a stick, and says how to call it.
func (e *env) readKey(name string) (data []byte, called string, err error) {
	info, err := os.Stat(name)
	if block := err == nil && info.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice; !block && !scsi.IsNode(name) {
		data, err := readSmall(name)
		return data, name, err
	}
	m, err := e.openMedium(name)
	if err != nil {
		return nil, "", err
	}
	defer m.close()
	data, file, err := e.keyOn(m)
	return data, file + " on " + name, about(name, err)
}

// keyOn has a process without rights find the one key on a medium.
func (e *env) keyOn(m *rawMedium) (data []byte, name string, err error) {
	p, err := confined.Start(e.ctx, []string{"/proc/self/exe", confinedArgument}, m, m.size, m.block)
	if err != nil {
		return nil, "", err
	}
	defer p.Close()
	var report examine.Report
	if err := json.Unmarshal(p.Report(), &report); err != nil {
		return nil, "", fmt.Errorf("%w: %w", confined.ErrParser, err)
	}
	if len(report.Volumes) != 1 || p.Volumes() != 1 {
		return nil, "", noKeyStick("a key is read from the one file system of a stick, and on this one there is %s", volumesText(report.Volumes))
	}
	data, name, err = keyIn(p.Volume(0))
	if errors.Is(err, confined.ErrRefused) {
		err = noKeyStick("%v", err)
	}
	return data, name, err
}

// keyIn reads the one key at the root of a file system.
func keyIn(volume fs.FS) (data []byte, name string, err error) {
	entries, err := fs.ReadDir(volume, ".")
	if err != nil {
		return nil, "", fmt.Errorf("list the root: %w", err)
	}
	var keys, others []string
	for _, d := range entries {
		if strings.EqualFold(path.Ext(d.Name()), keySuffix) {
			keys = append(keys, d.Name())
		} else {
			others = append(others, d.Name())
		}
	}
	switch len(keys) {
	case 0:
		return nil, "", noKeyStick("there is no file NAME.key at the root, but %s", namesText(others))
	case 1:
	default:
		return nil, "", noKeyStick("a key is taken from where there is but one: at the root there are %s", namesText(keys))
	}
	data, err = readKeyOn(volume, keys[0])
	return data, scan.Quote(keys[0]), err
}

// readKeyOn reads a key's file from a medium.
func readKeyOn(volume fs.FS, name string) ([]byte, error) {
	info, err := fs.Lstat(volume, name)
	if err != nil {
		return nil, named("read", scan.Quote(name), err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyOnStick {
		return nil, noKeyStick("%s is a %s of %d bytes, and a key a file of at most %d", scan.Quote(name), kindOf(info), info.Size(), maxKeyOnStick)
	}
	f, err := volume.Open(name)
	if err != nil {
		return nil, named("read", scan.Quote(name), err)
	}
	defer f.Close()
	return readKeyFile(f)
}

// volumesText names file systems for people.
func volumesText(volumes []examine.Volume) string {
	var texts []string
	for _, v := range volumes {
		text := v.Holds
		switch {
		case text == "":
			text = "something unknown"
		case v.Files == 0:
			text += " that isn't read"
		}
		texts = append(texts, fmt.Sprintf("%s of %s", printable(text), bytesText(v.Size)))
	}
	return listText(texts)
}

// namesText names files for people.
func namesText(names []string) string {
	var texts []string
	for _, name := range names {
		texts = append(texts, scan.Quote(name))
	}
	return listText(texts)
}

// listText lists the first ones.
func listText(texts []string) string {
	const shown = 5
	switch n := len(texts); {
	case n == 0:
		return "nothing"
	case n > shown:
		return fmt.Sprintf("%s and %d others", strings.Join(texts[:shown], ", "), n-shown)
	}
	return strings.Join(texts, ", ")
}
