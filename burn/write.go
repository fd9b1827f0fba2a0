package burn

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"sallyport/burn/mmc"
	"sallyport/media/scsi"
)

// maxSyncs bounds how often one packet is sent again after SYNCHRONIZE CACHE
// (O3).
const maxSyncs = 3

// writeAll writes the image, and zeros behind it up to what the medium needs.
// Before the last chunk goes out the image's digest is known and checked, and
// what its source has to say: an image that changed ends on a disc that was
// never closed.
func (b *burner) writeAll(ctx context.Context, src *stream, first []byte) error {
	p := newPace(b.unit, b.opts.Patience)
	b.phaseBegins(PhaseWrite)
	for chunk, last := first, false; !last; {
		following, err := src.next(ctx)
		switch {
		case err == io.EOF:
			last = true
			err = b.sourceEnds(src.sum.Sum(nil))
		case err != nil:
			err = imageError(ctx, err)
		}
		if err != nil {
			return err
		}
		p.rest() // a slow source is not the drive's fault
		if err := b.writeChunk(ctx, chunk, p); err != nil {
			return err
		}
		b.progress(b.lba)
		src.recycle(chunk)
		chunk = following
	}
	for b.lba < b.total {
		if err := b.writeChunk(ctx, make([]byte, min(packet, b.total-b.lba)*BlockSize), p); err != nil {
			return err
		}
	}
	return nil
}

// writeChunk writes one chunk from b.lba on.
func (b *burner) writeChunk(ctx context.Context, chunk []byte, p *pace) error {
	for off := 0; off < len(chunk); off += packet * BlockSize {
		end := min(off+packet*BlockSize, len(chunk))
		data := b.padded(chunk[off:end])
		if err := b.writePacket(ctx, data); err != nil {
			return err
		}
		b.lba += uint32(len(data) / BlockSize)
		p.earn(time.Duration(len(data)/BlockSize) * perBlock)
		if err := p.check(); err != nil {
			return err
		}
	}
	return nil
}

func imageError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &ImageError{fmt.Errorf("reading the image: %w", err)}
}

// padded extends the image's last packet to whole ECC blocks, where it is: the
// chunk that data ends has room for that.
func (b *burner) padded(data []byte) []byte {
	n := whole(len(data), int(b.medium.ecc)*BlockSize)
	clear(data[len(data):n])
	return data[:n]
}

// writePacket writes data at b.lba, sending it again as often as the drive
// asks for that (O2, O3), in bounded time. Every other answer ends the burn.
func (b *burner) writePacket(ctx context.Context, data []byte) error {
	deadline := b.Now().Add(stallLimit)
	pause := b.drainTime(len(data))
	for syncs := 0; ; {
		if err := b.room(ctx, len(data), deadline); err != nil {
			return err
		}
		first := !b.begun
		err := b.do(ctx, func(ctx context.Context, t scsi.Transport) error {
			b.begun = true
			return mmc.Write{LBA: b.lba}.Send(ctx, t, data)
		})
		switch {
		case err == nil:
			b.free -= int64(len(data))
			return nil
		case deferred(err):
			return b.writeError(err)
		case errors.Is(err, scsi.LongWriteInProgress):
			b.free = 0
			if b.Now().After(deadline) {
				return fmt.Errorf("no progress in %v at LBA %d: %w", stallLimit, b.lba, err)
			}
			if err := b.Wait(ctx, pause); err != nil {
				return err
			}
			pause = min(2*pause, pollEvery)
		case (errors.Is(err, scsi.OperationInProgress) || errors.Is(err, scsi.SequenceError)) && syncs < maxSyncs:
			syncs++
			if err := b.flush(ctx); err != nil {
				return err
			}
		case first && illegal(err) && b.blank(ctx):
			// The drive refuses this disc, and hasn't touched it (O9).
			b.begun = false
			return refusal(err, b.needed())
		case first && errors.Is(err, calibrationFailed) && b.blank(ctx):
			b.begun = false // O6, on a medium that is calibrated with the first write
			return notCalibrated(err)
		default:
			return b.writeError(err)
		}
		b.retries++
	}
}

// writeError says what an error in mid-burn means (O4, O5).
func (b *burner) writeError(err error) error {
	var s *scsi.SenseError
	if !errors.As(err, &s) {
		return err
	}
	if s.Key == scsi.UnitAttention {
		return fmt.Errorf("the drive was reset or its disc changed during the burn: %w", err)
	}
	if s.InfoValid && (s.Key == scsi.MediumError || s.Key == scsi.HardwareError) && s.Info < uint64(b.total) {
		b.lba = uint32(s.Info)
	}
	return err
}

// room waits until the drive's buffer takes n bytes more. A drive that doesn't
// tell is asked by writing.
func (b *burner) room(ctx context.Context, n int, deadline time.Time) error {
	for floor := time.Duration(0); b.free < int64(n) && !b.untold; {
		c, err := ask(ctx, b.unit, mmc.ReadBufferCapacity{}.Send)
		switch {
		case unsupported(err):
			b.untold = true
			return nil
		case inProgress(err):
			c = &mmc.BufferCapacity{Length: 1 << 20}
		case err != nil:
			return b.writeError(err)
		}
		b.free = int64(min(c.Blank, c.Length))
		if b.free >= int64(n) || c.Length <= uint32(n) && b.free == int64(c.Length) {
			return nil
		}
		if b.Now().After(deadline) {
			return fmt.Errorf("the drive's buffer took nothing in %v at LBA %d: %w", stallLimit, b.lba, ErrTooSlow)
		}
		// Half empty: the laser never runs dry, and few commands are spent
		// on asking.
		pause := max(floor, b.drainTime(max(n, int(c.Length/2))-int(b.free)))
		if err := b.Wait(ctx, pause); err != nil {
			return err
		}
		floor = min(2*pause, pollEvery)
	}
	return nil
}

// drainTime returns how long the drive takes to write n bytes, within reason.
func (b *burner) drainTime(n int) time.Duration {
	kbs := max(b.rec.SpeedKBs, b.medium.oneX)
	return min(max(time.Duration(n)*time.Millisecond/time.Duration(kbs), 5*time.Millisecond), pollEvery)
}

// flush makes the drive write its buffer and waits for that.
func (b *burner) flush(ctx context.Context) error {
	err := b.do(ctx, mmc.SynchronizeCache{Immediate: true}.Send)
	if unsupported(err) {
		err = b.do(ctx, mmc.SynchronizeCache{}.Send)
	}
	if err != nil && !inProgress(err) {
		return b.writeError(err)
	}
	if err := b.settle(ctx, settleLimit); err != nil {
		return b.writeError(err)
	}
	b.free = 0
	return nil
}

// closeDisc flushes the buffer and closes track, session and disc (O7); a disc
// at once closes itself when its last block is flushed.
func (b *burner) closeDisc(ctx context.Context) error {
	b.phaseBegins(PhaseClose)
	if err := b.flush(ctx); err != nil {
		return fmt.Errorf("flushing the drive's buffer: %w", err)
	}
	disc, err := ask(ctx, b.unit, mmc.ReadDiscInformation{}.Send)
	if err != nil {
		return b.writeError(err)
	}
	if disc.Status != mmc.DiscComplete {
		if !b.dao {
			if err := b.close(ctx, mmc.CloseTrackSession{Function: mmc.CloseTrack, Track: 1}); err != nil {
				return fmt.Errorf("closing the track: %w", b.writeError(err))
			}
		}
		if err := b.finalise(ctx); err != nil {
			return fmt.Errorf("closing the disc: %w", b.writeError(err))
		}
		if disc, err = ask(ctx, b.unit, mmc.ReadDiscInformation{}.Send); err != nil {
			return b.writeError(err)
		}
	}
	if disc.Status != mmc.DiscComplete || disc.LastSession != mmc.SessionComplete || disc.Sessions != 1 {
		return fmt.Errorf("the drive closed the disc, and says that it is not complete (status %d, last session %d, %d sessions)",
			disc.Status, disc.LastSession, disc.Sessions)
	}
	b.rec.Medium.UniqueID, err = b.uniqueID(ctx, disc)
	if err != nil {
		return b.writeError(err)
	}
	return nil
}

// finalise closes the disc for good.
func (b *burner) finalise(ctx context.Context) (err error) {
	for _, function := range b.medium.finalise {
		if err = b.close(ctx, mmc.CloseTrackSession{Function: function}); !unsupported(err) {
			return err
		}
	}
	return err
}

// uniqueID reads what tells this disc from others of its make.
func (b *burner) uniqueID(ctx context.Context, disc *mmc.DiscInformation) (string, error) {
	switch {
	case b.medium.profile == mmc.DVDR:
		return b.structure(ctx, mmc.ReadDiscStructure{Format: mmc.StructureUniqueID}.Send, mmc.UniqueID)
	case disc.IDValid:
		return fmt.Sprintf("%08x", disc.ID), nil
	}
	return "", nil
}

// close sends one close command and waits until the drive has carried it out.
func (b *burner) close(ctx context.Context, c mmc.CloseTrackSession) error {
	c.Immediate = true
	err := b.do(ctx, c.Send)
	if unsupported(err) {
		c.Immediate = false
		err = b.do(ctx, c.Send)
	}
	if err != nil && !inProgress(err) {
		return err
	}
	return b.settle(ctx, settleLimit)
}

// sourceEnds checks what went through the stream against what was announced.
func (b *burner) sourceEnds(sum []byte) error {
	b.rec.ImageSHA256 = hex.EncodeToString(sum)
	if want := b.image.SHA256; want != nil && string(want) != string(sum) {
		return &ImageError{fmt.Errorf("the image changed: its SHA-256 is %x, want %x", sum, want)}
	}
	if b.image.Finish == nil {
		return nil
	}
	if err := b.image.Finish(); err != nil {
		return &ImageError{err}
	}
	return nil
}
