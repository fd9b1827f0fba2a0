package drivesim

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// readFaults reads a faults file; one that isn't there holds none.
func readFaults(path string) ([]*armed, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	faults, err := ParseFaults(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var a []*armed
	for _, f := range faults {
		a = append(a, &armed{Fault: f})
	}
	return a, nil
}

const maxFaults = 10_000

// ParseFaults reads faults as the package comment describes them. An error
// names the line.
func ParseFaults(r io.Reader) ([]Fault, error) {
	var faults []Fault
	s := bufio.NewScanner(r)
	for n := 1; s.Scan(); n++ {
		line, _, _ := strings.Cut(s.Text(), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		f, err := parseFault(words)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if len(faults) == maxFaults {
			return nil, fmt.Errorf("line %d: more than %d faults", n, maxFaults)
		}
		faults = append(faults, f)
	}
	return faults, s.Err()
}

func parseFault(w []string) (f Fault, err error) {
	if w[0] == "medium" {
		return parseMediumFault(w[1:])
	}
	if w[0] == "before" || w[0] == "after" {
		f.After = w[0] == "after"
		w = w[1:]
	}
	if len(w) == 0 {
		return f, errors.New("no command")
	}
	if f.Command = w[0]; f.Command == "any" {
		f.Command = ""
	} else if !known(f.Command) {
		return f, fmt.Errorf("unknown command %q", f.Command)
	}
	if w = w[1:]; len(w) >= 2 && w[0] == "lba" {
		if err := f.parseLBA(w[1]); err != nil {
			return f, err
		}
		w = w[2:]
	}
	switch {
	case len(w) >= 2 && (w[0] == "nth" || w[0] == "from"):
		n, err := strconv.ParseUint(w[1], 10, 31)
		if err != nil || n == 0 {
			return f, fmt.Errorf("bad count %q", w[1])
		}
		f.Nth, f.On = int(n), w[0] == "from"
		w = w[2:]
	case len(w) >= 1 && w[0] == "always":
		f.On = true
		w = w[1:]
	}
	return f, f.parseAction(w)
}

func (f *Fault) parseLBA(s string) error {
	from, to, span := strings.Cut(s, "-")
	if !span {
		to = from
	}
	a, errA := strconv.ParseUint(from, 10, 32)
	b, errB := strconv.ParseUint(to, 10, 32)
	if errA != nil || errB != nil || b < a || b-a >= 1<<32-1 {
		return fmt.Errorf("bad lba %q", s)
	}
	f.LBA, f.Blocks = uint32(a), uint32(b-a+1)
	return nil
}

func (f *Fault) parseAction(w []string) (err error) {
	if len(w) == 0 {
		return errors.New("no action")
	}
	arg := strings.Join(w[1:], " ")
	switch w[0] {
	case "sense", "deferred":
		f.Action = Sense
		if w[0] == "deferred" {
			f.Action = Deferred
		}
		f.Sense, err = parseSenseCode(arg)
	case "timeout", "gone", "tray", "reset":
		f.Action = map[string]Action{"timeout": Timeout, "gone": Gone, "tray": Tray, "reset": Reset}[w[0]]
		if arg != "" {
			err = fmt.Errorf("%s takes no argument", w[0])
		}
	case "slow":
		f.Action = Slow
		f.Delay, err = parseDuration(arg)
	case "busy":
		f.Action = Busy
		code, span, _ := strings.Cut(arg, " ")
		if f.Sense, err = parseSenseCode(code); err == nil {
			f.Delay, err = parseDuration(span)
		}
	case "status":
		f.Action = BadStatus
		var n uint64
		if n, err = strconv.ParseUint(arg, 16, 8); err != nil || n == 0 || n == 2 {
			err = fmt.Errorf("bad status %q, want a SAM status in hex other than good and check condition", arg)
		}
		f.N = int(n)
	case "reply":
		f.Action = Reply
		err = f.parseReply(w[1:])
	case "short":
		f.Action = Short
		f.N, err = parseCount(arg, 1<<24)
	case "flip":
		f.Action = Flip
		f.N, err = strconv.Atoi(arg)
		if err != nil || f.N < 0 || f.N >= blockSize || f.Command != "read" && f.Command != "write" {
			err = fmt.Errorf("bad flip %q (of read or write, 0 to %d)", arg, blockSize-1)
		}
	default:
		err = fmt.Errorf("unknown action %q", w[0])
	}
	return err
}

func parseMediumFault(w []string) (f Fault, err error) {
	kinds := map[string]Action{"padding": Padding, "surplus": Surplus, "runout": RunOut, "sessions": Sessions}
	if len(w) != 2 {
		return f, errors.New("want medium KIND N")
	}
	a, ok := kinds[w[0]]
	if !ok {
		return f, fmt.Errorf("unknown fault of the medium %q", w[0])
	}
	n, err := strconv.ParseUint(w[1], 10, 32)
	if err != nil || n > maxCapacity || a == Sessions && n > 99 {
		return f, fmt.Errorf("bad number %q", w[1])
	}
	return Fault{Action: a, N: int(n)}, nil
}

// parseSenseCode reads K/AA/QQ in hex.
func parseSenseCode(s string) (uint32, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return 0, fmt.Errorf("bad sense %q, want K/AA/QQ", s)
	}
	code := uint32(0)
	for i, p := range parts {
		bits := 8
		if i == 0 {
			bits = 4
		}
		v, err := strconv.ParseUint(p, 16, bits)
		if err != nil || len(p) > 2 {
			return 0, fmt.Errorf("bad sense %q, want K/AA/QQ", s)
		}
		code = code<<8 | uint32(v)
	}
	return code, nil
}

func known(name string) bool {
	for _, c := range commands {
		if c.name == name {
			return true
		}
	}
	return false
}

// parseReply reads OFFSET HEX.
func (f *Fault) parseReply(w []string) (err error) {
	if len(w) != 2 {
		return errors.New("want reply OFFSET HEX")
	}
	if f.N, err = parseCount(w[0], 1<<24); err != nil {
		return err
	}
	b, err := hex.DecodeString(w[1])
	if err != nil || len(b) == 0 || len(b) > 4096 {
		return fmt.Errorf("bad bytes %.40q", w[1])
	}
	f.Data = string(b)
	return nil
}

func parseCount(s string, most int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("bad number %q (0 to %d)", s, most)
	}
	return n, nil
}

func parseDuration(s string) (time.Duration, error) {
	t, err := time.ParseDuration(s)
	if err == nil && (t < 0 || t > 24*time.Hour) {
		err = fmt.Errorf("bad duration %q", s)
	}
	return t, err
}
