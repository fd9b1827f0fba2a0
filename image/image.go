// Package image makes what a machine boots from, out of inputs that are named by digest: a kernel and the closure of
// some of its modules from a Debian package, u-root's userland, and an initramfs that joins them. The same inputs give
// the same bytes, wherever and whenever that is.
package image

import "fmt"

// Limits of what is read. They lie well above anything that Debian builds and bound memory and scratch space.
const (
	maxEntries  = 100_000   // entries of a package's archive
	maxFile     = 256 << 20 // one file of it, in bytes
	maxUnpacked = 4 << 30   // all of them
	maxModule   = 64 << 20  // one kernel module, unpacked, which is held in memory
	maxModinfo  = 1 << 20   // its .modinfo section
	maxList     = 4 << 20   // modules.builtin and its like
	maxDict     = 64 << 20  // the dictionary that an xz stream may ask for
)

// FormatError is a file that is not what it should be.
type FormatError struct {
	Path   string // which file, as far as that is known
	Offset int64  // where in it, in bytes
	What   string
}

func (e *FormatError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("byte %d: %s", e.Offset, e.What)
	}
	return fmt.Sprintf("%s: byte %d: %s", e.Path, e.Offset, e.What)
}
