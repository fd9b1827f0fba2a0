package trust

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// SignatureName returns the name of the file beside the trust root file that holds the holder's signature with that
// key: FILE.HOLDER.minisig, or FILE.HOLDER.asc for a key of OpenPGP. It fails when holder is no name.
func SignatureName(file, holder string, key KeyID) (string, error) {
	if err := CheckName(holder); err != nil {
		return "", fmt.Errorf("name signature of %s: %w", file, err)
	}
	return file + "." + holder + key.SignatureSuffix(), nil
}

// A Root is a trust root that enough of its root holders have signed. Only [Accept] and [Load] give one; the
// zero value authorises nothing. It never changes and may be used from several goroutines.
type Root struct {
	document *Document
	data     []byte
	signers  []Signer
	keys     map[KeyID]listedKey
}

// listedKey is a key with its owner: a holder, or a station when holder is empty.
type listedKey struct {
	public  PublicKey
	holder  string
	station string
}

// Accept takes data, the bytes of a trust.json, when root.threshold of its root holders have signed it. sigs has
// the signatures by holder. One that is not acceptable is a refusal, however many are good; one by a holder who
// is listed but no root holder counts for nothing. Every error is a *[RefusedError] with [CodeBadTrust] or
// [CodeTrustThreshold].
func Accept(data []byte, sigs map[string][]byte) (*Root, error) {
	d, err := Parse(data)
	if err != nil {
		return nil, err
	}
	r := &Root{document: d, data: bytes.Clone(data), keys: map[KeyID]listedKey{}}
	for _, h := range d.Holders {
		for _, k := range h.Keys {
			r.keys[k.Public.id] = listedKey{public: k.Public, holder: h.Name}
		}
	}
	for _, s := range d.Stations {
		r.keys[s.Key.Public.id] = listedKey{public: s.Key.Public, station: s.Name}
	}
	m := prehash(data)
	var signed []string
	for _, name := range slices.Sorted(maps.Keys(sigs)) {
		if _, ok := d.holder(name); !ok {
			return nil, refuse(CodeBadTrust, nil, "accept trust root: a signature of %+.80q, who is not among its holders", name)
		}
		sig, err := ParseSignature(sigs[name])
		if err != nil {
			return nil, refuse(CodeBadTrust, err, "accept trust root: signature of %s", name)
		}
		k, ok := r.keys[sig.keyID]
		if !ok || k.holder != name {
			return nil, refuse(CodeBadTrust, nil, "accept trust root: the signature of %s is from key %s, which is none of theirs", name, sig.keyID)
		}
		if err := verify(k.public, m, sig); err != nil {
			return nil, refuse(CodeBadTrust, err, "accept trust root: signature of %s", name)
		}
		if d.Root.has(name) {
			signed = append(signed, name)
			r.signers = append(r.signers, Signer{Holder: name, Role: RoleRoot, KeyID: sig.keyID, Comment: sig.comment})
		}
	}
	if missing := d.Root.missing("root holder", signed); missing != "" {
		return nil, refuse(CodeTrustThreshold, nil, "accept trust root: %s", missing)
	}
	return r, nil
}

// Load reads the trust root at path and its signatures beside it, path.HOLDER.minisig and path.HOLDER.asc, and
// accepts them as [Accept] does. Files whose names have that form and no holder's name in them, or the other kind
// of signature, are refused too, and so is a holder's second. An error that is no *[RefusedError] means that
// something could not be read.
func Load(path string) (*Root, error) {
	data, err := readFile(path, MaxDocument)
	if err != nil {
		return nil, err
	}
	beside, err := signaturesBeside(path)
	if err != nil {
		return nil, err
	}
	sigs := make(map[string][]byte, len(beside))
	for _, b := range beside {
		if err := CheckName(b.holder); err != nil {
			return nil, refuse(CodeBadTrust, err, "load trust root %s: a signature's file name", path)
		}
		if _, twice := sigs[b.holder]; twice {
			return nil, refuse(CodeBadTrust, nil, "load trust root %s: two signatures of %s beside it; keep one", path, b.holder)
		}
		name := path + "." + b.holder + b.suffix
		if sigs[b.holder], err = readFile(name, SlotSize); err != nil {
			return nil, err
		}
		if isPGP := bytes.HasPrefix(sigs[b.holder], signatureArmor); isPGP != (b.suffix == openpgpSuffix) {
			return nil, refuse(CodeBadTrust, nil, "load trust root %s: %s doesn't hold the kind of signature that its name says", path, filepath.Base(name))
		}
	}
	r, err := Accept(data, sigs)
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		detail := "load trust root " + path
		if refused.Code == CodeTrustThreshold {
			detail += ", signatures beside it named " + filepath.Base(path) + ".HOLDER" + minisignSuffix + " or .HOLDER" + openpgpSuffix
		}
		return nil, refuse(refused.Code, err, "%s", detail)
	}
	return r, err
}

// besideName is a name beside a trust root that looks like a signature's: what stands for the holder in it, and the
// rest.
type besideName struct{ holder, suffix string }

// signaturesBeside lists the names of signatures beside path.
func signaturesBeside(path string) ([]besideName, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("load trust root: %w", err)
	}
	defer dir.Close()
	prefix := filepath.Base(path) + "."
	var found []besideName
	for {
		entries, err := dir.ReadDir(256)
		for _, e := range entries {
			name, ok := strings.CutPrefix(e.Name(), prefix)
			if !ok {
				continue
			}
			suffix := minisignSuffix
			holder, ok := strings.CutSuffix(name, suffix)
			if !ok {
				suffix = openpgpSuffix
				if holder, ok = strings.CutSuffix(name, suffix); !ok {
					continue
				}
			}
			if len(found) == maxHolders {
				return nil, refuse(CodeBadTrust, nil, "load trust root %s: more than %d signatures beside it", path, maxHolders)
			}
			found = append(found, besideName{holder, suffix})
		}
		if err == io.EOF {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("load trust root: %w", err)
		}
	}
}

// readFile reads a regular file of at most limit bytes; it doesn't hang on a FIFO.
func readFile(path string, limit int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("load trust root: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("load trust root: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("load trust root: read %s: %w: not a regular file", path, fs.ErrInvalid)
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("load trust root: %w", err)
	}
	if len(data) > limit {
		return nil, refuse(CodeBadTrust, nil, "load trust root: %s has more than %d bytes", path, limit)
	}
	return data, nil
}

// Document returns a copy of what the trust root says.
func (r *Root) Document() *Document {
	if r.document == nil {
		return new(Document)
	}
	return r.document.clone()
}

// Bytes returns the bytes that were signed, a trust.json.
func (r *Root) Bytes() []byte { return bytes.Clone(r.data) }

// Signers returns the root holders who signed, in order of name.
func (r *Root) Signers() []Signer { return slices.Clone(r.signers) }

// Channel returns the channel of that name.
func (r *Root) Channel(name string) (Channel, bool) {
	if r.document == nil {
		return Channel{}, false
	}
	i, found := slices.BinarySearchFunc(r.document.Channels, name, func(c Channel, name string) int { return strings.Compare(c.Name, name) })
	if !found {
		return Channel{}, false
	}
	return r.document.Channels[i].clone(), true
}

func (r *Root) channelNames() []string {
	var names []string
	for _, c := range r.Document().Channels {
		names = append(names, c.Name)
	}
	return names
}

// Stations returns the stations in order of name.
func (r *Root) Stations() []Station {
	if r.document == nil {
		return nil
	}
	return slices.Clone(r.document.Stations)
}

// StationByKey returns the station whose log key is pub.
func (r *Root) StationByKey(pub PublicKey) (Station, bool) {
	for _, s := range r.Stations() {
		if s.Key.Public == pub {
			return s, true
		}
	}
	return Station{}, false
}

// HolderOf returns the holder who has the key of that id.
func (r *Root) HolderOf(id KeyID) (string, bool) {
	k := r.keys[id]
	return k.holder, k.holder != ""
}
