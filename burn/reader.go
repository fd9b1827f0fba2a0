package burn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// ReadOptions of OpenDisc. The zero value is good.
type ReadOptions struct {
	// Patience bounds how long the drive may lag behind 0.1 MB/s before
	// reading is given up with ErrTooSlow; 0: 5 minutes.
	Patience time.Duration
}

// DiscReader reads a finished disc through READ(10), as an io.ReaderAt over
// all that the drive says it can read. It may be used from several goroutines;
// the drive serves them one after another.
//
// A block that can't be read ends a read with a *ReadError that names it, after
// slower re-reads (O8); what stands before it is returned. Other blocks can
// still be read. When the drive goes, is reset, has its disc changed, doesn't
// answer in time or becomes too slow (O11, T11), that error ends this read and
// all later ones.
type DiscReader struct {
	ctx    context.Context
	u      *unit
	size   int64 // bytes
	pace   *pace
	medium MediumInfo
	drive  DriveInfo

	mu      sync.Mutex
	dead    error // ends all reading
	next    uint32
	windows [8]window
	tick    uint64
}

// window is a cached piece of the disc, packet blocks from a multiple of
// packet on.
type window struct {
	lba  uint32
	used uint64 // tick of the last use; 0: empty
	data []byte
	bad  map[uint32]error // blocks that can't be read
}

// OpenDisc waits for the disc in drive to be ready and opens it for reading. It
// refuses (with a *RefusedError) what isn't exactly one session with one track,
// complete, of data, on a CD-R, DVD-R, DVD+R or BD-R (or what a drive that only
// reads takes for a ROM): see the Code constants. ctx ends all reading; it is looked at between commands. The
// tray stays locked until Close.
func OpenDisc(ctx context.Context, drive Drive, o ReadOptions) (*DiscReader, error) {
	return openDisc(ctx, &unit{Drive: drive}, o.Patience)
}

const neededToRead = "a finished CD-R, DVD-R, DVD+R or BD-R"

func openDisc(ctx context.Context, u *unit, patience time.Duration) (*DiscReader, error) {
	if err := u.ready(ctx, 0, neededToRead); err != nil {
		return nil, fmt.Errorf("opening the disc: %w", err)
	}
	info, config, err := u.identify(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening the disc: %w", err)
	}
	if !readable(config.Profile) {
		return nil, &RefusedError{CodeWrongMedium, fmt.Sprintf("a %v is in the drive; %s is needed", config.Profile, neededToRead), nil}
	}
	if err := u.do(ctx, mmc.PreventAllow{Prevent: true}.Send); err != nil && !illegal(err) {
		return nil, fmt.Errorf("locking the tray: %w", err)
	}
	r := &DiscReader{ctx: ctx, u: u, drive: info}
	if err := r.checkSessions(); err != nil {
		u.unlock(ctx)
		return nil, refusal(err, neededToRead)
	}
	capacity, err := ask(ctx, u, mmc.ReadCapacity{}.Send)
	if err == nil && capacity.BlockSize != BlockSize {
		err = &RefusedError{CodeWrongMedium, fmt.Sprintf("the disc has blocks of %d bytes; %s is needed", capacity.BlockSize, neededToRead), nil}
	}
	if err != nil {
		u.unlock(ctx)
		return nil, refusal(err, neededToRead)
	}
	r.size = (int64(capacity.LastLBA) + 1) * BlockSize
	r.medium = MediumInfo{Type: config.Profile.String(), CapacityBlocks: uint32(min(int64(capacity.LastLBA)+1, 1<<32-1))}
	r.pace = newPace(u, patience)
	return r, nil
}

// checkSessions wants exactly one session with one track from LBA 0, and a
// complete disc.
func (r *DiscReader) checkSessions() error {
	disc, err := ask(r.ctx, r.u, mmc.ReadDiscInformation{}.Send)
	if unsupported(err) {
		return r.checkTOC() // a drive that only reads needn't know the command
	}
	if err != nil {
		return err
	}
	switch {
	case disc.Status == mmc.DiscEmpty:
		return &RefusedError{CodeBlank, "the disc is blank; " + neededToRead + " is needed", nil}
	case disc.Status != mmc.DiscComplete:
		return &RefusedError{CodeIncomplete, "the disc was not closed: something could still be added to it, or its burn failed", nil}
	case disc.Sessions != 1 || disc.LastSession != mmc.SessionComplete:
		return &RefusedError{CodeSecondSession, fmt.Sprintf("the disc has %d sessions, the last in state %d; one complete session is allowed", disc.Sessions, disc.LastSession), nil}
	case disc.FirstTrack != 1 || disc.LastFirst != 1 || disc.LastLast != 1:
		return &RefusedError{CodeSecondTrack, fmt.Sprintf("the disc's session has tracks %d to %d; one track is allowed", disc.LastFirst, disc.LastLast), nil}
	}
	track, err := ask(r.ctx, r.u, mmc.ReadTrackInformation{AddressType: 1, Address: 1}.Send)
	switch {
	case unsupported(err):
		return nil
	case err != nil:
		return err
	case track.Damage || track.Blank || track.NextWritableValid:
		return &RefusedError{CodeIncomplete, "the disc's track was not closed properly", nil}
	case track.TrackMode&4 == 0:
		return &RefusedError{CodeWrongMedium, "the disc's track is of audio; " + neededToRead + " is needed", nil}
	case track.Start != 0:
		return &RefusedError{CodeWrongMedium, fmt.Sprintf("the disc's track begins at LBA %d", track.Start), nil}
	}
	return nil
}

// checkTOC is checkSessions for drives that answer READ TOC only.
func (r *DiscReader) checkTOC() error {
	sessions, err := ask(r.ctx, r.u, mmc.ReadTOC{Format: 1}.Send)
	if err != nil {
		return err
	}
	tracks, err := ask(r.ctx, r.u, mmc.ReadTOC{}.Send)
	switch {
	case err != nil:
		return err
	case sessions.First != 1 || sessions.Last != 1:
		return &RefusedError{CodeSecondSession, fmt.Sprintf("the disc has sessions %d to %d; one is allowed", sessions.First, sessions.Last), nil}
	case tracks.First != 1 || tracks.Last != 1 || len(tracks.Tracks) == 0 || tracks.Tracks[0].Start != 0:
		return &RefusedError{CodeSecondTrack, fmt.Sprintf("the disc has tracks %d to %d; one, from LBA 0, is allowed", tracks.First, tracks.Last), nil}
	case tracks.Tracks[0].Control&4 == 0:
		return &RefusedError{CodeWrongMedium, "the disc's track is of audio; " + neededToRead + " is needed", nil}
	}
	return nil
}

// Size returns the capacity that the drive reports, in bytes: the image, and
// whatever can be read behind it.
func (r *DiscReader) Size() int64 { return r.size }

// Medium returns what the disc is.
func (r *DiscReader) Medium() MediumInfo { return r.medium }

// DriveInfo returns who the drive says it is.
func (r *DiscReader) DriveInfo() DriveInfo { return r.drive }

// Retries returns how often something had to be read again.
func (r *DiscReader) Retries() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.u.retries
}

// Close unlocks the tray. Later reads fail.
func (r *DiscReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead == nil || !errors.Is(r.dead, scsi.ErrGone) {
		r.u.unlock(r.ctx)
	}
	if r.dead == nil {
		r.dead = errors.New("the disc is closed")
	}
	return nil
}

// ReadAt reads len(p) bytes from byte off on.
func (r *DiscReader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("reading the disc at negative offset %d", off)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead != nil { // not even from the cache
		return 0, r.dead
	}
	r.pace.rest() // what the caller did since the last read is not the drive's time
	for n < len(p) {
		if off+int64(n) >= r.size {
			return n, io.EOF
		}
		m, err := r.readSome(p[n:], off+int64(n))
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// cdRunOut is how many blocks behind a track that was written at once a CD
// counts as its own, and can't be read (MMC-5 4.2.3.4).
const cdRunOut = 2

// tail returns the first block of what is perhaps run-out.
func (r *DiscReader) tail() int64 {
	blocks := r.size / BlockSize
	if oneX(r.u.profile) != cdOneX || blocks <= cdRunOut {
		return blocks
	}
	return blocks - cdRunOut
}

// span returns the window that a block lies in.
func (r *DiscReader) span(block int64) (lba, blocks int64) {
	tail := r.tail()
	if block >= tail {
		return tail, r.size/BlockSize - tail
	}
	lba = block / packet * packet
	return lba, min(packet, tail-lba)
}

// readSome reads up to the end of the window that off lies in.
func (r *DiscReader) readSome(p []byte, off int64) (int, error) {
	first, n := r.span(off / BlockSize)
	within := int(off - first*BlockSize)
	lba, blocks := uint32(first), uint32(n)
	if within == 0 && len(p) >= int(blocks)*BlockSize && first < r.tail() && r.cached(lba) == nil {
		// A whole window goes straight to the caller when it reads well.
		if err := r.read(p[:blocks*BlockSize], lba); err == nil {
			return int(blocks) * BlockSize, nil
		} else if !rereadable(err) {
			return 0, err
		}
		r.u.retries++
	}
	w, err := r.window(lba, blocks)
	if err != nil {
		return 0, err
	}
	end := min(len(w.data), within+len(p))
	for b := within / BlockSize; b*BlockSize < end; b++ {
		at := lba + uint32(b)
		if err, ok := w.bad[at]; ok {
			n := 0
			if b*BlockSize > within {
				n = copy(p, w.data[within:b*BlockSize])
			}
			return n, &ReadError{at, err}
		}
	}
	return copy(p, w.data[within:end]), nil
}

func (r *DiscReader) cached(lba uint32) *window {
	for i := range r.windows {
		if w := &r.windows[i]; w.used > 0 && w.lba == lba {
			return w
		}
	}
	return nil
}

// window returns a piece of the disc from the cache, or reads it into it.
func (r *DiscReader) window(lba, blocks uint32) (*window, error) {
	r.tick++
	if w := r.cached(lba); w != nil {
		w.used = r.tick
		return w, nil
	}
	oldest := &r.windows[0]
	for i := range r.windows {
		if r.windows[i].used < oldest.used {
			oldest = &r.windows[i]
		}
	}
	if oldest.data == nil {
		oldest.data = make([]byte, packet*BlockSize)
	}
	oldest.used, oldest.bad = 0, nil
	oldest.data = oldest.data[:blocks*BlockSize]
	bad, err := r.fill(oldest.data, lba)
	if err != nil {
		return nil, err
	}
	oldest.lba, oldest.used, oldest.bad = lba, r.tick, bad
	return oldest, nil
}

// Speeds of re-reading, in multiples of 1×.
var slower = [...]uint32{4, 2, 1}

// fill reads a window: at once, then more slowly, then block by block, so that
// the blocks beside a bad one are not lost. It sends at most 5 + packet reads.
func (r *DiscReader) fill(p []byte, lba uint32) (bad map[uint32]error, err error) {
	if err = r.read(p, lba); err == nil || !rereadable(err) {
		return nil, err
	}
	if int64(lba) >= r.tail() { // run-out: no drive gets more out of it by trying longer
		return r.readEach(p, lba)
	}
	if bad, err = r.reread(p, lba); err != nil {
		return nil, err
	}
	err = r.u.restoreSpeed(r.ctx)
	if err != nil && !illegal(err) {
		return nil, r.fatal(fmt.Errorf("setting the reading speed: %w", err))
	}
	return bad, nil
}

func (r *DiscReader) reread(p []byte, lba uint32) (bad map[uint32]error, err error) {
	last := uint32(min(r.size/BlockSize-1, 1<<32-1))
	for _, times := range slower {
		if err := r.u.setSpeed(r.ctx, times*oneX(r.u.profile), last); err != nil && !illegal(err) {
			return nil, r.fatal(fmt.Errorf("setting the reading speed: %w", err))
		}
		r.u.retries++
		if err = r.read(p, lba); err == nil || !rereadable(err) {
			return nil, err
		}
	}
	r.u.retries += len(p) / BlockSize
	return r.readEach(p, lba)
}

// readEach reads block by block, and tells which can't be read.
func (r *DiscReader) readEach(p []byte, lba uint32) (bad map[uint32]error, err error) {
	bad = map[uint32]error{}
	for i := 0; i*BlockSize < len(p); i++ {
		at := lba + uint32(i)
		err := r.read(p[i*BlockSize:(i+1)*BlockSize], at)
		if err != nil && !rereadable(err) {
			return nil, err
		}
		if err != nil {
			clear(p[i*BlockSize : (i+1)*BlockSize])
			bad[at] = err
		}
	}
	return bad, nil
}

// rereadable reports whether an error is about the blocks, not about the drive
// or the disc as a whole.
func rereadable(err error) bool {
	var s *scsi.SenseError
	if !errors.As(err, &s) || s.Deferred {
		return false
	}
	switch s.Key {
	case scsi.MediumError, scsi.BlankCheck, scsi.AbortedCommand:
		return true
	}
	return errors.Is(err, scsi.OutOfRange)
}

// read sends one READ and judges the answer: an error that isn't rereadable
// ends all reading.
func (r *DiscReader) read(p []byte, lba uint32) error {
	if r.dead != nil {
		return r.dead
	}
	blocks := uint32(len(p) / BlockSize)
	if lba != r.next {
		r.pace.earn(perSeek)
	}
	r.next = lba + blocks
	deadline := r.u.Now().Add(stallLimit)
	for {
		err := r.u.do(r.ctx, func(ctx context.Context, t scsi.Transport) error { return mmc.Read{LBA: lba}.Send(ctx, t, p) })
		r.pace.earn(time.Duration(blocks) * perBlock)
		if slow := r.pace.check(); slow != nil {
			return r.fatal(fmt.Errorf("reading LBA %d: %w", lba, slow))
		}
		switch {
		case err == nil || rereadable(err):
			return err
		case !inProgress(err) || r.u.Now().After(deadline):
			return r.fatal(fmt.Errorf("reading LBA %d: %w", lba, err))
		}
		r.u.retries++
		if err := r.u.Wait(r.ctx, pollEvery); err != nil {
			return r.fatal(err)
		}
	}
}

func (r *DiscReader) fatal(err error) error {
	if r.dead == nil {
		r.dead = err
	}
	return err
}
