package mmc

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
)

// A field's place in a CDB, parameter list or reply stands in its `at` tag, as
// the standards' tables write it:
//
//	at:"2"       from byte 2, as wide as the Go type, big-endian
//	at:"9,3"     from byte 9, 3 bytes wide
//	at:"2[5:4]"  byte 2, bits 5 to 4
//	at:"4[0]"    byte 4, bit 0
//
// Strings are ASCII, padded with spaces, and always give their width.
type place struct {
	off, width int
	bits       bool
	hi, lo     uint
}

// layouts caches the places of a struct type's fields.
var layouts sync.Map // reflect.Type to []place

func layout(t reflect.Type) []place {
	if l, ok := layouts.Load(t); ok {
		return l.([]place)
	}
	l := make([]place, t.NumField())
	for i := range l {
		tag, ok := t.Field(i).Tag.Lookup("at")
		if !ok {
			continue // width 0: not part of the wire form
		}
		p, err := parsePlace(tag, t.Field(i).Type)
		if err != nil {
			panic(fmt.Sprintf("mmc: %v.%s: %v", t, t.Field(i).Name, err)) // a mistake in this package's source
		}
		l[i] = p
	}
	layouts.Store(t, l)
	return l
}

func parsePlace(tag string, t reflect.Type) (p place, err error) {
	off := tag
	switch t.Kind() {
	case reflect.Array:
		p.width = t.Len()
	case reflect.String:
	default:
		p.width = int(t.Size())
	}
	if at, bits, ok := strings.Cut(tag, "["); ok {
		hi, lo, span := strings.Cut(strings.TrimSuffix(bits, "]"), ":")
		if !span {
			lo = hi
		}
		h, errH := strconv.ParseUint(hi, 10, 3)
		l, errL := strconv.ParseUint(lo, 10, 3)
		if errH != nil || errL != nil || h < l {
			return p, fmt.Errorf("bad bits in %q", tag)
		}
		off, p.bits, p.hi, p.lo, p.width = at, true, uint(h), uint(l), 1
	} else if at, width, ok := strings.Cut(tag, ","); ok {
		off = at
		if p.width, err = strconv.Atoi(width); err != nil {
			return p, fmt.Errorf("bad width in %q", tag)
		}
	}
	if p.off, err = strconv.Atoi(off); err != nil || p.width == 0 {
		return p, fmt.Errorf("bad place %q", tag)
	}
	return p, nil
}

// put writes the fields of the struct v, or of what it points to, to their
// places in b, which must be long enough.
func put(b []byte, v any) {
	rv := reflect.Indirect(reflect.ValueOf(v))
	for i, p := range layout(rv.Type()) {
		if p.width == 0 {
			continue
		}
		f, dst := rv.Field(i), b[p.off:p.off+p.width]
		switch {
		case f.Kind() == reflect.Bool:
			if f.Bool() {
				dst[0] |= 1 << p.lo
			}
		case p.bits:
			mask := byte(1)<<(p.hi-p.lo+1) - 1
			dst[0] |= (byte(f.Uint()) & mask) << p.lo
		case f.Kind() == reflect.String:
			for n := copy(dst, f.String()); n < len(dst); n++ {
				dst[n] = ' '
			}
		case f.Kind() == reflect.Array:
			reflect.Copy(reflect.ValueOf(dst), f)
		default:
			for n, x := p.width-1, f.Uint(); n >= 0; n, x = n-1, x>>8 {
				dst[n] = byte(x)
			}
		}
	}
}

// get reads the fields of the struct that v points to from their places in b.
// A field that b doesn't hold in full keeps its value.
func get(b []byte, v any) {
	rv := reflect.ValueOf(v).Elem()
	for i, p := range layout(rv.Type()) {
		if p.width == 0 || p.off+p.width > len(b) {
			continue
		}
		f, src := rv.Field(i), b[p.off:p.off+p.width]
		switch {
		case f.Kind() == reflect.Bool:
			f.SetBool(src[0]>>p.lo&1 != 0)
		case p.bits:
			mask := byte(1)<<(p.hi-p.lo+1) - 1
			f.SetUint(uint64(src[0] >> p.lo & mask))
		case f.Kind() == reflect.String:
			f.SetString(ascii(src))
		case f.Kind() == reflect.Array:
			reflect.Copy(f, reflect.ValueOf(src))
		default:
			x := uint64(0)
			for _, c := range src {
				x = x<<8 | uint64(c)
			}
			f.SetUint(x)
		}
	}
}

// ascii reads a text field (SPC-3 4.4.1): bytes outside 20h to 7Eh, which no
// honest device sends, become '?', so that the text can go to a terminal and
// into a record. Padding, spaces or zeros, is cut off.
func ascii(b []byte) string {
	s := []byte(strings.TrimRight(string(b), " \x00"))
	for i, c := range s {
		if c < 0x20 || c > 0x7E {
			s[i] = '?'
		}
	}
	return strings.TrimSpace(string(s))
}
