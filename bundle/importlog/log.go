// Package importlog is the record of a station: what it prepared, burnt, let in and refused, as an append-only
// Merkle log that anyone can audit with tools for C2SP tlog-tiles (docs/format.md, section 13), and the spool
// into which nothing is released that the log hasn't recorded.
//
// # On disk
//
// A state directory holds the log in log/: the signed checkpoint, tiles of 256 hashes, and the entries in bundles
// of 256. Appending an entry writes new files only: each under another name, synced, renamed to its place, then
// the directories synced. Last the checkpoint is replaced in the same way. The checkpoint alone says how large the
// log is: what lies beyond is left from an append that wasn't finished, and is overwritten by the next one. What
// is missing or different below it is damage, a [*DamagedError], and never cut off.
//
// # In order
//
// A bundle that was verified is staged in the spool's .incoming, synced, logged as accepted by [Accept], renamed
// to its place in the spool by [Release] and logged as released. Each step is durable before the next begins, and
// a bundle that was accepted and not released is finished by importing it again.
package importlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"sallyport/bundle/canonjson"
)

const (
	logDir         = "log"
	checkpointName = "checkpoint"
)

// A Log is an open log. It isn't safe for concurrent use.
type Log struct {
	store
	station  string
	signer   note.Signer // nil for reading only
	verifier note.Verifier
	lock     *os.File // the state directory; nil for reading only

	head     *Checkpoint
	edge     edge
	bundle   []byte // the last, unfinished entry bundle
	lastTime int64
	state    state
	failed   error // why an append failed
}

// Create makes a new log in a state directory, which must exist and have none, and opens it as [Open] does.
func Create(ctx context.Context, stateDir string, signer note.Signer, verifier note.Verifier) (*Log, error) {
	return open(ctx, stateDir, signer, verifier, true, nil)
}

// Open opens the log of a state directory for appending, after checking all of it as [Log.Verify] does, and
// keeps others out until Close. signer and verifier are the station's key under the name [Origin] gives. Errors:
// [ErrLocked], a [*DamagedError], and one that is [fs.ErrNotExist] where there is no log.
func Open(ctx context.Context, stateDir string, signer note.Signer, verifier note.Verifier) (*Log, error) {
	return open(ctx, stateDir, signer, verifier, false, nil)
}

// OpenReader opens a log for reading, also while its station appends to it: it sees the log as it is now.
func OpenReader(ctx context.Context, stateDir string, verifier note.Verifier) (*Log, error) {
	return open(ctx, stateDir, nil, verifier, false, nil)
}

// open does the work of the three above; wrap, for tests, stands between the log and the disk.
func open(ctx context.Context, stateDir string, signer note.Signer, verifier note.Verifier, create bool, wrap func(fileOps) fileOps) (_ *Log, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open the log in %q: %w", stateDir, err)
		}
	}()
	l := &Log{signer: signer, verifier: verifier}
	if l.station, err = stationOf(verifier.Name()); err != nil {
		return nil, err
	}
	if signer != nil && (signer.Name() != verifier.Name() || signer.KeyHash() != verifier.KeyHash()) {
		return nil, errors.New("signer and verifier are different keys")
	}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if signer != nil {
		if l.lock, err = lockDir(stateDir); err != nil {
			return nil, err
		}
	}
	if create {
		if err := os.Mkdir(filepath.Join(stateDir, logDir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if err := l.lock.Sync(); err != nil {
			return nil, err
		}
	}
	if l.root, err = os.OpenRoot(filepath.Join(stateDir, logDir)); err != nil {
		return nil, err
	}
	l.durable = map[string]bool{}
	l.ops = diskOps{l.root}
	if wrap != nil {
		l.ops = wrap(l.ops)
	}
	if create {
		if err := l.begin(); err != nil {
			return nil, err
		}
	}
	if err := l.load(ctx); err != nil {
		return nil, err
	}
	if signer != nil {
		return l, l.settle()
	}
	return l, nil
}

// lockDir takes the lock on a directory for as long as the file is open.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, err
	}
	return f, nil
}

// begin writes the checkpoint of the empty log.
func (l *Log) begin() error {
	for _, name := range []string{checkpointName, "tile"} {
		if _, err := l.root.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(fmt.Errorf("there is a %s already", name), err)
		}
	}
	var e edge
	data, err := signCheckpoint(tlog.Tree{Hash: e.root()}, l.signer)
	if err != nil {
		return err
	}
	return l.putCheckpoint(data)
}

// load reads the checkpoint and goes through the whole log below it.
func (l *Log) load(ctx context.Context) error {
	head, err := l.readCheckpoint()
	if err != nil {
		return err
	}
	r := replay{store: &l.store, station: l.station, head: head}
	if err := r.run(ctx); err != nil {
		return err
	}
	l.head, l.edge, l.bundle, l.lastTime, l.state = head, r.edge, r.bundle, r.lastTime, r.state
	return nil
}

func (l *Log) readCheckpoint() (*Checkpoint, error) {
	data, err := l.read(checkpointName, maxCheckpointBytes)
	if err != nil {
		return nil, err
	}
	head, err := ParseCheckpoint(data, l.verifier)
	if err != nil {
		return nil, &DamagedError{Path: checkpointName, Detail: "not a checkpoint that this station signed", Err: err}
	}
	return head, nil
}

// settle makes what was read durable before anyone acts on it: a rename that the last run didn't come to sync is
// seen now, and could still be undone by a power cut. So the checkpoint is written anew. It also removes partial
// tiles that the last run left behind a full one.
func (l *Log) settle() error {
	if err := l.putCheckpoint(l.head.Note); err != nil {
		return err
	}
	for level, n := 0, l.head.Tree.N/tileWidth; n > 0; level, n = level+1, n/tileWidth {
		l.dropPartials(level, n-1)
	}
	return nil
}

func (l *Log) putCheckpoint(data []byte) error {
	if err := l.put(checkpointName, data); err != nil {
		return err
	}
	return l.ops.syncDir(".")
}

// dropPartials removes the partial forms of a full tile, which the specification allows. Nothing hangs on it.
func (l *Log) dropPartials(level int, n int64) {
	_ = l.ops.removeAll(tilePath(level, n, tileWidth) + ".p")
	if level == 0 {
		_ = l.ops.removeAll(tilePath(entryLevel, n, tileWidth) + ".p")
	}
}

// Close lets go of the log and of the state directory's lock.
func (l *Log) Close() error {
	var err error
	if l.root != nil {
		err = l.root.Close()
	}
	if l.lock != nil {
		err = errors.Join(err, l.lock.Close())
	}
	return err
}

// Station returns the name of the station whose log it is.
func (l *Log) Station() string { return l.station }

// Head returns the log's checkpoint. Not to be changed.
func (l *Log) Head() *Checkpoint { return l.head }

// LogPrepared records that a bundle was made here; seal is its SEAL.json, with or without newlines at its end.
func (l *Log) LogPrepared(seal []byte, now time.Time) (index int64, err error) {
	seal = trimNewlines(seal)
	if _, _, err := parseSeal(seal); err != nil {
		return 0, fmt.Errorf("prepare entry: %w", err)
	}
	return l.append(&PrepareEntry{Kind: KindPrepare, Seal: seal, Station: l.station, Time: l.clock(now), Type: entryType})
}

// LogBurnBegins records that a disc is about to be burnt, and returns its number: one more than the largest in the
// log. Before a burn, so that a number is never used again, also when the machine stops in the middle.
func (l *Log) LogBurnBegins(sealDigest string, now time.Time) (number int64, err error) {
	number = l.state.lastDisc + 1
	_, err = l.append(&BeginEntry{DiscNumber: number, Kind: KindBegin, SealDigest: sealDigest, Station: l.station, Time: l.clock(now), Type: entryType})
	return number, err
}

// LogBurned records what became of a burn; record is its burn record, an object in canonical JSON, with or without the
// newline at its end.
func (l *Log) LogBurned(sealDigest string, record []byte, now time.Time) (index int64, err error) {
	record = trimNewlines(record)
	if err := canonicalObject(record); err != nil {
		return 0, fmt.Errorf("burn entry: record: %w", err)
	}
	return l.append(&BurnEntry{Kind: KindBurn, Record: record, SealDigest: sealDigest, Station: l.station, Time: l.clock(now), Type: entryType})
}

// LogEnrolled records that a stick was made what its enrolment says, an object in canonical JSON, with or without the
// newline at its end.
func (l *Log) LogEnrolled(record []byte, now time.Time) (index int64, err error) {
	record = trimNewlines(record)
	if err := canonicalObject(record); err != nil {
		return 0, fmt.Errorf("enrol entry: record: %w", err)
	}
	return l.append(&EnrolEntry{Kind: KindEnrol, Record: record, Station: l.station, Time: l.clock(now), Type: entryType})
}

// LogWritten records what became of writing a bundle to a stick; record is its write record, an object in canonical JSON,
// with or without the newline at its end.
func (l *Log) LogWritten(sealDigest string, record []byte, now time.Time) (index int64, err error) {
	record = trimNewlines(record)
	if err := canonicalObject(record); err != nil {
		return 0, fmt.Errorf("write entry: record: %w", err)
	}
	return l.append(&WriteEntry{Kind: KindWrite, Record: record, SealDigest: sealDigest, Station: l.station, Time: l.clock(now), Type: entryType})
}

// LogDelivered records what became of copying a release, which stands at path in the spool, to a stick; record is its
// delivery record, an object in canonical JSON, with or without the newline at its end.
func (l *Log) LogDelivered(path, sealDigest string, record []byte, now time.Time) (index int64, err error) {
	e := &DeliverEntry{Kind: KindDeliver, Path: path, Record: trimNewlines(record), SealDigest: sealDigest, Station: l.station, Time: l.clock(now), Type: entryType}
	if err := e.check(); err != nil {
		return 0, fmt.Errorf("deliver entry: %w", err)
	}
	return l.append(e)
}

// A Refusal is something that was not let in.
type Refusal struct {
	Code   string // of lower-case letters, digits and hyphens
	Detail string // any bytes, the log escapes and cuts them
	Source string // where it came from: a path, a device; any bytes

	// What is known of the seal once enough people's signatures are good; else empty.
	Channel    string
	SealDigest string
	Sequence   int64
}

// LogRefused records a refusal.
func (l *Log) LogRefused(r Refusal, now time.Time) (index int64, err error) {
	return l.append(&RefuseEntry{
		Channel: r.Channel, Code: r.Code, Detail: escape(r.Detail), Kind: KindRefuse, SealDigest: r.SealDigest, Sequence: r.Sequence,
		Source: escape(r.Source), Station: l.station, Time: l.clock(now), Type: entryType,
	})
}

// clock returns now in seconds, or the last entry's time where the clock was set back behind it.
func (l *Log) clock(now time.Time) int64 {
	return max(now.Unix(), l.lastTime, 0)
}

// append adds one entry; when it returns without an error the entry is durable. After an error it isn't known
// what is on disk, so nothing more is appended: least of all is a sync tried again, which after a failure may
// succeed without anything having been written.
func (l *Log) append(v any) (index int64, err error) {
	switch {
	case l.signer == nil:
		return 0, ErrReadOnly
	case l.failed != nil:
		return 0, fmt.Errorf("%w (%w)", ErrFailed, l.failed)
	}
	data, err := canonjson.Encode(v)
	if err != nil {
		return 0, fmt.Errorf("log entry: %w", err)
	}
	e, err := ParseEntry(data)
	if err != nil {
		return 0, err
	}
	e.Index = l.head.Tree.N
	next, err := l.state.after(e)
	if err != nil {
		return 0, err
	}
	if err := l.write(e); err != nil {
		l.failed = err
		return 0, fmt.Errorf("append to the log: %w", err)
	}
	next()
	l.lastTime = e.Time
	return e.Index, nil
}

func (l *Log) write(e *Entry) error {
	grown := l.edge.clone()
	tiles := grown.add(tlog.RecordHash(e.JSON))
	bundle := appendEntry(slices.Clone(l.bundle), e.JSON)
	head := &Checkpoint{Origin: l.head.Origin, Tree: tlog.Tree{N: grown.size, Hash: grown.root()}}
	var err error
	if head.Note, err = signCheckpoint(head.Tree, l.signer); err != nil {
		return err
	}

	written, err := l.writeTiles(tiles, bundle)
	if err != nil {
		// The checkpoint doesn't cover them; their space is given back as far as that is possible.
		for _, name := range written {
			_ = l.ops.removeAll(name)
		}
		return err
	}
	if err := l.putCheckpoint(head.Note); err != nil {
		return err
	}

	for _, t := range tiles {
		if t.width() == tileWidth {
			l.dropPartials(t.level, t.n)
		}
	}
	if tiles[0].width() == tileWidth {
		bundle = nil
	}
	l.head, l.edge, l.bundle = head, grown, bundle
	return nil
}

// writeTiles writes an entry bundle and the tiles that came with its last entry, and syncs their directories.
func (l *Log) writeTiles(tiles []newTile, bundle []byte) (written []string, err error) {
	put := func(name string, data []byte) error {
		written = append(written, name)
		return l.put(name, data)
	}
	if err := put(tilePath(entryLevel, tiles[0].n, tiles[0].width()), bundle); err != nil {
		return written, err
	}
	for _, t := range tiles {
		if err := put(tilePath(t.level, t.n, t.width()), t.data()); err != nil {
			return written, err
		}
	}
	for _, name := range written {
		if err := l.ops.syncDir(filepath.Dir(name)); err != nil {
			return written, err
		}
	}
	return written, nil
}

func trimNewlines(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return b
}
