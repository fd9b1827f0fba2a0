// Package sbc holds the block commands that a memory stick or another disk
// needs, a struct each, after SBC-3 (T10/1799-D revision 36) and SPC-4
// (T10/1731-D revision 37); the comment of each names where. Over them stands
// Disk, a disk behind a transport as an io.ReaderAt and io.WriterAt.
//
// A command's exported fields are the fields of its command descriptor block;
// CDB returns that, and Send puts it on a scsi.Transport and, where there is a
// reply, returns it parsed.
//
// Replies come from devices that may be hostile: a parser never reads behind
// what was transferred, whatever lengths the reply announces, and what it
// allocates is bounded by the fixed allocation lengths used here.
//
// Every Send puts the command's own time limit on ctx: 30 s, 60 s for what
// writes or unmaps, 200 s for what flushes. Errors are those of
// scsi.Transport, wrapped with the command's name. A recovered error (sense
// key 0h or 1h, not deferred) is none: the command was carried out in full.
package sbc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"sallyport/media/scsi"
)

// Time limits of commands.
const (
	quick = 30 * time.Second
	long  = 60 * time.Second
	flush = 200 * time.Second
)

// kind is what all commands of one kind have in common.
type kind struct {
	name  string
	limit time.Duration
}

type command interface {
	CDB() []byte
	kind() kind
}

// send puts c on t and wraps an error with c's name.
func send(ctx context.Context, t scsi.Transport, c command, d scsi.Data) (int, error) {
	k := c.kind()
	ctx, cancel := context.WithTimeout(ctx, k.limit)
	defer cancel()
	n, err := t.Do(ctx, c.CDB(), d)
	if n < 0 || n > d.Len() {
		return 0, fmt.Errorf("%s: transport moved %d bytes of %d", k.name, n, d.Len())
	}
	if err != nil && !recovered(err) {
		return n, fmt.Errorf("%s: %w", k.name, err)
	}
	return n, nil
}

// exec sends a command that has no reply.
func exec(ctx context.Context, t scsi.Transport, c command, out []byte) error {
	_, err := send(ctx, t, c, scsi.Data{Out: out})
	return err
}

// query sends a command and returns what came back, at most size bytes. The
// reply must have at least need bytes.
func query(ctx context.Context, t scsi.Transport, c command, size, need int) ([]byte, error) {
	b := make([]byte, size)
	n, err := send(ctx, t, c, scsi.Data{In: b})
	if err != nil {
		return nil, err
	}
	if n < need {
		return nil, fmt.Errorf("%s: %w", c.kind().name, &ShortReplyError{Got: n, Want: need})
	}
	return b[:n], nil
}

// all moves the whole of d, which is neither empty nor two ways.
func all(ctx context.Context, t scsi.Transport, c command, d scsi.Data) error {
	n, err := send(ctx, t, c, d)
	if err == nil && n < d.Len() {
		err = fmt.Errorf("%s: %w", c.kind().name, &ShortReplyError{Got: n, Want: d.Len()})
	}
	return err
}

func recovered(err error) bool {
	s, ok := errors.AsType[*scsi.SenseError](err)
	return ok && s.Recovered()
}

// ShortReplyError says that a device moved less than it was asked for, or that
// a reply ends before the fields it must have.
type ShortReplyError struct {
	Got, Want int // bytes
}

func (e *ShortReplyError) Error() string {
	return fmt.Sprintf("data ends at byte %d, want %d bytes", e.Got, e.Want)
}

// FormatError says that a reply contradicts itself or the standard.
type FormatError struct {
	Offset int // byte of the reply
	Detail string
}

func (e *FormatError) Error() string { return fmt.Sprintf("reply: byte %d: %s", e.Offset, e.Detail) }

// ascii reads a text field (SPC-4 4.3.1): bytes outside 20h to 7Eh, which no
// honest device sends, become '?', so that the text can go to a terminal and
// into a record. Padding, spaces or zeros, is cut off.
func ascii(b []byte) string {
	s := []byte(strings.TrimRight(string(b), " \x00"))
	for i, c := range s {
		if c < 0x20 || c > 0x7E {
			s[i] = '?'
		}
	}
	return strings.TrimSpace(string(s))
}
