package volume

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestFindingString(t *testing.T) {
	for _, c := range []struct {
		f    Finding
		want string
	}{
		{Finding{"gap-data", 1024, "", "bytes between partitions"}, "gap-data at byte 1024: bytes between partitions"},
		{Finding{"bad-name", 0, "a\x1b[2J\n", "left out"}, `bad-name: "a\x1b[2J\n" at byte 0: left out`},
		{Finding{"needs-recovery", -1, "", "the journal isn't empty"}, "needs-recovery: the journal isn't empty"},
	} {
		if got := c.f.String(); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

func TestFindingJSON(t *testing.T) {
	b, err := json.Marshal(Finding{Code: "gap-data", Offset: 0, Detail: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"code":"gap-data","offset":0,"detail":"x"}`; string(b) != want {
		t.Errorf("got %s, want %s", b, want)
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "...": true, "a b": true, "é\n": true, `a\b`: true,
		"": false, ".": false, "..": false, "a/b": false, "/": false, "a\x00": false, "\xff": false,
	} {
		if got := ValidName(name); got != want {
			t.Errorf("ValidName(%q) = %v", name, got)
		}
	}
}

func TestListBound(t *testing.T) {
	var l List
	for i := range 3 * MaxFindings {
		l.Add("bad-name", int64(i), "", "entry %d", i)
	}
	all := l.All()
	if len(all) != MaxFindings {
		t.Fatalf("%d findings are kept", len(all))
	}
	if got := all[MaxFindings-2]; got.Detail != "entry 9998" {
		t.Errorf("the last but one is %v", got)
	}
	if got := all[MaxFindings-1]; got.Code != "more-findings" {
		t.Errorf("the last is %v", got)
	}
	all[0].Code = "changed"
	if l.All()[0].Code != "bad-name" {
		t.Error("All returned its own memory")
	}
}

func TestListBytes(t *testing.T) {
	var l List
	path := strings.Repeat("a", 100_000)
	for range MaxFindings {
		l.Add("bad-name", 0, path, "it is long")
	}
	all := l.All()
	if len(all) != MaxFindingBytes/100_010+1 || all[len(all)-1].Code != "more-findings" || all[len(all)-1].Path != "" {
		t.Errorf("%d findings, the last one is %q", len(all), all[len(all)-1].Code)
	}
}
