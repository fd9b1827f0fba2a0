package bundle

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"
)

// docs/format.md has the whole text of README.txt, so that a stranger can derive it.
func TestReadmeInFormat(t *testing.T) {
	doc, err := os.ReadFile("../docs/format.md")
	must(t, err)
	_, rest, ok := strings.Cut(string(doc), "```text\nSALLYPORT BUNDLE")
	text, _, closed := strings.Cut(rest, "```\n")
	if !ok || !closed {
		t.Fatal("docs/format.md has no text of README.txt")
	}
	g, err := NewGeometry(1234567, 24)
	must(t, err)
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	filled := strings.NewReplacer("{channel}", "some-channel", "{sequence}", "42", "{image-blocks}", number(g.ImageBlocks()),
		"{seal-a}", number(g.DataBlocks), "{first-slot}", number(g.DataBlocks+4)).Replace("SALLYPORT BUNDLE" + text)
	want := padNewlines([]byte(filled), readmeBytes)
	if got := readme(identity{channel: "some-channel", sequence: 42, index: 1, of: 1}, g); !bytes.Equal(got, want) {
		t.Errorf("byte %d: %.80q, docs/format.md has %.80q", firstDifference(got, want), got[firstDifference(got, want):], want[firstDifference(got, want):])
	}
}
