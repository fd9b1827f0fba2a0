// Package iso9660 writes and reads ISO 9660 volumes (ECMA-119) with Rock Ridge (SUSP, RRIP).
//
// The writer is deterministic: a [Layout] is a function of a [Volume] and a list of [Entry] values, and the whole directory area can be produced from it again and again, so that a verifier compares bytes instead of parsing.
// The byte format is section 5 of docs/format.md.
// The reader ([Open]) takes any image, believes nothing it claims, and presents it as an fs.FS. [Strict] refuses everything that different readers could see differently.
//
// The package knows no operating system and no clock. Sizes and offsets are in bytes, LBA and "blocks" in units of [BlockSize].
package iso9660

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// BlockSize is the logical block size in bytes, the only one written and read (ECMA-119 6.2.2).
const BlockSize = 2048

const (
	descriptorLBA = 16 // first volume descriptor (6.2.1): the system area is before it
	systemArea    = descriptorLBA * BlockSize

	flagHidden     = 0x01 // file flags of a directory record (9.1.6)
	flagDirectory  = 0x02
	flagAssociated = 0x04
	flagMore       = 0x80 // not the last extent of its file

	maxRecord   = 254                    // bytes of a directory record: its length is one even byte
	maxExtent   = 1<<32 - BlockSize      // bytes of an extent: a whole number of blocks in 32 bits
	maxSpecials = 100                    // parts "." or ".." of a target without a name between: an SL entry must have a name to end in
	minRecord   = 33 + 1                 // a record with a one-byte identifier
	minTime     = -2208988800            // 1900-01-01 00:00:00 UTC: the year is one byte counted from 1900 (9.1.5)
	maxTime     = 5869583999             // 2155-12-31 23:59:59 UTC
	maxBlocks   = 1<<32 - 1              // the volume space size is 32 bits (8.4.8)
	maxFile     = 100 * int64(maxExtent) // isofs reads 100 extents of a file
)

// Limits of what is laid out and of what is read (docs/format.md, section 14).
const (
	MaxEntries    = 4_000_003 // a manifest's 4,000,000 and the three files beside them
	MaxDirs       = 65_535    // a path table counts parents in 16 bits (ECMA-119 9.4)
	MaxDepth      = 64        // parts of a path
	MaxPath       = 4096      // bytes of a path
	MaxName       = 255       // bytes of a part of a path
	MaxExtents    = 100       // extents of a file, each of up to 2^32 - 2048 bytes
	MaxTarget     = 1023      // bytes of a symbolic link's target, when writing: with one more, libisofs can't open the image
	MaxTargetPart = 248       // bytes of a part of a target: one component of an SL entry (RRIP 4.1.3.1)
)

// An EntryError says why an entry can't be laid out.
type EntryError struct {
	Path   string
	Reason string
}

func (e *EntryError) Error() string { return fmt.Sprintf("lay out %q: %s", e.Path, e.Reason) }

func entryErrorf(path, format string, args ...any) error {
	return &EntryError{Path: path, Reason: fmt.Sprintf(format, args...)}
}

// A SizeError says that a file's data don't have the size that was laid out: the file changed while it was being read.
type SizeError struct {
	Path string
	Want int64 // bytes laid out
	Got  int64 // bytes read; when more than Want, there may be still more
}

func (e *SizeError) Error() string {
	if e.Got > e.Want {
		return fmt.Sprintf("read %q: longer than the %d bytes it had when it was listed", e.Path, e.Want)
	}
	return fmt.Sprintf("read %q: %d bytes, %d when it was listed", e.Path, e.Got, e.Want)
}

// A FormatError says where an image is malformed, or what in it is refused.
type FormatError struct {
	Offset int64  // byte offset in the image
	Path   string // the directory or file concerned, "" for the volume
	Msg    string
}

func (e *FormatError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("iso9660: at byte %d: %s", e.Offset, e.Msg)
	}
	return fmt.Sprintf("iso9660: %q at byte %d: %s", e.Path, e.Offset, e.Msg)
}

// nameFault says what is wrong with one part of a path, "" when nothing is.
func nameFault(name string) string {
	switch {
	case name == "":
		return "empty name"
	case name == "." || name == "..":
		return fmt.Sprintf("name is %q", name)
	case len(name) > MaxName:
		return fmt.Sprintf("name has %d bytes, limit %d", len(name), MaxName)
	case strings.IndexByte(name, 0) >= 0:
		return "name has a NUL"
	case strings.IndexByte(name, '/') >= 0:
		return "name has a slash"
	case !utf8.ValidString(name):
		return "name is not UTF-8"
	}
	return ""
}

// blocksOf returns the number of blocks that n bytes take.
func blocksOf(n int64) int64 { return (n + BlockSize - 1) / BlockSize }
