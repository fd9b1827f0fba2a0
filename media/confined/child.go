package confined

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

// socketFD is the child's one open file beside standard error.
const socketFD = 3

// Main is the whole life of the child: it gives up its rights, answers its parent until that is gone, and returns the
// exit status. Nothing else may have been done in this process.
func Main(parse Parser) int {
	time.Local = time.UTC // no look at /etc/localtime later
	conn := os.NewFile(socketFD, "parent")
	belts, err := giveUp()
	if err != nil {
		fmt.Fprintf(os.Stderr, "confine the reader of the medium: %v\n", err)
		return 3
	}
	if err := serve(conn, belts, parse); err != nil && !errors.Is(err, io.EOF) {
		return 3
	}
	return 0
}

// child answers one parent.
type child struct {
	conn    io.ReadWriter
	buf     []byte // of frames that are done with when the next one comes
	volumes []fs.FS
	handles map[int]fs.File
	next    int
	lost    error // of the socket: nothing can be asked or answered any more
}

// errSource stands for the parent's error of reading the medium, which the parent remembers.
var errSource = errors.New("the medium can't be read")

func serve(conn io.ReadWriter, belts []string, parse Parser) error {
	c := &child{conn: conn, handles: make(map[int]fs.File)}
	kind, payload, err := readFrame(conn, maxPath, nil)
	if err != nil {
		return err
	}
	var start startRequest
	if err := json.Unmarshal(payload, &start); err != nil || kind != askStart {
		return fmt.Errorf("%w: first frame %q", ErrParser, kind)
	}
	contents, err := parse(newCache(c, start.Size), start.Size, start.Block)
	if err == nil && (len(contents.Report) > MaxReport || len(contents.Volumes) > MaxVolumes) {
		err = fmt.Errorf("a report of %d bytes on %d file systems, at most %d and %d", len(contents.Report), len(contents.Volumes), MaxReport, MaxVolumes)
	}
	if err != nil {
		if err := c.fail(err); err != nil {
			return err
		}
		return nil
	}
	c.volumes = contents.Volumes
	if err := c.reply(startReply{Belts: belts, Volumes: len(c.volumes), Report: len(contents.Report)}); err != nil {
		return err
	}
	if err := writeFrame(c.conn, replyRaw, contents.Report); err != nil {
		return err
	}
	for {
		kind, payload, err := readFrame(conn, maxPath, c.buf)
		if err != nil {
			return err
		}
		c.buf = payload[:0]
		var r request
		if err := json.Unmarshal(payload, &r); err != nil {
			return err
		}
		if err := c.answer(kind, r); err != nil {
			return err
		}
		if c.lost != nil {
			return c.lost
		}
	}
}

// answer does what was asked; its error is one of the socket.
func (c *child) answer(kind byte, r request) error {
	if kind == askOpen || kind == askStat || kind == askReadLink {
		if r.Volume < 0 || r.Volume >= len(c.volumes) {
			return c.fail(fs.ErrNotExist)
		}
		return c.byPath(kind, c.volumes[r.Volume], r.Path)
	}
	f, ok := c.handles[r.Handle]
	if !ok {
		return c.fail(fs.ErrClosed)
	}
	switch kind {
	case askRead:
		buf := make([]byte, min(max(r.N, 0), maxRead))
		n, err := io.ReadFull(f, buf)
		if n > 0 || err == nil {
			return writeFrame(c.conn, replyRaw, buf[:n]) // an error comes again with the next call
		}
		return c.fail(err)
	case askReadDir:
		return c.readDir(f)
	case askClose:
		delete(c.handles, r.Handle)
		f.Close()
		return c.reply(struct{}{})
	default:
		return fmt.Errorf("%w: frame %q", ErrParser, kind)
	}
}

func (c *child) byPath(kind byte, volume fs.FS, path string) error {
	switch kind {
	case askStat:
		info, err := fs.Lstat(volume, path)
		if err != nil {
			return c.fail(err)
		}
		return c.reply(describe(info))
	case askReadLink:
		target, err := fs.ReadLink(volume, path)
		if err != nil {
			return c.fail(err)
		}
		return writeFrame(c.conn, replyRaw, []byte(target[:min(len(target), maxPath)]))
	}
	if len(c.handles) >= maxHandles {
		return c.fail(fmt.Errorf("%d files are open, as many as may be", maxHandles))
	}
	f, err := volume.Open(path)
	if err != nil {
		return c.fail(err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return c.fail(err)
	}
	c.next++
	c.handles[c.next] = f
	return c.reply(openReply{Handle: c.next, Entry: describe(info)})
}

func (c *child) readDir(f fs.File) error {
	dir, ok := f.(fs.ReadDirFile)
	if !ok {
		return c.fail(fs.ErrInvalid)
	}
	list, err := dir.ReadDir(maxBatch)
	reply := readDirReply{EOF: errors.Is(err, io.EOF)}
	if err != nil && !reply.EOF && len(list) == 0 {
		return c.fail(err)
	}
	for _, e := range list {
		info, err := e.Info()
		if err != nil {
			return c.fail(err)
		}
		reply.Entries = append(reply.Entries, describe(info))
	}
	return c.reply(reply)
}

func describe(info fs.FileInfo) entry {
	t := info.ModTime()
	return entry{Name: []byte(info.Name()), Size: info.Size(), Mode: uint32(info.Mode()), MTime: t.Unix(), Nanos: int32(t.Nanosecond())}
}

func (c *child) reply(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFrame(c.conn, replyJSON, text)
}

func (c *child) fail(err error) error {
	reply := errorReply{Text: err.Error()}
	switch {
	case errors.Is(err, errSource):
		reply.Kind = "source"
	case errors.Is(err, io.EOF):
		reply.Kind = "eof"
	case errors.Is(err, fs.ErrNotExist):
		reply.Kind = "not-exist"
	case errors.Is(err, fs.ErrInvalid):
		reply.Kind = "invalid"
	}
	reply.Text = reply.Text[:min(len(reply.Text), maxError/2)]
	text, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	return writeFrame(c.conn, replyError, text)
}

// ReadAt asks the parent for at most maxRead bytes of the medium.
func (c *child) ReadAt(p []byte, offset int64) (int, error) {
	if c.lost != nil {
		return 0, c.lost
	}
	var need [16]byte
	le.PutUint64(need[:], uint64(offset))
	le.PutUint64(need[8:], uint64(len(p)))
	if c.lost = writeFrame(c.conn, needBlocks, need[:]); c.lost != nil {
		return 0, c.lost
	}
	kind, payload, err := readFrame(c.conn, len(p), p[:0:len(p)])
	switch {
	case err != nil:
		c.lost = err
		return 0, err
	case kind == blocks && len(payload) == len(p):
		return len(p), nil
	case kind == blocksFail:
		return 0, errSource
	}
	c.lost = fmt.Errorf("%w: frame %q of %d bytes for %d", ErrParser, kind, len(payload), len(p))
	return 0, c.lost
}

// cache keeps what was read last: parsers read an entry here and a cluster number there, and each request costs a turn
// through the parent, on a stick a command too.
type cache struct {
	r     io.ReaderAt
	size  int64
	pages map[int64][]byte
	order []int64 // the oldest first
}

const (
	cachePage  = 64 << 10
	cachePages = 128
)

func newCache(r io.ReaderAt, size int64) *cache {
	return &cache{r: r, size: size, pages: make(map[int64][]byte)}
}

func (c *cache) ReadAt(p []byte, offset int64) (int, error) {
	if offset < 0 {
		return 0, fmt.Errorf("read %d bytes at %d: %w", len(p), offset, fs.ErrInvalid)
	}
	var err error
	if offset >= c.size {
		return 0, io.EOF
	}
	if int64(len(p)) > c.size-offset {
		p, err = p[:c.size-offset], io.EOF
	}
	done := 0
	for done < len(p) {
		at := offset + int64(done)
		if at%cachePage == 0 && len(p)-done >= cachePage { // whole pages of a file aren't asked for again
			n := min(len(p)-done, maxRead) / cachePage * cachePage
			if _, err := c.r.ReadAt(p[done:done+n], at); err != nil {
				return done, err
			}
			done += n
			continue
		}
		page, err := c.page(at / cachePage)
		if err != nil { // of a page around a bad sector only what was asked for has to be readable
			n := min(int64(len(p)-done), cachePage-at%cachePage)
			if _, err := c.r.ReadAt(p[done:done+int(n)], at); err != nil {
				return done, err
			}
			done += int(n)
			continue
		}
		done += copy(p[done:], page[at%cachePage:])
	}
	return done, err
}

func (c *cache) page(i int64) ([]byte, error) {
	if page, ok := c.pages[i]; ok {
		return page, nil
	}
	var page []byte
	if len(c.order) == cachePages {
		page = c.pages[c.order[0]][:cachePage]
		delete(c.pages, c.order[0])
		c.order = slices.Delete(c.order, 0, 1)
	} else {
		page = make([]byte, cachePage)
	}
	page = page[:min(cachePage, c.size-i*cachePage)]
	if _, err := c.r.ReadAt(page, i*cachePage); err != nil {
		return nil, err
	}
	c.pages[i] = page
	c.order = append(c.order, i)
	return page, nil
}
