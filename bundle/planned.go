package bundle

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/bundle/trust"
)

// Planned is a SEAL.json that was made before its image, with the signatures that lie beside it.
type Planned struct {
	Seal       *Seal
	Message    []byte             // the 8,192 bytes of the file, which are signed
	Signatures []PlannedSignature // in order of key id, each key once

	path string
}

// PlannedSignature is a signature in a file beside a planned seal. It says nothing until it is verified.
type PlannedSignature struct {
	File string // its path
	*trust.Signature
}

// ReadPlanned reads the seal at path, and the signatures in the files beside it that are named as it is, then,
// if so wanted, a dot and some part without a dot, then .minisig, .asc or .sig: as stock tools make them; but not
// those of a file that is named as the seal, the dot and the part are. The seal must be the
// 8,192 bytes that are signed. Refusals: those of [ParseSeal]; bad-slot for a signature that has no place in a
// slot. An error that has no code means that something could not be read.
func ReadPlanned(path string) (*Planned, error) {
	data, err := readRegular(path, sealJSONBytes)
	if err != nil {
		return nil, err
	}
	p := &Planned{Message: data, path: path}
	if p.Seal, err = ParseSeal(data); err != nil {
		return nil, err
	}
	if len(data) != sealJSONBytes { // the rest of them are newlines, by ParseSeal
		return nil, refuse("bad-seal", "SEAL.json has %d bytes, and what is signed has %d: newlines at its end were cut off", len(data), sealJSONBytes)
	}
	files, err := signaturesBeside(path)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		sig, err := ReadSignature(file)
		if err != nil {
			return nil, err
		}
		p.Signatures = append(p.Signatures, PlannedSignature{file, sig})
	}
	slices.SortStableFunc(p.Signatures, func(a, b PlannedSignature) int {
		return strings.Compare(a.KeyID().String(), b.KeyID().String())
	})
	for i := 1; i < len(p.Signatures); i++ {
		if a, b := p.Signatures[i-1], p.Signatures[i]; a.KeyID() == b.KeyID() {
			return nil, refuse("bad-slot", "%s and %s are both signed with key %s: remove one", a.File, b.File, a.KeyID())
		}
	}
	return p, nil
}

// ReadSignature reads a detached signature that any stock tool made, and puts it into its canonical form.
// Refusal: bad-slot.
func ReadSignature(path string) (*trust.Signature, error) {
	data, err := readRegular(path, maxSignatureFile)
	if err != nil {
		return nil, err
	}
	text, err := trust.Canonical(data)
	if err != nil {
		return nil, &RefusedError{Code: "bad-slot", Detail: path, Err: err}
	}
	return trust.ParseSignature(text)
}

func (p *Planned) slots() ([][]byte, error) {
	slots := make([][]byte, slotCount)
	for i := range slots {
		var text []byte
		if i < len(p.Signatures) {
			text = p.Signatures[i].Bytes()
		}
		slot, err := trust.EncodeSlot(text)
		if err != nil {
			return nil, err
		}
		slots[i] = slot[:]
	}
	return slots, nil
}

// Texts returns the signatures for [Plan.Expect].
func (p *Planned) Texts() [][]byte {
	var texts [][]byte
	for _, s := range p.Signatures {
		texts = append(texts, s.Bytes())
	}
	return texts
}

// Authorize judges the seal and the signatures beside it as [Verify] will judge those of the image, but for how
// many there are: missing says what is still missing, "" if nothing is. A signature that would spoil the image
// is refused with the code that Verify would give, and the name of its file.
func (p *Planned) Authorize(root *trust.Root) (missing string, err error) {
	if err := checkChannel(p.Seal, root, ""); err != nil {
		return "", err
	}
	enough := func(p *Planned) (string, error) {
		slots, err := p.slots()
		if err != nil {
			return "", err
		}
		_, err = root.Authorize(p.Seal.Channel, p.Message, slots, trust.AuthorizeOptions{})
		if refused, ok := errors.AsType[*trust.RefusedError](err); ok && refused.Code == trust.CodeThreshold {
			return refused.Detail, nil
		}
		return "", err
	}
	for _, s := range p.Signatures {
		if _, err := enough(&Planned{Seal: p.Seal, Message: p.Message, Signatures: []PlannedSignature{s}}); err != nil {
			return "", judged(s.File, err)
		}
	}
	return enough(p)
}

// judged names the file of a signature, which was judged as if in slot 0.
func judged(file string, err error) error {
	refused, ok := errors.AsType[*trust.RefusedError](err)
	if !ok {
		return err
	}
	return refuse(refused.Code, "%s: %s", file, strings.TrimPrefix(err.Error(), "slot 0: "))
}

// JudgeSignature tells whether a signature for a seal, which came in a file, may go into a slot: the root must
// list its key for somebody with a part in the seal's channel, and it must be good.
func JudgeSignature(root *trust.Root, seal *Seal, message []byte, file string, sig *trust.Signature) error {
	_, err := (&Planned{Seal: seal, Message: message, Signatures: []PlannedSignature{{file, sig}}}).Authorize(root)
	return err
}

const maxSignatureFile = 64 << 10 // bytes; more than any canonical one, with room for comments and headers

// signaturesBeside lists the files that are named as signatures of the one at path are, in order.
func signaturesBeside(path string) ([]string, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var files []string
	for {
		entries, err := dir.ReadDir(256)
		for _, e := range entries {
			rest, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
			part, ok2 := signatureOf(rest)
			if !ok || !ok2 {
				continue
			}
			// SEAL.json.next.minisig belongs to SEAL.json.next.
			if _, err := os.Lstat(path + "." + part); part != "" && err == nil {
				continue
			}
			if len(files) == slotCount {
				return nil, refuse("bad-slot", "more than %d signatures lie beside %s, and a seal has no more slots: remove some", slotCount, path)
			}
			files = append(files, filepath.Join(filepath.Dir(path), e.Name()))
		}
		if err == io.EOF {
			slices.Sort(files)
			return files, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// signatureOf tells whether what follows a seal's name and a dot names a signature of it: one of the suffixes, or some
// part without a dot and a suffix.
func signatureOf(rest string) (part string, ok bool) {
	dot := strings.LastIndexByte(rest, '.')
	if dot >= 0 {
		part = rest[:dot]
	}
	switch rest[dot+1:] {
	case "minisig", "asc", "sig":
		return part, dot != 0 && !strings.Contains(part, ".")
	}
	return "", false
}

// Unsure returns the file of the first signature that only its name gives to this seal: it has a part that isn't the
// signature's key id. Without a trust root nobody can tell whether it is one of another seal. "" when there is none.
func (p *Planned) Unsure() string {
	for _, s := range p.Signatures {
		for _, suffix := range []string{".minisig", ".asc", ".sig"} {
			if name, ok := strings.CutSuffix(s.File, suffix); ok && name != p.path && name != p.path+"."+s.KeyID().String() {
				return s.File
			}
		}
	}
	return ""
}

// readRegular reads a regular file of at most limit bytes; one that is longer gives one byte more. It doesn't wait
// for a FIFO.
func readRegular(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	return io.ReadAll(io.LimitReader(f, limit+1))
}

// ReadManifest reads what a bundle says it carries, without the tree and without asking who sealed it: the
// manifest that is returned is the one whose digest stands in the seal. Refusals: those of [Inspect], and
// bad-manifest.
func ReadManifest(src Source, c *Claims) ([]Entry, error) {
	m := c.Seal.Manifest
	digest, err := parseDigest(m.SHA256)
	if err != nil {
		return nil, err
	}
	return readManifest(io.NewSectionReader(src, m.LBA*BlockSize, m.Bytes), m.Bytes, digest)
}

// ParseManifest reads a MANIFEST.json of size bytes that came without a bundle. Refusal: bad-manifest.
func ParseManifest(r io.ReaderAt, size int64) ([]Entry, error) {
	if size > MaxManifestBytes {
		return nil, refuse("bad-manifest", "MANIFEST.json of %d bytes: the limit is %d", size, MaxManifestBytes)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(r, 0, size)); err != nil {
		return nil, fmt.Errorf("read MANIFEST.json: %w", err)
	}
	return readManifest(io.NewSectionReader(r, 0, size), size, [32]byte(h.Sum(nil)))
}
