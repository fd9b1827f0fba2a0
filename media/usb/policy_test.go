package usb

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const head = policyHead + "\n"

const hash = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

// aPolicy has everything that a policy can have.
const aPolicy = `# the front of the station
sallyport-usb-policy 1

block any serial "\x00 # \"quoted\" \u00e9"   # a comment: é
allow stick port pci-0000:00:14.0-usbv2-0:1 as state
allow recorder port 3-1.4 as boot
allow keyboard port 1-2
	allow	keyboard  code
allow hub id 05e3:0608 port platform-vhci_hcd.0-usbv3-0:1.2.3.4.5.6
block stick id 0781:*
allow stick hash ` + hash + ` id 0951:1666 serial ""
`

func TestParsePolicy(t *testing.T) {
	odd, empty := "\x00 # \"quoted\" é", ""
	want := []Rule{
		{Serial: &odd, Line: 4},
		{Allow: true, Class: Stick, Port: "pci-0000:00:14.0-usbv2-0:1", As: State, Line: 5},
		{Allow: true, Class: Recorder, Port: "3-1.4", As: Boot, Line: 6},
		{Allow: true, Class: Keyboard, Port: "1-2", Line: 7},
		{Allow: true, Class: Keyboard, Code: true, Line: 8},
		{Allow: true, Class: Hub, ID: &ID{Vendor: 0x05e3, Product: 0x0608}, Port: "platform-vhci_hcd.0-usbv3-0:1.2.3.4.5.6", Line: 9},
		{Class: Stick, ID: &ID{Vendor: 0x0781, All: true}, Line: 10},
		{Allow: true, Class: Stick, Hash: hash, ID: &ID{Vendor: 0x0951, Product: 0x1666}, Serial: &empty, Line: 11},
	}
	p, err := ParsePolicy("a", []byte(aPolicy))
	if err != nil || !reflect.DeepEqual(p.Rules, want) {
		t.Errorf("got  %+v, %v\nwant %+v", p, err, want)
	}
	p, err = ParsePolicy("default", []byte(DefaultPolicy))
	if want := []Rule{{Allow: true, Class: Stick, Line: 2}, {Allow: true, Class: Keyboard, Code: true, Line: 3}}; err != nil || !reflect.DeepEqual(p.Rules, want) {
		t.Errorf("got  %+v, %v\nwant %+v", p, err, want)
	}
	if p, err := ParsePolicy("none", []byte(head)); err != nil || len(p.Rules) != 0 {
		t.Errorf("without rules: %+v, %v", p, err)
	}
}

func TestParsePolicyRefuses(t *testing.T) {
	var many strings.Builder
	for i := range maxRules + 1 {
		fmt.Fprintf(&many, "allow stick port %d-1\n", i)
	}
	for _, test := range []struct {
		text, want string
	}{
		{"", "line 1, byte 0: the first line is not"},
		{"\n# nothing\n", "line 1, byte 0: the first line is not"},
		{"allow stick\n", "line 1, byte 0: the first line is not"},
		{"sallyport-usb-policy 2\n", "line 1, byte 0: the first line is not"},
		{"sallyport-usb-policy 1 x\n", "line 1, byte 0: the first line is not"},
		{"sallyport-usb-policy 1", "line 1, byte 22: the last line doesn't end"},
		{head + "allow stick", "line 2, byte 34: the last line doesn't end"},
		{head + "allow stick\r\n", "line 2, byte 34: a word with a character"},
		{head + "# \x1b[2J\n", "line 2, byte 25: a comment with a character"},
		{head + "# \u202e\n", "line 2, byte 25: a comment with a character"},
		{head + "# \xff\n", "line 2, byte 25: a comment with a character"},
		{head + "allow stick\u00a0\n", "line 2, byte 34: a word with a character"},
		{head + "\x00\n", "line 2, byte 23: a word with a character"},
		{head + "allow stick#all\n", "line 2, byte 34: a word with a character"},
		{head + "allow\n", "line 2, byte 23: nothing behind allow"},
		{head + "permit stick\n", "line 2, byte 23: a rule begins with"},
		{head + "Allow stick\n", "line 2, byte 23: a rule begins with"},
		{head + "\"allow\" stick\n", "line 2, byte 23: a rule begins with"},
		{head + head, "line 2, byte 23: a rule begins with"},
		{head + "allow any\n", "line 2, byte 29: any can only be blocked"},
		{head + "allow disk\n", "line 2, byte 29: neither stick"},
		{head + "allow \"stick\"\n", "line 2, byte 29: neither stick"},
		{head + "allow stick stick\n", "line 2, byte 35: neither id"},
		{head + "allow stick \"x\"\n", "line 2, byte 35: a text that belongs to nothing"},
		{head + "allow stick id\n", "line 2, byte 35: nothing behind id"},
		{head + "allow stick id 951:1666\n", "line 2, byte 38: not vendor:product"},
		{head + "allow stick id 0951:166A\n", "line 2, byte 38: not vendor:product"},
		{head + "allow stick id *:1666\n", "line 2, byte 38: not vendor:product"},
		{head + "allow stick id 0951:1666 id 0951:1667\n", "line 2, byte 48: a second id"},
		{head + "allow stick serial x\n", "line 2, byte 42: a serial number stands in quotes"},
		{head + "allow stick serial \"x\n", "line 2, byte 42: a quoted text that doesn't end"},
		{head + "allow stick serial \"\\z\"\n", "line 2, byte 42: a quoted text that doesn't end"},
		{head + "allow stick serial \"\u202e\"\n", "line 2, byte 42: a quoted text with a character"},
		{head + "allow stick serial \"\u200b\"\n", "line 2, byte 42: a quoted text with a character"},
		{head + "allow stick serial \"x\"port 1-1\n", "line 2, byte 45: no blank behind"},
		{head + "allow stick serial \"\" serial \"\"\n", "line 2, byte 45: a second serial"},
		{head + "allow stick port \"1-1\"\n", "line 2, byte 40: a serial number stands in quotes, and nothing else"},
		{head + "allow stick port usb1\n", "line 2, byte 40: no port"},
		{head + "allow stick port 1-1.\n", "line 2, byte 40: no port"},
		{head + "allow stick port 1-1.*\n", "line 2, byte 40: no port"},
		{head + "allow stick port 1-1:1.0\n", "line 2, byte 40: no port"},
		{head + "allow stick port pci-0000:00:14.0-usb-0:1\n", "line 2, byte 40: no port"},
		{head + "allow stick port 1-1 port 1-2\n", "line 2, byte 44: a second port"},
		{head + "allow stick hash " + hash[1:] + "\n", "line 2, byte 40: no SHA-256"},
		{head + "allow stick hash " + strings.ToUpper(hash) + "\n", "line 2, byte 40: no SHA-256"},
		{head + "allow stick hash " + hash + " hash " + hash + "\n", "line 2, byte 105: a second hash"},
		{head + "allow stick code\n", "line 2, byte 35: a code can only be typed on a keyboard"},
		{head + "allow keyboard code code\n", "line 2, byte 43: a second code"},
		{head + "block keyboard code\n", "line 2, byte 38: code and as belong to"},
		{head + "block stick port 1-1 as boot\n", "code and as belong to"},
		{head + "allow keyboard\n", "line 2, byte 29: a keyboard wants a port"},
		{head + "allow keyboard id 0951:1666\n", "a keyboard wants a port"},
		{head + "allow hub\n", "line 2, byte 29: a hub wants a port"},
		{head + "allow recorder\n", "line 2, byte 29: a recorder wants a port"},
		{head + "allow recorder serial \"x\"\n", "a recorder wants a port or a hash"},
		{head + "allow stick as boot\n", "what is there as boot wants a port"},
		{head + "allow stick port 1-1 as root\n", "line 2, byte 47: neither boot nor state"},
		{head + "allow stick port 1-1 as boot as state\n", "line 2, byte 52: a second as"},
		{head + "allow keyboard port 1-1 as state\n", "only a stick or recorder is there as state"},
		{head + "allow stick port 1-1 id 0951:1666\nallow stick\nblock stick id 0951:1666 port 1-1\n", "line 4, byte 69: line 2 has the same conditions"},
		{head + many.String(), "line 1002, byte "},
		{head + strings.Repeat("#\n", maxPolicy/2), "there are more than 262144 bytes"},
	} {
		if p, err := ParsePolicy("p.txt", []byte(test.text)); err == nil || !strings.HasPrefix(err.Error(), "usb policy p.txt: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.80q: %+v, %v; want %q", test.text, p, err, test.want)
		}
	}
}

// policyOf is a policy of these rules.
func policyOf(t *testing.T, rules ...string) *Policy {
	t.Helper()
	p, err := ParsePolicy("test", []byte(head+strings.Join(rules, "\n")+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// codeOf is the code of a refusal, "" for none, "fault" for any other error.
func codeOf(err error) string {
	var refusal interface{ RefusalCode() string }
	switch {
	case err == nil:
		return ""
	case errors.As(err, &refusal):
		return refusal.RefusalCode()
	}
	return "fault"
}

func TestJudge(t *testing.T) {
	look := func(sample string) *Attached {
		d, err := Parse(samples[sample].descriptors)
		if err != nil {
			t.Fatal(err)
		}
		return &Attached{Name: "1-1.4", Port: "pci-0000:00:14.0-usbv2-0:1.4", Serial: "0042", Descriptors: d}
	}
	digest := look("stick").Descriptors.Hash()
	for _, test := range []struct {
		sample string
		rules  []string
		want   string // classes and lines, or a code
	}{
		{"stick", []string{"allow stick"}, "stick 2"},
		{"stick", nil, CodePolicy},
		{"stick", []string{"allow keyboard code"}, CodePolicy},
		{"recorder", []string{"allow stick"}, CodePolicy},
		{"recorder", []string{"allow recorder port 1-1.4"}, "recorder 2"},
		{"hub", []string{"allow stick", "allow hub port 1-1.3"}, CodePolicy},
		{"hub", []string{"allow stick", "allow hub port 1-1.4"}, "hub 3"},
		{"keyboard", []string{"allow keyboard port 1-1", "allow keyboard code"}, "keyboard 3"},

		// A stick and a recorder can be told from each other only behind the gate: each has its first rule.
		{"stick", []string{"allow stick", "allow recorder port 1-1.4"}, "stick 2, recorder 3"},
		{"stick", []string{"block stick port 1-1.4", "allow stick", "allow recorder port 1-1.4"}, "recorder 4"},
		{"stick", []string{"block any port 1-1.4", "allow stick", "allow recorder port 1-1.4"}, CodePolicy},

		// The first that fits decides.
		{"stick", []string{"allow stick", "block any id 0951:1666"}, "stick 2"},
		{"stick", []string{"block any id 0951:1666", "allow stick"}, CodePolicy},
		{"stick", []string{"block any id 0951:*", "allow stick"}, CodePolicy},
		{"stick", []string{"block any id 0951:1667", "block any id 0952:*", "allow stick"}, "stick 4"},
		{"stick", []string{`allow stick serial "0042"`}, "stick 2"},
		{"stick", []string{`allow stick serial "42"`, `allow stick serial ""`}, CodePolicy},
		{"stick", []string{"allow stick port pci-0000:00:14.0-usbv2-0:1.4"}, "stick 2"},
		{"stick", []string{"allow stick port pci-0000:00:14.0-usbv3-0:1.4", "allow stick port 2-1.4", "allow stick port 1-1"}, CodePolicy},
		{"stick", []string{"allow stick hash " + digest}, "stick 2"},
		{"uas stick", []string{"allow stick hash " + digest}, CodePolicy},
		{"stick", []string{"allow stick id 0951:1666 port 1-1.4 hash " + hash, `allow stick serial "0042" id 0951:1667`}, CodePolicy}, // all or nothing

		// U1: nothing makes these come in.
		{"stick and keyboard", []string{"allow stick", "allow keyboard port 1-1.4"}, CodeMixed},
		{"stick and network", []string{"allow stick"}, CodeMixed},
		{"stick and serial line", []string{"allow stick"}, CodeMixed},
		{"stick and vendor's own", []string{"allow stick"}, CodeMixed},
		{"stick and hub", []string{"allow stick", "allow hub port 1-1.4"}, CodeMixed},
		{"stick that can become a keyboard", []string{"allow stick", "allow keyboard port 1-1.4"}, CodeMixed},
		{"stick with a second configuration", []string{"allow stick", "allow keyboard port 1-1.4"}, CodeMixed},
		{"two disks", []string{"allow stick"}, CodeMixed},
		{"stick in an association", []string{"allow stick"}, CodeMixed},
		{"keyboard and audio", []string{"allow keyboard code"}, CodeMixed},
		{"telephone", []string{"allow stick"}, CodeClass},
		{"network", []string{"allow stick"}, CodeClass},
		{"mouse", []string{"allow stick", "allow keyboard port 1-1.4"}, CodeClass},
	} {
		a := look(test.sample)
		grants, err := policyOf(t, test.rules...).Judge(a)
		var parts []string
		for _, g := range grants {
			parts = append(parts, fmt.Sprintf("%s %d", g.Class, g.Rule.Line))
		}
		if err != nil {
			parts = append(parts, codeOf(err))
		}
		if got := strings.Join(parts, ", "); got != test.want {
			t.Errorf("%s by %q: %s (%v), want %s", test.sample, test.rules, got, err, test.want)
		}
	}
}

// TestRefusalText: whoever reads it learns what it is, and no text of a device gets at the terminal.
func TestRefusalText(t *testing.T) {
	d, err := Parse(samples["stick and keyboard"].descriptors)
	if err != nil {
		t.Fatal(err)
	}
	a := &Attached{Name: "1-1", Manufacturer: "\x1b[2J", Product: "Disk\n\u202e", Serial: "\"", Descriptors: d}
	_, err = new(Policy).Judge(a)
	want := `usb-mixed-functions: 1-1 "\x1b[2J" "Disk\n\u202e" 0951:1666 serial "\"" (claims to be storage + keyboard) stays out: it has 2 interfaces; a stick has exactly one, and a keyboard none but input devices`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	cut, broken := Parse(samples["stick"].descriptors[:40])
	_, err = new(Policy).Judge(&Attached{Name: "1-1", Descriptors: cut, Malformed: broken})
	if codeOf(err) != CodeMalformed || !strings.HasSuffix(err.Error(), "its descriptors are not as they have to be: parse usb descriptors: byte 20: a configuration of 32 bytes where there are 22") {
		t.Errorf("%v", err)
	}
	none, broken := Parse(nil)
	_, err = new(Policy).Judge(&Attached{Name: "1-1", Descriptors: none, Malformed: broken})
	if codeOf(err) != CodeMalformed || !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	_, err = policyOf(t, "block stick id 0951:*").Judge(&Attached{Name: "1-1", Descriptors: parsed(t, "stick")})
	if want := "line 2 of the policy blocks it as a stick: block stick id 0951:*; no rule of the policy allows it as a recorder"; codeOf(err) != CodePolicy || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

func parsed(t *testing.T, sample string) *Device {
	t.Helper()
	d, err := Parse(samples[sample].descriptors)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// FuzzPolicy: a policy means what it says when it is written out again, and lets nothing in that is no class.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte(aPolicy))
	f.Add([]byte(DefaultPolicy))
	f.Add([]byte(head + "allow stick id 0951:1666\nblock any\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParsePolicy("fuzz", text)
		if err != nil {
			return
		}
		var out strings.Builder
		out.WriteString(head)
		for _, r := range p.Rules {
			out.WriteString(r.String() + "\n")
		}
		again, err := ParsePolicy("again", []byte(out.String()))
		if err != nil {
			t.Fatalf("%v of %q", err, out.String())
		}
		same := slices.EqualFunc(p.Rules, again.Rules, func(a, b Rule) bool {
			a.Line, b.Line = 0, 0
			return reflect.DeepEqual(a, b)
		})
		if !same {
			t.Errorf("%+v, written out %+v", p.Rules, again.Rules)
		}
		for _, sample := range []string{"stick and keyboard", "stick that can become a keyboard", "telephone"} {
			d, err := Parse(samples[sample].descriptors)
			if err != nil {
				t.Fatal(err)
			}
			if grants, err := p.Judge(&Attached{Name: "1-1", Descriptors: d}); err == nil {
				t.Errorf("%s: %v", sample, grants)
			}
		}
	})
}
