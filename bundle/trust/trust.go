// Package trust says whose signatures count. It holds minisign keys and signatures and the slots they lie in
// (docs/format.md, section 10), and the trust root that lists holders, channels, roles, thresholds and stations
// (section 11).
//
// A [Document] is a trust.json that anybody may have written. A [Root] is one that enough of its root holders
// have signed: [Accept] and [Load] alone give it, and only a Root authorises anything.
package trust

import (
	"errors"
	"fmt"
)

// The codes of refusals (docs/format.md, section 12). A code that was released never changes its meaning.
const (
	CodeBadSlot        = "bad-slot"        // a slot holds neither newlines nor exactly one signature, or comes after a gap
	CodeBadSignature   = "bad-signature"   // a listed key's id, but the signature isn't that key's over this message
	CodeUnknownSigner  = "unknown-signer"  // no holder in the trust root has the key
	CodeUnknownChannel = "unknown-channel" // the trust root has no such channel
	CodeWrongRole      = "wrong-role"      // the signer is neither preparer nor approver of the channel
	CodeThreshold      = "threshold"       // too few distinct holders of a role have signed
	CodeBadTrust       = "bad-trust"       // trust.json or a signature beside it is not acceptable
	CodeTrustThreshold = "trust-threshold" // too few distinct root holders have signed trust.json
)

// A RefusedError says that a bundle or a trust root is not acceptable, as opposed to not readable.
type RefusedError struct {
	Code   string // one of the Code constants
	Detail string // what was refused and, where that helps, what to do
	Err    error  // the cause, or nil
}

func (e *RefusedError) Error() string {
	if e.Err != nil {
		return e.Detail + ": " + e.Err.Error()
	}
	return e.Detail
}

func (e *RefusedError) Unwrap() error { return e.Err }

// RefusalCode returns the stable code of the refusal.
func (e *RefusedError) RefusalCode() string { return e.Code }

func refuse(code string, err error, format string, args ...any) error {
	return &RefusedError{Code: code, Detail: fmt.Sprintf(format, args...), Err: err}
}

const maxNameBytes = 63

var errName = errors.New("a name is 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit")

// CheckName tells whether name may stand for a holder, channel, station or group (docs/format.md, section 9).
// Such a name is safe as a part of a file name.
func CheckName(name string) error {
	bad := len(name) == 0 || len(name) > maxNameBytes || name[0] == '-' || name[len(name)-1] == '-'
	for i := 0; i < len(name) && !bad; i++ {
		c := name[i]
		bad = !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-')
	}
	if bad {
		return fmt.Errorf("%+.80q: %w", name, errName)
	}
	return nil
}
