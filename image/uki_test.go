package image

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// efiStub is a PE file for x86-64 with the sections .text and .data, room for free more, and symbols behind them.
func efiStub(free int) []byte {
	const at, optional, headers = 0x80, peOptional + 16*peDirectory, 0x400
	order := binary.LittleEndian
	table := at + 4 + coffHeader + optional
	b := make([]byte, headers+0x600)
	copy(b, "MZ")
	order.PutUint32(b[peOffset:], at)
	copy(b[at:], "PE\x00\x00")
	coff := b[at+4:]
	order.PutUint16(coff, amd64)
	order.PutUint16(coff[2:], 2)
	order.PutUint32(coff[8:], headers+0x600)
	order.PutUint32(coff[12:], 1)
	order.PutUint16(coff[16:], optional)
	order.PutUint16(coff[18:], 0x206)
	o := coff[coffHeader:]
	order.PutUint16(o, pe32plus)
	order.PutUint32(o[4:], 0x200)
	order.PutUint32(o[8:], 0x400)
	order.PutUint32(o[16:], 0x4000)
	order.PutUint32(o[32:], 0x200)
	order.PutUint32(o[36:], 0x200)
	order.PutUint32(o[56:], 0x6200)
	order.PutUint32(o[60:], headers)
	order.PutUint32(o[64:], 0x1234)
	order.PutUint16(o[68:], 10) // an EFI application
	order.PutUint32(o[108:], 16)
	for i, s := range []struct {
		name                  string
		size, at, file, flags uint32
	}{{".text", 0x1f0, 0x4000, 0x400, 0x60000020}, {".data", 0x3f0, 0x6010, 0x600, 0xc0000040}} {
		h := b[table+i*sectionHeader:]
		copy(h, s.name)
		order.PutUint32(h[8:], s.size)
		order.PutUint32(h[12:], s.at)
		order.PutUint32(h[16:], aligned32(s.size))
		order.PutUint32(h[20:], s.file)
		order.PutUint32(h[36:], s.flags)
		for j := range s.size {
			b[s.file+j] = byte(i + 1)
		}
	}
	for i := table + (2+free)*sectionHeader; i < headers; i++ {
		b[i] = 0xff
	}
	symbol := make([]byte, 18)
	copy(symbol, "_start")
	return append(append(b, symbol...), 4, 0, 0, 0)
}

func aligned32(n uint32) uint32 { return uint32(aligned(int64(n), 0x200)) }

func sectionsOf(texts ...string) (out []Section) {
	for i := 0; i < len(texts); i += 2 {
		out = append(out, Section{texts[i], int64(len(texts[i+1])), strings.NewReader(texts[i+1])})
	}
	return out
}

// TestWriteUKI: strangers' readers find the stub's sections and the new ones, one behind the other.
func TestWriteUKI(t *testing.T) {
	t.Parallel()
	kernel := strings.Repeat("kernel", 3000)
	texts := []string{".osrel", "ID=sallyport\n", ".cmdline", "quiet", ".initrd", strings.Repeat("i", 512), ".linux", kernel}
	var b, again bytes.Buffer
	for _, w := range []*bytes.Buffer{&b, &again} {
		if err := WriteUKI(w, efiStub(4), sectionsOf(texts...)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Error("two images differ")
	}
	f, err := pe.NewFile(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	end, memory := uint32(0x400), uint32(0x400)
	for _, s := range f.Sections {
		names = append(names, s.Name)
		if s.Offset < end || s.VirtualAddress < memory || s.Offset%0x200 != 0 || !slices.Contains([]string{".text", ".data"}, s.Name) && (s.VirtualAddress%page != 0 || s.Characteristics != readOnly) {
			t.Errorf("%+v", s.SectionHeader)
		}
		end, memory = s.Offset+s.Size, s.VirtualAddress+s.VirtualSize
	}
	if want := []string{".text", ".data", ".osrel", ".cmdline", ".initrd", ".linux"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	o := f.OptionalHeader.(*pe.OptionalHeader64)
	if o.SizeOfImage != aligned32(memory) || int(end) != b.Len() || o.CheckSum != 0 || o.SizeOfInitializedData != 0x400+4*0x200+aligned32(uint32(len(kernel)))-0x200 || f.PointerToSymbolTable != 0 || f.NumberOfSymbols != 0 {
		t.Errorf("%+v, %+v, the file has %d bytes, its sections end at %d", o, f.FileHeader, b.Len(), end)
	}
	name := filepath.Join(t.TempDir(), "uki.efi")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(texts); i += 2 {
		out := name + texts[i]
		if said, err := exec.Command("objcopy", "-O", "binary", "--dump-section", texts[i]+"="+out, name, os.DevNull).CombinedOutput(); err != nil {
			t.Fatalf("objcopy: %v\n%s", err, said)
		}
		if got := readAll(t, out); string(bytes.TrimRight(got, "\x00")) != texts[i+1] {
			t.Errorf("objcopy finds %d bytes in %s, want %d", len(got), texts[i], len(texts[i+1]))
		}
	}
}

func readAll(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWriteUKIRefuses: what is no stub, and what doesn't fit behind one.
func TestWriteUKIRefuses(t *testing.T) {
	t.Parallel()
	order := binary.LittleEndian
	const coff, optional, table = 0x84, 0x98, 0x98 + 240
	change := func(do func(b []byte)) []byte {
		b := efiStub(4)
		do(b)
		return b
	}
	put32 := func(at int, n uint32) []byte { return change(func(b []byte) { order.PutUint32(b[at:], n) }) }
	good := sectionsOf(".linux", "kernel")
	for _, tt := range []struct {
		name     string
		stub     []byte
		sections []Section
		says     string
	}{
		{"nothing", nil, good, "stub: byte 0: no PE file"},
		{"too large", append(efiStub(4), make([]byte, maxStub)...), good, "no PE file of up to"},
		{"no MZ", change(func(b []byte) { b[0] = 'm' }), good, "no PE file"},
		{"header beyond", put32(peOffset, 1<<31), good, "byte 60: there is no PE header at 2147483648"},
		{"no PE", change(func(b []byte) { b[0x80] = 0 }), good, "there is no PE header at 128"},
		{"arm64", change(func(b []byte) { order.PutUint16(b[coff:], 0xaa64) }), good, "byte 132: no program for x86-64"},
		{"PE32", change(func(b []byte) { order.PutUint16(b[optional:], 0x10b) }), good, "no program for x86-64"},
		{"directories", put32(optional+108, 17), good, "17 data directories"},
		{"optional header", change(func(b []byte) { order.PutUint16(b[coff+16:], 112) }), good, "an optional header of 112 bytes with 16"},
		{"alignment 0", put32(optional+36, 0), good, "aligned to 512 and 0"},
		{"alignment 3", put32(optional+32, 768), good, "aligned to 768"},
		{"headers beyond", put32(optional+60, 1<<20), good, "1048576 bytes for headers"},
		{"headers too short", put32(optional+60, 0x200), append(sectionsOf(".a", "1", ".b", "2", ".c", "3", ".d", "4"), good...), "room for"},
		{"sections beyond", change(func(b []byte) { order.PutUint16(b[coff+2:], 60000) }), good, "of which 60000 sections"},
		{"signed", put32(optional+peOptional+security*peDirectory, 1), good, "byte 296: it is signed"},
		{"address back", put32(table+40+12, 0x3000), good, `section ".data"`},
		{"stored beyond", put32(table+40+16, 0x10000), good, `section ".data"`},
		{"stored twice", put32(table+40+20, 0x400), good, `section ".data"`},
		{"something behind", change(func(b []byte) { order.PutUint32(b[coff+8:], 0) }), good, "22 bytes behind the last section"},
		{"no room", efiStub(0), good, "is something else"},
		{"no room that is free", efiStub(1), sectionsOf(".osrel", "1", ".linux", "2"), "is something else"},
		{"twice", efiStub(4), sectionsOf(".linux", "1", ".linux", "2"), "it has a section .linux"},
		{"the stub's own", efiStub(4), sectionsOf(".text", "1"), "it has a section .text"},
		{"name", efiStub(4), sectionsOf("linux", "1"), `"linux" is no name`},
		{"long name", efiStub(4), sectionsOf(".linuxlinux", "1"), "is no name"},
		{"empty", efiStub(4), sectionsOf(".linux", ""), "has 0 bytes"},
		{"huge", efiStub(4), []Section{{".linux", maxUKI, strings.NewReader("")}}, "has 1073741824 bytes"},
		{"less", efiStub(4), []Section{{".linux", 5, strings.NewReader("1234")}}, "another size than 5"},
		{"more", efiStub(4), []Section{{".linux", 3, strings.NewReader("1234")}}, "another size than 3"},
	} {
		if err := WriteUKI(&bytes.Buffer{}, tt.stub, tt.sections); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.says)
		}
	}
}

// FuzzUKI takes any bytes for a stub; what comes of one is a PE file with the section, as its own reader shows it.
func FuzzUKI(f *testing.F) {
	f.Add(efiStub(4))
	f.Add(efiStub(0))
	f.Fuzz(func(t *testing.T, efi []byte) {
		var b bytes.Buffer
		err := WriteUKI(&b, efi, sectionsOf(".linux", "kernel"))
		if err != nil {
			if _, ok := errors.AsType[*FormatError](err); !ok {
				t.Errorf("%v", err)
			}
			return
		}
		s, err := parseStub(b.Bytes())
		if err != nil || s.count == 0 {
			t.Fatalf("%+v, %v", s, err)
		}
		h := s.header[s.table+(s.count-1)*sectionHeader:]
		if at := binary.LittleEndian.Uint32(h[20:]); string(h[:6]) != ".linux" || string(b.Bytes()[at:at+6]) != "kernel" {
			t.Errorf("the last section is %q", h[:sectionHeader])
		}
	})
}

// TestReadStub takes the stub out of a package, and nothing else for it.
func TestReadStub(t *testing.T) {
	for _, tt := range []struct {
		files []entry
		want  string // of the error
	}{
		{[]entry{{"./usr/share/doc/x", []byte("no")}, {"./" + stubFile, []byte("MZ the stub")}}, ""},
		{[]entry{{"./usr/lib/systemd/boot/efi/linuxia32.efi.stub", []byte("another")}}, "no usr/lib/systemd/boot/efi/linuxx64.efi.stub in it"},
		{[]entry{{"./" + stubFile, make([]byte, maxStub+1)}}, "more than 4194304"},
	} {
		got, err := ReadStub(bytes.NewReader(debOf(t, tt.files...)))
		switch {
		case tt.want == "" && (err != nil || string(got) != "MZ the stub"):
			t.Errorf("%.80q, %v", got, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%v, want %q", err, tt.want)
		}
	}
}
