package wipe

import (
	"context"
	"errors"
)

// Results of a run.
const (
	ResultDone      = "done"
	ResultFailed    = "failed"
	ResultCancelled = "cancelled"
)

// What became of Options.Discard.
const (
	DiscardNotAsked    = "not-asked"
	DiscardDone        = "done"
	DiscardUnsupported = "unsupported"
)

// MediumInfo is which medium it was. The caller fills in what it knows, as
// texts that are fit to be shown; Run knows the numbers.
type MediumInfo struct {
	BlockSize  int    `json:"block_size"` // bytes
	Descriptor string `json:"descriptor"` // SHA-256 of its USB descriptors, hex
	Port       string `json:"port"`       // where it was plugged in
	Product    string `json:"product"`
	Revision   string `json:"revision"`
	Serial     string `json:"serial"`
	Size       int64  `json:"size"` // bytes, as claimed
	Vendor     string `json:"vendor"`
}

// Pass is one pass over the whole medium.
type Pass struct {
	Pattern  string `json:"pattern"`  // "random", or the byte in hex
	Read     int64  `json:"read"`     // bytes, read back and compared
	Verified bool   `json:"verified"` // all of it was written and read back equal
	Written  int64  `json:"written"`  // bytes
}

// Failure is where a run ended before its time, and why.
type Failure struct {
	Error  string `json:"error"`
	Offset int64  `json:"offset"` // bytes, -1: no one place
	Phase  Phase  `json:"phase"`
}

// Record is what is kept of the erasure of a medium, after NIST SP 800-88
// revision 1, section 4.7.3 and appendix G. The caller fills in Medium's texts,
// Note, Operator, Station and Tool. Fields stand in the order of their names,
// as canonical JSON (RFC 8785) has them, and are integers and texts.
type Record struct {
	Capacity   *Verdict   `json:"capacity"` // null: not tested
	Discard    string     `json:"discard"`  // DiscardNotAsked, ...
	End        int64      `json:"end"`      // Unix seconds
	Failure    *Failure   `json:"failure"`  // null: there was none
	Medium     MediumInfo `json:"medium"`
	Method     Method     `json:"method"`
	Mismatched int64      `json:"mismatched"` // sectors of 512 bytes that did not read as written
	Mismatches []Mismatch `json:"mismatches"` // the first of them, never null
	Note       string     `json:"note"`
	Operator   string     `json:"operator"` // who did it
	Passes     []Pass     `json:"passes"`   // never null, as far as it came
	Result     string     `json:"result"`   // ResultDone, ...

	// Sanitization is "Clear", always: what the host can't reach is not
	// overwritten. Technique is "overwrite", Verification "full": each pass is
	// read back and compared whole, or the result isn't ResultDone.
	Sanitization string `json:"sanitization"`
	Standard     string `json:"standard"` // "NIST SP 800-88r1"
	Start        int64  `json:"start"`    // Unix seconds
	Station      string `json:"station"`  // where it was done
	Technique    string `json:"technique"`
	Tool         string `json:"tool"` // name and version
	Type         string `json:"type"` // "sallyport-erasure"
	Verification string `json:"verification"`
	Version      int    `json:"version"`
}

func newRecord(m Medium, opt *Options) *Record {
	r := &Record{
		Type: "sallyport-erasure", Version: 1, Standard: "NIST SP 800-88r1",
		Sanitization: "Clear", Technique: "overwrite", Verification: "full",
		Method: opt.Method, Medium: MediumInfo{Size: m.Size(), BlockSize: m.BlockSize()},
		Passes: []Pass{}, Mismatches: []Mismatch{}, Discard: DiscardNotAsked, Result: ResultFailed,
	}
	if r.Method == "" {
		r.Method = Random
	}
	return r
}

// note takes over what a pass found.
func (r *Record) note(pass int, t *tally) {
	r.Mismatched += t.bad
	for _, m := range t.first {
		if len(r.Mismatches) < maxMismatches {
			m.Pass = pass
			r.Mismatches = append(r.Mismatches, m)
		}
	}
}

// finish says how a run ended. Success needs every pass verified.
func (r *Record) finish(err error) {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		r.Result = ResultCancelled
	case err != nil:
		r.Result = ResultFailed
	default:
		r.Result = ResultDone
	}
	if err != nil && r.Failure == nil {
		r.Failure = &Failure{Offset: -1, Error: err.Error()}
	}
}
