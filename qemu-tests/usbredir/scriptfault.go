package usbredir

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// parseFault reads COMMAND [lba N[-M]] [after N] [nth N|from N|always] ACTION.
func parseFault(w []string) (f Fault, err error) {
	if f.Command = w[0]; f.Command == "any" {
		f.Command = ""
	} else if commands[f.Command] == nil {
		return f, fmt.Errorf("unknown word or command %q", f.Command)
	}
	if w = w[1:]; len(w) >= 2 && w[0] == "lba" {
		if err := f.parseLBA(w[1]); err != nil {
			return f, err
		}
		w = w[2:]
	}
	if len(w) >= 2 && w[0] == "after" {
		if f.After, err = strconv.ParseInt(w[1], 10, 63); err != nil || f.After <= 0 {
			return f, fmt.Errorf("bad number of blocks %q", w[1])
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
	a, errA := strconv.ParseUint(from, 10, 48)
	b, errB := strconv.ParseUint(to, 10, 48)
	if errA != nil || errB != nil || b < a {
		return fmt.Errorf("bad lba %q", s)
	}
	f.LBA, f.Blocks = a, b-a+1
	return nil
}

func (f *Fault) parseAction(w []string) (err error) {
	plain := map[string]Action{"silent": Silent, "stall": Stall, "gone": Pulled, "phase": Phase, "tag": Tag}
	switch {
	case len(w) == 0:
		return errors.New("no action")
	case len(w) == 1:
		action, ok := plain[w[0]]
		if !ok {
			return fmt.Errorf("unknown action %q, or one without its argument", w[0])
		}
		f.Action = action
	case w[0] == "sense" && len(w) == 2:
		f.Action = Sense
		f.Sense, err = parseSense(w[1])
	case w[0] == "slow" && len(w) == 2:
		f.Action = Slow
		if f.Delay, err = time.ParseDuration(w[1]); err != nil || f.Delay < 0 || f.Delay > time.Hour {
			return fmt.Errorf("bad duration %q", w[1])
		}
	case w[0] == "short" && len(w) == 2:
		f.Action = Short
		f.N, err = parseCount(w[1])
	case w[0] == "reply" && len(w) == 3:
		f.Action = Reply
		b, bad := hex.DecodeString(w[2])
		if bad != nil || len(b) == 0 || len(b) > 4096 {
			return fmt.Errorf("bad bytes %.40q", w[2])
		}
		f.Data = string(b)
		f.N, err = parseCount(w[1])
	default:
		return fmt.Errorf("unknown action %q", w)
	}
	return err
}

func parseCount(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("bad number %q (0 to 65535)", s)
	}
	return int(n), nil
}

// parseSense reads K/AA/QQ in hex.
func parseSense(s string) (uint32, error) {
	code := uint32(0)
	parts := strings.Split(s, "/")
	for i, part := range parts {
		bits := 8
		if i == 0 {
			bits = 4
		}
		v, err := strconv.ParseUint(part, 16, bits)
		if err != nil || len(part) > 2 || len(parts) != 3 {
			return 0, fmt.Errorf("bad sense %q, want K/AA/QQ", s)
		}
		code = code<<8 | uint32(v)
	}
	return code, nil
}
