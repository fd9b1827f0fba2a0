package drivesim

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"sallyport/media/scsi"
)

func (d *Drive) read(r *request) (int, error) {
	lba, n, _ := r.blocks()
	if uint64(len(r.data.In)) < uint64(n)*blockSize {
		return 0, &scsi.TransportError{Err: fmt.Errorf("room for %d bytes, %d blocks asked", len(r.data.In), n)}
	}
	if d.rec.started && d.rec.recorded < d.rec.received {
		return 0, d.longWrite()
	}
	if uint64(lba)+uint64(n) > uint64(d.readable()) {
		return 0, sense(0x52100)
	}
	if err := d.spend(r, rate(int64(n)*blockSize, d.readSpeed)); err != nil {
		return 0, err
	}
	d.fail(d.file(0))
	if d.broken != nil {
		return 0, nil // Do reports it
	}
	p := r.data.In[:int(n)*blockSize]
	good, err := d.readBlocks(p, lba)
	if err != nil {
		return good, err
	}
	for _, f := range r.flips {
		f.eachBlock(r, func(_ uint32, off int) { p[off+f.N] ^= 1 })
	}
	return len(p), nil
}

// readCD is READ CD (MMC-5 6.20) for the user data of data tracks.
func (d *Drive) readCD(r *request) (int, error) {
	_, n, _ := r.blocks()
	kind := r.cdb[1] >> 2 & 7
	switch {
	case !d.kind().isCD():
		return 0, sense(0x53002)
	case n == 0 || r.cdb[9] == 0 && r.cdb[10] == 0:
		return 0, nil
	case r.cdb[9] != 0x10 || r.cdb[10] != 0 || kind != 0 && kind != 2:
		return 0, sense(0x52400)
	}
	return d.read(r)
}

// verify reads without handing anything out (MMC-5 6.44).
func (d *Drive) verify(r *request) (int, error) {
	lba, n, _ := r.blocks()
	if r.cdb[1]&2 != 0 {
		return 0, sense(0x52400) // no comparison by the drive
	}
	if uint64(lba)+uint64(n) > uint64(d.readable()) {
		return 0, sense(0x52100)
	}
	return 0, d.spend(r, rate(int64(n)*blockSize, d.readSpeed))
}

func (d *Drive) seek(r *request) (int, error) {
	if lba := r.u32(2); lba > d.readable() {
		return 0, sense(0x52100)
	}
	return 0, nil
}

func (d *Drive) readCapacity(r *request) (int, error) {
	b := make([]byte, 8)
	if n := d.readable(); n > 0 {
		put32(b, n-1)
	}
	put32(b[4:], blockSize)
	return r.reply(b, len(b))
}

// readBlocks reads what the host gets to see from lba on: what is recorded,
// the drive's cache over it, and what faults put behind it. What lies between
// tracks can't be read. It returns how many bytes stand before the first block
// that can't be.
func (d *Drive) readBlocks(p []byte, lba uint32) (int, error) {
	end := d.recordedEnd()
	for off := 0; off < len(p); {
		at := lba + uint32(off/blockSize)
		n := min((len(p)-off)/blockSize, int(d.runAt(at)))
		switch {
		case n > 0:
			if !d.fromImage(p[off:off+n*blockSize], at) {
				return 0, nil // Do reports it
			}
		case at < end:
			return off, parsed(fixedSense(0x70, 0x31100, &at))
		default:
			n = 1
			switch block := p[off : off+blockSize]; d.behind(at - end) {
			case Padding:
				clear(block)
			case Surplus:
				copy(block, bytes.Repeat([]byte{0x5A}, blockSize))
			default:
				return off, parsed(fixedSense(0x70, 0x31100, &at))
			}
		}
		off += n * blockSize
	}
	return len(p), nil
}

// runAt returns how many blocks from lba on are recorded in the track that lba
// lies in.
func (d *Drive) runAt(lba uint32) uint32 {
	for i := range d.st.Disc.Tracks {
		start := d.st.Disc.Tracks[i].Start
		if n := d.recordedIn(i); lba >= start && lba-start < n {
			return start + n - lba
		}
	}
	return 0
}

// fromImage fills p with recorded blocks.
func (d *Drive) fromImage(p []byte, lba uint32) bool {
	n, err := d.img.ReadAt(p, int64(lba)*blockSize)
	if n < len(p) {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		d.fail(err)
		return false
	}
	if len(d.cache) > 0 {
		for i := range len(p) / blockSize {
			if b, ok := d.cache[lba+uint32(i)]; ok {
				copy(p[i*blockSize:], b)
			}
		}
	}
	return true
}
