package image

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"strings"
)

// Section is a part of a unified kernel image, by the names of the UAPI group's specification: .osrel, .cmdline, .uname,
// .initrd, .linux.
type Section struct {
	Name    string // up to eight bytes
	Size    int64  // bytes
	Content io.Reader
}

// Sizes and places in a PE/COFF file, in bytes, by Microsoft's specification of that format.
const (
	maxStub = 4 << 20 // systemd's has some 100 KiB
	maxUKI  = 1 << 30 // offsets have 32 bits, and firmware reads all of it into memory

	peOffset      = 0x3c // in the DOS header: where the PE signature is
	coffHeader    = 20
	peOptional    = 112 // the optional header of PE32+, without its data directories
	peDirectory   = 8
	sectionHeader = 40

	pe32plus   = 0x20b
	amd64      = 0x8664
	readOnly   = 0x40000040 // IMAGE_SCN_MEM_READ and IMAGE_SCN_CNT_INITIALIZED_DATA
	security   = 4          // the data directory of the signatures
	page       = 4096
	minAligned = 512
	maxAligned = 64 << 10
)

// stub is a PE file to which sections can be added.
type stub struct {
	header []byte // as SizeOfHeaders says, with room for more section headers
	data   []byte // from there to the end of the last section
	coff   int    // where the COFF header is
	table  int    // where the section headers are
	count  int    // of them

	fileAlign, sectionAlign int64
	virtualEnd              int64 // behind the last section, in memory
}

// stubFile is where Debian's package has the stub.
const stubFile = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"

// ReadStub reads the EFI stub out of Debian's package systemd-boot-efi.
func ReadStub(deb io.Reader) ([]byte, error) {
	var stub []byte
	err := readDeb(deb, func(h *tar.Header, content io.Reader) error {
		if h.Typeflag != tar.TypeReg || strings.TrimPrefix(path.Clean("/"+h.Name), "/") != stubFile {
			return nil
		}
		if h.Size > maxStub {
			return &FormatError{h.Name, 0, fmt.Sprintf("%d bytes, more than %d", h.Size, maxStub)}
		}
		var err error
		stub, err = io.ReadAll(content)
		return err
	})
	if err == nil && stub == nil {
		err = fmt.Errorf("no %s in it", stubFile)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the EFI stub's package: %w", err)
	}
	return stub, nil
}

// WriteUKI writes a unified kernel image: the EFI stub (systemd-stub(7)) with sections added, in the order in which they
// are given, each at the next place in the file and in memory. The stub's COFF symbols are left out and its checksum,
// which firmware doesn't look at, is zero; it must not be signed yet. The same input gives the same bytes. Errors are
// FormatErrors, of the stub and what fits behind it, or those of w and of the contents.
func WriteUKI(w io.Writer, efi []byte, sections []Section) error {
	s, err := parseStub(efi)
	if err != nil {
		return err
	}
	if err := s.add(sections); err != nil {
		return err
	}
	written := int64(0)
	for _, b := range [][]byte{s.header, s.data} {
		n, err := w.Write(b)
		if written += int64(n); err != nil {
			return err
		}
	}
	for _, section := range sections {
		if err := pad(w, &written, s.fileAlign); err != nil {
			return err
		}
		n, err := io.Copy(w, io.LimitReader(section.Content, section.Size+1))
		if written += n; err != nil {
			return fmt.Errorf("section %s: %w", section.Name, err)
		}
		if n != section.Size {
			return fmt.Errorf("section %s: the content has another size than %d bytes", section.Name, section.Size)
		}
	}
	return pad(w, &written, s.fileAlign)
}

// pad writes zeros up to a multiple of some bytes.
func pad(w io.Writer, written *int64, align int64) error {
	n, err := w.Write(make([]byte, aligned(*written, align)-*written))
	*written += int64(n)
	return err
}

func aligned(n, align int64) int64 { return (n + align - 1) / align * align }

func stubError(offset int, format string, args ...any) error {
	return &FormatError{"stub", int64(offset), fmt.Sprintf(format, args...)}
}

func parseStub(efi []byte) (*stub, error) {
	order := binary.LittleEndian
	if len(efi) < peOffset+4 || len(efi) > maxStub || string(efi[:2]) != "MZ" {
		return nil, stubError(0, "no PE file of up to %d bytes", maxStub)
	}
	at := int64(order.Uint32(efi[peOffset:]))
	if at > int64(len(efi))-4-coffHeader-peOptional || !bytes.Equal(efi[at:at+4], []byte("PE\x00\x00")) {
		return nil, stubError(peOffset, "there is no PE header at %d", at)
	}
	s := &stub{coff: int(at) + 4}
	optional := s.coff + coffHeader
	if order.Uint16(efi[s.coff:]) != amd64 || order.Uint16(efi[optional:]) != pe32plus {
		return nil, stubError(s.coff, "no program for x86-64")
	}
	size, directories := int(order.Uint16(efi[s.coff+16:])), int(order.Uint32(efi[optional+108:]))
	s.count, s.table = int(order.Uint16(efi[s.coff+2:])), optional+size
	if directories > 16 || size != peOptional+directories*peDirectory {
		return nil, stubError(optional, "an optional header of %d bytes with %d data directories", size, directories)
	}
	s.fileAlign, s.sectionAlign = int64(order.Uint32(efi[optional+36:])), int64(order.Uint32(efi[optional+32:]))
	for _, n := range []int64{s.fileAlign, s.sectionAlign} {
		if n < minAligned || n > maxAligned || n&(n-1) != 0 {
			return nil, stubError(optional+32, "sections aligned to %d and %d bytes", s.sectionAlign, s.fileAlign)
		}
	}
	headers := int64(order.Uint32(efi[optional+60:]))
	if headers%s.fileAlign != 0 || headers > int64(len(efi)) || int64(s.table+s.count*sectionHeader) > headers {
		return nil, stubError(optional+60, "%d bytes for headers, of which %d sections", headers, s.count)
	}
	if at := optional + peOptional + security*peDirectory; directories > security && !allZero(efi[at:at+peDirectory]) {
		return nil, stubError(at, "it is signed")
	}
	s.header = bytes.Clone(efi[:headers])
	return s, s.readSections(efi)
}

// readSections finds where the stub's sections end in the file and in memory.
func (s *stub) readSections(efi []byte) error {
	order := binary.LittleEndian
	end := int64(len(s.header))
	s.virtualEnd = end
	for i := range s.count {
		at := s.table + i*sectionHeader
		h := efi[at : at+sectionHeader]
		size, address, stored, offset := int64(order.Uint32(h[8:])), int64(order.Uint32(h[12:])), int64(order.Uint32(h[16:])), int64(order.Uint32(h[20:]))
		if address < s.virtualEnd || address > maxUKI || size > maxStub || stored > 0 && (offset < end || offset%s.fileAlign != 0 || stored > int64(len(efi))-offset) {
			return stubError(at, "section %q: %d bytes at %d, %d of them at byte %d", bytes.TrimRight(h[:8], "\x00"), size, address, stored, offset)
		}
		s.virtualEnd = address + size // the linker of systemd's stub doesn't heed the alignment
		if stored > 0 {
			end = offset + stored
		}
	}
	symbols := int64(order.Uint32(efi[s.coff+8:]))
	if rest := efi[end:]; !allZero(rest) && (symbols < end || !allZero(efi[end:min(symbols, int64(len(efi)))])) {
		return stubError(int(end), "%d bytes behind the last section, which are no COFF symbols", len(rest))
	}
	s.data = efi[len(s.header):end]
	return nil
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// add puts the sections' headers behind those of the stub.
func (s *stub) add(sections []Section) error {
	order := binary.LittleEndian
	optional := s.coff + coffHeader
	free := (len(s.header) - s.table) / sectionHeader
	if s.count+len(sections) > free {
		return stubError(s.table, "it has room for %d section headers, and %d are needed", free, s.count+len(sections))
	}
	file, memory := int64(len(s.header)+len(s.data)), s.virtualEnd
	stored := int64(0)
	for _, section := range sections {
		h := s.header[s.table+s.count*sectionHeader:][:sectionHeader]
		if !allZero(h) {
			return stubError(s.table+s.count*sectionHeader, "behind its section headers is something else")
		}
		if len(section.Name) < 2 || len(section.Name) > 8 || section.Name[0] != '.' {
			return fmt.Errorf("%q is no name of a section", section.Name)
		}
		for i := range s.count {
			if other := s.header[s.table+i*sectionHeader:][:8]; string(bytes.TrimRight(other, "\x00")) == section.Name {
				return stubError(s.table+i*sectionHeader, "it has a section %s", section.Name)
			}
		}
		file, memory = aligned(file, s.fileAlign), aligned(memory, max(s.sectionAlign, page))
		if section.Size < 1 || section.Size > maxUKI-max(file, memory) {
			return fmt.Errorf("section %s has %d bytes: an image has up to %d, and no section none", section.Name, section.Size, maxUKI)
		}
		copy(h, section.Name)
		order.PutUint32(h[8:], uint32(section.Size))
		order.PutUint32(h[12:], uint32(memory))
		order.PutUint32(h[16:], uint32(aligned(section.Size, s.fileAlign)))
		order.PutUint32(h[20:], uint32(file))
		order.PutUint32(h[36:], readOnly)
		file, memory, stored = file+aligned(section.Size, s.fileAlign), memory+section.Size, stored+aligned(section.Size, s.fileAlign)
		s.count++
	}
	order.PutUint16(s.header[s.coff+2:], uint16(s.count))
	order.PutUint64(s.header[s.coff+8:], 0) // the symbols, and how many
	order.PutUint32(s.header[optional+8:], order.Uint32(s.header[optional+8:])+uint32(stored))
	order.PutUint32(s.header[optional+56:], uint32(aligned(memory, s.sectionAlign)))
	order.PutUint32(s.header[optional+64:], 0)
	return nil
}
