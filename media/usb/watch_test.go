package usb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// watched runs Watch and hands on what it tells.
type watched struct {
	t      *testing.T
	last   *Session
	wake   chan struct{}
	events chan Event
	stop   context.CancelCauseFunc
	ended  chan error
}

func watchGate(t *testing.T, g *Gate) *watched {
	ctx, stop := context.WithCancelCause(t.Context())
	w := &watched{t: t, wake: make(chan struct{}, 1), events: make(chan Event, 100), stop: stop, ended: make(chan error, 1)}
	go func() { w.ended <- g.Watch(ctx, w.wake, func(e Event) { w.events <- e }) }()
	return w
}

// next gives the next n events, each in a few words, sorted.
func (w *watched) next(n int) []string {
	w.t.Helper()
	var list []string
	for range n {
		w.nudge()
		select {
		case e := <-w.events:
			list = append(list, describe(e))
			w.last = e.Session
		case <-time.After(20 * time.Second):
			w.t.Fatalf("no event after %q", list)
		}
	}
	slices.Sort(list)
	return list
}

func (w *watched) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func describe(e Event) string {
	text := e.Name
	if e.Session != nil {
		text += " " + string(e.Session.Class)
	}
	if e.Err != nil {
		text += " " + codeOf(e.Err)
	}
	if e.Gone {
		text += " gone"
	}
	return text
}

func (w *watched) want(want ...string) {
	w.t.Helper()
	if got := w.next(len(want)); !slices.Equal(got, want) {
		w.t.Errorf("got %q, want %q", got, want)
	}
}

func (w *watched) end() {
	w.t.Helper()
	stopped := errors.New("stopped")
	w.stop(stopped)
	if err := <-w.ended; err != stopped {
		w.t.Errorf("%v, want the cause", err)
	}
	select {
	case e := <-w.events:
		w.t.Errorf("and then %s", describe(e))
	default:
	}
}

func TestWatch(t *testing.T) {
	k := newFakeKernel(t)
	k.plug("1-1", &fakeDevice{sample: "stick", early: true, units: []string{"0"}})
	k.plug("1-2", &fakeDevice{sample: "stick and keyboard", early: true})
	k.plug("1-3", &fakeDevice{sample: "hub", early: true})
	k.plug("1-3.1", &fakeDevice{sample: "stick", early: true, units: []string{"0"}}) // it goes with a hub that isn't let in
	w := watchGate(t, k.gate(allowAll...))
	w.want("1-1 stick", "1-2 "+CodeMixed, "1-3 "+CodePolicy)

	stick := k.plug("1-5", &fakeDevice{sample: "uas stick", units: []string{"0"}})
	w.want("1-5 stick")
	k.plug("1-6", &fakeDevice{sample: "stick", units: []string{"0", "5"}})
	w.want("1-6 " + CodeUnits)
	k.pull("1-6")
	w.want("1-6 gone")
	k.pull("1-5")
	w.want("1-5 stick gone")
	k.plug("1-5", &fakeDevice{sample: "keyboard"})
	w.want("1-5 keyboard")
	if stick.authorized != true {
		t.Error("a device that was gone was written to") // its directory was, and no other one
	}

	// U2: other descriptors end the session.
	d := k.devices["1-1"]
	k.mu.Lock()
	d.descriptors = samples["keyboard"].descriptors
	d.show()
	k.mu.Unlock()
	w.want("1-1 stick " + CodeChanged)
	if k.text(d.dir+"/authorized") != "0" {
		t.Error("it is still in")
	}
	// Once told, it is not judged again where it is.
	before := k.count(d.dir + "/authorized 1")
	k.plug("1-7", &fakeDevice{sample: "telephone"})
	w.want("1-7 " + CodeClass)
	if after := k.count(d.dir + "/authorized 1"); after != before {
		t.Error("a device that was put out was let in again")
	}
	// Somebody is done with one, and pulls it out later.
	k.plug("1-8", &fakeDevice{sample: "stick", units: []string{"0"}})
	w.want("1-8 stick")
	if err := w.last.End(); err != nil {
		t.Error(err)
	}
	k.plug("1-9", &fakeDevice{sample: "telephone"})
	w.want("1-9 " + CodeClass)
	k.pull("1-8")
	w.want("1-8 gone")
	// U2: in place of one that stays out comes another at once, and is judged.
	k.pull("1-9")
	k.plug("1-9", &fakeDevice{sample: "stick", units: []string{"0"}})
	w.want("1-9 gone", "1-9 stick")
	w.end()
}

// TestWatchHalfGone: a device that sysfs hasn't taken away whole is gone, and no fault is told of it; one that stays so is
// a fault.
func TestWatchHalfGone(t *testing.T) {
	k := newFakeKernel(t)
	leaving := k.plug("1-1", &fakeDevice{sample: "stick", units: []string{"0"}})
	w := watchGate(t, k.gate(allowAll...))
	w.want("1-1 stick")
	before := k.count(leaving.dir + "/authorized 0")
	k.remove(leaving.dir + "/descriptors")
	for k.count(leaving.dir+"/authorized 0") == before { // until it was looked at, and put out
		w.nudge()
		time.Sleep(time.Millisecond)
	}
	w.nudge()
	k.pull("1-1")
	w.want("1-1 stick gone")

	broken := k.plug("1-2", &fakeDevice{sample: "stick", units: []string{"0"}})
	w.want("1-2 stick")
	k.remove(broken.dir + "/descriptors")
	w.want("1-2 stick fault")
	w.end()
}

// TestWatchHub: what is behind a hub is let in only once the hub was, and by what it is itself.
func TestWatchHub(t *testing.T) {
	k := newFakeKernel(t)
	k.plug("1-4", &fakeDevice{sample: "hub", onAuthorize: func(d *fakeDevice) {
		d.k.plugLocked("1-4.1", &fakeDevice{sample: "stick", units: []string{"0"}})
		d.k.plugLocked("1-4.2", &fakeDevice{sample: "hub"})
		d.k.plugLocked("1-4.3", &fakeDevice{sample: "stick and network"})
	}})
	k.plug("1-3", &fakeDevice{sample: "telephone"})
	w := watchGate(t, k.gate(allowAll...))
	w.want("1-3 "+CodeClass, "1-4 hub", "1-4.1 stick", "1-4.2 "+CodePolicy, "1-4.3 "+CodeMixed)
	log := k.log()
	hub := slices.Index(log, k.devices["1-4"].dir+"/authorized 1")
	if at := slices.Index(log, k.devices["1-4.1"].dir+"/authorized 1"); hub < 0 || at < hub {
		t.Errorf("%q", log)
	}
	behind := k.plug("1-3.1", &fakeDevice{sample: "stick", units: []string{"0"}}) // what is no hub
	k.pull("1-4")
	w.want("1-4 hub gone", "1-4.1 stick gone", "1-4.2 gone", "1-4.3 gone")
	w.end()
	if k.count(behind.dir+"/authorized 1") != 0 {
		t.Error("let in behind what stays out")
	}
}

// TestWatchEight: a silent device keeps none of the others waiting, and all get a verdict of their own.
func TestWatchEight(t *testing.T) {
	k := newFakeKernel(t)
	g := k.gate("allow stick")
	g.patience = time.Hour
	stuck := make(chan struct{})
	k.plug("1-1", &fakeDevice{sample: "stick", units: []string{"0"}, stuck: stuck})
	var want []string
	for i := 2; i <= 8; i++ {
		name := fmt.Sprintf("1-%d", i)
		if i%2 == 0 {
			k.plug(name, &fakeDevice{sample: "stick", units: []string{"0"}})
			want = append(want, name+" stick")
		} else {
			k.plug(name, &fakeDevice{sample: "stick and serial line"})
			want = append(want, name+" "+CodeMixed)
		}
	}
	w := watchGate(t, g)
	w.want(want...)
	close(stuck)
	w.want("1-1 stick")
	w.end()
}

// TestWatchEnds: what is on its way in when Watch ends stays out.
func TestWatchEnds(t *testing.T) {
	k := newFakeKernel(t)
	g := k.gate("allow stick")
	g.patience = time.Hour
	stuck := make(chan struct{})
	d := k.plug("1-1", &fakeDevice{sample: "stick", units: []string{"0"}, stuck: stuck})
	w := watchGate(t, g)
	for k.count(d.dir+"/authorized 1") == 0 {
		time.Sleep(time.Millisecond)
	}
	w.end()
	close(stuck)
	for k.count(d.dir+"/authorized 0") < 2 {
		time.Sleep(time.Millisecond)
	}
	if k.count("bus/usb/drivers_probe 1-1:1.0") != 0 {
		t.Error("it was let in")
	}
	// Without sysfs there is nothing to watch.
	k.remove("bus/usb/devices")
	if err := g.Watch(t.Context(), nil, nil); !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "watch usb devices: ") {
		t.Errorf("%v", err)
	}
}
