package scsi

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Sense data as SPC-3 4.5 lays it out, byte by byte.
func TestParseSense(t *testing.T) {
	for _, tt := range []struct {
		name, in, err string
		want          SenseError
	}{
		{name: "fixed, becoming ready", in: "70 00 02 00 00 00 00 0a 00 00 00 00 04 01 00 00 00 00",
			want: SenseError{Key: 2, ASC: 4, ASCQ: 1}},
		{name: "fixed, write error with LBA", in: "f0 00 03 00 12 34 56 0a 00 00 00 00 0c 00 00 00 00 00",
			want: SenseError{Key: 3, ASC: 0x0c, Info: 0x123456, InfoValid: true}},
		{name: "fixed, deferred", in: "f1 00 03 00 00 00 40 0a 00 00 00 00 0c 02 00 00 00 00",
			want: SenseError{Key: 3, ASC: 0x0c, ASCQ: 2, Deferred: true, Info: 0x40, InfoValid: true}},
		{name: "fixed, progress", in: "70 00 02 00 00 00 00 0a 00 00 00 00 04 08 00 80 40 00",
			want: SenseError{Key: 2, ASC: 4, ASCQ: 8, Progress: 0x4000, ProgressValid: true}},
		{name: "fixed, bytes 15 to 17 of an illegal request are a field pointer", in: "70 00 05 00 00 00 00 0a 00 00 00 00 24 00 00 c0 00 04",
			want: SenseError{Key: 5, ASC: 0x24}},
		{name: "fixed, key only", in: "70 00 04 00", want: SenseError{Key: 4}},
		{name: "fixed, announced length hides the asc", in: "70 00 05 00 00 00 00 02 00 00 00 00 24 01",
			want: SenseError{Key: 5}},
		{name: "information not valid", in: "70 00 03 ff ff ff ff 0a 00 00 00 00 11 00 00 00 00 00",
			want: SenseError{Key: 3, ASC: 0x11}},
		{name: "reserved bits beside the key", in: "70 00 f6 00 00 00 00 0a 00 00 00 00 29 00",
			want: SenseError{Key: 6, ASC: 0x29}},
		{name: "descriptor, bare", in: "72 06 28 00 00 00 00 00",
			want: SenseError{Key: 6, ASC: 0x28}},
		{name: "descriptor, deferred with information", in: "73 03 0c 00 00 00 00 0c 00 0a 80 00 00 00 00 01 00 00 00 02",
			want: SenseError{Key: 3, ASC: 0x0c, Deferred: true, Info: 1<<32 | 2, InfoValid: true}},
		{name: "descriptor, unknown one first, then progress", in: "72 02 04 08 00 00 00 0c 80 02 00 00 02 06 00 00 80 01 00 00",
			want: SenseError{Key: 2, ASC: 4, ASCQ: 8, Progress: 0x100, ProgressValid: true}},
		{name: "descriptor leaves the data", in: "72 03 11 00 00 00 00 04 00 0a 80 00", err: "byte 8: descriptor of 10 bytes"},
		{name: "empty", in: "", err: "byte 0: truncated"},
		{name: "three bytes", in: "70 00 03", err: "byte 3: truncated"},
		{name: "no sense data", in: "00 00 00 00 00 00 00 00", err: "unknown response code 00h"},
		{name: "vendor format", in: "7f 00 00 00 00 00 00 00", err: "unknown response code 7fh"},
	} {
		got, err := ParseSense(unhex(t, tt.in))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got %v, %v, want an error with %q", tt.name, got, err, tt.err)
			}
			continue
		}
		if err != nil || *got != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
	}
}

func TestIs(t *testing.T) {
	at := func(key, asc, ascq byte) error {
		return fmt.Errorf("write: %w", &SenseError{Key: key, ASC: asc, ASCQ: ascq})
	}
	for _, tt := range []struct {
		err  error
		code Code
		want bool
	}{
		{at(2, 4, 8), LongWriteInProgress, true},
		{at(2, 4, 7), LongWriteInProgress, false},
		{at(3, 0x0c, 9), WriteError, true},
		{at(3, 0x0c, 0), WriteError, true},
		{at(3, 0x11, 0), WriteError, false},
		{at(1, 0x0c, 0), WriteError, false},
		{at(6, 0x28, 1), AnyUnitAttention, true},
		{at(6, 0x29, 0), MediumChanged, false},
		{at(5, 0x29, 0), AnyUnitAttention, false},
		{at(2, 0x30, 2), IncompatibleMedium, true},
		{at(5, 0x30, 5), IncompatibleMedium, true},
		{at(5, 0x31, 5), IncompatibleMedium, false},
		{at(0, 0, 0), Code(0), true},
		{at(2, 0x3a, 2), NoMedium, true},
		{io.EOF, Code(0), false},
		{StatusBusy, Code(0x08), false},
	} {
		if got := errors.Is(tt.err, tt.code); got != tt.want {
			t.Errorf("errors.Is(%v, %v) = %v, want %v", tt.err, tt.code, got, tt.want)
		}
	}
}

func TestWords(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&SenseError{Key: 3, ASC: 0x0c, Deferred: true, Info: 64, InfoValid: true}, "deferred sense 3/0c/00 (medium error: write error), information 64"},
		{&SenseError{Key: 2, ASC: 0x04, ASCQ: 0x08}, "sense 2/04/08 (not ready: logical unit not ready, long write in progress)"},
		{&SenseError{Key: 3, ASC: 0x73, ASCQ: 0x03}, "sense 3/73/03 (medium error: power calibration area error)"},
		{&SenseError{Key: 5, ASC: 0x72, ASCQ: 0x99}, "sense 5/72/99 (illegal request: session fixation error)"},
		{&SenseError{Key: 9, ASC: 0xfe, ASCQ: 0x01}, "sense 9/fe/01 (vendor specific)"},
		{WriteError, "sense 3/0c/* (medium error: write error)"},
		{IncompatibleMedium, "sense */30/* (any key: incompatible medium installed)"},
		{AnyUnitAttention, "sense 6/*/* (unit attention)"},
		{Status(0x08), "status 08h (busy)"},
		{Status(0x77), "status 77h"},
		{&TransportError{Err: ErrGone}, "transport: device is gone from the bus"},
		{&TransportError{Host: 3, Driver: 6, Err: ErrTimeout}, "transport (host status 03h, driver status 06h): no answer within the time limit"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got  %q\nwant %q", got, tt.want)
		}
	}
	if !errors.Is(fmt.Errorf("x: %w", &TransportError{Err: ErrTimeout}), ErrTimeout) {
		t.Error("a transport error hides its cause")
	}
}

func TestRecovered(t *testing.T) {
	for _, tt := range []struct {
		e    SenseError
		want bool
	}{
		{SenseError{Key: 1, ASC: 0x73, ASCQ: 1}, true},
		{SenseError{Key: 0}, true},
		{SenseError{Key: 1, ASC: 0x73, ASCQ: 1, Deferred: true}, false},
		{SenseError{Key: 3}, false},
	} {
		if got := tt.e.Recovered(); got != tt.want {
			t.Errorf("%v: recovered %v, want %v", &tt.e, got, tt.want)
		}
	}
}

func FuzzParseSense(f *testing.F) {
	for _, s := range []string{
		"70 00 02 00 00 00 00 0a 00 00 00 00 04 01 00 80 40 00",
		"f1 00 03 00 00 00 40 0a 00 00 00 00 0c 02 00 00 00 00",
		"73 03 0c 00 00 00 00 0c 00 0a 80 00 00 00 00 01 00 00 00 02",
		"72 02 04 08 00 00 00 0c 80 02 00 00 02 06 00 00 80 01 00 00",
		"72 00 00 00 00 00 00 ff 00 00",
	} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseSense(b)
		if (e == nil) == (err == nil) {
			t.Fatalf("got %v and %v", e, err)
		}
		if err == nil && (e.Key > 0xF || e.Error() == "" || !errors.Is(e, e.Code())) {
			t.Fatalf("%x: %+v", b, e)
		}
	})
}
