package bundle

import (
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"sallyport/bundle/canonjson"
	"sallyport/bundle/iso9660"
	"sallyport/bundle/trust"
	"sallyport/bundle/verity"
)

// MaxRoots asks for as much parity as there is room for: up to 24 roots in what Capacity leaves.
const MaxRoots = -1

// Options say what a bundle is to be; everything that goes into the image comes from them and the payload.
type Options struct {
	Channel     string
	Destination string
	Sequence    int64
	Previous    string                 // seal digest of the bundle before, in hexadecimal; empty for the first
	Epoch       *int64                 // seconds since 1970; nil: the newest mtime in the payload
	MaxAge      int64                  // seconds from the epoch to the seal's expiry; 0: it never expires
	Roots       int                    // parity roots: 0, 2 to 24, or MaxRoots
	Capacity    int64                  // blocks of the medium; 0: no limit
	LeaveOut    func(path string) bool // whether a path is not carried, with all below it; nil: carry all
}

// Progress is told how far a long step has come. Done and Total are bytes.
type Progress func(step string, done, total int64)

// A Plan is a payload laid out: where each byte of the image goes, before any file is read.
type Plan struct {
	fsys     fs.FS
	entries  []Entry // as in the manifest; the data pass fills in the digests
	layout   *iso9660.Layout
	seal     Seal
	geometry Geometry

	expected   *Seal    // set by Expect: what the seal has to be
	signatures [][]byte // and what goes into its slots
}

// Indices into the layout's entries: the root, README.txt, the payload without its root, MANIFEST.json, SHA256SUMS.
const (
	layoutReadme  = 1
	layoutPayload = 2
)

// check finds what the walk can't change, before the walk.
func (o *Options) check() error {
	for _, name := range []string{o.Channel, o.Destination} {
		if err := trust.CheckName(name); err != nil {
			return err
		}
	}
	if o.Sequence < 1 || o.Sequence > canonjson.MaxInt {
		return fmt.Errorf("sequence %d: must be 1 to 2^53-1", o.Sequence)
	}
	if o.Previous != "" {
		if _, err := parseDigest(o.Previous); err != nil {
			return fmt.Errorf("previous seal: %w", err)
		}
	}
	if o.MaxAge < 0 || o.MaxAge > maxTime {
		return fmt.Errorf("max age %d: must be 0 to %d seconds", o.MaxAge, int64(maxTime))
	}
	if o.Roots != MaxRoots {
		if _, err := verity.FECRounds(1, o.Roots); err != nil {
			return err
		}
	}
	return nil
}

// NewPlan walks the payload once over its names and lays the image out. A payload that the format can't carry
// is refused (codes bad-kind, bad-name, limit, empty-payload, too-big); whether names are fit for the other
// side is not its question.
func NewPlan(ctx context.Context, fsys fs.FS, opt Options) (*Plan, error) {
	if err := opt.check(); err != nil {
		return nil, err
	}
	entries, err := collect(contextFS{ctx, fsys}, opt.LeaveOut)
	if err != nil {
		return nil, err
	}
	if len(entries) <= 1 {
		return nil, refuse("empty-payload", "there is nothing to carry: the directory is empty, or all in it was left out")
	}
	slices.SortFunc(entries[1:], func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	check := newEntryChecker()
	for i := range entries {
		if err := check.add(&entries[i]); err != nil {
			return nil, &RefusedError{Code: "bad-name", Detail: "this payload can't be carried", Err: err}
		}
	}
	p := &Plan{fsys: fsys, entries: entries}
	p.seal = Seal{
		Channel: opt.Channel, Destination: opt.Destination, Sequence: opt.Sequence, Previous: opt.Previous,
		Created: epoch(entries, opt.Epoch), Set: SealSet{Index: 1, Of: 1},
	}
	if opt.MaxAge > 0 {
		p.seal.Expires = p.seal.Created + opt.MaxAge
	}
	if p.seal.Created < 0 || p.seal.Created > maxTime || p.seal.Expires > maxTime {
		return nil, fmt.Errorf("epoch %d, expiry %d: must be between 1970 and 2155; set --epoch", p.seal.Created, p.seal.Expires)
	}
	if p.seal.Manifest.Bytes, err = manifestSize(entries); err != nil {
		return nil, err
	}
	if p.seal.Manifest.Bytes > MaxManifestBytes {
		return nil, refuse("limit", "the manifest would have %d bytes, the limit is %d", p.seal.Manifest.Bytes, MaxManifestBytes)
	}
	if p.layout, err = newLayout(p.seal.identity(), p.seal.Created, p.seal.Manifest.Bytes, entries); err != nil {
		return nil, &RefusedError{Code: "limit", Detail: "this payload can't be carried", Err: err}
	}
	p.seal.Manifest.LBA, _ = p.layout.Extent(p.manifestIndex())
	if err := p.chooseGeometry(opt); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Plan) manifestIndex() int { return layoutPayload + len(p.entries) - 1 }

func epoch(entries []Entry, given *int64) int64 {
	if given != nil {
		return *given
	}
	var newest int64
	for i := range entries {
		newest = max(newest, entries[i].MTime)
	}
	return newest
}

func (p *Plan) chooseGeometry(opt Options) error {
	dataBlocks, roots := p.layout.Blocks(), opt.Roots
	if roots == MaxRoots {
		roots = verity.MaxFECRoots
		if opt.Capacity > 0 {
			roots = fillRoots(dataBlocks, opt.Capacity)
		}
	}
	var err error
	if p.geometry, err = NewGeometry(dataBlocks, roots); err != nil {
		return &RefusedError{Code: "limit", Detail: "this payload can't be carried", Err: err}
	}
	if n := p.geometry.ImageBlocks(); opt.Capacity > 0 && n > opt.Capacity {
		return refuse("too-big", "the image needs %d blocks (%d bytes), the medium has %d (%d bytes)", n, n*BlockSize, opt.Capacity, opt.Capacity*BlockSize)
	}
	return nil
}

// newLayout lays out the data area; the verifier calls it with what it read.
func newLayout(id identity, created, manifestBytes int64, entries []Entry) (*iso9660.Layout, error) {
	list := make([]iso9660.Entry, 0, len(entries)+3)
	own := func(name string, size int64) iso9660.Entry {
		return iso9660.Entry{Path: name, Mode: 0o444, ModTime: created, Size: size}
	}
	for i := range entries {
		e := &entries[i]
		list = append(list, iso9660.Entry{Path: e.Path, Mode: e.FileMode(), ModTime: e.MTime, Size: e.Size, Target: e.Target})
		if i == 0 {
			list = append(list, own(readmeName, readmeBytes))
		}
	}
	list = append(list, own(manifestName, manifestBytes), own(sumsName, sumsSize(entries)))
	return iso9660.NewLayout(iso9660.Volume{
		SystemID: "LINUX", ID: id.volumeID(), Application: "SALLYPORT PROFILE 1", Created: created,
	}, list)
}

// Geometry returns the image's layout.
func (p *Plan) Geometry() Geometry { return p.geometry }

// Entries returns the manifest's entries; digests are zero until the image was written. Not to be changed.
func (p *Plan) Entries() []Entry { return p.entries }

// PayloadBytes is the sum of the files' sizes.
func (p *Plan) PayloadBytes() int64 {
	var n int64
	for i := range p.entries {
		n += p.entries[i].Size
	}
	return n
}

// sealed completes the seal with what the data pass found.
func (p *Plan) sealed(manifest, root [32]byte, parity []byte) (*Seal, error) {
	s := p.seal
	s.Manifest.SHA256 = hex.EncodeToString(manifest[:])
	s.Verity.Root = hex.EncodeToString(root[:])
	s.FEC.SHA256 = hex.EncodeToString(parity)
	s.fill(p.geometry)
	if err := s.check(); err != nil {
		return nil, err
	}
	return &s, p.asExpected(&s)
}

// contextFS stops a walk when the context is done.
type contextFS struct {
	ctx context.Context
	fs.FS
}

func (c contextFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := context.Cause(c.ctx); err != nil {
		return nil, err
	}
	return fs.ReadDir(c.FS, name)
}

func (c contextFS) Lstat(name string) (fs.FileInfo, error) {
	if err := context.Cause(c.ctx); err != nil {
		return nil, err
	}
	return fs.Lstat(c.FS, name)
}

func (c contextFS) ReadLink(name string) (string, error) { return fs.ReadLink(c.FS, name) }
