package iso9660

import (
	"fmt"
	"time"
)

const (
	maxContinuations = 32       // continuation areas of one record, as in isofs
	maxSystemUse     = 64 << 10 // bytes of the continuation areas of one record
	maxReadTarget    = MaxPath  // bytes of a symbolic link's target
)

// A systemUse is what the system use entries of one record say (SUSP 5, RRIP 4).
type systemUse struct {
	name    []byte
	hasNM   bool
	moreNM  bool // another NM entry follows
	oddNM   bool // a flag that says something else than a name
	target  []byte
	hasSL   bool
	moreSL  bool // another SL entry follows
	joinSL  bool // the next component goes on with the last
	slashSL bool // a slash goes before the next component

	hasPX               bool
	mode, links         uint32
	uid, gid            uint32
	hasTF               bool
	mtime               int64
	hasCL, hasPL        bool
	childLBA, parentLBA uint32
	relocated           bool // RE
	sparse, compressed  bool // SF, ZF
	rockRidge           bool // ER, RR or PX
	next                area // from CE
	hasCE               bool
}

type area struct{ lba, offset, length uint32 }

// parseSystemUse decodes a system use field, which is at byte off of the image, and its continuation areas.
func (p *dirParser) parseSystemUse(b []byte, off int64) error {
	s := &p.use
	*s = systemUse{name: s.name[:0], target: s.target[:0]}
	total := 0
	for chain := 0; ; chain++ {
		s.hasCE = false
		if fault := s.parseArea(b); fault != "" {
			return p.fault(off, "%s", fault)
		}
		if !s.hasCE {
			break
		}
		next := s.next
		if chain == maxContinuations {
			return p.fault(off, "more than %d continuation areas", maxContinuations)
		}
		if next.length > maxSystemUse || total+int(next.length) > maxSystemUse {
			return p.fault(off, "continuation areas of more than %d bytes", maxSystemUse)
		}
		total += int(next.length)
		start := int64(next.lba)*BlockSize + int64(next.offset)
		if next.lba < descriptorLBA || next.offset >= BlockSize || start+int64(next.length) > p.f.size {
			return p.fault(off, "continuation area at LBA %d, offset %d, length %d is outside the volume", next.lba, next.offset, next.length)
		}
		if err := p.spend(int64(next.length), off); err != nil {
			return err
		}
		p.f.obs.add(spanArea, start, int64(next.length))
		b = make([]byte, next.length)
		if err := readFull(p.f.r, b, start); err != nil {
			return fmt.Errorf("read continuation area at byte %d: %w", start, err)
		}
		off = start
	}
	if s.moreNM || s.moreSL || s.joinSL {
		return p.fault(off, "a name or target goes on, but nothing follows")
	}
	return nil
}

// parseArea decodes the entries of one area and returns what is wrong with them.
func (s *systemUse) parseArea(b []byte) (fault string) {
	for len(b) >= 4 && b[0] != 0 { // SUSP 4: what is left, or zero, is padding
		length := int(b[2])
		if length < 4 || length > len(b) {
			return fmt.Sprintf("system use entry %q of %d bytes, %d are left", b[:2], length, len(b))
		}
		sig, e := string(b[:2]), b[:length]
		b = b[length:]
		if sig == "ST" {
			return ""
		}
		if fault := s.parseEntry(sig, e); fault != "" {
			return fmt.Sprintf("%s entry: %s", sig, fault)
		}
	}
	return ""
}

// parseEntry decodes one entry, e being all of it. Entries that are not known are skipped, as SUSP demands.
func (s *systemUse) parseEntry(sig string, e []byte) (fault string) {
	ok, ok2 := true, true
	switch sig {
	case "CE":
		if len(e) < lenCE {
			return "too short"
		}
		if s.hasCE {
			return "occurs twice in one area"
		}
		s.hasCE = true
		var ok3 bool
		s.next.lba, ok = get733(e[4:])
		s.next.offset, ok2 = get733(e[12:])
		s.next.length, ok3 = get733(e[20:])
		ok = ok && ok3
	case "ER":
		if len(e) < 8 || 8+int(e[4]) > len(e) {
			return "too short"
		}
		switch string(e[8:][:e[4]]) {
		case erID, "IEEE_P1282", "IEEE_1282":
			s.rockRidge = true
		}
	case "RR":
		s.rockRidge = true
	case "PX":
		return s.parsePX(e)
	case "TF":
		return s.parseTF(e)
	case "NM":
		return s.parseNM(e)
	case "SL":
		return s.parseSL(e)
	case "CL":
		if len(e) < 12 || s.hasCL {
			return "too short or twice"
		}
		s.hasCL = true
		s.childLBA, ok = get733(e[4:])
	case "PL":
		if len(e) < 12 || s.hasPL {
			return "too short or twice"
		}
		s.hasPL = true
		s.parentLBA, ok = get733(e[4:])
	case "RE":
		s.relocated = true
	case "SF":
		s.sparse = true
	case "ZF":
		s.compressed = true
	}
	if !ok || !ok2 {
		return "a number differs between byte orders"
	}
	return ""
}

func (s *systemUse) parsePX(e []byte) (fault string) {
	if len(e) < lenPX || s.hasPX {
		return "too short or twice"
	}
	s.hasPX, s.rockRidge = true, true
	for i, v := range []*uint32{&s.mode, &s.links, &s.uid, &s.gid} {
		var ok bool
		if *v, ok = get733(e[4+8*i:]); !ok {
			return "a number differs between byte orders"
		}
	}
	return ""
}

// parseTF takes the modification time (RRIP 4.1.6); each time that the flags name has a place, in the flags' order.
func (s *systemUse) parseTF(e []byte) (fault string) {
	if len(e) < 5 {
		return "too short"
	}
	flags, times, size := e[4], e[5:], 7
	if flags&0x80 != 0 {
		size = 17
	}
	if flags&0x02 == 0 {
		return ""
	}
	if flags&0x01 != 0 {
		times = times[min(size, len(times)):]
	}
	if len(times) < size {
		return "too short"
	}
	s.hasTF = true
	if size == 7 {
		s.mtime = time7(times)
		return ""
	}
	var ok bool
	if s.mtime, ok = time17(times); !ok {
		return "modification time is not a number"
	}
	return ""
}

func (s *systemUse) parseNM(e []byte) (fault string) {
	if len(e) < lenNM {
		return "too short"
	}
	if s.hasNM && !s.moreNM {
		return "follows one that doesn't continue"
	}
	s.hasNM, s.moreNM = true, e[4]&nmContinue != 0
	if e[4]&^nmContinue != 0 {
		s.oddNM = true
		return ""
	}
	if len(s.name)+len(e)-lenNM > MaxName {
		return fmt.Sprintf("name has more than %d bytes", MaxName)
	}
	s.name = append(s.name, e[lenNM:]...)
	return ""
}

func (s *systemUse) parseSL(e []byte) (fault string) {
	if len(e) < lenSL {
		return "too short"
	}
	if s.hasSL && !s.moreSL {
		return "follows one that doesn't continue"
	}
	s.hasSL, s.moreSL = true, e[4]&slContinue != 0
	for c := e[lenSL:]; len(c) > 0; {
		if len(c) < 2 || 2+int(c[1]) > len(c) {
			return "component is longer than the entry"
		}
		flags, text := c[0], c[2:][:c[1]]
		c = c[2+len(text):]
		if s.slashSL && !s.joinSL {
			s.target = append(s.target, '/')
		}
		s.slashSL = true
		switch flags &^ slContinue {
		case 0:
			s.target = append(s.target, text...)
		case slCurrent:
			s.target = append(s.target, '.')
		case slParent:
			s.target = append(s.target, ".."...)
		case slRoot:
			s.target = append(s.target[:0], '/')
			s.slashSL = false
		default:
			return fmt.Sprintf("component flags %#02x", flags)
		}
		s.joinSL = flags&slContinue != 0
		if len(s.target) > maxReadTarget {
			return fmt.Sprintf("target has more than %d bytes", maxReadTarget)
		}
	}
	return ""
}

// time7 decodes the time of a directory record (ECMA-119 9.1.5). All zero means that there is none, which is taken as 1970.
func time7(b []byte) int64 {
	if [7]byte(b[:7]) == ([7]byte{}) {
		return 0
	}
	t := time.Date(1900+int(b[0]), time.Month(b[1]), int(b[2]), int(b[3]), int(b[4]), int(b[5]), 0, time.UTC)
	return t.Unix() - zone(b[6])
}

// zone returns the seconds east of UTC of an offset in quarters of an hour, 0 for one that is out of range.
func zone(b byte) int64 {
	if q := int64(int8(b)); q >= -48 && q <= 52 {
		return q * 15 * 60
	}
	return 0
}

// time17 decodes the time of a volume descriptor (8.4.26.1), to the second.
func time17(b []byte) (int64, bool) {
	var v [6]int
	start := 0
	for i, end := range [6]int{4, 6, 8, 10, 12, 14} {
		for _, c := range b[start:end] {
			if c < '0' || c > '9' {
				return 0, false
			}
			v[i] = v[i]*10 + int(c-'0')
		}
		start = end
	}
	t := time.Date(v[0], time.Month(v[1]), v[2], v[3], v[4], v[5], 0, time.UTC)
	return t.Unix() - zone(b[16]), true
}
