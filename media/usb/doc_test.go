package usb

import (
	"os"
	"strings"
	"testing"
)

// TestDocument: the policies of docs/usb-policy.md are policies, and it has every code and class.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/usb-policy.md")
	if err != nil {
		t.Fatal(err)
	}
	var policies []string
	for _, line := range strings.SplitAfter(string(text), "\n") {
		switch content, indented := strings.CutPrefix(line, "    "); {
		case indented && strings.HasPrefix(content, policyHead):
			policies = append(policies, content)
		case indented && len(policies) > 0 && !strings.Contains(content, " = "):
			policies[len(policies)-1] += content
		case strings.TrimSpace(line) != "" && len(policies) > 0 && !strings.HasSuffix(policies[len(policies)-1], "\x00"):
			policies[len(policies)-1] += "\x00" // it ends
		}
	}
	rules := 0
	for i, text := range policies {
		text, _, _ = strings.Cut(text, "\x00")
		p, err := ParsePolicy("docs/usb-policy.md", []byte(text))
		if err != nil {
			t.Errorf("%v\n%s", err, text)
			continue
		}
		rules += len(p.Rules)
		if i == 1 && text != DefaultPolicy {
			t.Errorf("the default policy is shown as %q", text)
		}
	}
	if len(policies) != 2 || rules != 9 {
		t.Errorf("%d policies with %d rules", len(policies), rules)
	}
	words := []string{
		CodeMalformed, CodeMixed, CodeClass, CodePolicy, CodeChanged, CodeDisagrees, CodeNoUnit, CodeUnits, CodeUnitType, CodeBoundEarly, CodeNoAnswer, CodeWrongCode,
	}
	for _, c := range classes {
		words = append(words, string(c))
	}
	for _, word := range words {
		if !strings.Contains(string(text), "| `"+word+"` |") {
			t.Errorf("no row for %s", word)
		}
	}
}
