package bundle

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// overlay is a source with mended blocks in front of it. They lie in a scratch file, each at its own place; with
// capture what is read from the source is kept there too, so that a block of a medium is read once. It may be used
// by several goroutines.
type overlay struct {
	src    Source
	limit  int64 // blocks: nothing behind them is kept
	file   *os.File
	lost   func(error)            // told when the whole source is lost; may be nil
	mended func(first, end int64) // told which blocks are put in, under mu
	behind *writeBehind           // what is kept goes to file through it; nil: at once

	mu      sync.RWMutex
	capture bool
	have    blockSet // blocks that file serves
	made    blockSet // of them those that are not as the source gave them; only with behind
	gone    error    // what the source was lost with
}

// errLostSource is in every error of a source that was given up.
var errLostSource = errors.New("the medium was lost")

// newOverlay puts an overlay of an image of limit blocks before src; its scratch file is an unlinked one in dir,
// or in the folder for temporary files. Close it when done.
func newOverlay(src Source, limit int64, dir string, mended func(first, end int64)) (*overlay, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	file, err := scratchIn(dir)
	if err != nil {
		return nil, fmt.Errorf("make a scratch file for mended blocks: %w", err)
	}
	o := &overlay{src: src, limit: limit, file: file, mended: mended, have: blockSet{}}
	o.capture = src.Medium && hasRoom(file, limit*BlockSize)
	return o, nil
}

// scratchIn makes a file without a name in dir: its room comes back when it is closed, whatever happens.
func scratchIn(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), dir), nil
	}
	f, err := os.CreateTemp(dir, "sallyport-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// hasRoom tells whether a disc is worth being kept whole in f: there is room for it twice, since the payload may
// have to fit beside it, and that room isn't memory.
func hasRoom(f *os.File, size int64) bool {
	var s unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &s) != nil || s.Type == unix.TMPFS_MAGIC || s.Type == unix.RAMFS_MAGIC {
		return false
	}
	return int64(s.Bavail) >= 2*size/s.Bsize+1
}

func (o *overlay) Close() error { return o.file.Close() }

// ReadAt gives mended and kept blocks from the scratch file, all others from the source.
func (o *overlay) ReadAt(p []byte, off int64) (n int, err error) {
	return o.readAt(p, off, o.have, o.readSource)
}

// readAgain is ReadAt for blocks that were judged before, and aren't by what is read now: those that were kept as they
// were come from the source, where reading them a second time is cheap.
func (o *overlay) readAgain(p []byte, off int64) (n int, err error) {
	if o.behind == nil || o.src.Medium {
		return o.ReadAt(p, off)
	}
	return o.readAt(p, off, o.made, o.fetch)
}

func (o *overlay) readAt(p []byte, off int64, inFile blockSet, source func([]byte, int64) (int, error)) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read at byte %d", off)
	}
	for n < len(p) {
		at := off + int64(n)
		o.mu.RLock()
		have, stop := inFile.run(at/BlockSize, blocksOf(off+int64(len(p))))
		o.mu.RUnlock()
		q := p[n:min(int64(len(p)), stop*BlockSize-off)]
		var m int
		if have {
			m, err = o.readFile(q, at)
		} else {
			m, err = source(q, at)
		}
		n += m
		if m == len(q) && (err == nil || err == io.EOF) {
			continue
		}
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	}
	return n, nil
}

func (o *overlay) readFile(p []byte, off int64) (int, error) {
	if o.behind != nil {
		o.mu.Lock()
		err := o.behind.flush()
		o.mu.Unlock()
		if err != nil {
			return 0, err
		}
	}
	return o.file.ReadAt(p, off)
}

// readSource reads what isn't in the file, and keeps it.
func (o *overlay) readSource(p []byte, off int64) (int, error) {
	n, err := o.fetch(p, off)
	if !errors.Is(err, errLostSource) {
		o.keep(p[:n], off)
	}
	return n, err
}

func (o *overlay) fetch(p []byte, off int64) (int, error) {
	o.mu.RLock()
	gone := o.gone
	o.mu.RUnlock()
	if gone != nil {
		return 0, gone
	}
	n, err := o.src.ReadAt(p, off)
	if n < 0 || n > len(p) {
		return 0, errors.New("the source claims to have read more than it was asked for")
	}
	if err != nil && err != io.EOF && o.src.Gone != nil && o.src.Gone(err) {
		return n, o.lose(err)
	}
	return n, err
}

func (o *overlay) lose(err error) error {
	o.mu.Lock()
	if o.gone == nil {
		o.gone = fmt.Errorf("%w: %w", errLostSource, err)
	}
	err = o.gone
	o.mu.Unlock()
	if o.lost != nil {
		o.lost(err)
	}
	return err
}

// keep puts the whole blocks of p, which stands at byte off, into the scratch file, but for those that are there:
// they may have been mended meanwhile.
func (o *overlay) keep(p []byte, off int64) {
	first, end := blocksOf(off), min((off+int64(len(p)))/BlockSize, o.limit)
	o.mu.Lock()
	defer o.mu.Unlock()
	for lba := first; lba < end && o.capture; {
		have, stop := o.have.run(lba, end)
		if q := p[lba*BlockSize-off : stop*BlockSize-off]; !have {
			if o.behind != nil {
				o.behind.take(q, lba*BlockSize)
			} else if _, err := o.file.WriteAt(q, lba*BlockSize); err != nil {
				o.capture = false // as without room: the medium is read again
				return
			}
			o.have.add(lba, stop)
		}
		lba = stop
	}
}

// WriteAt puts whole blocks in front of the source.
func (o *overlay) WriteAt(p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	if off < 0 || off%BlockSize != 0 || end%BlockSize != 0 || end > o.limit*BlockSize {
		return 0, fmt.Errorf("mend bytes %d to %d of an image of %d blocks", off, end, o.limit)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if n, err := o.write(p, off); err != nil {
		return n, fmt.Errorf("keep mended blocks: %w", err)
	}
	if o.mended != nil {
		o.mended(off/BlockSize, end/BlockSize)
	}
	return len(p), nil
}

// put serves what a block was made to be, which the caller knows and has accounted for.
func (o *overlay) put(lba int64, blocks []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, err := o.write(blocks, lba*BlockSize); err != nil {
		return fmt.Errorf("keep LBA %d: %w", lba, err)
	}
	return nil
}

// write puts whole blocks into the file, over what was kept of them. The caller holds mu.
func (o *overlay) write(p []byte, off int64) (int, error) {
	if o.behind != nil {
		if err := o.behind.flush(); err != nil {
			return 0, err
		}
	}
	if n, err := o.file.WriteAt(p, off); err != nil {
		return n, err
	}
	first, end := off/BlockSize, (off+int64(len(p)))/BlockSize
	o.have.add(first, end)
	if o.behind != nil {
		o.made.add(first, end)
		// It is to be on the disk soon: the sooner it is begun with, the better. When it fails the sync at the end tells.
		_ = unix.SyncFileRange(int(o.file.Fd()), off, int64(len(p)), unix.SYNC_FILE_RANGE_WRITE)
	}
	return len(p), nil
}

// area is count blocks of the image from lba on, as verity mends them.
func (o *overlay) area(lba, count int64) overlayArea {
	return overlayArea{io.NewSectionReader(o, lba*BlockSize, count*BlockSize), o, lba * BlockSize}
}

type overlayArea struct {
	io.ReaderAt
	o     *overlay
	first int64 // byte
}

// ReadAgainAt is [verity.Area]'s.
func (a overlayArea) ReadAgainAt(p []byte, off int64) (int, error) {
	return a.o.readAgain(p, a.first+off)
}

func (a overlayArea) WriteAt(p []byte, off int64) (int, error) { return a.o.WriteAt(p, a.first+off) }
