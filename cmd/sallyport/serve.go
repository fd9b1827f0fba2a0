package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"time"

	"sallyport/burn/drivesim"
	"sallyport/burn/drivesim/iscsi"
	"sallyport/burn/mmc"
)

// targetName is the simulated recorder's iSCSI name; it is LUN 1 there.
const targetName = "iqn.2026-11.org.sallyport:drive"

type driveServeCmd struct {
	Medium   string  `required:"" enum:"dvd-r,dvd+r,cd-r,bd-r" help:"The kind of the disc: ${enum}." placeholder:"KIND"`
	Image    string  `required:"" type:"path" help:"The disc: a file, and its state beside it in FILE.json. A blank one is made when there is none." placeholder:"FILE"`
	Capacity uint32  `help:"Of the disc, in blocks of 2,048 bytes (default: a real one's)." placeholder:"BLOCKS"`
	Faults   string  `type:"path" help:"What shall go wrong, a line each." placeholder:"FILE"`
	Listen   string  `default:"127.0.0.1:3260" help:"Address and port; port 0 takes a free one. Only loopback: nobody has to log in." placeholder:"ADDRESS"`
	Scale    float64 `default:"1" help:"How many times as fast as the wall's the drive's clock goes."`
	Speed    int     `help:"The drive's fastest writing, in kB/s (default: 16x for DVD, 48x for CD, 6x for BD)." placeholder:"KBPS"`
	Once     bool    `help:"End when the first initiator has gone."`
}

func (c *driveServeCmd) Help() string {
	return `The line that it prints when it is ready is an address for QEMU's and libiscsi's programs. It serves until it is
interrupted. The disc remembers what was written to it.

Example: sallyport drive serve --medium dvd-r --image disc.img
then:    qemu-system-x86_64 ... -device virtio-scsi-pci -device scsi-generic,drive=dvd \
           -drive if=none,id=dvd,format=raw,file=iscsi://127.0.0.1:3260/` + targetName + `/1`
}

var servedMedia = map[string]mmc.Profile{"dvd-r": mmc.DVDR, "dvd+r": mmc.DVDPlusR, "cd-r": mmc.CDR, "bd-r": mmc.BDR}

type driveServeResult struct {
	URL string `json:"url"`
}

func (r *driveServeResult) text(w io.Writer) {}

func (c *driveServeCmd) run(e *env) (_ result, err error) {
	address, err := netip.ParseAddrPort(c.Listen)
	switch {
	case err != nil:
		return nil, usagef("--listen %s: give a numerical address and a port, as in 127.0.0.1:3260", c.Listen)
	case !address.Addr().IsLoopback():
		return nil, usagef("--listen %s: only on loopback, since whoever can connect can burn", c.Listen)
	case !(c.Scale > 0) || math.IsInf(c.Scale, 0):
		return nil, usagef("--scale %v: give a positive number", c.Scale)
	case c.Speed < 0:
		return nil, usagef("--speed %d: give a positive number of kB/s", c.Speed)
	}
	faults, err := c.readFaults()
	if err != nil {
		return nil, err
	}
	drive, err := drivesim.OpenImage(c.Image, drivesim.Config{Profile: servedMedia[c.Medium], Capacity: c.Capacity, Speed: c.Speed}, faults)
	if err != nil {
		return nil, pathError(err)
	}
	// The disc lies in the drive for a while. To libiscsi, and to QEMU by it, a
	// disc that spins up is no device at all.
	if err := drive.Wait(e.ctx, time.Minute); err != nil {
		return nil, errors.Join(err, drive.Close())
	}
	drive.Follow(c.Scale)
	// Switched off as soon as it is to end: a command that takes its time then comes back.
	ctx, cancel := context.WithCancel(e.ctx)
	closed := make(chan error, 1)
	context.AfterFunc(ctx, func() { closed <- drive.Close() })
	defer func() {
		cancel()
		err = errors.Join(err, <-closed)
	}()
	listener, err := net.Listen("tcp", address.String())
	if err != nil {
		return nil, err
	}
	url := fmt.Sprintf("iscsi://%s/%s/1", listener.Addr(), targetName)
	if code := e.announce(url); code != nil {
		return nil, errors.Join(code, listener.Close())
	}
	target := iscsi.Target{Name: targetName, LUN: drive, Once: c.Once, Failed: func(peer net.Addr, err error) {
		if !e.quiet {
			fmt.Fprintf(e.stderr, "sallyport drive serve: %s: %s\n", peer, oneLine(err))
		}
	}}
	return &driveServeResult{url}, target.Serve(ctx, listener)
}

// announce says, before the end, that there is somebody to be called.
func (e *env) announce(url string) error {
	if e.json {
		_, err := fmt.Fprintf(e.stdout, "{\"url\":%q}\n", url)
		return err
	}
	_, err := fmt.Fprintln(e.stdout, url)
	return err
}

func (c *driveServeCmd) readFaults() ([]drivesim.Fault, error) {
	if c.Faults == "" {
		return nil, nil
	}
	f, err := os.Open(c.Faults)
	if err != nil {
		return nil, pathError(err)
	}
	defer f.Close()
	faults, err := drivesim.ParseFaults(f)
	if err != nil {
		return nil, usagef("--faults %s: %v", c.Faults, err)
	}
	return faults, nil
}
