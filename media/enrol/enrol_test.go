package enrol

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/bundle/trust"
)

var stick = Identity{BlockSize: 512, Descriptor: strings.Repeat("ab", 32), Product: "Flash Disk", Revision: "1.00", Serial: "0042", Size: 64 << 30, Vendor: "Example"}

func station(t *testing.T) (*trust.SecretKey, trust.Station) {
	t.Helper()
	key, err := trust.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key, trust.Station{Name: "low-1", Key: trust.Key{Public: key.Public()}}
}

func carrier() *Record {
	return &Record{Capacity: "strict", Created: 1_700_000_000, Medium: stick, Station: "low-1", Use: Carrier}
}

// TestAdd keeps an enrolment, replaces it, finds it and withdraws it; stock minisign takes its signature.
func TestAdd(t *testing.T) {
	key, low := station(t)
	dir := filepath.Join(t.TempDir(), "media")
	if _, err := Find(dir, stick, Carrier, low); code(err) != CodeNotEnrolled {
		t.Errorf("before: %v", err)
	}
	if err := Withdraw(dir, stick); err != nil {
		t.Errorf("nothing to withdraw: %v", err)
	}
	for _, use := range []Use{Delivery, Carrier} {
		r := carrier()
		if r.Use = use; use == Delivery {
			r.Volume = &Volume{Kind: "fat32", Label: "OUT", Serial: "1234-ABCD"}
		}
		if err := Add(dir, r, []byte(`{"type":"sallyport-erasure"}`+"\n"), []byte("<!doctype html>"), key); err != nil {
			t.Fatal(err)
		}
		got, err := Find(dir, stick, use, low)
		if err != nil || got.Use != use || len(got.Erasure) != 64 || got.Medium != stick {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if _, err := Find(dir, stick, Delivery, low); code(err) != CodeUse {
		t.Errorf("for another use: %v", err)
	}
	id, err := stick.ID()
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 1 || filepath.Base(names[0]) != id {
		t.Errorf("there are %q, %v", names, err)
	}
	pub := filepath.Join(t.TempDir(), "low.pub")
	if err := os.WriteFile(pub, key.Public().File(), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("minisign", "-Vm", filepath.Join(dir, id, RecordName), "-p", pub).CombinedOutput(); err != nil {
		t.Errorf("minisign: %v\n%s", err, out)
	}
	if err := Withdraw(dir, stick); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(dir, stick, Carrier, low); code(err) != CodeNotEnrolled {
		t.Errorf("after: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

func code(err error) string {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return refused.RefusalCode()
	}
	return ""
}

// TestNotTaken has enrolments that no stick may be taken for.
func TestNotTaken(t *testing.T) {
	key, low := station(t)
	other, _ := station(t)
	for _, tt := range []struct {
		name, code string
		do         func(t *testing.T, place string)
		ask        func(m *Identity)
	}{
		{"another one's signature", CodeForged, func(t *testing.T, place string) {
			if err := Add(filepath.Dir(place), carrier(), nil, nil, other); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{"one byte", CodeForged, func(t *testing.T, place string) {
			name := filepath.Join(place, RecordName)
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte(strings.Replace(string(text), `"quick"`, `"strict"`, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{"no signature", CodeForged, func(t *testing.T, place string) {
			if err := os.WriteFile(filepath.Join(place, SignatureName), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{"another stick's", CodeForged, func(t *testing.T, place string) {
			id, err := Identity{BlockSize: 512, Size: 1 << 30, Serial: "7"}.ID()
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(place, filepath.Join(filepath.Dir(place), id)); err != nil {
				t.Fatal(err)
			}
		}, func(m *Identity) { *m = Identity{BlockSize: 512, Size: 1 << 30, Serial: "7"} }},
		{"another size", CodeChanged, nil, func(m *Identity) { m.Size = 32 << 30 }},
		{"other descriptors", CodeChanged, nil, func(m *Identity) { m.Descriptor = strings.Repeat("cd", 32) }},
		{"another serial number", CodeNotEnrolled, nil, func(m *Identity) { m.Serial = "0043" }},
		{"no serial number", CodeNotEnrolled, nil, func(m *Identity) { m.Serial = "" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			r := carrier()
			r.Capacity = "quick"
			if err := Add(dir, r, []byte("{}\n"), nil, key); err != nil {
				t.Fatal(err)
			}
			id, err := stick.ID()
			if err != nil {
				t.Fatal(err)
			}
			if tt.do != nil {
				tt.do(t, filepath.Join(dir, id))
			}
			asked := stick
			if tt.ask != nil {
				tt.ask(&asked)
			}
			if got, err := Find(dir, asked, Carrier, low); got != nil || code(err) != tt.code {
				t.Errorf("%v, %v; want %s", got, err, tt.code)
			}
		})
	}
	dir := t.TempDir()
	if err := Add(dir, carrier(), nil, nil, key); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(dir, stick, Carrier, trust.Station{Name: "low-2", Key: low.Key}); code(err) != CodeForged {
		t.Errorf("of another station: %v", err)
	}
}

// TestCheck are records that are neither made nor read.
func TestCheck(t *testing.T) {
	for name, change := range map[string]func(*Record){
		"use":                    func(r *Record) { r.Use = "toy" },
		"carrier with a volume":  func(r *Record) { r.Volume = &Volume{} },
		"delivery without one":   func(r *Record) { r.Use = Delivery },
		"untested":               func(r *Record) { r.Capacity = "" },
		"erasure":                func(r *Record) { r.Erasure = "" },
		"descriptor":             func(r *Record) { r.Medium.Descriptor = "abc" },
		"block size":             func(r *Record) { r.Medium.BlockSize = 2048 },
		"size":                   func(r *Record) { r.Medium.Size = 0 },
		"half a block":           func(r *Record) { r.Medium.Size = 513 },
		"time":                   func(r *Record) { r.Created = -1 },
		"long text":              func(r *Record) { r.Medium.Serial = strings.Repeat("x", maxText+1) },
		"no UTF-8":               func(r *Record) { r.Medium.Serial = "\xff" },
		"long text of its label": func(r *Record) { r.Use, r.Volume = Delivery, &Volume{Label: strings.Repeat("x", maxText+1)} },
	} {
		r := carrier()
		r.Erasure = strings.Repeat("0", 64)
		if _, err := r.Bytes(); err != nil {
			t.Fatal(err)
		}
		change(r)
		if b, err := r.Bytes(); err == nil {
			t.Errorf("%s: %s", name, b)
		}
	}
}

func FuzzParse(f *testing.F) {
	r := carrier()
	r.Erasure = strings.Repeat("0", 64)
	b, err := r.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Parse(data)
		if err != nil {
			return
		}
		if again, err := r.Bytes(); err != nil || string(again) != string(data) {
			t.Errorf("%q, %v", again, err)
		}
	})
}
