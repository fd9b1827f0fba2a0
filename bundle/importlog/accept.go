package importlog

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// imported is what the log needs of a verified bundle.
type imported struct {
	seal    []byte   // SEAL.json, with or without newlines at its end
	digest  [32]byte // the seal digest
	expires int64
	signers []Signer
	policy  Policy
	repair  *Repair
}

// AcceptOptions go with [Accept].
type AcceptOptions struct {
	// Now is the time of acceptance.
	Now time.Time
	// GapReason is why an operator lets a gap in the channel pass; empty: he doesn't.
	GapReason string
}

// accept logs that a bundle was verified and may be released, once its payload is staged durably. A bundle that
// was accepted before and not released gets the receipt of its entry again.
func accept(ctx context.Context, l *Log, b imported, st *Staging, opt AcceptOptions) (*Receipt, error) {
	seal, digest, err := parseSeal(trimNewlines(b.seal))
	if err != nil {
		return nil, fmt.Errorf("accept: %w", err)
	}
	if digest != b.digest || st.digest != digest {
		return nil, fmt.Errorf("accept: the seal's digest is %x, the bundle's %x, that of what is staged %x", digest, b.digest, st.digest)
	}
	hexDigest := hex.EncodeToString(digest[:])
	c := Candidate{Channel: seal.Channel, Expires: b.expires, Previous: seal.Previous, SealDigest: hexDigest, Sequence: seal.Sequence}
	gap, err := l.checkFresh(c, b.policy, opt.Now, opt.GapReason)
	if err != nil {
		return nil, err
	}
	if err := st.finish(); err != nil {
		return nil, err
	}
	if a, ok := l.state.accepted[hexDigest]; ok {
		e, err := l.entry(ctx, a.index)
		if err != nil {
			return nil, err
		}
		return l.receipt(e)
	}
	// What stands there would be replaced by a release that is taken up again: that must be one of ours.
	switch _, err := st.spool.root.Lstat(seal.releasePath()); {
	case err == nil:
		return nil, fmt.Errorf("accept: the spool has a %q that this log knows nothing of", seal.releasePath())
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("accept: look for %q in the spool: %w", seal.releasePath(), err)
	}
	entry := &AcceptEntry{
		Kind: KindAccept, Repaired: b.repair, Seal: trimNewlines(b.seal), SealDigest: hexDigest, Signers: slices.Clone(b.signers),
		Station: l.station, Time: l.clock(opt.Now), Type: entryType,
	}
	slices.SortStableFunc(entry.Signers, func(x, y Signer) int { return strings.Compare(x.Holder, y.Holder) })
	if gap {
		entry.GapReason = escape(opt.GapReason)
	}
	index, err := l.append(entry)
	if err != nil {
		return nil, err
	}
	e, err := l.entry(ctx, index)
	if err != nil {
		return nil, err
	}
	return l.receipt(e)
}

// Release moves an accepted bundle to its place in the spool, CHANNEL/SEQUENCE-ID, by one rename, makes that
// durable, and logs it. It returns that path. The staging is closed then.
//
// When something stands there already, and the log says that the bundle was accepted and not released, a run was
// cut off between the rename and its log entry. What is staged is then exchanged with what stands there, in one
// step too, so that what was verified last is what is released; what stood there is removed.
func Release(ctx context.Context, r *Receipt, st *Staging, now time.Time) (released string, err error) {
	if err := st.usable(); err != nil {
		return "", err
	}
	l := r.log
	a, ok := l.state.accepted[r.SealDigest]
	switch {
	case hex.EncodeToString(st.digest[:]) != r.SealDigest || !ok || a.index != r.Index:
		return "", errors.New("release: the receipt is not for what is staged")
	case a.released:
		return "", refuse("already-imported", "the bundle of entry %d was released as %s", a.index, a.path)
	case !st.durable:
		return "", errors.New("release: the staging isn't finished")
	case l.failed != nil:
		return "", fmt.Errorf("release: %w (%w)", ErrFailed, l.failed)
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	}
	if err := st.move(a.path); err != nil {
		return "", fmt.Errorf("release as %q: %w", a.path, err)
	}
	if _, err := l.append(&ReleaseEntry{Kind: KindRelease, Path: a.path, SealDigest: r.SealDigest, Station: l.station, Time: l.clock(now), Type: entryType}); err != nil {
		return "", err
	}
	return a.path, nil
}

// move renames what is staged to its place and makes that durable.
func (st *Staging) move(to string) error {
	s := st.spool
	channel, base := path.Split(to)
	channel = path.Clean(channel)
	if err := s.root.Mkdir(channel, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Never through a symlink: a channel's folder is a folder of the spool.
	if info, err := s.root.Lstat(channel); err != nil || !info.IsDir() {
		return errors.Join(fmt.Errorf("%q is not a directory", channel), err)
	}
	if err := s.ops.fsync(s.dir); err != nil {
		return err
	}
	dir, err := s.root.Open(channel)
	if err != nil {
		return err
	}
	defer dir.Close()
	exchanged, err := st.rename(dir, base)
	if err != nil {
		return err
	}
	// What may have been lacking for the move is taken back, through the directory that was moved.
	if err := st.dir.Chmod(st.dirs[0].mode); err != nil {
		return err
	}
	for _, f := range []*os.File{st.dir, dir, s.in} {
		if err := s.ops.fsync(f); err != nil {
			return err
		}
	}
	if exchanged {
		return st.Discard()
	}
	st.close()
	return nil
}

func (st *Staging) rename(dir *os.File, base string) (exchanged bool, err error) {
	s := st.spool
	from, to := int(s.in.Fd()), int(dir.Fd())
	err = s.ops.rename(from, st.name, to, base, unix.RENAME_NOREPLACE)
	if !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	// To be moved, a directory must be writable for all but root.
	var info unix.Stat_t
	if err := unix.Fstatat(to, base, &info, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	if info.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false, errors.New("something that is no directory stands there")
	}
	if err := unix.Fchmodat(to, base, info.Mode&0o777|ownerMayMove, 0); err != nil {
		return false, err
	}
	return true, s.ops.rename(from, st.name, to, base, unix.RENAME_EXCHANGE)
}
