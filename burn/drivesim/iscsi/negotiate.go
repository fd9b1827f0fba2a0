package iscsi

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// parameters are a session's operational values (RFC 7143 13), with their
// defaults where the initiator doesn't speak of them.
type parameters struct {
	initiator string
	target    string
	discovery bool

	sendSegment   int // bytes of data in one PDU to the initiator
	maxBurst      int // bytes in one sequence of data
	firstBurst    int // bytes that may come unasked
	initialR2T    bool
	immediateData bool
}

func defaults() parameters {
	return parameters{sendSegment: maxLoginSegment, maxBurst: maxSegment, firstBurst: 64 << 10, initialR2T: true, immediateData: true}
}

// rule takes one key's value in and answers it.
type rule func(p *parameters, v string) (answer string, err error)

// declared has no answer (RFC 7143 6.2).
const declared = ""

// rules are the keys that are known, RFC 7143 13 and RFC 7144.
var rules = map[string]rule{
	"InitiatorName": func(p *parameters, v string) (string, error) {
		p.initiator = v
		return declared, nil
	},
	"TargetName": func(p *parameters, v string) (string, error) {
		p.target = v
		return declared, nil
	},
	"SessionType": func(p *parameters, v string) (string, error) {
		if v != "Normal" && v != "Discovery" {
			return "", fmt.Errorf("SessionType=%q is neither Normal nor Discovery", v)
		}
		p.discovery = v == "Discovery"
		return declared, nil
	},
	"InitiatorAlias": func(*parameters, string) (string, error) { return declared, nil },

	"AuthMethod":     oneOf("None"),
	"HeaderDigest":   oneOf("None"),
	"DataDigest":     oneOf("None"),
	"TaskReporting":  oneOf("RFC3720"),
	"MaxConnections": numeric(1, 65535, func(*parameters, int) int { return 1 }),
	"MaxRecvDataSegmentLength": numeric(512, 1<<24-1, func(p *parameters, n int) int {
		p.sendSegment = min(n, maxSegment)
		return -1
	}),
	"MaxBurstLength": numeric(512, 1<<24-1, func(p *parameters, n int) int {
		p.maxBurst = min(n, maxSegment)
		return p.maxBurst
	}),
	"FirstBurstLength": numeric(512, 1<<24-1, func(p *parameters, n int) int {
		p.firstBurst = min(n, maxSegment)
		return p.firstBurst
	}),
	"MaxOutstandingR2T":  numeric(1, 65535, func(*parameters, int) int { return 1 }),
	"DefaultTime2Wait":   numeric(0, 3600, func(_ *parameters, n int) int { return n }),
	"DefaultTime2Retain": numeric(0, 3600, func(*parameters, int) int { return 0 }),
	"ErrorRecoveryLevel": numeric(0, 2, func(*parameters, int) int { return 0 }),
	"iSCSIProtocolLevel": numeric(0, 31, func(_ *parameters, n int) int { return min(n, 1) }),

	"InitialR2T": boolean(func(p *parameters, yes bool) bool {
		p.initialR2T = yes
		return yes
	}),
	"ImmediateData": boolean(func(p *parameters, yes bool) bool {
		p.immediateData = yes
		return yes
	}),
	"DataPDUInOrder":      boolean(func(*parameters, bool) bool { return true }),
	"DataSequenceInOrder": boolean(func(*parameters, bool) bool { return true }),
	// Of RFC 3720; later versions have done away with markers.
	"IFMarker": boolean(func(*parameters, bool) bool { return false }),
	"OFMarker": boolean(func(*parameters, bool) bool { return false }),
}

// oneOf picks the only value of a list that we have.
func oneOf(have string) rule {
	return func(_ *parameters, v string) (string, error) {
		if slices.Contains(strings.Split(v, ","), have) {
			return have, nil
		}
		return "Reject", nil
	}
}

// numeric answers what set makes of a number; nothing when that is negative.
func numeric(low, high int, set func(*parameters, int) int) rule {
	return func(p *parameters, v string) (string, error) {
		n, ok := number(v)
		if !ok || n < low || n > high {
			return "Reject", nil
		}
		if n = set(p, n); n < 0 {
			return declared, nil
		}
		return strconv.Itoa(n), nil
	}
}

func boolean(set func(*parameters, bool) bool) rule {
	return func(p *parameters, v string) (string, error) {
		if v != "Yes" && v != "No" {
			return "Reject", nil
		}
		if set(p, v == "Yes") {
			return "Yes", nil
		}
		return "No", nil
	}
}

// negotiate takes what the initiator says and returns the answers. seen holds
// the keys of this login: none may come twice (RFC 7143 6.3).
func (p *parameters) negotiate(pairs []pair, seen map[string]bool) ([]pair, error) {
	var out []pair
	for _, kv := range pairs {
		if seen[kv.key] {
			return nil, fmt.Errorf("key %s twice", kv.key)
		}
		seen[kv.key] = true
		r, ok := rules[kv.key]
		if !ok {
			out = append(out, pair{kv.key, "NotUnderstood"})
			continue
		}
		answer, err := r(p, kv.value)
		if err != nil {
			return nil, err
		}
		if answer != declared {
			out = append(out, pair{kv.key, answer})
		}
	}
	return out, nil
}
