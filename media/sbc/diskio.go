package sbc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"syscall"
	"time"

	"sallyport/media/scsi"
)

// persist calls f, which sends one command, until it succeeds or it makes no
// sense to go on: unit attentions, and what the device or the way to it didn't
// carry out, are bounded.
func (d *Disk) persist(f func() error) error {
	tries, attentions, waited := 0, 0, time.Duration(0)
	for {
		err := f()
		if err == nil {
			return nil
		}
		s, sensed := errors.AsType[*scsi.SenseError](err)
		tr, lost := errors.AsType[*scsi.TransportError](err)
		switch {
		case sensed && s.Deferred && s.Key > scsi.RecoveredError:
			return &LateError{err}
		case sensed && s.Key == scsi.UnitAttention:
			if attentions++; attentions > maxAttentions {
				return fmt.Errorf("%d unit attentions in a row: %w", attentions, err)
			}
			d.moved.Store(askAgain) // whatever happened: ask before the next block
			continue
		case errors.Is(err, scsi.NoMedium):
			return fmt.Errorf("%w: %w", ErrNoMedium, err)
		case sensed && s.Key == scsi.DataProtect:
			return fmt.Errorf("%w: %w", ErrWriteProtected, err)
		case errors.Is(err, scsi.BecomingReady) && waited < readiness: // as after a reset
			if err := d.wait(d.ctx, interval); err != nil {
				return err
			}
			waited += interval
			continue
		case busy(err), sensed && s.Deferred:
		case sensed && (s.Key == scsi.AbortedCommand || s.Key == scsi.MediumError):
		case lost && !errors.Is(tr, scsi.ErrGone) && !errors.Is(tr, scsi.ErrTimeout) && tr.Host != 0:
			// The command was lost on the way. The same blocks with the same data once more do no harm.
		default:
			return err
		}
		if tries++; tries >= maxTries {
			return err
		}
		if err := d.wait(d.ctx, interval); err != nil {
			return err
		}
	}
}

// Check asks the disk whether it is still the one that was opened, of the same
// size. Errors: *ChangedError, and those of the transport.
func (d *Disk) Check() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed != nil {
		return d.changed
	}
	return d.ask()
}

// ready is Check as far as it is due.
func (d *Disk) ready() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed != nil {
		return d.changed
	}
	if d.moved.Load() < askAgain {
		return nil
	}
	return d.ask()
}

// ask asks; d.mu is held.
func (d *Disk) ask() error {
	d.moved.Store(0)
	var inq *InquiryData
	err := d.persist(func() (err error) { inq, err = Inquiry{}.Send(d.ctx, d.t); return err })
	if err != nil {
		return fmt.Errorf("check disk: %w", err)
	}
	c, err := d.capacity()
	if err != nil {
		return fmt.Errorf("check disk: %w", err)
	}
	now := identity(inq)
	for _, f := range []struct{ what, was, now string }{
		{"block size", strconv.Itoa(d.blockSize), strconv.FormatUint(uint64(c.BlockSize), 10)},
		{"number of blocks", strconv.FormatUint(d.blocks, 10), strconv.FormatUint(c.LastLBA+1, 10)},
		{"peripheral type", "0", strconv.Itoa(int(inq.DeviceType) | int(inq.Qualifier)<<5)},
		{"vendor", strconv.Quote(d.id.Vendor), strconv.Quote(now.Vendor)},
		{"product", strconv.Quote(d.id.Product), strconv.Quote(now.Product)},
		{"revision", strconv.Quote(d.id.Revision), strconv.Quote(now.Revision)},
	} {
		if f.was != f.now {
			d.changed = &ChangedError{f.what, f.was, f.now}
			return d.changed
		}
	}
	if d.id.Serial == "" {
		return nil
	}
	serial, err := InquiryVPD{Page: PageSerial}.Send(d.ctx, d.t)
	if err != nil {
		return fmt.Errorf("check disk: %w", err)
	}
	if s := ascii(serial); s != d.id.Serial {
		d.changed = &ChangedError{"serial number", strconv.Quote(d.id.Serial), strconv.Quote(s)}
	}
	return d.changed
}

// ReadAt reads from a byte offset on, any number of bytes; see io.ReaderAt.
// Errors: *MediumError, *ChangedError, ErrNoMedium, and those of the
// transport, with the blocks that were to be read.
func (d *Disk) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read disk: negative offset %d", off)
	}
	if off >= d.Size() {
		return 0, io.EOF
	}
	short := int64(len(p)) > d.Size()-off
	if short {
		p = p[:d.Size()-off]
	}
	size := int64(d.blockSize)
	for n < len(p) {
		at, rest := off+int64(n), p[n:]
		lba, skip := uint64(at/size), at%size
		if skip == 0 && int64(len(rest)) >= size {
			rest = rest[:int64(len(rest))/size*size]
			m, err := d.move(d.ctx, "read", lba, rest, readBlocks)
			n += m
			if err != nil {
				return n, err
			}
			continue
		}
		// The blocks around it, one command's worth of them.
		around := (skip + int64(len(rest)) + size - 1) / size * size
		block := make([]byte, min(around, d.transfer.Load()/size*size))
		if m, err := d.move(d.ctx, "read", lba, block, readBlocks); err != nil {
			return n + copy(rest, block[min(skip, int64(m)):m]), err
		}
		n += copy(rest, block[skip:])
	}
	if short {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes whole blocks: off and len(p) are multiples of the block size,
// and end within the disk; else nothing is written. What was written may be in
// the disk's cache until Sync.
// Errors: ErrWriteProtected, *MediumError, *LateError, *ChangedError,
// ErrNoMedium, and those of the transport, with the blocks that were to be
// written.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if err := d.whole("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	if d.protected.Load() {
		return 0, fmt.Errorf("write disk: %w", ErrWriteProtected)
	}
	return d.move(d.ctx, "write", uint64(off/int64(d.blockSize)), p, writeBlocks)
}

// whole refuses an extent that isn't one of whole blocks of the disk.
func (d *Disk) whole(op string, off, n int64) error {
	size := int64(d.blockSize)
	switch {
	case off < 0 || n < 0 || off > d.Size() || n > d.Size()-off:
		return fmt.Errorf("%s disk: %d bytes at byte %d leave the disk of %d bytes", op, n, off, d.Size())
	case off%size != 0 || n%size != 0:
		return fmt.Errorf("%s disk: %d bytes at byte %d are not whole blocks of %d bytes", op, n, off, size)
	}
	return nil
}

// move reads or writes p, whole blocks, from lba on, as many in one command as
// the way to the disk carries. n counts the bytes of commands that succeeded.
func (d *Disk) move(ctx context.Context, op string, lba uint64, p []byte, one func(context.Context, scsi.Transport, uint64, int, []byte) error) (n int, err error) {
	size := int64(d.blockSize)
	for n < len(p) {
		// Asked within f as well: after a unit attention no block is moved before the disk has said who it is.
		at := lba + uint64(int64(n)/size)
		part := p[n:]
		if most := max(d.transfer.Load()/size, 1) * size; int64(len(part)) > most {
			part = part[:most]
		}
		err := d.persist(func() error {
			if err := d.ready(); err != nil {
				return err
			}
			return one(ctx, d.t, at, d.blockSize, part)
		})
		switch {
		case err == nil:
			n += len(part)
			d.moved.Add(int64(len(part)))
			continue
		case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOMEM):
			// The kernel can't carry so much in one command. Whatever the transport says of it, half as much may do.
			if now := d.transfer.Load(); now/2 >= minTransfer && int64(len(part)) > now/2 {
				d.transfer.CompareAndSwap(now, now/2)
				continue
			}
		}
		return n, d.fault(op, at, len(part)/int(size), err)
	}
	return n, nil
}

// fault says of an error what was being done, and where the medium is bad.
func (d *Disk) fault(op string, lba uint64, blocks int, err error) error {
	if _, ok := errors.AsType[*ChangedError](err); ok {
		return err
	}
	s, ok := errors.AsType[*scsi.SenseError](err)
	if ok && s.Key == scsi.MediumError && !s.Deferred {
		bad := lba
		if s.InfoValid && s.Info >= lba && s.Info < lba+uint64(blocks) {
			bad = s.Info
		}
		err = &MediumError{bad, err}
	}
	if errors.Is(err, ErrWriteProtected) {
		d.protected.Store(true)
	}
	return fmt.Errorf("%s disk: %d blocks from %d on: %w", op, blocks, lba, err)
}

// Sync waits until what was written is on the medium, and checks that the disk
// is still the same.
// Errors: *LateError when a write failed behind its back, and those of Check.
func (d *Disk) Sync() error {
	err := d.persist(func() error { return SynchronizeCache10{}.Send(d.ctx, d.t) })
	// A disk without the command has no cache that it would be for.
	if err != nil && !errors.Is(err, scsi.InvalidOpcode) {
		return fmt.Errorf("sync disk: %w", err)
	}
	return d.Check()
}

// Discard tells the disk that n bytes from off on, whole blocks, are needed no
// more. What they read as afterwards is not defined. A disk that has no UNMAP
// is an errors.ErrUnsupported.
func (d *Disk) Discard(off, n int64) error {
	if err := d.whole("discard on", off, n); err != nil {
		return err
	}
	if d.unmap == 0 {
		return fmt.Errorf("discard on disk: %w", errors.ErrUnsupported)
	}
	if d.protected.Load() {
		return fmt.Errorf("discard on disk: %w", ErrWriteProtected)
	}
	size := int64(d.blockSize)
	for lba, end := uint64(off/size), uint64((off+n)/size); lba < end; {
		c := Unmap{LBA: lba, Blocks: uint32(min(uint64(d.unmap), end-lba))}
		err := d.persist(func() error {
			if err := d.ready(); err != nil {
				return err
			}
			return c.Send(d.ctx, d.t)
		})
		switch {
		case lba == uint64(off/size) && errors.Is(err, scsi.AnyIllegalRequest):
			return fmt.Errorf("discard on disk: %w: %w", errors.ErrUnsupported, err)
		case err != nil:
			return d.fault("discard on", lba, int(c.Blocks), err)
		}
		lba += uint64(c.Blocks)
	}
	return nil
}

// Stop flushes the disk and tells it that it will be pulled out.
func (d *Disk) Stop() error {
	if err := d.Sync(); err != nil {
		return err
	}
	err := StartStopUnit{}.Send(d.ctx, d.t)
	if err != nil && !errors.Is(err, scsi.AnyIllegalRequest) {
		return fmt.Errorf("stop disk: %w", err)
	}
	return nil
}
