package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/therootcompany/xz"
)

const (
	arMagic  = "!<arch>\n"
	arHeader = 60
	arEnd    = "`\n"
)

// readDeb calls visit for each entry of the data archive of the Debian package in r, in the package's order; content
// is good until visit returns. The format is deb(5), version 2, its data compressed with xz, gzip or not at all.
// What follows the data archive isn't read. Errors name the archive's member and the byte in the package.
func readDeb(r io.Reader, visit func(h *tar.Header, content io.Reader) error) error {
	a := &arReader{r: bufio.NewReaderSize(r, 1<<16)}
	if err := a.magic(); err != nil {
		return err
	}
	name, body, err := a.next()
	if err != nil {
		return err
	}
	version, err := io.ReadAll(io.LimitReader(body, 16))
	if err != nil {
		return err
	}
	if name != "debian-binary" || !bytes.HasPrefix(version, []byte("2.")) {
		return &FormatError{name, 8, "no Debian package of version 2 begins so"}
	}
	for {
		name, body, err := a.next()
		if errors.Is(err, io.EOF) {
			return &FormatError{"", a.at, "the package ends before its data archive"}
		}
		if err != nil {
			return err
		}
		packed, isData := strings.CutPrefix(name, "data.tar")
		if !isData {
			continue
		}
		start := a.at
		unpacked, err := unpack(packed, body)
		if err != nil {
			return fmt.Errorf("%s at byte %d: %w", name, start, err)
		}
		if err := readTar(unpacked, visit); err != nil {
			return fmt.Errorf("%s at byte %d: %w", name, start, err)
		}
		return nil
	}
}

// unpack undoes the compression that a file's suffix names.
func unpack(suffix string, r io.Reader) (io.Reader, error) {
	switch suffix {
	case "":
		return r, nil
	case ".xz":
		return xz.NewReader(r, maxDict)
	case ".gz":
		return gzip.NewReader(r)
	}
	return nil, fmt.Errorf("compression %q is not supported, only xz and gzip", suffix)
}

// readTar goes through a tar archive within the limits.
func readTar(r io.Reader, visit func(h *tar.Header, content io.Reader) error) error {
	bounded := &boundedReader{r: r, left: maxUnpacked}
	archive := tar.NewReader(bounded)
	for range maxEntries {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Size > maxFile {
			return fmt.Errorf("%.255q has %d bytes, more than %d", h.Name, h.Size, int64(maxFile))
		}
		if err := visit(h, archive); err != nil {
			return err
		}
	}
	return fmt.Errorf("more than %d entries", maxEntries)
}

// boundedReader gives an error, and not an end, when more is read than there may be.
type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, fmt.Errorf("more than %d bytes unpacked", int64(maxUnpacked))
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// arReader reads a Unix archive in the common form, as deb(5) has it: names of at most 16 bytes, and no others.
type arReader struct {
	r    io.Reader
	at   int64            // bytes of the archive read
	body io.LimitedReader // what is left of the current member
	odd  bool             // the current member has a byte of padding
}

func (a *arReader) Read(p []byte) (int, error) {
	n, err := a.r.Read(p)
	a.at += int64(n)
	return n, err
}

func (a *arReader) magic() error {
	var magic [len(arMagic)]byte
	n, err := io.ReadFull(a, magic[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if string(magic[:n]) != arMagic {
		return &FormatError{"", 0, "no Debian package begins so"}
	}
	return nil
}

// next goes to the next member; io.EOF means that there is none.
func (a *arReader) next() (name string, body io.Reader, err error) {
	if a.odd {
		a.body.N++
	}
	if a.body.N > 0 {
		if _, err := io.Copy(io.Discard, &a.body); err != nil {
			return "", nil, err
		}
		if a.body.N > 0 {
			return "", nil, &FormatError{"", a.at, "the package ends within a member"}
		}
	}
	start := a.at
	var h [arHeader]byte
	_, err = io.ReadFull(a, h[:])
	switch {
	case errors.Is(err, io.EOF):
		return "", nil, io.EOF
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "", nil, &FormatError{"", a.at, "the package ends within the header of a member"}
	case err != nil:
		return "", nil, err
	}
	if string(h[arHeader-len(arEnd):]) != arEnd {
		return "", nil, &FormatError{"", start, "no header of a member"}
	}
	name = strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/")
	size, err := strconv.ParseUint(strings.TrimRight(string(h[48:58]), " "), 10, 40)
	if err != nil {
		return "", nil, &FormatError{name, start + 48, "the size of the member is no number"}
	}
	a.body, a.odd = io.LimitedReader{R: a, N: int64(size)}, size%2 == 1
	return name, &a.body, nil
}
