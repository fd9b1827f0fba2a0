package usbredir

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a script.
const (
	maxFaces          = 64
	maxConfigurations = 8
	maxInterfaces     = 64 // settings of a configuration
	maxLUNs           = 16 // a command wrapper has four bits for them
	maxScriptFaults   = 1000
	maxSize           = 1 << 50
	maxCache          = 1 << 30
	standardSize      = 64 << 20
)

// parser is a script that is being read.
type parser struct {
	stick   *Stick
	store   func(size int64) (Medium, error)
	face    *Face
	malform string
	lun     *LUN
}

// Parse reads a script, as the package comment describes it. store makes the media, of the real sizes; nil takes
// memory for what isn't zero. An error names the line.
func Parse(r io.Reader, store func(size int64) (Medium, error)) (*Stick, error) {
	if store == nil {
		store = func(size int64) (Medium, error) { return NewMemory(size), nil }
	}
	p := parser{stick: &Stick{}, store: store, face: &Face{
		Speed: HighSpeed, Vendor: 0x1209, Product: 1, Version: 0x0100, Manufacturer: "Example", Name: "Flash Disk", Serial: "0001",
	}}
	s := bufio.NewScanner(r)
	n := 1
	for ; s.Scan(); n++ {
		line, _, _ := strings.Cut(s.Text(), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if err := p.line(words, strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), words[0]))); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n, err)
	}
	if err := p.end(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n, err)
	}
	return p.stick, nil
}

// end closes the last face, and gives a stick its disk.
func (p *parser) end() error {
	if err := p.closeFace(); err != nil {
		return err
	}
	if len(p.stick.LUNs) > 0 || !slices.ContainsFunc(p.stick.Faces, Face.hasStorage) {
		return nil
	}
	return p.addLUN([]string{"disk", strconv.Itoa(standardSize)})
}

func (f Face) hasStorage() bool {
	return slices.ContainsFunc(f.Configurations, func(c Configuration) bool {
		return slices.ContainsFunc(c.Interfaces, func(i Interface) bool { return i.Class == 8 })
	})
}

// closeFace is the end of what is said of a face.
func (p *parser) closeFace() error {
	if len(p.face.Configurations) == 0 {
		p.face.Add(Storage)
	}
	if p.malform != "" && !p.face.Malform(p.malform) {
		return fmt.Errorf("unknown malformation %q", p.malform)
	}
	p.stick.Faces = append(p.stick.Faces, *p.face)
	return nil
}

// line takes one line; rest is all behind its first word.
func (p *parser) line(w []string, rest string) error {
	switch w[0] {
	case "manufacturer", "product", "serial", "types":
		return p.text(w[0], rest)
	case "speed", "id", "class", "interface", "alternate", "configuration", "malformed", "turn":
		return p.identity(w[0], w[1:])
	case "lun":
		return p.addLUN(w[1:])
	case "block", "fake", "cache", "change", "later", "protected", "write-back", "fixed":
		if p.lun == nil {
			return fmt.Errorf("%s before the first lun", w[0])
		}
		return p.unit(w[0], w[1:])
	}
	f, err := parseFault(w)
	if err != nil {
		return err
	}
	if len(p.stick.Faults) == maxScriptFaults {
		return fmt.Errorf("more than %d faults", maxScriptFaults)
	}
	p.stick.Faults = append(p.stick.Faults, f)
	return nil
}

func (p *parser) text(what, s string) error {
	if len(s) > 126 {
		return fmt.Errorf("%s of %d bytes, at most 126", what, len(s))
	}
	switch what {
	case "manufacturer":
		p.face.Manufacturer = s
	case "product":
		p.face.Name = s
	case "serial":
		p.face.Serial = s
	default:
		p.stick.Types = s + "\n"
	}
	return nil
}

var errArguments = errors.New("too few or too many words")

// identity takes a line about what the device says of itself.
func (p *parser) identity(what string, w []string) (err error) {
	f := p.face
	least, most := 1, 1
	switch what {
	case "id", "turn":
		most = 2
	case "alternate":
		least, most = 2, 2
	case "configuration":
		least, most = 0, 0
	}
	if len(w) < least || len(w) > most {
		return fmt.Errorf("%s: %w", what, errArguments)
	}
	switch what {
	case "speed":
		i := slices.Index([]string{"low", "full", "high", "super"}, w[0])
		if i < 0 {
			return fmt.Errorf("unknown speed %q", w[0])
		}
		f.Speed = Speed(i)
	case "id":
		err = f.parseID(w)
	case "class":
		f.Class, f.SubClass, f.Protocol, err = parseClass(w[0])
	case "interface":
		err = p.addInterface(-1, w[0])
	case "alternate":
		n, bad := strconv.ParseUint(w[0], 10, 8)
		if bad != nil {
			return fmt.Errorf("bad interface %q", w[0])
		}
		err = p.addInterface(int(n), w[1])
	case "configuration":
		if len(f.Configurations) == 0 { // what is there without a word
			f.Add(Storage)
		}
		if len(f.Configurations) == maxConfigurations {
			return fmt.Errorf("more than %d configurations", maxConfigurations)
		}
		f.Configurations = append(f.Configurations, Configuration{})
	case "malformed":
		p.malform = w[0]
	case "turn":
		err = p.turn(w)
	}
	return err
}

func (f *Face) parseID(w []string) error {
	vendor, product, ok := strings.Cut(w[0], ":")
	v, errV := strconv.ParseUint(vendor, 16, 16)
	n, errN := strconv.ParseUint(product, 16, 16)
	if !ok || errV != nil || errN != nil {
		return fmt.Errorf("bad id %q, want VVVV:PPPP in hex", w[0])
	}
	f.Vendor, f.Product = uint16(v), uint16(n)
	if len(w) == 2 {
		r, err := strconv.ParseUint(w[1], 16, 16)
		if err != nil {
			return fmt.Errorf("bad version %q, want RRRR in hex", w[1])
		}
		f.Version = uint16(r)
	}
	return nil
}

func parseClass(s string) (class, subClass, protocol byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(b) != 3 || strings.Count(s, ":") != 2 {
		return 0, 0, 0, fmt.Errorf("bad class %q, want CC:SS:PP in hex", s)
	}
	return b[0], b[1], b[2], nil
}

// addInterface adds an interface, or a setting of one that is there.
func (p *parser) addInterface(number int, kind string) error {
	f := p.face
	if n := len(f.Configurations); n > 0 && len(f.Configurations[n-1].Interfaces)+2 > maxInterfaces {
		return fmt.Errorf("more than %d interfaces", maxInterfaces)
	}
	class, named := classes[kind]
	if !named {
		var err error
		if class[0], class[1], class[2], err = parseClass(kind); err != nil {
			return fmt.Errorf("unknown interface %q, and as a class: %w", kind, err)
		}
		kind = Vendor
	}
	if number >= 0 && len(f.Configurations) == 0 {
		f.Add(Storage)
	}
	if number < 0 {
		f.Add(kind)
	} else {
		c := f.Configurations[len(f.Configurations)-1]
		if !slices.ContainsFunc(c.Interfaces, func(i Interface) bool { return int(i.Number) == number }) {
			return fmt.Errorf("no interface %d", number)
		}
		f.AddAlternate(byte(number), kind)
	}
	if !named {
		interfaces := f.Configurations[len(f.Configurations)-1].Interfaces
		last := &interfaces[len(interfaces)-1]
		last.Class, last.SubClass, last.Protocol = class[0], class[1], class[2]
	}
	return nil
}

// turn begins another face.
func (p *parser) turn(w []string) error {
	turn, err := parseTurn(w, OnPlug, OnReset, OnConfigure, OnDescriptor)
	if err != nil {
		return err
	}
	if len(p.stick.Turns)+2 > maxFaces {
		return fmt.Errorf("more than %d faces", maxFaces)
	}
	next := *p.face
	next.Configurations, next.Raw = nil, nil
	if err := p.closeFace(); err != nil {
		return err
	}
	p.face, p.malform = &next, ""
	p.stick.Turns = append(p.stick.Turns, turn)
	return nil
}

func parseTurn(w []string, events ...Event) (Turn, error) {
	t := Turn{On: Event(w[0])}
	if !slices.Contains(events, t.On) {
		return t, fmt.Errorf("unknown event %q", w[0])
	}
	if len(w) > 1 {
		n, err := strconv.ParseUint(w[1], 10, 31)
		if err != nil || n == 0 {
			return t, fmt.Errorf("bad count %q", w[1])
		}
		t.Nth = int(n)
	}
	return t, nil
}

// addLUN takes what is behind "lun".
func (p *parser) addLUN(w []string) error {
	if len(w) != 2 || w[0] != "disk" && w[0] != "cd" {
		return errors.New("want lun disk|cd SIZE|none")
	}
	if len(p.stick.LUNs) == maxLUNs {
		return fmt.Errorf("more than %d logical units", maxLUNs)
	}
	l := &LUN{Serial: p.face.Serial}
	if w[0] == "cd" {
		l.Type, l.Name = CD, "CD"
	}
	if w[1] != "none" {
		size, err := parseSize(w[1], maxSize)
		if err != nil {
			return err
		}
		if l.Medium, err = p.store(size); err != nil {
			return err
		}
	}
	p.lun = l
	p.stick.LUNs = append(p.stick.LUNs, l)
	return nil
}

// parseSize reads bytes, or with K, M, G or T multiples of powers of 1,024.
func parseSize(s string, most int64) (int64, error) {
	digits := strings.TrimRight(s, "KMGT")
	shift := 0
	if len(digits) == len(s)-1 {
		shift = 10 * (1 + strings.IndexByte("KMGT", s[len(s)-1]))
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || len(digits) < len(s)-1 || int64(n) > most>>shift {
		return 0, fmt.Errorf("bad size %q (0 to %d)", s, most)
	}
	return int64(n) << shift, nil
}

// unit takes a line about the last logical unit.
func (p *parser) unit(what string, w []string) (err error) {
	l := p.lun
	switch {
	case what == "protected" && len(w) == 0:
		l.Protected = true
	case what == "write-back" && len(w) == 0:
		l.WriteBack = true
	case what == "fixed" && len(w) == 0:
		l.Fixed = true
	case what == "block" && len(w) == 1:
		l.BlockSize, err = parseBlock(w[0])
	case what == "later" && len(w) >= 3:
		err = l.parseLater(w)
	case l.Medium == nil && (what == "fake" || what == "cache" || what == "change"):
		err = fmt.Errorf("%s of a unit without a medium", what)
	case what == "fake" && len(w) >= 2:
		err = l.parseFake(w)
	case what == "cache" && len(w) == 1:
		c := &Cache{Medium: l.Medium}
		c.Bytes, err = parseSize(w[0], maxCache)
		l.Medium = c
	case what == "change" && (len(w) == 2 || len(w) == 3):
		err = l.parseChange(w)
	default:
		err = fmt.Errorf("%s: %w", what, errArguments)
	}
	return err
}

func parseBlock(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n < 512 || n > 32768 || n&(n-1) != 0 {
		return 0, fmt.Errorf("bad block size %q (512 to 32768, a power of two)", s)
	}
	return int(n), nil
}

func (l *LUN) parseFake(w []string) error {
	lie := slices.Index([]string{"limbo", "wraparound", "chain", "last"}, w[0])
	if lie < 0 {
		return fmt.Errorf("unknown lie %q", w[0])
	}
	f := &Fake{Medium: l.Medium, Lie: Lie(lie), Block: int64(l.blockSize())}
	if f.Real() < f.Block {
		return fmt.Errorf("a lie about a medium of %d bytes, which has no block", f.Real())
	}
	var err error
	if f.Claim, err = parseSize(w[1], maxSize); err != nil {
		return err
	}
	w = w[2:]
	if len(w) >= 2 && w[0] == "wrap" {
		if f.Wrap, err = parseSize(w[1], maxSize); err != nil {
			return err
		}
		w = w[2:]
	}
	if len(w) == 1 && w[0] == "noise" {
		f.Noise, w = true, nil
	}
	if len(w) > 0 {
		return fmt.Errorf("unknown words %q", w)
	}
	if f.Lie == Chain && f.Wrap <= f.Real() {
		return fmt.Errorf("a chain wraps behind its real size %d", f.Real())
	}
	l.Medium = f
	return nil
}

func (l *LUN) parseChange(w []string) (err error) {
	c := &Changing{Medium: l.Medium}
	if c.Offset, err = parseSize(w[0], maxSize); err != nil {
		return err
	}
	if c.Length, err = parseSize(w[1], maxSize); err != nil {
		return err
	}
	if len(w) == 3 {
		n, err := strconv.ParseUint(w[2], 10, 31)
		if err != nil || n == 0 {
			return fmt.Errorf("bad count %q", w[2])
		}
		c.From = int(n)
	}
	l.Medium = c
	return nil
}

// parseLater reads EVENT [N] block N [size SIZE].
func (l *LUN) parseLater(w []string) (err error) {
	at := slices.Index(w, "block")
	if at != 1 && at != 2 || len(w) != at+2 && len(w) != at+4 {
		return errArguments
	}
	var g Geometry
	if g.At, err = parseTurn(w[:at], OnPlug, OnCapacity); err != nil {
		return err
	}
	if g.BlockSize, err = parseBlock(w[at+1]); err != nil {
		return err
	}
	if w = w[at+2:]; len(w) == 2 {
		if w[0] != "size" {
			return fmt.Errorf("unknown word %q", w[0])
		}
		if g.Size, err = parseSize(w[1], maxSize); err != nil {
			return err
		}
	}
	if len(l.Later) == maxFaces {
		return fmt.Errorf("more than %d geometries", maxFaces)
	}
	l.Later = append(l.Later, g)
	return nil
}
