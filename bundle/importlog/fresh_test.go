package importlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"sallyport/bundle/canonjson"
)

// logAccept writes an accept entry without a spool.
func logAccept(l *Log, channel string, sequence int64, previous string) (digest string, err error) {
	seal, d := testSeal(channel, sequence, previous, fmt.Sprint(channel, sequence))
	digest = hex.EncodeToString(d[:])
	_, err = l.append(&AcceptEntry{Kind: KindAccept, Seal: seal, SealDigest: digest, Signers: []Signer{}, Station: "north", Time: l.clock(when), Type: entryType})
	return digest, err
}

func logRelease(l *Log, digest string) error {
	_, err := l.append(&ReleaseEntry{Kind: KindRelease, Path: l.state.accepted[digest].path, SealDigest: digest, Station: "north", Time: l.clock(when), Type: entryType})
	return err
}

// T4, T6 and the rest of freshness, each with its code.
func TestCheckFresh(t *testing.T) {
	state, l := newLog(t, 1)
	one, err := logAccept(l, "tools", 1, "")
	check(t, err)
	check(t, logRelease(l, one))
	two, err := logAccept(l, "tools", 2, one)
	check(t, err)
	five, err := logAccept(l, "tools", 5, two)
	check(t, err)
	check(t, logRelease(l, five))
	if c, err := l.Channel("tools"); err != nil || c != (ChannelState{5, five, true}) {
		t.Errorf("channel: %+v, %v", c, err)
	}
	if c, err := l.Channel("other"); err != nil || c != (ChannelState{}) {
		t.Errorf("other channel: %+v, %v", c, err)
	}

	other := strings.Repeat("ab", 32)
	refusing, asking := Policy{Gaps: "refuse", MaxJump: 10}, Policy{Gaps: "reason", MaxJump: 10}
	tests := []struct {
		what   string
		c      Candidate
		policy Policy
		reason string
		code   string
	}{
		{"next", Candidate{"tools", 0, five, other, 6}, refusing, "", ""},
		{"released", Candidate{"tools", 0, two, five, 5}, refusing, "", "already-imported"},
		{"released long ago", Candidate{"tools", 0, "", one, 1}, refusing, "", "already-imported"},
		{"accepted, not released, older", Candidate{"tools", 0, one, two, 2}, refusing, "", "stale-sequence"},
		{"older", Candidate{"tools", 0, two, other, 4}, asking, "because", "stale-sequence"},
		{"same sequence, other content", Candidate{"tools", 0, two, other, 5}, asking, "because", "sequence-reused"},
		{"jump", Candidate{"tools", 0, five, other, 16}, asking, "because", "sequence-jump"},
		{"largest sequence", Candidate{"tools", 0, five, other, canonjson.MaxInt}, asking, "because", "sequence-jump"},
		{"largest step", Candidate{"tools", 0, five, other, 15}, asking, "because", ""},
		{"gap in the sequence", Candidate{"tools", 0, five, other, 7}, refusing, "because", "gap"},
		{"gap in the seals", Candidate{"tools", 0, two, other, 6}, refusing, "because", "gap"},
		{"gap, nobody says why", Candidate{"tools", 0, two, other, 6}, asking, "", "gap"},
		{"gap with a reason", Candidate{"tools", 0, two, other, 6}, asking, "because", ""},
		{"no policy", Candidate{"tools", 0, five, other, 6}, Policy{}, "", "sequence-jump"},
		{"first", Candidate{"other", 0, "", other, 1}, refusing, "", ""},
		{"first, later in the channel", Candidate{"other", 0, one, other, 3}, refusing, "", "gap"},
		{"first, far later", Candidate{"other", 0, one, other, 11}, asking, "because", "sequence-jump"},
		{"first with a previous", Candidate{"other", 0, one, other, 1}, refusing, "", "gap"},
		{"expired", Candidate{"tools", when.Unix(), five, other, 6}, refusing, "", "expired"},
		{"expires later", Candidate{"tools", when.Unix() + 1, five, other, 6}, refusing, "", ""},
	}
	for range 2 { // and once more from what is on disk
		for _, tt := range tests {
			err := l.CheckFresh(tt.c, tt.policy, when, tt.reason)
			if (err == nil) != (tt.code == "") || codeOf(err) != tt.code {
				t.Errorf("%s: %v, want %q", tt.what, err, tt.code)
			}
		}
		check(t, l.Close())
		l = reopen(t, state)
	}
	for what, c := range map[string]Candidate{
		"T13 channel":       {"../x", 0, "", other, 1},
		"encoded channel":   {"%2e%2e", 0, "", other, 1},
		"NUL in a channel":  {"a\x00", 0, "", other, 1},
		"sequence 0":        {"tools", 0, "", other, 0},
		"negative sequence": {"tools", 0, "", other, -1},
		"sequence at 2^53":  {"tools", 0, "", other, canonjson.MaxInt + 1},
		"no digest":         {"tools", 0, "", "", 6},
		"upper-case digest": {"tools", 0, "", strings.Repeat("AB", 32), 6},
		"bad previous":      {"tools", 0, "zz", other, 6},
	} {
		if err := l.CheckFresh(c, asking, when, "because"); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if _, err := l.Channel("../x"); err == nil {
		t.Error("T13: channel ../x has a state")
	}
}

// T5: the clock is set back behind a time that has certainly passed.
func TestTimeFloor(t *testing.T) {
	_, l := newLog(t, 0)
	seal, d := testSeal("tools", 1, "", "x")
	_, err := l.append(&AcceptEntry{Kind: KindAccept, Seal: seal, SealDigest: hex.EncodeToString(d[:]), Signers: []Signer{}, Station: "north", Time: 1_600_000_000, Type: entryType})
	check(t, err)
	// The seal was created in 1,700,000,000, more than a day after its acceptance by this clock.
	if got := l.TimeFloor().Unix(); got != 1_600_000_000+24*60*60 {
		t.Errorf("floor %d", got)
	}
	two, err := logAccept(l, "tools", 2, hex.EncodeToString(d[:]))
	check(t, err)
	if got := l.TimeFloor().Unix(); got != 1_700_000_000 {
		t.Errorf("floor %d", got)
	}
	c := Candidate{"tools", 1_700_000_000, two, strings.Repeat("ab", 32), 3}
	if err := l.CheckFresh(c, Policy{"refuse", 1}, time.Unix(1_000_000_000, 0), ""); codeOf(err) != "expired" {
		t.Errorf("clock set back: %v", err)
	}
	c.Expires++
	check(t, l.CheckFresh(c, Policy{"refuse", 1}, time.Unix(1_000_000_000, 0), ""))
}

// What no log of ours says: it is refused on writing and on reading.
func TestStateRules(t *testing.T) {
	state, l := newLog(t, 0)
	one, err := logAccept(l, "tools", 3, "")
	check(t, err)
	if _, err := logAccept(l, "tools", 3, ""); err == nil {
		t.Error("accepted twice")
	}
	if _, err := logAccept(l, "tools", 2, ""); err == nil {
		t.Error("accepted out of order")
	}
	release := func(path, digest string) error {
		_, err := l.append(&ReleaseEntry{Kind: KindRelease, Path: path, SealDigest: digest, Station: "north", Time: l.clock(when), Type: entryType})
		return err
	}
	right := l.state.accepted[one].path
	if err := release(right, strings.Repeat("ab", 32)); err == nil {
		t.Error("released what was never accepted")
	}
	if err := release("tools/../x", one); err == nil {
		t.Error("released elsewhere")
	}
	if l.Head().Tree.N != 1 {
		t.Errorf("%d entries", l.Head().Tree.N)
	}
	check(t, release(right, one))
	if err := release(right, one); err == nil {
		t.Error("released twice")
	}
	if _, err := logAccept(l, "tools", 4, one); err != nil {
		t.Errorf("after refused entries: %v", err)
	}
	check(t, l.Close())
	forged := `{"kind":"release","path":"` + right + `","seal_digest":"` + one + `","station":"north","time":1900000000,"type":"sallyport-log"}` + "\n"
	if _, err := reader(t, forge(t, state, forged)); codeOf(err) != "log-damaged" {
		t.Errorf("forged release: %v", err)
	}
}

func TestEntryRules(t *testing.T) {
	_, l := newLog(t, 0)
	seal, d := testSeal("tools", 1, "", "x")
	digest := hex.EncodeToString(d[:])
	good := AcceptEntry{Kind: KindAccept, Seal: seal, SealDigest: digest, Signers: []Signer{{"ann", "00", "approver"}}, Station: "north", Time: 1, Type: entryType}
	encode := func(change func(*AcceptEntry)) []byte {
		e := good
		change(&e)
		data, err := canonjson.Encode(&e)
		check(t, err)
		return data
	}
	if e, err := ParseEntry(encode(func(*AcceptEntry) {})); err != nil || e.Accept.seal.Sequence != 1 {
		t.Fatalf("%+v, %v", e, err)
	}
	repaired := encode(func(e *AcceptEntry) { e.Repaired = &Repair{Blocks: 3, Roots: 24, Unreadable: 3, Worst: 24} })
	if e, err := ParseEntry(repaired); err != nil || *e.Accept.Repaired != (Repair{3, 24, 3, 24}) {
		t.Errorf("%+v, %v", e, err)
	}
	const member = `"repaired":{"blocks":3,"roots":24,"unreadable":3,"worst":24}`
	for _, other := range []string{
		`"repaired":null`, `"repaired":{}`, `"repaired":[]`, `"repaired":{"blocks":3,"roots":24,"unreadable":3}`, `"repaired":{"blocks":3,"roots":24,"unreadable":3,"worst":"\u001b"}`,
		`"repaired":{"blocks":3,"roots":24,"unreadable":3,"worst":24,"x":1}`, `"repaired":{"roots":24,"blocks":3,"unreadable":3,"worst":24}`, `"repaired":{"blocks":3.5,"roots":24,"unreadable":3,"worst":24}`,
		member + "," + member,
	} {
		forged := bytes.Replace(repaired, []byte(member), []byte(other), 1)
		if bytes.Equal(forged, repaired) {
			t.Fatalf("%s has no %s", repaired, member)
		}
		if _, err := ParseEntry(forged); err == nil {
			t.Errorf("%s: taken", other)
		}
	}
	replaced := func(old, new string) func(*AcceptEntry) {
		return func(e *AcceptEntry) {
			e.Seal = []byte(strings.Replace(string(seal), old, new, 1))
			padded := append(bytes.Clone(e.Seal), bytes.Repeat([]byte{'\n'}, max(0, 8192-len(e.Seal)))...)
			e.SealDigest = fmt.Sprintf("%x", sha256.Sum256(padded))
		}
	}
	for what, change := range map[string]func(*AcceptEntry){
		"digest of another seal":   func(e *AcceptEntry) { e.SealDigest = strings.Repeat("ab", 32) },
		"seal in another order":    replaced(`"created":1700000000,"previous":""`, `"previous":"","created":1700000000`),
		"seal's channel":           replaced("tools", "../x"),
		"seal's sequence":          replaced(`"sequence":1`, `"sequence":0`),
		"seal's id":                replaced(`"bundle_id":"`, `"bundle_id":"../`),
		"seal's previous":          replaced(`"previous":""`, `"previous":"x"`),
		"seal is a list":           func(e *AcceptEntry) { e.Seal = []byte(`[]`) },
		"seal too long":            replaced("{", `{"a":"`+strings.Repeat("x", 8192)+`",`),
		"signers out of order":     func(e *AcceptEntry) { e.Signers = []Signer{{"zoe", "00", "approver"}, {"ann", "00", "preparer"}} },
		"T13 holder":               func(e *AcceptEntry) { e.Signers = []Signer{{"../x", "00", "approver"}} },
		"T13 NUL in a role":        func(e *AcceptEntry) { e.Signers = []Signer{{"ann", "00", "approver\x00"}} },
		"T13 station":              func(e *AcceptEntry) { e.Station = "../x" },
		"raw text in a reason":     func(e *AcceptEntry) { e.GapReason = "a\x1b" },
		"bidi control in a reason": func(e *AcceptEntry) { e.GapReason = "a\u202e" },
		"long reason":              func(e *AcceptEntry) { e.GapReason = strings.Repeat("x", 1025) },
		"negative time":            func(e *AcceptEntry) { e.Time = -1 },
		"type":                     func(e *AcceptEntry) { e.Type = "sallyport-seal" },
		"unknown kind":             func(e *AcceptEntry) { e.Kind = "accepted" },
		"repaired nothing":         func(e *AcceptEntry) { e.Repaired = &Repair{Roots: 24} },
		"repaired less than none":  func(e *AcceptEntry) { e.Repaired = &Repair{Blocks: -1, Roots: 24, Unreadable: -1} },
		"more unreadable than bad": func(e *AcceptEntry) { e.Repaired = &Repair{Blocks: 1, Roots: 24, Unreadable: 2} },
		"negative unreadable":      func(e *AcceptEntry) { e.Repaired = &Repair{Blocks: 1, Roots: 24, Unreadable: -1} },
		"repaired without parity":  func(e *AcceptEntry) { e.Repaired = &Repair{Blocks: 1} },
		"too many roots":           func(e *AcceptEntry) { e.Repaired = &Repair{Blocks: 1, Roots: 25} },
		"worse than can be":        func(e *AcceptEntry) { e.Repaired = &Repair{Blocks: 1, Roots: 24, Worst: 25} },
		"negative worst":           func(e *AcceptEntry) { e.Repaired = &Repair{Blocks: 1, Roots: 24, Worst: -1} },
	} {
		if _, err := ParseEntry(encode(change)); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if _, err := l.LogPrepared(append(seal, '\n', '\n'), when); err != nil {
		t.Errorf("prepare: %v", err)
	}
	if _, err := l.LogPrepared([]byte("{}"), when); err == nil {
		t.Error("prepare: an empty seal was logged")
	}
	if _, err := l.LogBurned(digest, []byte("{\"disc\":1}\n"), when); err != nil {
		t.Errorf("burn: %v", err)
	}
	for _, record := range []string{"", "[]", `{"b":1,"a":2}`, `{"a": 1}`, `{"a":1.5}`, `{"a":"` + strings.Repeat("x", 1<<16) + `"}`} {
		if _, err := l.LogBurned(digest, []byte(record), when); err == nil {
			t.Errorf("burn record %.40s was logged", record)
		}
	}
	for _, code := range []string{"", "Bad", "a b", "a\n", strings.Repeat("x", 65)} {
		if _, err := l.LogRefused(Refusal{Code: code}, when); err == nil {
			t.Errorf("code %q was logged", code)
		}
	}
	if l.Head().Tree.N != 2 || errors.Is(l.failed, ErrFailed) {
		t.Errorf("%d entries", l.Head().Tree.N)
	}
}

// F6: what an attacker names things is escaped and cut in the log.
func TestRefusalText(t *testing.T) {
	_, l := newLog(t, 0)
	nasty := "a\\b\x00\x1b[2J\n\xff\u202eé\ufe0f日本"
	_, err := l.LogRefused(Refusal{Code: "bad-name", Detail: nasty, Source: strings.Repeat("\x1b", 5000)}, when)
	check(t, err)
	_, err = l.LogRefused(Refusal{Code: "bad-name", Detail: strings.Repeat("é", 512), Source: strings.Repeat("é", 513), Channel: "tools", Sequence: 7, SealDigest: strings.Repeat("ab", 32)}, when)
	check(t, err)
	var got []*RefuseEntry
	for e, err := range l.Entries(t.Context(), 0) {
		check(t, err)
		got = append(got, e.Refuse)
	}
	if want := `a\\b\x00\x1b[2J\n\xff\u202eé\ufe0f日本`; got[0].Detail != want {
		t.Errorf("detail %s", got[0].Detail)
	}
	if want := strings.Repeat(`\x1b`, 255) + "…"; got[0].Source != want {
		t.Errorf("source %s", got[0].Source)
	}
	if got[1].Detail != strings.Repeat("é", 512) || got[1].Source != strings.Repeat("é", 510)+"…" || got[1].Sequence != 7 || got[1].Channel != "tools" {
		t.Errorf("second entry %+v", got[1])
	}
}

func FuzzParseEntry(f *testing.F) {
	seal, d := testSeal("tools", 1, "", "x")
	digest := hex.EncodeToString(d[:])
	for _, v := range []any{
		&AcceptEntry{Kind: KindAccept, Seal: seal, SealDigest: digest, Signers: []Signer{{"ann", "00", "approver"}}, Station: "north", Time: 1, Type: entryType, GapReason: "x", Repaired: &Repair{Blocks: 3, Roots: 24, Unreadable: 1, Worst: 2}},
		&PrepareEntry{Kind: KindPrepare, Seal: seal, Station: "north", Type: entryType},
		&BurnEntry{Kind: KindBurn, Record: []byte(`{"a":[1,{"b":"c"}]}`), SealDigest: digest, Station: "north", Type: entryType},
		&ReleaseEntry{Kind: KindRelease, Path: "tools/1-x", SealDigest: digest, Station: "north", Type: entryType},
		&RefuseEntry{Kind: KindRefuse, Code: "gap", Channel: "tools", Sequence: 3, Station: "north", Type: entryType},
	} {
		data, err := canonjson.Encode(v)
		check(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := ParseEntry(data)
		if err != nil {
			return
		}
		s := newState()
		if next, err := s.after(e); err == nil {
			next()
		}
		if e.Accept != nil && (len(e.Accept.SealDigest) != 64 || strings.Contains(e.Accept.seal.releasePath(), "..") || strings.Count(e.Accept.seal.releasePath(), "/") != 1) {
			t.Fatalf("accept entry %s", data)
		}
		if e.Time < 0 || e.JSON[len(e.JSON)-1] != '\n' {
			t.Fatalf("entry %s", data)
		}
	})
}

func FuzzEscape(f *testing.F) {
	f.Add("a\\b\x00\x1b[2J\n\xff\u202eé\ufe0f")
	f.Fuzz(func(t *testing.T, s string) {
		got := escape(s)
		if err := checkText("text", got); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
	})
}
