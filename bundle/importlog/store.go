package importlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/mod/sumdb/tlog"
)

// fileOps are the operations that change the log on disk, each one a place where power can fail, a disk can be
// full or a fault can come back. Names are relative to the log's directory.
type fileOps interface {
	create(name string) (handle, error) // for writing, empty, never through a symlink
	mkdir(name string) error
	rename(from, to string) error
	removeAll(name string) error
	syncDir(name string) error
}

type handle interface {
	io.Writer
	Sync() error
	Close() error
}

// diskOps does them within one directory.
type diskOps struct{ root *os.Root }

func (d diskOps) create(name string) (handle, error) {
	// A file left over from a crash may be of any kind: it is not opened, but replaced.
	if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
}

func (d diskOps) mkdir(name string) error      { return d.root.Mkdir(name, 0o755) }
func (d diskOps) rename(from, to string) error { return d.root.Rename(from, to) }
func (d diskOps) removeAll(name string) error  { return d.root.RemoveAll(name) }

func (d diskOps) syncDir(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// newName is where a file is written before it is renamed to its place.
const newName = ".new"

// store keeps whole files: one that is there has all its bytes.
type store struct {
	root *os.Root
	ops  fileOps
	// durable holds the directories whose own entries this process has synced; one that is merely there may
	// be left from a crash that its parent's sync didn't outrun.
	durable map[string]bool
}

// put writes a file, syncs it and renames it to its place. Its directory remains to be synced.
func (s *store) put(name string, data []byte) (err error) {
	if err := s.makeDir(path.Dir(name)); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// The space is given back; what can't be removed now is replaced at the next try.
			_ = s.ops.removeAll(newName)
			err = fmt.Errorf("write %s: %w", name, err)
		}
	}()
	f, err := s.ops.create(newName)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return s.ops.rename(newName, name)
}

// makeDir makes a directory and those above it, and syncs the entry of each.
func (s *store) makeDir(name string) error {
	if name == "." || s.durable[name] {
		return nil
	}
	if err := s.makeDir(path.Dir(name)); err != nil {
		return err
	}
	if err := s.ops.mkdir(name); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := s.ops.syncDir(path.Dir(name)); err != nil {
		return err
	}
	s.durable[name] = true
	return nil
}

// read returns a regular file of at most limit bytes.
func (s *store) read(name string, limit int) ([]byte, error) {
	f, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > int64(limit) {
		return nil, &DamagedError{Path: name, Detail: fmt.Sprintf("mode %v, %d bytes, at most %d are possible", info.Mode(), info.Size(), limit)}
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, err
	}
	return data, nil
}

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	hashBytes  = tlog.HashSize

	// entryLevel stands for the entry bundles, which are numbered as the tiles of level 0.
	entryLevel = -1

	maxEntryBytes  = 1<<16 - 1
	maxBundleBytes = tileWidth * (2 + maxEntryBytes)
)

// tilePath returns the path of a tile or entry bundle (C2SP tlog-tiles): tile/L/N or tile/entries/N, with N in
// groups of three digits, and .p/W when it holds only W of 256. x/mod's own paths differ in the first part only.
func tilePath(level int, n int64, width int) string {
	p := tlog.Tile{H: tileHeight, L: max(level, 0), N: n, W: width}.Path()
	rest := strings.TrimPrefix(p, "tile/8/")
	if level == entryLevel {
		return "tile/entries/" + strings.TrimPrefix(rest, "0/")
	}
	return "tile/" + rest
}

// readTile returns the first width hashes of a tile. Once a tile is full its partial forms may go.
func (s *store) readTile(level int, n int64, width int) ([]byte, error) {
	name := tilePath(level, n, width)
	data, err := s.read(name, tileWidth*hashBytes)
	if width < tileWidth && errors.Is(err, fs.ErrNotExist) {
		if data, err = s.read(tilePath(level, n, tileWidth), tileWidth*hashBytes); err == nil && len(data) == tileWidth*hashBytes {
			data = data[:width*hashBytes]
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &DamagedError{Path: name, Detail: "the file is missing"}
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) != width*hashBytes {
		return nil, &DamagedError{Path: name, Detail: fmt.Sprintf("%d bytes, %d hashes have %d", len(data), width, width*hashBytes)}
	}
	return data, nil
}

// readBundle returns the first width entries of an entry bundle, and their bytes on disk.
func (s *store) readBundle(n int64, width int) (entries [][]byte, data []byte, err error) {
	name := tilePath(entryLevel, n, width)
	data, err = s.read(name, maxBundleBytes)
	whole := true
	if width < tileWidth && errors.Is(err, fs.ErrNotExist) {
		data, err = s.read(tilePath(entryLevel, n, tileWidth), maxBundleBytes)
		whole = false
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, &DamagedError{Path: name, Detail: "the file is missing"}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", name, err)
	}
	rest := data
	for range width {
		if len(rest) < 2 || len(rest) < 2+int(rest[0])<<8+int(rest[1]) {
			return nil, nil, &DamagedError{Path: name, Detail: fmt.Sprintf("entry at byte %d is cut off", len(data)-len(rest))}
		}
		end := 2 + int(rest[0])<<8 + int(rest[1])
		entries = append(entries, rest[2:end])
		rest = rest[end:]
	}
	if whole && len(rest) > 0 {
		return nil, nil, &DamagedError{Path: name, Detail: fmt.Sprintf("%d bytes after its last entry", len(rest))}
	}
	return entries, data[:len(data)-len(rest)], nil
}

// appendEntry appends an entry to a bundle's bytes: its length as two bytes, the higher first, then itself.
func appendEntry(bundle, entry []byte) []byte {
	return append(append(bundle, byte(len(entry)>>8), byte(len(entry))), entry...)
}

// tileSource makes a store the [tlog.TileReader] that proofs are made with: each tile is checked against the head.
type tileSource struct{ *store }

func (tileSource) Height() int { return tileHeight }

func (s tileSource) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, t := range tiles {
		var err error
		if data[i], err = s.readTile(t.L, t.N, t.W); err != nil {
			return nil, err
		}
	}
	return data, nil
}

func (tileSource) SaveTiles([]tlog.Tile, [][]byte) {}
