package qemutests

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const qmpLimit = time.Minute

// qmp is QEMU's monitor (QEMU Machine Protocol): JSON objects both ways.
type qmp struct {
	mu   sync.Mutex
	conn net.Conn
	dec  *json.Decoder
}

// message is anything that QEMU says.
type message struct {
	QMP    json.RawMessage
	Event  string
	Return json.RawMessage
	Error  *struct{ Class, Desc string }
}

func newQMP(conn net.Conn) (*qmp, error) {
	q := &qmp{conn: conn, dec: json.NewDecoder(conn)}
	if err := conn.SetDeadline(time.Now().Add(qmpLimit)); err != nil {
		return nil, err
	}
	var hello message
	if err := q.dec.Decode(&hello); err != nil || hello.QMP == nil {
		return nil, fmt.Errorf("QMP: no greeting: %w", err)
	}
	_, err := q.do("qmp_capabilities", nil)
	return q, err
}

func (q *qmp) do(command string, arguments any) (json.RawMessage, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	b, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	if err := q.conn.SetDeadline(time.Now().Add(qmpLimit)); err != nil {
		return nil, err
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return nil, err
	}
	for {
		var m message
		if err := q.dec.Decode(&m); err != nil {
			return nil, err
		}
		switch {
		case m.Error != nil:
			return nil, errors.New(m.Error.Desc)
		case m.Event == "":
			return m.Return, nil
		}
	}
}
