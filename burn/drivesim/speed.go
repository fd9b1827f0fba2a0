package drivesim

import "encoding/binary"

// getPerformance is GET PERFORMANCE (MMC-5 6.8): the speed in effect, and the
// speeds of writing to choose from.
func (d *Drive) getPerformance(r *request) (int, error) {
	most := r.u16(8)
	var list [][]byte
	head := byte(0)
	last := uint32(0)
	if d.present() && d.spun {
		last = max(d.readable(), 1) - 1
		if d.st.Disc.status() != complete {
			last = max(d.st.Disc.Capacity, 1) - 1
		}
	}
	switch r.cdb[10] {
	case 0x00:
		write := r.cdb[1]&4 != 0
		speed := d.readSpeed
		if write {
			head, speed = 2, d.writeSpeed
		}
		if r.cdb[1]&3 != 0 { // exceptions: there are none
			head |= 1
			break
		}
		p := make([]byte, 16)
		put32(p[4:], uint32(speed))
		put32(p[8:], last)
		put32(p[12:], uint32(speed))
		list = append(list, p)
	case 0x03:
		for _, speed := range d.writeSpeeds() {
			p := make([]byte, 16)
			put32(p[4:], last)
			put32(p[8:], uint32(d.st.Drive.Speed))
			put32(p[12:], uint32(speed))
			list = append(list, p)
		}
	default:
		return 0, sense(0x52400)
	}
	b := make([]byte, 8)
	put32(b, uint32(4+16*len(list))) // all that there are, however many are asked for
	b[4] = head
	for _, p := range list[:min(most, len(list))] {
		b = append(b, p...)
	}
	return r.reply(b, len(b))
}

func (d *Drive) writeSpeeds() []int { return d.kind().writeSpeeds(d.st.Drive.Speed) }

func (d *Drive) setStreaming(r *request) (int, error) {
	p := r.data.Out
	if len(p) != 28 || r.u16(9) != 28 {
		return 0, sense(0x51A00)
	}
	if p[0]&4 != 0 {
		d.readSpeed, d.writeSpeed = d.st.Drive.Speed, d.st.Drive.Speed
		return len(p), nil
	}
	rate := func(off int) int {
		size, ms := binary.BigEndian.Uint32(p[off:]), binary.BigEndian.Uint32(p[off+4:])
		return int(min(uint64(size)*1000/uint64(max(ms, 1)), maxSpeed))
	}
	d.setSpeed(rate(12), rate(20))
	return len(p), nil
}

func (d *Drive) setCDSpeed(r *request) (int, error) {
	d.setSpeed(r.u16(2), r.u16(4))
	return 0, nil
}

// setSpeed takes, of reading, the nearest speed between 1× and the drive's
// fastest; of writing, the fastest one that the drive has for this medium and
// that is no faster, FFFFh and 0 being the fastest.
func (d *Drive) setSpeed(read, write int) {
	d.readSpeed = min(max(read, d.kind().oneX), d.st.Drive.Speed)
	list := d.writeSpeeds()
	d.writeSpeed = list[len(list)-1]
	for _, s := range list {
		if s <= write || write == 0 || write == 0xFFFF {
			d.writeSpeed = s
			break
		}
	}
}
