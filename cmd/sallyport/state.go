package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/bundle"
	"sallyport/bundle/importlog"
	"sallyport/bundle/trust"
)

// Files of a state directory, beside log/.
const (
	stationKeyName = "station.key"
	stateTrustName = "trust.json"
	checkpointName = "log/checkpoint"
)

// state is a station's opened state directory. Close it when done.
type state struct {
	log     *importlog.Log
	station trust.Station
	root    *trust.Root
	claims  *bundle.Claims // of the bundle at hand, once enough people's signatures are good
}

func (s *state) Close() error { return s.log.Close() }

// createState makes a state directory for the station whose secret key is in keyFile, with an empty log. It
// appears complete or not at all.
func createState(dir, keyFile string, root *trust.Root) (err error) {
	data, err := readSmall(keyFile)
	if err != nil {
		return err
	}
	key, station, err := stationOf(data, keyFile, root.Stations())
	if err != nil {
		return err
	}
	part, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".*")
	if err != nil {
		return writing(dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(part))
		}
	}()
	if err := writeNew(filepath.Join(part, stationKeyName), key.Encode(), 0o600); err != nil {
		return err
	}
	if err := writeNew(filepath.Join(part, stateTrustName), root.Bytes(), 0o644); err != nil {
		return err
	}
	log, err := openLog(context.Background(), part, key, station, importlog.Create)
	if err != nil {
		return err
	}
	if err := log.Close(); err != nil {
		return err
	}
	// An empty directory may be there, and is replaced. (os.Rename would refuse.)
	switch err := unix.Rename(part, dir); {
	case err == unix.ENOTEMPTY && isState(dir): // somebody else was faster
		return os.RemoveAll(part)
	case err == unix.ENOTEMPTY || err == unix.EEXIST || err == unix.ENOTDIR:
		return usagef("%s is there, isn't empty, and is no state directory: name another one", dir)
	case err != nil:
		return fmt.Errorf("make the state directory %s: %w", dir, err)
	}
	return syncDir(filepath.Dir(dir))
}

// stationOf finds out which of the trust root's stations has the secret key.
func stationOf(keyData []byte, keyFile string, stations []trust.Station) (*trust.SecretKey, trust.Station, error) {
	key, err := trust.ParseSecretKey(keyData)
	if errors.Is(err, trust.ErrNeedsPassword) {
		return nil, trust.Station{}, usagef("%s has a password; a station's key has none (sallyport key generate --no-password)", keyFile)
	}
	if err != nil {
		return nil, trust.Station{}, usagef("%s: %v", keyFile, err)
	}
	for _, station := range stations {
		if station.Key.Public == key.Public() {
			return key, station, nil
		}
	}
	return nil, trust.Station{}, usagef("%s: key %s belongs to no station of the trust root", keyFile, key.Public().KeyID())
}

// stationKeyFlag goes with --state where a state directory can be made.
type stationKeyFlag struct {
	StationKey string `help:"Make the state directory first, for the station with this secret key." placeholder:"FILE"`
}

// openOrMakeState opens a state directory, and makes it first when it isn't there and a station's key was given.
func (e *env) openOrMakeState(dir, keyFile string, root *trust.Root) (*state, error) {
	if keyFile == "" {
		return e.openState(dir, root)
	}
	if _, err := os.Lstat(filepath.Join(dir, stationKeyName)); err != nil {
		if err := createState(dir, keyFile, root); err != nil {
			return nil, err
		}
		return e.openState(dir, root)
	}
	data, err := readSmall(keyFile)
	if err != nil {
		return nil, err
	}
	key, _, err := stationOf(data, keyFile, root.Stations())
	if err != nil {
		return nil, err
	}
	st, err := e.openState(dir, root)
	if err == nil && st.station.Key.Public != key.Public() {
		return nil, errors.Join(usagef("%s was made with another key than %s: leave --station-key out, or name another state directory", dir, keyFile), st.Close())
	}
	return st, err
}

// openState opens a state directory for appending to its log.
func (e *env) openState(dir string, root *trust.Root) (*state, error) {
	keyFile := filepath.Join(dir, stationKeyName)
	data, err := readSmall(keyFile)
	if err != nil {
		return nil, noState(dir, err)
	}
	key, station, err := stationOf(data, keyFile, root.Stations())
	if err != nil {
		return nil, explainKey(dir, err)
	}
	log, err := openLog(e.ctx, dir, key, station, importlog.Open)
	if err != nil {
		return nil, explainLog(dir, station, root.Stations(), err)
	}
	return &state{log: log, station: station, root: root}, nil
}

// statedStations are the stations that a state directory's own trust root lists.
func statedStations(dir string) []trust.Station {
	data, err := readSmall(filepath.Join(dir, stateTrustName))
	if err != nil {
		return nil
	}
	document, err := trust.Parse(data)
	if err != nil {
		return nil
	}
	return document.Stations
}

// explainKey says more of err, which is that the key in a state directory belongs to no station of the trust root,
// when the trust root that the directory was made with lists it.
func explainKey(dir string, err error) error {
	keyFile := filepath.Join(dir, stationKeyName)
	if data, readErr := readSmall(keyFile); readErr == nil {
		if _, station, ownErr := stationOf(data, keyFile, statedStations(dir)); ownErr == nil {
			return usagef("%s is of station %s with key %s, and the trust root that was given lists no station with that key: give the trust root it was made with, or one that follows it, or name another state directory", dir, station.Name, station.Key.Public.KeyID())
		}
	}
	return err
}

// explainLog tells a log that isn't this station's from one that is damaged: its checkpoint is good for the station that
// it names, with the key that this station or one of the trust roots at hand has for it. Otherwise it returns err.
func explainLog(dir string, station trust.Station, stations []trust.Station, err error) error {
	damaged, ok := errors.AsType[*importlog.DamagedError](err)
	if !ok || damaged.Path != filepath.Base(checkpointName) {
		return err
	}
	data, readErr := readSmall(filepath.Join(dir, checkpointName))
	if readErr != nil {
		return err
	}
	origin, _, _ := strings.Cut(string(data), "\n")
	keys := []trust.PublicKey{station.Key.Public}
	for _, other := range append(slices.Clone(stations), statedStations(dir)...) {
		if importlog.Origin(other.Name) == origin {
			keys = append(keys, other.Key.Public)
		}
	}
	for _, key := range keys {
		verifier, keyErr := key.NoteVerifier(origin)
		if keyErr != nil {
			continue
		}
		if _, parseErr := importlog.ParseCheckpoint(data, verifier); parseErr == nil {
			return usagef("the log in %s is %s's with key %s, and by the trust root this station is %s with key %s: give the trust root that the log was made with, or name another state directory",
				dir, strings.TrimPrefix(origin, importlog.Origin("")), key.KeyID(), station.Name, station.Key.Public.KeyID())
		}
	}
	return err
}

// isState tells whether a directory has been made a station's state.
func isState(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, stationKeyName))
	return err == nil
}

func noState(dir string, err error) error {
	if errors.As(err, new(*usageError)) {
		return usagef("%s is no state directory; prepare, burn and import make one when --station-key KEY is given", dir)
	}
	return err
}

// verify verifies a bundle for this station: whom it is for, and whether it is fresh, too.
func (s *state) verify(e *env, src *source, opt bundle.VerifyOptions, gapReason string) (*bundle.Verified, error) {
	opt.Station = s.station.Name
	fresh := s.log.Fresh(s.root, e.now(), gapReason)
	opt.Fresh = func(c *bundle.Claims) error {
		s.claims = c
		return adviseGap(s.root, c.Seal.Channel, fresh(c))
	}
	return bundle.Verify(e.ctx, src.Source, s.root, opt)
}

// adviseGap tells how a gap can be let pass, when the channel leaves that to an operator.
func adviseGap(root *trust.Root, name string, err error) error {
	channel, _ := root.Channel(name)
	refused, ok := errors.AsType[*importlog.RefusedError](err)
	switch {
	case !ok || refused.Code != "gap":
		return err
	case channel.Gaps == trust.GapsReason:
		return &adviceError{"import what is missing first, or say with --gap-reason TEXT why this one may come in without it", err}
	default:
		return &adviceError{"import what is missing first: this channel lets no gap pass", err}
	}
}

// refused notes a refusal in the log and returns it, with what else went wrong.
func (s *state) refused(e *env, source string, err error) error {
	_, ref := classify(e.ctx, err)
	if ref == nil {
		return err
	}
	r := importlog.Refusal{Code: ref.Code, Detail: ref.Detail, Source: source}
	if s.claims != nil {
		r.Channel, r.Sequence, r.SealDigest = s.claims.Seal.Channel, s.claims.Seal.Sequence, fmt.Sprintf("%x", s.claims.Digest())
	}
	if _, logErr := s.log.LogRefused(r, e.now()); logErr != nil {
		return &unloggedError{refused: err, log: logErr}
	}
	return err
}

// logPreparation notes a new bundle in the log of the preparing station.
func (s *state) logPreparation(e *env, seal *bundle.Seal) error {
	message, err := seal.Encode()
	if err != nil {
		return err
	}
	_, err = s.log.LogPrepared(message, e.now())
	return err
}
