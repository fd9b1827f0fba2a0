package wipe

import (
	"fmt"
	"html"
	"io"
	"strings"
	"time"
)

// Page writes the record as one self-contained page of HTML, fit to be printed
// on one sheet and signed. The same record gives the same bytes; texts in it
// are shown, never interpreted.
func (r *Record) Page(w io.Writer) error {
	var b strings.Builder
	title := "Erasure record"
	if r.Result != ResultDone {
		title = "Record of an erasure that was not completed"
	}
	fmt.Fprintf(&b, pageHead, title, title, html.EscapeString(r.verdictLine()))
	for _, section := range r.sections() {
		fmt.Fprintf(&b, "<h2>%s</h2>\n<table>\n", html.EscapeString(section.title))
		for _, row := range section.rows {
			fmt.Fprintf(&b, "<tr><th>%s</th><td>%s</td></tr>\n", html.EscapeString(shown(row[0])), html.EscapeString(shown(row[1])))
		}
		b.WriteString("</table>\n")
	}
	b.WriteString(pageFoot)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write page of erasure record: %w", err)
	}
	return nil
}

const pageHead = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>%s</title>
<style>
@page { size: A4; margin: 15mm }
body { font: 10pt/1.35 sans-serif; color: #000; background: #fff; max-width: 180mm; margin: 0 auto }
h1 { font-size: 16pt; margin: 0 0 2mm } h2 { font-size: 11pt; margin: 4mm 0 1mm }
table { border-collapse: collapse; width: 100%% }
th, td { border: 0.3pt solid #000; padding: 0.6mm 2mm; text-align: left; vertical-align: top; overflow-wrap: anywhere }
th { width: 45mm; font-weight: normal; background: #eee }
.result { border: 1pt solid #000; padding: 2mm; font-weight: bold }
.sign td { height: 11mm }
</style>
</head>
<body>
<h1>%s</h1>
<p class="result">%s</p>
`

const pageFoot = `<h2>Signatures</h2>
<table class="sign">
<tr><th>Performed by: name, date</th><td></td></tr>
<tr><th>Verified by: name, date</th><td></td></tr>
</table>
<p>Clear, in the sense of NIST SP 800-88 revision 1: all that the medium lets a computer reach was overwritten. Blocks that its controller has put aside may keep what they had; this is not Purge.</p>
</body>
</html>
`

// maxShown keeps the page one page, whatever a device calls itself.
const maxShown = 200

func shown(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7F || r == 0xFFFD || r >= 0x200B && r <= 0x200F || r >= 0x2028 && r <= 0x202E || r >= 0x2066 && r <= 0x2069 || r == 0xFEFF {
			return '?' // a control character, or one that turns the direction of text
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > maxShown {
		return string(runes[:maxShown]) + " …"
	}
	if s == "" {
		return "–"
	}
	return s
}

// verdictLine says in a sentence how it ended.
func (r *Record) verdictLine() string {
	switch r.Result {
	case ResultDone:
		s := fmt.Sprintf("Cleared: all %s bytes were overwritten, in %d pass(es), and read back equal.", grouped(r.Medium.Size), len(r.Passes))
		if r.Capacity != nil {
			s += " The capacity is real."
		}
		return s
	case ResultCancelled:
		return "NOT CLEARED: it was cancelled. The medium may still hold what was on it."
	}
	return "NOT CLEARED: it failed. The medium may still hold what was on it."
}

type section struct {
	title string
	rows  [][2]string
}

func (r *Record) sections() []section {
	medium := section{"Medium", [][2]string{
		{"Vendor, product, revision", strings.Join([]string{r.Medium.Vendor, r.Medium.Product, r.Medium.Revision}, " · ")},
		{"Serial number", r.Medium.Serial},
		{"Size", fmt.Sprintf("%s bytes, blocks of %d", grouped(r.Medium.Size), r.Medium.BlockSize)},
		{"Port", r.Medium.Port},
		{"SHA-256 of its descriptors", r.Medium.Descriptor},
	}}
	done := section{"Sanitization", [][2]string{
		{"Method (" + r.Standard + ")", r.Sanitization},
		{"Technique", r.Technique + ", " + string(r.Method)},
		{"Verification", r.Verification},
		{"Discard before", r.Discard},
		{"Begun", date(r.Start)},
		{"Ended", date(r.End)},
		{"Tool", r.Tool},
		{"Station", r.Station},
		{"Operator", r.Operator},
		{"Note", r.Note},
	}}
	passes := section{title: "Passes"}
	for i, p := range r.Passes {
		state := "NOT verified"
		if p.Verified {
			state = "verified"
		}
		passes.rows = append(passes.rows, [2]string{fmt.Sprintf("Pass %d, pattern %s", i+1, p.Pattern),
			fmt.Sprintf("%s bytes written, %s read back: %s", grouped(p.Written), grouped(p.Read), state)})
	}
	list := []section{medium, done, passes}
	if v := r.Capacity; v != nil {
		list = append(list, section{"Capacity test", [][2]string{
			{"Result", fmt.Sprintf("%s (%s): %s bytes claimed, %s real", v.Kind, v.Mode, grouped(v.ClaimedSize), grouped(v.RealSize))},
			{"Blocks", fmt.Sprintf("%s written, %s read, %s bad", grouped(v.BlocksWritten), grouped(v.BlocksRead), grouped(v.BlocksBad))},
		}})
	}
	if f := r.Failure; f != nil {
		rows := [][2]string{{"While", string(f.Phase)}, {"Error", f.Error}}
		if f.Offset >= 0 {
			rows = append(rows, [2]string{"At byte", grouped(f.Offset)})
		}
		if r.Mismatched > 0 {
			rows = append(rows, [2]string{"Sectors that differ", fmt.Sprintf("%s, the first at byte %s", grouped(r.Mismatched), grouped(r.Mismatches[0].Offset))})
		}
		list = append(list, section{"What went wrong", rows})
	}
	return list
}

// grouped writes a number of bytes so that it can be read: 64,000,000,000.
func grouped(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// date writes Unix seconds in UTC; 0, which stands for no clock, as nothing.
func date(unix int64) string {
	if unix == 0 {
		return ""
	}
	return time.Unix(unix, 0).UTC().Format("2006-01-02 15:04:05 UTC")
}
