package wipe

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"sallyport/bundle/canonjson"
	"sallyport/qemu-tests/usbredir"
)

// golden compares with what is kept in testdata. SALLYPORT_UPDATE=1 keeps it anew.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	name = "testdata/" + name
	if os.Getenv("SALLYPORT_UPDATE") == "1" {
		if err := os.WriteFile(name, got, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what it was:\n%s", name, got)
	}
}

// fill gives a record what its caller knows.
func fill(r *Record) {
	r.Medium.Vendor, r.Medium.Product, r.Medium.Revision, r.Medium.Serial = "VENDOR", "MODEL", "1.00", "4C530001"
	r.Medium.Port, r.Medium.Descriptor = "1-1.2", strings.Repeat("0123456789abcdef", 4)
	r.Tool, r.Station, r.Operator, r.Note = "sallyport 1.2", "boundary-1", "J. Doe", "before <delivery> & after"
}

func TestRecord(t *testing.T) {
	for name, change := range map[string]func(d *disk){
		"done":   func(*disk) {},
		"failed": func(d *disk) { d.Medium = &usbredir.Fake{Medium: usbredir.NewMemory(1 << 20), Claim: odd} },
	} {
		d := newDisk(t, usbredir.NewMemory(odd), 512)
		change(d)
		rec, err := Run(t.Context(), d, Options{Method: Triple, Key: key(1), Strict: true, Discard: true, Now: clock()})
		if (err == nil) != (name == "done") {
			t.Fatal(err)
		}
		fill(rec)
		// As canonical JSON, and back.
		b, err := canonjson.Encode(rec)
		if err != nil {
			t.Fatal(err)
		}
		var again Record
		if err := canonjson.Decode(b, &again, 1<<16); err != nil || !reflect.DeepEqual(&again, rec) {
			t.Errorf("decoded %+v, %v", again, err)
		}
		golden(t, name+".json", b)
		var page bytes.Buffer
		if err := rec.Page(&page); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".html", page.Bytes())
		if got := strings.Contains(page.String(), "NOT CLEARED"); got != (name == "failed") {
			t.Errorf("%s: the page says that it wasn't cleared: %v", name, got)
		}
		// Whatever was done, it is not Purge: a stick has no means of that.
		if rec.Sanitization != "Clear" || bytes.Contains(b, []byte("urge")) {
			t.Errorf("%s", b)
		}
	}
}

// The fields stand in the order of canonical JSON, and hold what it can carry.
func TestRecordIsCanonical(t *testing.T) {
	var check func(typ reflect.Type)
	check = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice:
			check(typ.Elem())
		case reflect.Struct:
			last := ""
			for i := range typ.NumField() {
				name := typ.Field(i).Tag.Get("json")
				if name <= last {
					t.Errorf("%v: %s stands behind %s", typ, name, last)
				}
				last = name
				check(typ.Field(i).Type)
			}
		case reflect.String, reflect.Bool, reflect.Int, reflect.Int64:
		default:
			t.Errorf("a %v", typ)
		}
	}
	check(reflect.TypeFor[Record]())
}

// What devices and people say stays text, and the page one page.
func TestPageEscapes(t *testing.T) {
	evil := "<script>alert(1)</script>\"'&\x1b[2J\u202Egnp\x00" + strings.Repeat("x", 5000)
	r := newRecord(newDisk(t, usbredir.NewMemory(512), 512), &Options{})
	r.Medium.Vendor, r.Medium.Serial, r.Note, r.Operator, r.Method, r.Discard = evil, evil, evil, evil, Method(evil), evil
	r.Failure = &Failure{Phase: Phase(evil), Error: evil}
	r.Passes = []Pass{{Pattern: evil}}
	r.Capacity = &Verdict{Kind: evil, Mode: evil}
	var page bytes.Buffer
	if err := r.Page(&page); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<script", "\x1b", "\u202E", "\x00"} {
		if strings.Contains(page.String(), bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	if page.Len() > 8000 {
		t.Errorf("the page has %d bytes", page.Len())
	}
	for _, outside := range []string{"//", "src=", "href=", "url(", "@import"} {
		if strings.Contains(page.String(), outside) {
			t.Errorf("the page needs something else: %s", outside)
		}
	}
	if err := r.Page(broken{}); !errors.Is(err, errBroken) {
		t.Error(err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errBroken }

func TestGrouped(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 64_000_000_000: "64,000,000,000", -1234: "-1,234", -123: "-123"} {
		if got := grouped(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}
