package canonjson

import (
	"strings"
	"testing"
)

type sample struct {
	A int64    `json:"a"`
	B string   `json:"b"`
	C []string `json:"c"`
	D *int64   `json:"d,omitempty"`
}

func TestEncode(t *testing.T) {
	// RFC 8785, section 3.2.2.2: only control characters, quote and backslash are escaped.
	got, err := Encode(sample{A: -5, B: "€$\x0f\nA'B\"\\\u2028</ö😂\x7f"})
	want := "{\"a\":-5,\"b\":\"€$\\u000f\\nA'B\\\"\\\\\u2028</ö😂\x7f\",\"c\":[]}\n"
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := Encode(sample{B: "\xff"}); err == nil {
		t.Error("invalid UTF-8 was encoded")
	}
}

func TestDecode(t *testing.T) {
	const good = `{"a":1,"b":"x","c":["y"]}` + "\n"
	var v sample
	if err := Decode([]byte(good), &v, 100); err != nil || v.A != 1 || v.B != "x" || len(v.C) != 1 {
		t.Fatalf("good: %+v, %v", v, err)
	}
	for name, bad := range map[string]string{
		"empty":            "",
		"no newline":       strings.TrimSuffix(good, "\n"),
		"two newlines":     good + "\n",
		"carriage return":  strings.TrimSuffix(good, "\n") + "\r\n",
		"space":            `{"a": 1,"b":"x","c":["y"]}` + "\n",
		"order":            `{"b":"x","a":1,"c":["y"]}` + "\n",
		"unknown name":     `{"a":1,"b":"x","c":["y"],"z":0}` + "\n",
		"duplicate name":   `{"a":1,"a":1,"b":"x","c":["y"]}` + "\n",
		"other case":       `{"A":1,"b":"x","c":["y"]}` + "\n",
		"missing name":     `{"a":1,"b":"x"}` + "\n",
		"null list":        `{"a":1,"b":"x","c":null}` + "\n",
		"null":             "null\n",
		"null optional":    `{"a":1,"b":"x","c":["y"],"d":null}` + "\n",
		"float":            `{"a":1.0,"b":"x","c":["y"]}` + "\n",
		"exponent":         `{"a":1e0,"b":"x","c":["y"]}` + "\n",
		"minus zero":       `{"a":-0,"b":"x","c":["y"]}` + "\n",
		"leading zero":     `{"a":01,"b":"x","c":["y"]}` + "\n",
		"needless escape":  `{"a":1,"b":"\u0078","c":["y"]}` + "\n",
		"escaped slash":    `{"a":1,"b":"\/","c":["y"]}` + "\n",
		"invalid UTF-8":    "{\"a\":1,\"b\":\"\xff\",\"c\":[\"y\"]}\n",
		"lone surrogate":   `{"a":1,"b":"\ud800","c":["y"]}` + "\n",
		"two values":       strings.TrimSuffix(good, "\n") + good,
		"byte order mark":  "\ufeff" + good,
		"too long":         `{"a":1,"b":"` + strings.Repeat("x", 100) + `","c":[]}` + "\n",
		"2^53":             `{"a":9007199254740992,"b":"x","c":["y"]}` + "\n",
		"-2^53":            `{"a":-9007199254740992,"b":"x","c":["y"]}` + "\n",
		"deep":             strings.Repeat("[", 20000),
		"string as number": `{"a":"1","b":"x","c":["y"]}` + "\n",
	} {
		var v sample
		if err := Decode([]byte(bad), &v, 100); err == nil {
			t.Errorf("%s: %q was taken", name, bad)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":"x","c":["y"]}` + "\n"))
	f.Add([]byte(`{"a":-9007199254740991,"b":"\u000f","c":[]}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v sample
		if Decode(data, &v, 1<<20) != nil {
			return
		}
		again, err := Encode(v)
		if err != nil || string(again) != string(data) {
			t.Fatalf("%q decodes and encodes to %q, %v", data, again, err)
		}
	})
}
