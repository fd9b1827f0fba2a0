package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"strings"

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
	f, err := os.Open(name)
	if err != nil {
		return nil, pathError(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && info.Mode()&os.ModeDevice == 0 {
		err = usagef("%s is neither an image file nor a device", name)
	}
	size := int64(0)
	if err == nil {
		size, err = f.Seek(0, io.SeekEnd)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &source{Source: bundle.Source{ReaderAt: f, Size: size, Medium: !info.Mode().IsRegular()}, close: f.Close}, nil
}

// interactive tells whether somebody can be asked.
func (e *env) interactive() bool {
	f, ok := e.stdin.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// readLine reads a line that somebody types, until the context is done.
func (e *env) readLine() (string, error) {
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(e.stdin).ReadString('\n')
		if err == io.EOF && line != "" {
			err = nil
		}
		answers <- answer{line, err}
	}()
	select {
	case a := <-answers:
		return a.line, a.err
	case <-e.ctx.Done():
		return "", errors.New("no answer was given")
	}
}
