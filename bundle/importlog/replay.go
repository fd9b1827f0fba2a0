package importlog

import (
	"bytes"
	"context"
	"fmt"
	"iter"

	"golang.org/x/mod/sumdb/tlog"
)

// replay goes through a log from its first entry to the size its checkpoint gives, and rebuilds everything that
// is stored from the entries alone. What is there must be equal to it.
type replay struct {
	*store
	station string
	head    *Checkpoint
	// earlier, when not nil, is a head that the log must have had.
	earlier *Checkpoint

	edge     edge
	bundle   []byte
	lastTime int64
	state    state
}

func (r *replay) run(ctx context.Context) error {
	r.state = newState()
	size := r.head.Tree.N
	if err := r.passHead(); err != nil {
		return err
	}
	for r.edge.size < size {
		if ctx.Err() != nil {
			return fmt.Errorf("check the log: %w", context.Cause(ctx))
		}
		n, width := r.edge.size/tileWidth, int(min(tileWidth, size-r.edge.size))
		entries, data, err := r.readBundle(n, width)
		if err != nil {
			return err
		}
		var last []newTile
		for i, entry := range entries {
			if last, err = r.take(entry); err != nil {
				return &DamagedError{Path: tilePath(entryLevel, n, width), Detail: fmt.Sprintf("entry %d", n*tileWidth+int64(i)), Err: err}
			}
			if err := r.passHead(); err != nil {
				return err
			}
		}
		if width == tileWidth {
			data = nil
		}
		r.bundle = data
		if err := r.compareTiles(last); err != nil {
			return err
		}
	}
	return r.end()
}

// take judges one entry and adds it to the tree.
func (r *replay) take(data []byte) ([]newTile, error) {
	e, err := ParseEntry(data)
	if err != nil {
		return nil, err
	}
	e.Index = r.edge.size
	if e.Station != r.station {
		return nil, fmt.Errorf("it is station %q's, the log is %q's", e.Station, r.station)
	}
	if e.Time < r.lastTime {
		return nil, fmt.Errorf("time %d is before the last entry's, %d", e.Time, r.lastTime)
	}
	r.lastTime = e.Time
	next, err := r.state.after(e)
	if err != nil {
		return nil, err
	}
	next()
	return r.edge.add(tlog.RecordHash(data)), nil
}

// passHead compares the tree with the head that the caller knows, where it has that one's size.
func (r *replay) passHead() error {
	if r.earlier != nil && r.edge.size == r.earlier.Tree.N && r.edge.root() != r.earlier.Tree.Hash {
		return refuse("log-rewritten", "at the size %d the log has the root hash %v, a checkpoint signed earlier has %v", r.edge.size, r.edge.root(), r.earlier.Tree.Hash)
	}
	return nil
}

// compareTiles compares full tiles with those on disk: the ones that a bundle's last entry completed.
func (r *replay) compareTiles(tiles []newTile) error {
	for _, t := range tiles {
		if t.width() < tileWidth {
			continue
		}
		if err := r.compareTile(t); err != nil {
			return err
		}
	}
	return nil
}

func (r *replay) compareTile(t newTile) error {
	data, err := r.readTile(t.level, t.n, t.width())
	if err != nil {
		return err
	}
	if !bytes.Equal(data, t.data()) {
		return &DamagedError{Path: tilePath(t.level, t.n, t.width()), Detail: "the hashes are not those of the entries"}
	}
	return nil
}

// end compares the partial tiles and the root.
func (r *replay) end() error {
	n := r.edge.size
	for level, hashes := range r.edge.levels {
		n /= tileWidth
		if len(hashes) == 0 {
			continue
		}
		if err := r.compareTile(newTile{level, n, hashes}); err != nil {
			return err
		}
	}
	if root := r.edge.root(); root != r.head.Tree.Hash {
		return &DamagedError{Path: checkpointName, Detail: fmt.Sprintf("its root hash is %v, that of the %d entries is %v", r.head.Tree.Hash, r.edge.size, root)}
	}
	if r.earlier != nil && r.earlier.Tree.N > r.head.Tree.N {
		return refuse("log-truncated", "the log has %d entries, a checkpoint signed earlier has %d", r.head.Tree.N, r.earlier.Tree.N)
	}
	return nil
}

// Verify checks the log as it is on disk now: the checkpoint's signature, every entry, every tile and entry
// bundle against the entries, and the root hash. earlier, which may be nil, is a checkpoint of this log that was
// kept elsewhere: the log must be a continuation of it. Errors: a [*DamagedError]; a [*RefusedError] with the
// code log-rewritten or log-truncated; faults of the disk. It returns the head that was verified.
func (l *Log) Verify(ctx context.Context, earlier *Checkpoint) (*Checkpoint, error) {
	head, err := l.readCheckpoint()
	if err != nil {
		return nil, err
	}
	if earlier != nil && earlier.Origin != head.Origin {
		return nil, refuse("log-rewritten", "the earlier checkpoint is of the log %q, this one is %q", earlier.Origin, head.Origin)
	}
	r := replay{store: &l.store, station: l.station, head: head, earlier: earlier}
	if err := r.run(ctx); err != nil {
		return nil, err
	}
	return head, nil
}

// Entries goes through the entries from index from, in order. Each is proven to be in the log's head before it
// is given out. An error ends it.
func (l *Log) Entries(ctx context.Context, from int64) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		tree := l.head.Tree
		if from < 0 {
			yield(nil, fmt.Errorf("no entry %d", from))
			return
		}
		for from < tree.N {
			n := from / tileWidth
			entries, err := l.provenBundle(ctx, n)
			if err != nil {
				yield(nil, err)
				return
			}
			for ; from < n*tileWidth+int64(len(entries)); from++ {
				e, err := ParseEntry(entries[from-n*tileWidth])
				if err != nil {
					yield(nil, fmt.Errorf("entry %d: %w", from, err))
					return
				}
				e.Index = from
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// provenBundle reads an entry bundle and checks it against the tiles, and those against the head.
func (l *Log) provenBundle(ctx context.Context, n int64) ([][]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	tree := l.head.Tree
	width := int(min(tileWidth, tree.N-n*tileWidth))
	entries, _, err := l.readBundle(n, width)
	if err != nil {
		return nil, err
	}
	indexes := make([]int64, width)
	for i := range indexes {
		indexes[i] = tlog.StoredHashIndex(0, n*tileWidth+int64(i))
	}
	hashes, err := tlog.TileHashReader(tree, tileSource{&l.store}).ReadHashes(indexes)
	if err != nil {
		return nil, fmt.Errorf("entries from %d: %w", n*tileWidth, err)
	}
	for i, entry := range entries {
		if tlog.RecordHash(entry) != hashes[i] {
			return nil, &DamagedError{Path: tilePath(entryLevel, n, width), Detail: fmt.Sprintf("entry %d is not the one in the tree", n*tileWidth+int64(i))}
		}
	}
	return entries, nil
}

// entry returns one entry, proven to be in the head.
func (l *Log) entry(ctx context.Context, index int64) (*Entry, error) {
	for e, err := range l.Entries(ctx, index) {
		return e, err
	}
	return nil, fmt.Errorf("no entry %d in a log of %d", index, l.head.Tree.N)
}

// Proof returns the RFC 6962 inclusion proof of an entry in the log's head.
func (l *Log) Proof(index int64) (tlog.RecordProof, error) {
	tree := l.head.Tree
	if index < 0 || index >= tree.N {
		return nil, fmt.Errorf("no entry %d in a log of %d", index, tree.N)
	}
	p, err := tlog.ProveRecord(tree.N, index, tlog.TileHashReader(tree, tileSource{&l.store}))
	if err != nil {
		return nil, fmt.Errorf("prove entry %d: %w", index, err)
	}
	return p, nil
}
