package usb

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Policy says which devices may come in. The first rule that fits decides; what none fits stays out, and so does whatever
// is of no class that the gate knows, whatever the rules say. The zero Policy lets nothing in.
//
// docs/usb-policy.md has the form of the file.
type Policy struct{ Rules []Rule }

// DefaultPolicy is the text of the policy for a station that has none of its own.
const DefaultPolicy = policyHead + `
allow stick
allow keyboard code
`

// Rule is one line of a policy. A device has to meet all of its conditions; those that are nil or "" aren't any.
type Rule struct {
	Allow  bool
	Class  Class // "" for any, in a rule that blocks
	ID     *ID
	Serial *string // exactly as the device gives it
	Port   string  // as in [Attached].Port or .Name
	Hash   string  // of the descriptors, as [Device.Hash] gives it
	Code   bool    // of a keyboard: only when a code was typed on it
	As     Use     // of a stick or recorder: what it is there for
	Line   int     // in the file, from 1
}

// ID is a vendor, and a product or all of that vendor's.
type ID struct {
	Vendor  uint16
	Product uint16
	All     bool
}

// Use is what a rule says that a medium is there for. The zero value is a medium that is carried in or out.
type Use string

// Media that belong to the station. They are read through sd, and are never a target.
const (
	Boot  Use = "boot"
	State Use = "state"
)

// Limits of a policy's text, in bytes and in rules. One for each port of the largest hubs takes a tenth.
const (
	maxPolicy = 256 << 10
	maxRules  = 1000
)

const policyHead = "sallyport-usb-policy 1"

var (
	idForm   = regexp.MustCompile(`^([0-9a-f]{4}):([0-9a-f]{4}|\*)$`)
	hashForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
	portForm = regexp.MustCompile(`^(([a-z][a-z0-9_]*-[0-9A-Za-z:._-]+-usbv[0-9]-0:)|([0-9]{1,4}-))[0-9]{1,3}(\.[0-9]{1,3}){0,5}$`)
)

// ParsePolicy parses the text of a policy; name is what errors call it, and they name line and offset in bytes. It takes
// nothing that could mean something else than it says: no unknown word, no condition twice, no rule that can never be
// reached because of an equal one, no keyboard without a port or a code, no hub without a port.
func ParsePolicy(name string, text []byte) (*Policy, error) {
	fault := func(line, offset int, err error) error {
		return fmt.Errorf("usb policy %s: line %d, byte %d: %w", name, line, offset, err)
	}
	if len(text) > maxPolicy {
		return nil, fault(1, maxPolicy, fmt.Errorf("there are more than %d bytes", maxPolicy))
	}
	p, offset, headed := new(Policy), 0, false
	first := make(map[string]int)
	for i, line := range strings.SplitAfter(string(text), "\n") {
		number := i + 1
		if line == "" {
			break
		}
		content, ended := strings.CutSuffix(line, "\n")
		if !ended {
			return nil, fault(number, offset+len(line), errors.New("the last line doesn't end"))
		}
		words, err := splitRule(content)
		switch {
		case err != nil:
			return nil, fault(number, offset+err.at, err)
		case len(words) == 0:
		case !headed && strings.TrimRight(content, " \t") != policyHead:
			return nil, fault(number, offset, fmt.Errorf("the first line is not %q", policyHead))
		case !headed:
			headed = true
		case len(p.Rules) == maxRules:
			return nil, fault(number, offset, fmt.Errorf("there are more than %d rules", maxRules))
		default:
			rule, err := parseRule(words)
			if err != nil {
				return nil, fault(number, offset+err.at, err)
			}
			if before, ok := first[rule.conditions()]; ok {
				return nil, fault(number, offset, fmt.Errorf("line %d has the same conditions, and decides", before))
			}
			first[rule.conditions()] = number
			rule.Line = number
			p.Rules = append(p.Rules, rule)
		}
		offset += len(line)
	}
	if !headed {
		return nil, fault(1, 0, fmt.Errorf("the first line is not %q", policyHead))
	}
	return p, nil
}

// policyWord is a word of a rule, or a text that stood in quotes.
type policyWord struct {
	text   string
	quoted bool
	at     int // in bytes, in the line
}

type policyError struct {
	at  int
	msg string
}

func (e *policyError) Error() string { return e.msg }

func (w policyWord) wrong(format string, args ...any) *policyError {
	return &policyError{w.at, fmt.Sprintf(format, args...)}
}

// splitRule cuts a line into its words, without the comment.
func splitRule(line string) ([]policyWord, *policyError) {
	var words []policyWord
	for at := 0; at < len(line); {
		switch c := line[at]; {
		case c == ' ' || c == '\t':
			at++
		case c == '#':
			if i := strings.IndexFunc(line[at:], notPlain); i >= 0 {
				return nil, &policyError{at + i, "a comment with a character that can't be seen"}
			}
			return words, nil
		case c == '"':
			quoted, err := strconv.QuotedPrefix(line[at:])
			if err != nil {
				return nil, &policyError{at, "a quoted text that doesn't end, or isn't written as Go would"}
			}
			text, err := strconv.Unquote(quoted)
			if err != nil || strings.IndexFunc(quoted, notPlain) >= 0 {
				return nil, &policyError{at, "a quoted text with a character that has to be escaped"}
			}
			words = append(words, policyWord{text, true, at})
			at += len(quoted)
			if at < len(line) && line[at] != ' ' && line[at] != '\t' {
				return nil, &policyError{at, "no blank behind a quoted text"}
			}
		default:
			length := strings.IndexAny(line[at:], " \t")
			if length < 0 {
				length = len(line) - at
			}
			word := line[at : at+length]
			if i := strings.IndexFunc(word, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '#' }); i >= 0 {
				return nil, &policyError{at + i, "a word with a character that doesn't belong into one"}
			}
			words = append(words, policyWord{word, false, at})
			at += length
		}
	}
	return words, nil
}

// notPlain takes what can't be seen, or changes how the rest is seen.
func notPlain(r rune) bool { return r == utf8.RuneError || r != '\t' && !unicode.IsPrint(r) }

// parseRule parses the words of a line, of which there is at least one.
func parseRule(words []policyWord) (Rule, *policyError) {
	var r Rule
	last := words[len(words)-1]
	switch verb := words[0]; {
	case verb.quoted || verb.text != "allow" && verb.text != "block":
		return r, verb.wrong("a rule begins with allow or block")
	case len(words) < 2:
		return r, verb.wrong("nothing behind %s", verb.text)
	default:
		r.Allow = verb.text == "allow"
	}
	switch what := words[1]; {
	case !what.quoted && slices.Contains(classes, Class(what.text)):
		r.Class = Class(what.text)
	case !what.quoted && what.text == "any" && !r.Allow:
	case !what.quoted && what.text == "any":
		return r, what.wrong("any can only be blocked: say what is allowed")
	default:
		return r, what.wrong("neither stick, recorder, keyboard, hub nor any")
	}
	for rest := words[2:]; len(rest) > 0; {
		n, err := r.takeCondition(rest)
		if err != nil {
			return r, err
		}
		rest = rest[n:]
	}
	switch {
	case !r.Allow && (r.Code || r.As != ""):
		return r, last.wrong("code and as belong to what is allowed")
	case r.Code && r.Class != Keyboard:
		return r, last.wrong("a code can only be typed on a keyboard")
	case r.Allow && r.Class == Keyboard && !r.Code && r.Port == "":
		return r, last.wrong("a keyboard wants a port, or the word code for one that has to be typed on it")
	case r.Allow && r.Class == Hub && r.Port == "":
		return r, last.wrong("a hub wants a port")
	case r.Allow && r.Class == Recorder && r.Port == "" && r.Hash == "":
		return r, last.wrong("a recorder wants a port or a hash")
	case r.As != "" && r.Class != Stick && r.Class != Recorder:
		return r, last.wrong("only a stick or recorder is there as %s", r.As)
	case r.As != "" && r.Port == "":
		return r, last.wrong("what is there as %s wants a port", r.As)
	}
	return r, nil
}

// takeCondition parses the condition that words begin with, and says how many words it has.
func (r *Rule) takeCondition(words []policyWord) (int, *policyError) {
	name := words[0]
	if name.quoted {
		return 0, name.wrong("a text that belongs to nothing")
	}
	if name.text == "code" {
		if r.Code {
			return 0, name.wrong("a second code")
		}
		r.Code = true
		return 1, nil
	}
	if !slices.Contains([]string{"id", "serial", "port", "hash", "as"}, name.text) {
		return 0, name.wrong("neither id, serial, port, hash, code nor as")
	}
	if len(words) < 2 {
		return 0, name.wrong("nothing behind %s", name.text)
	}
	value := words[1]
	if value.quoted != (name.text == "serial") {
		return 0, value.wrong("a serial number stands in quotes, and nothing else does")
	}
	var twice bool
	switch name.text {
	case "id":
		m := idForm.FindStringSubmatch(value.text)
		if m == nil {
			return 0, value.wrong("not vendor:product in hexadecimal, as in 0951:1666 or 0951:*")
		}
		vendor, _ := strconv.ParseUint(m[1], 16, 16) // the form is good
		product, _ := strconv.ParseUint(m[2], 16, 16)
		twice, r.ID = r.ID != nil, &ID{Vendor: uint16(vendor), Product: uint16(product), All: m[2] == "*"}
	case "serial":
		twice, r.Serial = r.Serial != nil, &value.text
	case "port":
		if !portForm.MatchString(value.text) {
			return 0, value.wrong("no port, as in pci-0000:00:14.0-usbv2-0:1.4 or 1-1.4")
		}
		twice, r.Port = r.Port != "", value.text
	case "hash":
		if !hashForm.MatchString(value.text) {
			return 0, value.wrong("no SHA-256 in 64 hexadecimal digits")
		}
		twice, r.Hash = r.Hash != "", value.text
	case "as":
		if use := Use(value.text); use != Boot && use != State {
			return 0, value.wrong("neither boot nor state")
		}
		twice, r.As = r.As != "", Use(value.text)
	}
	if twice {
		return 0, name.wrong("a second %s", name.text)
	}
	return 2, nil
}

// String writes the rule as it can stand in a policy.
func (r Rule) String() string {
	verb, text := "block", r.conditions()
	if r.Allow {
		verb = "allow"
	}
	if r.Code {
		text += " code"
	}
	if r.As != "" {
		text += " as " + string(r.As)
	}
	return verb + " " + text
}

// conditions are the words that say which devices a rule fits.
func (r Rule) conditions() string {
	text := string(r.Class)
	if r.Class == "" {
		text = "any"
	}
	if r.ID != nil {
		text += " id " + r.ID.String()
	}
	if r.Serial != nil {
		text += " serial " + strconv.QuoteToASCII(*r.Serial)
	}
	if r.Port != "" {
		text += " port " + r.Port
	}
	if r.Hash != "" {
		text += " hash " + r.Hash
	}
	return text
}

func (id ID) String() string {
	if id.All {
		return fmt.Sprintf("%04x:*", id.Vendor)
	}
	return fmt.Sprintf("%04x:%04x", id.Vendor, id.Product)
}

// fits says whether a device meets all conditions of a rule.
func (r *Rule) fits(a *Attached, class Class) bool {
	return (r.Class == "" || r.Class == class) &&
		(r.ID == nil || r.ID.Vendor == a.Descriptors.Vendor && (r.ID.All || r.ID.Product == a.Descriptors.Product)) &&
		(r.Serial == nil || *r.Serial == a.Serial) &&
		(r.Port == "" || r.Port == a.Port || r.Port == a.Name) &&
		(r.Hash == "" || r.Hash == a.Descriptors.Hash())
}

// decide gives the rule for a device that comes as class, nil for none.
func (p *Policy) decide(a *Attached, class Class) *Rule {
	for i := range p.Rules {
		if p.Rules[i].fits(a, class) {
			return &p.Rules[i]
		}
	}
	return nil
}

// Grant is a class that a device may be let in as, and by which rule.
type Grant struct {
	Class Class
	Rule  Rule
}

// Judge says as what a device may be let in, going by what it says of itself and by the policy. There are two grants for
// what may be a stick or a recorder. A device that may not come in at all is an error of the type [RefusedError].
// Judge touches nothing.
func (p *Policy) Judge(a *Attached) ([]Grant, error) {
	if a.Malformed != nil {
		return nil, a.refuse(CodeMalformed, "its descriptors are not as they have to be", a.Malformed)
	}
	possible := a.Descriptors.Classes()
	if len(possible) == 0 {
		return nil, a.refuseClaims()
	}
	var grants []Grant
	var denials []string
	for _, class := range possible {
		switch rule := p.decide(a, class); {
		case rule == nil:
			denials = append(denials, fmt.Sprintf("no rule of the policy allows it as a %s", class))
		case !rule.Allow:
			denials = append(denials, fmt.Sprintf("line %d of the policy blocks it as a %s: %s", rule.Line, class, rule))
		default:
			grants = append(grants, Grant{class, *rule})
		}
	}
	if len(grants) == 0 {
		return nil, a.refuse(CodePolicy, strings.Join(denials, "; "), nil)
	}
	return grants, nil
}
