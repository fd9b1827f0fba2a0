package qemutests

import (
	"bytes"
	"fmt"
	"net"
	"regexp"
	"sync"
	"time"
)

// maxConsole is the most that is kept of a console, in bytes.
const maxConsole = 4 << 20

// console keeps what a guest writes to its serial line.
type console struct {
	conn net.Conn

	mu    sync.Mutex
	text  []byte
	seen  int           // up to where Expect came
	more  chan struct{} // closed when text grows
	ended bool
}

func newConsole(conn net.Conn) *console {
	c := &console{conn: conn, more: make(chan struct{})}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			c.mu.Lock()
			c.text = append(c.text, bytes.ReplaceAll(buf[:n], []byte("\r"), nil)...)
			if over := len(c.text) - maxConsole; over > 0 {
				c.text = c.text[over:]
				c.seen = max(0, c.seen-over)
			}
			c.ended = err != nil
			close(c.more)
			c.more = make(chan struct{})
			c.mu.Unlock()
			if err != nil {
				conn.Close()
				return
			}
		}
	}()
	return c
}

func (c *console) expect(pattern string, limit time.Duration) (string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return "", err
	}
	over := time.After(limit)
	for {
		c.mu.Lock()
		if at := re.FindIndex(c.text[c.seen:]); at != nil {
			found := string(c.text[c.seen+at[0] : c.seen+at[1]])
			c.seen += at[1]
			c.mu.Unlock()
			return found, nil
		}
		rest, more, ended := string(c.text[c.seen:]), c.more, c.ended
		c.mu.Unlock()
		if ended {
			return "", fmt.Errorf("ended without %q: %s", pattern, rest)
		}
		select {
		case <-more:
		case <-over:
			return "", fmt.Errorf("no %q within %v: %s", pattern, limit, rest)
		}
	}
}

// tail is the end of the console, n bytes at most.
func (c *console) tail(n int) string {
	if c == nil {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text[max(0, len(c.text)-n):])
}

// tailWriter keeps the end of what a program says.
type tailWriter struct {
	mu sync.Mutex
	b  []byte
}

func (w *tailWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b = append(w.b, p...)
	w.b = w.b[max(0, len(w.b)-1<<16):]
	return len(p), nil
}

func (w *tailWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(bytes.TrimSpace(w.b))
}
