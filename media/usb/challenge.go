package usb

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"math/big"
)

// Challenge is a code that is shown on the screen and has to be typed on a keyboard. A device that only pretends to have
// keys can't see it: it has one chance in a million, three times.
type Challenge struct {
	Code string // six digits

	tries int
}

// ErrWrongCode is wrapped by the error for a wrong code.
var ErrWrongCode = errors.New("that is not the code on the screen")

// ChallengeTries is how often a code may be typed.
const ChallengeTries = 3

// NewChallenge makes a code of the machine's random numbers. Digits are where they are on all keyboards.
func NewChallenge() (*Challenge, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(1_000_000))
	if err != nil {
		return nil, fmt.Errorf("make a code: %w", err)
	}
	return &Challenge{Code: fmt.Sprintf("%06d", n)}, nil
}

// try says whether what was typed is the code, and how many tries are left if not. After the last one nothing is right.
func (c *Challenge) try(typed string) (left int, ok bool) {
	if c.tries >= ChallengeTries {
		return 0, false
	}
	c.tries++
	if subtle.ConstantTimeCompare([]byte(typed), []byte(c.Code)) == 1 && len(c.Code) == 6 {
		return 0, true
	}
	return ChallengeTries - c.tries, false
}
