package image

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
)

// The parts of the ELF64 format that lead to a section by its name (System V ABI, gABI 4.1, chapter 4).
const (
	elfHeader  = 64 // e_shoff at 40, e_shentsize at 58, e_shnum at 60, e_shstrndx at 62
	elfSection = 64 // sh_name at 0, sh_offset at 24, sh_size at 32
	elfIdent   = "\x7fELF\x02\x01\x01"
)

// A modinfo is what a kernel module says of itself in its section .modinfo: KEY=VALUE, each ended by a zero byte.
type modinfo struct {
	depends []string // modules that must be there before
	pre     []string // softdeps: modules or aliases that had better be there before,
	post    []string // and after
	aliases []string // those without a pattern
	release string   // of the kernel that it was made for
}

// parseModinfo reads it from the bytes of a module. Names have "_" for "-", as the kernel has them.
func parseModinfo(path string, module []byte) (modinfo, error) {
	section, at, err := elfSectionByName(path, module, ".modinfo")
	if err != nil {
		return modinfo{}, err
	}
	if len(section) > maxModinfo {
		return modinfo{}, &FormatError{path, at, "the section .modinfo is too big"}
	}
	var info modinfo
	for len(section) > 0 {
		line, rest, ended := bytes.Cut(section, []byte{0})
		if !ended {
			return modinfo{}, &FormatError{path, at, "a line of .modinfo has no end"}
		}
		key, value, _ := strings.Cut(string(line), "=")
		switch key {
		case "depends":
			info.depends = append(info.depends, names(strings.Split(value, ","))...)
		case "softdep":
			info.soft(value)
		case "alias":
			if !strings.ContainsAny(value, "*?[") {
				info.aliases = append(info.aliases, names([]string{value})...)
			}
		case "vermagic":
			info.release, _, _ = strings.Cut(value, " ")
		}
		at += int64(len(line) + 1)
		section = rest
	}
	return info, nil
}

// soft adds a softdep: "pre: a b post: c" (modprobe.d(5)).
func (info *modinfo) soft(value string) {
	var list *[]string
	for _, word := range strings.Fields(value) {
		switch {
		case word == "pre:":
			list = &info.pre
		case word == "post:":
			list = &info.post
		case list != nil:
			*list = append(*list, names([]string{word})...)
		}
	}
}

// names puts module names into the kernel's form, and drops empty ones.
func names(list []string) []string {
	list = slices.Clone(list)
	for i, name := range list {
		list[i] = strings.ReplaceAll(strings.TrimSpace(name), "-", "_")
	}
	return slices.DeleteFunc(list, func(name string) bool { return name == "" })
}

// elfSectionByName returns the bytes of a section of a little-endian ELF64 file, and where in the file they lie.
func elfSectionByName(path string, file []byte, name string) ([]byte, int64, error) {
	if len(file) < elfHeader || string(file[:len(elfIdent)]) != elfIdent {
		return nil, 0, &FormatError{path, 0, "no 64-bit little-endian ELF file"}
	}
	order := binary.LittleEndian
	table := order.Uint64(file[40:])
	size, count, index := order.Uint16(file[58:]), order.Uint16(file[60:]), order.Uint16(file[62:])
	if size != elfSection {
		return nil, 0, &FormatError{path, 58, "a section header of an unknown size"}
	}
	if table > uint64(len(file)) || uint64(count)*elfSection > uint64(len(file))-table {
		return nil, 0, &FormatError{path, 40, "the section headers lie outside of the file"}
	}
	if index >= count {
		return nil, 0, &FormatError{path, 62, "no section with the names of sections"}
	}
	section := func(i uint16) (nameAt uint32, body []byte, at uint64, ok bool) {
		h := file[table+uint64(i)*elfSection:]
		at = order.Uint64(h[24:])
		length := order.Uint64(h[32:])
		if at > uint64(len(file)) || length > uint64(len(file))-at {
			return 0, nil, at, false
		}
		return order.Uint32(h), file[at : at+length], at, true
	}
	_, titles, _, ok := section(index)
	if !ok {
		return nil, 0, &FormatError{path, int64(table) + int64(index)*elfSection, "the names of sections lie outside of the file"}
	}
	for i := range count {
		nameAt, body, at, ok := section(i)
		if !ok || uint64(nameAt) >= uint64(len(titles)) {
			continue // .bss has a size and no bytes
		}
		if bytes.HasPrefix(titles[nameAt:], []byte(name+"\x00")) {
			return body, int64(at), nil
		}
	}
	return nil, 0, &FormatError{path, int64(table), "no section " + name}
}
