package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// Input is one thing from outside that an image is made of.
type Input struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"` // of the file, in lower-case hex
	Size    int64  `json:"size"`   // in bytes
}

// Inputs is a directory that keeps inputs: each as a file that its digest names, and index.json, which lists them.
// It is good for another build when mirrors have moved on. Several processes may use it at once.
type Inputs struct{ dir string }

// index is what stands in index.json.
type index struct {
	Type   string  `json:"type"`
	Inputs []Input `json:"inputs"`
}

const (
	indexType = "sallyport-inputs"
	maxIndex  = 1 << 20
)

// OpenInputs opens the directory dir, which it makes when it isn't there.
func OpenInputs(dir string) (*Inputs, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening inputs: %w", err)
	}
	in := &Inputs{dir}
	_, err := in.List()
	return in, err
}

// List is all that the index names, sorted by name and then by version.
func (in *Inputs) List() ([]Input, error) {
	name := filepath.Join(in.dir, "index.json")
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening inputs: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxIndex+1))
	if err != nil {
		return nil, fmt.Errorf("opening inputs: %w", err)
	}
	list, err := parseIndex(b)
	if err != nil {
		return nil, fmt.Errorf("opening inputs: %s: %w", name, err)
	}
	return list, nil
}

// parseIndex reads index.json.
func parseIndex(b []byte) ([]Input, error) {
	if len(b) > maxIndex {
		return nil, fmt.Errorf("more than %d bytes", maxIndex)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var x index
	if err := dec.Decode(&x); err != nil {
		return nil, fmt.Errorf("byte %d: %w", dec.InputOffset(), err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("byte %d: something follows the index", dec.InputOffset())
	}
	if x.Type != indexType {
		return nil, fmt.Errorf("its type is %.64q, and not %q", x.Type, indexType)
	}
	for i, input := range x.Inputs {
		digest, err := hex.DecodeString(input.SHA256)
		if err != nil || len(digest) != sha256.Size || input.SHA256 != strings.ToLower(input.SHA256) || input.Name == "" || input.Size < 0 {
			return nil, fmt.Errorf("input %d (%.64q) has no name, size or SHA-256", i, input.Name)
		}
	}
	slices.SortStableFunc(x.Inputs, compareInputs)
	return x.Inputs, nil
}

func compareInputs(a, b Input) int {
	if c := strings.Compare(a.Name, b.Name); c != 0 {
		return c
	}
	return strings.Compare(a.Version, b.Version)
}

// Open opens an input and compares it with its digest first; the caller closes it.
func (in *Inputs) Open(input Input) (*os.File, error) {
	f, err := os.Open(in.path(input.SHA256))
	if err != nil {
		return nil, fmt.Errorf("opening the input %s %s: %w", input.Name, input.Version, err)
	}
	hash := sha256.New()
	n, err := io.Copy(hash, f)
	if err == nil && (n != input.Size || hex.EncodeToString(hash.Sum(nil)) != input.SHA256) {
		err = fmt.Errorf("%s: its SHA-256 isn't the index's", f.Name())
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("opening the input %s %s: %w", input.Name, input.Version, err)
	}
	return f, nil
}

func (in *Inputs) path(digest string) string { return filepath.Join(in.dir, "sha256-"+digest) }

// Add copies what r has into the directory and enters it into the index. want is its SHA-256 as its source has it; ""
// takes any.
func (in *Inputs) Add(name, version, want string, r io.Reader) (_ Input, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("keeping the input %s %s: %w", name, version, err)
		}
	}()
	tmp, err := os.CreateTemp(in.dir, ".incoming-*")
	if err != nil {
		return Input{}, err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(tmp, hash), r)
	if err != nil {
		return Input{}, err
	}
	input := Input{name, version, hex.EncodeToString(hash.Sum(nil)), n}
	if want != "" && want != input.SHA256 {
		return Input{}, fmt.Errorf("its SHA-256 is %s, and should be %s", input.SHA256, want)
	}
	if err := errors.Join(tmp.Chmod(0o644), tmp.Sync()); err != nil {
		return Input{}, err
	}
	unlock, err := in.lock()
	if err != nil {
		return Input{}, err
	}
	defer unlock()
	if err := os.Rename(tmp.Name(), in.path(input.SHA256)); err != nil {
		return Input{}, err
	}
	return input, in.enter(input)
}

// enter writes the index with one more input.
func (in *Inputs) enter(input Input) error {
	list, err := in.List()
	if err != nil {
		return err
	}
	if slices.Contains(list, input) {
		return nil
	}
	list = append(list, input)
	slices.SortStableFunc(list, compareInputs)
	b, err := json.MarshalIndent(index{indexType, list}, "", "  ")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(in.dir, "index.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	return syncDir(in.dir)
}

// lock keeps other processes out until unlock is called.
func (in *Inputs) lock() (unlock func() error, err error) {
	f, err := os.OpenFile(filepath.Join(in.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// KernelPackage returns the one kernel package that the directory has; if it has none, it fetches the current one with
// apt-get, and keeps it. Several are an error, since what was built would depend on which is taken.
func (in *Inputs) KernelPackage(ctx context.Context) (Input, error) {
	return in.only(ctx, "kernel", func(name string) bool { return strings.HasPrefix(name, "linux-image-") }, currentKernel)
}

// StubPackage does the same for the package with systemd's EFI stub.
func (in *Inputs) StubPackage(ctx context.Context) (Input, error) {
	return in.only(ctx, "EFI stub", func(name string) bool { return name == stubPackage }, func(context.Context, *apt) (string, error) { return stubPackage, nil })
}

func (in *Inputs) only(ctx context.Context, what string, is func(name string) bool, ask func(context.Context, *apt) (string, error)) (Input, error) {
	list, err := in.List()
	if err != nil {
		return Input{}, err
	}
	list = slices.DeleteFunc(list, func(input Input) bool { return !is(input.Name) })
	switch len(list) {
	case 0:
		input, err := in.fetch(ctx, ask)
		if err != nil {
			return Input{}, fmt.Errorf("fetching the %s: %w", what, err)
		}
		return input, nil
	case 1:
		return list[0], nil
	}
	return Input{}, fmt.Errorf("%s has %d %s packages: leave one of them in index.json", in.dir, len(list), what)
}

func (in *Inputs) fetch(ctx context.Context, ask func(context.Context, *apt) (string, error)) (Input, error) {
	dir, err := os.MkdirTemp(in.dir, ".apt-*")
	if err != nil {
		return Input{}, err
	}
	defer os.RemoveAll(dir)
	file, r, err := fetch(ctx, dir, ask)
	if err != nil {
		return Input{}, err
	}
	f, err := os.Open(file)
	if err != nil {
		return Input{}, err
	}
	defer f.Close()
	return in.Add(r.name, r.version, r.sha256, f)
}
