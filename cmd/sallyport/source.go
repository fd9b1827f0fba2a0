package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/term"

	"sallyport/bundle"
)

// source is an opened SRC. Close it when done.
type source struct {
	bundle.Source
	close func() error
}

func (s *source) Close() error { return s.close() }

// openSource opens an image file, a block device, or the disc in a simulated drive, for reading only.
func (e *env) openSource(name string) (*source, error) {
	if dir, ok := strings.CutPrefix(name, "sim:"); ok {
		return e.openSimulated(dir)
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
	return &source{Source: bundle.Source{ReaderAt: f, Size: size, Medium: !info.Mode().IsRegular(), Gone: deviceGone}, close: f.Close}, nil
}

// deviceGone tells what a block device says when it was pulled out, and its medium with it.
func deviceGone(err error) bool {
	for _, gone := range []error{syscall.ENXIO, syscall.ENODEV, syscall.ENOMEDIUM, syscall.ESHUTDOWN} {
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
