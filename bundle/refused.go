package bundle

import "fmt"

// RefusedError says that a payload or a bundle is not acceptable. Code is one of docs/format.md, section 12,
// and stable; Detail names the file, block or field and the reason.
type RefusedError struct {
	Code   string
	Detail string
	Err    error // the cause, or nil
}

func (e *RefusedError) Error() string {
	if e.Err != nil {
		return e.Code + ": " + e.Detail + ": " + e.Err.Error()
	}
	return e.Code + ": " + e.Detail
}

func (e *RefusedError) Unwrap() error { return e.Err }

// RefusalCode returns Code.
func (e *RefusedError) RefusalCode() string { return e.Code }

func refuse(code, format string, args ...any) error {
	return &RefusedError{Code: code, Detail: fmt.Sprintf(format, args...)}
}
