package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/term"

	"sallyport/bundle"
	"sallyport/media/scsi"
)

// source is an opened SRC. Close it when done.
type source struct {
	bundle.Source
	block int // bytes in a logical block of a disk; 0: it is none
	close func() error
}

func (s *source) Close() error { return s.close() }

// openSource opens an image file, a block device, a stick by its generic node, or the disc in an optical drive, for
// reading only: what a bundle may come on.
func (e *env) openSource(name string) (*source, error) {
	src, err := e.openAny(name)
	if err != nil {
		return nil, err
	}
	if err := src.checkBlocks(); err != nil {
		return nil, errors.Join(about(name, err), src.Close())
	}
	return src, nil
}

// openAny is openSource for any medium.
func (e *env) openAny(name string) (*source, error) {
	if strings.HasPrefix(name, "sim:") {
		return e.openDisc(name)
	}
	if scsi.IsNode(name) {
		src, err := e.openCarrier(name)
		if _, other := errors.AsType[*scsi.NotDiskError](err); other {
			return e.openDisc(name)
		}
		if err != nil {
			return nil, about(name, deviceError(name, err))
		}
		return src, nil
	}
	f, info, err := openInput(name)
	if err != nil {
		return nil, err
	}
	if kind := info.Mode() & (os.ModeType | os.ModeCharDevice); kind != 0 && kind != os.ModeDevice {
		err = usagef("%s is a %s, neither an image file nor a block device", name, kindOf(info))
	}
	size := int64(0)
	if err == nil {
		size, err = f.Seek(0, io.SeekEnd)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	src := &source{Source: bundle.Source{ReaderAt: f, Size: size, Gone: deviceGone}, close: f.Close}
	if !info.Mode().IsRegular() {
		src.Medium, src.ReaderAt = true, &device{f, size}
		if src.block, err = blockSize(name); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return src, nil
}

// device reads a block device that can be pulled out meanwhile. Linux then lets it shrink to nothing: reading ends, or
// fails with what a bad block fails with (EIO).
type device struct {
	file interface {
		io.ReaderAt
		io.Seeker
	}
	size int64 // bytes, when it was opened
}

func (d *device) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.file.ReadAt(p, off)
	if err == nil || off+int64(n) >= d.size {
		return n, err
	}
	if now, seekErr := d.file.Seek(0, io.SeekEnd); seekErr != nil {
		return n, fmt.Errorf("%w (%w)", syscall.ENODEV, seekErr)
	} else if now != d.size {
		return n, fmt.Errorf("%w: it had %d bytes when it was opened, and has %d now", syscall.ENODEV, d.size, now)
	}
	return n, err
}

// deviceGone tells what a block device says when it was pulled out, and its medium with it, or when the way to it is
// severed. What a bad block says isn't among it: EIO, ENODATA (a medium error), EILSEQ, EREMOTEIO, ETIMEDOUT.
func deviceGone(err error) bool {
	for _, gone := range []error{syscall.ENXIO, syscall.ENODEV, syscall.ENOMEDIUM, syscall.ESHUTDOWN, syscall.ENOLINK} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// interactive tells whether somebody can be asked.
func (e *env) interactive() bool {
	f, ok := e.stdin.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// onTerminal tells whether what goes to standard output comes on a terminal.
func (e *env) onTerminal() bool {
	f, ok := e.stdout.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// readLine reads a line that somebody types, until the context is done. Without a newline at its end it is what came
// before the end of the input.
func (e *env) readLine() (string, error) {
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(e.stdin).ReadString('\n')
		if err == io.EOF {
			err = nil
		}
		answers <- answer{line, err}
	}()
	select {
	case a := <-answers:
		return a.line, a.err
	case <-e.ctx.Done():
		return "", context.Cause(e.ctx)
	}
}
