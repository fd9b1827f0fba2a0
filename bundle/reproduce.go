package bundle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Reproduce lays a signer's own copy of a payload out as the seal has it, reads it whole, and compares what comes
// of it with the seal to the last member; no image is written. sealed is the manifest that the seal speaks of, if
// the caller has it: the refusal, code not-reproduced, says then which entries differ, and [Diff] finds them all.
// leaveOut is as in [Options]. The copy's entries are returned also with that refusal, with digests if sealed was given.
func Reproduce(ctx context.Context, fsys fs.FS, seal *Seal, sealed []Entry, leaveOut func(path string) bool, progress Progress) ([]Entry, error) {
	opt := seal.Options()
	opt.LeaveOut = leaveOut
	p, err := NewPlan(ctx, fsys, opt)
	if err != nil {
		return nil, err
	}
	if sealed == nil {
		err := p.Expect(seal, nil)
		if err == nil {
			_, err = p.Seal(ctx, progress)
		}
		return p.entries, notReproduced(err, nil)
	}
	got, err := p.Seal(ctx, progress)
	if err != nil {
		return nil, err
	}
	return p.entries, notReproduced(sameSeal(got, seal), diffText(sealed, p.entries))
}

func notReproduced(err error, differences []string) error {
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Code != "seal-differs" {
		return err
	}
	detail := "this copy is not what was sealed"
	if len(differences) > 0 {
		detail += ": " + strings.Join(differences, ", ")
	}
	return &RefusedError{Code: "not-reproduced", Detail: detail, Err: errors.New(refused.Detail)}
}

// diffText counts the differences between what was sealed and a copy, and names the first.
func diffText(sealed, own []Entry) []string {
	var text []string
	only, missing, other := 0, 0, 0
	for c := range Diff(sealed, own) {
		what := ""
		switch {
		case c.Old == nil:
			only++
			what = "only in this copy"
		case c.New == nil:
			missing++
			what = "missing in it"
		default:
			other++
			what = strings.Join(c.What(), ", ")
		}
		if len(text) == 0 {
			text = []string{fmt.Sprintf("%q (%s)", c.Path(), what)}
		}
	}
	for _, n := range []struct {
		count int
		what  string
	}{{only, "only in it"}, {missing, "missing in it"}, {other, "different"}} {
		if n.count > 0 {
			text = append(text, fmt.Sprintf("%d %s", n.count, n.what))
		}
	}
	return text
}
