// Package enrol keeps which sticks a station has wiped and tested, and what each of them is for. An enrolment is a
// record under the station's signature in a directory of the station's, never on the stick: what a stick says of
// itself can be forged, so an enrolment tells a stick from those that were never through a wipe here, and a stick that
// answers otherwise than the one that was wiped; it doesn't tell a perfect forgery.
package enrol

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/bundle/canonjson"
	"sallyport/bundle/trust"
)

// Use is what a stick is for.
type Use string

// Uses.
const (
	Carrier  Use = "carrier"  // takes bundles, raw
	Delivery Use = "delivery" // takes a release out, as files
	Key      Use = "key"      // holds a signer's encrypted key
)

// Identity is what a stick says of itself. It has fields in the order of their JSON names, as all records here.
type Identity struct {
	BlockSize  int    `json:"block_size"` // bytes
	Descriptor string `json:"descriptor"` // SHA-256 of its USB descriptors, hex; "" where it isn't on USB
	Product    string `json:"product"`
	Revision   string `json:"revision"`
	Serial     string `json:"serial"`
	Size       int64  `json:"size"` // bytes
	Vendor     string `json:"vendor"`
}

// ID names the identity: 32 hexadecimal digits, the first half of the SHA-256 of its canonical JSON. The error is that
// of texts that aren't UTF-8.
func (i Identity) ID() (string, error) {
	text, err := canonjson.Encode(i)
	if err != nil {
		return "", fmt.Errorf("identity of a stick: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16]), nil
}

// Volume is the file system that was made on a stick.
type Volume struct {
	Kind   string `json:"kind"` // "fat32", "exfat", "ext4"
	Label  string `json:"label"`
	Serial string `json:"serial"` // its number or UUID, as blkid shows it
}

// Record says that a station has wiped and tested a stick, and made it what it is to be.
type Record struct {
	Capacity string   `json:"capacity"` // how its size was tested: "quick", "strict"
	Created  int64    `json:"created"`  // Unix seconds
	Erasure  string   `json:"erasure"`  // SHA-256 of the erasure record, hex
	Medium   Identity `json:"medium"`
	Station  string   `json:"station"`
	Type     string   `json:"type"` // "sallyport-enrolment"
	Use      Use      `json:"use"`
	Version  int      `json:"version"` // 1
	Volume   *Volume  `json:"volume"`  // null: none
}

const (
	recordType    = "sallyport-enrolment"
	recordVersion = 1
	maxRecord     = 64 << 10 // bytes of a record
	maxSignature  = 8 << 10
	maxText       = 1024  // bytes of each text in it
	maxStored     = 10000 // enrolments that are looked through
)

var (
	digestForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
	idForm     = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// Bytes is the record as it is signed and kept.
func (r *Record) Bytes() ([]byte, error) {
	kept := *r
	kept.Type, kept.Version = recordType, recordVersion
	if err := kept.check(); err != nil {
		return nil, err
	}
	return canonjson.Encode(kept)
}

// Parse reads a record and refuses what Bytes doesn't give.
func Parse(data []byte) (*Record, error) {
	r := new(Record)
	if err := canonjson.Decode(data, r, maxRecord); err != nil {
		return nil, fmt.Errorf("enrolment: %w", err)
	}
	if r.Type != recordType || r.Version != recordVersion {
		return nil, fmt.Errorf("enrolment: type %q, version %d; want %q, version %d", r.Type, r.Version, recordType, recordVersion)
	}
	return r, r.check()
}

func (r *Record) check() error {
	m := r.Medium
	texts := []string{m.Product, m.Revision, m.Serial, m.Vendor, r.Station}
	if r.Volume != nil {
		texts = append(texts, r.Volume.Kind, r.Volume.Label, r.Volume.Serial)
	}
	for _, text := range texts {
		if len(text) > maxText {
			return fmt.Errorf("enrolment: a text of %d bytes, at most %d", len(text), maxText)
		}
	}
	switch {
	case r.Use != Carrier && r.Use != Delivery && r.Use != Key:
		return fmt.Errorf("enrolment: use %q", r.Use)
	case (r.Use == Carrier) != (r.Volume == nil):
		return fmt.Errorf("enrolment: a %s stick, and its file system is %+v", r.Use, r.Volume)
	case r.Capacity != "quick" && r.Capacity != "strict":
		return fmt.Errorf("enrolment: capacity tested %q", r.Capacity)
	case !digestForm.MatchString(r.Erasure):
		return fmt.Errorf("enrolment: digest of the erasure record %q", r.Erasure)
	case m.Descriptor != "" && !digestForm.MatchString(m.Descriptor):
		return fmt.Errorf("enrolment: digest of the descriptors %q", m.Descriptor)
	case m.BlockSize != 512 && m.BlockSize != 4096, m.Size <= 0, m.Size > canonjson.MaxInt, m.Size%int64(m.BlockSize) != 0:
		return fmt.Errorf("enrolment: %d bytes in blocks of %d", m.Size, m.BlockSize)
	case r.Created < 0 || r.Created > canonjson.MaxInt:
		return fmt.Errorf("enrolment: time %d", r.Created)
	}
	return nil
}

// Codes of refusals.
const (
	CodeNotEnrolled = "not-enrolled"     // this station never made the stick what it is to be
	CodeForged      = "enrolment-forged" // the station's signature isn't on the record
	CodeChanged     = "medium-changed"   // a stick with this serial number was enrolled, and answered otherwise
	CodeUse         = "wrong-use"        // it is enrolled for something else
)

// RefusedError says that a stick isn't what it would have to be.
type RefusedError struct {
	Code   string
	Detail string
	Err    error // the cause, or nil
}

func (e *RefusedError) Error() string {
	if e.Err != nil {
		return e.Detail + ": " + e.Err.Error()
	}
	return e.Detail
}

// RefusalCode returns Code.
func (e *RefusedError) RefusalCode() string { return e.Code }

func (e *RefusedError) Unwrap() error { return e.Err }

// Files of an enrolment, in a directory that has its ID for a name.
const (
	RecordName    = "enrolment.json"
	SignatureName = "enrolment.json.minisig"
	ErasureName   = "erasure.json"
	PageName      = "erasure.html"
)

// Add signs a record with a station's key and keeps it in dir, which nobody else may be adding to, with the record of the erasure and its page to print. It
// stands there whole or not at all, and in place of an earlier one of the same stick; when Add returns it is synced.
// The digest of the erasure record is filled in.
func Add(dir string, r *Record, erasure, page []byte, key *trust.SecretKey) (err error) {
	r.Erasure = fmt.Sprintf("%x", sha256.Sum256(erasure))
	text, err := r.Bytes()
	if err != nil {
		return err
	}
	id, err := r.Medium.ID()
	if err != nil {
		return err
	}
	signature, err := trust.Sign(key, text, "sallyport enrolment of a "+string(r.Use)+" stick", time.Unix(r.Created, 0))
	if err != nil {
		return fmt.Errorf("sign the enrolment: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("enrol: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".part-*")) // by a power cut
	if err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	for _, name := range left {
		if err := os.RemoveAll(name); err != nil {
			return fmt.Errorf("enrol: %w", err)
		}
	}
	part, err := os.MkdirTemp(dir, ".part-")
	if err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	defer func() {
		if e := os.RemoveAll(part); err == nil && e != nil {
			err = fmt.Errorf("enrol: %w", e)
		}
	}()
	for _, f := range []struct {
		name string
		data []byte
	}{{RecordName, text}, {SignatureName, signature}, {ErasureName, erasure}, {PageName, page}} {
		if err := write(filepath.Join(part, f.name), f.data); err != nil {
			return fmt.Errorf("enrol: %w", err)
		}
	}
	if err := syncDir(part); err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	place := filepath.Join(dir, id)
	// The older one, if there is any, comes to where part was, and is removed.
	err = unix.Renameat2(unix.AT_FDCWD, part, unix.AT_FDCWD, place, unix.RENAME_EXCHANGE)
	if err == unix.ENOENT {
		err = unix.Rename(part, place)
	}
	if err != nil {
		return fmt.Errorf("enrol: %s: %w", place, err)
	}
	return syncDir(dir)
}

// Withdraw ends what enrolment there is of a stick; when it returns that is synced. It is no error if there is none.
func Withdraw(dir string, m Identity) error {
	id, err := m.ID()
	if err != nil {
		return err
	}
	gone := filepath.Join(dir, ".part-withdrawn-"+id)
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("withdraw an enrolment: %w", err)
	}
	switch err := os.Rename(filepath.Join(dir, id), gone); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("withdraw an enrolment: %w", err)
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("withdraw an enrolment: %w", err)
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("withdraw an enrolment: %w", err)
	}
	return nil
}

// Find returns the record of a stick that a station has enrolled for a use. Errors: *RefusedError, and those of reading.
func Find(dir string, m Identity, use Use, station trust.Station) (*Record, error) {
	id, err := m.ID()
	if err != nil {
		return nil, err
	}
	r, err := read(dir, id, station)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, notFound(dir, m, use, station)
	case err != nil:
		return nil, err
	case r.Medium != m: // its directory's name says so, and it isn't
		return nil, &RefusedError{Code: CodeForged, Detail: "the enrolment " + id + " is another stick's"}
	case r.Use != use:
		return nil, &RefusedError{Code: CodeUse, Detail: fmt.Sprintf("the stick is enrolled as a %s stick, not as a %s stick: sallyport format --use %s makes it one", r.Use, use, use)}
	}
	return r, nil
}

// read reads one enrolment.
func read(dir, id string, station trust.Station) (*Record, error) {
	text, err := readSmall(filepath.Join(dir, id, RecordName), maxRecord)
	if err != nil {
		return nil, err
	}
	signature, err := readSmall(filepath.Join(dir, id, SignatureName), maxSignature)
	if err != nil {
		return nil, err
	}
	forged := func(err error) error {
		return &RefusedError{Code: CodeForged, Detail: "the enrolment " + id + " isn't signed by " + station.Name, Err: err}
	}
	sig, err := trust.ParseSignature(signature)
	if err != nil {
		return nil, forged(err)
	}
	if err := trust.Verify(station.Key.Public, text, sig); err != nil {
		return nil, forged(err)
	}
	r, err := Parse(text)
	if err != nil {
		return nil, forged(err)
	}
	if r.Station != station.Name {
		return nil, forged(fmt.Errorf("it names %q", r.Station))
	}
	return r, nil
}

// notFound says whether a stick with the same serial number is enrolled.
func notFound(dir string, m Identity, use Use, station trust.Station) error {
	refused := &RefusedError{Code: CodeNotEnrolled, Detail: fmt.Sprintf("this station has not enrolled the stick: sallyport format --use %s wipes and enrols it", use)}
	if m.Serial == "" {
		return refused
	}
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return refused
	}
	if err != nil {
		return err
	}
	defer d.Close()
	names, _ := d.Readdirnames(maxStored) // as far as they can be read: they only explain
	for _, name := range names {
		if !idForm.MatchString(name) {
			continue
		}
		if r, err := read(dir, name, station); err == nil && r.Medium.Serial == m.Serial && r.Medium.Vendor == m.Vendor && r.Medium.Product == m.Product {
			return &RefusedError{Code: CodeChanged, Detail: fmt.Sprintf("a stick with the serial number %q is enrolled, and said other things of itself then (%d bytes, descriptors %.8s…; now %d, %.8s…)",
				m.Serial, r.Medium.Size, r.Medium.Descriptor, m.Size, m.Descriptor)}
		}
	}
	return refused
}

func readSmall(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", name, limit)
	}
	data := make([]byte, info.Size())
	if _, err := f.ReadAt(data, 0); err != nil && len(data) > 0 {
		return nil, err
	}
	return data, nil
}

func write(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
