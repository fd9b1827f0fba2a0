package trust

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"sallyport/bundle/canonjson"
)

func TestDocument(t *testing.T) {
	s := newSite(t)
	d, err := Parse(s.data)
	must(t, err)
	again, err := d.Encode()
	if err != nil || string(again) != string(s.data) {
		t.Errorf("encoded again it is %s (%v)", again, err)
	}
	if !bytes.HasPrefix(s.data, []byte(`{"channels":[{"approvers":{"holders":["bob","carol","dave"],"threshold":2},"destination":"high","gaps":"refuse","max_age":0,"max_jump":1000,"name":"demo","preparers":{"holders":["alice","anna"],"threshold":1}},{"approvers"`)) ||
		!bytes.HasSuffix(s.data, []byte(`"name":"high"}],"type":"sallyport-trust","version":1}`+"\n")) {
		t.Errorf("encoded as %s", s.data)
	}
	small := NewDocument()
	must(t, small.AddHolder("rita", s.keys["rita"].Public()))
	must(t, small.SetRoot(1, "rita"))
	data, err := small.Encode()
	want := `{"channels":[],"holders":[{"keys":[{"public":"` + s.keys["rita"].Public().String() +
		`","type":"minisign"}],"name":"rita"}],"root":{"holders":["rita"],"threshold":1},"stations":[],"type":"sallyport-trust","version":1}` + "\n"
	if err != nil || string(data) != want {
		t.Errorf("got %s, %v; want %s", data, err, want)
	}
}

// Each rule of docs/format.md, section 11, broken by itself. Encode holds to the same rules as Parse.
func TestDocumentRules(t *testing.T) {
	s := newSite(t)
	spare := testKey(t, 200).Public()
	many := func(n int) []Holder {
		var h []Holder
		for i := range n {
			h = append(h, Holder{Name: fmt.Sprintf("zz%04d", i), Keys: []Key{{withID(PublicKey{point: [32]byte{2, byte(i), byte(i >> 8)}}, KeyID(fmt.Sprintf("%016X", i+1))), TypeMinisign}}})
		}
		return h
	}
	for name, change := range map[string]func(d *Document){
		"type":                      func(d *Document) { d.Type = "sallyport-seal" },
		"no type":                   func(d *Document) { d.Type = "" },
		"version 0":                 func(d *Document) { d.Version = 0 },
		"version -1":                func(d *Document) { d.Version = -1 },
		"no root":                   func(d *Document) { d.Root = Role{} },
		"root holder unknown":       func(d *Document) { d.Root.Holders[0] = "nobody" },
		"root threshold 0":          func(d *Document) { d.Root.Threshold = 0 },
		"root threshold above":      func(d *Document) { d.Root.Threshold = 4 },
		"T2 threshold 0":            func(d *Document) { d.Channels[0].Approvers.Threshold = 0 },
		"T2 threshold negative":     func(d *Document) { d.Channels[0].Approvers.Threshold = -1 },
		"T2 threshold above":        func(d *Document) { d.Channels[0].Approvers.Threshold = 4 },
		"T2 preparers' threshold":   func(d *Document) { d.Channels[0].Preparers.Threshold = 0 },
		"T2 holder twice in a role": func(d *Document) { d.Channels[0].Approvers.Holders[0] = "carol" },
		"T2 one key under two ids": func(d *Document) {
			d.Holders[0].Keys[0].Public = withID(d.Holders[1].Keys[0].Public, "0000000000000005")
		},
		"T2 two keys under one id":    func(d *Document) { d.Holders[0].Keys[0].Public.id = d.Holders[1].Keys[0].Public.id },
		"T2 one key, two holders":     func(d *Document) { d.Holders[0].Keys[0] = d.Holders[1].Keys[0] },
		"T2 one key, holder, station": func(d *Document) { d.Stations[0].Key = d.Holders[1].Keys[0] },
		"T2 one holder, one key twice": func(d *Document) {
			d.Holders[0].Keys = append(d.Holders[0].Keys, Key{withID(d.Holders[0].Keys[0].Public, "FFFFFFFFFFFFFFFF"), TypeMinisign})
		},
		"T2 the same key twice": func(d *Document) { d.Holders[0].Keys = append(d.Holders[0].Keys, d.Holders[0].Keys[0]) },
		"roles not disjoint":    func(d *Document) { d.Channels[0].Preparers.Holders[1] = "bob" },
		"role empty":            func(d *Document) { d.Channels[0].Preparers = Role{Threshold: 1} },
		"role out of order":     func(d *Document) { h := d.Root.Holders; h[0], h[1] = h[1], h[0] },
		"role with a stranger":  func(d *Document) { d.Channels[0].Approvers.Holders[2] = "mallory" },
		"role with a station":   func(d *Document) { d.Channels[0].Approvers.Holders[2] = "high" },
		"holders out of order":  func(d *Document) { z := many(2); d.Holders = append(d.Holders, z[1], z[0]) },
		"holder twice":          func(d *Document) { z := many(2); z[1].Name = z[0].Name; d.Holders = append(d.Holders, z...) },
		"holder without keys":   func(d *Document) { d.Holders[0].Keys = nil },
		"keys out of order":     func(d *Document) { k := d.Holders[2].Keys; k[0], k[1] = k[1], k[0] },
		"key type":              func(d *Document) { d.Holders[0].Keys[0].Type = "openpgp" },
		"key missing":           func(d *Document) { d.Holders[0].Keys[0].Public = PublicKey{} },
		"station's key missing": func(d *Document) { d.Stations[0].Key.Public = PublicKey{} },
		"station's key type":    func(d *Document) { d.Stations[0].Key.Type = "" },
		"stations out of order": func(d *Document) { d.Stations = append(d.Stations, Station{Name: "a", Key: Key{spare, TypeMinisign}}) },
		"station twice": func(d *Document) {
			d.Stations = append(d.Stations, Station{Name: "high", Key: Key{spare, TypeMinisign}})
		},
		"channels out of order":    func(d *Document) { c := d.Channels; c[0], c[1] = c[1], c[0] },
		"channel twice":            func(d *Document) { d.Channels[1].Name = "demo" },
		"gaps":                     func(d *Document) { d.Channels[0].Gaps = "allow" },
		"gaps empty":               func(d *Document) { d.Channels[0].Gaps = "" },
		"max_age negative":         func(d *Document) { d.Channels[0].MaxAge = -1 },
		"max_age beyond a century": func(d *Document) { d.Channels[0].MaxAge = maxAge + 1 },
		"max_jump 0":               func(d *Document) { d.Channels[0].MaxJump = 0 },
		"T6 max_jump 2^53":         func(d *Document) { d.Channels[0].MaxJump = 1 << 53 },
		"T6 version 2^53":          func(d *Document) { d.Version = 1 << 53 },
		"destination empty":        func(d *Document) { d.Channels[0].Destination = "" },
		"17 keys": func(d *Document) {
			d.Holders[0].Keys = nil
			for _, h := range many(17) {
				d.Holders[0].Keys = append(d.Holders[0].Keys, h.Keys[0])
			}
		},
		"1001 holders": func(d *Document) { d.Holders = append(d.Holders, many(1001-len(d.Holders))...) },
		"1001 stations": func(d *Document) {
			for _, h := range many(1000) {
				d.Stations = append(d.Stations, Station{Name: h.Name, Key: h.Keys[0]})
			}
		},
		"1001 channels": func(d *Document) {
			for _, h := range many(999) {
				c := d.Channels[1].clone()
				c.Name = h.Name
				d.Channels = append(d.Channels, c)
			}
		},
	} {
		d := s.doc.clone()
		change(d)
		if _, err := d.Encode(); err == nil {
			t.Errorf("%s: was encoded", name)
		}
		data, err := canonjson.Encode(d)
		if err != nil {
			continue // what can't be written can't be read
		}
		_, err = Parse(data)
		wantCode(t, name, CodeBadTrust, err)
	}
	for name, change := range map[string]func(d *Document){
		"1000 holders": func(d *Document) { d.Holders = append(d.Holders, many(1000-len(d.Holders))...) },
		"largest":      func(d *Document) { d.Version, d.Channels[0].MaxJump, d.Channels[0].MaxAge = 1<<53-1, 1<<53-1, maxAge },
		"group":        func(d *Document) { d.Stations[0].Group = "g" },
	} {
		d := s.doc.clone()
		change(d)
		data, err := d.Encode()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_, err = Parse(data)
		wantCode(t, name, "", err)
	}
}

// T13 and T18: no name leads out of a directory or a log line, and no two names look alike.
func TestT13Names(t *testing.T) {
	bad := []string{"", "../x", "%2e%2e", "..", ".", "a/b", "a\x00", "\x00", "a\\b", "a.b", "a_b", "-a", "a-", "-", "a b", " a", "a\n", "a\x1b[2J",
		"A", "Bob", "bób", "bo\u0301b", "ｂob", "b\u200dob", "\u202ebob", "CON", "nul ", "~", "*", "$(x)", strings.Repeat("a", 64), strings.Repeat("a", 1<<16)}
	good := []string{"a", "0", "a-b", "a--b", "9z", "con", strings.Repeat("a", 63), "xn--a"}
	s := newSite(t)
	places := map[string]func(d *Document, name string){
		"channel":     func(d *Document, name string) { d.Channels = d.Channels[1:]; d.Channels[0].Name = name },
		"destination": func(d *Document, name string) { d.Channels[0].Destination = name },
		"group":       func(d *Document, name string) { d.Stations[0].Group = name },
		"station":     func(d *Document, name string) { d.Stations[0].Name = name },
		"holder": func(d *Document, name string) {
			d.Holders = []Holder{{Name: name, Keys: d.Holders[0].Keys}}
			d.Channels, d.Root = nil, Role{Holders: []string{name}, Threshold: 1}
		},
	}
	for place, put := range places {
		for _, name := range append(bad, good...) {
			if place == "group" && name == "" {
				continue
			}
			d := s.doc.clone()
			put(d, name)
			data, err := canonjson.Encode(d)
			must(t, err)
			code := CodeBadTrust
			if CheckName(name) == nil {
				code = ""
			}
			_, err = Parse(data)
			wantCode(t, fmt.Sprintf("%s %.40q", place, name), code, err)
			if err != nil && (len(err.Error()) > 600 || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r > '~' })) {
				t.Errorf("%s %.40q: the error shows the name raw or whole: %.700q", place, name, err)
			}
		}
	}
	for _, name := range bad {
		if CheckName(name) == nil {
			t.Errorf("%.40q is a name", name)
		}
		if file, err := SignatureName("trust.json", name, "0123456789ABCDEF"); err == nil {
			t.Errorf("%.40q gives a file name, %s", name, file)
		}
	}
	for _, name := range good {
		if err := CheckName(name); err != nil {
			t.Error(err)
		}
		if file, err := SignatureName("d/trust.json", name, "0123456789ABCDEF"); err != nil || file != "d/trust.json."+name+".minisig" {
			t.Errorf("%s, %v", file, err)
		}
	}
}

// T10: what a hostile file costs is bounded before it is decoded.
func TestParseBounds(t *testing.T) {
	s := newSite(t)
	empties := func(n int) string { return strings.TrimSuffix(strings.Repeat("{},", n), ",") }
	for name, data := range map[string]string{
		"empty":           "",
		"not JSON":        "trust me",
		"null":            "null\n",
		"too long":        string(s.data) + strings.Repeat("\n", MaxDocument),
		"deep":            strings.Repeat("[", MaxDocument),
		"deep objects":    strings.Repeat(`{"root":`, MaxDocument/8),
		"many objects":    `{"channels":[` + empties(MaxDocument/4) + `]}` + "\n",
		"no newline":      strings.TrimSuffix(string(s.data), "\n"),
		"unknown member":  strings.Replace(string(s.data), `"version":1`, `"version":1,"x":1`, 1),
		"duplicate":       strings.Replace(string(s.data), `"version":1`, `"version":1,"version":1`, 1),
		"float":           strings.Replace(string(s.data), `"version":1`, `"version":1.0`, 1),
		"big number":      strings.Replace(string(s.data), `"version":1`, `"version":9223372036854775808`, 1),
		"escaped name":    strings.Replace(string(s.data), `"demo"`, `"d\u0065mo"`, 1),
		"space":           strings.Replace(string(s.data), `"demo"`, ` "demo"`, 1),
		"short key":       strings.Replace(string(s.data), s.keys["alice"].Public().String(), "RWQ=", 1),
		"small-order key": strings.Replace(string(s.data), s.keys["alice"].Public().String(), (PublicKey{id: "0000000000000001", point: [32]byte{1}}).String(), 1),
	} {
		start := time.Now()
		_, err := Parse([]byte(data))
		wantCode(t, name, CodeBadTrust, err)
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("%s: refused after %v", name, d)
		}
	}
	_, err := Parse([]byte(`{"channels":[` + empties(MaxDocument/4) + `]}` + "\n"))
	if err == nil || !strings.Contains(err.Error(), "JSON objects") {
		t.Errorf("many objects: decoded before they were counted: %v", err)
	}
}

// Editing keeps the canonical order; a step that breaks a rule changes nothing.
func TestEdit(t *testing.T) {
	s := newSite(t)
	spare := testKey(t, 200).Public()
	d := s.doc.clone()
	role := func(n int64, holders ...string) Role { return Role{Holders: holders, Threshold: n} }
	for name, step := range map[string]func() error{
		"holder's name":         func() error { return d.AddHolder("Bob", spare) },
		"holder without key":    func() error { return d.AddHolder("zoe") },
		"key of another holder": func() error { return d.AddHolder("zoe", s.keys["bob"].Public()) },
		"key again":             func() error { return d.AddHolder("bob", s.keys["bob"].Public()) },
		"key of a station":      func() error { return d.AddHolder("zoe", s.keys["high"].Public()) },
		"no key":                func() error { return d.AddHolder("zoe", PublicKey{}) },
		"channel again": func() error {
			return d.AddChannel(Channel{Name: "demo", Destination: "high", Gaps: GapsRefuse, MaxJump: 1, Preparers: role(1, "alice"), Approvers: role(1, "bob")})
		},
		"channel's rule": func() error {
			return d.AddChannel(Channel{Name: "new", Destination: "high", Gaps: GapsRefuse, MaxJump: 0, Preparers: role(1, "alice"), Approvers: role(1, "bob")})
		},
		"channel, disjoint": func() error {
			return d.AddChannel(Channel{Name: "new", Destination: "high", Gaps: GapsRefuse, MaxJump: 1, Preparers: role(1, "bob", "alice"), Approvers: role(1, "bob")})
		},
		"channel, same holder twice": func() error {
			return d.AddChannel(Channel{Name: "new", Destination: "high", Gaps: GapsRefuse, MaxJump: 1, Preparers: role(2, "alice", "alice"), Approvers: role(1, "bob")})
		},
		"station again":   func() error { return d.AddStation("high", "", spare) },
		"station's group": func() error { return d.AddStation("low", "../x", spare) },
		"station's key":   func() error { return d.AddStation("low", "", s.keys["bob"].Public()) },
		"root threshold":  func() error { return d.SetRoot(4, "rita", "ron", "rose") },
		"root, nobody":    func() error { return d.SetRoot(0) },
		"root, stranger":  func() error { return d.SetRoot(1, "mallory") },
	} {
		err := step()
		var refused *RefusedError
		if err == nil || errors.As(err, &refused) {
			t.Errorf("%s: %v, want a plain error", name, err)
		}
		if data, err := d.Encode(); err != nil || string(data) != string(s.data) {
			t.Fatalf("%s: changed the document (%v)", name, err)
		}
	}
	if _, err := NewDocument().Encode(); err == nil {
		t.Error("a document without root holders was encoded")
	}
	approvers := []string{"dave", "bob"}
	must(t, d.AddChannel(Channel{Name: "aaa", Destination: "high", Gaps: GapsRefuse, MaxJump: 1, Preparers: role(1, "alice"), Approvers: Role{approvers, 1}}))
	must(t, d.AddStation("aaa", "high", spare))
	must(t, d.SetRoot(1, "rose", "alice"))
	if approvers[0] != "dave" {
		t.Error("the caller's list was sorted")
	}
	data, err := d.Encode()
	must(t, err)
	again, err := Parse(data)
	must(t, err)
	if again.Channels[0].Name != "aaa" || again.Channels[0].Approvers.Holders[0] != "bob" || again.Stations[0].Group != "high" || again.Root.Holders[0] != "alice" {
		t.Errorf("edited into %s", data)
	}
}

func FuzzParse(f *testing.F) {
	s := newSite(f)
	f.Add(s.data)
	f.Add([]byte(`{"channels":[],"holders":[],"root":{"holders":[],"threshold":1},"stations":[],"type":"sallyport-trust","version":1}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse(data)
		if err != nil {
			return
		}
		again, err := d.Encode()
		if err != nil || string(again) != string(data) {
			t.Fatalf("%q encodes to %q (%v)", data, again, err)
		}
	})
}
