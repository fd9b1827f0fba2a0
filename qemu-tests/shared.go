package qemutests

import (
	"fmt"
	"sync"
	"testing"
)

var (
	exitMu sync.Mutex
	onExit []func()
)

// atExit has f called behind the last test.
func atExit(f func()) {
	exitMu.Lock()
	defer exitMu.Unlock()
	onExit = append(onExit, f)
}

// Main runs the tests of a package, ends the guest that they shared, and returns the exit status: for TestMain.
func Main(m *testing.M) int {
	code := m.Run()
	common.end()
	exitMu.Lock()
	defer exitMu.Unlock()
	for _, f := range onExit {
		f()
	}
	return code
}

// common is the guest that tests share.
var common = sharedGuest{free: sync.NewCond(new(sync.Mutex))}

type sharedGuest struct {
	free  *sync.Cond // users became 0
	key   string
	m     *Machine
	users int
}

// Shared is a guest that many tests use, as each finds it: what one test leaves in /tmp or loads, the next one sees.
// It runs on until a test asks for another kind of guest, or until the package's TestMain, which has to call Main,
// ends it. A test that may harm the guest starts one of its own. A test must not ask for two kinds.
func Shared(t testing.TB, g Guest) *Machine {
	t.Helper()
	m, err := common.get(g)
	if err != nil {
		t.Fatalf("starting a guest: %v", err)
	}
	t.Cleanup(func() {
		common.put()
		if t.Failed() {
			m.report(t)
		}
	})
	return m
}

func (s *sharedGuest) get(g Guest) (*Machine, error) {
	key := fmt.Sprintf("%+v", g)
	s.free.L.Lock()
	defer s.free.L.Unlock()
	for s.m != nil && s.key != key && s.users > 0 {
		s.free.Wait()
	}
	if s.m != nil && (s.key != key || s.m.lost()) {
		s.stop()
	}
	if s.m == nil {
		slots <- struct{}{}
		m, err := start(g)
		if err != nil {
			<-slots
			return nil, err
		}
		s.m, s.key = m, key
	}
	s.users++
	return s.m, nil
}

func (s *sharedGuest) put() {
	s.free.L.Lock()
	defer s.free.L.Unlock()
	if s.users--; s.users == 0 {
		s.free.Broadcast()
	}
}

func (s *sharedGuest) end() {
	s.free.L.Lock()
	defer s.free.L.Unlock()
	if s.m != nil {
		s.stop()
	}
}

func (s *sharedGuest) stop() {
	s.m.stop()
	s.m = nil
	<-slots
}
