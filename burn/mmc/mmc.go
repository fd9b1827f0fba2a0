// Package mmc holds the commands that an optical recorder needs, a struct each,
// after MMC-6 (T10/1836-D) and SPC-3; the comment of each names where. Section
// numbers of clause 6 are those of MMC-5 (T10/1675-D revision 4): MMC-6 has the
// same commands and counts differently. A command's exported fields are the fields of its command
// descriptor block; Send puts them on a scsi.Transport and, where there is a
// reply, returns it parsed.
//
// Replies come from devices that may be hostile: a parser never reads behind
// what was transferred, whatever lengths the reply announces, and what it
// allocates is bounded by the fixed allocation lengths used here.
//
// Every Send puts the command's own time limit on ctx: 30 s, 200 s for what
// writes, calibrates or flushes, 300 s for loading, an hour for a close
// without IMMED. Errors are those of scsi.Transport, wrapped with the
// command's name. A recovered error (sense key 1h) of a command that returns a
// reply is dropped, the reply being complete; of any other command it is
// returned, for the caller to note.
package mmc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sallyport/media/scsi"
)

// BlockSize is the size of a logical block of user data in bytes, on all the
// media that this package is about.
const BlockSize = 2048

// Time limits of commands.
const (
	quick = 30 * time.Second
	long  = 200 * time.Second
	load  = 300 * time.Second
	ages  = time.Hour
)

// shape is what all commands of one kind have in common.
type shape struct {
	name  string
	op    byte
	len   int // of the CDB in bytes
	limit time.Duration
}

type command interface{ shape() shape }

// CDB returns c's command descriptor block.
func CDB(c command) []byte {
	s := c.shape()
	b := make([]byte, s.len)
	b[0] = s.op
	put(b, c)
	return b
}

// send puts c on t and wraps an error with c's name.
func send(ctx context.Context, t scsi.Transport, c command, d scsi.Data) (int, error) {
	s := c.shape()
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	n, err := t.Do(ctx, CDB(c), d)
	if n < 0 || n > d.Len() {
		return 0, fmt.Errorf("%s: transport moved %d bytes of %d", s.name, n, d.Len())
	}
	if err != nil {
		return n, fmt.Errorf("%s: %w", s.name, err)
	}
	return n, nil
}

// exec sends a command without a reply.
func exec(ctx context.Context, t scsi.Transport, c command, out []byte) error {
	_, err := send(ctx, t, c, scsi.Data{Out: out})
	return err
}

// query sends a command and returns what came back, at most size bytes. The
// reply must have at least need bytes.
func query(ctx context.Context, t scsi.Transport, c command, size, need int) ([]byte, error) {
	b := make([]byte, size)
	n, err := send(ctx, t, c, scsi.Data{In: b})
	if err != nil && !recovered(err) {
		return nil, err
	}
	if n < need {
		return nil, fmt.Errorf("%s: %w", c.shape().name, &ShortReplyError{Got: n, Want: need})
	}
	return b[:n], nil
}

func recovered(err error) bool {
	var s *scsi.SenseError
	return errors.As(err, &s) && s.Recovered()
}

// ShortReplyError says that a reply ends before the fields it must have.
type ShortReplyError struct {
	Got, Want int // bytes
}

func (e *ShortReplyError) Error() string {
	return fmt.Sprintf("reply ends at byte %d, want at least %d bytes", e.Got, e.Want)
}

// FormatError says that a reply contradicts itself or the standard.
type FormatError struct {
	Offset int // byte of the reply
	Detail string
}

func (e *FormatError) Error() string { return fmt.Sprintf("reply: byte %d: %s", e.Offset, e.Detail) }

// trim cuts a reply to the length that it announces itself, when that is less
// than what was transferred.
func trim(b []byte, announced uint64) []byte {
	return b[:min(uint64(len(b)), announced)]
}
