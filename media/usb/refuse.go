package usb

import (
	"errors"
	"fmt"
	"strings"
)

// The codes of refusals. A code that was released never changes its meaning.
const (
	CodeMalformed  = "usb-malformed"        // the descriptors are not as the standard wants them
	CodeMixed      = "usb-mixed-functions"  // U1: storage or a keyboard, and something beside it
	CodeClass      = "usb-class"            // U1: nothing that the gate knows
	CodePolicy     = "usb-policy"           // U4: no rule allows it, or one blocks it
	CodeChanged    = "usb-changed"          // U2: other descriptors than those that were judged
	CodeDisagrees  = "usb-kernel-disagrees" // what the kernel made of it is not what was judged
	CodeNoUnit     = "usb-no-unit"          // U3: no logical unit answers
	CodeUnits      = "usb-several-units"    // U3: more than one
	CodeUnitType   = "usb-unit-type"        // U3: one that is neither disk nor optical drive, or not the one that is allowed
	CodeBoundEarly = "usb-bound-early"      // a kernel driver has got at the medium
	CodeNoAnswer   = "usb-no-answer"        // U7: it didn't answer in time
	CodeWrongCode  = "usb-wrong-code"       // a keyboard on which the code was not typed
)

// ErrGone is wrapped by an error that says that a device was pulled out. That is no refusal.
var ErrGone = errors.New("the device is gone")

// RefusedError says that a device stays out, or was put out. Code is stable; Detail is for people.
type RefusedError struct {
	Code   string
	Detail string
	Device *Attached // that was refused
	Err    error     // the cause, or nil
}

// Error names the device and what it claims to be; it can be shown on any screen.
func (e *RefusedError) Error() string {
	text := fmt.Sprintf("%s: %s stays out: %s", e.Code, e.Device, e.Detail)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *RefusedError) Unwrap() error { return e.Err }

// RefusalCode returns Code.
func (e *RefusedError) RefusalCode() string { return e.Code }

func (a *Attached) refuse(code, detail string, err error) error {
	return &RefusedError{Code: code, Detail: detail, Device: a, Err: err}
}

// refuseClaims says why a device whose descriptors are good is of no class that could be let in.
func (a *Attached) refuseClaims() error {
	interfaces := 0
	var oneOfOurs bool
	for i := range a.Descriptors.Configurations {
		c := &a.Descriptors.Configurations[i]
		numbers := c.interfaces()
		interfaces = max(interfaces, len(numbers))
		for _, s := range c.AltSettings {
			for _, set := range [][]Triple{plainDisk, optical, bootKeyboard} {
				oneOfOurs = oneOfOurs || contains(set, s.Function)
			}
		}
	}
	if !oneOfOurs {
		return a.refuse(CodeClass, "it is no stick, recorder, keyboard or hub", nil)
	}
	detail := "what is beside its storage or keyboard must not be there"
	if interfaces > 1 {
		detail = fmt.Sprintf("it has %d interfaces, and a stick has exactly one", interfaces)
		if strings.Contains(a.Descriptors.Claims(), "keyboard") {
			detail = fmt.Sprintf("it has %d interfaces; a stick has exactly one, and a keyboard none but input devices", interfaces)
		}
	}
	return a.refuse(CodeMixed, detail, nil)
}

func contains(set []Triple, t Triple) bool {
	for _, s := range set {
		if s == t {
			return true
		}
	}
	return false
}
