// Package confined runs the parsers of hostile media in a process without rights, and hands its findings and files to
// the process that asked.
//
// The child is the same program, started anew. It has one open file, a socket to its parent; it may read and write that,
// manage its own memory and threads, and end. Blocks of the medium come through the socket: the child asks for a range,
// the parent reads it, so that no device is ever open in the process that parses. What the child answers is taken for as
// hostile as the medium: every length, name and size is bounded before it is used.
//
// What confines it, from the outside in: namespaces of its own (user, mount, net, IPC, UTS, PID) where the kernel lets
// this user make them, an empty root directory, no capabilities, resource limits, Landlock without a single rule
// (Documentation/userspace-api/landlock.rst), and a seccomp filter (Documentation/userspace-api/seccomp_filter.rst) that
// ends the process at any call that isn't on its list. The filter must hold or the child ends before it has read a
// byte; which of the others hold, Process.Belts tells.
//
// The protocol is a frame of one byte of kind, four of length (little-endian) and the payload, each way. The parent asks
// one thing at a time; until the answer comes it serves the child's requests for blocks.
package confined

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Contents is what a Parser found on a medium.
type Contents struct {
	// Report is passed to the parent as it is: JSON, at most MaxReport bytes.
	Report []byte
	// Volumes are the file systems that were found, at most MaxVolumes.
	Volumes []fs.FS
}

// Parser looks at a medium of size bytes with logical blocks of block bytes. It runs in the child.
type Parser func(r io.ReaderAt, size int64, block int) (*Contents, error)

const (
	// MaxReport bounds a report, in bytes.
	MaxReport = 16 << 20
	// MaxVolumes bounds the file systems of one medium.
	MaxVolumes = 256

	maxFrame   = MaxReport
	maxRead    = 1 << 20 // of one request for blocks and of one piece of a file
	maxPath    = 64 << 10
	maxBatch   = 1000 // directory entries in one answer
	maxHandles = 64
	maxError   = 8 << 10
	maxName    = 1024 // bytes; 255 UTF-16 units are at most 765
)

// Kinds of frames.
const (
	// From the parent.
	askStart    = 'S' // startRequest; the answer is startReply, then the report in frames of its own
	askOpen     = 'O'
	askRead     = 'R'
	askReadDir  = 'D'
	askStat     = 'L'
	askReadLink = 'K'
	askClose    = 'C'
	blocks      = 'B' // what the child asked for
	blocksFail  = 'X' // they can't be read
	// From the child.
	needBlocks = 'b' // offset and length, 8 bytes each
	replyJSON  = 'j'
	replyRaw   = 'r'
	replyError = 'e'
)

// ErrParser: the child's answer isn't one that it may give, or it ended before it gave one. The medium is to be refused.
var ErrParser = errors.New("the confined reader of the medium failed")

type startRequest struct {
	Size  int64 `json:"size"`
	Block int   `json:"block"`
}

type startReply struct {
	Belts   []string `json:"belts"`
	Volumes int      `json:"volumes"`
	Report  int      `json:"report"` // bytes
}

type request struct {
	Volume int    `json:"volume,omitempty"`
	Path   string `json:"path,omitempty"`
	Handle int    `json:"handle,omitempty"`
	N      int    `json:"n,omitempty"`
}

// entry describes a file. Names are bytes, since those of ext file systems need not be UTF-8.
type entry struct {
	Name  []byte `json:"name"`
	Size  int64  `json:"size"`
	Mode  uint32 `json:"mode"` // fs.FileMode
	MTime int64  `json:"mtime"`
	Nanos int32  `json:"nanos"`
}

type openReply struct {
	Handle int   `json:"handle"`
	Entry  entry `json:"entry"`
}

type readDirReply struct {
	Entries []entry `json:"entries"`
	EOF     bool    `json:"eof"`
}

type errorReply struct {
	Text string `json:"text"`
	Kind string `json:"kind,omitempty"` // "not-exist", "invalid", "eof", "source"
}

var le = binary.LittleEndian

// writeFrame sends one frame.
func writeFrame(w io.Writer, kind byte, payload []byte) error {
	frame := make([]byte, 5, 5+min(len(payload), 4<<10))
	frame[0] = kind
	le.PutUint32(frame[1:], uint32(len(payload)))
	if len(payload) <= 4<<10 {
		_, err := w.Write(append(frame, payload...))
		return err
	}
	if _, err := w.Write(frame); err != nil {
		return err
	}
	_, err := w.Write(payload)
	return err
}

// readFrame reads one frame of at most limit bytes of payload, into buf where that is large enough.
func readFrame(r io.Reader, limit int, buf []byte) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int64(le.Uint32(head[1:]))
	if n > int64(limit) {
		return 0, nil, fmt.Errorf("a frame %q of %d bytes, at most %d", head[0], n, limit)
	}
	if int64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	payload = buf[:n]
	if _, err := io.ReadFull(r, payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return head[0], payload, nil
}
