package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"sallyport/media"
	"sallyport/media/enrol"
	"sallyport/media/sbc"
	"sallyport/media/scsi"
)

// targetMedium is what a stick is to those that write to it.
type targetMedium interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Size() int64    // bytes
	BlockSize() int // bytes
	Discard(off, n int64) error
	Gone(err error) bool
}

// target is a stick that may be written to, opened for nobody else. Close it when done.
type target struct {
	targetMedium
	node     string // as the user calls it
	disk     media.Disk
	identity enrol.Identity
	reserves []media.Reserve
	close    func() error
}

func (t *target) Close() error {
	if t.close == nil {
		return nil
	}
	closing := t.close
	t.close = nil
	return closing()
}

// what names the stick for people.
func (t *target) what() string { return diskText(t.disk) }

func diskText(d media.Disk) string {
	text := strings.Join(strings.Fields(d.Vendor+" "+d.Model), " ")
	if text == "" {
		text = "a disk"
	}
	if d.Serial == "" {
		return printable(text) + " without a serial number"
	}
	return fmt.Sprintf("%s, serial number %s", printable(text), printable(d.Serial))
}

// openTarget opens a stick or card that may be written to, by the node of its block device or, where no block driver is
// bound to it, by its generic one.
func (e *env) openTarget(name string, reserves []media.Reserve) (*target, error) {
	disks, err := media.Disks(reserves...)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(disks, func(d media.Disk) bool { return name != "" && (d.Device == name || d.Generic == name) })
	if at < 0 {
		return nil, usagef("%s is no disk, stick or card of this machine: sallyport media list shows them", name)
	}
	return e.openDisk(name, disks[at], reserves)
}

func (e *env) openDisk(name string, d media.Disk, reserves []media.Reserve) (*target, error) {
	chosen, err := d.Target()
	if err != nil {
		return nil, err
	}
	t := &target{node: name, disk: d, reserves: reserves}
	if d.Device != "" {
		err = t.openBlock(chosen)
	} else {
		err = t.openGeneric(e.ctx, chosen)
	}
	if err != nil {
		return nil, err
	}
	t.identity = enrol.Identity{
		BlockSize: t.BlockSize(), Size: t.Size(),
		Descriptor: descriptorHash(d.USB), Vendor: recordText(d.Vendor), Product: recordText(d.Model), Revision: recordText(d.Rev), Serial: recordText(d.Serial),
	}
	return t, nil
}

// recordText makes a device's text one that a record can hold.
func recordText(s string) string {
	const most = 256 // bytes; a USB string has at most 126 UTF-16 units
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func (t *target) openBlock(chosen media.Target) error {
	f, err := chosen.Open()
	if err != nil {
		return err
	}
	m, err := newBlockMedium(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	t.targetMedium, t.close = m, f.Close
	return nil
}

func (t *target) openGeneric(ctx context.Context, chosen media.Target) error {
	device, err := scsi.OpenDisk(t.disk.Generic)
	if err != nil {
		return deviceError(t.node, err)
	}
	disk, err := sbc.OpenDisk(ctx, device)
	if err == nil && disk.WriteProtected() {
		err = &media.RefusedError{Code: media.CodeReadOnly, Detail: "it is write-protected"}
	}
	if err == nil {
		err = chosen.Confirm() // and the node is the one that is open
	}
	if err != nil {
		return errors.Join(about(t.node, fmt.Errorf("write to %s: %w", t.node, err)), device.Close())
	}
	t.targetMedium, t.close = disk, device.Close
	return nil
}

// replugTime is how long somebody has to pull a stick out and put it in again.
const replugTime = 15 * time.Minute

// replug has somebody pull the stick out and put it in again, and opens it anew. It may come back at another port and
// under another name, but it has to say the same of itself.
func (e *env) replug(ctx context.Context, t *target) error {
	if err := t.Close(); err != nil {
		return err
	}
	fmt.Fprintf(e.stderr, "pull the stick out now and put it in again: %s\n", t.what())
	ctx, cancel := context.WithTimeoutCause(ctx, replugTime, fmt.Errorf("nobody pulled %s out and put it in again within %v", t.node, replugTime))
	defer cancel()
	w := replugging{e: e, before: t.disk, reserves: t.reserves, others: map[string]bool{}}
	for {
		now, err := w.look()
		if err != nil {
			return err
		}
		if now != nil {
			again, err := e.openDisk(now.node, now.disk, t.reserves)
			if err != nil {
				return err
			}
			if again.identity != t.identity {
				return errors.Join(&media.RefusedError{Code: media.CodeOtherDisk, Detail: fmt.Sprintf("the stick came back with %d bytes in blocks of %d, and had %d in blocks of %d", again.Size(), again.BlockSize(), t.identity.Size, t.identity.BlockSize)}, again.Close())
			}
			*t = *again
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// replugging waits for a stick.
type replugging struct {
	e        *env
	before   media.Disk
	reserves []media.Reserve
	gone     bool
	others   map[string]bool // sticks that were told of
}

type replugged struct {
	node string
	disk media.Disk
}

// look returns the stick once it was gone and is there again.
func (w *replugging) look() (*replugged, error) {
	disks, err := media.Disks(w.reserves...)
	if err != nil {
		return nil, err
	}
	there := false
	for _, d := range disks {
		if !w.alike(d) || d.Device != "" && d.Size == 0 { // another one, or a reader without its card
			continue
		}
		there = true
		if w.gone || !w.sameArrival(d) {
			node := d.Device
			if node == "" {
				node = d.Generic
			}
			return &replugged{node, d}, nil
		}
	}
	if !there {
		w.gone = true
		w.tellOthers(disks)
	}
	return nil, nil
}

func (w *replugging) alike(d media.Disk) bool {
	b := w.before
	return d.Vendor == b.Vendor && d.Model == b.Model && d.Rev == b.Rev && d.Serial == b.Serial && descriptorHash(d.USB) == descriptorHash(b.USB)
}

// sameArrival says whether it wasn't pulled out since: a USB device has another number each time that it comes.
func (w *replugging) sameArrival(d media.Disk) bool {
	return d.USB == nil || w.before.USB == nil || d.USB.Name == w.before.USB.Name && d.USB.Number == w.before.USB.Number
}

// tellOthers says that what was put in meanwhile isn't the stick.
func (w *replugging) tellOthers(disks []media.Disk) {
	for _, d := range disks {
		if d.USB == nil || w.alike(d) {
			continue
		}
		if name := d.USB.Name + " " + diskText(d); !w.others[name] && d.USB.Name == w.before.USB.Name {
			w.others[name] = true
			fmt.Fprintf(w.e.stderr, "that is another stick: %s\n", diskText(d))
		}
	}
}
