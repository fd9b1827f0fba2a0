package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"sallyport/media"
	"sallyport/media/usb"
)

type mediaCmd struct {
	List  mediaListCmd  `cmd:"" help:"Show disks, sticks and cards, and what is held at the USB ports."`
	Watch mediaWatchCmd `cmd:"" help:"Say what is plugged in and pulled out, until interrupted."`
	Gate  mediaGateCmd  `cmd:"" help:"Close the USB ports, and let in what a policy allows."`
}

// mediaPolicy names the file that says which ports belong to the station itself.
type mediaPolicy struct {
	Policy string `type:"existingfile" help:"The USB policy (docs/usb-policy.md): disks at its ports with \"as\" are the station's own." placeholder:"FILE"`
}

// reserves says what disks are there for.
func (p mediaPolicy) reserves() ([]media.Reserve, error) {
	if p.Policy == "" {
		return nil, nil
	}
	text, err := os.ReadFile(p.Policy)
	if err != nil {
		return nil, pathError(err)
	}
	policy, err := usb.ParsePolicy(p.Policy, text)
	if err != nil {
		return nil, usagef("%v", err)
	}
	return []media.Reserve{media.ReservedBy(policy)}, nil
}

// listedDisk is a disk, with stable names.
type listedDisk struct {
	Device    string   `json:"device,omitempty"`
	Generic   string   `json:"generic,omitempty"`
	Vendor    string   `json:"vendor"`
	Model     string   `json:"model"`
	Rev       string   `json:"rev"`
	Serial    string   `json:"serial"`
	Bus       string   `json:"bus"`
	Place     string   `json:"place"`
	Port      string   `json:"port,omitempty"`
	Hash      string   `json:"descriptors_sha256,omitempty"`
	Size      int64    `json:"size"` // in bytes, -1 when no driver is bound
	BlockSize int      `json:"block_size"`
	Removable bool     `json:"removable"`
	ReadOnly  bool     `json:"read_only"`
	Uses      []string `json:"uses"`
	Target    bool     `json:"target"`
	Because   string   `json:"no_target_because,omitempty"`
}

// heldDevice is a USB device that has no driver.
type heldDevice struct {
	Name    string `json:"name"`
	Port    string `json:"port"`
	Product string `json:"product"`
	Claims  string `json:"claims"`
	Hash    string `json:"descriptors_sha256,omitempty"`
}

type mediaListResult struct {
	Disks []listedDisk `json:"disks"`
	Held  []heldDevice `json:"held"`
}

func (d *listedDisk) node() string {
	if d.Device != "" {
		return d.Device
	}
	return d.Generic
}

// what is the disk's name for people.
func (d *listedDisk) what() string {
	return printable(strings.Join(strings.Fields(d.Vendor+" "+d.Model), " "))
}

func (d *listedDisk) sizeText() string {
	if d.Size < 0 {
		return "-"
	}
	return bytesText(d.Size)
}

func (h *heldDevice) claims() string { return "claims to be " + printable(h.Claims) }

func (r *mediaListResult) text(w io.Writer) {
	if len(r.Disks) == 0 {
		fmt.Fprintln(w, "no disk, stick or card found")
	} else {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "DEVICE\tBUS\tSIZE\tDISK\tSERIAL\tTO WRITE TO")
		for _, d := range r.Disks {
			use := "yes"
			if !d.Target {
				use = "no: " + printable(d.Because)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(d.node()), orDash(d.Bus), d.sizeText(), orDash(d.what()), orDash(printable(d.Serial)), use)
		}
		table.Flush()
	}
	for _, h := range r.Held {
		fmt.Fprintf(w, "held at port %s: %s, %s\n", printable(h.Port), orDash(printable(h.Product)), h.claims())
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (c *mediaListCmd) Help() string {
	return `Nothing is opened or asked. TO WRITE TO says whether sallyport would write to a disk: never to one that is built in, in
use, or the station's own. A device that is held at a USB port has no driver; what it claims to be is its own word.

Example: sallyport media list`
}

type mediaListCmd struct{ mediaPolicy }

func (c *mediaListCmd) run(e *env) (result, error) {
	reserves, err := c.reserves()
	if err != nil {
		return nil, err
	}
	r, err := lookAtMedia(reserves)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// lookAtMedia lists what is plugged in now.
func lookAtMedia(reserves []media.Reserve) (*mediaListResult, error) {
	disks, err := media.Disks(reserves...)
	if err != nil {
		return nil, err
	}
	r := &mediaListResult{Disks: []listedDisk{}, Held: []heldDevice{}}
	for _, d := range disks {
		r.Disks = append(r.Disks, listDisk(d))
	}
	sys := os.DirFS("/sys")
	names, err := usb.List(sys)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without USB
		return nil, err
	}
	for _, name := range names {
		a, err := usb.Look(sys, name)
		if errors.Is(err, usb.ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if a.Authorized {
			continue
		}
		h := heldDevice{Name: a.Name, Port: a.Port, Product: strings.TrimSpace(a.Manufacturer + " " + a.Product), Claims: "nothing that can be read"}
		if h.Port == "" {
			h.Port = a.Name
		}
		if a.Descriptors != nil {
			h.Claims = a.Descriptors.Claims()
			h.Hash = descriptorHash(a)
		}
		r.Held = append(r.Held, h)
	}
	return r, nil
}

func descriptorHash(a *usb.Attached) string {
	if a == nil || a.Descriptors == nil || a.Malformed != nil {
		return ""
	}
	return a.Descriptors.Hash()
}

func listDisk(d media.Disk) listedDisk {
	l := listedDisk{
		Device: d.Device, Generic: d.Generic, Vendor: d.Vendor, Model: d.Model, Rev: d.Rev, Serial: d.Serial, Bus: d.Bus, Place: d.Place,
		Size: d.Size, BlockSize: d.BlockSize, Removable: d.Removable, ReadOnly: d.ReadOnly, Uses: []string{},
	}
	if d.USB != nil {
		l.Port, l.Hash = d.USB.Port, descriptorHash(d.USB)
	}
	for _, u := range d.Uses {
		l.Uses = append(l.Uses, u.String())
	}
	_, err := d.Target()
	var refused *media.RefusedError
	switch {
	case err == nil:
		l.Target = true
	case errors.As(err, &refused):
		l.Because = strings.TrimPrefix(refused.Detail, "write to "+l.node()+": ")
	default:
		l.Because = err.Error()
	}
	return l
}

type mediaWatchCmd struct{ mediaPolicy }

func (c *mediaWatchCmd) Help() string {
	return `A line for each disk, stick, card and held USB device that is there, and then for each that comes, goes or changes. With
--json, an object a line: event ("there", "added", "removed", "changed"), and disk or held. It watches until it is
interrupted, and changes nothing.

Example: sallyport media watch`
}

// mediaEvent is one line of watch.
type mediaEvent struct {
	Event string      `json:"event"`
	Disk  *listedDisk `json:"disk,omitempty"`
	Held  *heldDevice `json:"held,omitempty"`
}

func (v *mediaEvent) line() string {
	if v.Held != nil {
		return fmt.Sprintf("%-8s held at port %s: %s, %s", v.Event, printable(v.Held.Port), orDash(printable(v.Held.Product)), v.Held.claims())
	}
	use := "to write to"
	if !v.Disk.Target {
		use = "not to write to: " + printable(v.Disk.Because)
	}
	return fmt.Sprintf("%-8s %s: %s, %s, serial %s, %s", v.Event, printable(v.Disk.node()), orDash(v.Disk.what()), v.Disk.sizeText(), orDash(printable(v.Disk.Serial)), use)
}

// same tells whether two lists' entries are the same thing, though it may have changed.
func (d *listedDisk) same(other *listedDisk) bool {
	return d.node() == other.node() && d.Place == other.Place && d.Serial == other.Serial
}

// differences are the events from before to after: what has gone first.
func differences(before, after *mediaListResult) []mediaEvent {
	var events []mediaEvent
	for i := range before.Disks {
		d := &before.Disks[i]
		if !slices.ContainsFunc(after.Disks, func(o listedDisk) bool { return d.same(&o) }) {
			events = append(events, mediaEvent{Event: "removed", Disk: d})
		}
	}
	for i := range before.Held {
		if !slices.Contains(after.Held, before.Held[i]) {
			events = append(events, mediaEvent{Event: "removed", Held: &before.Held[i]})
		}
	}
	for i := range after.Disks {
		d := &after.Disks[i]
		switch at := slices.IndexFunc(before.Disks, func(o listedDisk) bool { return d.same(&o) }); {
		case at < 0:
			events = append(events, mediaEvent{Event: "added", Disk: d})
		case before.Disks[at].changed(d):
			events = append(events, mediaEvent{Event: "changed", Disk: d})
		}
	}
	for i := range after.Held {
		if !slices.Contains(before.Held, after.Held[i]) {
			events = append(events, mediaEvent{Event: "added", Held: &after.Held[i]})
		}
	}
	return events
}

func (d *listedDisk) changed(now *listedDisk) bool {
	a, b := *d, *now
	a.Uses, b.Uses = nil, nil
	return fmt.Sprint(a) != fmt.Sprint(b) || !slices.Equal(d.Uses, now.Uses)
}

// rescanTime is how long nothing may be heard before sysfs is looked at again: uses come and go without a uevent.
const rescanTime = 5 * time.Second

type mediaWatchResult struct{}

func (*mediaWatchResult) text(io.Writer) {}

func (c *mediaWatchCmd) run(e *env) (result, error) {
	reserves, err := c.reserves()
	if err != nil {
		return nil, err
	}
	// Listening begins before the first look, so that nothing comes between them.
	events, err := media.ListenUevents()
	if err != nil {
		return nil, err
	}
	defer events.Close()
	ctx, cancel := context.WithCancelCause(e.ctx)
	wake := make(chan struct{}, 1)
	go func() {
		cancel(events.Wake(ctx, wake, func(u media.Uevent) bool {
			return u.Subsystem == "block" || u.Subsystem == "usb" || u.Subsystem == "scsi_generic"
		}))
	}()
	defer cancel(nil)
	before := &mediaListResult{}
	first := true
	for {
		now, err := lookAtMedia(reserves)
		if err != nil {
			return nil, err
		}
		for _, v := range differences(before, now) {
			if first {
				v.Event = "there"
			}
			if err := e.watched(&v); err != nil {
				return nil, err
			}
		}
		before, first = now, false
		select {
		case <-wake:
		case <-time.After(rescanTime):
		case <-ctx.Done():
			if e.ctx.Err() != nil { // the way to end it
				return &mediaWatchResult{}, nil
			}
			return nil, context.Cause(ctx)
		}
	}
}

// watched prints one line of watch.
func (e *env) watched(v *mediaEvent) error {
	if e.json {
		return json.NewEncoder(e.stdout).Encode(v)
	}
	_, err := fmt.Fprintln(e.stdout, v.line())
	return err
}
