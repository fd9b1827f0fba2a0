package sbc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/media/scsi"
)

// Identity is who a disk says it is, reduced to printable ASCII.
type Identity struct {
	Vendor    string
	Product   string
	Revision  string
	Serial    string // page 80h, "" where there is none
	Name      string // the logical unit's name of page 83h, "" where there is none
	Removable bool
}

// Disk is a disk behind a transport: one logical unit of peripheral type 0
// with blocks of 512 or 4,096 bytes. OpenDisk makes one. Its methods may be
// called from several goroutines; closing the transport is the business of who
// opened it.
//
// Now and then, and whenever the disk reports that something happened to it
// (a unit attention), it is asked again who it is and how big; other answers
// than before are a *ChangedError, and the end of it.
type Disk struct {
	ctx context.Context
	t   scsi.Transport

	id        Identity
	version   uint8
	blocks    uint64
	blockSize int
	protected atomic.Bool
	unmap     uint32 // blocks of one UNMAP, 0: the disk has none

	transfer atomic.Int64 // bytes of one command at most
	moved    atomic.Int64 // bytes since it was last asked how big it is
	mu       sync.Mutex   // guards changed, and is held while asking
	changed  error

	wait func(ctx context.Context, d time.Duration) error
}

const (
	// maxVersionWithoutPages: devices of SPC-2 and before are not asked for
	// pages. Old sticks hang or reset when they are, and Linux asks none.
	maxVersionWithoutPages = 4

	// maxAttentions bounds how many unit attentions one call takes.
	maxAttentions = 8
	// maxTries bounds how often a command is sent that the device didn't carry out.
	maxTries = 3
	// readiness is how long a disk may be becoming ready, and how often it is asked.
	readiness = 15 * time.Second
	interval  = 250 * time.Millisecond

	// askAgain is after how many bytes a disk is asked again how big it is.
	askAgain = 64 << 20

	// defaultTransfer is for a transport that doesn't tell what it can carry.
	defaultTransfer = 64 << 10
	maxTransfer     = 4 << 20
	minTransfer     = 16 << 10

	// leastUnmap: a device that unmaps fewer blocks a command would need
	// millions of commands, and is taken for one that has no UNMAP.
	leastUnmap = 2048
	// mostUnmap keeps a command within its time limit.
	mostUnmap = 4 << 20
)

// OpenDisk asks the device behind t what it is, waits until its medium can be
// used, and returns it. ctx goes with all commands of the Disk: once it is
// done they fail.
//
// If t has a method MaxTransfer() int, that is how many bytes of data a
// command may have.
//
// Errors: *RefusedError when it is no plain disk, ErrNoMedium, and those of t.
func OpenDisk(ctx context.Context, t scsi.Transport) (*Disk, error) {
	d := &Disk{ctx: ctx, t: t, wait: sleep}
	if err := d.open(); err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	return d, nil
}

func (d *Disk) open() error {
	inq, err := Inquiry{}.Send(d.ctx, d.t)
	if err != nil {
		return err
	}
	if inq.Qualifier != 0 || inq.DeviceType != 0 {
		return &RefusedError{"not-a-disk", fmt.Sprintf("the device is of peripheral type %d (qualifier %d), a disk is of type 0", inq.DeviceType, inq.Qualifier)}
	}
	d.version = inq.Version
	d.id = identity(inq)
	if d.version > maxVersionWithoutPages {
		if err := d.countUnits(); err != nil {
			return err
		}
	}
	if err := d.waitReady(); err != nil {
		return err
	}
	c, err := d.capacity()
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	d.blocks, d.blockSize = c.LastLBA+1, int(c.BlockSize)
	d.transfer.Store(defaultTransfer)
	if m, ok := d.t.(interface{ MaxTransfer() int }); ok && m.MaxTransfer() > 0 {
		d.transfer.Store(int64(min(max(m.MaxTransfer(), minTransfer), maxTransfer)))
	}
	var mode *ModeHeader
	err = d.persist(func() (err error) { mode, err = ModeSense6{}.Send(d.ctx, d.t); return err })
	switch {
	case err == nil:
		d.protected.Store(mode.WriteProtected)
	case fatal(err):
		return err
	}
	if d.version > maxVersionWithoutPages {
		return d.readPages()
	}
	return nil
}

func identity(inq *InquiryData) Identity {
	return Identity{Vendor: inq.Vendor, Product: inq.Product, Revision: inq.Revision, Removable: inq.Removable}
}

// fatal reports whether after err there is no point in asking for what is
// nice to know.
func fatal(err error) bool {
	return Gone(err) || errors.Is(err, scsi.ErrTimeout) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// countUnits refuses a device that says it has more than one logical unit. One
// that can't tell is let be: it is the bus that knows.
func (d *Disk) countUnits() error {
	luns, err := ReportLUNs{}.Send(d.ctx, d.t)
	switch {
	case err != nil && fatal(err):
		return err
	case err == nil && len(luns) > 1:
		return &RefusedError{"several-units", fmt.Sprintf("the device has %d logical units, a plain disk has one", len(luns))}
	}
	return nil
}

// check refuses what is no disk's capacity.
func (c *Capacity) check() error {
	switch {
	case c.LastLBA == 0 || c.LastLBA == math.MaxUint64:
		return &RefusedError{"no-capacity", fmt.Sprintf("the disk says that its last block is %d: it has no capacity", c.LastLBA)}
	case c.BlockSize != 512 && c.BlockSize != 4096:
		return &RefusedError{"block-size", fmt.Sprintf("the disk has blocks of %d bytes, want 512 or 4096", c.BlockSize)}
	case c.LastLBA >= math.MaxInt64/uint64(c.BlockSize):
		return &RefusedError{"no-capacity", fmt.Sprintf("the disk says that it has %d blocks of %d bytes", c.LastLBA+1, c.BlockSize)}
	}
	return nil
}

// capacity asks how big the disk is.
func (d *Disk) capacity() (c *Capacity, err error) {
	err = d.persist(func() error {
		if c, err = (ReadCapacity10{}).Send(d.ctx, d.t); err == nil && c.LastLBA == math.MaxUint32 {
			c, err = ReadCapacity16{}.Send(d.ctx, d.t)
		}
		return err
	})
	return c, err
}

// readPages reads what the vital product data pages tell. A page that is
// missing or malformed is one that isn't there.
func (d *Disk) readPages() error {
	supported, err := d.page(PageSupported, nil)
	if err != nil || supported == nil {
		return err
	}
	serial, err := d.page(PageSerial, supported)
	if err != nil {
		return err
	}
	d.id.Serial = ascii(serial)
	names, err := d.page(PageIdentification, supported)
	if err != nil {
		return err
	}
	d.id.Name = unitName(names)
	provisioning, err := d.page(PageProvisioning, supported)
	if err != nil || !unmaps(provisioning) {
		return err
	}
	limits, err := d.page(PageBlockLimits, supported)
	if n := unmapLimit(limits); n >= leastUnmap {
		d.unmap = min(n, mostUnmap)
	}
	return err
}

// page returns a page, nil when the disk has none such. Only a fault of the
// way to the disk is an error.
func (d *Disk) page(code uint8, supported []byte) ([]byte, error) {
	if code != PageSupported && !slices.Contains(supported, code) {
		return nil, nil
	}
	b, err := InquiryVPD{Page: code}.Send(d.ctx, d.t)
	if err != nil && fatal(err) {
		return nil, err
	}
	if err != nil {
		return nil, nil
	}
	return b, nil
}

// unitName picks the logical unit's name: NAA before EUI-64 before the rest.
func unitName(page []byte) string {
	list, err := parseDesignators(page)
	if err != nil {
		return ""
	}
	for _, want := range []uint8{3, 2, 8, 1} {
		for _, g := range list {
			if g.Association == 0 && g.Type == want {
				return g.String()
			}
		}
	}
	return ""
}

// waitReady waits until the medium can be used. A disk that has just come
// answers with unit attentions first.
func (d *Disk) waitReady() error {
	started := false
	for waited, attentions := time.Duration(0), 0; ; {
		err := TestUnitReady{}.Send(d.ctx, d.t)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, scsi.NoMedium):
			return fmt.Errorf("%w: %w", ErrNoMedium, err)
		case errors.Is(err, scsi.AnyUnitAttention) && attentions < maxAttentions:
			attentions++
			continue
		case errors.Is(err, scsi.Code(0x2_04_02)) && !started: // an initializing command is required
			started = true
			if err := (StartStopUnit{Start: true}).Send(d.ctx, d.t); err != nil {
				return err
			}
			continue
		case !busy(err) && !errors.Is(err, scsi.BecomingReady):
			return err
		}
		if waited >= readiness {
			return fmt.Errorf("not ready after %v: %w", readiness, err)
		}
		if err := d.wait(d.ctx, interval); err != nil {
			return err
		}
		waited += interval
	}
}

// busy reports whether the device asks to be asked later.
func busy(err error) bool {
	return errors.Is(err, scsi.StatusBusy) || errors.Is(err, scsi.StatusTaskSetFull)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Identity returns who the disk says it is.
func (d *Disk) Identity() Identity { return d.id }

// Size returns the disk's size in bytes, as it claims it.
func (d *Disk) Size() int64 { return int64(d.blocks) * int64(d.blockSize) }

// BlockSize returns the size of a logical block in bytes, 512 or 4096.
func (d *Disk) BlockSize() int { return d.blockSize }

// WriteProtected reports whether the disk says that it can't be written to.
func (d *Disk) WriteProtected() bool { return d.protected.Load() }

// Gone reports whether an error of the disk says that it was taken away.
func (d *Disk) Gone(err error) bool { return Gone(err) }
