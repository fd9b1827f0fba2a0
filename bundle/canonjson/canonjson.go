// Package canonjson is the JSON of Sallyport's formats (docs/format.md, section 3): RFC 8785 canonical form
// followed by one newline, with integers only. What [Decode] takes is exactly what [Encode] gives, so one
// value has one spelling and a signature covers no second reading.
//
// The types it is used with list their fields in the order of their JSON names and hold no floats, maps or
// interfaces; the names are ASCII. With that, the order of RFC 8785, section 3.2.3, is the order of the fields.
package canonjson

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// MaxInt is the largest integer that may occur, 2^53−1 (RFC 8785, section 3.1; I-JSON, RFC 7493, section 2.2).
const MaxInt = 1<<53 - 1

// ErrNotCanonical is what [Decode] returns for JSON that has the right members but another spelling.
var ErrNotCanonical = errors.New("not in canonical form (RFC 8785 and one newline)")

// Encode returns v in canonical form with the newline at its end.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	if err := json.MarshalWrite(&b, v, json.FormatNilSliceAsNull(false)); err != nil {
		return nil, fmt.Errorf("encode JSON: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// Decode reads data into v and refuses whatever Encode wouldn't have written for the result: unknown and
// duplicate names, invalid UTF-8, other orders, spaces, escapes or number forms. data longer than limit bytes
// is refused before it is looked at. Errors name the byte offset where there is one.
func Decode(data []byte, v any, limit int) error {
	if len(data) > limit {
		return fmt.Errorf("decode JSON: %d bytes, the limit is %d", len(data), limit)
	}
	if err := checkIntegers(data); err != nil {
		return err
	}
	dec := jsontext.NewDecoder(bytes.NewReader(data))
	if err := json.UnmarshalDecode(dec, v, json.RejectUnknownMembers(true)); err != nil {
		return fmt.Errorf("decode JSON: %w", err)
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return fmt.Errorf("decode JSON: data after the value, from byte %d", dec.InputOffset())
	}
	again, err := Encode(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return fmt.Errorf("decode JSON: byte %d: %w", firstDifference(again, data), ErrNotCanonical)
	}
	return nil
}

// checkIntegers refuses numbers that another reader could round: beyond ±MaxInt, or not integers.
func checkIntegers(data []byte) error {
	dec := jsontext.NewDecoder(bytes.NewReader(data))
	for {
		tok, err := dec.ReadToken()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("decode JSON: %w", err)
		case tok.Kind() != '0':
			continue
		}
		if n, err := strconv.ParseInt(tok.String(), 10, 64); err != nil || n > MaxInt || n < -MaxInt {
			return fmt.Errorf("decode JSON: byte %d: %s is not an integer of at most 2^53-1", dec.InputOffset(), tok)
		}
	}
}

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
