package main

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// usageError is a mistake in how the program was called: exit status 2.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// pathError makes a usage error of what is wrong with a path that the user gave, and no fault of the file system.
func pathError(err error) error {
	for _, mistake := range []error{fs.ErrNotExist, fs.ErrInvalid, syscall.ENOTDIR, syscall.EISDIR, syscall.ELOOP, syscall.ENAMETOOLONG} {
		if errors.Is(err, mistake) {
			return &usageError{err.Error()}
		}
	}
	return err
}

// subjectError names what a refusal is about: the directory, image or drive that the user gave.
type subjectError struct {
	subject string
	err     error
}

func (e *subjectError) Error() string { return e.err.Error() }
func (e *subjectError) Unwrap() error { return e.err }

func about(subject string, err error) error {
	if err == nil {
		return nil
	}
	return &subjectError{subject, err}
}

// adviceError goes with a refusal whose remedy the code alone doesn't give.
type adviceError struct {
	advice string
	err    error
}

func (e *adviceError) Error() string { return e.err.Error() }
func (e *adviceError) Unwrap() error { return e.err }

// unloggedError is a refusal that should stand in the log and doesn't.
type unloggedError struct{ refused, log error }

func (e *unloggedError) Error() string {
	return fmt.Sprintf("%v; and the refusal could not be logged: %v", e.refused, e.log)
}
func (e *unloggedError) Unwrap() error { return e.refused }

// unfinishedError says that a command failed, and what of it was done for good.
type unfinishedError struct {
	done string
	err  error
}

func (e *unfinishedError) Error() string { return e.done + ": " + e.err.Error() }
func (e *unfinishedError) Unwrap() error { return e.err }

// leavingError goes with an error that leaves all as it was before, in the words of the command.
type leavingError struct {
	left string
	err  error
}

func leaving(left string, err error) error {
	if err == nil {
		return nil
	}
	return &leavingError{left, err}
}

func (e *leavingError) Error() string { return e.err.Error() }
func (e *leavingError) Unwrap() error { return e.err }

// advice says by a refusal's code what can be done, where something can.
var advice = map[string]string{
	"empty-payload":      "name a directory with files in it",
	"seal-differs":       "prepare it from the directory that was planned, or plan again and have that signed",
	"not-reproduced":     "sign nothing that you can't make yourself: ask whoever prepared it why",
	"too-big":            "carry less, or name a larger --medium",
	"bad-trust":          "get trust.json and its signatures again from where they were made",
	"trust-threshold":    "have the root holders sign: sallyport trust sign FILE --key KEY",
	"threshold":          "have those who are missing sign the image: sallyport sign FILE --key KEY",
	"unknown-signer":     "don't use it: somebody tampered with it, or the trust root is old",
	"already-imported":   "nothing is left to do",
	"expired":            "ask for a new one, or set this station's clock if it is wrong",
	"name-clash":         "rename one; --case-clash lets names pass that differ only in case",
	"not-a-bundle":       "give an image that sallyport prepare made, or a disc burnt from one",
	"unreadable":         "get the right to read it, or take it out of the directory",
	"wrong-size":         "copy the image again",
	"no-medium":          "put one in",
	"wrong-medium":       "put such a disc in",
	"medium-not-blank":   "put a blank one in (with sim: name another directory)",
	"medium-too-small":   "prepare less, or with fewer --fec-roots",
	"read-only-drive":    "name a recorder",
	"tray-by-hand":       "run it on a terminal, without --no-prompt",
	"blank-disc":         "burn it first, or put the right one in",
	"incomplete-disc":    "its burn did not end well: take another copy",
	"seal-copies-differ": "take another copy of it",
	"damaged":            "don't use it; take another copy",
	"carrier-block-size": "take a stick with blocks of 512 bytes; this one can be a delivery stick",
	"carrier-too-small":  "take a larger stick",
	"delivery-full":      "take a larger stick",
	"delivery-unfit":     "format the stick anew with another --fs: ext4 holds links and all names",
	"no-key-stick":       "name the stick that sallyport key store wrote",
	"not-released":       "name the directory as import printed it, and the state directory of the station that let it in",
	"release-changed":    "import the bundle again, into another spool, and find out who changed this one",
	"readback-differs":   "don't use the stick any more: it doesn't keep what it takes",
	"log-damaged":        "let nothing in with it, and have an auditor look",
	"log-rewritten":      "let nothing in with it, and have an auditor look",
	"log-truncated":      "let nothing in with it, and have an auditor look",
}
