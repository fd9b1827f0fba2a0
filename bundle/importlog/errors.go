package importlog

import (
	"errors"
	"fmt"
)

// A RefusedError says that a bundle isn't fresh, or that a receipt or checkpoint isn't what it claims. Code is
// stable.
type RefusedError struct {
	Code   string
	Detail string
	Err    error // the cause, or nil
}

// RefusalCode returns Code.
func (e *RefusedError) RefusalCode() string { return e.Code }

func (e *RefusedError) Error() string {
	if e.Err != nil {
		return e.Code + ": " + e.Detail + ": " + e.Err.Error()
	}
	return e.Code + ": " + e.Detail
}

func (e *RefusedError) Unwrap() error { return e.Err }

func refuse(code, format string, args ...any) error {
	return &RefusedError{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// A DamagedError says that a log isn't whole: that below the size of its checkpoint something is missing or
// isn't what the checkpoint covers. Nothing is ever cut off to mend it.
type DamagedError struct {
	Path   string // in the log's directory
	Detail string
	Err    error // the cause, or nil
}

// RefusalCode returns "log-damaged".
func (e *DamagedError) RefusalCode() string { return "log-damaged" }

func (e *DamagedError) Error() string {
	s := "log is damaged: " + e.Path + ": " + e.Detail
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *DamagedError) Unwrap() error { return e.Err }

var (
	// ErrReadOnly is what a log from [OpenReader] says to everything that would append.
	ErrReadOnly = errors.New("the log was opened for reading")
	// ErrLocked says that another process has the state directory or the spool.
	ErrLocked = errors.New("in use by another process")
	// ErrFailed says that an earlier append failed: what is on disk is known again after the log is reopened.
	ErrFailed = errors.New("an append failed before: close the log and open it again")
)
